//! An answer of a registry or token service, as much of it as is read.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header};
use reqwest::{RequestBuilder, Response};
use serde::Deserialize;
use url::Url;
use zeroize::Zeroizing;

use crate::challenge::{self, Challenge};

/// Of an answer's body no more is read. Tokens of several KiB exist, since some list every right.
const LONGEST_BODY: usize = 64 * 1024;

/// No registry is left alone for longer, whatever it asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// What counts of an answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// What is asked for.
    pub(crate) challenge: Option<Challenge>,
    /// How long to wait before the next request.
    pub(crate) retry_after: Option<Duration>,
    /// A page for people, which no registry sends under `/v2/`.
    pub(crate) is_page: bool,
    /// The host that a redirect points to.
    pub(crate) redirect: Option<String>,
    /// Where it came from, if not through a proxy.
    pub(crate) address: Option<IpAddr>,
    /// The body, if it is not too long.
    pub(crate) body: Option<Zeroizing<Vec<u8>>>,
}

impl Answer {
    /// Sends a request and reads the answer, within bounds.
    pub(crate) async fn to(request: RequestBuilder) -> Result<Self, reqwest::Error> {
        let mut response = request.send().await?;
        let body = body(&mut response).await?;
        let headers = response.headers();
        Ok(Self {
            status: response.status(),
            challenge: challenge(headers),
            retry_after: retry_after(headers, SystemTime::now()),
            is_page: is_page(headers),
            redirect: redirect(response.url(), headers),
            address: response.remote_addr().map(|address| address.ip()),
            body,
        })
    }

    /// What the body of a refusal says.
    pub(crate) fn complaint(&self) -> Complaint {
        self.body
            .as_deref()
            .map(|body| complaint(body))
            .unwrap_or_default()
    }
}

/// The body; `None` if it is too long.
pub(crate) async fn body(
    response: &mut Response,
) -> Result<Option<Zeroizing<Vec<u8>>>, reqwest::Error> {
    let mut body = Zeroizing::new(Vec::with_capacity(LONGEST_BODY));
    while let Some(chunk) = response.chunk().await? {
        // never reallocated, which would leave a copy of a token behind
        if body.len() + chunk.len() > LONGEST_BODY {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let fields = headers.get_all(header::WWW_AUTHENTICATE).iter();
    challenge::strongest(fields.filter_map(|value| value.to_str().ok()))
}

fn is_page(headers: &HeaderMap) -> bool {
    text(headers, header::CONTENT_TYPE).is_some_and(|kind| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("text/html")
    })
}

fn redirect(asked: &Url, headers: &HeaderMap) -> Option<String> {
    let target = asked.join(text(headers, header::LOCATION)?).ok()?;
    Some(format!(
        "{}://{}",
        target.scheme(),
        crate::transport::name(&target)
    ))
}

/// `Retry-After` of RFC 9110, section 10.2.3: seconds or a date. Docker Hub's token service sends the same as
/// `X-Retry-After`, in seconds since the epoch.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let until = |moment: SystemTime| moment.duration_since(now).unwrap_or_default();
    let wait = text(headers, header::RETRY_AFTER)
        .and_then(|value| {
            let seconds = value.parse().ok().map(Duration::from_secs);
            seconds.or_else(|| httpdate::parse_http_date(value).ok().map(until))
        })
        .or_else(|| {
            let seconds = text(headers, "x-retry-after")?.parse().ok()?;
            SystemTime::UNIX_EPOCH
                .checked_add(Duration::from_secs(seconds))
                .map(until)
        })?;
    Some(wait.min(LONGEST_WAIT))
}

fn text(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<&str> {
    Some(headers.get(name)?.to_str().ok()?.trim())
}

/// What counts of a refusal's body. Its text goes nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Complaint {
    /// The login is refused: Amazon ECR says so with status 400, OAuth2 services too (RFC 6749, section 5.2).
    pub(crate) is_refusal: bool,
    /// The credential's life is over.
    pub(crate) is_expired: bool,
    /// There is no such repository; Harbor says `NOT_FOUND`.
    pub(crate) is_name_unknown: bool,
}

