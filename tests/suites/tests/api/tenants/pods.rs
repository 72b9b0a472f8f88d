//! Pods that a tenant makes to be given more than is due, or to have the webhook do something else.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use pullpass_harness::attempt::Attempt;
use pullpass_harness::eventually;
use pullpass_harness::objects::PULL_SECRET;
use pullpass_suites::copies::{self, CONVERGENCE, has_state};
use pullpass_suites::pods::{from, manifest, pull_secrets};
use pullpass_suites::registries;
use pullpass_suites::tenants::tenant;
use serde_json::{Value, json};

use super::{IMAGE, OUTSIDE, OWN, Scene, VAULT_NAMESPACE, dry_run};

/// The usual pod, changed by a function.
fn pod(change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = manifest("probe", IMAGE);
    change(&mut pod);
    pod
}

fn with_list(names: &[String]) -> Value {
    pod(|pod| {
        pod["spec"]["imagePullSecrets"] = names.iter().map(|name| json!({"name": name})).collect()
    })
}

fn with_image(image: &str) -> Value {
    manifest("probe", image)
}

fn pods_path(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

impl Scene {
    /// The pull secrets of a pod that the attacker makes, without storing it.
    async fn names_for(&self, namespace: &str, pod: &Value) -> Result<Vec<String>, String> {
        let pods: Api<Pod> = Api::namespaced(self.mallory.clone(), namespace);
        let made = pods.create(&dry_run(), &from(pod)).await;
        made.map(|made| pull_secrets(&made))
            .map_err(|error| error.to_string())
    }
}

#[tokio::test]
async fn a_pod_gets_the_name_once_and_nothing_else() {
    let scene = Scene::new().await;
    let hundreds: Vec<String> = (0..500).map(|number| format!("own-{number}")).collect();
    let tricky: Vec<String> = [
        "../vault/pullpass",
        "vault/pullpass",
        "Pullpass",
        "pullpass ",
        "pullpass.",
        "pu\u{2060}llpass",
        "*",
        "%70ullpass",
    ]
    .map(str::to_owned)
    .into();
    let and_ours = |names: &[String]| [names, &[PULL_SECRET.to_owned()]].concat();
    let ours = || vec![PULL_SECRET.to_owned()];
    let ours_first = vec![PULL_SECRET.to_owned(), "mine".to_owned()];
    let many = pod(|pod| {
        let containers = pod["spec"]["containers"].as_array_mut().unwrap();
        for number in 0..300 {
            containers.push(json!({"name": format!("c{number}"), "image": IMAGE}));
        }
    });
    let huge = pod(|pod| {
        pod["metadata"]["annotations"] = json!({"example.com/huge": "x".repeat(250_000)})
    });
    let labelled =
        |value: &str| pod(|pod| pod["metadata"]["labels"] = json!({"pullpass.dev/inject": value}));
    let mirror = pod(|pod| {
        pod["metadata"]["annotations"] =
            json!({"kubernetes.io/config.mirror": "a", "kubernetes.io/config.source": "file"});
        pod["spec"]["nodeName"] = json!("node-1");
    });
    let marked = pod(|pod| {
        pod["metadata"]["annotations"] =
            json!({"pullpass.dev/registry": "vault", "pullpass.dev/namespace": VAULT_NAMESPACE});
        pod["metadata"]["labels"] =
            json!({"pullpass.dev/copy": "true", "app.kubernetes.io/part-of": "pullpass"});
    });
    let generated = pod(|pod| {
        pod["metadata"] = json!({"generateName": "a-", "ownerReferences": [{"apiVersion": "pullpass.dev/v1alpha1",
        "kind": "Registry", "name": "vault", "uid": "6d0e6f0a-0000-4000-8000-000000000000"}]})
    });
    for (what, namespace, pod, expected) in [
        (
            "names hundreds of pull secrets",
            OWN,
            with_list(&hundreds),
            and_ours(&hundreds),
        ),
        (
            "names others' Secrets by path, and look-alikes",
            OWN,
            with_list(&tricky),
            and_ours(&tricky),
        ),
        (
            "names ours first",
            OWN,
            with_list(&ours_first),
            ours_first.clone(),
        ),
        ("brings hundreds of containers", OWN, many, ours()),
        ("brings a huge annotation", OWN, huge, ours()),
        (
            "brings marks that look like ours",
            OWN,
            marked.clone(),
            ours(),
        ),
        ("lets the name be generated", OWN, generated, ours()),
        ("declines", OWN, labelled("false"), vec![]),
        ("declines in other words", OWN, labelled("False"), ours()),
        ("says that it is a static pod", OWN, mirror, vec![]),
        (
            "agrees where nothing selects",
            OUTSIDE,
            labelled("true"),
            vec![],
        ),
        ("brings the marks there", OUTSIDE, marked, vec![]),
        (
            "brings an image of the vault's host there",
            OUTSIDE,
            with_image("vault.example.com/a:1"),
            vec![],
        ),
        (
            "names ours where it is not",
            OUTSIDE,
            with_list(&ours()),
            ours(),
        ),
    ] {
        assert_eq!(
            scene.names_for(namespace, &pod).await.as_ref(),
            Ok(&expected),
            "{what}"
        );
    }
    assert!(copies::secret(&scene.server, OUTSIDE).await.is_none());

    let elsewhere = pod(|pod| pod["metadata"]["namespace"] = json!(VAULT_NAMESPACE));
    let another_account = pod(|pod| pod["spec"]["serviceAccountName"] = json!("../vault/default"));
    scene
        .ends_with(
            &[400, 403, 422],
            &[
                (
                    "says that it is in another namespace",
                    Attempt::post(pods_path(OWN), &elsewhere),
                ),
                (
                    "makes one there",
                    Attempt::post(pods_path(VAULT_NAMESPACE), &with_list(&ours())),
                ),
                (
                    "names an account of another namespace",
                    Attempt::post(pods_path(OWN), &another_account),
                ),
            ],
        )
        .await;
    scene.nothing_was_gained_or_broken().await;
}

#[tokio::test]
async fn what_is_decided_at_the_creation_stays() {
    let scene = Scene::new().await;
    let pods: Api<Pod> = Api::namespaced(scene.mallory.clone(), OUTSIDE);
    let made = pods
        .create(&PostParams::default(), &from(&manifest("probe", IMAGE)))
        .await
        .unwrap();
    assert!(pull_secrets(&made).is_empty());
    let one = format!("{}/probe", pods_path(OUTSIDE));
    let add = json!({"spec": {"imagePullSecrets": [{"name": PULL_SECRET}]}});
    scene
        .ends_with(
            &[422],
            &[(
                "adds the name to a pod that is there",
                Attempt::merge(&one, &add),
            )],
        )
        .await;
    let container = json!({"spec": {"ephemeralContainers": [{"name": "later", "image": "vault.example.com/a:1"}]}});
    let later = Attempt::merge(format!("{one}/ephemeralcontainers"), &container);
    scene
        .refuses(&[("adds a container with another's image", later.clone())])
        .await;
    let added = later.by(&scene.server.client()).await;
    assert!(
        added.succeeded(),
        "somebody with more rights may: {added:?}"
    );
    let mut changed = pods.get("probe").await.unwrap();
    changed.spec.as_mut().unwrap().containers[0].image = Some("vault.example.com/b:1".into());
    pods.replace("probe", &PostParams::default(), &changed)
        .await
        .expect("an image may be changed");
    scene
        .does(
            "labels the pod",
            &Attempt::merge(
                &one,
                &json!({"metadata": {"labels": {"pullpass.dev/inject": "true"}}}),
            ),
        )
        .await;
    assert!(pull_secrets(&pods.get("probe").await.unwrap()).is_empty());
    scene.nothing_was_gained_or_broken().await;
}

#[tokio::test]
async fn look_alike_hosts_are_no_match() {
    const NAMESPACE: &str = "matching";
    let scene = Scene::new().await;
    registries::write_source(&scene.server, "matching", "matching", "matching").await;
    let spec = json!({
        "host": "private.example.com/team",
        "auth": {"basic": {"secretRef": {"name": "matching"}}},
        "access": {"namespaces": {"include": [NAMESPACE]}},
        "injection": "WhenImageMatches",
    });
    registries::create(&scene.server, &registries::with_spec("matching", &spec)).await;
    scene.server.create_namespace(NAMESPACE, &[]).await;
    scene.server.has_account(NAMESPACE).await;
    has_state(&scene.server, NAMESPACE, "Written/Written").await;
    let mallory = tenant(&scene.server, OUTSIDE, "matcher", "edit", &[NAMESPACE]).await;
    let pods: Api<Pod> = Api::namespaced(mallory, NAMESPACE);
    let names = async |image: &str| {
        let made = pods.create(&dry_run(), &from(&with_image(image))).await;
        made.map(|made| pull_secrets(&made))
            .map_err(|error| error.to_string())
    };
    eventually(
        CONVERGENCE,
        "the registry's own images match",
        async || match names("private.example.com/team/app:1").await? {
            found if found == [PULL_SECRET] => Ok(()),
            found => Err(format!("{found:?}")),
        },
    )
    .await;
    for image in [
        "private.example.com.evil.example/team/app:1",
        "evil.example/private.example.com/team/app:1",
        "xprivate.example.com/team/app:1",
        "private-example.com/team/app:1",
        "privateXexample.com/team/app:1",
        "private.example.com:443/team/app:1",
        "private.example.com:5000/team/app:1",
        "private.example.com./team/app:1",
        "private.example.com@evil.example/team/app:1",
        "user:password@private.example.com/team/app:1",
        "https://private.example.com/team/app:1",
        "private.example.com%2fteam/app:1",
        "private.example.com/other/app:1",
        "private.example.com/Team/app:1",
        "private.example.com/other/../team/app:1",
        "private.example.com//team/app:1",
        "example.com/team/app:1",
        "com/team/app:1",
        "docker.io/private.example.com/team/app:1",
        "team/app:1",
        "priv\u{430}te.example.com/team/app:1",
        "[::1]/team/app:1",
    ] {
        match names(image).await {
            Ok(found) => assert!(found.is_empty(), "{image}: {found:?}"),
            // what is no image at all the API server may refuse
            Err(error) => assert!(error.contains("image"), "{image}: {error}"),
        }
    }
    scene.nothing_was_gained_or_broken().await;
}
