//! Whose certificates are trusted.

use std::sync::{Arc, LazyLock};

use pullpass_core::reason::Reason;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::connection::Tls;
use crate::failure::Failure;

/// The publicly trusted authorities, from where the operating system keeps them. An image's do not change while it runs.
static PUBLIC: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Arc::new(roots)
});

/// How to speak TLS to whom `tls` trusts.
pub(crate) fn client_config(tls: &Tls) -> Result<ClientConfig, Failure> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::new(Reason::CertificateUnknown, error.to_string()))?;
    let builder = match tls {
        Tls::Secure if PUBLIC.is_empty() => {
            return Err(Failure::new(
                Reason::CertificateUnknown,
                "the controller's image holds no publicly trusted authorities: add the package ca-certificates, or give the registry's own by tls.mode SecureWithCA",
            ));
        }
        Tls::Secure => builder.with_root_certificates(Arc::clone(&PUBLIC)),
        Tls::SecureWithCa(authorities) => {
            let mut roots = RootCertStore::clone(&PUBLIC);
            roots.add_parsable_certificates(authorities.0.iter().cloned());
            builder.with_root_certificates(roots)
        }
        Tls::Insecure => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider))),
    };
    Ok(builder.with_no_client_auth())
}

/// Takes every certificate, as `spec.connection.tls.mode: Insecure` asks. The other side still has to hold its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
