//! What the tests against real Kubernetes stand on: API servers to lease, a full cluster to share or to own,
//! identities, registries' users, private images, the audit log, and a dump of what matters when a test fails.
//!
//! The entry points — [`lease`], [`shared`] and [`exclusive`] — and the helpers of what they return fail a test by
//! panicking with one sentence that tells what to do. Nothing is skipped.
// A test helper reports by failing the test.
#![allow(clippy::panic, clippy::expect_used, clippy::indexing_slicing)]

pub mod admission;
pub mod attempt;
pub mod audit;
pub mod canary;
pub mod chart;
mod checkout;
mod clean;
pub mod cluster;
pub mod daemons;
mod dump;
pub mod fake_ecr;
pub mod fake_ecr_registry;
pub mod fake_hub;
pub mod fake_proxy;
pub mod fake_registry;
mod full;
pub mod identity;
mod image;
mod install;
mod lease;
mod lock;
pub mod name;
mod nodes;
pub mod objects;
mod plain;
pub mod registry;
mod relay;
pub mod reviews;
mod server;
mod tls;
mod told_registry;
mod wait;

pub use full::{Exclusive, Full, Shared, exclusive, shared};
pub use lease::{Lease, lease};
pub use nodes::{NODE_1, NODE_2, Nodes, nodes, plugin};
pub use server::ApiServer;
pub use wait::{eventually, stays};

/// Turns a failure of the surroundings into the failure of the test.
#[track_caller]
fn must<T>(outcome: anyhow::Result<T>) -> T {
    outcome.unwrap_or_else(|error| panic!("{error:#}"))
}
