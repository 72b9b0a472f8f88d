use std::collections::BTreeMap;

use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::host::memory::{Failure, MemoryHost};
use pullpass_core::docker_config::Login;

/// More steps than any convergence takes.
const STEPS: usize = 80;

fn key(host: &str) -> RegistryKey {
    RegistryKey::parse(host).unwrap()
}

fn entries(of: &[(&str, &str)]) -> Entries {
    of.iter()
        .map(|(host, password)| {
            let login = Login::new("user".into(), (*password).into()).unwrap();
            (key(host), login)
        })
        .collect()
}

fn auth(password: &str) -> Value {
    let entries = entries(&[("h", password)]);
    let basic = entries.values().next().unwrap().basic();
    json!({"auth": basic.expose_secret()})
}

/// The docker config's entries.
fn auths(host: &MemoryHost) -> BTreeMap<String, Value> {
    let Some(content) = host.get(CONFIG) else {
        return BTreeMap::new();
    };
    let config: Value = serde_json::from_slice(&content).unwrap();
    serde_json::from_value(config.get("auths").cloned().unwrap_or(json!({}))).unwrap_or_default()
}

/// What another program does: it reads the file as a whole, and writes it as a whole.
fn rewrite(host: &MemoryHost, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    let mut all: Value = host.get(CONFIG).map_or(json!({}), |content| {
        serde_json::from_slice(&content).unwrap()
    });
    let auths = all
        .as_object_mut()
        .unwrap()
        .entry("auths")
        .or_insert(json!({}));
    if auths.is_null() {
        *auths = json!({});
    }
    change(auths.as_object_mut().unwrap());
    host.put(CONFIG, all.to_string().as_bytes(), 0o600);
}

/// What an administrator may have there before: text, permissions, and the hosts that it has entries for.
fn before() -> impl Strategy<Value = (Option<(String, u32)>, Vec<&'static str>)> {
    let auth =
        |host: &str| format!("{host:?}: {{\n \"auth\":\"YWRtaW46cA==\", \"email\": \"a@b\"}}");
    prop_oneof![
        Just((None, vec![])),
        Just((Some(("{}".to_owned(), 0o600)), vec![])),
        Just((Some(("{ \"auths\" :null}\n".to_owned(), 0o640)), vec![])),
        Just((
            Some((" {\"auths\":{ }, \"x\": 1.50}".to_owned(), 0o644)),
            vec![]
        )),
        Just((
            Some(("{\"credsStore\":\"a\\u0062\"\n}".to_owned(), 0o644)),
            vec![]
        )),
        Just((
            Some((
                format!(
                    "{{\n\t\"auths\": {{\n\t\t{},\n\t\t{}\n\t}},\n\t\"x\": [1.50E+3]\n}}\n",
                    auth("admin"),
                    auth("b")
                ),
                0o644
            )),
            vec!["admin", "b"]
        )),
        Just((
            Some((
                format!("{{\"AUTHS\":{{{}}}}}", auth("https://a/v1/")),
                0o600
            )),
            vec!["https://a/v1/"]
        )),
    ]
}

fn wanted() -> impl Strategy<Value = Entries> {
    let one = (
        prop::sample::select(vec!["a", "b", "c", "d/team"]),
        "[p-r]{1,2}",
    );
    prop::collection::vec(one, 0..4).prop_map(|of| {
        let of: Vec<(&str, &str)> = of
            .iter()
            .map(|(host, password)| (*host, password.as_str()))
            .collect();
        entries(&of)
    })
}

fn host(before: &Option<(String, u32)>) -> MemoryHost {
    let host = MemoryHost::default();
    if let Some((text, mode)) = before {
        host.put(CONFIG, text.as_bytes(), *mode);
    }
    host
}

/// The administrator's entries are there, and of ours those that are wanted and not the administrator's.
fn assert_holds(host: &MemoryHost, wanted: &Entries, foreign: &BTreeMap<String, Value>) {
    let mut expected = foreign.clone();
    for (key, login) in wanted {
        if !foreign
            .keys()
            .any(|host| RegistryKey::parse(host).as_ref() == Ok(key))
        {
            expected.insert(
                key.to_string(),
                json!({"auth": login.basic().expose_secret()}),
            );
        }
    }
    assert_eq!(auths(host), expected);
}

fn assert_as_before(host: &MemoryHost, before: &Option<(String, u32)>) {
    let text = host
        .get(CONFIG)
        .map(|content| String::from_utf8(content).unwrap());
    assert_eq!(text, before.as_ref().map(|(text, _)| text.clone()));
    assert_eq!(host.mode(CONFIG), before.as_ref().map(|(_, mode)| *mode));
    let expected: Vec<String> = before.iter().map(|_| CONFIG.to_owned()).collect();
    assert_eq!(host.names(), expected);
}

