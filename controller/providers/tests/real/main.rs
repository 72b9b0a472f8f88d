//! Verification against real parts: Debian's registry under a private authority, with Basic auth and with Bearer auth
//! behind a token service, directly and through a real proxy. Only the token service is the test's own.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of it is a test"
)]

mod authority;
mod process;
mod proxy;
mod registry;
mod token_service;

use pullpass_core::docker_config::Login;
use pullpass_core::key::RegistryKey;
use pullpass_core::reason::Reason;
use pullpass_providers::connection::{Connection, Proxies, Proxy, Tls, Via};
use pullpass_providers::verify::{Verification, verify};

use authority::Authority;
use proxy::{TinyProxy, TlsFront};
use registry::{Auth, Registry};
use token_service::TokenService;

/// The registry's user, and the repository that it may pull from.
const USERNAME: &str = "puller";
const PASSWORD: &str = "CANARY-password";
const REPOSITORY: &str = "acme/app";

fn login(password: &str) -> Login {
    Login::new(USERNAME.into(), password.into()).unwrap()
}

fn direct(tls: Tls) -> Connection {
    Connection {
        tls,
        via: Via::Direct,
    }
}

async fn ask(
    registry: &Registry,
    password: &str,
    repository: Option<&str>,
    connection: &Connection,
) -> Verification {
    let key = RegistryKey::parse(&registry.host()).unwrap();
    let verification = verify(&key, &login(password), repository, connection).await;
    assert!(!format!("{verification:?}").contains("CANARY"));
    verification
}

#[track_caller]
fn assert_refused(verification: &Verification, reason: Reason) {
    assert!(
        matches!(verification, Verification::Refused(failure) if failure.reason == reason),
        "expected a refusal for {reason}: {verification:?}"
    );
}

#[track_caller]
fn assert_unknown(verification: &Verification, reason: Reason) {
    assert!(
        matches!(verification, Verification::Unknown(failure) if failure.reason == reason),
        "expected to learn nothing for {reason}: {verification:?}"
    );
}

#[tokio::test]
async fn a_registry_with_basic_auth_tells_good_from_bad() {
    let authority = Authority::new();
    let registry = Registry::start(&Auth::Users, Some(&authority)).await;
    registry.push(REPOSITORY, &authority).await;
    let connection = direct(authority.trusted());
    for (password, repository, expected) in [
        (PASSWORD, None, None),
        (PASSWORD, Some(REPOSITORY), None),
        ("wrong", None, Some(Reason::Unauthorized)),
        ("wrong", Some(REPOSITORY), Some(Reason::Unauthorized)),
    ] {
        let verification = ask(&registry, password, repository, &connection).await;
        match expected {
            None => assert_eq!(verification, Verification::Accepted),
            Some(reason) => assert_refused(&verification, reason),
        }
    }
    let verification = ask(&registry, PASSWORD, Some("acme/other"), &connection).await;
    assert_unknown(&verification, Reason::RepositoryNotFound);
    let verification = ask(&registry, PASSWORD, None, &direct(Tls::Secure)).await;
    assert_unknown(&verification, Reason::CertificateUnknown);
    let verification = ask(&registry, PASSWORD, None, &direct(Tls::Insecure)).await;
    assert_eq!(verification, Verification::Accepted);
}

#[tokio::test]
async fn a_registry_behind_a_token_service_tells_who_may_pull() {
    let authority = Authority::new();
    let service = TokenService::start(&authority).await;
    let data = tempfile::tempdir().unwrap();
    {
        let pushed_to = Registry::start_on(data.path(), &Auth::Users, Some(&authority)).await;
        pushed_to.push(REPOSITORY, &authority).await;
        pushed_to.push("other/app", &authority).await;
    }
    let auth = Auth::Tokens(&service);
    let registry = Registry::start_on(data.path(), &auth, Some(&authority)).await;
    let connection = direct(authority.trusted());
    for repository in [None, Some(REPOSITORY)] {
        let verification = ask(&registry, PASSWORD, repository, &connection).await;
        assert_eq!(verification, Verification::Accepted, "{repository:?}");
        let verification = ask(&registry, "wrong", repository, &connection).await;
        assert_refused(&verification, Reason::Unauthorized);
    }
    // the service gives a token without the right, as Docker Hub's does; the registry refuses it
    let verification = ask(&registry, PASSWORD, Some("other/app"), &connection).await;
    assert_refused(&verification, Reason::Forbidden);
    assert_eq!(
        service.scopes(),
        ["repository:acme/app:pull", "repository:other/app:pull"]
    );
}

#[tokio::test]
async fn a_registry_without_auth_proves_nothing() {
    let authority = Authority::new();
    let registry = Registry::start(&Auth::Nobody, Some(&authority)).await;
    registry.push(REPOSITORY, &authority).await;
    for repository in [None, Some(REPOSITORY)] {
        let verification = ask(
            &registry,
            PASSWORD,
            repository,
            &direct(authority.trusted()),
        )
        .await;
        assert_unknown(&verification, Reason::NoChallenge);
    }
}

#[tokio::test]
async fn a_registry_of_plain_http_is_asked_in_insecure_mode_only() {
    let registry = Registry::start(&Auth::Users, None).await;
    let verification = ask(&registry, PASSWORD, None, &direct(Tls::Secure)).await;
    assert_unknown(&verification, Reason::HostMismatch);
    let verification = ask(&registry, PASSWORD, None, &direct(Tls::Insecure)).await;
    assert_eq!(verification, Verification::Accepted);
    let verification = ask(&registry, "wrong", None, &direct(Tls::Insecure)).await;
    assert_refused(&verification, Reason::Unauthorized);
}

