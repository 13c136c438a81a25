//! What the wire costs: a call over two sockets, beside a relay that does nothing but pass frames on.
//!
//! Both sides have the same agent, the same connected process, the same library and the same number of sockets, all in this
//! process. The hub also reads the frames, decides, writes each call to its log on disk, and lets a reply count once.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message as Frame, WebSocket, WebSocketUpgrade};
use axum::routing::any;
use axum::serve::ListenerExt as _;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use waypost::config::Config;
use waypost::hub::Hub;
use waypost::transports;

use crate::Outcome;
use crate::pairs::{Medians, median, p99, pairs};

/// Calls on their way at the same time.
const IN_FLIGHT: usize = 64;

/// Calls of one turn of a pair.
const TURN: usize = 2048;

/// Calls a second of an agent that keeps a pace.
const PACE: u32 = 2_000;

/// How long a pace is kept.
const KEPT: Duration = Duration::from_secs(3);

/// How often a pace is kept, for the median.
const TIMES: usize = 3;

const TOKEN: &str = "token of the bench";

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A proxied call at full speed beside the relay, and the relay beside an echo.
pub(crate) async fn proxied() -> Outcome<(Medians, Medians)> {
    let (relay, echo) = (Relay::start().await?, Echo::start().await?);
    let house = House::start().await?;
    let worker = house.worker().await?;
    let bare_worker = tokio::spawn(answer(connect(&format!("ws://{}/worker", relay.0), None).await?));
    let ours = Mutex::new(Agent::new(connect(&house.agent(), None).await?));
    let bare = Mutex::new(Agent::new(connect(&format!("ws://{}/agent", relay.0), None).await?));
    let echoed = Mutex::new(Agent::new(connect(&format!("ws://{}/", echo.0), None).await?));
    let beside_relay = pairs(|| turn(&bare), || turn(&ours)).await?;
    let beside_echo = pairs(|| turn(&echoed), || turn(&bare)).await?;
    worker.abort();
    bare_worker.abort();
    Ok((each(beside_relay), each(beside_echo)))
}

/// How long the slowest of a hundred local calls takes, of an agent without numbers at a steady pace, beside an echo.
pub(crate) async fn paced() -> Outcome<Medians> {
    let echo = Echo::start().await?;
    let house = House::start().await?;
    let (mut raw, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        raw.push(slowest(connect(&format!("ws://{}/", echo.0), None).await?).await?);
        ours.push(slowest(connect(&house.agent(), None).await?).await?);
    }
    Ok(Medians {
        raw: median(raw),
        ours: median(ours),
    })
}

fn each(medians: Medians) -> Medians {
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let calls = TURN as f64;
    Medians {
        raw: medians.raw / calls,
        ours: medians.ours / calls,
    }
}

/// A hub with its log on disk, served.
struct House {
    address: SocketAddr,
    _hub: Arc<Hub>,
    _folder: TempDir,
}

