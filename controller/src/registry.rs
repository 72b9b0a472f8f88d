//! The loop over Registries: read the source, keep the last good credential, let go of what is no longer due.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, ResourceExt as _};
use pullpass_api::Registry;
use pullpass_api::convert;
use pullpass_core::docker_config::{self, Entries};
use pullpass_core::reason::Reason;
use pullpass_core::registry::CredentialKind;
use secrecy::ExposeSecret as _;

use crate::clock;
use crate::context::Context;
use crate::credential::{self, Keep, LastGood};
use crate::manifest::{FIELD_MANAGER, credential_name};
use crate::observed::{Version, digest};
use crate::queue::Outcome;
use crate::source::{self, SourceError};
use crate::term::{Term, WriteError};
use crate::world::{Known, Verdict};

/// How many Registries are worked on at a time.
pub(crate) const CONCURRENCY: usize = 4;

/// From the deletion of a Registry until it is believed. When a CRD is deleted, the API server deletes its objects first,
/// which looks the same to a watch, and needs a moment to show that the CRD is going.
const BELIEVED_AFTER: Duration = Duration::from_secs(1);

const SOON: Outcome = Outcome::Failed {
    first: Duration::from_millis(250),
    longest: Duration::from_secs(30),
};

/// Looks at one Registry, or at what is left of it.
pub(crate) async fn reconcile(context: Context, term: Term, name: String) -> Outcome {
    let _timer = context
        .metrics
        .work_seconds
        .with_label_values(&["registry"])
        .start_timer();
    let secrets = Api::namespaced(context.client.clone(), &context.world.settings.namespace);
    let work = Work {
        secrets,
        context,
        term,
        name,
    };
    match work.context.world.registry(&work.name) {
        Some((known, last_good)) => match known.gone_since {
            Some(since) => work.let_go(since.elapsed()).await,
            None => work.read(&known, last_good.as_ref()).await,
        },
        None => work.delete_credential().await,
    }
}

struct Work {
    context: Context,
    term: Term,
    name: String,
    secrets: Api<Secret>,
}

impl Work {
    async fn read(&self, known: &Known, last_good: Option<&LastGood>) -> Outcome {
        let registry = &known.object;
        let domain = match convert::registry(registry) {
            Ok(domain) => domain,
            Err(error) => return self.judge(registry, Verdict::Invalid(error.to_string())),
        };
        let needs_none = match (&domain.credential, &registry.spec.auth) {
            (CredentialKind::None, _) => Some(Verdict::Public),
            (CredentialKind::HeldByNamespace { .. }, None) => Some(Verdict::Held),
            (CredentialKind::HeldByNamespace { .. } | CredentialKind::Copied, _) => None,
        };
        if let Some(verdict) = needs_none {
            self.judge(registry, verdict);
            return self.delete_credential().await;
        }
        let auth = registry.spec.auth.clone().unwrap_or_default();
        let world = &self.context.world;
        let source_name = source::secret_name(&auth);
        let source = source_name.and_then(|name| world.secret(name));
        let read = match source_name.filter(|name| world.settings.is_written_by_us(name)) {
            Some(name) => Err(SourceError::written_by_us(name)),
            None => source::read(&auth, domain.key.as_ref(), source.as_deref()),
        };
        let (entries, verdict) = match read {
            Ok(entries) => (Some(Arc::new(entries)), Verdict::Good),
            Err(error) => (
                // the Secret of the last good one may have been deleted or damaged
                last_good
                    .filter(|last_good| !last_good.is_stored)
                    .map(|last_good| Arc::clone(&last_good.entries)),
                Verdict::Bad {
                    reason: error.reason,
                    message: error.message,
                },
            ),
        };
        let Some(entries) = entries else {
            return self.judge(registry, verdict);
        };
        match self
            .keep(registry, &entries, source.as_deref(), last_good)
            .await
        {
            Ok(()) => self.judge(registry, verdict),
            Err(Kept::Not(reason, message, outcome)) => {
                self.judge(registry, Verdict::Bad { reason, message });
                outcome
            }
            Err(Kept::Unknown) => {
                // what has changed in the policy does not wait for the credential
                self.context.world.publish();
                SOON
            }
        }
    }

    fn judge(&self, registry: &Arc<Registry>, verdict: Verdict) -> Outcome {
        self.context.world.judge(&self.name, registry, verdict);
        Outcome::Done
    }

