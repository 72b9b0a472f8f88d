//! Which ways lead from a credential to a pull in this cluster, and how the one over nodes stands for each Registry.

use pullpass_api::registry::NodeStatus;
use pullpass_api::status::Truth;
use pullpass_core::bundle::Mode;
use pullpass_core::reason::Reason;
use pullpass_core::render::Outcome;

use crate::nodes::{BundleStanding, NodeTally};
use crate::status::{Judgement, first_of};
use crate::world::{PullSecrets, World};

/// The ways that are on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delivery {
    /// Whether namespaces get pull secrets.
    pub(crate) pull_secrets: PullSecrets,
    /// How nodes stand, where they hold credentials.
    pub(crate) nodes: Option<NodeDelivery>,
}

/// How nodes stand.
#[derive(Clone, Debug)]
pub(crate) struct NodeDelivery {
    tally: NodeTally,
    /// `None` while no bundle was put together.
    standing: Option<BundleStanding>,
    withdraw: bool,
}

impl Delivery {
    /// As they stand now.
    pub(crate) fn of(world: &World) -> Self {
        let nodes = |mode: Mode| {
            let (tally, standing) = world.nodes(mode);
            NodeDelivery {
                tally,
                standing,
                withdraw: world.settings.withdraw_nodes,
            }
        };
        Self {
            pull_secrets: world.settings.pull_secrets,
            nodes: world.settings.nodes.map(nodes),
        }
    }
}

impl NodeDelivery {
    /// How many nodes tell what.
    pub(crate) fn tally(&self) -> &NodeTally {
        &self.tally
    }

    /// What there is to say of a Registry of this name.
    pub(crate) fn judge(&self, registry: &str) -> (Judgement, NodeStatus) {
        let none = NodeStatus::default();
        let plain = |truth, reason| (Judgement::of_reason(truth, reason), none);
        if self.withdraw {
            return plain(Truth::False, Reason::NodesWithdrawn);
        }
        let Some(standing) = &self.standing else {
            return plain(Truth::Unknown, Reason::CredentialPending);
        };
        let outcome = standing.outcomes.iter().find(|o| o.registry == registry);
        let Some(outcome) = outcome else {
            return plain(Truth::True, Reason::ClusterNotSelected);
        };
        let reason = outcome.reason;
        // as the administrator wants it, or without anything to hold
        if [
            Reason::NodesDenied,
            Reason::PublicRegistry,
            Reason::HeldByNamespace,
        ]
        .contains(&reason)
        {
            return plain(Truth::True, reason);
        }
        if ![
            Reason::Available,
            Reason::LostToPriority,
            Reason::TooLarge,
            Reason::OutsideMatchImages,
        ]
        .contains(&reason)
        {
            return plain(Truth::False, reason);
        }
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let status = NodeStatus {
            selected: count(self.tally.selected),
            ready: count(self.tally.ready),
        };
        (self.judge_held(outcome, standing), status)
    }

    fn judge_held(&self, outcome: &Outcome, standing: &BundleStanding) -> Judgement {
        if let Some((reason, message)) = &standing.blocked {
            return Judgement::new(Truth::False, *reason, message.clone());
        }
        if outcome.reason != Reason::Available {
            let keys = outcome.left_out.iter().map(ToString::to_string);
            let reason = outcome.reason;
            return Judgement::new(
                Truth::False,
                reason,
                format!(
                    "nodes lack {}: {} {}",
                    first_of(keys),
                    reason.meaning(),
                    reason.advice()
                ),
            );
        }
        let NodeTally {
            selected, ready, ..
        } = self.tally;
        if selected == 0 {
            let reason = Reason::SomeNodesPending;
            return Judgement::new(
                Truth::False,
                reason,
                "no node runs the node agent: look at the DaemonSet pullpass-node-agent",
            );
        }
        if !self.tally.is_complete() {
            let behind = &self.tally.behind;
            let silent = selected.saturating_sub(ready + behind.len());
            let mut message = format!("{ready} of {selected} nodes hold the credential");
            if !behind.is_empty() {
                message.push_str("; behind: ");
                let each = behind.iter();
                message.push_str(&first_of(
                    each.map(|(node, reason)| format!("{node} ({reason})")),
                ));
            }
            if silent > 0 {
                message.push_str(&format!("; {silent} have told nothing: look at the pods of the DaemonSet pullpass-node-agent"));
            }
            return Judgement::new(Truth::False, Reason::SomeNodesPending, message);
        }
        Judgement::new(
            Truth::True,
            Reason::OnEveryNode,
            match selected {
                1 => "the one node holds the credential".to_owned(),
                all => format!("all {all} nodes hold the credential"),
            },
        )
    }
}
