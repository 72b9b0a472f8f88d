//! How to log in to a registry.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretReference;

/// How to log in: exactly one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.basic), has(self.dockerConfig), has(self.awsKeys), has(self.awsRole), has(self.gcpServiceAccountKey), has(self.gcpWorkloadIdentity), has(self.azureServicePrincipal), has(self.azureWorkloadIdentity)].filter(given, given).size() == 1")
    .message("auth takes exactly one of basic, dockerConfig, awsKeys, awsRole, gcpServiceAccountKey, gcpWorkloadIdentity, azureServicePrincipal, azureWorkloadIdentity"))]
pub struct Auth {
    /// A user name and a password or token, in two keys of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<BasicAuth>,
    /// A docker config (as `docker login` or `kubectl create secret docker-registry` make it) in a Secret of any type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_config: Option<DockerConfigAuth>,
    /// Amazon ECR and ECR Public: an access key in a Secret, exchanged for a token of twelve hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws_keys: Option<AwsKeysAuth>,
    /// Amazon ECR and ECR Public: a role, of the controller's own or one that it takes on. No Secret is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws_role: Option<AwsRoleAuth>,
    /// Google Artifact Registry and Container Registry: the JSON key of a service account in a Secret, as it was downloaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcp_service_account_key: Option<GcpServiceAccountKeyAuth>,
    /// Google Artifact Registry and Container Registry: the controller's own identity. No Secret is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcp_workload_identity: Option<GcpWorkloadIdentityAuth>,
    /// Azure Container Registry: a service principal with a client secret in a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure_service_principal: Option<AzureServicePrincipalAuth>,
    /// Azure Container Registry: an application that trusts the controller's service account. No Secret is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure_workload_identity: Option<AzureWorkloadIdentityAuth>,
}

/// A user name and a password or token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BasicAuth {
    /// The Secret, in Pullpass's own namespace.
    pub secret_ref: SecretReference,
    /// The Secret's key that holds the user name.
    #[serde(default = "username_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub username_key: String,
    /// The Secret's key that holds the password or token.
    #[serde(default = "password_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub password_key: String,
}

fn username_key() -> String {
    "username".into()
}

fn password_key() -> String {
    "password".into()
}

/// A docker config.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DockerConfigAuth {
    /// The Secret, in Pullpass's own namespace.
    pub secret_ref: SecretReference,
    /// The Secret's key that holds the docker config. Where it is left out, `.dockerconfigjson` or else `.dockercfg`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: Option<String>,
}

/// An access key of AWS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AwsKeysAuth {
    /// The Secret, in Pullpass's own namespace.
    pub secret_ref: SecretReference,
    /// The Secret's key that holds the access key's id.
    #[serde(default = "access_key_id_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub access_key_id_key: String,
    /// The Secret's key that holds the secret access key.
    #[serde(default = "secret_access_key_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub secret_access_key_key: String,
    /// The Secret's key that holds the session token of a temporary access key; the Secret need not have it.
    #[serde(default = "session_token_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub session_token_key: String,
}

fn access_key_id_key() -> String {
    "accessKeyId".into()
}

fn secret_access_key_key() -> String {
    "secretAccessKey".into()
}

fn session_token_key() -> String {
    "sessionToken".into()
}

/// A role of AWS. Without any field, the role that the controller's pods have already: of EKS Pod Identity, of their
/// service account's annotation (IRSA), or of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.audience) || has(self.roleArn)")
        .message("roleArn is missing: with audience the controller takes on a role by a token of its own service account; name the role, or remove audience to use the role that the controller's pods have already"),
    validation = Rule::new("!has(self.externalId) || has(self.roleArn)")
        .message("roleArn is missing: an externalId is given when one role takes on another; name the role, or remove externalId"),
    validation = Rule::new("!(has(self.externalId) && has(self.audience))")
        .message("AWS knows no externalId where a role is taken on by a token (audience): remove one of the two; to go on to a role that asks for an externalId, give the controller's pods a role and leave audience out")
)]
pub struct AwsRoleAuth {
    /// The role to take on. Without audience it is taken on from the role that the controller's pods have already, also
    /// across accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 20, max = 2048),
        regex(pattern = r"^arn:aws[a-z-]*:iam::[0-9]{12}:role/[!-~]+$")
    )]
    pub role_arn: Option<String>,
    /// The external id that the role's trust policy asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 2, max = 1224),
        regex(pattern = r"^[A-Za-z0-9_+=,.@:/\-]+$")
    )]
    pub external_id: Option<String>,
    /// Take the role on by web identity: with a token of the controller's own service account for this audience, which is
    /// sts.amazonaws.com unless the identity provider in IAM asks for another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub audience: Option<String>,
}

/// What namespaces get of a credential that could also be exchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HandOut {
    /// A token that lives for hours at most, and which the controller renews.
    #[default]
    Token,
    /// What the source Secret holds, itself. It needs no renewal and lives until it is revoked, in every namespace.
    Source,
}

/// The JSON key of a Google service account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GcpServiceAccountKeyAuth {
    /// The Secret, in Pullpass's own namespace.
    pub secret_ref: SecretReference,
    /// The Secret's key that holds the JSON file.
    #[serde(default = "json_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
    /// Token: namespaces get a token of one hour, for reading only. Source: they get the JSON key itself.
    #[serde(default)]
    pub hand_out: HandOut,
}

fn json_key() -> String {
    "key.json".into()
}

/// An identity at Google. Without any field, the one that the metadata server gives to the controller's pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GcpWorkloadIdentityAuth {
    /// The service account to impersonate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 3, max = 320),
        regex(pattern = r"^[A-Za-z0-9._-]+@[A-Za-z0-9.-]+$")
    )]
    pub service_account_email: Option<String>,
    /// For clusters outside of Google: the provider of a workload identity pool that trusts this cluster's service
    /// accounts, projects/number/locations/global/workloadIdentityPools/pool/providers/provider. The controller asks it
    /// with a token of its own service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 512),
        regex(
            pattern = r"^projects/[0-9]+/locations/global/workloadIdentityPools/[a-z0-9-]+/providers/[a-z0-9-]+$"
        )
    )]
    pub workload_identity_provider: Option<String>,
}

/// A service principal of Microsoft Entra.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AzureServicePrincipalAuth {
    /// The directory (tenant) that it is registered in, by id or domain.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9.-]*$")
    )]
    pub tenant_id: String,
    /// The application's (client's) id.
    #[schemars(regex(
        pattern = r"^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$"
    ))]
    pub client_id: String,
    /// The Secret, in Pullpass's own namespace.
    pub secret_ref: SecretReference,
    /// The Secret's key that holds the client secret.
    #[serde(default = "client_secret_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub client_secret_key: String,
    /// Token: namespaces get a token of three hours. Source: they get the client id and the client secret.
    #[serde(default)]
    pub hand_out: HandOut,
}

fn client_secret_key() -> String {
    "clientSecret".into()
}

/// An application or managed identity of Microsoft Entra with a federated credential for the controller's service account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AzureWorkloadIdentityAuth {
    /// The directory (tenant) that it is registered in, by id or domain.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9.-]*$")
    )]
    pub tenant_id: String,
    /// The application's (client's) id.
    #[schemars(regex(
        pattern = r"^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$"
    ))]
    pub client_id: String,
    /// The audience of the federated credential, where it is not the usual one (api://AzureADTokenExchange, with the ending
    /// China or USGov in those clouds).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 600))]
    pub audience: Option<String>,
}
