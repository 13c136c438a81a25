//! A model that somebody serves: its parts and its reply, put together as those of an endpoint are.
//!
//! Not here: who serves which model, and how the request gets there.

use futures::StreamExt;
use serde_json::{Value, json};

use super::Delivery;
use super::assemble::Answer;
use super::message::Request;
use crate::call::{Call, CallError, Json, Model, Piece};
use crate::error::{Blame, ErrorKind, Result};
use crate::text;

/// How much of what a foreign text says is shown, in characters.
const SHOWN: usize = 200;

/// Asks once; chunks go out as they come, the return value is the canonical reply.
pub(super) async fn ask(
    model: &dyn Model,
    call: &Call,
    request: &Request,
    limit: usize,
    delivery: &mut Delivery<'_>,
) -> Result<Value, CallError> {
    let mut options = request.content();
    options.insert("model".into(), json!(model.id()));
    let mut pieces = model.ask(call, Value::Object(options).into(), delivery.wanted());
    let mut answer = Answer::default();
    while let Some(piece) = pieces.next().await {
        let (chunks, ended) = match piece? {
            Piece::Part(part) => (read(&part).and_then(|part| answer.push(&part)), false),
            Piece::Reply(reply) => (read(&reply).and_then(|reply| answer.finish(reply)), true),
        };
        let chunks = chunks.map_err(|why| broken(model, &answer, delivery, &why))?;
        if answer.size() > limit {
            let message = format!(
                "the answer of {} is larger than {limit} bytes; the limit is `[inference] answer`",
                model.by()
            );
            return Err(CallError::new(ErrorKind::Limit, message));
        }
        for chunk in chunks {
            delivery.deliver(chunk).await?;
        }
        if ended {
            return Ok(answer.reply(model.id()));
        }
    }
    Err(broken(model, &answer, delivery, "it ended without a reply"))
}

fn read(piece: &Json) -> Result<Value, String> {
    piece.to().map_err(|error| error.message)
}

fn broken(model: &dyn Model, answer: &Answer, delivery: &Delivery<'_>, why: &str) -> CallError {
    let (by, id, why) = (model.by(), model.id().escape_debug(), text::shortened(why, SHOWN));
    if delivery.delivered() {
        let count = answer.characters();
        let message = format!("the answer broke off after {count} characters: model `{id}` of {by} failed: {why}");
        return CallError::new(ErrorKind::Other, message).blame(Blame::Upstream);
    }
    let message = format!("model `{id}` of {by} gave no answer: {why}; look into the log of that process");
    CallError::new(ErrorKind::Unavailable, message)
}
