//! What the host of an Amazon ECR registry says: account, region, and which endpoints belong to it.

/// A host of Amazon ECR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EcrHost<'a> {
    /// A private registry, or several accounts' in one region where the account is a wildcard.
    Private {
        /// The twelve digits of the account; `None` where the host does not say.
        account: Option<&'a str>,
        /// The region, such as `eu-west-1`.
        region: &'a str,
        /// Whether it is an endpoint with validated cryptography (FIPS 140).
        fips: bool,
        /// Whether it is reached by IPv4 and IPv6.
        dual_stack: bool,
    },
    /// Amazon ECR Public, which is in one region only.
    Public {
        /// Whether it is reached by IPv4 and IPv6.
        dual_stack: bool,
    },
}

/// Why a host says nothing about a registry of ECR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EcrHostError {
    /// Another host.
    #[error(
        "the host is none of Amazon ECR: write account.dkr.ecr.region.amazonaws.com, or public.ecr.aws"
    )]
    NotEcr,
    /// A login is for one region.
    #[error(
        "the host's region is a wildcard, but a login at Amazon ECR is for one region: write a Registry for each region, for example *.dkr.ecr.eu-west-1.amazonaws.com"
    )]
    RegionWildcard,
}

/// Of each partition the ending of its hosts, and how its regions begin. Where they do not fit together the host is
/// nobody's. From the partitions of the AWS SDKs (`partitions.json`) and the hosts that Amazon's own credential helper
/// for ECR knows.
const PARTITIONS: [(&str, &[&str]); 7] = [
    ("amazonaws.com.cn", &["cn-"]),
    ("amazonaws.eu", &["eusc-"]),
    ("c2s.ic.gov", &["us-iso-"]),
    ("sc2s.sgov.gov", &["us-isob-"]),
    ("cloud.adc-e.uk", &["eu-isoe-"]),
    ("csp.hci.ic.gov", &["us-isof-", "us-isog-"]),
    // last, since the hosts of China end otherwise but begin alike
    ("amazonaws.com", &[]),
];

/// As [`PARTITIONS`], for hosts that have IPv6 too.
const DUAL_STACK_PARTITIONS: [(&str, &[&str]); 2] =
    [("on.amazonwebservices.com.cn", &["cn-"]), ("on.aws", &[])];

impl<'a> EcrHost<'a> {
    /// Reads a host, with or without a port. Wildcards may stand for the account.
    ///
    /// # Errors
    /// A host that is not of ECR, or of no particular region.
    pub fn parse(host: &'a str) -> Result<Self, EcrHostError> {
        let name = host.split_once(':').map_or(host, |(name, _)| name);
        match name {
            "public.ecr.aws" => return Ok(Self::Public { dual_stack: false }),
            "ecr-public.aws.com" => return Ok(Self::Public { dual_stack: true }),
            _ => {}
        }
        let (account, rest) = name.split_once('.').ok_or(EcrHostError::NotEcr)?;
        let (rest, fips, dual_stack) = service(rest).ok_or(EcrHostError::NotEcr)?;
        let (region, suffix) = rest.split_once('.').ok_or(EcrHostError::NotEcr)?;
        let partitions: &[_] = if dual_stack {
            &DUAL_STACK_PARTITIONS
        } else {
            &PARTITIONS
        };
        // an interface endpoint's own name (AWS PrivateLink) has its id in place of the account
        let (suffix, account) = match suffix.strip_prefix("vpce.") {
            Some(suffix) if account.starts_with("vpce-") && !dual_stack => (suffix, None),
            Some(_) => return Err(EcrHostError::NotEcr),
            None => (suffix, Some(account)),
        };
        let (_, regions) = partitions
            .iter()
            .find(|(ending, _)| *ending == suffix)
            .ok_or(EcrHostError::NotEcr)?;
        let account = match account {
            None => None,
            Some(account) if account.contains('*') => None,
            Some(account) if is_account(account) => Some(account),
            Some(_) => return Err(EcrHostError::NotEcr),
        };
        if region.contains('*') {
            return Err(EcrHostError::RegionWildcard);
        }
        let elsewhere = PARTITIONS
            .iter()
            .flat_map(|(_, regions)| *regions)
            .any(|begin| region.starts_with(begin));
        let fits = match regions {
            [] => !elsewhere,
            regions => regions.iter().any(|begin| region.starts_with(begin)),
        };
        if !fits || !is_region(region) {
            return Err(EcrHostError::NotEcr);
        }
        Ok(Self::Private {
            account,
            region,
            fips,
            dual_stack,
        })
    }
}

