//! The key of a docker config entry: which images a credential is for.

use std::fmt;

use crate::image::DOCKER_HUB_DOMAIN;

/// Docker Hub's key as every tool writes it. Kubelet strips it to [`DOCKER_HUB_HOST`].
pub const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// What kubelet looks up when no other entry matches an image of Docker Hub (`defaultRegistryKey` in
/// kubelet's `pkg/credentialprovider/keyring.go`).
pub const DOCKER_HUB_HOST: &str = "index.docker.io";

/// Path prefixes that kubelet drops once from a key, since old tools wrote the version of the registry's API there.
const API_VERSIONS: [&str; 2] = ["/v1", "/v2"];

/// A key that kubelet reads the way it was meant: `host[:port][/path]`, where labels of the host may hold
/// `*`.
///
/// Two keys are equal when kubelet cannot tell them apart: the scheme, a leading `/v1/` or `/v2/` of the path and a
/// bare `/` are dropped, as `BasicDockerKeyring.Add` in kubelet's `pkg/credentialprovider/keyring.go` does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegistryKey {
    host: String,
    path: String,
}

/// Why a text is no key. The text itself is not repeated: a key comes out of a Secret, and people paste
/// credentials into the wrong field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing before the path.
    #[error("names no host: write host[:port][/path], for example registry.example.com/team")]
    NoHost,
    /// A character that kubelet's URL parser reads otherwise than a person does.
    #[error(
        "the host may hold letters, digits, '-', '_', '.' and '*' only, with an optional :port (an IPv6 address goes in brackets, with its port)"
    )]
    Host,
    /// A port that is not a number from 1 to 65535.
    #[error("the port is a number from 1 to 65535, without wildcards")]
    Port,
    /// A query, a fragment, an escape or a space.
    #[error("the path may not hold '?', '#', '%', '\\', spaces or control characters")]
    Path,
    /// A user in front of the host.
    #[error("a user name does not belong into the host: put it into the Secret")]
    User,
}

impl RegistryKey {
    /// Reads a key as it stands in a docker config, with or without a scheme.
    ///
    /// # Errors
    /// A text that kubelet would drop or read otherwise than it looks.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let schemeless = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"))
            .unwrap_or(text);
        let (host, path) = match schemeless.find('/') {
            Some(slash) => schemeless.split_at(slash),
            None => (schemeless, ""),
        };
        check_host(host)?;
        if path
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || matches!(c, '?' | '#' | '%' | '\\'))
        {
            return Err(KeyError::Path);
        }
        let path = without_api_version(path).unwrap_or(path);
        Ok(Self {
            host: host.to_owned(),
            path: if path == "/" {
                String::new()
            } else {
                path.to_owned()
            },
        })
    }

    /// The key for what an administrator writes as a registry's host, so that it serves the images whose reference
    /// starts with it.
    ///
    /// Kubelet reads `index.docker.io/acme/app` as `docker.io/acme/app`, and Docker Hub as a whole has one key that
    /// kubelet and the builders know. Other names of Docker Hub's servers are hosts like any other to kubelet.
    ///
    /// # Errors
    /// As [`RegistryKey::parse`].
    pub fn for_registry_host(host: &str) -> Result<Self, KeyError> {
        let Self { host, path } = Self::parse(host)?;
        let is_docker_hub = host == DOCKER_HUB_HOST || host == DOCKER_HUB_DOMAIN;
        let host = match (is_docker_hub, path.is_empty()) {
            (true, true) => DOCKER_HUB_HOST.to_owned(),
            (true, false) => DOCKER_HUB_DOMAIN.to_owned(),
            (false, _) => host,
        };
        Ok(Self { host, path })
    }

    /// Host and port, as kubelet compares them.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path prefix, empty or starting with `/`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether the host holds a wildcard. Builders such as buildah and kaniko look up exact hosts only.
    pub fn is_glob(&self) -> bool {
        self.host.contains('*')
    }

    /// Whether this is Docker Hub's own key, which kubelet falls back to.
    pub fn is_docker_hub(&self) -> bool {
        self.host == DOCKER_HUB_HOST && self.path.is_empty()
    }
}

/// The key as it is written into a docker config.
impl fmt::Display for RegistryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_docker_hub() {
            return f.write_str(DOCKER_HUB_KEY);
        }
        f.write_str(&self.host)?;
        if without_api_version(&self.path).is_some() {
            // or what is read back would be another path
            f.write_str(API_VERSIONS[0])?;
        }
        f.write_str(&self.path)
    }
}

/// What follows `/v1` or `/v2`, where that is a directory of the path.
fn without_api_version(path: &str) -> Option<&str> {
    API_VERSIONS
        .iter()
        .find_map(|version| path.strip_prefix(version))
        .filter(|rest| rest.starts_with('/'))
}

