//! The namespace that a pod's service account token speaks for.
//!
//! The claims are those of the API server (`pkg/serviceaccount/claims.go` of Kubernetes). Every one that ties the token to
//! what kubelet asked for is compared, so that a token which was made for something else says nothing here. The signature
//! is not checked: the crate's documentation says what takes its place.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// The audience that kubelet asks for, which no other receiver of tokens accepts.
pub const AUDIENCE: &str = "pullpass.dev";

/// The most bytes that a namespace's name may have (RFC 1123, a label).
const MAX_NAMESPACE: usize = 63;

const SUBJECT_PREFIX: &str = "system:serviceaccount:";

/// Why a token speaks for no namespace. The token's content is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three parts, or the second is not base64 of JSON.
    #[error("it is not a signed token of three parts with JSON inside")]
    Form,
    /// A claim is missing, twice there, or of another type.
    #[error("it lacks claims of a service account's token, or has them in another form")]
    Claims,
    /// `iss` is empty or no identifier.
    #[error("its issuer is empty, or no identifier")]
    Issuer,
    /// `aud` is for others.
    #[error("it is not for the audience {AUDIENCE}")]
    Audience,
    /// `exp` has passed.
    #[error("it has expired")]
    Expired,
    /// The namespace is no name.
    #[error("its namespace is no name of a namespace")]
    Namespace,
    /// `sub` is not the service account that the other claims name.
    #[error("its subject is another than its namespace and service account")]
    Subject,
    /// It is not bound to a pod, as every token that kubelet asks for is.
    #[error("it is not bound to a pod")]
    Pod,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audiences,
    exp: u64,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

/// One audience may stand without a list (RFC 7519, section 4.1.3).
#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

impl Audiences {
    fn contains(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Many(many) => many.iter().any(|each| each == audience),
        }
    }
}

#[derive(Deserialize)]
struct Kubernetes {
    namespace: String,
    serviceaccount: Reference,
    pod: Option<Reference>,
}

#[derive(Deserialize)]
struct Reference {
    name: String,
    uid: String,
}

impl Reference {
    fn is_complete(&self) -> bool {
        !self.name.is_empty() && !self.uid.is_empty()
    }
}

/// The namespace that the token speaks for at `now`, in seconds since the epoch.
///
/// `nbf` and `iat` are not compared: a node whose clock is behind the API server's would refuse the token that it has just
/// been given.
///
/// # Errors
/// A token that kubelet has not asked for on behalf of a pod, as far as its claims tell.
pub fn namespace(token: &str, now: u64) -> Result<String, TokenError> {
    let claims = read(token)?;
    if claims.iss.is_empty() || claims.iss.chars().any(|c| c.is_control() || c == ' ') {
        return Err(TokenError::Issuer);
    }
    if !claims.aud.contains(AUDIENCE) {
        return Err(TokenError::Audience);
    }
    if claims.exp <= now {
        return Err(TokenError::Expired);
    }
    let Kubernetes {
        namespace,
        serviceaccount,
        pod,
    } = claims.kubernetes;
    if !is_namespace(&namespace) {
        return Err(TokenError::Namespace);
    }
    let subject = claims
        .sub
        .strip_prefix(SUBJECT_PREFIX)
        .and_then(|account| account.split_once(':'));
    if !serviceaccount.is_complete()
        || subject != Some((namespace.as_str(), serviceaccount.name.as_str()))
    {
        return Err(TokenError::Subject);
    }
    if !pod.is_some_and(|pod| pod.is_complete()) {
        return Err(TokenError::Pod);
    }
    Ok(namespace)
}

fn read(token: &str) -> Result<Claims, TokenError> {
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TokenError::Form);
    };
    if header.is_empty() || signature.is_empty() {
        return Err(TokenError::Form);
    }
    let payload = URL_SAFE_NO_PAD
        .decode(payload)
        .map_err(|_| TokenError::Form)?;
    serde_json::from_slice(&payload).map_err(|error| {
        if error.is_data() {
            TokenError::Claims
        } else {
            TokenError::Form
        }
    })
}

