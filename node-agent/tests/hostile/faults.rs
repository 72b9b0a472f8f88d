//! Every single step fails once, with every error that a disk has to offer.

use std::io;

use pullpass_core::docker_config::Entries;
use pullpass_node_agent::host::RealHost;
use pullpass_node_agent::plan::converge;
use rstest::rstest;
use rustix::io::Errno;

use crate::interrupted::Interrupted;
use crate::place::{Place, entries};

/// More than any convergence takes.
const STEPS: usize = 200;

#[rstest]
fn whatever_fails_the_file_is_whole_and_the_next_attempt_succeeds(
    #[values(Errno::IO, Errno::NOSPC, Errno::ROFS, Errno::DQUOT)] error: Errno,
    #[values(true, false)] has_foreign: bool,
    #[values("create", "rotate", "withdraw")] what: &str,
) {
    for steps in 0..STEPS {
        let place = Place::before(what, has_foreign);
        let root = place.path().join("root");
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
        place.assert_whole(has_foreign, steps);
        // and in the end as if nothing had happened
        converge(&RealHost::open(&root).unwrap(), &wanted).unwrap();
        if what == "withdraw" {
            place.assert_withdrawn(has_foreign, steps);
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
