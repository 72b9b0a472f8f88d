//! What comes next in the life of the certificates: [`rotate()`], a pure function.
//!
//! The order that keeps every call working: trust first, sign second, retire last. API servers each hold a
//! `caBundle` of their own age and replicas each a leaf of their own age, and none of them acknowledges
//! anything; so the steps are far apart in time instead.
//!
//! 1. A new authority is added to the stored ones, then `caBundle` is published with both.
//! 2. Only when the propagation delay has passed since the publication was *seen*, the new authority starts to
//!    sign, and the leaf is issued under it.
//! 3. The old authority leaves the bundle when every leaf that it signed has expired.
//!
//! Each step is one write. Between any two of them the process may end, and the next one goes on from what
//! is stored.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use crate::certificate::Certificate;
use crate::issue::{AUTHORITY_COMMON_NAME, IssueError, Validity, issue_authority, issue_serving};
use crate::state::{Authorities, Authority, Pending, Serving, Stored};
use crate::time::{earlier, later, whole_second};

/// How long things last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Life of an authority. It is replaced at two thirds of it.
    pub authority_lifetime: SignedDuration,
    /// Life of a serving certificate. It is replaced at two thirds of it.
    pub leaf_lifetime: SignedDuration,
    /// How long an API server may hold an outdated `caBundle`, or a replica an outdated leaf.
    pub propagation_delay: SignedDuration,
    /// How far any clock concerned may be off, in either direction.
    pub clock_skew: SignedDuration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            authority_lifetime: SignedDuration::from_hours(365 * 24),
            leaf_lifetime: SignedDuration::from_hours(30 * 24),
            // informers are behind by seconds; a day also covers an API server that was cut off over night
            propagation_delay: SignedDuration::from_hours(24),
            clock_skew: SignedDuration::from_mins(30),
        }
    }
}

/// What the certificates have to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    dns_names: BTreeSet<String>,
    times: Times,
}

/// Why a policy would not keep calls working.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum PolicyError {
    /// Nothing to serve.
    #[error(
        "no DNS name given: name the Service as API servers call it, <service>.<namespace>.svc"
    )]
    NoNames,
    /// A duration is negative, or the lifetime zero.
    #[error("durations must not be negative, and lifetimes must be longer than zero")]
    Negative,
    /// A renewed leaf would not reach everybody before the old one expires.
    #[error(
        "leaf lifetime {0:#} is too short: a third of it must be longer than propagation delay and twice the clock skew, {1:#}"
    )]
    LeafTooShort(SignedDuration, SignedDuration),
    /// A new authority would not be in trust before the old one cannot sign a full leaf any more.
    #[error("authority lifetime {0:#} is too short: a third of it must be longer than {1:#}")]
    AuthorityTooShort(SignedDuration, SignedDuration),
}

impl Policy {
    /// A policy for these DNS names.
    ///
    /// # Errors
    /// [`PolicyError`] if the times would leave a gap at some moment.
    pub fn new(
        dns_names: impl IntoIterator<Item = String>,
        times: Times,
    ) -> Result<Self, PolicyError> {
        let dns_names: BTreeSet<String> = dns_names.into_iter().collect();
        if dns_names.is_empty() {
            return Err(PolicyError::NoNames);
        }
        if times.propagation_delay.is_negative()
            || times.clock_skew.is_negative()
            || !times.leaf_lifetime.is_positive()
            || !times.authority_lifetime.is_positive()
        {
            return Err(PolicyError::Negative);
        }
        let policy = Self { dns_names, times };
        let delay = policy.settled_after();
        if times.leaf_lifetime / 3 <= delay {
            return Err(PolicyError::LeafTooShort(times.leaf_lifetime, delay));
        }
        let least = times.leaf_lifetime.saturating_add(delay);
        if times.authority_lifetime / 3 <= least {
            return Err(PolicyError::AuthorityTooShort(
                times.authority_lifetime,
                least,
            ));
        }
        Ok(policy)
    }

    /// The DNS names of the leaf.
    #[must_use]
    pub fn dns_names(&self) -> &BTreeSet<String> {
        &self.dns_names
    }

    /// How long things last.
    #[must_use]
    pub fn times(&self) -> Times {
        self.times
    }

    /// The most by which two clocks can disagree.
    fn tolerance(&self) -> SignedDuration {
        self.times.clock_skew.saturating_add(self.times.clock_skew)
    }

    /// From a change until everybody holds it, with clocks that may jump in between.
    fn settled_after(&self) -> SignedDuration {
        self.times
            .propagation_delay
            .saturating_add(self.tolerance())
    }
}

