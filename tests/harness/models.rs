//! A process on `/plugins` that serves models, in the hands of a trial.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;
use waypost::call::{Call, Reply, Sink};
use waypost::gateway::Rejected;

use super::socket::Socket;
use super::{Open, Project, Served};

/// A hub, and the processes that may connect: two that may claim `inference`, and one that may not.
pub struct Stage {
    pub open: Open,
    pub served: Served,
}

impl Stage {
    /// With these lines in `waypost.toml`.
    pub async fn of(toml: &str) -> Self {
        Self::on(Project::new(), toml).await
    }

    /// The same, of a project.
    pub async fn on(project: Project, toml: &str) -> Self {
        let mut project = project.toml(toml);
        for (name, claim) in [
            ("one", "inference"),
            ("two", "inference"),
            ("reader", "fsEvent:readFile"),
        ] {
            let digest = Sha256::digest(format!("token of {name}"));
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            let entry = format!("[[connection]]\nname = {name:?}\ntoken-sha256 = {digest:?}\nclaim = [{claim:?}]");
            project = project.toml(&entry);
        }
        let open = project.open().await;
        let served = open.serve().await;
        Self { open, served }
    }

    /// One that is connected, with its own token.
    pub async fn connect(&self, name: &str) -> Process {
        let url = format!("ws://{}/plugins?providerId={name}", self.served.address);
        let token = format!("Bearer token of {name}");
        let socket = Socket::connect(&url, &[("authorization", &token)]).await.unwrap();
        let mut process = Process(socket);
        process.settled().await;
        process
    }

    /// One that serves these models as `id`.
    pub async fn serving(&self, name: &str, id: &str, models: &[&str]) -> Process {
        let mut process = self.connect(name).await;
        let models: Vec<Value> = models.iter().map(|id| json!({ "id": id })).collect();
        let answer = process
            .register(json!({ "providerId": id, "name": id, "models": models }))
            .await;
        let data = json!({ "providerId": id, "registered": true });
        let expected =
            json!({ "type": "llmProvider.registerResponse", "requestId": "r", "success": true, "data": data });
        assert_eq!(answer, expected);
        process
    }

    /// Begins a call whose chunks are read to the end.
    pub async fn ask(&self, message: Value) -> (Call, JoinHandle<(Vec<Value>, Reply)>) {
        let call = self.open.prepared("inference", message).await;
        let (sink, mut reader) = Sink::channel();
        let reply = self.open.carry(call.clone(), sink);
        let all = tokio::spawn(async move {
            let mut chunks = Vec::new();
            while let Some(chunk) = reader.recv().await {
                chunks.push(chunk.to().unwrap());
            }
            (chunks, reply.await.unwrap())
        });
        (call, all)
    }

    /// What was refused so far.
    pub fn rejected(&self) -> Rejected {
        self.open.hub.gateway.stats().rejected
    }

    /// Waits until a process that held the claim is gone.
    pub async fn gone(&self) {
        self.open.event(|event| &*event.kind == "claim.released").await;
    }
}

/// A connected process.
pub struct Process(pub Socket);

impl Process {
    /// Says a frame of a type.
    pub async fn say(&mut self, kind: &str, mut frame: Value) {
        frame["type"] = json!(kind);
        self.0.say(frame).await;
    }

    /// The next frame of one of these types.
    pub async fn hear(&mut self, kinds: &[&str]) -> Value {
        loop {
            let frame = self.0.hear().await;
            if kinds.contains(&frame["type"].as_str().unwrap()) {
                return frame;
            }
        }
    }

    /// All that was said before has been taken in when this resolves.
    pub async fn settled(&mut self) {
        self.say("executionGateway.subscribe", json!({})).await;
        self.hear(&["executionGateway.subscribeResponse"]).await;
    }

    /// Registers, and hears the answer.
    pub async fn register(&mut self, manifest: Value) -> Value {
        let frame = json!({ "requestId": "r", "manifest": manifest });
        self.say("llmProvider.register", frame).await;
        self.hear(&["llmProvider.registerResponse"]).await
    }

    /// Why a manifest is refused.
    pub async fn refused(&mut self, manifest: Value) -> String {
        let answer = self.register(manifest).await;
        assert_eq!(answer["success"], false, "{answer}");
        answer["error"].as_str().unwrap().to_owned()
    }

    /// The next request to a model.
    pub async fn asked(&mut self) -> Value {
        self.hear(&["llmProvider.streamRequest", "llmProvider.completionRequest"])
            .await
    }

    /// Says a chunk of the answer.
    pub async fn chunk(&mut self, asked: &Value, chunk: Value) {
        let frame = json!({ "requestId": asked["requestId"], "chunk": chunk });
        self.say("llmProvider.chunk", frame).await;
    }

    /// Replies.
    pub async fn reply(&mut self, asked: &Value, response: Value) {
        let frame = json!({ "replyRequestId": asked["requestId"], "response": response });
        self.say("llmProvider.reply", frame).await;
    }
}
