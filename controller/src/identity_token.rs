//! Tokens of the controller's own service account, by which it proves to a cloud who it is.

use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client};
use pullpass_core::reason::Reason;
use pullpass_providers::failure::Failure;
use pullpass_providers::login::IdentityTokens;
use secrecy::SecretString;

/// A token is used at once and once. The API server gives none that lives shorter (`MinTokenAgeSec` in its
/// `pkg/apis/authentication/validation`).
const SECONDS: i64 = 600;

/// Asks the API server for them.
#[derive(Clone)]
pub(crate) struct OwnTokens {
    accounts: Api<ServiceAccount>,
    name: String,
}

impl OwnTokens {
    /// Of the service account of this name in Pullpass's own namespace.
    pub(crate) fn new(client: Client, namespace: &str, name: String) -> Self {
        Self {
            accounts: Api::namespaced(client, namespace),
            name,
        }
    }

    async fn request(&self, audience: &str) -> Result<SecretString, Failure> {
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![audience.to_owned()],
                expiration_seconds: Some(SECONDS),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let answer = self
            .accounts
            .create_token_request(&self.name, &PostParams::default(), &request)
            .await
            .map_err(|error| self.failure(crate::term::explain(&error)))?;
        match answer.status {
            Some(status) => Ok(status.token.into()),
            None => Err(self.failure("it answered without one".to_owned())),
        }
    }

    fn failure(&self, why: String) -> Failure {
        let name = &self.name;
        Failure::new(
            Reason::IdentityMissing,
            format!("the API server issued no token of the service account {name}: {why}"),
        )
    }
}

impl IdentityTokens for OwnTokens {
    fn token<'a>(&'a self, audience: &'a str) -> BoxFuture<'a, Result<SecretString, Failure>> {
        Box::pin(self.request(audience))
    }
}