/// What the cluster shows at the moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// `caBundle` of the webhook configuration, empty if it has none; `None` if there is no such configuration.
    pub ca_bundle: Option<Vec<u8>>,
}

/// The one thing to do next. After it was done, ask again.
#[derive(Debug, Clone)]
pub enum Step {
    /// Issue an authority and add it to these: as the current one if there is none, else as the next.
    AddAuthority(Authorities),
    /// Store the authorities like this.
    StoreAuthorities(Authorities),
    /// Issue a leaf under this authority, and store it.
    IssueLeaf {
        /// Signs; has a key.
        authority: Authority,
        /// The leaf's end.
        not_after: Timestamp,
    },
    /// Write this `caBundle` (PEM) into the webhook configuration.
    Publish(String),
    /// All is well; nothing becomes due before this instant unless somebody changes something. A wall clock
    /// can jump: look at it again every minute or so rather than sleep until then.
    Wait(Timestamp),
}

/// A step with its certificates issued: exactly one write, or none.
#[derive(Debug, Clone)]
pub enum Action {
    /// Write [`Authorities::to_secret_data`] as the data of the authorities' Secret.
    StoreAuthorities(Authorities),
    /// Write [`Serving::to_secret_data`] as the data of the serving Secret.
    StoreServing(Serving),
    /// Write this `caBundle` (PEM) into the webhook configuration.
    Publish(String),
    /// Look again at this instant at the latest.
    Wait(Timestamp),
}

impl Step {
    /// Issues what the step needs. `now` may be later than the one given to [`rotate()`].
    ///
    /// # Errors
    /// [`IssueError`] if keys or certificates cannot be made; the step may be tried again.
    pub fn prepare(self, now: Timestamp, policy: &Policy) -> Result<Action, IssueError> {
        let backdate = policy.tolerance();
        Ok(match self {
            Self::AddAuthority(mut authorities) => {
                let issued = issue_authority(Validity::lasting(
                    now,
                    policy.times.authority_lifetime,
                    backdate,
                ))?;
                let authority = Authority {
                    leaves_expire: issued.certificate.not_before(),
                    certificate: issued.certificate,
                    key: Some(issued.key),
                };
                if authorities.current.is_none() {
                    authorities.current = Some(authority);
                } else {
                    authorities.next = Some(Pending {
                        authority,
                        published_at: None,
                    });
                }
                Action::StoreAuthorities(authorities)
            }
            Self::StoreAuthorities(authorities) => Action::StoreAuthorities(authorities),
            Self::IssueLeaf {
                authority,
                not_after,
            } => {
                let key = authority.key.as_ref().ok_or(IssueError::NoKey)?;
                let validity = Validity::until(now, not_after, backdate);
                let issued =
                    issue_serving(&authority.certificate, key, &policy.dns_names, validity)?;
                Action::StoreServing(Serving {
                    certificate: issued.certificate,
                    key: issued.key,
                    authority: Some(authority.certificate),
                })
            }
            Self::Publish(ca_bundle) => Action::Publish(ca_bundle),
            Self::Wait(until) => Action::Wait(until),
        })
    }
}

/// The next step towards certificates that satisfy `policy`, given what is stored and what is published.
/// Total: whatever is missing, damaged or foreign leads to the step that repairs it.
///
/// `now` is the wall clock. It may be wrong by the policy's clock skew, and jump within it.
#[must_use]
pub fn rotate(now: Timestamp, policy: &Policy, stored: &Stored, observed: &Observed) -> Step {
    let moment = Moment {
        now,
        policy,
        leaf: stored.serving.as_ref().map(|serving| &serving.certificate),
        observed,
    };
    moment
        .repair(stored)
        .or_else(|| moment.progress(&stored.authorities))
        .unwrap_or_else(|| moment.wait(&stored.authorities))
}

struct Moment<'a> {
    now: Timestamp,
    policy: &'a Policy,
    leaf: Option<&'a Certificate>,
    observed: &'a Observed,
}

