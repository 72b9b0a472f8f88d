//! What a node answers kubelet: the credentials for an image, for pods of one namespace.

use std::collections::BTreeMap;

use crate::bundle::{Bundle, BundleRegistry};
use crate::docker_config::Login;
use crate::image::Repository;
use crate::key::RegistryKey;
use crate::matching::keys_for;

/// What a pod of the namespace may use, by key; without a namespace, what every pod of the node may use.
///
/// Of two registries with one key the one with the higher priority has it, then the older, then the one whose name comes
/// first, from whichever bundle.
pub fn entitled<'a>(
    bundles: impl IntoIterator<Item = &'a Bundle>,
    namespace: Option<&str>,
) -> BTreeMap<&'a RegistryKey, &'a Login> {
    let mut admitted: Vec<&BundleRegistry> = Vec::new();
    for bundle in bundles {
        let admits = |registry: &&BundleRegistry| match (&registry.access, namespace) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(access), Some(namespace)) => access.admits(namespace, bundle),
        };
        if !bundle.withdrawn {
            admitted.extend(bundle.registries.iter().filter(admits));
        }
    }
    admitted
        .sort_by(|a, b| (b.priority, a.created, &a.name).cmp(&(a.priority, b.created, &b.name)));
    let mut entitled = BTreeMap::new();
    for registry in admitted {
        for (key, login) in &registry.entries {
            entitled.entry(key).or_insert(login);
        }
    }
    entitled
}

