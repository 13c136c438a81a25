//! Shadows: what they get, what is said of them, and that nobody else notices.

use std::sync::Arc;

use serde_json::{Value, json};
use waypost::call::{Dispatch, Principal, Sink};
use waypost::dispatch::shadow::{Came, Shown};

use crate::harness::process::{Serving, run};
use crate::harness::server::Server;
use crate::harness::{Open, Plugin, Project};
use crate::listed;

listed![
    answers_are_compared_and_the_caller_gets_its_own,
    what_may_have_an_effect_is_never_copied,
    a_shadow_changes_nothing,
    nothing_of_it_is_in_the_story_of_a_run,
    a_slow_shadow_delays_nobody,
    what_a_shadow_does_wrong_is_not_held_against_it_elsewhere,
    it_is_shown_and_explained,
];

/// A project in which `real` answers reads of `ticket` with their message, and this guest is its shadow, as `next`.
fn project(guest: &Plugin) -> Project {
    Project::new()
        .plugin(&Plugin::of("noop").named("real").serves(&["ticket"]).unrouted())
        .plugin(&guest.clone().named("next").serves(&["ticket", "direct"]).unrouted())
        .toml("[[route]]\nmatch = \"ticket\"\nto = \"plugin:real\"\neffect = \"read\"\nshadow = \"plugin:next\"")
}

fn shadow(open: &Open) -> Shown {
    open.hub.dispatcher.shadow("next").unwrap()
}

/// What is known of the shadow when it has ended all its copies, of which there are so many.
async fn mirrored(open: &Open, count: u64) -> Shown {
    loop {
        let shown = shadow(open);
        if shown.mirrored + shown.dropped >= count && shown.waiting == 0 {
            return shown;
        }
        tokio::task::yield_now().await;
    }
}

/// The parts of the last difference: where, what the caller got, and what the shadow said.
fn places(shown: &Shown) -> Vec<(&str, Option<&str>, Option<&str>)> {
    let places = shown.differences[0].places.iter();
    places
        .map(|place| (&*place.path, place.caller.as_deref(), place.shadow.as_deref()))
        .collect()
}

async fn answers_are_compared_and_the_caller_gets_its_own() {
    let open = project(&Plugin::of("echo")).open().await;
    let message = json!({ "text": "ab", "times": 2 });
    assert_eq!(open.reply("ticket", message.clone()).await, message);
    let shown = mirrored(&open, 1).await;
    assert_eq!((shown.different, shown.failed, shown.same), (1, 0, 0));
    let found = places(&shown);
    assert!(
        found.contains(&("reply/text", Some("\"ab\""), Some("\"abab\""))),
        "{found:?}"
    );
    assert!(found.contains(&("reply/times", Some("2"), None)), "{found:?}");
    assert!(shown.caller.p50_us > 0 && shown.shadow.p50_us > 0);
    let told = open.event(|event| &*event.kind == "shadow.differed").await;
    let told: Value = told.body.to().unwrap();
    assert_eq!(
        (&told["plugin"], &told["rule"], &told["came"], &told["differences"]),
        (
            &json!("next"),
            &json!(&*shown.differences[0].rule),
            &json!("different"),
            &json!(1)
        )
    );
    // Values are no part of the log.
    assert!(!told.to_string().contains("abab"), "{told}");
    // Where the caller got an answer, an error is a failure.
    open.reply("ticket", json!({ "text": "ab" })).await;
    let shown = mirrored(&open, 2).await;
    assert_eq!((shown.failed, shown.differences[0].came), (1, Came::Failed));
    // Another version begins anew, and answers the same.
    Plugin::of("noop").named("next").serves(&["ticket"]).write(open.root());
    open.hub.plugins.reload("next").unwrap();
    open.reply("ticket", message).await;
    let shown = mirrored(&open, 1).await;
    assert_eq!((shown.mirrored, shown.same, shown.differences.len()), (1, 1, 0));
}

async fn what_may_have_an_effect_is_never_copied() {
    let rules = "[[route]]\nmatch = [\"fsEvent\", \"other\", \"inference\", \"executeCommand\"]\nto = \"plugin:real\"\n\
                 shadow = \"plugin:next\"";
    let every = &["fsEvent", "other", "inference", "executeCommand"];
    let open = Project::new()
        .plugin(&Plugin::of("noop").named("real").serves(every).unrouted())
        .plugin(&Plugin::of("talker").named("next").serves(every).unrouted())
        .toml(rules)
        .open()
        .await;
    for call in [
        "fsEvent:writeToFile",
        "fsEvent:deleteFile",
        "fsEvent:unheardOf",
        "other",
        "other:read",
        "inference",
        "executeCommand",
    ] {
        open.reply(call, json!("lines")).await;
        let shown = shadow(&open);
        assert_eq!((shown.mirrored, shown.waiting, shown.dropped), (0, 0, 0), "{call}");
    }
    assert!(open.hub.plugin_log.lines("next").is_empty());
    // The same rule does copy a read.
    open.reply("fsEvent:readFile", json!("lines")).await;
    assert_eq!(mirrored(&open, 1).await.mirrored, 1);
    assert!(!open.hub.plugin_log.lines("next").is_empty());
}

