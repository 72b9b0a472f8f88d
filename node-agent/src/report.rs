//! What the node tells of itself: its NodePullAccess, and an event about the Node when it changes for the worse or back.

use std::collections::BTreeMap;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client};
use pullpass_api::NodePullAccess;
use pullpass_api::node_pull_access::{NodeMode, NodeState};
use pullpass_core::reason::Reason;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Who applies the NodePullAccess.
const FIELD_MANAGER: &str = "pullpass-node-agent";

/// What the API server puts into the token of a pod (`NodeUIDKey` in apiserver's `pkg/authentication/serviceaccount/util.go`).
const NODE_UID: &str = "authentication.kubernetes.io/node-uid";

/// First and longest pause after a state could not be written.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_LONGEST: Duration = Duration::from_secs(30);

/// The longest message that the NodePullAccess and events take, in bytes.
const MESSAGE_BYTES: usize = 1024;

/// How the node stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Whether kubelet uses what the node holds.
    pub(crate) state: NodeState,
    /// Why it is so.
    pub(crate) reason: Reason,
    /// What is in the way.
    pub(crate) message: String,
    /// The generation of each bundle that is held, by its Secret, and since when.
    pub(crate) held: BTreeMap<&'static str, (u64, Timestamp)>,
    /// From when on kubelet uses it at the latest.
    pub(crate) effective_at: Option<Timestamp>,
}

/// Where the node's state goes.
#[derive(Clone)]
pub(crate) struct Report {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) node: String,
    pub(crate) mode: NodeMode,
    pub(crate) metrics: Metrics,
}

impl Report {
    /// What was told before this process began.
    pub(crate) async fn earlier(&self) -> Option<NodePullAccess> {
        let api: Api<NodePullAccess> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = api.get_opt(&self.node).await;
        found.ok().flatten()
    }

    /// Tells each standing, the latest only where several wait, until `stop` is cancelled.
    pub(crate) async fn run(
        self,
        mut standings: watch::Receiver<Option<Standing>>,
        stop: CancellationToken,
    ) {
        let mut uid = None;
        let mut told: Option<Standing> = None;
        while let Some(Ok(())) = stop.run_until_cancelled(standings.changed()).await {
            let mut pauses = ExponentialBuilder::new()
                .with_min_delay(PAUSE_FIRST)
                .with_max_delay(PAUSE_LONGEST)
                .with_jitter()
                .without_max_times()
                .build();
            loop {
                let Some(standing) = standings.borrow_and_update().clone() else {
                    break;
                };
                if told.as_ref() == Some(&standing) {
                    break;
                }
                let telling = self.tell(&standing, told.as_ref(), &mut uid);
                match stop.run_until_cancelled(telling).await {
                    None => return,
                    Some(Ok(())) => {
                        told = Some(standing);
                        break;
                    }
                    Some(Err(error)) => {
                        self.metrics.report_failures.inc();
                        tracing::warn!(
                            error = pullpass_daemon::chain(&error),
                            "the node's state was not written, and is tried again"
                        );
                    }
                }
                let pause = tokio::time::sleep(pauses.next().unwrap_or(PAUSE_LONGEST));
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = pause => {}
                }
            }
        }
        stop.cancelled().await;
    }

    async fn tell(
        &self,
        standing: &Standing,
        before: Option<&Standing>,
        uid: &mut Option<Option<String>>,
    ) -> kube::Result<()> {
        if uid.is_none() {
            *uid = Some(self.node_uid().await?);
        }
        let uid = uid.as_ref().and_then(Option::as_deref);
        let api: Api<NodePullAccess> = Api::namespaced(self.client.clone(), &self.namespace);
        let manager = PatchParams::apply(FIELD_MANAGER).force();
        let manifest = self.manifest(standing, uid);
        api.patch(&self.node, &manager, &Patch::Apply(manifest))
            .await?;
        if is_news(standing, before) {
            self.event(standing, uid).await;
        }
        Ok(())
    }

    /// Of the Node that the token of this pod is bound to; none where it is bound to none.
    async fn node_uid(&self) -> kube::Result<Option<String>> {
        let reviews: Api<SelfSubjectReview> = Api::all(self.client.clone());
        let review = reviews
            .create(&PostParams::default(), &SelfSubjectReview::default())
            .await?;
        let extra = review
            .status
            .and_then(|status| status.user_info)
            .and_then(|user| user.extra)
            .unwrap_or_default();
        Ok(extra
            .get(NODE_UID)
            .and_then(|values| values.first().cloned()))
    }

    fn manifest(&self, standing: &Standing, uid: Option<&str>) -> serde_json::Value {
        let owners = uid.map(
            |uid| json!([{"apiVersion": "v1", "kind": "Node", "name": self.node, "uid": uid}]),
        );
        let held: Vec<_> = standing
            .held
            .iter()
            .map(|(name, (generation, since))| {
                json!({"name": name, "generation": generation, "since": since.to_string()})
            })
            .collect();
        let mut metadata = json!({
            "name": self.node,
            "labels": {"app.kubernetes.io/managed-by": "pullpass", "app.kubernetes.io/part-of": "pullpass"},
        });
        if let (Some(owners), Some(metadata)) = (owners, metadata.as_object_mut()) {
            metadata.insert("ownerReferences".to_owned(), owners);
        }
        let mut manifest = json!({
            "apiVersion": "pullpass.dev/v1alpha1",
            "kind": "NodePullAccess",
            "metadata": metadata,
            "mode": self.mode,
            "state": standing.state,
            "reason": standing.reason.as_str(),
            "message": shortened(&standing.message),
            "held": held,
            "agentVersion": crate::VERSION,
        });
        if let (Some(at), Some(fields)) = (standing.effective_at, manifest.as_object_mut()) {
            fields.insert("effectiveAt".to_owned(), at.to_string().into());
        }
        manifest
    }

    async fn event(&self, standing: &Standing, uid: Option<&str>) {
        let reporter = Reporter {
            controller: "pullpass.dev/node-agent".to_owned(),
            instance: Some(self.node.clone()),
        };
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(self.node.clone()),
            uid: uid.map(ToOwned::to_owned),
            ..ObjectReference::default()
        };
        let event = Event {
            type_: match standing.state {
                NodeState::Ready | NodeState::Withdrawn => EventType::Normal,
                NodeState::Pending | NodeState::Blocked => EventType::Warning,
            },
            reason: standing.reason.as_str().to_owned(),
            note: Some(shortened(if standing.message.is_empty() {
                standing.reason.meaning()
            } else {
                &standing.message
            })),
            action: "Deliver".to_owned(),
            secondary: None,
        };
        let recorder = Recorder::new(self.client.clone(), reporter);
        // an event that is lost is no reason to do anything: the state says the same
        if let Err(error) = recorder.publish(&event, &about).await {
            tracing::debug!(error = pullpass_daemon::chain(&error), "event not sent");
        }
    }
}

