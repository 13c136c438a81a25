//! The promises that hold for both carriers, as one table of tests.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;
use tokio::runtime::Runtime;

use super::memory::MemoryLog;
use super::sqlite::SqliteLog;
use super::*;

trait Carrier: EventLog + StateStore + 'static {}
impl<T: EventLog + StateStore + 'static> Carrier for T {}

macro_rules! on_both_carriers {
    ($($name:ident),* $(,)?) => {
        mod in_memory {
            $(#[tokio::test]
            async fn $name() {
                super::$name(&super::MemoryLog::default()).await;
            })*
        }
        mod on_disk {
            $(#[tokio::test]
            async fn $name() {
                let dir = tempfile::tempdir().unwrap();
                super::$name(&*super::SqliteLog::open(dir.path()).unwrap()).await;
            })*
        }
    };
}

on_both_carriers! {
    an_append_is_numbered_and_read_back,
    an_append_is_all_or_nothing,
    nothing_to_append_is_refused,
    reads_page_and_limits_are_cut,
    the_tip_follows_appends,
    a_record_is_what_the_last_event_left,
    records_are_listed_newest_first,
    large_payloads_are_blobs_and_resolve,
    a_forged_reference_resolves_to_itself,
    state_is_kept_by_project_and_plugin,
    state_keys_are_found_by_prefix,
    state_has_a_quota,
}

fn event(body: impl Serialize) -> NewEvent {
    NewEvent {
        kind: "test.event",
        call: None,
        body: Body::Json(Json::of(&body).unwrap()),
        record: None,
    }
}

fn record(id: &str, project: &str, state: &str) -> Record {
    let body = Json::from(serde_json::json!({ "state": state }));
    Record {
        noun: Noun::Run,
        id: id.into(),
        project: project.into(),
        state: state.to_owned(),
        body,
    }
}

async fn add(log: &impl EventLog, run: &str, events: Vec<NewEvent>) -> Result<Receipt> {
    log.append(Append {
        run: run.into(),
        expected_seq: None,
        events,
    })
    .await?
    .durable()
    .await
}

