//! The node agent against a real API server, as its own account with a token of a pod, inside the fence, on a directory that
//! looks like a kubelet's.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Secret};
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use pullpass_api::NodePullAccess;
use pullpass_api::node_pull_access::NodeState;
use pullpass_core::bundle::{
    BUNDLE_KEY, BUNDLE_SECRET_TYPE, Bundle, BundleRegistry, KUBELET_CACHE, NODE_WIDE_SECRET,
};
use pullpass_core::docker_config::{Entries, Login};
use pullpass_core::key::RegistryKey;
use pullpass_harness::daemons::Daemon;
use pullpass_harness::objects::{base64, named};
use pullpass_harness::{Lease, eventually, lease, name};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

const NAMESPACE: &str = "pullpass-nodes";
const AGENT: &str = "pullpass-node-agent";
const NODE: &str = "node-a";
const HOST: &str = "registry.example.com";

/// An administrator's docker config.
const FOREIGN: &str = "{\n\t\"auths\": {\"admin.example.com\": {\"auth\": \"YWRtaW46cA==\"}}\n}\n";

/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(30);

struct Scene {
    server: Lease,
    host: PathBuf,
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.host);
    }
}

impl Scene {
    async fn new() -> Self {
        let server = lease().await;
        server.apply_chart_with(&["nodeAgent.enabled=true"]).await;
        let host = std::env::temp_dir().join(name::unique("node"));
        fs::create_dir_all(host.join("var/lib/kubelet/pods")).unwrap();
        Self { server, host }
    }

    async fn start(&self) -> Daemon {
        self.server.start_node_agent(NODE, &self.host, &[]).await
    }

    fn config(&self) -> PathBuf {
        self.host.join("var/lib/kubelet/config.json")
    }

    async fn write(&self, content: &[u8]) {
        let secrets: Api<Secret> = self.server.of(NAMESPACE);
        let secret = Secret {
            metadata: named(NODE_WIDE_SECRET),
            type_: Some(BUNDLE_SECRET_TYPE.to_owned()),
            data: Some([(BUNDLE_KEY.to_owned(), ByteString(content.to_vec()))].into()),
            ..Secret::default()
        };
        let manager = PatchParams::apply("pullpass-tests").force();
        secrets
            .patch(NODE_WIDE_SECRET, &manager, &Patch::Apply(secret))
            .await
            .unwrap();
    }

    async fn write_bundle(&self, generation: u64, password: &str) {
        let login = Login::new("user".into(), password.into()).unwrap();
        let registry = BundleRegistry {
            name: "acme".into(),
            priority: 0,
            created: 0,
            access: None,
            entries: Entries::from([(RegistryKey::parse(HOST).unwrap(), login)]),
        };
        let bundle = Bundle {
            generation,
            registries: vec![registry],
            ..Bundle::default()
        };
        self.write(bundle.write().expose_secret()).await;
    }

    async fn withdraw(&self, generation: u64) {
        let bundle = Bundle {
            generation,
            withdrawn: true,
            ..Bundle::default()
        };
        self.write(bundle.write().expose_secret()).await;
    }

    /// Waits until the node tells this, and returns all that it tells.
    async fn tells(
        &self,
        state: NodeState,
        reason: &str,
        generation: Option<i64>,
    ) -> NodePullAccess {
        let api: Api<NodePullAccess> = self.server.of(NAMESPACE);
        let wanted = format!("{} {reason} {generation:?}", state.as_str());
        eventually(SOON, &wanted, async || {
            let found = api.get(NODE).await.map_err(|error| error.to_string())?;
            let held = found.spec.held.first().map(|held| held.generation);
            let told = format!(
                "{} {} {held:?}",
                found.spec.state.as_str(),
                found.spec.reason
            );
            if told == wanted {
                Ok(found)
            } else {
                Err(format!("{told}: {}", found.spec.message))
            }
        })
        .await
    }

    fn entry(&self) -> Option<Value> {
        let text = fs::read_to_string(self.config()).ok()?;
        let config: Value = serde_json::from_str(&text).expect("a whole file");
        config["auths"].get(HOST).cloned()
    }