#[derive(Clone, Copy, Debug)]
enum End {
    Process,
    Power(usize),
    Error(io::ErrorKind),
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        Just(End::Process),
        (0usize..6).prop_map(End::Power),
        Just(End::Error(io::ErrorKind::StorageFull)),
        Just(End::Error(io::ErrorKind::ReadOnlyFilesystem)),
    ]
}

fn cut_short(host: &MemoryHost, wanted: &Entries, steps: usize, end: End) {
    host.fail_after(
        steps,
        match end {
            End::Process | End::Power(_) => Failure::Death,
            End::Error(kind) => Failure::Error(kind),
        },
    );
    let _ = converge(host, wanted);
    match end {
        End::Process | End::Error(_) => host.restart(),
        End::Power(kept) => host.lose_power(kept),
    }
}

proptest! {
    #[test]
    fn cut_anywhere_it_is_whole_at_once_and_right_in_the_end(
        (before, foreign) in before(), first in wanted(), second in wanted(),
        ends in prop::collection::vec((0..STEPS, end()), 1..4), exchanges in any::<bool>(),
    ) {
        let host = host(&before).exchanging(exchanges);
        let foreign_entries = auths(&host);
        prop_assert_eq!(foreign.len(), if foreign == ["https://a/v1/"] { 1 } else { foreign_entries.len() });
        converge(&host, &first).unwrap();
        for (steps, end) in ends {
            cut_short(&host, &second, steps, end);
            // whoever reads it now finds a whole file with every foreign entry
            let now = auths(&host);
            for (name, value) in &foreign_entries {
                prop_assert_eq!(now.get(name), Some(value));
            }
        }
        converge(&host, &second).unwrap();
        if foreign != ["https://a/v1/"] {
            assert_holds(&host, &second, &foreign_entries);
        }
        let repeated = converge(&host, &second).unwrap();
        prop_assert!(!repeated.changed, "a second look finds nothing to do");
        for (steps, end) in [(7, End::Process), (11, End::Power(1))] {
            cut_short(&host, &Entries::new(), steps, end);
        }
        converge(&host, &Entries::new()).unwrap();
        assert_as_before(&host, &before);
    }

    #[test]
    fn what_another_program_writes_meanwhile_is_never_lost(
        (before, _) in before(), first in wanted(), second in wanted(),
        read_at in 0..STEPS / 2, writes_after in 0usize..4, dies_after in prop::option::of(0..STEPS / 2),
        drops_ours in any::<bool>(),
    ) {
        prop_assume!(before.as_ref().is_none_or(|(text, _)| !text.contains("AUTHS")));
        let host = host(&before);
        let mut foreign = auths(&host);
        converge(&host, &first).unwrap();
        foreign.insert("added".into(), auth("x"));
        let others: Vec<String> = foreign.keys().cloned().collect();
        host.interfere_after(read_at, move |host| {
            // what it has read may be old by the time it writes
            let stale = MemoryHost::default();
            if let Some(content) = host.get(CONFIG) {
                stale.put(CONFIG, &content, 0o600);
            }
            rewrite(&stale, |auths| {
                if drops_ours {
                    auths.retain(|name, _| others.contains(name));
                }
                auths.insert("added".into(), auth("x"));
            });
            host.interfere_after(writes_after, move |host| {
                host.put(CONFIG, &stale.get(CONFIG).unwrap(), 0o600);
            });
        });
        if let Some(steps) = dies_after {
            cut_short(&host, &second, steps, End::Process);
        }
        for _ in 0..STEPS {
            // until the other program has done its part
            let _ = converge(&host, &second);
        }
        assert_holds(&host, &second, &foreign);
        converge(&host, &Entries::new()).unwrap();
        assert_eq!(auths(&host), foreign);
        prop_assert_eq!(host.names(), [CONFIG]);
    }

    #[test]
    fn it_is_total(
        config in "\\PC{0,30}", state in "\\PC{0,30}", leftover in "\\PC{0,30}", wanted in wanted(),
    ) {
        let host = MemoryHost::default();
        host.put(CONFIG, config.as_bytes(), 0o600);
        host.put(STATE, state.as_bytes(), 0o600);
        host.put(CONFIG_TEMPORARY, leftover.as_bytes(), 0o600);
        let _ = converge(&host, &wanted);
        prop_assert_eq!(host.get(CONFIG).unwrap(), config.as_bytes());
    }
}

#[test]
fn nothing_is_written_where_nothing_is_wanted() {
    let host = MemoryHost::default();
    assert_eq!(
        converge(&host, &Entries::new()).unwrap(),
        Converged::default()
    );
    assert!(host.names().is_empty());
}

