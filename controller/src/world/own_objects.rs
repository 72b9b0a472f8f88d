//! The copy and the PullAccess in each namespace, folded from their watches and from what was written.

use std::collections::HashSet;

use pullpass_daemon::Change;

use super::{Inner, World};
use crate::observed::{Access, AccessContent, Copy};
use crate::queue::Lane;

impl World {
    /// Folds the watch on copies, each with its namespace.
    pub(crate) fn copies_changed(&self, change: Change<(String, Copy)>) {
        let mut touched = Vec::new();
        let mut inner = self.lock();
        match change {
            Change::Restarted(copies) => {
                let there: HashSet<String> = copies.iter().map(|(ns, _)| ns.clone()).collect();
                for (name, place) in &mut inner.places {
                    if place.copy.is_some() && !there.contains(name) {
                        place.copy = None;
                        touched.push(name.clone());
                    }
                }
                for (namespace, copy) in copies {
                    touched.push(namespace.clone());
                    inner.fold_copy(namespace, copy);
                }
            }
            Change::Applied((namespace, copy)) => {
                touched.push(namespace.clone());
                inner.fold_copy(namespace, copy);
            }
            Change::Deleted((namespace, copy)) => {
                if let Some(place) = inner.places.get_mut(&namespace)
                    && place
                        .copy
                        .as_ref()
                        .is_some_and(|known| known.version.uid == copy.version.uid)
                {
                    place.copy = None;
                    touched.push(namespace);
                }
            }
        }
        inner.places.retain(|_, place| !place.is_empty());
        drop(inner);
        self.namespaces.add_all(touched, Lane::Bulk);
    }

    /// The copy in a namespace was written, or is known to be gone.
    pub(crate) fn wrote_copy(&self, namespace: &str, copy: Option<Copy>) {
        let mut inner = self.lock();
        match copy {
            Some(copy) => inner.fold_copy(namespace.to_owned(), copy),
            None => {
                if let Some(place) = inner.places.get_mut(namespace) {
                    place.copy = None;
                }
            }
        }
    }

    /// Folds the watch on PullAccesses, each with its namespace.
    pub(crate) fn accesses_changed(&self, change: Change<(String, Access)>) {
        let mut touched = Vec::new();
        let mut inner = self.lock();
        match change {
            Change::Restarted(accesses) => {
                let there: HashSet<String> = accesses.iter().map(|(ns, _)| ns.clone()).collect();
                for (name, place) in &mut inner.places {
                    if place.access.is_some() && !there.contains(name) {
                        place.access = None;
                        touched.push(name.clone());
                    }
                }
                inner.lists.clear();
                for (namespace, access) in accesses {
                    touched.push(namespace.clone());
                    inner.fold_access(namespace, access);
                }
            }
            Change::Applied((namespace, access)) => {
                touched.push(namespace.clone());
                inner.fold_access(namespace, access);
            }
            Change::Deleted((namespace, access)) => {
                if let Some(place) = inner.places.get_mut(&namespace)
                    && place
                        .access
                        .as_ref()
                        .is_some_and(|known| known.version.uid == access.version.uid)
                {
                    place.access = None;
                    touched.push(namespace);
                }
            }
        }
        inner.places.retain(|_, place| !place.is_empty());
        drop(inner);
        self.namespaces.add_all(touched, Lane::Bulk);
    }

    /// The PullAccess in a namespace was written, or is known to be gone.
    pub(crate) fn wrote_access(&self, namespace: &str, access: Option<Access>) {
        let mut inner = self.lock();
        match access {
            Some(access) => inner.fold_access(namespace.to_owned(), access),
            None => {
                if let Some(place) = inner.places.get_mut(namespace) {
                    place.access = None;
                }
            }
        }
    }
}

impl Inner {
    /// Keeps the later of two states; what was once ours stays ours whatever becomes of its labels.
    fn fold_copy(&mut self, namespace: String, mut copy: Copy) {
        let place = self.places.entry(namespace).or_default();
        if let Some(known) = &place.copy {
            if known.version.is_newer_than(&copy.version) {
                return;
            }
            copy.ours |= known.ours && known.version.uid == copy.version.uid;
        }
        place.copy = Some(copy);
    }

    fn fold_access(&mut self, namespace: String, mut access: Access) {
        access.content = AccessContent {
            registries: self.lists.share(access.content.registries),
            ..access.content
        };
        let place = self.places.entry(namespace).or_default();
        let is_outdated = place
            .access
            .as_ref()
            .is_some_and(|known| known.version.is_newer_than(&access.version));
        if !is_outdated {
            place.access = Some(access);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::sample::{settled, team_a};
    use super::*;
    use crate::manifest::{self, FIELD_MANAGER};
    use crate::observed::Version;

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
