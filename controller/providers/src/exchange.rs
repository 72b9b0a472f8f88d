//! One request to a cloud and its whole answer: no redirect is followed, and time and length are bounded.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, Method, StatusCode, header};
use reqwest::{Body, Request};
use serde::de::DeserializeOwned;
use url::Url;
use url::form_urlencoded::Serializer;
use zeroize::Zeroizing;

use pullpass_core::reason::Reason;

use crate::connection::{Connection, Tls, Via};
use crate::failure::Failure;
use crate::resolver::System;
use crate::{answer, client, transport};

/// A client for the services of a cloud.
#[derive(Clone)]
pub(crate) struct CloudClient {
    client: reqwest::Client,
    via: Via,
}

impl fmt::Debug for CloudClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CloudClient")
    }
}

/// What was answered.
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: StatusCode,
    /// The fields in front of the body.
    pub(crate) headers: HeaderMap,
    /// The body, which may hold a credential.
    pub(crate) body: Zeroizing<Vec<u8>>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("{failure}")]
pub(crate) struct NoAnswer {
    /// In the words that an administrator reads.
    pub(crate) failure: Failure,
    /// Whether it is worth another attempt.
    pub(crate) kind: NoAnswerKind,
}

/// What kept the answer away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoAnswerKind {
    /// There was no connection.
    NeverConnected,
    /// It took too long.
    TimedOut,
    /// It broke off.
    Broken,
    /// It does not end.
    TooLong,
}

impl From<NoAnswer> for Failure {
    fn from(error: NoAnswer) -> Self {
        error.failure
    }
}

impl CloudClient {
    /// Goes the Registry's way. `Insecure` is about the registry: a cloud has a certificate that everybody trusts.
    pub(crate) fn new(connection: &Connection) -> Result<Self, Failure> {
        let tls = match &connection.tls {
            Tls::SecureWithCa(authorities) => Tls::SecureWithCa(authorities.clone()),
            Tls::Secure | Tls::Insecure => Tls::Secure,
        };
        let via = connection.via.clone();
        Self::as_connected(&Connection { tls, via })
    }

    /// Goes straight, to the machine's own metadata: no proxy could answer for it.
    pub(crate) fn of_the_machine() -> Result<Self, Failure> {
        Self::as_connected(&Connection {
            tls: Tls::Secure,
            via: Via::Direct,
        })
    }

    /// Goes the Registry's way and trusts whom the Registry trusts: for the registry itself.
    pub(crate) fn as_connected(connection: &Connection) -> Result<Self, Failure> {
        Ok(Self {
            client: client::client(connection, Arc::new(System))?,
            via: connection.via.clone(),
        })
    }

    /// Sends a request and reads the answer to its end.
    pub(crate) async fn send(&self, request: Request) -> Result<Answer, NoAnswer> {
        let url = request.url().clone();
        let is_proxied = match &self.via {
            Via::Direct => false,
            Via::Proxies(proxies) => proxies.serve(&url),
        };
        let no_answer = |error: reqwest::Error| NoAnswer {
            failure: transport::failure(&error, &url, is_proxied),
            kind: if error.is_timeout() {
                NoAnswerKind::TimedOut
            } else if error.is_connect() {
                NoAnswerKind::NeverConnected
            } else {
                NoAnswerKind::Broken
            },
        };
        let mut response = self.client.execute(request).await.map_err(no_answer)?;
        let body = answer::body(&mut response).await.map_err(no_answer)?;
        let body = body.ok_or_else(|| NoAnswer {
            failure: Failure::new(
                Reason::CloudFailing,
                format!("{} does not end its answer", transport::name(&url)),
            ),
            kind: NoAnswerKind::TooLong,
        })?;
        Ok(Answer {
            status: response.status(),
            headers: std::mem::take(response.headers_mut()),
            body,
        })
    }

    /// Sends a form.
    pub(crate) async fn post_form(
        &self,
        url: Url,
        fields: &[(&str, &str)],
    ) -> Result<Answer, NoAnswer> {
        let form = Serializer::new(String::new()).extend_pairs(fields).finish();
        let mut request = Request::new(Method::POST, url);
        request.headers_mut().insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        *request.body_mut() = Some(Body::from(form));
        self.send(request).await
    }
}

/// An error as OAuth 2.0 has it (RFC 6749, section 5.2), with the codes that Microsoft Entra adds.
#[derive(Debug, Default, serde::Deserialize)]
pub(crate) struct OAuthError {
    /// One of a few words.
    #[serde(default)]
    pub(crate) error: String,
    /// Entra's own numbers.
    #[serde(default)]
    pub(crate) error_codes: Vec<u32>,
}

impl Answer {
    /// What a good answer holds.
    pub(crate) fn json<T: DeserializeOwned>(&self, service: &str) -> Result<T, Failure> {
        // the library's own words may repeat what is in the answer
        serde_json::from_slice(&self.body).map_err(|_| {
            Failure::new(
                Reason::CloudFailing,
                format!("{service} answered what Pullpass cannot read"),
            )
        })
    }

    /// The error that a refusal names, if it does.
    pub(crate) fn oauth_error(&self) -> OAuthError {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// What every service means by a status of this kind; `None` where the service's own meaning counts.
    pub(crate) fn common_failure(&self, service: &str) -> Option<Failure> {
        let status = self.status.as_u16();
        let failure = match status {
            429 => Failure::new(
                Reason::RateLimited,
                format!("{service} answers no more requests for now"),
            ),
            500.. => Failure::new(
                Reason::CloudFailing,
                format!("{service} fails by itself (HTTP {status})"),
            ),
            300..400 => Failure::new(
                Reason::CloudFailing,
                format!(
                    "{service} answers with a redirect (HTTP {status}), which no login is sent after; check proxies in between"
                ),
            ),
            407 => Failure::new(
                Reason::ProxyFailed,
                format!("the proxy on the way to {service} refuses its login"),
            ),
            _ => return None,
        };
        Some(Failure {
            retry_after: answer::retry_after(&self.headers, std::time::SystemTime::now()),
            ..failure
        })
    }
}
