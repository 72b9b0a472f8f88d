//! What tenants try on nodes: people with a token of their own and the role `edit` in their own namespaces. The attacks
//! that need no node are in the suite against an API server alone.

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use pullpass_harness::attempt::Attempt;
use pullpass_harness::objects::{PULL_SECRET, SYSTEM_NAMESPACE, base64};
use pullpass_harness::{Shared, eventually, shared};
use pullpass_suites::copies::has_state;
use pullpass_suites::pods::{from, manifest, pod, pull_secrets};
use pullpass_suites::tenants::{Login, all_readable, copy_path, secrets_path, tenant};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::scene::{POD, REFUSED, Scene, reaches};

impl Scene<Shared> {
    fn login(&self) -> Login<'_> {
        Login {
            username: &self.user.name,
            password: &self.user.password,
        }
    }

    /// Somebody who may do what `edit` allows in these namespaces, the first of which is home.
    async fn mallory(&self, namespaces: &[&str]) -> Client {
        for namespace in namespaces {
            self.cluster.has_account(namespace).await;
        }
        tenant(&self.cluster, namespaces[0], "mallory", "edit", namespaces).await
    }
}

/// Waits until kubelet or the registry has refused to give the pod its image.
async fn is_refused(who: &Client, namespace: &str, name: &str) {
    // the last one is how kubelet complains of a pull secret that it cannot read
    let by_kubelet = ["ErrImageNeverPull", "InvalidImageName", "illegal base64"];
    let wanted = [&REFUSED[..], &by_kubelet].concat();
    reaches(&Api::namespaced(who.clone(), namespace), name, &wanted).await;
}

#[tokio::test]
async fn no_pod_beyond_the_policy_runs_a_private_image() {
    let scene = Scene::on(shared().await).await;
    let victim = scene.namespace("victim").await;
    let outside = scene.namespace("excluded").await;
    let mallory = scene.mallory(&[&outside]).await;
    let image = scene.image().await;
    // from here on the node has the image, pulled by somebody who may
    scene.pulls_image_at_once(&victim, &image).await;
    let ran: Api<Pod> = scene.cluster.of(&victim);
    let digest = ran.list(&ListParams::default()).await.unwrap().items[0]
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref())
        .map(|statuses| statuses[0].image_id.clone())
        .unwrap();

    let listing = |names: &[&str]| {
        names
            .iter()
            .map(|name| json!({"name": name}))
            .collect::<Value>()
    };
    let change = |name: &str, image: &str, field: &str, value: Value| {
        let mut pod = manifest(name, image);
        let (parent, field) = field.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[field] = value;
        pod
    };
    let by_path = [
        format!("../{victim}/{PULL_SECRET}"),
        format!("../../{victim}/secrets/{PULL_SECRET}"),
        format!("{victim}/{PULL_SECRET}"),
        format!("..%2f..%2f{victim}%2fsecrets%2f{PULL_SECRET}"),
        PULL_SECRET.to_uppercase(),
        format!("{PULL_SECRET}-credential-{}", scene.name),
    ];
    let by_path: Vec<&str> = by_path.iter().map(String::as_str).collect();
    let mut init = manifest("init", &image);
    init["spec"]["initContainers"] = init["spec"]["containers"].clone();
    init["spec"]["initContainers"][0]["name"] = json!("first");
    let wrong =
        json!({"auths": {scene.host(): {"auth": base64(format!("{}:wrong", scene.user.name))}}});
    let wrong = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
        "metadata": {"name": "guessed"}, "data": {".dockerconfigjson": base64(wrong.to_string())}});
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "borrowing"},
        "imagePullSecrets": [{"name": PULL_SECRET}]});
    for (path, object) in [
        (secrets_path(&outside), &wrong),
        (
            format!("/api/v1/namespaces/{outside}/serviceaccounts"),
            &account,
        ),
    ] {
        let made = Attempt::post(path, object).by(&mallory).await;
        assert!(made.succeeded(), "{made:?}");
    }
    let pods: Api<Pod> = Api::namespaced(mallory.clone(), &outside);
    let attacks = [
        manifest("asks", &image),
        change(
            "takes-what-is-there",
            &image,
            "/spec/containers/0/imagePullPolicy",
            json!("Never"),
        ),
        change(
            "pulls-always",
            &image,
            "/spec/containers/0/imagePullPolicy",
            json!("Always"),
        ),
        change(
            "names-ours",
            &image,
            "/spec/imagePullSecrets",
            listing(&[PULL_SECRET]),
        ),
        change(
            "names-by-path",
            &image,
            "/spec/imagePullSecrets",
            listing(&by_path),
        ),
        change(
            "guesses",
            &image,
            "/spec/imagePullSecrets",
            listing(&["guessed"]),
        ),
        change(
            "borrows",
            &image,
            "/spec/serviceAccountName",
            json!("borrowing"),
        ),
        change(
            "agrees",
            &image,
            "/metadata/labels",
            json!({"pullpass.dev/inject": "true"}),
        ),
        change(
            "claims",
            &image,
            "/metadata/annotations",
            json!({"pullpass.dev/namespace": victim}),
        ),
        manifest("by-digest", &digest),
        init,
    ];
    for attack in &attacks {
        // the account of the last one is learned of a moment later
        eventually(POD, "the pod is made", async || {
            pods.create(&PostParams::default(), &from(attack))
                .await
                .map_err(|error| error.to_string())
        })
        .await;
    }
    join_all(attacks.iter().map(|attack| {
        let name = attack["metadata"]["name"].as_str().unwrap();
        is_refused(&mallory, &outside, name)
    }))
    .await;
    for (place, content) in all_readable(&mallory, &outside).await {
        assert!(!scene.login().is_in(&content), "the login is in {place}");
    }
    scene.pulls_at_once(&victim).await;
}

