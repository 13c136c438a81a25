//! What a plugin can do, and what it cannot.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde_json::{Value, json};
use waypost::capabilities::chat::Answer;
use waypost::plugin::{Role, section};

use crate::harness::component::Text;
use crate::harness::{Open, Plugin, Project, guests};
use crate::listed;

listed![
    a_handler_is_typed_and_knows_its_call,
    chunks_come_in_order_before_the_reply,
    state_outlives_the_call_and_the_hub,
    what_a_plugin_says_is_in_its_log,
    nothing_in_memory_outlives_a_call,
    a_fault_ends_its_call_alone,
    a_plugin_is_not_asked_for_what_it_does_not_serve,
    an_import_without_its_grant_is_refused_at_load,
    a_call_outside_the_grant_is_denied,
    rights_are_the_intersection_along_the_path,
    wasi_reaches_nothing,
    a_reload_changes_new_calls_alone,
    a_plugin_is_one_file_with_its_manifest_inside,
    a_broken_file_keeps_what_was_loaded,
    an_id_is_not_taken_over,
    compiled_code_is_kept_and_not_trusted_blindly,
    a_claim_or_a_subscription_without_its_grant_is_refused_at_load,
    an_observer_hears_of_calls,
    an_observer_that_fails_is_noted_once_for_each_burst,
    an_observer_is_stopped_with_the_hub,
    observers_that_make_calls_do_not_keep_each_other_busy,
];

async fn a_handler_is_typed_and_knows_its_call() {
    let open = Project::new().plugin(&Plugin::of("echo")).open().await;
    let reply = open.reply("echo", json!({ "text": "ab", "times": 3 })).await;
    let expected = json!({
        "text": "ababab", "name": "echo", "project": "default", "run": null, "environment": null, "time_left": true,
    });
    assert_eq!(reply, expected);
    assert_eq!(
        open.error("echo", json!({ "text": "ab" })).await,
        "invalid: the message of echo does not fit: missing field `times` at line 1 column 13"
    );
}

async fn chunks_come_in_order_before_the_reply() {
    let open = Project::new().plugin(&Plugin::of("chunks")).open().await;
    let counted: Vec<_> = (0..200).map(|number| json!({ "number": number })).collect();
    let (chunks, reply) = open.streamed("chunks", json!({ "count": 200 })).await;
    assert_eq!((chunks, reply), (counted, json!({ "count": 200 })));
}

async fn state_outlives_the_call_and_the_hub() {
    let open = Project::new()
        .plugin(&Plugin::of("keeper").grants("state = true"))
        .plugin(&Plugin::of("keeper").named("other").grants("state = true"))
        .open()
        .await;
    let steps = json!([{ "set": ["a/1", { "x": 1 }] }, { "set": ["a/2", "y"] }, { "set": ["b", 3] }, { "get": "a/1" }]);
    assert_eq!(
        open.reply("keeper", steps).await,
        json!(["set", "set", "set", { "x": 1 }])
    );
    assert_eq!(
        open.reply("other", json!([{ "keys": "" }])).await,
        json!([[]]),
        "each plugin has its own"
    );
    let open = open.reopen().await;
    let steps = json!([{ "keys": "a/" }, { "remove": "a/1" }, { "remove": "a/1" }, { "get": "a/1" }, { "keys": "" }]);
    let expected = json!([["a/1", "a/2"], "removed", "removed", null, ["a/2", "b"]]);
    assert_eq!(open.reply("keeper", steps).await, expected);
    let steps = json!([{ "set": ["", 1] }, { "set": ["k".repeat(513), 1] }]);
    let expected = json!([
        { "error": "invalid: a state key has 1 to 512 bytes, this one has 0" },
        { "error": "invalid: a state key has 1 to 512 bytes, this one has 513" },
    ]);
    assert_eq!(open.reply("keeper", steps).await, expected);
}

async fn what_a_plugin_says_is_in_its_log() {
    let open = Project::new().plugin(&Plugin::of("talker")).open().await;
    open.reply("talker", json!("lines")).await;
    open.reply("talker", json!("streams")).await;
    let lines: Vec<(&str, String)> = open
        .hub
        .plugin_log
        .lines("talker")
        .into_iter()
        .map(|line| (line.level, line.text))
        .collect();
    let said = [
        ("debug", "a"),
        ("info", "b\\u{1b}[2Jc"),
        ("warn", "d\\ne"),
        ("error", "f"),
        ("output", "out"),
        ("output", "err"),
        ("output", "no end"),
    ];
    assert_eq!(lines, said.map(|(level, text)| (level, text.to_owned())));
}

