//! Tokens that a cloud issues, on a real cluster: exchanged by the controller, renewed under pulls, and what is told when
//! there is no new one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, PostParams};
use pullpass_harness::fake_ecr::{ACCOUNT, FakeEcr, HOST, ROLE_KEY, USERNAME};
use pullpass_harness::fake_ecr_registry::FakeEcrRegistry;
use pullpass_harness::identity::service_account_user;
use pullpass_harness::objects::{SYSTEM_NAMESPACE, secret};
use pullpass_harness::{Exclusive, eventually, exclusive, name};
use pullpass_suites::copies::{CONVERGENCE, has_login};
use pullpass_suites::pods;
use pullpass_suites::registries::{self, events, has_condition};
use serde_json::{Value, json};

use crate::scene::Scene;

/// The fake's tokens live so long, so that they are renewed after 20 s: short enough for a test, and long enough for a new
/// token to be where it is used before the last one ends, also on a busy machine.
const LIFE: Duration = Duration::from_secs(40);

/// A pull takes no longer than this, from the pod's creation to its start.
const PULL: Duration = Duration::from_secs(10);

const KEY: &str = "AKIAIOSFODNN7EXAMPLE";
const NEXT_KEY: &str = "AKIAIOSFODNN7SECOND";

/// For whom the token of the controller's account is.
const AUDIENCE: &str = "sts.amazonaws.com";

/// A cluster whose controller and node know a registry of Amazon's under its own name.
struct Cloud {
    scene: Scene<Exclusive>,
    ecr: Arc<FakeEcr>,
    registry: FakeEcrRegistry,
}

/// The Secret with the authority of the registry's certificate.
fn authority_of(scene: &Scene<Exclusive>) -> String {
    format!("{}-authority", scene.name)
}

impl Cloud {
    async fn start() -> Self {
        let scene = Scene::on(exclusive().await).await;
        let cluster = &scene.cluster;
        let machine: std::net::SocketAddr = cluster.registry().host().parse().unwrap();
        let ecr = Arc::new(FakeEcr::start((machine.ip(), 0).into(), LIFE).await);
        let registry = FakeEcrRegistry::start(cluster, &ecr).await;
        let authority = [("ca.crt", registry.authority())];
        registries::write_secret(
            cluster,
            &secret(&authority_of(&scene), "Opaque", &authority),
        )
        .await;
        let values = [
            format!("controller.hostAliases[0].ip={}", registry.address().ip()),
            format!("controller.hostAliases[0].hostnames[0]={HOST}"),
            "controller.env[0].name=AWS_ENDPOINT_URL".to_owned(),
            format!("controller.env[0].value={}", ecr.url()),
        ];
        let values = values.each_ref().map(String::as_str);
        cluster.upgrade_with(&values).await;
        Self {
            scene,
            ecr,
            registry,
        }
    }

    /// A Registry for the cloud's host and one namespace. Returns the name of both.
    async fn logs_in(&self, by: &str, auth: Value) -> String {
        let name = format!("{}-{by}", self.scene.name);
        let spec = json!({
            "host": HOST,
            "auth": auth,
            "access": {"namespaces": {"include": [name]}},
            "connection": {"tls": {"mode": "SecureWithCA", "caSecretRef": {"name": authority_of(&self.scene)}}},
        });
        registries::create(&self.scene.cluster, &registries::with_spec(&name, &spec)).await;
        for (condition, wanted) in [
            ("CredentialsReady", "True/CredentialRead"),
            ("Verified", "True/Accepted"),
        ] {
            has_condition(&self.scene.cluster, &name, condition, wanted).await;
        }
        name
    }

    async fn write_key(&self, source: &str, access_key_id: &str) {
        let keys = [("accessKeyId", access_key_id), ("secretAccessKey", "fake")];
        registries::write_secret(&self.scene.cluster, &secret(source, "Opaque", &keys)).await;
    }

    /// Pushes an image to the cluster's registry, and names it as one of the cloud's.
    async fn image(&self) -> String {
        let repository = name::unique("private/app");
        self.scene.cluster.push_image(&repository).await;
        format!("{HOST}/{repository}:1")
    }