    /// Stores the entries as the last good ones, unless they are stored already.
    async fn keep(
        &self,
        registry: &Registry,
        entries: &Entries,
        source: Option<&Secret>,
        last_good: Option<&LastGood>,
    ) -> Result<(), Kept> {
        let content = docker_config::write(entries);
        let is_same = |last_good: &&LastGood| last_good.digest == digest(content.expose_secret());
        if last_good
            .filter(is_same)
            .is_some_and(|last_good| last_good.is_stored)
        {
            return Ok(());
        }
        let secret_name = credential_name(&self.name);
        let there = self.context.world.secret(&secret_name);
        if there
            .as_ref()
            .is_some_and(|secret| !credential::is_ours(secret))
        {
            let message = format!(
                "the Secret {secret_name:?} in Pullpass's namespace, where the credential would be kept, was not made by Pullpass"
            );
            return Err(Kept::Not(Reason::ForeignSecret, message, Outcome::Done));
        }
        let mut version = there.as_ref().map(|secret| Version::of(&secret.metadata));
        if let (Some(secret), Some(of)) = (&there, &version)
            && secret.immutable == Some(true)
        {
            self.delete(&secret_name, of)
                .await
                .map_err(|error| self.failed(&error))?;
            version = None;
        }
        let keep = Keep {
            registry: &self.name,
            registry_uid: registry.metadata.uid.as_deref().unwrap_or_default(),
            content: &content,
            refreshed_at: last_good
                .filter(is_same)
                .and_then(|last_good| last_good.refreshed_at)
                .unwrap_or_else(clock::time_of_day),
            expires_at: None,
            source: credential::fingerprint(registry, source),
            version: version.as_ref(),
        };
        let mut parameters = PatchParams::apply(FIELD_MANAGER);
        parameters.force = version.is_some();
        let manifest = keep.manifest(&secret_name);
        let patch = Patch::Apply(&manifest);
        let request = self.secrets.patch(&secret_name, &parameters, &patch);
        let result = self.term.write(request).await;
        self.context.metrics.wrote("credential", "apply", &result);
        match result {
            Ok(secret) => {
                self.context.world.wrote_secret(&secret_name, Some(secret));
                Ok(())
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn failed(&self, error: &WriteError) -> Kept {
        if !matches!(error, WriteError::TermOver) {
            tracing::warn!(registry = self.name, %error, "credential not kept");
        }
        match error.status() {
            Some(status) if !error.is_conflict() && (400..429).contains(&status.code) => Kept::Not(
                Reason::WriteRefused,
                format!("the credential cannot be kept: {error}"),
                Outcome::Failed {
                    first: Duration::from_secs(5),
                    longest: Duration::from_secs(300),
                },
            ),
            Some(_) | None => Kept::Unknown,
        }
    }

    /// Believes in the Registry's deletion only if its kind is still there.
    async fn let_go(&self, gone_for: Duration) -> Outcome {
        if gone_for < BELIEVED_AFTER {
            return Outcome::Again(BELIEVED_AFTER.saturating_sub(gone_for));
        }
        match is_kind_served(&self.context.client).await {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(
                    registry = self.name,
                    "the CRD of Registries is gone or going: what namespaces have stays as it is"
                );
                return Outcome::Failed {
                    first: Duration::from_secs(10),
                    longest: Duration::from_secs(60),
                };
            }
            Err(error) => {
                tracing::warn!(
                    registry = self.name,
                    error = pullpass_daemon::chain(&error),
                    "cannot tell whether the CRD of Registries is there"
                );
                return SOON;
            }
        }
        self.context.world.forget_registry(&self.name);
        match self.context.world.registry(&self.name) {
            // made again meanwhile, for which its turn comes
            Some(_) => Outcome::Done,
            None => self.delete_credential().await,
        }
    }

    async fn delete_credential(&self) -> Outcome {
        let secret_name = credential_name(&self.name);
        let Some(secret) = self.context.world.secret(&secret_name) else {
            return Outcome::Done;
        };
        if !credential::is_ours(&secret) {
            return Outcome::Done;
        }
        match self
            .delete(&secret_name, &Version::of(&secret.metadata))
            .await
        {
            Ok(()) | Err(WriteError::TermOver) => Outcome::Done,
            Err(error) => {
                tracing::warn!(registry = self.name, %error, "credential not deleted");
                SOON
            }
        }
    }

    async fn delete(&self, secret_name: &str, version: &Version) -> Result<(), WriteError> {
        let parameters = DeleteParams::background().preconditions(Preconditions {
            uid: Some(version.uid.clone()),
            resource_version: Some(version.resource_version.clone()),
        });
        let request = self.secrets.delete(secret_name, &parameters);
        let result = self.term.write(request).await;
        self.context.metrics.wrote("credential", "delete", &result);
        match result {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        self.context.world.wrote_secret(secret_name, None);
        Ok(())
    }
}

/// Why the last good credential was not stored.
enum Kept {
    /// It will not be without somebody's help.
    Not(Reason, String, Outcome),
    /// It may be yet.
    Unknown,
}

/// Whether Registries can be made. While a CRD is being deleted, its objects with it, the API server's discovery leaves
/// out the verbs that make new ones (`customresource_discovery_controller.go` in apiextensions-apiserver).
async fn is_kind_served(client: &Client) -> kube::Result<bool> {
    let group_version = format!("{}/{}", pullpass_api::GROUP, pullpass_api::VERSION);
    let resources = match client.list_api_group_resources(&group_version).await {
        Ok(list) => list.resources,
        Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok(resources.iter().any(|resource| {
        resource.name == "registries" && resource.verbs.iter().any(|verb| verb == "create")
    }))
}

/// For events: the Registry, as the API server wants it.
pub(crate) fn reference(registry: &Registry) -> k8s_openapi::api::core::v1::ObjectReference {
    k8s_openapi::api::core::v1::ObjectReference {
        api_version: Some("pullpass.dev/v1alpha1".to_owned()),
        kind: Some("Registry".to_owned()),
        name: Some(registry.name_any()),
        uid: registry.metadata.uid.clone(),
        ..Default::default()
    }
}
