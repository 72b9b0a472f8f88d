//! The policy: rebuilt only when a Registry changes in what decisions rest on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use pullpass_core::policy::Policy;
use pullpass_core::registry::Registry;
use pullpass_daemon::Change;

/// A Registry as it was seen; without content where it cannot be used, in which case it selects nothing.
#[derive(Clone, Debug)]
pub struct SeenRegistry {
    /// The resource's name.
    pub name: String,
    /// What decisions rest on.
    pub registry: Option<Registry>,
}

/// A policy that does not change any more.
#[derive(Debug)]
pub struct PolicyVersion {
    /// Another number for each policy of this process.
    pub generation: u64,
    /// `None` until the Registries have been listed.
    pub policy: Option<Policy>,
}

/// The Registries of the cluster as one policy.
#[derive(Debug)]
pub struct Registries {
    /// The policy without any registry.
    frame: Policy,
    usable: Mutex<BTreeMap<String, Arc<Registry>>>,
    current: ArcSwap<PolicyVersion>,
}

impl Registries {
    /// Nothing is known yet; `frame` is what the process's own configuration says.
    pub fn new(frame: Policy) -> Self {
        Self {
            frame,
            usable: Mutex::default(),
            current: ArcSwap::from_pointee(PolicyVersion {
                generation: 0,
                policy: None,
            }),
        }
    }

    /// The policy of the moment.
    pub fn current(&self) -> Guard<Arc<PolicyVersion>> {
        self.current.load()
    }

    /// Takes a change of the watch over.
    pub fn apply(&self, change: Change<SeenRegistry>) {
        // a panic while the lock was held has left a map that is whole
        let mut usable = self.usable.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = match change {
            Change::Restarted(all) => {
                let listed = all
                    .into_iter()
                    .filter_map(|seen| Some((seen.name, Arc::new(seen.registry?))))
                    .collect();
                let changed = *usable != listed || self.current.load().policy.is_none();
                *usable = listed;
                changed
            }
            Change::Applied(seen) => match seen.registry {
                // most changes are to the status
                Some(registry) if usable.get(&seen.name).map(|r| &**r) == Some(&registry) => false,
                Some(registry) => {
                    usable.insert(seen.name, Arc::new(registry));
                    true
                }
                None => usable.remove(&seen.name).is_some(),
            },
            Change::Deleted(seen) => usable.remove(&seen.name).is_some(),
        };
        if changed {
            self.current.store(Arc::new(PolicyVersion {
                generation: self.current.load().generation + 1,
                policy: Some(Policy {
                    registries: usable.values().cloned().collect(),
                    ..self.frame.clone()
                }),
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::sample::registry;

    fn seen(name: &str, include: &[&str]) -> SeenRegistry {
        SeenRegistry {
            name: name.into(),
            registry: Some(registry(name, include)),
        }
    }

    fn names(registries: &Registries) -> Option<Vec<String>> {
        let current = registries.current();
        let policy = current.policy.as_ref()?;
        Some(policy.registries.iter().map(|r| r.name.clone()).collect())
    }

    #[test]
    fn before_the_first_list_there_is_no_policy() {
        let registries = Registries::new(Policy::default());
        assert_eq!(names(&registries), None);
        registries.apply(Change::Restarted(Vec::new()));
        assert_eq!(names(&registries), Some(Vec::new()));
    }

    #[test]
    fn changes_are_taken_over() {
        let registries = Registries::new(Policy::default());
        registries.apply(Change::Restarted(vec![
            seen("a", &["*"]),
            seen("b", &["*"]),
        ]));
        registries.apply(Change::Deleted(seen("a", &["*"])));
        registries.apply(Change::Applied(seen("c", &["*"])));
        assert_eq!(names(&registries).unwrap(), ["b", "c"]);
        registries.apply(Change::Applied(SeenRegistry {
            name: "b".into(),
            registry: None,
        }));
        assert_eq!(names(&registries).unwrap(), ["c"]);
        registries.apply(Change::Restarted(vec![seen("d", &["*"])]));
        assert_eq!(names(&registries).unwrap(), ["d"]);
    }

    #[test]
    fn only_what_decisions_rest_on_makes_a_new_policy() {
        let registries = Registries::new(Policy::default());
        registries.apply(Change::Restarted(vec![seen("a", &["*"])]));
        let before = registries.current().generation;
        registries.apply(Change::Applied(seen("a", &["*"])));
        registries.apply(Change::Restarted(vec![seen("a", &["*"])]));
        registries.apply(Change::Deleted(seen("unheard-of", &["*"])));
        assert_eq!(registries.current().generation, before);
        registries.apply(Change::Applied(seen("a", &["team"])));
        assert_ne!(registries.current().generation, before);
    }
}
