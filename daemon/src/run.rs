//! The `main` of every daemon.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use futures::Stream;
use kube::Client;
use tokio::runtime::Runtime;

use crate::client;
use crate::context::Context;
use crate::error::{BoxError, chain};
use crate::shutdown::{Drain, Ending, signals};
use crate::telemetry::{self, LogFormat};

/// The flags that all daemons have. Flatten them into the daemon's own.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Address of the admin server: /metrics, /livez, /readyz over plain HTTP
    #[arg(
        long,
        env = "PULLPASS_ADMIN_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "0.0.0.0:8080"
    )]
    pub admin_listen: SocketAddr,
    /// Kubeconfig to reach the API server with [default: the pod's service account]
    #[arg(long, env = "PULLPASS_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// How log lines look
    #[arg(long, env = "PULLPASS_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// What is logged: a level, or target=level pairs separated by commas
    #[arg(
        long,
        env = "PULLPASS_LOG_FILTER",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub log_filter: String,
}

/// Reads the flags, sets up logs, the TLS provider, runtime, client and admin server, calls `start`, and runs
/// until a signal arrives or a task ends unasked.
///
/// `start` sets the daemon up: it registers guards, adds watches, starts tasks, and returns. Until then the
/// process is not ready. The exit code is 0 after an orderly end, 2 for flags that cannot be read, else 1.
pub fn run<C, F, E>(
    component: &'static str,
    version: &'static str,
    drain: Drain,
    start: impl FnOnce(Context, C) -> F,
) -> ExitCode
where
    C: Parser + AsRef<Options>,
    F: Future<Output = Result<(), E>>,
    E: Into<BoxError>,
{
    let (config, runtime) = match set_up::<C>() {
        Ok(ready) => ready,
        Err(code) => return code,
    };
    let options = config.as_ref().clone();
    tracing::info!(component, version, "starting");
    let ending = runtime.block_on(async {
        let signals = signals()?;
        let client = client::connect(component, version, options.kubeconfig.as_deref()).await?;
        supervise(
            component,
            version,
            client,
            options.admin_listen,
            drain,
            signals,
            |context| start(context, config),
        )
        .await
    });
    // what has not finished by now is not waited for
    runtime.shutdown_background();
    match ending {
        Ok(ending) => ending.exit_code(),
        Err(error) => {
            tracing::error!(error = chain(&*error), "cannot start");
            ExitCode::FAILURE
        }
    }
}

/// Reads the flags, sets up logs, the TLS provider, runtime and client, and does `work`, once.
///
/// For a process that ends by itself: there is no admin server, and a signal ends it as it ends any process. The exit
/// code is 0 after success, 2 for flags that cannot be read, else 1.
pub fn run_once<C, F, E>(
    component: &'static str,
    version: &'static str,
    work: impl FnOnce(Client, C) -> F,
) -> ExitCode
where
    C: Parser + AsRef<Options>,
    F: Future<Output = Result<(), E>>,
    E: Into<BoxError>,
{
    let (config, runtime) = match set_up::<C>() {
        Ok(ready) => ready,
        Err(code) => return code,
    };
    let options = config.as_ref().clone();
    let outcome = runtime.block_on(async {
        let client = client::connect(component, version, options.kubeconfig.as_deref()).await?;
        work(client, config).await.map_err(Into::into)
    });
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error: BoxError = error;
            tracing::error!(error = chain(&*error), "failed");
            ExitCode::FAILURE
        }
    }
}

/// The flags, and a runtime; logs and the TLS provider are set up. Otherwise the code to exit with, after the reason was
/// told.
fn set_up<C>() -> Result<(C, Runtime), ExitCode>
where
    C: Parser + AsRef<Options>,
{
    let config = C::try_parse().map_err(|error| {
        // nowhere to report a closed terminal to
        let _ = error.print();
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(u8::MAX))
    })?;
    let options = config.as_ref();
    telemetry::init(options.log_format, &options.log_filter).map_err(|error| complain(&error))?;
    telemetry::log_panics();
    // an error means that one is installed already
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| complain(&error))?;
    Ok((config, runtime))
}

