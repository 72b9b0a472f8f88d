//! Pods created per second on a real API server, in five namespaces that differ in what is asked about their pods.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::cluster::{self, Cluster, eventually};
use crate::process::Processors;
use crate::report::{self, Bound, Section, Unit};
use crate::server::Handler;
use crate::statistics::{Spread, percentile};
use crate::tls::Identity;
use crate::webhook::{self, RealWebhook, Webhook};
use crate::{checkout, decision::PULL_SECRET};

/// What P4 promises of Pullpass's rate over the null webhook's.
const OF_NULL: f64 = 0.95;

/// How many create pods at a time, and how many pods they create together in one round.
const CREATORS: [(usize, usize); 3] = [(1, 200), (50, 1000), (200, 1500)];

/// What is asked about a pod before it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Nothing,
    NullWebhook,
    PatchWebhook,
    Pullpass,
    Policy,
}

impl Case {
    const ALL: [Self; 5] = [
        Self::Nothing,
        Self::NullWebhook,
        Self::PatchWebhook,
        Self::Pullpass,
        Self::Policy,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "no webhook",
            Self::NullWebhook => "null webhook",
            Self::PatchWebhook => "constant patch",
            Self::Pullpass => "Pullpass",
            Self::Policy => "MutatingAdmissionPolicy",
        }
    }

    fn namespace(self) -> &'static str {
        match self {
            Self::Nothing => "without",
            Self::NullWebhook => "null",
            Self::PatchWebhook => "patch",
            Self::Pullpass => "pullpass",
            Self::Policy => "policy",
        }
    }

    fn injects(self) -> bool {
        matches!(self, Self::PatchWebhook | Self::Pullpass | Self::Policy)
    }
}

/// One case under so many creators in one round.
#[derive(Clone, Copy, Debug)]
struct Measured {
    per_second: f64,
    median_millis: f64,
    p99_millis: f64,
}

/// Measures in `rounds` rounds.
pub(crate) fn measure(rounds: usize) -> Result<Section> {
    let mut section = Section::new(
        "pods",
        "Pods on a real API server",
        "Pods of a service as a team deploys it (the typical review), created on a kube-apiserver with etcd on the same \
         machine. Each case has a namespace of its own, which its webhook or policy selects, and all are registered \
         throughout. In every round each case is measured once, in turns; ratios are those of one round.",
    );
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(compare(rounds, &mut section))?;
    Ok(section)
}

async fn compare(rounds: usize, section: &mut Section) -> Result<()> {
    let cluster = Cluster::start("bench", true).await?;
    let identity = Identity::issue()?;
    // servers and API server share the processors as they would on a small machine
    let null = webhook::start_server(Handler::Null, &identity, Processors::shared()).await?;
    let patch = webhook::start_server(Handler::Patch, &identity, Processors::shared()).await?;
    let mut pullpass = RealWebhook::start(&cluster.kubeconfig, &identity)?;
    let webhooks = [
        (Case::NullWebhook, &null),
        (Case::PatchWebhook, &patch),
        (Case::Pullpass, &pullpass.webhook),
    ];
    prepare(&cluster, &identity, webhooks).await?;
    let ready = Instant::now();
    while !pullpass.is_ready().await? {
        ensure!(ready.elapsed().as_secs() < 60, "the webhook is not ready");
    }
    let pod = pod()?;
    for case in Case::ALL {
        in_force(&cluster, case, &pod).await?;
    }
    let asked_before = asked(&cluster).await?;
    for (creators, pods) in CREATORS {
        report::say(&format!("creating pods: {creators} at a time"));
        // the first round would make the connections that the others find
        let warm_up = Api::namespaced(cluster.client.clone(), Case::Nothing.namespace());
        create(&warm_up, &pod, creators, pods).await?;
        remove(&warm_up).await?;
        let mut measured: [Vec<Measured>; 5] = [const { Vec::new() }; 5];
        for round in 0..rounds {
            for turn in 0..Case::ALL.len() {
                let index = (round + turn) % Case::ALL.len();
                if let (Some(case), Some(rounds)) = (Case::ALL.get(index), measured.get_mut(index))
                {
                    let api = Api::namespaced(cluster.client.clone(), case.namespace());
                    rounds.push(create(&api, &pod, creators, pods).await?);
                    remove(&api).await?;
                }
            }
        }
        tell(section, creators, &measured)?;
    }
    let created: usize = CREATORS.iter().map(|(_, pods)| pods * rounds).sum();
    let asked_after = asked(&cluster).await?;
    for ((case, before), (_, after)) in asked_before.into_iter().zip(asked_after) {
        #[allow(clippy::cast_precision_loss, reason = "some ten thousand")]
        let created = created as f64;
        ensure!(
            after - before >= created,
            "{}: {} of {created} pods were asked about",
            case.as_str(),
            after - before
        );
    }
    Ok(())
}

