//! The loop over nodes that are not to run pods before their agent has brought what these need: takes the startup taint off
//! them. The agent itself has no right to: whoever takes over one node could then open every other to pods.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Taint};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use pullpass_core::bundle::{Mode, STARTUP_TAINT};
use serde_json::json;

use crate::clock;
use crate::context::Context;
use crate::manifest::FIELD_MANAGER;
use crate::observed::Version;
use crate::term::{Term, WriteError};

/// What a node holds becomes effective by the clock alone: so often it is looked at while some node waits.
const LOOK: Duration = Duration::from_secs(5);

/// A node, as far as its startup taint goes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tainted {
    /// Its name.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: Version,
    /// Its other taints, where it has the startup taint.
    pub(crate) others: Option<Vec<Taint>>,
}

impl Tainted {
    /// Out of a Node.
    pub(crate) fn observe(node: &Node) -> Self {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
        let mut others = taints.cloned().unwrap_or_default();
        let count = others.len();
        others.retain(|taint| taint.key != STARTUP_TAINT);
        Self {
            name: node.name_any(),
            version: Version::of(&node.metadata),
            others: (others.len() < count).then_some(others),
        }
    }
}

/// Takes the taint off nodes that hold what they need, until the term ends.
pub(crate) async fn run(context: Context, term: Term, mode: Mode) {
    let over = term.over();
    loop {
        let mut waiting = false;
        for node in context.world.tainted() {
            let now = clock::time_of_day();
            if !context.world.node_serves(&node.name, mode, now) {
                waiting = true;
                continue;
            }
            match open(&context, &term, &node).await {
                Ok(()) => tracing::info!(node = node.name, "took the startup taint off"),
                Err(WriteError::TermOver) => return,
                // its watch tells of what it has become
                Err(error) if error.is_not_found() || error.is_conflict() => waiting = true,
                Err(error) => {
                    waiting = true;
                    tracing::warn!(node = node.name, %error, "startup taint not taken off");
                }
            }
        }
        let look = async {
            if waiting {
                tokio::time::sleep(LOOK).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        let news = async {
            tokio::select! {
                () = context.world.taints.notified() => {}
                () = look => {}
            }
        };
        if over.run_until_cancelled(news).await.is_none() {
            return;
        }
    }
}

async fn open(context: &Context, term: &Term, node: &Tainted) -> Result<(), WriteError> {
    let patch = Patch::Merge(json!({
        // the list is replaced as a whole, so that nobody else's change in between may get lost
        "metadata": {"uid": node.version.uid, "resourceVersion": node.version.resource_version},
        "spec": {"taints": node.others},
    }));
    let nodes: Api<Node> = Api::all(context.client.clone());
    let parameters = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let request = nodes.patch_metadata(&node.name, &parameters, &patch);
    let result = term.write(request).await;
    context.metrics.wrote("node_taint", "remove", &result);
    result?;
    context.world.untainted(&node.name);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::Value;

    #[rstest]
    #[case(json!({}), None)]
    #[case(json!({"taints": [{"key": "x", "effect": "NoSchedule"}]}), None)]
    #[case(json!({"taints": [{"key": "pullpass.dev/agent-not-ready", "effect": "NoSchedule"}]}), Some(0))]
    #[case(json!({"taints": [
        {"key": "pullpass.dev/agent-not-ready", "effect": "NoSchedule"},
        {"key": "x", "effect": "NoSchedule"},
        {"key": "pullpass.dev/agent-not-ready", "effect": "NoExecute"},
    ]}), Some(1))]
    fn the_other_taints_stay(#[case] spec: Value, #[case] others: Option<usize>) {
        let node = serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec}));
        let tainted = Tainted::observe(&node.unwrap());
        assert_eq!(tainted.others.map(|others| others.len()), others);
    }
}
