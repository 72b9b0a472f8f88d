//! Bounds on how long an HTTP exchange with the API server may stay silent.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::{Request, Response};
use http_body::Frame;
use kube::client::Body;
use tokio::time::{Instant, Sleep};

use crate::error::BoxError;

/// The API server answers a request within its own limit of a minute (`--request-timeout`); with no header
/// after half of that the connection is taken for dead, and the request is made again on another one.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Silence in the middle of an answer that is not a watch.
pub(crate) const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The exchange was cut off by this side.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Silence {
    #[error("no answer from the API server for {} s", .0.as_secs())]
    Answer(Duration),
    #[error("the API server's answer stopped half-way for {} s", .0.as_secs())]
    Body(Duration),
}

/// What silence in a body means.
#[derive(Debug, Clone, Copy)]
pub(crate) enum OnIdle {
    /// The answer is incomplete.
    Fail,
    /// The answer has ended: a watch goes on with a new request from where it was.
    End,
}

pub(crate) fn is_watch<B>(request: &Request<B>) -> bool {
    request
        .uri()
        .query()
        .is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"))
}

/// Waits for the answer's header, for at most `limit`.
pub(crate) async fn answer_within<B>(
    limit: Duration,
    exchange: impl Future<Output = kube::Result<Response<B>>>,
) -> Result<Response<B>, BoxError> {
    match tokio::time::timeout(limit, exchange).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => Err(Silence::Answer(limit).into()),
    }
}

/// A body that does not stay silent for longer than a limit, and tells of every frame.
pub(crate) struct BoundedBody {
    inner: Body,
    idle: Option<(Duration, OnIdle, Pin<Box<Sleep>>)>,
    on_frame: Option<Box<dyn Fn() + Send>>,
    ended: bool,
}

impl BoundedBody {
    pub(crate) fn new(inner: Body, idle: Option<(Duration, OnIdle)>) -> Self {
        let idle =
            idle.map(|(limit, on_idle)| (limit, on_idle, Box::pin(tokio::time::sleep(limit))));
        Self {
            inner,
            idle,
            on_frame: None,
            ended: false,
        }
    }

    pub(crate) fn on_frame(self, on_frame: impl Fn() + Send + 'static) -> Self {
        Self {
            on_frame: Some(Box::new(on_frame)),
            ..self
        }
    }
}

impl http_body::Body for BoundedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        match Pin::new(&mut this.inner).poll_frame(context) {
            Poll::Ready(frame) => {
                if let Some((limit, _, sleep)) = &mut this.idle {
                    sleep.as_mut().reset(Instant::now() + *limit);
                }
                if let (Some(Ok(_)), Some(on_frame)) = (&frame, &this.on_frame) {
                    on_frame();
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => {
                let Some((limit, on_idle, sleep)) = &mut this.idle else {
                    return Poll::Pending;
                };
                if sleep.poll_unpin(context).is_pending() {
                    return Poll::Pending;
                }
                this.ended = true;
                Poll::Ready(match on_idle {
                    OnIdle::Fail => Some(Err(Silence::Body(*limit).into())),
                    OnIdle::End => None,
                })
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.is_end_stream()
    }
}
