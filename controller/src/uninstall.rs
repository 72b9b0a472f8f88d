//! The end: revokes and deletes everything that the controller has written, before Helm takes its rights away.
//!
//! The Lease is taken from whoever leads, and not given back, so that no controller begins anew while it is still there.
//! What is then to be done in a namespace is decided by the same plan as ever, for a cluster in which nothing is granted.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{ListParams, PostParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client, Resource, ResourceExt};
use pullpass_api::{PullAccess, convert, pull_access};
use pullpass_daemon::Change;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config::ControllerOptions;
use crate::context::Context;
use crate::credential;
use crate::election::{held_by, view};
use crate::events::Events;
use crate::leader::Timing;
use crate::manifest::{AUTHORITY_SECRET, common_labels};
use crate::metrics::Metrics;
use crate::namespace;
use crate::observed::{Access, Copy, Version};
use crate::plan::REVOKED;
use crate::term::Term;
use crate::withdraw::withdraw;
use crate::world::World;

/// Who holds the Lease from the uninstallation on.
const HOLDER: &str = "uninstall";

/// Longer than any uninstallation takes; a new installation of the chart begins with a new Lease.
const HELD_FOR: Duration = Duration::from_secs(3600);

/// What does not go is tried again so often, with pauses that double from the first.
const ROUNDS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// As in kube's own lists.
const PAGE: u32 = 500;

/// So many objects the message names.
const NAMED: usize = 10;

/// What is there after everything was tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Objects that are there as they were: `secret team-a/pullpass`.
    pub whole: Vec<String>,
    /// Secrets without a credential of ours that a finalizer of somebody else holds back. Where the policy `pullpass-copies`
    /// is not in force, whoever may edit Secrets can put one on, so these must not hold up the uninstallation.
    pub emptied: Vec<String>,
}

fn some(all: &[String]) -> String {
    let named: Vec<&str> = all.iter().take(NAMED).map(String::as_str).collect();
    let named = named.join(", ");
    match all.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "still there: {}; see the log for what stands in the way, delete them by hand if need be, and uninstall again",
            some(&self.whole)
        )
    }
}

/// Why the uninstallation is not complete.
#[derive(Debug, thiserror::Error)]
pub enum UninstallError {
    /// The API server does not answer, or refuses to list.
    #[error("cannot {what}: {error}")]
    Api {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        error: String,
    },
    /// Metrics cannot be made.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    /// Somebody takes the Lease again and again.
    #[error("the Lease cannot be taken: somebody else writes it all the time")]
    Lease,
    /// Not everything is gone.
    #[error("{0}")]
    Left(Left),
}

fn api_error(what: &'static str) -> impl Fn(kube::Error) -> UninstallError {
    move |error| UninstallError::Api {
        what,
        error: pullpass_daemon::chain(&error),
    }
}

/// The subcommand as a process.
pub(crate) fn main() -> ExitCode {
    pullpass_daemon::run_once(
        crate::COMPONENT,
        crate::VERSION,
        |client, config: crate::Config| async move {
            uninstall(client, &config.controller).await.map(drop)
        },
    )
}

/// Takes the Lease, waits until nobody else can write, and deletes copies, PullAccesses, credentials and certificates. It
/// can be repeated, and works where the CRDs are gone already. Returns what is there still and needs not: emptied
/// Secrets that somebody else's finalizer holds back.
///
/// # Errors
/// [`UninstallError`]; the controller then leads again, so that nothing is half installed.
pub async fn uninstall(
    client: Client,
    options: &ControllerOptions,
) -> Result<Left, UninstallError> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), &options.installation.namespace);
    take_over(&leases, &options.lease).await?;
    let result = remove(client, options).await;
    if result.is_err() {
        give_back(&leases, &options.lease).await;
    }
    result
}

