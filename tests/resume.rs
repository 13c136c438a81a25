//! Runs across a crash: the real binary is killed, started again, and goes on where the log ends.

use std::path::Path;

use serde_json::{Value, json};
use tokio::net::unix::pipe;

use crate::harness::endpoint::{Endpoint, Turn, call, say};
use crate::harness::process::{self, Serving};
use crate::harness::{Plugin, Project};

crate::listed![
    a_run_cut_by_a_crash_goes_on_and_repeats_nothing,
    a_run_of_the_command_line_cut_by_a_crash_is_taken_up_by_the_next_hub,
    a_command_cut_by_a_crash_is_indeterminate_and_the_agent_sees_it,
    an_inference_that_was_cut_twice_is_not_asked_a_third_time,
    an_agent_that_does_something_else_the_second_time_has_diverged,
    clock_and_random_numbers_are_the_same_in_the_replay,
    a_stop_in_order_leaves_the_run_for_the_next_start,
];

/// A call of a tool that leaves a line in a file outside the workspace, so that it can be counted.
fn append(file: &Path) -> Turn {
    call(
        "run_command",
        json!({ "command": format!("echo once >> {}", file.display()) }),
    )
}

fn silent() -> Turn {
    Turn::Hang(String::new())
}

/// What a run ended as, and its answer or its error.
fn end(events: &[Value]) -> (String, String) {
    let last = events.last().unwrap();
    let text = |pointer: &str| last["body"].pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let kind = last["kind"].as_str().unwrap().to_owned();
    (
        kind,
        text("/answer").or_else(|| text("/error/message")).unwrap_or_default(),
    )
}

/// Sequence numbers from 1 without gaps, and for each call that was begun exactly one end.
fn check_ends(events: &[Value]) {
    for (at, event) in events.iter().enumerate() {
        assert_eq!(event["seq"], at + 1, "{event}");
    }
    for started in events.iter().filter(|event| event["kind"] == "call.started") {
        let ends = events
            .iter()
            .filter(|event| event["kind"] == "call.ended" && event["call"] == started["call"]);
        assert_eq!(ends.count(), 1, "{started}");
    }
}

async fn a_run_cut_by_a_crash_goes_on_and_repeats_nothing() {
    let marks = tempfile::tempdir().unwrap();
    let mark = marks.path().join("mark");
    let first = Endpoint::start([call("read_file", json!({ "path": "a.txt" })), append(&mark), silent()]).await;
    let project = Project::new().file("a.txt", "a\n").written();
    let hub = Serving::start(project.root(), &[("OPENAI_BASE_URL", &first.base)]).await;
    let run = hub.start_run(json!({ "prompt": "go" })).await;
    first.asked_times(3).await;
    hub.crash().await;

    let second = Endpoint::start([say("I went on.")]).await;
    let hub = Serving::start(project.root(), &[("OPENAI_BASE_URL", &second.base)]).await;
    assert_eq!(hub.resumed, 1);
    let events = hub.until_end(&run).await;
    assert_eq!(end(&events), ("run.completed".to_owned(), "I went on.".to_owned()));
    // The endpoint that answers is asked what the silent one was asked, and nothing before it.
    assert_eq!(
        second.asked().iter().map(|asked| &asked.body).collect::<Vec<_>>(),
        [&first.asked()[2].body]
    );
    assert_eq!(std::fs::read_to_string(&mark).unwrap(), "once\n");
    let calls = |name: &str| {
        events
            .iter()
            .filter(|event| event["body"]["name"] == name && event["kind"] == "call.ended")
            .count()
    };
    assert_eq!((calls("fsEvent:readFile"), calls("executeCommand")), (1, 1));
    check_ends(&events);
    hub.stop().await;
}

async fn a_run_of_the_command_line_cut_by_a_crash_is_taken_up_by_the_next_hub() {
    let first = Endpoint::start([silent()]).await;
    let project = Project::new().written();
    let variables = [("OPENAI_BASE_URL", first.base.as_str())];
    let mut verb = process::Running::start(project.root(), &variables, &["run", "--json", "go"]);
    let accepted: Value = serde_json::from_str(&verb.line_with("run.accepted").await).unwrap();
    first.asked_times(1).await;
    verb.signal("KILL").await;
    assert_eq!(verb.end().await.code, 137);

    let second = Endpoint::start([say("I went on.")]).await;
    let hub = Serving::start(project.root(), &[("OPENAI_BASE_URL", &second.base)]).await;
    assert_eq!(hub.resumed, 1);
    let events = hub.until_end(accepted["run"].as_str().unwrap()).await;
    assert_eq!(end(&events), ("run.completed".to_owned(), "I went on.".to_owned()));
    hub.stop().await;
}

