//! What a newcomer does, for each role in each language: `new`, `test`, `build`, `inspect`, `add`, and a real use of it.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;
use serde_json::{Value, json};
use tokio::process::Command;

use super::{PATIENCE, home, variables, verb};
use crate::harness::endpoint::{Endpoint, say};
use crate::harness::outside::{COMPONENTIZE_PY, JCO};
use crate::harness::process::{Ended, Serving};
use crate::harness::{Project, within_time};

const KINDS: [&str; 4] = ["handler", "provider", "agent", "observer"];

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for kind in KINDS {
        let name = |lang: &str| format!("author::a_new_{kind}_in_{lang}_is_built_tested_added_and_used");
        trials.push(Trial::test(name("rust"), move || {
            within_time(PATIENCE, newcomer("rust", kind, variables(&[])))
        }));
        for (lang, tool) in [("js", &JCO), ("python", &COMPONENTIZE_PY)] {
            trials.push(tool.trial(&name(lang), move |program| {
                let variables = variables(&[program.parent().unwrap()]);
                within_time(PATIENCE, newcomer(lang, kind, variables))
            }));
        }
    }
    trials
}

/// All of it, from nothing to an answer.
async fn newcomer(lang: &'static str, kind: &'static str, variables: Vec<(String, String)>) {
    let home = home(&format!("{lang}-{kind}"));
    let facts = made(&home, &variables, kind, lang).await;
    tested_natively(&home, &variables, kind, lang).await;
    let endpoint = Endpoint::start([say("Good day.")]).await;
    let project = Project::new()
        .toml(&endpoint.config())
        .file("a.txt", "hello\n")
        .written();
    let by = Hub {
        root: project.root(),
        variables: &variables,
    };
    by.add(&home, kind, &facts).await;
    match kind {
        "handler" => by.handler(lang).await,
        "provider" => by.provider().await,
        "agent" => by.agent(&endpoint).await,
        _ => by.observer().await,
    }
}

/// Makes a project, tests it, builds it, inspects it; what it is by its own word.
async fn made(home: &Path, variables: &[(String, String)], kind: &str, lang: &str) -> Value {
    let name = format!("my-{kind}");
    let made = verb(
        home,
        variables,
        &["plugin", "new", &name, "--kind", kind, "--lang", lang, "--json"],
    )
    .await;
    assert_eq!(made.json()["folder"], name, "{made:?}");
    let tested = verb(home, variables, &["plugin", "test", &name, "--json"]).await;
    assert_eq!(tested.code, 0, "{}", tested.out + &tested.err);
    let lines = tested.lines();
    let checks: Vec<&str> = lines.iter().filter_map(|line| line["check"].as_str()).collect();
    assert!(
        checks.iter().any(|check| check.contains(": ")),
        "{kind} in {lang} has no case: {checks:?}"
    );
    assert!(
        checks.contains(&"odd-messages") && checks.contains(&"after-a-trap"),
        "{checks:?}"
    );
    assert_eq!(lines.last().unwrap()["failed"], 0);
    let built = verb(home, variables, &["plugin", "build", &name, "--json"]).await;
    assert_eq!(built.code, 0, "{}", built.err);
    let facts = built.json();
    assert_eq!((&facts["id"], &facts["role"]), (&json!(name), &json!(kind)));
    let file = home.join(&name).join("dist").join(format!("{name}.wasm"));
    assert_eq!(fs::metadata(&file).unwrap().len(), facts["size"]);
    let looked = verb(
        home,
        variables,
        &["plugin", "inspect", &file.display().to_string(), "--json"],
    )
    .await;
    assert_eq!(looked.code, 0, "{}", looked.err);
    assert_eq!(looked.json()["digest"], facts["digest"]);
    assert_eq!(looked.json()["hub"]["fits"], true);
    facts
}

/// Runs the tests that the template has of its own, with the tools of its language.
async fn tested_natively(home: &Path, variables: &[(String, String)], kind: &str, lang: &str) {
    let (program, arguments, passed) = match lang {
        "rust" => (env!("CARGO"), &["test", "--release", "--quiet"][..], "1 passed"),
        "js" => ("node", &["--test"][..], "fail 0"),
        _ => ("python3", &["-m", "unittest"][..], "OK"),
    };
    let tests = Command::new(program)
        .args(arguments)
        .current_dir(home.join(format!("my-{kind}")))
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&tests.stdout).into_owned() + &String::from_utf8_lossy(&tests.stderr);
    let some = !said.contains("pass 0");
    assert!(tests.status.success() && said.contains(passed) && some, "{said}");
}

