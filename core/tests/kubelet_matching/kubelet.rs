//! Kubelet's own answers, from the Go program `kubelet-match`.

use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// Where the Go module is, seen from this crate.
const GO_MODULE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/cluster");

/// Which of these keys is this image pulled with?
#[derive(Debug, Serialize)]
pub(crate) struct Question {
    pub(crate) image: String,
    pub(crate) keys: Vec<String>,
}

/// Kubelet's answer.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answer {
    /// What it looks up, unless it cannot read the image.
    pub(crate) repository: Option<String>,
    /// Positions in the question's keys, in the order in which they are tried.
    pub(crate) matched: Vec<usize>,
    /// Why it cannot read the image.
    pub(crate) error: Option<String>,
}

/// One answer for each question, in order.
pub(crate) fn ask(questions: &[Question]) -> Vec<Answer> {
    let mut kubelet = Command::new(program())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubelet-match was just built");
    let stdin = kubelet.stdin.take().expect("stdin is a pipe");
    let stdout = BufReader::new(kubelet.stdout.take().expect("stdout is a pipe"));
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        // it answers while it reads, and would wait for ever if nobody took the answers
        scope.spawn(move || {
            let mut stdin = BufWriter::new(stdin);
            for question in questions {
                serde_json::to_writer(&mut stdin, question).expect("kubelet-match takes questions");
                stdin.write_all(b"\n").expect("kubelet-match takes lines");
            }
        });
        stdout
            .lines()
            .map(|line| serde_json::from_str(&line.expect("answers are text")).expect("an answer"))
            .collect()
    });
    assert!(kubelet.wait().expect("kubelet-match ends").success());
    assert_eq!(answers.len(), questions.len());
    answers
}

/// The program, built on first use. Go keeps what it compiled, so that this costs seconds only once.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kubelet-match");
        let built = Command::new("go")
            .args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-o"])
            .arg(&program)
            .arg("./cmd/kubelet-match")
            .current_dir(GO_MODULE)
            .output();
        match built {
            Ok(output) if output.status.success() => program,
            Ok(output) => panic!(
                "tests/cluster/cmd/kubelet-match does not build:\n{}",
                String::from_utf8_lossy(&output.stderr)
            ),
            Err(error) => panic!(
                "cannot run go ({error}): these tests compare with kubelet's own Go code, so install Go (the version that tests/cluster/go.mod names) and put it into PATH; `cargo test -p pullpass-core --lib` runs everything that needs no Go"
            ),
        }
    })
}
