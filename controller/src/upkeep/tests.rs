use super::*;
use crate::heard::{Before, Issued};
use proptest::prelude::*;

const HOST: &str = "r.example.com";
const ECR: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
const HOUR: i64 = 3600;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn key(host: &str) -> RegistryKey {
    RegistryKey::for_registry_host(host).unwrap()
}

fn login(password: &str) -> Login {
    Login::new("u".into(), password.into()).unwrap()
}

fn entries(of: &[(&str, &str)]) -> Arc<Entries> {
    Arc::new(
        of.iter()
            .map(|(host, password)| (key(host), login(password)))
            .collect(),
    )
}

fn accepted() -> Verification {
    Verification::Accepted
}

fn refused() -> Verification {
    Verification::Refused(Failure::new(Reason::Unauthorized, "it says no"))
}

fn unreachable() -> Verification {
    Verification::Unknown(Failure::new(Reason::Unreachable, "nobody answers"))
}

/// A Registry's credential over time.
struct Scene {
    now: i64,
    wanted: Result<Wanted, SourceError>,
    source: &'static str,
    way: &'static str,
    last_good: Option<LastGood>,
    heard: Heard,
    interval: Option<Duration>,
}

impl Scene {
    fn wanting(wanted: Wanted) -> Self {
        Self {
            now: 0,
            wanted: Ok(wanted),
            source: "source 1",
            way: "way",
            last_good: None,
            heard: Heard::nothing(at(0), Before::default()),
            interval: Some(Duration::from_secs(3600)),
        }
    }

    fn with(host: &str, password: &str) -> Self {
        Self::wanting(Wanted::Entries(entries(&[(host, password)])))
    }

    /// One whose credential is in use and verified.
    fn settled(host: &str) -> Self {
        let mut scene = Self::with(host, "first");
        scene.says(accepted());
        assert_eq!(scene.next().verdict, Some(Verdict::Good));
        scene
    }

    fn gets(&mut self, host: &str, password: &str) {
        self.wanted = Ok(Wanted::Entries(entries(&[(host, password)])));
    }

    fn decide(&self) -> Next {
        next(&Facts {
            now: at(self.now),
            wanted: self.wanted.as_ref(),
            source: self.source,
            way: self.way,
            no_way: None,
            last_good: self.last_good.as_ref(),
            heard: &self.heard,
            interval: self.interval,
            place: 0.0,
        })
    }

    /// What comes out when everything that is to be kept was kept.
    fn next(&mut self) -> Next {
        for _ in 0..3 {
            let mut next = self.decide();
            match next.keep.take() {
                Some(keep) => self.keep(keep),
                None => return next,
            }
        }
        panic!("it is kept again and again");
    }

    fn keep(&mut self, keep: Keep) {
        self.last_good = Some(LastGood {
            registry_uid: "r-1".into(),
            digest: digest_of(&keep.entries),
            entries: keep.entries,
            refreshed_at: Some(keep.refreshed_at),
            expires_at: keep.expires_at,
            source: Some(keep.source),
            is_stored: true,
        });
    }

    /// Every registry that is asked says this.
    fn says(&mut self, verification: Verification) {
        let (_, asked) = self.next().verify.expect("a question");
        for (key, login) in &asked {
            self.heard
                .add_proof(key, login, self.way, verification.clone(), at(self.now));
        }
    }

    fn issues(&mut self, password: &str, life: i64) {
        let log_in = self.next().log_in.expect("a question to the cloud");
        self.heard.issued = Some(Issued {
            source: self.source.into(),
            entries: entries(&[(ECR, password)]),
            expires_at: Some(at(self.now + life)),
            at: at(self.now),
            refused_before: log_in.refused_before,
        });
        self.heard.failed = None;
    }

    fn fails(&mut self) {
        self.next().log_in.expect("a question to the cloud");
        self.heard.failed = Some(FailedLogin {
            source: self.source.into(),
            failure: Failure::new(Reason::Forbidden, "the key is inactive"),
        });
    }

    fn in_use(&self) -> Option<String> {
        let entries = &self.last_good.as_ref()?.entries;
        let passwords: Vec<&str> = entries
            .values()
            .map(|login| login.password().expose_secret())
            .collect();
        Some(passwords.join(" "))
    }

