//! A plugin is replaced while it is called: every call has an answer of one version, and no new call goes to the old one.
//!
//! The trial keeps a ledger by itself: when each call began and ended and which version answered it, and when each swap was
//! acknowledged.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::harness::process::{Serving, http, run};
use crate::harness::{Plugin, Project};
use crate::listed;

listed![
    a_reload_under_load_fails_no_call,
    a_new_version_and_a_rollback_under_load_fail_no_call,
    a_long_call_ends_on_the_old_version_which_is_then_gone,
    many_reloads_leave_nothing_in_memory,
    a_reload_that_began_earlier_does_not_undo_a_later_one,
];

const CALLERS: usize = 8;

/// One call: when it began and ended, and what came of it.
struct Made {
    began: Instant,
    ended: Instant,
    answer: Result<Version, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    A,
    B,
}

impl Version {
    fn plugin(self) -> Plugin {
        let guest = match self {
            Self::A => "noop",
            Self::B => "echo",
        };
        Plugin::of(guest).named("one")
    }

    /// The version that answers in this way.
    fn of(text: &str) -> Result<Self, String> {
        let reply = text
            .lines()
            .next_back()
            .and_then(|line| serde_json::from_str::<Value>(line).ok());
        match reply.as_ref().and_then(|line| line["reply"]["text"].as_str()) {
            Some("ab") => Ok(Self::A),
            Some("abab") => Ok(Self::B),
            _ => Err(text.to_owned()),
        }
    }
}

/// Calls through the API of a hub, as many at a time as there are callers, until it is told to stop.
struct Load {
    callers: JoinSet<Vec<Made>>,
    over: Arc<AtomicBool>,
    /// How many calls have ended.
    ended: watch::Sender<usize>,
}

impl Load {
    fn on(hub: &Serving) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let ended = watch::Sender::new(0);
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let (over, token, count) = (Arc::clone(&over), hub.token.clone(), ended.clone());
            let url = format!("{}/api/v1/projects/default/calls", hub.url);
            let body = json!({ "call": "one", "message": { "text": "ab", "times": 2 } }).to_string();
            callers.spawn(async move {
                let client = http();
                let mut made = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let sent = client.post(&url).bearer_auth(&token).body(body.clone()).send().await;
                    let answer = match sent {
                        Ok(answer) => answer.text().await.map_err(|error| error.to_string()),
                        Err(error) => Err(error.to_string()),
                    };
                    made.push(Made {
                        began,
                        ended: Instant::now(),
                        answer: answer.and_then(|text| Version::of(&text)),
                    });
                    count.send_modify(|count| *count += 1);
                }
                made
            });
        }
        Self { callers, over, ended }
    }

    /// Waits until calls that begin after this have ended, so that something lies between two swaps: of those that end now,
    /// only as many as there are callers began before.
    async fn breathe(&self) {
        let mut ended = self.ended.subscribe();
        let before = *ended.borrow();
        ended.wait_for(|count| *count > before + 2 * CALLERS).await.unwrap();
    }

    /// Closes the ledger: `swaps` are the moments in which each swap was asked for and acknowledged, and the version since.
    async fn audit(self, swaps: &[(Instant, Instant, Version)]) {
        self.over.store(true, Ordering::Relaxed);
        let made: Vec<Made> = self.callers.join_all().await.into_iter().flatten().collect();
        let failed: Vec<&String> = made.iter().filter_map(|made| made.answer.as_ref().err()).collect();
        assert!(failed.is_empty(), "{failed:?} of {} calls", made.len());
        let mut certain = 0;
        for (position, (_, acknowledged, version)) in swaps.iter().enumerate() {
            let until = swaps.get(position + 1).map(|(asked, ..)| *asked);
            for call in made.iter().filter(|made| made.began > *acknowledged) {
                if until.is_none_or(|until| call.ended < until) {
                    assert_eq!(call.answer, Ok(*version), "after swap {position}");
                    certain += 1;
                }
            }
        }
        assert!(
            certain > swaps.len(),
            "{certain} of {} calls lay between two swaps",
            made.len()
        );
        for version in [Version::A, Version::B] {
            assert!(made.iter().any(|made| made.answer == Ok(version)), "{version:?}");
        }
    }
}

async fn a_reload_under_load_fails_no_call() {
    let project = Project::new().plugin(&Version::A.plugin()).written();
    let hub = Serving::start(project.root(), &[]).await;
    let load = Load::on(&hub);
    let mut swaps = Vec::new();
    for version in [Version::B, Version::A].into_iter().cycle().take(40) {
        version.plugin().write(project.root());
        let asked = Instant::now();
        let (status, text) = hub.ask("POST", "/plugins/one/reload", &Value::Null).await;
        assert_eq!(status, 200, "{text}");
        swaps.push((asked, Instant::now(), version));
        load.breathe().await;
    }
    load.audit(&swaps).await;
    hub.stop().await;
}

