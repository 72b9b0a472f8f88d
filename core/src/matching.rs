//! Which entries of a docker config serve which image, and in which order kubelet tries them.
//!
//! The rules are those of `BasicDockerKeyring` in kubelet's `pkg/credentialprovider/keyring.go`; a test asks that code
//! the same questions. They reach further than one might guess:
//! - labels of the host are compared one by one, so `*.example.com` is not for `a.b.example.com`;
//! - the path is a prefix of the text, so `registry.example.com/team` is for `/team-evil/app` too;
//! - Docker Hub's own key is used only where no other key matches, but then also for images of `localhost` and of hosts
//!   with neither dot nor port, since kubelet takes these for images of Docker Hub here.

use std::net::Ipv6Addr;

use crate::glob;
use crate::image::{DOCKER_HUB_DOMAIN, Repository};
use crate::key::RegistryKey;

/// The keys that kubelet tries for an image, in its order: the key that sorts last comes first, so that of one host's
/// keys the longest path is tried first.
///
/// Equal keys stay in the order in which they are given.
pub fn keys_for<'a>(
    image: &Repository,
    keys: impl IntoIterator<Item = &'a RegistryKey>,
) -> Vec<&'a RegistryKey> {
    let (mut matching, mut fallback) = (Vec::new(), Vec::new());
    for key in keys {
        if matches(key, image) {
            matching.push(key);
        } else if key.is_docker_hub() {
            fallback.push(key);
        }
    }
    if !matching.is_empty() {
        matching.sort_by(|a, b| text(b).cmp(text(a)));
        return matching;
    }
    if falls_back_to_docker_hub(image) {
        return fallback;
    }
    matching
}

/// Whether there is a docker config in which kubelet would use this key for the image.
///
/// For Docker Hub's own key that is so for every image that kubelet falls back to it for, whichever other keys stand
/// beside it.
pub fn serves(key: &RegistryKey, image: &Repository) -> bool {
    matches(key, image) || (key.is_docker_hub() && falls_back_to_docker_hub(image))
}

/// `URLsMatch` in kubelet's `keyring.go`.
fn matches(key: &RegistryKey, image: &Repository) -> bool {
    if !image.path().starts_with(key.path()) || !is_url_host(image.host()) {
        return false;
    }
    let (key_name, key_port) = split_port(key.host());
    let (image_name, image_port) = split_port(image.host());
    key_port == image_port
        && key_name.split('.').count() == image_name.split('.').count()
        && key_name
            .split('.')
            .zip(image_name.split('.'))
            .all(|(pattern, label)| glob::covers(pattern, label))
}

/// `isDefaultRegistryMatch` in kubelet's `keyring.go`.
fn falls_back_to_docker_hub(image: &Repository) -> bool {
    image.host() == DOCKER_HUB_DOMAIN || !image.host().contains(['.', ':'])
}

/// An image may name any digits and colons in brackets; kubelet finds a credential only for an address.
fn is_url_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address.parse::<Ipv6Addr>().is_ok(),
        None => true,
    }
}

/// Name and port, empty where there is none. As Go's `net.SplitHostPort` has it, an address loses its brackets only
/// where a port follows, so that no key but a wildcard can name one without a port.
fn split_port(host: &str) -> (&str, &str) {
    match host.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once("]:"),
        None => host.split_once(':'),
    }
    .unwrap_or((host, ""))
}

