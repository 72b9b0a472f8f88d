//! What a namespace's Secret holds: the credentials of its grant, merged under one bound.

use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::SecretSlice;

use crate::docker_config::{self, EMPTY_SIZE, Entries, Login, written_size};
use crate::key::RegistryKey;
use crate::policy::Grant;
use crate::reason::Reason;
use crate::registry::CredentialKind;

/// The most bytes that the values of one Secret may have together (`MaxSecretSize` in the API server's
/// `pkg/apis/core/types.go`).
pub const MAX_SECRET_BYTES: usize = 1024 * 1024;

/// The last good credentials, by registry; a registry without one tells why.
pub type Credentials = BTreeMap<String, Result<Arc<Entries>, Reason>>;

/// A namespace's docker config, and what became of each registry that it was granted.
#[derive(Debug)]
pub struct Rendered {
    /// The docker config, `None` where there is no entry to put into it.
    pub docker_config: Option<SecretSlice<u8>>,
    /// One outcome for each granted registry, in the grant's order.
    pub outcomes: Vec<Outcome>,
}

/// What became of one registry in one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The registry's name.
    pub registry: String,
    /// [`Reason::Available`], or why some or all of its entries are not in the docker config.
    pub reason: Reason,
    /// The registry that holds a key of this one, where [`Reason::LostToPriority`].
    pub lost_to: Option<String>,
    /// Keys whose entries are not in the docker config, for that reason.
    pub left_out: Vec<RegistryKey>,
}

/// Merges the credentials of a grant. For each key the first registry of the grant with a usable credential has it;
/// where the bound is reached, later entries are left out and the earlier ones stay.
pub fn render(grant: &Grant, credentials: &Credentials) -> Rendered {
    render_within(grant, credentials, MAX_SECRET_BYTES)
}

fn render_within(grant: &Grant, credentials: &Credentials, max_bytes: usize) -> Rendered {
    let mut merged: BTreeMap<&RegistryKey, (&Login, &str)> = BTreeMap::new();
    let mut size = EMPTY_SIZE;
    let mut outcomes = Vec::with_capacity(grant.granted.len());
    for registry in &grant.granted {
        let mut outcome = Outcome {
            registry: registry.name.clone(),
            reason: Reason::Available,
            lost_to: None,
            left_out: Vec::new(),
        };
        match credentials.get(&registry.name) {
            // a credential that is kept for the nodes or for verification is none of the namespace's copy
            _ if registry.credential != CredentialKind::Copied => {
                outcome.reason = Reason::HeldByNamespace;
            }
            None => outcome.reason = Reason::CredentialPending,
            Some(Err(reason)) => outcome.reason = *reason,
            Some(Ok(entries)) => {
                let (mut lost, mut winner) = (Vec::new(), None);
                let mut too_large = Vec::new();
                for (key, login) in entries.iter() {
                    if let Some((_, holder)) = merged.get(key) {
                        lost.push(key.clone());
                        winner = Some((*holder).to_owned());
                        continue;
                    }
                    let grown = size + written_size(key, login);
                    if grown > max_bytes {
                        too_large.push(key.clone());
                        continue;
                    }
                    size = grown;
                    merged.insert(key, (login, &registry.name));
                }
                // nobody has the credential of a key that found no room; a lost one is another's
                if !too_large.is_empty() {
                    outcome.reason = Reason::TooLarge;
                    outcome.left_out = too_large;
                } else if winner.is_some() {
                    outcome.reason = Reason::LostToPriority;
                    outcome.lost_to = winner;
                    outcome.left_out = lost;
                }
            }
        }
        outcomes.push(outcome);
    }
    let docker_config = (!merged.is_empty())
        .then(|| docker_config::write(merged.iter().map(|(&key, &(login, _))| (key, login))));
    Rendered {
        docker_config,
        outcomes,
    }
}

