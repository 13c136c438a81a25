//! One recorded exchange, and how a conversation finds it.

use serde::Deserialize;
use serde_json::Value;
use waypost_sdk::{CallError, Result};

/// One exchange with a model, as `[inference] mode = "record"` writes it.
#[derive(Clone, Debug, Deserialize)]
pub struct Recording {
    request: Request,
    /// The chunks in their order.
    #[serde(default)]
    pub chunks: Vec<Value>,
    /// The canonical reply.
    pub reply: Value,
}

/// What was asked; all but the conversation is of no account.
#[derive(Clone, Debug, Deserialize)]
struct Request {
    messages: Vec<Value>,
}

/// The first recording of the same conversation. Fails with `not-found`, naming what was said last.
pub fn find(recordings: &[&str], messages: &[Value]) -> Result<Recording> {
    let wanted = said(messages);
    for text in recordings {
        let recording: Recording = serde_json::from_str(text)
            .map_err(|error| CallError::other(format!("a recording that is built in is no recording: {error}")))?;
        if said(&recording.request.messages) == wanted {
            return Ok(recording);
        }
    }
    let (role, start) = messages.last().map_or(("nobody", String::new()), last_words);
    Err(CallError::not_found(format!(
        "no recording answers this conversation of {} messages, the last by {role}: `{start}`; ask a real endpoint once \
         with `mode = \"record\"` under `[inference]` in waypost.toml and put the file that it writes among the recordings",
        messages.len()
    )))
}

/// What one message says: who, what, and which tools are to be called with what.
#[derive(Debug, PartialEq)]
struct Said {
    role: String,
    content: Value,
    calls: Vec<(String, Value)>,
}

/// What a conversation says, after its leading system messages.
fn said(messages: &[Value]) -> Vec<Said> {
    messages
        .iter()
        .skip_while(|message| role(message) == "system")
        .map(Said::of)
        .collect()
}

impl Said {
    fn of(message: &Value) -> Self {
        let role = role(message).to_owned();
        let content = content(&message["content"]);
        // The result of a tool is often JSON, whose spelling says nothing.
        let content = if role == "tool" { parsed(content) } else { content };
        let calls = message["tool_calls"].as_array().map(Vec::as_slice).unwrap_or_default();
        let calls = calls.iter().map(|call| {
            let function = &call["function"];
            (
                function["name"].as_str().unwrap_or_default().to_owned(),
                parsed(function["arguments"].clone()),
            )
        });
        Self {
            role,
            content,
            calls: calls.collect(),
        }
    }
}

fn role(message: &Value) -> &str {
    message["role"].as_str().unwrap_or_default()
}

/// One spelling for what endpoints spell differently: nothing, an empty text, a list of text parts.
fn content(content: &Value) -> Value {
    match content {
        Value::Null => Value::String(String::new()),
        Value::Array(parts) => {
            let texts: Option<String> = parts
                .iter()
                .map(|part| {
                    if part["type"] == "text" {
                        part["text"].as_str()
                    } else {
                        None
                    }
                })
                .collect();
            texts.map_or_else(|| content.clone(), Value::String)
        }
        content => content.clone(),
    }
}

/// The value that a JSON text holds; anything else as it is.
fn parsed(value: Value) -> Value {
    match &value {
        Value::String(text) => serde_json::from_str(text).unwrap_or(value),
        _ => value,
    }
}

