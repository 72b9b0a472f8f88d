//! What nodes are given and what they may tell, on a real API server: the controller's side, with nodes that are objects.

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Node, Pod, Secret, ServiceAccount};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use pullpass_api::{NodePullAccess, Registry};
use pullpass_core::bundle::Bundle;
use pullpass_harness::attempt::Attempt;
use pullpass_harness::objects::{NODES_NAMESPACE, SYSTEM_NAMESPACE};
use pullpass_harness::{Lease, eventually, lease, stays};
use pullpass_suites::copies::{self, CONVERGENCE, LONG_ENOUGH, has_login};
use pullpass_suites::registries::{self, has_condition};
use serde_json::{Value, json};

const AGENT: &str = "pullpass-node-agent";
const TAINT: &str = "pullpass.dev/agent-not-ready";
const STATES: &str = "/apis/pullpass.dev/v1alpha1/namespaces/pullpass-nodes/nodepullaccesses";
const BUNDLES: &str = "/api/v1/namespaces/pullpass-nodes/secrets";

async fn node(server: &Lease, name: &str, taints: Value) -> Node {
    let nodes: Api<Node> = server.all();
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"taints": taints}});
    let node: Node = serde_json::from_value(node).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap()
}

/// A client with the token that kubelet gives to the agent's pod on a node.
async fn agent_on(server: &Lease, node: &str) -> Client {
    let pods: Api<Pod> = server.of(NODES_NAMESPACE);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("agent-{node}")},
        "spec": {
            "nodeName": node,
            "serviceAccountName": AGENT,
            "containers": [{"name": "agent", "image": "agent"}],
        },
    });
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let pod = pods.create(&PostParams::default(), &pod).await.unwrap();
    let accounts: Api<ServiceAccount> = server.of(NODES_NAMESPACE);
    let request: TokenRequest = serde_json::from_value(json!({
        "spec": {"audiences": [], "expirationSeconds": 600, "boundObjectRef": {
            "apiVersion": "v1", "kind": "Pod", "name": pod.name_any(), "uid": pod.uid().unwrap(),
        }},
    }))
    .unwrap();
    let answer = accounts
        .create_token_request(AGENT, &PostParams::default(), &request)
        .await
        .unwrap();
    server.with_token(answer.status.unwrap().token)
}

/// What a node tells that holds these generations and whose kubelet uses them.
fn state(node: &str, held: &BTreeMap<String, u64>) -> Value {
    let held: Vec<Value> = held
        .iter()
        .map(|(name, generation)| {
            json!({"name": name, "generation": generation, "since": "2026-01-01T00:00:00Z"})
        })
        .collect();
    json!({
        "apiVersion": "pullpass.dev/v1alpha1", "kind": "NodePullAccess",
        "metadata": {"name": node, "namespace": NODES_NAMESPACE},
        "mode": "DockerConfig", "state": "Ready", "reason": "OnEveryNode",
        "held": held, "effectiveAt": "2026-01-01T00:05:00Z",
    })
}

async fn tell(server: &Lease, state: &Value) {
    let states: Api<NodePullAccess> = server.of(NODES_NAMESPACE);
    let name = state["metadata"]["name"].as_str().unwrap();
    let manager = PatchParams::apply("pullpass-tests").force();
    states
        .patch(name, &manager, &Patch::Apply(state))
        .await
        .unwrap();
}

async fn bundle(server: &Lease, name: &str) -> Result<(Secret, Bundle), String> {
    let secrets: Api<Secret> = server.of(NODES_NAMESPACE);
    let secret = secrets.get_opt(name).await.map_err(|e| e.to_string())?;
    let secret = secret.ok_or(format!("there is no Secret {name}"))?;
    let content = &secret.data.as_ref().ok_or("no data")?["bundle.json"].0;
    let bundle = Bundle::parse(content).map_err(|error| error.to_string())?;
    Ok((secret, bundle))
}

