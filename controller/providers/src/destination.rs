//! Where credentials may go, as pure functions: to the registry itself, and to the token service that it names, if that is
//! a place that a registry has any business to name.
//!
//! A registry's answer is a stranger's text. Without these rules it could send a credential over plain HTTP, or make the
//! controller speak to what only the controller's own machine can reach: its loopback services, and the metadata service
//! that hands out the machine's cloud identity.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// A longer address is refused: real ones have some fifty bytes.
const LONGEST_REALM: usize = 2048;

/// Names that mean an address which is not to be reached, whatever they resolve to.
const REFUSED_NAMES: [&str; 4] = [
    "localhost",
    "metadata",
    "metadata.google.internal",
    "instance-data",
];

/// Query parameters that only the client may give: by them a registry could have a token made for another registry.
const OWN_PARAMETERS: [&str; 2] = ["service", "scope"];

/// Why a token service's address is refused. The text of the address is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RealmError {
    /// No absolute URL.
    #[error("is no address of the form https://host/path")]
    Unreadable,
    /// Neither `https`, nor `http` where that is allowed.
    #[error(
        "is not https, and plain http is allowed only to the registry's own host in the TLS mode Insecure"
    )]
    NotEncrypted,
    /// A user in the address.
    #[error("holds a user name or password of its own")]
    User,
    /// A query that presets what the client asks for.
    #[error("presets the service or scope of the token")]
    Parameters,
    /// A name or address that no registry has any business to name.
    #[error("is {0}")]
    Place(Place),
}

/// A place that credentials never go to at a registry's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The controller's own machine.
    Loopback,
    /// No address in particular.
    Unspecified,
    /// The controller's own network segment.
    LinkLocal,
    /// A cloud's metadata service, which hands out identities.
    Metadata,
    /// Not one host.
    Multicast,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Place::Loopback => "a loopback address",
            Place::Unspecified => "an unspecified address",
            Place::LinkLocal => "a link-local address",
            Place::Metadata => "a cloud's metadata service",
            Place::Multicast => "a multicast or broadcast address",
        })
    }
}

/// Which hosts a registry's own place makes an exception for.
#[derive(Clone, Copy, Debug)]
pub struct Registry<'a> {
    /// The registry's address.
    pub url: &'a Url,
    /// The address that answered for it, where it was reached without a proxy.
    pub address: Option<IpAddr>,
    /// Whether plain HTTP is allowed to its host: the TLS mode `Insecure`.
    pub is_insecure: bool,
}

/// The token service's address, if the credential may go there as far as its text tells. What a name resolves to is
/// judged by [`place`], when it is resolved.
///
/// # Errors
/// An address that the credential must not go to.
pub fn token_service(realm: &str, registry: Registry<'_>) -> Result<Url, RealmError> {
    if realm.len() > LONGEST_REALM {
        return Err(RealmError::Unreadable);
    }
    let mut url = Url::parse(realm).map_err(|_| RealmError::Unreadable)?;
    let Some(host) = url.host() else {
        return Err(RealmError::Unreadable);
    };
    let is_registry = registry.url.host() == Some(host.clone());
    match url.scheme() {
        "https" => {}
        "http" if registry.is_insecure && is_registry => {}
        _ => return Err(RealmError::NotEncrypted),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(RealmError::User);
    }
    if url
        .query_pairs()
        .any(|(name, _)| OWN_PARAMETERS.contains(&&*name))
    {
        return Err(RealmError::Parameters);
    }
    let place = match host {
        _ if is_registry => None,
        Host::Domain(name) => place_of_name(name),
        Host::Ipv4(address) => place(address.into(), registry.address),
        Host::Ipv6(address) => place(address.into(), registry.address),
    };
    if let Some(place) = place {
        return Err(RealmError::Place(place));
    }
    url.set_fragment(None);
    Ok(url)
}

fn place_of_name(name: &str) -> Option<Place> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.ends_with(".localhost") {
        return Some(Place::Loopback);
    }
    let refused = REFUSED_NAMES
        .iter()
        .find(|refused| name.eq_ignore_ascii_case(refused))?;
    Some(match *refused {
        "localhost" => Place::Loopback,
        _ => Place::Metadata,
    })
}

/// What makes an address a place that credentials never go to at a registry's word; `None` where they may, as to where
/// the registry itself answered from.
pub fn place(address: IpAddr, registry: Option<IpAddr>) -> Option<Place> {
    let (address, registry) = (
        address.to_canonical(),
        registry.map(|address| address.to_canonical()),
    );
    if registry == Some(address) {
        return None;
    }
    match address {
        IpAddr::V4(address) => place_v4(address),
        IpAddr::V6(address) => place_v6(address),
    }
}

fn place_v4(address: Ipv4Addr) -> Option<Place> {
    /// Besides the link-local 169.254.169.254 of most clouds: Azure's, Alibaba's and Oracle's.
    const METADATA: [Ipv4Addr; 3] = [
        Ipv4Addr::new(168, 63, 129, 16),
        Ipv4Addr::new(100, 100, 100, 200),
        Ipv4Addr::new(192, 0, 0, 192),
    ];
    let [first, ..] = address.octets();
    if METADATA.contains(&address) {
        Some(Place::Metadata)
    } else if address.is_loopback() {
        Some(Place::Loopback)
    } else if first == 0 {
        Some(Place::Unspecified)
    } else if address.is_link_local() {
        Some(Place::LinkLocal)
    } else if address.is_multicast() || address.is_broadcast() {
        Some(Place::Multicast)
    } else {
        None
    }
}

fn place_v6(address: Ipv6Addr) -> Option<Place> {
    /// Amazon's and Google's.
    const METADATA: [Ipv6Addr; 2] = [
        Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
        Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    ];
    if METADATA.contains(&address) {
        Some(Place::Metadata)
    } else if address.is_loopback() {
        Some(Place::Loopback)
    } else if address.is_unspecified() {
        Some(Place::Unspecified)
    } else if address.is_unicast_link_local() {
        Some(Place::LinkLocal)
    } else if address.is_multicast() {
        Some(Place::Multicast)
    } else {
        embedded(address).and_then(place_v4)
    }
}

/// The IPv4 address that a translator or tunnel makes of an IPv6 address: IPv4-compatible (RFC 4291, section 2.5.5.1),
/// NAT64 (RFC 6052, section 2.1) and 6to4 (RFC 3056, section 2).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let halves = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(halves(high, low))
        }
        [0x2002, high, low, ..] => Some(halves(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
