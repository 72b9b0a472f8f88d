//! Memory of the webhook, and the time until it is ready, in a large cluster.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};

use crate::cluster::{self, Cluster};
use crate::process::Process;
use crate::report::{self, Bound, Section, Unit};
use crate::reviews::{self, Size};
use crate::statistics::Spread;
use crate::tls::Identity;
use crate::webhook::{RealWebhook, Webhook};

const NAMESPACES: usize = 10_000;

const REGISTRIES: usize = 100;

/// Registries that every namespace may use. Each of the others is for one team's namespaces.
const COMMON_REGISTRIES: usize = 5;

/// What P5 promises.
const READY_MILLIS: f64 = 1000.0;
const RESIDENT_MEBIBYTES: f64 = 32.0;

/// How long it may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two questions whether it is ready: a hundredth of what is promised.
const POLL: Duration = Duration::from_millis(10);

/// Connections that ask about one pod of each namespace.
const CONNECTIONS: usize = 8;

/// One start.
#[derive(Clone, Copy, Debug)]
struct Measured {
    ready_millis: f64,
    when_ready: f64,
    after_pods: f64,
    of_which_own: f64,
    peak: f64,
}

/// Measures `starts` starts.
pub(crate) fn measure(starts: usize) -> Result<Section> {
    let mut section = Section::new(
        "footprint",
        "A large cluster",
        &format!(
            "The webhook as it is shipped, against a kube-apiserver that holds {NAMESPACES} namespaces, each with a \
             service account and a PullAccess, and {REGISTRIES} Registries: {COMMON_REGISTRIES} for every namespace, each \
             of the others for one team's. From the start of the process until its /readyz answers 200; then it is asked \
             about one pod in each namespace, since what a namespace may use is kept from then on.",
        ),
    );
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(starting(starts, &mut section))?;
    Ok(section)
}

async fn starting(starts: usize, section: &mut Section) -> Result<()> {
    // the built-in controllers would go on for minutes with what follows from a new namespace
    let cluster = Cluster::start("bench-large", false).await?;
    report::say(&format!("making {NAMESPACES} namespaces"));
    fill(&cluster).await?;
    let identity = Identity::issue()?;
    let mut measured = Vec::new();
    for start in 1..=starts {
        report::say(&format!("start {start} of {starts}"));
        measured.push(one_start(&cluster, &identity).await?);
    }
    let column =
        |of: fn(&Measured) -> f64| Spread::of(&measured.iter().map(of).collect::<Vec<f64>>());
    let resident = Some(Bound::AtMost(RESIDENT_MEBIBYTES));
    for (promise, what, unit, figure, bound) in [
        (
            "P5",
            "from its start until it is ready",
            Unit::Millis,
            column(|start| start.ready_millis)?,
            Some(Bound::AtMost(READY_MILLIS)),
        ),
        (
            "P5",
            "resident memory when it is ready",
            Unit::Mebibytes,
            column(|start| start.when_ready)?,
            resident,
        ),
        (
            "P5",
            "resident memory after a pod in each namespace",
            Unit::Mebibytes,
            column(|start| start.after_pods)?,
            resident,
        ),
        (
            "",
            "… of which the program itself is not a part",
            Unit::Mebibytes,
            column(|start| start.of_which_own)?,
            None,
        ),
        (
            "",
            "most resident memory at any moment",
            Unit::Mebibytes,
            column(|start| start.peak)?,
            None,
        ),
    ] {
        section.push(promise, what, unit, figure, bound);
    }
    Ok(())
}

fn team(number: usize) -> String {
    format!("team-{:02}", number % (REGISTRIES - COMMON_REGISTRIES))
}

fn namespace_name(number: usize) -> String {
    format!("{}-service-{number:05}", team(number))
}

fn registry_name(number: usize) -> String {
    if number < COMMON_REGISTRIES {
        format!("common-{number}")
    } else {
        team(number - COMMON_REGISTRIES)
    }
}

