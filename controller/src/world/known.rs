//! What is known of one Registry.

use std::collections::BTreeMap;
use std::sync::Arc;

use pullpass_api::Registry;
use pullpass_core::key::RegistryKey;
use pullpass_core::reason::Reason;
use pullpass_core::registry::Registry as DomainRegistry;
use tokio::time::Instant;

use crate::heard::Before;
use crate::upkeep::{Next, Verified};

/// A Registry with all that belongs to it.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// As it was last seen.
    pub(crate) object: Arc<Registry>,
    /// Since when it is deleted, where it is not yet certain that its CRD is not.
    pub(crate) gone_since: Option<Instant>,
    /// As the decisions see it; from an earlier version where it is invalid now.
    pub(crate) domain: Option<Arc<DomainRegistry>>,
    /// How its credential stands, and for which generation that was found out.
    pub(crate) verdict: (Option<i64>, Verdict),
    /// What is known of its verification; `None` where that is what the status says.
    pub(crate) verified: Option<Verified>,
    /// Keys whose login in use is kept out of every copy, and why.
    pub(crate) withheld: Withheld,
}

impl Known {
    /// A Registry of which nothing is known but what its status says.
    pub(crate) fn new(object: Arc<Registry>, domain: Option<Arc<DomainRegistry>>) -> Self {
        let mut known = Self {
            object,
            gone_since: None,
            domain,
            verdict: (None, Verdict::Pending),
            verified: None,
            withheld: Withheld::Keys(BTreeMap::new()),
        };
        known.start_anew();
        known
    }

    /// Nothing is known any more but what the status says.
    pub(super) fn start_anew(&mut self) {
        self.verdict = (None, Verdict::Pending);
        self.verified = None;
        self.withheld = if Before::of(&self.object).is_withheld {
            Withheld::AsBefore
        } else {
            Withheld::Keys(BTreeMap::new())
        };
    }
}

/// How a Registry's credential stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its turn has not come.
    #[default]
    Pending,
    /// It needs none.
    Public,
    /// Each namespace holds it; there is none to copy.
    Held,
    /// It was read, and is kept as the last good one.
    Good,
    /// It cannot be had; the last good one stays, if there is one.
    Bad {
        /// The category.
        reason: Reason,
        /// What is wrong, without any content.
        message: String,
    },
    /// The Registry contradicts itself.
    Invalid(String),
}

/// What of a credential in use is kept out of every copy, since it would stand in the way of public images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Withheld {
    /// Another process has withheld the credential, as the status says; how it stands has yet to be found out.
    AsBefore,
    /// These keys, each with its reason.
    Keys(BTreeMap<RegistryKey, Reason>),
}

impl Withheld {
    /// Whether there is anything.
    pub(crate) fn is_any(&self) -> bool {
        match self {
            Self::AsBefore => true,
            Self::Keys(keys) => !keys.is_empty(),
        }
    }
}

/// What was found out about a Registry's credential.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    /// How it stands; `None` where it stands as before.
    pub(crate) verdict: Option<Verdict>,
    /// What is known of its verification; `None` where that is as before.
    pub(crate) verified: Option<Verified>,
    /// Keys whose login in use is kept out of every copy, and why.
    pub(crate) withheld: BTreeMap<RegistryKey, Reason>,
}

impl Findings {
    /// What the next step says.
    pub(crate) fn of(next: Next) -> Self {
        Self {
            verdict: next.verdict,
            verified: next.verified,
            withheld: next.withheld,
        }
    }
}

impl From<Verdict> for Findings {
    fn from(verdict: Verdict) -> Self {
        Self {
            verdict: Some(verdict),
            ..Self::default()
        }
    }
}
