//! Image references, as far as kubelet needs them to find a credential.
//!
//! Kubelet reads a reference with `ParseNormalizedNamed` of the Go package `github.com/distribution/reference` (through
//! `ParseImageName` in its `pkg/util/parsers`). The grammar is that package's, small enough to be read from left to
//! right without regular expressions, in one pass.
//!
//! The crate `oci-spec` has a parser for references too, but it answers otherwise than kubelet for some of them: it
//! refuses IPv6 hosts, takes a first component in upper case for a path on Docker Hub, and accepts digests in upper case,
//! which kubelet refuses. Each of these would be a pod whose credential is looked up under another name than kubelet's.
//! A test compares all three, and says so when the crate has caught up.

use std::fmt;

/// Docker Hub as kubelet names it in a repository.
pub const DOCKER_HUB_DOMAIN: &str = "docker.io";

/// The older name of Docker Hub, which kubelet replaces by [`DOCKER_HUB_DOMAIN`].
const LEGACY_DOCKER_HUB_DOMAIN: &str = "index.docker.io";

/// Where Docker Hub keeps images that are named by a single word.
const OFFICIAL_PREFIX: &str = "library/";

/// The most bytes of a repository's path (`RepositoryNameTotalLengthMax` in `distribution/reference`).
const MAX_PATH_BYTES: usize = 255;

/// The most bytes of a tag.
const MAX_TAG_BYTES: usize = 128;

/// How many hexadecimal digits an image's identifier has. A reference of that form is refused.
const IDENTIFIER_DIGITS: usize = 64;

/// Digest algorithms that kubelet knows, with their length in hexadecimal digits (`go-digest`'s `algorithm.go`).
const DIGEST_ALGORITHMS: [(&str, usize); 3] = [("sha256", 64), ("sha384", 96), ("sha512", 128)];

/// Where an image is, without tag and digest: what kubelet looks up in its credentials.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    host: String,
    path: String,
}

/// Why kubelet cannot read an image reference, so that no credential is looked up and nothing is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The whole text looks like an identifier.
    #[error("64 hexadecimal digits are taken for the identifier of an image: write its repository")]
    Identifier,
    /// Letters in upper case after the host.
    #[error("the repository must be in lower case")]
    UpperCase,
    /// A host, path or separator out of place.
    #[error("not an image reference: write [host[:port]/]path[:tag][@digest]")]
    Format,
    /// A path beyond the bound.
    #[error("the repository has more than 255 characters")]
    TooLong,
    /// A tag beyond the bound or with other characters.
    #[error(
        "a tag has 1 to 128 letters, digits, '_', '.' and '-', and starts with neither '.' nor '-'"
    )]
    Tag,
    /// Another algorithm, or digits of the wrong number or case.
    #[error(
        "a digest is sha256:, sha384: or sha512: with 64, 96 or 128 hexadecimal digits in lower case"
    )]
    Digest,
}

impl Repository {
    /// Reads the image of a container or of an image volume.
    ///
    /// # Errors
    /// A reference that kubelet refuses (`InvalidImageName`).
    pub fn parse(image: &str) -> Result<Self, ReferenceError> {
        if image.len() == IDENTIFIER_DIGITS && is_lower_hex(image) {
            return Err(ReferenceError::Identifier);
        }
        let (domain, remainder) = split_domain(image);
        let is_official = domain == DOCKER_HUB_DOMAIN && !remainder.contains('/');
        let prefix = if is_official { OFFICIAL_PREFIX } else { "" };
        let (name, digest) = split_optional(remainder, '@');
        let (name, tag) = split_optional(name, ':');
        if name.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ReferenceError::UpperCase);
        }
        if !is_path(name) {
            return Err(ReferenceError::Format);
        }
        let path_length = prefix.len() + name.len();
        let measured = if is_domain(domain) {
            path_length
        } else if is_path_component(domain) {
            // a first component such as a__b.c is no host for the grammar, and counts as path
            domain.len() + 1 + path_length
        } else {
            return Err(ReferenceError::Format);
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag);
        }
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(ReferenceError::Digest);
        }
        if measured > MAX_PATH_BYTES {
            return Err(ReferenceError::TooLong);
        }
        Ok(Self {
            host: domain.to_owned(),
            path: format!("/{prefix}{name}"),
        })
    }

    /// Host and port, as kubelet compares them; `docker.io` where the reference names none.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path, starting with `/`.
    pub fn path(&self) -> &str {
        &self.path
    }
}

/// The repository as kubelet writes it, such as `docker.io/library/nginx`.
impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.host, self.path)
    }
}

/// The domain and what follows it (`splitDockerDomain` in `distribution/reference`'s `normalize.go`): a first
/// component is a host if it has a dot, a colon or an upper-case letter, or is `localhost`.
fn split_domain(image: &str) -> (&str, &str) {
    let Some((first, rest)) = image.split_once('/') else {
        return (DOCKER_HUB_DOMAIN, image);
    };
    if first == LEGACY_DOCKER_HUB_DOMAIN {
        return (DOCKER_HUB_DOMAIN, rest);
    }
    let is_host = first == "localhost"
        || first
            .bytes()
            .any(|b| matches!(b, b'.' | b':') || b.is_ascii_uppercase());
    if is_host {
        (first, rest)
    } else {
        (DOCKER_HUB_DOMAIN, image)
    }
}

