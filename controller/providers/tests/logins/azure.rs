//! Azure, against fakes of Microsoft Entra and of a registry's token exchange, the latter through a proxy and under an
//! authority of its own.

use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pullpass_core::reason::Reason;
use pullpass_providers::azure::{ServicePrincipal, WorkloadIdentity};
use pullpass_providers::connection::{Authorities, Connection, Proxies, Proxy, Tls, Via};
use pullpass_providers::failure::Failure;
use pullpass_providers::login::{Endpoints, Issued, Method, Providers};
use serde_json::json;

use crate::support::fake::{Asked, Fake, json as json_answer, text};
use crate::support::tunnel::FakeProxy;
use crate::support::{FakeIdentity, IDENTITY_TOKEN, assert_refused, key, life, log_in, plain, url};

const HOST: &str = "acme.azurecr.io";
const TENANT: &str = "72f988bf-0000-0000-0000-000000000001";
const CLIENT: &str = "11111111-0000-0000-0000-000000000002";

fn principal() -> Method {
    Method::AzureServicePrincipal(ServicePrincipal {
        tenant_id: TENANT.into(),
        client_id: CLIENT.into(),
        client_secret: "CANARY-secret".into(),
    })
}

fn identity(audience: Option<&str>) -> Method {
    Method::AzureWorkloadIdentity(WorkloadIdentity {
        tenant_id: TENANT.into(),
        client_id: CLIENT.into(),
        audience: audience.map(str::to_owned),
    })
}

fn entra(asked: &Asked) -> Response {
    assert_eq!(asked.uri.path(), format!("/{TENANT}/oauth2/v2.0/token"));
    assert_eq!(asked.field("client_id").as_deref(), Some(CLIENT));
    assert_eq!(
        asked.field("grant_type").as_deref(),
        Some("client_credentials")
    );
    let scope = "https://containerregistry.azure.net/.default";
    assert_eq!(asked.field("scope").as_deref(), Some(scope));
    json_answer(
        200,
        &json!({"access_token": "CANARY-entra", "expires_in": 3599, "token_type": "Bearer"}),
    )
}

/// A refresh token, as the registry makes them: it tells when it ends.
fn refresh_token() -> String {
    let claims = URL_SAFE_NO_PAD.encode(json!({"exp": 1_900_000_000}).to_string());
    format!("e30.{claims}.CANARY")
}

/// A login with the registry behind a proxy, and what the three parts of the world were asked.
struct World {
    entra: Fake,
    registry: Fake,
    proxy: FakeProxy,
    connection: Connection,
}

impl World {
    async fn new(
        host: &str,
        entra: impl Fn(&Asked) -> Response + Send + Sync + 'static,
        registry: impl Fn(&Asked) -> Response + Send + Sync + 'static,
    ) -> Self {
        let entra = Fake::start(entra).await;
        let (registry, authority) = Fake::start_tls(host, registry).await;
        let proxy = FakeProxy::start(Some(registry.address)).await;
        let https = Some(Proxy::new(&format!("http://{}", proxy.address), None).unwrap());
        let connection = Connection {
            tls: Tls::SecureWithCa(Authorities::parse(authority.as_bytes()).unwrap()),
            via: Via::Proxies(Box::new(Proxies {
                https,
                ..Proxies::default()
            })),
        };
        Self {
            entra,
            registry,
            proxy,
            connection,
        }
    }

    async fn log_in(
        &self,
        host: &str,
        method: &Method,
        tokens: &FakeIdentity,
    ) -> Result<Issued, Failure> {
        let endpoints = Endpoints {
            entra: Some(self.entra.url()),
            ..Endpoints::default()
        };
        Providers::new(endpoints)
            .log_in(&key(host), method, &self.connection, tokens)
            .await
    }
}

fn exchanged(_: &Asked) -> Response {
    json_answer(200, &json!({"refresh_token": refresh_token()}))
}

#[tokio::test]
async fn each_identity_is_exchanged_at_its_own_registry() {
    for (host, method, audience) in [
        (HOST, principal(), None),
        (HOST, identity(None), Some("api://AzureADTokenExchange")),
        (HOST, identity(Some("an-audience")), Some("an-audience")),
        (
            "acme.azurecr.cn",
            identity(None),
            Some("api://AzureADTokenExchangeChina"),
        ),
        (
            "acme.azurecr.us",
            identity(None),
            Some("api://AzureADTokenExchangeUSGov"),
        ),
    ] {
        let world = World::new(host, entra, exchanged).await;
        let tokens = FakeIdentity::default();
        let issued = world.log_in(host, &method, &tokens).await.unwrap();
        let user = "00000000-0000-0000-0000-000000000000";
        assert_eq!(plain(&issued), (user, &*refresh_token()));
        assert_eq!(issued.expires_at.unwrap().as_second(), 1_900_000_000);
        assert_eq!(
            tokens.asked_for(),
            audience.map(str::to_owned).into_iter().collect::<Vec<_>>()
        );

        let at_entra = &world.entra.asked()[0];
        if audience.is_some() {
            assert_eq!(
                at_entra.field("client_assertion").as_deref(),
                Some(IDENTITY_TOKEN)
            );
            assert_eq!(at_entra.field("client_secret"), None);
        } else {
            assert_eq!(
                at_entra.field("client_secret").as_deref(),
                Some("CANARY-secret")
            );
        }
        let at_registry = &world.registry.asked()[0];
        assert_eq!(at_registry.uri.path(), "/oauth2/exchange");
        for (name, value) in [
            ("grant_type", "access_token"),
            ("service", host),
            ("tenant", TENANT),
            ("access_token", "CANARY-entra"),
        ] {
            assert_eq!(at_registry.field(name).as_deref(), Some(value));
        }
        assert_eq!(world.proxy.asked_for(), [format!("{host}:443")]);
    }
}

