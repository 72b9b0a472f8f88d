//! The HTTP client that registries and their token services are asked with: no redirects, no decompression, no environment,
//! bounded in time.

use std::sync::Arc;
use std::time::Duration;

use pullpass_core::docker_config::Login;
use pullpass_core::reason::Reason;
use reqwest::dns::Resolve;
use reqwest::header::HeaderValue;
use reqwest::{Client, redirect};
use secrecy::ExposeSecret as _;
use zeroize::Zeroizing;

use crate::connection::{Connection, Proxy, Via};
use crate::failure::Failure;
use crate::tls;

/// For name, TCP and TLS: what takes longer has lost a packet three times.
const CONNECT: Duration = Duration::from_secs(10);

/// For one request with its answer. Docker Hub and cloud registries answer within 1 s.
const REQUEST: Duration = Duration::from_secs(15);

const USER_AGENT: &str = concat!("pullpass/", env!("CARGO_PKG_VERSION"));

/// A client that goes `connection`'s way and knows the names of `names`.
pub(crate) fn client(connection: &Connection, names: Arc<dyn Resolve>) -> Result<Client, Failure> {
    let mut builder = Client::builder()
        .tls_backend_preconfigured(tls::client_config(&connection.tls)?)
        .dns_resolver(names)
        .redirect(redirect::Policy::none())
        .referer(false)
        // features of the library that another package may have switched on
        .no_gzip()
        .no_brotli()
        .no_deflate()
        .no_zstd()
        // whatever the environment says; what counts of it is in the connection
        .no_proxy()
        .connect_timeout(CONNECT)
        .timeout(REQUEST)
        .user_agent(USER_AGENT);
    if let Via::Proxies(proxies) = &connection.via
        && !proxies.are_bypassed()
    {
        let except = reqwest::NoProxy::from_string(&proxies.except);
        let for_https = proxies.https.as_ref().map(|proxy| (proxy, Scheme::Https));
        let for_http = proxies.http.as_ref().map(|proxy| (proxy, Scheme::Http));
        for (proxy, scheme) in for_https.into_iter().chain(for_http) {
            builder = builder.proxy(through(proxy, scheme)?.no_proxy(except.clone()));
        }
    }
    builder.build().map_err(unusable)
}

/// What is asked for through a proxy.
enum Scheme {
    Https,
    Http,
}

fn through(proxy: &Proxy, scheme: Scheme) -> Result<reqwest::Proxy, Failure> {
    let url = proxy.url.clone();
    let through = match scheme {
        Scheme::Https => reqwest::Proxy::https(url),
        Scheme::Http => reqwest::Proxy::http(url),
    };
    let through = through.map_err(unusable)?;
    Ok(match &proxy.login {
        Some(login) => through.custom_http_auth(basic(login)?),
        None => through,
    })
}

fn unusable(error: reqwest::Error) -> Failure {
    Failure::new(
        Reason::ProxyFailed,
        format!(
            "no client can be made of spec.connection: {}",
            error.without_url()
        ),
    )
}

/// The field value of HTTP's Basic scheme for a login.
pub(crate) fn basic(login: &Login) -> Result<HeaderValue, Failure> {
    sensitive("Basic", login.basic().expose_secret())
}

/// The field value of the Bearer scheme for a token.
pub(crate) fn bearer(token: &secrecy::SecretString) -> Result<HeaderValue, Failure> {
    sensitive("Bearer", token.expose_secret())
}

fn sensitive(scheme: &str, credential: &str) -> Result<HeaderValue, Failure> {
    let text = Zeroizing::new(format!("{scheme} {credential}"));
    let mut value = HeaderValue::from_str(&text).map_err(|_| {
        Failure::new(
            Reason::MalformedSource,
            "the credential holds a character that HTTP cannot carry",
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}
