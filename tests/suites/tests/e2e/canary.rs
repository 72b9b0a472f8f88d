//! Credentials are in Secrets and nowhere else: promise S3.

use std::path::Path;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota, Secret};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::core::DynamicObject;
use kube::discovery::{Discovery, verbs};
use pullpass_harness::canary::{self, Canary, MARKER};
use pullpass_harness::objects::{PULL_SECRET, SYSTEM_NAMESPACE, base64, secret};
use pullpass_harness::{Full, Shared, eventually, shared};
use pullpass_suites::copies::{self, CONVERGENCE, has_login, has_state};
use pullpass_suites::registries::{self, has_condition};
use serde_json::{Value, json};

use crate::scene::Scene;

/// Where the registry of this name would be, if there was one.
const NOWHERE: &str = "canary.example.com";

#[tokio::test]
async fn no_credential_is_told_to_anybody() {
    let scene = Scene::on(shared().await).await;
    let namespace = scene.namespace("a").await;
    let in_use = in_use(&scene, &namespace).await;
    malformed(&scene, &namespace).await;
    cannot_be_written(&scene).await;
    in_a_review(&scene).await;

    let copy = copies::secret(&scene.cluster, &namespace).await.unwrap();
    assert!(
        Canary::of(MARKER).is_in(serde_json::to_string(&copy).unwrap()),
        "what is searched for is not found where it is"
    );
    nothing_is_told(&scene.cluster).await;
    // what is revoked is told no more than what is given
    for registry in [&in_use, &scene.name] {
        registries::delete(&scene.cluster, registry).await;
    }
    copies::is_clear(&scene.cluster, &namespace).await;
    nothing_is_told(&scene.cluster).await;
    // an uninstall leaves it, and the test of that would wonder
    let foreign: Api<Secret> = scene.cluster.of(&format!("{}-foreign", scene.name));
    foreign
        .delete(PULL_SECRET, &DeleteParams::default())
        .await
        .unwrap();
}

/// Every password that tests have given to Pullpass begins with the same marker.
#[tokio::test]
#[ignore = "looks at what all other tests have left behind"]
async fn after_all_other_tests_no_credential_has_been_told() {
    let cluster = shared().await;
    nothing_is_told(&cluster).await;
}

/// A Registry whose credential is rolled out, is changed, and is rolled out again. Returns its name.
async fn in_use(scene: &Scene<Shared>, namespace: &str) -> String {
    let name = format!("{}-in-use", scene.name);
    let (username, first, second) = (canary::password(), canary::password(), canary::password());
    registries::write_source(&scene.cluster, &name, &username, &first).await;
    let registry = registries::private(&name, NOWHERE, &[namespace]);
    registries::create(&scene.cluster, &registry).await;
    has_login(&scene.cluster, namespace, NOWHERE, &username, &first).await;
    registries::write_source(&scene.cluster, &name, &username, &second).await;
    has_login(&scene.cluster, namespace, NOWHERE, &username, &second).await;
    name
}