#[tokio::test]
async fn a_token_that_does_not_tell_its_end_is_renewed_soon() {
    let world = World::new(HOST, entra, |_| {
        json_answer(200, &json!({"refresh_token": "CANARY-opaque"}))
    })
    .await;
    let issued = world
        .log_in(HOST, &principal(), &FakeIdentity::default())
        .await
        .unwrap();
    assert!((3500..=3600).contains(&life(&issued)));
}

#[tokio::test]
async fn refusals_of_entra_are_told_apart() {
    for (code, error, method, reason, says) in [
        (
            7_000_215,
            "invalid_client",
            principal(),
            Reason::Unauthorized,
            "store the secret's value",
        ),
        (
            7_000_222,
            "invalid_client",
            principal(),
            Reason::Expired,
            "make a new one",
        ),
        (
            700_016,
            "unauthorized_client",
            principal(),
            Reason::Unauthorized,
            "correct clientId",
        ),
        (
            90_002,
            "invalid_request",
            principal(),
            Reason::Unauthorized,
            "correct tenantId",
        ),
        (
            7_000_112,
            "unauthorized_client",
            principal(),
            Reason::Unauthorized,
            "disabled",
        ),
        (
            1,
            "invalid_client",
            principal(),
            Reason::Unauthorized,
            CLIENT,
        ),
        (1, "CANARY", principal(), Reason::CloudFailing, "HTTP 401"),
        (
            700_213,
            "invalid_client",
            identity(None),
            Reason::IdentityNotTrusted,
            "the audience api://AzureADTokenExchange",
        ),
        (
            700_211,
            "invalid_request",
            identity(None),
            Reason::IdentityNotTrusted,
            "federated credential",
        ),
        (
            1,
            "invalid_client",
            identity(None),
            Reason::IdentityNotTrusted,
            "federated credential",
        ),
    ] {
        let body = json!({"error": error, "error_description": "CANARY", "error_codes": [code]});
        let fake = Fake::start(move |_| json_answer(401, &body)).await;
        let endpoints = Endpoints {
            entra: Some(fake.url()),
            ..Endpoints::default()
        };
        assert_refused(log_in(HOST, &method, &endpoints).await, reason, says);
    }
}

#[tokio::test]
async fn refusals_of_the_registry_are_told_apart() {
    for (status, reason, says) in [
        (401, Reason::Forbidden, "AcrPull"),
        (403, Reason::Forbidden, "network rules"),
        (404, Reason::HostMismatch, "no token exchange"),
        (429, Reason::RateLimited, HOST),
        (500, Reason::CloudFailing, "HTTP 500"),
        (307, Reason::CloudFailing, "redirect"),
        (200, Reason::CloudFailing, "cannot read"),
    ] {
        let world = World::new(HOST, entra, move |_| text(status, "CANARY")).await;
        let refused = world
            .log_in(HOST, &principal(), &FakeIdentity::default())
            .await;
        assert_refused(refused, reason, says);
    }
}

#[tokio::test]
async fn the_token_is_shown_to_no_host_but_a_registry_with_a_trusted_certificate() {
    let world = World::new("other.example.com", entra, exchanged).await;
    let tokens = FakeIdentity::default();
    let refused = world.log_in(HOST, &principal(), &tokens).await;
    assert_refused(refused, Reason::CertificateUnknown, HOST);
    assert!(world.registry.asked().is_empty());
    for (host, says) in [
        ("*.azurecr.io", "without wildcards"),
        ("registry.example.com", "no registry of Azure"),
        ("acme.azurecr.io.evil.example", "no registry of Azure"),
        ("evilazurecr.io", "no registry of Azure"),
    ] {
        let endpoints = Endpoints {
            entra: Some(url("http://127.0.0.1:1")),
            ..Endpoints::default()
        };
        let refused = log_in(host, &principal(), &endpoints).await;
        assert_refused(refused, Reason::InvalidRegistry, says);
    }
}
