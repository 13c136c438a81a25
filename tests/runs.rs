//! Runs: a prompt from its acceptance to its one end, with a scripted model behind the bundled loop.

use serde_json::{Value, json};
use waypost::environment::NewEnvironment;
use waypost::log::Event;
use waypost::run::{NewRun, Run, State};
use waypost::workspace::bundle::ChangeKind;

use crate::harness::endpoint::{Endpoint, Turn, call, say};
use crate::harness::{Open, Project, process};

crate::listed![
    a_prompt_becomes_calls_and_an_answer_and_the_project_is_untouched_until_the_merge,
    a_change_on_both_sides_is_a_conflict_and_nothing_is_merged,
    an_agent_cannot_change_the_rules_it_runs_under,
    a_second_run_of_a_thread_knows_what_was_said,
    a_thread_can_be_gone_on_with_as_soon_as_its_run_has_ended,
    a_busy_thread_refuses_a_second_run,
    what_does_not_exist_is_named,
    each_budget_ends_the_run_with_its_own_text,
    a_run_is_cancelled_while_its_model_is_silent,
    a_run_is_cancelled_while_its_command_runs,
    records_survive_a_restart,
    a_run_that_waits_when_the_hub_stops_is_taken_up_at_the_next_start,
    the_events_of_a_run_have_no_gap_and_each_call_has_one_end,
    tools_that_fail_are_told_to_the_model,
    an_agent_that_is_none_and_settings_that_do_not_fit_fail_with_a_clear_text,
];

/// A prompt with nothing else.
fn prompt(text: &str) -> NewRun {
    NewRun {
        prompt: text.to_owned(),
        ..NewRun::default()
    }
}

async fn start(open: &Open, new: NewRun) -> Run {
    open.hub
        .runs
        .start(&open.hub.project, new)
        .await
        .unwrap_or_else(|error| panic!("{}", error.chain()))
}

/// The record of a run after its end.
async fn ended(open: &Open, run: &Run) -> Run {
    let ends = ["run.completed", "run.failed", "run.cancelled"];
    open.event(|event| event.run == run.id && ends.contains(&&*event.kind))
        .await;
    open.hub.runs.get(&run.id).await.unwrap()
}

/// What a run answers.
async fn answer(open: &Open, new: NewRun) -> String {
    let run = start(open, new).await;
    let run = ended(open, &run).await;
    run.answer.unwrap_or_else(|| panic!("{:?}", run.error))
}

/// How a run fails, as `<kind>: <text>`.
async fn failure(open: &Open, new: NewRun) -> String {
    let run = start(open, new).await;
    let run = ended(open, &run).await;
    assert_eq!(run.state, State::Failed, "{run:?}");
    process::normal(open.root(), &run.error.unwrap().to_string())
}

/// Why a run is not accepted.
async fn refusal(open: &Open, new: NewRun) -> String {
    let error = open.hub.runs.start(&open.hub.project, new).await.unwrap_err();
    process::normal(open.root(), &format!("{}: {}", error.kind, error.chain()))
}

async fn events(open: &Open, run: &Run) -> Vec<Event> {
    open.hub.log.read(&run.id, 0, 10_000).await.unwrap()
}

fn write(path: &str, content: &str) -> Turn {
    call("write_file", json!({ "path": path, "content": content }))
}

fn shell(command: &str) -> Turn {
    call("run_command", json!({ "command": command }))
}

