//! How a registry is reached: whom to trust as the registry, and which way to go.

use std::fmt;
use std::sync::Arc;

use hyper_util::client::proxy::matcher::Matcher;
use percent_encoding::percent_decode_str;
use pullpass_core::docker_config::{Login, LoginError};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use secrecy::SecretString;
use url::Url;

/// How a registry is reached.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// Whom to trust as the registry.
    pub tls: Tls,
    /// Which way to go.
    pub via: Via,
}

/// Whom to trust as the registry.
#[derive(Clone, Debug, Default)]
pub enum Tls {
    /// Whoever has a certificate under a publicly trusted authority.
    #[default]
    Secure,
    /// That, or a certificate under one of these authorities.
    SecureWithCa(Authorities),
    /// Anybody, over plain HTTP where the registry speaks no TLS.
    Insecure,
}

/// Certificates of authorities.
#[derive(Clone)]
pub struct Authorities(pub(crate) Arc<[CertificateDer<'static>]>);

/// Why a text holds no authorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthoritiesError {
    /// No PEM section of a certificate.
    #[error(
        "holds no certificate: put the authority's certificate there as PEM, which begins with -----BEGIN CERTIFICATE-----"
    )]
    None,
    /// The text between the lines of a section is damaged.
    #[error("section {0} is damaged: copy the certificate anew, with its BEGIN and END lines")]
    Damaged(usize),
    /// A section that is no certificate.
    #[error("section {0} is no certificate: leave only certificates there")]
    Kind(usize),
    /// A private key, which no client of the registry has any business to hold.
    #[error("section {0} is a private key: remove it, and take it for disclosed")]
    PrivateKey(usize),
    /// Bytes that are no X.509 certificate.
    #[error("section {0} is not a certificate that can be read")]
    Unreadable(usize),
}

impl Authorities {
    /// Reads certificates as PEM; text around them is ignored.
    ///
    /// # Errors
    /// A text without certificates, or with anything else among them.
    pub fn parse(pem: &[u8]) -> Result<Self, AuthoritiesError> {
        let mut certificates = Vec::new();
        for (index, section) in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem).enumerate() {
            let number = index + 1;
            let (kind, der) = section.map_err(|_| AuthoritiesError::Damaged(number))?;
            #[expect(clippy::wildcard_enum_match_arm, reason = "the library's list grows")]
            match kind {
                SectionKind::Certificate => {}
                SectionKind::PrivateKey
                | SectionKind::RsaPrivateKey
                | SectionKind::EcPrivateKey => {
                    return Err(AuthoritiesError::PrivateKey(number));
                }
                _ => return Err(AuthoritiesError::Kind(number)),
            }
            let certificate = CertificateDer::from(der);
            RootCertStore::empty()
                .add(certificate.clone())
                .map_err(|_| AuthoritiesError::Unreadable(number))?;
            certificates.push(certificate);
        }
        if certificates.is_empty() {
            return Err(AuthoritiesError::None);
        }
        Ok(Self(certificates.into()))
    }
}

/// Certificates are public, but long.
impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorities({})", self.0.len())
    }
}

/// Which way to go.
#[derive(Clone, Debug, Default)]
pub enum Via {
    /// Straight to the host.
    #[default]
    Direct,
    /// Through proxies.
    Proxies(Box<Proxies>),
}

/// Proxies by what is asked for, as `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` give them.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// For `https` addresses.
    pub https: Option<Proxy>,
    /// For `http` addresses.
    pub http: Option<Proxy>,
    /// Hosts that are reached without, parted by commas: names with all names below them, addresses, networks, and `*`.
    pub except: String,
}

impl Proxies {
    /// One proxy for everything.
    pub fn all(proxy: Proxy) -> Self {
        Self {
            https: Some(proxy.clone()),
            http: Some(proxy),
            except: String::new(),
        }
    }

    /// The proxies of an environment, each where its text is not empty; a missing scheme is `http`, and a user name and
    /// password in the address are the login.
    ///
    /// # Errors
    /// A text that is no address of a proxy.
    pub fn from_environment(https: &str, http: &str, except: &str) -> Result<Self, ProxyError> {
        let proxy = |text: &str| match text.trim() {
            "" => Ok(None),
            text if text.contains("://") => Proxy::with_login_inside(text).map(Some),
            text => Proxy::with_login_inside(&format!("http://{text}")).map(Some),
        };
        Ok(Self {
            https: proxy(https)?,
            http: proxy(http)?,
            except: except.to_owned(),
        })
    }

