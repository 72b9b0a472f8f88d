//! The flags.

use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};
use pullpass_core::bundle::{KUBELET_CACHE, Mode};
use pullpass_core::match_images::MatchImages;
use pullpass_daemon::{Installation, Options, ProviderPorts};
use pullpass_providers::connection::{Proxies, ProxyError, Via};
use pullpass_providers::login::Endpoints;

use crate::world::{PullSecrets, Settings};

const SHORTEST_INTERVAL: Duration = Duration::from_secs(5 * 60);
const LONGEST_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// Keeps the pull secret of each namespace, the webhook's certificates and the status of Registries up to date
#[derive(Clone, Debug, Parser)]
#[command(name = "pullpass-controller", args_conflicts_with_subcommands = false)]
pub struct Config {
    /// Flags of every process of Pullpass.
    #[command(flatten)]
    pub options: Options,

    /// Flags of the controller.
    #[command(flatten)]
    pub controller: ControllerOptions,

    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What else the controller can do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Revoke and delete everything that the controller has written, then end
    Uninstall,
}

/// Flags of the controller.
#[derive(Clone, Debug, Args)]
pub struct ControllerOptions {
    /// What is set for the whole installation.
    #[command(flatten)]
    pub installation: Installation,

    /// Whether namespaces get pull secrets: true or false
    #[arg(
        long,
        env = "PULLPASS_PULL_SECRETS",
        value_name = "BOOL",
        default_value_t = true,
        action = ArgAction::Set
    )]
    pub pull_secrets: bool,

    /// How nodes hold credentials: dockerConfig or credentialProvider [default: they do not]
    #[arg(long, env = "PULLPASS_NODES", value_name = "MODE")]
    pub nodes: Option<Mode>,

    /// What kubelet asks the plugin about.
    #[command(flatten)]
    pub provider_ports: ProviderPorts,

    /// Have nodes give up everything that they hold of Pullpass
    #[arg(long, env = "PULLPASS_WITHDRAW_NODES")]
    pub withdraw_nodes: bool,

    /// Take the taint pullpass.dev/agent-not-ready off nodes that hold what they need
    #[arg(long, env = "PULLPASS_STARTUP_TAINT")]
    pub startup_taint: bool,

    /// Seconds for which kubelet may go on with what it has read from a docker config file
    #[arg(
        long,
        env = "PULLPASS_KUBELET_CACHE",
        value_name = "SECONDS",
        default_value_t = KUBELET_CACHE.as_secs()
    )]
    pub kubelet_cache: u64,

    /// Who holds the Lease: different for each process [default: the host's name]
    #[arg(long, env = "PULLPASS_IDENTITY", value_name = "NAME")]
    pub identity: Option<String>,

    /// Lease by which one of several controllers does the work
    #[arg(
        long,
        env = "PULLPASS_LEASE",
        value_name = "NAME",
        default_value = "pullpass-controller"
    )]
    pub lease: String,

    /// Secret for the webhook's serving certificate, in Pullpass's own namespace
    #[arg(
        long,
        env = "PULLPASS_SERVING_SECRET",
        value_name = "NAME",
        default_value = "pullpass-webhook-tls"
    )]
    pub serving_secret: String,

    /// MutatingWebhookConfiguration whose caBundle is kept up to date
    #[arg(
        long,
        env = "PULLPASS_WEBHOOK_CONFIGURATION",
        value_name = "NAME",
        default_value = "pullpass"
    )]
    pub webhook_configuration: String,

    /// The webhook's Service, in Pullpass's own namespace
    #[arg(
        long,
        env = "PULLPASS_WEBHOOK_SERVICE",
        value_name = "NAME",
        default_value = "pullpass-webhook"
    )]
    pub webhook_service: String,

    /// How often a good credential is verified anew at its registry, such as 1h; 0s: none is ever verified
    #[arg(long, env = "PULLPASS_VERIFY_INTERVAL", value_name = "DURATION", default_value = "1h", value_parser = interval)]
    pub verify_interval: Duration,

    /// The controller's own service account, for tokens by which it logs in to clouds
    #[arg(
        long,
        env = "PULLPASS_SERVICE_ACCOUNT",
        value_name = "NAME",
        default_value = "pullpass-controller"
    )]
    pub service_account: String,

    /// Proxy to registries and clouds, for https
    #[arg(
        long,
        env = "HTTPS_PROXY",
        value_name = "URL",
        default_value = "",
        hide_env_values = true
    )]
    pub https_proxy: String,

    /// Proxy to registries and clouds, for http
    #[arg(
        long,
        env = "HTTP_PROXY",
        value_name = "URL",
        default_value = "",
        hide_env_values = true
    )]
    pub http_proxy: String,

    /// Hosts, domains and networks that are reached without a proxy
    #[arg(long, env = "NO_PROXY", value_name = "NAME,…", default_value = "")]
    pub no_proxy: String,

    /// Where the clouds are; not a flag, since each cloud's own variables say it to its own SDK.
    #[arg(skip)]
    pub endpoints: Endpoints,
}

