//! Every single step fails once, with every error that a disk has to offer.

use std::fs;
use std::io;

use pullpass_core::docker_config::Entries;
use pullpass_node_agent::host::RealHost;
use pullpass_node_agent::plan::converge;
use rstest::rstest;
use rustix::io::Errno;

use crate::interrupted::Interrupted;
use crate::place::{FOREIGN, Place, entries, entry};

/// More than any convergence takes.
const STEPS: usize = 200;

#[rstest]
fn whatever_fails_the_file_is_whole_and_the_next_attempt_succeeds(
    #[values(Errno::IO, Errno::NOSPC, Errno::ROFS, Errno::DQUOT)] error: Errno,
    #[values(true, false)] has_foreign: bool,
    #[values("create", "rotate", "withdraw")] what: &str,
) {
    for steps in 0..STEPS {
        let place = if has_foreign {
            Place::with_foreign()
        } else {
            Place::new()
        };
        let root = place.path().join("root");
        if what != "create" {
            place.deliver("old").unwrap();
        }
        let wanted = if what == "withdraw" {
            Entries::new()
        } else {
            entries("new")
        };
        let host = Interrupted::new(RealHost::open(&root).unwrap(), steps, || {
            io::Error::from(error)
        });
        let outcome = converge(&host, &wanted);
        // at once: old or new, and nothing else
        if has_foreign || place.root("config.json").exists() {
            let now = place.auths();
            assert_eq!(
                has_foreign,
                now.contains_key("admin.example.com"),
                "step {steps}"
            );
            let ours = now.get("ours.example.com");
            assert!(
                ours.is_none() || ours == Some(&entry("old")) || ours == Some(&entry("new")),
                "step {steps}"
            );
        }
        // and in the end as if nothing had happened
        converge(&RealHost::open(&root).unwrap(), &wanted).unwrap();
        if what == "withdraw" {
            let expected: &[&str] = if has_foreign { &["config.json"] } else { &[] };
            assert_eq!(place.names(), expected, "step {steps}");
            if has_foreign {
                assert_eq!(
                    fs::read_to_string(place.root("config.json")).unwrap(),
                    FOREIGN
                );
            }
        } else {
            place.assert_delivered("new");
        }
        if outcome.is_ok() {
            assert!(steps > 10, "{steps} steps are not all there are");
            return;
        }
    }
    panic!("it never came to its end");
}
