//! What to do next in one namespace, from what should be there and what is.

use std::sync::{Arc, LazyLock};

use pullpass_api::pull_access::{RegistryAccess, SecretAccess, SecretState};
use pullpass_core::reason::Reason;
use pullpass_core::render::revoked;
use secrecy::ExposeSecret as _;

use crate::observed::{Access, AccessContent, Copy, Digest, Strays, Version, digest};

/// The digest of a docker config without entries.
pub(crate) static REVOKED: LazyLock<Digest> = LazyLock::new(|| digest(revoked().expose_secret()));

/// What should be in a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Desired {
    /// What is there: it is not certain what should be.
    Hold,
    /// Whatever Kubernetes leaves of it: the namespace is being deleted.
    Abandon,
    /// Nothing of ours.
    Nothing,
    /// A Secret with this docker config alone: no pod is given its name, so there is nobody to tell of it.
    Installers(Digest),
    /// A Secret with this docker config, and a PullAccess that tells of it.
    Delivery {
        /// The docker config; where there is no credential to put into it, the reason.
        content: Result<Digest, Reason>,
        /// The registries that the namespace may use.
        registries: Arc<[RegistryAccess]>,
    },
}

/// One write. It is made only if the object still has this version, or still is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Apply the Secret; without a version it is not there yet, and the apply must not take a field from anybody.
    ApplySecret(Option<Version>),
    /// Apply the Secret without entries.
    EmptySecret(Version),
    /// Take off the Secret what others have put on it.
    CleanSecret(Version, Box<Strays>),
    /// Delete the Secret.
    DeleteSecret(Version),
    /// Apply the PullAccess.
    ApplyAccess(Option<Version>, AccessContent),
    /// Delete the PullAccess.
    DeleteAccess(Version),
}

/// How a namespace stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    /// There is nothing of ours, and should not be.
    Empty,
    /// It is left as it is.
    Held,
    /// The Secret is there and up to date.
    Written,
    /// The Secret cannot be as it should.
    Blocked(Reason),
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// This; then ask again.
    Do(Operation),
    /// Nothing.
    Settled(State),
}

enum SecretStep {
    Do(Operation),
    Is(State),
}

/// The next write in a namespace. `refused` is why the API server has just refused the Secret, where it has.
///
/// The PullAccess is written after the Secret, and before the Secret goes: its word "Written" means that the Secret is
/// there.
pub(crate) fn plan(
    desired: &Desired,
    secret_name: &str,
    copy: Option<&Copy>,
    access: Option<&Access>,
    refused: Option<Reason>,
) -> Next {
    match desired {
        Desired::Hold => Next::Settled(State::Held),
        Desired::Abandon => match copy {
            Some(copy) if copy.terminating => match revoke(Some(copy)) {
                Some(operation) => Next::Do(operation),
                None => Next::Settled(State::Empty),
            },
            Some(_) | None => Next::Settled(State::Empty),
        },
        Desired::Nothing => match untell(access).or_else(|| revoke(copy)) {
            Some(operation) => Next::Do(operation),
            None => Next::Settled(State::Empty),
        },
        Desired::Delivery {
            content: Err(reason),
            registries,
        } => {
            let state = State::Blocked(*reason);
            match tell(state, secret_name, registries, access).or_else(|| revoke(copy)) {
                Some(operation) => Next::Do(operation),
                None => Next::Settled(state),
            }
        }
        Desired::Delivery {
            content: Ok(digest),
            registries,
        } => {
            let state = match provide(copy, digest, refused) {
                SecretStep::Do(operation) => return Next::Do(operation),
                SecretStep::Is(state) => state,
            };
            match tell(state, secret_name, registries, access) {
                Some(operation) => Next::Do(operation),
                None => Next::Settled(state),
            }
        }
        Desired::Installers(digest) => match (untell(access), provide(copy, digest, refused)) {
            (Some(operation), _) | (None, SecretStep::Do(operation)) => Next::Do(operation),
            (None, SecretStep::Is(state)) => Next::Settled(state),
        },
    }
}

fn provide(copy: Option<&Copy>, digest: &Digest, refused: Option<Reason>) -> SecretStep {
    match (deliver(copy, digest), refused) {
        // what others put on it does no harm to the pulls
        (SecretStep::Do(Operation::CleanSecret(..)), Some(_)) => SecretStep::Is(State::Written),
        (SecretStep::Do(_), Some(reason)) => SecretStep::Is(State::Blocked(reason)),
        (step, _) => step,
    }
}

fn untell(access: Option<&Access>) -> Option<Operation> {
    access
        .filter(|access| !access.terminating)
        .map(|access| Operation::DeleteAccess(access.version.clone()))
}

