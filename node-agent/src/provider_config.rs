//! Kubelet's credential provider configuration: our entry for the kubelet's version, beside those of others.
//!
//! Kubelet reads the configuration once, when it starts, and strictly: a field that its version does not know, a provider
//! whose program is missing, or no provider at all, and it does not start. So every row of [`capabilities`] is tried in the
//! tests with the code of that version's kubelet, what is merged is read into types that know every field, and a
//! configuration that they do not take is left alone.
//!
//! The order of the steps follows from the same: the program is there before the entry that names it, and goes after it.

use pullpass_core::match_images::MatchImages;
use pullpass_credential_provider::arguments::Arguments;
use pullpass_credential_provider::claims::AUDIENCE;
use pullpass_credential_provider::protocol::API_VERSION;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The provider's name, which is the name of its program as well.
pub const PROVIDER_NAME: &str = "pullpass-credential-provider";

/// Our own file, where kubelet reads a directory of them.
pub const FILE_NAME: &str = "pullpass-credential-provider.json";

/// Kubelet's configuration API. Every version of it from 1.26 on reads this one, which has all fields of the older ones.
const CONFIG_API_VERSION: &str = "kubelet.config.k8s.io/v1";
const OLDER_CONFIG_API_VERSIONS: [&str; 2] = [
    "kubelet.config.k8s.io/v1beta1",
    "kubelet.config.k8s.io/v1alpha1",
];
const CONFIG_KIND: &str = "CredentialProviderConfig";

/// The hexadecimal digits of a configuration's name: enough to tell the few apart that a node ever has.
const NAME_DIGITS: usize = 16;

/// What a version of kubelet can do with a provider configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether it hands a plugin the token of the pod's service account (KEP-4412, on by default from 1.34). Without,
    /// the plugin cannot tell namespaces apart and serves node-wide entries only.
    pub tokens: bool,
    /// Whether the configuration may be a directory of files (from 1.34).
    pub directory: bool,
}

/// The oldest minor version that is known, with what it can do; each later row is what changed then.
const VERSIONS: [(u32, Capabilities); 2] = [
    (
        33,
        Capabilities {
            tokens: false,
            directory: false,
        },
    ),
    (
        34,
        Capabilities {
            tokens: true,
            directory: true,
        },
    ),
];

/// A kubelet of this version is not known, or too old.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("kubelet is of version {0:?}, and 1.33 is the first that is served: upgrade the node")]
pub struct UnsupportedKubelet(String);

/// What a kubelet of this version can do, as the Node's status spells it (`v1.34.4-eks-3cfe0ce`). A version that is newer
/// than all in the table counts as the newest of them: the API is stable.
///
/// # Errors
/// A version before 1.33, and a text that is none.
pub fn capabilities(version: &str) -> Result<Capabilities, UnsupportedKubelet> {
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next(), numbers.next());
    let minor = minor
        .filter(|_| major == Some("1"))
        .and_then(|minor| minor.parse::<u32>().ok());
    VERSIONS
        .iter()
        .rev()
        .find(|(since, _)| minor.is_some_and(|minor| minor >= *since))
        .map(|(_, capabilities)| *capabilities)
        .ok_or_else(|| UnsupportedKubelet(version.to_owned()))
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Configuration {
    api_version: String,
    kind: String,
    providers: Vec<Provider>,
}

/// One provider, with every field that kubelet knows in any version that is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Provider {
    name: String,
    match_images: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_cache_duration: Option<String>,
    api_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    env: Option<Vec<EnvVar>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_attributes: Option<TokenAttributes>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvVar {
    name: String,
    value: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TokenAttributes {
    service_account_token_audience: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_type: Option<String>,
    require_service_account: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    required_service_account_annotation_keys: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    optional_service_account_annotation_keys: Option<Vec<String>>,
}

/// Why a configuration is left as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderConfigError {
    /// Not YAML of the form that is known. The place is not repeated: the file holds others' environment variables.
    #[error(
        "the provider configuration holds something that this release does not know, so it is left as it is: add the provider {PROVIDER_NAME} by hand, or give kubelet a directory of files"
    )]
    Unknown,
    /// Another kind, or another version of it.
    #[error(
        "the file is no {CONFIG_KIND} of {CONFIG_API_VERSION}: check the chart value that names it"
    )]
    OtherKind,
}