/// Reads the errors of the distribution specification (section "Error Codes"), and those of OAuth2.
fn complaint(body: &[u8]) -> Complaint {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        errors: Vec<Entry>,
        #[serde(default)]
        error: String,
        #[serde(default)]
        error_description: String,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(body) = serde_json::from_slice::<Body>(body) else {
        return Complaint::default();
    };
    let codes: Vec<_> = body
        .errors
        .iter()
        .map(|entry| &*entry.code)
        .chain([&*body.error])
        .collect();
    let has = |wanted: &[&str]| codes.iter().any(|code| wanted.contains(code));
    Complaint {
        is_refusal: has(&["UNAUTHORIZED", "DENIED", "invalid_grant", "invalid_client"]),
        is_expired: body
            .errors
            .iter()
            .map(|entry| &entry.message)
            .chain([&body.error_description])
            .any(|message| message.to_ascii_lowercase().contains("expired")),
        is_name_unknown: has(&["NAME_UNKNOWN", "NOT_FOUND"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;
    use rstest::rstest;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| {
                let name = header::HeaderName::from_static(name);
                (name, HeaderValue::from_str(value).unwrap())
            })
            .collect()
    }

    #[rstest]
    #[case::none(&[], None)]
    #[case::seconds(&[("retry-after", "120")], Some(120))]
    #[case::zero(&[("retry-after", "0")], Some(0))]
    #[case::date(&[("retry-after", "Fri, 15 Jan 2027 08:01:40 GMT")], Some(100))]
    #[case::past(&[("retry-after", "Fri, 15 Jan 2021 08:00:00 GMT")], Some(0))]
    #[case::docker_hub(&[("x-retry-after", "1800000060")], Some(60))]
    #[case::docker_hub_past(&[("x-retry-after", "5")], Some(0))]
    #[case::the_standard_first(&[("retry-after", "7"), ("x-retry-after", "1800000060")], Some(7))]
    #[case::absurd(&[("retry-after", "999999999999")], Some(86_400))]
    #[case::absurd_moment(&[("x-retry-after", "18446744073709551615")], None)]
    #[case::overflow(&[("retry-after", "99999999999999999999999")], None)]
    #[case::negative(&[("retry-after", "-5")], None)]
    #[case::text(&[("retry-after", "soon")], None)]
    fn a_wait_is_read_and_bounded(
        #[case] fields: &[(&'static str, &str)],
        #[case] expected: Option<u64>,
    ) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let wait = retry_after(&headers(fields), now);
        assert_eq!(wait, expected.map(Duration::from_secs));
    }

    const NOTHING: Complaint = Complaint {
        is_refusal: false,
        is_expired: false,
        is_name_unknown: false,
    };

    #[rstest]
    #[case(r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":null}]}"#, Complaint { is_refusal: true, ..NOTHING })]
    #[case(r#"{"errors":[{"code":"DENIED","message":"Your authorization token has expired. Reauthenticate and try again."}]}"#, Complaint { is_refusal: true, is_expired: true, ..NOTHING })]
    #[case(r#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry"}]}"#, Complaint { is_name_unknown: true, ..NOTHING })]
    #[case(r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#, NOTHING)]
    #[case(r#"{"error":"invalid_grant","error_description":"Token Expired"}"#, Complaint { is_refusal: true, is_expired: true, ..NOTHING })]
    #[case(r#"{"details":"incorrect username or password"}"#, NOTHING)]
    #[case(r#"{"errors":{"code":"DENIED"}}"#, NOTHING)]
    #[case("expired", NOTHING)]
    #[case("", NOTHING)]
    fn a_refusal_is_read(#[case] body: &str, #[case] expected: Complaint) {
        assert_eq!(complaint(body.as_bytes()), expected);
    }

    #[rstest]
    #[case(
        "https://other.example.com/v2/?token=x",
        Some("https://other.example.com")
    )]
    #[case("/login", Some("https://r.example.com"))]
    #[case("http://r.example.com:8080/", Some("http://r.example.com:8080"))]
    #[case(
        "https://user:secret@other.example.com/",
        Some("https://other.example.com")
    )]
    #[case("https://[", None)]
    fn of_a_redirect_only_the_host_is_named(
        #[case] location: &str,
        #[case] expected: Option<&str>,
    ) {
        let asked = Url::parse("https://r.example.com/v2/").unwrap();
        let found = redirect(&asked, &headers(&[("location", location)]));
        assert_eq!(found.as_deref(), expected);
    }

    #[rstest]
    #[case("text/html", true)]
    #[case("Text/HTML; charset=utf-8", true)]
    #[case("application/json", false)]
    fn a_page_is_told_from_an_answer(#[case] kind: &str, #[case] expected: bool) {
        assert_eq!(is_page(&headers(&[("content-type", kind)])), expected);
    }

    proptest! {
        #[test]
        fn any_body_is_read(body in prop::collection::vec(any::<u8>(), 0..200), text in any::<String>()) {
            complaint(&body);
            complaint(text.as_bytes());
        }
    }
}
