//! A registry's address, the address that it answered from, and on the further lines what it asks for.

#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use url::{Host, Url};

// the two files by themselves: the package they belong to brings cloud SDKs, which take long to build
#[path = "../../../controller/providers/src/challenge.rs"]
mod challenge;
#[path = "../../../controller/providers/src/destination.rs"]
mod destination;

use challenge::{Challenge, strongest};
use destination::{Registry, place, token_service};

fuzz_target!(|input: &str| {
    let mut lines = input.split('\n');
    let Some(Ok(url)) = lines.next().map(Url::parse) else {
        return;
    };
    let address: Option<IpAddr> = lines.next().and_then(|line| line.parse().ok());
    let Some(Challenge::Bearer { realm, .. }) = strongest(lines) else {
        return;
    };
    for is_insecure in [false, true] {
        let registry = Registry {
            url: &url,
            address,
            is_insecure,
        };
        let Ok(target) = token_service(&realm, registry) else {
            continue;
        };
        let is_registry = target.host() == url.host();
        assert!(target.scheme() == "https" || (target.scheme() == "http" && is_insecure && is_registry));
        assert!(target.username().is_empty() && target.password().is_none());
        let literal: Option<IpAddr> = match target.host() {
            Some(Host::Ipv4(address)) => Some(address.into()),
            Some(Host::Ipv6(address)) => Some(address.into()),
            Some(Host::Domain(_)) => None,
            None => panic!("a credential goes to no host"),
        };
        if let Some(literal) = literal {
            assert!(is_registry || place(literal, address).is_none(), "{target}");
        }
        // what is connected to is what was judged
        assert_eq!(Url::parse(target.as_str()).as_ref(), Ok(&target));
    }
});
