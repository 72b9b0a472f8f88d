//! Upgrade and uninstall, by real Helm.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Secret, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::api::ListParams;
use kube::{Api, Resource, ResourceExt as _};
use pullpass_api::{PullAccess, Registry};
use pullpass_harness::identity::service_account_user;
use pullpass_harness::objects::{PULL_SECRET, SYSTEM_NAMESPACE};
use pullpass_harness::{Full, exclusive, stays};
use pullpass_suites::pods;
use pullpass_suites::registries::has_condition;

use crate::scene::Scene;

#[tokio::test]
async fn an_upgrade_with_nothing_changed_writes_nothing() {
    let scene = Scene::on(exclusive().await).await;
    let namespace = scene.namespace("a").await;
    let before = scene.has_login(&namespace).await;
    has_condition(&scene.cluster, &scene.name, "Ready", "True/Synced").await;
    let deployments: Api<Deployment> = scene.cluster.of(SYSTEM_NAMESPACE);
    let generations = async || {
        let all = deployments.list(&ListParams::default()).await.unwrap();
        all.iter()
            .map(|deployment| (deployment.name_any(), deployment.metadata.generation))
            .collect::<Vec<_>>()
    };
    let rolled_out = generations().await;
    assert_eq!(rolled_out.len(), 2);
    let audit = scene.cluster.audit();
    scene.cluster.upgrade().await;
    let ours = [
        service_account_user(SYSTEM_NAMESPACE, "pullpass-controller"),
        service_account_user(SYSTEM_NAMESPACE, "pullpass-webhook"),
    ];
    stays(
        Duration::from_secs(3),
        "nothing is written into any namespace",
        async || {
            let written: Vec<String> = audit
                .entries()
                .iter()
                .filter(|entry| {
                    entry.is_write() && !matches!(entry.resource().as_str(), "leases" | "events")
                })
                .filter(|entry| {
                    ours.contains(&entry.user.username)
                        || matches!(entry.name(), PULL_SECRET) && entry.resource() == "secrets"
                })
                .map(pullpass_harness::audit::Entry::summary)
                .collect();
            if written.is_empty() {
                Ok(())
            } else {
                Err(written.join(", "))
            }
        },
    )
    .await;
    assert_eq!(generations().await, rolled_out, "no pod was replaced");
    let after = scene.has_login(&namespace).await;
    assert_eq!(
        before.metadata.resource_version,
        after.metadata.resource_version
    );
}

/// The names of all objects of a kind that are ours by name.
async fn ours<K>(cluster: &Full) -> Vec<String>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let api: Api<K> = cluster.all();
    let all = api.list_metadata(&ListParams::default()).await.unwrap();
    all.iter()
        .map(|object| {
            format!(
                "{} {}/{}",
                K::kind(&()),
                object.namespace().unwrap_or_default(),
                object.name_any()
            )
        })
        .filter(|name| name.contains("pullpass"))
        .collect()
}

/// Secrets of Pullpass's and of its release's names, as namespace/name.
async fn secrets_called_as_ours(cluster: &Full, which: &ListParams) -> Vec<String> {
    let secrets: Api<Secret> = cluster.all();
    let all = secrets.list_metadata(which).await.unwrap();
    all.iter()
        .filter(|secret| {
            let name = secret.name_any();
            name.starts_with("pullpass") || name.starts_with("sh.helm")
        })
        .map(|secret| {
            let namespace = secret.namespace().unwrap_or_default();
            format!("{namespace}/{}", secret.name_any())
        })
        .collect()
}

#[tokio::test]
async fn an_uninstall_leaves_nothing_and_refuses_no_pod() {
    let scene = Scene::on(exclusive().await).await;
    let cluster = &scene.cluster;
    let namespaces = [
        scene.injected_namespace("a").await,
        scene.injected_namespace("b").await,
    ];
    // what tenants of other tests hold the name with is theirs
    let unlabelled = ListParams::default().labels("!pullpass.dev/copy");
    let mut foreign = secrets_called_as_ours(cluster, &unlabelled).await;
    foreign.retain(|name| !name.starts_with(&format!("{SYSTEM_NAMESPACE}/")));
    let done = AtomicBool::new(false);
    let creating = async {
        let pod = pods::pod("probe", "registry.example.com/any:1");
        let mut created = 0;
        while !done.load(Ordering::Relaxed) {
            scene.dry_run(&namespaces[0], &pod).await.unwrap();
            created += 1;
        }
        created
    };
    let uninstalling = async {
        cluster.uninstall().await;
        done.store(true, Ordering::Relaxed);
    };
    let (created, ()) = tokio::join!(creating, uninstalling);
    assert!(created > 10, "{created} pods were tried");

    let left: Vec<String> = [
        ours::<PullAccess>(cluster).await,
        ours::<MutatingWebhookConfiguration>(cluster).await,
        ours::<ValidatingAdmissionPolicy>(cluster).await,
        ours::<ValidatingAdmissionPolicyBinding>(cluster).await,
        ours::<ClusterRole>(cluster).await,
        ours::<ClusterRoleBinding>(cluster).await,
        ours::<Role>(cluster).await,
        ours::<RoleBinding>(cluster).await,
        ours::<Deployment>(cluster).await,
        ours::<Service>(cluster).await,
        ours::<ServiceAccount>(cluster).await,
        ours::<k8s_openapi::api::coordination::v1::Lease>(cluster).await,
        ours::<k8s_openapi::api::batch::v1::Job>(cluster).await,
        ours::<k8s_openapi::api::policy::v1::PodDisruptionBudget>(cluster).await,
        ours::<k8s_openapi::api::flowcontrol::v1::FlowSchema>(cluster).await,
    ]
    .concat()
    .into_iter()
    // every namespace has the account "default", ours too
    .filter(|name| !name.ends_with(&format!("{SYSTEM_NAMESPACE}/default")))
    .collect();
    assert!(left.is_empty(), "{left:?}");
    // the administrator's sources stay, and nothing else
    let mut left = secrets_called_as_ours(cluster, &ListParams::default()).await;
    left.retain(|name| !foreign.contains(name));
    assert!(left.is_empty(), "{left:?}");
    let registries: Api<Registry> = cluster.all();
    assert!(
        registries.get_opt(&scene.name).await.unwrap().is_some(),
        "Registries are the administrator's"
    );

    cluster.install().await;
    for namespace in &namespaces {
        scene.has_login(namespace).await;
    }
    scene.pulls_at_once(&namespaces[1]).await;
}
