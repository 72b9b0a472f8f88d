//! Who may use a registry, and on which ways its credential gets there.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::selector::LabelSelector;

/// Who may use a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// Which clusters may use it, so that the same resources can be applied to all of them. Compared with the chart value
    /// clusterName; on a cluster without a name, anything but the default selects nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clusters: Option<ClusterAccess>,
    /// Which namespaces may use it. Required where the registry is private, so that nobody spreads a credential by leaving
    /// a line out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<NamespaceAccess>,
    /// A Secret that each of these namespaces already holds. Its name is injected instead of that of Pullpass's copy, and
    /// no copy is made; Pullpass neither reads nor writes it. With auth the credential still serves everything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_secret: Option<PullSecretReference>,
    /// Whether nodes may hold the credential, where the node agent is on. Auto: for every pod of a node where every
    /// namespace may use it anyway; otherwise only in mode credentialProvider, for the namespaces that may use it. Allow:
    /// for every pod of every node, whatever its namespace. Deny: never.
    #[serde(default)]
    pub nodes: NodeAccess,
}

/// Whether nodes may hold a credential.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NodeAccess {
    /// As far as the policy for namespaces is obeyed.
    #[default]
    Auto,
    /// For every pod of every node.
    Allow,
    /// Never.
    Deny,
}

/// A Secret that each namespace already holds, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PullSecretReference {
    /// The Secret's name, the same in every namespace.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub name: String,
}

/// Which clusters may use a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterAccess {
    /// Names of clusters that may use it; `*` stands for any part of a name.
    #[serde(default = "every_name")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 253)))]
    pub auto_inject: Vec<String>,
    /// Names of clusters that may not; wins over autoInject.
    #[serde(default)]
    #[schemars(length(max = 256), inner(length(min = 1, max = 253)))]
    pub do_not_inject: Vec<String>,
}

fn every_name() -> Vec<String> {
    vec!["*".into()]
}

/// Which namespaces may use a registry. System namespaces and those of Pullpass are never among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.include) && size(self.include) > 0) || (has(self.selector) && ((has(self.selector.matchLabels) && size(self.selector.matchLabels) > 0) || (has(self.selector.matchExpressions) && size(self.selector.matchExpressions) > 0)))")
    .message("say which namespaces: include: [\"team-a\", \"team-b-*\"], or include: [\"*\"] for all of them, or a selector that asks for labels"))]
pub struct NamespaceAccess {
    /// Names of namespaces; `*` stands for any part of a name. An exact name cannot be taken by a tenant, a wildcard
    /// admits whoever may create namespaces. With a selector it may be left out and means every name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 1024),
        inner(length(min = 1, max = 63), regex(pattern = r"^[-a-z0-9*]+$"))
    )]
    pub include: Option<Vec<String>>,
    /// Names of namespaces that may not use it; wins over include and selector.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 1024),
        inner(length(min = 1, max = 63), regex(pattern = r"^[-a-z0-9*]+$"))
    )]
    pub exclude: Vec<String>,
    /// Labels that a namespace has to have, in addition to a name that is included. It is as strong as the right to label
    /// namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}
