//! How often what another program does is put right: a few times at once, and then now and then, so that two programs
//! that want different things do not write all day.

use std::time::Duration;

/// Somebody who tries something out by hand does not get further than this.
const AT_ONCE: u32 = 5;

/// One more after so long: as often as kubelet reads the file.
const REGAIN: Duration = Duration::from_secs(5 * 60);

/// How many repairs may be made. Times are those of a clock that does not go back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Repairs {
    left: u32,
    counted: Duration,
}

impl Repairs {
    pub(crate) fn new(now: Duration) -> Self {
        Self {
            left: AT_ONCE,
            counted: now,
        }
    }

    /// Whether one may be made now.
    pub(crate) fn is_allowed(&mut self, now: Duration) -> bool {
        while self.left < AT_ONCE && now.saturating_sub(self.counted) >= REGAIN {
            self.left += 1;
            self.counted += REGAIN;
        }
        if self.left == AT_ONCE {
            self.counted = now;
        }
        self.left > 0
    }

    /// One was made.
    pub(crate) fn made(&mut self) {
        self.left = self.left.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_few_at_once_and_then_one_after_each_pause() {
        let mut now = Duration::from_secs(7);
        let mut repairs = Repairs::new(now);
        for _ in 0..AT_ONCE {
            assert!(repairs.is_allowed(now));
            repairs.made();
        }
        assert!(!repairs.is_allowed(now));
        now += REGAIN;
        assert!(repairs.is_allowed(now));
        repairs.made();
        assert!(!repairs.is_allowed(now));
        now += REGAIN * 100;
        for _ in 0..AT_ONCE {
            assert!(repairs.is_allowed(now));
            repairs.made();
        }
        assert!(!repairs.is_allowed(now), "rest is not saved up");
    }

    proptest! {
        #[test]
        fn never_more_than_the_bound(pauses in prop::collection::vec(0u64..400, 1..200)) {
            let mut now = Duration::ZERO;
            let mut repairs = Repairs::new(now);
            let mut made = 0u64;
            for pause in pauses {
                now += Duration::from_secs(pause);
                if repairs.is_allowed(now) {
                    repairs.made();
                    made += 1;
                }
            }
            let bound = u64::from(AT_ONCE) + now.as_secs() / REGAIN.as_secs() + 1;
            prop_assert!(made <= bound, "{made} > {bound}");
        }
    }
}