    /// The sum of what the controllers tell of credentials of the cloud that are in this state.
    async fn told(&self, state: &str) -> f64 {
        let sample = format!("pullpass_credentials{{provider=\"ECR\",state=\"{state}\"}} ");
        let pods: Api<Pod> = self.scene.cluster.of(SYSTEM_NAMESPACE);
        let of = ListParams::default().labels("app.kubernetes.io/component=controller");
        let mut sum = 0.0;
        for pod in pods.list(&of).await.unwrap() {
            let Some(address) = pod.status.and_then(|status| status.pod_ip) else {
                continue;
            };
            let told = reqwest::get(format!("http://{address}:8080/metrics")).await;
            let Ok(told) = told else {
                // one that is on its way out
                continue;
            };
            let told = told.text().await.unwrap();
            let samples = told.lines().filter_map(|line| line.strip_prefix(&sample));
            sum += samples
                .map(|value| value.parse::<f64>().unwrap())
                .sum::<f64>();
        }
        sum
    }

    async fn tells(&self, state: &str, count: f64) {
        eventually(CONVERGENCE, "the metric tells", async || {
            let told = self.told(state).await;
            if (told - count).abs() < f64::EPSILON {
                Ok(())
            } else {
                Err(format!("{told} credentials are {state}, not {count}"))
            }
        })
        .await;
    }

    /// Pods one after another, each of which pulls, for so long.
    async fn pulls_for(&self, during: Duration, namespace: &str, image: &str) {
        let start = Instant::now();
        while start.elapsed() < during {
            self.scene.pulls_anew_at_once(namespace, image).await;
        }
    }

    /// Waits until kubelet has failed to pull.
    async fn is_refused(&self, namespace: &str, image: &str) {
        let name = name::unique("refused");
        let mut manifest = pods::manifest(&name, image);
        manifest["spec"]["containers"][0]["imagePullPolicy"] = "Always".into();
        self.scene.create(namespace, &pods::from(&manifest)).await;
        self.scene.is_refused(namespace, &name).await;
    }
}

#[tokio::test]
async fn tokens_are_renewed_under_pulls_and_a_revoked_key_is_told_before_they_end() {
    let cloud = Cloud::start().await;
    let keys = format!("{}-keys", cloud.scene.name);
    cloud.write_key(&keys, KEY).await;
    let by_keys = json!({"awsKeys": {"secretRef": {"name": keys}}});
    let by_role = json!({"awsRole": {
        "roleArn": format!("arn:aws:iam::{ACCOUNT}:role/pull"),
        "audience": AUDIENCE,
    }});
    let (keys, role) = join(
        cloud.logs_in("keys", by_keys),
        cloud.logs_in("role", by_role),
    )
    .await;

    is_the_controllers(&cloud).await;
    pulls_never_fail(&cloud, &keys, &role).await;
    a_refused_token_is_replaced(&cloud, &role).await;
    key_is_revoked(&cloud, &keys, &role).await;

    for registry in [&keys, &role] {
        registries::delete(&cloud.scene.cluster, registry).await;
    }
    cloud.scene.cluster.install().await;
}

/// The role is taken on with a token that the API server has issued to the controller, for the cloud and nobody else.
async fn is_the_controllers(cloud: &Cloud) {
    let reviews: Api<TokenReview> = cloud.scene.cluster.all();
    let token = cloud.ecr.identities().pop();
    let review = TokenReview {
        spec: TokenReviewSpec {
            audiences: Some(vec![AUDIENCE.to_owned()]),
            token,
        },
        ..TokenReview::default()
    };
    let review = reviews.create(&PostParams::default(), &review).await;
    let status = review.unwrap().status.unwrap();
    assert_eq!(status.audiences, Some(vec![AUDIENCE.to_owned()]));
    assert_eq!(
        status.user.unwrap().username,
        Some(service_account_user(
            SYSTEM_NAMESPACE,
            "pullpass-controller"
        ))
    );
}

