//! A scripted endpoint on a real socket, for the tests of this handler.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::Inference;
use crate::call::{Call, CallError, CallName, Handler, Json, Principal, PrincipalKind, Rights, Scope, Sink};
use crate::config::{self, InferenceMode};
use crate::workspace::Workspace;

/// A key that must never be seen again.
pub(super) const CANARY: &str = "sk-canary-0123456789abcdef";

/// The head of a streamed answer, without the empty line that ends it.
pub(super) const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n";

/// What happens after the last piece.
#[derive(Clone, Copy)]
pub(super) enum End {
    Close,
    Hang,
}

/// What the endpoint answers on one connection.
#[derive(Clone)]
pub(super) struct Script {
    pieces: Vec<String>,
    end: End,
}

impl Script {
    pub(super) fn pieces(pieces: &[&str], end: End) -> Self {
        Self {
            pieces: pieces.iter().map(|&piece| piece.to_owned()).collect(),
            end,
        }
    }

    pub(super) fn stream(body: &str) -> Self {
        Self::pieces(&[STREAM, "\r\n", body], End::Close)
    }

    pub(super) fn answer(status: &str, kind: &str, body: &str) -> Self {
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        );
        Self::pieces(&[&head, body], End::Close)
    }
}

/// Events as an endpoint streams them.
pub(super) fn events(events: &[Value]) -> String {
    events.iter().map(|event| format!("data: {event}\n\n")).collect()
}

/// A running endpoint: its base URL, what it was asked, and when a client left while it was hanging.
pub(super) struct Server {
    pub base: String,
    requests: mpsc::Receiver<String>,
    gone: mpsc::Receiver<()>,
}

impl Server {
    /// The next request, head and body.
    pub(super) async fn request(&mut self) -> String {
        self.requests.recv().await.unwrap()
    }

    /// Resolves when the client of a hanging answer has closed its connection.
    pub(super) async fn hung_up(&mut self) {
        self.gone.recv().await.unwrap();
    }

    /// Resolves when the scripts are used up and nobody listens any more.
    pub(super) async fn stopped(&self) {
        while !self.gone.is_closed() {
            tokio::task::yield_now().await;
        }
    }
}

/// Answers one connection after another, each by the next script; then nobody listens any more.
pub(super) async fn serve(scripts: Vec<Script>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/v1", listener.local_addr().unwrap());
    let (asked, requests) = mpsc::channel(16);
    let (left, gone) = mpsc::channel(16);
    tokio::spawn(async move {
        for script in scripts {
            let (mut socket, _) = listener.accept().await.unwrap();
            let _ = asked.send(read_request(&mut socket).await).await;
            for piece in &script.pieces {
                // A client may leave before everything is said.
                let _ = socket.write_all(piece.as_bytes()).await;
            }
            if matches!(script.end, End::Hang) {
                while socket.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {}
                let _ = left.send(()).await;
            }
        }
        drop(listener);
        drop(left);
    });
    Server { base, requests, gone }
}

async fn read_request(socket: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .unwrap_or("0");
            if body.len() >= length.parse().unwrap() {
                return text;
            }
        }
        let count = socket.read(&mut buffer).await.unwrap();
        assert!(count > 0, "the client left in the middle of its request");
        request.extend_from_slice(&buffer[..count]);
    }
}

/// What main does first.
pub(super) fn provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A handler with the canary key, its settings changed by `change`.
pub(super) fn with(base: &str, change: impl FnOnce(&mut config::Inference)) -> Inference {
    provider();
    let mut config = config::Inference {
        base_url: Some(base.to_owned()),
        ..Default::default()
    };
    change(&mut config);
    let key = |name: &str| (name == "OPENAI_API_KEY").then(|| CANARY.to_owned());
    Inference::new(config, &key, "/nowhere".into()).unwrap()
}

/// A handler with the canary key.
pub(super) fn inference(base: &str, mode: InferenceMode) -> Inference {
    with(base, |config| config.mode = mode)
}

/// A call of an agent.
pub(super) fn call(message: Value) -> Call {
    let principal = Principal {
        project: "default".into(),
        run: None,
        kind: PrincipalKind::Agent,
        id: "loop".into(),
        rights: Rights::all(),
    };
    let workspace = Arc::new(Workspace::open(&std::env::temp_dir()).unwrap());
    let scope = Scope {
        environment: None,
        labels: Default::default(),
        workspace,
    };
    let message = Json::parse(message.to_string()).unwrap();
    Call::new(
        CallName::new("inference", None),
        message,
        Arc::new(principal),
        Arc::new(scope),
        Duration::from_secs(60),
    )
}

/// Makes the call, and gives all chunks and the end.
pub(super) async fn run(inference: &Inference, message: Value) -> (Vec<Value>, Result<Value, CallError>) {
    let (call, (sink, mut reader)) = (call(message), Sink::channel());
    let answering = async move {
        let reply = inference.handle(&call, &sink).await;
        drop(sink);
        reply
    };
    let reading = async {
        let mut chunks = Vec::new();
        while let Some(chunk) = reader.recv().await {
            chunks.push(chunk.to().unwrap());
        }
        chunks
    };
    let (reply, chunks) = tokio::join!(answering, reading);
    (chunks, reply.map(|reply| reply.to().unwrap()))
}
