//! The rules in force, made of everything that is known.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use pullpass_core::bundle::NODES_NAMESPACE;
use pullpass_core::docker_config::Entries;
use pullpass_core::key::RegistryKey;
use pullpass_core::policy::Policy;
use pullpass_core::provider::serves_public_images;
use pullpass_core::reason::Reason;
use pullpass_core::registry::CredentialKind;

use super::known::{Verdict, Withheld};
use super::settings::Settings;
use super::{Inner, World};
use crate::queue::Lane;
use crate::rules::{Rules, Uncertain};

impl World {
    /// Makes new rules of what is known, and has all namespaces looked at if they differ from those before.
    pub(crate) fn publish(&self) {
        let mut inner = self.lock();
        let rules = inner.make_rules(&self.settings);
        if rules.is_same(&inner.rules) && inner.rules.revision > 0 {
            return;
        }
        inner.rules = Arc::new(rules);
        let all: Vec<String> = inner.places.keys().cloned().collect();
        drop(inner);
        self.namespaces.add_all(all, Lane::Bulk);
        self.statuses.notify_one();
        self.bundles.notify_one();
    }

    /// The rules in force.
    pub(crate) fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.lock().rules)
    }
}

impl Inner {
    fn make_rules(&mut self, settings: &Settings) -> Rules {
        let names: Vec<String> = self.registries.keys().cloned().collect();
        let mut in_use: HashMap<String, Result<Arc<Entries>, Reason>> = names
            .into_iter()
            .filter_map(|name| {
                let entries = self.in_use(&name)?;
                Some((name, entries))
            })
            .collect();
        let mut uncertain = Uncertain::default();
        let mut policy = Policy {
            cluster_name: settings.cluster_name.clone(),
            own_namespaces: BTreeSet::from([
                settings.namespace.clone(),
                NODES_NAMESPACE.to_owned(),
            ]),
            admitted_system_namespaces: settings.system_namespaces.clone(),
            registries: Vec::new(),
        };
        let mut credentials = BTreeMap::new();
        for (name, known) in &self.registries {
            let Some(domain) = &known.domain else {
                uncertain.unreadable.insert(name.clone());
                continue;
            };
            policy.registries.push(Arc::clone(domain));
            let credential = match in_use.remove(name) {
                Some(in_use) => in_use,
                None => {
                    let had_one = known
                        .object
                        .status
                        .as_ref()
                        .is_some_and(|status| status.credentials.is_some());
                    let needs_one = domain.credential == CredentialKind::Copied;
                    if needs_one && (had_one || known.verdict.1 == Verdict::Pending) {
                        uncertain.lost.insert(name.clone());
                    }
                    Err(match &known.verdict.1 {
                        Verdict::Bad { reason, .. } => *reason,
                        Verdict::Pending
                        | Verdict::Public
                        | Verdict::Held
                        | Verdict::Good
                        | Verdict::Invalid(_) => Reason::CredentialPending,
                    })
                }
            };
            credentials.insert(name.clone(), credential);
        }
        Rules::new(self.rules.revision + 1, policy, credentials, uncertain)
    }

    /// The last good credential without what is withheld of it; the reason where that is all of it.
    fn in_use(&mut self, name: &str) -> Option<Result<Arc<Entries>, Reason>> {
        let known = self.registries.get(name)?;
        let entries = Arc::clone(&self.last_good_of(known)?.entries);
        let withheld: BTreeMap<&RegistryKey, Reason> = match &known.withheld {
            Withheld::Keys(keys) => keys.iter().map(|(key, reason)| (key, *reason)).collect(),
            Withheld::AsBefore => entries
                .keys()
                .filter(|key| serves_public_images(key))
                .map(|key| (key, Reason::CredentialWithheld))
                .collect(),
        };
        let is_kept = |key: &RegistryKey| !withheld.contains_key(key);
        let count = entries.keys().filter(|key| is_kept(key)).count();
        if count == entries.len() {
            return Some(Ok(entries));
        }
        if let (0, Some(reason)) = (count, withheld.values().next()) {
            return Some(Err(*reason));
        }
        // rules compare entries by identity
        if let Some((of, rest)) = self.rests.get(name)
            && Arc::ptr_eq(of, &entries)
            && rest.len() == count
            && rest.keys().all(is_kept)
        {
            return Some(Ok(Arc::clone(rest)));
        }
        let rest: Entries = entries
            .iter()
            .filter(|(key, _)| is_kept(key))
            .map(|(key, login)| (key.clone(), login.clone()))
            .collect();
        let rest = Arc::new(rest);
        self.rests
            .insert(name.to_owned(), (entries, Arc::clone(&rest)));
        Some(Ok(rest))
    }
}

#[cfg(test)]
mod tests {
    use pullpass_daemon::Change;
    use serde_json::json;

    use super::super::sample::{credential, registry, settled};

    #[test]
    fn only_what_matters_makes_new_rules() {
        let world = settled();
        let revision = world.place("team-a").0.revision;
        let with_status = registry("r-1", json!({"/status": {"observedGeneration": 1}}));
        world.registries_changed(Change::Applied(with_status));
        world.secrets_changed(Change::Applied(credential("r-1", "dTpw")));
        world.publish();
        assert_eq!(world.place("team-a").0.revision, revision);
        world.secrets_changed(Change::Applied(credential("r-1", "dTpwMg==")));
        world.publish();
        assert_eq!(world.place("team-a").0.revision, revision + 1);
    }
}
