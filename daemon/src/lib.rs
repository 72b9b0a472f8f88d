//! What every long-running process of Pullpass shares: a Kubernetes client, watches that know how fresh they
//! are, logs and metrics, readiness and liveness, an orderly end.
//!
//! A daemon is a library with a function that starts it on a [`Context`]. [`run`] is its `main`; tests make a
//! `Context` of their own and start several daemons in one process. Nothing here is global but the log
//! subscriber and the TLS provider, and both are installed by [`run`] alone.

pub mod admin;
pub mod client;
mod context;
mod deadline;
mod error;
mod installation;
pub mod limit;
pub mod metrics;
mod provider_ports;
pub mod readiness;
mod run;
#[cfg(test)]
mod scripted;
pub mod shutdown;
pub mod telemetry;
pub mod watch;

pub use context::Context;
pub use error::{BoxError, chain};
pub use installation::Installation;
pub use limit::LimitedAcceptor;
pub use metrics::Timer;
pub use provider_ports::ProviderPorts;
pub use readiness::{Guard, Liveness, Readiness};
pub use run::{Options, run, run_once};
pub use shutdown::{Drain, Ending, Stage, Tasks};
pub use watch::{Change, Freshness, WatchSpec, Watches};