/// Waits until the registries of a bundle are these.
async fn holds(server: &Lease, name: &str, registries: &[&str]) -> (Secret, Bundle) {
    eventually(CONVERGENCE, "the bundle", async || {
        let (secret, bundle) = bundle(server, name).await?;
        let mut found: Vec<&str> = bundle.registries.iter().map(|r| r.name.as_str()).collect();
        found.sort_unstable();
        if found == registries {
            Ok((secret, bundle))
        } else {
            Err(format!("{name} holds {found:?}, not {registries:?}"))
        }
    })
    .await
}

/// Each has a host of its own, so that none is in another's way.
fn host(registry: &str) -> String {
    format!("{registry}.example.com")
}

async fn registry(server: &Lease, name: &str, access: Value) {
    registries::write_source(server, name, name, "first").await;
    let spec = json!({
        "host": host(name),
        "auth": {"basic": {"secretRef": {"name": name}}},
        "access": access,
    });
    registries::create(server, &registries::with_spec(name, &spec)).await;
}

#[tokio::test]
async fn a_node_tells_of_itself_alone() {
    let server = lease().await;
    server.apply_chart_with(&["nodeAgent.enabled=true"]).await;
    let a = node(&server, "node-a", json!([])).await;
    let b = node(&server, "node-b", json!([])).await;
    let on_a = agent_on(&server, "node-a").await;
    let on_b = agent_on(&server, "node-b").await;
    let somewhere = server.as_service_account(NODES_NAMESPACE, AGENT).await;
    server.policies_are_in_force().await;

    let apply = |name: &str, owner: Option<(&str, &Node)>| {
        let mut object = state(name, &BTreeMap::new());
        if let Some((kind, owner)) = owner {
            object["metadata"]["ownerReferences"] = json!([{
                "apiVersion": "v1", "kind": kind, "name": owner.name_any(), "uid": owner.uid().unwrap(),
            }]);
        }
        Attempt::apply(&format!("{STATES}/{name}"), AGENT, &object)
    };
    eventually(CONVERGENCE, "the agent's rights are in force", async || {
        let outcome = apply("node-a", Some(("Node", &a))).by(&on_a).await;
        if outcome.succeeded() {
            Ok(())
        } else {
            Err(outcome.text)
        }
    })
    .await;
    let outcome = apply("node-b", Some(("Node", &b))).by(&on_b).await;
    assert!(outcome.succeeded(), "{outcome:?}");
    for (who, client, attempt) in [
        ("a as b", &on_a, apply("node-b", None)),
        ("b as a", &on_b, apply("node-a", None)),
        ("a as a third", &on_a, apply("node-c", None)),
        (
            "b's, by a",
            &on_a,
            Attempt::delete(format!("{STATES}/node-b")),
        ),
        (
            "with b as owner",
            &on_a,
            apply("node-a", Some(("Node", &b))),
        ),
        (
            "with another kind of owner",
            &on_a,
            apply("node-a", Some(("Pod", &a))),
        ),
        ("without a pod's token", &somewhere, apply("node-a", None)),
        ("all", &on_a, Attempt::delete(STATES)),
        (
            "another Secret",
            &on_a,
            Attempt::get(format!("{BUNDLES}/other")),
        ),
        ("all Secrets", &on_a, Attempt::get(BUNDLES)),
        (
            "what only plugins need",
            &on_a,
            Attempt::get(format!("{BUNDLES}/pullpass-nodes-restricted")),
        ),
        (
            "a source",
            &on_a,
            Attempt::get(format!(
                "/api/v1/namespaces/{SYSTEM_NAMESPACE}/secrets/acme"
            )),
        ),
        (
            "a Secret of its own",
            &on_a,
            Attempt::post(
                BUNDLES,
                &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pullpass-nodes"}}),
            ),
        ),
        ("a node", &on_a, Attempt::get("/api/v1/nodes/node-a")),
        (
            "its taint",
            &on_a,
            Attempt::merge("/api/v1/nodes/node-a", &json!({"spec": {"taints": null}})),
        ),
    ] {
        let outcome = attempt.by(client).await;
        assert!(outcome.was_refused(), "{who}: {attempt}: {outcome:?}");
    }
    // 404: it may read it, and there is none
    let own = Attempt::get(format!("{BUNDLES}/pullpass-nodes"));
    assert_eq!(own.by(&on_a).await.code, 404);
    let outcome = Attempt::delete(format!("{STATES}/node-a")).by(&on_a).await;
    assert!(outcome.succeeded(), "{outcome:?}");
}

