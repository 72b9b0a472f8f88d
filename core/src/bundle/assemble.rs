//! From the policy and the credentials to bundles.

use std::collections::{BTreeMap, BTreeSet};

use secrecy::ExposeSecret as _;

use super::format::size_of_json;
use super::{Bundle, BundleAccess, BundleRegistry, Mode, RuntimeHost};
use crate::docker_config::{Entries, written_size};
use crate::key::RegistryKey;
use crate::policy::{Namespace, Policy, refused_cluster};
use crate::reason::Reason;
use crate::registry::{CredentialKind, NodeAccess, Registry};
use crate::render::{Credentials, MAX_SECRET_BYTES, Outcome};
use crate::selector::Selector;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker_config::Login;
    use crate::glob::Glob;
    use crate::registry::{ClusterAccess, Injection, NamespaceAccess};
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
    }
}
