//! The bundles on the node: one file for each Secret, in a directory that only root can read.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use pullpass_core::bundle::{Bundle, BundleError, NODE_WIDE_SECRET, RESTRICTED_SECRET};
use pullpass_core::render::MAX_SECRET_BYTES;

use crate::arguments::Arguments;

/// The Secrets whose bundles the store holds.
pub const SECRETS: [&str; 2] = [NODE_WIDE_SECRET, RESTRICTED_SECRET];

/// Holds the name of the configuration that kubelet last called the plugin by.
pub const CONFIGURATION_FILE: &str = "configuration";

/// Why a bundle of the store cannot be used. Its content is not repeated.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is a directory, a pipe or the like.
    #[error("{} is no file: remove it, and the node agent writes it anew", path.display())]
    NoFile {
        /// Which path.
        path: PathBuf,
    },
    /// It is larger than any Secret.
    #[error("{} has more than 1 MiB: remove it, and the node agent writes it anew", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// It holds no bundle of this release.
    #[error("{}: {source}", path.display())]
    Bundle {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: BundleError,
    },
}

/// What a store holds, as far as it can be read.
#[derive(Debug, Default)]
pub struct Store {
    /// The bundles.
    pub bundles: Vec<Bundle>,
    /// What cannot be read of it.
    pub error: Option<StoreError>,
}

/// Where the bundle of a Secret lies in the store's directory.
pub fn path(directory: &Path, secret: &str) -> PathBuf {
    directory.join(secret).with_extension("json")
}

/// Reads the bundles in a directory. One that is not there is no error: in mode `dockerConfig`, before the agent's first
/// run and after its last there is none.
pub fn read(directory: &Path) -> Store {
    let mut store = Store::default();
    for secret in SECRETS {
        match read_bundle(path(directory, secret)) {
            Ok(bundle) => store.bundles.extend(bundle),
            Err(error) => store.error = Some(error),
        }
    }
    store
}

fn read_bundle(path: PathBuf) -> Result<Option<Bundle>, StoreError> {
    let metadata = match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StoreError::Read { path, source }),
        Ok(metadata) => metadata,
    };
    if !metadata.is_file() {
        // a pipe would hold up kubelet until it loses patience
        return Err(StoreError::NoFile { path });
    }
    let mut content = Vec::new();
    let bound = MAX_SECRET_BYTES as u64 + 1;
    let read = File::open(&path).and_then(|file| file.take(bound).read_to_end(&mut content));
    match read {
        Err(source) => Err(StoreError::Read { path, source }),
        Ok(_) if content.len() > MAX_SECRET_BYTES => Err(StoreError::TooLarge { path }),
        Ok(_) => match Bundle::parse(&content) {
            Ok(bundle) => Ok(Some(bundle)),
            Err(source) => Err(StoreError::Bundle { path, source }),
        },
    }
}

/// The name of the configuration that kubelet last called the plugin by, where it has called it.
///
/// # Errors
/// If the file is there and cannot be read.
pub fn called_by(directory: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(directory.join(CONFIGURATION_FILE)) {
        Ok(name) => Ok(Some(name)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Leaves the name of the configuration that kubelet calls the plugin by, for the agent to see that kubelet has read it.
/// Written only when it has changed; an answer does not depend on whether it can be.
pub(crate) fn note_configuration(arguments: &Arguments) {
    let current = called_by(&arguments.store);
    if current.is_ok_and(|name| name.as_deref() == Some(&arguments.configuration)) {
        return;
    }
    // kubelet runs several plugins at once
    let unfinished = arguments
        .store
        .join(format!("{CONFIGURATION_FILE}.{}", std::process::id()));
    let written = fs::write(&unfinished, &arguments.configuration)
        .and_then(|()| fs::rename(&unfinished, arguments.store.join(CONFIGURATION_FILE)));
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    fn bundle(generation: u64) -> Vec<u8> {
        let bundle = Bundle {
            generation,
            ..Bundle::default()
        };
        bundle.write().expose_secret().to_vec()
    }

    fn generations(store: &Store) -> Vec<u64> {
        let bundles = store.bundles.iter();
        bundles.map(|bundle| bundle.generation).collect()
    }

    #[test]
    fn what_is_there_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let empty = read(directory.path());
        assert!(empty.bundles.is_empty() && empty.error.is_none());
        let nowhere = read(&directory.path().join("nowhere"));
        assert!(nowhere.bundles.is_empty() && nowhere.error.is_none());

        fs::write(path(directory.path(), NODE_WIDE_SECRET), bundle(1)).unwrap();
        assert_eq!(generations(&read(directory.path())), [1]);
        fs::write(path(directory.path(), RESTRICTED_SECRET), bundle(2)).unwrap();
        fs::write(path(directory.path(), "other"), bundle(3)).unwrap();
        assert_eq!(generations(&read(directory.path())), [1, 2]);
    }

    #[test]
    fn what_is_damaged_is_named_and_the_rest_is_read() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(path(directory.path(), NODE_WIDE_SECRET), bundle(1)).unwrap();
        let damaged = path(directory.path(), RESTRICTED_SECRET);
        for (content, message) in [
            (b"{\"CANARY\":".to_vec(), "line 1"),
            (vec![b' '; MAX_SECRET_BYTES + 1], "more than 1 MiB"),
        ] {
            fs::write(&damaged, content).unwrap();
            let store = read(directory.path());
            assert_eq!(generations(&store), [1]);
            let error = store.error.unwrap().to_string();
            assert!(error.contains("pullpass-nodes-restricted.json"), "{error}");
            assert!(error.contains(message), "{error}");
            assert!(!error.contains("CANARY"), "{error}");
        }
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let directory = tempfile::tempdir().unwrap();
        let place = path(directory.path(), NODE_WIDE_SECRET);
        fs::create_dir(&place).unwrap();
        let error = read(directory.path()).error.unwrap();
        assert!(matches!(error, StoreError::NoFile { .. }), "{error}");
        fs::remove_dir(&place).unwrap();
        // reading would go on for ever
        std::os::unix::fs::symlink("/dev/zero", &place).unwrap();
        let error = read(directory.path()).error.unwrap();
        assert!(matches!(error, StoreError::NoFile { .. }), "{error}");
    }

    #[test]
    fn the_configuration_is_noted_once() {
        let directory = tempfile::tempdir().unwrap();
        let note = |configuration: &str| {
            note_configuration(&Arguments {
                store: directory.path().to_owned(),
                configuration: configuration.to_owned(),
            });
        };
        assert_eq!(called_by(directory.path()).unwrap(), None);
        note("a");
        assert_eq!(called_by(directory.path()).unwrap().as_deref(), Some("a"));
        let written = || {
            let path = directory.path().join(CONFIGURATION_FILE);
            std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap())
        };
        let before = written();
        note("a");
        assert_eq!(written(), before);
        note("b");
        assert_eq!(called_by(directory.path()).unwrap().as_deref(), Some("b"));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
