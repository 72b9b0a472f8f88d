//! Who may use which registry. Nothing else in Pullpass evaluates access.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::glob::Glob;
use crate::reason::Reason;
use crate::registry::{ClusterAccess, CredentialKind, Injection, NamespaceAccess, Registry};
use crate::selector::Labels;

/// The label by which a namespace or a pod declines: any value but `false` means nothing.
pub const INJECT_LABEL: &str = "pullpass.dev/inject";

/// Namespaces of Kubernetes itself. Their names cannot be forged, since `kube-` is theirs by convention and they exist
/// before any tenant does.
pub const KUBERNETES_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// What the whole cluster's decisions rest on.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// This cluster's name, where an administrator has given it one.
    pub cluster_name: Option<String>,
    /// Namespaces of Pullpass itself, which are treated like those of Kubernetes.
    pub own_namespaces: BTreeSet<String>,
    /// System namespaces that an administrator has named, each exactly.
    pub admitted_system_namespaces: BTreeSet<String>,
    /// All valid registries, in any order.
    pub registries: Vec<Arc<Registry>>,
}

/// A namespace, as far as decisions need it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Whether it is being deleted.
    pub terminating: bool,
}

/// What a namespace may use, and why not the rest.
#[derive(Clone, Debug, Default)]
pub struct Grant {
    /// Registries whose credential the namespace may have: higher priority first, then older, then by name. Where two
    /// claim one key, the first with a usable credential has it.
    pub granted: Vec<Arc<Registry>>,
    /// The other registries, by name, each with its reason.
    pub refused: Vec<(Arc<str>, Reason)>,
    /// Why the namespace as a whole gets nothing, where that is so.
    pub nothing_because: Option<Reason>,
}

impl Grant {
    /// Whether no registry may be used.
    pub fn is_empty(&self) -> bool {
        self.granted.is_empty()
    }

    /// Whether a decision on a pod of the namespace depends on its images.
    pub fn asks_for_images(&self) -> bool {
        self.granted
            .iter()
            .any(|registry| registry.injection == Injection::WhenImageMatches)
    }

    fn put_in_order(&mut self) {
        self.granted.sort_by(|a, b| {
            (b.priority, a.created, &a.name).cmp(&(a.priority, b.created, &b.name))
        });
        self.refused.sort();
    }

    /// Why there is nothing in the grant, or [`Reason::Granted`].
    pub fn reason(&self) -> Reason {
        match self.nothing_because {
            Some(reason) => reason,
            None if self.granted.is_empty() => Reason::NothingGranted,
            None => Reason::Granted,
        }
    }
}

/// Whether a label set declines what Pullpass would do.
pub fn declines(labels: &Labels) -> bool {
    labels
        .get(INJECT_LABEL)
        .is_some_and(|value| value == "false")
}

impl Policy {
    /// System namespaces that no administrator has named, so that no Registry selects them.
    pub fn closed_namespaces(&self) -> BTreeSet<&str> {
        KUBERNETES_NAMESPACES
            .into_iter()
            .chain(self.own_namespaces.iter().map(String::as_str))
            .filter(|name| self.is_closed(name))
            .collect()
    }

    fn is_closed(&self, name: &str) -> bool {
        (KUBERNETES_NAMESPACES.contains(&name) || self.own_namespaces.contains(name))
            && !self.admitted_system_namespaces.contains(name)
    }
}

/// Evaluates every registry for one namespace.
pub fn grant(namespace: &Namespace, policy: &Policy) -> Grant {
    let closed = closed_to_all(namespace, policy);
    let mut grant = Grant {
        nothing_because: closed,
        ..Grant::default()
    };
    for registry in &policy.registries {
        match closed.or_else(|| refusal(namespace, policy.cluster_name.as_deref(), registry)) {
            None => grant.granted.push(Arc::clone(registry)),
            Some(reason) => grant.refused.push((registry.name.as_str().into(), reason)),
        }
    }
    grant.put_in_order();
    grant
}

