//! The credential provider plugin in the hands of a real kubelet: put on a node by the functions that the agent calls, so
//! that what is tried here is the plugin, its configuration and its store.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use pullpass_core::bundle::{
    Bundle, BundleAccess, BundleRegistry, NODE_WIDE_SECRET, RESTRICTED_SECRET,
};
use pullpass_core::docker_config::{Entries, Login};
use pullpass_core::glob::Glob;
use pullpass_core::key::RegistryKey;
use pullpass_core::match_images::MatchImages;
use pullpass_credential_provider::store;
use pullpass_harness::registry::User;
use pullpass_harness::{NODE_1, NODE_2, Nodes, name, nodes, plugin};
use pullpass_node_agent::provider_config::{self, PROVIDER_NAME, capabilities};
use pullpass_suites::pods;
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::scene::{REFUSED, reaches};

/// Where the node's kubelet looks, and where the store is.
const CONFIG: &str = "/etc/kubernetes/credential-providers/config.yaml";
const PROGRAMS: &str = "/etc/kubernetes/credential-providers/bin";
const STORE: &str = "/etc/kubernetes/pullpass";
const STATIC_PODS: &str = "/etc/kubernetes/manifests";

/// Two users of the registry: one's repositories are for every pod, the other's for namespaces of one kind.
struct PluginScene {
    nodes: Nodes,
    name: String,
    open: User,
    team: User,
}

impl PluginScene {
    /// The plugin is on the first node and not on the second.
    async fn new() -> Self {
        let nodes = nodes().await;
        let scene = Self {
            name: name::unique("plugin"),
            open: nodes.registry().new_user().await,
            team: nodes.registry().new_user().await,
            nodes,
        };
        scene.let_nodes_ask_for_tokens().await;
        scene.write_store();
        scene.install().await;
        scene
    }

    /// What the chart gives nodes in this mode.
    async fn let_nodes_ask_for_tokens(&self) {
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "pullpass-tests-audience"},
            "rules": [{
                "apiGroups": [""],
                "resources": ["pullpass.dev"],
                "verbs": ["request-serviceaccounts-token-audience"],
            }],
        });
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "pullpass-tests-audience"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "pullpass-tests-audience",
            },
            "subjects": [{
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "Group",
                "name": "system:nodes",
            }],
        });
        for object in [role, binding] {
            let object = serde_json::from_value(object).unwrap();
            self.nodes.apply(&object).await;
        }
    }

    /// The program before the entry that names it; kubelet is started anew where it has not read that entry.
    async fn install(&self) {
        let program = self.nodes.file(NODE_1, PROGRAMS).join(PROVIDER_NAME);
        let unfinished = program.with_extension("new");
        fs::copy(plugin().await, &unfinished).unwrap();
        fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&unfinished, &program).unwrap();

        let (port, config) = (self.port(), self.nodes.file(NODE_1, CONFIG));
        let version = self.kubelet_version(NODE_1).await;
        let provider = provider_config::provider(
            capabilities(&version).unwrap(),
            &MatchImages::new([port]),
            Path::new(STORE),
        );
        let existing = fs::read(&config).unwrap();
        let merged = provider_config::merge(&existing, &provider).unwrap();
        if merged != existing {
            fs::write(&config, merged).unwrap();
            self.nodes.restart_kubelet(NODE_1).await;
        }
    }

    async fn kubelet_version(&self, node: &str) -> String {
        let all: Api<Node> = self.nodes.all();
        let node = all.get(node).await.unwrap();
        node.status.unwrap().node_info.unwrap().kubelet_version
    }

    fn port(&self) -> u16 {
        let (_, port) = self.nodes.registry().host().rsplit_once(':').unwrap();
        port.parse().unwrap()
    }

    /// The bundles with the present passwords.
    fn write_store(&self) {
        let registry = |name: &str, user: &User, access| {
            let key = format!("{}/{name}/", self.nodes.registry().host());
            let login = Login::new(user.name.as_str().into(), user.password.as_str().into());
            BundleRegistry {
                name: name.into(),
                priority: 0,
                created: 0,
                access,
                entries: Entries::from([(RegistryKey::parse(&key).unwrap(), login.unwrap())]),
            }
        };
        let team = BundleAccess {
            include: vec![Glob::new(format!("{}-team-*", self.name))],
            exclude: Vec::new(),
            selection: None,
        };
        let directory = self.nodes.file(NODE_1, STORE);
        fs::create_dir_all(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
        for (secret, registry) in [
            (NODE_WIDE_SECRET, registry("open", &self.open, None)),
            (RESTRICTED_SECRET, registry("team", &self.team, Some(team))),
        ] {
            let bundle = Bundle {
                registries: vec![registry],
                ..Bundle::default()
            };
            let path = store::path(&directory, secret);
            let unfinished = path.with_extension("new");
            fs::write(&unfinished, bundle.write().expose_secret()).unwrap();
            fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o600)).unwrap();
            fs::rename(&unfinished, &path).unwrap();
        }
    }

    async fn namespace(&self, suffix: &str) -> String {
        let namespace = format!("{}-{suffix}", self.name);
        self.nodes.create_namespace(&namespace, &[]).await;
        self.nodes.has_account(&namespace).await;
        namespace
    }

    /// A private image that no node has.
    async fn image(&self, kind: &str) -> String {
        let repository = format!("{kind}/{}", name::unique("app"));
        self.nodes.push_image(&repository).await
    }

    /// Creates a pod on a node, and returns its name.
    async fn create(&self, node: &str, namespace: &str, image: &str) -> String {
        let name = name::unique("app");
        let mut pod = pods::manifest(&name, image);
        pod["spec"]["nodeName"] = json!(node);
        let all: Api<Pod> = self.nodes.of(namespace);
        all.create(&PostParams::default(), &pods::from(&pod))
            .await
            .unwrap();
        name
    }

    async fn reaches(&self, namespace: &str, name: &str, wanted: &[&str]) {
        reaches(&self.nodes.of(namespace), name, wanted).await;
    }

    async fn pulls(&self, node: &str, namespace: &str, image: &str) {
        let name = self.create(node, namespace, image).await;
        self.reaches(namespace, &name, &["Running"]).await;
    }

    async fn is_refused(&self, node: &str, namespace: &str, image: &str) {
        let name = self.create(node, namespace, image).await;
        self.reaches(namespace, &name, &REFUSED).await;
    }
}

