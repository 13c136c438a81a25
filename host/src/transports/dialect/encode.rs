//! Writes what an agent hears: the one answer of a call, and the output of a command while it runs.
//!
//! A result is canonical (from a built-in handler or a plugin) or a frame of its own (from a connected process, which
//! may have any `type`). One rule serves both: its fields stay, the head is set, and what is missing is filled in.

use super::awaited::{Awaits, By};
use super::fields::{Fields, words};
use super::{Asked, canonical, fill};
use crate::call::{CallError, CallName, Json};

/// The answer to a frame: one JSON object of the type that the agent awaits. None when it awaits nothing, whatever
/// came of it: any frame might then be taken for the answer to another call.
pub fn encode(asked: &Asked, result: &Result<Json, CallError>) -> Option<Json> {
    let awaits = asked.awaits.as_ref()?;
    let mut out = match result {
        Ok(result) => Fields::read(result.as_str()).unwrap_or_else(|| wrapped(result)),
        Err(error) => failure(error),
    };
    let given = out.text("type");
    let success = result.is_ok() && succeeded(&out);
    out.set("success", &success);
    if !success {
        name_the_error(&mut out);
    }
    fill::reply(&asked.name, awaits, success, &mut out);
    fill::resolved(awaits, success, asked.request_id.is_some(), &mut out);
    let kind = chosen(awaits, given.as_deref(), success, &out);
    out.remove(&["replyRequestId", "requestId"]);
    out.set("type", kind);
    if awaits.by == By::Event {
        out.set("event", kind);
    }
    if let Some(id) = &asked.request_id {
        out.set("requestId", id);
    }
    if let Some(id) = &asked.agent_id {
        out.set("agentId", id);
    }
    Some(out.json())
}

/// The frame for one chunk of a reply; none unless the agent follows a command.
///
/// It carries no `requestId`: whoever matches by it would take the first chunk for the answer.
pub fn chunk(asked: &Asked, chunk: &Json) -> Option<Json> {
    if &*asked.name.kind != "executeCommandWithStream" {
        return None;
    }
    let from = Fields::read(chunk.as_str())?;
    let mut out = Fields::default();
    out.set("type", "commandOutput");
    if let Some(text) = from.text("text") {
        let stream = if from.text("stream").as_deref() == Some("stderr") {
            "stderr"
        } else {
            "stdout"
        };
        out.set(stream, &text);
        out.set("output", &text);
        return Some(out.json());
    }
    let texts = ["stdout", "stderr", "output"].map(|name| (name, from.text(name)));
    for (name, text) in &texts {
        if let Some(text) = text {
            out.set(name, text);
            out.fill("output", text);
        }
    }
    out.has("output").then(|| out.json())
}

/// The result of a connected process as the canonical reply, where the kind is built in and the result is a frame.
pub fn canonical_reply(name: &CallName, result: Json) -> Json {
    let built_in = &*name.kind == "fsEvent" || (canonical::is_flat(&name.kind) && &*name.kind != "runProject");
    if !built_in {
        return result;
    }
    let Some(mut out) = Fields::read(result.as_str()).filter(|fields| fields.text("type").is_some()) else {
        return result;
    };
    let success = succeeded(&out);
    out.remove(&["type", "requestId", "replyRequestId", "event"]);
    if success {
        fill::canonical(name, &mut out);
    } else {
        out.set("success", &false);
    }
    out.json()
}

fn wrapped(result: &Json) -> Fields {
    let mut out = Fields::default();
    out.set("result", result);
    out.set("data", result);
    out
}

fn failure(error: &CallError) -> Fields {
    let mut out = Fields::default();
    out.set("error", &error.message);
    out.set("message", &error.message);
    out.set("errorKind", error.kind.as_str());
    out
}

/// Whether a result says that the call went well. One that does not say has failed when it names an error.
fn succeeded(result: &Fields) -> bool {
    let error = || match result.raw("error").map(|error| error.get()) {
        None | Some("\"\"" | "false" | "0") => result.text("type").as_deref() == Some("commandError"),
        Some(_) => true,
    };
    result.get::<bool>("success").unwrap_or_else(|| !error())
}

fn name_the_error(out: &mut Fields) {
    let named = out.raw("error").or_else(|| out.raw("message")).map(words);
    let text = named.filter(|text| !text.is_empty());
    if text.is_none() {
        out.remove(&["error"]);
    }
    let text = text.unwrap_or_else(|| "the call failed, and whoever executed it did not say why".to_owned());
    out.fill("error", &text);
    out.fill("message", &text);
}

/// The type of an answer: of several awaited ones the one that the result has, or that fits how it ended.
fn chosen<'a>(awaits: &'a Awaits, given: Option<&'a str>, success: bool, out: &Fields) -> &'a str {
    if let Some(given) = given.filter(|given| awaits.accepts(given)) {
        return given;
    }
    let words_instead = || {
        let filled = |name| out.text(name).is_some_and(|text| !text.is_empty());
        filled("feedback") && !filled("answer")
    };
    match awaits.also {
        [other @ "commandError"] if !success => other,
        [other @ "feedbackResponse"] if words_instead() => other,
        _ => &awaits.first,
    }
}
