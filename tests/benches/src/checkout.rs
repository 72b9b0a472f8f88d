//! Where things lie in the checkout that this was built from.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// A path below the checkout's root.
pub(crate) fn path(below: &str) -> PathBuf {
    // two directories above this package
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap_or(Path::new("/"))
        .join(below)
}

/// Where everything goes that a run leaves behind; made if it is not there.
pub(crate) fn output() -> Result<PathBuf> {
    let directory = path("target/bench");
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}

/// A program that was built together with this one.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe().context("cannot tell where this program lies")?;
    let program = this.with_file_name(name);
    anyhow::ensure!(
        program.is_file(),
        "{} is missing: start the measurements with `make bench`, which builds it",
        program.display()
    );
    Ok(program)
}
