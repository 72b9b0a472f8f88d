//! The loop over namespaces: one Secret and one PullAccess in each that may use a registry.

use std::sync::Arc;
use std::time::Duration;

use either::Either;
use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::core::Status;
use pullpass_api::PullAccess;
use pullpass_api::pull_access::{self, SecretState};
use pullpass_core::reason::Reason;
use pullpass_core::render::{Outcome as RegistryOutcome, revoked};
use secrecy::SecretSlice;

use crate::context::Context;
use crate::events::Notice;
use crate::manifest::{
    AccessManifest, FIELD_MANAGER, Metadata, SecretManifest, copy_labels, without_strays,
};
use crate::observed::{Access, AccessContent, Copy, Digest, Version};
use crate::plan::{Desired, Next, Operation, REVOKED, plan};
use crate::queue::{Lane, Outcome};
use crate::rules::Rendered;
use crate::term::{Term, WriteError};
use crate::world::{Place, Standing};

/// How many namespaces are worked on at a time. Together with the other loops it stays below the 32 requests at which one
/// client begins to crowd others out of the API server's priority level for workloads.
pub(crate) const CONCURRENCY: usize = 24;

/// From any state the plan settles within six writes; more of them mean that somebody writes at the same time.
const MOST_WRITES: usize = 10;

/// Somebody has to do something first, and no watch tells when it is done.
const LATER: Outcome = Outcome::Failed {
    first: Duration::from_secs(15),
    longest: Duration::from_secs(300),
};

/// Brings one namespace up to date.
pub(crate) async fn reconcile(context: Context, term: Term, name: String) -> Outcome {
    let _timer = context
        .metrics
        .work_seconds
        .with_label_values(&["namespace"])
        .start_timer();
    let work = Work {
        secrets: Api::namespaced(context.client.clone(), &name),
        accesses: Api::namespaced(context.client.clone(), &name),
        context,
        term,
        name,
    };
    work.run().await
}

struct Work {
    context: Context,
    term: Term,
    name: String,
    secrets: Api<Secret>,
    accesses: Api<PullAccess>,
}

/// Why the Secret cannot be written.
struct Refusal {
    reason: Reason,
    message: String,
}

enum Failure {
    /// Nothing more is to be done here.
    Moot,
    /// A state of the namespace, to be told there.
    Refused(Refusal),
    /// To be tried again.
    Passing,
    /// To be tried again, after what stands in the way has gone.
    Lasting,
}

impl Work {
    async fn run(&self) -> Outcome {
        let mut refusal: Option<Refusal> = None;
        for _ in 0..MOST_WRITES {
            let (rules, place) = self.context.world.place(&self.name);
            let Some(place) = place else {
                return Outcome::Done;
            };
            // what is in a namespace that is gone, or not known yet, is its own business
            let Some(namespace) = &place.namespace else {
                return Outcome::Done;
            };
            let told = place.access.as_ref().map(|access| &access.content);
            let is_given = self
                .context
                .world
                .gives_copy(&self.name, place.copy.as_ref());
            let (desired, rendered) = if is_given || namespace.terminating {
                rules.desired(namespace, place.copy.as_ref(), told)
            } else {
                (Desired::Nothing, None)
            };
            let next = plan(
                &desired,
                &self.context.world.settings.pull_secret_name,
                place.copy.as_ref(),
                place.access.as_ref(),
                refusal.as_ref().map(|refusal| refusal.reason),
            );
            let standing = |state| {
                let of = |outcomes: fn(&Rendered) -> &Arc<[RegistryOutcome]>| {
                    rendered
                        .as_ref()
                        .map_or_else(|| Arc::from([]), |rendered| Arc::clone(outcomes(rendered)))
                };
                Standing {
                    revision: rules.revision,
                    outcomes: of(|rendered| &rendered.outcomes),
                    installers: of(|rendered| &rendered.installers),
                    state,
                }
            };
            let operation = match next {
                Next::Settled(state) => {
                    self.context.world.stands(&self.name, standing(Some(state)));
                    return if refusal.is_some() {
                        LATER
                    } else {
                        Outcome::Done
                    };
                }
                Next::Do(operation) => operation,
            };
            let result = self
                .carry_out(&operation, &place, rendered.as_deref())
                .await;
            let Err(error) = result else {
                match &operation {
                    Operation::ApplyAccess(_, content) => {
                        self.tell(&place, content, refusal.as_ref());
                    }
                    // of many namespaces at once each has first what kubelet needs, and then what tells of it
                    Operation::ApplySecret(None)
                        if self.context.world.namespaces.is_express_waiting() =>
                    {
                        let queue = &self.context.world.namespaces;
                        queue.add(self.name.clone(), Lane::Follow);
                        return Outcome::Done;
                    }
                    Operation::ApplySecret(_)
                    | Operation::EmptySecret(_)
                    | Operation::CleanSecret(..)
                    | Operation::DeleteSecret(_)
                    | Operation::DeleteAccess(_) => {}
                }
                continue;
            };
            let outcome = match self.judge(&operation, &error) {
                Failure::Refused(refused) => {
                    refusal = Some(refused);
                    continue;
                }
                Failure::Moot => Outcome::Done,
                Failure::Passing => Outcome::SOON,
                Failure::Lasting => LATER,
            };
            self.context.world.stands(&self.name, standing(None));
            return outcome;
        }
        self.context
            .world
            .namespaces
            .add(self.name.clone(), Lane::Bulk);
        Outcome::Done
    }

