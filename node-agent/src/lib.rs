//! The node agent: gives the kubelet of its node the credentials that the controller has put into the node bundle, keeps
//! them there, and leaves the node as it was.
//!
//! [`start`] runs it on a [`Context`]. The brain is `plan` and `docker_config`, which do no I/O; `host` is the only way to the
//! node's files; `agent` is the loop; each mode is a [`Delivery`].

mod agent;
pub mod atomic_file;
mod config;
mod containerd_config;
mod delivery;
mod directory_watch;
mod docker_config;
pub mod host;
pub mod hosts_toml;
mod json_object;
mod kubelet_file;
pub mod kubelet_restart;
mod kubelet_version;
mod metrics;
pub mod plan;
mod platform;
pub mod provider_config;
pub mod provider_files;
mod removal;
mod repairs;
mod report;
pub mod restart_turn;
mod restarter;
pub mod runtime_trust;
mod state_file;
pub mod store;
mod uninstall;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use pullpass_api::node_pull_access::NodeMode;
use pullpass_core::bundle::{Mode, NODE_WIDE_SECRET};
use pullpass_core::match_images::MatchImages;
use pullpass_daemon::shutdown::Stage;
use pullpass_daemon::watch::{DuplicateWatch, UNANSWERED};
use pullpass_daemon::{Context, Drain, WatchSpec};
use tokio::sync::watch;

pub use config::{AgentOptions, Command, Config, HostDirectory, ProviderOptions, TrustOptions};
pub use delivery::{Bundles, Delivered, Delivery, Effort, Remark, Trouble};
pub use docker_config::Unusable;
pub use kubelet_file::KubeletFile;
pub use runtime_trust::RuntimeTrust;
pub use state_file::STATE;
pub use uninstall::uninstall;

use crate::agent::{Agent, AllSeen, Seen};
use crate::host::RealHost;
use crate::kubelet_restart::Policy;
use crate::metrics::Metrics;
use crate::provider_files::{ProviderFiles, ProviderNode};
use crate::removal::Removal;
use crate::report::Report;
use crate::restart_turn::RestartTurn;
use crate::restarter::Restarter;

/// The component's name in logs, metrics and the user agent.
pub const COMPONENT: &str = "node-agent";

/// The release that this is.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Nobody sends work, so there is nothing to wait for; the node's files are restored well within a pod's usual 30 s.
pub const DRAIN: Drain = Drain {
    grace: Duration::ZERO,
    deadline: Duration::from_secs(20),
};

