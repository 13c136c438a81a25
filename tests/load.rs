//! Many agents and many connections at once, with a ledger that the trial keeps by itself: what each agent asked, what it
//! heard, and what each connection executed. What the hub says of itself is not asked before the ledger is closed.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::harness::Project;
use crate::harness::socket::Socket;
use crate::listed;

listed![each_of_many_calls_is_answered_once_and_executed_once_at_most];

const AGENTS: usize = 200;
const CONNECTIONS: usize = 50;

/// Files that are read between the calls.
const FILES: usize = 5;

/// After so many requests a connection of [`Manner::Drops`] or [`Manner::LetsGo`] does so, once.
const TURN: usize = 60;

/// What is not answered by then is lost.
const PATIENCE: Duration = Duration::from_secs(40);

/// How a connection behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Executes and replies.
    Steady,
    /// Says each reply once more before the next one.
    Repeats,
    /// Goes away with a request that it has executed, and comes back.
    Drops,
    /// Lets go of its claim with a request that it has executed, replies then, and claims again.
    LetsGo,
}

fn manner(connection: usize) -> Manner {
    match connection % 10 {
        3 | 8 => Manner::Drops,
        5 => Manner::Repeats,
        7 => Manner::LetsGo,
        _ => Manner::Steady,
    }
}

/// What an agent asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Work(usize),
    Read(usize),
}

/// One call of an agent, in the order in which they are asked.
#[derive(Clone, Copy, Debug)]
struct Planned {
    asked: Asked,
    numbered: bool,
}

impl Planned {
    fn awaited(self) -> String {
        match self.asked {
            Asked::Work(connection) => format!("work{connection}Response"),
            Asked::Read(_) => "readFileResponse".to_owned(),
        }
    }

    fn frame(self, agent: usize, call: usize) -> Value {
        let mut frame = match self.asked {
            Asked::Work(connection) => {
                json!({ "type": format!("work{connection}"), "message": { "agent": agent, "call": call } })
            }
            Asked::Read(file) => {
                json!({ "type": "fsEvent", "action": "readFile", "message": { "filePath": format!("{file}.txt") } })
            }
        };
        if self.numbered {
            frame["requestId"] = json!(request_id(agent, call));
        }
        frame
    }
}

fn request_id(agent: usize, call: usize) -> String {
    format!("{agent}-{call}")
}

/// Every agent asks every connection, numbered or not; some twice in a row without a number, so that order decides.
fn plan(agent: usize) -> Vec<Planned> {
    let mut plan = Vec::new();
    for step in 0..CONNECTIONS {
        let connection = (step + agent * 7) % CONNECTIONS;
        let numbered = (agent + connection).is_multiple_of(2);
        let asked = Asked::Work(connection);
        plan.push(Planned { asked, numbered });
        if !numbered && connection.is_multiple_of(4) {
            plan.push(Planned { asked, numbered });
        }
        if step.is_multiple_of(10) {
            let asked = Asked::Read((agent + step) % FILES);
            plan.push(Planned { asked, numbered });
        }
    }
    plan
}

/// What the connections executed: by agent and call, what they said each time.
#[derive(Default)]
struct Ledger(Mutex<HashMap<(usize, usize), Vec<String>>>);

impl Ledger {
    fn executed(&self, agent: usize, call: usize, said: &str) {
        let mut executed = self.0.lock().unwrap();
        executed.entry((agent, call)).or_default().push(said.to_owned());
    }

    fn of(&self, agent: usize, call: usize) -> Vec<String> {
        self.0.lock().unwrap().get(&(agent, call)).cloned().unwrap_or_default()
    }
}

/// A connected process.
struct Worker {
    number: usize,
    address: SocketAddr,
    ledger: Arc<Ledger>,
    /// Told each time that it holds its claim.
    holds: mpsc::Sender<()>,
}

