//! API servers for one test at a time.

use std::ops::Deref;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;

use crate::cluster::{API_SERVERS, Cluster};
use crate::dump::DumpOnFailure;
use crate::lock::{Lock, Mode};
use crate::objects::SYSTEM_NAMESPACE;
use crate::server::ApiServer;
use crate::{chart, checkout, clean, eventually, must};

/// Between two looks at the pool.
const POLL: Duration = Duration::from_millis(50);

/// How long the API server may take to serve a new definition.
const ESTABLISHED: Duration = Duration::from_secs(30);

/// An API server that belongs to this test until it is dropped: empty but for our CRDs and [`SYSTEM_NAMESPACE`]. There
/// are the built-in controllers, but no node and no Pullpass.
pub struct Lease {
    server: ApiServer,
    _dump: DumpOnFailure,
    // dropped last, so that the dump still finds this test's objects
    _lock: Lock,
}

impl Deref for Lease {
    type Target = ApiServer;

    fn deref(&self) -> &ApiServer {
        &self.server
    }
}

/// Leases the next free API server; starts it where it is not up.
///
/// # Panics
/// Where this machine cannot run one, with the reason.
pub async fn lease() -> Lease {
    loop {
        for name in API_SERVERS {
            if let Some(lock) = must(Lock::try_take(name, Mode::Exclusive)) {
                return must(prepare(name, lock).await);
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Leases all API servers of the pool at once, for what needs more than one.
///
/// # Panics
/// Where this machine cannot run them, with the reason.
pub async fn lease_many() -> Vec<Lease> {
    let mut leases = Vec::new();
    // always in the same order, so that two tests cannot wait for each other
    for name in API_SERVERS {
        let lock = must(Lock::take(name, Mode::Exclusive).await);
        leases.push(must(prepare(name, lock).await));
    }
    leases
}

async fn prepare(name: &str, lock: Lock) -> Result<Lease> {
    let cluster = Cluster::named(name);
    if !cluster.is_ready().await {
        cluster.up_api_only().await?;
    }
    let server = ApiServer::connect(cluster).await?;
    clean::empty(&server.client())
        .await
        .with_context(|| format!("cannot empty the API server {name}"))?;
    install_definitions(&server).await?;
    server.create_namespace(SYSTEM_NAMESPACE, &[]).await;
    Ok(Lease {
        _dump: DumpOnFailure::of(&server),
        server,
        _lock: lock,
    })
}

/// Applies the checked-in CRDs and waits until the API server serves them.
async fn install_definitions(server: &ApiServer) -> Result<()> {
    let directory = checkout::path("deploy/chart/files/crds");
    let mut names = Vec::new();
    let entries = std::fs::read_dir(&directory).with_context(|| {
        format!(
            "no CRDs in {}: run cargo run -p pullpass-api --bin crds",
            directory.display()
        )
    })?;
    for entry in entries {
        for object in chart::parse(&std::fs::read_to_string(entry?.path())?)? {
            server.apply(&object).await;
            names.extend(object.metadata.name);
        }
    }
    let definitions: Api<CustomResourceDefinition> = server.all();
    for name in names {
        eventually(ESTABLISHED, "the CRD is established", async || {
            is_established(&definitions, &name).await
        })
        .await;
    }
    Ok(())
}

async fn is_established(
    definitions: &Api<CustomResourceDefinition>,
    name: &str,
) -> Result<(), String> {
    let definition = definitions
        .get(name)
        .await
        .map_err(|error| error.to_string())?;
    let conditions = definition
        .status
        .and_then(|status| status.conditions)
        .unwrap_or_default();
    conditions
        .iter()
        .any(|condition| condition.type_ == "Established" && condition.status == "True")
        .then_some(())
        .ok_or_else(|| format!("{name}: {conditions:?}"))
}
