use std::collections::VecDeque;

use proptest::prelude::*;
use waypost_sdk::Turn;

use super::*;

/// A hub that answers what it was told to, and remembers what it was asked.
#[derive(Default)]
struct Fake {
    answers: VecDeque<Result<Value>>,
    calls: Vec<(String, Value)>,
    replies: Vec<(&'static str, Result<Value>)>,
    warnings: Vec<String>,
}

impl Hub for Fake {
    fn call(&mut self, name: &str, message: &Value) -> Result<Value> {
        self.calls.push((name.to_owned(), message.clone()));
        if name == "inference" {
            return self
                .answers
                .pop_front()
                .unwrap_or_else(|| Err(CallError::other("the test has no more answers")));
        }
        match self.replies.iter().find(|(known, _)| *known == name) {
            Some((_, reply)) => reply.clone(),
            None => Ok(json!({})),
        }
    }

    fn warn(&mut self, text: &str) {
        self.warnings.push(text.to_owned());
    }
}

impl Fake {
    fn answering(answers: impl IntoIterator<Item = Value>) -> Self {
        Self {
            answers: answers.into_iter().map(Ok).collect(),
            ..Self::default()
        }
    }

    fn run(&mut self, task: &Task, settings: &str) -> Result<String> {
        Conversation::new(self, task, serde_json::from_str(settings).unwrap())?.work()
    }

    fn called(&self, name: &str) -> Vec<&Value> {
        self.calls
            .iter()
            .filter(|(called, _)| called == name)
            .map(|(_, message)| message)
            .collect()
    }

    /// The messages of the last inference.
    fn heard(&self) -> Vec<Value> {
        self.called("inference").last().unwrap()["messages"]
            .as_array()
            .unwrap()
            .clone()
    }

    /// What the model was told of its tool calls.
    fn results(&self) -> Vec<String> {
        let heard = self.heard();
        let results = heard.iter().filter(|message| message["role"] == "tool");
        results
            .map(|message| message["content"].as_str().unwrap().to_owned())
            .collect()
    }
}

fn task(prompt: &str) -> Task {
    Task {
        run: "r".to_owned(),
        thread: "t".to_owned(),
        prompt: prompt.to_owned(),
        history: Vec::new(),
        max_steps: 10,
        max_tokens: 100_000,
        settings: "{}".to_owned(),
        meta: Vec::new(),
    }
}

fn says(text: &str) -> Value {
    json!({ "content": text, "finish_reason": "stop" })
}

fn asks(calls: &[(&str, Value)]) -> Value {
    let calls: Vec<Value> = calls
        .iter()
        .enumerate()
        .map(|(number, (name, arguments))| {
            json!({ "id": format!("c{number}"), "type": "function", "function": { "name": name, "arguments": arguments } })
        })
        .collect();
    json!({ "content": null, "finish_reason": "tool_calls", "tool_calls": calls })
}

#[test]
fn an_answer_without_tool_calls_is_the_end() {
    let mut hub = Fake::answering([says("Hello.")]);
    assert_eq!(hub.run(&task("hi"), "{}").unwrap(), "Hello.");
    let heard = hub.heard();
    assert_eq!(heard[0]["role"], "system");
    assert_eq!(heard[1..], [json!({ "role": "user", "content": "hi" })]);
    assert_eq!(hub.called("sendMessage"), [&json!({ "message": "Hello." })]);
    let ask = hub.called("inference")[0];
    assert_eq!(
        (&ask["tool_choice"], ask["tools"].as_array().unwrap().len()),
        (&json!("auto"), 6)
    );
    assert!(ask.get("model").is_none());
}

#[test]
fn the_thread_so_far_and_the_instructions_go_first() {
    let mut task = task("and now?");
    task.history = vec![
        Turn {
            prompt: "one".to_owned(),
            answer: "1".to_owned(),
        },
        Turn {
            prompt: "two".to_owned(),
            answer: String::new(),
        },
    ];
    let mut hub = Fake::answering([says("3")]);
    let all = r#"["read_file","write_file","list_directory","search","apply_diff","run_command"]"#;
    let settings = format!(r#"{{"instructions":"Be brief.","model":"m","disable":{all}}}"#);
    hub.run(&task, &settings).unwrap();
    let heard = hub.heard();
    assert!(heard[0]["content"].as_str().unwrap().ends_with("\n\nBe brief."));
    let contents: Vec<&str> = heard[1..]
        .iter()
        .map(|message| message["content"].as_str().unwrap())
        .collect();
    assert_eq!(contents, ["one", "1", "two", UNANSWERED, "and now?"]);
    let ask = hub.called("inference")[0];
    assert_eq!(ask["model"], "m");
    assert!(ask.get("tools").is_none() && ask.get("tool_choice").is_none());
}

#[test]
fn several_calls_of_one_answer_are_made_in_order() {
    let calls = [
        ("read_file", json!("{\"path\":\"a\"}")),
        ("write_file", json!("{\"path\":\"b\",\"content\":\"c\"}")),
    ];
    let mut hub = Fake::answering([asks(&calls), says("done")]);
    hub.replies
        .push(("fsEvent:readFile", Ok(json!({ "path": "a", "content": "text of a" }))));
    hub.run(&task("x"), "{}").unwrap();
    let names: Vec<&str> = hub.calls.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "inference",
            "fsEvent:readFile",
            "fsEvent:writeToFile",
            "inference",
            "sendMessage"
        ]
    );
    assert_eq!(
        hub.called("fsEvent:writeToFile"),
        [&json!({ "path": "b", "content": "c" })]
    );
    let heard = hub.heard();
    assert_eq!(heard[2]["content"], Value::Null);
    assert_eq!(heard[2]["tool_calls"][1]["id"], "c1");
    assert_eq!(
        heard[3],
        json!({ "role": "tool", "tool_call_id": "c0", "content": "text of a" })
    );
    assert_eq!(
        heard[4],
        json!({ "role": "tool", "tool_call_id": "c1", "content": "done" })
    );
}

