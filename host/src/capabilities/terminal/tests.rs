//! Real commands, seen from their callers.

use super::*;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;

use crate::call::{CallName, PrincipalKind, Rights, Scope};
use crate::workspace::Workspace;

/// A terminal with a workspace of its own.
struct Room {
    folder: TempDir,
    terminal: Arc<Terminal>,
}

/// A command under way, seen from its caller.
struct Started {
    call: Call,
    chunks: Receiver<Json>,
    end: JoinHandle<Result<Json, CallError>>,
}

impl Room {
    fn new() -> Self {
        Self::with(config::Terminal {
            grace: Duration::from_millis(100),
            ..config::Terminal::default()
        })
    }

    fn with(config: config::Terminal) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            terminal: Arc::new(Terminal::new(config)),
        }
    }

    fn call(&self, kind: &str, message: Value, run: Option<&str>) -> Call {
        let principal = Principal {
            project: "default".into(),
            run: run.map(Into::into),
            kind: PrincipalKind::Agent,
            id: "loop".into(),
            rights: Rights::all(),
        };
        let scope = Scope {
            environment: None,
            labels: BTreeMap::new(),
            workspace: Arc::new(Workspace::open(self.folder.path()).unwrap()),
        };
        let limit = Duration::from_secs(60);
        Call::new(
            CallName::new(kind, None),
            message.into(),
            Arc::new(principal),
            Arc::new(scope),
            limit,
        )
    }

    fn start(&self, call: Call) -> Started {
        let (sink, chunks) = Sink::channel();
        let (terminal, ours) = (self.terminal.clone(), call.clone());
        Started {
            call,
            chunks,
            end: tokio::spawn(async move { terminal.handle(&ours, &sink).await }),
        }
    }

    fn stream(&self, command: &str) -> Started {
        self.start(self.call("executeCommandWithStream", json!({"command": command}), Some("r1")))
    }

    async fn handle(&self, kind: &str, message: Value) -> Result<Value, CallError> {
        let call = self.call(kind, message, Some("r1"));
        self.terminal
            .handle(&call, &Sink::discard())
            .await
            .map(|reply| reply.to().unwrap())
    }

    async fn execute(&self, command: &str) -> Value {
        self.handle("executeCommand", json!({"command": command}))
            .await
            .unwrap()
    }

    /// A pipe that a command can hold open (`9>life`): what resolves when the last holder is gone.
    fn life(&self) -> JoinHandle<String> {
        let path = self.fifo("life");
        tokio::task::spawn_blocking(move || std::fs::read_to_string(path).unwrap())
    }

    fn fifo(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        path
    }
}

impl Started {
    /// The next chunk: its stream and its text.
    async fn chunk(&mut self) -> Option<(String, String)> {
        let chunk: Value = self.chunks.recv().await?.to().unwrap();
        Some((chunk["stream"].as_str()?.to_owned(), chunk["text"].as_str()?.to_owned()))
    }

    async fn end(self) -> Result<Value, CallError> {
        self.end.await.unwrap().map(|reply| reply.to().unwrap())
    }
}

#[tokio::test]
async fn a_reply_holds_the_exit_code_and_both_streams() {
    let reply = Room::new().execute("echo one; echo two >&2; echo three; exit 3").await;
    let expected =
        json!({"exitCode": 3, "stdout": "one\nthree\n", "stderr": "two\n", "truncated": false, "success": false});
    assert_eq!(reply, expected);
}

#[tokio::test]
async fn a_command_that_a_signal_ended_names_it() {
    let reply = Room::new().execute("kill -KILL $$").await;
    assert_eq!(
        (&reply["exitCode"], &reply["signal"], &reply["success"]),
        (&json!(137), &json!("SIGKILL"), &json!(false))
    );
}

#[tokio::test]
async fn the_flag_empties_standard_output_on_success_alone() {
    let room = Room::new();
    let asked = |command| json!({"command": command, "returnEmptyStringOnSuccess": true});
    let good = room.handle("executeCommand", asked("echo x")).await.unwrap();
    let bad = room.handle("executeCommand", asked("echo x; false")).await.unwrap();
    assert_eq!((&good["stdout"], &bad["stdout"]), (&json!(""), &json!("x\n")));
}

