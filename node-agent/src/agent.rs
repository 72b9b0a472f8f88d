//! The loop: what the bundle says and what the node holds, again and again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use pullpass_api::NodePullAccess;
use pullpass_api::node_pull_access::NodeState;
use pullpass_core::bundle::{BUNDLE_KEY, Bundle, RuntimeHost};
use pullpass_core::reason::Reason;
use pullpass_daemon::{Guard, Readiness};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::delivery::{Bundles, Delivered, Delivery, Effort, Remark, Trouble};
use crate::directory_watch::DirectoryWatch;
use crate::metrics::Metrics;
use crate::platform;
use crate::removal::{Removal, Successor};
use crate::repairs::Repairs;
use crate::report::Standing;
use crate::runtime_trust::RuntimeTrust;

/// How often the node is looked at though nothing was reported: inotify loses events when its queue overflows, and where a
/// user has no more watches it reports none.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// The same while something is in the way.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Between two looks, so that a program that writes without pause does not keep the agent busy.
const BREATH: Duration = Duration::from_millis(100);

/// The API server has as long to say which agent will follow; the pod has half a minute in all.
const REMOVAL_ANSWER: Duration = Duration::from_secs(5);

/// What one Secret of the bundle was seen to hold.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    /// It is not there.
    Missing,
    /// It cannot be read.
    Unreadable(String),
    /// A bundle.
    Here(Arc<Bundle>),
}

impl Seen {
    /// Takes from a Secret what is needed of it.
    pub(crate) fn of(secret: Secret) -> Self {
        let mut data = secret.data.unwrap_or_default();
        match data.remove(BUNDLE_KEY) {
            None => Self::Unreadable(format!("it has no key {BUNDLE_KEY}")),
            Some(content) => {
                let content = zeroize::Zeroizing::new(content.0);
                Bundle::parse(&content).map_or_else(
                    |error| Self::Unreadable(error.to_string()),
                    |bundle| Self::Here(Arc::new(bundle)),
                )
            }
        }
    }
}

/// What was seen of each Secret; nothing of one whose list has not succeeded yet.
pub(crate) type AllSeen = BTreeMap<&'static str, Seen>;

/// What the loop works with.
pub(crate) struct Agent {
    pub(crate) client: Client,
    pub(crate) removal: Removal,
    /// The mode that is on.
    pub(crate) active: Arc<dyn Delivery>,
    /// The modes that are off, as far as this process can reach what they may have left.
    pub(crate) others: Vec<Arc<dyn Delivery>>,
    /// What the container runtime is told, if it is told anything.
    pub(crate) trust: Option<Arc<RuntimeTrust>>,
    /// Whether a platform may own what the mode writes.
    pub(crate) asks_platform: bool,
    pub(crate) seen: watch::Receiver<AllSeen>,
    pub(crate) standing: watch::Sender<Option<Standing>>,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: Readiness,
}

/// What the loop remembers.
struct Memory {
    /// Whether the platform was found to own what the mode writes.
    platform: Option<bool>,
    /// The last bundles that could be read.
    good: Option<Bundles>,
    /// What the node was seen to hold, and since when.
    held: BTreeMap<&'static str, (u64, Timestamp)>,
    effective_at: Option<Timestamp>,
    /// Until the first delivery: what an earlier process has told.
    earlier: Option<NodePullAccess>,
    repairs: Repairs,
    began: Instant,
    /// While the node does not hold what it is to hold.
    guard: Option<(String, Guard)>,
}

