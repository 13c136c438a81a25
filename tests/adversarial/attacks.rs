//! The guests that hurt while they are called: what each does, and how its calls may end.

use serde_json::{Value, json};

use crate::harness::Plugin;
use crate::harness::component::Text;

/// Hostile calls at the same time.
pub const AT_ONCE: usize = 8;

/// The same when there were enough of them, and it goes on for those who are healthy to say how it is.
pub const GOES_ON: usize = 2;

/// One way to hurt a hub.
#[derive(Clone)]
pub struct Attack {
    /// What is done.
    pub name: &'static str,
    /// What does it.
    pub plugin: Plugin,
    /// What it is asked with.
    pub message: Value,
    /// What stands in [limits] for it.
    pub limits: &'static str,
    /// Hostile calls in all, at least.
    pub calls: usize,
    /// How each of them may end: `answered`, or how the text of its error begins.
    pub ends: &'static [&'static str],
}

impl Attack {
    pub fn new(name: &'static str, plugin: Plugin, end: &'static [&'static str]) -> Self {
        Self {
            name,
            plugin,
            message: json!(null),
            limits: "",
            calls: 3 * AT_ONCE,
            ends: end,
        }
    }

    fn with(self, message: Value) -> Self {
        Self { message, ..self }
    }

    pub fn within(self, limits: &'static str) -> Self {
        Self { limits, ..self }
    }

    pub fn calls(self, calls: usize) -> Self {
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

/// All of them.
pub fn attacks() -> Vec<Attack> {
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
    let clocks = calling(
        r#"(import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
            (export "now" (func (result u64))) (export "resolution" (func (result u64)))))
        (import "wasi:clocks/wall-clock@0.2.0" (instance $wall
            (type $datetime' (record (field "seconds" u64) (field "nanoseconds" u32)))
            (export "datetime" (type $datetime (eq $datetime')))
            (export "now" (func (result $datetime)))))
        (core module $m (memory (export "memory") 1)
            (func (export "nanoseconds") (param i32) (result i32) (i32.load offset=8 (local.get 0))))
        (core instance $mi (instantiate $m))
        (alias core export $mi "memory" (core memory $bytes))
        (core func $now (canon lower (func $clock "now")))
        (core func $resolution (canon lower (func $clock "resolution")))
        (core func $wall (canon lower (func $wall "now") (memory $bytes)))
        (alias core export $mi "nanoseconds" (core func $nanoseconds))
        (core instance $host (export "now" (func $now)) (export "resolution" (func $resolution))
            (export "wall" (func $wall)) (export "nanoseconds" (func $nanoseconds)))"#,
        r#"(import "host" "now" (func $now (result i64))) (import "host" "resolution" (func $resolution (result i64)))
        (import "host" "wall" (func $wall (param i32))) (import "host" "nanoseconds" (func $nanoseconds (param i32) (result i32)))"#,
    );
    // It looks until a clock has gone on three times: whoever reads less than a millisecond has found what it looks for.
    let steps = "(local $last i64) (local $times i32)
        (if (i64.lt_u (call $resolution) (i64.const 1000000)) (then unreachable))
        (loop $next
            (call $wall (i32.const 16))
            (if (i32.rem_u (call $nanoseconds (i32.const 16)) (i32.const 1000000)) (then unreachable))
            (if (i64.ne (i64.rem_u (call $now) (i64.const 1000000)) (i64.const 0)) (then unreachable))
            (if (i64.ne (local.get $last) (call $now)) (then
                (local.set $last (call $now))
                (local.set $times (i32.add (local.get $times) (i32.const 1)))))
            (br_if $next (i32.lt_u (local.get $times) (i32.const 4))))";
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
                "limit: plugin `hostile` holds 64 handles, the limit `handles`",
                // Of all that are started at the same time, the reserve of the hub has a part.
                "limit: ",
            ],
        )
        .with(json!(200))
        .within("plugin = { handles = 64 }"),
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
        Attack::new(
            "a019_a_clock_finer_than_a_millisecond",
            text(&clocks.body(steps)),
            &["answered"],
        ),
    ]
}
