//! A fake of Amazon's ECR and STS, whose tokens live as briefly as a test wants. The simulated AWS that other tests use
//! hands out one token that never changes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::objects::base64;
use crate::{must, name};

/// The account whose registry it is.
pub const ACCOUNT: &str = "123456789012";

/// The account's registry, as an image names it.
pub const HOST: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";

/// Who shows a token to the registry.
pub const USERNAME: &str = "AWS";

/// A running fake; it ends when it is dropped.
pub struct FakeEcr {
    address: SocketAddr,
    state: Arc<Mutex<Cloud>>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct Cloud {
    life: Duration,
    issued: Vec<(String, Timestamp)>,
    identities: Vec<String>,
    is_key_active: bool,
}

impl Drop for FakeEcr {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl FakeEcr {
    /// Listens there; its tokens live so long.
    pub async fn start(listen: SocketAddr, life: Duration) -> Self {
        must(start(listen, life).await)
    }

    /// Where it takes calls, for `AWS_ENDPOINT_URL`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The tokens that were issued so far, the oldest first.
    pub fn issued(&self) -> Vec<String> {
        let cloud = lock(&self.state);
        cloud
            .issued
            .iter()
            .map(|(token, _)| token.clone())
            .collect()
    }

    /// Whether a token was issued and has not ended.
    pub fn is_live(&self, token: &str) -> bool {
        let now = Timestamp::now();
        let cloud = lock(&self.state);
        cloud
            .issued
            .iter()
            .any(|(issued, end)| issued == token && *end > now)
    }

    /// The tokens of service accounts by which a role was taken on.
    pub fn identities(&self) -> Vec<String> {
        lock(&self.state).identities.clone()
    }

    /// From now on the access key is refused, or is accepted again. Tokens live on, as at Amazon.
    pub fn set_key_active(&self, is_active: bool) {
        lock(&self.state).is_key_active = is_active;
    }
}

fn lock(state: &Mutex<Cloud>) -> MutexGuard<'_, Cloud> {
    // each change is one statement
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn start(listen: SocketAddr, life: Duration) -> Result<FakeEcr> {
    let state = Arc::new(Mutex::new(Cloud {
        life,
        is_key_active: true,
        ..Cloud::default()
    }));
    let router = Router::new()
        .route("/", post(answer))
        .with_state(Arc::clone(&state));
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("the fake ECR cannot listen on {listen}"))?;
    let address = listener.local_addr()?;
    let serving = tokio::spawn(async move {
        // it serves until it is aborted
        let _ = axum::serve(listener, router).await;
    });
    Ok(FakeEcr {
        address,
        state,
        serving,
    })
}

async fn answer(
    State(state): State<Arc<Mutex<Cloud>>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let target = headers.get("x-amz-target");
    let target = target.and_then(|target| target.to_str().ok());
    let mut cloud = lock(&state);
    match target {
        Some("AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken") => cloud.token(),
        Some(other) => (StatusCode::NOT_FOUND, format!("{other} is not faked")).into_response(),
        None => cloud.role(&body),
    }
}

impl Cloud {
    fn token(&mut self) -> Response {
        let as_json = [(CONTENT_TYPE, "application/x-amz-json-1.1")];
        if !self.is_key_active {
            let refusal = json!({
                "__type": "UnrecognizedClientException",
                "message": "The security token included in the request is invalid.",
            });
            return (StatusCode::BAD_REQUEST, as_json, refusal.to_string()).into_response();
        }
        let token = name::unique("token");
        let end = Timestamp::now() + self.life;
        self.issued.push((token.clone(), end));
        let data = json!({"authorizationData": [{
            "authorizationToken": base64(format!("{USERNAME}:{token}")),
            "expiresAt": end.as_second(),
            "proxyEndpoint": format!("https://{HOST}"),
        }]});
        (as_json, data.to_string()).into_response()
    }

    /// `AssumeRoleWithWebIdentity`, which the SDK sends as a form.
    fn role(&mut self, form: &[u8]) -> Response {
        let form = String::from_utf8_lossy(form);
        let field = |name: &str| {
            let mut fields = form.split('&').filter_map(|field| field.split_once('='));
            fields
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.to_owned())
        };
        let Some(identity) = field("WebIdentityToken") else {
            return (StatusCode::BAD_REQUEST, "not faked").into_response();
        };
        self.identities.push(identity);
        let end = Timestamp::now() + Duration::from_secs(3600);
        let text = format!(
            "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
             <AssumeRoleWithWebIdentityResult><Credentials>\
             <AccessKeyId>ASIAIOSFODNN7EXAMPLE</AccessKeyId><SecretAccessKey>fake</SecretAccessKey>\
             <SessionToken>fake</SessionToken><Expiration>{end:.0}</Expiration></Credentials>\
             <AssumedRoleUser><AssumedRoleId>AROA:pullpass</AssumedRoleId>\
             <Arn>arn:aws:sts::{ACCOUNT}:assumed-role/puller/pullpass</Arn></AssumedRoleUser>\
             </AssumeRoleWithWebIdentityResult><ResponseMetadata><RequestId>0</RequestId></ResponseMetadata>\
             </AssumeRoleWithWebIdentityResponse>"
        );
        ([(CONTENT_TYPE, "text/xml")], text).into_response()
    }
}