async fn an_append_is_numbered_and_read_back(log: &impl Carrier) {
    let call = Uuid::now_v7();
    let before = wall_clock();
    let first = NewEvent {
        call: Some(call),
        ..event("one")
    };
    let receipt = add(log, "a", vec![first, event("two")]).await.unwrap();
    assert_eq!((receipt.seq, receipt.cursor), (2, Cursor(2)));
    let receipt = add(log, "b", vec![event("three")]).await.unwrap();
    assert_eq!((receipt.seq, receipt.cursor), (1, Cursor(3)));

    let read = log.read("a", 0, 10).await.unwrap();
    let [one, two] = read.as_slice() else {
        panic!("two events, not {read:?}")
    };
    assert_eq!(
        (&*one.run, one.seq, one.cursor, one.call),
        ("a", 1, Cursor(1), Some(call))
    );
    assert_eq!(
        (&*two.kind, two.seq, two.cursor, two.call),
        ("test.event", 2, Cursor(2), None)
    );
    assert_eq!((one.body.as_str(), two.body.as_str()), (r#""one""#, r#""two""#));
    assert!(before <= one.at && one.at <= two.at && two.at <= wall_clock());
    assert!(log.read("nobody", 0, 10).await.unwrap().is_empty());
}

async fn an_append_is_all_or_nothing(log: &impl Carrier) {
    add(log, "a", vec![event(1)]).await.unwrap();
    let mut append = Append::one(
        "a",
        NewEvent {
            record: Some(record("r", "p", "running")),
            ..event(2)
        },
    );
    append.events.push(event(3));
    append.expected_seq = Some(0);
    let error = log.append(append.clone()).await.unwrap().durable().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert_eq!(
        error.message,
        "stream `a` ends at 1, not at 0: read what was added, then append again"
    );
    assert_eq!(log.read("a", 0, 10).await.unwrap().len(), 1);
    assert!(log.record(Noun::Run, "r").await.unwrap().is_none());
    append.expected_seq = Some(1);
    assert_eq!(log.append(append).await.unwrap().durable().await.unwrap().seq, 3);
    let unused = Append {
        run: "new".into(),
        expected_seq: Some(0),
        events: vec![event(1)],
    };
    assert_eq!(log.append(unused).await.unwrap().durable().await.unwrap().seq, 1);
}

async fn nothing_to_append_is_refused(log: &impl Carrier) {
    let nothing = Append {
        run: "a".into(),
        expected_seq: None,
        events: Vec::new(),
    };
    let error = log.append(nothing).await.unwrap_err();
    assert_eq!(
        error.message,
        "nothing to append to stream `a`: give at least one event"
    );
}

async fn reads_page_and_limits_are_cut(log: &impl Carrier) {
    add(log, "a", (0..READ_LIMIT + 1).map(event).collect()).await.unwrap();
    add(log, "b", vec![event("b")]).await.unwrap();
    assert_eq!(log.read("a", 0, usize::MAX).await.unwrap().len(), READ_LIMIT);
    assert_eq!(log.feed(Cursor(0), usize::MAX).await.unwrap().len(), READ_LIMIT);
    let end = u64::try_from(READ_LIMIT).unwrap() + 2;
    let latest = log.latest(usize::MAX).await.unwrap();
    assert_eq!(
        (latest.len(), latest[0].cursor, latest[READ_LIMIT - 1].cursor),
        (READ_LIMIT, Cursor(3), Cursor(end))
    );

    let cursors = |events: Vec<Event>| events.iter().map(|event| event.cursor.0).collect::<Vec<_>>();
    assert_eq!(cursors(log.read("a", 3, 2).await.unwrap()), [4, 5]);
    assert_eq!(cursors(log.feed(Cursor(end - 3), 2).await.unwrap()), [end - 2, end - 1]);
    assert_eq!(cursors(log.latest(2).await.unwrap()), [end - 1, end]);
    assert!(log.latest(0).await.unwrap().is_empty());
    for after in [end, u64::MAX] {
        assert!(log.feed(Cursor(after), 9).await.unwrap().is_empty());
        assert!(log.read("a", after, 9).await.unwrap().is_empty());
    }
}

async fn the_tip_follows_appends(log: &impl Carrier) {
    let mut tip = log.tip();
    assert_eq!(*tip.borrow_and_update(), Cursor(0));
    let ticket = log.append(Append::one(HUB, event(1))).await.unwrap();
    tip.changed().await.unwrap();
    assert_eq!(*tip.borrow_and_update(), Cursor(1));
    assert_eq!(log.feed(Cursor(0), 9).await.unwrap().len(), 1);
    assert_eq!(ticket.durable().await.unwrap().cursor, Cursor(1));
    assert!(!tip.has_changed().unwrap());
}

async fn a_record_is_what_the_last_event_left(log: &impl Carrier) {
    let with = |state: &str| NewEvent {
        record: Some(record("r", "p", state)),
        ..event(state)
    };
    add(log, "r", vec![with("accepted"), with("starting")]).await.unwrap();
    add(log, "r", vec![with("running"), event("no record")]).await.unwrap();
    let found = log.record(Noun::Run, "r").await.unwrap().unwrap();
    assert_eq!(
        (found.noun, &*found.id, &*found.project, &*found.state),
        (Noun::Run, "r", "p", "running")
    );
    assert_eq!(found.body.as_str(), r#"{"state":"running"}"#);
    assert!(log.record(Noun::Thread, "r").await.unwrap().is_none());
    assert!(log.record(Noun::Run, "s").await.unwrap().is_none());
}

async fn records_are_listed_newest_first(log: &impl Carrier) {
    for (id, project, state) in [
        ("1", "p", "running"),
        ("2", "p", "failed"),
        ("3", "q", "running"),
        ("4", "p", "waiting"),
        ("1", "p", "waiting"),
    ] {
        add(
            log,
            id,
            vec![NewEvent {
                record: Some(record(id, project, state)),
                ..event(state)
            }],
        )
        .await
        .unwrap();
    }
    let list = async |project: Option<&str>, states: &[&str], limit| {
        let states = states.iter().map(|state| (*state).to_owned()).collect();
        let query = RecordQuery {
            noun: Noun::Run,
            project: project.map(Into::into),
            states,
            limit,
        };
        let found = log.records(query).await.unwrap();
        found
            .iter()
            .map(|record| record.id.to_string())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(list(None, &[], 9).await, "1 4 3 2");
    assert_eq!(list(None, &[], 2).await, "1 4");
    assert_eq!(list(Some("p"), &[], 9).await, "1 4 2");
    assert_eq!(list(Some("p"), &["waiting", "running"], 9).await, "1 4");
    assert_eq!(list(None, &["running"], 9).await, "3");
    assert_eq!(list(Some("nobody"), &[], 9).await, "");
    let threads = RecordQuery {
        noun: Noun::Thread,
        project: None,
        states: Vec::new(),
        limit: 9,
    };
    assert!(log.records(threads).await.unwrap().is_empty());
}

async fn large_payloads_are_blobs_and_resolve(log: &impl Carrier) {
    let large = Json::of(&"x".repeat(BLOB_FROM)).unwrap();
    add(log, "a", vec![event("small"), event(&large), event(&large)])
        .await
        .unwrap();
    let read = log.read("a", 0, 9).await.unwrap();
    let reference = read[1].body.clone();
    assert!(reference.as_str().starts_with(r#"{"$blob":"sha256:"#), "{reference:?}");
    assert!(
        reference
            .as_str()
            .ends_with(&format!(r#","bytes":{}}}"#, BLOB_FROM + 2)),
        "{reference:?}"
    );
    assert_eq!(read[2].body, reference);
    assert_eq!(resolve(log, reference).await.unwrap(), large);
    assert_eq!(resolve(log, read[0].body.clone()).await.unwrap().as_str(), r#""small""#);

    let unknown = format!("sha256:{}", "0".repeat(64));
    let error = log.blob(&unknown).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert_eq!(
        error.message,
        format!("this log keeps no payload `{unknown}`; digests read sha256:<hex>")
    );
}

async fn a_forged_reference_resolves_to_itself(log: &impl Carrier) {
    let secret = Json::of(&"s".repeat(BLOB_FROM)).unwrap();
    add(log, "a", vec![event(&secret)]).await.unwrap();
    let stolen = log.read("a", 0, 1).await.unwrap()[0].body.clone();
    add(log, "b", vec![event(&stolen)]).await.unwrap();
    let read = log.read("b", 0, 1).await.unwrap()[0].body.clone();
    assert_eq!(resolve(log, read).await.unwrap(), stolen);
}

async fn state_is_kept_by_project_and_plugin(log: &impl Carrier) {
    let value = |text: &str| Some(text.to_owned());
    log.set("p", "one", "key", value("1"), 100).await.unwrap();
    log.set("p", "two", "key", value("2"), 100).await.unwrap();
    log.set("q", "one", "key", value("3"), 100).await.unwrap();
    log.set("p", "one", "key", value("nul \0, ünïcode"), 100).await.unwrap();
    assert_eq!(log.get("p", "one", "key").await.unwrap(), value("nul \0, ünïcode"));
    assert_eq!(log.get("p", "two", "key").await.unwrap(), value("2"));
    assert_eq!(log.get("q", "one", "key").await.unwrap(), value("3"));
    log.set("p", "one", "key", None, 100).await.unwrap();
    log.set("p", "one", "never set", None, 100).await.unwrap();
    assert_eq!(log.get("p", "one", "key").await.unwrap(), None);
    assert_eq!(log.get("p", "two", "key").await.unwrap(), value("2"));
}

async fn state_keys_are_found_by_prefix(log: &impl Carrier) {
    for key in ["b", "ab", "a", "aß", "a%", "a_", "A", ""] {
        log.set("p", "one", key, Some(String::new()), 100).await.unwrap();
    }
    log.set("p", "two", "ac", Some(String::new()), 100).await.unwrap();
    assert_eq!(log.keys("p", "one", "a").await.unwrap(), ["a", "a%", "a_", "ab", "aß"]);
    assert_eq!(
        log.keys("p", "one", "").await.unwrap(),
        ["", "A", "a", "a%", "a_", "ab", "aß", "b"]
    );
    assert!(log.keys("p", "one", "c").await.unwrap().is_empty());
    assert!(log.keys("nobody", "one", "").await.unwrap().is_empty());
    let names: Vec<String> = (0..=KEYS_LIMIT).map(|number| number.to_string()).collect();
    let sets = names
        .iter()
        .map(|name| log.set("p", "many", name, Some(String::new()), 1 << 20));
    futures::future::try_join_all(sets).await.unwrap();
    assert_eq!(log.keys("p", "many", "").await.unwrap().len(), KEYS_LIMIT);
}

async fn state_has_a_quota(log: &impl Carrier) {
    let set = async |key: &str, bytes: usize, quota| log.set("p", "cache", key, Some("x".repeat(bytes)), quota).await;
    set("a", 9, 20).await.unwrap();
    set("b", 9, 20).await.unwrap();
    let error = set("c", 0, 20).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Limit);
    assert_eq!(
        error.message,
        "plugin `cache` wants to keep 21 bytes of state and its quota is 20: let it remove keys, or raise `state` in \
         its limits"
    );
    assert_eq!(log.get("p", "cache", "c").await.unwrap(), None);
    set("a", 9, 20).await.unwrap();
    assert_eq!(set("a", 10, 20).await.unwrap_err().kind, ErrorKind::Limit);
    // A quota that was lowered lets the store shrink.
    set("a", 5, 10).await.unwrap();
    log.set("p", "cache", "b", None, 0).await.unwrap();
    set("c", 3, 10).await.unwrap();
    assert_eq!(set("c", 4, 10).await.unwrap_err().kind, ErrorKind::Limit);
    log.set("q", "cache", "d", Some("x".repeat(9)), 10).await.unwrap();
}

/// One append of a generated interleaving.
#[derive(Clone, Debug)]
struct Step {
    stream: u8,
    events: usize,
    /// Expects a place where no stream can be.
    refused: bool,
}

fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let step = (0..3u8, 1..4usize, prop::bool::weighted(0.2)).prop_map(|(stream, events, refused)| Step {
        stream,
        events,
        refused,
    });
    prop::collection::vec(prop::collection::vec(step, 0..12), 1..5)
}

/// Several tasks append at the same time; whatever comes out of it is one order without gaps, the same in every view.
async fn check_interleaving(log: Arc<impl Carrier>, tasks: Vec<Vec<Step>>) {
    let mut wanted: HashMap<String, usize> = HashMap::new();
    for step in tasks.iter().flatten().filter(|step| !step.refused) {
        *wanted.entry(step.stream.to_string()).or_default() += step.events;
    }
    let tasks = tasks.into_iter().map(|steps| {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            let mut tickets = Vec::new();
            for Step {
                stream,
                events,
                refused,
            } in steps
            {
                let run: Arc<str> = stream.to_string().into();
                let expected_seq = refused.then_some(u64::MAX);
                let append = Append {
                    run: Arc::clone(&run),
                    expected_seq,
                    events: (0..events).map(event).collect(),
                };
                tickets.push((run, events, refused, log.append(append).await.unwrap()));
            }
            for (run, events, refused, ticket) in tickets {
                let receipt = ticket.durable().await;
                assert_eq!(receipt.is_err(), refused);
                let Ok(receipt) = receipt else { continue };
                let first = receipt.seq - u64::try_from(events).unwrap();
                let read = log.read(&run, first, events).await.unwrap();
                let bodies: Vec<String> = read.iter().map(|event| event.body.as_str().to_owned()).collect();
                assert_eq!(bodies, (0..events).map(|number| number.to_string()).collect::<Vec<_>>());
                assert_eq!(read.last().map(|event| event.cursor), Some(receipt.cursor));
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let feed = log.feed(Cursor::default(), READ_LIMIT).await.unwrap();
    assert!(feed.is_sorted_by(|one, next| one.cursor < next.cursor));
    assert_eq!(feed.last().map_or(Cursor(0), |event| event.cursor), *log.tip().borrow());
    assert_eq!(feed.len(), wanted.values().sum::<usize>());
    for (run, count) in wanted {
        let fed: Vec<u64> = feed
            .iter()
            .filter(|event| *event.run == *run)
            .map(|event| event.seq)
            .collect();
        let read: Vec<u64> = log
            .read(&run, 0, READ_LIMIT)
            .await
            .unwrap()
            .iter()
            .map(|event| event.seq)
            .collect();
        assert_eq!(fed, (1..=u64::try_from(count).unwrap()).collect::<Vec<_>>());
        assert_eq!(fed, read);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_interleaving_is_one_order_without_gaps(tasks in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let log = SqliteLog::open(dir.path()).unwrap();
        runtime.block_on(check_interleaving(log, tasks.clone()));
        runtime.block_on(check_interleaving(Arc::new(MemoryLog::default()), tasks));
    }
}
