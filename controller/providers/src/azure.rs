//! Azure Container Registry: a token of Microsoft Entra, exchanged at the registry for one that container runtimes can use.

use jiff::Timestamp;
use pullpass_core::key::RegistryKey;
use pullpass_core::reason::Reason;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use url::Url;

use crate::exchange::{Answer, CloudClient};
use crate::expiry;
use crate::failure::Failure;
use crate::login::{Context, Issued};

/// The user name that goes with a refresh token ("Azure Container Registry authentication options" in Azure's
/// documentation).
const USERNAME: &str = "00000000-0000-0000-0000-000000000000";

/// A token for container registries and for nothing else, in every cloud.
const SCOPE: &str = "https://containerregistry.azure.net/.default";

/// How a client shows by a token who it is (RFC 7523, section 2.2).
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A service principal with a client secret.
#[derive(Clone, Debug)]
pub struct ServicePrincipal {
    /// The directory, by id or domain.
    pub tenant_id: String,
    /// The application.
    pub client_id: String,
    /// Its secret.
    pub client_secret: SecretString,
}

/// An application or managed identity with a federated credential for the controller's service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadIdentity {
    /// The directory, by id or domain.
    pub tenant_id: String,
    /// The application.
    pub client_id: String,
    /// The federated credential's audience; `None` for the cloud's usual one.
    pub audience: Option<String>,
}

/// One of Azure's clouds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cloud {
    /// The ending of its registries' hosts.
    registries: &'static str,
    /// Where Entra is ("National clouds" in Entra's documentation).
    authority: &'static str,
    /// For whom a federated token is ("Configure an app to trust an external identity provider", there).
    audience: &'static str,
}

const CLOUDS: [Cloud; 3] = [
    Cloud {
        registries: ".azurecr.io",
        authority: "https://login.microsoftonline.com",
        audience: "api://AzureADTokenExchange",
    },
    Cloud {
        registries: ".azurecr.cn",
        authority: "https://login.partner.microsoftonline.cn",
        audience: "api://AzureADTokenExchangeChina",
    },
    Cloud {
        registries: ".azurecr.us",
        authority: "https://login.microsoftonline.us",
        audience: "api://AzureADTokenExchangeUSGov",
    },
];

impl Cloud {
    fn of(key: &RegistryKey) -> Result<Self, Failure> {
        if key.is_glob() {
            return Err(Failure::new(
                Reason::InvalidRegistry,
                "spec.host: a token of Azure Container Registry is for one registry: write a Registry for each, without wildcards",
            ));
        }
        let host = key.host();
        let name = host.split_once(':').map_or(host, |(name, _)| name);
        CLOUDS
            .into_iter()
            .find(|cloud| name.ends_with(cloud.registries))
            .ok_or_else(|| {
                Failure::new(
                    Reason::InvalidRegistry,
                    "spec.host: the host is no registry of Azure: write name.azurecr.io",
                )
            })
    }
}

/// Who asks Entra.
struct Client<'a> {
    tenant_id: &'a str,
    client_id: &'a str,
    proof: Proof<'a>,
}

/// By what it shows who it is.
enum Proof<'a> {
    Secret(&'a SecretString),
    Assertion {
        token: SecretString,
        audience: &'a str,
    },
}

/// Logs in as a service principal.
pub(crate) async fn by_service_principal(
    principal: &ServicePrincipal,
    context: &Context<'_>,
) -> Result<Issued, Failure> {
    let cloud = Cloud::of(context.key)?;
    let client = Client {
        tenant_id: &principal.tenant_id,
        client_id: &principal.client_id,
        proof: Proof::Secret(&principal.client_secret),
    };
    log_in(cloud, &client, context).await
}

/// Logs in with a token of the controller's service account.
pub(crate) async fn by_workload_identity(
    identity: &WorkloadIdentity,
    context: &Context<'_>,
) -> Result<Issued, Failure> {
    let cloud = Cloud::of(context.key)?;
    let audience = identity.audience.as_deref().unwrap_or(cloud.audience);
    let client = Client {
        tenant_id: &identity.tenant_id,
        client_id: &identity.client_id,
        proof: Proof::Assertion {
            token: context.tokens.token(audience).await?,
            audience,
        },
    };
    log_in(cloud, &client, context).await
}

async fn log_in(
    cloud: Cloud,
    client: &Client<'_>,
    context: &Context<'_>,
) -> Result<Issued, Failure> {
    let token = entra_token(cloud, client, context).await?;
    exchange(client, &token, context).await
}

/// A token for container registries ("The client credentials flow" in Entra's documentation).
async fn entra_token(
    cloud: Cloud,
    client: &Client<'_>,
    context: &Context<'_>,
) -> Result<SecretString, Failure> {
    #[derive(Deserialize)]
    struct Token {
        access_token: SecretString,
    }
    const SERVICE: &str = "Microsoft Entra";
    let mut url = match &context.endpoints.entra {
        Some(url) => url.clone(),
        None => parse(cloud.authority)?,
    };
    url.set_path(&format!("/{}/oauth2/v2.0/token", client.tenant_id));
    let mut fields = vec![
        ("grant_type", "client_credentials"),
        ("client_id", client.client_id),
        ("scope", SCOPE),
    ];
    match &client.proof {
        Proof::Secret(secret) => fields.push(("client_secret", secret.expose_secret())),
        Proof::Assertion { token, .. } => fields.extend([
            ("client_assertion_type", ASSERTION_TYPE),
            ("client_assertion", token.expose_secret()),
        ]),
    }
    let answer = CloudClient::new(context.connection)?
        .post_form(url, &fields)
        .await?;
    if let Some(failure) = answer.common_failure(SERVICE) {
        return Err(failure);
    }
    if !answer.status.is_success() {
        return Err(entra_refusal(client, &answer));
    }
    answer
        .json::<Token>(SERVICE)
        .map(|token| token.access_token)
}

