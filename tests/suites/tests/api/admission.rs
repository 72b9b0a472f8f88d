//! The webhook behind a real API server: what becomes of real pods, and that no pod is ever refused or lost.

use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota, Secret, ServiceAccount};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt as _};
use pullpass_api::PullAccess;
use pullpass_api::pull_access::SECRET_STATE_LABEL;
use pullpass_daemon::Ending;
use pullpass_harness::daemons::Webhook;
use pullpass_harness::objects::{PULL_SECRET, secret};
use pullpass_harness::{Lease, eventually, lease};
use pullpass_suites::copies::{CONVERGENCE, has_state};
use pullpass_suites::pods::{self, pull_secrets};
use pullpass_suites::registries;
use serde_json::{Value, json};

pub(crate) const IMAGE: &str = "registry.example.com/acme/app:1.0";

/// An API server that asks a webhook, and a Registry for every namespace whose name begins with `team`.
pub(crate) async fn scene(flags: &[&str]) -> (Lease, Webhook) {
    let server = lease().await;
    server.apply_chart().await;
    let registry = registries::private("acme", "registry.example.com", &["team*"]);
    registries::create(&server, &registry).await;
    let webhook = server.start_webhook(flags).await;
    server.register_webhook(&webhook).await;
    let probe = namespace_with_access(&server, "team-probe", &[]).await;
    eventually(CONVERGENCE, "the API server asks the webhook", async || {
        let pod = dry_run(&server, &probe, &pods::pod("probe", IMAGE)).await;
        if pull_secrets(&pod) == [PULL_SECRET] {
            Ok(())
        } else {
            Err(format!("{:?}", pull_secrets(&pod)))
        }
    })
    .await;
    (server, webhook)
}

pub(crate) async fn create(server: &Lease, namespace: &str, pod: &Pod) -> Pod {
    let pods: Api<Pod> = server.of(namespace);
    pods.create(&PostParams::default(), pod).await.unwrap()
}

pub(crate) async fn dry_run(server: &Lease, namespace: &str, pod: &Pod) -> Pod {
    let pods: Api<Pod> = server.of(namespace);
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    pods.create(&dry_run, pod).await.unwrap()
}

/// A namespace for which the controller, which does not run here, has done its work.
pub(crate) async fn namespace_with_access(
    server: &Lease,
    prefix: &str,
    labels: &[(&str, &str)],
) -> String {
    let namespace = server.namespace_with(prefix, labels).await;
    provide_access(server, &namespace).await;
    namespace
}

async fn provide_access(server: &Lease, namespace: &str) {
    tell_access(server, namespace, "Written", "Written").await;
}

/// Writes the PullAccess as the controller does.
async fn tell_access(server: &Lease, namespace: &str, state: &str, reason: &str) {
    let access: PullAccess = serde_json::from_value(json!({
        "apiVersion": "pullpass.dev/v1alpha1",
        "kind": "PullAccess",
        "metadata": {"name": "pullpass", "labels": {SECRET_STATE_LABEL: state}},
        "secret": {"name": PULL_SECRET, "state": state, "reason": reason},
        "registries": [],
    }))
    .unwrap();
    let accesses: Api<PullAccess> = server.of(namespace);
    accesses
        .create(&PostParams::default(), &access)
        .await
        .unwrap();
}

/// A pod with some fields over those of the usual one.
pub(crate) fn pod_with(name: &str, changes: &Value) -> Pod {
    let mut manifest = pods::manifest(name, IMAGE);
    merge(&mut manifest, changes);
    pods::from(&manifest)
}

/// A pod as kubelet shows one that it has from a file. The API server lets it name no Secret.
pub(crate) fn mirror_pod(name: &str) -> Pod {
    let changes = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "a1", "kubernetes.io/config.hash": "a1",
        "kubernetes.io/config.source": "file"}}, "spec": {"nodeName": "node-1"}});
    pod_with(name, &changes)
}

/// A pod of a new account whose pods may name no Secret but those that the account lists.
pub(crate) async fn pod_of_strict_account(server: &Lease, namespace: &str, name: &str) -> Pod {
    let accounts: Api<ServiceAccount> = server.of(namespace);
    let strict = serde_json::from_value(
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "strict",
        "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}}}),
    )
    .unwrap();
    accounts
        .create(&PostParams::default(), &strict)
        .await
        .unwrap();
    pod_with(name, &json!({"spec": {"serviceAccountName": "strict"}}))
}

