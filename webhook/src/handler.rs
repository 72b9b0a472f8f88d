//! Read → decide → perhaps wait → answer.

use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use pullpass_core::decide::{Decision, Delivery, Pod, decide};
use pullpass_core::policy::{Grant, INJECT_LABEL};
use pullpass_core::reason::Reason;
use pullpass_core::registry::CredentialKind;
use pullpass_core::selector::Labels;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use crate::answer::Answer;
use crate::metrics::{Metrics, WaitEnd};
use crate::review::{NotAReview, PodCreation, Request, read};
use crate::state::State;
use crate::state::namespaces::{SecretState, View};

/// The account of a pod that names none.
const DEFAULT_ACCOUNT: &str = "default";

/// What a request may hold in memory while it waits, in bytes. A real pod's names and images are a hundredth of it; one
/// beyond that is decided on without a wait, or many of them together would fill the memory.
const MAX_WAITING_BYTES: usize = 64 * 1024;

/// Decides on reviews. Needs no Kubernetes, only a state.
#[derive(Debug)]
pub struct Decider {
    state: Arc<State>,
    secret_name: String,
    wait: Duration,
    waiters: Semaphore,
    metrics: Metrics,
}

/// Whether a request may be told to wait.
#[derive(Clone, Copy)]
enum Patience {
    /// It has not waited yet.
    Fresh,
    /// It is waiting.
    Waiting,
    /// It may not, or not any longer.
    None,
}

impl Decider {
    /// Decides from `state`, appends `secret_name`, and lets at most `max_waiters` requests wait at a time, each for
    /// at most `wait`.
    pub fn new(
        state: Arc<State>,
        secret_name: String,
        wait: Duration,
        max_waiters: usize,
        metrics: Metrics,
    ) -> Self {
        Self {
            state,
            secret_name,
            wait,
            waiters: Semaphore::new(max_waiters.min(Semaphore::MAX_PERMITS)),
            metrics,
        }
    }

    /// The metrics that decisions are counted in.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Answers a request's body with the body of the response. `body` is given up before any wait; after `limit` the
    /// caller does not listen any more.
    ///
    /// # Errors
    /// [`NotAReview`] where there is no uid to answer under.
    pub async fn answer<B: AsRef<[u8]>>(
        &self,
        body: B,
        limit: Option<Instant>,
    ) -> Result<Vec<u8>, NotAReview> {
        let started = Instant::now();
        let (uid, pod) = {
            let review = read(body.as_ref())?;
            let looked = match review.request {
                Request::PodCreation(pod) => self.look_first(pod),
                Request::Other => Err(Answer::unchanged(Reason::NotAPodCreation)),
                Request::Unreadable(place) => {
                    tracing::debug!(%place, "review cannot be read");
                    Err(Answer::unchanged(Reason::UnreadableReview))
                }
            };
            match looked {
                Ok(pod) => (review.uid.into_owned(), pod),
                Err(answer) => return self.finish(&review.uid, &answer),
            }
        };
        drop(body);
        let bound = started + self.wait;
        let decision = self
            .wait(&pod, limit.map_or(bound, |limit| limit.min(bound)))
            .await;
        let answer = answer(decision, &pod);
        tracing::debug!(
            namespace = &*pod.namespace,
            name = &*pod.name,
            reason = %answer.reason,
            waited_seconds = started.elapsed().as_secs_f64(),
            "decided after a wait"
        );
        self.finish(&uid, &answer)
    }

    fn finish(&self, uid: &str, answer: &Answer) -> Result<Vec<u8>, NotAReview> {
        self.metrics.decided(answer.reason);
        answer
            .to_json(uid)
            .map_err(|error| NotAReview::Json(error.into()))
    }

