//! A registry as the decisions see it: who may use it and which key its credential goes under.

use crate::glob::Glob;
use crate::key::RegistryKey;
use crate::selector::Selector;

/// One registry, after its resource has been read and found valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    /// The resource's name.
    pub name: String,
    /// When the resource was made, in seconds since the epoch: of two claims to one key the older wins.
    pub created: i64,
    /// The key of the credential; `None` where every entry of a docker config counts, each with its own key.
    pub key: Option<RegistryKey>,
    /// Where the credential comes from.
    pub credential: CredentialKind,
    /// Which clusters may use it.
    pub clusters: ClusterAccess,
    /// Which namespaces may use it.
    pub namespaces: NamespaceAccess,
    /// For which pods of its namespaces it is injected.
    pub injection: Injection,
    /// Of two registries with one key the higher wins.
    pub priority: i32,
    /// Whether nodes may hold the credential.
    pub nodes: NodeAccess,
}

/// How a namespace comes to the credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialKind {
    /// The registry is public.
    None,
    /// Pullpass copies it into the namespace's Secret.
    Copied,
    /// Each namespace already holds it, in a Secret of this name that is not of Pullpass.
    HeldByNamespace {
        /// The Secret's name.
        pull_secret: String,
    },
}

/// For which pods a registry is injected. It saves other pods a needless name and is no rule of access: one Secret
/// serves all registries, and a pod's images may change later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Injection {
    /// For every pod.
    #[default]
    Always,
    /// For pods with an image that kubelet would use the registry's key for.
    WhenImageMatches,
}

/// Whether a registry's credential may be given to whole nodes, for every pod on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeAccess {
    /// Where every namespace of the cluster may use it anyway; otherwise only where the node itself tells namespaces apart.
    #[default]
    Auto,
    /// For every pod of every node, whatever its namespace.
    Allow,
    /// Nodes never hold it.
    Deny,
}

/// Which clusters may use a registry, by globs over the cluster's name. The second list wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterAccess {
    /// Clusters that may use it.
    pub auto_inject: Vec<Glob>,
    /// Clusters that may not.
    pub do_not_inject: Vec<Glob>,
}

impl Default for ClusterAccess {
    fn default() -> Self {
        Self {
            auto_inject: vec![Glob::new("*")],
            do_not_inject: Vec::new(),
        }
    }
}

impl ClusterAccess {
    /// Whether the answer is the same for every cluster, so that the cluster's name does not matter.
    pub fn is_unrestricted(&self) -> bool {
        self.do_not_inject.is_empty() && self.auto_inject.iter().any(Glob::matches_everything)
    }
}

/// Which namespaces may use a registry: `include` and `selector` both have to match, `exclude` wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceAccess {
    /// Names that may use it.
    pub include: Vec<Glob>,
    /// Names that may not.
    pub exclude: Vec<Glob>,
    /// Labels that a namespace has to have.
    pub selector: Selector,
}

impl NamespaceAccess {
    /// Whether every namespace may use the registry, whatever its name and labels.
    pub fn is_unrestricted(&self) -> bool {
        self.exclude.is_empty()
            && self.selector.is_empty()
            && self.include.iter().any(Glob::matches_everything)
    }
}
