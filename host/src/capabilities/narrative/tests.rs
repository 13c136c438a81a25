use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::call::{CallName, Principal, PrincipalKind, Rights, Scope};

mod hostile;

const KINDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../wit/kinds");

/// A hub's state directory and the handler on it.
struct House {
    state: TempDir,
    handler: Narrative,
    runtime: tokio::runtime::Runtime,
}

/// A project and its workspace.
struct Room {
    project: &'static str,
    folder: TempDir,
    scope: Arc<Scope>,
}

impl House {
    fn new() -> Self {
        Self::with(config::Narrative::default())
    }

    fn with(limits: config::Narrative) -> Self {
        let state = tempfile::tempdir().unwrap();
        Self {
            handler: Narrative::new(limits, state.path()),
            state,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap(),
        }
    }

    fn call(&self, room: &Room, action: &str, message: Value) -> Call {
        let principal = Principal {
            project: room.project.into(),
            run: Some("run-7".into()),
            kind: PrincipalKind::Agent,
            id: "a".into(),
            rights: Rights::all(),
        };
        let name = CallName::new(KIND, Some(action));
        let limit = Duration::from_secs(60);
        Call::new(
            name,
            message.into(),
            Arc::new(principal),
            Arc::clone(&room.scope),
            limit,
        )
    }

    fn try_ask(&self, room: &Room, action: &str, message: Value) -> Result<Value, CallError> {
        let call = self.call(room, action, message);
        let reply = self.runtime.block_on(self.handler.handle(&call, &Sink::discard()))?;
        Ok(reply.to().unwrap())
    }

    /// The reply, whose fields are those of the schema.
    fn ask(&self, room: &Room, action: &str, message: Value) -> Value {
        let reply = self.try_ask(room, action, message).unwrap();
        let schema = schema(action);
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&reply), keys(&schema["reply"]["properties"]), "{action}");
        reply
    }

    fn refused(&self, room: &Room, action: &str, message: Value) -> String {
        self.try_ask(room, action, message).unwrap_err().to_string()
    }

    fn snapshot(&self, room: &Room) -> (String, String) {
        let reply = self.ask(room, "createSnapshot", json!({}));
        let field = |name: &str| reply[name].as_str().unwrap().to_owned();
        (field("snapshot_id"), field("tree_hash"))
    }

    fn checkout(&self, room: &Room, id: &str) -> Value {
        self.ask(
            room,
            "checkoutSnapshot",
            json!({"snapshotId": id, "strategy": {"type": "revert"}}),
        )
    }

    fn import(&self, room: &Room, path: impl AsRef<Path>) -> Value {
        self.ask(room, "importUnifiedBundle", json!({"bundlePath": path.as_ref()}))
    }

    /// A repository of the handler's, for real git.
    fn repository(&self, room: &Room) -> PathBuf {
        self.handler.repository(&self.call(room, "", json!({})))
    }
}

impl Room {
    fn new(project: &'static str, files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let scope = Arc::new(Scope {
            environment: None,
            labels: BTreeMap::new(),
            workspace: Arc::new(Workspace::open(folder.path()).unwrap()),
        });
        let room = Self { project, folder, scope };
        files.iter().for_each(|(path, content)| room.write(path, content));
        room
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Everything in it: content, whether it may be executed, and targets of links.
    fn all(&self) -> BTreeMap<String, String> {
        let (mut found, mut open) = (BTreeMap::new(), vec![self.folder.path().to_owned()]);
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let metadata = fs::symlink_metadata(&path).unwrap();
                let name = path
                    .strip_prefix(self.folder.path())
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                if metadata.is_dir() {
                    found.insert(name, "folder".to_owned());
                    open.push(path);
                } else if metadata.is_symlink() {
                    found.insert(name, format!("-> {}", fs::read_link(&path).unwrap().display()));
                } else {
                    let run = metadata.permissions().mode() & 0o100 != 0;
                    found.insert(name, format!("{run} {}", fs::read_to_string(&path).unwrap()));
                }
            }
        }
        found
    }
}

