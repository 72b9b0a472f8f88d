//! What every namespace is judged by: one immutable state of registries and credentials.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use pullpass_api::pull_access::{RegistryAccess, RegistryState};
use pullpass_core::policy::{Grant, Namespace, Policy, grant, own_grant};
use pullpass_core::reason::Reason;
use pullpass_core::render::{Credentials, Outcome, render};
use secrecy::{ExposeSecret as _, SecretSlice};

use crate::observed::{AccessContent, Copy, Digest, digest};
use crate::plan::{Desired, REVOKED};

/// How many bytes of rendered docker configs are kept at a time. Most clusters have a handful of different ones, a few
/// kilobytes each.
const RENDERED_BYTES: usize = 4 * 1024 * 1024;

/// What namespaces with the same registries get.
#[derive(Debug)]
pub(crate) struct Rendered {
    /// The docker config, and its digest; the reason where there is nothing to put into it.
    pub(crate) content: Result<(Arc<SecretSlice<u8>>, Digest), Reason>,
    /// What became of each registry.
    pub(crate) outcomes: Arc<[Outcome]>,
    /// The same, for the PullAccess.
    pub(crate) registries: Arc<[RegistryAccess]>,
    /// What became of each registry in the docker config for installers, where it is that.
    pub(crate) installers: Arc<[Outcome]>,
}

impl Rendered {
    fn digest(&self) -> Result<Digest, Reason> {
        match &self.content {
            Ok((_, digest)) => Ok(*digest),
            Err(reason) => Err(*reason),
        }
    }
}

/// Registries of which something is not known that once was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Uncertain {
    /// They contradict themselves, so that it is not known whom they select.
    pub(crate) unreadable: BTreeSet<String>,
    /// Their last good credential is not there, and whether there is another has to be found out.
    pub(crate) lost: BTreeSet<String>,
}

/// Registries and credentials at one moment.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// Counts up with every change.
    pub(crate) revision: u64,
    /// Who may use what.
    pub(crate) policy: Policy,
    /// The last good credentials.
    pub(crate) credentials: Credentials,
    /// What namespaces have of these is not taken away for now.
    pub(crate) uncertain: Uncertain,
    rendered: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    /// By the granted registries, in order.
    by_grant: HashMap<Vec<String>, Arc<Rendered>>,
    bytes: usize,
}

impl Rules {
    /// New rules, with nothing rendered yet.
    pub(crate) fn new(
        revision: u64,
        policy: Policy,
        credentials: Credentials,
        uncertain: Uncertain,
    ) -> Self {
        Self {
            revision,
            policy,
            credentials,
            uncertain,
            rendered: Mutex::default(),
        }
    }

    /// Whether namespaces are judged alike by these and others.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.policy.registries == other.policy.registries
            && self.uncertain == other.uncertain
            && self.credentials.keys().eq(other.credentials.keys())
            && self
                .credentials
                .values()
                .zip(other.credentials.values())
                .all(|pair| match pair {
                    (Ok(this), Ok(other)) => Arc::ptr_eq(this, other),
                    (Err(this), Err(other)) => this == other,
                    (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
                })
    }

    /// What a namespace should have, given its Secret and what its PullAccess says at present; with what it was rendered
    /// from, where anything is granted.
    pub(crate) fn desired(
        &self,
        namespace: &Namespace,
        copy: Option<&Copy>,
        told: Option<&AccessContent>,
    ) -> (Desired, Option<Arc<Rendered>>) {
        if namespace.terminating {
            return (Desired::Abandon, None);
        }
        let grant = grant(namespace, &self.policy);
        if self.policy.own_namespaces.contains(&namespace.name) {
            return self.desired_at_home(&grant, copy);
        }
        if told.is_some_and(|told| self.has_to_hold(&grant, told)) {
            return (Desired::Hold, None);
        }
        if grant.is_empty() {
            return (Desired::Nothing, None);
        }
        let rendered = self.render(&grant);
        let desired = Desired::Delivery {
            content: rendered.digest(),
            registries: Arc::clone(&rendered.registries),
        };
        (desired, Some(rendered))
    }

