//! From copies to nodes: whether a namespace still gets a pull secret.

use std::sync::atomic::Ordering;

use super::World;
use super::settings::PullSecrets;
use crate::observed::Copy;
use crate::queue::Lane;

impl World {
    /// Whether copies stay only until nodes serve in their place.
    pub(crate) fn awaits_nodes(&self) -> bool {
        self.settings.pull_secrets == PullSecrets::Off && !self.handed_over.load(Ordering::Acquire)
    }

    /// Nodes serve in place of copies, or nobody does any more.
    pub(crate) fn hand_over_to_nodes(&self) {
        self.handed_over.store(true, Ordering::Release);
        let all: Vec<String> = self.lock().places.keys().cloned().collect();
        self.namespaces.add_all(all, Lane::Bulk);
        self.statuses.notify_one();
    }

    /// Whether a namespace with this copy, or none, is to be given a pull secret at all.
    pub(crate) fn gives_copy(&self, namespace: &str, copy: Option<&Copy>) -> bool {
        match self.settings.pull_secrets {
            PullSecrets::On => true,
            // builders and installers use it there, and no pod
            PullSecrets::Off if namespace == self.settings.namespace => true,
            PullSecrets::Off => self.awaits_nodes() && copy.is_some_and(|copy| copy.ours),
        }
    }
}