    /// A new process, which knows what is stored and what the status says.
    fn starts_anew(&mut self, before: Before) {
        self.heard = Heard::nothing(at(self.now), before);
    }
}

fn reason(next: &Next) -> Option<Reason> {
    match next.verdict.as_ref()? {
        Verdict::Bad { reason, .. } => Some(*reason),
        Verdict::Good
        | Verdict::Pending
        | Verdict::Public
        | Verdict::Held
        | Verdict::Invalid(_) => None,
    }
}

fn message(next: &Next) -> String {
    match &next.verdict {
        Some(Verdict::Bad { message, .. }) => message.clone(),
        other => panic!("{other:?}"),
    }
}

fn truth(next: &Next) -> Option<Truth> {
    next.verified.as_ref().map(|verified| verified.truth)
}

#[test]
fn a_credential_is_verified_before_it_is_rolled_out() {
    let mut scene = Scene::with(HOST, "first");
    assert_eq!(scene.next().verdict, Some(Verdict::Pending));
    assert_eq!(scene.in_use(), None);
    scene.says(accepted());
    let next = scene.next();
    assert_eq!(scene.in_use().as_deref(), Some("first"));
    assert_eq!(
        (next.verdict, next.verify.is_some()),
        (Some(Verdict::Good), false)
    );
    assert_eq!(next.verified.unwrap().reason, Reason::Accepted);
    assert_eq!(next.again, Some(LOOK_AGAIN));
}

#[test]
fn a_refused_one_is_not_rolled_out_and_asked_about_again() {
    let mut scene = Scene::with(HOST, "wrong");
    scene.says(refused());
    let next = scene.next();
    assert_eq!(
        (reason(&next), truth(&next)),
        (Some(Reason::Unauthorized), Some(Truth::False))
    );
    assert_eq!((scene.in_use(), next.verify.is_some()), (None, false));
    scene.now = 60;
    scene.says(accepted());
    assert_eq!(scene.next().verdict, Some(Verdict::Good));
    assert_eq!(scene.in_use().as_deref(), Some("wrong"));
}

#[test]
fn a_registry_that_cannot_be_asked_proves_nothing() {
    let mut scene = Scene::with(HOST, "first");
    scene.says(unreachable());
    let next = scene.next();
    assert_eq!(next.verdict, Some(Verdict::Good));
    let verified = next.verified.unwrap();
    assert_eq!(
        (verified.truth, verified.reason),
        (Truth::Unknown, Reason::Unreachable)
    );
    assert_eq!(scene.in_use().as_deref(), Some("first"));
}

#[test]
fn a_changed_password_that_is_refused_leaves_the_one_in_use() {
    let mut scene = Scene::settled(HOST);
    scene.gets(HOST, "second");
    // nothing is said before the registry has answered
    let waiting = scene.next();
    assert_eq!((waiting.verdict, waiting.verified), (None, None));
    scene.says(refused());
    let next = scene.next();
    assert_eq!(reason(&next), Some(Reason::Unauthorized));
    assert_eq!(scene.in_use().as_deref(), Some("first"));
    assert!(next.withheld.is_empty());
    scene.gets(HOST, "third");
    scene.says(accepted());
    assert_eq!(scene.next().verdict, Some(Verdict::Good));
    assert_eq!(scene.in_use().as_deref(), Some("third"));
}

#[test]
fn a_revoked_password_stays_in_use_and_is_told() {
    let mut scene = Scene::settled(HOST);
    scene.now = 2 * HOUR;
    scene.says(refused());
    for _ in 0..3 {
        let next = scene.next();
        assert_eq!(
            (reason(&next), truth(&next)),
            (Some(Reason::Unauthorized), Some(Truth::False))
        );
        assert!(next.withheld.is_empty());
        assert_eq!(scene.in_use().as_deref(), Some("first"));
        scene.now += HOUR;
        scene.says(refused());
    }
}

