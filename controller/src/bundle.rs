//! The loop over the node bundle: renders what nodes are to hold, and decides when namespaces' copies are not needed any
//! more because nodes serve the pulls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use pullpass_core::bundle::{
    Assembled, BUNDLE_KEY, BUNDLE_SECRET_TYPE, Bundle, Mode, NODE_WIDE_SECRET, NODES_NAMESPACE,
    RESTRICTED_SECRET, RuntimeHost, Sources, assemble, selections,
};
use pullpass_core::docker_config::Entries;
use pullpass_core::key::RegistryKey;
use pullpass_core::match_images::MatchImages;
use pullpass_core::reason::Reason;
use pullpass_core::render::{Credentials, Outcome};
use secrecy::ExposeSecret as _;
use tokio::time::Instant;

use crate::context::Context;
use crate::manifest::{FIELD_MANAGER, Metadata, SecretManifest, common_labels};
use crate::nodes::{BundleSecret, BundleStanding, NodeTally, unserved};
use crate::observed::Version;
use crate::rules::{Rules, Uncertain};
use crate::term::{Term, WriteError};

/// So long a change of namespaces waits for others before the lists of selectors are written anew, since every node reads
/// them again. What a registry or a credential changes does not wait.
const GATHER_NAMESPACES: Duration = Duration::from_secs(3);

/// The wall clock moves on without any watch: kubelet's cache runs out, a node's report becomes effective.
const LOOK: Duration = Duration::from_secs(30);

/// After a failure.
const RETRY: Duration = Duration::from_secs(5);

/// Keeps the bundles as they should be until the term ends.
pub(crate) async fn run(context: Context, term: Term, mode: Mode) {
    let over = term.over();
    let mut lists = Lists::default();
    let mut served_since: Option<Instant> = None;
    loop {
        let rules = context.world.rules();
        lists.bring_up_to_date(&context, &rules);
        let pause = match settle(&context, &term, mode, &rules, &lists).await {
            Ok(standing) => {
                context.world.bundles_stand(standing);
                LOOK
            }
            Err(WriteError::TermOver) => return,
            Err(error) => {
                tracing::warn!(%error, "node bundle not written");
                RETRY
            }
        };
        let until_handed_over = hand_over(&context, mode, &mut served_since);
        let pause = [Some(pause), lists.due_in(), until_handed_over]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(LOOK);
        let news = async {
            tokio::select! {
                // a failure is not tried again at once because of news that it made itself
                () = context.world.bundles.notified(), if pause != RETRY => false,
                () = context.world.selections.notified() => true,
                () = tokio::time::sleep(pause) => false,
            }
        };
        match over.run_until_cancelled(news).await {
            None => return,
            Some(true) => lists.namespaces_changed(),
            Some(false) => {}
        }
    }
}

/// The lists of namespaces that selectors select.
#[derive(Debug, Default)]
struct Lists {
    lists: BTreeMap<String, BTreeSet<String>>,
    /// Since when namespaces differ from those of the lists.
    changed: Option<Instant>,
}

impl Lists {
    fn namespaces_changed(&mut self) {
        self.changed.get_or_insert_with(Instant::now);
    }

    fn due_in(&self) -> Option<Duration> {
        let changed = self.changed?;
        Some(GATHER_NAMESPACES.saturating_sub(changed.elapsed()))
    }

    fn bring_up_to_date(&mut self, context: &Context, rules: &Rules) {
        let is_due = self.due_in().is_some_and(|pause| pause.is_zero());
        // a selector that is new has to be evaluated, and one that is gone has no list
        let asked: BTreeSet<String> = selections(&rules.policy, []).into_keys().collect();
        if is_due || !asked.iter().eq(self.lists.keys()) {
            let namespaces = context.world.all_namespaces();
            self.lists = selections(&rules.policy, namespaces.iter().map(AsRef::as_ref));
            self.changed = None;
        }
    }
}

