//! Clients that are somebody.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::config::AuthInfo;
use kube::{Api, Client, Config};
use secrecy::{ExposeSecret as _, SecretString};

use crate::checkout;
use crate::name;
use crate::objects::{self, ignore_existing};

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
        metadata: objects::named(name),
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

/// Writes a configuration as a kubeconfig that a daemon's `--kubeconfig` takes, readable by its owner alone.
pub(crate) fn kubeconfig(config: &Config) -> Result<PathBuf> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    let authority = config
        .root_cert
        .as_ref()
        .and_then(|certificates| certificates.first())
        .context("the cluster's kubeconfig has no certificate authority")?;
    let token = config
        .auth_info
        .token
        .as_ref()
        .context("only an identity with a token can be written down")?;
    let content = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": {
            "server": config.cluster_url.to_string(),
            "certificate-authority-data": objects::base64(objects::pem("CERTIFICATE", authority)),
        }}],
        "users": [{"name": "test", "user": {"token": token.expose_secret()}}],
    });
    let path = checkout::scratch("kubeconfigs")?.join(name::unique("kubeconfig"));
    // a file of that name can only be left over from an earlier process with the same id
    let _ = std::fs::remove_file(&path);
    let mut file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    serde_json::to_writer(&mut file, &content)?;
    file.flush()?;
    Ok(path)
}
