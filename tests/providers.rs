//! Models that a connected process serves: `llmProvider.*` on `/plugins`, over real sockets. The process is the trial.

use serde_json::{Value, json};
use waypost::call::{Json, Reply};
use waypost::gateway::Rejected;
use waypost::run::{NewRun, State};

use crate::harness::endpoint::{Endpoint, Turn};
use crate::harness::models::{Process, Stage};
use crate::harness::process::{Serving, http, run, shown};
use crate::harness::socket::Socket;
use crate::harness::{Plugin, Project};
use crate::spawned;

pub mod failures;

crate::listed![
    what_is_served_looks_as_if_it_came_from_an_endpoint,
    a_caller_who_reads_no_chunks_is_answered_in_one_piece,
    a_run_uses_a_served_model_and_its_tokens_are_counted,
    a_program_that_is_an_agent_reaches_it_and_so_does_the_command_line,
    one_that_the_hub_has_started_serves_models_too,
    another_list_of_models_replaces_the_first,
    the_configured_model_may_be_a_served_one,
    the_rules_decide_first,
    two_that_serve_the_same_model_have_to_be_told_apart,
    only_who_may_claim_inference_may_register,
    a_name_that_another_holds_is_refused_until_it_goes_away,
    hostile_manifests_are_refused_and_the_connection_lives,
];

fn delta(delta: Value) -> Value {
    json!({ "id": "c", "model": "scripted", "choices": [{ "index": 0, "delta": delta }] })
}