async fn take_over(leases: &Api<Lease>, name: &str) -> Result<(), UninstallError> {
    const ATTEMPTS: usize = 20;
    for _ in 0..ATTEMPTS {
        let Some(lease) = leases
            .get_opt(name)
            .await
            .map_err(api_error("read the Lease"))?
        else {
            tracing::warn!(
                lease = name,
                "there is no Lease: no controller can be at work"
            );
            return Ok(());
        };
        let before = view(&lease);
        let mine = held_by(&lease, Some(HOLDER), HELD_FOR);
        match leases.replace(name, &PostParams::default(), &mine).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_conflict() => continue,
            Err(error) => return Err(api_error("take the Lease")(error)),
        }
        if let Some(holder) = before.holder {
            let least = Timing::default().lease;
            // an earlier attempt may have ended before it had waited
            let wait = before.duration.unwrap_or(least).min(least);
            tracing::info!(
                holder,
                seconds = wait.as_secs(),
                "took the Lease; waiting until its holder has stopped"
            );
            tokio::time::sleep(wait).await;
        }
        return Ok(());
    }
    Err(UninstallError::Lease)
}

/// The controller is to go on where the uninstallation has failed.
async fn give_back(leases: &Api<Lease>, name: &str) {
    if let Ok(Some(lease)) = leases.get_opt(name).await
        && view(&lease).holder.as_deref() == Some(HOLDER)
    {
        let free = held_by(&lease, None, Timing::default().lease);
        if let Err(error) = leases.replace(name, &PostParams::default(), &free).await {
            tracing::warn!(
                error = pullpass_daemon::chain(&error),
                "the Lease was not given back"
            );
        }
    }
}

