//! A serving certificate that can be swapped while connections are served.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::certificate::{Certificate, CertificateError};
use crate::state::Serving;

/// Why a certificate and a key cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The certificate cannot be read.
    #[error("serving certificate: {0}")]
    Certificate(#[from] CertificateError),
    /// The chain cannot be read, or is empty.
    #[error("serving certificate: no readable PEM block \"BEGIN CERTIFICATE\"")]
    Chain,
    /// The key cannot be read.
    #[error("private key: no readable PEM block \"BEGIN PRIVATE KEY\"")]
    Key,
    /// The key cannot be used, or belongs to another certificate.
    #[error("private key does not fit the serving certificate: {0}")]
    Mismatch(rustls::Error),
}

/// A certificate chain with the private key of its first certificate.
#[derive(Clone)]
pub struct ServingIdentity {
    certified: Arc<CertifiedKey>,
    leaf: Certificate,
}

impl ServingIdentity {
    /// Takes a chain (leaf first) and a private key, both PEM, as in a Secret of type `kubernetes.io/tls`.
    ///
    /// # Errors
    /// [`IdentityError`] if either cannot be read, or the key is not that of the leaf.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|_| IdentityError::Chain)?;
        let leaf = Certificate::from_der(chain.first().cloned().ok_or(IdentityError::Chain)?)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| IdentityError::Key)?;
        let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
            .map_err(IdentityError::Mismatch)?;
        Ok(Self {
            certified: Arc::new(certified),
            leaf,
        })
    }

    /// The certificate that clients see.
    #[must_use]
    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }
}

impl TryFrom<&Serving> for ServingIdentity {
    type Error = IdentityError;

    fn try_from(serving: &Serving) -> Result<Self, Self::Error> {
        Self::from_pem(
            serving.certificate.pem().as_bytes(),
            serving.key.expose_pem().as_bytes(),
        )
    }
}

impl fmt::Debug for ServingIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServingIdentity")
            .field("leaf", &self.leaf)
            .finish_non_exhaustive()
    }
}

/// Gives each new connection the certificate of the moment. Without one, handshakes fail.
#[derive(Debug, Default)]
pub struct ServingCertResolver {
    identity: ArcSwapOption<ServingIdentity>,
}

impl ServingCertResolver {
    /// A resolver that has nothing to serve yet.
    #[must_use]
    pub fn empty() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Serves `identity` to every connection from now on. Established connections keep theirs.
    pub fn replace(&self, identity: ServingIdentity) {
        self.identity.store(Some(Arc::new(identity)));
    }

    /// What is served at the moment.
    #[must_use]
    pub fn current(&self) -> Option<Arc<ServingIdentity>> {
        self.identity.load_full()
    }

    /// When the certificate that is served expires.
    #[must_use]
    pub fn not_after(&self) -> Option<Timestamp> {
        self.identity
            .load()
            .as_ref()
            .map(|identity| identity.leaf.not_after())
    }
}

impl ResolvesServerCert for ServingCertResolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.identity
            .load()
            .as_ref()
            .map(|identity| Arc::clone(&identity.certified))
    }
}

