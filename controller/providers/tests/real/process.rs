//! Programs of Debian's packages, as the local cluster keeps them, for the time of a test.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::process::{Child, Command};

/// The registry.
pub(crate) static DOCKER_REGISTRY: LazyLock<PathBuf> = LazyLock::new(|| program("docker-registry"));

/// The proxy.
pub(crate) static TINYPROXY: LazyLock<PathBuf> = LazyLock::new(|| program("tinyproxy"));

/// The path of a program, which is fetched if it is not there.
fn program(name: &str) -> PathBuf {
    let cluster = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cluster/cluster");
    let output = std::process::Command::new(cluster)
        .args(["tool", name])
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {complaint}");
    String::from_utf8(output.stdout).unwrap().trim().into()
}

/// A program that ends with the value.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it, with everything that it prints in a file.
    pub(crate) fn start(command: &mut Command, log: PathBuf) -> Self {
        let output = std::fs::File::create(&log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// What `read` finds in the log, as soon as it is there.
    pub(crate) async fn says<T>(&mut self, read: impl Fn(&str) -> Option<T>) -> T {
        // there is nothing to wait on: a file tells nobody that it grew
        for _ in 0..1000 {
            if let Some(found) = read(&self.log()) {
                return found;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("ended with {status}: {}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("not ready after 20 s: {}", self.log());
    }
}
