//! Namespaces that are made in numbers, each together with its first pod.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Event, Pod, ServiceAccount};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, ResourceExt as _};
use pullpass_harness::audit::{AuditLog, Entry};
use pullpass_harness::objects::{PULL_SECRET, named};
use pullpass_harness::{Exclusive, exclusive};
use pullpass_suites::{pods, registries};
use serde_json::json;
use tokio::time::timeout;

use crate::scene::{Scene, is_trouble, state};

const NAMESPACES: usize = 200;

/// How long the node may be silent. It starts several of the pods each second; but containerd, asked for so many containers at
/// once, can come to a halt until kubelet's requests run into their bound of two minutes.
const SILENCE: Duration = Duration::from_secs(180);

const LABEL: &str = "example.com/scene";
const POD: &str = "first";
const ACCOUNT: &str = "app";

/// Under which name the API server keeps the reason that the webhook gives.
const REASON: &str = "pods.pullpass.dev/reason";

/// Promise R2.
#[tokio::test]
#[ignore = "more pods than are meant for one node: make test-first-pulls"]
async fn of_two_hundred_namespaces_applied_at_once_every_first_pull_succeeds() {
    let scene = Scene::on(exclusive().await).await;
    // the other tests have the daemons log all that they can, which takes most of their time
    scene.cluster.upgrade_with(&["logs.filter=info"]).await;
    let image = scene.image().await;
    let audit = scene.cluster.audit();
    let applied =
        join_all((0..NAMESPACES).map(|number| apply(&scene, &image, format!("{number}"))));
    let (made, trouble) = tokio::join!(applied, watch_until_all_run(&scene));
    for pod in &made {
        assert_eq!(pods::pull_secrets(pod), [PULL_SECRET], "{:?}", pod.metadata);
    }
    assert!(trouble.is_empty(), "{trouble:?}");
    let told = trouble_told(&scene).await;
    assert!(told.is_empty(), "{told:?}");
    println!("{}", figures(&scene, &audit));

    scene.cluster.install().await;
    registries::delete(&scene.cluster, &scene.name).await;
    let now = DeleteParams::default().grace_period(0);
    join_all(made.iter().map(async |pod| {
        let pods: Api<Pod> = scene.cluster.of(&pod.namespace().unwrap());
        pods.delete(POD, &now).await.unwrap();
    }))
    .await;
}

/// A manifest of a namespace, an account and a pod, as `kubectl apply` sends them: each as soon as the one before is there.
/// With an account of its own the pod does not have to wait for the built-in controllers to make one.
async fn apply(scene: &Scene<Exclusive>, image: &str, suffix: String) -> Pod {
    let namespace = scene.namespace(&suffix).await;
    let account = ServiceAccount {
        metadata: named(ACCOUNT),
        ..ServiceAccount::default()
    };
    let accounts: Api<ServiceAccount> = scene.cluster.of(&namespace);
    accounts
        .create(&PostParams::default(), &account)
        .await
        .unwrap();
    let mut manifest = pods::manifest(POD, image);
    manifest["metadata"]["labels"] = json!({LABEL: scene.name});
    manifest["spec"]["serviceAccountName"] = json!(ACCOUNT);
    // nothing that kubelet would have to wait for before it pulls: no token, no network
    manifest["spec"]["automountServiceAccountToken"] = json!(false);
    manifest["spec"]["hostNetwork"] = json!(true);
    // each pod asks the registry, although the node has the image from the first one on
    manifest["spec"]["containers"][0]["imagePullPolicy"] = json!("Always");
    let pods: Api<Pod> = scene.cluster.of(&namespace);
    pods.create(&PostParams::default(), &pods::from(&manifest))
        .await
        .unwrap()
}

