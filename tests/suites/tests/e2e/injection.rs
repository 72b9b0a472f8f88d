//! Which pods get the name, and at which place, through the Service of the installed webhook.

use pullpass_harness::objects::PULL_SECRET;
use pullpass_harness::{Shared, eventually, shared};
use pullpass_suites::copies::{self, CONVERGENCE};
use pullpass_suites::{pods, registries};
use serde_json::{Value, json};

use crate::scene::Scene;

const IMAGE: &str = "registry.example.com/any:1";

async fn dry_run(scene: &Scene<Shared>, namespace: &str, changes: &Value) -> Vec<String> {
    scene.cluster.has_account(namespace).await;
    let mut manifest = pods::manifest("app", IMAGE);
    for (path, value) in changes.as_object().into_iter().flatten() {
        let (parent, field) = path.rsplit_once('/').unwrap();
        manifest.pointer_mut(parent).unwrap()[field] = value.clone();
    }
    let pod = pods::from(&manifest);
    scene.dry_run(namespace, &pod).await.unwrap()
}

#[tokio::test]
async fn own_pull_secrets_keep_their_order_and_ours_is_last() {
    let scene = Scene::on(shared().await).await;
    let namespace = scene.injected_namespace("a").await;
    let own = json!({"/spec/imagePullSecrets": [{"name": "z-first"}, {"name": "a-second"}]});
    assert_eq!(
        dry_run(&scene, &namespace, &own).await,
        ["z-first", "a-second", PULL_SECRET]
    );
    assert_eq!(dry_run(&scene, &namespace, &json!({})).await, [PULL_SECRET]);
}

/// The command of docs/injection.md.
#[tokio::test]
async fn a_dry_run_tells_that_the_webhook_is_reached() {
    let scene = Scene::on(shared().await).await;
    let namespace = scene.injected_namespace("a").await;
    let asked = [
        "--namespace",
        &namespace,
        "run",
        "probe",
        "--image=registry.example.com/app",
        "--dry-run=server",
        "--output=jsonpath={.spec.imagePullSecrets[*].name}",
    ];
    let told = scene.cluster.cluster().kubectl(&asked).await;
    assert_eq!(told.unwrap(), PULL_SECRET);
}

#[tokio::test]
async fn pods_and_namespaces_can_decline() {
    let scene = Scene::on(shared().await).await;
    let namespace = scene.injected_namespace("a").await;
    let declines = json!({"/metadata/labels": {"pullpass.dev/inject": "false"}});
    assert!(dry_run(&scene, &namespace, &declines).await.is_empty());
    let declining = format!("{}-b", scene.name);
    scene
        .cluster
        .create_namespace(&declining, &[("pullpass.dev/inject", "false")])
        .await;
    assert!(dry_run(&scene, &declining, &json!({})).await.is_empty());
    let excluded = scene.namespace("excluded").await;
    assert!(dry_run(&scene, &excluded, &json!({})).await.is_empty());
    for namespace in [&declining, &excluded] {
        assert!(
            copies::secret(&scene.cluster, namespace).await.is_none(),
            "{namespace}"
        );
    }
}

#[tokio::test]
async fn a_deleted_registry_takes_copies_and_injection_along() {
    let scene = Scene::on(shared().await).await;
    let namespaces = [
        scene.injected_namespace("a").await,
        scene.injected_namespace("b").await,
    ];
    registries::delete(&scene.cluster, &scene.name).await;
    for namespace in &namespaces {
        copies::is_clear(&scene.cluster, namespace).await;
        eventually(CONVERGENCE, "nothing is injected", async || {
            let names = dry_run(&scene, namespace, &json!({})).await;
            if names.is_empty() {
                Ok(())
            } else {
                Err(format!("{names:?}"))
            }
        })
        .await;
    }
}
