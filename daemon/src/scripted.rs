//! An API server for tests, which answers what the test tells it to, when the test tells it to.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::{Request, Response};
use http_body::Frame;
use kube::Client;
use kube::client::Body;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tower::service_fn;

use crate::error::BoxError;

/// Longer than any backoff or timeout under test, on a clock that jumps.
const PATIENCE: Duration = Duration::from_secs(600);

pub(crate) struct ScriptedApi {
    requests: mpsc::UnboundedReceiver<Exchange>,
}

/// A request that waits for its answer. Dropped, the connection is reset.
pub(crate) struct Exchange {
    pub(crate) request: Request<Body>,
    answer: oneshot::Sender<Response<ScriptedBody>>,
}

/// The rest of an answer that is under way. Dropped, it ends.
pub(crate) struct Stream(mpsc::UnboundedSender<Result<Bytes, BoxError>>);

pub(crate) struct ScriptedBody(mpsc::UnboundedReceiver<Result<Bytes, BoxError>>);

impl http_body::Body for ScriptedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0
            .poll_recv(context)
            .map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
    }
}

impl ScriptedApi {
    pub(crate) fn start() -> (Client, Self) {
        let (sender, requests) = mpsc::unbounded_channel();
        let service = service_fn(move |request: Request<Body>| {
            let sender = sender.clone();
            async move {
                let (answer, answered) = oneshot::channel();
                sender
                    .send(Exchange { request, answer })
                    .map_err(|_| "the test is over")?;
                answered
                    .await
                    .map_err(|_| BoxError::from("connection reset"))
            }
        });
        (Client::new(service, "default"), Self { requests })
    }

    pub(crate) async fn next(&mut self) -> Exchange {
        tokio::time::timeout(PATIENCE, self.requests.recv())
            .await
            .expect("a request in time")
            .expect("a client")
    }

    pub(crate) fn is_quiet(&mut self) -> bool {
        self.requests.recv().now_or_never().is_none()
    }
}

impl Exchange {
    pub(crate) fn query(&self) -> BTreeMap<String, String> {
        self.request
            .uri()
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    pub(crate) fn is_watch(&self) -> bool {
        self.query().contains_key("watch")
    }

    pub(crate) fn stream(self, status: u16, headers: &[(&str, &str)]) -> Stream {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        // the client may have given up meanwhile
        let _ = self
            .answer
            .send(response.body(ScriptedBody(receiver)).unwrap());
        Stream(sender)
    }

    pub(crate) fn json(self, status: u16, body: &Value) {
        self.stream(status, &[]).send(&body.to_string());
    }

    /// An error as the API server puts it.
    pub(crate) fn refuse(self, status: u16) {
        self.json(status, &failure(status));
    }
}

impl Stream {
    pub(crate) fn send(&self, text: &str) {
        let _ = self.0.send(Ok(Bytes::copy_from_slice(text.as_bytes())));
    }

    pub(crate) fn event(&self, kind: &str, object: &Value) {
        self.send(&format!(
            "{}\n",
            serde_json::json!({"type": kind, "object": object})
        ));
    }

    pub(crate) fn reset(self) {
        let _ = self.0.send(Err("connection reset".into()));
    }

    /// Whether the client has hung up.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

pub(crate) fn failure(code: u16) -> Value {
    serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "told so", "reason": "Test", "code": code,
    })
}
