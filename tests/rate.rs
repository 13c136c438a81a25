//! How often plugins may ask: over the rate a request waits, or is refused with the limit's name; a flood is said once, and counted.
//! Counted is in the hub, for both walls.

use serde_json::{Value, json};
use waypost::config::Limits;
use waypost::plugin::health::Stats;

use crate::harness::process::shown;
use crate::harness::{Open, Plugin, Project};

crate::listed![
    the_rates_are_what_the_reference_says,
    over_the_rate_requests_wait_and_a_flood_is_said_once,
    what_would_wait_past_the_end_of_its_call_is_refused,
    what_lets_go_is_never_refused,
];

/// More requests than may come at once.
const MANY: usize = 40;

async fn the_rates_are_what_the_reference_says() {
    let limits = Limits::default();
    assert_eq!((limits.plugin.import_rate, limits.import_rate), (5_000, 100_000));
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

fn over_rate(open: &Open) -> u64 {
    Stats::counted(&open.hub.plugins.get("keeper").unwrap()).over_rate
}

async fn over_the_rate_requests_wait_and_a_flood_is_said_once() {
    for wall in ["in-process", "worker"] {
        let project = Project::new().plugin(&keeper(wall));
        let open = project.toml("[limits.plugin]\nimport-rate = 100").open().await;
        assert_eq!(ask(&open).await, (MANY, Vec::new()), "all of them are answered");
        let over = over_rate(&open);
        assert!((1..=MANY as u64 - 5).contains(&over), "five may come at once: {over}");
        ask(&open).await;
        open.event(|event| &*event.kind == "plugin.flooding").await;
        let said = json!({
            "plugin": "keeper", "import": "waypost:state", "perSecond": 100, "limit": "import-rate of [limits.plugin]",
        });
        assert_eq!(floods(&open).await, [said], "once, behind {wall}");
        let project = open.close().await;
        let table = shown(project.root(), &["plugin", "stats"]).await;
        assert!(table.contains("  OVER RATE  "), "{table}");
        let json = shown(project.root(), &["plugin", "stats", "--json"]).await;
        assert!(json.contains("\"over_rate\": 0"), "{json}");
    }
}

async fn what_would_wait_past_the_end_of_its_call_is_refused() {
    let rows = [
        ("[limits.plugin]", "plugin `keeper` asks `waypost:state`"),
        ("[limits]", "all plugins together ask their imports"),
    ];
    for (wall, (section, who)) in ["in-process", "worker"]
        .into_iter()
        .flat_map(|wall| rows.map(|row| (wall, row)))
    {
        // The next turn comes in a second, which is later than the end.
        let project = Project::new().plugin(&keeper(wall).limits("timeout = \"900ms\""));
        let open = project.toml(&format!("{section}\nimport-rate = 1")).open().await;
        let (answered, refused) = ask(&open).await;
        let text = format!(
            "limit: {who} more than 1 times a second, the limit `import-rate` of {section}: this request to `waypost:state` would \
             have waited past the end of its call; ask less often, or raise it"
        );
        assert_eq!(answered, 1);
        assert!(refused.iter().all(|error| *error == text), "{refused:?}");
        assert_eq!(over_rate(&open), refused.len() as u64);
        open.event(|event| &*event.kind == "plugin.flooding").await;
        assert_eq!(floods(&open).await[0]["limit"], format!("import-rate of {section}"));
    }
}

async fn what_lets_go_is_never_refused() {
    let hoarder = Plugin::of("hoarder").grants("gateway = [\"*\"]");
    let open = Project::new()
        .plugin(&hoarder)
        .toml("[limits.plugin]\nimport-rate = 400\nhandles = 30")
        .open()
        .await;
    // Twenty calls are started at once, and let go again at the end, which would be twenty more.
    assert_eq!(open.reply("hoarder", json!(20)).await, json!(20));
    let counted = Stats::counted(&open.hub.plugins.get("hoarder").unwrap());
    assert_eq!(counted.over_rate, 0);
    assert!(floods(&open).await.is_empty());
}
