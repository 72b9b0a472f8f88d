//! Reads what an administrator gave: the source Secret of a Registry's `spec.auth`, and those of its `spec.connection`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use pullpass_api::Registry;
use pullpass_api::convert::{self, AuthMethod, InvalidRegistry};
use pullpass_api::registry::{
    self as resource, Auth, DockerConfigAuth, HandOut, RegistrySpec, TlsMode, ViaMode,
};
use pullpass_core::docker_config::{
    self, DockerConfigError, Entries, Login, LoginError, parse, parse_legacy,
};
use pullpass_core::json_key;
use pullpass_core::key::RegistryKey;
use pullpass_core::provider::Provider;
use pullpass_core::reason::Reason;
use pullpass_providers::connection::{Authorities, Connection, Proxies, Proxy, Tls, Via};
use pullpass_providers::failure::Failure;
use pullpass_providers::login::Method;
use pullpass_providers::{aws, azure, google};
use secrecy::{SecretSlice, SecretString};

use crate::credential;
use crate::upkeep::Wanted;
use crate::world::World;

const DOCKER_CONFIG_JSON: &str = ".dockerconfigjson";
const DOCKER_CFG: &str = ".dockercfg";
/// Where a Secret holds authorities' certificates, unless another key is named: as cert-manager writes them.
const CA_KEY: &str = "ca.crt";
/// Where a Secret holds the login to a proxy, unless other keys are named.
const USERNAME_KEY: &str = "username";
const PASSWORD_KEY: &str = "password";

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
    pub(crate) fn written_by_us(field: &str, name: &str) -> Self {
        Self {
            reason: Reason::InvalidRegistry,
            message: format!(
                "{field} names the Secret {name:?}, which Pullpass itself writes: give the source another name"
            ),
        }
    }
}

