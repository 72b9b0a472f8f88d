//! What strangers answer, good and bad: what is made of it, and who is sent the credential.

use super::scripted::{Authority, GOOD, Reply, Request, Server, TRUSTED, reply};
use super::*;
use crate::connection::Proxies;
use crate::resolver::Fixed;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::net::Ipv4Addr;
use tokio_rustls::TlsAcceptor;

const USERNAME: &str = "robot";
const PASSWORD: &str = "CANARY-password";
/// What the token service gives.
const TOKEN: &str = "CANARY-token";

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Another address of this machine, on which no credential may arrive.
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// Verdict and reason, for comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Taken,
    Refused(Reason),
    Unknown(Reason),
}

impl From<&Verification> for Verdict {
    fn from(verification: &Verification) -> Self {
        match verification {
            Verification::Accepted => Self::Taken,
            Verification::Refused(failure) => Self::Refused(failure.reason),
            Verification::Unknown(failure) => Self::Unknown(failure.reason),
        }
    }
}

/// What is answered at each step, as bytes. `AUTH_HOST` and `ELSEWHERE` stand for host and port, in fields only.
struct Script {
    /// To a stranger.
    door: Vec<u8>,
    /// By the token service to a GET.
    token: Vec<u8>,
    /// By the token service to a GET for the repository.
    scoped_token: Option<Vec<u8>>,
    /// By the token service to a POST.
    form: Vec<u8>,
    /// To whom has shown a credential.
    inside: Vec<u8>,
    /// To a stranger who asks for a manifest.
    shown_manifest: Vec<u8>,
    /// To a HEAD of a manifest.
    manifest: Vec<u8>,
    /// To a GET of the tags.
    tags: Vec<u8>,
    /// The step after which nothing comes any more.
    silent_after: &'static str,
}

