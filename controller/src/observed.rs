//! What is there in the namespaces, as far as the plan needs it. Bodies are dropped as soon as they are digested.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Preconditions};
use kube::core::{ObjectMeta, PartialObjectMeta};
use pullpass_api::PullAccess;
use pullpass_api::pull_access::{RegistryAccess, SecretAccess};
use sha2::{Digest as _, Sha256};

use crate::manifest::{self, COPY_LABEL, DOCKER_CONFIG_JSON, FIELD_MANAGER, SECRET_TYPE};

/// SHA-256 of a docker config. Kept in memory only: it could be used to test guesses of a credential.
pub(crate) type Digest = [u8; 32];

/// The digest of a docker config.
pub(crate) fn digest(content: &[u8]) -> Digest {
    Sha256::digest(content).into()
}

/// The state of an object that a write was decided on; the API server refuses the write when it is another by then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// Which object it is.
    pub(crate) uid: String,
    /// Which version of it.
    pub(crate) resource_version: String,
}

impl Version {
    /// Of an object that was read.
    pub(crate) fn of(meta: &ObjectMeta) -> Self {
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
        }
    }

    /// Whether this came about later. The resource versions of one resource count up over all its objects (KEP-5504); where
    /// they cannot be read, what comes last is taken for later.
    pub(crate) fn is_newer_than(&self, other: &Version) -> bool {
        match (
            self.resource_version.parse::<u128>(),
            other.resource_version.parse::<u128>(),
        ) {
            (Ok(this), Ok(other)) => this > other,
            _ => self.resource_version != other.resource_version,
        }
    }

    /// For deleting the object only if it is still in just this version.
    pub(crate) fn deletion(&self) -> DeleteParams {
        DeleteParams::background().preconditions(Preconditions {
            uid: Some(self.uid.clone()),
            resource_version: Some(self.resource_version.clone()),
        })
    }

    /// For deleting the object in whatever version it is by then, and no other of its name.
    pub(crate) fn deletion_in_any_version(&self) -> DeleteParams {
        DeleteParams::background().preconditions(Preconditions {
            uid: Some(self.uid.clone()),
            resource_version: None,
        })
    }
}

/// What others have put on our copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Strays {
    /// Labels.
    pub(crate) labels: Vec<String>,
    /// Keys of the data.
    pub(crate) data: Vec<String>,
    /// Whether there are annotations.
    pub(crate) annotations: bool,
    /// Whether there are owners, one of which may not exist, so that the copy is collected as garbage.
    pub(crate) owners: bool,
}

impl Strays {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A Secret of the copies' name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    /// Its version.
    pub(crate) version: Version,
    /// Whether Pullpass made it.
    pub(crate) ours: bool,
    /// Whether it was deleted and something holds it back.
    pub(crate) terminating: bool,
    /// Whether somebody made it immutable.
    pub(crate) immutable: bool,
    /// Of its docker config; `None` where it has none.
    pub(crate) digest: Option<Digest>,
    /// Whether our labels are all there.
    pub(crate) labelled: bool,
    /// What is on it that is not ours.
    pub(crate) strays: Option<Box<Strays>>,
}

impl Copy {
    /// Out of a Secret, which is consumed.
    ///
    /// Ours is what carries our label and was applied under our field manager. The policy `pullpass-copies` lets nobody else
    /// put the label on, or take either off; before it was in force, either alone came about by copying a manifest or by
    /// choosing a name.
    pub(crate) fn observe(secret: Secret) -> Self {
        let meta = &secret.metadata;
        let labelled_as_copy = meta
            .labels
            .as_ref()
            .and_then(|labels| labels.get(COPY_LABEL))
            .is_some_and(|value| value == "true");
        let applied_by_us = meta.managed_fields.iter().flatten().any(|entry| {
            entry.manager.as_deref() == Some(FIELD_MANAGER)
                && entry.operation.as_deref() == Some("Apply")
        });
        let data = secret.data.unwrap_or_default();
        let (labelled, strays) = judge_metadata(meta, &data);
        Self {
            version: Version::of(meta),
            ours: labelled_as_copy && applied_by_us && secret.type_.as_deref() == Some(SECRET_TYPE),
            terminating: meta.deletion_timestamp.is_some(),
            immutable: secret.immutable == Some(true),
            digest: data.get(DOCKER_CONFIG_JSON).map(|value| digest(&value.0)),
            labelled,
            strays,
        }
    }

    /// After we have applied a docker config with this digest; `previous` is what was there before.
    pub(crate) fn applied(
        answer: &PartialObjectMeta<Secret>,
        digest: Digest,
        previous: Option<&Self>,
    ) -> Self {
        let none = BTreeMap::new();
        let (labelled, mut strays) = judge_metadata(&answer.metadata, &none);
        // the answer does not tell about the data
        let stray_keys = previous
            .and_then(|copy| copy.strays.as_ref())
            .map(|before| before.data.clone())
            .unwrap_or_default();
        if !stray_keys.is_empty() {
            strays.get_or_insert_default().data = stray_keys;
        }
        Self {
            version: Version::of(&answer.metadata),
            ours: true,
            terminating: answer.metadata.deletion_timestamp.is_some(),
            immutable: false,
            digest: Some(digest),
            labelled,
            strays,
        }
    }

