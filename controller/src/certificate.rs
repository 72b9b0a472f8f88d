//! The loop over certificates: carries out what `pullpass-certs` decides, one write at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use pullpass_certs::{Action, Observed, Policy, SecretData, Stored, rotate};
use serde::Serialize;

use crate::context::Context;
use crate::manifest::{
    AUTHORITY_SECRET, CA_BUNDLE_FIELD_MANAGER, FIELD_MANAGER, Metadata, SecretManifest,
    common_labels,
};
use crate::observed::Version;
use crate::term::{Term, WriteError};
use crate::world::WebhookConfiguration;

/// The wall clock can jump and a process can sleep: it is looked at so often, which costs no request.
const LOOK: Duration = Duration::from_secs(60);

/// After a failure.
const RETRY: Duration = Duration::from_secs(5);

/// From one write to the next there are at most a handful of steps; more of them in a row mean that somebody undoes them.
const MOST_STEPS: usize = 16;

/// What the webhook's certificates are to be, and where they go.
#[derive(Clone, Debug)]
pub(crate) struct Serving {
    /// What they have to be like.
    pub(crate) policy: Policy,
    /// The Secret of the serving certificate.
    pub(crate) secret_name: String,
    /// The webhook configuration.
    pub(crate) configuration_name: String,
}

/// The webhook configuration, as far as certificates need it: the webhooks that are served by our Service.
pub(crate) fn observe(
    configuration: &MutatingWebhookConfiguration,
    namespace: &str,
    service: &str,
) -> WebhookConfiguration {
    let webhooks = configuration.webhooks.iter().flatten();
    WebhookConfiguration {
        version: Version::of(&configuration.metadata),
        webhooks: webhooks
            .filter(|webhook| {
                webhook
                    .client_config
                    .service
                    .as_ref()
                    .is_some_and(|of| of.name == service && of.namespace == namespace)
            })
            .map(|webhook| {
                let bundle = webhook.client_config.ca_bundle.clone();
                (
                    webhook.name.clone(),
                    bundle.map(|bytes| bytes.0).unwrap_or_default(),
                )
            })
            .collect(),
    }
}

/// Keeps the certificates as they should be until the term ends.
pub(crate) async fn run(context: Context, term: Term, serving: Serving) {
    let over = term.over();
    while !over.is_cancelled() {
        let pause = match settle(&context, &term, &serving).await {
            Ok(()) => LOOK,
            Err(Trouble::TermOver) => return,
            Err(trouble) => {
                tracing::warn!(%trouble, "certificates are not as they should be");
                RETRY
            }
        };
        let news = async {
            // a failure is not tried again at once because of news that it made itself
            if pause == RETRY {
                std::future::pending::<()>().await;
            }
            context.world.certificates.notified().await;
        };
        let either = tokio::time::timeout(pause, news);
        over.run_until_cancelled(either).await;
    }
}

