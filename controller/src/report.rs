//! The loop over statuses: every Registry's, written only where it changes, and not for each namespace.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use pullpass_api::registry::RegistryStatus;
use pullpass_api::status::{CREDENTIALS_READY, DISTRIBUTED, NODES_READY, READY, VERIFIED};
use pullpass_api::{Registry, convert};
use pullpass_core::provider::Provider;
use pullpass_core::reason::Reason;
use serde_json::json;
use tokio::time::Instant;

use crate::clock;
use crate::context::Context;
use crate::delivery::Delivery;
use crate::events::Notice;
use crate::manifest::FIELD_MANAGER;
use crate::observed::Version;
use crate::registry::reference;
use crate::status::{Tallies, status};
use crate::term::{Term, WriteError};
use crate::world::{Known, Verdict};

/// So long a change waits for others that belong to it.
const GATHER: Duration = Duration::from_millis(300);

/// The least time from one round that writes to the next: a credential that goes to ten thousand namespaces is told in some steps.
const BETWEEN: Duration = Duration::from_secs(2);

/// While namespaces are being judged anew, nothing is said for so long; then how far it has come.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many statuses are written at a time.
const CONCURRENCY: usize = 3;

/// Keeps all statuses up to date until the term ends.
pub(crate) async fn run(context: Context, term: Term) {
    let mut unsettled_since: Option<Instant> = None;
    let mut was_settled = false;
    let over = term.over();
    loop {
        let round = async {
            context.world.statuses.notified().await;
            tokio::time::sleep(GATHER).await;
        };
        if over.run_until_cancelled(round).await.is_none() {
            return;
        }
        let begun = Instant::now();
        let tallies = Tallies::of(&context.world, was_settled);
        if tallies.is_settled() {
            was_settled = true;
            unsettled_since = None;
        } else {
            let since = *unsettled_since.get_or_insert(begun);
            if since.elapsed() < PATIENCE {
                // the last of them tells when it is done, but perhaps before this line
                context.world.statuses.notify_one();
                tokio::time::sleep(GATHER).await;
                continue;
            }
        }
        let Round { written, failed } = report(&context, &term, &tallies).await;
        gauge(&context, &tallies);
        if failed || unsettled_since.is_some() {
            context.world.statuses.notify_one();
        }
        if written || failed {
            over.run_until_cancelled(tokio::time::sleep_until(begun + BETWEEN))
                .await;
        }
    }
}

#[derive(Clone, Copy)]
struct Round {
    written: bool,
    failed: bool,
}

/// Writes what differs.
async fn report(context: &Context, term: &Term, tallies: &Tallies) -> Round {
    let cluster_name = context.world.settings.cluster_name.as_deref();
    let now = clock::time_of_day();
    let delivery = Delivery::of(&context.world);
    let mut due = Vec::new();
    for (known, last_good) in context.world.all_registries() {
        let tally = tallies.get(&known.object.name_any());
        let Some(wanted) = status(
            &known,
            last_good.as_ref(),
            cluster_name,
            &tally,
            &delivery,
            now,
        ) else {
            continue;
        };
        if known.object.status.as_ref() != Some(&wanted) {
            due.push((known, wanted));
        }
    }
    let results: Vec<bool> = futures::stream::iter(due)
        .map(|(known, wanted)| write(context, term, known, wanted))
        .buffer_unordered(CONCURRENCY)
        .collect()
        .await;
    Round {
        written: results.contains(&true),
        failed: results.contains(&false),
    }
}

async fn write(context: &Context, term: &Term, known: Known, wanted: RegistryStatus) -> bool {
    let name = known.object.name_any();
    let version = Version::of(&known.object.metadata);
    let manifest = json!({
        "apiVersion": "pullpass.dev/v1alpha1",
        "kind": "Registry",
        "metadata": {
            "name": name,
            "uid": version.uid,
            "resourceVersion": version.resource_version,
        },
        "status": wanted,
    });
    let registries: Api<Registry> = Api::all(context.client.clone());
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let patch = Patch::Apply(&manifest);
    let request = registries.patch_status(&name, &parameters, &patch);
    let result = term.write(request).await;
    context.metrics.wrote("registry_status", "apply", &result);
    match result {
        Ok(written) => {
            tell(context, &known.object, &wanted);
            context.world.wrote_status(&known.object, written);
            true
        }
        Err(WriteError::TermOver) => true,
        // its watch tells of what it has become
        Err(error) if error.is_not_found() || error.is_conflict() => true,
        Err(error) => {
            tracing::warn!(registry = name, %error, "status not written");
            false
        }
    }
}

