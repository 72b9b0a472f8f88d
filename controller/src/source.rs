//! Reads what an administrator gave: a source Secret, by a Registry's `spec.auth`.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use pullpass_api::registry::{Auth, BasicAuth, DockerConfigAuth};
use pullpass_core::docker_config::{
    self, DockerConfigError, Entries, Login, LoginError, parse, parse_legacy,
};
use pullpass_core::key::RegistryKey;
use pullpass_core::reason::Reason;
use secrecy::SecretString;

const DOCKER_CONFIG_JSON: &str = ".dockerconfigjson";
const DOCKER_CFG: &str = ".dockercfg";

/// Why there is no credential in a source. The message names Secrets, keys and positions, never content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SourceError {
    /// The category.
    pub(crate) reason: Reason,
    /// What is wrong, and where.
    pub(crate) message: String,
}

impl SourceError {
    /// The source is a Secret that Pullpass itself writes. Read back, it would bring to life again what was revoked.
    pub(crate) fn written_by_us(name: &str) -> Self {
        Self {
            reason: Reason::InvalidRegistry,
            message: format!(
                "spec.auth names the Secret {name:?}, which Pullpass itself writes: give the source another name"
            ),
        }
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The name of the Secret that a Registry's credential comes from.
pub(crate) fn secret_name(auth: &Auth) -> Option<&str> {
    match (&auth.basic, &auth.docker_config) {
        (Some(basic), _) => Some(&basic.secret_ref.name),
        (None, Some(config)) => Some(&config.secret_ref.name),
        (None, None) => None,
    }
}

/// The entries for a registry out of its source Secret; `key` is `None` where every entry counts.
///
/// # Errors
/// Whatever is missing in the source or cannot be used.
pub(crate) fn read(
    auth: &Auth,
    key: Option<&RegistryKey>,
    secret: Option<&Secret>,
) -> Result<Entries, SourceError> {
    let name = secret_name(auth).unwrap_or_default();
    let Some(secret) = secret else {
        return Err(SourceError {
            reason: Reason::SourceMissing,
            message: format!("there is no Secret {name:?} in Pullpass's namespace"),
        });
    };
    let source = Source {
        name,
        data: secret.data.as_ref(),
    };
    match (&auth.basic, &auth.docker_config) {
        (Some(basic), _) => source.basic(basic, key),
        (None, Some(config)) => source.docker_config(config, key),
        (None, None) => Err(source.error(
            Reason::InvalidRegistry,
            "spec.auth names no kind of credential",
        )),
    }
}

struct Source<'a> {
    name: &'a str,
    data: Option<&'a BTreeMap<String, ByteString>>,
}

impl Source<'_> {
    fn error(&self, reason: Reason, what: impl fmt::Display) -> SourceError {
        SourceError {
            reason,
            message: format!("Secret {:?}: {what}", self.name),
        }
    }

    fn get(&self, key: &str) -> Option<&[u8]> {
        self.data?.get(key).map(|value| value.0.as_slice())
    }

    fn require(&self, key: &str) -> Result<&[u8], SourceError> {
        self.get(key).ok_or_else(|| {
            self.error(
                Reason::SourceKeyMissing,
                format_args!("the key {key:?} is missing"),
            )
        })
    }

    fn text(&self, key: &str) -> Result<SecretString, SourceError> {
        std::str::from_utf8(self.require(key)?)
            .map(SecretString::from)
            .map_err(|error| {
                self.error(
                    Reason::MalformedSource,
                    format_args!(
                        "the value of {key:?} is not UTF-8 text after {} bytes",
                        error.valid_up_to()
                    ),
                )
            })
    }

    fn basic(&self, auth: &BasicAuth, key: Option<&RegistryKey>) -> Result<Entries, SourceError> {
        let username = self.text(&auth.username_key)?;
        let password = self.text(&auth.password_key)?;
        let login = Login::new(username, password)
            .map_err(|error| self.error(login_reason(error), error))?;
        let key = key.ok_or_else(|| {
            self.error(
                Reason::InvalidRegistry,
                "spec.host is missing, so the credential has nowhere to go",
            )
        })?;
        Ok(Entries::from([(key.clone(), login)]))
    }

