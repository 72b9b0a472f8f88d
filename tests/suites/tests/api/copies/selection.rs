//! Which namespaces get a copy, and of what.

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt as _};
use pullpass_api::Registry;
use pullpass_harness::objects::{SYSTEM_NAMESPACE, base64, secret};
use pullpass_harness::{eventually, lease};
use pullpass_suites::copies::{self, CONVERGENCE, docker_config, has_login, is_clear};
use pullpass_suites::registries::{self, has_condition};
use serde_json::json;

use super::{HOST, label, scene};

#[tokio::test]
async fn selected_namespaces_get_it_and_the_others_do_not() {
    let scene = scene().await;
    let server = &scene.server;
    let other = server.namespace("other").await;
    let declining = server
        .namespace_with("team-no", &[("pullpass.dev/inject", "false")])
        .await;
    for team in scene.teams(2).await {
        let copy = copies::secret(server, &team).await.unwrap();
        let expected = json!({"auths": {HOST: {"auth": base64("user:first")}}});
        assert_eq!(docker_config(&copy), expected);
        assert_eq!(copy.data.as_ref().unwrap().len(), 1);
        assert_eq!(
            copy.labels().get("pullpass.dev/copy").map(String::as_str),
            Some("true")
        );
        assert!(copy.annotations().is_empty(), "{:?}", copy.annotations());
        let access = copies::access(server, &team).await.unwrap();
        let told = serde_json::to_value(&access).unwrap();
        assert_eq!(
            told["registries"],
            json!([{"name": "acme", "host": HOST, "state": "Available", "reason": "Available"}])
        );
    }
    scene.is_settled().await;
    has_condition(server, "acme", "CredentialsReady", "True/CredentialRead").await;
    let registries: Api<Registry> = server.all();
    let counted = registries
        .get("acme")
        .await
        .unwrap()
        .status
        .unwrap()
        .namespaces
        .unwrap();
    assert_eq!(
        (counted.selected, counted.synced, counted.failed),
        (2, 2, 0)
    );
    for namespace in [
        other.as_str(),
        &declining,
        "default",
        "kube-system",
        "kube-public",
        SYSTEM_NAMESPACE,
    ] {
        // the own namespace has the docker config for installers, of which no pod is told
        let has_secret = copies::secret(server, namespace).await.is_some();
        assert_eq!(has_secret, namespace == SYSTEM_NAMESPACE, "{namespace}");
        assert!(
            copies::access(server, namespace).await.is_none(),
            "{namespace}"
        );
    }
}

#[tokio::test]
async fn a_changed_policy_gives_and_takes() {
    let scene = scene().await;
    let server = &scene.server;
    let teams = scene.teams(2).await;
    let late = server.namespace("late").await;
    registries::patch(
        server,
        "acme",
        &json!({"access": {"namespaces": {"include": ["team*", "late*"], "exclude": [teams[0]]}}}),
    )
    .await;
    is_clear(server, &teams[0]).await;
    scene.has_password(&late, "first").await;
    scene.has_password(&teams[1], "first").await;

    registries::patch(server, "acme", &json!({"access": {"namespaces": {"exclude": [], "selector": {"matchLabels": {"tier": "gold"}}}}})).await;
    is_clear(server, &teams[1]).await;
    is_clear(server, &late).await;
    label(server, &late, json!({"tier": "gold"})).await;
    scene.has_password(&late, "first").await;
    label(server, &late, json!({"pullpass.dev/inject": "false"})).await;
    is_clear(server, &late).await;
    label(server, &late, json!({"pullpass.dev/inject": null})).await;
    scene.has_password(&late, "first").await;
    label(server, &late, json!({"tier": null})).await;
    is_clear(server, &late).await;
}

#[tokio::test]
async fn of_two_registries_for_one_host_the_higher_priority_wins() {
    let scene = scene().await;
    let server = &scene.server;
    let team = scene.teams(1).await.remove(0);
    registries::write_source(server, "own", "owner", "own").await;
    let mut own = registries::private("own", HOST, &[&team]);
    own.spec.priority = 5;
    registries::create(server, &own).await;
    has_login(server, &team, HOST, "owner", "own").await;
    eventually(CONVERGENCE, "the loser is told of", async || {
        let access = copies::access(server, &team).await.ok_or("no PullAccess")?;
        let told = serde_json::to_value(&access).unwrap();
        let states: Vec<String> = told["registries"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| format!("{}={} {}", entry["name"], entry["reason"], entry["lostTo"]))
            .collect();
        let expected = [
            r#""own"="Available" null"#,
            r#""acme"="LostToPriority" "own""#,
        ];
        if states == expected {
            Ok(())
        } else {
            Err(format!("{states:?}"))
        }
    })
    .await;
    registries::delete(server, "own").await;
    scene.has_password(&team, "first").await;
}

