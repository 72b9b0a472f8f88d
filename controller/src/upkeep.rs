//! What is next for a Registry's credential, on its way from the source, or from the cloud that issued it, past the
//! registry's own word to the last good one: a pure function of what is known.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pullpass_api::status::Truth;
use pullpass_core::docker_config::{self, Entries, Login};
use pullpass_core::key::RegistryKey;
use pullpass_core::provider::serves_public_images;
use pullpass_core::reason::Reason;
use pullpass_providers::failure::Failure;
use pullpass_providers::verify::Verification;
use secrecy::ExposeSecret as _;

use crate::credential::LastGood;
use crate::heard::{FailedLogin, Heard};
use crate::observed::{Digest, digest};
use crate::proof::Proof;
use crate::renewal::{self, between};
use crate::source::SourceError;
use crate::world::Verdict;

/// Timers stand still while the machine is suspended, and tokens do not: so often the time of day is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// So many registries a message names; the rest it counts.
const NAMED: usize = 3;

/// What a Registry's source comes to.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    /// The credential itself.
    Entries(Arc<Entries>),
    /// Something that a cloud exchanges for a token.
    Exchange,
}

/// What the next step depends on.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    /// The time of day.
    pub(crate) now: Timestamp,
    /// What the source comes to.
    pub(crate) wanted: Result<&'a Wanted, &'a SourceError>,
    /// Identifies the source: see [`crate::credential::fingerprint`].
    pub(crate) source: &'a str,
    /// How the registry is asked: connection and repository.
    pub(crate) way: &'a str,
    /// Why there is no way to it.
    pub(crate) no_way: Option<&'a SourceError>,
    /// The credential in use.
    pub(crate) last_good: Option<&'a LastGood>,
    /// What was said.
    pub(crate) heard: &'a Heard,
    /// How often a good credential is verified anew; `None` where nothing is verified.
    pub(crate) interval: Option<Duration>,
    /// The Registry's own place between 0 and 1, by which it is asked a little earlier or later than others.
    pub(crate) place: f64,
}

/// What is to be kept as the last good credential.
#[derive(Clone, Debug)]
pub(crate) struct Keep {
    /// Its entries.
    pub(crate) entries: Arc<Entries>,
    /// When they were read or renewed.
    pub(crate) refreshed_at: Timestamp,
    /// When they end.
    pub(crate) expires_at: Option<Timestamp>,
    /// What they come from.
    pub(crate) source: String,
}

/// What the condition `Verified` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verified {
    /// Whether the registry takes the credential.
    pub(crate) truth: Truth,
    /// The category.
    pub(crate) reason: Reason,
    /// What it said.
    pub(crate) message: String,
}

/// A cloud is to be asked for a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogIn {
    /// Changes with what is asked for.
    pub(crate) text: String,
    /// See [`crate::heard::Issued::refused_before`].
    pub(crate) refused_before: u32,
}

/// The next step.
#[derive(Debug, Default)]
pub(crate) struct Next {
    /// To be stored before anything else.
    pub(crate) keep: Option<Keep>,
    /// A cloud is to be asked for a token.
    pub(crate) log_in: Option<LogIn>,
    /// Registries are to be asked about these logins; the text changes with what is asked.
    pub(crate) verify: Option<(String, Entries)>,
    /// How the credential stands; `None` where it stands as before until an answer has come.
    pub(crate) verdict: Option<Verdict>,
    /// What is known of its verification; `None` where that is as before.
    pub(crate) verified: Option<Verified>,
    /// Keys whose login in use is kept out of every copy, since it would stand in the way of public images.
    pub(crate) withheld: BTreeMap<RegistryKey, Reason>,
    /// When to look again, although nothing has changed.
    pub(crate) again: Option<Duration>,
}

/// What is to follow the credential in use, or to stay it.
struct Candidate {
    entries: Arc<Entries>,
    digest: Digest,
    refreshed_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    /// Whether the source identifies it: a credential that is read is known by its content.
    is_issued: bool,
}

