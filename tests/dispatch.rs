//! The path of a call: who is asked, what is written down, and how it ends.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use waypost::call::{Call, Sink};
use waypost::capabilities::chat::Answer;
use waypost::log::{Cursor, Event};

use crate::harness::component::Text;
use crate::harness::{Open, Plugin, Project};
use crate::listed;

listed![
    each_target_answers_or_says_why,
    the_next_target_is_asked_only_when_that_does_no_harm,
    an_unknown_call_is_told_what_to_do,
    a_person_allows_or_refuses,
    an_unanswered_question_ends_with_its_call,
    a_read_is_one_row_and_an_effect_two,
    every_call_has_exactly_one_end,
    a_caller_who_goes_away_cancels_the_call,
    a_slow_reader_bounds_the_plugin_and_its_time_is_counted,
    a_dropped_reader_cancels_the_call,
    calls_beyond_the_places_wait_and_beyond_the_queue_are_refused,
    no_number_is_seen_before_its_row_is_on_disk,
];

/// A handler that answers `null` to anything.
fn null(id: &str) -> Plugin {
    Plugin::made_of(id, Text::handler().bytes()).serves(&["*"]).unrouted()
}

fn route(call: &str, rest: &str) -> String {
    format!("[[route]]\nmatch = {call:?}\n{rest}")
}

async fn each_target_answers_or_says_why() {
    let none = "nobody holds a claim on x:{} in project default; connect one that does";
    let no_local = "x:{} has no built-in handler; plugin `null` serves it: add to waypost.toml\n  [[route]]\n  match = \
                    \"x:{}\"\n  to = \"plugin:null\"";
    let rows: Vec<(&str, &str, Result<&str, String>)> = vec![
        ("plugin", "to = \"plugin:null\"", Ok("plugin:null")),
        (
            "unloaded",
            "to = \"plugin:other\"",
            Err("unavailable: plugin `other` is not loaded; loaded are: loop, null, replay, sandbox".to_owned()),
        ),
        (
            "connection",
            "to = \"connection:worker\"",
            Err("unavailable: connection:worker is not connected; start it and have it connect on /plugins".to_owned()),
        ),
        (
            "hub",
            "to = \"hub:far\"",
            Err("unavailable: no hub `far` is joined to this one: add a [[joined]] with its name".to_owned()),
        ),
        (
            "deny",
            "to = \"deny\"",
            Err("denied: x:deny is denied by the rules of this project".to_owned()),
        ),
        ("local", "to = \"local\"", Err(format!("not-found: {no_local}"))),
        ("proxy", "to = \"proxy\"", Err(format!("not-found: {no_local}"))),
        ("proxy-only", "to = \"proxy-only\"", Err(format!("unavailable: {none}"))),
        (
            "fallback",
            "to = \"connection:a\"\nfallback = [\"plugin:b\", \"plugin:null\", \"deny\"]",
            Ok("plugin:null"),
        ),
        (
            "open",
            "to = \"connection:a\"\nopen = true",
            Err(format!("not-found: {no_local}")),
        ),
        (
            "closed",
            "to = \"connection:a\"\nfallback = [\"hub:b\"]",
            Err("unavailable: x:closed was answered by no target of its rule (waypost.toml:{line}): connection:a: \
                 connection:a is not connected; start it and have it connect on /plugins; hub:b: no hub `b` is joined to \
                 this one: add a [[joined]] with its name"
                .to_owned()),
        ),
    ];
    let mut project = Project::new().plugin(&null("null"));
    for (action, rule, _) in &rows {
        project = project.toml(&route(&format!("x:{action}"), rule));
    }
    let open = project.open().await;
    let toml = std::fs::read_to_string(open.root().join("waypost.toml")).unwrap();
    for (action, rule, expected) in rows {
        let name = format!("x:{action}");
        let reply = open.call(&name, json!({})).await;
        let by = reply.by.as_ref().map(ToString::to_string);
        match expected {
            Ok(target) => assert_eq!(
                (reply.result.unwrap().as_str(), by.as_deref()),
                ("null", Some(target)),
                "{name}"
            ),
            Err(text) => {
                let text = text.replace("x:{}", &name);
                let at = toml.find(&format!("match = {name:?}\n{rule}")).unwrap();
                let text = text.replace("{line}", &toml[..at].lines().count().to_string());
                assert_eq!(reply.result.unwrap_err().to_string(), text, "{name}");
            }
        }
    }
}

