//! Logs in to image registries, and asks them whether a credential is good.

mod answer;
pub mod challenge;
mod client;
pub mod connection;
pub mod destination;
mod endpoint;
mod expiry;
pub mod failure;
mod resolver;
mod tls;
mod token;
mod transport;
pub mod verify;
