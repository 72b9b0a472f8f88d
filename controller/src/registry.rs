//! The loop over Registries: read the source, say what clouds and registries are to be asked, keep the last good
//! credential, let go of what is no longer due.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use pullpass_api::Registry;
use pullpass_api::convert;
use pullpass_core::docker_config;
use pullpass_core::reason::Reason;
use pullpass_core::registry::CredentialKind;

use crate::clock;
use crate::context::Context;
use crate::credential::{self, Keep, LastGood};
use crate::inquiry::{self, Question};
use crate::manifest::{FIELD_MANAGER, credential_name};
use crate::observed::Version;
use crate::queue::Outcome;
use crate::renewal;
use crate::source::Source;
use crate::term::{Term, WriteError};
use crate::upkeep::{self, Facts, Next};
use crate::world::{Findings, Known, Verdict};

/// How many Registries are worked on at a time.
pub(crate) const CONCURRENCY: usize = 4;

/// From the deletion of a Registry until it is believed. When a CRD is deleted, the API server deletes its objects first,
/// which looks the same to a watch, and needs a moment to show that the CRD is going.
const BELIEVED_AFTER: Duration = Duration::from_secs(1);

/// A credential is stored, and then perhaps once more: from one answer to the next question there are no more steps.
const STEPS: usize = 3;

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
        Some((known, _)) => match known.gone_since {
            Some(since) => work.let_go(since.elapsed()).await,
            None => work.read(&known).await,
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
    async fn read(&self, known: &Known) -> Outcome {
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
        let source = Source::of(&self.context.world, registry, domain.key.as_ref());
        self.context.world.asks_in_way(&self.name, &source.way);
        let outcome = self.bring_on(registry, &domain, source).await;
        // what has changed in the policy does not wait for the credential
        self.context.world.publish();
        outcome
    }

    /// Takes the credential as far as it goes without an answer from outside.
    async fn bring_on(
        &self,
        registry: &Arc<Registry>,
        domain: &pullpass_core::registry::Registry,
        source: Source,
    ) -> Outcome {
        let world = &self.context.world;
        for _ in 0..STEPS {
            let (Some((_, last_good)), Some(heard)) =
                (world.registry(&self.name), world.heard(&self.name))
            else {
                return Outcome::Done;
            };
            let next = upkeep::next(&Facts {
                now: clock::time_of_day(),
                wanted: source.wanted.as_ref(),
                source: &source.fingerprint,
                way: &source.way,
                no_way: source.connection.as_ref().err(),
                last_good: last_good.as_ref(),
                heard: &heard,
                interval: world.settings.verify_interval,
                place: renewal::place(registry.metadata.uid.as_deref().unwrap_or_default()),
            });
            if let Some(keep) = &next.keep {
                match self.keep(registry, keep).await {
                    Ok(()) => continue,
                    Err(Kept::Not(reason, message, outcome)) => {
                        self.judge(registry, Verdict::Bad { reason, message });
                        return outcome;
                    }
                    Err(Kept::Unknown) => return Outcome::SOON,
                }
            }
            let again = next.again;
            self.ask(domain, &source, last_good.as_ref(), &next);
            world.judge(&self.name, registry, Findings::of(next));
            return again.map_or(Outcome::Done, Outcome::Again);
        }
        // each step leads to the next one; more of them are a credential that somebody else writes at the same time
        Outcome::SOON
    }

    fn ask(
        &self,
        domain: &pullpass_core::registry::Registry,
        source: &Source,
        last_good: Option<&LastGood>,
        next: &Next,
    ) {
        let Ok(connection) = &source.connection else {
            return self.context.world.ask(&self.name, None, None);
        };
        let login = match (&next.log_in, &source.method, &domain.key) {
            (Some(log_in), Some(method), Some(key)) => Some(Question {
                text: log_in.text.clone(),
                connection: connection.clone(),
                about: inquiry::Login {
                    key: key.clone(),
                    method: method.clone(),
                    source: source.fingerprint.clone(),
                    provider: source.provider,
                    in_use: last_good
                        .filter(|in_use| in_use.source.as_deref() == Some(&source.fingerprint))
                        .map(|in_use| (Arc::clone(&in_use.entries), in_use.expires_at)),
                    refused_before: log_in.refused_before,
                },
            }),
            _ => None,
        };
        let verification = next.verify.as_ref().map(|(text, entries)| Question {
            text: text.clone(),
            connection: connection.clone(),
            about: inquiry::Verification {
                entries: entries.clone(),
                repository: source.repository.clone(),
                way: source.way.clone(),
            },
        });
        self.context.world.ask(&self.name, login, verification);
    }

    /// There is nothing to ask about.
    fn judge(&self, registry: &Arc<Registry>, verdict: Verdict) -> Outcome {
        self.context.world.ask(&self.name, None, None);
        self.context
            .world
            .judge(&self.name, registry, verdict.into());
        Outcome::Done
    }

    /// Stores entries as the last good ones.
    async fn keep(&self, registry: &Registry, keep: &upkeep::Keep) -> Result<(), Kept> {
        let content = docker_config::write(&*keep.entries);
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
            refreshed_at: keep.refreshed_at,
            expires_at: keep.expires_at,
            source: keep.source.clone(),
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
                self.context.world.wrote_secret(&secret_name, secret);
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
                return Outcome::SOON;
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
                Outcome::SOON
            }
        }
    }

    async fn delete(&self, secret_name: &str, version: &Version) -> Result<(), WriteError> {
        let parameters = version.deletion();
        let request = self.secrets.delete(secret_name, &parameters);
        let result = self.term.write(request).await;
        self.context.metrics.wrote("credential", "delete", &result);
        match result {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        self.context.world.deleted_secret(secret_name, version);
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