async fn the_next_target_is_asked_only_when_that_does_no_harm() {
    let faulty = Plugin::of("faulty").serves(&["*"]).unrouted();
    let mut project = Project::new().plugin(&faulty).plugin(&null("null"));
    for effect in ["read", "inference", "idempotent", "non-idempotent"] {
        let rule = format!("effect = {effect:?}\nto = \"plugin:faulty\"\nfallback = [\"plugin:null\"]");
        project = project.toml(&route(effect, &rule));
    }
    let open = project.open().await;
    for (effect, end, moves_on) in [
        ("read", "unavailable", true),
        ("inference", "unavailable", true),
        ("idempotent", "unavailable", true),
        ("non-idempotent", "unavailable", true),
        ("read", "panic", true),
        ("inference", "panic", true),
        ("idempotent", "panic", false),
        ("non-idempotent", "panic", false),
        ("read", "error", false),
        ("non-idempotent", "error", false),
    ] {
        let reply = open.call(effect, json!(end)).await;
        assert_eq!(reply.result.is_ok(), moves_on, "{effect} {end}: {reply:?}");
    }
}

async fn an_unknown_call_is_told_what_to_do() {
    let open = Project::new().plugin(&Plugin::of("echo").unrouted()).open().await;
    assert_eq!(
        open.error("x:y", json!({})).await,
        "not-found: x:y has no built-in handler; load a plugin that serves it or connect a process that claims it; built in \
         are confirmationRequest, executeCommand, executeCommandRunUntilError, executeCommandRunUntilInterrupt, \
         executeCommandWithStream, fsEvent, getChatHistory, inference, narrative, notificationEvent, processFinished, processStarted, \
         processStoped, sendInterruptToTerminal, sendMessage, waitforReply"
    );
    assert_eq!(
        open.error("echo", json!({})).await,
        "not-found: echo has no built-in handler; plugin `echo` serves it: add to waypost.toml\n  [[route]]\n  match = \
         \"echo\"\n  to = \"plugin:echo\""
    );
}

async fn a_person_allows_or_refuses() {
    let rule = route("x", "to = \"ask\"\nfallback = [\"plugin:null\"]");
    let open = Project::new().toml(&rule).plugin(&null("null")).open().await;
    let asked = open.begin("x", json!({ "why": 1 })).await;
    let question = open.questions(1).await.remove(0);
    assert_eq!(
        question.text,
        "person:cli wants x {\"why\":1} — allow it? (rule waypost.toml:1)"
    );
    open.hub.desk.answer(question.id, Answer::plain("allow")).unwrap();
    assert_eq!(asked.await.unwrap().result.unwrap().as_str(), "null");

    let asked = open.begin("x", json!({})).await;
    let question = open.questions(1).await.remove(0);
    let answer = Answer {
        answer: "deny".to_owned(),
        feedback: Some("not on Fridays".to_owned()),
    };
    open.hub.desk.answer(question.id, answer).unwrap();
    let error = asked.await.unwrap().result.unwrap_err();
    assert_eq!(error.to_string(), "denied: a person refused x: not on Fridays");

    let approvals: Vec<Value> = bodies(&open, |event| &*event.kind == "approval.answered").await;
    let allowed: Vec<&Value> = approvals.iter().map(|body| &body["allowed"]).collect();
    assert_eq!(allowed, [true, false]);
}

async fn an_unanswered_question_ends_with_its_call() {
    let rule = route("x", "to = \"ask\"\nfallback = [\"plugin:null\"]\ntimeout = \"50ms\"");
    let open = Project::new().toml(&rule).plugin(&null("null")).open().await;
    let error = open.error("x", json!({})).await;
    assert!(error.starts_with("timeout: nobody answered x in time; "), "{error}");
    assert!(open.hub.desk.open().is_empty());
}

/// The bodies of the events that fit.
async fn bodies(open: &Open, fits: impl Fn(&Event) -> bool) -> Vec<Value> {
    open.events()
        .await
        .iter()
        .filter(|event| fits(event))
        .map(|event| event.body.to().unwrap())
        .collect()
}

