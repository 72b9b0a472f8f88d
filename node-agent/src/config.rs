//! The flags.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use pullpass_core::bundle::Mode;
use pullpass_daemon::{Options, ProviderPorts};

use crate::hosts_toml::Runtime;
use crate::kubelet_restart::Policy;

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

    /// Flags of mode credentialProvider.
    #[command(flatten)]
    pub provider: ProviderOptions,

    /// Flags of what the container runtime is told.
    #[command(flatten)]
    pub trust: TrustOptions,
}

/// Flags of what the container runtime is told. Paths are those of the host.
#[derive(Clone, Debug, Args)]
pub struct TrustOptions {
    /// The container runtime that is told how to reach registries which the node does not trust by itself: containerd or
    /// CRI-O [none is told without it]
    #[arg(long, env = "PULLPASS_RUNTIME", value_name = "NAME")]
    pub runtime: Option<Runtime>,

    /// The directory that the runtime reads: for containerd the first one of its config_path
    #[arg(
        long,
        env = "PULLPASS_RUNTIME_DIRECTORY",
        value_name = "DIRECTORY",
        default_value = "/etc/containerd/certs.d"
    )]
    pub runtime_directory: PathBuf,

    /// Containerd's configuration
    #[arg(
        long,
        env = "PULLPASS_CONTAINERD_CONFIG",
        value_name = "FILE",
        default_value = "/etc/containerd/config.toml"
    )]
    pub containerd_config: PathBuf,
}

/// Flags of mode credentialProvider. Paths are those of the host, but for the program's.
#[derive(Clone, Debug, Args)]
pub struct ProviderOptions {
    /// The directory of kubelet's provider configuration: that of the file, or of several
    #[arg(
        long,
        env = "PULLPASS_PROVIDER_CONFIG_DIRECTORY",
        value_name = "DIRECTORY",
        default_value = "/etc/kubernetes/credential-providers"
    )]
    pub provider_config_directory: PathBuf,

    /// The file's name in that directory; a file of our own where it is empty, for a kubelet that reads all of them
    #[arg(
        long,
        env = "PULLPASS_PROVIDER_CONFIG_FILE",
        value_name = "NAME",
        default_value = ""
    )]
    pub provider_config_file: String,

    /// The directory of kubelet's provider programs
    #[arg(
        long,
        env = "PULLPASS_PROVIDER_PROGRAMS",
        value_name = "DIRECTORY",
        default_value = "/etc/kubernetes/credential-providers/bin"
    )]
    pub provider_programs: PathBuf,

    /// The directory that the plugin answers from
    #[arg(
        long,
        env = "PULLPASS_PROVIDER_STORE",
        value_name = "DIRECTORY",
        default_value = "/var/lib/pullpass"
    )]
    pub provider_store: PathBuf,

    /// The plugin's program in this container
    #[arg(
        long,
        env = "PULLPASS_PROVIDER_PROGRAM",
        value_name = "FILE",
        default_value = "/pullpass-credential-provider"
    )]
    pub provider_program: PathBuf,

    /// What kubelet is to ask the plugin about.
    #[command(flatten)]
    pub provider_ports: ProviderPorts,

    /// Whether kubelet is restarted when it has to read a changed configuration: Never or WhenNeeded
    #[arg(
        long,
        env = "PULLPASS_KUBELET_RESTART",
        value_name = "POLICY",
        default_value = "Never"
    )]
    pub kubelet_restart: Policy,

    /// Kubelet's unit of systemd
    #[arg(
        long,
        env = "PULLPASS_KUBELET_UNIT",
        value_name = "NAME",
        default_value = "kubelet.service"
    )]
    pub kubelet_unit: String,

    /// The socket of the host's system bus
    #[arg(
        long,
        env = "PULLPASS_SYSTEM_BUS",
        value_name = "FILE",
        default_value = "/run/dbus/system_bus_socket"
    )]
    pub system_bus: PathBuf,
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
    fn mode_credential_provider_takes_what_the_chart_gives() {
        let config = Config::try_parse_from([
            "pullpass-node-agent",
            "--node=a",
            "--mode=credentialProvider",
            "--provider-config-directory=/etc/eks/image-credential-provider",
            "--provider-config-file=config.json",
            "--provider-programs=/opt/kubelet/bin",
            "--provider-store=/var/lib/pullpass",
            "--provider-ports=5000,8443",
            "--kubelet-restart=WhenNeeded",
            "--kubelet-unit=kubelet.service",
        ])
        .unwrap();
        let agent = config.agent;
        assert_eq!(agent.mode, Mode::CredentialProvider);
        assert!(agent.provider.provider_ports.iter().eq([5000, 8443]));
        assert_eq!(agent.provider.kubelet_restart, Policy::WhenNeeded);
        let bus = agent.mounted(&agent.provider.system_bus);
        assert_eq!(bus.mounted, Path::new("/host/run/dbus/system_bus_socket"));
    }

    #[test]
    fn a_mode_that_nobody_knows_is_refused() {
        let refused = Config::try_parse_from(["pullpass-node-agent", "--mode=magic"]).unwrap_err();
        assert!(refused.to_string().contains("dockerConfig"), "{refused}");
    }
}
