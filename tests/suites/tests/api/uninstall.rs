//! The subcommand that ends an installation, as the controller's own account and inside the fence.

use clap::Parser as _;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use pullpass_controller::{Left, UninstallError, uninstall};
use pullpass_harness::Lease;
use pullpass_harness::objects::{PULL_SECRET, SYSTEM_NAMESPACE};
use pullpass_suites::copies::{self, docker_config, has_login, has_state, is_clear};
use serde_json::json;

use crate::copies::{HOST, Scene, scene_without_policy};

async fn run(server: &Lease) -> Result<Left, UninstallError> {
    let client = server
        .as_service_account(SYSTEM_NAMESPACE, "pullpass-controller")
        .await;
    let config = pullpass_controller::Config::try_parse_from(["pullpass-controller", "uninstall"])
        .expect("flags");
    uninstall(client, &config.controller).await
}

/// What a tenant with the usual rights can do to a copy where nothing forbids it.
async fn patch(server: &Lease, namespace: &str, change: serde_json::Value) {
    let secrets: Api<Secret> = server.of(namespace);
    secrets
        .patch(PULL_SECRET, &PatchParams::default(), &Patch::Merge(change))
        .await
        .unwrap();
}

#[tokio::test]
async fn it_leaves_the_sources_and_what_a_finalizer_holds_back_empty() {
    let Scene { server, controller } = scene_without_policy().await;
    let (held, plain) = (
        server.namespace("team").await,
        server.namespace("team").await,
    );
    for team in [&held, &plain, &SYSTEM_NAMESPACE.to_owned()] {
        has_login(&server, team, HOST, "user", "first").await;
    }
    for team in [&held, &plain] {
        has_state(&server, team, "Written/Written").await;
    }
    let hold = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    patch(&server, &held, hold).await;
    controller.terminate().await;

    let left = run(&server).await.expect("a tenant does not hold it up");
    assert_eq!(left.emptied, [format!("secret {held}/{PULL_SECRET}")]);
    assert!(left.whole.is_empty(), "{:?}", left.whole);
    let copy = copies::secret(&server, &held).await.unwrap();
    assert!(copy.metadata.deletion_timestamp.is_some());
    assert_eq!(docker_config(&copy), json!({"auths": {}}));
    assert!(copies::access(&server, &held).await.is_none());
    is_clear(&server, &plain).await;
    let own: Api<Secret> = server.of(SYSTEM_NAMESPACE);
    let names: Vec<String> = own
        .list_metadata(&ListParams::default())
        .await
        .unwrap()
        .iter()
        .map(ResourceExt::name_any)
        .collect();
    assert_eq!(
        names,
        ["acme"],
        "the administrator's source, and nothing else"
    );

    // it can be repeated
    let left = run(&server).await.expect("nothing is in the way");
    assert_eq!(left.emptied.len(), 1);
    patch(&server, &held, json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(run(&server).await.expect("all is gone"), Left::default());
}

#[tokio::test]
async fn what_still_holds_its_credential_makes_it_fail() {
    let Scene { server, controller } = scene_without_policy().await;
    let team = server.namespace("team").await;
    has_login(&server, &team, HOST, "user", "first").await;
    let keep = json!({"immutable": true, "metadata": {"finalizers": ["example.com/hold"]}});
    patch(&server, &team, keep).await;
    controller.terminate().await;
    match run(&server).await {
        Err(UninstallError::Left(left)) => {
            assert_eq!(left.whole, [format!("secret {team}/{PULL_SECRET}")]);
            assert!(left.emptied.is_empty(), "{:?}", left.emptied);
        }
        other => panic!("{other:?}"),
    }
    patch(&server, &team, json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(run(&server).await.expect("all is gone"), Left::default());
}
