//! Google, against fakes of its token services and its metadata server.

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use pullpass_core::reason::Reason;
use pullpass_providers::connection::Connection;
use pullpass_providers::google::{ServiceAccountKey, WorkloadIdentity};
use pullpass_providers::login::{Endpoints, Method, Providers};
use secrecy::SecretSlice;
use serde_json::{Value, json};

use crate::support::fake::{Asked, Fake, json as json_answer, text};
use crate::support::{FakeIdentity, IDENTITY_TOKEN, assert_refused, key, life, log_in, plain};

const HOST: &str = "europe-docker.pkg.dev/acme/images";
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_only";
const PROVIDER: &str =
    "projects/1234/locations/global/workloadIdentityPools/clusters/providers/acme";
const EMAIL: &str = "puller@acme.iam.gserviceaccount.com";

fn at(fake: &Fake) -> Endpoints {
    Endpoints {
        google: Some(fake.url()),
        google_metadata: Some(fake.url()),
        ..Endpoints::default()
    }
}

fn private_key() -> (KeyPair, String) {
    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
    let text = STANDARD.encode(der.as_ref());
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n");
    (pair, pem)
}

fn key_file(pem: &str) -> Value {
    json!({
        "type": "service_account", "project_id": "acme", "private_key_id": "key-1",
        "private_key": pem, "client_email": EMAIL, "client_id": "1",
        "token_uri": "https://evil.example/token", "universe_domain": "googleapis.com",
    })
}

fn parse(file: String) -> Result<ServiceAccountKey, pullpass_providers::failure::Failure> {
    ServiceAccountKey::parse(&SecretSlice::from(file.into_bytes()))
}

fn token(token: &str) -> Response {
    json_answer(
        200,
        &json!({"access_token": token, "expires_in": 3599, "token_type": "Bearer"}),
    )
}

fn identity(email: Option<&str>, provider: Option<&str>) -> Method {
    Method::GcpWorkloadIdentity(WorkloadIdentity {
        service_account_email: email.map(str::to_owned),
        provider: provider.map(str::to_owned),
    })
}

#[tokio::test]
async fn a_key_is_exchanged_for_a_token_that_reads_for_an_hour() {
    let (pair, pem) = private_key();
    let fake = Fake::start(|_| token("CANARY-token")).await;
    // as it is downloaded, and as an editor on Windows leaves it
    let pretty = serde_json::to_string_pretty(&key_file(&pem)).unwrap();
    for file in [
        pretty.clone(),
        format!("\u{feff}{}", pretty.replace('\n', "\r\n")),
    ] {
        let method = Method::GcpServiceAccountKey(parse(file).unwrap());
        let issued = log_in(HOST, &method, &at(&fake)).await.unwrap();
        assert_eq!(plain(&issued), ("oauth2accesstoken", "CANARY-token"));
        assert!((3500..3700).contains(&life(&issued)));
    }
    let asked = &fake.asked()[0];
    assert_eq!(asked.uri.path(), "/token");
    let grant = asked.field("grant_type").unwrap();
    assert_eq!(grant, "urn:ietf:params:oauth:grant-type:jwt-bearer");
    let assertion = asked.field("assertion").unwrap();
    let (signed, signature) = assertion.rsplit_once('.').unwrap();
    let (header, claims) = signed.split_once('.').unwrap();
    let read = |part: &str| -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    };
    assert_eq!(
        read(header),
        json!({"alg": "RS256", "typ": "JWT", "kid": "key-1"})
    );
    let claims = read(claims);
    assert_eq!(
        (&claims["iss"], &claims["scope"]),
        (&json!(EMAIL), &json!(SCOPE))
    );
    // whatever address stands in the file
    assert_eq!(claims["aud"], "https://oauth2.googleapis.com/token");
    assert_eq!(
        claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(),
        3600
    );
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref())
        .verify(
            signed.as_bytes(),
            &URL_SAFE_NO_PAD.decode(signature).unwrap(),
        )
        .unwrap();
}

