//! A hub that serves: who gets in, what other verbs reach through it, and how it stops.

use serde_json::{Value, json};

use crate::harness::endpoint::{Endpoint, Turn, say};
use crate::harness::process::{Running, Serving, http, run};
use crate::harness::{Plugin, Project};

crate::listed![
    it_prints_its_address_and_a_token_and_stops_in_order,
    verbs_reach_the_hub_that_serves,
    a_second_hub_on_the_same_state_is_refused,
    nobody_gets_in_without_the_token_or_from_elsewhere,
    what_is_wrong_with_a_request_is_told,
    a_tail_sees_a_new_event,
    a_call_that_needs_a_word_asks_for_it,
    a_run_started_by_one_verb_is_cancelled_by_its_own_interrupt_alone,
    a_plugin_is_reloaded_without_a_restart_and_its_log_is_remembered,
    a_hub_that_was_killed_leaves_nothing_that_keeps_the_next_from_starting,
];

async fn it_prints_its_address_and_a_token_and_stops_in_order() {
    let project = Project::new().written();
    let mut hub = Running::start(project.root(), &[], &["serve", "--listen", "127.0.0.1:0"]);
    let address = hub.line().await;
    let url = address.strip_prefix("waypost is listening on ").unwrap().to_owned();
    let token = hub.line().await;
    let token = token.strip_prefix("token, until it stops: ").unwrap().to_owned();
    let health = http()
        .get(format!("{url}/api/v1/health"))
        .bearer_auth(&token)
        .send()
        .await
        .unwrap();
    assert_eq!(health.status(), 200);
    let word = project.root().join(".waypost/serve.json");
    assert!(word.is_file());
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&word).unwrap().permissions().mode() & 0o777, 0o600);
    for signal in ["TERM"] {
        hub.signal(signal).await;
    }
    let ended = hub.end().await;
    let text = "[0]\n--\nstopped; runs that had not ended are taken up at the next start\n";
    assert_eq!(ended.shown(project.root()), text);
    assert!(!word.exists());
    assert!(http().get(format!("{url}/api/v1/health")).send().await.is_err());
}

