//! Everything the controller knows of the cluster, folded from its watches, and which work follows from a change.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use pullpass_api::NodePullAccess;
use pullpass_api::convert;
use pullpass_api::pull_access::RegistryAccess;
use pullpass_api::registry::{Registry, Tls, TlsMode};
use pullpass_core::bundle::{Mode, NODES_NAMESPACE, RuntimeHost};
use pullpass_core::docker_config::Entries;
use pullpass_core::key::RegistryKey;
use pullpass_core::match_images::MatchImages;
use pullpass_core::policy::{Namespace, Policy};
use pullpass_core::provider::serves_public_images;
use pullpass_core::reason::Reason;
use pullpass_core::registry::{CredentialKind, Registry as DomainRegistry};
use pullpass_core::render::Outcome;
use pullpass_daemon::Change;
use pullpass_providers::connection::Via;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clock;
use crate::credential::{self, LastGood};
use crate::inquiry::{Login, Question, Verification};
use crate::manifest::AUTHORITY_SECRET;
use crate::nodes::{BundleSecret, BundleStanding, NodeTally, Nodes};
use crate::observed::{Access, AccessContent, Copy};
use crate::plan::State;
use crate::queue::{Lane, Queue};
use crate::rules::{Rules, Uncertain};
use crate::source;
use crate::taint::Tainted;
use crate::upkeep::{Before, FailedLogin, Heard, Issued, Next, Verified};

/// What an administrator sets for the whole cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// Pullpass's own namespace.
    pub(crate) namespace: String,
    /// This cluster's name.
    pub(crate) cluster_name: Option<String>,
    /// System namespaces that may be selected.
    pub(crate) system_namespaces: BTreeSet<String>,
    /// The name of the copies.
    pub(crate) pull_secret_name: String,
    /// The name of the webhook's certificate.
    pub(crate) serving_secret: String,
    /// How often a good credential is verified anew; `None` where none is verified.
    pub(crate) verify_interval: Option<Duration>,
    /// The way to registries and clouds where a Registry names none.
    pub(crate) via: Via,
    /// Whether namespaces get pull secrets.
    pub(crate) pull_secrets: PullSecrets,
    /// How nodes hold credentials, where they do.
    pub(crate) nodes: Option<Mode>,
    /// The images that kubelet asks the plugin about, where there is one.
    pub(crate) match_images: Option<MatchImages>,
    /// Whether nodes are to give up what they hold.
    pub(crate) withdraw_nodes: bool,
    /// Whether the startup taint is taken off nodes.
    pub(crate) startup_taint: bool,
    /// How long kubelet may go on with what it has read on a node before.
    pub(crate) kubelet_cache: Duration,
}

/// Whether namespaces get pull secrets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum PullSecrets {
    /// They do.
    #[default]
    On,
    /// They do not; copies that are there stay until nodes serve in their place.
    Off,
}

impl Settings {
    /// Whether a Secret of this name in Pullpass's own namespace is the controller's to write, and so nobody's input.
    pub(crate) fn is_written_by_us(&self, name: &str) -> bool {
        [
            &self.pull_secret_name,
            &self.serving_secret,
            AUTHORITY_SECRET,
        ]
        .contains(&name)
            || credential::registry_of(name).is_some()
    }
}

/// How a Registry's credential stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its turn has not come.
    #[default]
    Pending,
    /// It needs none.
    Public,
    /// Each namespace holds it; there is none to copy.
    Held,
    /// It was read, and is kept as the last good one.
    Good,
    /// It cannot be had; the last good one stays, if there is one.
    Bad {
        /// The category.
        reason: Reason,
        /// What is wrong, without any content.
        message: String,
    },
    /// The Registry contradicts itself.
    Invalid(String),
}

/// A Registry with all that belongs to it.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// As it was last seen.
    pub(crate) object: Arc<Registry>,
    /// Since when it is deleted, where it is not yet certain that its CRD is not.
    pub(crate) gone_since: Option<Instant>,
    /// As the decisions see it; from an earlier version where it is invalid now.
    pub(crate) domain: Option<Arc<DomainRegistry>>,
    /// How its credential stands, and for which generation that was found out.
    pub(crate) verdict: (Option<i64>, Verdict),
    /// What is known of its verification; `None` where that is what the status says.
    pub(crate) verified: Option<Verified>,
    /// Keys whose login in use is kept out of every copy, and why.
    pub(crate) withheld: Withheld,
}

/// What of a credential in use is kept out of every copy, since it would stand in the way of public images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Withheld {
    /// Another process has withheld the credential, as the status says; how it stands has yet to be found out.
    AsBefore,
    /// These keys, each with its reason.
    Keys(BTreeMap<RegistryKey, Reason>),
}

