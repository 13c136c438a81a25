//! Agents on `/codebolt` and processes on `/plugins` and `/direct-execution-gateway`, frame by frame. Names that begin with
//! `c` and a number are conformance checks of the wire.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::endpoint::{Endpoint, say};
use crate::harness::socket::Socket;
use crate::harness::{Open, Project, Served};
use crate::listed;

listed![
    c21_c22_c33_a_claim_is_one_and_can_be_given_back,
    c23_c30_without_a_rule_or_a_claim_calls_are_local,
    c24_c25_c26_c27_a_request_holds_the_whole_frame_and_either_id_answers_it,
    c28_what_the_vendors_plugin_answers_resolves_every_agent,
    c29_a_failed_reply_is_a_failure_of_the_awaited_type,
    c31_c32_a_claimer_that_leaves_frees_the_claim_and_its_call_is_answered,
    c34_c35_c36_late_doubled_unknown_and_foreign_replies_count_for_nothing,
    c37_c38_c39_c40_subscribers_hear_what_is_local_and_nothing_else,
    c41_a_frame_that_passed_here_is_not_passed_on_again,
    c48_both_names_of_the_direct_socket_claim_at_once_and_greet_nobody,
    c49_a_reconnect_under_the_same_name_takes_the_claim_over,
    c50_a_message_on_the_direct_socket_starts_a_run_here,
    c51_files_of_the_far_side_are_moved_and_kept_inside,
    what_a_connection_may_not_ask_for_is_denied,
];

const NAMES: [&str; 3] = ["vault", "other", "watcher"];

async fn open(more: &str) -> (Open, Served) {
    open_with(Project::new(), more).await
}

/// A project with three connections and agents that anyone may be, served.
pub(crate) async fn open_with(project: Project, more: &str) -> (Open, Served) {
    let mut project = project
        .file("a.txt", "hello\n")
        .toml("[sockets]\nallow-unbound-agents = true");
    for name in NAMES {
        let digest: String = Sha256::digest(name).iter().map(|byte| format!("{byte:02x}")).collect();
        project = project.toml(&format!("[[connection]]\nname = {name:?}\ntoken-sha256 = {digest:?}"));
    }
    let open = project.toml(more).open().await;
    let served = open.serve().await;
    (open, served)
}

const PROXY: &str =
    "[[route]]\nmatch = [\"fsEvent\", \"inference\", \"executeCommand\", \"memoryEvent\"]\nto = \"proxy\"";

pub(crate) async fn agent(served: &Served) -> Socket {
    Socket::connect(&format!("ws://{}/codebolt?id=", served.address), &[])
        .await
        .unwrap()
}

/// A process that has connected; all that it does by itself is done.
pub(crate) async fn join(served: &Served, name: &str) -> Socket {
    let url = format!("ws://{}/plugins?providerId={name}", served.address);
    let mut socket = Socket::connect(&url, &[("authorization", &format!("Bearer {name}"))])
        .await
        .unwrap();
    order(&mut socket, "subscribe").await;
    socket
}

/// Gives an order of the gateway, and hears the answer to it.
pub(crate) async fn order(socket: &mut Socket, what: &str) -> Value {
    let id = format!("{what}-1");
    socket
        .say(json!({ "type": format!("executionGateway.{what}"), "requestId": id }))
        .await;
    loop {
        let frame = socket.hear().await;
        if frame["requestId"] == *id {
            return frame;
        }
    }
}

pub(crate) async fn quiet(socket: &mut Socket) {
    order(socket, "unsubscribe").await;
}

pub(crate) fn reply(request: &Value, result: Value) -> Value {
    let id = request["requestId"].as_str().unwrap();
    json!({ "type": "executionGateway.reply", "requestId": format!("reply-{id}"), "replyRequestId": id, "success": true, "result": result })
}

pub(crate) fn read() -> Value {
    json!({ "type": "fsEvent", "action": "readFile", "message": { "filePath": "a.txt" } })
}

