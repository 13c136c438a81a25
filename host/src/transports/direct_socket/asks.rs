//! What a connected process asks of the hub: calls, as an agent asks for them; files, as `providerAppFs` has it; and runs.
//!
//! A published bridge starts work with a `messageResponse`, moves files with `providerAppFs` and snapshots with
//! `narrative.*`, and passes on whatever else it is told. All of it is a call with the rights that its `[[connection]]` has.
//! Not here: how calls are ordered and answered ([`crate::transports::caller`]).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::Member;
use crate::call::{CallError, CallName, Dispatch, Json, Principal, PrincipalKind, Rights, Scope};
use crate::error::{ErrorKind, Result};
use crate::run::NewRun;
use crate::transports::caller::Identity;
use crate::transports::dialect::{self, Asked, Awaits, Malformed};

/// What connected processes may ask for.
pub struct Within {
    /// The way into the path of a call.
    pub dispatch: Arc<dyn Dispatch>,
    /// Where their calls act.
    pub scope: Arc<Scope>,
    /// Who starts runs for them.
    pub starter: Arc<dyn Starter>,
    /// The most time of one call.
    pub call_timeout: Duration,
}

/// Starts runs for those who connect.
pub trait Starter: Send + Sync {
    /// Accepts a prompt.
    fn start(&self, run: NewRun) -> BoxFuture<'_, Result<()>>;
}

/// The kind by which a run is asked for.
pub(super) const MESSAGE: &str = "messageResponse";

/// The kind by which files are asked for.
const APP_FS: &str = "providerAppFs";

impl Within {
    /// As whom a connection asks.
    pub(super) fn identity(&self, project: &Arc<str>, member: &Member) -> Identity {
        let principal = Principal {
            project: Arc::clone(project),
            run: None,
            kind: PrincipalKind::Connection,
            id: Arc::clone(&member.name),
            rights: Rights::all().within(member.calls.clone().into()),
        };
        Identity {
            principal: Arc::new(principal),
            scope: Arc::clone(&self.scope),
            cancel: CancellationToken::new(),
            deadline: None,
            call_timeout: self.call_timeout,
            journal: None,
        }
    }

    /// Starts the run that a frame asks for. Where its environment shall be is not for the far side to say: the run stays
    /// here.
    pub(super) async fn start(&self, member: &Member, text: &str) -> std::result::Result<(), CallError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Frame {
            message: Message,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Message {
            user_message: String,
            #[serde(default)]
            thread_id: Option<String>,
        }
        let name = CallName::new(MESSAGE, None);
        if !Rights::all().within(member.calls.clone().into()).permit(&name) {
            let message = format!(
                "connection:{} may not start runs: add `{MESSAGE}` to `calls` of its [[connection]] in waypost.toml",
                member.name
            );
            return Err(CallError::new(ErrorKind::Denied, message));
        }
        let frame: Frame = serde_json::from_str(text)
            .map_err(|error| CallError::new(ErrorKind::Invalid, format!("the message cannot be read: {error}")))?;
        let run = |thread| NewRun {
            prompt: frame.message.user_message.clone(),
            thread,
            ..NewRun::default()
        };
        // The far side numbers threads for itself: one that is not known here is begun here.
        let known = match &frame.message.thread_id {
            Some(thread) => self.starter.start(run(Some(thread.clone()))).await,
            None => Err(crate::error::Error::new(ErrorKind::NotFound, "no thread is named")),
        };
        match known {
            Err(error) if error.kind == ErrorKind::NotFound => Ok(self.starter.start(run(None)).await?),
            other => Ok(other?),
        }
    }
}

/// Reads a frame that asks for a call.
pub(super) fn asked(text: &str) -> std::result::Result<Asked, Malformed> {
    let mut asked = dialect::decode(text)?;
    if *asked.name.kind == *APP_FS {
        let (name, message) = match file_call(text) {
            Ok((name, message)) => (name, Ok(message)),
            Err(error) => (CallName::new("fsEvent", None), Err(error)),
        };
        asked.name = name;
        asked.message = message;
        asked.awaits = Some(Awaits::of("providerAppFsResponse"));
    }
    Ok(asked)
}

