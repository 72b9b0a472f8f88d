use serde_json::{Value, json};

use super::*;
use crate::manifest::{self, FIELD_MANAGER};
use crate::observed::Version;
use crate::plan::Desired;
use crate::status::{Failed, Tallies};

fn world() -> World {
    World::new(Settings {
        namespace: "pullpass-system".into(),
        pull_secret_name: "pullpass".into(),
        ..Settings::default()
    })
}

fn registry(uid: &str, changes: Value) -> Registry {
    let mut object = json!({
        "apiVersion": "pullpass.dev/v1alpha1", "kind": "Registry",
        "metadata": {"name": "acme", "uid": uid, "generation": 1},
        "spec": {
            "host": "r.example.com",
            "auth": {"basic": {"secretRef": {"name": "source"}}},
            "access": {"namespaces": {"include": ["team-*"]}},
        },
    });
    for (pointer, value) in changes.as_object().into_iter().flatten() {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[key] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

#[test]
fn the_answer_to_a_written_status_takes_nothing_back() {
    let world = world();
    let at = |uid: &str, version: &str, priority: u64| {
        registry(
            uid,
            json!({"/metadata/resourceVersion": version, "/spec/priority": priority}),
        )
    };
    let known = || world.registry("acme").unwrap().0;
    let before = at("a", "1", 0);
    world.registries_changed(Change::Applied(before.clone()));
    world.wrote_status(&before, at("a", "2", 0));
    let version = known().object.metadata.resource_version.clone();
    assert_eq!(version.as_deref(), Some("2"));

    // the watch was quicker to tell of a change
    let before = at("a", "2", 0);
    world.registries_changed(Change::Applied(at("a", "4", 7)));
    world.wrote_status(&before, at("a", "3", 0));
    assert_eq!(known().object.spec.priority, 7);

    // and of another Registry of that name
    let before = at("a", "4", 7);
    world.registries_changed(Change::Deleted(before.clone()));
    world.wrote_status(&before, at("a", "5", 7));
    assert!(known().gone_since.is_some());
    world.registries_changed(Change::Applied(at("b", "7", 0)));
    world.wrote_status(&before, at("a", "5", 7));
    assert_eq!(known().object.metadata.uid.as_deref(), Some("b"));
}

fn credential(owner: &str, auth: &str) -> Secret {
    serde_json::from_value(json!({
        "metadata": {
            "name": "pullpass-credential-acme", "uid": "c", "resourceVersion": "1",
            "labels": {"pullpass.dev/registry": "acme"},
            "ownerReferences": [{"apiVersion": "pullpass.dev/v1alpha1", "kind": "Registry", "name": "acme", "uid": owner}],
        },
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": k8s_openapi::ByteString(
            format!(r#"{{"auths":{{"r.example.com":{{"auth":"{auth}"}}}}}}"#).into_bytes(),
        )},
    }))
    .unwrap()
}

fn copy(uid: &str, resource_version: u64, labels: Value) -> Copy {
    Copy::observe(
        serde_json::from_value(json!({
            "metadata": {
                "name": "pullpass", "namespace": "team-a",
                "uid": uid, "resourceVersion": resource_version.to_string(),
                "labels": labels,
                "managedFields": [{"manager": FIELD_MANAGER, "operation": "Apply"}],
            },
            "type": "kubernetes.io/dockerconfigjson",
        }))
        .unwrap(),
    )
}

fn ours(uid: &str, resource_version: u64) -> Copy {
    copy(uid, resource_version, json!(manifest::copy_labels()))
}

fn team_a() -> Namespace {
    Namespace {
        name: "team-a".into(),
        ..Namespace::default()
    }
}

/// A world with a Registry whose credential is known, and a namespace that it selects.
fn settled() -> World {
    let world = world();
    world.registries_changed(Change::Restarted(vec![registry("r-1", json!({}))]));
    world.secrets_changed(Change::Restarted(vec![credential("r-1", "dTpw")]));
    world.namespaces_changed(Change::Restarted(vec![team_a()]));
    let object = Arc::clone(&world.registry("acme").unwrap().0.object);
    world.judge("acme", &object, Verdict::Good.into());
    world
}

fn desired(world: &World) -> Desired {
    let (rules, place) = world.place("team-a");
    let place = place.unwrap();
    let told = place.access.as_ref().map(|access| &access.content);
    rules
        .desired(place.namespace.as_ref().unwrap(), place.copy.as_ref(), told)
        .0
}

fn is_delivered(world: &World) -> bool {
    matches!(desired(world), Desired::Delivery { content: Ok(_), .. })
}

fn seen(world: &World) -> Option<Copy> {
    world.place("team-a").1.and_then(|place| place.copy)
}

#[test]
fn a_deleted_registry_counts_until_it_is_believed() {
    let world = settled();
    world.registries_changed(Change::Deleted(registry("r-1", json!({}))));
    world.publish();
    assert!(is_delivered(&world));
    world.forget_registry("acme");
    assert_eq!(desired(&world), Desired::Nothing);
    // a list without it says the same
    let world = settled();
    world.registries_changed(Change::Restarted(Vec::new()));
    world.publish();
    assert!(is_delivered(&world));
    assert!(world.registry("acme").unwrap().0.gone_since.is_some());
}

#[test]
fn a_registry_that_is_back_is_not_forgotten() {
    let world = settled();
    world.registries_changed(Change::Deleted(registry("r-1", json!({}))));
    world.registries_changed(Change::Applied(registry("r-2", json!({}))));
    world.forget_registry("acme");
    let (known, last_good) = world.registry("acme").unwrap();
    assert_eq!(known.verdict.1, Verdict::Pending);
    // what was kept for the one before is not for this one
    assert!(last_good.is_none());
}

#[test]
fn a_lost_credential_stays_in_use() {
    let world = settled();
    world.secrets_changed(Change::Deleted(credential("r-1", "dTpw")));
    world.publish();
    assert!(is_delivered(&world));
    assert!(!world.registry("acme").unwrap().1.unwrap().is_stored);
    // damaged is as good as gone
    let world = settled();
    world.secrets_changed(Change::Applied(credential("r-1", "nonsense")));
    world.publish();
    assert!(is_delivered(&world));
    assert!(!world.registry("acme").unwrap().1.unwrap().is_stored);
}

#[test]
fn a_registry_that_came_to_contradict_itself_selects_what_it_did() {
    let world = settled();
    let broken = registry(
        "r-1",
        json!({"/spec/host": "r.example.com:99999", "/metadata/generation": 2}),
    );
    world.registries_changed(Change::Applied(broken));
    world.publish();
    assert!(is_delivered(&world));
}

#[test]
fn only_what_matters_makes_new_rules() {
    let world = settled();
    let revision = world.place("team-a").0.revision;
    let with_status = registry("r-1", json!({"/status": {"observedGeneration": 1}}));
    world.registries_changed(Change::Applied(with_status));
    world.secrets_changed(Change::Applied(credential("r-1", "dTpw")));
    world.publish();
    assert_eq!(world.place("team-a").0.revision, revision);
    world.secrets_changed(Change::Applied(credential("r-1", "dTpwMg==")));
    world.publish();
    assert_eq!(world.place("team-a").0.revision, revision + 1);
}

#[test]
fn a_copy_whose_labels_were_taken_off_is_still_ours() {
    let world = settled();
    world.copies_changed(Change::Applied(("team-a".into(), ours("u", 1))));
    world.copies_changed(Change::Applied(("team-a".into(), copy("u", 2, json!({})))));
    let stripped = seen(&world).unwrap();
    assert!(stripped.ours && !stripped.labelled);
    // another object of that name is somebody else's
    world.copies_changed(Change::Applied(("team-a".into(), copy("v", 3, json!({})))));
    assert!(!seen(&world).unwrap().ours);
}

#[test]
fn what_was_written_is_not_undone_by_older_news() {
    let world = settled();
    world.wrote_copy("team-a", Some(ours("u", 5)));
    world.copies_changed(Change::Applied(("team-a".into(), ours("u", 4))));
    assert_eq!(
        seen(&world).unwrap().version,
        Version {
            uid: "u".into(),
            resource_version: "5".into()
        }
    );
    // the deletion of the one before says nothing of this one
    world.copies_changed(Change::Deleted(("team-a".into(), ours("t", 3))));
    assert!(seen(&world).is_some());
    world.copies_changed(Change::Deleted(("team-a".into(), ours("u", 6))));
    assert!(seen(&world).is_none());
}

#[test]
fn a_namespace_that_is_gone_leaves_nothing_behind() {
    let world = settled();
    world.copies_changed(Change::Applied(("team-a".into(), ours("u", 1))));
    world.namespaces_changed(Change::Deleted(team_a()));
    world.copies_changed(Change::Deleted(("team-a".into(), ours("u", 2))));
    assert!(world.place("team-a").1.is_none());
}

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