#[test]
fn what_the_model_gets_wrong_is_told_to_the_model() {
    let calls = [
        ("read_file", json!("{\"path\": \"CHANG")),
        ("read_file", json!("[1]")),
        ("read_file", json!({ "path": "as an object" })),
        ("read_file", json!("")),
        ("delete_everything", json!("{}")),
    ];
    let mut hub = Fake::answering([asks(&calls), says("done")]);
    hub.replies.push((
        "fsEvent:readFile",
        Err(CallError::not_found("there is no file `as an object`")),
    ));
    assert_eq!(hub.run(&task("x"), "{}").unwrap(), "done");
    assert_eq!(
        hub.results(),
        [
            "error: the arguments must be one JSON object (EOF while parsing a string at line 1 column 15); they started \
             with: {\"path\": \"CHANG",
            "error: the arguments must be one JSON object (they are no object); they started with: [1]",
            "error: not-found: there is no file `as an object`",
            "error: `path` is missing; it is a string",
            "error: there is no tool `delete_everything`; the tools are: read_file, write_file, list_directory, search, \
             apply_diff, run_command",
        ]
    );
    assert_eq!(hub.called("fsEvent:readFile").len(), 1);
    let heard = hub.heard();
    let sent: Vec<&str> = (0..3)
        .map(|n| heard[2]["tool_calls"][n]["function"]["arguments"].as_str().unwrap())
        .collect();
    assert_eq!(sent, ["{}", "{}", "{\"path\":\"as an object\"}"]);
}

#[test]
fn a_cancelled_call_ends_the_run() {
    let mut hub = Fake::answering([asks(&[("run_command", json!("{\"command\":\"make\"}"))]), says("never")]);
    hub.replies
        .push(("executeCommand", Err(CallError::cancelled("stopped"))));
    assert_eq!(hub.run(&task("x"), "{}"), Err(CallError::cancelled("stopped")));
}

#[test]
fn a_failed_inference_ends_the_run_as_it_failed() {
    let mut hub = Fake {
        answers: [Err(CallError::unavailable("no endpoint"))].into(),
        ..Fake::default()
    };
    assert_eq!(hub.run(&task("x"), "{}"), Err(CallError::unavailable("no endpoint")));
}

