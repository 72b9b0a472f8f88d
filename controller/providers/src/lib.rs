//! Logs in to image registries, and asks them whether a credential is good.

mod answer;
pub mod aws;
pub mod azure;
pub mod challenge;
mod client;
pub mod connection;
pub mod destination;
mod endpoint;
mod exchange;
mod expiry;
pub mod failure;
pub mod google;
pub mod login;
mod resolver;
mod tls;
mod token;
mod transport;
pub mod verify;
