//! A fake of a registry that serves public images to everybody and private ones to whom may have them, as the large ones
//! do: every request needs a token, strangers are given one for public images, and who comes with a wrong password is
//! given none at all. The images are those of the cluster's registry, which lets no stranger in.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{Method, Request, StatusCode};
use axum::response::{IntoResponse as _, Response};
use pullpass_harness::Full;
use pullpass_harness::objects::base64;
use pullpass_harness::registry::User;
use pullpass_harness::relay::Relay;
use serde_json::json;

/// Repositories below it are for everybody.
pub(crate) const PUBLIC: &str = "public";

/// The tokens: who holds one is only asked for that.
const STRANGER: &str = "stranger";
const FRIEND: &str = "friend";

/// A running fake. Dropping it ends it.
pub(crate) struct FakeRegistry {
    host: String,
    serving: tokio::task::JoinHandle<()>,
    node_config: PathBuf,
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.serving.abort();
        let _ = std::fs::remove_dir_all(&self.node_config);
    }
}

struct Behind {
    host: String,
    user: User,
    relay: Relay,
}

impl FakeRegistry {
    /// Starts it on an address that nodes reach, and tells the node to speak plain HTTP to it. `user` may have everything.
    pub(crate) async fn start(cluster: &Full, user: &User) -> Self {
        let address: SocketAddr = cluster.registry().host().parse().unwrap();
        let machine: IpAddr = address.ip();
        let listener = tokio::net::TcpListener::bind((machine, 0)).await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let behind = Arc::new(Behind {
            host: host.clone(),
            user: user.clone(),
            relay: Relay::to(cluster.registry()),
        });
        let router = Router::new().fallback(answer).with_state(behind);
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let node_config = cluster.cluster().registry_config("node-1", &host);
        std::fs::create_dir_all(&node_config).unwrap();
        let plain = format!("[host.\"http://{host}\"]\n  capabilities = [\"pull\", \"resolve\"]\n");
        std::fs::write(node_config.join("hosts.toml"), plain).unwrap();
        Self {
            host,
            serving,
            node_config,
        }
    }

    /// As an image names it.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }
}

async fn answer(State(behind): State<Arc<Behind>>, request: Request<Body>) -> Response {
    let (request, _) = request.into_parts();
    let path = request.uri.path();
    let header = |name| {
        request
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    if path == "/token" && request.method == Method::POST {
        // containerd tries the newer way first, which not all registries have
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    if path == "/token" {
        return behind.token(header(AUTHORIZATION));
    }
    let repository = path
        .strip_prefix("/v2/")
        .and_then(|rest| {
            rest.split_once("/manifests/")
                .or(rest.split_once("/blobs/"))
        })
        .map_or("", |(repository, _)| repository);
    let is_public = repository.starts_with(&format!("{PUBLIC}/"));
    match header(AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer ")) {
        Some(FRIEND) => {}
        Some(STRANGER) if is_public => {}
        _ => return behind.challenge(repository),
    }
    let accept = request.headers.get(ACCEPT);
    behind.relay.fetch(request.method, path, accept).await
}

impl Behind {
    fn token(&self, authorization: Option<&str>) -> Response {
        let login = base64(format!("{}:{}", self.user.name, self.user.password));
        let token = match authorization {
            None => STRANGER,
            Some(value) if value == format!("Basic {login}") => FRIEND,
            Some(_) => return StatusCode::UNAUTHORIZED.into_response(),
        };
        let answer = json!({"token": token}).to_string();
        ([(CONTENT_TYPE, "application/json")], answer).into_response()
    }

    fn challenge(&self, repository: &str) -> Response {
        let host = &self.host;
        let challenge = format!(
            "Bearer realm=\"http://{host}/token\",service=\"{host}\",scope=\"repository:{repository}:pull\""
        );
        (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, challenge)]).into_response()
    }
}
