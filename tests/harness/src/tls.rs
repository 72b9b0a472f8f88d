//! A TLS server of a test's own, under an authority of its own.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use axum::Router;
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::cluster;

/// A running server; it ends when it is dropped.
pub(crate) struct Served {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The certificate authority (PEM) of its certificate.
    pub(crate) authority: String,
    handle: Handle<SocketAddr>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}

/// Listens there with a certificate for these names and addresses.
pub(crate) async fn serve(router: Router, listen: SocketAddr, names: &[&str]) -> Result<Served> {
    cluster::use_one_crypto_provider();
    let (authority, certificate, key) = certificate(names)?;
    let tls = RustlsConfig::from_pem(certificate.into_bytes(), key.into_bytes()).await?;
    let handle = Handle::new();
    let server = axum_server::bind_rustls(listen, tls)
        .handle(handle.clone())
        .serve(router.into_make_service());
    tokio::spawn(server);
    let address = handle
        .listening()
        .await
        .with_context(|| format!("nothing can listen on {listen}"))?;
    Ok(Served {
        address,
        authority,
        handle,
    })
}

/// An authority, and a certificate for these names and addresses with its key; all PEM.
pub(crate) fn certificate(names: &[&str]) -> Result<(String, String, String)> {
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_pem = authority.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate()?;
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let leaf = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
    Ok((authority_pem, leaf.pem(), key.serialize_pem()))
}
