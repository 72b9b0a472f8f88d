//! What a registry asks for: the `WWW-Authenticate` field of RFC 9110, section 11.6.1, as far as registries use it.

use http_auth::ChallengeRef;
use http_auth::parser::ChallengeParser;

/// A field that is longer is not looked at: real ones have some hundred bytes.
const LONGEST_FIELD: usize = 8 * 1024;

/// How a registry wants to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// RFC 7617: the user name and password go with each request.
    Basic,
    /// RFC 6750: a token goes with each request, which the service at `realm` hands out for the user name and password
    /// (the distribution project's token authentication specification).
    Bearer {
        /// The token service's address, as the registry wrote it.
        realm: String,
        /// The name by which the token service knows the registry.
        service: Option<String>,
    },
}

/// The challenge to answer, of all that a registry makes. As container runtimes do, Bearer is preferred to Basic. `None`
/// where none is of a kind that registries use.
pub fn strongest<'a>(fields: impl IntoIterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for field in fields.into_iter().filter(|f| f.len() <= LONGEST_FIELD) {
        // what stands before an error is as good as without it
        for parsed in ChallengeParser::new(field).map_while(Result::ok) {
            match understood(&parsed) {
                Some(bearer @ Challenge::Bearer { .. }) => return Some(bearer),
                Some(Challenge::Basic) => basic = Some(Challenge::Basic),
                None => {}
            }
        }
    }
    basic
}

fn understood(challenge: &ChallengeRef<'_>) -> Option<Challenge> {
    if challenge.scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !challenge.scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let Ok(Some(realm)) = parameter(challenge, "realm") else {
        return None;
    };
    let service = parameter(challenge, "service").ok()?;
    Some(Challenge::Bearer { realm, service })
}

/// A parameter that is given twice: of two realms, readers disagree on which one counts.
struct GivenTwice;

fn parameter(challenge: &ChallengeRef<'_>, name: &str) -> Result<Option<String>, GivenTwice> {
    let mut found = challenge
        .params
        .iter()
        .filter(|(given, _)| given.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.to_unescaped());
    match (found.next(), found.next()) {
        (_, Some(_)) => Err(GivenTwice),
        (value, None) => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn bearer(realm: &str, service: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
        })
    }

    #[rstest]
    #[case::docker_hub(
        r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io""#,
        bearer("https://auth.docker.io/token", Some("registry.docker.io"))
    )]
    #[case::ghcr(
        r#"Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:user/image:pull""#,
        bearer("https://ghcr.io/token", Some("ghcr.io"))
    )]
    #[case::gitlab(
        r#"Bearer realm="https://gitlab.com/jwt/auth",service="container_registry""#,
        bearer("https://gitlab.com/jwt/auth", Some("container_registry"))
    )]
    #[case::quay(
        r#"Bearer realm="https://quay.io/v2/auth",service="quay.io""#,
        bearer("https://quay.io/v2/auth", Some("quay.io"))
    )]
    #[case::harbor(
        r#"Bearer realm="https://harbor.example.com/service/token",service="harbor-registry""#,
        bearer("https://harbor.example.com/service/token", Some("harbor-registry"))
    )]
    #[case::ecr(
        r#"Basic realm="https://123456789012.dkr.ecr.eu-west-1.amazonaws.com/",service="ecr.amazonaws.com""#,
        Some(Challenge::Basic)
    )]
    #[case::ecr_public(
        r#"Bearer realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws""#,
        bearer("https://public.ecr.aws/token/", Some("public.ecr.aws"))
    )]
    #[case::azure(
        r#"Bearer realm="https://acme.azurecr.io/oauth2/token",service="acme.azurecr.io""#,
        bearer("https://acme.azurecr.io/oauth2/token", Some("acme.azurecr.io"))
    )]
    #[case::artifact_registry(
        r#"Bearer realm="https://europe-docker.pkg.dev/v2/token",service="europe-docker.pkg.dev""#,
        bearer(
            "https://europe-docker.pkg.dev/v2/token",
            Some("europe-docker.pkg.dev")
        )
    )]
    #[case::without_service(r#"bearer realm="https://a/t""#, bearer("https://a/t", None))]
    #[case::spaces(
        r#"BEARER realm = "https://a/t" , service = x"#,
        bearer("https://a/t", Some("x"))
    )]
    #[case::both(
        r#"Basic realm="r", Bearer realm="https://a/t""#,
        bearer("https://a/t", None)
    )]
    #[case::escapes(r#"Bearer realm="https://a/\"t""#, bearer("https://a/\"t", None))]
    #[case::commas(
        r#"Bearer error="a,Basic",realm="https://a/t,x""#,
        bearer("https://a/t,x", None)
    )]
    #[case::stranger_before(r#"Negotiate, Basic realm="r""#, Some(Challenge::Basic))]
    #[case::error_after(r#"Basic realm="r", error error"#, Some(Challenge::Basic))]
    #[case::no_realm("Bearer", None)]
    #[case::two_realms(r#"Bearer realm="https://a/t",realm="https://b/t""#, None)]
    #[case::two_realms_in_cases(r#"Bearer realm="https://a/t",Realm="https://b/t""#, None)]
    #[case::two_services(r#"Bearer realm="https://a/t",service="a",service="b""#, None)]
    #[case::unquoted(r"Bearer realm=https://a/t", None)]
    #[case::unended(r#"Bearer realm="https://a/t"#, None)]
    #[case::token68("Negotiate YIIg==", None)]
    #[case::digest(r#"Digest realm="r", nonce="n""#, None)]
    #[case::empty("", None)]
    fn reads_what_registries_write(#[case] field: &str, #[case] expected: Option<Challenge>) {
        assert_eq!(strongest([field]), expected);
    }

    #[test]
    fn fields_of_one_answer_are_one_list() {
        let fields = [r#"Basic realm="r""#, r#"Bearer realm="https://a/t""#];
        assert_eq!(strongest(fields), bearer("https://a/t", None));
        let long = format!(r#"Bearer realm="https://a/{}""#, "t".repeat(LONGEST_FIELD));
        assert_eq!(strongest([&*long, fields[0]]), Some(Challenge::Basic));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = strongest([&*text]);
        }

        /// What is written by the grammar is read back.
        #[test]
        fn values_are_read_as_they_were_written(realm in "[ -~]{0,40}", service in "[ -~]{0,40}", before in "(Basic realm=x, |Negotiate, |)") {
            let quoted = |text: &str| text.replace('\\', r"\\").replace('"', "\\\"");
            let field = format!(r#"{before}Bearer realm="{}", service="{}""#, quoted(&realm), quoted(&service));
            prop_assert_eq!(strongest([&*field]), bearer(&realm, Some(&service)));
        }
    }
}