/// Evaluates every registry for the docker config in Pullpass's own namespace, which installers and builders log in
/// with: whatever this cluster may use, since the sources of all registries are in that namespace anyway. It selects
/// no namespace, so no pod is given anything by it.
pub fn own_grant(policy: &Policy) -> Grant {
    let mut grant = Grant::default();
    for registry in &policy.registries {
        match refused_here(policy.cluster_name.as_deref(), registry) {
            None => grant.granted.push(Arc::clone(registry)),
            Some(reason) => grant.refused.push((registry.name.as_str().into(), reason)),
        }
    }
    grant.put_in_order();
    grant
}

/// Why no registry may be used in this namespace, whatever it says.
fn closed_to_all(namespace: &Namespace, policy: &Policy) -> Option<Reason> {
    let name = namespace.name.as_str();
    if policy.is_closed(name) {
        return Some(Reason::SystemNamespace);
    }
    if namespace.terminating {
        return Some(Reason::NamespaceTerminating);
    }
    declines(&namespace.labels).then_some(Reason::NamespaceOptedOut)
}

fn refusal(namespace: &Namespace, cluster: Option<&str>, registry: &Registry) -> Option<Reason> {
    refused_here(cluster, registry).or_else(|| refused_namespace(namespace, &registry.namespaces))
}

/// Why a registry may not be used anywhere in this cluster.
fn refused_here(cluster: Option<&str>, registry: &Registry) -> Option<Reason> {
    if registry.credential == CredentialKind::None {
        return Some(Reason::PublicRegistry);
    }
    refused_cluster(cluster, &registry.clusters)
}

/// Why this cluster may not use a registry with such access, or `None` where it may.
pub fn refused_cluster(cluster: Option<&str>, access: &ClusterAccess) -> Option<Reason> {
    if access.is_unrestricted() {
        return None;
    }
    let Some(cluster) = cluster else {
        return Some(Reason::ClusterNameUnset);
    };
    if any_matches(&access.do_not_inject, cluster) {
        return Some(Reason::ClusterExcluded);
    }
    (!any_matches(&access.auto_inject, cluster)).then_some(Reason::ClusterNotSelected)
}

fn refused_namespace(namespace: &Namespace, access: &NamespaceAccess) -> Option<Reason> {
    if any_matches(&access.exclude, &namespace.name) {
        return Some(Reason::NamespaceExcluded);
    }
    if !any_matches(&access.include, &namespace.name) {
        return Some(Reason::NamespaceNotIncluded);
    }
    (!access.selector.matches(&namespace.labels)).then_some(Reason::LabelsNotSelected)
}

