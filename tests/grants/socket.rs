//! Unix sockets that plugins are granted.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixDatagram, UnixListener, UnixStream};
use waypost::call::Sink;

use crate::harness::{Open, Plugin, Project, normal};
use crate::worker::WALLS;

crate::listed![
    a_socket_is_talked_to_in_pieces,
    a_socket_is_an_import_of_its_own_and_placed_by_the_operator,
    only_the_socket_that_was_granted_is_connected_to,
    whoever_listens_costs_the_caller_alone,
    everything_about_sockets_is_bounded,
];

/// Someone who listens, and does what the first line that comes says.
struct Engine {
    path: PathBuf,
    /// How many connections have ended.
    ended: Arc<Mutex<usize>>,
}

impl Engine {
    fn start(path: PathBuf) -> Self {
        let listener = UnixListener::bind(&path).unwrap();
        let ended = Arc::new(Mutex::new(0));
        let count = Arc::clone(&ended);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    drop(serve(stream).await);
                    *count.lock().unwrap() += 1;
                });
            }
        });
        Self { path, ended }
    }

    /// Resolves when so many connections have ended.
    async fn ended(&self, count: usize) {
        while *self.ended.lock().unwrap() < count {
            tokio::task::yield_now().await;
        }
    }
}

async fn serve(mut stream: UnixStream) -> std::io::Result<()> {
    let mut asked = [0; 6];
    stream.read_exact(&mut asked).await?;
    match &asked {
        b"steps\n" => {
            stream.write_all(b"one").await?;
            // The next one is asked for.
            stream.read_u8().await?;
            stream.write_all(b"two").await
        }
        // All that came, when no more comes.
        b"count\n" => {
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await?;
            stream.write_all(rest.len().to_string().as_bytes()).await
        }
        b"flood\n" => loop {
            stream.write_all(&[b'x'; 4096]).await?;
        },
        // It neither reads nor answers until the other side is gone.
        b"stall\n" => {
            while stream.try_write(b"").is_ok() && stream.ready(tokio::io::Interest::ERROR).await?.is_empty() {}
            Ok(())
        }
        b"wait.\n" => stream.read_to_end(&mut Vec::new()).await.map(drop),
        _ => stream.write_all(b"half").await,
    }
}

/// The guest that talks to sockets, and its grant.
fn dialer(asked: &[&str], granted: &[(&str, &Path)]) -> Plugin {
    let asked: Vec<String> = asked.iter().map(|name| format!("{{ name = {name:?} }}")).collect();
    let granted = granted
        .iter()
        .map(|(name, path)| format!("{{ name = {name:?}, path = {path:?} }}"));
    Plugin::of("dialer")
        .asks(&format!("socket = [{}]", asked.join(", ")))
        .granted(&format!("socket = [{}]", granted.collect::<Vec<_>>().join(", ")))
}

async fn talk(open: &Open, message: Value) -> Value {
    open.reply("dialer", message).await
}

async fn error(open: &Open, message: Value) -> String {
    let reply = talk(open, message).await;
    let error = reply["error"].as_str();
    open.normal(error.unwrap_or_else(|| panic!("it was answered: {reply}")))
}

/// A folder for sockets, under the name that it really has.
fn room() -> (tempfile::TempDir, PathBuf) {
    let room = tempfile::tempdir().unwrap();
    let path = room.path().canonicalize().unwrap();
    (room, path)
}

async fn a_socket_is_talked_to_in_pieces() {
    let (_room, room) = room();
    // A path that no address of a socket has room for.
    let deep = room.join("d".repeat(100)).join("e".repeat(100));
    fs::create_dir_all(&deep).unwrap();
    let engine = Engine::start(room.join("engine"));
    fs::rename(room.join("engine"), deep.join("engine")).unwrap();
    for wall in WALLS {
        let plugin = dialer(&["engine"], &[("engine", &deep.join("engine"))]).wall(wall);
        let open = Project::new().plugin(&plugin).open().await;
        let message = json!({ "socket": "engine", "send": ["steps\n", "."], "stream": true });
        let (chunks, reply) = open.streamed("dialer", message).await;
        assert_eq!(
            chunks.iter().filter_map(Value::as_str).collect::<String>(),
            "onetwo",
            "{wall}"
        );
        assert_eq!(reply, json!({ "size": 6, "text": "onetwo", "failed": null }), "{wall}");
        let message = json!({ "socket": "engine", "send": ["count\n"], "bytes": 300_000, "finish": true });
        assert_eq!(talk(&open, message).await["text"], "300000", "{wall}");
        // It closes in the middle of what somebody would call an answer: that is its end.
        let half = talk(&open, json!({ "socket": "engine", "send": ["other\n"] })).await;
        assert_eq!(half, json!({ "size": 4, "text": "half", "failed": null }), "{wall}");
    }
    engine.ended(6).await;
}