/// Our entry for a kubelet that can do so much.
///
/// Its answers are not kept: they hold a cache duration of their own, and this one is for plugins that give none. No
/// service account is required, so that a static pod gets the node-wide entries.
pub fn provider(
    capabilities: Capabilities,
    match_images: &MatchImages,
    store: &std::path::Path,
) -> Provider {
    let mut provider = Provider {
        name: PROVIDER_NAME.into(),
        match_images: match_images.patterns(),
        default_cache_duration: Some("0s".into()),
        api_version: API_VERSION.into(),
        args: None,
        env: None,
        token_attributes: capabilities.tokens.then(|| TokenAttributes {
            service_account_token_audience: AUDIENCE.into(),
            cache_type: Some("ServiceAccount".into()),
            require_service_account: false,
            required_service_account_annotation_keys: None,
            optional_service_account_annotation_keys: None,
        }),
    };
    let arguments = Arguments {
        store: store.to_owned(),
        configuration: name(&provider, store),
    };
    provider.args = Some(arguments.to_args());
    provider
}

/// A name that is another whenever kubelet has to read the entry anew.
fn name(provider: &Provider, store: &std::path::Path) -> String {
    let mut hash = Sha256::new();
    // a type of texts and lists always serializes
    hash.update(serde_json::to_vec(provider).unwrap_or_default());
    hash.update(store.as_os_str().as_encoded_bytes());
    let mut name = format!("{:x}", hash.finalize());
    name.truncate(NAME_DIGITS);
    name
}

impl Provider {
    /// The name by which kubelet calls the plugin once it has read this entry.
    pub fn configuration(&self) -> Option<String> {
        let args = self.args.iter().flatten().map(std::ffi::OsString::from);
        Arguments::parse(args)
            .ok()
            .map(|arguments| arguments.configuration)
    }
}

/// A configuration with our entry alone: the whole file where there is none, and our own where kubelet reads a directory.
pub fn alone(provider: &Provider) -> Vec<u8> {
    write(vec![provider.clone()])
}

/// A configuration with our entry beside those of others. The same again gives the same bytes.
///
/// # Errors
/// A configuration that cannot be carried over whole.
pub fn merge(existing: &[u8], provider: &Provider) -> Result<Vec<u8>, ProviderConfigError> {
    let mut providers = others(existing)?;
    providers.push(provider.clone());
    Ok(write(providers))
}

/// What becomes of a configuration that our entry is taken out of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Without {
    /// It is not in there.
    Unchanged,
    /// This is left.
    Left(Vec<u8>),
    /// Nothing would be left, and kubelet does not start with a configuration without a provider: entry and program have to
    /// stay for as long as kubelet is started with the file.
    WouldStopKubelet,
}

/// Takes our entry out of a configuration. Where nothing but the entry was added to `original`, the original comes back
/// to the byte.
///
/// # Errors
/// A configuration that cannot be carried over whole.
pub fn without(current: &[u8], original: Option<&[u8]>) -> Result<Without, ProviderConfigError> {
    let all = read(current)?.providers;
    let left = others(current)?;
    if left.len() == all.len() {
        return Ok(Without::Unchanged);
    }
    if left.is_empty() {
        return Ok(Without::WouldStopKubelet);
    }
    match original {
        Some(original) if others(original).as_ref() == Ok(&left) => {
            Ok(Without::Left(original.to_vec()))
        }
        _ => Ok(Without::Left(write(left))),
    }
}

fn others(content: &[u8]) -> Result<Vec<Provider>, ProviderConfigError> {
    let mut providers = read(content)?.providers;
    providers.retain(|provider| provider.name != PROVIDER_NAME);
    Ok(providers)
}

fn read(content: &[u8]) -> Result<Configuration, ProviderConfigError> {
    let configuration: Configuration =
        serde_yaml_ng::from_slice(content).map_err(|_| ProviderConfigError::Unknown)?;
    let version = configuration.api_version.as_str();
    let is_known = version == CONFIG_API_VERSION || OLDER_CONFIG_API_VERSIONS.contains(&version);
    if configuration.kind != CONFIG_KIND || !is_known {
        return Err(ProviderConfigError::OtherKind);
    }
    Ok(configuration)
}

