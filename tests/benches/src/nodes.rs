//! From a changed credential to the node's file, and what a call of the plugin costs (P10).

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use pullpass_core::bundle::{
    Bundle, BundleAccess, BundleRegistry, NODE_WIDE_SECRET, NODES_NAMESPACE, RESTRICTED_SECRET,
};
use pullpass_core::docker_config::{Entries, Login};
use pullpass_core::glob::Glob;
use pullpass_core::key::RegistryKey;
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::cluster::{self, Cluster};
use crate::process::Process;
use crate::report::{self, Bound, Section, Unit};
use crate::server::free_address;
use crate::statistics::Spread;
use crate::{checkout, instructions};

/// What P10 promises.
const FILE_MILLIS: f64 = 2000.0;
const CALL_MILLIS: f64 = 5.0;

/// How long a file may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at the file: a thousandth of what is promised.
const POLL: Duration = Duration::from_millis(2);

const SYSTEM_NAMESPACE: &str = "pullpass-system";
const NODE: &str = "node-a";

/// Registries in the store that the plugin reads, each for one team's namespaces.
const REGISTRIES: usize = 100;

/// Measures `changes` changes of a credential, and `calls` calls of the plugin.
pub(crate) fn measure(changes: usize, calls: usize) -> Result<Section> {
    let mut section = Section::new(
        "nodes",
        "Nodes",
        &format!(
            "Controller and node agent as they are shipped, against a kube-apiserver: from the moment before a source \
             Secret is written until kubelet's docker config holds the new credential. And the credential provider \
             plugin, with {REGISTRIES} Registries in its store: from the moment before its process is started until it \
             has ended with the right answer, as kubelet calls it.",
        ),
    );
    let runtime = tokio::runtime::Runtime::new()?;
    let changed = runtime.block_on(changing(changes))?;
    section.push(
        "P10",
        "from a changed source to the node's file",
        Unit::Millis,
        Spread::of(&changed)?,
        Some(Bound::AtMost(FILE_MILLIS)),
    );
    let store = Store::new()?;
    report::say("calling the plugin");
    let called: Vec<f64> = (0..calls)
        .map(|_| store.call(Command::new(&store.plugin)))
        .collect::<Result<_>>()?;
    section.push(
        "P10",
        "a call of the plugin, its process included",
        Unit::Millis,
        Spread::of(&called)?,
        Some(Bound::AtMost(CALL_MILLIS)),
    );
    let counted = store.count()?;
    section.push(
        "",
        "instructions of a call, in thousands",
        Unit::Count,
        Spread::exact(f64::from(u32::try_from(counted / 1000)?)),
        None,
    );
    Ok(section)
}

async fn changing(changes: usize) -> Result<Vec<f64>> {
    let cluster = Cluster::start("bench", false).await?;
    for namespace in [SYSTEM_NAMESPACE, NODES_NAMESPACE, "default"] {
        cluster
            .apply(cluster::namespace(namespace, &json!({})))
            .await?;
    }
    cluster
        .apply(json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "pullpass-controller", "namespace": SYSTEM_NAMESPACE},
        }))
        .await?;
    cluster
        .apply(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}))
        .await?;
    cluster
        .apply(cluster::registry("acme", &json!({"include": ["*"]})))
        .await?;
    let host = Directory::new("node")?;
    let root = host.0.join("var/lib/kubelet");
    fs::create_dir_all(root.join("pods"))?;
    let kubeconfig = |program: &str| -> Result<Command> {
        let mut command = Command::new(checkout::program(program)?);
        command
            .arg("--kubeconfig")
            .arg(&cluster.kubeconfig)
            .args(["--admin-listen", &free_address()?.to_string()]);
        Ok(command)
    };
    let mut controller = kubeconfig("pullpass-controller")?;
    // no registry of that name is there to verify a credential
    controller.args(["--nodes=dockerConfig", "--verify-interval=0s"]);
    let mut controller = Process::start(controller, "pullpass-controller")?;
    let mut agent = kubeconfig("pullpass-node-agent")?;
    agent.args(["--node", NODE, "--host"]).arg(&host.0);
    let mut agent = Process::start(agent, "pullpass-node-agent")?;

    let file = root.join("config.json");
    let mut measured = Vec::new();
    for change in 0..=changes {
        report::say(&format!("change {change} of {changes}"));
        let password = format!("password-{change}");
        let start = Instant::now();
        cluster.apply(source(&password)).await?;
        let wanted = STANDARD.encode(format!("user:{password}"));
        while !fs::read_to_string(&file).is_ok_and(|text| text.contains(&wanted)) {
            controller.is_running()?;
            agent.is_running()?;
            ensure!(
                start.elapsed() < PATIENCE,
                "the file does not hold the credential: see the logs in target/bench"
            );
            tokio::time::sleep(POLL).await;
        }
        // in the first, both programs had to begin
        if change > 0 {
            measured.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(measured)
}

fn source(password: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "acme", "namespace": SYSTEM_NAMESPACE},
        "type": "kubernetes.io/basic-auth",
        "stringData": {"username": "user", "password": password},
    })
}

