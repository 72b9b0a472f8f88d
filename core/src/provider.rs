//! Which kind of registry a host belongs to, which kinds of credential fit it, and which hosts serve public images to
//! everybody.

use std::fmt;

use crate::ecr_host::{EcrHost, EcrHostError};
use crate::key::RegistryKey;

/// The kinds of registry. Each is displayed as the resource writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Provider {
    /// Docker Hub.
    DockerHub,
    /// Amazon Elastic Container Registry.
    Ecr,
    /// Amazon ECR Public.
    EcrPublic,
    /// Azure Container Registry.
    Acr,
    /// Google Artifact Registry.
    ArtifactRegistry,
    /// Google Container Registry, by now a name of Artifact Registry.
    Gcr,
    /// GitHub Container Registry.
    Ghcr,
    /// GitLab Container Registry.
    GitLab,
    /// Quay.
    Quay,
    /// Harbor.
    Harbor,
    /// Any other registry that speaks the OCI distribution protocol.
    Other,
}

impl Provider {
    /// Every kind there is.
    pub const ALL: [Self; 11] = [
        Self::DockerHub,
        Self::Ecr,
        Self::EcrPublic,
        Self::Acr,
        Self::ArtifactRegistry,
        Self::Gcr,
        Self::Ghcr,
        Self::GitLab,
        Self::Quay,
        Self::Harbor,
        Self::Other,
    ];

    /// The name, as the resource writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DockerHub => "DockerHub",
            Self::Ecr => "ECR",
            Self::EcrPublic => "ECRPublic",
            Self::Acr => "ACR",
            Self::ArtifactRegistry => "ArtifactRegistry",
            Self::Gcr => "GCR",
            Self::Ghcr => "GHCR",
            Self::GitLab => "GitLab",
            Self::Quay => "Quay",
            Self::Harbor => "Harbor",
            Self::Other => "Other",
        }
    }

    /// What its hosts look like, where the provider alone runs them; `None` for what anybody can run under any name.
    fn hosts(self) -> Option<&'static str> {
        match self {
            Self::DockerHub => Some("docker.io"),
            Self::Ecr => Some("<account>.dkr.ecr.<region>.amazonaws.com"),
            Self::EcrPublic => Some("public.ecr.aws"),
            Self::Acr => Some("<name>.azurecr.io"),
            Self::ArtifactRegistry => Some("<location>-docker.pkg.dev"),
            Self::Gcr => Some("gcr.io"),
            Self::Ghcr | Self::GitLab | Self::Quay | Self::Harbor | Self::Other => None,
        }
    }

    /// Whose host it is; `Other` where the name does not tell, as for every registry that one runs oneself.
    ///
    /// Wildcards stand for what they are compared with: `*.dkr.ecr.eu-west-1.amazonaws.com` is ECR's.
    pub fn of_host(host: &str) -> Self {
        // a port other than https's own is nothing that the providers offer
        let host = host.strip_suffix(":443").unwrap_or(host);
        let host = host.to_ascii_lowercase();
        match EcrHost::parse(&host) {
            Ok(EcrHost::Public { .. }) => return Self::EcrPublic,
            // of which region is a matter of the login
            Ok(EcrHost::Private { .. }) | Err(EcrHostError::RegionWildcard) => return Self::Ecr,
            Err(EcrHostError::NotEcr) => {}
        }
        let labels: Vec<&str> = host.split('.').collect();
        match labels.as_slice() {
            ["docker", "io"] | [.., "docker", "io"] => Self::DockerHub,
            [_, .., "azurecr", "io" | "cn" | "us"] => Self::Acr,
            [location, "pkg", "dev"] if is_docker_location(location) => Self::ArtifactRegistry,
            // regional endpoints: docker.<location>.rep.pkg.dev
            ["docker", _, "rep", "pkg", "dev"] => Self::ArtifactRegistry,
            ["gcr", "io"] | [_, "gcr", "io"] => Self::Gcr,
            ["ghcr", "io"] | ["containers", _, "ghe", "com"] => Self::Ghcr,
            ["registry", "gitlab", "com"] => Self::GitLab,
            ["quay", "io"] => Self::Quay,
            _ => Self::Other,
        }
    }

    /// Whether a credential of this kind can be used with it.
    pub fn takes(self, auth: AuthKind) -> bool {
        match auth {
            AuthKind::Basic | AuthKind::DockerConfig => true,
            AuthKind::AwsKeys | AuthKind::AwsRole => matches!(self, Self::Ecr | Self::EcrPublic),
            AuthKind::GcpServiceAccountKey | AuthKind::GcpWorkloadIdentity => {
                matches!(self, Self::ArtifactRegistry | Self::Gcr)
            }
            AuthKind::AzureServicePrincipal | AuthKind::AzureWorkloadIdentity => self == Self::Acr,
        }
    }
}

