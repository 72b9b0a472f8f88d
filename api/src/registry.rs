//! `Registry`: one image registry, how to log in to it, and who may use it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::selector::LabelSelector;

/// What an administrator says about a registry.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema,
)]
#[kube(
    group = "pullpass.dev",
    version = "v1alpha1",
    kind = "Registry",
    plural = "registries",
    shortname = "preg",
    category = "pullpass",
    status = "RegistryStatus",
    derive = "PartialEq",
    doc = "One image registry: where it is, how to log in to it, and which namespaces may use it. Pullpass keeps its credential in a pull secret of each of those namespaces.",
    validation = Rule::new("size(self.metadata.name) <= 63")
        .message("metadata.name: use at most 63 characters, so that the name fits into a label"),
    printcolumn(name = "Host", type_ = "string", json_path = ".spec.host", description = "Where the registry is"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status", description = "Whether every selected namespace can pull"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason", description = "Why it is ready or not"),
    printcolumn(name = "Verified", type_ = "string", json_path = ".status.conditions[?(@.type=='Verified')].status", description = "Whether the registry takes the credential"),
    printcolumn(name = "Selected", type_ = "integer", json_path = ".status.namespaces.selected", description = "Namespaces of this cluster that may use it"),
    printcolumn(name = "Synced", type_ = "integer", json_path = ".status.namespaces.synced", description = "Selected namespaces that hold the credential"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Provider", type_ = "string", json_path = ".spec.provider", priority = "1"),
    printcolumn(name = "Include", type_ = "string", json_path = ".spec.access.namespaces.include", priority = "1"),
    printcolumn(name = "Priority", type_ = "integer", json_path = ".spec.priority", priority = "1"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.credentials.expiresAt", priority = "1"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].message", priority = "1"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.host) || (has(self.auth) && has(self.auth.dockerConfig))")
        .message("host is missing: write host[:port][/path], for example registry.example.com/team; only with auth.dockerConfig it may be left out, and then every entry of that Secret counts"),
    validation = Rule::new("self.type == 'Public' || has(self.auth) || (has(self.access) && has(self.access.pullSecret))")
        .message("auth is missing: a private registry needs a credential, for example auth: {basic: {secretRef: {name: my-secret}}}, or access.pullSecret where each namespace already holds one; for a registry without credentials write type: Public"),
    validation = Rule::new("self.type == 'Private' || (!has(self.auth) && !(has(self.access) && has(self.access.pullSecret)))")
        .message("a public registry has no credentials: remove auth and access.pullSecret, or write type: Private"),
    validation = Rule::new("!has(self.provider) || !has(self.auth) || !(has(self.auth.awsKeys) || has(self.auth.awsRole)) || self.provider in ['ECR', 'ECRPublic']")
        .message("auth.awsKeys and auth.awsRole fit ECR and ECRPublic: write one of them as provider or leave it out, or log in by auth.basic or auth.dockerConfig"),
    validation = Rule::new("!has(self.provider) || !has(self.auth) || !(has(self.auth.gcpServiceAccountKey) || has(self.auth.gcpWorkloadIdentity)) || self.provider in ['ArtifactRegistry', 'GCR']")
        .message("auth.gcpServiceAccountKey and auth.gcpWorkloadIdentity fit ArtifactRegistry and GCR: write one of them as provider or leave it out, or log in by auth.basic or auth.dockerConfig"),
    validation = Rule::new("!has(self.provider) || !has(self.auth) || !(has(self.auth.azureServicePrincipal) || has(self.auth.azureWorkloadIdentity)) || self.provider == 'ACR'")
        .message("auth.azureServicePrincipal and auth.azureWorkloadIdentity fit ACR: write it as provider or leave it out, or log in by auth.basic or auth.dockerConfig"),
    validation = Rule::new("self.injection == 'Always' || has(self.host)")
        .message("host is missing: injection: WhenImageMatches compares images with it; write host, or injection: Always"),
    validation = Rule::new("self.type == 'Public' || (has(self.access) && has(self.access.namespaces))")
        .message("access.namespaces is missing: say which namespaces get the credential of a private registry, for example access: {namespaces: {include: [\"team-*\"]}}, or include: [\"*\"] for all of them"),
    validation = Rule::new("!has(self.verify) || (has(self.host) && !self.host.contains('*') && has(self.auth))")
        .message("verify: only the credential of auth can be verified, and only with one host: write host without wildcards, or remove verify")
)]
pub struct RegistrySpec {
    /// Where the registry is: host[:port][/path prefix], without a scheme. A `*` stands for a part of one label of the
    /// host, as in `*.dkr.ecr.eu-west-1.amazonaws.com`. May be left out with auth.dockerConfig: then every entry of that
    /// Secret counts, each with its own host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(
        validation = Rule::new("!self.contains('://')")
            .message("host: write it without a scheme, for example registry.example.com instead of https://registry.example.com"),
        validation = Rule::new("self.contains('://') || self.matches('^([A-Za-z0-9*._-]+|\\\\[[0-9A-Fa-f:.]+\\\\])(:[0-9]{1,5})?(/[^?#%\\\\s\\\\\\\\]*)?$')")
            .message("host: write host[:port][/path] with letters, digits, '-', '_', '.' and the wildcard '*' in the host, for example registry.example.com:5000/team"),
        validation = Rule::new("!self.startsWith('[') || self.contains(']:')")
            .message("host: kubelet finds a credential for an IPv6 address only with its port, for example [2001:db8::1]:443")
    )]
    pub host: Option<String>,

    /// What kind of registry it is. Where it is left out it is inferred from the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Provider>,

    /// Private: pulls need a credential. Public: they need none.
    #[serde(default)]
    pub r#type: Visibility,

    /// How to log in: exactly one of its fields. The Secrets that it names are read in Pullpass's own namespace only. May
    /// be left out where access.pullSecret is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,

    /// Which clusters and which of their namespaces may use the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,

    /// How Pullpass reaches the registry and its token service to verify the credential and to log in. Pulls are the
    /// container runtime's, which has its own configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Connection>,

    /// What Pullpass proves about the credential before it is rolled out, beyond the registry's letting it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,

    /// Always: the pull secret's name is appended to every pod of the namespaces. WhenImageMatches: only to pods with an
    /// image that kubelet would use this registry's credential for. It saves needless names and protects nothing: one pull
    /// secret serves all registries, and images may be changed later.
    #[serde(default)]
    pub injection: Injection,

    /// Decides where two registries have a credential for the same host in one namespace: the higher priority wins, then
    /// the older registry, then the one whose name comes first.
    #[serde(default)]
    pub priority: i32,
}

