//! Nothing that is logged holds a credential, with one exception that the daemons' log leaves out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pullpass_providers::aws::{Keys, Role};
use pullpass_providers::azure::ServicePrincipal;
use pullpass_providers::google::WorkloadIdentity;
use pullpass_providers::login::{Endpoints, Method};
use serde_json::json;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::support::fake::{Fake, json as answer};
use crate::support::log::Log;
use crate::support::{CANARY, log_in};

/// What the log of a daemon leaves out below the level info: see its module on telemetry.
const FILTERED: &str = "aws_";

#[tokio::test]
async fn no_credential_is_logged_but_by_the_targets_that_the_daemons_filter() {
    let log = Log::default();
    let subscriber = tracing_subscriber::registry().with(log.clone());
    // everything here runs on this thread
    let _guard = tracing::subscriber::set_default(subscriber);
    let fake = Fake::start(|asked| match asked.uri.path() {
        "/" => answer(
            200,
            &json!({"authorizationData": [{"authorizationToken": STANDARD.encode("AWS:CANARY")}]}),
        ),
        _ => answer(400, &json!({"error": "CANARY", "access_token": "CANARY"})),
    })
    .await;
    let endpoints = Endpoints {
        aws: Some(fake.url()),
        google: Some(fake.url()),
        google_metadata: Some(fake.url()),
        entra: Some(fake.url()),
    };
    let keys = Keys::new(CANARY.into(), CANARY.into(), Some(CANARY.into())).unwrap();
    let by_token = Role::new(
        Some("arn:aws:iam::222222222222:role/pull".into()),
        None,
        Some("sts.amazonaws.com".into()),
    );
    let ecr = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
    let google = "europe-docker.pkg.dev";
    let provider = "projects/1/locations/global/workloadIdentityPools/a/providers/b";
    for (host, method, succeeds) in [
        (ecr, Method::AwsKeys(keys), true),
        (ecr, Method::AwsRole(by_token.unwrap()), false),
        (
            google,
            Method::GcpWorkloadIdentity(WorkloadIdentity::default()),
            false,
        ),
        (
            google,
            Method::GcpWorkloadIdentity(WorkloadIdentity {
                provider: Some(provider.into()),
                ..WorkloadIdentity::default()
            }),
            false,
        ),
        (
            "acme.azurecr.io",
            Method::AzureServicePrincipal(ServicePrincipal {
                tenant_id: "tenant".into(),
                client_id: "client".into(),
                client_secret: CANARY.into(),
            }),
            false,
        ),
    ] {
        let result = log_in(host, &method, &endpoints).await;
        assert_eq!(result.is_ok(), succeeds, "{host}");
    }
    let leaks: Vec<String> = log
        .lines()
        .into_iter()
        .filter(|(_, text)| text.contains(CANARY))
        .map(|(target, _)| target)
        .collect();
    // or the filter would not be needed, and this test could not fail
    assert!(leaks.iter().any(|target| target.starts_with(FILTERED)));
    let others: Vec<_> = leaks
        .iter()
        .filter(|target| !target.starts_with(FILTERED))
        .collect();
    assert!(others.is_empty(), "{others:?}");
}
