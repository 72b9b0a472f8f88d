//! The namespaces: what is known of each, what it is granted, and how far its Secret has got.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use pullpass_core::policy::{Grant, Namespace, Policy, grant};
use pullpass_core::selector::Labels;
use pullpass_daemon::Change;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::registries::PolicyVersion;

/// A namespace is young for so long: the controller writes its Secret within a fraction of a second, so that one
/// which is without by then has been so for another reason, and waiting would only delay every pod.
pub const YOUTH: Duration = Duration::from_secs(30);

/// How many names are remembered as not worth waiting for. They are those of namespaces whose Secret did not come
/// in time, so that this many at once mean that the controller is away.
const VAIN_NAMES: usize = 4096;

/// How many different grants are looked through to find one that is there already. Most clusters have a few kinds of
/// namespaces; where each is of its own kind, sharing gains nothing.
const DISTINCT_GRANTS: usize = 64;

/// A namespace as it was seen.
#[derive(Clone, Debug)]
pub struct SeenNamespace {
    /// What decisions rest on.
    pub namespace: Namespace,
    /// When it was made, by the clock of the API server.
    pub created: Timestamp,
}

/// How far a namespace's Secret has got, as its PullAccess says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretState {
    /// It is there.
    Written,
    /// It cannot be written at present.
    Blocked,
}

/// A PullAccess as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenPullAccess {
    /// The namespace.
    pub namespace: String,
    /// What it says of the Secret.
    pub secret: SecretState,
}

/// What is known of one namespace at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// What it may use. Of a namespace that is not known yet, what its name alone gives it.
    pub grant: Arc<Grant>,
    /// Whether the namespace has been seen.
    pub is_known: bool,
    /// Whether it is young enough for its Secret to be still on the way.
    pub is_young: bool,
    /// How far its Secret has got.
    pub secret: Option<SecretState>,
    /// Whether a request has waited for it in vain.
    pub was_in_vain: bool,
}

/// All namespaces, by name.
#[derive(Debug, Default)]
pub struct Namespaces {
    table: RwLock<Table>,
    grants: Mutex<SharedGrants>,
}

#[derive(Debug, Default)]
struct Table {
    namespaces_listed: bool,
    pull_accesses_listed: bool,
    rows: HashMap<Box<str>, Row>,
    vain: HashSet<Box<str>>,
}

#[derive(Debug, Default)]
struct Row {
    known: Option<Arc<Known>>,
    secret: Option<SecretState>,
    /// Woken at every change of the row; there while somebody waits.
    changed: Option<Arc<Notify>>,
}

/// Grants of one policy, each once however many namespaces have it.
#[derive(Debug, Default)]
struct SharedGrants {
    generation: u64,
    distinct: Vec<Arc<Grant>>,
}

impl SharedGrants {
    fn share(&mut self, grant: Grant, generation: u64) -> Arc<Grant> {
        if self.generation != generation {
            self.generation = generation;
            self.distinct = Vec::new();
        }
        let is_same = |other: &&Arc<Grant>| {
            other.nothing_because == grant.nothing_because
                && other.granted.len() == grant.granted.len()
                && other
                    .granted
                    .iter()
                    .zip(&grant.granted)
                    .all(|(a, b)| Arc::ptr_eq(a, b))
        };
        if let Some(same) = self.distinct.iter().find(is_same) {
            return Arc::clone(same);
        }
        let grant = Arc::new(grant);
        if self.distinct.len() < DISTINCT_GRANTS {
            self.distinct.push(Arc::clone(&grant));
        }
        grant
    }
}

/// What is kept of a namespace. Replaced when the namespace changes, and with it the grant.
#[derive(Debug)]
struct Known {
    // 10,000 of these have to stay small, which a map each would not
    labels: Box<[(Box<str>, Box<str>)]>,
    terminating: bool,
    created: Timestamp,
    /// `None` where it was no longer young when it was first seen.
    young_until: Option<Instant>,
    grant: ArcSwapOption<(u64, Arc<Grant>)>,
}

impl Known {
    fn new(seen: SeenNamespace, young_until: Option<Instant>) -> Self {
        Self {
            labels: seen
                .namespace
                .labels
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
            terminating: seen.namespace.terminating,
            created: seen.created,
            young_until,
            grant: ArcSwapOption::empty(),
        }
    }

