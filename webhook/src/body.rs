//! Reading a request's body under bounds: its size, the time it takes, and the memory of all bodies together.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// The API server takes objects of up to 3 MiB, and a review may hold two of them and what surrounds them; the same
/// bound as in other webhooks.
pub(crate) const MAX_BODY_BYTES: usize = 7 * 1024 * 1024;

/// A review is sent in one go by a machine on the same network: what has not come by then is not coming.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(2);

/// Each mebibyte that did come buys so much more time, for large reviews over a busy link.
const TIME_PER_MEBIBYTE: Duration = Duration::from_secs(1);

/// Up to this size a body is small, as all but a few reviews are.
const SMALL_BODY_BYTES: usize = 128 * 1024;

/// The memory of all small bodies together, and that of all others. Apart, so that large ones, which anybody can send,
/// do not keep the others out; bounded, so that neither exhausts the memory of the pod.
const SMALL_BODIES_BYTES: usize = 8 * 1024 * 1024;
const LARGE_BODIES_BYTES: usize = 4 * MAX_BODY_BYTES;

/// A body that says how long it is gets the room at once, but a lie shall not cost more than this.
const FIRST_ROOM_BYTES: usize = 256 * 1024;

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    /// Beyond [`MAX_BODY_BYTES`].
    #[error("the body is larger than {MAX_BODY_BYTES} bytes")]
    TooLarge,
    /// It did not come within [`BODY_TIMEOUT`].
    #[error("the body did not arrive in time")]
    TooSlow,
    /// The bodies of other requests have filled the room.
    #[error("too many large requests at once")]
    NoRoom,
    /// The connection broke, or the chunks contradict themselves.
    #[error("the body cannot be read")]
    Broken,
}

impl BodyError {
    /// The answer's status.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::NoRoom => StatusCode::SERVICE_UNAVAILABLE,
            Self::Broken => StatusCode::BAD_REQUEST,
        }
    }
}