#[test]
fn where_public_images_are_a_revoked_password_is_withheld_when_it_is_certain() {
    let mut scene = Scene::settled("docker.io");
    scene.now = 2 * HOUR;
    scene.says(refused());
    assert!(scene.next().withheld.is_empty());
    scene.now += 60;
    scene.says(refused());
    let withheld = scene.next().withheld;
    assert_eq!(
        withheld,
        BTreeMap::from([(key("docker.io"), Reason::Unauthorized)])
    );
    // a new process does not hand it out before it knows better
    scene.starts_anew(Before {
        is_verified: false,
        is_withheld: true,
    });
    assert_eq!(scene.next().withheld.len(), 1);
    scene.says(accepted());
    let next = scene.next();
    assert!(next.withheld.is_empty());
    assert_eq!(next.verdict, Some(Verdict::Good));
}

#[test]
fn where_public_images_are_the_one_in_use_is_asked_about_when_its_successor_was_refused() {
    let mut scene = Scene::settled("ghcr.io/acme");
    scene.gets("ghcr.io/acme", "second");
    scene.says(refused());
    scene.now = 2 * HOUR;
    for _ in 0..2 {
        let (_, asked) = scene.next().verify.unwrap();
        assert_eq!(asked.len(), 1);
        for password in ["first", "second"] {
            scene.heard.proofs.add(
                &key("ghcr.io/acme"),
                &login(password),
                "way",
                refused(),
                at(scene.now),
            );
        }
        scene.now += 120;
    }
    assert_eq!(scene.next().withheld.len(), 1);
    assert_eq!(scene.in_use().as_deref(), Some("first"));
}

#[test]
fn a_token_is_issued_verified_kept_and_renewed_at_half_of_its_life() {
    let mut scene = Scene::wanting(Wanted::Exchange);
    assert_eq!(scene.next().verdict, Some(Verdict::Pending));
    scene.issues("one", 12 * HOUR);
    assert!(scene.next().log_in.is_none());
    scene.says(accepted());
    assert_eq!(scene.next().verdict, Some(Verdict::Good));
    let kept = scene.last_good.clone().unwrap();
    assert_eq!(
        (kept.refreshed_at, kept.expires_at),
        (Some(at(0)), Some(at(12 * HOUR)))
    );

    scene.now = 6 * HOUR - 1;
    assert!(scene.next().log_in.is_none());
    scene.now = 6 * HOUR;
    let renewing = scene.next();
    assert!(renewing.log_in.is_some() && renewing.verdict.is_none());
    scene.issues("two", 12 * HOUR);
    // verified before it replaces the other
    assert_eq!(scene.in_use().as_deref(), Some("one"));
    scene.says(accepted());
    assert_eq!(scene.next().verdict, Some(Verdict::Good));
    assert_eq!(scene.in_use().as_deref(), Some("two"));
}

#[test]
fn a_restart_logs_in_to_nothing_and_asks_nobody() {
    let mut scene = Scene::wanting(Wanted::Exchange);
    scene.issues("one", 12 * HOUR);
    scene.says(accepted());
    scene.next();
    scene.now = HOUR;
    scene.starts_anew(Before {
        is_verified: true,
        is_withheld: false,
    });
    // place 0.0 is asked first of all; a moment later by any other
    scene.heard.since = at(HOUR + 1);
    let next = scene.next();
    assert!(next.log_in.is_none() && next.verify.is_none());
    assert_eq!(next.verdict, Some(Verdict::Good));
    assert_eq!(next.verified, None);
    // but another source or another way is asked about
    scene.source = "source 2";
    assert!(scene.next().log_in.is_some());
    scene.source = "source 1";
    scene.heard.before.is_verified = false;
    assert!(scene.next().verify.is_some());
}

#[test]
fn the_same_token_again_is_no_failure_and_no_write() {
    let mut scene = Scene::wanting(Wanted::Exchange);
    scene.issues("one", 2 * HOUR);
    scene.says(accepted());
    scene.next();
    scene.now = HOUR;
    scene.issues("one", HOUR);
    assert!(scene.decide().keep.is_none());
    let next = scene.next();
    assert_eq!(next.verdict, Some(Verdict::Good));
    assert!(next.log_in.is_none());
    scene.now = HOUR + HOUR / 2;
    assert!(scene.next().log_in.is_some());
}