    fn says_the_same(&self, seen: &SeenNamespace) -> bool {
        self.created == seen.created
            && self.terminating == seen.namespace.terminating
            && self.labels.len() == seen.namespace.labels.len()
            && self.labels.iter().zip(&seen.namespace.labels).all(
                |((key, value), (other_key, other_value))| {
                    **key == **other_key && **value == **other_value
                },
            )
    }

    fn granted(
        &self,
        name: &str,
        policy: &Policy,
        generation: u64,
        shared: &Mutex<SharedGrants>,
    ) -> Arc<Grant> {
        if let Some(kept) = &*self.grant.load()
            && kept.0 == generation
        {
            return Arc::clone(&kept.1);
        }
        let namespace = Namespace {
            name: name.to_owned(),
            labels: self
                .labels
                .iter()
                .map(|(key, value)| (key.as_ref().to_owned(), value.as_ref().to_owned()))
                .collect(),
            terminating: self.terminating,
        };
        let mut granted = grant(&namespace, policy);
        // no decision on a pod asks for the other registries, and a name for each of them would add up
        granted.refused = Vec::new();
        let granted = shared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .share(granted, generation);
        self.grant
            .store(Some(Arc::new((generation, Arc::clone(&granted)))));
        granted
    }
}

impl Namespaces {
    /// Whether namespaces and PullAccesses have been listed.
    pub fn are_listed(&self) -> bool {
        let table = self.read();
        table.namespaces_listed && table.pull_accesses_listed
    }

    /// What is known of a namespace; `None` without a policy.
    pub fn view(&self, name: &str, version: &PolicyVersion) -> Option<View> {
        let policy = version.policy.as_ref()?;
        let table = self.read();
        let row = table.rows.get(name);
        let known = row.and_then(|row| row.known.clone());
        let secret = row.and_then(|row| row.secret);
        let was_in_vain = table.vain.contains(name);
        drop(table);
        Some(View {
            is_known: known.is_some(),
            is_young: known
                .as_ref()
                .and_then(|known| known.young_until)
                .is_some_and(|until| Instant::now() < until),
            secret,
            was_in_vain,
            grant: match known {
                Some(known) => known.granted(name, policy, version.generation, &self.grants),
                None => Arc::new(granted_by_name(name, policy)),
            },
        })
    }

    /// Woken by every later change of what is known of the namespace. Not to be kept longer than one wait.
    pub fn changes(&self, name: &str) -> Arc<Notify> {
        let mut table = self.write();
        let row = table.rows.entry(name.into()).or_default();
        Arc::clone(row.changed.get_or_insert_default())
    }

    /// A wait is over; called while its [`Namespaces::changes`] are still held.
    pub fn waited(&self, name: &str) {
        self.write().edit(name, |row| {
            // the row's own, and that of the one who calls
            let is_last = |changed: &Arc<Notify>| Arc::strong_count(changed) <= 2;
            if row.changed.as_ref().is_some_and(is_last) {
                row.changed = None;
            }
        });
    }

    /// Neither the namespace nor its Secret has come within the bound: further requests are not to wait.
    pub fn waited_in_vain(&self, name: &str) {
        let mut table = self.write();
        if table.vain.len() >= VAIN_NAMES {
            table.vain = HashSet::new();
        }
        table.vain.insert(name.into());
    }

    /// Takes a change of the watch on namespaces over. `now` is the wall clock's.
    pub fn apply(&self, change: Change<SeenNamespace>, now: Timestamp) {
        let mut table = self.write();
        match change {
            Change::Restarted(all) => {
                let first = !table.namespaces_listed;
                table.namespaces_listed = true;
                let names: HashSet<&str> = all
                    .iter()
                    .map(|seen| seen.namespace.name.as_str())
                    .collect();
                let gone: Vec<Box<str>> = table
                    .rows
                    .iter()
                    .filter(|(name, row)| row.known.is_some() && !names.contains(&***name))
                    .map(|(name, _)| name.clone())
                    .collect();
                for name in gone {
                    table.forget(&name);
                }
                for seen in all {
                    // What the first list holds is as old as it says. Later, a namespace is as old as its first
                    // sight, which asks no two clocks to agree.
                    let youth = if first {
                        YOUTH.saturating_sub(age(seen.created, now))
                    } else {
                        YOUTH
                    };
                    table.learn(seen, youth);
                }
            }
            Change::Applied(seen) => table.learn(seen, YOUTH),
            Change::Deleted(seen) => table.forget(&seen.namespace.name),
        }
    }

