//! A condition before it is written: its truth, the reason for it and the words.

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

    /// With the reason's own words.
    pub(crate) fn of_reason(truth: Truth, reason: Reason) -> Self {
        let message = format!("{} {}", reason.meaning(), reason.advice());
        Self::new(truth, reason, message.trim_end())
    }
}