async fn c21_c22_c33_a_claim_is_one_and_can_be_given_back() {
    let (_open, served) = open(PROXY).await;
    let mut vault = join(&served, "vault").await;
    let claimed = order(&mut vault, "claim").await;
    assert_eq!(claimed["success"], true, "{claimed}");
    assert_eq!(claimed["data"]["claimed"], true);
    assert!(
        claimed["data"]["pluginId"]
            .as_str()
            .unwrap()
            .starts_with("remote-provider-vault-")
    );
    let mut other = join(&served, "other").await;
    let refused = order(&mut other, "claim").await;
    assert_eq!(refused["success"], false);
    assert!(
        refused["error"]
            .as_str()
            .is_some_and(|error| error.contains("connection:vault")),
        "{refused}"
    );
    assert_eq!(order(&mut other, "relinquish").await["success"], false);
    let mut agent = agent(&served).await;
    quiet(&mut vault).await;
    agent.say(read()).await;
    assert_eq!(vault.hear().await["type"], "executionGateway.request");
    assert_eq!(order(&mut vault, "relinquish").await["success"], true);
    assert_eq!(order(&mut other, "claim").await["success"], true);
}

async fn c23_c30_without_a_rule_or_a_claim_calls_are_local() {
    let (_open, served) = open("").await;
    let mut vault = join(&served, "vault").await;
    quiet(&mut vault).await;
    let mut one = agent(&served).await;
    assert_eq!(one.ask(read()).await["content"], "hello\n");
    // Nothing was sent to it: the next thing that it hears is this.
    assert_eq!(
        order(&mut vault, "claim").await["type"],
        "executionGateway.claimResponse"
    );
    let (_open, served) = open(PROXY).await;
    assert_eq!(agent(&served).await.ask(read()).await["content"], "hello\n");
}

async fn c24_c25_c26_c27_a_request_holds_the_whole_frame_and_either_id_answers_it() {
    let (_open, served) = open(PROXY).await;
    let mut vault = join(&served, "vault").await;
    let mut agent = agent(&served).await;
    let mut ids = Vec::new();
    for own in [None, Some("agent-1")] {
        let mut frame = read();
        frame["extra"] = json!([1, "kept"]);
        if let Some(own) = own {
            frame["requestId"] = json!(own);
        }
        agent.say(frame.clone()).await;
        let request = vault.hear().await;
        assert_eq!(request["originalType"], "fsEvent");
        assert_eq!(request["originalAction"], "readFile");
        assert!(request["timestamp"].as_str().unwrap().ends_with('Z'));
        let original = &request["originalMessage"];
        assert_eq!(
            (&original["message"], &original["extra"]),
            (&frame["message"], &frame["extra"])
        );
        assert_eq!(original["requestId"], request["requestId"]);
        ids.push(request["requestId"].clone());
        let result = json!({ "type": "readFileResponse", "success": true, "content": "from afar" });
        vault.say(match own {
            None => reply(&request, result),
            Some(_) => json!({ "type": "executionGateway.reply", "requestId": request["requestId"], "success": true, "result": result }),
        })
        .await;
        let answer = agent.hear().await;
        assert_eq!(
            (&answer["type"], &answer["content"]),
            (&json!("readFileResponse"), &json!("from afar"))
        );
        assert_eq!(answer.get("requestId"), own.map(|own| json!(own)).as_ref());
    }
    assert_ne!(ids[0], ids[1]);
}

async fn c28_what_the_vendors_plugin_answers_resolves_every_agent() {
    let (_open, served) = open(PROXY).await;
    let mut vault = join(&served, "vault").await;
    let mut agent = agent(&served).await;
    let write = json!({ "type": "fsEvent", "action": "writeToFile", "message": { "relPath": "b", "newContent": "b" } });
    let list =
        json!({ "type": "fsEvent", "action": "fileList", "message": { "folderPath": ".", "isRecursive": false } });
    let command = json!({ "type": "executeCommand", "message": "ls" });
    let memory = json!({ "type": "memoryEvent", "action": "get", "key": "k" });
    let infer = json!({ "type": "inference", "message": { "prompt": "hi" } });
    for (frame, result, awaited, pointer) in [
        (
            read(),
            json!({ "type": "readFileResponse", "success": true, "path": "a", "content": "x", "encoding": "utf8", "size": 1 }),
            "readFileResponse",
            "/content",
        ),
        (
            write,
            json!({ "type": "writeFileResponse", "success": true, "path": "b", "message": "done" }),
            "writeToFileResponse",
            "/path",
        ),
        (
            list,
            json!({ "type": "listDirectoryResponse", "success": true, "path": ".", "entries": ["a.txt"] }),
            "fileListResponse",
            "/result",
        ),
        (
            command.clone(),
            json!({ "type": "commandExecutionResponse", "success": true, "output": "a", "exitCode": 0 }),
            "commandFinish",
            "/exitCode",
        ),
        (
            command,
            json!({ "type": "commandError", "success": false, "error": "no" }),
            "commandError",
            "/error",
        ),
        (
            memory,
            json!({ "type": "getResponse", "success": true, "message": "m", "handledBy": "test", "value": 1 }),
            "memoryGetResponse",
            "/value",
        ),
        (infer, json!("just a text"), "llmResponse", "/result"),
    ] {
        agent.say(frame.clone()).await;
        let request = vault.hear().await;
        vault.say(reply(&request, result)).await;
        let answer = agent.hear().await;
        assert_eq!(answer["type"], awaited, "{answer}");
        assert!(
            answer.pointer(pointer).is_some_and(|value| !value.is_null()),
            "{pointer} of {answer}"
        );
    }
}

