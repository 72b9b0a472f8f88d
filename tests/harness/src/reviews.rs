//! AdmissionReviews as a real API server sends them: what the webhook's unit tests and benches read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use kube::api::PostParams;
use kube::core::DynamicObject;
use serde_json::{Value, json};

use crate::admission::Recorder;
use crate::server::ApiServer;
use crate::{chart, checkout, eventually, must, server};

/// The namespace of the captured pods, which stands in the reviews.
const NAMESPACE: &str = "shop";

/// How long the API server may take to know a new webhook, and the built-in controllers to make a Deployment's pod.
const ARRIVAL: Duration = Duration::from_secs(30);

/// One manifest to capture the review of.
struct Case {
    /// The captured file's name without its end.
    name: &'static str,
    /// The file in `tests/reviews/manifests`, without its end.
    manifest: &'static str,
    dry_run: bool,
    /// Makes it as large as the pods of meshes and build systems get.
    large: bool,
}

const fn case(name: &'static str) -> Case {
    Case {
        name,
        manifest: name,
        dry_run: false,
        large: false,
    }
}

const CASES: [Case; 7] = [
    // before the pod of the same name exists
    Case {
        manifest: "small",
        dry_run: true,
        ..case("dry-run")
    },
    case("small"),
    case("typical"),
    Case {
        manifest: "typical",
        large: true,
        ..case("big")
    },
    case("own-pull-secrets"),
    case("opted-out"),
    case("mirror"),
];

/// Where the captured reviews lie, one `<name>.json` each.
pub fn directory() -> PathBuf {
    checkout::path("tests/reviews")
}

/// Lets the API server send a review of each case, and returns them by name, byte for byte.
pub async fn capture(server: &ApiServer) -> BTreeMap<&'static str, Bytes> {
    server.create_namespace(NAMESPACE, &[]).await;
    server.has_account(NAMESPACE).await;
    let recorder = Recorder::start().await;
    recorder.register(server).await;
    is_registered(server, &recorder).await;
    let mut captured = BTreeMap::new();
    for case in &CASES {
        let before = recorder.bodies().len();
        must(create(server, case).await);
        let body = eventually(ARRIVAL, "the API server sends the pod", async || {
            recorder
                .bodies()
                .get(before)
                .cloned()
                .ok_or("nothing was sent")
        })
        .await;
        captured.insert(case.name, body);
    }
    captured
}

/// Creates pods that are not stored until the first of them is sent.
async fn is_registered(server: &ApiServer, recorder: &Recorder) {
    let probe = Case {
        manifest: "opted-out",
        dry_run: true,
        ..case("probe")
    };
    eventually(ARRIVAL, "the API server knows the webhook", async || {
        create(server, &probe)
            .await
            .map_err(|error| format!("{error:#}"))?;
        match recorder.bodies().len() {
            0 => Err("nothing was sent".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
}

async fn create(server: &ApiServer, case: &Case) -> Result<()> {
    let path = directory()
        .join("manifests")
        .join(format!("{}.yaml", case.manifest));
    let yaml = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let mut object = chart::parse(&yaml)?
        .pop()
        .with_context(|| format!("{} is empty", path.display()))?;
    if case.large {
        enlarge(&mut object);
    }
    let types = object.types.clone().context("a manifest without a kind")?;
    let api = server::dynamic(
        &server.client(),
        &types.api_version,
        &types.kind,
        Some(NAMESPACE),
    )
    .await?;
    let parameters = PostParams {
        dry_run: case.dry_run,
        field_manager: Some("kubectl-create".into()),
    };
    api.create(&parameters, &object)
        .await
        .with_context(|| format!("cannot create {}", case.name))?;
    Ok(())
}

/// Adds what makes real pods large: a long configuration in an annotation, many containers with many variables.
fn enlarge(deployment: &mut DynamicObject) {
    const CONTAINERS: usize = 10;
    const VARIABLES: usize = 20;
    deployment.metadata.name = Some("pipeline".into());
    let configuration: String = (0..120)
        .map(|route| format!("route-{route}: {{host: service-{route}.shop.svc, retries: 3}}\n"))
        .collect();
    let template = &mut deployment.data["spec"]["template"];
    template["metadata"]["annotations"]["proxy.example.com/config"] = json!(configuration);
    let step = template["spec"]["containers"][0].clone();
    let steps: Vec<Value> = (0..CONTAINERS)
        .map(|number| {
            let mut step = step.clone();
            step["name"] = json!(format!("step-{number}"));
            step["image"] = json!(format!("registry.example.com/builds/step-{number}:2026.1"));
            step["env"] = (0..VARIABLES).map(|v| variable(number, v)).collect();
            for (index, port) in ["http", "metrics"].into_iter().enumerate() {
                let number = 8000 + 10 * number + index;
                step["ports"][index] = json!({"name": port, "containerPort": number});
            }
            step
        })
        .collect();
    template["spec"]["containers"] = json!(steps);
}

fn variable(step: usize, number: usize) -> Value {
    json!({
        "name": format!("STEP_{step}_PARAMETER_{number}"),
        "value": format!("value {number} of step {step}: https://artifacts.shop.svc/builds/{step}/{number}"),
    })
}

/// What a review consists of: the path and the type of each value, without the values that differ from one run to the
/// next.
///
/// # Errors
/// If it is not JSON.
pub fn shape(review: &[u8]) -> Result<BTreeSet<String>> {
    let review: Value = serde_json::from_slice(review)?;
    let mut shape = BTreeSet::new();
    collect("", &review, &mut shape);
    Ok(shape)
}

fn collect(path: &str, value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                collect(&format!("{path}/{name}"), field, into);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                collect(&format!("{path}/{index}"), item, into);
            }
        }
        Value::String(_) => drop(into.insert(format!("{path}: string"))),
        Value::Number(_) => drop(into.insert(format!("{path}: number"))),
        Value::Bool(_) => drop(into.insert(format!("{path}: boolean"))),
        Value::Null => drop(into.insert(format!("{path}: null"))),
    }
}