    fn assert_delivered(&self, password: &str) {
        let auth = base64(format!("user:{password}"));
        assert_eq!(self.entry(), Some(json!({"auth": auth})));
    }
}

fn readiness(agent: &Daemon) -> String {
    match agent.context().readiness.check() {
        Ok(()) => "ready".to_owned(),
        Err(unready) => unready.to_string(),
    }
}

#[tokio::test]
async fn a_bundle_reaches_the_file_and_the_node_tells_of_it() {
    let scene = Scene::new().await;
    let agent = scene.start().await;
    scene.tells(NodeState::Pending, "BundleMissing", None).await;
    assert!(
        readiness(&agent).contains("BundleMissing"),
        "{}",
        readiness(&agent)
    );
    scene.write_bundle(7, "first").await;
    let told = scene.tells(NodeState::Ready, "Delivered", Some(7)).await;
    scene.assert_delivered("first");
    agent.ready().await;
    let since = told.spec.held[0].since.0;
    let effective = told.spec.effective_at.as_ref().unwrap().0;
    let cache = effective.duration_since(since);
    assert_eq!(
        cache.as_secs(),
        i64::try_from(KUBELET_CACHE.as_secs()).unwrap()
    );
    let nodes: Api<Node> = scene.server.all();
    let owners = told.owner_references();
    assert_eq!(owners.len(), 1, "it goes with its Node");
    assert_eq!(
        Some(&owners[0].uid),
        nodes.get(NODE).await.unwrap().uid().as_ref()
    );

    scene.write_bundle(8, "second").await;
    scene.tells(NodeState::Ready, "Delivered", Some(8)).await;
    scene.assert_delivered("second");

    // what cannot be read, and what is gone, takes nothing away
    scene.write(b"{}").await;
    scene
        .tells(NodeState::Ready, "BundleUnreadable", Some(8))
        .await;
    let secrets: Api<Secret> = scene.server.of(NAMESPACE);
    secrets
        .delete(NODE_WIDE_SECRET, &DeleteParams::default())
        .await
        .unwrap();
    scene
        .tells(NodeState::Ready, "BundleMissing", Some(8))
        .await;
    scene.assert_delivered("second");
    fs::remove_file(scene.config()).unwrap();
    eventually(SOON, "it is put right from memory", async || {
        scene.entry().ok_or("no entry")
    })
    .await;
    agent.ready().await;
}

#[tokio::test]
async fn what_is_withdrawn_leaves_the_node_as_it_was() {
    let scene = Scene::new().await;
    fs::write(scene.config(), FOREIGN).unwrap();
    scene.write_bundle(1, "first").await;
    let agent = scene.start().await;
    scene.tells(NodeState::Ready, "Delivered", Some(1)).await;
    scene.assert_delivered("first");
    scene.withdraw(2).await;
    scene
        .tells(NodeState::Withdrawn, "Withdrawn", Some(2))
        .await;
    assert_eq!(fs::read_to_string(scene.config()).unwrap(), FOREIGN);
    let names = fs::read_dir(scene.config().parent().unwrap())
        .unwrap()
        .count();
    assert_eq!(names, 2, "pods and config.json");
    agent.ready().await;
}

#[tokio::test]
async fn a_new_process_goes_on_where_the_last_one_was() {
    let scene = Scene::new().await;
    scene.write_bundle(1, "first").await;
    let agent = scene.start().await;
    let before = scene.tells(NodeState::Ready, "Delivered", Some(1)).await;
    agent.kill();
    let agent = scene.start().await;
    agent.ready().await;
    scene.write_bundle(2, "second").await;
    scene.tells(NodeState::Ready, "Delivered", Some(2)).await;
    agent.kill();
    let now = scene.tells(NodeState::Ready, "Delivered", Some(2)).await;
    let agent = scene.start().await;
    agent.ready().await;
    let after = scene.tells(NodeState::Ready, "Delivered", Some(2)).await;
    assert_eq!(now.spec.held, after.spec.held);
    assert_eq!(now.spec.effective_at, after.spec.effective_at);
    assert!(before.spec.held[0].since.0 <= now.spec.held[0].since.0);
}

