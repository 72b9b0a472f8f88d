//! Carries the election out: reads and writes the Lease, begins a term and ends it.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::leader::{Action, Candidate, LeaseView, Monotonic, Timing};
use crate::metrics::Metrics;
use crate::term::Term;

/// A look at the Lease or a renewal takes milliseconds; after so long another attempt is worth more.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// A write that was under way when the end came can get between reading and giving back, once.
const RELEASE_ATTEMPTS: usize = 3;

/// The Lease, and the one who wants it.
pub(crate) struct Election {
    leases: Api<Lease>,
    lease_name: String,
    identity: String,
    timing: Timing,
    metrics: Metrics,
}

/// How a request on the Lease went.
enum Answer<T> {
    Is(T),
    Conflict,
    Missing,
    Unknown,
}

impl Election {
    /// Over the Lease of this name in our own namespace.
    pub(crate) fn new(
        client: Client,
        namespace: &str,
        lease_name: String,
        identity: String,
        timing: Timing,
        metrics: Metrics,
    ) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            lease_name,
            identity,
            timing,
            metrics,
        }
    }

    /// Stands for election until `stop` is cancelled, and does `work` in each term. When the term's end comes, the work is
    /// told by its term, and not dropped before it has ended. The Lease is given back at the end.
    pub(crate) async fn run<F, Fut>(self, stop: CancellationToken, work: F)
    where
        F: Fn(Term) -> Fut,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let mut candidate = Candidate::new(self.identity.clone(), self.timing);
        let mut lease = None;
        let mut is_missing = false;
        while !stop.is_cancelled() {
            let Some(()) = stop
                .run_until_cancelled(self.follow(&mut candidate, &mut lease, &mut is_missing))
                .await
            else {
                break;
            };
            let Some(valid_until) = candidate.valid_until() else {
                continue;
            };
            tracing::info!(identity = self.identity, "leading");
            self.metrics.leader.set(1);
            let term = Term::new(valid_until);
            let working = tokio::spawn(work(term.clone()));
            let held = stop
                .run_until_cancelled(self.lead(&mut candidate, &mut lease, &term))
                .await;
            term.end();
            // the work ends at its next await, and no write of it begins after the term
            if let Err(failure) = working.await {
                tracing::error!(error = %failure, "the leader's work broke off");
            }
            self.metrics.leader.set(0);
            if held.is_none() {
                break;
            }
            tracing::warn!(identity = self.identity, "leads no more");
            candidate.stepped_down();
        }
        self.release().await;
    }

    /// Until the Lease is one's own.
    async fn follow(
        &self,
        candidate: &mut Candidate,
        lease: &mut Option<Lease>,
        is_missing: &mut bool,
    ) {
        while candidate.valid_until().is_none() {
            match candidate.step(clock::now()) {
                Action::WaitUntil(at) => sleep_until(at).await,
                Action::Look => self.look(candidate, lease, is_missing).await,
                Action::Write(_) => self.write(candidate, lease).await,
                Action::StepDown => candidate.stepped_down(),
            }
        }
    }

    /// As long as the Lease can be renewed.
    async fn lead(&self, candidate: &mut Candidate, lease: &mut Option<Lease>, term: &Term) {
        loop {
            let Some(valid_until) = candidate.valid_until() else {
                return;
            };
            let step = async {
                match candidate.step(clock::now()) {
                    Action::WaitUntil(at) => {
                        sleep_until(at).await;
                        true
                    }
                    Action::Look => {
                        self.look(candidate, lease, &mut false).await;
                        true
                    }
                    Action::Write(_) => {
                        self.write(candidate, lease).await;
                        true
                    }
                    Action::StepDown => false,
                }
            };
            // no request on the Lease holds up the end of the term
            let end = Instant::now() + valid_until.saturating_sub(clock::now());
            match tokio::time::timeout_at(end, step).await {
                Ok(true) => {}
                Ok(false) | Err(_) => return,
            }
            if let Some(valid_until) = candidate.valid_until() {
                term.extend(valid_until);
            }
        }
    }

    async fn look(
        &self,
        candidate: &mut Candidate,
        lease: &mut Option<Lease>,
        is_missing: &mut bool,
    ) {
        match answer(self.leases.get(&self.lease_name)).await {
            Answer::Is(found) => {
                candidate.saw(clock::now(), Some(view(&found)));
                *lease = Some(found);
                *is_missing = false;
            }
            Answer::Missing => {
                if !std::mem::replace(is_missing, true) {
                    tracing::warn!(
                        lease = self.lease_name,
                        "waiting for the Lease, which the chart makes: without it nothing is done"
                    );
                }
                *lease = None;
                candidate.saw(clock::now(), None);
            }
            Answer::Conflict | Answer::Unknown => candidate.saw_nothing(clock::now()),
        }
    }

    /// Takes or renews the Lease.
    async fn write(&self, candidate: &mut Candidate, lease: &mut Option<Lease>) {
        let Some(before) = lease.as_ref() else {
            candidate.was_refused();
            return;
        };
        let wanted = held_by(before, Some(&self.identity), self.timing.lease);
        let sent = clock::now();
        let parameters = PostParams::default();
        let request = self.leases.replace(&self.lease_name, &parameters, &wanted);
        match answer(request).await {
            Answer::Is(written) => {
                candidate.wrote(sent, clock::now(), view(&written));
                *lease = Some(written);
            }
            Answer::Conflict | Answer::Missing => candidate.was_refused(),
            Answer::Unknown => {
                candidate.saw_nothing(clock::now());
                candidate.was_refused();
            }
        }
    }

    /// Lets the next one begin at once. The Lease is read anew: a renewal may have been under way.
    async fn release(&self) {
        for _ in 0..RELEASE_ATTEMPTS {
            let Answer::Is(lease) = answer(self.leases.get(&self.lease_name)).await else {
                return;
            };
            if view(&lease).holder.as_deref() != Some(self.identity.as_str()) {
                return;
            }
            let free = held_by(&lease, None, self.timing.lease);
            let parameters = PostParams::default();
            match answer(self.leases.replace(&self.lease_name, &parameters, &free)).await {
                Answer::Is(_) => {
                    tracing::info!(identity = self.identity, "gave the Lease back");
                    return;
                }
                Answer::Conflict => {}
                Answer::Missing | Answer::Unknown => return,
            }
        }
    }
}

