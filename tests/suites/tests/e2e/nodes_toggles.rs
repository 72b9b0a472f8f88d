//! Pull secrets off and nodes on, and back, while pods come and go; and a node that joins.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::DeleteParams;
use kube::{Api, ResourceExt as _};
use pullpass_api::Registry;
use pullpass_core::bundle::{KUBELET_CACHE, STARTUP_TAINT};
use pullpass_harness::objects::PULL_SECRET;
use pullpass_harness::{Exclusive, NODE_2, eventually, name};
use pullpass_suites::{copies, pods, registries};
use serde_json::json;

use crate::node_scene::{NodeScene, ROLLED_OUT};
use crate::scene::{Scene, is_trouble, state};

/// A pod of the steady stream may take longer beside Helm.
const STREAM_POD: Duration = Duration::from_secs(180);

/// Between two pods of the stream.
const PAUSE: Duration = Duration::from_millis(500);

/// What became of the pods of a stream.
#[derive(Debug, Default)]
struct Tally {
    /// How many pulled at their first attempt, by the number of pull secrets that they had.
    pulled: [usize; 2],
    /// What was told of the others.
    trouble: Vec<String>,
}

/// Creates pods with private images that no node has, one after the other, and counts.
struct Stream<'a> {
    scene: &'a Scene<Exclusive>,
    namespace: &'a str,
    tally: Mutex<Tally>,
    is_over: AtomicBool,
}

impl Stream<'_> {
    async fn flow(&self) {
        let all: Api<Pod> = self.scene.cluster.of(self.namespace);
        while !self.is_over.load(Ordering::Relaxed) {
            let image = self.scene.image().await;
            let name = name::unique("stream");
            let pod = pods::pod(&name, &image);
            let made = self.scene.create(self.namespace, &pod).await;
            let ended = eventually(STREAM_POD, "the pod runs or does not", async || {
                let pod = all.get(&name).await.map_err(|error| error.to_string())?;
                match state(&pod).as_str() {
                    ended @ ("Running" | "ErrImagePull" | "ImagePullBackOff" | "Failed") => {
                        Ok(ended.to_owned())
                    }
                    other => Err(other.to_owned()),
                }
            })
            .await;
            let mut trouble = self.scene.events(self.namespace, &name).await;
            trouble.retain(|event| is_trouble(event));
            {
                let mut tally = self.tally.lock().unwrap();
                if ended == "Running" && trouble.is_empty() {
                    tally.pulled[pods::pull_secrets(&made).len()] += 1;
                } else {
                    tally.trouble.push(format!("{name} {ended}: {trouble:?}"));
                }
            }
            all.delete(&name, &DeleteParams::default()).await.unwrap();
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until so many more pods have pulled that have a pull secret, or have none.
    async fn pulls(&self, with_secret: bool, more: usize) {
        let pulled = || self.tally.lock().unwrap().pulled[usize::from(with_secret)];
        let before = pulled();
        eventually(STREAM_POD, "the stream goes on", async || {
            let now = pulled();
            if now >= before + more {
                Ok(())
            } else {
                Err(format!("{now} after {before}"))
            }
        })
        .await;
    }
}

#[tokio::test]
async fn pull_secrets_off_and_on_again_cost_no_pull() {
    let nodes = NodeScene::new().await;
    let scene = &nodes.scene;
    let namespace = scene.namespace("a").await;
    let (user, password) = (&scene.user.name, &scene.user.password);
    copies::has_login(&scene.cluster, &namespace, scene.host(), user, password).await;
    nodes.switch(&["nodeAgent.enabled=true"]).await;
    nodes.is_ready().await;
    registries::has_condition(
        &scene.cluster,
        &scene.name,
        "NodesReady",
        "True/OnEveryNode",
    )
    .await;
    // stands for the five minutes after which what nodes hold is effective
    nodes.restart_kubelet().await;

    let workload = name::unique("workload");
    let image = scene.image().await;
    let made = scene
        .create(&namespace, &pods::pod(&workload, &image))
        .await;
    assert_eq!(pods::pull_secrets(&made), [PULL_SECRET]);
    scene.runs(&namespace, &workload).await;

    let stream = Stream {
        scene,
        namespace: &namespace,
        tally: Mutex::default(),
        is_over: AtomicBool::new(false),
    };
    let toggling = async {
        stream.pulls(true, 3).await;
        let off = ["nodeAgent.enabled=true", "pullSecrets.enabled=false"];
        nodes.switch(&off).await;
        stream.pulls(false, 5).await;
        // kubelet's cache has not run out yet
        copies::has_login(&scene.cluster, &namespace, scene.host(), user, password).await;
        nodes.switch(&["nodeAgent.enabled=true"]).await;
        stream.pulls(true, 5).await;
        stream.is_over.store(true, Ordering::Relaxed);
    };
    tokio::join!(toggling, stream.flow());
    let tally = stream.tally.into_inner().unwrap();
    assert_eq!(tally.trouble, [""; 0], "{:?} pulled", tally.pulled);

    let pods: Api<Pod> = scene.cluster.of(&namespace);
    let workload = pods.get(&workload).await.unwrap();
    assert_eq!(
        (workload.uid(), state(&workload)),
        (made.uid(), "Running".into())
    );
    nodes.switch(&[]).await;
    nodes.agents_are_gone().await;
    nodes.restart_kubelet().await;
    registries::delete(&scene.cluster, &scene.name).await;
}

/// The policy by which every new Node has the startup taint.
const TAINTING: &str = "pullpass-tests-startup-taint";

/// As if every new node's kubelet registered with the startup taint.
async fn taint_new_nodes(scene: &Scene<Exclusive>) {
    let taint = format!("Object.spec.taints{{key: \"{STARTUP_TAINT}\", effect: \"NoSchedule\"}}");
    let expression = format!(
        "has(object.spec.taints) ? [JSONPatch{{op: \"add\", path: \"/spec/taints/-\", value: {taint}}}] \
         : [JSONPatch{{op: \"add\", path: \"/spec/taints\", value: [{taint}]}}]"
    );
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": TAINTING},
        "spec": {
            "reinvocationPolicy": "Never",
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["nodes"],
            }]},
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": TAINTING},
        "spec": {"policyName": TAINTING},
    });
    for object in [policy, binding] {
        let object = serde_json::from_value(object).unwrap();
        scene.cluster.apply(&object).await;
    }
}

