//! The admission decision.

use crate::image::Repository;
use crate::matching::serves;
use crate::policy::{Grant, declines};
use crate::reason::Reason;
use crate::registry::{CredentialKind, Injection, Registry};
use crate::selector::Labels;

/// The annotation that kubelet puts on the API server's image of a static pod.
pub const MIRROR_POD_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// What the decision needs to know of a pod that is being created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod<'a> {
    /// Its labels.
    pub labels: Labels,
    /// Whether it is the image of a static pod.
    pub is_mirror: bool,
    /// The names of its pull secrets, in order.
    pub pull_secrets: Vec<String>,
    /// The images of its containers, init containers and image volumes. Read only where [`Grant::asks_for_images`], and
    /// may be left out elsewhere.
    pub images: &'a [&'a str],
    /// Whether its service account allows only the Secrets that it lists
    /// (`kubernetes.io/enforce-mountable-secrets`).
    pub account_enforces_mountable_secrets: bool,
    /// Whether nothing will be stored.
    pub dry_run: bool,
}

/// How far the namespace's Secret has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It is there.
    Written,
    /// It cannot be written at present, so waiting is vain.
    Blocked,
    /// Nothing is known of it.
    Unknown {
        /// Whether it may come within the time that a request may wait.
        worth_waiting: bool,
    },
}

/// What to do with the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Append these pull secrets, in this order.
    Inject {
        /// Names that the pod does not hold yet. Never empty.
        names: Vec<String>,
        /// [`Reason::Injected`] or [`Reason::InjectedAhead`].
        reason: Reason,
    },
    /// Leave the pod as it is.
    Skip(Reason),
    /// Ask again when the delivery is known, at the latest at the bound.
    Await,
}

/// Decides on one pod of a namespace with this grant, whose copied Secret is called `secret_name`.
pub fn decide(pod: &Pod<'_>, grant: &Grant, secret_name: &str, delivery: Delivery) -> Decision {
    if grant.is_empty() {
        return Decision::Skip(grant.reason());
    }
    if declines(&pod.labels) {
        return Decision::Skip(Reason::PodOptedOut);
    }
    let mut names = names(pod, grant, secret_name);
    if names.is_empty() {
        return Decision::Skip(Reason::NoImageMatches);
    }
    names.retain(|name| !pod.pull_secrets.iter().any(|held| held == name));
    if names.is_empty() {
        return Decision::Skip(Reason::AlreadyPresent);
    }
    if pod.is_mirror {
        return Decision::Skip(Reason::MirrorPod);
    }
    if pod.account_enforces_mountable_secrets {
        return Decision::Skip(Reason::MountableSecretsEnforced);
    }
    let adds_copy = names.contains(&secret_name);
    let reason = match delivery {
        // what a namespace holds itself is not for Pullpass to wait for
        _ if !adds_copy => Reason::Injected,
        Delivery::Written => Reason::Injected,
        Delivery::Unknown {
            worth_waiting: true,
        } if !pod.dry_run => return Decision::Await,
        Delivery::Unknown { .. } | Delivery::Blocked => Reason::InjectedAhead,
    };
    Decision::Inject {
        names: names.into_iter().map(str::to_owned).collect(),
        reason,
    }
}

