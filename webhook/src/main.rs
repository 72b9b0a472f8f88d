//! The webhook's process.

use std::process::ExitCode;

use pullpass_webhook::{COMPONENT, Config, DRAIN, StartError, VERSION, start};

fn main() -> ExitCode {
    pullpass_daemon::run(COMPONENT, VERSION, DRAIN, |context, config: Config| async {
        start(context, config).await?;
        Ok::<_, StartError>(())
    })
}