#[test]
fn a_person_who_cannot_be_told_does_not_stop_the_work() {
    let mut hub = Fake::answering([says("done")]);
    hub.replies.push(("sendMessage", Err(CallError::denied("not here"))));
    assert_eq!(hub.run(&task("x"), "{}").unwrap(), "done");
    assert_eq!(
        hub.warnings,
        ["the person cannot be told what the agent does: denied: not here"]
    );
}

#[test]
fn the_step_budget_ends_the_run_by_name() {
    let again = || asks(&[("list_directory", json!("{\"path\":\".\"}"))]);
    let mut hub = Fake::answering([again(), again(), again()]);
    let error = hub
        .run(
            &Task {
                max_steps: 2,
                ..task("x")
            },
            "{}",
        )
        .unwrap_err();
    let text = "the agent is not done and has used its budget of inference calls (2 used): raise `steps` under `[agent]` \
                in waypost.toml, or give it a smaller task";
    assert_eq!(error, CallError::limit(text));
    assert_eq!(hub.called("inference").len(), 2);
}

#[test]
fn the_token_budget_counts_what_the_endpoint_counted() {
    let mut counted = asks(&[("list_directory", json!("{\"path\":\".\"}"))]);
    counted["usage"] = json!({ "prompt_tokens": 700, "completion_tokens": 300 });
    let mut hub = Fake::answering([counted, says("never asked")]);
    let error = hub
        .run(
            &Task {
                max_tokens: 1000,
                ..task("x")
            },
            "{}",
        )
        .unwrap_err();
    let text = "the agent is not done and has used its budget of tokens (1000 used): raise `tokens` under `[agent]` in \
                waypost.toml, or give it a smaller task";
    assert_eq!(error, CallError::limit(text));
    assert_eq!(hub.called("inference").len(), 1);
}

#[test]
fn an_endpoint_that_does_not_count_is_estimated_from_the_bytes() {
    let answer = || asks(&[("list_directory", json!("{\"path\":\".\"}"))]);
    let mut hub = Fake::answering([answer(), answer()]);
    assert!(
        hub.run(
            &Task {
                max_tokens: 900,
                ..task(&"x".repeat(2000))
            },
            "{}"
        )
        .is_err()
    );
    // The prompt alone counts 500, the tools and the system prompt more than 400.
    assert_eq!(hub.called("inference").len(), 1);
    assert_eq!((estimate(0), estimate(1), estimate(4), estimate(5)), (0, 1, 1, 2));
}

#[test]
fn an_answer_that_uses_up_the_budget_still_counts() {
    let mut last = says("just in time");
    last["usage"] = json!({ "total_tokens": 2000 });
    let mut hub = Fake::answering([last]);
    assert_eq!(
        hub.run(
            &Task {
                max_tokens: 1000,
                max_steps: 1,
                ..task("x")
            },
            "{}"
        )
        .unwrap(),
        "just in time"
    );
}

#[test]
fn an_answer_cut_at_the_length_limit_is_continued() {
    let cut = |text: &str| json!({ "content": text, "finish_reason": "length" });
    let mut hub = Fake::answering([cut("one "), cut("two "), says("three")]);
    assert_eq!(hub.run(&task("count"), "{}").unwrap(), "one two three");
    assert_eq!(hub.heard().last().unwrap()["content"], CONTINUE);
    let mut hub = Fake::answering([cut("")]);
    let text = "the model reached its length limit before it said anything; choose another model or raise its limit at \
                the endpoint";
    assert_eq!(hub.run(&task("count"), "{}"), Err(CallError::limit(text)));
}

#[test]
fn an_empty_answer_is_asked_for_once_more() {
    let mut hub = Fake::answering([says(" \n"), says("done")]);
    assert_eq!(hub.run(&task("x"), "{}").unwrap(), "done");
    assert_eq!(hub.heard().last().unwrap()["content"], EMPTY);
    let mut hub = Fake::answering([json!({}), json!({ "content": "", "finish_reason": "content_filter" })]);
    let text = "the model gave an empty answer (finish reason: content_filter); try another model";
    assert_eq!(hub.run(&task("x"), "{}"), Err(CallError::other(text)));
}