#[test]
fn what_is_no_key_is_refused_with_its_place() {
    let (_, pem) = private_key();
    let with = |field: &str, value: Value| {
        let mut file = key_file(&pem);
        file[field] = value;
        file.to_string()
    };
    for (file, says) in [
        ("CANARY".to_owned(), "line 1, column 1"),
        ("{\"private_key\": 5}".to_owned(), "line 1"),
        (
            with("type", json!("authorized_user")),
            "\"type\": \"service_account\"",
        ),
        (with("client_email", json!("")), "client_email"),
        (
            with("private_key", json!("CANARY")),
            "private_key is no RSA key",
        ),
        (
            with(
                "private_key",
                json!("-----BEGIN PRIVATE KEY-----\nQ0FOQVJZ\n-----END PRIVATE KEY-----\n"),
            ),
            "private_key is no RSA key",
        ),
    ] {
        let failure = parse(file).unwrap_err();
        assert_eq!(failure.reason, Reason::MalformedSource);
        assert!(failure.message.contains(says), "{failure}");
        assert!(!failure.message.contains("CANARY"), "{failure}");
    }
}

#[tokio::test]
async fn refusals_of_a_key_are_told_apart() {
    let (_, pem) = private_key();
    let method = Method::GcpServiceAccountKey(parse(key_file(&pem).to_string()).unwrap());
    for (status, body, reason, says) in [
        (
            400,
            json!({"error": "invalid_grant", "error_description": "CANARY"}),
            Reason::Unauthorized,
            "make a new key",
        ),
        (
            401,
            json!({"error": "invalid_client"}),
            Reason::Unauthorized,
            EMAIL,
        ),
        (429, json!({}), Reason::RateLimited, "no more requests"),
        (503, json!({}), Reason::CloudFailing, "HTTP 503"),
        (302, json!({}), Reason::CloudFailing, "redirect"),
        (
            400,
            json!({"error": "CANARY"}),
            Reason::CloudFailing,
            "HTTP 400",
        ),
        (
            200,
            json!({"access_token": ["CANARY"]}),
            Reason::CloudFailing,
            "cannot read",
        ),
        (
            200,
            json!({"access_token": "CANARY\n", "expires_in": 3600}),
            Reason::CloudFailing,
            "no login",
        ),
    ] {
        let fake = Fake::start(move |_| json_answer(status, &body)).await;
        assert_refused(log_in(HOST, &method, &at(&fake)).await, reason, says);
    }
}

/// Fake metadata server, security token service and IAM at once.
fn google(asked: &Asked) -> Response {
    match asked.uri.path() {
        "/computeMetadata/v1/instance/service-accounts/default/token" => {
            assert_eq!(asked.header("metadata-flavor"), "Google");
            let mut answer = token("CANARY-of-the-pod");
            let flavor = http::HeaderValue::from_static("Google");
            answer.headers_mut().insert("metadata-flavor", flavor);
            answer
        }
        "/v1/token" => {
            assert_eq!(
                asked.field("subject_token").as_deref(),
                Some(IDENTITY_TOKEN)
            );
            let audience = format!("//iam.googleapis.com/{PROVIDER}");
            assert_eq!(asked.field("audience"), Some(audience));
            token("CANARY-federated")
        }
        path => {
            let expected = format!("/v1/projects/-/serviceAccounts/{EMAIL}:generateAccessToken");
            assert_eq!(path, expected);
            let wanted: Value = serde_json::from_str(&asked.body).unwrap();
            assert_eq!(wanted["scope"], json!([SCOPE]));
            assert!(asked.header("authorization").starts_with("Bearer CANARY-"));
            json_answer(
                200,
                &json!({"accessToken": "CANARY-impersonated", "expireTime": "2099-01-01T00:00:00Z"}),
            )
        }
    }
}

