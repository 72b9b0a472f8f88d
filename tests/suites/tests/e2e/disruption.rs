//! Parts of Pullpass or of the cluster go away for a while: no pod is refused, and all goes on after.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt as _};
use pullpass_harness::objects::SYSTEM_NAMESPACE;
use pullpass_harness::{Exclusive, eventually, exclusive};
use pullpass_suites::copies::{CONVERGENCE, has_login};
use pullpass_suites::registries;
use tokio::time::MissedTickBehavior;

use crate::scene::{POD, Scene, state};
use crate::steady::{Stream, Tally};

/// How often replicas are killed.
const EVERY: Duration = Duration::from_secs(5);

/// The metric of each watch, before its label.
const LAST_CONTACT: &str = "pullpass_watch_last_contact_timestamp_seconds";

/// Promise R1, for as long as `make test` has time.
#[tokio::test]
async fn no_pod_is_refused_whatever_goes_away() {
    let scene = Scene::on(exclusive().await).await;
    let namespace = scene.injected_namespace("a").await;
    println!("{}", disturb(&scene, &namespace, 4).await);
}

/// Promise R1, for as long as one likes.
#[tokio::test]
#[ignore = "takes as long as one asks for: make soak DURATION=5m"]
async fn soak() {
    #[allow(clippy::disallowed_methods, reason = "a test has no flags of its own")]
    let duration = std::env::var("DURATION").unwrap_or_else(|_| "5m".to_owned());
    let duration: jiff::SignedDuration = duration.parse().expect("DURATION is one such as 5m");
    let duration = Duration::try_from(duration).expect("DURATION is not negative");
    let scene = Scene::on(exclusive().await).await;
    let namespace = scene.injected_namespace("a").await;
    let start = Instant::now();
    let mut round = 0;
    while start.elapsed() < duration {
        round += 1;
        let counted = disturb(&scene, &namespace, 6).await;
        println!(
            "{:4} s, round {round}: {counted}",
            start.elapsed().as_secs()
        );
    }
}

/// Creates pods while replicas are killed, both Deployments are rolled out anew, and the API server restarts. Every pod
/// has to be created. Returns how many were injected, in words.
async fn disturb(scene: &Scene<Exclusive>, namespace: &str, kills: usize) -> String {
    let stream = Stream::into(scene.cluster.of(namespace));
    let disturbing = async {
        kill_replicas(scene, kills).await;
        all_run(scene).await;
        let killed = stream.tally();
        roll_out(scene).await;
        let rolled_out = stream.tally();
        stream.server_is_away(true);
        let back = restart_api_server(scene).await;
        all_run(scene).await;
        all_follow(scene, back).await;
        scene.injects(namespace).await;
        stream.server_is_away(false);
        stream.end();
        (killed, rolled_out)
    };
    let ((killed, rolled_out), ()) = tokio::join!(disturbing, stream.flow());
    let all = stream.tally();
    assert!(all.refused.is_empty(), "{:?}", all.refused);
    let pods: Api<Pod> = scene.cluster.of(namespace);
    let found = pods
        .list_metadata(&ListParams::default())
        .await
        .unwrap()
        .items
        .len();
    assert_eq!((all.created, found), (all.asked, all.asked));
    let now = DeleteParams::default().grace_period(0);
    pods.delete_collection(&now, &ListParams::default())
        .await
        .unwrap();
    let injected = |after: &Tally, before: &Tally| {
        format!(
            "{} of {}",
            after.injected - before.injected,
            after.created - before.created
        )
    };
    format!(
        "{} pods asked for, {} created; injected {} while {kills} times replicas were killed, {} during rollouts, {} around \
         the restart of the API server",
        all.asked,
        all.created,
        injected(&killed, &Tally::default()),
        injected(&rolled_out, &killed),
        injected(&all, &rolled_out)
    )
}

