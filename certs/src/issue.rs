//! Issues an authority, and serving certificates under it: ECDSA P-256, X.509 v3 (RFC 5280).

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SerialNumber,
};
use secrecy::{ExposeSecret, SecretString};
use time::OffsetDateTime;

use crate::certificate::{Certificate, CertificateError};
use crate::time::{earlier, later, whole_second};

/// The subject of every authority that Pullpass issues.
pub const AUTHORITY_COMMON_NAME: &str = "pullpass-ca";
const SERVING_COMMON_NAME: &str = "pullpass-webhook";

/// RFC 5280, 4.1.2.2 allows 20 octets; 16 random ones never meet a second time.
const SERIAL_BYTES: usize = 16;

/// Why a certificate could not be issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// Key generation, signing or encoding failed.
    #[error("cannot issue a certificate: {0}")]
    Crypto(#[from] rcgen::Error),
    /// The random number generator gave nothing.
    #[error("cannot issue a certificate: no random numbers to be had")]
    Random,
    /// The instants do not fit into a certificate.
    #[error("cannot issue a certificate that is valid from {0} to {1}")]
    Validity(Timestamp, Timestamp),
    /// The certificate that came out cannot be read back.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The authority is in trust, but its private key is gone.
    #[error("the authority has no private key to sign with")]
    NoKey,
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first instant; whole seconds.
    pub not_before: Timestamp,
    /// The last instant; whole seconds.
    pub not_after: Timestamp,
}

impl Validity {
    /// From `backdate` before `now`, for peers whose clocks are behind, until `not_after`.
    #[must_use]
    pub fn until(now: Timestamp, not_after: Timestamp, backdate: SignedDuration) -> Self {
        Self {
            not_before: whole_second(earlier(now, backdate)),
            not_after: whole_second(not_after),
        }
    }

    /// From `backdate` before `now` until `lifetime` after it.
    #[must_use]
    pub fn lasting(now: Timestamp, lifetime: SignedDuration, backdate: SignedDuration) -> Self {
        Self::until(now, later(now, lifetime), backdate)
    }
}

/// A private key (PKCS#8, PEM), which never prints and is wiped from memory when dropped.
#[derive(Debug, Clone)]
pub struct PrivateKey(SecretString);

impl PrivateKey {
    /// A key from PEM text.
    ///
    /// # Errors
    /// [`IssueError::Crypto`] if it is no private key.
    pub fn from_pem(text: &str) -> Result<Self, IssueError> {
        KeyPair::from_pem(text)?;
        Ok(Self(SecretString::from(text)))
    }

    /// The PEM text, for where it must go: a Secret, or a TLS library.
    #[must_use]
    pub fn expose_pem(&self) -> &str {
        self.0.expose_secret()
    }

    /// Whether this is the key of `certificate`.
    #[must_use]
    pub fn matches(&self, certificate: &Certificate) -> bool {
        self.key_pair()
            .is_ok_and(|pair| pair.der_bytes() == certificate.public_key())
    }

    fn key_pair(&self) -> Result<KeyPair, IssueError> {
        Ok(KeyPair::from_pem(self.expose_pem())?)
    }
}

/// A certificate with its key.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate: Certificate,
    /// Its private key.
    pub key: PrivateKey,
}

/// Issues a self-signed authority, `CN=pullpass-ca`, which can sign leaves and no further authorities.
///
/// # Errors
/// [`IssueError`] if the machine cannot make keys, or `validity` does not fit into a certificate.
pub fn issue_authority(validity: Validity) -> Result<Issued, IssueError> {
    let mut params = params(AUTHORITY_COMMON_NAME, validity)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    issued(&params.self_signed(&pair)?, &pair)
}