    /// What Pullpass's own namespace should have: the docker config for installers and builders. It is the same whether
    /// Registries select that namespace for its pods too, since there is one Secret of the name, and it holds at least
    /// what they give; `selecting` only decides on the PullAccess, and which registries that speaks of.
    fn desired_at_home(
        &self,
        selecting: &Grant,
        copy: Option<&Copy>,
    ) -> (Desired, Option<Arc<Rendered>>) {
        // no PullAccess tells whether the Secret has something of an uncertain registry
        let is_filled = copy.is_some_and(|copy| {
            copy.ours && !copy.terminating && copy.digest.is_some_and(|digest| digest != *REVOKED)
        });
        if is_filled && self.uncertain != Uncertain::default() {
            return (Desired::Hold, None);
        }
        let all = self.render(&own_grant(&self.policy));
        let selects = |name: &str| selecting.granted.iter().any(|r| r.name == name);
        let rendered = Arc::new(Rendered {
            content: all.content.clone(),
            outcomes: all
                .outcomes
                .iter()
                .filter(|outcome| selects(&outcome.registry))
                .cloned()
                .collect(),
            registries: all
                .registries
                .iter()
                .filter(|registry| selects(&registry.name))
                .cloned()
                .collect(),
            installers: Arc::clone(&all.outcomes),
        });
        let desired = match (rendered.digest(), selecting.is_empty()) {
            (Ok(digest), true) => Desired::Installers(digest),
            (Err(_), true) => Desired::Nothing,
            (content, false) => Desired::Delivery {
                content,
                registries: Arc::clone(&rendered.registries),
            },
        };
        (desired, Some(rendered))
    }

    /// Whether the namespace has something of an uncertain registry, and nothing that is certainly not due to it.
    fn has_to_hold(&self, grant: &Grant, told: &AccessContent) -> bool {
        let Uncertain { unreadable, lost } = &self.uncertain;
        let is_granted = |name: &str| grant.granted.iter().any(|registry| registry.name == name);
        let has = || {
            told.registries
                .iter()
                .filter(|registry| registry.state == RegistryState::Available)
                .map(|registry| registry.name.as_str())
        };
        grant.nothing_because.is_none()
            && has().any(|name| unreadable.contains(name) || lost.contains(name))
            && has().all(|name| unreadable.contains(name) || is_granted(name))
    }

    fn render(&self, grant: &Grant) -> Arc<Rendered> {
        let names: Vec<String> = grant.granted.iter().map(|r| r.name.clone()).collect();
        // an entry is put in whole or not at all
        let mut cache = self.rendered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = cache.by_grant.get(&names) {
            return Arc::clone(known);
        }
        let rendered = render(grant, &self.credentials);
        let hosts: BTreeMap<&str, Option<String>> = grant
            .granted
            .iter()
            .map(|r| (r.name.as_str(), r.key.as_ref().map(ToString::to_string)))
            .collect();
        let registries = rendered
            .outcomes
            .iter()
            .map(|outcome| access(outcome, &hosts))
            .collect();
        let content = match rendered.docker_config {
            Some(content) => {
                let digest = digest(content.expose_secret());
                Ok((Arc::new(content), digest))
            }
            None => Err(why_empty(&rendered.outcomes)),
        };
        let rendered = Arc::new(Rendered {
            content,
            outcomes: rendered.outcomes.into(),
            registries,
            installers: Arc::new([]),
        });
        let size = rendered
            .content
            .as_ref()
            .map_or(0, |(content, _)| content.expose_secret().len());
        if cache.bytes + size <= RENDERED_BYTES {
            cache.bytes += size;
            cache.by_grant.insert(names, Arc::clone(&rendered));
        }
        rendered
    }
}

/// The first thing that is wrong, or else that nothing is to be copied.
fn why_empty(outcomes: &[Outcome]) -> Reason {
    let mut reasons = outcomes.iter().map(|outcome| outcome.reason);
    reasons
        .find(|reason| *reason != Reason::HeldByNamespace)
        .unwrap_or(Reason::HeldByNamespace)
}

