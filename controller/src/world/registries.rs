//! The Registries, folded from their watch, and what is found out about them.

use std::collections::BTreeSet;
use std::sync::Arc;

use kube::ResourceExt;
use pullpass_api::{Registry, convert};
use pullpass_daemon::Change;
use tokio::time::Instant;

use super::known::{Findings, Known, Withheld};
use super::{Inner, World};
use crate::credential::LastGood;
use crate::queue::Lane;

impl World {
    /// Folds the watch on Registries.
    pub(crate) fn registries_changed(&self, change: Change<Registry>) {
        let mut touched = Vec::new();
        let mut inner = self.lock();
        match change {
            Change::Restarted(objects) => {
                let there: BTreeSet<String> = objects.iter().map(ResourceExt::name_any).collect();
                for (name, known) in &mut inner.registries {
                    if !there.contains(name) && known.gone_since.is_none() {
                        known.gone_since = Some(Instant::now());
                        touched.push(name.clone());
                    }
                }
                for object in objects {
                    touched.extend(inner.upsert_registry(object));
                }
            }
            Change::Applied(object) => touched.extend(inner.upsert_registry(object)),
            Change::Deleted(object) => {
                let name = object.name_any();
                if let Some(known) = inner.registries.get_mut(&name)
                    && known.object.metadata.uid == object.metadata.uid
                {
                    known.gone_since = Some(Instant::now());
                    touched.push(name);
                }
            }
        }
        drop(inner);
        self.statuses.notify_one();
        // how the runtime reaches a registry is no part of the rules
        self.bundles.notify_one();
        self.registries.add_all(touched, Lane::Express);
    }

    /// A status was written to what was known as `before`. The watch may have told of something later by now, such as another
    /// Registry of that name, which an answer must not take back.
    pub(crate) fn wrote_status(&self, before: &Registry, written: Registry) {
        let mut inner = self.lock();
        if let Some(known) = inner.registries.get(&written.name_any())
            && known.gone_since.is_none()
            && known.object.metadata.uid == before.metadata.uid
            && known.object.metadata.resource_version == before.metadata.resource_version
        {
            inner.upsert_registry(written);
        }
    }

    /// Everything that is known of a Registry.
    pub(crate) fn registry(&self, name: &str) -> Option<(Known, Option<LastGood>)> {
        let inner = self.lock();
        let known = inner.registries.get(name)?.clone();
        let last_good = inner.last_good_of(&known).cloned();
        Some((known, last_good))
    }

    /// All Registries.
    pub(crate) fn all_registries(&self) -> Vec<(Known, Option<LastGood>)> {
        let inner = self.lock();
        inner
            .registries
            .values()
            .map(|known| (known.clone(), inner.last_good_of(known).cloned()))
            .collect()
    }

    /// The Registry is gone for good.
    pub(crate) fn forget_registry(&self, name: &str) {
        let mut inner = self.lock();
        if inner
            .registries
            .get(name)
            .is_some_and(|known| known.gone_since.is_some())
        {
            inner.registries.remove(name);
            inner.last_good.remove(name);
            inner.forget_answers(name);
        }
        drop(inner);
        self.publish();
    }

    /// It was found out how a Registry's credential stands.
    pub(crate) fn judge(&self, name: &str, object: &Arc<Registry>, findings: Findings) {
        let mut inner = self.lock();
        let mut is_news = false;
        if let Some(known) = inner.registries.get_mut(name)
            && known.object.metadata.uid == object.metadata.uid
        {
            let withheld = Withheld::Keys(findings.withheld);
            is_news = known.withheld != withheld;
            known.withheld = withheld;
            if let Some(verdict) = findings.verdict {
                let verdict = (object.metadata.generation, verdict);
                is_news |= known.verdict != verdict;
                known.verdict = verdict;
            }
            if findings.verified.is_some() {
                is_news |= known.verified != findings.verified;
                known.verified = findings.verified;
            }
        }
        drop(inner);
        self.publish();
        if is_news {
            self.statuses.notify_one();
        }
    }
}

