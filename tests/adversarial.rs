//! One hostile component after the other against a hub that serves, with a healthy plugin under load beside it.
//!
//! The oracles are outside: the process is alive and ends in order, the healthy plugin answered all the time, the memory of
//! the process is back where it was, and each hostile call has one end in the log that says why. Not here: what is refused
//! at load (`hostile.rs`), and how long the healthy plugin's calls take (the bench).

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::harness::component::Text;
use crate::harness::process::Serving;
use crate::harness::{Plugin, Project, trial};

/// How much more memory the process may have after the attack than after a first taste of it, in bytes: the engine gives
/// memory back in batches of four sandboxes.
const GROWTH: u64 = 4 * (64 << 20);

/// Hostile calls at the same time.
const AT_ONCE: usize = 8;

/// One way to hurt a hub.
struct Attack {
    /// What is done.
    name: &'static str,
    plugin: Plugin,
    message: Value,
    /// Hostile calls in all.
    calls: usize,
    /// How each of them may end: `answered`, or how the text of its error begins.
    ends: &'static [&'static str],
}

impl Attack {
    fn new(name: &'static str, plugin: Plugin, end: &'static [&'static str]) -> Self {
        Self {
            name,
            plugin: plugin.named("hostile"),
            message: json!(null),
            calls: 3 * AT_ONCE,
            ends: end,
        }
    }

    fn with(self, message: Value) -> Self {
        Self { message, ..self }
    }

    fn calls(self, calls: usize) -> Self {
        Self { calls, ..self }
    }

    /// Less time than usual, for what goes on until it is stopped.
    fn stopped(name: &'static str, plugin: Plugin) -> Self {
        let limits = "timeout = \"150ms\"";
        Self::new(
            name,
            plugin.limits(limits),
            &["timeout: hostile did not end within its time limit and was stopped"],
        )
    }
}

fn text(text: &Text) -> Plugin {
    Plugin::made_of("hostile", text.bytes())
}

/// A function of the host as `$call` of the core module.
fn calling(imports: &'static str, host: &'static str) -> Text {
    Text::handler().imports(imports).host(host)
}

fn attacks() -> Vec<Attack> {
    let forever = "(loop $again (br $again))";
    let destructor = calling(
        r#"(core module $d (func (export "drop") (param i32) (loop $again (br $again))))
        (core instance $di (instantiate $d))
        (type $thing (resource (rep i32) (dtor (core func $di "drop"))))
        (core func $make (canon resource.new $thing))
        (core func $drop (canon resource.drop $thing))
        (core instance $host (export "make" (func $make)) (export "drop" (func $drop)))"#,
        r#"(import "host" "make" (func $make (param i32) (result i32))) (import "host" "drop" (func $drop (param i32)))"#,
    );
    let clock = calling(
        r#"(import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock (export "now" (func (result u64)))))
        (core func $now (canon lower (func $clock "now")))
        (core instance $host (export "now" (func $now)))"#,
        r#"(import "host" "now" (func $now (result i64)))"#,
    );
    let random = calling(
        r#"(import "wasi:random/random@0.2.0" (instance $random
            (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))
        (core module $m (memory (export "memory") 100)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 8)))
        (core instance $mi (instantiate $m))
        (alias core export $mi "memory" (core memory $bytes))
        (core func $get (canon lower (func $random "get-random-bytes") (memory $bytes) (realloc (core func $mi "realloc"))))
        (core instance $host (export "get" (func $get)))"#,
        r#"(import "host" "get" (func $get (param i64 i32)))"#,
    );
    let things = calling(
        r#"(type $thing (resource (rep i32)))
        (core func $make (canon resource.new $thing))
        (core instance $host (export "make" (func $make)))"#,
        r#"(import "host" "make" (func $make (param i32) (result i32)))"#,
    );
    let nested = "(memory.fill (i32.const 65536) (i32.const 91) (i32.const 100000))
        (i32.store (i32.const 20) (i32.const 65536)) (i32.store (i32.const 24) (i32.const 100000))";
    let outside = "(i32.store (i32.const 20) (i32.const 65536)) (i32.store (i32.const 24) (i32.const 2147483647))";
    let odd = "(i32.store8 (i32.const 64) (i32.const 255))";
    // Whoever finds the other's mark answers with it.
    let marks = "(local $at i32)
        (local.set $at (i32.const 65536))
        (loop $next
            (if (i32.eq (i32.load (local.get $at)) (i32.const 0x5ec2e7)) (then unreachable))
            (i32.store (local.get $at) (i32.const 0x5ec2e7))
            (local.set $at (i32.add (local.get $at) (i32.const 4)))
            (br_if $next (i32.lt_u (local.get $at) (i32.const 16777216))))";
    let table = "(if (i32.eq (table.grow $table (ref.null func) (i32.const 20000)) (i32.const -1)) (then unreachable))";
    vec![
        Attack::stopped("a001_an_endless_loop", Plugin::of("spinner")),
        Attack::stopped(
            "a002_an_endless_loop_at_the_start",
            text(&Text::handler().items("(func $spin (loop $again (br $again))) (start $spin)")),
        ),
        Attack::stopped("a002_an_endless_allocation", text(&Text::handler().allocating(forever))),
        Attack::stopped("a002_an_endless_clean_up", text(&Text::handler().afterwards(forever))),
        Attack::stopped(
            "a002_an_endless_destructor",
            text(&destructor.body("(call $drop (call $make (i32.const 1)))")),
        ),
        Attack::stopped("a003_an_endless_sleep", Plugin::of("sleeper")),
        Attack::stopped(
            "a004_endless_filling_of_memory",
            text(
                &Text::handler().memory("1000").body(
                    "(loop $again (memory.fill (i32.const 65536) (i32.const 1) (i32.const 65000000)) (br $again))",
                ),
            ),
        ),
        Attack::new(
            "a005_growing_memory",
            Plugin::of("hungry"),
            &["limit: plugin `hostile` needs more than 67108864, its limit `memory`"],
        )
        .with(json!(64 << 20)),
        Attack::new(
            "a006_a_growing_table",
            text(&Text::handler().items("(table $table 1 funcref)").body(table)),
            &["limit: plugin `hostile` needs more than 20000, its limit `table-elements`"],
        ),
        Attack::new(
            "a007_handles_without_end",
            text(&things.body("(loop $again (drop (call $make (i32.const 1))) (br $again))")),
            &["limit: plugin `hostile` holds 1024 handles, the limit `handles`"],
        ),
        Attack::new(
            "a008_calls_that_are_kept",
            Plugin::of("hoarder").grants("gateway = [\"*\"]"),
            &[
                "limit: plugin `hostile` holds 1024 handles, the limit `handles`",
                "limit: ",
            ],
        )
        .with(json!(2000)),
        Attack::new(
            "a009_a_huge_argument",
            Plugin::of("talker"),
            &["limit: plugin `hostile` handed over more than 16777216 bytes at once, its limit `host-call`"],
        )
        .with(json!({ "shout": 20 << 20 })),
        Attack::new(
            "a009_a_huge_reply",
            Plugin::of("bulky"),
            &["limit: plugin `hostile` answered with 8388608 bytes, the limit is 4194304"],
        )
        .with(json!(8 << 20)),
        Attack::new(
            "a010_a_deeply_nested_reply",
            text(&Text::handler().memory("4").body(nested)),
            &["invalid: plugin `hostile` answered with something else: "],
        ),
        Attack::new(
            "a010_a_reply_outside_of_its_memory",
            text(&Text::handler().body(outside)),
            &[
                "trapped: plugin `hostile` was stopped: ",
                "unavailable: plugin `hostile` trapped 5 times",
            ],
        ),
        Attack::new(
            "a010_a_reply_that_is_no_text",
            text(&Text::handler().body(odd)),
            &[
                "trapped: plugin `hostile` was stopped: ",
                "unavailable: plugin `hostile` trapped 5 times",
            ],
        ),
        Attack::stopped(
            "a011_a_flood_of_host_calls",
            text(&clock.body("(loop $again (drop (call $now)) (br $again))")),
        ),
        Attack::stopped("a012_a_flood_of_output", Plugin::of("talker")).with(json!({ "flood": 50_000_000 })),
        Attack::new(
            "a013_random_numbers_without_measure",
            text(&random.body("(call $get (i64.const 67108864) (i32.const 0))")),
            &[
                "trapped: plugin `hostile` was stopped: ",
                "unavailable: plugin `hostile` trapped 5 times",
            ],
        ),
        Attack::new(
            "a016_a_storm_of_traps",
            Plugin::of("faulty"),
            &[
                "trapped: plugin `hostile` trapped: ",
                "unavailable: plugin `hostile` trapped 5 times",
            ],
        )
        .with(json!("unreachable"))
        .calls(400),
        Attack::new(
            "a018_memory_that_another_had",
            text(&Text::handler().memory("256").body(marks)),
            &["answered"],
        )
        .calls(200),
    ]
}