impl SourceError {
    fn missing(name: &str) -> Self {
        Self {
            reason: Reason::SourceMissing,
            message: format!("there is no Secret {name:?} in Pullpass's namespace"),
        }
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Failure> for SourceError {
    fn from(failure: Failure) -> Self {
        Self {
            reason: failure.reason,
            message: failure.message,
        }
    }
}

impl From<InvalidRegistry> for SourceError {
    fn from(error: InvalidRegistry) -> Self {
        Self {
            reason: Reason::InvalidRegistry,
            message: error.to_string(),
        }
    }
}

/// All that a Registry's credential comes from, as it is at one moment.
#[derive(Debug)]
pub(crate) struct Source {
    /// What it comes to.
    pub(crate) wanted: Result<Wanted, SourceError>,
    /// What is exchanged for a token, where that is wanted.
    pub(crate) method: Option<Method>,
    /// Identifies it: see [`credential::fingerprint`].
    pub(crate) fingerprint: String,
    /// How registry and cloud are reached.
    pub(crate) connection: Result<Connection, SourceError>,
    /// The repository that pull access is proven for.
    pub(crate) repository: Option<String>,
    /// Identifies connection and repository: see [`credential::way`].
    pub(crate) way: String,
    /// The kind of registry.
    pub(crate) provider: Provider,
}

impl Source {
    /// Reads it out of the Secrets of Pullpass's namespace. `key` is `None` where every entry of a docker config counts.
    pub(crate) fn of(world: &World, registry: &Registry, key: Option<&RegistryKey>) -> Self {
        let spec = &registry.spec;
        let auth = spec.auth.clone().unwrap_or_default();
        let of_auth = convert::auth(&auth).ok().and_then(AuthMethod::secret_name);
        let secret = of_auth.and_then(|name| world.secret(name));
        let names: Vec<&str> = connection_secret_names(spec).collect();
        let of_connection: Vec<_> = names.iter().map(|name| world.secret(name)).collect();
        let written_by_us = |name: &&str| world.settings.is_written_by_us(name);
        let read = match of_auth.filter(written_by_us) {
            Some(name) => Err(SourceError::written_by_us("spec.auth", name)),
            None => read(&auth, key, secret.as_deref()),
        };
        let connection = match names.iter().copied().find(written_by_us) {
            Some(name) => Err(SourceError::written_by_us("spec.connection", name)),
            None => connection(world, spec.connection.as_ref()),
        };
        let (wanted, method) = match read {
            Ok(Read::Entries(entries)) => (Ok(Wanted::Entries(Arc::new(entries))), None),
            Ok(Read::Method(method)) => (Ok(Wanted::Exchange), Some(method)),
            Err(error) => (Err(error), None),
        };
        // nobody can be asked for a token without a way there
        let wanted = match (wanted, &connection) {
            (Ok(Wanted::Exchange), Err(error)) => Err(error.clone()),
            (wanted, _) => wanted,
        };
        Self {
            wanted,
            method,
            fingerprint: credential::fingerprint(registry, secret.as_deref()),
            connection,
            repository: spec.verify.as_ref().map(|verify| verify.repository.clone()),
            way: credential::way(registry, &of_connection),
            provider: convert::provider(registry).unwrap_or(Provider::Other),
        }
    }
}

/// The names of all Secrets that a Registry reads.
pub(crate) fn secret_names(spec: &RegistrySpec) -> impl Iterator<Item = &str> {
    let of_auth = spec
        .auth
        .as_ref()
        .and_then(|auth| convert::auth(auth).ok().and_then(AuthMethod::secret_name));
    of_auth.into_iter().chain(connection_secret_names(spec))
}

fn connection_secret_names(spec: &RegistrySpec) -> impl Iterator<Item = &str> {
    let connection = spec.connection.as_ref();
    let authorities =
        connection.and_then(|connection| connection.tls.as_ref()?.ca_secret_ref.as_ref());
    let proxy = connection.and_then(|connection| connection.via.as_ref()?.secret_ref.as_ref());
    [authorities, proxy]
        .into_iter()
        .flatten()
        .map(|reference| reference.name.as_str())
}

/// How registry and cloud are reached, by `spec.connection` and the Secrets that it names.
///
/// # Errors
/// A Secret that is missing, or whose content cannot be used.
fn connection(
    world: &World,
    connection: Option<&resource::Connection>,
) -> Result<Connection, SourceError> {
    let (tls, via) = connection.map_or((None, None), |connection| {
        (connection.tls.as_ref(), connection.via.as_ref())
    });
    let tls = match tls {
        None => Tls::Secure,
        Some(tls) => match (tls.mode, &tls.ca_secret_ref) {
            (TlsMode::Secure, _) => Tls::Secure,
            (TlsMode::Insecure, _) => Tls::Insecure,
            (TlsMode::SecureWithCA, Some(reference)) => {
                let secret = there(world, &reference.name)?;
                let source = SourceSecret::of(&reference.name, Some(&secret));
                let key = tls.ca_key.as_deref().unwrap_or(CA_KEY);
                let authorities = Authorities::parse(source.require(key)?);
                Tls::SecureWithCa(authorities.map_err(|error| {
                    let what = format_args!("the value of {key:?} {error}");
                    source.error(Reason::MalformedSource, what)
                })?)
            }
            (TlsMode::SecureWithCA, None) => {
                return Err(incomplete("spec.connection.tls: caSecretRef is missing"));
            }
        },
    };
    let via = match via {
        None => world.settings.via.clone(),
        Some(via) => match (via.mode, &via.url) {
            (ViaMode::Direct, _) => Via::Direct,
            (ViaMode::Proxy, Some(url)) => {
                let login = via
                    .secret_ref
                    .as_ref()
                    .map(|reference| proxy_login(world, via, &reference.name))
                    .transpose()?;
                let proxy = Proxy::new(url, login)
                    .map_err(|error| incomplete(&format!("spec.connection.via.url {error}")))?;
                Via::Proxies(Box::new(Proxies::all(proxy)))
            }
            (ViaMode::Proxy, None) => {
                return Err(incomplete("spec.connection.via: url is missing"));
            }
        },
    };
    Ok(Connection { tls, via })
}

fn proxy_login(world: &World, via: &resource::Via, name: &str) -> Result<Login, SourceError> {
    let secret = there(world, name)?;
    let source = SourceSecret::of(name, Some(&secret));
    let username = source.text(via.username_key.as_deref().unwrap_or(USERNAME_KEY))?;
    let password = source.text(via.password_key.as_deref().unwrap_or(PASSWORD_KEY))?;
    Login::new(username, password).map_err(|error| source.error(login_reason(error), error))
}

fn there(world: &World, name: &str) -> Result<Arc<Secret>, SourceError> {
    world.secret(name).ok_or_else(|| SourceError::missing(name))
}

fn incomplete(message: &str) -> SourceError {
    SourceError {
        reason: Reason::InvalidRegistry,
        message: message.to_owned(),
    }
}

/// What is read out of a source Secret.
#[derive(Debug)]
pub(crate) enum Read {
    /// The credential itself.
    Entries(Entries),
    /// What a cloud exchanges for one.
    Method(Method),
}

/// Reads a registry's source Secret; `key` is `None` where every entry of a docker config counts.
///
/// # Errors
/// Whatever is missing in the source or cannot be used.
pub(crate) fn read(
    auth: &Auth,
    key: Option<&RegistryKey>,
    secret: Option<&Secret>,
) -> Result<Read, SourceError> {
    let method = convert::auth(auth)?;
    let name = method.secret_name().unwrap_or_default();
    if method.secret_name().is_some() && secret.is_none() {
        return Err(SourceError::missing(name));
    }
    let source = SourceSecret::of(name, secret);
    match method {
        AuthMethod::Basic(auth) => {
            let username = source.text(&auth.username_key)?;
            let password = source.text(&auth.password_key)?;
            source.login(key, username, password)
        }
        AuthMethod::DockerConfig(auth) => source.docker_config(auth, key).map(Read::Entries),
        AuthMethod::AwsKeys(auth) => {
            let token = source.optional_text(&auth.session_token_key)?;
            let id = source.text(&auth.access_key_id_key)?;
            let secret = source.text(&auth.secret_access_key_key)?;
            let keys = aws::Keys::new(id, secret, token);
            source.method(keys.map(Method::AwsKeys))
        }
        AuthMethod::AwsRole(auth) => {
            let role = aws::Role::new(
                auth.role_arn.clone(),
                auth.external_id.clone(),
                auth.audience.clone(),
            );
            Ok(Read::Method(Method::AwsRole(role?)))
        }
        AuthMethod::GcpServiceAccountKey(auth) => match auth.hand_out {
            HandOut::Source => {
                let file = source.text(&auth.key)?;
                source.login(key, json_key::USERNAME.into(), file)
            }
            HandOut::Token => {
                let file = SecretSlice::from(source.require(&auth.key)?.to_vec());
                let account = google::ServiceAccountKey::parse(&file);
                source.method(account.map(Method::GcpServiceAccountKey))
            }
        },
        AuthMethod::GcpWorkloadIdentity(auth) => Ok(Read::Method(Method::GcpWorkloadIdentity(
            google::WorkloadIdentity {
                service_account_email: auth.service_account_email.clone(),
                provider: auth.workload_identity_provider.clone(),
            },
        ))),
        AuthMethod::AzureServicePrincipal(auth) => {
            let secret = source.text(&auth.client_secret_key)?;
            match auth.hand_out {
                HandOut::Source => source.login(key, auth.client_id.as_str().into(), secret),
                HandOut::Token => Ok(Read::Method(Method::AzureServicePrincipal(
                    azure::ServicePrincipal {
                        tenant_id: auth.tenant_id.clone(),
                        client_id: auth.client_id.clone(),
                        client_secret: secret,
                    },
                ))),
            }
        }
        AuthMethod::AzureWorkloadIdentity(auth) => Ok(Read::Method(Method::AzureWorkloadIdentity(
            azure::WorkloadIdentity {
                tenant_id: auth.tenant_id.clone(),
                client_id: auth.client_id.clone(),
                audience: auth.audience.clone(),
            },
        ))),
    }
}

struct SourceSecret<'a> {
    name: &'a str,
    data: Option<&'a BTreeMap<String, ByteString>>,
}

impl<'a> SourceSecret<'a> {
    fn of(name: &'a str, secret: Option<&'a Secret>) -> Self {
        Self {
            name,
            data: secret.and_then(|secret| secret.data.as_ref()),
        }
    }

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

    /// The value of a key that the Secret need not have.
    fn optional_text(&self, key: &str) -> Result<Option<SecretString>, SourceError> {
        self.get(key).map(|_| self.text(key)).transpose()
    }

    fn login(
        &self,
        key: Option<&RegistryKey>,
        username: SecretString,
        password: SecretString,
    ) -> Result<Read, SourceError> {
        let login = Login::new(username, password)
            .map_err(|error| self.error(login_reason(error), error))?;
        let key = key.ok_or_else(|| {
            self.error(
                Reason::InvalidRegistry,
                "spec.host is missing, so the credential has nowhere to go",
            )
        })?;
        Ok(Read::Entries(Entries::from([(key.clone(), login)])))
    }

    fn method(&self, method: Result<Method, Failure>) -> Result<Read, SourceError> {
        method
            .map(Read::Method)
            .map_err(|failure| self.error(failure.reason, failure.message))
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

    fn written(read: &Read) -> String {
        let Read::Entries(entries) = read else {
            panic!("{read:?}")
        };
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
