//! What is kept between two runs: the authorities in one Secret, the serving certificate in another.
//!
//! Secrets appear as maps from data key to bytes. Reading never fails: what cannot be read is left out and
//! reported as damage, which [`crate::rotate()`] then repairs from whatever else is known.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::certificate::Certificate;
use crate::issue::PrivateKey;

/// The data of a Secret.
pub type SecretData = BTreeMap<String, Vec<u8>>;

/// Secret `pullpass-ca`: the authority that signs.
pub const AUTHORITY_CERTIFICATE: &str = "ca.crt";
/// Secret `pullpass-ca`: its private key.
pub const AUTHORITY_KEY: &str = "ca.key";
/// Secret `pullpass-ca`: the authority that will sign next, already in trust.
pub const NEXT_CERTIFICATE: &str = "next.crt";
/// Secret `pullpass-ca`: its private key.
pub const NEXT_KEY: &str = "next.key";
/// Secret `pullpass-ca`: authorities that sign no more, in trust until their last leaf has expired.
pub const PREVIOUS_CERTIFICATES: &str = "previous.crt";
/// Secret `pullpass-ca`: when things happened, as JSON.
pub const ROTATION: &str = "rotation.json";
/// Serving Secret (type `kubernetes.io/tls`): the certificate.
pub const SERVING_CERTIFICATE: &str = "tls.crt";
/// Serving Secret: its private key.
pub const SERVING_KEY: &str = "tls.key";
/// Serving Secret: the authority that signed it.
pub const SERVING_AUTHORITY: &str = "ca.crt";

/// An authority in trust.
#[derive(Debug, Clone)]
pub struct Authority {
    /// Its certificate.
    pub certificate: Certificate,
    /// Its private key; `None` if it only is in trust, or the key was lost.
    pub key: Option<PrivateKey>,
    /// No leaf that it signed is valid after this instant.
    pub leaves_expire: Timestamp,
}

/// An authority which is being made known before it signs anything.
#[derive(Debug, Clone)]
pub struct Pending {
    /// The authority.
    pub authority: Authority,
    /// When it was first seen to be part of the published bundle, by the clock of the one who looked.
    pub published_at: Option<Timestamp>,
}

/// All authorities: the content of the Secret `pullpass-ca`.
#[derive(Debug, Clone, Default)]
pub struct Authorities {
    /// Signs the leaves. `None` only before the first is issued, and after a loss.
    pub current: Option<Authority>,
    /// Will sign after it has been in trust long enough.
    pub next: Option<Pending>,
    /// Sign no more.
    pub previous: Vec<Authority>,
}

/// The serving certificate: the content of the Secret `pullpass-webhook-tls`.
#[derive(Debug, Clone)]
pub struct Serving {
    /// The leaf.
    pub certificate: Certificate,
    /// Its private key, which matches it.
    pub key: PrivateKey,
    /// The authority that signed it, if that is on record.
    pub authority: Option<Certificate>,
}

/// Both Secrets, as far as they can be read.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    /// The authorities.
    pub authorities: Authorities,
    /// Whether the Secret of the authorities is missing, or some of it is unreadable.
    pub damaged: bool,
    /// The leaf; `None` if it is missing, unreadable, or its key belongs to another certificate.
    pub serving: Option<Serving>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rotation {
    #[serde(skip_serializing_if = "Option::is_none")]
    next_published_at: Option<Timestamp>,
    /// by serial number
    #[serde(default)]
    leaves_expire: BTreeMap<String, Timestamp>,
}

impl Authority {
    /// An authority of which it is not known what it signed: its own end is the only bound.
    #[must_use]
    pub fn of_unknown_history(certificate: Certificate, key: Option<PrivateKey>) -> Self {
        Self {
            leaves_expire: certificate.not_after(),
            certificate,
            key,
        }
    }
}

impl Authorities {
    /// Every authority in trust.
    pub fn trusted(&self) -> impl Iterator<Item = &Authority> {
        self.current
            .iter()
            .chain(self.next.iter().map(|next| &next.authority))
            .chain(&self.previous)
    }

    /// What belongs into `caBundle`: every authority in trust as PEM, oldest first, so that a change of roles
    /// does not change the text. Empty if there is none.
    #[must_use]
    pub fn ca_bundle(&self) -> String {
        let mut certificates: Vec<&Certificate> = self
            .trusted()
            .map(|authority| &authority.certificate)
            .collect();
        certificates.sort_by_key(|certificate| (certificate.not_before(), certificate.serial()));
        certificates.dedup();
        certificates.into_iter().map(Certificate::pem).collect()
    }

