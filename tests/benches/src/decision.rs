//! The decision without Kubernetes: a state of plain values, as large as that of a cluster.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::FutureExt as _;
use jiff::Timestamp;
use pullpass_core::glob::Glob;
use pullpass_core::key::RegistryKey;
use pullpass_core::policy::{Namespace, Policy};
use pullpass_core::registry::{
    ClusterAccess, CredentialKind, Injection, NamespaceAccess, NodeAccess, Registry,
};
use pullpass_daemon::Change;
use pullpass_webhook::state::namespaces::{SecretState, SeenNamespace, SeenPullAccess};
use pullpass_webhook::state::registries::SeenRegistry;
use pullpass_webhook::{Decider, Metrics, State};

use crate::reviews::NAMESPACE;

/// Namespaces besides that of the reviews.
const NAMESPACES: usize = 1000;

/// Registries, each for every namespace.
const REGISTRIES: usize = 10;

/// What every decision here injects.
pub(crate) const PULL_SECRET: &str = "pullpass";

/// Decides as in a cluster where everything has been delivered.
pub(crate) fn decider() -> Result<(Decider, Metrics)> {
    let state = State::new(Policy::default());
    let registries = (0..REGISTRIES)
        .map(|number| registry(&format!("registry-{number}")))
        .collect::<Result<_>>()?;
    state.registries.apply(Change::Restarted(registries));
    let names: Vec<String> = (0..NAMESPACES)
        .map(|number| format!("team-{number}"))
        .chain([NAMESPACE.to_owned()])
        .collect();
    let namespaces = names.iter().map(|name| SeenNamespace {
        namespace: Namespace {
            name: name.clone(),
            labels: [("kubernetes.io/metadata.name".to_owned(), name.clone())].into(),
            terminating: false,
        },
        created: Timestamp::UNIX_EPOCH,
    });
    state
        .namespaces
        .apply(Change::Restarted(namespaces.collect()), Timestamp::now());
    let pull_accesses = names.iter().map(|name| SeenPullAccess {
        namespace: name.clone(),
        secret: SecretState::Written,
    });
    state
        .namespaces
        .apply_pull_access(Change::Restarted(pull_accesses.collect()));
    state.accounts.apply(Change::Restarted(Vec::new()));
    let metrics = Metrics::new(&prometheus::Registry::new())?;
    let decider = Decider::new(
        Arc::new(state),
        PULL_SECRET.to_owned(),
        Duration::from_secs(1),
        512,
        metrics.clone(),
    );
    Ok((decider, metrics))
}

fn registry(name: &str) -> Result<SeenRegistry> {
    let key = RegistryKey::parse(&format!("{name}.example.com"))
        .ok()
        .context("not a registry's key")?;
    Ok(SeenRegistry {
        name: name.to_owned(),
        registry: Some(Registry {
            name: name.to_owned(),
            created: 0,
            key: Some(key),
            credential: CredentialKind::Copied,
            clusters: ClusterAccess::default(),
            namespaces: NamespaceAccess {
                include: vec![Glob::new("*")],
                ..NamespaceAccess::default()
            },
            injection: Injection::default(),
            priority: 0,
            nodes: NodeAccess::default(),
        }),
    })
}

/// Decides on a review so many times, from its bytes to those of the answer.
pub(crate) fn decide(review: &Path, times: u32) -> Result<()> {
    let body = std::fs::read(review)?;
    let (decider, _) = decider()?;
    for _ in 0..times {
        let answer = decider
            .answer(black_box(body.as_slice()), None)
            .now_or_never()
            .context("the decision waits, although everything is there")??;
        is_injection(&answer)?;
    }
    Ok(())
}

/// Fails for any other answer. Looks at no more than it has to: it is measured too.
fn is_injection(answer: &[u8]) -> Result<()> {
    anyhow::ensure!(
        black_box(answer).ends_with(br#""auditAnnotations":{"reason":"Injected"}}}"#),
        "the answer is no injection: {}",
        String::from_utf8_lossy(answer)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reviews::Size;
    use rstest::rstest;

    #[rstest]
    #[case(Size::Small)]
    #[case(Size::Typical)]
    #[case(Size::Big)]
    fn every_review_that_is_measured_is_an_injection(#[case] size: Size) {
        let (decider, _) = decider().unwrap();
        let body = size.read().unwrap();
        let answer = decider.answer(body, None).now_or_never().unwrap().unwrap();
        is_injection(&answer).unwrap();
    }
}