/// The key as kubelet sorts it: bytes of host and path together.
fn text(key: &RegistryKey) -> impl Iterator<Item = u8> {
    key.host().bytes().chain(key.path().bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn keys(of: &[&str]) -> Vec<RegistryKey> {
        of.iter().map(|k| RegistryKey::parse(k).unwrap()).collect()
    }

    #[rstest]
    #[case("r.example.com/app", &["r.example.com"], &["r.example.com"])]
    #[case("r.example.com/team/app", &["r.example.com", "r.example.com/team", "r.example.com/other"], &["r.example.com/team", "r.example.com"])]
    #[case("r.example.com/team-evil/app", &["r.example.com/team"], &["r.example.com/team"])]
    #[case("r.example.com/team-evil/app", &["r.example.com/team/"], &[])]
    #[case("r.example.com:5000/app", &["r.example.com", "r.example.com:5001"], &[])]
    #[case("r.example.com:5000/app", &["*.example.com:5000"], &["*.example.com:5000"])]
    #[case("r.example.com/app", &["*.example.com", "r.example.com"], &["r.example.com", "*.example.com"])]
    #[case("a.r.example.com/app", &["*.example.com"], &[])]
    #[case("R.example.com/app", &["r.example.com"], &[])]
    #[case("nginx", &["https://index.docker.io/v1/"], &["https://index.docker.io/v1/"])]
    #[case("nginx", &["https://index.docker.io/v1/", "docker.io"], &["docker.io"])]
    #[case("nginx", &["https://index.docker.io/v1/", "*.io"], &["*.io"])]
    #[case("localhost/app", &["https://index.docker.io/v1/"], &["https://index.docker.io/v1/"])]
    #[case("localhost:5000/app", &["https://index.docker.io/v1/"], &[])]
    #[case("[::1]:5000/app", &["[::1]:5000", "*:5000"], &["[::1]:5000", "*:5000"])]
    #[case("[::1]/app", &["*"], &["*"])]
    #[case("[::1::1]/app", &["*"], &[])]
    fn finds_keys_in_the_order_of_kubelet(
        #[case] image: &str,
        #[case] given: &[&str],
        #[case] expected: &[&str],
    ) {
        let image = Repository::parse(image).unwrap();
        let (given, expected) = (keys(given), keys(expected));
        let found = keys_for(&image, &given);
        assert_eq!(found, expected.iter().collect::<Vec<_>>());
    }

    fn any_key() -> impl Strategy<Value = RegistryKey> {
        prop_oneof![
            Just("https://index.docker.io/v1/".to_owned()),
            "(docker|[ab*]{1,2})(\\.(io|[ab*])){0,2}(:5)?(/[ab]{1,2}){0,2}",
        ]
        .prop_map(|text| RegistryKey::parse(&text).unwrap())
    }

    fn any_image() -> impl Strategy<Value = Repository> {
        "((docker|[ab]{1,2})(\\.(io|[ab])){1,2}(:5)?/)?[ab]{1,2}(/[ab]{1,2}){0,2}"
            .prop_map(|text| Repository::parse(&text).unwrap())
    }

    proptest! {
        /// What is found serves the image, and what serves it is found where nothing else is in its way.
        #[test]
        fn a_key_serves_what_it_is_found_for(image in any_image(), keys in prop::collection::vec(any_key(), 0..6)) {
            let found = keys_for(&image, &keys);
            prop_assert!(found.iter().all(|key| serves(key, &image)));
            for key in &keys {
                prop_assert_eq!(serves(key, &image), !keys_for(&image, [key]).is_empty());
            }
            prop_assert_eq!(found.is_empty(), !keys.iter().any(|key| serves(key, &image)));
        }

        /// The order of the entries in the docker config does not matter.
        #[test]
        fn the_order_is_kubelets_own(image in any_image(), keys in prop::collection::vec(any_key(), 0..6)) {
            let forward = keys_for(&image, &keys);
            let backward = keys_for(&image, keys.iter().rev());
            prop_assert_eq!(forward, backward);
        }

        /// Of two keys for one host the longer path is tried first.
        #[test]
        fn longer_paths_come_first(image in any_image(), keys in prop::collection::vec(any_key(), 0..6)) {
            for pair in keys_for(&image, &keys).windows(2) {
                if pair[0].host() == pair[1].host() {
                    prop_assert!(pair[0].path().len() >= pair[1].path().len());
                }
            }
        }
    }
}
