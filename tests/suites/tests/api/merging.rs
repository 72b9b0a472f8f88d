//! What one namespace's Secret holds where several registries want to be in it: two for one host, or more than fits.

use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{WatchEvent, WatchParams};
use kube::{Api, ResourceExt as _};
use pullpass_api::Registry;
use pullpass_harness::objects::{PULL_SECRET, SYSTEM_NAMESPACE, base64};
use pullpass_harness::{Lease, eventually, lease};
use pullpass_suites::copies::{self, CONVERGENCE, docker_config, has_login};
use pullpass_suites::registries::{self, condition, has_condition};

const HOST: &str = "registry.example.com";

/// Two of these do not fit into one Secret, and one does.
const LARGE: usize = 600 * 1024;

/// Waits until the condition `Distributed` says this, and returns its message.
async fn distributed(server: &Lease, registry: &str, wanted: &str) -> String {
    has_condition(server, registry, "Distributed", wanted).await;
    let registries: Api<Registry> = server.all();
    registries
        .get(registry)
        .await
        .unwrap()
        .status
        .unwrap()
        .conditions
        .into_iter()
        .find(|condition| condition.type_ == "Distributed")
        .unwrap()
        .message
}

#[tokio::test]
async fn what_does_not_fit_is_named_and_the_rest_works() {
    let server = lease().await;
    server.apply_chart().await;
    for (name, host, priority, namespaces) in [
        ("kept", "kept.example.com", 1, ["team*"]),
        ("left", "left.example.com", 0, ["team-b*"]),
    ] {
        registries::write_source(&server, name, "user", &name.repeat(LARGE / name.len())).await;
        let mut registry = registries::private(name, host, &namespaces);
        registry.spec.priority = priority;
        registries::create(&server, &registry).await;
    }
    registries::write_source(&server, "small", "user", "small").await;
    let small = registries::private("small", "small.example.com", &["team*"]);
    registries::create(&server, &small).await;
    let roomy = server.namespace("team-a").await;
    let crowded = server.namespace("team-b").await;
    let _controller = server.start_controller("one", &[]).await;

    let message = distributed(&server, "left", "False/SomeNamespacesFailed").await;
    assert!(
        message.starts_with("1 of 1 selected namespaces"),
        "{message}"
    );
    let named = format!("TooLarge in {crowded} (left out: left.example.com)");
    assert!(message.contains(&named), "{message}");
    copies::tells(
        &server,
        &crowded,
        &[
            ("kept", "Available"),
            ("left", "TooLarge"),
            ("small", "Available"),
        ],
    )
    .await;
    let kept = "kept".repeat(LARGE / 4);
    for namespace in [&crowded, &roomy, &SYSTEM_NAMESPACE.to_owned()] {
        has_login(&server, namespace, "kept.example.com", "user", &kept).await;
        let copy = has_login(&server, namespace, "small.example.com", "user", "small").await;
        assert_eq!(docker_config(&copy)["auths"].as_object().unwrap().len(), 2);
    }
    // the same in the docker config for installers, which is told where it is no namespace's
    let message = distributed(&server, "small", "True/Synced").await;
    assert!(message.contains("all 2"), "{message}");

    // a higher priority turns it round
    registries::patch(&server, "left", &serde_json::json!({"priority": 2})).await;
    copies::tells(
        &server,
        &crowded,
        &[
            ("left", "Available"),
            ("kept", "TooLarge"),
            ("small", "Available"),
        ],
    )
    .await;
    let message = distributed(&server, "kept", "False/SomeNamespacesFailed").await;
    assert!(
        message.starts_with("1 of 2 selected namespaces"),
        "{message}"
    );
    // and where there is room for both, both are there
    registries::write_source(&server, "left", "user", "short").await;
    has_login(&server, &crowded, "left.example.com", "user", "short").await;
    has_login(&server, &crowded, "kept.example.com", "user", &kept).await;
    has_condition(&server, "kept", "Ready", "True/Synced").await;
}

#[tokio::test]
async fn what_does_not_fit_for_installers_alone_is_told_too() {
    let server = lease().await;
    server.apply_chart().await;
    for (name, namespace) in [("one", "team-one"), ("two", "team-two")] {
        registries::write_source(&server, name, "user", &name.repeat(LARGE / 3)).await;
        let host = format!("{name}.example.com");
        registries::create(&server, &registries::private(name, &host, &[namespace])).await;
        server.create_namespace(namespace, &[]).await;
    }
    let _controller = server.start_controller("one", &[]).await;
    has_login(
        &server,
        "team-one",
        "one.example.com",
        "user",
        &"one".repeat(LARGE / 3),
    )
    .await;
    has_login(
        &server,
        "team-two",
        "two.example.com",
        "user",
        &"two".repeat(LARGE / 3),
    )
    .await;
    let message = distributed(&server, "two", "False/TooLarge").await;
    assert!(
        message.contains("own namespace") && message.contains("two.example.com"),
        "{message}"
    );
    has_condition(&server, "one", "Ready", "True/Synced").await;
}

