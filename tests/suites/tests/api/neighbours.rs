//! Other webhooks beside ours, on a real API server: whatever they do, before or after, our name is there once, and
//! theirs are as they would be without us.

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use pullpass_harness::admission::{Habit, Neighbour};
use pullpass_harness::objects::PULL_SECRET;
use pullpass_harness::{Lease, eventually, lease};
use pullpass_suites::copies::CONVERGENCE;
use pullpass_suites::pods::pull_secrets;
use serde_json::{Value, json};

use crate::admission::{
    dry_run, mirror_pod, namespace_with_access, pod_of_strict_account, pod_with, scene,
};

fn names(pod: &Value) -> Vec<Value> {
    pod["spec"]["imagePullSecrets"]
        .as_array()
        .cloned()
        .unwrap_or_default()
}

fn appends(pod: &mut Value) {
    let mut names = names(pod);
    let own = json!({"name": "neighbour"});
    if !names.contains(&own) {
        names.push(own);
    }
    pod["spec"]["imagePullSecrets"] = names.into();
}

fn puts_first(pod: &mut Value) {
    let mut names = names(pod);
    names.retain(|name| name["name"] != "neighbour");
    names.insert(0, json!({"name": "neighbour"}));
    pod["spec"]["imagePullSecrets"] = names.into();
}

fn replaces(pod: &mut Value) {
    pod["spec"]["imagePullSecrets"] = json!([{"name": "neighbour"}, {"name": "second"}]);
}

fn adds_a_container(pod: &mut Value) {
    let containers = pod["spec"]["containers"].as_array_mut().unwrap();
    if !containers.iter().any(|c| c["name"] == "sidecar") {
        containers.insert(
            0,
            json!({"name": "sidecar", "image": "mesh.example.com/proxy:1"}),
        );
    }
    pod["metadata"]["annotations"]["mesh.example.com/injected"] = json!("true");
}

/// Also the marks of a webhook that does not know which pods must not name a Secret.
fn adds_our_name(pod: &mut Value) {
    let mut names = names(pod);
    names.push(json!({"name": PULL_SECRET}));
    pod["spec"]["imagePullSecrets"] = names.into();
}

/// What of a pod the webhooks could have changed.
fn comparable(pod: &Pod, without_names: bool) -> Value {
    let mut value = serde_json::to_value(pod).unwrap();
    if without_names {
        value["spec"]
            .as_object_mut()
            .unwrap()
            .remove("imagePullSecrets");
    }
    json!({
        "spec": value["spec"],
        "labels": value["metadata"]["labels"],
        "annotations": value["metadata"]["annotations"],
    })
}

/// Waits until the API server asks the webhooks that are registered now.
async fn is_asked(server: &Lease, namespace: &str, pod: &Pod, expected: bool) {
    let untouched = comparable(pod, false);
    eventually(CONVERGENCE, "the API server follows", async || {
        let made = comparable(&dry_run(server, namespace, pod).await, false);
        let is_changed = made["spec"]["imagePullSecrets"] != untouched["spec"]["imagePullSecrets"]
            || made["annotations"] != untouched["annotations"];
        if is_changed == expected {
            Ok(())
        } else {
            Err(made.to_string())
        }
    })
    .await;
}

#[tokio::test]
async fn before_or_after_ours_is_there_once_and_theirs_are_as_without_us() {
    let (server, _webhook) = scene(&[]).await;
    let selected = namespace_with_access(&server, "team", &[]).await;
    let control = server.namespace("other").await;
    // the volume of a token has a random name
    let plain = json!({"spec": {"automountServiceAccountToken": false}});
    let own = json!({"spec": {"automountServiceAccountToken": false,
        "imagePullSecrets": [{"name": "own-b"}, {"name": "own-a"}]}});
    let habits: [(&str, Habit); 4] = [
        ("appends", appends),
        ("puts-first", puts_first),
        ("replaces", replaces),
        ("adds-a-container", adds_a_container),
    ];
    let configurations: Api<MutatingWebhookConfiguration> = server.all();
    let probe = pod_with("pod", &plain);
    for (habit, change) in habits {
        let neighbour = Neighbour::start(change).await;
        // webhooks are asked in the order of their configurations' names, and ours is called pullpass
        for place in ["before", "zz-after"] {
            for policy in ["Never", "IfNeeded"] {
                let what = format!("{place} {habit} {policy}");
                let name = format!("{place}-{habit}");
                neighbour.register(&server, &name, policy).await;
                is_asked(&server, &control, &probe, true).await;
                for changes in [&plain, &own] {
                    let pod = pod_with("pod", changes);
                    let without_us = dry_run(&server, &control, &pod).await;
                    let with_us = dry_run(&server, &selected, &pod).await;
                    assert_eq!(
                        comparable(&with_us, true),
                        comparable(&without_us, true),
                        "{what}: nothing else is changed"
                    );
                    let mut names = pull_secrets(&with_us);
                    let ours = names.iter().filter(|name| *name == PULL_SECRET).count();
                    names.retain(|name| name != PULL_SECRET);
                    assert_eq!(names, pull_secrets(&without_us), "{what}: their order");
                    // who is asked last, and again after us, and replaces all there is, has the last word
                    let has_the_last_word =
                        (place, habit, policy) == ("zz-after", "replaces", "IfNeeded");
                    assert_eq!(
                        ours,
                        usize::from(!has_the_last_word),
                        "{what}: ours is there once"
                    );
                }
                configurations
                    .delete(&name, &DeleteParams::default())
                    .await
                    .unwrap();
                is_asked(&server, &control, &probe, false).await;
            }
        }
    }
}

#[tokio::test]
async fn without_our_guards_the_api_server_refuses_pods_that_may_not_name_secrets() {
    let server = lease().await;
    let neighbour = Neighbour::start(adds_our_name).await;
    neighbour.register(&server, "naive", "Never").await;
    let namespace = server.namespace("team").await;
    let strict = pod_of_strict_account(&server, &namespace, "refused").await;
    is_asked(&server, &namespace, &pod_with("pod", &json!({})), true).await;
    let pods: Api<Pod> = server.of(&namespace);
    for (what, pod) in [
        ("a mirror pod", mirror_pod("refused")),
        ("an account that lists its Secrets", strict),
    ] {
        let refused = pods.create(&PostParams::default(), &pod).await;
        match refused {
            Err(kube::Error::Api(status)) => {
                assert!(
                    status.is_forbidden() && status.message.to_lowercase().contains("secret"),
                    "{what}: {status:?}"
                );
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}
