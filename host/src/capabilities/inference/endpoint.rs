//! One OpenAI-compatible endpoint: the request, the answer as it comes, and every way in which that fails.
//!
//! Nothing is repeated and no redirect or proxy is followed: what the operator configured is what is asked. The key is
//! taken out of whatever the endpoint sends. Not here: what an answer
//! means, and recordings.

use std::fmt::Write;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use eventsource_stream::{EventStreamError, Eventsource};
use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url, redirect};
use serde_json::Value;
use tokio::time::timeout;

use super::Delivery;
use super::assemble::Answer;
use super::secret::Secret;
use crate::call::CallError;
use crate::error::{Blame, Error, ErrorKind, Result};

/// How much of a refusal is read, and how much of that is shown.
const REFUSAL_BYTES: usize = 4096;
const REFUSAL_CHARACTERS: usize = 200;

/// What the JSON around the text of an answer may add to its bytes.
const ENVELOPE: usize = 4096;

/// How an answer ended that was never complete.
#[derive(Debug)]
enum Fault {
    Idle,
    TooLarge,
    Broken(String),
    Undeliverable(CallError),
}

/// An endpoint and what is needed to ask it.
pub(super) struct Endpoint {
    client: Client,
    url: Url,
    host: String,
    key: Option<Secret>,
    key_variable: String,
    idle: Duration,
    limit: usize,
}

