//! What the log says about a run that a crash cut off.
//!
//! A call with an intent and no end may or may not have had its effect. What may be repeated is left open, and is made
//! again by the replay; what may not gets its end here: `indeterminate`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::journal::Past;
use crate::call::{CallError, Effect, Json};
use crate::error::{Blame, Error, ErrorKind, Result};
use crate::log::{self, Append, Body, Event, EventLog, NewEvent};

/// Events read at once.
const PAGE: usize = 1000;

/// What `call.started` and `call.ended` have in common, as far as a replay needs it.
#[derive(Debug, Deserialize)]
struct Logged {
    name: String,
    principal: Asker,
    effect: Effect,
    message: Option<Json>,
    index: Option<u64>,
    reply: Option<Json>,
    error: Option<CallError>,
}

#[derive(Debug, Deserialize)]
struct Asker {
    kind: String,
}

/// All events of a run, in order.
async fn events(log: &dyn EventLog, run: &str) -> Result<Vec<Event>> {
    let mut all: Vec<Event> = Vec::new();
    loop {
        let page = log.read(run, all.last().map_or(0, |event| event.seq), PAGE).await?;
        let last = page.len() < PAGE;
        all.extend(page);
        if last {
            return Ok(all);
        }
    }
}

fn logged(event: &Event) -> Result<Logged> {
    event.body.to().map_err(|error| {
        let message = format!(
            "event {} of run {} cannot be read: {}",
            event.seq, event.run, error.message
        );
        Error::new(ErrorKind::Internal, message)
    })
}

/// The agent's calls that have an end, by number.
pub(super) async fn past(log: &dyn EventLog, run: &str) -> Result<BTreeMap<u64, Past>> {
    let mut past = BTreeMap::new();
    let mut asked: BTreeMap<Uuid, Json> = BTreeMap::new();
    for event in events(log, run).await? {
        let Some(id) = event.call else { continue };
        let call = logged(&event)?;
        let (Some(index), "agent") = (call.index, call.principal.kind.as_str()) else {
            continue;
        };
        if &*event.kind == "call.started" {
            asked.extend(call.message.map(|message| (id, message)));
            continue;
        }
        let message = call.message.or_else(|| asked.remove(&id)).unwrap_or_else(Json::null);
        let result = match (call.reply, call.error) {
            (_, Some(error)) => Err(error),
            (reply, None) => Ok(log::resolve(log, reply.unwrap_or_else(Json::null)).await?),
        };
        past.insert(
            index,
            Past {
                id,
                name: call.name,
                message,
                result,
            },
        );
    }
    Ok(past)
}

/// Gives an end to every call that has none and must not be made again.
pub(super) async fn settle(log: &dyn EventLog, run: &str) -> Result<()> {
    let mut open: BTreeMap<Uuid, (Event, Logged)> = BTreeMap::new();
    let mut begun: BTreeMap<u64, usize> = BTreeMap::new();
    for event in events(log, run).await? {
        match (event.call, &*event.kind) {
            (Some(id), "call.started") => {
                let call = logged(&event)?;
                if let Some(index) = call.index {
                    *begun.entry(index).or_default() += 1;
                }
                open.insert(id, (event, call));
            }
            (Some(id), "call.ended") => drop(open.remove(&id)),
            _ => {}
        }
    }
    for (id, (event, call)) in open {
        let repeatable = match call.effect {
            Effect::Read | Effect::Idempotent => true,
            // Paid for and cut off once: it may be asked once more.
            Effect::Inference => call.index.is_some_and(|index| begun.get(&index) == Some(&1)),
            Effect::NonIdempotent => false,
        };
        if !repeatable {
            log.append(Append::one(run, indeterminate(&event, id, &call.name)?))
                .await?
                .durable()
                .await?;
        }
    }
    Ok(())
}

fn indeterminate(started: &Event, call: Uuid, name: &str) -> Result<NewEvent> {
    let broken = |error: CallError| Error::new(ErrorKind::Internal, error.message);
    let mut body: Map<String, Value> = started.body.to().map_err(broken)?;
    let message = format!("{name} was under way when the hub ended; it may or may not have had its effect");
    let error = CallError::new(ErrorKind::Indeterminate, message).blame(Blame::Hub);
    body.remove("message");
    body.insert("attempts".to_owned(), Value::Array(Vec::new()));
    body.insert("micros".to_owned(), Value::from(0));
    body.insert("error".to_owned(), serde_json::to_value(error).unwrap_or_default());
    Ok(NewEvent {
        kind: "call.ended",
        call: Some(call),
        body: Body::Json(Value::Object(body).into()),
        record: None,
    })
}
