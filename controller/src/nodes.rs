//! What is known of nodes and of what they are given, and what follows from it. Pure but for the lock around it.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use pullpass_api::NodePullAccess;
use pullpass_api::node_pull_access::{NodeMode, NodeState};
use pullpass_core::bundle::{BUNDLE_KEY, BUNDLE_SECRET_TYPE, Bundle, Mode};
use pullpass_core::reason::Reason;
use pullpass_core::render::Outcome;

use crate::mirror::{Mirror, Versioned};
use crate::observed::Version;
use crate::taint::Tainted;

/// A Secret of a bundle's name.
#[derive(Clone, Debug)]
pub(crate) struct BundleSecret {
    /// Its version.
    pub(crate) version: Version,
    /// Whether Pullpass made it: nothing else has this type.
    pub(crate) ours: bool,
    /// Whether somebody made it immutable.
    pub(crate) immutable: bool,
    /// What it says; `None` where it cannot be read.
    pub(crate) bundle: Option<Arc<Bundle>>,
}

impl BundleSecret {
    /// Out of a Secret, which is consumed.
    pub(crate) fn observe(secret: Secret) -> Self {
        let content = secret.data.as_ref().and_then(|data| data.get(BUNDLE_KEY));
        Self {
            version: Version::of(&secret.metadata),
            ours: secret.type_.as_deref() == Some(BUNDLE_SECRET_TYPE),
            immutable: secret.immutable == Some(true),
            bundle: content
                .and_then(|content| Bundle::parse(&content.0).ok())
                .map(Arc::new),
        }
    }
}

impl Versioned for BundleSecret {
    fn version(&self) -> Version {
        self.version.clone()
    }
}

/// What the bundles came to when they were last put together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BundleStanding {
    /// The generation of each Secret that nodes should hold, by name.
    pub(crate) generations: BTreeMap<String, u64>,
    /// What became of each registry.
    pub(crate) outcomes: Arc<[Outcome]>,
    /// Why a Secret cannot be written, where it cannot.
    pub(crate) blocked: Option<(Reason, String)>,
}

/// What is known of nodes.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    /// The bundles' Secrets. Each has a watch of its own, and what one has told says nothing of the other.
    pub(crate) bundles: BTreeMap<String, Mirror<BundleSecret>>,
    /// What each node tells, by its name.
    pub(crate) states: BTreeMap<String, NodePullAccess>,
    /// How many nodes are to run the agent; `None` where its DaemonSet is not there or was not looked at.
    pub(crate) agents: Option<usize>,
    /// Nodes that are not to run pods yet, by name.
    pub(crate) tainted: BTreeMap<String, Tainted>,
    /// `None` while nothing was put together in this term.
    pub(crate) standing: Option<BundleStanding>,
}

/// How nodes stand as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeTally {
    /// Nodes that are to hold the bundles.
    pub(crate) selected: usize,
    /// Those that do.
    pub(crate) ready: usize,
    /// Those that do not and tell why, by name.
    pub(crate) behind: Vec<(String, String)>,
    /// Nodes by what they tell, for metrics.
    pub(crate) by_state: BTreeMap<&'static str, usize>,
}

impl NodeTally {
    /// Whether there is no node without the bundles. A cluster whose agents were not counted yet is not served.
    pub(crate) fn is_complete(&self) -> bool {
        self.selected > 0 && self.ready >= self.selected
    }
}

impl Nodes {
    /// Counts.
    pub(crate) fn tally(&self, mode: Mode) -> NodeTally {
        let mut tally = NodeTally::default();
        for (name, state) in &self.states {
            *tally.by_state.entry(state.spec.state.as_str()).or_default() += 1;
            match self.standing.as_ref() {
                Some(standing) if holds(state, standing, mode) => tally.ready += 1,
                Some(_) | None => tally.behind.push((name.clone(), state.spec.reason.clone())),
            }
        }
        // a node whose agent never started tells nothing, and one that has gone may still be told of
        tally.selected = self.agents.unwrap_or(0).max(self.states.len());
        tally
    }

    /// Whether the node of this name holds what it should, and kubelet uses it.
    pub(crate) fn serves(&self, node: &str, mode: Mode, now: jiff::Timestamp) -> bool {
        let (Some(state), Some(standing)) = (self.states.get(node), self.standing.as_ref()) else {
            return false;
        };
        holds(state, standing, mode)
            && state
                .spec
                .effective_at
                .as_ref()
                .is_some_and(|at| at.0 <= now)
    }

    /// A bundle's Secret.
    pub(crate) fn bundle(&self, secret: &str) -> Option<&BundleSecret> {
        self.bundles.get(secret)?.get(secret)
    }

    /// The generation after every one that was ever seen of the Secret, so that no node takes old content for new.
    pub(crate) fn next_generation(&self, secret: &str) -> u64 {
        let written = self
            .bundle(secret)
            .and_then(|secret| secret.bundle.as_ref())
            .map(|bundle| bundle.generation);
        let told = self
            .standing
            .as_ref()
            .and_then(|standing| standing.generations.get(secret).copied());
        let held = self
            .states
            .values()
            .flat_map(|state| &state.spec.held)
            .filter(|held| held.name == secret)
            .filter_map(|held| u64::try_from(held.generation).ok());
        // a node that tells nonsense does not stop the count
        let most = held.chain(written).chain(told).max().unwrap_or(0);
        most.min(u64::from(u32::MAX)) + 1
    }
}