    /// The Secret's data, complete: keys that are not in it are to be removed.
    ///
    /// # Errors
    /// None in practice: the times on record are plain values.
    pub fn to_secret_data(&self) -> Result<SecretData, serde_json::Error> {
        let mut data = SecretData::new();
        let mut put = |certificate_key: &str, private_key: &str, authority: &Authority| {
            data.insert(
                certificate_key.to_owned(),
                authority.certificate.pem().into_bytes(),
            );
            if let Some(key) = &authority.key {
                data.insert(private_key.to_owned(), key.expose_pem().as_bytes().to_vec());
            }
        };
        if let Some(current) = &self.current {
            put(AUTHORITY_CERTIFICATE, AUTHORITY_KEY, current);
        }
        if let Some(next) = &self.next {
            put(NEXT_CERTIFICATE, NEXT_KEY, &next.authority);
        }
        if !self.previous.is_empty() {
            let text: String = self
                .previous
                .iter()
                .map(|authority| authority.certificate.pem())
                .collect();
            data.insert(PREVIOUS_CERTIFICATES.to_owned(), text.into_bytes());
        }
        let rotation = Rotation {
            next_published_at: self.next.as_ref().and_then(|next| next.published_at),
            leaves_expire: self
                .trusted()
                .map(|authority| {
                    (
                        authority.certificate.serial().to_owned(),
                        authority.leaves_expire,
                    )
                })
                .collect(),
        };
        data.insert(ROTATION.to_owned(), serde_json::to_vec(&rotation)?);
        Ok(data)
    }

    /// Reads the Secret's data. The second value says whether something was there that could not be used,
    /// or the current authority was missing.
    #[must_use]
    pub fn from_secret_data(data: &SecretData) -> (Self, bool) {
        // without these times everything still holds, only later: a pending authority waits anew, an old one
        // stays in trust until its own end
        let rotation: Rotation = data
            .get(ROTATION)
            .and_then(|text| serde_json::from_slice(text).ok())
            .unwrap_or_default();
        let mut damaged = false;
        let mut read = |certificate_key: &str, private_key: &str| -> Option<Authority> {
            let (authority, complete) = read_authority(
                data.get(certificate_key),
                data.get(private_key),
                &rotation.leaves_expire,
            );
            damaged |= !complete;
            authority
        };
        let current = read(AUTHORITY_CERTIFICATE, AUTHORITY_KEY);
        let next = read(NEXT_CERTIFICATE, NEXT_KEY).map(|authority| Pending {
            authority,
            published_at: rotation.next_published_at,
        });
        let previous = match data
            .get(PREVIOUS_CERTIFICATES)
            .map(|text| Certificate::all_from_pem(text))
        {
            None => Vec::new(),
            Some(Ok(certificates)) => certificates
                .into_iter()
                .map(|certificate| with_history(certificate, None, &rotation.leaves_expire))
                .collect(),
            Some(Err(_)) => {
                damaged = true;
                Vec::new()
            }
        };
        damaged |= current.is_none();
        (
            Self {
                current,
                next,
                previous,
            },
            damaged,
        )
    }
}

impl Serving {
    /// The Secret's data, complete.
    #[must_use]
    pub fn to_secret_data(&self) -> SecretData {
        let mut data = SecretData::from([
            (
                SERVING_CERTIFICATE.to_owned(),
                self.certificate.pem().into_bytes(),
            ),
            (
                SERVING_KEY.to_owned(),
                self.key.expose_pem().as_bytes().to_vec(),
            ),
        ]);
        if let Some(authority) = &self.authority {
            data.insert(SERVING_AUTHORITY.to_owned(), authority.pem().into_bytes());
        }
        data
    }

    /// Reads the Secret's data; `None` if there is no certificate in it with its own key.
    #[must_use]
    pub fn from_secret_data(data: &SecretData) -> Option<Self> {
        let certificate = Certificate::from_pem(data.get(SERVING_CERTIFICATE)?).ok()?;
        let key = read_key(data.get(SERVING_KEY)?).filter(|key| key.matches(&certificate))?;
        let authority = data
            .get(SERVING_AUTHORITY)
            .and_then(|text| Certificate::from_pem(text).ok());
        Some(Self {
            certificate,
            key,
            authority,
        })
    }
}

impl Stored {
    /// Reads both Secrets; `None` for one that does not exist.
    #[must_use]
    pub fn read(authorities: Option<&SecretData>, serving: Option<&SecretData>) -> Self {
        let (authorities, damaged) = authorities.map_or_else(
            || (Authorities::default(), true),
            Authorities::from_secret_data,
        );
        Self {
            authorities,
            damaged,
            serving: serving.and_then(Serving::from_secret_data),
        }
    }
}

fn read_key(text: &[u8]) -> Option<PrivateKey> {
    PrivateKey::from_pem(std::str::from_utf8(text).ok()?).ok()
}

fn with_history(
    certificate: Certificate,
    key: Option<PrivateKey>,
    leaves_expire: &BTreeMap<String, Timestamp>,
) -> Authority {
    let known = leaves_expire.get(certificate.serial()).copied();
    let mut authority = Authority::of_unknown_history(certificate, key);
    if let Some(known) = known {
        authority.leaves_expire = known.min(authority.leaves_expire);
    }
    authority
}

/// The authority, and whether all that was there could be used.
fn read_authority(
    certificate: Option<&Vec<u8>>,
    key: Option<&Vec<u8>>,
    leaves_expire: &BTreeMap<String, Timestamp>,
) -> (Option<Authority>, bool) {
    let Some(text) = certificate else {
        return (None, key.is_none());
    };
    let Ok(certificate) = Certificate::from_pem(text) else {
        return (None, false);
    };
    if !certificate.is_authority() {
        return (None, false);
    }
    let usable = key
        .and_then(|text| read_key(text))
        .filter(|key| key.matches(&certificate));
    let complete = key.is_none() || usable.is_some();
    (
        Some(with_history(certificate, usable, leaves_expire)),
        complete,
    )
}
