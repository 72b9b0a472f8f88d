//! Who does the controller's work: one candidate at a time, by a Lease.
//!
//! The decision is a pure function of a candidate's own monotonic clock and of what it has seen of the Lease; times
//! written in the Lease are for people only, since clocks of two machines cannot be compared. A leader counts its
//! validity from before its request left, a follower counts the leader's from after it has seen the answer; the leader's is
//! shorter by a third, so that the two never overlap unless their clocks run at rates that differ by as much.

use std::time::Duration;

/// An instant of this machine's own clock, counted from any fixed point in its past.
pub(crate) type Monotonic = Duration;

/// How long things last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timing {
    /// How long others wait for a holder that gives no sign of life.
    pub(crate) lease: Duration,
    /// How long the holder goes on without having renewed the Lease.
    pub(crate) validity: Duration,
    /// From one renewal, or one look at the Lease, to the next.
    pub(crate) interval: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            // with one interval and the lists of a large cluster, a successor is at work within 20 s
            lease: Duration::from_secs(12),
            validity: Duration::from_secs(8),
            interval: Duration::from_secs(2),
        }
    }
}

/// What the Lease says, as far as the decision needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeaseView {
    /// Changes with every write.
    pub(crate) revision: String,
    /// Who holds it; `None` where nobody does.
    pub(crate) holder: Option<String>,
    /// For how long its holder asked others to wait; `None` where it says nothing.
    pub(crate) duration: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Sighting {
    lease: LeaseView,
    /// When this revision was first seen.
    since: Monotonic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tenure {
    renewed: Monotonic,
    valid_until: Monotonic,
}

/// One who may lead, with all that it knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    identity: String,
    timing: Timing,
    sighting: Option<Sighting>,
    last_look: Option<Monotonic>,
    tenure: Option<Tenure>,
    /// Whether the revision that was seen is known to be outdated.
    outdated: bool,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Read the Lease, then [`Candidate::saw`].
    Look,
    /// Write the Lease as one's own, provided that it still has this revision; then [`Candidate::wrote`], or
    /// [`Candidate::was_refused`] where the revision was another.
    Write(String),
    /// Nothing before this instant.
    WaitUntil(Monotonic),
    /// Stop all work: the Lease is, or may be, another's.
    StepDown,
}

impl Candidate {
    /// A candidate that has seen nothing yet. `identity` is what it writes as the Lease's holder.
    pub(crate) fn new(identity: String, timing: Timing) -> Self {
        Self {
            identity,
            timing,
            sighting: None,
            last_look: None,
            tenure: None,
            outdated: false,
        }
    }

    /// The Lease was read; `now` is the instant after the answer. `None`: there is no such object.
    pub(crate) fn saw(&mut self, now: Monotonic, lease: Option<LeaseView>) {
        self.last_look = Some(now);
        self.outdated = false;
        let unchanged = match (&self.sighting, &lease) {
            (Some(before), Some(lease)) => before.lease == *lease,
            (None, _) | (_, None) => false,
        };
        if !unchanged {
            self.sighting = lease.map(|lease| Sighting { lease, since: now });
        }
    }

    /// The Lease could not be read.
    pub(crate) fn saw_nothing(&mut self, now: Monotonic) {
        self.last_look = Some(now);
    }

    /// The Lease was written as one's own by a request that left not before `sent`.
    pub(crate) fn wrote(&mut self, sent: Monotonic, now: Monotonic, lease: LeaseView) {
        self.saw(now, Some(lease));
        self.tenure = Some(Tenure {
            renewed: sent,
            valid_until: sent + self.timing.validity,
        });
    }

    /// The Lease had another revision than the one that was to be replaced, or the write's outcome is not known.
    pub(crate) fn was_refused(&mut self) {
        self.outdated = true;
    }

    /// Leads no more.
    pub(crate) fn stepped_down(&mut self) {
        self.tenure = None;
        self.outdated = true;
    }