fn any_matches(globs: &[Glob], name: &str) -> bool {
    globs.iter().any(|glob| glob.matches(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::RegistryKey;
    use crate::registry::NodeAccess;
    use crate::selector::{Requirement, Selector};
    use proptest::prelude::*;
    use rstest::rstest;

    fn globs(of: &[&str]) -> Vec<Glob> {
        of.iter().map(|&g| Glob::new(g)).collect()
    }

    fn registry(name: &str) -> Registry {
        Registry {
            name: name.into(),
            created: 0,
            key: Some(RegistryKey::parse("registry.example.com").unwrap()),
            credential: CredentialKind::Copied,
            clusters: ClusterAccess::default(),
            namespaces: NamespaceAccess {
                include: globs(&["*"]),
                ..NamespaceAccess::default()
            },
            injection: Injection::default(),
            priority: 0,
            nodes: NodeAccess::default(),
        }
    }

    fn policy(registries: impl IntoIterator<Item = Registry>) -> Policy {
        Policy {
            own_namespaces: BTreeSet::from(["pullpass-system".into()]),
            registries: registries.into_iter().map(Arc::new).collect(),
            ..Policy::default()
        }
    }

    fn namespace(name: &str) -> Namespace {
        Namespace {
            name: name.into(),
            ..Namespace::default()
        }
    }

    fn labelled(name: &str, key: &str, value: &str) -> Namespace {
        Namespace {
            labels: Labels::from([(key.into(), value.into())]),
            ..namespace(name)
        }
    }

    /// The reason for the one registry of `policy`.
    fn reason(namespace: &Namespace, policy: &Policy) -> Reason {
        let grant = grant(namespace, policy);
        grant
            .refused
            .first()
            .map_or(Reason::Granted, |(_, reason)| *reason)
    }

    #[rstest]
    #[case(&["*"], &[], Reason::Granted)]
    #[case(&[], &[], Reason::NamespaceNotIncluded)]
    #[case(&["team-*"], &[], Reason::Granted)]
    #[case(&["other"], &[], Reason::NamespaceNotIncluded)]
    #[case(&["*"], &["team-a"], Reason::NamespaceExcluded)]
    #[case(&["team-a"], &["team-*"], Reason::NamespaceExcluded)]
    fn exclude_wins_over_include(
        #[case] include: &[&str],
        #[case] exclude: &[&str],
        #[case] expected: Reason,
    ) {
        let mut one = registry("acme");
        one.namespaces.include = globs(include);
        one.namespaces.exclude = globs(exclude);
        assert_eq!(reason(&namespace("team-a"), &policy([one])), expected);
    }

    #[test]
    fn a_selector_narrows_and_never_widens() {
        let mut one = registry("acme");
        one.namespaces.include = globs(&["team-*"]);
        one.namespaces.selector = Selector::new([Requirement::Exists("pull".into())]);
        let policy = policy([one]);
        assert_eq!(
            reason(&labelled("team-a", "pull", ""), &policy),
            Reason::Granted
        );
        assert_eq!(
            reason(&namespace("team-a"), &policy),
            Reason::LabelsNotSelected
        );
        assert_eq!(
            reason(&labelled("other", "pull", ""), &policy),
            Reason::NamespaceNotIncluded
        );
    }

    #[rstest]
    #[case(None, &["*"], &[], Reason::Granted)]
    #[case(None, &["prod-*"], &[], Reason::ClusterNameUnset)]
    #[case(None, &["*"], &["dev"], Reason::ClusterNameUnset)]
    #[case(None, &[], &[], Reason::ClusterNameUnset)]
    #[case(Some("prod-eu"), &["prod-*"], &[], Reason::Granted)]
    #[case(Some("dev"), &["prod-*"], &[], Reason::ClusterNotSelected)]
    #[case(Some("prod-eu"), &["*"], &["prod-*"], Reason::ClusterExcluded)]
    #[case(Some("prod-eu"), &["prod-eu"], &["prod-eu"], Reason::ClusterExcluded)]
    fn clusters_are_chosen_by_name(
        #[case] cluster: Option<&str>,
        #[case] auto_inject: &[&str],
        #[case] do_not_inject: &[&str],
        #[case] expected: Reason,
    ) {
        let mut one = registry("acme");
        one.clusters = ClusterAccess {
            auto_inject: globs(auto_inject),
            do_not_inject: globs(do_not_inject),
        };
        let policy = Policy {
            cluster_name: cluster.map(Into::into),
            ..policy([one])
        };
        assert_eq!(reason(&namespace("team-a"), &policy), expected);
    }

    #[rstest]
    #[case("kube-system")]
    #[case("pullpass-system")]
    fn system_namespaces_are_selected_only_when_named(#[case] name: &str) {
        let mut policy = policy([registry("acme")]);
        assert_eq!(reason(&namespace(name), &policy), Reason::SystemNamespace);
        policy.admitted_system_namespaces.insert(name.into());
        assert_eq!(reason(&namespace(name), &policy), Reason::Granted);
    }

    #[rstest]
    #[case("false", Reason::NamespaceOptedOut)]
    #[case("true", Reason::Granted)]
    #[case("", Reason::Granted)]
    fn a_namespace_can_decline(#[case] value: &str, #[case] expected: Reason) {
        let policy = policy([registry("acme")]);
        assert_eq!(
            reason(&labelled("team-a", INJECT_LABEL, value), &policy),
            expected
        );
    }

    #[rstest]
    #[case(CredentialKind::None, Reason::PublicRegistry)]
    #[case(CredentialKind::Copied, Reason::Granted)]
    #[case(CredentialKind::HeldByNamespace { pull_secret: "regcred".into() }, Reason::Granted)]
    fn a_registry_with_a_credential_is_granted(
        #[case] credential: CredentialKind,
        #[case] expected: Reason,
    ) {
        let mut one = registry("acme");
        one.credential = credential;
        assert_eq!(reason(&namespace("team-a"), &policy([one])), expected);
    }

    #[test]
    fn images_matter_only_to_a_granted_registry_that_asks_for_them() {
        let always = registry("always");
        let mut asking = registry("asking");
        asking.injection = Injection::WhenImageMatches;
        asking.namespaces.include = globs(&["team-b"]);
        let policy = policy([always, asking]);
        assert!(!grant(&namespace("team-a"), &policy).asks_for_images());
        assert!(grant(&namespace("team-b"), &policy).asks_for_images());
    }

    #[test]
    fn a_namespace_that_goes_gets_nothing() {
        let going = Namespace {
            terminating: true,
            ..namespace("team-a")
        };
        assert_eq!(
            reason(&going, &policy([registry("acme")])),
            Reason::NamespaceTerminating
        );
    }

    #[test]
    fn order_is_priority_then_age_then_name() {
        let mut high = registry("z-high");
        high.priority = 1;
        high.created = 9;
        let mut old = registry("y-old");
        old.created = 1;
        let mut young_a = registry("a-young");
        young_a.created = 2;
        let mut young_b = registry("b-young");
        young_b.created = 2;
        let grant = grant(&namespace("team-a"), &policy([young_b, old, young_a, high]));
        let names: Vec<_> = grant.granted.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names, ["z-high", "y-old", "a-young", "b-young"]);
    }

    #[test]
    fn the_own_docker_config_obeys_the_cluster_and_no_namespace_rule() {
        let mut elsewhere = registry("elsewhere");
        elsewhere.clusters.auto_inject = globs(&["prod-*"]);
        let mut public = registry("public");
        public.credential = CredentialKind::None;
        let mut narrow = registry("narrow");
        narrow.namespaces.include = Vec::new();
        narrow.priority = 1;
        let policy = Policy {
            cluster_name: Some("dev".into()),
            ..policy([registry("wide"), elsewhere, public, narrow])
        };
        let own = own_grant(&policy);
        let names: Vec<_> = own.granted.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names, ["narrow", "wide"]);
        assert_eq!(
            own.refused,
            [
                ("elsewhere".into(), Reason::ClusterNotSelected),
                ("public".into(), Reason::PublicRegistry)
            ]
        );
        // and opens that namespace to no pod
        assert!(grant(&namespace("pullpass-system"), &policy).is_empty());
    }

    proptest! {
        /// Whatever a namespace's owner writes on it, no name or label of theirs opens what `include` does not name.
        #[test]
        fn labels_never_open_a_namespace_that_is_not_included(
            labels in prop::collection::btree_map("[a-z./]{0,12}", "[a-z]{0,5}", 0..5),
            name in "[a-z-]{1,12}",
        ) {
            prop_assume!(name != "team-a");
            let mut one = registry("acme");
            one.namespaces.include = globs(&["team-a"]);
            let tenant = Namespace { name, labels, terminating: false };
            prop_assert!(grant(&tenant, &policy([one])).is_empty());
        }

        /// Every registry is answered for exactly once.
        #[test]
        fn the_answer_is_complete(count in 0usize..6, declined in any::<bool>()) {
            let policy = policy((0..count).map(|n| registry(&format!("r{n}"))));
            let tenant = labelled("team-a", INJECT_LABEL, if declined { "false" } else { "true" });
            let grant = grant(&tenant, &policy);
            prop_assert_eq!(grant.granted.len() + grant.refused.len(), count);
            prop_assert_eq!(grant.is_empty(), declined || count == 0);
        }
    }
}
