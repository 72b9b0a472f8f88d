//! A credential changes: every namespace has the new one, in the same Secret, and pulls go on.

use std::collections::BTreeSet;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use pullpass_harness::identity::service_account_user;
use pullpass_harness::objects::{PULL_SECRET, SYSTEM_NAMESPACE, base64};
use pullpass_harness::{eventually, shared};
use pullpass_suites::copies::{CONVERGENCE, has_login};
use pullpass_suites::registries::{self, has_condition};
use serde_json::json;

use crate::scene::Scene;

#[tokio::test]
async fn a_changed_password_is_everywhere_in_place_and_pulls_go_on() {
    let scene = Scene::on(shared().await).await;
    let cluster = &scene.cluster;
    let mut namespaces = Vec::new();
    for suffix in ["a", "b", "c"] {
        namespaces.push(scene.namespace(suffix).await);
    }
    let all_have = async |name: &str, password: &str| {
        join_all(
            namespaces
                .iter()
                .map(|namespace| has_login(cluster, namespace, scene.host(), name, password)),
        )
        .await
    };
    let before = all_have(&scene.user.name, &scene.user.password).await;
    scene.pulls_at_once(&namespaces[0]).await;
    has_condition(cluster, &scene.name, "Ready", "True/Synced").await;

    let audit = cluster.audit();
    let changed = cluster.registry().change_password(&scene.user).await;
    registries::write_source(cluster, &scene.name, &changed.name, &changed.password).await;
    let after = all_have(&changed.name, &changed.password).await;
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.metadata.uid, after.metadata.uid);
    }
    has_condition(cluster, &scene.name, "Ready", "True/Synced").await;
    let credential = format!("pullpass-credential-{}", scene.name);
    let mut expected: BTreeSet<String> = namespaces
        .iter()
        .map(|namespace| format!("secrets {namespace}/{PULL_SECRET}"))
        .collect();
    expected.insert(format!("secrets {SYSTEM_NAMESPACE}/{credential}"));
    // other tests have Registries and namespaces of their own
    let is_ours = |text: &str| text.contains(&scene.name);
    let controller = service_account_user(SYSTEM_NAMESPACE, "pullpass-controller");
    eventually(
        CONVERGENCE,
        "nothing but copies, the last good credential and the status is written",
        async || {
            let written: Vec<String> = audit
                .writes_of(&controller)
                .iter()
                .filter(|entry| entry.resource() != "registries/status")
                .map(|entry| {
                    format!(
                        "{} {}/{}",
                        entry.resource(),
                        entry.namespace(),
                        entry.name()
                    )
                })
                .filter(|text| is_ours(text))
                .collect();
            let different: BTreeSet<String> = written.iter().cloned().collect();
            if different == expected && written.len() == expected.len() {
                Ok(())
            } else {
                Err(format!("{written:?}"))
            }
        },
    )
    .await;
    // the old password is refused by now, so this pull is with the new one
    scene.pulls_at_once(&namespaces[1]).await;

    // another user altogether
    let second = cluster.registry().second_user().clone();
    registries::write_source(cluster, &scene.name, &second.name, &second.password).await;
    all_have(&second.name, &second.password).await;
    scene.pulls_at_once(&namespaces[2]).await;
}

#[tokio::test]
async fn an_edited_copy_is_repaired_and_pulls_go_on() {
    let scene = Scene::on(shared().await).await;
    let namespace = scene.namespace("a").await;
    let original = scene.has_login(&namespace).await;
    let secrets: Api<Secret> = scene.cluster.of(&namespace);
    let spoil = Patch::Merge(json!({"data": {".dockerconfigjson": base64(r#"{"auths":{}}"#)}}));
    secrets
        .patch(PULL_SECRET, &PatchParams::default(), &spoil)
        .await
        .unwrap();
    let repaired = scene.has_login(&namespace).await;
    assert_eq!(original.metadata.uid, repaired.metadata.uid);
    scene.pulls_at_once(&namespace).await;
}