fn whole(message: Value, reason: &str) -> Value {
    let usage = json!({ "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15 });
    let choice = json!({ "index": 0, "message": message, "finish_reason": reason });
    json!({ "id": "c", "object": "chat.completion", "model": "scripted", "choices": [choice], "usage": usage })
}

fn text(text: &str) -> Value {
    whole(json!({ "role": "assistant", "content": text }), "stop")
}

fn error(reply: Reply) -> String {
    reply.result.unwrap_err().to_string()
}

async fn what_is_served_looks_as_if_it_came_from_an_endpoint() {
    let fragment = |id: Value, name: Value, arguments: &str| {
        let function = json!({ "name": name, "arguments": arguments });
        delta(json!({ "tool_calls": [{ "index": 0, "id": id, "type": "function", "function": function }] }))
    };
    let call =
        json!({ "id": "t", "type": "function", "function": { "name": "read_file", "arguments": "{\"path\":\"a\"}" } });
    let talks = [
        vec![
            delta(json!({ "role": "assistant", "content": "" })),
            delta(json!({ "content": "Hel" })),
            delta(json!({ "content": "lo" })),
        ],
        vec![
            delta(json!({ "content": "Let me see." })),
            fragment(json!("t"), json!("read_file"), ""),
            fragment(Value::Null, Value::Null, "{\"path\":"),
            fragment(Value::Null, Value::Null, "\"a\"}"),
        ],
        // All in the reply, as from one that does not stream.
        vec![],
    ];
    let replies = [
        text("Hello"),
        whole(
            json!({ "role": "assistant", "content": "Let me see.", "tool_calls": [call] }),
            "tool_calls",
        ),
        whole(
            json!({ "role": "assistant", "content": null, "tool_calls": [call] }),
            "tool_calls",
        ),
    ];
    let tools = json!([{ "type": "function", "function": { "name": "read_file", "parameters": {} } }]);
    let message = json!({
        "messages": [{ "role": "user", "content": "go" }], "tools": tools, "tool_choice": "auto", "max_tokens": 50, "temperature": 0.5,
    });
    for (parts, reply) in talks.iter().zip(replies) {
        let served = {
            let stage = Stage::of("").await;
            let mut process = stage.serving("one", "home", &["small"]).await;
            let mut message = message.clone();
            message["model"] = json!("home/small");
            let (_, asking) = stage.ask(message.clone()).await;
            let asked = process.asked().await;
            assert_eq!(asked["type"], "llmProvider.streamRequest");
            assert_eq!(
                (&asked["providerId"], &asked["providerConfig"]),
                (&json!("home"), &json!({}))
            );
            message["model"] = json!("small");
            message["providerConfig"] = json!({});
            assert_eq!(asked["options"], message);
            for part in parts {
                process.chunk(&asked, part.clone()).await;
            }
            process.reply(&asked, reply.clone()).await;
            asking.await.unwrap()
        };
        let streamed = {
            let events = parts.iter().chain([&reply]).enumerate();
            // An endpoint does not say again at the end what it streamed.
            let events = events.map(|(at, event)| {
                let mut event = event.clone();
                if at > 0 && at == parts.len() {
                    event["choices"][0].as_object_mut().unwrap().remove("message");
                }
                format!("data: {event}\n\n")
            });
            let body = events.collect::<String>() + "data: [DONE]\n\n";
            let endpoint = Endpoint::start([Turn::Raw("text/event-stream", body)]).await;
            let stage = Stage::of(&endpoint.config()).await;
            let (_, asking) = stage.ask(message.clone()).await;
            asking.await.unwrap()
        };
        assert_eq!(served.0, streamed.0);
        let [served, streamed] = [served.1, streamed.1].map(|reply| reply.result.unwrap().to::<Value>().unwrap());
        assert_eq!(served, streamed);
        assert_eq!(served["usage"]["total_tokens"], 15);
    }
}

async fn a_caller_who_reads_no_chunks_is_answered_in_one_piece() {
    let stage = Stage::of("").await;
    let mut process = stage.serving("one", "home", &["small"]).await;
    let message = json!({ "prompt": "go", "model": "small" });
    let asking = stage.open.begin("inference", message.clone()).await;
    let asked = process.asked().await;
    assert_eq!(asked["type"], "llmProvider.completionRequest");
    process.reply(&asked, text("Hello")).await;
    let reply = asking.await.unwrap();
    assert_eq!(reply.by.unwrap().to_string(), "local");
    assert_eq!(reply.result.unwrap().to::<Value>().unwrap()["content"], "Hello");

    let mut silent = message;
    silent["stream"] = json!(false);
    let (_, asking) = stage.ask(silent).await;
    let asked = process.asked().await;
    assert_eq!(asked["type"], "llmProvider.completionRequest");
    // One that says it in parts all the same is understood, and the caller sees none.
    process.chunk(&asked, delta(json!({ "content": "Hel" }))).await;
    process.chunk(&asked, delta(json!({ "content": "lo" }))).await;
    process.reply(&asked, Value::Null).await;
    let (chunks, reply) = asking.await.unwrap();
    assert_eq!(
        (
            chunks.len(),
            reply.result.unwrap().to::<Value>().unwrap()["content"].clone()
        ),
        (0, json!("Hello"))
    );
    assert_eq!(stage.rejected(), Rejected::default());
}

async fn a_run_uses_a_served_model_and_its_tokens_are_counted() {
    let stage = Stage::on(Project::new().file("a.txt", "remember\n"), "[agent]\ntokens = 20").await;
    let mut process = stage.serving("one", "home", &["small"]).await;
    let settings = json!({ "model": "home/small" });
    let new = NewRun {
        prompt: "go".to_owned(),
        settings: Some(Json::parse(settings.to_string()).unwrap()),
        ..NewRun::default()
    };
    let run = stage.open.hub.runs.start(&stage.open.hub.project, new).await.unwrap();
    for said in ["go", "remember\n"] {
        let asked = process.asked().await;
        let messages = asked["options"]["messages"].as_array().unwrap();
        assert_eq!(messages.last().unwrap()["content"], said);
        let function = json!({ "name": "read_file", "arguments": "{\"path\":\"a.txt\"}" });
        let calls = json!([{ "id": "t", "type": "function", "function": function }]);
        let message = json!({ "role": "assistant", "content": null, "tool_calls": calls });
        process.reply(&asked, whole(message, "tool_calls")).await;
    }
    stage
        .open
        .event(|event| event.run == run.id && &*event.kind == "run.failed")
        .await;
    let run = stage.open.hub.runs.get(&run.id).await.unwrap();
    assert_eq!(run.state, State::Failed);
    assert_eq!(
        run.error.unwrap().to_string(),
        "limit: the agent is not done and has used its budget of tokens (30 used): raise `tokens` under `[agent]` in \
         waypost.toml, or give it a smaller task"
    );
}

async fn a_program_that_is_an_agent_reaches_it_and_so_does_the_command_line() {
    let toml = "[sockets]\nallow-unbound-agents = true\n[inference]\nmodel = \"home/small\"";
    let project = Stage::project(Project::new(), toml).written();
    let hub = Serving::start(project.root(), &[]).await;
    let address = hub.url.strip_prefix("http://").unwrap();
    let mut process = Process::connect(address, "one").await;
    process.serve("home", &["small"]).await;
    // SDK 1.1.99 names a role and no model, and reads `completion`.
    let mut agent = Socket::connect(&format!("ws://{address}/codebolt?id="), &[])
        .await
        .unwrap();
    let prompt = json!({ "messages": [{ "role": "user", "content": "go" }], "full": true });
    agent
        .say(json!({ "type": "inference", "message": { "prompt": prompt, "llmrole": "coder" } }))
        .await;
    let asked = process.asked().await;
    assert_eq!(
        asked["options"]["messages"],
        json!([{ "role": "user", "content": "go" }])
    );
    process.reply(&asked, text("Hello")).await;
    let answer = agent.hear().await;
    assert_eq!(
        (&answer["type"], &answer["success"]),
        (&json!("llmResponse"), &json!(true))
    );
    assert_eq!(answer["completion"]["choices"][0]["message"]["content"], "Hello");

    let root = project.root().to_owned();
    let message = json!({ "prompt": "go", "model": "small" }).to_string();
    let called = tokio::spawn(async move { run(&root, &["call", "--json", "inference", &message]).await });
    let asked = process.asked().await;
    for piece in ["Hel", "lo"] {
        process.chunk(&asked, delta(json!({ "content": piece }))).await;
    }
    process.reply(&asked, Value::Null).await;
    let called = called.await.unwrap();
    let lines = called.lines();
    let said: Vec<&Value> = lines.iter().filter_map(|line| line.get("chunk")).collect();
    assert_eq!(said, [&json!({ "content": "Hel" }), &json!({ "content": "lo" })]);
    assert_eq!(
        (called.code, &lines.last().unwrap()["reply"]["content"]),
        (0, &json!("Hello"))
    );

    let list = ["model", "ls"];
    assert_eq!(
        shown(project.root(), &list).await,
        "[0]\nMODEL       NAME  BY\nhome/small  home  connection:one\n"
    );
    process
        .register(json!({ "providerId": "any", "name": "\u{202e}any" }))
        .await;
    let listed = shown(project.root(), &list).await;
    assert!(
        listed.contains("\nany/*       \\u{202e}any  connection:one\n"),
        "{listed}"
    );
    hub.stop().await;
    assert_eq!(run(project.root(), &list).await.out, "MODEL  NAME  BY\n");
}

async fn one_that_the_hub_has_started_serves_models_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("told");
    let spawn = |name: &str, claim: &str, file: &std::path::Path| {
        let command = spawned::telling(file);
        format!("[[spawn]]\nname = {name:?}\ncommand = {command:?}\nclaim = [{claim:?}]\ngrace = \"100ms\"\n")
    };
    let other = folder.path().join("other");
    let project = Project::new()
        .toml(&spawn("own", "inference", &file))
        .toml(&spawn("small", "fsEvent", &other));
    let open = project.open().await;
    open.hub.begin();
    let start = async |file| {
        let url = spawned::url(&spawned::variables(file).await, None);
        Process(Socket::connect(&url, &[]).await.unwrap())
    };
    let mut process = start(&file).await;
    assert_eq!(process.0.hear().await["type"], "pluginStartMessage");
    process.serve("home", &["small"]).await;
    let asking = open
        .begin("inference", json!({ "prompt": "go", "model": "small" }))
        .await;
    let asked = process.asked().await;
    process.reply(&asked, text("Hello")).await;
    assert!(asking.await.unwrap().result.is_ok());
    let mut other = start(&other).await;
    let refused = other.refused(json!({ "providerId": "away" })).await;
    assert!(
        refused.starts_with("connection:small may not serve models: add `inference` to `claim`"),
        "{refused}"
    );
    open.close().await;
}

async fn another_list_of_models_replaces_the_first() {
    let stage = Stage::of("").await;
    let mut one = stage.serving("one", "home", &["small"]).await;
    let (_, asking) = stage.ask(json!({ "prompt": "go", "model": "small" })).await;
    let asked = one.asked().await;
    one.serve("home", &["large"]).await;
    // What was asked before goes on.
    one.reply(&asked, text("Hello")).await;
    assert!(asking.await.unwrap().1.result.is_ok());
    let gone = stage
        .open
        .error("inference", json!({ "prompt": "go", "model": "home/small" }))
        .await;
    assert!(gone.ends_with("or name a registered model: `home/large`"), "{gone}");
    let asking = stage
        .open
        .begin("inference", json!({ "prompt": "go", "model": "large" }))
        .await;
    let asked = one.asked().await;
    one.reply(&asked, text("Hello")).await;
    assert!(asking.await.unwrap().result.is_ok());
    assert_eq!(stage.open.hub.gateway.stats().offers, 1);
}

async fn the_configured_model_may_be_a_served_one() {
    let stage = Stage::of("[inference]\nmodel = \"home/small\"").await;
    let nobody =
        "unavailable: no model endpoint is configured; set `[inference] base-url` or the variable OPENAI_BASE_URL";
    assert_eq!(stage.open.error("inference", json!({ "prompt": "go" })).await, nobody);
    let mut process = stage.serving("one", "home", &["small", "large"]).await;
    let asking = stage.open.begin("inference", json!({ "prompt": "go" })).await;
    let asked = process.asked().await;
    assert_eq!(asked["options"]["model"], "small");
    process.reply(&asked, text("Hello")).await;
    assert!(asking.await.unwrap().result.is_ok());
    // One that nobody serves goes the old way, and the error says which there are.
    assert_eq!(
        stage
            .open
            .error("inference", json!({ "prompt": "go", "model": "home/medium" }))
            .await,
        format!("{nobody}, or name a registered model: `home/large`, `home/small`")
    );
    let url = format!("http://{}/api/v1/projects/default/models", stage.served.address);
    let listed = http().get(url).bearer_auth("token of the API").send().await.unwrap();
    let listed: Value = serde_json::from_str(&listed.text().await.unwrap()).unwrap();
    let models = json!({ "large": null, "small": null });
    assert_eq!(
        listed,
        json!([{ "id": "home", "name": "home", "models": models, "by": "connection:one" }])
    );
}

async fn the_rules_decide_first() {
    let rules = r#"
[[route]]
match = "inference"
model = "home/secret"
to = "deny"
[[route]]
match = "inference"
model = "home/other"
to = "plugin:answers"
"#;
    let project = Project::new().plugin(&Plugin::of("answers").serves(&["inference"]).unrouted());
    let stage = Stage::on(project, rules).await;
    let _process = stage.serving("one", "home", &["secret", "other"]).await;
    let ask = |model: &str| json!({ "prompt": "go", "model": model });
    assert_eq!(
        stage.open.error("inference", ask("home/secret")).await,
        "denied: inference is denied by the rules of this project"
    );
    let reply = stage.open.call("inference", ask("home/other")).await;
    assert_eq!(reply.by.unwrap().to_string(), "plugin:answers");
}

async fn two_that_serve_the_same_model_have_to_be_told_apart() {
    let stage = Stage::of("").await;
    let _one = stage.serving("one", "home", &["small"]).await;
    let mut two = stage.serving("two", "away", &["small"]).await;
    let ask = |model: &str| json!({ "prompt": "go", "model": model });
    assert_eq!(
        stage.open.error("inference", ask("small")).await,
        "invalid: model `small` is registered by `away` (connection:two) and `home` (connection:one); say which, as in \
         `away/small`"
    );
    let asking = stage.open.begin("inference", ask("Away/small")).await;
    let asked = two.asked().await;
    assert_eq!(asked["providerId"], "away");
    two.reply(&asked, text("Hello")).await;
    assert!(asking.await.unwrap().result.is_ok());
}

async fn only_who_may_claim_inference_may_register() {
    let stage = Stage::of("").await;
    let mut reader = stage.connect("reader").await;
    assert_eq!(
        reader
            .refused(json!({ "providerId": "home", "models": [{ "id": "small" }] }))
            .await,
        "connection:reader may not serve models: add `inference` to `claim` of its [[connection]] or [[spawn]] in waypost.toml"
    );
    assert_eq!(stage.open.hub.gateway.stats().offers, 0);
}

async fn a_name_that_another_holds_is_refused_until_it_goes_away() {
    let stage = Stage::of("").await;
    let one = stage.serving("one", "home", &["small"]).await;
    let mut two = stage.connect("two").await;
    let manifest = json!({ "providerId": "H o m e", "models": [{ "id": "small" }] });
    assert_eq!(
        two.refused(manifest.clone()).await,
        "`home` is registered by connection:one; it must unregister it first, or choose another providerId"
    );
    drop(one);
    stage.gone().await;
    let answer = two.register(manifest).await;
    assert_eq!(answer["data"], json!({ "providerId": "home", "registered": true }));
}

async fn hostile_manifests_are_refused_and_the_connection_lives() {
    let stage = Stage::of("").await;
    let mut one = stage.connect("one").await;
    let models = |count: usize| -> Value { (0..count).map(|at| json!({ "id": format!("m{at}") })).collect() };
    for (manifest, expected) in [
        (
            json!({ "providerId": "home", "models": models(10_000) }),
            "`home` lists 10000 models; at most 256 are taken: leave out what nobody asks for",
        ),
        (
            json!({ "providerId": "home", "models": models(100_000) }),
            "the manifest has 1588922 bytes; at most 262144 are taken: list fewer models",
        ),
        (
            json!({ "providerId": ["home"] }),
            "the manifest cannot be read: invalid type: sequence",
        ),
        (
            json!({ "providerId": "home", "models": { "id": 1 } }),
            "the manifest cannot be read: invalid type: map",
        ),
        (json!("home"), "the manifest cannot be read: invalid type: string"),
        (
            json!({ "providerId": "\u{202e}/home" }),
            "`providerId` must not have a slash",
        ),
        (
            json!({ "providerId": "home", "models": [{ "id": "\u{1b}]0;x\u{7}" }] }),
            "`models[].id` must be a text of 1 to 256 bytes without control characters",
        ),
    ] {
        let error = one.refused(manifest).await;
        assert!(error.starts_with(expected), "{error}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    one.0
        .say_text(&format!("{{\"type\":\"llmProvider.register\",\"manifest\":{deep}}}"))
        .await;
    one.settled().await;
    for at in 0..16 {
        let answer = one
            .register(json!({ "providerId": format!("p{at}"), "models": models(256) }))
            .await;
        assert_eq!(answer["success"], true);
    }
    assert_eq!(
        one.refused(json!({ "providerId": "p16" })).await,
        "connection:one has registered 16 providers, its limit; unregister one of them first"
    );
    assert_eq!(stage.open.hub.gateway.stats().offers, 16);
    let asking = stage
        .open
        .begin("inference", json!({ "prompt": "go", "model": "p7/m255" }))
        .await;
    let asked = one.asked().await;
    one.reply(&asked, text("still here")).await;
    assert!(asking.await.unwrap().result.is_ok());
}
