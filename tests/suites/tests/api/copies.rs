//! The controller on a real API server, with its real rights and inside the fence: who gets which Secret, through every
//! change, and what becomes of it where something is wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, ResourceQuota, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use pullpass_api::{PullAccess, Registry};
use pullpass_harness::audit::{AuditLog, Entry};
use pullpass_harness::daemons::Daemon;
use pullpass_harness::identity::service_account_user;
use pullpass_harness::objects::{PULL_SECRET, SYSTEM_NAMESPACE, base64, named, secret, strings};
use pullpass_harness::{Lease, eventually, lease, stays};
use pullpass_suites::copies::{self, CONVERGENCE, docker_config, has_login, has_state, is_clear};
use pullpass_suites::registries::{self, has_condition};
use serde_json::{Value, json};

pub(crate) const HOST: &str = "registry.example.com";

/// How long something is watched that must not happen. The controller acts within milliseconds of what it sees, and
/// repairs that it tries again come within a few seconds.
pub(crate) const LONG_ENOUGH: Duration = Duration::from_secs(3);

/// A controller at work, and the Registry `acme` for namespaces whose name begins with `team`.
pub(crate) struct Scene {
    pub(crate) server: Lease,
    pub(crate) controller: Daemon,
}

pub(crate) async fn scene() -> Scene {
    let server = lease().await;
    server.apply_chart().await;
    registries::write_source(&server, "acme", "user", "first").await;
    registries::create(&server, &registries::private("acme", HOST, &["team*"])).await;
    let controller = server.start_controller("one", &[]).await;
    Scene { server, controller }
}

/// The same before the policy that keeps copies recognisable and removable was there.
pub(crate) async fn scene_without_policy() -> Scene {
    let scene = scene().await;
    scene.server.lift_policy("pullpass-copies").await;
    scene
}

impl Scene {
    /// Namespaces that hold the first password.
    async fn teams(&self, count: usize) -> Vec<String> {
        let mut teams = Vec::new();
        for _ in 0..count {
            teams.push(self.server.namespace("team").await);
        }
        for team in &teams {
            has_login(&self.server, team, HOST, "user", "first").await;
            has_state(&self.server, team, "Written/Written").await;
        }
        teams
    }

    async fn has_password(&self, namespace: &str, password: &str) -> Secret {
        has_login(&self.server, namespace, HOST, "user", password).await
    }

    /// Waits until the Registry's status says that everything is done, so that nothing more is to be written.
    async fn is_settled(&self) {
        has_condition(&self.server, "acme", "Ready", "True/Synced").await;
    }

    fn secrets(&self, namespace: &str) -> Api<Secret> {
        self.server.of(namespace)
    }
}

pub(crate) fn controllers_writes(audit: &AuditLog) -> Vec<Entry> {
    audit.writes_of(&service_account_user(
        SYSTEM_NAMESPACE,
        "pullpass-controller",
    ))
}

pub(crate) fn summaries(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(Entry::summary).collect()
}

fn uid(secret: &Secret) -> String {
    secret.metadata.uid.clone().unwrap()
}

async fn label(server: &Lease, namespace: &str, labels: Value) {
    let namespaces: Api<Namespace> = server.all();
    let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
    namespaces
        .patch(namespace, &PatchParams::default(), &patch)
        .await
        .unwrap();
}

#[tokio::test]
async fn selected_namespaces_get_it_and_the_others_do_not() {
    let scene = scene().await;
    let server = &scene.server;
    let other = server.namespace("other").await;
    let declining = server
        .namespace_with("team-no", &[("pullpass.dev/inject", "false")])
        .await;
    for team in scene.teams(2).await {
        let copy = copies::secret(server, &team).await.unwrap();
        let expected = json!({"auths": {HOST: {"auth": base64("user:first")}}});
        assert_eq!(docker_config(&copy), expected);
        assert_eq!(copy.data.as_ref().unwrap().len(), 1);
        assert_eq!(
            copy.labels().get("pullpass.dev/copy").map(String::as_str),
            Some("true")
        );
        assert!(copy.annotations().is_empty(), "{:?}", copy.annotations());
        let access = copies::access(server, &team).await.unwrap();
        let told = serde_json::to_value(&access).unwrap();
        assert_eq!(
            told["registries"],
            json!([{"name": "acme", "host": HOST, "state": "Available", "reason": "Available"}])
        );
    }
    scene.is_settled().await;
    has_condition(server, "acme", "CredentialsReady", "True/CredentialRead").await;
    let registries: Api<Registry> = server.all();
    let counted = registries
        .get("acme")
        .await
        .unwrap()
        .status
        .unwrap()
        .namespaces
        .unwrap();
    assert_eq!(
        (counted.selected, counted.synced, counted.failed),
        (2, 2, 0)
    );
    for namespace in [
        other.as_str(),
        &declining,
        "default",
        "kube-system",
        "kube-public",
        SYSTEM_NAMESPACE,
    ] {
        // the own namespace has the docker config for installers, of which no pod is told
        let has_secret = copies::secret(server, namespace).await.is_some();
        assert_eq!(has_secret, namespace == SYSTEM_NAMESPACE, "{namespace}");
        assert!(
            copies::access(server, namespace).await.is_none(),
            "{namespace}"
        );
    }
}

