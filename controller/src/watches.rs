//! The watches, each folded into the world.

use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Node, Secret};
use kube::core::PartialObjectMeta;
use kube::{Api, ResourceExt as _};
use pullpass_api::convert;
use pullpass_api::{NodePullAccess, PullAccess, Registry, pull_access};
use pullpass_core::bundle::{NODE_WIDE_SECRET, NODES_NAMESPACE, RESTRICTED_SECRET};
use pullpass_daemon::watch::DuplicateWatch;
use pullpass_daemon::{Context, WatchSpec};

use crate::certificate;
use crate::config::ControllerOptions;
use crate::nodes::BundleSecret;
use crate::observed::{Access, Copy};
use crate::taint::Tainted;
use crate::world::World;

/// The node agent's DaemonSet.
const AGENT_DAEMON_SET: &str = "pullpass-node-agent";

/// Helm keeps each release, up to a megabyte, in a Secret of this type beside our own.
const NOT_HELM: &str = "type!=helm.sh/release.v1";

/// Starts them all.
///
/// # Errors
/// [`DuplicateWatch`] if one of them is there already.
pub(crate) fn start(
    daemon: &Context,
    world: &Arc<World>,
    options: &ControllerOptions,
) -> Result<(), DuplicateWatch> {
    let into = Arc::clone(world);
    daemon.watch(
        "watch registries",
        WatchSpec::new("registries"),
        Api::<Registry>::all,
        without_managed_fields,
        move |change| into.registries_changed(change),
    )?;

    let into = Arc::clone(world);
    daemon.watch(
        "watch namespaces",
        WatchSpec::new("namespaces"),
        Api::<PartialObjectMeta<Namespace>>::all,
        |object: PartialObjectMeta<Namespace>| convert::namespace(&object),
        move |change| into.namespaces_changed(change),
    )?;

    let into = Arc::clone(world);
    let own = options.installation.namespace.clone();
    daemon.watch(
        "watch own secrets",
        WatchSpec::new("own_secrets").fields(NOT_HELM),
        move |client| Api::<Secret>::namespaced(client, &own),
        without_managed_fields,
        move |change| into.secrets_changed(change),
    )?;

    let into = Arc::clone(world);
    daemon.watch(
        "watch copies",
        WatchSpec::new("copies").named(&options.installation.pull_secret_name),
        Api::<Secret>::all,
        |secret: Secret| {
            (
                secret.namespace().unwrap_or_default(),
                Copy::observe(secret),
            )
        },
        move |change| into.copies_changed(change),
    )?;

    let into = Arc::clone(world);
    daemon.watch(
        "watch pull accesses",
        WatchSpec::new("pull_accesses").named(pull_access::NAME),
        Api::<PullAccess>::all,
        |access: PullAccess| {
            (
                access.namespace().unwrap_or_default(),
                Access::observe(access),
            )
        },
        move |change| into.accesses_changed(change),
    )?;

    if options.nodes.is_some() {
        start_nodes(daemon, world, options)?;
    }
    if !options.pull_secrets {
        return Ok(());
    }
    let into = Arc::clone(world);
    let (own, service) = (
        options.installation.namespace.clone(),
        options.webhook_service.clone(),
    );
    daemon.watch(
        "watch webhook configuration",
        WatchSpec::new("webhook_configuration").named(&options.webhook_configuration),
        Api::<MutatingWebhookConfiguration>::all,
        move |object: MutatingWebhookConfiguration| certificate::observe(&object, &own, &service),
        move |change| into.webhook_configuration_changed(change.latest()),
    )?;
    Ok(())
}

/// What nodes are given, and what they tell.
fn start_nodes(
    daemon: &Context,
    world: &Arc<World>,
    options: &ControllerOptions,
) -> Result<(), DuplicateWatch> {
    for (watch_name, task, secret) in [
        ("node_bundle", "watch node bundle", NODE_WIDE_SECRET),
        (
            "restricted_node_bundle",
            "watch restricted node bundle",
            RESTRICTED_SECRET,
        ),
    ] {
        let into = Arc::clone(world);
        daemon.watch(
            task,
            WatchSpec::new(watch_name).named(secret),
            |client| Api::<Secret>::namespaced(client, NODES_NAMESPACE),
            BundleSecret::observe,
            move |change| into.bundle_changed(secret, change),
        )?;
    }

    let into = Arc::clone(world);
    daemon.watch(
        "watch node pull accesses",
        WatchSpec::new("node_pull_accesses"),
        |client| Api::<NodePullAccess>::namespaced(client, NODES_NAMESPACE),
        without_managed_fields,
        move |change| into.nodes_changed(change),
    )?;

    let into = Arc::clone(world);
    daemon.watch(
        "watch node agents",
        WatchSpec::new("node_agents").named(AGENT_DAEMON_SET),
        |client| Api::<DaemonSet>::namespaced(client, NODES_NAMESPACE),
        |set: DaemonSet| set.status.map_or(0, |s| s.desired_number_scheduled),
        move |change| into.agents_changed(change.latest().and_then(|n| usize::try_from(n).ok())),
    )?;

    if options.startup_taint {
        let into = Arc::clone(world);
        daemon.watch(
            "watch nodes",
            WatchSpec::new("nodes"),
            Api::<Node>::all,
            |node: Node| Tainted::observe(&node),
            move |change| into.tainted_changed(change),
        )?;
    }
    Ok(())
}

fn without_managed_fields<K: kube::Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}