#[test]
fn a_failed_renewal_is_told_long_before_the_end() {
    let mut scene = Scene::wanting(Wanted::Exchange);
    scene.issues("one", 12 * HOUR);
    scene.says(accepted());
    scene.next();
    scene.now = 6 * HOUR;
    let first_question = scene.next().log_in;
    scene.fails();
    let next = scene.next();
    assert_eq!(reason(&next), Some(Reason::Forbidden));
    assert!(
        message(&next).contains("ends at 2027-01-15T20:00:00Z"),
        "{}",
        message(&next)
    );
    assert_eq!(scene.in_use().as_deref(), Some("one"));
    // the question is the same until it is answered, so that its backoff goes on
    assert_eq!(next.log_in, first_question);
    scene.now = 12 * HOUR;
    assert_eq!(reason(&scene.next()), Some(Reason::Expired));
    assert_eq!(scene.in_use().as_deref(), Some("one"));
    scene.issues("two", 12 * HOUR);
    scene.says(accepted());
    assert_eq!(scene.next().verdict, Some(Verdict::Good));
    assert_eq!(scene.in_use().as_deref(), Some("two"));
}

#[test]
fn a_token_that_the_registry_has_come_to_refuse_is_replaced_at_once() {
    let mut scene = Scene::wanting(Wanted::Exchange);
    scene.issues("one", 12 * HOUR);
    scene.says(accepted());
    scene.next();
    scene.now = HOUR;
    scene.says(refused());
    assert_eq!(reason(&scene.next()), Some(Reason::Unauthorized));
    scene.issues("two", 12 * HOUR);
    assert_eq!(scene.in_use().as_deref(), Some("one"));
    scene.says(accepted());
    assert_eq!(scene.next().verdict, Some(Verdict::Good));
    assert_eq!(scene.in_use().as_deref(), Some("two"));
    // a refusal much later is the first again
    scene.now = 3 * HOUR;
    scene.says(refused());
    scene.issues("three", 12 * HOUR);
    assert_eq!(scene.heard.issued.as_ref().unwrap().refused_before, 1);
}

#[test]
fn where_every_token_is_refused_the_cloud_is_asked_less_and_less_often() {
    let mut scene = Scene::wanting(Wanted::Exchange);
    scene.issues("0", 12 * HOUR);
    scene.says(refused());
    let mut asked = Vec::new();
    for number in 1..=8 {
        while scene.next().log_in.is_none() {
            if scene.next().verify.is_some() {
                scene.says(refused());
            }
            scene.now += 1;
        }
        asked.push(scene.now);
        // some clouds hand out the same token again
        scene.issues(&(number / 2).to_string(), 12 * HOUR);
        if scene.next().verify.is_some() {
            scene.says(refused());
        }
    }
    assert_eq!(asked, [0, 60, 180, 420, 900, 1860, 3780, 7620]);
    assert_eq!(scene.in_use(), None);
}

#[test]
fn a_token_without_the_right_to_pull_is_not_replaced_by_another_like_it() {
    let mut scene = Scene::wanting(Wanted::Exchange);
    scene.issues("one", 12 * HOUR);
    scene.says(Verification::Refused(Failure::new(
        Reason::Forbidden,
        "it may not pull",
    )));
    assert!(scene.next().log_in.is_none());
}

#[test]
fn a_source_that_vanishes_and_comes_back_changes_nothing() {
    let mut scene = Scene::settled(HOST);
    let wanted = scene.wanted.clone();
    scene.wanted = Err(SourceError {
        reason: Reason::SourceMissing,
        message: "there is no Secret".into(),
    });
    assert_eq!(reason(&scene.next()), Some(Reason::SourceMissing));
    assert_eq!(scene.in_use().as_deref(), Some("first"));
    // what keeps it is made again from memory
    scene.last_good.as_mut().unwrap().is_stored = false;
    scene.next();
    assert!(scene.last_good.as_ref().unwrap().is_stored);
    scene.wanted = wanted;
    scene.source = "source 2";
    assert!(scene.decide().keep.is_none());
    assert_eq!(scene.next().verdict, Some(Verdict::Good));
}

