//! How the namespaces of each registry stand, counted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use pullpass_core::reason::Reason;
use pullpass_core::render::Outcome;

use super::names::keep_first;
use crate::plan::State;
use crate::world::{Standing, World};

/// How the namespaces of one registry stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Namespaces that may use it.
    pub(crate) selected: usize,
    /// Those that hold its credential.
    pub(crate) synced: usize,
    /// Those that do not, and will not by waiting, by reason.
    pub(crate) failed: BTreeMap<Reason, Failed>,
    /// Why it is not in the docker config for installers, where it should be, and the keys that are missing there.
    pub(crate) not_for_installers: Option<(Reason, BTreeSet<String>)>,
    /// Whether every namespace has been judged by the rules in force.
    pub(crate) is_settled: bool,
}

/// Namespaces that do not get a credential, or not all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failed {
    /// How many.
    pub(crate) count: usize,
    /// The names of some.
    pub(crate) names: Vec<String>,
    /// The keys that they lack.
    pub(crate) left_out: BTreeSet<String>,
}

/// How the namespaces of all registries stand.
#[derive(Debug, Default)]
pub(crate) struct Tallies {
    by_registry: HashMap<String, Tally>,
    is_settled: bool,
    /// Namespaces with a Secret that is up to date, without one that should be, and the rest.
    pub(crate) namespaces: (usize, usize, usize),
}

impl Tallies {
    /// Counts. With `ignore_new`, namespaces that have never been judged are left out: while namespaces come and go there
    /// are always some.
    pub(crate) fn of(world: &World, ignore_new: bool) -> Self {
        /// Namespaces with the same registries that stand alike.
        struct Group {
            outcomes: Arc<[Outcome]>,
            state: Option<State>,
            count: usize,
            names: Vec<String>,
        }
        let mut groups: HashMap<(*const Outcome, usize, Option<State>), Group> = HashMap::new();
        let mut revisions: Vec<Option<u64>> = Vec::new();
        let mut tallies = Self::default();
        let revision = world.survey(|name, standing| {
            let judged_by = standing.map(|standing| standing.revision);
            if judged_by.is_none() && ignore_new {
                return;
            }
            if !revisions.contains(&judged_by) {
                revisions.push(judged_by);
            }
            let Some(Standing {
                outcomes,
                installers,
                state,
                ..
            }) = standing
            else {
                return;
            };
            for outcome in installers.iter() {
                // of two credentials for one host there is room for one, which is nobody's fault
                if let Stands::Failed(reason) = standing_of(outcome, *state)
                    && reason != Reason::LostToPriority
                {
                    let tally = tallies.by_registry.entry(outcome.registry.clone());
                    let left_out = outcome.left_out.iter().map(ToString::to_string);
                    tally.or_default().not_for_installers = Some((reason, left_out.collect()));
                }
            }
            match state {
                Some(State::Written) => tallies.namespaces.0 += 1,
                Some(State::Blocked(_)) => tallies.namespaces.1 += 1,
                Some(State::Empty) => {}
                Some(State::Held) | None => tallies.namespaces.2 += 1,
            }
            let group = groups
                .entry((outcomes.as_ptr(), outcomes.len(), *state))
                .or_insert_with(|| Group {
                    outcomes: Arc::clone(outcomes),
                    state: *state,
                    count: 0,
                    names: Vec::new(),
                });
            group.count += 1;
            if *state != Some(State::Written)
                || outcomes.iter().any(|o| o.reason != Reason::Available)
            {
                keep_first(&mut group.names, [name.to_owned()]);
            }
        });
        tallies.is_settled = revisions
            .iter()
            .all(|judged_by| *judged_by == Some(revision));
        for group in groups.into_values() {
            for outcome in group.outcomes.iter() {
                let tally = match tallies.by_registry.get_mut(&outcome.registry) {
                    Some(tally) => tally,
                    None => tallies
                        .by_registry
                        .entry(outcome.registry.clone())
                        .or_default(),
                };
                tally.selected += group.count;
                match standing_of(outcome, group.state) {
                    Stands::Synced => tally.synced += group.count,
                    Stands::Waiting => {}
                    Stands::Failed(reason) => {
                        let failed = tally.failed.entry(reason).or_default();
                        failed.count += group.count;
                        keep_first(&mut failed.names, group.names.iter().cloned());
                        let left_out = outcome.left_out.iter().map(ToString::to_string);
                        failed.left_out.extend(left_out);
                    }
                }
            }
        }
        tallies
    }

    /// Whether every namespace has been judged by the rules in force.
    pub(crate) fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// Of one registry.
    pub(crate) fn get(&self, registry: &str) -> Tally {
        Tally {
            is_settled: self.is_settled,
            ..self.by_registry.get(registry).cloned().unwrap_or_default()
        }
    }
}

enum Stands {
    Synced,
    Waiting,
    Failed(Reason),
}

fn standing_of(outcome: &Outcome, state: Option<State>) -> Stands {
    match (outcome.reason, state) {
        (Reason::Available, Some(State::Written)) | (Reason::HeldByNamespace, _) => Stands::Synced,
        (Reason::Available, Some(State::Blocked(reason))) => Stands::Failed(reason),
        (Reason::Available, Some(State::Held | State::Empty) | None) => Stands::Waiting,
        (reason @ (Reason::LostToPriority | Reason::TooLarge), _) => Stands::Failed(reason),
        // the credential itself is missing, which is told once and not for each namespace
        _ => Stands::Waiting,
    }
}

#[cfg(test)]
mod tests {
    use pullpass_daemon::Change;

    use super::*;
    use crate::world::sample::{credential, settled, team_a};

    #[test]
    fn namespaces_are_counted_when_they_were_judged_by_the_rules_in_force() {
        let world = settled();
        assert!(!Tallies::of(&world, false).is_settled());
        assert!(Tallies::of(&world, true).is_settled());
        let (rules, _) = world.place("team-a");
        let (_, rendered) = rules.desired(&team_a(), None, None);
        let standing = |state| Standing {
            installers: Arc::new([]),
            revision: rules.revision,
            outcomes: Arc::clone(&rendered.as_ref().unwrap().outcomes),
            state: Some(state),
        };
        world.stands("team-a", standing(State::Written));
        let tallies = Tallies::of(&world, false);
        assert!(tallies.is_settled());
        assert_eq!(
            (tallies.get("acme").selected, tallies.get("acme").synced),
            (1, 1)
        );

        world.stands("team-a", standing(State::Blocked(Reason::ForeignSecret)));
        let tally = Tallies::of(&world, false).get("acme");
        assert_eq!(
            tally.failed,
            BTreeMap::from([(
                Reason::ForeignSecret,
                Failed {
                    count: 1,
                    names: vec!["team-a".to_owned()],
                    ..Failed::default()
                }
            )])
        );

        world.secrets_changed(Change::Applied(credential("r-1", "dTpwMg==")));
        world.publish();
        assert!(!Tallies::of(&world, true).is_settled());
    }
}