/// `europe-docker`, or a wildcard for it.
fn is_docker_location(label: &str) -> bool {
    label.ends_with("-docker") || label.contains('*')
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether one host serves all customers of its provider, so that public images of others come from it too. Kubelet
/// pulls none of them anonymously while it has any credential for the host, not even a stale one.
pub fn serves_public_images(key: &RegistryKey) -> bool {
    match Provider::of_host(key.host()) {
        Provider::DockerHub
        | Provider::EcrPublic
        | Provider::ArtifactRegistry
        | Provider::Gcr
        | Provider::Ghcr
        | Provider::GitLab
        | Provider::Quay => true,
        Provider::Ecr | Provider::Acr | Provider::Harbor | Provider::Other => false,
    }
}

/// How a registry is logged in to, by the field of `spec.auth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuthKind {
    /// A user name and a password or token.
    Basic,
    /// A docker config.
    DockerConfig,
    /// An AWS access key.
    AwsKeys,
    /// An AWS role.
    AwsRole,
    /// A Google service account's key.
    GcpServiceAccountKey,
    /// A Google identity without a key.
    GcpWorkloadIdentity,
    /// An Azure service principal's secret.
    AzureServicePrincipal,
    /// An Azure identity without a secret.
    AzureWorkloadIdentity,
}

impl AuthKind {
    /// The field's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::DockerConfig => "dockerConfig",
            Self::AwsKeys => "awsKeys",
            Self::AwsRole => "awsRole",
            Self::GcpServiceAccountKey => "gcpServiceAccountKey",
            Self::GcpWorkloadIdentity => "gcpWorkloadIdentity",
            Self::AzureServicePrincipal => "azureServicePrincipal",
            Self::AzureWorkloadIdentity => "azureWorkloadIdentity",
        }
    }

    fn fits(self) -> String {
        let fitting: Vec<&str> = Provider::ALL
            .iter()
            .filter(|provider| provider.takes(self))
            .map(|provider| provider.as_str())
            .collect();
        fitting.join(" and ")
    }
}

/// Why a provider, a host and a kind of credential do not go together. The message says which would.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The host belongs to another provider.
    #[error(
        "spec.provider is {given}, but the host is one of {of}: write {of}, or leave spec.provider out"
    )]
    OtherProvider {
        /// What the resource says.
        given: Provider,
        /// Whose host it is.
        of: Provider,
    },
    /// The host does not look like any of the provider's.
    #[error(
        "spec.provider is {given}, whose hosts are like {hosts}: correct spec.host, or write the provider that it is of (Other, where none fits)"
    )]
    OtherHost {
        /// What the resource says.
        given: Provider,
        /// What its hosts look like.
        hosts: &'static str,
    },
    /// The kind of credential is another provider's.
    #[error(
        "spec.auth.{} is for {}, and the registry is {provider}: correct spec.host, or log in by spec.auth.basic or spec.auth.dockerConfig",
        auth.as_str(), auth.fits()
    )]
    Auth {
        /// What the resource says.
        auth: AuthKind,
        /// What the registry is.
        provider: Provider,
    },
}

