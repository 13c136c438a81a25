//! Programs that plugins are granted.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use waypost::call::Sink;
use waypost::imports::process::digest;

use crate::harness::process::Serving;
use crate::harness::{Open, Plugin, Project, normal};
use crate::worker::WALLS;

crate::listed![
    a_program_is_run_and_what_it_writes_is_handed_over,
    a_program_has_no_environment_and_gains_no_rights,
    a_program_is_an_import_of_its_own_and_named_by_the_manifest,
    what_was_not_granted_is_not_run,
    what_is_executed_is_what_was_digested,
    a_swap_between_the_check_and_the_start_does_not_matter,
    a_program_and_what_it_starts_end_with_the_call,
    everything_about_programs_is_bounded,
];

const CAT: &str = "/bin/cat";
const SH: &str = "/bin/sh";

/// The operator's word about a program.
fn granted(name: &str, path: &Path, args: &str) -> String {
    let sha256 = digest(path).unwrap();
    format!("{{ name = {name:?}, path = {path:?}, sha256 = {sha256:?}, args = {args} }}")
}

/// The guest that runs programs: what it asks for, and what it is granted of that, with a folder `work` to run them in.
fn runner(asked: &str, granted: &str) -> Plugin {
    Plugin::of("runner")
        .asks(&format!(
            "process = [{asked}], files = [{{ name = \"work\", write = true }}, {{ name = \"docs\" }}]"
        ))
        .granted(&format!(
            "process = [{granted}], files = [{{ name = \"work\", path = \"work\", write = true }}, \
             {{ name = \"docs\", path = \"docs\" }}]"
        ))
}

/// The one that may run whatever it likes in a shell, which stands for any program.
fn sheller() -> Plugin {
    let sh = granted("sh", SH.as_ref(), "[[\"-c\", \"*\"]]");
    runner("{ name = \"sh\", args = [[\"-c\", \"*\"]] }", &sh)
}

fn folders(project: Project) -> Project {
    project.file("work/here.txt", "here").file("docs/a.txt", "a")
}

async fn ran(open: &Open, message: Value) -> Value {
    open.reply("runner", message).await
}

async fn error(open: &Open, message: Value) -> String {
    let reply = ran(open, message).await;
    let error = reply["error"].as_str();
    open.normal(error.unwrap_or_else(|| panic!("it was run: {reply}")))
}

fn sh(script: &str) -> Value {
    json!({ "program": "sh", "args": ["-c", script] })
}

async fn a_program_is_run_and_what_it_writes_is_handed_over() {
    for wall in WALLS {
        let cat = granted("cat", CAT.as_ref(), "[[]]");
        let shell = granted("sh", SH.as_ref(), "[[\"-c\", \"*\"]]");
        let asked = "{ name = \"cat\" }, { name = \"sh\", args = [[\"-c\", \"*\"]] }";
        let plugin = runner(asked, &format!("{cat}, {shell}")).wall(wall);
        let open = folders(Project::new()).plugin(&plugin).open().await;
        let large = "x".repeat(300_000);
        for (message, expected) in [
            (
                json!({ "program": "cat", "input": "hello" }),
                json!({ "ending": "Ending::Code(0)", "size": 5, "stdout": "hello", "stderr": "" }),
            ),
            (
                json!({ "program": "cat", "input": large }),
                json!({ "ending": "Ending::Code(0)", "size": 300_000, "stdout": &large[..4096], "stderr": "" }),
            ),
            (
                sh("echo one; echo two >&2; exit 3"),
                json!({ "ending": "Ending::Code(3)", "size": 8, "stdout": "one\n", "stderr": "two\n" }),
            ),
            (
                sh("kill -SEGV $$"),
                json!({ "ending": "Ending::Signal(\"SIGSEGV\")", "size": 0, "stdout": "", "stderr": "" }),
            ),
            (
                json!({ "program": "sh", "args": ["-c", "cat here.txt; echo new > new.txt"], "folder": "work" }),
                json!({ "ending": "Ending::Code(0)", "size": 4, "stdout": "here", "stderr": "" }),
            ),
        ] {
            assert_eq!(ran(&open, message).await, expected, "{wall}");
        }
        assert_eq!(fs::read_to_string(open.root().join("work/new.txt")).unwrap(), "new\n");
        // Each piece is there before the program goes on.
        fs::remove_file(open.root().join("work/new.txt")).unwrap();
        let script = "echo 1; until [ -e new.txt ]; do :; done; echo 2";
        let message = json!({ "program": "sh", "args": ["-c", script], "folder": "work", "stream": true });
        let (sink, mut chunks) = Sink::channel();
        let ended = open.carry(open.prepared("runner", message).await, sink);
        assert_eq!(chunks.recv().await.unwrap().to::<String>().unwrap(), "1\n");
        fs::write(open.root().join("work/new.txt"), "").unwrap();
        assert_eq!(chunks.recv().await.unwrap().to::<String>().unwrap(), "2\n");
        assert!(ended.await.unwrap().result.is_ok());
    }
}