    /// The answer, or what is kept of a pod that has to wait for its decision.
    fn look_first(&self, pod: PodCreation<'_>) -> Result<PodCreation<'static>, Answer> {
        if pod.namespace.is_empty() {
            return Err(Answer::unchanged(Reason::UnreadableReview));
        }
        let patience = if size(&pod) > MAX_WAITING_BYTES {
            Patience::None
        } else {
            Patience::Fresh
        };
        match self.look(&pod, patience) {
            Decision::Await => Ok(into_owned(pod)),
            decision @ (Decision::Inject { .. } | Decision::Skip(_)) => {
                let answer = answer(decision, &pod);
                tracing::debug!(
                    namespace = &*pod.namespace,
                    name = &*pod.name,
                    reason = %answer.reason,
                    "decided"
                );
                Err(answer)
            }
        }
    }

    /// The decision at this moment. [`Decision::Await`] only where the request has patience.
    fn look(&self, creation: &PodCreation<'_>, patience: Patience) -> Decision {
        let Some(view) = self.state.view(&creation.namespace) else {
            return Decision::Skip(Reason::NotReady);
        };
        let worth_waiting = self.is_worth_waiting(creation, &view, patience);
        let delivery = match view.secret {
            Some(SecretState::Written) => Delivery::Written,
            Some(SecretState::Blocked) => Delivery::Blocked,
            None => Delivery::Unknown { worth_waiting },
        };
        let images: Vec<&str> = if view.grant.asks_for_images() {
            creation.images.iter().map(|image| &**image).collect()
        } else {
            Vec::new()
        };
        let pod = self.pod(creation, &view.grant, &images);
        match decide(&pod, &view.grant, &self.secret_name, delivery) {
            // its labels may still grant what its name does not
            Decision::Skip(Reason::NothingGranted) if !view.is_known && labels_may_grant(&view) => {
                if worth_waiting {
                    Decision::Await
                } else {
                    Decision::Skip(Reason::NamespaceUnknown)
                }
            }
            decided @ (Decision::Inject { .. } | Decision::Skip(_) | Decision::Await) => decided,
        }
    }

    /// The pod as the decision sees it: of labels and pull secrets those that can make a difference.
    fn pod<'a>(&self, creation: &PodCreation<'_>, grant: &Grant, images: &'a [&'a str]) -> Pod<'a> {
        let matters = |name: &str| {
            name == self.secret_name
                || grant
                    .granted
                    .iter()
                    .any(|registry| match &registry.credential {
                        CredentialKind::HeldByNamespace { pull_secret } => pull_secret == name,
                        CredentialKind::None | CredentialKind::Copied => false,
                    })
        };
        let account = match &*creation.service_account {
            "" => DEFAULT_ACCOUNT,
            named => named,
        };
        Pod {
            labels: creation
                .inject_label
                .iter()
                .map(|value| (INJECT_LABEL.to_owned(), value.to_string()))
                .collect::<Labels>(),
            is_mirror: creation.is_mirror,
            pull_secrets: creation
                .pull_secrets
                .iter()
                .flatten()
                .filter(|name| matters(name))
                .map(ToString::to_string)
                .collect(),
            images,
            account_enforces_mountable_secrets: self
                .state
                .accounts
                .enforces_mountable_secrets(&creation.namespace, account),
            dry_run: creation.dry_run,
        }
    }

    fn is_worth_waiting(&self, pod: &PodCreation<'_>, view: &View, patience: Patience) -> bool {
        let has_patience = match patience {
            Patience::None => false,
            Patience::Fresh => !view.was_in_vain,
            // that another request ran into its bound meanwhile says nothing about the rest of this one's
            Patience::Waiting => true,
        };
        has_patience && !pod.dry_run && (view.is_young || !view.is_known) && self.state.is_fresh()
    }

    /// Looks again at every change of the namespace, at the latest at the bound, and then without waiting further: a
    /// name that is appended too early harms nobody, since kubelet finds the Secret as soon as it is there.
    async fn wait(&self, pod: &PodCreation<'_>, bound: Instant) -> Decision {
        let Some(_place) = self.take_place() else {
            self.metrics.waited(WaitEnd::NoPlace);
            return self.look(pod, Patience::None);
        };
        let changes = self.state.namespaces.changes(&pod.namespace);
        let _clearing = Clearing {
            state: &self.state,
            namespace: &pod.namespace,
        };
        loop {
            // before looking, so that no change falls between the look and the wait
            let mut changed = pin!(changes.notified());
            changed.as_mut().enable();
            let decision = self.look(pod, Patience::Waiting);
            if decision != Decision::Await {
                self.metrics.waited(WaitEnd::Arrived);
                return decision;
            }
            if timeout_at(bound, changed).await.is_err() {
                self.metrics.waited(WaitEnd::Bound);
                self.state.namespaces.waited_in_vain(&pod.namespace);
                return self.look(pod, Patience::None);
            }
        }
    }

    fn take_place(&self) -> Option<Place<'_>> {
        let permit = self.waiters.try_acquire().ok()?;
        self.metrics.waiting.inc();
        Some(Place {
            metrics: &self.metrics,
            _permit: permit,
        })
    }
}

/// One place among those who wait.
struct Place<'a> {
    metrics: &'a Metrics,
    _permit: SemaphorePermit<'a>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.metrics.waiting.dec();
    }
}

/// Clears up after a wait, also after one whose caller has hung up.
struct Clearing<'a> {
    state: &'a State,
    namespace: &'a str,
}

impl Drop for Clearing<'_> {
    fn drop(&mut self) {
        self.state.namespaces.waited(self.namespace);
    }
}

fn answer(decision: Decision, pod: &PodCreation<'_>) -> Answer {
    match decision {
        Decision::Inject { names, reason } => Answer {
            names,
            has_list: pod.pull_secrets.is_some(),
            reason,
        },
        Decision::Skip(reason) => Answer::unchanged(reason),
        // never without patience; were it otherwise, the pod would stay as it is
        Decision::Await => Answer::unchanged(Reason::NotReady),
    }
}

/// Whether a registry would select the namespace if only its labels were right.
fn labels_may_grant(view: &View) -> bool {
    view.grant
        .refused
        .iter()
        .any(|(_, reason)| *reason == Reason::LabelsNotSelected)
}

fn texts<'a, 'b>(pod: &'a PodCreation<'b>) -> impl Iterator<Item = &'a Cow<'b, str>> {
    [&pod.namespace, &pod.name, &pod.service_account]
        .into_iter()
        .chain(&pod.inject_label)
        .chain(pod.pull_secrets.iter().flatten())
        .chain(&pod.images)
}

/// What the pod would take up on its own.
fn size(pod: &PodCreation<'_>) -> usize {
    texts(pod)
        .map(|text| text.len() + size_of::<Cow<'_, str>>())
        .sum()
}

fn into_owned(pod: PodCreation<'_>) -> PodCreation<'static> {
    let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
    PodCreation {
        namespace: owned(pod.namespace),
        name: owned(pod.name),
        dry_run: pod.dry_run,
        inject_label: pod.inject_label.map(owned),
        is_mirror: pod.is_mirror,
        service_account: owned(pod.service_account),
        pull_secrets: pod
            .pull_secrets
            .map(|names| names.into_iter().map(owned).collect()),
        images: pod.images.into_iter().map(owned).collect(),
    }
}
