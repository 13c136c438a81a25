//! The handler against an endpoint that is scripted.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::testing::*;
use super::*;

fn hello() -> Value {
    json!({"messages": [{"role": "user", "content": "hello"}]})
}

fn stop() -> Value {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
}

fn said(text: &str) -> Value {
    json!({"id": "c1", "model": "served", "choices": [{"index": 0, "delta": {"content": text}}]})
}

fn spoken() -> String {
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}});
    events(&[said("Hel"), said("lo"), stop(), usage]) + "data: [DONE]\n\n"
}

#[tokio::test]
async fn a_stream_becomes_chunks_and_one_reply() {
    let mut server = serve(vec![Script::stream(&spoken())]).await;
    let (chunks, reply) = run(&inference(&server.base, InferenceMode::Off), hello()).await;
    assert_eq!(chunks, [json!({"content": "Hel"}), json!({"content": "lo"})]);
    let counts = json!({"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6});
    let choice = json!({"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"});
    let completion = json!({"id": "c1", "object": "chat.completion", "model": "served", "usage": counts,
                            "choices": [choice]});
    let expected = json!({"role": "assistant", "content": "Hello", "model": "served", "finish_reason": "stop",
                          "usage": counts, "completion": completion});
    assert_eq!(reply.unwrap(), expected);

    let request = server.request().await;
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("authorization: Bearer {CANARY}")), "{head}");
    let body: Value = serde_json::from_str(body).unwrap();
    let expected = json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}],
                          "stream": true, "stream_options": {"include_usage": true}});
    assert_eq!(body, expected);
}

#[tokio::test]
async fn fragments_become_whole_tool_calls_and_plain_json_works_too() {
    let fragment = |call: Value| json!({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]});
    let streamed = events(&[
        fragment(json!({"index": 0, "id": "a", "type": "function", "function": {"name": "read", "arguments": ""}})),
        fragment(json!({"index": 0, "function": {"arguments": "{\"path\":"}})),
        fragment(json!({"index": 1, "id": "b", "type": "function", "function": {"name": "list", "arguments": "{}"}})),
        fragment(json!({"index": 0, "function": {"arguments": "\"a\"}"}})),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
    ]);
    let calls = json!([
        {"id": "a", "type": "function", "function": {"name": "read", "arguments": "{\"path\":\"a\"}"}},
        {"id": "b", "type": "function", "function": {"name": "list", "arguments": "{}"}},
    ]);
    let message = json!({"content": null, "tool_calls": calls});
    let whole = json!({"choices": [{"index": 0, "finish_reason": "tool_calls", "message": message}]});
    let scripts = vec![
        Script::stream(&streamed),
        Script::answer("200 OK", "application/json", &whole.to_string()),
    ];
    let server = serve(scripts).await;
    let inference = inference(&server.base, InferenceMode::Off);
    let (chunks, streamed) = run(&inference, hello()).await;
    assert_eq!(chunks.len(), 4);
    assert_eq!(
        chunks[1],
        json!({"tool_calls": [{"index": 0, "function": {"arguments": "{\"path\":"}}]})
    );
    let (chunks, plain) = run(&inference, hello()).await;
    assert_eq!(chunks, [json!({"tool_calls": calls})]);
    assert_eq!(streamed.as_ref().unwrap()["tool_calls"], calls);
    assert_eq!(streamed.unwrap(), plain.unwrap());
}

#[tokio::test]
async fn without_stream_no_chunk_is_handed_out() {
    let server = serve(vec![Script::stream(&spoken())]).await;
    let mut message = hello();
    message["stream"] = json!(false);
    let (chunks, reply) = run(&inference(&server.base, InferenceMode::Off), message).await;
    assert_eq!((chunks.len(), &reply.unwrap()["content"]), (0, &json!("Hello")));
}

