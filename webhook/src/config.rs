//! The flags.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use pullpass_core::policy::Policy;
use pullpass_daemon::{Installation, Options};

/// The longest bound on a wait that may be asked for; the API server itself gives a webhook at most 30 s.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Appends the pull secret's name to the pods of every namespace that a Registry selects
#[derive(Clone, Debug, Parser)]
#[command(name = "pullpass-webhook")]
pub struct Config {
    /// Flags of every process of Pullpass.
    #[command(flatten)]
    pub options: Options,

    /// Where admission reviews are taken, over TLS, at the path /inject
    #[arg(
        long,
        env = "PULLPASS_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "0.0.0.0:10250"
    )]
    pub listen: SocketAddr,

    /// What is set for the whole installation.
    #[command(flatten)]
    pub installation: Installation,

    /// Secret with the serving certificate, in Pullpass's own namespace
    #[arg(
        long,
        env = "PULLPASS_SERVING_SECRET",
        value_name = "NAME",
        default_value = "pullpass-webhook-tls"
    )]
    pub serving_secret: String,

    /// Directory with tls.crt and tls.key, instead of the Secret
    #[arg(long, env = "PULLPASS_SERVING_DIRECTORY", value_name = "DIRECTORY")]
    pub serving_directory: Option<PathBuf>,

    /// How long the first pods of a new namespace may be held back until its pull secret is there
    #[arg(long, env = "PULLPASS_WAIT", value_name = "DURATION", default_value = "1s", value_parser = wait)]
    pub wait: Duration,

    /// How many pods may be held back at a time; further ones are answered at once
    #[arg(
        long,
        env = "PULLPASS_MAX_WAITERS",
        value_name = "COUNT",
        default_value_t = 512
    )]
    pub max_waiters: usize,

    /// How many connections are held at a time; each API server keeps up to 25 idle ones, and one for each pod that is
    /// being created
    #[arg(
        long,
        env = "PULLPASS_MAX_CONNECTIONS",
        value_name = "COUNT",
        default_value_t = 1024
    )]
    pub max_connections: usize,
}

impl AsRef<Options> for Config {
    fn as_ref(&self) -> &Options {
        &self.options
    }
}

impl Config {
    /// The policy as far as flags decide it: everything but the registries.
    pub fn policy_frame(&self) -> Policy {
        Policy {
            cluster_name: self.installation.cluster_name(),
            own_namespaces: BTreeSet::from([self.installation.namespace.clone()]),
            admitted_system_namespaces: self.installation.system_namespaces(),
            registries: Vec::new(),
        }
    }
}

fn wait(text: &str) -> Result<Duration, String> {
    let wait = text
        .parse::<jiff::SignedDuration>()
        .map_err(|_| "write a duration such as 1s or 500ms".to_owned())?;
    Duration::try_from(wait)
        .ok()
        .filter(|wait| *wait <= LONGEST_WAIT)
        .ok_or_else(|| format!("write a duration from 0s to {}s", LONGEST_WAIT.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn parse(args: &[&str]) -> Result<Config, clap::Error> {
        Config::try_parse_from([&["pullpass-webhook"], args].concat())
    }

    #[test]
    fn no_flag_is_required() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.wait, Duration::from_secs(1));
        assert_eq!(config.listen.port(), 10250);
        let frame = config.policy_frame();
        assert_eq!(frame.cluster_name, None);
        assert!(frame.own_namespaces.contains("pullpass-system"));
        assert!(frame.admitted_system_namespaces.is_empty());
    }

    #[test]
    fn names_reach_the_policy() {
        let frame = parse(&[
            "--cluster-name=prod",
            "--namespace=own",
            "--system-namespaces=kube-system,own",
        ])
        .unwrap()
        .policy_frame();
        assert_eq!(frame.cluster_name.as_deref(), Some("prod"));
        assert_eq!(frame.own_namespaces, BTreeSet::from(["own".to_owned()]));
        assert_eq!(frame.admitted_system_namespaces.len(), 2);
    }

    #[rstest]
    #[case("0s", Some(0))]
    #[case("500ms", Some(500))]
    #[case("10s", Some(10_000))]
    #[case("11s", None)]
    #[case("-1s", None)]
    #[case("soon", None)]
    fn a_wait_is_a_short_duration(#[case] text: &str, #[case] millis: Option<u64>) {
        let config = parse(&[&format!("--wait={text}")]).ok();
        assert_eq!(
            config.map(|config| config.wait),
            millis.map(Duration::from_millis)
        );
    }
}
