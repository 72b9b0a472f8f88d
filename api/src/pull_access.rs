//! `PullAccess`: what one namespace may pull with, and why not the rest.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The name of the one PullAccess in each selected namespace.
pub const NAME: &str = "pullpass";

/// The label that repeats `secret.state`, for whoever watches metadata alone: with many registries the object is twenty
/// times as large.
pub const SECRET_STATE_LABEL: &str = "pullpass.dev/secret-state";

/// What Pullpass tells a namespace. Only its controller writes it; whoever may view the namespace may read it.
///
/// It names only registries that the namespace is entitled to, and carries neither time nor hash nor expiry: it changes
/// when policy changes, not when a token does. It is written after the Secret and deleted before it.
#[allow(
    clippy::duplicated_attributes,
    reason = "each column is an attribute, and several hold texts"
)]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "pullpass.dev",
    version = "v1alpha1",
    kind = "PullAccess",
    plural = "pullaccesses",
    singular = "pullaccess",
    category = "pullpass",
    namespaced,
    no_spec,
    derive = "PartialEq",
    doc = "What this namespace may pull with: the pull secret that Pullpass keeps here, and the registries it serves. Written by Pullpass alone.",
    printcolumn(
        name = "Secret",
        type_ = "string",
        json_path = ".secret.name",
        description = "The pull secret of this namespace"
    ),
    printcolumn(
        name = "State",
        type_ = "string",
        json_path = ".secret.state",
        description = "Whether the pull secret is there"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".secret.reason",
        description = "Why it is there or not"
    ),
    printcolumn(
        name = "Registries",
        type_ = "string",
        json_path = ".registries[*].name",
        description = "The registries that this namespace may use"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct PullAccessFields {
    /// The pull secret of this namespace.
    pub secret: SecretAccess,
    /// The registries that this namespace may use, those that win a conflict first.
    #[serde(default)]
    pub registries: Vec<RegistryAccess>,
}

/// The pull secret of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretAccess {
    /// Its name.
    pub name: String,
    /// Written: it is there and up to date. Blocked: it cannot be written at present.
    pub state: SecretState,
    /// Why it is so, in one word.
    pub reason: String,
}

/// Whether a namespace's pull secret is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SecretState {
    /// It is there and up to date.
    Written,
    /// It cannot be written at present.
    Blocked,
}

impl SecretState {
    /// As it is written, in the field and in [`SECRET_STATE_LABEL`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Written => "Written",
            Self::Blocked => "Blocked",
        }
    }
}

/// One registry that a namespace may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryAccess {
    /// The Registry's name.
    pub name: String,
    /// Its host; absent where the Registry takes the hosts from its docker config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Available: the pull secret holds its credential. Unavailable: it does not.
    pub state: RegistryState,
    /// Why it is so, in one word.
    pub reason: String,
    /// The registry whose credential is used for the same host instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_to: Option<String>,
}

/// Whether a namespace's pull secret holds a registry's credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RegistryState {
    /// It does.
    Available,
    /// It does not.
    Unavailable,
}