async fn nothing_in_memory_outlives_a_call() {
    let open = Project::new().plugin(&Plugin::of("counter")).open().await;
    for _ in 0..3 {
        assert_eq!(open.reply("counter", json!(null)).await, json!(0));
    }
}

async fn a_fault_ends_its_call_alone() {
    let deep = Text::handler()
        .items("(func $deep (param i32) (result i32) (i32.add (call $deep (local.get 0)) (i32.const 1)))")
        .body("(drop (call $deep (i32.const 0)))");
    let open = Project::new()
        .plugin(&Plugin::of("faulty"))
        .plugin(&Plugin::of("echo"))
        .plugin(&Plugin::made_of("deep", deep.bytes()))
        .open()
        .await;
    let said = "`waypost plugin logs faulty` shows what it said";
    for (end, error) in [
        ("error", "not-found: there is no such thing; name another".to_owned()),
        ("unavailable", "unavailable: not now".to_owned()),
        (
            "panic",
            format!("trapped: plugin `faulty` trapped: wasm `unreachable` instruction executed; {said}"),
        ),
        (
            "unreachable",
            format!("trapped: plugin `faulty` trapped: wasm `unreachable` instruction executed; {said}"),
        ),
        (
            "overflow",
            format!("trapped: plugin `faulty` trapped: out of bounds memory access; {said}"),
        ),
    ] {
        assert_eq!(open.error("faulty", json!(end)).await, error, "{end}");
    }
    assert_eq!(
        open.error("deep", json!({})).await,
        "trapped: plugin `deep` trapped: call stack exhausted; `waypost plugin logs deep` shows what it said"
    );
    let lines = open.hub.plugin_log.lines("faulty");
    assert!(
        lines.iter().any(|line| line.text == "it hurts"),
        "the words of a panic are in the log: {lines:?}"
    );
    echoes(&open).await;
}

async fn echoes(open: &Open) {
    assert_eq!(
        open.reply("echo", json!({ "text": "a", "times": 2 })).await["text"],
        "aa"
    );
}

async fn a_plugin_is_not_asked_for_what_it_does_not_serve() {
    let open = Project::new()
        .plugin(&Plugin::of("echo").serves(&["say:*", "tell"]).unrouted())
        .toml("[[route]]\nmatch = \"*\"\nto = \"plugin:echo\"")
        .toml("[[route]]\nmatch = \"*\"\nto = \"plugin:nobody\"")
        .open()
        .await;
    assert_eq!(
        open.reply("say:hello", json!({ "text": "a", "times": 1 })).await["name"],
        "say:hello"
    );
    assert_eq!(
        open.error("shout", json!({})).await,
        "unavailable: plugin `echo` does not serve shout; it serves say:*, tell"
    );
}

/// What a plugin is refused with when the hub of its project is opened.
async fn refused(plugin: &Plugin) -> String {
    let project = Project::new().plugin(plugin);
    match project.try_open().await {
        Ok(_) => panic!("{} was loaded", plugin.manifest()),
        Err(error) => crate::harness::normal(project.root(), &format!("{}: {}", error.kind, error.chain())),
    }
}

async fn an_import_without_its_grant_is_refused_at_load() {
    let text = |id: &str, interface: &str, grant: &str, line: &str| {
        format!(
            "denied: plugin `{id}` imports `{interface}` without the grant `{grant}`; if it may, add `{line}` to [grants] of \
             its manifest and to `grant` of its [[plugin]] entry in waypost.toml"
        )
    };
    let state = text("keeper", "waypost:state/store@0.1.0", "state", "state = true");
    let gateway = text(
        "caller",
        "waypost:gateway/calls@0.1.0",
        "gateway",
        "gateway = [\"<kind:action it calls>\"]",
    );
    let asked = "gateway = [\"a\", \"b:x\"]";
    for (plugin, error) in [
        (Plugin::of("keeper"), &state),
        (Plugin::of("keeper").asks("state = true"), &state),
        (Plugin::of("keeper").granted("state = true"), &state),
        (Plugin::of("caller"), &gateway),
        (
            Plugin::of("caller").asks(asked).granted("gateway = [\"c\", \"b:y\"]"),
            &gateway,
        ),
    ] {
        assert_eq!(refused(&plugin).await, *error, "{}", plugin.manifest());
    }
}

