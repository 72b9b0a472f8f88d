//! Where credentials come from and whether they are good: Secrets that others fill in, registries that are asked, tokens
//! that a cloud issues and that end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::DeleteParams;
use kube::{Api, ResourceExt as _};
use pullpass_api::{Registry, convert};
use pullpass_core::provider::Provider;
use pullpass_harness::fake_ecr::{self, FakeEcr};
use pullpass_harness::fake_ecr_registry::FakeEcrRegistry;
use pullpass_harness::fake_proxy::FakeProxy;
use pullpass_harness::fake_registry::FakeRegistry;
use pullpass_harness::objects::{SYSTEM_NAMESPACE, secret};
use pullpass_harness::{ApiServer, Lease, eventually, lease, stays};
use pullpass_suites::copies::{self, CONVERGENCE, LONG_ENOUGH, has_login};
use pullpass_suites::documentation::{Example, examples};
use pullpass_suites::registries::{self, events, has_condition};
use serde_json::json;

const KEY: &str = "AKIAIOSFODNN7EXAMPLE";

/// The fake's tokens live so long where a test waits for a renewal: it comes at half of it.
const SHORT_LIFE: Duration = Duration::from_secs(16);

/// The objects that a page of the documentation shows, in order.
fn shown<T: serde::de::DeserializeOwned>(page: &str, kind: &str) -> Vec<T> {
    examples(kind)
        .into_iter()
        .filter(|example| example.page == page)
        .map(|example| serde_json::from_value(example.object).unwrap())
        .collect()
}

async fn version(server: &ApiServer, namespace: &str) -> (String, String) {
    let copy = copies::secret(server, namespace).await.unwrap();
    (copy.uid().unwrap(), copy.resource_version().unwrap())
}

