//! What clouds and registries have said about a Registry's credential.

use std::sync::Arc;

use jiff::Timestamp;
use pullpass_api::Registry;
use pullpass_api::status::{READY, Truth, VERIFIED};
use pullpass_core::docker_config::{Entries, Login};
use pullpass_core::key::RegistryKey;
use pullpass_core::reason::Reason;
use pullpass_providers::failure::Failure;
use pullpass_providers::verify::Verification;

use crate::proof::Proofs;

/// What a cloud has issued, in this process.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    /// What it was exchanged for: see [`crate::credential::fingerprint`].
    pub(crate) source: String,
    /// The token, under the keys that it is for.
    pub(crate) entries: Arc<Entries>,
    /// When it ends, where that is told.
    pub(crate) expires_at: Option<Timestamp>,
    /// When it was handed out, or handed out once more.
    pub(crate) at: Timestamp,
    /// How many tokens in a row the registry had refused when it was asked for; none once it is accepted itself.
    pub(crate) refused_before: u32,
}

/// A log-in that failed.
#[derive(Clone, Debug)]
pub(crate) struct FailedLogin {
    /// As in [`Issued`].
    pub(crate) source: String,
    /// Why.
    pub(crate) failure: Failure,
}

/// What clouds and registries have said about a Registry's credential.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    /// Since when this process knows of the Registry.
    pub(crate) since: Timestamp,
    /// The token that was issued last.
    pub(crate) issued: Option<Issued>,
    /// The log-in that failed last, where none has succeeded since.
    pub(crate) failed: Option<FailedLogin>,
    /// What registries said.
    pub(crate) proofs: Proofs,
    /// How the registry is asked since this process has asked for the first time.
    pub(crate) way: Option<String>,
    /// What another process found out before this one.
    pub(crate) before: Before,
}

/// What the status says that another process has written: a new leader asks nobody who was asked a moment ago.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Before {
    /// The credential in use was verified, or not refused at least.
    pub(crate) is_verified: bool,
    /// It was withheld.
    pub(crate) is_withheld: bool,
}

impl Before {
    /// What a Registry's status says about its present spec.
    pub(crate) fn of(registry: &Registry) -> Self {
        let Some(status) = &registry.status else {
            return Self::default();
        };
        let is_current = status.observed_generation == registry.metadata.generation;
        let condition = |kind: &str| {
            let mut conditions = status.conditions.iter();
            conditions.find(|condition| condition.type_ == kind)
        };
        Self {
            is_verified: is_current
                && condition(VERIFIED)
                    .is_some_and(|verified| verified.status != Truth::False.as_str()),
            is_withheld: condition(READY)
                .is_some_and(|ready| ready.reason == Reason::CredentialWithheld.as_str()),
        }
    }
}

impl Heard {
    /// Nothing yet.
    pub(crate) fn nothing(since: Timestamp, before: Before) -> Self {
        Self {
            since,
            issued: None,
            failed: None,
            proofs: Proofs::default(),
            way: None,
            before,
        }
    }

    /// Adds what a registry said at `now` about a login that it was asked about in this way.
    pub(crate) fn add_proof(
        &mut self,
        key: &RegistryKey,
        login: &Login,
        way: &str,
        verification: Verification,
        now: Timestamp,
    ) {
        if let (Verification::Accepted, Some(issued)) = (&verification, &mut self.issued)
            && issued
                .entries
                .get(key)
                .is_some_and(|own| own.is_same(login))
        {
            issued.refused_before = 0;
        }
        self.proofs.add(key, login, way, verification, now);
    }
}