async fn c29_a_failed_reply_is_a_failure_of_the_awaited_type() {
    let (_open, served) = open(PROXY).await;
    let mut vault = join(&served, "vault").await;
    let mut agent = agent(&served).await;
    agent.say(read()).await;
    let id = vault.hear().await["requestId"].clone();
    let frame = json!({ "type": "executionGateway.reply", "replyRequestId": id, "success": false, "result": { "error": "out of paper" } });
    vault.say(frame).await;
    let answer = agent.hear().await;
    assert_eq!(
        (&answer["type"], &answer["success"], &answer["error"]),
        (&json!("readFileResponse"), &json!(false), &json!("out of paper"))
    );
}

async fn c31_c32_a_claimer_that_leaves_frees_the_claim_and_its_call_is_answered() {
    let (open, served) = open(PROXY).await;
    let mut vault = join(&served, "vault").await;
    let mut agent = agent(&served).await;
    // A read is made again here; a command may have had its effect.
    agent.say(read()).await;
    agent.say(json!({ "type": "executeCommand", "message": "true" })).await;
    vault.hear().await;
    vault.hear().await;
    drop(vault);
    let (first, second) = (agent.hear().await, agent.hear().await);
    let (read, command) = if first["type"] == "readFileResponse" {
        (first, second)
    } else {
        (second, first)
    };
    assert_eq!(read["content"], "hello\n");
    assert_eq!(
        (&command["type"], &command["success"]),
        (&json!("commandError"), &json!(false))
    );
    assert_eq!(open.hub.gateway.stats().claims, 0);
    let mut other = join(&served, "other").await;
    assert_eq!(order(&mut other, "claim").await["success"], true);
}

async fn c34_c35_c36_late_doubled_unknown_and_foreign_replies_count_for_nothing() {
    let rule = "[[route]]\nmatch = \"slow\"\nto = \"proxy\"\neffect = \"read\"\ntimeout = \"100ms\"";
    let (open, served) = open(&format!("{rule}\n{PROXY}")).await;
    let mut vault = join(&served, "vault").await;
    let mut other = join(&served, "other").await;
    let mut agent = agent(&served).await;
    agent.say(json!({ "type": "slow" })).await;
    let late = vault.hear().await;
    let answer = agent.hear().await;
    assert_eq!(
        (&answer["type"], &answer["success"]),
        (&json!("slowResponse"), &json!(false)),
        "{answer}"
    );
    vault.say(reply(&late, json!({ "forged": 1 }))).await;
    agent.say(read()).await;
    let request = vault.hear().await;
    other
        .say(reply(
            &request,
            json!({ "type": "readFileResponse", "content": "forged" }),
        ))
        .await;
    order(&mut other, "subscribe").await;
    vault
        .say(reply(
            &json!({ "requestId": "01a20ce2-0000-7000-8000-000000000000" }),
            json!({ "forged": 2 }),
        ))
        .await;
    for text in ["true", "doubled"] {
        vault
            .say(reply(&request, json!({ "type": "readFileResponse", "content": text })))
            .await;
    }
    assert_eq!(agent.hear().await["content"], "true");
    order(&mut vault, "subscribe").await;
    let rejected = open.hub.gateway.stats().rejected;
    assert_eq!(
        (rejected.late, rejected.foreign, rejected.unknown, rejected.duplicate),
        (1, 1, 1, 1)
    );
}

