//! A second process on `/plugins`, over a real socket, and the hub that asks it.

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{self, Message, client::IntoClientRequest};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use waypost::call::{Call, CallName, Sink};
use waypost::log::Event;

use crate::harness::{Open, Plugin, Project, Served};
use crate::listed;

listed![
    a_connection_needs_its_own_token,
    a_claimed_call_is_asked_and_answered,
    a_failed_reply_is_the_failure_of_the_call,
    what_is_handled_here_is_told_to_subscribers,
    a_forged_reply_counts_for_nothing,
    a_read_falls_back_when_its_connection_dies,
    an_effect_is_indeterminate_when_its_connection_dies,
    a_cancelled_effect_at_a_connection_is_indeterminate,
    a_claim_ends_with_its_connection_and_rises_with_the_next,
];

struct Peer(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Peer {
    async fn connect(served: &Served, name: &str, token: &str) -> Result<Self, tungstenite::Error> {
        let mut request = format!("ws://{}/plugins?providerId={name}", served.address).into_client_request()?;
        request
            .headers_mut()
            .insert("authorization", format!("Bearer {token}").parse().unwrap());
        tokio_tungstenite::connect_async(request)
            .await
            .map(|(socket, _)| Self(socket))
    }

    /// Connects with its own token; its claim is granted when this resolves.
    async fn join(served: &Served, name: &str) -> Self {
        let mut peer = Self::connect(served, name, &format!("token of {name}")).await.unwrap();
        peer.settle().await;
        peer
    }

    async fn say(&mut self, frame: Value) {
        self.0.send(Message::text(frame.to_string())).await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        loop {
            if let Message::Text(text) = self.0.next().await.unwrap().unwrap() {
                return serde_json::from_str(&text).unwrap();
            }
        }
    }

    /// Makes sure that all that was said before has been heard.
    async fn settle(&mut self) -> Value {
        self.say(json!({ "type": "executionGateway.subscribe", "requestId": "settle" }))
            .await;
        loop {
            let frame = self.hear().await;
            if frame["requestId"] == "settle" {
                return frame;
            }
        }
    }

    async fn reply(&mut self, request: &Value, result: Value) {
        let id = &request["requestId"];
        self.say(json!({ "type": "executionGateway.reply", "replyRequestId": id, "success": true, "result": result }))
            .await;
    }
}

/// A project in which `worker` may claim `job` and reads of files, and `other` nothing.
fn project() -> Project {
    let connection = |name: &str, claim: &str| {
        let digest = Sha256::digest(format!("token of {name}"));
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("[[connection]]\nname = {name:?}\ntoken-sha256 = {digest:?}\nclaim = {claim}\n")
    };
    Project::new()
        .file("a.txt", "hello\n")
        .toml(&connection("worker", "[\"job:*\", \"fsEvent:readFile\"]"))
        .toml(&connection("other", "[\"chore\"]"))
        .toml("[[route]]\nmatch = [\"job\", \"chore\", \"fsEvent:readFile\"]\nto = \"proxy\"")
}

async fn a_connection_needs_its_own_token() {
    let open = project().open().await;
    let served = open.serve().await;
    for (name, token) in [
        ("worker", "token of other"),
        ("worker", "wrong"),
        ("stranger", "token of worker"),
    ] {
        let error = Peer::connect(&served, name, token).await.err().unwrap();
        let tungstenite::Error::Http(response) = error else {
            panic!("{error}")
        };
        assert_eq!(response.status(), 401);
        let text = String::from_utf8(response.into_body().unwrap_or_default()).unwrap();
        assert_eq!(
            text,
            "no connection of this name has this token; look at [[connection]] in waypost.toml, or make one with `waypost \
             token create`\n"
        );
    }
    // The query carries it for clients that can set no header.
    let url = format!(
        "ws://{}/plugins?providerId=worker&token=token%20of%20worker",
        served.address
    );
    let (socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    assert_eq!(Peer(socket).settle().await["success"], true);
}

async fn a_claimed_call_is_asked_and_answered() {
    let open = project().open().await;
    let served = open.serve().await;
    let mut worker = Peer::join(&served, "worker").await;
    let asked = open.begin("job:do", json!({ "what": "this" })).await;
    let request = worker.hear().await;
    let id = request["requestId"].clone();
    let original = json!({ "type": "job", "action": "do", "message": { "what": "this" }, "requestId": id });
    assert_eq!(
        (
            &request["type"],
            &request["originalType"],
            &request["originalAction"],
            &request["originalMessage"]
        ),
        (
            &json!("executionGateway.request"),
            &json!("job"),
            &json!("do"),
            &original
        )
    );
    worker.reply(&request, json!({ "done": true })).await;
    let reply = asked.await.unwrap();
    assert_eq!(reply.result.unwrap().as_str(), r#"{"done":true}"#);
    assert_eq!(reply.by.unwrap().to_string(), "connection:worker");
    // What it may not claim goes elsewhere.
    let error = open.error("chore", json!({})).await;
    assert!(error.starts_with("not-found: chore has no built-in handler"), "{error}");
}

async fn a_failed_reply_is_the_failure_of_the_call() {
    let open = project().open().await;
    let served = open.serve().await;
    let mut worker = Peer::join(&served, "worker").await;
    let asked = open.begin("job:do", json!({})).await;
    let id = worker.hear().await["requestId"].clone();
    let frame =
        json!({ "type": "executionGateway.reply", "replyRequestId": id, "success": false, "error": "out of paint" });
    worker.say(frame).await;
    assert_eq!(
        asked.await.unwrap().result.unwrap_err().to_string(),
        "other: out of paint"
    );
}

async fn what_is_handled_here_is_told_to_subscribers() {
    let open = project().plugin(&Plugin::of("echo")).open().await;
    let served = open.serve().await;
    let mut worker = Peer::join(&served, "worker").await;
    assert_eq!(worker.settle().await["data"]["subscribed"], true);
    open.reply("fsEvent:writeToFile", json!({ "path": "b.txt", "content": "x" }))
        .await;
    open.reply("echo", json!({ "text": "a", "times": 1 })).await;
    open.error("echo", json!({})).await;
    let heard = [worker.hear().await, worker.hear().await, worker.hear().await];
    for frame in &heard {
        assert_eq!(frame["type"], "executionGateway.notification", "{frame}");
    }
    assert_eq!(
        (&heard[0]["originalType"], &heard[0]["originalAction"]),
        (&json!("fsEvent"), &json!("writeToFile"))
    );
    assert_eq!(heard[1]["result"]["text"], "a");
    let error = "the message of echo does not fit: missing field `text` at line 1 column 2";
    assert_eq!(heard[2]["result"], json!({ "success": false, "error": error }));
}

async fn a_forged_reply_counts_for_nothing() {
    let open = project().open().await;
    let served = open.serve().await;
    let mut worker = Peer::join(&served, "worker").await;
    let mut other = Peer::join(&served, "other").await;
    let asked = open.begin("job:do", json!({})).await;
    let request = worker.hear().await;
    other.reply(&request, json!({ "forged": true })).await;
    other.settle().await;
    worker.reply(&request, json!({ "real": true })).await;
    worker.reply(&request, json!({ "again": true })).await;
    assert_eq!(asked.await.unwrap().result.unwrap().as_str(), r#"{"real":true}"#);
    worker.settle().await;
    let rejected = serde_json::to_value(open.hub.gateway.stats().rejected).unwrap();
    let counted: u64 = rejected.as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert_eq!(counted, 2, "{rejected}");
}

async fn a_read_falls_back_when_its_connection_dies() {
    let open = project().open().await;
    let served = open.serve().await;
    let mut worker = Peer::join(&served, "worker").await;
    let asked = open.begin("fsEvent:readFile", json!({ "path": "a.txt" })).await;
    worker.hear().await;
    drop(worker);
    let reply = asked.await.unwrap();
    assert_eq!(reply.by.unwrap().to_string(), "local");
    assert!(reply.result.unwrap().as_str().contains("hello"));
}

/// What the terminal events of a call say of its end.
async fn ends(open: &Open, call: &Call) -> Vec<Value> {
    let is_end = |event: &Event| event.call == Some(call.id) && &*event.kind == "call.ended";
    open.event(is_end).await;
    open.reply("sendMessage", json!({ "message": "later" })).await;
    let events = open.events().await;
    events
        .iter()
        .filter(|event| is_end(event))
        .map(|event| event.body.to::<Value>().unwrap()["error"]["kind"].clone())
        .collect()
}

async fn an_effect_is_indeterminate_when_its_connection_dies() {
    let open = project().open().await;
    let served = open.serve().await;
    let mut worker = Peer::join(&served, "worker").await;
    let call = open.prepared("job:do", json!({})).await;
    let asked = open.carry(call.clone(), Sink::discard());
    worker.hear().await;
    drop(worker);
    assert_eq!(
        asked.await.unwrap().result.unwrap_err().to_string(),
        "indeterminate: connection:worker went away while it worked on job:do; check what it did"
    );
    assert_eq!(ends(&open, &call).await, ["indeterminate"]);
}

async fn a_cancelled_effect_at_a_connection_is_indeterminate() {
    let open = project().open().await;
    let served = open.serve().await;
    let mut worker = Peer::join(&served, "worker").await;
    let call = open.prepared("job:do", json!({})).await;
    let asked = open.carry(call.clone(), Sink::discard());
    let request = worker.hear().await;
    call.cancel.cancel();
    assert_eq!(
        asked.await.unwrap().result.unwrap_err().to_string(),
        "indeterminate: the caller gave up while connection:worker worked on job:do; check what it did"
    );
    worker.reply(&request, json!({ "late": true })).await;
    worker.settle().await;
    assert_eq!(ends(&open, &call).await, ["indeterminate"], "the first end counts");
}

async fn a_claim_ends_with_its_connection_and_rises_with_the_next() {
    let open = project().open().await;
    let served = open.serve().await;
    let name: CallName = "job:do".parse().unwrap();
    let worker = Peer::join(&served, "worker").await;
    drop(worker);
    open.event(|_| !open.hub.gateway.has_claimer("default", &name)).await;
    let error = open.error("job:do", json!({})).await;
    assert!(
        error.starts_with("not-found: job:do has no built-in handler"),
        "{error}"
    );
    let mut worker = Peer::join(&served, "worker").await;
    assert_eq!(worker.settle().await["success"], true);
    let events = open.events().await;
    let epochs: Vec<u64> = events
        .iter()
        .filter(|event| event.kind.starts_with("claim."))
        .filter_map(|event| event.body.to::<Value>().ok()?["epoch"].as_u64())
        .collect();
    assert!(epochs.is_sorted() && epochs.first() < epochs.last(), "{epochs:?}");
}
