//! The flags.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use pullpass_core::bundle::Mode;
use pullpass_daemon::Options;

/// Gives this node's kubelet the credentials that the controller has put into the node bundle
#[derive(Clone, Debug, Parser)]
#[command(name = "pullpass-node-agent")]
pub struct Config {
    /// Flags of every process of Pullpass.
    #[command(flatten)]
    pub options: Options,

    /// Flags of the node agent.
    #[command(flatten)]
    pub agent: AgentOptions,

    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What else the node agent can do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Take everything of Pullpass off this node's kubelet, without asking the API server, then end
    Uninstall,
}

/// Flags of the node agent.
#[derive(Clone, Debug, Args)]
pub struct AgentOptions {
    /// The node's name [required to run]
    #[arg(long, env = "PULLPASS_NODE", value_name = "NAME", default_value = "")]
    pub node: String,

    /// The node agent's namespace, which holds the node bundle
    #[arg(
        long,
        env = "PULLPASS_NODES_NAMESPACE",
        value_name = "NAME",
        default_value = "pullpass-nodes"
    )]
    pub namespace: String,

    /// The node agent's DaemonSet: once it is deleted, the node is left as it was before
    #[arg(
        long,
        env = "PULLPASS_NODE_DAEMON_SET",
        value_name = "NAME",
        default_value = "pullpass-node-agent"
    )]
    pub daemon_set: String,

    /// How kubelet is given credentials: dockerConfig or credentialProvider
    #[arg(
        long,
        env = "PULLPASS_NODE_MODE",
        value_name = "MODE",
        default_value = "dockerConfig"
    )]
    pub mode: Mode,

    /// Where the host's directories are mounted, each under its own path
    #[arg(
        long,
        env = "PULLPASS_HOST",
        value_name = "DIRECTORY",
        default_value = "/host"
    )]
    pub host: PathBuf,

    /// The host's directory for kubelet's docker config: kubelet's root directory, or /.docker
    #[arg(
        long,
        env = "PULLPASS_DOCKER_CONFIG_DIRECTORY",
        value_name = "DIRECTORY",
        default_value = "/var/lib/kubelet"
    )]
    pub docker_config_directory: PathBuf,

    /// Directories of the host that kubelet looks for a docker config in after that one, such as /root/.docker: where one
    /// has entries that would no longer be used, nothing is written
    #[arg(
        long,
        env = "PULLPASS_MASKED_DIRECTORIES",
        value_name = "DIRECTORY,…",
        value_delimiter = ','
    )]
    pub masked_directories: Vec<PathBuf>,
}

impl AsRef<Options> for Config {
    fn as_ref(&self) -> &Options {
        &self.options
    }
}

impl AgentOptions {
    /// Where a directory of the host is to be found.
    pub(crate) fn mounted(&self, directory: &Path) -> HostDirectory {
        HostDirectory {
            mounted: self
                .host
                .join(directory.strip_prefix("/").unwrap_or(directory)),
            named: directory.to_owned(),
        }
    }
}

/// A directory of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDirectory {
    /// Where this process finds it.
    pub mounted: PathBuf,
    /// How the host calls it, and messages do.
    pub named: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        Config::command().debug_assert();
    }

    #[test]
    fn a_directory_is_found_under_where_the_host_is_mounted() {
        let config = Config::try_parse_from([
            "pullpass-node-agent",
            "--node=a",
            "--mode=dockerConfig",
            "--host=/mnt",
            "--masked-directories=/root/.docker,/.docker",
        ])
        .unwrap();
        let agent = config.agent;
        let found = agent.mounted(&agent.docker_config_directory);
        assert_eq!(found.mounted, Path::new("/mnt/var/lib/kubelet"));
        assert_eq!(found.named, Path::new("/var/lib/kubelet"));
        assert_eq!(agent.masked_directories.len(), 2);
    }

    #[test]
    fn a_mode_that_nobody_knows_is_refused() {
        let refused = Config::try_parse_from(["pullpass-node-agent", "--mode=magic"]).unwrap_err();
        assert!(refused.to_string().contains("dockerConfig"), "{refused}");
    }
}