#[test]
fn an_administrators_own_entry_has_precedence_and_is_told() {
    let host = MemoryHost::default();
    host.put(
        CONFIG,
        br#"{"auths":{"https://a/v2/":{"auth":"YTpi"}}}"#,
        0o600,
    );
    let wanted = entries(&[("a", "p"), ("b", "p")]);
    let converged = converge(&host, &wanted).unwrap();
    assert_eq!(converged.kept, [key("a")]);
    let now = auths(&host);
    assert_eq!(now["https://a/v2/"], json!({"auth": "YTpi"}));
    assert_eq!(now["b"], auth("p"));
    assert!(!now.contains_key("a"));
    // once it is gone, ours is put there
    rewrite(&host, |auths| drop(auths.remove("https://a/v2/")));
    assert!(converge(&host, &wanted).unwrap().kept.is_empty());
    assert_eq!(auths(&host)["a"], auth("p"));
}

#[test]
fn an_administrators_entry_with_the_same_login_is_as_good_and_stays() {
    let host = MemoryHost::default();
    let text = r#"{"auths":{"a":{"username":"user","password":"p"}}}"#;
    host.put(CONFIG, text.as_bytes(), 0o600);
    let converged = converge(&host, &entries(&[("a", "p")])).unwrap();
    assert_eq!(converged, Converged::default());
    converge(&host, &Entries::new()).unwrap();
    assert_eq!(host.get(CONFIG).unwrap(), text.as_bytes());
}

#[test]
fn an_entry_that_was_changed_is_an_administrators_from_then_on() {
    let host = MemoryHost::default();
    let wanted = entries(&[("a", "p")]);
    converge(&host, &wanted).unwrap();
    rewrite(&host, |auths| {
        drop(auths.insert("a".into(), auth("theirs")))
    });
    assert_eq!(converge(&host, &wanted).unwrap().kept, [key("a")]);
    assert_eq!(auths(&host)["a"], auth("theirs"));
    converge(&host, &Entries::new()).unwrap();
    assert_eq!(auths(&host)["a"], auth("theirs"));
}

#[test]
fn an_old_entry_of_ours_that_is_brought_back_is_ours() {
    let host = MemoryHost::default();
    converge(&host, &entries(&[("a", "old")])).unwrap();
    let copy = host.get(CONFIG).unwrap();
    let wanted = entries(&[("a", "new")]);
    converge(&host, &wanted).unwrap();
    host.put(CONFIG, &copy, 0o600);
    let converged = converge(&host, &wanted).unwrap();
    assert!(converged.changed && converged.kept.is_empty());
    assert_eq!(auths(&host)["a"], auth("new"));
}

#[test]
fn permissions_are_narrowed_and_given_back() {
    let host = MemoryHost::default();
    host.put(CONFIG, b"{}", 0o644);
    let wanted = entries(&[("a", "p")]);
    converge(&host, &wanted).unwrap();
    assert_eq!(host.mode(CONFIG), Some(0o600));
    assert_eq!(host.mode(STATE), Some(0o600));
    host.put(CONFIG, &host.get(CONFIG).unwrap(), 0o666);
    assert!(converge(&host, &wanted).unwrap().changed);
    assert_eq!(host.mode(CONFIG), Some(0o600));
    converge(&host, &Entries::new()).unwrap();
    assert_eq!(host.mode(CONFIG), Some(0o644));
}

