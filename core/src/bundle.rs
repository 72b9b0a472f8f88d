//! The node bundle: the credentials that nodes hold, and for whom, as the controller writes it and nodes read it.
//!
//! Node-wide entries and entries for some namespaces go into Secrets of their own, so that a node which serves all its pods
//! alike is never given the latter. Policies go in as they are written, with their globs: what would be a list of
//! namespaces changes with every namespace, on every node. Only what a label selector selects has to be a list, one for
//! each distinct selector, since nodes do not know labels.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::docker_config::{
    DockerConfigError, Entries, EntryFile, WrittenEntry, entries, written_size,
};
use crate::glob::Glob;
use crate::key::RegistryKey;
use crate::policy::{Namespace, Policy, refused_cluster};
use crate::reason::Reason;
use crate::registry::{CredentialKind, NamespaceAccess, NodeAccess, Registry};
use crate::render::{Credentials, MAX_SECRET_BYTES, Outcome};
use crate::selector::Selector;

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

/// The format that is written and read. It changes when an older reader would give away more than it should.
const FORMAT: &str = "v1";

/// How nodes hand credentials to kubelet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// In kubelet's docker config file, which serves every pod of the node alike.
    #[default]
    DockerConfig,
    /// By a credential provider plugin, which kubelet tells the pod's namespace.
    CredentialProvider,
}

impl Mode {
    /// As flags and chart values spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DockerConfig => "dockerConfig",
            Self::CredentialProvider => "credentialProvider",
        }
    }
}

/// No mode is called that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the mode is dockerConfig or credentialProvider")]
pub struct UnknownMode;

impl std::str::FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        [Self::DockerConfig, Self::CredentialProvider]
            .into_iter()
            .find(|mode| mode.as_str() == text)
            .ok_or(UnknownMode)
    }
}

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
    /// Base URLs that are asked before it, in order.
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

/// Why a bundle cannot be used. Messages give positions, never content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Not JSON of the expected form, or with fields that this release does not know.
    #[error(
        "not a node bundle of this release: line {line}, column {column} (controller and node agent have to be of one release)"
    )]
    Json {
        /// Line of the place, from 1.
        line: usize,
        /// Column of the place, from 1.
        column: usize,
    },
    /// Of another format.
    #[error("a node bundle of another format: run controller and node agent of one release")]
    Format,
    /// A credential that cannot be used.
    #[error("registry {registry} of the node bundle: {source}")]
    Entries {
        /// Which registry of the bundle, from 1.
        registry: usize,
        /// What is wrong with it.
        source: DockerConfigError,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    version: &'static str,
    generation: u64,
    #[serde(skip_serializing_if = "is_false")]
    withdrawn: bool,
    registries: Vec<WrittenRegistry<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    selections: &'a BTreeMap<String, BTreeSet<String>>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    closed_namespaces: &'a BTreeSet<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    runtime: &'a BTreeMap<String, RuntimeHost>,
}

#[derive(Serialize)]
struct WrittenRegistry<'a> {
    name: &'a str,
    priority: i32,
    created: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    access: Option<AccessFile>,
    auths: BTreeMap<String, WrittenEntry<'a>>,
}