    /// Until when this candidate may work, where it leads.
    pub(crate) fn valid_until(&self) -> Option<Monotonic> {
        self.tenure.map(|tenure| tenure.valid_until)
    }

    fn is_mine(&self, lease: &LeaseView) -> bool {
        lease.holder.as_deref() == Some(self.identity.as_str())
    }

    /// The decision.
    pub(crate) fn step(&self, now: Monotonic) -> Action {
        match self.tenure {
            Some(tenure) => self.step_as_leader(now, tenure),
            None => self.step_as_follower(now),
        }
    }

    fn step_as_leader(&self, now: Monotonic, tenure: Tenure) -> Action {
        let Some(sighting) = self.sighting.as_ref() else {
            return Action::StepDown;
        };
        if now >= tenure.valid_until || !self.is_mine(&sighting.lease) {
            return Action::StepDown;
        }
        if self.outdated {
            return self.look_again(now);
        }
        let due = tenure.renewed + self.timing.interval;
        if now < due {
            Action::WaitUntil(due)
        } else {
            Action::Write(sighting.lease.revision.clone())
        }
    }

    fn step_as_follower(&self, now: Monotonic) -> Action {
        let Some(sighting) = self.sighting.as_ref().filter(|_| !self.outdated) else {
            return self.look_again(now);
        };
        let lease = &sighting.lease;
        let expires = sighting.since + lease.duration.unwrap_or(self.timing.lease);
        // an earlier run of this same process cannot be working any more
        if lease.holder.is_none() || self.is_mine(lease) || now >= expires {
            return Action::Write(lease.revision.clone());
        }
        match self.look_again(now) {
            Action::WaitUntil(next_look) => Action::WaitUntil(next_look.min(expires)),
            other @ (Action::Look | Action::Write(_) | Action::StepDown) => other,
        }
    }

