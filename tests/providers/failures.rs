//! What goes wrong while a connected process serves a model: each time one clear error, and one end in the log.

use futures::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use waypost::call::Sink;

use super::{delta, error, text};
use crate::harness::models::{Stage, read};
use crate::harness::{Plugin, Project};

crate::listed![
    what_is_late_doubled_or_forged_counts_for_nothing,
    one_that_goes_away_before_it_said_anything_is_passed_over,
    one_that_goes_away_in_the_middle_leaves_the_call_indeterminate,
    what_is_unregistered_is_served_no_more,
    a_call_ends_with_its_caller_and_with_its_time,
    a_reply_that_is_none_is_one_clear_error,
    a_caller_who_reads_late_loses_nothing_and_keeps_nobody_waiting,
    a_frame_over_the_limit_ends_its_connection_and_what_it_was_asked,
];

async fn what_is_late_doubled_or_forged_counts_for_nothing() {
    let stage = Stage::of("").await;
    let mut one = stage.serving("one", "home", &["small"]).await;
    let mut two = stage.serving("two", "away", &["small"]).await;
    let message = json!({ "prompt": "go", "model": "home/small" });
    let (_, asking) = stage.ask(message.clone()).await;
    let asked = one.asked().await;
    two.chunk(&asked, delta(json!({ "content": "Forged" }))).await;
    two.reply(&asked, text("Forged")).await;
    two.chunk(&json!({ "requestId": "nobody's" }), delta(json!({}))).await;
    two.settled().await;
    assert_eq!((stage.rejected().foreign, stage.rejected().unknown), (2, 1));
    one.chunk(&asked, delta(json!({ "content": "Hello" }))).await;
    one.reply(&asked, text("Hello")).await;
    one.chunk(&asked, delta(json!({ "content": "again" }))).await;
    one.reply(&asked, text("again")).await;
    let (chunks, reply) = asking.await.unwrap();
    assert_eq!(chunks, [json!({ "content": "Hello" })]);
    assert_eq!(reply.result.unwrap().to::<Value>().unwrap()["content"], "Hello");
    one.settled().await;
    assert_eq!(stage.rejected().duplicate, 2);

    let (call, asking) = stage.ask(message).await;
    let asked = one.asked().await;
    call.cancel.cancel();
    assert_eq!(
        error(asking.await.unwrap().1),
        "cancelled: inference was cancelled and stopped"
    );
    stage.ended_once(&call).await;
    one.chunk(&asked, delta(json!({ "content": "late" }))).await;
    one.reply(&asked, text("late")).await;
    one.settled().await;
    assert_eq!(stage.rejected().late, 2);
}

async fn one_that_goes_away_before_it_said_anything_is_passed_over() {
    let rule = "[[route]]\nmatch = \"inference\"\nto = \"local\"\nfallback = [\"plugin:answers\"]";
    let project = Project::new().plugin(&Plugin::of("answers").serves(&["inference"]).unrouted());
    let stage = Stage::on(project, rule).await;
    let mut one = stage.serving("one", "home", &["small"]).await;
    let (_, asking) = stage.ask(json!({ "prompt": "go", "model": "home/small" })).await;
    one.asked().await;
    drop(one);
    let (_, reply) = asking.await.unwrap();
    assert_eq!(reply.by.unwrap().to_string(), "plugin:answers");

    // Without another target it is asked once more, and then nobody serves the model.
    let stage = Stage::of("").await;
    let mut one = stage.serving("one", "home", &["small"]).await;
    let (call, asking) = stage.ask(json!({ "prompt": "go", "model": "home/small" })).await;
    one.asked().await;
    drop(one);
    assert_eq!(
        error(asking.await.unwrap().1),
        "unavailable: no model endpoint is configured; set `[inference] base-url` or the variable OPENAI_BASE_URL"
    );
    let end = stage
        .open
        .event(|event| event.call == Some(call.id) && &*event.kind == "call.ended")
        .await;
    let attempts = end.body.to::<Value>().unwrap()["attempts"].clone();
    assert_eq!(
        attempts[0]["error"]["message"], "connection:one went away while it worked on inference; check what it did",
        "{attempts}"
    );
}