async fn a_command_cut_by_a_crash_is_indeterminate_and_the_agent_sees_it() {
    let marks = tempfile::tempdir().unwrap();
    let (mark, fifo) = (marks.path().join("mark"), marks.path().join("fifo"));
    crate::harness::fifo(&fifo);
    let command = format!("echo once >> {}; cat {}", mark.display(), fifo.display());
    let first = Endpoint::start([call("run_command", json!({ "command": command }))]).await;
    let project = Project::new().written();
    let hub = Serving::start(project.root(), &[("OPENAI_BASE_URL", &first.base)]).await;
    let run = hub.start_run(json!({ "prompt": "go" })).await;
    // A fifo can be opened for writing when the command reads it: the command is under way.
    let writer = loop {
        match pipe::OpenOptions::new().open_sender(&fifo) {
            Ok(writer) => break writer,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    hub.crash().await;
    drop(writer);

    let second = Endpoint::start([say("I do not know what came of it.")]).await;
    let hub = Serving::start(project.root(), &[("OPENAI_BASE_URL", &second.base)]).await;
    let events = hub.until_end(&run).await;
    assert_eq!(end(&events).0, "run.completed");
    assert_eq!(
        second.asked()[0].last()["content"],
        "error: indeterminate: executeCommand was under way when the hub ended; it may or may not have had its effect"
    );
    assert_eq!(std::fs::read_to_string(&mark).unwrap(), "once\n");
    check_ends(&events);
    hub.stop().await;
}

async fn an_inference_that_was_cut_twice_is_not_asked_a_third_time() {
    let endpoint = Endpoint::start([silent(), silent(), say("never")]).await;
    let project = Project::new().toml(&endpoint.config()).written();
    let mut run = String::new();
    for cut in 1..=2 {
        let hub = Serving::start(project.root(), &[]).await;
        if cut == 1 {
            run = hub.start_run(json!({ "prompt": "go" })).await;
        }
        endpoint.asked_times(cut).await;
        hub.crash().await;
    }
    let hub = Serving::start(project.root(), &[]).await;
    let events = hub.until_end(&run).await;
    let text = "inference was under way when the hub ended; it may or may not have had its effect";
    assert_eq!(end(&events), ("run.failed".to_owned(), text.to_owned()));
    assert_eq!(endpoint.asked().len(), 2);
    check_ends(&events);
    hub.stop().await;
}

async fn an_agent_that_does_something_else_the_second_time_has_diverged() {
    let endpoint = Endpoint::start([silent(), say("never")]).await;
    let agent = Plugin::of("wavering")
        .role("agent")
        .grants("gateway = [\"*\"], state = true");
    let project = Project::new().toml(&endpoint.config()).plugin(&agent).written();
    let hub = Serving::start(project.root(), &[]).await;
    let run = hub.start_run(json!({ "prompt": "go", "agent": "wavering" })).await;
    endpoint.asked_times(1).await;
    hub.crash().await;
    let hub = Serving::start(project.root(), &[]).await;
    let events = hub.until_end(&run).await;
    let text = "diverged: call 0 was sendMessage before and is sendMessage now, or with another message; an agent must make the \
                same calls given the same replies";
    assert_eq!(end(&events), ("run.failed".to_owned(), text.to_owned()));
    assert_eq!(endpoint.asked().len(), 1);
    check_ends(&events);
    hub.stop().await;
}

async fn clock_and_random_numbers_are_the_same_in_the_replay() {
    let endpoint = Endpoint::start([silent(), say("go on")]).await;
    let agent = Plugin::of("dreamer").role("agent").grants("gateway = [\"*\"]");
    let project = Project::new().toml(&endpoint.config()).plugin(&agent).written();
    let hub = Serving::start(project.root(), &[]).await;
    let run = hub.start_run(json!({ "prompt": "go", "agent": "dreamer" })).await;
    endpoint.asked_times(1).await;
    hub.crash().await;
    let hub = Serving::start(project.root(), &[]).await;
    let events = hub.until_end(&run).await;
    let (kind, answer) = end(&events);
    assert_eq!(kind, "run.completed", "{answer}");
    let told: Vec<String> = events
        .iter()
        .filter(|event| event["kind"] == "call.started" && event["body"]["name"] == "sendMessage")
        .map(|event| event["body"]["message"]["message"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(told.len(), 3, "nothing is said twice");
    let readings: Vec<Value> = serde_json::from_str(&answer).unwrap();
    assert_eq!(
        serde_json::to_string(&readings[..3]).unwrap(),
        told[2],
        "the replay read what the first run told"
    );
    let random: std::collections::HashSet<String> = readings.iter().map(|reading| reading[2].to_string()).collect();
    assert_eq!(random.len(), 4, "{readings:?}");
    check_ends(&events);
    hub.stop().await;
}

async fn a_stop_in_order_leaves_the_run_for_the_next_start() {
    let first = Endpoint::start([silent()]).await;
    let project = Project::new().written();
    let hub = Serving::start(project.root(), &[("OPENAI_BASE_URL", &first.base)]).await;
    let run = hub.start_run(json!({ "prompt": "go" })).await;
    first.asked_times(1).await;
    let stopped = hub.stop().await;
    assert_eq!((stopped.code, stopped.shown(project.root()).as_str()), (0, "[0]\n"));
    let second = Endpoint::start([say("I went on.")]).await;
    let hub = Serving::start(project.root(), &[("OPENAI_BASE_URL", &second.base)]).await;
    assert_eq!(hub.resumed, 1);
    assert_eq!(
        end(&hub.until_end(&run).await),
        ("run.completed".to_owned(), "I went on.".to_owned())
    );
    hub.stop().await;
}
