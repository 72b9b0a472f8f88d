//! Docker configs, `{"auths": {key: {"auth": base64("user:password")}}}`, read strictly and written minimally.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::json_key;
use crate::key::{KeyError, RegistryKey};

/// A user name and password. Neither can be printed.
#[derive(Clone)]
pub struct Login {
    username: SecretString,
    password: SecretString,
}

/// Why a user name and password are no login. The texts are not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// Kubelet would pass it on as a request to pull anonymously.
    #[error("user name and password are both empty")]
    Empty,
    /// RFC 7617, section 2: the first colon ends the user name.
    #[error("the user name holds a colon, which separates it from the password")]
    ColonInUsername,
    /// RFC 7617, section 2: neither part may hold control characters.
    #[error(
        "user name or password hold a control character, such as a line break at the end (write the Secret with 'printf %s', not 'echo')"
    )]
    ControlCharacter,
    /// The user name announces a Google service account's key, and the password is none.
    #[error(
        "the user name is _json_key, and the password is no JSON object: give the service account's key file as it was downloaded"
    )]
    JsonKey,
}

impl Login {
    /// A login that every client can send. A Google service account's key file, as the password of `_json_key`, may have
    /// line breaks: it is brought onto one line with the same content.
    ///
    /// # Errors
    /// What HTTP's Basic scheme cannot carry, and what kubelet would take for no credential.
    pub fn new(username: SecretString, password: SecretString) -> Result<Self, LoginError> {
        let (user, pass) = (username.expose_secret(), password.expose_secret());
        if user.is_empty() && pass.is_empty() {
            return Err(LoginError::Empty);
        }
        if user.contains(':') {
            return Err(LoginError::ColonInUsername);
        }
        let is_plain = |text: &str| !text.chars().any(char::is_control);
        if !is_plain(user) {
            return Err(LoginError::ControlCharacter);
        }
        if user == json_key::USERNAME && (!is_plain(pass) || pass.starts_with('\u{feff}')) {
            let password = json_key::on_one_line(pass).ok_or(LoginError::JsonKey)?;
            if !is_plain(password.expose_secret()) {
                return Err(LoginError::ControlCharacter);
            }
            return Ok(Self { username, password });
        }
        if !is_plain(pass) {
            return Err(LoginError::ControlCharacter);
        }
        Ok(Self { username, password })
    }

    /// The user name.
    pub fn username(&self) -> &SecretString {
        &self.username
    }

    /// The password or token.
    pub fn password(&self) -> &SecretString {
        &self.password
    }

    /// `base64("user:password")`, as an entry's `auth` and as HTTP's Basic scheme have it.
    pub fn basic(&self) -> SecretString {
        let plain = Zeroizing::new(format!(
            "{}:{}",
            self.username.expose_secret(),
            self.password.expose_secret()
        ));
        STANDARD.encode(plain.as_bytes()).into()
    }

    /// Whether both hold the same user name and password.
    pub fn is_same(&self, other: &Login) -> bool {
        self.username.expose_secret() == other.username.expose_secret()
            && self.password.expose_secret() == other.password.expose_secret()
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

/// Logins by key, in the order in which they are written.
pub type Entries = BTreeMap<RegistryKey, Login>;

/// Why a docker config cannot be used. Messages give positions, never content: what stands in the wrong place may
/// be the credential. Entries are counted from 1 in the order of their keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DockerConfigError {
    /// Not JSON of the expected form.
    #[error(
        "not a docker config: line {line}, column {column}: expected {{\"auths\": {{\"host\": {{\"auth\": …}}}}}}"
    )]
    Json {
        /// Line of the place, from 1.
        line: usize,
        /// Column of the place, from 1.
        column: usize,
    },
    /// There is no entry at all.
    #[error("the docker config has no entries under \"auths\"")]
    NoEntries,
    /// A key that kubelet cannot use.
    #[error("entry {entry}: {source}")]
    Key {
        /// Which entry.
        entry: usize,
        /// What is wrong with its key.
        source: KeyError,
    },
    /// `auth` is not what base64 of `user:password` looks like.
    #[error("entry {entry}: \"auth\" is not base64 of user:password")]
    Auth {
        /// Which entry.
        entry: usize,
    },
    /// The login itself is not usable.
    #[error("entry {entry}: {source}")]
    Login {
        /// Which entry.
        entry: usize,
        /// What is wrong with it.
        source: LoginError,
    },
    /// Two spellings of one key with different logins.
    #[error(
        "entry {entry} is for the same host as one before it, with another login: keep one of them"
    )]
    Contradiction {
        /// Which entry.
        entry: usize,
    },
}

