//! Whether this agent ends because all of them do. A pod that is replaced, evicted or restarted leaves the node as it is: its
//! successor goes on. One whose DaemonSet is being removed has none, so it takes along what it has written.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, Client};

/// Whether the DaemonSet, or the namespace that it is in, is gone or about to be.
///
/// # Errors
/// The API server does not say; then nothing is to be taken off.
pub(crate) async fn is_under_way(
    client: &Client,
    namespace: &str,
    daemon_set: &str,
) -> kube::Result<bool> {
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    let set = sets.get_metadata_opt(daemon_set).await?;
    if is_going(set.map(|set| set.metadata)) {
        return Ok(true);
    }
    // with the namespace the pods go first, and the DaemonSet after them
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = namespaces.get_metadata_opt(namespace).await?;
    Ok(is_going(namespace.map(|namespace| namespace.metadata)))
}

fn is_going(found: Option<ObjectMeta>) -> bool {
    found.is_none_or(|metadata| metadata.deletion_timestamp.is_some())
}
