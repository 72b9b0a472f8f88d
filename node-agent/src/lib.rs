//! The agent that writes kubelet's credential configuration on each node.

pub mod hosts_toml;
pub mod kubelet_restart;
pub mod provider_config;
pub mod restart_turn;
