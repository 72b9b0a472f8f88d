//! An orderly end: not ready → grace → stop accepting → finish what is in flight → stop everything else →
//! flush. It has a deadline, and a second signal ends it at once.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::{BoxError, chain};
use crate::readiness::Readiness;

/// When a task is told to stop. The stages stop one after another, each after the one before has finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Takes work from outside: stops taking any, finishes what it has.
    Serve,
    /// Keeps the state that serving needs, or works on its own account: watches, loops.
    Work,
    /// Tells others about the process, to the end.
    Observe,
}

const STAGES: [Stage; 3] = [Stage::Serve, Stage::Work, Stage::Observe];

/// How much time an orderly end takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// From not ready to stop accepting: so long others may still send work, because they have not heard yet.
    pub grace: Duration,
    /// From the signal to the end, grace included. Less than the pod's `terminationGracePeriodSeconds`.
    pub deadline: Duration,
}

/// How a process came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It was asked to, and everything finished.
    Orderly,
    /// It was asked to, but these tasks did not finish by the deadline.
    Unfinished(Vec<&'static str>),
    /// It was asked to twice.
    Aborted,
    /// An essential task ended though nobody asked it to.
    TaskEnded {
        /// The task.
        name: &'static str,
        /// What it ended with.
        reason: String,
    },
}

impl Ending {
    /// Zero only for an orderly end.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Orderly => ExitCode::SUCCESS,
            Self::Unfinished(_) | Self::Aborted | Self::TaskEnded { .. } => ExitCode::FAILURE,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Orderly => f.write_str("everything finished"),
            Self::Unfinished(names) => {
                write!(f, "not finished by the deadline: {}", names.join(", "))
            }
            Self::Aborted => f.write_str("aborted by a second signal"),
            Self::TaskEnded { name, reason } => write!(f, "task {name} ended: {reason}"),
        }
    }
}