#[tokio::test]
async fn a_changed_password_is_one_write_in_place_for_each_copy() {
    let scene = scene().await;
    let teams = scene.teams(5).await;
    scene.is_settled().await;
    let before = join_all(teams.iter().map(|team| scene.has_password(team, "first"))).await;
    let audit = scene.server.audit();
    registries::write_source(&scene.server, "acme", "user", "second").await;
    let after = join_all(teams.iter().map(|team| scene.has_password(team, "second"))).await;
    let uids = |copies: &[Secret]| copies.iter().map(uid).collect::<Vec<_>>();
    assert_eq!(uids(&before), uids(&after));
    scene.is_settled().await;
    let mut expected: BTreeMap<String, usize> = teams
        .iter()
        .map(String::as_str)
        .chain([SYSTEM_NAMESPACE])
        .map(|namespace| (format!("patch secrets {namespace}/pullpass"), 1))
        .collect();
    expected.insert(
        format!("patch secrets {SYSTEM_NAMESPACE}/pullpass-credential-acme"),
        1,
    );
    let quiet = async || {
        let mut found: BTreeMap<String, usize> = BTreeMap::new();
        for entry in controllers_writes(&audit) {
            assert!(entry.succeeded(), "{}", entry.summary());
            if entry.resource() == "registries/status" {
                continue;
            }
            let key = format!(
                "{} {} {}/{}",
                entry.verb,
                entry.resource(),
                entry.namespace(),
                entry.name()
            );
            *found.entry(key).or_default() += 1;
        }
        if found == expected {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    };
    eventually(CONVERGENCE, "each copy is written", quiet).await;
    stays(
        LONG_ENOUGH,
        "each copy is written once, and nothing else",
        quiet,
    )
    .await;
}

#[tokio::test]
async fn a_source_that_says_the_same_writes_nothing() {
    let scene = scene().await;
    scene.teams(2).await;
    scene.is_settled().await;
    let audit = scene.server.audit();
    let sources: Api<Secret> = scene.server.of(SYSTEM_NAMESPACE);
    let touch = Patch::Merge(json!({"metadata": {"annotations": {"touched": "yes"}}}));
    sources
        .patch("acme", &PatchParams::default(), &touch)
        .await
        .unwrap();
    stays(LONG_ENOUGH, "no copy is written", async || {
        let writes: Vec<_> = controllers_writes(&audit)
            .into_iter()
            .filter(|entry| entry.name() == PULL_SECRET)
            .collect();
        if writes.is_empty() {
            Ok(())
        } else {
            Err(summaries(&writes).join(", "))
        }
    })
    .await;
}

#[tokio::test]
async fn a_changed_policy_gives_and_takes() {
    let scene = scene().await;
    let server = &scene.server;
    let teams = scene.teams(2).await;
    let late = server.namespace("late").await;
    registries::patch(
        server,
        "acme",
        &json!({"access": {"namespaces": {"include": ["team*", "late*"], "exclude": [teams[0]]}}}),
    )
    .await;
    is_clear(server, &teams[0]).await;
    scene.has_password(&late, "first").await;
    scene.has_password(&teams[1], "first").await;

    registries::patch(server, "acme", &json!({"access": {"namespaces": {"exclude": [], "selector": {"matchLabels": {"tier": "gold"}}}}})).await;
    is_clear(server, &teams[1]).await;
    is_clear(server, &late).await;
    label(server, &late, json!({"tier": "gold"})).await;
    scene.has_password(&late, "first").await;
    label(server, &late, json!({"pullpass.dev/inject": "false"})).await;
    is_clear(server, &late).await;
    label(server, &late, json!({"pullpass.dev/inject": null})).await;
    scene.has_password(&late, "first").await;
    label(server, &late, json!({"tier": null})).await;
    is_clear(server, &late).await;
}

#[tokio::test]
async fn of_two_registries_for_one_host_the_higher_priority_wins() {
    let scene = scene().await;
    let server = &scene.server;
    let team = scene.teams(1).await.remove(0);
    registries::write_source(server, "own", "owner", "own").await;
    let mut own = registries::private("own", HOST, &[&team]);
    own.spec.priority = 5;
    registries::create(server, &own).await;
    has_login(server, &team, HOST, "owner", "own").await;
    eventually(CONVERGENCE, "the loser is told of", async || {
        let access = copies::access(server, &team).await.ok_or("no PullAccess")?;
        let told = serde_json::to_value(&access).unwrap();
        let states: Vec<String> = told["registries"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| format!("{}={} {}", entry["name"], entry["reason"], entry["lostTo"]))
            .collect();
        let expected = [
            r#""own"="Available" null"#,
            r#""acme"="LostToPriority" "own""#,
        ];
        if states == expected {
            Ok(())
        } else {
            Err(format!("{states:?}"))
        }
    })
    .await;
    registries::delete(server, "own").await;
    scene.has_password(&team, "first").await;
}

#[tokio::test]
async fn a_deleted_registry_leaves_nothing() {
    let scene = scene().await;
    let server = &scene.server;
    let teams = scene.teams(3).await;
    registries::delete(server, "acme").await;
    for team in &teams {
        is_clear(server, team).await;
    }
    let own: Api<Secret> = server.of(SYSTEM_NAMESPACE);
    eventually(CONVERGENCE, "the credential is gone", async || {
        match own
            .get_opt("pullpass-credential-acme")
            .await
            .map_err(|error| error.to_string())?
        {
            None => Ok(()),
            Some(_) => Err("it is there".to_owned()),
        }
    })
    .await;
    assert!(
        own.get_opt("acme").await.unwrap().is_some(),
        "the source is the administrator's"
    );
}

#[tokio::test]
async fn edited_and_deleted_copies_are_repaired() {
    let scene = scene().await;
    let server = &scene.server;
    let team = scene.teams(1).await.remove(0);
    let copies_api = scene.secrets(&team);
    let original = scene.has_password(&team, "first").await;
    let edits = [
        json!({"data": {".dockerconfigjson": base64(r#"{"auths":{"evil.example.com":{}}}"#)}}),
        json!({"data": {"more": base64("x")}}),
        json!({"metadata": {"labels": {"stray": "label"}}}),
        json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "somebody"}}}),
        json!({"metadata": {"annotations": {"stray": "annotation"}}}),
    ];
    for edit in edits {
        let edited = copies_api
            .patch(PULL_SECRET, &PatchParams::default(), &Patch::Merge(&edit))
            .await
            .unwrap();
        assert_eq!(uid(&edited), uid(&original));
        eventually(CONVERGENCE, "the copy is as it was", async || {
            let copy = copies_api
                .get(PULL_SECRET)
                .await
                .map_err(|error| error.to_string())?;
            let same = copy.data == original.data
                && copy.metadata.labels == original.metadata.labels
                && copy.annotations().is_empty()
                && uid(&copy) == uid(&original);
            if same {
                Ok(())
            } else {
                Err(format!("{edit}: {:?}", copy.metadata))
            }
        })
        .await;
    }
    copies_api
        .delete(PULL_SECRET, &DeleteParams::default())
        .await
        .unwrap();
    scene.has_password(&team, "first").await;
    let accesses: Api<PullAccess> = server.of(&team);
    accesses
        .delete("pullpass", &DeleteParams::default())
        .await
        .unwrap();
    has_state(server, &team, "Written/Written").await;
    let patch = Patch::Merge(json!({"secret": {"state": "Blocked"}, "registries": []}));
    accesses
        .patch("pullpass", &PatchParams::default(), &patch)
        .await
        .unwrap();
    has_state(server, &team, "Written/Written").await;
}

/// A good source, a bad one in its place, and the reason that the Registry gives.
async fn keeps_the_last_good(auth: Value, good: Secret, bad: Vec<(Secret, &str)>) {
    let server = lease().await;
    server.apply_chart().await;
    registries::write_secret(&server, &good).await;
    let spec =
        json!({"host": HOST, "auth": auth, "access": {"namespaces": {"include": ["team*"]}}});
    registries::create(&server, &registries::with_spec("acme", &spec)).await;
    let _controller = server.start_controller("one", &[]).await;
    let team = server.namespace("team").await;
    let original = has_login(&server, &team, HOST, "user", "first").await;
    has_condition(&server, "acme", "Ready", "True/Synced").await;
    let sources: Api<Secret> = server.of(SYSTEM_NAMESPACE);
    let now = DeleteParams::default();
    for (bad, reason) in bad {
        // a Secret's type cannot be changed
        sources.delete("acme", &now).await.unwrap();
        registries::write_secret(&server, &bad).await;
        has_condition(
            &server,
            "acme",
            "CredentialsReady",
            &format!("False/{reason}"),
        )
        .await;
        has_condition(&server, "acme", "Ready", "False/KeepingLastGood").await;
        let kept = copies::secret(&server, &team).await.unwrap();
        assert_eq!(
            kept.metadata.resource_version, original.metadata.resource_version,
            "{reason}"
        );
    }
    sources.delete("acme", &now).await.unwrap();
    has_condition(&server, "acme", "CredentialsReady", "False/SourceMissing").await;
    let kept = copies::secret(&server, &team).await.unwrap();
    assert_eq!(
        kept.metadata.resource_version, original.metadata.resource_version,
        "without a source"
    );
    // a namespace that is new now gets the last good
    let late = server.namespace("team-late").await;
    has_login(&server, &late, HOST, "user", "first").await;
    registries::write_secret(&server, &good).await;
    has_condition(&server, "acme", "Ready", "True/Synced").await;
}

#[tokio::test]
async fn a_bad_user_or_password_keeps_the_last_good() {
    let opaque = |data: &[(&str, &str)]| secret("acme", "Opaque", data);
    keeps_the_last_good(
        json!({"basic": {"secretRef": {"name": "acme"}}}),
        opaque(&[("username", "user"), ("password", "first")]),
        vec![
            (opaque(&[("username", "user")]), "SourceKeyMissing"),
            (opaque(&[("password", "first")]), "SourceKeyMissing"),
            (opaque(&[]), "SourceKeyMissing"),
            (
                opaque(&[("username", ""), ("password", "")]),
                "EmptyCredential",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_bad_docker_config_keeps_the_last_good() {
    let typed = |config: &str| {
        secret(
            "acme",
            "kubernetes.io/dockerconfigjson",
            &[(".dockerconfigjson", config)],
        )
    };
    let entry = |host: &str, auth: &str| json!({"auths": {host: {"auth": auth}}}).to_string();
    let opaque = |config: &str| secret("acme", "Opaque", &[(".dockerconfigjson", config)]);
    let mut binary = opaque("");
    binary.data = Some(
        [(
            ".dockerconfigjson".to_owned(),
            ByteString(vec![0xff, 0xfe, 0x00]),
        )]
        .into(),
    );
    keeps_the_last_good(
        json!({"dockerConfig": {"secretRef": {"name": "acme"}}}),
        typed(&entry(HOST, &base64("user:first"))),
        vec![
            (opaque("{"), "MalformedSource"),
            (opaque(""), "MalformedSource"),
            (opaque("[]"), "MalformedSource"),
            (binary, "MalformedSource"),
            (typed(&entry(HOST, "%%%")), "MalformedSource"),
            (
                typed(&entry(HOST, &base64("without a colon"))),
                "MalformedSource",
            ),
            (
                typed(&entry("other.example.com", &base64("user:first"))),
                "NoMatchingEntry",
            ),
            (typed(r#"{"auths":{}}"#), "NoMatchingEntry"),
            (
                secret("acme", "Opaque", &[("config", "{}")]),
                "SourceKeyMissing",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_registry_that_never_had_a_credential_holds_nobody_up() {
    let scene = scene().await;
    let server = &scene.server;
    registries::create(
        server,
        &registries::private("broken", "broken.example.com", &["team*", "lonely*"]),
    )
    .await;
    has_condition(
        server,
        "broken",
        "CredentialsReady",
        "Unknown/SourceMissing",
    )
    .await;
    let team = scene.teams(1).await.remove(0);
    let access = serde_json::to_value(copies::access(server, &team).await.unwrap()).unwrap();
    let told: Vec<_> = access["registries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (&entry["name"], &entry["state"]))
        .collect();
    assert!(
        told.contains(&(&json!("broken"), &json!("Unavailable"))),
        "{told:?}"
    );
    assert!(
        told.contains(&(&json!("acme"), &json!("Available"))),
        "{told:?}"
    );
    let lonely = server.namespace("lonely").await;
    eventually(CONVERGENCE, "the lonely namespace is told", async || {
        let access = copies::access(server, &lonely)
            .await
            .ok_or("no PullAccess")?;
        let told = serde_json::to_value(&access.spec.secret).unwrap();
        if told["state"] == "Blocked" {
            Ok(())
        } else {
            Err(told.to_string())
        }
    })
    .await;
    assert!(copies::secret(server, &lonely).await.is_none());
    registries::write_source(server, "broken", "b", "b").await;
    has_login(server, &lonely, "broken.example.com", "b", "b").await;
}

#[tokio::test]
async fn a_foreign_secret_of_our_name_stays_as_it_is() {
    let scene = scene_without_policy().await;
    let server = &scene.server;
    let config = r#"{"auths":{"own.example.com":{"auth":"b3duOm93bg=="}}}"#;
    let mut forged_label = secret(
        PULL_SECRET,
        "kubernetes.io/dockerconfigjson",
        &[(".dockerconfigjson", config)],
    );
    forged_label.metadata.labels = Some(strings(&[("pullpass.dev/copy", "true")]));
    let mut forged_both = secret(PULL_SECRET, "Opaque", &[("password", "own")]);
    forged_both.metadata.labels = Some(strings(&[("pullpass.dev/copy", "true")]));
    let foreign = [
        (
            secret(PULL_SECRET, "Opaque", &[("password", "own")]),
            "kubectl",
        ),
        (
            secret(
                PULL_SECRET,
                "kubernetes.io/dockerconfigjson",
                &[(".dockerconfigjson", config)],
            ),
            "kubectl",
        ),
        (
            secret(
                PULL_SECRET,
                "kubernetes.io/dockercfg",
                &[(".dockercfg", "{}")],
            ),
            "kubectl",
        ),
        (
            secret(
                PULL_SECRET,
                "kubernetes.io/basic-auth",
                &[("username", "own"), ("password", "own")],
            ),
            "kubectl",
        ),
        (
            secret(
                PULL_SECRET,
                "kubernetes.io/ssh-auth",
                &[("ssh-privatekey", "own")],
            ),
            "kubectl",
        ),
        (
            secret(
                PULL_SECRET,
                "kubernetes.io/tls",
                &[("tls.crt", ""), ("tls.key", "")],
            ),
            "kubectl",
        ),
        (
            secret(PULL_SECRET, "example.com/any", &[("any", "own")]),
            "kubectl",
        ),
        (forged_label, "kubectl"),
        // a manager's name is as easily forged
        (
            secret(
                PULL_SECRET,
                "kubernetes.io/dockerconfigjson",
                &[(".dockerconfigjson", config)],
            ),
            "pullpass-controller",
        ),
        // and with both, the wrong type shows that it is not ours
        (forged_both, "pullpass-controller"),
    ];
    let mut namespaces = Vec::new();
    for (foreign, manager) in &foreign {
        let namespace = server
            .namespace_with("team", &[("pullpass.dev/inject", "false")])
            .await;
        let apply = PatchParams::apply(manager);
        let made = scene
            .secrets(&namespace)
            .patch(PULL_SECRET, &apply, &Patch::Apply(foreign))
            .await
            .unwrap();
        namespaces.push((namespace, made));
    }
    // the controller has seen them all when it has seen what came after
    let after = scene.teams(1).await.remove(0);
    scene
        .secrets(&after)
        .delete(PULL_SECRET, &DeleteParams::default())
        .await
        .unwrap();
    scene.has_password(&after, "first").await;
    for (namespace, _) in &namespaces {
        label(server, namespace, json!({"pullpass.dev/inject": null})).await;
    }
    // nobody else is delayed
    scene.teams(2).await;
    for (namespace, made) in &namespaces {
        has_state(server, namespace, "Blocked/ForeignSecret").await;
        let now = copies::secret(server, namespace).await.unwrap();
        assert_eq!(
            now.metadata.resource_version, made.metadata.resource_version,
            "{:?}",
            made.type_
        );
    }
    has_condition(server, "acme", "Distributed", "False/SomeNamespacesFailed").await;
    let (namespace, _) = &namespaces[0];
    let events: Api<Event> = server.of(namespace);
    eventually(CONVERGENCE, "an event tells", async || {
        let all = events
            .list(&ListParams::default())
            .await
            .map_err(|error| error.to_string())?;
        let reasons: Vec<_> = all
            .iter()
            .map(|event| event.reason.clone().unwrap_or_default())
            .collect();
        if reasons.iter().any(|reason| reason == "ForeignSecret") {
            Ok(())
        } else {
            Err(format!("{reasons:?}"))
        }
    })
    .await;
    // once it is gone, ours comes
    scene
        .secrets(namespace)
        .delete(PULL_SECRET, &DeleteParams::default())
        .await
        .unwrap();
    scene.has_password(namespace, "first").await;
    // and deleting the Registry takes no foreign Secret along
    registries::delete(server, "acme").await;
    is_clear(server, namespace).await;
    for (namespace, made) in namespaces.iter().skip(1) {
        eventually(
            CONVERGENCE,
            "the PullAccess goes",
            async || match copies::access(server, namespace).await {
                None => Ok(()),
                Some(_) => Err("it is there"),
            },
        )
        .await;
        let now = copies::secret(server, namespace).await.unwrap();
        assert_eq!(now.metadata.uid, made.metadata.uid);
    }
}

#[tokio::test]
async fn an_immutable_copy_is_made_again_when_it_has_to_change() {
    let scene = scene_without_policy().await;
    let teams = scene.teams(2).await;
    let immutable = Patch::Merge(json!({"immutable": true}));
    scene
        .secrets(&teams[0])
        .patch(PULL_SECRET, &PatchParams::default(), &immutable)
        .await
        .unwrap();
    registries::write_source(&scene.server, "acme", "user", "second").await;
    for team in &teams {
        scene.has_password(team, "second").await;
        has_state(&scene.server, team, "Written/Written").await;
    }
    scene.is_settled().await;
}

#[tokio::test]
async fn a_quota_is_a_state_that_ends_with_it() {
    let scene = scene().await;
    let server = &scene.server;
    let crowded = server
        .namespace_with("team", &[("pullpass.dev/inject", "false")])
        .await;
    let quotas: Api<ResourceQuota> = server.of(&crowded);
    let quota = serde_json::from_value(json!({"apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": {"name": "secrets"}, "spec": {"hard": {"count/secrets": "0"}}}))
    .unwrap();
    quotas.create(&PostParams::default(), &quota).await.unwrap();
    eventually(CONVERGENCE, "the quota is counted", async || {
        let status = quotas
            .get("secrets")
            .await
            .map_err(|error| error.to_string())?
            .status;
        status
            .and_then(|status| status.used)
            .map(drop)
            .ok_or("not yet".to_owned())
    })
    .await;
    label(server, &crowded, json!({"pullpass.dev/inject": null})).await;
    has_state(server, &crowded, "Blocked/QuotaExceeded").await;
    scene.teams(1).await;
    quotas
        .delete("secrets", &DeleteParams::default())
        .await
        .unwrap();
    // tried again after a backoff, since a quota is nothing that the controller watches
    eventually(Duration::from_secs(120), "the Secret comes", async || {
        copies::secret(server, &crowded)
            .await
            .map(drop)
            .ok_or("no Secret")
    })
    .await;
    has_state(server, &crowded, "Written/Written").await;
}

#[tokio::test]
async fn a_namespace_that_cannot_end_keeps_no_credential_and_delays_nobody() {
    let scene = scene().await;
    let server = &scene.server;
    let ending = scene.teams(1).await.remove(0);
    let maps: Api<ConfigMap> = server.of(&ending);
    let mut held = ConfigMap {
        metadata: named("held"),
        ..ConfigMap::default()
    };
    held.metadata.finalizers = Some(vec!["example.com/hold".into()]);
    maps.create(&PostParams::default(), &held).await.unwrap();
    let namespaces: Api<Namespace> = server.all();
    namespaces
        .delete(&ending, &DeleteParams::default())
        .await
        .unwrap();
    eventually(CONVERGENCE, "the copy is gone", async || {
        copies::secret(server, &ending)
            .await
            .is_none()
            .then_some(())
            .ok_or("it is there")
    })
    .await;
    scene.teams(2).await;
    registries::write_source(server, "acme", "user", "second").await;
    scene.is_settled().await;
    assert!(
        namespaces
            .get(&ending)
            .await
            .unwrap()
            .metadata
            .deletion_timestamp
            .is_some(),
        "it is still ending"
    );
}

#[tokio::test]
async fn a_finalizer_holds_the_object_and_not_the_credential() {
    let scene = scene_without_policy().await;
    let server = &scene.server;
    let team = scene.teams(1).await.remove(0);
    let hold = Patch::Merge(json!({"metadata": {"finalizers": ["example.com/hold"]}}));
    scene
        .secrets(&team)
        .patch(PULL_SECRET, &PatchParams::default(), &hold)
        .await
        .unwrap();
    registries::delete(server, "acme").await;
    eventually(CONVERGENCE, "what is held is empty", async || {
        let copy = copies::secret(server, &team).await.ok_or("it is gone")?;
        let config = docker_config(&copy);
        if copy.metadata.deletion_timestamp.is_some() && config == json!({"auths": {}}) {
            Ok(())
        } else {
            Err(format!("{:?}", copy.metadata))
        }
    })
    .await;
}

#[tokio::test]
async fn a_false_owner_takes_the_copy_along_only_for_a_moment() {
    let scene = scene().await;
    let team = scene.teams(1).await.remove(0);
    let owned = Patch::Merge(
        json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap",
        "name": "never-there", "uid": "6d0e6f0a-0000-4000-8000-000000000000"}]}}),
    );
    scene
        .secrets(&team)
        .patch(PULL_SECRET, &PatchParams::default(), &owned)
        .await
        .unwrap();
    eventually(
        CONVERGENCE,
        "the copy is there without an owner",
        async || {
            let copy = copies::secret(&scene.server, &team)
                .await
                .ok_or("it is gone".to_owned())?;
            if copy.owner_references().is_empty() {
                Ok(())
            } else {
                Err(format!("{:?}", copy.owner_references()))
            }
        },
    )
    .await;
    stays(LONG_ENOUGH, "the copy is there", async || {
        copies::secret(&scene.server, &team)
            .await
            .map(drop)
            .ok_or("it is gone")
    })
    .await;
    scene.has_password(&team, "first").await;
}

#[tokio::test]
async fn a_restart_writes_nothing() {
    let scene = scene().await;
    scene.teams(5).await;
    scene.is_settled().await;
    scene.controller.terminate().await;
    let audit = scene.server.audit();
    let _next = scene.server.start_controller("two", &[]).await;
    // a new namespace shows that it is at work; its own and the count in the status are all that is written
    let late = scene.server.namespace("team-late").await;
    has_login(&scene.server, &late, HOST, "user", "first").await;
    has_state(&scene.server, &late, "Written/Written").await;
    stays(LONG_ENOUGH, "nothing else is written", async || {
        let writes: Vec<_> = controllers_writes(&audit)
            .into_iter()
            .filter(|entry| entry.namespace() != late && entry.resource() != "registries/status")
            .collect();
        if writes.is_empty() {
            Ok(())
        } else {
            Err(summaries(&writes).join(", "))
        }
    })
    .await;
}

#[tokio::test]
async fn what_happened_while_no_controller_ran_is_made_up_for() {
    let scene = scene().await;
    let server = &scene.server;
    let teams = scene.teams(3).await;
    scene.is_settled().await;
    scene.controller.kill();
    registries::write_source(server, "acme", "user", "second").await;
    label(server, &teams[0], json!({"pullpass.dev/inject": "false"})).await;
    scene_secret(server, &teams[1])
        .delete(PULL_SECRET, &DeleteParams::default())
        .await
        .unwrap();
    let late = server.namespace("team-late").await;
    let _next = server.start_controller("two", &[]).await;
    for team in [&teams[1], &teams[2], &late] {
        has_login(server, team, HOST, "user", "second").await;
    }
    is_clear(server, &teams[0]).await;
}

fn scene_secret(server: &Lease, namespace: &str) -> Api<Secret> {
    server.of(namespace)
}

#[tokio::test]
async fn without_the_definition_everything_is_left_as_it_is() {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    let scene = scene().await;
    let server = &scene.server;
    let teams = scene.teams(2).await;
    scene.is_settled().await;
    scene.controller.kill();
    let definitions: Api<CustomResourceDefinition> = server.all();
    definitions
        .delete("registries.pullpass.dev", &DeleteParams::default())
        .await
        .unwrap();
    eventually(
        CONVERGENCE,
        "the definition is gone",
        async || match definitions
            .get_opt("registries.pullpass.dev")
            .await
            .map_err(|error| error.to_string())?
        {
            None => Ok(()),
            Some(_) => Err("it is there".to_owned()),
        },
    )
    .await;
    let audit = server.audit();
    let blind = server.start_controller_unready("two", &[]).await;
    let user = service_account_user(SYSTEM_NAMESPACE, "pullpass-controller");
    eventually(
        CONVERGENCE,
        "the controller has asked for Registries",
        async || {
            let asked = audit.entries().into_iter().any(|entry| {
                entry.user.username == user
                    && entry.request_uri.contains("/registries")
                    && !entry.succeeded()
            });
            if asked { Ok(()) } else { Err("not yet") }
        },
    )
    .await;
    stays(LONG_ENOUGH, "nothing is written", async || {
        let writes = controllers_writes(&audit);
        if writes.is_empty() {
            Ok(())
        } else {
            Err(summaries(&writes).join(", "))
        }
    })
    .await;
    assert!(
        blind.context().readiness.check().is_err(),
        "it says that it is not ready"
    );
    for team in &teams {
        has_login(server, team, HOST, "user", "first").await;
    }
}

#[tokio::test]
async fn a_docker_config_without_a_host_gives_every_entry() {
    let server = lease().await;
    server.apply_chart().await;
    let config = json!({"auths": {
        HOST: {"auth": base64("user:first")},
        "https://index.docker.io/v1/": {"username": "hub", "password": "hub"},
    }});
    registries::write_secret(
        &server,
        &secret("all", "Opaque", &[("config", &config.to_string())]),
    )
    .await;
    let spec = json!({
        "auth": {"dockerConfig": {"secretRef": {"name": "all"}, "key": "config"}},
        "access": {"namespaces": {"include": ["team*"]}},
    });
    registries::create(&server, &registries::with_spec("all", &spec)).await;
    let _controller = server.start_controller("one", &[]).await;
    let team = server.namespace("team").await;
    has_login(&server, &team, HOST, "user", "first").await;
    has_login(&server, &team, "https://index.docker.io/v1/", "hub", "hub").await;
}

#[tokio::test]
async fn a_system_namespace_is_selected_only_where_it_is_named() {
    let server = lease().await;
    server.apply_chart().await;
    registries::write_source(&server, "acme", "user", "first").await;
    registries::create(&server, &registries::private("acme", HOST, &["*"])).await;
    let _controller = server
        .start_controller("one", &["--system-namespaces=kube-public"])
        .await;
    has_login(&server, "kube-public", HOST, "user", "first").await;
    has_login(&server, "default", HOST, "user", "first").await;
    has_condition(&server, "acme", "Ready", "True/Synced").await;
    for closed in ["kube-system", "kube-node-lease", SYSTEM_NAMESPACE] {
        assert!(copies::access(&server, closed).await.is_none(), "{closed}");
    }
    for closed in ["kube-system", "kube-node-lease"] {
        assert!(copies::secret(&server, closed).await.is_none(), "{closed}");
    }
}

#[tokio::test]
async fn a_registry_for_some_clusters_needs_to_know_which_this_is() {
    let server = lease().await;
    server.apply_chart().await;
    registries::write_source(&server, "acme", "user", "first").await;
    let mut limited = serde_json::to_value(registries::private("acme", HOST, &["team*"])).unwrap();
    limited["spec"]["access"]["clusters"] =
        json!({"autoInject": ["production-*"], "doNotInject": ["production-test"]});
    registries::create(&server, &serde_json::from_value(limited).unwrap()).await;
    let team = server.namespace("team").await;
    let nameless = server.start_controller("nameless", &[]).await;
    has_condition(&server, "acme", "Ready", "False/ClusterNameUnset").await;
    nameless.terminate().await;
    for (name, reason) in [
        ("staging", "True/ClusterNotSelected"),
        ("production-test", "True/ClusterExcluded"),
    ] {
        let controller = server
            .start_controller(name, &["--cluster-name", name])
            .await;
        has_condition(&server, "acme", "Distributed", reason).await;
        assert!(copies::secret(&server, &team).await.is_none(), "{name}");
        controller.terminate().await;
    }
    let _controller = server
        .start_controller("eu", &["--cluster-name=production-eu"])
        .await;
    has_login(&server, &team, HOST, "user", "first").await;
}
