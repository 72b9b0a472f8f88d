//! A fake of a registry that serves public images to everybody and private ones to whom may have them, as the large ones
//! do: every request needs a token, strangers are given one for public images, and who comes with a wrong password is
//! given none at all. The images are those of the cluster's registry, which lets no stranger in.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{Method, Request, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use crate::full::Full;
use crate::must;
use crate::objects::base64;
use crate::plain::{self, Served};
use crate::registry::User;
use crate::relay::Relay;
use crate::told_registry::ToldRegistry;

/// Repositories below it are for everybody.
pub const PUBLIC: &str = "public";

/// The tokens: who holds one is only asked for that.
const STRANGER: &str = "stranger";
const FRIEND: &str = "friend";

/// A running fake; it ends when it is dropped.
pub struct FakeHub {
    host: String,
    _served: Served,
    _told: ToldRegistry,
}

struct Behind {
    host: String,
    user: User,
    relay: Relay,
}

impl FakeHub {
    /// Starts it on an address that nodes reach, and tells the node to speak plain HTTP to it. `user` may have everything.
    pub async fn start(cluster: &Full, user: &User) -> Self {
        must(start(cluster, user).await)
    }

    /// As an image names it.
    pub fn host(&self) -> &str {
        &self.host
    }
}

async fn start(cluster: &Full, user: &User) -> Result<FakeHub> {
    let beside: SocketAddr = cluster
        .registry()
        .host()
        .parse()
        .context("the cluster's registry has no address")?;
    let relay = Relay::to(cluster.registry());
    let served = plain::serve(SocketAddr::new(beside.ip(), 0), |address| {
        Router::new().fallback(answer).with_state(Arc::new(Behind {
            host: address.to_string(),
            user: user.clone(),
            relay,
        }))
    })
    .await?;
    let host = served.address.to_string();
    let hosts = format!("[host.\"http://{host}\"]\n  capabilities = [\"pull\", \"resolve\"]\n");
    let told = ToldRegistry::tell(cluster, &host, &[("hosts.toml", &hosts)])?;
    Ok(FakeHub {
        host,
        _served: served,
        _told: told,
    })
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
