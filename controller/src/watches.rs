//! The watches, each folded into the world.

use std::convert::Infallible;
use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::core::PartialObjectMeta;
use kube::{Api, ResourceExt as _};
use pullpass_api::convert;
use pullpass_api::{PullAccess, Registry, pull_access};
use pullpass_daemon::shutdown::Stage;
use pullpass_daemon::watch::DuplicateWatch;
use pullpass_daemon::{Change, Context, Freshness, WatchSpec};

use crate::certificate;
use crate::config::ControllerOptions;
use crate::observed::{Access, Copy};
use crate::world::World;

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
    let client = &daemon.client;
    let stop = daemon.tasks.stop(Stage::Work);

    let into = Arc::clone(world);
    let watch = daemon.watches.add(
        WatchSpec::new("registries"),
        client,
        Api::<Registry>::all,
        without_managed_fields,
        move |change| into.registries_changed(change),
        stop.clone(),
    )?;
    spawn(daemon, "watch registries", watch);

    let into = Arc::clone(world);
    let watch = daemon.watches.add(
        WatchSpec::new("namespaces"),
        client,
        Api::<PartialObjectMeta<Namespace>>::all,
        |object: PartialObjectMeta<Namespace>| convert::namespace(&object),
        move |change| into.namespaces_changed(change),
        stop.clone(),
    )?;
    spawn(daemon, "watch namespaces", watch);

    let into = Arc::clone(world);
    let own = options.installation.namespace.clone();
    let watch = daemon.watches.add(
        WatchSpec::new("own_secrets").fields(NOT_HELM),
        client,
        move |client| Api::<Secret>::namespaced(client, &own),
        without_managed_fields,
        move |change| into.secrets_changed(change),
        stop.clone(),
    )?;
    spawn(daemon, "watch own secrets", watch);

    let into = Arc::clone(world);
    let watch = daemon.watches.add(
        WatchSpec::new("copies").fields(&format!(
            "metadata.name={}",
            options.installation.pull_secret_name
        )),
        client,
        Api::<Secret>::all,
        |secret: Secret| {
            (
                secret.namespace().unwrap_or_default(),
                Copy::observe(secret),
            )
        },
        move |change| into.copies_changed(change),
        stop.clone(),
    )?;
    spawn(daemon, "watch copies", watch);

    let into = Arc::clone(world);
    let watch = daemon.watches.add(
        WatchSpec::new("pull_accesses").fields(&format!("metadata.name={}", pull_access::NAME)),
        client,
        Api::<PullAccess>::all,
        |access: PullAccess| {
            (
                access.namespace().unwrap_or_default(),
                Access::observe(access),
            )
        },
        move |change| into.accesses_changed(change),
        stop.clone(),
    )?;
    spawn(daemon, "watch pull accesses", watch);

    let into = Arc::clone(world);
    let (own, service) = (
        options.installation.namespace.clone(),
        options.webhook_service.clone(),
    );
    let watch = daemon.watches.add(
        WatchSpec::new("webhook_configuration")
            .fields(&format!("metadata.name={}", options.webhook_configuration)),
        client,
        Api::<MutatingWebhookConfiguration>::all,
        move |object: MutatingWebhookConfiguration| certificate::observe(&object, &own, &service),
        move |change| {
            into.webhook_configuration_changed(match change {
                Change::Restarted(all) => all.into_iter().next(),
                Change::Applied(found) => Some(found),
                Change::Deleted(_) => None,
            });
        },
        stop,
    )?;
    spawn(daemon, "watch webhook configuration", watch);
    Ok(())
}

fn without_managed_fields<K: kube::Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

fn spawn(
    daemon: &Context,
    name: &'static str,
    (_, following): (Freshness, impl Future<Output = ()> + Send + 'static),
) {
    daemon.tasks.spawn(Stage::Work, name, async {
        following.await;
        Ok::<_, Infallible>(())
    });
}
