//! The controller on a real API server, with its real rights and inside the fence: who gets which Secret, through every
//! change, and what becomes of it where something is wrong.

mod obstacles;
mod restarts;
mod selection;
mod sources;

use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::Api;
use kube::api::{Patch, PatchParams};
use pullpass_harness::daemons::Daemon;
use pullpass_harness::{Lease, lease};
use pullpass_suites::copies::{has_login, has_state};
use pullpass_suites::registries::{self, has_condition};
use serde_json::{Value, json};

pub(crate) const HOST: &str = "registry.example.com";

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
