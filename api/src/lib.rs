//! The resources of the API group `pullpass.dev`, and their translation into the domain's types.

#![allow(
    unreachable_pub,
    reason = "KubeSchema repeats each struct inside a function body"
)]

pub mod convert;
pub mod definitions;
pub mod node_pull_access;
pub mod pull_access;
pub mod registry;
pub mod selector;
pub mod status;

pub use node_pull_access::NodePullAccess;
pub use pull_access::PullAccess;
pub use registry::Registry;

/// The API group of every resource here.
pub const GROUP: &str = "pullpass.dev";

/// The version in which the resources are served and stored.
pub const VERSION: &str = "v1alpha1";
