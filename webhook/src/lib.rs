//! The admission webhook: appends the pull secret's name to the pods of every namespace that may have it.
//!
//! [`start`] runs it on a [`Context`]. Without Kubernetes, a [`Decider`] on a [`State`] of plain values answers
//! reviews, [`http::router`] does so over HTTP, and [`server::bind`] over TLS.

pub mod answer;
mod body;
mod config;
mod handler;
pub mod http;
pub mod limit;
mod metrics;
pub mod review;
pub mod server;
pub mod serving_cert;
mod slim;
pub mod state;
mod watches;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pullpass_daemon::shutdown::Stage;
use pullpass_daemon::watch::DuplicateWatch;
use pullpass_daemon::{Context, Drain};

pub use config::Config;
pub use handler::Decider;
pub use limit::ConnectionLimit;
pub use metrics::Metrics;
pub use state::State;

/// The component's name in logs, metrics and the user agent.
pub const COMPONENT: &str = "webhook";

/// The release that this is.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// API servers learn within a few seconds that an endpoint has gone; what they send until then is answered. The
/// deadline leaves time for the server's own drain after that, and fits into a pod's usual 30 s.
pub const DRAIN: Drain = Drain {
    grace: Duration::from_secs(5),
    deadline: Duration::from_secs(20),
};

/// Why the webhook cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A metric of this name is there already.
    #[error("cannot set up metrics")]
    Metrics(#[from] prometheus::Error),
    /// A watch of this name is there already.
    #[error(transparent)]
    Watch(#[from] DuplicateWatch),
    /// The port cannot be had, or TLS cannot be set up.
    #[error(transparent)]
    Server(#[from] server::ServerError),
}

/// Starts the webhook on `context`; returns the address that it takes reviews at. It is ready when the context's
/// readiness says so, and ends with the context's tasks.
///
/// # Errors
/// [`StartError`]; what was started by then ends with the context's tasks.
pub async fn start(context: Context, config: Config) -> Result<SocketAddr, StartError> {
    let metrics = Metrics::new(&context.registry)?;
    let state = Arc::new(State::new(config.policy_frame()));
    watches::start(&context, &state)?;
    let source = match &config.serving_directory {
        Some(directory) => serving_cert::Source::Directory(directory),
        None => serving_cert::Source::Secret {
            namespace: &config.installation.namespace,
            name: &config.serving_secret,
        },
    };
    let certificate = serving_cert::start(&context, source, metrics.clone())?;
    let decider = Decider::new(
        state,
        config.installation.pull_secret_name,
        config.wait,
        config.max_waiters,
        metrics.clone(),
    );
    let (address, serving) = server::bind(
        config.listen,
        http::router(decider),
        certificate,
        ConnectionLimit::new(config.max_connections, metrics),
        context.tasks.stop(Stage::Serve),
    )?;
    context.tasks.spawn(Stage::Serve, "webhook server", serving);
    tracing::info!(%address, "webhook listens");
    Ok(address)
}