async fn a_socket_is_an_import_of_its_own_and_placed_by_the_operator() {
    let line = "plugin `dialer` imports `waypost:socket/sockets@0.1.0` without the grant `socket`; if it may, add `socket = \
                [{ name = \"<socket>\" }]` to [grants] of its manifest and to `grant` of its [[plugin]] entry in waypost.toml";
    let placed = "<project>/plugins/dialer.toml: the socket `a` has a `path`: a manifest names sockets, and the operator says where \
                  they are; remove it";
    let agent = "<project>/plugins/dialer.toml: the grant `socket` is not for agents: an agent is run again from the log, which holds \
                 its calls alone; remove it, and let the agent call a handler that has the grant";
    let unplaced =
        "waypost.toml has 1 problem:\n  line 1: `plugin.grant.socket`: the socket `a` has no `path`; say where it is";
    let relative = "waypost.toml has 1 problem:\n  line 4: `plugin.grant.socket.path`: the path `run/a` is relative; write it from the \
                    root on, as in `/usr/bin/git`";
    let path = Path::new("/run/a");
    for (plugin, expected) in [
        (Plugin::of("dialer"), line),
        (dialer(&["a"], &[]), line),
        (dialer(&[], &[("a", path)]), line),
        (dialer(&["a"], &[("b", path)]), line),
        (
            Plugin::of("dialer").grants("socket = [{ name = \"a\", path = \"/run/a\" }]"),
            placed,
        ),
        (Plugin::of("dialer").grants("socket = [{ name = \"a\" }]"), unplaced),
        (dialer(&["a"], &[("a", Path::new("run/a"))]), relative),
        (dialer(&["a"], &[("a", path)]).role("agent"), agent),
    ] {
        let project = Project::new().plugin(&plugin);
        let error = project.try_open().await.err().map(|error| error.chain());
        assert_eq!(normal(project.root(), &error.unwrap_or_default()), expected);
    }
}

async fn only_the_socket_that_was_granted_is_connected_to() {
    let (_room, room) = room();
    let engine = Engine::start(room.join("engine"));
    let at = |name: &str| room.join(name);
    fs::write(at("file"), "x").unwrap();
    fs::create_dir(at("folder")).unwrap();
    symlink("engine", at("link")).unwrap();
    symlink(&room, at("around")).unwrap();
    crate::harness::fifo(at("pipe"));
    let _datagrams = UnixDatagram::bind(at("datagrams")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(at("left")).unwrap());
    let around = at("around/engine");
    let project = Project::new();
    let state = project.root().canonicalize().unwrap().join(".waypost");
    fs::create_dir_all(state.join("deep")).unwrap();
    let _own = std::os::unix::net::UnixListener::bind(state.join("deep/own")).unwrap();
    let rows = [
        ("file", at("file"), "denied", "is a file and no socket"),
        ("folder", at("folder"), "denied", "is a folder and no socket"),
        ("pipe", at("pipe"), "denied", "is no socket"),
        ("null", "/dev/null".into(), "denied", "is no socket"),
        ("link", at("link"), "denied", "is a link: grant what it leads to"),
        (
            "around",
            around,
            "denied",
            "is reached through a link: grant the path that it leads to",
        ),
        ("datagrams", at("datagrams"), "denied", "is no stream socket"),
        ("own", state.join("deep/own"), "denied", "belongs to the hub"),
        ("left", at("left"), "unavailable", "has nobody who listens"),
        ("gone", at("gone"), "unavailable", "is not there"),
    ];
    let mut granted: Vec<(&str, &Path)> = rows.iter().map(|(name, path, ..)| (*name, path.as_path())).collect();
    granted.extend([("engine", engine.path.as_path()), ("unasked", engine.path.as_path())]);
    let mut asked: Vec<&str> = rows.iter().map(|(name, ..)| *name).collect();
    asked.extend(["engine", "lost"]);
    let open = project.plugin(&dialer(&asked, &granted)).open().await;
    for name in [
        "unasked",
        "lost",
        "other",
        "",
        "/run/docker.sock",
        engine.path.to_str().unwrap(),
    ] {
        let expected = format!(
            "denied: plugin `dialer` may not use the socket `{name}`: if it may, add {{ name = \"{name}\" }} to `socket` in [grants] of \
             its manifest, and the same with its `path` to `socket` in `grant` of its [[plugin]] entry in waypost.toml"
        );
        assert_eq!(error(&open, json!({ "socket": name })).await, expected);
    }
    for (name, _, kind, why) in &rows {
        let remedy = if *kind == "denied" {
            "correct its grant"
        } else {
            "start what listens there, or correct its grant"
        };
        let expected = format!("{kind}: the socket `{name}` {why}; {remedy}");
        assert_eq!(
            error(&open, json!({ "socket": name, "send": ["other\n"] })).await,
            expected
        );
    }
    // What stands there is looked at each time.
    let half = json!({ "socket": "engine", "send": ["other\n"] });
    assert_eq!(talk(&open, half.clone()).await["text"], "half");
    fs::rename(&engine.path, at("moved")).unwrap();
    symlink("moved", &engine.path).unwrap();
    assert!(error(&open, half).await.contains("is a link: grant what it leads to"));
}

