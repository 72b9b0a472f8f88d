//! The restart of kubelet that a changed provider configuration needs, by systemd over D-Bus.
//!
//! That systemd has started kubelet proves nothing: a kubelet that does not take its configuration ends a moment later, and
//! is started again and again. So it is watched until one and the same process has stayed for a while; where that does not
//! come about, the configuration is rolled back and kubelet is started with the old one.
//!
//! Pods run on while kubelet is started anew, the agent's own among them. Whoever may talk to systemd may start any program
//! as root: with the system bus mounted the agent is as mighty as root on the node.

use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// Whether the agent restarts kubelet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// An administrator does, and is told the command.
    #[default]
    Never,
    /// The agent does, when kubelet has to read a changed configuration.
    WhenNeeded,
}

/// No policy is called that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the policy is Never or WhenNeeded")]
pub struct UnknownPolicy;

impl std::str::FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        match text {
            "Never" => Ok(Self::Never),
            "WhenNeeded" => Ok(Self::WhenNeeded),
            _ => Err(UnknownPolicy),
        }
    }
}

/// What an administrator runs on a node, for state and event.
pub fn command(unit: &str) -> String {
    format!("systemctl restart {unit}")
}

/// How long what may take.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two looks at kubelet.
    pub look: Duration,
    /// For how long one process has to stay to count as back. A kubelet that refuses its configuration ends within two
    /// seconds of its start.
    pub steady: Duration,
    /// How long it may take until that is so. Kubelet may take a minute to stop.
    pub patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            look: Duration::from_secs(1),
            steady: Duration::from_secs(10),
            patience: Duration::from_secs(150),
        }
    }
}

/// Why kubelet was not restarted, or is not back.
#[derive(Debug, thiserror::Error)]
pub enum RestartError {
    /// systemd cannot be asked, or refuses.
    #[error(
        "systemd cannot be asked to restart {unit}: {source} (the chart mounts the system bus with nodeAgent.credentialProvider.kubeletRestart=WhenNeeded)"
    )]
    Bus {
        /// Which unit.
        unit: String,
        /// What went wrong.
        source: zbus::Error,
    },
    /// It was started, and does not stay.
    #[error(
        "{unit} does not stay up after its restart: it is {state}; its log says why (journalctl -u {unit})"
    )]
    NotBack {
        /// Which unit.
        unit: String,
        /// What systemd says of it: `activating`, `failed`, ….
        state: String,
    },
}

/// What became of a restart with another configuration.
#[derive(Debug)]
pub enum Outcome {
    /// Kubelet is back with the new configuration.
    Restarted,
    /// systemd was not asked, or refused: nothing has changed, and the new configuration is in place.
    NotAsked(RestartError),
    /// It did not come back. It is with the old configuration now.
    RolledBack(RestartError),
    /// It did not come back, nor with the old one: the first error, and the last.
    Down(RestartError, RestartError),
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1",
    gen_blocking = false
)]
trait Manager {
    fn load_unit(&self, name: &str) -> zbus::Result<zbus::zvariant::OwnedObjectPath>;
    fn restart_unit(&self, name: &str, mode: &str)
    -> zbus::Result<zbus::zvariant::OwnedObjectPath>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Unit",
    default_service = "org.freedesktop.systemd1",
    gen_blocking = false
)]
trait Unit {
    // systemd tells of changes only those who subscribe
    #[zbus(property(emits_changed_signal = "false"))]
    fn active_state(&self) -> zbus::Result<String>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Service",
    default_service = "org.freedesktop.systemd1",
    gen_blocking = false
)]
trait Service {
    #[zbus(property(emits_changed_signal = "false"), name = "MainPID")]
    fn main_pid(&self) -> zbus::Result<u32>;
}

/// systemd on a bus.
#[derive(Debug)]
pub struct Systemd {
    connection: zbus::Connection,
}