/// A registry with a token service, as they are when all is well.
impl Default for Script {
    fn default() -> Self {
        Self {
            door: asks(r#"Bearer realm="https://AUTH_HOST/token",service="registry""#),
            token: json("200 OK", &format!(r#"{{"token":"{TOKEN}"}}"#)),
            scoped_token: None,
            form: json("404 Not Found", "{}"),
            inside: json("200 OK", "{}"),
            shown_manifest: json("401 Unauthorized", "{}"),
            manifest: reply("200 OK", "", ""),
            tags: json("200 OK", r#"{"name":"acme/app","tags":[]}"#),
            silent_after: "",
        }
    }
}

fn json(status: &str, body: &str) -> Vec<u8> {
    reply(status, "Content-Type: application/json\r\n", body)
}

fn html(status: &str) -> Vec<u8> {
    reply(
        status,
        "Content-Type: text/html; charset=utf-8\r\n",
        "<h1>CANARY</h1>",
    )
}

fn asks(challenge: &str) -> Vec<u8> {
    let fields = format!("WWW-Authenticate: {challenge}\r\n");
    reply("401 Unauthorized", &fields, "CANARY")
}

fn basic() -> Vec<u8> {
    asks(r#"Basic realm="registry""#)
}

fn realm(address: &str) -> Vec<u8> {
    asks(&format!(r#"Bearer realm="{address}",service="registry""#))
}

fn redirect(status: &str, target: &str) -> Vec<u8> {
    reply(status, &format!("Location: {target}\r\n"), "")
}

fn error(status: &str, code: &str, message: &str) -> Vec<u8> {
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#);
    json(status, &body)
}

/// A body without an end in sight, more than any reader should take.
fn endless(status: &str, fields: &str, start: &str) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\n{fields}Connection: close\r\n\r\n{start}");
    let mut bytes = head.into_bytes();
    bytes.resize(bytes.len() + 8 * 1024 * 1024, b' ');
    bytes
}

struct Scene {
    registry: Server,
    auth: Server,
    elsewhere: Server,
}

impl Scene {
    async fn start(script: Script, tls: Option<TlsAcceptor>) -> Self {
        let elsewhere = Server::start(ELSEWHERE, Some(GOOD.clone()), |_| {
            Reply::Bytes(json("200 OK", &format!(r#"{{"token":"{TOKEN}"}}"#)))
        })
        .await;
        let Script {
            door,
            token,
            scoped_token,
            form,
            inside,
            shown_manifest,
            manifest,
            tags,
            silent_after,
        } = script;
        let target = format!("elsewhere.test:{}", elsewhere.address.port());
        let fill = move |bytes: &[u8], auth: &str| -> Vec<u8> {
            if bytes.len() > 1024 * 1024 {
                return bytes.to_vec();
            }
            // Latin-1 there and back: any byte stays what it is
            let text: String = bytes.iter().map(|&b| char::from(b)).collect();
            let filled = text
                .replace("AUTH_HOST", auth)
                .replace("ELSEWHERE", &target);
            filled.chars().map(|c| c as u8).collect()
        };
        let answer = move |step: &str, bytes: Vec<u8>| {
            if step == silent_after {
                Reply::Silence(bytes)
            } else {
                Reply::Bytes(bytes)
            }
        };
        let filling = fill.clone();
        let auth = Server::start(HERE, tls.clone(), move |request| {
            let (step, bytes) = if request.is("POST") {
                ("form", &form)
            } else if request.holds("scope=repository") {
                ("token", scoped_token.as_ref().unwrap_or(&token))
            } else {
                ("token", &token)
            };
            answer(step, filling(bytes, "auth.test"))
        })
        .await;
        let at = format!("auth.test:{}", auth.address.port());
        let registry = Server::start(HERE, tls, move |request: &Request| {
            let (step, bytes) = match request.is_authorized() {
                false if request.is("GET /v2/ ") => ("door", &door),
                true if request.is("GET /v2/ ") => ("inside", &inside),
                false if request.is("HEAD /v2/acme/app/manifests/latest ") => {
                    ("shown_manifest", &shown_manifest)
                }
                true if request.is("HEAD /v2/acme/app/manifests/latest ") => {
                    ("manifest", &manifest)
                }
                true if request.is("GET /v2/acme/app/tags/list?n=1 ") => ("tags", &tags),
                _ => panic!("a request that no runtime makes"),
            };
            answer(step, fill(bytes, &at))
        })
        .await;
        Self {
            registry,
            auth,
            elsewhere,
        }
    }

    async fn verify(&self, host: &str, repository: Option<&str>, tls: Tls) -> Verification {
        self.verify_via(host, repository, tls, Via::Direct).await
    }

    async fn verify_via(
        &self,
        host: &str,
        repository: Option<&str>,
        tls: Tls,
        via: Via,
    ) -> Verification {
        let key = format!("{host}:{}", self.registry.address.port());
        let names = Fixed(vec![
            ("registry.test", HERE),
            ("auth.test", HERE),
            ("elsewhere.test", ELSEWHERE),
            ("metadata.test", "169.254.169.254".parse().unwrap()),
            ("either.test", HERE),
            ("either.test", "169.254.169.254".parse().unwrap()),
        ]);
        let connection = Connection { tls, via };
        ask(
            &RegistryKey::parse(&key).unwrap(),
            &login(),
            repository,
            &connection,
            Arc::new(names),
        )
        .await
    }

    /// Who was sent the login, and whether anybody but the registry was sent a token.
    fn seen(&self) -> &'static str {
        let login = STANDARD.encode(format!("{USERNAME}:{PASSWORD}"));
        let saw = |server: &Server| server.was_sent(&login) || server.was_sent(PASSWORD);
        assert!(
            !self.auth.was_sent(TOKEN),
            "the token went to the token service"
        );
        assert_eq!(self.elsewhere.requests(), 0, "somebody else was asked");
        match (saw(&self.registry), saw(&self.auth)) {
            (false, false) => NOBODY,
            (true, false) => REGISTRY,
            (false, true) => AUTH,
            (true, true) => "both",
        }
    }
}

const NOBODY: &str = "nobody";
const REGISTRY: &str = "the registry";
const AUTH: &str = "the token service";

fn login() -> Login {
    Login::new(USERNAME.into(), PASSWORD.into()).unwrap()
}

fn trusted() -> Tls {
    Tls::SecureWithCa(TRUSTED.trust())
}

type Case = (&'static str, Script, Verdict, &'static str);

#[rustfmt::skip] // a table
fn at_the_door() -> Vec<Case> {
    use Reason::*;
    use Verdict::*;
    let door = |door| Script {
        door,
        ..Script::default()
    };
    vec![
        ("a token service", Script::default(), Taken, AUTH),
        ("Basic", door(basic()), Taken, REGISTRY),
        ("both", door(asks(r#"Basic realm="r", Bearer realm="https://AUTH_HOST/token""#)), Taken, AUTH),
        ("open", door(json("200 OK", "{}")), Unknown(NoChallenge), NOBODY),
        ("a page", door(html("200 OK")), Unknown(HostMismatch), NOBODY),
        ("a page that is not found", door(html("404 Not Found")), Unknown(HostMismatch), NOBODY),
        ("nothing there", door(json("404 Not Found", "{}")), Unknown(HostMismatch), NOBODY),
        ("a redirect elsewhere", door(redirect("302 Found", "https://ELSEWHERE/v2/")), Unknown(HostMismatch), NOBODY),
        ("a lasting redirect", door(redirect("308 Permanent Redirect", "https://ELSEWHERE/v2/")), Unknown(HostMismatch), NOBODY),
        ("a redirect without a target", door(reply("302 Found", "", "")), Unknown(HostMismatch), NOBODY),
        ("a refusal of strangers", door(json("403 Forbidden", "{}")), Unknown(Forbidden), NOBODY),
        ("a limit", door(reply("429 Too Many Requests", "Retry-After: 60\r\n", "")), Unknown(RateLimited), NOBODY),
        ("a failure", door(json("500 Internal Server Error", "{}")), Unknown(RegistryFailing), NOBODY),
        ("maintenance", door(html("503 Service Unavailable")), Unknown(RegistryFailing), NOBODY),
        ("a status that there is not", door(reply("999 CANARY", "", "")), Unknown(HostMismatch), NOBODY),
        ("no challenge", door(json("401 Unauthorized", "{}")), Unknown(HostMismatch), NOBODY),
        ("Negotiate", door(asks("Negotiate")), Unknown(HostMismatch), NOBODY),
        ("Digest", door(asks(r#"Digest realm="r", nonce="CANARY""#)), Unknown(HostMismatch), NOBODY),
        ("no realm", door(asks("Bearer")), Unknown(HostMismatch), NOBODY),
        ("two realms", door(asks(r#"Bearer realm="https://AUTH_HOST/token",realm="https://ELSEWHERE/token""#)), Unknown(HostMismatch), NOBODY),
        ("a challenge without an end", door(asks(r#"Bearer realm="https://AUTH_HOST/token"#)), Unknown(HostMismatch), NOBODY),
        ("a long challenge", door(realm(&format!("https://AUTH_HOST/{}", "t".repeat(9000)))), Unknown(HostMismatch), NOBODY),
        ("no HTTP", door(b"SSH-2.0-CANARY\r\n".to_vec()), Unknown(RegistryFailing), NOBODY),
        ("nothing", door(Vec::new()), Unknown(RegistryFailing), NOBODY),
        ("half a head", door(b"HTTP/1.1 401 Unauth".to_vec()), Unknown(RegistryFailing), NOBODY),
        ("a head without an end", door(format!("HTTP/1.1 401 Unauthorized\r\nX: {}", "a".repeat(2 * 1024 * 1024) ) .into_bytes()), Unknown(RegistryFailing), NOBODY),
        ("a field with a line break", door(asks("Bearer realm=\"https://AUTH_HOST/token\"\r\n\x00: x")), Unknown(RegistryFailing), NOBODY),
        ("less than was announced", door(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 100\r\n\r\n{".to_vec()), Unknown(RegistryFailing), NOBODY),
        ("two lengths", door(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab" .to_vec()), Unknown(RegistryFailing), NOBODY),
        ("a body without an end", door(endless("401 Unauthorized", "WWW-Authenticate: Basic realm=\"r\"\r\n", "")), Taken, REGISTRY),
        ("silence", Script { door: Vec::new(), silent_after: "door", ..Script::default() }, Unknown(Unreachable), NOBODY),
        ("silence in a body", Script { door: b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 100\r\n\r\n{".to_vec(), silent_after: "door", ..Script::default() }, Unknown(Unreachable), NOBODY),
    ]
}

#[rustfmt::skip] // a table
fn realms() -> Vec<Case> {
    use Reason::*;
    use Verdict::*;
    let at = |address: &str| Script {
        door: realm(address),
        ..Script::default()
    };
    vec![
        ("over plain HTTP", at("http://AUTH_HOST/token"), Unknown(UnsafeRealm), NOBODY),
        ("over another protocol", at("ftp://AUTH_HOST/token"), Unknown(UnsafeRealm), NOBODY),
        ("without a host", at("/token"), Unknown(UnsafeRealm), NOBODY),
        ("with a user", at("https://robot:CANARY@AUTH_HOST/token"), Unknown(UnsafeRealm), NOBODY),
        ("with a scope of its own", at("https://AUTH_HOST/token?scope=repository:other/app:push"), Unknown(UnsafeRealm), NOBODY),
        ("with a service of its own", at("https://AUTH_HOST/token?service=other"), Unknown(UnsafeRealm), NOBODY),
        ("a name elsewhere on this machine", at("https://ELSEWHERE/token"), Unknown(UnsafeRealm), NOBODY),
        ("an address elsewhere on this machine", at("https://127.0.0.2/token"), Unknown(UnsafeRealm), NOBODY),
        ("localhost", at("https://localhost/token"), Unknown(UnsafeRealm), NOBODY),
        ("this machine in IPv6", at("https://[::1]/token"), Unknown(UnsafeRealm), NOBODY),
        ("this machine in disguise", at("https://[::ffff:127.0.0.2]/token"), Unknown(UnsafeRealm), NOBODY),
        ("an address as a number", at("https://2130706434/token"), Unknown(UnsafeRealm), NOBODY),
        ("no address in particular", at("https://0.0.0.0/token"), Unknown(UnsafeRealm), NOBODY),
        ("the metadata service", at("https://169.254.169.254/latest/meta-data/"), Unknown(UnsafeRealm), NOBODY),
        ("the metadata service by Amazon's IPv6 address", at("https://[fd00:ec2::254]/latest/"), Unknown(UnsafeRealm), NOBODY),
        ("the metadata service by its name", at("https://metadata.google.internal/computeMetadata/v1/"), Unknown(UnsafeRealm), NOBODY),
        ("a name that means the metadata service", at("https://metadata.test/token"), Unknown(UnsafeRealm), NOBODY),
        ("a name that means it besides", at("https://either.test/token"), Unknown(UnsafeRealm), NOBODY),
        ("a name that there is not", at("https://gone.test/token"), Unknown(Unreachable), NOBODY),
        ("a port where nothing is", at("https://auth.test:1/token"), Unknown(Unreachable), NOBODY),
        ("a query that is kept", at("https://AUTH_HOST/token?tenant=a"), Taken, AUTH),
        ("escapes in the service", Script { door: asks(r#"Bearer realm="https://AUTH_HOST/token",service="a&scope=b c#\"""#), ..Script::default() }, Taken, AUTH),
    ]
}

#[rustfmt::skip] // a table
fn at_the_token_service() -> Vec<Case> {
    use Reason::*;
    use Verdict::*;
    let token = |token| Script {
        token,
        ..Script::default()
    };
    let by_post = |form| Script {
        token: json("405 Method Not Allowed", "{}"),
        form,
        ..Script::default()
    };
    let good = || json("200 OK", &format!(r#"{{"access_token":"{TOKEN}"}}"#));
    vec![
        ("a wrong password", token(error("401 Unauthorized", "UNAUTHORIZED", "CANARY")), Refused(Unauthorized), AUTH),
        ("a wrong password at GHCR", token(error("403 Forbidden", "DENIED", "denied")), Refused(Forbidden), AUTH),
        ("a token whose life is over", token(error("401 Unauthorized", "UNAUTHORIZED", "Token Expired")), Refused(Expired), AUTH),
        ("OAuth2's refusal", token(json("400 Bad Request", r#"{"error":"invalid_grant"}"#)), Refused(Unauthorized), AUTH),
        ("a request that it does not understand", token(json("400 Bad Request", "{}")), Unknown(HostMismatch), AUTH),
        ("a limit", token(reply("429 Too Many Requests", "X-Retry-After: 4102444800\r\n", "")), Unknown(RateLimited), AUTH),
        ("a failure", token(json("502 Bad Gateway", "{}")), Unknown(RegistryFailing), AUTH),
        ("a redirect elsewhere", token(redirect("302 Found", "https://ELSEWHERE/token")), Unknown(UnsafeRealm), AUTH),
        ("a redirect that keeps the method", token(redirect("307 Temporary Redirect", "https://ELSEWHERE/token")), Unknown(UnsafeRealm), AUTH),
        ("a redirect to plain HTTP", token(redirect("301 Moved Permanently", "http://AUTH_HOST/token")), Unknown(UnsafeRealm), AUTH),
        ("a redirect without a target", token(reply("303 See Other", "", "")), Unknown(HostMismatch), AUTH),
        ("a page", token(html("200 OK")), Unknown(HostMismatch), AUTH),
        ("no token", token(json("200 OK", r#"{"expires_in":300}"#)), Unknown(RegistryFailing), AUTH),
        ("no JSON", token(json("200 OK", "CANARY")), Unknown(RegistryFailing), AUTH),
        ("nothing", token(Vec::new()), Unknown(RegistryFailing), AUTH),
        ("a token with line breaks", token(json("200 OK", r#"{"token":"CANARY\r\nHost: elsewhere.test"}"#)), Unknown(RegistryFailing), AUTH),
        ("a long token", token(json("200 OK", &format!(r#"{{"token":"{}"}}"#, "t".repeat(40_000)))), Unknown(RegistryFailing), AUTH),
        ("an answer without an end", token(endless("200 OK", "Content-Type: application/json\r\n", r#"{"token":"a"}"#)), Unknown(RegistryFailing), AUTH),
        ("an answer announced as huge", token(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{\"token\":\"a\"}".to_vec()), Unknown(RegistryFailing), AUTH),
        ("deep JSON", token(json("200 OK", &"[".repeat(50_000))), Unknown(RegistryFailing), AUTH),
        ("a compressed answer", token(reply("200 OK", "Content-Encoding: gzip\r\n", "\u{1f}\u{8b}")), Unknown(RegistryFailing), AUTH),
        ("silence", Script { token: Vec::new(), silent_after: "token", ..Script::default() }, Unknown(Unreachable), AUTH),
        ("silence in a token", Script { token: b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"token\":\"".to_vec(), silent_after: "token", ..Script::default() }, Unknown(Unreachable), AUTH),
        ("only OAuth2's form", by_post(good()), Taken, AUTH),
        ("only OAuth2's form, and a wrong password", by_post(json("400 Bad Request", r#"{"error":"invalid_grant"}"#)), Refused(Unauthorized), AUTH),
        ("only OAuth2's form, elsewhere", by_post(redirect("308 Permanent Redirect", "https://ELSEWHERE/token")), Unknown(UnsafeRealm), AUTH),
        ("nothing of both", by_post(json("404 Not Found", "{}")), Unknown(HostMismatch), AUTH),
    ]
}

#[rustfmt::skip] // a table
fn inside() -> Vec<Case> {
    use Reason::*;
    use Verdict::*;
    let shown = |inside| Script {
        door: basic(),
        inside,
        ..Script::default()
    };
    vec![
        ("its own token refused", Script { inside: asks(r#"Bearer realm="https://AUTH_HOST/token",error="invalid_token""#), ..Script::default() }, Refused(Unauthorized), AUTH),
        ("a wrong password", shown(basic()), Refused(Unauthorized), REGISTRY),
        ("a wrong password, and now a token service", shown(realm("https://AUTH_HOST/token")), Refused(Unauthorized), REGISTRY),
        ("a login that is not let in", shown(error("403 Forbidden", "DENIED", "CANARY")), Refused(Forbidden), REGISTRY),
        ("Amazon's token whose life is over", shown(error("403 Forbidden", "DENIED", "Your authorization token has expired. Reauthenticate and try again.")), Refused(Expired), REGISTRY),
        ("Amazon's refusal of what is no token", shown(error("400 Bad Request", "DENIED", "Your Authorization Token is invalid.")), Refused(Unauthorized), REGISTRY),
        ("a request that it does not understand", shown(json("400 Bad Request", "{}")), Unknown(HostMismatch), REGISTRY),
        ("a redirect elsewhere", shown(redirect("307 Temporary Redirect", "https://ELSEWHERE/v2/")), Unknown(HostMismatch), REGISTRY),
        ("a page", shown(html("200 OK")), Unknown(HostMismatch), REGISTRY),
        ("a failure", shown(json("500 Internal Server Error", "{}")), Unknown(RegistryFailing), REGISTRY),
        ("a limit", shown(json("429 Too Many Requests", "{}")), Unknown(RateLimited), REGISTRY),
        ("silence", Script { inside: Vec::new(), silent_after: "inside", ..shown(Vec::new()) }, Unknown(Unreachable), REGISTRY),
    ]
}

#[rustfmt::skip] // a table
fn at_a_repository() -> Vec<Case> {
    use Reason::*;
    use Verdict::*;
    let manifest = |manifest| Script {
        manifest,
        ..Script::default()
    };
    let without_tag = |tags| Script {
        manifest: reply("404 Not Found", "", ""),
        tags,
        ..Script::default()
    };
    let open = |shown_manifest| Script {
        door: json("200 OK", "{}"),
        shown_manifest,
        ..Script::default()
    };
    vec![
        ("a manifest", Script::default(), Taken, AUTH),
        ("a manifest by Basic", Script { door: basic(), ..Script::default() }, Taken, REGISTRY),
        ("no such tag", without_tag(json("200 OK", "{}")), Taken, AUTH),
        ("no such tag, and no list of tags", without_tag(json("403 Forbidden", "{}")), Taken, AUTH),
        ("no such repository", without_tag(error("404 Not Found", "NAME_UNKNOWN", "CANARY")), Unknown(RepositoryNotFound), AUTH),
        ("no such repository at Harbor", without_tag(error("404 Not Found", "NOT_FOUND", "CANARY")), Unknown(RepositoryNotFound), AUTH),
        ("no right to pull", manifest(reply("401 Unauthorized", "", "")), Refused(Forbidden), AUTH),
        ("no right to pull, said so", manifest(reply("403 Forbidden", "", "")), Refused(Forbidden), AUTH),
        ("no token for it", Script { scoped_token: Some(error("403 Forbidden", "DENIED", "CANARY")), ..Script::default() }, Refused(Forbidden), AUTH),
        ("no token for it, as to a stranger", Script { scoped_token: Some(json("401 Unauthorized", "{}")), ..Script::default() }, Refused(Forbidden), AUTH),
        ("a limit", manifest(reply("429 Too Many Requests", "", "")), Unknown(RateLimited), AUTH),
        ("a redirect elsewhere", manifest(redirect("307 Temporary Redirect", "https://ELSEWHERE/v2/")), Unknown(HostMismatch), AUTH),
        ("a failure", manifest(reply("500 Internal Server Error", "", "")), Unknown(RegistryFailing), AUTH),
        ("public in an open registry", open(reply("200 OK", "", "")), Unknown(NoChallenge), NOBODY),
        ("private in an open registry", open(asks(r#"Bearer realm="https://AUTH_HOST/token""#)), Taken, AUTH),
        ("private in an open registry, by Basic", open(basic()), Taken, REGISTRY),
        ("not there in an open registry", open(reply("404 Not Found", "", "")), Unknown(NoChallenge), NOBODY),
        ("a limit in an open registry", open(reply("429 Too Many Requests", "", "")), Unknown(RateLimited), NOBODY),
        ("a failure in an open registry", open(reply("500 Internal Server Error", "", "")), Unknown(RegistryFailing), NOBODY),
        ("no right to pull in an open registry", Script { manifest: reply("401 Unauthorized", "", ""), ..open(asks(r#"Bearer realm="https://AUTH_HOST/token""#)) }, Refused(Forbidden), AUTH),
        ("a wrong password for an open registry, at its token service", Script { token: json("401 Unauthorized", "{}"), ..open(asks(r#"Bearer realm="https://AUTH_HOST/token""#)) }, Refused(Unauthorized), AUTH),
        ("a wrong password for an open registry", Script { manifest: basic(), ..open(basic()) }, Refused(Unauthorized), REGISTRY),
    ]
}

/// Each case in a runtime of its own, whose clock a silent server may stop.
fn play(cases: Vec<Case>, repository: Option<&str>) {
    let mut wrong = Vec::new();
    for (name, script, expected, seen) in cases {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let scene = Scene::start(script, Some(GOOD.clone())).await;
            let verification = scene.verify("registry.test", repository, trusted()).await;
            let shown = format!("{verification:?}");
            if Verdict::from(&verification) != expected
                || scene.seen() != seen
                || shown.contains("CANARY")
            {
                wrong.push(format!(
                    "{name}: {shown}, seen by {}; expected {expected:?}, {seen}",
                    scene.seen()
                ));
            }
        });
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_answered_to_a_stranger() {
    play(at_the_door(), None);
}

#[test]
fn where_a_token_is_to_be_had() {
    play(realms(), None);
}

#[test]
fn what_a_token_service_answers() {
    play(at_the_token_service(), None);
}

#[test]
fn what_is_answered_to_the_credential() {
    play(inside(), None);
}

#[test]
fn what_a_repository_answers() {
    play(at_a_repository(), Some("acme/app"));
}

#[test]
fn the_wait_that_is_asked_for_is_handed_on() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let script = Script {
        door: reply("429 Too Many Requests", "Retry-After: 60\r\n", ""),
        ..Script::default()
    };
    let verification = runtime.block_on(async {
        let scene = Scene::start(script, Some(GOOD.clone())).await;
        scene.verify("registry.test", None, trusted()).await
    });
    let Verification::Unknown(failure) = verification else {
        panic!("{verification:?}")
    };
    assert_eq!(failure.retry_after, Some(Duration::from_secs(60)));
}

/// The registry's own address is an exception only where it is the registry's and not a proxy's.
#[tokio::test]
async fn an_environment_without_a_proxy_for_the_registry_changes_nothing() {
    for except in ["", "registry.test,auth.test", "*"] {
        // nothing listens there
        let https = if except.is_empty() { "" } else { "127.0.0.1:1" };
        let proxies = Proxies::from_environment(https, "", except).unwrap();
        let via = Via::Proxies(Box::new(proxies));
        let scene = Scene::start(Script::default(), Some(GOOD.clone())).await;
        let verification = scene
            .verify_via("registry.test", None, trusted(), via.clone())
            .await;
        assert_eq!(verification, Verification::Accepted, "{except}");
        let script = Script {
            door: realm("https://ELSEWHERE/token"),
            ..Script::default()
        };
        let scene = Scene::start(script, Some(GOOD.clone())).await;
        let verification = scene
            .verify_via("registry.test", None, trusted(), via)
            .await;
        let expected = match except {
            "registry.test,auth.test" => Verdict::Unknown(Reason::ProxyFailed),
            _ => Verdict::Unknown(Reason::UnsafeRealm),
        };
        assert_eq!(Verdict::from(&verification), expected, "{except}");
        assert_eq!(scene.seen(), NOBODY);
    }
}

/// One registry with its token service, and who trusts whom.
async fn under(
    tls: Option<TlsAcceptor>,
    door: Vec<u8>,
    host: &str,
    trust: Tls,
) -> (Verification, &'static str) {
    let scene = Scene::start(
        Script {
            door,
            ..Script::default()
        },
        tls,
    )
    .await;
    let verification = scene.verify(host, None, trust).await;
    (verification, scene.seen())
}

#[tokio::test]
async fn a_certificate_has_to_be_good() {
    let (date, expired) = (
        rcgen::date_time_ymd,
        |parameters: &mut rcgen::CertificateParams| {
            parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
            parameters.not_after = rcgen::date_time_ymd(2021, 1, 1);
        },
    );
    let stranger = Authority::new();
    let names = ["registry.test", "auth.test"];
    for (tls, words) in [
        (
            stranger.server(&names, |_| {}),
            "an authority that is not trusted",
        ),
        (TRUSTED.server(&["other.test"], |_| {}), "for other names"),
        (TRUSTED.server(&names, expired), "has expired"),
        (
            TRUSTED.server(&names, |parameters| {
                parameters.not_before = date(2100, 1, 1);
                parameters.not_after = date(2101, 1, 1);
            }),
            "not valid yet",
        ),
    ] {
        let (verification, seen) =
            under(Some(tls.clone()), basic(), "registry.test", trusted()).await;
        let Verification::Unknown(failure) = verification else {
            panic!("{verification:?}")
        };
        assert_eq!(failure.reason, Reason::CertificateUnknown, "{failure}");
        assert!(failure.message.contains(words), "{failure}");
        assert_eq!(seen, NOBODY);
        let (verification, seen) = under(Some(tls), basic(), "registry.test", Tls::Insecure).await;
        assert_eq!((verification, seen), (Verification::Accepted, REGISTRY));
    }
    let (verification, seen) =
        under(Some(GOOD.clone()), basic(), "registry.test", Tls::Secure).await;
    assert_eq!(
        Verdict::from(&verification),
        Verdict::Unknown(Reason::CertificateUnknown)
    );
    assert_eq!(seen, NOBODY);
}

#[tokio::test]
async fn plain_http_is_spoken_in_insecure_mode_only() {
    let (verification, seen) = under(None, basic(), "registry.test", trusted()).await;
    assert_eq!(
        Verdict::from(&verification),
        Verdict::Unknown(Reason::HostMismatch)
    );
    assert_eq!(seen, NOBODY);
    let (verification, seen) = under(None, basic(), "registry.test", Tls::Insecure).await;
    assert_eq!((verification, seen), (Verification::Accepted, REGISTRY));
    // auth.test is another host, although at the same address
    let (verification, seen) = under(
        None,
        realm("http://AUTH_HOST/token"),
        "registry.test",
        Tls::Insecure,
    )
    .await;
    assert_eq!(
        Verdict::from(&verification),
        Verdict::Unknown(Reason::UnsafeRealm)
    );
    assert_eq!(seen, NOBODY);
    let (verification, seen) = under(
        None,
        realm("http://AUTH_HOST/token"),
        "auth.test",
        Tls::Insecure,
    )
    .await;
    assert_eq!((verification, seen), (Verification::Accepted, AUTH));
    // the token service is asked over TLS where it says so
    let (verification, seen) = under(
        None,
        realm("https://AUTH_HOST/token"),
        "registry.test",
        Tls::Insecure,
    )
    .await;
    assert_eq!(
        Verdict::from(&verification),
        Verdict::Unknown(Reason::HostMismatch)
    );
    assert_eq!(seen, NOBODY);
}

#[tokio::test]
async fn a_host_that_is_not_there_is_unreachable() {
    for (key, words) in [
        ("gone.test", "cannot be resolved"),
        ("127.0.0.1:1", "connection refused"),
    ] {
        let key = RegistryKey::parse(key).unwrap();
        let connection = Connection::default();
        let names = Arc::new(Fixed(Vec::new()));
        let verification = ask(&key, &login(), None, &connection, names).await;
        let Verification::Unknown(failure) = verification else {
            panic!("{verification:?}")
        };
        assert_eq!(failure.reason, Reason::Unreachable, "{failure}");
        assert!(failure.message.contains(words), "{failure}");
    }
}

#[tokio::test]
async fn a_pattern_cannot_be_asked() {
    let key = RegistryKey::parse("*.dkr.ecr.eu-west-1.amazonaws.com").unwrap();
    let verification = verify(&key, &login(), None, &Connection::default()).await;
    assert_eq!(
        Verdict::from(&verification),
        Verdict::Unknown(Reason::HostIsPattern)
    );
}

/// A token that tells that its life is over is said to be over, but only when it is refused.
#[tokio::test]
async fn a_token_that_is_over_is_told_from_a_wrong_one() {
    let token = STANDARD.encode(r#"{"payload":"CANARY","expiration":1500000000}"#);
    let over = Login::new("AWS".into(), token.into()).unwrap();
    for (inside, expected) in [
        (basic(), Verdict::Refused(Reason::Expired)),
        (json("200 OK", "{}"), Verdict::Taken),
    ] {
        let script = Script {
            door: basic(),
            inside,
            ..Script::default()
        };
        let scene = Scene::start(script, Some(GOOD.clone())).await;
        let key = format!("registry.test:{}", scene.registry.address.port());
        let key = RegistryKey::parse(&key).unwrap();
        let names = Arc::new(Fixed(vec![("registry.test", HERE)]));
        let connection = Connection {
            tls: trusted(),
            via: Via::Direct,
        };
        let verification = ask(&key, &over, None, &connection, names).await;
        assert_eq!(Verdict::from(&verification), expected);
    }
}
