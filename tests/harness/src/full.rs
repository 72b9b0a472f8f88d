//! The full cluster, with Pullpass installed as its users install it.

use std::ops::Deref;
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;

use crate::cluster::{Cluster, FULL};
use crate::dump::DumpOnFailure;
use crate::lock::{Lock, Mode};
use crate::registry::{ImageRegistry, User};
use crate::server::ApiServer;
use crate::{image, install, must};

/// The full cluster beside other tests. What a test makes has names of its own, and its Registries select nothing but
/// its own namespaces.
pub struct Shared {
    full: Full,
    _lock: Lock,
}

/// The full cluster alone.
pub struct Exclusive {
    full: Full,
    _lock: Lock,
}

/// A full cluster: an API server with nodes behind it and a registry beside it.
pub struct Full {
    server: ApiServer,
    registry: ImageRegistry,
    _dump: DumpOnFailure,
}

impl Deref for Shared {
    type Target = Full;

    fn deref(&self) -> &Full {
        &self.full
    }
}

impl Deref for Exclusive {
    type Target = Full;

    fn deref(&self) -> &Full {
        &self.full
    }
}

impl Deref for Full {
    type Target = ApiServer;

    fn deref(&self) -> &ApiServer {
        &self.server
    }
}

impl Full {
    /// The cluster's private registry.
    pub fn registry(&self) -> &ImageRegistry {
        &self.registry
    }

    /// Pushes a small private image to a repository, as the registry's first user, and returns the reference that a pod
    /// names.
    pub async fn push_image(&self, repository: &str) -> String {
        let user: &User = self.registry.first_user();
        must(image::push(&self.registry, user, repository).await)
    }

    /// Installs Pullpass, or upgrades it to what is in the checkout; does nothing where that is what runs.
    pub async fn install(&self) {
        must(install::install(&self.server).await);
    }

    /// Runs the same `helm upgrade --install` once more, whether something has changed or not.
    pub async fn upgrade(&self) {
        must(install::upgrade(&self.server, &[]).await);
    }

    /// Runs it with these values (`key=value`) beside the tests' own. [`Full::install`] takes them back; so does what the
    /// next test begins with, where this one fails before that.
    pub async fn upgrade_with(&self, values: &[&str]) {
        must(install::upgrade_with(&self.server, values).await);
    }

    /// Loads Pullpass's images into nodes that have come since it was installed.
    pub async fn load_images(&self) {
        must(install::load_images(&self.server).await);
    }

    /// Waits until nothing of the node agents is there.
    pub async fn agents_are_gone(&self, within: Duration) {
        install::agents_are_gone(&self.server, within).await;
    }

    async fn has_one_node(&self) -> Result<()> {
        let nodes: Api<Node> = self.server.all();
        if nodes.list(&ListParams::default()).await?.items.len() == 1 {
            return Ok(());
        }
        self.server.cluster().up_with_nodes(1).await
    }

    /// Runs `helm uninstall` and waits until it is done.
    pub async fn uninstall(&self) {
        must(install::uninstall(&self.server).await);
    }
}

/// Takes a share of the full cluster, with Pullpass running in it; brings both up where they are not.
///
/// # Panics
/// Where this machine cannot run a cluster, with the reason.
pub async fn shared() -> Shared {
    // the shared lock may not be held while something is installed, or two tests would wait for each other
    must(make_ready().await);
    let lock = must(Lock::take(FULL, Mode::Shared).await);
    Shared {
        full: must(connect().await),
        _lock: lock,
    }
}

/// Takes the full cluster alone, with Pullpass running in it; brings both up where they are not. The test leaves
/// Pullpass installed and working, or calls [`Full::install`] at its end.
///
/// # Panics
/// Where this machine cannot run a cluster, with the reason.
pub async fn exclusive() -> Exclusive {
    must(make_ready().await);
    let lock = must(Lock::take(FULL, Mode::Exclusive).await);
    let full = must(connect().await);
    // the exclusive test before this one may have failed half-way, with a second node or through an uninstall
    must(full.has_one_node().await);
    full.install().await;
    Exclusive { full, _lock: lock }
}

async fn make_ready() -> Result<()> {
    let cluster = Cluster::named(FULL);
    let _lock = Lock::take("full-make-ready", Mode::Exclusive).await?;
    if !cluster.is_ready().await {
        cluster.up().await?;
    }
    let server = ApiServer::connect(cluster).await?;
    if !install::is_current(&server).await? {
        let _alone = Lock::take(FULL, Mode::Exclusive).await?;
        install::install(&server).await?;
    }
    Ok(())
}

async fn connect() -> Result<Full> {
    let cluster = Cluster::named(FULL);
    let registry = ImageRegistry::of(&cluster)?;
    let server = ApiServer::connect(cluster).await?;
    Ok(Full {
        _dump: DumpOnFailure::of(&server),
        server,
        registry,
    })
}
