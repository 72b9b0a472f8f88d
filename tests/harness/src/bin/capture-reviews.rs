//! Writes `tests/reviews/*.json` anew, from a real API server.

use std::process::ExitCode;

use pullpass_harness::{lease, reviews};

#[tokio::main(flavor = "current_thread")]
#[allow(clippy::print_stderr, reason = "a command speaks to whoever runs it")]
async fn main() -> ExitCode {
    let server = lease().await;
    for (name, body) in reviews::capture(&server).await {
        let path = reviews::directory().join(format!("{name}.json"));
        if let Err(error) = std::fs::write(&path, &body) {
            eprintln!("cannot write {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
        eprintln!("{}: {} bytes", path.display(), body.len());
    }
    ExitCode::SUCCESS
}
