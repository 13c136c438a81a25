//! What a worker process is kept from, and what becomes of one that does not keep to the rules, does not start or does not
//! end; and the process that compiles what strangers wrote.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use waypost::config::{Config, Part};

use super::{WALLS, gone, worker};
use crate::harness::component::Text;
use crate::harness::peer::{Manner, real};
use crate::harness::process::{Serving, run};
use crate::harness::{Plugin, Project, binary};
use crate::listed;

listed![
    a_worker_is_walled_in,
    doctor_says_how_workers_are_confined,
    a_hostile_worker_ends_its_calls_and_nothing_else,
    a_worker_that_does_not_start_is_told_with_its_reason,
    what_a_stranger_wrote_is_compiled_in_a_process_that_is_thrown_away,
    what_does_not_fit_is_refused_at_load_behind_both_walls,
    a_worker_that_keeps_dying_is_not_started_at_once,
    a_process_has_no_more_memory_than_its_limit,
    no_worker_outlives_its_hub,
];

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
    let parts = waypost::plugin::worker::probe(&open.hub.config, &open.hub.state())
        .await
        .unwrap()
        .parts;
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
    // Nobody misses a bound that nobody has asked for.
    for (worker_cpu, asked, limit) in [(Some(150), true, "\n[limits]\nworker-cpu = 150"), (None, false, "")] {
        let project = Project::new()
            .toml(&format!("[worker]\nrequire = [\"seccomp\", \"limits\"]{limit}"))
            .written();
        let ended = run(project.root(), &["doctor", "--json"]).await;
        let found = ended.json();
        let found = found
            .as_array()
            .unwrap()
            .iter()
            .find(|found| found["what"] == "workers")
            .unwrap();
        let mut config = config();
        config.limits.worker_cpu = worker_cpu;
        let parts = waypost::plugin::worker::probe(&config, project.root()).await.unwrap();
        let lacking = parts.lacks(&Part::ALL).filter(|part| asked || *part != Part::CpuGroup);
        let lacking: Vec<Part> = lacking.collect();
        assert_eq!(
            found["verdict"],
            if lacking.is_empty() { "ok" } else { "warning" },
            "{found}"
        );
        let text = found["text"].as_str().unwrap();
        for part in lacking {
            let without = format!("without `{}`: {}", part.as_str(), part.without());
            assert!(text.contains(&without), "{found}");
        }
        let bounded = parts.groups.cpu.is_some();
        assert_eq!(text.contains("(150 % of a core)"), bounded, "{found}");
        assert!(!bounded || asked);
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

/// A configuration whose workers are the binary itself.
pub fn config() -> Config {
    let mut config = Config::default();
    config.worker.program = Some(binary::path());
    config
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
            "invalid: what is asked for is not open: it was closed, or belongs to another call".to_owned(),
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
        // Short where it is to pass; where it is not, nothing waits for it.
        let time = if expected.starts_with("timeout: ") {
            "300ms"
        } else {
            "30s"
        };
        let keeper = Plugin::of("keeper")
            .grants("state = true")
            .limits(&format!("timeout = \"{time}\""));
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
}

/// What a project is refused with.
pub async fn refused(project: &Project) -> String {
    match project.try_open().await {
        Ok(_) => panic!("it was opened"),
        Err(error) => crate::harness::normal(project.root(), &format!("{}: {}", error.kind, error.chain())),
    }
}

async fn what_a_stranger_wrote_is_compiled_in_a_process_that_is_thrown_away() {
    let limits = "its limits are `compile-time` and `compile-memory` of [limits]";
    let by = |how: &str| format!("limit: plugin `echo` was not compiled: the process that compiles it {how}; {limits}");
    // All that the real one says, but for the last byte of its code.
    let cut = format!("{} | head -c -1", real("compile"));
    let rows = [
        ("exit 3", "", by("ended with exit code 3")),
        ("head -c 100 /dev/zero", "", by("answered something else")),
        ("cat /dev/urandom", "", by("answered something else")),
        (&cut, "", by("answered something else")),
        ("sleep 600", "compile-time = \"100ms\"", by("was not done after 300ms")),
        (
            "cat > /dev/null; sleep 600",
            "compile-time = \"100ms\"",
            by("was not done after 300ms"),
        ),
    ];
    for wall in WALLS {
        for (program, toml, expected) in &rows {
            let project = Project::new()
                .own_cache()
                .programs(&real("worker"), program)
                .toml(&format!("[limits]\n{toml}"))
                .plugin(&Plugin::of("echo").wall(wall));
            assert_eq!(refused(&project).await, *expected, "{wall}: {program} {toml}");
        }
        // So many functions, each a while to compile.
        let body = format!(
            "(local.get 0) {}",
            "(i32.const 7) (i32.mul) (local.get 0) (i32.add) ".repeat(60_000)
        );
        let functions: String = (0..20)
            .map(|_| format!("(func (param i32) (result i32) {body})"))
            .collect();
        let slow = Plugin::made_of("echo", Text::handler().items(functions.leak()).bytes());
        let project = Project::new()
            .own_cache()
            .toml("[limits]\ncompile-time = \"1s\"")
            .plugin(&slow.wall(wall));
        assert_eq!(refused(&project).await, by("was killed by SIGXCPU"), "{wall}");
        let project = Project::new()
            .own_cache()
            .toml("[worker]\nprogram = \"/nowhere/waypost\"")
            .plugin(&Plugin::of("echo").wall(wall));
        assert_eq!(
            refused(&project).await,
            "unavailable: plugin `echo` cannot be compiled: /nowhere/waypost cannot be run: No such file or directory (os error \
             2)"
        );
    }
}

async fn what_does_not_fit_is_refused_at_load_behind_both_walls() {
    for wall in WALLS {
        // The second time its code is known already.
        for _ in 0..2 {
            let keeper = Plugin::of("keeper").wall(wall);
            assert_eq!(
                refused(&Project::new().plugin(&keeper)).await,
                "denied: plugin `keeper` imports `waypost:state/store@0.1.0` without the grant `state`; if it may, add `state = \
                 true` to [grants] of its manifest and to `grant` of its [[plugin]] entry in waypost.toml",
                "{wall}"
            );
            let agent = Plugin::of("echo").role("agent").wall(wall);
            assert_eq!(
                refused(&Project::new().plugin(&agent)).await,
                "invalid: plugin `echo` has the role agent by its manifest, but does not export `waypost:plugin/agent@0.1.0`; it \
                 exports `waypost:plugin/handler@0.1.0`: set `role` to what it is, or build it with that world; `waypost plugin doctor` says more",
                "{wall}"
            );
            drop(
                Project::new()
                    .plugin(&Plugin::of("keeper").grants("state = true").wall(wall))
                    .open()
                    .await,
            );
        }
        let core = Plugin::made_of("core", b"\0asm\x01\0\0\0".to_vec()).wall(wall);
        assert_eq!(
            refused(&Project::new().plugin(&core)).await,
            "invalid: plugin `core` is a core WebAssembly module, not a component; build it with `--target wasm32-wasip2`"
        );
    }
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

/// The processes that this one has started.
pub fn children(parent: u32) -> Vec<u32> {
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
