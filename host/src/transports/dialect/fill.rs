//! What an awaiting SDK needs of an answer, where a result does not have it.
//!
//! Nothing that a result has is changed, except what would break its reader. Not here: the head of an answer.

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::awaited::{Awaits, Resolves};
use super::canonical::is_command;
use super::fields::{Fields, words};
use crate::call::CallName;

/// Fills in what the caller reads of the whole frame.
pub(super) fn reply(name: &CallName, awaits: &Awaits, success: bool, out: &mut Fields) {
    match &*name.kind {
        "fsEvent" if success => file(name.action(), out),
        "fsEvent" => out.fill_text("result", &["error"]),
        "inference" if success => answer_of_a_model(out),
        // Without a `completion` the agent of 1.1.99 ends its run with an error; an empty one it would ask again.
        "inference" => {
            out.fill("role", "assistant");
            out.fill("content", "");
        }
        kind if is_command(kind) => {
            command(success, out);
            let text = ended(success, out);
            out.fill("message", &text);
        }
        "sendInterruptToTerminal" => out.fill("interrupted", &u8::from(success)),
        "waitforReply" if success => out.fill_text("message", &["reply", "answer", "userMessage", "result"]),
        "confirmationRequest" if success => {
            confirmation(out);
            out.fill_from("message", &["feedback"]);
            if out.text("answer").is_some_and(|answer| !answer.is_empty()) {
                out.fill_from("message", &["answer"]);
            }
        }
        "getChatHistory" => history(out),
        _ => {}
    }
    if success && !awaits.field.is_empty() {
        let from = ["result", "data", "payload"];
        match awaits.field {
            "projectPath" => {
                out.fill_text("projectPath", &["path", "result", "data"]);
                let path = out.text("projectPath").unwrap_or_default();
                let last = path.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next();
                out.fill("projectName", last.unwrap_or_default());
            }
            field => out.fill_from(field, &from),
        }
    }
}

/// Fills in the field that a 1.1.99 caller gets alone.
pub(super) fn resolved(awaits: &Awaits, success: bool, newer: bool, out: &mut Fields) {
    let error = out.raw("error").map(words).unwrap_or_default();
    match awaits.resolves {
        Resolves::Frame => {}
        Resolves::Data if success => {
            out.fill_from("data", &["result", "payload"]);
            let rest = rest(out);
            out.fill("data", &rest);
        }
        Resolves::Data => out.fill("data", &error),
        Resolves::List => list(out),
        Resolves::Tools => {
            let inner = out.object("data").filter(|data| data.is_array("tools"));
            match inner {
                Some(_) if newer => {}
                Some(data) => out.set("data", &data.get::<Value>("tools")),
                None => {
                    list(out);
                    if newer {
                        let mut data = Fields::default();
                        data.fill_from_of(out, "tools", "data");
                        out.set("data", &data);
                    }
                }
            }
        }
        Resolves::Pair => pair(success, &error, out),
        Resolves::Payload if success => {
            out.fill_from("payload", &["data", "result"]);
            let rest = rest(out);
            out.fill("payload", &rest);
        }
        Resolves::Payload => out.fill("payload", &json!({"success": false, "error": error})),
        Resolves::Turns => {
            let is_array = |name: &&str| out.is_array(name);
            let found = ["payload", "data", "result", "messages"].into_iter().find(is_array);
            match found {
                Some("payload") => {}
                Some(name) => out.fill_anew("payload", name),
                None => out.set("payload", &Value::Null),
            }
        }
        Resolves::Html if success => {
            out.fill_text("htmlResponse", &["html", "content", "data", "result"]);
            let inner = ["payload", "data"].into_iter().filter_map(|name| out.object(name));
            let inner = inner
                .filter_map(|inner| inner.text("html").or_else(|| inner.text("content")))
                .next();
            out.fill("htmlResponse", &inner.unwrap_or_default());
        }
        Resolves::Html => out.fill("htmlResponse", &error),
    }
}

