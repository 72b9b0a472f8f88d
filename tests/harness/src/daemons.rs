//! The daemons, started in this process as their `main` starts them, each with a runtime of its own so that it can be
//! killed like a process.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use futures::stream;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Config, ResourceExt as _};
use pullpass_daemon::{BoxError, Context, Drain, Ending, client};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::fake_ecr::FakeEcr;
use crate::objects::{SYSTEM_NAMESPACE, named};
use crate::server::ApiServer;
use crate::{admission, cluster, identity, must, tls};

/// How long a daemon may take until it is ready.
const READY: Duration = Duration::from_secs(30);

/// A daemon that runs in this process. Dropping it kills it.
pub struct Daemon {
    context: Context,
    signals: mpsc::UnboundedSender<&'static str>,
    ending: Option<JoinHandle<Ending>>,
    runtime: Option<Runtime>,
}

impl Daemon {
    /// Starts a daemon with a client of this configuration, as `start` does it.
    async fn start<T: Send + 'static, F>(
        config: Config,
        component: &'static str,
        version: &'static str,
        drain: Drain,
        start: impl FnOnce(Context) -> F + Send + 'static,
    ) -> Result<(Self, T)>
    where
        F: Future<Output = Result<T, BoxError>> + Send,
    {
        cluster::use_one_crypto_provider();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let (signals, received) = mpsc::unbounded_channel();
        let (context, supervisor, started) = runtime
            .spawn(async move {
                let client = client::from_config(component, version, config)?;
                let (context, supervisor) = Context::new(component, version, client)?;
                let started = start(context.clone()).await?;
                Ok::<_, BoxError>((context, supervisor, started))
            })
            .await?
            .map_err(|error| anyhow::anyhow!("cannot start the {component}: {error}"))?;
        let readiness = context.readiness.clone();
        let ending = runtime.spawn(async move {
            let signals = stream::unfold(received, |mut received| async move {
                received.recv().await.map(|signal| (signal, received))
            });
            supervisor.run(Box::pin(signals), &readiness, drain).await
        });
        let daemon = Self {
            context,
            signals,
            ending: Some(ending),
            runtime: Some(runtime),
        };
        Ok((daemon, started))
    }

    /// Waits until it is ready.
    pub async fn ready(&self) {
        let ready = tokio::time::timeout(READY, self.context.readiness.ready()).await;
        if ready.is_err() {
            panic!(
                "the {} is not ready: {:?}",
                self.context.component,
                self.context.readiness.check()
            );
        }
    }

    /// What it shares with the rest of the process.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The sum of a metric's samples that have this label, as `end="Bound"`; 0 where there is none.
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let told =
            must(pullpass_daemon::metrics::encode(&self.context.registry).map_err(Into::into));
        String::from_utf8_lossy(&told)
            .lines()
            .filter(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with('{') && rest.contains(label))
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Asks it to end, as SIGTERM does, and waits until it has.
    pub async fn terminate(mut self) -> Ending {
        let _ = self.signals.send("SIGTERM");
        let ending = self.ending.take().context("it has been ended before");
        must(must(ending).await.context("the supervisor panicked"))
    }

    /// Lets nothing of it run for a while, as SIGSTOP and SIGCONT do.
    #[allow(
        clippy::disallowed_methods,
        reason = "its only worker thread is what has to be blocked"
    )]
    pub fn freeze(&self, during: Duration) {
        if let Some(runtime) = &self.runtime {
            runtime.spawn(async move { std::thread::sleep(during) });
        }
    }

    /// Ends it without any notice, as SIGKILL does.
    pub fn kill(self) {}
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A webhook that runs in this process.
pub struct Webhook {
    /// The daemon.
    pub daemon: Daemon,
    /// Where it takes reviews.
    pub address: SocketAddr,
    /// The certificate authority (PEM) of its certificate.
    pub authority: String,
}

fn controller_config(identity: &str, flags: &[&str]) -> pullpass_controller::Config {
    let own = ["pullpass-controller", "--identity", identity];
    must(
        pullpass_controller::Config::try_parse_from([&own, flags].concat())
            .context("the controller's flags"),
    )
}

impl ApiServer {
    /// Starts the controller with this identity and these flags, and waits until it is ready, which it is whether it leads
    /// or not.
    pub async fn start_controller(&self, identity: &str, flags: &[&str]) -> Daemon {
        let daemon = self.start_controller_unready(identity, flags).await;
        daemon.ready().await;
        daemon
    }

    /// Starts the controller with a fake of Amazon's clouds in place of the real ones, and waits until it is ready.
    pub async fn start_controller_at(&self, identity: &str, aws: &FakeEcr) -> Daemon {
        let mut config = controller_config(identity, &[]);
        config.controller.endpoints.aws = Some(must(aws.url().parse().map_err(Into::into)));
        let daemon = self.start_configured_controller(config).await;
        daemon.ready().await;
        daemon
    }

