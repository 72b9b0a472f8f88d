//! People who have a namespace and want more.

use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::PostParams;
use kube::{Api, Client};
use pullpass_api::pull_access;
use pullpass_harness::attempt::Attempt;
use pullpass_harness::objects::{PULL_SECRET, base64};
use pullpass_harness::{ApiServer, eventually};
use serde_json::{Value, json};

use crate::copies::CONVERGENCE;

/// A login that somebody should not have, to be searched for.
#[derive(Clone, Copy, Debug)]
pub struct Login<'a> {
    /// The name to log in with.
    pub username: &'a str,
    /// The password, which occurs nowhere else.
    pub password: &'a str,
}

impl Login<'_> {
    /// Whether some content gives it away, as it is or in the form that docker configs have.
    pub fn is_in(&self, content: impl AsRef<[u8]>) -> bool {
        let text = String::from_utf8_lossy(content.as_ref()).into_owned();
        let encoded = base64(format!("{}:{}", self.username, self.password));
        [self.password, &encoded, &base64(self.password)]
            .iter()
            .any(|form| text.contains(form))
    }
}

/// The client of a service account of `home`, with a token of its own and a role such as `edit` in some namespaces,
/// from the moment on at which that is in force.
///
/// # Panics
/// If the API server refuses to set it up.
pub async fn tenant(
    server: &ApiServer,
    home: &str,
    name: &str,
    role: &str,
    namespaces: &[&str],
) -> Client {
    let client = server.as_service_account(home, name).await;
    for namespace in namespaces {
        let binding: RoleBinding = serde_json::from_value(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": format!("{name}-{role}")},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": home}],
        }))
        .expect("a role binding");
        let bindings: Api<RoleBinding> = server.of(namespace);
        bindings
            .create(&PostParams::default(), &binding)
            .await
            .unwrap_or_else(|error| panic!("cannot bind {role} in {namespace}: {error}"));
        // the aggregated part of the role too, which the chart's own roles are
        for path in [secrets_path(namespace), accesses_path(namespace)] {
            eventually(CONVERGENCE, "the right is in force", async || {
                let outcome = Attempt::get(&path).by(&client).await;
                if outcome.succeeded() {
                    Ok(())
                } else {
                    Err(outcome.text)
                }
            })
            .await;
        }
    }
    client
}

/// Tries attacks, each with what the attacker does, and wants every one answered by one of these HTTP statuses.
///
/// # Panics
/// With all that were not.
pub async fn all_end_with(codes: &[u16], who: &Client, attacks: &[(&str, Attempt)]) {
    let mut others = Vec::new();
    for (what, attempt) in attacks {
        let outcome = attempt.by(who).await;
        if !codes.contains(&outcome.code) {
            let text: String = outcome.text.chars().take(300).collect();
            others.push(format!("{what}: {attempt}: {} {text}", outcome.code));
        }
    }
    assert!(others.is_empty(), "not {codes:?}:\n{}", others.join("\n"));
}

/// Everything that somebody can read in a namespace, Secrets decoded, each with where it was found.
///
/// # Panics
/// If the API server answers with something that is no list.
pub async fn all_readable(who: &Client, namespace: &str) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for resource in ["secrets", "configmaps", "events", "pods", "serviceaccounts"] {
        let path = format!("/api/v1/namespaces/{namespace}/{resource}");
        found.push((path.clone(), read(who, &path).await.into_bytes()));
    }
    let path = accesses_path(namespace);
    found.push((path.clone(), read(who, &path).await.into_bytes()));
    let secrets: Value =
        serde_json::from_str(&read(who, &secrets_path(namespace)).await).expect("a list");
    for secret in secrets["items"].as_array().into_iter().flatten() {
        let name = &secret["metadata"]["name"];
        let secret: k8s_openapi::api::core::v1::Secret =
            serde_json::from_value(secret.clone()).expect("a Secret");
        for (key, value) in secret.data.unwrap_or_default() {
            found.push((format!("{namespace}/{name} {key}"), value.0));
        }
    }
    found
}

async fn read(who: &Client, path: &str) -> String {
    let outcome = Attempt::get(path).by(who).await;
    assert!(outcome.succeeded(), "{path}: {outcome:?}");
    outcome.text
}

/// Where a namespace's Secrets are.
pub fn secrets_path(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/secrets")
}

/// Where a namespace's pull secret is.
pub fn copy_path(namespace: &str) -> String {
    format!("{}/{PULL_SECRET}", secrets_path(namespace))
}

/// Where a namespace's PullAccesses are.
pub fn accesses_path(namespace: &str) -> String {
    format!("/apis/pullpass.dev/v1alpha1/namespaces/{namespace}/pullaccesses")
}

/// Where the one is that Pullpass keeps there.
pub fn access_path(namespace: &str) -> String {
    format!("{}/{}", accesses_path(namespace), pull_access::NAME)
}
