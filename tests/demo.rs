//! The demo, as a newcomer runs it: no network, no key, nothing to set up.

use serde_json::json;

use crate::harness::Project;
use crate::harness::endpoint::{Endpoint, call, say};
use crate::harness::process::{run, run_with, shown};

crate::listed![
    the_demo_shows_a_prompt_on_its_way,
    the_demo_as_json_is_one_object_a_line,
    the_demo_wants_a_folder_that_is_empty,
    the_demo_asks_the_endpoint_that_the_variables_name,
];

/// A project without a file, for a binary.
fn empty() -> Project {
    Project::new().written()
}

async fn the_demo_shows_a_prompt_on_its_way() {
    let project = empty();
    let demo = run(project.root(), &["demo", "--folder", "shown"]).await;
    assert!(
        demo.err.starts_with("\nwhat it changed: waypost env diff env-"),
        "{}",
        demo.err
    );
    let mut rest = demo.out.as_str();
    for part in [
        "prompt     Write RELEASE.md from CHANGES.md.",
        "run.accepted",
        "inference               plugin:replay",
        "fsEvent:readFile        local",
        "ticket:find             connection:tickets",
        "ticket:find             connection:tickets",
        "fsEvent:writeToFile     local",
        "agent:run               plugin:loop",
        "run.completed",
        "What the agent changed, in its own workspace:",
        "+- Faster start (#42)",
        "The log is ",
        "shown/.waypost/log.db",
        "waypost -C ",
    ] {
        let at = rest
            .find(part)
            .unwrap_or_else(|| panic!("`{part}` is not next in:\n{}", demo.out));
        rest = &rest[at + part.len()..];
    }
    assert!(project.root().join("shown/.waypost/log.db").is_file());
    assert!(
        !project.root().join("shown/RELEASE.md").exists(),
        "the change is in the sandbox's workspace"
    );
    assert!(!demo.out.contains('\u{1b}'), "no colour in a pipe");
}

async fn the_demo_as_json_is_one_object_a_line() {
    let project = empty();
    let demo = run(project.root(), &["demo", "--json", "--folder", "shown"]).await;
    assert_eq!((demo.code, demo.err.as_str()), (0, ""));
    let events = demo.lines();
    let numbers: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    assert_eq!(events.last().unwrap()["kind"], "run.completed");
}

async fn the_demo_wants_a_folder_that_is_empty() {
    let project = empty().file("full/mine.txt", "mine");
    let refused = shown(project.root(), &["demo", "--folder", "full"]).await;
    assert_eq!(
        refused,
        "[2]\n--\nerror: full is not empty; name a new folder for the demo\n"
    );
    assert_eq!(std::fs::read_dir(project.root().join("full")).unwrap().count(), 1);
}

async fn the_demo_asks_the_endpoint_that_the_variables_name() {
    let endpoint = Endpoint::start([call("find_ticket", json!({ "id": 42 })), say("It was slow.")]).await;
    let project = empty();
    let variables = [("OPENAI_BASE_URL", endpoint.base.as_str()), ("OPENAI_API_KEY", "none")];
    let demo = run_with(project.root(), &variables, &["demo", "--folder", "live"]).await;
    assert_eq!(demo.code, 0, "{demo:?}");
    assert!(
        demo.out.contains("inference  the endpoint of OPENAI_BASE_URL"),
        "{}",
        demo.out
    );
    let asked = endpoint.asked();
    assert!(
        asked[1].last()["content"]
            .as_str()
            .unwrap()
            .contains("Start takes 4 s on a cold cache")
    );
}
