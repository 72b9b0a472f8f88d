//! What the tests stand on.

pub(crate) mod fake;
pub(crate) mod log;
pub(crate) mod moto;
pub(crate) mod tunnel;

use std::sync::Mutex;

use futures::future::{BoxFuture, FutureExt as _};
use pullpass_core::key::RegistryKey;
use pullpass_providers::connection::Connection;
use pullpass_providers::failure::Failure;
use pullpass_providers::login::{Endpoints, IdentityTokens, Issued, Method, Providers};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

/// What no message may repeat.
pub(crate) const CANARY: &str = "CANARY";

/// Fake: hands out one token, and remembers for whom.
#[derive(Default)]
pub(crate) struct FakeIdentity {
    pub(crate) audiences: Mutex<Vec<String>>,
}

/// The token that [`FakeIdentity`] hands out.
pub(crate) const IDENTITY_TOKEN: &str = "e30.e30.CANARY-identity";

impl IdentityTokens for FakeIdentity {
    fn token<'a>(&'a self, audience: &'a str) -> BoxFuture<'a, Result<SecretString, Failure>> {
        self.audiences.lock().unwrap().push(audience.to_owned());
        async { Ok(IDENTITY_TOKEN.into()) }.boxed()
    }
}

impl FakeIdentity {
    pub(crate) fn asked_for(&self) -> Vec<String> {
        self.audiences.lock().unwrap().clone()
    }
}

pub(crate) fn key(host: &str) -> RegistryKey {
    RegistryKey::for_registry_host(host).unwrap()
}

pub(crate) fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

/// One login, direct and with everything else as usual.
pub(crate) async fn log_in(
    host: &str,
    method: &Method,
    endpoints: &Endpoints,
) -> Result<Issued, Failure> {
    Providers::new(endpoints.clone())
        .log_in(
            &key(host),
            method,
            &Connection::default(),
            &FakeIdentity::default(),
        )
        .await
}

/// User and token, for comparisons.
pub(crate) fn plain(issued: &Issued) -> (&str, &str) {
    (
        issued.login.username().expose_secret(),
        issued.login.password().expose_secret(),
    )
}

/// Seconds until the token ends.
pub(crate) fn life(issued: &Issued) -> i64 {
    let expires_at = issued.expires_at.expect("a token that ends");
    expires_at.as_second() - jiff::Timestamp::now().as_second()
}

/// A refusal of the expected kind, which says this and repeats no secret.
pub(crate) fn assert_refused(
    result: Result<Issued, Failure>,
    reason: pullpass_core::reason::Reason,
    says: &str,
) {
    let failure = result.expect_err("a refusal");
    assert_eq!(failure.reason, reason, "{failure}");
    assert!(failure.message.contains(says), "{failure}: no {says:?}");
    assert!(!failure.message.contains(CANARY), "{failure}");
}
