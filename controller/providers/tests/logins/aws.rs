//! AWS: the real SDK against moto, and against fakes of what moto does not simulate.

use std::collections::BTreeMap;
use std::process::Stdio;

use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::join_all;
use pullpass_core::reason::Reason;
use pullpass_providers::aws::{Keys, Role};
use pullpass_providers::connection::{Connection, Proxies, Proxy, Via};
use pullpass_providers::login::{Endpoints, Method, Providers};
use serde_json::{Value, json};

use crate::support::fake::{Asked, Fake, json as json_answer, text};
use crate::support::moto::Moto;
use crate::support::tunnel::FakeProxy;
use crate::support::{
    CANARY, FakeIdentity, IDENTITY_TOKEN, assert_refused, key, life, log_in, plain, url,
};

const HOST: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
const PUBLIC: &str = "public.ecr.aws";
const TWELVE_HOURS: i64 = 12 * 60 * 60;

fn keys(id: &str, secret: &str) -> Method {
    Method::AwsKeys(Keys::new(id.into(), secret.into(), None).unwrap())
}

fn some_keys() -> Method {
    keys("AKIAIOSFODNN7EXAMPLE", "CANARY-secret")
}

fn role(arn: Option<&str>, external_id: Option<&str>, audience: Option<&str>) -> Method {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    Method::AwsRole(Role::new(owned(arn), owned(external_id), owned(audience)).unwrap())
}