fn split_optional(text: &str, separator: char) -> (&str, Option<&str>) {
    match text.split_once(separator) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

/// `domain := (domain-name | "[" IPv6 "]") [":" port]`
fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(bracketed) => match bracketed.split_once(']') {
            Some((address, "")) => (address, None),
            Some((address, rest)) => match rest.strip_prefix(':') {
                Some(port) => (address, Some(port)),
                None => return false,
            },
            None => return false,
        },
        None => split_optional(domain, ':'),
    };
    let is_host = if domain.starts_with('[') {
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_hexdigit() || b == b':')
    } else {
        host.split('.').all(is_domain_component)
    };
    is_host && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

fn is_domain_component(component: &str) -> bool {
    !component.is_empty()
        && !component.starts_with('-')
        && !component.ends_with('-')
        && component
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn is_path(path: &str) -> bool {
    path.split('/').all(is_path_component)
}

/// Lower-case letters and digits, with `.`, `_`, `__` or any number of `-` between them.
fn is_path_component(component: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut words = component.split(|c: char| c.is_ascii() && is_word(c as u8));
    // what lies between two characters of words is empty inside a word, or a separator
    words.next() == Some("")
        && words.next_back() == Some("")
        && words.all(|between| {
            matches!(between, "." | "_" | "__") || between.bytes().all(|b| b == b'-')
        })
}

fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= MAX_TAG_BYTES
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'-'))
}

fn is_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, digits)| {
        DIGEST_ALGORITHMS.contains(&(algorithm, digits.len())) && is_lower_hex(digits)
    })
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("nginx", "docker.io/library/nginx")]
    #[case("nginx:1.27", "docker.io/library/nginx")]
    #[case("acme/app", "docker.io/acme/app")]
    #[case("docker.io/nginx", "docker.io/library/nginx")]
    #[case("index.docker.io/acme/app", "docker.io/acme/app")]
    #[case("registry-1.docker.io/acme/app", "registry-1.docker.io/acme/app")]
    #[case("registry.example.com/app", "registry.example.com/app")]
    #[case(
        "registry.example.com:5000/a/b/c:v1",
        "registry.example.com:5000/a/b/c"
    )]
    #[case("registry:5000/app", "registry:5000/app")]
    #[case("localhost/app", "localhost/app")]
    #[case("Registry/app", "Registry/app")]
    #[case("[2001:db8::1]:5000/app", "[2001:db8::1]:5000/app")]
    #[case("[2001:db8::1]/app", "[2001:db8::1]/app")]
    #[case("a__b.c/app", "a__b.c/app")]
    #[case("registry:5000", "docker.io/library/registry")]
    fn names_the_repository(#[case] image: &str, #[case] repository: &str) {
        assert_eq!(Repository::parse(image).unwrap().to_string(), repository);
    }

    #[rstest]
    #[case("", ReferenceError::Format)]
    #[case("/app", ReferenceError::Format)]
    #[case("registry.example.com/", ReferenceError::Format)]
    #[case("registry.example.com//app", ReferenceError::Format)]
    #[case("https://registry.example.com/app", ReferenceError::Format)]
    #[case("registry.example.com:/app", ReferenceError::Format)]
    #[case("registry-.example.com/app", ReferenceError::Format)]
    #[case("[::1]5000/app", ReferenceError::Format)]
    #[case("[]/app", ReferenceError::Format)]
    #[case(" nginx", ReferenceError::Format)]
    #[case("café", ReferenceError::Format)]
    #[case("a.-b", ReferenceError::Format)]
    #[case("a___b", ReferenceError::Format)]
    #[case("-a", ReferenceError::Format)]
    #[case("a-", ReferenceError::Format)]
    #[case("Nginx", ReferenceError::UpperCase)]
    #[case("registry.example.com/App", ReferenceError::UpperCase)]
    #[case("nginx:", ReferenceError::Tag)]
    #[case("nginx:.a", ReferenceError::Tag)]
    #[case("nginx@sha256:0123", ReferenceError::Digest)]
    fn refuses_what_kubelet_refuses(#[case] image: &str, #[case] error: ReferenceError) {
        assert_eq!(Repository::parse(image), Err(error));
    }

    #[test]
    fn lengths_are_bounded() {
        let hex = |n: usize| "a".repeat(n);
        assert_eq!(Repository::parse(&hex(64)), Err(ReferenceError::Identifier));
        assert!(Repository::parse(&hex(63)).is_ok());
        assert!(Repository::parse(&hex(255 - OFFICIAL_PREFIX.len())).is_ok());
        assert_eq!(
            Repository::parse(&hex(256 - OFFICIAL_PREFIX.len())),
            Err(ReferenceError::TooLong)
        );
        assert!(Repository::parse(&format!("r.io/{}", hex(255))).is_ok());
        assert!(Repository::parse(&format!("nginx:{}", hex(128))).is_ok());
        assert_eq!(
            Repository::parse(&format!("nginx:{}", hex(129))),
            Err(ReferenceError::Tag)
        );
        assert!(Repository::parse(&format!("nginx:1@sha256:{}", hex(64))).is_ok());
        assert_eq!(
            Repository::parse(&format!("nginx@sha512:{}", hex(64))),
            Err(ReferenceError::Digest)
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(image in any::<String>()) {
            if let Ok(repository) = Repository::parse(&image) {
                prop_assert!(repository.path().starts_with('/') && !repository.host().contains('/'));
            }
        }

        /// Reading a repository's own text gives the same repository.
        #[test]
        fn a_repository_names_itself(image in "([a-zA-Z.-]{0,8}(:[0-9]{1,3})?/)?[a-z0-9/._-]{1,12}(:[a-z0-9.]{1,3})?") {
            if let Ok(repository) = Repository::parse(&image) {
                prop_assert_eq!(Repository::parse(&repository.to_string()), Ok(repository));
            }
        }
    }
}
