//! Amazon ECR and ECR Public, by Amazon's own SDK.

mod failure;
mod http_client;

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use aws_smithy_types::DateTime;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use pullpass_core::ecr_host::EcrHost;
use pullpass_core::key::RegistryKey;
use pullpass_core::reason::Reason;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use self::failure::{Asked, no_identity, refused};
use self::http_client::AwsClient;
use crate::failure::Failure;
use crate::login::{Context, Issued};

/// The session's name in the account's CloudTrail.
const SESSION_NAME: &str = "pullpass";

/// Who shows as the client in CloudTrail and to a provider of credentials.
const PROVIDER_NAME: &str = "pullpass";

/// Amazon's services answer within a second; a second attempt and the next service have to fit into the login's time.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(8);

/// One more when the first is lost or throttled; everything beyond is left to the caller's own backoff.
const ATTEMPTS: u32 = 2;

/// ECR Public is served from one region only (Amazon ECR Public's endpoints in the AWS General Reference).
const PUBLIC_REGION: &str = "us-east-1";

/// An access key.
#[derive(Clone, Debug)]
pub struct Keys {
    access_key_id: SecretString,
    secret_access_key: SecretString,
    session_token: Option<SecretString>,
}

impl Keys {
    /// An access key, with the session token where it is a temporary one.
    ///
    /// # Errors
    /// [`Reason::EmptyCredential`] or [`Reason::MalformedSource`] for what cannot be an access key.
    pub fn new(
        access_key_id: SecretString,
        secret_access_key: SecretString,
        session_token: Option<SecretString>,
    ) -> Result<Self, Failure> {
        let parts = [
            ("access key id", Some(&access_key_id)),
            ("secret access key", Some(&secret_access_key)),
            ("session token", session_token.as_ref()),
        ];
        for (name, part) in parts {
            let Some(text) = part.map(|part| part.expose_secret()) else {
                continue;
            };
            if text.is_empty() {
                return Err(Failure::new(
                    Reason::EmptyCredential,
                    format!("the {name} is empty"),
                ));
            }
            if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(Failure::new(
                    Reason::MalformedSource,
                    format!(
                        "the {name} holds a space, a line break or a character that no access key has (write the Secret with 'printf %s', not 'echo')"
                    ),
                ));
            }
        }
        Ok(Self {
            access_key_id,
            secret_access_key,
            session_token,
        })
    }

    fn credentials(&self) -> Credentials {
        Credentials::new(
            self.access_key_id.expose_secret(),
            self.secret_access_key.expose_secret(),
            self.session_token
                .as_ref()
                .map(|token| token.expose_secret().to_owned()),
            None,
            PROVIDER_NAME,
        )
    }
}

/// A role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one that the controller's pods have: of EKS Pod Identity, of their service account's annotation (IRSA), or of
    /// the node.
    Ambient,
    /// One that the ambient role may take on.
    Chained {
        /// Which.
        role_arn: String,
        /// What its trust policy asks for.
        external_id: Option<String>,
    },
    /// One that trusts the cluster's issuer, taken on with a token of the controller's service account.
    WebIdentity {
        /// Which.
        role_arn: String,
        /// Whom the token is for.
        audience: String,
    },
}

impl Role {
    /// From the fields of `spec.auth.awsRole`.
    ///
    /// # Errors
    /// Fields that contradict each other.
    pub fn new(
        role_arn: Option<String>,
        external_id: Option<String>,
        audience: Option<String>,
    ) -> Result<Self, Failure> {
        match (role_arn, external_id, audience) {
            (None, None, None) => Ok(Self::Ambient),
            (Some(role_arn), external_id, None) => Ok(Self::Chained {
                role_arn,
                external_id,
            }),
            (Some(role_arn), None, Some(audience)) => Ok(Self::WebIdentity { role_arn, audience }),
            (Some(_), Some(_), Some(_)) => Err(Failure::new(
                Reason::InvalidRegistry,
                "spec.auth.awsRole: AWS knows no externalId where a role is taken on by a token (audience): remove one of the two",
            )),
            (None, _, _) => Err(Failure::new(
                Reason::InvalidRegistry,
                "spec.auth.awsRole: roleArn is missing",
            )),
        }
    }
}

/// Logs in with an access key.
pub(crate) async fn by_keys(keys: &Keys, context: &Context<'_>) -> Result<Issued, Failure> {
    let target = Target::of(context.key)?;
    let config = target
        .config(context)?
        .credentials_provider(keys.credentials())
        .load()
        .await;
    target.token(&config).await
}

