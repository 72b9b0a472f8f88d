//! Webhooks of the tests' own: one that records what the API server sends to it and answers "as it is", and one that
//! changes pods in its own way, as webhooks of others do.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::post;
use bytes::Bytes;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations,
    ValidatingAdmissionPolicyBinding, WebhookClientConfig,
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use kube::core::DynamicObject;
use serde_json::{Value, json};

use crate::objects::{base64, named};
use crate::server::ApiServer;
use crate::tls::{self, Served};
use crate::{eventually, must, name};

/// How long the API server may take to learn of a policy.
const IN_FORCE: Duration = Duration::from_secs(60);

/// A running recorder; it ends when it is dropped.
pub struct Recorder {
    served: Served,
    bodies: Arc<Mutex<Vec<Bytes>>>,
}

impl Recorder {
    /// Listens on a free port of the loopback address.
    pub async fn start() -> Self {
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let router = Router::new()
            .route("/inject", post(record))
            .with_state(Arc::clone(&bodies));
        Self {
            served: must(serve(router).await),
            bodies,
        }
    }

    /// Everything that was sent so far, byte for byte.
    pub fn bodies(&self) -> Vec<Bytes> {
        // a poisoned list is still a list of whole bodies
        self.bodies
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    /// The certificate authority (PEM) of its certificate.
    pub fn authority(&self) -> &str {
        &self.served.authority
    }

    /// How the API server reaches it.
    pub fn client_config(&self) -> WebhookClientConfig {
        client_config(&self.served.address, &self.served.authority)
    }

    /// Lets the API server send every creation of a pod here.
    pub async fn register(&self, server: &ApiServer) {
        let configurations: Api<MutatingWebhookConfiguration> = server.all();
        let Served {
            address, authority, ..
        } = &self.served;
        let configuration = configuration("recorder", address, authority);
        must(
            configurations
                .create(&PostParams::default(), &configuration)
                .await
                .context("cannot register the recorder"),
        );
    }
}

/// How a webhook of others changes a pod.
pub type Habit = fn(&mut Value);

/// Another webhook beside ours; it ends when it is dropped.
pub struct Neighbour {
    served: Served,
}

impl Neighbour {
    /// Changes every pod that it is asked about in this way, by a patch as small as can be.
    pub async fn start(habit: Habit) -> Self {
        let router = Router::new()
            .route("/inject", post(change))
            .with_state(habit);
        Self {
            served: must(serve(router).await),
        }
    }