async fn a_program_has_no_environment_and_gains_no_rights() {
    let env = granted("env", "/usr/bin/env".as_ref(), "[[]]");
    let cat = granted("cat", CAT.as_ref(), "[[\"/proc/self/status\"]]");
    let shell = granted("sh", SH.as_ref(), "[[\"-c\", \"*\"]]");
    let asked = "{ name = \"env\" }, { name = \"cat\", args = [[\"/proc/self/status\"]] }, \
                 { name = \"sh\", args = [[\"-c\", \"*\"]] }";
    for wall in WALLS {
        let project = folders(Project::new())
            .plugin(&runner(asked, &format!("{env}, {cat}, {shell}")).wall(wall))
            .written();
        let hub = Serving::start(
            project.root(),
            &[("SECRET_TOKEN", "sk-canary"), ("LD_DEBUG_OUTPUT", "x")],
        )
        .await;
        let ask = async |message: Value| {
            let (status, text) = hub
                .ask("POST", "/calls", &json!({ "call": "runner", "message": message }))
                .await;
            assert_eq!(status, 200, "{text}");
            text
        };
        let reply: Value = serde_json::from_str(&ask(json!({ "program": "env" })).await).unwrap();
        let out = reply["reply"]["stdout"].as_str().unwrap_or_else(|| panic!("{reply}"));
        let mut names: Vec<&str> = out.lines().filter_map(|line| line.split('=').next()).collect();
        names.sort_unstable();
        assert_eq!(names, ["HOME", "LANG", "TMPDIR"], "{wall}: {out}");
        let home = PathBuf::from(out.lines().find_map(|line| line.strip_prefix("HOME=")).unwrap());
        assert!(
            home.starts_with(project.root().canonicalize().unwrap().join(".waypost")),
            "{home:?}"
        );
        let status = ask(json!({ "program": "cat", "args": ["/proc/self/status"] })).await;
        assert!(status.contains("NoNewPrivs:\\t1\\n"), "{wall}: {status}");
        // Its own folder is empty, and gone after it.
        let script = "[ \"$PWD\" = \"$HOME\" ] && ls -A \"$HOME\" 2>&1 && : > mine && ls";
        let own = ask(json!({ "program": "sh", "args": ["-c", script] })).await;
        assert!(own.contains("mine") || own.contains("not found"), "{wall}: {own}");
        // Nothing that the hub has open is open in it.
        let open = ask(json!({ "program": "sh", "args": ["-c", "/usr/bin/readlink /proc/$$/fd/*"] })).await;
        let open: Value = serde_json::from_str(&open).unwrap();
        let open = open["reply"]["stdout"].as_str().unwrap();
        assert!(
            open.contains("memfd:input") && !open.contains(".waypost"),
            "{wall}: {open}"
        );
        let homes = project.root().join(".waypost/programs");
        hub.stop().await;
        assert_eq!(fs::read_dir(homes).unwrap().count(), 0, "{wall}");
    }
}

