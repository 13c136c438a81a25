//! Real sockets: a server on a free port, and processes played by a WebSocket client.

use std::net::SocketAddr;
use std::time::Duration;

use futures::SinkExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, http};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::*;
use crate::call::{Call, Dispatch, Reply, Sink};
use crate::config::Connection;
use crate::error::ErrorKind;
use crate::gateway::tests::call;
use crate::gateway::{Rejected, Stats};
use crate::log::memory::MemoryLog;
use crate::log::{Cursor, EventLog};
use crate::run::NewRun;
use crate::tokens::Tokens;
use crate::transports::gate::TokenDigest;

const PROJECT: &str = "p";

struct Server {
    address: SocketAddr,
    gateway: Arc<Gateway>,
    log: Arc<MemoryLog>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn connection(name: &str, claim: &[&str]) -> Connection {
    let digest = TokenDigest::of(&format!("token of {name}"));
    Connection {
        name: name.to_owned(),
        token_sha256: digest.bytes().iter().map(|byte| format!("{byte:02x}")).collect(),
        claim: claim.iter().map(|pattern| (*pattern).to_owned()).collect(),
        calls: vec!["echo".to_owned()],
    }
}

/// Answers every call with its message.
struct Echo;

impl Dispatch for Echo {
    fn dispatch(&self, call: Call, _: Sink) -> BoxFuture<'_, Reply> {
        let result = match call.principal.rights.permit(&call.name) {
            true => Ok(call.message),
            false => Err(CallError::new(ErrorKind::Denied, "not allowed")),
        };
        Box::pin(std::future::ready(Reply { result, by: None }))
    }
}

impl Starter for Echo {
    fn start(&self, _: NewRun) -> BoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

fn within() -> Within {
    Within {
        dispatch: Arc::new(Echo),
        scope: Arc::clone(&call("echo").scope),
        starter: Arc::new(Echo),
        call_timeout: Duration::from_secs(10),
    }
}

impl Server {
    async fn start(limits: Limits) -> Self {
        let log = Arc::new(MemoryLog::new(10_000));
        let gateway = Arc::new(Gateway::new(log.clone()));
        let connections = [
            connection("vault", &["*"]),
            connection("mirror", &["*"]),
            connection("watcher", &[]),
        ];
        let tokens = Tokens::open(log.clone(), PROJECT.into()).await.unwrap();
        let members = Members::new(&connections, tokens, false).unwrap();
        let direct = Arc::new(DirectSocket::new(
            gateway.clone(),
            PROJECT.into(),
            "here".into(),
            members,
            within(),
            limits,
        ));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = direct.routes(Arc::new(Gate::new(&address.to_string())));
        let task = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self {
            address,
            gateway,
            log,
            task,
        }
    }

    async fn connect(&self, name: &str) -> Client {
        let (path, token) = (format!("/plugins?providerId={name}"), format!("Bearer token of {name}"));
        self.open(&path, &[("authorization", &token)]).await.unwrap()
    }

    async fn open(&self, path: &str, headers: &[(&str, &str)]) -> Result<Client, tungstenite::Error> {
        let mut request = format!("ws://{}{path}", self.address).into_client_request()?;
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        tokio_tungstenite::connect_async(request)
            .await
            .map(|(socket, _)| Client(socket))
    }

    fn proxy(&self, call: crate::call::Call) -> JoinHandle<Result<Json, CallError>> {
        let gateway = self.gateway.clone();
        tokio::spawn(async move { gateway.proxy(&call, &Sink::discard()).await })
    }