/// What Entra's numbers mean ("Microsoft Entra authentication and authorization error codes" in its documentation).
fn entra_refusal(client: &Client<'_>, answer: &Answer) -> Failure {
    let Client {
        tenant_id,
        client_id,
        proof,
    } = client;
    let error = answer.oauth_error();
    let code = error.error_codes.first().copied().unwrap_or_default();
    let (reason, message) = match (code, proof) {
        (90002 | 900_023 | 900_021 | 50_059, _) => (
            Reason::Unauthorized,
            format!(
                "Microsoft Entra knows no directory {tenant_id} in this cloud: correct tenantId"
            ),
        ),
        (700_016, _) => (
            Reason::Unauthorized,
            format!(
                "Microsoft Entra knows no application {client_id} in the directory {tenant_id}: correct clientId or tenantId"
            ),
        ),
        (7_000_112 | 7_000_102, _) => (
            Reason::Unauthorized,
            format!("the application {client_id} is disabled in Microsoft Entra"),
        ),
        (7_000_222, Proof::Secret(_)) => (
            Reason::Expired,
            format!("the client secret of {client_id} has expired: make a new one"),
        ),
        (7_000_215, Proof::Secret(_)) => (
            Reason::Unauthorized,
            format!(
                "Microsoft Entra does not take the client secret of {client_id}: store the secret's value, not its id"
            ),
        ),
        (_, Proof::Secret(_)) if error.error == "invalid_client" => (
            Reason::Unauthorized,
            format!("Microsoft Entra does not take the client secret of {client_id}"),
        ),
        (
            70_021 | 700_211 | 700_212 | 700_213 | 700_024 | 700_027 | 7_002_138 | 50_027 | 50_166,
            Proof::Assertion { audience, .. },
        ) => (
            Reason::IdentityNotTrusted,
            format!(
                "{client_id} does not trust the controller's service account: give it a federated credential with the cluster's issuer, the subject system:serviceaccount:namespace:name of the controller, and the audience {audience}"
            ),
        ),
        (_, Proof::Assertion { audience, .. })
            if error.error == "invalid_client" || error.error == "invalid_request" =>
        {
            (
                Reason::IdentityNotTrusted,
                format!(
                    "Microsoft Entra does not take the token of the controller's service account for {client_id}: check the federated credential's issuer, subject and audience ({audience})"
                ),
            )
        }
        _ => (
            Reason::CloudFailing,
            format!(
                "Microsoft Entra refused for a reason that Pullpass does not know (HTTP {})",
                answer.status.as_u16()
            ),
        ),
    };
    Failure::new(reason, message)
}

/// Exchanges Entra's token at the registry ("Calling POST /oauth2/exchange to get an ACR refresh token" in the registry's
/// documentation of its integration with Entra).
async fn exchange(
    client: &Client<'_>,
    token: &SecretString,
    context: &Context<'_>,
) -> Result<Issued, Failure> {
    #[derive(Deserialize)]
    struct Exchanged {
        refresh_token: SecretString,
    }
    let host = context.key.host();
    let mut url = parse(&format!("https://{host}"))?;
    url.set_path("/oauth2/exchange");
    let fields = [
        ("grant_type", "access_token"),
        ("service", host),
        ("tenant", client.tenant_id),
        ("access_token", token.expose_secret()),
    ];
    let answer = CloudClient::as_connected(context.connection)?
        .post_form(url, &fields)
        .await?;
    if let Some(failure) = answer.common_failure(host) {
        return Err(failure);
    }
    match answer.status.as_u16() {
        200 => {
            let token = answer.json::<Exchanged>(host)?.refresh_token;
            let expires_at: Option<Timestamp> = expiry::of(&token);
            Issued::new(USERNAME.into(), token, expires_at, host)
        }
        401 | 403 => Err(Failure::new(
            Reason::Forbidden,
            format!(
                "{host} lets {} not in: grant it the role AcrPull (with repository permissions: Container Registry Repository Reader) on the registry, and check the registry's network rules",
                client.client_id
            ),
        )),
        404 => Err(Failure::new(
            Reason::HostMismatch,
            format!("{host} is no registry of Azure: it knows no token exchange"),
        )),
        status => Err(Failure::new(
            Reason::CloudFailing,
            format!(
                "{host} refused the token exchange for a reason that Pullpass does not know (HTTP {status})"
            ),
        )),
    }
}

fn parse(url: &str) -> Result<Url, Failure> {
    Url::parse(url)
        .map_err(|error| Failure::new(Reason::InvalidRegistry, format!("spec.host: {error}")))
}
