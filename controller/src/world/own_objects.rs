//! The copy and the PullAccess in each namespace, folded from their watches and from what was written.

use std::collections::HashSet;

use pullpass_daemon::Change;

use super::place::Place;
use super::{Inner, World};
use crate::mirror::News;
use crate::observed::{Access, AccessContent, Copy, Version};
use crate::queue::Lane;

/// What the watches have told.
#[derive(Debug, Default)]
pub(super) struct OwnNews {
    copies: News,
    accesses: News,
}

/// What Pullpass keeps in a namespace, one of each kind.
trait OwnObject: Sized {
    /// Where a place has it.
    fn slot(place: &mut Place) -> &mut Option<Self>;

    fn version(&self) -> &Version;

    /// What the watch on its kind has told.
    fn news(news: &mut OwnNews) -> &mut News;

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

    fn news(news: &mut OwnNews) -> &mut News {
        &mut news.copies
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

    fn news(news: &mut OwnNews) -> &mut News {
        &mut news.accesses
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

    /// The copy in a namespace was written.
    pub(crate) fn wrote_copy(&self, namespace: &str, copy: Copy) {
        self.lock().fold_written(namespace, copy);
    }

    /// The copy of which this was a version is gone.
    pub(crate) fn deleted_copy(&self, namespace: &str, version: &Version) {
        self.lock().fold_deleted::<Copy>(namespace, version);
    }

    /// The PullAccess in a namespace was written.
    pub(crate) fn wrote_access(&self, namespace: &str, access: Access) {
        self.lock().fold_written(namespace, access);
    }

    /// The PullAccess of which this was a version is gone.
    pub(crate) fn deleted_access(&self, namespace: &str, version: &Version) {
        self.lock().fold_deleted::<Access>(namespace, version);
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
                    T::news(&mut self.own_news).told(object.version());
                    object.fold(namespace, self);
                }
            }
            Change::Applied((namespace, object)) => {
                touched.push(namespace.clone());
                T::news(&mut self.own_news).told(object.version());
                object.fold(namespace, self);
            }
            Change::Deleted((namespace, object)) => {
                T::news(&mut self.own_news).told(object.version());
                if self.fold_deleted::<T>(&namespace, object.version()) {
                    touched.push(namespace);
                }
            }
        }
        self.places.retain(|_, place| !place.is_empty());
        touched
    }

    /// The answer to a write may come after the news of what became of the object since.
    fn fold_written<T: OwnObject>(&mut self, namespace: &str, written: T) {
        let is_there = self
            .places
            .get_mut(namespace)
            .is_some_and(|place| T::slot(place).is_some());
        if is_there || !T::news(&mut self.own_news).have_passed(written.version()) {
            written.fold(namespace.to_owned(), self);
        }
    }

    /// Whether it was there.
    fn fold_deleted<T: OwnObject>(&mut self, namespace: &str, version: &Version) -> bool {
        let is_it = |known: &mut T| known.version().uid == version.uid;
        self.places
            .get_mut(namespace)
            .is_some_and(|place| T::slot(place).take_if(is_it).is_some())
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
        world.wrote_copy("team-a", ours("u", 5));
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
    fn what_was_deleted_since_does_not_come_back_with_the_answer_to_a_write() {
        let world = settled();
        world.copies_changed(Change::Applied(("team-a".into(), ours("u", 4))));
        // written as version 5, and deleted before the answer has come
        world.copies_changed(Change::Applied(("team-a".into(), ours("u", 5))));
        world.copies_changed(Change::Deleted(("team-a".into(), ours("u", 6))));
        world.wrote_copy("team-a", ours("u", 5));
        assert!(seen(&world).is_none());
        // nor after the news of another namespace
        world.copies_changed(Change::Applied(("team-b".into(), ours("w", 9))));
        world.wrote_copy("team-a", ours("v", 8));
        assert!(seen(&world).is_none());
        world.wrote_copy("team-a", ours("v", 10));
        assert_eq!(seen(&world).unwrap().version.uid, "v");
    }

    #[test]
    fn a_deletion_says_nothing_of_what_came_after_it() {
        let world = settled();
        world.copies_changed(Change::Applied(("team-a".into(), ours("u", 1))));
        let deleted = seen(&world).unwrap().version;
        world.copies_changed(Change::Applied(("team-a".into(), copy("v", 3, json!({})))));
        world.deleted_copy("team-a", &deleted);
        assert_eq!(seen(&world).unwrap().version.uid, "v");
        let version = seen(&world).unwrap().version;
        world.deleted_copy("team-a", &version);
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