    /// Whether the address is reached through one of them.
    pub(crate) fn serve(&self, url: &Url) -> bool {
        let proxy = match url.scheme() {
            "https" => &self.https,
            _ => &self.http,
        };
        // the HTTP library's own judgement, which asks for some proxy
        let matcher = Matcher::builder()
            .all("http://proxy")
            .no(&*self.except)
            .build();
        let uri = url.as_str().parse();
        let is_named = uri.is_ok_and(|uri| matcher.intercept(&uri).is_some());
        proxy.is_some() && is_named && !self.are_bypassed()
    }

    /// Whether every host is an exception. The HTTP library takes `*` for names only.
    pub(crate) fn are_bypassed(&self) -> bool {
        self.except.split(',').any(|entry| entry.trim() == "*")
    }

    /// The proxies' own hosts.
    pub(crate) fn hosts(&self) -> Vec<String> {
        [&self.https, &self.http]
            .into_iter()
            .flatten()
            .filter_map(|proxy| Some(proxy.url.host_str()?.to_owned()))
            .collect()
    }
}

/// An HTTP or HTTPS proxy.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Without a user.
    pub(crate) url: Url,
    pub(crate) login: Option<Login>,
}

/// Why a text is no address of a proxy. The text is not repeated, since it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// Not of the form that proxies have.
    #[error("is no address of a proxy: write http://host:port or https://host:port")]
    Address,
    /// A user in an address that has its login elsewhere.
    #[error("holds a user name or password: put them into the Secret that secretRef names")]
    User,
    /// A login that HTTP cannot carry.
    #[error("holds a login that cannot be used: {0}")]
    Login(#[from] LoginError),
}

