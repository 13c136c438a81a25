//! The built-in `inference`: asks the model that somebody serves, or one OpenAI-compatible endpoint, records what is
//! answered, or replays recordings.
//!
//! Which endpoint, model and folder stand under `[inference]` in `waypost.toml`, with the variables `OPENAI_BASE_URL`,
//! `OPENAI_API_KEY` and `OPENAI_MODEL` behind them. Not here: several endpoints or dialects (a plugin's work), and
//! repeating a failed call (dispatch's).

use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;

use crate::call::{Call, CallError, Effect, Handler, Json, Models, Sink};
use crate::config::{self, InferenceMode};
use crate::error::{Blame, ErrorKind, Result};

mod assemble;
mod endpoint;
pub mod message;
pub mod recording;
mod secret;
mod served;
#[cfg(test)]
mod testing;

use endpoint::Endpoint;
use message::Request;
use recording::{Recording, Recordings};
use secret::Secret;

/// What this handler executes.
pub const KINDS: &[super::Flat] = &[("inference", &[("", Effect::Inference)])];

/// The model when neither the call, nor the configuration, nor `OPENAI_MODEL` names one.
const MODEL: &str = "gpt-4o-mini";

/// How many models an error lists.
const LISTED: usize = 10;

/// The built-in handler.
pub struct Inference {
    mode: InferenceMode,
    /// None when no address is configured, which only the calls that need it complain about.
    endpoint: Option<Endpoint>,
    /// The model that was chosen for calls that name none.
    model: Option<String>,
    /// The size of one answer.
    limit: usize,
    /// The models that somebody serves.
    models: Option<Arc<dyn Models>>,
    recordings: Recordings,
}

impl Inference {
    /// Reads its settings, and from `environment` the variables that stand in for those not set.
    ///
    /// Replaying needs neither an address nor a key, and makes no client.
    pub fn new(
        config: config::Inference,
        environment: &dyn Fn(&str) -> Option<String>,
        project_root: PathBuf,
    ) -> Result<Self> {
        let variable = |name: &str| environment(name).filter(|value| !value.trim().is_empty());
        let address = match &config.base_url {
            Some(address) => Some((address.clone(), "`[inference] base-url`")),
            None => variable("OPENAI_BASE_URL").map(|address| (address, "the variable OPENAI_BASE_URL")),
        };
        let endpoint = match address {
            Some((address, setting)) if config.mode != InferenceMode::Replay => {
                let name = &config.api_key_env;
                let key = variable(name).map(|key| Secret::new(name, &key)).transpose()?;
                Some(Endpoint::new(&address, setting, key, &config)?)
            }
            _ => None,
        };
        Ok(Self {
            mode: config.mode,
            endpoint,
            model: config.model.clone().or_else(|| variable("OPENAI_MODEL")),
            limit: config.answer,
            models: None,
            recordings: Recordings::new(&project_root, &config.recordings),
        })
    }

    /// The same, with these models before the endpoint.
    pub fn beside(self, models: Arc<dyn Models>) -> Self {
        Self {
            models: Some(models),
            ..self
        }
    }

    async fn answer(&self, call: &Call, sink: &Sink) -> Result<Json, CallError> {
        let request = Request::parse(&call.message)?;
        let mut delivery = Delivery {
            sink: request.streams().then_some(sink),
            kept: None,
        };
        let reply = match self.mode {
            InferenceMode::Off => self.ask(call, &request, &mut delivery).await?,
            InferenceMode::Record => {
                self.recordings.prepare().await?;
                delivery.kept = Some(Vec::new());
                let reply = self.ask(call, &request, &mut delivery).await?;
                let recording = Recording::new(&request, delivery.kept.unwrap_or_default(), reply);
                self.recordings.keep(&recording::key(&request), &recording).await?;
                recording.reply
            }
            InferenceMode::Replay => {
                let recording = self.recordings.find(&request).await?;
                for chunk in recording.chunks {
                    delivery.deliver(chunk).await?;
                }
                recording.reply
            }
        };
        foreign(&reply)
    }

    async fn ask(&self, call: &Call, request: &Request, delivery: &mut Delivery<'_>) -> Result<Value, CallError> {
        let project = &call.principal.project;
        let named = request.model.as_deref().or(self.model.as_deref());
        if let (Some(models), Some(named)) = (&self.models, named)
            && let Some(model) = models.find(project, named)?
        {
            return served::ask(&*model, call, request, self.limit, delivery).await;
        }
        let Some(endpoint) = &self.endpoint else {
            return Err(self.no_endpoint(project));
        };
        let model = named.unwrap_or(MODEL);
        endpoint.ask(&request.body(model), model, delivery).await
    }

    fn no_endpoint(&self, project: &str) -> CallError {
        let mut message =
            "no model endpoint is configured; set `[inference] base-url` or the variable OPENAI_BASE_URL".to_owned();
        let names = self
            .models
            .as_ref()
            .map(|models| models.names(project))
            .unwrap_or_default();
        if !names.is_empty() {
            let more = if names.len() > LISTED { ", .." } else { "" };
            let names: Vec<String> = names
                .iter()
                .take(LISTED)
                .map(|name| format!("`{}`", name.escape_debug()))
                .collect();
            message.push_str(&format!(", or name a registered model: {}{more}", names.join(", ")));
        }
        CallError::new(ErrorKind::Unavailable, message).blame(Blame::Operator)
    }
}

impl Handler for Inference {
    fn handle<'a>(&'a self, call: &'a Call, sink: &'a Sink) -> BoxFuture<'a, Result<Json, CallError>> {
        Box::pin(async move {
            // Whatever the answer waits for, dropping it ends the request and closes the connection.
            tokio::select! {
                biased;
                () = call.cancel.cancelled() => Err(CallError::stopped(call)),
                () = sink.closed() => {
                    Err(CallError::new(ErrorKind::Cancelled, "the caller stopped reading the answer"))
                }
                reply = self.answer(call, sink) => reply,
            }
        })
    }
}

/// Where the chunks of one answer go: to the caller who wants them, and into the recording.
struct Delivery<'a> {
    sink: Option<&'a Sink>,
    kept: Option<Vec<Value>>,
}

impl Delivery<'_> {
    async fn deliver(&mut self, chunk: Value) -> Result<(), CallError> {
        if let Some(sink) = self.sink {
            sink.emit(foreign(&chunk)?).await?;
        }
        if let Some(kept) = &mut self.kept {
            kept.push(chunk);
        }
        Ok(())
    }

    /// Whether anybody takes chunks.
    fn wanted(&self) -> bool {
        self.kept.is_some() || self.sink.is_some_and(Sink::is_read)
    }

    /// Whether the caller has seen any of it.
    fn delivered(&self) -> bool {
        self.sink.is_some_and(Sink::delivered)
    }
}

/// JSON that came from outside: what the hub hands on is checked like all input.
fn foreign(value: &Value) -> Result<Json, CallError> {
    Json::parse(value.to_string()).map_err(|error| error.blame(Blame::Upstream))
}

#[cfg(test)]
mod tests;
