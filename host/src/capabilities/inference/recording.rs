//! Recordings of real exchanges with a model, matched by what was asked.
//!
//! # Format
//!
//! A recording is one JSON file `<key>.json` with one object:
//!
//! | member | |
//! |---|---|
//! | `request` | the canonical request (below) |
//! | `chunks` | the chunks that were handed out, in order, each as the canonical chunk of `inference`; default none |
//! | `reply` | the canonical reply of `inference` |
//! | `recorded_at` | when, in RFC 3339; for people, nothing depends on it; default empty |
//!
//! The **canonical request** is made from the canonical message of the call (`wit/kinds/inference.json`):
//!
//! 1. Only these members, each only if the call gave it and it is not null: `model`, `messages`, `tools`,
//!    `tool_choice`, `temperature`, `max_tokens`. `prompt` stands for one message
//!    `{"role": "user", "content": <prompt>}`. Without a `model` in the call there is none here: the same question
//!    finds its recording whatever the hub would choose. `stream` and `llmrole` play no part. An empty `tools` is left
//!    out.
//! 2. In each message, members that are null and an empty `tool_calls` are left out, and a tool call without a `type`
//!    gets `"type": "function"`.
//! 3. Tool call ids change with every answer, so they are numbered: going through the messages in order, and in each
//!    through `tool_calls[].id` in order and then `tool_call_id`, the first distinct id becomes `call_1`, the next
//!    `call_2`, and so on.
//!
//! The **key** is the first 16 hexadecimal digits, in lower case, of the SHA-256 of the canonical request as JSON text:
//! UTF-8 without white space, the keys of every object in byte order, numbers as serde_json writes them, and in strings
//! only `"`, `\` and what is below U+0020 escaped (`\b \t \n \f \r`, else `\u00xx` in lower case).
//!
//! Order never matters: one exchange is one file, and the same question twice has the same answer. Not here: what is in
//! an answer, and any network.

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind as IoKind, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::message::Request;
use crate::call::CallError;
use crate::error::{Blame, ErrorKind};

/// One exchange.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recording {
    /// The canonical request.
    pub request: Value,
    /// What was handed out, in order.
    #[serde(default)]
    pub chunks: Vec<Value>,
    /// The canonical reply.
    pub reply: Value,
    /// When, for people.
    #[serde(default)]
    pub recorded_at: String,
}

impl Recording {
    /// An exchange that ended just now.
    pub fn new(request: &Request, chunks: Vec<Value>, reply: Value) -> Self {
        let recorded_at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        Self {
            request: canonical(request),
            chunks,
            reply,
            recorded_at,
        }
    }
}

/// The canonical request: what of a request decides which recording answers it.
pub fn canonical(request: &Request) -> Value {
    let mut request = request.clone();
    let mut ids = HashMap::new();
    let mut number = |id: &mut String| {
        let next = ids.len() + 1;
        *id = format!("call_{}", ids.entry(std::mem::take(id)).or_insert(next));
    };
    for message in &mut request.messages {
        message.tool_calls.iter_mut().for_each(|call| number(&mut call.id));
        message.tool_call_id.iter_mut().for_each(&mut number);
    }
    let mut canonical = Value::Object(request.content());
    canonical.sort_all_objects();
    canonical
}