/// Registers everything, each for its own namespace.
async fn prepare(
    cluster: &Cluster,
    identity: &Identity,
    webhooks: [(Case, &Webhook); 3],
) -> Result<()> {
    for case in Case::ALL {
        cluster
            .apply(cluster::namespace(case.namespace(), &json!({})))
            .await?;
    }
    let namespace = Case::Pullpass.namespace();
    let access = json!({"include": [namespace]});
    cluster.apply(cluster::registry("acme", &access)).await?;
    cluster
        .apply(cluster::pull_access(namespace, &["acme".to_owned()]))
        .await?;
    for (case, webhook) in webhooks {
        let authority = identity.authority()?;
        cluster
            .apply(configuration(case, &webhook.url(), authority)?)
            .await?;
    }
    for object in policy() {
        cluster.apply(object).await?;
    }
    for case in Case::ALL {
        let accounts: Api<ServiceAccount> =
            Api::namespaced(cluster.client.clone(), case.namespace());
        eventually("the namespace has its service account", async || {
            accounts.get("default").await?;
            Ok(())
        })
        .await?;
    }
    Ok(())
}

fn selector(case: Case) -> Value {
    json!({"matchLabels": {"kubernetes.io/metadata.name": case.namespace()}})
}

fn rules() -> Value {
    json!([{
        "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"], "scope": "Namespaced",
    }])
}

fn webhook_name(case: Case) -> String {
    format!("{}.bench.pullpass.dev", case.namespace())
}

/// With the conditions of our chart, but for the namespaces.
fn configuration(case: Case, url: &str, authority: Vec<u8>) -> Result<Value> {
    Ok(json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": case.namespace()},
        "webhooks": [{
            "name": webhook_name(case),
            "admissionReviewVersions": ["v1"],
            "clientConfig": {
                "url": url,
                "caBundle": serde_json::to_value(k8s_openapi::ByteString(authority))?,
            },
            "rules": rules(),
            "namespaceSelector": selector(case),
            "failurePolicy": "Ignore",
            "timeoutSeconds": 3,
            "matchPolicy": "Equivalent",
            "reinvocationPolicy": "IfNeeded",
            "sideEffects": "None",
        }],
    }))
}

/// The policy that appends the name, and its binding.
fn policy() -> [Value; 2] {
    let name = format!("{}.bench.pullpass.dev", Case::Policy.namespace());
    let is_absent = format!(
        "!has(object.spec.imagePullSecrets) || !object.spec.imagePullSecrets.exists(s, s.name == '{PULL_SECRET}')"
    );
    let patch = format!(
        "has(object.spec.imagePullSecrets) \
         ? [JSONPatch{{op: 'add', path: '/spec/imagePullSecrets/-', value: Object.spec.imagePullSecrets{{name: '{PULL_SECRET}'}}}}] \
         : [JSONPatch{{op: 'add', path: '/spec/imagePullSecrets', value: [{{'name': '{PULL_SECRET}'}}]}}]"
    );
    [
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "matchConstraints": {"resourceRules": rules(), "namespaceSelector": selector(Case::Policy)},
                // called again after its own change, it would append the name twice
                "matchConditions": [{"name": "is-absent", "expression": is_absent}],
                // a mistake in the expressions would go unnoticed otherwise
                "failurePolicy": "Fail",
                "reinvocationPolicy": "IfNeeded",
                "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": patch}}],
            },
        }),
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name},
        }),
    ]
}

/// The pod of the typical review, as its Deployment would create it.
fn pod() -> Result<Pod> {
    let path = checkout::path("tests/reviews/manifests/typical.yaml");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let deployment = Value::deserialize(serde_yaml_ng::Deserializer::from_str(&text))?;
    let template = deployment
        .pointer("/spec/template")
        .context("the manifest has no template")?;
    let mut pod: Pod = serde_json::from_value(template.clone())?;
    pod.metadata.generate_name = Some("checkout-".to_owned());
    Ok(pod)
}

/// Waits until a pod of the case comes out as it should, and until the API server has asked whom it should.
async fn in_force(cluster: &Cluster, case: Case, pod: &Pod) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), case.namespace());
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    eventually(case.as_str(), async || {
        let created = api.create(&dry_run, pod).await?;
        let secrets = created.spec.and_then(|spec| spec.image_pull_secrets);
        let names: Vec<String> = secrets
            .into_iter()
            .flatten()
            .map(|reference| reference.name)
            .collect();
        let expected: &[&str] = if case.injects() { &[PULL_SECRET] } else { &[] };
        ensure!(names == expected, "its pull secrets are {names:?}");
        if case == Case::NullWebhook {
            ensure!(calls(cluster, case).await? > 0.0, "nobody has been asked");
        }
        Ok(())
    })
    .await
}

