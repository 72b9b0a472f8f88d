//! Who comes after this agent. A pod that is replaced, evicted or restarted leaves the node as it is: its successor goes on. One
//! whose DaemonSet is being removed has none, so it takes along what it has written; and so it does with what the next one
//! will not reach, since the directories of a pod are settled when it is made.
//!
//! Helm takes the namespace away first, then the account and its rights, and the DaemonSet last. When the pod is told to end
//! there may be no right left to ask anybody, so the end of the namespace is watched from the beginning: a watch that was
//! granted goes on telling. The DaemonSet is not watched, since each change of its status would go to every node.

use clap::Parser as _;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::{Api, Client};
use pullpass_daemon::watch::DuplicateWatch;
use pullpass_daemon::{Change, Context, WatchSpec};
use tokio::sync::watch;

use crate::COMPONENT;
use crate::config::{AgentOptions, Config};

/// The agent that a node has next.
#[derive(Debug)]
pub(crate) enum Successor {
    /// None: all of them go.
    Nobody,
    /// One that is started so.
    Agent(Box<AgentOptions>),
}

/// Why nobody knows who comes next; then nothing is to be taken off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unknown {
    /// The API server does not say.
    #[error("the API server does not say")]
    Unanswered(#[from] kube::Error),
    /// The DaemonSet starts something that is not called as this release is.
    #[error("the DaemonSet's flags are not those of this release")]
    Flags(#[from] clap::Error),
    /// It does not start an agent.
    #[error("the DaemonSet has no container {COMPONENT}")]
    NoContainer,
}

/// What there is to know of the end of all agents.
pub(crate) struct Removal {
    client: Client,
    namespace: String,
    daemon_set: String,
    /// Whether the namespace is being deleted, which nobody can take back.
    namespace_goes: watch::Receiver<bool>,
}

impl Removal {
    /// Begins to watch the namespace, as a task of `context`.
    ///
    /// # Errors
    /// If the process watches its namespace already.
    pub(crate) fn watch(
        context: &Context,
        namespace: String,
        daemon_set: String,
    ) -> Result<Self, DuplicateWatch> {
        let (goes, namespace_goes) = watch::channel(false);
        context.watch(
            "namespace",
            WatchSpec::new("namespace").named(&namespace),
            Api::<PartialObjectMeta<Namespace>>::all,
            |object| object.metadata.deletion_timestamp.is_some(),
            move |change| {
                let is_going = match change {
                    Change::Restarted(all) => all.into_iter().all(|is_going| is_going),
                    Change::Applied(is_going) => is_going,
                    Change::Deleted(_) => true,
                };
                goes.send_replace(is_going);
            },
        )?;
        Ok(Self {
            client: context.client.clone(),
            namespace,
            daemon_set,
            namespace_goes,
        })
    }

    /// The agent that comes after this one, as the DaemonSet is now.
    ///
    /// # Errors
    /// [`Unknown`].
    pub(crate) async fn successor(&self) -> Result<Successor, Unknown> {
        if *self.namespace_goes.borrow() {
            return Ok(Successor::Nobody);
        }
        let sets: Api<DaemonSet> = Api::namespaced(self.client.clone(), &self.namespace);
        successor(sets.get_opt(&self.daemon_set).await?)
    }
}

fn successor(found: Option<DaemonSet>) -> Result<Successor, Unknown> {
    let Some(set) = found.filter(|set| set.metadata.deletion_timestamp.is_none()) else {
        return Ok(Successor::Nobody);
    };
    let pod = set.spec.and_then(|spec| spec.template.spec);
    let container = pod
        .into_iter()
        .flat_map(|pod| pod.containers)
        .find(|container| container.name == COMPONENT)
        .ok_or(Unknown::NoContainer)?;
    let program = std::iter::once(COMPONENT.to_owned());
    let config = Config::try_parse_from(program.chain(container.args.unwrap_or_default()))?;
    Ok(Successor::Agent(Box::new(config.agent)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pullpass_core::bundle::Mode;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn daemon_set(container: &Value) -> DaemonSet {
        serde_json::from_value(json!({
            "metadata": {},
            "spec": {"selector": {}, "template": {"spec": {"containers": [{"name": "beside"}, container]}}},
        }))
        .unwrap()
    }

    #[test]
    fn nobody_follows_where_the_daemon_set_is_gone_or_going() {
        assert!(matches!(successor(None), Ok(Successor::Nobody)));
        let mut going = daemon_set(&json!({"name": COMPONENT}));
        going.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert!(matches!(successor(Some(going)), Ok(Successor::Nobody)));
    }

    #[test]
    fn the_next_one_is_known_by_its_flags() {
        let args = json!([
            "--mode=credentialProvider",
            "--docker-config-directory=/.docker"
        ]);
        let set = daemon_set(&json!({"name": COMPONENT, "args": args}));
        let Ok(Successor::Agent(next)) = successor(Some(set)) else {
            panic!("somebody follows");
        };
        assert_eq!(next.mode, Mode::CredentialProvider);
        assert_eq!(next.docker_config_directory.to_str(), Some("/.docker"));
    }

    #[rstest]
    #[case(json!({"name": COMPONENT, "args": ["--of-another-release"]}))]
    #[case(json!({"name": "another"}))]
    fn who_is_not_understood_is_not_nobody(#[case] container: Value) {
        assert!(successor(Some(daemon_set(&container))).is_err());
    }
}
