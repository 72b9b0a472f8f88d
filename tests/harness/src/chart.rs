//! The chart's own objects, so that tests of an API server stand on what users install.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use serde::Deserialize as _;

use crate::checkout;
use crate::must;
use crate::objects::SYSTEM_NAMESPACE;
use crate::server::{self, ApiServer};

/// The Helm release.
pub const RELEASE: &str = "pullpass";

/// Under which name the tests apply the chart's objects.
const FIELD_MANAGER: &str = "pullpass-tests";

/// Kinds that run something, or lead to something that runs. On an API server without nodes they lead nowhere.
const RUNNING_KINDS: [&str; 6] = [
    "DaemonSet",
    "Deployment",
    "Job",
    "PodDisruptionBudget",
    "Service",
    "MutatingWebhookConfiguration",
];

/// Where the chart lies.
pub fn directory() -> String {
    checkout::path("deploy/chart").display().to_string()
}

/// Where the generated CRDs lie.
pub fn definitions_directory() -> PathBuf {
    checkout::path("deploy/chart/files/crds")
}

/// The generated CRDs.
pub fn definitions() -> Vec<DynamicObject> {
    must(read_definitions())
}

fn read_definitions() -> Result<Vec<DynamicObject>> {
    let directory = definitions_directory();
    let mut definitions = Vec::new();
    let entries = std::fs::read_dir(&directory)
        .with_context(|| format!("no CRDs in {}: run make generate", directory.display()))?;
    for entry in entries {
        definitions.extend(parse(&std::fs::read_to_string(entry?.path())?)?);
    }
    Ok(definitions)
}

impl ApiServer {
    /// The chart's objects as Helm renders them with these values (`key=value`), hooks included.
    pub async fn rendered_chart(&self, values: &[&str]) -> Vec<DynamicObject> {
        let chart = directory();
        let mut arguments = vec!["template", RELEASE, &chart, "--namespace", SYSTEM_NAMESPACE];
        for value in values {
            arguments.extend(["--set", value]);
        }
        let yaml = must(self.cluster().helm(&arguments).await);
        let objects = must(parse(&yaml));
        must((|| {
            ensure!(!objects.is_empty(), "the chart renders to nothing");
            Ok(())
        })());
        objects
    }

    /// Applies accounts, rights, policies, CRDs and whatever else of the chart runs nothing.
    pub async fn apply_chart(&self) {
        self.apply_chart_where(|kind| !RUNNING_KINDS.contains(&kind))
            .await;
    }

    /// The same with these values (`key=value`).
    pub async fn apply_chart_with(&self, values: &[&str]) {
        self.apply_rendered(values, |kind| !RUNNING_KINDS.contains(&kind))
            .await;
    }

    /// Applies the chart's objects of some kinds, but for the hooks.
    pub async fn apply_chart_where(&self, is_wanted: impl Fn(&str) -> bool) {
        self.apply_rendered(&[], is_wanted).await;
    }

    async fn apply_rendered(&self, values: &[&str], is_wanted: impl Fn(&str) -> bool) {
        for object in self.rendered_chart(values).await {
            let is_hook = object
                .metadata
                .annotations
                .as_ref()
                .is_some_and(|annotations| annotations.contains_key("helm.sh/hook"));
            if !is_hook && is_wanted(kind(&object)) {
                self.apply(&object).await;
            }
        }
    }

    /// Applies one object, with force.
    pub async fn apply(&self, object: &DynamicObject) {
        must(apply(self, object).await);
    }
}

/// An object's kind, or nothing.
pub fn kind(object: &DynamicObject) -> &str {
    object.types.as_ref().map_or("", |types| &types.kind)
}

async fn apply(server: &ApiServer, object: &DynamicObject) -> Result<()> {
    let types = object.types.as_ref().context("an object without a kind")?;
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let namespace = object
        .metadata
        .namespace
        .as_deref()
        .unwrap_or(SYSTEM_NAMESPACE);
    let api = server::dynamic(
        &server.client(),
        &types.api_version,
        &types.kind,
        Some(namespace),
    )
    .await?;
    api.patch(
        name,
        &PatchParams::apply(FIELD_MANAGER).force(),
        &Patch::Apply(object),
    )
    .await
    .with_context(|| format!("cannot apply {} {name}", types.kind))?;
    Ok(())
}

/// Reads a YAML stream; empty documents are left out.
pub(crate) fn parse(yaml: &str) -> Result<Vec<DynamicObject>> {
    let mut objects = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(yaml) {
        let value = serde_json::Value::deserialize(document).context("no YAML")?;
        if !value.is_null() {
            objects.push(serde_json::from_value(value).context("no Kubernetes object")?);
        }
    }
    Ok(objects)
}