#[tokio::test]
async fn each_way_to_an_identity_gives_a_token() {
    const FULL: &str = "https://www.googleapis.com/auth/cloud-platform";
    for (email, provider, expected, first, scope) in [
        (None, None, "CANARY-of-the-pod", "/computeMetadata", SCOPE),
        (
            Some(EMAIL),
            None,
            "CANARY-impersonated",
            "/computeMetadata",
            FULL,
        ),
        (None, Some(PROVIDER), "CANARY-federated", "/v1/token", SCOPE),
        (
            Some(EMAIL),
            Some(PROVIDER),
            "CANARY-impersonated",
            "/v1/token",
            FULL,
        ),
    ] {
        let fake = Fake::start(google).await;
        let tokens = FakeIdentity::default();
        let issued = Providers::new(at(&fake))
            .log_in(
                &key(HOST),
                &identity(email, provider),
                &Connection::default(),
                &tokens,
            )
            .await
            .unwrap();
        assert_eq!(plain(&issued), ("oauth2accesstoken", expected));
        assert!(life(&issued) > 3500);
        let asked = fake.asked();
        assert_eq!(asked.len(), if email.is_some() { 2 } else { 1 });
        assert!(asked[0].uri.path().starts_with(first));
        // the first token may do no more than it has to
        let query = asked[0].uri.query().unwrap_or_default().as_bytes();
        let given = url::form_urlencoded::parse(query)
            .find(|(name, _)| name == "scopes")
            .map(|(_, value)| value.into_owned())
            .or_else(|| asked[0].field("scope"));
        assert_eq!(given.as_deref(), Some(scope));
        let audience = format!("https://iam.googleapis.com/{PROVIDER}");
        let expected = provider.map(|_| audience).into_iter().collect::<Vec<_>>();
        assert_eq!(tokens.asked_for(), expected);
    }
}

#[tokio::test]
async fn refusals_of_an_identity_are_told_apart() {
    for (status, error, reason, says) in [
        (
            400,
            "invalid_target",
            Reason::IdentityNotTrusted,
            "begins with the project's number",
        ),
        (
            400,
            "invalid_grant",
            Reason::IdentityNotTrusted,
            "allowed audiences none or https://iam.googleapis.com/projects/1234",
        ),
        (
            401,
            "unauthorized_client",
            Reason::IdentityNotTrusted,
            "attribute condition",
        ),
        (400, "CANARY", Reason::CloudFailing, "HTTP 400"),
    ] {
        let fake = Fake::start(move |_| json_answer(status, &json!({"error": error}))).await;
        let refused = log_in(HOST, &identity(None, Some(PROVIDER)), &at(&fake)).await;
        assert_refused(refused, reason, says);
    }
    for (provider, says) in [
        (None, "roles/iam.serviceAccountTokenCreator"),
        (Some(PROVIDER), "roles/iam.workloadIdentityUser"),
    ] {
        let fake = Fake::start(|asked| {
            if asked.uri.path().ends_with(":generateAccessToken") {
                json_answer(403, &json!({"error": {"message": "CANARY"}}))
            } else {
                google(asked)
            }
        })
        .await;
        let refused = log_in(HOST, &identity(Some(EMAIL), provider), &at(&fake)).await;
        assert_refused(refused, Reason::RoleNotAssumable, says);
    }
    for (status, is_google, reason, says) in [
        (200, false, Reason::IdentityMissing, "is not Google's"),
        (
            404,
            true,
            Reason::IdentityMissing,
            "turn workload identity on",
        ),
        (
            403,
            true,
            Reason::RoleNotAssumable,
            "roles/iam.workloadIdentityUser",
        ),
    ] {
        let fake = Fake::start(move |_| {
            let mut answer = text(status, "CANARY");
            if is_google {
                let flavor = http::HeaderValue::from_static("Google");
                answer.headers_mut().insert("metadata-flavor", flavor);
            }
            answer
        })
        .await;
        assert_refused(
            log_in(HOST, &identity(None, None), &at(&fake)).await,
            reason,
            says,
        );
    }
    // no metadata server at all
    let nowhere = Endpoints {
        google_metadata: Some(crate::support::url("http://127.0.0.1:1")),
        ..Endpoints::default()
    };
    let refused = log_in(HOST, &identity(None, None), &nowhere).await;
    assert_refused(refused, Reason::IdentityMissing, "workloadIdentityProvider");
}
