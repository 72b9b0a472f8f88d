//! The admin server: `/metrics`, `/livez` and `/readyz` over plain HTTP on a port of its own.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum_server::Handle;
use axum_server::accept::DefaultAcceptor;
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

use crate::limit::LimitedAcceptor;
use crate::metrics;
use crate::readiness::{Liveness, Readiness};

/// Kubelet's probes give up after a second or a few; a scraper sends its header at once.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// One kubelet and a few scrapers. Everybody else can wait.
const CONNECTIONS: usize = 64;

/// Every answer is ready at once, so that whoever is still reading then does not mean to end.
const DRAIN: Duration = Duration::from_secs(1);

/// What the endpoints report.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Shown at `/metrics`.
    pub registry: Registry,
    /// Shown at `/readyz`: 200, or 503 with what is awaited.
    pub readiness: Readiness,
    /// Shown at `/livez`: 200, or 503 with what has failed.
    pub liveness: Liveness,
}

/// The endpoints, to be served or to be called directly.
#[must_use = "a router does nothing until it is served"]
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/metrics", get(show_metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(admin)
}

/// Opens the port; 0 means any free one. Returns the address it got, and the future that serves until `stop`
/// is cancelled. Has to be called within a Tokio runtime.
///
/// # Errors
/// The address cannot be had.
pub fn bind(
    address: SocketAddr,
    admin: Admin,
    stop: CancellationToken,
) -> io::Result<(SocketAddr, impl Future<Output = io::Result<()>> + Send)> {
    let listener = TcpListener::bind(address)?;
    let bound = listener.local_addr()?;
    let handle = Handle::new();
    let mut server = axum_server::from_tcp(listener)?
        .http1_only()
        .handle(handle.clone())
        .first_request_timeout(HEADER_TIMEOUT)
        .acceptor(LimitedAcceptor::new(DefaultAcceptor::new(), CONNECTIONS));
    server
        .http_builder()
        .http1()
        .header_read_timeout(HEADER_TIMEOUT);
    let service = router(admin).into_make_service();
    Ok((bound, async move {
        let serving = server.serve(service);
        let stopping = async {
            stop.cancelled().await;
            handle.graceful_shutdown(Some(DRAIN));
            std::future::pending::<()>().await;
        };
        tokio::select! {
            served = serving => served,
            () = stopping => Ok(()),
        }
    }))
}

async fn show_metrics(State(admin): State<Admin>) -> Response {
    match metrics::encode(&admin.registry) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn livez(State(admin): State<Admin>) -> Response {
    match admin.liveness.check() {
        Ok(()) => "ok\n".into_response(),
        Err(failures) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{}\n", failures.join("\n")),
        )
            .into_response(),
    }
}

async fn readyz(State(admin): State<Admin>) -> Response {
    match admin.readiness.check() {
        Ok(()) => "ok\n".into_response(),
        Err(unready) => (StatusCode::SERVICE_UNAVAILABLE, format!("{unready}\n")).into_response(),
    }
}
