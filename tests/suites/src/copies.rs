//! What Pullpass has put into a namespace.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use pullpass_api::PullAccess;
use pullpass_harness::objects::{PULL_SECRET, base64};
use pullpass_harness::{ApiServer, eventually};
use serde_json::Value;

/// How long Pullpass may take for anything that it does at once. Generous, since a busy machine decides nothing.
pub const CONVERGENCE: Duration = Duration::from_secs(30);

/// How long something is watched that must not happen. The controller acts within milliseconds of what it sees, and
/// repairs that it tries again come within a few seconds.
pub const LONG_ENOUGH: Duration = Duration::from_secs(3);

/// The pull secret of a namespace, where there is one.
///
/// # Panics
/// If the API server cannot be asked.
pub async fn secret(server: &ApiServer, namespace: &str) -> Option<Secret> {
    let secrets: Api<Secret> = server.of(namespace);
    secrets
        .get_opt(PULL_SECRET)
        .await
        .unwrap_or_else(|error| panic!("cannot read the pull secret of {namespace}: {error}"))
}

/// The PullAccess of a namespace, where there is one.
///
/// # Panics
/// If the API server cannot be asked.
pub async fn access(server: &ApiServer, namespace: &str) -> Option<PullAccess> {
    let accesses: Api<PullAccess> = server.of(namespace);
    accesses
        .get_opt(pullpass_api::pull_access::NAME)
        .await
        .unwrap_or_else(|error| panic!("cannot read the PullAccess of {namespace}: {error}"))
}

/// The docker config in a Secret.
///
/// # Panics
/// If there is none, or if it is not JSON.
pub fn docker_config(secret: &Secret) -> Value {
    let data = secret.data.as_ref().expect("a Secret with data");
    let config = data.get(".dockerconfigjson").expect("a docker config");
    serde_json::from_slice(&config.0).expect("a docker config in JSON")
}

/// Waits until the namespace's pull secret has this login for `host` in the form that kubelet reads, and returns it.
///
/// # Panics
/// If that does not come about.
pub async fn has_login(
    server: &ApiServer,
    namespace: &str,
    host: &str,
    username: &str,
    password: &str,
) -> Secret {
    eventually(
        CONVERGENCE,
        "the namespace holds the credential",
        async || {
            let secret = secret(server, namespace).await.ok_or("no Secret")?;
            if secret.type_.as_deref() != Some("kubernetes.io/dockerconfigjson") {
                return Err(format!("it is of type {:?}", secret.type_));
            }
            let config = docker_config(&secret);
            let entry = &config["auths"][host];
            let expected = base64(format!("{username}:{password}"));
            if entry["auth"] == expected.as_str() {
                Ok(secret)
            } else {
                let keys: Option<Vec<_>> = config["auths"]
                    .as_object()
                    .map(|auths| auths.keys().cloned().collect());
                Err(format!(
                    "another login, or none, among {:?}",
                    keys.unwrap_or_default()
                ))
            }
        },
    )
    .await
}

/// Waits until neither the pull secret nor the PullAccess is in the namespace.
///
/// # Panics
/// If that does not come about.
pub async fn is_clear(server: &ApiServer, namespace: &str) {
    eventually(
        CONVERGENCE,
        "nothing of ours is in the namespace",
        async || match (
            secret(server, namespace).await,
            access(server, namespace).await,
        ) {
            (None, None) => Ok(()),
            (secret, access) => Err(format!(
                "a Secret: {}, a PullAccess: {}",
                secret.is_some(),
                access.is_some()
            )),
        },
    )
    .await;
}

/// Waits until the namespace's PullAccess says this of its Secret, as `Blocked/ForeignSecret`.
///
/// # Panics
/// If that does not come about.
pub async fn has_state(server: &ApiServer, namespace: &str, wanted: &str) {
    eventually(CONVERGENCE, "the PullAccess tells the state", async || {
        let access = access(server, namespace).await.ok_or("no PullAccess")?;
        let state = format!(
            "{:?}/{}",
            access.spec.secret.state, access.spec.secret.reason
        );
        if state == wanted { Ok(()) } else { Err(state) }
    })
    .await;
}

/// Waits until the namespace's PullAccess gives these reasons, by registry.
///
/// # Panics
/// If that does not come about.
pub async fn tells(server: &ApiServer, namespace: &str, expected: &[(&str, &str)]) {
    eventually(
        CONVERGENCE,
        "the PullAccess tells of each registry",
        async || {
            let access = access(server, namespace).await.ok_or("no PullAccess")?;
            let told: Vec<(&str, &str)> = access
                .spec
                .registries
                .iter()
                .map(|registry| (registry.name.as_str(), registry.reason.as_str()))
                .collect();
            if told == expected {
                Ok(())
            } else {
                Err(format!("{told:?}"))
            }
        },
    )
    .await;
}
