//! Our entries in kubelet's docker config, which others may have entries in too.
//!
//! What is not ours stays letter by letter. An entry is ours if its key and `auth` are in the state file; whatever else is
//! there under one of our keys is an administrator's, which has precedence: it stays, ours is not put beside it (kubelet
//! would try both, in no particular order), and the node tells of it.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use pullpass_core::docker_config::{self, Entries, Login};
use pullpass_core::key::RegistryKey;
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use zeroize::{Zeroize, Zeroizing};

use crate::json_object::{Object, blank};
use crate::state_file::{Auths, Before, Digest, State, remember};

/// Nobody but root may read a docker config with credentials.
pub(crate) const MODE: u32 = 0o600;

/// Why a docker config cannot have entries of ours. Messages give positions, never content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Not a JSON object.
    #[error("it is not a JSON object")]
    Json,
    /// `auths` is there twice; kubelet merges the two, and other programs do not.
    #[error("it has \"auths\" twice: merge them")]
    TwoAuths,
    /// `auths` is something else.
    #[error("its \"auths\" is not an object")]
    Auths,
    /// An entry that makes kubelet drop the whole file.
    #[error(
        "kubelet cannot read entry {entry} of its \"auths\", and therefore none of them: correct or remove it"
    )]
    Entry {
        /// Which entry, from 1.
        entry: usize,
    },
}

/// What the docker config and the state file are to be.
pub(crate) struct Merged {
    /// The content; `None`: no file.
    pub(crate) content: Option<Zeroizing<String>>,
    /// The permissions.
    pub(crate) mode: u32,
    /// The state file before the docker config is written.
    pub(crate) ahead: State,
    /// The state file afterwards; `None`: no file.
    pub(crate) state: Option<State>,
    /// Keys that the node has another login for, of its administrator's.
    pub(crate) kept: Vec<RegistryKey>,
}

/// A docker config, taken apart.
struct Layout<'a> {
    lead: &'a str,
    top: Object<'a>,
    tail: &'a str,
    /// Which member `auths` is.
    place: Option<usize>,
    auths: Object<'a>,
    before: Auths,
}

/// Puts our entries into the docker config that was found (text and permissions), and takes those out that are not wanted
/// any more.
///
/// # Errors
/// [`Unusable`].
pub(crate) fn merge(
    found: Option<(&str, u32)>,
    state: Option<&State>,
    wanted: &Entries,
) -> Result<Merged, Unusable> {
    let mut layout = match found {
        None => Layout::nothing(),
        Some((text, _)) => Layout::read(text)?,
    };
    let before = before(found, &layout, state);
    let foreign = foreign(&layout.auths, state);
    let ours: BTreeMap<&RegistryKey, Entry> = wanted
        .iter()
        .filter(|(key, _)| !foreign.contains_key(key))
        .map(|(key, login)| (key, Entry::new(login)))
        .collect();
    let kept = foreign
        .iter()
        .filter(|(key, value)| {
            wanted
                .get(*key)
                .is_some_and(|login| !is_login(value, login))
        })
        .map(|(key, _)| key.clone())
        .collect();
    let entries: BTreeMap<RegistryKey, Vec<Digest>> = ours
        .iter()
        .map(|(key, entry)| {
            let known = state.and_then(|state| state.entries.get(*key));
            ((*key).clone(), remember(known, entry.digest))
        })
        .collect();
    put(&mut layout.auths, &ours, state);
    let auths = layout.auths.text();
    let content = layout.render(&auths, before, !ours.is_empty());
    let mode = match before {
        Before::File { mode, .. } if ours.is_empty() => mode,
        Before::File { .. } | Before::Nothing => MODE,
    };
    let written = content.as_ref().map_or("", |text| text.as_str());
    let state_after = State {
        before,
        entries,
        written: Digest::of(written.as_bytes()),
    };
    let mut ahead = state_after.clone();
    for (key, digests) in state.into_iter().flat_map(|state| &state.entries) {
        let known = ahead.entries.entry(key.clone());
        known.or_insert_with(|| digests.clone());
    }
    Ok(Merged {
        content,
        mode,
        ahead,
        state: (!ours.is_empty()).then_some(state_after),
        kept,
    })
}