/// Unknown fields are refused: one of them might narrow who may use a credential.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BundleFile {
    #[serde(rename = "version")]
    _version: IgnoredAny,
    generation: u64,
    #[serde(default)]
    withdrawn: bool,
    registries: Vec<RegistryFile>,
    #[serde(default)]
    selections: BTreeMap<String, BTreeSet<String>>,
    #[serde(default)]
    closed_namespaces: BTreeSet<String>,
    #[serde(default)]
    runtime: BTreeMap<String, RuntimeHost>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RegistryFile {
    name: String,
    priority: i32,
    created: i64,
    access: Option<AccessFile>,
    auths: BTreeMap<String, EntryFile>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AccessFile {
    include: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    exclude: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    selection: Option<String>,
}

impl Bundle {
    /// Reads what [`Bundle::write`] has written.
    ///
    /// # Errors
    /// What another release has written, and what nobody of ours has.
    pub fn parse(content: &[u8]) -> Result<Self, BundleError> {
        #[derive(Deserialize)]
        struct Version {
            version: String,
        }
        let json = |error: serde_json::Error| BundleError::Json {
            line: error.line(),
            column: error.column(),
        };
        let Version { version } = serde_json::from_slice(content).map_err(json)?;
        if version != FORMAT {
            return Err(BundleError::Format);
        }
        let file: BundleFile = serde_json::from_slice(content).map_err(json)?;
        let registries = file.registries.into_iter().enumerate();
        Ok(Self {
            generation: file.generation,
            withdrawn: file.withdrawn,
            registries: registries
                .map(|(index, registry)| {
                    Ok(BundleRegistry {
                        name: registry.name,
                        priority: registry.priority,
                        created: registry.created,
                        access: registry.access.map(BundleAccess::from),
                        entries: entries(registry.auths).map_err(|source| {
                            BundleError::Entries {
                                registry: index + 1,
                                source,
                            }
                        })?,
                    })
                })
                .collect::<Result<_, BundleError>>()?,
            selections: file.selections,
            closed_namespaces: file.closed_namespaces,
            runtime: file.runtime,
        })
    }

    /// The bundle as JSON. The same bundle always gives the same bytes.
    pub fn write(&self) -> SecretSlice<u8> {
        let basics: Vec<BTreeMap<String, SecretString>> = self
            .registries
            .iter()
            .map(|registry| {
                let entries = registry.entries.iter();
                entries
                    .map(|(key, login)| (key.to_string(), login.basic()))
                    .collect()
            })
            .collect();
        let registries = self.registries.iter().zip(&basics);
        let written = Written {
            version: FORMAT,
            generation: self.generation,
            withdrawn: self.withdrawn,
            registries: registries
                .map(|(registry, basics)| WrittenRegistry {
                    auths: basics
                        .iter()
                        .map(|(key, basic)| {
                            let auth = basic.expose_secret();
                            (key.clone(), WrittenEntry { auth })
                        })
                        .collect(),
                    ..registry.without_entries()
                })
                .collect(),
            selections: &self.selections,
            closed_namespaces: &self.closed_namespaces,
            runtime: &self.runtime,
        };
        // maps with text keys always serialize
        serde_json::to_vec(&written).unwrap_or_default().into()
    }

    /// Whether both say the same, whatever their generations.
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        let same = Self {
            generation: self.generation,
            ..other.clone()
        };
        self.write().expose_secret() == same.write().expose_secret()
    }
}

impl BundleRegistry {
    fn without_entries(&self) -> WrittenRegistry<'_> {
        WrittenRegistry {
            name: &self.name,
            priority: self.priority,
            created: self.created,
            access: self.access.as_ref().map(AccessFile::from),
            auths: BTreeMap::new(),
        }
    }

    /// What this registry takes of the Secret beside its entries, with the comma that parts it from the next.
    fn written_size(&self) -> usize {
        size_of_json(&self.without_entries()) + 1
    }
}

fn size_of_json(value: &impl Serialize) -> usize {
    serde_json::to_vec(value).map_or(0, |json| json.len())
}

impl From<AccessFile> for BundleAccess {
    fn from(file: AccessFile) -> Self {
        let globs = |texts: Vec<String>| texts.into_iter().map(Glob::new).collect();
        Self {
            include: globs(file.include),
            exclude: globs(file.exclude),
            selection: file.selection,
        }
    }
}

impl From<&BundleAccess> for AccessFile {
    fn from(access: &BundleAccess) -> Self {
        let texts = |globs: &[Glob]| globs.iter().map(ToString::to_string).collect();
        Self {
            include: texts(&access.include),
            exclude: texts(&access.exclude),
            selection: access.selection.clone(),
        }
    }
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

/// The namespaces that each selector of a registry for some namespaces selects, by the selector's text.
///
/// Only labels are looked at here. That a namespace declines by its label does not count: what nodes hold is not the
/// namespace's to decline.
pub fn selections<'a>(
    policy: &Policy,
    namespaces: impl IntoIterator<Item = &'a Namespace>,
) -> BTreeMap<String, BTreeSet<String>> {
    let selectors: BTreeMap<String, &Selector> = policy
        .registries
        .iter()
        .filter(|registry| !is_node_wide(registry))
        .map(|registry| &registry.namespaces.selector)
        .filter(|selector| !selector.is_empty())
        .map(|selector| (selector.to_string(), selector))
        .collect();
    let mut selections: BTreeMap<String, BTreeSet<String>> = selectors
        .keys()
        .map(|text| (text.clone(), BTreeSet::new()))
        .collect();
    for namespace in namespaces {
        for (selected, selector) in selections.values_mut().zip(selectors.values()) {
            if selector.matches(&namespace.labels) {
                selected.insert(namespace.name.clone());
            }
        }
    }
    selections
}