/// Decides.
pub(crate) fn next(facts: &Facts<'_>) -> Next {
    let mut next = Next::default();
    let mut times = Vec::new();
    let candidate = candidate(facts, &mut next, &mut times);
    let asked_about = candidate
        .as_ref()
        .map(|candidate| &candidate.entries)
        .or(facts.last_good.map(|in_use| &in_use.entries));
    let is_in_use = match (&candidate, facts.last_good) {
        (Some(candidate), Some(in_use)) => candidate.digest == in_use.digest,
        (Some(_), None) => false,
        (None, _) => true,
    };

    let mut due = Entries::new();
    let mut is_unproven = false;
    if let (Some(interval), Some(entries)) = (facts.interval, asked_about)
        && facts.no_way.is_none()
    {
        for (key, login) in entries.iter() {
            let proof = facts.heard.proofs.find(key, login, facts.way);
            is_unproven |= proof.is_none();
            facts.ask(key, login, proof, is_in_use, interval, &mut due, &mut times);
        }
        // of what is in use it has to be known too whether it harms
        for (key, login) in facts.in_use_and_in_question(&candidate) {
            let proof = facts.heard.proofs.find(key, login, facts.way);
            facts.ask(key, login, proof, true, interval, &mut due, &mut times);
        }
    }
    let awaits_proof = is_unproven && !is_in_use;
    next.verified = asked_about.and_then(|entries| facts.verified(entries, is_unproven));
    let refusal = asked_about.and_then(|entries| facts.refusal(entries));
    next.keep = candidate
        .filter(|_| !awaits_proof)
        .and_then(|candidate| facts.keep(candidate))
        .or_else(|| facts.keep_again());
    let is_expired = facts.expiry(&mut times);
    next.withheld = facts.withheld(is_expired);
    next.verdict = facts.verdict(
        refusal,
        is_expired,
        awaits_proof || (next.log_in.is_some() && next.keep.is_none()),
    );
    if !due.is_empty() {
        next.verify = Some((facts.question(&due), due));
    }
    next.again = times
        .into_iter()
        .map(|time| between(facts.now, time).max(Duration::from_secs(1)))
        .min()
        .map(|pause| pause.min(LOOK_AGAIN));
    next
}

fn candidate(facts: &Facts<'_>, next: &mut Next, times: &mut Vec<Timestamp>) -> Option<Candidate> {
    match facts.wanted {
        Err(_) => None,
        Ok(Wanted::Entries(entries)) => Some(Candidate {
            digest: digest_of(entries),
            entries: Arc::clone(entries),
            refreshed_at: None,
            expires_at: None,
            is_issued: false,
        }),
        Ok(Wanted::Exchange) => {
            let issued = facts.heard.issued.as_ref();
            let issued = issued.filter(|issued| issued.source == facts.source);
            let stored = facts
                .last_good
                .filter(|in_use| in_use.source.as_deref() == Some(facts.source));
            let at_hand = match (issued, stored) {
                (Some(issued), _) => Some((
                    Some(issued.at),
                    issued.expires_at,
                    &issued.entries,
                    issued.refused_before,
                )),
                (None, Some(stored)) => {
                    Some((stored.refreshed_at, stored.expires_at, &stored.entries, 0))
                }
                (None, None) => None,
            };
            let (from, due, refused_before) = match at_hand {
                None => (None, None, 0),
                Some((from, until, entries, before)) => {
                    let is_refused = facts.refuses_token(entries);
                    let due = from.map(|from| {
                        let due = renewal::due(from, until, facts.place);
                        if is_refused {
                            due.min(renewal::instead_of_refused(from, before))
                        } else {
                            due
                        }
                    });
                    let refused_before = if is_refused {
                        before.saturating_add(1)
                    } else {
                        0
                    };
                    (from, due, refused_before)
                }
            };
            match due {
                Some(due) if due > facts.now => times.push(due),
                Some(_) | None => {
                    let from = from.map(|from| from.to_string()).unwrap_or_default();
                    next.log_in = Some(LogIn {
                        text: format!("{} {from}", facts.source),
                        refused_before,
                    });
                }
            }
            issued.map(|issued| Candidate {
                digest: digest_of(&issued.entries),
                entries: Arc::clone(&issued.entries),
                refreshed_at: Some(issued.at),
                expires_at: issued.expires_at,
                is_issued: true,
            })
        }
    }
}

fn digest_of(entries: &Entries) -> Digest {
    digest(docker_config::write(entries).expose_secret())
}