/// Logs in with a role.
pub(crate) async fn by_role(role: &Role, context: &Context<'_>) -> Result<Issued, Failure> {
    let target = Target::of(context.key)?;
    let config = match role {
        Role::Ambient => target.ambient(context).await?,
        Role::Chained {
            role_arn,
            external_id,
        } => {
            let ambient = target.ambient(context).await?;
            let credentials = assume(&ambient, role_arn, external_id.as_deref()).await?;
            with_credentials(&ambient, credentials)
        }
        Role::WebIdentity { role_arn, audience } => {
            let token = context.tokens.token(audience).await?;
            let anonymous = target.config(context)?.no_credentials().load().await;
            let credentials = assume_by_token(&anonymous, role_arn, audience, &token).await?;
            with_credentials(&anonymous, credentials)
        }
    };
    target.token(&config).await
}

/// Where a login is to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Target<'a> {
    is_public: bool,
    region: &'a str,
    fips: bool,
    dual_stack: bool,
}

impl<'a> Target<'a> {
    fn of(key: &'a RegistryKey) -> Result<Self, Failure> {
        let host = EcrHost::parse(key.host()).map_err(|error| {
            Failure::new(Reason::InvalidRegistry, format!("spec.host: {error}"))
        })?;
        Ok(match host {
            EcrHost::Private {
                account: _,
                region,
                fips,
                dual_stack,
            } => Self {
                is_public: false,
                region,
                fips,
                dual_stack,
            },
            EcrHost::Public { dual_stack } => Self {
                is_public: true,
                region: PUBLIC_REGION,
                fips: false,
                dual_stack,
            },
        })
    }

    /// What all clients have in common. STS is asked in the registry's own region: its global endpoint is in another
    /// partition for some, and far away for others.
    fn config(&self, context: &Context<'_>) -> Result<ConfigLoader, Failure> {
        let timeouts = TimeoutConfig::builder()
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .build();
        let mut config = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(self.region.to_owned()))
            .http_client(AwsClient::new(context.connection)?)
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS));
        if self.fips {
            config = config.use_fips(true);
        }
        if let Some(endpoint) = &context.endpoints.aws {
            config = config.endpoint_url(endpoint.as_str());
        }
        Ok(config)
    }

    /// With the role that the controller's pods have, or why there is none.
    async fn ambient(&self, context: &Context<'_>) -> Result<SdkConfig, Failure> {
        let config = self.config(context)?.load().await;
        let provider = config.credentials_provider().ok_or_else(|| {
            Failure::new(Reason::IdentityMissing, failure::NO_IDENTITY.to_owned())
        })?;
        let credentials = provider
            .provide_credentials()
            .await
            .map_err(|error| no_identity(&error))?;
        Ok(with_credentials(&config, credentials))
    }

    /// Asks for the registry's own token.
    ///
    /// `registryIds` is not sent: Amazon calls it deprecated, since a token is good for every account's registry that the
    /// identity has access to, and says so in the SDK's own documentation.
    async fn token(&self, config: &SdkConfig) -> Result<Issued, Failure> {
        let (token, expires_at) = if self.is_public {
            let mut settings = aws_sdk_ecrpublic::config::Builder::from(config);
            settings.set_use_dual_stack(self.dual_stack.then_some(true));
            let answer = aws_sdk_ecrpublic::Client::from_conf(settings.build())
                .get_authorization_token()
                .send()
                .await
                .map_err(|error| refused(&error, Asked::PublicToken))?;
            let data = answer.authorization_data;
            data.map(|data| (data.authorization_token, data.expires_at))
        } else {
            let mut settings = aws_sdk_ecr::config::Builder::from(config);
            settings.set_use_dual_stack(self.dual_stack.then_some(true));
            let answer = aws_sdk_ecr::Client::from_conf(settings.build())
                .get_authorization_token()
                .send()
                .await
                .map_err(|error| refused(&error, Asked::Token))?;
            let data = answer.authorization_data.into_iter().flatten().next();
            data.map(|data| (data.authorization_token, data.expires_at))
        }
        .unwrap_or_default();
        issued(token.map(Zeroizing::new), expires_at)
    }
}

