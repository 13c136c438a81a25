//! Plugins that make calls: what they reach, what bounds them, and what ends with them.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};

use serde_json::{Value, json};
use waypost::call::Sink;
use waypost::capabilities::chat::Answer;
use waypost::error::ErrorKind;

use crate::harness::{Open, Plugin, Project};
use crate::listed;

listed![
    a_wrapper_reaches_what_it_wraps,
    a_wrapper_around_nothing_is_told_so,
    plugins_that_call_each_other_all_end,
    calls_are_nested_only_so_deep,
    nested_calls_have_places_of_their_own_and_never_wait,
    nested_calls_into_a_plugin_have_places_of_their_own,
    a_nested_call_ends_with_its_callers_time,
    chunks_of_a_nested_call_come_one_by_one,
    dropping_a_nested_call_cancels_it,
    cancelling_reaches_nested_calls_and_child_processes,
];

const ALL: &str = "gateway = [\"*\"]";

fn caller(id: &str) -> Plugin {
    Plugin::of("caller").named(id).grants(ALL)
}

/// The message by which each of these callers makes the next one call, and the last one this.
fn chain(through: &[&str], call: &str, message: Value) -> Value {
    through.iter().rev().fold(
        json!({ "call": call, "message": message }),
        |message, id| json!({ "call": id, "message": message }),
    )
}

async fn a_wrapper_reaches_what_it_wraps() {
    let open = Project::new()
        .file("a.txt", "hello\n")
        .toml(
            "[[route]]\nmatch = [\"fsEvent:readFile\", \"inference\"]\nto = \"plugin:wrapper\"\nfallback = [\"local\"]",
        )
        .plugin(&Plugin::of("wrapper").serves(&["*"]).grants(ALL).unrouted())
        .open()
        .await;
    let reply = open.reply("fsEvent:readFile", json!({ "path": "a.txt" })).await;
    assert!(
        reply["wrapped"]["content"].as_str().unwrap().contains("hello"),
        "{reply}"
    );
    assert_eq!(
        open.error("inference", json!({ "prompt": "hello" })).await,
        "unavailable: inference was answered by no target of its rule (waypost.toml:1): plugin:wrapper: inference was \
         answered by no target of its rule (waypost.toml:1): plugin:wrapper: skipped: the call already passed through \
         it; local: no model endpoint is configured; set `[inference] base-url` or the variable OPENAI_BASE_URL; local: no \
         model endpoint is configured; set `[inference] base-url` or the variable OPENAI_BASE_URL"
    );
}

async fn a_wrapper_around_nothing_is_told_so() {
    let open = Project::new().plugin(&Plugin::of("wrapper").grants(ALL)).open().await;
    assert_eq!(
        open.error("wrapper", json!({})).await,
        "unavailable: wrapper has no target left: it already passed through every target of its rule (waypost.toml:5); \
         add a `fallback` to the rule"
    );
}

async fn plugins_that_call_each_other_all_end() {
    let open = Project::new()
        .plugin(&caller("ping"))
        .plugin(&caller("pong"))
        .plugin(&Plugin::of("echo"))
        .open()
        .await;
    let echo = json!({ "text": "a", "times": 1 });
    let mut calls = Vec::new();
    for _ in 0..64 {
        for (here, there) in [("ping", "pong"), ("pong", "ping")] {
            calls.push(open.begin(here, chain(&[there], "echo", echo.clone())).await);
            calls.push(open.begin(here, chain(&[there], here, json!({}))).await);
        }
    }
    let mut answered = 0;
    for call in calls {
        let reply: Value = call.await.unwrap().result.unwrap().to().unwrap();
        let inner = &reply["reply"];
        let error = reply["error"].as_str().or_else(|| inner["error"].as_str());
        match error {
            None => answered += usize::from(inner["reply"]["text"] == "a"),
            Some(error) => assert!(
                error.starts_with("limit: ") || error.contains("has no target left"),
                "a nested call ended otherwise: {error}"
            ),
        }
    }
    assert!(answered > 0, "none got through");
}

async fn calls_are_nested_only_so_deep() {
    let mut project = Project::new().toml("[limits]\ndepth = 3").plugin(&Plugin::of("echo"));
    for id in ["a", "b", "c", "d"] {
        project = project.plugin(&caller(id));
    }
    let open = project.open().await;
    let echo = json!({ "text": "x", "times": 1 });
    let reply = open.reply("a", chain(&["b", "c"], "echo", echo.clone())).await;
    assert_eq!(reply["reply"]["reply"]["reply"]["text"], "x");
    let reply = open.reply("a", chain(&["b", "c", "d"], "echo", echo)).await;
    assert_eq!(
        reply["reply"]["reply"]["reply"]["error"],
        "limit: echo is nested deeper than 3 calls, the limit `depth` of [limits]"
    );
}

