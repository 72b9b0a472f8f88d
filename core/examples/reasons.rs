//! Prints the documentation's table of reasons.

#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use pullpass_core::reason::Reason;

fn main() {
    println!("# Reasons\n");
    println!(
        "One word for each outcome, the same in metrics, events, conditions, warnings, audit annotations and `PullAccess`."
    );
    println!("This page is generated from `core/src/reason.rs` by `make generate`.\n");
    println!("| reason | what it means | what to do |");
    println!("|---|---|---|");
    for reason in Reason::ALL {
        println!(
            "| `{reason}` | {} | {} |",
            reason.meaning(),
            reason.advice()
        );
    }
}
