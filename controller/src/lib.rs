//! The controller: reads what registries are described by, keeps one pull secret and one PullAccess in each namespace that
//! may use them, and the certificates of the webhook.
//!
//! [`start`] runs it on a [`Context`](pullpass_daemon::Context). Of several processes one leads; only that one writes. The
//! brain is `plan`, `leader`, `status`, `source`, `upkeep` and `rules`, which do no I/O; `world` folds the watches and says
//! which work follows.

mod bundle;
mod certificate;
mod clock;
mod config;
mod context;
mod credential;
mod delivery;
mod election;
mod events;
mod heard;
mod identity_token;
mod inquiry;
mod leader;
mod manifest;
mod metrics;
mod mirror;
mod namespace;
mod nodes;
mod observed;
mod plan;
mod proof;
mod queue;
mod registry;
mod renewal;
mod report;
mod rules;
mod source;
mod status;
mod taint;
mod term;
mod uninstall;
mod upkeep;
mod watches;
mod withdraw;
mod world;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use pullpass_daemon::shutdown::Stage;
use pullpass_daemon::watch::{DuplicateWatch, UNANSWERED};
use pullpass_daemon::{Drain, Watches};
use pullpass_providers::connection::ProxyError;
use pullpass_providers::login::Providers;

pub use config::{Command, Config, ControllerOptions, NoIdentity};
pub use uninstall::{Left, UninstallError, uninstall};

use crate::certificate::Serving;
use crate::context::Context;
use crate::election::Election;
use crate::events::Events;
use crate::identity_token::OwnTokens;
use crate::inquiry::Clouds;
use crate::leader::Timing;
use crate::metrics::Metrics;
use crate::term::Term;
use crate::world::{PullSecrets, Settings, World};

/// The component's name in logs, metrics and the user agent.
pub const COMPONENT: &str = "controller";

/// The release that this is.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Nobody sends work, so there is nothing to wait for; the Lease is given back well within a pod's usual 30 s.
pub const DRAIN: Drain = Drain {
    grace: Duration::ZERO,
    deadline: Duration::from_secs(15),
};