/// The documented example, whose Secret comes after the Registry, goes, and comes back.
#[tokio::test]
async fn a_secret_that_external_secrets_fills_in_may_come_late_and_go_and_come_back() {
    let server = lease().await;
    server.apply_chart().await;
    let registry: Registry = shown("external-secrets.md", "Registry").remove(0);
    let mut filled_in: Secret = shown("external-secrets.md", "Secret").remove(0);
    let _controller = server.start_controller("one", &[]).await;
    server.create_namespace("team-a", &[]).await;
    registries::create(&server, &registry).await;
    for kind in ["Ready", "CredentialsReady"] {
        has_condition(&server, "acme", kind, "Unknown/SourceMissing").await;
    }
    assert_eq!(
        events(&server, "acme")
            .await
            .iter()
            .filter(|e| e.starts_with("Warning"))
            .count(),
        0
    );

    registries::write_secret(&server, &filled_in).await;
    has_login(&server, "team-a", "registry.example.com", "robot", "first").await;
    has_condition(&server, "acme", "Ready", "True/Synced").await;
    let before = version(&server, "team-a").await;
    let secrets: Api<Secret> = server.of(SYSTEM_NAMESPACE);
    for _ in 0..2 {
        secrets
            .delete("acme-registry", &DeleteParams::default())
            .await
            .unwrap();
        has_condition(&server, "acme", "CredentialsReady", "False/SourceMissing").await;
        has_condition(&server, "acme", "Ready", "False/KeepingLastGood").await;
        registries::write_secret(&server, &filled_in).await;
        has_condition(&server, "acme", "Ready", "True/Synced").await;
        assert_eq!(version(&server, "team-a").await, before);
    }
    // as fast as an operator does it
    secrets
        .delete("acme-registry", &DeleteParams::default())
        .await
        .unwrap();
    registries::write_secret(&server, &filled_in).await;
    stays(LONG_ENOUGH, "the copy is as it was", async || {
        let now = version(&server, "team-a").await;
        if now == before {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    })
    .await;
    // a new password in the vault
    let data = filled_in.string_data.as_mut().unwrap();
    let content = data.get_mut("config.json").unwrap();
    *content = content.replace("first", "second");
    registries::write_secret(&server, &filled_in).await;
    has_login(&server, "team-a", "registry.example.com", "robot", "second").await;
    assert_eq!(version(&server, "team-a").await.0, before.0);
}

/// What users copy: every provider's example, with the Secrets that are shown beside it.
#[tokio::test]
async fn every_providers_example_is_one_that_the_controller_takes() {
    let server = lease().await;
    server.apply_chart().await;
    let _controller = server.start_controller_without_clouds("one").await;
    let sources: Vec<Example> = examples("Secret")
        .into_iter()
        .filter(|example| example.page.starts_with("providers/"))
        .collect();
    for source in &sources {
        let secret = serde_json::from_value(source.object.clone()).unwrap();
        registries::write_secret(&server, &secret).await;
    }
    let mut logged_in = BTreeSet::new();
    let mut providers = BTreeSet::new();
    for (number, example) in examples("Registry").into_iter().enumerate() {
        // two pages may use one name
        let name = format!("example-{number}");
        let registry = registries::with_spec(&name, &example.object["spec"]);
        providers.insert(convert::provider(&registry).unwrap());
        registries::create(&server, &registry).await;
        let told = eventually(CONVERGENCE, "the controller says something", async || {
            registries::condition(&server, &name, "CredentialsReady").await
        })
        .await;
        let page = &example.page;
        assert_ne!(told, "False/InvalidRegistry", "{page}: {}", example.object);
        if sources.iter().any(|source| source.name() == example.name()) {
            has_condition(&server, &name, "CredentialsReady", "True/CredentialRead").await;
            logged_in.insert(page.clone());
        }
    }
    assert_eq!(providers, BTreeSet::from(Provider::ALL));
    // the others have an identity at a cloud, or a key that no page may show
    assert_eq!(logged_in.len(), 6, "{logged_in:?}");
}

/// A registry that is asked, and a Registry for it.
struct Asked {
    server: Lease,
    registry: FakeRegistry,
    team: String,
    _controller: pullpass_harness::daemons::Daemon,
}

async fn asked() -> Asked {
    let server = lease().await;
    server.apply_chart().await;
    let registry = FakeRegistry::start().await;
    registry.accept("user", "first");
    let controller = server.start_controller("one", &[]).await;
    let team = server.namespace("team").await;
    let spec = json!({
        "host": registry.host(),
        "auth": {"basic": {"secretRef": {"name": "acme"}}},
        "access": {"namespaces": {"include": ["team*"]}},
        "connection": {"tls": {"mode": "Insecure"}},
    });
    registries::create(&server, &registries::with_spec("acme", &spec)).await;
    Asked {
        server,
        registry,
        team,
        _controller: controller,
    }
}

#[tokio::test]
async fn a_password_is_rolled_out_when_the_registry_takes_it() {
    let Asked {
        server,
        registry,
        team,
        ..
    } = &asked().await;
    registries::write_source(server, "acme", "user", "wrong").await;
    has_condition(server, "acme", "Verified", "False/Unauthorized").await;
    has_condition(server, "acme", "CredentialsReady", "False/Unauthorized").await;
    assert!(copies::secret(server, team).await.is_none());
    copies::tells(server, team, &[("acme", "Unauthorized")]).await;

    registries::write_source(server, "acme", "user", "first").await;
    has_login(server, team, &registry.host(), "user", "first").await;
    has_condition(server, "acme", "Verified", "True/Accepted").await;
    has_condition(server, "acme", "Ready", "True/Synced").await;
    let before = version(server, team).await;

    // mistyped at a rotation: what works goes on working
    registries::write_source(server, "acme", "user", "mistyped").await;
    has_condition(server, "acme", "Verified", "False/Unauthorized").await;
    has_condition(server, "acme", "Ready", "False/KeepingLastGood").await;
    assert_eq!(version(server, team).await, before);
    let told = events(server, "acme").await;
    assert!(
        told.iter()
            .any(|event| event.starts_with("Warning Unauthorized: ")),
        "{told:?}"
    );

    registry.accept("user", "second");
    registries::write_source(server, "acme", "user", "second").await;
    has_login(server, team, &registry.host(), "user", "second").await;
    has_condition(server, "acme", "Verified", "True/Accepted").await;
    assert_eq!(version(server, team).await.0, before.0);
}

#[tokio::test]
async fn a_registry_that_fails_proves_nothing() {
    let Asked {
        server,
        registry,
        team,
        ..
    } = &asked().await;
    registry.set_failing(true);
    registries::write_source(server, "acme", "user", "first").await;
    has_login(server, team, &registry.host(), "user", "first").await;
    let unknown = eventually(CONVERGENCE, "it is told", async || {
        registries::condition(server, "acme", "Verified").await
    })
    .await;
    assert!(unknown.starts_with("Unknown/"), "{unknown}");
    has_condition(server, "acme", "Ready", "True/Synced").await;
}

#[tokio::test]
async fn what_a_connection_needs_is_waited_for() {
    let Asked { server, team, .. } = &asked().await;
    registries::write_source(server, "acme", "user", "first").await;
    has_condition(server, "acme", "Verified", "True/Accepted").await;
    let connection = json!({"tls": {"mode": "SecureWithCA", "caSecretRef": {"name": "authority"}}});
    registries::patch(server, "acme", &json!({"connection": connection})).await;
    has_condition(server, "acme", "Verified", "Unknown/SourceMissing").await;
    has_condition(server, "acme", "Ready", "True/Synced").await;
    registries::write_secret(
        server,
        &secret("authority", "Opaque", &[("ca.crt", "none")]),
    )
    .await;
    has_condition(server, "acme", "Verified", "Unknown/MalformedSource").await;
    assert!(copies::secret(server, team).await.is_some());
}

#[tokio::test]
async fn an_unknown_way_to_log_in_is_told_with_what_fits() {
    let Asked { server, .. } = &asked().await;
    let spec = json!({
        "host": "ghcr.io/acme",
        "provider": "Quay",
        "auth": {"basic": {"secretRef": {"name": "acme"}}},
        "access": {"namespaces": {"include": ["team*"]}},
    });
    registries::create(server, &registries::with_spec("other", &spec)).await;
    has_condition(server, "other", "CredentialsReady", "False/InvalidRegistry").await;
    let registries: Api<Registry> = server.all();
    let status = registries.get("other").await.unwrap().status.unwrap();
    let message = &status.conditions[0].message;
    assert!(message.contains("write GHCR"), "{message}");
}

/// A cloud that issues tokens, and a Registry that logs in to it for some namespaces.
struct Issued {
    server: Lease,
    cloud: Arc<FakeEcr>,
    teams: Vec<String>,
    controller: pullpass_harness::daemons::Daemon,
}

async fn issued(life: Duration) -> Issued {
    let server = lease().await;
    server.apply_chart().await;
    let cloud = Arc::new(FakeEcr::start("127.0.0.1:0".parse().unwrap(), life).await);
    let controller = server.start_controller_at("one", &cloud).await;
    let mut teams = Vec::new();
    for _ in 0..3 {
        teams.push(server.namespace("team").await);
    }
    let keys = [("accessKeyId", KEY), ("secretAccessKey", "fake")];
    registries::write_secret(&server, &secret("acme", "Opaque", &keys)).await;
    let spec = json!({
        "host": fake_ecr::HOST,
        "auth": {"awsKeys": {"secretRef": {"name": "acme"}}},
        "access": {"namespaces": {"include": ["team*"]}},
    });
    registries::create(&server, &registries::with_spec("acme", &spec)).await;
    Issued {
        server,
        cloud,
        teams,
        controller,
    }
}

impl Issued {
    /// Waits until every namespace has a token that is not this one, and returns it.
    async fn has_another(&self, than: Option<&str>) -> String {
        let token = eventually(CONVERGENCE, "another token is issued", async || {
            let issued = self.cloud.issued().pop();
            issued
                .filter(|issued| Some(issued.as_str()) != than)
                .ok_or("none")
        })
        .await;
        for team in &self.teams {
            has_login(
                &self.server,
                team,
                fake_ecr::HOST,
                fake_ecr::USERNAME,
                &token,
            )
            .await;
        }
        token
    }
}

#[tokio::test]
async fn a_token_is_issued_once_for_all_namespaces_and_not_again_after_a_restart() {
    let Issued {
        server,
        cloud,
        teams,
        controller,
    } = issued(Duration::from_secs(12 * 3600)).await;
    let scene = Issued {
        server,
        cloud,
        teams,
        controller,
    };
    scene.has_another(None).await;
    has_condition(&scene.server, "acme", "Ready", "True/Synced").await;
    let registries: Api<Registry> = scene.server.all();
    let credentials = registries
        .get("acme")
        .await
        .unwrap()
        .status
        .unwrap()
        .credentials
        .unwrap();
    let life = credentials
        .expires_at
        .unwrap()
        .0
        .duration_since(credentials.refreshed_at.unwrap().0);
    assert!((43_190..=43_200).contains(&life.as_secs()), "{life:?}");
    let late = scene.server.namespace("team-late").await;
    let token = scene.cloud.issued().remove(0);
    has_login(
        &scene.server,
        &late,
        fake_ecr::HOST,
        fake_ecr::USERNAME,
        &token,
    )
    .await;

    scene.controller.terminate().await;
    let restarted = scene.server.start_controller_at("two", &scene.cloud).await;
    let later = scene.server.namespace("team-later").await;
    has_login(
        &scene.server,
        &later,
        fake_ecr::HOST,
        fake_ecr::USERNAME,
        &token,
    )
    .await;
    has_condition(&scene.server, "acme", "Ready", "True/Synced").await;
    assert_eq!(scene.cloud.issued().len(), 1);
    // another key is another login
    let keys = [
        ("accessKeyId", "AKIAIOSFODNN7SECOND"),
        ("secretAccessKey", "fake"),
    ];
    registries::write_secret(&scene.server, &secret("acme", "Opaque", &keys)).await;
    eventually(
        CONVERGENCE,
        "it logs in with the other key",
        async || match scene.cloud.issued().len() {
            2 => Ok(()),
            count => Err(count),
        },
    )
    .await;
    drop(restarted);
}

#[tokio::test]
async fn a_token_is_renewed_in_place_before_its_end() {
    let scene = issued(SHORT_LIFE).await;
    let first = scene.has_another(None).await;
    copies::has_state(&scene.server, &scene.teams[0], "Written/Written").await;
    let before = version(&scene.server, &scene.teams[0]).await.0;
    let access = copies::access(&scene.server, &scene.teams[0])
        .await
        .unwrap();
    let second = scene.has_another(Some(&first)).await;
    assert!(scene.cloud.is_live(&first), "renewed too late");
    scene.has_another(Some(&second)).await;
    assert_eq!(version(&scene.server, &scene.teams[0]).await.0, before);
    // what a namespace is told has nothing to do with a token's life
    let told = copies::access(&scene.server, &scene.teams[0])
        .await
        .unwrap();
    assert_eq!(told.resource_version(), access.resource_version());
    let metrics = scene.controller.context().registry.gather();
    let labels = |name: &str| -> Vec<String> {
        let family = metrics.iter().find(|family| family.name() == name);
        let metrics = family.into_iter().flat_map(|family| family.get_metric());
        metrics
            .flat_map(|metric| metric.get_label())
            .map(|label| format!("{}={}", label.name(), label.value()))
            .collect()
    };
    assert_eq!(
        labels("pullpass_renewals_total"),
        ["outcome=renewed", "provider=ECR"]
    );
    assert_eq!(
        labels("pullpass_credential_expiry_timestamp_seconds"),
        ["provider=ECR"]
    );
}

#[tokio::test]
async fn a_refused_renewal_is_told_at_once_and_what_is_in_use_stays() {
    let scene = issued(SHORT_LIFE).await;
    let first = scene.has_another(None).await;
    has_condition(&scene.server, "acme", "Ready", "True/Synced").await;
    scene.cloud.revoke(KEY);
    let told = eventually(CONVERGENCE, "the failed renewal is told", async || {
        let told = registries::condition(&scene.server, "acme", "CredentialsReady").await?;
        if told.starts_with("False/") {
            Ok(told)
        } else {
            Err(told)
        }
    })
    .await;
    assert!(scene.cloud.is_live(&first), "told too late: {told}");
    let (_, reason) = told.split_once('/').unwrap();
    let warning = format!("Warning {reason}: ");
    eventually(CONVERGENCE, "an event tells it too", async || {
        let events = events(&scene.server, "acme").await;
        if events.iter().any(|event| event.starts_with(&warning)) {
            Ok(())
        } else {
            Err(format!("{events:?}"))
        }
    })
    .await;
    has_condition(&scene.server, "acme", "Ready", "False/KeepingLastGood").await;
    has_condition(&scene.server, "acme", "CredentialsReady", "False/Expired").await;
    for team in &scene.teams {
        has_login(
            &scene.server,
            team,
            fake_ecr::HOST,
            fake_ecr::USERNAME,
            &first,
        )
        .await;
    }
    scene.cloud.reinstate(KEY);
    scene.has_another(Some(&first)).await;
    has_condition(&scene.server, "acme", "Ready", "True/Synced").await;
}

/// Tokens that live for half a day, so that none of them is due.
#[tokio::test]
async fn a_token_that_the_registry_comes_to_refuse_is_replaced_at_once_and_its_like_less_often() {
    let scene = issued(Duration::from_secs(12 * 3600)).await;
    let server = &scene.server;
    let first = scene.has_another(None).await;
    let registry = FakeEcrRegistry::without_images(&scene.cloud).await;
    let proxy = FakeProxy::start(registry.address()).await;
    let authority = [("ca.crt", registry.authority())];
    registries::write_secret(server, &secret("authority", "Opaque", &authority)).await;
    let connection = json!({
        "tls": {"mode": "SecureWithCA", "caSecretRef": {"name": "authority"}},
        "via": {"mode": "Proxy", "url": proxy.url()},
    });
    registries::patch(server, "acme", &json!({"connection": connection})).await;
    has_condition(server, "acme", "Verified", "True/Accepted").await;
    assert_eq!(scene.cloud.issued().len(), 1);

    // what is asked otherwise is asked anew
    let asks_for = async |repository: &str| {
        registries::patch(
            server,
            "acme",
            &json!({"verify": {"repository": repository}}),
        )
        .await;
    };
    registry.refuse(&first);
    asks_for("acme/one").await;
    let second = scene.has_another(Some(&first)).await;
    has_condition(server, "acme", "Verified", "True/Accepted").await;
    has_condition(server, "acme", "Ready", "True/Synced").await;
    assert_eq!(scene.cloud.issued().len(), 2);

    // one more after the refusal, and no other within the minute
    registry.refuse_all();
    asks_for("acme/two").await;
    has_condition(server, "acme", "Verified", "False/Unauthorized").await;
    let third = async || match scene.cloud.issued().len() {
        3 => Ok(()),
        count => Err(format!("{count} tokens")),
    };
    eventually(CONVERGENCE, "another token is asked for", third).await;
    stays(LONG_ENOUGH, "no more are asked for", third).await;
    has_condition(server, "acme", "Ready", "False/KeepingLastGood").await;
    for team in &scene.teams {
        has_login(server, team, fake_ecr::HOST, fake_ecr::USERNAME, &second).await;
    }
}
