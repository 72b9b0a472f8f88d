//! Pullpass in the full cluster, by real Helm and from images that are built here.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::chart::{self, RELEASE};
use crate::checkout;
use crate::cluster::run;
use crate::objects::{self, SYSTEM_NAMESPACE};
use crate::server::ApiServer;
use crate::wait::eventually;

/// Where the cluster remembers what is installed in it.
const RECORD: &str = "pullpass-tests-installed";
const RECORD_KEY: &str = "fingerprint";

/// So that the search for credentials in logs searches all that could ever be in one.
const LOGS: &str = "logs.filter=trace";

const FIELD_MANAGER: &str = "pullpass-tests";

/// How long kube-proxy may take to hear of pods that are ready. Below a second on an idle machine.
const REACHABLE: Duration = Duration::from_secs(60);

/// How long the pods of a node that is gone may stay: Kubernetes looks for them every 20 s, and waits 40 s.
const GOING: Duration = Duration::from_secs(180);

/// All images, each an OCI archive.
const ARCHIVES: [&str; 3] = [
    "target/images/webhook.tar",
    "target/images/controller.tar",
    "target/images/node-agent.tar",
];

/// Whether what runs in the cluster is what the checkout holds.
pub(crate) async fn is_current(server: &ApiServer) -> Result<bool> {
    let wanted = fingerprint().await?;
    let records: Api<ConfigMap> = server.of("default");
    let recorded = records
        .get_opt(RECORD)
        .await?
        .and_then(|record| record.data)
        .and_then(|data| data.get(RECORD_KEY).cloned());
    if recorded.as_ref() != Some(&wanted) {
        return Ok(false);
    }
    let release = release(server).await;
    Ok(release.is_some_and(|(status, _)| status == "deployed"))
}

/// The status and the revision of the release, if Helm knows one.
async fn release(server: &ApiServer) -> Option<(String, u64)> {
    let told = server
        .cluster()
        .helm(&[
            "status",
            RELEASE,
            "--namespace",
            SYSTEM_NAMESPACE,
            "--output",
            "json",
        ])
        .await
        .ok()?;
    let told: Value = serde_json::from_str(&told).ok()?;
    let status = told.pointer("/info/status")?.as_str()?;
    Some((status.to_owned(), told.get("version")?.as_u64()?))
}

/// Takes an upgrade back that a failed test has left. Helm begins no other beside one that was cut off, and after one that
/// failed the next leaves behind what that one has made.
async fn take_back_failed_upgrade(server: &ApiServer) -> Result<()> {
    if let Some((status, revision)) = release(server).await
        && revision > 1
        && ["failed", "pending-upgrade"].contains(&status.as_str())
    {
        let arguments = ["rollback", RELEASE, "--namespace", SYSTEM_NAMESPACE];
        server.cluster().helm(&arguments).await?;
    }
    Ok(())
}

/// Waits until nothing of the agents is there. That takes a while after a node with an agent on it was taken away, and
/// nothing can be made in their namespace until then.
pub(crate) async fn agents_are_gone(server: &ApiServer, within: Duration) {
    let namespaces: Api<Namespace> = server.all();
    eventually(
        within,
        "the agents' namespace is gone",
        async || match namespaces.get_opt(objects::NODES_NAMESPACE).await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err("it is there".to_owned()),
            Err(error) => Err(error.to_string()),
        },
    )
    .await;
}

/// Installs or upgrades, and waits until every replica is ready. Does nothing where nothing has changed.
pub(crate) async fn install(server: &ApiServer) -> Result<()> {
    if is_current(server).await? {
        return Ok(());
    }
    let wanted = fingerprint().await?;
    load_images(server).await?;
    enforce_restricted_profile(server).await?;
    take_back_failed_upgrade(server).await?;
    upgrade(server, &[]).await?;
    // a test that failed may have left some, and the next one installs its own
    agents_are_gone(server, GOING).await;
    record(server, &wanted).await
}

/// Runs the same with values that are for one test only, so that what is installed is no longer what was recorded.
pub(crate) async fn upgrade_with(server: &ApiServer, values: &[&str]) -> Result<()> {
    let records: Api<ConfigMap> = server.of("default");
    objects::ignore_missing(records.delete(RECORD, &DeleteParams::default()).await)?;
    upgrade(server, values).await
}