#[tokio::test]
async fn the_bundle_follows_policy_and_credentials_and_not_namespaces() {
    let server = lease().await;
    server
        .apply_chart_with(&[
            "nodeAgent.enabled=true",
            "nodeAgent.mode=credentialProvider",
        ])
        .await;
    registry(&server, "open", json!({"namespaces": {"include": ["*"]}})).await;
    registry(
        &server,
        "team",
        json!({"namespaces": {"include": ["team*"]}}),
    )
    .await;
    let denied = json!({"namespaces": {"include": ["*"]}, "nodes": "Deny"});
    registry(&server, "denied", denied).await;
    let labelled = json!({"namespaces": {"selector": {"matchLabels": {"pull": "yes"}}}});
    registry(&server, "labelled", labelled).await;
    let _controller = server
        .start_controller("one", &["--nodes=credentialProvider"])
        .await;
    let (wide, first) = holds(&server, "pullpass-nodes", &["open"]).await;
    assert_eq!(wide.type_.as_deref(), Some("pullpass.dev/node-bundle"));
    let (_, restricted) = holds(&server, "pullpass-nodes-restricted", &["labelled", "team"]).await;
    assert!(restricted.selections["pull in (yes)"].is_empty());
    assert!(restricted.closed_namespaces.contains("pullpass-nodes"));
    has_condition(&server, "denied", "NodesReady", "True/NodesDenied").await;

    // a namespace changes the list of a selector and nothing else
    let selected = server.namespace_with("labelled", &[("pull", "yes")]).await;
    let (before, bundle_before) = eventually(CONVERGENCE, "the selector's list", async || {
        let (secret, bundle) = bundle(&server, "pullpass-nodes-restricted").await?;
        if bundle.selections["pull in (yes)"].contains(&selected) {
            Ok((secret, bundle))
        } else {
            Err(format!("{:?}", bundle.selections))
        }
    })
    .await;
    assert!(bundle_before.generation > restricted.generation);
    let plain = server.namespace("team").await;
    has_login(&server, &plain, &host("open"), "open", "first").await;
    stays(
        LONG_ENOUGH,
        "no bundle is written for a namespace",
        async || {
            let (after, _) = bundle(&server, "pullpass-nodes-restricted").await.unwrap();
            let (wide_after, _) = bundle(&server, "pullpass-nodes").await.unwrap();
            let of = |secret: &Secret| secret.resource_version();
            if (of(&after), of(&wide_after)) == (of(&before), of(&wide)) {
                Ok(())
            } else {
                Err("it was written")
            }
        },
    )
    .await;

    // a credential is a new generation, in place
    registries::write_source(&server, "open", "open", "second").await;
    let (changed, second) = eventually(CONVERGENCE, "a new generation", async || {
        let (secret, bundle) = bundle(&server, "pullpass-nodes").await?;
        if bundle.generation == first.generation + 1 {
            Ok((secret, bundle))
        } else {
            Err(bundle.generation.to_string())
        }
    })
    .await;
    assert_eq!(changed.uid(), wide.uid());
    // somebody else's content does not stay, and is told from ours by its generation
    let secrets: Api<Secret> = server.of(NODES_NAMESPACE);
    let nothing = json!({"data": {"bundle.json": "e30="}});
    secrets
        .patch(
            "pullpass-nodes",
            &PatchParams::default(),
            &Patch::Merge(nothing),
        )
        .await
        .unwrap();
    let (_, restored) = holds(&server, "pullpass-nodes", &["open"]).await;
    assert_eq!(restored.generation, second.generation + 1);
    registries::delete(&server, "team").await;
    holds(&server, "pullpass-nodes-restricted", &["labelled"]).await;
}

