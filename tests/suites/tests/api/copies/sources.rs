//! What becomes of copies when their source changes, for better or worse.

use std::collections::BTreeMap;

use futures::future::join_all;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use pullpass_harness::objects::{PULL_SECRET, SYSTEM_NAMESPACE, base64, secret};
use pullpass_harness::{eventually, lease, stays};
use pullpass_suites::copies::{self, CONVERGENCE, LONG_ENOUGH, has_login};
use pullpass_suites::registries::{self, has_condition};
use serde_json::{Value, json};

use super::{HOST, scene, uid};
use crate::controller_writes::{controllers_writes, writes_nothing};

#[tokio::test]
async fn a_changed_password_is_one_write_in_place_for_each_copy() {
    let scene = scene().await;
    let teams = scene.teams(5).await;
    scene.is_settled().await;
    let before = join_all(teams.iter().map(|team| scene.has_password(team, "first"))).await;
    let audit = scene.server.audit();
    registries::write_source(&scene.server, "acme", "user", "second").await;
    let after = join_all(teams.iter().map(|team| scene.has_password(team, "second"))).await;
    let uids = |copies: &[Secret]| copies.iter().map(uid).collect::<Vec<_>>();
    assert_eq!(uids(&before), uids(&after));
    scene.is_settled().await;
    let mut expected: BTreeMap<String, usize> = teams
        .iter()
        .map(String::as_str)
        .chain([SYSTEM_NAMESPACE])
        .map(|namespace| (format!("patch secrets {namespace}/pullpass"), 1))
        .collect();
    expected.insert(
        format!("patch secrets {SYSTEM_NAMESPACE}/pullpass-credential-acme"),
        1,
    );
    let quiet = async || {
        let mut found: BTreeMap<String, usize> = BTreeMap::new();
        for entry in controllers_writes(&audit) {
            assert!(entry.succeeded(), "{}", entry.summary());
            if entry.resource() == "registries/status" {
                continue;
            }
            let key = format!(
                "{} {} {}/{}",
                entry.verb,
                entry.resource(),
                entry.namespace(),
                entry.name()
            );
            *found.entry(key).or_default() += 1;
        }
        if found == expected {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    };
    eventually(CONVERGENCE, "each copy is written", quiet).await;
    stays(
        LONG_ENOUGH,
        "each copy is written once, and nothing else",
        quiet,
    )
    .await;
}

#[tokio::test]
async fn a_source_that_says_the_same_writes_nothing() {
    let scene = scene().await;
    scene.teams(2).await;
    scene.is_settled().await;
    let audit = scene.server.audit();
    let sources: Api<Secret> = scene.server.of(SYSTEM_NAMESPACE);
    let touch = Patch::Merge(json!({"metadata": {"annotations": {"touched": "yes"}}}));
    sources
        .patch("acme", &PatchParams::default(), &touch)
        .await
        .unwrap();
    writes_nothing(&audit, |entry| entry.name() == PULL_SECRET).await;
}

/// A good source, a bad one in its place, and the reason that the Registry gives.
async fn keeps_the_last_good(auth: Value, good: Secret, bad: Vec<(Secret, &str)>) {
    let server = lease().await;
    server.apply_chart().await;
    registries::write_secret(&server, &good).await;
    let spec =
        json!({"host": HOST, "auth": auth, "access": {"namespaces": {"include": ["team*"]}}});
    registries::create(&server, &registries::with_spec("acme", &spec)).await;
    let _controller = server.start_controller("one", &[]).await;
    let team = server.namespace("team").await;
    let original = has_login(&server, &team, HOST, "user", "first").await;
    has_condition(&server, "acme", "Ready", "True/Synced").await;
    let sources: Api<Secret> = server.of(SYSTEM_NAMESPACE);
    let now = DeleteParams::default();
    for (bad, reason) in bad {
        // a Secret's type cannot be changed
        sources.delete("acme", &now).await.unwrap();
        registries::write_secret(&server, &bad).await;
        has_condition(
            &server,
            "acme",
            "CredentialsReady",
            &format!("False/{reason}"),
        )
        .await;
        has_condition(&server, "acme", "Ready", "False/KeepingLastGood").await;
        let kept = copies::secret(&server, &team).await.unwrap();
        assert_eq!(
            kept.metadata.resource_version, original.metadata.resource_version,
            "{reason}"
        );
    }
    sources.delete("acme", &now).await.unwrap();
    has_condition(&server, "acme", "CredentialsReady", "False/SourceMissing").await;
    let kept = copies::secret(&server, &team).await.unwrap();
    assert_eq!(
        kept.metadata.resource_version, original.metadata.resource_version,
        "without a source"
    );
    // a namespace that is new now gets the last good
    let late = server.namespace("team-late").await;
    has_login(&server, &late, HOST, "user", "first").await;
    registries::write_secret(&server, &good).await;
    has_condition(&server, "acme", "Ready", "True/Synced").await;
}

#[tokio::test]
async fn a_bad_user_or_password_keeps_the_last_good() {
    let opaque = |data: &[(&str, &str)]| secret("acme", "Opaque", data);
    keeps_the_last_good(
        json!({"basic": {"secretRef": {"name": "acme"}}}),
        opaque(&[("username", "user"), ("password", "first")]),
        vec![
            (opaque(&[("username", "user")]), "SourceKeyMissing"),
            (opaque(&[("password", "first")]), "SourceKeyMissing"),
            (opaque(&[]), "SourceKeyMissing"),
            (
                opaque(&[("username", ""), ("password", "")]),
                "EmptyCredential",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_bad_docker_config_keeps_the_last_good() {
    let typed = |config: &str| {
        secret(
            "acme",
            "kubernetes.io/dockerconfigjson",
            &[(".dockerconfigjson", config)],
        )
    };
    let entry = |host: &str, auth: &str| json!({"auths": {host: {"auth": auth}}}).to_string();
    let opaque = |config: &str| secret("acme", "Opaque", &[(".dockerconfigjson", config)]);
    let mut binary = opaque("");
    binary.data = Some(
        [(
            ".dockerconfigjson".to_owned(),
            ByteString(vec![0xff, 0xfe, 0x00]),
        )]
        .into(),
    );
    keeps_the_last_good(
        json!({"dockerConfig": {"secretRef": {"name": "acme"}}}),
        typed(&entry(HOST, &base64("user:first"))),
        vec![
            (opaque("{"), "MalformedSource"),
            (opaque(""), "MalformedSource"),
            (opaque("[]"), "MalformedSource"),
            (binary, "MalformedSource"),
            (typed(&entry(HOST, "%%%")), "MalformedSource"),
            (
                typed(&entry(HOST, &base64("without a colon"))),
                "MalformedSource",
            ),
            (
                typed(&entry("other.example.com", &base64("user:first"))),
                "NoMatchingEntry",
            ),
            (typed(r#"{"auths":{}}"#), "NoMatchingEntry"),
            (
                secret("acme", "Opaque", &[("config", "{}")]),
                "SourceKeyMissing",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_registry_that_never_had_a_credential_holds_nobody_up() {
    let scene = scene().await;
    let server = &scene.server;
    registries::create(
        server,
        &registries::private("broken", "broken.example.com", &["team*", "lonely*"]),
    )
    .await;
    has_condition(
        server,
        "broken",
        "CredentialsReady",
        "Unknown/SourceMissing",
    )
    .await;
    let team = scene.teams(1).await.remove(0);
    let access = serde_json::to_value(copies::access(server, &team).await.unwrap()).unwrap();
    let told: Vec<_> = access["registries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (&entry["name"], &entry["state"]))
        .collect();
    assert!(
        told.contains(&(&json!("broken"), &json!("Unavailable"))),
        "{told:?}"
    );
    assert!(
        told.contains(&(&json!("acme"), &json!("Available"))),
        "{told:?}"
    );
    let lonely = server.namespace("lonely").await;
    eventually(CONVERGENCE, "the lonely namespace is told", async || {
        let access = copies::access(server, &lonely)
            .await
            .ok_or("no PullAccess")?;
        let told = serde_json::to_value(&access.spec.secret).unwrap();
        if told["state"] == "Blocked" {
            Ok(())
        } else {
            Err(told.to_string())
        }
    })
    .await;
    assert!(copies::secret(server, &lonely).await.is_none());
    registries::write_source(server, "broken", "b", "b").await;
    has_login(server, &lonely, "broken.example.com", "b", "b").await;
}