async fn remove(client: Client, options: &ControllerOptions) -> Result<Left, UninstallError> {
    if options.nodes.is_some() {
        let nodes = withdraw(&client)
            .await
            .map_err(api_error("have nodes give up what they hold"))?;
        if !nodes.is_empty() {
            tracing::warn!(
                count = nodes.len(),
                nodes = some(&nodes),
                "these nodes have not said that they gave up what they hold: look at their agents, or delete Pullpass's entries there by hand"
            );
        }
    }
    let metrics = Metrics::register(&prometheus::Registry::new())?;
    let term = Term::new(clock::now() + HELD_FOR);
    let mut pause = FIRST_PAUSE;
    let mut left = Left::default();
    let mut emptied = HashSet::new();
    for round in 0..ROUNDS {
        if round > 0 {
            tracing::info!(seconds = pause.as_secs(), %left, "waiting before the next round");
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        emptied.extend(remove_once(&client, options, &term, &metrics).await?);
        left = what_is_left(&take_inventory(&client, options).await?, options, &emptied);
        if !left.whole.is_empty() {
            continue;
        }
        if left.emptied.is_empty() {
            tracing::info!("nothing of Pullpass's controller is left");
        } else {
            tracing::warn!(
                count = left.emptied.len(),
                secrets = some(&left.emptied),
                "deleted and without credentials, but held back by finalizers that are not Pullpass's: remove these to be rid of them"
            );
        }
        return Ok(left);
    }
    Err(UninstallError::Left(left))
}

/// What there is of ours in namespaces, by namespace.
struct Inventory {
    namespaces: Vec<PartialObjectMeta<Namespace>>,
    copies: HashMap<String, Copy>,
    accesses: HashMap<String, Access>,
    own: Vec<Secret>,
}

async fn take_inventory(
    client: &Client,
    options: &ControllerOptions,
) -> Result<Inventory, UninstallError> {
    let secret_name = ListParams::default().fields(&format!(
        "metadata.name={}",
        options.installation.pull_secret_name
    ));
    let access_name = ListParams::default().fields(&format!("metadata.name={}", pull_access::NAME));
    let copies = list(Api::<Secret>::all(client.clone()), secret_name, |secret| {
        let namespace = secret.namespace().unwrap_or_default();
        (namespace, Copy::observe(secret))
    })
    .await
    .map_err(api_error("list pull secrets"))?;
    let accesses = list(
        Api::<PullAccess>::all(client.clone()),
        access_name,
        |access| {
            let namespace = access.namespace().unwrap_or_default();
            (namespace, Access::observe(access))
        },
    )
    .await;
    let accesses = match accesses {
        Ok(accesses) => accesses,
        // without the CRD there are none
        Err(kube::Error::Api(status)) if status.is_not_found() => Vec::new(),
        Err(error) => return Err(api_error("list PullAccesses")(error)),
    };
    let own = list(
        Api::<Secret>::namespaced(client.clone(), &options.installation.namespace),
        ListParams::default().fields("type!=helm.sh/release.v1"),
        |secret| secret,
    )
    .await
    .map_err(api_error("list Pullpass's own Secrets"))?;
    Ok(Inventory {
        namespaces: list(
            Api::<PartialObjectMeta<Namespace>>::all(client.clone()),
            ListParams::default(),
            |namespace| namespace,
        )
        .await
        .map_err(api_error("list namespaces"))?,
        copies: copies.into_iter().filter(|(_, copy)| copy.ours).collect(),
        accesses: accesses.into_iter().collect(),
        own: own
            .into_iter()
            .filter(|secret| is_own(secret, options))
            .collect(),
    })
}

/// Whether a Secret of our own namespace was made by the controller.
fn is_own(secret: &Secret, options: &ControllerOptions) -> bool {
    let name = secret.name_any();
    if credential::registry_of(&name).is_some() {
        return credential::is_ours(secret);
    }
    let labels = secret.labels();
    (name == AUTHORITY_SECRET || name == options.serving_secret)
        && common_labels()
            .iter()
            .all(|(key, value)| labels.get(*key).is_some_and(|found| found == value))
}

/// Tries everything once. Returns the uids of the Secrets that are empty and held back.
async fn remove_once(
    client: &Client,
    options: &ControllerOptions,
    term: &Term,
    metrics: &Metrics,
) -> Result<Vec<String>, UninstallError> {
    let Inventory {
        namespaces,
        copies,
        accesses,
        own,
    } = take_inventory(client, options).await?;
    tracing::info!(
        pull_secrets = copies.len(),
        pull_accesses = accesses.len(),
        own_secrets = own.len(),
        "found"
    );
    let world = Arc::new(World::new(options.settings()));
    world.namespaces_changed(Change::Restarted(
        namespaces.iter().map(convert::namespace).collect(),
    ));
    let mut due: Vec<String> = copies.keys().chain(accesses.keys()).cloned().collect();
    due.sort_unstable();
    due.dedup();
    world.copies_changed(Change::Restarted(copies.into_iter().collect()));
    world.accesses_changed(Change::Restarted(accesses.into_iter().collect()));

    let stop = CancellationToken::new();
    let _stopping = stop.clone().drop_guard();
    let (events, sending) = Events::new(
        client.clone(),
        HOLDER.to_owned(),
        metrics.clone(),
        stop.clone(),
    );
    let sending = tokio::spawn(sending);
    let context = Context {
        client: client.clone(),
        world,
        events,
        metrics: metrics.clone(),
    };
    let all = due.len();
    let mut done = 0;
    let mut working = futures::stream::iter(due.clone())
        .map(|name| namespace::reconcile(context.clone(), term.clone(), name))
        .buffer_unordered(namespace::CONCURRENCY);
    while working.next().await.is_some() {
        done += 1;
        if done % 500 == 0 || done == all {
            tracing::info!(done, of = all, "namespaces");
        }
    }
    drop(working);
    let emptied = due
        .iter()
        .filter_map(|name| context.world.place(name).1?.copy)
        .filter(is_emptied)
        .map(|copy| copy.version.uid)
        .collect();

    let secrets: Api<Secret> = Api::namespaced(client.clone(), &options.installation.namespace);
    for secret in own {
        let name = secret.name_any();
        let version = Version::of(&secret.metadata);
        let parameters = version.deletion_in_any_version();
        match term.write(secrets.delete(&name, &parameters)).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => tracing::warn!(secret = name, %error, "not deleted"),
        }
    }
    stop.cancel();
    if let Err(error) = sending.await {
        tracing::warn!(%error, "events");
    }
    Ok(emptied)
}

fn is_emptied(copy: &Copy) -> bool {
    copy.terminating && copy.digest == Some(*REVOKED)
}