/// The kinds of a call's events, in order, when it has ended.
async fn rows(open: &Open, call: &Call) -> Vec<String> {
    open.event(|event| event.call == Some(call.id) && &*event.kind == "call.ended")
        .await;
    // A call of the hub's own that follows is written behind whatever else this one may still write.
    open.reply("sendMessage", json!({ "message": "later" })).await;
    let events = open.events().await;
    events
        .iter()
        .filter(|event| event.call == Some(call.id))
        .map(|event| event.kind.to_string())
        .collect()
}

async fn a_read_is_one_row_and_an_effect_two() {
    let open = Project::new().file("a.txt", "hello\n").open().await;
    let read = open.prepared("fsEvent:readFile", json!({ "path": "a.txt" })).await;
    open.carry(read.clone(), Sink::discard()).await.unwrap().result.unwrap();
    assert_eq!(rows(&open, &read).await, ["call.ended"]);
    let message = json!({ "path": "b.txt", "content": "new" });
    let write = open.prepared("fsEvent:writeToFile", message.clone()).await;
    open.carry(write.clone(), Sink::discard())
        .await
        .unwrap()
        .result
        .unwrap();
    assert_eq!(rows(&open, &write).await, ["call.started", "call.ended"]);

    let of = |call: &Call| {
        let id = call.id;
        bodies(&open, move |event| event.call == Some(id))
    };
    let (read, write) = (of(&read).await, of(&write).await);
    assert_eq!(
        (&read[0]["effect"], &read[0]["message"]),
        (&json!("read"), &json!({ "path": "a.txt" }))
    );
    assert_eq!(
        (&write[0]["message"], &write[1]["message"]),
        (&message, &Value::Null),
        "what was asked stands once"
    );
    for end in [&read[0], &write[1]] {
        assert_eq!(
            end["principal"],
            json!({ "kind": "person", "id": "cli", "project": "default" })
        );
        assert_eq!(
            (&end["attempts"], end["micros"].is_u64()),
            (&json!([{ "target": "local" }]), true)
        );
        assert!(end["reply"].is_object(), "{end}");
    }
}

async fn every_call_has_exactly_one_end() {
    let project = Project::new()
        .plugin(&Plugin::of("faulty"))
        .plugin(&Plugin::of("spinner").limits("timeout = \"30ms\""))
        .plugin(&Plugin::of("spinner").named("endless"))
        .plugin(&null("null"))
        .toml(&route("null", "to = \"plugin:null\""));
    let open = project.open().await;
    for (name, message, end) in [
        ("null", json!({}), "completed"),
        ("faulty", json!("error"), "not-found"),
        ("faulty", json!("panic"), "trapped"),
        ("spinner", json!(null), "timeout"),
        ("endless", json!(null), "cancelled"),
    ] {
        let call = open.prepared(name, message).await;
        let carried = open.carry(call.clone(), Sink::discard());
        if end == "cancelled" {
            open.event(|event| event.call == Some(call.id)).await;
            call.cancel.cancel();
        }
        let result = carried.await.unwrap().result;
        assert_eq!(
            result
                .as_ref()
                .map_or_else(|error| error.kind.as_str(), |_| "completed"),
            end
        );
        assert_eq!(rows(&open, &call).await, ["call.started", "call.ended"], "{name} {end}");
    }
}

async fn a_caller_who_goes_away_cancels_the_call() {
    let open = Project::new()
        .toml(&route("spinner", "to = \"plugin:spinner\"\nprincipal = \"agent:*\""))
        .toml(&route("looker", "to = \"plugin:looker\"\neffect = \"read\""))
        .plugin(&Plugin::of("spinner"))
        .plugin(
            &Plugin::of("caller")
                .named("looker")
                .grants("gateway = [\"*\"]")
                .unrouted(),
        )
        .open()
        .await;
    // An effect: its own task ends it, and says so.
    let call = open.prepared("spinner", json!(null)).await;
    let carried = open.carry(call.clone(), Sink::discard());
    open.event(|event| event.call == Some(call.id)).await;
    carried.abort();
    assert_eq!(rows(&open, &call).await, ["call.started", "call.ended"]);
    assert_eq!(end_of(&open, &call).await["error"]["kind"], "cancelled");
    // A read: whoever drops it leaves the one row behind.
    let message = json!({ "call": "waitforReply", "message": { "message": "?" } });
    let call = open.prepared("looker", message).await;
    let carried = open.carry(call.clone(), Sink::discard());
    open.questions(1).await;
    carried.abort();
    assert_eq!(rows(&open, &call).await, ["call.ended"]);
    assert_eq!(end_of(&open, &call).await["error"]["kind"], "cancelled");
    open.questions(0).await;
}

