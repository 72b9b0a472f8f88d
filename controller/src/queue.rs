//! Keys that need work: each at most once in the queue, never two workers on one key, failures retried with a backoff
//! of the key's own.
//!
//! kube's `Controller` starts from the objects of one watch, while a namespace's key here comes out of five; and it knows
//! no precedence of a new namespace over ten thousand that are only brought up to date.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use futures::StreamExt as _;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::time::{DelayQueue, delay_queue};

/// More starts of one key within [`CROWDED_WITHIN`] mean that something undoes our work at once, such as another
/// controller: from then on the key waits [`CROWDED_PAUSE`] before each start, so that the API server is left in peace.
const CROWDED_STARTS: u32 = 60;
const CROWDED_WITHIN: Duration = Duration::from_secs(60);
const CROWDED_PAUSE: Duration = Duration::from_secs(1);

/// How soon a key's turn comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    /// After everything else that waits.
    Bulk,
    /// Before everything in bulk: what is left to do of an express key whose urgent part is done.
    Follow,
    /// Before everything else: somebody is waiting for it.
    Express,
}

/// What became of a key's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All is as it should be; the key's failures are forgotten.
    Done,
    /// As it should be for now; look again after so long.
    Again(Duration),
    /// It failed: again after the key's backoff, which starts at `first` and doubles up to `longest`.
    Failed {
        /// The first pause.
        first: Duration,
        /// The longest pause.
        longest: Duration,
    },
}

impl Outcome {
    /// The API server could not or would not for now.
    pub(crate) const SOON: Self = Self::Failed {
        first: Duration::from_millis(250),
        longest: Duration::from_secs(30),
    };
}

/// The queue. Clones share it.
#[derive(Debug)]
pub(crate) struct Queue<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

#[derive(Debug)]
struct Shared<K> {
    waiting: Mutex<Waiting<K>>,
    wake: Notify,
}

/// Keys on their way to the worker.
#[derive(Debug)]
struct Waiting<K> {
    lanes: HashMap<K, Lane>,
    express: VecDeque<K>,
    follow: VecDeque<K>,
    bulk: VecDeque<K>,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        let waiting = Waiting {
            lanes: HashMap::new(),
            express: VecDeque::new(),
            follow: VecDeque::new(),
            bulk: VecDeque::new(),
        };
        Self {
            shared: Arc::new(Shared {
                waiting: Mutex::new(waiting),
                wake: Notify::new(),
            }),
        }
    }
}

impl<K: Clone + Eq + Hash> Waiting<K> {
    fn add(&mut self, key: K, lane: Lane) {
        match self.lanes.insert(key.clone(), lane) {
            Some(before) if before >= lane => {
                self.lanes.insert(key, before);
            }
            // what stands in a later lane already is skipped there when its turn comes
            Some(_) | None => match lane {
                Lane::Express => self.express.push_back(key),
                Lane::Follow => self.follow.push_back(key),
                Lane::Bulk => self.bulk.push_back(key),
            },
        }
    }

    fn take(&mut self) -> Option<(K, Lane)> {
        let next = |waiting: &mut Self| {
            let lanes = [&mut waiting.express, &mut waiting.follow, &mut waiting.bulk];
            lanes.into_iter().find_map(VecDeque::pop_front)
        };
        while let Some(key) = next(self) {
            if let Some(lane) = self.lanes.remove(&key) {
                return Some((key, lane));
            }
        }
        None
    }
}