#[test]
fn without_verification_a_credential_is_rolled_out_at_once() {
    let mut scene = Scene::with(HOST, "first");
    scene.interval = None;
    let next = scene.next();
    assert_eq!(scene.in_use().as_deref(), Some("first"));
    assert_eq!(next.verified.unwrap().reason, Reason::VerificationOff);
    assert_eq!((next.verify.is_some(), next.again), (false, None));
}

#[test]
fn of_several_hosts_one_that_refuses_holds_up_no_other() {
    let mut scene = Scene::wanting(Wanted::Entries(entries(&[
        ("a.example", "a1"),
        ("b.example", "b1"),
    ])));
    scene.says(accepted());
    scene.next();
    scene.wanted = Ok(Wanted::Entries(entries(&[
        ("a.example", "a2"),
        ("b.example", "b2"),
        ("c.example", "c2"),
    ])));
    let (_, asked) = scene.next().verify.unwrap();
    for (key, login) in &asked {
        let said = if key.host() == "a.example" {
            accepted()
        } else {
            refused()
        };
        scene.heard.proofs.add(key, login, "way", said, at(0));
    }
    let next = scene.next();
    assert_eq!(scene.in_use().as_deref(), Some("a2 b1"));
    assert_eq!(reason(&next), Some(Reason::Unauthorized));
}

#[test]
fn an_expired_token_is_withheld_where_public_images_are() {
    let mut scene = Scene::wanting(Wanted::Exchange);
    scene.interval = None;
    scene.heard.issued = Some(Issued {
        source: scene.source.into(),
        entries: entries(&[("public.ecr.aws", "one")]),
        expires_at: Some(at(HOUR)),
        at: at(0),
        refused_before: 0,
    });
    assert!(scene.next().withheld.is_empty());
    scene.now = HOUR;
    assert_eq!(
        scene.next().withheld.values().next(),
        Some(&Reason::Expired)
    );
}

#[derive(Clone, Debug)]
enum Step {
    Later(i64),
    Source(u8),
    NoSource,
    Says(u8),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1i64..8000).prop_map(Step::Later),
        (0u8..4).prop_map(Step::Source),
        Just(Step::NoSource),
        (0u8..3).prop_map(Step::Says),
        Just(Step::Restart),
    ]
}

proptest! {
    /// Whatever happens in whatever order: what was refused when it was new is never rolled out, and what is in use goes
    /// only by being replaced.
    #[test]
    fn nothing_refused_is_rolled_out_and_nothing_in_use_is_lost(steps in prop::collection::vec(step(), 1..40)) {
        let mut scene = Scene::with(HOST, "0");
        let mut refused_passwords = std::collections::BTreeSet::new();
        for step in steps {
            let before = scene.in_use();
            match step {
                Step::Later(by) => scene.now += by,
                Step::Source(n) => scene.gets(HOST, &n.to_string()),
                Step::NoSource => scene.wanted = Err(SourceError {
                    reason: Reason::SourceMissing,
                    message: String::new(),
                }),
                Step::Says(kind) => if let Some((_, asked)) = scene.next().verify {
                    let said = match kind { 0 => accepted(), 1 => refused(), _ => unreachable() };
                    for (key, login) in &asked {
                        let password = login.password().expose_secret().to_owned();
                        if kind == 1 {
                            refused_passwords.insert(password);
                        } else {
                            refused_passwords.remove(&password);
                        }
                        scene.heard.add_proof(key, login, "way", said.clone(), at(scene.now));
                    }
                },
                Step::Restart => {
                    scene.starts_anew(Before::default());
                    refused_passwords.clear();
                }
            }
            let next = scene.next();
            let after = scene.in_use();
            prop_assert!(before.is_none() || after.is_some());
            if before != after {
                let password = after.unwrap();
                prop_assert!(!refused_passwords.contains(&password));
                let wanted = match &scene.wanted {
                    Ok(Wanted::Entries(entries)) => entries[&key(HOST)].password().expose_secret().to_owned(),
                    other => return Err(TestCaseError::fail(format!("{other:?}"))),
                };
                prop_assert_eq!(password, wanted);
            }
            prop_assert!(next.again.is_none_or(|again| !again.is_zero() && again <= LOOK_AGAIN));
        }
    }
}