/// Fills in what a canonical reply has, from what a connected process calls it.
pub(super) fn canonical(name: &CallName, out: &mut Fields) {
    match &*name.kind {
        "fsEvent" => file(name.action(), out),
        "inference" => answer_of_a_model(out),
        kind if is_command(kind) => {
            command(true, out);
            out.fill("success", &true);
            out.fill("truncated", &false);
        }
        "waitforReply" => out.fill_text("message", &["reply", "answer", "userMessage", "result"]),
        "confirmationRequest" => confirmation(out),
        "getChatHistory" => out.fill_from("messages", &["chats"]),
        _ => {}
    }
}

impl Fields {
    /// Sets a field to the value of another, whether it is there or not.
    fn fill_anew(&mut self, name: &str, other: &str) {
        self.remove(&[name]);
        self.fill_from(name, &[other]);
    }

    /// Sets a field to the value of a field of another object.
    fn fill_from_of(&mut self, from: &Self, name: &str, other: &str) {
        if let Some(raw) = from.raw(other) {
            self.set(name, raw);
        }
    }
}

/// What a result holds beside its head and its verdict.
fn rest(out: &Fields) -> Fields {
    let mut rest = out.clone();
    rest.remove(&[
        "type",
        "event",
        "requestId",
        "replyRequestId",
        "success",
        "message",
        "error",
    ]);
    rest
}

fn file(action: &str, out: &mut Fields) {
    match action {
        "readFile" => return out.fill_text("content", &["result", "data"]),
        "fileList" => {
            if let Some(names) = names(out) {
                out.fill("files", &names);
            }
        }
        "readManyFiles" => {
            let files: Option<Vec<Fields>> = out.get("files");
            if let Some(mut files) = files {
                for file in &mut files {
                    file.fill_from("filePath", &["path"]);
                    file.fill_from("relativePath", &["path"]);
                }
                out.set("files", &files);
            }
        }
        _ => {}
    }
    out.fill_text("result", &["content", "output", "data"]);
    let listed = names(out).map(|names| names.join("\n"));
    out.fill_text("result", &["message"]);
    out.fill("result", &listed.unwrap_or_default());
}

/// The names in a listing, whose items are names or objects that have one.
fn names(out: &Fields) -> Option<Vec<String>> {
    let list = out.get::<Vec<Box<RawValue>>>("files").or_else(|| out.get("entries"))?;
    let name = |raw: Box<RawValue>| match Fields::read(raw.get()) {
        Some(item) => item
            .text("path")
            .or_else(|| item.text("name"))
            .or_else(|| item.text("filePath")),
        None => Some(words(&raw)),
    };
    Some(list.into_iter().filter_map(name).collect())
}

/// An answer as an OpenAI-style completion and as flat fields, whichever of them it came with.
fn answer_of_a_model(out: &mut Fields) {
    let completion = out.object("completion");
    let choice = completion
        .as_ref()
        .and_then(|completion| completion.get::<Vec<Fields>>("choices"));
    let choice = choice
        .or_else(|| out.get("choices"))
        .and_then(|choices| choices.into_iter().next());
    if let Some(choice) = &choice {
        if let Some(said) = choice.object("message") {
            for name in ["content", "role", "tool_calls"] {
                take(out, &said, name);
            }
        }
        take(out, choice, "finish_reason");
    }
    if let Some(completion) = &completion {
        take(out, completion, "model");
        take(out, completion, "usage");
    }
    // A completion that came as the whole answer has no other text.
    if choice.is_none() {
        out.fill_text("content", &["text", "result", "response", "message"]);
    }
    out.fill("role", "assistant");
    out.fill("content", "");
    let tools = out
        .get::<Vec<Box<RawValue>>>("tool_calls")
        .is_some_and(|calls| !calls.is_empty());
    out.fill("finish_reason", if tools { "tool_calls" } else { "stop" });
    let usable =
        completion.is_some_and(|completion| completion.get::<Vec<Fields>>("choices").is_some_and(|c| !c.is_empty()));
    if usable {
        return;
    }
    let mut said = Fields::default();
    for name in ["role", "content", "tool_calls"] {
        take(&mut said, out, name);
    }
    let mut choice = Fields::default();
    choice.set("index", &0);
    choice.set("message", &said);
    take(&mut choice, out, "finish_reason");
    let mut completion = Fields::default();
    completion.set("object", "chat.completion");
    completion.set("choices", &[choice]);
    take(&mut completion, out, "model");
    take(&mut completion, out, "usage");
    out.set("completion", &completion);
}