#[derive(Deserialize)]
struct ConfigFile {
    auths: BTreeMap<String, EntryFile>,
}

/// The fields that kubelet reads (`DockerConfigEntry` in its `pkg/credentialprovider/config.go`); the rest,
/// identity tokens and helpers among them, means nothing to it.
#[derive(Deserialize)]
pub(crate) struct EntryFile {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
}

impl Drop for EntryFile {
    fn drop(&mut self) {
        self.username.zeroize();
        self.password.zeroize();
        self.auth.zeroize();
    }
}

/// Reads a docker config, the content of a Secret of type `kubernetes.io/dockerconfigjson`.
///
/// # Errors
/// Anything that would make kubelet drop an entry or fail the pulls of a whole pod.
pub fn parse(content: &[u8]) -> Result<Entries, DockerConfigError> {
    let file: ConfigFile = from_json(content)?;
    entries(file.auths)
}

/// Reads the older form without `auths`, the content of a Secret of type `kubernetes.io/dockercfg`.
///
/// # Errors
/// As [`parse`].
pub fn parse_legacy(content: &[u8]) -> Result<Entries, DockerConfigError> {
    entries(from_json(content)?)
}

fn from_json<'a, T: Deserialize<'a>>(content: &'a [u8]) -> Result<T, DockerConfigError> {
    // editors on Windows put a byte order mark in front, which JSON does not allow
    let content = content.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(content);
    serde_json::from_slice(content).map_err(|error| DockerConfigError::Json {
        line: error.line(),
        column: error.column(),
    })
}

/// The entries of an `auths` object.
pub(crate) fn entries(files: BTreeMap<String, EntryFile>) -> Result<Entries, DockerConfigError> {
    let mut entries = Entries::new();
    for (index, (key, file)) in files.iter().enumerate() {
        let entry = index + 1;
        let key =
            RegistryKey::parse(key).map_err(|source| DockerConfigError::Key { entry, source })?;
        let login = login(file, entry)?;
        match entries.get(&key) {
            Some(before) if !before.is_same(&login) => {
                return Err(DockerConfigError::Contradiction { entry });
            }
            Some(_) => {}
            None => {
                entries.insert(key, login);
            }
        }
    }
    if entries.is_empty() {
        return Err(DockerConfigError::NoEntries);
    }
    Ok(entries)
}

/// A non-empty `auth` wins over the separate fields, as in kubelet.
fn login(file: &EntryFile, entry: usize) -> Result<Login, DockerConfigError> {
    let text = |field: &Option<String>| SecretString::from(field.clone().unwrap_or_default());
    let (username, password) = match file.auth.as_deref() {
        None | Some("") => (text(&file.username), text(&file.password)),
        Some(auth) => decode_auth(auth).ok_or(DockerConfigError::Auth { entry })?,
    };
    Login::new(username, password).map_err(|source| DockerConfigError::Login { entry, source })
}

fn decode_auth(auth: &str) -> Option<(SecretString, SecretString)> {
    // kubelet takes both forms: padded where the text ends in '=', unpadded otherwise
    let engine = if auth.ends_with('=') {
        &STANDARD
    } else {
        &STANDARD_NO_PAD
    };
    let plain = Zeroizing::new(
        engine
            .decode(auth.trim())
            .or_else(|_| STANDARD.decode(auth.trim()))
            .ok()?,
    );
    let (username, password) = std::str::from_utf8(&plain).ok()?.split_once(':')?;
    Some((username.into(), password.into()))
}

