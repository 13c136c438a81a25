//! What the model is offered, and which call each tool is.

use serde_json::{Map, Value, json};
use waypost_sdk::{CallError, Result};

use crate::settings::{ExtraTool, Settings};

/// One line of the table of bundled tools. Its parameters are the fields of the call's message.
struct Bundled {
    name: &'static str,
    description: &'static str,
    parameters: &'static [Parameter],
    call: &'static str,
    shown: Shown,
}

#[derive(Debug)]
struct Parameter {
    name: &'static str,
    kind: Kind,
    description: &'static str,
    required: bool,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Text,
    Count,
}

impl Kind {
    /// The word of JSON Schema.
    fn word(self) -> &'static str {
        match self {
            Self::Text => "string",
            Self::Count => "integer",
        }
    }

    fn fits(self, value: &Value) -> bool {
        match self {
            Self::Text => value.is_string(),
            Self::Count => value.is_u64(),
        }
    }
}

/// What of the reply the model sees.
#[derive(Clone, Copy, Debug)]
enum Shown {
    /// One text field; the whole reply when it is not there.
    Field(&'static str),
    /// That it is done.
    Done,
    /// The whole reply, as compact JSON.
    Reply,
}

const fn required(name: &'static str, kind: Kind, description: &'static str) -> Parameter {
    Parameter {
        name,
        kind,
        description,
        required: true,
    }
}

const fn optional(name: &'static str, kind: Kind, description: &'static str) -> Parameter {
    Parameter {
        name,
        kind,
        description,
        required: false,
    }
}

const PATH: Parameter = required("path", Kind::Text, "The path, relative to the project folder.");

const BUNDLED: &[Bundled] = &[
    Bundled {
        name: "read_file",
        description: "Reads a text file, whole or some of its lines. Of a long text the middle is left out: read it in \
                      parts then.",
        parameters: &[
            PATH,
            optional("offset", Kind::Count, "How many lines to leave out at the start."),
            optional("limit", Kind::Count, "How many lines to read."),
        ],
        call: "fsEvent:readFile",
        shown: Shown::Field("content"),
    },
    Bundled {
        name: "write_file",
        description: "Writes a text file whole: makes it, with its folders, or replaces what it held.",
        parameters: &[PATH, required("content", Kind::Text, "All of the new text.")],
        call: "fsEvent:writeToFile",
        shown: Shown::Done,
    },
    Bundled {
        name: "list_directory",
        description: "Lists a folder.",
        parameters: &[required(
            "path",
            Kind::Text,
            "The folder, relative to the project folder, which is `.`.",
        )],
        call: "fsEvent:listDirectory",
        shown: Shown::Field("result"),
    },
    Bundled {
        name: "search",
        description: "Finds the lines of files that match a regular expression.",
        parameters: &[
            required("pattern", Kind::Text, "The regular expression."),
            optional("path", Kind::Text, "A folder or file to stay in. Default: everywhere."),
            optional("include", Kind::Text, "Only files that fit this glob, as in `*.rs`."),
        ],
        call: "fsEvent:grepSearch",
        shown: Shown::Field("result"),
    },
    Bundled {
        name: "apply_diff",
        description: "Changes parts of a text file. Use it rather than write_file for small changes of long files.",
        parameters: &[
            PATH,
            required(
                "diff",
                Kind::Text,
                "A unified diff of this one file: `@@ -1,3 +1,4 @@` before each hunk, lines that start with a space \
                 (unchanged), `-` (removed) or `+` (added).",
            ),
        ],
        call: "fsEvent:applyDiff",
        shown: Shown::Field("result"),
    },
    Bundled {
        name: "run_command",
        description: "Runs a shell command in the project folder and waits for its end.",
        parameters: &[required("command", Kind::Text, "The command line.")],
        call: "executeCommand",
        shown: Shown::Reply,
    },
];

/// A tool of this run.
#[derive(Debug)]
pub(crate) struct Tool {
    pub name: String,
    description: String,
    schema: Value,
    /// The call that it is: `kind` or `kind:action`.
    pub call: String,
    /// The fields of the message, and whether each is required; none when the arguments are the message.
    fields: Option<&'static [Parameter]>,
    shown: Shown,
}

/// The tools of a run: the bundled ones that are not disabled, then those of the settings, in their order.
pub(crate) fn table(settings: &Settings) -> Result<Vec<Tool>> {
    for name in &settings.disable {
        if !BUNDLED.iter().any(|tool| tool.name == name) {
            let known: Vec<&str> = BUNDLED.iter().map(|tool| tool.name).collect();
            let text = format!(
                "`disable` names `{name}`, which is no bundled tool; these are: {}",
                known.join(", ")
            );
            return Err(CallError::invalid(text));
        }
    }
    let offered = BUNDLED
        .iter()
        .filter(|tool| !settings.disable.iter().any(|name| name == tool.name));
    let mut tools: Vec<Tool> = offered.map(Tool::bundled).collect();
    for extra in &settings.tools {
        let tool = Tool::extra(extra)?;
        if tools.iter().any(|other| other.name == tool.name) {
            let text = format!(
                "two tools are named `{}`; rename one, or put a bundled one into `disable`",
                tool.name
            );
            return Err(CallError::invalid(text));
        }
        tools.push(tool);
    }
    Ok(tools)
}

impl Tool {
    fn bundled(tool: &Bundled) -> Self {
        let properties: Map<String, Value> = tool
            .parameters
            .iter()
            .map(|field| {
                let schema = json!({ "type": field.kind.word(), "description": field.description });
                (field.name.to_owned(), schema)
            })
            .collect();
        let required: Vec<&str> = tool
            .parameters
            .iter()
            .filter(|field| field.required)
            .map(|field| field.name)
            .collect();
        Self {
            name: tool.name.to_owned(),
            description: tool.description.to_owned(),
            schema: json!({ "type": "object", "properties": properties, "required": required }),
            call: tool.call.to_owned(),
            fields: Some(tool.parameters),
            shown: tool.shown,
        }
    }

