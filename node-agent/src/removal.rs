//! Whether this agent ends because all of them do. A pod that is replaced, evicted or restarted leaves the node as it is: its
//! successor goes on. One whose DaemonSet is being removed has none, so it takes along what it has written.
//!
//! Helm takes the namespace away first, then the account and its rights, and the DaemonSet last. When the pod is told to end
//! there may be no right left to ask anybody, so the end of the namespace is watched from the beginning: a watch that was
//! granted goes on telling. The DaemonSet is not watched, since each change of its status would go to every node.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::PartialObjectMeta;
use kube::{Api, Client};
use pullpass_daemon::watch::DuplicateWatch;
use pullpass_daemon::{Change, Context, WatchSpec};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What there is to know of the end of all agents.
pub(crate) struct Removal {
    client: Client,
    namespace: String,
    daemon_set: String,
    /// Whether the namespace is being deleted, which nobody can take back.
    namespace_goes: watch::Receiver<bool>,
}

impl Removal {
    /// Begins to watch the namespace until `stop` is cancelled; the second part of the result does the watching.
    ///
    /// # Errors
    /// If the process watches its namespace already.
    pub(crate) fn watch(
        context: &Context,
        namespace: String,
        daemon_set: String,
        stop: CancellationToken,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), DuplicateWatch> {
        let (goes, namespace_goes) = watch::channel(false);
        let (_, following) = context.watches.add(
            WatchSpec::new("namespace").fields(&format!("metadata.name={namespace}")),
            &context.client,
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
            stop,
        )?;
        let removal = Self {
            client: context.client.clone(),
            namespace,
            daemon_set,
            namespace_goes,
        };
        Ok((removal, following))
    }

    /// Whether the namespace, or the DaemonSet in it, is gone or about to be.
    ///
    /// # Errors
    /// The API server does not say; then nothing is to be taken off.
    pub(crate) async fn is_under_way(&self) -> kube::Result<bool> {
        if *self.namespace_goes.borrow() {
            return Ok(true);
        }
        let sets: Api<DaemonSet> = Api::namespaced(self.client.clone(), &self.namespace);
        let set = sets.get_metadata_opt(&self.daemon_set).await?;
        Ok(is_going(set.map(|set| set.metadata)))
    }
}

fn is_going(found: Option<ObjectMeta>) -> bool {
    found.is_none_or(|metadata| metadata.deletion_timestamp.is_some())
}
