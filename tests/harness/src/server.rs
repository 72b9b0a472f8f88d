//! An API server with the helpers that tests of every kind need.

use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::{DynamicObject, GroupVersionKind};
use kube::{Api, Client, Config};
use serde_json::json;

use crate::audit::AuditLog;
use crate::cluster::Cluster;
use crate::objects::{named, strings};
use crate::{eventually, identity, must, name};

/// How long the built-in controllers may take to do what they do at once.
const BUILT_IN: Duration = Duration::from_secs(30);

/// A running API server, seen by its administrator.
#[derive(Clone)]
pub struct ApiServer {
    cluster: Cluster,
    config: Config,
    client: Client,
}

impl ApiServer {
    pub(crate) async fn connect(cluster: Cluster) -> Result<Self> {
        let config = cluster.config().await?;
        let client = Client::try_from(config.clone())?;
        Ok(Self {
            cluster,
            config,
            client,
        })
    }

    /// The cluster behind it.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The administrator's client.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The administrator's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Objects of a namespace.
    pub fn of<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client(), namespace)
    }

    /// Objects of the whole cluster.
    pub fn all<K>(&self) -> Api<K>
    where
        K: kube::Resource,
        K::DynamicType: Default,
    {
        Api::all(self.client())
    }

    /// A client with a real token of a service account, which is made if it is not there.
    pub async fn as_service_account(&self, namespace: &str, name: &str) -> Client {
        let config = must(identity::service_account(&self.config, namespace, name).await);
        must(Client::try_from(config).context("no client for a token"))
    }

    /// A client of whoever holds this token.
    pub fn with_token(&self, token: String) -> Client {
        let config = identity::bearer(&self.config, token);
        must(Client::try_from(config).context("no client for a token"))
    }

    /// A client of a service account that asks to be treated as somebody else.
    pub async fn impersonating(
        &self,
        namespace: &str,
        name: &str,
        user: &str,
        groups: &[&str],
    ) -> Client {
        let account = must(identity::service_account(&self.config, namespace, name).await);
        let config = identity::user(&account, user, groups);
        must(Client::try_from(config).context("no client for an impersonation"))
    }

    /// A client that acts as a user with these groups, by impersonation.
    pub fn as_user(&self, name: &str, groups: &[&str]) -> Client {
        let config = identity::user(&self.config, name, groups);
        must(Client::try_from(config).context("no client for a user"))
    }

    /// The audit log from this moment on.
    pub fn audit(&self) -> AuditLog {
        must(AuditLog::from_now(&self.cluster))
    }

    /// Makes a namespace with a name of its own and waits until pods can be made in it.
    pub async fn namespace(&self, prefix: &str) -> String {
        self.namespace_with(prefix, &[]).await
    }

    /// Makes a namespace with a name of its own and these labels, and waits until pods can be made in it.
    pub async fn namespace_with(&self, prefix: &str, labels: &[(&str, &str)]) -> String {
        let name = name::unique(prefix);
        self.create_namespace(&name, labels).await;
        self.has_account(&name).await;
        name
    }

    /// Makes a namespace of this name and waits for nothing.
    pub async fn create_namespace(&self, name: &str, labels: &[(&str, &str)]) {
        let mut namespace = Namespace {
            metadata: named(name),
            ..Namespace::default()
        };
        namespace.metadata.labels = Some(strings(labels));
        let namespaces: Api<Namespace> = self.all();
        must(
            namespaces
                .create(&PostParams::default(), &namespace)
                .await
                .with_context(|| format!("cannot make the namespace {name}")),
        );
    }

    /// Gives a namespace a label, or takes it away.
    pub async fn label_namespace(&self, name: &str, label: &str, value: Option<&str>) {
        let namespaces: Api<Namespace> = self.all();
        let labels = Patch::Merge(json!({"metadata": {"labels": {label: value}}}));
        must(
            namespaces
                .patch(name, &PatchParams::default(), &labels)
                .await
                .with_context(|| format!("cannot label the namespace {name}")),
        );
    }

    /// Waits until the namespace has its default service account, without which the API server admits no pod.
    pub async fn has_account(&self, namespace: &str) {
        let accounts: Api<ServiceAccount> = self.of(namespace);
        eventually(
            BUILT_IN,
            "the built-in controllers make the default service account",
            async || accounts.get("default").await,
        )
        .await;
    }
}

/// The interface to a kind that is known by name only. The namespace is not looked at where the kind has none.
pub(crate) async fn dynamic(
    client: &Client,
    api_version: &str,
    kind: &str,
    namespace: Option<&str>,
) -> Result<Api<DynamicObject>> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let wanted = GroupVersionKind::gvk(group, version, kind);
    let (resource, capabilities) = kube::discovery::pinned_kind(client, &wanted)
        .await
        .with_context(|| format!("the API server knows no {kind} in {api_version}"))?;
    Ok(match (capabilities.scope, namespace) {
        (kube::discovery::Scope::Namespaced, Some(namespace)) => {
            Api::namespaced_with(client.clone(), namespace, &resource)
        }
        (kube::discovery::Scope::Namespaced | kube::discovery::Scope::Cluster, _) => {
            Api::all_with(client.clone(), &resource)
        }
    })
}