/// Why the node agent cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A metric of this name is there already.
    #[error("cannot set up metrics")]
    Metrics(#[from] prometheus::Error),
    /// A watch of this name is there already.
    #[error(transparent)]
    Watch(#[from] DuplicateWatch),
    /// The agent does not know where it is.
    #[error("which node is this? Give --node")]
    Node,
}

/// The process: runs as a daemon, or carries out the subcommand.
pub fn main() -> ExitCode {
    use clap::Parser as _;
    match Config::try_parse() {
        Ok(config) if matches!(config.command, Some(Command::Uninstall)) => {
            uninstall::main(&config)
        }
        // what is wrong with the flags is told there
        Ok(_) | Err(_) => {
            pullpass_daemon::run(COMPONENT, VERSION, DRAIN, |context, config: Config| async {
                start(context, config.agent).await
            })
        }
    }
}

/// Every mode, as far as the node's files can be reached.
fn deliveries(options: &AgentOptions) -> Vec<Arc<dyn Delivery>> {
    let mut all: Vec<Arc<dyn Delivery>> = vec![Arc::new(docker_config(options))];
    if options.mode == Mode::CredentialProvider {
        all.push(Arc::new(provider_files(options)));
    }
    all
}

fn provider_files(options: &AgentOptions) -> ProviderFiles {
    let provider = &options.provider;
    let file = &provider.provider_config_file;
    ProviderFiles::new(ProviderNode {
        config_directory: options.mounted(&provider.provider_config_directory),
        config_file: (!file.is_empty()).then(|| file.clone()),
        programs: options.mounted(&provider.provider_programs),
        store: options.mounted(&provider.provider_store),
        program: provider.provider_program.clone(),
        match_images: MatchImages::new(provider.provider_ports.iter()),
        unit: provider.kubelet_unit.clone(),
        restart: provider.kubelet_restart,
    })
}

/// The tasks beside the loop that the plugin needs: what its kubelet can do, and who restarts it.
fn serve_provider(context: &Context, options: &AgentOptions, files: &Arc<ProviderFiles>) {
    let stop = context.tasks.stop(Stage::Work);
    let (client, node) = (context.client.clone(), options.node.clone());
    let following = kubelet_version::follow(client, node, Arc::clone(files), stop.clone());
    context.spawn_work("kubelet-version", following);
    if options.provider.kubelet_restart == Policy::WhenNeeded {
        let leases = Api::namespaced(context.client.clone(), &options.namespace);
        let restarter = Restarter {
            turn: RestartTurn::new(leases, &options.node),
            node: options.node.clone(),
            files: Arc::clone(files),
            socket: options.mounted(&options.provider.system_bus).mounted,
            unit: options.provider.kubelet_unit.clone(),
        };
        context.spawn_work("kubelet-restart", restarter.run(stop));
    }
}

fn docker_config(options: &AgentOptions) -> KubeletFile {
    let masked = options
        .masked_directories
        .iter()
        .map(|directory| options.mounted(directory));
    KubeletFile::new(
        options.mounted(&options.docker_config_directory),
        masked.collect(),
    )
}

/// What the container runtime is told, if it is told anything.
fn runtime_trust(options: &AgentOptions) -> Option<RuntimeTrust> {
    let trust = &options.trust;
    let config = &trust.containerd_config;
    let (place, name) = (config.parent()?, config.file_name()?);
    Some(RuntimeTrust::new(
        trust.runtime?,
        options.mounted(&trust.runtime_directory),
        (options.mounted(place), name.into()),
    ))
}

/// Starts the node agent on `context`. It is ready while the node holds what it is to hold, and ends with the context's
/// tasks.
///
/// # Errors
/// [`StartError`]; what was started by then ends with the context's tasks.
pub async fn start(context: Context, options: AgentOptions) -> Result<(), StartError> {
    if options.node.is_empty() {
        return Err(StartError::Node);
    }
    let mut others: Vec<Arc<dyn Delivery>> = Vec::new();
    let (active, mode): (Arc<dyn Delivery>, NodeMode) = match options.mode {
        Mode::DockerConfig => (Arc::new(docker_config(&options)), NodeMode::DockerConfig),
        Mode::CredentialProvider => {
            let files = Arc::new(provider_files(&options));
            serve_provider(&context, &options, &files);
            others.push(Arc::new(docker_config(&options)));
            (files, NodeMode::CredentialProvider)
        }
    };
    let metrics = Metrics::register(&context.registry)?;
    let stop = context.tasks.stop(Stage::Work);
    let seen = watch::Sender::new(AllSeen::new());
    let standing = watch::Sender::new(None);
    let awaited = context.readiness.register("bundle");

    for name in active.secrets() {
        watch_bundle(&context, &options.namespace, name, &seen)?;
    }
    let report = Report {
        client: context.client.clone(),
        namespace: options.namespace.clone(),
        node: options.node.clone(),
        mode,
        metrics: metrics.clone(),
    };
    let told = standing.subscribe();
    context.spawn_work("report", report.clone().run(told, stop.clone()));
    let trust = runtime_trust(&options).map(Arc::new);
    // A mount shows a directory that was deleted on the host for ever. A new container has a new mount.
    let told = trust.as_deref().map(RuntimeTrust::directory);
    for directory in active.directories().into_iter().chain(told) {
        let directory = directory.to_owned();
        context.liveness.register("directory", move || {
            match RealHost::open(&directory).and_then(|host| host.is_deleted()) {
                Ok(true) => Err(format!("{} was deleted on the host", directory.display())),
                Ok(false) | Err(_) => Ok(()),
            }
        });
    }
    let unanswered = context.watches.clone();
    context
        .liveness
        .register("watches", move || unanswered.check_answered(UNANSWERED));

    let removal = Removal::watch(&context, options.namespace, options.daemon_set)?;

    let agent = Agent {
        client: context.client.clone(),
        removal,
        trust,
        active,
        others,
        asks_platform: options.mode == Mode::DockerConfig,
        seen: seen.subscribe(),
        standing,
        metrics,
        readiness: context.readiness.clone(),
    };
    context.spawn_work("agent", async move {
        let earlier = stop.run_until_cancelled(report.earlier()).await;
        agent.run(earlier.flatten(), awaited, stop).await;
    });
    Ok(())
}

fn watch_bundle(
    context: &Context,
    namespace: &str,
    name: &'static str,
    seen: &watch::Sender<AllSeen>,
) -> Result<(), DuplicateWatch> {
    let label = if name == NODE_WIDE_SECRET {
        "node_bundle"
    } else {
        "restricted_node_bundle"
    };
    let namespace = namespace.to_owned();
    let seen = seen.clone();
    context.watch(
        label,
        WatchSpec::new(label).named(name),
        move |client| Api::<Secret>::namespaced(client, &namespace),
        Seen::of,
        move |change| {
            let now = change.latest().unwrap_or(Seen::Missing);
            seen.send_modify(|seen| {
                seen.insert(name, now);
            });
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;
    use rstest::rstest;

    fn options(flags: &[&str]) -> AgentOptions {
        let config = Config::try_parse_from([&[COMPONENT], flags].concat());
        config.unwrap().agent
    }

    /// What an agent with the first flags has written and one with the second flags will look after: the docker config,
    /// the plugin, what the runtime is told.
    #[rstest]
    #[case(&[], &[], [true, false, false])]
    #[case(&[], &["--mode=credentialProvider"], [true, false, false])]
    #[case(&[], &["--docker-config-directory=/.docker"], [false, false, false])]
    #[case(&["--mode=credentialProvider"], &["--mode=credentialProvider"], [true, true, false])]
    #[case(&["--mode=credentialProvider"], &[], [true, false, false])]
    #[case(&["--mode=credentialProvider"], &["--mode=credentialProvider", "--provider-config-file=a"], [true, false, false])]
    #[case(&["--mode=credentialProvider"], &["--mode=credentialProvider", "--provider-config-directory=/a"], [true, false, false])]
    #[case(&["--mode=credentialProvider"], &["--mode=credentialProvider", "--provider-programs=/a"], [true, false, false])]
    #[case(&["--mode=credentialProvider"], &["--mode=credentialProvider", "--provider-store=/a"], [true, false, false])]
    #[case(&["--mode=credentialProvider"], &["--mode=credentialProvider", "--provider-ports=5000"], [true, true, false])]
    #[case(&["--runtime=containerd"], &["--runtime=containerd"], [true, false, true])]
    #[case(&["--runtime=containerd"], &["--runtime=containerd", "--runtime-directory=/a"], [true, false, false])]
    #[case(&["--runtime=containerd"], &["--runtime=CRI-O"], [true, false, false])]
    #[case(&["--runtime=containerd"], &[], [true, false, false])]
    fn the_next_agent_looks_after_what_it_reaches(
        #[case] this: &[&str],
        #[case] next: &[&str],
        #[case] expected: [bool; 3],
    ) {
        let (this, next) = (options(this), options(next));
        let mut kept = deliveries(&this)
            .into_iter()
            .map(|delivery| delivery.is_kept_by(&next));
        let docker_config = kept.next().unwrap_or_default();
        let plugin = kept.next().unwrap_or_default();
        let trust = runtime_trust(&this).is_some_and(|trust| trust.is_kept_by(&next));
        assert_eq!([docker_config, plugin, trust], expected);
    }
}
