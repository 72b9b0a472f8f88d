//! A scripted registry and its token service: they answer in whatever bytes a test wants, and note what they are sent.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::connection::Authorities;

/// What a server answers to a request.
pub(super) enum Reply {
    /// These bytes, and then the end of the connection.
    Bytes(Vec<u8>),
    /// These bytes, and then nothing for as long as the client waits, which takes no time.
    Silence(Vec<u8>),
}

/// An HTTP answer with a length.
pub(super) fn reply(status: &str, fields: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A request, as far as scripts look at it.
pub(super) struct Request {
    /// Method, target and fields, and a form.
    text: String,
}

impl Request {
    pub(super) fn is(&self, start: &str) -> bool {
        self.text.starts_with(start)
    }

    pub(super) fn holds(&self, text: &str) -> bool {
        self.text.contains(text)
    }

    pub(super) fn is_authorized(&self) -> bool {
        self.text.to_ascii_lowercase().contains("\nauthorization:")
    }
}

/// Where a server listens, and what it was sent.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Serves over TLS if there is an acceptor.
    pub(super) async fn start(
        host: IpAddr,
        tls: Option<TlsAcceptor>,
        script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            requests: Arc::default(),
        };
        let (requests, script) = (Arc::clone(&server.requests), Arc::new(script));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (requests, script) = (Arc::clone(&requests), Arc::clone(&script));
                let tls = tls.clone();
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => {
                            // a handshake that fails is the client's refusal
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &requests, &*script).await;
                            }
                        }
                        None => serve(stream, &requests, &*script).await,
                    }
                });
            }
        });
        server
    }

    /// Whether any request held the text.
    pub(super) fn was_sent(&self, text: &str) -> bool {
        let requests = self.requests.lock().unwrap();
        requests.iter().any(|request| request.holds(text))
    }

    /// How many requests came.
    pub(super) fn requests(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    requests: &Mutex<Vec<Request>>,
    script: &(dyn Fn(&Request) -> Reply + Sync),
) {
    let Some(request) = read(&mut stream).await else {
        // as a server of plain HTTP says to a client that speaks TLS
        let _ = stream.write_all(&reply("400 Bad Request", "", "")).await;
        return;
    };
    let answer = script(&request);
    requests.lock().unwrap().push(request);
    let (bytes, is_silent) = match answer {
        Reply::Bytes(bytes) => (bytes, false),
        Reply::Silence(bytes) => (bytes, true),
    };
    // the client may have heard enough
    let _ = stream.write_all(&bytes).await;
    let _ = stream.flush().await;
    if is_silent {
        // from here on nothing happens but the client's clock
        tokio::time::pause();
        std::future::pending::<()>().await;
    }
    let _ = stream.shutdown().await;
}

/// A request; `None` if it is none of HTTP.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Request> {
    let mut bytes = Vec::new();
    loop {
        if bytes.first().is_some_and(u8::is_ascii_control) {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_ascii_lowercase()
                        .strip_prefix("content-length: ")?
                        .parse()
                        .ok()
                })
                .unwrap_or(0);
            if body.len() >= length {
                return Some(Request { text });
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

static AUTHORITIES: AtomicUsize = AtomicUsize::new(0);

/// An authority and what it signs.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(super) fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        // another authority of the same name would be another mistake
        let name = format!("authority {}", AUTHORITIES.fetch_add(1, Ordering::Relaxed));
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(parameters, key).unwrap())
    }

    pub(super) fn trust(&self) -> Authorities {
        Authorities::parse(self.0.pem().as_bytes()).unwrap()
    }

    /// A server with a certificate for these names and addresses, with changes.
    pub(super) fn server(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> TlsAcceptor {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        change(&mut parameters);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.0).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from(certificate.der().to_vec())],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// The authority that tests trust.
pub(super) static TRUSTED: LazyLock<Authority> = LazyLock::new(Authority::new);

/// A server under it, by each name that the tests use.
pub(super) static GOOD: LazyLock<TlsAcceptor> = LazyLock::new(|| {
    let names = [
        "registry.test",
        "auth.test",
        "elsewhere.test",
        "localhost",
        "127.0.0.1",
        "127.0.0.2",
    ];
    TRUSTED.server(&names, |_| {})
});