async fn a_prompt_becomes_calls_and_an_answer_and_the_project_is_untouched_until_the_merge() {
    let endpoint = Endpoint::start([
        call("read_file", json!({ "path": "notes.txt" })),
        write("report/out.txt", "one\n"),
        shell("echo two >> report/out.txt; cat report/out.txt"),
        say("The report is written."),
    ])
    .await;
    let open = Project::new()
        .toml(&endpoint.config())
        .file("notes.txt", "remember the milk\n")
        .open()
        .await;
    let run = start(&open, prompt("Write the report")).await;
    let run = ended(&open, &run).await;
    assert_eq!(
        (run.state, run.answer.as_deref()),
        (State::Completed, Some("The report is written."))
    );

    let seen: Vec<String> = endpoint
        .asked()
        .iter()
        .map(|asked| asked.last()["content"].as_str().unwrap().to_owned())
        .collect();
    let finished = json!({ "exitCode": 0, "stdout": "one\ntwo\n", "stderr": "", "truncated": false, "success": true });
    assert_eq!(seen[..3], ["Write the report", "remember the milk\n", "done"]);
    assert_eq!(serde_json::from_str::<Value>(&seen[3]).unwrap(), finished);

    assert!(!open.root().join("report").exists(), "the project is not the workspace");
    let environment = run.environment.unwrap();
    let diff = open.hub.environments.diff(&environment).await.unwrap();
    assert_eq!(diff.len(), 1);
    assert_eq!(
        (diff[0].path.as_str(), diff[0].kind),
        ("report/out.txt", ChangeKind::Added)
    );
    assert!(
        diff[0]
            .unified
            .as_deref()
            .unwrap()
            .ends_with("@@ -0,0 +1,2 @@\n+one\n+two\n"),
        "{diff:?}"
    );

    let report = open.hub.environments.merge(&environment, false).await.unwrap();
    assert_eq!(
        (report.applied, report.conflicts.len(), report.refused.len()),
        (vec!["report/out.txt".to_owned()], 0, 0)
    );
    assert_eq!(
        std::fs::read_to_string(open.root().join("report/out.txt")).unwrap(),
        "one\ntwo\n"
    );
    let again = open.hub.environments.merge(&environment, false).await.unwrap();
    assert!(again.conflicts.is_empty(), "{again:?}");
}

async fn a_change_on_both_sides_is_a_conflict_and_nothing_is_merged() {
    let endpoint = Endpoint::start([
        write("shared.txt", "the agent's\n"),
        write("own.txt", "fine\n"),
        say("done"),
    ])
    .await;
    let open = Project::new()
        .toml(&endpoint.config())
        .file("shared.txt", "the first\n")
        .open()
        .await;
    let run = start(&open, prompt("Change it")).await;
    let environment = ended(&open, &run).await.environment.unwrap();
    std::fs::write(open.root().join("shared.txt"), "the person's\n").unwrap();

    let report = open.hub.environments.merge(&environment, false).await.unwrap();
    assert!(
        report.applied.is_empty() && !open.root().join("own.txt").exists(),
        "{report:?}"
    );
    let conflicts: Vec<&str> = report.conflicts.iter().map(|conflict| conflict.path.as_str()).collect();
    assert_eq!(conflicts, ["shared.txt"]);
    assert_eq!(report.conflicts[0].reason, "the project changed it too");

    let report = open.hub.environments.merge(&environment, true).await.unwrap();
    assert_eq!(report.applied, ["own.txt"]);
    assert_eq!(
        std::fs::read_to_string(open.root().join("shared.txt")).unwrap(),
        "the person's\n"
    );
}

async fn an_agent_cannot_change_the_rules_it_runs_under() {
    let endpoint = Endpoint::start([
        write(".codebolt/proxyExecution.json", "{}"),
        write("waypost.toml", "[[route]]\nmatch = \"*\"\nto = \"local\"\n"),
        write("sub/../Waypost.toml", ""),
        call(
            "apply_diff",
            json!({ "path": "waypost.toml", "diff": "@@ -1,1 +1,1 @@\n-x\n+y\n" }),
        ),
        // A command is not bound by the handler of files; what it wrote does not come back.
        shell(
            "mkdir -p .codebolt; echo '{}' > .codebolt/proxyExecution.json; echo > waypost.toml; echo fine > fine.txt",
        ),
        say("done"),
    ])
    .await;
    let open = Project::new().toml(&endpoint.config()).open().await;
    let rules = std::fs::read_to_string(open.root().join("waypost.toml")).unwrap();
    let run = start(&open, prompt("Change the rules")).await;
    let environment = ended(&open, &run).await.environment.unwrap();
    let seen: Vec<String> = endpoint.asked()[1..5]
        .iter()
        .map(|asked| asked.last()["content"].as_str().unwrap().to_owned())
        .collect();
    let protected = |path: &str| {
        format!("error: denied: `{path}` is protected: rules, hub state and git's own files are not changed by a call")
    };
    let paths = [
        ".codebolt/proxyExecution.json",
        "waypost.toml",
        "Waypost.toml",
        "waypost.toml",
    ];
    assert_eq!(seen, paths.map(protected));

    let diff = open.hub.environments.diff(&environment).await.unwrap();
    assert_eq!(
        diff.iter().map(|change| change.path.as_str()).collect::<Vec<_>>(),
        ["fine.txt"]
    );
    let report = open.hub.environments.merge(&environment, true).await.unwrap();
    assert_eq!(report.applied, ["fine.txt"]);
    assert!(!open.root().join(".codebolt").exists());
    assert_eq!(
        std::fs::read_to_string(open.root().join("waypost.toml")).unwrap(),
        rules
    );
}

