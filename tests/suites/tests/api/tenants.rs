//! What tenants try: people with a token of their own and the usual role in their own namespaces. Each attack says what
//! the attacker does and what should happen; in the end no credential was gained and nobody else's was touched.

mod copies;
mod foreign;
mod namespaces;
mod pods;
mod rights;
mod webhook;

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::PostParams;
use kube::{Api, Client};
use pullpass_harness::attempt::Attempt;
use pullpass_harness::daemons::{Daemon, Webhook};
use pullpass_harness::objects::PULL_SECRET;
use pullpass_harness::{Lease, eventually, lease};
use pullpass_suites::copies::{CONVERGENCE, has_login, has_state, secret};
use pullpass_suites::pods::{pod, pull_secrets};
use pullpass_suites::registries;
use pullpass_suites::tenants::{Login, all_end_with, all_readable, tenant};
use serde_json::json;

/// What the namespaces `team-*` share, the attacker's among them.
const SHARED: Login<'static> = Login {
    username: "shared",
    password: "canary-of-the-teams",
};
const SHARED_HOST: &str = "registry.example.com";

/// What the namespace `vault` has for itself.
const VAULT: Login<'static> = Login {
    username: "vault",
    password: "canary-of-the-vault",
};
const VAULT_HOST: &str = "vault.example.com";

/// The attacker's namespace, which gets the shared login.
const OWN: &str = "team-mallory";
/// The attacker's other namespace, which no Registry selects.
const OUTSIDE: &str = "outside";
/// Somebody else's namespace with the shared login.
const NEIGHBOUR: &str = "team-neighbour";
/// Somebody else's namespace with a login of its own.
const VAULT_NAMESPACE: &str = "vault";

const IMAGE: &str = "registry.example.com/acme/app:1.0";

/// A controller and a webhook at work for an attacker and two victims.
struct Scene {
    server: Lease,
    webhook: Webhook,
    _controller: Daemon,
    mallory: Client,
    /// The victims' copies before any attack.
    untouched: Vec<(&'static str, Secret)>,
}

impl Scene {
    async fn new() -> Self {
        let server = lease().await;
        server.apply_chart().await;
        server.policies_are_in_force().await;
        for (name, host, login, namespace) in [
            ("shared", SHARED_HOST, SHARED, "team-*"),
            ("vault", VAULT_HOST, VAULT, VAULT_NAMESPACE),
        ] {
            registries::write_source(&server, name, login.username, login.password).await;
            let spec = json!({
                "host": host,
                "auth": {"basic": {"secretRef": {"name": name}}},
                "access": {"namespaces": {"include": [namespace], "exclude": ["team-excluded"]}},
            });
            registries::create(&server, &registries::with_spec(name, &spec)).await;
        }
        let webhook = server.start_webhook(&[]).await;
        server.register_webhook(&webhook).await;
        let controller = server.start_controller("one", &[]).await;
        for namespace in [OWN, OUTSIDE, NEIGHBOUR, VAULT_NAMESPACE] {
            server.create_namespace(namespace, &[]).await;
            server.has_account(namespace).await;
        }
        let mallory = tenant(&server, OUTSIDE, "mallory", "edit", &[OWN, OUTSIDE]).await;
        let mut untouched = Vec::new();
        for (namespace, host, login) in [
            (OWN, SHARED_HOST, SHARED),
            (NEIGHBOUR, SHARED_HOST, SHARED),
            (VAULT_NAMESPACE, VAULT_HOST, VAULT),
        ] {
            let copy = has_login(&server, namespace, host, login.username, login.password).await;
            has_state(&server, namespace, "Written/Written").await;
            if namespace != OWN {
                untouched.push((namespace, copy));
            }
        }
        let scene = Self {
            server,
            webhook,
            _controller: controller,
            mallory,
            untouched,
        };
        scene.is_injected(NEIGHBOUR).await;
        scene
    }

    /// Requests of the attacker, each of which the API server should refuse for the sake of rights or of a policy.
    async fn refuses(&self, attacks: &[(&str, Attempt)]) {
        all_end_with(&[403], &self.mallory, attacks).await;
    }

    /// Requests of the attacker that should come to nothing, each with one of these HTTP statuses.
    async fn ends_with(&self, codes: &[u16], attacks: &[(&str, Attempt)]) {
        all_end_with(codes, &self.mallory, attacks).await;
    }

    /// A request that the attacker may make.
    async fn does(&self, what: &str, attempt: &Attempt) {
        let outcome = attempt.by(&self.mallory).await;
        assert!(outcome.succeeded(), "{what}: {attempt}: {outcome:?}");
    }

    /// Waits until a pod is given the name.
    async fn is_injected(&self, namespace: &str) {
        let pods: Api<Pod> = self.server.of(namespace);
        eventually(CONVERGENCE, "pods get the name", async || {
            let made = pods
                .create(&dry_run(), &pod("probe", IMAGE))
                .await
                .map_err(|error| error.to_string())?;
            match pull_secrets(&made) {
                names if names == [PULL_SECRET] => Ok(()),
                names => Err(format!("{names:?}")),
            }
        })
        .await;
    }

    /// What should be true after every attack: the victims' copies were not even written, their pods get the name, and
    /// the attacker has no login that the policy does not give.
    async fn nothing_was_gained_or_broken(&self) {
        for (namespace, before) in &self.untouched {
            let now = secret(&self.server, namespace).await.expect("their copy");
            assert_eq!(
                now.metadata.resource_version, before.metadata.resource_version,
                "{namespace}"
            );
            self.is_injected(namespace).await;
        }
        for (namespace, foreign) in [(OWN, &[VAULT][..]), (OUTSIDE, &[VAULT, SHARED][..])] {
            for (place, content) in all_readable(&self.mallory, namespace).await {
                for login in foreign {
                    assert!(!login.is_in(&content), "{} is in {place}", login.username);
                }
            }
        }
    }

    /// Waits until the attacker's copy is as it should be, whatever was done to it.
    async fn own_copy_is_right(&self, what: &str) {
        let (_, example) = &self.untouched[0];
        eventually(CONVERGENCE, what, async || {
            let copy = secret(&self.server, OWN)
                .await
                .ok_or("it is gone".to_owned())?;
            let is_right = copy.type_ == example.type_
                && copy.data == example.data
                && copy.immutable.is_none()
                && copy.metadata.labels == example.metadata.labels
                && copy.metadata.annotations.is_none()
                && copy.metadata.owner_references.is_none()
                && copy.metadata.deletion_timestamp.is_none();
            if is_right {
                Ok(())
            } else {
                Err(format!("{:?} {:?}", copy.type_, copy.metadata))
            }
        })
        .await;
        has_state(&self.server, OWN, "Written/Written").await;
    }
}

fn dry_run() -> PostParams {
    PostParams {
        dry_run: true,
        ..PostParams::default()
    }
}