    fn docker_config(
        &self,
        auth: &DockerConfigAuth,
        key: Option<&RegistryKey>,
    ) -> Result<Entries, SourceError> {
        let (place, content) = match &auth.key {
            Some(key) => (key.as_str(), self.require(key)?),
            None => match (self.get(DOCKER_CONFIG_JSON), self.get(DOCKER_CFG)) {
                (Some(content), _) => (DOCKER_CONFIG_JSON, content),
                (None, Some(content)) => (DOCKER_CFG, content),
                (None, None) => {
                    let what = format_args!(
                        "neither of the keys {DOCKER_CONFIG_JSON:?} and {DOCKER_CFG:?} is there; name another one in spec.auth.dockerConfig.key"
                    );
                    return Err(self.error(Reason::SourceKeyMissing, what));
                }
            },
        };
        let read = if place == DOCKER_CFG {
            parse_legacy
        } else {
            parse
        };
        let entries = read(content).map_err(|error| {
            self.error(
                docker_config_reason(&error),
                format_args!("the value of {place:?}: {error}"),
            )
        })?;
        let Some(key) = key else { return Ok(entries) };
        let selected = docker_config::select(&entries, key);
        if selected.is_empty() {
            let what = format_args!(
                "none of the {} entries in {place:?} is for {key}",
                entries.len()
            );
            return Err(self.error(Reason::NoMatchingEntry, what));
        }
        Ok(selected)
    }
}

fn login_reason(error: LoginError) -> Reason {
    match error {
        LoginError::Empty => Reason::EmptyCredential,
        LoginError::ColonInUsername | LoginError::ControlCharacter | LoginError::JsonKey => {
            Reason::MalformedSource
        }
    }
}

