//! What a Registry's status says, from how its credential and its namespaces stand.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use pullpass_api::registry::{CredentialStatus, NamespaceStatus, RegistryStatus};
use pullpass_api::status::{
    CREDENTIALS_READY, DISTRIBUTED, NODES_READY, READY, Truth, VERIFIED, condition,
};
use pullpass_core::policy::refused_cluster;
use pullpass_core::reason::Reason;
use pullpass_core::registry::CredentialKind;
use pullpass_core::render::Outcome;

use crate::credential::LastGood;
use crate::delivery::Delivery;
use crate::plan::State;
use crate::world::{Known, PullSecrets, Standing, Verdict, World};

/// So many namespaces, and so many keys, a message names; the rest it counts.
pub(crate) const NAMED: usize = 5;

/// How the namespaces of one registry stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Namespaces that may use it.
    pub(crate) selected: usize,
    /// Those that hold its credential.
    pub(crate) synced: usize,
    /// Those that do not, and will not by waiting, by reason.
    pub(crate) failed: BTreeMap<Reason, Failed>,
    /// Why it is not in the docker config for installers, where it should be, and the keys that are missing there.
    pub(crate) not_for_installers: Option<(Reason, BTreeSet<String>)>,
    /// Whether every namespace has been judged by the rules in force.
    pub(crate) is_settled: bool,
}

/// Namespaces that do not get a credential, or not all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failed {
    /// How many.
    pub(crate) count: usize,
    /// The names of some.
    pub(crate) names: Vec<String>,
    /// The keys that they lack.
    pub(crate) left_out: BTreeSet<String>,
}

/// How the namespaces of all registries stand.
#[derive(Debug, Default)]
pub(crate) struct Tallies {
    by_registry: HashMap<String, Tally>,
    is_settled: bool,
    /// Namespaces with a Secret that is up to date, without one that should be, and the rest.
    pub(crate) namespaces: (usize, usize, usize),
}

impl Tallies {
    /// Counts. With `ignore_new`, namespaces that have never been judged are left out: while namespaces come and go there
    /// are always some.
    pub(crate) fn of(world: &World, ignore_new: bool) -> Self {
        /// Namespaces with the same registries that stand alike.
        struct Group {
            outcomes: Arc<[Outcome]>,
            state: Option<State>,
            count: usize,
            names: Vec<String>,
        }
        let mut groups: HashMap<(*const Outcome, usize, Option<State>), Group> = HashMap::new();
        let mut revisions: Vec<Option<u64>> = Vec::new();
        let mut tallies = Self::default();
        let revision = world.survey(|name, standing| {
            let judged_by = standing.map(|standing| standing.revision);
            if judged_by.is_none() && ignore_new {
                return;
            }
            if !revisions.contains(&judged_by) {
                revisions.push(judged_by);
            }
            let Some(Standing {
                outcomes,
                installers,
                state,
                ..
            }) = standing
            else {
                return;
            };
            for outcome in installers.iter() {
                // of two credentials for one host there is room for one, which is nobody's fault
                if let Stands::Failed(reason) = standing_of(outcome, *state)
                    && reason != Reason::LostToPriority
                {
                    let tally = tallies.by_registry.entry(outcome.registry.clone());
                    let left_out = outcome.left_out.iter().map(ToString::to_string);
                    tally.or_default().not_for_installers = Some((reason, left_out.collect()));
                }
            }
            match state {
                Some(State::Written) => tallies.namespaces.0 += 1,
                Some(State::Blocked(_)) => tallies.namespaces.1 += 1,
                Some(State::Empty) => {}
                Some(State::Held) | None => tallies.namespaces.2 += 1,
            }
            let group = groups
                .entry((outcomes.as_ptr(), outcomes.len(), *state))
                .or_insert_with(|| Group {
                    outcomes: Arc::clone(outcomes),
                    state: *state,
                    count: 0,
                    names: Vec::new(),
                });
            group.count += 1;
            if *state != Some(State::Written)
                || outcomes.iter().any(|o| o.reason != Reason::Available)
            {
                keep_first(&mut group.names, [name.to_owned()]);
            }
        });
        tallies.is_settled = revisions
            .iter()
            .all(|judged_by| *judged_by == Some(revision));
        for group in groups.into_values() {
            for outcome in group.outcomes.iter() {
                let tally = match tallies.by_registry.get_mut(&outcome.registry) {
                    Some(tally) => tally,
                    None => tallies
                        .by_registry
                        .entry(outcome.registry.clone())
                        .or_default(),
                };
                tally.selected += group.count;
                match standing_of(outcome, group.state) {
                    Stands::Synced => tally.synced += group.count,
                    Stands::Waiting => {}
                    Stands::Failed(reason) => {
                        let failed = tally.failed.entry(reason).or_default();
                        failed.count += group.count;
                        keep_first(&mut failed.names, group.names.iter().cloned());
                        let left_out = outcome.left_out.iter().map(ToString::to_string);
                        failed.left_out.extend(left_out);
                    }
                }
            }
        }
        tallies
    }

