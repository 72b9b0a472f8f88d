//! A fake of Amazon's ECR and STS, whose tokens live as briefly as a test wants. The simulated AWS that other tests use
//! hands out one token that never changes.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::json;

use crate::objects::base64;
use crate::plain::{self, Served};
use crate::{canary, must};

/// The account whose registry it is.
pub const ACCOUNT: &str = "123456789012";

/// The account's registry, as an image names it.
pub const HOST: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";

/// Who shows a token to the registry.
pub const USERNAME: &str = "AWS";

/// The access key of the session that every role is taken on with.
pub const ROLE_KEY: &str = "ASIAIOSFODNN7EXAMPLE";

/// A running fake; it ends when it is dropped.
pub struct FakeEcr {
    served: Served,
    state: Arc<Mutex<Cloud>>,
}

#[derive(Default)]
struct Cloud {
    life: Duration,
    issued: Vec<Token>,
    identities: Vec<String>,
    revoked: BTreeSet<String>,
}

struct Token {
    text: String,
    /// The access key that it was issued for.
    key: String,
    end: Timestamp,
}

impl FakeEcr {
    /// Listens there; its tokens live so long.
    pub async fn start(listen: SocketAddr, life: Duration) -> Self {
        must(start(listen, life).await)
    }

    /// Where it takes calls, for `AWS_ENDPOINT_URL`.
    pub fn url(&self) -> String {
        format!("http://{}", self.served.address)
    }

    /// The tokens that were issued so far, the oldest first.
    pub fn issued(&self) -> Vec<String> {
        self.tokens(|_| true)
    }

    /// Those of them that were issued for an access key.
    pub fn issued_for(&self, access_key_id: &str) -> Vec<String> {
        self.tokens(|token| token.key == access_key_id)
    }

    fn tokens(&self, is_wanted: impl Fn(&Token) -> bool) -> Vec<String> {
        let cloud = lock(&self.state);
        let wanted = cloud.issued.iter().filter(|token| is_wanted(token));
        wanted.map(|token| token.text.clone()).collect()
    }

    /// Whether a token was issued and has not ended.
    pub fn is_live(&self, token: &str) -> bool {
        !self.left(token).is_zero()
    }

    /// How long a token goes on living; nothing where it has ended or was never issued.
    pub fn left(&self, token: &str) -> Duration {
        let cloud = lock(&self.state);
        let issued = cloud.issued.iter().find(|issued| issued.text == token);
        let left = issued.map(|issued| issued.end.duration_since(Timestamp::now()));
        left.and_then(|left| left.try_into().ok())
            .unwrap_or_default()
    }

    /// The tokens of service accounts by which a role was taken on.
    pub fn identities(&self) -> Vec<String> {
        lock(&self.state).identities.clone()
    }

    /// From now on an access key is refused. Its tokens live on, as at Amazon.
    pub fn revoke(&self, access_key_id: &str) {
        lock(&self.state).revoked.insert(access_key_id.to_owned());
    }

    /// From now on it is accepted again.
    pub fn reinstate(&self, access_key_id: &str) {
        lock(&self.state).revoked.remove(access_key_id);
    }
}

fn lock(state: &Mutex<Cloud>) -> MutexGuard<'_, Cloud> {
    // each change is one statement
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn start(listen: SocketAddr, life: Duration) -> Result<FakeEcr> {
    let state = Arc::new(Mutex::new(Cloud {
        life,
        ..Cloud::default()
    }));
    let router = Router::new()
        .route("/", post(answer))
        .with_state(Arc::clone(&state));
    let served = plain::serve(listen, |_| router).await?;
    Ok(FakeEcr { served, state })
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
        Some("AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken") => {
            cloud.token(access_key_id(&headers))
        }
        Some(other) => (StatusCode::NOT_FOUND, format!("{other} is not faked")).into_response(),
        None => cloud.role(&body),
    }
}

/// Whose signature it is: `AWS4-HMAC-SHA256 Credential=<access key id>/<date>/…`. What it signs is not looked at.
fn access_key_id(headers: &HeaderMap) -> &str {
    let signature = headers.get(AUTHORIZATION);
    let signature = signature.and_then(|signature| signature.to_str().ok());
    let scope = signature.and_then(|signature| signature.split_once("Credential="));
    scope
        .and_then(|(_, scope)| scope.split('/').next())
        .unwrap_or_default()
}

impl Cloud {
    fn token(&mut self, key: &str) -> Response {
        let as_json = [(CONTENT_TYPE, "application/x-amz-json-1.1")];
        if key.is_empty() || self.revoked.contains(key) {
            let refusal = json!({
                "__type": "UnrecognizedClientException",
                "message": "The security token included in the request is invalid.",
            });
            return (StatusCode::BAD_REQUEST, as_json, refusal.to_string()).into_response();
        }
        let token = canary::password();
        let end = Timestamp::now() + self.life;
        self.issued.push(Token {
            text: token.clone(),
            key: key.to_owned(),
            end,
        });
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
             <AccessKeyId>{ROLE_KEY}</AccessKeyId><SecretAccessKey>fake</SecretAccessKey>\
             <SessionToken>fake</SessionToken><Expiration>{end:.0}</Expiration></Credentials>\
             <AssumedRoleUser><AssumedRoleId>AROA:pullpass</AssumedRoleId>\
             <Arn>arn:aws:sts::{ACCOUNT}:assumed-role/puller/pullpass</Arn></AssumedRoleUser>\
             </AssumeRoleWithWebIdentityResult><ResponseMetadata><RequestId>0</RequestId></ResponseMetadata>\
             </AssumeRoleWithWebIdentityResponse>"
        );
        ([(CONTENT_TYPE, "text/xml")], text).into_response()
    }
}