impl Withheld {
    /// Whether there is anything.
    pub(crate) fn is_any(&self) -> bool {
        match self {
            Self::AsBefore => true,
            Self::Keys(keys) => !keys.is_empty(),
        }
    }
}

impl Known {
    /// A Registry of which nothing is known but what its status says.
    pub(crate) fn new(object: Arc<Registry>, domain: Option<Arc<DomainRegistry>>) -> Self {
        let mut known = Self {
            object,
            gone_since: None,
            domain,
            verdict: (None, Verdict::Pending),
            verified: None,
            withheld: Withheld::Keys(BTreeMap::new()),
        };
        known.start_anew();
        known
    }

    /// Nothing is known any more but what the status says.
    fn start_anew(&mut self) {
        self.verdict = (None, Verdict::Pending);
        self.verified = None;
        self.withheld = if Before::of(&self.object).is_withheld {
            Withheld::AsBefore
        } else {
            Withheld::Keys(BTreeMap::new())
        };
    }
}

/// What was found out about a Registry's credential.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    /// How it stands; `None` where it stands as before.
    pub(crate) verdict: Option<Verdict>,
    /// What is known of its verification; `None` where that is as before.
    pub(crate) verified: Option<Verified>,
    /// Keys whose login in use is kept out of every copy, and why.
    pub(crate) withheld: BTreeMap<RegistryKey, Reason>,
}

impl Findings {
    /// What the next step says.
    pub(crate) fn of(next: Next) -> Self {
        Self {
            verdict: next.verdict,
            verified: next.verified,
            withheld: next.withheld,
        }
    }
}

impl From<Verdict> for Findings {
    fn from(verdict: Verdict) -> Self {
        Self {
            verdict: Some(verdict),
            ..Self::default()
        }
    }
}

/// How a namespace stood when it was last looked at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Standing {
    /// The rules it was judged by.
    pub(crate) revision: u64,
    /// What became of each registry that it may use.
    pub(crate) outcomes: Arc<[Outcome]>,
    /// What became of each registry in the docker config for installers, in Pullpass's own namespace.
    pub(crate) installers: Arc<[Outcome]>,
    /// How its Secret stands; `None` while that is under way.
    pub(crate) state: Option<State>,
}

/// A namespace with all that is in it of ours.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    /// The namespace itself.
    pub(crate) namespace: Option<Arc<Namespace>>,
    /// The Secret of the copies' name.
    pub(crate) copy: Option<Copy>,
    /// The PullAccess.
    pub(crate) access: Option<Access>,
    /// How it stands.
    pub(crate) standing: Option<Standing>,
}

impl Place {
    fn is_empty(&self) -> bool {
        self.namespace.is_none() && self.copy.is_none() && self.access.is_none()
    }
}

/// The webhook configuration, as far as certificates need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WebhookConfiguration {
    /// Its version.
    pub(crate) version: crate::observed::Version,
    /// Its webhooks that point to our Service, each with its `caBundle`.
    pub(crate) webhooks: Vec<(String, Vec<u8>)>,
}

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
    secrets: BTreeMap<String, Arc<Secret>>,
    last_good: BTreeMap<String, LastGood>,
    heard: BTreeMap<String, Heard>,
    login_questions: HashMap<String, Arc<Question<Login>>>,
    verification_questions: HashMap<String, Arc<Question<Verification>>>,
    /// By Registry: what is left of its last good credential without what is withheld, and of which it is left.
    rests: HashMap<String, (Arc<Entries>, Arc<Entries>)>,
    places: HashMap<String, Place>,
    /// Lists of registries as PullAccesses hold them: most are the same, and are kept once.
    lists: HashSet<SharedList>,
    webhook_configuration: Option<WebhookConfiguration>,
    rules: Arc<Rules>,
}

/// A list that is equal to another by its text.
#[derive(Clone, Debug)]
struct SharedList(String, Arc<[RegistryAccess]>);

impl PartialEq for SharedList {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for SharedList {}

impl std::hash::Hash for SharedList {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl std::borrow::Borrow<str> for SharedList {
    fn borrow(&self) -> &str {
        &self.0
    }
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

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // what is folded is replaced as a whole
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

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

