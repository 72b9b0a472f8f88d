//! Google Artifact Registry and Container Registry, by the token services' documented HTTP interfaces.
//!
//! Google's own crate for this gives a token without its end, follows no Registry's proxy or authority, and keeps a task
//! for each credential that renews it by itself; of all that only the requests are needed, and they are three.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderValue, Method, header};
use jiff::{SignedDuration, Timestamp};
use pullpass_core::reason::Reason;
use reqwest::{Body, Request};
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::Signer;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use serde::{Deserialize, Serialize};
use url::Url;
use zeroize::{Zeroize, Zeroizing};

use crate::exchange::{Answer, CloudClient};
use crate::failure::Failure;
use crate::login::{Context, Issued};

/// The user name that goes with an access token ("Set up authentication for Docker" in Artifact Registry's documentation).
const USERNAME: &str = "oauth2accesstoken";

/// What a token may do: read. The scope of the nodes of GKE, by which they pull from both registries.
const PULL_SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_only";

/// What the token may do by which a service account is impersonated: the IAM Credentials API asks for no less.
const IMPERSONATION_SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// The longest that Google accepts for an assertion, and what its tokens live in any case.
const LIFETIME: SignedDuration = SignedDuration::from_hours(1);

/// The audience of an assertion, wherever it is sent.
const TOKEN_AUDIENCE: &str = "https://oauth2.googleapis.com/token";

const TOKEN_SERVICE: &str = "Google's token service (oauth2.googleapis.com)";
const FEDERATION_SERVICE: &str = "Google's security token service (sts.googleapis.com)";
const IAM_SERVICE: &str = "Google's IAM (iamcredentials.googleapis.com)";
const METADATA_SERVICE: &str = "Google's metadata server (metadata.google.internal)";

/// The JSON key of a service account.
#[derive(Clone, Debug)]
pub struct ServiceAccountKey {
    email: String,
    key_id: Option<String>,
    private_key: SecretString,
}

#[derive(Deserialize)]
struct KeyFile {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    client_email: String,
    #[serde(default)]
    private_key_id: Option<String>,
    #[serde(default)]
    private_key: String,
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        self.private_key.zeroize();
    }
}

impl ServiceAccountKey {
    /// Reads the file as it is downloaded, with or without a byte order mark.
    ///
    /// # Errors
    /// [`Reason::MalformedSource`] with the place of what is wrong.
    pub fn parse(file: &SecretSlice<u8>) -> Result<Self, Failure> {
        let malformed = |what: String| Failure::new(Reason::MalformedSource, what);
        let file = file.expose_secret();
        let file = file.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(file);
        let file: KeyFile = serde_json::from_slice(file).map_err(|error| {
            malformed(format!(
                "no JSON key of a Google service account: line {}, column {}",
                error.line(),
                error.column()
            ))
        })?;
        if file.r#type != "service_account" {
            return Err(malformed(
                "the JSON file is no service account's key, which has \"type\": \"service_account\"; make one with 'gcloud iam service-accounts keys create'".to_owned(),
            ));
        }
        if file.client_email.is_empty() {
            return Err(malformed("the JSON key has no client_email".to_owned()));
        }
        if signer(&file.private_key).is_none() {
            return Err(malformed(
                "the JSON key's private_key is no RSA key in PEM form; store the file as it was downloaded".to_owned(),
            ));
        }
        Ok(Self {
            email: file.client_email.clone(),
            key_id: file.private_key_id.clone(),
            private_key: file.private_key.as_str().into(),
        })
    }

    /// What shows that its sender holds the key (RFC 7523, as in "Using OAuth 2.0 for Server to Server Applications" of
    /// Google's documentation).
    fn assertion(&self, now: Timestamp) -> Result<Zeroizing<String>, Failure> {
        let unsigned = || {
            Failure::new(
                Reason::MalformedSource,
                "the JSON key's private_key cannot sign: store the file as it was downloaded",
            )
        };
        let header = AssertionHeader {
            alg: "RS256",
            typ: "JWT",
            kid: self.key_id.as_deref(),
        };
        let claims = Assertion {
            iss: &self.email,
            scope: PULL_SCOPE,
            aud: TOKEN_AUDIENCE,
            iat: now.as_second(),
            exp: now.as_second() + LIFETIME.as_secs(),
        };
        let mut token = Zeroizing::new(format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(serde_json::to_vec(&header).map_err(|_| unsigned())?),
            URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).map_err(|_| unsigned())?),
        ));
        let signature = signer(self.private_key.expose_secret())
            .and_then(|signer| signer.sign(token.as_bytes()).ok())
            .ok_or_else(unsigned)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}

