//! A steady stream of pods, and the count of what became of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use pullpass_harness::objects::PULL_SECRET;
use pullpass_suites::pods;
use serde_json::json;

/// Together about thirty pods a second, which leaves most of two processors to what is tested.
const CREATORS: usize = 8;
const PAUSE: Duration = Duration::from_millis(250);

/// A pod that no scheduler takes, since it is its creation that counts.
fn unscheduled(name: &str) -> Pod {
    let mut manifest = pods::manifest(name, "registry.example.com/any:1");
    manifest["spec"]["schedulerName"] = json!("nobody");
    pods::from(&manifest)
}

/// How many pods were asked for, and what became of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) asked: usize,
    pub(crate) created: usize,
    /// Those of the created ones that name the pull secret.
    pub(crate) injected: usize,
    /// What the API server said to those that were not created.
    pub(crate) refused: Vec<String>,
}

/// Creators of pods in one namespace.
pub(crate) struct Stream {
    pods: Api<Pod>,
    tally: Mutex<Tally>,
    server_is_away: AtomicBool,
    is_over: AtomicBool,
}

impl Stream {
    pub(crate) fn into(pods: Api<Pod>) -> Self {
        Self {
            pods,
            tally: Mutex::default(),
            server_is_away: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        }
    }

    /// Creates pods until [`Stream::end`].
    pub(crate) async fn flow(&self) {
        join_all((0..CREATORS).map(async |creator| {
            for number in 0.. {
                if self.is_over.load(Ordering::Relaxed) {
                    return;
                }
                self.create(&format!("pod-{creator}-{number}")).await;
                // the pace of the stream
                tokio::time::sleep(PAUSE).await;
            }
        }))
        .await;
    }

    /// No pod is begun from now on.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Whether the API server is made to go away. Creators then do what every client does: they try again. What it says
    /// about its webhooks is a refusal also then.
    pub(crate) fn server_is_away(&self, is_away: bool) {
        self.server_is_away.store(is_away, Ordering::Relaxed);
    }

    pub(crate) fn tally(&self) -> Tally {
        self.counted().clone()
    }

    async fn create(&self, name: &str) {
        self.counted().asked += 1;
        let pod = unscheduled(name);
        let mut is_retry = false;
        loop {
            let mut may_retry = self.server_is_away.load(Ordering::Relaxed);
            let made = match self.pods.create(&PostParams::default(), &pod).await {
                // created by the attempt before, whose answer was lost with the API server
                Err(kube::Error::Api(status)) if is_retry && status.is_already_exists() => {
                    self.pods.get(name).await
                }
                made => made,
            };
            may_retry |= self.server_is_away.load(Ordering::Relaxed);
            match made {
                Ok(made) => {
                    let mut tally = self.counted();
                    tally.created += 1;
                    tally.injected += usize::from(pods::pull_secrets(&made) == [PULL_SECRET]);
                    return;
                }
                Err(error) if may_retry && !is_about_webhooks(&error) => {
                    is_retry = true;
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => {
                    self.counted().refused.push(format!("{name}: {error}"));
                    return;
                }
            }
        }
    }

    fn counted(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_about_webhooks(error: &kube::Error) -> bool {
    let told = |message: &str| {
        ["webhook", "pullpass"]
            .iter()
            .any(|word| message.contains(word))
    };
    matches!(error, kube::Error::Api(status) if told(&status.message))
}