/// The key of a request: the name of its recording, without the ending.
pub fn key(request: &Request) -> String {
    let digest = Sha256::digest(canonical(request).to_string());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// A folder of recordings.
pub struct Recordings {
    folder: PathBuf,
    shown: String,
}

impl Recordings {
    /// The folder `configured`, relative to the project folder. It need not exist.
    pub fn new(project_root: &Path, configured: &Path) -> Self {
        // A caller may see the configured name, but no path of this machine.
        let name = if configured.is_absolute() {
            configured.file_name().map(Path::new)
        } else {
            Some(configured)
        };
        let shown = name.unwrap_or(configured).display().to_string();
        Self {
            folder: project_root.join(configured),
            shown,
        }
    }

    /// Makes the folder, so that an exchange is not paid for and then lost.
    pub async fn prepare(&self) -> Result<(), CallError> {
        tokio::fs::create_dir_all(&self.folder).await.map_err(|error| {
            let message = format!("the folder of recordings `{}` cannot be made: {error}", self.shown);
            CallError::new(ErrorKind::Other, message).blame(Blame::Operator)
        })
    }

    /// Keeps an exchange under its key. The file appears whole or not at all; an older one is replaced.
    pub async fn keep(&self, key: &str, recording: &Recording) -> Result<(), CallError> {
        let failed = |error: &dyn std::fmt::Display| {
            let message = format!("the recording `{}/{key}.json` cannot be written: {error}", self.shown);
            CallError::new(ErrorKind::Other, message).blame(Blame::Operator)
        };
        let text = serde_json::to_string_pretty(recording).map_err(|error| failed(&error))? + "\n";
        let (folder, name) = (self.folder.clone(), format!("{key}.json"));
        // Not `tokio::fs`: a cancelled call must not leave half of it behind.
        let written = tokio::task::spawn_blocking(move || replace(&folder, &name, &text)).await;
        written.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
    }

    /// The recorded exchange for a request.
    pub async fn find(&self, request: &Request) -> Result<Recording, CallError> {
        let key = key(request);
        let text = match tokio::fs::read(self.folder.join(format!("{key}.json"))).await {
            Ok(text) => text,
            Err(error) if error.kind() == IoKind::NotFound => return Err(self.missing(&key, request)),
            Err(error) => {
                let message = format!("the recording `{}/{key}.json` cannot be read: {error}", self.shown);
                return Err(CallError::new(ErrorKind::Other, message).blame(Blame::Operator));
            }
        };
        serde_json::from_slice(&text).map_err(|error| {
            let message = format!(
                "the recording `{}/{key}.json` is broken ({error}); record it again",
                self.shown
            );
            CallError::new(ErrorKind::Invalid, message).blame(Blame::Operator)
        })
    }

    fn missing(&self, key: &str, request: &Request) -> CallError {
        let asked = request.last_user_text().map_or_else(
            || "without a user message".to_owned(),
            |text| {
                let start: String = text.chars().take(60).collect();
                format!("whose last user message begins `{}`", start.escape_debug())
            },
        );
        let message = format!(
            "no recording `{key}` in `{}` for the request {asked}; record it: set `[inference] mode = \"record\"` and \
             `base-url`, and run it once",
            self.shown
        );
        CallError::new(ErrorKind::NotFound, message)
    }
}

fn replace(folder: &Path, name: &str, text: &str) -> io::Result<()> {
    let temporary = folder.join(format!(".{name}.{}.tmp", Uuid::now_v7()));
    let written = fs::File::create_new(&temporary)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, folder.join(name)));
    if written.is_err() {
        // Best effort: what counts is why the recording is missing.
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::call::Json;

    fn request(value: &Value) -> Request {
        Request::parse(&Json::parse(value.to_string()).unwrap()).unwrap()
    }

    fn conversation(first: &str, second: &str) -> Value {
        let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "read", "arguments": "{}"}});
        json!({"messages": [
            {"role": "user", "content": "fix it"},
            {"role": "assistant", "content": "", "tool_calls": [call(first), call(second)]},
            {"role": "tool", "tool_call_id": second, "content": "b"},
            {"role": "tool", "tool_call_id": first, "content": "a"},
        ]})
    }

    #[test]
    fn the_key_of_a_known_request_never_changes() {
        let hello = request(&json!({"prompt": "hello"}));
        assert_eq!(
            canonical(&hello).to_string(),
            r#"{"messages":[{"content":"hello","role":"user"}]}"#
        );
        // The first digits that `sha256sum` prints for the text above.
        assert_eq!(key(&hello), "483bc0874de4e0b6");
    }

    #[test]
    fn only_what_is_asked_decides() {
        let plain = key(&request(&json!({"prompt": "hello"})));
        for same in [
            json!({"messages": [{"role": "user", "content": "hello"}]}),
            json!({"prompt": "hello", "stream": false, "llmrole": "coder", "tools": null, "model": null}),
            json!({"messages": [{"content": "hello", "role": "user", "name": null, "tool_calls": null}]}),
        ] {
            assert_eq!(key(&request(&same)), plain, "{same}");
        }
        for other in [
            json!({"prompt": "hello "}),
            json!({"prompt": "hello", "model": "m"}),
            json!({"prompt": "hello", "temperature": 0}),
            json!({"prompt": "hello", "max_tokens": 5}),
            json!({"prompt": "hello", "tool_choice": "none"}),
            json!({"prompt": "hello", "tools": [{"type": "function"}]}),
        ] {
            assert_ne!(key(&request(&other)), plain, "{other}");
        }
        assert_ne!(
            key(&request(&conversation("x", "y"))),
            key(&request(&conversation("x", "x")))
        );
    }

    #[tokio::test]
    async fn a_recording_comes_back_as_it_was_kept() {
        let folder = tempfile::tempdir().unwrap();
        let recordings = Recordings::new(folder.path(), Path::new("deep/recordings"));
        recordings.prepare().await.unwrap();
        let asked = request(&conversation("x", "y"));
        for content in ["first", "second"] {
            let kept = Recording::new(&asked, vec![json!({"content": content})], json!({"content": content}));
            recordings.keep(&key(&asked), &kept).await.unwrap();
            assert_eq!(recordings.find(&request(&conversation("p", "q"))).await.unwrap(), kept);
        }
        let names: Vec<_> = fs::read_dir(folder.path().join("deep/recordings"))
            .unwrap()
            .map(|entry| entry.unwrap())
            .collect();
        assert_eq!(names.len(), 1, "no temporary file stays");
    }

    #[tokio::test]
    async fn a_missing_and_a_broken_recording_say_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let recordings = Recordings::new(folder.path(), Path::new("recordings"));
        let asked = request(&json!({"prompt": format!("fix\n{}", "x".repeat(100))}));
        let key = key(&asked);
        let error = recordings.find(&asked).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
        let expected = format!(
            "no recording `{key}` in `recordings` for the request whose last user message begins `fix\\n{}`; record \
             it: set `[inference] mode = \"record\"` and `base-url`, and run it once",
            "x".repeat(56)
        );
        assert_eq!(error.message, expected);
        let system = request(&json!({"messages": [{"role": "system", "content": "x"}]}));
        assert!(
            recordings
                .find(&system)
                .await
                .unwrap_err()
                .message
                .contains("without a user message")
        );

        recordings.prepare().await.unwrap();
        for broken in [&b"{\"request\":{}"[..], b"{}", b"\xff", b""] {
            fs::write(folder.path().join(format!("recordings/{key}.json")), broken).unwrap();
            let error = recordings.find(&asked).await.unwrap_err();
            assert_eq!((error.kind, error.blame), (ErrorKind::Invalid, Blame::Operator));
            assert!(
                error.message.contains(&format!("`recordings/{key}.json` is broken")),
                "{}",
                error.message
            );
        }
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_made_is_told_without_its_path() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("taken"), "").unwrap();
        let recordings = Recordings::new(Path::new("/nowhere"), &folder.path().join("taken"));
        let error = recordings.prepare().await.unwrap_err();
        assert!(
            error
                .message
                .starts_with("the folder of recordings `taken` cannot be made"),
            "{}",
            error.message
        );
    }

    proptest! {
        #[test]
        fn ids_play_no_part(first in "[a-z]{1,8}", second in "[A-Z]{1,8}") {
            prop_assert_eq!(key(&request(&conversation(&first, &second))), key(&request(&conversation("1", "2"))));
        }

        #[test]
        fn the_canonical_request_is_its_own(first in "[a-c]", second in "[a-c]", text in ".{0,20}") {
            let mut asked = conversation(&first, &second);
            asked["messages"][0]["content"] = json!(text);
            let asked = request(&asked);
            prop_assert_eq!(key(&request(&canonical(&asked))), key(&asked));
        }
    }
}