#[tokio::test]
async fn a_command_works_in_the_workspace_and_sees_nothing_of_the_hubs_environment() {
    let env = BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())]);
    let room = Room::with(config::Terminal {
        env,
        ..config::Terminal::default()
    });
    let root = room.folder.path().canonicalize().unwrap().display().to_string();
    let reply = room.execute("pwd -P; touch made; env").await;
    let (pwd, env) = reply["stdout"].as_str().unwrap().split_once('\n').unwrap();
    let mut env: BTreeMap<&str, &str> = env.lines().filter_map(|line| line.split_once('=')).collect();
    // The shell's own.
    env.retain(|name, _| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name));
    let expected = [
        ("GREETING", "hello"),
        ("HOME", root.as_str()),
        ("LANG", "C.UTF-8"),
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("TERM", "dumb"),
        ("TMPDIR", "/tmp"),
    ];
    let expected = BTreeMap::from(expected);
    assert!(
        std::env::vars().any(|(name, _)| !expected.contains_key(&*name)),
        "the hub has a variable that could leak"
    );
    assert_eq!(env, expected);
    assert_eq!(pwd, root);
    assert!(room.folder.path().join("made").exists());
}

#[tokio::test]
async fn a_command_has_no_input() {
    assert_eq!(Room::new().execute("cat; echo $?").await["stdout"], "0\n");
}

#[tokio::test]
async fn chunks_arrive_while_the_command_runs() {
    let room = Room::new();
    let gate = room.fifo("gate");
    let mut started = room.stream("echo ready; cat gate; echo failing >&2");
    assert_eq!(
        started.chunk().await.unwrap(),
        ("stdout".to_owned(), "ready\n".to_owned())
    );
    tokio::fs::write(gate, "go\n").await.unwrap();
    let mut rest = vec![started.chunk().await.unwrap(), started.chunk().await.unwrap()];
    rest.sort();
    assert_eq!(
        rest,
        [
            ("stderr".to_owned(), "failing\n".to_owned()),
            ("stdout".to_owned(), "go\n".to_owned())
        ]
    );
    assert!(started.chunk().await.is_none());
    assert_eq!(started.end().await.unwrap()["stdout"], "ready\ngo\n");
}

#[tokio::test]
async fn a_huge_line_comes_in_small_chunks() {
    let room = Room::with(config::Terminal {
        output: 4 << 20,
        ..config::Terminal::default()
    });
    let mut started = room.stream("head -c 3000000 /dev/zero | tr '\\0' x");
    let mut length = 0;
    while let Some((_, text)) = started.chunk().await {
        assert!(text.len() <= crate::process::CHUNK);
        length += text.len();
    }
    assert_eq!(length, 3_000_000);
    assert_eq!(started.end().await.unwrap()["stdout"], "x".repeat(3_000_000));
}

#[tokio::test]
async fn output_beyond_the_bound_loses_its_middle() {
    let room = Room::with(config::Terminal {
        output: 100,
        ..config::Terminal::default()
    });
    let reply = room
        .execute("echo first; yes | head -c 1000000; echo last >&2; echo last")
        .await;
    let stdout = reply["stdout"].as_str().unwrap();
    assert!(stdout.starts_with("first\n") && stdout.ends_with("last\n"), "{stdout}");
    assert!(stdout.contains("\n[... 999911 bytes dropped ...]\n"), "{stdout}");
    assert_eq!(
        (&reply["truncated"], &reply["stderr"]),
        (&json!(true), &json!("last\n"))
    );
}

#[tokio::test]
async fn bytes_that_are_no_text_are_replaced_and_split_characters_are_not() {
    let room = Room::new();
    let mut started = room.stream("printf '\\303'; printf '\\244\\377x\\303'");
    let mut text = String::new();
    while let Some((_, piece)) = started.chunk().await {
        text.push_str(&piece);
    }
    assert_eq!(text, "ä\u{FFFD}x\u{FFFD}");
    assert_eq!(started.end().await.unwrap()["stdout"], text);
}

#[tokio::test]
async fn the_deadline_ends_grandchildren_that_refuse_to() {
    let room = Room::new();
    let life = room.life();
    let command = "trap '' TERM; (exec 9>life; echo up >&9; sleep 1000) & wait; sleep 1000";
    let mut call = room.call("executeCommand", json!({"command": command}), None);
    call.deadline = crate::call::Deadline::after(Duration::from_secs(1));
    let error = room.terminal.handle(&call, &Sink::discard()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "timeout: executeCommand did not end within its time limit and was stopped"
    );
    assert_eq!(life.await.unwrap(), "up\n");
    assert!(room.terminal.running.table().is_empty());
}

