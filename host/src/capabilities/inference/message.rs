//! The canonical message of `inference`: one shape, whatever dialect a call came in.
//!
//! Either `prompt`, a plain text, or `messages`, the conversation as OpenAI-compatible endpoints know it. Unknown
//! fields are errors. Not here: what SDK clients wrap around it, which their transports take off.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::call::{CallError, Json};
use crate::error::ErrorKind;

/// What is asked of a model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The conversation so far, oldest first; at least one message.
    #[serde(default, deserialize_with = "list_or_null")]
    pub messages: Vec<ChatMessage>,
    /// A plain text instead of `messages`; [`Request::parse`] turns it into one user message.
    #[serde(default)]
    prompt: Option<String>,
    /// The tools that the model may ask for, as the endpoint knows them.
    #[serde(default, deserialize_with = "list_or_null")]
    pub tools: Vec<Map<String, Value>>,
    /// `auto`, `none`, `required` or a named function.
    pub tool_choice: Option<Value>,
    /// The model; without it the hub's own choice.
    pub model: Option<String>,
    /// What the model is wanted for. For routes and plugins that choose by it; the built-in handler does not.
    pub llmrole: Option<String>,
    /// The most tokens that the answer may have.
    pub max_tokens: Option<u64>,
    /// The randomness, as written.
    pub temperature: Option<serde_json::Number>,
    /// Whether the answer is handed out in chunks as it comes; so by default.
    pub stream: Option<bool>,
}

/// One message of a conversation.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatMessage {
    /// Who speaks.
    pub role: Role,
    /// A text, or a list of parts such as `{"type": "text", "text": ".."}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Value>,
    /// What the assistant asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list_or_null")]
    pub tool_calls: Vec<ToolCall>,
    /// Which tool call a `tool` message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// The name of the speaker or of the tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Who speaks in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Standing instructions.
    System,
    /// Standing instructions, as newer models call them.
    Developer,
    /// The one who asks.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

/// A tool call of an earlier answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ToolCall {
    /// The id that the answering `tool` message repeats.
    pub id: String,
    /// `function`.
    #[serde(rename = "type", default = "function")]
    pub kind: String,
    /// What to call.
    pub function: Function,
    /// What else the endpoint sent with it and wants back, such as thought signatures.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// The function of a tool call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Function {
    /// The tool.
    pub name: String,
    /// Its arguments: a JSON text, as the model wrote it.
    pub arguments: String,
}

fn function() -> String {
    "function".to_owned()
}

fn list_or_null<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Request {
    /// Reads a canonical message; the error names the field and what belongs there.
    pub fn parse(message: &Json) -> Result<Self, CallError> {
        let mut request: Self = message.to()?;
        match (request.prompt.take(), request.messages.is_empty()) {
            (Some(prompt), true) => request.messages.push(ChatMessage {
                role: Role::User,
                content: Some(Value::String(prompt)),
                tool_calls: Vec::new(),
                tool_call_id: None,
                name: None,
            }),
            (Some(_), false) => return Err(invalid("give `prompt` or `messages`, not both")),
            (None, true) => return Err(invalid("give `prompt`, or `messages` with at least one message")),
            (None, false) => {}
        }
        for (index, message) in request.messages.iter().enumerate() {
            let fits = match &message.content {
                None | Some(Value::String(_)) => true,
                Some(Value::Array(parts)) => parts.iter().all(Value::is_object),
                Some(_) => false,
            };
            if !fits {
                return Err(invalid(format!(
                    "messages[{index}].content must be a text or a list of parts"
                )));
            }
        }
        if !matches!(request.tool_choice, None | Some(Value::String(_) | Value::Object(_))) {
            return Err(invalid("tool_choice must be a word or a named function"));
        }
        Ok(request)
    }

    /// Whether the answer is handed out in chunks.
    pub fn streams(&self) -> bool {
        self.stream.unwrap_or(true)
    }

    /// What is asked, without how it is delivered: the members that were given, with empty ones left out.
    pub fn content(&self) -> Map<String, Value> {
        let mut members = Map::new();
        members.insert("messages".into(), json!(self.messages));
        if !self.tools.is_empty() {
            members.insert("tools".into(), json!(self.tools));
        }
        let optional = [
            ("tool_choice", self.tool_choice.clone()),
            ("model", self.model.clone().map(Value::String)),
            ("max_tokens", self.max_tokens.map(Value::from)),
            ("temperature", self.temperature.clone().map(Value::Number)),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                members.insert(name.into(), value);
            }
        }
        members
    }

    /// The body for an endpoint. Always streamed, so that a hanging endpoint can be told from a long answer.
    pub fn body(&self, model: &str) -> Value {
        let mut members = self.content();
        members.insert("model".into(), json!(model));
        members.insert("stream".into(), json!(true));
        members.insert("stream_options".into(), json!({"include_usage": true}));
        Value::Object(members)
    }

    /// The text of the last user message.
    pub fn last_user_text(&self) -> Option<String> {
        let last = self.messages.iter().rev().find(|message| message.role == Role::User)?;
        last.content.as_ref().map(text)
    }
}

