//! Installers and builders log in with the docker config in Pullpass's own namespace.

use std::path::{Path, PathBuf};
use std::process::Output;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::DeleteParams;
use pullpass_harness::objects::{PULL_SECRET, SYSTEM_NAMESPACE};
use pullpass_harness::{Full, name, shared};
use pullpass_suites::copies::{docker_config, has_login};
use pullpass_suites::{pods, registries};
use serde_json::json;
use tokio::process::Command;

use crate::scene::Scene;

/// The files of one builder, which are gone with it.
struct Workshop(PathBuf);

impl Workshop {
    fn open() -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name::unique("builder"));
        std::fs::create_dir_all(directory.join("context")).unwrap();
        Self(directory)
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Builds an image upon `base`, with nothing of the machine's own logins.
    async fn build(&self, cluster: &Full, base: &str, authfile: Option<&Path>) -> Output {
        let containerfile = format!("FROM {base}\nLABEL built=here\n");
        let containerfile = self.write("context/Containerfile", containerfile);
        let mut buildah = Command::new("buildah");
        buildah
            .env("HOME", &self.0)
            .env("XDG_RUNTIME_DIR", &self.0)
            .env_remove("REGISTRY_AUTH_FILE")
            .env_remove("DOCKER_CONFIG")
            .arg("--root")
            .arg(self.0.join("storage"))
            .arg("--runroot")
            .arg(self.0.join("run"))
            .args(["--storage-driver", "vfs", "build", "--isolation", "chroot"]);
        if let Some(authority) = cluster.registry().authority() {
            let authority = std::fs::read(authority).unwrap();
            let certificates = self.write("certificates/ca.crt", authority);
            buildah
                .arg("--cert-dir")
                .arg(certificates.parent().unwrap());
        }
        if let Some(authfile) = authfile {
            buildah.arg("--authfile").arg(authfile);
        }
        buildah
            .args(["--tag", "built", "--file"])
            .arg(containerfile)
            .arg(self.0.join("context"))
            .output()
            .await
            .expect("buildah starts: run tests/prerequisites")
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_builder_pulls_a_private_base_image() {
    let scene = Scene::on(shared().await).await;
    // other tests have older Registries for the same host, and one run after another has this one
    let latest = i32::try_from(jiff::Timestamp::now().as_second()).unwrap();
    registries::patch(&scene.cluster, &scene.name, &json!({"priority": latest})).await;
    let secret = scene.has_login(SYSTEM_NAMESPACE).await;
    let base = scene.image().await;
    let workshop = Workshop::open();
    let config = docker_config(&secret).to_string();
    let authfile = workshop.write("login/config.json", config);

    let stranger = workshop.build(&scene.cluster, &base, None).await;
    assert!(!stranger.status.success());
    let refusal = told(&stranger);
    assert!(
        refusal.contains("unauthorized") || refusal.contains("authentication required"),
        "{refusal}"
    );
    // kubelet would take this key, and builders do not, which the documentation tells
    let rest: String = scene.host().chars().skip(1).collect();
    let wildcard = format!("*{rest}");
    let entry = &docker_config(&secret)["auths"][scene.host()];
    let wildcard = json!({"auths": {wildcard: entry}}).to_string();
    let wildcard = workshop.write("wildcard/config.json", wildcard);
    let unknowing = workshop.build(&scene.cluster, &base, Some(&wildcard)).await;
    assert!(!unknowing.status.success());
    let built = workshop.build(&scene.cluster, &base, Some(&authfile)).await;
    assert!(built.status.success(), "{}", told(&built));
}

#[tokio::test]
async fn an_installer_in_the_own_namespace_pulls_and_mounts_it() {
    let scene = Scene::on(shared().await).await;
    // a part of the registry that no other test has to do with
    let own = format!("{}/{}", scene.host(), scene.name);
    registries::patch(&scene.cluster, &scene.name, &json!({"host": own})).await;
    let (user, password) = (&scene.user.name, &scene.user.password);
    has_login(&scene.cluster, SYSTEM_NAMESPACE, &own, user, password).await;
    let image = scene
        .cluster
        .push_image(&format!("{}/installer", scene.name))
        .await;
    let name = name::unique("installer");
    let mut manifest = pods::manifest(&name, &image);
    manifest["spec"]["imagePullSecrets"] = json!([{"name": PULL_SECRET}]);
    // kubelet starts no container for which the key is missing
    manifest["spec"]["volumes"] = json!([{"name": "login", "secret": {
        "secretName": PULL_SECRET,
        "items": [{"key": ".dockerconfigjson", "path": "config.json"}],
    }}]);
    manifest["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "login", "mountPath": "/login", "readOnly": true}]);
    scene.create(SYSTEM_NAMESPACE, &pods::from(&manifest)).await;
    scene.runs(SYSTEM_NAMESPACE, &name).await;
    let pods: Api<Pod> = scene.cluster.of(SYSTEM_NAMESPACE);
    pods.delete(&name, &DeleteParams::default()).await.unwrap();
}
