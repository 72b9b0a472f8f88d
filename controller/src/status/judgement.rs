//! What one condition says.

use pullpass_api::status::Truth;
use pullpass_core::reason::Reason;

/// What one condition says.
pub(crate) struct Judgement {
    pub(super) truth: Truth,
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl Judgement {
    pub(crate) fn new(truth: Truth, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            truth,
            reason,
            message: message.into(),
        }
    }
}
