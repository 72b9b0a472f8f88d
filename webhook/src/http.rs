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
use crate::metrics::Metrics;

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
    let catch_panics = CatchPanicLayer::custom(on_panic(decider.metrics().clone()));
    Router::new()
        .route(PATH, post(inject))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .with_state(Inject {
            decider,
            room: BodyRoom::default(),
        })
        .layer(catch_panics)
}

/// The panic itself is in the log. The API server takes the answer for a failed call and goes on without.
fn on_panic(metrics: Metrics) -> impl FnMut(Box<dyn Any + Send>) -> Response + Clone {
    move |_| {
        metrics.panics.inc();
        metrics.refused(StatusCode::INTERNAL_SERVER_ERROR);
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
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
    use crate::state::sample::{captured, decider, listed, registry, settled};
    use axum::body::Body;
    use axum::http::Method;
    use futures::{StreamExt as _, stream};
    use http_body_util::BodyExt as _;
    use rstest::rstest;
    use serde_json::Value;
    use std::convert::Infallible;
    use tower::ServiceExt as _;

    fn post_to(uri: &str, media_type: Option<&str>, body: Body) -> Request {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.parse().unwrap();
        if let Some(media_type) = media_type {
            let value = media_type.parse().unwrap();
            request.headers_mut().insert(header::CONTENT_TYPE, value);
        }
        request
    }

    async fn send(request: Request) -> (StatusCode, Vec<u8>) {
        let response = router(decider(&settled())).oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, body.to_vec())
    }

    #[rstest]
    #[case("application/json")]
    #[case("application/json; charset=utf-8")]
    #[case("Application/JSON")]
    #[tokio::test]
    async fn a_review_is_answered_under_its_uid(#[case] media_type: &str) {
        let body = captured("small");
        let uid = serde_json::from_slice::<Value>(&body).unwrap()["request"]["uid"].clone();
        let request = post_to("/inject?timeout=10s", Some(media_type), body.into());
        let (status, answer) = send(request).await;
        assert_eq!(status, StatusCode::OK);
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["response"]["uid"], uid);
        assert_eq!(answer["response"]["patchType"], "JSONPatch");
    }

    #[rstest]
    #[case("/", Some(JSON), captured("small"), 404)]
    #[case("/inject/", Some(JSON), captured("small"), 404)]
    #[case(PATH, None, captured("small"), 415)]
    #[case(PATH, Some("text/plain"), captured("small"), 415)]
    #[case(PATH, Some("application/json-patch+json"), captured("small"), 415)]
    #[case(PATH, Some(JSON), Vec::new(), 400)]
    #[case(PATH, Some(JSON), b"{}".to_vec(), 400)]
    #[case(PATH, Some(JSON), b"\xff\xfe".to_vec(), 400)]
    #[case(PATH, Some(JSON), b"[".repeat(5_000_000), 400)]
    #[case(PATH, Some(JSON), b" ".repeat(8_000_000), 413)]
    #[tokio::test]
    async fn what_is_no_review_is_an_http_error_that_says_why(
        #[case] uri: &str,
        #[case] media_type: Option<&str>,
        #[case] body: Vec<u8>,
        #[case] expected: u16,
    ) {
        let (status, why) = send(post_to(uri, media_type, body.into())).await;
        assert_eq!(status.as_u16(), expected);
        assert!(why.len() > 10 && why.len() < 200);
    }

    #[rstest]
    #[case(Method::GET)]
    #[case(Method::PUT)]
    #[case(Method::DELETE)]
    #[tokio::test]
    async fn reviews_are_posted(#[case] method: Method) {
        let mut request = post_to(PATH, Some(JSON), captured("small").into());
        *request.method_mut() = method;
        let response = router(decider(&settled())).oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(response.headers()[header::ALLOW], "POST");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_half_way_is_given_up() {
        let start = stream::iter([Ok::<_, Infallible>("{")]).chain(stream::pending());
        let request = post_to(PATH, Some(JSON), Body::from_stream(start));
        assert_eq!(send(request).await.0, StatusCode::REQUEST_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_comes_before_the_api_server_gives_up() {
        let waiting = decider(&listed([registry("acme", &["*"])]));
        let started = Instant::now();
        let uri = "/inject?timeout=1s";
        let request = post_to(uri, Some(JSON), captured("small").into());
        let response = router(waiting).oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(started.elapsed() < Duration::from_secs(1));
        assert!(started.elapsed() >= Duration::from_millis(800));
    }

    #[tokio::test]
    async fn a_panic_becomes_an_answer() {
        let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
        let router = Router::new()
            .route(PATH, post(async || -> StatusCode { panic!("a bug") }))
            .layer(CatchPanicLayer::custom(on_panic(metrics.clone())));
        let request = post_to(PATH, Some(JSON), Body::empty());
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(metrics.panics.get(), 1);
    }

    #[tokio::test]
    async fn what_happened_is_counted() {
        let registry = prometheus::Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let decider = Decider::new(settled(), "pullpass".into(), Duration::ZERO, 1, metrics);
        let router = router(decider);
        for (media_type, body) in [(Some(JSON), captured("small")), (None, Vec::new())] {
            let request = post_to(PATH, media_type, body.into());
            router.clone().oneshot(request).await.unwrap();
        }
        let text = pullpass_daemon::metrics::encode(&registry).unwrap();
        let text = String::from_utf8(text).unwrap();
        for line in [
            "pullpass_webhook_decisions_total{reason=\"Injected\"} 1",
            "pullpass_webhook_refused_requests_total{code=\"415\"} 1",
            "pullpass_webhook_request_duration_seconds_count 2",
        ] {
            assert!(text.contains(line), "{line} not in {text}");
        }
    }

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