/// Kills replicas every five seconds: sometimes one webhook, sometimes all at once, sometimes one of each kind.
async fn kill_replicas(scene: &Scene<Exclusive>, times: usize) {
    let mut clock = tokio::time::interval(EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for time in 0..times {
        clock.tick().await;
        let victims: &[(&str, usize)] = match time % 3 {
            0 => &[("webhook", 1)],
            1 => &[("webhook", usize::MAX)],
            _ => &[("webhook", 1), ("controller", 1)],
        };
        for &(component, count) in victims {
            // on a busy machine those that were killed last are not replaced yet
            eventually(POD, "there is something to kill", async || {
                match kill(scene, component, count).await {
                    0 => Err(format!("no {component}")),
                    _ => Ok(()),
                }
            })
            .await;
        }
    }
    clock.tick().await;
}

/// Kills replicas of a component, at most `count`, and returns how many.
async fn kill(scene: &Scene<Exclusive>, component: &str, count: usize) -> usize {
    let own: Api<Pod> = scene.cluster.of(SYSTEM_NAMESPACE);
    let of = ListParams::default().labels(&format!("app.kubernetes.io/component={component}"));
    let now = DeleteParams::default().grace_period(0);
    let mut killed = 0;
    for pod in own.list(&of).await.unwrap().into_iter().take(count) {
        killed += usize::from(own.delete(&pod.name_any(), &now).await.is_ok());
    }
    killed
}

/// Replaces every pod of Pullpass, as `kubectl rollout restart` does.
async fn roll_out(scene: &Scene<Exclusive>) {
    let deployments: Api<Deployment> = scene.cluster.of(SYSTEM_NAMESPACE);
    for name in ["pullpass-webhook", "pullpass-controller"] {
        deployments.restart(name).await.unwrap();
    }
    eventually(POD, "the Deployments are rolled out", async || {
        let all = deployments
            .list(&ListParams::default())
            .await
            .map_err(|error| error.to_string())?;
        let unfinished: Vec<String> = all
            .iter()
            .filter(|deployment| !is_rolled_out(deployment))
            .map(|deployment| format!("{}: {:?}", deployment.name_any(), deployment.status))
            .collect();
        if unfinished.is_empty() {
            Ok(())
        } else {
            Err(unfinished.join(", "))
        }
    })
    .await;
    all_run(scene).await;
}

/// By the rules of `kubectl rollout status`.
fn is_rolled_out(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
    deployment.status.as_ref().is_some_and(|status| {
        status.observed_generation >= deployment.metadata.generation
            && status.updated_replicas == wanted
            && status.replicas == wanted
            && status.available_replicas == wanted
    })
}

/// Returns when it answered again.
async fn restart_api_server(scene: &Scene<Exclusive>) -> SystemTime {
    let cluster = scene.cluster.cluster();
    cluster.restart("kube-apiserver").await.unwrap();
    eventually(CONVERGENCE, "the API server answers", async || {
        scene.cluster.client().apiserver_version().await
    })
    .await;
    SystemTime::now()
}

/// Waits until every watch of every pod of Pullpass has heard from the API server since then. Kubernetes' own routing may
/// take half a minute to lead pods to an API server that was away.
async fn all_follow(scene: &Scene<Exclusive>, since: SystemTime) {
    let since = since.duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let own: Api<Pod> = scene.cluster.of(SYSTEM_NAMESPACE);
    eventually(POD, "every watch follows", async || {
        let found = own
            .list(&ListParams::default())
            .await
            .map_err(|error| error.to_string())?;
        let mut watches = 0;
        for pod in found {
            let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
            let address = address.ok_or("a pod has no address")?;
            let told = reqwest::get(format!("http://{address}:8080/metrics")).await;
            let told = told.map_err(|error| error.to_string())?.text().await;
            for line in told.map_err(|error| error.to_string())?.lines() {
                let Some(contact) = line.strip_prefix(LAST_CONTACT) else {
                    continue;
                };
                let (watch, time) = contact.rsplit_once(' ').unwrap();
                if time.parse::<f64>().unwrap() < since {
                    return Err(format!("{}{watch} does not", pod.name_any()));
                }
                watches += 1;
            }
        }
        // more than one in each pod
        if watches > 4 {
            Ok(())
        } else {
            Err(format!("{watches} watches"))
        }
    })
    .await;
}

/// Waits until every pod of Pullpass runs, as the next test may expect.
async fn all_run(scene: &Scene<Exclusive>) {
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
    scene.has_login(&first).await;
    let back = restart_api_server(&scene).await;
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
    all_follow(&scene, back).await;
}
