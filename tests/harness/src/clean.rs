//! Emptying an API server between two tests, however the first one ended.

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
    ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::{Namespace, Node};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::discovery::{Discovery, Scope, verbs};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::objects::{SYSTEM_NAMESPACE, ignore_missing};

/// The namespaces that Kubernetes makes by itself. Their Secrets and pods go, they stay.
const BUILT_IN_NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

/// What Kubernetes itself keeps in its own namespaces, and what goes by itself.
const KEPT_RESOURCES: [&str; 5] = [
    "serviceaccounts",
    "configmaps",
    "events",
    "endpoints",
    "leases",
];

/// API groups of which the same is true.
const KEPT_GROUPS: [&str; 2] = ["rbac.authorization.k8s.io", "discovery.k8s.io"];

/// What the built-in controllers put into every namespace.
const OF_EVERY_NAMESPACE: [&str; 2] = ["default", "kube-root-ca.crt"];

/// Requests at a time: enough to hide the way to etcd and back.
const CONCURRENCY: usize = 16;

/// Leaves what a fresh API server has, CustomResourceDefinitions, and Pullpass's own namespace, empty: where a namespace
/// is made again under its name, the built-in controllers may still be about to empty the one before, and would empty it.
pub(crate) async fn empty(client: &Client) -> Result<()> {
    // webhooks and policies first, or they would have a say in the rest
    delete_all::<MutatingWebhookConfiguration>(client).await?;
    delete_all::<ValidatingWebhookConfiguration>(client).await?;
    delete_all::<ValidatingAdmissionPolicyBinding>(client).await?;
    delete_all::<ValidatingAdmissionPolicy>(client).await?;
    delete_roles::<ClusterRoleBinding>(client).await?;
    delete_roles::<ClusterRole>(client).await?;
    delete_foreign_definitions(client).await?;
    // an API server that is emptied has no real ones
    delete_all::<Node>(client).await?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let doomed: Vec<String> = namespaces
        .list_metadata(&ListParams::default())
        .await?
        .iter()
        .map(kube::ResourceExt::name_any)
        .filter(|name| !BUILT_IN_NAMESPACES.contains(&name.as_str()) && name != SYSTEM_NAMESPACE)
        .collect();
    // nothing new can be made in a namespace that is terminating
    for name in &doomed {
        ignore_missing(namespaces.delete(name, &DeleteParams::default()).await)?;
    }
    delete_objects(client).await?;
    for name in &doomed {
        finalize(client, name).await?;
    }
    Ok(())
}

/// Deletes all objects of a namespaced kind outside the built-in namespaces, most objects inside, and everything of ours
/// that has no namespace.
async fn delete_objects(client: &Client) -> Result<()> {
    let discovered = Discovery::new(client.clone())
        .run_aggregated()
        .await
        .context("cannot ask the API server for its kinds")?;
    let kinds: Vec<(ApiResource, bool)> = discovered
        .groups()
        .flat_map(kube::discovery::ApiGroup::recommended_resources)
        .filter(|(_, can)| can.supports_operation(verbs::LIST))
        .filter(|(_, can)| can.supports_operation(verbs::DELETE))
        .map(|(kind, can)| (kind, can.scope == Scope::Namespaced))
        .filter(|(kind, namespaced)| *namespaced || kind.group == "pullpass.dev")
        .collect();
    stream::iter(kinds)
        .map(|(kind, _)| async move { delete_kind(client, &kind).await })
        .buffer_unordered(CONCURRENCY)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}

async fn delete_kind(client: &Client, kind: &ApiResource) -> Result<()> {
    let everywhere: Api<DynamicObject> = Api::all_with(client.clone(), kind);
    let found = everywhere
        .list_metadata(&ListParams::default())
        .await
        .with_context(|| format!("cannot list {}", kind.plural))?;
    for object in found.into_iter().filter(|object| is_doomed(object, kind)) {
        let api = match object.namespace() {
            Some(namespace) => Api::namespaced_with(client.clone(), &namespace, kind),
            None => everywhere.clone(),
        };
        delete_object(&api, &object)
            .await
            .with_context(|| format!("cannot delete {} {}", kind.plural, object.name_any()))?;
    }
    Ok(())
}

fn is_doomed(object: &PartialObjectMeta, kind: &ApiResource) -> bool {
    let Some(namespace) = object.namespace() else {
        return true;
    };
    let (namespace, name) = (namespace.as_str(), object.name_any());
    if namespace == SYSTEM_NAMESPACE {
        return !OF_EVERY_NAMESPACE.contains(&name.as_str());
    }
    if !BUILT_IN_NAMESPACES.contains(&namespace) {
        return true;
    }
    let is_kept = KEPT_RESOURCES.contains(&kind.plural.as_str())
        || KEPT_GROUPS.contains(&kind.group.as_str())
        // the Service of the API server itself
        || (namespace == "default" && name == "kubernetes");
    !is_kept
}

async fn delete_object<K>(api: &Api<K>, object: &PartialObjectMeta<K>) -> Result<()>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let name = object.name_any();
    if !object.finalizers().is_empty() {
        let without = json!({"metadata": {"finalizers": null}});
        ignore_missing(
            api.patch(&name, &PatchParams::default(), &Patch::Merge(without))
                .await,
        )?;
    }
    // there is no kubelet that would confirm the end of a pod
    let now = DeleteParams::default().grace_period(0);
    Ok(ignore_missing(api.delete(&name, &now).await)?)
}

/// Takes the namespace away without the built-in controller, which waits five seconds before it looks.
async fn finalize(client: &Client, name: &str) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let Some(mut namespace) = namespaces.get_opt(name).await? else {
        return Ok(());
    };
    if !namespace.finalizers().is_empty() {
        let without = json!({"metadata": {"finalizers": null}});
        ignore_missing(
            namespaces
                .patch(name, &PatchParams::default(), &Patch::Merge(without))
                .await,
        )?;
    }
    if let Some(spec) = &mut namespace.spec {
        spec.finalizers = None;
    }
    namespace.metadata.resource_version = None;
    namespace.metadata.finalizers = None;
    ignore_missing(
        namespaces
            .replace_subresource("finalize", name, &PostParams::default(), &namespace)
            .await,
    )
    .with_context(|| format!("cannot take the namespace {name} away"))
}

async fn delete_all<K>(client: &Client) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let api: Api<K> = Api::all(client.clone());
    for object in api.list_metadata(&ListParams::default()).await? {
        delete_object(&api, &object).await?;
    }
    Ok(())
}

/// Ours stay; those of a platform that a test has pretended to be go.
async fn delete_foreign_definitions(client: &Client) -> Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in definitions.list_metadata(&ListParams::default()).await? {
        if !definition.name_any().ends_with(".pullpass.dev") {
            delete_object(&definitions, &definition).await?;
        }
    }
    Ok(())
}

/// Deletes the roles or bindings that are not Kubernetes' own.
async fn delete_roles<K>(client: &Client) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let api: Api<K> = Api::all(client.clone());
    let not_built_in = ListParams::default().labels("kubernetes.io/bootstrapping!=rbac-defaults");
    for object in api.list_metadata(&not_built_in).await? {
        if !object.name_any().starts_with("system:") {
            delete_object(&api, &object).await?;
        }
    }
    Ok(())
}