#[tokio::test]
async fn copies_stay_until_nodes_serve_in_their_place() {
    let server = lease().await;
    server.apply_chart_with(&["nodeAgent.enabled=true"]).await;
    let namespace = server.namespace("team").await;
    registry(&server, "acme", json!({"namespaces": {"include": ["*"]}})).await;
    let controller = server
        .start_controller("one", &["--nodes=dockerConfig"])
        .await;
    has_login(&server, &namespace, &host("acme"), "acme", "first").await;
    controller.terminate().await;

    // the toggle
    let restricted = json!({"namespaces": {"include": [namespace]}});
    registry(&server, "narrow", restricted).await;
    let flags = [
        "--nodes=dockerConfig",
        "--pull-secrets=false",
        "--kubelet-cache=1",
    ];
    let _controller = server.start_controller("two", &flags).await;
    has_condition(&server, "acme", "NodesReady", "False/SomeNodesPending").await;
    has_condition(
        &server,
        "narrow",
        "NodesReady",
        "False/RestrictedToNamespaces",
    )
    .await;
    let young = server.namespace("young").await;
    let (_, wide) = bundle(&server, "pullpass-nodes").await.unwrap();
    let held = |generation| BTreeMap::from([("pullpass-nodes".to_owned(), generation)]);
    tell(&server, &state("node-a", &held(wide.generation))).await;
    has_condition(&server, "acme", "NodesReady", "True/OnEveryNode").await;
    let status = server.all::<Registry>().get("acme").await.unwrap().status;
    let nodes = status.unwrap().nodes.unwrap();
    assert_eq!((nodes.selected, nodes.ready), (1, 1));
    // what nodes cannot serve is told, and nothing is taken away; no new copy is made either
    stays(LONG_ENOUGH, "the copy stays", async || {
        copies::secret(&server, &namespace)
            .await
            .map(drop)
            .ok_or("it is gone")
    })
    .await;
    assert!(copies::secret(&server, &young).await.is_none());
    // and it is kept up to date meanwhile
    registries::write_source(&server, "acme", "acme", "second").await;
    has_login(&server, &namespace, &host("acme"), "acme", "second").await;

    registries::patch(&server, "narrow", &json!({"access": {"nodes": "Deny"}})).await;
    has_condition(&server, "narrow", "NodesReady", "True/NodesDenied").await;
    // a node that is behind holds everything up
    assert!(copies::secret(&server, &namespace).await.is_some());
    eventually(
        CONVERGENCE,
        "the node's word lets go of the copy",
        async || {
            match bundle(&server, "pullpass-nodes").await?.1.generation {
                // each that comes, since several changes may come one by one
                newer if newer > wide.generation => {
                    tell(&server, &state("node-a", &held(newer))).await
                }
                other => return Err(format!("generation {other}")),
            }
            match copies::secret(&server, &namespace).await {
                None => Ok(()),
                Some(_) => Err("the copy is there".to_owned()),
            }
        },
    )
    .await;
    copies::is_clear(&server, &namespace).await;
    assert!(copies::secret(&server, SYSTEM_NAMESPACE).await.is_some());
    has_condition(&server, "acme", "Ready", "True/OnEveryNode").await;
    has_condition(&server, "acme", "Distributed", "True/PullSecretsOff").await;
}

