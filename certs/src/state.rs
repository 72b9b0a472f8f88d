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

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::issue::{Issued, Validity, issue_authority, issue_serving};

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);
    const HOUR: SignedDuration = SignedDuration::from_hours(1);

    fn issued() -> Issued {
        issue_authority(Validity::lasting(NOW, HOUR * 100, HOUR)).unwrap()
    }

    fn authority(leaves_expire: Timestamp) -> Authority {
        let issued = issued();
        Authority {
            certificate: issued.certificate,
            key: Some(issued.key),
            leaves_expire,
        }
    }

    fn authorities() -> Authorities {
        Authorities {
            current: Some(authority(NOW)),
            next: Some(Pending {
                authority: authority(NOW - HOUR),
                published_at: Some(NOW),
            }),
            previous: vec![
                Authority {
                    key: None,
                    ..authority(NOW + HOUR)
                },
                Authority {
                    key: None,
                    ..authority(NOW)
                },
            ],
        }
    }

    fn assert_same(left: &Authority, right: &Authority) {
        assert_eq!(left.certificate, right.certificate);
        assert_eq!(left.leaves_expire, right.leaves_expire);
        let text = |authority: &Authority| {
            authority
                .key
                .as_ref()
                .map(|key| key.expose_pem().to_owned())
        };
        assert_eq!(text(left), text(right));
    }

    #[test]
    fn authorities_are_read_as_they_were_written() {
        let written = authorities();
        let data = written.to_secret_data().unwrap();
        let keys: Vec<&str> = data.keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "ca.crt",
                "ca.key",
                "next.crt",
                "next.key",
                "previous.crt",
                "rotation.json"
            ]
        );
        let (read, damaged) = Authorities::from_secret_data(&data);
        assert!(!damaged);
        assert_eq!(read.trusted().count(), 4);
        for (read, written) in read.trusted().zip(written.trusted()) {
            assert_same(read, written);
        }
        assert_eq!(read.next.unwrap().published_at, Some(NOW));
    }

    #[test]
    fn without_its_times_an_authority_is_trusted_to_its_own_end() {
        let mut data = authorities().to_secret_data().unwrap();
        data.insert(ROTATION.to_owned(), b"not json".to_vec());
        let (read, damaged) = Authorities::from_secret_data(&data);
        assert!(!damaged);
        assert_eq!(read.next.as_ref().unwrap().published_at, None);
        assert!(
            read.trusted()
                .all(|authority| authority.leaves_expire == authority.certificate.not_after())
        );
    }

    #[test]
    fn what_cannot_be_used_is_damage_and_the_rest_is_kept() {
        let good = authorities().to_secret_data().unwrap();
        for (key, left) in [
            ("ca.crt", 3),
            ("ca.key", 4),
            ("next.crt", 3),
            ("next.key", 4),
            ("previous.crt", 2),
        ] {
            let mut data = good.clone();
            data.insert(key.to_owned(), good[key][..good[key].len() - 40].to_vec());
            let (read, damaged) = Authorities::from_secret_data(&data);
            assert!(damaged, "{key}");
            assert_eq!(read.trusted().count(), left, "{key}");
        }
        let mut swapped = good.clone();
        swapped.insert("ca.key".to_owned(), good["next.key"].clone());
        let (read, damaged) = Authorities::from_secret_data(&swapped);
        assert!(
            damaged && read.current.unwrap().key.is_none(),
            "the key of another certificate is none"
        );
        assert!(Authorities::from_secret_data(&SecretData::new()).1);
    }

    #[test]
    fn the_bundle_does_not_depend_on_roles() {
        let before = authorities();
        let mut after = before.clone();
        let promoted = after.next.take().unwrap().authority;
        let old = after.current.replace(promoted).unwrap();
        after.previous.push(old);
        assert_eq!(before.ca_bundle(), after.ca_bundle());
        assert_eq!(
            Certificate::all_from_pem(before.ca_bundle().as_bytes())
                .unwrap()
                .len(),
            4
        );
        assert_eq!(Authorities::default().ca_bundle(), "");
    }

    #[test]
    fn a_serving_certificate_needs_its_own_key() {
        let authority = issued();
        let leaf = || {
            let validity = Validity::lasting(NOW, HOUR, HOUR);
            issue_serving(
                &authority.certificate,
                &authority.key,
                &["a.svc".to_owned()].into(),
                validity,
            )
            .unwrap()
        };
        let (one, two) = (leaf(), leaf());
        let written = Serving {
            certificate: one.certificate,
            key: one.key,
            authority: Some(authority.certificate.clone()),
        };
        let data = written.to_secret_data();
        assert_eq!(
            data.keys().collect::<Vec<_>>(),
            ["ca.crt", "tls.crt", "tls.key"]
        );
        let read = Serving::from_secret_data(&data).unwrap();
        assert_eq!(read.certificate, written.certificate);
        assert_eq!(read.authority, written.authority);
        let mut mixed = data.clone();
        mixed.insert(
            SERVING_KEY.to_owned(),
            two.key.expose_pem().as_bytes().to_vec(),
        );
        assert!(Serving::from_secret_data(&mixed).is_none());
        assert!(Stored::read(None, Some(&data)).serving.is_some());
    }
}