/// `emptied` are the uids of Secrets that were empty before: what somebody has written into one since is none of ours.
fn what_is_left(
    inventory: &Inventory,
    options: &ControllerOptions,
    emptied: &HashSet<String>,
) -> Left {
    let going: Vec<String> = inventory
        .namespaces
        .iter()
        .filter(|namespace| namespace.meta().deletion_timestamp.is_some())
        .map(ResourceExt::name_any)
        .collect();
    let mut left = Left::default();
    for (namespace, copy) in &inventory.copies {
        let name = format!(
            "secret {namespace}/{}",
            options.installation.pull_secret_name
        );
        if is_emptied(copy) || emptied.contains(&copy.version.uid) {
            left.emptied.push(name);
        } else if !going.contains(namespace) {
            left.whole.push(name);
        }
    }
    for namespace in inventory.accesses.keys() {
        if !going.contains(namespace) {
            left.whole
                .push(format!("pullaccess {namespace}/{}", pull_access::NAME));
        }
    }
    for secret in &inventory.own {
        left.whole.push(format!(
            "secret {}/{}",
            options.installation.namespace,
            secret.name_any()
        ));
    }
    left.whole.sort_unstable();
    left.emptied.sort_unstable();
    left
}

/// Everything, page by page, each object projected at once.
async fn list<K, V>(
    api: Api<K>,
    mut parameters: ListParams,
    mut project: impl FnMut(K) -> V,
) -> kube::Result<Vec<V>>
where
    K: Resource + Clone + DeserializeOwned + fmt::Debug,
{
    parameters.limit = Some(PAGE);
    let mut all = Vec::new();
    loop {
        let page = api.list(&parameters).await?;
        all.extend(page.items.into_iter().map(&mut project));
        parameters.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if parameters.continue_token.is_none() {
            return Ok(all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_named_up_to_a_bound() {
        let left = Left {
            whole: (0..12)
                .map(|n| format!("secret team-{n}/pullpass"))
                .collect(),
            emptied: vec!["secret held/pullpass".into()],
        };
        let text = left.to_string();
        assert!(text.contains("secret team-9/pullpass and 2 more"), "{text}");
        assert!(!text.contains("team-10"), "{text}");
        assert!(!text.contains("held/pullpass"), "{text}");
    }

    fn copy(uid: &str, terminating: bool, digest: crate::observed::Digest) -> Copy {
        Copy {
            version: Version {
                uid: uid.into(),
                resource_version: "1".into(),
            },
            ours: true,
            terminating,
            immutable: false,
            digest: Some(digest),
            labelled: true,
            strays: None,
        }
    }

    #[test]
    fn what_a_tenant_holds_back_is_told_apart_from_what_has_to_go() {
        use clap::Parser as _;
        let options = crate::Config::try_parse_from(["pullpass-controller"])
            .unwrap()
            .controller;
        let namespace = |name: &str, going: bool| -> PartialObjectMeta<Namespace> {
            let mut meta = serde_json::json!({"name": name});
            if going {
                meta["deletionTimestamp"] = "2030-01-01T00:00:00Z".into();
            }
            serde_json::from_value(serde_json::json!({"metadata": meta})).unwrap()
        };
        let full = [1; 32];
        let inventory = Inventory {
            namespaces: vec![namespace("going", true), namespace("held", false)],
            copies: HashMap::from([
                ("going".into(), copy("a", true, full)),
                ("held".into(), copy("b", true, *REVOKED)),
                // written to again after it was emptied
                ("refilled".into(), copy("c", true, full)),
                ("immutable".into(), copy("d", true, full)),
                ("deletable".into(), copy("e", false, *REVOKED)),
            ]),
            accesses: HashMap::new(),
            own: Vec::new(),
        };
        let left = what_is_left(&inventory, &options, &HashSet::from(["c".to_owned()]));
        assert_eq!(
            left.emptied,
            ["secret held/pullpass", "secret refilled/pullpass"]
        );
        assert_eq!(
            left.whole,
            ["secret deletable/pullpass", "secret immutable/pullpass"]
        );
    }
}
