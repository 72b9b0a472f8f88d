//! Logins, with the real SDK against a simulated AWS, and against fakes of what cannot run here: Google, Microsoft Entra, a
//! registry of Azure, and the metadata of machines and pods.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod aws;
mod azure;
mod google;
mod secrecy;
mod support;