    /// At once the first time and after a refusal, then in intervals.
    fn look_again(&self, now: Monotonic) -> Action {
        let pause = if self.outdated {
            self.timing.interval / 8
        } else {
            self.timing.interval
        };
        match self.last_look {
            Some(last) if now < last + pause => Action::WaitUntil(last + pause),
            Some(_) | None => Action::Look,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(s: u64) -> Monotonic {
        Duration::from_secs(s)
    }

    fn lease(revision: &str, holder: Option<&str>) -> LeaseView {
        LeaseView {
            revision: revision.into(),
            holder: holder.map(Into::into),
            duration: Some(Timing::default().lease),
        }
    }

    fn candidate() -> Candidate {
        Candidate::new("me".into(), Timing::default())
    }

    #[test]
    fn a_free_lease_is_taken_at_once() {
        let mut me = candidate();
        assert_eq!(me.step(seconds(0)), Action::Look);
        me.saw(seconds(0), Some(lease("1", None)));
        assert_eq!(me.step(seconds(0)), Action::Write("1".into()));
        me.wrote(seconds(0), seconds(1), lease("2", Some("me")));
        assert_eq!(me.valid_until(), Some(seconds(8)));
        assert_eq!(me.step(seconds(1)), Action::WaitUntil(seconds(2)));
        assert_eq!(me.step(seconds(2)), Action::Write("2".into()));
        assert_eq!(me.step(seconds(8)), Action::StepDown);
    }

    #[test]
    fn a_silent_holder_is_waited_for_once() {
        let mut me = candidate();
        me.saw(seconds(0), Some(lease("1", Some("other"))));
        assert_eq!(me.step(seconds(1)), Action::WaitUntil(seconds(2)));
        assert_eq!(me.step(seconds(2)), Action::Look);
        me.saw(seconds(2), Some(lease("1", Some("other"))));
        me.saw(seconds(11), Some(lease("1", Some("other"))));
        assert_eq!(me.step(seconds(11)), Action::WaitUntil(seconds(12)));
        assert_eq!(me.step(seconds(12)), Action::Write("1".into()));
    }

    #[test]
    fn a_sign_of_life_starts_the_wait_anew() {
        let mut me = candidate();
        me.saw(seconds(0), Some(lease("1", Some("other"))));
        me.saw(seconds(11), Some(lease("2", Some("other"))));
        assert_eq!(me.step(seconds(13)), Action::Look);
        me.saw(seconds(13), Some(lease("2", Some("other"))));
        assert_eq!(me.step(seconds(22)), Action::Look);
        assert_eq!(me.step(seconds(23)), Action::Write("2".into()));
    }

    #[test]
    fn a_missing_lease_is_looked_for_and_never_taken() {
        let mut me = candidate();
        me.saw(seconds(0), None);
        assert_eq!(me.step(seconds(1)), Action::WaitUntil(seconds(2)));
        assert_eq!(me.step(seconds(500)), Action::Look);
    }

    #[test]
    fn a_leader_that_sees_another_steps_down() {
        let mut me = candidate();
        me.wrote(seconds(0), seconds(0), lease("2", Some("me")));
        me.was_refused();
        assert_eq!(me.step(seconds(2)), Action::Look);
        me.saw(seconds(2), Some(lease("3", Some("uninstall"))));
        assert_eq!(me.step(seconds(2)), Action::StepDown);
        me.stepped_down();
        assert_eq!(me.valid_until(), None);
    }

    #[test]
    fn a_leader_whose_lease_was_touched_goes_on() {
        let mut me = candidate();
        me.wrote(seconds(0), seconds(0), lease("2", Some("me")));
        me.was_refused();
        me.saw(seconds(2), Some(lease("3", Some("me"))));
        assert_eq!(me.step(seconds(2)), Action::Write("3".into()));
    }

    /// A Lease as the API server keeps it.
    struct Server {
        revision: u64,
        holder: Option<String>,
    }

    impl Server {
        fn view(&self) -> LeaseView {
            lease(&self.revision.to_string(), self.holder.as_deref())
        }

        fn write(&mut self, revision: &str, holder: &str) -> bool {
            let matches = revision == self.revision.to_string();
            if matches {
                self.revision += 1;
                self.holder = Some(holder.to_owned());
            }
            matches
        }
    }

    /// What became of one request: how long before the server saw it, how long before its answer arrived, and whether
    /// either got lost.
    #[derive(Clone, Debug)]
    struct Fate {
        there: u64,
        back: u64,
        lost_there: bool,
        lost_back: bool,
    }

    fn fate() -> impl Strategy<Value = Fate> {
        (
            0u64..6000,
            0u64..6000,
            prop::bool::weighted(0.1),
            prop::bool::weighted(0.1),
        )
            .prop_map(|(there, back, lost_there, lost_back)| Fate {
                there,
                back,
                lost_there,
                lost_back,
            })
    }

    enum Flight {
        Sent {
            arrives: u64,
            request: Action,
            fate: Fate,
        },
        Answered {
            arrives: u64,
            request: Action,
            written: bool,
            seen: LeaseView,
        },
        Silent {
            gives_up: u64,
        },
    }

    struct Process {
        candidate: Candidate,
        name: &'static str,
        /// Its clock's rate, in thousandths of the true one.
        rate: u64,
        flight: Option<Flight>,
        sent: Monotonic,
        frozen_until: u64,
    }

    impl Process {
        fn clock(&self, now: u64) -> Monotonic {
            Duration::from_millis(now * self.rate / 1000)
        }

        fn works(&self, now: u64) -> bool {
            self.candidate
                .valid_until()
                .is_some_and(|until| self.clock(now) < until)
        }

        fn turn(&mut self, now: u64, server: &mut Server, fates: &mut impl Iterator<Item = Fate>) {
            // a request goes on its way although its sender stands still
            self.flight = match self.flight.take() {
                Some(Flight::Sent {
                    arrives,
                    request,
                    fate,
                }) if now >= arrives => {
                    let written = match &request {
                        Action::Write(revision) => server.write(revision, self.name),
                        Action::Look | Action::WaitUntil(_) | Action::StepDown => false,
                    };
                    Some(if fate.lost_back {
                        Flight::Silent {
                            gives_up: now + 5000,
                        }
                    } else {
                        Flight::Answered {
                            arrives: now + fate.back,
                            request,
                            written,
                            seen: server.view(),
                        }
                    })
                }
                other => other,
            };
            if now < self.frozen_until {
                return;
            }
            let clock = self.clock(now);
            self.flight = match self.flight.take() {
                Some(Flight::Answered {
                    arrives,
                    request,
                    written,
                    seen,
                }) if now >= arrives => {
                    match request {
                        Action::Look => self.candidate.saw(clock, Some(seen)),
                        _ if written => self.candidate.wrote(self.sent, clock, seen),
                        Action::Write(_) | Action::WaitUntil(_) | Action::StepDown => {
                            self.candidate.was_refused();
                        }
                    }
                    None
                }
                Some(Flight::Silent { gives_up }) if now >= gives_up => {
                    self.candidate.saw_nothing(clock);
                    self.candidate.was_refused();
                    None
                }
                other => other,
            };
            if self.flight.is_some() {
                return;
            }
            match self.candidate.step(clock) {
                Action::WaitUntil(_) => {}
                Action::StepDown => self.candidate.stepped_down(),
                request @ (Action::Look | Action::Write(_)) => {
                    self.sent = clock;
                    let fate = fates.next().unwrap();
                    self.flight = Some(if fate.lost_there {
                        Flight::Silent {
                            gives_up: now + 5000,
                        }
                    } else {
                        Flight::Sent {
                            arrives: now + fate.there,
                            request,
                            fate,
                        }
                    });
                }
            }
        }
    }

    fn process(name: &'static str, rate: u64) -> Process {
        Process {
            candidate: Candidate::new(name.into(), Timing::default()),
            name,
            rate,
            flight: None,
            sent: Duration::ZERO,
            frozen_until: 0,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Requests are slow or lost, processes stand still for a while, clocks run at different rates: never do two work
        /// at a time.
        #[test]
        fn never_two_leaders(
            fates in prop::collection::vec(fate(), 64),
            rates in (900u64..1100, 900u64..1100),
            freezes in prop::collection::vec((0usize..2, 0u64..120_000, 0u64..30_000), 0..6),
        ) {
            let mut server = Server { revision: 1, holder: None };
            let mut fates = fates.into_iter().cycle();
            let mut processes = [process("a", rates.0), process("b", rates.1)];
            for now in (0u64..150_000).step_by(50) {
                for (who, at, length) in &freezes {
                    if now == at / 50 * 50 {
                        processes[*who].frozen_until = now + length;
                    }
                }
                for process in &mut processes {
                    process.turn(now, &mut server, &mut fates);
                }
                let working = processes.iter().filter(|p| p.works(now)).count();
                prop_assert!(working <= 1, "two leaders after {now} ms");
            }
        }

        /// When the leader dies, the other one works within the lease, an interval and three requests there and back: the last
        /// write of the dead one may be under way when the other looks, so that only its next look finds it.
        #[test]
        fn a_dead_leader_is_replaced(delay in 0u64..500, dies_at in 20_000u64..40_000) {
            let fate = Fate { there: delay, back: delay, lost_there: false, lost_back: false };
            let mut fates = std::iter::repeat(fate);
            let mut server = Server { revision: 1, holder: None };
            let (mut first, mut second) = (process("a", 1000), process("b", 1000));
            let mut taken_over = None;
            for now in (0u64..80_000).step_by(50) {
                if now < dies_at {
                    first.turn(now, &mut server, &mut fates);
                }
                if now > 5000 {
                    second.turn(now, &mut server, &mut fates);
                }
                if second.works(now) && taken_over.is_none() {
                    taken_over = Some(now);
                }
            }
            let after = taken_over.unwrap() - dies_at;
            // each half of a request is noticed up to a step late
            prop_assert!(after <= 12_000 + 2_000 + 6 * (delay + 50), "{after} ms");
        }
    }
}
