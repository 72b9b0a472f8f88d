//! Requests that a tenant has no right to make.

use kube::Client;
use pullpass_harness::attempt::Attempt;
use pullpass_harness::objects::{PULL_SECRET, SYSTEM_NAMESPACE, base64};
use pullpass_suites::tenants::{
    access_path, accesses_path, all_end_with, copy_path, secrets_path, tenant,
};
use serde_json::{Value, json};

use super::{NEIGHBOUR, OUTSIDE, OWN, Scene, VAULT_NAMESPACE};

const REGISTRIES: &str = "/apis/pullpass.dev/v1alpha1/registries";
const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const CONTROLLER: &str = "pullpass-controller";

fn other_peoples_secrets() -> Vec<(&'static str, Attempt)> {
    let system = secrets_path(SYSTEM_NAMESPACE);
    let named = |name: &str| Attempt::get(format!("{system}/{name}"));
    let selector = format!("fieldSelector=metadata.name={PULL_SECRET}");
    vec![
        ("reads a source", named("vault")),
        ("reads the docker config for installers", named(PULL_SECRET)),
        (
            "reads a last good credential",
            named("pullpass-credential-vault"),
        ),
        ("reads the authority's key", named("pullpass-ca")),
        ("reads the webhook's key", named("pullpass-webhook-tls")),
        ("lists Pullpass's own Secrets", Attempt::get(&system)),
        (
            "watches Pullpass's own Secrets",
            Attempt::get(format!("{system}?watch=1&timeoutSeconds=1")),
        ),
        (
            "plants a source",
            Attempt::post(&system, &secret("planted")),
        ),
        (
            "replaces a source",
            Attempt::merge(
                format!("{system}/vault"),
                &json!({"data": {"password": base64("x")}}),
            ),
        ),
        (
            "deletes a last good credential",
            Attempt::delete(format!("{system}/pullpass-credential-vault")),
        ),
        (
            "reads another namespace's copy",
            Attempt::get(copy_path(VAULT_NAMESPACE)),
        ),
        (
            "reads a neighbour's copy",
            Attempt::get(copy_path(NEIGHBOUR)),
        ),
        (
            "lists another namespace's copy by its name",
            Attempt::get(format!("{}?{selector}", secrets_path(VAULT_NAMESPACE))),
        ),
        (
            "lists all copies by their name",
            Attempt::get(format!("/api/v1/secrets?{selector}")),
        ),
        (
            "watches all copies by their name",
            Attempt::get(format!(
                "/api/v1/secrets?{selector}&watch=1&timeoutSeconds=1"
            )),
        ),
        (
            "edits a neighbour's copy",
            Attempt::merge(
                copy_path(NEIGHBOUR),
                &json!({"data": {".dockerconfigjson": base64("{}")}}),
            ),
        ),
        (
            "deletes a neighbour's copy",
            Attempt::delete(copy_path(NEIGHBOUR)),
        ),
        (
            "applies over a neighbour's copy as our field manager",
            Attempt::apply(&copy_path(NEIGHBOUR), CONTROLLER, &secret(PULL_SECRET)),
        ),
    ]
}

fn secret(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "Opaque"})
}

fn registry(name: &str) -> Value {
    json!({
        "apiVersion": "pullpass.dev/v1alpha1", "kind": "Registry", "metadata": {"name": name},
        "spec": {"host": "vault.example.com", "auth": {"basic": {"secretRef": {"name": "vault"}}},
            "access": {"namespaces": {"include": [OWN]}}},
    })
}

fn access() -> Value {
    json!({
        "apiVersion": "pullpass.dev/v1alpha1", "kind": "PullAccess", "metadata": {"name": PULL_SECRET},
        "secret": {"name": PULL_SECRET, "state": "Written", "reason": "Written"},
        "registries": [{"name": "vault", "host": "vault.example.com", "state": "Available", "reason": "Available"}],
    })
}

fn our_own_resources() -> Vec<(&'static str, Attempt)> {
    let vault = format!("{REGISTRIES}/vault");
    let widen = json!({"spec": {"access": {"namespaces": {"include": ["*"]}}}});
    let own_access = access_path(OWN);
    vec![
        (
            "makes a Registry for the own namespace",
            Attempt::post(REGISTRIES, &registry("mine")),
        ),
        (
            "applies one",
            Attempt::apply(&format!("{REGISTRIES}/mine"), CONTROLLER, &registry("mine")),
        ),
        ("widens a Registry", Attempt::merge(&vault, &widen)),
        (
            "widens it through its status",
            Attempt::merge(format!("{vault}/status"), &widen),
        ),
        (
            "writes a Registry's status",
            Attempt::merge(
                format!("{vault}/status"),
                &json!({"status": {"credentials": null}}),
            ),
        ),
        ("deletes a Registry", Attempt::delete(&vault)),
        ("deletes all Registries", Attempt::delete(REGISTRIES)),
        ("reads who has which registry", Attempt::get(REGISTRIES)),
        (
            "tells itself that it has a registry",
            Attempt::put(&own_access, &access()),
        ),
        (
            "applies that",
            Attempt::apply(&own_access, CONTROLLER, &access()),
        ),
        (
            "makes a PullAccess where none is",
            Attempt::post(accesses_path(OUTSIDE), &access()),
        ),
        ("deletes its PullAccess", Attempt::delete(&own_access)),
        (
            "deletes all its PullAccesses",
            Attempt::delete(accesses_path(OWN)),
        ),
        (
            "holds its PullAccess with a finalizer",
            Attempt::merge(
                &own_access,
                &json!({"metadata": {"finalizers": ["example.com/hold"]}}),
            ),
        ),
        (
            "reads what another namespace has",
            Attempt::get(accesses_path(VAULT_NAMESPACE)),
        ),
        (
            "reads what all namespaces have",
            Attempt::get("/apis/pullpass.dev/v1alpha1/pullaccesses"),
        ),
    ]
}

