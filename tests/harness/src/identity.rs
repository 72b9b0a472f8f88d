//! Clients that are somebody.

use anyhow::{Context as _, Result};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
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
    let token = token(&accounts, name, None).await?;
    Ok(bearer(administrator, token))
}

/// The configuration of a client with a real token of the account, as kubelet gives it to a pod on this node. Node, pod and
/// account are made where they are not there; nothing runs on an API server without nodes.
pub(crate) async fn pod_on_node(
    administrator: &Config,
    namespace: &str,
    account: &str,
    node: &str,
) -> Result<Config> {
    let client = Client::try_from(administrator.clone())?;
    let nodes: Api<Node> = Api::all(client.clone());
    let of_node = Node {
        metadata: named(node),
        ..Node::default()
    };
    ignore_existing(nodes.create(&PostParams::default(), &of_node).await)?;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(client, namespace);
    let name = format!("{account}-{node}");
    let pod: Pod = serde_json::from_value(serde_json::json!({
        "metadata": {"name": name},
        "spec": {
            "serviceAccountName": account,
            "nodeName": node,
            "containers": [{"name": "agent", "image": "agent"}],
        },
    }))?;
    ignore_existing(pods.create(&PostParams::default(), &pod).await)?;
    let uid = pods.get_metadata(&name).await?.metadata.uid;
    let bound = BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(name),
        uid,
    };
    let token = token(&accounts, account, Some(bound)).await?;
    Ok(bearer(administrator, token))
}

async fn token(
    accounts: &Api<ServiceAccount>,
    name: &str,
    bound_object_ref: Option<BoundObjectReference>,
) -> Result<String> {
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: Some(TOKEN_SECONDS),
            bound_object_ref,
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request(name, &PostParams::default(), &request)
        .await
        .with_context(|| format!("no token for the service account {name}"))?;
    let status = answer
        .status
        .context("the API server answered without a token")?;
    Ok(status.token)
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