/// What GetAuthorizationToken says: base64 of `AWS:password`.
fn issued(
    token: Option<Zeroizing<String>>,
    expires_at: Option<DateTime>,
) -> Result<Issued, Failure> {
    const ISSUER: &str = "Amazon ECR";
    let unreadable = || {
        Failure::new(
            Reason::CloudFailing,
            format!("{ISSUER} answered without a token that could be read"),
        )
    };
    let token = token.ok_or_else(unreadable)?;
    let plain = Zeroizing::new(
        STANDARD
            .decode(token.as_bytes())
            .map_err(|_| unreadable())?,
    );
    let (username, password) = std::str::from_utf8(&plain)
        .ok()
        .and_then(|plain| plain.split_once(':'))
        .ok_or_else(unreadable)?;
    let expires_at = expires_at.and_then(|time| Timestamp::from_second(time.secs()).ok());
    Issued::new(username.into(), password.into(), expires_at, ISSUER)
}

async fn assume(
    config: &SdkConfig,
    role_arn: &str,
    external_id: Option<&str>,
) -> Result<Credentials, Failure> {
    let answer = aws_sdk_sts::Client::new(config)
        .assume_role()
        .role_arn(role_arn)
        .role_session_name(SESSION_NAME)
        .set_external_id(external_id.map(str::to_owned))
        .send()
        .await
        .map_err(|error| {
            let with_external_id = external_id.is_some();
            refused(
                &error,
                Asked::Role {
                    role_arn,
                    with_external_id,
                },
            )
        })?;
    session(answer.credentials)
}

async fn assume_by_token(
    config: &SdkConfig,
    role_arn: &str,
    audience: &str,
    token: &SecretString,
) -> Result<Credentials, Failure> {
    let answer = aws_sdk_sts::Client::new(config)
        .assume_role_with_web_identity()
        .role_arn(role_arn)
        .role_session_name(SESSION_NAME)
        .web_identity_token(token.expose_secret())
        .send()
        .await
        .map_err(|error| refused(&error, Asked::RoleByToken { role_arn, audience }))?;
    session(answer.credentials)
}

fn session(credentials: Option<aws_sdk_sts::types::Credentials>) -> Result<Credentials, Failure> {
    let credentials = credentials.ok_or_else(|| {
        Failure::new(
            Reason::CloudFailing,
            "AWS STS answered without the role's credentials",
        )
    })?;
    Ok(Credentials::new(
        credentials.access_key_id,
        credentials.secret_access_key,
        Some(credentials.session_token),
        None,
        PROVIDER_NAME,
    ))
}

fn with_credentials(config: &SdkConfig, credentials: Credentials) -> SdkConfig {
    config
        .to_builder()
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("", "CANARY", None, Reason::EmptyCredential, "access key id is empty")]
    #[case(
        "AKIA",
        "",
        None,
        Reason::EmptyCredential,
        "secret access key is empty"
    )]
    #[case(
        "AKIA\n",
        "CANARY",
        None,
        Reason::MalformedSource,
        "access key id holds"
    )]
    #[case(
        "AKIA",
        "CANARY\n",
        None,
        Reason::MalformedSource,
        "secret access key holds"
    )]
    #[case(
        "AKIA",
        "CANARY",
        Some("CANARY \u{e9}"),
        Reason::MalformedSource,
        "session token holds"
    )]
    fn what_is_no_access_key_is_named_and_not_repeated(
        #[case] id: &str,
        #[case] secret: &str,
        #[case] session: Option<&str>,
        #[case] reason: Reason,
        #[case] says: &str,
    ) {
        let failure = Keys::new(id.into(), secret.into(), session.map(Into::into)).unwrap_err();
        assert_eq!(failure.reason, reason);
        assert!(failure.message.contains(says), "{failure}");
        assert!(!failure.message.contains("CANARY"), "{failure}");
    }

    #[test]
    fn keys_print_nothing() {
        let canary = || SecretString::from("CANARY");
        let keys = Keys::new(canary(), canary(), Some(canary())).unwrap();
        assert!(!format!("{keys:?}").contains("CANARY"));
    }

    #[rstest]
    #[case(None, None, None, true)]
    #[case(Some("arn"), None, None, true)]
    #[case(Some("arn"), Some("id"), None, true)]
    #[case(Some("arn"), None, Some("sts.amazonaws.com"), true)]
    #[case(Some("arn"), Some("id"), Some("sts.amazonaws.com"), false)]
    #[case(None, Some("id"), None, false)]
    #[case(None, None, Some("sts.amazonaws.com"), false)]
    fn a_role_is_one_of_three(
        #[case] role_arn: Option<&str>,
        #[case] external_id: Option<&str>,
        #[case] audience: Option<&str>,
        #[case] is_one: bool,
    ) {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let role = Role::new(owned(role_arn), owned(external_id), owned(audience));
        assert_eq!(role.is_ok(), is_one);
    }
}
