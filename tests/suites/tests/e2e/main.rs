//! Tests on a real cluster: kubelet, containerd, a registry that refuses strangers, and Pullpass as pods that Helm has
//! installed. One module a subject.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod builders;
mod canary;
mod cloud;
mod credential_provider;
mod disruption;
mod injection;
mod lifecycle;
mod node_scene;
mod nodes_credential_provider;
mod nodes_docker_config;
mod nodes_kubelet_restart;
mod nodes_toggles;
mod public;
mod pulls;
mod rotation;
mod runtime_trust;
mod scene;
mod steady;
mod systemd_stand_in;
mod tenants;
mod young;