#[tokio::test]
#[ignore = "waits for kubelet's cache of five minutes: make test-joining-node"]
async fn a_node_that_joins_under_load_pulls_at_the_first_attempt() {
    let nodes = NodeScene::new().await;
    let scene = &nodes.scene;
    let values = ["nodeAgent.enabled=true", "nodeAgent.startupTaint=true"];
    nodes.switch(&values).await;
    nodes.is_ready().await;
    nodes.restart_kubelet().await;
    taint_new_nodes(scene).await;
    // a policy takes effect a moment later
    let all: Api<Node> = scene.cluster.all();
    eventually(ROLLED_OUT, "new nodes are tainted", async || {
        let probe: Node = serde_json::from_value(json!({"metadata": {"name": "probe"}})).unwrap();
        let dry_run = kube::api::PostParams {
            dry_run: true,
            ..kube::api::PostParams::default()
        };
        let made = all
            .create(&dry_run, &probe)
            .await
            .map_err(|error| error.to_string())?;
        if is_tainted(&made) {
            Ok(())
        } else {
            Err("it is not".to_owned())
        }
    })
    .await;

    let stream = Stream {
        scene,
        namespace: &nodes.namespace,
        tally: Mutex::default(),
        is_over: AtomicBool::new(false),
    };
    let joining = async {
        scene.cluster.cluster().up_with_nodes(2).await.unwrap();
        // its agent's image is not there yet: the node lags behind, and the Registry says so
        let registries: Api<Registry> = scene.cluster.all();
        eventually(ROLLED_OUT, "one of two nodes is ready", async || {
            let registry = registries
                .get(&scene.name)
                .await
                .map_err(|error| error.to_string())?;
            let told = registry.status.unwrap_or_default();
            match told.nodes {
                Some(nodes) if (nodes.selected, nodes.ready) == (2, 1) => Ok(()),
                other => Err(format!("{other:?} {:?}", told.conditions)),
            }
        })
        .await;
        let node = all.get(NODE_2).await.unwrap();
        assert!(is_tainted(&node), "{node:?}");
        scene.cluster.load_images().await;
        // kubelet pauses before it tries once more to start the agent
        nodes.node_is_ready(NODE_2, 3 * ROLLED_OUT).await;
        eventually(
            KUBELET_CACHE + ROLLED_OUT,
            "the taint is taken off",
            async || {
                let node = all.get(NODE_2).await.map_err(|error| error.to_string())?;
                if is_tainted(&node) {
                    Err("it is there")
                } else {
                    Ok(())
                }
                .map_err(str::to_owned)
            },
        )
        .await;
        let image = scene.image().await;
        let name = name::unique("first");
        let mut pod = pods::manifest(&name, &image);
        pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": NODE_2});
        scene.create(&nodes.namespace, &pods::from(&pod)).await;
        scene.runs(&nodes.namespace, &name).await;
        let events = scene.events(&nodes.namespace, &name).await;
        assert!(!events.iter().any(|event| is_trouble(event)), "{events:?}");
        stream.is_over.store(true, Ordering::Relaxed);
    };
    tokio::join!(joining, stream.flow());
    let tally = stream.tally.into_inner().unwrap();
    assert_eq!(tally.trouble, [""; 0], "{:?} pulled", tally.pulled);
    assert!(tally.pulled[0] > 10, "{:?} pulled", tally.pulled);
    registries::has_condition(
        &scene.cluster,
        &scene.name,
        "NodesReady",
        "True/OnEveryNode",
    )
    .await;

    let cluster = scene.cluster.cluster();
    let kinds = "mutatingadmissionpolicies,mutatingadmissionpolicybindings";
    cluster.kubectl(&["delete", kinds, TAINTING]).await.unwrap();
    nodes.switch(&[]).await;
    nodes.agents_are_gone().await;
    cluster.up_with_nodes(1).await.unwrap();
    nodes.restart_kubelet().await;
    registries::delete(&scene.cluster, &scene.name).await;
}

fn is_tainted(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints
        .into_iter()
        .flatten()
        .any(|taint| taint.key == STARTUP_TAINT)
}
