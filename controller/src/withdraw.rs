//! Has nodes give up what they hold, while their agents are still there to do it.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use pullpass_api::NodePullAccess;
use pullpass_api::node_pull_access::NodeState;
use pullpass_core::bundle::{
    BUNDLE_KEY, BUNDLE_SECRET_TYPE, Bundle, NODE_WIDE_SECRET, NODES_NAMESPACE, RESTRICTED_SECRET,
};
use secrecy::ExposeSecret as _;

use crate::bundle::withdrawn;
use crate::manifest::{FIELD_MANAGER, Metadata, SecretManifest, common_labels};
use crate::nodes::BundleSecret;

/// Agents hear of it at once and need a moment each; a node that is switched off never answers.
const ROUNDS: u32 = 60;
const PAUSE: Duration = Duration::from_secs(1);

/// Writes both bundles as withdrawn where they are there, waits until every node that tells anything says that it has given
/// up what it held, and returns the nodes that have not.
///
/// # Errors
/// What the API server refuses.
pub(crate) async fn withdraw(client: &Client) -> kube::Result<Vec<String>> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NODES_NAMESPACE);
    for name in [NODE_WIDE_SECRET, RESTRICTED_SECRET] {
        if let Some(found) = secrets.get_opt(name).await?.map(BundleSecret::observe)
            && found.ours
            && !found.bundle.as_ref().is_some_and(|held| held.withdrawn)
        {
            let bundle = Bundle {
                generation: found.bundle.as_ref().map_or(0, |held| held.generation) + 1,
                ..withdrawn()
            };
            let content = bundle.write();
            let metadata = Metadata::named(name, common_labels(), Some(&found.version));
            let data = [(BUNDLE_KEY, content.expose_secret())];
            let manifest = SecretManifest::new(BUNDLE_SECRET_TYPE, metadata, data);
            let parameters = PatchParams::apply(FIELD_MANAGER).force();
            secrets
                .patch_metadata(name, &parameters, &Patch::Apply(&manifest))
                .await?;
        }
    }
    let states: Api<NodePullAccess> = Api::namespaced(client.clone(), NODES_NAMESPACE);
    let mut left = Vec::new();
    for round in 0..ROUNDS {
        if round > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let nodes = match states.list(&ListParams::default()).await {
            Ok(nodes) => nodes.items,
            // without the CRD no node tells anything
            Err(kube::Error::Api(status)) if status.is_not_found() => Vec::new(),
            Err(error) => return Err(error),
        };
        left = nodes
            .iter()
            .filter(|node| node.spec.state != NodeState::Withdrawn)
            .map(ResourceExt::name_any)
            .collect();
        if left.is_empty() {
            break;
        }
    }
    Ok(left)
}
