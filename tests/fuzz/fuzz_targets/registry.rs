//! The spec of a Registry, as JSON: more than the API server lets through, since an object may be older than a rule.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use pullpass_api::{Registry, convert};
use pullpass_core::decide::{Decision, Delivery, Pod, decide};
use pullpass_core::policy::{Namespace, Policy, grant};
use pullpass_core::registry::{CredentialKind, Injection};
use serde_json::{Value, json};

fuzz_target!(|spec: &[u8]| {
    let Ok(spec) = serde_json::from_slice::<Value>(spec) else {
        return;
    };
    let resource = json!({
        "apiVersion": "pullpass.dev/v1alpha1",
        "kind": "Registry",
        "metadata": {"name": "acme"},
        "spec": spec,
    });
    let Ok(resource) = serde_json::from_value::<Registry>(resource) else {
        return;
    };
    let registry = match convert::registry(&resource) {
        Ok(registry) => registry,
        Err(error) => {
            assert!(error.to_string().starts_with("spec."), "{error}");
            return;
        }
    };
    assert!(registry.injection == Injection::Always || registry.key.is_some());

    let namespaces = resource
        .spec
        .access
        .as_ref()
        .and_then(|access| access.namespaces.as_ref());
    let is_public = registry.credential == CredentialKind::None;
    let policy = Policy {
        cluster_name: Some("prod".into()),
        registries: vec![Arc::new(registry)],
        ..Policy::default()
    };
    let granted = |name: &str| {
        let namespace = Namespace {
            name: name.into(),
            ..Namespace::default()
        };
        grant(&namespace, &policy)
    };
    assert!(granted("kube-system").is_empty());
    let team = granted("team-a");
    if is_public || namespaces.is_none() {
        assert!(team.is_empty());
    }
    let pod = Pod {
        images: &["registry.example.com/app", "nginx"],
        ..Pod::default()
    };
    match decide(&pod, &team, "pullpass", Delivery::Written) {
        Decision::Inject { names, .. } => assert!(!team.is_empty() && names.len() == 1),
        Decision::Skip(_) => {}
        Decision::Await => panic!("nothing to wait for"),
    }
});
