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

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Api;
    use kube::api::WatchParams;
    use serde_json::json;
    use tokio::time::Instant;

    use super::*;
    use crate::error::chain;
    use crate::scripted::ScriptedApi;

    fn api() -> (Api<ConfigMap>, ScriptedApi) {
        let (client, api) = ScriptedApi::start();
        (Api::default_namespaced(bounded(&client).unwrap()), api)
    }

    fn object() -> serde_json::Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}})
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_requests_wait_as_long_as_the_server_says() {
        let (objects, mut api) = api();
        let asked = tokio::spawn(async move { objects.get("a").await });
        let first = Instant::now();
        api.next().await.stream(429, &[("Retry-After", "7")]);
        let second = api.next().await;
        assert_eq!(first.elapsed().as_secs(), 7);
        second.json(200, &object());
        assert_eq!(
            asked.await.unwrap().unwrap().metadata.name.as_deref(),
            Some("a")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_unavailable_server_is_reported_within_seconds() {
        let (objects, mut api) = api();
        let asked = tokio::spawn(async move { objects.get("a").await });
        let first = Instant::now();
        for _ in 0..=RETRIES {
            api.next().await.refuse(503);
        }
        let error = asked.await.unwrap().unwrap_err();
        assert!(matches!(error, kube::Error::Api(status) if status.code == 503));
        assert!(
            first.elapsed() < Duration::from_secs(10),
            "{:?}",
            first.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_an_error_after_half_a_minute() {
        let (objects, mut api) = api();
        let same = objects.clone();
        let asked = tokio::spawn(async move { same.get("a").await });
        let held = api.next().await;
        let error = chain(&asked.await.unwrap().unwrap_err());
        assert!(
            error.contains("no answer from the API server for 30 s"),
            "{error}"
        );
        drop(held);

        let asked = tokio::spawn(async move { objects.get("a").await });
        let half = api.next().await.stream(200, &[]);
        half.send("{\"apiVersion\":");
        let error = chain(&asked.await.unwrap().unwrap_err());
        assert!(error.contains("stopped half-way for 30 s"), "{error}");
        assert!(half.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_may_be_silent() {
        let (objects, mut api) = api();
        let asked = tokio::spawn(async move {
            objects
                .watch(&WatchParams::default(), "1")
                .await
                .map(Box::pin)
        });
        let stream = api.next().await.stream(200, &[]);
        let events = asked.await.unwrap().unwrap();
        tokio::time::sleep(BODY_IDLE_TIMEOUT * 5).await;
        assert!(!stream.is_closed());
        drop(events);
    }

    #[tokio::test]
    async fn the_server_is_told_who_asks() {
        let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router =
            axum::Router::new().fallback(move |request: axum::extract::Request| async move {
                sender
                    .send(request.headers()[USER_AGENT].to_str().unwrap().to_owned())
                    .unwrap();
                http::StatusCode::NOT_FOUND
            });
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        let config = Config::new(format!("http://{address}").parse().unwrap());
        let client = from_config("webhook", "1.2.3", config).unwrap();
        assert!(client.apiserver_version().await.is_err());
        assert_eq!(seen.recv().await.unwrap(), "pullpass-webhook/1.2.3");
        server.abort();
    }

    #[tokio::test]
    async fn a_kubeconfig_that_is_not_there_is_named() {
        let error = connect("x", "1", Some(Path::new("/nowhere/kubeconfig")))
            .await
            .err()
            .expect("no such file");
        assert!(
            chain(&error).contains("/nowhere/kubeconfig"),
            "{}",
            chain(&error)
        );
        let config = Config::new("http://127.0.0.1:1".parse().unwrap());
        let error = from_config("two\nlines", "1", config)
            .err()
            .expect("no header value");
        assert!(matches!(error, ClientError::UserAgent(_)));
    }
}