async fn verbs_reach_the_hub_that_serves() {
    let endpoint = Endpoint::start([say("Done.")]).await;
    let project = Project::new().toml(&endpoint.config()).file("a.txt", "a").written();
    let hub = Serving::start(project.root(), &[]).await;
    let followed = run(project.root(), &["run", "go"]).await;
    assert!(
        followed.code == 0 && followed.out.ends_with("\nDone.\n"),
        "{followed:?}"
    );
    let read = run(project.root(), &["call", "fsEvent:readFile", r#"{"path":"a.txt"}"#]).await;
    assert_eq!(read.json()["content"], "a");
    let failed = run(project.root(), &["call", "fsEvent:readFile", r#"{"path":"b.txt"}"#]).await;
    assert_eq!(
        failed.shown(project.root()),
        "[1]\n--\nerror: not-found: `b.txt` does not exist\n"
    );
    let made = run(project.root(), &["env", "create"]).await;
    let listed = run(project.root(), &["env", "ls", "--json"]).await.json();
    assert_eq!(listed[0]["id"], made.out.trim());
    let looked = run(project.root(), &["doctor"]).await;
    assert!(
        looked.code == 0
            && looked
                .out
                .contains("warning  hub           not looked into: another hub"),
        "{looked:?}"
    );
    hub.stop().await;
}

async fn a_second_hub_on_the_same_state_is_refused() {
    let project = Project::new().written();
    let hub = Serving::start(project.root(), &[]).await;
    let second = run(project.root(), &["serve", "--listen", "127.0.0.1:0"]).await;
    let owner = std::fs::read_to_string(project.root().join(".waypost/lock")).unwrap();
    let text = format!(
        "[1]\n--\nerror: another hub (process {}) has the state directory <project>/.waypost\n",
        owner.trim()
    );
    assert_eq!(second.shown(project.root()), text);
    hub.stop().await;
}

async fn nobody_gets_in_without_the_token_or_from_elsewhere() {
    let project = Project::new().written();
    let hub = Serving::start(project.root(), &[]).await;
    let runs = format!("{}/api/v1/projects/default/runs", hub.url);
    let own = hub.url.as_str();
    let bearer = format!("Bearer {}", hub.token);
    let wrong = format!("Bearer {}", hub.token.replace(['0', '1'], "2"));
    let token = ("authorization", bearer.as_str());
    let want = "the API wants a token that holds, as `Authorization: Bearer <token>`: the one that `waypost serve` \
                printed, or one of `waypost token create`\n";
    let host = "the Host header is not a name of this hub; use localhost, 127.0.0.1, [::1] or the `listen` of [hub]\n";
    let origin = "pages of other sites may not use this hub; send its own Origin, or none\n";
    for (headers, status, text) in [
        (vec![], 401, want),
        (vec![("authorization", wrong.as_str())], 401, want),
        (vec![("authorization", hub.token.as_str())], 401, want),
        (vec![token, ("host", "evil.example")], 421, host),
        (vec![("host", "evil.example")], 421, host),
        (vec![token, ("origin", "http://evil.example")], 403, origin),
        (vec![token, ("origin", "null")], 403, origin),
        (vec![token, ("origin", own)], 200, "[]"),
        (vec![token], 200, "[]"),
    ] {
        let mut request = http().get(&runs);
        for (name, value) in &headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), answer.text().await.unwrap().as_str()),
            (status, text),
            "{headers:?}"
        );
    }
    let query = http().get(format!("{runs}?token={}", hub.token)).send().await.unwrap();
    assert_eq!(query.status(), 401, "the query is not the place for it");
    hub.stop().await;
}

async fn what_is_wrong_with_a_request_is_told() {
    let project = Project::new().written();
    let hub = Serving::start(project.root(), &[]).await;
    let large = "x".repeat(2 << 20);
    for (method, path, body, status, text) in [
        (
            "POST",
            "/runs",
            json!({ "prompt": large }),
            400,
            "a prompt has 1 to 1048576 bytes, this one has 2097152",
        ),
        (
            "POST",
            "/runs",
            json!({ "prompt": "go", "x": 1 }),
            400,
            "the body does not fit: unknown field `x`, expected one of `prompt`, `thread`, `agent`, `command`, `environment`, `newEnvironment`, `settings` at line 1 column 18",
        ),
        (
            "POST",
            "/runs",
            json!({ "prompt": "" }),
            400,
            "a prompt has 1 to 1048576 bytes, this one has 0",
        ),
        (
            "POST",
            "/calls",
            json!({ "call": "x" }),
            400,
            "the body does not fit: missing field `message` at line 1 column 12",
        ),
        (
            "GET",
            "/runs/x",
            Value::Null,
            404,
            "there is no run `x`; `waypost run --list` lists them",
        ),
        (
            "POST",
            "/runs/x/cancel",
            Value::Null,
            404,
            "there is no run `x`; `waypost run --list` lists them",
        ),
        (
            "GET",
            "/environments/x",
            Value::Null,
            404,
            "there is no environment `x`; `waypost env ls` lists them",
        ),
        (
            "GET",
            "/events/0",
            Value::Null,
            404,
            "there is no event 0; `waypost event ls` lists the latest",
        ),
        (
            "POST",
            "/questions/x",
            json!({}),
            400,
            "`x` is not the id of a question",
        ),
        (
            "GET",
            "/blobs/x",
            Value::Null,
            404,
            "this log keeps no payload `x`; digests read sha256:<hex>",
        ),
    ] {
        let (got, answer) = hub.ask(method, path, &body).await;
        let error: Value = serde_json::from_str(&answer).unwrap_or_default();
        assert_eq!(
            (got, error["error"]["message"].as_str().unwrap_or(&answer)),
            (status, text),
            "{method} {path}"
        );
    }
    let answer = http()
        .get(format!("{}/api/v1/projects/moon/runs", hub.url))
        .bearer_auth(&hub.token)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 404);
    let text = answer.text().await.unwrap();
    assert!(
        text.contains("there is no project `moon` here; this hub has `default`"),
        "{text}"
    );
    hub.stop().await;
}

async fn a_tail_sees_a_new_event() {
    let project = Project::new().file("a.txt", "a").written();
    let hub = Serving::start(project.root(), &[]).await;
    let mut tail = Running::start(project.root(), &[], &["event", "tail", "--limit", "1"]);
    tail.line().await;
    let call = json!({ "call": "fsEvent:readFile", "message": { "path": "a.txt" } });
    assert_eq!(hub.ask("POST", "/calls", &call).await.0, 200);
    let line = tail.line_with("fsEvent:readFile").await;
    assert!(line.contains("person:serve") && line.contains("local"), "{line}");
    tail.signal("INT").await;
    let ended = tail.end().await;
    assert_eq!(ended.shown(project.root()), "[0]\n");
    hub.stop().await;
}

