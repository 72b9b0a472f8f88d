//! Tests against a real API server, which has the built-in controllers and no node. One module a subject.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod access;
mod admission;
mod certificates;
mod controller_writes;
mod copies;
mod crds;
mod credentials;
mod fence;
mod leader;
mod merging;
mod neighbours;
mod node_agent;
mod nodes;
mod own_namespace;
mod reviews;
mod tenants;
mod uninstall;
