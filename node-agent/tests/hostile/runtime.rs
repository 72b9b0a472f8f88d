//! The container runtime's directory, in which others have files too.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use pullpass_core::bundle::RuntimeHost;
use pullpass_core::reason::Reason;
use pullpass_node_agent::host::RealHost;
use pullpass_node_agent::hosts_toml::Runtime;
use pullpass_node_agent::runtime_trust::converge;
use pullpass_node_agent::{RuntimeTrust, Trouble};
use rstest::rstest;
use rustix::io::Errno;
use tempfile::TempDir;

use crate::interrupted::Interrupted;
use crate::place::{alone, directory};

const HOST: &str = "ours.example.com:5000";
const FOREIGN: &str = "server = \"https://admin.example.com\"\n";
const CONFIG_PATH: &str = "[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = ";

/// More than any convergence takes.
const STEPS: usize = 200;

/// A node's `/etc/containerd`, with a host of an administrator's in it and a file outside.
struct Etc {
    temporary: TempDir,
}

impl Etc {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let etc = Self { temporary };
        fs::create_dir_all(etc.certs("admin.example.com")).unwrap();
        fs::write(etc.certs("admin.example.com/hosts.toml"), FOREIGN).unwrap();
        fs::create_dir(etc.path("outside")).unwrap();
        fs::write(etc.path("outside/hosts.toml"), FOREIGN).unwrap();
        etc.configure(&format!("{CONFIG_PATH}\"{}\"\n", etc.certs("").display()));
        etc
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temporary.path().join(name)
    }

    fn certs(&self, name: &str) -> PathBuf {
        self.path("certs.d").join(name)
    }

    fn configure(&self, text: &str) {
        fs::write(self.path("config.toml"), text).unwrap();
    }

    fn keep(&self, wanted: &BTreeMap<String, RuntimeHost>) -> Result<Told, Trouble> {
        let trust = RuntimeTrust::new(
            Runtime::Containerd,
            directory(&self.path("certs.d")),
            (directory(self.temporary.path()), "config.toml".into()),
        );
        let kept = alone(|| trust.keep(wanted))?;
        Ok(Told {
            changed: kept.changed,
            reason: kept.remark.map(|remark| remark.reason),
        })
    }

    /// What is written for the host, which has to be whole.
    fn assert_told(&self, authority: &str) {
        let hosts = fs::read_to_string(self.certs(HOST).join("hosts.toml")).unwrap();
        assert!(hosts.starts_with("# Written by Pullpass"), "{hosts}");
        assert!(hosts.ends_with("ca = \"pullpass-ca.crt\"\n"), "{hosts}");
        let file = self.certs(HOST).join("pullpass-ca.crt");
        assert_eq!(fs::read_to_string(&file).unwrap(), authority);
        let mode = fs::symlink_metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o644);
        assert_eq!(names(&self.certs(HOST)), ["hosts.toml", "pullpass-ca.crt"]);
        self.assert_others_untouched();
    }

    fn assert_others_untouched(&self) {
        for place in ["outside", "certs.d/admin.example.com"] {
            assert_eq!(names(&self.path(place)), ["hosts.toml"]);
            let file = self.path(place).join("hosts.toml");
            assert_eq!(fs::read_to_string(file).unwrap(), FOREIGN);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Told {
    changed: bool,
    reason: Option<Reason>,
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn wanted(authority: &str) -> BTreeMap<String, RuntimeHost> {
    let settings = RuntimeHost {
        ca: Some(authority.to_owned()),
        ..RuntimeHost::default()
    };
    BTreeMap::from([(HOST.to_owned(), settings)])
}

fn told(changed: bool, reason: Option<Reason>) -> Told {
    Told { changed, reason }
}

#[test]
fn a_host_is_told_changed_and_taken_away() {
    let etc = Etc::new();
    assert_eq!(etc.keep(&wanted("A")).unwrap(), told(true, None));
    etc.assert_told("A");
    assert_eq!(etc.keep(&wanted("A")).unwrap(), told(false, None));
    assert_eq!(etc.keep(&wanted("B")).unwrap(), told(true, None));
    etc.assert_told("B");
    assert_eq!(etc.keep(&BTreeMap::new()).unwrap(), told(true, None));
    assert_eq!(names(&etc.path("certs.d")), ["admin.example.com"]);
    etc.assert_others_untouched();
}

#[test]
fn what_an_administrator_has_put_beside_ours_stays() {
    let etc = Etc::new();
    etc.keep(&wanted("A")).unwrap();
    fs::write(etc.certs(HOST).join("client.key"), "KEY").unwrap();
    etc.keep(&BTreeMap::new()).unwrap();
    assert_eq!(names(&etc.certs(HOST)), ["client.key"]);
}

#[rstest]
#[case::unset("version = 2\n".to_owned())]
#[case::empty(format!("{CONFIG_PATH}\"\"\n"))]
#[case::elsewhere(format!("{CONFIG_PATH}\"/etc/docker/certs.d\"\n"))]
fn what_the_runtime_does_not_read_is_not_written(#[case] config: String) {
    let etc = Etc::new();
    etc.configure(&config);
    let unread = Some(Reason::RuntimeConfigPathUnset);
    assert_eq!(etc.keep(&wanted("A")).unwrap(), told(false, unread));
    assert_eq!(names(&etc.path("certs.d")), ["admin.example.com"]);
    // without a registry that would need it there is nothing to be told
    assert_eq!(etc.keep(&BTreeMap::new()).unwrap(), told(false, None));
}

#[test]
fn a_file_of_an_administrators_is_left_and_told() {
    let etc = Etc::new();
    fs::create_dir(etc.certs(HOST)).unwrap();
    fs::write(etc.certs(HOST).join("hosts.toml"), FOREIGN).unwrap();
    let foreign = Some(Reason::ForeignRuntimeFile);
    assert_eq!(etc.keep(&wanted("A")).unwrap(), told(false, foreign));
    assert_eq!(names(&etc.certs(HOST)), ["hosts.toml"]);
    assert_eq!(etc.keep(&BTreeMap::new()).unwrap(), told(false, None));
    assert_eq!(names(&etc.certs(HOST)), ["hosts.toml"]);
}

#[rstest]
#[case::the_hosts_directory(HOST, "../outside")]
#[case::the_hosts_directory_to_nothing(HOST, "../outside/new")]
#[case::the_hosts_file("ours.example.com:5000/hosts.toml", "../../outside/hosts.toml")]
#[case::the_hosts_file_to_nothing("ours.example.com:5000/hosts.toml", "../../outside/new")]
fn a_symbolic_link_is_neither_followed_nor_replaced(#[case] name: &str, #[case] target: &str) {
    let etc = Etc::new();
    if name != HOST {
        fs::create_dir(etc.certs(HOST)).unwrap();
    }
    symlink(target, etc.certs(name)).unwrap();
    let foreign = Some(Reason::ForeignRuntimeFile);
    assert_eq!(etc.keep(&wanted("A")).unwrap(), told(false, foreign));
    assert_eq!(etc.keep(&BTreeMap::new()).unwrap(), told(false, None));
    let found = fs::read_link(etc.certs(name)).unwrap();
    assert_eq!(found.to_str(), Some(target));
    etc.assert_others_untouched();
}

#[rstest]
#[case::of_ours("pullpass-ca.crt")]
#[case::of_half_a_file(".hosts.toml.pullpass")]
#[case::of_half_an_authority(".pullpass-ca.crt.pullpass")]
fn a_symbolic_link_in_the_place_of_a_file_of_ours_is_replaced(#[case] name: &str) {
    let etc = Etc::new();
    fs::create_dir(etc.certs(HOST)).unwrap();
    symlink("../../outside/hosts.toml", etc.certs(HOST).join(name)).unwrap();
    assert_eq!(etc.keep(&wanted("A")).unwrap(), told(true, None));
    etc.assert_told("A");
}

#[rstest]
#[case::a_fifo("fifo")]
#[case::a_directory("directory")]
fn what_is_no_file_is_not_opened(#[case] kind: &str) {
    let etc = Etc::new();
    fs::create_dir(etc.certs(HOST)).unwrap();
    let path = etc.certs(HOST).join("hosts.toml");
    if kind == "directory" {
        fs::create_dir(&path).unwrap();
    } else {
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
    }
    let foreign = Some(Reason::ForeignRuntimeFile);
    assert_eq!(etc.keep(&wanted("A")).unwrap(), told(false, foreign));
    assert!(path.exists());
}

#[test]
fn a_file_among_the_directories_is_passed_over() {
    let etc = Etc::new();
    fs::write(etc.certs("README"), "for people").unwrap();
    assert_eq!(etc.keep(&wanted("A")).unwrap(), told(true, None));
    etc.assert_told("A");
    assert!(etc.certs("README").exists());
}

/// A process that ends at a step, for whatever reason, leaves what the step before has left: nothing is cleaned up on the way
/// out, so that to fail and to be killed come to the same.
#[rstest]
fn whatever_fails_no_reader_finds_half_a_file_and_the_next_attempt_succeeds(
    #[values(Errno::IO, Errno::NOSPC, Errno::ROFS)] error: Errno,
    #[values("create", "rotate", "withdraw")] what: &str,
) {
    for steps in 0..STEPS {
        let etc = Etc::new();
        if what != "create" {
            etc.keep(&wanted("old")).unwrap();
        }
        let next = if what == "withdraw" {
            BTreeMap::new()
        } else {
            wanted("new")
        };
        let open = || RealHost::open(&etc.path("certs.d")).unwrap();
        let host = Interrupted::new(open(), steps, || io::Error::from(error));
        let outcome = converge(&host, Runtime::Containerd, &next);
        // at once: an authority that is whole, wherever one is named
        let authority = fs::read_to_string(etc.certs(HOST).join("pullpass-ca.crt"));
        if let Ok(authority) = &authority {
            assert!(["old", "new"].contains(&authority.as_str()), "step {steps}");
        }
        if let Ok(hosts) = fs::read_to_string(etc.certs(HOST).join("hosts.toml")) {
            assert!(
                hosts.ends_with("ca = \"pullpass-ca.crt\"\n"),
                "step {steps}"
            );
            assert!(authority.is_ok(), "step {steps}");
        }
        etc.assert_others_untouched();
        // and in the end as if nothing had happened
        converge(&open(), Runtime::Containerd, &next).unwrap();
        if what != "withdraw" {
            etc.assert_told("new");
        } else if etc.certs(HOST).exists() {
            assert_eq!(names(&etc.certs(HOST)), [""; 0], "step {steps}");
        }
        etc.assert_others_untouched();
        if outcome.is_ok() {
            assert!(steps > 8, "{steps} steps are not all there are");
            return;
        }
    }
    panic!("it never came to its end");
}
