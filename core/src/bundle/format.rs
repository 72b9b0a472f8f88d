//! A bundle as JSON.

use std::collections::{BTreeMap, BTreeSet};

use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::{Bundle, BundleAccess, BundleRegistry, RuntimeHost, is_false};
use crate::docker_config::{DockerConfigError, EntryFile, WrittenEntry, entries};
use crate::glob::Glob;

/// The format that is written and read. It changes when an older reader would give away more than it should.
const FORMAT: &str = "v1";

/// Why a bundle cannot be used. Messages give positions, never content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Not JSON of the expected form, or with fields that this release does not know.
    #[error(
        "not a node bundle of this release: line {line}, column {column} (controller and node agent have to be of one release)"
    )]
    Json {
        /// Line of the place, from 1.
        line: usize,
        /// Column of the place, from 1.
        column: usize,
    },
    /// Of another format.
    #[error("a node bundle of another format: run controller and node agent of one release")]
    Format,
    /// A credential that cannot be used.
    #[error("registry {registry} of the node bundle: {source}")]
    Entries {
        /// Which registry of the bundle, from 1.
        registry: usize,
        /// What is wrong with it.
        source: DockerConfigError,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    version: &'static str,
    generation: u64,
    #[serde(skip_serializing_if = "is_false")]
    withdrawn: bool,
    registries: Vec<WrittenRegistry<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    selections: &'a BTreeMap<String, BTreeSet<String>>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    closed_namespaces: &'a BTreeSet<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    runtime: &'a BTreeMap<String, RuntimeHost>,
}

#[derive(Serialize)]
struct WrittenRegistry<'a> {
    name: &'a str,
    priority: i32,
    created: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    access: Option<AccessFile>,
    auths: BTreeMap<String, WrittenEntry<'a>>,
}

/// Unknown fields are refused: one of them might narrow who may use a credential.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BundleFile {
    #[serde(rename = "version")]
    _version: IgnoredAny,
    generation: u64,
    #[serde(default)]
    withdrawn: bool,
    registries: Vec<RegistryFile>,
    #[serde(default)]
    selections: BTreeMap<String, BTreeSet<String>>,
    #[serde(default)]
    closed_namespaces: BTreeSet<String>,
    #[serde(default)]
    runtime: BTreeMap<String, RuntimeHost>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RegistryFile {
    name: String,
    priority: i32,
    created: i64,
    access: Option<AccessFile>,
    auths: BTreeMap<String, EntryFile>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AccessFile {
    include: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    exclude: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    selection: Option<String>,
}

impl Bundle {
    /// Reads what [`Bundle::write`] has written.
    ///
    /// # Errors
    /// What another release has written, and what nobody of ours has.
    pub fn parse(content: &[u8]) -> Result<Self, BundleError> {
        #[derive(Deserialize)]
        struct Version {
            version: String,
        }
        let json = |error: serde_json::Error| BundleError::Json {
            line: error.line(),
            column: error.column(),
        };
        let Version { version } = serde_json::from_slice(content).map_err(json)?;
        if version != FORMAT {
            return Err(BundleError::Format);
        }
        let file: BundleFile = serde_json::from_slice(content).map_err(json)?;
        let registries = file.registries.into_iter().enumerate();
        Ok(Self {
            generation: file.generation,
            withdrawn: file.withdrawn,
            registries: registries
                .map(|(index, registry)| {
                    Ok(BundleRegistry {
                        name: registry.name,
                        priority: registry.priority,
                        created: registry.created,
                        access: registry.access.map(BundleAccess::from),
                        entries: entries(registry.auths).map_err(|source| {
                            BundleError::Entries {
                                registry: index + 1,
                                source,
                            }
                        })?,
                    })
                })
                .collect::<Result<_, BundleError>>()?,
            selections: file.selections,
            closed_namespaces: file.closed_namespaces,
            runtime: file.runtime,
        })
    }

    /// The bundle as JSON. The same bundle always gives the same bytes.
    pub fn write(&self) -> SecretSlice<u8> {
        let basics: Vec<BTreeMap<String, SecretString>> = self
            .registries
            .iter()
            .map(|registry| {
                let entries = registry.entries.iter();
                entries
                    .map(|(key, login)| (key.to_string(), login.basic()))
                    .collect()
            })
            .collect();
        let registries = self.registries.iter().zip(&basics);
        let written = Written {
            version: FORMAT,
            generation: self.generation,
            withdrawn: self.withdrawn,
            registries: registries
                .map(|(registry, basics)| WrittenRegistry {
                    auths: basics
                        .iter()
                        .map(|(key, basic)| {
                            let auth = basic.expose_secret();
                            (key.clone(), WrittenEntry { auth })
                        })
                        .collect(),
                    ..registry.without_entries()
                })
                .collect(),
            selections: &self.selections,
            closed_namespaces: &self.closed_namespaces,
            runtime: &self.runtime,
        };
        // maps with text keys always serialize
        serde_json::to_vec(&written).unwrap_or_default().into()
    }

    /// Whether both say the same, whatever their generations.
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        let same = Self {
            generation: self.generation,
            ..other.clone()
        };
        self.write().expose_secret() == same.write().expose_secret()
    }
}

impl BundleRegistry {
    fn without_entries(&self) -> WrittenRegistry<'_> {
        WrittenRegistry {
            name: &self.name,
            priority: self.priority,
            created: self.created,
            access: self.access.as_ref().map(AccessFile::from),
            auths: BTreeMap::new(),
        }
    }

    /// What this registry takes of the Secret beside its entries, with the comma that parts it from the next.
    pub(super) fn written_size(&self) -> usize {
        size_of_json(&self.without_entries()) + 1
    }
}

/// How long a value is as JSON.
pub(super) fn size_of_json(value: &impl Serialize) -> usize {
    serde_json::to_vec(value).map_or(0, |json| json.len())
}

impl From<AccessFile> for BundleAccess {
    fn from(file: AccessFile) -> Self {
        let globs = |texts: Vec<String>| texts.into_iter().map(Glob::new).collect();
        Self {
            include: globs(file.include),
            exclude: globs(file.exclude),
            selection: file.selection,
        }
    }
}

impl From<&BundleAccess> for AccessFile {
    fn from(access: &BundleAccess) -> Self {
        let texts = |globs: &[Glob]| globs.iter().map(ToString::to_string).collect();
        Self {
            include: texts(&access.include),
            exclude: texts(&access.exclude),
            selection: access.selection.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("", "line 1, column 0")]
    #[case(
        r#"{"version":"v2","generation":1,"registries":[]}"#,
        "of another format"
    )]
    #[case(
        r#"{"version":"v1","generation":1,"registries":[],"more":"CANARY"}"#,
        "line 1"
    )]
    #[case(r#"{"version":"v1","generation":1,"registries":[{"name":"a","priority":0,"created":0,"access":{"include":[],"only":["CANARY"]},"auths":{}}]}"#, "line 1")]
    #[case(r#"{"version":"v1","generation":1,"registries":[{"name":"a","priority":0,"created":0,"auths":{"r":{"auth":"CANARY"}}}]}"#, "registry 1 of the node bundle: entry 1")]
    fn what_this_release_does_not_know_is_refused(#[case] content: &str, #[case] message: &str) {
        let error = Bundle::parse(content.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
        assert!(!error.contains("CANARY"), "{error}");
    }

    proptest! {
        #[test]
        fn no_content_panics(content in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(bundle) = Bundle::parse(&content) {
                prop_assert!(Bundle::parse(bundle.write().expose_secret()).is_ok());
            }
        }
    }
}