/// The kind of a registry: what the resource says, where that is possible, or else what the host tells.
///
/// # Errors
/// What does not go together.
pub fn provider(
    key: Option<&RegistryKey>,
    given: Option<Provider>,
    auth: Option<AuthKind>,
) -> Result<Provider, Mismatch> {
    let told = key.map_or(Provider::Other, |key| Provider::of_host(key.host()));
    let provider = match given {
        None => told,
        Some(given) => {
            // Artifact Registry serves Container Registry's hosts
            let is_alias = (given, told) == (Provider::ArtifactRegistry, Provider::Gcr);
            if told != Provider::Other && told != given && !is_alias {
                return Err(Mismatch::OtherProvider { given, of: told });
            }
            if let (Provider::Other, Some(hosts), Some(_)) = (told, given.hosts(), key) {
                return Err(Mismatch::OtherHost { given, hosts });
            }
            given
        }
    };
    match auth {
        Some(auth) if !provider.takes(auth) => Err(Mismatch::Auth { auth, provider }),
        Some(_) | None => Ok(provider),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn key(host: &str) -> RegistryKey {
        RegistryKey::for_registry_host(host).unwrap()
    }

    #[rstest]
    #[case("docker.io", Provider::DockerHub)]
    #[case("index.docker.io", Provider::DockerHub)]
    #[case("registry-1.docker.io", Provider::DockerHub)]
    #[case("docker.io.evil.example", Provider::Other)]
    #[case("notdocker.io", Provider::Other)]
    #[case("123456789012.dkr.ecr.eu-west-1.amazonaws.com", Provider::Ecr)]
    #[case("123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com", Provider::Ecr)]
    #[case("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", Provider::Ecr)]
    #[case("123456789012.dkr.ecr.us-iso-east-1.c2s.ic.gov", Provider::Ecr)]
    #[case("123456789012.dkr-ecr.eu-west-1.on.aws", Provider::Ecr)]
    #[case("123456789012.dkr-ecr-fips.us-east-1.on.aws", Provider::Ecr)]
    #[case("vpce-0123-abcd.dkr.ecr.eu-west-1.vpce.amazonaws.com", Provider::Ecr)]
    #[case("*.dkr.ecr.eu-west-1.amazonaws.com", Provider::Ecr)]
    #[case("*.dkr.ecr.*.amazonaws.com", Provider::Ecr)]
    #[case(
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example",
        Provider::Other
    )]
    #[case("123456789012.dkr.ecr.eu-west-1.evil.example", Provider::Other)]
    #[case("123456789012.dkr.ecr.*.evil.example", Provider::Other)]
    #[case("*.dkr.ecr.*", Provider::Other)]
    #[case("public.ecr.aws.evil.example", Provider::Other)]
    #[case("public.ecr.aws", Provider::EcrPublic)]
    #[case("acme.azurecr.io", Provider::Acr)]
    #[case("acme.eastus.data.azurecr.io", Provider::Acr)]
    #[case("acme.azurecr.cn", Provider::Acr)]
    #[case("azurecr.io", Provider::Other)]
    #[case("europe-docker.pkg.dev", Provider::ArtifactRegistry)]
    #[case("europe-west1-docker.pkg.dev", Provider::ArtifactRegistry)]
    #[case("docker.europe-west1.rep.pkg.dev", Provider::ArtifactRegistry)]
    #[case("europe-npm.pkg.dev", Provider::Other)]
    #[case("gcr.io", Provider::Gcr)]
    #[case("eu.gcr.io", Provider::Gcr)]
    #[case("ghcr.io", Provider::Ghcr)]
    #[case("GHCR.io:443", Provider::Ghcr)]
    #[case("containers.acme.ghe.com", Provider::Ghcr)]
    #[case("registry.gitlab.com", Provider::GitLab)]
    #[case("quay.io", Provider::Quay)]
    #[case("harbor.example.com:8443", Provider::Other)]
    #[case("[2001:db8::1]:5000", Provider::Other)]
    fn a_host_tells_its_provider(#[case] host: &str, #[case] expected: Provider) {
        assert_eq!(Provider::of_host(key(host).host()), expected);
    }

    #[rstest]
    #[case("ghcr.io", None, AuthKind::Basic, Ok(Provider::Ghcr))]
    #[case(
        "eu.gcr.io",
        Some(Provider::ArtifactRegistry),
        AuthKind::GcpWorkloadIdentity,
        Ok(Provider::ArtifactRegistry)
    )]
    #[case(
        "gitlab.example.com:5050",
        Some(Provider::GitLab),
        AuthKind::Basic,
        Ok(Provider::GitLab)
    )]
    #[case(
        "acme.azurecr.io",
        Some(Provider::Ecr),
        AuthKind::Basic,
        Err("the host is one of ACR: write ACR")
    )]
    #[case(
        "acme.azurecr.io",
        Some(Provider::Other),
        AuthKind::Basic,
        Err("write ACR, or leave spec.provider out")
    )]
    #[case(
        "registry.example.com",
        Some(Provider::Ecr),
        AuthKind::AwsKeys,
        Err("like <account>.dkr.ecr")
    )]
    #[case(
        "registry.example.com",
        None,
        AuthKind::AwsKeys,
        Err("spec.auth.awsKeys is for ECR and ECRPublic, and the registry is Other")
    )]
    #[case(
        "ghcr.io",
        None,
        AuthKind::AzureWorkloadIdentity,
        Err("is for ACR, and the registry is GHCR")
    )]
    fn what_does_not_fit_is_told_with_what_does(
        #[case] host: &str,
        #[case] given: Option<Provider>,
        #[case] auth: AuthKind,
        #[case] expected: Result<Provider, &str>,
    ) {
        let found = provider(Some(&key(host)), given, Some(auth));
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(found), Err(expected)) => {
                assert!(found.to_string().contains(expected), "{found}");
            }
            (found, expected) => panic!("{found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn without_a_host_the_resource_decides() {
        let anything = provider(None, None, Some(AuthKind::DockerConfig));
        assert_eq!(anything, Ok(Provider::Other));
        let harbor = provider(None, Some(Provider::Harbor), Some(AuthKind::DockerConfig));
        assert_eq!(harbor, Ok(Provider::Harbor));
    }

    #[rstest]
    #[case("docker.io", true)]
    #[case("ghcr.io/acme", true)]
    #[case("public.ecr.aws", true)]
    #[case("quay.example.com", false)]
    #[case("123456789012.dkr.ecr.eu-west-1.amazonaws.com", false)]
    fn hosts_of_all_customers_serve_public_images(#[case] host: &str, #[case] expected: bool) {
        assert_eq!(serves_public_images(&key(host)), expected);
    }

    proptest! {
        #[test]
        fn no_host_panics_and_none_contradicts_itself(host in "[a-zA-Z0-9.*-]{1,30}(:[0-9]{1,4})?") {
            let told = Provider::of_host(&host);
            if let Ok(key) = RegistryKey::parse(&host) {
                prop_assert_eq!(provider(Some(&key), None, None), Ok(told));
                if told != Provider::Other {
                    prop_assert_eq!(provider(Some(&key), Some(told), None), Ok(told));
                }
            }
        }
    }
}
