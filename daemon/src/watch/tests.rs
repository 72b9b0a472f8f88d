use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::scripted::{Exchange, ScriptedApi, Stream, failure};

struct Watched {
    api: ScriptedApi,
    changes: mpsc::UnboundedReceiver<Change<String>>,
    watches: Watches,
    freshness: Freshness,
    registry: Registry,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Watched {
    fn start() -> Self {
        let (client, api) = ScriptedApi::start();
        let registry = Registry::new();
        let watches = Watches::new(&registry).unwrap();
        let (sender, changes) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let (freshness, work) = watches
            .add(
                WatchSpec::new("things").labels("app=test"),
                &client,
                Api::<ConfigMap>::all,
                |object| {
                    format!(
                        "{}@{}",
                        object.name_any(),
                        object.resource_version().unwrap_or_default()
                    )
                },
                move |change| sender.send(change).unwrap(),
                stop.clone(),
            )
            .unwrap();
        let task = tokio::spawn(work);
        Self {
            api,
            changes,
            watches,
            freshness,
            registry,
            stop,
            task,
        }
    }

    async fn change(&mut self) -> Change<String> {
        tokio::time::timeout(Duration::from_secs(600), self.changes.recv())
            .await
            .expect("a change in time")
            .unwrap()
    }

    async fn list(&mut self) -> Exchange {
        let exchange = self.api.next().await;
        assert!(
            !exchange.is_watch(),
            "expected a list: {}",
            exchange.request.uri()
        );
        exchange
    }

    async fn watch(&mut self, from: &str) -> Exchange {
        let exchange = self.api.next().await;
        assert!(
            exchange.is_watch(),
            "expected a watch: {}",
            exchange.request.uri()
        );
        assert_eq!(exchange.query()["resourceVersion"], from);
        exchange
    }

    /// Lists one object, and grants the watch that follows.
    async fn synced() -> (Self, Stream) {
        let mut watched = Self::start();
        watched
            .list()
            .await
            .json(200, &list("10", &[object("a", "9")]));
        assert_eq!(watched.change().await, restarted(&["a@9"]));
        let stream = watched.watch("10").await.stream(200, &[]);
        (watched, stream)
    }

    fn no_change(&mut self) -> bool {
        self.changes.is_empty()
    }

    fn errors(&self, reason: &str) -> u64 {
        self.watches
            .errors
            .with_label_values(&["things", reason])
            .get()
    }
}

fn object(name: &str, version: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "resourceVersion": version}})
}

fn bookmark(version: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"resourceVersion": version}})
}

fn page(version: &str, items: &[Value], more: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMapList", "items": items,
        "metadata": {"resourceVersion": version, "continue": more},
    })
}

fn list(version: &str, items: &[Value]) -> Value {
    page(version, items, "")
}

fn restarted(names: &[&str]) -> Change<String> {
    Change::Restarted(names.iter().map(ToString::to_string).collect())
}

#[tokio::test(start_paused = true)]
async fn a_list_is_one_change_and_each_event_another() {
    let mut watched = Watched::start();
    assert!(!watched.freshness.is_synced());
    assert_eq!(watched.watches.unsynced(), ["things"]);

    let first = watched.list().await;
    let query = first.query();
    assert_eq!(query["limit"], "500");
    assert_eq!(query["labelSelector"], "app%3Dtest");
    assert!(!query.contains_key("sendInitialEvents"));
    first.json(
        200,
        &page("10", &[object("a", "1"), object("b", "2")], "next"),
    );
    let second = watched.list().await;
    assert_eq!(second.query()["continue"], "next");
    assert!(watched.no_change(), "half a list is none");
    second.json(200, &list("10", &[object("c", "3")]));
    assert_eq!(watched.change().await, restarted(&["a@1", "b@2", "c@3"]));
    watched.watches.synced().await;
    assert!(watched.freshness.is_synced());

    let watch = watched.watch("10").await;
    let query = watch.query();
    assert_eq!(query["timeoutSeconds"], "290");
    assert_eq!(query["allowWatchBookmarks"], "true");
    assert!(!query.contains_key("sendInitialEvents"));
    let stream = watch.stream(200, &[]);
    stream.event("ADDED", &object("d", "11"));
    stream.event("MODIFIED", &object("a", "12"));
    stream.event("DELETED", &object("b", "13"));
    assert_eq!(watched.change().await, Change::Applied("d@11".into()));
    assert_eq!(watched.change().await, Change::Applied("a@12".into()));
    assert_eq!(watched.change().await, Change::Deleted("b@13".into()));

    drop(stream);
    let again = watched.watch("13").await.stream(200, &[]);
    again.event("BOOKMARK", &bookmark("50"));
    drop(again);
    watched.watch("50").await.stream(200, &[]);
    assert!(watched.no_change());
    assert_eq!(
        watched.errors("connection"),
        0,
        "a watch that ends in time is no failure"
    );
}

