//! A kubelet's root directory of a test's own, with something outside of it that has to stay as it is.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pullpass_core::bundle::{Bundle, BundleRegistry, NODE_WIDE_SECRET};
use pullpass_core::docker_config::{Entries, Login};
use pullpass_core::key::RegistryKey;
use pullpass_core::reason::Reason;
use pullpass_node_agent::{Bundles, Delivery as _, Effort, HostDirectory, KubeletFile, Trouble};
use serde_json::{Value, json};
use tempfile::TempDir;

/// An administrator's docker config, laid out by hand.
pub(crate) const FOREIGN: &str = "{\n\t\"auths\": {\n\t\t\"admin.example.com\": {\n\t\t\t\"auth\": \"YWRtaW46cA==\"\n\t\t}\n\t},\n\t\"credsStore\": \"x\"\n}\n";

pub(crate) struct Place {
    temporary: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        fs::create_dir(temporary.path().join("outside")).unwrap();
        fs::create_dir(temporary.path().join("root")).unwrap();
        let place = Self { temporary };
        fs::create_dir(place.root("pods")).unwrap();
        fs::write(place.outside("file"), FOREIGN).unwrap();
        place
    }

    pub(crate) fn with_foreign() -> Self {
        let place = Self::new();
        place.write("config.json", FOREIGN);
        place
    }

    /// With an administrator's docker config or without, and with an old password of ours unless it is to be created.
    pub(crate) fn before(what: &str, has_foreign: bool) -> Self {
        let place = if has_foreign {
            Self::with_foreign()
        } else {
            Self::new()
        };
        if what != "create" {
            place.deliver("old").unwrap();
        }
        place
    }

    pub(crate) fn path(&self) -> &Path {
        self.temporary.path()
    }

    pub(crate) fn root(&self, name: &str) -> PathBuf {
        self.path().join("root").join(name)
    }

    pub(crate) fn outside(&self, name: &str) -> PathBuf {
        self.path().join("outside").join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.root(name), text).unwrap();
    }

    pub(crate) fn kubelet_file(&self) -> KubeletFile {
        KubeletFile::new(directory(&self.path().join("root")), Vec::new())
    }

    pub(crate) fn deliver(&self, password: &str) -> Result<bool, Trouble> {
        let (file, bundles) = (self.kubelet_file(), bundles(password));
        let delivered = alone(|| file.deliver(&bundles, Effort::Write))?;
        Ok(delivered.changed)
    }

    pub(crate) fn withdraw(&self) -> Result<bool, Trouble> {
        let file = self.kubelet_file();
        Ok(alone(|| file.withdraw())?.changed)
    }

    /// Everything in the root directory but what was there from the beginning.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.path().join("root"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "pods")
            .collect();
        names.sort();
        names
    }

    /// The entries of the docker config, which has to be whole.
    pub(crate) fn auths(&self) -> BTreeMap<String, Value> {
        auths(&fs::read_to_string(self.root("config.json")).unwrap())
    }

    /// Whatever was interrupted: ours is the old one, the new one or not there, and nothing else has changed.
    pub(crate) fn assert_whole(&self, has_foreign: bool, step: usize) {
        if !has_foreign && !self.root("config.json").exists() {
            return;
        }
        let now = self.auths();
        let foreign = now.contains_key("admin.example.com");
        assert_eq!(has_foreign, foreign, "step {step}");
        let ours = now.get("ours.example.com");
        assert!(
            ours.is_none() || ours == Some(&entry("old")) || ours == Some(&entry("new")),
            "step {step}"
        );
    }

    /// Only what is the administrator's is there, to the letter.
    pub(crate) fn assert_withdrawn(&self, has_foreign: bool, step: usize) {
        let expected: &[&str] = if has_foreign { &["config.json"] } else { &[] };
        assert_eq!(self.names(), expected, "step {step}");
        if has_foreign {
            let now = fs::read_to_string(self.root("config.json")).unwrap();
            assert_eq!(now, FOREIGN);
        }
    }

    pub(crate) fn assert_delivered(&self, password: &str) {
        assert_eq!(self.auths()["ours.example.com"], entry(password));
        let metadata = fs::symlink_metadata(self.root("config.json")).unwrap();
        assert!(metadata.is_file());
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
        assert_eq!(metadata.uid(), rustix::process::geteuid().as_raw());
        assert_eq!(self.names(), [".pullpass.json", "config.json"]);
    }

    /// The same beside so many entries of others.
    pub(crate) fn assert_delivered_among(&self, password: &str, others: usize) {
        self.assert_delivered(password);
        assert_eq!(self.auths().len(), others + 1);
    }

    /// Nothing outside was written, removed or added.
    pub(crate) fn assert_outside_untouched(&self) {
        assert_eq!(fs::read_to_string(self.outside("file")).unwrap(), FOREIGN);
        let names: Vec<_> = fs::read_dir(self.path().join("outside"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["file"]);
    }
}

/// Tries again while the directory is taken. Tests that start processes run beside each other, and each of those holds what
/// all of them have open for the moment between its fork and its exec.
pub(crate) fn alone<T>(mut work: impl FnMut() -> Result<T, Trouble>) -> Result<T, Trouble> {
    const ATTEMPTS: usize = 2000;
    let mut result = work();
    for _ in 0..ATTEMPTS {
        let is_taken = |trouble: &Trouble| trouble.reason == Reason::NodePending;
        if !result.as_ref().is_err_and(is_taken) {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
        result = work();
    }
    result
}

pub(crate) fn directory(path: &Path) -> HostDirectory {
    HostDirectory {
        mounted: path.to_owned(),
        named: path.to_owned(),
    }
}

pub(crate) fn auths(text: &str) -> BTreeMap<String, Value> {
    let config: Value = serde_json::from_str(text).expect("a whole file");
    serde_json::from_value(config["auths"].clone()).unwrap()
}

pub(crate) fn entries(password: &str) -> Entries {
    Entries::from([(
        RegistryKey::parse("ours.example.com").unwrap(),
        Login::new("user".into(), password.into()).unwrap(),
    )])
}

pub(crate) fn entry(password: &str) -> Value {
    use secrecy::ExposeSecret as _;
    let entries = entries(password);
    json!({"auth": entries.values().next().unwrap().basic().expose_secret()})
}

pub(crate) fn bundles(password: &str) -> Bundles {
    let registry = BundleRegistry {
        name: "ours".into(),
        priority: 0,
        created: 0,
        access: None,
        entries: entries(password),
    };
    let bundle = Bundle {
        registries: vec![registry],
        ..Bundle::default()
    };
    Bundles::from([(NODE_WIDE_SECRET, Arc::new(bundle))])
}

pub(crate) fn reason(result: Result<bool, Trouble>) -> Reason {
    result.expect_err("something is in the way").reason
}
