//! A source Secret's docker config: refused without repeating it, or written so that it is read back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pullpass_core::docker_config::{Entries, parse, parse_legacy, select, write};
use secrecy::ExposeSecret as _;

/// Longer texts of the input do not occur in an error's own words by chance.
const TELLING: usize = 24;

fuzz_target!(|content: &[u8]| {
    for read in [parse(content), parse_legacy(content)] {
        match read {
            Ok(entries) => check_entries(&entries),
            Err(error) => check_error(&error.to_string(), content),
        }
    }
});

fn check_entries(entries: &Entries) {
    assert!(!entries.is_empty());
    let written = write(entries);
    let read = parse(written.expose_secret()).expect("what is written can be read");
    assert!(read.keys().eq(entries.keys()));
    assert_eq!(write(&read).expose_secret(), written.expose_secret());
    for key in entries.keys() {
        let selected = select(entries, key);
        assert!(selected.contains_key(key));
        assert!(selected.keys().all(|other| other.host() == key.host()));
    }
}

fn check_error(message: &str, content: &[u8]) {
    let own_words = [
        "letters, digits, '-', '_', '.' and '*' only",
        "registry.example.com/team",
        "write the Secret with 'printf %s', not 'echo'",
    ];
    for window in content.windows(TELLING) {
        let Ok(text) = std::str::from_utf8(window) else {
            continue;
        };
        let is_own = own_words.iter().any(|words| words.contains(text.trim()));
        assert!(is_own || !message.contains(text), "{message}");
    }
}