    /// Takes a change of the watch on PullAccesses over.
    pub fn apply_pull_access(&self, change: Change<SeenPullAccess>) {
        let mut table = self.write();
        match change {
            Change::Restarted(all) => {
                table.pull_accesses_listed = true;
                let listed: HashMap<&str, SecretState> = all
                    .iter()
                    .map(|seen| (seen.namespace.as_str(), seen.secret))
                    .collect();
                let gone: Vec<Box<str>> = table
                    .rows
                    .iter()
                    .filter(|(name, row)| row.secret.is_some() && !listed.contains_key(&***name))
                    .map(|(name, _)| name.clone())
                    .collect();
                for name in gone {
                    table.deliver(&name, None);
                }
                for (name, secret) in listed {
                    table.deliver(name, Some(secret));
                }
            }
            Change::Applied(seen) => table.deliver(&seen.namespace, Some(seen.secret)),
            Change::Deleted(seen) => table.deliver(&seen.namespace, None),
        }
    }

    /// Whether a request waits for the namespace.
    #[cfg(test)]
    pub(crate) fn is_waited_for(&self, name: &str) -> bool {
        let table = self.read();
        table
            .rows
            .get(name)
            .is_some_and(|row| row.changed.is_some())
    }

    /// Whether nothing is kept.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.read().rows.is_empty()
    }

    // A panic while the lock was held has left each row whole.
    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn learn(&mut self, seen: SeenNamespace, youth: Duration) {
        let name = seen.namespace.name.clone();
        self.edit(&name, |row| {
            let young_until = match &row.known {
                Some(known) if known.says_the_same(&seen) => return,
                // one made at another time is another namespace of the same name
                Some(known) if known.created == seen.created => known.young_until,
                Some(_) | None => (!youth.is_zero()).then(|| Instant::now() + youth),
            };
            row.known = Some(Arc::new(Known::new(seen, young_until)));
            row.wake();
        });
    }

    fn forget(&mut self, name: &str) {
        self.vain.remove(name);
        self.edit(name, |row| row.known = None);
    }

    fn deliver(&mut self, name: &str, secret: Option<SecretState>) {
        if secret.is_some() {
            self.vain.remove(name);
        }
        self.edit(name, |row| {
            if row.secret != secret {
                row.secret = secret;
                row.wake();
            }
        });
    }

    /// Changes a row, which is there only while it says something.
    fn edit(&mut self, name: &str, edit: impl FnOnce(&mut Row)) {
        if let Some(row) = self.rows.get_mut(name) {
            edit(row);
            if row.is_empty() {
                self.rows.remove(name);
            }
        } else {
            let mut row = Row::default();
            edit(&mut row);
            if !row.is_empty() {
                self.rows.insert(name.into(), row);
            }
        }
    }
}

impl Row {
    fn is_empty(&self) -> bool {
        self.known.is_none() && self.secret.is_none() && self.changed.is_none()
    }

    fn wake(&self) {
        if let Some(changed) = &self.changed {
            changed.notify_waiters();
        }
    }
}

/// What a namespace gets whatever its labels say. A registry with a selector gives it nothing as long as they are not
/// known; where the labels would decline, the name that is appended too early refers to a Secret that never comes,
/// which harms no pod, while a name that is left out cannot be added any more.
fn granted_by_name(name: &str, policy: &Policy) -> Grant {
    let namespace = Namespace {
        name: name.to_owned(),
        labels: Labels::new(),
        terminating: false,
    };
    grant(&namespace, policy)
}

