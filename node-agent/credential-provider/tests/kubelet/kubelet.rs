//! The code of each kubelet that is served, from the Go program `kubelet-config`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use serde::Deserialize;

/// Where the Go module is, seen from this crate.
const GO_MODULE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/kubelet-config");

/// Every minor version that is served. Each has a module file of its own.
pub(crate) const VERSIONS: [&str; 5] = ["1.33", "1.34", "1.35", "1.36", "1.37"];

/// The module's own file has the newest.
fn module_file(version: &str) -> String {
    if VERSIONS.ends_with(&[version]) {
        return "go.mod".to_owned();
    }
    format!("{version}.mod")
}

/// What kubelet would pull with.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KubeletLogin {
    pub(crate) username: String,
    pub(crate) password: String,
}

/// The code of one version.
pub(crate) struct Kubelet {
    program: PathBuf,
}

/// For whom kubelet asks.
#[derive(Clone, Copy)]
pub(crate) struct Pod<'a> {
    pub(crate) namespace: &'a str,
    /// Empty for a static pod.
    pub(crate) token: &'a str,
}

impl Kubelet {
    /// The program of a version, built where that is not done. Go keeps what it compiled, so that this takes minutes once and
    /// then a second.
    pub(crate) fn of(version: &str) -> Self {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _alone = ONE_AT_A_TIME.lock();
        let program =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kubelet-config-{version}"));
        let built = Command::new("go")
            .args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false"])
            .args(["-ldflags", "-s -w", "-modfile"])
            .arg(module_file(version))
            .arg("-o")
            .arg(&program)
            .arg(".")
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "")
            .current_dir(GO_MODULE)
            .output();
        match built {
            Ok(output) if output.status.success() => Self { program },
            Ok(output) => panic!(
                "tests/kubelet-config does not build for {version}:\n{}",
                String::from_utf8_lossy(&output.stderr)
            ),
            Err(error) => panic!(
                "cannot run go ({error}): these tests ask kubelet's own Go code, so install Go (the version that tests/cluster/go.mod names) and put it into PATH; `cargo test -p pullpass-credential-provider --lib` runs everything that needs no Go"
            ),
        }
    }

    /// Whether kubelet starts with a configuration; otherwise what it stops with.
    pub(crate) fn starts_with(&self, config: &Path, programs: &Path) -> Result<(), String> {
        self.run(&[config.as_os_str(), programs.as_os_str()])
            .map(drop)
    }

    /// What kubelet would pull an image with, for a pod.
    pub(crate) fn logins(
        &self,
        config: &Path,
        programs: &Path,
        image: &str,
        pod: Pod<'_>,
    ) -> Vec<KubeletLogin> {
        let output = self
            .run(&[
                config.as_os_str(),
                programs.as_os_str(),
                image.as_ref(),
                pod.namespace.as_ref(),
                pod.token.as_ref(),
            ])
            .unwrap();
        serde_json::from_str(&output).expect("a list of logins")
    }

    fn run(&self, arguments: &[&std::ffi::OsStr]) -> Result<String, String> {
        let output = Command::new(&self.program)
            .args(arguments)
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        if output.status.success() {
            Ok(text(output.stdout))
        } else {
            Err(text(output.stderr))
        }
    }
}