async fn fill(cluster: &Cluster) -> Result<()> {
    let registries = (0..REGISTRIES).map(|number| {
        let name = registry_name(number);
        let access = match number {
            _ if number < COMMON_REGISTRIES => json!({"include": ["*"]}),
            _ if number % 2 == 0 => json!({"include": [format!("{name}-*")]}),
            _ => json!({"selector": {"matchLabels": {"team": name}}}),
        };
        cluster::registry(&name, &access)
    });
    cluster.apply_all(registries).await?;
    cluster.apply_all((0..NAMESPACES).map(namespace)).await?;
    // made by the built-in controllers otherwise
    let accounts = (0..NAMESPACES).map(|number| {
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": namespace_name(number)},
        })
    });
    cluster.apply_all(accounts).await?;
    let pull_accesses = (0..NAMESPACES).map(|number| {
        let registries: Vec<String> = (0..COMMON_REGISTRIES)
            .map(registry_name)
            .chain([team(number)])
            .collect();
        cluster::pull_access(&namespace_name(number), &registries)
    });
    cluster.apply_all(pull_accesses).await
}

fn namespace(number: usize) -> Value {
    let team = team(number);
    let mut namespace = cluster::namespace(
        &namespace_name(number),
        &json!({
            "team": team,
            "environment": "production",
            "app.kubernetes.io/managed-by": "Helm",
            "pod-security.kubernetes.io/enforce": "baseline",
        }),
    );
    if let Some(metadata) = namespace.get_mut("metadata") {
        *metadata = json!({
            "name": metadata["name"],
            "labels": metadata["labels"],
            "annotations": {
                "example.com/contact": format!("{team}@example.com"),
                "example.com/description": "Runs one service of the shop, with its jobs and its database's backups.",
            },
        });
    }
    namespace
}

async fn one_start(cluster: &Cluster, identity: &Identity) -> Result<Measured> {
    let start = Instant::now();
    let mut pullpass = RealWebhook::start(&cluster.kubeconfig, identity)?;
    while !pullpass.is_ready().await? {
        ensure!(start.elapsed() < PATIENCE, "the webhook is not ready");
        tokio::time::sleep(POLL).await;
    }
    let ready_millis = start.elapsed().as_secs_f64() * 1e3;
    let process = &pullpass.webhook.process;
    let when_ready = mebibytes(process, "VmRSS")?;
    ask_about_each(&pullpass.webhook).await?;
    Ok(Measured {
        ready_millis,
        when_ready,
        after_pods: mebibytes(process, "VmRSS")?,
        of_which_own: mebibytes(process, "RssAnon")?,
        peak: mebibytes(process, "VmHWM")?,
    })
}

fn mebibytes(process: &Process, line: &str) -> Result<f64> {
    let kibibytes = u32::try_from(process.memory(line)? / 1024)?;
    Ok(f64::from(kibibytes) / 1024.0)
}

/// Asks about one pod of each namespace; each gets the name.
async fn ask_about_each(webhook: &Webhook) -> Result<()> {
    let review = Size::Typical.read()?;
    let review = &review;
    stream::iter(0..CONNECTIONS)
        .map(|first| async move {
            let mut connection = webhook.target.connect().await?;
            for number in (first..NAMESPACES).step_by(CONNECTIONS) {
                let name = namespace_name(number);
                let review = reviews::in_namespace(review, &name)?;
                let answer = connection.exchange(&webhook.request(&review)).await?;
                let answer = std::str::from_utf8(answer).context("an answer that is no text")?;
                ensure!(answer.contains(r#""patch":"#), "{name}: {answer}");
            }
            anyhow::Ok(())
        })
        .buffer_unordered(CONNECTIONS)
        .try_collect()
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_team_has_a_registry() {
        let registries: BTreeSet<String> = (0..REGISTRIES).map(registry_name).collect();
        assert_eq!(registries.len(), REGISTRIES);
        assert!((0..NAMESPACES).all(|number| registries.contains(&team(number))));
    }
}
