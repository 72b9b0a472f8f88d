//! Logs: one line an event on standard output, as text or JSON.

use std::io::IsTerminal;

use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt;

use crate::error::BoxError;

/// kube's client logs an answer that it cannot decode in full, and one about Secrets holds credentials. Whatever the
/// filter says, that stays out; the error itself comes back to whoever asked.
const NO_ANSWERS: &str = "kube_client::client=off";

/// The AWS SDK writes whole requests and answers into its log at trace level, keys and tokens included. Its crates' targets
/// begin like this; whatever the filter says, nothing finer than this level comes out of them.
const AWS_TARGETS: (&str, Level) = ("aws_", Level::INFO);

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logs cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error(
        "log filter {filter:?} cannot be read: write a level, or target=level pairs separated by commas, such as \"info,kube=debug\""
    )]
    Filter {
        /// As given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// A subscriber is there already.
    #[error("logs are set up already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Sends the process's log to standard output. `filter` is a level or a list of `target=level`.
///
/// # Errors
/// [`TelemetryError`] if the filter cannot be read, or a log is set up already.
pub fn init(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    subscriber(
        format,
        filter,
        std::io::stdout,
        std::io::stdout().is_terminal(),
    )?
    .try_init()
    .map_err(TelemetryError::Twice)
}

fn subscriber<W>(
    format: LogFormat,
    filter: &str,
    writer: W,
    colours: bool,
) -> Result<Box<dyn tracing::Subscriber + Send + Sync>, TelemetryError>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let unreadable = |source| TelemetryError::Filter {
        filter: filter.to_owned(),
        source,
    };
    let filter = EnvFilter::try_new(filter)
        .map_err(unreadable)?
        .add_directive(NO_ANSWERS.parse().map_err(unreadable)?);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(colours);
    let no_requests = filter_fn(|metadata| {
        let (target, finest) = AWS_TARGETS;
        !metadata.target().starts_with(target) || *metadata.level() <= finest
    });
    Ok(match format {
        LogFormat::Text => Box::new(builder.finish().with(no_requests)),
        LogFormat::Json => {
            let subscriber = builder.json().flatten_event(true).finish();
            Box::new(subscriber.with(no_requests))
        }
    })
}

/// A panic goes to the log like everything else, so that a JSON log stays one.
pub(crate) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message: BoxError = panic
            .payload_as_str()
            .map_or_else(|| "panic without a message".into(), Into::into);
        let location = panic.location().map(ToString::to_string);
        tracing::error!(error = %message, location, "panic: this is a bug in Pullpass, please report it");
    }));
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Captured {
        fn lines(&self) -> Vec<String> {
            String::from_utf8(self.0.lock().unwrap().clone())
                .unwrap()
                .lines()
                .map(str::to_owned)
                .collect()
        }
    }

    fn logged(format: LogFormat, filter: &str) -> Vec<String> {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = subscriber(format, filter, move || writer.clone(), false).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(answer = 42, "said");
            tracing::debug!("details");
        });
        captured.lines()
    }

    #[test]
    fn json_lines_are_json() {
        let lines = logged(LogFormat::Json, "info");
        assert_eq!(lines.len(), 1);
        let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(line["message"], "said");
        assert_eq!(line["answer"], 42);
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn text_lines_are_filtered_too() {
        assert!(logged(LogFormat::Text, "info")[0].ends_with("said answer=42"));
        assert_eq!(logged(LogFormat::Text, "debug").len(), 2);
        assert_eq!(
            logged(LogFormat::Text, "warn,elsewhere=debug"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn answers_of_the_api_server_are_logged_under_no_filter() {
        for filter in ["trace", "kube_client=trace", "kube_client::client=trace"] {
            let captured = Captured::default();
            let writer = captured.clone();
            let subscriber =
                subscriber(LogFormat::Text, filter, move || writer.clone(), false).unwrap();
            tracing::subscriber::with_default(subscriber, || {
                tracing::error!(target: "kube_client::client", "CANARY");
                tracing::error!(target: "kube_client::config", "kept");
            });
            let lines = captured.lines();
            assert!(
                lines.iter().all(|line| !line.contains("CANARY")),
                "{filter}"
            );
            assert_eq!(
                lines.len(),
                usize::from(filter != "kube_client::client=trace")
            );
        }
    }

    #[test]
    fn requests_to_a_cloud_are_logged_under_no_filter() {
        for filter in ["trace", "aws_smithy_runtime::client::orchestrator=trace"] {
            for format in [LogFormat::Text, LogFormat::Json] {
                let captured = Captured::default();
                let writer = captured.clone();
                let subscriber = subscriber(format, filter, move || writer.clone(), false).unwrap();
                tracing::subscriber::with_default(subscriber, || {
                    const TARGET: &str = "aws_smithy_runtime::client::orchestrator";
                    tracing::trace!(target: TARGET, "CANARY");
                    tracing::debug!(target: TARGET, "CANARY");
                    tracing::info!(target: TARGET, "kept");
                });
                let lines = captured.lines();
                assert_eq!(lines.len(), 1, "{filter}");
                assert!(lines[0].contains("kept"), "{filter}");
            }
        }
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_explained() {
        let error = subscriber(LogFormat::Text, "a=b=c", io::sink, false)
            .err()
            .expect("no filter");
        assert!(error.to_string().contains("info,kube=debug"), "{error}");
    }
}