/// Signs as RS256 of RFC 7518, section 3.3, asks; `None` for what is no RSA key.
fn signer(pem: &str) -> Option<Box<dyn Signer>> {
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).ok()?;
    any_supported_type(&key)
        .ok()?
        .choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256])
}

/// The parts of a JSON Web Token (RFC 7519).
#[derive(Serialize)]
struct AssertionHeader<'a> {
    alg: &'a str,
    typ: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<&'a str>,
}

#[derive(Serialize)]
struct Assertion<'a> {
    iss: &'a str,
    scope: &'a str,
    aud: &'a str,
    iat: i64,
    exp: i64,
}

/// An identity of the controller's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadIdentity {
    /// The service account to impersonate.
    pub service_account_email: Option<String>,
    /// The provider of a workload identity pool, `projects/…/providers/…`; `None` for the metadata server.
    pub provider: Option<String>,
}

/// A token as OAuth 2.0 has it (RFC 6749, section 5.1).
#[derive(Deserialize)]
struct TokenAnswer {
    access_token: SecretString,
    expires_in: i64,
}

/// A token, and when it ends.
struct Token {
    token: SecretString,
    expires_at: Timestamp,
}

impl TokenAnswer {
    fn token(self, asked_at: Timestamp) -> Token {
        let life = SignedDuration::from_secs(self.expires_in.clamp(0, LIFETIME.as_secs() * 24));
        Token {
            token: self.access_token,
            expires_at: asked_at.saturating_add(life).unwrap_or(asked_at),
        }
    }
}

impl Token {
    fn issued(self, issuer: &str) -> Result<Issued, Failure> {
        Issued::new(USERNAME.into(), self.token, Some(self.expires_at), issuer)
    }
}

/// Exchanges a service account's key.
pub(crate) async fn by_key(
    key: &ServiceAccountKey,
    context: &Context<'_>,
) -> Result<Issued, Failure> {
    let now = Timestamp::now();
    let assertion = key.assertion(now)?;
    let client = CloudClient::new(context.connection)?;
    let url = service(context, "https://oauth2.googleapis.com", "/token")?;
    let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
    let fields = [("grant_type", grant), ("assertion", &*assertion)];
    let answer = client.post_form(url, &fields).await?;
    if let Some(failure) = answer.common_failure(TOKEN_SERVICE) {
        return Err(failure);
    }
    if !answer.status.is_success() {
        return Err(match answer.oauth_error().error.as_str() {
            "invalid_grant" | "invalid_client" | "unauthorized_client" | "account_deleted" => {
                Failure::new(
                    Reason::Unauthorized,
                    format!(
                        "{TOKEN_SERVICE} does not take the key of {}: the key or the service account was deleted or disabled, or the controller's clock is wrong; make a new key",
                        key.email
                    ),
                )
            }
            _ => unknown_refusal(TOKEN_SERVICE, &answer),
        });
    }
    let token: TokenAnswer = answer.json(TOKEN_SERVICE)?;
    token.token(now).issued(TOKEN_SERVICE)
}

/// Logs in as who the controller is.
pub(crate) async fn by_workload_identity(
    identity: &WorkloadIdentity,
    context: &Context<'_>,
) -> Result<Issued, Failure> {
    let scope = match identity.service_account_email {
        Some(_) => IMPERSONATION_SCOPE,
        None => PULL_SCOPE,
    };
    let (token, issuer) = match &identity.provider {
        Some(provider) => (
            federated(provider, scope, context).await?,
            FEDERATION_SERVICE,
        ),
        None => (from_metadata(scope, context).await?, METADATA_SERVICE),
    };
    match &identity.service_account_email {
        None => token.issued(issuer),
        Some(email) => impersonate(email, identity, &token.token, context)
            .await?
            .issued(IAM_SERVICE),
    }
}