#[tokio::test]
async fn the_model_is_the_calls_then_the_configured_then_the_variables() {
    let mut server = serve(vec![Script::stream(&spoken()); 3]).await;
    let variables = [("OPENAI_MODEL", "third"), ("OPENAI_BASE_URL", &server.base)];
    let variables: BTreeMap<String, String> = variables.map(|(name, value)| (name.into(), value.into())).into();
    let make = |model: Option<&str>| {
        let config = config::Inference {
            model: model.map(str::to_owned),
            ..Default::default()
        };
        Inference::new(config, &|name| variables.get(name).cloned(), "/nowhere".into()).unwrap()
    };
    let mut asked = hello();
    asked["model"] = json!("first");
    for (inference, message, model) in [
        (make(Some("second")), asked, "first"),
        (make(Some("second")), hello(), "second"),
        (make(None), hello(), "third"),
    ] {
        run(&inference, message).await.1.unwrap();
        let request = server.request().await;
        assert!(request.contains(&format!("\"model\":\"{model}\"")), "{request}");
        assert!(!request.contains("authorization"), "a local endpoint needs no key");
    }
}

#[tokio::test]
async fn every_refusal_is_one_clear_error() {
    use ErrorKind::{Denied, Invalid, Limit, NotFound, Other, Unavailable};
    let long = format!("\u{1b}[31m{CANARY} {}", "y".repeat(300));
    for (status, body, kind, expected) in [
        (
            "401 Unauthorized",
            "no",
            Denied,
            "answered 401: it does not accept the key in OPENAI_API_KEY: no",
        ),
        (
            "403 Forbidden",
            "",
            Denied,
            "answered 403: it does not accept the key in OPENAI_API_KEY",
        ),
        (
            "404 Not Found",
            "",
            NotFound,
            "answered 404 for `/v1/chat/completions` and model `gpt-4o-mini`; check `[inference] base-url`",
        ),
        (
            "429 Too Many\r\nRetry-After: 17",
            "slow",
            Limit,
            "answered 429, too many requests; retry after 17: slow",
        ),
        ("429 Too Many", "", Limit, "too many requests; try again later"),
        (
            "500 Oops",
            &long,
            Unavailable,
            "answered 500: \\u{1b}[31m[redacted] yyy",
        ),
        ("503 Busy", "", Unavailable, "answered 503"),
        (
            "307 Moved\r\nLocation: http://elsewhere/",
            "",
            Unavailable,
            "answered 307, a redirect to `http://elsewhere/`; redirects are not followed",
        ),
        (
            "400 Bad",
            "{\"error\":1}",
            Invalid,
            "refused the request with 400: {\"error\":1}",
        ),
        ("418 Teapot", "", Other, "answered 418"),
    ] {
        let server = serve(vec![Script::answer(status, "text/plain", body)]).await;
        let error = run(&inference(&server.base, InferenceMode::Off), hello())
            .await
            .1
            .unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.message.contains(expected), "{error}");
        assert!(
            error.message.starts_with("the endpoint 127.0.0.1:") && error.message.len() < 400,
            "{error}"
        );
        assert!(!error.message.contains(CANARY));
    }
}

