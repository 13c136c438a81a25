//! Agents on the newer dialect of `/codebolt`, as programs that the hub starts: a client that numbers each frame, and takes
//! an answer by its number, else by its type, else as a message that nobody asked for. Whatever is not matched by its
//! number may end up with the wrong caller; so the client counts what took each frame, and every trial looks at that.
//!
//! The rows are those of SDK 6, whose frames and awaited types differ from the published 1.1.99 ([`crate::sdk`]).

use std::collections::HashSet;
use std::path::Path;

use libtest_mimic::Trial;
use serde_json::{Value, json};
use waypost::run::{Run, State};

use crate::connections;
use crate::harness::endpoint::{Endpoint, say};
use crate::harness::{Open, process};
use crate::sdk::{Agent, check};

mod rows;

use rows::{SERVED, UNAWAITED, UNSERVED};

/// The trials.
pub fn trials() -> Vec<Trial> {
    vec![
        trial("every_row_is_answered_under_its_own_number", every_row),
        trial("sixty_four_calls_at_once_each_have_their_own_answer", at_once),
        trial("what_nobody_serves_is_told_and_what_awaits_nothing_is_silent", silent),
        trial(
            "a_proxied_call_has_the_agents_number_whatever_the_connection_wrote",
            proxied,
        ),
        trial("the_end_of_a_stream_is_not_taken_for_that_of_a_command", streamed),
        trial("streams_that_have_ended_are_in_no_commands_way", crowded),
        trial("a_run_ends_as_its_agent_says", ended),
        trial("stop_comes_as_a_message_beside_what_is_awaited", stopped),
        trial("a_close_of_the_hubs_side_rejects_what_is_pending", closed),
        trial("no_prompt_keeps_an_agent_from_connecting", prompted),
        trial("a_long_query_is_taken_and_none_of_it_is_told", long_query),
    ]
}

