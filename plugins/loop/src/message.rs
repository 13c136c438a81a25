//! The canonical message and reply of `inference`, as far as this agent uses them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use waypost_sdk::{CallError, Result};

/// One message of the conversation.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "role", rename_all = "lowercase")]
pub(crate) enum Message {
    /// What the agent is told before all else.
    System { content: String },
    /// What the person wrote.
    User { content: String },
    /// What the model answered.
    Assistant {
        /// Null beside tool calls without a text, as the endpoints want it.
        content: Option<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<ToolCall>,
    },
    /// What came of one tool call.
    Tool { tool_call_id: String, content: String },
}

/// A tool call as it goes back to the model.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ToolCall {
    pub id: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub function: Function,
    /// What else came with it, such as thought signatures, which some endpoints want back.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// The name and the arguments of a tool call; these are always the text of one JSON object.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Function {
    pub name: String,
    pub arguments: String,
}

/// What the model answered.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Reply {
    pub content: Option<String>,
    pub finish_reason: Option<String>,
    pub tool_calls: Option<Vec<Asked>>,
    pub usage: Option<Usage>,
    completion: Option<Value>,
}

/// A tool call as the model asks for it; nothing about it can be relied on.
#[derive(Debug, Deserialize)]
pub(crate) struct Asked {
    pub id: Option<String>,
    /// Always `function`; taken out of `more`.
    #[serde(rename = "type")]
    _kind: Option<Value>,
    #[serde(default)]
    pub function: AskedFunction,
    /// What else came with it.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// The arguments are a JSON text, as they should be, or the value itself, as some endpoints have it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AskedFunction {
    pub name: String,
    pub arguments: Value,
}

/// What the endpoint counted.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Usage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    total_tokens: Option<u64>,
}

impl Usage {
    /// Prompt and completion together; none when the endpoint did not count.
    pub(crate) fn total(&self) -> Option<u64> {
        self.total_tokens
            .or_else(|| Some(self.prompt_tokens?.saturating_add(self.completion_tokens?)))
    }
}

impl Reply {
    /// Reads a reply. A handler that fills in `completion` alone, the endpoint's own reply, is understood too.
    pub(crate) fn read(reply: Value) -> Result<Self> {
        let misfit = |error| CallError::invalid(format!("the reply to inference does not fit: {error}"));
        let mut reply: Self = serde_json::from_value(reply).map_err(misfit)?;
        if reply.content.is_none()
            && reply.tool_calls.is_none()
            && let Some(completion) = reply.completion.take()
        {
            let Completion { choices, usage } = serde_json::from_value(completion).map_err(misfit)?;
            if let Some(Choice { message, finish_reason }) = choices.into_iter().next() {
                reply.content = message.content;
                reply.tool_calls = message.tool_calls;
                reply.finish_reason = reply.finish_reason.or(finish_reason);
            }
            reply.usage = reply.usage.or(usage);
        }
        Ok(reply)
    }
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    message: ChoiceMessage,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct ChoiceMessage {
    content: Option<String>,
    tool_calls: Option<Vec<Asked>>,
}
