//! Nodes, folded from their watches. They have a lock of their own: most clusters keep nodes out of this.

use std::sync::{MutexGuard, PoisonError};

use jiff::Timestamp;
use kube::ResourceExt as _;
use pullpass_api::NodePullAccess;
use pullpass_core::bundle::Mode;
use pullpass_daemon::Change;

use super::World;
use crate::mirror::Mirror;
use crate::nodes::{BundleSecret, BundleStanding, NodeTally, Nodes};
use crate::observed::Version;
use crate::taint::Tainted;

impl World {
    fn lock_nodes(&self) -> MutexGuard<'_, Nodes> {
        // what is folded is replaced as a whole
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Folds the watch on one of the bundles' Secrets.
    pub(crate) fn bundle_changed(&self, name: &str, change: Change<BundleSecret>) {
        self.fold_bundle(name, |bundle| match change {
            Change::Restarted(all) => {
                bundle.restarted(all.into_iter().map(|s| (name.to_owned(), s)).collect());
            }
            Change::Applied(secret) => bundle.applied(name.to_owned(), secret),
            Change::Deleted(secret) => bundle.deleted(name, &secret.version),
        });
        self.bundles.notify_one();
    }

    /// A bundle's Secret was written: what the watch will tell as well.
    pub(crate) fn wrote_bundle(&self, name: &str, secret: BundleSecret) {
        self.fold_bundle(name, |bundle| bundle.written(name, secret));
    }

    /// The Secret of a bundle of which this was a version is gone.
    pub(crate) fn deleted_bundle(&self, name: &str, version: &Version) {
        self.fold_bundle(name, |bundle| bundle.gone(name, version));
    }

    fn fold_bundle(&self, name: &str, fold: impl FnOnce(&mut Mirror<BundleSecret>)) {
        let mut nodes = self.lock_nodes();
        fold(nodes.bundles.entry(name.to_owned()).or_default());
    }

    /// A bundle's Secret.
    pub(crate) fn bundle_secret(&self, name: &str) -> Option<BundleSecret> {
        self.lock_nodes().bundle(name).cloned()
    }

    /// The generation that the next content of a bundle's Secret has.
    pub(crate) fn next_generation(&self, name: &str) -> u64 {
        self.lock_nodes().next_generation(name)
    }

    /// How the bundles stand now.
    pub(crate) fn bundles_stand(&self, standing: BundleStanding) {
        let mut nodes = self.lock_nodes();
        if nodes.standing.as_ref() == Some(&standing) {
            return;
        }
        nodes.standing = Some(standing);
        drop(nodes);
        self.statuses.notify_one();
        self.taints.notify_one();
    }

    /// Folds the watch on what nodes tell.
    pub(crate) fn nodes_changed(&self, change: Change<NodePullAccess>) {
        let mut nodes = self.lock_nodes();
        match change {
            Change::Restarted(states) => {
                nodes.states = states.into_iter().map(|s| (s.name_any(), s)).collect();
            }
            Change::Applied(state) => {
                nodes.states.insert(state.name_any(), state);
            }
            Change::Deleted(state) => {
                nodes.states.remove(&state.name_any());
            }
        }
        drop(nodes);
        self.statuses.notify_one();
        self.bundles.notify_one();
        self.taints.notify_one();
    }

    /// Folds the watch on the agent's DaemonSet: how many nodes are to run it.
    pub(crate) fn agents_changed(&self, agents: Option<usize>) {
        self.lock_nodes().agents = agents;
        self.statuses.notify_one();
        self.bundles.notify_one();
    }

    /// How nodes stand, and what the bundles came to.
    pub(crate) fn nodes(&self, mode: Mode) -> (NodeTally, Option<BundleStanding>) {
        let nodes = self.lock_nodes();
        (nodes.tally(mode), nodes.standing.clone())
    }

    /// Whether the node of this name holds what it should, and kubelet uses it.
    pub(crate) fn node_serves(&self, node: &str, mode: Mode, now: Timestamp) -> bool {
        self.lock_nodes().serves(node, mode, now)
    }

    /// Folds the watch on nodes, where the startup taint is Pullpass's to take off.
    pub(crate) fn tainted_changed(&self, change: Change<Tainted>) {
        let mut nodes = self.lock_nodes();
        let seen = match change {
            Change::Restarted(all) => {
                nodes.tainted.clear();
                all
            }
            Change::Applied(node) => vec![node],
            Change::Deleted(node) => vec![Tainted {
                others: None,
                ..node
            }],
        };
        for node in seen {
            match node.others {
                Some(_) => nodes.tainted.insert(node.name.clone(), node),
                None => nodes.tainted.remove(&node.name),
            };
        }
        drop(nodes);
        self.taints.notify_one();
    }

    /// Nodes that are not to run pods yet.
    pub(crate) fn tainted(&self) -> Vec<Tainted> {
        self.lock_nodes().tainted.values().cloned().collect()
    }

    /// The startup taint was taken off this node.
    pub(crate) fn untainted(&self, node: &str) {
        self.lock_nodes().tainted.remove(node);
    }
}
