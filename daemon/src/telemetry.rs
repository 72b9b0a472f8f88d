//! Logs: one line an event on standard output, as text or JSON.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::error::BoxError;

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
    let filter = EnvFilter::try_new(filter).map_err(|source| TelemetryError::Filter {
        filter: filter.to_owned(),
        source,
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(colours);
    Ok(match format {
        LogFormat::Text => Box::new(builder.finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
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
