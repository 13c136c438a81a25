//! The second wall: what a plugin does is the same behind both, and what goes wrong in a worker process stays there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use waypost::config::{Config, Part};
use waypost::environment::NewEnvironment;
use waypost::log::Event;
use waypost::run::{NewRun, Run};

use crate::harness::endpoint::{Endpoint, call, say};
use crate::harness::peer::Manner;
use crate::harness::process::{Serving, run};
use crate::harness::{Open, Plugin, Project, binary};
use crate::listed;

listed![
    a_plugin_does_the_same_behind_both_walls,
    chunks_and_lines_cross_the_wall_in_order,
    agents_providers_and_observers_run_behind_the_wall,
    an_agent_behind_the_wall_is_put_away_and_goes_on,
    a_worker_is_walled_in,
    doctor_says_how_workers_are_confined,
    many_calls_run_in_one_worker_at_the_same_time,
    a_worker_that_is_killed_ends_its_own_calls_alone,
    a_hostile_worker_ends_its_calls_and_nothing_else,
    a_worker_that_does_not_start_is_told_with_its_reason,
    a_worker_that_keeps_dying_is_not_started_at_once,
    a_spinning_guest_is_stopped_and_its_worker_goes_on,
    a_process_has_no_more_memory_than_its_limit,
    an_idle_worker_ends_and_the_next_call_starts_another,
    a_reload_starts_another_worker_for_new_calls,
    no_worker_outlives_its_hub,
];

const WALLS: [&str; 2] = ["in-process", "worker"];

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
async fn worker(open: &Open) -> u32 {
    let all = workers(open).await;
    assert_eq!(all.len(), 1, "{all:?}");
    all[0]
}

fn signal(name: &str, process: u32) {
    let line = format!("kill -{name} {process}");
    assert!(Command::new("sh").args(["-c", &line]).status().unwrap().success());
}