async fn c37_c38_c39_c40_subscribers_hear_what_is_local_and_nothing_else() {
    let (open, served) = open("[[route]]\nmatch = \"memoryEvent\"\nto = \"proxy\"").await;
    let mut vault = join(&served, "vault").await;
    let mut watcher = join(&served, "watcher").await;
    let mut agent = agent(&served).await;
    agent.ask(read()).await;
    for subscriber in [&mut vault, &mut watcher] {
        let heard = subscriber.hear().await;
        assert_eq!(heard["type"], "executionGateway.notification");
        assert_eq!(
            (&heard["originalType"], &heard["originalAction"]),
            (&json!("fsEvent"), &json!("readFile"))
        );
        assert_eq!(heard["originalMessage"]["message"]["filePath"], "a.txt");
        assert_eq!(heard["result"]["content"], "hello\n");
    }
    agent.say(json!({ "type": "sendMessage", "message": "I begin" })).await;
    assert_eq!(vault.hear().await["originalType"], "sendMessage");
    assert_eq!(watcher.hear().await["originalMessage"]["message"], "I begin");
    // What is proxied was seen by the one who was asked, and by nobody else.
    agent
        .say(json!({ "type": "memoryEvent", "action": "get", "key": "k" }))
        .await;
    let request = vault.hear().await;
    assert_eq!(request["type"], "executionGateway.request");
    vault
        .say(reply(&request, json!({ "type": "memoryGetResponse", "value": 1 })))
        .await;
    assert_eq!(agent.hear().await["value"], 1);
    assert_eq!(
        order(&mut watcher, "unsubscribe").await["type"],
        "executionGateway.unsubscribeResponse"
    );
    agent.ask(read()).await;
    assert_eq!(vault.hear().await["originalType"], "fsEvent");
    assert_eq!(
        order(&mut watcher, "relinquish").await["type"],
        "executionGateway.relinquishResponse"
    );
    drop(vault);
    drop(watcher);
    while open.hub.gateway.stats().subscriptions > 0 {
        tokio::task::yield_now().await;
    }
}

async fn c41_a_frame_that_passed_here_is_not_passed_on_again() {
    let (_open, served) = open(PROXY).await;
    let mut vault = join(&served, "vault").await;
    let mut agent = agent(&served).await;
    let mut frame = read();
    frame["routePath"] = json!(["far-1"]);
    agent.say(frame).await;
    let request = vault.hear().await;
    let route = request["originalMessage"]["routePath"].as_array().unwrap().clone();
    assert_eq!((route.len(), &route[0]), (2, &json!("far-1")));
    vault
        .say(reply(&request, json!({ "type": "readFileResponse", "content": "far" })))
        .await;
    agent.hear().await;
    // Had it gone around and come back, it would end here.
    let mut frame = read();
    frame["routePath"] = json!(route);
    let answer = agent.ask(frame).await;
    assert_eq!(answer["content"], "hello\n", "{answer}");
}

async fn c48_both_names_of_the_direct_socket_claim_at_once_and_greet_nobody() {
    let (open, served) = open(PROXY).await;
    for path in ["plugins", "direct-execution-gateway"] {
        let url = format!("ws://{}/{path}?providerId=vault", served.address);
        let mut vault = Socket::connect(&url, &[("authorization", "Bearer vault")])
            .await
            .unwrap();
        let name = "fsEvent:readFile".parse().unwrap();
        open.hub.gateway.claimed("default", &name).await;
        let mut agent = agent(&served).await;
        agent.say(read()).await;
        // The first thing that it hears is work.
        let request = vault.hear().await;
        assert_eq!(request["type"], "executionGateway.request", "{path}");
        vault
            .say(reply(&request, json!({ "type": "readFileResponse", "content": "x" })))
            .await;
        agent.hear().await;
        agent.ask(json!({ "type": "getChatHistory" })).await;
        assert_eq!(vault.hear().await["type"], "executionGateway.notification", "{path}");
        drop(vault);
        while open.hub.gateway.has_claimer("default", &name) {
            tokio::task::yield_now().await;
        }
    }
}

