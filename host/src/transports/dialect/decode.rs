//! Reads one frame of an agent.
//!
//! Not here: the canonical messages (`canonical`) and what is awaited (`awaited`).

use serde_json::value::RawValue;

use super::fields::{Fields, words};
use super::{Asked, Malformed, Part, awaited, canonical, route};
use crate::call::{CallName, Json};
use crate::route::wire_kind;

/// The longest `requestId` that is echoed, in bytes of JSON.
pub const REQUEST_ID: usize = 256;

/// The longest `type` or `action`, in bytes. Together they fit what a call may be named.
const NAME: usize = 96;

/// What agents and providers send without asking for anything.
const ANSWERS: &[&str] = &[
    "__ping",
    "__pong",
    "actionBlockComplete",
    "environmentHeartbeat",
    "getDiffFiles",
    "pong",
    "providerHeartbeat",
    "registered",
    "remoteProviderEvent",
    "setResourceId",
];

/// Actions that name the same call as another, without `_` and in lower case; the second is the hub's own spelling.
const FS_ACTIONS: &[(&str, &str)] = &[
    ("createfile", "createFile"),
    ("createfolder", "createFolder"),
    ("readfile", "readFile"),
    ("updatefile", "updateFile"),
    ("deletefile", "deleteFile"),
    ("deletefolder", "deleteFolder"),
    ("filelist", "fileList"),
    ("listfile", "fileList"),
    ("listfiles", "fileList"),
    ("listcodedefinitionnames", "listCodeDefinitionNames"),
    ("listcodedefinitions", "listCodeDefinitionNames"),
    ("searchfiles", "searchFiles"),
    ("writetofile", "writeToFile"),
    ("writefile", "writeToFile"),
    ("grepsearch", "grepSearch"),
    ("fuzzysearch", "fuzzySearch"),
    ("filesearch", "fuzzySearch"),
    ("applydiff", "applyDiff"),
    ("editfilewithdiff", "applyDiff"),
    ("editfileandapplydiff", "applyDiff"),
    ("readmanyfiles", "readManyFiles"),
    ("listdirectory", "listDirectory"),
];

/// Reads one text frame. Nothing that an agent can write is a panic, and what names a call is always answered.
pub fn decode(text: &str) -> Result<Asked, Malformed> {
    let frame = match Json::parse(text) {
        Ok(frame) => frame,
        // It is JSON, but too deep.
        Err(error) if is_object(text) => return Err(field(error.message, None)),
        Err(_) => return Err(Malformed::NotAnObject),
    };
    let Some(fields) = Fields::read(frame.as_str()) else {
        return Err(match is_object(text) {
            true => field("the name of a field is not valid Unicode".to_owned(), None),
            false => Malformed::NotAnObject,
        });
    };
    let request_id = fields.raw("requestId").map(request_id).transpose()?;
    let kind = name(&fields, "type", request_id.as_ref())?;
    let kind = kind.ok_or_else(|| field("a frame needs a `type`".to_owned(), request_id.clone()))?;
    let action = name(&fields, "action", request_id.as_ref())?;
    let (name, action) = call_name(&kind, action, &fields);
    let part = part(&name, &kind, &fields);
    let awaits = match part {
        Part::Answer => None,
        _ => awaited(&name, &kind, action.as_deref()),
    };
    Ok(Asked {
        message: canonical::message(&name, &kind, &fields),
        agent_id: fields.get("agentId").filter(|_| name.action() == "startAgent"),
        name,
        request_id,
        awaits,
        route: route::passed(&fields),
        frame,
        kind: kind.into(),
        action: action.map(Into::into),
        part,
    })
}

fn is_object(text: &str) -> bool {
    text.trim_ascii_start().starts_with('{') && serde_json::from_str::<&RawValue>(text).is_ok()
}

fn field(text: String, request_id: Option<Json>) -> Malformed {
    Malformed::Field { text, request_id }
}

fn request_id(raw: &RawValue) -> Result<Json, Malformed> {
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'"' | b'-' | b'0'..=b'9') if text.len() <= REQUEST_ID => {
            Json::of_part(raw).map_err(|error| field(error.message, None))
        }
        _ => Err(field(
            format!("`requestId` must be a string or a number of at most {REQUEST_ID} bytes"),
            None,
        )),
    }
}

/// A `type` or an `action`, when there is one.
fn name(fields: &Fields, which: &str, request_id: Option<&Json>) -> Result<Option<String>, Malformed> {
    if !fields.has(which) {
        return Ok(None);
    }
    let text = fields
        .text(which)
        .filter(|text| !text.is_empty() && text.len() <= NAME && !text.contains(|c: char| c.is_control() || c == ':'));
    let wrong = || {
        field(
            format!("`{which}` must be a string of 1 to {NAME} bytes without `:` and control characters"),
            request_id.cloned(),
        )
    };
    text.map(Some).ok_or_else(wrong)
}

/// The call that is meant, and the action as the agent wrote it.
fn call_name(kind: &str, action: Option<String>, fields: &Fields) -> (CallName, Option<String>) {
    let wire = wire_kind(kind);
    if let Some((family, rest)) = wire.split_once('.').filter(|(a, b)| !a.is_empty() && !b.is_empty()) {
        return (CallName::new(family, Some(rest)), action);
    }
    // The newer SDK asks for a model's configuration with the action inside the message.
    let inner = || fields.object("message").and_then(|message| message.text("action"));
    let action = match wire {
        "projectStateEvent" => action.or_else(|| inner().filter(|action| action == "getAppState")),
        _ => action,
    };
    let known = match (wire, action.as_deref()) {
        ("settingEvent", Some("runProject")) => return (CallName::new("runProject", None), action),
        // What has no actions is named without.
        (wire, _) if canonical::is_flat(wire) => None,
        ("fsEvent", Some(action)) => {
            let plain: String = action
                .chars()
                .filter(|c| *c != '_')
                .collect::<String>()
                .to_ascii_lowercase();
            let same = FS_ACTIONS.iter().find(|(written, _)| *written == plain);
            Some(same.map_or(action, |(_, own)| *own))
        }
        (_, action) => action,
    };
    (CallName::new(wire, known), action)
}

fn part(name: &CallName, kind: &str, fields: &Fields) -> Part {
    match &*name.kind {
        "processStarted" => Part::Started,
        "processFinished" => Part::Finished,
        "processStoped" => Part::Stopped {
            message: canonical::stopped_with(fields),
            error: fields.raw("error").map(words).filter(|error| !error.is_empty()),
        },
        _ if ANSWERS.contains(&kind) || kind.ends_with("Response") || kind.starts_with("steering") => Part::Answer,
        _ => Part::Call,
    }
}
