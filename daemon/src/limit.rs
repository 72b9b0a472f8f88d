//! A cap on the connections that a server holds at a time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum_server::accept::Accept;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Accepts at most so many connections at a time through another acceptor; a connection above that is closed
/// at once, so that a flood costs neither memory nor file descriptors. The place is taken before the TLS
/// handshake and given back when the connection ends.
#[derive(Debug, Clone)]
pub struct LimitedAcceptor<A> {
    inner: A,
    places: Arc<Semaphore>,
}

impl<A> LimitedAcceptor<A> {
    /// At most `limit` connections through `inner`.
    #[must_use]
    pub fn new(inner: A, limit: usize) -> Self {
        Self {
            inner,
            places: Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// How many more connections would be accepted now.
    #[must_use]
    pub fn free(&self) -> usize {
        self.places.available_permits()
    }
}

impl<A, I, S> Accept<I, S> for LimitedAcceptor<A>
where
    A: Accept<I, S>,
    A::Future: Send + 'static,
    A::Stream: Send + 'static,
    A::Service: Send + 'static,
    I: Send + 'static,
    S: Send + 'static,
{
    type Stream = LimitedStream<A::Stream>;
    type Service = A::Service;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Box::pin(std::future::ready(Err(io::Error::new(
                io::ErrorKind::ConnectionRefused,
                "too many connections",
            ))));
        };
        let accepting = self.inner.accept(stream, service);
        Box::pin(async move {
            let (stream, service) = accepting.await?;
            Ok((
                LimitedStream {
                    inner: stream,
                    _place: place,
                },
                service,
            ))
        })
    }
}

/// A connection that occupies one place.
#[derive(Debug)]
pub struct LimitedStream<T> {
    inner: T,
    _place: OwnedSemaphorePermit,
}

impl<T: AsyncRead + Unpin> AsyncRead for LimitedStream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for LimitedStream<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use axum_server::accept::DefaultAcceptor;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn a_place_is_held_as_long_as_the_connection() {
        let acceptor = LimitedAcceptor::new(DefaultAcceptor::new(), 2);
        let accept = || {
            let (near, far) = duplex(64);
            (acceptor.accept(far, ()), near)
        };
        let (first, mut near) = accept();
        let (mut first, ()) = first.await.unwrap();
        let (second, _second_near) = accept();
        let second = second.await.unwrap();
        assert_eq!(acceptor.free(), 0);

        let (refused, mut refused_near) = accept();
        assert_eq!(
            refused.await.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        assert_eq!(
            refused_near.read(&mut [0; 8]).await.unwrap(),
            0,
            "closed at once"
        );

        near.write_all(b"ping").await.unwrap();
        let mut heard = [0; 4];
        first.read_exact(&mut heard).await.unwrap();
        first.write_all(b"pong").await.unwrap();
        near.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"pong");

        drop(second);
        assert_eq!(acceptor.free(), 1);
        let (third, _third_near) = accept();
        assert!(third.await.is_ok());
    }
}
