//! What our service accounts can do on a real API server, tried with real tokens: nothing but their work.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt as _};
use pullpass_harness::admission::Recorder;
use pullpass_harness::attempt::Attempt;
use pullpass_harness::objects::{PULL_SECRET, SYSTEM_NAMESPACE, base64, named, secret};
use pullpass_harness::{Lease, eventually, lease};
use pullpass_suites::tenants::{access_path, copy_path, secrets_path};
use serde_json::{Value, json};

const CONTROLLER: &str = "pullpass-controller";
const WEBHOOK: &str = "pullpass-webhook";
const MANAGER: &str = "pullpass-controller";
const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";

/// How long built-in controllers and the API server's own caches may take.
const SOON: Duration = Duration::from_secs(60);

/// The chart's accounts and rights, with the policies or without, and a tenant's namespace with a Secret and with an
/// account that may do everything.
struct Scene {
    server: Lease,
    tenant: String,
    controller: Client,
    webhook: Client,
}

async fn scene(with_policies: bool) -> Scene {
    let server = lease().await;
    server
        .apply_chart_where(|kind| match kind {
            "Deployment" | "Job" | "Service" | "PodDisruptionBudget" => false,
            "ValidatingAdmissionPolicy" | "ValidatingAdmissionPolicyBinding" => with_policies,
            _ => true,
        })
        .await;
    let tenant = server.namespace("tenant").await;
    let victim = secret("victim", "Opaque", &[("password", "not for others")]);
    create(&server, &tenant, &victim).await;
    create(
        &server,
        SYSTEM_NAMESPACE,
        &secret("acme", "Opaque", &[("username", "u")]),
    )
    .await;
    let accounts: Api<ServiceAccount> = server.of(&tenant);
    let deployer = ServiceAccount {
        metadata: named("deployer"),
        ..ServiceAccount::default()
    };
    accounts
        .create(&PostParams::default(), &deployer)
        .await
        .unwrap();
    let bindings: Api<ClusterRoleBinding> = server.all();
    let binding = serde_json::from_value(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": format!("{tenant}-deployer")},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "deployer", "namespace": tenant}],
    }))
    .unwrap();
    bindings
        .create(&PostParams::default(), &binding)
        .await
        .unwrap();
    let controller = server
        .as_service_account(SYSTEM_NAMESPACE, CONTROLLER)
        .await;
    let webhook = server.as_service_account(SYSTEM_NAMESPACE, WEBHOOK).await;
    server.policies_are_in_force().await;
    let scene = Scene {
        server,
        tenant,
        controller,
        webhook,
    };
    scene.rights_are_in_force().await;
    scene
}

async fn create(server: &Lease, namespace: &str, secret: &Secret) {
    let secrets: Api<Secret> = server.of(namespace);
    secrets
        .create(&PostParams::default(), secret)
        .await
        .unwrap();
}

impl Scene {
    /// The API server learns of a role a little after it was stored, and a refusal before that proves nothing.
    async fn rights_are_in_force(&self) {
        let namespaced = secrets_path(SYSTEM_NAMESPACE);
        let certificate = format!("{namespaced}?fieldSelector=metadata.name=pullpass-webhook-tls");
        let registries = "/apis/pullpass.dev/v1alpha1/registries".to_owned();
        for (who, path) in [
            (&self.controller, namespaced),
            (&self.controller, registries.clone()),
            (&self.webhook, certificate),
            (&self.webhook, registries),
        ] {
            eventually(SOON, "the chart's rights are in force", async || {
                let outcome = Attempt::get(&path).by(who).await;
                if outcome.succeeded() {
                    Ok(())
                } else {
                    Err(format!("{path}: {outcome:?}"))
                }
            })
            .await;
        }
    }

    async fn refuses(&self, who: &Client, attempts: &[Attempt]) {
        let mut open = Vec::new();
        for attempt in attempts {
            let outcome = attempt.by(who).await;
            if !outcome.was_refused() {
                open.push(format!("{attempt}: {outcome:?}"));
            }
        }
        assert!(open.is_empty(), "not refused:\n{}", open.join("\n"));
    }

    async fn allows(&self, who: &Client, attempts: &[Attempt]) {
        for attempt in attempts {
            let outcome = attempt.by(who).await;
            assert!(outcome.succeeded(), "{attempt}: {outcome:?}");
        }
    }
}

