//! The two carriers of the gateway in the hands of a trial: a process on `/plugins` over a real socket, and a component.
//!
//! Both answer when the trial says so. The process is the trial itself; the component asks a person what to do, and the
//! trial is that person.

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{self, Message, client::IntoClientRequest};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use waypost::capabilities::chat::{Answer, Question};

use super::{Open, Plugin, Project, Served};

/// What carries the calls of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A connected process.
    Connection,
    /// A WASM plugin.
    Component,
}

/// What both may claim: an effect without a built-in handler, one with little time, and a read that has one.
const CLAIM: [&str; 3] = ["job:*", "short:*", "fsEvent:readFile"];

/// The calls that go to whoever claims them.
const RULES: &str = r#"
[[route]]
match = "short"
to = "proxy"
timeout = "300ms"
[[route]]
match = ["job", "chore", "fsEvent:readFile", "fsEvent:writeToFile"]
to = "proxy"
[[route]]
match = "errand"
to = "proxy-only"
"#;

/// A hub with parties that are there or can come.
pub struct Stage {
    pub side: Side,
    pub open: Open,
    served: Served,
}

impl Stage {
    /// With a file to read, and these lines in front of `waypost.toml`.
    pub async fn of(side: Side, toml: &str) -> Self {
        let connection = |name: &str, claim: String| {
            let digest = Sha256::digest(format!("token of {name}"));
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("[[connection]]\nname = {name:?}\ntoken-sha256 = {digest:?}\nclaim = {claim}\n")
        };
        let mut project = Project::new().toml(toml).file("a.txt", "hello\n");
        for name in ["worker", "rival"] {
            project = project.toml(&connection(name, format!("{CLAIM:?}")));
        }
        for name in ["one", "two"] {
            project = project.toml(&connection(name, format!("[\"nothing:{name}\"]")));
        }
        let open = project.toml(RULES).open().await;
        let served = open.serve().await;
        Self { side, open, served }
    }

    /// A claimer that comes now. It claims what `job` and reads of files are, if that is free.
    pub async fn claimer(&self, name: &str) -> Party<'_> {
        self.party(name, |name| {
            Plugin::of("puppet")
                .named(name)
                .serves(&CLAIM)
                .claims(&CLAIM)
                .grants("gateway = [\"waitforReply\"]")
        })
        .await
    }

    /// A subscriber that comes now.
    pub async fn subscriber(&self, name: &str) -> Party<'_> {
        self.party(name, |name| {
            Plugin::of("witness")
                .named(name)
                .role("observer")
                .subscribes()
                .grants("gateway = [\"waitforReply\"]")
        })
        .await
    }

    async fn party(&self, name: &str, plugin: impl Fn(&str) -> Plugin) -> Party<'_> {
        let peer = match self.side {
            Side::Connection => Some(Peer::join(&self.served, name).await),
            Side::Component => {
                self.open.load(&plugin(name)).await;
                None
            }
        };
        Party {
            stage: self,
            name: name.to_owned(),
            peer,
        }
    }

    /// A process that connects, whatever the side.
    pub async fn connect(&self, name: &str, token: Option<&str>) -> Result<Peer, tungstenite::Error> {
        Peer::connect(&self.served, name, token).await
    }

    /// The question of a plugin, as soon as there is one.
    async fn question(&self, id: &str) -> Question {
        let mut changes = self.open.hub.desk.changes();
        loop {
            changes.borrow_and_update();
            let events = self.open.events().await;
            let asked_by = |question: &Question| {
                events.iter().any(|event| {
                    event.call == Some(question.call) && event.body.to::<Value>().unwrap()["principal"]["id"] == id
                })
            };
            if let Some(question) = self.open.hub.desk.open().into_iter().find(asked_by) {
                return question;
            }
            changes.changed().await.unwrap();
        }
    }
}

/// One claimer or subscriber.
pub struct Party<'a> {
    stage: &'a Stage,
    name: String,
    peer: Option<Peer>,
}

/// A call that a party was asked to execute.
pub struct Asked {
    pub name: String,
    pub message: Value,
    /// By which it is answered.
    handle: Handle,
}

enum Handle {
    Frame(Value),
    Question(Box<Question>),
}