impl Agent {
    /// Runs until `stop` is cancelled, not ready as long as the node does not hold what it is to hold; then takes off the
    /// node what no agent will look after.
    pub(crate) async fn run(
        mut self,
        earlier: Option<NodePullAccess>,
        awaited: Guard,
        stop: CancellationToken,
    ) {
        let changed = Arc::new(Notify::new());
        let mut directories: Vec<DirectoryWatch> = self
            .active
            .directories()
            .into_iter()
            .chain(self.trust.as_deref().map(RuntimeTrust::directory))
            .map(|path| DirectoryWatch::new(path.to_owned(), Arc::clone(&changed)))
            .collect();
        let mut memory = Memory {
            platform: None,
            good: None,
            held: BTreeMap::new(),
            effective_at: None,
            earlier,
            repairs: Repairs::new(Duration::ZERO),
            began: Instant::now(),
            guard: Some((String::new(), awaited)),
        };
        self.stands(&mut memory, pending("it has just started"));
        while !stop.is_cancelled() {
            // before the look, so that no change falls between the two
            for directory in &mut directories {
                directory.renew();
            }
            let standing = self.look(&mut memory).await;
            let is_well = matches!(standing.state, NodeState::Ready | NodeState::Withdrawn);
            self.stands(&mut memory, standing);
            let pause = if is_well {
                LOOK_INTERVAL
            } else {
                RETRY_INTERVAL
            };
            tokio::select! {
                () = stop.cancelled() => {}
                // where the watch has ended the process is about to, too
                Ok(()) = self.seen.changed() => {}
                () = changed.notified() => tokio::time::sleep(BREATH).await,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.leave().await;
    }

    async fn look(&mut self, memory: &mut Memory) -> Standing {
        match self.deliver(memory).await {
            Ok(standing) => standing,
            Err(trouble) => Standing {
                state: if trouble.passes {
                    NodeState::Pending
                } else {
                    NodeState::Blocked
                },
                reason: trouble.reason,
                message: trouble.message,
                held: memory.held.clone(),
                effective_at: memory.effective_at,
            },
        }
    }

    async fn deliver(&mut self, memory: &mut Memory) -> Result<Standing, Trouble> {
        self.ask_platform(memory).await?;
        let unread = self.read_bundles(memory)?;
        let bundles = memory.good.clone().unwrap_or_default();
        let is_withdrawn = bundles.values().any(|bundle| bundle.withdrawn);
        let generations = |held: &BTreeMap<&'static str, (u64, Timestamp)>| {
            bundles.iter().all(|(name, bundle)| {
                held.get(name)
                    .is_some_and(|(held, _)| *held == bundle.generation)
            })
        };
        let is_repeated = generations(&memory.held);
        let effort = if is_repeated && !memory.repairs.is_allowed(memory.began.elapsed()) {
            Effort::Look
        } else {
            Effort::Write
        };
        let active = Arc::clone(&self.active);
        let result = {
            let bundles = bundles.clone();
            blocking(move || {
                if is_withdrawn {
                    active.withdraw()
                } else {
                    active.deliver(&bundles, effort)
                }
            })
            .await
        };
        // whether or not kubelet has credentials, and before a pod is told that it has
        let trusted = self.tell_runtime(&bundles).await;
        let delivered = result.inspect_err(|trouble| {
            if trouble.reason == Reason::NodeWriteFailed {
                self.metrics
                    .deliveries
                    .with_label_values(&["failure"])
                    .inc();
            }
        })?;
        if delivered.changed {
            self.metrics
                .deliveries
                .with_label_values(&["success"])
                .inc();
            if is_repeated {
                memory.repairs.made();
                self.metrics.repairs.inc();
                tracing::warn!("another program has changed what the node holds; it was put right");
            }
        }
        self.remember(memory, &bundles, &delivered);
        let trusted = trusted?;
        if trusted.changed {
            tracing::info!("what the container runtime is told of registries has changed");
        }
        self.metrics
            .kept
            .set(i64::try_from(delivered.kept.len()).unwrap_or(i64::MAX));
        // only now: the new way works before the old one ends
        for other in std::mem::take(&mut self.others) {
            let withdrawing = Arc::clone(&other);
            let withdrawn = blocking(move || withdrawing.withdraw()).await;
            if let Err(trouble) = withdrawn {
                self.others.push(other);
                return Err(trouble);
            }
        }
        let remark = unread
            .or(delivered.remark)
            .or(trusted.remark)
            .or_else(|| kept(&delivered.kept))
            .unwrap_or_else(|| Remark {
                reason: if is_withdrawn {
                    Reason::Withdrawn
                } else {
                    Reason::Delivered
                },
                message: String::new(),
            });
        Ok(Standing {
            state: if is_withdrawn {
                NodeState::Withdrawn
            } else {
                NodeState::Ready
            },
            reason: remark.reason,
            message: remark.message,
            held: memory.held.clone(),
            effective_at: memory.effective_at,
        })
    }

    /// How the runtime is to reach registries; nothing of it once everything is withdrawn.
    async fn tell_runtime(&self, bundles: &Bundles) -> Result<Delivered, Trouble> {
        let Some(trust) = self.trust.clone() else {
            return Ok(Delivered::default());
        };
        let wanted: BTreeMap<String, RuntimeHost> = bundles
            .values()
            .filter(|bundle| !bundle.withdrawn)
            .flat_map(|bundle| bundle.runtime.clone())
            .collect();
        blocking(move || trust.keep(&wanted)).await
    }

    /// Nothing is written before the API server has said that the file is nobody else's.
    async fn ask_platform(&self, memory: &mut Memory) -> Result<(), Trouble> {
        if !self.asks_platform {
            return Ok(());
        }
        let is_managed = match memory.platform {
            Some(known) => known,
            None => {
                let asked = platform::manages_docker_config(&self.client).await;
                let known = asked.map_err(|error| {
                    Trouble::pending(
                        Reason::NodePending,
                        format!(
                            "the API server does not say which platform this is: {}",
                            pullpass_daemon::chain(&error)
                        ),
                    )
                })?;
                *memory.platform.insert(known)
            }
        };
        if is_managed {
            return Err(Trouble::blocked(
                Reason::ManagedByPlatform,
                "OpenShift's machine-config operator owns kubelet's docker config and degrades a node whose file differs",
            ));
        }
        Ok(())
    }

    /// Takes the bundles over, if all of them can be read. What is in the way is a trouble as long as none ever could be.
    fn read_bundles(&mut self, memory: &mut Memory) -> Result<Option<Remark>, Trouble> {
        let seen = self.seen.borrow_and_update().clone();
        let mut bundles = Bundles::new();
        let mut unread = None;
        for name in self.active.secrets() {
            match seen.get(name) {
                None => {
                    return Err(Trouble::pending(
                        Reason::NodePending,
                        format!("it waits for the Secret {name}"),
                    ));
                }
                Some(Seen::Here(bundle)) => {
                    bundles.insert(name, Arc::clone(bundle));
                }
                Some(Seen::Missing) => {
                    unread = Some(Remark {
                        reason: Reason::BundleMissing,
                        message: format!("there is no Secret {name}"),
                    });
                }
                Some(Seen::Unreadable(why)) => {
                    unread = Some(Remark {
                        reason: Reason::BundleUnreadable,
                        message: format!("the Secret {name} cannot be read: {why}"),
                    });
                }
            }
        }
        match (unread, &memory.good) {
            (None, _) => {
                memory.good = Some(bundles);
                Ok(None)
            }
            (Some(unread), Some(_)) => Ok(Some(unread)),
            // the controller writes it again
            (Some(unread), None) => Err(Trouble {
                passes: unread.reason == Reason::BundleMissing,
                reason: unread.reason,
                message: unread.message,
            }),
        }
    }

    /// Since when the node holds the bundles: longer than this process has lived, if nothing had to be changed.
    fn remember(&self, memory: &mut Memory, bundles: &Bundles, delivered: &Delivered) {
        let now = Timestamp::now();
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        let earlier = memory.earlier.take();
        let is_same = !delivered.changed
            && earlier.as_ref().is_some_and(|earlier| {
                bundles.iter().all(|(name, bundle)| {
                    earlier.spec.held.iter().any(|held| {
                        held.name == *name
                            && u64::try_from(held.generation) == Ok(bundle.generation)
                    })
                })
            });
        let before = |name: &str| {
            let earlier = earlier.as_ref().filter(|_| is_same)?;
            let held = earlier.spec.held.iter().find(|held| held.name == name)?;
            Some(held.since.0)
        };
        let is_new = delivered.changed || (memory.effective_at.is_none() && !is_same);
        memory.held = bundles
            .iter()
            .map(|(name, bundle)| {
                let known = memory
                    .held
                    .get(name)
                    .filter(|(generation, _)| *generation == bundle.generation)
                    .map(|(_, since)| *since);
                let since = known.or_else(|| before(name)).unwrap_or(now);
                (*name, (bundle.generation, since))
            })
            .collect();
        if is_new {
            // an earlier agent may have written it just before it ended
            memory.effective_at = now.checked_add(self.active.takes_effect_after()).ok();
        } else if is_same {
            memory.effective_at = earlier
                .and_then(|earlier| earlier.spec.effective_at)
                .map(|at| at.0);
        }
    }

    fn stands(&self, memory: &mut Memory, standing: Standing) {
        let is_well = matches!(standing.state, NodeState::Ready | NodeState::Withdrawn);
        self.metrics.stands(standing.reason, is_well);
        let awaited = if standing.message.is_empty() {
            standing.reason.to_string()
        } else {
            format!("{}: {}", standing.reason, standing.message)
        };
        let is_known = self.standing.borrow().as_ref().is_some_and(|known| {
            (known.reason, &known.message) == (standing.reason, &standing.message)
        });
        if !is_known {
            match standing.state {
                NodeState::Ready | NodeState::Withdrawn => {
                    tracing::info!(reason = %standing.reason, message = standing.message, "the node stands well");
                }
                NodeState::Pending | NodeState::Blocked => {
                    tracing::warn!(reason = %standing.reason, message = standing.message, "the node does not hold what it is to hold");
                }
            }
        }
        if is_well {
            memory.guard = None;
        } else if memory
            .guard
            .as_ref()
            .is_none_or(|(text, _)| *text != awaited)
        {
            // the new one before the old one falls
            let guard = self.readiness.register(awaited.clone());
            memory.guard = Some((awaited, guard));
        }
        self.standing.send_if_modified(|known| {
            let is_new = known.as_ref() != Some(&standing);
            *known = Some(standing);
            is_new
        });
    }

    /// The last thing that this process does to the node: takes off what nobody will look after.
    async fn leave(self) {
        let asked = tokio::time::timeout(REMOVAL_ANSWER, self.removal.successor());
        let kept_by = match asked.await {
            Ok(Ok(Successor::Nobody)) => None,
            Ok(Ok(Successor::Agent(next))) => Some(next),
            Ok(Err(error)) => {
                tracing::warn!(
                    error = pullpass_daemon::chain(&error),
                    "cannot tell which agent will follow: what the node holds stays"
                );
                return;
            }
            Err(_) => {
                tracing::warn!(
                    "the API server does not say which agent will follow: what the node holds stays"
                );
                return;
            }
        };
        let next = kept_by.as_deref();
        if let Some(trust) = self
            .trust
            .filter(|trust| !next.is_some_and(|next| trust.is_kept_by(next)))
        {
            taken_off(blocking(move || trust.keep(&BTreeMap::new())).await);
        }
        for delivery in self.others.into_iter().chain([self.active]) {
            if !next.is_some_and(|next| delivery.is_kept_by(next)) {
                taken_off(blocking(move || delivery.withdraw()).await);
            }
        }
        if next.is_some() {
            tracing::info!("another agent will follow: what it looks after stays");
        }
    }
}

/// Nobody but the log is there to be told.
fn taken_off(withdrawn: Result<Delivered, Trouble>) {
    match withdrawn.map(|withdrawn| withdrawn.remark) {
        Ok(None) => {
            tracing::info!("took off the node what no agent will look after")
        }
        Ok(Some(Remark { reason, message }))
        | Err(Trouble {
            reason, message, ..
        }) => {
            tracing::error!(%reason, message, "no agent will look after this, and not everything of it could be taken off the node");
        }
    }
}

fn pending(message: &str) -> Standing {
    Standing {
        state: NodeState::Pending,
        reason: Reason::NodePending,
        message: message.to_owned(),
        held: BTreeMap::new(),
        effective_at: None,
    }
}

/// The NodePullAccess names no registry; the log does.
fn kept(keys: &[pullpass_core::key::RegistryKey]) -> Option<Remark> {
    if keys.is_empty() {
        return None;
    }
    let names: Vec<String> = keys.iter().map(ToString::to_string).collect();
    tracing::info!(
        keys = names.join(" "),
        "logins of the node's administrator have precedence"
    );
    Some(Remark {
        reason: Reason::NodeEntryKept,
        message: format!(
            "{} of the entries are the node's administrator's, who has other logins for the same keys; the agent's log names them",
            keys.len()
        ),
    })
}

/// Work on the file system. A disk may take seconds to write a few bytes, and the runtime has to go on meanwhile.
#[allow(
    clippy::disallowed_methods,
    reason = "there is no other way to wait for a disk"
)]
pub(crate) async fn blocking(
    work: impl FnOnce() -> Result<Delivered, Trouble> + Send + 'static,
) -> Result<Delivered, Trouble> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            Err(Trouble::pending(
                Reason::NodeWriteFailed,
                format!("the work on the node's files broke off: {error}"),
            ))
        })
}