#[tokio::test]
async fn an_endpoint_that_wants_a_key_names_the_variable() {
    let server = serve(vec![Script::answer("401 Unauthorized", "text/plain", "")]).await;
    let config = config::Inference {
        base_url: Some(server.base),
        api_key_env: "MY_KEY".to_owned(),
        ..Default::default()
    };
    let inference = Inference::new(config, &|_| None, "/nowhere".into()).unwrap();
    let error = run(&inference, hello()).await.1.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(
        error.message.ends_with("answered 401: it wants a key; set MY_KEY"),
        "{error}"
    );
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_unavailable() {
    provider();
    let inference = Inference::new(config::Inference::default(), &|_| None, "/nowhere".into()).unwrap();
    let error = run(&inference, hello()).await.1.unwrap_err();
    assert_eq!((error.kind, error.blame), (ErrorKind::Unavailable, Blame::Operator));
    assert!(error.message.contains("`[inference] base-url`") && error.message.contains("OPENAI_BASE_URL"));

    let nobody = serve(Vec::new()).await;
    nobody.stopped().await;
    // A name part of more than 63 characters: no resolver even asks for it.
    let nowhere = format!("http://{}.invalid/v1", "x".repeat(64));
    let silent = serve(vec![Script::pieces(&[], End::Close)]).await;
    let (away, silence) = ("cannot be reached", "broke the connection before it answered");
    for (base, what) in [(&nobody.base, away), (&nowhere, away), (&silent.base, silence)] {
        let error = run(&self::inference(base, InferenceMode::Off), hello())
            .await
            .1
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert!(error.message.contains(what), "{error}");
    }
    let error = Inference::new(
        config::Inference {
            base_url: Some("https://user:pass@h".into()),
            ..Default::default()
        },
        &|_| None,
        "/nowhere".into(),
    );
    let error = error.err().unwrap();
    assert!(
        error.message.contains("`[inference] base-url`") && !error.message.contains("pass"),
        "{error}"
    );
}

#[tokio::test]
async fn a_broken_answer_is_unavailable_until_something_was_delivered() {
    let cut = |text: &str| format!("data: {}\n\n{text}", said("Hé!"));
    for (body, why) in [
        (String::new(), "it closed the connection early"),
        ("data: {oops\n\n".into(), "a part of its answer is not JSON"),
        (
            "data: {\"error\":{\"message\":\"overloaded\"}}\n\n".into(),
            "it reported an error: overloaded",
        ),
    ] {
        let truncated = Script::pieces(
            &[&format!("{STREAM}transfer-encoding: chunked\r\n\r\nff\r\n"), &cut("")],
            End::Close,
        );
        let scripts = vec![Script::stream(&body), Script::stream(&cut(&body)), truncated];
        let server = serve(scripts).await;
        let inference = inference(&server.base, InferenceMode::Off);
        let (chunks, reply) = run(&inference, hello()).await;
        let error = reply.unwrap_err();
        assert_eq!((chunks.len(), error.kind), (0, ErrorKind::Unavailable));
        assert!(
            error.message.contains("gave no answer") && error.message.contains(why),
            "{error}"
        );
        for _ in 0..2 {
            let (chunks, reply) = run(&inference, hello()).await;
            let error = reply.unwrap_err();
            assert_eq!(
                (chunks.len(), error.kind, error.blame),
                (1, ErrorKind::Other, Blame::Upstream)
            );
            assert!(
                error.message.starts_with("the answer broke off after 3 characters"),
                "{error}"
            );
        }
    }
    for (kind, body) in [
        ("text/html", "<html>"),
        ("application/json", "{}"),
        ("text/event-stream", "data: [DONE]\n\n"),
    ] {
        let server = serve(vec![Script::answer("200 OK", kind, body)]).await;
        let error = run(&inference(&server.base, InferenceMode::Off), hello())
            .await
            .1
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    }
}

#[tokio::test]
async fn a_hanging_endpoint_is_given_up() {
    for pieces in [
        vec![],
        vec![format!("{STREAM}\r\n")],
        vec![format!("{STREAM}\r\n"), events(&[said("x")])],
    ] {
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        let mut server = serve(vec![Script::pieces(&pieces, End::Hang)]).await;
        let inference = with(&server.base, |config| config.idle = Duration::from_millis(100));
        let error = run(&inference, hello()).await.1.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Timeout);
        let host = server.base.trim_start_matches("http://").trim_end_matches("/v1");
        let expected =
            format!("the endpoint {host} sent nothing for 100ms and was given up; the limit is `[inference] idle`");
        assert_eq!(error.message, expected);
        server.hung_up().await;
    }
}

#[tokio::test]
async fn cancelling_or_not_reading_drops_the_request_at_once() {
    for cancels in [true, false] {
        let start = format!("{STREAM}\r\n{}", events(&[said("x")]));
        let mut server = serve(vec![Script::pieces(&[&start], End::Hang)]).await;
        let inference = inference(&server.base, InferenceMode::Off);
        let (call, (sink, mut reader)) = (call(hello()), Sink::channel());
        let caller = async {
            reader.recv().await.unwrap();
            if cancels { call.cancel.cancel() } else { drop(reader) }
        };
        let (reply, ()) = tokio::join!(inference.handle(&call, &sink), caller);
        assert_eq!(reply.unwrap_err().kind, ErrorKind::Cancelled);
        server.hung_up().await;
    }
}

