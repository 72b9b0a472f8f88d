//! What the API server takes as a Registry and what it refuses, with which words; and what it tells who asks.

use pullpass_harness::attempt::Attempt;
use pullpass_harness::{Lease, lease};
use pullpass_suites::documentation::{Example, examples};
use serde_json::{Value, json};

/// Of a directory or an application of Azure.
const ID: &str = "00000000-0000-0000-0000-000000000001";

const REGISTRIES: &str = "/apis/pullpass.dev/v1alpha1/registries";

/// A registry that is complete, for an example to change.
fn private() -> Value {
    json!({
        "host": "registry.example.com",
        "auth": {"basic": {"secretRef": {"name": "acme"}}},
        "access": {"namespaces": {"include": ["team-*"]}},
    })
}

/// A registry with one field changed; null takes the field away.
fn with(field: &str, value: Value) -> Value {
    let mut spec = private();
    let path = format!("/{field}");
    let (parent, name) = path.rsplit_once('/').unwrap();
    let fields = spec.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    if value.is_null() {
        fields.remove(name).unwrap();
    } else {
        fields.insert(name.to_owned(), value);
    }
    spec
}

/// A registry of this kind that is logged in to in this way.
fn with_provider(provider: &str, auth: Value) -> Value {
    let mut spec = with("auth", auth);
    spec["provider"] = provider.into();
    spec
}

fn registry(name: &str, spec: &Value) -> Attempt {
    let registry = json!({
        "apiVersion": "pullpass.dev/v1alpha1",
        "kind": "Registry",
        "metadata": {"name": name},
        "spec": spec,
    });
    // a typing error has to be an answer, as it is for kubectl
    Attempt::post(format!("{REGISTRIES}?fieldValidation=Strict"), &registry)
}

#[tokio::test]
async fn good_registries_are_taken() {
    let server = lease().await;
    let examples = [
        private(),
        with("host", json!("registry.example.com:5000")),
        with("host", json!("registry.example.com/team/app")),
        with("host", json!("*.dkr.ecr.eu-west-1.amazonaws.com")),
        with("host", json!("localhost:5000")),
        with("host", json!("[2001:db8::1]:5000")),
        with("provider", json!("Harbor")),
        with_provider("ECR", json!({"basic": {"secretRef": {"name": "acme"}}})),
        with_provider("ECRPublic", json!({"awsRole": {}})),
        with_provider("GCR", json!({"gcpWorkloadIdentity": {}})),
        with_provider(
            "ACR",
            json!({"azureWorkloadIdentity": {"tenantId": ID, "clientId": ID}}),
        ),
        with("priority", json!(-5)),
        with("auth/basic/usernameKey", json!("user.name")),
        with(
            "auth",
            json!({"dockerConfig": {"secretRef": {"name": "acme"}}}),
        ),
        with(
            "auth",
            json!({"dockerConfig": {"secretRef": {"name": "acme"}, "key": "config.json"}}),
        ),
        with("auth", json!({"awsRole": {}})),
        with(
            "auth",
            json!({"awsRole": {"roleArn": "arn:aws-us-gov:iam::123456789012:role/path/pull", "externalId": "acme:42"}}),
        ),
        with("connection", json!({})),
        with(
            "connection",
            json!({"tls": {"mode": "Insecure"}, "via": {"mode": "Direct"}}),
        ),
        with(
            "connection",
            json!({"tls": {"mode": "SecureWithCA", "caSecretRef": {"name": "ca"}, "caKey": "tls.crt"}}),
        ),
        with(
            "connection",
            json!({"via": {"mode": "Proxy", "url": "http://proxy.example.com:3128"}}),
        ),
        with(
            "connection",
            json!({"via": {"mode": "Proxy", "url": "https://[2001:db8::1]:3128/", "secretRef": {"name": "proxy"}, "usernameKey": "user"}}),
        ),
        with(
            "connection",
            json!({"mirrors": ["https://mirror.example.com", "http://[2001:db8::1]:5000/v2/proxy_cache/"]}),
        ),
        with("verify", json!({"repository": "acme/team_a/app-1.x"})),
        with(
            "access/clusters",
            json!({"autoInject": ["production-*"], "doNotInject": ["production-eu"]}),
        ),
        with(
            "access/namespaces",
            json!({"include": ["*"], "exclude": ["team-a"]}),
        ),
        with(
            "access/namespaces",
            json!({"selector": {"matchLabels": {"team": "a"}}}),
        ),
        with(
            "access/namespaces",
            json!({"selector": {"matchExpressions": [{"key": "team", "operator": "In", "values": ["a", "b"]}]}}),
        ),
        // every entry of the docker config counts
        json!({
            "auth": {"dockerConfig": {"secretRef": {"name": "acme"}}},
            "access": {"namespaces": {"include": ["*"]}},
        }),
        json!({"host": "registry.k8s.io", "type": "Public"}),
    ];
    for (number, spec) in examples.iter().enumerate() {
        let outcome = registry(&format!("good-{number}"), spec)
            .by(&server.client())
            .await;
        assert!(outcome.succeeded(), "{spec}: {outcome:?}");
    }
}

