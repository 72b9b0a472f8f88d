//! A certificate together with the fields that decisions are made from.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::time::{earlier, later};

const PEM_TAG: &str = "CERTIFICATE";
const PEM_BEGIN: &[u8] = b"-----BEGIN ";

/// Why bytes are not a usable certificate.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CertificateError {
    /// The text holds no block `BEGIN CERTIFICATE`, or a block that cannot be decoded.
    #[error("not a PEM certificate: expected a block \"BEGIN CERTIFICATE\"")]
    Pem,
    /// The block is no X.509 certificate.
    #[error("not an X.509 certificate: {0}")]
    X509(String),
    /// A field that Pullpass relies on is out of range.
    #[error("certificate has a validity outside of the supported years")]
    Validity,
}

/// One X.509 certificate (RFC 5280), parsed.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    der: CertificateDer<'static>,
    serial: String,
    common_name: String,
    authority: bool,
    dns_names: BTreeSet<String>,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl Certificate {
    /// The first certificate in PEM text; what follows it is ignored.
    ///
    /// # Errors
    /// [`CertificateError`] if there is none, or it cannot be read.
    pub fn from_pem(text: &[u8]) -> Result<Self, CertificateError> {
        Self::all_from_pem(text)?
            .into_iter()
            .next()
            .ok_or(CertificateError::Pem)
    }

    /// Every certificate in PEM text, in order. Empty text gives an empty list.
    ///
    /// # Errors
    /// [`CertificateError`] if any block cannot be read.
    pub fn all_from_pem(text: &[u8]) -> Result<Vec<Self>, CertificateError> {
        let blocks = pem::parse_many(text).map_err(|_| CertificateError::Pem)?;
        // the parser passes over what does not end: a certificate that is cut off must not go unnoticed
        let begun = text
            .windows(PEM_BEGIN.len())
            .filter(|window| *window == PEM_BEGIN)
            .count();
        if blocks.len() != begun || (blocks.is_empty() && !text.trim_ascii().is_empty()) {
            return Err(CertificateError::Pem);
        }
        blocks
            .into_iter()
            .map(|block| {
                if block.tag() == PEM_TAG {
                    Self::from_der(CertificateDer::from(block.into_contents()))
                } else {
                    Err(CertificateError::Pem)
                }
            })
            .collect()
    }

    /// A certificate from its DER encoding.
    ///
    /// # Errors
    /// [`CertificateError`] if it cannot be read.
    pub fn from_der(der: CertificateDer<'static>) -> Result<Self, CertificateError> {
        let (_, parsed) = X509Certificate::from_der(&der)
            .map_err(|error| CertificateError::X509(error.to_string()))?;
        let common_name = parsed
            .subject()
            .iter_common_name()
            .find_map(|name| name.as_str().ok())
            .unwrap_or_default()
            .to_owned();
        let dns_names = parsed
            .subject_alternative_name()
            .map_err(|error| CertificateError::X509(error.to_string()))?
            .map(|extension| {
                extension
                    .value
                    .general_names
                    .iter()
                    .filter_map(|name| {
                        if let GeneralName::DNSName(dns) = name {
                            Some((*dns).to_owned())
                        } else {
                            None
                        }
                    })
                    .collect()
            })
            .unwrap_or_default();
        let instant = |time: x509_parser::time::ASN1Time| {
            Timestamp::from_second(time.timestamp()).map_err(|_| CertificateError::Validity)
        };
        let not_before = instant(parsed.validity().not_before)?;
        let not_after = instant(parsed.validity().not_after)?;
        let serial = parsed.raw_serial_as_string();
        let authority = parsed.is_ca();
        Ok(Self {
            serial,
            common_name,
            authority,
            dns_names,
            not_before,
            not_after,
            der,
        })
    }

    /// The certificate as PEM, one block with a newline at its end.
    #[must_use]
    pub fn pem(&self) -> String {
        let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        pem::encode_config(&pem::Pem::new(PEM_TAG, self.der.to_vec()), lines)
    }

    /// The certificate as DER.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The serial number in hexadecimal, bytes separated by colons.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The subject's common name; empty if it has none.
    #[must_use]
    pub fn common_name(&self) -> &str {
        &self.common_name
    }

    /// Whether it may sign others (basic constraints).
    #[must_use]
    pub fn is_authority(&self) -> bool {
        self.authority
    }

    /// The DNS names it is good for (subject alternative names).
    #[must_use]
    pub fn dns_names(&self) -> &BTreeSet<String> {
        &self.dns_names
    }

    /// The first instant of its validity.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// The last instant of its validity.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Two thirds of the way from `not_before` to `not_after`.
    #[must_use]
    pub fn renew_at(&self) -> Timestamp {
        let third = self.not_after.duration_since(self.not_before) / 3;
        earlier(self.not_after, third)
    }

    /// Whether `at` lies within the validity.
    #[must_use]
    pub fn is_valid_at(&self, at: Timestamp) -> bool {
        self.not_before <= at && at <= self.not_after
    }

    /// Whether it expired longer than `tolerance` before `now`.
    pub(crate) fn is_long_expired(&self, now: Timestamp, tolerance: jiff::SignedDuration) -> bool {
        later(self.not_after, tolerance) < now
    }

    /// Whether `authority` signed this certificate: names match, and so does the signature.
    #[must_use]
    pub fn is_signed_by(&self, authority: &Self) -> bool {
        let Ok((_, child)) = X509Certificate::from_der(&self.der) else {
            return false;
        };
        let Ok((_, parent)) = X509Certificate::from_der(&authority.der) else {
            return false;
        };
        authority.authority
            && child.issuer().as_raw() == parent.subject().as_raw()
            && child.verify_signature(Some(parent.public_key())).is_ok()
    }

    /// The subject's public key, as in its bit string.
    pub(crate) fn public_key(&self) -> Vec<u8> {
        X509Certificate::from_der(&self.der)
            .map(|(_, parsed)| parsed.public_key().subject_public_key.data.to_vec())
            .unwrap_or_default()
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("common_name", &self.common_name)
            .field("serial", &self.serial)
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .field("dns_names", &self.dns_names)
            .finish_non_exhaustive()
    }
}
