//! What Amazon's refusals mean, and what to do about them. Its own words are not repeated: they are an answer's content.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use pullpass_core::reason::Reason;

use crate::failure::Failure;

/// Where to look when there is no role.
pub(super) const NO_IDENTITY: &str = "the controller's pods have no role at AWS: give their service account one by EKS Pod Identity or by the annotation eks.amazonaws.com/role-arn, or let them reach the node's instance metadata";

/// What was asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked<'a> {
    /// ECR for a token.
    Token,
    /// ECR Public for a token.
    PublicToken,
    /// STS for a role, with the credentials of another.
    Role {
        /// Which.
        role_arn: &'a str,
        /// Whether an external id was given.
        with_external_id: bool,
    },
    /// STS for a role, with a token of the controller's service account.
    RoleByToken {
        /// Which.
        role_arn: &'a str,
        /// Whom the token was for.
        audience: &'a str,
    },
}

impl Asked<'_> {
    fn service(self) -> &'static str {
        match self {
            Self::Token => "Amazon ECR",
            Self::PublicToken => "Amazon ECR Public",
            Self::Role { .. } | Self::RoleByToken { .. } => "AWS STS",
        }
    }

    /// The service says that this identity may not do this.
    fn denied(self) -> (Reason, String) {
        match self {
            Self::Token => (
                Reason::Forbidden,
                "the identity may not ask Amazon ECR for a token: allow it the action ecr:GetAuthorizationToken on the resource * (and for pulls ecr:BatchGetImage and ecr:GetDownloadUrlForLayer on the repositories)".to_owned(),
            ),
            Self::PublicToken => (
                Reason::Forbidden,
                "the identity may not ask Amazon ECR Public for a token: allow it the actions ecr-public:GetAuthorizationToken and sts:GetServiceBearerToken on the resource *".to_owned(),
            ),
            Self::Role { role_arn, with_external_id } => (
                Reason::RoleNotAssumable,
                format!(
                    "the controller's own identity may not take on {role_arn}: allow it sts:AssumeRole on that role, and name it as a principal in the role's trust policy{}",
                    if with_external_id {
                        " with the condition sts:ExternalId that spec.auth.awsRole.externalId gives"
                    } else {
                        " (a policy that asks for sts:ExternalId wants spec.auth.awsRole.externalId)"
                    }
                ),
            ),
            Self::RoleByToken { role_arn, audience } => (
                Reason::RoleNotAssumable,
                format!(
                    "the controller's service account may not take on {role_arn}: its trust policy has to allow sts:AssumeRoleWithWebIdentity to the cluster's OIDC provider, with the conditions sub = system:serviceaccount:namespace:name of the controller and aud = {audience}"
                ),
            ),
        }
    }
}

/// Why a service did not do what it was asked.
pub(super) fn refused<E>(error: &SdkError<E, HttpResponse>, asked: Asked<'_>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let service = asked.service();
    #[expect(clippy::wildcard_enum_match_arm, reason = "the SDK's list grows")]
    match error {
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            let (reason, message) = by_code(answer.err().code(), status, asked);
            Failure::new(reason, message)
        }
        SdkError::ConstructionFailure(_) => match no_credentials(error) {
            Some(failure) => failure,
            None => Failure::new(
                Reason::InvalidRegistry,
                format!(
                    "no request to {service} can be made for this host: it may have no endpoint of this kind (FIPS, IPv6) in this region"
                ),
            ),
        },
        SdkError::TimeoutError(_) => Failure::new(
            Reason::Unreachable,
            format!("{service} did not answer in time"),
        ),
        SdkError::DispatchFailure(_) => own_failure(error).unwrap_or_else(|| {
            Failure::new(Reason::Unreachable, format!("{service} cannot be reached"))
        }),
        _ => Failure::new(
            Reason::CloudFailing,
            format!(
                "{service} answered what is no answer of an AWS service; check proxies and endpoints in between"
            ),
        ),
    }
}

