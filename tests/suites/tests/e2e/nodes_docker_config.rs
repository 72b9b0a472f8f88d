//! Mode `dockerConfig` with a real kubelet: pods pull that have no pull secret, with the credential that is current; a node
//! keeps it while agents come and go, and is left as it was when they all go.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use pullpass_suites::registries;

use crate::node_scene::NodeScene;

/// Which entries of the docker config are Pullpass's.
const STATE: &str = ".pullpass.json";

/// An administrator's docker config, laid out by hand, for a registry that nobody asks.
const FOREIGN: &str = "{\n\t\"auths\": {\n\t\t\"admin.invalid\": {\n\t\t\t\"auth\": \"YWRtaW46cA==\"\n\t\t}\n\t}\n}\n";

/// Which file it is: one that was written anew is another one.
fn identity(file: &Path) -> (u64, i64, i64) {
    let found = fs::metadata(file).unwrap();
    (found.ino(), found.mtime(), found.mtime_nsec())
}

#[tokio::test]
async fn in_kubelets_root_directory_beside_an_administrators_entries() {
    let nodes = NodeScene::new().await;
    let file = nodes.kubelet_root().join("config.json");
    fs::write(&file, FOREIGN).unwrap();
    nodes.restart_kubelet().await;
    nodes.is_refused().await;

    nodes.switch(&["nodeAgent.enabled=true"]).await;
    nodes.file_has(&file, &nodes.scene.user).await;
    nodes.is_ready().await;
    nodes.restart_kubelet().await;
    nodes.pulls().await;

    let changed = nodes.change_password().await;
    nodes.file_has(&file, &changed).await;
    nodes.restart_kubelet().await;
    nodes.pulls().await;

    // a pod that is replaced, a new version of it, and the node itself from anew
    let before = identity(&file);
    nodes.replace_agent().await;
    let values = [
        "nodeAgent.enabled=true",
        "nodeAgent.resources.requests.cpu=6m",
    ];
    nodes.switch(&values).await;
    nodes.restart_node().await;
    assert_eq!(identity(&file), before, "nobody has written it");

    // nobody has asked for a withdrawal: the agent takes along what it has written
    nodes.switch(&[]).await;
    nodes.agents_are_gone().await;
    assert_eq!(fs::read_to_string(&file).unwrap(), FOREIGN);
    assert!(!nodes.kubelet_root().join(STATE).exists());
    nodes.restart_kubelet().await;
    nodes.is_refused().await;
    fs::remove_file(&file).unwrap();
    nodes.restart_kubelet().await;
    registries::delete(&nodes.scene.cluster, &nodes.scene.name).await;
}

#[tokio::test]
async fn in_the_far_smaller_directory_until_all_is_uninstalled() {
    // the node sees the machine's own root directory
    let directory = PathBuf::from("/.docker");
    let was_there = directory.exists();
    let nodes = NodeScene::new().await;
    let file = directory.join("config.json");
    assert!(!file.exists(), "{} is somebody's", file.display());
    nodes
        .switch(&[
            "nodeAgent.enabled=true",
            "nodeAgent.dockerConfig.directory=/.docker",
        ])
        .await;
    nodes.file_has(&file, &nodes.scene.user).await;
    nodes.is_ready().await;
    nodes.restart_kubelet().await;
    nodes.pulls().await;

    nodes.scene.cluster.uninstall().await;
    let left: Vec<_> = fs::read_dir(&directory).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    if !was_there {
        fs::remove_dir(&directory).unwrap();
    }
    nodes.agents_are_gone().await;
    nodes.restart_kubelet().await;
    nodes.scene.cluster.install().await;
    registries::delete(&nodes.scene.cluster, &nodes.scene.name).await;
}