    /// Makes one write, and folds what it led to.
    async fn carry_out(
        &self,
        operation: &Operation,
        place: &Place,
        rendered: Option<&Rendered>,
    ) -> Result<(), WriteError> {
        let world = &self.context.world;
        match operation {
            Operation::ApplySecret(version) => {
                let Some(Ok((content, digest))) = rendered.map(|rendered| &rendered.content) else {
                    return Ok(());
                };
                self.apply_secret(version.as_ref(), content, *digest, place)
                    .await
            }
            Operation::EmptySecret(version) => {
                self.apply_secret(Some(version), &revoked(), *REVOKED, place)
                    .await
            }
            Operation::CleanSecret(version, strays) => {
                let patch = Patch::Merge(without_strays(strays, version));
                let parameters = PatchParams {
                    field_manager: Some(FIELD_MANAGER.to_owned()),
                    ..PatchParams::default()
                };
                let secret_name = &world.settings.pull_secret_name;
                let request = self
                    .secrets
                    .patch_metadata(secret_name, &parameters, &patch);
                let answer = self.write("secret", "clean", request).await?;
                if let Some(copy) = &place.copy {
                    world.wrote_copy(&self.name, copy.cleaned(&answer));
                }
                Ok(())
            }
            Operation::DeleteSecret(version) => {
                let secret_name = &world.settings.pull_secret_name;
                let parameters = version.deletion();
                let request = self.secrets.delete(secret_name, &parameters);
                let left = match self.write("secret", "delete", request).await {
                    Ok(Either::Left(held_back)) => Some(Copy::observe(held_back))
                        .filter(|copy| copy.terminating && copy.version.uid == version.uid),
                    Ok(Either::Right(_)) => None,
                    Err(error) if error.is_not_found() => None,
                    Err(error) => return Err(error),
                };
                match left {
                    Some(copy) => world.wrote_copy(&self.name, copy),
                    None => world.deleted_copy(&self.name, version),
                }
                Ok(())
            }
            Operation::ApplyAccess(version, content) => {
                let manifest = AccessManifest::new(content, version.as_ref());
                let patch = Patch::Apply(&manifest);
                let parameters = PatchParams::apply(FIELD_MANAGER).force();
                let request = self.accesses.patch(pull_access::NAME, &parameters, &patch);
                let answer = self.write("pullaccess", "apply", request).await?;
                world.wrote_access(&self.name, Access::observe(answer));
                Ok(())
            }
            Operation::DeleteAccess(version) => {
                let parameters = version.deletion();
                let request = self.accesses.delete(pull_access::NAME, &parameters);
                let left = match self.write("pullaccess", "delete", request).await {
                    Ok(Either::Left(held_back)) => Some(Access::observe(held_back))
                        .filter(|access| access.terminating && access.version.uid == version.uid),
                    Ok(Either::Right(_)) => None,
                    Err(error) if error.is_not_found() => None,
                    Err(error) => return Err(error),
                };
                match left {
                    Some(access) => world.wrote_access(&self.name, access),
                    None => world.deleted_access(&self.name, version),
                }
                Ok(())
            }
        }
    }

    async fn apply_secret(
        &self,
        version: Option<&Version>,
        content: &SecretSlice<u8>,
        digest: Digest,
        place: &Place,
    ) -> Result<(), WriteError> {
        let name = &self.context.world.settings.pull_secret_name;
        let metadata = Metadata::named(name, copy_labels(), version);
        let manifest = SecretManifest::docker_config(metadata, content);
        let patch = Patch::Apply(&manifest);
        let mut parameters = PatchParams::apply(FIELD_MANAGER);
        // what is ours is taken back from whoever edits it; where nothing was seen, nothing is taken from anybody
        parameters.force = version.is_some();
        // only the metadata comes back, and no credential with it
        let request = self.secrets.patch_metadata(name, &parameters, &patch);
        let answer = self.write("secret", "apply", request).await?;
        let copy = Copy::applied(&answer, digest, place.copy.as_ref());
        self.context.world.wrote_copy(&self.name, copy);
        Ok(())
    }

    async fn write<T>(
        &self,
        object: &'static str,
        operation: &'static str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, WriteError> {
        let result = self.term.write(request).await;
        self.context.metrics.wrote(object, operation, &result);
        result
    }

