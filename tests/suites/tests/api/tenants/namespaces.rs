//! What the right to make or to label namespaces is worth: exactly what globs and selectors give.

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::PostParams;
use kube::{Api, Client};
use pullpass_api::Registry;
use pullpass_harness::attempt::Attempt;
use pullpass_harness::objects::SYSTEM_NAMESPACE;
use pullpass_harness::{ApiServer, eventually};
use pullpass_suites::copies::{self, CONVERGENCE, docker_config, has_login, is_clear};
use pullpass_suites::registries;
use pullpass_suites::tenants::{all_end_with, copy_path};
use serde_json::{Value, json};

use super::{OUTSIDE, OWN, SHARED, SHARED_HOST, Scene, VAULT_HOST, VAULT_NAMESPACE};

const NAMESPACES: &str = "/api/v1/namespaces";
const GOLD_HOST: &str = "gold.example.com";

/// A service account of the attacker's with cluster-wide rights on namespaces alone.
async fn with_rights(server: &ApiServer, name: &str, resource: &str, verbs: &[&str]) -> Client {
    let client = server.as_service_account(OUTSIDE, name).await;
    let role: ClusterRole = serde_json::from_value(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name},
        "rules": [{"apiGroups": [""], "resources": [resource], "verbs": verbs}],
    }))
    .unwrap();
    let roles: Api<ClusterRole> = server.all();
    roles.create(&PostParams::default(), &role).await.unwrap();
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": OUTSIDE}],
    }))
    .unwrap();
    let bindings: Api<ClusterRoleBinding> = server.all();
    bindings
        .create(&PostParams::default(), &binding)
        .await
        .unwrap();
    client
}

async fn scene() -> Scene {
    let scene = Scene::new().await;
    registries::write_source(&scene.server, "gold", "gold", "gold").await;
    let spec = json!({
        "host": GOLD_HOST,
        "auth": {"basic": {"secretRef": {"name": "gold"}}},
        "access": {"namespaces": {"include": ["*"], "selector": {"matchLabels": {"tier": "gold"}}}},
    });
    registries::create(&scene.server, &registries::with_spec("gold", &spec)).await;
    scene
}

/// Waits until every namespace has been judged and so many are selected.
async fn selects(server: &ApiServer, registry: &str, count: i32) {
    let registries: Api<Registry> = server.all();
    eventually(CONVERGENCE, "so many namespaces are selected", async || {
        let status = registries
            .get(registry)
            .await
            .map_err(|error| error.to_string())?
            .status
            .unwrap_or_default();
        match status.namespaces {
            Some(counted) if counted.selected == count => Ok(()),
            counted => Err(format!("{registry}: {counted:?}, not {count}")),
        }
    })
    .await;
}

/// The hosts for which a namespace has a login, in order.
async fn hosts(server: &ApiServer, namespace: &str) -> Vec<String> {
    let Some(copy) = copies::secret(server, namespace).await else {
        return Vec::new();
    };
    let config = docker_config(&copy);
    let auths = config["auths"].as_object().unwrap();
    auths.keys().cloned().collect()
}

fn namespace(name: &str, metadata: Value) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
    object["metadata"]["name"] = json!(name);
    object
}

