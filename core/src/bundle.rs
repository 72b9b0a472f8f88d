//! The node bundle: the credentials that nodes hold, and for whom, as the controller writes it and nodes read it.
//!
//! Node-wide entries and entries for some namespaces go into Secrets of their own, so that a node which serves all its pods
//! alike is never given the latter. Policies go in as they are written, with their globs: what would be a list of
//! namespaces changes with every namespace, on every node. Only what a label selector selects has to be a list, one for
//! each distinct selector, since nodes do not know labels.

mod assemble;
mod format;
mod mode;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::docker_config::Entries;
use crate::glob::Glob;
use crate::registry::NamespaceAccess;

pub use assemble::{Assembled, Sources, assemble, selections};
pub use format::BundleError;
pub use mode::{Mode, UnknownMode};

/// The node agent's namespace, which holds the bundles. It is one of Pullpass's own, whether it is there or not.
pub const NODES_NAMESPACE: &str = "pullpass-nodes";

/// The Secret with the node-wide bundle, in the node agent's namespace.
pub const NODE_WIDE_SECRET: &str = "pullpass-nodes";

/// The Secret with the bundle for some namespaces only; in mode `credentialProvider` alone.
pub const RESTRICTED_SECRET: &str = "pullpass-nodes-restricted";

/// The type of both Secrets.
pub const BUNDLE_SECRET_TYPE: &str = "pullpass.dev/node-bundle";

/// The one key of both Secrets.
pub const BUNDLE_KEY: &str = "bundle.json";

/// How long kubelet goes on with what it has read from its docker config files, or with having found none
/// (`CachingDockerConfigProvider` in kubelet's `pkg/credentialprovider/provider.go`).
pub const KUBELET_CACHE: Duration = Duration::from_secs(5 * 60);

/// On a node that is not to run pods before its agent has brought it what they need.
pub const STARTUP_TAINT: &str = "pullpass.dev/agent-not-ready";

/// What one Secret of the bundle says.
#[derive(Clone, Debug, Default)]
pub struct Bundle {
    /// Counts up with every change of the content, so that a node can tell which one it holds. A digest would let whoever
    /// reads a node's state try passwords against it.
    pub generation: u64,
    /// Whether nodes are to give up everything: what they hold of Pullpass is taken off kubelet, and stays off.
    pub withdrawn: bool,
    /// Registries with their credentials, those that win a conflict first.
    pub registries: Vec<BundleRegistry>,
    /// Names of the namespaces that each selector selects, by the selector's text.
    pub selections: BTreeMap<String, BTreeSet<String>>,
    /// Namespaces that no policy lets in, whatever its globs say.
    pub closed_namespaces: BTreeSet<String>,
    /// How the container runtime is to reach registries, by host and port.
    pub runtime: BTreeMap<String, RuntimeHost>,
}

/// One registry in a bundle.
#[derive(Clone, Debug)]
pub struct BundleRegistry {
    /// The Registry's name.
    pub name: String,
    /// Of two registries with one key the higher wins, then the older, then the one whose name comes first.
    pub priority: i32,
    /// When the Registry was made, in seconds since the epoch.
    pub created: i64,
    /// Who may use it; `None`: every pod of the node.
    pub access: Option<BundleAccess>,
    /// Its credentials.
    pub entries: Entries,
}

/// Which namespaces may use a registry: `include` and `selection` both have to match, `exclude` wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleAccess {
    /// Names that may use it.
    pub include: Vec<Glob>,
    /// Names that may not.
    pub exclude: Vec<Glob>,
    /// The list in [`Bundle::selections`] that a name has to be in, where there is a selector.
    pub selection: Option<String>,
}

/// How the container runtime is to reach a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuntimeHost {
    /// Certificates in PEM of the authorities that sign for it, in place of those that the node trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Whether its certificate is not verified.
    #[serde(default, skip_serializing_if = "is_false")]
    pub insecure: bool,
    /// Base URLs that are asked before it, in order; authorities and verification count for them too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<String>,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde asks for"
)]
fn is_false(value: &bool) -> bool {
    !value
}

impl From<&NamespaceAccess> for BundleAccess {
    fn from(access: &NamespaceAccess) -> Self {
        Self {
            include: access.include.clone(),
            exclude: access.exclude.clone(),
            selection: (!access.selector.is_empty()).then(|| access.selector.to_string()),
        }
    }
}

impl BundleAccess {
    /// Whether a namespace may use the registry, by its name and the bundle's lists.
    pub fn admits(&self, namespace: &str, bundle: &Bundle) -> bool {
        let any = |globs: &[Glob]| globs.iter().any(|glob| glob.matches(namespace));
        let is_selected = |selection: &String| {
            let names = bundle.selections.get(selection);
            names.is_some_and(|names| names.contains(namespace))
        };
        !bundle.closed_namespaces.contains(namespace)
            && !any(&self.exclude)
            && any(&self.include)
            && self.selection.as_ref().is_none_or(is_selected)
    }
}