async fn a_second_run_of_a_thread_knows_what_was_said() {
    let endpoint = Endpoint::start([
        say("Forty-two."),
        say("As I said: forty-two."),
        say("I know of nothing."),
    ])
    .await;
    let open = Project::new().toml(&endpoint.config()).open().await;
    let first = start(&open, prompt("What is the answer?")).await;
    ended(&open, &first).await;
    let again = NewRun {
        thread: Some(first.thread.to_string()),
        ..prompt("Say it again")
    };
    assert_eq!(answer(&open, again).await, "As I said: forty-two.");
    assert_eq!(answer(&open, prompt("What did you say?")).await, "I know of nothing.");
    let asked = endpoint.asked();
    let said = [
        ("user", "What is the answer?"),
        ("assistant", "Forty-two."),
        ("user", "Say it again"),
    ];
    assert_eq!(asked[1].said(), said);
    assert_eq!(asked[2].said(), [("user", "What did you say?")]);
}

async fn a_thread_can_be_gone_on_with_as_soon_as_its_run_has_ended() {
    let endpoint = Endpoint::start((0..30).map(|_| say("yes"))).await;
    let open = Project::new().toml(&endpoint.config()).open().await;
    let first = start(&open, prompt("go")).await;
    ended(&open, &first).await;
    for _ in 1..30 {
        answer(
            &open,
            NewRun {
                thread: Some(first.thread.to_string()),
                ..prompt("go on")
            },
        )
        .await;
    }
}

async fn a_busy_thread_refuses_a_second_run() {
    let endpoint = Endpoint::start([Turn::Hang(String::new()), say("another thread")]).await;
    let open = Project::new().toml(&endpoint.config()).open().await;
    let run = start(&open, prompt("wait")).await;
    endpoint.asked_times(1).await;
    let second = NewRun {
        thread: Some(run.thread.to_string()),
        ..prompt("now")
    };
    assert_eq!(
        refusal(&open, second).await,
        "unavailable: thread `<thread>` is busy with run <id>; wait for its end or cancel it"
    );
    assert_eq!(answer(&open, prompt("elsewhere")).await, "another thread");
    open.hub.runs.cancel(&run.id).await.unwrap();
    assert_eq!(ended(&open, &run).await.state, State::Cancelled);
}

async fn what_does_not_exist_is_named() {
    let open = Project::new().open().await;
    let thread = NewRun {
        thread: Some("thread-x".to_owned()),
        ..prompt("go")
    };
    assert_eq!(
        refusal(&open, thread).await,
        "not-found: there is no thread `thread-x`; a run without one starts its own"
    );
    let environment = NewRun {
        environment: Some("env-x\u{1b}".to_owned()),
        ..prompt("go")
    };
    assert_eq!(
        refusal(&open, environment).await,
        "not-found: there is no environment `env-x\\u{1b}`; `waypost env ls` lists them"
    );
    for (text, length) in [("", 0), (" \n", 2), (&"x".repeat((1 << 20) + 1), (1 << 20) + 1)] {
        let expected = format!("invalid: a prompt has 1 to 1048576 bytes, this one has {length}");
        assert_eq!(refusal(&open, prompt(text)).await, expected);
    }
    let provider = NewEnvironment {
        provider: Some("moon".to_owned()),
        ..NewEnvironment::default()
    };
    let provider = NewRun {
        new_environment: provider,
        ..prompt("go")
    };
    assert_eq!(
        failure(&open, provider).await,
        "unavailable: provider `moon` could not create environment `<environment>`: plugin `moon` is not loaded; loaded are: \
         loop, replay, sandbox"
    );
    let agent = NewRun {
        agent: Some("nobody".to_owned()),
        ..prompt("go")
    };
    assert_eq!(
        failure(&open, agent).await,
        "unavailable: plugin `nobody` is not loaded; loaded are: loop, replay, sandbox"
    );
    let error = open.hub.runs.get("x").await.unwrap_err();
    assert_eq!(error.chain(), "there is no run `x`; `waypost run --list` lists them");
    assert_eq!(open.hub.runs.cancel("x").await.unwrap_err().kind.as_str(), "not-found");
}

