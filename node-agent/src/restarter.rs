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
            let waits_for = self.look(&mut seen).await.unwrap_or_else(|missed| {
                tracing::warn!(error = %missed, "kubelet was not restarted; it is tried again");
                Some(missed.to_string())
            });
            self.files.set_restart_waits_for(waits_for);
            let _ = tokio::time::timeout(LOOK, stop.cancelled()).await;
        }
    }

    /// Restarts kubelet if that is needed and this node's turn; otherwise says what it waits for.
    async fn look(
        &self,
        seen: &mut Option<(Option<String>, Instant)>,
    ) -> Result<Option<String>, Missed> {
        if !self.files.needs_restart()? {
            *seen = None;
            return Ok(None);
        }
        let configuration = self.files.configuration().unwrap_or_default();
        let lease = self.turn.read().await?;
        let version = lease.resource_version();
        let since = match seen {
            Some((known, since)) if *known == version => *since,
            _ => seen.insert((version, Instant::now())).1,
        };
        let unchanged_for = since.elapsed();
        self.restart_in_turn(lease, &configuration, unchanged_for)
            .await
    }

    /// Restarts kubelet if the Lease, seen unchanged for so long, lets this node; otherwise says what it waits for.
    async fn restart_in_turn(
        &self,
        lease: Lease,
        configuration: &str,
        unchanged_for: Duration,
    ) -> Result<Option<String>, Missed> {
        match turn(&lease, &self.node, configuration, unchanged_for) {
            Turn::Free => {
                // no other node waits for this one's bus
                let systemd = Systemd::connect(&self.socket).await?;
                let lease = self.turn.take(lease).await?;
                self.restart(&systemd, lease, configuration).await?;
                Ok(None)
            }
            Turn::Ours => match Systemd::connect(&self.socket).await {
                Ok(systemd) => {
                    self.restart(&systemd, lease, configuration).await?;
                    Ok(None)
                }
                Err(error) => {
                    self.turn.give_back(lease).await?;
                    Err(error.into())
                }
            },
            Turn::Waiting { node } => {
                // a node that cannot restart its kubelet says so whoever's turn it is
                drop(Systemd::connect(&self.socket).await?);
                tracing::info!(node, "another node restarts its kubelet");
                Ok(Some(format!("the node {node} restarts its kubelet first")))
            }
            Turn::Stopped { node } => {
                tracing::warn!(
                    node,
                    "kubelet of that node did not come back with this configuration: no other is restarted"
                );
                Ok(Some(format!(
                    "no other node is restarted after kubelet of {node} did not come back with this configuration"
                )))
            }
        }
    }

    async fn restart(
        &self,
        systemd: &Systemd,
        lease: Lease,
        configuration: &str,
    ) -> Result<(), Missed> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::sync::Mutex;

    use http::{Method, Request, Response};
    use kube::client::Body;
    use kube::{Api, Client};
    use pullpass_core::match_images::MatchImages;

    use crate::config::HostDirectory;
    use crate::kubelet_restart::Policy;
    use crate::provider_files::ProviderNode;

    type Written = Arc<Mutex<Vec<Lease>>>;

    /// An API server that takes every Lease as it is written.
    fn api() -> (Client, Written) {
        let written = Written::default();
        let leases = Arc::clone(&written);
        let service = tower::service_fn(move |request: Request<Body>| {
            let leases = Arc::clone(&leases);
            async move {
                assert_eq!(request.method(), Method::PUT);
                let lease = request.into_body().collect_bytes().await.unwrap();
                leases
                    .lock()
                    .unwrap()
                    .push(serde_json::from_slice(&lease).unwrap());
                Ok::<_, Infallible>(Response::new(Body::from(lease)))
            }
        });
        (Client::new(service, "default"), written)
    }

    /// On a node that has nothing, and no bus either.
    fn restarter(leases: Api<Lease>) -> Restarter {
        let nowhere = PathBuf::from("/nonexistent");
        let directory = HostDirectory {
            mounted: nowhere.clone(),
            named: nowhere.clone(),
        };
        let files = ProviderFiles::new(ProviderNode {
            config_directory: directory.clone(),
            config_file: None,
            programs: directory.clone(),
            store: directory,
            program: nowhere.clone(),
            match_images: MatchImages::new([]),
            unit: "kubelet.service".into(),
            restart: Policy::WhenNeeded,
        });
        Restarter {
            turn: RestartTurn::new(leases, "a"),
            node: "a".into(),
            files: Arc::new(files),
            socket: nowhere,
            unit: "kubelet.service".into(),
        }
    }

    #[tokio::test]
    async fn a_node_without_a_bus_takes_no_turn() {
        let (client, written) = api();
        let restarter = restarter(Api::namespaced(client, "nodes"));
        let missed = restarter
            .restart_in_turn(Lease::default(), "x", Duration::ZERO)
            .await;
        assert!(matches!(missed, Err(Missed::Bus(_))), "{missed:?}");
        assert!(written.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_node_without_a_bus_does_not_say_that_it_waits_for_others() {
        let (client, written) = api();
        let restarter = restarter(Api::namespaced(client.clone(), "nodes"));
        let other = RestartTurn::new(Api::namespaced(client, "nodes"), "b");
        let taken = other.take(Lease::default()).await.unwrap();
        let missed = restarter.restart_in_turn(taken, "x", Duration::ZERO).await;
        assert!(matches!(missed, Err(Missed::Bus(_))), "{missed:?}");
        let written = written.lock().unwrap().len();
        assert_eq!(written, 1, "the other's turn is left alone");
    }

    #[tokio::test]
    async fn a_node_that_has_lost_its_bus_gives_its_turn_back() {
        let (client, written) = api();
        let restarter = restarter(Api::namespaced(client, "nodes"));
        let taken = restarter.turn.take(Lease::default()).await.unwrap();
        let missed = restarter.restart_in_turn(taken, "x", Duration::ZERO).await;
        assert!(matches!(missed, Err(Missed::Bus(_))), "{missed:?}");
        let written = written.lock().unwrap();
        let [taken, left] = &**written else {
            panic!("{written:?}");
        };
        let holder = |lease: &Lease| lease.spec.clone().unwrap().holder_identity;
        assert_eq!((holder(taken), holder(left)), (Some("a".into()), None));
    }
}