impl Worker {
    async fn live(self) {
        let mut turned = false;
        let mut executed = 0;
        let mut last = None;
        loop {
            let mut socket = self.join().await;
            while let Ok(frame) = socket.hear_or_end().await {
                // It claims at once; what it says first is answered after that.
                if ["joined", "again"].iter().any(|id| frame["requestId"] == *id) {
                    self.holds.send(()).await.unwrap();
                }
                if frame["type"] != "executionGateway.request" {
                    continue;
                }
                executed += 1;
                let said = format!("{} of work{}", executed, self.number);
                let message = &frame["originalMessage"]["message"];
                let place = |name: &str| usize::try_from(message[name].as_u64().unwrap()).unwrap();
                self.ledger.executed(place("agent"), place("call"), &said);
                let reply = json!({
                    "type": "executionGateway.reply", "replyRequestId": frame["requestId"], "success": true,
                    "result": { "did": { "agent": message["agent"], "call": message["call"], "said": said } },
                });
                let turns = executed >= TURN && !turned;
                match manner(self.number) {
                    Manner::Drops if turns => {
                        turned = true;
                        break;
                    }
                    Manner::LetsGo if turns => {
                        turned = true;
                        socket.say(json!({ "type": "executionGateway.relinquish" })).await;
                        socket.say(reply).await;
                        socket
                            .say(json!({ "type": "executionGateway.claim", "requestId": "again" }))
                            .await;
                    }
                    Manner::Repeats => {
                        if let Some(said) = last.replace(reply.clone()) {
                            socket.say(said).await;
                        }
                        socket.say(reply).await;
                    }
                    _ => socket.say(reply).await,
                }
            }
        }
    }

    /// Connects. One in ten hears of what is read, the others would rather not.
    async fn join(&self) -> Socket {
        let name = format!("c{}", self.number);
        let url = format!("ws://{}/plugins?providerId={name}", self.address);
        let token = format!("Bearer {}", token(self.number));
        let mut socket = Socket::connect(&url, &[("authorization", &token)]).await.unwrap();
        let order = if self.number.is_multiple_of(10) {
            "subscribe"
        } else {
            "unsubscribe"
        };
        socket
            .say(json!({ "type": format!("executionGateway.{order}"), "requestId": "joined" }))
            .await;
        socket
    }
}

fn token(connection: usize) -> String {
    format!("token of {connection}")
}

fn toml() -> String {
    // All that all agents have under way may wait in the hub.
    let mut toml = "[sockets]\nallow-unbound-agents = true\n[limits]\ncall-queue = 20000\n".to_owned();
    for number in 0..CONNECTIONS {
        let digest = Sha256::digest(token(number));
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        toml.push_str(&format!(
            "[[connection]]\nname = \"c{number}\"\ntoken-sha256 = {digest:?}\nclaim = [\"work{number}\"]\n\
             [[route]]\nmatch = \"work{number}\"\nto = \"proxy\"\n"
        ));
    }
    toml
}

type Stream = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// An agent: it asks all at once, and hears until all is answered or patience is over.
struct Agent {
    number: usize,
    plan: Vec<Planned>,
    /// What it heard, by call.
    heard: Vec<Vec<Value>>,
    /// Calls without an answer: by their number, and those without a number by the type that they await.
    numbered: HashMap<String, usize>,
    lanes: HashMap<String, VecDeque<usize>>,
    /// What it heard that belongs to no call.
    stray: Vec<Value>,
}

impl Agent {
    fn new(number: usize, plan: Vec<Planned>) -> Self {
        let mut numbered = HashMap::new();
        let mut lanes: HashMap<String, VecDeque<usize>> = HashMap::new();
        for (call, planned) in plan.iter().enumerate() {
            if planned.numbered {
                numbered.insert(request_id(number, call), call);
            } else {
                lanes.entry(planned.awaited()).or_default().push_back(call);
            }
        }
        Self {
            number,
            heard: vec![Vec::new(); plan.len()],
            plan,
            numbered,
            lanes,
            stray: Vec::new(),
        }
    }