#[tokio::test]
async fn a_command_may_have_a_shorter_limit_of_its_own() {
    let message = json!({"command": "sleep 1000", "timeoutMs": 20});
    let error = Room::new().handle("executeCommand", message).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "timeout: executeCommand did not end within its timeoutMs of 20 ms and was stopped"
    );
}

#[tokio::test]
async fn a_cancelled_command_may_say_goodbye_within_the_grace() {
    let room = Room::with(config::Terminal {
        grace: Duration::from_secs(60),
        ..config::Terminal::default()
    });
    let life = room.life();
    let mut started = room.stream("trap 'echo bye >&9; exit' TERM; exec 9>life; echo up; while :; do :; done");
    started.chunk().await.unwrap();
    started.call.cancel.cancel();
    let error = started.end().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "cancelled: executeCommandWithStream was cancelled and stopped"
    );
    assert_eq!(life.await.unwrap(), "bye\n");
}

#[tokio::test]
async fn a_call_that_is_cancelled_already_starts_nothing() {
    let room = Room::new();
    let call = room.call("executeCommand", json!({"command": "touch made"}), None);
    call.cancel.cancel();
    let error = room.terminal.handle(&call, &Sink::discard()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Cancelled);
    assert!(!room.folder.path().join("made").exists());
}

#[tokio::test]
async fn dropping_the_call_kills_the_group() {
    let room = Room::new();
    let life = room.life();
    let mut started = room.stream("trap '' TERM; exec 9>life; (echo up; sleep 1000)");
    started.chunk().await.unwrap();
    started.end.abort();
    assert_eq!(life.await.unwrap(), "");
    assert!(started.end.await.unwrap_err().is_cancelled());
    assert!(room.terminal.running.table().is_empty());
}

#[tokio::test]
async fn endless_output_is_read_no_faster_than_the_caller_reads_and_can_be_stopped() {
    let room = Room::new();
    let mut started = room.stream("yes");
    for _ in 0..200 {
        started.chunk().await.unwrap();
    }
    started.call.cancel.cancel();
    assert!(started.chunks.len() <= Sink::CAPACITY);
    assert_eq!(started.end().await.unwrap_err().kind, ErrorKind::Cancelled);

    let unread = room.start(room.call("executeCommand", json!({"command": "yes", "timeoutMs": 300}), None));
    let Started { end, mut chunks, .. } = unread;
    assert_eq!(end.await.unwrap().unwrap_err().kind, ErrorKind::Timeout);
    let mut waiting = 0;
    while chunks.recv().await.is_some() {
        waiting += 1;
    }
    assert!(waiting <= Sink::CAPACITY);
}

#[tokio::test]
async fn a_caller_who_goes_away_stops_the_command() {
    let room = Room::new();
    let life = room.life();
    let mut started = room.stream("exec 9>life; echo up; sleep 1000");
    started.chunk().await.unwrap();
    drop(started.chunks);
    let error = started.end.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "cancelled: the caller stopped reading the answer");
    assert_eq!(life.await.unwrap(), "");
}

#[tokio::test]
async fn what_a_command_leaves_behind_ends_with_it() {
    let room = Room::new();
    room.fifo("up");
    let life = room.life();
    let reply = room
        .execute("(exec 9>life; echo >up; sleep 1000) & cat up; echo hi")
        .await;
    assert_eq!((&reply["stdout"], &reply["success"]), (&json!("\nhi\n"), &json!(true)));
    assert_eq!(life.await.unwrap(), "");

    let life = {
        std::fs::remove_file(room.folder.path().join("life")).unwrap();
        room.life()
    };
    let quiet = "(exec 9>life; echo >up; sleep 1000) >/dev/null 2>&1 & cat up; echo hi";
    assert_eq!(room.execute(quiet).await["stdout"], "\nhi\n");
    assert_eq!(life.await.unwrap(), "");
}