fn holds(state: &NodePullAccess, standing: &BundleStanding, mode: Mode) -> bool {
    let in_mode = match state.spec.mode {
        NodeMode::DockerConfig => Mode::DockerConfig,
        NodeMode::CredentialProvider => Mode::CredentialProvider,
    };
    state.spec.state == NodeState::Ready
        && in_mode == mode
        && state.metadata.deletion_timestamp.is_none()
        && standing.generations.iter().all(|(name, generation)| {
            state
                .spec
                .held
                .iter()
                .any(|held| held.name == *name && u64::try_from(held.generation) == Ok(*generation))
        })
}

/// Registries that pods can use now and could not if only nodes served them, each with its reason. What an administrator
/// keeps off nodes on purpose is none of them.
pub(crate) fn unserved(outcomes: &[Outcome]) -> Vec<(&str, Reason)> {
    outcomes
        .iter()
        .filter(|outcome| {
            matches!(
                outcome.reason,
                Reason::RestrictedToNamespaces | Reason::TooLarge | Reason::OutsideMatchImages
            )
        })
        .map(|outcome| (outcome.registry.as_str(), outcome.reason))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::ResourceExt as _;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn state(name: &str, changes: Value) -> NodePullAccess {
        let mut object = json!({
            "apiVersion": "pullpass.dev/v1alpha1", "kind": "NodePullAccess",
            "metadata": {"name": name},
            "mode": "DockerConfig", "state": "Ready", "reason": "OnEveryNode",
            "held": [{"name": "pullpass-nodes", "generation": 3, "since": "2026-01-01T00:00:00Z"}],
            "effectiveAt": "2026-01-01T00:05:00Z",
        });
        object
            .as_object_mut()
            .unwrap()
            .extend(changes.as_object().unwrap().clone());
        serde_json::from_value(object).unwrap()
    }

    fn nodes(states: &[NodePullAccess], agents: usize) -> Nodes {
        Nodes {
            states: states.iter().map(|s| (s.name_any(), s.clone())).collect(),
            agents: Some(agents),
            standing: Some(BundleStanding {
                generations: BTreeMap::from([("pullpass-nodes".into(), 3)]),
                ..BundleStanding::default()
            }),
            ..Nodes::default()
        }
    }

    #[rstest]
    #[case(json!({}), 1)]
    #[case(json!({"state": "Pending"}), 0)]
    #[case(json!({"state": "Withdrawn"}), 0)]
    #[case(json!({"mode": "CredentialProvider"}), 0)]
    #[case(json!({"held": []}), 0)]
    #[case(json!({"held": [{"name": "pullpass-nodes", "generation": 2, "since": "2026-01-01T00:00:00Z"}]}), 0)]
    #[case(json!({"held": [{"name": "pullpass-nodes", "generation": 4, "since": "2026-01-01T00:00:00Z"}]}), 0)]
    #[case(json!({"held": [{"name": "pullpass-nodes", "generation": -3, "since": "2026-01-01T00:00:00Z"}]}), 0)]
    fn a_node_is_ready_with_what_was_written_last(#[case] changes: Value, #[case] ready: usize) {
        let tally = nodes(&[state("a", changes)], 1).tally(Mode::DockerConfig);
        assert_eq!((tally.selected, tally.ready), (1, ready));
        assert_eq!(tally.is_complete(), ready == 1);
    }

    #[test]
    fn a_node_whose_agent_tells_nothing_counts() {
        let tally = nodes(&[state("a", json!({}))], 2).tally(Mode::DockerConfig);
        assert!(!tally.is_complete());
        assert_eq!((tally.selected, tally.ready), (2, 1));
        assert!(!nodes(&[], 0).tally(Mode::DockerConfig).is_complete());
    }

    #[test]
    fn a_node_serves_once_kubelet_has_forgotten_what_it_read_before() {
        let nodes = nodes(&[state("a", json!({}))], 1);
        let at = |text: &str| text.parse().unwrap();
        assert!(!nodes.serves("a", Mode::DockerConfig, at("2026-01-01T00:04:59Z")));
        assert!(nodes.serves("a", Mode::DockerConfig, at("2026-01-01T00:05:00Z")));
        assert!(!nodes.serves("b", Mode::DockerConfig, at("2026-01-01T00:05:00Z")));
    }

    #[test]
    fn no_generation_comes_twice() {
        let held = |generation: i64| json!({"held": [{"name": "pullpass-nodes", "generation": generation, "since": "2026-01-01T00:00:00Z"}]});
        let mut nodes = nodes(&[state("a", held(7)), state("b", held(-1))], 2);
        assert_eq!(nodes.next_generation("pullpass-nodes"), 8);
        assert_eq!(nodes.next_generation("pullpass-nodes-restricted"), 1);
        let written = BundleSecret {
            version: Version {
                uid: "u".into(),
                resource_version: "1".into(),
            },
            ours: true,
            immutable: false,
            bundle: Some(Arc::new(Bundle {
                generation: 9,
                ..Bundle::default()
            })),
        };
        nodes
            .bundles
            .entry("pullpass-nodes".into())
            .or_default()
            .written("pullpass-nodes", written);
        assert_eq!(nodes.next_generation("pullpass-nodes"), 10);
        let mut liar = nodes;
        liar.states.insert("c".into(), state("c", held(i64::MAX)));
        assert!(liar.next_generation("pullpass-nodes") < u64::MAX);
    }
}