/// The entries of a source that are for `wanted`: those below it, or, where there is none, the most specific one that
/// covers it, under the wanted key.
pub fn select(entries: &Entries, wanted: &RegistryKey) -> Entries {
    let below: Entries = entries
        .iter()
        .filter(|(key, _)| key.host() == wanted.host() && key.path().starts_with(wanted.path()))
        .map(|(key, login)| (key.clone(), login.clone()))
        .collect();
    if !below.is_empty() {
        return below;
    }
    entries
        .iter()
        .filter(|(key, _)| key.host() == wanted.host() && wanted.path().starts_with(key.path()))
        .max_by_key(|(key, _)| key.path().len())
        .map(|(_, login)| Entries::from([(wanted.clone(), login.clone())]))
        .unwrap_or_default()
}

#[derive(Serialize)]
struct WrittenFile<'a> {
    auths: BTreeMap<String, WrittenEntry<'a>>,
}

#[derive(Serialize)]
pub(crate) struct WrittenEntry<'a> {
    pub(crate) auth: &'a str,
}

/// The docker config with exactly these entries. The same entries always give the same bytes.
///
/// Only `auth` is written: kubelet and every builder read it, and each further copy would take room from other
/// registries.
pub fn write<'a>(
    entries: impl IntoIterator<Item = (&'a RegistryKey, &'a Login)>,
) -> SecretSlice<u8> {
    let basics: BTreeMap<String, SecretString> = entries
        .into_iter()
        .map(|(key, login)| (key.to_string(), login.basic()))
        .collect();
    let auths = basics
        .iter()
        .map(|(key, basic)| {
            (
                key.clone(),
                WrittenEntry {
                    auth: basic.expose_secret(),
                },
            )
        })
        .collect();
    // maps with text keys always serialize
    serde_json::to_vec(&WrittenFile { auths })
        .unwrap_or_default()
        .into()
}

/// How many bytes `write` gives for no entry at all.
pub(crate) const EMPTY_SIZE: usize = r#"{"auths":{}}"#.len();

