//! The servers that are compared, both over the webhook's own TLS server.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse as _;
use axum::routing::post;
use bytes::Bytes;
use pullpass_certs::ServingCertResolver;
use pullpass_core::reason::Reason;
use pullpass_webhook::answer::Answer;
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
    /// The same patch to everything: what the API server's work with a patch costs.
    Patch,
}

impl Handler {
    /// In tables, and on the command line.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pullpass => "pullpass",
            Self::Null => "null",
            Self::Patch => "patch",
        }
    }

    /// Whether its answer changes the pod.
    pub(crate) fn injects(self) -> bool {
        match self {
            Self::Pullpass | Self::Patch => true,
            Self::Null => false,
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
        Handler::Null => (constant(unchanged), unused_metrics()?),
        Handler::Patch => (constant(patched), unused_metrics()?),
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

fn unused_metrics() -> Result<Metrics> {
    Ok(Metrics::new(&prometheus::Registry::new())?)
}

/// Answers that are the same but for the uid, without which an API server does not take them. It stands where the API server
/// always writes it, so that nothing is parsed.
fn constant(answer: fn(&str) -> Option<Vec<u8>>) -> Router {
    let respond = move |body: Bytes| async move {
        match uid(&body).and_then(answer) {
            Some(answer) => ([(CONTENT_TYPE, "application/json")], answer).into_response(),
            None => StatusCode::BAD_REQUEST.into_response(),
        }
    };
    Router::new().route(http::PATH, post(respond))
}

fn unchanged(uid: &str) -> Option<Vec<u8>> {
    let answer = [
        r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":""#,
        uid,
        r#"","allowed":true}}"#,
    ];
    Some(answer.concat().into_bytes())
}

fn patched(uid: &str) -> Option<Vec<u8>> {
    let answer = Answer {
        names: vec![decision::PULL_SECRET.to_owned()],
        has_list: false,
        reason: Reason::Injected,
    };
    answer.to_json(uid).ok()
}

fn uid(body: &[u8]) -> Option<&str> {
    const BEFORE: &[u8] =
        br#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":""#;
    let rest = body.strip_prefix(BEFORE)?;
    let uid = rest.split(|&byte| byte == b'"').next()?;
    std::str::from_utf8(uid).ok()
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
            assert_eq!(uid(&body), Some(expected));
        }
        assert_eq!(uid(b"{}"), None);
    }
}