/// What systemd says of a unit.
struct Seen {
    active: bool,
    state: String,
    /// 0 where there is no process.
    process: u32,
}

impl Systemd {
    /// Connects to the bus that listens on a socket, such as `/run/dbus/system_bus_socket`.
    ///
    /// # Errors
    /// If there is no bus.
    pub async fn connect(socket: &Path) -> Result<Self, zbus::Error> {
        let address = format!("unix:path={}", socket.display());
        let connection = zbus::connection::Builder::address(address.as_str())?
            .build()
            .await?;
        Ok(Self { connection })
    }

    /// Restarts a unit and watches until it has come back to stay.
    ///
    /// # Errors
    /// If systemd refuses, or if the unit is not back within the patience.
    pub async fn restart(&self, unit: &str, pace: Pace) -> Result<(), RestartError> {
        let bus = |source| RestartError::Bus {
            unit: unit.to_owned(),
            source,
        };
        let before = self.see(unit).await.map_err(bus)?.process;
        let manager = ManagerProxy::new(&self.connection).await.map_err(bus)?;
        // "replace": a restart that somebody else has queued is the same to us
        manager.restart_unit(unit, "replace").await.map_err(bus)?;
        let mut last = String::new();
        let watched = timeout(pace.patience, self.stays(unit, before, pace, &mut last)).await;
        watched.map_err(|_| RestartError::NotBack {
            unit: unit.to_owned(),
            state: last,
        })
    }

    /// Restarts a unit whose configuration has changed. Where it does not come back, `roll_back` puts the old
    /// configuration in place, and the unit is restarted with that.
    ///
    /// # Errors
    /// What `roll_back` says: the unit is down then.
    pub async fn restart_or_roll_back<E>(
        &self,
        unit: &str,
        pace: Pace,
        roll_back: impl FnOnce() -> Result<(), E>,
    ) -> Result<Outcome, E> {
        let refused = match self.restart(unit, pace).await {
            Ok(()) => return Ok(Outcome::Restarted),
            Err(error @ RestartError::Bus { .. }) => return Ok(Outcome::NotAsked(error)),
            Err(error @ RestartError::NotBack { .. }) => error,
        };
        roll_back()?;
        match self.restart(unit, pace).await {
            Ok(()) => Ok(Outcome::RolledBack(refused)),
            Err(down) => Ok(Outcome::Down(refused, down)),
        }
    }

    /// Returns when a process other than `before` has stayed for long enough.
    async fn stays(&self, unit: &str, before: u32, pace: Pace, last: &mut String) {
        let mut since: Option<(u32, Instant)> = None;
        loop {
            // the restart is under way: what cannot be seen now is looked for again
            let (process, state) = match self.see(unit).await {
                Ok(seen) => (seen.active.then_some(seen.process), seen.state),
                Err(error) => (None, format!("not to be seen ({error})")),
            };
            *last = state;
            since = match (process.filter(|id| *id != before && *id != 0), since) {
                (None, _) => None,
                (Some(now), Some((known, start))) if known == now => {
                    if start.elapsed() >= pace.steady {
                        return;
                    }
                    since
                }
                (Some(now), _) => Some((now, Instant::now())),
            };
            sleep(pace.look).await;
        }
    }

