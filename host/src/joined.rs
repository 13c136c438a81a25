//! Hubs that are joined to this one: what `hub:<name>` reaches.
//!
//! A call goes out over the far hub's HTTP API, with a token of that hub, and its rules decide there. Chunks come back as they
//! come, then the one end. Each hub puts its own name on the route of the call, so that a ring of hubs ends where it closes.
//! Not here: who is asked (routes), and clusters.

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio_util::codec::{FramedRead, LinesCodec};
use tokio_util::io::StreamReader;

use crate::call::{Call, CallError, Json, Sink};
use crate::config::Config;
use crate::error::{Blame, Error, ErrorKind, Result};

/// The header with the names of the hubs that a call has passed, oldest first, with `,` between them.
pub const ROUTE: &str = "x-waypost-route";

/// The hubs that this one may ask.
pub struct Joined {
    hubs: HashMap<Arc<str>, Far>,
    client: reqwest::Client,
    /// What this hub is called on a route.
    me: Arc<str>,
    /// The longest line of an answer.
    line: usize,
}

struct Far {
    /// Where calls are made.
    calls: String,
    token: HeaderValue,
}

/// A line of an answer.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Line {
    Chunk(Json),
    /// A person is asked over there, and answers there.
    Question(IgnoredAny),
    Reply(Json),
    Error(CallError),
}

impl Joined {
    /// The hubs of the configuration; a token that is not there refuses the start.
    pub fn new(config: &Config, variable: &dyn Fn(&str) -> Option<String>, me: Arc<str>) -> Result<Self> {
        let mut hubs = HashMap::new();
        for hub in &config.joined {
            let operator = |message: String| Error::new(ErrorKind::Invalid, message).blame(Blame::Operator);
            let token = variable(&hub.token_env).filter(|token| !token.is_empty()).ok_or_else(|| {
                operator(format!(
                    "[[joined]] `{}`: the variable {} holds no token; make one on that hub with `waypost token create --scope api`",
                    hub.name, hub.token_env
                ))
            })?;
            let mut token = HeaderValue::try_from(format!("Bearer {token}"))
                .map_err(|_| operator(format!("[[joined]] `{}`: {} holds no token", hub.name, hub.token_env)))?;
            token.set_sensitive(true);
            let base: reqwest::Url = hub
                .url
                .parse()
                .map_err(|error| operator(format!("[[joined]] `{}`: `url` is no URL: {error}", hub.name)))?;
            let calls = base
                .join(&format!("/api/v1/projects/{}/calls", hub.project))
                .map_err(|error| operator(format!("[[joined]] `{}`: `url` is no base: {error}", hub.name)))?;
            let far = Far {
                calls: calls.into(),
                token,
            };
            hubs.insert(hub.name.as_str().into(), far);
        }
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build();
        let client = client.map_err(|error| Error::new(ErrorKind::Internal, "no HTTP client").because(error))?;
        Ok(Self {
            hubs,
            client,
            me,
            line: config.limits.message.saturating_add(64 << 10),
        })
    }

    /// Carries a call to a joined hub.
    pub async fn ask(&self, name: &str, call: &Call, sink: &Sink) -> Result<Json, CallError> {
        let Some(far) = self.hubs.get(name) else {
            let message = format!(
                "no hub `{}` is joined to this one: add a [[joined]] with its name",
                name.escape_debug()
            );
            return Err(CallError::new(ErrorKind::Unavailable, message).blame(Blame::Operator));
        };
        let mut route = call.route.to_vec();
        if route.contains(&self.me) {
            let message = format!("{} has passed this hub already; it is not passed on again", call.name);
            return Err(CallError::new(ErrorKind::Unavailable, message));
        }
        route.push(Arc::clone(&self.me));
        let route = route.join(",");
        tokio::select! {
            biased;
            result = self.carry(name, far, &route, call, sink) => result,
            // Hanging up cancels it over there; whether in time is not known here.
            () = call.cancel.cancelled() => {
                let message = format!("{} was given up while hub `{name}` worked on it; check what it did", call.name);
                Err(CallError::new(ErrorKind::Indeterminate, message))
            }
        }
    }

    async fn carry(&self, name: &str, far: &Far, route: &str, call: &Call, sink: &Sink) -> Result<Json, CallError> {
        let upstream = |kind, message: String| CallError::new(kind, message).blame(Blame::Upstream);
        let body = serde_json::json!({ "call": call.name.to_string(), "message": call.message });
        let sent = self
            .client
            .post(&far.calls)
            .header(AUTHORIZATION, far.token.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(ROUTE, route)
            .timeout(call.deadline.left())
            .body(body.to_string())
            .send()
            .await;
        let response = sent.map_err(|error| match error.is_connect() {
            true => upstream(
                ErrorKind::Unavailable,
                format!("hub `{name}` cannot be reached; is it running?"),
            ),
            false => upstream(
                ErrorKind::Indeterminate,
                format!("hub `{name}` hung up; check what it did"),
            ),
        })?;
        if !response.status().is_success() {
            return Err(refused(name, response).await);
        }
        let bytes = response.bytes_stream().map_err(std::io::Error::other);
        let mut lines = FramedRead::new(StreamReader::new(bytes), LinesCodec::new_with_max_length(self.line));
        while let Some(line) = lines.next().await {
            let broken = || {
                upstream(
                    ErrorKind::Indeterminate,
                    format!("the answer of hub `{name}` broke off; check what it did"),
                )
            };
            let line = line.map_err(|_| broken())?;
            match serde_json::from_str(&line).map_err(|_| broken())? {
                Line::Chunk(chunk) => sink.emit(chunk).await?,
                Line::Question(_) => {}
                Line::Reply(reply) => return Ok(reply),
                Line::Error(error) => return Err(error),
            }
        }
        Err(upstream(
            ErrorKind::Indeterminate,
            format!("hub `{name}` gave no end; check what it did"),
        ))
    }
}

/// Why a far hub did not take a call.
async fn refused(name: &str, response: reqwest::Response) -> CallError {
    #[derive(Deserialize)]
    struct Refused {
        error: CallError,
    }
    let status = response.status();
    let body = response.bytes().await.unwrap_or_default();
    match serde_json::from_slice::<Refused>(&body) {
        Ok(Refused { error }) => error,
        Err(_) => {
            let text = String::from_utf8_lossy(&body);
            let text = text
                .lines()
                .next()
                .unwrap_or_default()
                .chars()
                .take(200)
                .collect::<String>();
            let message = format!("hub `{name}` refused the call ({}): {text}", status.as_u16());
            CallError::new(ErrorKind::Unavailable, message).blame(Blame::Operator)
        }
    }
}