    fn extra(tool: &ExtraTool) -> Result<Self> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if tool.name.is_empty() || tool.name.len() > 64 || !tool.name.bytes().all(fits) {
            let text = format!(
                "`{}` cannot name a tool: use 1 to 64 of a-z, A-Z, 0-9, _ and -",
                tool.name
            );
            return Err(CallError::invalid(text));
        }
        if tool.call.is_empty() {
            return Err(CallError::invalid(format!(
                "tool `{}` has an empty `call`: write kind:action",
                tool.name
            )));
        }
        Ok(Self {
            name: tool.name.clone(),
            description: tool.description.clone(),
            schema: tool.parameters.clone(),
            call: tool.call.clone(),
            fields: None,
            shown: Shown::Reply,
        })
    }

    /// How it is offered to the model.
    pub(crate) fn offer(&self) -> Value {
        let function = json!({ "name": self.name, "description": self.description, "parameters": self.schema });
        json!({ "type": "function", "function": function })
    }

    /// The canonical message that the model's arguments stand for; an error is for the model.
    ///
    /// Fields that a bundled tool does not have are dropped: models make them up, and they do no harm.
    pub(crate) fn message(&self, arguments: &Map<String, Value>) -> Result<Value, String> {
        let Some(fields) = self.fields else {
            return Ok(Value::Object(arguments.clone()));
        };
        let mut message = Map::new();
        for field in fields {
            let kind = field.kind;
            match arguments.get(field.name) {
                Some(value) if kind.fits(value) => {
                    message.insert(field.name.to_owned(), value.clone());
                }
                None | Some(Value::Null) if !field.required => {}
                None | Some(Value::Null) => {
                    return Err(format!("`{}` is missing; it is a {}", field.name, kind.word()));
                }
                Some(_) => return Err(format!("`{}` does not fit; it is a JSON {}", field.name, kind.word())),
            }
        }
        Ok(Value::Object(message))
    }

    /// What the model sees of the reply.
    pub(crate) fn result(&self, reply: &Value) -> String {
        let shown = match self.shown {
            Shown::Done => return "done".to_owned(),
            Shown::Field(field) => reply.get(field).unwrap_or(reply),
            Shown::Reply => reply,
        };
        shown.as_str().map_or_else(|| shown.to_string(), str::to_owned)
    }
}