async fn a_call_outside_the_grant_is_denied() {
    let granted = "gateway = [\"echo\", \"fsEvent:readFile\"]";
    let open = Project::new()
        .file("a.txt", "hello\n")
        .plugin(&Plugin::of("echo"))
        .plugin(&Plugin::of("caller").asks("gateway = [\"*\"]").granted(granted))
        .open()
        .await;
    let reply = open
        .reply(
            "caller",
            json!({ "call": "echo", "message": { "text": "a", "times": 1 } }),
        )
        .await;
    assert_eq!(reply["reply"]["text"], "a");
    let reply = open
        .reply(
            "caller",
            json!({ "call": "fsEvent:readFile", "message": { "path": "a.txt" } }),
        )
        .await;
    assert_eq!(reply["error"], Value::Null, "{reply}");
    for call in ["fsEvent:writeToFile", "fsEvent", "executeCommand", "caller"] {
        let reply = open.reply("caller", json!({ "call": call, "message": {} })).await;
        let expected = format!(
            "denied: plugin:caller may not call {call}: add it to `gateway` in the grants of the plugin, or of the plugin that \
             called it"
        );
        assert_eq!(reply, json!({ "error": expected }));
    }
    let shown = open.hub.plugins.get("caller").unwrap().shown();
    assert_eq!(shown.may_call, ["echo", "fsEvent:readFile"]);
}

async fn rights_are_the_intersection_along_the_path() {
    let open = Project::new()
        .plugin(&Plugin::of("echo"))
        .plugin(&Plugin::of("caller").named("outer").grants("gateway = [\"inner\"]"))
        .plugin(&Plugin::of("caller").named("inner").grants("gateway = [\"*\"]"))
        .open()
        .await;
    let echo = json!({ "call": "echo", "message": { "text": "a", "times": 1 } });
    assert_eq!(open.reply("inner", echo.clone()).await["reply"]["text"], "a");
    let reply = open.reply("outer", json!({ "call": "inner", "message": echo })).await;
    let error = "denied: plugin:inner may not call echo: add it to `gateway` in the grants of the plugin, or of the plugin \
                 that called it";
    assert_eq!(reply, json!({ "reply": { "error": error } }));
}

async fn wasi_reaches_nothing() {
    let open = Project::new()
        .variable("SECRET", "x")
        .plugin(&Plugin::of("prying"))
        .open()
        .await;
    let expected = json!({
        "variables": 0, "arguments": 0,
        "root": "NotFound", "here": "NotFound", "file": "NotFound", "write": "NotFound",
        "connect": "PermissionDenied", "listen": "PermissionDenied", "datagram": "PermissionDenied",
        "name": "Uncategorized",
        "clock": true, "ticks": true, "input": "UnexpectedEof",
    });
    assert_eq!(open.reply("prying", json!(null)).await, expected);
}

async fn a_reload_changes_new_calls_alone() {
    let old = Plugin::of("caller").named("worker").grants("gateway = [\"*\"]");
    let open = Project::new().plugin(&old).open().await;
    let message = json!({ "call": "waitforReply", "message": { "message": "when?" } });
    let under_way = open.begin("worker", message).await;
    open.questions(1).await;
    let before = open.hub.plugins.get("worker").unwrap().digest.clone();
    Plugin::of("echo").named("worker").write(open.root());
    let loaded = open.hub.plugins.reload("worker").unwrap();
    assert_ne!(loaded.digest, before);
    assert_eq!(
        open.reply("worker", json!({ "text": "new", "times": 1 })).await["text"],
        "new"
    );
    open.answer("now").await;
    assert_eq!(
        under_way.await.unwrap().result.unwrap().as_str(),
        r#"{"reply":{"message":"now"}}"#
    );
}

async fn a_plugin_is_one_file_with_its_manifest_inside() {
    let plugin = Plugin::of("echo");
    let project = Project::new().plugin(&plugin);
    let file = plugin.write(project.root());
    let bytes = section::write("echo.wasm", &fs::read(&file).unwrap(), &plugin.manifest()).unwrap();
    fs::write(&file, bytes).unwrap();
    // What is inside counts, whatever lies beside it.
    fs::write(file.with_extension("toml"), "nonsense").unwrap();
    let open = project.open().await;
    echoes(&open).await;
    fs::remove_file(file.with_extension("toml")).unwrap();
    open.hub.plugins.reload("echo").unwrap();
    echoes(&open).await;

    let bytes = section::write("echo.wasm", &fs::read(&file).unwrap(), "id = \"echo\"\nversion = 1").unwrap();
    fs::write(&file, bytes).unwrap();
    let error = open.hub.plugins.reload("echo").err().unwrap();
    assert_eq!(
        open.normal(&error.chain()),
        "the manifest inside <project>/plugins/echo.wasm, line 2: invalid type: integer `1`, expected a string"
    );
    echoes(&open).await;
}

