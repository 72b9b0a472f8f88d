use super::*;
use proptest::prelude::*;
use rstest::rstest;

fn judge(realm: &str, registry: &str, address: &str, is_insecure: bool) -> Result<Url, RealmError> {
    let url = Url::parse(registry).unwrap();
    token_service(
        realm,
        Registry {
            url: &url,
            address: address.parse().ok(),
            is_insecure,
        },
    )
}

/// From a registry on the internet, reached over TLS.
#[rstest]
#[case("https://auth.docker.io/token", Ok(()))]
#[case("https://auth.example.com:8443/token?tenant=a", Ok(()))]
#[case("https://10.1.2.3/token", Ok(()))]
#[case("https://[2001:db8::1]/token", Ok(()))]
#[case("https://[fd12:3456::1]/token", Ok(()))]
#[case("HTTPS://AUTH.example.com/token#fragment", Ok(()))]
#[case("https://registry.example.com/token", Ok(()))]
#[case("https://metadata.example.com/token", Ok(()))]
#[case("https://localhost.example.com/token", Ok(()))]
#[case("", Err(RealmError::Unreadable))]
#[case("token", Err(RealmError::Unreadable))]
#[case("/token", Err(RealmError::Unreadable))]
#[case("//auth.example.com/token", Err(RealmError::Unreadable))]
#[case("https://", Err(RealmError::Unreadable))]
#[case("https://[::1/token", Err(RealmError::Unreadable))]
#[case("https://auth example/token", Err(RealmError::Unreadable))]
#[case("data:text/plain,token", Err(RealmError::Unreadable))]
#[case("file:///etc/passwd", Err(RealmError::Unreadable))]
#[case("file://auth.example.com/token", Err(RealmError::NotEncrypted))]
#[case("http://auth.example.com/token", Err(RealmError::NotEncrypted))]
#[case("http://registry.example.com/token", Err(RealmError::NotEncrypted))]
#[case("ftp://auth.example.com/token", Err(RealmError::NotEncrypted))]
#[case("ws://auth.example.com/token", Err(RealmError::NotEncrypted))]
#[case("gopher://auth.example.com/token", Err(RealmError::NotEncrypted))]
#[case("https://robot@auth.example.com/token", Err(RealmError::User))]
#[case("https://robot:secret@auth.example.com/token", Err(RealmError::User))]
#[case("https://:secret@auth.example.com/token", Err(RealmError::User))]
#[case(
    "https://registry.example.com@auth.example.com/token",
    Err(RealmError::User)
)]
#[case(
    "https://auth.example.com/token?service=other",
    Err(RealmError::Parameters)
)]
#[case(
    "https://auth.example.com/token?a=b&scope=repository:a:push",
    Err(RealmError::Parameters)
)]
#[case(
    "https://auth.example.com/token?%73cope=x",
    Err(RealmError::Parameters)
)]
#[case("https://localhost/token", Err(RealmError::Place(Place::Loopback)))]
#[case("https://LOCALHOST./token", Err(RealmError::Place(Place::Loopback)))]
#[case("https://a.localhost/token", Err(RealmError::Place(Place::Loopback)))]
#[case("https://127.0.0.1/token", Err(RealmError::Place(Place::Loopback)))]
#[case("https://127.1/token", Err(RealmError::Place(Place::Loopback)))]
#[case("https://2130706433/token", Err(RealmError::Place(Place::Loopback)))]
#[case("https://0x7f.0.0.1/token", Err(RealmError::Place(Place::Loopback)))]
#[case("https://0177.0.0.1/token", Err(RealmError::Place(Place::Loopback)))]
#[case(
    "https://%31%32%37.0.0.1/token",
    Err(RealmError::Place(Place::Loopback))
)]
#[case("https://127.0.0.1/token", Err(RealmError::Place(Place::Loopback)))]
#[case("https://[::1]/token", Err(RealmError::Place(Place::Loopback)))]
#[case(
    "https://[::ffff:127.0.0.1]/token",
    Err(RealmError::Place(Place::Loopback))
)]
#[case("https://[::127.0.0.1]/token", Err(RealmError::Place(Place::Loopback)))]
#[case(
    "https://[64:ff9b::127.0.0.1]/token",
    Err(RealmError::Place(Place::Loopback))
)]
#[case(
    "https://[2002:7f00:1::]/token",
    Err(RealmError::Place(Place::Loopback))
)]
#[case("https://0.0.0.0/token", Err(RealmError::Place(Place::Unspecified)))]
#[case("https://0/token", Err(RealmError::Place(Place::Unspecified)))]
#[case("https://0.1.2.3/token", Err(RealmError::Place(Place::Unspecified)))]
#[case("https://[::]/token", Err(RealmError::Place(Place::Unspecified)))]
#[case(
    "https://169.254.169.254/latest/meta-data",
    Err(RealmError::Place(Place::LinkLocal))
)]
#[case(
    "https://2852039166/latest/meta-data",
    Err(RealmError::Place(Place::LinkLocal))
)]
#[case(
    "https://169.254.170.2/v2/credentials",
    Err(RealmError::Place(Place::LinkLocal))
)]
#[case(
    "https://[::ffff:a9fe:a9fe]/",
    Err(RealmError::Place(Place::LinkLocal))
)]
#[case(
    "https://[64:ff9b::169.254.169.254]/",
    Err(RealmError::Place(Place::LinkLocal))
)]
#[case("https://[fe80::1]/token", Err(RealmError::Place(Place::LinkLocal)))]
#[case(
    "https://[fd00:ec2::254]/latest",
    Err(RealmError::Place(Place::Metadata))
)]
#[case(
    "https://[fd20:ce::254]/computeMetadata",
    Err(RealmError::Place(Place::Metadata))
)]
#[case(
    "https://168.63.129.16/machine",
    Err(RealmError::Place(Place::Metadata))
)]
#[case(
    "https://100.100.100.200/latest",
    Err(RealmError::Place(Place::Metadata))
)]
#[case("https://192.0.0.192/opc", Err(RealmError::Place(Place::Metadata)))]
#[case(
    "https://metadata.google.internal/computeMetadata",
    Err(RealmError::Place(Place::Metadata))
)]
#[case(
    "https://Metadata.Google.Internal./computeMetadata",
    Err(RealmError::Place(Place::Metadata))
)]
#[case(
    "https://metadata/computeMetadata",
    Err(RealmError::Place(Place::Metadata))
)]
#[case(
    "https://instance-data/latest",
    Err(RealmError::Place(Place::Metadata))
)]
#[case("https://224.0.0.1/token", Err(RealmError::Place(Place::Multicast)))]
#[case(
    "https://255.255.255.255/token",
    Err(RealmError::Place(Place::Multicast))
)]
#[case("https://[ff02::1]/token", Err(RealmError::Place(Place::Multicast)))]
fn a_registry_names_its_token_service(
    #[case] realm: &str,
    #[case] expected: Result<(), RealmError>,
) {
    let judged = judge(realm, "https://registry.example.com", "203.0.113.7", false);
    assert_eq!(judged.map(|_| ()), expected);
}