async fn whoever_listens_costs_the_caller_alone() {
    let (_room, room) = room();
    let engine = Engine::start(room.join("engine"));
    for (turn, wall) in WALLS.into_iter().enumerate() {
        let plugin = dialer(&["engine"], &[("engine", &engine.path)]).wall(wall);
        let open = Project::new().plugin(&plugin).open().await;
        let waits = talk(&open, json!({ "socket": "engine", "send": ["wait.\n"], "millis": 100 })).await;
        assert_eq!(
            waits["failed"],
            "timeout: the socket `engine` did not answer within the time limit; 0 bytes came"
        );
        // A call that is given up closes its connection.
        let message = json!({ "socket": "engine", "send": ["steps\n"], "stream": true });
        let call = open.prepared("dialer", message).await;
        let cancel = call.cancel.clone();
        let (sink, mut chunks) = Sink::channel();
        let ended = open.carry(call, sink);
        assert_eq!(chunks.recv().await.unwrap().to::<String>().unwrap(), "one");
        cancel.cancel();
        assert_eq!(
            ended.await.unwrap().result.unwrap_err().kind.as_str(),
            "cancelled",
            "{wall}"
        );
        engine.ended(turn * 2 + 2).await;
    }
    // Nobody takes what is sent.
    let open = Project::new()
        .plugin(&dialer(&["engine"], &[("engine", &engine.path)]))
        .open()
        .await;
    let stalled = json!({ "socket": "engine", "send": ["stall\n"], "bytes": 8 << 20, "millis": 200 });
    assert_eq!(
        error(&open, stalled).await,
        "indeterminate: the socket `engine` did not take what was sent within the time limit; it may have acted on a part"
    );
    let gone = json!({ "socket": "engine", "send": ["other\n"], "bytes": 8 << 20 });
    let gone = error(&open, gone).await;
    assert!(
        gone.starts_with("indeterminate: the socket `engine` broke off: ")
            && gone.ends_with("; it may have acted on a part"),
        "{gone}"
    );
}

async fn everything_about_sockets_is_bounded() {
    let (_room, room) = room();
    let engine = Engine::start(room.join("engine"));
    let limits = "[limits]\noutgoing = 3\n[limits.plugin]\nsocket-sent = \"1KiB\"\nsocket-received = \"100KiB\"\nsocket-open = 2";
    for wall in WALLS {
        let plugin = dialer(&["engine"], &[("engine", &engine.path)]).wall(wall);
        let open = Project::new().toml(limits).plugin(&plugin).open().await;
        let counted = |bytes: usize| json!({ "socket": "engine", "send": ["count\n"], "bytes": bytes, "finish": true });
        assert_eq!(talk(&open, counted(1018)).await["text"], "1018");
        assert_eq!(
            error(&open, counted(1019)).await,
            "limit: more than 1024 bytes for the socket `engine`, the limit `socket-sent` of [limits.plugin]"
        );
        let flood = talk(&open, json!({ "socket": "engine", "send": ["flood\n"] })).await;
        assert_eq!(
            flood["failed"],
            "limit: the socket `engine` sent more than 102400 bytes, the limit `socket-received` of [limits.plugin]"
        );
        assert!(flood["size"].as_u64().unwrap() <= 100 << 10);
        assert_eq!(
            error(&open, json!({ "socket": "engine", "hold": 2 })).await,
            "limit: plugin `dialer` holds 2 connections to sockets open, the limit `socket-open` of [limits.plugin]; drop some first"
        );
        let mut calls = Vec::new();
        for hold in [1, 0] {
            let message = json!({ "socket": "engine", "send": ["steps\n"], "hold": hold, "stream": true });
            let call = open.prepared("dialer", message).await;
            let (sink, mut chunks) = Sink::channel();
            calls.push((call.cancel.clone(), open.carry(call, sink)));
            assert!(chunks.recv().await.is_some());
            // Whoever stops reading here would cancel it.
            std::mem::forget(chunks);
        }
        assert_eq!(
            error(&open, json!({ "socket": "engine" })).await,
            "limit: plugins hold 3 connections open, the limit `outgoing` of [limits]; try again later"
        );
        for (cancel, ended) in calls {
            cancel.cancel();
            drop(ended.await);
        }
        assert_eq!(talk(&open, counted(1)).await["text"], "1");
    }
}
