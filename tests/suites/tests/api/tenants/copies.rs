//! What a tenant does to the copy in its own namespace, which its role lets it write.

use futures::future::join_all;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use pullpass_harness::attempt::Attempt;
use pullpass_harness::eventually;
use pullpass_harness::objects::{PULL_SECRET, base64};
use pullpass_suites::copies::{CONVERGENCE, has_login, secret};
use pullpass_suites::registries;
use pullpass_suites::tenants::{copy_path, secrets_path};
use serde_json::{Value, json};

use super::{NEIGHBOUR, OUTSIDE, OWN, SHARED, SHARED_HOST, Scene, VAULT_HOST};

const MANAGER: &str = "pullpass-controller";

/// What could not be repaired: a copy that is not recognised any more, or that nobody can change or delete.
fn beyond_repair(copy: &Secret) -> Vec<(&'static str, Attempt)> {
    let own = copy_path(OWN);
    let change = |patch: Value| Attempt::merge(&own, &patch);
    let mut without_labels = serde_json::to_value(copy).unwrap();
    without_labels["metadata"]["labels"] = json!({});
    let mut whole_without_label = without_labels.clone();
    whole_without_label["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("managedFields");
    let forged = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
        "metadata": {"name": PULL_SECRET, "labels": {"pullpass.dev/copy": "mine"}},
        "data": {".dockerconfigjson": base64("{}")}});
    vec![
        (
            "takes the label off",
            change(json!({"metadata": {"labels": {"pullpass.dev/copy": null}}})),
        ),
        (
            "takes all labels off",
            change(json!({"metadata": {"labels": null}})),
        ),
        (
            "gives the label another value",
            change(json!({"metadata": {"labels": {"pullpass.dev/copy": "false"}}})),
        ),
        (
            "replaces it by one without labels",
            Attempt::put(&own, &whole_without_label),
        ),
        (
            "replaces it by one with managed fields alone",
            Attempt::put(&own, &without_labels),
        ),
        (
            "clears the managed fields",
            change(json!({"metadata": {"managedFields": [{}]}})),
        ),
        (
            "gives the managed fields to somebody else",
            change(
                json!({"metadata": {"managedFields": [{"manager": "mallory", "operation": "Apply", "apiVersion": "v1",
                "fieldsType": "FieldsV1", "fieldsV1": {"f:type": {}}}]}}),
            ),
        ),
        (
            "turns our entry into an update's",
            change(
                json!({"metadata": {"managedFields": [{"manager": MANAGER, "operation": "Update", "apiVersion": "v1",
                "fieldsType": "FieldsV1", "fieldsV1": {"f:type": {}}}]}}),
            ),
        ),
        (
            "applies another label under our field manager",
            Attempt::apply(&own, MANAGER, &forged),
        ),
        ("makes it immutable", change(json!({"immutable": true}))),
        (
            "holds it with a finalizer",
            change(json!({"metadata": {"finalizers": ["example.com/hold"]}})),
        ),
        (
            "holds it with a finalizer of Kubernetes' own",
            change(json!({"metadata": {"finalizers": ["orphan"]}})),
        ),
        (
            "makes it immutable and holds it at once",
            change(json!({"immutable": true, "metadata": {"finalizers": ["example.com/hold"]}})),
        ),
    ]
}

/// What the API server refuses by itself.
fn invalid() -> Vec<(&'static str, Attempt)> {
    let own = copy_path(OWN);
    let typed = |type_: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "type": type_, "metadata": {"name": PULL_SECRET,
            "labels": {"pullpass.dev/copy": "true"}}, "data": {".dockerconfigjson": base64("{}")}})
    };
    vec![
        ("changes its type", Attempt::put(&own, &typed("Opaque"))),
        (
            "makes it a token's Secret",
            Attempt::merge(
                &own,
                &json!({"type": "kubernetes.io/service-account-token",
                "metadata": {"annotations": {"kubernetes.io/service-account.name": "default"}}}),
            ),
        ),
        (
            "takes its docker config away",
            Attempt::merge(&own, &json!({"data": null})),
        ),
        (
            "puts in what is no JSON",
            Attempt::merge(&own, &json!({"data": {".dockerconfigjson": base64("{")}})),
        ),
        (
            "gives it another uid",
            Attempt::merge(
                &own,
                &json!({"metadata": {"uid": "00000000-0000-4000-8000-000000000000"}}),
            ),
        ),
        (
            "names a key with a path",
            Attempt::merge(
                &own,
                &json!({"data": {"../.dockerconfigjson": base64("{}")}}),
            ),
        ),
        (
            "fills it beyond the limit",
            Attempt::merge(
                &own,
                &json!({"data": {"more": base64(vec![b'x'; 1_100_000])}}),
            ),
        ),
    ]
}

