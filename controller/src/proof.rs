//! What registries have said about logins, and when they are asked again.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use pullpass_core::docker_config::Login;
use pullpass_core::key::RegistryKey;
use pullpass_providers::failure::Failure;
use pullpass_providers::verify::Verification;

use crate::renewal::after;

/// After a refusal, or where nothing was proven, the registry is asked again so soon, then after twice as long each time,
/// up to the interval at which good logins are verified anew.
const FIRST_PAUSE: Duration = Duration::from_secs(60);

/// A registry that wants to be left alone for longer is believed so far.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The interval is stretched and shortened by this part of it, so that registries are not all asked together.
const SPREAD: f64 = 0.1;

/// So many refusals in a row take a login away from where it stands in the way of public images: the first may be a
/// mistake of the registry's.
const REFUSALS_TO_WITHHOLD: u32 = 2;

/// The login in use, and the one that is to follow it.
const LOGINS_PER_KEY: usize = 2;

/// What a registry said about one login.
#[derive(Clone, Debug)]
pub(crate) struct Proof {
    login: Login,
    /// How it was asked: connection and repository.
    way: String,
    /// What it said.
    pub(crate) verification: Verification,
    /// When.
    at: Timestamp,
    /// How often in a row it said something of this kind.
    times: u32,
}

impl Proof {
    /// When the registry is asked again. `interval` is the time between two questions about a good login, `place` the
    /// key's own place between 0 and 1.
    pub(crate) fn due(&self, interval: Duration, place: f64) -> Timestamp {
        let spread_out = interval.mul_f64(1.0 - SPREAD + 2.0 * SPREAD * place.clamp(0.0, 1.0));
        let backoff = || {
            let doubled = 2_u32.saturating_pow(self.times.saturating_sub(1).min(16));
            FIRST_PAUSE.saturating_mul(doubled).min(spread_out)
        };
        let pause = match &self.verification {
            Verification::Accepted => spread_out,
            Verification::Refused(failure) | Verification::Unknown(failure) => {
                let asked_for = failure.retry_after.unwrap_or_default();
                backoff().max(asked_for.min(LONGEST_RETRY_AFTER))
            }
        };
        after(self.at, pause)
    }

    /// The refusal, where it was one.
    pub(crate) fn refusal(&self) -> Option<&Failure> {
        match &self.verification {
            Verification::Refused(failure) => Some(failure),
            Verification::Accepted | Verification::Unknown(_) => None,
        }
    }

    /// Whether the login was refused again and again.
    pub(crate) fn is_surely_refused(&self) -> bool {
        self.refusal().is_some() && self.times >= REFUSALS_TO_WITHHOLD
    }

    /// When the registry was asked.
    pub(crate) fn at(&self) -> Timestamp {
        self.at
    }
}

/// What was said about the logins of one Registry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proofs(BTreeMap<RegistryKey, Vec<Proof>>);

impl Proofs {
    /// What was said about just this login when it was asked in this way.
    pub(crate) fn find(&self, key: &RegistryKey, login: &Login, way: &str) -> Option<&Proof> {
        self.0
            .get(key)?
            .iter()
            .find(|proof| proof.way == way && proof.login.is_same(login))
    }

    /// Adds what the registry said at `now`.
    pub(crate) fn add(
        &mut self,
        key: &RegistryKey,
        login: &Login,
        way: &str,
        verification: Verification,
        now: Timestamp,
    ) {
        let before = self.find(key, login, way);
        let times = before
            .filter(|before| is_alike(&before.verification, &verification))
            .map_or(1, |before| before.times.saturating_add(1));
        let proofs = self.0.entry(key.clone()).or_default();
        proofs.retain(|proof| !proof.login.is_same(login));
        proofs.push(Proof {
            login: login.clone(),
            way: way.to_owned(),
            verification,
            at: now,
            times,
        });
        let outdated = proofs.len().saturating_sub(LOGINS_PER_KEY);
        proofs.drain(..outdated);
    }
}