/// Whether people are to be told: that something is in the way, and that it no longer is. That all is well from the
/// beginning is no news.
fn is_news(standing: &Standing, before: Option<&Standing>) -> bool {
    let well = |standing: &Standing| standing.reason == Reason::Delivered;
    match before {
        None => !well(standing) && standing.reason != Reason::NodePending,
        Some(before) if well(standing) => !well(before) && before.reason != Reason::NodePending,
        Some(before) => (standing.reason, &standing.message) != (before.reason, &before.message),
    }
}

/// Cut between characters.
fn shortened(text: &str) -> String {
    text.char_indices()
        .take_while(|(start, character)| start + character.len_utf8() <= MESSAGE_BYTES)
        .map(|(_, character)| character)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(reason: Reason, message: &str) -> Standing {
        Standing {
            state: NodeState::Ready,
            reason,
            message: message.into(),
            held: BTreeMap::new(),
            effective_at: None,
        }
    }

    #[test]
    fn troubles_are_news_and_their_end_is() {
        let well = standing(Reason::Delivered, "");
        let starting = standing(Reason::NodePending, "");
        let full = standing(Reason::NodeWriteFailed, "disk full");
        assert!(!is_news(&well, None));
        assert!(!is_news(&starting, None));
        assert!(!is_news(&well, Some(&starting)));
        assert!(is_news(&full, None));
        assert!(is_news(&full, Some(&well)));
        assert!(!is_news(&full, Some(&full)));
        assert!(is_news(
            &standing(Reason::NodeWriteFailed, "other"),
            Some(&full)
        ));
        assert!(is_news(&well, Some(&full)));
        assert!(!is_news(&well, Some(&well)));
    }

    #[test]
    fn a_message_is_cut_between_characters() {
        assert_eq!(shortened("short"), "short");
        assert_eq!(
            shortened(&format!("x{}", "é".repeat(1000))).len(),
            MESSAGE_BYTES - 1
        );
    }
}
