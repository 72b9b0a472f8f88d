//! Credentials are in Secrets and nowhere else.

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{ListParams, LogParams};
use kube::{Api, ResourceExt as _};
use pullpass_api::{PullAccess, Registry};
use pullpass_harness::objects::{SYSTEM_NAMESPACE, base64, secret};
use pullpass_harness::shared;
use pullpass_suites::copies::has_login;
use pullpass_suites::registries::{self, has_condition};
use serde_json::json;

use crate::scene::Scene;

const CANARY: &str = "canary-6f1d2c";

#[tokio::test]
async fn no_credential_is_told_to_anybody() {
    let scene = Scene::on(shared().await).await;
    let cluster = &scene.cluster;
    let namespace = scene.namespace("a").await;
    registries::write_source(cluster, &scene.name, CANARY, CANARY).await;
    has_login(cluster, &namespace, scene.host(), CANARY, CANARY).await;
    // malformed ones, which an error's text might quote
    let broken = format!("{}-broken", scene.name);
    let spec = json!({
        "host": "broken.example.com",
        "auth": {"dockerConfig": {"secretRef": {"name": broken}, "key": "config"}},
        "access": {"namespaces": {"include": [namespace]}},
    });
    let encoded = base64(CANARY);
    let malformed = [
        format!("{{\"auths\": {{\"{CANARY}\": {CANARY}"),
        json!({"auths": {"broken.example.com": {"auth": CANARY}}}).to_string(),
        json!({"auths": {"broken.example.com": {"auth": encoded}}}).to_string(),
        json!({"auths": {"broken.example.com": {"username": {CANARY: 1}, "password": [CANARY]}}})
            .to_string(),
        format!("\"{CANARY}\""),
    ];
    for (number, content) in malformed.iter().enumerate() {
        registries::write_secret(cluster, &secret(&broken, "Opaque", &[("config", content)])).await;
        if number == 0 {
            registries::create(cluster, &registries::with_spec(&broken, &spec)).await;
        }
        has_condition(
            cluster,
            &broken,
            "CredentialsReady",
            "False/MalformedSource",
        )
        .await;
    }
    let mut told = Vec::new();
    let own: Api<Pod> = cluster.of(SYSTEM_NAMESPACE);
    for pod in own.list(&ListParams::default()).await.unwrap() {
        let log = own
            .logs(&pod.name_any(), &LogParams::default())
            .await
            .unwrap();
        assert!(!log.is_empty(), "{} says nothing", pod.name_any());
        told.push((format!("log of {}", pod.name_any()), log));
    }
    let events: Api<Event> = cluster.all();
    told.push((
        "events".into(),
        format!("{:?}", events.list(&ListParams::default()).await.unwrap()),
    ));
    let all: Api<Registry> = cluster.all();
    told.push((
        "Registries".into(),
        format!("{:?}", all.list(&ListParams::default()).await.unwrap()),
    ));
    let all: Api<PullAccess> = cluster.all();
    told.push((
        "PullAccesses".into(),
        format!("{:?}", all.list(&ListParams::default()).await.unwrap()),
    ));
    let audit = std::fs::read_to_string(cluster.cluster().audit_log()).unwrap();
    told.push(("audit log".into(), audit));
    for (where_, text) in told {
        for credential in [CANARY, &encoded, &base64(format!("{CANARY}:{CANARY}"))] {
            assert!(!text.contains(credential), "a credential is in: {where_}");
        }
    }
    registries::delete(cluster, &broken).await;
}