async fn a_call_that_needs_a_word_asks_for_it() {
    let rule = "[[route]]\nmatch = \"executeCommand\"\nto = \"ask\"\nfallback = [\"local\"]";
    let project = Project::new().toml(rule).written();
    let hub = Serving::start(project.root(), &[]).await;
    for (word, code, end) in [("allow", 0, "reply"), ("deny", 1, "error")] {
        let arguments = ["--json", "call", "executeCommand", "{\"command\":\"echo done\"}"];
        let mut call = Running::start(project.root(), &[], &arguments);
        let line: Value = serde_json::from_str(&call.line().await).unwrap();
        assert_eq!(line["question"]["buttons"], json!(["allow", "deny"]));
        let path = format!("/questions/{}", line["question"]["id"].as_str().unwrap());
        assert_eq!(hub.ask("POST", &path, &json!({ "answer": "perhaps" })).await.0, 400);
        assert_eq!(hub.ask("POST", &path, &json!({ "answer": word })).await.0, 200);
        let ended = call.end().await;
        assert_eq!(ended.code, code);
        assert!(ended.lines().last().unwrap().get(end).is_some(), "{ended:?}");
    }
    assert_eq!(hub.stop().await.code, 0);
}

async fn a_run_started_by_one_verb_is_cancelled_by_its_own_interrupt_alone() {
    let hang = || Turn::Hang(String::new());
    let endpoint = Endpoint::start([hang(), hang()]).await;
    let project = Project::new().toml(&endpoint.config()).written();
    let hub = Serving::start(project.root(), &[]).await;
    let mut first = Running::start(project.root(), &[], &["run", "--json", "first"]);
    first.line_with("run.running").await;
    let second = hub.start_run(json!({ "prompt": "second" })).await;
    endpoint.asked_times(2).await;
    first.signal("INT").await;
    let ended = first.end().await;
    assert_eq!(
        (ended.code, &ended.lines().pop().unwrap()["kind"]),
        (130, &json!("run.cancelled"))
    );
    let (_, text) = hub.ask("GET", &format!("/runs/{second}"), &Value::Null).await;
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["state"], "running");
    assert_eq!(
        hub.ask("POST", &format!("/runs/{second}/cancel"), &Value::Null).await.0,
        200
    );
    assert_eq!(hub.until_end(&second).await.last().unwrap()["kind"], "run.cancelled");
    hub.stop().await;
}

async fn a_plugin_is_reloaded_without_a_restart_and_its_log_is_remembered() {
    let plugin = |guest: &str| Plugin::of(guest).named("one").serves(&["one"]);
    let project = Project::new().plugin(&plugin("noop")).written();
    let hub = Serving::start(project.root(), &[]).await;
    let ask = ["call", "one", r#"{"text":"a","times":2}"#];
    assert_eq!(
        run(project.root(), &ask).await.json(),
        json!({ "text": "a", "times": 2 })
    );
    plugin("echo").write(project.root());
    assert_eq!(
        run(project.root(), &ask).await.json(),
        json!({ "text": "a", "times": 2 }),
        "not before it is told"
    );
    assert_eq!(run(project.root(), &["plugin", "reload", "one"]).await.code, 0);
    assert_eq!(run(project.root(), &ask).await.json()["text"], "aa");
    std::fs::write(project.root().join("plugins/one.wasm"), b"broken").unwrap();
    let broken = run(project.root(), &["plugin", "reload", "one"]).await;
    assert_ne!(broken.code, 0);
    assert!(broken.err.starts_with("error: plugin `one`"), "{}", broken.err);
    assert_eq!(
        run(project.root(), &ask).await.json()["text"],
        "aa",
        "the old one stays"
    );
    hub.stop().await;
}

async fn a_hub_that_was_killed_leaves_nothing_that_keeps_the_next_from_starting() {
    let project = Project::new().file("a.txt", "a").written();
    Serving::start(project.root(), &[]).await.crash().await;
    assert!(project.root().join(".waypost/serve.json").exists());
    let read = run(project.root(), &["call", "fsEvent:readFile", r#"{"path":"a.txt"}"#]).await;
    assert_eq!(read.code, 0, "{read:?}");
    let hub = Serving::start(project.root(), &[]).await;
    hub.stop().await;
}
