//! One term of leadership: the right to write, and its end.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::leader::Monotonic;

/// Longer than any write of ours takes on a healthy API server, retries after a `Retry-After` of some seconds included.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// The right to write, from the taking of the Lease until it cannot be renewed. Clones are the same term.
#[derive(Clone, Debug)]
pub(crate) struct Term {
    over: CancellationToken,
    /// In milliseconds of [`clock::now`].
    valid_until: Arc<AtomicU64>,
}

/// Why a write has no known success.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// The term is over; nothing more may be written.
    TermOver,
    /// No answer in time: it may have been written or not.
    NoAnswer,
    /// The API server said no, or could not be understood.
    Api(Box<kube::Error>),
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TermOver => f.write_str("leads no more"),
            Self::NoAnswer => f.write_str("no answer from the API server in time"),
            Self::Api(error) => f.write_str(&explain(error)),
        }
    }
}

/// What an API error says, without any part of the exchange's content: an answer that could not be understood may hold
/// a Secret.
pub(crate) fn explain(error: &kube::Error) -> String {
    const LONGEST: usize = 300;
    if let kube::Error::Api(status) = error {
        let message: String = status.message.chars().take(LONGEST).collect();
        format!("{} {}: {message}", status.code, status.reason)
    } else if let kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) = error {
        "the API server's answer could not be understood".to_owned()
    } else {
        pullpass_daemon::chain(error)
    }
}

impl WriteError {
    /// The API server's refusal, where it is one.
    pub(crate) fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Api(error) => {
                if let kube::Error::Api(status) = error.as_ref() {
                    Some(status)
                } else {
                    None
                }
            }
            Self::TermOver | Self::NoAnswer => None,
        }
    }

    /// Whether the object to write to, or its resource, is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_not_found)
    }

    /// Whether the object is not any more what it was when the write was decided on.
    pub(crate) fn is_conflict(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_conflict)
    }
}

impl Term {
    /// A term that is valid until then.
    pub(crate) fn new(valid_until: Monotonic) -> Self {
        let term = Self {
            over: CancellationToken::new(),
            valid_until: Arc::default(),
        };
        term.extend(valid_until);
        term
    }

    /// The Lease was renewed.
    pub(crate) fn extend(&self, valid_until: Monotonic) {
        let milliseconds = u64::try_from(valid_until.as_millis()).unwrap_or(u64::MAX);
        self.valid_until.store(milliseconds, Ordering::Release);
    }

    /// Ends the term for everybody who works in it.
    pub(crate) fn end(&self) {
        self.over.cancel();
    }

    /// Cancelled when the term ends.
    pub(crate) fn over(&self) -> CancellationToken {
        self.over.clone()
    }

    fn remaining(&self) -> Duration {
        let valid_until = Duration::from_millis(self.valid_until.load(Ordering::Acquire));
        valid_until.saturating_sub(clock::now())
    }

    /// Makes one write, unless the term is over; gives it up when the term ends meanwhile.
    ///
    /// # Errors
    /// [`WriteError`]; only with [`WriteError::Api`] it is known that nothing was written.
    pub(crate) async fn write<T>(
        &self,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, WriteError> {
        let remaining = self.remaining();
        if remaining.is_zero() || self.over.is_cancelled() {
            return Err(WriteError::TermOver);
        }
        let bounded = tokio::time::timeout(remaining.min(WRITE_TIMEOUT), request);
        match self.over.run_until_cancelled(bounded).await {
            None => Err(WriteError::TermOver),
            Some(Err(_)) => Err(WriteError::NoAnswer),
            Some(Ok(answer)) => answer.map_err(|error| WriteError::Api(Box::new(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn far() -> Monotonic {
        clock::now() + Duration::from_secs(3600)
    }

    async fn wrote(term: &Term) -> bool {
        let mut sent = false;
        let result = term
            .write(async {
                sent = true;
                Ok(())
            })
            .await;
        assert_eq!(result.is_ok(), sent);
        sent
    }

    #[tokio::test]
    async fn writes_are_made_within_the_term_only() {
        let term = Term::new(far());
        assert!(wrote(&term).await);
        term.end();
        assert!(!wrote(&term).await);
    }

    #[tokio::test]
    async fn a_term_that_was_not_renewed_writes_nothing() {
        let term = Term::new(clock::now());
        assert!(!wrote(&term).await);
        term.extend(far());
        assert!(wrote(&term).await);
    }

    #[tokio::test]
    async fn a_write_under_way_is_given_up_with_the_term() {
        let term = Term::new(far());
        let over = term.clone();
        let request = async {
            over.end();
            std::future::pending::<kube::Result<()>>().await
        };
        assert!(matches!(
            term.write(request).await,
            Err(WriteError::TermOver)
        ));
    }

    #[tokio::test]
    async fn an_answer_that_is_not_understood_is_not_repeated() {
        let garbled = serde_json::from_str::<u8>("\"CANARY\"").unwrap_err();
        assert!(garbled.to_string().contains("CANARY"));
        let error = WriteError::Api(Box::new(kube::Error::SerdeError(garbled)));
        assert!(!error.to_string().contains("CANARY"));
    }
}
