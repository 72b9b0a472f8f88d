//! Names to addresses, for connections that a credential goes over. What is judged here is what is connected to: a name
//! that is resolved once for the judgement and once more for the connection could change in between.

use std::net::IpAddr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::destination::{Place, place};

/// The names that the machine knows, its hosts file included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct System;

impl Resolve for System {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // the port is set by the client
            let addresses: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// A name has an address that no credential goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name resolves to {0}")]
pub(crate) struct RefusedAddress(pub(crate) Place);

/// Refuses names with an address that credentials must not go to at a registry's word.
pub(crate) struct Guarded {
    /// Who knows the names.
    pub(crate) names: Arc<dyn Resolve>,
    /// Hosts that an administrator has named, such as proxies and the registry.
    pub(crate) trusted: Vec<String>,
    /// Where the registry answered from.
    pub(crate) registry: Option<IpAddr>,
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let is_trusted = self
            .trusted
            .iter()
            .any(|trusted| trusted.eq_ignore_ascii_case(name.as_str()));
        let registry = self.registry;
        let resolving = self.names.resolve(name);
        if is_trusted {
            return resolving;
        }
        Box::pin(async move {
            let addresses: Vec<_> = resolving.await?.collect();
            // all of them have to be good, since the client tries one after the other
            let refused = addresses
                .iter()
                .find_map(|address| place(address.ip(), registry));
            match refused {
                Some(place) => Err(RefusedAddress(place).into()),
                None => Ok(Box::new(addresses.into_iter()) as Addrs),
            }
        })
    }
}

/// Names with fixed addresses.
#[cfg(test)]
pub(crate) struct Fixed(pub(crate) Vec<(&'static str, IpAddr)>);

#[cfg(test)]
impl Resolve for Fixed {
    fn resolve(&self, name: Name) -> Resolving {
        let found: Vec<_> = self
            .0
            .iter()
            .filter(|(known, _)| *known == name.as_str())
            .map(|(_, address)| std::net::SocketAddr::new(*address, 0))
            .collect();
        Box::pin(async move {
            if found.is_empty() {
                return Err("no such name".into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::good("auth.test", Ok(1))]
    #[case::loopback("loop.test", Err(Place::Loopback))]
    #[case::one_of_two("both.test", Err(Place::LinkLocal))]
    #[case::mapped("mapped.test", Err(Place::LinkLocal))]
    #[case::where_the_registry_is("beside.test", Ok(1))]
    #[case::named_by_an_administrator("proxy.test", Ok(1))]
    #[case::named_in_other_letters("PROXY.test", Ok(1))]
    #[tokio::test]
    async fn every_address_of_a_name_has_to_be_good(
        #[case] name: &str,
        #[case] expected: Result<usize, Place>,
    ) {
        let names = [
            ("auth.test", "203.0.113.1"),
            ("loop.test", "127.0.0.1"),
            ("both.test", "203.0.113.1"),
            ("both.test", "169.254.169.254"),
            ("mapped.test", "::ffff:169.254.169.254"),
            ("beside.test", "127.0.0.9"),
            ("proxy.test", "127.0.0.1"),
            ("PROXY.test", "127.0.0.1"),
        ];
        let guarded = Guarded {
            names: Arc::new(Fixed(
                names
                    .map(|(name, address)| (name, address.parse().unwrap()))
                    .to_vec(),
            )),
            trusted: vec!["proxy.test".into()],
            registry: Some("127.0.0.9".parse().unwrap()),
        };
        let resolved = match guarded.resolve(name.parse().unwrap()).await {
            Ok(addresses) => Ok(addresses.count()),
            Err(error) => Err(error.downcast_ref::<RefusedAddress>().unwrap().0),
        };
        assert_eq!(resolved, expected);
    }
}