/// What bundles are made from.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// Who may use what.
    pub policy: &'a Policy,
    /// The last good credentials.
    pub credentials: &'a Credentials,
    /// How the runtime is to reach a registry, by the registry's name.
    pub runtime: &'a BTreeMap<String, RuntimeHost>,
    /// What [`selections`] gives.
    pub selections: &'a BTreeMap<String, BTreeSet<String>>,
}

/// The bundles for nodes, and what became of each registry.
#[derive(Debug)]
pub struct Assembled {
    /// What every pod may use.
    pub node_wide: Bundle,
    /// What some namespaces may use; only where nodes tell namespaces apart.
    pub restricted: Option<Bundle>,
    /// One outcome for each registry that this cluster may use, those that win a conflict first:
    /// [`Reason::Available`], or why some or all of its entries are on no node.
    pub outcomes: Vec<Outcome>,
}

/// Puts the bundles together, each within the size of a Secret; their generations are 0. Where the bound is reached, later
/// entries are left out and the earlier ones stay.
pub fn assemble(mode: Mode, sources: Sources<'_>) -> Assembled {
    assemble_within(mode, sources, MAX_SECRET_BYTES)
}

fn assemble_within(mode: Mode, sources: Sources<'_>, max_bytes: usize) -> Assembled {
    let policy = sources.policy;
    let mut registries: Vec<&Registry> = policy
        .registries
        .iter()
        .map(AsRef::as_ref)
        .filter(|registry| {
            refused_cluster(policy.cluster_name.as_deref(), &registry.clusters).is_none()
        })
        .collect();
    registries
        .sort_by(|a, b| (b.priority, a.created, &a.name).cmp(&(a.priority, b.created, &b.name)));
    let closed_namespaces = policy.closed_namespaces();
    let mut node_wide = Filling::new(Bundle::default(), max_bytes);
    let mut restricted = Filling::new(
        Bundle {
            closed_namespaces: closed_namespaces.into_iter().map(Into::into).collect(),
            ..Bundle::default()
        },
        max_bytes,
    );
    // node-wide entries win over all that come later, in every namespace
    let mut taken: BTreeMap<RegistryKey, String> = BTreeMap::new();
    let mut outcomes = Vec::with_capacity(registries.len());
    for registry in registries {
        let mut outcome = Outcome {
            registry: registry.name.clone(),
            reason: Reason::Available,
            lost_to: None,
            left_out: Vec::new(),
        };
        let runtime = sources.runtime.get(&registry.name);
        if let (Some(host), Some(key)) = (runtime, &registry.key)
            && registry.nodes != NodeAccess::Deny
            && !node_wide.add_runtime(key.host(), host)
        {
            outcome.reason = Reason::TooLarge;
        }
        let is_node_wide = is_node_wide(registry);
        let refused = match (registry.nodes, &registry.credential, mode) {
            (NodeAccess::Deny, ..) => Some(Reason::NodesDenied),
            (_, CredentialKind::None, _) => Some(Reason::PublicRegistry),
            (_, _, Mode::DockerConfig) if !is_node_wide => Some(Reason::RestrictedToNamespaces),
            (NodeAccess::Auto | NodeAccess::Allow, ..) => None,
        };
        let credential = sources.credentials.get(&registry.name);
        let refused = refused.or_else(|| {
            let missing = *credential?.as_ref().err()?;
            // a namespace may hold what nobody else has
            Some(match registry.credential {
                CredentialKind::HeldByNamespace { .. } => Reason::HeldByNamespace,
                CredentialKind::Copied | CredentialKind::None => missing,
            })
        });
        match (refused, credential) {
            (Some(reason), _) => {
                // that the runtime lacks something of a public registry is what there is to say about it
                if outcome.reason == Reason::Available {
                    outcome.reason = reason;
                }
            }
            (None, None | Some(Err(_))) => outcome.reason = Reason::CredentialPending,
            (None, Some(Ok(entries))) if is_node_wide => {
                node_wide.add(registry, None, entries, &taken, &mut outcome);
                for key in entries.keys() {
                    if !outcome.left_out.contains(key) {
                        taken
                            .entry(key.clone())
                            .or_insert_with(|| registry.name.clone());
                    }
                }
            }
            (None, Some(Ok(entries))) => {
                let access = BundleAccess::from(&registry.namespaces);
                let selected = access.selection.as_ref().map(|text| {
                    let names = sources.selections.get(text).cloned();
                    (text.clone(), names.unwrap_or_default())
                });
                if restricted.add_selection(selected) {
                    restricted.add(registry, Some(access), entries, &taken, &mut outcome);
                } else {
                    outcome.reason = Reason::TooLarge;
                    outcome.left_out = entries.keys().cloned().collect();
                }
            }
        }
        outcomes.push(outcome);
    }
    Assembled {
        node_wide: node_wide.bundle,
        restricted: (mode == Mode::CredentialProvider).then_some(restricted.bundle),
        outcomes,
    }
}

