//! The watches that feed the state. Each object is reduced to what is kept of it as soon as it arrives.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::core::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::{Api, ResourceExt as _};
use pullpass_api::pull_access::SECRET_STATE_LABEL;
use pullpass_api::{PullAccess, convert, pull_access};
use pullpass_daemon::shutdown::Stage;
use pullpass_daemon::watch::DuplicateWatch;
use pullpass_daemon::{Context, Freshness, WatchSpec};

use crate::slim::Slim;
use crate::state::State;
use crate::state::accounts::{ENFORCE_MOUNTABLE_SECRETS_ANNOTATION, SeenAccount, is_true};
use crate::state::namespaces::{SecretState, SeenNamespace, SeenPullAccess};
use crate::state::registries::SeenRegistry;

/// Starts all watches of the state. The process is not ready before each has brought a complete list; a definition
/// that is not installed (404) is no list.
///
/// # Errors
/// One of the watches was added before.
pub(crate) fn start(context: &Context, state: &Arc<State>) -> Result<(), DuplicateWatch> {
    let client = &context.client;
    let watches = &context.watches;
    let stop = context.tasks.stop(Stage::Work);

    let (registries, follow_registries) = watches.add(
        WatchSpec::new("registries"),
        client,
        // as plain JSON: one Registry that cannot be decoded must not hold back all others
        |client| Api::all_with(client, &ApiResource::erase::<pullpass_api::Registry>(&())),
        seen_registry,
        {
            let state = Arc::clone(state);
            move |change| state.registries.apply(change)
        },
        stop.clone(),
    )?;
    let (namespaces, follow_namespaces) = watches.add(
        WatchSpec::new("namespaces"),
        client,
        Api::<PartialObjectMeta<Namespace>>::all,
        seen_namespace,
        {
            let state = Arc::clone(state);
            move |change| state.namespaces.apply(change, Timestamp::now())
        },
        stop.clone(),
    )?;
    let (pull_accesses, follow_pull_accesses) = watches.add(
        WatchSpec::new("pullaccesses")
            .named(pull_access::NAME)
            .in_one_page(),
        client,
        Api::<Slim<PullAccess>>::all,
        |object| seen_pull_access(&object),
        {
            let state = Arc::clone(state);
            move |change| state.namespaces.apply_pull_access(change)
        },
        stop.clone(),
    )?;
    let (accounts, follow_accounts) = watches.add(
        WatchSpec::new("serviceaccounts"),
        client,
        Api::<PartialObjectMeta<ServiceAccount>>::all,
        |object| seen_account(&object),
        {
            let state = Arc::clone(state);
            move |change| state.accounts.apply(change)
        },
        stop,
    )?;

    follow(context, "registries", &registries, follow_registries);
    follow(context, "namespaces", &namespaces, follow_namespaces);
    follow(
        context,
        "pullaccesses",
        &pull_accesses,
        follow_pull_accesses,
    );
    follow(context, "serviceaccounts", &accounts, follow_accounts);
    state.follow(vec![registries, namespaces, pull_accesses, accounts]);
    Ok(())
}

/// Runs a watch as a task, and holds readiness back until its first complete list.
fn follow(
    context: &Context,
    name: &'static str,
    freshness: &Freshness,
    watch: impl Future<Output = ()> + Send + 'static,
) {
    let guard = context.readiness.register(name);
    let synced = freshness.clone();
    context.spawn_work(name, async move {
        let waiting = async {
            synced.synced().await;
            drop(guard);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = watch => {}
            () = waiting => {}
        }
    });
}

fn seen_registry(object: DynamicObject) -> SeenRegistry {
    let name = object.name_any();
    let resource = serde_json::to_value(object)
        .and_then(serde_json::from_value::<pullpass_api::Registry>)
        .map_err(|error| error.to_string());
    let registry = resource
        .and_then(|resource| convert::registry(&resource).map_err(|error| error.to_string()));
    if let Err(error) = &registry {
        tracing::warn!(
            registry = name,
            error,
            "Registry cannot be used and selects nothing"
        );
    }
    SeenRegistry {
        name,
        registry: registry.ok(),
    }
}

