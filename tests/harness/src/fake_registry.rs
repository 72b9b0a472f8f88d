//! A fake of an image registry over plain HTTP: it knows passwords and no images, and it is gone and back at a test's word.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use axum::Router;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::must;
use crate::objects::base64;
use crate::plain::{self, Served};

/// A running fake; it ends when it is dropped.
pub struct FakeRegistry {
    served: Served,
    state: Arc<Mutex<Registry>>,
}

#[derive(Default)]
struct Registry {
    accepted: Vec<String>,
    is_failing: bool,
    /// The logins that were shown, in base64.
    shown: Vec<String>,
}

impl FakeRegistry {
    /// Listens on a free port of the loopback address and accepts nobody yet.
    pub async fn start() -> Self {
        must(start().await)
    }

    /// `host:port`.
    pub fn host(&self) -> String {
        self.served.address.to_string()
    }

    /// Accepts just this password of this user, as after a change.
    pub fn accept(&self, username: &str, password: &str) {
        lock(&self.state).accepted = vec![base64(format!("{username}:{password}"))];
    }

    /// Answers everything with 503, or answers again.
    pub fn set_failing(&self, is_failing: bool) {
        lock(&self.state).is_failing = is_failing;
    }

    /// How often this login was shown.
    pub fn shown(&self, username: &str, password: &str) -> usize {
        let login = base64(format!("{username}:{password}"));
        let shown = &lock(&self.state).shown;
        shown.iter().filter(|shown| **shown == login).count()
    }
}

fn lock(state: &Mutex<Registry>) -> MutexGuard<'_, Registry> {
    // each change is one statement
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn start() -> Result<FakeRegistry> {
    let state = Arc::<Mutex<Registry>>::default();
    let router = Router::new()
        .route("/v2/", get(answer))
        .with_state(Arc::clone(&state));
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let served = plain::serve(listen, |_| router).await?;
    Ok(FakeRegistry { served, state })
}

async fn answer(State(state): State<Arc<Mutex<Registry>>>, headers: HeaderMap) -> Response {
    const VERSION: (&str, &str) = ("docker-distribution-api-version", "registry/2.0");
    let mut registry = lock(&state);
    if registry.is_failing {
        return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")]).into_response();
    }
    let login = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Basic "));
    if let Some(login) = login {
        registry.shown.push(login.to_owned());
        if registry.accepted.iter().any(|accepted| accepted == login) {
            return ([VERSION], "{}").into_response();
        }
    }
    let challenge = (WWW_AUTHENTICATE.as_str(), "Basic realm=\"fake\"");
    (StatusCode::UNAUTHORIZED, [VERSION, challenge]).into_response()
}
