//! A server for plugins to ask, that notes what it was asked and misbehaves on request; and names that lead where a trial
//! says.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use waypost::imports::http::Resolver;

/// A running server.
pub struct Server {
    /// Its address, without a slash at the end.
    pub url: String,
    /// Its port.
    pub port: u16,
    noted: Noted,
}

#[derive(Clone, Default)]
struct Noted {
    /// What was asked: method, path with query, headers, size of the body.
    asked: watch::Sender<Vec<Value>>,
    /// Bodies that were dropped before their end, because nobody read on.
    dropped: watch::Sender<usize>,
    /// How far `/steps` may go.
    steps: watch::Sender<usize>,
}

impl Server {
    /// A server on this machine.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let noted = Noted::default();
        let router = Router::new().fallback(answer).with_state(noted.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            url: format!("http://127.0.0.1:{port}"),
            port,
            noted,
        }
    }

    /// One that answers every connection with these bytes and then hangs.
    pub async fn raw(text: impl Into<Vec<u8>>) -> Self {
        let text = text.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                drop(stream.read(&mut [0; 4096]).await);
                drop(stream.write_all(&text).await);
                open.push(stream);
            }
        });
        Self {
            url: format!("http://127.0.0.1:{port}"),
            port,
            noted: Noted::default(),
        }
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<Value> {
        self.noted.asked.borrow().clone()
    }

    /// Lets `/steps` take one more step.
    pub fn step(&self) {
        self.noted.steps.send_modify(|steps| *steps += 1);
    }

    /// Waits until so many bodies were dropped before their end.
    pub async fn dropped(&self, count: usize) {
        let mut dropped = self.noted.dropped.subscribe();
        dropped.wait_for(|dropped| *dropped >= count).await.unwrap();
    }
}

/// Notes that a body was dropped before its end.
struct Guard(Noted);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.dropped.send_modify(|dropped| *dropped += 1);
    }
}

async fn answer(State(noted): State<Noted>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let text = |value: &axum::http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers: Map<String, Value> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), json!(text(value))))
        .collect();
    let asked = json!({
        "method": parts.method.as_str(), "target": parts.uri.to_string(), "headers": headers, "size": body.len(),
    });
    noted.asked.send_modify(|all| all.push(asked.clone()));
    let query = parts.uri.query().unwrap_or_default();
    match parts.uri.path() {
        "/echo" => axum::Json(asked).into_response(),
        "/redirect" => (axum::http::StatusCode::FOUND, [("location", query.to_owned())]).into_response(),
        "/never" => {
            let _guard = Guard(noted);
            std::future::pending().await
        }
        // The secret in every way that a server may hand it back, cut at every place.
        "/back" => {
            let secret = parts.headers.get("authorization").map(text).unwrap_or_default();
            let whole = format!("you sent {secret} and {secret}, {secret}");
            let cut: usize = query.parse().unwrap();
            let pieces: Vec<_> = whole.as_bytes().chunks(cut).map(Bytes::copy_from_slice).collect();
            let pieces = stream::iter(pieces).then(|piece| async {
                tokio::task::yield_now().await;
                io::Result::Ok(piece)
            });
            let mut response = Body::from_stream(pieces).into_response();
            response.headers_mut().insert("x-you-sent", secret.parse().unwrap());
            response
        }
        "/steps" => {
            let steps = noted.steps.subscribe();
            let state = (0_usize, steps, Guard(noted));
            let pieces = stream::unfold(state, |(number, mut steps, guard)| async move {
                steps.wait_for(|steps| *steps >= number).await.ok()?;
                Some((io::Result::Ok(format!("step {number}\n")), (number + 1, steps, guard)))
            });
            Body::from_stream(pieces).into_response()
        }
        "/endless" => {
            let guard = Guard(noted);
            let piece = Bytes::from(vec![b'e'; 16 << 10]);
            let pieces = stream::repeat_with(move || {
                let _ = &guard;
                io::Result::Ok(piece.clone())
            });
            Body::from_stream(pieces).into_response()
        }
        "/drip" => {
            let guard = Guard(noted);
            let ticks = tokio::time::interval(Duration::from_millis(10));
            let pieces = stream::unfold((ticks, guard), |(mut ticks, guard)| async move {
                ticks.tick().await;
                Some((io::Result::Ok("."), (ticks, guard)))
            });
            Body::from_stream(pieces).into_response()
        }
        "/break" => {
            let cut = stream::once(async {
                tokio::task::yield_now().await;
                Err(io::Error::other("cut"))
            });
            Body::from_stream(stream::iter([Ok("half")]).chain(cut)).into_response()
        }
        "/packed" => ([("content-encoding", "gzip")], vec![0x1f, 0x8b, 8, 0]).into_response(),
        other => (axum::http::StatusCode::NOT_FOUND, other.to_owned()).into_response(),
    }
}

/// Names that lead where a trial says, each time to the next of its answers; the last one stays.
#[derive(Default)]
pub struct Names {
    answers: Mutex<BTreeMap<String, VecDeque<Vec<IpAddr>>>>,
    /// What was looked up.
    asked: Mutex<Vec<String>>,
}

impl Names {
    /// With these answers for this name.
    pub fn with(self, name: &str, answers: &[&[&str]]) -> Self {
        let read = |list: &&[&str]| list.iter().map(|address| address.parse().unwrap()).collect();
        let answers = answers.iter().map(read).collect();
        self.answers.lock().unwrap().insert(name.to_owned(), answers);
        self
    }

    /// What was looked up so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Resolver for Names {
    fn addresses<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        self.asked.lock().unwrap().push(name.to_owned());
        let mut all = self.answers.lock().unwrap();
        let answers = all.get_mut(name);
        let answer = answers.and_then(|answers| match answers.len() {
            0 | 1 => answers.front().cloned(),
            _ => answers.pop_front(),
        });
        let found = answer.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no such name"));
        Box::pin(async move { found })
    }
}