/// The credentials for an image, in the order in which kubelet tries them.
pub fn lookup<'a>(
    image: &Repository,
    bundles: impl IntoIterator<Item = &'a Bundle>,
    namespace: Option<&str>,
) -> Vec<(&'a RegistryKey, &'a Login)> {
    let entitled = entitled(bundles, namespace);
    keys_for(image, entitled.keys().copied())
        .into_iter()
        .filter_map(|key| Some((key, *entitled.get(key)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{Mode, Sources, assemble, selections};
    use crate::docker_config::{self, Entries};
    use crate::glob::Glob;
    use crate::policy::{Namespace, Policy, grant};
    use crate::registry::{
        ClusterAccess, CredentialKind, Injection, NamespaceAccess, NodeAccess, Registry,
    };
    use crate::render::{Credentials, render};
    use crate::selector::{Labels, Requirement, Selector};
    use proptest::prelude::*;
    use secrecy::ExposeSecret as _;
    use std::collections::BTreeSet;
    use std::sync::Arc;

    fn any_selector() -> impl Strategy<Value = Selector> {
        let requirement = prop_oneof![
            Just(Requirement::Exists("team".into())),
            Just(Requirement::In("team".into(), BTreeSet::from(["a".into()]))),
            Just(Requirement::NotIn(
                "team".into(),
                BTreeSet::from(["a".into()])
            )),
        ];
        prop_oneof![
            3 => Just(Selector::default()),
            1 => prop::collection::vec(requirement, 1..3).prop_map(Selector::new),
        ]
    }

    fn any_globs(most: usize) -> impl Strategy<Value = Vec<Glob>> {
        let glob = prop_oneof![
            Just("*"),
            Just("team-*"),
            Just("team-a"),
            Just("*-b"),
            Just("kube-*")
        ];
        prop::collection::vec(glob.prop_map(Glob::new), 0..most)
    }

    fn any_registry() -> impl Strategy<Value = (Registry, Entries)> {
        let key = prop_oneof![
            Just("r.example.com"),
            Just("r.example.com/team"),
            Just("*.example.com"),
            Just("docker.io"),
            Just("https://index.docker.io/v1/"),
        ];
        let access = (any_globs(3), any_globs(2), any_selector()).prop_map(
            |(include, exclude, selector)| NamespaceAccess {
                include,
                exclude,
                selector,
            },
        );
        let nodes = prop_oneof![
            4 => Just(NodeAccess::Auto),
            1 => Just(NodeAccess::Allow),
            1 => Just(NodeAccess::Deny)
        ];
        let clusters = prop_oneof![
            4 => Just(ClusterAccess::default()),
            1 => Just(ClusterAccess { auto_inject: vec![Glob::new("prod")], do_not_inject: Vec::new() }),
        ];
        (
            prop::collection::btree_set(key, 1..4),
            access,
            nodes,
            clusters,
            -1i32..2,
            0i64..2,
        )
            .prop_map(|(keys, namespaces, nodes, clusters, priority, created)| {
                let registry = Registry {
                    name: String::new(),
                    created,
                    key: None,
                    credential: CredentialKind::Copied,
                    clusters,
                    namespaces,
                    injection: Injection::default(),
                    priority,
                    nodes,
                };
                let login = Login::new("u".into(), "p".into()).unwrap();
                let entry = |key: &str| (RegistryKey::parse(key).unwrap(), login.clone());
                (registry, keys.into_iter().map(entry).collect())
            })
    }

    /// Registries, each with a password of its own for each of its keys, so that it shows whose is found.
    fn any_world() -> impl Strategy<Value = (Policy, Credentials)> {
        prop::collection::vec(any_registry(), 0..6).prop_map(|drawn| {
            let mut policy = Policy {
                cluster_name: Some("dev".into()),
                own_namespaces: BTreeSet::from(["pullpass-system".into()]),
                ..Policy::default()
            };
            let mut credentials = Credentials::new();
            for (index, (mut registry, entries)) in drawn.into_iter().enumerate() {
                registry.name = format!("r{index}");
                let login = Login::new("u".into(), registry.name.as_str().into()).unwrap();
                let entries: Entries = entries
                    .into_keys()
                    .map(|key| (key, login.clone()))
                    .collect();
                credentials.insert(registry.name.clone(), Ok(Arc::new(entries)));
                policy.registries.push(Arc::new(registry));
            }
            (policy, credentials)
        })
    }

    fn any_namespace() -> impl Strategy<Value = Namespace> {
        let name = prop_oneof![
            Just("team-a"),
            Just("team-b"),
            Just("other"),
            Just("kube-system"),
            Just("kube-prod")
        ];
        let labels = prop_oneof![
            Just(Labels::new()),
            Just(Labels::from([("team".into(), "a".into())])),
            Just(Labels::from([("team".into(), "b".into())])),
        ];
        (name, labels).prop_map(|(name, labels)| Namespace {
            name: name.into(),
            labels,
            terminating: false,
        })
    }

    /// One namespace of each name.
    fn any_namespaces() -> impl Strategy<Value = Vec<Namespace>> {
        prop::collection::vec(any_namespace(), 1..6).prop_map(|mut all| {
            all.sort_by(|a, b| a.name.cmp(&b.name));
            all.dedup_by(|a, b| a.name == b.name);
            all
        })
    }

    fn bundles(
        mode: Mode,
        policy: &Policy,
        credentials: &Credentials,
        namespaces: &[Namespace],
    ) -> Vec<Bundle> {
        let assembled = assemble(
            mode,
            Sources {
                policy,
                credentials,
                runtime: &BTreeMap::new(),
                selections: &selections(policy, namespaces),
            },
        );
        std::iter::once(assembled.node_wide)
            .chain(assembled.restricted)
            // what a node reads, not what the controller has in memory
            .map(|bundle| Bundle::parse(bundle.write().expose_secret()).unwrap())
            .collect()
    }

    /// What `access.nodes` makes of a policy.
    fn as_nodes_see_it(policy: &Policy) -> Policy {
        let seen = policy
            .registries
            .iter()
            .filter(|registry| registry.nodes != NodeAccess::Deny);
        Policy {
            registries: seen
                .map(|registry| match registry.nodes {
                    NodeAccess::Allow => Arc::new(Registry {
                        namespaces: NamespaceAccess {
                            include: vec![Glob::new("*")],
                            ..NamespaceAccess::default()
                        },
                        ..Registry::clone(registry)
                    }),
                    NodeAccess::Auto | NodeAccess::Deny => Arc::clone(registry),
                })
                .collect(),
            ..policy.clone()
        }
    }

    fn text<'a>(
        found: impl IntoIterator<Item = (&'a RegistryKey, &'a Login)>,
    ) -> Vec<(String, String)> {
        let found = found.into_iter();
        found
            .map(|(key, login)| (key.to_string(), login.password().expose_secret().into()))
            .collect()
    }

    const IMAGES: [&str; 4] = [
        "r.example.com/team/app",
        "r.example.com/app",
        "x.example.com/app",
        "nginx",
    ];

    proptest! {
        /// A namespace's pods find on a node what they would find in the namespace's pull secret.
        #[test]
        fn nodes_obey_the_policy_of_pull_secrets(
            (policy, credentials) in any_world(), namespaces in any_namespaces(),
        ) {
            let bundles = bundles(Mode::CredentialProvider, &policy, &credentials, &namespaces);
            for namespace in namespaces.iter().filter(|n| n.name != "kube-system") {
                let grant = grant(namespace, &as_nodes_see_it(&policy));
                let secret = render(&grant, &credentials).docker_config;
                let entries = secret.map_or_else(Entries::new, |secret| {
                    docker_config::parse(secret.expose_secret()).unwrap()
                });
                for image in IMAGES.map(|image| Repository::parse(image).unwrap()) {
                    let by_secret = keys_for(&image, entries.keys());
                    let by_secret = text(by_secret.into_iter().map(|key| (key, &entries[key])));
                    let by_node = text(lookup(&image, &bundles, Some(&namespace.name)));
                    prop_assert_eq!(by_node, by_secret, "{} in {:?}", image, namespace);
                }
            }
        }

        /// A pod of a system namespace, and one that brings no token, find what every pod of a node finds in mode
        /// `dockerConfig`, and no more.
        #[test]
        fn without_a_namespace_of_its_own_a_pod_finds_what_is_node_wide(
            (policy, credentials) in any_world(), namespaces in any_namespaces(),
        ) {
            let wide = bundles(Mode::DockerConfig, &policy, &credentials, &namespaces);
            prop_assert_eq!(wide.len(), 1);
            let node_wide = text(entitled(&wide, None));
            prop_assert_eq!(&node_wide, &text(entitled(&wide, Some("anything"))));
            let both = bundles(Mode::CredentialProvider, &policy, &credentials, &namespaces);
            prop_assert_eq!(&node_wide, &text(entitled(&both, None)));
            prop_assert_eq!(&node_wide, &text(entitled(&both, Some("kube-system"))));
            for registry in &policy.registries {
                let open = registry.nodes == NodeAccess::Allow
                    || (registry.nodes == NodeAccess::Auto && registry.namespaces.is_unrestricted());
                let found = node_wide.iter().any(|(_, password)| *password == registry.name);
                prop_assert!(!found || open, "{registry:?}");
            }
        }

        /// A namespace that comes, goes or is labelled changes only the lists of selectors, and none where there are none.
        #[test]
        fn namespaces_do_not_change_the_bundle(
            (policy, credentials) in any_world(), some in any_namespaces(), others in any_namespaces(),
        ) {
            let before = bundles(Mode::CredentialProvider, &policy, &credentials, &some);
            let after = bundles(Mode::CredentialProvider, &policy, &credentials, &others);
            for (before, mut after) in before.iter().zip(after) {
                prop_assert!(before.selections.keys().eq(after.selections.keys()));
                after.selections.clone_from(&before.selections);
                prop_assert!(before.says_the_same_as(&after));
            }
        }

        /// A withdrawn bundle gives nobody anything.
        #[test]
        fn what_is_withdrawn_is_given_to_nobody((policy, credentials) in any_world()) {
            let mut bundles = bundles(Mode::CredentialProvider, &policy, &credentials, &[]);
            for bundle in &mut bundles {
                bundle.withdrawn = true;
            }
            prop_assert!(entitled(&bundles, Some("team-a")).is_empty());
        }
    }
}