fn through(url: &str, password: &str, tls: Tls) -> Connection {
    let login = Login::new("proxy-user".into(), password.into()).unwrap();
    Connection {
        tls,
        via: Via::Proxies(Box::new(Proxies::all(
            Proxy::new(url, Some(login)).unwrap(),
        ))),
    }
}

#[tokio::test]
async fn a_proxy_is_gone_through_with_its_own_login() {
    let authority = Authority::new();
    let registry = Registry::start(&Auth::Users, Some(&authority)).await;
    let proxy = TinyProxy::start("proxy-user", "CANARY-proxy").await;
    let connection = through(&proxy.url(), "CANARY-proxy", authority.trusted());
    let verification = ask(&registry, PASSWORD, None, &connection).await;
    assert_eq!(verification, Verification::Accepted);
    let tunnel = format!("CONNECT {}", registry.host());
    assert!(proxy.log().contains(&tunnel), "{}", proxy.log());
    // what the proxy sees is a tunnel, and what the registry says is still the registry's
    assert!(!proxy.log().contains("/v2/"));
    let verification = ask(&registry, "wrong", None, &connection).await;
    assert_refused(&verification, Reason::Unauthorized);
    let distrustful = through(&proxy.url(), "CANARY-proxy", Tls::Secure);
    let verification = ask(&registry, PASSWORD, None, &distrustful).await;
    assert_unknown(&verification, Reason::CertificateUnknown);
    let stranger = through(&proxy.url(), "wrong", authority.trusted());
    let verification = ask(&registry, PASSWORD, None, &stranger).await;
    assert_unknown(&verification, Reason::ProxyFailed);
}

#[tokio::test]
async fn a_proxy_may_speak_tls_itself() {
    let authority = Authority::new();
    let registry = Registry::start(&Auth::Users, Some(&authority)).await;
    let proxy = TinyProxy::start("proxy-user", "CANARY-proxy").await;
    let front = TlsFront::start(&authority, proxy.address()).await;
    let connection = through(&front.url(), "CANARY-proxy", authority.trusted());
    let verification = ask(&registry, PASSWORD, None, &connection).await;
    assert_eq!(verification, Verification::Accepted);
    assert!(proxy.log().contains("CONNECT"), "{}", proxy.log());
    let distrustful = through(&front.url(), "CANARY-proxy", Tls::Secure);
    let verification = ask(&registry, PASSWORD, None, &distrustful).await;
    assert_unknown(&verification, Reason::CertificateUnknown);
}

#[tokio::test]
async fn plain_http_goes_through_a_proxy_too() {
    let registry = Registry::start(&Auth::Users, None).await;
    let proxy = TinyProxy::start("proxy-user", "CANARY-proxy").await;
    let connection = through(&proxy.url(), "CANARY-proxy", Tls::Insecure);
    let verification = ask(&registry, PASSWORD, None, &connection).await;
    assert_eq!(verification, Verification::Accepted);
    let request = format!("GET http://{}/v2/", registry.host());
    assert!(proxy.log().contains(&request), "{}", proxy.log());
}

/// A token service at a proxy's side is asked through it as well; and the proxy's being on this machine makes no
/// exception for this machine.
#[tokio::test]
async fn a_token_service_is_asked_through_the_proxy() {
    let authority = Authority::new();
    let service = TokenService::start(&authority).await;
    let registry = Registry::start(&Auth::Tokens(&service), Some(&authority)).await;
    let proxy = TinyProxy::start("proxy-user", "CANARY-proxy").await;
    let connection = through(&proxy.url(), "CANARY-proxy", authority.trusted());
    let verification = ask(&registry, PASSWORD, None, &connection).await;
    assert_eq!(verification, Verification::Accepted);
    let tunnel = format!("CONNECT {}", service.host());
    assert!(proxy.log().contains(&tunnel), "{}", proxy.log());
}

#[tokio::test]
async fn an_environment_names_proxies_and_exceptions() {
    let authority = Authority::new();
    let registry = Registry::start(&Auth::Users, Some(&authority)).await;
    let proxy = TinyProxy::start("proxy-user", "CANARY-proxy").await;
    let from = |https: &str, except: &str| Connection {
        tls: authority.trusted(),
        via: Via::Proxies(Box::new(
            Proxies::from_environment(https, "", except).unwrap(),
        )),
    };
    let address = format!("proxy-user:CANARY-proxy@{}", proxy.address());
    let verification = ask(&registry, PASSWORD, None, &from(&address, "")).await;
    assert_eq!(verification, Verification::Accepted);
    assert!(proxy.log().contains("CONNECT"), "{}", proxy.log());
    // nothing listens there
    let dead = "127.0.0.1:1";
    let verification = ask(&registry, PASSWORD, None, &from(dead, "")).await;
    assert_unknown(&verification, Reason::ProxyFailed);
    for except in ["127.0.0.1", ".svc, 127.0.0.0/8", "*"] {
        let verification = ask(&registry, PASSWORD, None, &from(dead, except)).await;
        assert_eq!(verification, Verification::Accepted, "{except}");
    }
    // with the registry stopped, its port is nobody's
    let host = registry.host();
    drop(registry);
    let key = RegistryKey::parse(&host).unwrap();
    let connection = direct(authority.trusted());
    let verification = verify(&key, &login(PASSWORD), None, &connection).await;
    assert_unknown(&verification, Reason::Unreachable);
}
