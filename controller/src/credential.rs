//! A Registry's last good credential, and the Secret that keeps it: what copies are rendered from, so that a new leader
//! goes on without a login and a bad source takes nothing away.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use pullpass_api::Registry;
use pullpass_core::docker_config::{self, Entries};
use secrecy::{ExposeSecret as _, SecretSlice};
use sha2::{Digest as _, Sha256};

use crate::manifest::{
    CREDENTIAL_PREFIX, DOCKER_CONFIG_JSON, EXPIRES_AT, Metadata, Owner, REFRESHED_AT,
    REGISTRY_LABEL, SECRET_TYPE, SOURCE, SecretManifest, common_labels,
};
use crate::observed::{Digest, Version, digest};

/// A credential that was good when it was last read.
#[derive(Clone, Debug)]
pub(crate) struct LastGood {
    /// The uid of the Registry that it is for; another one of the same name has no right to it.
    pub(crate) registry_uid: String,
    /// Its entries.
    pub(crate) entries: Arc<Entries>,
    /// Of the docker config with these entries.
    pub(crate) digest: Digest,
    /// When it was read or renewed.
    pub(crate) refreshed_at: Option<Timestamp>,
    /// When it ends, where that is known.
    pub(crate) expires_at: Option<Timestamp>,
    /// What it was read from or exchanged for: see [`fingerprint`].
    pub(crate) source: Option<String>,
    /// Whether the Secret that keeps it is there, with just this content.
    pub(crate) is_stored: bool,
}

/// The Registry whose credential a Secret of this name keeps.
pub(crate) fn registry_of(secret_name: &str) -> Option<&str> {
    secret_name.strip_prefix(CREDENTIAL_PREFIX)
}

/// Whether a Secret of a credential's name was made by Pullpass.
pub(crate) fn is_ours(secret: &Secret) -> bool {
    let labelled_for = secret.labels().get(REGISTRY_LABEL);
    secret.type_.as_deref() == Some(SECRET_TYPE)
        && labelled_for.map(String::as_str) == registry_of(&secret.name_any())
}

impl LastGood {
    /// Reads it back. `None` for a Secret that is not ours, or whose content is not usable any more.
    pub(crate) fn read(secret: &Secret) -> Option<Self> {
        if !is_ours(secret) {
            return None;
        }
        let owner = secret.owner_references().first()?;
        let content = secret.data.as_ref()?.get(DOCKER_CONFIG_JSON)?;
        let entries = docker_config::parse(&content.0).ok()?;
        let time = |annotation| {
            let text: &String = secret.annotations().get(annotation)?;
            text.parse().ok()
        };
        Some(Self {
            registry_uid: owner.uid.clone(),
            digest: digest(docker_config::write(&entries).expose_secret()),
            entries: Arc::new(entries),
            refreshed_at: time(REFRESHED_AT),
            expires_at: time(EXPIRES_AT),
            source: secret.annotations().get(SOURCE).cloned(),
            is_stored: true,
        })
    }
}

/// What a credential was read from or exchanged for: a hash of names and versions, nothing by which a credential could be
/// guessed.
pub(crate) fn fingerprint(registry: &Registry, source: Option<&Secret>) -> String {
    let auth = serde_json::to_string(&registry.spec.auth).unwrap_or_default();
    let host = registry.spec.host.clone().unwrap_or_default();
    hash([version(source), auth, host])
}

/// How the registry is asked about a credential: the same kind of hash, of connection and repository.
pub(crate) fn way(registry: &Registry, secrets: &[Option<Arc<Secret>>]) -> String {
    let connection = serde_json::to_string(&registry.spec.connection).unwrap_or_default();
    let verify = serde_json::to_string(&registry.spec.verify).unwrap_or_default();
    let versions = secrets.iter().map(|secret| version(secret.as_deref()));
    hash([connection, verify].into_iter().chain(versions))
}

fn version(secret: Option<&Secret>) -> String {
    secret.map_or_else(String::new, |secret| {
        let Version {
            uid,
            resource_version,
        } = Version::of(&secret.metadata);
        format!("{uid}/{resource_version}")
    })
}