/// Watches every state that any of the pods goes through until all run, and returns those of a pull that failed.
async fn watch_until_all_run(scene: &Scene<Exclusive>) -> BTreeSet<String> {
    let pods: Api<Pod> = scene.cluster.all();
    let ours = watcher::Config::default().labels(&format!("{LABEL}={}", scene.name));
    let mut seen = pin!(watcher(pods, ours).applied_objects());
    let (mut running, mut trouble) = (BTreeSet::new(), BTreeSet::new());
    while running.len() < NAMESPACES {
        let pod = timeout(SILENCE, seen.next())
            .await
            .unwrap_or_else(|_| panic!("{} of {NAMESPACES} pods run; {trouble:?}", running.len()))
            .expect("a watch does not end")
            .unwrap();
        let namespace = pod.namespace().unwrap();
        match state(&pod).as_str() {
            "Running" => {
                running.insert(namespace);
            }
            failed @ ("ErrImagePull" | "ImagePullBackOff") => {
                trouble.insert(format!("{namespace}: {failed}"));
            }
            _ => {}
        }
    }
    trouble
}

/// What kubelet tells of pulls that failed, if only once.
async fn trouble_told(scene: &Scene<Exclusive>) -> Vec<String> {
    let events: Api<Event> = scene.cluster.all();
    let about = ListParams::default().fields(&format!("involvedObject.name={POD}"));
    let events = events.list(&about).await.unwrap();
    let told: Vec<String> = events
        .into_iter()
        .filter(|event| is_of(scene, &event.namespace().unwrap_or_default()))
        .map(|event| {
            format!(
                "{}: {}",
                event.reason.unwrap_or_default(),
                event.message.unwrap_or_default()
            )
        })
        .collect();
    assert!(
        told.iter()
            .any(|event| event.contains("Successfully pulled")),
        "kubelet tells of pulls"
    );
    // an event of reason Failed may be about a container too
    let is_about_a_pull = |event: &String| !event.starts_with("Failed:") || event.contains("image");
    told.into_iter()
        .filter(|event| is_trouble(event) && is_about_a_pull(event))
        .collect()
}

fn is_of(scene: &Scene<Exclusive>, namespace: &str) -> bool {
    namespace
        .strip_prefix(&scene.name)
        .is_some_and(|rest| rest.starts_with('-'))
}

/// The namespace that a request was about or in.
fn namespace_of(entry: &Entry) -> &str {
    match entry.namespace() {
        "" => entry.name(),
        namespace => namespace,
    }
}

/// What the API server tells of the same: the decisions by reason, and how long after its namespace each PullAccess was
/// there. They decide nothing here.
fn figures(scene: &Scene<Exclusive>, audit: &AuditLog) -> String {
    let entries = audit.entries();
    let ours = |entry: &&Entry| is_of(scene, namespace_of(entry)) && entry.succeeded();
    let mut decisions: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in entries.iter().filter(ours) {
        if entry.resource() == "pods" && entry.verb == "create" {
            let reason = entry.annotations.get(REASON).map_or("none", String::as_str);
            *decisions.entry(reason).or_default() += 1;
        }
    }
    let made: BTreeMap<&str, &Entry> = entries
        .iter()
        .filter(ours)
        .filter(|entry| entry.resource() == "namespaces" && entry.verb == "create")
        .map(|entry| (namespace_of(entry), entry))
        .collect();
    let mut delays: BTreeMap<&str, Duration> = BTreeMap::new();
    for entry in entries.iter().filter(ours) {
        if entry.resource() != "pullaccesses" || !entry.is_write() {
            continue;
        }
        if let Some(namespace) = made.get(entry.namespace()) {
            let delay = Duration::try_from(entry.at.duration_since(namespace.at));
            delays
                .entry(entry.namespace())
                .or_insert_with(|| delay.unwrap_or_default());
        }
    }
    let mut delays: Vec<Duration> = delays.into_values().collect();
    delays.sort();
    let percentile = |percent: usize| {
        let index = (delays.len() * percent / 100).min(delays.len().saturating_sub(1));
        delays.get(index).copied().unwrap_or_default()
    };
    format!(
        "decisions: {decisions:?}; PullAccess after its namespace: p50 {:?}, p99 {:?}, all {} within {:?}",
        percentile(50),
        percentile(99),
        delays.len(),
        percentile(100)
    )
}