fn docker_config_reason(error: &DockerConfigError) -> Reason {
    match error {
        DockerConfigError::Login { source, .. } => login_reason(*source),
        DockerConfigError::NoEntries => Reason::NoMatchingEntry,
        DockerConfigError::Json { .. }
        | DockerConfigError::Key { .. }
        | DockerConfigError::Auth { .. }
        | DockerConfigError::Contradiction { .. } => Reason::MalformedSource,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;
    use secrecy::ExposeSecret as _;
    use serde_json::json;

    fn auth(value: serde_json::Value) -> Auth {
        serde_json::from_value(value).unwrap()
    }

    fn basic() -> Auth {
        auth(json!({"basic": {"secretRef": {"name": "acme"}}}))
    }

    fn docker() -> Auth {
        auth(json!({"dockerConfig": {"secretRef": {"name": "acme"}}}))
    }

    fn secret(data: &[(&str, &[u8])]) -> Secret {
        Secret {
            data: Some(
                data.iter()
                    .map(|(key, value)| ((*key).to_owned(), ByteString(value.to_vec())))
                    .collect(),
            ),
            ..Secret::default()
        }
    }

    fn key() -> RegistryKey {
        RegistryKey::parse("r.example.com").unwrap()
    }

    fn written(entries: &Entries) -> String {
        String::from_utf8(docker_config::write(entries).expose_secret().to_vec()).unwrap()
    }

    const ONE: &str = r#"{"auths":{"r.example.com":{"auth":"dTpw"}}}"#;

    #[test]
    fn a_user_name_and_password_go_under_the_host() {
        let source = secret(&[("username", b"u"), ("password", b"p")]);
        let entries = read(&basic(), Some(&key()), Some(&source)).unwrap();
        assert_eq!(written(&entries), ONE);
    }

    #[test]
    fn keys_can_be_chosen() {
        let auth = auth(
            json!({"basic": {"secretRef": {"name": "acme"}, "usernameKey": "robot", "passwordKey": "token"}}),
        );
        let source = secret(&[("robot", b"u"), ("token", b"p")]);
        let entries = read(&auth, Some(&key()), Some(&source)).unwrap();
        assert_eq!(written(&entries), ONE);
    }

    #[rstest]
    #[case(".dockerconfigjson", ONE, None)]
    #[case(".dockercfg", r#"{"r.example.com":{"auth":"dTpw"}}"#, None)]
    #[case("config.json", ONE, Some("config.json"))]
    fn a_docker_config_is_read_in_each_of_its_forms(
        #[case] place: &str,
        #[case] content: &str,
        #[case] chosen: Option<&str>,
    ) {
        let mut auth = docker();
        auth.docker_config.as_mut().unwrap().key = chosen.map(Into::into);
        let source = secret(&[(place, content.as_bytes())]);
        for key in [None, Some(&key())] {
            assert_eq!(written(&read(&auth, key, Some(&source)).unwrap()), ONE);
        }
    }

    #[rstest]
    #[case(basic(), &[("password", &b"CANARY"[..])], Reason::SourceKeyMissing, "\"username\" is missing")]
    #[case(basic(), &[("username", &b"CANARY"[..])], Reason::SourceKeyMissing, "\"password\" is missing")]
    #[case(basic(), &[("username", &b"CANARY"[..]), ("password", &b"CANARY\xff"[..])], Reason::MalformedSource, "not UTF-8 text after 6 bytes")]
    #[case(basic(), &[("username", &b"CANARY"[..]), ("password", &b"CANARY\n"[..])], Reason::MalformedSource, "control character")]
    #[case(basic(), &[("username", &b"CANARY:x"[..]), ("password", &b"CANARY"[..])], Reason::MalformedSource, "colon")]
    #[case(basic(), &[("username", &b""[..]), ("password", &b""[..])], Reason::EmptyCredential, "both empty")]
    #[case(docker(), &[("config", &b"CANARY"[..])], Reason::SourceKeyMissing, "neither")]
    #[case(docker(), &[(".dockerconfigjson", &b"CANARY"[..])], Reason::MalformedSource, "line 1")]
    #[case(docker(), &[(".dockerconfigjson", &br#"{"auths":{}}"#[..])], Reason::NoMatchingEntry, "no entries")]
    #[case(docker(), &[(".dockerconfigjson", &br#"{"auths":{"CANARY.example.com":{"auth":"dTpw"}}}"#[..])], Reason::NoMatchingEntry, "none of the 1 entries")]
    #[case(docker(), &[(".dockerconfigjson", &br#"{"auths":{"r.example.com":{"username":"","password":""}}}"#[..])], Reason::EmptyCredential, "entry 1")]
    #[case(docker(), &[(".dockerconfigjson", &br#"{"auths":{"r.example.com":{"auth":"CANARY"}}}"#[..])], Reason::MalformedSource, "entry 1")]
    fn what_is_wrong_is_named_and_not_repeated(
        #[case] auth: Auth,
        #[case] data: &[(&str, &[u8])],
        #[case] reason: Reason,
        #[case] message: &str,
    ) {
        let error = read(&auth, Some(&key()), Some(&secret(data))).unwrap_err();
        assert_eq!(error.reason, reason, "{error}");
        assert!(error.message.contains(message), "{error}");
        assert!(error.message.contains("\"acme\""), "{error}");
        assert!(!format!("{error:?}").contains("CANARY"), "{error}");
    }

    #[test]
    fn a_source_that_is_not_there_is_named() {
        let error = read(&basic(), Some(&key()), None).unwrap_err();
        assert_eq!(error.reason, Reason::SourceMissing);
        assert!(error.message.contains("\"acme\""));
        let empty = Secret::default();
        let error = read(&docker(), Some(&key()), Some(&empty)).unwrap_err();
        assert_eq!(error.reason, Reason::SourceKeyMissing);
    }

    proptest! {
        /// Whatever stands around a canary, no message repeats it.
        #[test]
        fn no_message_holds_content(before in prop::collection::vec(any::<u8>(), 0..40), after in "[ -~]{0,40}", in_docker: bool) {
            let mut content = before;
            content.extend_from_slice(b"CANARY");
            content.extend_from_slice(after.as_bytes());
            let (auth, source) = if in_docker {
                (docker(), secret(&[(".dockerconfigjson", &content)]))
            } else {
                (basic(), secret(&[("username", &content), ("password", &content)]))
            };
            if let Err(error) = read(&auth, Some(&key()), Some(&source)) {
                prop_assert!(!error.message.contains("CANARY"));
            }
        }
    }
}
