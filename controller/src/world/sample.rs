//! Worlds and objects for tests.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use pullpass_api::Registry;
use pullpass_core::policy::Namespace;
use pullpass_daemon::Change;
use serde_json::{Value, json};

use super::{Settings, Verdict, World};
use crate::plan::Desired;

pub(super) fn world() -> World {
    World::new(Settings {
        namespace: "pullpass-system".into(),
        pull_secret_name: "pullpass".into(),
        ..Settings::default()
    })
}

pub(super) fn registry(uid: &str, changes: Value) -> Registry {
    let mut object = json!({
        "apiVersion": "pullpass.dev/v1alpha1", "kind": "Registry",
        "metadata": {"name": "acme", "uid": uid, "generation": 1},
        "spec": {
            "host": "r.example.com",
            "auth": {"basic": {"secretRef": {"name": "source"}}},
            "access": {"namespaces": {"include": ["team-*"]}},
        },
    });
    for (pointer, value) in changes.as_object().into_iter().flatten() {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[key] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

pub(crate) fn credential(owner: &str, auth: &str) -> Secret {
    serde_json::from_value(json!({
        "metadata": {
            "name": "pullpass-credential-acme", "uid": "c", "resourceVersion": "1",
            "labels": {"pullpass.dev/registry": "acme"},
            "ownerReferences": [{"apiVersion": "pullpass.dev/v1alpha1", "kind": "Registry", "name": "acme", "uid": owner}],
        },
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": k8s_openapi::ByteString(
            format!(r#"{{"auths":{{"r.example.com":{{"auth":"{auth}"}}}}}}"#).into_bytes(),
        )},
    }))
    .unwrap()
}

pub(crate) fn team_a() -> Namespace {
    Namespace {
        name: "team-a".into(),
        ..Namespace::default()
    }
}

/// A world with a Registry whose credential is known, and a namespace that it selects.
pub(crate) fn settled() -> World {
    let world = world();
    world.registries_changed(Change::Restarted(vec![registry("r-1", json!({}))]));
    world.secrets_changed(Change::Restarted(vec![credential("r-1", "dTpw")]));
    world.namespaces_changed(Change::Restarted(vec![team_a()]));
    let object = Arc::clone(&world.registry("acme").unwrap().0.object);
    world.judge("acme", &object, Verdict::Good.into());
    world
}

pub(super) fn desired(world: &World) -> Desired {
    let (rules, place) = world.place("team-a");
    let place = place.unwrap();
    let told = place.access.as_ref().map(|access| &access.content);
    rules
        .desired(place.namespace.as_ref().unwrap(), place.copy.as_ref(), told)
        .0
}

pub(super) fn is_delivered(world: &World) -> bool {
    matches!(desired(world), Desired::Delivery { content: Ok(_), .. })
}