#[tokio::test]
async fn an_edit_is_put_right_and_a_fight_is_told() {
    let scene = Scene::new().await;
    fs::write(scene.config(), FOREIGN).unwrap();
    scene.write_bundle(1, "first").await;
    let agent = scene.start().await;
    scene.tells(NodeState::Ready, "Delivered", Some(1)).await;
    agent.ready().await;
    // a program that knows nothing of us and writes its file whenever it has changed
    let contested = eventually(SOON, "it gives up", async || {
        if scene.entry().is_some() {
            let theirs = scene.host.join("theirs");
            fs::write(&theirs, FOREIGN).unwrap();
            fs::rename(&theirs, scene.config()).unwrap();
        }
        let text = readiness(&agent);
        if text.contains("NodeFileContested") {
            Ok(text)
        } else {
            Err(text)
        }
    })
    .await;
    assert!(contested.contains("/var/lib/kubelet"), "{contested}");
    scene
        .tells(NodeState::Blocked, "NodeFileContested", Some(1))
        .await;
    assert_eq!(fs::read_to_string(scene.config()).unwrap(), FOREIGN);
    let events: Api<Event> = scene.server.of("default");
    eventually(SOON, "an event about the Node says so", async || {
        let found = events
            .list(&kube::api::ListParams::default())
            .await
            .unwrap();
        let is_it = |event: &Event| {
            event.reason.as_deref() == Some("NodeFileContested")
                && event.involved_object.name.as_deref() == Some(NODE)
        };
        found.iter().any(is_it).then_some(()).ok_or("no such event")
    })
    .await;
    // a new credential is another matter
    scene.write_bundle(2, "second").await;
    scene.tells(NodeState::Ready, "Delivered", Some(2)).await;
    scene.assert_delivered("second");
}

#[tokio::test]
async fn where_a_platform_manages_the_file_nothing_is_written() {
    let scene = Scene::new().await;
    let definitions: Api<CustomResourceDefinition> = scene.server.all();
    let openshift: CustomResourceDefinition = serde_json::from_value(json!({
        "metadata": {"name": "machineconfigs.machineconfiguration.openshift.io"},
        "spec": {
            "group": "machineconfiguration.openshift.io",
            "names": {"kind": "MachineConfig", "plural": "machineconfigs"},
            "scope": "Cluster",
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}},
            }],
        },
    }))
    .unwrap();
    definitions
        .create(&PostParams::default(), &openshift)
        .await
        .unwrap();
    let client = scene.server.client();
    eventually(SOON, "the group is served", async || {
        let groups = client.list_api_groups().await.unwrap().groups;
        let is_it = groups
            .iter()
            .any(|group| group.name == "machineconfiguration.openshift.io");
        is_it.then_some(()).ok_or("no such group")
    })
    .await;
    fs::write(scene.config(), FOREIGN).unwrap();
    scene.write_bundle(1, "first").await;
    let agent = scene.start().await;
    scene
        .tells(NodeState::Blocked, "ManagedByPlatform", None)
        .await;
    assert!(readiness(&agent).contains("ManagedByPlatform"));
    assert_eq!(fs::read_to_string(scene.config()).unwrap(), FOREIGN);
    let ending = agent.terminate().await;
    assert_eq!(
        ending.to_string(),
        "everything finished",
        "it does not crash"
    );
}

#[tokio::test]
async fn an_unsuitable_node_is_told_and_heals_without_a_restart() {
    let scene = Scene::new().await;
    let pods = scene.host.join("var/lib/kubelet/pods");
    fs::remove_dir(&pods).unwrap();
    scene.write_bundle(1, "first").await;
    let agent = scene.start().await;
    let told = scene
        .tells(NodeState::Blocked, "NodePathMissing", None)
        .await;
    assert!(
        told.spec.message.contains("/var/lib/kubelet"),
        "{}",
        told.spec.message
    );
    assert!(readiness(&agent).contains("NodePathMissing"));
    assert!(!scene.config().exists());
    fs::create_dir(&pods).unwrap();
    scene.tells(NodeState::Ready, "Delivered", Some(1)).await;
    agent.ready().await;
}