#[tokio::test(start_paused = true)]
async fn an_expired_resource_version_leads_to_a_new_list() {
    let (mut watched, stream) = Watched::synced().await;
    stream.event("ERROR", &failure(410));
    watched
        .list()
        .await
        .json(200, &list("30", &[object("b", "29")]));
    assert_eq!(watched.change().await, restarted(&["b@29"]));

    // as a status of its own
    watched.watch("30").await.refuse(410);
    watched.list().await.json(200, &list("40", &[]));
    assert_eq!(watched.change().await, restarted(&[]));
    watched.watch("40").await.stream(200, &[]);
    assert_eq!(watched.errors("gone"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_missing_resource_is_not_an_empty_one() {
    let mut watched = Watched::start();
    for _ in 0..3 {
        watched.list().await.refuse(404);
    }
    assert!(!watched.freshness.is_synced());
    assert!(watched.no_change());
    watched
        .list()
        .await
        .json(200, &list("10", &[object("a", "9")]));
    assert_eq!(watched.change().await, restarted(&["a@9"]));
    assert!(watched.freshness.is_synced());

    // taken away again: first the watch ends, then nothing is found
    watched.watch("10").await.refuse(404);
    watched.list().await.refuse(404);
    let last = watched.list().await;
    assert!(watched.no_change(), "what is known stays");
    // a resource that is there once more has a history of its own
    last.json(200, &list("90", &[]));
    assert_eq!(watched.change().await, restarted(&[]));
    assert_eq!(watched.errors("not_found"), 5);
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_is_taken_up_where_it_broke() {
    let (mut watched, stream) = Watched::synced().await;
    stream.event("ADDED", &object("b", "11"));
    assert_eq!(watched.change().await, Change::Applied("b@11".into()));
    // an event that was cut off comes again
    stream.send("{\"type\":\"MODIFIED\",\"object\":{\"metadata\":{\"name\":\"b");
    stream.reset();
    let stream = watched.watch("11").await.stream(200, &[]);
    stream.event("MODIFIED", &object("b", "12"));
    assert_eq!(watched.change().await, Change::Applied("b@12".into()));
    stream.send("{\"type\":\"MODIFIED\",\"obj");
    drop(stream);
    let next = watched.watch("12").await;
    // reset before any answer
    drop(next);
    watched.watch("12").await.stream(200, &[]);
    assert!(watched.no_change());
}

#[tokio::test(start_paused = true)]
async fn an_event_that_cannot_be_read_is_not_passed_over() {
    let (mut watched, stream) = Watched::synced().await;
    stream.send("{\"type\":\"MODIFIED\",\"object\":{\"metadata\":17}}\n");
    stream.event("MODIFIED", &object("b", "12"));
    watched
        .list()
        .await
        .json(200, &list("20", &[object("a", "11"), object("b", "12")]));
    assert_eq!(watched.change().await, restarted(&["a@11", "b@12"]));
    assert_eq!(watched.errors("decode"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_half_open_watch_is_noticed() {
    let (mut watched, stream) = Watched::synced().await;
    let silent_since = Instant::now();
    let again = watched.watch("10").await;
    assert_eq!(
        silent_since.elapsed().as_secs(),
        WATCH_IDLE_TIMEOUT.as_secs()
    );
    assert!(stream.is_closed());
    assert!(watched.freshness.age() >= WATCH_IDLE_TIMEOUT);
    let stream = again.stream(200, &[]);
    stream.event("ADDED", &object("b", "11"));
    assert_eq!(watched.change().await, Change::Applied("b@11".into()));
    assert!(watched.freshness.age() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn bookmarks_keep_a_quiet_watch_fresh() {
    let (mut watched, stream) = Watched::synced().await;
    for minute in 0..4 {
        tokio::time::sleep(Duration::from_secs(60)).await;
        stream.event("BOOKMARK", &bookmark(&format!("{}", 100 + minute)));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(
            watched.freshness.age() <= Duration::from_secs(1),
            "{:?}",
            watched.freshness.age()
        );
    }
    assert!(watched.api.is_quiet(), "no new request was needed");
    assert!(watched.no_change());
    let text = String::from_utf8(crate::metrics::encode(&watched.registry).unwrap()).unwrap();
    assert!(
        text.contains("pullpass_watch_synced{watch=\"things\"} 1"),
        "{text}"
    );
    assert!(
        text.contains("pullpass_watch_last_contact_timestamp_seconds{watch=\"things\"} "),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_ages_and_is_asked_again() {
    let mut watched = Watched::start();
    let started = Instant::now();
    // no header
    let first = watched.list().await;
    let second = watched.list().await;
    assert!(started.elapsed() >= ANSWER_TIMEOUT);
    drop(first);
    // a header and half a body
    let stream = second.stream(200, &[]);
    stream.send("{\"items\":[");
    let third = watched.list().await;
    assert!(watched.freshness.age() >= BODY_IDLE_TIMEOUT);
    assert!(watched.no_change() && !watched.freshness.is_synced());
    let bound = Duration::from_secs(20);
    let silent = watched.watches.check_answered(bound).unwrap_err();
    assert!(silent.contains("things for 3"), "{silent}");
    third.json(200, &list("10", &[]));
    assert_eq!(watched.change().await, restarted(&[]));
    assert_eq!(watched.watches.check_answered(bound), Ok(()));
    assert_eq!(watched.errors("connection"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_no_is_not_silent_but_not_fresh_either() {
    let (mut watched, stream) = Watched::synced().await;
    drop(stream);
    watched.watch("10").await.refuse(403);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(120) {
        watched.list().await.refuse(403);
    }
    assert!(watched.freshness.age() >= Duration::from_secs(120));
    assert!(watched.freshness.unanswered() <= pauses::LONGEST * 2);
    assert_eq!(
        watched.watches.check_answered(Duration::from_secs(30)),
        Ok(())
    );
    assert_eq!(watched.watches.stalest().unwrap().0, "things");
    assert!(
        watched.freshness.is_synced() && watched.no_change(),
        "what is known stays"
    );
    assert!(watched.errors("refused") > 5);
}

#[tokio::test(start_paused = true)]
async fn failures_are_spaced_and_recovery_comes_within_half_a_minute() {
    let (mut watched, stream) = Watched::synced().await;
    drop(stream);
    let mut times = Vec::new();
    for status in [500, 429, 503, 500, 429, 500, 500, 500, 429, 500] {
        let attempt = watched.watch("10").await;
        times.push(Instant::now());
        attempt.refuse(status);
    }
    let waits: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits[0] >= pauses::FIRST, "{waits:?}");
    assert!(
        waits.iter().all(|wait| *wait < Duration::from_secs(20)),
        "{waits:?}"
    );
    assert!(waits[8] >= pauses::LONGEST, "{waits:?}");
    // an event ends the row
    let stream = watched.watch("10").await.stream(200, &[]);
    stream.event("ADDED", &object("b", "11"));
    assert_eq!(watched.change().await, Change::Applied("b@11".into()));
    stream.event("ERROR", &failure(500));
    let failed = Instant::now();
    drop(stream);
    watched.watch("11").await.stream(200, &[]);
    assert!(
        failed.elapsed() <= pauses::FIRST * 2 + Duration::from_millis(1),
        "{:?}",
        failed.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_name_is_taken_once_and_a_watch_ends_when_told() {
    let (watched, stream) = Watched::synced().await;
    let (client, _api) = ScriptedApi::start();
    let stop = CancellationToken::new();
    let taken = watched
        .watches
        .add(
            WatchSpec::new("things"),
            &client,
            Api::<ConfigMap>::all,
            |_| (),
            |_| (),
            stop,
        )
        .err()
        .expect("the name is taken");
    assert!(taken.to_string().contains("things"));
    watched.stop.cancel();
    watched.task.await.unwrap();
    assert!(stream.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_list_that_fails_half_way_leaves_nothing_behind() {
    for status in [410, 500] {
        let mut watched = Watched::start();
        watched
            .list()
            .await
            .json(200, &page("10", &[object("gone", "1")], "next"));
        watched.list().await.refuse(status);
        let again = watched.list().await;
        assert!(!again.query().contains_key("continue"));
        assert!(watched.no_change());
        again.json(200, &list("20", &[object("a", "2")]));
        assert_eq!(watched.change().await, restarted(&["a@2"]));
    }
}

/// Fails the watch until its pauses are the longest.
async fn worn_out(watched: &mut Watched) {
    for _ in 0..8 {
        watched.watch("10").await.refuse(500);
    }
}

const SOON: Duration = Duration::from_millis(1001);

#[tokio::test(start_paused = true)]
async fn an_api_server_that_has_forgotten_is_asked_for_a_list_soon() {
    let (mut watched, stream) = Watched::synced().await;
    drop(stream);
    worn_out(&mut watched).await;
    // it is back: the place is gone, nothing is wrong
    let stream = watched.watch("10").await.stream(200, &[]);
    stream.event("ERROR", &failure(410));
    let back = Instant::now();
    watched.list().await.json(200, &list("3", &[]));
    assert_eq!(watched.change().await, restarted(&[]));
    assert!(back.elapsed() <= SOON, "{:?}", back.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_failed_long_ago_lengthens_no_pause() {
    let (mut watched, stream) = Watched::synced().await;
    drop(stream);
    worn_out(&mut watched).await;
    let stream = watched.watch("10").await.stream(200, &[]);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(60)).await;
        stream.event("BOOKMARK", &bookmark("10"));
    }
    stream.reset();
    let broken = Instant::now();
    watched.watch("10").await.stream(200, &[]);
    assert!(broken.elapsed() <= SOON, "{:?}", broken.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_is_granted_to_one_watch_ends_the_pauses_of_the_others() {
    let (mut watched, stream) = Watched::synced().await;
    drop(stream);
    worn_out(&mut watched).await;
    let (client, mut other_api) = ScriptedApi::start();
    let (_other, work) = watched
        .watches
        .add(
            WatchSpec::new("others"),
            &client,
            Api::<ConfigMap>::all,
            |_| (),
            |_| (),
            watched.stop.clone(),
        )
        .unwrap();
    watched.watch("10").await.refuse(500);
    tokio::time::sleep(pauses::FIRST).await;
    let paused = Instant::now();
    tokio::spawn(work);
    other_api.next().await.json(200, &list("10", &[]));
    let again = watched.watch("10").await;
    assert!(paused.elapsed() <= SOON, "{:?}", paused.elapsed());

    // an API server that asks for a slower pace gets it
    again.refuse(429);
    let throttled = Instant::now();
    tokio::time::sleep(pauses::FIRST).await;
    let _stream = other_api.next().await.stream(200, &[]);
    drop(watched.watch("10").await);
    assert!(
        throttled.elapsed() >= pauses::LONGEST,
        "{:?}",
        throttled.elapsed()
    );
}