#[tokio::test]
async fn on_one_node_each_namespace_pulls_what_it_may_use() {
    let scene = PluginScene::new().await;
    let (team, other) = (
        scene.namespace("team-a").await,
        scene.namespace("other").await,
    );
    let image = scene.image("team").await;
    scene.is_refused(NODE_1, &other, &image).await;
    scene.pulls(NODE_1, &team, &image).await;
    // the image is on the node now
    scene.pulls(NODE_1, &team, &image).await;
    scene.is_refused(NODE_1, &other, &image).await;

    let open = scene.image("open").await;
    scene.pulls(NODE_1, &other, &open).await;
    // a node that the agent has not come to yet
    scene.is_refused(NODE_2, &team, &image).await;

    // the provider that was there before is there still, and kubelet has read ours
    let config = fs::read_to_string(scene.nodes.file(NODE_1, CONFIG)).unwrap();
    assert!(config.contains("stand-in-provider"), "{config}");
    let called_by = store::called_by(&scene.nodes.file(NODE_1, STORE)).unwrap();
    assert!(config.contains(&called_by.unwrap()), "{config}");
}

#[tokio::test]
async fn a_changed_password_needs_no_restart_of_kubelet() {
    let mut scene = PluginScene::new().await;
    let team = scene.namespace("team-a").await;
    let kubelet = scene.nodes.kubelet(NODE_1);
    scene.pulls(NODE_1, &team, &scene.image("team").await).await;

    scene.team = scene.nodes.registry().change_password(&scene.team).await;
    let image = scene.image("team").await;
    scene.is_refused(NODE_1, &team, &image).await;
    scene.write_store();
    scene.pulls(NODE_1, &team, &image).await;
    assert_eq!(scene.nodes.kubelet(NODE_1), kubelet);
}

#[tokio::test]
async fn a_static_pod_has_no_token_and_pulls_what_every_pod_may_use() {
    let scene = PluginScene::new().await;
    let team = scene.namespace("team-a").await;
    let directory = scene.nodes.file(NODE_1, STATIC_PODS);
    let mut files = Vec::new();
    for (kind, wanted) in [("open", &["Running"][..]), ("team", &REFUSED[..])] {
        let (name, image) = (name::unique("static"), scene.image(kind).await);
        let mut pod = pods::manifest(&name, &image);
        pod["metadata"]["namespace"] = json!(team);
        let file = directory.join(format!("{name}.json"));
        fs::write(&file, pod.to_string()).unwrap();
        files.push(file);
        // kubelet names its mirror so
        let mirror = format!("{name}-{NODE_1}");
        scene.reaches(&team, &mirror, wanted).await;
    }
    for file in files {
        fs::remove_file(file).unwrap();
    }
}

/// The logins that the plugin answers with, if it is run as a user with a token; or what it says instead.
fn ask_plugin(scene: &PluginScene, program: &Path, user: u32, image: &str, token: &str) -> String {
    use std::io::Write as _;
    let request = json!({
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "kind": "CredentialProviderRequest",
        "image": image,
        "serviceAccountToken": token,
    });
    let mut plugin = Command::new("setpriv")
        .arg(format!("--reuid={user}"))
        .args(["--clear-groups"])
        .arg(program)
        .arg(format!(
            "--store={}",
            scene.nodes.file(NODE_1, STORE).display()
        ))
        .arg("--configuration=test")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = plugin.stdin.take().unwrap();
    stdin.write_all(request.to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = plugin.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    text(&output.stdout) + &text(&output.stderr)
}

/// A token of a service account, as whoever may create tokens there gets one.
async fn token(client: Client, namespace: &str, audience: &str) -> kube::Result<String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client, namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: vec![audience.to_owned()],
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request("default", &PostParams::default(), &request)
        .await?;
    Ok(answer.status.unwrap().token)
}