#[tokio::test]
async fn every_example_of_the_documentation_is_taken() {
    let server = lease().await;
    let mut taken = 0;
    for Example { page, object } in examples("Registry") {
        // two pages may use one name
        let name = format!("example-{taken}");
        let outcome = registry(&name, &object["spec"]).by(&server.client()).await;
        assert!(outcome.succeeded(), "{page}: {object}: {outcome:?}");
        taken += 1;
    }
    // each provider has one at least
    assert!(taken >= 20, "{taken}");
}

#[tokio::test]
async fn bad_registries_are_refused_with_words_that_help() {
    let server = lease().await;
    let examples = [
        (
            with("host", json!("https://registry.example.com")),
            "write it without a scheme, for example registry.example.com",
        ),
        (
            with("host", json!("registry example")),
            "write host[:port][/path]",
        ),
        (
            with("host", json!("user@registry.example.com")),
            "write host[:port][/path]",
        ),
        (with("host", json!("")), "spec.host"),
        (with("host", json!("[2001:db8::1]")), "only with its port"),
        (
            with("host", Value::Null),
            "host is missing: write host[:port][/path]",
        ),
        (
            with("auth", Value::Null),
            "auth is missing: a private registry needs a credential",
        ),
        (
            with("auth", json!({})),
            "auth takes exactly one of basic, dockerConfig",
        ),
        (
            with(
                "auth",
                json!({"basic": {"secretRef": {"name": "a"}}, "dockerConfig": {"secretRef": {"name": "a"}}}),
            ),
            "auth takes exactly one of basic, dockerConfig",
        ),
        (
            with("auth", json!({"awsRole": {}, "gcpWorkloadIdentity": {}})),
            "auth takes exactly one of",
        ),
        (
            with(
                "auth",
                json!({"awsRole": {"audience": "sts.amazonaws.com"}}),
            ),
            "roleArn is missing: with audience",
        ),
        (
            with("auth", json!({"awsRole": {"externalId": "acme-42"}})),
            "roleArn is missing: an externalId",
        ),
        (
            with(
                "auth",
                json!({"awsRole": {"roleArn": "arn:aws:iam::123456789012:role/pull", "audience": "sts.amazonaws.com", "externalId": "acme-42"}}),
            ),
            "AWS knows no externalId where a role is taken on by a token",
        ),
        (
            with(
                "auth",
                json!({"awsRole": {"roleArn": "arn:aws:iam::123456789012:user/pull"}}),
            ),
            "roleArn",
        ),
        (
            with(
                "auth",
                json!({"gcpWorkloadIdentity": {"workloadIdentityProvider": "clusters/production"}}),
            ),
            "workloadIdentityProvider",
        ),
        (
            with(
                "auth",
                json!({"azureWorkloadIdentity": {"tenantId": "acme.onmicrosoft.com", "clientId": "puller"}}),
            ),
            "clientId",
        ),
        (
            with(
                "auth",
                json!({"gcpServiceAccountKey": {"secretRef": {"name": "a"}, "handOut": "Everything"}}),
            ),
            "handOut",
        ),
        (
            with("auth", json!({"basic": {}})),
            "spec.auth.basic.secretRef",
        ),
        (
            with("auth", json!({"basic": {"secretRef": {"name": ""}}})),
            "secretRef.name",
        ),
        (
            with("auth", json!({"basic": {"secretRef": {"name": "../etc"}}})),
            "secretRef.name",
        ),
        (with("auth/basic/usernameKey", json!("a/b")), "usernameKey"),
        (
            with("type", json!("Public")),
            "a public registry has no credentials: remove auth",
        ),
        (with("type", json!("Secret")), "supported values"),
        (
            with_provider("Harbor", json!({"awsKeys": {"secretRef": {"name": "a"}}})),
            "auth.awsKeys and auth.awsRole fit ECR and ECRPublic",
        ),
        (
            with_provider("GHCR", json!({"awsRole": {}})),
            "auth.awsKeys and auth.awsRole fit ECR and ECRPublic",
        ),
        (
            with_provider(
                "ECR",
                json!({"gcpServiceAccountKey": {"secretRef": {"name": "a"}}}),
            ),
            "auth.gcpServiceAccountKey and auth.gcpWorkloadIdentity fit ArtifactRegistry and GCR",
        ),
        (
            with_provider("ACR", json!({"gcpWorkloadIdentity": {}})),
            "auth.gcpServiceAccountKey and auth.gcpWorkloadIdentity fit ArtifactRegistry and GCR",
        ),
        (
            with_provider(
                "GCR",
                json!({"azureServicePrincipal": {"tenantId": ID, "clientId": ID, "secretRef": {"name": "a"}}}),
            ),
            "auth.azureServicePrincipal and auth.azureWorkloadIdentity fit ACR",
        ),
        (
            with_provider(
                "Other",
                json!({"azureWorkloadIdentity": {"tenantId": ID, "clientId": ID}}),
            ),
            "auth.azureServicePrincipal and auth.azureWorkloadIdentity fit ACR",
        ),
        (with("provider", json!("Nexus")), "supported values"),
        (
            with("access", Value::Null),
            "access.namespaces is missing: say which namespaces",
        ),
        (
            with("access/namespaces", Value::Null),
            "access.namespaces is missing: say which namespaces",
        ),
        (with("access/namespaces", json!({})), "say which namespaces"),
        (
            with("access/namespaces", json!({"include": []})),
            "say which namespaces",
        ),
        (
            with("access/namespaces", json!({"exclude": ["team-a"]})),
            "say which namespaces",
        ),
        (
            with("access/namespaces", json!({"selector": {}})),
            "say which namespaces",
        ),
        (
            with("access/namespaces", json!({"include": ["Team"]})),
            "spec.access.namespaces.include",
        ),
        (
            with(
                "access/namespaces",
                json!({"selector": {"matchExpressions": [{"key": "team", "operator": "In"}]}}),
            ),
            "values belong to the operators In and NotIn",
        ),
        (
            with("connection", json!({"tls": {"mode": "SecureWithCA"}})),
            "caSecretRef goes with mode: SecureWithCA",
        ),
        (
            with(
                "connection",
                json!({"tls": {"mode": "Secure", "caSecretRef": {"name": "ca"}}}),
            ),
            "caSecretRef goes with mode: SecureWithCA",
        ),
        (
            with(
                "connection",
                json!({"tls": {"mode": "Insecure", "caKey": "ca.crt"}}),
            ),
            "caKey is the key in the Secret of caSecretRef",
        ),
        (
            with("connection", json!({"tls": {"mode": "Trusting"}})),
            "supported values",
        ),
        (
            with("connection", json!({"mirrors": ["mirror.example.com"]})),
            "connection.mirrors: write https://host",
        ),
        (
            with(
                "connection",
                json!({"mirrors": ["https://mirror.example.com", "https://user:password@mirror.example.com"]}),
            ),
            "connection.mirrors: write https://host",
        ),
        (
            with("connection", json!({"via": {"mode": "SSHTunnel"}})),
            "supported values",
        ),
        (
            with("connection", json!({"via": {"mode": "Proxy"}})),
            "url goes with mode: Proxy",
        ),
        (
            with(
                "connection",
                json!({"via": {"mode": "Direct", "url": "http://proxy:3128"}}),
            ),
            "url goes with mode: Proxy",
        ),
        (
            with(
                "connection",
                json!({"via": {"mode": "Direct", "secretRef": {"name": "proxy"}}}),
            ),
            "secretRef is the login to the proxy",
        ),
        (
            with(
                "connection",
                json!({"via": {"mode": "Proxy", "url": "http://proxy:3128", "passwordKey": "p"}}),
            ),
            "keys in the Secret of secretRef, which is missing",
        ),
        (
            with(
                "connection",
                json!({"via": {"mode": "Proxy", "url": "http://robot:secret@proxy:3128"}}),
            ),
            "user and password go into the Secret of secretRef",
        ),
        (
            with(
                "connection",
                json!({"via": {"mode": "Proxy", "url": "socks5://proxy:1080"}}),
            ),
            "write http://host:port or https://host:port",
        ),
        (
            with("verify", json!({"repository": "acme/app:1.0"})),
            "without tag or digest",
        ),
        (
            with(
                "verify",
                json!({"repository": "registry.example.com:5000/acme"}),
            ),
            "without tag or digest",
        ),
        (
            with("verify", json!({"repository": "../app"})),
            "without tag or digest",
        ),
        (
            with("verify", json!({"repository": ""})),
            "spec.verify.repository",
        ),
        (with("verify", json!({})), "spec.verify.repository"),
        (
            json!({
                "host": "*.dkr.ecr.eu-west-1.amazonaws.com",
                "auth": {"basic": {"secretRef": {"name": "acme"}}},
                "access": {"namespaces": {"include": ["*"]}},
                "verify": {"repository": "acme/app"},
            }),
            "write host without wildcards, or remove verify",
        ),
        (
            json!({"host": "registry.k8s.io", "type": "Public", "verify": {"repository": "pause"}}),
            "only the credential of auth can be verified",
        ),
        (with("priority", json!("high")), "spec.priority"),
        (
            with("hots", json!("registry.example.com")),
            "unknown field \"spec.hots\"",
        ),
    ];
    for (spec, words) in &examples {
        let outcome = registry("bad", spec).by(&server.client()).await;
        assert!(
            matches!(outcome.code, 400 | 422) && outcome.text.contains(words),
            "{spec}: expected the words {words:?}: {outcome:?}"
        );
    }
    let long = "a".repeat(64);
    let outcome = registry(&long, &private()).by(&server.client()).await;
    assert!(
        outcome.code == 422 && outcome.text.contains("at most 63 characters"),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn what_is_left_out_is_filled_in() {
    let server = lease().await;
    let outcome = registry("plain", &private()).by(&server.client()).await;
    let stored: Value = serde_json::from_str(&outcome.text).unwrap();
    assert_eq!(stored["spec"]["type"], "Private");
    assert_eq!(stored["spec"]["priority"], 0);
    assert_eq!(stored["spec"]["auth"]["basic"]["usernameKey"], "username");
    assert_eq!(stored["spec"]["auth"]["basic"]["passwordKey"], "password");
    assert_eq!(
        stored["spec"]["provider"],
        Value::Null,
        "it is inferred, not stored"
    );
}

#[tokio::test]
async fn a_status_is_no_way_to_change_a_spec() {
    let server = lease().await;
    let made = registry("kept", &private()).by(&server.client()).await;
    assert!(made.succeeded(), "{made:?}");
    let patch = json!({"spec": {"host": "evil.example.com"}, "status": {"namespaces": {"selected": 3, "synced": 2, "failed": 1}}});
    let patched = Attempt::merge(format!("{REGISTRIES}/kept/status"), &patch)
        .by(&server.client())
        .await;
    assert!(patched.succeeded(), "{patched:?}");
    let stored: Value = serde_json::from_str(&patched.text).unwrap();
    assert_eq!(stored["spec"]["host"], "registry.example.com");
    assert_eq!(stored["status"]["namespaces"]["selected"], 3);
}

async fn kubectl(server: &Lease, arguments: &[&str]) -> String {
    server.cluster().kubectl(arguments).await.unwrap()
}

#[tokio::test]
async fn the_short_name_and_the_category_lead_to_a_table() {
    let server = lease().await;
    let made = registry("acme", &private()).by(&server.client()).await;
    assert!(made.succeeded(), "{made:?}");
    for word in ["preg", "registries", "pullpass"] {
        let table = kubectl(&server, &["get", word]).await;
        let header = table.lines().next().unwrap_or_default();
        for column in [
            "NAME", "HOST", "READY", "REASON", "SELECTED", "SYNCED", "AGE",
        ] {
            assert!(
                header.contains(column),
                "get {word}: no {column} in {header:?}"
            );
        }
        assert!(
            table.contains("registry.example.com"),
            "get {word}: {table}"
        );
    }
}

#[tokio::test]
async fn explain_reads_like_documentation() {
    let server = lease().await;
    for (field, words) in [
        ("preg", "One image registry"),
        (
            "preg.spec.host",
            "host[:port][/path prefix], without a scheme",
        ),
        ("preg.spec.auth", "exactly one of its fields"),
        (
            "preg.spec.access",
            "Which clusters and which of their namespaces may use the registry",
        ),
        ("preg.spec.access.namespaces.include", "Names of namespaces"),
        (
            "preg.spec.connection.via",
            "the proxy of the controller's environment",
        ),
        (
            "preg.spec.connection.tls.mode",
            "whoever is in between reads the credential",
        ),
        ("preg.spec.verify.repository", "has to be able to pull from"),
        ("preg.spec.priority", "the higher priority wins"),
        (
            "preg.status.conditions",
            "Ready: every selected namespace can pull",
        ),
        ("pullaccess", "What this namespace may pull with"),
        (
            "pullaccess.secret.state",
            "Blocked: it cannot be written at present",
        ),
    ] {
        let text = kubectl(&server, &["explain", field]).await;
        // kubectl wraps lines
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains(words), "{field}: no {words:?} in {text}");
    }
    let every_field = kubectl(&server, &["explain", "preg.spec.access"]).await;
    assert!(!every_field.contains("<no description>"), "{every_field}");
}

#[test]
fn the_checked_in_definitions_are_those_of_the_types() {
    let directory = pullpass_harness::chart::definitions_directory();
    let mut generated = pullpass_api::definitions::definitions().unwrap();
    let mut stored = pullpass_harness::chart::definitions();
    assert_eq!(stored.len(), generated.len(), "in {}", directory.display());
    generated.sort_by_key(|crd| crd.metadata.name.clone());
    stored.sort_by_key(|crd| crd.metadata.name.clone());
    for (generated, stored) in generated.iter().zip(&stored) {
        let stored = serde_json::to_value(stored).unwrap();
        let expected = serde_json::to_value(generated).unwrap();
        assert_eq!(
            stored["spec"], expected["spec"],
            "run make generate: {:?}",
            generated.metadata.name
        );
    }
}