/// Waits until a process is gone, or is a corpse that its parent has not looked at.
async fn gone(process: u32) {
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
        assert_eq!(workers(&open).await.len(), if wall == "worker" { 12 } else { 0 });
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

/// A line of a process's status.
fn status(process: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.unwrap_or_else(|| panic!("no {name} in {status}"))
        .trim()
        .to_owned()
}

async fn a_worker_is_walled_in() {
    let open = Project::new()
        .plugin(&Plugin::of("counter").wall("worker"))
        .open()
        .await;
    open.reply("counter", json!(null)).await;
    let process = worker(&open).await;
    assert_eq!(status(process, "Seccomp"), "2");
    assert_eq!(status(process, "NoNewPrivs"), "1");
    let folder = PathBuf::from(format!("/proc/{process}"));
    let limits = fs::read_to_string(folder.join("limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(
        (limit("Max core file size"), limit("Max open files")),
        ("0".to_owned(), "256".to_owned())
    );
    assert_ne!(limit("Max data size"), "unlimited");
    // The rest of it can be seen by root alone: it is not dumpable.
    let Ok(environment) = fs::read(folder.join("environ")) else {
        return;
    };
    assert!(environment.is_empty(), "{environment:?}");
    let mut files: Vec<String> = fs::read_dir(folder.join("fd"))
        .unwrap()
        .map(|entry| {
            fs::read_link(entry.unwrap().path())
                .unwrap()
                .to_string_lossy()
                .into_owned()
        })
        .map(|name| name.split([':', '(']).next().unwrap().to_owned())
        .collect();
    files.sort();
    files.dedup();
    let mine = ["/", "/dev/null", "/memfd", "anon_inode", "socket"];
    let others: Vec<&String> = files
        .iter()
        .filter(|name| !mine.contains(&name.as_str()) && !name.ends_with("/pagemap") && !name.starts_with("/memfd"))
        .collect();
    assert!(others.is_empty(), "{files:?}");
    let parts = waypost::plugin::worker::probe(&open.hub.config).await.unwrap().parts;
    let space = |process: &str, name: &str| fs::read_link(format!("/proc/{process}/ns/{name}")).unwrap();
    for (part, name) in [
        (Part::Network, "net"),
        (Part::Ipc, "ipc"),
        (Part::Ipc, "uts"),
        (Part::Root, "mnt"),
    ] {
        let apart = space(&process.to_string(), name) != space("self", name);
        assert_eq!(apart, parts.contains(&part), "{name}");
    }
    if parts.contains(&Part::Root) {
        assert_eq!(fs::read_dir(folder.join("root")).unwrap().count(), 0);
    }
    if parts.contains(&Part::User) {
        let users = status(process, "Uid");
        let same = space(&process.to_string(), "user") == space("self", "user");
        assert!(!same || users.split_whitespace().all(|user| user != "0"), "{users}");
    }
}

async fn doctor_says_how_workers_are_confined() {
    let project = Project::new()
        .toml("[worker]\nrequire = [\"seccomp\", \"limits\"]")
        .written();
    let ended = run(project.root(), &["doctor", "--json"]).await;
    let found = ended.json();
    let found = found
        .as_array()
        .unwrap()
        .iter()
        .find(|found| found["what"] == "workers")
        .unwrap();
    let parts = waypost::plugin::worker::probe(&config()).await.unwrap();
    let lacking: Vec<Part> = parts.lacks(&Part::ALL).collect();
    assert_eq!(
        found["verdict"],
        if lacking.is_empty() { "ok" } else { "warning" },
        "{found}"
    );
    for part in lacking {
        let text = format!("without `{}`: {}", part.as_str(), part.without());
        assert!(found["text"].as_str().unwrap().contains(&text), "{found}");
    }

    let project = Project::new()
        .workers(Manner::Open)
        .toml("require = [\"network\"]")
        .written();
    let ended = run(project.root(), &["doctor"]).await;
    assert_eq!(ended.code, 1);
    for line in [
        "missing  workers       without `no-new-privs`: a program that it starts could have more rights than it; it is required",
        "without `network`: it has the hub's network, and seccomp alone keeps it from it; network namespaces are forbidden; it is \
         required",
        "without `ipc`: it shares names and shared memory with the hub, and seccomp alone keeps it from them\n",
    ] {
        assert!(ended.out.contains(line), "{line}: {}", ended.out);
    }
}

fn config() -> Config {
    let mut config = Config::default();
    config.worker.program = Some(binary::path());
    config
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
        let answer = waypost::capabilities::chat::Answer::plain(&json!({ "answer": number }).to_string());
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

async fn a_hostile_worker_ends_its_calls_and_nothing_else() {
    let gone = |why: &str| {
        format!(
            "trapped: plugin `keeper` was stopped: its worker process is gone, {why}; the next call starts another one"
        )
    };
    let rows = [
        (Manner::Honest, None, "1".to_owned()),
        (Manner::Exit, Some("it ended with exit code 0"), gone("it ended with exit code 0")),
        (
            Manner::Oversized,
            Some("it sent a frame of more than 16842752 bytes"),
            gone("it sent a frame of more than 16842752 bytes"),
        ),
        (
            Manner::Garbage,
            Some("it sent a frame that is none"),
            gone("it sent a frame that is none: Found a varint that didn't terminate. Is the usize too big for this platform?"),
        ),
        (
            Manner::Trailing,
            Some("it sent a frame that is none"),
            gone("it sent a frame that is none: 1 bytes too many"),
        ),
        (
            Manner::UpTwice,
            Some("it said twice that it is ready"),
            gone("it said twice that it is ready"),
        ),
        (
            Manner::Unasked,
            Some("it spoke of a plugin that it was not asked about"),
            gone("it spoke of a plugin that it was not asked about"),
        ),
        (
            Manner::Stranger,
            Some("it spoke of call 999, which it does not have"),
            gone("it spoke of call 999, which it does not have"),
        ),
        (
            Manner::Impatient,
            Some("it asked for call 1 again before it was answered"),
            gone("it asked for call 1 again before it was answered"),
        ),
        (Manner::EndTwice, Some("it spoke of call 1, which it does not have"), "1".to_owned()),
        (
            Manner::Chatty,
            Some("it logs more for call 1 than its limit `log`"),
            gone("it logs more for call 1 than its limit `log`"),
        ),
        (
            Manner::Loud,
            Some("it logs more for call 1 than its limit `log`"),
            gone("it logs more for call 1 than its limit `log`"),
        ),
        (
            Manner::Stubborn,
            Some("it did not stop a call when it was told to"),
            "timeout: keeper did not end within its time limit and was stopped".to_owned(),
        ),
        (
            Manner::Deaf,
            Some("it did not stop a call when it was told to"),
            "timeout: keeper did not end within its time limit and was stopped".to_owned(),
        ),
        (
            Manner::Thief,
            None,
            "not-found: this call holds no started call number 1".to_owned(),
        ),
        (Manner::Liar, None, "trapped: the hub is broken".to_owned()),
        (
            Manner::Scribbler,
            None,
            "invalid: plugin `keeper` answered with something else: not valid JSON: EOF while parsing an object at line 1 \
             column 1"
                .to_owned(),
        ),
    ];
    for (manner, why, expected) in rows {
        let keeper = Plugin::of("keeper")
            .grants("state = true")
            .limits("timeout = \"300ms\"");
        let open = Project::new()
            .workers(manner)
            .toml("[limits]\nworker-stop = \"100ms\"")
            .plugin(&keeper.wall("worker"))
            .plugin(&Plugin::of("echo"))
            .open()
            .await;
        let told = match open.call("keeper", json!([])).await.result {
            Ok(reply) => reply.as_str().to_owned(),
            Err(error) => error.to_string(),
        };
        assert_eq!(told, expected, "{manner:?}");
        match why {
            Some(why) => {
                let died = open.event(|event| &*event.kind == "worker.died").await;
                let body = died.body.to::<Value>().unwrap();
                assert!(body["why"].as_str().unwrap().starts_with(why), "{manner:?}: {body}");
            }
            None => drop(worker(&open).await),
        }
        assert_eq!(
            open.reply("echo", json!({ "text": "a", "times": 2 })).await["text"],
            "aa",
            "{manner:?}"
        );
    }
}

async fn a_worker_that_does_not_start_is_told_with_its_reason() {
    let doctor = "`waypost doctor` shows what the machine lacks";
    let rows = [
        (Manner::Stillborn, "", "it ended with exit code 0"),
        (
            Manner::Mute,
            "[limits]\nworker-start = \"300ms\"",
            "it was not ready after 300ms, the limit `worker-start` of [limits]",
        ),
        (
            Manner::Open,
            "",
            "it is not confined by no-new-privs, seccomp, which no worker may be without",
        ),
        (
            Manner::Bare,
            "require = [\"network\", \"landlock\"]",
            "this machine cannot give it network, landlock, which `require` in [worker] of waypost.toml asks for",
        ),
    ];
    for (manner, toml, why) in rows {
        let open = Project::new()
            .workers(manner)
            .toml(toml)
            .plugin(&Plugin::of("echo").wall("worker"))
            .open()
            .await;
        assert_eq!(
            open.error("echo", json!(null)).await,
            format!("unavailable: the worker process of plugin `echo` did not start: {why}; {doctor}"),
            "{manner:?} {toml}"
        );
    }
    let open = Project::new()
        .toml("[worker]\nprogram = \"/nowhere/waypost\"")
        .plugin(&Plugin::of("echo").wall("worker"))
        .open()
        .await;
    assert_eq!(
        open.error("echo", json!(null)).await,
        format!(
            "unavailable: the worker process of plugin `echo` did not start: /nowhere/waypost cannot be run: No such file or \
             directory (os error 2); {doctor}"
        )
    );
}

async fn a_worker_that_keeps_dying_is_not_started_at_once() {
    let open = Project::new()
        .workers(Manner::Exit)
        .plugin(&Plugin::of("echo").wall("worker"))
        .open()
        .await;
    let mut kinds = Vec::new();
    for _ in 0..3 {
        kinds.push(
            open.error("echo", json!(null))
                .await
                .split(':')
                .next()
                .unwrap()
                .to_owned(),
        );
    }
    assert_eq!(kinds, ["trapped"; 3]);
    let error = open.error("echo", json!(null)).await;
    assert!(
        error.starts_with(
            "unavailable: the worker process of plugin `echo` died 3 times in a row; the next is started in "
        ),
        "{error}"
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

async fn a_process_has_no_more_memory_than_its_limit() {
    let open = Project::new()
        .toml("[limits]\nworker-memory = \"40MiB\"")
        .plugin(&Plugin::of("hungry").wall("worker"))
        .open()
        .await;
    assert_eq!(open.reply("hungry", json!(1 << 20)).await, json!(1 << 20));
    assert_eq!(
        open.error("hungry", json!(48 << 20)).await,
        "limit: plugin `hungry` gets no more memory of this machine; in a worker process, its limit is `worker-memory` of \
         [limits]"
    );
    assert_eq!(open.reply("hungry", json!(1 << 20)).await, json!(1 << 20));
}

async fn an_idle_worker_ends_and_the_next_call_starts_another() {
    let open = Project::new()
        .toml("[limits]\nworker-idle = \"50ms\"")
        .plugin(&waiting("one"))
        .open()
        .await;
    let call = open.begin("one", ask()).await;
    open.questions(1).await;
    let first = worker(&open).await;
    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
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

/// The processes that this one has started.
fn children(parent: u32) -> Vec<u32> {
    let of = |path: &Path| -> Option<u32> {
        let status = fs::read_to_string(path.join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
        (line.trim().parse() == Ok(parent)).then(|| path.file_name()?.to_str()?.parse().ok())?
    };
    let entries = fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| of(&entry.unwrap().path())).collect()
}

async fn no_worker_outlives_its_hub() {
    let open = Project::new()
        .plugin(&Plugin::of("counter").wall("worker"))
        .open()
        .await;
    open.reply("counter", json!(null)).await;
    let process = worker(&open).await;
    drop(open.close().await);
    assert!(
        !Path::new(&format!("/proc/{process}")).exists(),
        "a closed hub has none left"
    );

    let open = Project::new()
        .plugin(&Plugin::of("counter").wall("worker"))
        .open()
        .await;
    open.reply("counter", json!(null)).await;
    let process = worker(&open).await;
    drop(open);
    gone(process).await;

    for crash in [false, true] {
        let project = Project::new().plugin(&Plugin::of("counter").wall("worker")).written();
        let hub = Serving::start(project.root(), &[]).await;
        let body = json!({ "call": "counter", "message": null });
        let (status, text) = hub.ask("POST", "/calls", &body).await;
        assert_eq!(status, 200, "{text}");
        let workers = children(hub.process.id());
        assert_eq!(workers.len(), 1, "{workers:?}");
        if crash {
            hub.crash().await;
        } else {
            hub.stop().await;
        }
        gone(workers[0]).await;
    }
}