async fn one_that_goes_away_in_the_middle_leaves_the_call_indeterminate() {
    let stage = Stage::of("").await;
    let mut one = stage.serving("one", "home", &["small"]).await;
    let (call, asking) = stage.ask(json!({ "prompt": "go", "model": "home/small" })).await;
    let asked = one.asked().await;
    one.chunk(&asked, delta(json!({ "content": "Let" }))).await;
    one.settled().await;
    drop(one);
    let (chunks, reply) = asking.await.unwrap();
    assert_eq!(chunks, [json!({ "content": "Let" })]);
    assert_eq!(
        error(reply),
        "indeterminate: connection:one went away while it worked on inference; check what it did"
    );
    stage.ended_once(&call).await;
    assert_eq!(stage.open.hub.gateway.stats().pending, 0);
}

async fn what_is_unregistered_is_served_no_more() {
    let stage = Stage::of("").await;
    let mut one = stage.serving("one", "home", &["small"]).await;
    let (_, asking) = stage.ask(json!({ "prompt": "go", "model": "home/small" })).await;
    let asked = one.asked().await;
    one.chunk(&asked, delta(json!({ "content": "Let" }))).await;
    for (success, text) in [(true, None), (false, Some("connection:one has not registered `home`"))] {
        one.say(
            "llmProvider.unregister",
            json!({ "requestId": 7, "providerId": "Home" }),
        )
        .await;
        let answer = one.hear(&["llmProvider.unregisterResponse"]).await;
        let mut expected = json!({
            "type": "llmProvider.unregisterResponse", "requestId": 7, "success": success,
            "data": { "providerId": "home", "registered": false },
        });
        if let Some(text) = text {
            expected["error"] = json!(text);
        }
        assert_eq!(answer, expected);
    }
    let gone = "indeterminate: connection:one went away while it worked on inference; check what it did";
    assert_eq!(error(asking.await.unwrap().1), gone);
    one.reply(&asked, text("late")).await;
    one.settled().await;
    assert_eq!(stage.rejected().stale, 1);
    let nobody = stage
        .open
        .error("inference", json!({ "prompt": "go", "model": "home/small" }))
        .await;
    assert!(
        nobody.starts_with("unavailable: no model endpoint is configured"),
        "{nobody}"
    );
    // It can come back.
    let answer = one
        .register(json!({ "providerId": "home", "models": [{ "id": "small" }] }))
        .await;
    assert_eq!(answer["success"], true);
}

async fn a_call_ends_with_its_caller_and_with_its_time() {
    let rule = "[[route]]\nmatch = \"inference\"\nmodel = \"home/slow\"\nto = \"local\"\ntimeout = \"1s\"";
    let stage = Stage::of(rule).await;
    let mut one = stage.serving("one", "home", &["slow", "small"]).await;
    let (timed, asking) = stage.ask(json!({ "prompt": "go", "model": "home/slow" })).await;
    let asked = one.asked().await;
    one.chunk(&asked, delta(json!({ "content": "Let" }))).await;
    let (chunks, reply) = asking.await.unwrap();
    assert_eq!(chunks.len(), 1);
    assert_eq!(
        error(reply),
        "timeout: inference did not end within its time limit and was stopped"
    );
    // Nobody reads any more.
    let (left, reader, asking) = stage.unread(json!({ "prompt": "go", "model": "home/small" })).await;
    one.asked().await;
    drop(reader);
    assert!(error(asking.await.unwrap()).starts_with("cancelled: "));
    for call in [timed, left] {
        stage.ended_once(&call).await;
    }
    assert_eq!(stage.open.hub.gateway.stats().pending, 0);
}

async fn a_reply_that_is_none_is_one_clear_error() {
    let stage = Stage::of("[inference]\nanswer = \"1KiB\"").await;
    let mut one = stage.serving("one", "home", &["small"]).await;
    let message = json!({ "prompt": "go", "model": "home/small" });
    let none = |why: &str| {
        format!("unavailable: model `small` of connection:one gave no answer: {why}; look into the log of that process")
    };
    let cases = [
        (
            json!({ "response": { "text": "hi" } }),
            none("its reply is no chat completion: it has no choice"),
        ),
        (json!({ "response": "hi" }), none("it is not a JSON object")),
        (json!({}), none("it is not a JSON object")),
        (
            json!({ "response": { "error": { "message": "overloaded" } } }),
            none("overloaded"),
        ),
        (
            json!({ "success": false, "error": "no such model" }),
            "other: no such model".to_owned(),
        ),
        (
            json!({ "response": text(&"x".repeat(2000)) }),
            "limit: the answer of connection:one is larger than 1024 bytes; the limit is `[inference] answer`"
                .to_owned(),
        ),
    ];
    for (mut frame, expected) in cases {
        let call = stage.open.prepared("inference", message.clone()).await;
        let asking = stage.open.carry(call.clone(), Sink::discard());
        // What brought nothing is asked once more.
        let times = if expected.starts_with("unavailable") { 2 } else { 1 };
        for _ in 0..times {
            frame["requestId"] = one.asked().await["requestId"].clone();
            one.say("llmProvider.reply", frame.clone()).await;
        }
        assert_eq!(error(asking.await.unwrap()), expected);
        stage.ended_once(&call).await;
    }
    let asking = stage.open.begin("inference", message.clone()).await;
    let id = one.asked().await["requestId"].clone();
    one.say(
        "llmProvider.error",
        json!({ "requestId": id, "error": "out of memory" }),
    )
    .await;
    assert_eq!(error(asking.await.unwrap()), "other: out of memory");

    let (_, asking) = stage.ask(message).await;
    let asked = one.asked().await;
    one.chunk(&asked, delta(json!({ "content": "Let" }))).await;
    one.chunk(&asked, json!([])).await;
    assert_eq!(
        error(asking.await.unwrap().1),
        "other: the answer broke off after 3 characters: model `small` of connection:one failed: it is not a JSON object"
    );
}