/// The docker config without any entry. Applied before a copy is deleted, so that what a finalizer holds back is no
/// credential any more.
pub fn revoked() -> SecretSlice<u8> {
    docker_config::write([])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{ClusterAccess, Injection, NamespaceAccess, NodeAccess, Registry};
    use proptest::prelude::*;
    use secrecy::ExposeSecret as _;

    fn registry(name: &str) -> Arc<Registry> {
        Arc::new(Registry {
            name: name.into(),
            created: 0,
            key: None,
            credential: CredentialKind::Copied,
            clusters: ClusterAccess::default(),
            namespaces: NamespaceAccess::default(),
            injection: Injection::default(),
            priority: 0,
            nodes: NodeAccess::default(),
        })
    }

    fn grant(names: &[&str]) -> Grant {
        Grant {
            granted: names.iter().map(|n| registry(n)).collect(),
            ..Grant::default()
        }
    }

    fn entries(of: &[(&str, &str)]) -> Result<Arc<Entries>, Reason> {
        let login = |user: &str| Login::new(user.into(), "p".into()).unwrap();
        Ok(Arc::new(
            of.iter()
                .map(|(k, u)| (RegistryKey::parse(k).unwrap(), login(u)))
                .collect(),
        ))
    }

    fn text(rendered: &Rendered) -> String {
        let content = rendered.docker_config.as_ref().unwrap();
        String::from_utf8(content.expose_secret().to_vec()).unwrap()
    }

    #[test]
    fn merges_what_is_usable_and_says_what_is_not() {
        let credentials = Credentials::from([
            ("a".into(), entries(&[("a.example.com", "u")])),
            ("b".into(), Err(Reason::SourceMissing)),
        ]);
        let rendered = render(&grant(&["b", "a", "c"]), &credentials);
        assert_eq!(
            text(&rendered),
            r#"{"auths":{"a.example.com":{"auth":"dTpw"}}}"#
        );
        let reasons: Vec<_> = rendered.outcomes.iter().map(|o| o.reason).collect();
        assert_eq!(
            reasons,
            [
                Reason::SourceMissing,
                Reason::Available,
                Reason::CredentialPending
            ]
        );
    }

    #[test]
    fn the_first_with_a_usable_credential_has_the_key() {
        let mut credentials = Credentials::from([
            ("new".into(), Err(Reason::SourceMissing)),
            ("old".into(), entries(&[("r.example.com", "u")])),
        ]);
        let order = grant(&["new", "old"]);
        let rendered = render(&order, &credentials);
        assert_eq!(
            text(&rendered),
            r#"{"auths":{"r.example.com":{"auth":"dTpw"}}}"#
        );

        credentials.insert("new".into(), entries(&[("r.example.com", "v")]));
        let rendered = render(&order, &credentials);
        assert_eq!(
            text(&rendered),
            r#"{"auths":{"r.example.com":{"auth":"djpw"}}}"#
        );
        assert_eq!(
            rendered.outcomes[1],
            Outcome {
                registry: "old".into(),
                reason: Reason::LostToPriority,
                lost_to: Some("new".into()),
                left_out: vec![RegistryKey::parse("r.example.com").unwrap()],
            }
        );
    }

    #[test]
    fn more_specific_keys_coexist() {
        let credentials = Credentials::from([
            ("a".into(), entries(&[("r.example.com", "u")])),
            ("b".into(), entries(&[("r.example.com/team", "u")])),
        ]);
        let rendered = render(&grant(&["a", "b"]), &credentials);
        assert!(
            rendered
                .outcomes
                .iter()
                .all(|o| o.reason == Reason::Available)
        );
    }

    #[test]
    fn at_the_bound_the_first_stay_and_the_rest_is_named() {
        let credentials = Credentials::from([
            ("a".into(), entries(&[("a.example.com", "u")])),
            ("b".into(), entries(&[("b.example.com", "u")])),
        ]);
        let one = text(&render(&grant(&["a"]), &credentials)).len();
        let rendered = render_within(&grant(&["a", "b"]), &credentials, one + 1);
        assert_eq!(
            text(&rendered),
            r#"{"auths":{"a.example.com":{"auth":"dTpw"}}}"#
        );
        assert_eq!(rendered.outcomes[1].reason, Reason::TooLarge);
    }

    #[test]
    fn of_several_entries_those_that_fit_stay_and_the_others_are_named() {
        let credentials = Credentials::from([
            ("a".into(), entries(&[("a.example.com", "u")])),
            (
                "many".into(),
                entries(&[
                    ("a.example.com", "v"),
                    ("large.example.com", "a-user-with-a-long-name"),
                    ("z.example.com", "u"),
                ]),
            ),
        ]);
        let bound = text(&render(&grant(&["a"]), &credentials)).len() * 2;
        let rendered = render_within(&grant(&["a", "many"]), &credentials, bound);
        assert!(text(&rendered).contains("z.example.com"));
        let many = &rendered.outcomes[1];
        // the entry that another has is not the one to act upon
        assert_eq!((many.reason, &many.lost_to), (Reason::TooLarge, &None));
        let left_out: Vec<_> = many.left_out.iter().map(ToString::to_string).collect();
        assert_eq!(left_out, ["large.example.com"]);
    }

    #[test]
    fn what_a_namespace_holds_itself_is_not_copied() {
        let held = Registry {
            credential: CredentialKind::HeldByNamespace {
                pull_secret: "regcred".into(),
            },
            ..Registry::clone(&registry("a"))
        };
        let grant = Grant {
            granted: vec![Arc::new(held)],
            ..Grant::default()
        };
        let credentials = Credentials::from([("a".into(), entries(&[("a.example.com", "u")]))]);
        let rendered = render(&grant, &credentials);
        assert!(rendered.docker_config.is_none());
        assert_eq!(rendered.outcomes[0].reason, Reason::HeldByNamespace);
    }

    #[test]
    fn nothing_to_say_is_no_docker_config() {
        assert!(
            render(&grant(&["a"]), &Credentials::new())
                .docker_config
                .is_none()
        );
        assert_eq!(revoked().expose_secret(), br#"{"auths":{}}"#);
    }

    proptest! {
        #[test]
        fn never_beyond_the_bound_and_always_readable(
            hosts in prop::collection::vec("[a-z]{1,6}\\.example\\.com", 1..20), bound in 60usize..400,
        ) {
            let names: Vec<String> = (0..hosts.len()).map(|n| format!("r{n}")).collect();
            let credentials = names
                .iter()
                .zip(&hosts)
                .map(|(name, host)| (name.clone(), entries(&[(host, "user")])))
                .collect();
            let granted = grant(&names.iter().map(String::as_str).collect::<Vec<_>>());
            let rendered = render_within(&granted, &credentials, bound);
            prop_assert_eq!(rendered.outcomes.len(), names.len());
            if let Some(content) = &rendered.docker_config {
                prop_assert!(content.expose_secret().len() <= bound);
                prop_assert!(docker_config::parse(content.expose_secret()).is_ok());
            }
            let included = rendered.outcomes.iter().filter(|o| o.reason == Reason::Available).count();
            prop_assert_eq!(included > 0, rendered.docker_config.is_some());
        }
    }
}