fn check_host(host: &str) -> Result<(), KeyError> {
    if host.is_empty() {
        return Err(KeyError::NoHost);
    }
    if host.contains('@') {
        return Err(KeyError::User);
    }
    let (name, port) = match host.strip_prefix('[') {
        Some(bracketed) => {
            let (address, port) = bracketed.split_once("]:").ok_or(KeyError::Host)?;
            address
                .parse::<std::net::Ipv6Addr>()
                .map_err(|_| KeyError::Host)?;
            ("", Some(port))
        }
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    if let Some(port) = port {
        let is_number = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        if !is_number || port.parse::<u16>().is_ok_and(|p| p == 0) || port.parse::<u16>().is_err() {
            return Err(KeyError::Port);
        }
    }
    let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'*');
    if !host.starts_with('[') && (name.is_empty() || !name.bytes().all(is_name)) {
        return Err(if name.is_empty() {
            KeyError::NoHost
        } else {
            KeyError::Host
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Repository;
    use crate::matching::serves;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("registry.example.com", "registry.example.com")]
    #[case("https://registry.example.com", "registry.example.com")]
    #[case("http://registry.example.com/", "registry.example.com")]
    #[case("registry.example.com/v2/", "registry.example.com")]
    #[case("registry.example.com/v2", "registry.example.com/v2")]
    #[case("registry.example.com/v1/team", "registry.example.com/team")]
    #[case("registry.example.com/v2/v1/team", "registry.example.com/v1/v1/team")]
    #[case("registry.example.com:5000/team/", "registry.example.com:5000/team/")]
    #[case("*.dkr.ecr.*.amazonaws.com", "*.dkr.ecr.*.amazonaws.com")]
    #[case("[2001:db8::1]:5000", "[2001:db8::1]:5000")]
    #[case("index.docker.io", DOCKER_HUB_KEY)]
    #[case(DOCKER_HUB_KEY, DOCKER_HUB_KEY)]
    fn reads_a_key_as_kubelet_does(#[case] text: &str, #[case] written: &str) {
        assert_eq!(RegistryKey::parse(text).unwrap().to_string(), written);
    }

    #[rstest]
    #[case("docker.io")]
    #[case("https://docker.io")]
    #[case("index.docker.io/v1/")]
    fn docker_hub_has_one_key(#[case] host: &str) {
        let key = RegistryKey::for_registry_host(host).unwrap();
        assert_eq!(key.to_string(), DOCKER_HUB_KEY);
        assert!(key.is_docker_hub());
    }

    #[rstest]
    #[case("index.docker.io/acme", "docker.io/acme")]
    #[case("docker.io/acme", "docker.io/acme")]
    #[case("registry-1.docker.io", "registry-1.docker.io")]
    fn a_host_is_for_the_images_that_start_with_it(#[case] host: &str, #[case] written: &str) {
        let key = RegistryKey::for_registry_host(host).unwrap();
        assert_eq!(key.to_string(), written);
        let image = Repository::parse(&format!("{host}/team/app")).unwrap();
        assert!(serves(&key, &image));
    }

    #[rstest]
    #[case("", KeyError::NoHost)]
    #[case("/team", KeyError::NoHost)]
    #[case("https://", KeyError::NoHost)]
    #[case(":5000", KeyError::NoHost)]
    #[case("ftp://registry.example.com", KeyError::Port)]
    #[case("robot@registry.example.com", KeyError::User)]
    #[case("registry.example.com:*", KeyError::Port)]
    #[case("registry.example.com:", KeyError::Port)]
    #[case("registry.example.com:70000", KeyError::Port)]
    #[case("registry.example.com:0", KeyError::Port)]
    #[case("regist?y.example.com", KeyError::Host)]
    #[case("registry[12].example.com", KeyError::Host)]
    #[case("[2001:db8::1]", KeyError::Host)]
    #[case("[registry]:5000", KeyError::Host)]
    #[case("registry.example.com/a b", KeyError::Path)]
    #[case("registry.example.com/a?b", KeyError::Path)]
    #[case("registry.example.com/%61", KeyError::Path)]
    fn refuses_what_kubelet_reads_otherwise(#[case] text: &str, #[case] error: KeyError) {
        assert_eq!(RegistryKey::parse(text), Err(error));
    }
    proptest! {
        /// What is written is read as the same key, so that a copy never covers more than its source.
        #[test]
        fn a_key_reads_itself(text in "(https?://)?([a-z*.]{1,9}|\\[::[0-9]\\])(:[1-9]{1,2})?(/(v1|v2|[a-z]{0,3})){0,4}/?") {
            if let Ok(key) = RegistryKey::parse(&text) {
                prop_assert_eq!(RegistryKey::parse(&key.to_string()), Ok(key));
            }
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            if let Ok(key) = RegistryKey::parse(&text) {
                prop_assert!(text.contains(key.host()) && text.contains(key.path()));
            }
        }
    }
}