/// A server's TLS configuration: TLS 1.2 and 1.3, HTTP/1.1 only, certificates from `resolver`.
///
/// # Errors
/// [`rustls::Error`] if the TLS library was built without the protocol versions.
pub fn server_config(resolver: Arc<ServingCertResolver>) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    // kube-apiserver calls webhooks over HTTP/1.1
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // It keeps no TLS sessions either, so tickets would be work for nobody; and a resumed session would go on
    // under a certificate that has been replaced since.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use jiff::SignedDuration;
    use rustls::{
        ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, ServerConnection,
    };
    use rustls_pki_types::ServerName;

    use super::*;
    use crate::issue::{Issued, Validity, issue_authority, issue_serving};

    const NAME: &str = "a.b.svc";

    fn authority() -> Issued {
        issue_authority(Validity::lasting(
            Timestamp::now(),
            SignedDuration::from_hours(2),
            SignedDuration::ZERO,
        ))
        .unwrap()
    }

    fn identity(authority: &Issued) -> ServingIdentity {
        let validity = Validity::lasting(
            Timestamp::now(),
            SignedDuration::from_hours(1),
            SignedDuration::from_mins(1),
        );
        let leaf = issue_serving(
            &authority.certificate,
            &authority.key,
            &[NAME.to_owned()].into(),
            validity,
        )
        .unwrap();
        let serving = Serving {
            certificate: leaf.certificate,
            key: leaf.key,
            authority: None,
        };
        ServingIdentity::try_from(&serving).unwrap()
    }

    fn client(
        authority: &Issued,
        version: &'static rustls::SupportedProtocolVersion,
        alpn: &[&[u8]],
    ) -> ClientConnection {
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate.der().clone()).unwrap();
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        ClientConnection::new(Arc::new(config), ServerName::try_from(NAME).unwrap()).unwrap()
    }

    /// Carries bytes between both ends until neither has any more to say.
    fn converse(
        client: &mut ClientConnection,
        server: &mut ServerConnection,
    ) -> Result<(), rustls::Error> {
        while client.wants_write() || server.wants_write() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut bytes.as_slice()).unwrap();
            let heard = server.process_new_packets();
            let mut bytes = Vec::new();
            server.write_tls(&mut bytes).unwrap();
            client.read_tls(&mut bytes.as_slice()).unwrap();
            client.process_new_packets()?;
            heard?;
        }
        Ok(())
    }

    fn server(resolver: &Arc<ServingCertResolver>) -> ServerConnection {
        ServerConnection::new(Arc::new(server_config(Arc::clone(resolver)).unwrap())).unwrap()
    }

    fn seen(connection: &ClientConnection) -> Certificate {
        Certificate::from_der(
            connection.peer_certificates().unwrap()[0]
                .clone()
                .into_owned(),
        )
        .unwrap()
    }

    #[test]
    fn new_connections_see_the_new_certificate_and_old_ones_go_on() {
        let authority = authority();
        let (one, two) = (identity(&authority), identity(&authority));
        let resolver = ServingCertResolver::empty();
        assert_eq!(resolver.not_after(), None);
        resolver.replace(one.clone());
        assert_eq!(resolver.not_after(), Some(one.leaf().not_after()));

        let (mut old_client, mut old_server) = (
            client(&authority, &rustls::version::TLS13, &[b"http/1.1"]),
            server(&resolver),
        );
        converse(&mut old_client, &mut old_server).unwrap();
        assert_eq!(&seen(&old_client), one.leaf());
        assert_eq!(old_client.alpn_protocol(), Some(&b"http/1.1"[..]));

        resolver.replace(two.clone());
        let (mut new_client, mut new_server) = (
            client(&authority, &rustls::version::TLS12, &[]),
            server(&resolver),
        );
        converse(&mut new_client, &mut new_server).unwrap();
        assert_eq!(&seen(&new_client), two.leaf());
        assert_eq!(
            new_client.protocol_version(),
            Some(ProtocolVersion::TLSv1_2)
        );

        old_client.writer().write_all(b"still there").unwrap();
        converse(&mut old_client, &mut old_server).unwrap();
        let mut heard = [0; 11];
        old_server.reader().read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"still there");
    }

    #[test]
    fn without_a_certificate_handshakes_fail() {
        let authority = authority();
        let resolver = ServingCertResolver::empty();
        let failed = converse(
            &mut client(&authority, &rustls::version::TLS13, &[]),
            &mut server(&resolver),
        );
        assert!(failed.is_err());
    }

    #[test]
    fn http_2_is_not_offered() {
        let authority = authority();
        let resolver = ServingCertResolver::empty();
        resolver.replace(identity(&authority));
        let failed = converse(
            &mut client(&authority, &rustls::version::TLS13, &[b"h2"]),
            &mut server(&resolver),
        );
        assert!(
            matches!(
                failed,
                Err(rustls::Error::AlertReceived(
                    rustls::AlertDescription::NoApplicationProtocol
                ))
            ),
            "{failed:?}"
        );
    }

    #[test]
    fn a_key_that_belongs_to_another_certificate_is_refused() {
        let (one, two) = (authority(), authority());
        let refused = ServingIdentity::from_pem(
            one.certificate.pem().as_bytes(),
            two.key.expose_pem().as_bytes(),
        )
        .unwrap_err();
        assert!(matches!(refused, IdentityError::Mismatch(_)), "{refused}");
        let refused = ServingIdentity::from_pem(b"", two.key.expose_pem().as_bytes()).unwrap_err();
        assert!(matches!(refused, IdentityError::Chain), "{refused}");
        let refused = ServingIdentity::from_pem(one.certificate.pem().as_bytes(), b"").unwrap_err();
        assert!(matches!(refused, IdentityError::Key), "{refused}");
    }
}
