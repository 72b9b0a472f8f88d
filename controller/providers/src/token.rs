//! Tokens for a user name and password: the distribution project's token authentication specification, and its OAuth2 form
//! for services that know only that.

use http::{HeaderValue, StatusCode, header};
use pullpass_core::docker_config::Login;
use reqwest::Client;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use url::Url;
use url::form_urlencoded::Serializer;

use crate::answer::Answer;

/// User names under which the password is a refresh token: Azure's, and the one that docker writes.
const REFRESH_TOKEN_USERS: [&str; 2] = ["00000000-0000-0000-0000-000000000000", "<token>"];

/// A longer token is none: no server takes so long a field.
const LONGEST_TOKEN: usize = 32 * 1024;

/// A token service, at an address that credentials may go to.
pub(crate) struct TokenService {
    /// A client that refuses names of places that credentials must not go to.
    pub(crate) client: Client,
    /// The realm.
    pub(crate) url: Url,
    /// The registry's name there.
    pub(crate) service: Option<String>,
}

impl TokenService {
    /// Asks for a token, for `scope` or for the login alone. Where the service does not know the request by GET it is asked
    /// by POST.
    pub(crate) async fn ask(
        &self,
        login: &Login,
        authorization: &HeaderValue,
        scope: Option<&str>,
    ) -> Result<Answer, reqwest::Error> {
        let mut url = self.url.clone();
        for (name, value) in self.parameters(scope) {
            url.query_pairs_mut().append_pair(name, value);
        }
        let request = self
            .client
            .get(url)
            .header(header::AUTHORIZATION, authorization);
        let answer = Answer::to(request).await?;
        if !matches!(
            answer.status,
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED
        ) {
            return Ok(answer);
        }
        let form = self.form(login, scope);
        let request = self
            .client
            .post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form);
        Answer::to(request).await
    }

    fn parameters<'a>(
        &'a self,
        scope: Option<&'a str>,
    ) -> impl Iterator<Item = (&'static str, &'a str)> {
        let service = self.service.as_deref().map(|service| ("service", service));
        service
            .into_iter()
            .chain(scope.map(|scope| ("scope", scope)))
    }

    fn form(&self, login: &Login, scope: Option<&str>) -> String {
        let (username, password) = (
            login.username().expose_secret(),
            login.password().expose_secret(),
        );
        let mut form = Serializer::new(String::new());
        form.append_pair("client_id", "pullpass")
            .extend_pairs(self.parameters(scope));
        if REFRESH_TOKEN_USERS.contains(&username) {
            form.append_pair("grant_type", "refresh_token")
                .append_pair("refresh_token", password);
        } else {
            form.append_pair("grant_type", "password")
                .append_pair("username", username)
                .append_pair("password", password);
        }
        form.finish()
    }
}

/// The token in a token service's answer.
pub(crate) fn token(body: &[u8]) -> Option<SecretString> {
    #[derive(Deserialize)]
    struct Body {
        token: Option<SecretString>,
        access_token: Option<SecretString>,
    }
    let Body {
        token,
        access_token,
    } = serde_json::from_slice(body).ok()?;
    [token, access_token].into_iter().flatten().find(|token| {
        let token = token.expose_secret();
        // RFC 6750, section 2.1, has fewer characters than services use
        (1..=LONGEST_TOKEN).contains(&token.len()) && token.bytes().all(|b| b.is_ascii_graphic())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(r#"{"token":"abc"}"#, Some("abc"))]
    #[case(r#"{"access_token":"abc","expires_in":300}"#, Some("abc"))]
    #[case(r#"{"token":"abc","access_token":"abd"}"#, Some("abc"))]
    #[case(r#"{"token":"","access_token":"abd"}"#, Some("abd"))]
    #[case(r#"{"token":null,"access_token":"abd"}"#, Some("abd"))]
    #[case(r#"{"token":"a b"}"#, None)]
    #[case(r#"{"token":"a\r\nHost: b"}"#, None)]
    #[case(r#"{"token":"ä"}"#, None)]
    #[case(r#"{"token":7}"#, None)]
    #[case(r#"{"token":["abc"]}"#, None)]
    #[case(r#"{}"#, None)]
    #[case("abc", None)]
    #[case("", None)]
    fn a_token_is_what_a_field_can_carry(#[case] body: &str, #[case] expected: Option<&str>) {
        let found = token(body.as_bytes());
        assert_eq!(found.as_ref().map(|token| token.expose_secret()), expected);
    }

    #[test]
    fn a_token_is_bounded() {
        let body = |length| format!(r#"{{"token":"{}"}}"#, "a".repeat(length));
        assert!(token(body(LONGEST_TOKEN).as_bytes()).is_some());
        assert!(token(body(LONGEST_TOKEN + 1).as_bytes()).is_none());
    }

    #[rstest]
    #[case(
        "robot",
        "client_id=pullpass&service=a%26b&scope=repository%3Ax%3Apull&grant_type=password&username=robot&password=p%3D%26"
    )]
    #[case(
        "00000000-0000-0000-0000-000000000000",
        "client_id=pullpass&service=a%26b&scope=repository%3Ax%3Apull&grant_type=refresh_token&refresh_token=p%3D%26"
    )]
    fn nothing_in_a_form_can_become_another_field(#[case] username: &str, #[case] expected: &str) {
        let service = TokenService {
            client: Client::builder()
                .tls_backend_preconfigured(
                    crate::tls::client_config(&crate::connection::Tls::Insecure).unwrap(),
                )
                .build()
                .unwrap(),
            url: Url::parse("https://auth.example.com/token").unwrap(),
            service: Some("a&b".into()),
        };
        let login = Login::new(username.into(), "p=&".into()).unwrap();
        assert_eq!(service.form(&login, Some("repository:x:pull")), expected);
    }
}
