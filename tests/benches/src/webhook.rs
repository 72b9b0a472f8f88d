//! Starting the webhooks that are measured.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use tokio::net::TcpStream;

use crate::load::{Connection, Target};
use crate::process::{Process, Processors};
use crate::server::{Handler, free_address};
use crate::tls::{self, Identity};
use crate::{checkout, report, reviews};

/// A running webhook.
pub(crate) struct Webhook {
    /// In tables.
    pub(crate) name: &'static str,
    /// Where it takes reviews.
    pub(crate) target: Target,
    /// Its process.
    pub(crate) process: Process,
}

impl Webhook {
    /// `https://<name in the certificate>:<port>/inject`.
    pub(crate) fn url(&self) -> String {
        format!("https://{}/inject", host(&self.target))
    }

    /// A review, ready to be sent to it.
    pub(crate) fn request(&self, review: &[u8]) -> Arc<[u8]> {
        reviews::request(&host(&self.target), review)
    }
}

fn host(target: &Target) -> String {
    format!("{}:{}", tls::NAME, target.address.port())
}

/// Starts a server of this program on the servers' processor, and waits until it answers.
pub(crate) async fn start_server(
    handler: Handler,
    identity: &Identity,
    processors: Processors,
) -> Result<Webhook> {
    let address = free_address()?;
    let mut command = processors.for_server(&std::env::current_exe()?);
    command
        .args(["serve", handler.as_str(), "--listen", &address.to_string()])
        .arg("--certificates")
        .arg(identity.directory());
    let (name, injects) = (handler.as_str(), handler.injects());
    started(name, command, address, identity, injects).await
}

/// Builds the Go yardstick; nothing where Go is not installed.
pub(crate) fn build_go() -> Result<Option<PathBuf>> {
    let program = checkout::output()?.join("go-webhook");
    let built = Command::new("go")
        .args(["build", "-trimpath", "-buildvcs=false", "-o"])
        .arg(&program)
        .arg(".")
        .env("CGO_ENABLED", "0")
        .current_dir(checkout::path("tests/benches/go"))
        .status();
    match built {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            report::say("Go is not installed: nothing is compared with the Go webhook");
            Ok(None)
        }
        Err(error) => Err(error).context("cannot run go"),
        Ok(status) => {
            ensure!(status.success(), "the Go webhook cannot be built");
            Ok(Some(program))
        }
    }
}

/// Starts the Go yardstick on the servers' processor, and waits until it answers.
pub(crate) async fn start_go(
    program: &Path,
    identity: &Identity,
    processors: Processors,
) -> Result<Webhook> {
    let address = free_address()?;
    let mut command = processors.for_server(program);
    command
        .args(["--port", &address.port().to_string(), "--certificates"])
        .arg(identity.directory());
    started("go", command, address, identity, true).await
}

async fn started(
    name: &'static str,
    command: Command,
    address: SocketAddr,
    identity: &Identity,
    injects: bool,
) -> Result<Webhook> {
    let mut webhook = Webhook {
        name,
        target: Target {
            address,
            tls: identity.client()?,
        },
        process: Process::start(command, name)?,
    };
    let request = webhook.request(&reviews::Size::Small.read()?);
    webhook
        .target
        .answers(&mut webhook.process, &request, injects)
        .await
        .with_context(|| format!("the {name} webhook"))?;
    Ok(webhook)
}

/// The webhook as it is shipped, against a real API server.
pub(crate) struct RealWebhook {
    /// The running webhook.
    pub(crate) webhook: Webhook,
    /// Its admin server.
    admin: SocketAddr,
}

impl RealWebhook {
    /// Starts it; it is not ready yet.
    pub(crate) fn start(kubeconfig: &Path, identity: &Identity) -> Result<Self> {
        let (address, admin) = (free_address()?, free_address()?);
        let mut command = Command::new(checkout::program("pullpass-webhook")?);
        command
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(["--listen", &address.to_string()])
            .args(["--admin-listen", &admin.to_string()])
            .arg("--serving-directory")
            .arg(identity.directory());
        let webhook = Webhook {
            name: "pullpass",
            target: Target {
                address,
                tls: identity.client()?,
            },
            process: Process::start(command, "pullpass-webhook")?,
        };
        Ok(Self { webhook, admin })
    }

    /// Whether it says that it is ready.
    pub(crate) async fn is_ready(&mut self) -> Result<bool> {
        self.webhook.process.is_running()?;
        let asked = async {
            let stream = TcpStream::connect(self.admin).await?;
            let request = format!("GET /readyz HTTP/1.1\r\nHost: {}\r\n\r\n", self.admin);
            Connection::new(stream)
                .exchange(request.as_bytes())
                .await
                .map(drop)
        };
        Ok(asked.await.is_ok())
    }
}