async fn a_new_version_and_a_rollback_under_load_fail_no_call() {
    let project = Project::new()
        .toml("[[route]]\nmatch = \"one\"\nto = \"plugin:one\"")
        .written();
    let root = project.root();
    for (version, number) in [(Version::A, "1"), (Version::B, "2")] {
        fs::write(root.join(format!("{number}.wasm")), version.plugin().single(number)).unwrap();
    }
    let hub = Serving::start(root, &[]).await;
    let add = async |file: &str| {
        let words = ["plugin", "add", file, "--wall", "in-process", "--yes"];
        let added = run(root, &words).await;
        assert_eq!(added.code, 0, "{added:?}");
    };
    add("./1.wasm").await;
    let load = Load::on(&hub);
    let mut swaps = Vec::new();
    let mut asked = Instant::now();
    add("./2.wasm").await;
    swaps.push((asked, Instant::now(), Version::B));
    for version in [Version::A, Version::B, Version::A, Version::B] {
        load.breathe().await;
        asked = Instant::now();
        let back = run(root, &["plugin", "rollback", "one"]).await;
        assert_eq!(back.code, 0, "{back:?}");
        swaps.push((asked, Instant::now(), version));
    }
    load.breathe().await;
    load.audit(&swaps).await;
    hub.stop().await;
}

async fn a_long_call_ends_on_the_old_version_which_is_then_gone() {
    let old = Plugin::of("caller").named("worker").grants("gateway = [\"*\"]");
    let open = Project::new().plugin(&old).open().await;
    let message = json!({ "call": "waitforReply", "message": { "message": "when?" } });
    let under_way = open.begin("worker", message).await;
    open.questions(1).await;
    let before = Arc::downgrade(&open.hub.plugins.get("worker").unwrap());
    Plugin::of("echo").named("worker").write(open.root());
    open.hub.plugins.reload("worker").unwrap();
    assert_eq!(
        open.reply("worker", json!({ "text": "new", "times": 1 })).await["text"],
        "new"
    );
    assert_eq!(open.hub.plugins.leaving("worker"), 1);
    open.answer("now").await;
    let ended = under_way.await.unwrap().result.unwrap();
    assert_eq!(ended.as_str(), r#"{"reply":{"message":"now"}}"#);
    assert_eq!(open.hub.plugins.leaving("worker"), 0);
    assert!(before.upgrade().is_none(), "its code is gone with its last call");
}

/// The memory of a process that is in the machine, in KiB.
fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

async fn many_reloads_leave_nothing_in_memory() {
    let project = Project::new().plugin(&Version::A.plugin()).written();
    let hub = Serving::start(project.root(), &[]).await;
    let reload = async |times: usize| {
        for version in [Version::B, Version::A].into_iter().cycle().take(times) {
            version.plugin().write(project.root());
            let (status, text) = hub.ask("POST", "/plugins/one/reload", &Value::Null).await;
            assert_eq!(status, 200, "{text}");
        }
    };
    reload(40).await;
    let before = resident(hub.process.id());
    let reloads = 160;
    reload(reloads).await;
    let after = resident(hub.process.id());
    let (_, listed) = hub.ask("GET", "/plugins", &Value::Null).await;
    let listed: Vec<Value> = serde_json::from_str(&listed).unwrap();
    let one = listed.iter().find(|one| one["id"] == "one").unwrap();
    assert_eq!(one["leaving"], 0);
    // A version that stayed would be some hundred KiB of code each time.
    let grown = after.saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB after {reloads} reloads, from {before}");
    hub.stop().await;
}

async fn a_reload_that_began_earlier_does_not_undo_a_later_one() {
    let open = Project::new().plugin(&Version::A.plugin()).open().await;
    let manifest = open.root().join("plugins/one.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::remove_file(&manifest).unwrap();
    crate::harness::fifo(&manifest);
    let hub = Arc::clone(&open.hub);
    let early = tokio::task::spawn_blocking(move || hub.plugins.reload("one").map(|loaded| loaded.digest.clone()));
    // It opens when the other side does: the old component is read by then, and its manifest is not.
    let pipe = manifest.clone();
    let pipe = tokio::task::spawn_blocking(move || fs::OpenOptions::new().write(true).open(pipe).unwrap());
    let mut pipe = pipe.await.unwrap();
    fs::remove_file(&manifest).unwrap();
    Version::B.plugin().write(open.root());
    let hub = Arc::clone(&open.hub);
    let later = tokio::task::spawn_blocking(move || hub.plugins.reload("one").map(|loaded| loaded.digest.clone()));
    let later = later.await.unwrap().unwrap();
    std::io::Write::write_all(&mut pipe, text.as_bytes()).unwrap();
    drop(pipe);
    assert_eq!(early.await.unwrap().unwrap(), later, "it says what is loaded");
    assert_eq!(open.hub.plugins.get("one").unwrap().digest, later);
}
