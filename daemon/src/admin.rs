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

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tower::ServiceExt;

    use super::*;

    fn admin() -> Admin {
        Admin {
            registry: metrics::registry("test", "0").unwrap(),
            readiness: Readiness::new(),
            liveness: Liveness::new(),
        }
    }

    async fn get(admin: &Admin, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = router(admin.clone()).oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        (
            status,
            String::from_utf8(
                to_bytes(answer.into_body(), 1 << 20)
                    .await
                    .unwrap()
                    .to_vec(),
            )
            .unwrap(),
        )
    }

    #[tokio::test]
    async fn readiness_names_what_is_awaited() {
        let admin = admin();
        let guard = admin.readiness.register("registries");
        assert_eq!(
            get(&admin, "/readyz").await,
            (503, "awaiting: registries\n".to_owned())
        );
        drop(guard);
        assert_eq!(get(&admin, "/readyz").await, (200, "ok\n".to_owned()));
        admin.readiness.withdraw();
        assert_eq!(
            get(&admin, "/readyz").await,
            (503, "shutting down\n".to_owned())
        );
        assert_eq!(get(&admin, "/livez").await.0, 200, "not ready is not dead");
    }

    #[tokio::test]
    async fn liveness_names_what_has_failed() {
        let admin = admin();
        admin
            .liveness
            .register("watches", || Err("no answer".to_owned()));
        assert_eq!(
            get(&admin, "/livez").await,
            (503, "watches: no answer\n".to_owned())
        );
    }

    #[tokio::test]
    async fn metrics_are_told_and_nothing_else_is_there() {
        let admin = admin();
        let (status, text) = get(&admin, "/metrics").await;
        assert_eq!(status, 200);
        assert!(text.contains("pullpass_build_info"), "{text}");
        assert_eq!(get(&admin, "/").await.0, 404);
    }

    #[tokio::test]
    async fn it_serves_on_the_port_it_got_until_it_is_stopped() {
        let stop = CancellationToken::new();
        let (address, serving) =
            bind("127.0.0.1:0".parse().unwrap(), admin(), stop.clone()).unwrap();
        assert_ne!(address.port(), 0);
        let server = tokio::spawn(serving);
        let mut idle = TcpStream::connect(address).await.unwrap();
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection
            .write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        stop.cancel();
        server.await.unwrap().unwrap();
        assert_eq!(
            idle.read(&mut [0; 8]).await.unwrap_or(0),
            0,
            "an idle connection does not hold it up"
        );
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_header_that_does_not_end_is_not_waited_for() {
        let stop = CancellationToken::new();
        let (address, serving) =
            bind("127.0.0.1:0".parse().unwrap(), admin(), stop.clone()).unwrap();
        let server = tokio::spawn(serving);
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET /livez HTTP/1.1\r\nHost:")
            .await
            .unwrap();
        let mut answer = Vec::new();
        // ends only if the server hangs up
        let _ = slow.read_to_end(&mut answer).await;
        assert!(
            !answer.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
        stop.cancel();
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_an_error() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let again = bind(
            taken.local_addr().unwrap(),
            admin(),
            CancellationToken::new(),
        );
        assert_eq!(again.err().unwrap().kind(), io::ErrorKind::AddrInUse);
    }
}
