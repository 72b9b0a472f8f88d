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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{PATH, router};
    use crate::metrics::Metrics;
    use crate::state::State;
    use crate::state::namespaces::SecretState;
    use crate::state::sample::{
        NAMESPACE, captured, decider, deliver, listed, make, registry, settled,
    };
    use axum::body::Body;
    use axum::http::{Request, StatusCode, header};
    use futures::{StreamExt as _, stream};
    use http_body_util::BodyExt as _;
    use hyper::client::conn::http1::{self, SendRequest};
    use hyper_util::rt::TokioIo;
    use jiff::{SignedDuration, Timestamp};
    use pullpass_certs::issue::{issue_authority, issue_serving};
    use pullpass_certs::{Issued, ServingIdentity, Validity};
    use rustls::pki_types::ServerName;
    use std::collections::BTreeSet;
    use std::convert::Infallible;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::task::JoinHandle;
    use tokio::time::timeout;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;

    const NAME: &str = "pullpass-webhook.pullpass-system.svc";

    /// Far beyond every bound of the server.
    const PATIENCE: Duration = Duration::from_secs(30);

    struct Server {
        address: SocketAddr,
        authority: Issued,
        certificate: Arc<ServingCertResolver>,
        metrics: Metrics,
        stop: CancellationToken,
        serving: JoinHandle<io::Result<()>>,
    }

    fn day() -> Validity {
        let hour = SignedDuration::from_hours(1);
        Validity::lasting(Timestamp::now(), hour * 24, hour)
    }

    impl Server {
        fn start(state: &Arc<State>, connections: usize) -> Self {
            let authority = issue_authority(day()).unwrap();
            let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
            let certificate = ServingCertResolver::empty();
            let stop = CancellationToken::new();
            let (address, serving) = bind(
                "127.0.0.1:0".parse().unwrap(),
                router(decider(state)),
                Arc::clone(&certificate),
                ConnectionLimit::new(connections, metrics.clone()),
                stop.clone(),
            )
            .unwrap();
            let server = Self {
                address,
                authority,
                certificate,
                metrics,
                stop,
                serving: tokio::spawn(serving),
            };
            server.renew();
            server
        }

        fn renew(&self) {
            let names = BTreeSet::from([NAME.to_owned()]);
            let Issued { certificate, key } = &self.authority;
            let leaf = issue_serving(certificate, key, &names, day()).unwrap();
            let chain = leaf.certificate.pem();
            let identity =
                ServingIdentity::from_pem(chain.as_bytes(), leaf.key.expose_pem().as_bytes());
            self.certificate.replace(identity.unwrap());
        }

        async fn tls(&self) -> io::Result<TlsStream<TcpStream>> {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(self.authority.certificate.der().clone()).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let config = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            let stream = TcpStream::connect(self.address).await?;
            TlsConnector::from(Arc::new(config))
                .connect(ServerName::try_from(NAME).unwrap(), stream)
                .await
        }

        async fn connect(&self) -> SendRequest<Body> {
            let stream = TokioIo::new(self.tls().await.unwrap());
            let (sender, connection) = http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            sender
        }
    }

    fn review(body: impl Into<Body>) -> Request<Body> {
        Request::post(PATH)
            .header(header::HOST, NAME)
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.into())
            .unwrap()
    }

    async fn send(
        sender: &mut SendRequest<Body>,
        request: Request<Body>,
    ) -> hyper::Result<(StatusCode, String)> {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8(body.to_vec()).unwrap()))
    }

    async fn assert_answered(sender: &mut SendRequest<Body>) {
        let (status, body) = send(sender, review(captured("small"))).await.unwrap();
        assert_eq!(status, StatusCode::OK);
        assert!(body.contains(r#""reason":"Injected""#), "{body}");
    }

    /// Resolves when the server has closed the connection.
    async fn closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
        let mut rest = Vec::new();
        let read = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        // with an alert, a reset, or without a word
        let _ = read.expect("still open");
    }

    #[tokio::test]
    async fn one_connection_serves_many_reviews() {
        let server = Server::start(&settled(), 8);
        let mut sender = server.connect().await;
        for _ in 0..3 {
            assert_answered(&mut sender).await;
        }
        assert_eq!(server.metrics.connections.get(), 1);
    }

    #[tokio::test]
    async fn the_certificate_is_swapped_under_a_running_connection() {
        let server = Server::start(&settled(), 8);
        let leaf = |stream: &TlsStream<TcpStream>| {
            stream.get_ref().1.peer_certificates().unwrap()[0].clone()
        };
        let before = leaf(&server.tls().await.unwrap());
        let mut sender = server.connect().await;
        assert_answered(&mut sender).await;
        server.renew();
        assert_answered(&mut sender).await;
        assert_ne!(leaf(&server.tls().await.unwrap()), before);
    }

    #[tokio::test]
    async fn without_a_certificate_there_is_no_handshake() {
        let mut server = Server::start(&settled(), 8);
        server.stop.cancel();
        let (address, serving) = bind(
            "127.0.0.1:0".parse().unwrap(),
            router(decider(&settled())),
            ServingCertResolver::empty(),
            ConnectionLimit::new(8, server.metrics.clone()),
            CancellationToken::new(),
        )
        .unwrap();
        tokio::spawn(serving);
        server.address = address;
        assert!(server.tls().await.is_err());
    }

    #[tokio::test]
    async fn a_taken_port_is_told() {
        let server = Server::start(&settled(), 8);
        let again = bind(
            server.address,
            router(decider(&settled())),
            ServingCertResolver::empty(),
            ConnectionLimit::new(8, server.metrics.clone()),
            CancellationToken::new(),
        );
        let Err(error) = again else {
            panic!("two servers on one port")
        };
        assert!(error.to_string().contains(&server.address.to_string()));
    }

    #[tokio::test]
    async fn who_says_nothing_is_not_waited_for() {
        let server = Server::start(&settled(), 8);
        let mut no_handshake = TcpStream::connect(server.address).await.unwrap();
        let mut no_request = server.tls().await.unwrap();
        let mut half_a_header = server.tls().await.unwrap();
        half_a_header
            .write_all(b"POST /inject HTTP/1.1\r\nHost: ")
            .await
            .unwrap();
        half_a_header.flush().await.unwrap();
        tokio::join!(
            closed(&mut no_handshake),
            closed(&mut no_request),
            closed(&mut half_a_header)
        );
        assert_answered(&mut server.connect().await).await;
    }

    #[tokio::test]
    async fn bodies_that_do_not_end_are_cut_off() {
        let server = Server::start(&settled(), 8);
        let endless = stream::repeat_with(|| Ok::<_, Infallible>(vec![b' '; 1 << 16]));
        let mut sender = server.connect().await;
        // the server may close before all of its answer is read, since more is still being sent
        if let Ok((status, _)) = send(&mut sender, review(Body::from_stream(endless))).await {
            assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
        }
        let stalled = stream::iter([Ok::<_, Infallible>("{")]).chain(stream::pending());
        let mut sender = server.connect().await;
        let answered = timeout(
            PATIENCE,
            send(&mut sender, review(Body::from_stream(stalled))),
        )
        .await;
        assert_eq!(answered.unwrap().unwrap().0, StatusCode::REQUEST_TIMEOUT);
        assert_answered(&mut server.connect().await).await;
    }

    #[tokio::test]
    async fn a_promised_length_beyond_the_limit_is_refused_before_it_is_sent() {
        let server = Server::start(&settled(), 8);
        let mut stream = server.tls().await.unwrap();
        let head = "POST /inject HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99999999\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let mut start = [0; 12];
        timeout(PATIENCE, stream.read_exact(&mut start))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&start, b"HTTP/1.1 413");
    }

    #[tokio::test]
    async fn a_flood_of_idle_connections_gives_way_to_who_asks() {
        let server = Server::start(&settled(), 4);
        let mut regular = server.connect().await;
        assert_answered(&mut regular).await;
        let mut flood = Vec::new();
        for _ in 0..40 {
            flood.push(TcpStream::connect(server.address).await.unwrap());
        }
        assert_answered(&mut server.connect().await).await;
        assert_answered(&mut regular).await;
        assert!(server.metrics.displaced.get() >= 36);
        for stream in flood.iter_mut().take(30) {
            closed(stream).await;
        }
        assert!(server.metrics.connections.get() <= 4);
    }

    #[tokio::test]
    async fn what_is_in_flight_is_answered_at_the_end() {
        let state = listed([registry("acme", &["*"])]);
        make(&state, &[]);
        let server = Server::start(&state, 8);
        let mut idle = server.tls().await.unwrap();
        let mut sender = server.connect().await;
        let asked = tokio::spawn(async move { send(&mut sender, review(captured("small"))).await });
        let waiting = async {
            while !state.namespaces.is_waited_for(NAMESPACE) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap();
        server.stop.cancel();
        closed(&mut idle).await;
        deliver(&state, SecretState::Written);
        let (status, body) = asked.await.unwrap().unwrap();
        assert_eq!(status, StatusCode::OK);
        assert!(body.contains("patchType"), "{body}");
        timeout(PATIENCE, server.serving)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert!(TcpStream::connect(server.address).await.is_err());
    }
}