async fn a_broken_file_keeps_what_was_loaded() {
    let open = Project::new().plugin(&Plugin::of("echo")).open().await;
    let reload = |id: &str| match open.hub.plugins.reload(id) {
        Ok(_) => panic!("{id} was reloaded"),
        Err(error) => open.normal(&format!("{}: {}", error.kind, error.chain())),
    };
    Plugin::made_of("echo", b"nonsense".to_vec()).write(open.root());
    assert_eq!(
        reload("echo"),
        "invalid: plugin `echo` is not WebAssembly; give the `.wasm` file that the build made"
    );
    echoes(&open).await;
    fs::write(
        open.root().join("plugins/echo.toml"),
        Plugin::of("echo").named("ohce").manifest(),
    )
    .unwrap();
    assert_eq!(
        reload("echo"),
        "invalid: <project>/plugins/echo.wasm is now plugin `ohce`, not `echo`; restart the hub to load it under its new id"
    );
    fs::remove_file(open.root().join("plugins/echo.toml")).unwrap();
    assert_eq!(
        reload("echo"),
        "not-found: <project>/plugins/echo.wasm has no manifest, neither inside nor beside it as echo.toml; `waypost plugin build` \
         puts it inside"
    );
    echoes(&open).await;
    assert_eq!(
        reload("loop"),
        "invalid: plugin `loop` is part of this binary; a new one comes with a new binary"
    );
    assert_eq!(
        reload("nobody"),
        "not-found: plugin `nobody` is not loaded; loaded are: echo, loop, replay, sandbox"
    );
}

async fn an_id_is_not_taken_over() {
    let echo = guests::bytes("echo");
    assert_eq!(
        refused(&Plugin::made_of("replay", echo)).await,
        "denied: the id `replay` belongs to a plugin of this binary; give the other plugin an id of its own in its manifest"
    );
}

async fn compiled_code_is_kept_and_not_trusted_blindly() {
    let open = Project::new().own_cache().plugin(&Plugin::of("echo")).open().await;
    let entries = |open: &Open| -> Vec<(PathBuf, u64)> {
        let folder = fs::read_dir(open.root().join(".waypost/cache")).unwrap();
        let mut entries: Vec<(PathBuf, u64)> = folder
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "cwasm"))
            .map(|path| (path.clone(), path.metadata().unwrap().ino()))
            .collect();
        entries.sort();
        entries
    };
    let kept = entries(&open);
    assert_eq!(kept.len(), 4, "echo and the bundled plugins");
    let open = open.reopen().await;
    assert_eq!(entries(&open), kept, "what is kept is used");
    let project = open.close().await;
    let mut flipped = Vec::new();
    for (path, _) in &kept {
        let mut code = fs::read(path).unwrap();
        flipped.push(code.clone());
        let middle = code.len() / 2;
        code[middle] ^= 1;
        fs::write(path, code).unwrap();
    }
    let open = project.open().await;
    echoes(&open).await;
    let again = entries(&open);
    assert!(
        kept.iter()
            .zip(&again)
            .all(|(old, new)| old.0 == new.0 && old.1 != new.1),
        "each is compiled again"
    );
    for ((path, _), code) in again.iter().zip(flipped) {
        assert_eq!(fs::read(path).unwrap().len(), code.len());
    }
}

async fn a_claim_or_a_subscription_without_its_grant_is_refused_at_load() {
    let claim = |pattern: &str| {
        format!(
            "denied: plugin `echo` claims `{pattern}` without the grant; if it may, add `claim = [\"say:*\", \"tell\"]` to \
             `grant` of its [[plugin]] entry in waypost.toml"
        )
    };
    let echo = || Plugin::of("echo").serves(&["*"]).claims(&["say:*", "tell"]);
    for (granted, pattern) in [
        ("", "say:*"),
        ("claim = [\"say\"]", "tell"),
        ("claim = [\"shout\", \"tell\"]", "say:*"),
    ] {
        assert_eq!(refused(&echo().granted(granted)).await, claim(pattern), "{granted}");
    }
    assert_eq!(
        refused(&Plugin::of("watcher").role("observer").subscribes()).await,
        "denied: plugin `watcher` subscribes without the grant; if it may, add `subscribe = true` to `grant` of its \
         [[plugin]] entry in waypost.toml"
    );
    let granted = "claim = [\"say:hello\", \"*\", \"tell\"]";
    let open = Project::new().plugin(&echo().granted(granted)).open().await;
    let shown = open.hub.plugins.get("echo").unwrap().shown();
    assert_eq!(shown.claims, ["say:*", "tell", "say:hello"]);
}

