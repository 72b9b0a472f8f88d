//! How the credential has come to the namespaces.

use std::collections::BTreeSet;

use pullpass_api::status::Truth;
use pullpass_core::policy::refused_cluster;
use pullpass_core::reason::Reason;
use pullpass_core::registry::CredentialKind;

use super::judgement::Judgement;
use super::names::{enumerate, first_of};
use super::tally::Tally;
use crate::credential::LastGood;
use crate::world::{Known, Verdict};

pub(super) fn judge_distribution(
    known: &Known,
    verdict: &Verdict,
    last_good: Option<&LastGood>,
    cluster_name: Option<&str>,
    tally: &Tally,
) -> Judgement {
    if *verdict == Verdict::Public {
        return Judgement::new(
            Truth::True,
            Reason::PublicRegistry,
            "there is nothing to distribute",
        );
    }
    let Some(domain) = &known.domain else {
        return Judgement::new(
            Truth::Unknown,
            Reason::InvalidRegistry,
            "it cannot be told which namespaces are selected; what they have is left as it is",
        );
    };
    if let Some(reason) = refused_cluster(cluster_name, &domain.clusters) {
        let truth = if reason == Reason::ClusterNameUnset {
            Truth::False
        } else {
            Truth::True
        };
        return Judgement::of_reason(truth, reason);
    }
    if let CredentialKind::HeldByNamespace { pull_secret } = &domain.credential {
        return Judgement::new(
            Truth::True,
            Reason::HeldByNamespace,
            format!(
                "nothing is copied: {} selected namespaces hold the Secret {pull_secret:?} themselves",
                tally.selected
            ),
        );
    }
    if !tally.failed.is_empty() {
        return Judgement::new(Truth::False, Reason::SomeNamespacesFailed, failures(tally));
    }
    if known.withheld.is_any() {
        let reason = Reason::CredentialWithheld;
        return Judgement::new(Truth::False, reason, reason.meaning());
    }
    if let Some((reason, keys)) = &tally.not_for_installers {
        return Judgement::new(
            Truth::False,
            *reason,
            format!(
                "the docker config for installers and builders, in Pullpass's own namespace, lacks it{}: {} {}",
                left_out(keys),
                reason.meaning(),
                reason.advice()
            ),
        );
    }
    if !tally.is_settled {
        return Judgement::new(
            Truth::False,
            Reason::Syncing,
            format!("{} namespaces hold the credential so far", tally.synced),
        );
    }
    if tally.selected == 0 {
        return Judgement::of_reason(Truth::True, Reason::NoNamespaceSelected);
    }
    if last_good.is_none() {
        return Judgement::new(
            Truth::False,
            Reason::CredentialPending,
            format!(
                "{} selected namespaces wait for the credential",
                tally.selected
            ),
        );
    }
    if tally.synced < tally.selected {
        return Judgement::new(
            Truth::False,
            Reason::Syncing,
            format!(
                "{} of {} selected namespaces hold the credential",
                tally.synced, tally.selected
            ),
        );
    }
    Judgement::new(
        Truth::True,
        Reason::Synced,
        match tally.selected {
            1 => "the one selected namespace holds the credential".to_owned(),
            all => format!("all {all} selected namespaces hold the credential"),
        },
    )
}

/// What pull secrets that are off have left.
pub(super) fn judge_withdrawal(tally: &Tally) -> Judgement {
    let message = match tally.synced {
        0 => "pull secrets are off, and no namespace holds a copy".to_owned(),
        some => format!(
            "pull secrets are off; {some} namespaces keep their copies until nodes serve in their place"
        ),
    };
    Judgement::new(Truth::True, Reason::PullSecretsOff, message)
}

/// `2 of 9 selected namespaces do not get the credential: TooLarge in team-a, team-b (left out: r.example.com)`.
fn failures(tally: &Tally) -> String {
    let count: usize = tally.failed.values().map(|failed| failed.count).sum();
    let each: Vec<String> = tally
        .failed
        .iter()
        .map(|(reason, failed)| {
            let namespaces = enumerate(&failed.names, failed.count);
            format!("{reason} in {namespaces}{}", left_out(&failed.left_out))
        })
        .collect();
    format!(
        "{count} of {} selected namespaces do not get the credential: {}",
        tally.selected,
        each.join("; ")
    )
}