fn secret_object(name: &str, type_: &str, metadata: Value, data: Value) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "Secret", "type": type_,
        "metadata": {"name": name}, "data": data});
    for (key, value) in metadata.as_object().unwrap() {
        object["metadata"][key] = value.clone();
    }
    object
}

/// A Secret of our name that the token controller fills with an account's token.
fn token_secret(account: &str) -> Value {
    secret_object(
        PULL_SECRET,
        "kubernetes.io/service-account-token",
        json!({"annotations": {"kubernetes.io/service-account.name": account}}),
        json!({}),
    )
}

fn docker_config_data() -> Value {
    json!({".dockerconfigjson": base64(r#"{"auths":{}}"#)})
}

/// A copy as the controller writes it, with changes to its metadata.
fn copy(metadata: Value) -> Value {
    let mut object = secret_object(
        PULL_SECRET,
        "kubernetes.io/dockerconfigjson",
        json!({"labels": {"app.kubernetes.io/managed-by": "pullpass", "pullpass.dev/copy": "true"}}),
        docker_config_data(),
    );
    for (key, value) in metadata.as_object().unwrap() {
        for (name, inner) in value.as_object().into_iter().flatten() {
            object["metadata"][key][name] = inner.clone();
        }
        if value.is_array() {
            object["metadata"][key] = value.clone();
        }
    }
    object
}

/// Every verb on a Secret of this name, and on all of the namespace.
fn every_verb_on(namespace: &str, name: &str) -> Vec<Attempt> {
    let all = secrets_path(namespace);
    let one = format!("{all}/{name}");
    let object = secret_object(
        name,
        "Opaque",
        json!({}),
        json!({"password": base64("changed")}),
    );
    let other = secret_object("made-by-attacker", "Opaque", json!({}), json!({}));
    vec![
        Attempt::get(&one),
        Attempt::get(&all),
        Attempt::get(format!("{all}?watch=1&timeoutSeconds=1")),
        Attempt::get(format!("{all}?fieldSelector=metadata.name={name}")),
        Attempt::get(format!(
            "{all}?watch=1&timeoutSeconds=1&fieldSelector=metadata.name={name}"
        )),
        Attempt::post(&all, &other),
        Attempt::put(&one, &object),
        Attempt::apply(&one, MANAGER, &object),
        Attempt::apply(&format!("{all}/made-by-attacker"), MANAGER, &other),
        Attempt::merge(&one, &json!({"data": {"password": base64("changed")}})),
        Attempt::delete(&one),
        Attempt::delete(&all),
    ]
}

fn reads_of_all_secrets() -> Vec<Attempt> {
    vec![
        Attempt::get("/api/v1/secrets"),
        Attempt::get("/api/v1/secrets?watch=1&timeoutSeconds=1"),
        Attempt::get("/api/v1/secrets?fieldSelector=metadata.name=victim"),
        Attempt::get("/api/v1/secrets?fieldSelector=type=Opaque"),
    ]
}

/// Every way that is known to become somebody else, or to have others do it.
fn ways_to_another_identity(tenant: &str) -> Vec<Attempt> {
    let token =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let pod = |account: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "attacker"}, "spec": {
            "serviceAccountName": account, "containers": [{"name": "a", "image": "registry.example.com/a"}]}})
    };
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "attacker"}});
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let subject =
        json!([{"kind": "ServiceAccount", "name": CONTROLLER, "namespace": SYSTEM_NAMESPACE}]);
    let role_ref = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"});
    let binding = |kind: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": "attacker"},
            "roleRef": role_ref, "subjects": subject})
    };
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": CONTROLLER}, "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]});
    let signing = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": "attacker"}, "spec": {"request": base64("none"), "usages": ["client auth"],
        "signerName": "kubernetes.io/kube-apiserver-client"}});
    let system = format!("/api/v1/namespaces/{SYSTEM_NAMESPACE}");
    let admission = "/apis/admissionregistration.k8s.io/v1";
    let lenient = json!({"spec": {"failurePolicy": "Ignore", "validations": []}});
    vec![
        Attempt::post(
            format!("{system}/serviceaccounts/{CONTROLLER}/token"),
            &token,
        ),
        Attempt::post(format!("{system}/serviceaccounts/{WEBHOOK}/token"), &token),
        Attempt::post(
            format!("/api/v1/namespaces/{tenant}/serviceaccounts/deployer/token"),
            &token,
        ),
        Attempt::post(
            "/api/v1/namespaces/kube-system/serviceaccounts/default/token",
            &token,
        ),
        Attempt::post(format!("{system}/pods"), &pod(CONTROLLER)),
        Attempt::post(
            format!("/api/v1/namespaces/{tenant}/pods"),
            &pod("deployer"),
        ),
        Attempt::post("/api/v1/namespaces/kube-system/pods", &pod("default")),
        Attempt::get(format!("{system}/pods/any/exec?command=sh")),
        Attempt::get("/api/v1/nodes/any/proxy/pods"),
        Attempt::post(format!("{system}/serviceaccounts"), &account),
        Attempt::merge(
            format!("{system}/serviceaccounts/{CONTROLLER}"),
            &json!({"secrets": [{"name": "acme"}]}),
        ),
        Attempt::post(
            format!("{rbac}/clusterrolebindings"),
            &binding("ClusterRoleBinding"),
        ),
        Attempt::post(
            format!("{rbac}/namespaces/{tenant}/rolebindings"),
            &binding("RoleBinding"),
        ),
        Attempt::post(
            format!("{rbac}/namespaces/{SYSTEM_NAMESPACE}/rolebindings"),
            &binding("RoleBinding"),
        ),
        Attempt::apply(&format!("{rbac}/clusterroles/{CONTROLLER}"), MANAGER, &role),
        Attempt::merge(
            format!("{rbac}/clusterrolebindings/{CONTROLLER}"),
            &json!({"subjects": subject}),
        ),
        Attempt::post(
            "/apis/certificates.k8s.io/v1/certificatesigningrequests",
            &signing,
        ),
        Attempt::merge(
            format!("{admission}/validatingadmissionpolicies/pullpass-controller-secrets"),
            &lenient,
        ),
        Attempt::delete(format!(
            "{admission}/validatingadmissionpolicies/pullpass-controller-secrets"
        )),
        Attempt::delete(format!(
            "{admission}/validatingadmissionpolicybindings/pullpass-controller-secrets"
        )),
        Attempt::delete(
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/registries.pullpass.dev",
        ),
        Attempt::merge(
            format!("/api/v1/namespaces/{tenant}"),
            &json!({"metadata": {"labels": {"team": "a"}}}),
        ),
        Attempt::delete(format!("/api/v1/namespaces/{tenant}")),
        Attempt::get(format!("/api/v1/namespaces/{tenant}/configmaps")),
        Attempt::merge(
            "/apis/pullpass.dev/v1alpha1/registries/acme",
            &json!({"spec": {"priority": 9}}),
        ),
        Attempt::delete("/apis/pullpass.dev/v1alpha1/registries/acme"),
    ]
}