/// Issues a serving certificate for `dns_names`, signed by `authority` with `key`.
///
/// # Errors
/// [`IssueError`] if a name is no DNS name, the authority cannot be read, or the machine cannot make keys.
pub fn issue_serving(
    authority: &Certificate,
    key: &PrivateKey,
    dns_names: &BTreeSet<String>,
    validity: Validity,
) -> Result<Issued, IssueError> {
    let issuer = Issuer::from_ca_cert_der(authority.der(), key.key_pair()?)?;
    let mut params = params(SERVING_COMMON_NAME, validity)?;
    for name in dns_names {
        params
            .subject_alt_names
            .push(rcgen::SanType::DnsName(name.as_str().try_into()?));
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    issued(&params.signed_by(&pair, &issuer)?, &pair)
}

fn params(common_name: &str, validity: Validity) -> Result<CertificateParams, IssueError> {
    let out_of_range = || IssueError::Validity(validity.not_before, validity.not_after);
    let instant = |at: Timestamp| {
        OffsetDateTime::from_unix_timestamp(at.as_second()).map_err(|_| out_of_range())
    };
    if validity.not_before >= validity.not_after {
        return Err(out_of_range());
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.not_before = instant(validity.not_before)?;
    params.not_after = instant(validity.not_after)?;
    params.serial_number = Some(random_serial()?);
    Ok(params)
}

fn random_serial() -> Result<SerialNumber, IssueError> {
    let mut bytes = [0_u8; SERIAL_BYTES];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| IssueError::Random)?;
    if let Some(first) = bytes.first_mut() {
        // RFC 5280, 4.1.2.2: positive, and DER wants no leading zero octet
        *first = (*first & 0x7f) | 0x40;
    }
    Ok(SerialNumber::from_slice(&bytes))
}

fn issued(certificate: &rcgen::Certificate, pair: &KeyPair) -> Result<Issued, IssueError> {
    Ok(Issued {
        certificate: Certificate::from_der(certificate.der().clone())?,
        key: PrivateKey(SecretString::from(pair.serialize_pem())),
    })
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 123_456_789);
    const BACKDATE: SignedDuration = SignedDuration::from_hours(1);

    fn authority() -> Issued {
        issue_authority(Validity::lasting(
            NOW,
            SignedDuration::from_hours(1000),
            BACKDATE,
        ))
        .unwrap()
    }

    fn names() -> BTreeSet<String> {
        ["a.b.svc".to_owned(), "a.b.svc.cluster.local".to_owned()].into()
    }

    #[test]
    fn an_authority_signs_leaves_and_nothing_else() {
        let issued = authority();
        let der = issued.certificate.der().clone();
        let (_, parsed) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(parsed.subject().to_string(), "CN=pullpass-ca");
        assert_eq!(parsed.issuer().to_string(), "CN=pullpass-ca");
        let constraints = parsed.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(0));
        let usage = parsed.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.key_cert_sign() && !usage.value.digital_signature());
        assert_eq!(
            parsed.signature_algorithm.algorithm.to_id_string(),
            "1.2.840.10045.4.3.2",
            "ECDSA with SHA-256"
        );
        assert!(issued.certificate.is_signed_by(&issued.certificate));
        assert!(issued.certificate.is_authority());
        assert!(issued.key.matches(&issued.certificate));
    }

    #[test]
    fn a_leaf_serves_its_names_only() {
        let authority = authority();
        let validity = Validity::lasting(NOW, SignedDuration::from_hours(10), BACKDATE);
        let leaf =
            issue_serving(&authority.certificate, &authority.key, &names(), validity).unwrap();
        let der = leaf.certificate.der().clone();
        let (_, parsed) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(leaf.certificate.dns_names(), &names());
        assert!(!parsed.is_ca());
        let usage = parsed.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && !usage.key_cert_sign());
        let extended = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.server_auth && !extended.client_auth && !extended.any);
        assert!(leaf.certificate.is_signed_by(&authority.certificate));
        assert!(
            !leaf
                .certificate
                .is_signed_by(&self::authority().certificate),
            "the same name is not enough"
        );
        assert!(leaf.key.matches(&leaf.certificate));
        assert!(!leaf.key.matches(&authority.certificate));
    }

    #[test]
    fn validity_begins_before_now_and_ends_when_told() {
        let certificate = authority().certificate;
        assert_eq!(certificate.not_before().as_second(), NOW.as_second() - 3600);
        assert_eq!(
            certificate.not_after().as_second(),
            NOW.as_second() + 1000 * 3600
        );
        let third =
            (certificate.not_after().as_second() - certificate.not_before().as_second()) / 3;
        assert_eq!(
            certificate.renew_at().as_second(),
            certificate.not_after().as_second() - third
        );
        let backwards = Validity {
            not_before: NOW,
            not_after: NOW,
        };
        assert!(matches!(
            issue_authority(backwards),
            Err(IssueError::Validity(..))
        ));
    }

    #[test]
    fn serial_numbers_are_positive_and_never_the_same() {
        let serials: BTreeSet<String> = (0..50)
            .map(|_| authority().certificate.serial().to_owned())
            .collect();
        assert_eq!(serials.len(), 50);
        for serial in serials {
            let octets: Vec<u8> = serial
                .split(':')
                .map(|octet| u8::from_str_radix(octet, 16).unwrap())
                .collect();
            assert_eq!(octets.len(), SERIAL_BYTES);
            assert!((0x40..0x80).contains(&octets[0]));
        }
    }

    #[test]
    fn what_is_no_dns_name_is_refused() {
        let authority = authority();
        let validity = Validity::lasting(NOW, SignedDuration::from_hours(10), BACKDATE);
        let names = ["bücher.svc".to_owned()].into();
        assert!(issue_serving(&authority.certificate, &authority.key, &names, validity).is_err());
    }

    #[test]
    fn keys_do_not_print() {
        let issued = authority();
        let secret = issued.key.expose_pem().lines().nth(1).unwrap().to_owned();
        assert!(secret.len() > 20);
        assert!(!format!("{issued:?}").contains(&secret));
        assert!(!format!("{:?}", PrivateKey::from_pem("nonsense")).contains("nonsense"));
    }

    #[test]
    fn certificates_survive_pem() {
        let (one, two) = (authority().certificate, authority().certificate);
        let both = format!("{}{}", one.pem(), two.pem());
        assert_eq!(
            Certificate::all_from_pem(both.as_bytes()).unwrap(),
            [one.clone(), two]
        );
        assert_eq!(Certificate::from_pem(both.as_bytes()).unwrap(), one);
        assert_eq!(Certificate::all_from_pem(b"").unwrap(), []);
        assert_eq!(Certificate::from_pem(b""), Err(CertificateError::Pem));
        assert_eq!(
            Certificate::from_pem(authority().key.expose_pem().as_bytes()),
            Err(CertificateError::Pem)
        );
    }
}
