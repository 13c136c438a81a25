//! The canonical message of a call, from the fields of an agent's frame.
//!
//! The shapes are those of `wit/kinds`; a kind without one passes as it is. Each field is known by the names that the
//! SDKs gave it over time. Not here: whether a value makes sense, which the handler says.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::fields::{Fields, words};
use crate::call::{CallError, CallName, Json};
use crate::error::ErrorKind;

/// Whether the kind has no actions.
pub(super) fn is_flat(kind: &str) -> bool {
    is_command(kind)
        || matches!(
            kind,
            "inference"
                | "sendInterruptToTerminal"
                | "sendMessage"
                | "waitforReply"
                | "confirmationRequest"
                | "notificationEvent"
                | "processStarted"
                | "processStoped"
                | "processFinished"
                | "getChatHistory"
                | "runProject"
        )
}

/// Whether the kind runs a command line.
pub(super) fn is_command(kind: &str) -> bool {
    matches!(
        kind,
        "executeCommand"
            | "executeCommandWithStream"
            | "executeCommandRunUntilError"
            | "executeCommandRunUntilInterrupt"
    )
}

/// The canonical message of a frame whose `type` was spelled `kind`.
pub(super) fn message(name: &CallName, kind: &str, frame: &Fields) -> Result<Json, CallError> {
    let out = match &*name.kind {
        "fsEvent" => file(&Reader::new(name, parameters(frame).as_ref().unwrap_or(frame)))?,
        "inference" => inference(name, frame)?,
        wire if is_command(wire) => command(name, frame)?,
        "sendInterruptToTerminal" | "processStarted" | "processFinished" | "runProject" => Fields::default(),
        "sendMessage" => {
            let mut out = said(name, frame)?;
            out.copy(frame, "payload");
            out
        }
        "notificationEvent" => {
            let mut out = said(name, frame)?;
            out.copy_text(frame, "eventType");
            out
        }
        "waitforReply" => said(name, frame)?,
        "confirmationRequest" => confirmation(name, frame)?,
        "processStoped" => {
            let mut out = Fields::default();
            if let Some(message) = stopped_with(frame) {
                out.set("message", &message);
            }
            out.copy_text(frame, "error");
            out
        }
        "getChatHistory" => {
            let mut out = Fields::default();
            if let Some(thread) = frame.text("threadId") {
                out.set("thread", &thread);
            }
            out
        }
        _ => unknown(kind, frame),
    };
    Ok(out.json())
}

/// What an agent stopped with: its `message`; else whatever the frame holds, since 1.1.99 lets a handler reply with
/// fields of its own.
pub(super) fn stopped_with(frame: &Fields) -> Option<Json> {
    if frame.has("message") {
        return frame.get("message");
    }
    let mut rest = frame.clone();
    rest.remove(&["type", "action", "requestId", "message", "error", "threadId", "agentId"]);
    (!rest.is_empty()).then(|| rest.json())
}

/// Where SDKs put the parameters of a call that is not flat.
const PARAMETERS: [&str; 3] = ["message", "params", "payload"];

fn parameters(frame: &Fields) -> Option<Fields> {
    PARAMETERS.iter().find_map(|name| frame.object(name))
}

/// The frame without its head; the parameters themselves when nothing else is left.
fn unknown(kind: &str, frame: &Fields) -> Fields {
    let mut rest = frame.clone();
    rest.remove(&["type", "requestId"]);
    if !kind.contains('.') {
        rest.remove(&["action"]);
    }
    let inner = rest.only().filter(|(name, _)| PARAMETERS.contains(name));
    inner.and_then(|(_, raw)| Fields::read(raw.get())).unwrap_or(rest)
}

impl Fields {
    fn copy(&mut self, from: &Self, name: &str) {
        if let Some(raw) = from.raw(name) {
            self.set(name, raw);
        }
    }

    fn copy_text(&mut self, from: &Self, name: &str) {
        if let Some(raw) = from.raw(name) {
            self.set(name, &words(raw));
        }
    }
}

/// Reads the fields of a message by any of their names.
struct Reader<'a> {
    name: &'a CallName,
    from: &'a Fields,
}

impl<'a> Reader<'a> {
    fn new(name: &'a CallName, from: &'a Fields) -> Self {
        Self { name, from }
    }

