//! Fake: an HTTP server that answers as a test says, and remembers what it was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum_server::tls_rustls::RustlsConfig;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::Value;
use tokio::net::TcpListener;
use url::Url;

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// A field of a form.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        url::form_urlencoded::parse(self.body.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    }
}

type Answers = dyn Fn(&Asked) -> Response + Send + Sync;

#[derive(Clone)]
struct Server {
    answers: Arc<Answers>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Fake {
    /// Over plain HTTP.
    pub(crate) async fn start(
        answers: impl Fn(&Asked) -> Response + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (router, asked) = router(answers);
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, asked }
    }

    /// Over TLS as `name`, under an authority that nobody else knows; with that authority as PEM.
    pub(crate) async fn start_tls(
        name: &str,
        answers: impl Fn(&Asked) -> Response + Send + Sync + 'static,
    ) -> (Self, String) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer_key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&issuer_key).unwrap().pem();
        let issuer = Issuer::new(params, issuer_key);
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()])
            .unwrap()
            .signed_by(&key, &issuer)
            .unwrap();
        // another test may have been first
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let config = RustlsConfig::from_pem(
            certificate.pem().into_bytes(),
            key.serialize_pem().into_bytes(),
        )
        .await
        .unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (router, asked) = router(answers);
        let server = axum_server::from_tcp_rustls(listener, config).unwrap();
        tokio::spawn(async move { server.serve(router.into_make_service()).await.unwrap() });
        (Self { address, asked }, authority)
    }

    pub(crate) fn url(&self) -> Url {
        Url::parse(&format!("http://{}", self.address)).unwrap()
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn router(
    answers: impl Fn(&Asked) -> Response + Send + Sync + 'static,
) -> (Router, Arc<Mutex<Vec<Asked>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let server = Server {
        answers: Arc::new(answers),
        asked: Arc::clone(&asked),
    };
    let router = Router::new().fallback(move |request: Request| {
        let server = server.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body: Bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            let asked = Asked {
                method: parts.method,
                uri: parts.uri,
                headers: parts.headers,
                body: String::from_utf8(body.to_vec()).unwrap(),
            };
            let answer = (server.answers)(&asked);
            server.asked.lock().unwrap().push(asked);
            answer
        }
    });
    (router, asked)
}

pub(crate) fn json(status: u16, body: &Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    let fields = [("content-type", "application/json")];
    (status, fields, body.to_string()).into_response()
}

pub(crate) fn text(status: u16, body: &str) -> Response {
    (StatusCode::from_u16(status).unwrap(), body.to_owned()).into_response()
}
