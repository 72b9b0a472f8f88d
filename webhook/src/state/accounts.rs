//! The service accounts that limit their pods to the Secrets that they list.

use std::collections::HashSet;
use std::sync::{PoisonError, RwLock};

use pullpass_daemon::Change;

/// The annotation by which a service account limits its pods, if it is `true` in Go's reading of a boolean
/// (`EnforceMountableSecretsAnnotation` in the API server's `plugin/pkg/admission/serviceaccount`).
pub const ENFORCE_MOUNTABLE_SECRETS_ANNOTATION: &str = "kubernetes.io/enforce-mountable-secrets";

/// A service account as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenAccount {
    /// Its namespace and name, joined by a slash, which neither can hold.
    pub key: String,
    /// Whether it limits its pods.
    pub enforces: bool,
}

/// The few service accounts that limit their pods.
#[derive(Debug, Default)]
pub struct ServiceAccounts {
    table: RwLock<Table>,
}

#[derive(Debug, Default)]
struct Table {
    listed: bool,
    enforcing: HashSet<String>,
}

impl ServiceAccounts {
    /// Whether they have been listed.
    pub fn are_listed(&self) -> bool {
        self.read(|table| table.listed)
    }

    /// Whether the pods of this account may use only the Secrets that it lists.
    pub fn enforces_mountable_secrets(&self, namespace: &str, name: &str) -> bool {
        self.read(|table| {
            // in most clusters nobody does, and then no key has to be made
            !table.enforcing.is_empty() && table.enforcing.contains(&format!("{namespace}/{name}"))
        })
    }

    /// Takes a change of the watch over.
    pub fn apply(&self, change: Change<SeenAccount>) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::Restarted(all) => {
                table.listed = true;
                table.enforcing = all
                    .into_iter()
                    .filter_map(|seen| seen.enforces.then_some(seen.key))
                    .collect();
            }
            Change::Applied(seen) if seen.enforces => {
                table.enforcing.insert(seen.key);
            }
            Change::Applied(seen) | Change::Deleted(seen) => {
                table.enforcing.remove(&seen.key);
            }
        }
    }

    fn read<T>(&self, read: impl FnOnce(&Table) -> T) -> T {
        read(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The values that Go's `strconv.ParseBool` takes for true; the API server reads the annotation with it.
pub fn is_true(value: &str) -> bool {
    matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(key: &str, enforces: bool) -> SeenAccount {
        SeenAccount {
            key: key.into(),
            enforces,
        }
    }

    #[test]
    fn the_annotation_can_come_and_go() {
        let accounts = ServiceAccounts::default();
        assert!(!accounts.are_listed());
        accounts.apply(Change::Restarted(vec![
            seen("a/x", true),
            seen("a/y", false),
        ]));
        assert!(accounts.are_listed());
        assert!(accounts.enforces_mountable_secrets("a", "x"));
        assert!(!accounts.enforces_mountable_secrets("a", "y"));
        assert!(!accounts.enforces_mountable_secrets("b", "x"));
        accounts.apply(Change::Applied(seen("a/y", true)));
        accounts.apply(Change::Applied(seen("a/x", false)));
        assert!(!accounts.enforces_mountable_secrets("a", "x"));
        assert!(accounts.enforces_mountable_secrets("a", "y"));
        accounts.apply(Change::Deleted(seen("a/y", true)));
        assert!(!accounts.enforces_mountable_secrets("a", "y"));
        accounts.apply(Change::Restarted(vec![seen("b/x", true)]));
        assert!(accounts.enforces_mountable_secrets("b", "x"));
    }
}
