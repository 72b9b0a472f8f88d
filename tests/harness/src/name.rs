//! Names that no other test uses.

use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A name for a namespace, Registry or repository: `prefix`, this process and a number. `prefix` is a DNS label of at
/// most 40 characters.
pub fn unique(prefix: &str) -> String {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{:x}-{number}", std::process::id())
}

/// The running test, as its harness names it, or `main` outside of one.
pub fn test() -> String {
    std::thread::current()
        .name()
        .unwrap_or("unnamed")
        .replace("::", ".")
}
