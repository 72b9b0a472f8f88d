//! Everything the controller knows of the cluster, folded from its watches, and which work follows from a change.

mod hand_over;
mod known;
mod namespaces;
mod nodes;
mod own_objects;
mod place;
mod questions;
mod registries;
mod rules;
mod runtime_hosts;
#[cfg(test)]
pub(crate) mod sample;
mod secrets;
mod settings;
mod shared_lists;
mod webhook_configuration;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Secret;
use pullpass_core::docker_config::Entries;
use tokio::sync::Notify;

#[cfg(test)]
pub(crate) use self::known::Withheld;
pub(crate) use self::known::{Findings, Known, Verdict};
use self::own_objects::OwnNews;
pub(crate) use self::place::{Place, Standing};
pub(crate) use self::settings::{PullSecrets, Settings};
use self::shared_lists::SharedLists;
pub(crate) use self::webhook_configuration::WebhookConfiguration;
use crate::credential::{self, LastGood};
use crate::heard::Heard;
use crate::inquiry::{Login, Question, Verification};
use crate::mirror::Mirror;
use crate::nodes::Nodes;
use crate::queue::{Lane, Queue};
use crate::rules::Rules;

/// The state, and the queues of work that follows from its changes.
#[derive(Debug)]
pub(crate) struct World {
    /// What the administrator has set.
    pub(crate) settings: Settings,
    /// Namespaces whose Secret and PullAccess may not be as they should.
    pub(crate) namespaces: Queue<String>,
    /// Registries whose credential or existence has to be looked at.
    pub(crate) registries: Queue<String>,
    /// Registries for which a cloud is to be asked for a token.
    pub(crate) logins: Queue<String>,
    /// Registries that are to be asked about a credential.
    pub(crate) verifications: Queue<String>,
    /// Something has changed that a status may speak of.
    pub(crate) statuses: Notify,
    /// Something has changed that certificates depend on.
    pub(crate) certificates: Notify,
    /// Something has changed that node bundles depend on.
    pub(crate) bundles: Notify,
    /// Namespaces have changed, and with them what selectors select.
    pub(crate) selections: Notify,
    /// A node may have become one that can take pods.
    pub(crate) taints: Notify,
    inner: Mutex<Inner>,
    nodes: Mutex<Nodes>,
    /// Whether nodes serve in place of copies.
    handed_over: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    registries: BTreeMap<String, Known>,
    secrets: Mirror<Arc<Secret>>,
    last_good: BTreeMap<String, LastGood>,
    heard: BTreeMap<String, Heard>,
    login_questions: HashMap<String, Arc<Question<Login>>>,
    verification_questions: HashMap<String, Arc<Question<Verification>>>,
    /// By Registry: what is left of its last good credential without what is withheld, and of which it is left.
    rests: HashMap<String, (Arc<Entries>, Arc<Entries>)>,
    places: HashMap<String, Place>,
    own_news: OwnNews,
    lists: SharedLists,
    webhook_configuration: Option<WebhookConfiguration>,
    rules: Arc<Rules>,
}

impl World {
    /// A world of which nothing is known yet.
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            namespaces: Queue::default(),
            registries: Queue::default(),
            logins: Queue::default(),
            verifications: Queue::default(),
            statuses: Notify::new(),
            certificates: Notify::new(),
            bundles: Notify::new(),
            selections: Notify::new(),
            taints: Notify::new(),
            inner: Mutex::default(),
            nodes: Mutex::default(),
            handed_over: AtomicBool::new(false),
        }
    }

    /// Everything has to be looked at: a new term has begun.
    pub(crate) fn look_at_everything(&self) {
        let mut inner = self.lock();
        // another has led meanwhile
        let names: Vec<String> = inner.registries.keys().cloned().collect();
        for name in names {
            inner.forget_answers(&name);
            if let Some(known) = inner.registries.get_mut(&name) {
                known.start_anew();
            }
            inner.begin_to_hear(&name);
        }
        drop(inner);
        self.publish();
        let inner = self.lock();
        let registries: BTreeSet<String> = inner
            .registries
            .keys()
            .cloned()
            .chain(
                inner
                    .secrets
                    .names()
                    .filter_map(|name| credential::registry_of(name).map(ToOwned::to_owned)),
            )
            .collect();
        let namespaces: Vec<String> = inner.places.keys().cloned().collect();
        drop(inner);
        self.registries.add_all(registries, Lane::Express);
        self.namespaces.add_all(namespaces, Lane::Bulk);
        self.statuses.notify_one();
        self.certificates.notify_one();
        self.bundles.notify_one();
        self.taints.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // what is folded is replaced as a whole
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
