//! The second wall: what a plugin does is the same behind both, and many calls live in one worker process.
//!
//! What a process is kept from, and what becomes of one that does not keep to the rules, is in `worker/hostile.rs`.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use waypost::environment::NewEnvironment;
use waypost::log::Event;
use waypost::run::{NewRun, Run};

use crate::harness::endpoint::{Endpoint, call, say};
use crate::harness::{Open, Plugin, Project};
use crate::listed;

pub mod groups;
pub mod hostile;

listed![
    a_plugin_does_the_same_behind_both_walls,
    chunks_and_lines_cross_the_wall_in_order,
    agents_providers_and_observers_run_behind_the_wall,
    an_agent_behind_the_wall_is_put_away_and_goes_on,
    many_calls_run_in_one_worker_at_the_same_time,
    a_worker_that_is_killed_ends_its_own_calls_alone,
    a_spinning_guest_is_stopped_and_its_worker_goes_on,
    an_idle_worker_ends_and_the_next_call_starts_another,
    a_reload_starts_another_worker_for_new_calls,
];

pub const WALLS: [&str; 2] = ["in-process", "worker"];

/// What a call ended as: its reply, or the text of its error.
async fn end(open: &Open, name: &str, message: &Value) -> Value {
    match open.call(name, message.clone()).await.result {
        Ok(reply) => json!({ "reply": reply.to::<Value>().unwrap() }),
        Err(error) => json!({ "error": open.normal(&error.to_string()) }),
    }
}

/// The process ids of the workers.
async fn workers(open: &Open) -> Vec<u32> {
    open.hub.workers.as_ref().unwrap().processes().await
}

/// The one worker.
pub async fn worker(open: &Open) -> u32 {
    let all = workers(open).await;
    assert_eq!(all.len(), 1, "{all:?}");
    all[0]
}

fn signal(name: &str, process: u32) {
    let line = format!("kill -{name} {process}");
    assert!(Command::new("sh").args(["-c", &line]).status().unwrap().success());
}

/// Waits until a process is gone, or is a corpse that its parent has not looked at.
pub async fn gone(process: u32) {
    loop {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z ") {
            return;
        }
        tokio::task::yield_now().await;
    }
}

