//! The objects that the controller applies, and the names, labels and annotations on them.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pullpass_api::pull_access::{
    self, RegistryAccess, SECRET_STATE_LABEL, SecretAccess, SecretState,
};
use secrecy::{ExposeSecret as _, SecretSlice};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use crate::observed::{AccessContent, Strays, Version};

/// Who applies copies, credentials, PullAccesses, certificates and status.
pub(crate) const FIELD_MANAGER: &str = "pullpass-controller";
/// Who applies `caBundle`, and that alone: a release that no longer applies it must not take anything else along.
pub(crate) const CA_BUNDLE_FIELD_MANAGER: &str = "pullpass-ca-bundle";
/// On every copy.
pub(crate) const COPY_LABEL: &str = "pullpass.dev/copy";
/// On every last good credential: the Registry's name.
pub(crate) const REGISTRY_LABEL: &str = "pullpass.dev/registry";
/// On a last good credential: when it was read or renewed (RFC 3339).
pub(crate) const REFRESHED_AT: &str = "pullpass.dev/refreshed-at";
/// On a last good credential: when it ends, where that is known (RFC 3339).
pub(crate) const EXPIRES_AT: &str = "pullpass.dev/expires-at";
/// On a last good credential: what it was read from.
pub(crate) const SOURCE: &str = "pullpass.dev/source";
/// The type of copies and credentials.
pub(crate) const SECRET_TYPE: &str = "kubernetes.io/dockerconfigjson";
/// The one key of a Secret of that type.
pub(crate) const DOCKER_CONFIG_JSON: &str = ".dockerconfigjson";
/// A Registry's last good credential is in the Secret of this name and the Registry's.
pub(crate) const CREDENTIAL_PREFIX: &str = "pullpass-credential-";
/// The authority that signs the webhook's certificates.
pub(crate) const AUTHORITY_SECRET: &str = "pullpass-ca";

/// The Secret of a Registry's last good credential.
pub(crate) fn credential_name(registry: &str) -> String {
    format!("{CREDENTIAL_PREFIX}{registry}")
}

/// The labels of a copy, all of them.
pub(crate) fn copy_labels() -> BTreeMap<&'static str, &'static str> {
    let mut labels = common_labels();
    labels.insert(COPY_LABEL, "true");
    labels
}

/// The labels of a PullAccess that says so, all of them.
pub(crate) fn access_labels(state: SecretState) -> BTreeMap<&'static str, &'static str> {
    let mut labels = common_labels();
    labels.insert(SECRET_STATE_LABEL, state.as_str());
    labels
}

/// The labels of everything that we make.
pub(crate) fn common_labels() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([
        ("app.kubernetes.io/managed-by", "pullpass"),
        ("app.kubernetes.io/part-of", "pullpass"),
    ])
}

/// The metadata that we set.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata<'a> {
    /// The object's name.
    pub(crate) name: &'a str,
    /// The object that has to be there; without it, whatever is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) uid: Option<&'a str>,
    /// The version that it has to have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resource_version: Option<&'a str>,
    /// Labels.
    pub(crate) labels: BTreeMap<&'a str, &'a str>,
    /// Annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<&'a str, String>,
    /// The object whose deletion takes this one along.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) owner_references: Vec<Owner<'a>>,
}

/// An owner that does not hold anything up.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Owner<'a> {
    /// Its API version.
    pub(crate) api_version: &'a str,
    /// Its kind.
    pub(crate) kind: &'a str,
    /// Its name.
    pub(crate) name: &'a str,
    /// Which one of that name.
    pub(crate) uid: &'a str,
}

impl<'a> Metadata<'a> {
    /// With preconditions, where the object is there already.
    pub(crate) fn named(
        name: &'a str,
        labels: BTreeMap<&'a str, &'a str>,
        version: Option<&'a Version>,
    ) -> Self {
        Self {
            name,
            uid: version.map(|version| version.uid.as_str()),
            resource_version: version.map(|version| version.resource_version.as_str()),
            labels,
            ..Self::default()
        }
    }
}

/// A Secret to apply. It prints nothing of its data.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SecretManifest<'a> {
    api_version: &'static str,
    kind: &'static str,
    r#type: &'a str,
    metadata: Metadata<'a>,
    data: SecretData<'a>,
}

