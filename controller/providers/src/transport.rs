//! Why no answer came: errors of the HTTP client as failures.

use std::error::Error;
use std::io;

use pullpass_core::reason::Reason;
use rustls::{CertificateError, InvalidMessage};
use url::Url;

use crate::failure::Failure;
use crate::resolver::RefusedAddress;

/// Whether the host is known and does not speak TLS there: the case for plain HTTP where that is allowed.
pub(crate) fn is_without_tls(error: &reqwest::Error) -> bool {
    error.is_connect() && !error.is_dns()
}

/// What an error of the client means; `is_proxied` if a proxy was to be gone through.
pub(crate) fn failure(error: &reqwest::Error, url: &Url, is_proxied: bool) -> Failure {
    let host = name(url);
    if let Some(RefusedAddress(place)) = find::<RefusedAddress>(error) {
        return Failure::new(
            Reason::UnsafeRealm,
            format!(
                "the registry's token service {host} resolves to {place}: the credential is not sent there"
            ),
        );
    }
    if let Some(error) = find::<rustls::Error>(error) {
        return tls(error, &host);
    }
    let (reason, what) = if error.is_timeout() {
        (Reason::Unreachable, "did not answer in time".to_owned())
    } else if error.is_dns() {
        let subject = if is_proxied {
            "or the proxy's name cannot be resolved"
        } else {
            "cannot be resolved: the name server knows no address of it"
        };
        (Reason::Unreachable, subject.to_owned())
    } else if error.is_connect() && is_proxied {
        let what = "cannot be reached through the proxy: it refuses the login or the host, or cannot be reached itself";
        (Reason::ProxyFailed, what.to_owned())
    } else if error.is_connect() {
        let cause = find::<io::Error>(error).map_or_else(
            || "the connection failed".to_owned(),
            |error| error.kind().to_string(),
        );
        (
            Reason::Unreachable,
            format!("cannot be connected to: {cause}"),
        )
    } else {
        let what = "broke the answer off, or sent none that is HTTP";
        (Reason::RegistryFailing, what.to_owned())
    };
    Failure::new(reason, format!("{host} {what}"))
}

fn tls(error: &rustls::Error, host: &str) -> Failure {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the library's lists grow")]
    let (reason, what) = match error {
        rustls::Error::InvalidCertificate(error) => {
            (Reason::CertificateUnknown, certificate(error))
        }
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => (
            Reason::HostMismatch,
            "does not speak TLS; plain HTTP is used in the TLS mode Insecure only",
        ),
        _ => (Reason::CertificateUnknown, "did not agree on TLS"),
    };
    Failure::new(reason, format!("{host} {what}"))
}

fn certificate(error: &CertificateError) -> &'static str {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the library's list grows")]
    match error {
        CertificateError::UnknownIssuer => {
            "shows a certificate of an authority that is not trusted: give the authority by tls.mode SecureWithCA"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "shows a certificate that has expired"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "shows a certificate that is not valid yet"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "shows a certificate for other names than this"
        }
        CertificateError::BadSignature => {
            "shows a certificate of another authority than the trusted one of that name"
        }
        CertificateError::Revoked => "shows a certificate that is revoked",
        _ => "shows a certificate that is not good",
    }
}

/// Host and port, for messages.
pub(crate) fn name(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// An error of that type among the causes. An I/O error hides the one that it carries from the chain.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = match error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(carried) => Some(carried),
            None => error.source(),
        };
    }
    None
}