/// Puts fields over those of an object.
pub(crate) fn merge(into: &mut Value, changes: &Value) {
    match (into, changes) {
        (Value::Object(into), Value::Object(changes)) => {
            for (key, change) in changes {
                merge(into.entry(key.clone()).or_insert(Value::Null), change);
            }
        }
        (into, change) => *into = change.clone(),
    }
}

#[tokio::test]
async fn ours_is_the_last_of_a_pods_pull_secrets() {
    let (server, _webhook) = scene(&[]).await;
    let namespace = namespace_with_access(&server, "team", &[]).await;
    let own = json!({"spec": {"imagePullSecrets": [{"name": "second-best"}, {"name": "another"}]}});
    let listed =
        json!({"spec": {"imagePullSecrets": [{"name": PULL_SECRET}, {"name": "another"}]}});
    let none = json!({"spec": {"imagePullSecrets": []}});
    for (name, changes, expected) in [
        ("plain", json!({}), vec![PULL_SECRET]),
        ("empty", none, vec![PULL_SECRET]),
        ("own", own, vec!["second-best", "another", PULL_SECRET]),
        ("listed", listed, vec![PULL_SECRET, "another"]),
    ] {
        let made = create(&server, &namespace, &pod_with(name, &changes)).await;
        assert_eq!(pull_secrets(&made), expected, "{name}");
    }
}

#[tokio::test]
async fn the_pull_secrets_of_a_service_account_come_first() {
    let (server, _webhook) = scene(&[]).await;
    let namespace = namespace_with_access(&server, "team", &[]).await;
    let accounts: Api<ServiceAccount> = server.of(&namespace);
    let account = serde_json::from_value(json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "builder"}, "imagePullSecrets": [{"name": "of-the-account"}]}))
    .unwrap();
    accounts
        .create(&PostParams::default(), &account)
        .await
        .unwrap();
    let changes = json!({"spec": {"serviceAccountName": "builder"}});
    let made = create(&server, &namespace, &pod_with("built", &changes)).await;
    assert_eq!(pull_secrets(&made), ["of-the-account", PULL_SECRET]);
}

#[tokio::test]
async fn who_declines_or_is_not_selected_is_left_alone() {
    let (server, _webhook) = scene(&[]).await;
    let team = namespace_with_access(&server, "team", &[]).await;
    let declining =
        namespace_with_access(&server, "team", &[("pullpass.dev/inject", "false")]).await;
    let foreign = server.namespace("other").await;
    let declines = json!({"metadata": {"labels": {"pullpass.dev/inject": "false"}}});
    let agrees = json!({"metadata": {"labels": {"pullpass.dev/inject": "true"}}});
    for (namespace, changes, expected) in [
        (&team, &declines, &[][..]),
        (&team, &agrees, &[PULL_SECRET][..]),
        (&declining, &json!({}), &[][..]),
        (&declining, &agrees, &[][..]),
        (&foreign, &json!({}), &[][..]),
    ] {
        let pod = dry_run(&server, namespace, &pod_with("pod", changes)).await;
        assert_eq!(pull_secrets(&pod), expected, "{namespace} {changes}");
    }
    for namespace in ["default", "kube-system", "pullpass-system"] {
        server.has_account(namespace).await;
        let pod = dry_run(&server, namespace, &pods::pod("pod", IMAGE)).await;
        assert!(pull_secrets(&pod).is_empty(), "{namespace}");
    }
}

#[tokio::test]
async fn pods_that_may_not_name_secrets_are_made_as_they_are() {
    let (server, _webhook) = scene(&[]).await;
    let namespace = namespace_with_access(&server, "team", &[]).await;
    let made = create(&server, &namespace, &mirror_pod("mirror")).await;
    assert!(pull_secrets(&made).is_empty(), "a mirror pod");

    let strict = pod_of_strict_account(&server, &namespace, "strict").await;
    let pods: Api<Pod> = server.of(&namespace);
    // the webhook learns of the account by a watch; that the pod is admitted is what counts
    let made = eventually(CONVERGENCE, "the webhook knows the account", async || {
        pods.create(&PostParams::default(), &strict)
            .await
            .map_err(|error| error.to_string())
    })
    .await;
    assert!(
        pull_secrets(&made).is_empty(),
        "an account that lists its Secrets"
    );
}