#[test]
fn a_reply_with_nothing_but_the_completion_is_understood() {
    let completion = json!({ "choices": [{ "message": { "role": "assistant", "content": "hi" }, "finish_reason": "stop" }],
                             "usage": { "total_tokens": 7 }, "object": "chat.completion" });
    let mut hub = Fake::answering([json!({ "completion": completion })]);
    assert_eq!(hub.run(&task("x"), "{}").unwrap(), "hi");
    let mut hub = Fake::answering([json!({ "content": 7 })]);
    let error = hub.run(&task("x"), "{}").unwrap_err().to_string();
    assert!(
        error.starts_with("invalid: the reply to inference does not fit: invalid type"),
        "{error}"
    );
}

#[test]
fn calls_without_an_id_get_one_that_a_repetition_gives_again() {
    let call = json!({ "function": { "name": "list_directory", "arguments": "{\"path\":\".\"}" } });
    let mut hub = Fake::answering([json!({ "tool_calls": [call, call] }), says("done")]);
    hub.run(&task("x"), "{}").unwrap();
    let heard = hub.heard();
    assert_eq!(
        (&heard[3]["tool_call_id"], &heard[4]["tool_call_id"]),
        (&json!("call-1-1"), &json!("call-1-2"))
    );
    assert_eq!(heard[2]["tool_calls"][1]["id"], "call-1-2");
}

#[test]
fn what_an_endpoint_wants_back_with_a_call_goes_back() {
    let call = json!({ "id": "c", "type": "function", "extra_content": { "signature": "s" },
                       "function": { "name": "list_directory", "arguments": "{\"path\":\".\"}" } });
    let mut hub = Fake::answering([json!({ "tool_calls": [call] }), says("done")]);
    hub.run(&task("x"), "{}").unwrap();
    assert_eq!(hub.heard()[2]["tool_calls"][0], call);
}

#[test]
fn a_flood_of_calls_is_cut_and_the_model_told() {
    let calls = vec![("list_directory", json!("{\"path\":\".\"}")); CALLS_PER_ANSWER + 8];
    let mut hub = Fake::answering([asks(&calls), says("done")]);
    hub.run(&task("x"), "{}").unwrap();
    let results = hub.results();
    assert_eq!(results.len(), CALLS_PER_ANSWER);
    assert_eq!(
        results.last().unwrap(),
        "{}\n(8 more calls were not made: one answer may hold 32 tool calls.)"
    );
    assert_eq!(hub.called("fsEvent:listDirectory").len(), CALLS_PER_ANSWER);
}

#[test]
fn a_long_result_loses_its_middle() {
    let mut hub = Fake::answering([asks(&[("read_file", json!("{\"path\":\"long\"}"))]), says("done")]);
    let long = format!("start {} end", "x".repeat(2 * RESULT_BYTES));
    hub.replies.push(("fsEvent:readFile", Ok(json!({ "content": long }))));
    hub.run(&task("x"), "{}").unwrap();
    let result = &hub.results()[0];
    assert!(result.starts_with("start x") && result.ends_with("x end"));
    assert!(
        result.contains("\n[... 32778 bytes left out ...]\n"),
        "{}",
        result.len()
    );
}