async fn a_caller_who_reads_late_loses_nothing_and_keeps_nobody_waiting() {
    let stage = Stage::of("").await;
    let mut one = stage.serving("one", "home", &["small"]).await;
    let message = json!({ "prompt": "go", "model": "small" });
    let slow = "limit: the caller reads the answer more slowly than it comes, and too much of it waits; read faster, or ask \
                without `stream`";
    // More than a caller has room for, and then more than the hub keeps for it.
    for (count, expected) in [(1000, None), (5000, Some(slow))] {
        let (call, reader, reply) = stage.unread(message.clone()).await;
        let asked = one.asked().await;
        for at in 0..count {
            one.chunk(&asked, delta(json!({ "content": format!("{at} ") }))).await;
        }
        one.reply(&asked, text("")).await;
        // Another caller of the same process is answered meanwhile.
        let (other, asking) = stage.ask(message.clone()).await;
        let asked = one.asked().await;
        one.reply(&asked, text("Hello")).await;
        assert!(asking.await.unwrap().1.result.is_ok());
        let (chunks, reply) = read(reader, reply).await;
        let said: Vec<String> = chunks
            .iter()
            .map(|chunk| chunk["content"].as_str().unwrap().to_owned())
            .collect();
        let whole: Vec<String> = (0..said.len()).map(|at| format!("{at} ")).collect();
        assert_eq!(said, whole, "in order, and none is left out");
        match expected {
            None => {
                assert_eq!(said.len(), count);
                let reply: Value = reply.result.unwrap().to().unwrap();
                assert_eq!(reply["content"], said.concat());
            }
            Some(expected) => {
                assert!(said.len() >= 4096 && said.len() < count, "{}", said.len());
                assert_eq!(error(reply), expected);
            }
        }
        stage.ended_once(&call).await;
        stage.ended_once(&other).await;
    }
    assert_eq!(stage.open.hub.gateway.stats().pending, 0);
}

async fn a_frame_over_the_limit_ends_its_connection_and_what_it_was_asked() {
    let stage = Stage::of("").await;
    let mut one = stage.serving("one", "home", &["small"]).await;
    let mut two = stage.serving("two", "away", &["large"]).await;
    let (call, asking) = stage.ask(json!({ "prompt": "go", "model": "small" })).await;
    let (other, answered) = stage.ask(json!({ "prompt": "go", "model": "large" })).await;
    let asked = one.asked().await;
    one.chunk(&asked, delta(json!({ "content": "Let" }))).await;
    one.settled().await;
    // It may be cut off before all of it is sent.
    drop(one.0.0.send(Message::text("x".repeat(17 << 20))).await);
    let (chunks, reply) = asking.await.unwrap();
    assert_eq!(chunks, [json!({ "content": "Let" })]);
    assert_eq!(
        error(reply),
        "indeterminate: connection:one went away while it worked on inference; check what it did"
    );
    let asked = two.asked().await;
    two.reply(&asked, text("Hello")).await;
    assert!(answered.await.unwrap().1.result.is_ok());
    stage.ended_once(&call).await;
    stage.ended_once(&other).await;
    // What would be a frame that is too large to be sent does not reach it at all.
    let large = json!({ "prompt": "x".repeat(33 << 20), "model": "large" });
    let refused = stage.open.error("inference", large).await;
    assert!(refused.starts_with("limit: inference as a frame has "), "{refused}");
}
