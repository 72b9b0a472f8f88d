//! A kubelet credential provider plugin that obeys the namespace policy of Pullpass.
//!
//! Kubelet starts the plugin for an image, writes one request to its standard input and reads one answer from its
//! standard output. The plugin reads the bundles that the node agent keeps in a directory, decides by the pod's token
//! which namespace asks, and answers with what the policy gives that namespace. It asks nobody and remembers nothing,
//! but for the configuration that kubelet called it by.
//!
//! **What an answer rests on.** The plugin cannot verify a token's signature: the issuer's keys are not on the node. It
//! trusts the token's claims because kubelet asked the API server for that token a moment before, for the very pod whose
//! image is to be pulled, and because nobody but root can run the plugin on the store, whose files only root can read.
//! Whoever is root on the node needs no forged token to read them.

pub mod arguments;
pub mod claims;
pub mod protocol;
pub mod store;

mod answer;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use secrecy::ExposeSecret as _;

pub use answer::{Answer, answer};
use arguments::{Arguments, ArgumentsError};
use protocol::{Request, RequestError};
use store::StoreError;

/// The streams of one call.
pub struct Streams<'a> {
    /// Kubelet's request.
    pub input: &'a mut dyn Read,
    /// The answer, if there is one.
    pub output: &'a mut dyn Write,
    /// What went wrong. Kubelet logs it where the exit code tells of a failure.
    pub errors: &'a mut dyn Write,
}

/// Why there is no answer. Kubelet logs it, counts it in `kubelet_credential_provider_plugin_errors_total`, and goes on
/// with other credentials, or without any.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Arguments(#[from] ArgumentsError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot write the answer: {0}")]
    Output(std::io::Error),
}

/// Answers one request.
///
/// The exit code is 0 where there is an answer, be it an empty one, and 1 where the request cannot be read, or where
/// nothing was found and a part of the store could not be read. Kubelet takes a failure for an empty answer and tells of it
/// in its log, so no pull depends on which of the two it is. No store at all is nothing wrong, since the agent may not have
/// run yet or may be gone: that answer is empty.
pub fn run(
    arguments: impl Iterator<Item = OsString>,
    streams: Streams<'_>,
    now: SystemTime,
) -> ExitCode {
    match try_run(arguments, streams.input, streams.output, now) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(note)) => {
            // only whoever runs the plugin by hand sees it: the answer itself is good
            let _ = writeln!(streams.errors, "{note}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            let _ = writeln!(streams.errors, "{failure}");
            ExitCode::FAILURE
        }
    }
}

fn try_run(
    arguments: impl Iterator<Item = OsString>,
    input: &mut dyn Read,
    output: &mut dyn Write,
    now: SystemTime,
) -> Result<Option<String>, Failure> {
    let arguments = Arguments::parse(arguments)?;
    let request = Request::read(input)?;
    store::note_configuration(&arguments);
    let store = store::read(&arguments.store);
    // a clock before the epoch makes no token look expired
    let seconds = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let answer = answer(&request, &store.bundles, seconds);
    if let Some(error) = store.error.filter(|_| answer.logins.is_empty()) {
        return Err(error.into());
    }
    let response = protocol::response(answer.logins);
    output
        .write_all(response.expose_secret())
        .and_then(|()| output.flush())
        .map_err(Failure::Output)?;
    Ok(answer.set_aside.map(|error| {
        format!("the token was set aside, so the answer holds node-wide entries only: {error}")
    }))
}