/// A closed table of codes, from the "Common Errors" of the services' API references and the errors of each action.
fn by_code(code: Option<&str>, status: u16, asked: Asked<'_>) -> (Reason, String) {
    let service = asked.service();
    match code.unwrap_or_default() {
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" => asked.denied(),
        "InvalidClientTokenId" | "UnrecognizedClientException" | "InvalidAccessKeyId" => (
            Reason::Unauthorized,
            format!("{service} does not know the access key: it was deleted or made inactive, or belongs to another partition of AWS; make a new one"),
        ),
        "SignatureDoesNotMatch" | "InvalidSignatureException" | "IncompleteSignature"
        | "IncompleteSignatureException" | "AuthFailure" => (
            Reason::Unauthorized,
            format!("{service} does not take the signature: the secret access key does not belong to the access key id, or the controller's clock is wrong"),
        ),
        "MissingAuthenticationToken" | "MissingAuthenticationTokenException" => (
            Reason::Unauthorized,
            format!("{service} was asked without an identity"),
        ),
        "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => match asked {
            Asked::RoleByToken { .. } => (
                Reason::IdentityNotTrusted,
                "AWS STS takes the token of the controller's service account for expired: compare the clocks of API server and controller".to_owned(),
            ),
            Asked::Token | Asked::PublicToken | Asked::Role { .. } => (
                Reason::Expired,
                "the session token's life is over: a temporary access key cannot be renewed; use a role, or an access key of a user".to_owned(),
            ),
        },
        "InvalidIdentityToken" | "IDPRejectedClaim" => {
            let audience = match asked {
                Asked::RoleByToken { audience, .. } => audience,
                Asked::Token | Asked::PublicToken | Asked::Role { .. } => "",
            };
            (
                Reason::IdentityNotTrusted,
                format!("AWS STS does not take the token of the controller's service account: make an OIDC identity provider in IAM for the cluster's issuer, with the audience {audience}"),
            )
        }
        "IDPCommunicationError" => (
            Reason::IdentityNotTrusted,
            "AWS STS cannot reach the cluster's issuer: its discovery document and keys have to be public".to_owned(),
        ),
        "RegionDisabledException" => (
            Reason::Forbidden,
            "AWS STS is not activated in the registry's region for this account: activate the region under IAM, account settings".to_owned(),
        ),
        "Throttling" | "ThrottlingException" | "ThrottledException" | "TooManyRequestsException"
        | "RequestLimitExceeded" | "LimitExceededException" | "RequestThrottled" | "SlowDown" => (
            Reason::RateLimited,
            format!("{service} answers no more requests of this account for now"),
        ),
        "NoSuchEntity" | "NoSuchEntityException" => asked.denied(),
        "ValidationError" | "ValidationException" | "InvalidParameterException" => (
            Reason::InvalidRegistry,
            format!("{service} takes a parameter for wrong (HTTP {status}): check spec.auth.awsRole"),
        ),
        _ if status == 429 => (
            Reason::RateLimited,
            format!("{service} answers no more requests of this account for now"),
        ),
        _ if status >= 500 => (
            Reason::CloudFailing,
            format!("{service} fails by itself (HTTP {status})"),
        ),
        _ => (
            Reason::CloudFailing,
            format!("{service} refused for a reason that Pullpass does not know (HTTP {status})"),
        ),
    }
}

/// Why the controller's pods have no role.
pub(super) fn no_identity(error: &CredentialsError) -> Failure {
    // IRSA's role is taken on within the SDK, and its refusal is somewhere below
    if let Some(code) = service_code(error) {
        let (reason, message) = match code {
            "AccessDenied" => (
                Reason::RoleNotAssumable,
                "the controller's service account may not take on the role of its annotation eks.amazonaws.com/role-arn: the role's trust policy has to allow sts:AssumeRoleWithWebIdentity to the cluster's OIDC provider, with the condition sub = system:serviceaccount:namespace:name of the controller".to_owned(),
            ),
            code => by_code(
                Some(code),
                400,
                Asked::RoleByToken {
                    role_arn: "",
                    audience: "sts.amazonaws.com",
                },
            ),
        };
        return Failure::new(reason, message);
    }
    if let Some(failure) = own_failure(error) {
        return Failure {
            reason: Reason::IdentityMissing,
            message: format!(
                "the controller's pods cannot get the credentials of their role: {failure}"
            ),
            ..failure
        };
    }
    #[expect(clippy::wildcard_enum_match_arm, reason = "the SDK's list grows")]
    match error {
        CredentialsError::CredentialsNotLoaded(_) => {
            Failure::new(Reason::IdentityMissing, NO_IDENTITY)
        }
        CredentialsError::ProviderTimedOut(_) => Failure::new(
            Reason::Unreachable,
            "the metadata that gives the controller's pods their role did not answer in time",
        ),
        CredentialsError::InvalidConfiguration(_) => Failure::new(
            Reason::IdentityMissing,
            "the AWS settings in the controller's environment contradict each other: see the variables that begin with AWS_",
        ),
        _ => Failure::new(
            Reason::IdentityMissing,
            format!("the controller's pods get no credentials of their role; {NO_IDENTITY}"),
        ),
    }
}

/// The failure that our own client has put below the SDK's error.
fn own_failure(error: &(dyn Error + 'static)) -> Option<Failure> {
    chain(error)
        .find_map(|error| error.downcast_ref::<Failure>())
        .cloned()
}

fn no_credentials<E>(error: &SdkError<E, HttpResponse>) -> Option<Failure>
where
    E: Error + 'static,
{
    chain(error)
        .find_map(|error| error.downcast_ref::<CredentialsError>())
        .map(no_identity)
}

/// The code of STS's answer below an error of the SDK's own.
fn service_code(error: &CredentialsError) -> Option<&str> {
    use aws_sdk_sts::operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityError;
    chain(error)
        .find_map(|error| error.downcast_ref::<AssumeRoleWithWebIdentityError>())
        .and_then(ProvideErrorMetadata::code)
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}