pub fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = attacks()
        .into_iter()
        .map(|attack| {
            let name = format!("adversarial::{}", attack.name);
            trial(&name, move || survives(attack))
        })
        .collect();
    trials.push(trial(
        "adversarial::a017_all_the_places_at_once",
        all_the_places_at_once,
    ));
    trials
}

async fn survives(attack: Attack) {
    let field = Field::enter(&attack.plugin, "").await;
    // The first taste: code is compiled, places are warm.
    field.attack(&attack, AT_ONCE, AT_ONCE).await;
    let before = field.memory();
    field.attack(&attack, attack.calls, AT_ONCE).await;
    let after = field.memory();
    assert!(after < before + GROWTH, "{before} bytes before, {after} after");
    field.leave(attack.calls + AT_ONCE).await;
}

async fn all_the_places_at_once() {
    // More than the hub has for everybody; those that find no place say so at once.
    let attack = Attack::new(
        "a017_all_the_places_at_once",
        Plugin::of("sleeper").limits("timeout = \"2s\""),
        &[
            "timeout: hostile did not end within its time limit and was stopped",
            "limit: plugin `hostile` is busy: 16 calls run and 32 wait",
        ],
    );
    let field = Field::enter(&attack.plugin, "[limits.plugin]\nconcurrency = 16\nqueue = 32").await;
    let ends = field.attack(&attack, 150, 150).await;
    let refused = ends.iter().filter(|end| end.starts_with("limit: ")).count();
    assert!((1..150).contains(&refused), "{ends:?}");
    field.leave(150).await;
}

