//! Others who write, read and move things at the same time.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use pullpass_core::reason::Reason;
use pullpass_node_agent::atomic_file;
use pullpass_node_agent::host::RealHost;
use pullpass_node_agent::{Delivery as _, Effort};
use serde_json::{Value, json};

use crate::place::{Place, auths, bundles, entry};

/// Enough for each interleaving of a few system calls to come up.
const ROUNDS: usize = 300;

/// Runs `other` again and again while `work` does its work.
fn meanwhile<T>(other: impl Fn() + Sync, work: impl FnOnce() -> T) -> T {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                other();
            }
        });
        // a panic of the work has to end the other one, too
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        is_over.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// How often it succeeds, in so many attempts. Where it never does, a busy machine interleaves the same way for long: then it
/// goes on until it has succeeded once.
fn successes(attempts: usize, attempt: impl Fn(usize) -> bool) -> usize {
    const LONGER: usize = 50;
    let mut count = 0;
    for number in 0..attempts * LONGER {
        if number >= attempts && count > 0 {
            break;
        }
        count += usize::from(attempt(number));
    }
    count
}

#[test]
fn a_directory_that_turns_into_a_link_leads_nowhere() {
    let place = Place::new();
    fs::create_dir(place.root("real")).unwrap();
    symlink("../outside", place.root("link")).unwrap();
    fs::rename(place.root("real"), place.root("sub")).unwrap();
    let host = RealHost::open(&place.path().join("root")).unwrap();
    let swap = || {
        let _ = fs::rename(place.root("sub"), place.root("real"));
        let _ = fs::rename(place.root("link"), place.root("sub"));
        let _ = fs::rename(place.root("sub"), place.root("link"));
        let _ = fs::rename(place.root("real"), place.root("sub"));
    };
    let written = meanwhile(swap, || {
        successes(ROUNDS * 10, |_| {
            atomic_file::replace(&host, "sub/file", "sub/new", b"x", 0o600).is_ok()
        })
    });
    assert!(written > 0, "it never was a directory");
    place.assert_outside_untouched();
}

#[test]
fn a_root_that_turns_into_a_link_leads_nowhere() {
    let place = Place::new();
    let root = place.path().join("root");
    let (real, link) = (place.path().join("real"), place.path().join("link"));
    symlink("outside", &link).unwrap();
    fs::create_dir(place.outside("pods")).unwrap();
    let swap = || {
        let _ = fs::rename(&root, &real);
        let _ = fs::rename(&link, &root);
        let _ = fs::rename(&root, &link);
        let _ = fs::rename(&real, &root);
    };
    let delivered = meanwhile(swap, || {
        successes(ROUNDS, |round| place.deliver(&format!("p{round}")).is_ok())
    });
    assert!(delivered > 0, "it never was a directory");
    fs::remove_dir(place.outside("pods")).unwrap();
    place.assert_outside_untouched();
}

#[test]
fn a_file_that_turns_into_a_link_is_not_written_through() {
    let place = Place::new();
    symlink("../outside/file", place.root("link")).unwrap();
    let swap = || {
        let _ = fs::rename(place.root("config.json"), place.root("aside"));
        let _ = fs::rename(place.root("link"), place.root("config.json"));
        let _ = fs::rename(place.root("config.json"), place.root("link"));
        let _ = fs::rename(place.root("aside"), place.root("config.json"));
    };
    meanwhile(swap, || {
        for round in 0..ROUNDS {
            let _ = place.deliver(&format!("p{round}"));
        }
    });
    place.assert_outside_untouched();
}

/// What a careful program does: it reads the file, sees to it that its own entries are there, and replaces it as a whole. It
/// knows them by itself: between two steps of an exchange the file may be without the latest.
fn add_entries(root: &Path, hosts: &[String]) {
    let path = root.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for host in hosts {
        config["auths"][host] = json!({"auth": "YTpi"});
    }
    let temporary = root.join("theirs");
    fs::write(&temporary, config.to_string()).unwrap();
    fs::rename(&temporary, &path).unwrap();
}

#[test]
fn no_entry_of_a_concurrent_writer_is_lost() {
    let place = Place::with_foreign();
    place.deliver("p").unwrap();
    let root = place.path().join("root");
    // a few passwords only: the agent knows its eight newest, and a writer that is held up here would bring back older ones
    let rotations = AtomicUsize::new(0);
    let rotate = || {
        let password = rotations.fetch_add(1, Ordering::Relaxed) % 4;
        drop(place.deliver(&password.to_string()));
    };
    meanwhile(rotate, || {
        let mut hosts = Vec::new();
        for round in 0..ROUNDS {
            hosts.push(format!("r{round}.example.com"));
            add_entries(&root, &hosts);
        }
    });
    place.deliver("last").unwrap();
    place.assert_delivered_among("last", ROUNDS + 1);
}

#[test]
fn every_reader_finds_a_whole_file_with_the_old_or_the_new_entry() {
    let place = Place::with_foreign();
    place.deliver("p0").unwrap();
    let read = || {
        let text = fs::read_to_string(place.root("config.json")).unwrap();
        let found = auths(&text);
        assert!(found.contains_key("admin.example.com"));
        let is_ours = |round: usize| found["ours.example.com"] == entry(&format!("p{round}"));
        assert!((0..ROUNDS).any(is_ours));
    };
    meanwhile(read, || {
        for round in 1..ROUNDS {
            place.deliver(&format!("p{round}")).unwrap();
        }
    });
}

#[test]
fn two_agents_are_never_at_work_at_once() {
    let place = Place::new();
    let other = RealHost::open(&place.path().join("root")).unwrap();
    assert!(other.lock().unwrap());
    let trouble = place
        .kubelet_file()
        .deliver(&bundles("p"), Effort::Write)
        .unwrap_err();
    assert_eq!(trouble.reason, Reason::NodePending);
    assert!(trouble.passes);
    assert!(place.names().is_empty());
    drop(other);
    place.deliver("p").unwrap();
    place.assert_delivered("p");
}

#[test]
fn a_directory_that_is_deleted_is_known_as_such() {
    let place = Place::new();
    let host = RealHost::open(&place.path().join("root")).unwrap();
    let before = host.identity().unwrap();
    assert!(!host.is_deleted().unwrap());
    fs::remove_dir_all(place.path().join("root")).unwrap();
    fs::create_dir(place.path().join("root")).unwrap();
    assert!(host.is_deleted().unwrap());
    let new = RealHost::open(&place.path().join("root")).unwrap();
    assert!(!new.is_deleted().unwrap());
    assert_ne!(new.identity().unwrap(), before);
}
