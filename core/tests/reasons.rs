//! The documentation's page of reasons is what the code says.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;

use pullpass_core::reason::Reason;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reasons.md");

fn page() -> String {
    let mut page = String::from(
        "# Reasons\n\n\
         One word for each outcome, the same in metrics, events, conditions, warnings, audit annotations and `PullAccess`.\n\
         This page is written from `core/src/reason.rs` by `make generate`.\n\n\
         | reason | what it means | what to do |\n|---|---|---|\n",
    );
    for reason in Reason::ALL {
        writeln!(
            page,
            "| `{reason}` | {} | {} |",
            reason.meaning(),
            reason.advice()
        )
        .unwrap();
    }
    page
}

#[test]
fn the_page_is_up_to_date() {
    if std::env::var_os("PULLPASS_WRITE_DOCS").is_some() {
        std::fs::write(PAGE, page()).unwrap();
    }
    let written = std::fs::read_to_string(PAGE).unwrap();
    assert!(
        written == page(),
        "docs/reasons.md differs from the code: run 'make generate'"
    );
}