/// A hub that serves, with the hostile plugin, and a healthy one that is asked all the time.
struct Field {
    project: Project,
    hub: Arc<Serving>,
    healthy: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    load: tokio::task::JoinHandle<()>,
}

impl Field {
    async fn enter(plugin: &Plugin, toml: &str) -> Self {
        let project = Project::new()
            .plugin(plugin)
            .plugin(&Plugin::of("echo"))
            .toml(toml)
            .written();
        let hub = Arc::new(Serving::start(project.root(), &[]).await);
        let (healthy, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let load = tokio::spawn({
            let (hub, healthy, over) = (Arc::clone(&hub), Arc::clone(&healthy), Arc::clone(&over));
            async move {
                while !over.load(Ordering::Relaxed) {
                    let body = json!({ "call": "echo", "message": { "text": "ab", "times": 2 } });
                    let (status, text) = hub.ask("POST", "/calls", &body).await;
                    assert!(status == 200 && text.contains("abab"), "{status} {text}");
                    healthy.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self {
            project,
            hub,
            healthy,
            over,
            load,
        }
    }

    /// So many hostile calls, each of which ends as it may, while the healthy ones go on.
    async fn attack(&self, attack: &Attack, calls: usize, at_once: usize) -> Vec<String> {
        let before = self.healthy.load(Ordering::Relaxed);
        let body = json!({ "call": "hostile", "message": attack.message });
        let call = || async {
            let (status, text) = self.hub.ask("POST", "/calls", &body).await;
            if status == 200 && !text.contains("\"error\"") {
                return "answered".to_owned();
            }
            let answer: Value = text
                .lines()
                .last()
                .and_then(|line| serde_json::from_str(line).ok())
                .unwrap_or_else(|| panic!("{status}: {text}"));
            let error = &answer["error"];
            format!(
                "{}: {}",
                error["kind"].as_str().unwrap(),
                error["message"].as_str().unwrap()
            )
        };
        let mut under_way = FuturesUnordered::new();
        let (mut begun, mut ends) = (0, Vec::new());
        while ends.len() < calls {
            while begun < calls && under_way.len() < at_once {
                under_way.push(call());
                begun += 1;
            }
            ends.push(under_way.next().await.unwrap());
        }
        while self.healthy.load(Ordering::Relaxed) < before + 2 {
            assert!(!self.load.is_finished(), "the healthy plugin failed");
            tokio::task::yield_now().await;
        }
        let unexpected = ends
            .iter()
            .find(|end| !attack.ends.iter().any(|text| end.starts_with(text)));
        assert_eq!(unexpected, None, "{}", attack.name);
        ends
    }

    /// The memory of the process that is in the machine, in bytes.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.hub.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// The end: nobody failed, the hub goes in order, and its log has one end for each hostile call.
    async fn leave(self, calls: usize) {
        self.over.store(true, Ordering::Relaxed);
        self.load.await.unwrap();
        let hub = Arc::into_inner(self.hub).expect("nobody else has it");
        let ended = hub.stop().await;
        assert_eq!(ended.code, 0, "{}", ended.err);
        let log = rusqlite::Connection::open(self.project.root().join(".waypost/log.db")).unwrap();
        let query = "SELECT count(*), count(DISTINCT call) FROM event WHERE kind = 'call.ended' AND body LIKE '%\"name\":\"hostile\"%'";
        let ends: (i64, i64) = log.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        let calls = i64::try_from(calls).unwrap();
        assert_eq!(ends, (calls, calls));
    }
}
