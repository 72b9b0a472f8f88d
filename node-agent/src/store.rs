//! The bundles that the plugin answers from: one file for each Secret of the agent's namespace.
//!
//! The directory is for root alone, and so are its files, which change as a whole.

use std::io;

use pullpass_core::bundle::Bundle;
use pullpass_core::render::MAX_SECRET_BYTES;
use pullpass_credential_provider::store::SECRETS;
use secrecy::ExposeSecret as _;

use crate::atomic_file;
use crate::host::{Found, Host};

/// The mode of the files: they hold credentials.
const MODE: u32 = 0o600;

/// Whether something had to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// All was as it should be.
    Unchanged,
    /// It was made so.
    Changed,
}

impl Kept {
    /// Of two, whether any was changed.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        if self == Self::Unchanged { other } else { self }
    }
}

/// The name of a Secret's file in the store.
fn file(secret: &str) -> String {
    format!("{secret}.json")
}

/// Makes the store hold exactly these bundles, by the names of their Secrets.
///
/// # Errors
/// The first that occurs; the files before it have changed.
pub fn keep<'a, H: Host>(
    host: &H,
    bundle_of: impl Fn(&str) -> Option<&'a Bundle>,
) -> io::Result<Kept> {
    SECRETS
        .into_iter()
        .try_fold(Kept::Unchanged, |kept, secret| {
            let file = file(secret);
            let now = match bundle_of(secret) {
                Some(bundle) => {
                    let content = bundle.write();
                    keep_file(host, &file, content.expose_secret(), MODE, MAX_SECRET_BYTES)?
                }
                None => remove_file(host, &file)?,
            };
            Ok(kept.and(now))
        })
}

/// Whether the store holds a bundle.
///
/// # Errors
/// What the system says.
pub(crate) fn is_kept<H: Host>(host: &H) -> io::Result<bool> {
    SECRETS.into_iter().try_fold(false, |kept, secret| {
        let found = host.read(&file(secret), MAX_SECRET_BYTES)?;
        Ok(kept || !matches!(found, Found::Nothing))
    })
}

/// Makes a file of ours hold this.
///
/// # Errors
/// What the system says.
pub(crate) fn keep_file<H: Host>(
    host: &H,
    file: &str,
    content: &[u8],
    mode: u32,
    limit: usize,
) -> io::Result<Kept> {
    if let Found::File(found) = host.read(file, limit)?
        && found.content.expose_secret() == content
        && found.mode == mode
        && found.owned
    {
        return Ok(Kept::Unchanged);
    }
    atomic_file::replace(host, file, &format!(".{file}.new"), content, mode)?;
    Ok(Kept::Changed)
}

/// Removes a file of ours.
///
/// # Errors
/// What the system says.
pub(crate) fn remove_file<H: Host>(host: &H, file: &str) -> io::Result<Kept> {
    if !host.remove(file)? {
        return Ok(Kept::Unchanged);
    }
    host.sync_directory("")?;
    Ok(Kept::Changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::memory::MemoryHost;
    use pullpass_core::bundle::{NODE_WIDE_SECRET, RESTRICTED_SECRET};
    use std::collections::BTreeMap;

    fn bundle(generation: u64) -> Bundle {
        Bundle {
            generation,
            ..Bundle::default()
        }
    }

    #[test]
    fn the_store_holds_what_it_is_to_hold() {
        let host = MemoryHost::default();
        let (open, restricted) = (bundle(1), bundle(2));
        let both = BTreeMap::from([(NODE_WIDE_SECRET, &open), (RESTRICTED_SECRET, &restricted)]);
        let keep_all = || keep(&host, |secret| both.get(secret).copied()).unwrap();
        assert!(!is_kept(&host).unwrap());
        assert_eq!(keep_all(), Kept::Changed);
        assert_eq!(keep_all(), Kept::Unchanged);
        assert!(is_kept(&host).unwrap());
        let file = "pullpass-nodes-restricted.json";
        assert_eq!(host.get(file).unwrap(), restricted.write().expose_secret());
        assert_eq!(host.mode(file), Some(0o600));

        // what somebody else has changed is put right
        host.put(file, b"{}", 0o644);
        assert_eq!(keep_all(), Kept::Changed);
        assert_eq!(host.get(file).unwrap(), restricted.write().expose_secret());
        assert_eq!(host.mode(file), Some(0o600));

        assert_eq!(keep(&host, |_| None).unwrap(), Kept::Changed);
        assert!(host.names().is_empty());
        assert_eq!(keep(&host, |_| None).unwrap(), Kept::Unchanged);
    }
}