    /// Lets the API server ask it about every pod, in the order of the names of all webhook configurations. A pod is not
    /// admitted without its answer.
    pub async fn register(&self, server: &ApiServer, name: &str, reinvocation_policy: &str) {
        let Served {
            address, authority, ..
        } = &self.served;
        let mut configuration = configuration(name, address, authority);
        for webhook in configuration.webhooks.iter_mut().flatten() {
            webhook.reinvocation_policy = Some(reinvocation_policy.to_owned());
            webhook.failure_policy = Some("Fail".to_owned());
        }
        let configurations: Api<MutatingWebhookConfiguration> = server.all();
        must(
            configurations
                .create(&PostParams::default(), &configuration)
                .await
                .context("cannot register the neighbour"),
        );
    }
}

/// A webhook configuration that sends every creation of a pod to `https://<address>/inject`, whose certificate
/// `authority` (PEM) has signed. It ignores failures, as ours does.
pub fn configuration(
    name: &str,
    address: &SocketAddr,
    authority: &str,
) -> MutatingWebhookConfiguration {
    MutatingWebhookConfiguration {
        metadata: named(name),
        webhooks: Some(vec![MutatingWebhook {
            name: format!("{name}.tests.pullpass.dev"),
            admission_review_versions: vec!["v1".into()],
            side_effects: "None".into(),
            failure_policy: Some("Ignore".into()),
            reinvocation_policy: Some("IfNeeded".into()),
            client_config: client_config(address, authority),
            rules: Some(vec![RuleWithOperations {
                api_groups: Some(vec![String::new()]),
                api_versions: Some(vec!["v1".into()]),
                operations: Some(vec!["CREATE".into()]),
                resources: Some(vec!["pods".into()]),
                scope: Some("Namespaced".into()),
            }]),
            ..MutatingWebhook::default()
        }]),
    }
}

pub(crate) fn client_config(address: &SocketAddr, authority: &str) -> WebhookClientConfig {
    WebhookClientConfig {
        url: Some(format!("https://{address}/inject")),
        ca_bundle: Some(ByteString(authority.as_bytes().to_vec())),
        ..WebhookClientConfig::default()
    }
}

impl ApiServer {
    /// Waits until the API server acts on every admission policy that was stored or deleted before this call, which it
    /// learns of a little later.
    pub async fn policies_are_in_force(&self) {
        let marker = name::unique("marker");
        for object in must(marker_policy(&marker)) {
            self.apply(&object).await;
        }
        let maps: Api<ConfigMap> = self.of("default");
        let map = ConfigMap {
            metadata: named(&marker),
            ..ConfigMap::default()
        };
        let dry_run = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        eventually(IN_FORCE, "the last policy is in force", async || match maps
            .create(&dry_run, &map)
            .await
        {
            Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }

    /// Takes a policy out of force, as before the installation.
    pub async fn lift_policy(&self, name: &str) {
        let bindings: Api<ValidatingAdmissionPolicyBinding> = self.all();
        must(
            bindings
                .delete(name, &DeleteParams::default())
                .await
                .with_context(|| format!("cannot lift the policy {name}")),
        );
        self.policies_are_in_force().await;
    }
}

/// A policy that refuses one configuration map, and its binding. The API server takes all policies and bindings together
/// into account, so that those which were stored before are in force when this one is.
fn marker_policy(name: &str) -> Result<Vec<DynamicObject>> {
    let api_version = "admissionregistration.k8s.io/v1";
    let policy = json!({
        "apiVersion": api_version,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                "resources": ["configmaps"], "resourceNames": [name],
            }]},
            "validations": [{"expression": "false", "reason": "Forbidden"}],
        },
    });
    let binding = json!({
        "apiVersion": api_version,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    });
    [policy, binding]
        .into_iter()
        .map(|object| serde_json::from_value(object).map_err(Into::into))
        .collect()
}

/// On a free port of the loopback address.
async fn serve(router: Router) -> Result<Served> {
    tls::serve(
        router,
        SocketAddr::from(([127, 0, 0, 1], 0)),
        &["127.0.0.1"],
    )
    .await
}

async fn record(State(bodies): State<Arc<Mutex<Vec<Bytes>>>>, body: Bytes) -> impl IntoResponse {
    let review: Value = serde_json::from_slice(&body).unwrap_or_default();
    bodies
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .push(body);
    answer(&review, json!({}))
}

async fn change(State(habit): State<Habit>, body: Bytes) -> impl IntoResponse {
    let review: Value = serde_json::from_slice(&body).unwrap_or_default();
    let before = review
        .pointer("/request/object")
        .cloned()
        .unwrap_or_default();
    let mut after = before.clone();
    habit(&mut after);
    let patch = json_patch::diff(&before, &after);
    if patch.0.is_empty() {
        return answer(&review, json!({}));
    }
    let encoded = base64(json!(patch).to_string());
    answer(&review, json!({"patchType": "JSONPatch", "patch": encoded}))
}

/// An answer that allows, with these fields.
fn answer(review: &Value, mut response: Value) -> impl IntoResponse + use<> {
    response["uid"] = review.pointer("/request/uid").cloned().unwrap_or_default();
    response["allowed"] = true.into();
    let answer = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": response,
    });
    ([(CONTENT_TYPE, "application/json")], answer.to_string())
}