impl Endpoint {
    /// The endpoint at `base_url`. `setting` is where that address was written, for errors.
    pub(super) fn new(
        base_url: &str,
        setting: &str,
        key: Option<Secret>,
        config: &crate::config::Inference,
    ) -> Result<Self> {
        let url = address(base_url).ok_or_else(|| {
            let message = format!("{setting} is not an http or https address without user, query and fragment");
            Error::new(ErrorKind::Invalid, message).blame(Blame::Operator)
        })?;
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err(Error::new(
                ErrorKind::Internal,
                "no TLS provider is installed; main must install one first",
            ));
        }
        let client = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .user_agent(concat!("waypost/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Error::new(ErrorKind::Internal, "the HTTP client cannot start").because(error))?;
        Ok(Self {
            client,
            host: url.authority().to_owned(),
            url,
            key,
            key_variable: config.api_key_env.clone(),
            idle: config.idle,
            limit: config.answer,
        })
    }

    /// Asks once; chunks go out as they come, the return value is the canonical reply.
    pub(super) async fn ask(&self, body: &Value, model: &str, delivery: &mut Delivery<'_>) -> Result<Value, CallError> {
        let response = self.send(body).await?;
        if !response.status().is_success() {
            return Err(self.refusal(response, model).await);
        }
        let mut answer = Answer::default();
        let kind = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("");
        let is_stream = kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream");
        let bytes = pieces(response, self.idle);
        let end = if is_stream {
            self.read_stream(bytes, &mut answer, delivery).await
        } else {
            self.read_whole(bytes, &mut answer, delivery).await
        };
        if let Err(fault) = end {
            return Err(self.fault(fault, &answer, delivery));
        }
        let mut reply = answer.reply(model);
        self.redact_answer(&mut reply);
        Ok(reply)
    }

    async fn send(&self, body: &Value) -> Result<Response, CallError> {
        let mut request = self
            .client
            .post(self.url.clone())
            .header(ACCEPT, "text/event-stream, application/json");
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, key.header());
        }
        match timeout(self.idle, request.json(body).send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                let what = if error.is_connect() {
                    "cannot be reached"
                } else {
                    "broke the connection before it answered"
                };
                let cause = self.clean(&cause(&error), REFUSAL_CHARACTERS);
                let message = format!(
                    "the endpoint {} {what}: {cause}; check that it runs and that `[inference] base-url` is right",
                    self.host
                );
                Err(CallError::new(ErrorKind::Unavailable, message))
            }
            Err(_) => Err(self.hanging()),
        }
    }

    /// The error that an answered status other than success is.
    async fn refusal(&self, response: Response, model: &str) -> CallError {
        let (status, number) = (response.status(), response.status().as_u16());
        let header = |name: HeaderName| {
            let value = response.headers().get(name).map(HeaderValue::as_bytes)?;
            Some(self.clean(&String::from_utf8_lossy(value), REFUSAL_CHARACTERS))
        };
        let (location, retry_after) = (header(LOCATION), header(RETRY_AFTER));
        let said = self.clean(&refusal_body(response, self.idle).await, REFUSAL_CHARACTERS);
        let (kind, what) = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let problem = if self.key.is_some() {
                    "does not accept the key in"
                } else {
                    "wants a key; set"
                };
                (
                    ErrorKind::Denied,
                    format!("answered {number}: it {problem} {}", self.key_variable),
                )
            }
            StatusCode::NOT_FOUND => {
                let path = self.clean(self.url.path(), REFUSAL_CHARACTERS);
                let model = self.clean(model, REFUSAL_CHARACTERS);
                let remedy = "check `[inference] base-url` and the model";
                (
                    ErrorKind::NotFound,
                    format!("answered 404 for `{path}` and model `{model}`; {remedy}"),
                )
            }
            StatusCode::TOO_MANY_REQUESTS => {
                let wait =
                    retry_after.map_or_else(|| "try again later".to_owned(), |after| format!("retry after {after}"));
                (ErrorKind::Limit, format!("answered 429, too many requests; {wait}"))
            }
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
                (ErrorKind::Invalid, format!("refused the request with {number}"))
            }
            _ if status.is_redirection() => {
                let to = location.map_or_else(String::new, |location| format!(" to `{location}`"));
                let remedy = "redirects are not followed; set `[inference] base-url` to the final address";
                (
                    ErrorKind::Unavailable,
                    format!("answered {number}, a redirect{to}; {remedy}"),
                )
            }
            _ if status.is_server_error() => (ErrorKind::Unavailable, format!("answered {number}")),
            _ => (ErrorKind::Other, format!("answered {number}")),
        };
        let said = if said.is_empty() { said } else { format!(": {said}") };
        let error = CallError::new(kind, format!("the endpoint {} {what}{said}", self.host));
        if matches!(kind, ErrorKind::Other | ErrorKind::Limit) {
            error.blame(Blame::Upstream)
        } else {
            error
        }
    }

    /// Reads server-sent events until the answer is complete.
    async fn read_stream<B: AsRef<[u8]>>(
        &self,
        bytes: impl Stream<Item = Result<B, Fault>>,
        answer: &mut Answer,
        delivery: &mut Delivery<'_>,
    ) -> Result<(), Fault> {
        // Bounds what one event without an end can pile up in the parser.
        let pending = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&pending);
        let bounded = bytes.and_then(move |piece| {
            let length = piece.as_ref().len();
            let sum = counter.fetch_add(length, Ordering::Relaxed).saturating_add(length);
            let fits = sum <= self.limit.saturating_add(ENVELOPE);
            futures::future::ready(if fits { Ok(piece) } else { Err(Fault::TooLarge) })
        });
        let mut events = pin!(bounded.eventsource());
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(event) => event,
                // Everything was said; only the goodbye is missing.
                Err(EventStreamError::Transport(_)) if answer.finished() => return Ok(()),
                Err(EventStreamError::Transport(fault)) => return Err(fault),
                Err(_) => return Err(Fault::Broken("its stream is not made of UTF-8 events".to_owned())),
            };
            pending.store(0, Ordering::Relaxed);
            match event.data.trim() {
                "" => {}
                "[DONE]" if answer.chosen() => return Ok(()),
                "[DONE]" => return Err(Fault::Broken("its answer has no choice".to_owned())),
                data => self.take(data.as_bytes(), answer, delivery).await?,
            }
        }
        if answer.finished() {
            Ok(())
        } else {
            Err(Fault::Broken("it closed the connection early".to_owned()))
        }
    }

    /// Reads an answer that comes in one piece, from an endpoint that does not stream.
    async fn read_whole<B: AsRef<[u8]>>(
        &self,
        bytes: impl Stream<Item = Result<B, Fault>>,
        answer: &mut Answer,
        delivery: &mut Delivery<'_>,
    ) -> Result<(), Fault> {
        let mut bytes = pin!(bytes);
        let mut whole = Vec::new();
        while let Some(piece) = bytes.next().await {
            let piece = piece?;
            if whole.len().saturating_add(piece.as_ref().len()) > self.limit.saturating_add(ENVELOPE) {
                return Err(Fault::TooLarge);
            }
            whole.extend_from_slice(piece.as_ref());
        }
        self.take(&whole, answer, delivery).await?;
        if answer.chosen() {
            Ok(())
        } else {
            Err(Fault::Broken("its answer has no choice".to_owned()))
        }
    }

    /// Takes in one event or one whole answer, and hands out its chunks.
    async fn take(&self, data: &[u8], answer: &mut Answer, delivery: &mut Delivery<'_>) -> Result<(), Fault> {
        let mut event: Value = serde_json::from_slice(data)
            .map_err(|error| Fault::Broken(format!("a part of its answer is not JSON ({error})")))?;
        self.redact_answer(&mut event);
        let chunks = answer.push(&event).map_err(|why| {
            Fault::Broken(format!(
                "it reported an error: {}",
                self.clean(&why, REFUSAL_CHARACTERS)
            ))
        })?;
        if answer.size() > self.limit {
            return Err(Fault::TooLarge);
        }
        for chunk in chunks {
            delivery.deliver(chunk).await.map_err(Fault::Undeliverable)?;
        }
        Ok(())
    }

    fn fault(&self, fault: Fault, answer: &Answer, delivery: &Delivery<'_>) -> CallError {
        match fault {
            Fault::Undeliverable(error) => error,
            Fault::Idle => self.hanging(),
            Fault::TooLarge => {
                let (host, limit) = (&self.host, self.limit);
                let message =
                    format!("the answer of {host} is larger than {limit} bytes; the limit is `[inference] answer`");
                CallError::new(ErrorKind::Limit, message)
            }
            Fault::Broken(why) if delivery.delivered() => {
                let message = format!(
                    "the answer broke off after {} characters: {} failed: {why}",
                    answer.characters(),
                    self.host
                );
                CallError::new(ErrorKind::Other, message).blame(Blame::Upstream)
            }
            Fault::Broken(why) => {
                let message = format!("the endpoint {} gave no answer: {why}; try again later", self.host);
                CallError::new(ErrorKind::Unavailable, message)
            }
        }
    }

    fn hanging(&self) -> CallError {
        let message = format!(
            "the endpoint {} sent nothing for {:?} and was given up; the limit is `[inference] idle`",
            self.host, self.idle
        );
        CallError::new(ErrorKind::Timeout, message)
    }

    /// A foreign text that may be shown: without the key, without control characters, cut.
    fn clean(&self, text: &str, characters: usize) -> String {
        let text = self
            .key
            .as_ref()
            .map_or_else(|| text.to_owned(), |key| key.redact(text));
        let mut clean = String::new();
        for character in text.trim().chars().take(characters) {
            match character {
                '"' | '\'' | '\\' => clean.push(character),
                // Writing to a string does not fail.
                _ => drop(write!(clean, "{}", character.escape_debug())),
            }
        }
        clean
    }

    fn redact_answer(&self, value: &mut Value) {
        if let Some(key) = &self.key {
            key.redact_answer(value);
        }
    }
}