/// JSON, which is YAML too, so that the file's name may end with either.
fn write(providers: Vec<Provider>) -> Vec<u8> {
    let configuration = Configuration {
        api_version: CONFIG_API_VERSION.into(),
        kind: CONFIG_KIND.into(),
        providers,
    };
    // a type of texts and lists always serializes
    let mut content = serde_json::to_vec_pretty(&configuration).unwrap_or_default();
    content.push(b'\n');
    content
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::{Value, json};
    use std::path::Path;

    const EKS: &str = r#"
# from the node's image
apiVersion: kubelet.config.k8s.io/v1beta1
kind: CredentialProviderConfig
providers:
  - name: ecr-credential-provider
    matchImages: ["*.dkr.ecr.*.amazonaws.com"]
    defaultCacheDuration: "12h"
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    args: [get-credentials]
    env: [{name: AWS_PROFILE, value: node}]
"#;

    fn ours(version: &str) -> Provider {
        let match_images = MatchImages::new([5000]);
        provider(
            capabilities(version).unwrap(),
            &match_images,
            Path::new("/var/lib/pullpass"),
        )
    }

    fn json(content: &[u8]) -> Value {
        serde_json::from_slice(content).unwrap()
    }

    #[rstest]
    #[case("v1.33.13", false, false)]
    #[case("v1.34.0", true, true)]
    #[case("v1.34.4-eks-3cfe0ce", true, true)]
    #[case("v1.36.1-gke.1045000", true, true)]
    #[case("v1.37.2+k3s1", true, true)]
    #[case("1.38.0-alpha.1", true, true)]
    fn a_version_can_do_what_the_table_says(
        #[case] version: &str,
        #[case] tokens: bool,
        #[case] directory: bool,
    ) {
        assert_eq!(
            capabilities(version),
            Ok(Capabilities { tokens, directory })
        );
    }

    #[rstest]
    #[case("v1.32.9")]
    #[case("v2.0.0")]
    #[case("v1")]
    #[case("")]
    fn other_versions_are_refused(#[case] version: &str) {
        let error = capabilities(version).unwrap_err().to_string();
        assert!(error.contains("upgrade the node"), "{error}");
    }

    #[test]
    fn the_entry_asks_for_tokens_where_kubelet_knows_them() {
        let file = json(&alone(&ours("v1.34.0")));
        let entry = &file["providers"][0];
        assert_eq!(
            entry["tokenAttributes"],
            json!({
                "serviceAccountTokenAudience": "pullpass.dev",
                "cacheType": "ServiceAccount",
                "requireServiceAccount": false,
            })
        );
        assert_eq!(entry["args"][0], "--store=/var/lib/pullpass");
        assert!(
            entry["matchImages"]
                .as_array()
                .unwrap()
                .contains(&json!("*.*.*:5000"))
        );
        assert_eq!(
            json(&alone(&ours("v1.33.0")))["providers"][0].get("tokenAttributes"),
            None
        );
    }

    #[test]
    fn the_name_tells_configurations_apart() {
        let capabilities = capabilities("v1.37.2").unwrap();
        let of = |ports: &[u16], store: &str| {
            let match_images = MatchImages::new(ports.iter().copied());
            provider(capabilities, &match_images, Path::new(store)).configuration()
        };
        let one = of(&[5000], "/a");
        assert_eq!(one.as_ref().map(String::len), Some(NAME_DIGITS));
        assert_eq!(one, of(&[5000], "/a"));
        for other in [
            of(&[], "/a"),
            of(&[5000], "/b"),
            ours("v1.33.0").configuration(),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn other_providers_stay() {
        let merged = merge(EKS.as_bytes(), &ours("v1.37.2")).unwrap();
        let file = json(&merged);
        assert_eq!(file["apiVersion"], "kubelet.config.k8s.io/v1");
        let names: Vec<_> = file["providers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|provider| provider["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["ecr-credential-provider", PROVIDER_NAME]);
        assert_eq!(
            file["providers"][0],
            json!({
                "name": "ecr-credential-provider",
                "matchImages": ["*.dkr.ecr.*.amazonaws.com"],
                "defaultCacheDuration": "12h",
                "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
                "args": ["get-credentials"],
                "env": [{"name": "AWS_PROFILE", "value": "node"}],
            })
        );
        assert_eq!(merge(&merged, &ours("v1.37.2")).unwrap(), merged);
    }

    #[test]
    fn a_changed_entry_takes_the_place_of_the_old_one() {
        let before = merge(EKS.as_bytes(), &ours("v1.33.0")).unwrap();
        let after = merge(&before, &ours("v1.37.2")).unwrap();
        assert_eq!(after, merge(EKS.as_bytes(), &ours("v1.37.2")).unwrap());
    }

    #[test]
    fn the_original_comes_back_to_the_byte() {
        let original = Some(EKS.as_bytes());
        let merged = merge(EKS.as_bytes(), &ours("v1.37.2")).unwrap();
        assert_eq!(
            without(&merged, original),
            Ok(Without::Left(EKS.as_bytes().to_vec()))
        );
        // what has changed since is kept
        let edited = String::from_utf8(merged).unwrap().replace("12h", "6h");
        let Ok(Without::Left(left)) = without(edited.as_bytes(), original) else {
            panic!("something is left");
        };
        assert_eq!(json(&left)["providers"][0]["defaultCacheDuration"], "6h");
        assert_eq!(json(&left)["providers"].as_array().unwrap().len(), 1);
        assert_eq!(without(&left, original), Ok(Without::Unchanged));
    }

    #[test]
    fn kubelet_is_not_left_without_a_provider() {
        assert_eq!(
            without(&alone(&ours("v1.37.2")), None),
            Ok(Without::WouldStopKubelet)
        );
    }

    #[rstest]
    #[case("kind: [", ProviderConfigError::Unknown)]
    #[case("", ProviderConfigError::Unknown)]
    // read as a boolean by kubelet's YAML, and as a text by ours
    #[case(&EKS.replace("args:", "tokenAttributes: {serviceAccountTokenAudience: a, requireServiceAccount: yes}\n    args:"), ProviderConfigError::Unknown)]
    #[case(&EKS.replace("args:", "someday: true\n    args:"), ProviderConfigError::Unknown)]
    #[case(&EKS.replace("    args:", "    <<: {args: [a]}\n    args:"), ProviderConfigError::Unknown)]
    #[case(&EKS.replace("kind: Cred", "kind: cred"), ProviderConfigError::OtherKind)]
    #[case(&EKS.replace("v1beta1", "v2"), ProviderConfigError::OtherKind)]
    fn what_cannot_be_carried_over_whole_is_left_alone(
        #[case] existing: &str,
        #[case] error: ProviderConfigError,
    ) {
        assert_ne!(existing, EKS);
        assert_eq!(
            merge(existing.as_bytes(), &ours("v1.37.2")),
            Err(error.clone())
        );
        assert_eq!(without(existing.as_bytes(), None), Err(error));
    }

    fn any_provider() -> impl Strategy<Value = Provider> {
        let texts = || prop::collection::vec("[ -~é]{0,6}", 0..3);
        let variables = prop::collection::vec(("[A-Z]{1,3}", "[ -~]{0,6}"), 0..3);
        (
            "[a-z-]{1,9}",
            texts(),
            prop::option::of("[0-9]h"),
            prop::option::of(texts()),
            prop::option::of(variables),
        )
            .prop_map(
                |(name, match_images, default_cache_duration, args, env)| Provider {
                    name,
                    match_images,
                    default_cache_duration,
                    api_version: API_VERSION.into(),
                    args,
                    env: env.map(|variables| {
                        let variables = variables.into_iter();
                        variables
                            .map(|(name, value)| EnvVar { name, value })
                            .collect()
                    }),
                    token_attributes: None,
                },
            )
    }

    proptest! {
        /// In and out again leaves what others have, whatever that is.
        #[test]
        fn others_are_carried_over_whole(providers in prop::collection::vec(any_provider(), 1..4)) {
            let original = write(providers.clone());
            let merged = merge(&original, &ours("v1.37.2")).unwrap();
            let kept = others(&merged).unwrap();
            prop_assert_eq!(kept, providers);
            prop_assert_eq!(without(&merged, None), Ok(Without::Left(original)));
        }

        #[test]
        fn no_content_panics(content in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(merged) = merge(&content, &ours("v1.37.2")) {
                prop_assert!(read(&merged).is_ok());
            }
        }
    }
}