fn seen_namespace(object: PartialObjectMeta<Namespace>) -> SeenNamespace {
    SeenNamespace {
        created: object
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(Timestamp::UNIX_EPOCH, |created| created.0),
        namespace: convert::namespace(&object),
    }
}

/// That it exists means that waiting is over, one way or the other; only the reason that is given differs.
fn seen_pull_access(object: &Slim<PullAccess>) -> SeenPullAccess {
    let blocked = pull_access::SecretState::Blocked.as_str();
    let state = object.labels().get(SECRET_STATE_LABEL);
    SeenPullAccess {
        namespace: object.namespace().unwrap_or_default(),
        secret: if state.is_some_and(|state| state == blocked) {
            SecretState::Blocked
        } else {
            SecretState::Written
        },
    }
}

fn seen_account(object: &PartialObjectMeta<ServiceAccount>) -> SeenAccount {
    SeenAccount {
        key: format!(
            "{}/{}",
            object.namespace().unwrap_or_default(),
            object.name_any()
        ),
        enforces: object
            .annotations()
            .get(ENFORCE_MOUNTABLE_SECRETS_ANNOTATION)
            .is_some_and(|value| is_true(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    fn object<T: DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_registry_that_cannot_be_read_selects_nothing() {
        let seen = |spec: Value| {
            seen_registry(object(json!({
                "apiVersion": "pullpass.dev/v1alpha1", "kind": "Registry", "metadata": {"name": "acme"}, "spec": spec,
            })))
        };
        let good = json!({
            "host": "registry.example.com",
            "auth": {"basic": {"secretRef": {"name": "acme"}}},
            "access": {"namespaces": {"include": ["*"]}},
        });
        assert!(seen(good).registry.is_some());
        for bad in [
            json!({"host": 7}),
            json!({"host": "h", "type": "Later"}),
            json!({"host": "h"}),
        ] {
            let seen = seen(bad);
            assert_eq!((seen.name.as_str(), seen.registry), ("acme", None));
        }
    }

    #[rstest]
    #[case(json!({SECRET_STATE_LABEL: "Written"}), SecretState::Written)]
    #[case(json!({SECRET_STATE_LABEL: "Blocked"}), SecretState::Blocked)]
    #[case(json!({SECRET_STATE_LABEL: "Later"}), SecretState::Written)]
    #[case(json!({}), SecretState::Written)]
    fn the_label_tells_whether_the_secret_is_blocked(
        #[case] labels: Value,
        #[case] secret: SecretState,
    ) {
        let object = object(json!({
            "metadata": {"name": "pullpass", "namespace": "team-a", "labels": labels},
        }));
        let expected = SeenPullAccess {
            namespace: "team-a".into(),
            secret,
        };
        assert_eq!(seen_pull_access(&object), expected);
    }

    #[rstest]
    #[case(json!({ENFORCE_MOUNTABLE_SECRETS_ANNOTATION: "true"}), true)]
    #[case(json!({ENFORCE_MOUNTABLE_SECRETS_ANNOTATION: "1"}), true)]
    #[case(json!({ENFORCE_MOUNTABLE_SECRETS_ANNOTATION: "false"}), false)]
    #[case(json!({ENFORCE_MOUNTABLE_SECRETS_ANNOTATION: "yes"}), false)]
    #[case(json!({}), false)]
    fn the_annotation_is_read_as_the_api_server_reads_it(
        #[case] annotations: Value,
        #[case] expected: bool,
    ) {
        let account = object(
            json!({"metadata": {"namespace": "a", "name": "x", "annotations": annotations}}),
        );
        assert_eq!(
            seen_account(&account),
            SeenAccount {
                key: "a/x".into(),
                enforces: expected
            }
        );
    }
}