fn address(base_url: &str) -> Option<Url> {
    let url = Url::parse(base_url.trim()).ok()?;
    let plain =
        url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    if !plain || !url.has_host() || !matches!(url.scheme(), "http" | "https") {
        return None;
    }
    Url::parse(&format!("{}/chat/completions", url.as_str().trim_end_matches('/'))).ok()
}

/// The body of a response as it comes; waiting too long for a piece is a fault.
fn pieces(response: Response, idle: Duration) -> impl Stream<Item = Result<impl AsRef<[u8]>, Fault>> {
    stream::try_unfold(response, move |mut response| async move {
        match timeout(idle, response.chunk()).await {
            Ok(Ok(piece)) => Ok(piece.map(|piece| (piece, response))),
            Ok(Err(error)) => Err(Fault::Broken(format!("its connection broke ({})", cause(&error)))),
            Err(_) => Err(Fault::Idle),
        }
    })
}

/// The first bytes of a refusal, as far as they can be had.
async fn refusal_body(response: Response, idle: Duration) -> String {
    let mut pieces = pin!(pieces(response, idle));
    let mut body = Vec::new();
    while let Some(Ok(piece)) = pieces.next().await {
        body.extend_from_slice(piece.as_ref());
        if body.len() >= REFUSAL_BYTES {
            break;
        }
    }
    String::from_utf8_lossy(&body).into_owned()
}

