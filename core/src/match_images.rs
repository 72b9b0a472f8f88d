//! Which images kubelet asks a credential provider plugin for: the patterns of its `matchImages`.
//!
//! Kubelet reads them once, when it starts, so they cover every registry that may come, rather than those there are. By
//! `URLsMatch` of its `pkg/credentialprovider/keyring.go` a pattern needs as many labels as the image's host and the same
//! port, and there is no wildcard for a port.

use std::collections::BTreeSet;

use crate::key::RegistryKey;

/// The most labels of a host that the patterns cover. The longest names of cloud registries have seven
/// (`<account>.dkr.ecr.<region>.amazonaws.com.cn`); one more is for those who put a name in front.
pub const MAX_LABELS: usize = 8;

/// The patterns for hosts of up to [`MAX_LABELS`] labels, without a port and with each of some ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MatchImages {
    ports: BTreeSet<u16>,
}

impl MatchImages {
    /// Patterns for hosts without a port, and with these.
    pub fn new(ports: impl IntoIterator<Item = u16>) -> Self {
        Self {
            ports: ports.into_iter().collect(),
        }
    }

    /// The patterns, always in the same order.
    pub fn patterns(&self) -> Vec<String> {
        let hosts: Vec<String> = (1..=MAX_LABELS)
            .map(|labels| vec!["*"; labels].join("."))
            .collect();
        let with_ports = self
            .ports
            .iter()
            .flat_map(|port| hosts.iter().map(move |host| format!("{host}:{port}")));
        hosts.iter().cloned().chain(with_ports).collect()
    }

    /// Whether kubelet asks for every image that the key is for.
    pub fn covers(&self, key: &RegistryKey) -> bool {
        // an address in brackets has no dots, and is one label to kubelet
        let (name, port) = match key.host().rsplit_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (key.host(), None),
        };
        let is_known = |port: &str| port.parse().is_ok_and(|port| self.ports.contains(&port));
        name.split('.').count() <= MAX_LABELS && port.is_none_or(is_known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Repository;
    use crate::matching::serves;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("registry", true)]
    #[case("registry.example.com/team", true)]
    #[case("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", true)]
    #[case("a.b.c.d.e.f.g.h", true)]
    #[case("a.b.c.d.e.f.g.h.i", false)]
    #[case("registry.example.com:5000", true)]
    #[case("registry.example.com:443", false)]
    #[case("[2001:db8::1]:5000", true)]
    #[case("[2001:db8::1]:5001", false)]
    #[case("https://index.docker.io/v1/", true)]
    fn covers_hosts_of_some_labels_and_ports(#[case] key: &str, #[case] covered: bool) {
        let key = RegistryKey::parse(key).unwrap();
        assert_eq!(MatchImages::new([5000]).covers(&key), covered);
    }

    proptest! {
        /// A key is covered if and only if its images are, by kubelet's own rule.
        #[test]
        fn a_key_is_covered_as_its_images_are(labels in prop::collection::vec("[a-z]{1,3}", 1..12), port in 0u16..3) {
            let port = if port == 0 { String::new() } else { format!(":500{port}") };
            let host = format!("{}{port}", labels.join("."));
            let image = Repository::parse(&format!("{host}/app")).unwrap();
            prop_assume!(image.host() == host);
            let match_images = MatchImages::new([5001]);
            let asked = match_images
                .patterns()
                .iter()
                .any(|pattern| serves(&RegistryKey::parse(pattern).unwrap(), &image));
            prop_assert_eq!(match_images.covers(&RegistryKey::parse(&host).unwrap()), asked);
        }
    }
}