/// The room that all bodies share. Clones share it too.
#[derive(Clone, Debug)]
pub(crate) struct BodyRoom {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

impl Default for BodyRoom {
    fn default() -> Self {
        Self {
            small: Arc::new(Semaphore::new(SMALL_BODIES_BYTES)),
            large: Arc::new(Semaphore::new(LARGE_BODIES_BYTES)),
        }
    }
}

/// A whole body, with the room that it takes up.
#[derive(Debug)]
pub(crate) struct ReadBody {
    /// What was sent.
    pub(crate) bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl BodyRoom {
    /// Reads a body to its end.
    ///
    /// # Errors
    /// [`BodyError`], with the status to answer.
    pub(crate) async fn read(&self, mut body: axum::body::Body) -> Result<ReadBody, BodyError> {
        use axum::body::HttpBody as _;

        let promised = body.size_hint();
        if promised.lower() > MAX_BODY_BYTES as u64 {
            return Err(BodyError::TooLarge);
        }
        let whole = promised
            .exact()
            .and_then(|bytes| usize::try_from(bytes).ok());
        let mut deadline = Instant::now() + BODY_TIMEOUT;
        let mut room = None;
        let mut is_large = false;
        let mut first: Option<Bytes> = None;
        let mut joined = BytesMut::new();
        let mut length = 0;
        while let Some(frame) = timeout_at(deadline, body.frame())
            .await
            .map_err(|_| BodyError::TooSlow)?
        {
            let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else {
                continue; // trailers
            };
            length += data.len();
            if length > MAX_BODY_BYTES {
                return Err(BodyError::TooLarge);
            }
            if length <= SMALL_BODY_BYTES {
                let taken = take(&self.small, data.len(), deadline).await?;
                match &mut room {
                    None => room = Some(taken),
                    Some(room) => room.merge(taken),
                }
            } else if !is_large {
                // all of it at once: taken bit by bit, many half-read bodies could wait for each other
                let most = whole.unwrap_or(MAX_BODY_BYTES);
                room = Some(take(&self.large, most, deadline).await?);
                is_large = true;
            }
            deadline += TIME_PER_MEBIBYTE.mul_f64(data.len() as f64 / f64::from(1 << 20));
            // small bodies come in one piece, which need not be copied
            match (first.take(), joined.is_empty()) {
                (None, true) => first = Some(data),
                (None, false) => joined.extend_from_slice(&data),
                (Some(start), _) => {
                    let room = whole.unwrap_or(length).min(FIRST_ROOM_BYTES).max(length);
                    joined.reserve(room);
                    joined.extend_from_slice(&start);
                    joined.extend_from_slice(&data);
                }
            }
        }
        Ok(ReadBody {
            bytes: first.unwrap_or_else(|| joined.freeze()),
            _room: room,
        })
    }
}

async fn take(
    room: &Arc<Semaphore>,
    bytes: usize,
    deadline: Instant,
) -> Result<OwnedSemaphorePermit, BodyError> {
    let bytes = u32::try_from(bytes).map_err(|_| BodyError::TooLarge)?;
    match timeout_at(deadline, Arc::clone(room).acquire_many_owned(bytes)).await {
        Ok(Ok(taken)) => Ok(taken),
        Ok(Err(_)) | Err(_) => Err(BodyError::NoRoom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use futures::stream;
    use rstest::rstest;
    use std::convert::Infallible;

    fn pieces(pieces: Vec<Vec<u8>>) -> Body {
        Body::from_stream(stream::iter(pieces.into_iter().map(Ok::<_, Infallible>)))
    }

    fn assert_all_is_given_back(room: &BodyRoom) {
        assert_eq!(room.small.available_permits(), SMALL_BODIES_BYTES);
        assert_eq!(room.large.available_permits(), LARGE_BODIES_BYTES);
    }

    #[rstest]
    #[case(vec![])]
    #[case(vec![b"one".to_vec()])]
    #[case(vec![b"one".to_vec(), b"two".to_vec()])]
    #[case(vec![b"".to_vec(), b"one".to_vec(), b"".to_vec(), b"two".to_vec(), b"three".to_vec()])]
    #[tokio::test]
    async fn the_pieces_are_joined(#[case] parts: Vec<Vec<u8>>) {
        let expected = parts.concat();
        let room = BodyRoom::default();
        assert_eq!(room.read(pieces(parts)).await.unwrap().bytes, expected);
        assert_all_is_given_back(&room);
    }

    #[tokio::test]
    async fn the_limit_is_exact() {
        let room = BodyRoom::default();
        let exact = room.read(Body::from(vec![0; MAX_BODY_BYTES])).await;
        assert_eq!(exact.unwrap().bytes.len(), MAX_BODY_BYTES);
        let beyond = room.read(Body::from(vec![0; MAX_BODY_BYTES + 1])).await;
        assert_eq!(beyond.unwrap_err(), BodyError::TooLarge);
        let endless = Body::from_stream(stream::repeat_with(|| {
            Ok::<_, Infallible>(vec![0; 1 << 16])
        }));
        assert_eq!(room.read(endless).await.unwrap_err(), BodyError::TooLarge);
        assert_all_is_given_back(&room);
    }

    #[tokio::test(start_paused = true)]
    async fn what_stops_is_not_waited_for() {
        let started = Instant::now();
        let stalled = stream::iter([Ok::<_, Infallible>(b"{".to_vec())]);
        let stalled = futures::StreamExt::chain(stalled, stream::pending());
        let read = BodyRoom::default().read(Body::from_stream(stalled)).await;
        assert_eq!(read.unwrap_err(), BodyError::TooSlow);
        assert!(started.elapsed() <= BODY_TIMEOUT + Duration::from_millis(10));
    }

    #[tokio::test(start_paused = true)]
    async fn what_trickles_is_not_waited_for() {
        let started = Instant::now();
        let trickle = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Some((Ok::<_, Infallible>(vec![b' ']), ()))
        });
        let read = BodyRoom::default().read(Body::from_stream(trickle)).await;
        assert_eq!(read.unwrap_err(), BodyError::TooSlow);
        assert!(started.elapsed() <= BODY_TIMEOUT + Duration::from_millis(110));
    }

    #[tokio::test(start_paused = true)]
    async fn large_bodies_are_bounded_together_and_leave_room_for_small_ones() {
        let room = BodyRoom::default();
        let large = || Body::from(vec![0; MAX_BODY_BYTES]);
        let mut held = Vec::new();
        for _ in 0..LARGE_BODIES_BYTES / MAX_BODY_BYTES {
            held.push(room.read(large()).await.unwrap());
        }
        assert_eq!(room.read(large()).await.unwrap_err(), BodyError::NoRoom);
        room.read(Body::from(vec![0; SMALL_BODY_BYTES]))
            .await
            .unwrap();
        let give_back = async {
            tokio::time::sleep(BODY_TIMEOUT / 2).await;
            held.pop();
        };
        let (read, ()) = tokio::join!(room.read(large()), give_back);
        read.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_grows_beyond_small_takes_the_room_of_the_largest() {
        let room = BodyRoom::default();
        let parts = vec![vec![0; SMALL_BODY_BYTES], vec![0; 1]];
        let held = room.read(pieces(parts)).await.unwrap();
        assert_eq!(held.bytes.len(), SMALL_BODY_BYTES + 1);
        assert_eq!(room.small.available_permits(), SMALL_BODIES_BYTES);
        assert_eq!(
            room.large.available_permits(),
            LARGE_BODIES_BYTES - MAX_BODY_BYTES
        );
        drop(held);
        assert_all_is_given_back(&room);
    }
}
