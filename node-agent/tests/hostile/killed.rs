//! The process is killed at each single step: really killed, by the kernel.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use pullpass_core::docker_config::Entries;
use pullpass_core::reason::Reason;
use pullpass_node_agent::Trouble;
use pullpass_node_agent::host::RealHost;
use pullpass_node_agent::plan::converge;
use rstest::rstest;

use crate::interrupted::Interrupted;
use crate::place::{Place, alone, entries};

/// More than any convergence takes.
const STEPS: usize = 200;

const FROZEN: &str = "at the step";
const DONE: &str = "at the end";

/// What the child is to do: the directory, the step to stop at, and the password, empty to withdraw.
fn start_child(root: &Path, steps: usize, password: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "killed::child", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let order = format!("{}\n{steps}\n{password}\n", root.display());
    child
        .stdin
        .as_mut()
        .unwrap()
        .write_all(order.as_bytes())
        .unwrap();
    child
}

/// Waits until the child stands still, and kills it. Returns whether it had come to its end.
fn kill_at_step(mut child: Child, meanwhile: impl FnOnce()) -> bool {
    let output = BufReader::new(child.stdout.take().unwrap());
    let said = output
        .lines()
        .map(Result::unwrap)
        .find(|line| line.contains(FROZEN) || line.contains(DONE))
        .expect("the child says where it is");
    meanwhile();
    child.kill().unwrap();
    child.wait().unwrap();
    said.contains(DONE)
}

/// Not a test: the process that is killed. It stops at its step until it is.
#[test]
#[ignore = "the child process of the other tests here"]
fn child() {
    let mut orders = io::stdin().lines().map(Result::unwrap);
    let mut order = || orders.next().expect("orders from the parent");
    let (root, steps, password) = (order(), order(), order());
    let host = RealHost::open(Path::new(&root)).unwrap();
    alone(|| match host.lock().unwrap() {
        true => Ok(()),
        false => Err(Trouble::pending(Reason::NodePending, "")),
    })
    .unwrap();
    let wanted = if password.is_empty() {
        Entries::new()
    } else {
        entries(&password)
    };
    let say = |what: &str| {
        println!("{what}");
        io::stdout().flush().unwrap();
        loop {
            std::thread::park();
        }
    };
    let host = Interrupted::new(host, steps.parse().unwrap(), || say(FROZEN));
    converge(&host, &wanted).unwrap();
    say(DONE);
}

#[rstest]
fn wherever_it_is_killed_the_file_is_whole_and_the_next_process_goes_on(
    #[values(true, false)] has_foreign: bool,
    #[values("create", "rotate", "withdraw")] what: &str,
) {
    for steps in 0..STEPS {
        let place = Place::before(what, has_foreign);
        let root = place.path().join("root");
        let password = if what == "withdraw" { "" } else { "new" };
        let child = start_child(&root, steps, password);
        let has_ended = kill_at_step(child, || {
            // two agents are never at work at once
            assert!(!RealHost::open(&root).unwrap().lock().unwrap());
        });
        place.assert_whole(has_foreign, steps);
        if what == "withdraw" {
            place.withdraw().unwrap();
            place.assert_withdrawn(has_foreign, steps);
        } else {
            place.deliver("new").unwrap();
            place.assert_delivered("new");
        }
        if has_ended {
            assert!(steps > 10, "{steps} steps are not all there are");
            return;
        }
    }
    panic!("it never came to its end");
}