/// Whether a registry's credential is for every pod of a node.
fn is_node_wide(registry: &Registry) -> bool {
    match registry.nodes {
        NodeAccess::Auto => registry.namespaces.is_unrestricted(),
        NodeAccess::Allow => true,
        NodeAccess::Deny => false,
    }
}

/// A bundle that grows up to a bound.
struct Filling {
    bundle: Bundle,
    size: usize,
    max_bytes: usize,
}

impl Filling {
    fn new(bundle: Bundle, max_bytes: usize) -> Self {
        // whatever the generation comes to, and the maps that are left out where they are empty
        const RESERVED: usize = 20 + r#""withdrawn":true,"selections":{},"runtime":{},"#.len();
        Self {
            size: bundle.write().expose_secret().len() + RESERVED,
            bundle,
            max_bytes,
        }
    }

    /// Whether there is room, which is taken then.
    fn grow(&mut self, by: usize) -> bool {
        let fits = self.size + by <= self.max_bytes;
        if fits {
            self.size += by;
        }
        fits
    }

    fn add_runtime(&mut self, host: &str, settings: &RuntimeHost) -> bool {
        if self.bundle.runtime.contains_key(host) {
            return true;
        }
        // quotes, colon and comma
        let fits = self.grow(host.len() + size_of_json(settings) + 4);
        if fits {
            let runtime = &mut self.bundle.runtime;
            runtime.insert(host.to_owned(), settings.clone());
        }
        fits
    }

    fn add_selection(&mut self, selection: Option<(String, BTreeSet<String>)>) -> bool {
        let Some((text, names)) = selection else {
            return true;
        };
        if self.bundle.selections.contains_key(&text) {
            return true;
        }
        let fits = self.grow(size_of_json(&text) + size_of_json(&names) + 2);
        if fits {
            self.bundle.selections.insert(text, names);
        }
        fits
    }

