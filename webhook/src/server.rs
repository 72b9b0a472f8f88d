//! The TLS server: bounds on everything that a client can draw out, and an end that finishes what is in flight.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum_server::Handle;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use pullpass_certs::{ServingCertResolver, server_config};
use tokio_util::sync::CancellationToken;

use crate::limit::ConnectionLimit;

/// A TLS handshake takes two round trips and a signature.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// Who opens a connection has something to ask.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// The API server keeps idle connections for 90 s (`IdleConnTimeout` of client-go's transport). It has to be the one
/// that closes them, or a request of its own would now and then meet a connection that is being closed. hyper counts
/// this from the end of one request to the end of the next one's header.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// What the buffer of a connection may grow to; hyper's own bound is six times as much, which a thousand connections
/// would make too much of.
const CONNECTION_BUFFER: usize = 64 * 1024;

/// How long requests in flight have at the end. Longer than the longest that is kept waiting.
const DRAIN: Duration = Duration::from_secs(10);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be had.
    #[error("cannot listen on {address} for admission reviews")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
}

/// Opens the port; 0 means any free one. Returns the address it got, and the future that serves until `stop` is
/// cancelled and what was in flight then is answered. Has to be called within a Tokio runtime.
///
/// # Errors
/// The address cannot be had, or TLS cannot be set up.
pub fn bind(
    address: SocketAddr,
    router: Router,
    certificate: Arc<ServingCertResolver>,
    limit: ConnectionLimit,
    stop: CancellationToken,
) -> Result<(SocketAddr, impl Future<Output = io::Result<()>> + Send), ServerError> {
    let tls = RustlsConfig::from_config(Arc::new(server_config(certificate)?));
    let unavailable = |source| ServerError::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(unavailable)?;
    let bound = listener.local_addr().map_err(unavailable)?;
    let handle = Handle::new();
    let mut server = axum_server::from_tcp(listener)
        .map_err(unavailable)?
        .http1_only()
        .handle(handle.clone())
        .first_request_timeout(FIRST_REQUEST_TIMEOUT)
        .accept_error_handler(|peer, error| {
            tracing::debug!(?peer, %error, "connection not accepted");
        })
        .acceptor(
            RustlsAcceptor::new(tls)
                .handshake_timeout(HANDSHAKE_TIMEOUT)
                .acceptor(limit),
        );
    server
        .http_builder()
        .http1()
        .header_read_timeout(IDLE_TIMEOUT)
        .max_buf_size(CONNECTION_BUFFER);
    Ok((bound, async move {
        let serving = server.serve(router.into_make_service());
        let stopping = async {
            stop.cancelled().await;
            handle.graceful_shutdown(Some(DRAIN));
            // the server ends by itself when the last request is answered
            std::future::pending::<io::Result<()>>().await
        };
        tokio::select! {
            served = serving => served,
            never = stopping => never,
        }
    }))
}
