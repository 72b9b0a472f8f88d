//! Watches that know how fresh they are.
//!
//! A watch lists, then follows, and folds what it sees into state of the caller's own; objects are projected
//! onto what is needed of them at once, so that no body is kept. It survives whatever the API server or the
//! network does: it goes on from where it was, or lists again, with backoff, for ever. What the caller holds
//! changes only by complete lists and by events; an error of any kind, a missing CRD (404) among them, freezes
//! it as it is.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use http::Request;
use kube::client::Body;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Resource};
use prometheus::{Gauge, GaugeVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use serde::de::DeserializeOwned;
use tokio::sync::watch as flag;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::service_fn;

use crate::deadline::{
    ANSWER_TIMEOUT, BODY_IDLE_TIMEOUT, BoundedBody, OnIdle, answer_within, is_watch,
};
use crate::error::BoxError;

mod failure;
mod pauses;
#[cfg(test)]
mod tests;

use failure::Reason;
use pauses::Pauses;

/// Without any answer from the API server for so long, a new process with new connections is worth a try.
pub const UNANSWERED: Duration = Duration::from_secs(300);

/// The API server ends a watch after so long, and it is taken up again. Below the five minutes after which
/// many load balancers drop a connection.
const WATCH_TIMEOUT_SECONDS: u32 = 290;

/// A watch with bookmarks hears from an API server about once a minute (bookmarkFrequency in apiserver's
/// cacher). A connection that has been silent for longer is half-open, or its watch has nothing to tell: in
/// either case a new request from the same resource version costs little and settles it.
const WATCH_IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// What happened to the objects of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<V> {
    /// These are all that there are: replace everything, in one go.
    Restarted(Vec<V>),
    /// This one was added or modified.
    Applied(V),
    /// This one is gone; its last state.
    Deleted(V),
}

impl<V> Change<V> {
    /// How the object is now, of a watch on one alone; `None` where it is not there.
    pub fn latest(self) -> Option<V> {
        match self {
            Self::Restarted(all) => all.into_iter().next(),
            Self::Applied(found) => Some(found),
            Self::Deleted(_) => None,
        }
    }
}

/// Which objects to watch, and under which name to speak of it.
#[derive(Debug, Clone)]
pub struct WatchSpec {
    name: &'static str,
    config: watcher::Config,
}

impl WatchSpec {
    /// Everything that the `Api` covers. The name labels metrics and log lines.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        // lists, then watches: streaming lists are off on Kubernetes 1.33, and kube does not fall back
        Self {
            name,
            config: watcher::Config::default().timeout(WATCH_TIMEOUT_SECONDS),
        }
    }

    /// Only objects that match this field selector, such as `metadata.name=pullpass`.
    #[must_use]
    pub fn fields(self, selector: &str) -> Self {
        Self {
            config: self.config.fields(selector),
            ..self
        }
    }

    /// Only objects of this name: the one in each namespace, or the one there is.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        self.fields(&format!("metadata.name={name}"))
    }

    /// Lists everything in one answer instead of pages. An API server gives the first page of a list from its memory,
    /// and reads the others from etcd, where it has to decode each object as a whole even if metadata alone is
    /// asked for. For objects that are many, large, and reduced to little.
    #[must_use]
    pub fn in_one_page(mut self) -> Self {
        self.config.page_size = None;
        self
    }

    /// Only objects that match this label selector.
    #[must_use]
    pub fn labels(self, selector: &str) -> Self {
        Self {
            config: self.config.labels(selector),
            ..self
        }
    }
}

/// How fresh the state folded from one watch is. Clones are views of the same watch.
#[derive(Debug, Clone)]
pub struct Freshness(Arc<Record>);

#[derive(Debug)]
struct Record {
    name: &'static str,
    started: Instant,
    /// milliseconds since `started`
    contact: AtomicU64,
    answer: AtomicU64,
    synced: flag::Sender<bool>,
    /// shared by all watches
    granted: flag::Sender<()>,
    last_contact: Gauge,
    synced_gauge: IntGauge,
    errors: IntCounterVec,
}

impl Freshness {
    /// The watch's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// How long ago the watch last heard from the API server that all is well: a list or watch that was
    /// granted, an event, a bookmark. Since the watch was added, if never.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.0.since(&self.0.contact)
    }

    /// How long ago the API server last gave the watch any answer, refusals included. It tells a connection
    /// that died in silence from a server that says no: a new process would help with the first only.
    #[must_use]
    pub fn unanswered(&self) -> Duration {
        self.0.since(&self.0.answer)
    }

    /// Whether a complete list was folded into the state, at some time in this process.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        *self.0.synced.borrow()
    }

    /// Resolves when a complete list has been folded into the state.
    pub async fn synced(&self) {
        // the sender lives in self
        let _ = self.0.synced.subscribe().wait_for(|synced| *synced).await;
    }
}

