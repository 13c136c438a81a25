//! What whoever starts a run may say about this agent.

use serde::Deserialize;
use serde_json::{Value, json};

/// The settings of one run; all may be left out, unknown ones are errors.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// Tools beside the bundled ones.
    pub tools: Vec<ExtraTool>,
    /// Text that is added to the system prompt.
    pub instructions: String,
    /// The model; the handler of `inference` chooses when there is none.
    pub model: Option<String>,
    /// Bundled tools that the model is not offered.
    pub disable: Vec<String>,
}

/// A tool that is a capability call: the model's arguments are its message, the reply as JSON is its result.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExtraTool {
    /// Its name for the model.
    pub name: String,
    /// What it does, for the model.
    pub description: String,
    /// A JSON Schema of its arguments. Default: an object without fields.
    #[serde(default = "no_parameters")]
    pub parameters: Value,
    /// What it calls: `kind` or `kind:action`.
    pub call: String,
}

fn no_parameters() -> Value {
    json!({ "type": "object", "properties": {} })
}