/// Sources that cannot be used, which the text of an error might quote.
async fn malformed(scene: &Scene<Shared>, namespace: &str) {
    let name = format!("{}-malformed", scene.name);
    let canary = canary::password();
    let encoded = base64(&canary);
    let entry = |entry: Value| json!({"auths": {NOWHERE: entry}}).to_string();
    let basic = json!({"basic": {"secretRef": {"name": name}}});
    let config = json!({"dockerConfig": {"secretRef": {"name": name}, "key": "config"}});
    let keyed = json!({"auths": {format!("robot:{canary}@{NOWHERE}"): {"auth": encoded}}});
    type Data<'a> = &'a [(&'a str, &'a str)];
    let cases: [(&Value, Data<'_>, &str); 11] = [
        (
            &config,
            &[("config", &format!("{{\"auths\": {{\"{canary}\": {canary}"))],
            "MalformedSource",
        ),
        (
            &config,
            &[("config", &format!("\"{canary}\""))],
            "MalformedSource",
        ),
        (
            &config,
            &[("config", &entry(json!({"auth": canary})))],
            "MalformedSource",
        ),
        (
            &config,
            &[("config", &entry(json!({"auth": encoded})))],
            "MalformedSource",
        ),
        (
            &config,
            &[(
                "config",
                &entry(json!({"username": {&canary: 1}, "password": [canary]})),
            )],
            "MalformedSource",
        ),
        (
            &config,
            &[("config", &keyed.to_string())],
            "MalformedSource",
        ),
        (&config, &[("another", &canary)], "SourceKeyMissing"),
        (&basic, &[("username", &canary)], "SourceKeyMissing"),
        (
            &basic,
            &[
                ("username", &format!("{canary}:{canary}")),
                ("password", &canary),
            ],
            "MalformedSource",
        ),
        (
            &basic,
            &[("username", &canary), ("password", &format!("{canary}\n"))],
            "MalformedSource",
        ),
        (
            &basic,
            &[
                ("username", &format!("{canary}\u{7f}")),
                ("password", &canary),
            ],
            "MalformedSource",
        ),
    ];
    for (auth, source, reason) in cases {
        // applied, so that keys of the case before are not there any more
        registries::write_secret(&scene.cluster, &secret(&name, "Opaque", source)).await;
        let spec = json!({
            "host": NOWHERE,
            "auth": auth,
            "access": {"namespaces": {"include": [namespace]}},
        });
        registries::create(&scene.cluster, &registries::with_spec(&name, &spec)).await;
        let wanted = format!("False/{reason}");
        has_condition(&scene.cluster, &name, "CredentialsReady", &wanted).await;
        registries::delete(&scene.cluster, &name).await;
    }
}

/// Namespaces that do not take the copy.
async fn cannot_be_written(scene: &Scene<Shared>) {
    let cluster = &scene.cluster;
    let namespaces = [
        format!("{}-foreign", scene.name),
        format!("{}-quota", scene.name),
    ];
    // not selected yet, so that the obstacle is there before the copy
    for namespace in &namespaces {
        let declines = [("pullpass.dev/inject", "false")];
        cluster.create_namespace(namespace, &declines).await;
    }
    let secrets: Api<Secret> = cluster.of(&namespaces[0]);
    let foreign = secret(PULL_SECRET, "Opaque", &[("password", &canary::password())]);
    secrets
        .create(&PostParams::default(), &foreign)
        .await
        .unwrap();
    let quotas: Api<ResourceQuota> = cluster.of(&namespaces[1]);
    let quota = json!({
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "no-secrets"},
        "spec": {"hard": {"secrets": "0"}},
    });
    let quota = serde_json::from_value(quota).unwrap();
    quotas.create(&PostParams::default(), &quota).await.unwrap();
    for (namespace, reason) in namespaces.iter().zip(["ForeignSecret", "QuotaExceeded"]) {
        cluster
            .label_namespace(namespace, "pullpass.dev/inject", None)
            .await;
        has_state(cluster, namespace, &format!("Blocked/{reason}")).await;
    }
}

/// Reviews of pods that hold secrets of their own, and some that cannot be read: the webhook's answers repeat nothing.
async fn in_a_review(scene: &Scene<Shared>) {
    let canary = canary::password();
    let review = |object: Value| {
        json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": "2c9b527a",
                "resource": {"group": "", "version": "v1", "resource": "pods"},
                "operation": "CREATE",
                "namespace": format!("{}-a", scene.name),
                "object": object,
            },
        })
        .to_string()
    };
    let container =
        json!({"name": "app", "image": canary, "env": [{"name": "PASSWORD", "value": canary}]});
    let metadata = json!({"name": canary, "labels": {"a": canary}, "annotations": {"a": canary}});
    let whole = review(json!({"metadata": metadata, "spec": {"containers": [container]}}));
    let bodies = [
        whole.clone(),
        whole.replace("[{", "[7,{"),
        review(json!({"metadata": metadata, "spec": canary})),
        format!("{whole}{canary}"),
        format!("\"{canary}\""),
        canary.clone(),
    ];
    let post = poster(&scene.cluster).await;
    let marker = Canary::of(MARKER);
    for body in bodies {
        let answer = post(body).await;
        assert!(!answer.is_empty());
        assert!(!marker.is_in(&answer), "{answer}");
    }
}

/// Asks the installed webhook, as the API server does, and returns headers and body of the answer.
async fn poster(cluster: &Full) -> impl AsyncFn(String) -> String {
    const NAME: &str = "pullpass-webhook.pullpass-system.svc";
    let configurations: Api<MutatingWebhookConfiguration> = cluster.all();
    let configuration = configurations.get("pullpass").await.unwrap();
    let bundle = configuration
        .webhooks
        .unwrap()
        .remove(0)
        .client_config
        .ca_bundle;
    let authority = reqwest::Certificate::from_pem_bundle(&bundle.unwrap().0).unwrap();
    let services: Api<k8s_openapi::api::core::v1::Service> = cluster.of(SYSTEM_NAMESPACE);
    let service = services.get("pullpass-webhook").await.unwrap();
    let address = service.spec.unwrap().cluster_ip.unwrap();
    let client = reqwest::Client::builder()
        .tls_certs_only(authority)
        .resolve(
            NAME,
            (address.parse::<std::net::IpAddr>().unwrap(), 443).into(),
        )
        .build()
        .unwrap();
    async move |body| {
        let asked = client.post(format!("https://{NAME}/inject?timeout=10s"));
        let answer = asked
            .header("Content-Type", "application/json")
            .body(body)
            .send()
            .await
            .unwrap();
        let head = format!("{} {:?}", answer.status(), answer.headers());
        format!("{head}\n{}", answer.text().await.unwrap())
    }
}

