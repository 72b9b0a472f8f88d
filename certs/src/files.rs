//! A directory as the source of the serving certificate: a mounted Secret of type `kubernetes.io/tls`.
//!
//! Kubelet publishes a Secret as a directory of symlinks: `tls.crt → ..data/tls.crt`, `..data → ..<timestamp>`.
//! An update makes a new timestamped directory and renames a new `..data` over the old one (kubelet's
//! `AtomicWriter`, pkg/volume/util/atomic_writer.go). A watch on a file follows its symlink and dies with the first swap: so the
//! directory is watched, read again on any event, and compared by content.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::resolver::{IdentityError, ServingIdentity};
use crate::state::{SERVING_CERTIFICATE, SERVING_KEY};

/// The symlink that kubelet swaps.
const DATA: &str = "..data";

/// How often the directory is read though nothing was reported: inotify loses events when its queue overflows,
/// and some file systems send none. Kubelet itself syncs about once a minute.
pub const READ_INTERVAL: Duration = Duration::from_secs(60);

/// Why a directory holds no certificate at the moment.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// A file is missing or unreadable.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The files do not make a certificate with its key.
    #[error("{path}: {source}")]
    Identity {
        /// The directory.
        path: PathBuf,
        /// What is wrong with them.
        source: IdentityError,
    },
}

/// A directory with `tls.crt` and `tls.key`.
#[derive(Debug, Clone)]
pub struct CertificateDirectory {
    path: PathBuf,
    read_interval: Duration,
}

#[derive(PartialEq, Eq)]
struct Content {
    chain: Vec<u8>,
    key: Vec<u8>,
}