/// What a docker config has to be like for the entries of ours to be taken out so that it is as it was.
fn before(found: Option<(&str, u32)>, layout: &Layout<'_>, state: Option<&State>) -> Before {
    let Some((_, mode)) = found else {
        return Before::Nothing;
    };
    let known = state.map(|state| state.before);
    let mode = match known {
        Some(Before::File { mode, .. }) => mode,
        Some(Before::Nothing) => MODE,
        None => mode,
    };
    match (layout.before, known) {
        (Auths::Object, Some(known)) => known,
        (auths, _) => Before::File { mode, auths },
    }
}

/// The entries that are not ours, by those of their keys that kubelet can read.
fn foreign<'a>(auths: &Object<'a>, state: Option<&State>) -> BTreeMap<RegistryKey, &'a str> {
    auths
        .members()
        .filter_map(|(name, value)| {
            let key = RegistryKey::parse(name).ok()?;
            (!is_ours(&key, value, state)).then_some((key, value))
        })
        .collect()
}

fn is_ours(key: &RegistryKey, value: &str, state: Option<&State>) -> bool {
    state
        .zip(auth_digest(value))
        .is_some_and(|(state, digest)| state.has_written(key, digest))
}

/// Changes entries of ours in their places, takes out those that have become needless, and puts new ones at the end.
fn put<'a>(auths: &mut Object<'a>, ours: &'a BTreeMap<&RegistryKey, Entry>, state: Option<&State>) {
    let mut there: BTreeSet<&RegistryKey> = BTreeSet::new();
    let mut gone: BTreeSet<usize> = BTreeSet::new();
    let mut outdated: Vec<(usize, &'a str)> = Vec::new();
    for (place, (name, value)) in auths.members().enumerate() {
        let Some(key) = RegistryKey::parse(name).ok() else {
            continue;
        };
        if !is_ours(&key, value, state) {
            continue;
        }
        match ours.get_key_value(&key) {
            Some((key, entry)) if there.insert(*key) => {
                if auth_digest(value) != Some(entry.digest) {
                    outdated.push((place, &entry.text));
                }
            }
            Some(_) | None => {
                gone.insert(place);
            }
        }
    }
    for (place, text) in outdated {
        auths.set(place, text);
    }
    auths.retain(|place| !gone.contains(&place));
    for (key, entry) in ours {
        if !there.contains(key) {
            auths.push(&key.to_string(), &entry.text);
        }
    }
}

/// An entry of ours.
struct Entry {
    text: Zeroizing<String>,
    digest: Digest,
}