    async fn see(&self, unit: &str) -> Result<Seen, zbus::Error> {
        let manager = ManagerProxy::new(&self.connection).await?;
        // loads it where systemd has dropped it, as it may drop one that has failed
        let path = manager.load_unit(unit).await?;
        let state = UnitProxy::new(&self.connection, path.clone())
            .await?
            .active_state()
            .await?;
        let process = ServiceProxy::new(&self.connection, path)
            .await?
            .main_pid()
            .await?;
        Ok(Seen {
            active: state == "active",
            state,
            process,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};
    use std::process::{Child, Command, Stdio};
    use std::sync::{Arc, Mutex};
    use zbus::zvariant::OwnedObjectPath;

    const UNIT: &str = "kubelet.service";
    const UNIT_PATH: &str = "/org/freedesktop/systemd1/unit/kubelet_2eservice";

    /// A real bus of the test's own.
    struct Bus {
        daemon: Child,
        directory: tempfile::TempDir,
    }

    impl Bus {
        fn start() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let socket = directory.path().join("bus");
            let configuration = directory.path().join("bus.conf");
            let content = format!(
                r#"<busconfig>
                     <listen>unix:path={}</listen>
                     <policy context="default">
                       <allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
                     </policy>
                   </busconfig>"#,
                socket.display()
            );
            std::fs::write(&configuration, content).unwrap();
            let mut daemon = Command::new("dbus-daemon")
                .args(["--nofork", "--print-address=1", "--config-file"])
                .arg(&configuration)
                .stdout(Stdio::piped())
                // it complains where it may not raise its own limits
                .stderr(Stdio::null())
                .spawn()
                .expect("dbus-daemon is missing: run tests/prerequisites");
            // it prints its address once it listens
            let mut line = String::new();
            BufReader::new(daemon.stdout.take().unwrap())
                .read_line(&mut line)
                .unwrap();
            assert!(line.contains("unix:path="), "{line}");
            Self { daemon, directory }
        }

        fn socket(&self) -> std::path::PathBuf {
            self.directory.path().join("bus")
        }
    }

    impl Drop for Bus {
        fn drop(&mut self) {
            let _ = self.daemon.kill();
            let _ = self.daemon.wait();
        }
    }

    /// A unit as the stand-in for systemd has it.
    #[derive(Default)]
    struct StandInUnit {
        /// Whether what is configured lets the process stay.
        good: bool,
        /// How often systemd was asked for a restart.
        restarts: u32,
        process: u32,
        /// How often the state was asked for since the last restart.
        looks: u32,
    }

    type Shared = Arc<Mutex<StandInUnit>>;

    /// Stands in for systemd's manager: no systemd runs here that could be asked.
    struct StandInManager(Shared);

    #[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
    impl StandInManager {
        fn load_unit(&self, name: &str) -> zbus::fdo::Result<OwnedObjectPath> {
            if name == UNIT {
                Ok(OwnedObjectPath::try_from(UNIT_PATH).unwrap())
            } else {
                Err(zbus::fdo::Error::FileNotFound(format!(
                    "Unit {name} not found."
                )))
            }
        }

        fn restart_unit(&self, name: &str, mode: &str) -> zbus::fdo::Result<OwnedObjectPath> {
            assert_eq!((name, mode), (UNIT, "replace"));
            let mut unit = self.0.lock().unwrap();
            unit.restarts += 1;
            unit.looks = 0;
            Ok(OwnedObjectPath::try_from("/org/freedesktop/systemd1/job/1").unwrap())
        }
    }

    struct StandInState(Shared);

    #[zbus::interface(name = "org.freedesktop.systemd1.Unit")]
    impl StandInState {
        /// The process ends and is started again, twice between two looks, while the configuration is bad.
        #[zbus(property)]
        fn active_state(&self) -> &'static str {
            let mut unit = self.0.lock().unwrap();
            unit.looks += 1;
            if unit.restarts > 0 && (unit.looks == 1 || !unit.good) {
                unit.process += 1;
            }
            // both are seen of a unit that systemd starts again and again
            if unit.good || unit.looks.is_multiple_of(2) {
                "active"
            } else {
                "activating"
            }
        }
    }

    struct StandInService(Shared);

    #[zbus::interface(name = "org.freedesktop.systemd1.Service")]
    impl StandInService {
        #[zbus(property, name = "MainPID")]
        fn main_pid(&self) -> u32 {
            self.0.lock().unwrap().process
        }
    }

