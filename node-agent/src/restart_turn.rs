//! Whose turn it is to restart kubelet: one node at a time across the cluster, by a Lease that the nodes pass on.
//!
//! A node whose kubelet did not come back keeps the Lease and notes which configuration that was with, so that no other
//! node follows it. The chart makes the Lease; the agents may only update it.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::PostParams;
use kube::{Api, ResourceExt as _};

/// The Lease's name, in the agent's namespace.
pub const LEASE: &str = "pullpass-kubelet-restart";

/// Which configuration the holder's kubelet did not come back with.
const REFUSED_ANNOTATION: &str = "pullpass.dev/refused-configuration";

/// After how long without a change a turn is over: its node has gone. Longer than a restart, its roll-back and the restart
/// after that can take.
pub const TURN: Duration = Duration::from_secs(600);

/// Who may restart kubelet now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// This node, if it takes the Lease.
    Free,
    /// This node, which has it.
    Ours,
    /// Another node.
    Waiting {
        /// Which one.
        node: String,
    },
    /// No node: kubelet of that one did not come back with this configuration.
    Stopped {
        /// Which one.
        node: String,
    },
}

/// Decides by the Lease as this process has seen it unchanged for so long, by its own clock.
pub fn turn(lease: &Lease, node: &str, configuration: &str, unchanged_for: Duration) -> Turn {
    let holder = lease
        .spec
        .as_ref()
        .and_then(|spec| spec.holder_identity.as_deref())
        .filter(|holder| !holder.is_empty());
    let Some(holder) = holder else {
        return Turn::Free;
    };
    let refused = lease.annotations().get(REFUSED_ANNOTATION);
    if refused.is_some_and(|refused| refused == configuration) {
        return Turn::Stopped {
            node: holder.to_owned(),
        };
    }
    if holder == node {
        return Turn::Ours;
    }
    // a node that has been rolled back only holds the others up for as long as they want the same
    if refused.is_some() || unchanged_for >= TURN {
        return Turn::Free;
    }
    Turn::Waiting {
        node: holder.to_owned(),
    }
}

/// The Lease as it is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holding<'a> {
    Taken,
    GivenBack,
    Refused(&'a str),
}

fn held(mut lease: Lease, node: &str, holding: Holding<'_>, now: MicroTime) -> Lease {
    let spec = lease.spec.get_or_insert_default();
    spec.holder_identity = match holding {
        Holding::Taken | Holding::Refused(_) => Some(node.to_owned()),
        Holding::GivenBack => None,
    };
    spec.lease_duration_seconds = i32::try_from(TURN.as_secs()).ok();
    spec.renew_time = Some(now);
    let annotations = lease.annotations_mut();
    match holding {
        Holding::Refused(configuration) => {
            annotations.insert(REFUSED_ANNOTATION.into(), configuration.into());
        }
        Holding::Taken | Holding::GivenBack => {
            annotations.remove(REFUSED_ANNOTATION);
        }
    }
    lease
}

/// The Lease on the API server, for one node.
#[derive(Clone, Debug)]
pub struct RestartTurn {
    leases: Api<Lease>,
    node: String,
}

impl RestartTurn {
    /// For a node, in the agent's namespace.
    pub fn new(leases: Api<Lease>, node: &str) -> Self {
        Self {
            leases,
            node: node.to_owned(),
        }
    }

    /// The Lease as it is now.
    ///
    /// # Errors
    /// What the API server says; 404 where the chart's object is missing.
    pub async fn read(&self) -> kube::Result<Lease> {
        self.leases.get(LEASE).await
    }

    /// Takes the Lease, as it was read.
    ///
    /// # Errors
    /// 409 where another node was faster; what else the API server says.
    pub async fn take(&self, lease: Lease) -> kube::Result<Lease> {
        self.write(lease, Holding::Taken).await
    }

    /// Gives the Lease back: kubelet is back with the new configuration.
    ///
    /// # Errors
    /// What the API server says. The turn then ends by itself after [`TURN`].
    pub async fn give_back(&self, lease: Lease) -> kube::Result<Lease> {
        self.write(lease, Holding::GivenBack).await
    }

    /// Keeps the Lease and stops all other nodes: kubelet did not come back with this configuration.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn refuse(&self, lease: Lease, configuration: &str) -> kube::Result<Lease> {
        self.write(lease, Holding::Refused(configuration)).await
    }

    async fn write(&self, lease: Lease, holding: Holding<'_>) -> kube::Result<Lease> {
        let now = MicroTime(jiff::Timestamp::now());
        // with the version that was read, so that of two nodes one is refused
        let lease = held(lease, &self.node, holding, now);
        self.leases
            .replace(LEASE, &PostParams::default(), &lease)
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOT_LONG: Duration = Duration::ZERO;

    fn now() -> MicroTime {
        MicroTime(jiff::Timestamp::UNIX_EPOCH)
    }

    fn of(node: &str, holding: Holding<'_>) -> Lease {
        held(Lease::default(), node, holding, now())
    }

    fn named(node: &str) -> String {
        node.to_owned()
    }

    #[test]
    fn nodes_take_turns() {
        let fresh = Lease::default();
        assert_eq!(turn(&fresh, "a", "x", NOT_LONG), Turn::Free);
        let taken = held(fresh, "a", Holding::Taken, now());
        assert_eq!(turn(&taken, "a", "x", NOT_LONG), Turn::Ours);
        let waiting = Turn::Waiting { node: named("a") };
        assert_eq!(turn(&taken, "b", "x", NOT_LONG), waiting);
        let back = held(taken, "a", Holding::GivenBack, now());
        assert_eq!(turn(&back, "b", "x", NOT_LONG), Turn::Free);
    }

    #[test]
    fn a_node_that_has_gone_loses_its_turn() {
        let taken = of("a", Holding::Taken);
        let almost = TURN - Duration::from_secs(1);
        let waiting = Turn::Waiting { node: named("a") };
        assert_eq!(turn(&taken, "b", "x", almost), waiting);
        assert_eq!(turn(&taken, "b", "x", TURN), Turn::Free);
        // its own turn it takes up again, as after a restart of the agent
        assert_eq!(turn(&taken, "a", "x", TURN), Turn::Ours);
    }

    #[test]
    fn a_configuration_that_one_node_refused_goes_no_further() {
        let refused = of("a", Holding::Refused("bad"));
        let stopped = Turn::Stopped { node: named("a") };
        for node in ["a", "b"] {
            assert_eq!(turn(&refused, node, "bad", NOT_LONG), stopped);
            assert_eq!(turn(&refused, node, "bad", 2 * TURN), stopped);
        }
        // another configuration is another matter
        assert_eq!(turn(&refused, "a", "good", NOT_LONG), Turn::Ours);
        assert_eq!(turn(&refused, "b", "good", NOT_LONG), Turn::Free);
        let taken = held(refused, "b", Holding::Taken, now());
        assert_eq!(turn(&taken, "b", "bad", NOT_LONG), Turn::Ours);
    }
}
