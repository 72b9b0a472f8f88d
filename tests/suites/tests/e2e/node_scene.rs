//! A cluster whose nodes hold credentials, for one test at a time.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt as _};
use pullpass_api::NodePullAccess;
use pullpass_api::node_pull_access::NodePullAccessFields;
use pullpass_harness::objects::{NODES_NAMESPACE, base64};
use pullpass_harness::registry::User;
use pullpass_harness::{Exclusive, NODE_1, NODE_2, eventually, exclusive, name};
use pullpass_suites::{pods, registries};
use serde_json::{Value, json};

use crate::scene::Scene;

/// The taint of a second node.
const RESERVED: &str = "tests.pullpass.dev/reserved";

/// How long Helm and the agents may take. Some seconds on an idle machine.
pub(crate) const ROLLED_OUT: Duration = Duration::from_secs(120);

/// A Registry whose credential is on nodes, if the agent is on.
pub(crate) struct NodeScene {
    pub(crate) scene: Scene<Exclusive>,
    /// No Registry selects it, so that its pods have no pull secret.
    pub(crate) namespace: String,
}

impl NodeScene {
    /// A Registry that keeps off all namespaces but the test's own, and is allowed on nodes.
    pub(crate) async fn new() -> Self {
        let scene = Scene::on(exclusive().await).await;
        let allow = json!({"access": {"nodes": "Allow"}});
        registries::patch(&scene.cluster, &scene.name, &allow).await;
        let namespace = scene.namespace("excluded").await;
        Self { scene, namespace }
    }

    pub(crate) fn kubelet_root(&self) -> PathBuf {
        let cluster = self.scene.cluster.cluster().directory();
        cluster.join("nodes").join(NODE_1).join("kubelet")
    }

    /// What kubelet's provider configuration on a node says.
    pub(crate) fn provider_config(&self, node: &str) -> String {
        let cluster = self.scene.cluster.cluster().directory();
        let file = "kubernetes/credential-providers/config.yaml";
        fs::read_to_string(cluster.join("nodes").join(node).join(file)).unwrap()
    }

    /// Has nodes give the Registry's credential to the namespaces that it selects alone, and makes one of them.
    pub(crate) async fn allows_a_namespace(&self) -> String {
        let auto = json!({"access": {"nodes": "Auto"}});
        registries::patch(&self.scene.cluster, &self.scene.name, &auto).await;
        self.scene.namespace("a").await
    }

    /// The chart's values for mode `credentialProvider` here.
    pub(crate) fn plugin_values(&self) -> [String; 4] {
        let (_, port) = self.scene.host().rsplit_once(':').unwrap();
        [
            "nodeAgent.enabled=true".into(),
            "nodeAgent.mode=credentialProvider".into(),
            "nodeAgent.credentialProvider.configFile=config.yaml".into(),
            format!("nodeAgent.credentialProvider.ports={{{port}}}"),
        ]
    }

    /// Runs `helm upgrade` with these values.
    pub(crate) async fn switch(&self, values: &[&str]) {
        self.scene.cluster.upgrade_with(values).await;
    }

    /// Waits until the first node holds what it should.
    pub(crate) async fn is_ready(&self) {
        self.node_is_ready(NODE_1, ROLLED_OUT).await;
    }

    pub(crate) async fn node_is_ready(&self, node: &str, within: Duration) {
        self.node_says(node, "Ready", within).await;
    }

    /// Waits until a node's state or its reason is this, or its message has it.
    pub(crate) async fn node_says(&self, node: &str, wanted: &str, within: Duration) {
        let states: Api<NodePullAccess> = self.scene.cluster.of(NODES_NAMESPACE);
        eventually(within, &format!("{node} says {wanted}"), async || {
            let found = states.get(node).await.map_err(|error| error.to_string())?;
            let NodePullAccessFields {
                state,
                reason,
                message,
                ..
            } = found.spec;
            if [state.as_str(), &reason].contains(&wanted) || message.contains(wanted) {
                Ok(())
            } else {
                Err(format!("{} {reason}: {message}", state.as_str()))
            }
        })
        .await;
    }

    pub(crate) async fn file_has(&self, file: &Path, user: &User) {
        let auth = base64(format!("{}:{}", user.name, user.password));
        let wanted = json!({"auth": auth});
        eventually(ROLLED_OUT, "the file has the login", async || {
            let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
            let config: Value = serde_json::from_str(&text).expect("a whole file");
            if config["auths"][self.scene.host()] == wanted {
                Ok(())
            } else {
                Err("another login, or none".to_owned())
            }
        })
        .await;
    }

    /// Stands for the five minutes after which kubelet reads the file again.
    pub(crate) async fn restart_kubelet(&self) {
        let cluster = self.scene.cluster.cluster();
        cluster.restart("node-1-kubelet").await.unwrap();
    }