async fn a_program_is_an_import_of_its_own_and_named_by_the_manifest() {
    let path: &Path = CAT.as_ref();
    let whole = granted("cat", path, "[[]]");
    let line = "plugin `runner` imports `waypost:process/programs@0.1.0` without the grant `process`; if it may, add `process = \
                [{ name = \"<program>\", args = [[\"<argument>\"]] }]` to [grants] of its manifest and to `grant` of its [[plugin]] \
                entry in waypost.toml";
    let placed = "<project>/plugins/runner.toml: the program `cat` has a `path` or a `sha256`: a manifest names programs, and the \
                  operator says which files they are; remove it";
    let agent = "<project>/plugins/runner.toml: the grant `process` is not for agents: an agent is run again from the log, which \
                 holds its calls alone; remove it, and let the agent call a handler that has the grant";
    let only = |asked: &str, granted: &str| {
        Plugin::of("runner")
            .asks(&format!("process = [{asked}]"))
            .granted(&format!("process = [{granted}]"))
    };
    for (plugin, expected) in [
        (Plugin::of("runner"), line.to_owned()),
        (Plugin::of("runner").asks("process = [{ name = \"cat\" }]"), line.to_owned()),
        (Plugin::of("runner").granted(&format!("process = [{whole}]")), line.to_owned()),
        (only("{ name = \"dog\" }", &whole), line.to_owned()),
        (only("{ name = \"cat\", args = [[\"x\"]] }", &whole), line.to_owned()),
        (only(&whole, &whole), placed.to_owned()),
        (
            only("{ name = \"cat\" }", "{ name = \"cat\" }"),
            "waypost.toml has 1 problem:\n  line 1: `plugin.grant.process`: the program `cat` has no `path`; say which file it is"
                .to_owned(),
        ),
        (
            only("{ name = \"cat\" }", &format!("{{ name = \"cat\", path = {path:?} }}")),
            format!(
                "waypost.toml has 1 problem:\n  line 1: `plugin.grant.process`: the program `cat` has no `sha256`; `sha256sum {}` \
                 says it",
                path.display()
            ),
        ),
        (
            only("{ name = \"cat\" }", "{ name = \"cat\", path = \"bin/cat\" }"),
            "waypost.toml has 1 problem:\n  line 4: `plugin.grant.process.path`: the path `bin/cat` is relative; write it from the \
             root on, as in `/usr/bin/git`"
                .to_owned(),
        ),
        (only("{ name = \"cat\" }", &whole).role("agent"), agent.to_owned()),
    ] {
        let project = Project::new().plugin(&plugin);
        let error = project.try_open().await.err().map(|error| error.chain());
        assert_eq!(normal(project.root(), &error.unwrap_or_default()), expected);
    }
}