impl<K: Clone + Eq + Hash + Debug + Send + 'static> Queue<K> {
    /// Asks for work on a key, now or as soon as the work on it that is under way has ended.
    pub(crate) fn add(&self, key: K, lane: Lane) {
        self.add_all([key], lane);
    }

    /// The same for several keys.
    pub(crate) fn add_all(&self, keys: impl IntoIterator<Item = K>, lane: Lane) {
        let mut waiting = self.lock();
        for key in keys {
            waiting.add(key, lane);
        }
        drop(waiting);
        self.shared.wake.notify_one();
    }

    /// How many keys wait for their turn.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().lanes.len()
    }

    /// Whether somebody waits for a key whose turn has not come.
    pub(crate) fn is_express_waiting(&self) -> bool {
        !self.lock().express.is_empty()
    }

    /// Works off the keys, at most `limit` at a time, until `stop` is cancelled; work under way is dropped then.
    pub(crate) async fn run<F, Fut>(&self, limit: usize, stop: CancellationToken, work: F)
    where
        F: Fn(K) -> Fut,
        Fut: Future<Output = Outcome> + Send + 'static,
    {
        let mut dispatcher = Dispatcher {
            queue: self,
            work,
            limit,
            running: JoinSet::new(),
            keys: HashMap::new(),
            again: HashMap::new(),
            delays: Delays::default(),
            backoffs: HashMap::new(),
            starts: HashMap::new(),
        };
        stop.run_until_cancelled(dispatcher.run()).await;
        // the next one to run this queue must not meet work of this run
        dispatcher.running.shutdown().await;
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<K>> {
        // each method leaves the queue consistent, and none can panic between two changes
        self.shared
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keys whose time has not come.
struct Delays<K> {
    queue: DelayQueue<K>,
    keys: HashMap<K, (delay_queue::Key, Instant)>,
}

impl<K> Default for Delays<K> {
    fn default() -> Self {
        Self {
            queue: DelayQueue::new(),
            keys: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash> Delays<K> {
    fn insert(&mut self, key: K, delay: Duration) {
        let at = Instant::now() + delay;
        if let Some((place, before)) = self.keys.get_mut(&key) {
            if at < *before {
                self.queue.reset_at(place, at);
                *before = at;
            }
            return;
        }
        let place = self.queue.insert_at(key.clone(), at);
        self.keys.insert(key, (place, at));
    }

    fn remove(&mut self, key: &K) {
        if let Some((place, _)) = self.keys.remove(key) {
            self.queue.try_remove(&place);
        }
    }

    async fn next(&mut self) -> Option<K> {
        let key = self.queue.next().await?.into_inner();
        self.keys.remove(&key);
        Some(key)
    }
}

struct Dispatcher<'a, K, F> {
    queue: &'a Queue<K>,
    work: F,
    limit: usize,
    running: JoinSet<Outcome>,
    keys: HashMap<tokio::task::Id, K>,
    /// Keys under work that were asked for meanwhile.
    again: HashMap<K, Lane>,
    delays: Delays<K>,
    backoffs: HashMap<K, ExponentialBackoff>,
    /// How often a key was started since when.
    starts: HashMap<K, (Instant, u32)>,
}

impl<K, F, Fut> Dispatcher<'_, K, F>
where
    K: Clone + Eq + Hash + Debug + Send + 'static,
    F: Fn(K) -> Fut,
    Fut: Future<Output = Outcome> + Send + 'static,
{
    async fn run(&mut self) {
        let mut under_work: HashSet<K> = HashSet::new();
        loop {
            self.start(&mut under_work);
            tokio::select! {
                Some(ended) = self.running.join_next_with_id() => {
                    let (id, outcome) = match ended {
                        Ok((id, outcome)) => (id, outcome),
                        Err(failure) => {
                            tracing::error!(error = %failure, "work on a key broke off");
                            (failure.id(), Outcome::Failed {
                                first: Duration::from_secs(1),
                                longest: Duration::from_secs(60),
                            })
                        }
                    };
                    if let Some(key) = self.keys.remove(&id) {
                        under_work.remove(&key);
                        self.ended(key, outcome);
                    }
                }
                Some(key) = self.delays.next(), if !self.delays.keys.is_empty() => {
                    self.queue.lock().add(key, Lane::Bulk);
                }
                () = self.queue.shared.wake.notified() => {}
            }
        }
    }

    fn start(&mut self, under_work: &mut HashSet<K>) {
        while self.running.len() < self.limit {
            // bound here, so that the lock is not held while the work is made
            let taken = self.queue.lock().take();
            let Some((key, lane)) = taken else { break };
            if under_work.contains(&key) {
                let lane = self
                    .again
                    .get(&key)
                    .map_or(lane, |before| lane.max(*before));
                self.again.insert(key, lane);
                continue;
            }
            if self.is_crowded(&key) {
                self.delays.insert(key, CROWDED_PAUSE);
                continue;
            }
            self.delays.remove(&key);
            let handle = self.running.spawn((self.work)(key.clone()));
            self.keys.insert(handle.id(), key.clone());
            under_work.insert(key);
        }
    }

    fn ended(&mut self, key: K, outcome: Outcome) {
        match outcome {
            Outcome::Done => {
                self.backoffs.remove(&key);
            }
            Outcome::Again(delay) => {
                self.backoffs.remove(&key);
                self.delays.insert(key.clone(), delay);
            }
            Outcome::Failed { first, longest } => {
                let backoff = self.backoffs.entry(key.clone()).or_insert_with(|| {
                    ExponentialBuilder::default()
                        .with_min_delay(first)
                        .with_max_delay(longest)
                        .with_jitter()
                        .without_max_times()
                        .build()
                });
                self.delays
                    .insert(key.clone(), backoff.next().unwrap_or(longest));
            }
        }
        if let Some(lane) = self.again.remove(&key) {
            self.queue.lock().add(key, lane);
        }
    }

    /// Counts a start, and says whether there were too many of late.
    fn is_crowded(&mut self, key: &K) -> bool {
        let now = Instant::now();
        if self.starts.len() > 4096 {
            self.starts
                .retain(|_, (since, _)| now.duration_since(*since) < CROWDED_WITHIN);
        }
        let (since, count) = self.starts.entry(key.clone()).or_insert((now, 0));
        if now.duration_since(*since) >= CROWDED_WITHIN {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        // every second start beyond the bound waits: the one after the pause has to come through
        *count > CROWDED_STARTS && *count % 2 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::mpsc;

    const FAILED: Outcome = Outcome::Failed {
        first: Duration::from_secs(1),
        longest: Duration::from_secs(8),
    };

    /// Runs the queue in the background; yields each key as its work starts.
    fn observe(
        queue: &Queue<&'static str>,
        limit: usize,
        outcome: impl Fn(&'static str) -> Outcome + Send + Sync + 'static,
        takes: Duration,
    ) -> (mpsc::UnboundedReceiver<&'static str>, CancellationToken) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let (queue, stopped) = (queue.clone(), stop.clone());
        let outcome = Arc::new(outcome);
        tokio::spawn(async move {
            queue
                .run(limit, stopped, move |key| {
                    sender.send(key).unwrap();
                    let outcome = Arc::clone(&outcome);
                    async move {
                        tokio::time::sleep(takes).await;
                        outcome(key)
                    }
                })
                .await;
        });
        (receiver, stop)
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_worked_on_once_however_often_it_is_added() {
        let queue = Queue::default();
        queue.add_all(["a", "a", "b", "a"], Lane::Bulk);
        let (mut started, _stop) = observe(&queue, 1, |_| Outcome::Done, Duration::ZERO);
        assert_eq!(started.recv().await, Some("a"));
        assert_eq!(started.recv().await, Some("b"));
        let more = tokio::time::timeout(Duration::from_secs(60), started.recv()).await;
        assert!(more.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn express_overtakes_bulk() {
        let queue = Queue::default();
        queue.add_all(["a", "b", "c"], Lane::Bulk);
        queue.add("c", Lane::Express);
        queue.add("d", Lane::Express);
        queue.add("d", Lane::Bulk);
        let (mut started, _stop) = observe(&queue, 1, |_| Outcome::Done, Duration::ZERO);
        let mut order = Vec::new();
        for _ in 0..4 {
            order.push(started.recv().await.unwrap());
        }
        assert_eq!(order, ["c", "d", "a", "b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_follows_comes_between() {
        let queue = Queue::default();
        queue.add("a", Lane::Bulk);
        queue.add_all(["b", "c"], Lane::Follow);
        queue.add("d", Lane::Express);
        queue.add("b", Lane::Express);
        // the news of a write that was made meanwhile
        queue.add("c", Lane::Bulk);
        assert!(queue.is_express_waiting());
        let (mut started, _stop) = observe(&queue, 1, |_| Outcome::Done, Duration::ZERO);
        let mut order = Vec::new();
        for _ in 0..4 {
            order.push(started.recv().await.unwrap());
        }
        assert_eq!(order, ["d", "b", "c", "a"]);
        assert!(!queue.is_express_waiting());
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_under_work_is_worked_on_again_afterwards_and_never_twice_at_a_time() {
        let queue = Queue::default();
        queue.add("a", Lane::Bulk);
        let (mut started, _stop) = observe(&queue, 8, |_| Outcome::Done, Duration::from_secs(5));
        started.recv().await.unwrap();
        let begun = Instant::now();
        queue.add("a", Lane::Bulk);
        queue.add("a", Lane::Express);
        started.recv().await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), 5);
        let more = tokio::time::timeout(Duration::from_secs(60), started.recv()).await;
        assert!(more.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_per_key_and_hold_nobody_else_up() {
        let queue = Queue::default();
        queue.add("bad", Lane::Bulk);
        let failing = |key| if key == "bad" { FAILED } else { Outcome::Done };
        let (mut started, _stop) = observe(&queue, 1, failing, Duration::ZERO);
        started.recv().await.unwrap();
        let mut pauses = Vec::new();
        for _ in 0..6 {
            let begun = Instant::now();
            assert_eq!(started.recv().await, Some("bad"));
            pauses.push(begun.elapsed().as_secs_f64());
        }
        assert!(
            pauses[0] >= 1.0 && pauses[1] >= 2.0 && pauses[2] >= 4.0,
            "{pauses:?}"
        );
        assert!(pauses.iter().all(|pause| *pause <= 17.0), "{pauses:?}");
        queue.add("good", Lane::Bulk);
        let begun = Instant::now();
        assert_eq!(started.recv().await, Some("good"));
        assert!(begun.elapsed() < Duration::from_millis(10));
        // news about a failed key are not made to wait
        queue.add("bad", Lane::Bulk);
        assert_eq!(started.recv().await, Some("bad"));
        assert!(begun.elapsed() < Duration::from_millis(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_never_rests_is_slowed_down() {
        let queue = Queue::default();
        let count = Arc::new(AtomicUsize::new(0));
        let stop = CancellationToken::new();
        let (running, counted, stopped) = (queue.clone(), Arc::clone(&count), stop.clone());
        queue.add("a", Lane::Bulk);
        let loops = tokio::spawn(async move {
            let again = running.clone();
            running
                .run(1, stopped, move |key| {
                    let (again, counted) = (again.clone(), Arc::clone(&counted));
                    async move {
                        counted.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        again.add(key, Lane::Bulk);
                        Outcome::Done
                    }
                })
                .await;
        });
        tokio::time::sleep(Duration::from_secs(30)).await;
        let started = count.load(Ordering::Relaxed);
        assert!((60..100).contains(&started), "{started}");
        stop.cancel();
        loops.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn work_under_way_is_dropped_at_the_stop() {
        let queue = Queue::default();
        queue.add("a", Lane::Bulk);
        let (mut started, stop) = observe(&queue, 1, |_| Outcome::Done, Duration::from_secs(3600));
        started.recv().await.unwrap();
        stop.cancel();
        assert_eq!(started.recv().await, None);
    }
}
