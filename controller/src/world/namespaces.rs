//! The namespaces, folded from their watch, and how they stand.

use std::collections::BTreeSet;
use std::sync::Arc;

use pullpass_core::policy::Namespace;
use pullpass_daemon::Change;

use super::place::{Place, Standing};
use super::{Inner, World};
use crate::queue::Lane;
use crate::rules::Rules;

impl World {
    /// Folds the watch on namespaces.
    pub(crate) fn namespaces_changed(&self, change: Change<Namespace>) {
        let mut touched = Vec::new();
        let mut new = Vec::new();
        let mut inner = self.lock();
        match change {
            Change::Restarted(namespaces) => {
                let there: BTreeSet<String> = namespaces.iter().map(|ns| ns.name.clone()).collect();
                for (name, place) in &mut inner.places {
                    if !there.contains(name) && place.namespace.take().is_some() {
                        place.standing = None;
                    }
                }
                for namespace in namespaces {
                    touched.push(namespace.name.clone());
                    inner.upsert_namespace(namespace);
                }
            }
            Change::Applied(namespace) => {
                let name = namespace.name.clone();
                match inner.upsert_namespace(namespace) {
                    Upsert::New => new.push(name),
                    Upsert::Changed => touched.push(name),
                    Upsert::Same => {}
                }
            }
            Change::Deleted(namespace) => {
                if let Some(place) = inner.places.get_mut(&namespace.name) {
                    place.namespace = None;
                    place.standing = None;
                }
            }
        }
        inner.places.retain(|_, place| !place.is_empty());
        drop(inner);
        self.statuses.notify_one();
        self.selections.notify_one();
        self.namespaces.add_all(touched, Lane::Bulk);
        self.namespaces.add_all(new, Lane::Express);
    }

    /// The rules in force, and what is known of a namespace.
    pub(crate) fn place(&self, namespace: &str) -> (Arc<Rules>, Option<Place>) {
        let inner = self.lock();
        (
            Arc::clone(&inner.rules),
            inner.places.get(namespace).cloned(),
        )
    }

    /// All namespaces that exist.
    pub(crate) fn all_namespaces(&self) -> Vec<Arc<Namespace>> {
        let inner = self.lock();
        inner
            .places
            .values()
            .filter_map(|place| place.namespace.clone())
            .collect()
    }

    /// How a namespace stands now.
    pub(crate) fn stands(&self, namespace: &str, standing: Standing) {
        let mut inner = self.lock();
        let Some(place) = inner.places.get_mut(namespace) else {
            return;
        };
        if place.namespace.is_none() || place.standing.as_ref() == Some(&standing) {
            return;
        }
        place.standing = Some(standing);
        drop(inner);
        self.statuses.notify_one();
    }

    /// Calls `each` with every namespace that exists; returns the revision of the rules in force.
    pub(crate) fn survey(&self, mut each: impl FnMut(&str, Option<&Standing>)) -> u64 {
        let inner = self.lock();
        for (name, place) in &inner.places {
            if place.namespace.is_some() {
                each(name, place.standing.as_ref());
            }
        }
        inner.rules.revision
    }
}

enum Upsert {
    New,
    Changed,
    Same,
}

impl Inner {
    fn upsert_namespace(&mut self, namespace: Namespace) -> Upsert {
        let place = self.places.entry(namespace.name.clone()).or_default();
        let upsert = match &place.namespace {
            None => Upsert::New,
            Some(known) if **known == namespace => return Upsert::Same,
            Some(_) => Upsert::Changed,
        };
        place.namespace = Some(Arc::new(namespace));
        upsert
    }
}
