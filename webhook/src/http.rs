//! The HTTP side: a path, a method, a media type; everything else is an HTTP error.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use pullpass_daemon::Timer;
use tokio::time::Instant;
use tower_http::catch_panic::CatchPanicLayer;

use crate::body::{BodyRoom, ReadBody};
use crate::handler::Decider;
use crate::limit::Connection;

/// The path that the webhook configuration names.
pub const PATH: &str = "/inject";

const JSON: &str = "application/json";

/// The part of the API server's own timeout that is left for the way back.
const WAY_BACK: f64 = 0.2;

#[derive(Clone, Debug)]
struct Inject {
    decider: Arc<Decider>,
    room: BodyRoom,
}

/// The routes, to be served or to be called directly.
pub fn router(decider: Decider) -> Router {
    let decider = Arc::new(decider);
    let on_panic = {
        let metrics = decider.metrics().clone();
        // The panic itself is in the log. The API server takes the answer for a failed call and goes on without.
        move |_: Box<dyn Any + Send>| {
            metrics.panics.inc();
            metrics.refused(StatusCode::INTERNAL_SERVER_ERROR);
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    };
    Router::new()
        .route(PATH, post(inject))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .with_state(Inject {
            decider,
            room: BodyRoom::default(),
        })
        .layer(CatchPanicLayer::custom(on_panic))
}

async fn inject(State(inject): State<Inject>, request: Request) -> Response {
    let received = Instant::now();
    let metrics = inject.decider.metrics();
    let _timer = Timer::start(&metrics.duration);
    let _busy = request
        .extensions()
        .get::<Connection>()
        .map(Connection::busy);
    if !is_json(request.headers()) {
        return inject.refuse(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            &format!("send an AdmissionReview as {JSON}"),
        );
    }
    let limit = timeout(request.uri()).map(|timeout| received + timeout.mul_f64(1.0 - WAY_BACK));
    let body = match inject.room.read(request.into_body()).await {
        Ok(body) => body,
        Err(error) => return inject.refuse(error.status(), &error.to_string()),
    };
    match inject.decider.answer(body, limit).await {
        Ok(answer) => ([(header::CONTENT_TYPE, JSON)], answer).into_response(),
        Err(error) => inject.refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

async fn no_such_path(State(inject): State<Inject>) -> Response {
    inject.refuse(
        StatusCode::NOT_FOUND,
        &format!("admission reviews go to {PATH}"),
    )
}

async fn no_such_method(State(inject): State<Inject>) -> Response {
    inject.refuse(
        StatusCode::METHOD_NOT_ALLOWED,
        "admission reviews are sent by POST",
    )
}

impl Inject {
    fn refuse(&self, status: StatusCode, why: &str) -> Response {
        tracing::debug!(status = status.as_u16(), why, "no admission review");
        self.decider.metrics().refused(status);
        (status, format!("{why}\n")).into_response()
    }
}

impl AsRef<[u8]> for ReadBody {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case(JSON))
}

/// How long the API server will wait for the answer: it says so as `?timeout=10s`, in whole seconds since that is what
/// a webhook's `timeoutSeconds` holds. Anything else is as good as nothing.
fn timeout(uri: &Uri) -> Option<Duration> {
    uri.query()?
        .split('&')
        .find_map(|pair| pair.strip_prefix("timeout="))?
        .strip_suffix('s')?
        .parse()
        .ok()
        .map(|seconds: u32| Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("/inject?timeout=10s", Some(10))]
    #[case("/inject?a=b&timeout=3s", Some(3))]
    #[case("/inject", None)]
    #[case("/inject?timeout=", None)]
    #[case("/inject?timeout=-1s", None)]
    #[case("/inject?timeout=1h", None)]
    #[case("/inject?timeout=99999999999s", None)]
    fn the_api_servers_patience_is_read(#[case] uri: &str, #[case] seconds: Option<u64>) {
        let uri: Uri = uri.parse().unwrap();
        assert_eq!(timeout(&uri), seconds.map(Duration::from_secs));
    }
}
