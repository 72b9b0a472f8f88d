//! What became of a Registry.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What Pullpass says about a registry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready: every selected namespace can pull. CredentialsReady: there is a good credential. Verified: the registry takes
    /// it. Distributed: every selected namespace holds it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The credential that is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CredentialStatus>,
    /// The namespaces of this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<NamespaceStatus>,
    /// The nodes of this cluster, where the node agent is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeStatus>,
}

/// How many nodes of this cluster have the credential.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Nodes that are to hold the credential: all that run the node agent, or none where the registry keeps off nodes.
    pub selected: i32,
    /// Selected nodes that hold what the controller has last written.
    pub ready: i32,
}

/// The credential that is in use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialStatus {
    /// When it was last read or renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refreshed_at: Option<Time>,
    /// When it ends, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
}

/// How many namespaces of this cluster have the credential.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceStatus {
    /// Namespaces that may use the registry.
    pub selected: i32,
    /// Selected namespaces that hold the credential.
    pub synced: i32,
    /// Selected namespaces that do not, and will not by waiting.
    pub failed: i32,
}
