//! Kubelet's request and the answer to it: `credentialprovider.kubelet.k8s.io/v1`, as `types.go` of
//! `k8s.io/kubelet/pkg/apis/credentialprovider/v1` has them.

use std::collections::BTreeMap;
use std::io::Read;

use pullpass_core::docker_config::Login;
use pullpass_core::key::RegistryKey;
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use serde::{Deserialize, Serialize};

/// The version of the messages, which the provider configuration names too.
pub const API_VERSION: &str = "credentialprovider.kubelet.k8s.io/v1";

/// The most bytes of a request. All annotations of a service account together have at most 256 KiB, a token has a few.
pub const MAX_REQUEST_BYTES: u64 = 1024 * 1024;

/// What kubelet asks. Annotations of the service account, which it may send too, are not read: a tenant writes them.
#[derive(Debug, Deserialize)]
pub struct Request {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    /// The image as kubelet normalised it.
    pub image: String,
    /// The pod's token, where there is one: a static pod brings none, nor does kubelet before 1.34.
    #[serde(rename = "serviceAccountToken")]
    pub token: Option<SecretString>,
}

/// Why a request cannot be answered. Its content is not repeated.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Standard input.
    #[error("cannot read the request: {0}")]
    Input(std::io::Error),
    /// Beyond [`MAX_REQUEST_BYTES`].
    #[error("the request has more than 1 MiB")]
    TooLarge,
    /// Not JSON, or without the fields.
    #[error(
        "not a CredentialProviderRequest: line {line}, column {column}. Kubelet writes one to standard input"
    )]
    Json {
        /// Line of the place, from 1.
        line: usize,
        /// Column of the place, from 1.
        column: usize,
    },
    /// Another kind or version.
    #[error(
        "not a CredentialProviderRequest of {API_VERSION}: set apiVersion in the provider configuration to that"
    )]
    Version,
}

impl Request {
    /// Reads one request to the end of the input.
    ///
    /// # Errors
    /// What no kubelet writes.
    pub fn read(input: &mut dyn Read) -> Result<Self, RequestError> {
        let mut content = Vec::new();
        input
            .take(MAX_REQUEST_BYTES + 1)
            .read_to_end(&mut content)
            .map_err(RequestError::Input)?;
        if content.len() as u64 > MAX_REQUEST_BYTES {
            return Err(RequestError::TooLarge);
        }
        Self::parse(&content)
    }

    /// Reads a request from its bytes.
    ///
    /// # Errors
    /// What no kubelet writes.
    pub fn parse(content: &[u8]) -> Result<Self, RequestError> {
        let request: Self =
            serde_json::from_slice(content).map_err(|error| RequestError::Json {
                line: error.line(),
                column: error.column(),
            })?;
        if request.api_version != API_VERSION || request.kind != "CredentialProviderRequest" {
            return Err(RequestError::Version);
        }
        Ok(request)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    api_version: &'static str,
    kind: &'static str,
    cache_key_type: &'static str,
    cache_duration: &'static str,
    auth: BTreeMap<String, Auth<'a>>,
}

#[derive(Serialize)]
struct Auth<'a> {
    username: &'a str,
    password: &'a str,
}

/// The answer with these logins. Kubelet tries them in the order of the keys that it sorts itself, and keeps none: a
/// changed credential shows at the next pull, and what one namespace was given is not kept for another.
pub fn response<'a>(
    logins: impl IntoIterator<Item = (&'a RegistryKey, &'a Login)>,
) -> SecretSlice<u8> {
    let auth = logins
        .into_iter()
        .map(|(key, login)| {
            let auth = Auth {
                username: login.username().expose_secret(),
                password: login.password().expose_secret(),
            };
            (key.to_string(), auth)
        })
        .collect();
    // maps with text keys always serialize
    serde_json::to_vec(&Response {
        api_version: API_VERSION,
        kind: "CredentialProviderResponse",
        cache_key_type: "Image",
        cache_duration: "0s",
        auth,
    })
    .unwrap_or_default()
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const REQUEST: &str = r#"{"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1","image":"r.example.com/app","serviceAccountToken":"CANARY","serviceAccountAnnotations":{"a":"b"}}"#;

    #[test]
    fn reads_what_kubelet_writes() {
        let request = Request::read(&mut REQUEST.as_bytes()).unwrap();
        assert_eq!(request.image, "r.example.com/app");
        assert_eq!(request.token.as_ref().unwrap().expose_secret(), "CANARY");
        assert!(!format!("{request:?}").contains("CANARY"));
    }

    #[rstest]
    #[case("", "line 1, column 0")]
    #[case("CANARY", "line 1, column 1")]
    #[case(
        r#"{"kind":"CANARY","apiVersion":"credentialprovider.kubelet.k8s.io/v1","image":"a"}"#,
        "apiVersion"
    )]
    #[case(r#"{"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1beta1","image":"CANARY"}"#, "apiVersion")]
    #[case(r#"{"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1"}"#, "line 1")]
    #[case(r#"{"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1","image":["CANARY"]}"#, "line 1")]
    fn refuses_with_a_place_and_without_the_content(#[case] content: &str, #[case] message: &str) {
        let error = Request::parse(content.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
        assert!(!error.contains("CANARY"), "{error}");
    }

    #[test]
    fn an_endless_request_is_cut_off() {
        let error = Request::read(&mut std::io::repeat(b' ')).unwrap_err();
        assert!(matches!(error, RequestError::TooLarge), "{error}");
    }

    #[test]
    fn the_answer_is_what_kubelet_reads_and_is_not_kept() {
        let key = RegistryKey::parse("r.example.com/team").unwrap();
        let login = Login::new("user".into(), "p\"ass".into()).unwrap();
        let response = response([(&key, &login)]);
        assert_eq!(
            String::from_utf8(response.expose_secret().to_vec()).unwrap(),
            r#"{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderResponse","cacheKeyType":"Image","cacheDuration":"0s","auth":{"r.example.com/team":{"username":"user","password":"p\"ass"}}}"#
        );
    }
}