/// Registries limit how often they are asked, and a day is the longest that a revoked password should go unnoticed.
fn interval(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "write a duration from 5m to 24h, such as 1h, or 0s";
    let interval: jiff::SignedDuration = text.trim().parse().map_err(|_| EXPECTED.to_owned())?;
    Duration::try_from(interval)
        .ok()
        .filter(|interval| {
            interval.is_zero() || (SHORTEST_INTERVAL..=LONGEST_INTERVAL).contains(interval)
        })
        .ok_or_else(|| EXPECTED.to_owned())
}

impl AsRef<Options> for Config {
    fn as_ref(&self) -> &Options {
        &self.options
    }
}

impl ControllerOptions {
    /// The way to registries and clouds where a Registry names none.
    ///
    /// # Errors
    /// An address of a proxy that is none.
    pub(crate) fn way(&self) -> Result<Via, ProxyError> {
        Proxies::from_environment(&self.https_proxy, &self.http_proxy, &self.no_proxy)
            .map(|proxies| Via::Proxies(Box::new(proxies)))
    }

    /// What the decisions rest on, the way to registries aside.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            namespace: self.installation.namespace.clone(),
            cluster_name: self.installation.cluster_name(),
            system_namespaces: self.installation.system_namespaces(),
            pull_secret_name: self.installation.pull_secret_name.clone(),
            serving_secret: self.serving_secret.clone(),
            pull_secrets: if self.pull_secrets {
                PullSecrets::On
            } else {
                PullSecrets::Off
            },
            nodes: self.nodes,
            match_images: match self.nodes {
                Some(Mode::CredentialProvider) => {
                    Some(MatchImages::new(self.provider_ports.iter()))
                }
                Some(Mode::DockerConfig) | None => None,
            },
            withdraw_nodes: self.withdraw_nodes,
            startup_taint: self.startup_taint,
            // a plugin's answers are not kept
            kubelet_cache: match self.nodes {
                Some(Mode::DockerConfig) => Duration::from_secs(self.kubelet_cache),
                Some(Mode::CredentialProvider) | None => Duration::ZERO,
            },
            verify_interval: Some(self.verify_interval).filter(|interval| !interval.is_zero()),
            via: Via::Direct,
        }
    }

    /// Who this process is in the election.
    ///
    /// # Errors
    /// The host has no name that can be told.
    pub fn identity(&self) -> Result<String, NoIdentity> {
        if let Some(identity) = self.identity.as_ref().filter(|name| !name.is_empty()) {
            return Ok(identity.clone());
        }
        rustix::system::uname()
            .nodename()
            .to_str()
            .ok()
            .filter(|name| !name.is_empty())
            .map(ToOwned::to_owned)
            .ok_or(NoIdentity)
    }
}

/// The host has no name.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the host has no name: give --identity")]
pub struct NoIdentity;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        Config::command().debug_assert();
    }

    #[test]
    fn flags_come_before_the_subcommand_as_the_chart_writes_them() {
        let config = Config::try_parse_from([
            "pullpass-controller",
            "--namespace=own",
            "--system-namespaces=kube-system,kube-public",
            "uninstall",
        ])
        .unwrap();
        assert!(matches!(config.command, Some(Command::Uninstall)));
        let settings = config.controller.settings();
        assert_eq!(settings.namespace, "own");
        assert_eq!(settings.system_namespaces.len(), 2);
        for own in [
            "pullpass",
            "pullpass-ca",
            "pullpass-webhook-tls",
            "pullpass-credential-acme",
        ] {
            assert!(settings.is_written_by_us(own), "{own}");
        }
        assert!(!settings.is_written_by_us("pullpass-source"));
        assert_eq!(settings.cluster_name, None);
    }

    #[test]
    fn credentials_are_verified_at_an_interval_or_not_at_all() {
        let parse = |flags: &[&str]| {
            let config = Config::try_parse_from([&["pullpass-controller"], flags].concat());
            config.map(|config| config.controller.settings().verify_interval)
        };
        assert_eq!(parse(&[]).unwrap(), Some(Duration::from_secs(3600)));
        assert_eq!(parse(&["--verify-interval=0s"]).unwrap(), None);
        for wrong in ["1s", "25h", "hourly", "-1h"] {
            assert!(
                parse(&[&format!("--verify-interval={wrong}")]).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn without_an_identity_it_is_the_hosts_name() {
        let config = Config::try_parse_from(["pullpass-controller"]).unwrap();
        let mut controller = config.controller;
        controller.identity = None;
        assert!(!controller.identity().unwrap().is_empty());
        controller.identity = Some("me".into());
        assert_eq!(controller.identity().unwrap(), "me");
    }
}
