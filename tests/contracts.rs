//! Contracts of before and of later: what was built against an older version is loaded and works, what needs a newer one is
//! refused by name.
//!
//! `contracts/<version>` has the text of a version and a component for each role that was built against it, made once by
//! `contracts/freeze` from the guests `everything`, `dreamer` and `witness` and the bundled provider `sandbox` of that day.

use std::fs;
use std::path::PathBuf;

use semver::Version;
use serde_json::{Value, json};
use waypost::call::Json;
use waypost::environment::NewEnvironment;
use waypost::plugin::contract::{self, VERSION};
use waypost::run::{NewRun, State};

use crate::harness::component::Text;
use crate::harness::endpoint::{Endpoint, say};
use crate::harness::server::Server;
use crate::harness::{Plugin, Project, guests};

crate::listed![
    the_contract_of_today_is_frozen,
    frozen_handlers_do_all_that_they_may_import,
    frozen_providers_make_and_remove_places,
    frozen_agents_work_through_their_runs,
    frozen_observers_hear_of_calls,
    a_component_of_a_later_contract_works_where_it_needs_nothing_new,
    what_needs_a_later_contract_is_refused_by_name,
    versions_fit_as_the_engine_links_them,
];

const ROLES: [&str; 4] = ["handler", "provider", "agent", "observer"];

/// The frozen contracts, oldest first: version and folder.
fn frozen() -> Vec<(Version, PathBuf)> {
    let entries = fs::read_dir(guests::root().join("tests/contracts")).unwrap();
    let mut all: Vec<(Version, PathBuf)> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().parse().unwrap(), path))
        .collect();
    all.sort();
    all
}

/// What was built for a role against each contract that fits this one.
fn components(role: &'static str) -> Vec<(String, Plugin)> {
    let now = VERSION.parse().unwrap();
    let fitting = frozen()
        .into_iter()
        .filter(|(version, _)| contract::fits(version, &now));
    let components = fitting.map(|(version, folder)| {
        let bytes = fs::read(folder.join(role).with_extension("wasm")).unwrap();
        let plugin = Plugin::made_of("old", bytes);
        let plugin = if role == "handler" { plugin } else { plugin.role(role) };
        (version.to_string(), plugin)
    });
    components.collect()
}

async fn the_contract_of_today_is_frozen() {
    let all = frozen();
    assert!(
        all.iter().any(|(version, _)| version.to_string() == VERSION),
        "there is no tests/contracts/{VERSION}; tests/contracts/freeze makes it"
    );
    for (version, folder) in all {
        let text = fs::read_to_string(folder.join("wit/plugin.wit")).unwrap();
        assert!(
            text.contains(&format!("\npackage waypost:plugin@{version};")),
            "{version}"
        );
        for role in ROLES {
            let size = fs::metadata(folder.join(role).with_extension("wasm")).unwrap().len();
            assert!(size < 150_000, "the {role} of {version} has {size} bytes");
        }
    }
}

async fn frozen_handlers_do_all_that_they_may_import() {
    let today = ("today".to_owned(), Plugin::of("everything").named("old"));
    for wall in ["in-process", "worker"] {
        for (version, plugin) in components("handler").into_iter().chain([today.clone()]) {
            let server = Server::start().await;
            let both = format!(
                "gateway = [\"chunks\", \"fsEvent:readFile\"], state = true, http = [{:?}]",
                server.url
            );
            let plugin = plugin
                .asks(&format!("{both}, files = [{{ name = \"docs\", write = true }}]"))
                .granted(&format!(
                    "{both}, files = [{{ name = \"docs\", path = \"docs\", write = true }}]"
                ))
                .wall(wall);
            let open = Project::new()
                .plugin(&Plugin::of("chunks"))
                .plugin(&plugin)
                .file("a.txt", "hello\n")
                .file("docs/a.txt", "")
                .open()
                .await;
            let steps = json!([
                { "say": "of long ago" },
                { "emit": { "piece": 1 } },
                { "call": ["fsEvent:readFile", { "path": "a.txt" }] },
                { "call": ["fsEvent:deleteFile", { "path": "a.txt" }] },
                { "stream": ["chunks", { "count": 2 }] },
                { "keep": ["k", { "x": 1 }] },
                { "write": ["docs", "new/b.txt", "as before"] },
                { "ask": format!("{}/echo", server.url) },
            ]);
            let (chunks, reply) = open.streamed("old", steps).await;
            let told = format!("{version} {wall}: {reply}");
            assert_eq!(chunks, [json!({ "piece": 1 })], "{told}");
            assert_eq!(reply[2]["content"], "hello\n", "{told}");
            assert!(reply[3]["error"].as_str().unwrap().starts_with("denied: "), "{told}");
            assert_eq!(
                reply[4],
                json!([{ "number": 0 }, { "number": 1 }, { "count": 2 }]),
                "{told}"
            );
            assert_eq!(reply[5], json!([["k"], { "x": 1 }]), "{told}");
            assert_eq!(reply[6], "as before", "{told}");
            assert_eq!(
                (&reply[7][0], &reply[7][1]["target"]),
                (&json!(200), &json!("/echo")),
                "{told}"
            );
            assert_eq!(open.hub.plugin_log.lines("old")[0].text, "of long ago", "{told}");
            assert!(open.error("old", json!({})).await.starts_with("invalid: "), "{told}");
            open.close().await;
        }
    }
}

