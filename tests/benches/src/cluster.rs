//! API servers to measure on, and what they need to hold.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use axum::http::Request;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, Config};
use pullpass_api::pull_access::{self, SECRET_STATE_LABEL};
use pullpass_api::{PullAccess, Registry, definitions};
use serde_json::{Value, json};

use crate::{checkout, report};

/// How long something that comes by itself may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks.
const POLL: Duration = Duration::from_millis(100);

/// Objects that are made at a time, where nothing is measured.
const CONCURRENCY: usize = 48;

/// Who applies what is made here.
const FIELD_MANAGER: &str = "pullpass-bench";

/// An API server of our own, seen by its administrator. It is removed when this is dropped.
pub(crate) struct Cluster {
    name: &'static str,
    /// The administrator's client.
    pub(crate) client: Client,
    /// The administrator's kubeconfig.
    pub(crate) kubeconfig: PathBuf,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = run(&["down", "--name", self.name]) {
            report::say(&format!("{error:#}"));
        }
    }
}

impl Cluster {
    /// Starts an empty API server, with the built-in controllers or without, and makes our CRDs known to it.
    pub(crate) async fn start(name: &'static str, with_controllers: bool) -> Result<Self> {
        report::say(&format!("starting the API server {name}"));
        // what an earlier run has left would be measured too
        run(&["down", "--name", name])?;
        let mut arguments = vec!["up", "--name", name, "--api-only"];
        if with_controllers {
            arguments.push("--with-controllers");
        }
        run(&arguments)?;
        let kubeconfig = checkout::path(".cluster").join(name).join("kubeconfig");
        let client = connect(&kubeconfig).await?;
        let cluster = Self {
            name,
            client,
            kubeconfig,
        };
        cluster.define().await?;
        Ok(cluster)
    }

    async fn define(&self) -> Result<()> {
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        for definition in definitions::definitions()? {
            api.create(&PostParams::default(), &definition).await?;
        }
        let registries: Api<Registry> = Api::all(self.client.clone());
        let pull_accesses: Api<PullAccess> = Api::all(self.client.clone());
        eventually("the CRDs are served", async || {
            registries.list(&ListParams::default()).await?;
            pull_accesses.list(&ListParams::default()).await?;
            Ok(())
        })
        .await
    }

    /// Applies one object of any kind.
    pub(crate) async fn apply(&self, object: Value) -> Result<()> {
        let object: DynamicObject = serde_json::from_value(object)?;
        let types = object.types.as_ref().context("an object without a kind")?;
        let (group, version) = types
            .api_version
            .split_once('/')
            .unwrap_or(("", &types.api_version));
        // the plurals of all kinds here are regular
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &types.kind));
        let api: Api<DynamicObject> = match &object.metadata.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &kind),
            None => Api::all_with(self.client.clone(), &kind),
        };
        let name = object.metadata.name.clone().unwrap_or_default();
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        api.patch(&name, &parameters, &Patch::Apply(&object))
            .await
            .with_context(|| format!("cannot apply {} {name}", types.kind))?;
        Ok(())
    }

    /// Applies many objects, in no order.
    pub(crate) async fn apply_all(&self, objects: impl IntoIterator<Item = Value>) -> Result<()> {
        stream::iter(objects)
            .map(|object| self.apply(object))
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await
    }

    /// Adds up a metric of the API server over all of its labels that contain `label`.
    pub(crate) async fn metric(&self, name: &str, label: &str) -> Result<f64> {
        let request = Request::get("/metrics").body(Vec::new())?;
        let text = self.client.request_text(request).await?;
        Ok(sum(&text, name, label))
    }
}

/// A namespace.
pub(crate) fn namespace(name: &str, labels: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": labels},
    })
}

/// What the controller writes when a namespace's Secret is there.
pub(crate) fn pull_access(namespace: &str, registries: &[String]) -> Value {
    let registries: Vec<Value> = registries
        .iter()
        .map(|name| json!({"name": name, "host": format!("{name}.example.com"), "state": "Available", "reason": "Written"}))
        .collect();
    json!({
        "apiVersion": "pullpass.dev/v1alpha1",
        "kind": "PullAccess",
        "metadata": {
            "name": pull_access::NAME,
            "namespace": namespace,
            "labels": {
                "app.kubernetes.io/managed-by": "pullpass",
                "app.kubernetes.io/part-of": "pullpass",
                SECRET_STATE_LABEL: "Written",
            },
        },
        "secret": {"name": "pullpass", "state": "Written", "reason": "Written"},
        "registries": registries,
    })
}

/// A private registry for the namespaces that `access` selects.
pub(crate) fn registry(name: &str, access: &Value) -> Value {
    json!({
        "apiVersion": "pullpass.dev/v1alpha1",
        "kind": "Registry",
        "metadata": {"name": name},
        "spec": {
            "host": format!("{name}.example.com"),
            "auth": {"basic": {"secretRef": {"name": name}}},
            "access": {"namespaces": access},
        },
    })
}

async fn connect(kubeconfig: &Path) -> Result<Client> {
    // both TLS clients and servers need a provider; an error means that there is one
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let read = Kubeconfig::read_from(kubeconfig)
        .with_context(|| format!("cannot read {}", kubeconfig.display()))?;
    let mut config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
    // a request that is silently made twice would be counted once
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

fn run(arguments: &[&str]) -> Result<()> {
    let program = checkout::path("tests/cluster/cluster");
    let output = Command::new(&program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(
        output.status.success(),
        "tests/cluster/cluster {} failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Tries until it succeeds.
pub(crate) async fn eventually<F: Future<Output = Result<()>>>(
    what: &str,
    attempt: impl Fn() -> F,
) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("not within {} s: {what}", PATIENCE.as_secs())));
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

fn sum(text: &str, name: &str, label: &str) -> f64 {
    text.lines()
        .filter_map(|line| {
            line.strip_prefix(name)?
                .strip_prefix('{')?
                .rsplit_once("} ")
        })
        .filter(|(labels, _)| labels.contains(label))
        .filter_map(|(_, value)| value.trim().parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_added_up_over_its_labels() {
        let text = "# TYPE a_count counter\na_count{name=\"x\",code=\"1\"} 2\na_count{name=\"x\",code=\"2\"} 3\n\
                    a_count{name=\"y\"} 7\na_count_total{name=\"x\"} 11\n";
        assert_eq!(sum(text, "a_count", "name=\"x\""), 5.0);
        assert_eq!(sum(text, "b", ""), 0.0);
    }
}
