//! Readiness: named guards, each of which has to fall. Liveness: named checks, each of which has to hold.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// A set of things that a process waits for before it may be sent work. Clones share the set.
#[derive(Debug, Clone)]
pub struct Readiness {
    awaited: watch::Sender<Awaited>,
}

#[derive(Debug, Clone, Default)]
struct Awaited {
    /// by registration, so that two guards may have one name
    names: BTreeMap<u64, Cow<'static, str>>,
    registered: u64,
    withdrawn: bool,
}

/// Why work must not be sent here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unready {
    /// These are awaited, sorted by name.
    Awaiting(Vec<String>),
    /// The process is about to end.
    ShuttingDown,
}

impl fmt::Display for Unready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Awaiting(names) => write!(f, "awaiting: {}", names.join(", ")),
            Self::ShuttingDown => f.write_str("shutting down"),
        }
    }
}

/// Something that is awaited; dropped when it has come about.
#[derive(Debug)]
pub struct Guard {
    id: u64,
    awaited: watch::Sender<Awaited>,
}

impl Readiness {
    /// Awaits nothing yet, and therefore is ready.
    #[must_use]
    pub fn new() -> Self {
        Self {
            awaited: watch::Sender::new(Awaited::default()),
        }
    }

    /// One more thing to wait for: until the guard is dropped, the process is not ready.
    #[must_use = "dropping the guard says that what it stands for has come about"]
    pub fn register(&self, name: impl Into<Cow<'static, str>>) -> Guard {
        let mut id = 0;
        self.awaited.send_modify(|awaited| {
            id = awaited.registered;
            awaited.registered += 1;
            awaited.names.insert(id, name.into());
        });
        Guard {
            id,
            awaited: self.awaited.clone(),
        }
    }

    /// Whether work may be sent here.
    ///
    /// # Errors
    /// [`Unready`] says what is still awaited.
    pub fn check(&self) -> Result<(), Unready> {
        self.awaited.borrow().check()
    }

    /// Resolves as soon as nothing is awaited; never once withdrawn.
    pub async fn ready(&self) {
        let mut changes = self.awaited.subscribe();
        // the sender lives in self
        let _ = changes.wait_for(|awaited| awaited.check().is_ok()).await;
    }

    /// Not ready any more, for good: the process is about to end.
    pub fn withdraw(&self) {
        self.awaited.send_modify(|awaited| awaited.withdrawn = true);
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Awaited {
    fn check(&self) -> Result<(), Unready> {
        if self.withdrawn {
            return Err(Unready::ShuttingDown);
        }
        if self.names.is_empty() {
            return Ok(());
        }
        let mut names: Vec<String> = self.names.values().map(ToString::to_string).collect();
        names.sort();
        Err(Unready::Awaiting(names))
    }
}

impl Guard {
    /// What it stands for has come about; the same as dropping it.
    pub fn fulfil(self) {}
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.awaited.send_modify(|awaited| {
            let name = awaited.names.remove(&self.id);
            tracing::debug!(
                fulfilled = name.as_deref(),
                awaited = awaited.names.len(),
                "readiness"
            );
            if awaited.names.is_empty() && !awaited.withdrawn {
                tracing::info!("ready");
            }
        });
    }
}

type Check = Box<dyn Fn() -> Result<(), String> + Send>;

/// Checks which all hold while the process does its work. Clones share them.
#[derive(Clone, Default)]
pub struct Liveness {
    checks: Arc<Mutex<Vec<(&'static str, Check)>>>,
}

impl Liveness {
    /// No checks yet: alive as long as it answers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One more check. It must be quick, and fail only where a restart of the process would help.
    pub fn register(
        &self,
        name: &'static str,
        check: impl Fn() -> Result<(), String> + Send + 'static,
    ) {
        self.lock().push((name, Box::new(check)));
    }

    /// Runs every check.
    ///
    /// # Errors
    /// `name: what is wrong` for each that fails.
    pub fn check(&self) -> Result<(), Vec<String>> {
        let failures: Vec<String> = self
            .lock()
            .iter()
            .filter_map(|(name, check)| check().err().map(|failure| format!("{name}: {failure}")))
            .collect();
        if failures.is_empty() {
            Ok(())
        } else {
            Err(failures)
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(&'static str, Check)>> {
        // a check that panicked has changed nothing in the list
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Liveness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.lock().iter().map(|(name, _)| name))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn ready_when_every_guard_has_fallen() {
        let readiness = Readiness::new();
        let registries = readiness.register("registries");
        let certificate = readiness.register("certificate");
        let second = readiness.register("certificate");
        assert_eq!(
            readiness.check().unwrap_err().to_string(),
            "awaiting: certificate, certificate, registries"
        );
        drop(registries);
        second.fulfil();
        assert_eq!(
            readiness.check(),
            Err(Unready::Awaiting(vec!["certificate".into()]))
        );
        assert!(readiness.ready().now_or_never().is_none());
        drop(certificate);
        assert_eq!(readiness.check(), Ok(()));
        assert!(readiness.ready().now_or_never().is_some());
    }

    #[test]
    fn a_guard_may_be_registered_late_and_withdrawal_is_final() {
        let readiness = Readiness::new();
        assert_eq!(readiness.check(), Ok(()));
        let late = readiness.register("late");
        assert!(readiness.check().is_err());
        readiness.clone().withdraw();
        drop(late);
        assert_eq!(readiness.check(), Err(Unready::ShuttingDown));
    }

    #[test]
    fn a_failed_check_is_named() {
        let liveness = Liveness::new();
        assert_eq!(liveness.check(), Ok(()));
        liveness.register("good", || Ok(()));
        liveness.register("watches", || Err("silent".into()));
        assert_eq!(liveness.check(), Err(vec!["watches: silent".to_owned()]));
    }
}