/// An event where a condition has come to say something else. The sum of all others says nothing of its own, and a
/// refusal is told as the credential's state.
fn tell(context: &Context, before: &Registry, after: &RegistryStatus) {
    let previous = before
        .status
        .as_ref()
        .map(|status| status.conditions.as_slice());
    for condition in &after.conditions {
        let was = previous
            .unwrap_or_default()
            .iter()
            .find(|was| was.type_ == condition.type_);
        let is_news =
            was.is_none_or(|was| was.reason != condition.reason || was.status != condition.status);
        let kind = condition.type_.as_str();
        let action = match kind {
            CREDENTIALS_READY => "ReadCredential",
            DISTRIBUTED => "Distribute",
            NODES_READY => "GiveToNodes",
            VERIFIED if condition.status != "False" => "Verify",
            _ => continue,
        };
        if !is_news {
            continue;
        }
        let reason = Reason::ALL
            .iter()
            .find(|reason| reason.as_str() == condition.reason);
        let under_way = [
            Reason::Syncing,
            Reason::SomeNodesPending,
            Reason::CredentialPending,
        ];
        let Some(reason) = reason.filter(|reason| !under_way.contains(reason)) else {
            continue;
        };
        context.events.tell(Notice {
            about: reference(before),
            is_warning: condition.status == "False",
            reason: *reason,
            action,
            note: condition.message.clone(),
        });
    }
}

fn gauge(context: &Context, tallies: &Tallies) {
    let metrics = &context.metrics;
    let (synced, blocked, pending) = tallies.namespaces;
    for (state, count) in [
        ("synced", synced),
        ("blocked", blocked),
        ("pending", pending),
    ] {
        metrics
            .namespaces
            .with_label_values(&[state])
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    if let Some(nodes) = Delivery::of(&context.world).nodes {
        metrics.nodes.reset();
        for (state, count) in &nodes.tally().by_state {
            metrics
                .nodes
                .with_label_values(&[state])
                .set(i64::try_from(*count).unwrap_or(i64::MAX));
        }
    }
    let mut ready = [("True", 0), ("False", 0), ("Unknown", 0)];
    for (known, _) in context.world.all_registries() {
        let conditions = known.object.status.iter().flat_map(|s| &s.conditions);
        let truth = conditions
            .filter(|condition| condition.type_ == READY)
            .map(|condition| condition.status.as_str())
            .next()
            .unwrap_or("Unknown");
        for (of, count) in &mut ready {
            if *of == truth {
                *count += 1;
            }
        }
    }
    for (truth, count) in ready {
        metrics.registries.with_label_values(&[truth]).set(count);
    }
    gauge_credentials(context);
    metrics
        .waiting
        .with_label_values(&["namespace"])
        .set(i64::try_from(context.world.namespaces.waiting()).unwrap_or(i64::MAX));
    metrics
        .waiting
        .with_label_values(&["registry"])
        .set(i64::try_from(context.world.registries.waiting()).unwrap_or(i64::MAX));
    metrics
        .last_report
        .set(Timestamp::now().as_millisecond() as f64 / 1000.0);
}

/// How credentials stand, by the kind of registry, and when the first of them ends.
fn gauge_credentials(context: &Context) {
    let now = clock::time_of_day();
    let mut counts: BTreeMap<(Provider, &'static str), i64> = BTreeMap::new();
    let mut ends: BTreeMap<Provider, Timestamp> = BTreeMap::new();
    for (known, last_good) in context.world.all_registries() {
        let provider = convert::provider(&known.object).unwrap_or(Provider::Other);
        let end = last_good
            .as_ref()
            .and_then(|last_good| last_good.expires_at);
        let state = match &known.verdict.1 {
            Verdict::Public | Verdict::Held => continue,
            _ if known.withheld.is_any() => "withheld",
            _ if last_good.is_none() => "missing",
            _ if end.is_some_and(|end| end <= now) => "expired",
            Verdict::Bad { .. } | Verdict::Invalid(_) => "failing",
            Verdict::Good | Verdict::Pending => "good",
        };
        *counts.entry((provider, state)).or_default() += 1;
        if let Some(end) = end {
            let first = ends.entry(provider).or_insert(end);
            *first = end.min(*first);
        }
    }
    let metrics = &context.metrics;
    metrics.credentials.reset();
    for ((provider, state), count) in counts {
        let labels = [provider.as_str(), state];
        metrics.credentials.with_label_values(&labels).set(count);
    }
    metrics.credential_expiry.reset();
    for (provider, end) in ends {
        metrics
            .credential_expiry
            .with_label_values(&[provider.as_str()])
            .set(end.as_millisecond() as f64 / 1000.0);
    }
}
