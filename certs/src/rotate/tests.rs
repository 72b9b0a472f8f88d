use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use rustls_pki_types::{ServerName, UnixTime};

use super::*;
use crate::issue::issue_authority;
use crate::state::{self, SecretData};

const NAME: &str = "pullpass-webhook.pullpass-system.svc";
const STARTS: Timestamp = Timestamp::constant(1_800_000_000, 0);
const SKEW: SignedDuration = SignedDuration::from_mins(30);
/// For so long an API server may hold an old bundle, and a replica an old leaf.
const LAG: SignedDuration = SignedDuration::from_hours(2);

fn times() -> Times {
    Times {
        authority_lifetime: SignedDuration::from_hours(90 * 24),
        leaf_lifetime: SignedDuration::from_hours(20 * 24),
        propagation_delay: LAG,
        clock_skew: SKEW,
    }
}

fn policy() -> Policy {
    Policy::new([NAME.to_owned()], times()).unwrap()
}

/// What an API server does with a serving certificate.
fn verify(bundle: &[u8], leaf: &Certificate, clock: Timestamp) -> Result<(), String> {
    let authorities = Certificate::all_from_pem(bundle).map_err(|error| error.to_string())?;
    // Go refuses an authority outside of its validity; webpki does not look at it
    let anchors: Vec<_> = authorities
        .iter()
        .filter(|authority| authority.is_valid_at(clock))
        .map(|authority| webpki::anchor_from_trusted_cert(authority.der()).unwrap())
        .collect();
    let end_entity =
        webpki::EndEntityCert::try_from(leaf.der()).map_err(|error| error.to_string())?;
    let time = UnixTime::since_unix_epoch(Duration::from_secs(
        u64::try_from(clock.as_second()).unwrap(),
    ));
    end_entity
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            &[],
            time,
            webpki::KeyUsage::server_auth(),
            None,
            None,
        )
        .map_err(|error| format!("{error:?}"))?;
    end_entity
        .verify_is_valid_for_subject_name(&ServerName::try_from(NAME).unwrap())
        .map_err(|error| format!("{error:?}"))
}

/// The cluster's two Secrets and its webhook configuration.
#[derive(Default)]
struct World {
    authorities: Option<SecretData>,
    serving: Option<SecretData>,
    ca_bundle: Vec<u8>,
}

impl World {
    fn stored(&self) -> Stored {
        Stored::read(self.authorities.as_ref(), self.serving.as_ref())
    }

    fn observed(&self) -> Observed {
        Observed {
            ca_bundle: Some(self.ca_bundle.clone()),
        }
    }

    fn leaf(&self) -> Option<Certificate> {
        self.stored().serving.map(|serving| serving.certificate)
    }

    /// One step by a process that remembers nothing of the one before. Returns until when to wait.
    fn step(&mut self, now: Timestamp, policy: &Policy) -> Option<Timestamp> {
        let action = rotate(now, policy, &self.stored(), &self.observed())
            .prepare(now, policy)
            .unwrap();
        self.carry_out(action)
    }

    fn carry_out(&mut self, action: Action) -> Option<Timestamp> {
        match action {
            Action::StoreAuthorities(authorities) => {
                self.authorities = Some(authorities.to_secret_data().unwrap())
            }
            Action::StoreServing(serving) => self.serving = Some(serving.to_secret_data()),
            Action::Publish(ca_bundle) => self.ca_bundle = ca_bundle.into_bytes(),
            Action::Wait(until) => return Some(until),
        }
        None
    }

    fn settle(&mut self, now: Timestamp, policy: &Policy) -> Timestamp {
        for _ in 0..20 {
            if let Some(until) = self.step(now, policy) {
                return until;
            }
        }
        panic!(
            "does not settle: {:?}",
            rotate(now, policy, &self.stored(), &self.observed())
        );
    }

    fn settled() -> Self {
        let mut world = Self::default();
        world.settle(STARTS, &policy());
        world
    }

    fn verify(&self, clock: Timestamp) -> Result<(), String> {
        verify(&self.ca_bundle, &self.leaf().ok_or("no leaf")?, clock)
    }
}

