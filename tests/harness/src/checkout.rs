//! Where things lie in the checkout that the tests were built from.

use std::path::{Path, PathBuf};

/// The root of the checkout.
pub(crate) fn root() -> &'static Path {
    // two directories above this package
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// A path below the checkout's root, without `..` in it.
pub(crate) fn path(below: &str) -> PathBuf {
    root()
        .canonicalize()
        .unwrap_or_else(|_| root().to_owned())
        .join(below)
}

/// A directory of the tests' own files, made if it is not there.
pub(crate) fn scratch(name: &str) -> std::io::Result<PathBuf> {
    let directory = path("target/tests").join(name);
    std::fs::create_dir_all(&directory)?;
    Ok(directory)
}