#[tokio::test]
async fn the_loser_counts_where_it_lost() {
    let server = lease().await;
    server.apply_chart().await;
    registries::write_source(&server, "wide", "wide", "wide").await;
    registries::create(&server, &registries::private("wide", HOST, &["team*"])).await;
    registries::write_source(&server, "narrow", "narrow", "narrow").await;
    let mut narrow = registries::private("narrow", HOST, &["team-a*"]);
    narrow.spec.priority = 1;
    registries::create(&server, &narrow).await;
    let lost = [
        server.namespace("team-a").await,
        server.namespace("team-a").await,
    ];
    let kept = server.namespace("team-b").await;
    let _controller = server.start_controller("one", &[]).await;
    for namespace in &lost {
        has_login(&server, namespace, HOST, "narrow", "narrow").await;
    }
    has_login(&server, &kept, HOST, "wide", "wide").await;
    let message = distributed(&server, "wide", "False/SomeNamespacesFailed").await;
    assert!(
        message.starts_with("2 of 3 selected namespaces"),
        "{message}"
    );
    for namespace in &lost {
        assert!(message.contains(namespace.as_str()), "{message}");
    }
    assert!(!message.contains(kept.as_str()), "{message}");
    has_condition(&server, "narrow", "Ready", "True/Synced").await;
    let registries: Api<Registry> = server.all();
    let counted = registries.get("wide").await.unwrap().status.unwrap();
    let counted = counted.namespaces.unwrap();
    assert_eq!(
        (counted.selected, counted.synced, counted.failed),
        (3, 1, 2)
    );
}

#[tokio::test]
async fn a_hand_over_leaves_no_moment_without_a_credential() {
    let server = lease().await;
    server.apply_chart().await;
    registries::write_source(&server, "old", "old", "old").await;
    registries::create(&server, &registries::private("old", HOST, &["team*"])).await;
    let team = server.namespace("team").await;
    let _controller = server.start_controller("one", &[]).await;
    let first = has_login(&server, &team, HOST, "old", "old").await;

    let secrets: Api<Secret> = server.of(&team);
    let this = WatchParams::default().fields(&format!("metadata.name={PULL_SECRET}"));
    // from this version on, every one that there is
    let watched = secrets
        .watch(&this, &first.resource_version().unwrap())
        .await
        .unwrap();

    // the new one is there before its credential is
    let mut new = registries::private("new", HOST, &["team*"]);
    new.spec.priority = 1;
    registries::create(&server, &new).await;
    has_condition(&server, "new", "CredentialsReady", "Unknown/SourceMissing").await;
    has_login(&server, &team, HOST, "old", "old").await;
    registries::write_source(&server, "new", "new", "new").await;
    has_condition(&server, "new", "Ready", "True/Synced").await;
    registries::delete(&server, "old").await;
    eventually(
        CONVERGENCE,
        "the old one is forgotten",
        async || match condition(&server, "old", "Ready").await {
            Err(error) if error.contains("not found") => Ok(()),
            found => Err(format!("{found:?}")),
        },
    )
    .await;
    let credentials: Api<Secret> = server.of(SYSTEM_NAMESPACE);
    eventually(
        CONVERGENCE,
        "its credential goes",
        async || match credentials.get_opt("pullpass-credential-old").await {
            Ok(None) => Ok(()),
            other => Err(format!("{:?}", other.map(|secret| secret.is_some()))),
        },
    )
    .await;
    copies::tells(&server, &team, &[("new", "Available")]).await;
    let last = has_login(&server, &team, HOST, "new", "new").await;
    // a version to end with
    registries::write_source(&server, "new", "new", "end").await;
    has_login(&server, &team, HOST, "new", "end").await;

    let logins = ["old:old", "new:new", "new:end"].map(base64);
    let mut seen: Vec<usize> = Vec::new();
    let reading = async {
        pin_mut!(watched);
        while seen.last() != Some(&2) {
            match watched.next().await.expect("the watch goes on").unwrap() {
                WatchEvent::Added(copy) | WatchEvent::Modified(copy) => {
                    assert_eq!(first.uid(), copy.uid());
                    let config = docker_config(&copy);
                    let login = &config["auths"][HOST]["auth"];
                    let which = logins.iter().position(|known| login == known.as_str());
                    seen.push(which.unwrap_or_else(|| panic!("no login for the host: {config}")));
                }
                WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) | WatchEvent::Error(_) => {
                    panic!("the Secret is written in place");
                }
            }
        }
    };
    tokio::time::timeout(CONVERGENCE, reading)
        .await
        .expect("the last version is seen");
    assert_eq!(seen, [1, 2], "one write for each change");
    assert_eq!(first.uid(), last.uid());
}