    /// Asks and hears all there is, and then whatever comes before the answer to one more question.
    async fn work(mut self, address: SocketAddr) -> Self {
        let socket = Socket::connect(&format!("ws://{address}/codebolt?id="), &[])
            .await
            .unwrap();
        let (mut says, mut hears) = socket.0.split();
        let frames: Vec<Value> = self
            .plan
            .iter()
            .enumerate()
            .map(|(call, asked)| asked.frame(self.number, call))
            .collect();
        let all = async {
            let heard = self.hear(&mut hears, None);
            futures::join!(say(&mut says, frames), heard);
            let last = json!({ "type": "fsEvent", "action": "readFile", "message": { "filePath": "0.txt" }, "requestId": "last" });
            say(&mut says, vec![last]).await;
            self.hear(&mut hears, Some("last")).await;
        };
        // What is missing then is found in the ledger.
        drop(tokio::time::timeout(PATIENCE, all).await);
        self
    }

    /// Hears until nothing is open, or until the answer with this number.
    async fn hear(&mut self, hears: &mut SplitStream<Stream>, until: Option<&str>) {
        let mut open = self.plan.len();
        while until.is_some() || open > 0 {
            let Some(Ok(message)) = hears.next().await else { return };
            let Message::Text(text) = message else { continue };
            let frame: Value = serde_json::from_str(&text).unwrap();
            if until.is_some_and(|id| frame["requestId"] == id) {
                return;
            }
            let kind = frame["type"].as_str().unwrap_or_default();
            let call = match frame["requestId"].as_str() {
                Some(id) => self.numbered.get(id).copied(),
                None => self.lanes.get_mut(kind).and_then(VecDeque::pop_front),
            };
            match call {
                Some(call) => {
                    open = open.saturating_sub(usize::from(self.heard[call].is_empty()));
                    self.heard[call].push(frame);
                }
                None => self.stray.push(frame),
            }
        }
    }

    /// What is wrong with what this agent heard, and how many of its calls succeeded.
    fn audit(&self, ledger: &Ledger, wrong: &mut Vec<String>) -> usize {
        let agent = self.number;
        wrong.extend(
            self.stray
                .iter()
                .map(|frame| format!("agent {agent} heard what it did not ask for: {frame}")),
        );
        let mut succeeded = 0;
        for (call, (planned, heard)) in self.plan.iter().zip(&self.heard).enumerate() {
            let said = ledger.of(agent, call);
            let mut problem = |text: String| wrong.push(format!("call {call} of agent {agent}, {planned:?}: {text}"));
            if said.len() > 1 {
                problem(format!("executed {} times: {said:?}", said.len()));
            }
            let [answer] = heard.as_slice() else {
                problem(format!(
                    "answered {} times, executed as {said:?}: {heard:?}",
                    heard.len()
                ));
                continue;
            };
            if answer["type"] != *planned.awaited() {
                problem(format!("not the awaited type: {answer}"));
            }
            let success = answer["success"] == true;
            succeeded += usize::from(success);
            match planned.asked {
                Asked::Read(file) if answer["content"] != text_of(file) => problem(format!("not its file: {answer}")),
                Asked::Read(_) => {}
                Asked::Work(_) if success => {
                    let did = json!({ "agent": agent, "call": call, "said": said.first() });
                    if said.is_empty() || answer["did"] != did {
                        problem(format!("executed as {said:?}, and answered {answer}"));
                    }
                }
                Asked::Work(connection) => {
                    let known = match answer["errorKind"].as_str() {
                        // It left the hub; nobody knows what became of it.
                        Some("indeterminate") => true,
                        Some("unavailable" | "not-found") => said.is_empty(),
                        _ => false,
                    };
                    let stays = matches!(manner(connection), Manner::Steady | Manner::Repeats);
                    if !known || stays || answer["error"].as_str().is_none_or(str::is_empty) {
                        problem(format!("executed as {said:?}, and failed as {answer}"));
                    }
                }
            }
        }
        succeeded
    }
}

