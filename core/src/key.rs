//! The key of a docker config entry: which images a credential is for.

use std::fmt;

/// Docker Hub's key as every tool writes it. Kubelet strips it to [`DOCKER_HUB_HOST`].
pub const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// What kubelet looks up when no other entry matches an image of Docker Hub (`defaultRegistryKey` in
/// kubelet's `pkg/credentialprovider/keyring.go`).
pub const DOCKER_HUB_HOST: &str = "index.docker.io";

/// The names under which people know Docker Hub.
const DOCKER_HUB_ALIASES: [&str; 4] = [
    "docker.io",
    DOCKER_HUB_HOST,
    "registry-1.docker.io",
    "registry.hub.docker.com",
];

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
        let path = match path.strip_prefix("/v1").or(path.strip_prefix("/v2")) {
            Some(rest) if rest.starts_with('/') => rest,
            _ => path,
        };
        Ok(Self {
            host: host.to_owned(),
            path: if path == "/" {
                String::new()
            } else {
                path.to_owned()
            },
        })
    }

    /// The key for what an administrator writes as a registry's host. The aliases of Docker Hub become the one
    /// key that kubelet and the builders know.
    ///
    /// # Errors
    /// As [`RegistryKey::parse`].
    pub fn for_registry_host(host: &str) -> Result<Self, KeyError> {
        let key = Self::parse(host)?;
        if key.path.is_empty() && DOCKER_HUB_ALIASES.contains(&key.host.as_str()) {
            return Self::parse(DOCKER_HUB_KEY);
        }
        Ok(key)
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
        write!(f, "{}{}", self.host, self.path)
    }
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
    use rstest::rstest;

    #[rstest]
    #[case("registry.example.com", "registry.example.com")]
    #[case("https://registry.example.com", "registry.example.com")]
    #[case("http://registry.example.com/", "registry.example.com")]
    #[case("registry.example.com/v2/", "registry.example.com")]
    #[case("registry.example.com/v2", "registry.example.com/v2")]
    #[case("registry.example.com/v1/team", "registry.example.com/team")]
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
    #[case("registry-1.docker.io")]
    fn docker_hub_has_one_key(#[case] host: &str) {
        let key = RegistryKey::for_registry_host(host).unwrap();
        assert_eq!(key.to_string(), DOCKER_HUB_KEY);
        assert!(key.is_docker_hub());
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
}