    /// Folds the watch on Secrets of our own namespace.
    pub(crate) fn secrets_changed(&self, change: Change<Secret>) {
        let mut inner = self.lock();
        let changed: BTreeSet<String> = match change {
            Change::Restarted(secrets) => {
                let before = std::mem::take(&mut inner.secrets);
                inner.secrets = secrets
                    .into_iter()
                    .map(|secret| (secret.name_any(), Arc::new(secret)))
                    .collect();
                before
                    .into_keys()
                    .chain(inner.secrets.keys().cloned())
                    .collect()
            }
            Change::Applied(secret) => {
                let name = secret.name_any();
                inner.secrets.insert(name.clone(), Arc::new(secret));
                BTreeSet::from([name])
            }
            Change::Deleted(secret) => {
                let name = secret.name_any();
                inner.secrets.remove(&name);
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

    /// Folds the watch on our webhook configuration.
    pub(crate) fn webhook_configuration_changed(&self, found: Option<WebhookConfiguration>) {
        self.lock().webhook_configuration = found;
        self.certificates.notify_one();
    }

    /// The webhook configuration, where there is one.
    pub(crate) fn webhook_configuration(&self) -> Option<WebhookConfiguration> {
        self.lock().webhook_configuration.clone()
    }

    /// A Secret of our own namespace.
    pub(crate) fn secret(&self, name: &str) -> Option<Arc<Secret>> {
        self.lock().secrets.get(name).map(Arc::clone)
    }

    /// A Secret of our own namespace was written, or is known to be gone: what the watch will tell as well.
    pub(crate) fn wrote_secret(&self, name: &str, secret: Option<Secret>) {
        let mut inner = self.lock();
        match secret {
            Some(secret) => inner.secrets.insert(name.to_owned(), Arc::new(secret)),
            None => inner.secrets.remove(name),
        };
        inner.secret_changed(name);
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

    /// What clouds and registries have said about a Registry's credential.
    pub(crate) fn heard(&self, name: &str) -> Option<Heard> {
        self.lock().heard.get(name).cloned()
    }

    /// The registry is now asked in this way. What another process has found out holds for the first one only.
    pub(crate) fn asks_in_way(&self, name: &str, way: &str) {
        if let Some(heard) = self.lock().heard.get_mut(name)
            && heard.way.as_deref() != Some(way)
        {
            if heard.way.is_some() {
                heard.before.is_verified = false;
            }
            heard.way = Some(way.to_owned());
        }
    }

    /// Sets what a cloud and the registry are to be asked; a question that is asked already goes on.
    pub(crate) fn ask(
        &self,
        name: &str,
        login: Option<Question<Login>>,
        verification: Option<Question<Verification>>,
    ) {
        let mut inner = self.lock();
        let is_new_login = set_question(&mut inner.login_questions, name, login);
        let is_new_verification =
            set_question(&mut inner.verification_questions, name, verification);
        drop(inner);
        if is_new_login {
            self.logins.add(name.to_owned(), Lane::Express);
        }
        if is_new_verification {
            self.verifications.add(name.to_owned(), Lane::Express);
        }
    }

    /// What a cloud is to be asked for a Registry.
    pub(crate) fn login_question(&self, name: &str) -> Option<Arc<Question<Login>>> {
        self.lock().login_questions.get(name).map(Arc::clone)
    }

    /// What a Registry is to be asked.
    pub(crate) fn verification_question(&self, name: &str) -> Option<Arc<Question<Verification>>> {
        self.lock().verification_questions.get(name).map(Arc::clone)
    }

    /// A cloud has answered.
    pub(crate) fn logged_in(
        &self,
        name: &str,
        question: &Arc<Question<Login>>,
        answer: Result<Issued, FailedLogin>,
    ) {
        let mut inner = self.lock();
        let is_asked = inner
            .login_questions
            .get(name)
            .is_some_and(|asked| Arc::ptr_eq(asked, question));
        if !is_asked {
            return;
        }
        let has_answer = answer.is_ok();
        if let Some(heard) = inner.heard.get_mut(name) {
            match answer {
                Ok(issued) => (heard.issued, heard.failed) = (Some(issued), None),
                Err(failed) => heard.failed = Some(failed),
            }
        }
        if has_answer {
            inner.login_questions.remove(name);
        }
        drop(inner);
        self.registries.add(name.to_owned(), Lane::Express);
    }

    /// The registries of a Registry's keys have answered.
    pub(crate) fn verified(
        &self,
        name: &str,
        question: &Arc<Question<Verification>>,
        answers: Vec<(RegistryKey, pullpass_providers::verify::Verification)>,
    ) {
        let now = clock::time_of_day();
        let mut inner = self.lock();
        let is_asked = inner
            .verification_questions
            .get(name)
            .is_some_and(|asked| Arc::ptr_eq(asked, question));
        if !is_asked {
            return;
        }
        inner.verification_questions.remove(name);
        if let Some(heard) = inner.heard.get_mut(name) {
            for (key, verification) in answers {
                if let Some(login) = question.about.entries.get(&key) {
                    let way = &question.about.way;
                    heard.add_proof(&key, login, way, verification, now);
                }
            }
        }
        drop(inner);
        self.registries.add(name.to_owned(), Lane::Express);
    }

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

    /// The rules in force, and what is known of a namespace.
    pub(crate) fn place(&self, namespace: &str) -> (Arc<Rules>, Option<Place>) {
        let inner = self.lock();
        (
            Arc::clone(&inner.rules),
            inner.places.get(namespace).cloned(),
        )
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
                    .keys()
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

/// Nodes, which most clusters keep out of this.
impl World {
    fn lock_nodes(&self) -> MutexGuard<'_, Nodes> {
        // what is folded is replaced as a whole
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Folds the watch on one of the bundles' Secrets.
    pub(crate) fn bundle_changed(&self, name: &str, found: Option<BundleSecret>) {
        self.wrote_bundle(name, found);
        self.bundles.notify_one();
    }

    /// A bundle's Secret was written, or is known to be gone: what the watch will tell as well.
    pub(crate) fn wrote_bundle(&self, name: &str, found: Option<BundleSecret>) {
        let mut nodes = self.lock_nodes();
        match found {
            None => {
                nodes.secrets.remove(name);
            }
            Some(found) => {
                let known = nodes.secrets.get(name);
                if !known.is_some_and(|known| known.version.is_newer_than(&found.version)) {
                    nodes.secrets.insert(name.to_owned(), found);
                }
            }
        }
    }

    /// Folds the watch on what nodes tell.
    pub(crate) fn nodes_changed(&self, change: Change<NodePullAccess>) {
        let mut nodes = self.lock_nodes();
        match change {
            Change::Restarted(states) => {
                nodes.states = states.into_iter().map(|s| (s.name_any(), s)).collect();
            }
            Change::Applied(state) => {
                nodes.states.insert(state.name_any(), state);
            }
            Change::Deleted(state) => {
                nodes.states.remove(&state.name_any());
            }
        }
        drop(nodes);
        self.statuses.notify_one();
        self.bundles.notify_one();
        self.taints.notify_one();
    }

    /// Folds the watch on the agent's DaemonSet: how many nodes are to run it.
    pub(crate) fn agents_changed(&self, agents: Option<usize>) {
        self.lock_nodes().agents = agents;
        self.statuses.notify_one();
        self.bundles.notify_one();
    }

    /// Folds the watch on nodes, where the startup taint is Pullpass's to take off.
    pub(crate) fn tainted_changed(&self, change: Change<Tainted>) {
        let mut nodes = self.lock_nodes();
        let seen = match change {
            Change::Restarted(all) => {
                nodes.tainted.clear();
                all
            }
            Change::Applied(node) => vec![node],
            Change::Deleted(node) => vec![Tainted {
                others: None,
                ..node
            }],
        };
        for node in seen {
            match node.others {
                Some(_) => nodes.tainted.insert(node.name.clone(), node),
                None => nodes.tainted.remove(&node.name),
            };
        }
        drop(nodes);
        self.taints.notify_one();
    }

    /// Nodes that are not to run pods yet.
    pub(crate) fn tainted(&self) -> Vec<Tainted> {
        self.lock_nodes().tainted.values().cloned().collect()
    }

    /// The startup taint was taken off this node.
    pub(crate) fn untainted(&self, node: &str) {
        self.lock_nodes().tainted.remove(node);
    }

    /// A bundle's Secret.
    pub(crate) fn bundle_secret(&self, name: &str) -> Option<BundleSecret> {
        self.lock_nodes().secrets.get(name).cloned()
    }

    /// The generation that the next content of a bundle's Secret has.
    pub(crate) fn next_generation(&self, name: &str) -> u64 {
        self.lock_nodes().next_generation(name)
    }

    /// How the bundles stand now.
    pub(crate) fn bundles_stand(&self, standing: BundleStanding) {
        let mut nodes = self.lock_nodes();
        if nodes.standing.as_ref() == Some(&standing) {
            return;
        }
        nodes.standing = Some(standing);
        drop(nodes);
        self.statuses.notify_one();
        self.taints.notify_one();
    }

    /// How nodes stand, and what the bundles came to.
    pub(crate) fn nodes(&self, mode: Mode) -> (NodeTally, Option<BundleStanding>) {
        let nodes = self.lock_nodes();
        (nodes.tally(mode), nodes.standing.clone())
    }

    /// Whether the node of this name holds what it should, and kubelet uses it.
    pub(crate) fn node_serves(&self, node: &str, mode: Mode, now: Timestamp) -> bool {
        self.lock_nodes().serves(node, mode, now)
    }

    /// Whether copies stay only until nodes serve in their place.
    pub(crate) fn awaits_nodes(&self) -> bool {
        self.settings.pull_secrets == PullSecrets::Off && !self.handed_over.load(Ordering::Acquire)
    }

    /// Nodes serve in place of copies, or nobody does any more.
    pub(crate) fn hand_over_to_nodes(&self) {
        self.handed_over.store(true, Ordering::Release);
        let all: Vec<String> = self.lock().places.keys().cloned().collect();
        self.namespaces.add_all(all, Lane::Bulk);
        self.statuses.notify_one();
    }

    /// Whether a namespace with this copy, or none, is to be given a pull secret at all.
    pub(crate) fn gives_copy(&self, namespace: &str, copy: Option<&Copy>) -> bool {
        match self.settings.pull_secrets {
            PullSecrets::On => true,
            // builders and installers use it there, and no pod
            PullSecrets::Off if namespace == self.settings.namespace => true,
            PullSecrets::Off => self.awaits_nodes() && copy.is_some_and(|copy| copy.ours),
        }
    }

    /// How the runtime is to reach registries, by the Registry's name, where that is another way than its own.
    pub(crate) fn runtime_hosts(&self) -> BTreeMap<String, RuntimeHost> {
        let inner = self.lock();
        let hosts = inner.registries.iter().filter_map(|(name, known)| {
            let connection = known.object.spec.connection.as_ref()?;
            let tls = connection.tls.as_ref();
            let host = RuntimeHost {
                ca: tls.and_then(|tls| inner.authorities(tls)),
                insecure: tls.is_some_and(|tls| tls.mode == TlsMode::Insecure),
                mirrors: connection.mirrors.clone(),
            };
            (host != RuntimeHost::default()).then(|| (name.clone(), host))
        });
        hosts.collect()
    }

    /// The rules in force.
    pub(crate) fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.lock().rules)
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
}

/// Returns whether the question is another than before.
fn set_question<T>(
    questions: &mut HashMap<String, Arc<Question<T>>>,
    name: &str,
    question: Option<Question<T>>,
) -> bool {
    match question {
        None => {
            questions.remove(name);
            false
        }
        Some(question) => {
            if questions
                .get(name)
                .is_some_and(|asked| asked.text == question.text)
            {
                return false;
            }
            questions.insert(name.to_owned(), Arc::new(question));
            true
        }
    }
}

enum Upsert {
    New,
    Changed,
    Same,
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

    /// The certificates in the Secret that a Registry names, where it is there.
    fn authorities(&self, tls: &Tls) -> Option<String> {
        const DEFAULT_KEY: &str = "ca.crt";
        let secret = self.secrets.get(&tls.ca_secret_ref.as_ref()?.name)?;
        let key = tls.ca_key.as_deref().unwrap_or(DEFAULT_KEY);
        let content = &secret.data.as_ref()?.get(key)?.0;
        String::from_utf8(content.clone()).ok()
    }

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

    fn last_good_of(&self, known: &Known) -> Option<&LastGood> {
        let name = known.object.metadata.name.as_deref()?;
        self.last_good.get(name).filter(|last_good| {
            Some(last_good.registry_uid.as_str()) == known.object.metadata.uid.as_deref()
        })
    }

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
            registries: self.shared_list(access.content.registries),
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

    fn shared_list(&mut self, list: Arc<[RegistryAccess]>) -> Arc<[RegistryAccess]> {
        /// More different lists than this are a cluster where nearly every namespace has its own.
        const MOST: usize = 1024;
        let Ok(text) = serde_json::to_string(&*list) else {
            return list;
        };
        if let Some(SharedList(_, known)) = self.lists.get(text.as_str()) {
            return Arc::clone(known);
        }
        if self.lists.len() >= MOST {
            self.lists
                .retain(|SharedList(_, list)| Arc::strong_count(list) > 1);
        }
        if self.lists.len() < MOST {
            self.lists.insert(SharedList(text, Arc::clone(&list)));
        }
        list
    }

    fn begin_to_hear(&mut self, name: &str) {
        if let Some(known) = self.registries.get(name) {
            let heard = Heard::nothing(clock::time_of_day(), Before::of(&known.object));
            self.heard.insert(name.to_owned(), heard);
        }
    }

    fn forget_answers(&mut self, name: &str) {
        self.heard.remove(name);
        self.login_questions.remove(name);
        self.verification_questions.remove(name);
        self.rests.remove(name);
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
}

#[cfg(test)]
mod tests;
