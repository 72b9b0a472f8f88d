//! The docker config in Pullpass's own namespace, for installers and builders, on a real API server and inside the fence.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Patch, PatchParams};
use pullpass_harness::objects::{PULL_SECRET, SYSTEM_NAMESPACE, base64, basic_secret};
use pullpass_harness::{Lease, eventually, lease, stays};
use pullpass_suites::copies::{
    self, CONVERGENCE, LONG_ENOUGH, docker_config, has_login, has_state,
};
use pullpass_suites::registries::{self, has_condition};
use serde_json::{Value, json};

const HOST: &str = "registry.example.com";

/// A Registry with a source of its own name, whose user is called like it too.
async fn registry(server: &Lease, name: &str, spec: Value) {
    registries::write_source(server, name, name, "first").await;
    let mut whole = json!({
        "auth": {"basic": {"secretRef": {"name": name}}},
        "access": {"namespaces": {"include": ["team*"]}},
    });
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    registries::create(server, &registries::with_spec(name, &whole)).await;
}

fn entry(username: &str, password: &str) -> Value {
    json!({"auth": base64(format!("{username}:{password}"))})
}

/// Waits until the own namespace's docker config is this.
async fn has_config(server: &Lease, expected: &Value) -> Secret {
    eventually(
        CONVERGENCE,
        "the docker config for installers",
        async || {
            let secret = copies::secret(server, SYSTEM_NAMESPACE)
                .await
                .ok_or("no Secret")?;
            let found = docker_config(&secret);
            if found == *expected {
                Ok(secret)
            } else {
                Err(found.to_string())
            }
        },
    )
    .await
}

#[tokio::test]
async fn it_holds_what_the_cluster_may_use_and_changes_in_place() {
    let server = lease().await;
    server.apply_chart().await;
    registry(&server, "acme", json!({"host": HOST})).await;
    // which namespaces a registry is for says nothing about installers
    let nobody =
        json!({"host": "own.example.com", "access": {"namespaces": {"include": ["nobody"]}}});
    registry(&server, "own", nobody).await;
    let elsewhere = json!({"host": "elsewhere.example.com", "access": {
        "namespaces": {"include": ["*"]}, "clusters": {"autoInject": ["production"]},
    }});
    registry(&server, "elsewhere", elsewhere).await;
    let held = json!({"host": "held.example.com", "access": {
        "namespaces": {"include": ["*"]}, "pullSecret": {"name": "regcred"},
    }});
    registry(&server, "held", held).await;
    let _controller = server
        .start_controller("one", &["--cluster-name=development"])
        .await;
    let first = has_config(
        &server,
        &json!({"auths": {HOST: entry("acme", "first"), "own.example.com": entry("own", "first")}}),
    )
    .await;
    assert_eq!(
        first.type_.as_deref(),
        Some("kubernetes.io/dockerconfigjson")
    );
    assert_eq!(
        first.labels().get("app.kubernetes.io/managed-by"),
        Some(&"pullpass".to_owned())
    );
    assert!(
        copies::access(&server, SYSTEM_NAMESPACE).await.is_none(),
        "no pod is given its name"
    );
    // it is no selected namespace, and counts as none
    has_condition(&server, "own", "Distributed", "True/NoNamespaceSelected").await;

    registry(&server, "winner", json!({"host": HOST, "priority": 1})).await;
    has_config(
        &server,
        &json!({"auths": {HOST: entry("winner", "first"), "own.example.com": entry("own", "first")}}),
    )
    .await;
    registries::delete(&server, "winner").await;
    registries::write_source(&server, "acme", "acme", "second").await;
    let second = has_config(
        &server,
        &json!({"auths": {HOST: entry("acme", "second"), "own.example.com": entry("own", "first")}}),
    )
    .await;
    assert_eq!(first.uid(), second.uid());
    // a bad source takes nothing away
    registries::write_source(&server, "acme", "", "").await;
    has_condition(&server, "acme", "CredentialsReady", "False/EmptyCredential").await;
    stays(LONG_ENOUGH, "the last good one is kept", async || {
        let now = copies::secret(&server, SYSTEM_NAMESPACE).await;
        let version = now.and_then(|secret| secret.resource_version());
        if version == second.resource_version() {
            Ok(())
        } else {
            Err(format!("{version:?}"))
        }
    })
    .await;

    registries::delete(&server, "acme").await;
    has_config(
        &server,
        &json!({"auths": {"own.example.com": entry("own", "first")}}),
    )
    .await;
    registries::delete(&server, "own").await;
    eventually(
        CONVERGENCE,
        "the Secret goes with its last entry",
        async || match copies::secret(&server, SYSTEM_NAMESPACE).await {
            None => Ok(()),
            Some(secret) => Err(docker_config(&secret).to_string()),
        },
    )
    .await;
}