fn is_alike(one: &Verification, other: &Verification) -> bool {
    matches!(
        (one, other),
        (Verification::Accepted, Verification::Accepted)
            | (Verification::Refused(_), Verification::Refused(_))
            | (Verification::Unknown(_), Verification::Unknown(_))
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::renewal::between;
    use proptest::prelude::*;
    use pullpass_core::reason::Reason;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn key() -> RegistryKey {
        RegistryKey::parse("r.example.com").unwrap()
    }

    fn login(password: &str) -> Login {
        Login::new("u".into(), password.into()).unwrap()
    }

    fn refused() -> Verification {
        Verification::Refused(Failure::new(Reason::Unauthorized, "no"))
    }

    fn pause(proofs: &Proofs, place: f64) -> u64 {
        let proof = proofs.find(&key(), &login("p"), "way").unwrap();
        between(proof.at(), proof.due(HOUR, place)).as_secs()
    }

    #[test]
    fn a_good_login_is_verified_at_the_interval_and_a_refused_one_sooner() {
        let mut proofs = Proofs::default();
        proofs.add(&key(), &login("p"), "way", Verification::Accepted, at(0));
        assert_eq!((pause(&proofs, 0.0), pause(&proofs, 1.0)), (3240, 3960));
        let mut pauses = Vec::new();
        for n in 0..8 {
            proofs.add(&key(), &login("p"), "way", refused(), at(n));
            pauses.push(pause(&proofs, 0.5));
        }
        assert_eq!(pauses, [60, 120, 240, 480, 960, 1920, 3600, 3600]);
    }

    #[test]
    fn a_registry_that_wants_to_be_left_alone_is() {
        let mut proofs = Proofs::default();
        let limited = Failure {
            retry_after: Some(Duration::from_secs(7200)),
            ..Failure::new(Reason::RateLimited, "later")
        };
        let limited = Verification::Unknown(limited);
        proofs.add(&key(), &login("p"), "way", limited, at(0));
        assert_eq!(pause(&proofs, 0.0), 7200);
    }

    #[test]
    fn one_refusal_may_be_a_mistake_and_two_are_none() {
        let mut proofs = Proofs::default();
        let mut say = |verification| {
            proofs.add(&key(), &login("p"), "way", verification, at(0));
            let proof = proofs.find(&key(), &login("p"), "way").unwrap();
            proof.is_surely_refused()
        };
        assert!(!say(refused()));
        assert!(say(refused()));
        assert!(!say(Verification::Accepted));
        assert!(!say(refused()));
    }

    #[test]
    fn what_was_said_holds_for_that_login_asked_in_that_way() {
        let mut proofs = Proofs::default();
        proofs.add(&key(), &login("p"), "way", Verification::Accepted, at(0));
        proofs.add(&key(), &login("q"), "way", refused(), at(1));
        assert!(proofs.find(&key(), &login("p"), "another way").is_none());
        assert!(proofs.find(&key(), &login("p"), "way").is_some());
        proofs.add(&key(), &login("r"), "way", refused(), at(2));
        assert!(proofs.find(&key(), &login("p"), "way").is_none());
        assert!(proofs.find(&key(), &login("r"), "way").is_some());
    }

    proptest! {
        #[test]
        fn nobody_is_asked_twice_within_a_minute(
            said in prop::collection::vec((0u8..3, 0u64..100_000), 1..12), place in 0.0f64..1.0, interval in 120u64..100_000,
        ) {
            let mut proofs = Proofs::default();
            for (kind, retry_after) in said {
                let failure = Failure {
                    retry_after: Some(Duration::from_secs(retry_after)),
                    ..Failure::new(Reason::Unreachable, "")
                };
                let verification = match kind {
                    0 => Verification::Accepted,
                    1 => Verification::Refused(failure),
                    _ => Verification::Unknown(failure),
                };
                proofs.add(&key(), &login("p"), "way", verification, at(0));
                let proof = proofs.find(&key(), &login("p"), "way").unwrap();
                let pause = between(at(0), proof.due(Duration::from_secs(interval), place));
                prop_assert!(pause >= FIRST_PAUSE);
                if kind > 0 {
                    prop_assert!(pause >= Duration::from_secs(retry_after.min(86_400)));
                }
            }
        }
    }
}
