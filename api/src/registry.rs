//! `Registry`: one image registry, how to log in to it, and who may use it.

mod access;
mod auth;
mod connection;
mod status;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::access::{Access, ClusterAccess, NamespaceAccess, NodeAccess, PullSecretReference};
pub use self::auth::{
    Auth, AwsKeysAuth, AwsRoleAuth, AzureServicePrincipalAuth, AzureWorkloadIdentityAuth,
    BasicAuth, DockerConfigAuth, GcpServiceAccountKeyAuth, GcpWorkloadIdentityAuth, HandOut,
};
pub use self::connection::{Connection, Tls, TlsMode, Via, ViaMode};
pub use self::status::{CredentialStatus, NamespaceStatus, NodeStatus, RegistryStatus};

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