async fn daemon_set(scene: &Scene, values: &[&str]) {
    let values = [&["nodeAgent.enabled=true"], values].concat();
    let rendered = scene.server.rendered_chart(&values).await;
    let set = rendered
        .iter()
        .find(|object| {
            object
                .types
                .as_ref()
                .is_some_and(|types| types.kind == "DaemonSet")
        })
        .expect("the chart has a DaemonSet");
    scene.server.apply(set).await;
}

#[tokio::test]
async fn an_agent_that_is_replaced_leaves_everything_and_one_that_is_removed_nothing() {
    let scene = Scene::new().await;
    daemon_set(&scene, &[]).await;
    scene.write_bundle(1, "first").await;
    let agent = scene.start().await;
    scene.tells(NodeState::Ready, "Delivered", Some(1)).await;
    agent.terminate().await;
    scene.assert_delivered("first");

    let agent = scene.start().await;
    agent.ready().await;
    let sets: Api<DaemonSet> = scene.server.of(NAMESPACE);
    let foreground = DeleteParams::foreground();
    sets.delete(AGENT, &foreground).await.unwrap();
    agent.terminate().await;
    assert!(!scene.config().exists(), "there was none before");
}

#[tokio::test]
async fn what_the_next_agent_will_not_reach_is_taken_along() {
    let scene = Scene::new().await;
    daemon_set(&scene, &[]).await;
    fs::write(scene.config(), FOREIGN).unwrap();
    scene.write_bundle(1, "first").await;
    let agent = scene.start().await;
    agent.ready().await;
    // the other mode looks after this file too
    daemon_set(&scene, &["nodeAgent.mode=credentialProvider"]).await;
    agent.terminate().await;
    scene.assert_delivered("first");

    let agent = scene.start().await;
    agent.ready().await;
    daemon_set(&scene, &["nodeAgent.dockerConfig.directory=/.docker"]).await;
    agent.terminate().await;
    assert_eq!(fs::read_to_string(scene.config()).unwrap(), FOREIGN);
}

/// Takes the agent's rights away, and waits until its account, by this client, has none.
async fn take_rights_away(scene: &Scene, account: &Client) {
    let parameters = DeleteParams::default();
    let of_cluster: Api<ClusterRoleBinding> = scene.server.all();
    of_cluster.delete(AGENT, &parameters).await.unwrap();
    let of_namespace: Api<RoleBinding> = scene.server.of(NAMESPACE);
    of_namespace.delete(AGENT, &parameters).await.unwrap();
    let sets: Api<DaemonSet> = Api::namespaced(account.clone(), NAMESPACE);
    eventually(SOON, "the agent may ask nothing", async || {
        match sets.get_opt(AGENT).await {
            // the account itself goes with its namespace
            Err(kube::Error::Api(status)) if [401, 403].contains(&status.code) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn an_agent_without_rights_goes_by_what_it_has_seen() {
    let scene = Scene::new().await;
    daemon_set(&scene, &[]).await;
    fs::write(scene.config(), FOREIGN).unwrap();
    scene.write_bundle(1, "first").await;
    let agent = scene.start().await;
    agent.ready().await;
    let account = scene.server.as_service_account(NAMESPACE, AGENT).await;
    take_rights_away(&scene, &account).await;
    agent.terminate().await;
    // nobody has said that the agents are to go
    scene.assert_delivered("first");

    scene
        .server
        .apply_chart_with(&["nodeAgent.enabled=true"])
        .await;
    let agent = scene.start().await;
    agent.ready().await;
    // as Helm does it
    let namespaces: Api<Namespace> = scene.server.all();
    let parameters = DeleteParams::default();
    namespaces.delete(NAMESPACE, &parameters).await.unwrap();
    take_rights_away(&scene, &account).await;
    agent.terminate().await;
    assert_eq!(fs::read_to_string(scene.config()).unwrap(), FOREIGN);
}