/// What is taken back at once.
fn repaired() -> Vec<(&'static str, Attempt)> {
    let own = copy_path(OWN);
    let change = |patch: Value| Attempt::merge(&own, &patch);
    let config = |value: Value| json!({"data": {".dockerconfigjson": base64(value.to_string())}});
    let annotated = |key: &str, value: &str| json!({"metadata": {"annotations": {key: value}}});
    let labelled = |key: &str, value: &str| json!({"metadata": {"labels": {key: value}}});
    let owner = |extra: Value| {
        let mut owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "kube-root-ca.crt",
            "uid": "6d0e6f0a-0000-4000-8000-000000000000"});
        owner
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        json!({"metadata": {"ownerReferences": [owner]}})
    };
    let mut applied = config(json!({"auths": {}}));
    applied["apiVersion"] = json!("v1");
    applied["kind"] = json!("Secret");
    applied["type"] = json!("kubernetes.io/dockerconfigjson");
    applied["metadata"] = json!({"name": PULL_SECRET, "labels": {"pullpass.dev/copy": "true"}});
    let login = json!({"auth": base64("mallory:own")});
    vec![
        ("empties it", change(config(json!({"auths": {}})))),
        (
            "adds a login for another's host",
            change(config(json!({"auths": {VAULT_HOST: login}}))),
        ),
        (
            "adds a wildcard that disables Docker Hub",
            change(config(json!({"auths": {"*.io": login}}))),
        ),
        (
            "puts in JSON that is no docker config",
            change(config(json!({"auths": [7]}))),
        ),
        (
            "has a program asked for credentials",
            change(config(
                json!({"credsStore": "evil", "credHelpers": {VAULT_HOST: "evil"}}),
            )),
        ),
        (
            "adds a key",
            change(json!({"data": {"token": base64("x")}})),
        ),
        (
            "adds a huge key",
            change(json!({"data": {"more": base64(vec![b'x'; 900_000])}})),
        ),
        (
            "asks for an account's token",
            change(annotated("kubernetes.io/service-account.name", "default")),
        ),
        (
            "asks for its replication everywhere",
            change(annotated("replicator.v1.mittwald.de/replicate-to", "*")),
        ),
        (
            "asks for its reflection",
            change(annotated(
                "reflector.v1.k8s.emberstack.com/reflection-auto-enabled",
                "true",
            )),
        ),
        (
            "adds a huge annotation",
            change(annotated("example.com/huge", &"x".repeat(200_000))),
        ),
        (
            "makes it a cluster of Argo CD",
            change(labelled("argocd.argoproj.io/secret-type", "cluster")),
        ),
        (
            "makes it a cluster of Istio",
            change(labelled("istio/multiCluster", "true")),
        ),
        (
            "says that Helm manages it",
            change(labelled("app.kubernetes.io/managed-by", "Helm")),
        ),
        (
            "gives it an owner that is not there",
            change(owner(json!({}))),
        ),
        (
            "and one that blocks",
            change(owner(
                json!({"blockOwnerDeletion": true, "controller": true}),
            )),
        ),
        (
            "applies under our field manager",
            Attempt::apply(&own, MANAGER, &applied),
        ),
        (
            "applies under another one by force",
            Attempt::apply(&own, "mallory", &applied),
        ),
        ("deletes it", Attempt::delete(&own)),
        (
            "deletes it in the foreground",
            Attempt::delete(format!("{own}?propagationPolicy=Foreground")),
        ),
        (
            "deletes it and orphans nothing",
            Attempt::delete(format!("{own}?propagationPolicy=Orphan")),
        ),
        (
            "deletes all its Secrets",
            Attempt::delete(secrets_path(OWN)),
        ),
    ]
}