/// A directory below `target/bench`, removed when this is dropped.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Result<Self> {
        let path = checkout::output()?.join(name);
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // what is left is removed before the next run
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The plugin, and a store for it.
struct Store {
    plugin: PathBuf,
    directory: Directory,
    request: String,
}

impl Store {
    fn new() -> Result<Self> {
        let directory = Directory::new("store")?;
        let registries: Vec<BundleRegistry> =
            (0..REGISTRIES).map(registry).collect::<Result<_>>()?;
        write(&directory.0, NODE_WIDE_SECRET, Vec::new())?;
        write(&directory.0, RESTRICTED_SECRET, registries)?;
        let team = REGISTRIES / 2;
        let request = json!({
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
            "kind": "CredentialProviderRequest",
            "image": format!("{}/app:1", host(team)),
            "serviceAccountToken": token(&format!("team-{team}-app")),
        });
        Ok(Self {
            plugin: checkout::program("pullpass-credential-provider")?,
            directory,
            request: request.to_string(),
        })
    }

    /// Milliseconds of a call.
    fn call(&self, mut command: Command) -> Result<f64> {
        let start = Instant::now();
        let mut plugin = command
            .arg(format!("--store={}", self.directory.0.display()))
            .arg("--configuration=bench")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let mut stdin = plugin.stdin.take().context("no standard input")?;
        stdin.write_all(self.request.as_bytes())?;
        drop(stdin);
        let output = plugin.wait_with_output()?;
        let elapsed = start.elapsed().as_secs_f64() * 1e3;
        let answer = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success() && answer.contains(&password(REGISTRIES / 2)),
            "the plugin answers {answer} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(elapsed)
    }

    /// Instructions of a call.
    fn count(&self) -> Result<u64> {
        let output = checkout::output()?.join("callgrind.plugin");
        let mut command = Command::new("valgrind");
        command
            .args(["--tool=callgrind", "--error-exitcode=1"])
            .arg(format!("--callgrind-out-file={}", output.display()))
            .arg(&self.plugin);
        self.call(command)?;
        instructions::total(&output)
    }
}

fn host(number: usize) -> String {
    format!("registry-{number}.example.com")
}

fn password(number: usize) -> String {
    format!("a-password-of-usual-length-{number}")
}

fn registry(number: usize) -> Result<BundleRegistry> {
    let login = Login::new(format!("user-{number}").into(), password(number).into())?;
    Ok(BundleRegistry {
        name: format!("team-{number}"),
        priority: 0,
        created: 0,
        access: Some(BundleAccess {
            include: vec![Glob::new(format!("team-{number}-*"))],
            exclude: Vec::new(),
            selection: None,
        }),
        entries: Entries::from([(RegistryKey::parse(&host(number))?, login)]),
    })
}

fn write(directory: &Path, secret: &str, registries: Vec<BundleRegistry>) -> Result<()> {
    let bundle = Bundle {
        registries,
        ..Bundle::default()
    };
    let path = directory.join(format!("{secret}.json"));
    fs::write(path, bundle.write().expose_secret())?;
    Ok(())
}

/// A token as kubelet hands it over, and a signature that nobody checks on a node.
fn token(namespace: &str) -> String {
    let part = |text: String| URL_SAFE_NO_PAD.encode(text);
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
        part(json!({"alg": "RS256"}).to_string()),
        part(claims.to_string()),
        "c".repeat(342)
    )
}