impl<'a> Facts<'a> {
    #[allow(
        clippy::too_many_arguments,
        reason = "one question, and the two lists that its answer goes to"
    )]
    fn ask(
        &self,
        key: &RegistryKey,
        login: &Login,
        proof: Option<&Proof>,
        is_in_use: bool,
        interval: Duration,
        due: &mut Entries,
        times: &mut Vec<Timestamp>,
    ) {
        let before = self.heard.before;
        let time = match proof {
            Some(proof) => proof.due(interval, self.place),
            // asked by another process within the last interval
            None if is_in_use && before.is_verified && !before.is_withheld => {
                renewal::after(self.heard.since, interval.mul_f64(self.place))
            }
            None => self.now,
        };
        if time > self.now {
            times.push(time);
        } else {
            due.entry(key.clone()).or_insert_with(|| login.clone());
        }
    }

    /// Logins in use whose successor was refused: only where they could be withheld does it matter how they stand.
    fn in_use_and_in_question(
        &self,
        candidate: &Option<Candidate>,
    ) -> Vec<(&'a RegistryKey, &'a Login)> {
        let (Some(candidate), Some(in_use)) = (candidate, self.last_good) else {
            return Vec::new();
        };
        let is_refused = |key: &RegistryKey, login: &Login| {
            let proof = self.heard.proofs.find(key, login, self.way);
            proof.is_some_and(|proof| proof.refusal().is_some())
        };
        in_use
            .entries
            .iter()
            .filter(|(key, login)| {
                serves_public_images(key)
                    && candidate
                        .entries
                        .get(*key)
                        .is_some_and(|other| !other.is_same(login) && is_refused(key, other))
            })
            .collect()
    }

    fn question(&self, due: &Entries) -> String {
        let latest = due
            .iter()
            .filter_map(|(key, login)| self.heard.proofs.find(key, login, self.way))
            .map(Proof::at)
            .max();
        let mut text = format!("{} {latest:?} ", self.way);
        for byte in digest_of(due) {
            // writing to a text cannot fail
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// Whether the registry does not take a token, so that another one may help. One that it knows and that lacks a right
    /// is followed by others like it.
    fn refuses_token(&self, entries: &Entries) -> bool {
        let refusal = self.refusal(entries);
        refusal
            .is_some_and(|refusal| matches!(refusal.reason, Reason::Unauthorized | Reason::Expired))
    }

    fn refusal(&self, entries: &Entries) -> Option<Failure> {
        entries.iter().find_map(|(key, login)| {
            let proof = self.heard.proofs.find(key, login, self.way)?;
            proof.refusal().cloned()
        })
    }

    /// What of the candidate is to be kept. A login that its registry refuses leaves the one in use where it is.
    fn keep(&self, candidate: Candidate) -> Option<Keep> {
        let in_use = self.last_good;
        let same = |digest: &Digest| in_use.filter(|in_use| in_use.digest == *digest);
        let is_refused = |key: &RegistryKey, login: &Login| {
            let proof = self.heard.proofs.find(key, login, self.way);
            proof.is_some_and(|proof| proof.refusal().is_some())
        };
        let entries = if same(&candidate.digest).is_some() {
            candidate.entries
        } else {
            let in_use = in_use.map(|in_use| &in_use.entries);
            let admitted: Entries = candidate
                .entries
                .iter()
                .filter_map(|(key, login)| {
                    let login = if is_refused(key, login) {
                        in_use?.get(key)?
                    } else {
                        login
                    };
                    Some((key.clone(), login.clone()))
                })
                .collect();
            if admitted.is_empty() {
                return None;
            }
            if admitted.len() == candidate.entries.len() && digest_of(&admitted) == candidate.digest
            {
                candidate.entries
            } else {
                Arc::new(admitted)
            }
        };
        let stored = same(&digest_of(&entries));
        let is_kept = stored.is_some_and(|stored| {
            stored.is_stored
                && (!candidate.is_issued
                    || (stored.expires_at == candidate.expires_at
                        && stored.source.as_deref() == Some(self.source)))
        });
        (!is_kept).then(|| Keep {
            entries,
            refreshed_at: stored
                .and_then(|stored| stored.refreshed_at)
                .or(candidate.refreshed_at)
                .unwrap_or(self.now),
            expires_at: candidate.expires_at,
            source: self.source.to_owned(),
        })
    }

    /// The credential in use itself, where the Secret that keeps it was deleted or damaged.
    fn keep_again(&self) -> Option<Keep> {
        let lost = self.last_good.filter(|in_use| !in_use.is_stored)?;
        Some(Keep {
            entries: Arc::clone(&lost.entries),
            refreshed_at: lost.refreshed_at.unwrap_or(self.now),
            expires_at: lost.expires_at,
            source: lost.source.clone().unwrap_or_default(),
        })
    }

    /// Whether the credential in use is at its end.
    fn expiry(&self, times: &mut Vec<Timestamp>) -> bool {
        match self.last_good.and_then(|in_use| in_use.expires_at) {
            Some(end) if end > self.now => {
                times.push(end);
                false
            }
            Some(_) => true,
            None => false,
        }
    }

    fn withheld(&self, is_expired: bool) -> BTreeMap<RegistryKey, Reason> {
        let Some(in_use) = self.last_good else {
            return BTreeMap::new();
        };
        let withheld = in_use.entries.iter().filter_map(|(key, login)| {
            if !serves_public_images(key) {
                return None;
            }
            let proof = self.heard.proofs.find(key, login, self.way);
            let reason = match proof {
                _ if is_expired => Reason::Expired,
                Some(proof) if proof.is_surely_refused() => proof.refusal()?.reason,
                Some(_) => return None,
                None if self.heard.before.is_withheld && self.interval.is_some() => {
                    Reason::CredentialWithheld
                }
                None => return None,
            };
            Some((key.clone(), reason))
        });
        withheld.collect()
    }

    fn verdict(
        &self,
        refusal: Option<Failure>,
        is_expired: bool,
        is_awaited: bool,
    ) -> Option<Verdict> {
        if let Err(error) = self.wanted {
            return Some(Verdict::Bad {
                reason: error.reason,
                message: error.message.clone(),
            });
        }
        let end = self.last_good.and_then(|in_use| in_use.expires_at);
        let failed = self.heard.failed.as_ref();
        if let Some(FailedLogin { failure, .. }) =
            failed.filter(|failed| failed.source == self.source)
        {
            let (reason, message) = match (end, is_expired) {
                (Some(end), true) => (
                    Reason::Expired,
                    format!("the token ended at {end}, and there is no new one: {failure}"),
                ),
                (Some(end), false) => (
                    failure.reason,
                    format!(
                        "there is no new token yet, and the one in use ends at {end}: {failure}"
                    ),
                ),
                (None, _) => (failure.reason, failure.to_string()),
            };
            return Some(Verdict::Bad { reason, message });
        }
        if let Some(failure) = refusal {
            return Some(Verdict::Bad {
                reason: failure.reason,
                message: failure.to_string(),
            });
        }
        match (is_awaited, self.last_good, is_expired) {
            (true, Some(_), _) => None,
            (true, None, _) => Some(Verdict::Pending),
            (false, _, true) => Some(Verdict::Bad {
                reason: Reason::Expired,
                message: "the token in use is at its end".to_owned(),
            }),
            (false, _, false) => Some(Verdict::Good),
        }
    }

    fn verified(&self, entries: &Entries, is_unproven: bool) -> Option<Verified> {
        if self.interval.is_none() {
            return Some(Verified {
                truth: Truth::Unknown,
                reason: Reason::VerificationOff,
                message:
                    "credentials are not verified: see the chart value controller.verify.interval"
                        .to_owned(),
            });
        }
        if let Some(error) = self.no_way {
            return Some(Verified {
                truth: Truth::Unknown,
                reason: error.reason,
                message: error.message.clone(),
            });
        }
        let (mut refused, mut unknown) = (Vec::new(), Vec::new());
        for (key, login) in entries {
            let Some(proof) = self.heard.proofs.find(key, login, self.way) else {
                continue;
            };
            match &proof.verification {
                Verification::Accepted => {}
                Verification::Refused(failure) => refused.push(failure),
                Verification::Unknown(failure) => unknown.push(failure),
            }
        }
        let (truth, failures) = if refused.is_empty() {
            // a refusal is told at once, the rest when everything is known
            if is_unproven {
                return None;
            }
            (Truth::Unknown, unknown)
        } else {
            (Truth::False, refused)
        };
        Some(match failures.first() {
            None => Verified {
                truth: Truth::True,
                reason: Reason::Accepted,
                message: match entries.len() {
                    1 => "the registry takes the credential".to_owned(),
                    all => format!("all {all} registries take their credential"),
                },
            },
            Some(first) => {
                let mut message = failures
                    .iter()
                    .take(NAMED)
                    .map(|failure| failure.message.as_str())
                    .collect::<Vec<_>>()
                    .join("; ");
                if failures.len() > NAMED {
                    let _ = write!(message, "; and {} more", failures.len() - NAMED);
                }
                Verified {
                    truth,
                    reason: first.reason,
                    message,
                }
            }
        })
    }
}

#[cfg(test)]
mod tests;