#[tokio::test]
async fn who_may_make_namespaces_gains_what_globs_and_selectors_give() {
    let scene = scene().await;
    let server = &scene.server;
    let maker = with_rights(server, "maker", "namespaces", &["create", "get"]).await;
    let labelled = |key: &str, value: &str| json!({"labels": {key: value}});
    let plain = || json!({});
    // what the attacker makes, and the hosts it has a login for then
    let made: Vec<(&str, Value, &[&str])> = vec![
        // a glob admits whoever may make namespaces; that is its meaning
        ("team-evil", plain(), &[SHARED_HOST]),
        ("team-", plain(), &[]),
        ("team", plain(), &[]),
        ("my-team-evil", plain(), &[]),
        ("xteam-evil", plain(), &[]),
        ("teams-evil", plain(), &[]),
        ("team-excluded", plain(), &[]),
        ("team-vault", plain(), &[SHARED_HOST]),
        // an exact name admits nobody else
        ("vault-2", plain(), &[]),
        ("2-vault", plain(), &[]),
        ("vaults", plain(), &[]),
        ("vau1t", plain(), &[]),
        ("va-ult", plain(), &[]),
        // labels that look like a name, a grant or a consent
        (
            "named",
            labelled("kubernetes.io/metadata.name", VAULT_NAMESPACE),
            &[],
        ),
        ("labelled", labelled("pullpass.dev/registry", "vault"), &[]),
        ("consenting", labelled("pullpass.dev/inject", "true"), &[]),
        (
            "annotated",
            json!({"annotations": {"pullpass.dev/registry": "vault", "tier": "gold"}}),
            &[],
        ),
        (
            "owned",
            json!({"ownerReferences": [{"apiVersion": "pullpass.dev/v1alpha1", "kind": "Registry", "name": "vault",
            "uid": "6d0e6f0a-0000-4000-8000-000000000000"}]}),
            &[],
        ),
        // a selector admits whoever may label namespaces; that is its meaning too
        ("golden", labelled("tier", "gold"), &[GOLD_HOST]),
        (
            "team-golden",
            labelled("tier", "gold"),
            &[GOLD_HOST, SHARED_HOST],
        ),
        ("gilded", labelled("tier", "gold2"), &[]),
        ("capital", labelled("tier", "Gold"), &[]),
        ("prefixed", labelled("example.com/tier", "gold"), &[]),
        (
            "declining",
            json!({"labels": {"tier": "gold", "pullpass.dev/inject": "false"}}),
            &[],
        ),
        // system namespaces and look-alikes
        ("kube-system-2", plain(), &[]),
        ("team-kube-system", plain(), &[SHARED_HOST]),
        (
            "pullpass-system-2",
            labelled("app.kubernetes.io/part-of", "pullpass"),
            &[],
        ),
    ];
    // the right is learned of a little later than it is stored
    let ready = Attempt::get(format!("{NAMESPACES}/{OUTSIDE}"));
    eventually(CONVERGENCE, "the right is in force", async || {
        let outcome = ready.by(&maker).await;
        outcome.succeeded().then_some(()).ok_or(outcome.text)
    })
    .await;
    let (mut shared, mut gold) = (2, 0);
    let mut there = Vec::new();
    for (name, metadata, expected) in made {
        let outcome = Attempt::post(NAMESPACES, &namespace(name, metadata))
            .by(&maker)
            .await;
        if name == "team-" {
            assert_eq!(outcome.code, 422, "{name}: {outcome:?}");
            continue;
        }
        assert!(outcome.succeeded(), "{name}: {outcome:?}");
        shared += i32::from(expected.contains(&SHARED_HOST));
        gold += i32::from(expected.contains(&GOLD_HOST));
        there.push((name, expected));
    }
    let path = |name: &str| format!("{NAMESPACES}/{name}");
    all_end_with(
        &[400, 404, 409, 422],
        &maker,
        &[
            (
                "writes a name in capitals",
                Attempt::post(NAMESPACES, &namespace("VAULT", json!({}))),
            ),
            (
                "ends it with a dot",
                Attempt::post(NAMESPACES, &namespace("vault.", json!({}))),
            ),
            (
                "gives it a path",
                Attempt::post(NAMESPACES, &namespace("team-a/../vault", json!({}))),
            ),
            (
                "writes it with another letter that looks alike",
                Attempt::post(NAMESPACES, &namespace("v\u{430}ult", json!({}))),
            ),
            (
                "makes the one that is there",
                Attempt::post(NAMESPACES, &namespace(VAULT_NAMESPACE, json!({}))),
            ),
        ],
    )
    .await;
    all_end_with(
        &[403],
        &maker,
        &[
            (
                "labels one that it has made",
                Attempt::merge(
                    path("named"),
                    &json!({"metadata": {"labels": {"tier": "gold"}}}),
                ),
            ),
            (
                "reads the copy that it has brought about",
                Attempt::get(copy_path("team-evil")),
            ),
        ],
    )
    .await;
    for (name, count) in [("shared", shared), ("gold", gold), ("vault", 1)] {
        selects(server, name, count).await;
    }
    for (name, expected) in there {
        eventually(
            CONVERGENCE,
            "the namespace has what is due",
            async || match hosts(server, name).await {
                found if found == expected => Ok(()),
                found => Err(format!("{name}: {found:?}, not {expected:?}")),
            },
        )
        .await;
    }
    for system in ["kube-system", "kube-public", "kube-node-lease"] {
        assert!(hosts(server, system).await.is_empty(), "{system}");
    }
    scene.nothing_was_gained_or_broken().await;
}

