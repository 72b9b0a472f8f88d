//! The subcommand for a node whose agent is gone: the real program, on a directory that stands for the host.

use std::fs;
use std::path::Path;
use std::process::Command;

use pullpass_node_agent::{Delivery as _, Effort, KubeletFile};

use crate::place::{FOREIGN, alone, bundles, directory};

fn run(host: &Path) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_pullpass-node-agent"))
        .arg("--host")
        .arg(host)
        .arg("uninstall")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    (output.status.success(), said)
}

#[test]
fn it_asks_nobody_and_can_be_repeated() {
    let host = tempfile::tempdir().unwrap();
    let root = host.path().join("var/lib/kubelet");
    fs::create_dir_all(root.join("pods")).unwrap();
    fs::write(root.join("config.json"), FOREIGN).unwrap();
    let file = KubeletFile::new(directory(&root), Vec::new());
    alone(|| file.deliver(&bundles("p"), Effort::Write)).unwrap();
    for _ in 0..2 {
        let (is_done, said) = run(host.path());
        assert!(is_done, "{said}");
        assert_eq!(
            fs::read_to_string(root.join("config.json")).unwrap(),
            FOREIGN
        );
        assert_eq!(fs::read_dir(&root).unwrap().count(), 2);
    }
}

#[test]
fn what_is_in_the_way_is_told_and_is_a_failure() {
    let host = tempfile::tempdir().unwrap();
    let (is_done, said) = run(host.path());
    assert!(!is_done);
    assert!(said.contains("NodePathMissing"), "{said}");
    assert!(said.contains("/var/lib/kubelet"), "{said}");
}
