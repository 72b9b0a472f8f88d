//! The configuration that the agent writes and the plugin that it installs, in the hands of kubelet's own code: of every
//! version that is served, since fields differ and a mistake keeps kubelet from starting.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod kubelet;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kubelet::{Kubelet, KubeletLogin, Pod, VERSIONS};
use pullpass_core::bundle::{
    Bundle, BundleAccess, BundleRegistry, NODE_WIDE_SECRET, RESTRICTED_SECRET,
};
use pullpass_core::docker_config::{Entries, Login};
use pullpass_core::glob::Glob;
use pullpass_core::key::RegistryKey;
use pullpass_core::match_images::MatchImages;
use pullpass_credential_provider::store;
use pullpass_node_agent::provider_config::{self, PROVIDER_NAME, Provider, capabilities};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

const PORT: u16 = 5000;

/// A provider of somebody else, with every field that it may have in all versions.
const FOREIGN: &str = r#"
apiVersion: kubelet.config.k8s.io/v1beta1
kind: CredentialProviderConfig
providers:
  - name: foreign-provider
    matchImages: ["*.foreign.example"]
    defaultCacheDuration: 12h
    apiVersion: credentialprovider.kubelet.k8s.io/v1beta1
    args: [get-credentials]
    env: [{name: PROFILE, value: node}]
"#;

/// A node's directories.
struct Node {
    directory: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let node = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(node.programs()).unwrap();
        fs::create_dir(node.store()).unwrap();
        symlink(
            env!("CARGO_BIN_EXE_pullpass-credential-provider"),
            node.programs().join(PROVIDER_NAME),
        )
        .unwrap();
        let foreign = node.programs().join("foreign-provider");
        fs::write(&foreign, "#!/bin/sh\nexit 1\n").unwrap();
        fs::set_permissions(&foreign, fs::Permissions::from_mode(0o755)).unwrap();
        node
    }

    fn programs(&self) -> PathBuf {
        self.directory.path().join("bin")
    }

    fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn provider(&self, version: &str) -> Provider {
        let capabilities = capabilities(&format!("v{version}.0")).unwrap();
        provider_config::provider(capabilities, &MatchImages::new([PORT]), &self.store())
    }

    /// Everyone's registry, and one for namespaces that begin with `team-`.
    fn fill_store(&self) {
        let registry = |name: &str, host: &str, access| {
            let login = Login::new(name.into(), "secret".into()).unwrap();
            BundleRegistry {
                name: name.into(),
                priority: 0,
                created: 0,
                access,
                entries: Entries::from([(RegistryKey::parse(host).unwrap(), login)]),
            }
        };
        let team = BundleAccess {
            include: vec![Glob::new("team-*")],
            exclude: Vec::new(),
            selection: None,
        };
        for (secret, registries) in [
            (
                NODE_WIDE_SECRET,
                vec![
                    registry("open", "open.example.com", None),
                    registry("hub", "index.docker.io", None),
                ],
            ),
            (
                RESTRICTED_SECRET,
                vec![registry("team", "team.example.com:5000", Some(team))],
            ),
        ] {
            let bundle = Bundle {
                registries,
                ..Bundle::default()
            };
            let path = store::path(&self.store(), secret);
            fs::write(path, bundle.write().expose_secret()).unwrap();
        }
    }
}

