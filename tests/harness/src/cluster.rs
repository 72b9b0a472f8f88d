//! The local cluster's command, and what it leaves on disk.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Once;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::process::Command;

use crate::checkout;

/// The cluster that the end-to-end tests share. `make demo` has another, so neither disturbs the other.
pub const FULL: &str = "test";

/// The API servers without nodes that [`crate::lease`] hands out.
pub const API_SERVERS: [&str; 2] = ["api-1", "api-2"];

/// The cluster with two nodes that [`crate::nodes`] hands out.
pub const NODES: &str = "two-nodes";

/// One local cluster by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    name: String,
}

impl Cluster {
    /// The cluster of this name, whether it is up or not.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory that holds everything of it.
    pub fn directory(&self) -> PathBuf {
        checkout::path(".cluster").join(&self.name)
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory().join("kubeconfig")
    }

    /// The API server's audit log, one JSON object a line.
    pub fn audit_log(&self) -> PathBuf {
        self.directory().join("audit.log")
    }

    /// The logs of the containers of a node, below it one directory a pod.
    pub fn pod_logs(&self, node: &str) -> PathBuf {
        self.directory().join("nodes").join(node).join("pod-logs")
    }

    /// The socket at which a node's pods find the node's system bus, once there is one.
    pub fn system_bus(&self, node: &str) -> PathBuf {
        let node = self.directory().join("nodes").join(node);
        node.join("dbus/system_bus_socket")
    }

    /// The id of the process that a component had when it was last started.
    ///
    /// # Errors
    /// If it never was.
    pub fn process(&self, component: &str) -> Result<u32> {
        let file = self
            .directory()
            .join("run")
            .join(format!("{component}.pid"));
        let id =
            std::fs::read_to_string(file).with_context(|| format!("{component} does not run"))?;
        Ok(id.trim().parse()?)
    }

    /// Where a node's containerd looks for what it has to know about a registry's host, at each pull.
    pub fn registry_config(&self, node: &str, host: &str) -> PathBuf {
        let node = self.directory().join("nodes").join(node);
        node.join("containerd-config/certs.d").join(host)
    }

    /// Its components' logs.
    pub fn logs(&self) -> PathBuf {
        self.directory().join("logs")
    }

    /// Brings the full cluster up, which does nothing where it is up.
    ///
    /// # Errors
    /// What the cluster's command says, which tells what this machine lacks.
    pub async fn up(&self) -> Result<()> {
        self.run(&["up"]).await.map(drop)
    }

    /// Brings the full cluster up with so many nodes; in one that is up, nodes come or go.
    ///
    /// # Errors
    /// What the cluster's command says, which tells what this machine lacks.
    pub async fn up_with_nodes(&self, nodes: usize) -> Result<()> {
        let nodes = nodes.to_string();
        self.run(&["up", "--nodes", &nodes]).await.map(drop)
    }

    /// Brings up an API server with the built-in controllers and without nodes, which does nothing where it is up.
    ///
    /// # Errors
    /// What the cluster's command says, which tells what this machine lacks.
    pub async fn up_api_only(&self) -> Result<()> {
        self.run(&["up", "--api-only", "--with-controllers"])
            .await
            .map(drop)
    }

    /// Runs the cluster's own kubectl and returns its standard output.
    ///
    /// # Errors
    /// Its standard error, where it fails.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.tool("kubectl", arguments).await
    }

    /// Runs helm against the cluster and returns its standard output.
    ///
    /// # Errors
    /// Its standard error, where it fails.
    pub async fn helm(&self, arguments: &[&str]) -> Result<String> {
        self.tool("helm", arguments).await
    }

    /// Loads OCI archives into every node.
    ///
    /// # Errors
    /// What the cluster's command says.
    pub async fn load_images(&self, archives: &[&str]) -> Result<()> {
        let mut arguments = vec!["load-image"];
        arguments.extend(archives);
        self.run(&arguments).await.map(drop)
    }

    /// Ends a component, such as `kube-apiserver`, or a node, and starts it again.
    ///
    /// # Errors
    /// What the cluster's command says.
    pub async fn restart(&self, component: &str) -> Result<()> {
        self.run(&["restart", component]).await.map(drop)
    }

    /// Gives a user of the cluster's registry a password; makes the user where it is not there.
    pub(crate) async fn set_registry_password(&self, user: &str, password: &str) -> Result<()> {
        self.run(&["registry-password", "--user", user, "--password", password])
            .await
            .map(drop)
    }

    async fn tool(&self, tool: &str, arguments: &[&str]) -> Result<String> {
        let program = command(&["tool", tool]).await?;
        run(Command::new(program.trim())
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig()))
        .await
    }

    async fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut all = arguments.to_vec();
        all.extend(["--name", &self.name]);
        command(&all).await
    }

    /// A client's configuration with the administrator's rights.
    ///
    /// # Errors
    /// If the kubeconfig is missing or damaged.
    pub async fn config(&self) -> Result<Config> {
        use_one_crypto_provider();
        let path = self.kubeconfig();
        let kubeconfig =
            Kubeconfig::read_from(&path).with_context(|| format!("no cluster {}", self.name))?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .with_context(|| format!("{} is no kubeconfig", path.display()))?;
        // a test waits for answers by itself, and an answer that says "too many requests" is one
        config.default_retry = false;
        Ok(config)
    }

    /// Whether the API server answers that it is ready.
    pub async fn is_ready(&self) -> bool {
        let asked = async {
            let mut config = self.config().await?;
            config.connect_timeout = Some(Duration::from_secs(2));
            config.read_timeout = Some(Duration::from_secs(5));
            let client = Client::try_from(config)?;
            let request = axum::http::Request::get("/readyz").body(Vec::new())?;
            anyhow::Ok(client.request_text(request).await?)
        };
        asked.await.is_ok()
    }
}

/// Both TLS clients and servers of a test process need a process-wide provider, whichever comes first.
pub(crate) fn use_one_crypto_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // an error means that another part of the process has installed one already
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    });
}

async fn command(arguments: &[&str]) -> Result<String> {
    let program = checkout::path("tests/cluster/cluster");
    ensure!(
        program.is_file(),
        "{} is missing: the tests need a whole checkout",
        program.display()
    );
    run(Command::new(&program).args(arguments)).await
}

/// Runs a program to its end and returns its standard output.
pub(crate) async fn run(command: &mut Command) -> Result<String> {
    let shown = format!("{:?}", command.as_std());
    let output = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("cannot run {shown}"))?;
    if !output.status.success() {
        bail!(
            "{shown} failed ({}): {}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
