//! The node as it was before, without asking anybody: for a node whose agent is gone.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;

use pullpass_daemon::telemetry;

use crate::config::{AgentOptions, Config};
use crate::delivery::Trouble;

/// The subcommand as a process.
pub(crate) fn main(config: &Config) -> ExitCode {
    if let Err(error) = telemetry::init(config.options.log_format, &config.options.log_filter) {
        // nowhere to report a closed terminal to
        let _ = writeln!(std::io::stderr(), "error: {error}");
        return ExitCode::FAILURE;
    }
    match uninstall(&config.agent) {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            tracing::error!(reason = %trouble.reason, message = trouble.message, "failed");
            ExitCode::FAILURE
        }
    }
}

/// Takes everything of Pullpass off this node.
///
/// # Errors
/// What is in the way. It can be repeated.
pub fn uninstall(options: &AgentOptions) -> Result<(), Trouble> {
    let untold = crate::runtime_trust(options).map(|trust| trust.keep(&BTreeMap::new()));
    let withdrawals = crate::deliveries(options)
        .into_iter()
        .map(|delivery| delivery.withdraw());
    for withdrawn in untold.into_iter().chain(withdrawals) {
        let withdrawn = withdrawn?;
        let changed = withdrawn.changed;
        match withdrawn.remark {
            Some(remark) => tracing::warn!(changed, reason = %remark.reason, "{}", remark.message),
            None => tracing::info!(changed, "nothing of Pullpass is left here"),
        }
    }
    Ok(())
}
