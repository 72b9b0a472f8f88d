//! Which server answers for a key of a docker config, and for a repository below it.

use pullpass_core::image::DOCKER_HUB_DOMAIN;
use pullpass_core::key::{DOCKER_HUB_HOST, RegistryKey};
use pullpass_core::reason::Reason;
use url::Url;

use crate::failure::Failure;

/// Docker Hub's server, which its images' names do not mention (`distribution/reference` and every runtime).
const DOCKER_HUB_SERVER: &str = "registry-1.docker.io";

/// Where Docker Hub keeps images without an owner, such as `nginx`.
const DOCKER_HUB_LIBRARY: &str = "library";

/// What container runtimes ask for, most wanted first: an index or a manifest, of OCI or of Docker.
pub(crate) const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// A registry's server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    host: String,
    url: Url,
    is_docker_hub: bool,
}

impl Endpoint {
    /// The server that is asked for the images of `key`, over TLS.
    pub(crate) fn of(key: &RegistryKey) -> Result<Self, Failure> {
        let host = key.host();
        if key.is_glob() {
            return Err(Failure::new(
                Reason::HostIsPattern,
                format!("{host} is a pattern, and stands for no single host that could be asked"),
            ));
        }
        let is_docker_hub = matches!(host, DOCKER_HUB_HOST | DOCKER_HUB_DOMAIN);
        let host = if is_docker_hub {
            DOCKER_HUB_SERVER
        } else {
            host
        };
        Ok(Self {
            host: host.to_owned(),
            url: address("https", host)?,
            is_docker_hub,
        })
    }

    /// The same over plain HTTP, on the same port where the key names one.
    pub(crate) fn plain(&self) -> Result<Self, Failure> {
        Ok(Self {
            url: address("http", &self.host)?,
            ..self.clone()
        })
    }

    /// The server's address.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// Host and port, for messages.
    pub(crate) fn name(&self) -> &str {
        &self.host
    }

    /// Where the protocol begins: the distribution specification, "end-1".
    pub(crate) fn base(&self) -> Url {
        self.below("v2/")
    }

    /// A manifest of the repository: "end-3".
    pub(crate) fn manifest(&self, repository: &str) -> Url {
        self.below(&format!("v2/{}/manifests/latest", self.path(repository)))
    }

    /// One tag of the repository: "end-8b".
    pub(crate) fn tags(&self, repository: &str) -> Url {
        let mut url = self.below(&format!("v2/{}/tags/list", self.path(repository)));
        url.set_query(Some("n=1"));
        url
    }

    /// What a token is asked for, as in the distribution project's token scope documentation.
    pub(crate) fn scope(&self, repository: &str) -> String {
        format!("repository:{}:pull", self.path(repository))
    }

    fn below(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(path);
        url
    }

    /// The repository as the server knows it.
    fn path(&self, repository: &str) -> String {
        if self.is_docker_hub && !repository.contains('/') {
            format!("{DOCKER_HUB_LIBRARY}/{repository}")
        } else {
            repository.to_owned()
        }
    }
}

fn address(scheme: &str, host: &str) -> Result<Url, Failure> {
    Url::parse(&format!("{scheme}://{host}/")).map_err(|error| {
        Failure::new(
            Reason::HostMismatch,
            format!("{host} cannot be asked: {error}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn endpoint(key: &str) -> Endpoint {
        Endpoint::of(&RegistryKey::for_registry_host(key).unwrap()).unwrap()
    }

    #[rstest]
    #[case::docker_hub("docker.io", "https://registry-1.docker.io/v2/")]
    #[case::docker_hub_key("https://index.docker.io/v1/", "https://registry-1.docker.io/v2/")]
    #[case::docker_hub_owner("docker.io/acme", "https://registry-1.docker.io/v2/")]
    #[case::docker_hub_server("registry-1.docker.io", "https://registry-1.docker.io/v2/")]
    #[case::ghcr("ghcr.io/acme", "https://ghcr.io/v2/")]
    #[case::gitlab("registry.gitlab.com/acme/app", "https://registry.gitlab.com/v2/")]
    #[case::ecr_public("public.ecr.aws/a1b2c3d4", "https://public.ecr.aws/v2/")]
    #[case::artifact_registry(
        "europe-docker.pkg.dev/acme/images",
        "https://europe-docker.pkg.dev/v2/"
    )]
    #[case::port(
        "registry.example.com:5000/team",
        "https://registry.example.com:5000/v2/"
    )]
    #[case::ipv6("[2001:db8::1]:5000", "https://[2001:db8::1]:5000/v2/")]
    #[case::standard_port("registry.example.com:443", "https://registry.example.com/v2/")]
    #[case::look_alike(
        "index.docker.io.evil.example",
        "https://index.docker.io.evil.example/v2/"
    )]
    fn each_key_has_its_server(#[case] key: &str, #[case] base: &str) {
        assert_eq!(endpoint(key).base().as_str(), base);
    }

    #[test]
    fn a_pattern_has_no_server() {
        let key = RegistryKey::parse("*.dkr.ecr.eu-west-1.amazonaws.com").unwrap();
        assert_eq!(
            Endpoint::of(&key).unwrap_err().reason,
            Reason::HostIsPattern
        );
    }

    #[test]
    fn a_host_that_is_none_is_no_server() {
        // kubelet takes it, resolvers and certificates do not
        let key = RegistryKey::parse("1.2.3.4.5").unwrap();
        assert_eq!(Endpoint::of(&key).unwrap_err().reason, Reason::HostMismatch);
    }

    #[rstest]
    #[case("docker.io", "nginx", "library/nginx")]
    #[case("docker.io", "acme/app", "acme/app")]
    #[case("registry.example.com", "nginx", "nginx")]
    #[case("registry.example.com", "a/b/c", "a/b/c")]
    fn a_repository_is_asked_for_by_the_servers_name_for_it(
        #[case] key: &str,
        #[case] repository: &str,
        #[case] path: &str,
    ) {
        let endpoint = endpoint(key);
        let manifest = endpoint.manifest(repository);
        assert_eq!(manifest.path(), format!("/v2/{path}/manifests/latest"));
        assert_eq!(
            endpoint.tags(repository).path(),
            format!("/v2/{path}/tags/list")
        );
        assert_eq!(
            endpoint.scope(repository),
            format!("repository:{path}:pull")
        );
    }

    #[test]
    fn plain_http_is_asked_on_the_same_port() {
        let plain = |key| endpoint(key).plain().unwrap().base().to_string();
        assert_eq!(plain("r.example.com"), "http://r.example.com/v2/");
        assert_eq!(plain("r.example.com:443"), "http://r.example.com:443/v2/");
        assert_eq!(plain("r.example.com:5000"), "http://r.example.com:5000/v2/");
        assert_eq!(endpoint("r.example.com:5000").name(), "r.example.com:5000");
    }
}
