//! A scripted model endpoint: one turn for each request, in order, and a note of everything that was asked.
//!
//! It speaks as much of the OpenAI dialect as the hub reads, and misbehaves in every way that a real one does.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::sync::watch;

/// What the endpoint does with one request.
#[derive(Clone, Debug)]
pub enum Turn {
    /// Answers with a text, as a stream, and counts so many tokens.
    Say(String, u64),
    /// Asks for tools: name and arguments of each.
    Call(Vec<(String, Value)>),
    /// Refuses with a status and a text.
    Status(u16, String),
    /// Answers 200 with this content type and this text.
    Raw(&'static str, String),
    /// Streams this text and then cuts the connection.
    Break(String),
    /// Streams this text, which may be empty, and then nothing more.
    Hang(String),
}

/// Answers with a text.
pub fn say(text: &str) -> Turn {
    Turn::Say(text.to_owned(), 15)
}

/// Asks for one tool.
pub fn call(name: &str, arguments: Value) -> Turn {
    Turn::Call(vec![(name.to_owned(), arguments)])
}

/// One request, as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// The body.
    pub body: Value,
}

impl Asked {
    /// The last message of the conversation.
    pub fn last(&self) -> &Value {
        self.body["messages"]
            .as_array()
            .and_then(|messages| messages.last())
            .unwrap_or(&Value::Null)
    }

    /// Role and content of each message after the system's.
    pub fn said(&self) -> Vec<(&str, &str)> {
        let messages = self.body["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
        messages
            .iter()
            .filter(|message| message["role"] != "system")
            .map(|message| {
                (
                    message["role"].as_str().unwrap_or("-"),
                    message["content"].as_str().unwrap_or("-"),
                )
            })
            .collect()
    }
}

/// A running endpoint.
pub struct Endpoint {
    /// Its address, up to and without `/chat/completions`.
    pub base: String,
    script: Arc<Script>,
}

struct Script {
    turns: Mutex<VecDeque<Turn>>,
    asked: watch::Sender<Vec<Asked>>,
}

impl Endpoint {
    /// An endpoint that takes these turns; after the last it answers 418.
    pub async fn start(turns: impl IntoIterator<Item = Turn>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/v1", listener.local_addr().unwrap());
        let turns = Mutex::new(turns.into_iter().collect());
        let script = Arc::new(Script {
            turns,
            asked: watch::Sender::default(),
        });
        let router = Router::new()
            .route("/v1/chat/completions", post(answer))
            .with_state(Arc::clone(&script));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { base, script }
    }

    /// An address at which nobody listens.
    pub async fn nobody() -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}/v1", listener.local_addr().unwrap())
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.script.asked.borrow().clone()
    }

    /// Waits until it was asked so often.
    pub async fn asked_times(&self, count: usize) -> Vec<Asked> {
        let mut asked = self.script.asked.subscribe();
        asked.wait_for(|asked| asked.len() >= count).await.unwrap().clone()
    }

    /// The section of `waypost.toml` that names it.
    pub fn config(&self) -> String {
        format!("[inference]\nbase-url = \"{}\"\n", self.base)
    }
}

async fn answer(State(script): State<Arc<Script>>, headers: HeaderMap, body: Bytes) -> Response {
    let authorization = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let turn = script.turns.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    script
        .asked
        .send_modify(|asked| asked.push(Asked { authorization, body }));
    match turn {
        None => (StatusCode::IM_A_TEAPOT, "the script is over").into_response(),
        Some(Turn::Say(text, tokens)) => whole(&[delta(json!({ "content": text })), stop("stop"), usage(tokens)]),
        Some(Turn::Call(calls)) => {
            let calls: Vec<Value> = calls
                .iter()
                .enumerate()
                .map(|(index, (name, arguments))| {
                    let function = json!({ "name": name, "arguments": arguments.to_string() });
                    json!({ "index": index, "id": format!("call-{index}"), "type": "function", "function": function })
                })
                .collect();
            whole(&[delta(json!({ "tool_calls": calls })), stop("tool_calls"), usage(15)])
        }
        Some(Turn::Status(status, text)) => (StatusCode::from_u16(status).unwrap(), text).into_response(),
        Some(Turn::Raw(kind, text)) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Some(Turn::Break(text)) => {
            // What is there is sent when there is nothing else to do, and only then comes the cut.
            let cut = stream::once(async {
                tokio::task::yield_now().await;
                Err(std::io::Error::other("cut"))
            });
            streamed(Body::from_stream(started(&text).chain(cut)))
        }
        Some(Turn::Hang(text)) => streamed(Body::from_stream(started(&text).chain(stream::pending()))),
    }
}

fn started(text: &str) -> impl futures::Stream<Item = std::io::Result<String>> + Send + use<> {
    let first = (!text.is_empty()).then(|| Ok(event(&delta(json!({ "content": text })))));
    stream::iter(first)
}

fn delta(delta: Value) -> Value {
    json!({ "id": "c", "model": "scripted", "choices": [{ "index": 0, "delta": delta }] })
}

fn stop(reason: &str) -> Value {
    json!({ "id": "c", "model": "scripted", "choices": [{ "index": 0, "delta": {}, "finish_reason": reason }] })
}

fn usage(tokens: u64) -> Value {
    let usage = json!({ "prompt_tokens": tokens - 5, "completion_tokens": 5, "total_tokens": tokens });
    json!({ "id": "c", "model": "scripted", "choices": [], "usage": usage })
}

fn event(value: &Value) -> String {
    format!("data: {value}\n\n")
}

fn whole(events: &[Value]) -> Response {
    let text: String = events.iter().map(event).collect();
    streamed(Body::from(text + "data: [DONE]\n\n"))
}

fn streamed(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}
