//! Why a registry or a cloud did not do what it was asked for.

use std::fmt;
use std::time::Duration;

use pullpass_core::reason::Reason;

/// Why a cloud or registry did not do what was asked. The message names hosts, statuses and what to correct, never
/// content of a credential nor of an answer's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The category.
    pub reason: Reason,
    /// What happened, and where.
    pub message: String,
    /// How long the other side wants to be left alone.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure after which one may ask again at any time.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            retry_after: None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
