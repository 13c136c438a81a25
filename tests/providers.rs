//! Models that a connected process serves: `llmProvider.*` on `/plugins`, over real sockets. The process is the trial.

use serde_json::{Value, json};
use waypost::call::{Json, Reply, Sink};
use waypost::gateway::Rejected;
use waypost::run::{NewRun, State};

use crate::harness::endpoint::{Endpoint, Turn};
use crate::harness::models::Stage;
use crate::harness::process::http;
use crate::harness::{Plugin, Project};

crate::listed![
    what_is_served_looks_as_if_it_came_from_an_endpoint,
    a_caller_who_reads_no_chunks_is_answered_in_one_piece,
    a_run_uses_a_served_model_and_its_tokens_are_counted,
    the_configured_model_may_be_a_served_one,
    the_rules_decide_first,
    two_that_serve_the_same_model_have_to_be_told_apart,
    what_is_late_doubled_or_forged_counts_for_nothing,
    one_that_goes_away_before_it_said_anything_is_passed_over,
    one_that_goes_away_in_the_middle_leaves_the_call_indeterminate,
    what_is_unregistered_is_served_no_more,
    a_call_ends_with_its_caller_and_with_its_time,
    a_reply_that_is_none_is_one_clear_error,
    only_who_may_claim_inference_may_register,
    a_name_that_another_holds_is_refused_until_it_goes_away,
    hostile_manifests_are_refused_and_the_connection_lives,
];

fn delta(delta: Value) -> Value {
    json!({ "id": "c", "model": "scripted", "choices": [{ "index": 0, "delta": delta }] })
}

