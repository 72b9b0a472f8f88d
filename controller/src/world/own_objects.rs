//! The copy and the PullAccess in each namespace, folded from their watches and from what was written.

use std::collections::HashSet;

use pullpass_daemon::Change;

use super::place::Place;
use super::{Inner, World};
use crate::observed::{Access, AccessContent, Copy, Version};
use crate::queue::Lane;

/// What Pullpass keeps in a namespace, one of each kind.
trait OwnObject: Sized {
    /// Where a place has it.
    fn slot(place: &mut Place) -> &mut Option<Self>;

    fn version(&self) -> &Version;

    /// Takes its place, unless a later state is there.
    fn fold(self, namespace: String, inner: &mut Inner);
}

impl OwnObject for Copy {
    fn slot(place: &mut Place) -> &mut Option<Self> {
        &mut place.copy
    }

    fn version(&self) -> &Version {
        &self.version
    }

    /// What was once ours stays ours whatever becomes of its labels.
    fn fold(mut self, namespace: String, inner: &mut Inner) {
        let place = inner.places.entry(namespace).or_default();
        if let Some(known) = &place.copy {
            if known.version.is_newer_than(&self.version) {
                return;
            }
            self.ours |= known.ours && known.version.uid == self.version.uid;
        }
        place.copy = Some(self);
    }
}

impl OwnObject for Access {
    fn slot(place: &mut Place) -> &mut Option<Self> {
        &mut place.access
    }

    fn version(&self) -> &Version {
        &self.version
    }

    fn fold(mut self, namespace: String, inner: &mut Inner) {
        self.content = AccessContent {
            registries: inner.lists.share(self.content.registries),
            ..self.content
        };
        let place = inner.places.entry(namespace).or_default();
        let is_outdated = place
            .access
            .as_ref()
            .is_some_and(|known| known.version.is_newer_than(&self.version));
        if !is_outdated {
            place.access = Some(self);
        }
    }
}

impl World {
    /// Folds the watch on copies, each with its namespace.
    pub(crate) fn copies_changed(&self, change: Change<(String, Copy)>) {
        let touched = self.lock().fold(change);
        self.namespaces.add_all(touched, Lane::Bulk);
    }

    /// Folds the watch on PullAccesses, each with its namespace.
    pub(crate) fn accesses_changed(&self, change: Change<(String, Access)>) {
        let mut inner = self.lock();
        if let Change::Restarted(_) = change {
            inner.lists.clear();
        }
        let touched = inner.fold(change);
        drop(inner);
        self.namespaces.add_all(touched, Lane::Bulk);
    }

    /// The copy in a namespace was written, or is known to be gone.
    pub(crate) fn wrote_copy(&self, namespace: &str, copy: Option<Copy>) {
        self.lock().fold_written(namespace, copy);
    }

    /// The PullAccess in a namespace was written, or is known to be gone.
    pub(crate) fn wrote_access(&self, namespace: &str, access: Option<Access>) {
        self.lock().fold_written(namespace, access);
    }
}

impl Inner {
    /// Returns the namespaces that are to be looked at.
    fn fold<T: OwnObject>(&mut self, change: Change<(String, T)>) -> Vec<String> {
        let mut touched = Vec::new();
        match change {
            Change::Restarted(objects) => {
                let there: HashSet<String> = objects.iter().map(|(ns, _)| ns.clone()).collect();
                for (name, place) in &mut self.places {
                    if !there.contains(name) && T::slot(place).take().is_some() {
                        touched.push(name.clone());
                    }
                }
                for (namespace, object) in objects {
                    touched.push(namespace.clone());
                    object.fold(namespace, self);
                }
            }
            Change::Applied((namespace, object)) => {
                touched.push(namespace.clone());
                object.fold(namespace, self);
            }
            Change::Deleted((namespace, object)) => {
                let is_it = |known: &mut T| known.version().uid == object.version().uid;
                if let Some(place) = self.places.get_mut(&namespace)
                    && T::slot(place).take_if(is_it).is_some()
                {
                    touched.push(namespace);
                }
            }
        }
        self.places.retain(|_, place| !place.is_empty());
        touched
    }

    fn fold_written<T: OwnObject>(&mut self, namespace: &str, written: Option<T>) {
        match written {
            Some(object) => object.fold(namespace.to_owned(), self),
            None => {
                if let Some(place) = self.places.get_mut(namespace) {
                    *T::slot(place) = None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::sample::{settled, team_a};
    use super::*;
    use crate::manifest::{self, FIELD_MANAGER};

    fn copy(uid: &str, resource_version: u64, labels: Value) -> Copy {
        Copy::observe(
            serde_json::from_value(json!({
                "metadata": {
                    "name": "pullpass", "namespace": "team-a",
                    "uid": uid, "resourceVersion": resource_version.to_string(),
                    "labels": labels,
                    "managedFields": [{"manager": FIELD_MANAGER, "operation": "Apply"}],
                },
                "type": "kubernetes.io/dockerconfigjson",
            }))
            .unwrap(),
        )
    }

    fn ours(uid: &str, resource_version: u64) -> Copy {
        copy(uid, resource_version, json!(manifest::copy_labels()))
    }

    fn seen(world: &World) -> Option<Copy> {
        world.place("team-a").1.and_then(|place| place.copy)
    }

    #[test]
    fn a_copy_whose_labels_were_taken_off_is_still_ours() {
        let world = settled();
        world.copies_changed(Change::Applied(("team-a".into(), ours("u", 1))));
        world.copies_changed(Change::Applied(("team-a".into(), copy("u", 2, json!({})))));
        let stripped = seen(&world).unwrap();
        assert!(stripped.ours && !stripped.labelled);
        // another object of that name is somebody else's
        world.copies_changed(Change::Applied(("team-a".into(), copy("v", 3, json!({})))));
        assert!(!seen(&world).unwrap().ours);
    }

    #[test]
    fn what_was_written_is_not_undone_by_older_news() {
        let world = settled();
        world.wrote_copy("team-a", Some(ours("u", 5)));
        world.copies_changed(Change::Applied(("team-a".into(), ours("u", 4))));
        assert_eq!(
            seen(&world).unwrap().version,
            Version {
                uid: "u".into(),
                resource_version: "5".into()
            }
        );
        // the deletion of the one before says nothing of this one
        world.copies_changed(Change::Deleted(("team-a".into(), ours("t", 3))));
        assert!(seen(&world).is_some());
        world.copies_changed(Change::Deleted(("team-a".into(), ours("u", 6))));
        assert!(seen(&world).is_none());
    }

    #[test]
    fn a_namespace_that_is_gone_leaves_nothing_behind() {
        let world = settled();
        world.copies_changed(Change::Applied(("team-a".into(), ours("u", 1))));
        world.namespaces_changed(Change::Deleted(team_a()));
        world.copies_changed(Change::Deleted(("team-a".into(), ours("u", 2))));
        assert!(world.place("team-a").1.is_none());
    }
}
