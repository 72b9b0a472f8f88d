//! Certificates of the webhook: issue them, rotate them, serve them.
//!
//! This crate knows no Kubernetes: Secrets come in and go out as plain maps of their data.
//!
//! - [`issue`] makes an authority and the serving certificates it signs.
//! - [`state`] is what two Secrets hold, and how it is written into them.
//! - [`rotate`] says which single step comes next: trust first, sign second, retire last.
//! - [`resolver`] serves a certificate that can be swapped under running connections.
//! - [`files`] feeds the resolver from a directory, such as a mounted Secret.

pub mod certificate;
pub mod files;
pub mod issue;
pub mod resolver;
pub mod rotate;
pub mod state;
mod time;

pub use certificate::{Certificate, CertificateError};
pub use files::CertificateDirectory;
pub use issue::{IssueError, Issued, PrivateKey, Validity};
pub use resolver::{IdentityError, ServingCertResolver, ServingIdentity, server_config};
pub use rotate::{Action, Observed, Policy, PolicyError, Step, Times, rotate};
pub use state::{Authorities, Authority, Pending, SecretData, Serving, Stored};