#[test]
fn a_file_that_was_deleted_with_ours_in_it_does_not_come_back_at_the_end() {
    let host = MemoryHost::default();
    host.put(CONFIG, br#"{"auths":{"b":{}}}"#, 0o600);
    let wanted = entries(&[("a", "p")]);
    converge(&host, &wanted).unwrap();
    host.delete(CONFIG);
    converge(&host, &wanted).unwrap();
    assert_eq!(auths(&host).len(), 1);
    converge(&host, &Entries::new()).unwrap();
    assert!(host.names().is_empty());
}

#[test]
fn a_rotation_writes_the_state_and_the_config_once_each() {
    let host = MemoryHost::default();
    converge(&host, &entries(&[("a", "old")])).unwrap();
    let plan = plan(&entries(&[("a", "new")]), &observe(&host).unwrap()).unwrap();
    assert_eq!(
        format!("{:?}", plan.operations),
        "[WriteState, WriteConfig(0600)]"
    );
    carry_out(&host, &plan.operations).unwrap();
    let before = host.steps();
    assert!(!converge(&host, &entries(&[("a", "new")])).unwrap().changed);
    assert_eq!(host.steps() - before, 4, "a look at four files");
}

#[rstest]
#[case(CONFIG, Kind::SymbolicLink)]
#[case(CONFIG, Kind::Special)]
#[case(CONFIG, Kind::Directory)]
#[case(STATE, Kind::SymbolicLink)]
#[case(CONFIG_TEMPORARY, Kind::Directory)]
#[case(STATE_TEMPORARY, Kind::Directory)]
fn what_is_no_file_is_not_touched(#[case] path: &'static str, #[case] kind: Kind) {
    let host = MemoryHost::default();
    host.put_other(path, kind);
    let refused = converge(&host, &entries(&[("a", "p")])).unwrap_err();
    assert!(
        matches!(refused, ConvergeError::Refused(Refusal::NoFile { path: at, kind: of }) if at == path && of == kind),
        "{refused}"
    );
    assert_eq!(host.names(), [path]);
}

#[rstest]
#[case(CONFIG_TEMPORARY)]
#[case(STATE_TEMPORARY)]
fn a_link_in_the_place_of_a_leftover_is_removed_and_not_followed(#[case] path: &'static str) {
    let host = MemoryHost::default();
    host.put_other(path, Kind::SymbolicLink);
    converge(&host, &entries(&[("a", "p")])).unwrap();
    assert_eq!(host.names(), [STATE, CONFIG]);
}

#[rstest]
#[case("", Unusable::Json)]
#[case("null", Unusable::Json)]
#[case("{\"auths\":{}", Unusable::Json)]
#[case("\u{feff}{}", Unusable::Json)]
#[case("{\"auths\":{},\"Auths\":{}}", Unusable::TwoAuths)]
#[case("{\"auths\":[]}", Unusable::Auths)]
#[case("{\"auths\":{\"x\":{},\"y\":{\"auth\":\"no colon\"}}}", Unusable::Entry { entry: 2 })]
#[case("{\"auths\":{\"x\":{\"auth\":\"YQ==\"}}}", Unusable::Entry { entry: 1 })]
#[case("{\"auths\":{\"x\":{\"username\":1}}}", Unusable::Entry { entry: 1 })]
fn what_kubelet_cannot_read_is_left_alone_and_told(#[case] text: &str, #[case] why: Unusable) {
    let host = MemoryHost::default();
    host.put(CONFIG, text.as_bytes(), 0o600);
    let refused = converge(&host, &entries(&[("a", "p")])).unwrap_err();
    assert!(
        matches!(refused, ConvergeError::Refused(Refusal::Unusable(found)) if found == why),
        "{refused}"
    );
    assert_eq!(host.get(CONFIG).unwrap(), text.as_bytes());
    assert_eq!(host.names(), [CONFIG]);
}

#[test]
fn a_file_of_another_owner_is_left_alone() {
    let host = MemoryHost::default();
    host.put_foreign(CONFIG, b"{}");
    let refused = converge(&host, &entries(&[("a", "p")])).unwrap_err();
    assert!(
        matches!(refused, ConvergeError::Refused(Refusal::Owner(CONFIG))),
        "{refused}"
    );
}

#[test]
fn a_state_file_that_cannot_be_read_stops_everything() {
    let host = MemoryHost::default();
    converge(&host, &entries(&[("a", "p")])).unwrap();
    host.put(STATE, br#"{"version":2}"#, 0o600);
    let before = host.get(CONFIG);
    for wanted in [entries(&[("a", "q")]), Entries::new()] {
        let refused = converge(&host, &wanted).unwrap_err();
        assert!(
            matches!(refused, ConvergeError::Refused(Refusal::State)),
            "{refused}"
        );
    }
    assert_eq!(host.get(CONFIG), before);
}

#[test]
fn a_program_that_never_stops_writing_is_told() {
    let host = MemoryHost::default();
    for step in 0..1000 {
        host.interfere_after(step, move |host| {
            host.put(CONFIG, format!("{{\"n\":{step}}}").as_bytes(), 0o600);
        });
    }
    let failed = converge(&host, &entries(&[("a", "p")])).unwrap_err();
    assert!(matches!(failed, ConvergeError::Contested), "{failed}");
}

#[test]
fn nothing_of_a_credential_is_printed() {
    let host = MemoryHost::default();
    host.put(CONFIG, br#"{"auths":{"CANARY":{}}}"#, 0o600);
    let observed = observe(&host).unwrap();
    let plan = plan(&entries(&[("a", "CANARY")]), &observed).unwrap();
    let printed = format!("{plan:?} {observed:?}");
    let basic = auth("CANARY").to_string();
    assert!(
        !printed.contains("CANARY") && !printed.contains(&basic),
        "{printed}"
    );
}