#[tokio::test]
async fn a_slow_reader_slows_the_answer_and_loses_nothing() {
    let count = 5 * Sink::CAPACITY;
    let mut script: Vec<Value> = (0..count).map(|number| said(&format!("{number},"))).collect();
    script.push(stop());
    let server = serve(vec![Script::stream(&events(&script))]).await;
    let inference = inference(&server.base, InferenceMode::Off);
    let (call, (sink, mut reader)) = (call(hello()), Sink::channel());
    let answering = async move {
        let reply = inference.handle(&call, &sink).await;
        drop(sink);
        reply
    };
    let reading = async {
        let mut seen = 0;
        // Reads on only when the sink is full, or the answer has ended.
        while let Some(chunk) = reader.recv().await {
            assert_eq!(chunk.to::<Value>().unwrap(), json!({"content": format!("{seen},")}));
            seen += 1;
            while reader.len() < Sink::CAPACITY && seen + reader.len() < count {
                tokio::task::yield_now().await;
            }
        }
        seen
    };
    let (reply, seen) = tokio::join!(answering, reading);
    assert_eq!(seen, count);
    assert!(
        reply.unwrap().to::<Value>().unwrap()["content"]
            .as_str()
            .unwrap()
            .ends_with(&format!("{},", count - 1))
    );
}

#[tokio::test]
async fn what_was_recorded_is_replayed_in_any_order_without_a_network() {
    let folder = tempfile::tempdir().unwrap();
    let make = |base: Option<&str>, mode| {
        provider();
        let config = config::Inference {
            base_url: base.map(str::to_owned),
            mode,
            ..Default::default()
        };
        Inference::new(config, &|name| Some(format!("{CANARY}-{name}")), folder.path().into()).unwrap()
    };
    let questions = ["one", "two", "three"].map(|text| json!({"prompt": text}));
    let answers = ["1", "2", "3"].map(|text| Script::stream(&events(&[said(text), said("!"), stop()])));
    let server = serve(answers.into()).await;
    let recorder = make(Some(&server.base), InferenceMode::Record);
    let mut recorded = Vec::new();
    for question in &questions {
        recorded.push(run(&recorder, question.clone()).await);
    }
    server.stopped().await;
    let replayer = make(Some("not even an address"), InferenceMode::Replay);
    for index in [2, 0, 1, 2] {
        let replayed = run(&replayer, questions[index].clone()).await;
        assert_eq!(replayed, recorded[index]);
        assert_eq!(replayed.0.len(), 2);
        assert_eq!(replayed.1.unwrap()["content"], format!("{}!", index + 1));
    }
    let error = run(&replayer, json!({"prompt": "four"})).await.1.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(error.message.contains("begins `four`"), "{error}");
    let error = run(&recorder, questions[0].clone()).await.1.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "recording always asks the endpoint");
}

#[tokio::test]
async fn the_key_is_never_seen_even_when_the_endpoint_repeats_it() {
    let folder = tempfile::tempdir().unwrap();
    let echo = format!("you sent {CANARY}.");
    let call = json!({"index": 0, "id": "a", "function": {"name": "read", "arguments": echo}});
    let tools = json!({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]});
    let (first, last) = CANARY.split_at(9);
    let streamed = events(&[said(&echo), tools, said(first), said(last), stop()]);
    let scripts = vec![
        Script::stream(&streamed),
        Script::stream(&events(&[json!({"error": {"message": echo}})])),
        Script::answer(
            &format!("307 Moved\r\nlocation: http://h/?key={CANARY}"),
            "text/plain",
            &echo,
        ),
        Script::answer(&format!("429 Slow\r\nretry-after: {CANARY}"), "text/plain", &echo),
        Script::answer("500 Oops", "text/plain", &format!("{}{CANARY}", "x".repeat(190))),
    ];
    let count = scripts.len();
    let server = serve(scripts).await;
    let mut config = config::Inference {
        base_url: Some(server.base),
        mode: InferenceMode::Record,
        ..Default::default()
    };
    config.recordings = folder.path().to_owned();
    let inference = Inference::new(config, &|_| Some(CANARY.to_owned()), "/nowhere".into()).unwrap();
    for number in 0..count {
        let (chunks, reply) = run(&inference, hello()).await;
        assert_eq!(reply.is_ok(), number == 0);
        let seen = format!("{chunks:?} {reply:?}");
        assert!(!seen.contains("sk-canary-0") && seen.contains("[redacted]"), "{seen}");
    }
    let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(files.len(), 1, "a failed exchange is not kept");
    for file in files {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(!text.contains(CANARY) && text.contains("[redacted]"), "{text}");
    }
}