async fn frozen_providers_make_and_remove_places() {
    for (version, plugin) in components("provider") {
        let open = Project::new()
            .plugin(&plugin.grants("workspace = true"))
            .file("a.txt", "hello\n")
            .open()
            .await;
        let environments = &open.hub.environments;
        let wanted = |settings: Value| NewEnvironment {
            provider: Some("old".to_owned()),
            settings: Some(Json::from(settings)),
            ..NewEnvironment::default()
        };
        let made = environments.create(&open.hub.project, wanted(json!({}))).await.unwrap();
        let health = format!("{:?}", environments.inspect(&made.id).await.unwrap());
        assert_eq!((health.as_str(), &*made.provider), ("Ready", "old"), "{version}");
        assert_eq!(
            environments.ready(&made.id).await.unwrap().resource_id,
            made.resource_id
        );
        assert_eq!(environments.remove(&made.id).await.unwrap().state.as_str(), "removed");
        let refused = environments
            .create(&open.hub.project, wanted(json!({ "color": 1 })))
            .await;
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("unknown field `color`"), "{version}: {error}");
        open.close().await;
    }
}

async fn frozen_agents_work_through_their_runs() {
    for (version, plugin) in components("agent") {
        let endpoint = Endpoint::start([say("Done.")]).await;
        let open = Project::new()
            .plugin(&plugin.grants("gateway = [\"sendMessage\", \"inference\"]"))
            .toml(&endpoint.config())
            .open()
            .await;
        let new = NewRun {
            prompt: "go".to_owned(),
            agent: Some("old".to_owned()),
            ..NewRun::default()
        };
        let run = open.hub.runs.start(&open.hub.project, new).await.unwrap();
        open.event(|event| event.run == run.id && ["run.completed", "run.failed"].contains(&&*event.kind))
            .await;
        let ended = open.hub.runs.get(&run.id).await.unwrap();
        assert_eq!(ended.state, State::Completed, "{version}: {:?}", ended.error);
        // Four readings of its clock and its random numbers, which are the run's.
        let readings: Vec<[u64; 3]> = serde_json::from_str(&ended.answer.unwrap()).unwrap();
        assert_eq!((readings.len(), endpoint.asked().len()), (4, 1), "{version}");
        open.close().await;
    }
}

async fn frozen_observers_hear_of_calls() {
    for (version, plugin) in components("observer") {
        let plugin = plugin
            .subscribes()
            .asks("gateway = [\"waitforReply\"]")
            .granted("gateway = [\"waitforReply\"], subscribe = true");
        let open = Project::new().plugin(&plugin).open().await;
        open.reply("sendMessage", json!({ "message": "hello" })).await;
        let question = open.some_question().await;
        let heard: Value = serde_json::from_str(&question.text).unwrap();
        assert_eq!(
            (&heard["name"], &heard["message"], &heard["dropped"]),
            (&json!("sendMessage"), &json!({ "message": "hello" }), &json!(0)),
            "{version}: {heard}"
        );
        open.close().await;
    }
}

