//! Which kubelet the node has: the API server knows, and the agent cannot see it on the node.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use crate::provider_files::ProviderFiles;

/// Between two questions. A kubelet is upgraded with the agent's pod staying, but seldom; and there are many nodes.
const AGAIN: Duration = Duration::from_secs(600);

/// The same while there is no answer.
const RETRY: Duration = Duration::from_secs(5);

/// Tells the files about the node's kubelet, until `stop` is cancelled.
pub(crate) async fn follow(
    client: Client,
    node: String,
    files: Arc<ProviderFiles>,
    stop: CancellationToken,
) {
    let nodes: Api<Node> = Api::all(client);
    while !stop.is_cancelled() {
        let pause = match nodes.get(&node).await {
            Ok(found) => {
                let info = found.status.and_then(|status| status.node_info);
                if let Some(info) = info {
                    files.set_kubelet(&info.kubelet_version);
                }
                AGAIN
            }
            Err(error) => {
                let error = pullpass_daemon::chain(&error);
                tracing::warn!(
                    error,
                    "the API server does not say which kubelet this node has"
                );
                RETRY
            }
        };
        let _ = tokio::time::timeout(pause, stop.cancelled()).await;
    }
}