/// The text of a content: itself, or its text parts joined.
pub fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part.get("text").and_then(Value::as_str))
            .collect::<String>(),
        _ => String::new(),
    }
}

fn invalid(message: impl Into<String>) -> CallError {
    CallError::new(ErrorKind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: Value) -> Result<Request, CallError> {
        Request::parse(&Json::from(value))
    }

    #[test]
    fn a_prompt_is_one_user_message() {
        let request = parse(json!({"prompt": "hello"})).unwrap();
        assert_eq!(
            request.content(),
            *json!({"messages": [{"role": "user", "content": "hello"}]})
                .as_object()
                .unwrap()
        );
        assert!(request.streams());
    }

    #[test]
    fn the_body_asks_for_a_stream_and_keeps_what_tool_calls_carry() {
        let calls =
            json!([{"id": "a", "function": {"name": "read", "arguments": "{}"}, "extra_content": {"sign": "x"}}]);
        let messages = json!([{"role": "assistant", "content": null, "tool_calls": calls, "name": null},
                              {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "b"}]}]);
        let request = json!({"messages": messages, "tools": [], "temperature": 0, "stream": false, "llmrole": "coder"});
        let body = parse(request).unwrap().body("m");
        let call = json!({"id": "a", "type": "function", "function": {"name": "read", "arguments": "{}"},
                          "extra_content": {"sign": "x"}});
        let expected = json!({
            "model": "m", "stream": true, "stream_options": {"include_usage": true}, "temperature": 0,
            "messages": [{"role": "assistant", "tool_calls": [call]},
                         {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "b"}]}],
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn a_wrong_message_is_refused_by_name() {
        let turn = json!({"role": "user", "content": "x"});
        for (message, named) in [
            (json!({}), "`prompt`"),
            (json!({"messages": []}), "at least one"),
            (json!({"prompt": "x", "messages": [turn]}), "not both"),
            (json!({"prompt": "x", "modle": "y"}), "unknown field `modle`"),
            (
                json!({"messages": [{"role": "user", "content": "x", "colour": 1}]}),
                "unknown field `colour`",
            ),
            (
                json!({"messages": [{"role": "robot", "content": "x"}]}),
                "unknown variant `robot`",
            ),
            (
                json!({"messages": [turn, {"role": "user", "content": 5}]}),
                "messages[1].content",
            ),
            (
                json!({"messages": [turn, {"role": "user", "content": ["x"]}]}),
                "messages[1].content",
            ),
            (
                json!({"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]}),
                "missing field `function`",
            ),
            (json!({"prompt": "x", "tool_choice": 3}), "tool_choice"),
        ] {
            let error = parse(message).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid);
            assert!(error.message.contains(named), "{}", error.message);
        }
    }

    #[test]
    fn the_published_schema_knows_the_same_fields() {
        let schema: Value = serde_json::from_str(include_str!("../../../../wit/kinds/inference.json")).unwrap();
        let chat = json!({"messages": [{"role": "user", "content": "x", "?": 1}]});
        let published = [
            (json!({"?": 1}), "/message/properties"),
            (chat, "/message/properties/messages/items/properties"),
        ];
        for (message, place) in published {
            let error = parse(message).unwrap_err().message;
            let ours: Vec<&str> = error.split('`').skip(3).step_by(2).collect();
            let mut ours = ours;
            ours.sort_unstable();
            let mut theirs: Vec<&str> = schema
                .pointer(place)
                .unwrap()
                .as_object()
                .unwrap()
                .keys()
                .map(String::as_str)
                .collect();
            theirs.sort_unstable();
            assert_eq!(ours, theirs);
        }
    }
}
