//! Objects reduced while they are read.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Deserializer};

/// Who an object is, and its labels: what a watch needs of it to go on. As `PartialObjectMeta` it asks the API server
/// for metadata alone, but builds nothing else of that either; field ownership, which is most of it, counts where
/// thousands of objects come in one list.
pub(crate) struct Slim<K> {
    metadata: ObjectMeta,
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Slim<K> {
    fn clone(&self) -> Self {
        Self {
            metadata: self.metadata.clone(),
            kind: PhantomData,
        }
    }
}

impl<K> fmt::Debug for Slim<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slim").field(&self.metadata).finish()
    }
}

impl<'de, K> Deserialize<'de> for Slim<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Object {
            metadata: Fields,
        }

        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Fields {
            name: Option<String>,
            namespace: Option<String>,
            resource_version: Option<String>,
            labels: Option<BTreeMap<String, String>>,
        }

        // a bookmark has a resource version and nothing else
        let Object { metadata } = Object::deserialize(deserializer)?;
        Ok(Self {
            metadata: ObjectMeta {
                name: metadata.name,
                namespace: metadata.namespace,
                resource_version: metadata.resource_version,
                labels: metadata.labels,
                ..ObjectMeta::default()
            },
            kind: PhantomData,
        })
    }
}

impl<K: Resource> Resource for Slim<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dt: &K::DynamicType) -> Cow<'_, str> {
        K::kind(dt)
    }

    fn group(dt: &K::DynamicType) -> Cow<'_, str> {
        K::group(dt)
    }

    fn version(dt: &K::DynamicType) -> Cow<'_, str> {
        K::version(dt)
    }

    fn plural(dt: &K::DynamicType) -> Cow<'_, str> {
        K::plural(dt)
    }

    fn metadata_api() -> bool {
        true
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Namespace;
    use serde_json::json;

    #[test]
    fn what_is_needed_is_read_and_the_rest_is_not() {
        let object: Slim<Namespace> = serde_json::from_value(json!({
            "kind": "PartialObjectMetadata",
            "metadata": {
                "name": "a", "namespace": "b", "resourceVersion": "7", "labels": {"k": "v"},
                "managedFields": [{"manager": "m"}], "annotations": {"a": "b"},
            },
        }))
        .unwrap();
        let expected = ObjectMeta {
            name: Some("a".into()),
            namespace: Some("b".into()),
            resource_version: Some("7".into()),
            labels: Some(BTreeMap::from([("k".into(), "v".into())])),
            ..ObjectMeta::default()
        };
        assert_eq!(object.meta(), &expected);
        assert!(Slim::<Namespace>::metadata_api());
        assert_eq!(Slim::<Namespace>::url_path(&(), None), "/api/v1/namespaces");
    }
}