    /// After we have taken off it what others had put on.
    pub(crate) fn cleaned(&self, answer: &PartialObjectMeta<Secret>) -> Self {
        let (labelled, strays) = judge_metadata(&answer.metadata, &BTreeMap::new());
        Self {
            version: Version::of(&answer.metadata),
            labelled,
            strays,
            ..self.clone()
        }
    }
}

fn judge_metadata(
    meta: &ObjectMeta,
    data: &BTreeMap<String, ByteString>,
) -> (bool, Option<Box<Strays>>) {
    let none = BTreeMap::new();
    let labels = meta.labels.as_ref().unwrap_or(&none);
    let ours = manifest::copy_labels();
    let labelled = ours
        .iter()
        .all(|(key, value)| labels.get(*key).is_some_and(|found| found == value));
    let strays = Strays {
        labels: labels
            .keys()
            .filter(|key| !ours.contains_key(key.as_str()))
            .cloned()
            .collect(),
        data: data
            .keys()
            .filter(|key| *key != DOCKER_CONFIG_JSON)
            .cloned()
            .collect(),
        annotations: meta.annotations.as_ref().is_some_and(|all| !all.is_empty()),
        owners: meta
            .owner_references
            .as_ref()
            .is_some_and(|all| !all.is_empty()),
    };
    (labelled, (!strays.is_empty()).then(|| Box::new(strays)))
}

/// A PullAccess of the name that we write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    /// Its version.
    pub(crate) version: Version,
    /// Whether it was deleted and something holds it back.
    pub(crate) terminating: bool,
    /// What it says.
    pub(crate) content: AccessContent,
    /// Whether our labels are all there.
    pub(crate) labelled: bool,
}

/// What a PullAccess says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AccessContent {
    /// The pull secret.
    pub(crate) secret: SecretAccess,
    /// The registries.
    pub(crate) registries: std::sync::Arc<[RegistryAccess]>,
}

impl Access {
    /// Out of a PullAccess.
    pub(crate) fn observe(object: PullAccess) -> Self {
        let labels = object.labels();
        let labelled = manifest::access_labels(object.spec.secret.state)
            .iter()
            .all(|(key, value)| labels.get(*key).is_some_and(|found| found == value));
        Self {
            version: Version::of(&object.metadata),
            terminating: object.metadata.deletion_timestamp.is_some(),
            labelled,
            content: AccessContent {
                secret: object.spec.secret,
                registries: object.spec.registries.into(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn ours() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": SECRET_TYPE,
            "metadata": {
                "name": "pullpass", "namespace": "team-a", "uid": "u", "resourceVersion": "5",
                "labels": manifest::copy_labels(),
                "managedFields": [{"manager": FIELD_MANAGER, "operation": "Apply"}],
            },
            "data": {".dockerconfigjson": "e30="},
        })
    }

    fn observe(value: Value) -> Copy {
        Copy::observe(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn our_copy_is_recognised() {
        let copy = observe(ours());
        assert!(copy.ours && copy.labelled && !copy.immutable && !copy.terminating);
        assert_eq!(copy.digest, Some(digest(b"{}")));
        assert_eq!(copy.strays, None);
        assert_eq!(copy.version.resource_version, "5");
    }

    #[rstest]
    #[case("/metadata/labels", json!({}))]
    #[case("/metadata/labels", json!({"pullpass.dev/copy": "false"}))]
    #[case("/metadata/managedFields", json!([]))]
    #[case("/metadata/managedFields", json!([{"manager": "kubectl", "operation": "Apply"}]))]
    #[case("/metadata/managedFields", json!([{"manager": "pullpass-controller", "operation": "Update"}]))]
    #[case("/type", json!("Opaque"))]
    fn each_mark_alone_can_be_forged(#[case] pointer: &str, #[case] value: Value) {
        let mut object = ours();
        *object.pointer_mut(pointer).unwrap() = value;
        assert!(!observe(object).ours);
    }

    #[test]
    fn what_others_put_on_it_is_listed() {
        let mut object = ours();
        object["metadata"]["labels"]["team"] = json!("a");
        object["metadata"]["annotations"] = json!({"replicate": "everywhere"});
        object["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "y"}]);
        object["data"]["more"] = json!("e30=");
        object["immutable"] = json!(true);
        let copy = observe(object);
        assert!(copy.ours && copy.immutable);
        let strays = *copy.strays.unwrap();
        assert_eq!(
            strays,
            Strays {
                labels: vec!["team".into()],
                data: vec!["more".into()],
                annotations: true,
                owners: true
            }
        );
    }

    #[rstest]
    #[case("10", "9", true)]
    #[case("9", "10", false)]
    #[case("9", "9", false)]
    #[case("x", "y", true)]
    fn versions_count_up(#[case] this: &str, #[case] other: &str, #[case] newer: bool) {
        let version = |text: &str| Version {
            uid: "u".into(),
            resource_version: text.into(),
        };
        assert_eq!(version(this).is_newer_than(&version(other)), newer);
    }
}
