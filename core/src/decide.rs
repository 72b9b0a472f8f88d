//! The admission decision.

use crate::policy::{Grant, declines};
use crate::reason::Reason;
use crate::selector::Labels;

/// The annotation that kubelet puts on the API server's image of a static pod.
pub const MIRROR_POD_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// What the decision needs to know of a pod that is being created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its labels.
    pub labels: Labels,
    /// Whether it is the image of a static pod.
    pub is_mirror: bool,
    /// The names of its pull secrets, in order.
    pub pull_secrets: Vec<String>,
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
pub fn decide(pod: &Pod, grant: &Grant, secret_name: &str, delivery: Delivery) -> Decision {
    if grant.is_empty() {
        return Decision::Skip(grant.reason());
    }
    if declines(&pod.labels) {
        return Decision::Skip(Reason::PodOptedOut);
    }
    if pod.pull_secrets.iter().any(|name| name == secret_name) {
        return Decision::Skip(Reason::AlreadyPresent);
    }
    if pod.is_mirror {
        return Decision::Skip(Reason::MirrorPod);
    }
    if pod.account_enforces_mountable_secrets {
        return Decision::Skip(Reason::MountableSecretsEnforced);
    }
    let reason = match delivery {
        Delivery::Written => Reason::Injected,
        Delivery::Unknown {
            worth_waiting: true,
        } if !pod.dry_run => return Decision::Await,
        Delivery::Unknown { .. } | Delivery::Blocked => Reason::InjectedAhead,
    };
    Decision::Inject {
        names: vec![secret_name.to_owned()],
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::INJECT_LABEL;
    use crate::registry::{ClusterAccess, CredentialKind, NamespaceAccess, Registry};
    use proptest::prelude::*;
    use rstest::rstest;
    use std::sync::Arc;

    const NAME: &str = "pullpass";

    fn granted() -> Grant {
        Grant {
            granted: vec![Arc::new(Registry {
                name: "acme".into(),
                created: 0,
                key: None,
                credential: CredentialKind::Copied,
                clusters: ClusterAccess::default(),
                namespaces: NamespaceAccess::default(),
                priority: 0,
            })],
            ..Grant::default()
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

    #[test]
    fn a_namespace_without_a_grant_says_why() {
        let closed = Grant {
            nothing_because: Some(Reason::SystemNamespace),
            ..Grant::default()
        };
        let decision = decide(&Pod::default(), &closed, NAME, Delivery::Written);
        assert_eq!(decision, Decision::Skip(Reason::SystemNamespace));
    }

    fn any_pod() -> impl Strategy<Value = Pod> {
        (
            prop::collection::btree_map("[a-z]{1,4}", "[a-z]{0,4}", 0..3),
            any::<bool>(),
            prop::collection::vec(prop_oneof![Just(NAME.to_owned()), "[a-z]{1,8}"], 0..4),
            any::<bool>(),
            any::<bool>(),
        )
            .prop_map(|(labels, is_mirror, pull_secrets, enforces, dry_run)| Pod {
                labels,
                is_mirror,
                pull_secrets,
                account_enforces_mountable_secrets: enforces,
                dry_run,
            })
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
        fn deciding_twice_adds_nothing(pod in any_pod(), delivery in any_delivery()) {
            if let Decision::Inject { names, .. } = decide(&pod, &granted(), NAME, delivery) {
                prop_assert!(!names.is_empty());
                prop_assert!(names.iter().all(|name| !pod.pull_secrets.contains(name)));
                let mut changed = pod.clone();
                changed.pull_secrets.extend(names);
                let again = decide(&changed, &granted(), NAME, delivery);
                prop_assert_eq!(again, Decision::Skip(Reason::AlreadyPresent));
            }
        }

        #[test]
        fn without_a_grant_nothing_is_injected(pod in any_pod(), delivery in any_delivery()) {
            let decision = decide(&pod, &Grant::default(), NAME, delivery);
            prop_assert_eq!(decision, Decision::Skip(Reason::NothingGranted));
        }
    }
}