/// A label of RFC 1123, as the API server demands it of a namespace's name.
fn is_namespace(name: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=MAX_NAMESPACE).contains(&name.len())
        && name.bytes().all(|b| is_word(b) || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    const NOW: u64 = 1_700_000_000;

    /// The claims of a token that a real API server gave to kubelet, with other names.
    fn claims() -> Value {
        json!({
            "aud": ["pullpass.dev"],
            "exp": NOW + 3600,
            "iat": NOW,
            "iss": "https://kubernetes.default.svc.cluster.local",
            "jti": "4e9a2f3c-2d0b-4d6a-9b1a-0c1d2e3f4a5b",
            "kubernetes.io": {
                "namespace": "team-a",
                "node": {"name": "node-1", "uid": "b2"},
                "pod": {"name": "app", "uid": "c3"},
                "serviceaccount": {"name": "default", "uid": "d4"},
            },
            "nbf": NOW,
            "sub": "system:serviceaccount:team-a:default",
        })
    }

    fn token(payload: &str) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!(
            "{}.{}.{}",
            part(r#"{"alg":"RS256"}"#),
            part(payload),
            part("signature")
        )
    }

    fn of(claims: &Value) -> Result<String, TokenError> {
        namespace(&token(&claims.to_string()), NOW)
    }

    #[test]
    fn the_namespace_is_the_claims() {
        assert_eq!(of(&claims()).as_deref(), Ok("team-a"));
    }

    #[rstest]
    #[case("/iss", json!(""), TokenError::Issuer)]
    #[case("/iss", json!("a b"), TokenError::Issuer)]
    #[case("/iss", json!("https://a\nb"), TokenError::Issuer)]
    #[case("/iss", json!(7), TokenError::Claims)]
    #[case("/aud", json!([]), TokenError::Audience)]
    #[case("/aud", json!(["https://kubernetes.default.svc"]), TokenError::Audience)]
    #[case("/aud", json!(["pullpass.dev.evil.example"]), TokenError::Audience)]
    #[case("/aud", json!("pullpass.de"), TokenError::Audience)]
    #[case("/aud", json!({"pullpass.dev": true}), TokenError::Claims)]
    #[case("/exp", json!(NOW), TokenError::Expired)]
    #[case("/exp", json!(0), TokenError::Expired)]
    #[case("/exp", json!(-1), TokenError::Claims)]
    #[case("/exp", json!("9999999999"), TokenError::Claims)]
    #[case("/sub", json!("system:serviceaccount:team-b:default"), TokenError::Subject)]
    #[case("/sub", json!("system:serviceaccount:team-a:other"), TokenError::Subject)]
    #[case("/sub", json!("system:node:node-1"), TokenError::Subject)]
    #[case("/sub", json!("system:serviceaccount:team-a"), TokenError::Subject)]
    #[case("/kubernetes.io/namespace", json!("team-b"), TokenError::Subject)]
    #[case("/kubernetes.io/namespace", json!(""), TokenError::Namespace)]
    #[case("/kubernetes.io/namespace", json!("*"), TokenError::Namespace)]
    #[case("/kubernetes.io/namespace", json!("Team-A"), TokenError::Namespace)]
    #[case("/kubernetes.io/namespace", json!("team-a/../b"), TokenError::Namespace)]
    #[case("/kubernetes.io/namespace", json!("a".repeat(64)), TokenError::Namespace)]
    #[case("/kubernetes.io/namespace", json!(["team-a"]), TokenError::Claims)]
    #[case("/kubernetes.io/serviceaccount/name", json!("other"), TokenError::Subject)]
    #[case("/kubernetes.io/serviceaccount/uid", json!(""), TokenError::Subject)]
    #[case("/kubernetes.io/pod", json!(null), TokenError::Pod)]
    #[case("/kubernetes.io/pod/name", json!(""), TokenError::Pod)]
    #[case("/kubernetes.io/pod/uid", json!(""), TokenError::Pod)]
    #[case("/kubernetes.io", json!({}), TokenError::Claims)]
    fn a_claim_of_another_kind_of_token_says_nothing(
        #[case] claim: &str,
        #[case] value: Value,
        #[case] error: TokenError,
    ) {
        let mut claims = claims();
        *claims.pointer_mut(claim).unwrap() = value;
        assert_eq!(of(&claims), Err(error));
    }

    #[rstest]
    #[case("iss")]
    #[case("sub")]
    #[case("aud")]
    #[case("exp")]
    #[case("kubernetes.io")]
    fn a_missing_claim_says_nothing(#[case] claim: &str) {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(claim).unwrap();
        assert_eq!(of(&claims), Err(TokenError::Claims));
    }

    #[test]
    fn a_claim_that_is_there_twice_says_nothing() {
        let text = claims().to_string();
        let twice = text.replace(
            r#""namespace":"team-a""#,
            r#""namespace":"team-a","namespace":"team-b""#,
        );
        assert_ne!(text, twice);
        assert_eq!(namespace(&token(&twice), NOW), Err(TokenError::Claims));
    }

    #[rstest]
    #[case(json!("pullpass.dev"))]
    #[case(json!(["https://kubernetes.default.svc", "pullpass.dev"]))]
    fn the_audience_may_be_one_of_several(#[case] audience: Value) {
        let mut claims = claims();
        claims["aud"] = audience;
        assert_eq!(of(&claims).as_deref(), Ok("team-a"));
    }

    #[test]
    fn a_token_from_a_clock_that_is_ahead_is_taken() {
        let mut claims = claims();
        claims["nbf"] = json!(NOW + 1800);
        claims["iat"] = json!(NOW + 1800);
        assert_eq!(of(&claims).as_deref(), Ok("team-a"));
    }

    #[rstest]
    #[case("")]
    #[case("token")]
    #[case("a.b")]
    #[case("..")]
    #[case("a.!!.c")]
    #[case("a.e30=.c")]
    fn what_is_no_token_says_nothing(#[case] text: &str) {
        assert_eq!(namespace(text, NOW), Err(TokenError::Form));
    }

    #[test]
    fn more_or_fewer_parts_say_nothing() {
        let good = token(&claims().to_string());
        let (unsigned, _) = good.rsplit_once('.').unwrap();
        for text in [
            unsigned.to_owned(),
            format!("{unsigned}."),
            format!("{good}.x"),
        ] {
            assert_eq!(namespace(&text, NOW), Err(TokenError::Form));
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>(), payload in any::<String>()) {
            prop_assert!(namespace(&text, NOW).is_err());
            let error = namespace(&token(&payload), NOW).unwrap_err().to_string();
            prop_assert!(payload.len() < 8 || !error.contains(&payload));
        }

        /// Whoever is named, the answer is the claims' own namespace or nothing.
        #[test]
        fn only_the_claims_own_namespace(
            subject in "[a-z:]{0,8}", namespace in "[a-z-]{0,4}", account in "[a-z]{0,3}", exp in 0..NOW * 2,
        ) {
            let mut claims = claims();
            claims["exp"] = json!(exp);
            claims["sub"] = json!(format!("system:serviceaccount:{subject}"));
            claims["kubernetes.io"]["namespace"] = json!(namespace);
            claims["kubernetes.io"]["serviceaccount"]["name"] = json!(account);
            match of(&claims) {
                Ok(found) => {
                    prop_assert_eq!(&found, &namespace);
                    prop_assert_eq!(subject, format!("{namespace}:{account}"));
                    prop_assert!(exp > NOW);
                }
                Err(error) => prop_assert_ne!(error, TokenError::Form),
            }
        }
    }
}