#[tokio::test]
async fn generated_names_are_no_obstacle() {
    let (server, _webhook) = scene(&[]).await;
    let namespace = namespace_with_access(&server, "team", &[]).await;
    let mut manifest = pods::manifest("unused", IMAGE);
    manifest["metadata"] = json!({"generateName": "worker-"});
    let pod = pods::from(&manifest);
    for _ in 0..3 {
        let made = create(&server, &namespace, &pod).await;
        assert!(made.name_any().starts_with("worker-"));
        assert_eq!(pull_secrets(&made), [PULL_SECRET]);
    }
}

#[tokio::test]
async fn the_first_pod_of_a_young_namespace_waits_for_its_secret() {
    // longer than anything here takes, so that only the arrival of the PullAccess can end the wait
    let (server, _webhook) = scene(&["--wait=10s"]).await;
    let namespace = server.namespace("team-young").await;
    let pod = pods::pod("first", IMAGE);
    let pods: Api<Pod> = server.of(&namespace);
    let creating = tokio::spawn(async move { pods.create(&PostParams::default(), &pod).await });
    // a dry run does not wait, so its answer tells that the webhook knows the namespace
    let dry = dry_run(&server, &namespace, &pods::pod("dry", IMAGE)).await;
    assert_eq!(pull_secrets(&dry), [PULL_SECRET]);
    assert!(!creating.is_finished(), "the pod did not wait");
    provide_access(&server, &namespace).await;
    let made = creating.await.unwrap().unwrap();
    assert_eq!(pull_secrets(&made), [PULL_SECRET]);
}

#[tokio::test]
async fn the_wait_is_bounded_and_ends_with_the_name() {
    let (server, _webhook) = scene(&["--wait=200ms"]).await;
    let namespace = server.namespace("team-young").await;
    let made = create(&server, &namespace, &pods::pod("first", IMAGE)).await;
    assert_eq!(pull_secrets(&made), [PULL_SECRET]);
}

#[tokio::test]
async fn a_blocked_namespace_waits_for_nothing() {
    let (server, _webhook) = scene(&["--wait=10s"]).await;
    let namespace = server.namespace("team-blocked").await;
    tell_access(&server, &namespace, "Blocked", "ForeignSecret").await;
    let made = create(&server, &namespace, &pods::pod("first", IMAGE)).await;
    assert_eq!(pull_secrets(&made), [PULL_SECRET]);
}

/// How many requests have waited in vain so far.
fn vain_waits(webhook: &Webhook) -> f64 {
    webhook
        .daemon
        .metric("pullpass_webhook_waits_total", r#"end="Bound""#)
}

async fn create_some(server: &Lease, namespace: &str, prefix: &str, count: usize) -> Vec<Pod> {
    let mut made = Vec::new();
    for number in 0..count {
        let pod = pods::pod(&format!("{prefix}-{number}"), IMAGE);
        made.push(create(server, namespace, &pod).await);
    }
    made
}

#[tokio::test]
async fn a_dead_controller_costs_each_of_the_first_pods_the_bound_and_no_pod_after_them_anything() {
    let (server, webhook) = scene(&["--wait=1s"]).await;
    let namespace = server.namespace("team-young").await;
    let together = (0..8).map(async |number| {
        let pod = pods::pod(&format!("together-{number}"), IMAGE);
        create(&server, &namespace, &pod).await
    });
    let mut made = join_all(together).await;
    let waits = vain_waits(&webhook);
    assert!((1.0..=8.0).contains(&waits), "{waits} waits");
    made.extend(create_some(&server, &namespace, "after", 8).await);
    assert_eq!(vain_waits(&webhook), waits);
    for pod in made {
        assert_eq!(pull_secrets(&pod), [PULL_SECRET], "{:?}", pod.metadata.name);
    }
}

#[tokio::test]
async fn a_foreign_secret_or_a_quota_costs_one_pod_the_bound_at_most() {
    let (server, webhook) = scene(&["--wait=1s"]).await;
    registries::write_source(&server, "acme", "user", "password").await;
    let _controller = server.start_controller("one", &[]).await;
    let declines = [("pullpass.dev/inject", "false")];
    // not selected yet, so that the obstacle is there before the copy
    let foreign = server.namespace_with("team-foreign", &declines).await;
    let own = secret(PULL_SECRET, "Opaque", &[("own", "content")]);
    let secrets: Api<Secret> = server.of(&foreign);
    secrets.create(&PostParams::default(), &own).await.unwrap();
    let full = server.namespace_with("team-quota", &declines).await;
    let quota = serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "no-secrets"},
        "spec": {"hard": {"secrets": "0"}},
    }))
    .unwrap();
    let quotas: Api<ResourceQuota> = server.of(&full);
    quotas.create(&PostParams::default(), &quota).await.unwrap();
    for (namespace, reason) in [(&foreign, "ForeignSecret"), (&full, "QuotaExceeded")] {
        let before = vain_waits(&webhook);
        server
            .label_namespace(namespace, "pullpass.dev/inject", None)
            .await;
        create_some(&server, namespace, "first", 4).await;
        has_state(&server, namespace, &format!("Blocked/{reason}")).await;
        let waits = vain_waits(&webhook) - before;
        assert!(waits <= 1.0, "{waits} waits in {namespace}");
        eventually(CONVERGENCE, "the webhook knows", async || {
            let pod = dry_run(&server, namespace, &pods::pod("dry", IMAGE)).await;
            match pull_secrets(&pod) {
                names if names == [PULL_SECRET] => Ok(()),
                names => Err(format!("{names:?}")),
            }
        })
        .await;
        create_some(&server, namespace, "after", 4).await;
        assert_eq!(vain_waits(&webhook) - before, waits, "{namespace}");
    }
}

