//! The node agent's process.

use std::process::ExitCode;

fn main() -> ExitCode {
    pullpass_node_agent::main()
}