/// What the decision needs of a Lease.
pub(crate) fn view(lease: &Lease) -> LeaseView {
    let spec = lease.spec.as_ref();
    LeaseView {
        revision: lease.metadata.resource_version.clone().unwrap_or_default(),
        holder: spec
            .and_then(|spec| spec.holder_identity.clone())
            .filter(|holder| !holder.is_empty()),
        duration: spec
            .and_then(|spec| spec.lease_duration_seconds)
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map(Duration::from_secs),
    }
}

/// The Lease as it has to be for this holder, with the resource version of the one that it replaces.
pub(crate) fn held_by(before: &Lease, holder: Option<&str>, duration: Duration) -> Lease {
    let now = MicroTime(Timestamp::now());
    let previous = before.spec.clone().unwrap_or_default();
    let changes_hands =
        previous.holder_identity.as_deref().unwrap_or_default() != holder.unwrap_or_default();
    let transitions = previous.lease_transitions.unwrap_or(0);
    let spec = LeaseSpec {
        holder_identity: Some(holder.unwrap_or_default().to_owned()),
        lease_duration_seconds: Some(i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)),
        acquire_time: if changes_hands {
            Some(now.clone())
        } else {
            previous.acquire_time.clone()
        },
        lease_transitions: Some(if changes_hands && holder.is_some() {
            transitions.saturating_add(1)
        } else {
            transitions
        }),
        renew_time: Some(now),
        ..previous
    };
    Lease {
        spec: Some(spec),
        ..before.clone()
    }
}

async fn answer<T>(request: impl Future<Output = kube::Result<T>>) -> Answer<T> {
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(Ok(value)) => Answer::Is(value),
        Ok(Err(kube::Error::Api(status))) if status.is_conflict() => Answer::Conflict,
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() => Answer::Missing,
        Ok(Err(error)) => {
            tracing::warn!(error = pullpass_daemon::chain(&error), "Lease");
            Answer::Unknown
        }
        Err(_) => {
            tracing::warn!("no answer about the Lease");
            Answer::Unknown
        }
    }
}

async fn sleep_until(at: Monotonic) {
    tokio::time::sleep(at.saturating_sub(clock::now())).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn made_by_the_chart() -> Lease {
        serde_json::from_value(json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "pullpass-controller", "resourceVersion": "7"},
        }))
        .unwrap()
    }

    #[test]
    fn a_lease_without_a_spec_is_free() {
        let view = view(&made_by_the_chart());
        assert_eq!((view.holder, view.duration), (None, None));
        assert_eq!(view.revision, "7");
    }

    #[test]
    fn taking_renewing_and_releasing() {
        let duration = Timing::default().lease;
        let taken = held_by(&made_by_the_chart(), Some("a"), duration);
        assert_eq!(view(&taken).holder.as_deref(), Some("a"));
        assert_eq!(view(&taken).duration, Some(duration));
        assert_eq!(view(&taken).revision, "7");
        let spec = taken.spec.clone().unwrap();
        assert_eq!(spec.lease_transitions, Some(1));

        let renewed = held_by(&taken, Some("a"), duration).spec.unwrap();
        assert_eq!(renewed.acquire_time, spec.acquire_time);
        assert_eq!(renewed.lease_transitions, Some(1));

        let free = held_by(&taken, None, duration);
        assert_eq!(view(&free).holder, None);
    }
}
