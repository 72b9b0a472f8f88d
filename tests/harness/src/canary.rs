//! Credentials that are recognised wherever they turn up.

use crate::{name, objects};

/// What every password begins with that tests give to Pullpass.
pub const MARKER: &str = "canary-6f1d2c9b";

/// A password that no other test uses.
pub fn password() -> String {
    name::unique(MARKER)
}

/// A text in every spelling in which it could be told.
#[derive(Clone, Debug)]
pub struct Canary {
    spellings: Vec<Vec<u8>>,
}

impl Canary {
    /// `text` as it is, in base64 at any place of what was encoded, in base64 of that (which is how a docker config's
    /// `auth` looks in a Secret), and as the list of numbers that a `Debug` of bytes is. It is of at least 12 bytes.
    pub fn of(text: &str) -> Self {
        let once = within_base64(text.as_bytes());
        let twice = once.iter().flat_map(|encoded| within_base64(encoded));
        let numbers = |separator: &str| {
            let numbers: Vec<String> = text.bytes().map(|byte| byte.to_string()).collect();
            numbers.join(separator).into_bytes()
        };
        Self {
            spellings: [text.as_bytes().to_vec(), numbers(", "), numbers(",")]
                .into_iter()
                .chain(twice)
                .chain(once.iter().cloned())
                .collect(),
        }
    }

    /// Whether one of its spellings is somewhere in `content`.
    pub fn is_in(&self, content: impl AsRef<[u8]>) -> bool {
        let content = content.as_ref();
        self.spellings
            .iter()
            .any(|spelling| memchr::memmem::find(content, spelling).is_some())
    }
}

/// What is sure to be in the base64 of whatever has `bytes` in it: it differs with their place, in three ways.
fn within_base64(bytes: &[u8]) -> Vec<Vec<u8>> {
    (0..3)
        .map(|before| {
            let encoded = objects::base64([&vec![0; before], bytes].concat());
            // characters of six bits; those that hold bits of neighbours are not sure
            let first = (before * 8).div_ceil(6);
            let end = (before + bytes.len()) * 8 / 6;
            encoded.as_bytes()[first..end].to_vec()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_at_every_place_and_in_every_spelling() {
        let password = password();
        let canary = Canary::of(MARKER);
        for before in 0..7 {
            for after in 0..7 {
                let text = format!("{}{password}{}", "u".repeat(before), ":".repeat(after));
                let once = objects::base64(&text);
                let json = format!("{{\"auth\":\"{once}\"}}");
                let bytes = text.as_bytes();
                for told in [
                    text.clone(),
                    once,
                    objects::base64(json),
                    format!("{bytes:?}"),
                    serde_json::to_string(bytes).unwrap(),
                ] {
                    assert!(canary.is_in(&told), "{told}");
                }
            }
        }
    }

    #[test]
    fn nothing_else_is_taken_for_it() {
        let canary = Canary::of(MARKER);
        for other in [
            "",
            "canary",
            "canary-6f1d2c9",
            &objects::base64("canary-6f1d2c9"),
        ] {
            assert!(!canary.is_in(other), "{other}");
        }
    }
}
