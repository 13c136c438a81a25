//! A model endpoint that misbehaves: one clear error each time, and nobody else is disturbed.

use serde_json::{Value, json};
use waypost::call::{Dispatch, Sink};
use waypost::environment::NewEnvironment;
use waypost::run::{NewRun, Run, State};

use crate::harness::endpoint::{Endpoint, Turn, call, say};
use crate::harness::process::{self, Serving};
use crate::harness::{Open, Plugin, Project};

crate::listed![
    each_way_an_endpoint_fails_is_one_clear_error_and_another_run_completes_meanwhile,
    an_endpoint_that_is_not_there_and_one_that_is_not_configured_are_named,
    an_inference_that_brought_nothing_is_asked_once_more,
    what_was_recorded_is_replayed_without_an_endpoint,
    a_key_and_the_hubs_variables_are_never_seen_again,
];

/// A key that must never be seen again.
const KEY: &str = "sk-canary-0123456789abcdef";

/// A variable of the hub that no command may see.
const SECRET: &str = "hush-canary-9876543210fedcba";

async fn run(open: &Open, prompt: &str, label: &str) -> Run {
    let labels = [("model".to_owned(), label.to_owned())].into();
    let new_environment = NewEnvironment {
        labels,
        ..NewEnvironment::default()
    };
    let new = NewRun {
        prompt: prompt.to_owned(),
        new_environment,
        ..NewRun::default()
    };
    let run = open.hub.runs.start(&open.hub.project, new).await.unwrap();
    let ends = ["run.completed", "run.failed", "run.cancelled"];
    open.event(|event| event.run == run.id && ends.contains(&&*event.kind))
        .await;
    open.hub.runs.get(&run.id).await.unwrap()
}

fn failure(open: &Open, run: &Run) -> String {
    assert_eq!(run.state, State::Failed, "{run:?}");
    process::normal(open.root(), &run.error.as_ref().unwrap().to_string())
}

async fn each_way_an_endpoint_fails_is_one_clear_error_and_another_run_completes_meanwhile() {
    let text = |text: &str| text.to_owned();
    let turns = [
        Turn::Hang(text("")),
        Turn::Hang(text("Let me")),
        Turn::Status(500, text("out of order")),
        Turn::Status(401, text("who are you?")),
        Turn::Status(429, text("")),
        Turn::Status(404, text("")),
        Turn::Raw("text/html", text("<html>")),
        Turn::Raw("application/json", text("{\"choices\":7}")),
        Turn::Raw("text/event-stream", text("data: {oops\n\n")),
        Turn::Raw(
            "text/event-stream",
            text("data: {\"error\":{\"message\":\"overloaded\"}}\n\n"),
        ),
        Turn::Break(text("")),
        Turn::Break(text("Let me")),
    ];
    let mut errors = Vec::new();
    for turn in turns {
        let endpoint = Endpoint::start(vec![turn.clone(); 4]).await;
        let good = "[[route]]\nmatch = \"inference\"\nlabels = { model = \"good\" }\nto = \"plugin:answers\"";
        let open = Project::new()
            .toml(&endpoint.config())
            .toml("idle = \"200ms\"")
            .plugin(&Plugin::of("answers").serves(&["inference"]).unrouted())
            .toml(good)
            .open()
            .await;
        let (bad, other) = tokio::join!(run(&open, "go", "bad"), run(&open, "go", "good"));
        let error = failure(&open, &bad);
        assert_eq!(other.answer.as_deref(), Some("all is well"), "{turn:?}");
        let by_hand = open.error("inference", json!({ "prompt": "go" })).await;
        assert_eq!(process::normal(open.root(), &by_hand), error, "{turn:?}");
        open.reply("fsEvent:listDirectory", json!({ "path": "." })).await;
        errors.push(error);
    }
    let endpoint = "the endpoint 127.0.0.1:<port>";
    let silent =
        format!("timeout: {endpoint} sent nothing for 200ms and was given up; the limit is `[inference] idle`");
    let none = |why: &str| format!("unavailable: {endpoint} gave no answer: {why}; try again later");
    let early = none("its connection broke (unexpected EOF during chunk size line)");
    let expected = [
        silent.clone(),
        silent,
        format!("unavailable: {endpoint} answered 500: out of order"),
        format!("denied: {endpoint} answered 401: it wants a key; set OPENAI_API_KEY: who are you?"),
        format!("limit: {endpoint} answered 429, too many requests; try again later"),
        format!(
            "not-found: {endpoint} answered 404 for `/v1/chat/completions` and model `gpt-4o-mini`; check `[inference] \
             base-url` and the model"
        ),
        none("a part of its answer is not JSON (expected value at line 1 column 1)"),
        none("its answer has no choice"),
        none("a part of its answer is not JSON (key must be a string at line 1 column 2)"),
        none("it reported an error: overloaded"),
        early.clone(),
        early,
    ];
    assert_eq!(errors, expected);
}

async fn an_endpoint_that_is_not_there_and_one_that_is_not_configured_are_named() {
    let nobody = format!("[inference]\nbase-url = \"{}\"", Endpoint::nobody().await);
    for (config, expected) in [
        (
            nobody.as_str(),
            "unavailable: the endpoint 127.0.0.1:<port> cannot be reached: Connection refused (os error 111); check that it \
             runs and that `[inference] base-url` is right",
        ),
        (
            "",
            "unavailable: no model endpoint is configured; set `[inference] base-url` or the variable OPENAI_BASE_URL",
        ),
    ] {
        let open = Project::new().toml(config).open().await;
        assert_eq!(failure(&open, &run(&open, "go", "bad").await), expected);
        let by_hand = open.error("inference", json!({ "prompt": "go" })).await;
        assert_eq!(process::normal(open.root(), &by_hand), expected);
    }
}

