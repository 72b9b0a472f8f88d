//! The certificates of the webhook, as the controller issues and publishes them on a real API server.

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use pullpass_certs::{Certificate, ServingIdentity};
use pullpass_harness::daemons::Daemon;
use pullpass_harness::objects::{SYSTEM_NAMESPACE, base64};
use pullpass_harness::{Lease, eventually, lease};
use pullpass_suites::copies::CONVERGENCE;
use serde_json::json;

use crate::controller_writes::writes_nothing;

const SERVING: &str = "pullpass-webhook-tls";
const AUTHORITY: &str = "pullpass-ca";
const NAME: &str = "pullpass-webhook.pullpass-system.svc";

async fn scene() -> (Lease, Daemon) {
    let server = lease().await;
    server
        .apply_chart_where(|kind| {
            !matches!(
                kind,
                "Deployment" | "Job" | "Service" | "PodDisruptionBudget"
            )
        })
        .await;
    let controller = server.start_controller("one", &[]).await;
    (server, controller)
}

fn secrets(server: &Lease) -> Api<Secret> {
    server.of(SYSTEM_NAMESPACE)
}

async fn trusted(server: &Lease) -> Result<Vec<Certificate>, String> {
    let configurations: Api<MutatingWebhookConfiguration> = server.all();
    let configuration = configurations
        .get("pullpass")
        .await
        .map_err(|error| error.to_string())?;
    let hooks = configuration.webhooks.ok_or("no webhooks")?;
    let bundle = hooks[0]
        .client_config
        .ca_bundle
        .clone()
        .ok_or("no caBundle")?;
    Certificate::all_from_pem(&bundle.0).map_err(|error| error.to_string())
}

/// The serving certificate, once an API server would accept it under its name.
async fn accepted(server: &Lease) -> Certificate {
    eventually(
        CONVERGENCE,
        "the API server can trust what the webhook serves",
        async || {
            let data = secrets(server)
                .get(SERVING)
                .await
                .map_err(|error| error.to_string())?
                .data
                .ok_or("empty")?;
            let part = |key: &str| {
                data.get(key)
                    .map(|value| value.0.clone())
                    .ok_or(format!("no {key}"))
            };
            let identity = ServingIdentity::from_pem(&part("tls.crt")?, &part("tls.key")?)
                .map_err(|error| error.to_string())?;
            let leaf = identity.leaf().clone();
            let authorities = trusted(server).await?;
            if !authorities
                .iter()
                .any(|authority| authority.is_authority() && leaf.is_signed_by(authority))
            {
                return Err(format!(
                    "none of {} authorities has signed it",
                    authorities.len()
                ));
            }
            if !leaf.dns_names().contains(NAME) || !leaf.is_valid_at(jiff::Timestamp::now()) {
                return Err(format!("{:?} until {}", leaf.dns_names(), leaf.not_after()));
            }
            Ok(leaf)
        },
    )
    .await
}

#[tokio::test]
async fn what_is_served_is_what_is_trusted() {
    let (server, _controller) = scene().await;
    accepted(&server).await;
    let stored = secrets(&server).get(SERVING).await.unwrap();
    assert_eq!(stored.type_.as_deref(), Some("kubernetes.io/tls"));
    // the authority's key is not where the webhook can read
    let keys: Vec<_> = stored.data.unwrap().into_keys().collect();
    assert!(
        keys.iter()
            .all(|key| ["tls.crt", "tls.key", "ca.crt"].contains(&key.as_str())),
        "{keys:?}"
    );
}

#[tokio::test]
async fn a_restart_issues_nothing() {
    let (server, controller) = scene().await;
    let leaf = accepted(&server).await;
    controller.terminate().await;
    let audit = server.audit();
    let _next = server.start_controller("two", &[]).await;
    writes_nothing(&audit, |_| true).await;
    assert_eq!(accepted(&server).await.serial(), leaf.serial());
}

#[tokio::test]
async fn what_is_lost_is_issued_again() {
    let (server, _controller) = scene().await;
    let leaf = accepted(&server).await;
    secrets(&server)
        .delete(SERVING, &DeleteParams::default())
        .await
        .unwrap();
    let next = accepted(&server).await;
    assert_ne!(leaf.serial(), next.serial());
    secrets(&server)
        .delete(AUTHORITY, &DeleteParams::default())
        .await
        .unwrap();
    eventually(CONVERGENCE, "there is an authority again", async || {
        secrets(&server).get(AUTHORITY).await
    })
    .await;
    accepted(&server).await;
}

#[tokio::test]
async fn a_changed_ca_bundle_is_put_right() {
    let (server, _controller) = scene().await;
    let leaf = accepted(&server).await;
    let configurations: Api<MutatingWebhookConfiguration> = server.all();
    let spoil = Patch::Json::<()>(
        serde_json::from_value(json!([
            {"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": base64("")},
        ]))
        .unwrap(),
    );
    configurations
        .patch("pullpass", &PatchParams::default(), &spoil)
        .await
        .unwrap();
    assert_eq!(accepted(&server).await.serial(), leaf.serial());
}