fn left_out(keys: &BTreeSet<String>) -> String {
    if keys.is_empty() {
        return String::new();
    }
    format!(" (left out: {})", first_of(keys.iter().cloned()))
}

#[cfg(test)]
mod tests {
    use pullpass_api::status::{DISTRIBUTED, READY};
    use serde_json::json;

    use super::super::sample::{everywhere, known, last_good, now, says, tally, told};
    use super::super::status;
    use super::super::tally::Failed;
    use super::*;
    use crate::delivery::Delivery;

    #[test]
    fn failed_namespaces_are_named_up_to_a_bound() {
        let mut tally = tally(10, 2);
        let keys = |count: usize| (0..count).map(|n| format!("r{n}.example.com")).collect();
        tally.failed.insert(
            Reason::ForeignSecret,
            Failed {
                count: 6,
                names: ["a", "b", "c", "d", "e"].map(String::from).to_vec(),
                ..Failed::default()
            },
        );
        tally.failed.insert(
            Reason::LostToPriority,
            Failed {
                count: 1,
                names: vec!["f".into()],
                left_out: keys(1),
            },
        );
        tally.failed.insert(
            Reason::TooLarge,
            Failed {
                count: 1,
                names: vec!["g".into()],
                left_out: keys(7),
            },
        );
        let status = told(&everywhere(Verdict::Good), Some(&last_good()), &tally);
        let (truth, reason, message) = says(&status, READY);
        assert_eq!(
            (truth.as_str(), reason.as_str()),
            ("False", "SomeNamespacesFailed")
        );
        assert!(message.starts_with("8 of 10 selected namespaces"));
        assert!(message.contains("ForeignSecret in a, b, c, d, e and 1 more"));
        assert!(message.contains("LostToPriority in f (left out: r0.example.com)"));
        assert!(message.contains("r4.example.com and 2 more)"), "{message}");
    }

    #[test]
    fn what_installers_lack_is_told() {
        let tally = Tally {
            not_for_installers: Some((Reason::ForeignSecret, BTreeSet::new())),
            ..tally(2, 2)
        };
        let status = told(&everywhere(Verdict::Good), Some(&last_good()), &tally);
        let (truth, reason, message) = says(&status, DISTRIBUTED);
        assert_eq!(
            (truth.as_str(), reason.as_str()),
            ("False", "ForeignSecret")
        );
        assert!(message.contains("own namespace"), "{message}");
        assert_eq!(status.namespaces.unwrap().failed, 0);
    }

    #[test]
    fn an_unset_cluster_name_selects_nothing_and_says_so() {
        let known = known(
            Verdict::Good,
            json!({"clusters": {"autoInject": ["prod-*"]}, "namespaces": {"include": ["*"]}}),
        );
        let status = |name| {
            let status = status(
                &known,
                Some(&last_good()),
                name,
                &tally(0, 0),
                &Delivery::default(),
                now(),
            )
            .unwrap();
            says(&status, READY)
        };
        let (truth, reason, _) = status(None);
        assert_eq!(
            (truth.as_str(), reason.as_str()),
            ("False", "ClusterNameUnset")
        );
        let (truth, reason, _) = status(Some("dev"));
        assert_eq!(
            (truth.as_str(), reason.as_str()),
            ("True", "ClusterNotSelected")
        );
    }

    #[test]
    fn it_is_not_ready_before_everything_was_judged_anew() {
        let unsettled = Tally {
            is_settled: false,
            ..tally(3, 3)
        };
        let status = told(&everywhere(Verdict::Good), Some(&last_good()), &unsettled);
        let (truth, reason, _) = says(&status, READY);
        assert_eq!((truth.as_str(), reason.as_str()), ("False", "Syncing"));
    }
}