/// The token that the metadata server has for the controller's pods ("Authenticate workloads using the metadata server" in
/// GKE's documentation).
async fn from_metadata(scope: &str, context: &Context<'_>) -> Result<Token, Failure> {
    const NO_IDENTITY: &str = "on GKE, turn workload identity on and give the controller's Kubernetes service account access at Google; elsewhere, set spec.auth.gcpWorkloadIdentity.workloadIdentityProvider";
    let now = Timestamp::now();
    let mut url = match &context.endpoints.google_metadata {
        Some(url) => url.clone(),
        None => parse("http://metadata.google.internal")?,
    };
    url.set_path("/computeMetadata/v1/instance/service-accounts/default/token");
    url.query_pairs_mut().append_pair("scopes", scope);
    let mut request = Request::new(Method::GET, url);
    request
        .headers_mut()
        .insert("metadata-flavor", HeaderValue::from_static("Google"));
    let answer = CloudClient::of_the_machine()?
        .send(request)
        .await
        .map_err(|error| {
            Failure::new(
                Reason::IdentityMissing,
                format!(
                    "{}, which gives the controller its identity at Google: {NO_IDENTITY}",
                    error.failure
                ),
            )
        })?;
    if let Some(failure) = answer.common_failure(METADATA_SERVICE) {
        return Err(failure);
    }
    // whatever else answers under the name is no metadata server, and what it says is no token
    let is_google = answer
        .headers
        .get("metadata-flavor")
        .is_some_and(|flavor| flavor == "Google");
    match answer.status.as_u16() {
        _ if !is_google => Err(Failure::new(
            Reason::IdentityMissing,
            format!(
                "what answers under the name of {METADATA_SERVICE} is not Google's; {NO_IDENTITY}"
            ),
        )),
        200 => {
            let token: TokenAnswer = answer.json(METADATA_SERVICE)?;
            Ok(token.token(now))
        }
        403 => Err(Failure::new(
            Reason::RoleNotAssumable,
            "the controller's Kubernetes service account may not act as the Google service account of its annotation iam.gke.io/gcp-service-account: grant it roles/iam.workloadIdentityUser on that account",
        )),
        _ => Err(Failure::new(
            Reason::IdentityMissing,
            format!(
                "{METADATA_SERVICE} has no identity for the controller (HTTP {}); {NO_IDENTITY}",
                answer.status.as_u16()
            ),
        )),
    }
}

/// Exchanges a token of the controller's service account (RFC 8693, as in "Method: token" of the Security Token Service
/// API).
async fn federated(provider: &str, scope: &str, context: &Context<'_>) -> Result<Token, Failure> {
    // a provider without audiences of its own takes its name, with https in front
    let audience = format!("https://iam.googleapis.com/{provider}");
    let subject = context.tokens.token(&audience).await?;
    let now = Timestamp::now();
    let fields = [
        (
            "grant_type",
            "urn:ietf:params:oauth:grant-type:token-exchange",
        ),
        ("audience", &format!("//iam.googleapis.com/{provider}")),
        ("scope", scope),
        (
            "requested_token_type",
            "urn:ietf:params:oauth:token-type:access_token",
        ),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
        ("subject_token", subject.expose_secret()),
    ];
    let url = service(context, "https://sts.googleapis.com", "/v1/token")?;
    let client = CloudClient::new(context.connection)?;
    let answer = client.post_form(url, &fields).await?;
    if let Some(failure) = answer.common_failure(FEDERATION_SERVICE) {
        return Err(failure);
    }
    if answer.status.is_success() {
        let token: TokenAnswer = answer.json(FEDERATION_SERVICE)?;
        return Ok(token.token(now));
    }
    let what = match answer.oauth_error().error.as_str() {
        "invalid_target" => format!(
            "there is no workload identity provider {provider}, or it is disabled: check spec.auth.gcpWorkloadIdentity.workloadIdentityProvider, which begins with the project's number"
        ),
        "unauthorized_client" | "access_denied" => format!(
            "the attribute condition of {provider} does not let the controller's service account in: its subject is system:serviceaccount:namespace:name of the controller"
        ),
        "invalid_grant" | "invalid_request" => format!(
            "{provider} does not take the token of the controller's service account: its issuer has to be the cluster's with its keys reachable or uploaded, its allowed audiences none or {audience}, and google.subject mapped from assertion.sub"
        ),
        _ => return Err(unknown_refusal(FEDERATION_SERVICE, &answer)),
    };
    Err(Failure::new(Reason::IdentityNotTrusted, what))
}