#[tokio::test]
async fn who_spoils_its_own_pulls_spoils_nobody_elses() {
    let scene = Scene::on(shared().await).await;
    let (own, squatted) = (
        scene.namespace("own").await,
        format!("{}-squatted", scene.name),
    );
    let neighbour = scene.namespace("neighbour").await;
    scene
        .cluster
        .create_namespace(&squatted, &[("pullpass.dev/inject", "false")])
        .await;
    let mallory = scene.mallory(&[&own, &squatted]).await;
    for namespace in [&own, &neighbour] {
        scene.has_login(namespace).await;
    }
    // squats the name with what makes kubelet fail every pull of a pod, before the namespace is selected
    let bad = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
        "metadata": {"name": PULL_SECRET}, "data": {".dockerconfigjson": base64(r#"{"auths":{"x":{"auth":"%"}}}"#)}});
    let made = Attempt::post(secrets_path(&squatted), &bad)
        .by(&mallory)
        .await;
    assert!(made.succeeded(), "{made:?}");
    let select = Attempt::merge(
        format!("/api/v1/namespaces/{squatted}"),
        &json!({"metadata": {"labels": {"pullpass.dev/inject": null}}}),
    );
    assert!(select.by(&scene.cluster.client()).await.succeeded());
    has_state(&scene.cluster, &squatted, "Blocked/ForeignSecret").await;
    let image = scene.image().await;
    let pods: Api<Pod> = Api::namespaced(mallory.clone(), &squatted);
    let squatting = pods
        .create(&PostParams::default(), &pod("app", &image))
        .await
        .unwrap();
    assert_eq!(pull_secrets(&squatting), [PULL_SECRET]);

    // spoils its own copy without a pause, while others and itself pull
    let spoil = Attempt::merge(
        copy_path(&own),
        &json!({"data": {".dockerconfigjson": base64(r#"{"auths":[7]}"#)}}),
    );
    let delete = Attempt::delete(copy_path(&own));
    let spoiling = async {
        for round in 0..30 {
            let attack = if round % 3 == 0 { &delete } else { &spoil };
            attack.by(&mallory).await;
        }
    };
    tokio::join!(
        spoiling,
        scene.pulls_image_at_once(&neighbour, &image),
        is_refused(&mallory, &squatted, "app")
    );
    scene.has_login(&own).await;

    // hundreds of pull secrets that are not there, and ours at their end
    let names: Value = (0..300)
        .map(|number| json!({"name": format!("own-{number}")}))
        .collect();
    let mut many = manifest("many", &image);
    many["spec"]["imagePullSecrets"] = names;
    let pods: Api<Pod> = Api::namespaced(mallory.clone(), &own);
    let made = pods
        .create(&PostParams::default(), &from(&many))
        .await
        .unwrap();
    assert_eq!(pull_secrets(&made).len(), 301);
    scene.runs(&own, "many").await;
    // an image that is added later is pulled with what was decided at the creation
    let later = scene.image().await;
    let container = json!({"spec": {"ephemeralContainers": [{"name": "later", "image": later,
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}});
    let path = format!("/api/v1/namespaces/{own}/pods/many/ephemeralcontainers");
    // `edit` may not, but others in the same namespace may
    let added = Attempt::merge(path, &container)
        .by(&scene.cluster.client())
        .await;
    assert!(added.succeeded(), "{added:?}");
    eventually(POD, "the ephemeral container runs", async || {
        let pod = pods.get("many").await.map_err(|error| error.to_string())?;
        let statuses = pod
            .status
            .and_then(|status| status.ephemeral_container_statuses);
        match statuses
            .unwrap_or_default()
            .first()
            .and_then(|status| status.state.clone())
        {
            Some(state) if state.running.is_some() => Ok(()),
            state => Err(format!("{state:?}")),
        }
    })
    .await;
}

/// One request over plain HTTP, as any pod of the cluster can send it; nothing where nobody listens.
async fn over_http(address: &str, port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect((address, port)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    // a server that speaks TLS hangs up in its own way
    if stream.write_all(request.as_bytes()).await.is_ok() {
        let _ = stream.read_to_end(&mut answer).await;
    }
    Some(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn what_our_pods_tell_whoever_asks_holds_no_credential() {
    let scene = Scene::on(shared().await).await;
    let namespace = scene.namespace("a").await;
    scene.has_login(&namespace).await;
    let own: Api<Pod> = scene.cluster.of(SYSTEM_NAMESPACE);
    let services: Api<Service> = scene.cluster.of(SYSTEM_NAMESPACE);
    let mut told = Vec::new();
    let mut listening: Vec<(String, String, u16)> = Vec::new();
    for pod in own.list(&ListParams::default()).await.unwrap() {
        let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
        for port in [8080, 10250] {
            listening.extend(
                address
                    .clone()
                    .map(|address| (pod.name_any(), address, port)),
            );
        }
    }
    for service in services.list(&ListParams::default()).await.unwrap() {
        let address = service
            .spec
            .as_ref()
            .and_then(|spec| spec.cluster_ip.clone());
        listening.extend(address.map(|address| (service.name_any(), address, 443)));
    }
    assert!(
        listening.len() >= 9,
        "two daemons twice, and a Service: {listening:?}"
    );
    for (name, address, port) in &listening {
        for path in [
            "/metrics",
            "/readyz",
            "/livez",
            "/debug/pprof/heap",
            "/",
            "/inject",
            "/config",
            "/../etc/passwd",
        ] {
            if let Some(answer) = over_http(address, *port, path).await {
                told.push((format!("{name}:{port}{path}"), answer));
            }
        }
    }
    assert!(
        told.iter().any(|(_, answer)| answer.contains("pullpass_")),
        "metrics are told"
    );
    for (place, answer) in told {
        assert!(!scene.login().is_in(&answer), "the login is in {place}");
        assert!(!answer.contains(&namespace), "a namespace is in {place}");
    }
}