async fn supervise<F, E>(
    component: &'static str,
    version: &'static str,
    client: Client,
    admin_address: SocketAddr,
    drain: Drain,
    signals: impl Stream<Item = &'static str> + Unpin,
    start: impl FnOnce(Context) -> F,
) -> Result<Ending, BoxError>
where
    F: Future<Output = Result<(), E>>,
    E: Into<BoxError>,
{
    let (context, supervisor) = Context::new(component, version, client)?;
    let readiness = context.readiness.clone();
    let started = readiness.register("start");
    context
        .serve_admin(admin_address)
        .map_err(|source| AdminAddress {
            address: admin_address,
            source,
        })?;
    let running = supervisor.run(signals, &readiness, drain);
    let mut running = std::pin::pin!(running);
    // a signal is heeded also while the daemon is still being set up
    tokio::select! {
        ending = &mut running => return Ok(ending),
        outcome = start(context) => outcome.map_err(Into::into)?,
    }
    started.fulfil();
    Ok(running.await)
}

#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for the admin server")]
struct AdminAddress {
    address: SocketAddr,
    source: std::io::Error,
}

/// For errors before there is a log.
fn complain(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    // nowhere to report a closed terminal to
    let _ = writeln!(std::io::stderr(), "error: {}", chain(error));
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use futures::{StreamExt, stream};
    use tokio::sync::oneshot;

    use super::*;
    use crate::scripted::ScriptedApi;
    use crate::shutdown::Stage;

    const DRAIN: Drain = Drain {
        grace: Duration::ZERO,
        deadline: Duration::from_secs(5),
    };

    async fn supervised<F: Future<Output = Result<(), BoxError>>>(
        signals: impl Stream<Item = &'static str> + Unpin,
        start: impl FnOnce(Context) -> F,
    ) -> Result<Ending, BoxError> {
        let (client, _api) = ScriptedApi::start();
        supervise(
            "test",
            "0",
            client,
            "127.0.0.1:0".parse().unwrap(),
            DRAIN,
            signals,
            start,
        )
        .await
    }

    #[tokio::test]
    async fn ready_after_start_and_gone_after_a_signal() {
        let (signal, signalled) = oneshot::channel();
        let signals = Box::pin(stream::once(signalled).map(|_: Result<(), _>| "SIGTERM"));
        let ending = supervised(signals, |context| async move {
            let stop = context.tasks.stop(Stage::Work);
            assert!(context.readiness.check().is_err(), "still starting");
            let readiness = context.readiness.clone();
            context
                .tasks
                .spawn::<Infallible>(Stage::Work, "loop", async move {
                    readiness.ready().await;
                    signal.send(()).unwrap();
                    stop.cancelled().await;
                    Ok(())
                });
            Ok(())
        })
        .await;
        assert_eq!(ending.unwrap(), Ending::Orderly);
    }

    #[tokio::test]
    async fn a_signal_is_heeded_while_starting() {
        let signals = stream::iter(["SIGTERM"]).chain(stream::pending());
        let ending = supervised(signals, |_| std::future::pending()).await;
        assert_eq!(ending.unwrap(), Ending::Orderly);
    }

    #[tokio::test]
    async fn what_cannot_start_says_why() {
        let failed = supervised(stream::pending(), |_| async {
            Err("no certificate".into())
        })
        .await;
        assert_eq!(failed.unwrap_err().to_string(), "no certificate");
    }

    #[derive(Debug, Parser)]
    struct Config {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn flags_have_defaults_and_are_checked() {
        let defaults = Config::try_parse_from(["test"]).unwrap().options;
        assert_eq!(defaults.admin_listen.port(), 8080);
        assert_eq!(defaults.log_format, LogFormat::Text);
        let given = Config::try_parse_from([
            "test",
            "--log-format",
            "json",
            "--admin-listen",
            "127.0.0.1:0",
        ])
        .unwrap();
        assert_eq!(given.options.log_format, LogFormat::Json);
        assert!(Config::try_parse_from(["test", "--admin-listen", "nonsense"]).is_err());
    }
}
