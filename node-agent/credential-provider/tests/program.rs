//! The plugin as kubelet runs it: a program with a request on its standard input.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use pullpass_core::bundle::{Bundle, BundleRegistry, NODE_WIDE_SECRET, RESTRICTED_SECRET};
use pullpass_core::docker_config::{Entries, Login};
use pullpass_core::key::RegistryKey;
use pullpass_credential_provider::store;
use secrecy::ExposeSecret as _;

const EMPTY: &str = r#"{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderResponse","cacheKeyType":"Image","cacheDuration":"0s","auth":{}}"#;

fn call(store: &Path, input: &str) -> Output {
    let mut plugin = Command::new(env!("CARGO_BIN_EXE_pullpass-credential-provider"))
        .arg(format!("--store={}", store.display()))
        .arg("--configuration=test")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = plugin.stdin.take().unwrap();
    // it may have ended before it has read all
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    plugin.wait_with_output().unwrap()
}

fn request(image: &str) -> String {
    format!(
        r#"{{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderRequest","image":"{image}","serviceAccountToken":"CANARY-TOKEN"}}"#
    )
}

fn write_bundle(directory: &Path) {
    let login = Login::new("robot".into(), "CANARY-PASSWORD".into()).unwrap();
    let bundle = Bundle {
        registries: vec![BundleRegistry {
            name: "open".into(),
            priority: 0,
            created: 0,
            access: None,
            entries: Entries::from([(RegistryKey::parse("r.example.com").unwrap(), login)]),
        }],
        ..Bundle::default()
    };
    let path = store::path(directory, NODE_WIDE_SECRET);
    fs::write(path, bundle.write().expose_secret()).unwrap();
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn what_is_in_the_store_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    write_bundle(directory.path());
    let answer = call(directory.path(), &request("r.example.com/app"));
    assert!(answer.status.success());
    let auth = r#""auth":{"r.example.com":{"username":"robot","password":"CANARY-PASSWORD"}}}"#;
    assert!(text(&answer.stdout).ends_with(auth));
    // a token that says nothing is told, and not repeated
    assert!(text(&answer.stderr).contains("set aside"));
    assert!(!text(&answer.stderr).contains("CANARY"));
}

#[test]
fn no_store_is_nothing_to_answer_with() {
    let directory = tempfile::tempdir().unwrap();
    for store in [directory.path(), &directory.path().join("nowhere")] {
        let answer = call(store, &request("r.example.com/app"));
        assert!(answer.status.success());
        assert_eq!(text(&answer.stdout), EMPTY);
    }
}

#[test]
fn a_damaged_store_fails_only_what_it_leaves_without_an_answer() {
    let directory = tempfile::tempdir().unwrap();
    write_bundle(directory.path());
    let damaged = store::path(directory.path(), RESTRICTED_SECRET);
    fs::write(damaged, r#"{"version":"v1","CANARY"#).unwrap();
    assert!(
        call(directory.path(), &request("r.example.com/app"))
            .status
            .success()
    );
    let answer = call(directory.path(), &request("other.example.com/app"));
    assert_eq!(answer.status.code(), Some(1));
    assert_eq!(text(&answer.stdout), "");
    assert!(text(&answer.stderr).contains("pullpass-nodes-restricted.json"));
    assert!(!text(&answer.stderr).contains("CANARY"));
}

#[test]
fn what_is_no_request_fails_without_being_repeated() {
    let directory = tempfile::tempdir().unwrap();
    write_bundle(directory.path());
    let endless = " ".repeat(2 * 1024 * 1024);
    for input in ["", "CANARY", "{\"image\":\"CANARY\"}", &endless] {
        let answer = call(directory.path(), input);
        assert_eq!(answer.status.code(), Some(1));
        assert_eq!(text(&answer.stdout), "");
        assert!(!text(&answer.stderr).is_empty());
        assert!(!text(&answer.stderr).contains("CANARY"));
    }
    let bare = Command::new(env!("CARGO_BIN_EXE_pullpass-credential-provider"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(bare.status.code(), Some(1));
    assert!(text(&bare.stderr).contains("--store="));
}
