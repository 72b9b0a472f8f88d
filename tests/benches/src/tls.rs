//! Certificates of the measured servers, of the kind that the controller issues, and clients that trust them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};
use pullpass_certs::issue::{issue_authority, issue_serving};
use pullpass_certs::{Certificate, ServingIdentity, Validity};
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};

use crate::checkout;

/// The name in the certificate.
pub(crate) const NAME: &str = "localhost";

/// Longer than any run.
const LIFETIME: SignedDuration = SignedDuration::from_hours(24);

/// A directory with `tls.crt`, `tls.key` and `ca.crt`, as every webhook takes them.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    directory: PathBuf,
}

impl Identity {
    /// Issues one.
    pub(crate) fn issue() -> Result<Self> {
        let directory = checkout::output()?.join("tls");
        fs::create_dir_all(&directory)?;
        let validity = Validity::lasting(Timestamp::now(), LIFETIME, SignedDuration::from_hours(1));
        let authority = issue_authority(validity)?;
        let names = BTreeSet::from([NAME.to_owned()]);
        let serving = issue_serving(&authority.certificate, &authority.key, &names, validity)?;
        for (name, content) in [
            ("ca.crt", authority.certificate.pem().as_str()),
            ("tls.crt", serving.certificate.pem().as_str()),
            ("tls.key", serving.key.expose_pem()),
        ] {
            let path = directory.join(name);
            fs::write(&path, content)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(Self { directory })
    }

    /// Where it lies.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The authority, PEM.
    pub(crate) fn authority(&self) -> Result<Vec<u8>> {
        Ok(fs::read(self.directory.join("ca.crt"))?)
    }

    /// A client that trusts it, and makes each handshake a whole one, as an API server does.
    pub(crate) fn client(&self) -> Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(Certificate::from_pem(&self.authority()?)?.der().clone())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

/// Reads what a server serves.
pub(crate) fn serving_identity(directory: &Path) -> Result<ServingIdentity> {
    let read = |name: &str| {
        let path = directory.join(name);
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    Ok(ServingIdentity::from_pem(
        &read("tls.crt")?,
        &read("tls.key")?,
    )?)
}
