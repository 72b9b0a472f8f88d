//! Waiting for something to become true, and watching that it stays so.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Between two looks. Short enough to add nothing to a test's time, long enough to leave the machine to what is tested.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks until the answer is `Ok`, and returns it.
///
/// # Panics
/// After `within`, with `what` and the last answer's error, which should show the state that was seen.
pub async fn eventually<T, E: Display>(
    within: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let start = Instant::now();
    loop {
        match probe().await {
            Ok(answer) => return answer,
            Err(state) if start.elapsed() >= within => {
                panic!("not within {within:?}: {what}; last seen: {state:#}")
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Asks again and again during `during`, and wants `Ok` every time. For what must not happen; where something must
/// happen first, wait for that instead.
///
/// # Panics
/// At the first error, with `what` and the error.
pub async fn stays<E: Display>(
    during: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Result<(), E>,
) {
    let start = Instant::now();
    while start.elapsed() < during {
        if let Err(state) = probe().await {
            panic!(
                "after {:?}, no longer: {what}; seen: {state:#}",
                start.elapsed()
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}
