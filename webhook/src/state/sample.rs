//! States for tests.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pullpass_core::glob::Glob;
use pullpass_core::key::RegistryKey;
use pullpass_core::policy::{Namespace, Policy};
use pullpass_core::registry::{
    ClusterAccess, CredentialKind, Injection, NamespaceAccess, NodeAccess, Registry,
};
use pullpass_daemon::Change;

use super::State;
use super::accounts::SeenAccount;
use super::namespaces::{SecretState, SeenNamespace, SeenPullAccess};
use super::registries::SeenRegistry;

/// The namespace of the captured reviews.
pub(crate) const NAMESPACE: &str = "shop";

pub(crate) fn registry(name: &str, include: &[&str]) -> Registry {
    Registry {
        name: name.into(),
        created: 0,
        key: Some(RegistryKey::parse("registry.example.com").unwrap()),
        credential: CredentialKind::Copied,
        clusters: ClusterAccess::default(),
        namespaces: NamespaceAccess {
            include: include.iter().map(|&glob| Glob::new(glob)).collect(),
            ..NamespaceAccess::default()
        },
        injection: Injection::default(),
        priority: 0,
        nodes: NodeAccess::default(),
    }
}

/// Everything listed: these registries, no namespace, no PullAccess, no service account.
pub(crate) fn listed(registries: impl IntoIterator<Item = Registry>) -> Arc<State> {
    let state = State::new(Policy::default());
    let seen = registries.into_iter().map(|registry| SeenRegistry {
        name: registry.name.clone(),
        registry: Some(registry),
    });
    state.registries.apply(Change::Restarted(seen.collect()));
    state
        .namespaces
        .apply(Change::Restarted(Vec::new()), Timestamp::UNIX_EPOCH);
    state
        .namespaces
        .apply_pull_access(Change::Restarted(Vec::new()));
    state.accounts.apply(Change::Restarted(Vec::new()));
    Arc::new(state)
}

/// One registry for every namespace, and the namespace of the captured reviews with its Secret.
pub(crate) fn settled() -> Arc<State> {
    let state = listed([registry("acme", &["*"])]);
    make(&state, &[]);
    deliver(&state, SecretState::Written);
    state
}

/// The namespace appears, young.
pub(crate) fn make(state: &State, labels: &[(&str, &str)]) {
    let seen = SeenNamespace {
        namespace: Namespace {
            name: NAMESPACE.into(),
            labels: labels
                .iter()
                .map(|&(key, value)| (key.into(), value.into()))
                .collect(),
            terminating: false,
        },
        created: Timestamp::UNIX_EPOCH,
    };
    state
        .namespaces
        .apply(Change::Applied(seen), Timestamp::UNIX_EPOCH);
}

pub(crate) fn deliver(state: &State, secret: SecretState) {
    state
        .namespaces
        .apply_pull_access(Change::Applied(SeenPullAccess {
            namespace: NAMESPACE.into(),
            secret,
        }));
}

pub(crate) fn enforce_mountable_secrets(state: &State, account: &str) {
    state.accounts.apply(Change::Applied(SeenAccount {
        key: format!("{NAMESPACE}/{account}"),
        enforces: true,
    }));
}

/// A decider that appends `pullpass` and waits for a second.
pub(crate) fn decider(state: &Arc<State>) -> crate::Decider {
    patient_decider(state, Duration::from_secs(1), 16)
}

pub(crate) fn patient_decider(
    state: &Arc<State>,
    wait: Duration,
    max_waiters: usize,
) -> crate::Decider {
    let metrics = crate::Metrics::new(&prometheus::Registry::new()).unwrap();
    crate::Decider::new(
        Arc::clone(state),
        "pullpass".into(),
        wait,
        max_waiters,
        metrics,
    )
}

/// A review as an API server sent it.
pub(crate) fn captured(name: &str) -> Vec<u8> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/reviews");
    std::fs::read(format!("{directory}/{name}.json")).unwrap()
}