#[tokio::test]
async fn the_own_copy_can_be_spoilt_for_a_moment_and_not_kept() {
    let scene = Scene::new().await;
    let copy = secret(&scene.server, OWN).await.unwrap();
    scene.refuses(&beyond_repair(&copy)).await;
    scene.ends_with(&[400, 409, 413, 422], &invalid()).await;
    let same = secret(&scene.server, OWN).await.unwrap();
    assert_eq!(
        same.metadata.resource_version, copy.metadata.resource_version,
        "none of these was written"
    );
    for (what, attack) in repaired() {
        scene.does(what, &attack).await;
        scene.own_copy_is_right(what).await;
    }
    scene.nothing_was_gained_or_broken().await;

    // and what is revoked is gone, whatever was tried before
    registries::patch(
        &scene.server,
        "shared",
        &json!({"access": {"namespaces": {"exclude": [OWN]}}}),
    )
    .await;
    pullpass_suites::copies::is_clear(&scene.server, OWN).await;
    scene.nothing_was_gained_or_broken().await;
}

#[tokio::test]
async fn haste_wins_nothing() {
    const ROUNDS: usize = 20;
    let scene = Scene::new().await;
    let own = copy_path(OWN);
    let foreign = json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": {"name": PULL_SECRET},
        "data": {"mine": base64("x")}});
    let pinned = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson", "immutable": true,
        "metadata": {"name": PULL_SECRET, "finalizers": ["example.com/hold"]}, "data": {".dockerconfigjson": base64("{}")}});
    // deletes ours and races for the name; who loses gets 404 or 409
    for round in 0..ROUNDS {
        let put = if round % 2 == 0 { &foreign } else { &pinned };
        let (deleted, made) = (
            Attempt::delete(&own).by(&scene.mallory).await,
            Attempt::post(secrets_path(OWN), put)
                .by(&scene.mallory)
                .await,
        );
        assert!([200, 404].contains(&deleted.code), "{deleted:?}");
        assert!([200, 409].contains(&made.code), "{made:?}");
        Attempt::merge(&own, &json!({"metadata": {"finalizers": null}}))
            .by(&scene.mallory)
            .await;
    }
    let secrets: Api<Secret> = scene.server.of(OWN);
    eventually(
        CONVERGENCE,
        "what the attacker put there goes when it is deleted",
        async || {
            let left = secrets
                .get_opt(PULL_SECRET)
                .await
                .map_err(|error| error.to_string())?;
            let Some(left) = left else {
                return Ok(());
            };
            if left
                .metadata
                .labels
                .is_some_and(|labels| labels.contains_key("pullpass.dev/copy"))
            {
                return Ok(());
            }
            Attempt::delete(&own).by(&scene.mallory).await;
            Err(format!("{:?}", left.type_))
        },
    )
    .await;
    scene.own_copy_is_right("ours is there again").await;
    scene.nothing_was_gained_or_broken().await;

    // writes its copy without a pause while a password changes
    let storm = async {
        for round in 0..ROUNDS {
            let patch = json!({"metadata": {"annotations": {"round": round.to_string()}}});
            let attempts: Vec<_> = (0..5).map(|_| Attempt::merge(&own, &patch)).collect();
            join_all(attempts.iter().map(|attempt| attempt.by(&scene.mallory))).await;
        }
    };
    let rotation = async {
        registries::write_source(&scene.server, "shared", SHARED.username, "changed").await;
        has_login(
            &scene.server,
            NEIGHBOUR,
            SHARED_HOST,
            SHARED.username,
            "changed",
        )
        .await;
    };
    tokio::join!(storm, rotation);
    has_login(&scene.server, OWN, SHARED_HOST, SHARED.username, "changed").await;
    let outside = secret(&scene.server, OUTSIDE).await;
    assert!(outside.is_none());
}
