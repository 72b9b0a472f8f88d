//! Locks between test processes, and between the tests of one process. The kernel releases them with the process.

use std::fs::{File, TryLockError};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::checkout;

/// How often a held lock is asked for again. Short beside any test, long beside the system call.
const POLL: Duration = Duration::from_millis(50);

/// A held lock.
#[derive(Debug)]
pub(crate) struct Lock {
    // closing the file releases the lock
    _file: File,
}

/// Whether others may hold the same lock at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Shared,
    Exclusive,
}

impl Lock {
    /// Takes the lock if nobody is in the way.
    pub(crate) fn try_take(name: &str, mode: Mode) -> Result<Option<Self>> {
        let path = checkout::scratch("locks")?.join(format!("{name}.lock"));
        let file = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("cannot open the lock {}", path.display()))?;
        let taken = match mode {
            Mode::Shared => file.try_lock_shared(),
            Mode::Exclusive => file.try_lock(),
        };
        match taken {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    /// Waits for the lock, for as long as it takes: a test before this one ends in the end.
    pub(crate) async fn take(name: &str, mode: Mode) -> Result<Self> {
        loop {
            if let Some(lock) = Self::try_take(name, mode)? {
                return Ok(lock);
            }
            tokio::time::sleep(POLL).await;
        }
    }
}