fn deliver(copy: Option<&Copy>, digest: &Digest) -> SecretStep {
    let Some(copy) = copy else {
        return SecretStep::Do(Operation::ApplySecret(None));
    };
    let version = copy.version.clone();
    if !copy.ours {
        return SecretStep::Is(State::Blocked(Reason::ForeignSecret));
    }
    if copy.immutable {
        return if copy.terminating {
            SecretStep::Is(State::Blocked(Reason::WriteRefused))
        } else {
            SecretStep::Do(Operation::DeleteSecret(version))
        };
    }
    // one that somebody's finalizer holds back still serves pulls until it is gone
    if copy.digest.as_ref() != Some(digest) || !copy.labelled {
        return SecretStep::Do(Operation::ApplySecret(Some(version)));
    }
    match &copy.strays {
        Some(strays) if !copy.terminating => {
            SecretStep::Do(Operation::CleanSecret(version, strays.clone()))
        }
        Some(_) | None => SecretStep::Is(State::Written),
    }
}

/// Empty first, then deleted: a finalizer can hold the object back, not the credential.
fn revoke(copy: Option<&Copy>) -> Option<Operation> {
    let copy = copy.filter(|copy| copy.ours)?;
    let version = copy.version.clone();
    if !copy.immutable && copy.digest.as_ref() != Some(&*REVOKED) {
        return Some(Operation::EmptySecret(version));
    }
    (!copy.terminating).then_some(Operation::DeleteSecret(version))
}

