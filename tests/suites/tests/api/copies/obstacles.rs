//! What others do to copies, or put in their way.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, ResourceQuota};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use pullpass_api::PullAccess;
use pullpass_harness::objects::{PULL_SECRET, base64, named, secret, strings};
use pullpass_harness::{eventually, stays};
use pullpass_suites::copies::{self, CONVERGENCE, LONG_ENOUGH, docker_config, has_state, is_clear};
use pullpass_suites::registries::{self, has_condition};
use serde_json::json;

use super::{label, scene, scene_without_policy, uid};

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
