//! A cluster with two nodes and without Pullpass, for what is put on a node by hand.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tokio::process::Command;

use crate::checkout;
use crate::cluster::{Cluster, NODES, run};
use crate::dump::DumpOnFailure;
use crate::lock::{Lock, Mode};
use crate::registry::ImageRegistry;
use crate::server::ApiServer;
use crate::{image, must};

/// What a node sees under a path, and where that lies below the node's directory on this machine.
const PLACES: [(&str, &str); 3] = [
    ("/etc/kubernetes", "kubernetes"),
    ("/etc/containerd", "containerd-config"),
    ("/var/lib/kubelet", "kubelet"),
];

/// The names of the nodes.
pub const NODE_1: &str = "node-1";
/// The second one.
pub const NODE_2: &str = "node-2";

/// The cluster, for one test at a time.
pub struct Nodes {
    server: ApiServer,
    registry: ImageRegistry,
    _dump: DumpOnFailure,
    _lock: Lock,
}

impl Deref for Nodes {
    type Target = ApiServer;

    fn deref(&self) -> &ApiServer {
        &self.server
    }
}

impl Nodes {
    /// The cluster's private registry.
    pub fn registry(&self) -> &ImageRegistry {
        &self.registry
    }

    /// Pushes a small private image to a repository, as the registry's first user, and returns the reference that a pod
    /// names.
    pub async fn push_image(&self, repository: &str) -> String {
        must(image::push(&self.registry, self.registry.first_user(), repository).await)
    }

    /// Where a file of a node lies on this machine.
    pub fn file(&self, node: &str, path: &str) -> PathBuf {
        let own = PLACES.iter().find_map(|(place, own)| {
            let below = Path::new(path).strip_prefix(place).ok()?;
            Some(Path::new(own).join(below))
        });
        let own = must(own.with_context(|| format!("{path} is no place of the node's own")));
        let nodes = self.server.cluster().directory().join("nodes");
        nodes.join(node).join(own)
    }

    /// The id of a node's kubelet.
    pub fn kubelet(&self, node: &str) -> u32 {
        must(self.server.cluster().process(&format!("{node}-kubelet")))
    }

    /// Starts a node's kubelet anew, and waits until the node is ready.
    pub async fn restart_kubelet(&self, node: &str) {
        let component = format!("{node}-kubelet");
        must(self.server.cluster().restart(&component).await);
    }
}

/// Takes the cluster; brings it up where it is not.
///
/// # Panics
/// Where this machine cannot run a cluster, with the reason.
pub async fn nodes() -> Nodes {
    let lock = must(Lock::take(NODES, Mode::Exclusive).await);
    let cluster = Cluster::named(NODES);
    must(cluster.up_with_nodes(2).await);
    let registry = must(ImageRegistry::of(&cluster));
    let server = must(ApiServer::connect(cluster).await);
    Nodes {
        _dump: DumpOnFailure::of(&server),
        server,
        registry,
        _lock: lock,
    }
}

/// The credential provider plugin, built where that is not done: a static program.
///
/// # Panics
/// If it does not build.
pub async fn plugin() -> PathBuf {
    must(build_plugin().await)
}

async fn build_plugin() -> Result<PathBuf> {
    const PROGRAM: &str = "pullpass-credential-provider";
    const PLATFORM: &str = "x86_64-unknown-linux-gnu";
    let _lock = Lock::take("plugin", Mode::Exclusive).await?;
    run(Command::new("cargo")
        .args(["build", "--quiet", "--target", PLATFORM, "--bin", PROGRAM])
        .current_dir(checkout::root()))
    .await
    .context("cannot build the credential provider plugin")?;
    Ok(checkout::path("target")
        .join(PLATFORM)
        .join("debug")
        .join(PROGRAM))
}
