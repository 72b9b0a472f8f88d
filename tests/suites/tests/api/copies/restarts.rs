//! What another controller finds, and what it finds missing.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::DeleteParams;
use pullpass_harness::eventually;
use pullpass_harness::identity::service_account_user;
use pullpass_harness::objects::{PULL_SECRET, SYSTEM_NAMESPACE};
use pullpass_suites::copies::{CONVERGENCE, has_login, has_state, is_clear};
use pullpass_suites::registries;
use serde_json::json;

use super::{HOST, label, scene};
use crate::controller_writes::writes_nothing;

#[tokio::test]
async fn a_restart_writes_nothing() {
    let scene = scene().await;
    scene.teams(5).await;
    scene.is_settled().await;
    scene.controller.terminate().await;
    let audit = scene.server.audit();
    let _next = scene.server.start_controller("two", &[]).await;
    // a new namespace shows that it is at work; its own and the count in the status are all that is written
    let late = scene.server.namespace("team-late").await;
    has_login(&scene.server, &late, HOST, "user", "first").await;
    has_state(&scene.server, &late, "Written/Written").await;
    writes_nothing(&audit, |entry| {
        entry.namespace() != late && entry.resource() != "registries/status"
    })
    .await;
}

#[tokio::test]
async fn what_happened_while_no_controller_ran_is_made_up_for() {
    let scene = scene().await;
    let server = &scene.server;
    let teams = scene.teams(3).await;
    scene.is_settled().await;
    scene.controller.kill();
    registries::write_source(server, "acme", "user", "second").await;
    label(server, &teams[0], json!({"pullpass.dev/inject": "false"})).await;
    let secrets: Api<Secret> = server.of(&teams[1]);
    secrets
        .delete(PULL_SECRET, &DeleteParams::default())
        .await
        .unwrap();
    let late = server.namespace("team-late").await;
    let _next = server.start_controller("two", &[]).await;
    for team in [&teams[1], &teams[2], &late] {
        has_login(server, team, HOST, "user", "second").await;
    }
    is_clear(server, &teams[0]).await;
}

#[tokio::test]
async fn without_the_definition_everything_is_left_as_it_is() {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    let scene = scene().await;
    let server = &scene.server;
    let teams = scene.teams(2).await;
    scene.is_settled().await;
    scene.controller.kill();
    let definitions: Api<CustomResourceDefinition> = server.all();
    definitions
        .delete("registries.pullpass.dev", &DeleteParams::default())
        .await
        .unwrap();
    eventually(
        CONVERGENCE,
        "the definition is gone",
        async || match definitions
            .get_opt("registries.pullpass.dev")
            .await
            .map_err(|error| error.to_string())?
        {
            None => Ok(()),
            Some(_) => Err("it is there".to_owned()),
        },
    )
    .await;
    let audit = server.audit();
    let blind = server.start_controller_unready("two", &[]).await;
    let user = service_account_user(SYSTEM_NAMESPACE, "pullpass-controller");
    eventually(
        CONVERGENCE,
        "the controller has asked for Registries",
        async || {
            let asked = audit.entries().into_iter().any(|entry| {
                entry.user.username == user
                    && entry.request_uri.contains("/registries")
                    && !entry.succeeded()
            });
            if asked { Ok(()) } else { Err("not yet") }
        },
    )
    .await;
    writes_nothing(&audit, |_| true).await;
    assert!(
        blind.context().readiness.check().is_err(),
        "it says that it is not ready"
    );
    for team in &teams {
        has_login(server, team, HOST, "user", "first").await;
    }
}