/// Loads what [`fingerprint`] has built into every node.
pub(crate) async fn load_images(server: &ApiServer) -> Result<()> {
    let archives = ARCHIVES.map(|archive| checkout::path(archive).display().to_string());
    let archives = archives.each_ref().map(String::as_str);
    server.cluster().load_images(&archives).await
}

/// Runs `helm upgrade --install` as a user would, with the images that are built here and these values (`key=value`).
pub(crate) async fn upgrade(server: &ApiServer, values: &[&str]) -> Result<()> {
    let directory = chart::directory();
    let tag = format!("image.tag={}", tag()?);
    let mut arguments = vec![
        "upgrade",
        "--install",
        RELEASE,
        &directory,
        "--namespace",
        SYSTEM_NAMESPACE,
        "--wait",
        "--timeout",
        "3m",
        "--set",
        &tag,
        "--set",
        LOGS,
    ];
    for value in values {
        arguments.extend(["--set", value]);
    }
    server.cluster().helm(&arguments).await?;
    // then there is no webhook
    if values.contains(&"pullSecrets.enabled=false") {
        return Ok(());
    }
    is_reachable(server).await
}

/// Waits until the webhook's Service leads to its pods. Helm waits for pods that are ready; kube-proxy hears of them a
/// moment later, and until then the API server admits pods without asking.
async fn is_reachable(server: &ApiServer) -> Result<()> {
    let services: Api<Service> = server.of(SYSTEM_NAMESPACE);
    let service = services.get("pullpass-webhook").await?;
    let address = service
        .spec
        .and_then(|spec| spec.cluster_ip)
        .context("the webhook's Service has no address")?;
    eventually(
        REACHABLE,
        "the webhook's Service leads to its pods",
        async || TcpStream::connect((address.as_str(), 443)).await,
    )
    .await;
    Ok(())
}

/// Runs `helm uninstall` as a user would.
pub(crate) async fn uninstall(server: &ApiServer) -> Result<()> {
    let arguments = [
        "uninstall",
        RELEASE,
        "--namespace",
        SYSTEM_NAMESPACE,
        "--wait",
        "--timeout",
        "3m",
    ];
    server.cluster().helm(&arguments).await.map(drop)
}

async fn enforce_restricted_profile(server: &ApiServer) -> Result<()> {
    let namespaces: Api<Namespace> = server.all();
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": SYSTEM_NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    });
    namespaces
        .patch(
            SYSTEM_NAMESPACE,
            &PatchParams::apply(FIELD_MANAGER).force(),
            &Patch::Apply(namespace),
        )
        .await?;
    Ok(())
}

async fn record(server: &ApiServer, fingerprint: &str) -> Result<()> {
    let records: Api<ConfigMap> = server.of("default");
    let record = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": RECORD},
        "data": {RECORD_KEY: fingerprint},
    });
    let manager = PatchParams::apply(FIELD_MANAGER).force();
    records
        .patch(RECORD, &manager, &Patch::Apply(record))
        .await?;
    Ok(())
}

/// Builds the images, and tells what they and the chart are. The same for the life of the process: what a test run tests
/// does not change under it.
async fn fingerprint() -> Result<String> {
    static KNOWN: OnceLock<String> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(known.clone());
    }
    run(Command::new(checkout::path("deploy/images/build")).env("PROFILE", "dev"))
        .await
        .context("cannot build the images")?;
    let mut hasher = DefaultHasher::new();
    hash_directory(&checkout::path("deploy/chart"), &mut hasher)?;
    let computed = format!("{}-{:016x}", tag()?, hasher.finish());
    Ok(KNOWN.get_or_init(|| computed).clone())
}

/// The tag of the images that were built last.
fn tag() -> Result<String> {
    let path = checkout::path("target/images/tag");
    let tag =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(tag.trim().to_owned())
}

fn hash_directory(directory: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    let mut entries = fs::read_dir(directory)
        .with_context(|| format!("cannot read {}", directory.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<Vec<_>>>()?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            hash_directory(&path, hasher)?;
        } else {
            hash_file(&path, hasher)?;
        }
    }
    Ok(())
}

fn hash_file(path: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    path.hash(hasher);
    fs::read(path)
        .with_context(|| format!("cannot read {}", path.display()))?
        .hash(hasher);
    Ok(())
}