#[tokio::test]
async fn the_controller_reaches_no_secret_but_its_own() {
    let scene = scene(true).await;
    scene
        .refuses(&scene.controller, &every_verb_on(&scene.tenant, "victim"))
        .await;
    scene
        .refuses(&scene.controller, &reads_of_all_secrets())
        .await;
    let own = copy_path(&scene.tenant);
    let others = [
        // creation and replacement by other means than server-side apply
        Attempt::post(secrets_path(&scene.tenant), &copy(json!({}))),
        Attempt::put(&own, &copy(json!({}))),
        // source Secrets are read only
        Attempt::merge(
            format!("{}/acme", secrets_path(SYSTEM_NAMESPACE)),
            &json!({"data": {"username": base64("x")}}),
        ),
        Attempt::delete(format!("{}/acme", secrets_path(SYSTEM_NAMESPACE))),
        Attempt::delete(secrets_path(SYSTEM_NAMESPACE)),
        Attempt::post(
            secrets_path(SYSTEM_NAMESPACE),
            &secret_object("other", "Opaque", json!({}), json!({})),
        ),
    ];
    scene.refuses(&scene.controller, &others).await;
}

#[tokio::test]
async fn the_webhook_reaches_no_secret_but_its_certificate() {
    let scene = scene(true).await;
    let certificate = secret(
        "pullpass-webhook-tls",
        "kubernetes.io/tls",
        &[("tls.crt", ""), ("tls.key", "")],
    );
    create(&scene.server, SYSTEM_NAMESPACE, &certificate).await;
    create(
        &scene.server,
        &scene.tenant,
        &secret(PULL_SECRET, "Opaque", &[]),
    )
    .await;
    for (namespace, name) in [
        (scene.tenant.as_str(), "victim"),
        (scene.tenant.as_str(), PULL_SECRET),
        (SYSTEM_NAMESPACE, "acme"),
        (SYSTEM_NAMESPACE, "pullpass-ca"),
        (SYSTEM_NAMESPACE, PULL_SECRET),
        ("kube-system", "any"),
    ] {
        scene
            .refuses(&scene.webhook, &every_verb_on(namespace, name))
            .await;
    }
    scene.refuses(&scene.webhook, &reads_of_all_secrets()).await;
    let own = format!("{}/pullpass-webhook-tls", secrets_path(SYSTEM_NAMESPACE));
    scene.allows(&scene.webhook, &[Attempt::get(&own)]).await;
    let changed = json!({"data": {"tls.key": base64("changed")}});
    let writes = [Attempt::merge(&own, &changed), Attempt::delete(&own)];
    scene.refuses(&scene.webhook, &writes).await;
}