impl Party<'_> {
    /// How the hub names it.
    pub fn target(&self) -> String {
        match self.stage.side {
            Side::Connection => format!("connection:{}", self.name),
            Side::Component => format!("plugin:{}", self.name),
        }
    }

    /// Why it does not hold what it claims, after it tried once more; none when it does.
    pub async fn refused(&mut self) -> Option<String> {
        match &mut self.peer {
            Some(peer) => {
                let answer = peer.order("claim").await;
                answer["error"].as_str().map(str::to_owned)
            }
            None => {
                let hub = &self.stage.open.hub;
                let plugin = hub.plugins.get(&self.name).unwrap();
                hub.carriers.shown(&plugin).await.unclaimed
            }
        }
    }

    /// The next call that it is asked to execute.
    pub async fn asked(&mut self) -> Asked {
        match &mut self.peer {
            Some(peer) => {
                let frame = peer.hear("executionGateway.request").await;
                Asked {
                    name: name(&frame),
                    message: frame["originalMessage"]["message"].clone(),
                    handle: Handle::Frame(frame["requestId"].clone()),
                }
            }
            None => {
                let question = self.stage.question(&self.name).await;
                let asked: Value = serde_json::from_str(&question.text).unwrap();
                Asked {
                    name: asked["name"].as_str().unwrap().to_owned(),
                    message: asked["message"].clone(),
                    handle: Handle::Question(Box::new(question)),
                }
            }
        }
    }

    pub async fn answer(&mut self, asked: &Asked, result: Value) {
        self.end(
            asked,
            json!({ "success": true, "result": result }),
            json!({ "answer": result }),
        )
        .await;
    }

    pub async fn fail(&mut self, asked: &Asked, text: &str) {
        self.end(
            asked,
            json!({ "success": false, "error": text }),
            json!({ "fail": text }),
        )
        .await;
    }

    async fn end(&mut self, asked: &Asked, mut frame: Value, told: Value) {
        match (&asked.handle, &mut self.peer) {
            (Handle::Frame(id), Some(peer)) => {
                frame["type"] = json!("executionGateway.reply");
                frame["replyRequestId"] = id.clone();
                peer.say(frame).await;
            }
            (Handle::Question(question), None) => {
                let answer = Answer::plain(told.to_string());
                self.stage.open.hub.desk.answer(question.id, answer).unwrap();
            }
            _ => unreachable!("a party answers what it was asked"),
        }
    }

    /// It dies while it works: the process goes away, or the component traps.
    pub async fn die(mut self, asked: &Asked) {
        if self.peer.is_none() {
            self.end(asked, json!({}), json!("trap")).await;
        }
    }

    /// It lets go of its claim and its subscription: the process says so, the component is unloaded.
    pub async fn leave(mut self) -> Option<Peer> {
        match &mut self.peer {
            Some(peer) => {
                peer.order("relinquish").await;
                peer.order("unsubscribe").await;
            }
            None => self.stage.open.hub.unload_plugin(&self.name).await.unwrap(),
        }
        self.peer
    }

    /// The next call that it hears of, with `name`, `message`, `result` and how many were dropped before it. What it does
    /// itself to hear is not told.
    pub async fn hear(&mut self) -> Value {
        loop {
            let heard = match &mut self.peer {
                Some(peer) => {
                    let frame = peer.hear("executionGateway.notification").await;
                    json!({
                        "name": name(&frame), "message": frame["originalMessage"]["message"], "result": frame["result"],
                        "dropped": frame["dropped"].as_u64().unwrap_or(0),
                    })
                }
                None => {
                    let question = self.stage.question(&self.name).await;
                    self.stage
                        .open
                        .hub
                        .desk
                        .answer(question.id, Answer::plain("ok"))
                        .unwrap();
                    serde_json::from_str(&question.text).unwrap()
                }
            };
            if heard["name"] != "waitforReply" {
                return heard;
            }
        }
    }
}

fn name(frame: &Value) -> String {
    let kind = frame["originalType"].as_str().unwrap();
    match frame["originalAction"].as_str() {
        Some(action) => format!("{kind}:{action}"),
        None => kind.to_owned(),
    }
}

/// A process on `/plugins`.
pub struct Peer(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Peer {
    async fn connect(served: &Served, name: &str, token: Option<&str>) -> Result<Self, tungstenite::Error> {
        let mut request = format!("ws://{}/plugins?providerId={name}", served.address).into_client_request()?;
        if let Some(token) = token {
            let header = format!("Bearer {token}").parse().unwrap();
            request.headers_mut().insert("authorization", header);
        }
        tokio_tungstenite::connect_async(request)
            .await
            .map(|(socket, _)| Self(socket))
    }

    /// Connects with its own token; its claim is granted, if it can be, when this resolves.
    async fn join(served: &Served, name: &str) -> Self {
        let token = format!("token of {name}");
        let mut peer = Self::connect(served, name, Some(&token)).await.unwrap();
        peer.order("subscribe").await;
        peer
    }

    pub async fn say(&mut self, frame: Value) {
        self.0.send(Message::text(frame.to_string())).await.unwrap();
    }

    /// The next frame of a type.
    async fn hear(&mut self, wanted: &str) -> Value {
        loop {
            if let Message::Text(text) = self.0.next().await.unwrap().unwrap() {
                let frame: Value = serde_json::from_str(&text).unwrap();
                if frame["type"] == wanted {
                    return frame;
                }
            }
        }
    }

    /// Gives an order and hears its answer: all that was said before has been heard then.
    pub async fn order(&mut self, order: &str) -> Value {
        self.say(json!({ "type": format!("executionGateway.{order}"), "requestId": order }))
            .await;
        loop {
            if let Message::Text(text) = self.0.next().await.unwrap().unwrap() {
                let frame: Value = serde_json::from_str(&text).unwrap();
                if frame["requestId"] == order {
                    return frame;
                }
            }
        }
    }

    /// Replies to a request that any connection was sent.
    pub async fn reply(&mut self, asked: &Asked, result: Value) {
        let Handle::Frame(id) = &asked.handle else {
            unreachable!("a connection is asked by a frame")
        };
        self.say(json!({ "type": "executionGateway.reply", "replyRequestId": id, "success": true, "result": result }))
            .await;
    }
}

impl Party<'_> {
    /// The process behind it.
    pub fn peer(&mut self) -> &mut Peer {
        self.peer.as_mut().expect("this check is for connections")
    }
}