fn access(outcome: &Outcome, hosts: &BTreeMap<&str, Option<String>>) -> RegistryAccess {
    RegistryAccess {
        name: outcome.registry.clone(),
        host: hosts
            .get(outcome.registry.as_str())
            .cloned()
            .unwrap_or_default(),
        state: if outcome.reason == Reason::Available {
            RegistryState::Available
        } else {
            RegistryState::Unavailable
        },
        reason: outcome.reason.as_str().to_owned(),
        lost_to: outcome.lost_to.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pullpass_api::pull_access::{SecretAccess, SecretState};
    use pullpass_core::docker_config::{Entries, Login};
    use pullpass_core::glob::Glob;
    use pullpass_core::key::RegistryKey;
    use pullpass_core::registry::{
        ClusterAccess, CredentialKind, Injection, NamespaceAccess, NodeAccess, Registry,
    };

    fn registry(name: &str, include: &str) -> Arc<Registry> {
        Arc::new(Registry {
            name: name.into(),
            created: 0,
            key: Some(RegistryKey::parse("r.example.com").unwrap()),
            credential: CredentialKind::Copied,
            clusters: ClusterAccess::default(),
            injection: Injection::default(),
            namespaces: NamespaceAccess {
                include: vec![Glob::new(include)],
                ..NamespaceAccess::default()
            },
            priority: 0,
            nodes: NodeAccess::default(),
        })
    }

    fn good() -> Result<Arc<Entries>, Reason> {
        let login = Login::new("u".into(), "p".into()).unwrap();
        Ok(Arc::new(Entries::from([(
            RegistryKey::parse("r.example.com").unwrap(),
            login,
        )])))
    }

    fn rules(
        registries: Vec<Arc<Registry>>,
        credentials: Credentials,
        uncertain: Uncertain,
    ) -> Rules {
        Rules::new(
            1,
            Policy {
                registries,
                ..Policy::default()
            },
            credentials,
            uncertain,
        )
    }

    fn lost(name: &str) -> Uncertain {
        Uncertain {
            lost: BTreeSet::from([name.to_owned()]),
            ..Uncertain::default()
        }
    }

    fn team_a() -> Namespace {
        Namespace {
            name: "team-a".into(),
            ..Namespace::default()
        }
    }

    fn at_home(registries: Vec<Arc<Registry>>, credentials: Credentials) -> Rules {
        let policy = Policy {
            own_namespaces: BTreeSet::from(["pullpass-system".to_owned()]),
            admitted_system_namespaces: BTreeSet::from(["admitted".to_owned()]),
            registries,
            ..Policy::default()
        };
        Rules::new(1, policy, credentials, Uncertain::default())
    }

    fn home() -> Namespace {
        Namespace {
            name: "pullpass-system".into(),
            ..Namespace::default()
        }
    }

    fn filled_copy() -> Copy {
        Copy {
            version: crate::observed::Version {
                uid: "u".into(),
                resource_version: "1".into(),
            },
            ours: true,
            terminating: false,
            immutable: false,
            digest: Some([1; 32]),
            labelled: true,
            strays: None,
        }
    }

    #[test]
    fn the_own_namespace_holds_what_the_cluster_may_use_and_has_no_access() {
        let rules = at_home(
            vec![registry("acme", "team-a")],
            Credentials::from([("acme".into(), good())]),
        );
        let (desired, rendered) = rules.desired(&home(), None, None);
        let rendered = rendered.unwrap();
        assert_eq!(
            desired,
            Desired::Installers(rendered.digest().unwrap()),
            "as in the namespace that is selected"
        );
        assert!(rendered.outcomes.is_empty() && rendered.registries.is_empty());
        assert_eq!(rendered.installers.len(), 1);
        let (elsewhere, _) = rules.desired(&team_a(), None, None);
        assert!(
            matches!(elsewhere, Desired::Delivery { content: Ok(digest), .. } if digest == rendered.digest().unwrap())
        );
    }

    #[test]
    fn an_own_namespace_that_is_selected_has_the_same_secret_and_an_access() {
        let mut rules = at_home(
            vec![
                registry("acme", "team-a"),
                registry("own", "pullpass-system"),
            ],
            Credentials::from([("acme".into(), good()), ("own".into(), good())]),
        );
        let (unselected, _) = rules.desired(&home(), None, None);
        rules
            .policy
            .admitted_system_namespaces
            .insert("pullpass-system".into());
        let (selected, rendered) = rules.desired(&home(), None, None);
        let Desired::Delivery {
            content: Ok(content),
            registries,
        } = selected
        else {
            panic!("{selected:?}");
        };
        assert_eq!(unselected, Desired::Installers(content));
        // it speaks of what selects the namespace, and of what that came to in the one Secret
        assert_eq!(registries.len(), 1);
        assert_eq!(registries[0].name, "own");
        assert_eq!(registries[0].lost_to.as_deref(), Some("acme"));
        assert_eq!(rendered.unwrap().outcomes.len(), 1);
    }

    #[test]
    fn without_any_credential_nothing_is_kept_at_home() {
        let rules = at_home(
            vec![registry("acme", "*")],
            Credentials::from([("acme".into(), Err(Reason::SourceMissing))]),
        );
        assert_eq!(
            rules.desired(&home(), Some(&filled_copy()), None).0,
            Desired::Nothing
        );
        assert_eq!(
            at_home(Vec::new(), Credentials::new())
                .desired(&home(), None, None)
                .0,
            Desired::Nothing
        );
    }

    #[test]
    fn uncertainty_keeps_what_is_there_at_home_and_holds_up_nothing_that_is_not() {
        let mut rules = at_home(
            vec![registry("acme", "*"), registry("other", "*")],
            Credentials::from([
                ("acme".into(), Err(Reason::CredentialPending)),
                ("other".into(), good()),
            ]),
        );
        rules.uncertain = lost("acme");
        let filled = filled_copy();
        let held = rules.desired(&home(), Some(&filled), None).0;
        assert_eq!(held, Desired::Hold);
        let emptied = Copy {
            digest: Some(*REVOKED),
            ..filled_copy()
        };
        let foreign = Copy {
            ours: false,
            ..filled_copy()
        };
        for copy in [None, Some(&emptied), Some(&foreign)] {
            let desired = rules.desired(&home(), copy, None).0;
            assert!(matches!(desired, Desired::Installers(_)), "{desired:?}");
        }
    }

    fn told(names: &[&str]) -> AccessContent {
        AccessContent {
            secret: SecretAccess {
                name: "pullpass".into(),
                state: SecretState::Written,
                reason: "Written".into(),
            },
            registries: names
                .iter()
                .map(|&name| RegistryAccess {
                    name: name.into(),
                    host: None,
                    state: RegistryState::Available,
                    reason: "Available".into(),
                    lost_to: None,
                })
                .collect(),
        }
    }

    #[test]
    fn the_same_grant_is_rendered_once() {
        let rules = rules(
            vec![registry("acme", "*")],
            Credentials::from([("acme".into(), good())]),
            Uncertain::default(),
        );
        let (desired, first) = rules.desired(&team_a(), None, None);
        let (_, second) = rules.desired(&team_a(), None, None);
        assert!(Arc::ptr_eq(&first.unwrap(), &second.unwrap()));
        assert!(matches!(desired, Desired::Delivery { content: Ok(_), .. }));
    }

    #[test]
    fn a_lost_credential_takes_nothing_away() {
        let rules = rules(
            vec![registry("acme", "*")],
            Credentials::from([("acme".into(), Err(Reason::CredentialPending))]),
            lost("acme"),
        );
        let held = rules.desired(&team_a(), None, Some(&told(&["acme"]))).0;
        assert_eq!(held, Desired::Hold);
        // what it never had is not held for it
        let fresh = rules.desired(&team_a(), None, None).0;
        assert!(matches!(
            fresh,
            Desired::Delivery {
                content: Err(_),
                ..
            }
        ));
    }

    #[test]
    fn an_unreadable_registry_takes_nothing_away() {
        let uncertain = Uncertain {
            unreadable: BTreeSet::from(["acme".to_owned()]),
            ..Uncertain::default()
        };
        let rules = rules(Vec::new(), Credentials::new(), uncertain);
        let held = rules.desired(&team_a(), None, Some(&told(&["acme"]))).0;
        assert_eq!(held, Desired::Hold);
    }

    #[test]
    fn uncertainty_about_one_registry_keeps_no_other() {
        let rules = rules(
            vec![registry("acme", "*"), registry("other", "team-b")],
            Credentials::from([("acme".into(), Err(Reason::CredentialPending))]),
            lost("acme"),
        );
        let both = told(&["acme", "other"]);
        assert!(!matches!(
            rules.desired(&team_a(), None, Some(&both)).0,
            Desired::Hold
        ));
    }

    #[test]
    fn a_lost_credential_is_not_kept_where_it_is_not_due() {
        let rules = rules(
            vec![registry("acme", "team-b")],
            Credentials::from([("acme".into(), Err(Reason::CredentialPending))]),
            lost("acme"),
        );
        let desired = rules.desired(&team_a(), None, Some(&told(&["acme"]))).0;
        assert_eq!(desired, Desired::Nothing);
    }

    #[test]
    fn a_namespace_that_declines_is_not_held() {
        let rules = rules(
            vec![registry("acme", "*")],
            Credentials::new(),
            lost("acme"),
        );
        let mut declining = team_a();
        declining
            .labels
            .insert("pullpass.dev/inject".into(), "false".into());
        let desired = rules.desired(&declining, None, Some(&told(&["acme"]))).0;
        assert_eq!(desired, Desired::Nothing);
    }
}
