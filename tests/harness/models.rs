//! A process on `/plugins` that serves models, in the hands of a trial.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use waypost::call::{Call, Json, Reply, Sink};
use waypost::gateway::Rejected;
use waypost::log::Event;

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
        let open = Self::project(project, toml).open().await;
        let served = open.serve().await;
        Self { open, served }
    }

    /// A project of these processes, without a hub.
    pub fn project(project: Project, toml: &str) -> Project {
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
        project
    }

    /// One that is connected, with its own token.
    pub async fn connect(&self, name: &str) -> Process {
        Process::connect(&self.served.address.to_string(), name).await
    }

    /// One that serves these models as `id`.
    pub async fn serving(&self, name: &str, id: &str, models: &[&str]) -> Process {
        let mut process = self.connect(name).await;
        process.serve(id, models).await;
        process
    }

    /// Begins a call whose chunks are read to the end.
    pub async fn ask(&self, message: Value) -> (Call, JoinHandle<(Vec<Value>, Reply)>) {
        let (call, reader, reply) = self.unread(message).await;
        (call, tokio::spawn(read(reader, reply)))
    }

    /// Begins a call whose chunks wait until they are read.
    pub async fn unread(&self, message: Value) -> (Call, mpsc::Receiver<Json>, JoinHandle<Reply>) {
        let call = self.open.prepared("inference", message).await;
        let (sink, reader) = Sink::channel();
        let reply = self.open.carry(call.clone(), sink);
        (call, reader, reply)
    }

    /// Checks that the log has exactly one end of a call.
    pub async fn ended_once(&self, call: &Call) {
        let end = |event: &&Event| event.call == Some(call.id) && &*event.kind == "call.ended";
        assert_eq!(self.open.events().await.iter().filter(end).count(), 1);
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

/// All chunks of an answer, and its end.
pub async fn read(mut reader: mpsc::Receiver<Json>, reply: JoinHandle<Reply>) -> (Vec<Value>, Reply) {
    let mut chunks = Vec::new();
    while let Some(chunk) = reader.recv().await {
        chunks.push(chunk.to().unwrap());
    }
    (chunks, reply.await.unwrap())
}

/// A connected process.
pub struct Process(pub Socket);

impl Process {
    /// Connects to the hub that is served there, with its own token.
    pub async fn connect(address: &str, name: &str) -> Self {
        let url = format!("ws://{address}/plugins?providerId={name}");
        let token = format!("Bearer token of {name}");
        let mut process = Self(Socket::connect(&url, &[("authorization", &token)]).await.unwrap());
        process.settled().await;
        process
    }

    /// Registers these models as `id`.
    pub async fn serve(&mut self, id: &str, models: &[&str]) {
        let models: Vec<Value> = models.iter().map(|id| json!({ "id": id })).collect();
        let answer = self
            .register(json!({ "providerId": id, "name": id, "models": models }))
            .await;
        let data = json!({ "providerId": id, "registered": true });
        let expected =
            json!({ "type": "llmProvider.registerResponse", "requestId": "r", "success": true, "data": data });
        assert_eq!(answer, expected);
    }

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
