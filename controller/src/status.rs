//! What a Registry's status says, from how its credential and its namespaces stand.

mod credential;
mod distribution;
mod judgement;
mod names;
#[cfg(test)]
mod sample;
mod tally;
mod verification;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use pullpass_api::registry::{CredentialStatus, NamespaceStatus, RegistryStatus};
use pullpass_api::status::{
    CREDENTIALS_READY, DISTRIBUTED, NODES_READY, READY, Truth, VERIFIED, condition,
};
use pullpass_core::reason::Reason;

use self::credential::judge_credential;
use self::distribution::{judge_distribution, judge_withdrawal};
pub(crate) use self::judgement::Judgement;
pub(crate) use self::names::first_of;
pub(crate) use self::tally::Tallies;
use self::tally::Tally;
use self::verification::judge_verification;
use crate::credential::LastGood;
use crate::delivery::Delivery;
use crate::world::{Known, PullSecrets, Verdict};

/// The status that a Registry should have. `None` while its credential was not looked at in its present form.
pub(crate) fn status(
    known: &Known,
    last_good: Option<&LastGood>,
    cluster_name: Option<&str>,
    tally: &Tally,
    delivery: &Delivery,
    now: Timestamp,
) -> Option<RegistryStatus> {
    let object = &known.object;
    let (judged_generation, verdict) = &known.verdict;
    if known.gone_since.is_some() || *judged_generation != object.metadata.generation {
        return None;
    }
    let is_withheld = known.withheld.is_any();
    let credential = judge_credential(verdict, last_good, is_withheld);
    let distribution = match delivery.pull_secrets {
        PullSecrets::On => judge_distribution(known, verdict, last_good, cluster_name, tally),
        PullSecrets::Off => judge_withdrawal(tally),
    };
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let nodes = delivery.nodes.as_ref().map(|nodes| nodes.judge(name));
    let reach = match (delivery.pull_secrets, &nodes) {
        (PullSecrets::Off, Some((judgement, _))) => judgement,
        (PullSecrets::On | PullSecrets::Off, _) => &distribution,
    };
    let ready = judge_whole(&credential, reach, verdict, last_good, is_withheld);
    let none = Vec::new();
    let previous = object
        .status
        .as_ref()
        .map_or(&none, |status| &status.conditions);
    let generation = object.metadata.generation;
    let (on_nodes, node_status) = nodes.unzip();
    let needs_none = matches!(verdict, Verdict::Public | Verdict::Held);
    let verified = (!needs_none).then(|| (VERIFIED, judge_verification(known, previous)));
    let conditions = [(READY, ready), (CREDENTIALS_READY, credential)]
        .into_iter()
        .chain(verified)
        .chain([(DISTRIBUTED, distribution)])
        .chain(on_nodes.map(|judgement| (NODES_READY, judgement)))
        .map(|(kind, judgement)| {
            condition(
                previous,
                kind,
                judgement.truth,
                judgement.reason,
                judgement.message,
                generation,
                now,
            )
        })
        .collect();
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    Some(RegistryStatus {
        observed_generation: generation,
        conditions,
        credentials: last_good
            .filter(|_| !needs_none)
            .map(|last_good| CredentialStatus {
                refreshed_at: last_good.refreshed_at.map(Time),
                expires_at: last_good.expires_at.map(Time),
            }),
        namespaces: Some(NamespaceStatus {
            selected: count(tally.selected),
            synced: count(tally.synced),
            failed: count(tally.failed.values().map(|failed| failed.count).sum()),
        }),
        nodes: node_status,
    })
}

fn judge_whole(
    credential: &Judgement,
    distribution: &Judgement,
    verdict: &Verdict,
    last_good: Option<&LastGood>,
    is_withheld: bool,
) -> Judgement {
    if credential.truth != Truth::True {
        let reason = match verdict {
            Verdict::Bad { .. } if is_withheld => Reason::CredentialWithheld,
            Verdict::Bad { .. } if last_good.is_some() => Reason::KeepingLastGood,
            Verdict::Bad { .. }
            | Verdict::Invalid(_)
            | Verdict::Pending
            | Verdict::Public
            | Verdict::Held
            | Verdict::Good => credential.reason,
        };
        return Judgement::new(credential.truth, reason, credential.message.clone());
    }
    Judgement::new(
        distribution.truth,
        distribution.reason,
        distribution.message.clone(),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::sample::{everywhere, last_good, now, says, tally, told};
    use super::*;
    use crate::world::Withheld;

    #[test]
    fn all_is_well() {
        let status = told(&everywhere(Verdict::Good), Some(&last_good()), &tally(3, 3));
        assert_eq!(status.observed_generation, Some(3));
        let (truth, reason, _) = says(&status, READY);
        assert_eq!((truth.as_str(), reason.as_str()), ("True", "Synced"));
        assert_eq!(status.namespaces.unwrap().synced, 3);
        assert_eq!(status.credentials.unwrap().refreshed_at, Some(Time(now())));
    }

    #[test]
    fn nothing_is_said_about_another_generation() {
        let mut known = everywhere(Verdict::Good);
        known.verdict.0 = Some(2);
        assert!(
            status(
                &known,
                Some(&last_good()),
                None,
                &tally(3, 3),
                &Delivery::default(),
                now()
            )
            .is_none()
        );
    }

    #[test]
    fn what_is_under_way_is_not_wrong() {
        let missing = Verdict::Bad {
            reason: Reason::SourceMissing,
            message: "there is no Secret \"source\"".into(),
        };
        for (verdict, reason) in [
            (Verdict::Pending, "CredentialPending"),
            (missing, "SourceMissing"),
        ] {
            let status = told(&everywhere(verdict), None, &tally(2, 0));
            for kind in [READY, CREDENTIALS_READY] {
                let (truth, why, _) = says(&status, kind);
                assert_eq!((truth.as_str(), why.as_str()), ("Unknown", reason));
            }
            assert_eq!(says(&status, VERIFIED).0, "Unknown");
        }
    }

    #[test]
    fn a_withheld_credential_is_told_as_such() {
        let verdict = Verdict::Bad {
            reason: Reason::Unauthorized,
            message: "docker.io: refused".into(),
        };
        let mut known = everywhere(verdict);
        let key = pullpass_core::key::RegistryKey::parse("docker.io").unwrap();
        known.withheld = Withheld::Keys(BTreeMap::from([(key, Reason::Unauthorized)]));
        let status = told(&known, Some(&last_good()), &tally(3, 0));
        let (truth, reason, message) = says(&status, READY);
        assert_eq!(
            (truth.as_str(), reason.as_str()),
            ("False", "CredentialWithheld")
        );
        assert!(!message.contains("stays in use"), "{message}");
        assert_eq!(says(&status, CREDENTIALS_READY).1, "Unauthorized");
        assert_eq!(says(&status, DISTRIBUTED).1, "CredentialWithheld");
    }

    #[test]
    fn a_status_that_is_right_stays_as_it_is() {
        let mut known = everywhere(Verdict::Good);
        let first = told(&known, Some(&last_good()), &tally(3, 3));
        let mut object = (*known.object).clone();
        object.status = Some(first.clone());
        known.object = Arc::new(object);
        let later = Timestamp::from_second(1_900_000_000).unwrap();
        let second = status(
            &known,
            Some(&last_good()),
            None,
            &tally(3, 3),
            &Delivery::default(),
            later,
        )
        .unwrap();
        assert_eq!(first, second);
    }
}