fn token(namespace: &str) -> String {
    let claims = json!({
        "iss": "https://kubernetes.default.svc",
        "aud": ["pullpass.dev"],
        "exp": 9_999_999_999u64,
        "sub": format!("system:serviceaccount:{namespace}:default"),
        "kubernetes.io": {
            "namespace": namespace,
            "pod": {"name": "pod", "uid": "pod"},
            "serviceaccount": {"name": "default", "uid": "account"},
        },
    });
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

#[test]
fn every_kubelet_starts_with_its_row_of_the_table() {
    for version in VERSIONS {
        let (kubelet, node) = (Kubelet::of(version), Node::new());
        let provider = node.provider(version);
        let merged = provider_config::merge(FOREIGN.as_bytes(), &provider).unwrap();
        for (name, content) in [
            ("alone.json", provider_config::alone(&provider)),
            ("merged.yaml", merged),
        ] {
            let config = node.write(name, &content);
            let started = kubelet.starts_with(&config, &node.programs());
            assert_eq!(started, Ok(()), "{version} {name}");
        }
        node.write("config/10-foreign.yaml", FOREIGN.as_bytes());
        node.write(
            &format!("config/{}", provider_config::FILE_NAME),
            &provider_config::alone(&provider),
        );
        let config = node.directory.path().join("config");
        let started = kubelet.starts_with(&config, &node.programs());
        let reads_directories = capabilities(&format!("v{version}.0")).unwrap().directory;
        assert_eq!(started.is_ok(), reads_directories, "{version} {started:?}");
    }
}

#[test]
fn the_wrong_row_keeps_kubelet_from_starting() {
    let node = Node::new();
    let newer = node.write(
        "newer.json",
        &provider_config::alone(&node.provider("1.34")),
    );
    let error = Kubelet::of("1.33")
        .starts_with(&newer, &node.programs())
        .unwrap_err();
    assert!(error.contains("cacheType"), "{error}");

    let mut without: Value = serde_json::from_slice(&fs::read(&newer).unwrap()).unwrap();
    let attributes = &mut without["providers"][0]["tokenAttributes"];
    attributes
        .as_object_mut()
        .unwrap()
        .remove("cacheType")
        .unwrap();
    let without = node.write("without.json", without.to_string().as_bytes());
    for version in &VERSIONS[1..] {
        let error = Kubelet::of(version)
            .starts_with(&without, &node.programs())
            .unwrap_err();
        assert!(
            error.contains("cacheType is required"),
            "{version}: {error}"
        );
    }
    // and what is left when everything of ours is gone too early
    let config = node.write(
        "alone.json",
        &provider_config::alone(&node.provider("1.37")),
    );
    fs::remove_file(node.programs().join(PROVIDER_NAME)).unwrap();
    let error = Kubelet::of("1.37")
        .starts_with(&config, &node.programs())
        .unwrap_err();
    assert!(error.contains("did not exist"), "{error}");
}

#[test]
fn every_kubelet_gets_what_the_pods_namespace_may_use() {
    for version in VERSIONS {
        let (kubelet, node) = (Kubelet::of(version), Node::new());
        node.fill_store();
        let provider = node.provider(version);
        let config = node.write("config.json", &provider_config::alone(&provider));
        let users = |image: &str, namespace: &str, token: &str| {
            let pod = Pod { namespace, token };
            let logins = kubelet.logins(&config, &node.programs(), image, pod);
            let passwords: Vec<_> = logins.iter().map(|login| &login.password).collect();
            assert!(passwords.iter().all(|password| *password == "secret"));
            logins
                .into_iter()
                .map(|KubeletLogin { username, .. }| username)
                .collect::<Vec<_>>()
        };
        let (allowed, other) = (token("team-a"), token("other"));
        let team = "team.example.com:5000/app";
        let hands_on_tokens = capabilities(&format!("v{version}.0")).unwrap().tokens;
        let expected: &[&str] = if hands_on_tokens { &["team"] } else { &[] };
        assert_eq!(users(team, "team-a", &allowed), expected, "{version}");
        assert_eq!(users(team, "other", &other), [""; 0], "{version}");
        assert_eq!(users(team, "team-a", ""), [""; 0], "{version}");
        for token in [allowed.as_str(), other.as_str(), ""] {
            let open = users("open.example.com/app", "any", token);
            assert_eq!(open, ["open"], "{version}");
            let hub = users("docker.io/library/nginx", "any", token);
            assert_eq!(hub, ["hub"], "{version}");
        }
        let called_by = store::called_by(&node.store()).unwrap();
        assert_eq!(called_by, provider.configuration(), "{version}");
    }
}

#[test]
fn kubelet_asks_for_the_hosts_that_are_covered() {
    let (kubelet, node) = (Kubelet::of("1.37"), Node::new());
    let config = node.write(
        "config.json",
        &provider_config::alone(&node.provider("1.37")),
    );
    let match_images = MatchImages::new([PORT]);
    for host in [
        "registry.example.com",
        "registry.example.com:5000",
        "registry.example.com:5001",
        "registry.example.com:443",
        "a.b.c.d.e.f.g.h",
        "a.b.c.d.e.f.g.h:5000",
        "a.b.c.d.e.f.g.h.i",
        "localhost:5000",
        "127.0.0.1:5000",
        "[2001:db8::1]:5000",
        "[2001:db8::1]:5001",
    ] {
        let key = RegistryKey::parse(host).unwrap();
        let login = Login::new("user".into(), "secret".into()).unwrap();
        let bundle = Bundle {
            registries: vec![BundleRegistry {
                name: "one".into(),
                priority: 0,
                created: 0,
                access: None,
                entries: Entries::from([(key.clone(), login)]),
            }],
            ..Bundle::default()
        };
        let path = store::path(&node.store(), NODE_WIDE_SECRET);
        fs::write(path, bundle.write().expose_secret()).unwrap();
        let pod = Pod {
            namespace: "any",
            token: "",
        };
        let found = kubelet.logins(&config, &node.programs(), &format!("{host}/app"), pod);
        assert_eq!(!found.is_empty(), match_images.covers(&key), "{host}");
    }
}

#[test]
fn a_configuration_of_somebody_else_is_whole_again_afterwards() {
    let (kubelet, node) = (Kubelet::of("1.37"), Node::new());
    let merged = provider_config::merge(FOREIGN.as_bytes(), &node.provider("1.37")).unwrap();
    let provider_config::Without::Left(left) =
        provider_config::without(&merged, Some(FOREIGN.as_bytes())).unwrap()
    else {
        panic!("the foreign provider is left");
    };
    assert_eq!(left, FOREIGN.as_bytes());
    fs::remove_file(Path::new(&node.programs()).join(PROVIDER_NAME)).unwrap();
    let config = node.write("config.yaml", &left);
    assert_eq!(kubelet.starts_with(&config, &node.programs()), Ok(()));
}