/// What follows the service's own labels, whether they are those with FIPS, and whether those with IPv6.
fn service(labels: &str) -> Option<(&str, bool, bool)> {
    const SERVICES: [(&str, bool, bool); 4] = [
        ("dkr.ecr.", false, false),
        ("dkr.ecr-fips.", true, false),
        ("dkr-ecr.", false, true),
        ("dkr-ecr-fips.", true, true),
    ];
    SERVICES.iter().find_map(|&(begin, fips, dual_stack)| {
        Some((labels.strip_prefix(begin)?, fips, dual_stack))
    })
}

fn is_account(label: &str) -> bool {
    label.len() == 12 && label.bytes().all(|b| b.is_ascii_digit())
}

fn is_region(label: &str) -> bool {
    label.contains('-')
        && label
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    const ACCOUNT: &str = "123456789012";

    #[rstest]
    #[case("dkr.ecr.eu-west-1.amazonaws.com", "eu-west-1", false, false)]
    #[case("dkr.ecr.us-gov-west-1.amazonaws.com", "us-gov-west-1", false, false)]
    #[case(
        "dkr.ecr-fips.us-gov-east-1.amazonaws.com",
        "us-gov-east-1",
        true,
        false
    )]
    #[case("dkr.ecr-fips.us-east-1.amazonaws.com", "us-east-1", true, false)]
    #[case(
        "dkr.ecr.cn-northwest-1.amazonaws.com.cn",
        "cn-northwest-1",
        false,
        false
    )]
    #[case("dkr.ecr.eusc-de-east-1.amazonaws.eu", "eusc-de-east-1", false, false)]
    #[case("dkr.ecr.us-iso-east-1.c2s.ic.gov", "us-iso-east-1", false, false)]
    #[case("dkr.ecr.us-isob-east-1.sc2s.sgov.gov", "us-isob-east-1", false, false)]
    #[case(
        "dkr.ecr.eu-isoe-west-1.cloud.adc-e.uk",
        "eu-isoe-west-1",
        false,
        false
    )]
    #[case(
        "dkr.ecr.us-isof-south-1.csp.hci.ic.gov",
        "us-isof-south-1",
        false,
        false
    )]
    #[case("dkr-ecr.eu-central-2.on.aws", "eu-central-2", false, true)]
    #[case("dkr-ecr-fips.us-west-2.on.aws", "us-west-2", true, true)]
    #[case(
        "dkr-ecr.cn-north-1.on.amazonwebservices.com.cn",
        "cn-north-1",
        false,
        true
    )]
    fn every_partition_and_endpoint_is_known(
        #[case] rest: &str,
        #[case] region: &str,
        #[case] fips: bool,
        #[case] dual_stack: bool,
    ) {
        for (label, account) in [(ACCOUNT, Some(ACCOUNT)), ("*", None), ("1234*", None)] {
            for port in ["", ":443"] {
                let host = format!("{label}.{rest}{port}");
                let expected = EcrHost::Private {
                    account,
                    region,
                    fips,
                    dual_stack,
                };
                assert_eq!(EcrHost::parse(&host), Ok(expected), "{host}");
            }
        }
    }

    #[rstest]
    #[case("vpce-0a1b2c-x7.dkr.ecr.eu-west-1.vpce.amazonaws.com", "eu-west-1")]
    #[case(
        "vpce-0a1b2c-x7.dkr.ecr.cn-north-1.vpce.amazonaws.com.cn",
        "cn-north-1"
    )]
    fn an_interface_endpoint_has_a_region_and_no_account(#[case] host: &str, #[case] region: &str) {
        let expected = EcrHost::Private {
            account: None,
            region,
            fips: false,
            dual_stack: false,
        };
        assert_eq!(EcrHost::parse(host), Ok(expected));
    }

    #[rstest]
    #[case("public.ecr.aws", false)]
    #[case("public.ecr.aws:443", false)]
    #[case("ecr-public.aws.com", true)]
    fn the_public_registry_is_known(#[case] host: &str, #[case] dual_stack: bool) {
        assert_eq!(EcrHost::parse(host), Ok(EcrHost::Public { dual_stack }));
    }

    #[rstest]
    #[case("*.dkr.ecr.*.amazonaws.com")]
    #[case("123456789012.dkr.ecr.*.amazonaws.com")]
    #[case("123456789012.dkr.ecr.us-*-1.amazonaws.com.cn")]
    #[case("123456789012.dkr-ecr.*.on.aws")]
    fn a_login_is_for_one_region(#[case] host: &str) {
        assert_eq!(EcrHost::parse(host), Err(EcrHostError::RegionWildcard));
    }

    #[rstest]
    #[case("")]
    #[case("registry.example.com")]
    #[case("123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example")]
    #[case("123456789012.dkr.ecr.eu-west-1.evilamazonaws.com")]
    #[case("123456789012.dkr.ecr.eu-west-1.amazonaws.com.")]
    #[case("evil.example.123456789012.dkr.ecr.eu-west-1.amazonaws.com")]
    #[case("12345678901.dkr.ecr.eu-west-1.amazonaws.com")]
    #[case("1234567890123.dkr.ecr.eu-west-1.amazonaws.com")]
    #[case("12345678901a.dkr.ecr.eu-west-1.amazonaws.com")]
    #[case("123456789012.dkr.ecr.euwest.amazonaws.com")]
    #[case("123456789012.dkr.ecr.EU-west-1.amazonaws.com")]
    #[case("123456789012.dkr.ecr.cn-north-1.amazonaws.com")]
    #[case("123456789012.dkr.ecr.eu-west-1.amazonaws.com.cn")]
    #[case("123456789012.dkr.ecr.us-iso-east-1.sc2s.sgov.gov")]
    #[case("123456789012.dkr.ecr.eu-west-1.*")]
    #[case("123456789012.dkr-ecr.eu-west-1.amazonaws.com")]
    #[case("123456789012.dkr.ecr.eu-west-1.on.aws")]
    #[case("123456789012.dkr.ecr.eu-west-1.vpce.amazonaws.com")]
    #[case("vpce-0a1b2c-x7.dkr.ecr.eu-west-1.amazonaws.com")]
    #[case("api.ecr.eu-west-1.amazonaws.com")]
    #[case("public.ecr.aws.evil.example")]
    #[case("*.ecr.aws")]
    fn what_only_looks_alike_is_not_taken(#[case] host: &str) {
        assert_eq!(EcrHost::parse(host), Err(EcrHostError::NotEcr));
    }

    proptest! {
        /// Whatever is taken ends in a name that is Amazon's.
        #[test]
        fn no_foreign_host_is_taken(host in "(vpce-|[0-9]{12}|\\*)\\.dkr[.-]ecr(-fips)?\\.[a-z]{2}-[a-z]{4}-[0-9](\\.(vpce|on|aws|amazonaws|com|cn|x)){0,5}") {
            if EcrHost::parse(&host).is_ok() {
                let endings = [".amazonaws.com", ".amazonaws.com.cn", ".on.aws"];
                prop_assert!(endings.iter().any(|ending| host.ends_with(ending)));
            }
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            if let Ok(EcrHost::Private { region, .. }) = EcrHost::parse(&text) {
                prop_assert!(text.contains(region));
            }
        }
    }
}