#[tokio::test]
async fn a_process_that_left_the_group_hangs_nothing_and_is_owned_up_to() {
    let room = Room::new();
    room.fifo("up");
    let before = Instant::now();
    let escape = "setsid sh -c 'echo $$; echo >up; exec sleep 600' & cat up";
    let reply = room.execute(escape).await;
    assert!(before.elapsed() < Duration::from_secs(30));
    kill(reply["stdout"].as_str().unwrap());

    let mut started = room.stream(&format!("{escape}; sleep 1000"));
    let mut pid = String::new();
    while pid.lines().count() < 2 {
        pid.push_str(&started.chunk().await.unwrap().1);
    }
    started.call.cancel.cancel();
    let error = started.end().await.unwrap_err();
    kill(&pid);
    assert_eq!(
        error.to_string(),
        "indeterminate: executeCommandWithStream was stopped, but a process that it started left its process group \
         or cannot be killed, and may still run; look for it on the hub's machine"
    );
}

fn kill(printed: &str) {
    let pid = printed.split_whitespace().next().unwrap().parse().unwrap();
    rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

#[tokio::test]
async fn an_interrupt_reaches_the_commands_of_its_run_alone() {
    let room = Room::new();
    let message = json!({"command": "echo up; while :; do :; done"});
    let mut mine = room.start(room.call("executeCommandRunUntilInterrupt", message.clone(), Some("r1")));
    let mut other = room.start(room.call("executeCommandRunUntilError", message, Some("r2")));
    mine.chunk().await.unwrap();
    other.chunk().await.unwrap();
    let interrupted = room.handle("sendInterruptToTerminal", json!({})).await.unwrap();
    assert_eq!(interrupted, json!({"interrupted": 1, "success": true}));
    let reply = mine.end().await.unwrap();
    assert_eq!((&reply["exitCode"], &reply["signal"]), (&json!(130), &json!("SIGINT")));
    let interrupted = room.handle("sendInterruptToTerminal", json!({})).await.unwrap();
    assert_eq!(interrupted, json!({"interrupted": 0, "success": false}));

    let whole_project = room.call("sendInterruptToTerminal", json!({}), None);
    let interrupted = room.terminal.handle(&whole_project, &Sink::discard()).await.unwrap();
    assert_eq!(interrupted.as_str(), r#"{"interrupted":1,"success":true}"#);
    assert_eq!(other.end().await.unwrap()["signal"], "SIGINT");
}

#[tokio::test]
async fn what_cannot_be_run_is_refused_with_its_remedy() {
    let room = Room::new();
    let refused = async |kind: &str, message: Value| room.handle(kind, message).await.unwrap_err().to_string();
    let texts = [
        refused("executeCommand", json!({"command": " \n"})).await,
        refused("executeCommandWithStream", json!({"command": "echo a\u{0}b"})).await,
        refused("executeCommand", json!({"command": "true", "timeoutMs": 0})).await,
        refused(
            "executeCommand",
            json!({"command": format!("true {}", "x".repeat(4 << 20))}),
        )
        .await,
        refused("terminalEvent", json!({})).await,
    ];
    let expected = [
        "invalid: `command` is empty; give a command line",
        "invalid: `command` holds a NUL character, which no shell takes; remove it",
        "invalid: `timeoutMs` is 0; give at least 1, or leave it out for the call's own limit",
        "invalid: a command of 4194309 bytes is longer than this system takes; write it to a file and run that",
        "not-found: the terminal does not know `terminalEvent`",
    ];
    assert_eq!(texts, expected);
    let unknown = refused("executeCommand", json!({"command": "true", "shell": "x"})).await;
    assert!(unknown.contains("unknown field `shell`"), "{unknown}");
}

#[tokio::test]
async fn a_missing_shell_or_folder_is_named() {
    let room = Room::with(config::Terminal {
        shell: "/nowhere/sh".into(),
        ..config::Terminal::default()
    });
    let call = room.call("executeCommand", json!({"command": "true"}), None);
    let error = room.terminal.handle(&call, &Sink::discard()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "unavailable: the shell `/nowhere/sh` cannot be started: No such file or directory (os error 2); \
         set `[terminal] shell` in waypost.toml to one that can"
    );
    room.folder.close().unwrap();
    let error = room.terminal.handle(&call, &Sink::discard()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "unavailable: the workspace folder of this call is gone; run the command in an environment that is ready"
    );
}