async fn what_was_not_granted_is_not_run() {
    let cat = granted("cat", CAT.as_ref(), "[[\"--\", \"*\"], [\"-n\"]]");
    let other = granted("other", CAT.as_ref(), "[[\"...\"]]");
    let asked = "{ name = \"cat\", args = [[\"--\", \"*\"], [\"-b\"]] }, { name = \"lost\", args = [[\"...\"]] }";
    for wall in WALLS {
        let plugin = runner(asked, &format!("{cat}, {other}")).wall(wall);
        let open = folders(Project::new()).plugin(&plugin).open().await;
        for name in ["other", "lost", "dog", "/bin/cat", "../cat", "bin/cat", "", "cat\0"] {
            let shown = name.escape_debug();
            let expected = format!(
                "denied: plugin `runner` may not run the program `{shown}`: if it may, add {{ name = \"{shown}\" }} to `process` in \
                 [grants] of its manifest, and the same with its `path` and `sha256` to `process` in `grant` of its [[plugin]] entry \
                 in waypost.toml"
            );
            assert_eq!(error(&open, json!({ "program": name })).await, expected);
        }
        for args in [
            json!([]),
            json!(["-n"]),
            json!(["-b"]),
            json!(["here.txt"]),
            json!(["--", "-n"]),
            json!(["--", "--"]),
            json!(["--", "a", "b"]),
            json!(["-- here.txt"]),
            json!(["--", "here.txt", ""]),
            json!(["*"]),
        ] {
            let refused = error(&open, json!({ "program": "cat", "args": args })).await;
            let shown = format!(
                "{:?}",
                args.as_array()
                    .unwrap()
                    .iter()
                    .map(|one| one.as_str().unwrap())
                    .collect::<Vec<_>>()
            );
            let expected = format!(
                "denied: plugin `runner` may not run the program `cat` with the arguments {shown}, only with `-- *`: if it may, add \
                 them to `args` of `cat` in `process`, in [grants] of its manifest and in `grant` of its [[plugin]] entry in \
                 waypost.toml"
            );
            assert_eq!(refused, expected);
        }
        for bad in ["here.txt\nx", "here.txt\0x", "\u{1b}[2J"] {
            let refused = error(&open, json!({ "program": "cat", "args": ["--", bad] })).await;
            assert!(
                refused.starts_with("invalid: the argument `")
                    && refused.ends_with("contains a control character; an argument cannot"),
                "{refused}"
            );
        }
        // No shell reads it, so that this is the name of a file.
        let message = json!({ "program": "cat", "args": ["--", "$(id); echo *"], "folder": "work" });
        let reply = ran(&open, message).await;
        assert_eq!(
            (&reply["ending"], &reply["stdout"]),
            (&json!("Ending::Code(1)"), &json!("")),
            "{reply}"
        );
        for (folder, may) in [
            ("docs", "may not write to"),
            ("elsewhere", "may not use"),
            ("../docs", "may not use"),
        ] {
            let message = json!({ "program": "cat", "args": ["--", "a.txt"], "folder": folder });
            let refused = error(&open, message).await;
            assert!(
                refused.starts_with(&format!(
                    "denied: plugin `runner` {may} the folder `{folder}`: if it may, add "
                )),
                "{refused}"
            );
        }
        let message = json!({ "program": "cat", "args": ["--", "here.txt"], "folder": "work" });
        assert_eq!(ran(&open, message).await["stdout"], "here");
    }
}

async fn what_is_executed_is_what_was_digested() {
    let (cat, sh): (&Path, &Path) = (CAT.as_ref(), SH.as_ref());
    let project = folders(Project::new());
    let tool = project.root().join("tool");
    fs::copy(cat, &tool).unwrap();
    let grant = granted("tool", &tool, "[[]]");
    let plugin = runner("{ name = \"tool\" }", &grant);
    let open = project.plugin(&plugin).open().await;
    let run = json!({ "program": "tool", "input": "hello" });
    assert_eq!(ran(&open, run.clone()).await["stdout"], "hello");
    // Where links lead does not matter, only what is there.
    fs::remove_file(&tool).unwrap();
    symlink(cat, &tool).unwrap();
    assert_eq!(ran(&open, run.clone()).await["stdout"], "hello");
    fs::remove_file(&tool).unwrap();
    symlink(sh, &tool).unwrap();
    let (before, now) = (digest(cat).unwrap(), digest(sh).unwrap());
    assert_eq!(
        error(&open, run.clone()).await,
        format!(
            "denied: the program `tool` has changed: granted was the SHA-256 {before}, and there is {now}; if it may be run, write that \
             into `sha256` of `tool` in waypost.toml, or say `waypost plugin grant runner process=tool=<path>` again"
        )
    );
    fs::remove_file(&tool).unwrap();
    let mut bytes = fs::read(cat).unwrap();
    bytes.push(0);
    fs::write(&tool, &bytes).unwrap();
    assert!(
        error(&open, run.clone())
            .await
            .starts_with("denied: the program `tool` has changed: ")
    );
    let gone = "the program `tool` cannot be run; the hub's log says why";
    fs::remove_file(&tool).unwrap();
    assert_eq!(error(&open, run.clone()).await, format!("unavailable: {gone}"));
    // What is no program of this machine is not digested either, so nobody can grant it.
    fs::write(&tool, "#!/bin/sh\necho hello\n").unwrap();
    assert_eq!(error(&open, run.clone()).await, format!("denied: {gone}"));
    let why = |path: &Path| normal(open.root(), &digest(path).unwrap_err().chain());
    assert_eq!(
        why(&tool),
        "<project>/tool is a script for `/bin/sh`: what it does depends on a program that this grant does not name; grant another file"
    );
    assert_eq!(
        why(&open.root().join("docs/a.txt")),
        "<project>/docs/a.txt is no program of this machine (ELF); grant another file"
    );
    assert_eq!(why(open.root()), "<project> is not a file; grant another file");
    let pipe = open.root().join("pipe");
    crate::harness::fifo(&pipe);
    assert_eq!(why(&pipe), "<project>/pipe is not a file; grant another file");
    assert!(why(&open.root().join("none")).starts_with("the program <project>/none cannot be read; "));
}