/// What the registry's own place and the TLS mode make a difference for.
#[rstest]
#[case::plain_to_the_registry("http://registry.example.com/token", "http://registry.example.com", "", true, Ok(()))]
#[case::plain_to_its_other_port("http://registry.example.com:5001/token", "http://registry.example.com:5000", "", true, Ok(()))]
#[case::plain_to_another(
    "http://auth.example.com/token",
    "http://registry.example.com",
    "",
    true,
    Err(RealmError::NotEncrypted)
)]
#[case::plain_to_a_name_that_begins_like_it(
    "http://registry.example.com.evil.example/token",
    "http://registry.example.com",
    "",
    true,
    Err(RealmError::NotEncrypted)
)]
#[case::plain_to_the_registry_although_secure(
    "http://registry.example.com/token",
    "https://registry.example.com",
    "",
    false,
    Err(RealmError::NotEncrypted)
)]
#[case::on_this_machine("https://127.0.0.1:5001/token", "https://127.0.0.1:5000", "127.0.0.1", false, Ok(()))]
#[case::by_name_on_this_machine("https://localhost:5001/token", "https://localhost:5000", "127.0.0.1", false, Ok(()))]
#[case::at_the_registrys_address("https://127.0.0.1:5001/token", "https://registry.test", "127.0.0.1", false, Ok(()))]
#[case::at_the_registrys_mapped_address("https://[::ffff:127.0.0.1]/token", "https://registry.test", "127.0.0.1", false, Ok(()))]
#[case::beside_the_registry(
    "https://127.0.0.2:5001/token",
    "https://127.0.0.1:5000",
    "127.0.0.1",
    false,
    Err(RealmError::Place(Place::Loopback))
)]
#[case::metadata_from_this_machine(
    "https://169.254.169.254/token",
    "https://127.0.0.1",
    "127.0.0.1",
    true,
    Err(RealmError::Place(Place::LinkLocal))
)]
#[case::behind_a_proxy(
    "https://127.0.0.1/token",
    "https://registry.example.com",
    "",
    false,
    Err(RealmError::Place(Place::Loopback))
)]
fn where_the_registry_is_its_token_service_may_be(
    #[case] realm: &str,
    #[case] registry: &str,
    #[case] address: &str,
    #[case] is_insecure: bool,
    #[case] expected: Result<(), RealmError>,
) {
    let judged = judge(realm, registry, address, is_insecure);
    assert_eq!(judged.map(|_| ()), expected);
}

#[test]
fn what_is_no_part_of_a_request_is_dropped() {
    let long = format!("https://auth.example.com/{}", "a".repeat(LONGEST_REALM));
    let judge = |realm: &str| judge(realm, "https://registry.example.com", "", false);
    assert_eq!(judge(&long), Err(RealmError::Unreadable));
    let url = judge("https://auth.example.com/token?a=b#c").unwrap();
    assert_eq!(url.as_str(), "https://auth.example.com/token?a=b");
}

proptest! {
    /// Whatever the text, a credential that goes anywhere goes over TLS, without a user in the address, and to no
    /// refused address.
    #[test]
    fn what_is_let_through_is_safe(realm in "(https?|ftp|HTTPS)?:?/{0,3}[a-z0-9.@:%\\[\\]-]{0,24}(/[ -~]{0,12})?") {
        if let Ok(url) = judge(&realm, "https://registry.example.com", "203.0.113.7", false) {
            prop_assert_eq!(url.scheme(), "https");
            prop_assert!(url.username().is_empty() && url.password().is_none());
            let address: Option<IpAddr> = match url.host() {
                Some(Host::Ipv4(address)) => Some(address.into()),
                Some(Host::Ipv6(address)) => Some(address.into()),
                _ => None,
            };
            prop_assert_eq!(address.and_then(|address| place(address, None)), None);
        }
    }

    /// An IPv4 address is judged the same in each of its IPv6 forms.
    #[test]
    fn an_address_has_no_disguise(bits: u32) {
        let plain = Ipv4Addr::from(bits);
        let [a, b, c, d] = plain.octets().map(u16::from);
        let (high, low) = (a << 8 | b, c << 8 | d);
        let expected = place(plain.into(), None);
        for disguise in [
            plain.to_ipv6_mapped(),
            Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
        ] {
            prop_assert_eq!(place(disguise.into(), None), expected);
        }
    }
}