/// The tasks of a process, every one of them essential: when one ends unasked, the process ends. Clones share
/// them.
#[derive(Debug, Clone)]
pub struct Tasks {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    stages: BTreeMap<Stage, (CancellationToken, TaskTracker)>,
    running: Mutex<BTreeMap<u64, (Stage, &'static str)>>,
    ended: mpsc::UnboundedSender<(&'static str, String)>,
}

/// Learns of tasks that ended unasked. Kept by whoever runs the process.
#[derive(Debug)]
pub struct Supervisor {
    tasks: Tasks,
    ended: mpsc::UnboundedReceiver<(&'static str, String)>,
}

impl Tasks {
    /// No tasks yet, and the one who watches over them.
    #[must_use]
    pub fn new() -> (Self, Supervisor) {
        let (ended, endings) = mpsc::unbounded_channel();
        let stages = STAGES
            .into_iter()
            .map(|stage| (stage, (CancellationToken::new(), TaskTracker::new())))
            .collect();
        let tasks = Self {
            shared: Arc::new(Shared {
                stages,
                running: Mutex::default(),
                ended,
            }),
        };
        (
            tasks.clone(),
            Supervisor {
                tasks,
                ended: endings,
            },
        )
    }

    /// Cancelled when tasks of this stage are to stop.
    #[must_use]
    pub fn stop(&self, stage: Stage) -> CancellationToken {
        self.shared
            .stages
            .get(&stage)
            .map(|(stop, _)| stop.clone())
            .unwrap_or_default()
    }

    /// Starts a task. It ends after [`Tasks::stop`] of its stage is cancelled; if it ends before, with or
    /// without an error or by a panic, the process ends.
    pub fn spawn<E>(
        &self,
        stage: Stage,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) where
        E: Into<BoxError> + 'static,
    {
        let Some((stop, tracker)) = self.shared.stages.get(&stage) else {
            return;
        };
        let id = {
            let mut running = self.running();
            let id = running.last_key_value().map_or(0, |(last, _)| last + 1);
            running.insert(id, (stage, name));
            id
        };
        let shared = Arc::clone(&self.shared);
        let stop = stop.clone();
        // a task of its own, so that its panic can be told
        let work = tokio::spawn(async move { task.await.map_err(Into::into) });
        tracker.spawn(async move {
            let reason = match work.await {
                Ok(Ok(())) => "it returned".to_owned(),
                Ok(Err(error)) => chain(&*error),
                Err(failure) if failure.is_panic() => "it panicked".to_owned(),
                Err(_) => "it was cancelled".to_owned(),
            };
            shared
                .running
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&id);
            if !stop.is_cancelled() {
                // nobody listens any more when the process is ending
                let _ = shared.ended.send((name, reason));
            }
        });
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<u64, (Stage, &'static str)>> {
        // inserting and removing cannot leave it half-changed
        self.shared
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Supervisor {
    /// Runs until a signal arrives or a task ends unasked, then brings everything to its end.
    ///
    /// `signals` yields the name of each signal. The first starts the end, the second aborts it.
    pub async fn run(
        mut self,
        mut signals: impl Stream<Item = &'static str> + Unpin,
        readiness: &Readiness,
        drain: Drain,
    ) -> Ending {
        let failed = tokio::select! {
            ended = self.ended.recv() => ended,
            signal = next_signal(&mut signals) => {
                tracing::info!(signal, grace_seconds = drain.grace.as_secs(), "shutting down");
                None
            }
        };
        let deadline = Instant::now() + drain.deadline;
        readiness.withdraw();
        let ending = tokio::select! {
            ending = self.drain(failed.is_none().then_some(drain.grace), deadline) => ending,
            signal = next_signal(&mut signals) => {
                tracing::warn!(signal, "second signal, aborting");
                Ending::Aborted
            }
        };
        for (stop, _) in self.tasks.shared.stages.values() {
            stop.cancel();
        }
        let ending = failed.map_or(ending, |(name, reason)| Ending::TaskEnded { name, reason });
        match &ending {
            Ending::Orderly => tracing::info!("ended: {ending}"),
            Ending::Unfinished(_) | Ending::Aborted | Ending::TaskEnded { .. } => {
                tracing::error!("ended: {ending}")
            }
        }
        ending
    }

    /// Without a grace where a task is missing: what still arrives could not be served well.
    async fn drain(&self, grace: Option<Duration>, deadline: Instant) -> Ending {
        if let Some(grace) = grace {
            tokio::time::sleep_until(deadline.min(Instant::now() + grace)).await;
        }
        for (stage, (stop, tracker)) in &self.tasks.shared.stages {
            tracing::debug!(?stage, "stopping");
            stop.cancel();
            tracker.close();
            if tokio::time::timeout_at(deadline, tracker.wait())
                .await
                .is_err()
            {
                let running = self.tasks.running();
                let late = running
                    .values()
                    .filter(|(of, _)| of == stage)
                    .map(|(_, name)| *name)
                    .collect();
                return Ending::Unfinished(late);
            }
        }
        Ending::Orderly
    }
}

async fn next_signal(signals: &mut (impl Stream<Item = &'static str> + Unpin)) -> &'static str {
    match signals.next().await {
        Some(signal) => signal,
        // no more signals can come: that is no reason to end
        None => std::future::pending().await,
    }
}

/// SIGTERM and SIGINT of this process, as they arrive. Has to be called within a Tokio runtime.
///
/// # Errors
/// The signal handlers cannot be installed.
pub fn signals() -> io::Result<impl Stream<Item = &'static str> + Unpin> {
    let received = |kind: SignalKind, name: &'static str| -> io::Result<_> {
        let signal = signal(kind)?;
        Ok(futures::stream::unfold(
            signal,
            move |mut signal: Signal| async move { signal.recv().await.map(|()| (name, signal)) },
        ))
    };
    let terminate = received(SignalKind::terminate(), "SIGTERM")?;
    let interrupt = received(SignalKind::interrupt(), "SIGINT")?;
    Ok(Box::pin(futures::stream::select(terminate, interrupt)))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::sync::mpsc::UnboundedSender;

    use super::*;

    const DRAIN: Drain = Drain {
        grace: Duration::from_secs(5),
        deadline: Duration::from_secs(25),
    };

    struct Process {
        tasks: Tasks,
        readiness: Readiness,
        signals: UnboundedSender<&'static str>,
        ending: tokio::task::JoinHandle<Ending>,
        started: Instant,
    }

    impl Process {
        fn start() -> Self {
            let (tasks, supervisor) = Tasks::new();
            let readiness = Readiness::new();
            let (sender, mut received) = mpsc::unbounded_channel();
            let received = futures::stream::poll_fn(move |context| received.poll_recv(context));
            let ready = readiness.clone();
            let ending = tokio::spawn(async move { supervisor.run(received, &ready, DRAIN).await });
            Self {
                tasks,
                readiness,
                signals: sender,
                ending,
                started: Instant::now(),
            }
        }

        fn signal(&self) {
            self.signals.send("SIGTERM").unwrap();
        }
    }

    /// A task that takes `needs` to finish once it is told to stop, and then says so.
    fn obedient(
        process: &Process,
        stage: Stage,
        name: &'static str,
        needs: Duration,
        log: &UnboundedSender<(&'static str, Duration)>,
    ) {
        let (stop, started, log) = (process.tasks.stop(stage), process.started, log.clone());
        process.tasks.spawn::<Infallible>(stage, name, async move {
            stop.cancelled().await;
            tokio::time::sleep(needs).await;
            log.send((name, started.elapsed())).unwrap();
            Ok(())
        });
    }

    #[tokio::test(start_paused = true)]
    async fn stages_end_one_after_another() {
        let process = Process::start();
        let (log, mut said) = mpsc::unbounded_channel();
        let second = Duration::from_secs(1);
        obedient(&process, Stage::Observe, "admin", Duration::ZERO, &log);
        obedient(&process, Stage::Work, "watch", second, &log);
        obedient(&process, Stage::Serve, "server", 3 * second, &log);
        obedient(&process, Stage::Serve, "other server", 2 * second, &log);
        assert_eq!(process.readiness.check(), Ok(()));
        process.signal();
        tokio::time::sleep(second).await;
        assert!(
            process.readiness.check().is_err(),
            "not ready while it still accepts"
        );
        assert!(said.is_empty());
        assert_eq!(process.ending.await.unwrap(), Ending::Orderly);
        let mut order = Vec::new();
        while let Ok((name, at)) = said.try_recv() {
            order.push((name, at.as_secs()));
        }
        assert_eq!(
            order,
            [
                ("other server", 7),
                ("server", 8),
                ("watch", 9),
                ("admin", 9)
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_finish_is_named_at_the_deadline() {
        let process = Process::start();
        let (log, mut said) = mpsc::unbounded_channel();
        obedient(
            &process,
            Stage::Serve,
            "server",
            Duration::from_secs(3600),
            &log,
        );
        obedient(&process, Stage::Work, "watch", Duration::ZERO, &log);
        process.signal();
        let ending = process.ending.await.unwrap();
        assert_eq!(process.started.elapsed().as_secs(), 25);
        assert_eq!(ending, Ending::Unfinished(vec!["server"]));
        assert_eq!(ending.exit_code(), ExitCode::FAILURE);
        // all the others are told all the same
        assert_eq!(said.recv().await.unwrap().0, "watch");
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_ends_it_at_once() {
        let process = Process::start();
        process.signal();
        tokio::time::sleep(Duration::from_secs(2)).await;
        process.signal();
        assert_eq!(process.ending.await.unwrap(), Ending::Aborted);
        assert_eq!(process.started.elapsed().as_secs(), 2);
    }

    async fn ends_with(
        task: impl Future<Output = Result<(), BoxError>> + Send + 'static,
    ) -> Ending {
        let process = Process::start();
        let (log, mut said) = mpsc::unbounded_channel();
        obedient(&process, Stage::Work, "watch", Duration::ZERO, &log);
        process.tasks.spawn(Stage::Serve, "server", task);
        let ending = process.ending.await.unwrap();
        assert_eq!(
            said.recv().await.unwrap().0,
            "watch",
            "the others end in order"
        );
        assert!(process.readiness.check().is_err());
        assert_eq!(ending.exit_code(), ExitCode::FAILURE);
        ending
    }

    #[tokio::test(start_paused = true)]
    async fn an_essential_task_takes_the_process_with_it() {
        let ended = |reason: &str| Ending::TaskEnded {
            name: "server",
            reason: reason.to_owned(),
        };
        assert_eq!(ends_with(async { Ok(()) }).await, ended("it returned"));
        assert_eq!(
            ends_with(async { Err("port is gone".into()) }).await,
            ended("port is gone")
        );
        assert_eq!(
            ends_with(async { panic!("on purpose") }).await,
            ended("it panicked")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_to_send_signals_is_no_signal() {
        let process = Process::start();
        drop(process.signals);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(!process.ending.is_finished());
        assert_eq!(process.readiness.check(), Ok(()));
    }
}
