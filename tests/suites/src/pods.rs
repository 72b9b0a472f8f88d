//! Pods for tests: small, and within the restricted profile.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// A pod of one container with this image.
///
/// # Panics
/// Never: the object is complete.
pub fn pod(name: &str, image: &str) -> Pod {
    from(&manifest(name, image))
}

/// The same as JSON, for a test to change.
pub fn manifest(name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "app",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    })
}

/// Reads a manifest.
///
/// # Panics
/// If it is no pod.
pub fn from(manifest: &Value) -> Pod {
    serde_json::from_value(manifest.clone()).expect("a pod")
}

/// The names of a pod's pull secrets, in order.
pub fn pull_secrets(pod: &Pod) -> Vec<String> {
    let secrets = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.image_pull_secrets.as_ref());
    secrets
        .into_iter()
        .flatten()
        .map(|secret| secret.name.clone())
        .collect()
}
