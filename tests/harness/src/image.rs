//! A private image to pull: a static program that waits to be ended.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use tokio::process::Command;

use crate::checkout;
use crate::cluster::run;
use crate::lock::{Lock, Mode};
use crate::name;
use crate::registry::{ImageRegistry, User};

/// Pushes the image to a repository and returns the reference that a pod names. The same repository can be pushed to
/// again; for a kubelet that has to pull, take a repository that no test has used.
///
/// # Errors
/// If what builds or pushes images is missing or fails.
pub(crate) async fn push(
    registry: &ImageRegistry,
    user: &User,
    repository: &str,
) -> Result<String> {
    let image = build().await?;
    let reference = format!("{}/{repository}:1", registry.host());
    let authfile = checkout::scratch("authfiles")?.join(name::unique("auth"));
    std::fs::write(&authfile, user.docker_config(registry.host()))?;
    let certificates = certificates(registry)?;
    let mut command = Command::new("skopeo");
    command
        .args(["--insecure-policy", "copy", "--quiet", "--dest-authfile"])
        .arg(&authfile)
        .arg("--dest-cert-dir")
        .arg(certificates)
        .arg(format!("oci-archive:{image}"))
        .arg(format!("docker://{reference}"));
    let pushed = run(&mut command).await;
    std::fs::remove_file(&authfile)?;
    pushed.with_context(|| format!("cannot push {reference}"))?;
    Ok(reference)
}

/// A directory with the registry's authority in the form that skopeo takes.
fn certificates(registry: &ImageRegistry) -> Result<PathBuf> {
    let directory = checkout::scratch("certificates")?.join(registry.host());
    std::fs::create_dir_all(&directory)?;
    if let Some(authority) = registry.authority() {
        let written = directory.join(name::unique("authority"));
        std::fs::copy(authority, &written)
            .with_context(|| format!("cannot read {}", authority.display()))?;
        // another test may read it now
        std::fs::rename(&written, directory.join("ca.crt"))?;
    }
    Ok(directory)
}

/// Builds the image where that is not done, and returns its OCI archive.
async fn build() -> Result<String> {
    let _lock = Lock::take("image", Mode::Exclusive).await?;
    let built = run(&mut Command::new(checkout::path("tests/sleeper/build")))
        .await
        .context("cannot build the private image: run tests/prerequisites")?;
    Ok(built.trim().to_owned())
}