#[test]
fn times_that_would_leave_a_gap_are_refused() {
    assert_eq!(Policy::new([], times()), Err(PolicyError::NoNames));
    let with = |change: fn(&mut Times)| {
        let mut times = times();
        change(&mut times);
        Policy::new([NAME.to_owned()], times).unwrap_err()
    };
    let negative = with(|times| times.clock_skew = SignedDuration::from_secs(-1));
    assert_eq!(negative, PolicyError::Negative);
    let leaf = with(|times| times.leaf_lifetime = SignedDuration::from_hours(9));
    assert!(leaf.to_string().contains("9h"), "{leaf}");
    assert!(matches!(leaf, PolicyError::LeafTooShort(..)), "{leaf:?}");
    let authority = with(|times| times.authority_lifetime = SignedDuration::from_hours(60 * 24));
    assert!(
        matches!(authority, PolicyError::AuthorityTooShort(..)),
        "{authority:?}"
    );
    assert!(Policy::new([NAME.to_owned()], Times::default()).is_ok());
}

#[test]
fn first_start_serves_before_it_publishes_and_then_rests() {
    let policy = policy();
    let mut world = World::default();
    let mut names = Vec::new();
    let until = loop {
        let step = rotate(STARTS, &policy, &world.stored(), &world.observed());
        names.push(match &step {
            Step::AddAuthority(_) => "add authority",
            Step::StoreAuthorities(_) => "store authorities",
            Step::IssueLeaf { .. } => "issue leaf",
            Step::Publish(_) => "publish",
            Step::Wait(_) => "wait",
        });
        if let Some(until) = world.carry_out(step.prepare(STARTS, &policy).unwrap()) {
            break until;
        }
    };
    assert_eq!(
        names,
        [
            "add authority",
            "store authorities",
            "issue leaf",
            "publish",
            "wait"
        ]
    );
    assert_eq!(world.verify(STARTS), Ok(()));
    assert_eq!(until, world.leaf().unwrap().renew_at());
    assert_eq!(
        Certificate::all_from_pem(&world.ca_bundle).unwrap().len(),
        1
    );
}

#[test]
fn without_a_webhook_configuration_a_leaf_is_there_all_the_same() {
    let policy = policy();
    let mut world = World::default();
    let nowhere = Observed::default();
    for _ in 0..10 {
        let action = rotate(STARTS, &policy, &world.stored(), &nowhere)
            .prepare(STARTS, &policy)
            .unwrap();
        if world.carry_out(action).is_some() {
            break;
        }
    }
    assert!(world.leaf().is_some());
    assert!(world.ca_bundle.is_empty());
}

#[test]
fn a_leaf_is_renewed_at_two_thirds_without_a_change_of_the_bundle() {
    let policy = policy();
    let mut world = World::settled();
    let (bundle, old) = (world.ca_bundle.clone(), world.leaf().unwrap());
    let early = earlier(old.renew_at(), SignedDuration::from_secs(1));
    world.settle(early, &policy);
    assert_eq!(world.leaf().unwrap(), old);
    world.settle(old.renew_at(), &policy);
    let new = world.leaf().unwrap();
    assert_ne!(new.serial(), old.serial());
    assert!(new.not_after() > old.not_after());
    assert_eq!(world.ca_bundle, bundle);
}

#[test]
fn other_dns_names_are_served_at_once() {
    let mut world = World::settled();
    let other = Policy::new(["other.svc".to_owned(), NAME.to_owned()], times()).unwrap();
    let bundle = world.ca_bundle.clone();
    world.settle(STARTS, &other);
    assert_eq!(world.leaf().unwrap().dns_names(), other.dns_names());
    assert_eq!(world.ca_bundle, bundle);
}

#[test]
fn a_foreign_bundle_is_replaced() {
    let policy = policy();
    let mut world = World::settled();
    let ours = std::mem::replace(&mut world.ca_bundle, b"-----BEGIN NONSENSE".to_vec());
    assert!(
        matches!(rotate(STARTS, &policy, &world.stored(), &world.observed()), Step::Publish(text) if text.as_bytes() == ours)
    );
    let stranger =
        issue_authority(Validity::lasting(STARTS, times().authority_lifetime, SKEW)).unwrap();
    world.ca_bundle = stranger.certificate.pem().into_bytes();
    world.settle(STARTS, &policy);
    assert_eq!(world.ca_bundle, ours);
}

/// The world at the moment when the next authority is in trust, but does not sign.
fn pending() -> (World, Timestamp) {
    let policy = policy();
    let mut world = World::settled();
    let mut now = STARTS;
    loop {
        let until = world.settle(now, &policy);
        if world.stored().authorities.next.is_some() {
            return (world, now);
        }
        now = until;
    }
}

