//! Hubs that ask each other.

use serde_json::{Value, json};

use crate::harness::{Open, Project, Served};
use crate::listed;

listed![
    a_call_is_carried_by_the_other_hub_under_its_rules,
    a_hub_that_is_away_refuses_or_is_passed_over,
    a_ring_of_hubs_ends_where_it_closes,
];

fn joined(name: &str, served: &Served) -> String {
    format!(
        "[[joined]]\nname = {name:?}\nurl = \"http://{}\"\ntoken-env = \"FAR\"",
        served.address
    )
}

fn near(far: &Served, rules: &str) -> Project {
    Project::new()
        .file("a.txt", "near\n")
        .variable("FAR", "token of the API")
        .toml(&joined("far", far))
        .toml(rules)
}

async fn read(open: &Open) -> Result<Value, String> {
    let reply = open.call("fsEvent:readFile", json!({ "path": "a.txt" })).await;
    let result = reply.result.map_err(|error| error.to_string())?;
    Ok(result.to::<Value>().unwrap()["content"].clone())
}

async fn a_call_is_carried_by_the_other_hub_under_its_rules() {
    let denied = "[[route]]\nmatch = \"executeCommand\"\nto = \"deny\"";
    let far = Project::new().file("a.txt", "far\n").toml(denied).open().await;
    let served = far.serve().await;
    let rules = "[[route]]\nmatch = [\"fsEvent\", \"executeCommand\", \"executeCommandWithStream\"]\nto = \"hub:far\"";
    let open = near(&served, rules).open().await;
    assert_eq!(read(&open).await, Ok(json!("far\n")));
    let error = open.error("executeCommand", json!({ "command": "true" })).await;
    assert_eq!(error, "denied: executeCommand is denied by the rules of this project");
    // Chunks come through, and both logs tell of the call.
    let call = open
        .prepared("executeCommandWithStream", json!({ "command": "echo over there" }))
        .await;
    let (sink, mut chunks) = waypost::call::Sink::channel();
    let ended = open.carry(call, sink);
    let mut said = String::new();
    while let Some(chunk) = chunks.recv().await {
        said.push_str(chunk.to::<Value>().unwrap()["text"].as_str().unwrap());
    }
    assert_eq!(said, "over there\n");
    assert_eq!(ended.await.unwrap().by.unwrap().to_string(), "hub:far");
    for hub in [&open, &far] {
        hub.event(|event| &*event.kind == "call.ended" && event.body.as_str().contains("executeCommandWithStream"))
            .await;
    }
}

async fn a_hub_that_is_away_refuses_or_is_passed_over() {
    let far = Project::new().open().await;
    let served = far.serve().await;
    let rules = "[[route]]\nmatch = \"fsEvent:readFile\"\nto = \"hub:far\"\nfallback = [\"local\"]\n[[route]]\nmatch = \
                 \"fsEvent:fileList\"\nto = \"hub:far\"";
    let open = near(&served, rules).open().await;
    drop(served);
    assert_eq!(read(&open).await, Ok(json!("near\n")));
    let error = open.error("fsEvent:fileList", json!({ "path": "." })).await;
    assert!(error.starts_with("unavailable: hub `far` cannot be reached"), "{error}");
    // A hub whose token is not there does not start.
    let served = far.serve().await;
    let refused = Project::new()
        .toml(&joined("far", &served))
        .try_open()
        .await
        .err()
        .unwrap();
    assert_eq!(
        refused.chain(),
        "[[joined]] `far`: the variable FAR holds no token; make one on that hub with `waypost token create --scope api`"
    );
    let wrong = Project::new()
        .variable("FAR", "wrong")
        .toml(&joined("far", &served))
        .toml(rules)
        .open()
        .await;
    let error = wrong.error("fsEvent:fileList", json!({ "path": "." })).await;
    assert!(
        error.starts_with("unavailable: hub `far` refused the call (401)"),
        "{error}"
    );
}

async fn a_ring_of_hubs_ends_where_it_closes() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let rules = "[[route]]\nmatch = \"fsEvent:readFile\"\nto = \"hub:next\"";
    let second = Project::new()
        .variable("FAR", "token of the API")
        .toml(&format!(
            "[[joined]]\nname = \"next\"\nurl = \"http://{address}\"\ntoken-env = \"FAR\""
        ))
        .toml(rules)
        .open()
        .await;
    let at_second = second.serve().await;
    let first = Project::new()
        .variable("FAR", "token of the API")
        .toml(&joined("next", &at_second))
        .toml(rules)
        .open()
        .await;
    let _at_first = first.serve_at(address).await;
    let error = read(&first).await.unwrap_err();
    assert!(
        error.contains("fsEvent:readFile has passed this hub already"),
        "{error}"
    );
}