fn at(endpoint: &url::Url) -> Endpoints {
    Endpoints {
        aws: Some(endpoint.clone()),
        ..Endpoints::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_roles_get_tokens_of_several_accounts_and_regions() {
    let moto = Moto::start();
    let endpoints = at(moto.url());

    for host in [
        HOST,
        "123456789012.dkr.ecr.us-east-1.amazonaws.com",
        "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn",
        "123456789012.dkr.ecr.us-gov-west-1.amazonaws.com",
        "*.dkr.ecr.ap-southeast-2.amazonaws.com",
        // a token is good for every account that the identity has access to
        "999999999999.dkr.ecr.eu-west-1.amazonaws.com",
    ] {
        let issued = log_in(host, &some_keys(), &endpoints).await.unwrap();
        assert_eq!(plain(&issued), ("AWS", "123456789012-auth-token"), "{host}");
        let life = life(&issued);
        assert!(
            (TWELVE_HOURS - 60..=TWELVE_HOURS + 60).contains(&life),
            "{host}: {life}"
        );
    }

    let session = Keys::new("ASIAEXAMPLE".into(), "CANARY".into(), Some("CANARY".into()));
    let issued = log_in(HOST, &Method::AwsKeys(session.unwrap()), &endpoints)
        .await
        .unwrap();
    assert_eq!(plain(&issued).0, "AWS");

    // the account of the role decides, not that of the host
    for account in ["222222222222", "333333333333"] {
        let arn = format!("arn:aws:iam::{account}:role/pull");
        let identity = FakeIdentity::default();
        let issued = Providers::new(endpoints.clone())
            .log_in(
                &key(HOST),
                &role(Some(&arn), None, Some("sts.example.com")),
                &Connection::default(),
                &identity,
            )
            .await
            .unwrap();
        assert_eq!(plain(&issued), ("AWS", &*format!("{account}-auth-token")));
        assert_eq!(identity.asked_for(), ["sts.example.com"]);
    }

    // ambient, and on from there
    let ambient = [
        ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "CANARY"),
    ];
    let chained = role(
        Some("arn:aws:iam::444444444444:role/far"),
        Some("an-external-id"),
        None,
    );
    for (method, account) in [
        (role(None, None, None), "123456789012"),
        (chained, "444444444444"),
    ] {
        let answer = in_a_child(&method, HOST, Some(moto.url()), &ambient).await;
        assert_eq!(answer["token"], format!("{account}-auth-token"), "{answer}");
    }

    // as the annotation of a service account has EKS set it up (IRSA)
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, IDENTITY_TOKEN).unwrap();
    let irsa = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
        ("AWS_ROLE_ARN", "arn:aws:iam::555555555555:role/irsa"),
        ("AWS_REGION", "eu-central-1"),
    ];
    let answer = in_a_child(&role(None, None, None), HOST, Some(moto.url()), &irsa).await;
    assert_eq!(answer["token"], "555555555555-auth-token", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_amazon_refuses_is_told_apart() {
    let moto = Moto::start();
    let endpoints = at(moto.url());
    moto.call(
        "iam",
        &[
            ("Action", "CreateUser"),
            ("Version", "2010-05-08"),
            ("UserName", "nobody"),
        ],
    )
    .await;
    let made = moto
        .call(
            "iam",
            &[
                ("Action", "CreateAccessKey"),
                ("Version", "2010-05-08"),
                ("UserName", "nobody"),
            ],
        )
        .await;
    let of = |tag: &str| {
        let (_, rest) = made.split_once(&format!("<{tag}>")).unwrap();
        rest.split_once('<').unwrap().0.to_owned()
    };
    let (id, secret) = (of("AccessKeyId"), of("SecretAccessKey"));
    moto.enforce_policies().await;

    let refused = log_in(HOST, &keys(&id, &secret), &endpoints).await;
    assert_refused(refused, Reason::Forbidden, "ecr:GetAuthorizationToken");
    let refused = log_in(HOST, &keys(&id, "CANARY"), &endpoints).await;
    assert_refused(
        refused,
        Reason::Unauthorized,
        "does not belong to the access key id",
    );
    let refused = log_in(HOST, &keys("AKIACANARY", "CANARY"), &endpoints).await;
    assert_refused(
        refused,
        Reason::Unauthorized,
        "does not know the access key",
    );

    let far = "arn:aws:iam::444444444444:role/far";
    let method = role(Some(far), Some("an-external-id"), None);
    let trust: &[&str] = &["sts:AssumeRole on that role", "sts:ExternalId", far];
    for (id, secret, reason, says) in [
        (&*id, &*secret, "RoleNotAssumable", trust),
        (
            &*id,
            "CANARY",
            "Unauthorized",
            &["does not belong to the access key id"],
        ),
        (
            "AKIACANARY",
            "CANARY",
            "Unauthorized",
            &["does not know the access key"],
        ),
    ] {
        let ambient = [("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", secret)];
        let answer = in_a_child(&method, HOST, Some(moto.url()), &ambient).await;
        assert_eq!(answer["reason"], reason, "{answer}");
        for words in says {
            assert!(
                answer["message"].as_str().unwrap().contains(words),
                "{answer}"
            );
        }
    }
}

fn ecr_answer(token: &str) -> Response {
    let data = json!({
        "authorizationToken": STANDARD.encode(format!("AWS:{token}")),
        "expiresAt": 1_900_000_000,
    });
    json_answer(200, &json!({"authorizationData": [data]}))
}

/// moto has no ECR Public.
#[tokio::test]
async fn the_public_registry_is_asked_in_its_one_region() {
    let fake = Fake::start(|asked| {
        let target = "SpencerFrontendService.GetAuthorizationToken";
        assert_eq!(asked.header("x-amz-target"), target);
        let scope = "/us-east-1/ecr-public/aws4_request";
        assert!(asked.header("authorization").contains(scope));
        let data = json!({
            "authorizationToken": STANDARD.encode("AWS:CANARY-token"),
            "expiresAt": 1_900_000_000.5,
        });
        json_answer(200, &json!({"authorizationData": data}))
    })
    .await;
    for host in [PUBLIC, "public.ecr.aws/acme"] {
        let issued = log_in(host, &some_keys(), &at(&fake.url())).await.unwrap();
        assert_eq!(plain(&issued), ("AWS", "CANARY-token"));
        assert_eq!(issued.expires_at.unwrap().as_second(), 1_900_000_000);
    }
}

#[tokio::test]
async fn each_partition_and_kind_of_host_has_its_endpoint_and_goes_by_the_proxy() {
    let proxy = FakeProxy::start(None).await;
    let connection = Connection {
        via: Via::Proxies(Box::new(Proxies {
            https: Some(Proxy::new(&format!("http://{}", proxy.address), None).unwrap()),
            ..Proxies::default()
        })),
        ..Connection::default()
    };
    let cases = BTreeMap::from([
        (
            "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
            "api.ecr.eu-west-1.amazonaws.com",
        ),
        (
            "123456789012.dkr.ecr.us-gov-west-1.amazonaws.com",
            "api.ecr.us-gov-west-1.amazonaws.com",
        ),
        (
            "123456789012.dkr.ecr-fips.us-east-1.amazonaws.com",
            "api.ecr-fips.us-east-1.amazonaws.com",
        ),
        (
            "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn",
            "api.ecr.cn-north-1.amazonaws.com.cn",
        ),
        (
            "123456789012.dkr.ecr.us-iso-east-1.c2s.ic.gov",
            "api.ecr.us-iso-east-1.c2s.ic.gov",
        ),
        (
            "123456789012.dkr.ecr.us-isob-east-1.sc2s.sgov.gov",
            "api.ecr.us-isob-east-1.sc2s.sgov.gov",
        ),
        (
            "123456789012.dkr.ecr.eu-isoe-west-1.cloud.adc-e.uk",
            "api.ecr.eu-isoe-west-1.cloud.adc-e.uk",
        ),
        (
            "123456789012.dkr.ecr.eusc-de-east-1.amazonaws.eu",
            "api.ecr.eusc-de-east-1.amazonaws.eu",
        ),
        (
            "123456789012.dkr-ecr.eu-central-1.on.aws",
            "ecr.eu-central-1.api.aws",
        ),
        (
            "123456789012.dkr-ecr-fips.us-west-2.on.aws",
            "ecr-fips.us-west-2.api.aws",
        ),
        (
            "vpce-0a1b2c-x7.dkr.ecr.eu-west-2.vpce.amazonaws.com",
            "api.ecr.eu-west-2.amazonaws.com",
        ),
        (PUBLIC, "api.ecr-public.us-east-1.amazonaws.com"),
        ("ecr-public.aws.com", "ecr-public.us-east-1.api.aws"),
    ]);
    let providers = Providers::default();
    let method = some_keys();
    let identity = FakeIdentity::default();
    join_all(cases.keys().map(|host| async {
        let refused = providers
            .log_in(&key(host), &method, &connection, &identity)
            .await;
        assert_refused(refused, Reason::ProxyFailed, "proxy");
    }))
    .await;
    let asked_for = proxy.asked_for();
    for (host, endpoint) in cases {
        let endpoint = format!("{endpoint}:443");
        assert!(
            asked_for.contains(&endpoint),
            "{host}: {endpoint} is not in {asked_for:?}"
        );
    }
    assert!(asked_for.iter().all(|asked| asked.ends_with(":443")));
}

#[tokio::test]
async fn hosts_that_no_login_is_for_are_refused_before_anything_is_asked() {
    let endpoints = at(&url("http://127.0.0.1:1"));
    for (host, says) in [
        ("*.dkr.ecr.*.amazonaws.com", "a Registry for each region"),
        ("registry.example.com", "none of Amazon ECR"),
        (
            "123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example",
            "none of Amazon ECR",
        ),
    ] {
        let refused = log_in(host, &some_keys(), &endpoints).await;
        assert_refused(refused, Reason::InvalidRegistry, says);
    }
    let refused = log_in(HOST, &some_keys(), &endpoints).await;
    assert_refused(refused, Reason::Unreachable, "127.0.0.1");
}

/// Answers that moto does not give.
#[tokio::test]
async fn each_code_of_a_refusal_has_its_reason() {
    let cases = [
        (
            400,
            "ThrottlingException",
            Reason::RateLimited,
            "no more requests",
        ),
        (400, "ExpiredTokenException", Reason::Expired, "use a role"),
        (
            400,
            "UnrecognizedClientException",
            Reason::Unauthorized,
            "make a new one",
        ),
        (
            403,
            "AccessDeniedException",
            Reason::Forbidden,
            "ecr:GetAuthorizationToken",
        ),
        (400, "CANARY", Reason::CloudFailing, "HTTP 400"),
        (503, "ServerException", Reason::CloudFailing, "HTTP 503"),
    ];
    for (status, code, reason, says) in cases {
        let body = json!({"__type": code, "message": "CANARY"});
        let fake = Fake::start(move |_| json_answer(status, &body)).await;
        let refused = log_in(HOST, &some_keys(), &at(&fake.url())).await;
        assert_refused(refused, reason, says);
    }
}

#[tokio::test]
async fn answers_that_are_none_are_refused() {
    let bodies = [
        ("CANARY".to_owned(), Reason::CloudFailing),
        (
            json!({"authorizationData": []}).to_string(),
            Reason::CloudFailing,
        ),
        (
            json!({"authorizationData": [{"authorizationToken": "CANARY!"}]}).to_string(),
            Reason::CloudFailing,
        ),
        (
            json!({"authorizationData": [{"authorizationToken": STANDARD.encode("CANARY")}]})
                .to_string(),
            Reason::CloudFailing,
        ),
        (
            json!({"authorizationData": [{"authorizationToken": STANDARD.encode("AWS:CANARY\n")}]})
                .to_string(),
            Reason::CloudFailing,
        ),
        (" ".repeat(1 << 20), Reason::CloudFailing),
    ];
    for (body, reason) in bodies {
        let fake = Fake::start(move |_| text(200, &body)).await;
        let refused = log_in(HOST, &some_keys(), &at(&fake.url())).await;
        assert_refused(refused, reason, "");
    }
}

/// Fake ECR: takes the identity with this access key id and the session token of the fakes here only.
async fn fake_ecr(access_key_id: &'static str) -> Fake {
    Fake::start(move |asked| {
        let identity = format!("Credential={access_key_id}/");
        if asked.header("authorization").contains(&identity)
            && asked.header("x-amz-security-token") == "CANARY-session"
        {
            ecr_answer("of-the-pod")
        } else {
            json_answer(400, &json!({"__type": "UnrecognizedClientException"}))
        }
    })
    .await
}

/// Fake instance metadata, in its second version.
fn instance(asked: &Asked) -> Response {
    const TOKEN: &str = "CANARY-metadata";
    if asked.uri.path() == "/latest/api/token" {
        assert_eq!(asked.method, "PUT");
        let life = [("x-aws-ec2-metadata-token-ttl-seconds", "21600")];
        return (life, TOKEN).into_response();
    }
    if asked.header("x-aws-ec2-metadata-token") != TOKEN {
        return text(401, "");
    }
    match asked.uri.path() {
        "/latest/meta-data/iam/security-credentials/" => text(200, "node"),
        "/latest/meta-data/iam/security-credentials/node" => json_answer(
            200,
            &json!({
                "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2026-01-01T00:00:00Z",
                "AccessKeyId": "ASIANODE", "SecretAccessKey": "CANARY", "Token": "CANARY-session",
                "Expiration": "2099-01-01T00:00:00Z",
            }),
        ),
        _ => text(404, ""),
    }
}

#[tokio::test]
async fn the_nodes_role_comes_from_its_metadata() {
    let metadata = Fake::start(instance).await;
    let ecr = fake_ecr("ASIANODE").await;
    let environment = [
        (
            "AWS_EC2_METADATA_SERVICE_ENDPOINT",
            metadata.url().to_string(),
        ),
        ("AWS_EC2_METADATA_DISABLED", "false".to_owned()),
    ];
    assert_ambient_role_logs_in(&ecr, &environment).await;
}

#[tokio::test]
async fn the_pods_role_comes_from_eks_pod_identity() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, "CANARY-pod").unwrap();
    let agent = Fake::start(|asked| {
        assert_eq!(asked.uri.path(), "/v1/credentials");
        assert_eq!(asked.header("authorization"), "CANARY-pod");
        json_answer(
            200,
            &json!({
                "AccessKeyId": "ASIAPOD", "SecretAccessKey": "CANARY", "Token": "CANARY-session",
                "AccountId": "123456789012", "Expiration": "2099-01-01T00:00:00Z",
            }),
        )
    })
    .await;
    let ecr = fake_ecr("ASIAPOD").await;
    let environment = [
        (
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            format!("{}v1/credentials", agent.url()),
        ),
        (
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
            token.to_str().unwrap().to_owned(),
        ),
    ];
    assert_ambient_role_logs_in(&ecr, &environment).await;
}