async fn end_of(open: &Open, call: &Call) -> Value {
    let event = open
        .event(|event| event.call == Some(call.id) && &*event.kind == "call.ended")
        .await;
    event.body.to().unwrap()
}

async fn a_slow_reader_bounds_the_plugin_and_its_time_is_counted() {
    let open = Project::new()
        .plugin(&Plugin::of("chunks").limits("timeout = \"300ms\""))
        .open()
        .await;
    let (sink, reader) = Sink::channel();
    let call = open.prepared("chunks", json!({ "count": 100_000 })).await;
    let error = open.carry(call, sink).await.unwrap().result.unwrap_err();
    assert_eq!(
        error.to_string(),
        "timeout: chunks did not end within its time limit and was stopped"
    );
    assert_eq!(
        open.hub.plugin_log.lines("chunks").len(),
        Sink::CAPACITY,
        "what was handed out before it had to wait"
    );
    drop(reader);
}

async fn a_dropped_reader_cancels_the_call() {
    let open = Project::new().plugin(&Plugin::of("chunks")).open().await;
    let (sink, mut reader) = Sink::channel();
    let call = open.prepared("chunks", json!({ "count": 1_000_000_000 })).await;
    let carried = open.carry(call.clone(), sink);
    reader.recv().await.unwrap();
    drop(reader);
    assert_eq!(carried.await.unwrap().result.unwrap_err().kind.as_str(), "cancelled");
    assert_eq!(rows(&open, &call).await, ["call.started", "call.ended"]);
}

async fn calls_beyond_the_places_wait_and_beyond_the_queue_are_refused() {
    let open = Project::new().toml("[limits]\ncalls = 2\ncall-queue = 1").open().await;
    let mut calls = Vec::new();
    for _ in 0..4 {
        calls.push(open.begin("waitforReply", json!({ "message": "?" })).await);
    }
    let refused = open
        .event(|event| {
            event
                .body
                .to::<Value>()
                .is_ok_and(|body| body["error"]["kind"] == "limit")
        })
        .await;
    assert_eq!(
        refused.body.to::<Value>().unwrap()["error"]["message"],
        "2 calls run and 1 wait, the limits `calls` and `call-queue` of [limits]"
    );
    for _ in 0..3 {
        let question = open.some_question().await;
        open.hub.desk.answer(question.id, Answer::plain("go on")).unwrap();
    }
    let mut ended = 0;
    for call in calls {
        ended += usize::from(call.await.unwrap().result.is_ok());
    }
    assert_eq!(ended, 3);
}

async fn no_number_is_seen_before_its_row_is_on_disk() {
    let open = Project::new()
        .toml(&route("x", "to = \"plugin:null\""))
        .plugin(&null("null"))
        .open()
        .await;
    let mut calls = Vec::new();
    for _ in 0..100 {
        calls.push(open.begin("x", json!({})).await);
    }
    let disk = rusqlite::Connection::open(open.root().join(".waypost/log.db")).unwrap();
    let mut tip = open.hub.log.tip();
    let (mut seen, mut rows, mut last) = (0, 0, BTreeMap::new());
    let mut after = Cursor::default();
    while rows < 200 {
        let tip_now: u64 = tip.borrow_and_update().to_string().parse().unwrap();
        let on_disk: i64 = disk
            .query_row("SELECT max(cursor) FROM event", [], |row| row.get(0))
            .unwrap();
        assert!(
            i64::try_from(tip_now).unwrap() <= on_disk,
            "{tip_now} was told, {on_disk} is on disk"
        );
        assert!(tip_now >= seen, "the tip went back");
        seen = tip_now;
        for event in open.hub.log.feed(after, 10_000).await.unwrap() {
            let before = last.insert(event.run.to_string(), event.seq).unwrap_or(0);
            assert_eq!(event.seq, before + 1, "a gap in {}", event.run);
            after = event.cursor;
            rows += usize::from(event.kind.starts_with("call."));
        }
        if rows < 200 {
            tip.changed().await.unwrap();
        }
    }
    for call in calls {
        call.await.unwrap().result.unwrap();
    }
}