impl Proxy {
    /// The proxy at an `http` or `https` address, with its login.
    ///
    /// # Errors
    /// A text that is no address of a proxy.
    pub fn new(url: &str, login: Option<Login>) -> Result<Self, ProxyError> {
        let url = Url::parse(url).map_err(|_| ProxyError::Address)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ProxyError::User);
        }
        let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !is_bare {
            return Err(ProxyError::Address);
        }
        Ok(Self { url, login })
    }

    fn with_login_inside(text: &str) -> Result<Self, ProxyError> {
        let mut url = Url::parse(text).map_err(|_| ProxyError::Address)?;
        let part = |text: &str| -> Result<SecretString, ProxyError> {
            let decoded = percent_decode_str(text).decode_utf8();
            Ok(decoded
                .map_err(|_| ProxyError::Address)?
                .into_owned()
                .into())
        };
        let login = match (url.username(), url.password()) {
            ("", None) => None,
            (username, password) => Some(Login::new(
                part(username)?,
                part(password.unwrap_or_default())?,
            )?),
        };
        if url.set_username("").is_err() || url.set_password(None).is_err() {
            return Err(ProxyError::Address);
        }
        Self::new(url.as_str(), login)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;
    use secrecy::ExposeSecret as _;

    fn authority() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn authorities_are_read_with_what_stands_around_them() {
        let (certificate, _) = authority();
        let bundle = format!("# our own\r\n{certificate}\n\nsubject=…\n{certificate}");
        assert_eq!(Authorities::parse(bundle.as_bytes()).unwrap().0.len(), 2);
    }

    #[test]
    fn what_is_wrong_with_authorities_is_told() {
        let (certificate, key) = authority();
        let not_der = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
        let request =
            "-----BEGIN CERTIFICATE REQUEST-----\naGVsbG8=\n-----END CERTIFICATE REQUEST-----\n";
        let damaged = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        for (text, expected) in [
            (String::new(), AuthoritiesError::None),
            ("hello".into(), AuthoritiesError::None),
            (
                format!("{certificate}{key}"),
                AuthoritiesError::PrivateKey(2),
            ),
            (
                format!("{certificate}{not_der}"),
                AuthoritiesError::Unreadable(2),
            ),
            (format!("{certificate}{request}"), AuthoritiesError::Kind(2)),
            (damaged.into(), AuthoritiesError::Damaged(1)),
            (
                certificate.replace("-----END CERTIFICATE-----", ""),
                AuthoritiesError::Damaged(1),
            ),
        ] {
            let error = Authorities::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error, expected, "{text}");
        }
    }

    #[rstest]
    #[case("http://proxy.example.com:3128", Ok("http://proxy.example.com:3128/"))]
    #[case("https://proxy.example.com/", Ok("https://proxy.example.com/"))]
    #[case("http://[2001:db8::1]:3128", Ok("http://[2001:db8::1]:3128/"))]
    #[case("http://user:CANARY@proxy.example.com", Err(ProxyError::User))]
    #[case("http://user@proxy.example.com", Err(ProxyError::User))]
    #[case("socks5://proxy.example.com", Err(ProxyError::Address))]
    #[case("proxy.example.com:3128", Err(ProxyError::Address))]
    #[case("http://proxy.example.com/path", Err(ProxyError::Address))]
    #[case("http://proxy.example.com?CANARY", Err(ProxyError::Address))]
    #[case("", Err(ProxyError::Address))]
    fn a_proxy_has_an_address(#[case] text: &str, #[case] expected: Result<&str, ProxyError>) {
        let proxy = Proxy::new(text, None);
        assert_eq!(
            proxy.as_ref().map(|proxy| proxy.url.as_str()),
            expected.as_ref().copied()
        );
    }

    #[rstest]
    #[case("https://registry.example.com/v2/", "", true)]
    #[case("https://registry.example.com/v2/", "registry.example.com", false)]
    #[case("https://registry.example.com/v2/", " .example.com , other", false)]
    #[case("https://registry.example.com/v2/", "example.com", false)]
    #[case("https://notexample.com/v2/", "example.com", true)]
    #[case("https://10.1.2.3:5000/v2/", "10.0.0.0/8", false)]
    #[case("https://11.1.2.3:5000/v2/", "10.0.0.0/8", true)]
    #[case("https://[fd00::1]:5000/v2/", "fd00::/8", false)]
    #[case("https://registry.example.com/v2/", "other,*", false)]
    #[case("https://10.1.2.3:5000/v2/", "*", false)]
    #[case("http://registry.example.com/v2/", "", false)]
    fn exceptions_are_reached_without_a_proxy(
        #[case] url: &str,
        #[case] except: &str,
        #[case] expected: bool,
    ) {
        let proxies = Proxies::from_environment("proxy.example.com:3128", "", except).unwrap();
        assert_eq!(proxies.serve(&Url::parse(url).unwrap()), expected);
    }

    #[test]
    fn an_environment_gives_proxies_with_logins() {
        let proxies = Proxies::from_environment(
            "http://us%2Fer:p%40ss@proxy.example.com:3128",
            " plain.example.com:8080",
            ".svc,10.0.0.0/8",
        )
        .unwrap();
        let https = proxies.https.as_ref().unwrap();
        assert_eq!(https.url.as_str(), "http://proxy.example.com:3128/");
        let login = https.login.as_ref().unwrap();
        assert_eq!(login.username().expose_secret(), "us/er");
        assert_eq!(login.password().expose_secret(), "p@ss");
        let http = proxies.http.as_ref().unwrap();
        assert_eq!(http.url.as_str(), "http://plain.example.com:8080/");
        assert!(http.login.is_none());
        assert_eq!(proxies.hosts(), ["proxy.example.com", "plain.example.com"]);
        let none = Proxies::from_environment("", "", "").unwrap();
        assert!(none.https.is_none() && none.http.is_none());
    }

    proptest! {
        #[test]
        fn no_text_panics_or_is_repeated(before in "(http://)?[ -~]{0,12}", after in any::<String>()) {
            let text = format!("{before}CANARY{after}");
            if let Err(error) = Proxy::with_login_inside(&text) {
                prop_assert!(!error.to_string().contains("CANARY"));
            }
            if let Ok(proxy) = Proxy::new(&text, None) {
                prop_assert!(proxy.url.username().is_empty() && proxy.url.password().is_none());
            }
            if let Err(error) = Authorities::parse(text.as_bytes()) {
                prop_assert!(!error.to_string().contains("CANARY"));
            }
        }
    }
}