    async fn stand_in(bus: &Bus, good: bool) -> (Shared, zbus::Connection) {
        let unit = Shared::new(Mutex::new(StandInUnit {
            good,
            process: 100,
            ..StandInUnit::default()
        }));
        let address = format!("unix:path={}", bus.socket().display());
        let connection = zbus::connection::Builder::address(address.as_str())
            .unwrap()
            .serve_at(
                "/org/freedesktop/systemd1",
                StandInManager(Arc::clone(&unit)),
            )
            .unwrap()
            .serve_at(UNIT_PATH, StandInState(Arc::clone(&unit)))
            .unwrap()
            .serve_at(UNIT_PATH, StandInService(Arc::clone(&unit)))
            .unwrap()
            .name("org.freedesktop.systemd1")
            .unwrap()
            .build()
            .await
            .unwrap();
        (unit, connection)
    }

    const PACE: Pace = Pace {
        look: Duration::from_millis(1),
        steady: Duration::from_millis(20),
        // decides nothing but how long a test of what does not come takes
        patience: Duration::from_millis(500),
    };

    const PATIENT: Pace = Pace {
        patience: Duration::from_secs(60),
        ..PACE
    };

    #[tokio::test]
    async fn kubelet_is_restarted_once_and_comes_back() {
        let bus = Bus::start();
        let (unit, _serving) = stand_in(&bus, true).await;
        let systemd = Systemd::connect(&bus.socket()).await.unwrap();
        let outcome = systemd
            .restart_or_roll_back(UNIT, PATIENT, || -> Result<(), String> {
                panic!("there is nothing to roll back")
            })
            .await
            .unwrap();
        assert!(matches!(outcome, Outcome::Restarted), "{outcome:?}");
        assert_eq!(unit.lock().unwrap().restarts, 1);
    }

    #[tokio::test]
    async fn a_kubelet_that_does_not_stay_gets_its_old_configuration_back() {
        let bus = Bus::start();
        let (unit, _serving) = stand_in(&bus, false).await;
        let systemd = Systemd::connect(&bus.socket()).await.unwrap();
        let mut error = systemd.restart(UNIT, PACE).await.unwrap_err().to_string();
        assert!(error.contains("journalctl -u kubelet.service"), "{error}");

        let outcome = systemd
            .restart_or_roll_back(UNIT, PACE, || -> Result<(), String> {
                unit.lock().unwrap().good = true;
                Ok(())
            })
            .await
            .unwrap();
        let Outcome::RolledBack(refused) = outcome else {
            panic!("{outcome:?}");
        };
        error = refused.to_string();
        assert!(error.contains("does not stay up"), "{error}");
        assert_eq!(unit.lock().unwrap().restarts, 3);
    }

    #[tokio::test]
    async fn a_kubelet_that_stays_down_is_told() {
        let bus = Bus::start();
        let (_unit, _serving) = stand_in(&bus, false).await;
        let systemd = Systemd::connect(&bus.socket()).await.unwrap();
        let rolled_back = || -> Result<(), String> { Ok(()) };
        let outcome = systemd
            .restart_or_roll_back(UNIT, PACE, rolled_back)
            .await
            .unwrap();
        assert!(matches!(outcome, Outcome::Down(..)), "{outcome:?}");
    }

    #[tokio::test]
    async fn an_unknown_unit_is_no_kubelet_that_is_down() {
        let bus = Bus::start();
        let (unit, _serving) = stand_in(&bus, true).await;
        let systemd = Systemd::connect(&bus.socket()).await.unwrap();
        let outcome = systemd
            .restart_or_roll_back("k3s.service", PACE, || -> Result<(), String> {
                panic!("nothing was restarted")
            })
            .await
            .unwrap();
        let Outcome::NotAsked(error) = outcome else {
            panic!("{outcome:?}");
        };
        assert!(error.to_string().contains("not found"), "{error}");
        assert_eq!(unit.lock().unwrap().restarts, 0);
    }

    #[tokio::test]
    async fn without_a_bus_there_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(
            Systemd::connect(&directory.path().join("bus"))
                .await
                .is_err()
        );
    }
}
