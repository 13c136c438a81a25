//! The conversation with the model: what is sent, what is done with the answer, and when it is over.

use serde_json::{Map, Value, json};
use waypost_sdk::{CallError, Result, Task};

use crate::budget::{Budget, estimate};
use crate::message::{Asked, Function, Message, Reply, ToolCall};
use crate::settings::Settings;
use crate::tools::{self, Tool};

/// The longest tool result that the model is shown, in bytes; the middle of a longer one is left out.
pub(crate) const RESULT_BYTES: usize = 32 << 10;

/// The most tool calls of one answer that are made.
pub(crate) const CALLS_PER_ANSWER: usize = 32;

/// How often in a row the model is asked again when its answer is empty.
const EMPTY_ANSWERS: u32 = 1;

const SYSTEM: &str = "\
You are an agent that works on a project in a folder of its own. Use the tools to look and to act; never guess what a \
file says.

- Paths are relative to the project folder and have `/` between their parts, as in `src/main.rs`. Absolute paths and \
`..` are refused.
- A tool may answer with a text that starts with `error:`. Read it, then correct the call or find another way; do not \
repeat the same call unchanged. What was denied stays denied.
- Change only what the task asks for.
- When the task is done, answer with a short account of what you did and call no more tools.";

const CONTINUE: &str = "Your answer was cut at the length limit. Go on exactly where it stopped.";
const EMPTY: &str = "Your answer was empty. Go on with the task, or say what came of it if it is done.";
const UNANSWERED: &str = "(This ended without an answer.)";

/// What the conversation needs of the hub.
pub(crate) trait Hub {
    /// Makes a capability call and waits for its end.
    fn call(&mut self, name: &str, message: &Value) -> Result<Value>;

    /// Tells the operator of something odd.
    fn warn(&mut self, text: &str);
}

/// One run's conversation.
pub(crate) struct Conversation<'a, H> {
    hub: &'a mut H,
    tools: Vec<Tool>,
    offers: Vec<Value>,
    model: Option<String>,
    messages: Vec<Message>,
    budget: Budget,
}

impl<'a, H: Hub> Conversation<'a, H> {
    /// A conversation that has said nothing yet. Fails with `invalid` for settings that cannot work.
    pub(crate) fn new(hub: &'a mut H, task: &Task, settings: Settings) -> Result<Self> {
        let tools = tools::table(&settings)?;
        let offers = tools.iter().map(Tool::offer).collect();
        let mut system = SYSTEM.to_owned();
        if !settings.instructions.is_empty() {
            system = format!("{system}\n\n{}", settings.instructions);
        }
        let mut messages = vec![Message::System { content: system }];
        for turn in &task.history {
            messages.push(Message::User {
                content: turn.prompt.clone(),
            });
            let answer = if turn.answer.is_empty() {
                UNANSWERED
            } else {
                &turn.answer
            };
            messages.push(Message::Assistant {
                content: Some(answer.to_owned()),
                tool_calls: Vec::new(),
            });
        }
        messages.push(Message::User {
            content: task.prompt.clone(),
        });
        let budget = Budget::new(task.max_steps, task.max_tokens);
        Ok(Self {
            hub,
            tools,
            offers,
            model: settings.model,
            messages,
            budget,
        })
    }

    /// Goes on until the model answers without asking for a tool, and returns that answer.
    pub(crate) fn work(mut self) -> Result<String> {
        let mut answer = String::new();
        let mut empty = 0;
        loop {
            self.budget.step()?;
            let reply = self.infer()?;
            let content = reply.content.filter(|text| !text.trim().is_empty());
            if let Some(text) = &content {
                self.say(text);
            }
            let asked = reply.tool_calls.unwrap_or_default();
            let cut = reply.finish_reason.as_deref() == Some("length");
            match content {
                content if !asked.is_empty() => {
                    self.make(content, asked)?;
                    answer.clear();
                    empty = 0;
                }
                Some(text) if cut => {
                    answer.push_str(&text);
                    self.ask_again(Some(text), CONTINUE);
                }
                Some(text) => return Ok(answer + &text),
                None if empty < EMPTY_ANSWERS && !cut => {
                    empty += 1;
                    self.ask_again(None, EMPTY);
                }
                None => return Err(nothing_said(reply.finish_reason.as_deref())),
            }
        }
    }

    fn infer(&mut self) -> Result<Reply> {
        let mut message = json!({ "messages": self.messages });
        if let Value::Object(fields) = &mut message {
            if !self.offers.is_empty() {
                fields.insert("tools".to_owned(), Value::Array(self.offers.clone()));
                fields.insert("tool_choice".to_owned(), json!("auto"));
            }
            if let Some(model) = &self.model {
                fields.insert("model".to_owned(), json!(model));
            }
        }
        let reply = self.hub.call("inference", &message)?;
        let bytes = message.to_string().len() + reply.to_string().len();
        let reply = Reply::read(reply)?;
        self.budget.used(
            reply
                .usage
                .as_ref()
                .and_then(crate::message::Usage::total)
                .unwrap_or_else(|| estimate(bytes)),
        );
        Ok(reply)
    }