/// How many bytes an entry adds to what `write` gives, with the comma that parts it from the next.
pub(crate) fn written_size(key: &RegistryKey, login: &Login) -> usize {
    let quoted_key = serde_json::to_string(&key.to_string()).map_or(0, |text| text.len());
    quoted_key + r#":{"auth":""},"#.len() + login.basic().expose_secret().len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn written(entries: &Entries) -> String {
        String::from_utf8(write(entries).expose_secret().to_vec()).unwrap()
    }

    fn key(text: &str) -> RegistryKey {
        RegistryKey::parse(text).unwrap()
    }

    fn entry(text: &str, user: &str) -> (RegistryKey, Login) {
        (key(text), Login::new(user.into(), "secret".into()).unwrap())
    }

    #[rstest]
    #[case(r#"{"auths":{"r.example.com":{"auth":"dTpw"}}}"#)]
    #[case(r#"{"auths":{"r.example.com":{"username":"u","password":"p"}}}"#)]
    #[case(r#"{"auths":{"https://r.example.com/v2/":{"username":"no","password":"no","auth":"dTpw","email":"a@b"}},"credsStore":"x"}"#)]
    #[case("\u{feff}{\"auths\":{\"r.example.com\":{\"auth\":\"dTpw\"}}}")]
    fn reads_what_kubelet_reads(#[case] content: &str) {
        let entries = parse(content.as_bytes()).unwrap();
        assert_eq!(
            written(&entries),
            r#"{"auths":{"r.example.com":{"auth":"dTpw"}}}"#
        );
    }

    #[test]
    fn reads_the_older_form() {
        let entries = parse_legacy(br#"{"r.example.com":{"auth":"dTpw"}}"#).unwrap();
        assert_eq!(
            written(&entries),
            r#"{"auths":{"r.example.com":{"auth":"dTpw"}}}"#
        );
    }

    #[rstest]
    #[case("", "line 1, column 0")]
    #[case("[]", "line 1, column")]
    #[case(r#"{"auths":{"CANARY":"CANARY"}}"#, "line 1, column")]
    #[case(r#"{"auths":{}}"#, "no entries")]
    #[case(
        r#"{"auths":{"r":{"auth":"CANARY!"}}}"#,
        "entry 1: \"auth\" is not base64"
    )]
    #[case(
        r#"{"auths":{"r":{"auth":"Q0FOQVJZ"}}}"#,
        "entry 1: \"auth\" is not base64 of user:password"
    )]
    #[case(
        r#"{"auths":{"r":{}}}"#,
        "entry 1: user name and password are both empty"
    )]
    #[case(
        r#"{"auths":{"r":{"auth":"Og=="}}}"#,
        "entry 1: user name and password are both empty"
    )]
    #[case(
        r#"{"auths":{"a":{"auth":"dTpw"},"r CANARY":{"auth":"dTpw"}}}"#,
        "entry 2: the host may hold"
    )]
    #[case(
        r#"{"auths":{"r":{"username":"CANARY","password":"x\n"}}}"#,
        "control character"
    )]
    #[case(r#"{"auths":{"r":{"username":"CANARY:x","password":"x"}}}"#, "colon")]
    #[case(
        r#"{"auths":{"https://r":{"auth":"dTpw"},"r":{"auth":"dTpwMg=="}}}"#,
        "entry 2 is for the same host"
    )]
    fn refuses_with_a_place_and_without_the_content(#[case] content: &str, #[case] message: &str) {
        let error = parse(content.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
        assert!(!error.contains("CANARY"), "{error}");
    }

    #[rstest]
    #[case("r.example.com", &["r.example.com", "r.example.com/team"])]
    #[case("r.example.com/team", &["r.example.com/team"])]
    #[case("r.example.com/other", &["r.example.com/other"])]
    #[case("x.example.com", &[])]
    fn selects_the_entries_of_a_host(#[case] wanted: &str, #[case] keys: &[&str]) {
        let source = Entries::from([
            entry("r.example.com", "u"),
            entry("r.example.com/team", "u"),
            entry("r.example.com:5000", "u"),
            entry("other.example.com", "u"),
        ]);
        let selected: Vec<_> = select(&source, &key(wanted))
            .keys()
            .map(ToString::to_string)
            .collect();
        assert_eq!(selected, keys);
    }

    /// As `kubectl create secret docker-registry --docker-password="$(cat key.json)"` writes it.
    #[test]
    fn a_downloaded_key_may_have_line_breaks() {
        let file = "{\n  \"private_key\": \"-----BEGIN\\nMIIE\"\n}";
        let auths = serde_json::json!({"auths": {"europe-docker.pkg.dev": {"username": "_json_key", "password": file}}});
        let entries = parse(auths.to_string().as_bytes()).unwrap();
        let login = &entries[&key("europe-docker.pkg.dev")];
        assert_eq!(
            login.password().expose_secret(),
            r#"{"private_key":"-----BEGIN\nMIIE"}"#
        );
        let other = Login::new("robot".into(), file.into());
        assert_eq!(other.unwrap_err(), LoginError::ControlCharacter);
        let no_key = Login::new("_json_key".into(), "CANARY\n".into());
        assert_eq!(no_key.unwrap_err(), LoginError::JsonKey);
    }

    #[test]
    fn a_login_prints_nothing() {
        let login = Login::new("CANARY".into(), "CANARY".into()).unwrap();
        assert!(!format!("{login:?}").contains("CANARY"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            logins in prop::collection::btree_map("[a-z]{1,8}(\\.[a-z]{1,5}){0,2}(/[a-z]{1,4})?", ("[a-zA-Zé$]{1,9}", "[ -~é]{0,20}"), 1..6)
        ) {
            let entries: Entries = logins
                .iter()
                .map(|(host, (u, p))| (key(host), Login::new(u.as_str().into(), p.as_str().into()).unwrap()))
                .collect();
            let content = write(&entries);
            let size = EMPTY_SIZE + entries.iter().map(|(k, l)| written_size(k, l)).sum::<usize>() - 1;
            prop_assert_eq!(content.expose_secret().len(), size);
            let read = parse(content.expose_secret()).unwrap();
            prop_assert_eq!(read.len(), entries.len());
            for (key, login) in &entries {
                prop_assert!(read[key].is_same(login));
            }
        }

        #[test]
        fn no_content_panics(content in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(entries) = parse(&content) {
                prop_assert!(!entries.is_empty());
            }
        }
    }
}
