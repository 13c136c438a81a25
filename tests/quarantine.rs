//! A plugin that keeps trapping is left alone for a while, and says so; the others do not notice.

use serde_json::{Value, json};
use waypost::plugin::health::Stats;

use crate::harness::process::shown;
use crate::harness::{Open, Plugin, Project};
use crate::listed;

listed![
    a_plugin_that_keeps_trapping_is_left_alone,
    a_call_tries_it_again_and_shows_that_it_is_well,
    a_fallback_is_asked_in_the_meantime,
    what_calls_came_to_is_counted,
];

const TRAPPED: &str = "trapped: plugin `faulty` trapped: wasm `unreachable` instruction executed; `waypost plugin logs faulty` \
                       shows what it said";

fn project(limits: &str) -> Project {
    Project::new()
        .plugin(&Plugin::of("faulty"))
        .plugin(&Plugin::of("echo"))
        .toml(&format!("[limits.plugin]\n{limits}"))
}

async fn traps(open: &Open, times: usize) {
    for _ in 0..times {
        assert_eq!(open.error("faulty", json!("unreachable")).await, TRAPPED);
    }
}

async fn body(open: &Open, kind: &str) -> Value {
    let event = open.event(|event| &*event.kind == kind).await;
    event.body.to().unwrap()
}

async fn a_plugin_that_keeps_trapping_is_left_alone() {
    let open = project("traps = 3\nquarantine = \"1h\"").open().await;
    traps(&open, 2).await;
    // Any other end begins the count anew, an error too.
    assert_eq!(
        open.error("faulty", json!("error")).await,
        "not-found: there is no such thing; name another"
    );
    traps(&open, 3).await;
    let error = open.error("faulty", json!("error")).await;
    let begins = "unavailable: plugin `faulty` trapped 3 times in a row and is left alone for 59m ";
    let ends =
        " more; `waypost plugin logs faulty` shows what it said, `waypost plugin reload faulty` takes a mended one";
    assert!(error.starts_with(begins) && error.ends_with(ends), "{error}");
    let said = json!({
        "plugin": "faulty", "version": "1", "traps": 3, "forMs": 3_600_000,
        "last": TRAPPED.strip_prefix("trapped: "),
    });
    assert_eq!(body(&open, "plugin.quarantined").await, said);
    let reply = open.reply("echo", json!({ "text": "a", "times": 2 })).await;
    assert_eq!(reply["text"], "aa");
    // One that was mended is asked at once.
    open.hub.plugins.reload("faulty").unwrap();
    traps(&open, 1).await;
}

async fn a_call_tries_it_again_and_shows_that_it_is_well() {
    let open = project("traps = 1\nquarantine = \"1ms\"").open().await;
    traps(&open, 1).await;
    loop {
        match open.error("faulty", json!("error")).await {
            error if error.starts_with("unavailable: ") => tokio::task::yield_now().await,
            error => {
                assert_eq!(error, "not-found: there is no such thing; name another");
                break;
            }
        }
    }
    let said = json!({ "plugin": "faulty", "version": "1" });
    assert_eq!(body(&open, "plugin.recovered").await, said);
}

async fn a_fallback_is_asked_in_the_meantime() {
    let rule = "[[route]]\nmatch = \"faulty\"\nto = \"plugin:faulty\"\nfallback = [\"plugin:other\"]\n";
    let project = Project::new()
        .plugin(&Plugin::of("faulty").unrouted())
        .plugin(&Plugin::of("noop").named("other").serves(&["faulty"]).unrouted())
        .toml(rule)
        .toml("[limits.plugin]\ntraps = 1\nquarantine = \"1h\"");
    let open = project.open().await;
    traps(&open, 1).await;
    open.reply("faulty", json!("unreachable")).await;
}

async fn what_calls_came_to_is_counted() {
    let open = project("traps = 2\nquarantine = \"1h\"").open().await;
    open.reply("echo", json!({ "text": "a", "times": 2 })).await;
    open.error("faulty", json!("error")).await;
    traps(&open, 2).await;
    let of = |id: &str| Stats::counted(&open.hub.plugins.get(id).unwrap());
    let (echo, faulty) = (of("echo"), of("faulty"));
    assert_eq!((echo.calls, echo.answered, echo.quarantined_ms), (1, 1, None));
    assert!(echo.p50_us > 0 && echo.p50_us == echo.p99_us, "{echo:?}");
    assert_eq!((faulty.calls, faulty.failed, faulty.trapped), (3, 1, 2));
    assert!(faulty.quarantined_ms > Some(3_500_000), "{faulty:?}");
    let project = open.close().await;
    let table = shown(project.root(), &["plugin", "stats"]).await;
    let row = table.lines().find(|line| line.starts_with("echo ")).unwrap();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(
        cells,
        ["echo", "0", "0", "0", "0", "0", "0", "0", "0s", "0s", "-"],
        "{table}"
    );
}
