//! Mode `credentialProvider` as the chart brings it: the agent installs the plugin beside another program's, kubelet is started
//! anew once, each namespace pulls what it may use, and with another mode the node is as it was.

use std::fs;

use pullpass_harness::{NODE_1, name};
use pullpass_suites::{pods, registries};

use crate::node_scene::{NodeScene, ROLLED_OUT};

#[tokio::test]
async fn the_chart_brings_the_plugin_and_takes_it_away() {
    let nodes = NodeScene::new().await;
    let scene = &nodes.scene;
    let allowed = nodes.allows_a_namespace().await;
    let cluster = scene.cluster.cluster().directory();
    let directory = cluster.join("nodes/node-1/kubernetes/credential-providers");
    let config = || nodes.provider_config(NODE_1);
    let before = config();
    nodes.is_refused().await;

    let plugin = nodes.plugin_values();
    let on = plugin.each_ref().map(String::as_str);
    // an agent whose kubelet has not read the configuration is not ready, and Helm waits for it
    let restarting = async {
        nodes
            .node_says(NODE_1, "KubeletRestartNeeded", ROLLED_OUT)
            .await;
        nodes.restart_kubelet().await;
        nodes.pulls_in(&allowed).await;
    };
    tokio::join!(nodes.switch(&on), restarting);
    nodes.is_ready().await;
    assert!(config().contains("stand-in-provider"), "{}", config());
    nodes.is_refused().await;

    // nobody keeps an answer
    nodes.change_password().await;
    nodes.pulls_in(&allowed).await;

    // the next agent does not reach what this one has written
    nodes.switch(&["nodeAgent.enabled=true"]).await;
    nodes.is_ready().await;
    assert_eq!(config(), before);
    let programs = directory.join("bin");
    let left: Vec<_> = fs::read_dir(programs).unwrap().collect();
    assert_eq!(left.len(), 1, "the stand-in's alone: {left:?}");
    // kubelet still asks the plugin that is gone, and harms nobody by it
    let name = name::unique("app");
    let image = scene.image().await;
    scene.create(&allowed, &pods::pod(&name, &image)).await;
    scene.runs(&allowed, &name).await;

    nodes.switch(&[]).await;
    nodes.agents_are_gone().await;
    nodes.restart_kubelet().await;
    registries::delete(&scene.cluster, &scene.name).await;
}
