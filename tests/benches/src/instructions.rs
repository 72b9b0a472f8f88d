//! Instructions of a decision per byte of its review, counted by callgrind: the one figure here that a busy machine
//! does not change.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::report::{Bound, Section, Unit};
use crate::reviews::Size;
use crate::statistics::Spread;
use crate::{checkout, report};

/// This part's name.
pub(crate) const PART: &str = "instructions";

/// What is promised.
const PROMISE: f64 = 17.0;

/// How far a compiler or a library may move the figure before somebody has to look at it.
const ROOM: f64 = 1.3;

/// Decisions in the shorter of two runs. What a process does once is in both, and falls out of the difference.
const DECISIONS: u32 = 200;

/// Counts, and fails far beyond what is promised.
pub(crate) fn measure() -> Result<Section> {
    let mut section = Section::new(
        PART,
        "Decision without network",
        "From the bytes of a review to those of the answer, counted by callgrind: the difference between two runs, of \
         which one decides twice as often, per decision and byte.",
    );
    for size in Size::ALL {
        let bytes = u32::try_from(size.read()?.len())?;
        report::say(&format!("counting instructions: {}", size.as_str()));
        let once = count(size, DECISIONS)?;
        let twice = count(size, 2 * DECISIONS)?;
        let of_decisions = twice.checked_sub(once).context("more took less")?;
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        let each = of_decisions as f64 / f64::from(DECISIONS);
        let per_byte = each / f64::from(bytes);
        section.push(
            "P3",
            format!("instructions per byte, {} ({bytes} bytes)", size.as_str()),
            Unit::Count,
            Spread::exact(per_byte),
            Some(Bound::AtMost(PROMISE)),
        );
    }
    Ok(section)
}

/// Whether the figures leave the compiler the room that it may need.
pub(crate) fn check(section: &Section) -> Result<()> {
    for row in &section.rows {
        ensure!(
            row.figure.median <= PROMISE * ROOM,
            "{}: {:.1}, while {PROMISE} are promised",
            row.what,
            row.figure.median
        );
    }
    Ok(())
}

fn count(size: Size, decisions: u32) -> Result<u64> {
    let output = checkout::output()?.join(format!("callgrind.{}.{decisions}", size.as_str()));
    let review = checkout::path("tests/reviews").join(format!("{}.json", size.as_str()));
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--error-exitcode=1"])
        .arg(format!("--callgrind-out-file={}", output.display()))
        .arg(std::env::current_exe()?)
        .arg("decide")
        .arg(review)
        .args(["--times", &decisions.to_string()])
        .stdin(Stdio::null())
        .output()
        .context("cannot run valgrind: install Debian's package valgrind")?;
    ensure!(
        run.status.success(),
        "valgrind failed: {}",
        String::from_utf8_lossy(&run.stderr)
    );
    total(&output)
}

/// What callgrind has counted in all.
pub(crate) fn total(callgrind: &Path) -> Result<u64> {
    let text = std::fs::read_to_string(callgrind)?;
    instructions(&text).with_context(|| format!("no total in {}", callgrind.display()))
}

/// The line `totals:` of callgrind's format, of the one event that is counted.
fn instructions(text: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix("totals:"))?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read() {
        assert_eq!(
            instructions("events: Ir\nfn=(1)\n1 5\ntotals: 1234\n"),
            Some(1234)
        );
        assert_eq!(instructions("events: Ir\n"), None);
    }
}