/// The pull secrets that are due to a pod: the copied Secret first, then those that the namespace holds, in the order
/// of the grant. Each once.
fn names<'a>(pod: &Pod<'_>, grant: &'a Grant, secret_name: &'a str) -> Vec<&'a str> {
    let images: Vec<Repository> = if grant.asks_for_images() {
        // kubelet refuses what cannot be read, with or without a credential
        let readable = |image: &&str| Repository::parse(image).ok();
        pod.images.iter().filter_map(readable).collect()
    } else {
        Vec::new()
    };
    let (mut is_copy_due, mut held) = (false, Vec::new());
    for registry in &grant.granted {
        if !is_due(registry, &images) {
            continue;
        }
        match &registry.credential {
            CredentialKind::None => {}
            CredentialKind::Copied => is_copy_due = true,
            CredentialKind::HeldByNamespace { pull_secret } => held.push(pull_secret.as_str()),
        }
    }
    let mut names = Vec::new();
    for name in is_copy_due.then_some(secret_name).into_iter().chain(held) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn is_due(registry: &Registry, images: &[Repository]) -> bool {
    match (registry.injection, &registry.key) {
        (Injection::WhenImageMatches, Some(key)) => images.iter().any(|image| serves(key, image)),
        // without a key of its own a registry may serve any image
        (Injection::WhenImageMatches, None) | (Injection::Always, _) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::RegistryKey;
    use crate::policy::INJECT_LABEL;
    use crate::registry::{ClusterAccess, NamespaceAccess, NodeAccess};
    use proptest::prelude::*;
    use rstest::rstest;
    use std::sync::Arc;

    const NAME: &str = "pullpass";

    fn registry(
        injection: Injection,
        host: Option<&str>,
        pull_secret: Option<&str>,
    ) -> Arc<Registry> {
        let held = |name: &str| CredentialKind::HeldByNamespace {
            pull_secret: name.into(),
        };
        Arc::new(Registry {
            name: "acme".into(),
            created: 0,
            key: host.map(|host| RegistryKey::for_registry_host(host).unwrap()),
            credential: pull_secret.map_or(CredentialKind::Copied, held),
            clusters: ClusterAccess::default(),
            namespaces: NamespaceAccess::default(),
            injection,
            priority: 0,
            nodes: NodeAccess::default(),
        })
    }

    fn grant_of(granted: impl IntoIterator<Item = Arc<Registry>>) -> Grant {
        Grant {
            granted: granted.into_iter().collect(),
            ..Grant::default()
        }
    }

    fn granted() -> Grant {
        grant_of([registry(Injection::Always, None, None)])
    }

    fn names_for(images: &[&str], grant: &Grant) -> Vec<String> {
        let pod = Pod {
            images,
            ..Pod::default()
        };
        match decide(&pod, grant, NAME, Delivery::Written) {
            Decision::Inject { names, .. } => names,
            Decision::Skip(reason) => vec![format!("({reason})")],
            Decision::Await => vec!["(await)".into()],
        }
    }

    fn inject(reason: Reason) -> Decision {
        Decision::Inject {
            names: vec![NAME.into()],
            reason,
        }
    }

    #[rstest]
    #[case(Delivery::Written, inject(Reason::Injected))]
    #[case(Delivery::Blocked, inject(Reason::InjectedAhead))]
    #[case(Delivery::Unknown { worth_waiting: true }, Decision::Await)]
    #[case(Delivery::Unknown { worth_waiting: false }, inject(Reason::InjectedAhead))]
    fn waits_only_where_waiting_helps(#[case] delivery: Delivery, #[case] expected: Decision) {
        assert_eq!(
            decide(&Pod::default(), &granted(), NAME, delivery),
            expected
        );
    }

    #[test]
    fn a_dry_run_never_waits() {
        let pod = Pod {
            dry_run: true,
            ..Pod::default()
        };
        let decision = decide(
            &pod,
            &granted(),
            NAME,
            Delivery::Unknown {
                worth_waiting: true,
            },
        );
        assert_eq!(decision, inject(Reason::InjectedAhead));
    }

    #[rstest]
    #[case(Pod { labels: Labels::from([(INJECT_LABEL.into(), "false".into())]), ..Pod::default() }, Reason::PodOptedOut)]
    #[case(Pod { pull_secrets: vec!["own".into(), NAME.into()], ..Pod::default() }, Reason::AlreadyPresent)]
    #[case(Pod { is_mirror: true, ..Pod::default() }, Reason::MirrorPod)]
    #[case(Pod { account_enforces_mountable_secrets: true, ..Pod::default() }, Reason::MountableSecretsEnforced)]
    fn some_pods_stay_as_they_are(#[case] pod: Pod, #[case] reason: Reason) {
        assert_eq!(
            decide(&pod, &granted(), NAME, Delivery::Written),
            Decision::Skip(reason)
        );
    }

    #[rstest]
    #[case(&["r.example.com/app"], &["pullpass"])]
    #[case(&["nginx", "r.example.com:443/app", "r.example.com/app:v1"], &["pullpass"])]
    #[case(&["nginx"], &["(NoImageMatches)"])]
    #[case(&["r.example.com.evil.example/app"], &["(NoImageMatches)"])]
    #[case(&["r.example.com/App"], &["(NoImageMatches)"])]
    #[case(&[], &["(NoImageMatches)"])]
    fn some_registries_ask_for_an_image(#[case] images: &[&str], #[case] expected: &[&str]) {
        let asking = registry(Injection::WhenImageMatches, Some("r.example.com"), None);
        assert_eq!(names_for(images, &grant_of([asking])), expected);
    }

    #[test]
    fn docker_hub_matches_what_kubelet_falls_back_for() {
        let asking = registry(Injection::WhenImageMatches, Some("docker.io"), None);
        let grant = grant_of([asking]);
        assert_eq!(names_for(&["nginx"], &grant), [NAME]);
        assert_eq!(
            names_for(&["quay.io/acme/app"], &grant),
            ["(NoImageMatches)"]
        );
    }

    #[test]
    fn the_copy_comes_first_then_what_the_namespace_holds() {
        let grant = grant_of([
            registry(Injection::Always, None, Some("regcred")),
            registry(
                Injection::WhenImageMatches,
                Some("r.example.com"),
                Some("other"),
            ),
            registry(Injection::Always, None, Some("regcred")),
            registry(Injection::Always, None, None),
            registry(Injection::Always, None, Some(NAME)),
        ]);
        assert_eq!(names_for(&["nginx"], &grant), [NAME, "regcred"]);
        assert_eq!(
            names_for(&["r.example.com/app"], &grant),
            [NAME, "regcred", "other"]
        );
    }

    #[test]
    fn nobody_waits_for_what_the_namespace_holds() {
        let held = registry(Injection::Always, None, Some("regcred"));
        let unknown = Delivery::Unknown {
            worth_waiting: true,
        };
        let copied = registry(Injection::Always, None, None);
        let both = grant_of([Arc::clone(&held), copied]);
        assert_eq!(
            decide(&Pod::default(), &both, NAME, unknown),
            Decision::Await
        );
        assert_eq!(
            decide(&Pod::default(), &grant_of([held]), NAME, unknown),
            Decision::Inject {
                names: vec!["regcred".into()],
                reason: Reason::Injected
            }
        );
    }

    #[test]
    fn only_what_is_missing_is_added() {
        let grant = grant_of([
            registry(Injection::Always, None, None),
            registry(Injection::Always, None, Some("regcred")),
        ]);
        let pod = Pod {
            pull_secrets: vec![NAME.into(), "own".into()],
            ..Pod::default()
        };
        let unknown = Delivery::Unknown {
            worth_waiting: true,
        };
        assert_eq!(
            decide(&pod, &grant, NAME, unknown),
            Decision::Inject {
                names: vec!["regcred".into()],
                reason: Reason::Injected
            }
        );
    }

    #[test]
    fn a_namespace_without_a_grant_says_why() {
        let closed = Grant {
            nothing_because: Some(Reason::SystemNamespace),
            ..Grant::default()
        };
        let decision = decide(&Pod::default(), &closed, NAME, Delivery::Written);
        assert_eq!(decision, Decision::Skip(Reason::SystemNamespace));
    }

    const IMAGES: &[&str] = &["r.example.com/app", "nginx", "not an image"];

    fn any_pod() -> impl Strategy<Value = Pod<'static>> {
        (
            prop::collection::btree_map("[a-z]{1,4}", "[a-z]{0,4}", 0..3),
            any::<bool>(),
            prop::collection::vec(
                prop_oneof![Just(NAME.to_owned()), Just("held".to_owned()), "[a-z]{1,8}"],
                0..4,
            ),
            0..=IMAGES.len(),
            any::<bool>(),
            any::<bool>(),
        )
            .prop_map(
                |(labels, is_mirror, pull_secrets, images, enforces, dry_run)| Pod {
                    labels,
                    is_mirror,
                    pull_secrets,
                    images: &IMAGES[images..],
                    account_enforces_mountable_secrets: enforces,
                    dry_run,
                },
            )
    }

    fn any_grant() -> impl Strategy<Value = Grant> {
        let injection = prop_oneof![Just(Injection::Always), Just(Injection::WhenImageMatches)];
        let host = prop_oneof![
            Just(None),
            Just(Some("r.example.com")),
            Just(Some("docker.io")),
            Just(Some("x.example.com"))
        ];
        let pull_secret = prop_oneof![
            Just(None),
            Just(Some("held")),
            Just(Some("other")),
            Just(Some(NAME))
        ];
        let any_registry = (injection, host, pull_secret)
            .prop_map(|(injection, host, secret)| registry(injection, host, secret));
        prop::collection::vec(any_registry, 1..5).prop_map(grant_of)
    }

    fn any_delivery() -> impl Strategy<Value = Delivery> {
        prop_oneof![
            Just(Delivery::Written),
            Just(Delivery::Blocked),
            any::<bool>().prop_map(|worth_waiting| Delivery::Unknown { worth_waiting }),
        ]
    }

    proptest! {
        #[test]
        fn deciding_twice_adds_nothing(pod in any_pod(), grant in any_grant(), delivery in any_delivery()) {
            if let Decision::Inject { names, .. } = decide(&pod, &grant, NAME, delivery) {
                prop_assert!(!names.is_empty());
                prop_assert!(names.iter().all(|name| !pod.pull_secrets.contains(name)));
                let mut changed = pod.clone();
                changed.pull_secrets.extend(names);
                let again = decide(&changed, &grant, NAME, delivery);
                prop_assert_eq!(again, Decision::Skip(Reason::AlreadyPresent));
            }
        }

        /// Every name comes from a granted registry, none twice, ours first.
        #[test]
        fn names_are_those_of_the_grant(pod in any_pod(), grant in any_grant()) {
            if let Decision::Inject { names, .. } = decide(&pod, &grant, NAME, Delivery::Written) {
                for (index, name) in names.iter().enumerate() {
                    prop_assert!(!names[..index].contains(name));
                    let is_copy_due = |registry: &Arc<Registry>| {
                        registry.credential == CredentialKind::Copied && registry.injection == Injection::Always
                    };
                    prop_assert!(name != NAME || index == 0 || !grant.granted.iter().any(is_copy_due));
                    let offers = |registry: &Arc<Registry>| match &registry.credential {
                        CredentialKind::HeldByNamespace { pull_secret } => pull_secret == name,
                        CredentialKind::Copied => name == NAME,
                        CredentialKind::None => false,
                    };
                    prop_assert!(grant.granted.iter().any(offers));
                }
            }
        }

        /// Asking for an image only ever takes names away, and takes none where an image matches.
        #[test]
        fn asking_for_an_image_only_narrows(pod in any_pod(), grant in any_grant()) {
            let always = grant_of(grant.granted.iter().map(|registry| Arc::new(Registry {
                injection: Injection::Always,
                ..Registry::clone(registry)
            })));
            let asked = names_for(pod.images, &grant);
            let all = names_for(pod.images, &always);
            if asked != ["(NoImageMatches)"] {
                prop_assert!(asked.iter().all(|name| all.contains(name)));
            }
            let images: Vec<_> = pod.images.iter().filter_map(|image| Repository::parse(image).ok()).collect();
            let serves_some = |registry: &Arc<Registry>| registry.key.as_ref().is_none_or(|key| images.iter().any(|image| serves(key, image)));
            if grant.granted.iter().all(serves_some) {
                prop_assert_eq!(asked, all);
            }
        }

        #[test]
        fn without_a_grant_nothing_is_injected(pod in any_pod(), delivery in any_delivery()) {
            let decision = decide(&pod, &Grant::default(), NAME, delivery);
            prop_assert_eq!(decision, Decision::Skip(Reason::NothingGranted));
        }
    }
}
