//! The Secrets of Pullpass's own namespace, folded from their watch and from what was written.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use pullpass_daemon::Change;

use super::{Inner, World};
use crate::credential::{self, LastGood};
use crate::mirror::Versioned;
use crate::observed::Version;
use crate::queue::Lane;
use crate::source;

impl World {
    /// Folds the watch on Secrets of our own namespace.
    pub(crate) fn secrets_changed(&self, change: Change<Secret>) {
        let mut inner = self.lock();
        let changed: BTreeSet<String> = match change {
            Change::Restarted(secrets) => {
                let before: Vec<String> = inner.secrets.names().cloned().collect();
                let secrets = secrets.into_iter().map(|s| (s.name_any(), Arc::new(s)));
                inner.secrets.restarted(secrets.collect());
                let now = inner.secrets.names().cloned();
                before.into_iter().chain(now).collect()
            }
            Change::Applied(secret) => {
                let name = secret.name_any();
                inner.secrets.applied(name.clone(), Arc::new(secret));
                BTreeSet::from([name])
            }
            Change::Deleted(secret) => {
                let name = secret.name_any();
                inner.secrets.deleted(&name, &Version::of(&secret.metadata));
                BTreeSet::from([name])
            }
        };
        let touched: Vec<String> = changed
            .iter()
            .flat_map(|name| inner.secret_changed(name))
            .collect();
        drop(inner);
        self.certificates.notify_one();
        self.bundles.notify_one();
        self.registries.add_all(touched, Lane::Express);
    }

    /// A Secret of our own namespace.
    pub(crate) fn secret(&self, name: &str) -> Option<Arc<Secret>> {
        self.lock().secrets.get(name).map(Arc::clone)
    }

    /// A Secret of our own namespace was written: what the watch will tell as well.
    pub(crate) fn wrote_secret(&self, name: &str, secret: Secret) {
        let mut inner = self.lock();
        inner.secrets.written(name, Arc::new(secret));
        inner.secret_changed(name);
    }

    /// The Secret of our own namespace of which this was a version is gone.
    pub(crate) fn deleted_secret(&self, name: &str, version: &Version) {
        let mut inner = self.lock();
        inner.secrets.gone(name, version);
        inner.secret_changed(name);
    }
}

impl Versioned for Arc<Secret> {
    fn version(&self) -> Version {
        Version::of(&self.metadata)
    }
}

impl Inner {
    /// Returns the Registries that have to do with a Secret of our namespace.
    fn secret_changed(&mut self, name: &str) -> Vec<String> {
        let mut touched: Vec<String> = self
            .registries
            .iter()
            .filter(|(_, known)| source::secret_names(&known.object.spec).any(|of| of == name))
            .map(|(registry, _)| registry.clone())
            .collect();
        if let Some(registry) = credential::registry_of(name) {
            touched.push(registry.to_owned());
            let stored = self
                .secrets
                .get(name)
                .and_then(|secret| LastGood::read(secret));
            match (stored, self.last_good.get_mut(registry)) {
                (Some(mut stored), Some(known)) => {
                    // rules compare entries by identity
                    if stored.digest == known.digest && stored.registry_uid == known.registry_uid {
                        stored.entries = Arc::clone(&known.entries);
                    }
                    *known = stored;
                }
                (Some(stored), None) => {
                    self.last_good.insert(registry.to_owned(), stored);
                }
                // what was good stays good; it is stored again from here
                (None, Some(known)) => known.is_stored = false,
                (None, None) => {}
            }
        }
        touched
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{credential, is_delivered, settled};
    use super::*;

    #[test]
    fn a_lost_credential_stays_in_use() {
        let world = settled();
        world.secrets_changed(Change::Deleted(credential("r-1", "dTpw")));
        world.publish();
        assert!(is_delivered(&world));
        assert!(!world.registry("acme").unwrap().1.unwrap().is_stored);
        // damaged is as good as gone
        let world = settled();
        world.secrets_changed(Change::Applied(credential("r-1", "nonsense")));
        world.publish();
        assert!(is_delivered(&world));
        assert!(!world.registry("acme").unwrap().1.unwrap().is_stored);
    }
}
