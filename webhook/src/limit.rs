//! A cap on connections that a flood cannot turn against those who have something to ask.
//!
//! At the cap the connection that has been idle for longest gives way to a new one: first those that have never sent
//! a request, then those between two requests. One with a request in flight never does; where all have, the new one
//! is turned away.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::http::Request;
use axum_server::accept::Accept;
use futures::FutureExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tower::Service;

use crate::metrics::Metrics;

/// Accepts TCP connections up to a cap. Clones share it.
#[derive(Clone, Debug)]
pub struct ConnectionLimit {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limit: usize,
    table: Mutex<Table>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Table {
    open: usize,
    /// Counts changes, so that of two idle connections the one that became so first is known.
    step: u64,
    idle: BTreeMap<(Idle, u64), oneshot::Sender<()>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Idle {
    NeverAsked,
    BetweenRequests,
}

impl ConnectionLimit {
    /// At most `limit` connections at a time.
    pub fn new(limit: usize, metrics: Metrics) -> Self {
        Self {
            shared: Arc::new(Shared {
                limit,
                table: Mutex::default(),
                metrics,
            }),
        }
    }

    /// A place for one more connection, if need be that of another.
    fn admit(&self) -> Option<(Place, oneshot::Receiver<()>)> {
        let mut table = self.shared.lock();
        if table.open >= self.shared.limit {
            // dropping the sender is the order to close
            if table.idle.pop_first().is_none() {
                self.shared.metrics.turned_away.inc();
                return None;
            }
            self.shared.metrics.displaced.inc();
        }
        table.open += 1;
        self.shared.metrics.connections.inc();
        drop(table);
        let place = Place {
            shared: Arc::clone(&self.shared),
            idle: Mutex::new(None),
            is_busy: AtomicBool::new(false),
        };
        let (order, closing) = oneshot::channel();
        place.rest(Idle::NeverAsked, order);
        Some((place, closing))
    }
}

impl Shared {
    // a panic while the lock was held has left a table that is whole
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the places.
#[derive(Debug)]
struct Place {
    shared: Arc<Shared>,
    /// Under what the connection is found among the idle ones.
    idle: Mutex<Option<(Idle, u64)>>,
    /// A request may have come at the moment when the place was given away; it is still served.
    is_busy: AtomicBool,
}

impl Place {
    fn rest(&self, how: Idle, order: oneshot::Sender<()>) {
        let mut table = self.shared.lock();
        table.step += 1;
        let key = (how, table.step);
        table.idle.insert(key, order);
        *self.key() = Some(key);
    }

    /// Takes the connection out of the idle ones; `None` where it has been told to close already.
    fn stir(&self) -> Option<oneshot::Sender<()>> {
        let mut table = self.shared.lock();
        let key = self.key().take()?;
        table.idle.remove(&key)
    }

    fn key(&self) -> MutexGuard<'_, Option<(Idle, u64)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.stir());
        self.shared.lock().open -= 1;
        self.shared.metrics.connections.dec();
    }
}

/// The connection that a request came over, in the request's extensions.
#[derive(Clone, Debug)]
pub struct Connection(Arc<Place>);

impl Connection {
    /// From now on the connection is not idle, until the guard is dropped.
    pub fn busy(&self) -> Busy {
        self.0.is_busy.store(true, Ordering::Release);
        Busy {
            order: self.0.stir(),
            place: Arc::clone(&self.0),
        }
    }
}

/// A request in flight.
#[derive(Debug)]
pub struct Busy {
    place: Arc<Place>,
    order: Option<oneshot::Sender<()>>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.place.is_busy.store(false, Ordering::Release);
        if let Some(order) = self.order.take() {
            self.place.rest(Idle::BetweenRequests, order);
        }
    }
}

impl<S> Accept<TcpStream, S> for ConnectionLimit {
    type Stream = LimitedStream;
    type Service = WithConnection<S>;
    type Future = std::future::Ready<io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        std::future::ready(match self.admit() {
            None => Err(io::Error::new(
                io::ErrorKind::ConnectionRefused,
                "all connections are busy",
            )),
            // answers are small and complete, so that nothing is gained by holding them back
            Some((place, closing)) => stream.set_nodelay(true).map(|()| {
                let place = Arc::new(place);
                let stream = LimitedStream {
                    stream,
                    closing,
                    place: Arc::clone(&place),
                };
                let service = WithConnection {
                    service,
                    connection: Connection(place),
                };
                (stream, service)
            }),
        })
    }
}

/// A connection that ends when its place is needed.
#[derive(Debug)]
pub struct LimitedStream {
    stream: TcpStream,
    closing: oneshot::Receiver<()>,
    place: Arc<Place>,
}

impl AsyncRead for LimitedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_pending()
            && !self.place.is_busy.load(Ordering::Acquire)
            && self.closing.poll_unpin(cx).is_ready()
        {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the place is needed for another connection",
            )));
        }
        read
    }
}

impl AsyncWrite for LimitedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Tells each request which connection it came over.
#[derive(Clone, Debug)]
pub struct WithConnection<S> {
    service: S,
    connection: Connection,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for WithConnection<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        request.extensions_mut().insert(self.connection.clone());
        self.service.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(limit: usize) -> ConnectionLimit {
        ConnectionLimit::new(limit, Metrics::new(&prometheus::Registry::new()).unwrap())
    }

    fn is_closing(closing: &mut oneshot::Receiver<()>) -> bool {
        closing.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn who_never_asked_gives_way_first() {
        let limit = limit(3);
        let (asked, mut asked_closing) = limit.admit().unwrap();
        let asked = Connection(Arc::new(asked));
        drop(asked.busy());
        let (first, mut first_closing) = limit.admit().unwrap();
        let (_second, mut second_closing) = limit.admit().unwrap();
        let _third = limit.admit().unwrap();
        assert!(is_closing(&mut first_closing));
        assert!(!is_closing(&mut second_closing));
        drop(first);
        let _fourth = limit.admit().unwrap();
        assert!(is_closing(&mut second_closing));
        assert!(!is_closing(&mut asked_closing));
    }

    #[test]
    fn between_requests_the_longest_idle_gives_way() {
        let limit = limit(2);
        let (one, mut one_closing) = limit.admit().unwrap();
        let (two, mut two_closing) = limit.admit().unwrap();
        let (one, two) = (Connection(Arc::new(one)), Connection(Arc::new(two)));
        drop(one.busy());
        drop(two.busy());
        drop(one.busy());
        let _three = limit.admit().unwrap();
        assert!(is_closing(&mut two_closing));
        assert!(!is_closing(&mut one_closing));
        // a request that crosses the order to close changes nothing about it
        drop(two.busy());
        assert!(is_closing(&mut two_closing));
    }

    #[test]
    fn a_request_in_flight_is_never_cut_off() {
        let limit = limit(1);
        let (one, mut closing) = limit.admit().unwrap();
        let one = Connection(Arc::new(one));
        let busy = one.busy();
        assert!(limit.admit().is_none());
        assert!(!is_closing(&mut closing));
        drop(busy);
        assert!(limit.admit().is_some());
        assert!(is_closing(&mut closing));
    }

    #[test]
    fn a_place_is_given_back() {
        let limit = limit(1);
        for _ in 0..3 {
            let (place, _) = limit.admit().unwrap();
            let connection = Connection(Arc::new(place));
            drop(connection.busy());
        }
        let table = limit.shared.lock();
        assert_eq!((table.open, table.idle.len()), (0, 0));
        assert_eq!(limit.shared.metrics.connections.get(), 0);
        assert_eq!(limit.shared.metrics.displaced.get(), 0);
    }
}