#[test]
fn a_new_authority_signs_only_long_after_it_was_seen_published() {
    let policy = policy();
    let (mut world, now) = pending();
    let stored = world.stored().authorities;
    let next = stored.next.unwrap();
    assert_eq!(next.published_at, Some(now));
    let old = stored.current.unwrap().certificate;
    assert_eq!(
        Certificate::all_from_pem(&world.ca_bundle).unwrap(),
        [old.clone(), next.authority.certificate.clone()]
    );

    let switch = later(now, policy.settled_after());
    world.settle(earlier(switch, SignedDuration::from_secs(1)), &policy);
    assert!(world.leaf().unwrap().is_signed_by(&old));

    let bundle = world.ca_bundle.clone();
    world.settle(switch, &policy);
    assert!(
        world
            .leaf()
            .unwrap()
            .is_signed_by(&next.authority.certificate)
    );
    assert_eq!(
        world.ca_bundle, bundle,
        "both stay in trust, and a change of roles is no change of the bundle"
    );
    let previous = world.stored().authorities.previous;
    assert_eq!(previous.len(), 1);
    assert!(
        previous[0].key.is_none(),
        "an authority that signs no more needs no key"
    );

    let end = later(previous[0].leaves_expire, policy.tolerance());
    world.settle(end, &policy);
    assert_eq!(world.stored().authorities.previous.len(), 1);
    world.settle(later(end, SignedDuration::from_secs(1)), &policy);
    assert!(world.stored().authorities.previous.is_empty());
    assert_eq!(
        Certificate::all_from_pem(&world.ca_bundle).unwrap(),
        [next.authority.certificate]
    );
}

#[test]
fn no_leaf_outlives_what_is_on_record_for_its_authority() {
    let policy = policy();
    let mut world = World::settled();
    let mut now = STARTS;
    for _ in 0..60 {
        now = world.settle(now, &policy);
        let stored = world.stored();
        let leaf = stored.serving.unwrap().certificate;
        let signer = stored
            .authorities
            .trusted()
            .find(|authority| leaf.is_signed_by(&authority.certificate))
            .cloned();
        let signer = signer.expect("signed by one in trust");
        assert!(leaf.not_after() <= signer.leaves_expire);
        assert!(leaf.not_after() <= signer.certificate.not_after());
    }
    assert!(now > later(STARTS, times().authority_lifetime), "{now}");
}

#[test]
fn taken_out_of_the_bundle_the_delay_starts_anew() {
    let policy = policy();
    let (mut world, now) = pending();
    let current = world.stored().authorities.current.unwrap().certificate;
    world.ca_bundle = current.pem().into_bytes();
    let switch = later(now, policy.settled_after());
    world.settle(switch, &policy);
    assert!(world.leaf().unwrap().is_signed_by(&current));
    let next = world.stored().authorities.next.unwrap();
    assert_eq!(next.published_at, Some(switch));
    assert_eq!(
        Certificate::all_from_pem(&world.ca_bundle).unwrap().len(),
        2
    );
}

#[test]
fn a_lost_authority_stays_in_trust_until_its_successor_is_known() {
    let policy = policy();
    for damage in [
        |world: &mut World| world.authorities = None,
        |world: &mut World| {
            world
                .authorities
                .as_mut()
                .unwrap()
                .insert(state::AUTHORITY_CERTIFICATE.into(), b"torn".to_vec());
        },
        |world: &mut World| {
            world
                .authorities
                .as_mut()
                .unwrap()
                .insert(state::AUTHORITY_KEY.into(), b"torn".to_vec());
        },
        |world: &mut World| {
            world
                .authorities
                .as_mut()
                .unwrap()
                .remove(state::AUTHORITY_KEY);
        },
    ] {
        let mut world = World::settled();
        let leaf = world.leaf().unwrap();
        damage(&mut world);
        world.settle(STARTS, &policy);
        assert_eq!(world.leaf().unwrap(), leaf);
        assert_eq!(world.verify(STARTS), Ok(()));
        assert_eq!(
            Certificate::all_from_pem(&world.ca_bundle).unwrap().len(),
            2
        );
        world.settle(later(STARTS, policy.settled_after()), &policy);
        assert_ne!(world.leaf().unwrap(), leaf);
        assert_eq!(world.verify(later(STARTS, policy.settled_after())), Ok(()));
    }
}