    /// Waits until the log holds so many events of a kind.
    async fn logged(&self, kind: &str, count: usize) {
        let mut tip = self.log.tip();
        loop {
            let events = self.log.feed(Cursor::default(), 1000).await.unwrap();
            if events.iter().filter(|event| *event.kind == *kind).count() >= count {
                return;
            }
            tip.changed().await.unwrap();
        }
    }
}

struct Client(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Client {
    async fn say(&mut self, frame: Value) {
        self.0
            .send(tungstenite::Message::text(frame.to_string()))
            .await
            .unwrap();
    }

    /// The next frame that is not a ping.
    async fn hear(&mut self) -> Value {
        loop {
            match self.0.next().await.unwrap().unwrap() {
                tungstenite::Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                tungstenite::Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn order(&mut self, what: &str) -> Value {
        self.say(json!({"type": format!("executionGateway.{what}"), "requestId": what}))
            .await;
        let answer = self.hear().await;
        assert_eq!(answer["type"], format!("executionGateway.{what}Response"));
        assert_eq!(answer["requestId"], what);
        answer
    }

    /// The same, for one that has notifications waiting.
    async fn order_past_notifications(&mut self, what: &str) -> Value {
        self.say(json!({"type": format!("executionGateway.{what}")})).await;
        loop {
            let frame = self.hear().await;
            if frame["type"] != "executionGateway.notification" {
                return frame;
            }
        }
    }

    /// The code with which the hub closed.
    async fn closed(&mut self) -> u16 {
        loop {
            match self.0.next().await.unwrap().unwrap() {
                tungstenite::Message::Close(frame) => return frame.unwrap().code.into(),
                tungstenite::Message::Text(_) | tungstenite::Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn only_who_is_known_may_connect() {
    let server = Server::start(Limits::default()).await;
    let good = ("authorization", "Bearer token of vault");
    let wrong = "no connection of this name has this token; look at [[connection]] in waypost.toml, or make one with \
                 `waypost token create`\n";
    let nameless = "name the connection once: /plugins?providerId=<name>\n";
    /// Path, headers, status, and how the text begins.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], u16, &'a str);
    let cases: [Case; 12] = [
        ("/plugins", &[good], 400, nameless),
        ("/plugins?providerId=", &[good], 400, nameless),
        ("/plugins?providerId=vault&providerId=mirror", &[good], 400, nameless),
        ("/plugins?providerId=vault", &[], 401, wrong),
        ("/plugins?providerId=vault&token=", &[], 401, wrong),
        ("/plugins?providerId=vault&token=token%20of%20mirror", &[], 401, wrong),
        ("/plugins?providerId=nobody", &[good], 401, wrong),
        (
            "/plugins?providerId=vault&token=token%20of%20vault",
            &[("authorization", "Bearer x")],
            401,
            wrong,
        ),
        (
            "/plugins?providerId=vault",
            &[good, ("origin", "http://evil.example")],
            403,
            "pages of other sites",
        ),
        (
            "/plugins?providerId=vault",
            &[good, ("origin", "null")],
            403,
            "pages of other sites",
        ),
        (
            "/plugins?providerId=vault",
            &[good, ("host", "evil.example")],
            421,
            "the Host header",
        ),
        ("/plugins?providerId=vault", &[good, ("upgrade", "h2c")], 400, ""),
    ];
    for (path, headers, status, text) in cases {
        match server.open(path, headers).await {
            Err(tungstenite::Error::Http(response)) => {
                assert_eq!(response.status().as_u16(), status, "{path} {headers:?}");
                let body = String::from_utf8_lossy(response.body().as_deref().unwrap_or_default()).into_owned();
                assert!(body.starts_with(text) && !body.contains("token of"), "{body}");
            }
            Err(error) => panic!("{path} {headers:?}: {error}"),
            Ok(_) => panic!("{path} {headers:?} was let in"),
        }
    }
    assert_eq!(server.gateway.stats().attached, 0);
    let own = format!("http://{}", server.address);
    for (path, headers) in [
        (
            "/plugins?providerId=vault&token=token%20of%20vault&unknown=1&unknown=2",
            &[("origin", own.as_str())][..],
        ),
        (
            "/plugins?providerId=mirror",
            &[("authorization", "bearer token of mirror")],
        ),
    ] {
        assert!(server.open(path, headers).await.is_ok(), "{path}");
    }
}

#[tokio::test]
async fn a_wrong_digest_in_the_configuration_is_named() {
    let log = Arc::new(MemoryLog::new(1));
    let tokens = Tokens::open(log, PROJECT.into()).await.unwrap();
    let wrong = Connection {
        token_sha256: "abc".to_owned(),
        ..connection("vault", &["*"])
    };
    let error = Members::new(&[wrong], tokens, false).err().unwrap();
    assert_eq!(error.message, "[[connection]] `vault`: `token-sha256` is wrong");
}

#[tokio::test]
async fn it_claims_and_answers_without_being_greeted() {
    let server = Server::start(Limits::default()).await;
    let mut vault = server.connect("vault").await;
    // The answer to its own claim is the first thing that it hears.
    let answer = vault.order("claim").await;
    assert_eq!(
        (&answer["success"], &answer["data"]["claimed"]),
        (&json!(true), &json!(true))
    );
    let id = answer["data"]["pluginId"].as_str().unwrap();
    assert!(id.starts_with("remote-provider-vault-"), "{id}");

    let asked = server.proxy(call("secret:read"));
    let request = vault.hear().await;
    assert_eq!(request["type"], "executionGateway.request");
    assert_eq!(request["originalMessage"]["requestId"], request["requestId"]);
    let reply = json!({"type":"executionGateway.reply","requestId":"reply-1","replyRequestId":request["requestId"],
                       "success":true,"result":{"value":42}});
    vault.say(reply.clone()).await;
    assert_eq!(asked.await.unwrap().unwrap().as_str(), r#"{"value":42}"#);

    vault.say(reply).await;
    vault
        .say(json!({"type":"executionGateway.reply","requestId":"nothing","result":{}}))
        .await;
    let asked = server.proxy(call("secret:read"));
    let request = vault.hear().await;
    vault
        .say(
            json!({"type":"executionGateway.reply","requestId":request["requestId"],"success":false,
                     "result":{"error":"sealed"}}),
        )
        .await;
    let error = asked.await.unwrap().unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Other, "sealed"));
    let rejected = Rejected {
        duplicate: 1,
        unknown: 1,
        ..Rejected::default()
    };
    let expected = Stats {
        attached: 1,
        claims: 1,
        subscriptions: 1,
        offers: 0,
        pending: 0,
        rejected,
        lagged: 0,
    };
    assert_eq!(server.gateway.stats(), expected);
}

#[tokio::test]
async fn a_second_connection_waits_for_the_claim() {
    let server = Server::start(Limits::default()).await;
    let mut vault = server.connect("vault").await;
    vault.order("claim").await;
    let mut mirror = server.connect("mirror").await;
    let answer = mirror.order("claim").await;
    assert_eq!(
        (&answer["success"], &answer["data"]["claimed"]),
        (&json!(false), &json!(false))
    );
    assert!(
        answer["error"]
            .as_str()
            .unwrap()
            .starts_with("connection:vault holds the claim on *"),
        "{answer}"
    );
    assert_eq!(mirror.order("relinquish").await["success"], false);
    assert_eq!(server.gateway.stats().subscriptions, 2);

    let asked = server.proxy(call("inference"));
    let request = vault.hear().await;
    mirror
        .say(json!({"type":"executionGateway.reply","replyRequestId":request["requestId"],"result":{}}))
        .await;
    assert_eq!(mirror.order("claim").await["success"], false);
    assert_eq!(server.gateway.stats().rejected.foreign, 1);
    drop(vault);
    assert_eq!(asked.await.unwrap().unwrap_err().kind, ErrorKind::Indeterminate);
    server.logged("claim.released", 1).await;
    assert_eq!(mirror.order("claim").await["success"], true);
    assert_eq!(mirror.order("relinquish").await["data"]["claimed"], false);

    let mut watcher = server.connect("watcher").await;
    let answer = watcher.order("claim").await;
    assert!(
        answer["error"]
            .as_str()
            .unwrap()
            .starts_with("the scope of a claim is empty"),
        "{answer}"
    );
}

#[tokio::test]
async fn subscribers_hear_of_local_calls_until_they_unsubscribe() {
    let server = Server::start(Limits::default()).await;
    let (mut vault, mut mirror) = (server.connect("vault").await, server.connect("mirror").await);
    for client in [&mut vault, &mut mirror] {
        assert_eq!(client.order("subscribe").await["data"]["subscribed"], true);
    }
    server
        .gateway
        .notify(&call("chat"), &Ok(Json::parse(r#"{"ok":1}"#).unwrap()));
    for client in [&mut vault, &mut mirror] {
        let heard = client.hear().await;
        assert_eq!(
            (&heard["type"], &heard["result"]["ok"]),
            (&json!("executionGateway.notification"), &json!(1))
        );
    }
    assert_eq!(mirror.order("unsubscribe").await["data"]["subscribed"], false);
    server.gateway.notify(&call("chat"), &Ok(Json::null()));
    vault.hear().await;
    // Had it been told, that would come before this answer or be counted.
    assert_eq!(mirror.order("unsubscribe").await["success"], true);
}

#[tokio::test]
async fn frames_that_cannot_be_followed_are_answered() {
    let server = Server::start(Limits::default()).await;
    let mut vault = server.connect("vault").await;
    vault.say(json!({"type":"hello","requestId":7})).await;
    let answer = vault.hear().await;
    assert_eq!(
        (
            &answer["type"],
            &answer["requestId"],
            &answer["success"],
            &answer["error"]
        ),
        (&json!("helloResponse"), &json!(7), &json!(false), &json!("not allowed"))
    );
    vault.say(json!({"type":"echo","requestId":8,"message":{"a":1}})).await;
    assert_eq!(vault.hear().await["a"], 1);
    vault.say(json!({"no":"type"})).await;
    assert_eq!(
        vault.hear().await["error"],
        "the frame cannot be read: missing field `type` at line 1 column 13"
    );
    for _ in 0..2 {
        vault.say(json!([1])).await;
        assert_eq!(
            vault.hear().await["error"],
            "a frame must be one JSON object in a text message"
        );
    }
    vault.order("claim").await;
    vault.0.send(tungstenite::Message::binary(vec![0u8])).await.unwrap();
    assert_eq!(vault.closed().await, 1008);
    server.logged("claim.released", 1).await;
}

#[tokio::test]
async fn an_oversized_message_ends_its_own_connection_alone() {
    let server = Server::start(Limits {
        message: 1 << 16,
        ..Limits::default()
    })
    .await;
    let (mut vault, mut mirror) = (server.connect("vault").await, server.connect("mirror").await);
    vault.order("subscribe").await;
    vault.say(json!({"type":"x".repeat(1 << 17)})).await;
    assert_eq!(vault.closed().await, 1009);
    assert_eq!(mirror.order("subscribe").await["success"], true);

    mirror.order("claim").await;
    let mut large = call("chat");
    large.message = Json::from(json!("x".repeat(1 << 18)));
    let error = server.proxy(large).await.unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Limit);
    assert!(
        error.message.ends_with("at most 196608 are sent to connection:mirror"),
        "{}",
        error.message
    );
}

#[tokio::test]
async fn a_newer_connection_of_the_same_name_takes_over() {
    let server = Server::start(Limits::default()).await;
    let mut old = server.connect("vault").await;
    old.order("claim").await;
    let asked = server.proxy(call("inference"));
    old.hear().await;
    let mut new = server.connect("vault").await;
    assert_eq!(new.order("claim").await["success"], true);
    assert_eq!(old.closed().await, 1008);
    assert_eq!(asked.await.unwrap().unwrap_err().kind, ErrorKind::Indeterminate);
    let asked = server.proxy(call("inference"));
    let request = new.hear().await;
    new.say(json!({"type":"executionGateway.reply","replyRequestId":request["requestId"],"result":{}}))
        .await;
    assert!(asked.await.unwrap().is_ok());
    assert_eq!(server.gateway.stats().attached, 1);
}

#[tokio::test]
async fn a_connection_that_does_not_read_delays_nobody_and_is_cut() {
    let limits = Limits {
        stall: Duration::from_secs(1),
        notifications: 64,
        ..Limits::default()
    };
    let server = Server::start(limits).await;
    let mut vault = server.connect("vault").await;
    vault.order("claim").await;
    let mut mirror = server.connect("mirror").await;
    mirror.order("subscribe").await;
    let result = Ok(Json::from(json!({"text": "x".repeat(1 << 20)})));
    let before = std::time::Instant::now();
    for _ in 0..200 {
        server.gateway.notify(&call("chat"), &result);
    }
    assert!(before.elapsed() < Duration::from_secs(5));
    assert!(server.gateway.stats().lagged > 0);
    // The mirror reads and stays; the vault does not.
    let heard = async {
        loop {
            mirror.hear().await;
        }
    };
    tokio::select! {
        () = heard => {}
        () = server.logged("claim.released", 1) => {}
    }
    assert_eq!(mirror.order_past_notifications("claim").await["success"], true);
}

#[tokio::test]
async fn a_connection_that_answers_no_ping_is_cut() {
    let short = Duration::from_millis(50);
    let server = Server::start(Limits {
        ping: short,
        pong: short,
        ..Limits::default()
    })
    .await;
    let mut vault = server.connect("vault").await;
    vault.order("claim").await;
    // Pongs are written while it reads; it does not.
    server.logged("claim.released", 1).await;
    assert_eq!(server.gateway.stats().attached, 0);
}

#[tokio::test]
async fn a_connection_that_answers_pings_stays() {
    let server = Server::start(Limits {
        ping: Duration::from_millis(20),
        ..Limits::default()
    })
    .await;
    let mut vault = server.connect("vault").await;
    let mut pings = 0;
    while pings < 5 {
        pings += u32::from(vault.0.next().await.unwrap().unwrap().is_ping());
    }
    assert_eq!(vault.order("claim").await["success"], true);
}
