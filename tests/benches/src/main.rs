//! Measures what Pullpass promises about its speed: side by side in one run, interleaved, medians with their spread.
//! Nothing here decides a test by time.

mod admission;
mod checkout;
mod cluster;
mod command;
mod decision;
mod footprint;
mod instructions;
mod load;
mod machine;
mod nodes;
mod pods;
mod process;
mod report;
mod reviews;
mod server;
mod statistics;
mod tls;
mod webhook;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match command::Command::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::say(&format!("pullpass-bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