/// For more than two lives of a token, with a key and by a role.
async fn pulls_never_fail(cloud: &Cloud, keys: &str, role: &str) {
    let image = cloud.image().await;
    let during = 2 * LIFE + Duration::from_secs(1);
    let pulls = async |namespace: &str| {
        cloud.scene.cluster.create_namespace(namespace, &[]).await;
        cloud.pulls_for(during, namespace, &image).await;
    };
    join(pulls(keys), pulls(role)).await;
    for key in [KEY, ROLE_KEY] {
        let issued = cloud.ecr.issued_for(key);
        let used = cloud.registry.has_served(&issued);
        assert!(used >= 3, "pulls with {used} tokens of {}", issued.len());
        // twice a life, and one at either end
        assert!(issued.len() <= 7, "{} tokens for {key}", issued.len());
    }
    cloud.tells("good", 2.0).await;
}

/// The registry has come to refuse a token whose renewal is not due yet: there is another one at once.
async fn a_refused_token_is_replaced(cloud: &Cloud, role: &str) {
    let cluster = &cloud.scene.cluster;
    let image = cloud.image().await;
    let newest = || cloud.ecr.issued_for(ROLE_KEY).pop().unwrap();
    let another = async |than: &str| {
        eventually(CONVERGENCE, "another token is issued", async || {
            let newest = newest();
            if newest == than {
                Err("none")
            } else {
                Ok(newest)
            }
        })
        .await
    };
    let fresh = another(&newest()).await;
    has_login(cluster, role, HOST, USERNAME, &fresh).await;
    has_condition(cluster, role, "Ready", "True/Synced").await;
    cloud.registry.refuse(&fresh);
    // what is asked otherwise is asked anew
    let repository = image.trim_start_matches(HOST).trim_matches('/');
    let repository = repository.trim_end_matches(":1");
    registries::patch(
        cluster,
        role,
        &json!({"verify": {"repository": repository}}),
    )
    .await;
    let replacement = another(&fresh).await;
    let left = cloud.ecr.left(&fresh);
    assert!(left > LIFE / 2, "it was due anyway with {left:?} left");
    has_login(cluster, role, HOST, USERNAME, &replacement).await;
    has_condition(cluster, role, "Verified", "True/Accepted").await;
    cloud.scene.pulls_anew_at_once(role, &image).await;
}

async fn key_is_revoked(cloud: &Cloud, keys: &str, role: &str) {
    let cluster = &cloud.scene.cluster;
    let image = cloud.image().await;
    cloud.ecr.revoke(KEY);
    let last = cloud.ecr.issued_for(KEY).pop().unwrap();
    let told = eventually(CONVERGENCE, "the failed renewal is told", async || {
        let told = registries::condition(cluster, keys, "CredentialsReady").await?;
        if told.starts_with("False/") {
            Ok(told)
        } else {
            Err(told)
        }
    })
    .await;
    assert_ne!(told, "False/Expired");
    has_condition(cluster, keys, "Ready", "False/KeepingLastGood").await;
    cloud.tells("failing", 1.0).await;
    assert!(cloud.ecr.is_live(&last), "told too late");
    let mut pulls = 0;
    while cloud.ecr.left(&last) > PULL {
        cloud.scene.pulls_anew_at_once(keys, &image).await;
        pulls += 1;
    }
    assert!(pulls > 0, "told so late that there was no time for a pull");
    let (_, reason) = told.split_once('/').unwrap();
    let warning = format!("Warning {reason}: ");
    eventually(CONVERGENCE, "an event tells it", async || {
        let events = events(cluster, keys).await;
        if events.iter().any(|event| event.starts_with(&warning)) {
            Ok(())
        } else {
            Err(format!("{events:?}"))
        }
    })
    .await;

    has_condition(cluster, keys, "CredentialsReady", "False/Expired").await;
    has_login(cluster, keys, HOST, USERNAME, &last).await;
    cloud.tells("expired", 1.0).await;
    cloud.is_refused(keys, &image).await;
    // who logs in otherwise has nothing to do with it
    cloud.scene.pulls_anew_at_once(role, &image).await;
    has_condition(cluster, role, "Ready", "True/Synced").await;

    cloud.write_key(keys, NEXT_KEY).await;
    has_condition(cluster, keys, "Ready", "True/Synced").await;
    cloud.scene.pulls_anew_at_once(keys, &image).await;
    cloud.tells("good", 2.0).await;
}
