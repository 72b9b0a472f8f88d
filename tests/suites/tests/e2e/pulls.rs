//! The main job: pods pull private images that nobody gave them a credential for.

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use pullpass_harness::objects::{PULL_SECRET, SYSTEM_NAMESPACE};
use pullpass_harness::{eventually, shared};
use pullpass_suites::{copies, pods};

use crate::scene::{POD, Scene, state};

#[tokio::test]
async fn the_first_pod_of_a_new_namespace_pulls_at_its_first_attempt() {
    let scene = Scene::on(shared().await).await;
    // pushed before, so that namespace and pod are made as close together as they can be
    let images = join_all((0..8).map(|_| scene.image())).await;
    let each = images.iter().enumerate().map(async |(number, image)| {
        let namespace = scene.namespace(&number.to_string()).await;
        scene.pulls_image_at_once(&namespace, image).await;
    });
    join_all(each).await;
}

#[tokio::test]
async fn another_repository_of_the_registry_needs_nothing_more() {
    let scene = Scene::on(shared().await).await;
    let namespace = scene.namespace("a").await;
    scene.pulls_at_once(&namespace).await;
    scene.pulls_at_once(&namespace).await;
}

#[tokio::test]
async fn an_excluded_namespace_gets_nothing_and_pulls_nothing() {
    let scene = Scene::on(shared().await).await;
    let namespace = scene.namespace("excluded").await;
    let image = scene.image().await;
    let made = scene.create(&namespace, &pods::pod("app", &image)).await;
    assert!(pods::pull_secrets(&made).is_empty());
    let pods: Api<Pod> = scene.cluster.of(&namespace);
    eventually(POD, "the registry refuses", async || {
        let pod = pods.get("app").await.map_err(|error| error.to_string())?;
        match state(&pod).as_str() {
            "ErrImagePull" | "ImagePullBackOff" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
    assert!(copies::secret(&scene.cluster, &namespace).await.is_none());
    assert!(copies::access(&scene.cluster, &namespace).await.is_none());
}

#[tokio::test]
async fn a_pull_without_a_credential_is_refused_even_where_the_image_is() {
    let scene = Scene::on(shared().await).await;
    let image = scene.image().await;
    let selected = scene.namespace("a").await;
    scene.pulls_image_at_once(&selected, &image).await;
    // the same node holds the image now; a namespace without the credential may not use it
    let excluded = scene.namespace("excluded").await;
    scene.create(&excluded, &pods::pod("app", &image)).await;
    let pods: Api<Pod> = scene.cluster.of(&excluded);
    eventually(
        POD,
        "kubelet asks the registry, which refuses",
        async || {
            let pod = pods.get("app").await.map_err(|error| error.to_string())?;
            match state(&pod).as_str() {
                "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" => Ok(()),
                other => Err(other.to_owned()),
            }
        },
    )
    .await;
}

#[tokio::test]
async fn our_own_pods_meet_the_restricted_profile() {
    let scene = Scene::on(shared().await).await;
    let namespaces: Api<Namespace> = scene.cluster.all();
    let own = namespaces.get(SYSTEM_NAMESPACE).await.unwrap();
    let enforced = own
        .labels()
        .get("pod-security.kubernetes.io/enforce")
        .map(String::as_str);
    assert_eq!(enforced, Some("restricted"));
    let pods: Api<Pod> = scene.cluster.of(SYSTEM_NAMESPACE);
    for component in ["webhook", "controller"] {
        let of = ListParams::default().labels(&format!("app.kubernetes.io/component={component}"));
        let found = eventually(POD, "both replicas run", async || {
            let found = pods
                .list(&of)
                .await
                .map_err(|error| error.to_string())?
                .items;
            let running = found.iter().filter(|pod| state(pod) == "Running").count();
            if running == 2 {
                Ok(found)
            } else {
                Err(format!("{running} of {component}"))
            }
        })
        .await;
        for pod in found {
            let mine = pods::pull_secrets(&pod);
            assert!(
                !mine.iter().any(|name| name == PULL_SECRET),
                "ours are not injected: {mine:?}"
            );
        }
    }
}
