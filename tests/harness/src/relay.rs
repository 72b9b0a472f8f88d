//! The images of the cluster's registry, which lets no stranger in, for fakes that stand in front of it.

use anyhow::{Context as _, Result};
use axum::body::Body;
use axum::http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderValue, Method};
use axum::response::Response;

use crate::registry::{ImageRegistry, User};
use crate::{cluster, must};

/// What a client has to be told about an image besides the image.
const DIGEST: &str = "docker-content-digest";

/// Hands requests on to the cluster's registry, as its first user.
#[derive(Clone, Debug)]
pub(crate) struct Relay {
    client: reqwest::Client,
    registry: String,
    user: User,
}

impl Relay {
    /// To this registry.
    pub(crate) fn to(registry: &ImageRegistry) -> Self {
        must(Self::new(registry))
    }

    fn new(registry: &ImageRegistry) -> Result<Self> {
        cluster::use_one_crypto_provider();
        let authority = registry
            .authority()
            .context("the registry has no authority")?;
        let authority = reqwest::Certificate::from_pem(&std::fs::read(authority)?)?;
        Ok(Self {
            client: reqwest::Client::builder()
                .tls_certs_only([authority])
                .build()?,
            registry: registry.host().to_owned(),
            user: registry.first_user().clone(),
        })
    }

    /// Asks for what lies under a path, in a form that the client accepts.
    pub(crate) async fn fetch(
        &self,
        method: Method,
        path: &str,
        accept: Option<&HeaderValue>,
    ) -> Response {
        must(self.ask(method, path, accept).await)
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        accept: Option<&HeaderValue>,
    ) -> Result<Response> {
        let anything = HeaderValue::from_static("*/*");
        let given = self
            .client
            .request(method, format!("https://{}{path}", self.registry))
            .basic_auth(&self.user.name, Some(&self.user.password))
            .header(ACCEPT, accept.unwrap_or(&anything))
            .send()
            .await?;
        let mut answer = Response::builder().status(given.status());
        for name in [CONTENT_TYPE.as_str(), CONTENT_LENGTH.as_str(), DIGEST] {
            if let Some(value) = given.headers().get(name) {
                answer = answer.header(name, value);
            }
        }
        Ok(answer.body(Body::from(given.bytes().await?))?)
    }
}
