//! The controller's process.

use std::process::ExitCode;

fn main() -> ExitCode {
    pullpass_controller::main()
}