async fn an_observer_hears_of_calls() {
    let watcher = Plugin::of("watcher").role("observer");
    let open = Project::new()
        .plugin(&Plugin::of("echo"))
        .plugin(&watcher.clone().subscribes().granted("subscribe = true"))
        .plugin(&Plugin::of("witness").role("observer").grants("gateway = [\"*\"]"))
        .open()
        .await;
    let shown = open.hub.plugins.get("watcher").unwrap().shown();
    assert_eq!(
        (shown.role, shown.serves.len(), shown.subscribes),
        (Role::Observer, 0, true)
    );
    let stats = open.hub.gateway.stats();
    assert_eq!(
        (stats.attached, stats.subscriptions),
        (1, 1),
        "the other did not ask to hear"
    );
    echoes(&open).await;
    // What a plugin says is no event: there is nothing else to wait for.
    while open.hub.plugin_log.lines("watcher").is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(open.hub.plugin_log.lines("watcher")[0].text, "echo");
}

fn witness(id: &str) -> Plugin {
    Plugin::of("witness")
        .named(id)
        .role("observer")
        .subscribes()
        .grants("gateway = [\"waitforReply\", \"sendMessage\"]")
        .granted("gateway = [\"*\"], subscribe = true")
}

async fn an_observer_that_fails_is_noted_once_for_each_burst() {
    let open = Project::new().plugin(&witness("witness")).open().await;
    let words = ["why me", "trap", "ok", "trap", "ok"];
    for _ in 0..=words.len() {
        open.reply("sendMessage", json!({ "message": "hello" })).await;
    }
    for word in words {
        open.answer(word).await;
    }
    open.questions(1).await;
    let lines: Vec<String> = open
        .hub
        .plugin_log
        .lines("witness")
        .into_iter()
        .map(|line| line.text)
        .collect();
    let trap = "trapped: plugin `witness` trapped: wasm `unreachable` instruction executed; `waypost plugin logs witness` \
                shows what it said";
    let noted = |error: &str| format!("a notice failed: {error}; further ones are not logged until one succeeds");
    assert_eq!(
        lines,
        [
            noted("other: why me"),
            "2 notices in a row failed; now one succeeded".to_owned(),
            noted(trap)
        ]
    );
}

async fn an_observer_is_stopped_with_the_hub() {
    let open = Project::new().plugin(&witness("witness")).open().await;
    for _ in 0..2 {
        open.reply("sendMessage", json!({ "message": "hello" })).await;
    }
    open.questions(1).await;
    open.hub.close().await;
    open.questions(0).await;
    let stats = open.hub.gateway.stats();
    assert_eq!((stats.attached, stats.subscriptions), (0, 0));
    assert!(
        open.hub.plugin_log.lines("witness").is_empty(),
        "that is no failure of its"
    );
}

async fn observers_that_make_calls_do_not_keep_each_other_busy() {
    let open = Project::new().plugin(&witness("a")).plugin(&witness("b")).open().await;
    open.reply("sendMessage", json!({ "message": "hello" })).await;
    let mut asked = Vec::new();
    // Each hears of the message, and of the question of the other about it; nobody hears of the questions about those.
    for _ in 0..4 {
        let question = open.some_question().await;
        open.hub.desk.answer(question.id, Answer::plain("ok")).unwrap();
        let heard: Value = serde_json::from_str(&question.text).unwrap();
        asked.push(heard["name"].as_str().unwrap().to_owned());
    }
    asked.sort();
    assert_eq!(asked, ["sendMessage", "sendMessage", "waitforReply", "waitforReply"]);
    let last = json!({ "message": "and now" });
    open.reply("sendMessage", last.clone()).await;
    let question = open.some_question().await;
    let heard: Value = serde_json::from_str(&question.text).unwrap();
    assert_eq!(heard["message"], last);
}