    /// Starts the controller where neither clouds nor registries are asked for anything: it verifies nothing, and under the
    /// clouds' addresses nobody listens. Waits until it is ready.
    pub async fn start_controller_without_clouds(&self, identity: &str) -> Daemon {
        const NOBODY: &str = "http://127.0.0.1:1";
        let mut config = controller_config(identity, &["--verify-interval=0s"]);
        let nobody = || Some(must(NOBODY.parse().map_err(Into::into)));
        let endpoints = &mut config.controller.endpoints;
        endpoints.aws = nobody();
        endpoints.google = nobody();
        endpoints.google_metadata = nobody();
        endpoints.entra = nobody();
        let daemon = self.start_configured_controller(config).await;
        daemon.ready().await;
        daemon
    }

    /// The same without waiting, for where it cannot become ready.
    pub async fn start_controller_unready(&self, identity: &str, flags: &[&str]) -> Daemon {
        self.start_configured_controller(controller_config(identity, flags))
            .await
    }

    async fn start_configured_controller(&self, config: pullpass_controller::Config) -> Daemon {
        let identity = must(self.identity(pullpass_controller::COMPONENT).await);
        let started =
            Daemon::start(
                identity,
                pullpass_controller::COMPONENT,
                pullpass_controller::VERSION,
                pullpass_controller::DRAIN,
                |context| async move {
                    Ok(pullpass_controller::start(context, config.controller).await?)
                },
            )
            .await;
        must(started).0
    }

    /// Starts the webhook on a free port with these flags, with a certificate of the test's own, and waits until it is
    /// ready.
    pub async fn start_webhook(&self, flags: &[&str]) -> Webhook {
        let authority = must(self.provide_certificate().await);
        let arguments = [&["pullpass-webhook", "--listen=127.0.0.1:0"], flags].concat();
        let config = must(
            pullpass_webhook::Config::try_parse_from(arguments).context("the webhook's flags"),
        );
        let identity = must(self.identity(pullpass_webhook::COMPONENT).await);
        let started = Daemon::start(
            identity,
            pullpass_webhook::COMPONENT,
            pullpass_webhook::VERSION,
            pullpass_webhook::DRAIN,
            |context| async move { Ok(pullpass_webhook::start(context, config).await?) },
        )
        .await;
        let (daemon, address) = must(started);
        daemon.ready().await;
        Webhook {
            daemon,
            address,
            authority,
        }
    }

    /// Starts the agent of a node, whose file system lies under `host`, with these flags.
    pub async fn start_node_agent(&self, node: &str, host: &Path, flags: &[&str]) -> Daemon {
        const NAMESPACE: &str = "pullpass-nodes";
        const ACCOUNT: &str = "pullpass-node-agent";
        let host = host.display().to_string();
        let own = ["pullpass-node-agent", "--node", node, "--host", &host];
        let config = must(
            pullpass_node_agent::Config::try_parse_from([&own, flags].concat())
                .context("the node agent's flags"),
        );
        let identity = identity::pod_on_node(self.config(), NAMESPACE, ACCOUNT, node).await;
        let started = Daemon::start(
            must(identity),
            pullpass_node_agent::COMPONENT,
            pullpass_node_agent::VERSION,
            pullpass_node_agent::DRAIN,
            |context| async move { Ok(pullpass_node_agent::start(context, config.agent).await?) },
        )
        .await;
        must(started).0
    }

    /// With a real token of the component's service account.
    async fn identity(&self, component: &str) -> Result<Config> {
        let account = format!("pullpass-{component}");
        identity::service_account(self.config(), SYSTEM_NAMESPACE, &account).await
    }

    /// Lets the API server ask this webhook about every pod, under the chart's conditions but without its Service.
    pub async fn register_webhook(&self, webhook: &Webhook) {
        let rendered = self
            .rendered_chart(&[])
            .await
            .into_iter()
            .find(|object| crate::chart::kind(object) == "MutatingWebhookConfiguration");
        let rendered = must(rendered.context("the chart has no webhook configuration"));
        let mut configuration: MutatingWebhookConfiguration =
            must(rendered.try_parse().map_err(Into::into));
        for hook in configuration.webhooks.iter_mut().flatten() {
            hook.client_config = admission::client_config(&webhook.address, &webhook.authority);
        }
        let api: Api<MutatingWebhookConfiguration> = self.all();
        let name = configuration.name_any();
        let manager = PatchParams::apply("pullpass-tests").force();
        must(
            api.patch(&name, &manager, &Patch::Apply(configuration))
                .await
                .context("cannot register the webhook"),
        );
    }

    /// Puts a certificate for 127.0.0.1 where the webhook looks for it, and returns its authority. A controller at work would
    /// have put one of its own there, for the Service: this one comes first, and is then left alone as a stranger's.
    async fn provide_certificate(&self) -> Result<String> {
        let secrets: Api<Secret> = self.of(SYSTEM_NAMESPACE);
        let name = "pullpass-webhook-tls";
        let (authority, certificate, key) = tls::certificate(&["127.0.0.1"])?;
        let data = [
            ("ca.crt", &authority),
            ("tls.crt", &certificate),
            ("tls.key", &key),
        ];
        let secret = Secret {
            metadata: named(name),
            type_: Some("kubernetes.io/tls".into()),
            data: Some(
                data.into_iter()
                    .map(|(key, pem)| (key.to_owned(), ByteString(pem.clone().into_bytes())))
                    .collect(),
            ),
            ..Secret::default()
        };
        secrets.create(&PostParams::default(), &secret).await?;
        Ok(authority)
    }
}
