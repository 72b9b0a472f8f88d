//! What the decisions rest on, held in memory and kept up by watches: no request asks the API server anything.

pub mod accounts;
pub mod namespaces;
pub mod registries;
#[cfg(test)]
pub(crate) mod sample;

use std::sync::OnceLock;
use std::time::Duration;

use pullpass_core::policy::Policy;
use pullpass_daemon::Freshness;

use accounts::ServiceAccounts;
use namespaces::{Namespaces, View};
use registries::Registries;

/// A watch that has heard nothing for so long may have missed that a Secret is there. A healthy one hears a bookmark
/// each minute, and asks anew after 75 s of silence.
pub(crate) const STALE_AFTER: Duration = Duration::from_secs(90);

/// Everything that is known. Built from plain values in tests, and fed by [`crate::watches`] otherwise.
#[derive(Debug)]
pub struct State {
    /// The policy.
    pub registries: Registries,
    /// Namespaces and the state of their Secrets.
    pub namespaces: Namespaces,
    /// Service accounts that limit their pods.
    pub accounts: ServiceAccounts,
    followed: OnceLock<Vec<Freshness>>,
}

impl State {
    /// Nothing is known yet; `frame` is what the process's own configuration says of the policy.
    pub fn new(frame: Policy) -> Self {
        Self {
            registries: Registries::new(frame),
            namespaces: Namespaces::default(),
            accounts: ServiceAccounts::default(),
            followed: OnceLock::new(),
        }
    }

    /// From now on the state is only as good as these watches. Has an effect once.
    pub fn follow(&self, watches: Vec<Freshness>) {
        self.followed.get_or_init(|| watches);
    }

    /// What is known of a namespace; `None` until everything has been listed once.
    pub fn view(&self, namespace: &str) -> Option<View> {
        if !self.namespaces.are_listed() || !self.accounts.are_listed() {
            return None;
        }
        self.namespaces.view(namespace, &self.registries.current())
    }

    /// Whether no watch has lost touch with the API server.
    pub fn is_fresh(&self) -> bool {
        self.followed
            .get()
            .is_none_or(|watches| watches.iter().all(|watch| watch.age() < STALE_AFTER))
    }
}
