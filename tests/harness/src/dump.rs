//! What matters about a failed test, in files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Pod, Secret};
use kube::api::{ListParams, LogParams};
use kube::{Api, Client, Resource, ResourceExt as _};
use pullpass_api::{PullAccess, Registry};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cluster::Cluster;
use crate::objects::SYSTEM_NAMESPACE;
use crate::server::ApiServer;
use crate::{checkout, name};

/// How much of a growing log is kept: the last part, which is a few minutes of a busy API server.
const TAIL_BYTES: usize = 2 * 1024 * 1024;

/// Writes the dump when it is dropped by a failing test.
pub(crate) struct DumpOnFailure {
    cluster: Cluster,
}

impl DumpOnFailure {
    pub(crate) fn of(server: &ApiServer) -> Self {
        Self {
            cluster: server.cluster().clone(),
        }
    }
}

impl Drop for DumpOnFailure {
    #[allow(
        clippy::print_stderr,
        reason = "the test's output is where somebody looks for it"
    )]
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let cluster = self.cluster.clone();
        let directory = checkout::path("target/test-dumps").join(name::test());
        let target = directory.clone();
        // the test's own runtime is busy unwinding
        let written = std::thread::spawn(move || -> Result<()> {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(write(&cluster, &target))
        })
        .join();
        match written {
            Ok(Ok(())) => eprintln!("what matters about this failure: {}", directory.display()),
            Ok(Err(error)) => eprintln!("only in part in {}: {error:#}", directory.display()),
            Err(_) => eprintln!("no dump: writing it failed"),
        }
    }
}

async fn write(cluster: &Cluster, directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::create_dir_all(directory)?;
    // files first: they are there also when the API server is what failed
    let mut tails = vec![cluster.audit_log()];
    if let Ok(logs) = fs::read_dir(cluster.logs()) {
        tails.extend(logs.flatten().map(|entry| entry.path()));
    }
    for path in tails {
        tail(&path, directory)?;
    }
    let client = ApiServer::connect(cluster.clone()).await?.client();
    let parts = [
        objects::<Namespace>(&client, directory, "namespaces").await,
        objects::<Event>(&client, directory, "events").await,
        objects::<Pod>(&client, directory, "pods").await,
        objects::<ConfigMap>(&client, directory, "configmaps").await,
        objects::<Registry>(&client, directory, "registries").await,
        objects::<PullAccess>(&client, directory, "pullaccesses").await,
        secrets(&client, directory).await,
        own_logs(&client, directory).await,
    ];
    // what can be had is written, whatever the rest says
    parts.into_iter().collect()
}

/// Metadata alone: a dump may be shown around.
async fn secrets(client: &Client, directory: &Path) -> Result<()> {
    let secrets: Api<Secret> = Api::all(client.clone());
    let mut found = secrets.list_metadata(&ListParams::default()).await?.items;
    for secret in &mut found {
        // kubectl apply keeps the whole object there
        secret
            .annotations_mut()
            .remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    save(directory, "secrets-metadata", &found)
}

async fn objects<K>(client: &Client, directory: &Path, name: &str) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    let api: Api<K> = Api::all(client.clone());
    let found = api.list(&ListParams::default()).await?.items;
    save(directory, name, &found)
}

fn save(directory: &Path, name: &str, what: &impl Serialize) -> Result<()> {
    let path = directory.join(format!("{name}.json"));
    fs::write(&path, serde_json::to_vec_pretty(what)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The logs of Pullpass's own pods, those of the container before the last restart too.
async fn own_logs(client: &Client, directory: &Path) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    for pod in pods.list(&ListParams::default()).await? {
        let name = pod.name_any();
        for previous in [false, true] {
            let which = LogParams {
                previous,
                ..LogParams::default()
            };
            // a container that never ran has no log, one that never restarted no previous one
            if let Ok(log) = pods.logs(&name, &which).await {
                let suffix = if previous { ".previous" } else { "" };
                fs::write(directory.join(format!("{name}{suffix}.log")), log)?;
            }
        }
    }
    Ok(())
}

fn tail(path: &Path, directory: &Path) -> Result<()> {
    let (Some(name), Ok(content)) = (path.file_name(), fs::read(path)) else {
        return Ok(());
    };
    let from = content.len().saturating_sub(TAIL_BYTES);
    let target: PathBuf = directory.join(name);
    fs::write(&target, content.get(from..).unwrap_or_default())
        .with_context(|| format!("cannot write {}", target.display()))
}
