//! The decision: which logins a request is answered with.

use pullpass_core::bundle::Bundle;
use pullpass_core::docker_config::Login;
use pullpass_core::image::Repository;
use pullpass_core::key::RegistryKey;
use pullpass_core::lookup::lookup;
use secrecy::ExposeSecret;

use crate::claims::{self, TokenError};
use crate::protocol::Request;

/// What a request is answered with.
#[derive(Debug)]
pub struct Answer<'a> {
    /// Logins by key, those that kubelet tries first at the beginning.
    pub logins: Vec<(&'a RegistryKey, &'a Login)>,
    /// Why the request's token speaks for no namespace, where it has one.
    pub set_aside: Option<TokenError>,
}

/// Answers a request at `now`, in seconds since the epoch.
///
/// Without a token, or with one that speaks for no namespace, the answer holds what every pod of the node may use: it is
/// no secret from any of them. An image that kubelet cannot have sent is answered with nothing.
pub fn answer<'a>(request: &Request, bundles: &'a [Bundle], now: u64) -> Answer<'a> {
    let token = request
        .token
        .as_ref()
        .map(ExposeSecret::expose_secret)
        .filter(|token| !token.is_empty());
    let (namespace, set_aside) = match token.map(|token| claims::namespace(token, now)) {
        None => (None, None),
        Some(Ok(namespace)) => (Some(namespace), None),
        Some(Err(error)) => (None, Some(error)),
    };
    let logins = Repository::parse(&request.image)
        .map(|image| lookup(&image, bundles, namespace.as_deref()))
        .unwrap_or_default();
    Answer { logins, set_aside }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::AUDIENCE;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;
    use pullpass_core::bundle::{BundleAccess, BundleRegistry};
    use pullpass_core::docker_config::Entries;
    use pullpass_core::glob::Glob;
    use rstest::rstest;
    use serde_json::json;

    const NOW: u64 = 1_700_000_000;

    fn registry(name: &str, host: &str, include: Option<&str>) -> BundleRegistry {
        let login = Login::new(name.into(), "secret".into()).unwrap();
        BundleRegistry {
            name: name.into(),
            priority: 0,
            created: 0,
            access: include.map(|include| BundleAccess {
                include: vec![Glob::new(include)],
                exclude: Vec::new(),
                selection: None,
            }),
            entries: Entries::from([(RegistryKey::parse(host).unwrap(), login)]),
        }
    }

    fn bundles() -> Vec<Bundle> {
        let of = |registries| Bundle {
            registries,
            ..Bundle::default()
        };
        vec![
            of(vec![registry("everyone", "open.example.com", None)]),
            of(vec![
                registry("team", "team.example.com", Some("team-*")),
                registry("other", "other.example.com", Some("other")),
            ]),
        ]
    }

    fn token(namespace: &str, audience: &str, exp: u64) -> String {
        let claims = json!({
            "iss": "https://kubernetes.default.svc",
            "aud": [audience],
            "exp": exp,
            "sub": format!("system:serviceaccount:{namespace}:default"),
            "kubernetes.io": {
                "namespace": namespace,
                "pod": {"name": "app", "uid": "1"},
                "serviceaccount": {"name": "default", "uid": "2"},
            },
        });
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    fn request(image: &str, token: Option<&str>) -> Request {
        let request = json!({
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
            "kind": "CredentialProviderRequest",
            "image": image,
            "serviceAccountToken": token,
            "serviceAccountAnnotations": {"pullpass.dev/namespace": "other"},
        });
        Request::parse(request.to_string().as_bytes()).unwrap()
    }

    fn users(image: &str, token: Option<&str>) -> Vec<String> {
        let bundles = bundles();
        answer(&request(image, token), &bundles, NOW)
            .logins
            .iter()
            .map(|(_, login)| login.username().expose_secret().to_owned())
            .collect()
    }

    #[rstest]
    #[case("open.example.com/app", Some("team-a"), &["everyone"])]
    #[case("open.example.com/app", None, &["everyone"])]
    #[case("team.example.com/app", Some("team-a"), &["team"])]
    #[case("team.example.com/app", Some("other"), &[])]
    #[case("team.example.com/app", None, &[])]
    #[case("other.example.com/app", Some("other"), &["other"])]
    #[case("other.example.com/app", Some("team-a"), &[])]
    #[case("elsewhere.example.com/app", Some("team-a"), &[])]
    #[case("team.example.com.evil.example/app", Some("team-a"), &[])]
    #[case("team.example.com:443/app", Some("team-a"), &[])]
    #[case("https://team.example.com/app", Some("team-a"), &[])]
    #[case("", Some("team-a"), &[])]
    fn an_image_gets_what_its_namespace_may_use(
        #[case] image: &str,
        #[case] namespace: Option<&str>,
        #[case] expected: &[&str],
    ) {
        let token = namespace.map(|namespace| token(namespace, AUDIENCE, NOW + 1));
        assert_eq!(users(image, token.as_deref()), expected);
    }

    #[rstest]
    #[case(token("team-a", "https://kubernetes.default.svc", NOW + 1))]
    #[case(token("team-a", AUDIENCE, NOW))]
    #[case(token("team-*", AUDIENCE, NOW + 1))]
    #[case("team-a".to_owned())]
    #[case(String::new())]
    fn a_token_that_says_nothing_gives_what_everybody_has(#[case] token: String) {
        assert_eq!(
            users("team.example.com/app", Some(&token)),
            Vec::<String>::new()
        );
        assert_eq!(users("open.example.com/app", Some(&token)), ["everyone"]);
    }

    proptest! {
        /// Whatever is asked, nothing is given that the namespace of the token may not use.
        #[test]
        fn nothing_beyond_the_policy(
            image in "(open|team|other)\\.example\\.com(:5)?(/[a-z]{1,3}){1,2}",
            namespace in prop::option::of("(team-|other|te)[a-z]{0,2}"),
            exp in NOW - 1..NOW + 2,
        ) {
            let token = namespace.as_ref().map(|name| token(name, AUDIENCE, exp));
            let speaks = namespace.as_deref().filter(|_| exp > NOW);
            for user in users(&image, token.as_deref()) {
                let may = match user.as_str() {
                    "everyone" => image.starts_with("open."),
                    "team" => image.starts_with("team.") && speaks.is_some_and(|n| n.starts_with("team-")),
                    "other" => image.starts_with("other.") && speaks == Some("other"),
                    _ => false,
                };
                prop_assert!(may, "{} for {}", user, image);
            }
        }

        #[test]
        fn no_request_panics(image in any::<String>(), token in prop::option::of(any::<String>())) {
            let bundles = bundles();
            let request = request(&image, token.as_deref());
            let answer = answer(&request, &bundles, NOW);
            prop_assert!(answer.logins.len() <= 1);
        }
    }
}