/// How often the API server has had an answer of each webhook.
async fn asked(cluster: &Cluster) -> Result<[(Case, f64); 3]> {
    let mut asked = [Case::NullWebhook, Case::PatchWebhook, Case::Pullpass].map(|case| (case, 0.0));
    for (case, count) in &mut asked {
        *count = calls(cluster, *case).await?;
    }
    Ok(asked)
}

async fn calls(cluster: &Cluster, case: Case) -> Result<f64> {
    let label = format!("name=\"{}\"", webhook_name(case));
    let calls = "apiserver_admission_webhook_admission_duration_seconds_count";
    let failed = "apiserver_admission_webhook_fail_open_count";
    Ok(cluster.metric(calls, &label).await? - cluster.metric(failed, &label).await?)
}

/// Creates `pods` pods, `creators` at a time.
async fn create(api: &Api<Pod>, pod: &Pod, creators: usize, pods: usize) -> Result<Measured> {
    let taken = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for _ in 0..creators {
        let (api, pod, taken) = (api.clone(), pod.clone(), Arc::clone(&taken));
        tasks.spawn(async move {
            let mut millis = Vec::new();
            while taken.fetch_add(1, Ordering::Relaxed) < pods {
                let asked = Instant::now();
                api.create(&PostParams::default(), &pod).await?;
                millis.push(asked.elapsed().as_secs_f64() * 1e3);
            }
            Ok::<_, kube::Error>(millis)
        });
    }
    let mut millis = Vec::with_capacity(pods);
    while let Some(created) = tasks.join_next().await {
        millis.extend(created??);
    }
    let seconds = start.elapsed().as_secs_f64();
    let pods = u32::try_from(pods)?;
    Ok(Measured {
        per_second: f64::from(pods) / seconds,
        median_millis: percentile(&millis, 0.5)?,
        p99_millis: percentile(&millis, 0.99)?,
    })
}

/// Takes the round's pods away, so that the next one finds what this one found.
async fn remove(api: &Api<Pod>) -> Result<()> {
    // there is no kubelet that would confirm their end
    let now = DeleteParams::default().grace_period(0);
    api.delete_collection(&now, &ListParams::default()).await?;
    eventually("the pods are gone", async || {
        let left = api.list_metadata(&ListParams::default().limit(1)).await?;
        ensure!(left.items.is_empty(), "some are left");
        Ok(())
    })
    .await
}

fn tell(section: &mut Section, creators: usize, measured: &[Vec<Measured>; 5]) -> Result<()> {
    let column = |of: fn(&Measured) -> f64| {
        measured
            .each_ref()
            .map(|rounds| rounds.iter().map(of).collect::<Vec<f64>>())
    };
    let rates = column(|round| round.per_second);
    let [nothing, null, patch, pullpass, policy] = &rates;
    for (what, numerator, denominator, bound) in [
        (
            "Pullpass / null webhook",
            pullpass,
            null,
            Some(Bound::AtLeast(OF_NULL)),
        ),
        ("Pullpass / constant patch", pullpass, patch, None),
        ("Pullpass / no webhook", pullpass, nothing, None),
        ("Pullpass / MutatingAdmissionPolicy", pullpass, policy, None),
    ] {
        section.push(
            "P4",
            format!("pods per second, {creators} at a time: {what}"),
            Unit::Ratio,
            Spread::of_ratios(numerator, denominator)?,
            bound,
        );
    }
    let columns = [
        ("pods per second", Unit::PerSecond, rates),
        (
            "p50 of a creation",
            Unit::Millis,
            column(|round| round.median_millis),
        ),
        (
            "p99 of a creation",
            Unit::Millis,
            column(|round| round.p99_millis),
        ),
    ];
    for (what, unit, figures) in columns {
        for (case, rounds) in Case::ALL.into_iter().zip(&figures) {
            section.push(
                "",
                format!("{what}, {creators} at a time, {}", case.as_str()),
                unit,
                Spread::of(rounds)?,
                None,
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_is_that_of_the_typical_review() {
        let pod = pod().unwrap();
        let spec = pod.spec.unwrap();
        assert_eq!(spec.containers.len(), 2);
        assert!(spec.image_pull_secrets.is_none());
        assert!(pod.metadata.name.is_none());
    }
}