async fn a_plugin_does_the_same_behind_both_walls() {
    let echo = json!({ "call": "echo", "message": { "text": "a", "times": 1 } });
    let refused = "plugin:caller may not call fsEvent: add it to `gateway` in the grants of the plugin, or of the plugin that \
                   called it";
    let rows = [
        (
            "echo",
            json!({ "text": "ab", "times": 2 }),
            "/reply/text",
            json!("abab"),
        ),
        (
            "echo",
            json!({ "text": "ab", "times": 2 }),
            "/reply/time_left",
            json!(true),
        ),
        (
            "echo",
            json!({ "text": "ab" }),
            "/error",
            json!("invalid: the message of echo does not fit: missing field `times` at line 1 column 13"),
        ),
        (
            "keeper",
            json!([{ "set": ["a", 1] }, { "get": "a" }, { "keys": "" }, { "remove": "a" }, { "get": "a" }, { "set": ["", 1] }]),
            "/reply",
            json!(["set", 1, ["a"], "removed", null, { "error": "invalid: a state key has 1 to 512 bytes, this one has 0" }]),
        ),
        ("caller", echo.clone(), "/reply/reply/text", json!("a")),
        (
            "caller",
            json!({ "call": "fsEvent", "message": {} }),
            "/reply/error",
            json!(format!("denied: {refused}")),
        ),
        (
            "caller",
            json!({ "call": "nothing", "message": {} }),
            "/reply",
            json!(null),
        ),
        ("counter", json!(null), "/reply", json!(0)),
        ("counter", json!(null), "/reply", json!(0)),
        (
            "faulty",
            json!("error"),
            "/error",
            json!("not-found: there is no such thing; name another"),
        ),
        ("faulty", json!("unavailable"), "/error", json!("unavailable: not now")),
        (
            "faulty",
            json!("panic"),
            "/error",
            json!(
                "trapped: plugin `faulty` trapped: wasm `unreachable` instruction executed; `waypost plugin logs faulty` \
                   shows what it said"
            ),
        ),
        (
            "faulty",
            json!("overflow"),
            "/error",
            json!(
                "trapped: plugin `faulty` trapped: out of bounds memory access; `waypost plugin logs faulty` shows what it \
                   said"
            ),
        ),
        ("prying", json!(null), "/reply/variables", json!(0)),
        ("prying", json!(null), "/reply/connect", json!("PermissionDenied")),
        ("prying", json!(null), "/reply/clock", json!(true)),
        (
            "hungry",
            json!(64 << 20),
            "/error",
            json!("limit: plugin `hungry` needs more than 67108864, its limit `memory`: raise it in [limits.plugin]"),
        ),
        (
            "hoarder",
            json!(1025),
            "/error",
            json!(
                "limit: plugin `hoarder` holds 1024 handles, the limit `handles` of [limits.plugin]; drop some first"
            ),
        ),
        ("hoarder", json!(100), "/reply", json!(100)),
        (
            "talker",
            json!({ "shout": (16 << 20) + 1 }),
            "/error",
            json!(
                "limit: plugin `talker` handed over more than 16777216 bytes at once, its limit `host-call`: raise it in \
                   [limits.plugin]"
            ),
        ),
        (
            "bulky",
            json!((4 << 20) + 1),
            "/error",
            json!(
                "limit: plugin `bulky` answered with 4194305 bytes, the limit is 4194304: `reply` of [limits.plugin]"
            ),
        ),
        (
            "spinner",
            json!(null),
            "/error",
            json!("timeout: spinner did not end within its time limit and was stopped"),
        ),
        (
            "sleeper",
            json!(null),
            "/error",
            json!("timeout: sleeper did not end within its time limit and was stopped"),
        ),
    ];
    let mut ends = Vec::new();
    for wall in WALLS {
        let mut project = Project::new();
        for guest in ["echo", "counter", "faulty", "prying", "hungry", "talker", "bulky"] {
            project = project.plugin(&Plugin::of(guest).wall(wall));
        }
        for guest in ["spinner", "sleeper"] {
            project = project.plugin(&Plugin::of(guest).wall(wall).limits("timeout = \"50ms\""));
        }
        let caller = Plugin::of("caller")
            .asks("gateway = [\"*\"]")
            .granted("gateway = [\"echo\", \"nothing\"]");
        let open = project
            .plugin(&Plugin::of("keeper").wall(wall).grants("state = true"))
            .plugin(&Plugin::of("hoarder").wall(wall).grants("gateway = [\"*\"]"))
            .plugin(&caller.wall(wall))
            .open()
            .await;
        let mut here = Vec::new();
        for (name, message, pointer, expected) in &rows {
            let end = end(&open, name, message).await;
            if *pointer != "/reply" || !expected.is_null() {
                assert_eq!(end.pointer(pointer), Some(expected), "{wall}: {name} {message}: {end}");
            }
            here.push(end);
        }
        // Two calls have so little time that they may have waited for their worker in vain.
        let all = if wall == "worker" { 10..=12 } else { 0..=0 };
        let processes = workers(&open).await.len();
        assert!(all.contains(&processes), "{wall}: {processes}");
        let lines: Vec<String> = open
            .hub
            .plugin_log
            .lines("faulty")
            .into_iter()
            .map(|line| line.text)
            .collect();
        assert!(lines.iter().any(|line| line == "it hurts"), "{wall}: {lines:?}");
        ends.push(here);
        drop(open.close().await);
    }
    for ((row, inside), worker) in rows.iter().zip(&ends[0]).zip(&ends[1]) {
        assert_eq!(inside, worker, "{row:?}");
    }
}

async fn chunks_and_lines_cross_the_wall_in_order() {
    let mut said = Vec::new();
    for wall in WALLS {
        let open = Project::new()
            .plugin(&Plugin::of("chunks").wall(wall))
            .plugin(&Plugin::of("talker").wall(wall))
            .open()
            .await;
        let counted: Vec<_> = (0..200).map(|number| json!({ "number": number })).collect();
        let (chunks, reply) = open.streamed("chunks", json!({ "count": 200 })).await;
        assert_eq!((chunks, reply), (counted, json!({ "count": 200 })), "{wall}");
        for manner in [
            json!("lines"),
            json!("streams"),
            json!({ "flood": 100_000 }),
            json!({ "shout": 1 << 20 }),
        ] {
            assert_eq!(
                end(&open, "talker", &manner).await,
                json!({ "reply": null }),
                "{wall}: {manner}"
            );
            let lines = open.hub.plugin_log.lines("talker").into_iter();
            said.push((manner, lines.map(|line| (line.level, line.text)).collect::<Vec<_>>()));
        }
    }
    let worker = said.split_off(4);
    assert_eq!(said, worker);
}

