//! The one restart of kubelet that mode `credentialProvider` needs, by the agents of two nodes: one after the other, while a
//! node that lags behind keeps nobody else from being served.

use kube::Api;
use pullpass_api::Registry;
use pullpass_harness::{NODE_1, NODE_2, eventually};
use pullpass_suites::registries;

use crate::node_scene::{NodeScene, ROLLED_OUT};
use crate::systemd_stand_in::SystemdStandIn;

const NODES: [&str; 2] = [NODE_1, NODE_2];

impl NodeScene {
    /// Waits until the Registry says how many of the two nodes hold its credential.
    async fn are_ready(&self, ready: i32, condition: &str) {
        let registries: Api<Registry> = self.scene.cluster.all();
        let what = format!("{ready} of two nodes are ready");
        eventually(ROLLED_OUT, &what, async || {
            let registry = registries.get(&self.scene.name).await;
            let status = registry.map_err(|error| error.to_string())?.status;
            match status.unwrap_or_default().nodes {
                Some(nodes) if (nodes.selected, nodes.ready) == (2, ready) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        let (cluster, name) = (&self.scene.cluster, &self.scene.name);
        registries::has_condition(cluster, name, "NodesReady", condition).await;
    }
}

#[tokio::test]
async fn the_agents_restart_one_kubelet_after_the_other() {
    let nodes = NodeScene::new().await;
    let scene = &nodes.scene;
    let allowed = nodes.allows_a_namespace().await;
    nodes.second_node_joins().await;
    let before = NODES.map(|node| nodes.provider_config(node));

    let plugin = nodes.plugin_values();
    let restart = "nodeAgent.credentialProvider.kubeletRestart=WhenNeeded";
    let on = plugin.each_ref().map(String::as_str);
    let on = [&on[..], &[restart]].concat();
    let cluster = scene.cluster.cluster();
    let rolling_out = async {
        // a node without a bus takes no turn from the other
        let first = SystemdStandIn::start(cluster, NODE_1).await;
        first.is_asked().await;
        nodes.node_says(NODE_2, "the system bus", ROLLED_OUT).await;
        let second = SystemdStandIn::start(cluster, NODE_2).await;
        for node in NODES {
            nodes
                .node_says(node, "KubeletRestartWaiting", ROLLED_OUT)
                .await;
        }
        nodes.are_ready(0, "False/SomeNodesPending").await;
        // now the second could, and wants to
        let in_turn = format!("the node {NODE_1} restarts its kubelet first");
        nodes.node_says(NODE_2, &in_turn, ROLLED_OUT).await;
        first.let_restart();
        nodes.node_is_ready(NODE_1, ROLLED_OUT).await;
        nodes.are_ready(1, "False/SomeNodesPending").await;
        nodes.pulls_on(NODE_1, &allowed).await;
        nodes.is_refused_on(NODE_1, &nodes.namespace).await;
        nodes.is_refused_on(NODE_2, &allowed).await;
        second.let_restart();
        (first, second)
    };
    // Helm waits until both agents are ready
    let (_, (first, second)) = tokio::join!(nodes.switch(&on), rolling_out);
    nodes.node_is_ready(NODE_2, ROLLED_OUT).await;
    nodes.are_ready(2, "True/OnEveryNode").await;
    nodes.pulls_on(NODE_2, &allowed).await;
    nodes.is_refused_on(NODE_2, &nodes.namespace).await;

    let (first_restarts, second_restarts) = (first.restarts(), second.restarts());
    let ([earlier], [later]) = (&*first_restarts, &*second_restarts) else {
        panic!("{first_restarts:?} {second_restarts:?}");
    };
    assert!(
        earlier.ended.unwrap() <= later.begun,
        "{earlier:?} overlaps {later:?}"
    );

    nodes.switch(&[]).await;
    nodes.agents_are_gone().await;
    assert_eq!(NODES.map(|node| nodes.provider_config(node)), before);
    cluster.up_with_nodes(1).await.unwrap();
    nodes.restart_kubelet().await;
    registries::delete(&scene.cluster, &scene.name).await;
}