async fn nested_calls_have_places_of_their_own_and_never_wait() {
    let open = Project::new()
        .toml("[limits]\ncalls = 2\nnested-calls = 1")
        .plugin(&caller("caller"))
        .plugin(&Plugin::of("echo"))
        .open()
        .await;
    let waiting = open
        .begin(
            "caller",
            json!({ "call": "waitforReply", "message": { "message": "?" } }),
        )
        .await;
    open.questions(1).await;
    let echo = json!({ "call": "echo", "message": { "text": "x", "times": 1 } });
    let error = "limit: 1 nested calls run, the limit `nested-calls` of [limits]";
    assert_eq!(open.reply("caller", echo.clone()).await, json!({ "error": error }));
    open.answer("go on").await;
    waiting.await.unwrap().result.unwrap();
    assert_eq!(open.reply("caller", echo).await["reply"]["text"], "x");
}

async fn nested_calls_into_a_plugin_have_places_of_their_own() {
    let open = Project::new()
        .plugin(&caller("outer"))
        .plugin(&caller("inner").limits("concurrency = 1"))
        .open()
        .await;
    let ask = || chain(&[], "waitforReply", json!({ "message": "?" }));
    let direct = open.begin("inner", ask()).await;
    open.questions(1).await;
    let nested = open
        .begin("outer", chain(&["inner"], "waitforReply", json!({ "message": "?" })))
        .await;
    open.questions(2).await;
    let error = "limit: plugin `inner` is busy: 1 nested calls run, the limit `concurrency` of [limits.plugin]";
    assert_eq!(
        open.reply("outer", json!({ "call": "inner", "message": ask() })).await,
        json!({ "error": error })
    );
    for _ in 0..2 {
        let question = open.some_question().await;
        open.hub.desk.answer(question.id, Answer::plain("go on")).unwrap();
    }
    assert!(direct.await.unwrap().result.is_ok());
    assert!(nested.await.unwrap().result.is_ok());
}

async fn a_nested_call_ends_with_its_callers_time() {
    let open = Project::new()
        .plugin(&caller("caller").limits("timeout = \"50ms\""))
        .open()
        .await;
    let message = json!({ "call": "waitforReply", "message": { "message": "?" } });
    let text = "timeout: caller did not end within its time limit and was stopped";
    assert_eq!(open.error("caller", message).await, text);
    open.questions(0).await;
    let nested = end(&open, "waitforReply").await;
    assert_eq!(nested["principal"]["id"], "caller");
    assert!(
        ["timeout", "cancelled"].contains(&nested["error"]["kind"].as_str().unwrap()),
        "{nested}"
    );
}

/// The body of the terminal event of the first call of this name, waiting for it.
async fn end(open: &Open, name: &str) -> Value {
    let is_it = |body: &Value| body["name"] == name;
    let ended = open
        .event(|event| &*event.kind == "call.ended" && event.body.to().is_ok_and(|body| is_it(&body)))
        .await;
    ended.body.to().unwrap()
}

async fn chunks_of_a_nested_call_come_one_by_one() {
    let open = Project::new()
        .plugin(&Plugin::of("reader").grants(ALL))
        .plugin(&Plugin::of("chunks"))
        .open()
        .await;
    let message = json!({ "call": "chunks", "message": { "count": 100 }, "chunks": 2, "finish": true });
    let expected = json!({ "chunks": [{ "number": 0 }, { "number": 1 }], "end": { "count": 100 } });
    assert_eq!(open.reply("reader", message).await, expected);
}

async fn dropping_a_nested_call_cancels_it() {
    let open = Project::new()
        .plugin(&Plugin::of("reader").grants(ALL))
        .plugin(&Plugin::of("chunks"))
        .open()
        .await;
    let message = json!({ "call": "chunks", "message": { "count": 1_000_000_000 }, "chunks": 3, "finish": false });
    let reply = open.reply("reader", message).await;
    assert_eq!(
        (reply["chunks"].as_array().unwrap().len(), &reply["end"]),
        (3, &Value::Null)
    );
    assert_eq!(end(&open, "chunks").await["error"]["kind"], "cancelled");
}

async fn cancelling_reaches_nested_calls_and_child_processes() {
    let open = Project::new()
        .plugin(&caller("outer"))
        .plugin(&caller("inner"))
        .open()
        .await;
    let pipe = open.root().join("pipe");
    crate::harness::fifo(&pipe);
    let command = json!({ "command": "exec > pipe; echo started; sleep 1000; echo never" });
    let call = open
        .prepared("outer", chain(&["inner"], "executeCommand", command))
        .await;
    let carried = open.carry(call.clone(), Sink::discard());
    let opened = tokio::task::spawn_blocking(move || {
        let mut pipe = BufReader::new(File::open(pipe).unwrap());
        let mut line = String::new();
        pipe.read_line(&mut line).unwrap();
        (pipe, line)
    });
    let (mut pipe, line) = opened.await.unwrap();
    assert_eq!(line, "started\n");
    call.cancel.cancel();
    let error = carried.await.unwrap().result.unwrap_err();
    assert_eq!(
        (error.kind, error.to_string().as_str()),
        (ErrorKind::Cancelled, "cancelled: outer was cancelled and stopped")
    );
    // The pipe ends when the last process that holds it is gone.
    let rest = tokio::task::spawn_blocking(move || {
        let mut rest = String::new();
        pipe.read_to_string(&mut rest).unwrap();
        rest
    });
    assert_eq!(rest.await.unwrap(), "");
    for name in ["inner", "executeCommand"] {
        assert_eq!(end(&open, name).await["error"]["kind"], "cancelled", "{name}");
    }
}