#[tokio::test]
async fn neither_account_becomes_somebody_else() {
    let scene = scene(true).await;
    let mut attempts = ways_to_another_identity(&scene.tenant);
    attempts.push(Attempt::delete(format!("{CONFIGURATIONS}/pullpass")));
    for account in [&scene.controller, &scene.webhook] {
        scene.refuses(account, &attempts).await;
    }
    let identities = [
        ("kubernetes-admin", vec!["system:masters"]),
        ("system:serviceaccount:kube-system:default", vec![]),
        ("system:node:node-1", vec!["system:nodes"]),
    ];
    for account in [CONTROLLER, WEBHOOK] {
        for (user, groups) in &identities {
            let client = scene
                .server
                .impersonating(SYSTEM_NAMESPACE, account, user, groups)
                .await;
            scene
                .refuses(&client, &[Attempt::get("/api/v1/namespaces")])
                .await;
        }
    }
    scene
        .refuses(
            &scene.webhook,
            &[
                Attempt::merge(
                    format!("{CONFIGURATIONS}/pullpass"),
                    &json!({"webhooks": []}),
                ),
                Attempt::get(CONFIGURATIONS),
                Attempt::merge(access_path(&scene.tenant), &json!({"registries": []})),
            ],
        )
        .await;
}

#[tokio::test]
async fn without_the_policies_a_token_secret_makes_a_cluster_administrator() {
    let scene = scene(false).await;
    let made = Attempt::apply(
        &copy_path(&scene.tenant),
        MANAGER,
        &token_secret("deployer"),
    );
    scene.allows(&scene.controller, &[made]).await;
    let copies: Api<Secret> = Api::namespaced(scene.controller.clone(), &scene.tenant);
    let token = eventually(SOON, "the token controller fills the Secret", async || {
        let data = copies
            .get(PULL_SECRET)
            .await
            .map_err(|e| e.to_string())?
            .data;
        data.and_then(|mut data| data.remove("token"))
            .ok_or("no token yet".to_owned())
    })
    .await;
    let stolen = scene.server.with_token(String::from_utf8(token.0).unwrap());
    scene.allows(&stolen, &reads_of_all_secrets()).await;
}