impl Inner {
    /// Returns the Registry's name where more than its status has changed.
    fn upsert_registry(&mut self, object: Registry) -> Option<String> {
        let name = object.name_any();
        let object = Arc::new(object);
        let converted = convert::registry(&object).ok().map(Arc::new);
        let Some(known) = self.registries.get_mut(&name) else {
            self.registries
                .insert(name.clone(), Known::new(object, converted));
            self.begin_to_hear(&name);
            return Some(name);
        };
        let is_same_object = known.object.metadata.uid == object.metadata.uid;
        let is_unchanged =
            is_same_object && known.gone_since.is_none() && known.object.spec == object.spec;
        known.domain = match converted {
            Some(converted) => Some(converted),
            None if is_same_object => known.domain.take(),
            None => None,
        };
        known.gone_since = None;
        known.object = object;
        if !is_same_object {
            known.start_anew();
            self.forget_answers(&name);
            self.begin_to_hear(&name);
            return Some(name);
        }
        if is_unchanged {
            // the verdict holds for the generation that only other metadata has moved to
            known.verdict.0 = known.object.metadata.generation;
            return None;
        }
        Some(name)
    }

    pub(super) fn last_good_of(&self, known: &Known) -> Option<&LastGood> {
        let name = known.object.metadata.name.as_deref()?;
        self.last_good.get(name).filter(|last_good| {
            Some(last_good.registry_uid.as_str()) == known.object.metadata.uid.as_deref()
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::sample::{desired, is_delivered, registry, settled, world};
    use super::*;
    use crate::plan::Desired;
    use crate::world::Verdict;

    #[test]
    fn the_answer_to_a_written_status_takes_nothing_back() {
        let world = world();
        let at = |uid: &str, version: &str, priority: u64| {
            registry(
                uid,
                json!({"/metadata/resourceVersion": version, "/spec/priority": priority}),
            )
        };
        let known = || world.registry("acme").unwrap().0;
        let before = at("a", "1", 0);
        world.registries_changed(Change::Applied(before.clone()));
        world.wrote_status(&before, at("a", "2", 0));
        let version = known().object.metadata.resource_version.clone();
        assert_eq!(version.as_deref(), Some("2"));

        // the watch was quicker to tell of a change
        let before = at("a", "2", 0);
        world.registries_changed(Change::Applied(at("a", "4", 7)));
        world.wrote_status(&before, at("a", "3", 0));
        assert_eq!(known().object.spec.priority, 7);

        // and of another Registry of that name
        let before = at("a", "4", 7);
        world.registries_changed(Change::Deleted(before.clone()));
        world.wrote_status(&before, at("a", "5", 7));
        assert!(known().gone_since.is_some());
        world.registries_changed(Change::Applied(at("b", "7", 0)));
        world.wrote_status(&before, at("a", "5", 7));
        assert_eq!(known().object.metadata.uid.as_deref(), Some("b"));
    }

    #[test]
    fn a_deleted_registry_counts_until_it_is_believed() {
        let world = settled();
        world.registries_changed(Change::Deleted(registry("r-1", json!({}))));
        world.publish();
        assert!(is_delivered(&world));
        world.forget_registry("acme");
        assert_eq!(desired(&world), Desired::Nothing);
        // a list without it says the same
        let world = settled();
        world.registries_changed(Change::Restarted(Vec::new()));
        world.publish();
        assert!(is_delivered(&world));
        assert!(world.registry("acme").unwrap().0.gone_since.is_some());
    }

    #[test]
    fn a_registry_that_is_back_is_not_forgotten() {
        let world = settled();
        world.registries_changed(Change::Deleted(registry("r-1", json!({}))));
        world.registries_changed(Change::Applied(registry("r-2", json!({}))));
        world.forget_registry("acme");
        let (known, last_good) = world.registry("acme").unwrap();
        assert_eq!(known.verdict.1, Verdict::Pending);
        // what was kept for the one before is not for this one
        assert!(last_good.is_none());
    }

    #[test]
    fn a_registry_that_came_to_contradict_itself_selects_what_it_did() {
        let world = settled();
        let broken = registry(
            "r-1",
            json!({"/spec/host": "r.example.com:99999", "/metadata/generation": 2}),
        );
        world.registries_changed(Change::Applied(broken));
        world.publish();
        assert!(is_delivered(&world));
    }
}