#[tokio::test]
async fn the_startup_taint_goes_once_the_node_serves() {
    let server = lease().await;
    server
        .apply_chart_with(&["nodeAgent.enabled=true", "nodeAgent.startupTaint=true"])
        .await;
    registry(&server, "acme", json!({"namespaces": {"include": ["*"]}})).await;
    let ours = json!({"key": TAINT, "effect": "NoSchedule"});
    let other = json!({"key": "example.com/other", "effect": "NoSchedule"});
    node(&server, "node-a", json!([other, ours])).await;
    node(&server, "node-b", json!([ours])).await;
    let _controller = server
        .start_controller("one", &["--nodes=dockerConfig", "--startup-taint"])
        .await;
    let (_, wide) = holds(&server, "pullpass-nodes", &["acme"]).await;
    let held = BTreeMap::from([("pullpass-nodes".to_owned(), wide.generation)]);
    tell(&server, &state("node-a", &held)).await;
    // kubelet may go on with what it has read before
    let mut later = state("node-b", &held);
    later["effectiveAt"] = json!("2999-01-01T00:00:00Z");
    tell(&server, &later).await;
    let taints = async |node: &str| -> Vec<String> {
        let node = server.all::<Node>().get(node).await.unwrap();
        let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
        let keys = taints.into_iter().map(|taint| taint.key);
        // the built-in controller has taints of its own for nodes that do not report
        keys.filter(|key| !key.starts_with("node.kubernetes.io/"))
            .collect()
    };
    eventually(CONVERGENCE, "the taint is gone", async || {
        let found = taints("node-a").await;
        if found == ["example.com/other"] {
            Ok(())
        } else {
            Err(found.join(", "))
        }
    })
    .await;
    assert_eq!(taints("node-b").await, [TAINT]);

    // that taint, and nothing else of a node
    let controller = server
        .as_service_account(SYSTEM_NAMESPACE, "pullpass-controller")
        .await;
    server.policies_are_in_force().await;
    let path = "/api/v1/nodes/node-b";
    for change in [
        json!({"spec": {"taints": [ours, other]}}),
        json!({"spec": {"taints": [other]}}),
        json!({"spec": {"unschedulable": true}}),
        json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}}),
        json!({"metadata": {"annotations": {"a": "b"}}}),
        json!({"metadata": {"finalizers": ["example.com/held"]}}),
    ] {
        let outcome = Attempt::merge(path, &change).by(&controller).await;
        assert!(outcome.was_refused(), "{change}: {outcome:?}");
    }
    for attempt in [
        Attempt::delete(path),
        Attempt::merge(
            format!("{path}/status"),
            &json!({"status": {"capacity": {"cpu": "99"}}}),
        ),
    ] {
        let outcome = attempt.by(&controller).await;
        assert!(outcome.was_refused(), "{attempt}: {outcome:?}");
    }
    let without: Vec<Value> = server
        .all::<Node>()
        .get("node-b")
        .await
        .unwrap()
        .spec
        .and_then(|spec| spec.taints)
        .into_iter()
        .flatten()
        .filter(|taint| taint.key != TAINT)
        .map(|taint| json!(taint))
        .collect();
    let outcome = Attempt::merge(path, &json!({"spec": {"taints": without}}))
        .by(&controller)
        .await;
    assert!(outcome.succeeded(), "{outcome:?}");
}

#[tokio::test]
async fn in_the_agents_namespace_the_controller_writes_bundles_alone() {
    let server = lease().await;
    server.apply_chart_with(&["nodeAgent.enabled=true"]).await;
    let controller = server
        .as_service_account(SYSTEM_NAMESPACE, "pullpass-controller")
        .await;
    server.policies_are_in_force().await;
    let apply = |name: &str, kind: &str, annotations: Value| {
        let object = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": name, "namespace": NODES_NAMESPACE, "annotations": annotations},
            "type": kind, "data": {"bundle.json": "e30="},
        });
        Attempt::apply(&format!("{BUNDLES}/{name}"), "pullpass-controller", &object)
    };
    let bundle_type = "pullpass.dev/node-bundle";
    eventually(
        CONVERGENCE,
        "the controller's rights are in force",
        async || {
            let attempt = apply("pullpass-nodes", bundle_type, json!({}));
            let outcome = attempt.by(&controller).await;
            if outcome.succeeded() {
                Ok(())
            } else {
                Err(outcome.text)
            }
        },
    )
    .await;
    let token_of = json!({"kubernetes.io/service-account.name": AGENT});
    for attempt in [
        // the token controller would fill it in
        apply(
            "pullpass-nodes-restricted",
            "kubernetes.io/service-account-token",
            token_of,
        ),
        apply("pullpass-nodes-restricted", "Opaque", json!({})),
        apply("pullpass-nodes-restricted", bundle_type, json!({"a": "b"})),
        apply("other", bundle_type, json!({})),
        Attempt::get(BUNDLES),
        Attempt::delete(BUNDLES),
        Attempt::delete(STATES),
        Attempt::apply(
            &format!("{STATES}/node-a"),
            "pullpass-controller",
            &state("node-a", &BTreeMap::new()),
        ),
    ] {
        let outcome = attempt.by(&controller).await;
        assert!(outcome.was_refused(), "{attempt}: {outcome:?}");
    }
}