impl Moment<'_> {
    /// Puts the stored authorities in order: recovers lost ones, drops those that no leaf needs.
    fn repair(&self, stored: &Stored) -> Option<Step> {
        let authorities = &stored.authorities;
        if stored.damaged || self.leaf_is_signed_by_a_stranger(authorities) {
            let recovered = self.recover(authorities);
            return Some(if recovered.current.is_some() {
                Step::StoreAuthorities(recovered)
            } else {
                Step::AddAuthority(recovered)
            });
        }
        let mut tidied = authorities.clone();
        let tolerance = self.policy.tolerance();
        tidied.previous.retain(|authority| {
            later(authority.leaves_expire, tolerance) >= self.now
                && !authority.certificate.is_long_expired(self.now, tolerance)
        });
        tidied.next = tidied
            .next
            .filter(|next| self.signing_end(&next.authority).is_some());
        let changed = tidied.previous.len() != authorities.previous.len()
            || tidied.next.is_some() != authorities.next.is_some();
        changed.then_some(Step::StoreAuthorities(tidied))
    }

    fn progress(&self, authorities: &Authorities) -> Option<Step> {
        let Some(current) = &authorities.current else {
            return Some(Step::AddAuthority(authorities.clone()));
        };
        if authorities.next.is_none()
            && (current.key.is_none()
                || self.now >= current.certificate.renew_at()
                || self.signing_end(current).is_none())
        {
            return Some(Step::AddAuthority(authorities.clone()));
        }
        // nobody can be served with what is there: no order of things is worth waiting for
        if !self.leaf_serves() {
            return Some(match self.leaf_under(authorities, current) {
                Some(step) => step,
                None => self.promote(authorities)?,
            });
        }
        if let Some(step) = self.publication(authorities) {
            return Some(step);
        }
        if authorities
            .next
            .as_ref()
            .is_some_and(|next| self.now >= self.switch_at(next))
        {
            return self.promote(authorities);
        }
        let leaf = self.leaf?;
        let gain = self.policy.times.leaf_lifetime / 10;
        let due = self.now >= leaf.renew_at()
            && self
                .leaf_end(current)
                .is_some_and(|end| end > later(leaf.not_after(), gain));
        if due || !leaf.is_signed_by(&current.certificate) {
            return self.leaf_under(authorities, current);
        }
        None
    }

    /// Makes `caBundle` what it should be, and takes down when it was seen to be so.
    fn publication(&self, authorities: &Authorities) -> Option<Step> {
        let published = self.observed.ca_bundle.as_ref()?;
        let wanted = authorities.ca_bundle();
        let is_published = published.as_slice() == wanted.as_bytes();
        let seen = |published_at| {
            let mut authorities = authorities.clone();
            if let Some(next) = &mut authorities.next {
                next.published_at = published_at;
            }
            Step::StoreAuthorities(authorities)
        };
        match authorities
            .next
            .as_ref()
            .map(|next| (next, next.published_at))
        {
            // somebody took it out of the bundle: API servers may have unlearnt it, so the delay starts anew
            Some((next, Some(_))) if !contains(published, &next.authority.certificate) => {
                Some(seen(None))
            }
            _ if !is_published => Some(Step::Publish(wanted)),
            Some((_, None)) => Some(seen(Some(self.now))),
            _ => None,
        }
    }

    /// When the pending authority takes over: after the delay, or before the leaf would expire.
    fn switch_at(&self, next: &Pending) -> Timestamp {
        let latest = self.leaf.map_or(self.now, |leaf| {
            earlier(leaf.not_after(), self.policy.tolerance())
        });
        next.published_at.map_or(latest, |published_at| {
            latest.min(later(published_at, self.policy.settled_after()))
        })
    }

    fn promote(&self, authorities: &Authorities) -> Option<Step> {
        let mut authorities = authorities.clone();
        let promoted = authorities.next.take()?.authority;
        if let Some(old) = authorities.current.replace(promoted) {
            authorities.previous.push(Authority { key: None, ..old });
        }
        Some(Step::StoreAuthorities(authorities))
    }

    /// The leaf under `authority`; before it, a record of how long that leaf will live, so that a crash in
    /// between leaves too long a time on record rather than too short a one.
    fn leaf_under(&self, authorities: &Authorities, authority: &Authority) -> Option<Step> {
        let end = self.leaf_end(authority)?;
        // the record is written by one step and read by another, some moments later
        let slack = self.policy.times.leaf_lifetime / 20;
        if authority.leaves_expire < earlier(end, slack) {
            let mut authorities = authorities.clone();
            if let Some(current) = &mut authorities.current {
                current.leaves_expire = end;
            }
            return Some(Step::StoreAuthorities(authorities));
        }
        Some(Step::IssueLeaf {
            authority: authority.clone(),
            not_after: end.min(authority.leaves_expire),
        })
    }

    /// When a leaf that is issued now would end; `None` if the authority cannot issue one.
    fn leaf_end(&self, authority: &Authority) -> Option<Timestamp> {
        let end = self.signing_end(authority)?;
        Some(whole_second(later(self.now, self.policy.times.leaf_lifetime)).min(end))
    }

    /// The end of an authority that can sign now, with enough of its life left for a leaf to be of use.
    fn signing_end(&self, authority: &Authority) -> Option<Timestamp> {
        let end = authority.certificate.not_after();
        let least = later(
            self.now,
            self.policy
                .tolerance()
                .saturating_add(self.policy.times.leaf_lifetime / 10),
        );
        (authority.key.is_some() && end > least && !self.lies_ahead(&authority.certificate))
            .then_some(end)
    }

    /// Whether peers with a right clock would refuse it as not yet valid.
    fn lies_ahead(&self, certificate: &Certificate) -> bool {
        certificate.not_before() > later(self.now, self.policy.tolerance())
    }

    /// Whether the leaf is one that API servers could accept at all.
    fn leaf_serves(&self) -> bool {
        self.leaf.is_some_and(|leaf| {
            self.now < leaf.not_after()
                && !self.lies_ahead(leaf)
                && leaf.dns_names() == &self.policy.dns_names
        })
    }

    fn leaf_is_signed_by_a_stranger(&self, authorities: &Authorities) -> bool {
        self.leaf
            .filter(|leaf| self.now < leaf.not_after())
            .is_some_and(|leaf| {
                !authorities
                    .trusted()
                    .any(|authority| leaf.is_signed_by(&authority.certificate))
                    && self
                        .published_authorities()
                        .iter()
                        .any(|certificate| leaf.is_signed_by(certificate))
            })
    }

    /// Authorities of ours in the published bundle: API servers trust them whether or not we remember them.
    fn published_authorities(&self) -> Vec<Certificate> {
        let text = self.observed.ca_bundle.as_deref().unwrap_or_default();
        Certificate::all_from_pem(text)
            .unwrap_or_default()
            .into_iter()
            .filter(|certificate| {
                certificate.is_authority()
                    && certificate.common_name() == AUTHORITY_COMMON_NAME
                    && !certificate.is_long_expired(self.now, self.policy.tolerance())
            })
            .collect()
    }

    /// The authorities as far as they can be known: those that can be read, and those that are published.
    /// The one that signed the leaf in use is the current one, with or without a key.
    fn recover(&self, readable: &Authorities) -> Authorities {
        let mut known: Vec<Authority> = readable.trusted().cloned().collect();
        for certificate in self.published_authorities() {
            if !known
                .iter()
                .any(|authority| authority.certificate == certificate)
            {
                known.push(Authority::of_unknown_history(certificate, None));
            }
        }
        let signer = self
            .leaf
            .filter(|leaf| self.now < leaf.not_after())
            .and_then(|leaf| {
                known
                    .iter()
                    .position(|authority| leaf.is_signed_by(&authority.certificate))
            });
        let current = match (signer, &readable.current) {
            (Some(signer), _) => Some(known.remove(signer)),
            (None, Some(current)) if current.key.is_some() => {
                take(&mut known, &current.certificate)
            }
            (None, _) => None,
        };
        let next = if current.is_none() {
            None
        } else {
            let kept = readable
                .next
                .as_ref()
                .map(|next| (&next.authority, next.published_at));
            let displaced = readable.current.as_ref().map(|current| (current, None));
            kept.into_iter()
                .chain(displaced)
                .filter(|(authority, _)| authority.key.is_some())
                .find_map(|(authority, published_at)| {
                    Some(Pending {
                        authority: take(&mut known, &authority.certificate)?,
                        published_at,
                    })
                })
        };
        let previous = known
            .into_iter()
            .map(|authority| Authority {
                key: None,
                ..authority
            })
            .collect();
        Authorities {
            current,
            next,
            previous,
        }
    }

    fn wait(&self, authorities: &Authorities) -> Step {
        let leaf = self.leaf.map(|leaf| {
            if self.now < leaf.renew_at() {
                leaf.renew_at()
            } else {
                leaf.not_after()
            }
        });
        let authority = match (&authorities.next, &authorities.current) {
            (Some(next), _) => Some(self.switch_at(next)),
            (None, Some(current)) => Some(current.certificate.renew_at()),
            (None, None) => None,
        };
        let retiring = authorities
            .previous
            .iter()
            .map(|old| later(old.leaves_expire, self.policy.tolerance()));
        let soonest = leaf
            .into_iter()
            .chain(authority)
            .chain(retiring)
            .min()
            .unwrap_or(self.now);
        // an instant that is reached is not yet past
        Step::Wait(soonest.max(later(self.now, SignedDuration::from_secs(1))))
    }
}

fn take(authorities: &mut Vec<Authority>, certificate: &Certificate) -> Option<Authority> {
    let position = authorities
        .iter()
        .position(|authority| &authority.certificate == certificate)?;
    Some(authorities.remove(position))
}

fn contains(bundle: &[u8], certificate: &Certificate) -> bool {
    Certificate::all_from_pem(bundle).is_ok_and(|certificates| certificates.contains(certificate))
}

#[cfg(test)]
mod tests;
