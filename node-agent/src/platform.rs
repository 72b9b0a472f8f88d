//! Platforms on which kubelet's docker config is not ours to write.
//!
//! OpenShift's machine-config operator owns `/var/lib/kubelet/config.json` and degrades a node whose file differs; and
//! since that file is there, kubelet reads no other. Its mark on the host lies outside of the directory that the agent is
//! given, and its annotations on Nodes, which the agent may not read. So the cluster is asked for its API groups, which
//! every service account may (`system:discovery`).

use kube::Client;

/// Groups that every OpenShift cluster has, hosted control planes included.
const OPENSHIFT: [&str; 2] = ["machineconfiguration.openshift.io", "config.openshift.io"];

/// Whether a platform manages kubelet's docker config itself.
///
/// # Errors
/// The API server does not say. Nothing may be written until it has.
pub(crate) async fn manages_docker_config(client: &Client) -> kube::Result<bool> {
    let groups = client.list_api_groups().await?.groups;
    Ok(groups
        .iter()
        .any(|group| OPENSHIFT.contains(&group.name.as_str())))
}
