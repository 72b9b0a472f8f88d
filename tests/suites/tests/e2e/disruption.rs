//! Parts of Pullpass or of the cluster go away for a while: no pod is refused, and all goes on after.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use pullpass_harness::objects::{PULL_SECRET, SYSTEM_NAMESPACE};
use pullpass_harness::{eventually, exclusive};
use pullpass_suites::copies::{CONVERGENCE, has_login};
use pullpass_suites::{pods, registries};
use serde_json::json;

use crate::scene::{POD, Scene, state};

const PODS: usize = 200;
const CREATORS: usize = 10;

/// A pod that no node takes, since it is its creation that counts.
fn unscheduled(name: &str) -> Pod {
    let mut manifest = pods::manifest(name, "registry.example.com/any:1");
    manifest["spec"]["nodeSelector"] = json!({"example.com/none": "true"});
    pods::from(&manifest)
}

#[tokio::test]
async fn pods_are_created_while_webhooks_are_killed() {
    let scene = Scene::on(exclusive().await).await;
    let namespace = scene.namespace("a").await;
    scene.cluster.has_account(&namespace).await;
    has_login(
        &scene.cluster,
        &namespace,
        scene.host(),
        &scene.user.name,
        &scene.user.password,
    )
    .await;
    let own: Api<Pod> = scene.cluster.of(SYSTEM_NAMESPACE);
    let webhooks = ListParams::default().labels("app.kubernetes.io/component=webhook");
    let done = AtomicBool::new(false);
    let killing = async {
        let mut killed = 0;
        while !done.load(Ordering::Relaxed) {
            for pod in own.list(&webhooks).await.unwrap() {
                let now = DeleteParams::default().grace_period(0);
                if own.delete(&pod.metadata.name.unwrap(), &now).await.is_ok() {
                    killed += 1;
                }
                // so that sometimes one is left, sometimes none
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
        killed
    };
    let creating = async {
        let creators = (0..CREATORS).map(async |creator| {
            let pods: Api<Pod> = scene.cluster.of(&namespace);
            for number in 0..PODS / CREATORS {
                let pod = unscheduled(&format!("pod-{creator}-{number}"));
                pods.create(&PostParams::default(), &pod).await.unwrap();
                // spread over several kills
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        join_all(creators).await;
        done.store(true, Ordering::Relaxed);
    };
    let (killed, ()) = tokio::join!(killing, creating);
    assert!(killed >= 4, "{killed} webhooks were killed");
    let pods: Api<Pod> = scene.cluster.of(&namespace);
    assert_eq!(
        pods.list(&ListParams::default()).await.unwrap().items.len(),
        PODS
    );
    // and when they are back, they inject again
    eventually(POD, "the webhook is back", async || {
        let dry_run = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let pod = pods
            .create(&dry_run, &unscheduled("after"))
            .await
            .map_err(|error| error.to_string())?;
        let names = pods::pull_secrets(&pod);
        if names == [PULL_SECRET] {
            Ok(())
        } else {
            Err(format!("{names:?}"))
        }
    })
    .await;
    let now = DeleteParams::default().grace_period(0);
    pods.delete_collection(&now, &ListParams::default())
        .await
        .unwrap();
    all_run(&scene).await;
}

/// Waits until every pod of Pullpass runs, as the next test may expect.
async fn all_run(scene: &Scene<pullpass_harness::Exclusive>) {
    let own: Api<Pod> = scene.cluster.of(SYSTEM_NAMESPACE);
    eventually(POD, "every pod of Pullpass runs", async || {
        let found = own
            .list(&ListParams::default())
            .await
            .map_err(|error| error.to_string())?
            .items;
        let states: Vec<_> = found.iter().map(state).collect();
        let ready = found.iter().filter(|pod| is_ready(pod)).count();
        if ready == 4 && states.len() == 4 {
            Ok(())
        } else {
            Err(format!("{states:?}, {ready} ready"))
        }
    })
    .await;
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[tokio::test]
async fn after_a_restart_of_the_api_server_all_goes_on() {
    let scene = Scene::on(exclusive().await).await;
    let first = scene.namespace("a").await;
    has_login(
        &scene.cluster,
        &first,
        scene.host(),
        &scene.user.name,
        &scene.user.password,
    )
    .await;
    scene
        .cluster
        .cluster()
        .restart("kube-apiserver")
        .await
        .unwrap();
    eventually(CONVERGENCE, "the API server answers", async || {
        scene.cluster.client().apiserver_version().await
    })
    .await;
    let changed = scene.cluster.registry().change_password(&scene.user).await;
    registries::write_source(
        &scene.cluster,
        &scene.name,
        &changed.name,
        &changed.password,
    )
    .await;
    has_login(
        &scene.cluster,
        &first,
        scene.host(),
        &changed.name,
        &changed.password,
    )
    .await;
    let second = scene.namespace("b").await;
    scene.pulls_at_once(&second).await;
    all_run(&scene).await;
}
