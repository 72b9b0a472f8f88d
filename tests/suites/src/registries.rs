//! Registries and the Secrets that they take their credentials from.

use k8s_openapi::api::core::v1::{Event, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use pullpass_api::Registry;
use pullpass_harness::objects::{SYSTEM_NAMESPACE, basic_secret};
use pullpass_harness::{ApiServer, eventually};
use serde_json::{Value, json};

use crate::copies::CONVERGENCE;

const FIELD_MANAGER: &str = "pullpass-tests";

/// A private registry whose user name and password are in the Secret of its own name, for these namespaces.
///
/// # Panics
/// Never: the object is complete.
pub fn private(name: &str, host: &str, namespaces: &[&str]) -> Registry {
    with_spec(
        name,
        &json!({
            "host": host,
            "auth": {"basic": {"secretRef": {"name": name}}},
            "access": {"namespaces": {"include": namespaces}},
        }),
    )
}

/// A Registry with any spec that the types take.
///
/// # Panics
/// If they do not take it.
pub fn with_spec(name: &str, spec: &Value) -> Registry {
    serde_json::from_value(json!({
        "apiVersion": "pullpass.dev/v1alpha1",
        "kind": "Registry",
        "metadata": {"name": name},
        "spec": spec,
    }))
    .expect("a Registry")
}

/// Creates a Registry.
///
/// # Panics
/// If the API server refuses it.
pub async fn create(server: &ApiServer, registry: &Registry) {
    let registries: Api<Registry> = server.all();
    registries
        .create(&PostParams::default(), registry)
        .await
        .unwrap_or_else(|error| panic!("cannot create a Registry: {error}"));
}

/// Changes a Registry's spec by a merge patch.
///
/// # Panics
/// If the API server refuses it.
pub async fn patch(server: &ApiServer, name: &str, spec: &Value) {
    let registries: Api<Registry> = server.all();
    registries
        .patch(
            name,
            &PatchParams::default(),
            &Patch::Merge(json!({"spec": spec})),
        )
        .await
        .unwrap_or_else(|error| panic!("cannot change the Registry {name}: {error}"));
}

/// Deletes a Registry.
///
/// # Panics
/// If the API server refuses it.
pub async fn delete(server: &ApiServer, name: &str) {
    let registries: Api<Registry> = server.all();
    registries
        .delete(name, &DeleteParams::default())
        .await
        .unwrap_or_else(|error| panic!("cannot delete the Registry {name}: {error}"));
}

/// Writes a source Secret with a user name and a password, over one that is there.
///
/// # Panics
/// If the API server refuses it.
pub async fn write_source(server: &ApiServer, name: &str, username: &str, password: &str) {
    write_secret(server, &basic_secret(name, username, password)).await;
}

/// Writes a source Secret, over one that is there.
///
/// # Panics
/// If the API server refuses it.
pub async fn write_secret(server: &ApiServer, secret: &Secret) {
    let secrets: Api<Secret> = server.of(SYSTEM_NAMESPACE);
    let name = secret.metadata.name.clone().unwrap_or_default();
    let manager = PatchParams::apply(FIELD_MANAGER).force();
    secrets
        .patch(&name, &manager, &Patch::Apply(secret))
        .await
        .unwrap_or_else(|error| panic!("cannot write the Secret {name}: {error}"));
}

/// The status and the reason of one of a Registry's conditions, as `True/Synced`, about its present spec; otherwise what
/// there is instead.
///
/// # Errors
/// The whole status, where the condition is missing or about an earlier spec.
pub async fn condition(server: &ApiServer, name: &str, kind: &str) -> Result<String, String> {
    let registries: Api<Registry> = server.all();
    let registry = registries
        .get(name)
        .await
        .map_err(|error| error.to_string())?;
    let generation = registry.metadata.generation;
    let status = registry.status.unwrap_or_default();
    let shown = format!("{status:?}");
    status
        .conditions
        .into_iter()
        .find(|condition| condition.type_ == kind && status.observed_generation == generation)
        .map(|condition| format!("{}/{}", condition.status, condition.reason))
        .ok_or(shown)
}

/// The events about a Registry, as `Warning Unauthorized: message`.
///
/// # Panics
/// If the API server cannot be asked.
pub async fn events(server: &ApiServer, name: &str) -> Vec<String> {
    let registries: Api<Registry> = server.all();
    let registry = registries.get(name).await;
    // another test may have had one of the same name
    let uid = registry
        .unwrap_or_else(|error| panic!("cannot read the Registry {name}: {error}"))
        .uid()
        .unwrap_or_default();
    let events: Api<Event> = server.of("default");
    let about = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
    let events = events.list(&about).await;
    events
        .unwrap_or_else(|error| panic!("cannot read the events: {error}"))
        .into_iter()
        .map(|event| {
            let [kind, reason, message] = [event.type_, event.reason, event.message];
            format!(
                "{} {}: {}",
                kind.unwrap_or_default(),
                reason.unwrap_or_default(),
                message.unwrap_or_default()
            )
        })
        .collect()
}

/// Waits until a condition says this, as `True/Synced`.
///
/// # Panics
/// If that does not come about.
pub async fn has_condition(server: &ApiServer, name: &str, kind: &str, wanted: &str) {
    eventually(CONVERGENCE, "the Registry's condition", async || {
        let found = condition(server, name, kind).await?;
        if found == wanted {
            Ok(())
        } else {
            Err(format!("{name} {kind}={found}, not {wanted}"))
        }
    })
    .await;
}
