//! Public images beside private ones of the same host, in a namespace whose credential for the host is no good.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::PostParams;
use pullpass_harness::fake_hub::{FakeHub, PUBLIC};
use pullpass_harness::objects::secret;
use pullpass_harness::registry::User;
use pullpass_harness::{Shared, name, shared};
use pullpass_suites::copies::{self, docker_config, has_login};
use pullpass_suites::pods;
use pullpass_suites::registries::{self, has_condition};
use serde_json::json;

use crate::scene::Scene;

#[tokio::test]
async fn public_images_stay_pullable_beside_a_credential_that_is_no_good() {
    let scene = Scene::on(shared().await).await;
    let cluster = &scene.cluster;
    let fake = FakeHub::start(cluster, &scene.user).await;
    let own = async |repository: &str| {
        let repository = format!("{repository}/{}", name::unique("app"));
        cluster.push_image(&repository).await;
        format!("{}/{repository}:1", fake.host())
    };
    let namespace = scene.namespace("public").await;
    let registry = format!("{}-shared-host", scene.name);
    let with = |auth: serde_json::Value| {
        let spec = json!({
            "host": fake.host(),
            "auth": auth,
            "access": {"namespaces": {"include": [namespace]}},
        });
        registries::with_spec(&registry, &spec)
    };
    let basic = json!({"basic": {"secretRef": {"name": registry}}});
    let config = json!({"dockerConfig": {"secretRef": {"name": registry}, "key": "config"}});
    let undecodable = json!({"auths": {fake.host(): {"auth": "not base64"}}}).to_string();
    for (auth, source, reason) in [
        (
            &basic,
            &[("username", ""), ("password", "")][..],
            "EmptyCredential",
        ),
        (
            &config,
            &[("config", undecodable.as_str())][..],
            "MalformedSource",
        ),
    ] {
        registries::write_secret(cluster, &secret(&registry, "Opaque", source)).await;
        registries::create(cluster, &with(auth.clone())).await;
        has_condition(
            cluster,
            &registry,
            "CredentialsReady",
            &format!("False/{reason}"),
        )
        .await;
        // the namespace has its other credential, and nothing for this host
        let (host, user) = (scene.host(), &scene.user);
        has_login(cluster, &namespace, host, &user.name, &user.password).await;
        let copy = copies::secret(cluster, &namespace).await.unwrap();
        assert!(docker_config(&copy)["auths"].get(fake.host()).is_none());
        let public = own(PUBLIC).await;
        scene.pulls_image_at_once(&namespace, &public).await;
        registries::delete(cluster, &registry).await;
    }

    // what would have been, had it been handed out
    let wrong = User {
        name: scene.user.name.clone(),
        password: "wrong".to_owned(),
    };
    refuses(
        &scene,
        &namespace,
        &own(PUBLIC).await,
        &wrong.docker_config(fake.host()),
    )
    .await;

    let (name, password) = (&scene.user.name, &scene.user.password);
    registries::write_secret(
        cluster,
        &secret(
            &registry,
            "Opaque",
            &[("username", name), ("password", password)],
        ),
    )
    .await;
    registries::create(cluster, &with(basic)).await;
    has_login(cluster, &namespace, fake.host(), name, password).await;
    for repository in [PUBLIC, "private"] {
        let image = own(repository).await;
        scene.pulls_image_at_once(&namespace, &image).await;
    }
    registries::delete(cluster, &registry).await;
}

/// Waits until kubelet has failed to pull an image with a docker config of the pod's own.
async fn refuses(scene: &Scene<Shared>, namespace: &str, image: &str, config: &str) {
    let secrets: Api<Secret> = scene.cluster.of(namespace);
    let kind = "kubernetes.io/dockerconfigjson";
    let own = secret("own", kind, &[(".dockerconfigjson", config)]);
    secrets.create(&PostParams::default(), &own).await.unwrap();
    let name = name::unique("refused");
    let mut manifest = pods::manifest(&name, image);
    manifest["spec"]["imagePullSecrets"] = json!([{"name": "own"}]);
    scene.create(namespace, &pods::from(&manifest)).await;
    scene.is_refused(namespace, &name).await;
}
