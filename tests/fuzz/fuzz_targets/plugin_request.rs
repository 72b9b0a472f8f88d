//! A request of kubelet's, or a token's claims: answered with nothing beyond the policy.

#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use pullpass_core::bundle::{Bundle, BundleAccess, BundleRegistry};
use pullpass_core::docker_config::{Entries, Login};
use pullpass_core::glob::Glob;
use pullpass_core::key::RegistryKey;
use pullpass_credential_provider::answer;
use pullpass_credential_provider::claims::{self, AUDIENCE};
use pullpass_credential_provider::protocol::{Request, response};
use secrecy::ExposeSecret as _;

const NOW: u64 = 1_700_000_000;

fuzz_target!(|content: &[u8]| {
    if let Ok(request) = Request::parse(content) {
        is_answered(&request);
    }
    let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(content));
    if let Ok(namespace) = claims::namespace(&token, NOW) {
        let text = String::from_utf8_lossy(content);
        assert!(text.contains(AUDIENCE) || text.contains('\\'));
        let asked = format!(
            r#"{{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderRequest","image":"team.example.com/app","serviceAccountToken":"{token}"}}"#
        );
        let request = Request::parse(asked.as_bytes()).expect("a request");
        let bundles = bundles();
        let given = !answer(&request, &bundles, NOW).logins.is_empty();
        assert_eq!(given, namespace.starts_with("team-"));
    }
});

fn is_answered(request: &Request) {
    let bundles = bundles();
    let answer = answer(request, &bundles, NOW);
    let is_team = request.token.as_ref().is_some_and(|token| {
        claims::namespace(token.expose_secret(), NOW).is_ok_and(|name| name.starts_with("team-"))
    });
    for (_, login) in &answer.logins {
        assert!(is_team || login.username().expose_secret() == "everyone");
    }
    let response = response(answer.logins);
    assert!(serde_json::from_slice::<serde_json::Value>(response.expose_secret()).is_ok());
}

fn bundles() -> [Bundle; 2] {
    let bundle = |name: &str, host: &str, access| Bundle {
        registries: vec![BundleRegistry {
            name: name.into(),
            priority: 0,
            created: 0,
            access,
            entries: Entries::from([(
                RegistryKey::parse(host).expect("a key"),
                Login::new(name.into(), "secret".into()).expect("a login"),
            )]),
        }],
        ..Bundle::default()
    };
    let team = BundleAccess {
        include: vec![Glob::new("team-*")],
        exclude: Vec::new(),
        selection: None,
    };
    [
        bundle("everyone", "open.example.com", None),
        bundle("team", "team.example.com", Some(team)),
    ]
}