async fn assert_ambient_role_logs_in(ecr: &Fake, environment: &[(&str, String)]) {
    let method = role(None, None, None);
    let answer = in_a_child(&method, HOST, Some(&ecr.url()), environment).await;
    assert_eq!(answer["token"], "of-the-pod", "{answer}");
}

#[tokio::test]
async fn a_controller_without_a_role_is_told_where_to_get_one() {
    let answer = in_a_child(
        &role(None, None, None),
        HOST,
        None,
        &[("HOME", "/nonexistent")],
    )
    .await;
    assert_eq!(answer["reason"], "IdentityMissing", "{answer}");
    assert!(
        answer["message"].as_str().unwrap().contains("Pod Identity"),
        "{answer}"
    );
}

fn sts_refusal(code: &str) -> Response {
    let body = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>{code}</Code><Message>CANARY</Message></Error></ErrorResponse>"
    );
    text(403, &body)
}

#[tokio::test]
async fn the_tokens_and_external_ids_of_roles_are_sent_and_their_refusals_explained() {
    let cases = [
        (
            "InvalidIdentityToken",
            Reason::IdentityNotTrusted,
            "the audience sts.amazonaws.com",
        ),
        (
            "IDPCommunicationError",
            Reason::IdentityNotTrusted,
            "cannot reach the cluster's issuer",
        ),
        (
            "ExpiredTokenException",
            Reason::IdentityNotTrusted,
            "compare the clocks",
        ),
        (
            "AccessDenied",
            Reason::RoleNotAssumable,
            "aud = sts.amazonaws.com",
        ),
        ("Throttling", Reason::RateLimited, "no more requests"),
    ];
    for (code, reason, says) in cases {
        let fake = Fake::start(move |asked| {
            assert_eq!(
                asked.field("WebIdentityToken").as_deref(),
                Some(IDENTITY_TOKEN)
            );
            sts_refusal(code)
        })
        .await;
        let method = role(
            Some("arn:aws:iam::222222222222:role/pull"),
            None,
            Some("sts.amazonaws.com"),
        );
        let refused = log_in(HOST, &method, &at(&fake.url())).await;
        assert_refused(refused, reason, says);
    }
    let fake = Fake::start(|_| sts_refusal("AccessDenied")).await;
    let ambient = [
        ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "CANARY"),
    ];
    let method = role(
        Some("arn:aws:iam::444444444444:role/far"),
        Some("an-external-id"),
        None,
    );
    let answer = in_a_child(&method, HOST, Some(&fake.url()), &ambient).await;
    assert_eq!(answer["reason"], "RoleNotAssumable", "{answer}");
    let external_id = fake.asked()[0].field("ExternalId");
    assert_eq!(external_id.as_deref(), Some("an-external-id"));
}