    fn find(&self, names: &[&'static str]) -> Option<(&'static str, &'a RawValue)> {
        names.iter().find_map(|name| Some((*name, self.from.raw(name)?)))
    }

    fn maybe<T: DeserializeOwned>(&self, names: &[&'static str], what: &str) -> Result<Option<T>, CallError> {
        let Some((name, raw)) = self.find(names) else {
            return Ok(None);
        };
        let read = serde_json::from_str(raw.get());
        read.map(Some)
            .map_err(|_| invalid(format!("`{name}` of {} must be {what}", self.name)))
    }

    fn need<T: DeserializeOwned>(&self, names: &[&'static str], what: &str) -> Result<T, CallError> {
        let read = self.maybe(names, what)?;
        read.ok_or_else(|| {
            let name = names.first().copied().unwrap_or_default();
            invalid(format!("{} needs `{name}`, {what}", self.name))
        })
    }

    /// A string, still as its text: contents are large.
    fn content(&self, names: &[&'static str]) -> Result<&'a RawValue, CallError> {
        match self.find(names) {
            Some((_, raw)) if raw.get().starts_with('"') => Ok(raw),
            Some((name, _)) => Err(invalid(format!("`{name}` of {} must be {TEXT}", self.name))),
            None => {
                let name = names.first().copied().unwrap_or_default();
                Err(invalid(format!("{} needs `{name}`, {TEXT}", self.name)))
            }
        }
    }

    fn put<T: DeserializeOwned + Serialize>(
        &self,
        out: &mut Fields,
        to: &str,
        names: &[&'static str],
        what: &str,
    ) -> Result<(), CallError> {
        if let Some(value) = self.maybe::<T>(names, what)? {
            out.set(to, &value);
        }
        Ok(())
    }
}

fn invalid(message: String) -> CallError {
    CallError::new(ErrorKind::Invalid, message)
}

const TEXT: &str = "a string";
const FLAG: &str = "true or false";
const COUNT: &str = "a whole number";
const GLOBS: &str = "a string or a list of strings";

/// One pattern or several.
#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Patterns {
    One(String),
    Many(Vec<String>),
}

fn file(read: &Reader<'_>) -> Result<Fields, CallError> {
    let mut out = Fields::default();
    match read.name.action() {
        "createFile" => {
            out.set(
                "path",
                &joined(read, &["fileName", "filename"], &["filePath", "path"], false)?,
            );
            out.set("content", read.content(&["source", "content", "newContent"])?);
        }
        "createFolder" => {
            let folder = &["folderPath", "folderpath", "path"];
            out.set("path", &joined(read, &["folderName", "foldername"], folder, false)?);
        }
        "deleteFile" => {
            out.set(
                "path",
                &joined(read, &["filename", "fileName"], &["filePath", "path"], true)?,
            );
        }
        "deleteFolder" => {
            let folder = &["folderpath", "folderPath", "path"];
            out.set("path", &joined(read, &["foldername", "folderName"], folder, true)?);
        }
        "updateFile" => {
            out.set(
                "path",
                &joined(read, &["filename", "fileName"], &["filePath", "path"], true)?,
            );
            out.set("content", read.content(&["newContent", "content", "source"])?);
        }
        "writeToFile" => {
            out.set("path", &read.need::<String>(&["relPath", "path", "filePath"], TEXT)?);
            out.set("content", read.content(&["newContent", "content", "source"])?);
        }
        "readFile" => {
            out.set("path", &read.need::<String>(&["filePath", "path"], TEXT)?);
            read.put::<u64>(&mut out, "offset", &["offset"], COUNT)?;
            read.put::<u64>(&mut out, "limit", &["limit"], COUNT)?;
        }
        "fileList" => {
            out.set(
                "path",
                &read.need::<String>(&["folderPath", "folderpath", "path"], TEXT)?,
            );
            read.put::<bool>(&mut out, "recursive", &["isRecursive", "recursive"], FLAG)?;
        }
        "listCodeDefinitionNames" => out.set("path", &read.need::<String>(&["path", "filePath"], TEXT)?),
        "searchFiles" => {
            out.set("path", &read.need::<String>(&["path", "folderPath"], TEXT)?);
            out.set("regex", &read.need::<String>(&["regex"], TEXT)?);
            let pattern: Option<String> = read.maybe(&["filePattern"], TEXT)?;
            if let Some(pattern) = pattern.filter(|pattern| !pattern.is_empty()) {
                out.set("filePattern", &pattern);
            }
        }
        "grepSearch" => grep(read, &mut out)?,
        "fuzzySearch" => out.set("query", &read.need::<String>(&["query"], TEXT)?),
        "applyDiff" => {
            out.set(
                "path",
                &read.need::<String>(&["path", "target_file", "targetFile", "filePath"], TEXT)?,
            );
            out.set("diff", read.content(&["diff", "code_edit", "codeEdit"])?);
        }
        "readManyFiles" => {
            out.set("paths", &read.need::<Vec<String>>(&["paths"], "a list of strings")?);
            read.put::<Patterns>(&mut out, "include", &["include"], GLOBS)?;
            read.put::<Patterns>(&mut out, "exclude", &["exclude"], GLOBS)?;
            read.put::<u64>(&mut out, "maxFiles", &["max_files", "maxFiles"], COUNT)?;
            read.put::<u64>(&mut out, "maxTotalSize", &["max_total_size", "maxTotalSize"], COUNT)?;
        }
        "listDirectory" => {
            out.set("path", &read.need::<String>(&["path", "folderPath"], TEXT)?);
            read.put::<Patterns>(&mut out, "ignore", &["ignore"], GLOBS)?;
            read.put::<bool>(&mut out, "showHidden", &["show_hidden", "showHidden"], FLAG)?;
            read.put::<u64>(&mut out, "limit", &["limit"], COUNT)?;
            read.put::<bool>(&mut out, "detailed", &["detailed"], FLAG)?;
        }
        _ => out = read.from.clone(),
    }
    Ok(out)
}

/// The two spellings of a search differ in the name of its pattern, and in an object around its options.
fn grep(read: &Reader<'_>, out: &mut Fields) -> Result<(), CallError> {
    let options = read.from.object("options");
    let options = Reader::new(read.name, options.as_ref().unwrap_or(read.from));
    let path: Option<String> = read.maybe(&["path"], TEXT)?;
    if let Some(path) = path.filter(|path| !path.is_empty()) {
        out.set("path", &path);
    }
    out.set("pattern", &read.need::<String>(&["pattern", "query"], TEXT)?);
    for (to, names) in [
        ("include", ["includePattern", "include"]),
        ("exclude", ["excludePattern", "exclude"]),
    ] {
        match options.maybe(&names, GLOBS)? {
            // An empty pattern is an input field that nobody filled in.
            None => {}
            Some(Patterns::One(one)) if one.is_empty() => {}
            Some(patterns) => out.set(to, &patterns),
        }
    }
    options.put::<bool>(out, "caseSensitive", &["caseSensitive"], FLAG)
}

/// A path that may come in two parts, a name and where it is. `whole` says that the second may already hold the name.
fn joined(read: &Reader<'_>, name: &[&'static str], place: &[&'static str], whole: bool) -> Result<String, CallError> {
    let name: Option<String> = read.maybe(name, TEXT)?;
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return read.need(place, TEXT);
    };
    let place: String = read.maybe(place, TEXT)?.unwrap_or_default();
    let holds_it = place
        .strip_suffix(name.as_str())
        .is_some_and(|before| before.is_empty() || before.ends_with('/'));
    Ok(match () {
        () if place.is_empty() => name,
        () if whole && holds_it => place,
        () if place.ends_with('/') => format!("{place}{name}"),
        () => format!("{place}/{name}"),
    })
}

fn command(name: &CallName, frame: &Fields) -> Result<Fields, CallError> {
    let inner = parameters(frame);
    let read = Reader::new(name, inner.as_ref().unwrap_or(frame));
    let mut out = Fields::default();
    let line: String = read.need(&["message", "command"], "the command line as a string")?;
    out.set("command", &line);
    if &*name.kind == "executeCommand" {
        let flag = "returnEmptyStringOnSuccess";
        let flat = Reader::new(name, frame);
        flat.put::<bool>(&mut out, flag, &[flag], FLAG)?;
        read.put::<bool>(&mut out, flag, &[flag], FLAG)?;
        read.put::<u64>(&mut out, "timeoutMs", &["timeoutMs"], COUNT)?;
    }
    Ok(out)
}

/// What a person is to read. Agents in JavaScript pass any value here.
fn said(name: &CallName, frame: &Fields) -> Result<Fields, CallError> {
    let raw = frame.raw("message");
    let raw = raw.ok_or_else(|| invalid(format!("{name} needs `message`, {TEXT}")))?;
    let mut out = Fields::default();
    out.set("message", &words(raw));
    Ok(out)
}

fn confirmation(name: &CallName, frame: &Fields) -> Result<Fields, CallError> {
    let read = Reader::new(name, frame);
    let mut out = said(name, frame)?;
    let buttons: Option<Vec<Box<RawValue>>> = read.maybe(&["buttons"], "a list of strings")?;
    let buttons: Vec<String> = buttons.unwrap_or_default().iter().map(|button| words(button)).collect();
    out.set("buttons", &buttons);
    read.put::<bool>(&mut out, "withFeedback", &["withFeedback"], FLAG)?;
    Ok(out)
}

/// What of the wire's prompt is the hub's message; the rest, such as `full`, has no meaning here.
const PROMPT: &[&str] = &["tools", "tool_choice", "model", "max_tokens", "temperature", "stream"];

fn inference(name: &CallName, frame: &Fields) -> Result<Fields, CallError> {
    let outer = parameters(frame);
    let outer = outer.as_ref().unwrap_or(frame);
    let mut out = Fields::default();
    // A prompt is a text, a conversation, or a request that holds one; some callers leave the envelope out.
    let prompt = outer.raw("prompt").or_else(|| outer.raw("message"));
    let request = prompt.and_then(|prompt| Fields::read(prompt.get()));
    let request = request.as_ref();
    match prompt {
        Some(text) if text.get().starts_with('"') => out.set("prompt", text),
        Some(list) if list.get().starts_with('[') => out.set("messages", &conversation(name, list)?),
        _ => {
            let from = request.unwrap_or(outer);
            match (from.raw("messages"), from.raw("prompt")) {
                (Some(list), _) => out.set("messages", &conversation(name, list)?),
                (None, Some(text)) if text.get().starts_with('"') => out.set("prompt", text),
                _ => {
                    let what = "a text, or an object with `messages`";
                    return Err(invalid(format!("{name} needs `prompt`, {what}")));
                }
            }
        }
    }
    for from in request.into_iter().chain([outer]) {
        for name in PROMPT {
            if !out.has(name) {
                out.copy(from, name);
            }
        }
        if let Some(role) = from.text("llmrole").filter(|role| !role.is_empty()) {
            out.fill("llmrole", &role);
        }
    }
    Ok(out)
}

/// The messages of a conversation with the fields that the hub knows. Agents send back whole answers of other models,
/// whose further fields an endpoint may refuse.
fn conversation(name: &CallName, list: &RawValue) -> Result<Vec<Fields>, CallError> {
    let wrong = || invalid(format!("`messages` of {name} must be a list of objects"));
    let list: Vec<Fields> = serde_json::from_str(list.get()).map_err(|_| wrong())?;
    let known = |said: Fields| {
        let mut out = Fields::default();
        for name in ["role", "tool_calls", "tool_call_id", "name"] {
            out.copy(&said, name);
        }
        if let Some(content) = said.raw("content") {
            match content.get().as_bytes().first() {
                Some(b'"') => out.set("content", content),
                Some(b'[') => out.set("content", &parts(content)),
                _ => out.set("content", &words(content)),
            }
        }
        out
    };
    Ok(list.into_iter().map(known).collect())
}

/// The parts of a content; a bare string among them is a text.
fn parts(content: &RawValue) -> Vec<Fields> {
    let list: Vec<Box<RawValue>> = serde_json::from_str(content.get()).unwrap_or_default();
    let part = |raw: Box<RawValue>| {
        Fields::read(raw.get()).unwrap_or_else(|| {
            let mut text = Fields::default();
            text.set("type", "text");
            text.set("text", &words(&raw));
            text
        })
    };
    list.into_iter().map(part).collect()
}