#[tokio::test]
async fn a_deleted_registry_is_injected_no_more() {
    let (server, _webhook) = scene(&[]).await;
    let namespace = namespace_with_access(&server, "team", &[]).await;
    registries::delete(&server, "acme").await;
    eventually(CONVERGENCE, "nothing is injected", async || {
        let pod = dry_run(&server, &namespace, &pods::pod("pod", IMAGE)).await;
        if pull_secrets(&pod).is_empty() {
            Ok(())
        } else {
            Err("it is still injected")
        }
    })
    .await;
}

#[tokio::test]
async fn two_webhooks_add_the_name_once() {
    let (server, webhook) = scene(&[]).await;
    let namespace = namespace_with_access(&server, "team", &[]).await;
    // another webhook changes the pod after ours, so ours is asked again
    let second = pullpass_harness::admission::configuration(
        "zz-second",
        &webhook.address,
        &webhook.authority,
    );
    let configurations: Api<
        k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration,
    > = server.all();
    configurations
        .create(&PostParams::default(), &second)
        .await
        .unwrap();
    for round in 0..20 {
        let pod = dry_run(&server, &namespace, &pods::pod("pod", IMAGE)).await;
        assert_eq!(pull_secrets(&pod), [PULL_SECRET], "round {round}");
    }
}

#[tokio::test]
async fn what_is_in_flight_at_the_end_is_answered() {
    let (server, webhook) = scene(&["--wait=2s"]).await;
    let mut namespaces = Vec::new();
    for _ in 0..3 {
        namespaces.push(server.namespace("team-late").await);
    }
    let audit = server.audit();
    let start = Instant::now();
    let creating: Vec<_> = namespaces
        .iter()
        .map(|namespace| {
            let pods: Api<Pod> = server.of(namespace);
            tokio::spawn(async move {
                pods.create(&PostParams::default(), &pods::pod("late", IMAGE))
                    .await
            })
        })
        .collect();
    // asked to end while these wait; the deadline is that of the drain
    let ending = webhook.daemon.terminate().await;
    assert_eq!(ending, Ending::Orderly, "after {:?}", start.elapsed());
    for made in join_all(creating).await {
        let made = made.unwrap().unwrap();
        assert_eq!(pull_secrets(&made), [PULL_SECRET]);
    }
    // and without any webhook, pods are made nevertheless
    let made = create(&server, &namespaces[0], &pods::pod("alone", IMAGE)).await;
    assert!(pull_secrets(&made).is_empty());
    let refused: Vec<_> = audit
        .entries()
        .iter()
        .filter(|entry| entry.resource() == "pods" && entry.verb == "create" && !entry.succeeded())
        .map(|entry| entry.summary())
        .collect();
    assert!(refused.is_empty(), "{refused:?}");
}