/// The hub of a project, as a person asks it.
struct Hub<'a> {
    root: &'a Path,
    variables: &'a [(String, String)],
}

impl Hub<'_> {
    async fn ask(&self, arguments: &[&str]) -> Ended {
        let ended = verb(self.root, self.variables, arguments).await;
        assert_eq!(ended.code, 0, "{arguments:?}: {ended:?}");
        ended
    }

    /// Installs what was built, with all that it asks for.
    async fn add(&self, home: &Path, kind: &str, facts: &Value) {
        let name = format!("my-{kind}");
        let file = home.join(&name).join("dist").join(format!("{name}.wasm"));
        let file = file.display().to_string();
        let mut add = vec!["plugin", "add", &file, "--yes"];
        if kind == "handler" {
            add.push("--route");
        }
        let added = self.ask(&add).await;
        assert!(added.out.contains(&name), "{added:?}");
        let listed = self.ask(&["plugin", "ls", "--json"]).await.json();
        let mine = listed.as_array().unwrap().iter().find(|one| one["id"] == name.as_str());
        let mine = mine.unwrap_or_else(|| panic!("{listed}"));
        assert_eq!(
            (&mine["role"], &mine["wall"]),
            (&json!(kind), &json!("worker")),
            "{mine}"
        );
        assert_eq!(mine["digest"], facts["digest"]);
        self.ask(&["plugin", "verify"]).await;
    }

    async fn call(&self, name: &str, message: Value) -> Value {
        self.ask(&["call", name, &message.to_string()]).await.json()
    }

    async fn handler(&self, lang: &str) {
        if lang == "rust" {
            for times in [1, 2] {
                let greeting = self.call("my-handler:greet", json!({ "name": "Ada" })).await;
                assert_eq!(greeting, json!({ "text": "Hello Ada", "times": times }));
            }
            return;
        }
        let ticket = json!({ "id": 7, "title": "Slow start" });
        assert_eq!(self.call("ticket:add", ticket.clone()).await, ticket);
        assert_eq!(self.call("ticket:find", json!({ "id": 7 })).await, ticket);
        let missing = verb(self.root, self.variables, &["call", "ticket:find", "{\"id\":8}"]).await;
        assert!(
            missing.code == 1 && missing.err.contains("there is no ticket 8"),
            "{missing:?}"
        );
    }

    async fn provider(&self) {
        let made = self
            .ask(&["env", "create", "--provider", "my-provider", "--json"])
            .await
            .json();
        let id = made["id"].as_str().unwrap();
        let shown = self.ask(&["env", "show", id]).await.json();
        let seen = (&shown["provider"], &shown["state"], &shown["health"]);
        assert_eq!(
            seen,
            (&json!("my-provider"), &json!("ready"), &json!("ready")),
            "{shown}"
        );
        let read = ["call", "--environment", id, "fsEvent:readFile", "{\"path\":\"a.txt\"}"];
        assert_eq!(self.ask(&read).await.json()["content"], "hello\n");
        self.ask(&["env", "rm", id]).await;
        assert_eq!(self.ask(&["env", "ls", "--json"]).await.json(), json!([]));
    }

    async fn agent(&self, endpoint: &Endpoint) {
        let followed = self.ask(&["run", "--agent", "my-agent", "--json", "Hello"]).await;
        let last = followed.lines().pop().unwrap();
        assert_eq!(last["kind"], "run.completed", "{followed:?}");
        let runs = self.ask(&["run", "--list", "--json"]).await.json();
        assert_eq!(runs[0]["answer"], "Good day.", "{runs}");
        assert_eq!(endpoint.asked().len(), 1);
    }

    async fn observer(&self) {
        let serving = Serving::start(self.root, &[]).await;
        let read = json!({ "call": "fsEvent:readFile", "message": { "path": "a.txt" } });
        for _ in 0..2 {
            let (status, text) = serving.ask("POST", "/calls", &read).await;
            assert_eq!(status, 200, "{text}");
        }
        // A notice is no event: there is nothing else to wait for.
        let heard = loop {
            let stats = self.ask(&["plugin", "stats", "--json"]).await.json();
            let mine = stats
                .as_array()
                .unwrap()
                .iter()
                .find(|one| one["id"] == "my-observer")
                .cloned();
            match mine {
                Some(mine) if mine["calls"].as_u64() >= Some(2) => break mine,
                _ => tokio::task::yield_now().await,
            }
        };
        assert_eq!(
            (&heard["answered"], &heard["calls"]),
            (&heard["calls"], &json!(2)),
            "{heard}"
        );
        serving.stop().await;
    }
}