#[tokio::test]
async fn a_deleted_registry_leaves_nothing() {
    let scene = scene().await;
    let server = &scene.server;
    let teams = scene.teams(3).await;
    registries::delete(server, "acme").await;
    for team in &teams {
        is_clear(server, team).await;
    }
    let own: Api<Secret> = server.of(SYSTEM_NAMESPACE);
    eventually(CONVERGENCE, "the credential is gone", async || {
        match own
            .get_opt("pullpass-credential-acme")
            .await
            .map_err(|error| error.to_string())?
        {
            None => Ok(()),
            Some(_) => Err("it is there".to_owned()),
        }
    })
    .await;
    assert!(
        own.get_opt("acme").await.unwrap().is_some(),
        "the source is the administrator's"
    );
}

#[tokio::test]
async fn a_docker_config_without_a_host_gives_every_entry() {
    let server = lease().await;
    server.apply_chart().await;
    let config = json!({"auths": {
        HOST: {"auth": base64("user:first")},
        "https://index.docker.io/v1/": {"username": "hub", "password": "hub"},
    }});
    registries::write_secret(
        &server,
        &secret("all", "Opaque", &[("config", &config.to_string())]),
    )
    .await;
    let spec = json!({
        "auth": {"dockerConfig": {"secretRef": {"name": "all"}, "key": "config"}},
        "access": {"namespaces": {"include": ["team*"]}},
    });
    registries::create(&server, &registries::with_spec("all", &spec)).await;
    let _controller = server.start_controller("one", &[]).await;
    let team = server.namespace("team").await;
    has_login(&server, &team, HOST, "user", "first").await;
    has_login(&server, &team, "https://index.docker.io/v1/", "hub", "hub").await;
}

#[tokio::test]
async fn a_system_namespace_is_selected_only_where_it_is_named() {
    let server = lease().await;
    server.apply_chart().await;
    registries::write_source(&server, "acme", "user", "first").await;
    registries::create(&server, &registries::private("acme", HOST, &["*"])).await;
    let _controller = server
        .start_controller("one", &["--system-namespaces=kube-public"])
        .await;
    has_login(&server, "kube-public", HOST, "user", "first").await;
    has_login(&server, "default", HOST, "user", "first").await;
    has_condition(&server, "acme", "Ready", "True/Synced").await;
    for closed in ["kube-system", "kube-node-lease", SYSTEM_NAMESPACE] {
        assert!(copies::access(&server, closed).await.is_none(), "{closed}");
    }
    for closed in ["kube-system", "kube-node-lease"] {
        assert!(copies::secret(&server, closed).await.is_none(), "{closed}");
    }
}

#[tokio::test]
async fn a_registry_for_some_clusters_needs_to_know_which_this_is() {
    let server = lease().await;
    server.apply_chart().await;
    registries::write_source(&server, "acme", "user", "first").await;
    let mut limited = serde_json::to_value(registries::private("acme", HOST, &["team*"])).unwrap();
    limited["spec"]["access"]["clusters"] =
        json!({"autoInject": ["production-*"], "doNotInject": ["production-test"]});
    registries::create(&server, &serde_json::from_value(limited).unwrap()).await;
    let team = server.namespace("team").await;
    let nameless = server.start_controller("nameless", &[]).await;
    has_condition(&server, "acme", "Ready", "False/ClusterNameUnset").await;
    nameless.terminate().await;
    for (name, reason) in [
        ("staging", "True/ClusterNotSelected"),
        ("production-test", "True/ClusterExcluded"),
    ] {
        let controller = server
            .start_controller(name, &["--cluster-name", name])
            .await;
        has_condition(&server, "acme", "Distributed", reason).await;
        assert!(copies::secret(&server, &team).await.is_none(), "{name}");
        controller.terminate().await;
    }
    let _controller = server
        .start_controller("eu", &["--cluster-name=production-eu"])
        .await;
    has_login(&server, &team, HOST, "user", "first").await;
}