fn schema(action: &str) -> Value {
    let text = fs::read_to_string(format!("{KINDS}/{KIND}.{action}.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Runs real git, as a person would, and answers what it says.
fn real_git(repository: &Path, args: &[&str], input: &[u8]) -> String {
    use std::io::Write as _;
    let mut child = Command::new("git")
        .arg("--git-dir")
        .arg(repository)
        .args(args)
        .env_clear()
        .env("PATH", git::PATH)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .envs([
            ("GIT_AUTHOR_NAME", "x"),
            ("GIT_AUTHOR_EMAIL", "x@x"),
            ("GIT_COMMITTER_NAME", "x"),
            ("GIT_COMMITTER_EMAIL", "x@x"),
        ])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{args:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_workspace_comes_back_as_it_was() {
    let house = House::new();
    let room = Room::new(
        "p",
        &[
            ("a.txt", "one"),
            ("src/lib.rs", "fn"),
            ("tool", "#!"),
            ("swap", "file"),
            ("tree/leaf", "x"),
            ("q\"uote ä", ""),
        ],
    );
    fs::set_permissions(room.at("tool"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("src/lib.rs", room.at("link")).unwrap();
    symlink("../a.txt", room.at("src/up")).unwrap();
    symlink("src", room.at("folder-link")).unwrap();
    let (before, all) = (house.snapshot(&room), room.all());

    fs::remove_file(room.at("a.txt")).unwrap();
    fs::set_permissions(room.at("tool"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::remove_file(room.at("swap")).unwrap();
    room.write("swap/deep/inner", "now a folder");
    fs::create_dir_all(room.at("swap/empty/empty")).unwrap();
    fs::remove_dir_all(room.at("tree")).unwrap();
    room.write("tree", "now a file");
    room.write("src/lib.rs", "changed");
    fs::remove_file(room.at("link")).unwrap();
    room.write("link", "now a file");
    fs::remove_file(room.at("folder-link")).unwrap();
    room.write("folder-link/new", "now a folder");
    room.write("new", "added");
    let (after, changed) = (house.snapshot(&room), room.all());
    assert_ne!(before.1, after.1);

    for (snapshot, all) in [(&before, &all), (&after, &changed), (&before, &all)] {
        let reply = house.checkout(&room, &snapshot.0);
        assert_eq!(reply, json!({"restored_tree_hash": snapshot.1, "skipped": []}));
        let mut all = all.clone();
        // Git knows no folders without files.
        all.retain(|path, _| !path.starts_with("swap/empty"));
        assert_eq!(room.all(), all);
        assert_eq!(house.snapshot(&room).1, snapshot.1);
    }
}

#[test]
fn a_snapshot_says_who_made_it_and_each_is_new() {
    let house = House::new();
    let room = Room::new("p", &[("a", "1")]);
    let root = room.folder.path().to_str().unwrap();
    let message = json!({"environmentId": "env-1", "workspace": root, "description": "first\nof two"});
    let reply = house.ask(&room, "createSnapshot", message);
    assert_eq!(reply["agent_run_id"], "run-7");
    let again = house.ask(&room, "createSnapshot", json!({"workspace": "."}));
    assert_eq!(again["tree_hash"], reply["tree_hash"]);
    assert_ne!(again["snapshot_id"], reply["snapshot_id"]);
    // An empty workspace is one too.
    house.snapshot(&Room::new("empty", &[]));
}

#[test]
fn protected_places_and_links_that_lead_out_stay() {
    let house = House::new();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "s").unwrap();
    let files = [
        (".codebolt/rules.json", "r"),
        ("waypost.toml", "w"),
        (".git/config", "g"),
        ("vendor/.git/x", "v"),
        ("a", "1"),
    ];
    let room = Room::new("p", &files);
    symlink(outside.path(), room.at("out")).unwrap();
    symlink("../x", room.at("up")).unwrap();
    symlink("vendor/../..", room.at("round")).unwrap();
    let reply = house.ask(&room, "createSnapshot", json!({}));
    let skipped: Vec<&str> = reply["skipped"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["path"].as_str().unwrap())
        .collect();
    assert_eq!(skipped, ["out", "round", "up"]);
    let id = reply["snapshot_id"].as_str().unwrap();
    let listed = real_git(&house.repository(&room), &["ls-tree", "-r", "--name-only", id], b"");
    assert_eq!(listed, "a");

    room.write("a", "2");
    room.write("waypost.toml", "changed");
    house.checkout(&room, id);
    let mut expected = room.all();
    expected.insert("a".into(), "false 1".into());
    expected.insert("waypost.toml".into(), "false changed".into());
    assert_eq!(room.all(), expected);
    assert!(room.at("vendor/.git/x").exists() && room.at("out").is_symlink() && room.at(".git/config").exists());
    assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), "s");
}

#[test]
fn a_bundle_carries_snapshots_to_another_project() {
    let house = House::new();
    let (one, two) = (
        Room::new("one", &[("a", "1"), ("d/b", "2")]),
        Room::new("two", &[("other", "")]),
    );
    symlink("d/b", one.at("link")).unwrap();
    let first = house.ask(
        &one,
        "createSnapshot",
        json!({"description": "begin", "environmentId": "e"}),
    );
    let first = first["snapshot_id"].as_str().unwrap();
    let full = house.ask(
        &one,
        "exportUnifiedBundle",
        json!({"snapshotId": first, "incremental": true}),
    );
    let counts = json!({"snapshots_count": 1, "commits_count": 1, "execution_traces_count": 0, "trace_records_count": 0,
        "agent_runs_count": 1});
    let path = full["bundlePath"].as_str().unwrap();
    assert_eq!(
        (&full["baseSnapshotId"], &full["narrativeSummary"]),
        (&Value::Null, &counts)
    );
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);

    one.write("a", "changed");
    let (second, tree) = house.snapshot(&one);
    let message = json!({"snapshotId": second, "incremental": true, "baseSnapshotId": first});
    let part = house.ask(&one, "exportUnifiedBundle", message);
    assert_eq!(part["baseSnapshotId"], first);
    let part = part["bundlePath"].as_str().unwrap();
    let early = house.refused(&two, "importUnifiedBundle", json!({"bundlePath": part}));
    assert_eq!(
        early,
        "invalid: `git.bundle` builds on snapshots that are not here; import the bundle of its base first, or a full one"
    );

    let reference = format!("refs/narrative/snapshots/{first}");
    let imported = house.import(&two, path);
    let expected = json!({"snapshot_ids": [first], "imported_refs": [[reference, first]], "narrative_imported": true,
        "narrative_summary": counts});
    assert_eq!(imported, expected);
    assert_eq!(house.import(&two, path), expected, "again is as good");
    assert_eq!(house.import(&two, part)["snapshot_ids"], json!([second]));
    assert_eq!(house.checkout(&two, &second)["restored_tree_hash"], *tree);
    assert_eq!(two.all(), one.all());

    // What was made on the other side goes back, on top of what was sent.
    two.write("made/there", "new");
    let (third, _) = house.snapshot(&two);
    let message = json!({"snapshotId": third, "baseSnapshotId": second});
    let back = house.ask(&two, "exportUnifiedBundle", message);
    assert_eq!(
        house.import(&one, back["bundlePath"].as_str().unwrap())["snapshot_ids"],
        json!([third])
    );
    house.checkout(&one, &third);
    assert_eq!(two.all(), one.all());

    // A full bundle brings the whole history, a base without a common one makes a full bundle, and nothing is nothing.
    let all = house.ask(&two, "exportUnifiedBundle", json!({"snapshotId": third}));
    let three = Room::new("three", &[("z", "z")]);
    let ids = house.import(&three, all["bundlePath"].as_str().unwrap())["snapshot_ids"].clone();
    assert_eq!(ids, json!([third, second, first]));
    let (own, _) = house.snapshot(&Room {
        project: "three",
        ..Room::new("", &[("y", "y")])
    });
    let message = json!({"snapshotId": third, "incremental": true, "baseSnapshotId": own});
    assert_eq!(
        house.ask(&three, "exportUnifiedBundle", message)["baseSnapshotId"],
        Value::Null
    );
    let message = json!({"snapshotId": first, "baseSnapshotId": third});
    assert_eq!(
        house.refused(&three, "exportUnifiedBundle", message),
        "invalid: the base holds all of the snapshot, so there is nothing to export; name an older base"
    );
    assert_eq!(
        fs::read_dir(house.state.path().join("narrative/work")).unwrap().count(),
        0
    );
    let left = real_git(&house.repository(&three), &["for-each-ref", repository::MAKING], b"");
    assert_eq!(left, "");
}

#[test]
fn messages_that_do_not_fit_are_refused() {
    let house = House::new();
    let room = Room::new("p", &[("a", "1")]);
    let unknown = "a".repeat(40);
    let known = house.snapshot(&room).0;
    let elsewhere = house.snapshot(&Room::new("q", &[])).0;
    let not_here = "not-found: `snapshotId` names no snapshot of this workspace; create it or import its bundle first";
    let no_id = "invalid: `snapshotId` is not the id of a snapshot: 40 or 64 hexadecimal digits";
    let cases = [
        (
            "createSnapshot",
            json!({"workspace": "/etc"}),
            "denied: `/etc` is outside the workspace",
        ),
        (
            "createSnapshot",
            json!({"workspace": "a"}),
            "denied: `a` is outside the workspace",
        ),
        (
            "createSnapshot",
            json!({"environmentId": "a\nb"}),
            "invalid: `environmentId` is longer than 256 bytes or has control characters; name an environment",
        ),
        (
            "createSnapshot",
            json!({"description": "\u{1b}"}),
            "invalid: `description` is longer than 16384 bytes or has control characters; use a shorter plain text",
        ),
        ("checkoutSnapshot", json!({"snapshotId": unknown}), not_here),
        ("checkoutSnapshot", json!({"snapshotId": elsewhere}), not_here),
        ("exportUnifiedBundle", json!({"snapshotId": unknown}), not_here),
        ("checkoutSnapshot", json!({"snapshotId": "--help"}), no_id),
        ("checkoutSnapshot", json!({"snapshotId": "HEAD"}), no_id),
        (
            "checkoutSnapshot",
            json!({"snapshotId": known, "strategy": {"type": "merge"}}),
            "invalid: the message does not fit: unknown variant `merge`, expected `revert`",
        ),
        (
            "exportUnifiedBundle",
            json!({"snapshotId": known, "baseSnapshotId": "x"}),
            "invalid: `baseSnapshotId` is not the id of a snapshot: 40 or 64 hexadecimal digits",
        ),
        (
            "forget",
            json!({}),
            "not-found: narrative:forget is not known; the actions of narrative are createSnapshot, \
             exportUnifiedBundle, importUnifiedBundle, checkoutSnapshot",
        ),
    ];
    for (action, message, expected) in cases {
        let error = house.refused(&room, action, message);
        assert!(error.starts_with(expected), "{error}");
    }
    for (action, effect) in ACTIONS {
        let schema = schema(action);
        assert_eq!(schema["effect"], serde_json::to_value(effect).unwrap());
        let error = house.refused(&room, action, json!({ "surprise": 1 }));
        assert!(error.contains("unknown field `surprise`"), "{error}");
        for known in schema["message"]["properties"].as_object().unwrap().keys() {
            assert!(error.contains(&format!("`{known}`")), "{error}");
        }
    }
}

#[test]
fn every_limit_is_told_by_its_name() {
    let small = |change: fn(&mut config::Narrative)| {
        let mut limits = config::Narrative::default();
        change(&mut limits);
        let (house, room) = (House::with(limits), Room::new("p", &[("a", "12345"), ("b", "67890")]));
        let made = house.try_ask(&room, "createSnapshot", json!({}));
        (house, room, made)
    };
    let (_, _, made) = small(|limits| limits.files = 1);
    let text = "limit: the workspace has more than 1 files, which is the limit `narrative.files`; raise it, or leave out \
                what `.gitignore` names";
    assert_eq!(made.unwrap_err().to_string(), text);
    let (_, _, made) = small(|limits| limits.size = 9);
    assert!(
        made.unwrap_err()
            .to_string()
            .contains("more than 9 bytes, which is the limit `narrative.size`")
    );
    let (house, room, made) = small(|limits| limits.snapshots = 1);
    made.unwrap();
    let text =
        "limit: this workspace has 1 snapshots, which is the limit `narrative.snapshots`; raise it in waypost.toml";
    assert_eq!(house.refused(&room, "createSnapshot", json!({})), text);
    let (house, room, made) = small(|limits| limits.repository = 1);
    made.unwrap();
    let full = house.refused(&room, "createSnapshot", json!({}));
    assert!(
        full.contains("more than 1 bytes, which is the limit `narrative.repository`"),
        "{full}"
    );
    let (house, room, made) = small(|limits| limits.bundle = 100);
    let large = house.refused(
        &room,
        "exportUnifiedBundle",
        json!({"snapshotId": made.unwrap()["snapshot_id"]}),
    );
    assert_eq!(
        large,
        "limit: the bundle has more than 100 bytes, which is the limit `narrative.bundle`; raise it"
    );
    let (house, room, _) = small(|limits| limits.bundles = 2);
    let paths: Vec<String> = (0..4)
        .map(|_| {
            house.ask(
                &room,
                "exportUnifiedBundle",
                json!({"snapshotId": house.snapshot(&room).0}),
            )
        })
        .map(|reply| reply["bundlePath"].as_str().unwrap().to_owned())
        .collect();
    let kept: Vec<bool> = paths.iter().map(|path| Path::new(path).exists()).collect();
    assert_eq!(kept, [false, false, true, true]);
    // What `.gitignore` names can be left out, and then stays.
    let (house, room, _) = small(|limits| limits.ignored = false);
    room.write(".gitignore", "target/\n");
    room.write("target/big", "x");
    let (id, _) = house.snapshot(&room);
    room.write("a", "changed");
    house.checkout(&room, &id);
    assert!(room.at("target/big").exists());
    assert!(!real_git(&house.repository(&room), &["ls-tree", "-r", &id], b"").contains("target"));
}

#[test]
fn a_hub_without_git_says_what_to_install() {
    let mut house = House::new();
    let empty = house.state.path().to_str().unwrap().to_owned();
    house.handler.git = empty.as_str().into();
    let error = house
        .try_ask(&Room::new("p", &[]), "createSnapshot", json!({}))
        .unwrap_err();
    let text = format!("unavailable: snapshots need git, and there is none in {empty}; install the package `git`");
    assert_eq!((error.to_string(), error.blame), (text, crate::error::Blame::Operator));
}

#[test]
fn a_call_that_is_given_up_or_late_takes_git_with_it() {
    let mut house = House::new();
    let folder = house.state.path().join("bin");
    fs::create_dir(&folder).unwrap();
    let pipe = folder.join("pipe");
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, rustix::fs::Mode::RWXU, 0).unwrap();
    let script = format!("#!/bin/sh\necho $$ > '{}'\nexec /bin/sleep 1000\n", pipe.display());
    fs::write(folder.join("git"), script).unwrap();
    fs::set_permissions(folder.join("git"), fs::Permissions::from_mode(0o755)).unwrap();
    house.handler.git = folder.to_str().unwrap().into();
    let room = Room::new("p", &[("a", "1")]);
    for late in [false, true] {
        let mut call = house.call(&room, "createSnapshot", json!({}));
        if late {
            call.deadline = crate::call::Deadline::after(Duration::from_millis(500));
        }
        let (cancel, pipe) = (call.cancel.clone(), pipe.clone());
        let started = std::thread::spawn(move || {
            let id: i32 = fs::read_to_string(pipe).unwrap().trim().parse().unwrap();
            if !late {
                cancel.cancel();
            }
            rustix::process::Pid::from_raw(id).unwrap()
        });
        let ended = house.runtime.block_on(house.handler.handle(&call, &Sink::discard()));
        let expected = if late { ErrorKind::Timeout } else { ErrorKind::Cancelled };
        assert_eq!(ended.unwrap_err().kind, expected);
        let git = started.join().unwrap();
        assert_eq!(rustix::process::test_kill_process(git), Err(rustix::io::Errno::SRCH));
    }
}
