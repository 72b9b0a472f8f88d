//! A token service of the test's own: it knows one user, who may pull from one repository, and signs what the registry
//! checks (the distribution project's JWT token documentation).

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum_server::tls_rustls::RustlsConfig;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use url::form_urlencoded;

use crate::authority::Authority;
use crate::{PASSWORD, REPOSITORY, USERNAME};

/// A service that listens until the test ends.
pub(crate) struct TokenService {
    address: SocketAddr,
    certificate: String,
    desk: Arc<Desk>,
}

struct Desk {
    key: EcdsaKeyPair,
    certificate: Vec<u8>,
    scopes: Mutex<Vec<String>>,
}

impl TokenService {
    pub(crate) const SERVICE: &str = "registry of the test";
    pub(crate) const ISSUER: &str = "token service of the test";

    pub(crate) async fn start(authority: &Authority) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(Vec::new())
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let signer =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der())
                .unwrap();
        let desk = Arc::new(Desk {
            key: signer,
            certificate: certificate.der().to_vec(),
            scopes: Mutex::default(),
        });
        let router = Router::new()
            .route("/token", get(give))
            .with_state(Arc::clone(&desk));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let tls = RustlsConfig::from_config(authority.server().config());
        let server = axum_server::from_tcp_rustls(listener, tls).unwrap();
        tokio::spawn(server.serve(router.into_make_service()));
        Self {
            address,
            certificate: certificate.pem(),
            desk,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}/token", self.address)
    }

    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// What tokens are checked by.
    pub(crate) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// What tokens were asked for with the right password, beyond the login.
    pub(crate) fn scopes(&self) -> Vec<String> {
        self.desk.scopes.lock().unwrap().clone()
    }
}

async fn give(
    State(desk): State<Arc<Desk>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let expected = format!(
        "Basic {}",
        STANDARD.encode(format!("{USERNAME}:{PASSWORD}"))
    );
    let given = headers.get(header::AUTHORIZATION);
    if given.is_none_or(|given| given.as_bytes() != expected.as_bytes()) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let query = query.unwrap_or_default();
    let parameter = |wanted: &str| {
        form_urlencoded::parse(query.as_bytes())
            .find_map(|(name, value)| (name == wanted).then(|| value.into_owned()))
    };
    let mut access = Vec::new();
    if let Some(scope) = parameter("scope") {
        desk.scopes.lock().unwrap().push(scope.clone());
        if scope == format!("repository:{REPOSITORY}:pull") {
            access.push(json!({"type": "repository", "name": REPOSITORY, "actions": ["pull"]}));
        }
    }
    let service = parameter("service").unwrap_or_default();
    json!({"token": desk.sign(&service, &access)})
        .to_string()
        .into_response()
}

impl Desk {
    fn sign(&self, audience: &str, access: &[Value]) -> String {
        let now = Timestamp::now().as_second();
        let head =
            json!({"typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(&self.certificate)]});
        let claims = json!({
            "iss": TokenService::ISSUER, "sub": USERNAME, "aud": audience, "jti": "1",
            "iat": now, "nbf": now - 10, "exp": now + 300, "access": access,
        });
        let part = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", part(&head), part(&claims));
        let signature = self
            .key
            .sign(&SystemRandom::new(), signed.as_bytes())
            .unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}