/// Without a webhook there is nothing to certify: deletes what an earlier installation has left.
pub(crate) async fn remove(context: Context, term: Term, serving: Serving) {
    let secrets: Api<Secret> =
        Api::namespaced(context.client.clone(), &context.world.settings.namespace);
    for name in [AUTHORITY_SECRET, &serving.secret_name] {
        let Ok(Found {
            version: Some(version),
            ..
        }) = read(&context, name)
        else {
            continue;
        };
        let parameters = version.deletion_in_any_version();
        let result = term.write(secrets.delete(name, &parameters)).await;
        context.metrics.wrote("certificate", "delete", &result);
        match result {
            Ok(_) => context.world.deleted_secret(name, &version),
            Err(error) => tracing::warn!(secret = name, %error, "certificate not deleted"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("leads no more")]
    TermOver,
    #[error("{object}: {error}")]
    Write { object: &'static str, error: String },
    #[error("{0}")]
    Issue(#[from] pullpass_certs::IssueError),
    #[error("cannot be stored: {0}")]
    Encode(#[from] serde_json::Error),
    #[error(
        "the Secret {0:?} in Pullpass's namespace was not made by Pullpass: delete it, or tell the webhook to serve from it"
    )]
    Foreign(String),
    #[error("somebody undoes what is done")]
    Undone,
}

/// Goes from step to step until nothing is due.
async fn settle(context: &Context, term: &Term, serving: &Serving) -> Result<(), Trouble> {
    for _ in 0..MOST_STEPS {
        let now = Timestamp::now();
        let authorities = read(context, AUTHORITY_SECRET)?;
        let leaf = read(context, &serving.secret_name)?;
        let stored = Stored::read(authorities.data.as_ref(), leaf.data.as_ref());
        gauge(context, &stored);
        let configuration = context.world.webhook_configuration();
        let observed = Observed {
            ca_bundle: configuration.as_ref().map(published),
        };
        let step = rotate(now, &serving.policy, &stored, &observed);
        match step.prepare(now, &serving.policy)? {
            Action::StoreAuthorities(to) => {
                tracing::info!(secret = AUTHORITY_SECRET, "storing authorities");
                let data = to.to_secret_data()?;
                store(
                    context,
                    term,
                    AUTHORITY_SECRET,
                    "Opaque",
                    &data,
                    &authorities,
                )
                .await?;
            }
            Action::StoreServing(to) => {
                tracing::info!(secret = serving.secret_name, not_after = %to.certificate.not_after(), "storing a serving certificate");
                let data = to.to_secret_data();
                let kind = "kubernetes.io/tls";
                store(context, term, &serving.secret_name, kind, &data, &leaf).await?;
            }
            Action::Publish(bundle) => {
                tracing::info!(
                    webhook_configuration = serving.configuration_name,
                    "publishing caBundle"
                );
                publish(
                    context,
                    term,
                    &serving.configuration_name,
                    configuration,
                    &bundle,
                )
                .await?;
            }
            Action::Wait(until) => {
                tracing::debug!(%until, "certificates are as they should be");
                return Ok(());
            }
        }
    }
    Err(Trouble::Undone)
}

/// A Secret of certificates.
struct Found {
    version: Option<Version>,
    data: Option<SecretData>,
}

fn read(context: &Context, name: &str) -> Result<Found, Trouble> {
    let Some(secret) = context.world.secret(name) else {
        return Ok(Found {
            version: None,
            data: None,
        });
    };
    let labels = secret.labels();
    let is_ours = common_labels()
        .iter()
        .all(|(key, value)| labels.get(*key).is_some_and(|found| found == value));
    if !is_ours {
        return Err(Trouble::Foreign(name.to_owned()));
    }
    let data = secret.data.iter().flatten();
    Ok(Found {
        version: Some(Version::of(&secret.metadata)),
        data: Some(
            data.map(|(key, value)| (key.clone(), value.0.clone()))
                .collect(),
        ),
    })
}

/// The bundle that all webhooks have, or none, so that it is published where one differs.
fn published(configuration: &WebhookConfiguration) -> Vec<u8> {
    let mut bundles = configuration.webhooks.iter().map(|(_, bundle)| bundle);
    let first = bundles.next();
    match first {
        Some(first) if bundles.all(|bundle| bundle == first) => first.clone(),
        Some(_) | None => Vec::new(),
    }
}

async fn store(
    context: &Context,
    term: &Term,
    name: &str,
    kind: &str,
    data: &SecretData,
    before: &Found,
) -> Result<(), Trouble> {
    let metadata = Metadata::named(name, common_labels(), before.version.as_ref());
    let values = data
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_slice()));
    let manifest = SecretManifest::new(kind, metadata, values);
    let mut parameters = PatchParams::apply(FIELD_MANAGER);
    parameters.force = before.version.is_some();
    let secrets: Api<Secret> =
        Api::namespaced(context.client.clone(), &context.world.settings.namespace);
    let patch = Patch::Apply(&manifest);
    let request = secrets.patch(name, &parameters, &patch);
    let secret = write(context, term, "certificate", request).await?;
    context.world.wrote_secret(name, secret);
    Ok(())
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BundleManifest<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata<'a>,
    webhooks: Vec<serde_json::Value>,
}

async fn publish(
    context: &Context,
    term: &Term,
    name: &str,
    configuration: Option<WebhookConfiguration>,
    bundle: &str,
) -> Result<(), Trouble> {
    let Some(configuration) = configuration.filter(|found| !found.webhooks.is_empty()) else {
        return Err(Trouble::Write {
            object: "webhook configuration",
            error: format!(
                "{name:?} has no webhook that points to Pullpass's Service: install the chart again"
            ),
        });
    };
    let encoded = serde_json::to_value(k8s_openapi::ByteString(bundle.as_bytes().to_vec()))?;
    let manifest = BundleManifest {
        api_version: "admissionregistration.k8s.io/v1",
        kind: "MutatingWebhookConfiguration",
        // what the chart says of it is left to the chart
        metadata: Metadata::named(name, BTreeMap::new(), Some(&configuration.version)),
        webhooks: configuration
            .webhooks
            .iter()
            .map(|(webhook, _)| {
                serde_json::json!({"name": webhook, "clientConfig": {"caBundle": encoded}})
            })
            .collect(),
    };
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(context.client.clone());
    let parameters = PatchParams::apply(CA_BUNDLE_FIELD_MANAGER).force();
    let patch = Patch::Apply(&manifest);
    let request = configurations.patch(name, &parameters, &patch);
    let written = write(context, term, "webhook_configuration", request).await?;
    let webhooks = configuration
        .webhooks
        .into_iter()
        .map(|(webhook, _)| (webhook, bundle.as_bytes().to_vec()))
        .collect();
    context
        .world
        .webhook_configuration_changed(Some(WebhookConfiguration {
            version: Version::of(&written.metadata),
            webhooks,
        }));
    Ok(())
}

async fn write<T>(
    context: &Context,
    term: &Term,
    object: &'static str,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, Trouble> {
    let result = term.write(request).await;
    context.metrics.wrote(object, "apply", &result);
    result.map_err(|error| match error {
        WriteError::TermOver => Trouble::TermOver,
        error @ (WriteError::NoAnswer | WriteError::Api(_)) => Trouble::Write {
            object,
            error: error.to_string(),
        },
    })
}

fn gauge(context: &Context, stored: &Stored) {
    let authority = stored
        .authorities
        .current
        .as_ref()
        .map(|authority| authority.certificate.not_after());
    let serving = stored
        .serving
        .as_ref()
        .map(|serving| serving.certificate.not_after());
    for (certificate, not_after) in [("authority", authority), ("serving", serving)] {
        if let Some(not_after) = not_after {
            context
                .metrics
                .certificate_expiry
                .with_label_values(&[certificate])
                .set(not_after.as_millisecond() as f64 / 1000.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn configuration(webhooks: serde_json::Value) -> WebhookConfiguration {
        let object = serde_json::from_value(json!({
            "metadata": {"name": "pullpass", "uid": "u", "resourceVersion": "1"},
            "webhooks": webhooks,
        }))
        .unwrap();
        observe(&object, "pullpass-system", "pullpass-webhook")
    }

    fn webhook(name: &str, service: &str, bundle: Option<&str>) -> serde_json::Value {
        json!({
            "name": name, "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {
                "service": {"name": service, "namespace": "pullpass-system"},
                "caBundle": bundle,
            },
        })
    }

    #[test]
    fn only_webhooks_of_our_service_are_ours() {
        let found = configuration(json!([
            webhook("pods.pullpass.dev", "pullpass-webhook", Some("YQ==")),
            webhook("other.example.com", "other", Some("Yg==")),
        ]));
        assert_eq!(
            found.webhooks,
            [("pods.pullpass.dev".into(), b"a".to_vec())]
        );
        assert_eq!(published(&found), b"a");
    }

    #[test]
    fn bundles_that_differ_count_as_none() {
        let found = configuration(json!([
            webhook("a.pullpass.dev", "pullpass-webhook", Some("YQ==")),
            webhook("b.pullpass.dev", "pullpass-webhook", None),
        ]));
        assert!(published(&found).is_empty());
        assert!(published(&configuration(json!([]))).is_empty());
    }
}
