//! How often plugins may ask: over the rate a request is refused with the limit's name, a flood is said once, and counted.
//! Counted is in the hub, for both walls.

use serde_json::{Value, json};
use waypost::config::Limits;
use waypost::log::Event;
use waypost::plugin::health::Stats;

use crate::harness::process::shown;
use crate::harness::{Open, Plugin, Project};

crate::listed![
    the_rates_are_what_the_reference_says,
    over_the_rate_a_request_is_refused_and_a_flood_is_said_once,
    all_plugins_together_have_a_rate_too,
    what_goes_on_with_something_waits,
    what_lets_go_is_never_refused,
];

/// More requests than any machine has time for at a few in a second.
const MANY: usize = 1000;

async fn the_rates_are_what_the_reference_says() {
    let limits = Limits::default();
    assert_eq!((limits.plugin.import_rate, limits.import_rate), (20_000, 100_000));
}

fn keeper(wall: &'static str) -> Plugin {
    Plugin::of("keeper").grants("state = true").wall(wall)
}

/// Asks for many values at once: how many were answered, and how the others were refused.
async fn ask(open: &Open) -> (usize, Vec<String>) {
    let steps: Vec<Value> = (0..MANY).map(|_| json!({ "get": "a" })).collect();
    let replies = open.reply("keeper", json!(steps)).await;
    let replies = replies.as_array().unwrap();
    let refused: Vec<String> = replies
        .iter()
        .filter_map(|reply| Some(reply.get("error")?.as_str()?.to_owned()))
        .collect();
    (replies.len() - refused.len(), refused)
}

async fn floods(open: &Open) -> Vec<Value> {
    let events = open.events().await.into_iter();
    let floods = events.filter(|event| &*event.kind == "plugin.flooding");
    floods.map(|event| event.body.to().unwrap()).collect()
}

async fn over_the_rate_a_request_is_refused_and_a_flood_is_said_once() {
    for wall in ["in-process", "worker"] {
        let project = Project::new().plugin(&keeper(wall));
        let open = project.toml("[limits.plugin]\nimport-rate = 5").open().await;
        let (answered, refused) = ask(&open).await;
        assert!(answered >= 5, "a second's worth may come at once");
        let text = "limit: plugin `keeper` asks `waypost:state` more than 5 times a second, the limit `import-rate` of \
                    [limits.plugin]: this request to `waypost:state` was not answered; ask less often, or raise it";
        assert!(
            !refused.is_empty() && refused.iter().all(|error| error == text),
            "{refused:?}"
        );
        let (_, more) = ask(&open).await;
        open.event(|event| &*event.kind == "plugin.flooding").await;
        let said = json!({
            "plugin": "keeper", "import": "waypost:state", "perSecond": 5, "limit": "import-rate of [limits.plugin]",
        });
        assert_eq!(floods(&open).await, [said], "once, behind {wall}");
        let counted = Stats::counted(&open.hub.plugins.get("keeper").unwrap());
        assert_eq!(counted.over_rate as usize, refused.len() + more.len());
        assert_eq!((counted.calls, counted.answered), (2, 2), "the calls themselves go on");
        let project = open.close().await;
        let table = shown(project.root(), &["plugin", "stats"]).await;
        assert!(table.contains("  OVER RATE  "), "{table}");
        let json = shown(project.root(), &["plugin", "stats", "--json"]).await;
        assert!(json.contains("\"over_rate\": 0"), "{json}");
    }
}

async fn all_plugins_together_have_a_rate_too() {
    let project = Project::new().plugin(&keeper("in-process"));
    let open = project.toml("[limits]\nimport-rate = 5").open().await;
    let (answered, refused) = ask(&open).await;
    assert!(answered >= 5);
    let text = "limit: all plugins together ask their imports more than 5 times a second, the limit `import-rate` of [limits]: this \
                request to `waypost:state` was not answered; ask less often, or raise it";
    assert!(
        !refused.is_empty() && refused.iter().all(|error| error == text),
        "{refused:?}"
    );
    open.event(|event| &*event.kind == "plugin.flooding").await;
    assert_eq!(floods(&open).await[0]["limit"], "import-rate of [limits]");
}

async fn what_goes_on_with_something_waits() {
    for wall in ["in-process", "worker"] {
        let reader = Plugin::of("reader").grants("gateway = [\"chunks\"]").wall(wall);
        let project = Project::new().plugin(&reader).plugin(&Plugin::of("chunks"));
        let open = project.toml("[limits.plugin]\nimport-rate = 1").open().await;
        // To start the call is one request, and each chunk and the end of it is another; it hands out two.
        let read = json!({ "call": "chunks", "message": { "count": 2 }, "chunks": 2, "finish": true });
        let reply = open.reply("reader", read).await;
        assert_eq!(
            reply,
            json!({ "chunks": [{ "number": 0 }, { "number": 1 }], "end": { "count": 2 } })
        );
        for id in ["reader", "chunks"] {
            let by_it = |event: &Event| {
                &*event.kind == "plugin.flooding" && event.body.to::<Value>().is_ok_and(|body| body["plugin"] == id)
            };
            open.event(by_it).await;
            let counted = Stats::counted(&open.hub.plugins.get(id).unwrap());
            assert_eq!(counted.over_rate, 0, "{id} was late, and not refused");
        }
    }
}

async fn what_lets_go_is_never_refused() {
    let hoarder = Plugin::of("hoarder").grants("gateway = [\"*\"]");
    let open = Project::new()
        .plugin(&hoarder)
        .toml("[limits.plugin]\nimport-rate = 20\nhandles = 30")
        .open()
        .await;
    // Twenty calls are started at once, and let go again at the end, which would be twenty more.
    assert_eq!(open.reply("hoarder", json!(20)).await, json!(20));
    let counted = Stats::counted(&open.hub.plugins.get("hoarder").unwrap());
    assert_eq!(counted.over_rate, 0);
    assert!(floods(&open).await.is_empty());
}
