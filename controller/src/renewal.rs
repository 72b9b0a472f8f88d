//! When a token that ends is asked for anew: a pure function of its life.

use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

/// A provider is not asked again within this time, unless its tokens live shorter.
const LEAST_PAUSE: Duration = Duration::from_secs(60);

/// Nor within this, however short they live.
const SHORTEST_PAUSE: Duration = Duration::from_secs(5);

/// How long a token lives whose provider does not say so. The shortest life that a provider gives its tokens by default
/// is an hour (Google's access tokens).
const UNTOLD_LIFE: Duration = Duration::from_secs(3600);

/// Tokens that were issued together are renewed over this part of their life, so that a restart, after which all are as
/// old as each other, is not followed by all logins at one moment.
const SPREAD: f64 = 0.05;

/// A place between 0 and 1 that is a key's own: always the same for the same text, and different texts are spread evenly.
pub(crate) fn place(of: &str) -> f64 {
    let hash: [u8; 32] = Sha256::digest(of).into();
    let [a, b, c, d, ..] = hash;
    f64::from(u32::from_be_bytes([a, b, c, d])) / (f64::from(u32::MAX) + 1.0)
}

/// When a token is asked for anew that was handed out at `from`, or then once more, and ends at `until`: at half of what
/// was left of its life, and a little later by the key's `place`; before its end in any case.
pub(crate) fn due(from: Timestamp, until: Option<Timestamp>, place: f64) -> Timestamp {
    let left = until.map_or(UNTOLD_LIFE, |until| between(from, until));
    let half = left.mul_f64(0.5 + SPREAD * place.clamp(0.0, 1.0));
    // where not even that is left there is no time to lose
    let least = if left > 2 * LEAST_PAUSE {
        LEAST_PAUSE
    } else {
        SHORTEST_PAUSE
    };
    after(from, half.max(least))
}

/// When another token is asked for in place of one that was handed out at `from` and that the registry refuses: at once; where
/// so many before it were refused, too, after a minute, and then after twice as long each time.
pub(crate) fn instead_of_refused(from: Timestamp, before: u32) -> Timestamp {
    let pause = match before {
        0 => Duration::ZERO,
        before => LEAST_PAUSE.saturating_mul(2_u32.saturating_pow(before - 1)),
    };
    after(from, pause)
}

/// The time from one moment to a later one; nothing where it is not later.
pub(crate) fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// A moment later by so long; the end of time where there is none.
pub(crate) fn after(from: Timestamp, by: Duration) -> Timestamp {
    from.saturating_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    /// A provider that hands out a new token when so much of the last one's life is over, and the same one before.
    fn asked(life: i64, renews_after: f64, place: f64, for_seconds: i64) -> Vec<(i64, bool)> {
        let mut asked = vec![(0, true)];
        let (mut now, mut issued) = (0, 0);
        while now < for_seconds && asked.len() < 100_000 {
            let next = due(at(now), Some(at(issued + life)), place);
            now = next.as_second() - at(0).as_second();
            let is_new = (now - issued) as f64 >= life as f64 * renews_after;
            if is_new {
                issued = now;
            }
            asked.push((now, is_new));
        }
        asked
    }

    #[test]
    fn half_of_twelve_hours() {
        let due = |place| due(at(0), Some(at(43_200)), place).as_second() - at(0).as_second();
        assert_eq!((due(0.0), due(1.0)), (21_600, 23_760));
    }

    #[test]
    fn the_same_token_again_is_asked_for_less_and_less_rarely() {
        // as Google's metadata server does, which keeps a token until its last minutes
        let asked = asked(3600, 0.95, 0.0, 3600);
        let times: Vec<i64> = asked.iter().map(|(time, _)| *time).collect();
        assert_eq!(times, [0, 1800, 2700, 3150, 3375, 3487, 5287]);
        let renewed: Vec<_> = asked.iter().filter(|(_, is_new)| *is_new).collect();
        assert_eq!(renewed, [&(0, true), &(3487, true)]);
    }

    #[test]
    fn a_life_that_is_not_told_is_an_hour() {
        assert_eq!(due(at(0), None, 0.0), at(1800));
    }

    #[test]
    fn a_life_that_is_over_is_no_reason_to_hammer() {
        assert_eq!(due(at(0), Some(at(-5)), 0.5), at(5));
    }

    #[test]
    fn after_one_refusal_at_once_and_then_less_and_less_often() {
        let pause = |before| between(at(0), instead_of_refused(at(0), before)).as_secs();
        assert_eq!([0, 1, 2, 3, 4].map(pause), [0, 60, 120, 240, 480]);
        assert_eq!(instead_of_refused(at(0), u32::MAX), Timestamp::MAX);
    }

    #[test]
    fn keys_are_spread_evenly_and_each_stays_where_it_is() {
        let places: Vec<f64> = (0..1000).map(|n| place(&format!("uid-{n}"))).collect();
        assert!(places.iter().all(|place| (0.0..1.0).contains(place)));
        for tenth in 0..10 {
            let within = places
                .iter()
                .filter(|p| (**p * 10.0) as i32 == tenth)
                .count();
            assert!((60..140).contains(&within), "{within} in {tenth}");
        }
        assert_eq!(place("a").to_bits(), place("a").to_bits());
    }

    proptest! {
        #[test]
        fn renewed_at_half_of_the_life_and_before_its_end(life in 11i64..1_000_000, place in 0.0f64..1.0) {
            let (from, until) = (at(0), at(life));
            let due = due(from, Some(until), place);
            prop_assert!(due < until);
            let part = between(from, due).as_secs_f64() / life as f64;
            prop_assert!(part >= 0.5 || between(from, due) >= SHORTEST_PAUSE);
            prop_assert!(part <= 0.5 + SPREAD + 0.001 || between(from, due) <= LEAST_PAUSE);
        }

        /// However late the provider renews, there is no gap, and it is not asked more than a few times for each token.
        #[test]
        fn a_token_that_is_handed_out_again_is_replaced_in_time(
            life in 600i64..100_000, renews_after in 0.0f64..0.9, place in 0.0f64..1.0,
        ) {
            let asked = asked(life, renews_after, place, 20 * life);
            let mut issued = 0;
            let mut calls = 0;
            for (time, is_new) in asked {
                calls += 1;
                prop_assert!(time < issued + life, "a gap at {time} after {issued}");
                if is_new {
                    prop_assert!(calls <= 6, "{calls} calls for one token");
                    (issued, calls) = (time, 0);
                }
            }
        }

        #[test]
        fn never_asked_twice_at_once(from in -1000i64..1000, until in proptest::option::of(-10_000i64..10_000), place in -1.0f64..2.0) {
            let due = due(at(from), until.map(at), place);
            prop_assert!(between(at(from), due) >= SHORTEST_PAUSE);
        }
    }
}