    fn judge(&self, operation: &Operation, error: &WriteError) -> Failure {
        let status = match error {
            WriteError::TermOver => return Failure::Moot,
            WriteError::NoAnswer => return Failure::Passing,
            WriteError::Api(_) => match error.status() {
                Some(status) => status,
                None => {
                    tracing::warn!(namespace = self.name, %error, "write failed");
                    return Failure::Passing;
                }
            },
        };
        if is_namespace_terminating(status) {
            return Failure::Moot;
        }
        let failure = match operation {
            // of an object that is not there any more, or of a namespace
            _ if status.is_conflict() => return Failure::Passing,
            Operation::ApplySecret(_) | Operation::CleanSecret(..) => judge_secret(status),
            Operation::EmptySecret(_)
            | Operation::DeleteSecret(_)
            | Operation::ApplyAccess(..)
            | Operation::DeleteAccess(_) => judge_other(status),
        };
        match &failure {
            Failure::Refused(refusal) => {
                tracing::info!(namespace = self.name, reason = %refusal.reason, %error, "pull secret refused");
            }
            Failure::Lasting | Failure::Passing => {
                tracing::warn!(namespace = self.name, %error, "write failed");
            }
            Failure::Moot => {}
        }
        failure
    }

    /// An event in the namespace, where its PullAccess has come to say that something is wrong.
    fn tell(&self, before: &Place, content: &AccessContent, refusal: Option<&Refusal>) {
        let was_told = before
            .access
            .as_ref()
            .is_some_and(|access| access.content.secret == content.secret);
        if content.secret.state == SecretState::Written || was_told {
            return;
        }
        let Some(reason) = Reason::ALL
            .iter()
            .find(|reason| reason.as_str() == content.secret.reason)
        else {
            return;
        };
        let (_, now) = self.context.world.place(&self.name);
        let uid = now
            .and_then(|place| place.access)
            .map(|access| access.version.uid);
        let detail = refusal.map_or_else(String::new, |refusal| format!(" {}", refusal.message));
        self.context.events.tell(Notice {
            about: ObjectReference {
                api_version: Some("pullpass.dev/v1alpha1".to_owned()),
                kind: Some("PullAccess".to_owned()),
                name: Some(pull_access::NAME.to_owned()),
                namespace: Some(self.name.clone()),
                uid,
                ..ObjectReference::default()
            },
            is_warning: true,
            reason: *reason,
            action: "WritePullSecret",
            note: format!(
                "Secret {}: {} {}{detail}",
                content.secret.name,
                reason.meaning(),
                reason.advice()
            ),
        });
    }
}

/// `NamespaceTerminatingCause` in the API server's `k8s.io/api/core/v1/types.go`.
fn is_namespace_terminating(status: &Status) -> bool {
    status.details.as_ref().is_some_and(|details| {
        details
            .causes
            .iter()
            .any(|cause| cause.reason == "NamespaceTerminating")
    })
}

fn judge_secret(status: &Status) -> Failure {
    // a quota has no cause of its own: these are the words of the API server's resource quota plugin
    let is_quota = status.is_forbidden() && status.message.contains("exceeded quota");
    match status.code {
        404 => Failure::Moot,
        429 | 500.. => Failure::Passing,
        _ => Failure::Refused(Refusal {
            reason: if is_quota {
                Reason::QuotaExceeded
            } else {
                Reason::WriteRefused
            },
            message: status.message.chars().take(300).collect(),
        }),
    }
}

fn judge_other(status: &Status) -> Failure {
    match status.code {
        // the namespace, which its watch will tell, or the CRD, which no watch tells
        404 => Failure::Lasting,
        429 | 500.. => Failure::Passing,
        _ => Failure::Lasting,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    fn status(code: u16, reason: &str, message: &str) -> Status {
        serde_json::from_value(
            json!({"status": "Failure", "code": code, "reason": reason, "message": message}),
        )
        .unwrap()
    }

    #[rstest]
    #[case(
        403,
        "Forbidden",
        "secrets \"pullpass\" is forbidden: exceeded quota: q, requested: secrets=1",
        Some(Reason::QuotaExceeded)
    )]
    #[case(
        403,
        "Forbidden",
        "ValidatingAdmissionPolicy 'x' denied request",
        Some(Reason::WriteRefused)
    )]
    #[case(422, "Invalid", "field is immutable", Some(Reason::WriteRefused))]
    #[case(429, "TooManyRequests", "", None)]
    #[case(503, "ServiceUnavailable", "", None)]
    fn refusals_are_states_and_outages_are_not(
        #[case] code: u16,
        #[case] reason: &str,
        #[case] message: &str,
        #[case] expected: Option<Reason>,
    ) {
        let refused = match judge_secret(&status(code, reason, message)) {
            Failure::Refused(refusal) => Some(refusal.reason),
            Failure::Passing => None,
            Failure::Moot | Failure::Lasting => panic!("neither"),
        };
        assert_eq!(refused, expected);
    }

    #[test]
    fn a_terminating_namespace_is_told_by_its_cause() {
        let mut refused = status(403, "Forbidden", "is being terminated");
        assert!(!is_namespace_terminating(&refused));
        refused.details = Some(
            serde_json::from_value(json!({"causes": [{"reason": "NamespaceTerminating"}]}))
                .unwrap(),
        );
        assert!(is_namespace_terminating(&refused));
    }
}