/// The kinds of registry that Pullpass knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Provider {
    /// Docker Hub.
    DockerHub,
    /// Amazon Elastic Container Registry.
    ECR,
    /// Amazon ECR Public.
    ECRPublic,
    /// Azure Container Registry.
    ACR,
    /// Google Artifact Registry.
    ArtifactRegistry,
    /// Google Container Registry.
    GCR,
    /// GitHub Container Registry.
    GHCR,
    /// GitLab Container Registry.
    GitLab,
    /// Quay.
    Quay,
    /// Harbor.
    Harbor,
    /// Any other registry that speaks the OCI distribution protocol.
    Other,
}

/// Whether pulls need a credential.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Visibility {
    /// Pulls need a credential.
    #[default]
    Private,
    /// Pulls need none.
    Public,
}

/// Which pods of its namespaces a registry is injected into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Injection {
    /// Every pod.
    #[default]
    Always,
    /// Pods with an image of the registry.
    WhenImageMatches,
}

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

/// A Secret in Pullpass's own namespace, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretReference {
    /// The Secret's name.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub name: String,
}

/// How Pullpass reaches a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// Whom to trust as the registry. Where it is left out, mode Secure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Which way to go. Where it is left out, the proxy of the controller's environment (HTTPS_PROXY, HTTP_PROXY, NO_PROXY)
    /// if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<Via>,
    /// Mirrors that nodes ask before the registry itself, in this order, each by its base URL, such as
    /// https://mirror.example.com. tls counts for them too. Only the node agent uses them, for the container runtime
    /// (nodeAgent.runtimeTrust). A mirror that asks for a login is shown the pod's credential for the registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 256)))]
    #[x_kube(validation = Rule::new("self.all(url, url.matches('^https?://([A-Za-z0-9._-]+|\\\\[[0-9A-Fa-f:.]+\\\\])(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?$'))")
        .message("connection.mirrors: write https://host or https://host:port/path, without a user, query or fragment"))]
    pub mirrors: Vec<String>,
}