/// Why the controller cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A metric of this name is there already.
    #[error("cannot set up metrics")]
    Metrics(#[from] prometheus::Error),
    /// A watch of this name is there already.
    #[error(transparent)]
    Watch(#[from] DuplicateWatch),
    /// An address of a proxy is none.
    #[error("HTTPS_PROXY or HTTP_PROXY {0}")]
    Proxy(#[from] ProxyError),
    /// The host has no name.
    #[error(transparent)]
    Identity(#[from] NoIdentity),
    /// The Service's name cannot be in a certificate.
    #[error(transparent)]
    Certificates(#[from] pullpass_certs::PolicyError),
}

/// The process: runs as a daemon, or carries out the subcommand.
pub fn main() -> ExitCode {
    use clap::Parser as _;
    match Config::try_parse().ok().and_then(|config| config.command) {
        Some(Command::Uninstall) => uninstall::main(),
        // what is wrong with the flags is told there
        None => pullpass_daemon::run(COMPONENT, VERSION, DRAIN, |context, config: Config| async {
            start(context, config.controller).await
        }),
    }
}

/// Starts the controller on `context`. It is ready when its lists are complete, whether it leads or not, and ends with the
/// context's tasks.
///
/// # Errors
/// [`StartError`]; what was started by then ends with the context's tasks.
pub async fn start(
    daemon: pullpass_daemon::Context,
    options: ControllerOptions,
) -> Result<(), StartError> {
    let metrics = Metrics::register(&daemon.registry)?;
    let identity = options.identity()?;
    let world = Arc::new(World::new(Settings {
        via: options.way()?,
        ..options.settings()
    }));
    let stop = daemon.tasks.stop(Stage::Work);
    let service = format!(
        "{}.{}.svc",
        options.webhook_service, options.installation.namespace
    );
    let serving = Serving {
        policy: pullpass_certs::Policy::new([service], pullpass_certs::Times::default())?,
        secret_name: options.serving_secret.clone(),
        configuration_name: options.webhook_configuration.clone(),
    };
    watches::start(&daemon, &world, &options)?;
    let (events, sending) = Events::new(
        daemon.client.clone(),
        identity.clone(),
        metrics.clone(),
        stop.clone(),
    );
    daemon.spawn_work("events", sending);

    let context = Context {
        client: daemon.client.clone(),
        world,
        events,
        metrics: metrics.clone(),
    };
    let clouds = Arc::new(Clouds {
        providers: Providers::new(options.endpoints),
        tokens: OwnTokens::new(
            daemon.client.clone(),
            &options.installation.namespace,
            options.service_account.clone(),
        ),
    });
    let election = Election::new(
        daemon.client.clone(),
        &options.installation.namespace,
        options.lease.clone(),
        identity,
        Timing::default(),
        metrics,
    );
    let watches = daemon.watches.clone();
    let synced = daemon.readiness.register("lists");
    let listed = watches.clone();
    // fulfilled once; the task goes on, since every task here is there to the end
    let ended = stop.clone();
    daemon.spawn_work("readiness", async move {
        ended.run_until_cancelled(listed.synced()).await;
        synced.fulfil();
        ended.cancelled().await;
    });
    let unanswered = daemon.watches.clone();
    daemon
        .liveness
        .register("watches", move || unanswered.check_answered(UNANSWERED));
    daemon.spawn_work("election", async move {
        let work = |term| {
            let (context, clouds) = (context.clone(), Arc::clone(&clouds));
            lead(context, clouds, term, serving.clone(), watches.clone())
        };
        election.run(stop, work).await;
    });
    Ok(())
}

/// One term's work. Nothing is written before every list has succeeded in this process.
async fn lead(
    context: Context,
    clouds: Arc<Clouds>,
    term: Term,
    serving: Serving,
    watches: Watches,
) {
    let over = term.over();
    if over.run_until_cancelled(watches.synced()).await.is_none() {
        return;
    }
    context.world.look_at_everything();
    let registries = context
        .world
        .registries
        .run(registry::CONCURRENCY, over.clone(), |name| {
            registry::reconcile(context.clone(), term.clone(), name)
        });
    let namespaces = context
        .world
        .namespaces
        .run(namespace::CONCURRENCY, over, |name| {
            namespace::reconcile(context.clone(), term.clone(), name)
        });
    let logins = context
        .world
        .logins
        .run(inquiry::LOGINS, term.over(), |name| {
            inquiry::log_in(context.clone(), Arc::clone(&clouds), name)
        });
    let verifications =
        context
            .world
            .verifications
            .run(inquiry::VERIFICATIONS, term.over(), |name| {
                inquiry::verify_all(context.clone(), name)
            });
    let statuses = report::run(context.clone(), term.clone());
    let certificates = certificates(context.clone(), term.clone(), serving);
    let bundles = bundles(context.clone(), term.clone());
    let taints = taints(context.clone(), term.clone());
    tokio::join!(
        registries,
        logins,
        verifications,
        namespaces,
        statuses,
        certificates,
        bundles,
        taints
    );
    // only a leader knows
    context.metrics.namespaces.reset();
    context.metrics.registries.reset();
    context.metrics.credentials.reset();
    context.metrics.credential_expiry.reset();
    context.metrics.nodes.reset();
}

async fn certificates(context: Context, term: Term, serving: Serving) {
    match context.world.settings.pull_secrets {
        PullSecrets::On => certificate::run(context, term, serving).await,
        PullSecrets::Off => certificate::remove(context, term, serving).await,
    }
}

async fn bundles(context: Context, term: Term) {
    match context.world.settings.nodes {
        Some(mode) => bundle::run(context, term, mode).await,
        // there is nobody whom the copies could wait for
        None => context.world.hand_over_to_nodes(),
    }
}

async fn taints(context: Context, term: Term) {
    if let (Some(mode), true) = (
        context.world.settings.nodes,
        context.world.settings.startup_taint,
    ) {
        taint::run(context, term, mode).await;
    }
}