async fn each_budget_ends_the_run_with_its_own_text() {
    let again = || shell("true");
    let costly = Turn::Say("x".repeat(10), 600);
    let cases: [(&str, Vec<Turn>, &str); 3] = [
        (
            "steps = 2",
            vec![again(), again(), again()],
            "limit: the agent is not done and has used its budget of inference calls (2 used): raise `steps` under \
             `[agent]` in waypost.toml, or give it a smaller task",
        ),
        (
            "tokens = 20",
            vec![again(), again(), costly],
            "limit: the agent is not done and has used its budget of tokens (30 used): raise `tokens` under `[agent]` in \
             waypost.toml, or give it a smaller task",
        ),
        (
            "time = \"300ms\"",
            vec![Turn::Hang(String::new())],
            "timeout: the run has used its time of 300ms: raise `time` under `[agent]` in waypost.toml, or give it a smaller \
             task",
        ),
    ];
    for (budget, turns, text) in cases {
        let endpoint = Endpoint::start(turns).await;
        let open = Project::new()
            .toml(&endpoint.config())
            .toml(&format!("[agent]\n{budget}"))
            .open()
            .await;
        assert_eq!(failure(&open, prompt("go")).await, text, "{budget}");
    }
}

async fn a_run_is_cancelled_while_its_model_is_silent() {
    for said in ["", "I think"] {
        let endpoint = Endpoint::start([Turn::Hang(said.to_owned()), say("still here")]).await;
        let open = Project::new().toml(&endpoint.config()).open().await;
        let run = start(&open, prompt("think")).await;
        endpoint.asked_times(1).await;
        open.hub.runs.cancel(&run.id).await.unwrap();
        let run = ended(&open, &run).await;
        assert_eq!(
            (run.state, &run.answer, run.error.is_none()),
            (State::Cancelled, &None, true)
        );
        check_ends(&open, &run).await;
        // A cancelled run stays cancelled, and the thread is free.
        assert_eq!(open.hub.runs.cancel(&run.id).await.unwrap().state, State::Cancelled);
        let next = NewRun {
            thread: Some(run.thread.to_string()),
            ..prompt("and now?")
        };
        assert_eq!(answer(&open, next).await, "still here");
    }
}

async fn a_run_is_cancelled_while_its_command_runs() {
    // It takes its time to stop, and the run waits for that.
    let endpoint = Endpoint::start([shell("trap '' TERM; echo $$ > pid; mv pid started; exec sleep 1000")]).await;
    let open = Project::new()
        .toml(&endpoint.config())
        .toml("[terminal]\ngrace = \"200ms\"")
        .open()
        .await;
    let run = start(&open, prompt("sleep")).await;
    let is_command = |event: &Event| &*event.kind == "call.started" && event.body.as_str().contains("executeCommand");
    open.event(is_command).await;
    let environment = open.hub.runs.get(&run.id).await.unwrap().environment.unwrap();
    let scope = open
        .hub
        .environments
        .scope(&open.hub.environments.get(&environment).await.unwrap())
        .unwrap();
    let started = scope.workspace.root().join("started");
    while !started.exists() {
        tokio::task::yield_now().await;
    }
    let pid = std::fs::read_to_string(started).unwrap();
    open.hub.runs.cancel(&run.id).await.unwrap();
    let run = ended(&open, &run).await;
    assert_eq!(run.state, State::Cancelled);
    assert!(
        !std::path::Path::new("/proc").join(pid.trim()).exists(),
        "the command is gone before the run ends"
    );
    check_ends(&open, &run).await;
}

async fn records_survive_a_restart() {
    let endpoint = Endpoint::start([write("a.txt", "a\n"), say("done")]).await;
    let open = Project::new().toml(&endpoint.config()).open().await;
    let run = start(&open, prompt("go")).await;
    let before = ended(&open, &run).await;
    let logged = events(&open, &run).await.len();
    let open = open.reopen().await;
    assert_eq!(open.hub.runs.resume().await.unwrap(), 0);
    let after = open.hub.runs.list(&open.hub.project, 10).await.unwrap();
    let text = |run: &Run| serde_json::to_value(run).unwrap();
    assert_eq!(after.iter().map(text).collect::<Vec<_>>(), [text(&before)]);
    let environments = open.hub.environments.list(&open.hub.project, false).await.unwrap();
    assert_eq!(
        environments.iter().map(|one| &one.id).collect::<Vec<_>>(),
        [before.environment.as_ref().unwrap()]
    );
    assert_eq!(
        open.hub.environments.diff(&environments[0].id).await.unwrap()[0].path,
        "a.txt"
    );
    assert_eq!(events(&open, &run).await.len(), logged);
}