#[tokio::test]
async fn a_source_of_its_name_is_neither_read_nor_touched() {
    let server = lease().await;
    server.apply_chart().await;
    registries::write_secret(&server, &basic_secret(PULL_SECRET, "user", "own")).await;
    let secrets: Api<Secret> = server.of(SYSTEM_NAMESPACE);
    let before = secrets.get(PULL_SECRET).await.unwrap();
    let mut misled = registries::private("misled", "misled.example.com", &["team*"]);
    misled.spec.auth =
        serde_json::from_value(json!({"basic": {"secretRef": {"name": PULL_SECRET}}})).unwrap();
    registries::create(&server, &misled).await;
    registry(&server, "acme", json!({"host": HOST})).await;
    let team = server.namespace("team").await;
    let _controller = server.start_controller("one", &[]).await;
    has_condition(
        &server,
        "misled",
        "CredentialsReady",
        "False/InvalidRegistry",
    )
    .await;
    has_condition(&server, "acme", "Distributed", "False/ForeignSecret").await;
    // what is wrong in the own namespace holds up no other
    has_login(&server, &team, HOST, "acme", "first").await;
    let after = secrets.get(PULL_SECRET).await.unwrap();
    assert_eq!(before, after);

    secrets
        .delete(PULL_SECRET, &DeleteParams::default())
        .await
        .unwrap();
    has_config(&server, &json!({"auths": {HOST: entry("acme", "first")}})).await;
    has_condition(&server, "acme", "Ready", "True/Synced").await;
    // nor is our own output anybody's input
    registries::patch(
        &server,
        "misled",
        &json!({"auth": {"basic": null, "dockerConfig": {"secretRef": {"name": PULL_SECRET}}}}),
    )
    .await;
    has_condition(
        &server,
        "misled",
        "CredentialsReady",
        "False/InvalidRegistry",
    )
    .await;
    has_config(&server, &json!({"auths": {HOST: entry("acme", "first")}})).await;
}

#[tokio::test]
async fn where_registries_select_the_own_namespace_it_is_one_secret_for_both() {
    let server = lease().await;
    server.apply_chart().await;
    registry(&server, "acme", json!({"host": HOST})).await;
    let own = json!({"host": "own.example.com", "access": {"namespaces": {"include": [SYSTEM_NAMESPACE]}}});
    registry(&server, "own", own).await;
    let both =
        json!({"auths": {HOST: entry("acme", "first"), "own.example.com": entry("own", "first")}});
    let closed = server.start_controller("closed", &[]).await;
    let before = has_config(&server, &both).await;
    has_condition(&server, "own", "Distributed", "True/NoNamespaceSelected").await;
    closed.terminate().await;

    let admitted = server
        .start_controller(
            "admitted",
            &[&format!("--system-namespaces={SYSTEM_NAMESPACE}")],
        )
        .await;
    has_state(&server, SYSTEM_NAMESPACE, "Written/Written").await;
    let access = copies::access(&server, SYSTEM_NAMESPACE).await.unwrap();
    let told: Vec<&str> = access
        .spec
        .registries
        .iter()
        .map(|registry| registry.name.as_str())
        .collect();
    assert_eq!(told, ["own"], "it tells of what selects the namespace");
    has_condition(&server, "own", "Distributed", "True/Synced").await;
    let selected = has_config(&server, &both).await;
    assert_eq!(before.resource_version(), selected.resource_version());
    admitted.terminate().await;

    let _closed = server.start_controller("closed-again", &[]).await;
    eventually(
        CONVERGENCE,
        "nobody is told any more",
        async || match copies::access(&server, SYSTEM_NAMESPACE).await {
            None => Ok(()),
            Some(access) => Err(format!("{:?}", access.spec)),
        },
    )
    .await;
    let after = has_config(&server, &both).await;
    assert_eq!(before.resource_version(), after.resource_version());
}

#[tokio::test]
async fn an_edited_one_is_repaired() {
    let server = lease().await;
    server.apply_chart().await;
    registry(&server, "acme", json!({"host": HOST})).await;
    let _controller = server.start_controller("one", &[]).await;
    let expected = json!({"auths": {HOST: entry("acme", "first")}});
    let before = has_config(&server, &expected).await;
    let secrets: Api<Secret> = server.of(SYSTEM_NAMESPACE);
    let spoil = Patch::Merge(json!({"data": {".dockerconfigjson": base64(r#"{"auths":{}}"#)}}));
    secrets
        .patch(PULL_SECRET, &PatchParams::default(), &spoil)
        .await
        .unwrap();
    let repaired = has_config(&server, &expected).await;
    assert_eq!(before.uid(), repaired.uid());
    secrets
        .delete(PULL_SECRET, &DeleteParams::default())
        .await
        .unwrap();
    let made_again = has_config(&server, &expected).await;
    assert_ne!(before.uid(), made_again.uid());
}