/// Writes what differs.
async fn settle(
    context: &Context,
    term: &Term,
    mode: Mode,
    rules: &Rules,
    lists: &Lists,
) -> Result<BundleStanding, WriteError> {
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), NODES_NAMESPACE);
    let present = |name| context.world.bundle_secret(name);
    let found = [present(NODE_WIDE_SECRET), present(RESTRICTED_SECRET)];
    let written: Vec<&Bundle> = found
        .iter()
        .flatten()
        .filter(|secret| secret.ours)
        .filter_map(|secret| secret.bundle.as_deref())
        .collect();
    let credentials = with_lost(&rules.credentials, &rules.uncertain, &written);
    let runtime: BTreeMap<String, RuntimeHost> = context.world.runtime_hosts();
    let Assembled {
        mut node_wide,
        mut restricted,
        mut outcomes,
    } = assemble(
        mode,
        Sources {
            policy: &rules.policy,
            credentials: &credentials,
            runtime: &runtime,
            selections: &lists.lists,
        },
    );
    if let Some(match_images) = &context.world.settings.match_images {
        let bundles = [Some(&node_wide), restricted.as_ref()];
        for bundle in bundles.into_iter().flatten() {
            tell_unasked(&mut outcomes, bundle, match_images);
        }
    }
    let [wide_found, restricted_found] = found;
    let mut standing = BundleStanding {
        outcomes: outcomes.into(),
        ..BundleStanding::default()
    };
    if context.world.settings.withdraw_nodes {
        node_wide = withdrawn();
        restricted = restricted.map(|_| withdrawn());
        standing.outcomes = Arc::new([]);
    } else {
        keep_unreadable(&mut node_wide, wide_found.as_ref(), &rules.uncertain);
        if let Some(restricted) = &mut restricted {
            keep_unreadable(restricted, restricted_found.as_ref(), &rules.uncertain);
        }
    }
    let work = Work {
        context,
        term,
        secrets,
    };
    work.apply(NODE_WIDE_SECRET, node_wide, wide_found, &mut standing)
        .await?;
    match (restricted, restricted_found) {
        (Some(restricted), found) => {
            work.apply(RESTRICTED_SECRET, restricted, found, &mut standing)
                .await?;
        }
        // of another mode
        (None, Some(found)) if found.ours => {
            work.delete(RESTRICTED_SECRET, &found.version).await?;
        }
        (None, Some(_) | None) => {}
    }
    Ok(standing)
}

/// What nodes hold for nothing, since kubelet does not ask the plugin for images of that host.
fn tell_unasked(outcomes: &mut [Outcome], bundle: &Bundle, match_images: &MatchImages) {
    for registry in &bundle.registries {
        let unasked: Vec<RegistryKey> = registry
            .entries
            .keys()
            .filter(|key| !match_images.covers(key))
            .cloned()
            .collect();
        let outcome = outcomes
            .iter_mut()
            .find(|outcome| outcome.registry == registry.name);
        if let Some(outcome) = outcome.filter(|_| !unasked.is_empty()) {
            outcome.reason = Reason::OutsideMatchImages;
            outcome.left_out = unasked;
        }
    }
}

/// The bundle that has nodes give up what they hold.
pub(crate) fn withdrawn() -> Bundle {
    Bundle {
        withdrawn: true,
        ..Bundle::default()
    }
}

/// The credentials, with what nodes hold of a registry whose last good one is not there and may be found again. It is
/// taken from the bundle because only the controller may write that, and goes nowhere else.
fn with_lost(credentials: &Credentials, uncertain: &Uncertain, written: &[&Bundle]) -> Credentials {
    let mut credentials = credentials.clone();
    for name in &uncertain.lost {
        let held: Entries = written
            .iter()
            .flat_map(|bundle| &bundle.registries)
            .filter(|registry| registry.name == *name)
            .flat_map(|registry| registry.entries.clone())
            .collect();
        if !held.is_empty() {
            credentials.insert(name.clone(), Ok(Arc::new(held)));
        }
    }
    credentials
}

/// What nodes hold of registries that contradict themselves stays: it is not known whom they select now.
fn keep_unreadable(wanted: &mut Bundle, found: Option<&BundleSecret>, uncertain: &Uncertain) {
    let written = found.and_then(|secret| secret.bundle.as_deref());
    let Some(written) = written else {
        return;
    };
    for registry in &written.registries {
        let is_kept = uncertain.unreadable.contains(&registry.name)
            && wanted.registries.iter().all(|r| r.name != registry.name);
        if is_kept {
            wanted.registries.push(registry.clone());
            let selection = registry.access.as_ref().and_then(|a| a.selection.as_ref());
            if let Some((text, names)) =
                selection.and_then(|text| written.selections.get_key_value(text))
            {
                wanted.selections.insert(text.clone(), names.clone());
            }
        }
    }
}

struct Work<'a> {
    context: &'a Context,
    term: &'a Term,
    secrets: Api<Secret>,
}