impl Record {
    fn since(&self, instant: &AtomicU64) -> Duration {
        self.started
            .elapsed()
            .saturating_sub(Duration::from_millis(instant.load(Ordering::Relaxed)))
    }

    fn stamp(&self, instant: &AtomicU64) {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        instant.fetch_max(elapsed, Ordering::Relaxed);
    }

    fn answered(&self) {
        self.stamp(&self.answer);
    }

    fn contacted(&self) {
        self.stamp(&self.answer);
        self.stamp(&self.contact);
        // before 1970 is no time worth telling
        if let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) {
            self.last_contact.set(now.as_secs_f64());
        }
    }

    fn sync(&self) {
        self.synced_gauge.set(1);
        if !self.synced.send_replace(true) {
            tracing::info!(watch = self.name, "first complete list");
        }
    }

    /// A client for this watch alone, which notes every answer and every frame: the watcher itself keeps
    /// bookmarks and reconnections to itself.
    fn observe(self: &Arc<Self>, client: &Client) -> Client {
        let namespace = client.default_namespace().to_owned();
        let client = client.clone();
        let record = Arc::clone(self);
        let service = service_fn(move |request: Request<Body>| {
            let client = client.clone();
            let record = Arc::clone(&record);
            async move {
                let idle = if is_watch(&request) {
                    (WATCH_IDLE_TIMEOUT, OnIdle::End)
                } else {
                    (BODY_IDLE_TIMEOUT, OnIdle::Fail)
                };
                let answer = answer_within(ANSWER_TIMEOUT, client.send(request)).await?;
                let granted = answer.status().is_success();
                if granted {
                    record.contacted();
                    record.granted.send_replace(());
                } else {
                    record.answered();
                }
                Ok::<_, BoxError>(answer.map(|body| {
                    BoundedBody::new(body, Some(idle)).on_frame(move || {
                        if granted {
                            record.contacted();
                        }
                    })
                }))
            }
        });
        Client::new(service, namespace)
    }
}

/// All watches of a process. Clones share them.
#[derive(Debug, Clone)]
pub struct Watches {
    records: Arc<Mutex<BTreeMap<&'static str, Arc<Record>>>>,
    granted: flag::Sender<()>,
    last_contact: GaugeVec,
    synced: IntGaugeVec,
    errors: IntCounterVec,
}

