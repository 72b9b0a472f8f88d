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