#[test]
fn an_authority_restored_from_an_old_backup_is_introduced_like_a_new_one() {
    let policy = policy();
    let old = World::settled();
    let mut world = World::settled();
    let leaf = world.leaf().unwrap();
    world.authorities = old.authorities;
    world.settle(STARTS, &policy);
    assert_eq!(world.leaf().unwrap(), leaf);
    assert_eq!(world.verify(STARTS), Ok(()));
    let restored = old.ca_bundle;
    let next = world.stored().authorities.next.unwrap();
    assert_eq!(next.authority.certificate.pem().into_bytes(), restored);
    assert!(next.published_at.is_some());
}

#[test]
fn after_a_year_of_absence_everything_is_issued_anew() {
    let policy = policy();
    let mut world = World::settled();
    let now = later(STARTS, SignedDuration::from_hours(365 * 24));
    world.settle(now, &policy);
    assert_eq!(world.verify(now), Ok(()));
}

#[test]
fn a_clock_that_went_back_by_years_is_survived() {
    let policy = policy();
    let mut world = World::settled();
    let now = earlier(STARTS, SignedDuration::from_hours(3 * 365 * 24));
    world.settle(now, &policy);
    assert_eq!(world.verify(now), Ok(()));
}

#[derive(Debug, Clone)]
enum Fault {
    ServingLost,
    AuthoritiesLost,
    KeyTorn,
    TimesTorn,
    NextTakenOut,
}

#[derive(Debug, Clone)]
struct Tick {
    /// how long after the tick before, or after it became due
    minutes: i64,
    /// how wrong the controller's clock is
    skew_minutes: i64,
    /// the process ends before it has written
    crash: bool,
    fault: Option<Fault>,
}

fn tick() -> impl Strategy<Value = Tick> {
    let fault = prop_oneof![
        Just(Fault::ServingLost),
        Just(Fault::AuthoritiesLost),
        Just(Fault::KeyTorn),
        Just(Fault::TimesTorn),
        Just(Fault::NextTakenOut),
    ];
    (
        0..90_i64,
        -30..=30_i64,
        prop::bool::weighted(0.1),
        prop::option::weighted(0.2, fault),
    )
        .prop_map(|(minutes, skew_minutes, crash, fault)| Tick {
            minutes,
            skew_minutes,
            crash,
            fault,
        })
}

/// Every value that somebody may still hold.
struct Held<T> {
    /// since when, oldest first
    values: Vec<(Timestamp, T)>,
}

impl<T: PartialEq> Held<T> {
    fn new() -> Self {
        Self { values: Vec::new() }
    }

    /// `None` changes nothing: who holds a value goes on with it.
    fn set(&mut self, now: Timestamp, value: Option<T>) {
        if let Some(value) = value
            && self.values.last().is_none_or(|(_, last)| *last != value)
        {
            self.values.push((now, value));
        }
        // the newest of those that are older than the lag was current when the lag began
        let begin = earlier(now, LAG);
        let outdated = self
            .values
            .iter()
            .filter(|(since, _)| *since <= begin)
            .count()
            .saturating_sub(1);
        self.values.drain(..outdated);
    }
}

