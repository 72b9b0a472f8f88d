//! The program that kubelet runs for each image that it is about to pull.

use std::io::{stderr, stdin, stdout};
use std::process::ExitCode;
use std::time::SystemTime;

use pullpass_credential_provider::{Streams, run};

fn main() -> ExitCode {
    let streams = Streams {
        input: &mut stdin().lock(),
        output: &mut stdout().lock(),
        errors: &mut stderr().lock(),
    };
    run(std::env::args_os().skip(1), streams, SystemTime::now())
}
