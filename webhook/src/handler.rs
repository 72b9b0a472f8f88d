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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::sample::{
        NAMESPACE, captured, decider, deliver, enforce_mountable_secrets, listed, make,
        patient_decider, registry, settled,
    };
    use axum::http;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use k8s_openapi::api::core::v1::Namespace;
    use proptest::prelude::*;
    use pullpass_core::registry::{Injection, Registry};
    use pullpass_core::selector::{Requirement, Selector};
    use pullpass_daemon::{Change, Freshness, WatchSpec, Watches};
    use rstest::rstest;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;
    use std::convert::Infallible;
    use std::future::pending;
    use tokio_util::sync::CancellationToken;

    const SECOND: Duration = Duration::from_secs(1);

    async fn answer_to(decider: &Decider, body: &[u8]) -> Value {
        let answer = decider.answer(body, None).await.unwrap();
        serde_json::from_slice(&answer).unwrap()
    }

    fn reason(answer: &Value) -> &str {
        let response = &answer["response"];
        assert_eq!(response["allowed"], true);
        assert_eq!(
            response.get("patch").is_some(),
            response.get("patchType").is_some()
        );
        response["auditAnnotations"]["reason"].as_str().unwrap()
    }

    /// The pod of a review after its patch.
    fn patched(body: &[u8], answer: &Value) -> Value {
        let review: Value = serde_json::from_slice(body).unwrap();
        assert_eq!(answer["response"]["uid"], review["request"]["uid"]);
        let mut pod = review["request"]["object"].clone();
        if let Some(patch) = answer["response"]["patch"].as_str() {
            let patch: json_patch::Patch =
                serde_json::from_slice(&STANDARD.decode(patch).unwrap()).unwrap();
            json_patch::patch(&mut pod, &patch).unwrap();
        }
        pod
    }

    fn pull_secrets(pod: &Value) -> Vec<&str> {
        let list = pod["spec"]["imagePullSecrets"].as_array();
        list.into_iter()
            .flatten()
            .map(|reference| reference["name"].as_str().unwrap())
            .collect()
    }

    #[rstest]
    #[case("small", "Injected", &["pullpass"])]
    #[case("typical", "Injected", &["pullpass"])]
    #[case("big", "Injected", &["pullpass"])]
    #[case("dry-run", "Injected", &["pullpass"])]
    #[case("opted-out", "PodOptedOut", &[])]
    #[case("mirror", "MirrorPod", &[])]
    #[tokio::test]
    async fn captured_reviews_are_decided(
        #[case] name: &str,
        #[case] expected: &str,
        #[case] names: &[&str],
    ) {
        let body = captured(name);
        let answer = answer_to(&decider(&settled()), &body).await;
        assert_eq!(reason(&answer), expected);
        assert_eq!(pull_secrets(&patched(&body, &answer)), names);
    }

    #[tokio::test]
    async fn a_pods_own_pull_secrets_stay_first() {
        let body = captured("own-pull-secrets");
        let answer = answer_to(&decider(&settled()), &body).await;
        let before: Value = serde_json::from_slice(&body).unwrap();
        let mut expected = pull_secrets(&before["request"]["object"]);
        assert!(!expected.is_empty());
        expected.push("pullpass");
        assert_eq!(pull_secrets(&patched(&body, &answer)), expected);
    }

    #[tokio::test]
    async fn an_account_that_enforces_mountable_secrets_is_left_alone_with_advice() {
        let state = settled();
        enforce_mountable_secrets(&state, "default");
        let answer = answer_to(&decider(&state), &captured("small")).await;
        assert_eq!(reason(&answer), "MountableSecretsEnforced");
        let warning = answer["response"]["warnings"][0].as_str().unwrap();
        assert!(warning.contains("imagePullSecrets"), "{warning}");
    }

    #[tokio::test]
    async fn before_everything_is_listed_nothing_is_decided() {
        let state = Arc::new(State::new(Default::default()));
        let answer = answer_to(&decider(&state), &captured("small")).await;
        assert_eq!(reason(&answer), "NotReady");
    }

    fn changed(name: &str, change: impl FnOnce(&mut Value)) -> Vec<u8> {
        let mut review: Value = serde_json::from_slice(&captured(name)).unwrap();
        change(&mut review["request"]);
        serde_json::to_vec(&review).unwrap()
    }

    #[rstest]
    #[case(changed("small", |request| request["operation"] = json!("UPDATE")), "NotAPodCreation")]
    #[case(changed("small", |request| request["namespace"] = json!("")), "UnreadableReview")]
    #[case(changed("small", |request| request["object"]["spec"] = json!(7)), "UnreadableReview")]
    #[tokio::test]
    async fn nonsense_is_allowed_unchanged(#[case] body: Vec<u8>, #[case] expected: &str) {
        let answer = answer_to(&decider(&settled()), &body).await;
        assert_eq!(reason(&answer), expected);
        assert!(answer["response"].get("patch").is_none());
    }

    /// The answer and how long it took.
    async fn timed(decider: &Decider, body: &[u8]) -> (String, Duration) {
        let started = Instant::now();
        let answer = answer_to(decider, body).await;
        (reason(&answer).to_owned(), started.elapsed())
    }

    fn about(expected: Duration, took: Duration) -> bool {
        // the timer's own resolution
        took >= expected && took <= expected + Duration::from_millis(2)
    }

    #[tokio::test(start_paused = true)]
    async fn a_young_namespaces_secret_is_waited_for_and_answers_at_once() {
        let state = listed([registry("acme", &["*"])]);
        make(&state, &[]);
        let decider = decider(&state);
        let controller = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            deliver(&state, SecretState::Written);
        };
        let body = captured("small");
        let ((reason, took), ()) = tokio::join!(timed(&decider, &body), controller);
        assert_eq!(reason, "Injected");
        assert!(about(Duration::from_millis(300), took), "{took:?}");
        assert_eq!(decider.metrics.waiting.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_bound_the_name_is_appended_anyway_and_nobody_waits_again() {
        let state = listed([registry("acme", &["*"])]);
        make(&state, &[]);
        let decider = decider(&state);
        let body = captured("small");
        let (together, also) = tokio::join!(timed(&decider, &body), timed(&decider, &body));
        for (reason, took) in [together, also] {
            assert_eq!(reason, "InjectedAhead");
            assert!(about(SECOND, took), "{took:?}");
        }
        let (reason, took) = timed(&decider, &body).await;
        assert_eq!((reason.as_str(), took), ("InjectedAhead", Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_namespace_is_waited_for_and_then_its_secret() {
        let state = listed([registry("acme", &["*"])]);
        let decider = decider(&state);
        let cluster = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            make(&state, &[]);
            tokio::time::sleep(Duration::from_millis(200)).await;
            deliver(&state, SecretState::Written);
        };
        let body = captured("small");
        let ((reason, took), ()) = tokio::join!(timed(&decider, &body), cluster);
        assert_eq!(reason, "Injected");
        assert!(about(Duration::from_millis(400), took), "{took:?}");
    }

    fn labelled_only() -> Registry {
        let mut registry = registry("acme", &["*"]);
        registry.namespaces.selector = Selector::new([Requirement::Exists("pull".into())]);
        registry
    }

    #[rstest]
    #[case(&[("pull", "")], "Injected", 200)]
    #[case(&[], "NothingGranted", 100)]
    #[case(&[("pull", ""), ("pullpass.dev/inject", "false")], "NamespaceOptedOut", 100)]
    #[tokio::test(start_paused = true)]
    async fn an_unknown_namespaces_labels_are_waited_for(
        #[case] labels: &[(&str, &str)],
        #[case] expected: &str,
        #[case] millis: u64,
    ) {
        let state = listed([labelled_only()]);
        let decider = decider(&state);
        let cluster = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            make(&state, labels);
            tokio::time::sleep(Duration::from_millis(100)).await;
            deliver(&state, SecretState::Written);
        };
        let body = captured("small");
        let ((reason, took), ()) = tokio::join!(timed(&decider, &body), cluster);
        assert_eq!(reason, expected);
        assert!(about(Duration::from_millis(millis), took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_namespace_that_stays_unknown_the_name_decides() {
        let body = captured("small");
        for (registry, expected) in [
            (registry("acme", &["sh*"]), "InjectedAhead"),
            (labelled_only(), "NamespaceUnknown"),
        ] {
            let decider = decider(&listed([registry]));
            let (reason, took) = timed(&decider, &body).await;
            assert_eq!(reason, expected);
            assert!(about(SECOND, took), "{took:?}");
            let (reason, took) = timed(&decider, &body).await;
            assert_eq!((reason.as_str(), took), (expected, Duration::ZERO));
        }
    }

    #[rstest]
    #[case::dry_run(captured("dry-run"), vec![registry("acme", &["*"])], "InjectedAhead")]
    #[case::opted_out(captured("opted-out"), vec![registry("acme", &["*"])], "PodOptedOut")]
    #[case::mirror(captured("mirror"), vec![registry("acme", &["*"])], "MirrorPod")]
    #[case::nothing_granted(captured("small"), vec![registry("acme", &["other"])], "NothingGranted")]
    #[case::no_registries(captured("small"), vec![], "NothingGranted")]
    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_what_will_not_come(
        #[case] body: Vec<u8>,
        #[case] registries: Vec<Registry>,
        #[case] expected: &str,
        #[values(true, false)] is_known: bool,
    ) {
        let state = listed(registries);
        if is_known {
            make(&state, &[]);
        }
        let (reason, took) = timed(&decider(&state), &body).await;
        assert_eq!((reason.as_str(), took), (expected, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_blocked_secret_is_not_waited_for() {
        let state = listed([registry("acme", &["*"])]);
        make(&state, &[]);
        deliver(&state, SecretState::Blocked);
        let (reason, took) = timed(&decider(&state), &captured("small")).await;
        assert_eq!((reason.as_str(), took), ("InjectedAhead", Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_namespace_is_not_waited_for() {
        let state = listed([registry("acme", &["*"])]);
        make(&state, &[]);
        tokio::time::advance(crate::state::namespaces::YOUTH).await;
        let (reason, took) = timed(&decider(&state), &captured("small")).await;
        assert_eq!((reason.as_str(), took), ("InjectedAhead", Duration::ZERO));
    }

    /// A watch that is never run, so that nothing is heard from it any more.
    fn silent_watch() -> Freshness {
        let nobody = tower::service_fn(|_| pending::<Result<http::Response<String>, Infallible>>());
        let (freshness, _never_run) = Watches::new(&prometheus::Registry::new())
            .unwrap()
            .add(
                WatchSpec::new("namespaces"),
                &kube::Client::new(nobody, "default"),
                kube::Api::<Namespace>::all,
                drop,
                drop::<Change<()>>,
                CancellationToken::new(),
            )
            .unwrap();
        freshness
    }

    #[rstest]
    #[case::in_touch(Duration::ZERO, SECOND)]
    #[case::out_of_touch(crate::state::STALE_AFTER, Duration::ZERO)]
    #[tokio::test(start_paused = true)]
    async fn only_a_state_in_touch_with_the_api_server_is_waited_on(
        #[case] silence: Duration,
        #[case] expected: Duration,
    ) {
        let state = listed([registry("acme", &["*"])]);
        state.follow(vec![silent_watch()]);
        tokio::time::advance(silence).await;
        make(&state, &[]);
        let (reason, took) = timed(&decider(&state), &captured("small")).await;
        assert_eq!(reason, "InjectedAhead");
        assert!(about(expected, took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_callers_patience_is_the_bound_where_it_is_shorter() {
        let decider = decider(&listed([registry("acme", &["*"])]));
        let started = Instant::now();
        let limit = Some(started + SECOND / 4);
        decider.answer(captured("small"), limit).await.unwrap();
        assert!(about(SECOND / 4, started.elapsed()));
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_wait() {
        let state = listed([registry("acme", &["*"])]);
        make(&state, &[]);
        let decider = patient_decider(&state, SECOND, 1);
        let body = captured("small");
        let mut took = [
            timed(&decider, &body),
            timed(&decider, &body),
            timed(&decider, &body),
        ]
        .into_iter()
        .collect::<futures::stream::FuturesUnordered<_>>();
        let mut waited = 0;
        while let Some((reason, took)) = futures::StreamExt::next(&mut took).await {
            assert_eq!(reason, "InjectedAhead");
            waited += usize::from(took > Duration::ZERO);
        }
        assert_eq!(waited, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_huge_pod_is_not_held_in_memory_to_wait() {
        let names: Vec<Value> = (0..10_000)
            .map(|n| json!({"name": format!("secret-{n}")}))
            .collect();
        let body = changed("small", |request| {
            request["object"]["spec"]["imagePullSecrets"] = names.into();
        });
        let (reason, took) = timed(&decider(&listed([registry("acme", &["*"])])), &body).await;
        assert_eq!((reason.as_str(), took), ("InjectedAhead", Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_hangs_up_leaves_nothing_behind() {
        let state = listed([registry("acme", &["*"])]);
        let decider = decider(&state);
        let asked = decider.answer(captured("small"), None);
        assert!(tokio::time::timeout(SECOND / 2, asked).await.is_err());
        assert_eq!(decider.metrics.waiting.get(), 0);
        assert_eq!(decider.waiters.available_permits(), 16);
        assert!(state.namespaces.is_empty());
        make(&state, &[]);
        deliver(&state, SecretState::Written);
        let (reason, _) = timed(&decider, &captured("small")).await;
        assert_eq!(reason, "Injected");
    }

    #[tokio::test]
    async fn names_that_namespaces_hold_and_images_count() {
        let mut held = registry("held", &["*"]);
        held.credential = CredentialKind::HeldByNamespace {
            pull_secret: "regcred".into(),
        };
        let mut elsewhere = registry("elsewhere", &["*"]);
        elsewhere.key =
            Some(pullpass_core::key::RegistryKey::parse("elsewhere.example.com").unwrap());
        elsewhere.injection = Injection::WhenImageMatches;
        let state = listed([held, elsewhere.clone()]);
        make(&state, &[]);
        let body = captured("small");
        let answer = answer_to(&decider(&state), &body).await;
        assert_eq!(pull_secrets(&patched(&body, &answer)), ["regcred"]);

        let state = listed([elsewhere]);
        make(&state, &[]);
        deliver(&state, SecretState::Written);
        let answer = answer_to(&decider(&state), &body).await;
        assert_eq!(reason(&answer), "NoImageMatches");
        let volume = json!([{"name": "v", "image": {"reference": "elsewhere.example.com/a:1"}}]);
        let body = changed("small", |request| {
            request["object"]["spec"]["volumes"] = volume;
        });
        let answer = answer_to(&decider(&state), &body).await;
        assert_eq!(pull_secrets(&patched(&body, &answer)), ["pullpass"]);
    }

    /// Something that the decision does not read.
    fn any_content() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-z~/\"ü]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(2, 6, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-z~/]{1,4}", inner, 0..3)
                    .prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    fn any_pod() -> impl Strategy<Value = Value> {
        let name = prop_oneof![Just("pullpass".to_owned()), "[a-z]{1,6}"];
        let list = prop_oneof![
            Just(None),
            Just(Some(Value::Null)),
            prop::collection::vec(name, 0..4)
                .prop_map(|names| Some(names.iter().map(|name| json!({"name": name})).collect())),
        ];
        let labels = prop::collection::btree_map(
            prop_oneof![Just("pullpass.dev/inject".to_owned()), "[a-z]{1,5}"],
            prop_oneof![Just("false".to_owned()), "[a-z]{0,5}"],
            0..3,
        );
        let annotations: BoxedStrategy<BTreeMap<String, String>> = prop_oneof![
            4 => Just(BTreeMap::new()),
            1 => Just([("kubernetes.io/config.mirror".to_owned(), "h".to_owned())].into()),
        ]
        .boxed();
        let others = prop::collection::btree_map("x[a-z]{1,4}", any_content(), 0..3);
        (list, labels, annotations, others).prop_map(|(list, labels, annotations, others)| {
            let mut pod = json!({
                "metadata": {"labels": labels, "annotations": annotations, "others": others},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            });
            for (key, other) in others {
                pod["spec"]["containers"][0][&key] = other.clone();
                pod["spec"][key] = other;
            }
            if let Some(list) = list {
                pod["spec"]["imagePullSecrets"] = list;
            }
            pod
        })
    }

    fn creation_of(pod: &Value) -> Vec<u8> {
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {"uid": "u", "operation": "CREATE", "namespace": NAMESPACE, "object": pod,
                "resource": {"group": "", "version": "v1", "resource": "pods"}},
        });
        review.to_string().into_bytes()
    }

    /// The pod as it should come out.
    fn expected(pod: &Value) -> Value {
        let mut names = pull_secrets(pod);
        let declines = pod["metadata"]["labels"]["pullpass.dev/inject"] == "false";
        let is_mirror = pod["metadata"]["annotations"]
            .get("kubernetes.io/config.mirror")
            .is_some();
        if declines || is_mirror || names.contains(&"pullpass") {
            return pod.clone();
        }
        names.push("pullpass");
        let list: Value = names.iter().map(|name| json!({"name": name})).collect();
        let mut pod = pod.clone();
        pod["spec"]["imagePullSecrets"] = list;
        pod
    }

    /// A case has so many pods, since a case by itself costs more than a pod.
    const PODS: usize = 100;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// On 100,000 pods: nothing changes but the list; what was in it stays in order, ours comes last and once; and
        /// what was changed is not changed again.
        #[test]
        fn injecting_is_idempotent_and_touches_nothing_else(pods in prop::collection::vec(any_pod(), PODS)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let decider = decider(&settled());
                for pod in pods {
                    let body = creation_of(&pod);
                    let once = patched(&body, &answer_to(&decider, &body).await);
                    prop_assert_eq!(&once, &expected(&pod));
                    let again = answer_to(&decider, &creation_of(&once)).await;
                    prop_assert!(again["response"].get("patch").is_none());
                }
                Ok(())
            })?;
        }
    }

    #[test]
    fn the_namespace_of_the_captured_reviews_is_the_sample_s() {
        let review: Value = serde_json::from_slice(&captured("small")).unwrap();
        assert_eq!(review["request"]["namespace"], NAMESPACE);
    }
}