fn last_words(message: &Value) -> (&str, String) {
    let words = match content(&message["content"]) {
        Value::String(text) => text,
        other => other.to_string(),
    };
    (role(message), words.chars().take(60).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn recorded(messages: &Value) -> String {
        json!({ "request": { "messages": messages, "model": "any" }, "chunks": [{ "content": "x" }], "reply": 1 })
            .to_string()
    }

    fn finds(recording: &Value, asked: &Value) -> bool {
        find(&[&recorded(recording)], asked.as_array().unwrap()).is_ok()
    }

    fn with_call(id: &str, arguments: Value, result: Value) -> Value {
        json!([
            { "role": "user", "content": "a" },
            { "role": "assistant", "content": null,
              "tool_calls": [{ "id": id, "type": "function", "function": { "name": "f", "arguments": arguments } }] },
            { "role": "tool", "tool_call_id": id, "content": result },
        ])
    }

    #[test]
    fn ids_spelling_and_system_messages_do_not_count() {
        let recording = with_call("1", json!("{\"b\":1,\"a\":2}"), json!("{\"x\": 1, \"y\": 2}"));
        assert!(finds(
            &recording,
            &with_call("2", json!("{ \"a\": 2, \"b\": 1 }"), json!("{\"y\":2,\"x\":1}"))
        ));
        assert!(finds(
            &recording,
            &with_call("2", json!({ "a": 2, "b": 1 }), json!("{\"y\":2,\"x\":1}"))
        ));
        let plain = json!([{ "role": "user", "content": "hello" }]);
        assert!(finds(
            &plain,
            &json!([{ "role": "system", "content": "be kind" }, { "role": "user", "content": "hello" }])
        ));
        assert!(finds(
            &plain,
            &json!([{ "role": "user", "content": [{ "type": "text", "text": "hello" }] }])
        ));
        let silent = json!([{ "role": "assistant", "content": "" }]);
        assert!(finds(&silent, &json!([{ "role": "assistant", "tool_calls": [] }])));
    }

    #[test]
    fn what_was_said_counts() {
        let recording = with_call("1", json!("{\"a\":1}"), json!("done"));
        assert!(!finds(&recording, &with_call("1", json!("{\"a\":2}"), json!("done"))));
        assert!(!finds(&recording, &with_call("1", json!("{\"a\":1}"), json!("error"))));
        let plain = json!([{ "role": "user", "content": "1" }]);
        assert!(!finds(&plain, &json!([{ "role": "assistant", "content": "1" }])));
        assert!(!finds(&plain, &json!([{ "role": "user", "content": "1 " }])));
        assert!(!finds(
            &plain,
            &json!([{ "role": "user", "content": "1" }, { "role": "user", "content": "1" }])
        ));
        assert!(!finds(
            &plain,
            &json!([{ "role": "user", "content": "1" }, { "role": "system", "content": "x" }])
        ));
    }

    #[test]
    fn a_missing_recording_is_named_by_its_last_words_with_the_remedy() {
        let long = format!("{}ü and more", "x".repeat(59));
        let asked = [json!({ "role": "user", "content": long })];
        let shown = format!("{}ü", "x".repeat(59));
        assert_eq!(
            find(&[], &asked).unwrap_err(),
            CallError::not_found(format!(
                "no recording answers this conversation of 1 messages, the last by user: `{shown}`; ask a real endpoint \
                 once with `mode = \"record\"` under `[inference]` in waypost.toml and put the file that it writes among \
                 the recordings"
            ))
        );
        assert!(find(&[], &[]).unwrap_err().message().contains("the last by nobody: ``"));
    }

    #[test]
    fn every_built_in_recording_is_found_by_its_own_conversation() {
        for text in crate::RECORDINGS {
            let recording: Recording = serde_json::from_str(text).unwrap();
            let found = crate::answer(&recording.request.messages).unwrap();
            assert_eq!(found.reply, recording.reply);
            let texts: String = found
                .chunks
                .iter()
                .filter_map(|chunk| chunk["content"].as_str())
                .collect();
            assert_eq!(recording.reply["content"], texts);
            assert_eq!(recording.reply["completion"]["choices"][0]["message"]["content"], texts);
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-z{}\\[\\]\":1 ]{0,6}".prop_map(Value::from),
        ];
        let name = prop_oneof![
            "role",
            "content",
            "tool_calls",
            "function",
            "name",
            "arguments",
            "type",
            "text"
        ];
        leaf.prop_recursive(4, 32, 4, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(name.clone(), inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_conversation_finds_its_own_recording(messages in proptest::collection::vec(any_json(), 0..4)) {
            let recorded = recorded(&Value::from(messages.clone()));
            prop_assert!(find(&[&recorded], &messages).is_ok());
        }
    }
}