/// Values of a Secret, in base64 only where they are written.
struct SecretData<'a>(Vec<(&'a str, &'a [u8])>);

impl Serialize for SecretData<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, &STANDARD.encode(value))?;
        }
        map.end()
    }
}

impl fmt::Debug for SecretManifest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretManifest")
            .field("metadata", &self.metadata)
            .finish_non_exhaustive()
    }
}

impl<'a> SecretManifest<'a> {
    /// A Secret of any type.
    pub(crate) fn new(
        kind: &'a str,
        metadata: Metadata<'a>,
        data: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Self {
        Self {
            api_version: "v1",
            kind: "Secret",
            r#type: kind,
            metadata,
            data: SecretData(data.into_iter().collect()),
        }
    }

    /// A Secret with a docker config.
    pub(crate) fn docker_config(metadata: Metadata<'a>, content: &'a SecretSlice<u8>) -> Self {
        Self::new(
            SECRET_TYPE,
            metadata,
            [(DOCKER_CONFIG_JSON, content.expose_secret())],
        )
    }
}

/// A PullAccess to apply.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AccessManifest<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata<'a>,
    secret: &'a SecretAccess,
    registries: &'a [RegistryAccess],
}

impl<'a> AccessManifest<'a> {
    /// With preconditions, where it is there already.
    pub(crate) fn new(content: &'a AccessContent, version: Option<&'a Version>) -> Self {
        Self {
            api_version: "pullpass.dev/v1alpha1",
            kind: "PullAccess",
            metadata: Metadata::named(
                pull_access::NAME,
                access_labels(content.secret.state),
                version,
            ),
            secret: &content.secret,
            registries: &content.registries,
        }
    }
}

/// A merge patch (RFC 7386) that takes off a copy what others have put on it. An apply cannot: it leaves alone what
/// belongs to others.
pub(crate) fn without_strays(strays: &Strays, version: &Version) -> serde_json::Value {
    let nulls = |keys: &[String]| -> serde_json::Map<String, serde_json::Value> {
        keys.iter()
            .map(|key| (key.clone(), serde_json::Value::Null))
            .collect()
    };
    let mut metadata = serde_json::Map::from_iter([
        ("uid".to_owned(), version.uid.clone().into()),
        (
            "resourceVersion".to_owned(),
            version.resource_version.clone().into(),
        ),
        ("labels".to_owned(), nulls(&strays.labels).into()),
    ]);
    if strays.annotations {
        metadata.insert("annotations".to_owned(), serde_json::Value::Null);
    }
    if strays.owners {
        metadata.insert("ownerReferences".to_owned(), serde_json::Value::Null);
    }
    serde_json::json!({"metadata": metadata, "data": nulls(&strays.data)})
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_secret_is_written_in_full_and_printed_without_its_data() {
        let version = Version {
            uid: "u".into(),
            resource_version: "7".into(),
        };
        let content = SecretSlice::from(b"CANARY".to_vec());
        let manifest = SecretManifest::docker_config(
            Metadata::named("pullpass", copy_labels(), Some(&version)),
            &content,
        );
        assert_eq!(
            serde_json::to_value(&manifest).unwrap(),
            json!({
                "apiVersion": "v1",
                "kind": "Secret",
                "type": "kubernetes.io/dockerconfigjson",
                "metadata": {
                    "name": "pullpass", "uid": "u", "resourceVersion": "7",
                    "labels": {
                        "app.kubernetes.io/managed-by": "pullpass",
                        "app.kubernetes.io/part-of": "pullpass",
                        "pullpass.dev/copy": "true",
                    },
                },
                "data": {".dockerconfigjson": "Q0FOQVJZ"},
            })
        );
        let printed = format!("{manifest:?}");
        assert!(!printed.contains("CANARY") && !printed.contains("Q0FOQVJZ"));
    }

    #[test]
    fn strays_are_taken_off_one_by_one() {
        let strays = Strays {
            labels: vec!["team".into()],
            data: vec!["more".into()],
            annotations: true,
            owners: false,
        };
        let version = Version {
            uid: "u".into(),
            resource_version: "7".into(),
        };
        assert_eq!(
            without_strays(&strays, &version),
            json!({
                "metadata": {"uid": "u", "resourceVersion": "7", "labels": {"team": null}, "annotations": null},
                "data": {"more": null},
            })
        );
    }
}
