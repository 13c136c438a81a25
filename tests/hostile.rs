//! Components and manifests that nobody should load: each is one clear error, and nobody else notices.

use std::fs;

use serde_json::json;

use crate::harness::component::Text;
use crate::harness::{Open, Plugin, Project, guests};
use crate::listed;

listed![
    each_hostile_component_is_one_error_and_changes_nothing,
    each_hostile_manifest_is_one_error_and_changes_nothing,
    a_hub_with_a_hostile_plugin_does_not_open,
];

/// Reads the plugin's files again and says how that failed; what was loaded before answers all the same.
async fn refusal(open: &Open) -> String {
    let hub = open.hub.clone();
    let reloaded = tokio::task::spawn_blocking(move || hub.plugins.reload("echo").map(drop))
        .await
        .unwrap();
    let error = reloaded.err().map_or_else(
        || "loaded".to_owned(),
        |error| format!("{}: {}", error.kind, error.chain()),
    );
    let reply = open.reply("echo", json!({ "text": "a", "times": 2 })).await;
    assert_eq!(reply["text"], "aa");
    open.normal(&error)
}

/// Compares a table of what was expected (`…` for an end that the build decides) with what came, and shows all differences.
fn compare(rows: &[(&str, String, String)]) {
    let wrong: Vec<String> = rows
        .iter()
        .filter(|(_, expected, came)| match expected.strip_suffix('…') {
            Some(beginning) => !came.starts_with(beginning),
            None => expected != came,
        })
        .map(|(name, expected, came)| format!("{name}\n  expected {expected}\n  came     {came}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn components() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let echo = guests::bytes("echo");
    vec![
        (
            "an empty file",
            Vec::new(),
            "invalid: plugin `echo` is not WebAssembly; give the `.wasm` file that the build made",
        ),
        (
            "no WebAssembly",
            b"#!/bin/sh\nrm -rf /\n".to_vec(),
            "invalid: plugin `echo` is not WebAssembly; give the `.wasm` file that the build made",
        ),
        (
            "a core module",
            b"\0asm\x01\0\0\0".to_vec(),
            "invalid: plugin `echo` is a core WebAssembly module, not a component; build it with `--target wasm32-wasip2`",
        ),
        (
            "cut in the middle",
            echo[..echo.len() / 2].to_vec(),
            "invalid: plugin `echo` is not a component that this engine accepts: failed to parse WebAssembly \
             module: …",
        ),
        (
            "cut at its end",
            echo[..echo.len() - 1].to_vec(),
            "invalid: plugin `echo` is not a component that this engine accepts: failed to parse WebAssembly \
             module: …",
        ),
        (
            "flipped bytes",
            echo.iter()
                .enumerate()
                .map(|(at, byte)| if at % 1000 == 999 { !byte } else { *byte })
                .collect(),
            "invalid: plugin `echo` is not a component that this engine accepts: failed to parse WebAssembly \
             module: …",
        ),
        (
            "nothing inside",
            b"\0asm\x0d\0\x01\0".to_vec(),
            "invalid: plugin `echo` has the role handler by its manifest, but does not export `waypost:plugin/handler@0.1.0`; it exports \
             nothing: set `role` to what it is, or build it with that world; `waypost plugin \
             doctor` says more",
        ),
        (
            "another role",
            guests::bytes("watcher"),
            "invalid: plugin `echo` has the role handler by its manifest, but does not export `waypost:plugin/handler@0.1.0`; it exports \
             `waypost:plugin/observer@0.1.0`: set `role` to what it is, or build it with that world; `waypost plugin \
             doctor` says more",
        ),
        (
            "another version",
            Text::handler().export("waypost:plugin/handler@0.2.0").bytes(),
            "invalid: plugin `echo` has the role handler by its manifest, but does not export \
             `waypost:plugin/handler@0.1.0`; it exports `incoming`, `reply`, `call-error`, \
             `waypost:plugin/handler@0.2.0`: set `role` to what it is, or build it with that world; `waypost plugin \
             doctor` says more",
        ),
        (
            "another contract",
            Text::handler().export("waypost:plugin/agent@0.1.0").bytes(),
            "invalid: plugin `echo` has the role handler by its manifest, but does not export \
             `waypost:plugin/handler@0.1.0`; it exports `incoming`, `reply`, `call-error`, \
             `waypost:plugin/agent@0.1.0`: set `role` to what it is, or build it with that world; `waypost plugin \
             doctor` says more",
        ),
        (
            "an export of another shape",
            Text::handler().with("(field \"kind\" string) ", "").bytes(),
            "invalid: plugin `echo` does not fit the contract of this hub (0.1.0): the function `handle` of waypost:plugin/handler \
             takes or answers something else than this hub has there; build the component with the SDK 0.1.0 that this hub \
             brings, which has waypost:plugin 0.1.0",
        ),
        (
            "an export without its function",
            Text::handler().with("(export \"handle\" (func $handle))", "").bytes(),
            "invalid: plugin `echo` does not fit the contract of this hub (0.1.0): its waypost:plugin/handler has no function \
             `handle`, which this hub would call, and the plugin is older; build the component with the SDK 0.1.0 that this \
             hub brings, which has waypost:plugin 0.1.0",
        ),
        (
            "an import of another shape",
            Text::handler()
                .imports("(import \"waypost:log/log@0.1.0\" (instance (export \"log\" (func (param \"level\" u8)))))")
                .bytes(),
            "invalid: plugin `echo` does not fit the contract of this hub (0.1.0): the function `log` of waypost:log/log takes or \
             answers something else than this hub has there; build the component with the SDK 0.1.0 that this hub brings, \
             which has waypost:log 0.1.0",
        ),
        (
            "what a later contract has",
            Text::handler()
                .imports(
                    "(import \"waypost:log/log@0.1.1\" (instance (export \"flush\" (func))))
                     (import \"waypost:call/clock@0.1.1\" (instance (export \"now\" (func (result u64)))))",
                )
                .bytes(),
            "invalid: plugin `echo` does not fit the contract of this hub (0.1.0): it calls the function `flush` of \
             waypost:log/log, which this hub does not have, and the hub is older; upgrade the hub, or build the component with \
             the SDK 0.1.0 that this hub brings, which has waypost:log 0.1.0; `waypost plugin doctor` shows 1 more",
        ),
        (
            "an unknown import",
            Text::handler()
                .imports("(import \"acme:files/read@1.0.0\" (instance))")
                .bytes(),
            "invalid: plugin `echo` imports `acme:files/read@1.0.0`, which this hub does not offer; it offers the packages \
             waypost:call, waypost:gateway, waypost:state, waypost:log, waypost:workspace, waypost:http, waypost:files, \
             waypost:process and waypost:socket (0.1) and WASI 0.2 without wasi:http",
        ),
        (
            "a way to the network",
            Text::handler()
                .imports("(import \"wasi:http/outgoing-handler@0.2.0\" (instance))")
                .bytes(),
            "invalid: plugin `echo` imports `wasi:http/outgoing-handler@0.2.0`, which this hub does not offer; it offers the \
             packages waypost:call, waypost:gateway, waypost:state, waypost:log, waypost:workspace, waypost:http, \
             waypost:files, waypost:process and waypost:socket (0.1) and WASI 0.2 without wasi:http",
        ),
        (
            "an unknown function of WASI",
            Text::handler()
                .imports("(import \"wasi:cli/environment@0.2.0\" (instance (export \"set-all\" (func))))")
                .bytes(),
            "invalid: plugin `echo` does not fit the contract of this hub (0.1.0): component imports instance \
             `wasi:cli/environment@0.2.0`, but a matching implementation was not found in the linker: instance \
             export `set-all` has the wrong type: function implementation is missing; `waypost plugin doctor` says which item it is",
        ),
        (
            "a folder that was not granted",
            Text::handler()
                .imports("(import \"waypost:workspace/folders@0.1.0\" (instance))")
                .bytes(),
            "denied: plugin `echo` imports `waypost:workspace/folders@0.1.0` without the grant `workspace`; if it may, add \
             `workspace = true` to [grants] of its manifest and to `grant` of its [[plugin]] entry in waypost.toml",
        ),
        (
            "a huge memory",
            Text::handler().memory("1025").bytes(),
            "invalid: plugin `echo` is not a component that this engine accepts: module memory does not fit in \
             pooling allocator requirements: memory index 0 is unsupported in this pooling allocator \
             configuration: memory has a minimum byte size of 67174400 which exceeds the limit of 0x4000000 bytes; \
             it starts beyond its limit `memory`: raise it in [limits.plugin]",
        ),
        (
            "a huge table",
            Text::handler().items("(table 20001 funcref)").bytes(),
            "invalid: plugin `echo` is not a component that this engine accepts: module table does not fit in \
             pooling allocator requirements: table index 0 has a minimum element size of 20001 which exceeds the \
             limit of 20000; it starts beyond its limit `table-elements`: raise it in [limits.plugin]",
        ),
        (
            "a memory of 64 bits",
            Text::handler().items("(memory i64 1)").bytes(),
            "invalid: plugin `echo` is not a component that this engine accepts: failed to parse WebAssembly \
             module: memory64 must be enabled for 64-bit memories (at offset …",
        ),
        (
            "a memory that threads share",
            Text::handler().memory("1 1 shared").bytes(),
            "invalid: plugin `echo` is not a component that this engine accepts: …",
        ),
        (
            "many memories",
            Text::handler()
                .items("(memory 1) (memory 1) (memory 1) (memory 1)")
                .bytes(),
            "invalid: plugin `echo` is not a component that this engine accepts: module memory does not fit in \
             pooling allocator requirements: defined memories count of 5 exceeds the per-instance limit of 1",
        ),
    ]
}

async fn each_hostile_component_is_one_error_and_changes_nothing() {
    let open = Project::new().plugin(&Plugin::of("echo")).open().await;
    let mut rows = Vec::new();
    for (name, bytes, expected) in components() {
        Plugin::made_of("echo", bytes).write(open.root());
        rows.push((name, expected.to_owned(), refusal(&open).await));
    }
    compare(&rows);
    Plugin::of("echo").write(open.root());
    assert_eq!(refusal(&open).await, "loaded");
}

async fn each_hostile_manifest_is_one_error_and_changes_nothing() {
    let open = Project::new().plugin(&Plugin::of("echo")).open().await;
    let file = open.root().join("plugins/echo.toml");
    let good = "id = \"echo\"\nversion = \"1\"\nrole = \"handler\"\nserves = [\"echo\"]\n";
    let mut rows = Vec::new();
    for (name, text, expected) in [
        (
            "no TOML",
            "id = echo".as_bytes().to_vec(),
            "invalid: <project>/plugins/echo.toml, line 1: string values must be quoted, expected literal string",
        ),
        (
            "nothing",
            Vec::new(),
            "invalid: <project>/plugins/echo.toml, line 1: missing field `id`",
        ),
        (
            "no text",
            b"\xff\xfe\0".to_vec(),
            "not-found: <project>/plugins/echo.toml cannot be read: stream did not contain valid UTF-8",
        ),
        (
            "an id that is a path",
            good.replace("\"echo\"\nversion", "\"../echo\"\nversion").into_bytes(),
            "invalid: <project>/plugins/echo.toml: `../echo` is not an id; use lower-case letters, digits and `-`, at most 64",
        ),
        (
            "an id that clears the screen",
            good.replace("\"echo\"\nversion", "\"\\u001b[2J\"\nversion")
                .into_bytes(),
            "invalid: <project>/plugins/echo.toml: `\\u{1b}[2J` is not an id; use lower-case letters, digits and `-`, at most 64",
        ),
        (
            "an unknown field",
            format!("{good}network = true\n").into_bytes(),
            "invalid: <project>/plugins/echo.toml, line 5: unknown field `network`, expected one of `id`, \
             `version`, `role`, `description`, `serves`, `claims`, `subscribes`, `grants`, `limits`",
        ),
        (
            "an unknown role",
            good.replace("handler", "root").into_bytes(),
            "invalid: <project>/plugins/echo.toml, line 3: unknown variant `root`, expected one of `handler`, \
             `provider`, `agent`, `observer`",
        ),
        (
            "the role of another world",
            good.replace("handler", "agent")
                .replace("serves = [\"echo\"]", "")
                .into_bytes(),
            "invalid: plugin `echo` has the role agent by its manifest, but does not export `waypost:plugin/agent@0.1.0`; it exports \
             `waypost:plugin/handler@0.1.0`: set `role` to what it is, or build it with that world; `waypost plugin \
             doctor` says more",
        ),
        (
            "an unknown grant",
            format!("{good}grants = {{ network = true }}\n").into_bytes(),
            "invalid: <project>/plugins/echo.toml, line 5: unknown field `network`, expected one of `gateway`, \
             `state`, `workspace`, `claim`, `subscribe`, `http`, `secrets`, `env`, `files`, `process`, `socket`",
        ),
        (
            "a limit that is no number",
            format!("{good}limits = {{ memory = \"much\" }}\n").into_bytes(),
            "invalid: <project>/plugins/echo.toml, line 5: `much` is not a size; write it as 64KiB or 16MiB",
        ),
        (
            "a memory of nothing",
            format!("{good}limits = {{ memory = 0 }}\n").into_bytes(),
            "invalid: <project>/plugins/echo.toml, line 5: a limit of zero would refuse everything; write 1 or \
             more, or remove the line",
        ),
        (
            "no calls",
            good.replace("serves = [\"echo\"]", "").into_bytes(),
            "invalid: <project>/plugins/echo.toml: a handler says what it executes, as in `serves = [\"inference\"]`",
        ),
        (
            "a limit of nothing",
            format!("{good}limits = {{ concurrency = 0 }}\n").into_bytes(),
            "invalid: <project>/plugins/echo.toml, line 5: a limit of zero would refuse everything; write 1 or \
             more, or remove the line",
        ),
    ] {
        fs::write(&file, text).unwrap();
        rows.push((name, expected.to_owned(), refusal(&open).await));
    }
    compare(&rows);
}

async fn a_hub_with_a_hostile_plugin_does_not_open() {
    let project = Project::new()
        .plugin(&Plugin::of("echo"))
        .plugin(&Plugin::made_of("core", b"\0asm\x01\0\0\0".to_vec()));
    let error = project.try_open().await.err().unwrap();
    assert_eq!(
        error.chain(),
        "plugin `core` is a core WebAssembly module, not a component; build it with `--target wasm32-wasip2`"
    );
    Plugin::of("echo").named("core").write(project.root());
    let open = project.open().await;
    assert_eq!(
        open.reply("core", json!({ "text": "a", "times": 1 })).await["text"],
        "a",
        "nothing was left behind"
    );
}