async fn happens(open: &Open, run: &Run, kind: &str) -> Event {
    open.event(|event| event.run == run.id && &*event.kind == kind).await
}

fn prompt(agent: &str, provider: &str) -> NewRun {
    NewRun {
        prompt: "go".to_owned(),
        agent: Some(agent.to_owned()),
        new_environment: NewEnvironment {
            provider: Some(provider.to_owned()),
            ..NewEnvironment::default()
        },
        ..NewRun::default()
    }
}

/// The bundled loop and sandbox as somebody else would install them.
fn strangers() -> [Plugin; 2] {
    let bytes = |id: &str| {
        let source = waypost::bundled::sources().find(|source| source.as_ref().unwrap().manifest.id == id);
        source.unwrap().unwrap().bytes.to_vec()
    };
    [
        Plugin::made_of("roundabout", bytes("loop"))
            .role("agent")
            .grants("gateway = [\"*\"]")
            .wall("worker"),
        Plugin::made_of("sandpit", bytes("sandbox"))
            .role("provider")
            .grants("workspace = true, state = true")
            .wall("worker"),
    ]
}

async fn agents_providers_and_observers_run_behind_the_wall() {
    let endpoint = Endpoint::start([call("read_file", json!({ "path": "a.txt" })), say("done")]).await;
    let [agent, provider] = strangers();
    let watcher = Plugin::of("watcher")
        .role("observer")
        .subscribes()
        .granted("subscribe = true");
    let open = Project::new()
        .toml(&endpoint.config())
        .file("a.txt", "hello\n")
        .plugin(&agent)
        .plugin(&provider)
        .plugin(&watcher.wall("worker"))
        .plugin(
            &Plugin::of("dreamer")
                .role("agent")
                .grants("gateway = [\"*\"]")
                .wall("worker"),
        )
        .open()
        .await;
    let run = open
        .hub
        .runs
        .start(&open.hub.project, prompt("roundabout", "sandpit"))
        .await
        .unwrap();
    happens(&open, &run, "run.completed").await;
    assert_eq!(open.hub.runs.get(&run.id).await.unwrap().answer.unwrap(), "done");
    let asked = endpoint.asked();
    assert!(asked[1].body.to_string().contains("hello"), "{}", asked[1].body);
    // What a plugin says is no event: there is nothing else to wait for.
    while open.hub.plugin_log.lines("watcher").is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(workers(&open).await.len(), 3);
}

async fn an_agent_behind_the_wall_is_put_away_and_goes_on() {
    let endpoint = Endpoint::start([call("run_command", json!({ "command": "echo once" })), say("done")]).await;
    let [agent, _] = strangers();
    let open = Project::new()
        .toml(&endpoint.config())
        .toml("[agent]\npark-after = \"20ms\"")
        .toml("[[route]]\nmatch = \"executeCommand\"\nto = \"ask\"\nfallback = [\"local\"]")
        .plugin(&agent)
        .open()
        .await;
    let run = open
        .hub
        .runs
        .start(&open.hub.project, prompt("roundabout", "sandbox"))
        .await
        .unwrap();
    open.some_question().await;
    happens(&open, &run, "run.parked").await;
    open.answer("allow").await;
    happens(&open, &run, "run.completed").await;
    assert_eq!(open.hub.runs.get(&run.id).await.unwrap().answer.unwrap(), "done");
    assert_eq!(endpoint.asked().len(), 2, "nothing was asked twice");
    worker(&open).await;
}

async fn many_calls_run_in_one_worker_at_the_same_time() {
    let open = Project::new()
        .plugin(&Plugin::of("puppet").grants("gateway = [\"*\"]").wall("worker"))
        .open()
        .await;
    let mut calls = Vec::new();
    for number in 0..64 {
        calls.push(open.begin("puppet", json!(number)).await);
    }
    open.questions(64).await;
    worker(&open).await;
    for (number, call) in calls.into_iter().enumerate() {
        let question = open.some_question().await;
        let answer = waypost::capabilities::chat::Answer::plain(json!({ "answer": number }).to_string());
        open.hub.desk.answer(question.id, answer).unwrap();
        drop(call);
    }
    let mut ended = 0;
    while ended < 64 {
        let fits =
            |event: &Event| &*event.kind == "call.ended" && event.body.to::<Value>().unwrap()["name"] == "puppet";
        ended = open.events().await.iter().filter(|event| fits(event)).count();
        tokio::task::yield_now().await;
    }
}

