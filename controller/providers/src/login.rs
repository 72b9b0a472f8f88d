//! Logging in: what an administrator gave is exchanged for a login that kubelet can use, and which ends.

use std::fmt;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use jiff::{SignedDuration, Timestamp};
use pullpass_core::docker_config::Login;
use pullpass_core::key::RegistryKey;
use pullpass_core::reason::Reason;
use secrecy::SecretString;
use url::Url;

use crate::connection::Connection;
use crate::failure::Failure;
use crate::{aws, azure, google};

/// What a token lives whose end is not told: the shortest that any provider gives.
const UNTOLD_LIFE: SignedDuration = SignedDuration::from_hours(1);

/// How long a login may take altogether: three exchanges with a cloud, each with a second attempt, fit into it.
const LONGEST: Duration = Duration::from_secs(45);

/// A way to log in that needs a cloud's help: `spec.auth`, with what is in its source Secret.
#[derive(Clone, Debug)]
pub enum Method {
    /// An access key of AWS.
    AwsKeys(aws::Keys),
    /// A role of AWS.
    AwsRole(aws::Role),
    /// The JSON key of a Google service account.
    GcpServiceAccountKey(google::ServiceAccountKey),
    /// An identity at Google.
    GcpWorkloadIdentity(google::WorkloadIdentity),
    /// A service principal of Microsoft Entra.
    AzureServicePrincipal(azure::ServicePrincipal),
    /// An application of Microsoft Entra that trusts the controller's service account.
    AzureWorkloadIdentity(azure::WorkloadIdentity),
}

/// A login that a provider has issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// User name and token.
    pub login: Login,
    /// When the token ends. Where the provider does not say it is an hour after it was issued, the shortest life that any of
    /// them gives, so that no token is taken for one that needs no renewal.
    pub expires_at: Option<Timestamp>,
}

/// Tokens of the controller's own service account, by which it proves to a cloud who it is.
pub trait IdentityTokens: Send + Sync {
    /// A new token for an audience.
    ///
    /// # Errors
    /// The API server does not issue one.
    fn token<'a>(&'a self, audience: &'a str) -> BoxFuture<'a, Result<SecretString, Failure>>;
}

/// Where the clouds are, when it is not where they usually are: a private endpoint, or a test's. AWS knows such
/// addresses from its SDKs' own configuration, too (`AWS_ENDPOINT_URL` and its kin).
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    /// Instead of every service of AWS.
    pub aws: Option<Url>,
    /// Instead of `https://oauth2.googleapis.com`, `https://sts.googleapis.com` and `https://iamcredentials.googleapis.com`.
    pub google: Option<Url>,
    /// Instead of `http://metadata.google.internal`.
    pub google_metadata: Option<Url>,
    /// Instead of `https://login.microsoftonline.com` and its like in other clouds.
    pub entra: Option<Url>,
}

/// Logs in, at whichever cloud it takes.
#[derive(Clone, Debug, Default)]
pub struct Providers {
    endpoints: Endpoints,
}

/// What every provider is given for one login.
pub(crate) struct Context<'a> {
    /// What the login is for.
    pub(crate) key: &'a RegistryKey,
    /// How registry and cloud are reached.
    pub(crate) connection: &'a Connection,
    /// For those who prove who they are by a token.
    pub(crate) tokens: &'a dyn IdentityTokens,
    /// Where the clouds are.
    pub(crate) endpoints: &'a Endpoints,
}

impl Providers {
    /// With the clouds where they are.
    pub fn new(endpoints: Endpoints) -> Self {
        Self { endpoints }
    }

    /// Logs in to the registry of `key`. The cloud is asked with its certificate checked even where the connection says
    /// `Insecure`, which is about the registry.
    ///
    /// # Errors
    /// Whatever keeps the cloud from issuing a login, in words that say what to change. It takes 45 s at most.
    pub async fn log_in(
        &self,
        key: &RegistryKey,
        method: &Method,
        connection: &Connection,
        tokens: &dyn IdentityTokens,
    ) -> Result<Issued, Failure> {
        let context = Context {
            key,
            connection,
            tokens,
            endpoints: &self.endpoints,
        };
        let login = match method {
            Method::AwsKeys(keys) => aws::by_keys(keys, &context).boxed(),
            Method::AwsRole(role) => aws::by_role(role, &context).boxed(),
            Method::GcpServiceAccountKey(key) => google::by_key(key, &context).boxed(),
            Method::GcpWorkloadIdentity(identity) => {
                google::by_workload_identity(identity, &context).boxed()
            }
            Method::AzureServicePrincipal(principal) => {
                azure::by_service_principal(principal, &context).boxed()
            }
            Method::AzureWorkloadIdentity(identity) => {
                azure::by_workload_identity(identity, &context).boxed()
            }
        };
        tokio::time::timeout(LONGEST, login)
            .await
            .unwrap_or_else(|_| {
                Err(Failure::new(
                    Reason::Unreachable,
                    format!(
                        "the login for {} was not done within {} s",
                        key.host(),
                        LONGEST.as_secs()
                    ),
                ))
            })
    }
}

impl Issued {
    /// From what a provider says.
    ///
    /// # Errors
    /// A user name or token that no registry could be told.
    pub(crate) fn new(
        username: SecretString,
        token: SecretString,
        expires_at: Option<Timestamp>,
        issuer: impl fmt::Display,
    ) -> Result<Self, Failure> {
        let login = Login::new(username, token).map_err(|error| {
            Failure::new(
                Reason::CloudFailing,
                format!("{issuer} issued what is no login: {error}"),
            )
        })?;
        let expires_at = expires_at.or_else(|| Timestamp::now().saturating_add(UNTOLD_LIFE).ok());
        Ok(Self { login, expires_at })
    }
}
