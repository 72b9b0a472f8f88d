//! Real containerd and a registry with a private authority that nothing else on the node trusts: what the node agent writes
//! for the runtime, and that it is gone with the agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use kube::api::PostParams;
use pullpass_harness::objects::{SYSTEM_NAMESPACE, secret};
use pullpass_harness::{Exclusive, NODE_1, eventually, exclusive, name};
use pullpass_suites::copies::has_login;
use pullpass_suites::{pods, registries};
use serde_json::json;

use crate::scene::{POD, Scene, state};

/// How long Helm and the agents may take. Some seconds on an idle machine.
const ROLLED_OUT: Duration = Duration::from_secs(120);

/// What an administrator has written for a registry that nobody asks.
const FOREIGN: &str = "server = \"https://admin.invalid\"\n";

/// A registry that no name leads to.
const MIRRORED: &str = "registry.invalid";

/// Takes away what the cluster itself has told containerd about the registry, and gives it back in the end.
struct Untrusted {
    own: PathBuf,
    aside: PathBuf,
}

impl Untrusted {
    fn new(scene: &Scene<Exclusive>) -> Self {
        let cluster = scene.cluster.cluster();
        let own = cluster.registry_config(NODE_1, scene.host());
        let aside = cluster.directory().join("registry-config-aside");
        fs::rename(&own, &aside).unwrap();
        Self { own, aside }
    }
}

impl Drop for Untrusted {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.own);
        let _ = fs::rename(&self.aside, &self.own);
    }
}

async fn create(scene: &Scene<Exclusive>, namespace: &str) -> String {
    let image = scene.image().await;
    let name = name::unique("app");
    scene.create(namespace, &pods::pod(&name, &image)).await;
    name
}

async fn does_not_trust(scene: &Scene<Exclusive>, namespace: &str) {
    let name = create(scene, namespace).await;
    let all: Api<Pod> = scene.cluster.of(namespace);
    eventually(POD, "containerd does not know the authority", async || {
        let pod = all.get(&name).await.map_err(|error| error.to_string())?;
        let shown = serde_json::to_string(&pod.status).unwrap_or_default();
        if shown.contains("x509") && shown.contains("unknown authority") {
            Ok(())
        } else {
            Err(format!("{}: {shown}", state(&pod)))
        }
    })
    .await;
}

async fn pulls(scene: &Scene<Exclusive>, namespace: &str) {
    let name = create(scene, namespace).await;
    scene.runs(namespace, &name).await;
}

async fn file_says(file: &Path, wanted: &str) {
    eventually(ROLLED_OUT, "the node's file says so", async || {
        let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
        if text.contains(wanted) {
            Ok(())
        } else {
            Err(text)
        }
    })
    .await;
}

#[tokio::test]
async fn containerd_pulls_from_a_registry_that_nothing_else_on_the_node_trusts() {
    let scene = Scene::on(exclusive().await).await;
    let namespace = scene.namespace("a").await;
    let untrusted = Untrusted::new(&scene);
    let hosts = untrusted.own.join("hosts.toml");
    let foreign = untrusted.own.with_file_name("admin.invalid");
    fs::create_dir_all(&foreign).unwrap();
    fs::write(foreign.join("hosts.toml"), FOREIGN).unwrap();
    does_not_trust(&scene, &namespace).await;

    // the Registry says by which authority it is known
    let authority = fs::read_to_string(scene.cluster.registry().authority().unwrap()).unwrap();
    let secrets: Api<Secret> = scene.cluster.of(SYSTEM_NAMESPACE);
    let ca = format!("{}-ca", scene.name);
    let of_ca = secret(&ca, "Opaque", &[("ca.crt", &authority)]);
    secrets
        .create(&PostParams::default(), &of_ca)
        .await
        .unwrap();
    let tls = json!({"mode": "SecureWithCA", "caSecretRef": {"name": ca}});
    let connection = json!({"connection": {"tls": tls}});
    registries::patch(&scene.cluster, &scene.name, &connection).await;
    let values = [
        "nodeAgent.enabled=true",
        "nodeAgent.runtimeTrust.runtime=containerd",
    ];
    scene.cluster.upgrade_with(&values).await;
    file_says(&hosts, "ca = \"pullpass-ca.crt\"").await;
    pulls(&scene, &namespace).await;

    // as the mirror of a registry that is nowhere
    let mirrored = format!("{}-mirrored", scene.name);
    let mirrors = [format!("https://{}", scene.host())];
    let spec = json!({
        "host": MIRRORED,
        "auth": {"basic": {"secretRef": {"name": scene.name}}},
        "access": {"namespaces": {"include": [namespace]}},
        "connection": {"tls": tls, "mirrors": mirrors},
    });
    registries::create(&scene.cluster, &registries::with_spec(&mirrored, &spec)).await;
    let of_mirrored = untrusted.own.with_file_name(MIRRORED).join("hosts.toml");
    file_says(&of_mirrored, &mirrors[0]).await;
    has_login(
        &scene.cluster,
        &namespace,
        MIRRORED,
        &scene.user.name,
        &scene.user.password,
    )
    .await;
    let image = scene.image().await.replace(scene.host(), MIRRORED);
    let name = name::unique("app");
    scene.create(&namespace, &pods::pod(&name, &image)).await;
    scene.runs(&namespace, &name).await;
    registries::delete(&scene.cluster, &mirrored).await;

    // or that it need not be known
    let tls = json!({"mode": "Insecure", "caSecretRef": null});
    let connection = json!({"connection": {"tls": tls}});
    registries::patch(&scene.cluster, &scene.name, &connection).await;
    file_says(&hosts, "skip_verify = true").await;
    pulls(&scene, &namespace).await;
    assert!(!untrusted.own.join("pullpass-ca.crt").exists());

    // with the agent it goes
    scene.cluster.install().await;
    eventually(
        ROLLED_OUT,
        "what was written is gone",
        async || match fs::read_dir(&untrusted.own) {
            Ok(left) => Err(format!("{:?}", left.collect::<Vec<_>>())),
            Err(_) => Ok(()),
        },
    )
    .await;
    does_not_trust(&scene, &namespace).await;
    let left = fs::read_to_string(foreign.join("hosts.toml")).unwrap();
    assert_eq!(left, FOREIGN);
    fs::remove_dir_all(&foreign).unwrap();
    registries::delete(&scene.cluster, &scene.name).await;
    drop(untrusted);
    let parameters = kube::api::DeleteParams::default();
    secrets.delete(&ca, &parameters).await.unwrap();
}
