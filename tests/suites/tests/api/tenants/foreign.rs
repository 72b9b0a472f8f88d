//! Secrets that a tenant puts where ours, or those of Pullpass's own namespace, would be.

use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::Api;
use kube::api::{Patch, PatchParams};
use pullpass_harness::attempt::Attempt;
use pullpass_harness::objects::{PULL_SECRET, base64};
use pullpass_suites::copies::{self, has_login, has_state};
use pullpass_suites::registries::{self, has_condition};
use pullpass_suites::tenants::{
    Login, all_end_with, all_readable, copy_path, secrets_path, tenant,
};
use serde_json::{Value, json};

use super::{OUTSIDE, OWN, SHARED, SHARED_HOST, Scene};

const MANAGER: &str = "pullpass-controller";
/// What the attacker would like to be handed out.
const PLANTED: Login<'static> = Login {
    username: "shared",
    password: "planted-by-mallory",
};
const DOCKER: &str = "kubernetes.io/dockerconfigjson";

fn secret(type_: &str, data: Value, metadata: Value) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "Secret", "type": type_, "metadata": metadata, "data": data});
    object["metadata"]["name"] = json!(PULL_SECRET);
    object
}

/// One of every type that Kubernetes knows, and of none; and each disguise that is left to a tenant.
fn before_ours() -> Vec<(&'static str, Value)> {
    let config = json!({".dockerconfigjson": base64(r#"{"auths":{}}"#)});
    let evil = base64(json!({"auths": {SHARED_HOST: {"auth": base64("mallory:own")}}}).to_string());
    let managed = json!([{"manager": MANAGER, "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:data": {"f:.dockerconfigjson": {}}, "f:type": {}}}]);
    vec![
        (
            "opaque",
            secret("Opaque", json!({"mine": base64("x")}), json!({})),
        ),
        ("docker-config", secret(DOCKER, config.clone(), json!({}))),
        (
            "with-login",
            secret(DOCKER, json!({".dockerconfigjson": evil}), json!({})),
        ),
        (
            "legacy",
            secret(
                "kubernetes.io/dockercfg",
                json!({".dockercfg": base64("{}")}),
                json!({}),
            ),
        ),
        (
            "basic-auth",
            secret(
                "kubernetes.io/basic-auth",
                json!({"username": base64("x"), "password": base64("x")}),
                json!({}),
            ),
        ),
        (
            "ssh-auth",
            secret(
                "kubernetes.io/ssh-auth",
                json!({"ssh-privatekey": base64("x")}),
                json!({}),
            ),
        ),
        (
            "tls",
            secret(
                "kubernetes.io/tls",
                json!({"tls.crt": "", "tls.key": ""}),
                json!({}),
            ),
        ),
        (
            "token",
            secret(
                "kubernetes.io/service-account-token",
                json!({}),
                json!({"annotations": {"kubernetes.io/service-account.name": "default"}}),
            ),
        ),
        (
            "bootstrap",
            secret(
                "bootstrap.kubernetes.io/token",
                json!({"token-id": base64("abcdef")}),
                json!({}),
            ),
        ),
        (
            "helm",
            secret(
                "helm.sh/release.v1",
                json!({"release": base64("x")}),
                json!({}),
            ),
        ),
        (
            "unknown-type",
            secret("example.com/any", json!({"any": base64("x")}), json!({})),
        ),
        (
            "our-manager",
            secret(DOCKER, config.clone(), json!({"managedFields": managed})),
        ),
        (
            "our-other-labels",
            secret(
                DOCKER,
                config.clone(),
                json!({"labels": {"app.kubernetes.io/managed-by": "pullpass", "app.kubernetes.io/part-of": "pullpass"}}),
            ),
        ),
        (
            "our-label-off",
            secret(
                DOCKER,
                config.clone(),
                json!({"labels": {"pullpass.dev/copy": "false"}}),
            ),
        ),
        ("pinned", {
            let mut pinned = secret(DOCKER, config, json!({"finalizers": ["example.com/hold"]}));
            pinned["immutable"] = json!(true);
            pinned
        }),
    ]
}

#[tokio::test]
async fn a_secret_of_our_name_that_was_there_first_stays_its_owners() {
    let scene = Scene::new().await;
    let server = &scene.server;
    // disguises that would make it ours
    let marked = json!({"labels": {"pullpass.dev/copy": "true"}});
    let config = json!({".dockerconfigjson": base64("{}")});
    let disguised = secret(DOCKER, config, marked.clone());
    let outside = secrets_path(OUTSIDE);
    scene
        .refuses(&[
            (
                "makes one with our label",
                Attempt::post(&outside, &disguised),
            ),
            (
                "applies one with our label",
                Attempt::apply(&copy_path(OUTSIDE), MANAGER, &disguised),
            ),
            (
                "makes one of another type with it",
                Attempt::post(&outside, &secret("Opaque", json!({}), marked.clone())),
            ),
        ])
        .await;

    // not selected yet, so that each is there first
    let mut namespaces = Vec::new();
    for (kind, object) in before_ours() {
        let namespace = format!("team-{kind}");
        server
            .create_namespace(&namespace, &[("pullpass.dev/inject", "false")])
            .await;
        namespaces.push((namespace, object));
    }
    let names: Vec<&str> = namespaces.iter().map(|(name, _)| name.as_str()).collect();
    let mallory = tenant(server, OUTSIDE, "planter", "edit", &names).await;
    let mut planted = Vec::new();
    for (namespace, object) in &namespaces {
        server.has_account(namespace).await;
        let made = Attempt::post(secrets_path(namespace), object)
            .by(&mallory)
            .await;
        assert!(made.succeeded(), "{namespace}: {made:?}");
        let label = Attempt::merge(copy_path(namespace), &json!({"metadata": marked}));
        all_end_with(&[403], &mallory, &[("puts our label on it", label)]).await;
        planted.push(copies::secret(server, namespace).await.unwrap());
    }
    let all: Api<Namespace> = server.all();
    for name in &names {
        let select = Patch::Merge(json!({"metadata": {"labels": {"pullpass.dev/inject": null}}}));
        all.patch(name, &PatchParams::default(), &select)
            .await
            .unwrap();
    }
    for (name, before) in names.iter().zip(&planted) {
        has_state(server, name, "Blocked/ForeignSecret").await;
        is_still(&copies::secret(server, name).await.unwrap(), before, name);
        for (place, content) in all_readable(&mallory, name).await {
            assert!(!SHARED.is_in(&content), "the login is in {place}");
        }
    }
    scene.nothing_was_gained_or_broken().await;

    // a revocation takes none of them along, and the last one can still be made way for
    registries::patch(
        server,
        "shared",
        &json!({"access": {"namespaces": {"include": ["team-neighbour", OWN, "team-opaque"]}}}),
    )
    .await;
    for (name, before) in names.iter().zip(&planted).skip(1) {
        copies_access_is_gone(server, name).await;
        is_still(&copies::secret(server, name).await.unwrap(), before, name);
    }
    let gone = Attempt::delete(copy_path("team-opaque")).by(&mallory).await;
    assert!(gone.succeeded(), "{gone:?}");
    has_login(
        server,
        "team-opaque",
        SHARED_HOST,
        SHARED.username,
        SHARED.password,
    )
    .await;
}

/// Only the token controller writes: it fills a token Secret with the token of the account that it names.
fn is_still(now: &Secret, before: &Secret, namespace: &str) {
    assert_eq!(now.metadata.uid, before.metadata.uid, "{namespace}");
    assert_eq!(now.metadata.labels, before.metadata.labels, "{namespace}");
    assert_eq!(now.metadata.deletion_timestamp, None, "{namespace}");
    if now.type_.as_deref() != Some("kubernetes.io/service-account-token") {
        assert_eq!(
            now.metadata.resource_version, before.metadata.resource_version,
            "{namespace}"
        );
    }
}

async fn copies_access_is_gone(server: &pullpass_harness::ApiServer, namespace: &str) {
    pullpass_harness::eventually(copies::CONVERGENCE, "the PullAccess goes", async || {
        match copies::access(server, namespace).await {
            None => Ok(()),
            Some(_) => Err("it is there"),
        }
    })
    .await;
}

#[tokio::test]
async fn nothing_in_a_tenants_namespace_becomes_an_input() {
    let scene = Scene::new().await;
    let server = &scene.server;
    let login = json!({"username": base64(PLANTED.username), "password": base64(PLANTED.password)});
    let config = base64(
        json!({"auths": {SHARED_HOST: {"auth": base64("shared:planted-by-mallory")}}}).to_string(),
    );
    let typed = |name: &str, type_: &str, data: Value| {
        json!({"apiVersion": "v1", "kind": "Secret", "type": type_, "data": data, "metadata": {"name": name,
            "labels": {"pullpass.dev/registry": "shared", "app.kubernetes.io/managed-by": "pullpass",
                "app.kubernetes.io/part-of": "pullpass"},
            "annotations": {"pullpass.dev/refreshed-at": "2099-01-01T00:00:00Z", "pullpass.dev/source": "shared"}}})
    };
    let of_our_namespace = [
        ("a source", typed("shared", "Opaque", login)),
        (
            "a last good credential",
            typed(
                "pullpass-credential-shared",
                DOCKER,
                json!({".dockerconfigjson": config}),
            ),
        ),
        (
            "an authority",
            typed(
                "pullpass-ca",
                "Opaque",
                json!({"ca.crt": base64("x"), "ca.key": base64("x")}),
            ),
        ),
        (
            "a serving certificate",
            typed(
                "pullpass-webhook-tls",
                "kubernetes.io/tls",
                json!({"tls.crt": base64("x"), "tls.key": base64("x")}),
            ),
        ),
    ];
    for (what, object) in &of_our_namespace {
        scene
            .does(what, &Attempt::post(secrets_path(OWN), object))
            .await;
    }
    let in_own = |group: &str, resource: &str| format!("/{group}/namespaces/{OWN}/{resource}");
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "pullpass-controller"},
        "spec": {"holderIdentity": "mallory", "leaseDurationSeconds": 3600}});
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "pullpass"},
        "data": {"clusterName": "other", "systemNamespaces": OWN}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "pullpass-webhook",
        "labels": {"app.kubernetes.io/name": "pullpass"}}, "spec": {"ports": [{"port": 443, "targetPort": 10250}],
        "selector": {"app.kubernetes.io/name": "pullpass"}}});
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "pullpass-webhook-1", "labels": {"kubernetes.io/service-name": "pullpass-webhook"}},
        "endpoints": [{"addresses": ["198.18.0.99"]}], "ports": [{"port": 10250}]});
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "pullpass-controller"}});
    for (what, attempt) in [
        (
            "a Lease",
            Attempt::post(in_own("apis/coordination.k8s.io/v1", "leases"), &lease),
        ),
        (
            "settings",
            Attempt::post(in_own("api/v1", "configmaps"), &map),
        ),
        (
            "a Service",
            Attempt::post(in_own("api/v1", "services"), &service),
        ),
        (
            "an account of the controller's name",
            Attempt::post(in_own("api/v1", "serviceaccounts"), &account),
        ),
    ] {
        // a role may lack a right that another version of Kubernetes gives it
        let outcome = attempt.by(&scene.mallory).await;
        assert!(
            outcome.succeeded() || outcome.code == 403,
            "{what}: {outcome:?}"
        );
    }
    scene
        .refuses(&[(
            "leads the Service elsewhere",
            Attempt::post(in_own("apis/discovery.k8s.io/v1", "endpointslices"), &slice),
        )])
        .await;
    let namesake = server.as_service_account(OWN, "pullpass-controller").await;
    all_end_with(
        &[403],
        &namesake,
        &[
            (
                "reads as the controller's namesake",
                Attempt::get(copy_path(super::VAULT_NAMESPACE)),
            ),
            (
                "writes as the controller's namesake",
                Attempt::apply(&copy_path(super::NEIGHBOUR), MANAGER, &json!({})),
            ),
        ],
    )
    .await;
    // the controller works on, from its own sources: a new namespace shows it
    server.create_namespace("team-late", &[]).await;
    has_login(
        server,
        "team-late",
        SHARED_HOST,
        SHARED.username,
        SHARED.password,
    )
    .await;
    has_condition(server, "shared", "Ready", "True/Synced").await;
    for namespace in ["team-late", super::NEIGHBOUR, OWN] {
        let copy = copies::secret(server, namespace).await.unwrap();
        assert!(
            !PLANTED.is_in(copies::docker_config(&copy).to_string()),
            "{namespace}"
        );
    }
    scene.nothing_was_gained_or_broken().await;
}
