//! What the log says about a run that a crash cut off.
//!
//! A call with an intent and no end may or may not have had its effect: it gets its end here, `indeterminate`. Where
//! doing it again does no harm, the end says so, and the replay passes over it and makes the call again.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::journal::Past;
use crate::call::{CallError, Effect, Json};
use crate::error::{Blame, Error, ErrorKind, Result};
use crate::log::{self, Append, Event, EventLog, NewEvent};

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
    /// Cut by a crash, and to be made again.
    #[serde(default)]
    again: bool,
}

#[derive(Debug, Deserialize)]
struct Asker {
    kind: String,
}

/// The events of a stream after a place, in order.
async fn events(log: &dyn EventLog, run: &str, after: u64) -> Result<Vec<Event>> {
    let mut all: Vec<Event> = Vec::new();
    loop {
        let page = log.read(run, all.last().map_or(after, |event| event.seq), PAGE).await?;
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

/// Whether something of this kind happened in a run.
pub(super) async fn has(log: &dyn EventLog, run: &str, kind: &str) -> Result<bool> {
    Ok(events(log, run, 0).await?.iter().any(|event| *event.kind == *kind))
}

/// The agent's calls that have an end, by number.
pub(super) async fn past(log: &dyn EventLog, run: &str) -> Result<BTreeMap<u64, Past>> {
    let mut past = BTreeMap::new();
    let mut asked: BTreeMap<Uuid, Json> = BTreeMap::new();
    for event in events(log, run, 0).await? {
        // A person's answer, among others, is about a call and is no part of it.
        let (Some(id), "call.started" | "call.ended") = (event.call, &*event.kind) else {
            continue;
        };
        let call = logged(&event)?;
        let (Some(index), "agent") = (call.index, call.principal.kind.as_str()) else {
            continue;
        };
        if &*event.kind == "call.started" {
            asked.extend(call.message.map(|message| (id, message)));
            continue;
        }
        if call.again {
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

/// Gives an end to every call of a stream that has none, and answers the last place that was looked at. Nothing of the
/// stream may be under way.
pub(crate) async fn settle(log: &dyn EventLog, run: &str, after: u64) -> Result<u64> {
    let mut open: BTreeMap<Uuid, (Event, Logged)> = BTreeMap::new();
    let mut begun: BTreeMap<u64, usize> = BTreeMap::new();
    let mut last = after;
    for event in events(log, run, after).await? {
        last = event.seq;
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
        let again = match call.effect {
            Effect::Read | Effect::Idempotent => true,
            // Paid for and cut off once: it may be asked once more.
            Effect::Inference => call.index.is_some_and(|index| begun.get(&index) == Some(&1)),
            Effect::NonIdempotent => false,
        };
        let end = indeterminate(&event, id, &call.name, again)?;
        last = log::write(log, Append::one(run, end)).await?.seq;
    }
    Ok(last)
}

fn indeterminate(started: &Event, call: Uuid, name: &str, again: bool) -> Result<NewEvent> {
    let broken = |error: CallError| Error::new(ErrorKind::Internal, error.message);
    let mut body: Map<String, Value> = started.body.to().map_err(broken)?;
    let message = format!("{name} was under way when the hub ended; it may or may not have had its effect");
    let error = CallError::new(ErrorKind::Indeterminate, message).blame(Blame::Hub);
    body.remove("message");
    body.insert("attempts".to_owned(), Value::Array(Vec::new()));
    body.insert("micros".to_owned(), Value::from(0));
    body.insert("again".to_owned(), Value::from(again));
    body.insert("error".to_owned(), serde_json::to_value(error).unwrap_or_default());
    Ok(NewEvent {
        call: Some(call),
        ..NewEvent::of("call.ended", Value::Object(body))
    })
}