fn hash(parts: impl IntoIterator<Item = String>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Everything about the Secret of a credential that is to be applied.
#[derive(Debug)]
pub(crate) struct Keep<'a> {
    /// The Registry's name.
    pub(crate) registry: &'a str,
    /// Its uid.
    pub(crate) registry_uid: &'a str,
    /// The docker config.
    pub(crate) content: &'a SecretSlice<u8>,
    /// When it was read or renewed.
    pub(crate) refreshed_at: Timestamp,
    /// When it ends.
    pub(crate) expires_at: Option<Timestamp>,
    /// See [`fingerprint`].
    pub(crate) source: String,
    /// The Secret that is there.
    pub(crate) version: Option<&'a Version>,
}

impl<'a> Keep<'a> {
    /// The Secret, under its name.
    pub(crate) fn manifest(&self, name: &'a str) -> SecretManifest<'a> {
        let mut labels = common_labels();
        labels.insert(REGISTRY_LABEL, self.registry);
        let mut annotations = BTreeMap::from([
            (REFRESHED_AT, self.refreshed_at.to_string()),
            (SOURCE, self.source.clone()),
        ]);
        if let Some(expires_at) = self.expires_at {
            annotations.insert(EXPIRES_AT, expires_at.to_string());
        }
        let metadata = Metadata {
            annotations,
            owner_references: vec![Owner {
                api_version: "pullpass.dev/v1alpha1",
                kind: "Registry",
                name: self.registry,
                uid: self.registry_uid,
            }],
            ..Metadata::named(name, labels, self.version)
        };
        SecretManifest::docker_config(metadata, self.content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn registry() -> Registry {
        serde_json::from_value(json!({
            "apiVersion": "pullpass.dev/v1alpha1", "kind": "Registry",
            "metadata": {"name": "acme", "uid": "r-1"},
            "spec": {"host": "r.example.com", "auth": {"basic": {"secretRef": {"name": "source"}}}},
        }))
        .unwrap()
    }

    fn kept(time: Timestamp) -> Value {
        let content = SecretSlice::from(br#"{"auths":{"r.example.com":{"auth":"dTpw"}}}"#.to_vec());
        let keep = Keep {
            registry: "acme",
            registry_uid: "r-1",
            content: &content,
            refreshed_at: time,
            expires_at: None,
            source: fingerprint(&registry(), None),
            version: None,
        };
        serde_json::to_value(keep.manifest("pullpass-credential-acme")).unwrap()
    }

    #[test]
    fn what_is_kept_is_read_back() {
        let time = Timestamp::from_second(1_800_000_000).unwrap();
        let secret: Secret = serde_json::from_value(kept(time)).unwrap();
        let read = LastGood::read(&secret).unwrap();
        assert_eq!(read.registry_uid, "r-1");
        assert_eq!(read.refreshed_at, Some(time));
        assert_eq!(read.entries.len(), 1);
        assert_eq!(read.source, Some(fingerprint(&registry(), None)));
        assert_eq!(
            read.digest,
            digest(br#"{"auths":{"r.example.com":{"auth":"dTpw"}}}"#)
        );
        assert_eq!(registry_of(&secret.name_any()), Some("acme"));
    }

    #[test]
    fn a_secret_of_the_name_that_is_not_ours_is_not_read() {
        let mut object = kept(Timestamp::UNIX_EPOCH);
        object["metadata"]["labels"] = json!({});
        assert!(LastGood::read(&serde_json::from_value(object).unwrap()).is_none());
        let mut object = kept(Timestamp::UNIX_EPOCH);
        object["data"][".dockerconfigjson"] = json!("bm9uc2Vuc2U=");
        assert!(LastGood::read(&serde_json::from_value(object).unwrap()).is_none());
    }

    #[test]
    fn the_fingerprint_follows_the_source_and_not_its_content() {
        let secret = |version: &str, content: &str| -> Secret {
            serde_json::from_value(json!({
                "metadata": {"name": "source", "uid": "s", "resourceVersion": version},
                "data": {"password": content},
            }))
            .unwrap()
        };
        let one = fingerprint(&registry(), Some(&secret("1", "YQ==")));
        assert_eq!(one, fingerprint(&registry(), Some(&secret("1", "Yg=="))));
        assert_ne!(one, fingerprint(&registry(), Some(&secret("2", "YQ=="))));
        assert_ne!(one, fingerprint(&registry(), None));
        assert_eq!(one.len(), 64);
    }
}