fn tell(
    state: State,
    secret_name: &str,
    registries: &Arc<[RegistryAccess]>,
    access: Option<&Access>,
) -> Option<Operation> {
    let (told, reason) = match state {
        State::Written => (SecretState::Written, Reason::Written),
        State::Blocked(reason) => (SecretState::Blocked, reason),
        State::Empty | State::Held => return None,
    };
    let wanted = AccessContent {
        secret: SecretAccess {
            name: secret_name.to_owned(),
            state: told,
            reason: reason.as_str().to_owned(),
        },
        registries: Arc::clone(registries),
    };
    match access {
        Some(access) if access.content == wanted && access.labelled => None,
        Some(access) => Some(Operation::ApplyAccess(Some(access.version.clone()), wanted)),
        None => Some(Operation::ApplyAccess(None, wanted)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use pullpass_api::pull_access::RegistryState;

    const NAME: &str = "pullpass";
    const OLD: Digest = [1; 32];
    const NEW: Digest = [2; 32];

    fn version(revision: u64) -> Version {
        Version {
            uid: "u".into(),
            resource_version: revision.to_string(),
        }
    }

    fn copy() -> Copy {
        Copy {
            version: version(1),
            ours: true,
            terminating: false,
            immutable: false,
            digest: Some(NEW),
            labelled: true,
            strays: None,
        }
    }

    fn registries() -> Arc<[RegistryAccess]> {
        Arc::new([RegistryAccess {
            name: "acme".into(),
            host: None,
            state: RegistryState::Available,
            reason: "Available".into(),
            lost_to: None,
        }])
    }

    fn delivery(content: Result<Digest, Reason>) -> Desired {
        Desired::Delivery {
            content,
            registries: registries(),
        }
    }

    /// A namespace as the API server keeps it.
    #[derive(Clone, Debug, PartialEq)]
    struct World {
        copy: Option<Copy>,
        access: Option<Access>,
        /// Whether somebody's finalizer is on the Secret.
        held_back: bool,
        revision: u64,
    }

    impl World {
        fn check(&self, version: &Version, of: Option<&Version>) {
            assert_eq!(Some(version), of, "a precondition that cannot hold");
        }

        fn carry_out(&mut self, operation: &Operation, content: Digest) {
            self.revision += 1;
            let fresh = version(self.revision);
            let seen = self.copy.as_ref().map(|copy| copy.version.clone());
            match operation {
                Operation::ApplySecret(None) => {
                    assert!(self.copy.is_none());
                    self.copy = Some(Copy {
                        version: fresh,
                        digest: Some(content),
                        ..copy()
                    });
                }
                Operation::ApplySecret(Some(version)) => {
                    self.check(version, seen.as_ref());
                    let copy = self.copy.as_mut().unwrap();
                    assert!(!copy.immutable);
                    (copy.digest, copy.labelled, copy.version) = (Some(content), true, fresh);
                }
                Operation::EmptySecret(version) => {
                    self.check(version, seen.as_ref());
                    let copy = self.copy.as_mut().unwrap();
                    assert!(!copy.immutable);
                    (copy.digest, copy.version) = (Some(*REVOKED), fresh);
                }
                Operation::CleanSecret(version, _) => {
                    self.check(version, seen.as_ref());
                    let copy = self.copy.as_mut().unwrap();
                    (copy.strays, copy.version) = (None, fresh);
                }
                Operation::DeleteSecret(version) => {
                    self.check(version, seen.as_ref());
                    if self.held_back {
                        let copy = self.copy.as_mut().unwrap();
                        assert!(!copy.terminating);
                        (copy.terminating, copy.version) = (true, fresh);
                    } else {
                        self.copy = None;
                    }
                }
                Operation::ApplyAccess(precondition, content) => {
                    assert_eq!(
                        precondition.as_ref(),
                        self.access.as_ref().map(|access| &access.version)
                    );
                    self.access = Some(Access {
                        version: fresh,
                        terminating: false,
                        content: content.clone(),
                        labelled: true,
                    });
                }
                Operation::DeleteAccess(version) => {
                    self.check(version, self.access.as_ref().map(|access| &access.version));
                    self.access = None;
                }
            }
        }

        /// Plans and carries out until nothing is left to do.
        fn settle(&mut self, desired: &Desired) -> (State, Vec<Operation>) {
            let content = match desired {
                Desired::Delivery {
                    content: Ok(digest),
                    ..
                }
                | Desired::Installers(digest) => *digest,
                Desired::Hold
                | Desired::Abandon
                | Desired::Nothing
                | Desired::Delivery {
                    content: Err(_), ..
                } => OLD,
            };
            let mut done = Vec::new();
            loop {
                let next = plan(
                    desired,
                    NAME,
                    self.copy.as_ref(),
                    self.access.as_ref(),
                    None,
                );
                match next {
                    Next::Do(operation) => {
                        self.carry_out(&operation, content);
                        done.push(operation);
                        assert!(done.len() <= 6, "does not settle: {done:?}");
                    }
                    Next::Settled(state) => return (state, done),
                }
            }
        }
    }

    fn world(copy: Option<Copy>) -> World {
        World {
            copy,
            access: None,
            held_back: false,
            revision: 1,
        }
    }

    #[test]
    fn the_secret_comes_before_the_access_and_goes_after_it() {
        let mut world = world(None);
        let (state, done) = world.settle(&delivery(Ok(NEW)));
        assert_eq!(state, State::Written);
        assert!(matches!(
            done[..],
            [
                Operation::ApplySecret(None),
                Operation::ApplyAccess(None, _)
            ]
        ));
        let (state, done) = world.settle(&Desired::Nothing);
        assert_eq!(state, State::Empty);
        assert!(matches!(
            done[..],
            [
                Operation::DeleteAccess(_),
                Operation::EmptySecret(_),
                Operation::DeleteSecret(_)
            ]
        ));
    }

    #[test]
    fn the_secret_for_installers_has_no_access_beside_it() {
        let mut world = world(None);
        world.settle(&delivery(Ok(OLD)));
        let (state, done) = world.settle(&Desired::Installers(NEW));
        assert_eq!(state, State::Written);
        assert!(matches!(
            done[..],
            [Operation::DeleteAccess(_), Operation::ApplySecret(Some(_))]
        ));
        let foreign = Copy {
            ours: false,
            ..copy()
        };
        let next = plan(&Desired::Installers(NEW), NAME, Some(&foreign), None, None);
        assert_eq!(next, Next::Settled(State::Blocked(Reason::ForeignSecret)));
    }

    #[test]
    fn a_changed_credential_is_one_write_in_place() {
        let mut world = world(None);
        world.settle(&delivery(Ok(OLD)));
        let uid = world.copy.clone().unwrap().version.uid;
        let (_, done) = world.settle(&delivery(Ok(NEW)));
        assert!(matches!(done[..], [Operation::ApplySecret(Some(_))]));
        assert_eq!(world.copy.unwrap().version.uid, uid);
    }

    #[test]
    fn an_immutable_copy_is_made_again() {
        let mut world = world(Some(Copy {
            immutable: true,
            digest: Some(OLD),
            ..copy()
        }));
        let (state, done) = world.settle(&delivery(Ok(NEW)));
        assert_eq!(state, State::Written);
        assert!(matches!(
            done[..],
            [
                Operation::DeleteSecret(_),
                Operation::ApplySecret(None),
                Operation::ApplyAccess(..)
            ]
        ));
    }

    #[test]
    fn what_is_held_back_is_emptied() {
        let mut world = world(Some(Copy {
            terminating: true,
            ..copy()
        }));
        world.held_back = true;
        for desired in [Desired::Nothing, Desired::Abandon] {
            let mut world = world.clone();
            let (_, done) = world.settle(&desired);
            assert!(matches!(done[..], [Operation::EmptySecret(_)]), "{done:?}");
        }
    }

    #[test]
    fn without_a_credential_the_access_says_so_before_the_secret_goes() {
        let mut world = world(None);
        world.settle(&delivery(Ok(OLD)));
        let (state, done) = world.settle(&delivery(Err(Reason::SourceMissing)));
        assert_eq!(state, State::Blocked(Reason::SourceMissing));
        assert!(matches!(done[0], Operation::ApplyAccess(..)));
        assert!(world.copy.is_none());
    }

    #[test]
    fn a_refusal_is_told_and_the_secret_not_tried_again() {
        let desired = delivery(Ok(NEW));
        let next = plan(&desired, NAME, None, None, Some(Reason::QuotaExceeded));
        let Next::Do(Operation::ApplyAccess(None, content)) = next else {
            panic!("{next:?}");
        };
        assert_eq!(content.secret.state, SecretState::Blocked);
        assert_eq!(content.secret.reason, "QuotaExceeded");
    }

    fn any_copy() -> impl Strategy<Value = Option<Copy>> {
        let digests = prop_oneof![
            Just(None),
            Just(Some(OLD)),
            Just(Some(NEW)),
            Just(Some(*REVOKED))
        ];
        let flags = (
            any::<bool>(),
            any::<bool>(),
            any::<bool>(),
            any::<bool>(),
            any::<bool>(),
        );
        prop::option::of((digests, flags).prop_map(
            |(digest, (ours, terminating, immutable, labelled, stray))| Copy {
                ours,
                terminating,
                immutable,
                digest,
                labelled,
                strays: stray.then(|| {
                    Box::new(Strays {
                        annotations: true,
                        ..Strays::default()
                    })
                }),
                ..copy()
            },
        ))
    }

    fn any_access() -> impl Strategy<Value = Option<Access>> {
        prop::option::of(
            (any::<bool>(), any::<bool>()).prop_map(|(written, labelled)| Access {
                version: version(1),
                terminating: false,
                labelled,
                content: AccessContent {
                    secret: SecretAccess {
                        name: NAME.into(),
                        state: if written {
                            SecretState::Written
                        } else {
                            SecretState::Blocked
                        },
                        reason: "Written".into(),
                    },
                    registries: registries(),
                },
            }),
        )
    }

    fn any_desired() -> impl Strategy<Value = Desired> {
        prop_oneof![
            Just(Desired::Hold),
            Just(Desired::Abandon),
            Just(Desired::Nothing),
            Just(Desired::Installers(NEW)),
            Just(delivery(Ok(NEW))),
            Just(delivery(Err(Reason::CredentialPending))),
        ]
    }

    proptest! {
        /// From whatever is there, a few writes lead to where nothing is left to do, and what is there then is right.
        #[test]
        fn settles_from_anywhere(
            copy in any_copy(), access in any_access(), desired in any_desired(), held_back: bool,
        ) {
            let held_back = held_back || copy.as_ref().is_some_and(|copy| copy.terminating);
            let mut world = World { copy: copy.clone(), access, held_back, revision: 1 };
            let before = world.clone();
            let (state, done) = world.settle(&desired);
            let settled = world.clone();
            let (again, nothing) = world.settle(&desired);
            prop_assert!(nothing.is_empty() && again == state && world == settled);

            let is_foreign = copy.as_ref().is_some_and(|copy| !copy.ours);
            if is_foreign {
                prop_assert_eq!(&settled.copy, &copy);
            }
            match &desired {
                Desired::Hold => {
                    prop_assert!(done.is_empty());
                    prop_assert_eq!(&settled, &before);
                }
                Desired::Abandon => prop_assert_eq!(&settled.access, &before.access),
                Desired::Nothing => prop_assert!(settled.access.is_none()),
                Desired::Installers(_) => {
                    prop_assert!(settled.access.is_none());
                    let is_there = settled.copy.as_ref().is_some_and(|copy| copy.ours && copy.digest == Some(NEW) && !copy.immutable);
                    prop_assert_eq!(state == State::Written, is_there);
                }
                Desired::Delivery { content, .. } => {
                    let told = settled.access.as_ref().map(|access| access.content.secret.state);
                    let written = state == State::Written;
                    prop_assert_eq!(told, Some(if written { SecretState::Written } else { SecretState::Blocked }));
                    prop_assert_eq!(written, content.is_ok() && settled.copy.as_ref().is_some_and(|copy| copy.ours && copy.digest == Some(NEW) && !copy.immutable));
                }
            }
            // a credential that is not due stays nowhere but where it cannot be reached
            if matches!(desired, Desired::Nothing | Desired::Delivery { content: Err(_), .. })
                && let Some(left) = settled.copy.filter(|copy| copy.ours) {
                prop_assert!(left.terminating && (left.immutable || left.digest == Some(*REVOKED)));
            }
        }
    }
}
