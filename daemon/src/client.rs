//! The Kubernetes client, with bounds on everything that could otherwise wait for ever.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::header::{HeaderValue, USER_AGENT};
use kube::client::Body;
use kube::client::retry::RetryPolicy;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::ServiceBuilder;
use tower::retry::RetryLayer;

use crate::deadline::{
    ANSWER_TIMEOUT, BODY_IDLE_TIMEOUT, BoundedBody, OnIdle, answer_within, is_watch,
};
use crate::error::BoxError;

/// A pod on the way to its own API server has no reason to wait longer for a TCP and TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Throttled (429) and unavailable (503, 504) answers are tried again by the client itself, a few times and
/// with `Retry-After` honoured; who called then decides with a backoff of its own. A longer row of attempts
/// would sleep on when the API server has long been back.
const RETRIES: u32 = 4;
const RETRY_MIN_DELAY: Duration = Duration::from_millis(100);
const RETRY_MAX_DELAY: Duration = Duration::from_secs(2);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Not in a pod, and no kubeconfig given.
    #[error("not running in a pod: give --kubeconfig, or run with a mounted service account token")]
    InCluster(#[source] kube::config::InClusterError),
    /// The kubeconfig cannot be used.
    #[error("cannot use kubeconfig {path}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: kube::config::KubeconfigError,
    },
    /// The component's name or version is no header value.
    #[error("{0:?} is no valid user agent")]
    UserAgent(String),
    /// TLS or credentials cannot be set up.
    #[error("cannot set up the connection to the API server")]
    Setup(#[source] kube::Error),
    /// A constant here is wrong.
    #[error("retry delays: {0}")]
    Retry(#[from] kube::client::retry::InvalidBackoff),
}

/// A client for the API server: of the pod it runs in, or of the kubeconfig's current context.
///
/// Its user agent is `pullpass-<component>/<version>`. Every request is bounded: connecting by 10 s, the wait
/// for an answer by 30 s, silence within an answer by 30 s; the length of a watch is bounded by
/// [`crate::watch`]. Has to be called within a Tokio runtime.
///
/// # Errors
/// [`ClientError`], with what to do about it.
pub async fn connect(
    component: &str,
    version: &str,
    kubeconfig: Option<&Path>,
) -> Result<Client, ClientError> {
    let config = match kubeconfig {
        None => Config::incluster().map_err(ClientError::InCluster)?,
        Some(path) => {
            let unusable = |source| ClientError::Kubeconfig {
                path: path.to_owned(),
                source,
            };
            let kubeconfig = Kubeconfig::read_from(path).map_err(unusable)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .map_err(unusable)?
        }
    };
    from_config(component, version, config)
}

/// The same from a configuration made elsewhere, such as by a test.
///
/// # Errors
/// [`ClientError`] if TLS or credentials cannot be set up.
pub fn from_config(
    component: &str,
    version: &str,
    mut config: Config,
) -> Result<Client, ClientError> {
    let agent = format!("pullpass-{component}/{version}");
    let agent = HeaderValue::from_str(&agent).map_err(|_| ClientError::UserAgent(agent))?;
    config.headers.push((USER_AGENT, agent));
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // kube's own retries double up to a quarter of an hour
    config.default_retry = false;
    bounded(&Client::try_from(config).map_err(ClientError::Setup)?)
}

/// Adds deadlines and retries to a client that has neither.
///
/// # Errors
/// [`ClientError::Retry`] if the delays above contradict each other.
fn bounded(client: &Client) -> Result<Client, ClientError> {
    let retry = RetryPolicy::new(RETRY_MIN_DELAY, RETRY_MAX_DELAY, RETRIES, true)?;
    let namespace = client.default_namespace().to_owned();
    let valid_until = *client.valid_until();
    let client = client.clone();
    let service = ServiceBuilder::new()
        .layer(RetryLayer::new(retry))
        .service_fn(move |request: http::Request<Body>| {
            let client = client.clone();
            async move {
                // silence is normal in a watch: its own bound lies in the watch
                let idle = (!is_watch(&request)).then_some((BODY_IDLE_TIMEOUT, OnIdle::Fail));
                let answer = answer_within(ANSWER_TIMEOUT, client.send(request)).await?;
                Ok::<_, BoxError>(answer.map(|body| BoundedBody::new(body, idle)))
            }
        });
    Ok(Client::new(service, namespace).with_valid_until(valid_until))
}
