//! Registries and tallies for tests.

use std::sync::Arc;

use jiff::Timestamp;
use pullpass_api::Registry;
use pullpass_api::registry::RegistryStatus;
use pullpass_core::docker_config::Entries;
use serde_json::{Value, json};

use super::status;
use super::tally::Tally;
use crate::credential::LastGood;
use crate::delivery::Delivery;
use crate::world::{Known, Verdict};

pub(super) fn known(verdict: Verdict, access: Value) -> Known {
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

pub(super) fn everywhere(verdict: Verdict) -> Known {
    known(verdict, json!({"namespaces": {"include": ["*"]}}))
}

pub(super) fn last_good() -> LastGood {
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

pub(super) fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

pub(super) fn tally(selected: usize, synced: usize) -> Tally {
    Tally {
        selected,
        synced,
        is_settled: true,
        ..Tally::default()
    }
}

pub(super) fn says(status: &RegistryStatus, kind: &str) -> (String, String, String) {
    let condition = status.conditions.iter().find(|c| c.type_ == kind).unwrap();
    (
        condition.status.clone(),
        condition.reason.clone(),
        condition.message.clone(),
    )
}

/// What is told where only namespaces get credentials, in a cluster without a name.
///
/// # Panics
/// If the Registry's credential was not looked at in its present form.
pub(super) fn told(known: &Known, last_good: Option<&LastGood>, tally: &Tally) -> RegistryStatus {
    status(known, last_good, None, tally, &Delivery::default(), now()).unwrap()
}