impl Entry {
    fn new(login: &Login) -> Self {
        let basic = login.basic();
        Self {
            // base64 needs no escapes
            text: Zeroizing::new(format!(r#"{{"auth":"{}"}}"#, basic.expose_secret())),
            digest: Digest::of(basic.expose_secret().as_bytes()),
        }
    }
}

/// Of an entry with nothing but an `auth`, as we write them, however it is laid out.
fn auth_digest(value: &str) -> Option<Digest> {
    let entry = Object::parse(value).ok()?;
    let mut members = entry.members();
    let (name, auth) = members.next()?;
    if name != "auth" || members.next().is_some() {
        return None;
    }
    let auth: Zeroizing<String> = Zeroizing::new(serde_json::from_str(auth).ok()?);
    Some(Digest::of(auth.as_bytes()))
}

fn is_login(value: &str, login: &Login) -> bool {
    let config = Zeroizing::new(format!(r#"{{"auths":{{"host":{value}}}}}"#));
    docker_config::parse(config.as_bytes()).is_ok_and(|entries| {
        entries
            .values()
            .all(|found| found.basic().expose_secret() == login.basic().expose_secret())
    })
}

impl<'a> Layout<'a> {
    fn nothing() -> Self {
        Self {
            lead: "",
            top: Object::empty(),
            tail: "",
            place: None,
            auths: Object::empty(),
            before: Auths::Absent,
        }
    }

    fn read(text: &'a str) -> Result<Self, Unusable> {
        let (lead, rest) = blank(text);
        let body = rest.trim_end_matches([' ', '\t', '\n', '\r']);
        let tail = rest.strip_prefix(body).unwrap_or_default();
        let top = Object::parse(body).map_err(|_| Unusable::Json)?;
        let mut found = top
            .members()
            .enumerate()
            // Go reads names without regard to case
            .filter(|(_, (name, _))| name.eq_ignore_ascii_case("auths"))
            .map(|(place, (_, value))| (place, value));
        let auths = found.next();
        if found.next().is_some() {
            return Err(Unusable::TwoAuths);
        }
        drop(found);
        let (auths, before, place) = match auths {
            None => (Object::empty(), Auths::Absent, None),
            Some((place, "null")) => (Object::empty(), Auths::Null, Some(place)),
            Some((place, value)) => {
                let auths = Object::parse(value).map_err(|_| Unusable::Auths)?;
                (auths, Auths::Object, Some(place))
            }
        };
        for (index, (_, value)) in auths.members().enumerate() {
            if !kubelet_reads(value) {
                return Err(Unusable::Entry { entry: index + 1 });
            }
        }
        Ok(Self {
            lead,
            top,
            tail,
            place,
            auths,
            before,
        })
    }

    /// The docker config with these `auths`. Once there is no entry of ours, what we have made for them goes too.
    fn render(
        mut self,
        auths: &'a str,
        before: Before,
        has_ours: bool,
    ) -> Option<Zeroizing<String>> {
        let made = match before {
            Before::Nothing => Auths::Absent,
            Before::File { auths, .. } => auths,
        };
        let is_left_empty = !has_ours && self.auths.is_empty();
        match (self.place, made) {
            (Some(place), Auths::Absent) if is_left_empty => {
                self.top.retain(|member| member != place);
            }
            (Some(place), Auths::Null) if is_left_empty => self.top.set(place, "null"),
            (Some(place), _) => self.top.set(place, auths),
            (None, _) if has_ours => self.top.push("auths", auths),
            (None, _) => {}
        }
        if before == Before::Nothing && self.top.is_empty() {
            return None;
        }
        let top = self.top.text();
        let mut text = Zeroizing::new(String::with_capacity(
            self.lead.len() + top.len() + self.tail.len(),
        ));
        for part in [self.lead, &top, self.tail] {
            text.push_str(part);
        }
        Some(text)
    }
}

/// Whether kubelet reads an entry (`DockerConfigEntry.UnmarshalJSON` and `decodeDockerConfigFieldAuth` in its
/// `pkg/credentialprovider/config.go`); if it does not, it drops the whole file.
fn kubelet_reads(value: &str) -> bool {
    #[derive(Deserialize)]
    struct Fields {
        username: Option<String>,
        password: Option<String>,
        #[serde(rename = "email")]
        _email: Option<String>,
        auth: Option<String>,
    }
    impl Drop for Fields {
        fn drop(&mut self) {
            self.username.zeroize();
            self.password.zeroize();
            self.auth.zeroize();
        }
    }
    match serde_json::from_str::<Option<Fields>>(value) {
        Err(_) => false,
        Ok(None) => true,
        Ok(Some(fields)) => match fields.auth.as_deref() {
            None | Some("") => true,
            Some(auth) => {
                let engine = if auth.trim().ends_with('=') {
                    &STANDARD
                } else {
                    &STANDARD_NO_PAD
                };
                let plain = engine.decode(auth.trim()).map(Zeroizing::new);
                plain.is_ok_and(|plain| plain.contains(&b':'))
            }
        },
    }
}
