//! The servers that are compared, both over the webhook's own TLS server.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use pullpass_certs::ServingCertResolver;
use pullpass_webhook::{ConnectionLimit, Metrics, http, server};
use tokio_util::sync::CancellationToken;

use crate::decision;
use crate::tls::serving_identity;

/// What answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Handler {
    /// Pullpass.
    Pullpass,
    /// The same answer to everything: what a request costs before anything is done about it.
    Null,
}

impl Handler {
    /// In tables, and on the command line.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pullpass => "pullpass",
            Self::Null => "null",
        }
    }
}

/// Serves until it is killed, with as many threads as the webhook would start here.
pub(crate) fn serve(handler: Handler, address: SocketAddr, certificates: &Path) -> Result<()> {
    let certificate = ServingCertResolver::empty();
    certificate.replace(serving_identity(certificates)?);
    let (router, metrics) = match handler {
        Handler::Pullpass => {
            let (decider, metrics) = decision::decider()?;
            (http::router(decider), metrics)
        }
        Handler::Null => (
            Router::new().route(http::PATH, post(answer)),
            Metrics::new(&prometheus::Registry::new())?,
        ),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let limit = ConnectionLimit::new(1024, metrics);
        let stop = CancellationToken::new();
        let (_, serving) = server::bind(address, router, certificate, limit, stop)?;
        Ok(serving.await?)
    })
}

/// Constant but for the uid, without which an API server does not take an answer. It stands where the API server
/// always writes it, so that nothing is parsed.
async fn answer(body: Bytes) -> Response {
    match uid(&body) {
        Some(uid) => {
            let answer = [
                br#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":""#,
                uid,
                br#"","allowed":true}}"#,
            ]
            .concat();
            ([(CONTENT_TYPE, "application/json")], answer).into_response()
        }
        None => StatusCode::BAD_REQUEST.into_response(),
    }
}

fn uid(body: &[u8]) -> Option<&[u8]> {
    const BEFORE: &[u8] =
        br#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":""#;
    body.strip_prefix(BEFORE)?
        .split(|&byte| byte == b'"')
        .next()
}

/// An address that is free at the moment.
pub(crate) fn free_address() -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).context("no free port")?;
    Ok(listener.local_addr()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reviews::Size;

    #[test]
    fn the_uid_is_found_in_every_captured_review() {
        for size in Size::ALL {
            let body = size.read().unwrap();
            let review: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let expected = review["request"]["uid"].as_str().unwrap();
            assert_eq!(uid(&body), Some(expected.as_bytes()));
        }
        assert_eq!(uid(b"{}"), None);
    }
}