async fn a_run_that_waits_when_the_hub_stops_is_taken_up_at_the_next_start() {
    let endpoint = Endpoint::start([Turn::Hang(String::new()), say("one"), say("two")]).await;
    let open = Project::new()
        .toml(&endpoint.config())
        .toml("[limits]\nagents = 1")
        .open()
        .await;
    let first = start(&open, prompt("first")).await;
    endpoint.asked_times(1).await;
    let second = start(&open, prompt("second")).await;
    open.event(|event| event.run == second.id && &*event.kind == "run.starting")
        .await;
    let open = open.reopen().await;
    assert_eq!(open.hub.runs.resume().await.unwrap(), 2);
    for run in [first, second] {
        assert_eq!(ended(&open, &run).await.state, State::Completed);
    }
}

/// Sequence numbers from 1 without gaps, and for each call that was begun exactly one end.
async fn check_ends(open: &Open, run: &Run) {
    let events = events(open, run).await;
    let numbers: Vec<u64> = events.iter().map(|event| event.seq).collect();
    assert_eq!(numbers, (1..=events.len() as u64).collect::<Vec<_>>());
    for started in events.iter().filter(|event| &*event.kind == "call.started") {
        let ends = events
            .iter()
            .filter(|event| &*event.kind == "call.ended" && event.call == started.call);
        assert_eq!(ends.count(), 1, "{started:?}");
    }
}

async fn the_events_of_a_run_have_no_gap_and_each_call_has_one_end() {
    let endpoint = Endpoint::start([
        Turn::Call(vec![
            ("read_file".to_owned(), json!({ "path": "a.txt" })),
            ("run_command".to_owned(), json!({ "command": "ls" })),
            ("read_file".to_owned(), json!({ "path": "../outside" })),
        ]),
        say("done"),
    ])
    .await;
    let open = Project::new().toml(&endpoint.config()).file("a.txt", "a").open().await;
    let run = start(&open, prompt("go")).await;
    let run = ended(&open, &run).await;
    check_ends(&open, &run).await;
    let kinds: Vec<String> = events(&open, &run)
        .await
        .iter()
        .map(|event| {
            let name = event.body.to::<Value>().unwrap()["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            format!("{} {name}", event.kind).trim().to_owned()
        })
        .collect();
    assert_eq!(
        kinds,
        [
            "thread.opened",
            "run.accepted",
            "run.starting",
            "run.running",
            "call.started agent:run",
            "call.started inference",
            "call.ended inference",
            "call.ended fsEvent:readFile",
            "call.started executeCommand",
            "call.ended executeCommand",
            "call.ended fsEvent:readFile",
            "call.started inference",
            "call.ended inference",
            "call.started sendMessage",
            "call.ended sendMessage",
            "call.ended agent:run",
            "run.completed",
        ]
    );
}

async fn tools_that_fail_are_told_to_the_model() {
    let endpoint = Endpoint::start([
        call("read_file", json!({ "path": "missing.txt" })),
        call("read_file", json!({ "path": "../../etc/passwd" })),
        call("no_such_tool", json!({})),
        call("read_file", json!({})),
        shell("exit 3"),
        say("I give up."),
    ])
    .await;
    let rule = "[[route]]\nmatch = \"fsEvent:writeToFile\"\nto = \"deny\"";
    let open = Project::new().toml(&endpoint.config()).toml(rule).open().await;
    assert_eq!(answer(&open, prompt("go")).await, "I give up.");
    let seen: Vec<String> = endpoint.asked()[1..]
        .iter()
        .map(|asked| asked.last()["content"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        seen,
        [
            "error: not-found: `missing.txt` does not exist",
            "error: denied: `../../etc/passwd` is outside the workspace",
            "error: there is no tool `no_such_tool`; the tools are: read_file, write_file, list_directory, search, \
             apply_diff, run_command",
            "error: `path` is missing; it is a string",
            r#"{"exitCode":3,"stderr":"","stdout":"","success":false,"truncated":false}"#,
        ]
    );
}

async fn an_agent_that_is_none_and_settings_that_do_not_fit_fail_with_a_clear_text() {
    let open = Project::new().open().await;
    let run = NewRun {
        agent: Some("replay".to_owned()),
        ..prompt("go")
    };
    assert_eq!(
        failure(&open, run).await,
        "unavailable: plugin `replay` does not serve agent:run; it serves inference"
    );
    let settings = waypost::call::Json::parse(r#"{"tool":[]}"#).unwrap();
    let run = NewRun {
        settings: Some(settings),
        ..prompt("go")
    };
    assert_eq!(
        failure(&open, run).await,
        "invalid: the settings of the agent do not fit: unknown field `tool`, expected one of `tools`, `instructions`, \
         `model`, `disable` at line 1 column 7"
    );
}