const REFUSED: &str = "denied: a shadow changes nothing: it may not";

async fn a_shadow_changes_nothing() {
    let server = Server::start().await;
    let nested = json!([{ "set": ["k", 1] }, { "get": "k" }]);
    // What it calls.
    let open = project(&Plugin::of("caller").grants("gateway = [\"*\"]"))
        .toml("[[route]]\nmatch = \"keeper\"\nto = \"plugin:keeper\"\neffect = \"read\"")
        .toml("[[route]]\nmatch = \"fsEvent:listFiles\"\nto = \"proxy-only\"\neffect = \"read\"")
        .plugin(&Plugin::of("keeper").grants("state = true").unrouted())
        .file("a.txt", "hello\n")
        .open()
        .await;
    let mut count = 0;
    for (call, message, refused) in [
        (
            "fsEvent:writeToFile",
            json!({ "path": "b.txt", "content": "x" }),
            Some("call"),
        ),
        ("executeCommand", json!({ "command": "touch b.txt" }), Some("call")),
        ("waitforReply", json!({ "message": "?" }), Some("call")),
        ("inference", json!({ "prompt": "x" }), Some("call")),
        ("fsEvent:listFiles", json!({ "path": "." }), Some("call")),
        ("fsEvent:readFile", json!({ "path": "a.txt" }), None),
        ("keeper", nested.clone(), None),
    ] {
        open.reply("ticket", json!({ "call": call, "message": message })).await;
        count += 1;
        let shown = mirrored(&open, count).await;
        let found = places(&shown);
        let said = |path: &str| {
            let place = found.iter().find(|(found, ..)| *found == path);
            place.and_then(|(_, _, said)| *said).unwrap_or_default().to_owned()
        };
        match refused {
            Some(what) => {
                let expected = format!("\"{REFUSED} {what} {call}");
                assert!(
                    said("reply/error").starts_with(&expected[..expected.len().min(79)]),
                    "{call}: {found:?}"
                );
            }
            None => assert!(!said("reply/reply").is_empty(), "{call}: {found:?}"),
        }
    }
    assert!(!open.root().join("b.txt").exists());
    assert!(open.hub.desk.open().is_empty());
    // What it made a plugin keep is not what that plugin has otherwise.
    assert_eq!(open.reply("keeper", json!([{ "keys": "" }])).await, json!([[]]));
    open.close().await;

    // What it does itself.
    let folder = tempfile::tempdir().unwrap();
    let granted = format!("files = [{{ name = \"f\", path = {:?}, write = true }}]", folder.path());
    let filer = Plugin::of("filer")
        .asks("files = [{ name = \"f\", write = true }]")
        .granted(&granted);
    let open = project(&filer).open().await;
    open.reply(
        "ticket",
        json!([{ "write": ["f", "a", "x"] }, { "remove": ["f", "a"] }, { "stat": ["f", "a"] }]),
    )
    .await;
    let shown = mirrored(&open, 1).await;
    let found: Vec<&str> = places(&shown).iter().filter_map(|(.., said)| *said).collect();
    assert!(
        found.iter().filter(|said| said.contains(REFUSED)).count() >= 2,
        "{found:?}"
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    open.close().await;

    let cat = std::path::Path::new("/bin/cat");
    let sha256 = waypost::imports::process::digest(cat).unwrap();
    let runner = Plugin::of("runner")
        .asks("process = [{ name = \"cat\" }]")
        .granted(&format!(
            "process = [{{ name = \"cat\", path = {cat:?}, sha256 = {sha256:?} }}]"
        ));
    let dialer = Plugin::of("dialer")
        .asks("socket = [{ name = \"s\" }]")
        .granted("socket = [{ name = \"s\", path = \"/run/s\" }]");
    for (plugin, message, what) in [
        (runner, json!({ "program": "cat" }), "run programs"),
        (dialer, json!({ "socket": "s" }), "talk to a socket"),
    ] {
        let open = project(&plugin).open().await;
        open.reply("ticket", message).await;
        let shown = mirrored(&open, 1).await;
        let expected = format!("{REFUSED} {what}");
        assert!(
            places(&shown)
                .iter()
                .any(|(.., said)| said.is_some_and(|said| said.contains(&expected))),
            "{what}: {:?}",
            places(&shown)
        );
        open.close().await;
    }

    let granted = format!("http = [\"{}\"]", server.url);
    let open = project(&Plugin::of("asker").grants(&granted)).open().await;
    for (number, (method, asked)) in (1..).zip([("POST", 0), ("DELETE", 0), ("GET", 1)]) {
        let url = format!("{}/echo", server.url);
        open.reply("ticket", json!({ "method": method, "url": url })).await;
        mirrored(&open, number).await;
        assert_eq!(server.asked().len(), asked, "{method}: {:?}", shadow(&open).differences);
    }
    open.close().await;

    let open = project(&Plugin::of("keeper").grants("state = true"))
        .toml("[[route]]\nmatch = \"direct\"\nto = \"plugin:next\"")
        .open()
        .await;
    open.reply("ticket", nested).await;
    assert_eq!(mirrored(&open, 1).await.mirrored, 1);
    assert_eq!(open.reply("direct", json!([{ "get": "k" }])).await, json!([null]));
}

async fn nothing_of_it_is_in_the_story_of_a_run() {
    let open = project(&Plugin::of("caller").grants("gateway = [\"*\"]"))
        .file("a.txt", "hello\n")
        .open()
        .await;
    let message = json!({ "call": "fsEvent:readFile", "message": { "path": "a.txt" } });
    let mut call = open.prepared("ticket", message.clone()).await;
    call.principal = Arc::new(Principal {
        run: Some("run-1".into()),
        ..Principal::clone(&call.principal)
    });
    let reply = open.hub.dispatcher.dispatch(call, Sink::discard()).await;
    assert_eq!(reply.result.unwrap().to::<Value>().unwrap(), message);
    mirrored(&open, 1).await;
    let of_shadow = open.event(|event| event.body.as_str().contains("for a shadow")).await;
    assert_eq!(&*of_shadow.run, "hub");
    let story = open.hub.log.read("run-1", 0, 10).await.unwrap();
    let kinds: Vec<&str> = story.iter().map(|event| &*event.kind).collect();
    assert_eq!(kinds, ["call.ended"]);
    assert!(!story[0].body.as_str().contains("next"), "{:?}", story[0]);
}

async fn a_slow_shadow_delays_nobody() {
    let open = project(&Plugin::of("sleeper"))
        .toml("[limits]\nshadows = 1\nshadow-queue = 1")
        .open()
        .await;
    // One is worked on, one waits, and there is no room for more.
    loop {
        assert_eq!(open.reply("ticket", json!(null)).await, Value::Null);
        let shown = shadow(&open);
        if shown.waiting == 2 && shown.dropped > 0 {
            break;
        }
    }
    assert_eq!(shadow(&open).mirrored, 0);
    open.close().await;

    let open = project(&Plugin::of("sleeper"))
        .toml("[limits]\nshadow-timeout = \"20ms\"")
        .open()
        .await;
    open.reply("ticket", json!(null)).await;
    let shown = mirrored(&open, 1).await;
    let said = places(&shown)[0].2.unwrap().to_owned();
    assert_eq!(
        said,
        "timeout: ticket did not end within its time limit and was stopped"
    );
    open.close().await;

    let open = project(&Plugin::of("noop"))
        .toml("[limits]\nshadow-bytes = 8")
        .open()
        .await;
    open.reply("ticket", json!("more than there is room for")).await;
    assert_eq!(mirrored(&open, 1).await.dropped, 1);
}

async fn what_a_shadow_does_wrong_is_not_held_against_it_elsewhere() {
    let open = project(&Plugin::of("faulty"))
        .toml("[[route]]\nmatch = \"direct\"\nto = \"plugin:next\"")
        .toml("[limits.plugin]\ntraps = 1\nquarantine = \"1h\"")
        .open()
        .await;
    for count in 1..=2 {
        open.reply("ticket", json!("unreachable")).await;
        let shown = mirrored(&open, count).await;
        assert_eq!(shown.failed, count);
    }
    assert!(
        places(&shadow(&open))[0]
            .2
            .unwrap()
            .starts_with("unavailable: plugin `next` trapped 1 times")
    );
    assert_eq!(
        open.error("direct", json!("error")).await,
        "not-found: there is no such thing; name another"
    );
}

async fn it_is_shown_and_explained() {
    let project = project(&Plugin::of("echo")).written();
    let hub = Serving::start(project.root(), &[]).await;
    let call = json!({ "call": "ticket", "message": { "text": "ab", "times": 2 } });
    assert_eq!(hub.ask("POST", "/calls", &call).await.0, 200);
    let shown = loop {
        let shown = run(project.root(), &["plugin", "shadow", "next", "--json"])
            .await
            .json();
        if shown["mirrored"] == 1 {
            break shown;
        }
    };
    assert_eq!((&shown["different"], &shown["version"]), (&json!(1), &json!("1")));
    let text = run(project.root(), &["plugin", "shadow", "next"]).await.out;
    let rule = shown["rules"][0].as_str().unwrap();
    assert!(
        text.starts_with(&format!("next 1, the shadow of {rule}\nMIRRORED")),
        "{text}"
    );
    assert!(text.contains(&format!(
        " different ticket {}",
        shown["differences"][0]["id"].as_str().unwrap()
    )));
    assert!(text.contains("  reply/text: \"ab\" | \"abab\"\n"), "{text}");
    let explained = run(project.root(), &["route", "explain", "ticket"]).await.out;
    assert!(
        explained.contains("  shadow plugin:next: it gets a copy, and nobody sees its answer\n"),
        "{explained}"
    );
    assert_eq!(
        run(project.root(), &["plugin", "shadow", "real"])
            .await
            .shown(project.root()),
        "[1]\n--\nerror: plugin `real` is nobody's shadow; a rule of waypost.toml says shadow = \"plugin:real\"\n"
    );
    hub.stop().await;
}