/// Takes a field over from another object, unless there is one.
fn take(out: &mut Fields, from: &Fields, name: &str) {
    if let Some(raw) = from.raw(name) {
        out.fill(name, raw);
    }
}

fn command(success: bool, out: &mut Fields) {
    out.fill_text("stdout", &["output", "result"]);
    out.fill("stdout", "");
    out.fill("stderr", "");
    out.fill("exitCode", &u8::from(!success));
}

/// How a command ended, in words.
fn ended(success: bool, out: &mut Fields) -> String {
    let code = out.raw("exitCode").map(words).unwrap_or_default();
    if success {
        return format!("the command ended with exit code {code}");
    }
    out.raw("error").map(words).unwrap_or_default()
}

fn confirmation(out: &mut Fields) {
    out.fill_text("answer", &["response", "reply", "result"]);
    if !out.has("feedback") {
        out.fill_text("answer", &["message"]);
    }
    out.fill("answer", "");
}

/// The messages as the newer schema has them: who spoke, and when in words.
fn history(out: &mut Fields) {
    out.fill_from("messages", &["chats", "data", "result"]);
    let Some(mut messages) = out.get::<Vec<Fields>>("messages") else {
        return out.set("messages", &[(); 0]);
    };
    for message in &mut messages {
        let person = message.text("role").as_deref() == Some("user");
        message.fill("sender", if person { "user" } else { "agent" });
        message.fill("type", "message");
        let at = message.get::<u64>("at").map(std::time::Duration::from_millis);
        let at = at.and_then(|at| std::time::UNIX_EPOCH.checked_add(at));
        // Times beyond the year 9999 have no such form.
        if let Some(at) = at.filter(|at| *at < std::time::UNIX_EPOCH + std::time::Duration::from_secs(253_402_300_800))
        {
            message.fill("timestamp", &humantime::format_rfc3339_millis(at).to_string());
        }
    }
    out.set("messages", &messages);
}

/// Sees to it that `data` is an array: its own, the only one in it, or the only one beside it.
fn list(out: &mut Fields) {
    let is_array = |name: &&str| out.is_array(name);
    match ["data", "result", "payload"].into_iter().find(is_array) {
        Some("data") => return,
        Some(name) => return out.fill_anew("data", name),
        None => {}
    }
    let inner = ["data", "result", "payload"]
        .into_iter()
        .find_map(|name| out.object(name));
    let found = inner.as_ref().and_then(only_array).or_else(|| only_array(&rest(out)));
    match found {
        Some(found) => out.set("data", &found),
        None => out.set("data", &[(); 0]),
    }
}

fn only_array(of: &Fields) -> Option<Box<RawValue>> {
    let mut arrays = of.arrays();
    let first = arrays.next()?.to_owned();
    arrays.next().is_none().then_some(first)
}

/// What `executeTool` gives: whether the tool was refused or failed, and its text.
fn pair(success: bool, error: &str, out: &mut Fields) {
    if let Some([refused, text]) = out.get::<[Box<RawValue>; 2]>("data") {
        // A text of another type breaks the agent's next request to its model.
        if serde_json::from_str::<bool>(refused.get()).is_ok() {
            return out.set("data", &(refused, words(&text)));
        }
    }
    if !success {
        return out.set("data", &(true, error));
    }
    let found = ["result", "data", "content", "output", "payload"]
        .into_iter()
        .find_map(|name| out.raw(name));
    let text = match found {
        Some(found) => words(found),
        None if rest(out).is_empty() => out.text("message").unwrap_or_else(|| "done".to_owned()),
        None => rest(out).json().as_str().to_owned(),
    };
    out.set("data", &(false, text));
}