/// Zero for what lies in the future.
fn age(created: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(created)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::sample;
    use futures::FutureExt as _;
    use pullpass_core::reason::Reason;
    use std::pin::pin;

    const NOW: i64 = 1_000_000;

    fn seen(name: &str, made: i64) -> SeenNamespace {
        SeenNamespace {
            namespace: Namespace {
                name: name.into(),
                ..Namespace::default()
            },
            created: Timestamp::from_second(made).unwrap(),
        }
    }

    fn labelled(name: &str, key: &str, value: &str) -> SeenNamespace {
        let mut seen = seen(name, NOW);
        seen.namespace.labels.insert(key.into(), value.into());
        seen
    }

    fn pull_access(namespace: &str, secret: SecretState) -> SeenPullAccess {
        SeenPullAccess {
            namespace: namespace.into(),
            secret,
        }
    }

    fn version(generation: u64, include: &[&str]) -> PolicyVersion {
        PolicyVersion {
            generation,
            policy: Some(Policy {
                registries: vec![Arc::new(sample::registry("acme", include))],
                ..Policy::default()
            }),
        }
    }

    fn apply(namespaces: &Namespaces, change: Change<SeenNamespace>) {
        namespaces.apply(change, Timestamp::from_second(NOW).unwrap());
    }

    fn view(namespaces: &Namespaces, name: &str) -> View {
        namespaces.view(name, &version(1, &["*"])).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_list_is_as_old_as_it_says() {
        let namespaces = Namespaces::default();
        apply(
            &namespaces,
            Change::Restarted(vec![
                seen("old", NOW - 30),
                seen("new", NOW - 29),
                seen("ahead", NOW + 1800),
            ]),
        );
        assert!(!view(&namespaces, "old").is_young);
        assert!(view(&namespaces, "new").is_young);
        assert!(view(&namespaces, "ahead").is_young);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!view(&namespaces, "new").is_young);
        tokio::time::advance(YOUTH).await;
        assert!(
            !view(&namespaces, "ahead").is_young,
            "whatever the clocks say"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn later_a_namespace_is_as_old_as_its_first_sight() {
        let namespaces = Namespaces::default();
        apply(&namespaces, Change::Restarted(Vec::new()));
        apply(&namespaces, Change::Applied(seen("a", NOW - 5000)));
        apply(
            &namespaces,
            Change::Restarted(vec![seen("a", NOW - 5000), seen("b", NOW - 5000)]),
        );
        assert!(view(&namespaces, "a").is_young);
        assert!(view(&namespaces, "b").is_young);
        tokio::time::advance(YOUTH / 2).await;
        let mut relabelled = labelled("a", "k", "v");
        relabelled.created = Timestamp::from_second(NOW - 5000).unwrap();
        apply(&namespaces, Change::Applied(relabelled));
        tokio::time::advance(YOUTH / 2).await;
        assert!(
            !view(&namespaces, "a").is_young,
            "a label does not make it young again"
        );
        apply(&namespaces, Change::Applied(seen("a", NOW)));
        assert!(view(&namespaces, "a").is_young, "made again");
    }

    #[tokio::test]
    async fn grants_follow_labels_and_policy() {
        let namespaces = Namespaces::default();
        apply(
            &namespaces,
            Change::Applied(labelled("a", "pullpass.dev/inject", "false")),
        );
        assert_eq!(
            view(&namespaces, "a").grant.reason(),
            Reason::NamespaceOptedOut
        );
        apply(
            &namespaces,
            Change::Applied(labelled("a", "pullpass.dev/inject", "true")),
        );
        assert_eq!(view(&namespaces, "a").grant.reason(), Reason::Granted);
        let kept = view(&namespaces, "a").grant;
        assert!(
            Arc::ptr_eq(&kept, &view(&namespaces, "a").grant),
            "evaluated once"
        );
        apply(
            &namespaces,
            Change::Applied(labelled("a", "pullpass.dev/inject", "true")),
        );
        assert!(
            Arc::ptr_eq(&kept, &view(&namespaces, "a").grant),
            "nothing has changed"
        );
        let other = namespaces.view("a", &version(2, &["b"])).unwrap();
        assert_eq!(other.grant.reason(), Reason::NothingGranted);
    }

    #[tokio::test]
    async fn like_namespaces_share_their_grant() {
        let namespaces = Namespaces::default();
        apply(&namespaces, Change::Applied(seen("a-1", NOW)));
        apply(&namespaces, Change::Applied(seen("a-2", NOW)));
        apply(&namespaces, Change::Applied(seen("b", NOW)));
        let version = version(1, &["a-*"]);
        let grant = |name: &str| namespaces.view(name, &version).unwrap().grant;
        assert!(Arc::ptr_eq(&grant("a-1"), &grant("a-2")));
        assert!(!Arc::ptr_eq(&grant("a-1"), &grant("b")));
        assert!(grant("b").is_empty());
    }

    #[tokio::test]
    async fn an_unknown_namespace_gets_what_its_name_gives() {
        let namespaces = Namespaces::default();
        let unknown = namespaces.view("team-a", &version(1, &["team-*"])).unwrap();
        assert!(!unknown.is_known && !unknown.grant.is_empty());
        let none = PolicyVersion {
            generation: 0,
            policy: None,
        };
        assert!(namespaces.view("team-a", &none).is_none());
    }

    #[tokio::test]
    async fn the_secret_comes_and_goes() {
        let namespaces = Namespaces::default();
        namespaces.apply_pull_access(Change::Restarted(vec![
            pull_access("a", SecretState::Written),
            pull_access("b", SecretState::Blocked),
        ]));
        assert_eq!(view(&namespaces, "a").secret, Some(SecretState::Written));
        assert_eq!(view(&namespaces, "b").secret, Some(SecretState::Blocked));
        namespaces.apply_pull_access(Change::Applied(pull_access("b", SecretState::Written)));
        namespaces.apply_pull_access(Change::Deleted(pull_access("a", SecretState::Written)));
        assert_eq!(view(&namespaces, "a").secret, None);
        assert_eq!(view(&namespaces, "b").secret, Some(SecretState::Written));
        namespaces.apply_pull_access(Change::Restarted(Vec::new()));
        assert_eq!(view(&namespaces, "b").secret, None);
        assert!(namespaces.read().rows.is_empty());
    }

    #[tokio::test]
    async fn both_lists_have_to_have_come() {
        let namespaces = Namespaces::default();
        apply(&namespaces, Change::Restarted(Vec::new()));
        assert!(!namespaces.are_listed());
        namespaces.apply_pull_access(Change::Restarted(Vec::new()));
        assert!(namespaces.are_listed());
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_by_either() {
        let namespaces = Namespaces::default();
        for change in [0, 1] {
            let changed = namespaces.changes("a");
            let mut woken = pin!(changed.notified());
            woken.as_mut().enable();
            apply(&namespaces, Change::Applied(seen("b", NOW)));
            assert!(woken.as_mut().now_or_never().is_none());
            if change == 0 {
                apply(&namespaces, Change::Applied(seen("a", NOW)));
            } else {
                namespaces
                    .apply_pull_access(Change::Applied(pull_access("a", SecretState::Written)));
            }
            assert!(woken.now_or_never().is_some());
        }
    }

    #[tokio::test]
    async fn a_vain_wait_is_remembered_until_the_secret_comes() {
        let namespaces = Namespaces::default();
        let changed = namespaces.changes("a");
        namespaces.waited_in_vain("a");
        drop(changed);
        assert!(view(&namespaces, "a").was_in_vain);
        namespaces.apply_pull_access(Change::Applied(pull_access("a", SecretState::Written)));
        assert!(!view(&namespaces, "a").was_in_vain);
    }

    #[tokio::test]
    async fn made_up_names_leave_nothing_behind() {
        let namespaces = Namespaces::default();
        for n in 0..3 * VAIN_NAMES {
            let name = format!("made-up-{n}");
            let changed = namespaces.changes(&name);
            namespaces.waited_in_vain(&name);
            namespaces.waited(&name);
            drop(changed);
        }
        let table = namespaces.read();
        assert!(table.rows.is_empty());
        assert!(table.vain.len() <= VAIN_NAMES);
    }

    #[tokio::test]
    async fn the_last_of_several_waits_clears_up() {
        let namespaces = Namespaces::default();
        let one = namespaces.changes("a");
        let two = namespaces.changes("a");
        namespaces.waited("a");
        drop(one);
        assert_eq!(namespaces.read().rows.len(), 1);
        namespaces.waited("a");
        drop(two);
        assert!(namespaces.read().rows.is_empty());
    }
}
