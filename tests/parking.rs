//! Agents that wait long: their sandbox is put away, and they go on from the log when the answer is there.

use serde_json::{Value, json};
use waypost::log::Event;
use waypost::run::{NewRun, Run, State};

use crate::harness::endpoint::{Endpoint, call, say};
use crate::harness::{Open, Project};

crate::listed![
    an_agent_that_waits_for_a_person_gives_its_place_to_another_and_repeats_nothing,
    an_agent_that_is_put_away_at_every_call_does_the_same_as_one_that_never_is,
    a_run_whose_agent_is_put_away_is_cancelled_at_once,
];

const ASK: &str = "[[route]]\nmatch = \"executeCommand\"\nto = \"ask\"\nfallback = [\"local\"]";

async fn start(open: &Open, text: &str) -> Run {
    let new = NewRun {
        prompt: text.to_owned(),
        ..NewRun::default()
    };
    open.hub.runs.start(&open.hub.project, new).await.unwrap()
}

async fn happens(open: &Open, run: &Run, kind: &str) -> Event {
    open.event(|event| event.run == run.id && &*event.kind == kind).await
}

/// How often something happened in a run.
async fn count(open: &Open, run: &Run, kind: &str, name: Option<&str>) -> usize {
    let named = |event: &Event| event.body.to::<Value>().is_ok_and(|body| body["name"].as_str() == name);
    let events = open.hub.log.read(&run.id, 0, 1000).await.unwrap();
    let fit = |event: &&Event| &*event.kind == kind && (name.is_none() || named(event));
    events.iter().filter(fit).count()
}

/// An endpoint that asks for a command which leaves a line in a file, and is then done.
async fn commanding(mark: &std::path::Path) -> Endpoint {
    let command = format!("echo once >> {}", mark.display());
    Endpoint::start([
        call("run_command", json!({ "command": command })),
        say("other"),
        say("done"),
    ])
    .await
}

async fn an_agent_that_waits_for_a_person_gives_its_place_to_another_and_repeats_nothing() {
    let marks = tempfile::tempdir().unwrap();
    let mark = marks.path().join("mark");
    let endpoint = commanding(&mark).await;
    let open = Project::new()
        .toml(&endpoint.config())
        .toml("[limits]\nagents = 1\n[agent]\npark-after = \"50ms\"")
        .toml(ASK)
        .open()
        .await;
    let waiting = start(&open, "ask me").await;
    open.some_question().await;
    happens(&open, &waiting, "run.parked").await;
    let state = open.hub.runs.get(&waiting.id).await.unwrap().state;
    assert!(matches!(state, State::Waiting | State::Running), "{state:?}");
    // There is one place, and the run that waits does not hold it.
    let other = start(&open, "me too").await;
    happens(&open, &other, "run.completed").await;
    open.answer("allow").await;
    happens(&open, &waiting, "run.completed").await;
    assert_eq!(open.hub.runs.get(&waiting.id).await.unwrap().answer.unwrap(), "done");
    assert_eq!(std::fs::read_to_string(&mark).unwrap(), "once\n");
    assert_eq!(count(&open, &waiting, "call.ended", Some("executeCommand")).await, 1);
    assert_eq!(endpoint.asked().len(), 3);
}

async fn an_agent_that_is_put_away_at_every_call_does_the_same_as_one_that_never_is() {
    let mut seen = Vec::new();
    for park_after in ["1ms", "1h"] {
        let marks = tempfile::tempdir().unwrap();
        let mark = marks.path().join("mark");
        let command = |line: &str| {
            // Long enough to be put away in the one case.
            call(
                "run_command",
                json!({ "command": format!("sleep 0.05; echo {line} | tee -a {}", mark.display()) }),
            )
        };
        let endpoint = Endpoint::start([command("a"), command("b"), command("c"), say("done")]).await;
        let open = Project::new()
            .toml(&endpoint.config())
            .toml(&format!("[agent]\npark-after = {park_after:?}\nsteps = 4"))
            .open()
            .await;
        let run = start(&open, "go").await;
        happens(&open, &run, "run.completed").await;
        assert_eq!(std::fs::read_to_string(&mark).unwrap(), "a\nb\nc\n");
        assert_eq!(count(&open, &run, "call.ended", Some("executeCommand")).await, 3);
        let parked = count(&open, &run, "run.parked", None).await;
        assert!(if park_after == "1ms" { parked >= 3 } else { parked == 0 }, "{parked}");
        assert_eq!(count(&open, &run, "call.ended", Some("agent:run")).await, parked + 1);
        seen.push(
            endpoint
                .asked()
                .iter()
                .map(|asked| {
                    asked.body["messages"]
                        .to_string()
                        .replace(&*mark.to_string_lossy(), "<mark>")
                })
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(seen[0], seen[1]);
}

async fn a_run_whose_agent_is_put_away_is_cancelled_at_once() {
    let marks = tempfile::tempdir().unwrap();
    let endpoint = commanding(&marks.path().join("mark")).await;
    let open = Project::new()
        .toml(&endpoint.config())
        .toml("[agent]\npark-after = \"10ms\"")
        .toml(ASK)
        .open()
        .await;
    let run = start(&open, "ask me").await;
    open.some_question().await;
    happens(&open, &run, "run.parked").await;
    open.hub.runs.cancel(&run.id).await.unwrap();
    happens(&open, &run, "run.cancelled").await;
    assert!(open.hub.desk.open().is_empty());
    assert!(!marks.path().join("mark").exists());
}