#[tokio::test]
async fn a_forged_or_borrowed_token_gains_nothing() {
    let scene = PluginScene::new().await;
    let (team, other) = (
        scene.namespace("team-a").await,
        scene.namespace("other").await,
    );
    let image = scene.image("team").await;
    let tenant = scene.nodes.as_user("mallory", &["mallories"]);
    let edit = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "mallory", "namespace": other},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "mallory"}],
    });
    scene
        .nodes
        .apply(&serde_json::from_value(edit).unwrap())
        .await;

    // of another namespace the API server gives no token
    let refused = token(tenant.clone(), &team, "pullpass.dev")
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, kube::Error::Api(status) if status.code == 403),
        "{refused}"
    );
    // of the own one it does: that is good for nothing but the plugin
    let own = token(tenant, &other, "pullpass.dev").await.unwrap();
    let pods: Api<Pod> = Api::namespaced(scene.nodes.with_token(own.clone()), &other);
    let refused = pods.list(&Default::default()).await.unwrap_err();
    assert!(
        matches!(&refused, kube::Error::Api(status) if status.code == 401),
        "{refused}"
    );

    // put on the node, it opens nothing: it is not bound to a pod, and says another namespace
    let elsewhere = tempfile_directory(&scene.name);
    let program = elsewhere.join(PROVIDER_NAME);
    fs::copy(plugin().await, &program).unwrap();
    let root = 0;
    let answers = BTreeMap::from([
        ("own", ask_plugin(&scene, &program, root, &image, &own)),
        ("api", {
            let client = scene.nodes.client();
            let of_team = token(client, &team, "https://kubernetes.default.svc").await;
            ask_plugin(&scene, &program, root, &image, &of_team.unwrap_or_default())
        }),
        ("unbound", {
            let of_team = token(scene.nodes.client(), &team, "pullpass.dev").await;
            ask_plugin(&scene, &program, root, &image, &of_team.unwrap())
        }),
        ("none", ask_plugin(&scene, &program, root, &image, "")),
    ]);
    for (kind, answer) in &answers {
        assert!(!answer.contains(&scene.team.password), "{kind}");
        assert!(answer.contains(r#""auth":{}"#), "{kind}: {answer}");
    }
    // a perfect forgery: whoever is not root cannot use it, since the store is root's
    let forged = forged_token(&team);
    let nobody = ask_plugin(&scene, &program, 65534, &image, &forged);
    assert!(!nobody.contains(&scene.team.password), "{nobody}");
    assert!(nobody.contains("Permission denied"), "{nobody}");
    // root can, who can read the store as well: what the documentation says the trust rests on
    let by_root = ask_plugin(&scene, &program, root, &image, &forged);
    assert!(by_root.contains(&scene.team.password));
    fs::remove_dir_all(elsewhere).unwrap();

    // and through kubelet, which asks for the token itself: what a pod says of itself does not matter
    let name = name::unique("app");
    let mut pod = pods::manifest(&name, &image);
    pod["spec"]["nodeName"] = json!(NODE_1);
    pod["metadata"]["annotations"] = json!({
        "pullpass.dev/namespace": team,
        "kubernetes.io/config.source": "file",
    });
    pod["spec"]["volumes"] = json!([{"name": "token", "projected": {"sources": [
        {"serviceAccountToken": {"audience": "pullpass.dev", "path": "token"}},
    ]}}]);
    let all: Api<Pod> = scene.nodes.of(&other);
    all.create(&PostParams::default(), &pods::from(&pod))
        .await
        .unwrap();
    scene.reaches(&other, &name, &REFUSED).await;
    all.delete(&name, &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
}

fn tempfile_directory(name: &str) -> std::path::PathBuf {
    let directory = std::env::temp_dir().join(name);
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

/// A token with all claims of kubelet's, and a signature of nobody.
fn forged_token(namespace: &str) -> String {
    let part = |text: &str| {
        pullpass_harness::objects::base64(text)
            .trim_end_matches('=')
            .replace('+', "-")
            .replace('/', "_")
    };
    let claims = json!({
        "iss": "https://kubernetes.default.svc",
        "aud": ["pullpass.dev"],
        "exp": 9_999_999_999u64,
        "sub": format!("system:serviceaccount:{namespace}:default"),
        "kubernetes.io": {
            "namespace": namespace,
            "pod": {"name": "app", "uid": "1"},
            "serviceaccount": {"name": "default", "uid": "2"},
        },
    });
    format!(
        "{}.{}.{}",
        part(r#"{"alg":"RS256"}"#),
        part(&claims.to_string()),
        part("none")
    )
}