fn our_own_workloads() -> Vec<(&'static str, Attempt)> {
    let system = format!("/api/v1/namespaces/{SYSTEM_NAMESPACE}");
    let token =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "mallory"}, "spec": {
        "serviceAccountName": CONTROLLER, "containers": [{"name": "a", "image": "registry.example.com/a"}]}});
    let container = json!({"spec": {"ephemeralContainers": [{"name": "a", "image": "registry.example.com/a"}]}});
    let lease =
        "/apis/coordination.k8s.io/v1/namespaces/pullpass-system/leases/pullpass-controller";
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "forged"}, "reason": "Injected",
        "involvedObject": {"kind": "Namespace", "name": SYSTEM_NAMESPACE, "namespace": SYSTEM_NAMESPACE}});
    vec![
        (
            "asks for the controller's token",
            Attempt::post(
                format!("{system}/serviceaccounts/{CONTROLLER}/token"),
                &token,
            ),
        ),
        (
            "asks for the webhook's token",
            Attempt::post(
                format!("{system}/serviceaccounts/pullpass-webhook/token"),
                &token,
            ),
        ),
        (
            "runs a pod as the controller",
            Attempt::post(format!("{system}/pods"), &pod),
        ),
        (
            "runs a command in a pod of ours",
            Attempt::get(format!("{system}/pods/any/exec?command=sh")),
        ),
        (
            "adds a container to a pod of ours",
            Attempt::merge(format!("{system}/pods/any/ephemeralcontainers"), &container),
        ),
        (
            "forwards a port of ours",
            Attempt::get(format!("{system}/pods/any/portforward")),
        ),
        (
            "reads a log of ours",
            Attempt::get(format!("{system}/pods/any/log")),
        ),
        (
            "reaches our Service through the API server",
            Attempt::get(format!(
                "{system}/services/https:pullpass-webhook:443/proxy/metrics"
            )),
        ),
        (
            "takes the Lease",
            Attempt::merge(lease, &json!({"spec": {"holderIdentity": "mallory"}})),
        ),
        ("deletes the Lease", Attempt::delete(lease)),
        (
            "tells of events in our namespace",
            Attempt::post(format!("{system}/events"), &event),
        ),
        (
            "takes the webhook's Service over",
            Attempt::merge(
                format!("{system}/services/pullpass-webhook"),
                &json!({"spec": {"selector": {"app": "mallory"}}}),
            ),
        ),
    ]
}

fn the_cluster() -> Vec<(&'static str, Attempt)> {
    let own = format!("/api/v1/namespaces/{OWN}");
    let gold = json!({"metadata": {"labels": {"tier": "gold"}}});
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team-more"}});
    let request = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": "mallory"}, "spec": {"request": base64("none"), "usages": ["client auth"],
        "signerName": "kubernetes.io/kube-apiserver-client"}});
    let subject = json!([{"kind": "ServiceAccount", "name": "mallory", "namespace": OUTSIDE}]);
    let binding = |kind: &str, role: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": "mallory"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}, "subjects": subject})
    };
    let webhooks = format!("{ADMISSION}/mutatingwebhookconfigurations");
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": CONTROLLER}});
    vec![
        ("labels the own namespace", Attempt::merge(&own, &gold)),
        (
            "labels it through its status",
            Attempt::merge(format!("{own}/status"), &gold),
        ),
        (
            "labels another namespace out",
            Attempt::merge(
                format!("/api/v1/namespaces/{NEIGHBOUR}"),
                &json!({"metadata": {"labels": {"pullpass.dev/inject": "false"}}}),
            ),
        ),
        (
            "makes a namespace that a glob selects",
            Attempt::post("/api/v1/namespaces", &namespace),
        ),
        (
            "binds the controller's role to itself",
            Attempt::post(
                format!("{RBAC}/clusterrolebindings"),
                &binding("ClusterRoleBinding", CONTROLLER),
            ),
        ),
        (
            "binds it in the own namespace",
            Attempt::post(
                format!("{RBAC}/namespaces/{OWN}/rolebindings"),
                &binding("RoleBinding", CONTROLLER),
            ),
        ),
        (
            "binds it in ours",
            Attempt::post(
                format!("{RBAC}/namespaces/{SYSTEM_NAMESPACE}/rolebindings"),
                &binding("RoleBinding", "edit"),
            ),
        ),
        (
            "lifts a policy of the fence",
            Attempt::delete(format!(
                "{ADMISSION}/validatingadmissionpolicybindings/pullpass-copies"
            )),
        ),
        (
            "softens one",
            Attempt::merge(
                format!("{ADMISSION}/validatingadmissionpolicies/pullpass-controller-secrets"),
                &json!({"spec": {"failurePolicy": "Ignore", "validations": []}}),
            ),
        ),
        (
            "turns the webhook to itself",
            Attempt::merge(format!("{webhooks}/pullpass"), &json!({"webhooks": []})),
        ),
        (
            "deletes the webhook's configuration",
            Attempt::delete(format!("{webhooks}/pullpass")),
        ),
        (
            "deletes the definition of Registries",
            Attempt::delete(
                "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/registries.pullpass.dev",
            ),
        ),
        (
            "asks for a certificate in another name",
            Attempt::post(
                "/apis/certificates.k8s.io/v1/certificatesigningrequests",
                &request,
            ),
        ),
        (
            "asks what the controller may",
            Attempt::post(
                "/apis/authorization.k8s.io/v1/subjectaccessreviews",
                &review,
            ),
        ),
    ]
}

