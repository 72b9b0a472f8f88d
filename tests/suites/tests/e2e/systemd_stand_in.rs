//! A stand-in for the systemd of a node, on a real bus where the node's pods find its system bus: no node here runs systemd.
//! What it is asked for it does with the local cluster's command, so the kubelet that is restarted is the real one.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pullpass_harness::cluster::Cluster;
use pullpass_harness::eventually;
use tokio::sync::Semaphore;
use zbus::fdo;
use zbus::zvariant::OwnedObjectPath;

const UNIT: &str = "kubelet.service";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const UNIT_PATH: &str = "/org/freedesktop/systemd1/unit/kubelet_2eservice";
const JOB_PATH: &str = "/org/freedesktop/systemd1/job/1";

/// How long a daemon may take to start, or an agent to ask.
const PATIENCE: Duration = Duration::from_secs(90);

/// A node's bus with the stand-in on it. Both end when it is dropped.
pub(crate) struct SystemdStandIn {
    kubelet: Arc<Kubelet>,
    _connection: zbus::Connection,
    _bus: Bus,
}

impl SystemdStandIn {
    /// Restarts that are asked for wait for [`Self::let_restart`].
    pub(crate) async fn start(cluster: &Cluster, node: &str) -> Self {
        let kubelet = Arc::new(Kubelet {
            cluster: cluster.clone(),
            component: format!("{node}-kubelet"),
            restarts: Mutex::default(),
            let_go: Semaphore::new(0),
        });
        let bus = Bus::start(cluster.system_bus(node));
        let connection = eventually(PATIENCE, "the bus listens", async || {
            serve(&bus, &kubelet).await
        })
        .await;
        Self {
            kubelet,
            _connection: connection,
            _bus: bus,
        }
    }

    /// Waits until a restart of kubelet was asked for.
    pub(crate) async fn is_asked(&self) {
        let what = format!("{} is to be restarted", self.kubelet.component);
        eventually(PATIENCE, &what, async || match self.restarts().len() {
            0 => Err("nobody has asked"),
            _ => Ok(()),
        })
        .await;
    }

    /// One restart goes on, or may when it is asked for.
    pub(crate) fn let_restart(&self) {
        self.kubelet.let_go.add_permits(1);
    }

    /// All that were asked for so far, in order.
    pub(crate) fn restarts(&self) -> Vec<Restart> {
        self.kubelet.restarts.lock().unwrap().clone()
    }
}

/// One restart of kubelet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Restart {
    pub(crate) begun: Instant,
    /// When kubelet and its node were ready again.
    pub(crate) ended: Option<Instant>,
}

/// A node's kubelet as a unit.
struct Kubelet {
    cluster: Cluster,
    component: String,
    restarts: Mutex<Vec<Restart>>,
    let_go: Semaphore,
}

impl Kubelet {
    async fn restart(&self, index: usize) {
        self.let_go.acquire().await.unwrap().forget();
        self.cluster.restart(&self.component).await.unwrap();
        self.restarts.lock().unwrap()[index].ended = Some(Instant::now());
    }
}

async fn serve(bus: &Bus, kubelet: &Arc<Kubelet>) -> zbus::Result<zbus::Connection> {
    let address = format!("unix:path={}", bus.socket.display());
    zbus::connection::Builder::address(address.as_str())?
        .serve_at(MANAGER_PATH, Manager(Arc::clone(kubelet)))?
        .serve_at(UNIT_PATH, Unit(Arc::clone(kubelet)))?
        .serve_at(UNIT_PATH, Service(Arc::clone(kubelet)))?
        .name("org.freedesktop.systemd1")?
        .build()
        .await
}

struct Manager(Arc<Kubelet>);

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    fn load_unit(&self, name: &str) -> fdo::Result<OwnedObjectPath> {
        if name == UNIT {
            Ok(OwnedObjectPath::try_from(UNIT_PATH).unwrap())
        } else {
            Err(fdo::Error::FileNotFound(format!("Unit {name} not found.")))
        }
    }

    /// Answers at once, as systemd does, which has queued a job then.
    async fn restart_unit(&self, name: &str, mode: &str) -> fdo::Result<OwnedObjectPath> {
        if (name, mode) != (UNIT, "replace") {
            return Err(fdo::Error::InvalidArgs(format!("{name} {mode}")));
        }
        let index = {
            let mut restarts = self.0.restarts.lock().unwrap();
            restarts.push(Restart {
                begun: Instant::now(),
                ended: None,
            });
            restarts.len() - 1
        };
        let kubelet = Arc::clone(&self.0);
        tokio::spawn(async move { kubelet.restart(index).await });
        Ok(OwnedObjectPath::try_from(JOB_PATH).unwrap())
    }
}

struct Unit(Arc<Kubelet>);

#[zbus::interface(name = "org.freedesktop.systemd1.Unit")]
impl Unit {
    #[zbus(property)]
    fn active_state(&self) -> &'static str {
        let restarts = self.0.restarts.lock().unwrap();
        if restarts.iter().all(|restart| restart.ended.is_some()) {
            "active"
        } else {
            "activating"
        }
    }
}

struct Service(Arc<Kubelet>);

#[zbus::interface(name = "org.freedesktop.systemd1.Service")]
impl Service {
    #[zbus(property, name = "MainPID")]
    fn main_pid(&self) -> fdo::Result<u32> {
        let process = self.0.cluster.process(&self.0.component);
        process.map_err(|error| fdo::Error::Failed(format!("{error:#}")))
    }
}

/// A real bus.
struct Bus {
    daemon: Child,
    socket: PathBuf,
    configuration: PathBuf,
}

impl Bus {
    fn start(socket: PathBuf) -> Self {
        let configuration = socket.with_extension("conf");
        let content = format!(
            r#"<busconfig>
                 <listen>unix:path={}</listen>
                 <policy context="default">
                   <allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
                 </policy>
               </busconfig>"#,
            socket.display()
        );
        fs::write(&configuration, content).unwrap();
        let daemon = Command::new("dbus-daemon")
            .args(["--nofork", "--config-file"])
            .arg(&configuration)
            // it complains where it may not raise its own limits
            .stderr(Stdio::null())
            .spawn()
            .expect("dbus-daemon is missing: run tests/prerequisites");
        Self {
            daemon,
            socket,
            configuration,
        }
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        for file in [&self.socket, &self.configuration] {
            let _ = fs::remove_file(file);
        }
    }
}