/// The ambient role is found by the environment, and a process's own cannot be changed safely: a child's can.
async fn in_a_child(
    method: &Method,
    host: &str,
    endpoint: Option<&url::Url>,
    environment: &[(&str, impl AsRef<std::ffi::OsStr>)],
) -> Value {
    let Method::AwsRole(role) = method else {
        panic!("only roles depend on the environment");
    };
    let (arn, external_id) = match role {
        Role::Ambient => ("", ""),
        Role::Chained {
            role_arn,
            external_id,
        } => (&**role_arn, external_id.as_deref().unwrap_or_default()),
        Role::WebIdentity { .. } => panic!("a role by token does not depend on the environment"),
    };
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "aws::a_child_logs_in",
            "--ignored",
            "--nocapture",
        ])
        .env_clear()
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("TEST_HOST", host)
        .env("TEST_ROLE", arn)
        .env("TEST_EXTERNAL_ID", external_id)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stderr(Stdio::inherit());
    if let Some(endpoint) = endpoint {
        command.env("AWS_ENDPOINT_URL", endpoint.as_str());
    }
    let output = command.output().await.unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let answer = output
        .lines()
        .find_map(|line| line.split_once("ANSWER "))
        .unwrap_or_else(|| panic!("no answer in {output}"));
    serde_json::from_str(answer.1).unwrap()
}

#[tokio::test]
#[ignore = "run by other tests, with an environment of their making"]
async fn a_child_logs_in() {
    let from = |name| {
        let value = std::env::var_os(name).unwrap_or_default();
        Some(value.into_string().unwrap()).filter(|text| !text.is_empty())
    };
    let method =
        Method::AwsRole(Role::new(from("TEST_ROLE"), from("TEST_EXTERNAL_ID"), None).unwrap());
    let result = log_in(&from("TEST_HOST").unwrap(), &method, &Endpoints::default()).await;
    let answer = match &result {
        Ok(issued) => json!({"token": plain(issued).1}),
        Err(failure) => {
            assert!(!failure.message.contains(CANARY), "{failure}");
            json!({"reason": failure.reason.as_str(), "message": failure.message})
        }
    };
    println!("ANSWER {answer}");
}