impl CertificateDirectory {
    /// The directory at `path`, read at least every [`READ_INTERVAL`].
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            read_interval: READ_INTERVAL,
        }
    }

    /// The same, read at least every `interval`.
    #[must_use]
    pub fn read_interval(self, interval: Duration) -> Self {
        Self {
            read_interval: interval,
            ..self
        }
    }

    /// Reads the certificate as it is now.
    ///
    /// # Errors
    /// [`DirectoryError`] if a file is missing, unreadable, half-written, or the key is another's.
    pub fn read(&self) -> Result<ServingIdentity, DirectoryError> {
        self.identity(&self.content()?)
    }

    /// Calls `on_change` with the certificate as soon as there is one, and again whenever it becomes another,
    /// until `stop` is cancelled. Content that cannot be used changes nothing and is logged once.
    pub async fn follow(
        &self,
        stop: CancellationToken,
        mut on_change: impl FnMut(ServingIdentity),
    ) {
        let changed = Arc::new(Notify::new());
        let _watcher = self.watch(&changed);
        let mut tick = tokio::time::interval(self.read_interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut served = None;
        let mut complaint = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = changed.notified() => {}
                _ = tick.tick() => {}
            }
            let content = self.content();
            if content
                .as_ref()
                .is_ok_and(|content| served.as_ref() == Some(content))
            {
                complaint = None;
                continue;
            }
            match content.and_then(|content| Ok((self.identity(&content)?, content))) {
                Ok((identity, content)) => {
                    tracing::info!(
                        directory = %self.path.display(),
                        serial = identity.leaf().serial(),
                        expires = %identity.leaf().not_after(),
                        "serving certificate read"
                    );
                    served = Some(content);
                    complaint = None;
                    on_change(identity);
                }
                Err(error) => {
                    let error = Some(error.to_string());
                    if complaint != error {
                        tracing::warn!(
                            directory = %self.path.display(),
                            error = error.as_deref(),
                            "no usable serving certificate in the directory, what is served stays"
                        );
                    }
                    complaint = error;
                }
            }
        }
    }

    fn watch(&self, changed: &Arc<Notify>) -> Option<RecommendedWatcher> {
        let notify = Arc::clone(changed);
        // errors count as events: after a lost one only reading tells what is there
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // reading the files is reported too, and must not lead to reading them again
            if !event.is_ok_and(|event| event.kind.is_access()) {
                notify.notify_one();
            }
        });
        let watched = watcher.and_then(|mut watcher| {
            watcher.watch(&self.path, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        watched
            .inspect_err(|error| {
                tracing::warn!(
                    directory = %self.path.display(),
                    %error,
                    interval_seconds = self.read_interval.as_secs(),
                    "directory cannot be watched, so it is read at intervals only"
                );
            })
            .ok()
    }

    fn content(&self) -> Result<Content, DirectoryError> {
        // One look at the link, so that both files come from the same version. A mounted Secret lies in memory:
        // reading it does not hold up the runtime.
        let directory =
            std::fs::canonicalize(self.path.join(DATA)).unwrap_or_else(|_| self.path.clone());
        Ok(Content {
            chain: read(&directory.join(SERVING_CERTIFICATE))?,
            key: read(&directory.join(SERVING_KEY))?,
        })
    }

    fn identity(&self, content: &Content) -> Result<ServingIdentity, DirectoryError> {
        ServingIdentity::from_pem(&content.chain, &content.key).map_err(|source| {
            DirectoryError::Identity {
                path: self.path.clone(),
                source,
            }
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, DirectoryError> {
    std::fs::read(path).map_err(|source| DirectoryError::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use jiff::{SignedDuration, Timestamp};
    use tokio::sync::mpsc;

    use super::*;
    use crate::issue::{Issued, Validity, issue_authority};

    /// Longer than anything here takes, shorter than patience.
    const CONVERGENCE: Duration = Duration::from_secs(30);
    const NEVER: Duration = Duration::from_secs(3600);

    fn issued() -> Issued {
        // self-signed is enough to be served
        issue_authority(Validity::lasting(
            Timestamp::now(),
            SignedDuration::from_hours(1),
            SignedDuration::ZERO,
        ))
        .unwrap()
    }

    /// What kubelet does to a mounted Secret.
    struct Mount {
        directory: tempfile::TempDir,
        version: u32,
    }

    impl Mount {
        fn new() -> Self {
            Self {
                directory: tempfile::tempdir().unwrap(),
                version: 0,
            }
        }

        fn path(&self) -> &Path {
            self.directory.path()
        }

        /// A new version of the content, swapped in at once.
        fn publish(&mut self, certificate: &str, key: &str) {
            let old = self.path().join(format!("..2026_01_01_{}", self.version));
            self.version += 1;
            let name = format!("..2026_01_01_{}", self.version);
            let new = self.path().join(&name);
            fs::create_dir(&new).unwrap();
            fs::write(new.join(SERVING_CERTIFICATE), certificate).unwrap();
            fs::write(new.join(SERVING_KEY), key).unwrap();
            symlink(&name, self.path().join("..data_tmp")).unwrap();
            fs::rename(self.path().join("..data_tmp"), self.path().join(DATA)).unwrap();
            if self.version == 1 {
                for file in [SERVING_CERTIFICATE, SERVING_KEY] {
                    symlink(Path::new(DATA).join(file), self.path().join(file)).unwrap();
                }
            } else {
                fs::remove_dir_all(old).unwrap();
            }
        }

        fn publish_issued(&mut self, issued: &Issued) {
            self.publish(&issued.certificate.pem(), issued.key.expose_pem());
        }
    }

    struct Follower {
        seen: mpsc::UnboundedReceiver<ServingIdentity>,
        stop: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    impl Follower {
        fn start(path: &Path, interval: Duration) -> Self {
            let (sender, seen) = mpsc::unbounded_channel();
            let stop = CancellationToken::new();
            let directory = CertificateDirectory::new(path).read_interval(interval);
            let stopped = stop.clone();
            let task = tokio::spawn(async move {
                directory
                    .follow(stopped, move |identity| sender.send(identity).unwrap())
                    .await;
            });
            Self { seen, stop, task }
        }

        async fn next(&mut self) -> ServingIdentity {
            tokio::time::timeout(CONVERGENCE, self.seen.recv())
                .await
                .expect("a certificate in time")
                .unwrap()
        }

        /// Everything that was seen and not yet asked for.
        async fn finish(mut self) -> usize {
            self.stop.cancel();
            self.task.await.unwrap();
            self.seen.close();
            let mut rest = 0;
            while self.seen.recv().await.is_some() {
                rest += 1;
            }
            rest
        }
    }

    #[tokio::test]
    async fn every_swap_is_noticed() {
        let mut mount = Mount::new();
        let first = issued();
        mount.publish_issued(&first);
        let mut follower = Follower::start(mount.path(), NEVER);
        assert_eq!(follower.next().await.leaf(), &first.certificate);
        for _ in 0..3 {
            let next = issued();
            mount.publish_issued(&next);
            assert_eq!(follower.next().await.leaf(), &next.certificate);
        }
        assert_eq!(follower.finish().await, 0);
    }

    #[tokio::test]
    async fn the_same_content_again_is_no_change() {
        let mut mount = Mount::new();
        let (first, second) = (issued(), issued());
        mount.publish_issued(&first);
        let mut follower = Follower::start(mount.path(), NEVER);
        assert_eq!(follower.next().await.leaf(), &first.certificate);
        mount.publish_issued(&first);
        mount.publish_issued(&second);
        assert_eq!(follower.next().await.leaf(), &second.certificate);
        assert_eq!(follower.finish().await, 0);
    }

    #[tokio::test]
    async fn a_half_written_state_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = (
            directory.path().join(SERVING_CERTIFICATE),
            directory.path().join(SERVING_KEY),
        );
        let (first, second) = (issued(), issued());
        fs::write(&certificate, first.certificate.pem()).unwrap();
        let mut follower = Follower::start(directory.path(), NEVER);
        fs::write(&key, &first.key.expose_pem().as_bytes()[..40]).unwrap();
        fs::write(&key, first.key.expose_pem()).unwrap();
        assert_eq!(follower.next().await.leaf(), &first.certificate);
        // new certificate, old key
        fs::write(&certificate, second.certificate.pem()).unwrap();
        let source = CertificateDirectory::new(directory.path());
        assert!(matches!(
            source.read(),
            Err(DirectoryError::Identity { .. })
        ));
        fs::write(&key, second.key.expose_pem()).unwrap();
        assert_eq!(follower.next().await.leaf(), &second.certificate);
        assert_eq!(follower.finish().await, 0);
    }

    #[tokio::test]
    async fn what_no_event_tells_the_tick_finds() {
        let parent = tempfile::tempdir().unwrap();
        let late = parent.path().join("late");
        // cannot be watched: it is not there yet
        let mut follower = Follower::start(&late, Duration::from_millis(20));
        let missing = CertificateDirectory::new(&late).read().unwrap_err();
        assert!(missing.to_string().contains("late/tls.crt"), "{missing}");
        let first = issued();
        fs::create_dir(&late).unwrap();
        fs::write(late.join(SERVING_CERTIFICATE), first.certificate.pem()).unwrap();
        fs::write(late.join(SERVING_KEY), first.key.expose_pem()).unwrap();
        assert_eq!(follower.next().await.leaf(), &first.certificate);
        assert_eq!(follower.finish().await, 0);
    }
}