/// Whom to trust as the registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.mode == 'SecureWithCA') == has(self.caSecretRef)")
        .message("tls: caSecretRef goes with mode: SecureWithCA and with no other, for example tls: {mode: SecureWithCA, caSecretRef: {name: my-ca}}"),
    validation = Rule::new("has(self.caSecretRef) || !has(self.caKey)")
        .message("tls: caKey is the key in the Secret of caSecretRef, which is missing")
)]
pub struct Tls {
    /// Secure: a certificate under an authority that is publicly trusted. SecureWithCA: or under one of those in the Secret
    /// of caSecretRef. Insecure: any certificate, and plain HTTP where the registry speaks no TLS; whoever is in between
    /// reads the credential.
    pub mode: TlsMode,
    /// The Secret with the authorities' certificates, in Pullpass's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretReference>,
    /// The Secret's key that holds the certificates, as PEM. Where it is left out, `ca.crt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub ca_key: Option<String>,
}

/// How the registry's certificate is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsMode {
    /// Against the publicly trusted authorities.
    #[default]
    Secure,
    /// Against those and the given ones.
    SecureWithCA,
    /// Not at all.
    Insecure,
}

/// Which way to go to the registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.mode == 'Proxy') == has(self.url)")
        .message("via: url goes with mode: Proxy and with no other, for example via: {mode: Proxy, url: \"http://proxy.example.com:3128\"}"),
    validation = Rule::new("has(self.url) || !has(self.secretRef)")
        .message("via: secretRef is the login to the proxy at url, which is missing"),
    validation = Rule::new("has(self.secretRef) || (!has(self.usernameKey) && !has(self.passwordKey))")
        .message("via: usernameKey and passwordKey are keys in the Secret of secretRef, which is missing")
)]
pub struct Via {
    /// Direct: without a proxy, whatever the controller's environment says. Proxy: through the proxy at url.
    pub mode: ViaMode,
    /// The proxy: http:// or https://, host and port, without a user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^https?://([A-Za-z0-9._-]+|\\\\[[0-9A-Fa-f:.]+\\\\])(:[0-9]{1,5})?/?$')")
        .message("via.url: write http://host:port or https://host:port; user and password go into the Secret of secretRef"))]
    pub url: Option<String>,
    /// The Secret with the login to the proxy, in Pullpass's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretReference>,
    /// The Secret's key that holds the user name. Where it is left out, `username`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub username_key: Option<String>,
    /// The Secret's key that holds the password. Where it is left out, `password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub password_key: Option<String>,
}

/// Whether a proxy stands between Pullpass and the registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ViaMode {
    /// None.
    #[default]
    Direct,
    /// An HTTP or HTTPS proxy.
    Proxy,
}

/// What is proven about a credential.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verify {
    /// A repository that the credential has to be able to pull from: its path after the host, as in acme/app. Its manifest
    /// is asked for and not read.
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]+((\\\\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\\\\.|_|__|-+)[a-z0-9]+)*)*$')")
        .message("verify.repository: write the image's path after the host, without tag or digest, for example acme/app"))]
    pub repository: String,
}