    fn add(
        &mut self,
        registry: &Registry,
        access: Option<BundleAccess>,
        entries: &Entries,
        taken: &BTreeMap<RegistryKey, String>,
        outcome: &mut Outcome,
    ) {
        let mut added = BundleRegistry {
            name: registry.name.clone(),
            priority: registry.priority,
            created: registry.created,
            access,
            entries: Entries::new(),
        };
        let mut overhead = added.written_size();
        let (mut lost, mut winner) = (Vec::new(), None);
        let mut too_large = Vec::new();
        for (key, login) in entries {
            if let Some(holder) = taken.get(key) {
                lost.push(key.clone());
                winner = Some(holder.clone());
            } else if self.grow(overhead + written_size(key, login)) {
                overhead = 0;
                added.entries.insert(key.clone(), login.clone());
            } else {
                too_large.push(key.clone());
            }
        }
        if !added.entries.is_empty() {
            self.bundle.registries.push(added);
        }
        // nobody has the credential of a key that found no room; a lost one is another's
        if !too_large.is_empty() {
            outcome.reason = Reason::TooLarge;
            outcome.left_out = too_large;
        } else if winner.is_some() && outcome.reason == Reason::Available {
            outcome.reason = Reason::LostToPriority;
            outcome.lost_to = winner;
            outcome.left_out = lost;
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker_config::Login;
    use crate::registry::{ClusterAccess, Injection};
    use proptest::prelude::*;
    use rstest::rstest;
    use std::sync::Arc;

    fn registry(name: &str, include: &str, nodes: NodeAccess) -> Arc<Registry> {
        Arc::new(Registry {
            name: name.into(),
            created: 0,
            key: Some(RegistryKey::parse(&format!("{name}.example.com")).unwrap()),
            credential: CredentialKind::Copied,
            clusters: ClusterAccess::default(),
            namespaces: NamespaceAccess {
                include: vec![Glob::new(include)],
                ..NamespaceAccess::default()
            },
            injection: Injection::default(),
            priority: 0,
            nodes,
        })
    }

    fn policy(registries: impl IntoIterator<Item = Arc<Registry>>) -> Policy {
        Policy {
            registries: registries.into_iter().collect(),
            ..Policy::default()
        }
    }

    fn credentials(of: &Policy) -> Credentials {
        let login = Login::new("u".into(), "p".into()).unwrap();
        let entry = |registry: &Arc<Registry>| {
            let entries = Entries::from([(registry.key.clone().unwrap(), login.clone())]);
            (registry.name.clone(), Ok(Arc::new(entries)))
        };
        of.registries.iter().map(entry).collect()
    }

    fn assembled(mode: Mode, policy: &Policy, max_bytes: usize) -> Assembled {
        let sources = Sources {
            policy,
            credentials: &credentials(policy),
            runtime: &BTreeMap::new(),
            selections: &BTreeMap::new(),
        };
        assemble_within(mode, sources, max_bytes)
    }

    fn names(bundle: &Bundle) -> Vec<&str> {
        bundle.registries.iter().map(|r| r.name.as_str()).collect()
    }

    fn text(bundle: &Bundle) -> String {
        String::from_utf8(bundle.write().expose_secret().to_vec()).unwrap()
    }

    #[rstest]
    #[case(Mode::DockerConfig, NodeAccess::Auto, "*", Reason::Available, 1, None)]
    #[case(
        Mode::DockerConfig,
        NodeAccess::Auto,
        "team-*",
        Reason::RestrictedToNamespaces,
        0,
        None
    )]
    #[case(
        Mode::DockerConfig,
        NodeAccess::Allow,
        "team-*",
        Reason::Available,
        1,
        None
    )]
    #[case(
        Mode::DockerConfig,
        NodeAccess::Deny,
        "*",
        Reason::NodesDenied,
        0,
        None
    )]
    #[case(
        Mode::CredentialProvider,
        NodeAccess::Auto,
        "*",
        Reason::Available,
        1,
        Some(0)
    )]
    #[case(
        Mode::CredentialProvider,
        NodeAccess::Auto,
        "team-*",
        Reason::Available,
        0,
        Some(1)
    )]
    #[case(
        Mode::CredentialProvider,
        NodeAccess::Allow,
        "team-*",
        Reason::Available,
        1,
        Some(0)
    )]
    #[case(
        Mode::CredentialProvider,
        NodeAccess::Deny,
        "team-*",
        Reason::NodesDenied,
        0,
        Some(0)
    )]
    fn where_a_credential_goes(
        #[case] mode: Mode,
        #[case] nodes: NodeAccess,
        #[case] include: &str,
        #[case] reason: Reason,
        #[case] node_wide: usize,
        #[case] restricted: Option<usize>,
    ) {
        let policy = policy([registry("acme", include, nodes)]);
        let assembled = assembled(mode, &policy, MAX_SECRET_BYTES);
        assert_eq!(assembled.outcomes[0].reason, reason);
        assert_eq!(assembled.node_wide.registries.len(), node_wide);
        let restricted_count = assembled.restricted.map(|bundle| bundle.registries.len());
        assert_eq!(restricted_count, restricted);
    }

    #[test]
    fn it_is_written_as_it_is_read() {
        let mut with_labels = Registry::clone(&registry("labels", "team-*", NodeAccess::Auto));
        with_labels.namespaces.selector =
            Selector::new([crate::selector::Requirement::Exists("pull".into())]);
        let policy = policy([
            registry("open", "*", NodeAccess::Auto),
            Arc::new(with_labels),
        ]);
        let team = Namespace {
            name: "team-a".into(),
            labels: BTreeMap::from([("pull".into(), String::new())]),
            ..Namespace::default()
        };
        let ca = RuntimeHost {
            ca: Some("PEM".into()),
            ..RuntimeHost::default()
        };
        let sources = Sources {
            policy: &policy,
            credentials: &credentials(&policy),
            runtime: &BTreeMap::from([("open".into(), ca)]),
            selections: &selections(&policy, [&team]),
        };
        let assembled = assemble(Mode::CredentialProvider, sources);
        assert_eq!(
            text(&assembled.node_wide),
            r#"{"version":"v1","generation":0,"registries":[{"name":"open","priority":0,"created":0,"auths":{"open.example.com":{"auth":"dTpw"}}}],"runtime":{"open.example.com":{"ca":"PEM"}}}"#
        );
        let restricted = Bundle {
            generation: 7,
            ..assembled.restricted.unwrap()
        };
        assert_eq!(
            text(&restricted),
            r#"{"version":"v1","generation":7,"registries":[{"name":"labels","priority":0,"created":0,"access":{"include":["team-*"],"selection":"pull"},"auths":{"labels.example.com":{"auth":"dTpw"}}}],"selections":{"pull":["team-a"]},"closedNamespaces":["kube-node-lease","kube-public","kube-system"]}"#
        );
        let read = Bundle::parse(text(&restricted).as_bytes()).unwrap();
        assert_eq!(text(&read), text(&restricted));
        assert!(read.says_the_same_as(&Bundle {
            generation: 8,
            ..restricted
        }));
    }

    #[rstest]
    #[case("", "line 1, column 0")]
    #[case(
        r#"{"version":"v2","generation":1,"registries":[]}"#,
        "of another format"
    )]
    #[case(
        r#"{"version":"v1","generation":1,"registries":[],"more":"CANARY"}"#,
        "line 1"
    )]
    #[case(r#"{"version":"v1","generation":1,"registries":[{"name":"a","priority":0,"created":0,"access":{"include":[],"only":["CANARY"]},"auths":{}}]}"#, "line 1")]
    #[case(r#"{"version":"v1","generation":1,"registries":[{"name":"a","priority":0,"created":0,"auths":{"r":{"auth":"CANARY"}}}]}"#, "registry 1 of the node bundle: entry 1")]
    fn what_this_release_does_not_know_is_refused(#[case] content: &str, #[case] message: &str) {
        let error = Bundle::parse(content.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
        assert!(!error.contains("CANARY"), "{error}");
    }

    #[test]
    fn at_the_bound_the_first_stay_and_the_rest_is_named() {
        let mut first = Registry::clone(&registry("z-first", "*", NodeAccess::Auto));
        first.priority = 1;
        let policy = policy([registry("a", "*", NodeAccess::Auto), Arc::new(first)]);
        let both = text(&assembled(Mode::DockerConfig, &policy, MAX_SECRET_BYTES).node_wide).len();
        let assembled = assembled(Mode::DockerConfig, &policy, both - 1);
        assert_eq!(names(&assembled.node_wide), ["z-first"]);
        assert_eq!(assembled.outcomes[1].reason, Reason::TooLarge);
        let left_out: Vec<_> = assembled.outcomes[1]
            .left_out
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(left_out, ["a.example.com"]);
    }

    #[test]
    fn one_list_serves_all_registries_with_the_same_selector() {
        let labelled = |name: &str| {
            let mut one = Registry::clone(&registry(name, "*", NodeAccess::Auto));
            one.namespaces.selector =
                Selector::new([crate::selector::Requirement::Exists("pull".into())]);
            Arc::new(one)
        };
        let policy = policy([labelled("a"), labelled("b")]);
        assert_eq!(selections(&policy, []).len(), 1);
        // nobody asks for the labels of what every node may hold
        let mut allowed = Registry::clone(&labelled("c"));
        allowed.nodes = NodeAccess::Allow;
        let allowed = Policy {
            registries: vec![Arc::new(allowed)],
            ..Policy::default()
        };
        assert!(selections(&allowed, []).is_empty());
    }

    proptest! {
        #[test]
        fn never_beyond_the_bound(
            hosts in prop::collection::btree_set("[a-z]{1,9}", 1..20),
            wide in any::<bool>(), bound in 300usize..2000,
        ) {
            let include = if wide { "*" } else { "team-*" };
            let policy = policy(hosts.iter().map(|name| registry(name, include, NodeAccess::Auto)));
            let assembled = assembled(Mode::CredentialProvider, &policy, bound);
            let restricted = assembled.restricted.unwrap();
            let mut held = 0;
            for bundle in [&assembled.node_wide, &restricted] {
                let largest = Bundle { generation: u64::MAX, withdrawn: true, ..bundle.clone() };
                prop_assert!(text(&largest).len() <= bound);
                held += bundle.registries.len();
            }
            let available = assembled.outcomes.iter().filter(|o| o.reason == Reason::Available);
            prop_assert_eq!(held, available.count());
        }

        #[test]
        fn no_content_panics(content in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(bundle) = Bundle::parse(&content) {
                prop_assert!(Bundle::parse(bundle.write().expose_secret()).is_ok());
            }
        }
    }
}