#[tokio::test]
async fn a_killed_webhook_loses_no_pod() {
    let (server, webhook) = scene(&[]).await;
    let namespace = namespace_with_access(&server, "team", &[]).await;
    let mut creating = Vec::new();
    for number in 0..50 {
        let pods: Api<Pod> = server.of(&namespace);
        let pod = pods::pod(&format!("pod-{number}"), IMAGE);
        creating.push(tokio::spawn(async move {
            pods.create(&PostParams::default(), &pod).await
        }));
        if number == 25 {
            tokio::task::yield_now().await;
        }
    }
    webhook.daemon.kill();
    for made in join_all(creating).await {
        made.unwrap().unwrap();
    }
    let pods: Api<Pod> = server.of(&namespace);
    let found = pods.list(&Default::default()).await.unwrap();
    assert_eq!(found.items.len(), 50);
    let now = DeleteParams::default().grace_period(0);
    pods.delete_collection(&now, &Default::default())
        .await
        .unwrap();
}

/// The webhook's own words, without the API server between: the status, and the body as JSON or as text.
pub(crate) async fn request(
    webhook: &Webhook,
    method: &str,
    path: &str,
    body: impl Into<reqwest::Body>,
) -> reqwest::Result<(u16, Value)> {
    let authority = reqwest::Certificate::from_pem(webhook.authority.as_bytes()).unwrap();
    let client = reqwest::Client::builder()
        .tls_certs_only([authority])
        .timeout(Duration::from_secs(20))
        .build()
        .unwrap();
    let answer = client
        .request(
            method.parse().unwrap(),
            format!("https://{}{path}", webhook.address),
        )
        .header("Content-Type", "application/json")
        .body(body)
        .send()
        .await?;
    let status = answer.status().as_u16();
    let text = answer.text().await?;
    let answer = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Ok((status, answer))
}

async fn try_post(
    webhook: &Webhook,
    body: impl Into<reqwest::Body>,
) -> reqwest::Result<(u16, Value)> {
    request(webhook, "POST", "/inject?timeout=3s", body).await
}

pub(crate) async fn post(webhook: &Webhook, body: impl Into<reqwest::Body>) -> (u16, Value) {
    try_post(webhook, body).await.unwrap()
}

#[tokio::test]
async fn nonsense_is_answered_under_its_uid_or_refused_as_http() {
    let (_server, webhook) = scene(&[]).await;
    let request = |fields: Value| {
        let mut request = json!({"uid": "0f1e", "operation": "CREATE", "namespace": "team-a",
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "kind": {"group": "", "version": "v1", "kind": "Pod"}});
        merge(&mut request, &fields);
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})
            .to_string()
    };
    // who has a uid gets an answer, and the answer is never a refusal
    for body in [
        request(json!({})),
        request(json!({"object": null})),
        request(json!({"object": 7})),
        request(json!({"object": {"spec": {"imagePullSecrets": "none"}}})),
        request(json!({"object": {"spec": {"imagePullSecrets": [{"name": 5}, null]}}})),
        request(json!({"object": {"metadata": {"labels": []}}})),
        request(json!({"operation": "DELETE"})),
        request(json!({"resource": {"resource": "secrets"}})),
        request(json!({"namespace": null})),
    ] {
        let (status, answer) = post(&webhook, body.clone()).await;
        assert_eq!(status, 200, "{body}: {answer}");
        assert_eq!(answer["kind"], "AdmissionReview", "{body}");
        assert_eq!(answer["response"]["uid"], "0f1e", "{body}: {answer}");
        assert_eq!(answer["response"]["allowed"], true, "{body}: {answer}");
        let patch = &answer["response"]["patch"];
        assert_eq!(
            patch.is_null(),
            answer["response"]["patchType"].is_null(),
            "{body}: {answer}"
        );
    }
    for body in [
        "",
        "{",
        "null",
        "[]",
        "\u{0}",
        "{\"kind\":\"AdmissionReview\"}",
        "{\"request\":{\"uid\":\"\"}}",
    ] {
        let (status, answer) = post(&webhook, body).await;
        assert!((400..500).contains(&status), "{body:?}: {status} {answer}");
    }
    // it does not read to the end, so that the answer may come before the client looks for one
    match try_post(&webhook, vec![b' '; 16 * 1024 * 1024]).await {
        Ok((status, answer)) => assert_eq!(status, 413, "an endless body: {answer}"),
        Err(error) => assert!(!error.is_timeout(), "an endless body: {error:?}"),
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let (status, _) = post(&webhook, deep).await;
    assert!((400..500).contains(&status), "{status}");
    let (status, answer) = post(&webhook, request(json!({}))).await;
    assert_eq!(status, 200, "it works as before: {answer}");
}