async fn a_swap_between_the_check_and_the_start_does_not_matter() {
    const TIMES: usize = 40;
    let project = folders(Project::new());
    let root = project.root().to_owned();
    let tool = root.join("tool");
    fs::copy(CAT, root.join("good")).unwrap();
    fs::copy("/bin/echo", root.join("bad")).unwrap();
    fs::hard_link(root.join("good"), &tool).unwrap();
    let grant = granted("tool", &tool, "[[]]");
    let open = project.plugin(&runner("{ name = \"tool\" }", &grant)).open().await;
    let stop = AtomicBool::new(false);
    let swap = || {
        while !stop.load(Ordering::Relaxed) {
            for which in ["bad", "good"] {
                let next = root.join("next");
                fs::hard_link(root.join(which), &next).unwrap();
                fs::rename(&next, &tool).unwrap();
            }
        }
    };
    let handle = tokio::runtime::Handle::current();
    let (mut run, mut refused) = (0, 0);
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            scope.spawn(swap);
            handle.block_on(async {
                while run + refused < TIMES || run == 0 || refused == 0 {
                    let reply = ran(&open, json!({ "program": "tool", "input": "hello" })).await;
                    match reply["error"].as_str() {
                        None => {
                            assert_eq!(reply["stdout"], "hello", "only what was granted is ever run");
                            run += 1;
                        }
                        Some(error) => {
                            assert!(error.starts_with("denied: the program `tool` has changed: "), "{error}");
                            refused += 1;
                        }
                    }
                }
            });
            stop.store(true, Ordering::Relaxed);
        });
    });
}

/// Resolves when nobody holds the named pipe open any more that a program opened: its end is an event, for all that inherited it.
async fn all_gone(pipe: PathBuf) {
    tokio::task::spawn_blocking(move || fs::read(pipe).unwrap())
        .await
        .unwrap();
}

async fn a_program_and_what_it_starts_end_with_the_call() {
    // It and a grandchild hold the pipe, and neither would end.
    let script = "exec 3> life; sleep 1000 & echo go; wait";
    let message = |fields: Value| {
        let mut message = json!({ "program": "sh", "args": ["-c", script], "folder": "work", "stream": true });
        message
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        message
    };
    for wall in WALLS {
        let open = folders(Project::new()).plugin(&sheller().wall(wall)).open().await;
        let pipe = open.root().join("work/life");
        crate::harness::fifo(&pipe);

        // Cancelled.
        let gone = tokio::spawn(all_gone(pipe.clone()));
        let call = open.prepared("runner", message(json!({}))).await;
        let cancel = call.cancel.clone();
        let (sink, mut chunks) = Sink::channel();
        let ended = open.carry(call, sink);
        assert_eq!(chunks.recv().await.unwrap().to::<String>().unwrap(), "go\n");
        cancel.cancel();
        assert_eq!(
            ended.await.unwrap().result.unwrap_err().kind.as_str(),
            "cancelled",
            "{wall}"
        );
        gone.await.unwrap();

        // Dropped by the guest, which goes on.
        let gone = tokio::spawn(all_gone(pipe.clone()));
        assert_eq!(ran(&open, message(json!({ "drop": true }))).await, "go\n", "{wall}");
        gone.await.unwrap();

        // Its own time is over.
        let gone = tokio::spawn(all_gone(pipe.clone()));
        assert_eq!(
            error(&open, message(json!({ "millis": 300 }))).await,
            "timeout: the program `sh` did not end within the time limit and was killed; what it did is done",
            "{wall}"
        );
        gone.await.unwrap();

        // It ends itself, and leaves something behind.
        let gone = tokio::spawn(all_gone(pipe.clone()));
        let leaving = json!({ "args": ["-c", "exec 3> life; sleep 1000 & exit 7"] });
        assert_eq!(
            ran(&open, message(leaving)).await["ending"],
            "Ending::Code(7)",
            "{wall}"
        );
        gone.await.unwrap();

        // The call's time is over.
        let rule = "[[route]]\nmatch = \"runner\"\nto = \"plugin:runner\"\ntimeout = \"500ms\"";
        let open = folders(Project::new().toml(rule))
            .plugin(&sheller().wall(wall).unrouted())
            .open()
            .await;
        let pipe = open.root().join("work/life");
        crate::harness::fifo(&pipe);
        let gone = tokio::spawn(all_gone(pipe));
        let ended = open
            .call("runner", message(json!({ "stream": false, "millis": 60_000 })))
            .await;
        assert_eq!(ended.result.unwrap_err().kind.as_str(), "timeout", "{wall}");
        gone.await.unwrap();
    }
}