/// A handler that names a later version in all that it imports and exports.
fn later() -> Text {
    Text::handler()
        .export("waypost:plugin/handler@0.1.7")
        .imports("(import \"waypost:log/log@0.1.7\" (instance)) (import \"waypost:state/store@0.1.7\" (instance))")
}

async fn a_component_of_a_later_contract_works_where_it_needs_nothing_new() {
    let plugin = Plugin::made_of("later", later().bytes()).grants("state = true");
    for wall in ["in-process", "worker"] {
        let open = Project::new().plugin(&plugin.clone().wall(wall)).open().await;
        assert_eq!(open.reply("later", json!({})).await, Value::Null, "{wall}");
    }
}

/// Why a hub with this plugin does not open.
async fn refused(bytes: Vec<u8>, wall: &'static str) -> String {
    let plugin = Plugin::made_of("later", bytes).grants("state = true").wall(wall);
    let opened = Project::new().plugin(&plugin).try_open().await;
    opened
        .err()
        .map_or_else(|| "it opened".to_owned(), |error| error.chain())
}

async fn what_needs_a_later_contract_is_refused_by_name() {
    let of_hub = |package: &str| {
        format!(
            ", and the hub is older; upgrade the hub, or build the component with the SDK 0.1.0 that this hub brings, which has \
             waypost:{package} {VERSION}"
        )
    };
    let refuses = format!("plugin `later` does not fit the contract of this hub ({VERSION}): ");
    for (imports, why) in [
        (
            "(import \"waypost:state/store@0.1.1\" (instance (export \"clear\" (func))))",
            "it calls the function `clear` of waypost:state/store, which this hub does not have",
        ),
        (
            "(import \"waypost:state/counters@0.1.1\" (instance (export \"add\" (func (param \"by\" u64)))))",
            "it imports `waypost:state/counters@0.1.1`, and waypost:state of this hub has no such interface",
        ),
        (
            "(import \"waypost:state/store@0.1.1\" (instance (export \"lock\" (type (sub resource)))))",
            "it uses the resource `lock` of waypost:state/store, which this hub does not have",
        ),
    ] {
        let bytes = Text::handler().imports(imports).bytes();
        for wall in ["in-process", "worker"] {
            let said = refused(bytes.clone(), wall).await;
            assert_eq!(said, format!("{refuses}{why}{}", of_hub("state")), "{wall}");
        }
    }
}

/// A component that imports and exports an instance of this name.
fn named(imported: &str, exported: &str) -> String {
    format!(
        "(component (import \"{imported}\" (instance (export \"f\" (func)))) (instance $empty) (export \"{exported}\" (instance \
         $empty)))"
    )
}

/// What this project says of versions is what the engine does, for imports and for exports, with either side as the newer one.
async fn versions_fit_as_the_engine_links_them() {
    let engine = wasmtime::Engine::default();
    let mut seen = Vec::new();
    let versions = [
        "0.0.1",
        "0.0.2",
        "0.1.0",
        "0.1.1",
        "0.1.9",
        "0.2.0",
        "0.2.1",
        "1.0.0",
        "1.7.2",
        "2.0.0",
        "0.1.1-rc.1",
    ];
    for theirs in versions {
        for ours in versions {
            let [name, other] = [theirs, ours].map(|version| format!("waypost:a/b@{version}"));
            let bytes = wat::parse_str(named(&name, &name)).unwrap();
            let component = wasmtime::component::Component::new(&engine, bytes).unwrap();
            let mut linker = wasmtime::component::Linker::<()>::new(&engine);
            linker.instance(&other).unwrap().func_wrap("f", |_, ()| Ok(())).unwrap();
            let links = linker.instantiate_pre(&component).is_ok();
            let finds = component.get_export_index(None, &other).is_some();
            let fits = contract::fits(&theirs.parse().unwrap(), &ours.parse().unwrap());
            assert_eq!((links, finds), (fits, fits), "a component of {theirs}, a hub of {ours}");
            seen.push((theirs, ours, fits));
        }
    }
    // The two of which the contract speaks.
    assert!(seen.contains(&("0.1.1", "0.1.0", true)) && seen.contains(&("0.1.0", "0.1.1", true)));
    assert!(seen.contains(&("0.1.0", "0.2.0", false)));
}