fn trial<F>(name: &str, test: impl FnOnce(Agent) -> F + Send + 'static) -> Trial
where
    F: Future<Output = ()>,
{
    crate::sdk::trial_of(&format!("newer::{name}"), include_str!("agents/newer.js"), test)
}

/// A row of a table: `type action {fields} -> awaited: expected`. There may be no action, no fields and nothing expected;
/// `awaited` is what the client takes by its type, several joined by `|`, or `nothing`.
#[derive(Debug)]
struct Row {
    frame: Value,
    awaits: &'static str,
    expected: &'static str,
}

fn rows(table: &'static str) -> impl Iterator<Item = Row> {
    table.lines().filter(|line| !line.is_empty()).map(|line| {
        let (call, awaits) = line.rsplit_once(" -> ").unwrap();
        let (awaits, expected) = awaits.split_once(": ").unwrap_or((awaits, ""));
        let (name, fields) = call.find('{').map_or((call, "{}"), |at| call.split_at(at));
        let mut frame: Value = serde_json::from_str(fields).unwrap_or_else(|error| panic!("{error}: {line}"));
        let mut words = name.split_whitespace();
        frame["type"] = json!(words.next());
        if let Some(action) = words.next() {
            frame["action"] = json!(action);
        }
        Row {
            frame,
            awaits,
            expected,
        }
    })
}

impl Row {
    /// The order by which the agent makes it.
    fn order(&self) -> Value {
        match self.awaits {
            "nothing" => json!({ "send": self.frame }),
            awaits => json!({ "ask": self.frame, "awaits": awaits }),
        }
    }

    /// The same, with the next order before its answer.
    fn later(&self) -> Value {
        let mut order = self.order();
        order["later"] = json!(true);
        order
    }
}

/// The order for a command, with the next one before its answer.
fn command(line: &str) -> Value {
    let frame = json!({ "type": "executeCommand", "message": line });
    json!({ "ask": frame, "awaits": "commandError|commandFinish", "later": true })
}

fn ask(call: &'static str) -> Row {
    rows(call).next().unwrap()
}

/// What came of the orders, after a look at what no list of orders may lead to.
struct Followed {
    results: Vec<Value>,
    /// Frames that nobody asked for.
    unasked: Vec<Value>,
}

fn followed(run: &Run) -> Followed {
    let answer = run.answer.as_ref().unwrap_or_else(|| panic!("{:?}", run.error));
    let said: Value = serde_json::from_str(answer).unwrap();
    let list = |name: &str| said[name].as_array().unwrap().clone();
    let (results, unasked) = (list("results"), list("unasked"));
    let resolved: Vec<&Value> = results.iter().filter(|result| result["by"] != "message").collect();
    for result in &resolved {
        assert_eq!(result["by"], "number", "{result}");
        assert_eq!(result["frame"]["requestId"], result["id"]);
    }
    // One frame for each that is awaited, and the prompt; not one that went elsewhere.
    let took = json!({ "number": resolved.len(), "type": 0, "route": 0, "message": 1 + unasked.len() });
    assert_eq!(said["took"], took, "{unasked:?}");
    Followed { results, unasked }
}

/// Runs an agent that makes these rows one after the other; a result for each that awaits one.
async fn follow(agent: &Agent, open: &Open, orders: Vec<Value>) -> Followed {
    followed(&agent.run(open, &json!(orders).to_string()).await)
}

async fn every_row(agent: Agent) {
    let endpoint = Endpoint::start([say("hello")]).await;
    let open = agent.project().toml(&endpoint.config()).open().await;
    let served: Vec<Row> = rows(SERVED).collect();
    let person = async {
        for answer in ["go on", "Yes", "not yet"] {
            open.answer(answer).await;
        }
    };
    let orders = served.iter().map(Row::order).collect();
    let (ran, ()) = tokio::join!(follow(&agent, &open, orders), person);
    assert_eq!(ran.results.len(), served.len());
    for (row, result) in served.iter().zip(&ran.results) {
        check(&row.frame, row.expected, &result["frame"]);
    }
    assert!(ran.unasked.is_empty(), "{:?}", ran.unasked);
    let unserved: Vec<Row> = rows(UNSERVED).collect();
    let ran = follow(&agent, &open, unserved.iter().map(Row::order).collect()).await;
    assert_eq!(ran.results.len(), unserved.len());
    for (row, result) in unserved.iter().zip(&ran.results) {
        unserved_by_all(row, &result["frame"]);
        if !row.expected.is_empty() {
            check(&row.frame, row.expected, &result["frame"]);
        }
    }
    assert!(ran.unasked.is_empty(), "{:?}", ran.unasked);
}

fn unserved_by_all(row: &Row, frame: &Value) {
    assert_eq!(frame["success"], false, "{row:?}: {frame}");
    let error = frame["error"].as_str().unwrap_or_default();
    let remedy = "has no built-in handler; load a plugin that serves it or connect a process that claims it";
    assert!(error.contains(remedy), "{row:?}: {frame}");
}

async fn at_once(agent: Agent) {
    const COMMANDS: usize = 16;
    let endpoint = Endpoint::start((0..8).map(|n| say(&format!("said {n}")))).await;
    let project = (0..16).fold(agent.project(), |project, n| {
        project.file(&format!("{n}.txt"), format!("file {n}"))
    });
    let open = project.toml(&endpoint.config()).open().await;
    // Each command waits for the one after it, and the last for what is asked for last.
    let command = |n: usize| {
        let line = format!("until [ -e go{} ]; do sleep 0.01; done; echo {n}; touch go{n}", n + 1);
        command(&line)
    };
    let write = |path: &str| {
        let message = json!({ "relPath": path, "newContent": "w" });
        json!({
            "ask": { "type": "fsEvent", "action": "writeToFile", "message": message },
            "awaits": "writeToFileResponse", "later": true,
        })
    };
    let inference =
        ask(r#"inference {"message":{"prompt":{"messages":[{"role":"user","content":"x"}]}}} -> llmResponse"#);
    let mut orders: Vec<Value> = (0..COMMANDS).map(command).collect();
    for n in 0..16 {
        let read = json!({ "filePath": format!("{n}.txt") });
        orders.push(json!({
            "ask": { "type": "fsEvent", "action": "readFile", "message": read }, "awaits": "readFileResponse", "later": true,
        }));
        let action = format!("todo{n}");
        orders.push(json!({
            "ask": { "type": "todoEvent", "action": action }, "awaits": format!("{action}Response"), "later": true,
        }));
        if n < 9 {
            orders.push(write(&format!("w{n}")));
        } else if n < 15 {
            orders.push(inference.later());
        }
    }
    orders.push(write(&format!("go{COMMANDS}")));
    assert_eq!(orders.len(), 64);
    let ran = follow(&agent, &open, orders.clone()).await;
    assert_eq!(ran.results.len(), 64);
    let mut said = HashSet::new();
    for (order, result) in orders.iter().zip(&ran.results) {
        let (asked, frame) = (&order["ask"], &result["frame"]);
        match (asked["type"].as_str().unwrap(), asked["action"].as_str()) {
            ("executeCommand", _) => {
                let own = format!("echo {};", frame["stdout"].as_str().unwrap().trim());
                assert!(asked["message"].as_str().unwrap().contains(&own), "{frame}");
            }
            ("fsEvent", Some("readFile")) => {
                let own = asked["message"]["filePath"].as_str().unwrap().replace(".txt", "");
                assert_eq!(frame["content"], format!("file {own}"));
            }
            ("fsEvent", _) => assert_eq!(frame["path"], asked["message"]["relPath"]),
            ("inference", _) => assert!(said.insert(frame["content"].as_str().unwrap().to_owned()), "{frame}"),
            (_, action) => assert!(frame["error"].as_str().unwrap().contains(action.unwrap()), "{frame}"),
        }
    }
    // The commands were answered from the last to the first, behind what was asked after them. One frees the next a moment
    // before its own end, so neighbours may change places.
    let at = |result: &Value| result["at"].as_u64().unwrap();
    let commands: Vec<u64> = ran.results[..COMMANDS].iter().map(at).collect();
    let (early, late) = commands.split_at(COMMANDS / 2);
    assert!(early.iter().zip(late).all(|(early, late)| early > late), "{commands:?}");
    assert!(at(&ran.results[63]) < commands[0]);
}

async fn silent(agent: Agent) {
    let open = agent.project().open().await;
    // It would take whatever is answered to the others by its type.
    let mut types = vec![
        "waitFormessageResponse".to_owned(),
        "error".to_owned(),
        "EnterResponse".to_owned(),
    ];
    for Row { frame, .. } in rows(UNAWAITED) {
        let names = [&frame["action"], &frame["type"]].into_iter().filter_map(Value::as_str);
        types.extend(names.flat_map(|name| [name.to_owned(), format!("{name}Response")]));
    }
    let question = json!({ "type": "waitforReply", "message": "all heard?" });
    let eager = json!({ "ask": question, "awaits": types.join("|"), "later": true });
    let unknown = [
        ask("acme.sing -> acme.singResponse"),
        ask(r#"acmeEvent dance {"message":{}} -> danceResponse"#),
        ask("acme -> acmeResponse"),
    ];
    let mut orders = vec![eager];
    orders.extend(rows(UNAWAITED).map(|row| row.order()));
    orders.extend(unknown.iter().map(Row::order));
    // What awaits nothing is made in its order: when this is done, so is all before it.
    orders.push(ask(r#"sendMessage {"message":"the last of them"} -> nothing"#).order());
    let person = async {
        let last = open
            .event(|event| event.body.as_str().contains(r#"{"message":"the last of them"}"#))
            .await;
        open.event(|event| event.call == last.call && &*event.kind == "call.ended")
            .await;
        open.answer("yes").await;
    };
    let (ran, ()) = tokio::join!(follow(&agent, &open, orders), person);
    assert_eq!(ran.results[0]["frame"]["message"], "yes");
    for (row, result) in unknown.iter().zip(&ran.results[1..]) {
        unserved_by_all(row, &result["frame"]);
    }
    assert!(ran.unasked.is_empty(), "{:?}", ran.unasked);
}

async fn proxied(agent: Agent) {
    let rule = "[[route]]\nmatch = [\"fsEvent\", \"gitEvent\", \"todoEvent\", \"kvStore\"]\nto = \"proxy\"";
    let (open, served) = connections::open_with(agent.project(), rule).await;
    let mut vault = connections::join(&served, "vault").await;
    connections::quiet(&mut vault).await;
    // Both are pending when the first is answered, each with the other's number in what the connection made.
    let calls = [
        ask(r#"fsEvent readFile {"message":{"filePath":"a.txt"}} -> readFileResponse"#),
        ask(r#"fsEvent readFile {"message":{"filePath":"b.txt"}} -> readFileResponse"#),
        ask(r#"gitEvent Status {"path":"."} -> gitStatusResponse"#),
        ask(r#"todoEvent addTodo {"message":{}} -> addTodoResponse"#),
        ask(r#"kvStore.get {"params":{"key":"k"}} -> kvStore.get"#),
        ask(r#"gitEvent Add -> AddResponse"#),
    ];
    let connection = async {
        let mut requests = Vec::new();
        for _ in &calls {
            requests.push(vault.hear().await);
        }
        let by = |kind: &str, path: &str| {
            let found = requests.iter().find(|request| {
                let original = &request["originalMessage"];
                original["type"] == kind && (path.is_empty() || original.to_string().contains(path))
            });
            found.unwrap_or_else(|| panic!("{kind} {path}: {requests:?}"))
        };
        for request in &requests {
            assert_eq!(request["requestId"], request["originalMessage"]["requestId"]);
        }
        let (a, b) = (by("fsEvent", "a.txt"), by("fsEvent", "b.txt"));
        let own = [
            (
                a,
                json!({ "type": "readFileResponse", "requestId": b["requestId"], "content": "a" }),
            ),
            (
                b,
                json!({ "type": "messageResponse", "requestId": a["requestId"], "content": "b" }),
            ),
            (
                by("gitEvent", "Status"),
                json!({ "type": "processStoped", "requestId": "own", "data": "s" }),
            ),
            (by("todoEvent", ""), json!(["no", "object"])),
            (
                by("kvStore.get", ""),
                json!({ "requestId": null, "type": 7, "value": "v" }),
            ),
        ];
        for (request, result) in own {
            vault.say(connections::reply(request, result)).await;
        }
        let failed = by("gitEvent", "Add");
        vault
            .say(json!({
                "type": "executionGateway.reply", "requestId": "own", "replyRequestId": failed["requestId"],
                "success": false, "result": { "type": "x", "requestId": "own", "error": "no repository" },
            }))
            .await;
    };
    let (ran, ()) = tokio::join!(
        follow(&agent, &open, calls.iter().map(Row::later).collect()),
        connection
    );
    let expected = [
        "/content=\"a\"",
        "/content=\"b\"",
        "/data=\"s\"",
        "/result=[\"no\", \"object\"]",
        "/value=\"v\"",
        "/error=\"no repository\"",
    ];
    for ((row, expected), result) in calls.iter().zip(expected).zip(&ran.results) {
        check(&row.frame, expected, &result["frame"]);
    }
    assert!(ran.unasked.is_empty(), "{:?}", ran.unasked);
}

async fn streamed(agent: Agent) {
    let open = agent.project().open().await;
    for (end, kind, code) in [("true", "commandFinish", 0), ("exit 7", "commandError", 7)] {
        // The client hears a stream as messages, and does not wait for the number of its end: a command that it waits for
        // would take that by its type.
        let stream = json!({ "type": "executeCommandWithStream", "message": format!("echo out; touch ended; {end}") });
        let waits = command("until [ -e ended ]; do sleep 0.01; done; sleep 0.3; echo own; rm ended");
        let ran = follow(
            &agent,
            &open,
            vec![waits, json!({ "send": stream }), json!({ "until": kind })],
        )
        .await;
        assert_eq!(ran.results[0]["frame"]["stdout"], "own\n");
        assert_eq!(ran.results[1]["by"], "message");
        let told: Vec<(&str, i64)> = ran
            .unasked
            .iter()
            .map(|frame| {
                (
                    frame["type"].as_str().unwrap(),
                    frame["exitCode"].as_i64().unwrap_or(-1),
                )
            })
            .collect();
        assert_eq!(told, [("commandOutput", -1), (kind, code)], "{:?}", ran.unasked);
    }
}

async fn crowded(agent: Agent) {
    // More than are worked on at the same time, and all of them end before the first command does.
    const STREAMS: usize = 70;
    let open = agent.project().open().await;
    let ends = "commandError|commandFinish";
    let command =
        |line: &str| json!({ "ask": { "type": "executeCommand", "message": line }, "awaits": ends, "later": true });
    let mut orders = vec![command("until [ -e go ]; do sleep 0.01; done; echo first")];
    orders.extend((0..STREAMS).map(|_| json!({ "send": { "type": "executeCommandWithStream", "message": "true" } })));
    orders.push(command("touch go; echo last"));
    orders.push(json!({ "until": "commandFinish", "times": STREAMS }));
    let ran = follow(&agent, &open, orders).await;
    assert_eq!(ran.results[0]["frame"]["stdout"], "first\n");
    assert_eq!(ran.results[1]["frame"]["stdout"], "last\n");
    assert_eq!((ran.unasked.len(), &ran.results[2]["by"]), (STREAMS, &json!("message")));
}

async fn ended(agent: Agent) {
    let open = agent.project().open().await;
    for (prompt, state, answer, error) in [
        ("good morning", State::Completed, Some("you said: good morning"), ""),
        ("finish", State::Completed, Some("my last words"), ""),
        (
            "give up",
            State::Failed,
            None,
            "other: the agent gave up: no more paper",
        ),
    ] {
        let run = agent.run(&open, prompt).await;
        let told = run.error.map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(
            (run.state, run.answer.as_deref(), &*told),
            (state, answer, error),
            "{prompt}"
        );
    }
}

async fn stopped(agent: Agent) {
    let open = agent.project().open().await;
    let run = agent.start(&open, "stop me").await;
    open.event(|event| event.run == run.id && event.body.as_str().contains("I wait"))
        .await;
    open.questions(1).await;
    open.hub.runs.cancel(&run.id).await.unwrap();
    assert_eq!(agent.ended(&open, &run).await.state, State::Cancelled);
    let ended = open
        .event(|event| event.run == run.id && &*event.kind == "agent.ended")
        .await;
    assert_eq!(
        ended.body.to::<Value>().unwrap(),
        json!({ "status": "SIGTERM", "output": "by number: cancelled; by message: stopProcessClicked" })
    );
}

async fn closed(agent: Agent) {
    let open = agent.project().open().await;
    for (prompt, why) in [
        (
            "say nonsense",
            Some("closed 1008: three frames were not one JSON object each"),
        ),
        ("say too much", None),
    ] {
        let run = agent.run(&open, prompt).await;
        let error = run.error.map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(
            error,
            "other: the agent process ended (exit code 3) before it said that it was done: WebSocket connection closed",
            "{prompt}"
        );
        let ended = open
            .event(|event| event.run == run.id && &*event.kind == "agent.ended")
            .await;
        if let Some(why) = why {
            assert!(ended.body.as_str().contains(why), "{}", ended.body.as_str());
        }
    }
}

async fn prompted(agent: Agent) {
    let open = agent.project().open().await;
    // The client writes the task into its query as it is.
    for prompt in [
        "fix #12",
        "a&threadToken=guess&agentId=b",
        "100% of a+b = c? \u{1f600}\n\"quoted\"\t\\ /../..",
        "%zz%00",
    ] {
        let run = agent.run(&open, prompt).await;
        assert_eq!(run.answer, Some(format!("you said: {prompt}")), "{:?}", run.error);
    }
}

async fn long_query(agent: Agent) {
    const SECRET: &str = "c4nary-0f-the-agent's-0wn";
    let long = "0123456789 abcdef&=#%".repeat(400);
    let names: Vec<String> = (0..4).map(|n| format!("LONG_{n}")).collect();
    let mut variables: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), long.as_str())).collect();
    variables.push(("SERVICE_KEY", SECRET));
    let project = agent.project_with(&variables).written();
    assert!(variables.iter().map(|(_, value)| value.len()).sum::<usize>() > 32 << 10);
    let order = json!([ask(r#"fsEvent readFile {"message":{"filePath":"a.txt"}} -> readFileResponse"#).order()]);
    let everything = [("WAYPOST_LOG", "trace")];
    let arguments = ["run", "--json", "--agent", &agent.command(), &order.to_string()];
    let ran = process::run_with(project.root(), &everything, &arguments).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let last = ran.lines().pop().unwrap();
    let answer: Value = serde_json::from_str(last["body"]["answer"].as_str().unwrap()).unwrap();
    assert_eq!(answer["results"][0]["frame"]["content"], "hello\n");
    assert!(answer["query"].as_u64().unwrap() > 32 << 10, "{}", answer["query"]);
    // Of the log it is known that it says much; and what is on disk is what the hub keeps.
    assert!(ran.err.contains("TRACE"), "{}", ran.err);
    let encoded = SECRET.replace('\'', "%27");
    for told in [SECRET, &encoded, "c4nary", "0123456789 abcdef", "0123456789%20abcdef"] {
        assert!(!ran.out.contains(told) && !ran.err.contains(told), "{told} is told");
        nowhere(&project.root().join(".waypost"), told.as_bytes());
    }
}

/// No file in this folder holds the bytes.
fn nowhere(folder: &Path, bytes: &[u8]) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            nowhere(&path, bytes);
        } else {
            let held = std::fs::read(&path).unwrap();
            assert!(
                !held.windows(bytes.len()).any(|part| part == bytes),
                "{}",
                path.display()
            );
        }
    }
}