    /// Whether every namespace has been judged by the rules in force.
    pub(crate) fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// Of one registry.
    pub(crate) fn get(&self, registry: &str) -> Tally {
        Tally {
            is_settled: self.is_settled,
            ..self.by_registry.get(registry).cloned().unwrap_or_default()
        }
    }
}

/// Keeps the first names by the alphabet, so that the message does not depend on an order by chance.
fn keep_first(names: &mut Vec<String>, more: impl IntoIterator<Item = String>) {
    names.extend(more);
    names.sort_unstable();
    names.truncate(NAMED);
}

enum Stands {
    Synced,
    Waiting,
    Failed(Reason),
}

fn standing_of(outcome: &Outcome, state: Option<State>) -> Stands {
    match (outcome.reason, state) {
        (Reason::Available, Some(State::Written)) | (Reason::HeldByNamespace, _) => Stands::Synced,
        (Reason::Available, Some(State::Blocked(reason))) => Stands::Failed(reason),
        (Reason::Available, Some(State::Held | State::Empty) | None) => Stands::Waiting,
        (reason @ (Reason::LostToPriority | Reason::TooLarge), _) => Stands::Failed(reason),
        // the credential itself is missing, which is told once and not for each namespace
        _ => Stands::Waiting,
    }
}

/// What one condition says.
pub(crate) struct Judgement {
    truth: Truth,
    reason: Reason,
    message: String,
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

/// What was found out in this process, or else by the one before.
fn judge_verification(known: &Known, previous: &[Condition]) -> Judgement {
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

fn judge_credential(
    verdict: &Verdict,
    last_good: Option<&LastGood>,
    is_withheld: bool,
) -> Judgement {
    let advise = |reason: Reason, message: &str| {
        let kept = kept(last_good, is_withheld);
        format!("{message}. {}{kept}", reason.advice())
    };
    match verdict {
        Verdict::Public => Judgement::new(
            Truth::True,
            Reason::PublicRegistry,
            "a public registry needs no credential",
        ),
        Verdict::Held => Judgement::new(
            Truth::True,
            Reason::HeldByNamespace,
            "each namespace holds the credential itself",
        ),
        Verdict::Good => Judgement::new(
            Truth::True,
            Reason::CredentialRead,
            "the credential was read and is in use",
        ),
        // a Registry may come before its Secret: nothing is wrong yet
        Verdict::Bad {
            reason: Reason::SourceMissing,
            message,
        } if last_good.is_none() => Judgement::new(
            Truth::Unknown,
            Reason::SourceMissing,
            advise(Reason::SourceMissing, message),
        ),
        Verdict::Bad { reason, message } => {
            Judgement::new(Truth::False, *reason, advise(*reason, message))
        }
        Verdict::Invalid(message) => Judgement::new(
            Truth::False,
            Reason::InvalidRegistry,
            advise(Reason::InvalidRegistry, message),
        ),
        Verdict::Pending => Judgement::new(
            Truth::Unknown,
            Reason::CredentialPending,
            "the credential is being read, exchanged or verified",
        ),
    }
}

/// What becomes of the credential in use.
fn kept(last_good: Option<&LastGood>, is_withheld: bool) -> String {
    match last_good.map(|last_good| last_good.refreshed_at) {
        Some(_) if is_withheld => format!(" {}", Reason::CredentialWithheld.meaning()),
        Some(Some(time)) => format!(" The last good credential, of {time}, stays in use."),
        Some(None) => " The last good credential stays in use.".to_owned(),
        None => String::new(),
    }
}

fn judge_distribution(
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
        return Judgement::new(
            truth,
            reason,
            format!("{} {}", reason.meaning(), reason.advice()),
        );
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
        let reason = Reason::NoNamespaceSelected;
        return Judgement::new(
            Truth::True,
            reason,
            format!("{} {}", reason.meaning(), reason.advice()),
        );
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
fn judge_withdrawal(tally: &Tally) -> Judgement {
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
    let some: Vec<String> = keys.iter().take(NAMED).cloned().collect();
    format!(" (left out: {})", enumerate(&some, keys.len()))
}

/// The first of so many, and how many more there are.
pub(crate) fn enumerate(some: &[String], of: usize) -> String {
    let named = some.join(", ");
    match of.saturating_sub(some.len()) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
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
    use super::*;
    use crate::upkeep::Verified;
    use crate::world::Withheld;
    use pullpass_api::Registry;
    use pullpass_core::docker_config::Entries;
    use serde_json::{Value, json};

    fn known(verdict: Verdict, access: Value) -> Known {
        let object: Registry = serde_json::from_value(json!({
            "apiVersion": "pullpass.dev/v1alpha1", "kind": "Registry",
            "metadata": {"name": "acme", "uid": "r-1", "generation": 3},
            "spec": {
                "host": "r.example.com",
                "auth": {"basic": {"secretRef": {"name": "source"}}},
                "access": access,
            },
        }))
        .unwrap();
        let domain = pullpass_api::convert::registry(&object).ok().map(Arc::new);
        Known {
            verdict: (Some(3), verdict),
            ..Known::new(Arc::new(object), domain)
        }
    }

    fn everywhere(verdict: Verdict) -> Known {
        known(verdict, json!({"namespaces": {"include": ["*"]}}))
    }

    fn last_good() -> LastGood {
        LastGood {
            registry_uid: "r-1".into(),
            entries: Arc::new(Entries::new()),
            digest: [0; 32],
            refreshed_at: Some(now()),
            expires_at: None,
            source: None,
            is_stored: true,
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn tally(selected: usize, synced: usize) -> Tally {
        Tally {
            selected,
            synced,
            is_settled: true,
            ..Tally::default()
        }
    }

    fn says(status: &RegistryStatus, kind: &str) -> (String, String, String) {
        let condition = status.conditions.iter().find(|c| c.type_ == kind).unwrap();
        (
            condition.status.clone(),
            condition.reason.clone(),
            condition.message.clone(),
        )
    }

    #[test]
    fn all_is_well() {
        let status = status(
            &everywhere(Verdict::Good),
            Some(&last_good()),
            None,
            &tally(3, 3),
            &Delivery::default(),
            now(),
        )
        .unwrap();
        assert_eq!(status.observed_generation, Some(3));
        let (truth, reason, _) = says(&status, READY);
        assert_eq!((truth.as_str(), reason.as_str()), ("True", "Synced"));
        assert_eq!(status.namespaces.unwrap().synced, 3);
        assert_eq!(status.credentials.unwrap().refreshed_at, Some(Time(now())));
    }

    #[test]
    fn a_bad_source_is_told_with_what_stays() {
        let verdict = Verdict::Bad {
            reason: Reason::SourceMissing,
            message: "there is no Secret \"source\"".into(),
        };
        let status = status(
            &everywhere(verdict),
            Some(&last_good()),
            None,
            &tally(3, 3),
            &Delivery::default(),
            now(),
        )
        .unwrap();
        let (truth, reason, message) = says(&status, CREDENTIALS_READY);
        assert_eq!(
            (truth.as_str(), reason.as_str()),
            ("False", "SourceMissing")
        );
        assert!(message.contains("stays in use"), "{message}");
        assert_eq!(says(&status, DISTRIBUTED).0, "True");
        assert_eq!(says(&status, READY).1, "KeepingLastGood");
    }

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
        let status = status(
            &everywhere(Verdict::Good),
            Some(&last_good()),
            None,
            &tally,
            &Delivery::default(),
            now(),
        )
        .unwrap();
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
        let status = status(
            &everywhere(Verdict::Good),
            Some(&last_good()),
            None,
            &tally,
            &Delivery::default(),
            now(),
        )
        .unwrap();
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
            let status = status(
                &everywhere(verdict),
                None,
                None,
                &tally(2, 0),
                &Delivery::default(),
                now(),
            )
            .unwrap();
            for kind in [READY, CREDENTIALS_READY] {
                let (truth, told, _) = says(&status, kind);
                assert_eq!((truth.as_str(), told.as_str()), ("Unknown", reason));
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
        let status = status(
            &known,
            Some(&last_good()),
            None,
            &tally(3, 0),
            &Delivery::default(),
            now(),
        )
        .unwrap();
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
    fn a_verification_is_told_until_there_is_another() {
        let mut known = everywhere(Verdict::Good);
        known.verified = Some(Verified {
            truth: Truth::Unknown,
            reason: Reason::Unreachable,
            message: "r.example.com: no such host".into(),
        });
        let first = status(
            &known,
            Some(&last_good()),
            None,
            &tally(3, 3),
            &Delivery::default(),
            now(),
        )
        .unwrap();
        assert_eq!(says(&first, READY).0, "True");
        let mut object = (*known.object).clone();
        object.status = Some(first.clone());
        // as in a new process
        known.object = Arc::new(object);
        known.verified = None;
        let second = status(
            &known,
            Some(&last_good()),
            None,
            &tally(3, 3),
            &Delivery::default(),
            now(),
        )
        .unwrap();
        assert_eq!(first, second);
        let public = everywhere(Verdict::Public);
        let public = status(
            &public,
            None,
            None,
            &tally(0, 0),
            &Delivery::default(),
            now(),
        )
        .unwrap();
        assert!(public.conditions.iter().all(|c| c.type_ != VERIFIED));
    }

    #[test]
    fn it_is_not_ready_before_everything_was_judged_anew() {
        let unsettled = Tally {
            is_settled: false,
            ..tally(3, 3)
        };
        let status = status(
            &everywhere(Verdict::Good),
            Some(&last_good()),
            None,
            &unsettled,
            &Delivery::default(),
            now(),
        )
        .unwrap();
        let (truth, reason, _) = says(&status, READY);
        assert_eq!((truth.as_str(), reason.as_str()), ("False", "Syncing"));
    }

    #[test]
    fn a_status_that_is_right_stays_as_it_is() {
        let mut known = everywhere(Verdict::Good);
        let first = status(
            &known,
            Some(&last_good()),
            None,
            &tally(3, 3),
            &Delivery::default(),
            now(),
        )
        .unwrap();
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
