//! Conditions of a resource.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use pullpass_core::reason::Reason;

/// The condition that sums all others up.
pub const READY: &str = "Ready";
/// Whether there is a good credential.
pub const CREDENTIALS_READY: &str = "CredentialsReady";
/// Whether the registry takes the credential.
pub const VERIFIED: &str = "Verified";
/// Whether every selected namespace holds the credential.
pub const DISTRIBUTED: &str = "Distributed";

/// Whether every node that is to hold the credential does; only where the node agent is on.
pub const NODES_READY: &str = "NodesReady";

/// What a condition says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// The condition holds.
    True,
    /// It does not.
    False,
    /// It is not known.
    Unknown,
}

impl Truth {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Truth::True => "True",
            Truth::False => "False",
            Truth::Unknown => "Unknown",
        }
    }
}

/// A condition of a resource of this generation. The time of the last transition moves only when the truth changes, as
/// the API conventions of Kubernetes ask.
pub fn condition(
    previous: &[Condition],
    kind: &str,
    truth: Truth,
    reason: Reason,
    message: String,
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let since = previous
        .iter()
        .find(|before| before.type_ == kind && before.status == truth.as_str())
        .map_or(Time(now), |before| before.last_transition_time.clone());
    Condition {
        type_: kind.to_owned(),
        status: truth.as_str().to_owned(),
        reason: reason.as_str().to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: since,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn ready(previous: &[Condition], truth: Truth, reason: Reason, second: i64) -> Condition {
        condition(
            previous,
            READY,
            truth,
            reason,
            String::new(),
            Some(1),
            at(second),
        )
    }

    #[test]
    fn the_transition_time_moves_only_with_the_truth() {
        let first = ready(&[], Truth::False, Reason::SourceMissing, 1);
        let other_reason = ready(
            std::slice::from_ref(&first),
            Truth::False,
            Reason::MalformedSource,
            2,
        );
        assert_eq!(other_reason.last_transition_time, Time(at(1)));
        let turned = ready(&[other_reason], Truth::True, Reason::Synced, 3);
        assert_eq!(turned.last_transition_time, Time(at(3)));
    }
}
