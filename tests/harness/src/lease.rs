//! API servers for one test at a time.

use std::ops::Deref;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::ListParams;

use crate::cluster::{API_SERVERS, Cluster};
use crate::dump::DumpOnFailure;
use crate::lock::{Lock, Mode};
use crate::objects::SYSTEM_NAMESPACE;
use crate::server::ApiServer;
use crate::{chart, clean, eventually, must, server};

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
    let namespaces: Api<Namespace> = server.all();
    if namespaces.get_opt(SYSTEM_NAMESPACE).await?.is_none() {
        server.create_namespace(SYSTEM_NAMESPACE, &[]).await;
    }
    Ok(Lease {
        _dump: DumpOnFailure::of(&server),
        server,
        _lock: lock,
    })
}

/// Applies the checked-in CRDs and waits until the API server serves them.
async fn install_definitions(server: &ApiServer) -> Result<()> {
    let mut names = Vec::new();
    for definition in chart::definitions() {
        server.apply(&definition).await;
        names.extend(definition.metadata.name);
    }
    let definitions: Api<CustomResourceDefinition> = server.all();
    for name in names {
        eventually(ESTABLISHED, "the CRD is served", async || {
            is_served(server, &definitions, &name).await
        })
        .await;
    }
    Ok(())
}

/// An established definition can still answer for a moment that its storage is being made ready.
async fn is_served(
    server: &ApiServer,
    definitions: &Api<CustomResourceDefinition>,
    name: &str,
) -> Result<()> {
    let definition = definitions.get(name).await?;
    let conditions = definition
        .status
        .and_then(|status| status.conditions)
        .unwrap_or_default();
    ensure!(
        conditions
            .iter()
            .any(|condition| condition.type_ == "Established" && condition.status == "True"),
        "{name}: {conditions:?}"
    );
    let version = &definition.spec.versions[0].name;
    let api_version = format!("{}/{version}", definition.spec.group);
    let kind = &definition.spec.names.kind;
    let objects = server::dynamic(&server.client(), &api_version, kind, None).await?;
    objects.list_metadata(&ListParams::default()).await?;
    Ok(())
}