#[tokio::test]
async fn with_the_policies_no_secret_gets_a_meaning() {
    let scene = scene(true).await;
    let apply = |namespace: &str, object: &Value| {
        let name = object["metadata"]["name"].as_str().unwrap();
        Attempt::apply(
            &format!("{}/{name}", secrets_path(namespace)),
            MANAGER,
            object,
        )
    };
    let token = "kubernetes.io/service-account-token";
    let account = |name: &str| json!({"annotations": {"kubernetes.io/service-account.name": name}});
    let typed =
        |name: &str, type_: &str, metadata: Value| secret_object(name, type_, metadata, json!({}));
    let tenant = scene.tenant.as_str();
    let mut extra_key = copy(json!({}));
    extra_key["data"]["token"] = json!(base64("x"));
    let attempts = [
        apply(tenant, &token_secret("deployer")),
        apply(SYSTEM_NAMESPACE, &token_secret(WEBHOOK)),
        apply("kube-system", &token_secret("default")),
        apply(
            SYSTEM_NAMESPACE,
            &typed("pullpass-credential-x", token, account(WEBHOOK)),
        ),
        apply(
            SYSTEM_NAMESPACE,
            &typed("pullpass-ca", token, account(WEBHOOK)),
        ),
        apply(
            SYSTEM_NAMESPACE,
            &typed("pullpass-webhook-tls", token, account(WEBHOOK)),
        ),
        apply(
            SYSTEM_NAMESPACE,
            &typed("anything", token, account(WEBHOOK)),
        ),
        apply(
            "kube-system",
            &typed(PULL_SECRET, "bootstrap.kubernetes.io/token", json!({})),
        ),
        apply(tenant, &typed(PULL_SECRET, "Opaque", json!({}))),
        apply(tenant, &copy(account("deployer"))),
        apply(
            tenant,
            &copy(json!({"labels": {"argocd.argoproj.io/secret-type": "cluster"}})),
        ),
        apply(
            tenant,
            &copy(json!({"labels": {"istio/multiCluster": "true"}})),
        ),
        apply(
            tenant,
            &copy(json!({"annotations": {"replicator.v1.mittwald.de/replicate-to": "*"}})),
        ),
        apply(tenant, &copy(json!({"finalizers": ["example.com/hold"]}))),
        apply(
            tenant,
            &copy(json!({"ownerReferences": [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": "1", "blockOwnerDeletion": true}]})),
        ),
        apply(tenant, &extra_key),
    ];
    scene.refuses(&scene.controller, &attempts).await;
    // the same through an update of a copy that is there
    scene
        .allows(&scene.controller, &[apply(tenant, &copy(json!({})))])
        .await;
    let own = copy_path(tenant);
    let updates = [
        apply(tenant, &copy(account("deployer"))),
        apply(tenant, &extra_key),
        Attempt::merge(
            &own,
            &json!({"metadata": {"annotations": {"kubernetes.io/service-account.name": "deployer"}}}),
        ),
        Attempt::merge(
            &own,
            &json!({"metadata": {"finalizers": ["example.com/hold"]}}),
        ),
        Attempt::merge(
            &own,
            &json!({"metadata": {"labels": {"argocd.argoproj.io/secret-type": "cluster"}}}),
        ),
    ];
    scene.refuses(&scene.controller, &updates).await;
}

#[tokio::test]
async fn with_the_policies_a_foreign_secret_of_our_name_is_safe() {
    let scene = scene(true).await;
    let own = copy_path(&scene.tenant);
    let mut foreign = copy(json!({}));
    foreign["metadata"]["labels"] = json!({});
    // against a field manager called like ours, an apply of ours has no conflict
    for (manager, unforced) in [("kubectl", 409), (MANAGER, 403)] {
        let made = Attempt::apply(&own, manager, &foreign);
        scene.allows(&scene.server.client(), &[made]).await;
        let outcome = Attempt::apply_unforced(&own, MANAGER, &copy(json!({})))
            .by(&scene.controller)
            .await;
        assert_eq!(outcome.code, unforced, "{manager}: {outcome:?}");
        let attempts = [
            Attempt::apply(&own, MANAGER, &copy(json!({}))),
            Attempt::merge(
                &own,
                &json!({"metadata": {"labels": {"pullpass.dev/copy": "true"}}}),
            ),
            Attempt::delete(&own),
        ];
        scene.refuses(&scene.controller, &attempts).await;
        let secrets: Api<Secret> = scene.server.of(&scene.tenant);
        assert!(secrets.get(PULL_SECRET).await.unwrap().labels().is_empty());
        scene
            .allows(&scene.server.client(), &[Attempt::delete(&own)])
            .await;
    }
}

/// Sends every configuration map to the recorder instead of pods to the webhook.
fn redirected(recorder: &Recorder) -> Value {
    let elsewhere = serde_json::to_value(recorder.client_config()).unwrap();
    json!({"webhooks": [{
        "name": "pods.pullpass.dev", "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "clientConfig": elsewhere, "failurePolicy": "Ignore",
        "rules": [{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["configmaps"]}],
    }]})
}

/// What the controller shows to a cloud to prove who it is, and nothing by which its identity would outlive its pod.
#[tokio::test]
async fn with_the_policies_a_token_of_the_own_account_is_for_clouds() {
    let scene = scene(true).await;
    let token = |account: &str, spec: Value| {
        Attempt::post(
            format!("/api/v1/namespaces/{SYSTEM_NAMESPACE}/serviceaccounts/{account}/token"),
            &json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}),
        )
    };
    let for_a_cloud = json!({"audiences": ["sts.amazonaws.com"], "expirationSeconds": 600});
    let own = token(CONTROLLER, for_a_cloud.clone());
    scene.allows(&scene.controller, &[own]).await;
    let api_server = "https://kubernetes.default.svc.cluster.local";
    let others = [
        token(WEBHOOK, for_a_cloud),
        token(CONTROLLER, json!({"expirationSeconds": 600})),
        token(
            CONTROLLER,
            json!({"audiences": [api_server], "expirationSeconds": 600}),
        ),
        token(
            CONTROLLER,
            json!({"audiences": ["sts.amazonaws.com", api_server], "expirationSeconds": 600}),
        ),
        token(
            CONTROLLER,
            json!({"audiences": ["sts.amazonaws.com"], "expirationSeconds": 86_400}),
        ),
    ];
    scene.refuses(&scene.controller, &others).await;
}

#[tokio::test]
async fn without_the_policies_a_redirected_webhook_sees_everything() {
    let scene = scene(false).await;
    let recorder = Recorder::start().await;
    let redirect = Attempt::merge(format!("{CONFIGURATIONS}/pullpass"), &redirected(&recorder));
    scene.allows(&scene.controller, &[redirect]).await;
    let maps: Api<ConfigMap> = scene.server.of(&scene.tenant);
    let map = ConfigMap {
        data: Some([("plan".to_owned(), "confidential".to_owned())].into()),
        ..ConfigMap {
            metadata: named("internal"),
            ..ConfigMap::default()
        }
    };
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    eventually(
        SOON,
        "the API server follows the changed configuration",
        async || {
            maps.create(&dry_run, &map)
                .await
                .map_err(|error| error.to_string())?;
            recorder
                .bodies()
                .iter()
                .any(|body| String::from_utf8_lossy(body).contains("confidential"))
                .then_some(())
                .ok_or("nothing was sent".to_owned())
        },
    )
    .await;
}

#[tokio::test]
async fn with_the_policies_nothing_but_ca_bundle_changes() {
    let scene = scene(true).await;
    let recorder = Recorder::start().await;
    let own = format!("{CONFIGURATIONS}/pullpass");
    let current = Attempt::get(&own).by(&scene.server.client()).await;
    let current: Value = serde_json::from_str(&current.text).unwrap();
    let webhook = current["webhooks"][0].clone();
    let changed = |field: &str, value: Value| {
        let mut webhook = webhook.clone();
        *webhook
            .pointer_mut(field)
            .unwrap_or_else(|| panic!("no {field}")) = value;
        Attempt::merge(&own, &json!({"webhooks": [webhook]}))
    };
    let mut second = webhook.clone();
    second["name"] = json!("second.pullpass.dev");
    let mut conditional = webhook.clone();
    conditional["matchConditions"] = json!([{"name": "never", "expression": "false"}]);
    let mut other = current.clone();
    other["metadata"] = json!({"name": "attacker"});
    let mut validating = other.clone();
    validating["kind"] = json!("ValidatingWebhookConfiguration");
    validating["webhooks"][0]
        .as_object_mut()
        .unwrap()
        .remove("reinvocationPolicy");
    let attempts = [
        Attempt::merge(&own, &redirected(&recorder)),
        changed(
            "/clientConfig",
            serde_json::to_value(recorder.client_config()).unwrap(),
        ),
        changed("/clientConfig/service/name", json!("attacker")),
        changed("/clientConfig/service/namespace", json!(scene.tenant)),
        changed("/clientConfig/service/path", json!("/elsewhere")),
        changed("/clientConfig/service/port", json!(8443)),
        changed("/rules/0/resources", json!(["secrets"])),
        changed("/rules/0/operations", json!(["*"])),
        changed("/failurePolicy", json!("Fail")),
        changed("/timeoutSeconds", json!(30)),
        changed("/matchPolicy", json!("Exact")),
        changed("/reinvocationPolicy", json!("Never")),
        changed("/sideEffects", json!("NoneOnDryRun")),
        changed("/namespaceSelector", json!({})),
        changed("/objectSelector", json!({"matchLabels": {"a": "b"}})),
        changed("/name", json!("other.pullpass.dev")),
        Attempt::merge(&own, &json!({"webhooks": [webhook, second]})),
        Attempt::merge(&own, &json!({"webhooks": [conditional]})),
        Attempt::merge(&own, &json!({"webhooks": []})),
        Attempt::merge(&own, &json!({"metadata": {"labels": {"a": "b"}}})),
        Attempt::merge(&own, &json!({"metadata": {"annotations": {"a": "b"}}})),
        Attempt::merge(
            &own,
            &json!({"metadata": {"finalizers": ["example.com/hold"]}}),
        ),
        Attempt::post(CONFIGURATIONS, &other),
        Attempt::post(
            "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
            &validating,
        ),
        Attempt::delete(&own),
        Attempt::delete(CONFIGURATIONS),
    ];
    scene.refuses(&scene.controller, &attempts).await;
    let trust = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "pullpass"}, "webhooks": [{"name": "pods.pullpass.dev",
        "clientConfig": {"caBundle": base64(recorder.authority())}}]});
    scene
        .allows(&scene.controller, &[Attempt::apply(&own, MANAGER, &trust)])
        .await;
    let after = Attempt::get(&own).by(&scene.server.client()).await;
    let after: Value = serde_json::from_str(&after.text).unwrap();
    assert_eq!(
        after["webhooks"][0]["clientConfig"]["caBundle"],
        base64(recorder.authority())
    );
    assert_eq!(
        after["webhooks"][0]["clientConfig"]["service"],
        webhook["clientConfig"]["service"]
    );
}