/// The demo: what this agent sends is what the recordings of `replay` answer.
#[test]
fn the_demo_conversation_is_recorded() {
    struct Demo(Fake);

    impl Hub for Demo {
        fn call(&mut self, name: &str, message: &Value) -> Result<Value> {
            let reply = match name {
                "inference" => {
                    let messages = message["messages"].as_array().unwrap();
                    waypost_replay::answer(messages)?.reply
                }
                "fsEvent:readFile" => {
                    let text = "# Changes\n\n- Faster start (#42)\n- Fixed the lost reply on reconnect (#57)\n";
                    json!({ "path": "CHANGES.md", "content": text, "size": 73 })
                }
                "ticket:find" if message["id"] == 42 => {
                    json!({ "id": 42, "title": "Start takes 4 s on a cold cache", "state": "closed" })
                }
                "ticket:find" => {
                    json!({ "id": 57, "title": "A reply sent during reconnect never arrives", "state": "closed" })
                }
                _ => json!({}),
            };
            self.0.calls.push((name.to_owned(), message.clone()));
            Ok(reply)
        }

        fn warn(&mut self, text: &str) {
            self.0.warn(text);
        }
    }

    let settings = r#"{"tools":[{"name":"find_ticket","description":"Finds a ticket by its number.","call":"ticket:find",
        "parameters":{"type":"object","properties":{"id":{"type":"integer"}},"required":["id"]}}]}"#;
    let prompt =
        "Write RELEASE.md from CHANGES.md. Look up each ticket it names and say in one line what it was about.";
    let mut hub = Demo(Fake::default());
    let task = task(prompt);
    let answer = Conversation::new(&mut hub, &task, serde_json::from_str(settings).unwrap())
        .unwrap()
        .work()
        .unwrap();
    assert_eq!(
        answer,
        "RELEASE.md is written: two entries, each with one line on what its ticket (#42, #57) was about."
    );
    assert_eq!(hub.0.called("inference").len(), 4);
    assert_eq!(hub.0.called("sendMessage").len(), 4);
    assert_eq!(
        hub.0.called("ticket:find"),
        [&json!({ "id": 42 }), &json!({ "id": 57 })]
    );
    let written = hub.0.called("fsEvent:writeToFile");
    assert_eq!(written.len(), 1);
    assert_eq!(written[0]["path"], "RELEASE.md");
    assert!(written[0]["content"].as_str().unwrap().contains("(#57)"));
}

fn any_reply() -> impl Strategy<Value = Value> {
    let name = prop_oneof!["read_file", "list_directory", "search", "nothing"];
    let arguments = prop_oneof![
        "[{}\"a-z:]{0,12}".prop_map(Value::from),
        Just(json!("{\"path\":\"a\"}")),
        Just(json!("{\"pattern\":\"a\"}")),
        any::<u8>().prop_map(Value::from),
    ];
    let call =
        (name, arguments).prop_map(|(name, arguments)| json!({ "function": { "name": name, "arguments": arguments } }));
    let content = prop_oneof![Just(Value::Null), "[a-z ]{0,8}".prop_map(Value::from)];
    let reason = prop_oneof![Just("stop"), Just("length"), Just("tool_calls"), Just("odd")];
    let tokens = proptest::option::of(0u64..400);
    (content, reason, proptest::collection::vec(call, 0..3), tokens).prop_map(|(content, reason, calls, tokens)| {
        json!({ "content": content, "finish_reason": reason, "tool_calls": calls, "usage": { "total_tokens": tokens } })
    })
}

proptest! {
    /// Whatever the model answers: it ends, within its steps, with the same calls each time, and every tool call that the
    /// model is reminded of has its one result.
    #[test]
    fn any_model_is_survived(replies in proptest::collection::vec(any_reply(), 0..12)) {
        let run = || {
            let mut hub = Fake::answering(replies.clone());
            let end = hub.run(&Task { max_steps: 6, max_tokens: 1000, ..task("x") }, "{}");
            (end, hub)
        };
        let (end, hub) = run();
        let (again, other) = run();
        prop_assert_eq!(end, again);
        prop_assert_eq!(&hub.calls, &other.calls);
        let asked = hub.called("inference");
        prop_assert!(asked.len() <= 6);
        for ask in asked {
            let messages = ask["messages"].as_array().unwrap();
            let calls = messages.iter().flat_map(|message| message["tool_calls"].as_array().into_iter().flatten());
            let calls: Vec<&Value> = calls.map(|call| &call["id"]).collect();
            let results: Vec<&Value> =
                messages.iter().filter(|message| message["role"] == "tool").map(|message| &message["tool_call_id"]).collect();
            prop_assert_eq!(calls, results);
        }
    }

    #[test]
    fn a_bounded_text_is_bounded_and_cut_between_characters(part in "[aü€]{1,7}", times in 0usize..20_000) {
        let text = part.repeat(times);
        let result = bounded(text.clone());
        prop_assert!(result.len() <= RESULT_BYTES + 60);
        prop_assert!(text.len() > RESULT_BYTES || result == text);
    }
}
