//! `NodePullAccess`: what one node holds, and what is in its way.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a node tells. Its own agent alone writes it, in the agent's namespace, under the node's name; the Node owns it, so
/// that it goes with the node.
///
/// It names no registry and carries no digest of what the node holds.
#[allow(
    clippy::duplicated_attributes,
    reason = "each column is an attribute, and several hold texts"
)]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "pullpass.dev",
    version = "v1alpha1",
    kind = "NodePullAccess",
    plural = "nodepullaccesses",
    singular = "nodepullaccess",
    shortname = "npa",
    category = "pullpass",
    namespaced,
    no_spec,
    derive = "PartialEq",
    doc = "What the node of this name can pull with: which generation of the credentials it holds, and what is in the way. Written by the node's own agent.",
    printcolumn(
        name = "Mode",
        type_ = "string",
        json_path = ".mode",
        description = "How the node hands credentials to kubelet"
    ),
    printcolumn(
        name = "State",
        type_ = "string",
        json_path = ".state",
        description = "Whether kubelet uses what the node holds"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".reason",
        description = "Why it is so"
    ),
    printcolumn(
        name = "Held",
        type_ = "string",
        json_path = ".held[*].generation",
        description = "Generations of the bundles that the node holds"
    ),
    printcolumn(
        name = "Effective",
        type_ = "string",
        json_path = ".effectiveAt",
        description = "From when on kubelet uses them at the latest"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".message",
        priority = "1"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct NodePullAccessFields {
    /// How the node hands credentials to kubelet.
    pub mode: NodeMode,
    /// Ready: kubelet uses what the node holds, at the latest from effectiveAt on. Pending: it will without anybody's help.
    /// Blocked: it will not before somebody acts. Withdrawn: everything of Pullpass was taken off kubelet.
    pub state: NodeState,
    /// Why it is so, in one word.
    pub reason: String,
    /// What is in the way and what to do about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub message: String,
    /// The bundles that the node holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub held: Vec<HeldBundle>,
    /// From when on kubelet uses them at the latest: it may go on with what it has read before for some minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_at: Option<Time>,
    /// The release of the agent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub agent_version: String,
}

/// A bundle that a node holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeldBundle {
    /// The name of its Secret.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Its generation.
    pub generation: i64,
    /// Since when the node has held it.
    pub since: Time,
}

/// How a node hands credentials to kubelet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NodeMode {
    /// In kubelet's docker config file.
    DockerConfig,
    /// By a credential provider plugin.
    CredentialProvider,
}

/// Whether kubelet uses what a node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NodeState {
    /// It does, at the latest from `effectiveAt` on.
    Ready,
    /// It will without anybody's help.
    Pending,
    /// It will not before somebody acts.
    Blocked,
    /// Everything of Pullpass was taken off kubelet.
    Withdrawn,
}

impl NodeState {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Pending => "Pending",
            Self::Blocked => "Blocked",
            Self::Withdrawn => "Withdrawn",
        }
    }
}