/// The names, for the model that asked for one that does not exist.
pub(crate) fn names(tools: &[Tool]) -> String {
    let names: Vec<&str> = tools.iter().map(|tool| tool.name.as_str()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        serde_json::from_str(text).unwrap()
    }

    fn refused(text: &str) -> String {
        table(&settings(text)).unwrap_err().to_string()
    }

    #[test]
    fn the_settings_add_and_take_away_tools() {
        let tools = table(&settings(
            r#"{"disable":["run_command","search"],"tools":[{"name":"ask","description":"Asks.","call":"x:y"}]}"#,
        ))
        .unwrap();
        assert_eq!(names(&tools), "read_file, write_file, list_directory, apply_diff, ask");
        let offer = json!({ "type": "function", "function": {
            "name": "ask", "description": "Asks.", "parameters": { "type": "object", "properties": {} } } });
        assert_eq!(tools.last().unwrap().offer(), offer);
    }

    #[test]
    fn settings_that_cannot_work_are_refused_with_the_remedy() {
        assert_eq!(
            refused(r#"{"disable":["rm"]}"#),
            "invalid: `disable` names `rm`, which is no bundled tool; these are: read_file, write_file, list_directory, \
             search, apply_diff, run_command"
        );
        assert_eq!(
            refused(r#"{"tools":[{"name":"search","description":"","call":"x"}]}"#),
            "invalid: two tools are named `search`; rename one, or put a bundled one into `disable`"
        );
        assert_eq!(
            refused(r#"{"tools":[{"name":"a b","description":"","call":"x"}]}"#),
            "invalid: `a b` cannot name a tool: use 1 to 64 of a-z, A-Z, 0-9, _ and -"
        );
        assert_eq!(
            refused(r#"{"tools":[{"name":"a","description":"","call":""}]}"#),
            "invalid: tool `a` has an empty `call`: write kind:action"
        );
        assert!(
            serde_json::from_str::<Settings>(r#"{"tool":[]}"#)
                .unwrap_err()
                .to_string()
                .contains("unknown field")
        );
    }

    #[test]
    fn arguments_become_the_message_field_by_field() {
        let tools = table(&Settings::default()).unwrap();
        let search = tools.iter().find(|tool| tool.name == "search").unwrap();
        let message = |arguments: Value| search.message(arguments.as_object().unwrap());
        let given = json!({ "pattern": "x", "path": null, "invented": 1 });
        assert_eq!(message(given).unwrap(), json!({ "pattern": "x" }));
        assert_eq!(
            message(json!({ "path": "a" })).unwrap_err(),
            "`pattern` is missing; it is a string"
        );
        assert_eq!(
            message(json!({ "pattern": 1 })).unwrap_err(),
            "`pattern` does not fit; it is a JSON string"
        );
    }

    #[test]
    fn numbers_are_numbers() {
        let tools = table(&Settings::default()).unwrap();
        let read = tools.iter().find(|tool| tool.name == "read_file").unwrap();
        let message = |arguments: Value| read.message(arguments.as_object().unwrap());
        let lines = json!({ "path": "a", "offset": 10, "limit": 5 });
        assert_eq!(message(lines.clone()).unwrap(), lines);
        let negative = json!({ "path": "a", "offset": -1 });
        assert_eq!(
            message(negative).unwrap_err(),
            "`offset` does not fit; it is a JSON integer"
        );
    }

    #[test]
    fn the_model_sees_what_it_needs_of_a_reply() {
        let tools = table(&Settings::default()).unwrap();
        let seen = |name: &str, reply: Value| tools.iter().find(|tool| tool.name == name).unwrap().result(&reply);
        assert_eq!(seen("read_file", json!({ "path": "a", "content": "text" })), "text");
        assert_eq!(seen("read_file", json!({ "text": 1 })), "{\"text\":1}");
        assert_eq!(seen("read_file", json!("plain")), "plain");
        assert_eq!(seen("write_file", json!({ "path": "a" })), "done");
        assert_eq!(seen("list_directory", json!(["a"])), "[\"a\"]");
    }
}
