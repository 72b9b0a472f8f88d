//! What the registry has said of the credential.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use pullpass_api::status::{Truth, VERIFIED};
use pullpass_core::reason::Reason;

use super::judgement::Judgement;
use crate::world::Known;

/// What was found out in this process, or else by the one before.
pub(super) fn judge_verification(known: &Known, previous: &[Condition]) -> Judgement {
    if let Some(verified) = &known.verified {
        return Judgement::new(verified.truth, verified.reason, verified.message.clone());
    }
    let before = previous.iter().find(|before| before.type_ == VERIFIED);
    let told = before.and_then(|before| {
        let truth = [Truth::True, Truth::False, Truth::Unknown]
            .into_iter()
            .find(|truth| truth.as_str() == before.status)?;
        let reason = Reason::ALL
            .iter()
            .find(|reason| reason.as_str() == before.reason)?;
        Some(Judgement::new(truth, *reason, before.message.clone()))
    });
    told.unwrap_or_else(|| {
        Judgement::new(
            Truth::Unknown,
            Reason::CredentialPending,
            "there is no credential to verify yet",
        )
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pullpass_api::status::READY;

    use super::super::sample::{everywhere, last_good, says, tally, told};
    use super::*;
    use crate::upkeep::Verified;
    use crate::world::Verdict;

    #[test]
    fn a_verification_is_told_until_there_is_another() {
        let mut known = everywhere(Verdict::Good);
        known.verified = Some(Verified {
            truth: Truth::Unknown,
            reason: Reason::Unreachable,
            message: "r.example.com: no such host".into(),
        });
        let first = told(&known, Some(&last_good()), &tally(3, 3));
        assert_eq!(says(&first, READY).0, "True");
        let mut object = (*known.object).clone();
        object.status = Some(first.clone());
        // as in a new process
        known.object = Arc::new(object);
        known.verified = None;
        let second = told(&known, Some(&last_good()), &tally(3, 3));
        assert_eq!(first, second);
        let public = everywhere(Verdict::Public);
        let public = told(&public, None, &tally(0, 0));
        assert!(public.conditions.iter().all(|c| c.type_ != VERIFIED));
    }
}
