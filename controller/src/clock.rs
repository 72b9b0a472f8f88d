//! The machine's clocks: one that neither jumps nor stands still, and one for people.

use std::time::Duration;

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

use crate::leader::Monotonic;

/// Time since the machine was booted, time asleep included: a leader that was suspended has to know how long.
pub(crate) fn now() -> Monotonic {
    let time = clock_gettime(ClockId::Boottime);
    // the kernel counts both up from zero
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// The time of day in whole seconds, as Kubernetes writes it: with less, what is read back is another time.
pub(crate) fn time_of_day() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_goes_back() {
        let first = now();
        assert!(first > Duration::ZERO);
        assert!(now() >= first);
    }
}