fn whole(message: Value, reason: &str) -> Value {
    let usage = json!({ "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15 });
    let choice = json!({ "index": 0, "message": message, "finish_reason": reason });
    json!({ "id": "c", "object": "chat.completion", "model": "scripted", "choices": [choice], "usage": usage })
}

fn text(text: &str) -> Value {
    whole(json!({ "role": "assistant", "content": text }), "stop")
}

fn error(reply: Reply) -> String {
    reply.result.unwrap_err().to_string()
}

async fn what_is_served_looks_as_if_it_came_from_an_endpoint() {
    let fragment = |id: Value, name: Value, arguments: &str| {
        let function = json!({ "name": name, "arguments": arguments });
        delta(json!({ "tool_calls": [{ "index": 0, "id": id, "type": "function", "function": function }] }))
    };
    let call =
        json!({ "id": "t", "type": "function", "function": { "name": "read_file", "arguments": "{\"path\":\"a\"}" } });
    let talks = [
        vec![
            delta(json!({ "role": "assistant", "content": "" })),
            delta(json!({ "content": "Hel" })),
            delta(json!({ "content": "lo" })),
        ],
        vec![
            delta(json!({ "content": "Let me see." })),
            fragment(json!("t"), json!("read_file"), ""),
            fragment(Value::Null, Value::Null, "{\"path\":"),
            fragment(Value::Null, Value::Null, "\"a\"}"),
        ],
        // All in the reply, as from one that does not stream.
        vec![],
    ];
    let replies = [
        text("Hello"),
        whole(
            json!({ "role": "assistant", "content": "Let me see.", "tool_calls": [call] }),
            "tool_calls",
        ),
        whole(
            json!({ "role": "assistant", "content": null, "tool_calls": [call] }),
            "tool_calls",
        ),
    ];
    let tools = json!([{ "type": "function", "function": { "name": "read_file", "parameters": {} } }]);
    let message = json!({
        "messages": [{ "role": "user", "content": "go" }], "tools": tools, "tool_choice": "auto", "max_tokens": 50, "temperature": 0.5,
    });
    for (parts, reply) in talks.iter().zip(replies) {
        let served = {
            let stage = Stage::of("").await;
            let mut process = stage.serving("one", "home", &["small"]).await;
            let mut message = message.clone();
            message["model"] = json!("home/small");
            let (_, asking) = stage.ask(message.clone()).await;
            let asked = process.asked().await;
            assert_eq!(asked["type"], "llmProvider.streamRequest");
            assert_eq!(
                (&asked["providerId"], &asked["providerConfig"]),
                (&json!("home"), &json!({}))
            );
            message["model"] = json!("small");
            message["providerConfig"] = json!({});
            assert_eq!(asked["options"], message);
            for part in parts {
                process.chunk(&asked, part.clone()).await;
            }
            process.reply(&asked, reply.clone()).await;
            asking.await.unwrap()
        };
        let streamed = {
            let events = parts.iter().chain([&reply]).enumerate();
            // An endpoint does not say again at the end what it streamed.
            let events = events.map(|(at, event)| {
                let mut event = event.clone();
                if at > 0 && at == parts.len() {
                    event["choices"][0].as_object_mut().unwrap().remove("message");
                }
                format!("data: {event}\n\n")
            });
            let body = events.collect::<String>() + "data: [DONE]\n\n";
            let endpoint = Endpoint::start([Turn::Raw("text/event-stream", body)]).await;
            let stage = Stage::of(&endpoint.config()).await;
            let (_, asking) = stage.ask(message.clone()).await;
            asking.await.unwrap()
        };
        assert_eq!(served.0, streamed.0);
        let [served, streamed] = [served.1, streamed.1].map(|reply| reply.result.unwrap().to::<Value>().unwrap());
        assert_eq!(served, streamed);
        assert_eq!(served["usage"]["total_tokens"], 15);
    }
}

async fn a_caller_who_reads_no_chunks_is_answered_in_one_piece() {
    let stage = Stage::of("").await;
    let mut process = stage.serving("one", "home", &["small"]).await;
    let message = json!({ "prompt": "go", "model": "small" });
    let asking = stage.open.begin("inference", message.clone()).await;
    let asked = process.asked().await;
    assert_eq!(asked["type"], "llmProvider.completionRequest");
    process.reply(&asked, text("Hello")).await;
    let reply = asking.await.unwrap();
    assert_eq!(reply.by.unwrap().to_string(), "local");
    assert_eq!(reply.result.unwrap().to::<Value>().unwrap()["content"], "Hello");

    let mut silent = message;
    silent["stream"] = json!(false);
    let (_, asking) = stage.ask(silent).await;
    let asked = process.asked().await;
    assert_eq!(asked["type"], "llmProvider.completionRequest");
    // One that says it in parts all the same is understood, and the caller sees none.
    process.chunk(&asked, delta(json!({ "content": "Hel" }))).await;
    process.chunk(&asked, delta(json!({ "content": "lo" }))).await;
    process.reply(&asked, Value::Null).await;
    let (chunks, reply) = asking.await.unwrap();
    assert_eq!(
        (
            chunks.len(),
            reply.result.unwrap().to::<Value>().unwrap()["content"].clone()
        ),
        (0, json!("Hello"))
    );
    assert_eq!(stage.rejected(), Rejected::default());
}

async fn a_run_uses_a_served_model_and_its_tokens_are_counted() {
    let stage = Stage::on(Project::new().file("a.txt", "remember\n"), "[agent]\ntokens = 20").await;
    let mut process = stage.serving("one", "home", &["small"]).await;
    let settings = json!({ "model": "home/small" });
    let new = NewRun {
        prompt: "go".to_owned(),
        settings: Some(Json::parse(settings.to_string()).unwrap()),
        ..NewRun::default()
    };
    let run = stage.open.hub.runs.start(&stage.open.hub.project, new).await.unwrap();
    for said in ["go", "remember\n"] {
        let asked = process.asked().await;
        let messages = asked["options"]["messages"].as_array().unwrap();
        assert_eq!(messages.last().unwrap()["content"], said);
        let function = json!({ "name": "read_file", "arguments": "{\"path\":\"a.txt\"}" });
        let calls = json!([{ "id": "t", "type": "function", "function": function }]);
        let message = json!({ "role": "assistant", "content": null, "tool_calls": calls });
        process.reply(&asked, whole(message, "tool_calls")).await;
    }
    stage
        .open
        .event(|event| event.run == run.id && &*event.kind == "run.failed")
        .await;
    let run = stage.open.hub.runs.get(&run.id).await.unwrap();
    assert_eq!(run.state, State::Failed);
    assert_eq!(
        run.error.unwrap().to_string(),
        "limit: the agent is not done and has used its budget of tokens (30 used): raise `tokens` under `[agent]` in \
         waypost.toml, or give it a smaller task"
    );
}

async fn the_configured_model_may_be_a_served_one() {
    let stage = Stage::of("[inference]\nmodel = \"home/small\"").await;
    let nobody =
        "unavailable: no model endpoint is configured; set `[inference] base-url` or the variable OPENAI_BASE_URL";
    assert_eq!(stage.open.error("inference", json!({ "prompt": "go" })).await, nobody);
    let mut process = stage.serving("one", "home", &["small", "large"]).await;
    let asking = stage.open.begin("inference", json!({ "prompt": "go" })).await;
    let asked = process.asked().await;
    assert_eq!(asked["options"]["model"], "small");
    process.reply(&asked, text("Hello")).await;
    assert!(asking.await.unwrap().result.is_ok());
    // One that nobody serves goes the old way, and the error says which there are.
    assert_eq!(
        stage
            .open
            .error("inference", json!({ "prompt": "go", "model": "home/medium" }))
            .await,
        format!("{nobody}, or name a registered model: `home/large`, `home/small`")
    );
    let url = format!("http://{}/api/v1/projects/default/models", stage.served.address);
    let listed = http().get(url).bearer_auth("token of the API").send().await.unwrap();
    let listed: Value = serde_json::from_str(&listed.text().await.unwrap()).unwrap();
    let models = json!({ "large": null, "small": null });
    assert_eq!(
        listed,
        json!([{ "id": "home", "name": "home", "models": models, "by": "connection:one" }])
    );
}

async fn the_rules_decide_first() {
    let rules = r#"
[[route]]
match = "inference"
model = "home/secret"
to = "deny"
[[route]]
match = "inference"
model = "home/other"
to = "plugin:answers"
"#;
    let project = Project::new().plugin(&Plugin::of("answers").serves(&["inference"]).unrouted());
    let stage = Stage::on(project, rules).await;
    let _process = stage.serving("one", "home", &["secret", "other"]).await;
    let ask = |model: &str| json!({ "prompt": "go", "model": model });
    assert_eq!(
        stage.open.error("inference", ask("home/secret")).await,
        "denied: inference is denied by the rules of this project"
    );
    let reply = stage.open.call("inference", ask("home/other")).await;
    assert_eq!(reply.by.unwrap().to_string(), "plugin:answers");
}

async fn two_that_serve_the_same_model_have_to_be_told_apart() {
    let stage = Stage::of("").await;
    let _one = stage.serving("one", "home", &["small"]).await;
    let mut two = stage.serving("two", "away", &["small"]).await;
    let ask = |model: &str| json!({ "prompt": "go", "model": model });
    assert_eq!(
        stage.open.error("inference", ask("small")).await,
        "invalid: model `small` is registered by `away` (connection:two) and `home` (connection:one); say which, as in \
         `away/small`"
    );
    let asking = stage.open.begin("inference", ask("Away/small")).await;
    let asked = two.asked().await;
    assert_eq!(asked["providerId"], "away");
    two.reply(&asked, text("Hello")).await;
    assert!(asking.await.unwrap().result.is_ok());
}

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
    let (_, asking) = stage.ask(json!({ "prompt": "go", "model": "home/small" })).await;
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
    let stage = Stage::of("[[route]]\nmatch = \"inference\"\nto = \"local\"\ntimeout = \"300ms\"").await;
    let mut one = stage.serving("one", "home", &["small"]).await;
    let message = json!({ "prompt": "go", "model": "home/small" });
    let (_, asking) = stage.ask(message.clone()).await;
    let asked = one.asked().await;
    one.chunk(&asked, delta(json!({ "content": "Let" }))).await;
    let (chunks, reply) = asking.await.unwrap();
    assert_eq!(chunks.len(), 1);
    assert_eq!(
        error(reply),
        "timeout: inference did not end within its time limit and was stopped"
    );
    // Nobody reads any more.
    let call = stage.open.prepared("inference", message).await;
    let (sink, reader) = Sink::channel();
    let asking = stage.open.carry(call, sink);
    one.asked().await;
    drop(reader);
    assert!(error(asking.await.unwrap()).starts_with("cancelled: "));
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
        let asking = stage.open.begin("inference", message.clone()).await;
        // What brought nothing is asked once more.
        let times = if expected.starts_with("unavailable") { 2 } else { 1 };
        for _ in 0..times {
            frame["requestId"] = one.asked().await["requestId"].clone();
            one.say("llmProvider.reply", frame.clone()).await;
        }
        assert_eq!(error(asking.await.unwrap()), expected);
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

async fn only_who_may_claim_inference_may_register() {
    let stage = Stage::of("").await;
    let mut reader = stage.connect("reader").await;
    assert_eq!(
        reader
            .refused(json!({ "providerId": "home", "models": [{ "id": "small" }] }))
            .await,
        "connection:reader may not serve models; add \"inference\" to its claim in waypost.toml:\n  [[connection]]\n  name = \
         \"reader\"\n  claim = [\"inference\"]"
    );
    assert_eq!(stage.open.hub.gateway.stats().offers, 0);
}

async fn a_name_that_another_holds_is_refused_until_it_goes_away() {
    let stage = Stage::of("").await;
    let one = stage.serving("one", "home", &["small"]).await;
    let mut two = stage.connect("two").await;
    let manifest = json!({ "providerId": "H o m e", "models": [{ "id": "small" }] });
    assert_eq!(
        two.refused(manifest.clone()).await,
        "`home` is registered by connection:one; it must unregister it first, or choose another providerId"
    );
    drop(one);
    stage.gone().await;
    let answer = two.register(manifest).await;
    assert_eq!(answer["data"], json!({ "providerId": "home", "registered": true }));
}

async fn hostile_manifests_are_refused_and_the_connection_lives() {
    let stage = Stage::of("").await;
    let mut one = stage.connect("one").await;
    let models = |count: usize| -> Value { (0..count).map(|at| json!({ "id": format!("m{at}") })).collect() };
    for (manifest, expected) in [
        (
            json!({ "providerId": "home", "models": models(10_000) }),
            "`home` lists 10000 models; at most 256 are taken: leave out what nobody asks for",
        ),
        (
            json!({ "providerId": "home", "models": models(100_000) }),
            "the manifest has 1588922 bytes; at most 262144 are taken: list fewer models",
        ),
        (
            json!({ "providerId": ["home"] }),
            "the manifest cannot be read: invalid type: sequence",
        ),
        (
            json!({ "providerId": "home", "models": { "id": 1 } }),
            "the manifest cannot be read: invalid type: map",
        ),
        (json!("home"), "the manifest cannot be read: invalid type: string"),
        (
            json!({ "providerId": "\u{202e}/home" }),
            "`providerId` must not have a slash",
        ),
        (
            json!({ "providerId": "home", "models": [{ "id": "\u{1b}]0;x\u{7}" }] }),
            "`models[].id` must be a text of 1 to 256 bytes without control characters",
        ),
    ] {
        let error = one.refused(manifest).await;
        assert!(error.starts_with(expected), "{error}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    one.0
        .say_text(&format!("{{\"type\":\"llmProvider.register\",\"manifest\":{deep}}}"))
        .await;
    one.settled().await;
    for at in 0..16 {
        let answer = one
            .register(json!({ "providerId": format!("p{at}"), "models": models(256) }))
            .await;
        assert_eq!(answer["success"], true);
    }
    assert_eq!(
        one.refused(json!({ "providerId": "p16" })).await,
        "connection:one has registered 16 providers, its limit; unregister one of them first"
    );
    assert_eq!(stage.open.hub.gateway.stats().offers, 16);
    let asking = stage
        .open
        .begin("inference", json!({ "prompt": "go", "model": "p7/m255" }))
        .await;
    let asked = one.asked().await;
    one.reply(&asked, text("still here")).await;
    assert!(asking.await.unwrap().result.is_ok());
}