impl Fault {
    fn strike(&self, world: &mut World) {
        let authorities = world.stored().authorities;
        match self {
            Self::ServingLost => world.serving = None,
            Self::AuthoritiesLost => world.authorities = None,
            Self::KeyTorn => {
                world
                    .authorities
                    .as_mut()
                    .unwrap()
                    .insert(state::AUTHORITY_KEY.into(), b"torn".to_vec());
            }
            Self::TimesTorn => {
                world
                    .authorities
                    .as_mut()
                    .unwrap()
                    .insert(state::ROTATION.into(), b"{".to_vec());
            }
            // harmless to those who trust only what is left, as long as nothing else is signed by the rest
            Self::NextTakenOut if authorities.next.is_some() && authorities.previous.is_empty() => {
                world.ca_bundle = authorities.current.unwrap().certificate.pem().into_bytes();
            }
            Self::NextTakenOut => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// Years of rotations: whichever bundle an API server still holds, whichever leaf a replica still holds,
    /// and whichever way their clocks are wrong, they get along.
    #[test]
    fn every_api_server_trusts_every_replica_at_all_times(ticks in prop::collection::vec(tick(), 150..400)) {
        let policy = policy();
        let mut world = World::settled();
        let mut bundles = Held::new();
        let mut leaves = Held::new();
        let mut now = STARTS;
        let mut due = STARTS;
        let mut last_fault = STARTS;
        let mut authorities = BTreeSet::new();
        bundles.set(now, Some(world.ca_bundle.clone()));
        leaves.set(now, world.leaf());
        for tick in ticks {
            now = later(now.max(due), SignedDuration::from_mins(tick.minutes));
            // one fault at a time: who loses both the authorities and the leaf has nothing left to overlap with
            if let Some(fault) = &tick.fault && now > later(last_fault, SignedDuration::from_hours(45 * 24)) {
                fault.strike(&mut world);
                last_fault = now;
            }
            let clock = later(now, SignedDuration::from_mins(tick.skew_minutes));
            due = now;
            let action = rotate(clock, &policy, &world.stored(), &world.observed()).prepare(clock, &policy).unwrap();
            if !tick.crash && let Some(until) = world.carry_out(action) {
                due = until;
            }
            bundles.set(now, Some(world.ca_bundle.clone()));
            leaves.set(now, world.leaf());
            for (_, bundle) in &bundles.values {
                let trusted = Certificate::all_from_pem(bundle).unwrap();
                prop_assert!(trusted.len() <= 5, "bundle grows: {trusted:?}");
                authorities.extend(trusted.iter().map(|authority| authority.serial().to_owned()));
                for (_, leaf) in &leaves.values {
                    for off in [-SKEW, SignedDuration::ZERO, SKEW] {
                        let clock = later(now, off);
                        let verified = verify(bundle, leaf, clock);
                        prop_assert!(
                            verified.is_ok(),
                            "at {clock}: {verified:?}\nleaf {leaf:?}\nbundle {trusted:?}\nstored {:?}",
                            world.stored().authorities
                        );
                    }
                }
            }
        }
        let days = now.duration_since(STARTS).as_hours() / 24;
        let replaced = i64::try_from(authorities.len()).unwrap() - 1;
        prop_assert!(replaced >= days / 70, "{replaced} authorities replaced in {days} days");
    }

    /// Whatever the Secrets and the bundle contain, it comes to rest, and then calls work.
    #[test]
    fn any_content_is_repaired(
        garbage in prop::collection::btree_map(
            prop::sample::select(vec!["ca.crt", "ca.key", "next.crt", "next.key", "previous.crt", "rotation.json", "tls.crt", "tls.key"]),
            (0..4_u8, prop::collection::vec(any::<u8>(), 0..20)),
            0..8,
        ),
        bundle in 0..4_u8,
        missing in (prop::bool::weighted(0.2), prop::bool::weighted(0.2)),
        hours in -50_000..50_000_i64,
    ) {
        let policy = policy();
        let (mut world, _) = pending();
        let (other, _) = pending();
        let theirs: SecretData =
            other.authorities.clone().unwrap().into_iter().chain(other.serving.clone().unwrap()).collect();
        let mut both: SecretData = theirs.clone();
        both.extend(world.authorities.clone().unwrap());
        for (key, (kind, bytes)) in garbage {
            let secret = if key.starts_with("tls") { &mut world.serving } else { &mut world.authorities };
            let secret = secret.as_mut().unwrap();
            match kind {
                0 => { secret.remove(key); }
                1 => { secret.insert(key.to_owned(), bytes); }
                // what belongs elsewhere
                2 => { secret.insert(key.to_owned(), theirs.get(key).cloned().unwrap_or_default()); }
                _ => { secret.insert(key.to_owned(), theirs["tls.crt"].clone()); }
            }
        }
        if missing.0 { world.authorities = None; }
        if missing.1 { world.serving = None; }
        match bundle {
            0 => world.ca_bundle.clear(),
            1 => world.ca_bundle = other.ca_bundle.clone(),
            2 => world.ca_bundle.extend_from_slice(&other.ca_bundle),
            _ => {}
        }
        let mut now = later(STARTS, SignedDuration::from_hours(hours));
        for _ in 0..12 {
            let until = world.settle(now, &policy);
            prop_assert_eq!(world.verify(now), Ok(()));
            prop_assert!(until > now);
            now = until;
        }
        let stored = world.stored();
        prop_assert!(!stored.damaged);
        prop_assert!(stored.authorities.current.unwrap().key.is_some());
    }
}