/// Why a watch could not be added.
#[derive(Debug, thiserror::Error)]
#[error("there is a watch {0:?} already")]
pub struct DuplicateWatch(&'static str);

impl Watches {
    /// No watches yet; registers their metrics: `pullpass_watch_last_contact_timestamp_seconds{watch}`,
    /// `pullpass_watch_synced{watch}`, `pullpass_watch_errors_total{watch,reason}`.
    ///
    /// # Errors
    /// [`prometheus::Error`] if the registry has metrics of these names already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let last_contact = GaugeVec::new(
            Opts::new(
                "pullpass_watch_last_contact_timestamp_seconds",
                "When the watch last heard from the API server that all is well.",
            ),
            &["watch"],
        )?;
        let synced = IntGaugeVec::new(
            Opts::new(
                "pullpass_watch_synced",
                "Whether a complete list has succeeded in this process (1) or not (0).",
            ),
            &["watch"],
        )?;
        let errors = IntCounterVec::new(
            Opts::new(
                "pullpass_watch_errors_total",
                "Failures of lists and watches; each is followed by another attempt.",
            ),
            &["watch", "reason"],
        )?;
        registry.register(Box::new(last_contact.clone()))?;
        registry.register(Box::new(synced.clone()))?;
        registry.register(Box::new(errors.clone()))?;
        Ok(Self {
            records: Arc::default(),
            granted: flag::Sender::default(),
            last_contact,
            synced,
            errors,
        })
    }

    /// Adds a watch. The future it returns does the work, until `stop` is cancelled; run it as a task.
    ///
    /// `api` makes the `Api` from the client it is given, `project` takes from each object what is needed of
    /// it, and `apply` folds changes into the caller's state. Both run on the watch's task: they have to be quick.
    /// `Api<PartialObjectMeta<K>>` watches metadata only. Where objects may not decode, such as resources
    /// written under a later version of the CRD, watch a type that always does: one undecodable object fails the
    /// list, and thereby freezes the state.
    ///
    /// # Errors
    /// [`DuplicateWatch`] if the name is taken.
    pub fn add<K, V, A, P, F>(
        &self,
        spec: WatchSpec,
        client: &Client,
        api: A,
        project: P,
        apply: F,
        stop: CancellationToken,
    ) -> Result<
        (
            Freshness,
            impl Future<Output = ()> + Send + use<K, V, A, P, F>,
        ),
        DuplicateWatch,
    >
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        V: Send + 'static,
        A: FnOnce(Client) -> Api<K>,
        P: FnMut(K) -> V + Send + 'static,
        F: FnMut(Change<V>) + Send + 'static,
    {
        let record = self.register(spec.name)?;
        let api = api(record.observe(client));
        let freshness = Freshness(Arc::clone(&record));
        let fold = Fold {
            record,
            project,
            apply,
            listed: Vec::new(),
        };
        Ok((freshness, fold.follow(api, spec.config, stop)))
    }

    /// Resolves when every watch that has been added so far has folded a complete list into its state.
    pub async fn synced(&self) {
        let all: Vec<Freshness> = self.lock().values().cloned().map(Freshness).collect();
        for freshness in all {
            freshness.synced().await;
        }
    }

    /// The watches that have not had a complete list yet.
    #[must_use]
    pub fn unsynced(&self) -> Vec<&'static str> {
        self.lock()
            .values()
            .filter(|record| !*record.synced.borrow())
            .map(|record| record.name)
            .collect()
    }

    /// The watch that was longest without good news, and for how long; `None` if there are no watches.
    #[must_use]
    pub fn stalest(&self) -> Option<(&'static str, Duration)> {
        self.lock()
            .values()
            .map(|record| (record.name, record.since(&record.contact)))
            .max_by_key(|(_, age)| *age)
    }

    /// For liveness: whether the API server has given every watch some answer within `bound`.
    ///
    /// An answer that refuses counts: a CRD or a permission that is missing does not come back by restarting,
    /// and a restart would lose the state that is being kept meanwhile.
    ///
    /// # Errors
    /// A sentence that names the watches which got none.
    pub fn check_answered(&self, bound: Duration) -> Result<(), String> {
        let silent: Vec<String> = self
            .lock()
            .values()
            .map(|record| (record.name, record.since(&record.answer)))
            .filter(|(_, unanswered)| *unanswered > bound)
            .map(|(name, unanswered)| format!("{name} for {} s", unanswered.as_secs()))
            .collect();
        if silent.is_empty() {
            Ok(())
        } else {
            Err(format!(
                "no answer from the API server: {}",
                silent.join(", ")
            ))
        }
    }

    fn register(&self, name: &'static str) -> Result<Arc<Record>, DuplicateWatch> {
        let mut records = self.lock();
        if records.contains_key(name) {
            return Err(DuplicateWatch(name));
        }
        let record = Arc::new(Record {
            name,
            started: Instant::now(),
            contact: AtomicU64::new(0),
            answer: AtomicU64::new(0),
            synced: flag::Sender::new(false),
            granted: self.granted.clone(),
            last_contact: self.last_contact.with_label_values(&[name]),
            synced_gauge: self.synced.with_label_values(&[name]),
            errors: self.errors.clone(),
        });
        records.insert(name, Arc::clone(&record));
        Ok(record)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Arc<Record>>> {
        // nothing that is done under this lock can leave the map half-changed
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Folds the events of one watch into the caller's state.
struct Fold<V, P, F> {
    record: Arc<Record>,
    project: P,
    apply: F,
    /// the list that is under way
    listed: Vec<V>,
}

impl<V, P, F> Fold<V, P, F> {
    async fn follow<K>(mut self, api: Api<K>, config: watcher::Config, stop: CancellationToken)
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        P: FnMut(K) -> V,
        F: FnMut(Change<V>),
    {
        let mut pauses = Pauses::new(self.record.granted.subscribe());
        while !stop.is_cancelled() {
            let mut events = pin!(watcher(api.clone(), config.clone()));
            loop {
                let event = tokio::select! {
                    () = stop.cancelled() => return,
                    event = events.next() => event,
                };
                let failed = match event {
                    Some(Ok(event)) => {
                        if self.event(event) {
                            pauses.reset();
                        }
                        continue;
                    }
                    Some(Err(error)) => self.error(&error),
                    // it never ends by itself
                    None => break,
                };
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = pauses.pause(failed) => {}
                }
                if failed.needs_a_list() {
                    break;
                }
            }
        }
    }

    /// Returns whether the event proves that the watch works: the watcher announces a list before it asks for it.
    fn event<K>(&mut self, event: watcher::Event<K>) -> bool
    where
        P: FnMut(K) -> V,
        F: FnMut(Change<V>),
    {
        match event {
            watcher::Event::Init => {
                self.listed = Vec::new();
                return false;
            }
            watcher::Event::InitApply(object) => {
                self.listed.push((self.project)(object));
                return false;
            }
            watcher::Event::InitDone => {
                (self.apply)(Change::Restarted(std::mem::take(&mut self.listed)));
                self.record.sync();
            }
            watcher::Event::Apply(object) => (self.apply)(Change::Applied((self.project)(object))),
            watcher::Event::Delete(object) => (self.apply)(Change::Deleted((self.project)(object))),
        }
        true
    }

    fn error(&self, error: &watcher::Error) -> Reason {
        let reason = Reason::of(error);
        self.record
            .errors
            .with_label_values(&[self.record.name, reason.label()])
            .inc();
        tracing::warn!(
            watch = self.record.name,
            reason = reason.label(),
            error = failure::told(error),
            "watch interrupted, what is known stays as it is"
        );
        reason
    }
}
