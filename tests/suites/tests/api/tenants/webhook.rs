//! The webhook, called by somebody who is not the API server: nobody has to log in to it, so its answers hold nothing.

use futures::future::join_all;
use pullpass_suites::pods::manifest;
use serde_json::{Value, json};

use super::{IMAGE, NEIGHBOUR, OUTSIDE, OWN, SHARED, Scene, VAULT, VAULT_NAMESPACE};
use crate::admission::{merge, post, request};

/// A review as the API server would send it, with some fields changed.
fn forged(changes: Value) -> String {
    let mut request = json!({
        "uid": "forged", "operation": "CREATE", "namespace": VAULT_NAMESPACE, "name": "probe",
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "userInfo": {"username": "system:serviceaccount:vault:default"},
        "object": manifest("probe", IMAGE),
    });
    merge(&mut request, &changes);
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})
        .to_string()
}

#[tokio::test]
async fn its_answers_hold_no_more_than_a_name() {
    let scene = Scene::new().await;
    let reviews = [
        ("asks for another namespace", json!({})),
        ("asks for its own", json!({"namespace": OWN})),
        (
            "asks for one that nothing selects",
            json!({"namespace": OUTSIDE}),
        ),
        ("asks for ours", json!({"namespace": "pullpass-system"})),
        (
            "asks for a system namespace",
            json!({"namespace": "kube-system"}),
        ),
        (
            "asks for one that is not there",
            json!({"namespace": "nowhere", "dryRun": true}),
        ),
        (
            "asks with a path",
            json!({"namespace": "team-mallory/../vault"}),
        ),
        ("asks for all", json!({"namespace": "*"})),
        (
            "says who it is",
            json!({"userInfo": {"username": "kubernetes-admin", "groups": ["system:masters"]}}),
        ),
        (
            "asks about Secrets",
            json!({"resource": {"resource": "secrets"}, "kind": {"kind": "Secret"}}),
        ),
        ("asks about an update", json!({"operation": "UPDATE"})),
        ("asks about a subresource", json!({"subResource": "exec"})),
        (
            "sends an answer along",
            json!({"response": {"patch": "", "allowed": false}}),
        ),
        (
            "sends a huge pod",
            json!({"object": {"metadata": {"annotations": {"a": "x".repeat(2_000_000)}}}}),
        ),
        (
            "asks under a uid that is JSON",
            json!({"uid": "\",\"allowed\":false,\"x\":\""}),
        ),
        (
            "asks under a uid that is a header",
            json!({"uid": "a\r\nSet-Cookie: a=b"}),
        ),
        (
            "contradicts itself",
            json!({"namespace": OUTSIDE, "object": {"metadata": {"namespace": VAULT_NAMESPACE}}}),
        ),
    ];
    for (what, changes) in reviews {
        let (status, answer) = post(&scene.webhook, forged(changes)).await;
        assert_eq!(status, 200, "{what}: {answer}");
        assert_eq!(answer["response"]["allowed"], true, "{what}: {answer}");
        is_harmless(what, &answer);
    }
    for (what, method, path) in [
        ("looks for metrics", "GET", "/metrics"),
        ("looks for a debugger", "GET", "/debug/pprof/heap"),
        ("looks for everything", "GET", "/"),
        ("looks beside it", "GET", "/inject/../metrics"),
        ("looks for files", "GET", "/..%2f..%2fetc/passwd"),
        ("reads what only takes", "GET", "/inject"),
        ("deletes it", "DELETE", "/inject"),
        ("asks where it leads", "TRACE", "/inject"),
        ("writes elsewhere", "POST", "/injected"),
    ] {
        let (status, answer) = request(&scene.webhook, method, path, "").await.unwrap();
        assert!((400..500).contains(&status), "{what}: {status} {answer}");
        is_harmless(what, &answer);
    }
    scene.nothing_was_gained_or_broken().await;
}

#[tokio::test]
async fn who_fills_its_waiting_room_keeps_nobody_waiting() {
    const CALLS: usize = 300;
    let scene = Scene::new().await;
    // each would wait for a namespace that never comes, as a pod of a new namespace does
    let calls = (0..CALLS).map(|number| {
        let review = forged(json!({"namespace": format!("team-nowhere-{number}")}));
        post(&scene.webhook, review)
    });
    let neighbours = async {
        for _ in 0..20 {
            scene.is_injected(NEIGHBOUR).await;
        }
    };
    let (answers, ()) = tokio::join!(join_all(calls), neighbours);
    for (status, answer) in answers {
        assert_eq!(
            (status, &answer["response"]["allowed"]),
            (200, &json!(true)),
            "{answer}"
        );
    }
    scene.nothing_was_gained_or_broken().await;
}

/// No login, and no word about registries or other namespaces: only what the request said itself, and a reason.
fn is_harmless(what: &str, answer: &Value) {
    let text = answer.to_string();
    for login in [SHARED, VAULT] {
        assert!(!login.is_in(&text), "{what}: {text}");
    }
    for word in ["vault", "example.com", "auths"] {
        assert!(!text.contains(word), "{what}: {word} in {text}");
    }
    let response = &answer["response"];
    if let Some(patch) = response["patch"].as_str() {
        let expected = json!([{"op": "add", "path": "/spec/imagePullSecrets", "value": [{"name": "pullpass"}]}]);
        assert_eq!(
            patch,
            pullpass_harness::objects::base64(expected.to_string()),
            "{what}"
        );
    }
}