    /// Tells the person what the model said. That nobody can be told does not stop the work.
    fn say(&mut self, text: &str) {
        if let Err(error) = self.hub.call("sendMessage", &json!({ "message": text })) {
            self.hub
                .warn(&format!("the person cannot be told what the agent does: {error}"));
        }
    }

    fn ask_again(&mut self, said: Option<String>, why: &str) {
        if said.is_some() {
            self.messages.push(Message::Assistant {
                content: said,
                tool_calls: Vec::new(),
            });
        }
        self.messages.push(Message::User {
            content: why.to_owned(),
        });
    }

    /// Makes the calls of one answer, in their order, and keeps the answer and the results.
    fn make(&mut self, content: Option<String>, asked: Vec<Asked>) -> Result<()> {
        let dropped = asked.len().saturating_sub(CALLS_PER_ANSWER);
        let (mut tool_calls, mut results) = (Vec::new(), Vec::new());
        for (number, asked) in asked.into_iter().take(CALLS_PER_ANSWER).enumerate() {
            // Some endpoints give no id, and results are matched by it.
            let id = asked.id.filter(|id| !id.is_empty());
            let id = id.unwrap_or_else(|| format!("call-{}-{}", self.budget.steps(), number + 1));
            let name = asked.function.name;
            let arguments = arguments(&asked.function.arguments);
            let sent = arguments
                .as_ref()
                .map_or_else(|_| "{}".to_owned(), |fields| json!(fields).to_string());
            let result = match arguments {
                Ok(fields) => self.tool(&name, &fields)?,
                Err(text) => format!("error: {text}"),
            };
            // What is no JSON object goes back as `{}`: many endpoints refuse a conversation that holds such a call.
            tool_calls.push(ToolCall {
                id: id.clone(),
                kind: "function",
                function: Function { name, arguments: sent },
                more: asked.more,
            });
            results.push(Message::Tool {
                tool_call_id: id,
                content: bounded(result),
            });
        }
        if let (1.., Some(Message::Tool { content, .. })) = (dropped, results.last_mut()) {
            content.push_str(&format!(
                "\n({dropped} more calls were not made: one answer may hold {CALLS_PER_ANSWER} tool calls.)"
            ));
        }
        self.messages.push(Message::Assistant { content, tool_calls });
        self.messages.append(&mut results);
        Ok(())
    }

    /// Makes one call. What goes wrong is the model's to read, unless the run itself was cancelled.
    fn tool(&mut self, name: &str, arguments: &Map<String, Value>) -> Result<String> {
        let Some(tool) = self.tools.iter().find(|tool| tool.name == name) else {
            return Ok(format!(
                "error: there is no tool `{name}`; the tools are: {}",
                tools::names(&self.tools)
            ));
        };
        let message = match tool.message(arguments) {
            Ok(message) => message,
            Err(text) => return Ok(format!("error: {text}")),
        };
        match self.hub.call(&tool.call, &message) {
            Ok(reply) => Ok(tool.result(&reply)),
            Err(error @ CallError::Cancelled(_)) => Err(error),
            Err(error) => Ok(format!("error: {error}")),
        }
    }
}

fn nothing_said(finish_reason: Option<&str>) -> CallError {
    match finish_reason {
        Some("length") => CallError::limit(
            "the model reached its length limit before it said anything; choose another model or raise its limit at the \
             endpoint",
        ),
        reason => {
            let reason = reason.unwrap_or("none given");
            CallError::other(format!(
                "the model gave an empty answer (finish reason: {reason}); try another model"
            ))
        }
    }
}

/// The arguments of a tool call, which should be the text of one JSON object; an error is for the model.
fn arguments(given: &Value) -> Result<Map<String, Value>, String> {
    let parsed = match given {
        Value::String(text) if text.trim().is_empty() => return Ok(Map::new()),
        Value::String(text) => serde_json::from_str(text).map_err(|error| error.to_string()),
        Value::Null => return Ok(Map::new()),
        value => Ok(value.clone()),
    };
    let why = match parsed {
        Ok(Value::Object(fields)) => return Ok(fields),
        Ok(_) => "they are no object".to_owned(),
        Err(error) => error,
    };
    let given = given.as_str().map_or_else(|| given.to_string(), str::to_owned);
    let start: String = given.chars().take(200).collect();
    Err(format!(
        "the arguments must be one JSON object ({why}); they started with: {start}"
    ))
}

/// Leaves out the middle of a text that is too long: the start tells what it is, the end how it went.
fn bounded(text: String) -> String {
    if text.len() <= RESULT_BYTES {
        return text;
    }
    let head = text
        .get(..text.floor_char_boundary(RESULT_BYTES / 4 * 3))
        .unwrap_or_default();
    let tail = text
        .get(text.ceil_char_boundary(text.len() - RESULT_BYTES / 4)..)
        .unwrap_or_default();
    let left_out = text.len() - head.len() - tail.len();
    format!("{head}\n[... {left_out} bytes left out ...]\n{tail}")
}

#[cfg(test)]
mod tests;