#[tokio::test]
async fn who_may_label_namespaces_gains_what_selectors_give() {
    let scene = scene().await;
    let server = &scene.server;
    let labeller = with_rights(
        server,
        "labeller",
        "namespaces",
        &["get", "patch", "update"],
    )
    .await;
    let status = with_rights(
        server,
        "status",
        "namespaces/status",
        &["get", "patch", "update"],
    )
    .await;
    let outside = format!("{NAMESPACES}/{OUTSIDE}");
    let outside_status = format!("{outside}/status");
    let set = |value: Value| json!({"metadata": {"labels": value}});
    for (who, path) in [(&labeller, &outside), (&status, &outside_status)] {
        eventually(CONVERGENCE, "the right is in force", async || {
            let outcome = Attempt::get(path).by(who).await;
            outcome.succeeded().then_some(()).ok_or(outcome.text)
        })
        .await;
        // the selector's registry comes with the label, goes with it, and nothing else comes with it
        for (labels, expected) in [
            (json!({"tier": "gold"}), &[GOLD_HOST][..]),
            (json!({"tier": null}), &[][..]),
        ] {
            let outcome = Attempt::merge(path, &set(labels.clone())).by(who).await;
            assert!(outcome.succeeded(), "{path}: {outcome:?}");
            eventually(CONVERGENCE, "what the label gives", async || {
                match hosts(server, OUTSIDE).await {
                    found if found == expected => Ok(()),
                    found => Err(format!("{labels}: {found:?}")),
                }
            })
            .await;
        }
        is_clear(server, OUTSIDE).await;
    }
    let may = async |what: &str, name: &str, labels: Value| {
        let path = format!("{NAMESPACES}/{name}");
        let outcome = Attempt::merge(&path, &set(labels)).by(&labeller).await;
        assert!(outcome.succeeded(), "{what}: {outcome:?}");
    };
    may("puts on every label that looks like a grant", OUTSIDE, json!({"pullpass.dev/registry": "vault",
        "pullpass.dev/inject": "true", "kubernetes.io/metadata.name": OUTSIDE, "registry": "vault"}))
    .await;
    may(
        "labels a system namespace",
        "kube-public",
        json!({"tier": "gold"}),
    )
    .await;
    may(
        "labels Pullpass's own",
        SYSTEM_NAMESPACE,
        json!({"tier": "gold"}),
    )
    .await;
    may("labels its own", OWN, json!({"tier": "gold"})).await;
    // the API server takes that and sets it right
    may(
        "calls its namespace by another's name",
        OUTSIDE,
        json!({"kubernetes.io/metadata.name": VAULT_NAMESPACE}),
    )
    .await;
    selects(server, "gold", 1).await;
    selects(server, "vault", 1).await;
    has_login(server, OWN, GOLD_HOST, "gold", "gold").await;
    assert_eq!(hosts(server, OWN).await, [GOLD_HOST, SHARED_HOST]);
    for nobody in [OUTSIDE, "kube-public"] {
        assert!(hosts(server, nobody).await.is_empty(), "{nobody}");
    }
    assert!(copies::access(server, SYSTEM_NAMESPACE).await.is_none());
    // what one says no to, nobody takes along elsewhere
    may(
        "says no for its own",
        OWN,
        json!({"pullpass.dev/inject": "false"}),
    )
    .await;
    is_clear(server, OWN).await;
    may(
        "agrees again, in other words",
        OWN,
        json!({"pullpass.dev/inject": "yes"}),
    )
    .await;
    has_login(server, OWN, SHARED_HOST, SHARED.username, SHARED.password).await;
    assert!(!hosts(server, OWN).await.contains(&VAULT_HOST.to_owned()));
    scene.nothing_was_gained_or_broken().await;
}