/// Who may use a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// Which clusters may use it, so that the same resources can be applied to all of them. Compared with the chart value
    /// clusterName; on a cluster without a name, anything but the default selects nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clusters: Option<ClusterAccess>,
    /// Which namespaces may use it. Required where the registry is private, so that nobody spreads a credential by leaving
    /// a line out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<NamespaceAccess>,
    /// A Secret that each of these namespaces already holds. Its name is injected instead of that of Pullpass's copy, and
    /// no copy is made; Pullpass neither reads nor writes it. With auth the credential still serves everything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_secret: Option<PullSecretReference>,
    /// Whether nodes may hold the credential, where the node agent is on. Auto: for every pod of a node where every
    /// namespace may use it anyway; otherwise only in mode credentialProvider, for the namespaces that may use it. Allow:
    /// for every pod of every node, whatever its namespace. Deny: never.
    #[serde(default)]
    pub nodes: NodeAccess,
}

/// Whether nodes may hold a credential.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NodeAccess {
    /// As far as the policy for namespaces is obeyed.
    #[default]
    Auto,
    /// For every pod of every node.
    Allow,
    /// Never.
    Deny,
}

/// A Secret that each namespace already holds, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PullSecretReference {
    /// The Secret's name, the same in every namespace.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub name: String,
}

/// Which clusters may use a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterAccess {
    /// Names of clusters that may use it; `*` stands for any part of a name.
    #[serde(default = "every_name")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 253)))]
    pub auto_inject: Vec<String>,
    /// Names of clusters that may not; wins over autoInject.
    #[serde(default)]
    #[schemars(length(max = 256), inner(length(min = 1, max = 253)))]
    pub do_not_inject: Vec<String>,
}

fn every_name() -> Vec<String> {
    vec!["*".into()]
}

/// Which namespaces may use a registry. System namespaces and those of Pullpass are never among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.include) && size(self.include) > 0) || (has(self.selector) && ((has(self.selector.matchLabels) && size(self.selector.matchLabels) > 0) || (has(self.selector.matchExpressions) && size(self.selector.matchExpressions) > 0)))")
    .message("say which namespaces: include: [\"team-a\", \"team-b-*\"], or include: [\"*\"] for all of them, or a selector that asks for labels"))]
pub struct NamespaceAccess {
    /// Names of namespaces; `*` stands for any part of a name. An exact name cannot be taken by a tenant, a wildcard
    /// admits whoever may create namespaces. With a selector it may be left out and means every name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 1024),
        inner(length(min = 1, max = 63), regex(pattern = r"^[-a-z0-9*]+$"))
    )]
    pub include: Option<Vec<String>>,
    /// Names of namespaces that may not use it; wins over include and selector.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 1024),
        inner(length(min = 1, max = 63), regex(pattern = r"^[-a-z0-9*]+$"))
    )]
    pub exclude: Vec<String>,
    /// Labels that a namespace has to have, in addition to a name that is included. It is as strong as the right to label
    /// namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// What Pullpass says about a registry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready: every selected namespace can pull. CredentialsReady: there is a good credential. Verified: the registry takes
    /// it. Distributed: every selected namespace holds it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The credential that is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CredentialStatus>,
    /// The namespaces of this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<NamespaceStatus>,
    /// The nodes of this cluster, where the node agent is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeStatus>,
}

/// How many nodes of this cluster have the credential.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Nodes that are to hold the credential: all that run the node agent, or none where the registry keeps off nodes.
    pub selected: i32,
    /// Selected nodes that hold what the controller has last written.
    pub ready: i32,
}

/// The credential that is in use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialStatus {
    /// When it was last read or renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refreshed_at: Option<Time>,
    /// When it ends, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
}

/// How many namespaces of this cluster have the credential.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceStatus {
    /// Namespaces that may use the registry.
    pub selected: i32,
    /// Selected namespaces that hold the credential.
    pub synced: i32,
    /// Selected namespaces that do not, and will not by waiting.
    pub failed: i32,
}