/// The innermost cause: the outer ones only repeat the address.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use serde_json::json;

    use super::super::testing::{self, CANARY, events};
    use super::*;
    use crate::call::Sink;

    const LIMIT: usize = 4096;

    /// Made once: reading the machine's certificates takes its time.
    static ENDPOINT: LazyLock<Endpoint> = LazyLock::new(|| {
        testing::provider();
        let key = Secret::new("KEY", CANARY).unwrap();
        let config = crate::config::Inference {
            answer: LIMIT,
            ..Default::default()
        };
        Endpoint::new("http://127.0.0.1:9/v1/", "here", Some(key), &config).unwrap()
    });

    type Pieces = Vec<Result<Vec<u8>, Fault>>;

    /// Reads `pieces` as a stream or as a whole; gives the chunks and the reply, or the error.
    fn read(is_stream: bool, pieces: Pieces) -> Result<(Vec<Value>, Value), CallError> {
        let (sink, mut answer) = (Sink::discard(), Answer::default());
        let mut delivery = Delivery {
            sink: Some(&sink),
            kept: Some(Vec::new()),
        };
        let pieces = stream::iter(pieces);
        let end = futures::executor::block_on(async {
            if is_stream {
                ENDPOINT.read_stream(pieces, &mut answer, &mut delivery).await
            } else {
                ENDPOINT.read_whole(pieces, &mut answer, &mut delivery).await
            }
        });
        end.map_err(|fault| ENDPOINT.fault(fault, &answer, &delivery))?;
        Ok((delivery.kept.unwrap(), answer.reply("m")))
    }

    fn streamed(script: &[Value]) -> Pieces {
        vec![Ok(events(script).into_bytes())]
    }

    fn delta(text: &str) -> Value {
        json!({"choices": [{"delta": {"content": text}}]})
    }

    fn stop() -> Value {
        json!({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    }

    #[test]
    fn the_address_is_plain_or_refused() {
        for (base, path) in [
            ("http://h:1", "/chat/completions"),
            (" https://h/v1/ ", "/v1/chat/completions"),
        ] {
            assert_eq!(address(base).unwrap().path(), path);
        }
        for base in [
            "",
            "h/v1",
            "ftp://h",
            "http://u:p@h",
            "http://h?key=1",
            "http://h#x",
            "file:///etc",
            "data:,x",
        ] {
            assert!(address(base).is_none(), "{base}");
        }
    }

    #[test]
    fn foreign_texts_are_shown_short_and_clean() {
        let text = format!(" a\u{1b}[31m\n\"b\" {CANARY}{} ", "x".repeat(300));
        let clean = ENDPOINT.clean(&text, 40);
        assert_eq!(clean, r#"a\u{1b}[31m\n"b" [redacted]xxxxxxxxxxxxxxxxxxx"#);
    }

    #[test]
    fn an_answer_beyond_the_limit_is_refused() {
        let half = "x".repeat(LIMIT / 2);
        let whole = json!({"choices": [{"message": {"content": half.clone() + &half + "x"}}]}).to_string();
        let endless = || (0..10).map(|_| Ok(vec![b'x'; 1000])).collect();
        for (is_stream, pieces) in [
            (false, vec![Ok(whole.into_bytes())]),
            (true, streamed(&[delta(&half), delta(&half), delta("x"), stop()])),
            (true, endless()),
            (false, endless()),
        ] {
            let error = read(is_stream, pieces).unwrap_err();
            assert_eq!((error.kind, error.blame), (ErrorKind::Limit, Blame::Operator));
            let expected = "the answer of 127.0.0.1:9 is larger than 4096 bytes; the limit is `[inference] answer`";
            assert_eq!(error.message, expected);
        }
        let fits = read(true, streamed(&[delta(&half), delta(&half), stop()]));
        assert_eq!(fits.unwrap().1["content"], half.clone() + &half);
        let mut chatty: Pieces = (0..1000)
            .map(|_| Ok(format!(": here\n\ndata: {}\n\n", delta("")).into()))
            .collect();
        chatty.extend(streamed(&[stop()]));
        assert!(
            read(true, chatty).is_ok(),
            "what is not part of the answer does not count"
        );
    }

    #[test]
    fn after_the_finish_reason_nothing_is_missing() {
        for fault in [Fault::Idle, Fault::Broken("reset".into())] {
            let mut pieces = streamed(&[delta("x"), stop()]);
            pieces.push(Err(fault));
            assert_eq!(read(true, pieces).unwrap().1["content"], "x");
        }
    }

    fn any_piece() -> impl Strategy<Value = Vec<u8>> {
        let telling = "(data: |\\{|\\}|\n\n|\"choices\":|\\[|\\])".prop_map(String::into_bytes);
        prop_oneof![proptest::collection::vec(any::<u8>(), 0..20), telling]
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_answer(texts in proptest::collection::vec("\\PC{0,6}|\\n|é|𝄞", 1..6),
                                           cuts in proptest::collection::vec(0usize..100_000, 0..12),
                                           newline in "\n|\r\n") {
            let mut script: Vec<Value> = texts.iter().map(|text| delta(text)).collect();
            let call = json!({"index": 0, "id": "a", "function": {"name": "read", "arguments": "{}"}});
            script.push(json!({"choices": [{"delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]}));
            script.push(json!({"choices": [], "usage": {"total_tokens": 3}}));
            let bytes = (events(&script) + ": a comment\n\ndata: [DONE]\n\n").replace('\n', &newline).into_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % bytes.len()).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([bytes.len()]) {
                pieces.push(Ok(bytes[from..cut].to_vec()));
                from = cut;
            }
            let (chunks, reply) = read(true, pieces).unwrap();
            prop_assert_eq!(&reply["content"], &json!(texts.concat()));
            prop_assert_eq!(&reply["usage"]["total_tokens"], &json!(3));
            prop_assert_eq!(&reply["tool_calls"][0]["function"]["name"], &json!("read"));
            let whole = read(true, vec![Ok(bytes)]).unwrap();
            prop_assert_eq!((chunks, reply), whole);
        }

        #[test]
        fn any_bytes_end_in_an_answer_or_one_error(is_stream: bool,
                                                   pieces in proptest::collection::vec(any_piece(), 0..12)) {
            if let Err(error) = read(is_stream, pieces.into_iter().map(Ok).collect()) {
                prop_assert!(matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Other | ErrorKind::Limit));
            }
        }
    }
}
