//! Clients that are somebody.

use anyhow::{Context as _, Result};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::config::AuthInfo;
use kube::{Api, Client, Config};
use secrecy::SecretString;

use crate::objects::{ignore_existing, named};

/// How long a token lives: the least that the API server gives, and longer than any test.
const TOKEN_SECONDS: i64 = 600;

/// The user name under which a service account acts.
pub fn service_account_user(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// The configuration of a client with a real token of the account, which is made if it is not there.
pub(crate) async fn service_account(
    administrator: &Config,
    namespace: &str,
    name: &str,
) -> Result<Config> {
    let accounts: Api<ServiceAccount> =
        Api::namespaced(Client::try_from(administrator.clone())?, namespace);
    let account = ServiceAccount {
        metadata: named(name),
        ..ServiceAccount::default()
    };
    ignore_existing(accounts.create(&PostParams::default(), &account).await)?;
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: Some(TOKEN_SECONDS),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let token = accounts
        .create_token_request(name, &PostParams::default(), &request)
        .await
        .with_context(|| format!("no token for the service account {namespace}/{name}"))?
        .status
        .context("the API server answered without a token")?
        .token;
    Ok(bearer(administrator, token))
}

/// The configuration of whoever holds this token.
pub(crate) fn bearer(administrator: &Config, token: String) -> Config {
    with_identity(
        administrator,
        AuthInfo {
            token: Some(SecretString::from(token)),
            ..AuthInfo::default()
        },
    )
}

/// A configuration, acting as somebody else.
pub(crate) fn user(administrator: &Config, name: &str, groups: &[&str]) -> Config {
    let mut identity = administrator.auth_info.clone();
    identity.impersonate = Some(name.to_owned());
    identity.impersonate_groups = Some(groups.iter().map(|&group| group.to_owned()).collect());
    with_identity(administrator, identity)
}

fn with_identity(administrator: &Config, identity: AuthInfo) -> Config {
    let mut config = administrator.clone();
    config.auth_info = identity;
    config
}
