//! What the agent remembers on the node itself: which entries of kubelet's docker config are its own, and what was there
//! before. It lies beside the docker config, readable by nobody else, and goes with the last entry.
//!
//! It is written before the docker config, so that an entry of ours is known as such at every moment. Of each entry it
//! holds digests, the newest first: a few older ones too, since programs that write a whole file bring back what they have
//! read long ago.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use pullpass_core::key::RegistryKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Its name, beside the docker config.
pub const STATE: &str = ".pullpass.json";

/// The format that is written and read.
const VERSION: u32 = 1;

/// For whoever finds the file.
const ABOUT: &str = "Written by Pullpass's node agent: which entries of config.json are its own. Without this file they would stay there for ever.";

/// So many digests of an entry are kept. A credential of a cloud is renewed every few hours, and what is brought back is
/// rarely older than a day.
const REMEMBERED: usize = 8;

/// SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    fn parse(text: &str) -> Option<Self> {
        let bytes = STANDARD_NO_PAD.decode(text).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }

    fn text(self) -> String {
        STANDARD_NO_PAD.encode(self.0)
    }
}

/// What the agent remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// What was there before the first entry of ours.
    pub(crate) before: Before,
    /// The entries of ours: digests of their `auth`.
    pub(crate) entries: BTreeMap<RegistryKey, Vec<Digest>>,
    /// The docker config as it was last written, or was about to be.
    pub(crate) written: Digest,
}

/// What was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// No docker config.
    Nothing,
    /// A docker config of somebody else.
    File {
        /// Its permissions.
        mode: u32,
        /// Where our entries went.
        auths: Auths,
    },
}

/// The object that entries are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Auths {
    /// It was not there.
    Absent,
    /// `null` was there.
    Null,
    /// It was there.
    Object,
}

/// Nobody of ours has written this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnreadableState;

#[derive(Serialize, Deserialize)]
struct File<'a> {
    version: u32,
    #[serde(default)]
    about: &'a str,
    before: BeforeFile,
    entries: BTreeMap<String, Vec<String>>,
    written: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum BeforeFile {
    Nothing,
    File { mode: String, auths: Auths },
}

impl State {
    pub(crate) fn parse(content: &[u8]) -> Result<Self, UnreadableState> {
        let file: File<'_> = serde_json::from_slice(content).map_err(|_| UnreadableState)?;
        if file.version != VERSION {
            return Err(UnreadableState);
        }
        let before = match file.before {
            BeforeFile::Nothing => Before::Nothing,
            BeforeFile::File { mode, auths } => Before::File {
                mode: u32::from_str_radix(&mode, 8).map_err(|_| UnreadableState)?,
                auths,
            },
        };
        let digest = |text: &String| Digest::parse(text).ok_or(UnreadableState);
        let entries = file.entries.iter().map(|(key, digests)| {
            let key = RegistryKey::parse(key).map_err(|_| UnreadableState)?;
            Ok((key, digests.iter().map(digest).collect::<Result<_, _>>()?))
        });
        Ok(Self {
            before,
            entries: entries.collect::<Result<_, _>>()?,
            written: digest(&file.written)?,
        })
    }

    /// The same state always gives the same bytes.
    pub(crate) fn write(&self) -> Vec<u8> {
        let entries = self.entries.iter().map(|(key, digests)| {
            let digests = digests.iter().map(|digest| digest.text()).collect();
            (key.to_string(), digests)
        });
        let file = File {
            version: VERSION,
            about: ABOUT,
            before: match self.before {
                Before::Nothing => BeforeFile::Nothing,
                Before::File { mode, auths } => BeforeFile::File {
                    mode: format!("{mode:04o}"),
                    auths,
                },
            },
            entries: entries.collect(),
            written: self.written.text(),
        };
        // maps with text keys always serialize
        serde_json::to_vec_pretty(&file).unwrap_or_default()
    }

    /// Whether an entry with this `auth` is ours.
    pub(crate) fn has_written(&self, key: &RegistryKey, auth: Digest) -> bool {
        self.entries
            .get(key)
            .is_some_and(|digests| digests.contains(&auth))
    }
}

/// The digests of an entry, with another one at the head.
pub(crate) fn remember(digests: Option<&Vec<Digest>>, newest: Digest) -> Vec<Digest> {
    let older = digests.into_iter().flatten().copied();
    std::iter::once(newest)
        .chain(older.filter(|digest| *digest != newest))
        .take(REMEMBERED)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn state() -> State {
        State {
            before: Before::File {
                mode: 0o644,
                auths: Auths::Null,
            },
            entries: BTreeMap::from([(
                RegistryKey::parse("r.example.com").unwrap(),
                vec![Digest::of(b"new"), Digest::of(b"old")],
            )]),
            written: Digest::of(b"file"),
        }
    }

    #[rstest]
    #[case(state())]
    #[case(State { before: Before::Nothing, entries: BTreeMap::new(), ..state() })]
    fn is_read_as_it_was_written(#[case] state: State) {
        assert_eq!(State::parse(&state.write()), Ok(state));
    }

    #[test]
    fn tells_its_finder_what_it_is_and_holds_no_credential() {
        let text = String::from_utf8(state().write()).unwrap();
        assert!(text.contains("Pullpass") && text.contains("0644"), "{text}");
        assert!(!text.contains("new"), "{text}");
    }

    #[rstest]
    #[case(b"")]
    #[case(b"{}")]
    #[case(br#"{"version":2,"before":"nothing","entries":{},"written":""}"#)]
    #[case(br#"{"version":1,"before":"nothing","entries":{},"written":"short"}"#)]
    #[case(br#"{"version":1,"before":"nothing","entries":{"a b":[]},"written":""}"#)]
    fn what_another_has_written_is_refused(#[case] content: &[u8]) {
        assert_eq!(State::parse(content), Err(UnreadableState));
    }

    #[test]
    fn remembers_the_newest_and_a_few_older_ones() {
        let mut digests = Vec::new();
        for n in 0..20u8 {
            digests = remember(Some(&digests), Digest::of(&[n]));
            digests = remember(Some(&digests), Digest::of(&[n]));
        }
        assert_eq!(digests.len(), REMEMBERED);
        assert_eq!(digests[..2], [Digest::of(&[19]), Digest::of(&[18])]);
    }
}