async fn c49_a_reconnect_under_the_same_name_takes_the_claim_over() {
    let (_open, served) = open(PROXY).await;
    let mut old = join(&served, "vault").await;
    let mut new = join(&served, "vault").await;
    assert_eq!(order(&mut new, "claim").await["success"], true);
    let mut agent = agent(&served).await;
    agent.say(read()).await;
    loop {
        let frame = new.hear().await;
        if frame["type"] == "executionGateway.request" {
            new.say(reply(&frame, json!({ "type": "readFileResponse", "content": "new" })))
                .await;
            break;
        }
    }
    assert_eq!(agent.hear().await["content"], "new");
    let close = old.hear_or_end().await.err().flatten().unwrap();
    assert_eq!(close.reason.as_str(), "replaced by a newer connection of this name");
}

async fn c50_a_message_on_the_direct_socket_starts_a_run_here() {
    let endpoint = Endpoint::start([say("Done.")]).await;
    let (open, served) = open(&endpoint.config()).await;
    let mut vault = join(&served, "vault").await;
    let message = json!({
        "userMessage": "Do it", "threadId": "far-thread", "environment": { "isRemote": true }, "isRemoteTask": true,
        "selectedAgent": { "id": "x", "name": "y" },
    });
    vault
        .say(json!({ "type": "messageResponse", "message": message }))
        .await;
    let done = open.event(|event| &*event.kind == "run.completed").await;
    let run: Value = done.body.to().unwrap();
    assert_eq!((&run["prompt"], &run["answer"]), (&json!("Do it"), &json!("Done.")));
    // The far side's own environment is not one of this hub's.
    assert!(run["environment"].as_str().unwrap().starts_with("env-"));
    let refused = json!({ "type": "messageResponse", "requestId": "m", "message": { "userMessage": " " } });
    vault.say(refused).await;
    loop {
        let frame = vault.hear().await;
        if frame["requestId"] == "m" {
            assert_eq!(frame["success"], false);
            break;
        }
    }
}

async fn c51_files_of_the_far_side_are_moved_and_kept_inside() {
    let (open, served) = open("").await;
    let mut vault = join(&served, "vault").await;
    quiet(&mut vault).await;
    let root = open.root().canonicalize().unwrap();
    let at = |path: &str| root.join(path).display().to_string();
    for (action, message, success) in [
        ("createFolder", json!({ "filePath": at("new") }), true),
        (
            "writeFile",
            json!({ "filePath": at("new/b.txt"), "content": "text" }),
            true,
        ),
        ("readFile", json!({ "filePath": at("new/b.txt") }), true),
        (
            "renameItem",
            json!({ "oldPath": at("new/b.txt"), "newPath": at("new/c.txt") }),
            true,
        ),
        ("deleteFile", json!({ "filePath": at("new/c.txt") }), true),
        ("deleteFolder", json!({ "filePath": at("new") }), true),
        ("readFile", json!({ "filePath": "/etc/passwd" }), false),
        (
            "writeFile",
            json!({ "filePath": at("../out.txt"), "content": "x" }),
            false,
        ),
        (
            "writeFile",
            json!({ "filePath": at(".codebolt/proxyExecution.json"), "content": "{}" }),
            false,
        ),
        (
            "renameItem",
            json!({ "oldPath": at("a.txt"), "newPath": at("waypost.toml") }),
            false,
        ),
        (
            "renameItem",
            json!({ "oldPath": at("a.txt"), "newPath": "/tmp/out.txt" }),
            false,
        ),
    ] {
        let answer = vault
            .ask(json!({ "type": "providerAppFs", "requestId": "provider-app-fs-1", "action": action, "message": message }))
            .await;
        assert_eq!(answer["type"], "providerAppFsResponse");
        assert_eq!(
            (&answer["requestId"], &answer["success"]),
            (&json!("provider-app-fs-1"), &json!(success)),
            "{action}: {answer}"
        );
        if action == "readFile" && success {
            assert_eq!(answer["result"]["payload"]["data"], "text");
        }
    }
    assert!(!root.join("new").exists() && root.join("a.txt").exists());
}

async fn what_a_connection_may_not_ask_for_is_denied() {
    let (_open, served) = open("").await;
    let mut vault = join(&served, "vault").await;
    quiet(&mut vault).await;
    let answer = vault
        .ask(json!({ "type": "executeCommand", "message": "id", "requestId": "x" }))
        .await;
    assert_eq!((&answer["success"], &answer["requestId"]), (&json!(false), &json!("x")));
    assert_eq!(
        answer["error"],
        "connection:vault may not call executeCommand: add it to `calls` of its [[connection]] in waypost.toml"
    );
}