impl Work<'_> {
    async fn apply(
        &self,
        name: &str,
        wanted: Bundle,
        found: Option<BundleSecret>,
        standing: &mut BundleStanding,
    ) -> Result<(), WriteError> {
        let mut version = found.as_ref().map(|found| found.version.clone());
        if let Some(found) = &found {
            if !found.ours {
                let reason = Reason::ForeignSecret;
                let message = format!(
                    "the Secret {name} in the namespace {NODES_NAMESPACE} was not made by Pullpass: delete it"
                );
                standing.blocked = Some((reason, message));
                return Ok(());
            }
            if let Some(written) = &found.bundle
                && written.says_the_same_as(&wanted)
            {
                let generation = written.generation;
                standing.generations.insert(name.to_owned(), generation);
                return Ok(());
            }
            if found.immutable {
                self.delete(name, &found.version).await?;
                version = None;
            }
        }
        let wanted = Bundle {
            generation: self.context.world.next_generation(name),
            ..wanted
        };
        let content = wanted.write();
        let metadata = Metadata::named(name, common_labels(), version.as_ref());
        let data = [(BUNDLE_KEY, content.expose_secret())];
        let manifest = SecretManifest::new(BUNDLE_SECRET_TYPE, metadata, data);
        let mut parameters = PatchParams::apply(FIELD_MANAGER);
        parameters.force = version.is_some();
        let patch = Patch::Apply(&manifest);
        // only the metadata comes back, and no credential with it
        let request = self.secrets.patch_metadata(name, &parameters, &patch);
        let result = self.term.write(request).await;
        self.context.metrics.wrote("node_bundle", "apply", &result);
        let answer = match result {
            Ok(answer) => answer,
            Err(error)
                if error.status().is_some_and(|s| (400..429).contains(&s.code))
                    && !error.is_conflict() =>
            {
                standing.blocked = Some((
                    Reason::WriteRefused,
                    format!("the Secret {name} cannot be written: {error}"),
                ));
                tracing::warn!(secret = name, %error, "node bundle refused");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        tracing::info!(
            secret = name,
            generation = wanted.generation,
            bytes = content.expose_secret().len(),
            "wrote the node bundle"
        );
        standing
            .generations
            .insert(name.to_owned(), wanted.generation);
        let secret = BundleSecret {
            version: Version::of(&answer.metadata),
            ours: true,
            immutable: false,
            bundle: Some(Arc::new(wanted)),
        };
        self.context.world.wrote_bundle(name, secret);
        Ok(())
    }

    async fn delete(&self, name: &str, version: &Version) -> Result<(), WriteError> {
        let parameters = version.deletion();
        let result = self
            .term
            .write(self.secrets.delete(name, &parameters))
            .await;
        self.context.metrics.wrote("node_bundle", "delete", &result);
        match result {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        self.context.world.deleted_bundle(name, version);
        Ok(())
    }
}

/// With pull secrets off, lets go of the copies once nodes have served in their place for as long as kubelet may go on with
/// what it had read before. Returns when to look again, where that is sure.
fn hand_over(
    context: &Context,
    mode: Mode,
    served_since: &mut Option<Instant>,
) -> Option<Duration> {
    let world = &context.world;
    if !world.awaits_nodes() {
        return None;
    }
    let (tally, standing) = world.nodes(mode);
    let unserved = standing.map_or_else(Vec::new, |standing| {
        unserved(&standing.outcomes)
            .into_iter()
            .map(|(registry, reason)| format!("{registry} ({reason})"))
            .collect()
    });
    if !is_served(&tally, &unserved) {
        if served_since.take().is_some() || tally.is_complete() {
            tracing::warn!(
                nodes = tally.selected,
                ready = tally.ready,
                unserved = unserved.join(", "),
                "pull secrets are off, and their copies stay until nodes serve in their place"
            );
        }
        return None;
    }
    let since = *served_since.get_or_insert_with(Instant::now);
    let left = world.settings.kubelet_cache.saturating_sub(since.elapsed());
    if left.is_zero() {
        tracing::info!(
            nodes = tally.ready,
            "nodes serve the pulls: the copies in namespaces are taken back"
        );
        world.hand_over_to_nodes();
        return None;
    }
    Some(left)
}

fn is_served(tally: &NodeTally, unserved: &[String]) -> bool {
    tally.is_complete() && unserved.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pullpass_core::bundle::BundleRegistry;
    use pullpass_core::docker_config::Login;
    use rstest::rstest;

    #[rstest]
    #[case("registry.example.com", Reason::Available)]
    #[case("registry.example.com:5000", Reason::Available)]
    #[case("registry.example.com:5001", Reason::OutsideMatchImages)]
    #[case("a.b.c.d.e.f.g.h.i", Reason::OutsideMatchImages)]
    fn what_kubelet_does_not_ask_for_is_told(#[case] key: &str, #[case] reason: Reason) {
        let key = RegistryKey::parse(key).unwrap();
        let login = Login::new("user".into(), "password".into()).unwrap();
        let registry = BundleRegistry {
            name: "a".into(),
            priority: 0,
            created: 0,
            access: None,
            entries: Entries::from([(key.clone(), login)]),
        };
        let bundle = Bundle {
            registries: vec![registry],
            ..Bundle::default()
        };
        let outcome = |registry: &str| Outcome {
            registry: registry.into(),
            reason: Reason::Available,
            lost_to: None,
            left_out: Vec::new(),
        };
        let mut outcomes = [outcome("a"), outcome("b")];
        tell_unasked(&mut outcomes, &bundle, &MatchImages::new([5000]));
        assert_eq!(outcomes[0].reason, reason);
        let left_out = if reason == Reason::Available {
            Vec::new()
        } else {
            vec![key]
        };
        assert_eq!(outcomes[0].left_out, left_out);
        assert_eq!(outcomes[1].reason, Reason::Available);
    }
}
