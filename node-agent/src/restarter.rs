//! The task that restarts kubelet when it has a changed provider configuration to read, when it is this node's turn.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::delivery::Trouble;
use crate::kubelet_restart::{Outcome, Pace, RestartError, Systemd};
use crate::provider_files::ProviderFiles;
use crate::restart_turn::{RestartTurn, Turn, turn};

/// Between two looks at the node and the Lease. Nothing waits for a restart but the first installation.
const LOOK: Duration = Duration::from_secs(10);

/// What the task works with.
pub(crate) struct Restarter {
    pub(crate) turn: RestartTurn,
    pub(crate) node: String,
    pub(crate) files: Arc<ProviderFiles>,
    /// The system bus.
    pub(crate) socket: PathBuf,
    pub(crate) unit: String,
}

/// Why nothing came of a look.
#[derive(Debug, thiserror::Error)]
enum Missed {
    #[error("{}", .0.message)]
    Node(Trouble),
    #[error("the Lease for turns: {0}")]
    Lease(#[from] kube::Error),
    #[error("the system bus: {0}")]
    Bus(#[from] zbus::Error),
    #[error(transparent)]
    Restart(#[from] RestartError),
}

impl From<Trouble> for Missed {
    fn from(trouble: Trouble) -> Self {
        Self::Node(trouble)
    }
}

impl Restarter {
    /// Runs until `stop` is cancelled; a restart that has begun is seen to its end.
    pub(crate) async fn run(self, stop: CancellationToken) {
        // how long the Lease was seen unchanged, by this process's own clock
        let mut seen: Option<(Option<String>, Instant)> = None;
        while !stop.is_cancelled() {
            if let Err(missed) = self.look(&mut seen).await {
                tracing::warn!(error = %missed, "kubelet was not restarted; it is tried again");
            }
            let _ = tokio::time::timeout(LOOK, stop.cancelled()).await;
        }
    }

    async fn look(&self, seen: &mut Option<(Option<String>, Instant)>) -> Result<(), Missed> {
        if !self.files.needs_restart()? {
            *seen = None;
            return Ok(());
        }
        let configuration = self.files.configuration().unwrap_or_default();
        let lease = self.turn.read().await?;
        let version = lease.resource_version();
        let since = match seen {
            Some((known, since)) if *known == version => *since,
            _ => seen.insert((version, Instant::now())).1,
        };
        match turn(&lease, &self.node, &configuration, since.elapsed()) {
            Turn::Free => {
                let lease = self.turn.take(lease).await?;
                self.restart(lease, &configuration).await
            }
            Turn::Ours => self.restart(lease, &configuration).await,
            Turn::Waiting { node } => {
                tracing::info!(node, "another node restarts its kubelet");
                Ok(())
            }
            Turn::Stopped { node } => {
                tracing::warn!(
                    node,
                    "kubelet of that node did not come back with this configuration: no other is restarted"
                );
                Ok(())
            }
        }
    }

    async fn restart(&self, lease: Lease, configuration: &str) -> Result<(), Missed> {
        let systemd = Systemd::connect(&self.socket).await?;
        tracing::info!(unit = self.unit, "restarting kubelet");
        let roll_back = || self.files.roll_back();
        let outcome = systemd
            .restart_or_roll_back(&self.unit, Pace::default(), roll_back)
            .await?;
        match outcome {
            Outcome::Restarted => {
                self.files.is_read()?;
                self.turn.give_back(lease).await?;
            }
            Outcome::NotAsked(error) => {
                // no other node waits for this one's bus
                self.turn.give_back(lease).await?;
                return Err(error.into());
            }
            Outcome::RolledBack(error) => {
                tracing::error!(%error, "kubelet did not take its configuration, which was put back as it was");
                self.turn.refuse(lease, configuration).await?;
            }
            Outcome::Down(error, last) => {
                tracing::error!(%error, %last, "kubelet is down, with its earlier configuration too");
                self.turn.refuse(lease, configuration).await?;
            }
        }
        Ok(())
    }
}