/// Searches everything but the data of Secrets: logs, which are at trace level in these tests; the audit log with the
/// bodies, patches and annotations in it; objects of all kinds, events among them, with status, annotations and managed
/// fields; and what the daemons tell over HTTP.
async fn nothing_is_told(cluster: &Full) {
    let registry = cluster.registry();
    let canaries = [
        MARKER,
        &registry.first_user().password,
        &registry.second_user().password,
    ]
    .map(Canary::of);
    let mut searched = 0;
    let mut look = |place: &str, content: &[u8]| {
        searched += 1;
        let is_told = canaries.iter().any(|canary| canary.is_in(content));
        assert!(!is_told, "a credential is in: {place}");
    };
    logs(cluster, &mut look);
    objects(cluster, &mut look).await;
    own_words(cluster, &mut look).await;
    assert!(searched > 50, "{searched} places were searched");
}

fn logs(cluster: &Full, look: &mut impl FnMut(&str, &[u8])) {
    let cluster = cluster.cluster();
    look(
        "the audit log",
        &std::fs::read(cluster.audit_log()).unwrap(),
    );
    let mut own = 0;
    let mut is_trace = false;
    files(&cluster.pod_logs("node-1"), &mut |path, content| {
        look(path, content);
        if path.contains(SYSTEM_NAMESPACE) {
            own += 1;
            is_trace |= String::from_utf8_lossy(content).contains(" TRACE ");
        }
    });
    assert!(
        own >= 4 && is_trace,
        "{own} logs, at trace level: {is_trace}"
    );
    files(&cluster.logs(), &mut |path, content| {
        // the registry may say who logs in
        if !path.ends_with("/registry.log") {
            look(path, content);
        }
    });
}

/// Every file below a directory. What is deleted meanwhile, as the logs of other tests' pods are, is left out.
fn files(directory: &Path, look: &mut impl FnMut(&str, &[u8])) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, look);
        } else if let Ok(content) = std::fs::read(&path) {
            look(&path.display().to_string(), &content);
        }
    }
}

/// All objects of all kinds; of Secrets all but the data.
async fn objects(cluster: &Full, look: &mut impl FnMut(&str, &[u8])) {
    let discovered = Discovery::new(cluster.client())
        .run_aggregated()
        .await
        .unwrap();
    let kinds = discovered
        .groups()
        .flat_map(|group| group.recommended_resources())
        .filter(|(_, can)| can.supports_operation(verbs::LIST));
    for (kind, _) in kinds {
        let all: Api<DynamicObject> = Api::all_with(cluster.client(), &kind);
        let everything = ListParams::default();
        // after a change of its definition an API server asks for a little patience with a kind
        let told = eventually(CONVERGENCE, "the kind is listed", async || {
            if kind.kind == "Secret" {
                let all = all.list_metadata(&everything).await;
                all.map(|all| serde_json::to_vec(&all.items))
            } else {
                let all = all.list(&everything).await;
                all.map(|all| serde_json::to_vec(&all.items))
            }
        })
        .await;
        look(&kind.plural, &told.unwrap());
    }
}

/// Metrics and the texts of the probes.
async fn own_words(cluster: &Full, look: &mut impl FnMut(&str, &[u8])) {
    let own: Api<Pod> = cluster.of(SYSTEM_NAMESPACE);
    let ours = ListParams::default().labels("app.kubernetes.io/name=pullpass");
    let mut asked = 0;
    for pod in own.list(&ours).await.unwrap() {
        let Some(address) = pod
            .status
            .as_ref()
            .and_then(|status| status.pod_ip.as_ref())
        else {
            continue;
        };
        for path in ["metrics", "livez", "readyz"] {
            let place = format!("http://{address}:8080/{path}");
            let told = reqwest::get(&place).await.unwrap().text().await.unwrap();
            assert!(!told.is_empty(), "{place}");
            look(&place, told.as_bytes());
            asked += 1;
        }
    }
    assert!(asked >= 12, "{asked} answers");
}