/// A token of a service account ("Method: projects.serviceAccounts.generateAccessToken" of the IAM Credentials API).
async fn impersonate(
    email: &str,
    identity: &WorkloadIdentity,
    token: &SecretString,
    context: &Context<'_>,
) -> Result<Token, Failure> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Generated {
        access_token: SecretString,
        expire_time: Timestamp,
    }
    let path = format!("/v1/projects/-/serviceAccounts/{email}:generateAccessToken");
    let url = service(context, "https://iamcredentials.googleapis.com", &path)?;
    let mut request = Request::new(Method::POST, url);
    let headers = request.headers_mut();
    headers.insert(header::AUTHORIZATION, crate::client::bearer(token)?);
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    let wanted = serde_json::json!({"scope": [PULL_SCOPE], "lifetime": "3600s"});
    *request.body_mut() = Some(Body::from(wanted.to_string()));
    let answer = CloudClient::new(context.connection)?.send(request).await?;
    if let Some(failure) = answer.common_failure(IAM_SERVICE) {
        return Err(failure);
    }
    match answer.status.as_u16() {
        200 => {
            let generated: Generated = answer.json(IAM_SERVICE)?;
            Ok(Token {
                token: generated.access_token,
                expires_at: generated.expire_time,
            })
        }
        403 | 404 => Err(Failure::new(
            Reason::RoleNotAssumable,
            match identity.provider {
                Some(_) => format!(
                    "the controller's identity may not impersonate {email}: check that it exists, grant the principal of the workload identity pool roles/iam.workloadIdentityUser on it, and enable the API iamcredentials.googleapis.com in its project"
                ),
                None => format!(
                    "the controller's identity may not impersonate {email}: check that it exists, grant the controller's identity roles/iam.serviceAccountTokenCreator on it, and enable the API iamcredentials.googleapis.com in its project"
                ),
            },
        )),
        401 => Err(Failure::new(
            Reason::IdentityNotTrusted,
            format!("{IAM_SERVICE} does not take the token by which {email} is to be impersonated"),
        )),
        _ => Err(unknown_refusal(IAM_SERVICE, &answer)),
    }
}

fn service(context: &Context<'_>, base: &str, path: &str) -> Result<Url, Failure> {
    let mut url = match &context.endpoints.google {
        Some(url) => url.clone(),
        None => parse(base)?,
    };
    url.set_path(path);
    Ok(url)
}

fn parse(url: &str) -> Result<Url, Failure> {
    Url::parse(url).map_err(|error| Failure::new(Reason::CloudFailing, error.to_string()))
}

fn unknown_refusal(service: &str, answer: &Answer) -> Failure {
    Failure::new(
        Reason::CloudFailing,
        format!(
            "{service} refused for a reason that Pullpass does not know (HTTP {})",
            answer.status.as_u16()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever stands around a canary, no message repeats it.
        #[test]
        fn no_message_about_a_key_holds_content(
            before in prop::collection::vec(any::<u8>(), 0..40),
            after in "[ -~]{0,40}",
            in_field: bool,
        ) {
            let mut file = before;
            file.extend_from_slice(b"CANARY");
            file.extend_from_slice(after.as_bytes());
            if in_field {
                let private_key = String::from_utf8_lossy(&file).into_owned();
                let whole = serde_json::json!({
                    "type": "service_account", "client_email": "a@b", "private_key": private_key,
                });
                file = whole.to_string().into_bytes();
            }
            let failure = ServiceAccountKey::parse(&SecretSlice::from(file)).unwrap_err();
            prop_assert_eq!(failure.reason, Reason::MalformedSource);
            prop_assert!(!failure.message.contains("CANARY"));
        }
    }

    #[test]
    fn a_token_that_lives_for_ever_does_not() {
        for (told, seconds) in [(3600, 3600), (-5, 0), (i64::MAX, 24 * 3600)] {
            let answer = TokenAnswer {
                access_token: "token".into(),
                expires_in: told,
            };
            let now = Timestamp::UNIX_EPOCH;
            assert_eq!(answer.token(now).expires_at.as_second(), seconds);
        }
    }
}
