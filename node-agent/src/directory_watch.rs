//! Watches on directories of the host: directories and not files, since a file is replaced by another of its name.

use std::path::PathBuf;
use std::sync::Arc;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use crate::host::{Identity, RealHost};

/// A watch on one directory, renewed when another directory is in its place.
pub(crate) struct DirectoryWatch {
    path: PathBuf,
    changed: Arc<Notify>,
    current: Option<(Identity, RecommendedWatcher)>,
    is_told: bool,
}

impl DirectoryWatch {
    /// Watches from the first [`DirectoryWatch::renew`] on; `changed` is notified of each change.
    pub(crate) fn new(path: PathBuf, changed: Arc<Notify>) -> Self {
        Self {
            path,
            changed,
            current: None,
            is_told: false,
        }
    }

    /// Watches what is there now. Where it cannot, as on a node with too many watches, the directory is looked at in
    /// intervals only.
    pub(crate) fn renew(&mut self) {
        let identity = RealHost::open(&self.path).and_then(|host| host.identity());
        let Ok(identity) = identity else {
            self.current = None;
            return;
        };
        if self.current.as_ref().is_some_and(|(of, _)| *of == identity) {
            return;
        }
        let changed = Arc::clone(&self.changed);
        // errors count as changes: after a lost event only a look tells what is there
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // a look is reported too, and must not lead to another
            if !event.is_ok_and(|event| event.kind.is_access()) {
                changed.notify_one();
            }
        });
        let watched = watcher.and_then(|mut watcher| {
            watcher.watch(&self.path, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match watched {
            Ok(watcher) => {
                self.current = Some((identity, watcher));
                self.is_told = false;
            }
            Err(error) => {
                self.current = None;
                if !std::mem::replace(&mut self.is_told, true) {
                    tracing::warn!(directory = %self.path.display(), %error, "directory cannot be watched, so it is looked at in intervals only");
                }
            }
        }
    }
}