/// The canonical call on files that a `providerAppFs` frame stands for.
fn file_call(text: &str) -> std::result::Result<(CallName, Json), CallError> {
    #[derive(Deserialize)]
    struct Frame<'a> {
        #[serde(borrow)]
        action: Cow<'a, str>,
        #[serde(borrow)]
        message: &'a RawValue,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Message {
        #[serde(default)]
        file_path: String,
        #[serde(default)]
        content: String,
    }
    let wrong =
        |error: serde_json::Error| CallError::new(ErrorKind::Invalid, format!("the message cannot be read: {error}"));
    let frame: Frame = serde_json::from_str(text).map_err(wrong)?;
    let message: Message = serde_json::from_str(frame.message.get()).map_err(wrong)?;
    let path = message.file_path;
    let (action, message) = match &*frame.action {
        "readFile" => ("readFile", json!({ "path": path })),
        "writeFile" => ("writeToFile", json!({ "path": path, "content": message.content })),
        "createFolder" => ("createFolder", json!({ "path": path })),
        "deleteFile" => ("deleteFile", json!({ "path": path })),
        "deleteFolder" => ("deleteFolder", json!({ "path": path })),
        "renameItem" => {
            #[derive(Deserialize)]
            #[serde(rename_all = "camelCase")]
            struct Rename {
                old_path: String,
                new_path: String,
            }
            let Rename { old_path, new_path } = serde_json::from_str(frame.message.get()).map_err(wrong)?;
            ("renameItem", json!({ "from": old_path, "to": new_path }))
        }
        other => {
            let message = format!(
                "{APP_FS} has no `{}`; it has readFile, writeFile, createFolder, deleteFile, deleteFolder and renameItem",
                other.escape_debug()
            );
            return Err(CallError::new(ErrorKind::NotFound, message));
        }
    };
    Ok((CallName::new("fsEvent", Some(action)), message.into()))
}

/// The answer to a call, as the process that asked for it reads it.
pub(super) fn answer(asked: &Asked, result: &std::result::Result<Json, CallError>) -> Option<Json> {
    if !asked.kind.eq_ignore_ascii_case(APP_FS) {
        return dialect::encode(asked, result);
    }
    #[derive(Deserialize)]
    struct Content {
        content: Json,
    }
    let mut frame = json!({ "type": "providerAppFsResponse", "success": result.is_ok() });
    let fields = frame.as_object_mut()?;
    match result {
        Ok(reply) => {
            let content = reply
                .to::<Content>()
                .ok()
                .and_then(|reply| reply.content.to::<serde_json::Value>().ok());
            let payload = content.map_or_else(|| json!({}), |content| json!({ "data": content }));
            fields.insert("result".to_owned(), json!({ "payload": payload }));
        }
        Err(error) => {
            fields.insert("error".to_owned(), json!(error.message));
        }
    }
    if let Some(id) = asked.request_id.as_ref().and_then(|id| id.to().ok()) {
        fields.insert("requestId".to_owned(), id);
    }
    Some(frame.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn read(action: &str, message: Value) -> Asked {
        let frame = json!({ "type": APP_FS, "requestId": "provider-app-fs-1", "action": action, "message": message });
        asked(&frame.to_string()).unwrap()
    }

    #[test]
    fn each_action_is_a_call_on_files() {
        for (action, message, call, canonical) in [
            (
                "readFile",
                json!({ "filePath": "a" }),
                "fsEvent:readFile",
                json!({ "path": "a" }),
            ),
            (
                "writeFile",
                json!({ "filePath": "a", "content": "x" }),
                "fsEvent:writeToFile",
                json!({ "path": "a", "content": "x" }),
            ),
            (
                "createFolder",
                json!({ "filePath": "a" }),
                "fsEvent:createFolder",
                json!({ "path": "a" }),
            ),
            (
                "deleteFile",
                json!({ "filePath": "a" }),
                "fsEvent:deleteFile",
                json!({ "path": "a" }),
            ),
            (
                "deleteFolder",
                json!({ "filePath": "a" }),
                "fsEvent:deleteFolder",
                json!({ "path": "a" }),
            ),
            (
                "renameItem",
                json!({ "oldPath": "a", "newPath": "b" }),
                "fsEvent:renameItem",
                json!({ "from": "a", "to": "b" }),
            ),
        ] {
            let asked = read(action, message);
            assert_eq!(asked.name.to_string(), call);
            assert_eq!(asked.message.unwrap().to::<Value>().unwrap(), canonical);
        }
        for (action, message) in [
            ("format", json!({})),
            ("readFile", json!(3)),
            ("renameItem", json!({ "oldPath": 1 })),
        ] {
            let asked = read(action, message);
            let failed = answer(&asked, &asked.message).unwrap().to::<Value>().unwrap();
            assert_eq!(failed["type"], "providerAppFsResponse");
            assert_eq!(
                (&failed["success"], &failed["requestId"]),
                (&json!(false), &json!("provider-app-fs-1"))
            );
        }
    }

    #[test]
    fn what_was_read_stands_where_the_published_client_looks_for_it() {
        let asked = read("readFile", json!({ "filePath": "a" }));
        let reply = Ok(json!({ "path": "a", "content": "text" }).into());
        let frame = answer(&asked, &reply).unwrap().to::<Value>().unwrap();
        assert_eq!(frame["result"]["payload"]["data"], "text");
        assert_eq!(frame["requestId"], "provider-app-fs-1");
    }
}