async fn everything_about_programs_is_bounded() {
    let limits = "[limits]\nprograms = 3\n[limits.plugin]\nprocess-input = \"1KiB\"\nprocess-output = \"100KiB\"\nprocess-running = 2";
    let cat = granted("cat", CAT.as_ref(), "[[\"...\"]]");
    let shell = granted("sh", SH.as_ref(), "[[\"-c\", \"*\"]]");
    let asked = "{ name = \"cat\", args = [[\"...\"]] }, { name = \"sh\", args = [[\"-c\", \"*\"]] }";
    for wall in WALLS {
        let plugin = runner(asked, &format!("{cat}, {shell}")).wall(wall);
        let open = folders(Project::new().toml(limits)).plugin(&plugin).open().await;
        assert_eq!(
            ran(&open, json!({ "program": "cat", "bytes": 1024 })).await["size"],
            1024
        );
        assert_eq!(
            error(&open, json!({ "program": "cat", "bytes": 1025 })).await,
            "limit: the input has 1025 bytes, the limit is 1024: `process-input` of [limits.plugin]"
        );
        for stream in ["1", "2"] {
            let flood = format!("while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done >&{stream}");
            assert_eq!(
                error(&open, sh(&flood)).await,
                "limit: the program `sh` wrote more than 102400 bytes, the limit `process-output` of [limits.plugin], and was killed"
            );
        }
        let many: Vec<_> = (0..257).map(|_| "/dev/null").collect();
        assert_eq!(
            error(&open, json!({ "program": "cat", "args": many })).await,
            "limit: a program is run with at most 256 arguments, not with 257"
        );
        assert_eq!(
            error(&open, json!({ "program": "cat", "args": ["x".repeat(4097)] })).await,
            "limit: an argument has at most 4096 bytes, this one has 4097"
        );
        let held = |hold: usize| json!({ "program": "sh", "args": ["-c", "echo go; sleep 1000"], "hold": hold, "stream": true });
        assert_eq!(
            error(&open, held(2)).await,
            "limit: plugin `runner` runs 2 programs, the limit `process-running` of [limits.plugin]; finish or drop some first"
        );
        // Two calls run three programs, which is all that there may be.
        let mut calls = Vec::new();
        for hold in [1, 0] {
            let call = open.prepared("runner", held(hold)).await;
            let (sink, mut chunks) = Sink::channel();
            calls.push((call.cancel.clone(), open.carry(call, sink)));
            assert!(chunks.recv().await.is_some());
            // Whoever stops reading here would cancel it.
            std::mem::forget(chunks);
        }
        assert_eq!(
            error(&open, sh("exit")).await,
            "limit: plugins run 3 programs, the limit `programs` of [limits]; try again later"
        );
        for (cancel, ended) in calls {
            cancel.cancel();
            drop(tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap());
        }
        assert_eq!(ran(&open, sh("exit")).await["ending"], "Ending::Code(0)");
    }
}
