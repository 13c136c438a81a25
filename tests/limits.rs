//! Every limit of a plugin: its default, what happens at it, and that the others do not notice.

use std::fs::File;
use std::time::Duration;

use serde_json::{Value, json};
use waypost::call::Sink;
use waypost::capabilities::chat::Answer;
use waypost::config::PluginLimits;
use waypost::error::ErrorKind;

use crate::harness::component::Text;
use crate::harness::{Open, Plugin, Project, normal};
use crate::listed;

listed![
    the_defaults_are_what_the_reference_says,
    each_limit_ends_the_call_with_its_name,
    a_manifest_can_ask_for_less,
    more_calls_than_places_wait_and_more_than_that_are_refused,
    a_flood_of_words_is_cut_with_one_mark,
    state_has_a_quota,
    a_component_that_is_too_large_is_not_read,
    a_spinning_guest_is_stopped_at_its_deadline,
    a_guest_that_spins_while_it_starts_is_stopped_at_its_deadline,
    a_sleeping_guest_is_stopped_at_its_deadline,
    spinning_guests_block_nobody_and_can_be_cancelled,
];

async fn the_defaults_are_what_the_reference_says() {
    let defaults = PluginLimits {
        memory: 64 << 20,
        table_elements: 20_000,
        handles: 1024,
        import_rate: 5_000,
        host_call: 16 << 20,
        concurrency: 64,
        queue: 256,
        reply: 4 << 20,
        log: 64 << 10,
        state: 1 << 20,
        component: 32 << 20,
        notices: 1024,
        notice_bytes: 32 << 20,
        traps: 5,
        quarantine: Duration::from_secs(1),
        longest_quarantine: Duration::from_secs(300),
        http_request: 4 << 20,
        http_response: 16 << 20,
        http_headers: 32 << 10,
        http_open: 8,
        file_write: 16 << 20,
        file_entries: 10_000,
        file_open: 8,
        process_input: 4 << 20,
        process_output: 16 << 20,
        process_running: 4,
        socket_sent: 16 << 20,
        socket_received: 16 << 20,
        socket_open: 8,
    };
    assert_eq!(PluginLimits::default(), defaults);
}