async fn an_inference_that_brought_nothing_is_asked_once_more() {
    let endpoint = Endpoint::start([Turn::Status(500, String::new()), say("now")]).await;
    let open = Project::new().toml(&endpoint.config()).open().await;
    assert_eq!(run(&open, "go", "any").await.answer.as_deref(), Some("now"));
    let asked = endpoint.asked();
    assert_eq!((asked.len(), &asked[0].body), (2, &asked[1].body));
    // An agent that waits for the end alone has seen nothing of an answer that broke off.
    let endpoint = Endpoint::start([Turn::Break("Let".to_owned()), say("now")]).await;
    let open = Project::new().toml(&endpoint.config()).open().await;
    assert_eq!(run(&open, "go", "any").await.answer.as_deref(), Some("now"));
    // What was delivered is not asked for again.
    let endpoint = Endpoint::start([Turn::Break("Let".to_owned()), say("never")]).await;
    let open = Project::new().toml(&endpoint.config()).open().await;
    let (sink, mut chunks) = Sink::channel();
    let call = open.prepared("inference", json!({ "prompt": "go" })).await;
    let (reply, chunk) = tokio::join!(open.hub.dispatcher.dispatch(call, sink), chunks.recv());
    assert_eq!(chunk.unwrap().as_str(), r#"{"content":"Let"}"#);
    let error = process::normal(open.root(), &reply.result.unwrap_err().to_string());
    let text = "other: the answer broke off after 3 characters: 127.0.0.1:<port> failed: its connection broke \
                (unexpected EOF during chunk size line)";
    assert_eq!((error.as_str(), endpoint.asked().len()), (text, 1));
}

async fn what_was_recorded_is_replayed_without_an_endpoint() {
    let recordings = tempfile::tempdir().unwrap();
    let mode = |mode: &str| format!("mode = \"{mode}\"\nrecordings = {:?}", recordings.path());
    let turns = [call("read_file", json!({ "path": "a.txt" })), say("It says a.")];
    let endpoint = Endpoint::start(turns).await;
    let project = || Project::new().file("a.txt", "a\n");
    let open = project().toml(&endpoint.config()).toml(&mode("record")).open().await;
    let recorded = run(&open, "What does a.txt say?", "any").await;
    assert_eq!(recorded.answer.as_deref(), Some("It says a."));
    assert_eq!(std::fs::read_dir(recordings.path()).unwrap().count(), 2);

    let open = project().toml("[inference]").toml(&mode("replay")).open().await;
    let replayed = run(&open, "What does a.txt say?", "any").await;
    assert_eq!(replayed.answer, recorded.answer);
    let missing = failure(&open, &run(&open, "What does b.txt say?", "any").await);
    assert!(missing.starts_with("not-found: no recording `"), "{missing}");
    assert!(
        missing.contains("begins `What does b.txt say?`; record it: set `[inference] mode = \"record\"`"),
        "{missing}"
    );
    assert_eq!(endpoint.asked().len(), 2);
}

async fn a_key_and_the_hubs_variables_are_never_seen_again() {
    let endpoint = Endpoint::start([
        call(
            "run_command",
            json!({ "command": "env; cat /proc/$PPID/environ | tr '\\0' '\\n' | grep -c . >&2" }),
        ),
        say(&format!("The key is {KEY}.")),
        Turn::Status(500, format!("your key {KEY} is bad")),
        Turn::Status(401, format!("your key {KEY} is bad")),
    ])
    .await;
    let project = Project::new().toml(&endpoint.config()).written();
    let variables = [("OPENAI_API_KEY", KEY), ("PLANTED_SECRET", SECRET)];
    let hub = Serving::start(project.root(), &variables).await;
    let first = hub.start_run(json!({ "prompt": "go" })).await;
    let mut seen = format!("{:?}", hub.until_end(&first).await);
    let second = hub.start_run(json!({ "prompt": "again" })).await;
    seen += &format!("{:?}", hub.until_end(&second).await);
    let verb = ["call", "inference", r#"{"prompt":"hi"}"#];
    seen += &format!("{:?}", process::run(project.root(), &verb).await);
    seen += &format!(
        "{:?}",
        process::run(project.root(), &["event", "ls", "--json", "--limit", "1000"]).await
    );
    seen += &format!("{:?}", hub.stop().await);
    assert!(seen.contains("[redacted]"), "{seen}");
    assert_eq!(
        endpoint.asked()[0].authorization,
        Some(format!("Bearer {KEY}")),
        "the endpoint gets it"
    );
    let tool = endpoint.asked()[1].last()["content"].as_str().unwrap().to_owned();
    let command: Value = serde_json::from_str(&tool).unwrap();
    assert_eq!(command["exitCode"], 0, "{command}");
    seen += &tool;
    for canary in [KEY, SECRET] {
        assert!(!seen.contains(canary), "{seen}");
        for file in files(project.root()) {
            let content = std::fs::read(&file).unwrap();
            let found = content.windows(canary.len()).any(|window| window == canary.as_bytes());
            assert!(!found, "{} holds {canary}", file.display());
        }
    }
}

/// All files below a folder; links are not followed.
pub(crate) fn files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files(&entry.path()));
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    found
}