/// A call that waits for a person in a worker of its own.
fn waiting(id: &str) -> Plugin {
    Plugin::of("caller")
        .named(id)
        .grants("gateway = [\"*\"]")
        .wall("worker")
}

fn ask() -> Value {
    json!({ "call": "waitforReply", "message": { "message": "?" } })
}

async fn a_worker_that_is_killed_ends_its_own_calls_alone() {
    let open = Project::new()
        .plugin(&waiting("one"))
        .plugin(&waiting("two"))
        .open()
        .await;
    let one = open.begin("one", ask()).await;
    open.questions(1).await;
    let first = worker(&open).await;
    let two = open.begin("two", ask()).await;
    open.questions(2).await;
    signal("KILL", first);
    let error = one.await.unwrap().result.unwrap_err().to_string();
    assert_eq!(
        error,
        "trapped: plugin `one` was stopped: its worker process is gone, it was killed by SIGKILL; the next call starts another \
         one"
    );
    let died = open.event(|event| &*event.kind == "worker.died").await;
    assert_eq!(
        died.body.to::<Value>().unwrap(),
        json!({ "plugins": ["one"], "why": "it was killed by SIGKILL" })
    );
    let lines = open.hub.plugin_log.lines("one");
    assert_eq!(
        lines.last().unwrap().text,
        "its worker process is gone: it was killed by SIGKILL"
    );
    // The question of the one that is gone is gone with it.
    open.answer("go on").await;
    assert_eq!(
        two.await.unwrap().result.unwrap().as_str(),
        r#"{"reply":{"message":"go on"}}"#
    );
    let again = open.begin("one", ask()).await;
    open.answer("again").await;
    assert_eq!(
        again.await.unwrap().result.unwrap().as_str(),
        r#"{"reply":{"message":"again"}}"#
    );
}

async fn a_spinning_guest_is_stopped_and_its_worker_goes_on() {
    let open = Project::new()
        .plugin(&Plugin::of("spinner").wall("worker"))
        .plugin(&Plugin::of("echo"))
        .open()
        .await;
    let mut before = None;
    for _ in 0..3 {
        let call = open.prepared("spinner", json!(null)).await;
        let (id, cancel) = (call.id, call.cancel.clone());
        let spinning = open.carry(call, waypost::call::Sink::discard());
        open.event(|event| event.call == Some(id)).await;
        let process = loop {
            if let [process] = workers(&open).await[..] {
                break process;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(*before.get_or_insert(process), process);
        cancel.cancel();
        let error = spinning.await.unwrap().result.unwrap_err();
        assert_eq!(error.to_string(), "cancelled: spinner was cancelled and stopped");
    }
}

async fn an_idle_worker_ends_and_the_next_call_starts_another() {
    let open = Project::new()
        .toml("[limits]\nworker-idle = \"50ms\"")
        .plugin(&waiting("one"))
        .plugin(&Plugin::of("echo").named("two").wall("worker"))
        .open()
        .await;
    let call = open.begin("one", ask()).await;
    open.questions(1).await;
    let first = worker(&open).await;
    open.reply("two", json!({ "text": "x", "times": 1 })).await;
    let all = workers(&open).await;
    let second = all.into_iter().find(|process| *process != first).unwrap();
    // The time that makes another one idle has passed here too.
    gone(second).await;
    assert_eq!(worker(&open).await, first, "it is not idle while it has a call");
    open.answer("go on").await;
    assert!(call.await.unwrap().result.is_ok());
    gone(first).await;
    let call = open.begin("one", ask()).await;
    open.answer("go on").await;
    assert!(call.await.unwrap().result.is_ok());
    assert!(open.events().await.iter().all(|event| &*event.kind != "worker.died"));
}

async fn a_reload_starts_another_worker_for_new_calls() {
    let open = Project::new().plugin(&waiting("one")).open().await;
    let old = open.begin("one", ask()).await;
    open.questions(1).await;
    let first = worker(&open).await;
    Plugin::of("echo").named("one").write(open.root());
    open.hub.plugins.reload("one").unwrap();
    assert_eq!(
        open.reply("one", json!({ "text": "new", "times": 1 })).await["text"],
        "new"
    );
    assert_ne!(worker(&open).await, first);
    open.answer("now").await;
    assert_eq!(
        old.await.unwrap().result.unwrap().as_str(),
        r#"{"reply":{"message":"now"}}"#
    );
    gone(first).await;
}
