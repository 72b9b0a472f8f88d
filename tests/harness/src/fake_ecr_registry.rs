//! A fake of the registry that Amazon's ECR is to container runtimes: it takes the tokens that the fake of ECR has issued
//! for as long as they live. The images, where there are any, are those of the cluster's registry.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use crate::fake_ecr::{FakeEcr, HOST, USERNAME};
use crate::full::Full;
use crate::must;
use crate::objects::base64;
use crate::relay::Relay;
use crate::tls::{self, Served};
use crate::told_registry::ToldRegistry;

/// The port that an image without one is pulled from.
const PORT: u16 = 443;

/// A running fake; it ends when it is dropped.
pub struct FakeEcrRegistry {
    served: Served,
    state: Arc<Registry>,
    _told: Option<ToldRegistry>,
}

struct Registry {
    cloud: Arc<FakeEcr>,
    relay: Option<Relay>,
    tokens: Mutex<Tokens>,
}

#[derive(Default)]
struct Tokens {
    /// Images were pulled with them.
    shown: BTreeSet<String>,
    /// They live, and are not taken.
    refused: BTreeSet<String>,
    /// None is taken.
    are_refused: bool,
}

impl FakeEcrRegistry {
    /// Starts it on the port of HTTPS of an address that nodes and pods reach, and tells the node that the registry of the
    /// fake's account is there.
    pub async fn start(cluster: &Full, cloud: &Arc<FakeEcr>) -> Self {
        must(start(cluster, cloud).await)
    }

    /// Starts it on a free port of the loopback address, without images: it knows tokens, and says yes to whoever has one.
    pub async fn without_images(cloud: &Arc<FakeEcr>) -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let (served, state) = must(serve(listen, cloud, None).await);
        Self {
            served,
            state,
            _told: None,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.served.address
    }

    /// The certificate authority (PEM) of its certificate.
    pub fn authority(&self) -> &str {
        &self.served.authority
    }

    /// How many of these tokens images were pulled with.
    pub fn has_served(&self, tokens: &[String]) -> usize {
        let shown = &lock(&self.state.tokens).shown;
        tokens.iter().filter(|token| shown.contains(*token)).count()
    }

    /// From now on a token is not taken, although it lives.
    pub fn refuse(&self, token: &str) {
        lock(&self.state.tokens).refused.insert(token.to_owned());
    }

    /// From now on no token is taken.
    pub fn refuse_all(&self) {
        lock(&self.state.tokens).are_refused = true;
    }
}

fn lock(tokens: &Mutex<Tokens>) -> MutexGuard<'_, Tokens> {
    // each change is one statement
    tokens.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn start(cluster: &Full, cloud: &Arc<FakeEcr>) -> Result<FakeEcrRegistry> {
    let beside: SocketAddr = cluster
        .registry()
        .host()
        .parse()
        .context("the cluster's registry has no address")?;
    let listen = SocketAddr::new(beside.ip(), PORT);
    let relay = Relay::to(cluster.registry());
    let (served, state) = serve(listen, cloud, Some(relay)).await?;
    let ip = listen.ip();
    let hosts = format!(
        "server = \"https://{ip}\"\n\n[host.\"https://{ip}\"]\n  ca = \"/etc/containerd/certs.d/{HOST}/ca.crt\"\n"
    );
    let files = [
        ("ca.crt", served.authority.as_str()),
        ("hosts.toml", &hosts),
    ];
    let told = ToldRegistry::tell(cluster, HOST, &files)?;
    Ok(FakeEcrRegistry {
        served,
        state,
        _told: Some(told),
    })
}

async fn serve(
    listen: SocketAddr,
    cloud: &Arc<FakeEcr>,
    relay: Option<Relay>,
) -> Result<(Served, Arc<Registry>)> {
    let state = Arc::new(Registry {
        cloud: Arc::clone(cloud),
        relay,
        tokens: Mutex::default(),
    });
    let router = Router::new()
        .fallback(answer)
        .with_state(Arc::clone(&state));
    let names = [HOST, &listen.ip().to_string()];
    Ok((tls::serve(router, listen, &names).await?, state))
}

async fn answer(State(registry): State<Arc<Registry>>, request: Request<Body>) -> Response {
    let (request, _) = request.into_parts();
    let Some(shown) = request.headers.get(AUTHORIZATION) else {
        let challenge = format!("Basic realm=\"https://{HOST}/\",service=\"ecr.amazonaws.com\"");
        return (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, challenge)]).into_response();
    };
    let issued = registry.cloud.issued();
    let token = issued.into_iter().find(|token| {
        let login = base64(format!("{USERNAME}:{token}"));
        shown.as_bytes() == format!("Basic {login}").as_bytes()
    });
    let is_refused = |token: &String| {
        let tokens = lock(&registry.tokens);
        tokens.are_refused || tokens.refused.contains(token)
    };
    let Some(token) = token.filter(|token| !is_refused(token)) else {
        return refusal(
            StatusCode::BAD_REQUEST,
            "Your Authorization Token is invalid.",
        );
    };
    if !registry.cloud.is_live(&token) {
        let message = "Your authorization token has expired. Reauthenticate and try again.";
        return refusal(StatusCode::FORBIDDEN, message);
    }
    let path = request.uri.path();
    if path.contains("/manifests/") {
        lock(&registry.tokens).shown.insert(token);
    }
    match &registry.relay {
        Some(relay) => {
            let accept = request.headers.get(ACCEPT);
            relay.fetch(request.method, path, accept).await
        }
        None => "{}".into_response(),
    }
}

/// As Amazon words it.
fn refusal(status: StatusCode, message: &str) -> Response {
    let body = json!({"errors": [{"code": "DENIED", "message": message}]}).to_string();
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}
