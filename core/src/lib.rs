//! The decisions of Pullpass, as pure functions over plain values.
//!
//! Nothing here reads a clock, a file or the network, and nothing knows a Kubernetes client: the daemons
//! read the world into these types and carry the answers out.

pub mod bundle;
pub mod decide;
pub mod docker_config;
pub mod ecr_host;
pub mod glob;
pub mod image;
pub mod json_key;
pub mod key;
pub mod lookup;
pub mod match_images;
pub mod matching;
pub mod policy;
pub mod provider;
pub mod reason;
pub mod registry;
pub mod render;
pub mod selector;