async fn say(says: &mut SplitSink<Stream, Message>, frames: Vec<Value>) {
    for frame in frames {
        // A connection that was cut is found in the ledger.
        drop(says.feed(Message::text(frame.to_string())).await);
    }
    drop(says.flush().await);
}

fn text_of(file: usize) -> String {
    format!("the text of {file}\n")
}

async fn each_of_many_calls_is_answered_once_and_executed_once_at_most() {
    let project = Project::new().toml(&toml());
    let project = (0..FILES).fold(project, |project, file| {
        project.file(&format!("{file}.txt"), text_of(file))
    });
    let open = project.open().await;
    let served = open.serve().await;
    let address = served.address;
    let ledger = Arc::new(Ledger::default());

    let (holds, mut held) = mpsc::channel(2 * CONNECTIONS);
    let mut workers = JoinSet::new();
    for number in 0..CONNECTIONS {
        let (ledger, holds) = (Arc::clone(&ledger), holds.clone());
        workers.spawn(
            Worker {
                number,
                address,
                ledger,
                holds,
            }
            .live(),
        );
    }
    for _ in 0..CONNECTIONS {
        held.recv().await.unwrap();
    }

    let mut agents = JoinSet::new();
    for number in 0..AGENTS {
        agents.spawn(Agent::new(number, plan(number)).work(address));
    }
    let mut agents = agents.join_all().await;
    // Whoever went away or let go is back: now nothing may fail any more.
    for _ in (0..CONNECTIONS).filter(|number| matches!(manner(*number), Manner::Drops | Manner::LetsGo)) {
        held.recv().await.unwrap();
    }
    let all = (0..CONNECTIONS).map(|connection| Planned {
        asked: Asked::Work(connection),
        numbered: true,
    });
    let last = Agent::new(AGENTS, all.collect()).work(address).await;

    let mut wrong = Vec::new();
    if last.audit(&ledger, &mut wrong) != CONNECTIONS {
        wrong.push(format!(
            "with all connections back, not every call succeeded: {:?}",
            last.heard
        ));
    }
    agents.sort_by_key(|agent| agent.number);
    let asked: usize = agents.iter().map(|agent| agent.plan.len()).sum();
    let succeeded: usize = agents.iter().map(|agent| agent.audit(&ledger, &mut wrong)).sum();
    let executed: usize = ledger.0.lock().unwrap().values().map(Vec::len).sum();
    assert!(
        wrong.is_empty(),
        "{asked} calls asked, {succeeded} succeeded, {executed} executed, {} things wrong, the first of them:\n{}",
        wrong.len(),
        wrong.iter().take(10).map(String::as_str).collect::<Vec<_>>().join("\n")
    );
    assert!(
        succeeded < asked,
        "no call met a connection that goes: the trial shows less than it says"
    );

    // And the hub counted the same.
    let repeated = |(agent, call): &&(usize, usize)| {
        let plan = &agents.get(*agent).unwrap_or(&last).plan;
        matches!(plan[*call].asked, Asked::Work(connection) if manner(connection) == Manner::Repeats)
    };
    let count = |wanted| (0..CONNECTIONS).filter(|number| manner(*number) == wanted).count();
    let repeated = ledger.0.lock().unwrap().keys().filter(repeated).count() - count(Manner::Repeats);
    let stats = open.hub.gateway.stats();
    let now = (stats.attached, stats.claims, stats.pending);
    assert_eq!(now, (CONNECTIONS, CONNECTIONS, 0));
    let rejected = stats.rejected;
    assert_eq!((rejected.foreign, rejected.late), (0, 0), "{rejected:?}");
    // Said once more, or under a claim that was let go; what ended long ago is not known any more, and counts as unknown.
    let refused = usize::try_from(rejected.duplicate + rejected.unknown + rejected.stale).unwrap();
    assert!(
        refused >= repeated + count(Manner::LetsGo),
        "{rejected:?}, {repeated} said once more"
    );
}
