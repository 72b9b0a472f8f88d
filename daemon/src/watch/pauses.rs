//! How long a watch waits after a failure: longer from one to the next, until something tells that the API server is back.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::sync::watch as flag;
use tokio::time::{Instant, sleep, timeout};

use super::failure::Reason;

/// The first wait, and the shortest of all. Jitter adds up to as much again.
pub(super) const FIRST: Duration = Duration::from_millis(500);

/// The longest wait, without the jitter: after an outage everything has to be as it should within half a minute.
pub(super) const LONGEST: Duration = Duration::from_secs(8);

/// A failure so long after the one before is the first of its row. One row's own are closer, even where each attempt
/// ends by the bound on silence.
const APART: Duration = Duration::from_secs(120);

/// The waits of one watch.
pub(super) struct Pauses {
    backoff: ExponentialBackoff,
    failed: Option<Instant>,
    /// Changes whenever the API server grants any watch of the process something.
    granted: flag::Receiver<()>,
}

impl Pauses {
    pub(super) fn new(granted: flag::Receiver<()>) -> Self {
        Self {
            backoff: backoff(),
            failed: None,
            granted,
        }
    }

    /// The watch works.
    pub(super) fn reset(&mut self) {
        self.backoff = backoff();
    }

    /// Waits after a failure.
    pub(super) async fn pause(&mut self, reason: Reason) {
        let is_apart = self.failed.is_some_and(|failed| failed.elapsed() > APART);
        // an API server that has just started forgets old resource versions: it is well, only the place is gone
        if is_apart || reason == Reason::Gone {
            self.reset();
        }
        self.failed = Some(Instant::now());
        self.granted.mark_unchanged();
        let pause = self.backoff.next().unwrap_or(LONGEST);
        sleep(FIRST).await;
        let rest = pause.saturating_sub(FIRST);
        if reason == Reason::Throttled {
            sleep(rest).await;
        } else {
            // what is granted to one watch may be to the others: all are back with the first
            let _ = timeout(rest, self.granted.changed()).await;
        }
    }
}

fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(FIRST)
        .with_max_delay(LONGEST)
        .with_jitter()
        .without_max_times()
        .build()
}