#[tokio::test]
async fn everything_beyond_the_own_namespaces_is_refused() {
    let scene = Scene::new().await;
    scene.refuses(&other_peoples_secrets()).await;
    scene.refuses(&our_own_resources()).await;
    scene.refuses(&our_own_workloads()).await;
    scene.refuses(&the_cluster()).await;
    let someone: [(&str, &str, &[&str]); 4] = [
        (
            "controller",
            "system:serviceaccount:pullpass-system:pullpass-controller",
            &[][..],
        ),
        (
            "webhook",
            "system:serviceaccount:pullpass-system:pullpass-webhook",
            &[],
        ),
        ("administrator", "kubernetes-admin", &["system:masters"]),
        ("node", "system:node:node-1", &["system:nodes"]),
    ];
    for (who, user, groups) in someone {
        let client = scene
            .server
            .impersonating(OUTSIDE, "mallory", user, groups)
            .await;
        all_end_with(
            &[403],
            &client,
            &[(who, Attempt::get(copy_path(VAULT_NAMESPACE)))],
        )
        .await;
    }
    // a name in the path is no way out of the namespace
    let tricks = [
        "..%2F..%2Fvault%2Fsecrets%2Fpullpass",
        "%2e%2e/%2e%2e/vault/secrets/pullpass",
        "../../vault/secrets/pullpass",
        "pullpass/../../../vault/secrets/pullpass",
        "pullpass%00",
    ];
    for trick in tricks {
        let attempt = Attempt::get(format!("{}/{trick}", secrets_path(OWN)));
        let outcome = attempt.by(&scene.mallory).await;
        assert!(!outcome.succeeded(), "{attempt}: {}", outcome.code);
    }
    scene.nothing_was_gained_or_broken().await;
    the_namespaces_own_administrator_gains_as_little(&scene).await;
}

/// `admin` may hand out rights in its namespace, but none that it has not.
async fn the_namespaces_own_administrator_gains_as_little(scene: &Scene) {
    let admin: Client = tenant(&scene.server, OUTSIDE, "admin", "admin", &[OWN]).await;
    let subject = json!([{"kind": "ServiceAccount", "name": "admin", "namespace": OUTSIDE}]);
    let binding = |role: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": format!("more-{role}")},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}, "subjects": subject})
    };
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "more"},
        "rules": [{"apiGroups": ["pullpass.dev"], "resources": ["pullaccesses"], "verbs": ["create", "update", "patch", "delete"]}]});
    let bindings = format!("{RBAC}/namespaces/{OWN}/rolebindings");
    let attacks = [
        (
            "binds itself the controller's role",
            Attempt::post(&bindings, &binding(CONTROLLER)),
        ),
        (
            "binds itself the role for Registries",
            Attempt::post(&bindings, &binding("pullpass-admin")),
        ),
        (
            "makes a role that writes PullAccesses",
            Attempt::post(format!("{RBAC}/namespaces/{OWN}/roles"), &role),
        ),
        (
            "lifts the own quota",
            Attempt::delete(format!("/api/v1/namespaces/{OWN}/resourcequotas")),
        ),
        (
            "labels the own namespace",
            Attempt::merge(
                format!("/api/v1/namespaces/{OWN}"),
                &json!({"metadata": {"labels": {"tier": "gold"}}}),
            ),
        ),
        (
            "reads another namespace's copy",
            Attempt::get(copy_path(VAULT_NAMESPACE)),
        ),
        (
            "makes the own copy immutable",
            Attempt::merge(copy_path(OWN), &json!({"immutable": true})),
        ),
    ];
    all_end_with(&[403], &admin, &attacks).await;
    scene.nothing_was_gained_or_broken().await;
}