impl House {
    async fn start() -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let mut digest = String::new();
        for byte in Sha256::digest(TOKEN) {
            write!(digest, "{byte:02x}")?;
        }
        let toml = format!(
            "[sockets]\nallow-unbound-agents = true\n[[connection]]\nname = \"worker\"\ntoken-sha256 = \"{digest}\"\nclaim = \
             [\"work\"]\n[[route]]\nmatch = \"work\"\nto = \"proxy\"\neffect = \"read\"\n"
        );
        std::fs::write(folder.path().join("waypost.toml"), toml)?;
        std::fs::write(folder.path().join("a.txt"), "hello\n")?;
        let config = Config::read(&folder.path().join("waypost.toml"))?;
        let hub = Hub::open_with(folder.path(), config, &|_| None).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let router = transports::router(&hub, &address.to_string(), "token")?;
        tokio::spawn(transports::serve(listener, router, std::future::pending()));
        Ok(Self {
            address,
            _hub: hub,
            _folder: folder,
        })
    }

    fn agent(&self) -> String {
        format!("ws://{}/codebolt?id=", self.address)
    }

    /// A connected process that answers every request; its claim holds when this resolves.
    async fn worker(&self) -> Outcome<JoinHandle<Outcome<()>>> {
        let mut client = connect(&format!("ws://{}/plugins?providerId=worker", self.address), Some(TOKEN)).await?;
        client
            .send(Message::text(r#"{"type":"executionGateway.claim","requestId":"c"}"#))
            .await?;
        client.next().await.ok_or("the hub hung up")??;
        Ok(tokio::spawn(answer(client)))
    }
}

async fn connect(url: &str, token: Option<&str>) -> Outcome<Client> {
    let mut request = url.into_client_request()?;
    if let Some(token) = token {
        request
            .headers_mut()
            .insert("authorization", format!("Bearer {token}").parse()?);
    }
    let (client, _) = tokio_tungstenite::connect_async_with_config(request, None, true).await?;
    Ok(client)
}

/// The number of a frame, in whichever of these fields it stands.
fn number(text: &str, fields: [&str; 2]) -> Option<String> {
    let frame: Value = serde_json::from_str(text).ok()?;
    fields
        .iter()
        .find_map(|field| Some(frame.get(*field)?.as_str()?.to_owned()))
}

/// Answers requests as a connected process does.
async fn answer(mut client: Client) -> Outcome<()> {
    while let Some(message) = client.next().await {
        let Message::Text(text) = message? else { continue };
        let Some(id) = number(&text, ["requestId", ""]) else {
            continue;
        };
        let reply = format!(
            r#"{{"type":"executionGateway.reply","requestId":"reply-{id}","replyRequestId":"{id}","success":true,"result":{{"type":"workResponse","done":true}}}}"#
        );
        client.send(Message::text(reply)).await?;
    }
    Ok(())
}

/// An agent that numbers its requests.
struct Agent {
    sink: SplitSink<Client, Message>,
    stream: SplitStream<Client>,
    next: u64,
}

impl Agent {
    fn new(client: Client) -> Self {
        let (sink, stream) = client.split();
        Self { sink, stream, next: 0 }
    }

    async fn ask(&mut self) -> Outcome<()> {
        self.next += 1;
        let frame = format!(
            r#"{{"type":"work","message":{{"path":"src/main.rs","text":"one call among many others"}},"requestId":"{}"}}"#,
            self.next
        );
        Ok(self.sink.send(Message::text(frame)).await?)
    }
}

/// So many calls, so many of them at once; each must be answered.
async fn turn(agent: &Mutex<Agent>) -> Outcome<()> {
    let mut agent = agent.lock().await;
    for _ in 0..IN_FLIGHT {
        agent.ask().await?;
    }
    let mut asked = IN_FLIGHT;
    let mut answered = 0;
    while answered < TURN {
        let Message::Text(text) = agent.stream.next().await.ok_or("the hub hung up")?? else {
            continue;
        };
        // Whoever passes frames on unread leaves the worker's frame as it is.
        number(&text, ["replyRequestId", "requestId"]).ok_or("an answer without its number")?;
        if text.contains(r#""success":false"#) {
            return Err(text.as_str().into());
        }
        answered += 1;
        if asked < TURN {
            agent.ask().await?;
            asked += 1;
        }
    }
    Ok(())
}

/// The slowest of a hundred, in nanoseconds: requests of one type without numbers, at a steady pace, whatever comes back.
async fn slowest(client: Client) -> Outcome<f64> {
    let (mut sink, mut stream) = client.split();
    let total = usize::try_from(PACE)? * usize::try_from(KEPT.as_secs())?;
    let mut dues = paces(total, f64::from(PACE));
    let (tell, mut told) = mpsc::channel(total);
    let asking = tokio::spawn(async move {
        let frame = r#"{"type":"fsEvent","action":"readFile","message":{"filePath":"a.txt"}}"#;
        while let Some(due) = dues.recv().await {
            let _ = tell.send(due).await;
            sink.send(Message::text(frame)).await?;
        }
        Outcome::Ok(sink)
    });
    let mut times = Vec::with_capacity(total);
    while times.len() < total {
        let Message::Text(_) = stream.next().await.ok_or("the hub hung up")?? else {
            continue;
        };
        let due = told.recv().await.ok_or("an answer to no question")?;
        times.push(due.elapsed().as_secs_f64() * 1e9);
    }
    drop(asking.await??);
    Ok(p99(times))
}

/// So many moments, each given when it has come: a late one counts as slow. The clock of a thread is finer than tokio's.
#[expect(clippy::disallowed_methods, reason = "it is the clock")]
fn paces(total: usize, each_second: f64) -> mpsc::Receiver<Instant> {
    let (give, given) = mpsc::channel(total);
    std::thread::spawn(move || {
        let mut due = Instant::now();
        for _ in 0..total {
            due += Duration::from_secs_f64(1.0 / each_second);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if give.blocking_send(due).is_err() {
                return;
            }
        }
    });
    given
}

/// A server that sends back what it gets.
struct Echo(SocketAddr);

impl Echo {
    async fn start() -> Outcome<Self> {
        let router = Router::new().route("/", any(|upgrade: WebSocketUpgrade| async { upgrade.on_upgrade(echo) }));
        Ok(Self(serve(router).await?))
    }
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.next().await {
        if matches!(message, Frame::Text(_)) && socket.send(message).await.is_err() {
            return;
        }
    }
}

/// A server that passes the frames of one socket on to the other, both ways.
struct Relay(SocketAddr);

/// For each of the two sockets what it is to send.
type Ends = Arc<HashMap<&'static str, (mpsc::Sender<Frame>, Mutex<mpsc::Receiver<Frame>>)>>;

impl Relay {
    async fn start() -> Outcome<Self> {
        let ends: HashMap<_, _> = ["agent", "worker"]
            .into_iter()
            .map(|name| {
                let (sender, receiver) = mpsc::channel(IN_FLIGHT * 4);
                (name, (sender, Mutex::new(receiver)))
            })
            .collect();
        let ends: Ends = Arc::new(ends);
        let agent = |State(ends): State<Ends>, upgrade: WebSocketUpgrade| async {
            upgrade.on_upgrade(|socket| pass(ends, socket, "agent", "worker"))
        };
        let worker = |State(ends): State<Ends>, upgrade: WebSocketUpgrade| async {
            upgrade.on_upgrade(|socket| pass(ends, socket, "worker", "agent"))
        };
        let router = Router::new()
            .route("/agent", any(agent))
            .route("/worker", any(worker))
            .with_state(ends);
        Ok(Self(serve(router).await?))
    }
}

/// Passes on what this socket says, and says what the other one did: as many frames at once as there are, as the hub does.
async fn pass(ends: Ends, socket: WebSocket, this: &'static str, other: &'static str) {
    let (mut sink, mut stream) = socket.split();
    let (Some((_, queue)), Some((to, _))) = (ends.get(this), ends.get(other)) else {
        return;
    };
    let write = async {
        let mut queue = queue.lock().await;
        let mut batch = Vec::new();
        while queue.recv_many(&mut batch, 32).await > 0 {
            for frame in batch.drain(..) {
                if sink.feed(frame).await.is_err() {
                    return;
                }
            }
            if sink.flush().await.is_err() {
                return;
            }
        }
    };
    let read = async {
        while let Some(Ok(frame)) = stream.next().await {
            if matches!(frame, Frame::Text(_)) && to.send(frame).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = write => {}
        () = read => {}
    }
}

async fn serve(router: Router) -> Outcome<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}