    /// A second node comes, and holds the images of the agent. Nothing but agents and the test's pods runs on it, so that
    /// Pullpass is whole once it has gone.
    pub(crate) async fn second_node_joins(&self) {
        let cluster = self.scene.cluster.cluster();
        cluster.up_with_nodes(2).await.unwrap();
        let taint = format!("{RESERVED}=:NoSchedule");
        let tainting = ["taint", "nodes", NODE_2, &taint];
        cluster.kubectl(&tainting).await.unwrap();
        self.scene.cluster.load_images().await;
    }

    /// A pod on a node with a new private image and without any pull secret, in a namespace that may have one.
    async fn create(&self, namespace: &str, node: &str) -> String {
        let image = self.scene.image().await;
        let mut pod = pods::manifest(&name::unique("app"), &image);
        pod["metadata"]["labels"] = json!({"pullpass.dev/inject": "false"});
        pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
        pod["spec"]["tolerations"] = json!([{"key": RESERVED}]);
        let made = self.scene.create(namespace, &pods::from(&pod)).await;
        assert_eq!(pods::pull_secrets(&made), [""; 0]);
        made.name_any()
    }

    /// Such a pod runs.
    pub(crate) async fn pulls_in(&self, namespace: &str) {
        self.pulls_on(NODE_1, namespace).await;
    }

    pub(crate) async fn pulls_on(&self, node: &str, namespace: &str) {
        let pod = self.create(namespace, node).await;
        self.scene.runs(namespace, &pod).await;
    }

    /// Such a pod is refused.
    pub(crate) async fn is_refused_on(&self, node: &str, namespace: &str) {
        let pod = self.create(namespace, node).await;
        self.scene.is_refused(namespace, &pod).await;
    }

    /// One in a namespace that no Registry selects runs.
    pub(crate) async fn pulls(&self) {
        self.pulls_in(&self.namespace).await;
    }

    /// One in a namespace that no Registry selects does not.
    pub(crate) async fn is_refused(&self) {
        self.is_refused_on(NODE_1, &self.namespace).await;
    }

    pub(crate) async fn change_password(&self) -> User {
        let cluster = &self.scene.cluster;
        let changed = cluster.registry().change_password(&self.scene.user).await;
        registries::write_source(cluster, &self.scene.name, &changed.name, &changed.password).await;
        changed
    }

    /// The agent's pod is replaced by another one.
    pub(crate) async fn replace_agent(&self) {
        let pods: Api<Pod> = self.scene.cluster.of(NODES_NAMESPACE);
        let before = pods.list(&ListParams::default()).await.unwrap().items;
        for pod in &before {
            let parameters = DeleteParams::default();
            pods.delete(&pod.name_any(), &parameters).await.unwrap();
        }
        eventually(ROLLED_OUT, "another agent is ready", async || {
            let now = pods.list(&ListParams::default()).await;
            let now = now.map_err(|error| error.to_string())?.items;
            let is_new = |pod: &Pod| before.iter().all(|old| old.uid() != pod.uid());
            if !now.is_empty() && now.iter().all(|pod| is_new(pod) && is_ready(pod)) {
                Ok(())
            } else {
                Err(format!("{} pods", now.len()))
            }
        })
        .await;
    }

    /// The node itself starts anew, with everything that runs on it.
    pub(crate) async fn restart_node(&self) {
        let pods: Api<Pod> = self.scene.cluster.of(NODES_NAMESPACE);
        let started = async || {
            let pods = pods.list(&ListParams::default()).await;
            let pods = pods.map_err(|error| error.to_string())?.items;
            let starts: Vec<_> = pods.iter().filter(|pod| is_ready(pod)).collect();
            match starts.as_slice() {
                [pod] => Ok(starts_of(pod)),
                others => Err(format!("{} agents are ready", others.len())),
            }
        };
        let before = started().await.expect("one node has one agent");
        let cluster = self.scene.cluster.cluster();
        // containerd may answer before it serves kubelet, which then ends, and nobody but `up` starts it again
        if cluster.restart(NODE_1).await.is_err() {
            cluster.up().await.unwrap();
        }
        eventually(
            ROLLED_OUT,
            "the agent has started anew",
            async || match started().await? {
                now if now > before => Ok(()),
                now => Err(format!("{now} starts")),
            },
        )
        .await;
    }

    /// Waits until nothing of the agent is there.
    pub(crate) async fn agents_are_gone(&self) {
        self.scene.cluster.agents_are_gone(ROLLED_OUT).await;
    }
}

/// How often the pod's container has been started anew.
fn starts_of(pod: &Pod) -> i32 {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|s| s.container_statuses.as_ref());
    let containers = statuses.into_iter().flatten();
    containers.map(|container| container.restart_count).sum()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