#[tokio::test]
async fn inside_the_fence_the_controller_does_its_work() {
    let scene = scene(true).await;
    let tenant = scene.tenant.as_str();
    let system = secrets_path(SYSTEM_NAMESPACE);
    let docker = "kubernetes.io/dockerconfigjson";
    let credential = secret_object(
        "pullpass-credential-acme",
        docker,
        json!({}),
        docker_config_data(),
    );
    let authority = secret_object(
        "pullpass-ca",
        "Opaque",
        json!({}),
        json!({"ca.crt": base64("x")}),
    );
    let serving = secret_object(
        "pullpass-webhook-tls",
        "kubernetes.io/tls",
        json!({}),
        json!({"tls.crt": base64("x"), "tls.key": base64("x")}),
    );
    let access = json!({"apiVersion": "pullpass.dev/v1alpha1", "kind": "PullAccess", "metadata": {"name": "pullpass"},
        "secret": {"name": "pullpass", "state": "Written", "reason": "Written"}, "registries": []});
    let selector = "fieldSelector=metadata.name=pullpass";
    scene
        .allows(
            &scene.controller,
            &[
                Attempt::get("/apis/pullpass.dev/v1alpha1/registries"),
                Attempt::get("/api/v1/namespaces"),
                Attempt::get(format!("{system}/acme")),
                Attempt::get(&system),
                Attempt::apply(&copy_path(tenant), MANAGER, &copy(json!({}))),
                Attempt::apply(
                    &copy_path(tenant),
                    MANAGER,
                    &copy(json!({"labels": {"app.kubernetes.io/version": "2"}})),
                ),
                Attempt::get(copy_path(tenant)),
                Attempt::get(format!("/api/v1/secrets?{selector}")),
                Attempt::get(format!(
                    "/api/v1/secrets?{selector}&watch=1&timeoutSeconds=1"
                )),
                Attempt::apply(&access_path(tenant), MANAGER, &access),
                Attempt::delete(access_path(tenant)),
                Attempt::delete(copy_path(tenant)),
                Attempt::apply(
                    &format!("{system}/pullpass-credential-acme"),
                    MANAGER,
                    &credential,
                ),
                Attempt::apply(&format!("{system}/pullpass-ca"), MANAGER, &authority),
                Attempt::apply(&format!("{system}/pullpass-webhook-tls"), MANAGER, &serving),
                Attempt::delete(format!("{system}/pullpass-credential-acme")),
                Attempt::delete(format!("{system}/pullpass-ca")),
            ],
        )
        .await;
}