async fn each_limit_ends_the_call_with_its_name() {
    let table = Text::handler()
        .items("(table $table 1 funcref)")
        .body("(if (i32.eq (table.grow $table (ref.null func) (i32.const 20000)) (i32.const -1)) (then unreachable))");
    // It asks for alarms and keeps all of them.
    let waiter = Text::handler()
        .imports(
            r#"(import "wasi:io/poll@0.2.0" (instance $poll (export "pollable" (type (sub resource)))))
            (alias export $poll "pollable" (type $pollable))
            (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
                (alias outer 1 $pollable (type $outer))
                (export "pollable" (type $alarm (eq $outer)))
                (export "subscribe-duration" (func (param "when" u64) (result (own $alarm))))))
            (core func $subscribe (canon lower (func $clock "subscribe-duration")))
            (core instance $host (export "subscribe" (func $subscribe)))"#,
        )
        .host(r#"(import "host" "subscribe" (func $subscribe (param i64) (result i32)))"#)
        .body("(loop $again (drop (call $subscribe (i64.const 1000000000))) (br $again))");
    // It makes things of its own and keeps all of them.
    let maker = Text::handler()
        .imports(
            r#"(type $thing (resource (rep i32)))
            (core func $make (canon resource.new $thing))
            (core instance $host (export "make" (func $make)))"#,
        )
        .host(r#"(import "host" "make" (func $make (param i32) (result i32)))"#)
        .body("(loop $again (drop (call $make (i32.const 1))) (br $again))");
    let open = Project::new()
        .plugin(&Plugin::made_of("maker", maker.bytes()))
        .plugin(&Plugin::of("hungry"))
        .plugin(&Plugin::made_of("table", table.bytes()))
        .plugin(&Plugin::of("hoarder").grants("gateway = [\"*\"]"))
        .plugin(&Plugin::made_of("waiter", waiter.bytes()))
        .plugin(&Plugin::of("talker"))
        .plugin(&Plugin::of("bulky"))
        .open()
        .await;
    for (call, message, error) in [
        (
            "hungry",
            json!(64 << 20),
            "plugin `hungry` needs more than 67108864, its limit `memory`: raise it in [limits.plugin]",
        ),
        (
            "table",
            json!(null),
            "plugin `table` needs more than 20000, its limit `table-elements`: raise it in [limits.plugin]",
        ),
        (
            "hoarder",
            json!(1025),
            "plugin `hoarder` holds 1024 handles, the limit `handles` of [limits.plugin]; drop some first",
        ),
        (
            "talker",
            json!({ "shout": (16 << 20) + 1 }),
            "plugin `talker` handed over more than 16777216 bytes at once, its limit `host-call`: raise it in [limits.plugin]",
        ),
        (
            "bulky",
            json!((4 << 20) + 1),
            "plugin `bulky` answered with 4194305 bytes, the limit is 4194304: `reply` of [limits.plugin]",
        ),
        (
            "maker",
            json!(null),
            "plugin `maker` holds 1024 handles, the limit `handles` of [limits.plugin]; drop some first",
        ),
        (
            "waiter",
            json!(null),
            "plugin `waiter` holds 1024 handles, the limit `handles` of [limits.plugin]; drop some first",
        ),
    ] {
        assert_eq!(open.error(call, message).await, format!("limit: {error}"));
    }
    assert_eq!(open.reply("hungry", json!(48 << 20)).await, json!(48 << 20));
    assert_eq!(
        open.reply("bulky", json!(4 << 20)).await.as_str().unwrap().len(),
        (4 << 20) - 2
    );
    assert_eq!(open.reply("hoarder", json!(100)).await, json!(100));
}

async fn a_manifest_can_ask_for_less() {
    let open = Project::new()
        .plugin(&Plugin::of("hungry").limits("memory = \"2MiB\""))
        .plugin(&Plugin::of("bulky").limits("reply = \"1KiB\""))
        .open()
        .await;
    assert_eq!(
        open.error("hungry", json!(2 << 20)).await,
        "limit: plugin `hungry` needs more than 2097152, its limit `memory`: raise it in [limits.plugin]"
    );
    assert_eq!(
        open.error("bulky", json!(1025)).await,
        "limit: plugin `bulky` answered with 1025 bytes, the limit is 1024: `reply` of [limits.plugin]"
    );
    assert_eq!(open.reply("bulky", json!(1024)).await.as_str().unwrap().len(), 1022);
}

async fn more_calls_than_places_wait_and_more_than_that_are_refused() {
    let open = Project::new()
        .toml("[limits.plugin]\nconcurrency = 2\nqueue = 3")
        .plugin(&Plugin::of("caller").grants("gateway = [\"*\"]"))
        .open()
        .await;
    let mut calls = Vec::new();
    for _ in 0..7 {
        let message = json!({ "call": "waitforReply", "message": { "message": "?" } });
        calls.push(open.begin("caller", message).await);
    }
    let is_refused = |body: &Value| body["error"]["kind"] == "limit";
    for _ in 0..2 {
        // Two find no place at all, and say so at once.
        open.event(|event| event.body.to().is_ok_and(|body| is_refused(&body)))
            .await;
    }
    for _ in 0..5 {
        let question = open.some_question().await;
        open.hub.desk.answer(question.id, Answer::plain("go on")).unwrap();
    }
    let mut ends = (0, 0);
    for call in calls {
        match call.await.unwrap().result {
            Ok(_) => ends.0 += 1,
            Err(error) => {
                let text = "limit: plugin `caller` is busy: 2 calls run and 3 wait, the limits `concurrency` and `queue` of \
                            [limits.plugin]";
                assert_eq!(error.to_string(), text);
                ends.1 += 1;
            }
        }
    }
    assert_eq!(ends, (5, 2));
}

async fn a_flood_of_words_is_cut_with_one_mark() {
    let open = Project::new().plugin(&Plugin::of("talker")).open().await;
    let mark = "[the rest of this call's log is dropped: 65536 bytes is the limit `log` of [limits.plugin]]";
    for calls in 1..=2 {
        open.reply("talker", json!({ "flood": 100_000 })).await;
        let lines = open.hub.plugin_log.lines("talker");
        assert_eq!(lines.last().unwrap().text, mark);
        assert_eq!(
            lines.iter().filter(|line| line.text == mark).count(),
            1,
            "after {calls} calls"
        );
        assert_eq!(lines.len(), 500, "what is kept is bounded");
    }
    open.reply("talker", json!({ "shout": 1 << 20 })).await;
    let lines = open.hub.plugin_log.lines("talker");
    let last: Vec<usize> = lines.iter().rev().take(2).map(|line| line.text.len()).collect();
    assert_eq!(last, [mark.len(), 64 << 10]);
}

async fn state_has_a_quota() {
    let open = Project::new()
        .plugin(&Plugin::of("keeper").grants("state = true"))
        .open()
        .await;
    let steps = json!([{ "fill": ["a", 1 << 19] }, { "fill": ["b", 1 << 19] }, { "keys": "" }, { "remove": "a" },
                       { "fill": ["b", 1 << 19] }]);
    let error = "limit: plugin `keeper` wants to keep 1048582 bytes of state and its quota is 1048576: let it remove keys, or \
                 raise `state` in its limits";
    assert_eq!(
        open.reply("keeper", steps).await,
        json!(["set", { "error": error }, ["a"], "removed", "set"])
    );
}

async fn a_component_that_is_too_large_is_not_read() {
    let project = Project::new().plugin(&Plugin::of("echo"));
    let file = File::options()
        .write(true)
        .open(project.root().join("plugins/echo.wasm"))
        .unwrap();
    file.set_len((32 << 20) + 1).unwrap();
    let error = project.try_open().await.err().unwrap();
    assert_eq!(
        (error.kind, normal(project.root(), &error.chain()).as_str()),
        (
            ErrorKind::Limit,
            "<project>/plugins/echo.wasm has 33554433 bytes, the limit is 33554432: raise `component` in [limits.plugin]"
        )
    );
}

async fn times_out(plugin: Plugin, name: &str) {
    let open = Project::new().plugin(&plugin.limits("timeout = \"50ms\"")).open().await;
    let text = format!("timeout: {name} did not end within its time limit and was stopped");
    assert_eq!(open.error(name, json!(null)).await, text);
}

async fn a_spinning_guest_is_stopped_at_its_deadline() {
    times_out(Plugin::of("spinner"), "spinner").await;
}

async fn a_guest_that_spins_while_it_starts_is_stopped_at_its_deadline() {
    let text = Text::handler().items("(func $spin (loop $again (br $again))) (start $spin)");
    times_out(Plugin::made_of("starter", text.bytes()), "starter").await;
}

async fn a_sleeping_guest_is_stopped_at_its_deadline() {
    times_out(Plugin::of("sleeper"), "sleeper").await;
}

async fn spinning_guests_block_nobody_and_can_be_cancelled() {
    let open = Project::new()
        .plugin(&Plugin::of("spinner"))
        .plugin(&Plugin::of("echo"))
        .open()
        .await;
    let mut spinning = Vec::new();
    for _ in 0..8 {
        let call = open.prepared("spinner", json!(null)).await;
        let (id, cancel) = (call.id, call.cancel.clone());
        spinning.push((open.carry(call, Sink::discard()), cancel));
        open.event(|event| event.call == Some(id)).await;
    }
    answers(&open).await;
    for (call, cancel) in spinning {
        cancel.cancel();
        let error = call.await.unwrap().result.unwrap_err();
        assert_eq!(error.to_string(), "cancelled: spinner was cancelled and stopped");
    }
    answers(&open).await;
}

async fn answers(open: &Open) {
    assert_eq!(
        open.reply("echo", json!({ "text": "a", "times": 2 })).await["text"],
        "aa"
    );
}
