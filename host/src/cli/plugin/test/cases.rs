//! The author's cases: calls, what they come to, and who answers the calls that the plugin makes meanwhile.
//!
//! A file `cases/*.toml` holds any number of `[[case]]`. Messages, replies and chunks are JSON as `waypost call` takes it, so
//! that what a hub logs can be put in as it is. Not here: how a case is run (`stage`), and by whom its calls are answered
//! (`fake`).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::{CallName, Json, covers};
use crate::config::duration_option;
use crate::error::{Blame, Error, ErrorKind, Result};
use crate::plugin::{Manifest, Role};

/// The largest file of cases, in bytes.
const LARGEST: u64 = 4 << 20;

/// One call and what is expected of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Case {
    /// What it shows, as a sentence.
    pub(super) name: String,
    /// The call, as `kind:action`; for other roles than handlers the operation, as `provider:create`.
    pub(super) call: Name,
    /// The message. What every call of its operation has may be left out.
    #[serde(default)]
    pub(super) message: Text,
    /// The reply it comes to.
    pub(super) reply: Option<Text>,
    /// The error it comes to.
    pub(super) error: Option<Failure>,
    /// The chunks that come before, all of them.
    pub(super) chunks: Option<Vec<Text>>,
    /// What the plugin keeps before the call.
    #[serde(default)]
    pub(super) state: BTreeMap<String, String>,
    /// What it keeps after it, all of it.
    pub(super) state_after: Option<BTreeMap<String, String>>,
    /// The time it may take; the plugin's own limit when it is not given.
    #[serde(default, with = "duration_option")]
    pub(super) timeout: Option<Duration>,
    /// Who answers the calls that the plugin makes.
    #[serde(default)]
    pub(super) fake: Vec<Answer>,
}

/// The answer to calls that the plugin makes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Answer {
    /// Which calls: a pattern.
    pub(super) call: String,
    /// The message that they must have; any when it is not given.
    pub(super) message: Option<Text>,
    pub(super) reply: Option<Text>,
    pub(super) error: Option<Failure>,
    /// What comes before the end.
    #[serde(default)]
    pub(super) chunks: Vec<Text>,
    /// How many calls it answers, all of which must come.
    #[serde(default = "once")]
    pub(super) times: usize,
}

/// A failure: as an expectation its text holds `says`, as an answer it is that.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Failure {
    pub(super) kind: ErrorKind,
    #[serde(default)]
    pub(super) says: String,
}

/// JSON in a string.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Text(pub(super) Json);

impl Default for Text {
    fn default() -> Self {
        Self(Json::of(&json!({})).unwrap_or_else(|_| Json::null()))
    }
}

impl TryFrom<String> for Text {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Json::parse(&text).map(Self).map_err(|error| error.message)
    }
}

/// The name of a call.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Name(pub(super) CallName);

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
            .map(Self)
            .map_err(|error: crate::call::CallError| error.message)
    }
}

fn once() -> usize {
    1
}

/// All cases of a folder, each under the name of its file; none when there is no such folder.
pub(super) fn read(folder: &Path, manifest: &Manifest) -> Result<Vec<Case>> {
    let cannot = |path: &Path, error| {
        Error::new(ErrorKind::NotFound, format!("{} cannot be read", path.display())).because(error)
    };
    let mut files = Vec::new();
    match std::fs::read_dir(folder) {
        Ok(entries) => {
            for entry in entries {
                let path = entry.map_err(|error| cannot(folder, error))?.path();
                if path.extension().is_some_and(|ending| ending == "toml") {
                    files.push(path);
                }
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(cannot(folder, error)),
    }
    files.sort();
    let mut cases = Vec::new();
    for path in files {
        let size = std::fs::metadata(&path).map_err(|error| cannot(&path, error))?.len();
        if size > LARGEST {
            let message = format!(
                "{} has {size} bytes, a file of cases has at most {LARGEST}",
                path.display()
            );
            return Err(Error::new(ErrorKind::Limit, message));
        }
        let text = std::fs::read_to_string(&path).map_err(|error| cannot(&path, error))?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        cases.extend(parse(&path.display().to_string(), &stem, &text, manifest)?);
    }
    Ok(cases)
}

fn parse(file: &str, stem: &str, text: &str, manifest: &Manifest) -> Result<Vec<Case>> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        case: Vec<Case>,
    }
    let wrong = |message: String| Error::new(ErrorKind::Invalid, message).blame(Blame::Plugin);
    let File { mut case } = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let line = text.get(..at).unwrap_or(text).matches('\n').count() + 1;
        wrong(format!("{file}, line {line}: {}", error.message()))
    })?;
    for case in &mut case {
        check(case, manifest).map_err(|what| wrong(format!("{file}, case `{}`: {what}", case.name.escape_debug())))?;
        case.name = format!("{stem}: {}", case.name);
        case.message = Text(filled(manifest.role, &case.message.0));
    }
    Ok(case)
}

/// What a case says can be.
fn check(case: &Case, manifest: &Manifest) -> Result<(), String> {
    served(manifest, &case.call.0)?;
    if case.reply.is_some() == case.error.is_some() {
        return Err("it comes to a `reply` or to an `error`; write one of them".to_owned());
    }
    match case
        .fake
        .iter()
        .find(|fake| fake.reply.is_some() == fake.error.is_some())
    {
        Some(fake) => Err(format!(
            "the fake for {} answers a `reply` or an `error`; write one of them",
            fake.call
        )),
        None => Ok(()),
    }
}

/// Refuses a call that a plugin is never asked to execute.
pub(in crate::cli::plugin) fn served(manifest: &Manifest, name: &CallName) -> Result<(), String> {
    let operations = operations(manifest.role);
    if operations.is_empty() && !manifest.serves.iter().any(|pattern| covers(pattern, name)) {
        return Err(format!(
            "the manifest does not serve {name}, only {}",
            manifest.serves.join(", ")
        ));
    }
    if !operations.is_empty() && !operations.contains(&name.to_string().as_str()) {
        let role = manifest.role.as_str();
        return Err(format!(
            "the role {role} has no operation {name}, only {}",
            operations.join(", ")
        ));
    }
    Ok(())
}

/// The operations of a role; none for handlers, which execute calls of any name.
pub(super) fn operations(role: Role) -> &'static [&'static str] {
    match role {
        Role::Handler => &[],
        Role::Provider => &[
            "provider:create",
            "provider:reconnect",
            "provider:inspect",
            "provider:teardown",
        ],
        Role::Agent => &["agent:run"],
        Role::Observer => &["observer:notice"],
    }
}

/// A message with what every call of its role has, where it was left out.
pub(in crate::cli::plugin) fn filled(role: Role, message: &Json) -> Json {
    let usual = match role {
        Role::Handler => return message.clone(),
        Role::Provider => json!({ "environment": "env-1" }),
        Role::Agent => json!({
            "thread": "thread-1", "prompt": "Hello", "history": [], "maxSteps": 40, "maxTokens": 200_000, "settings": {},
        }),
        Role::Observer => json!({
            "id": "0", "kind": "test", "action": null, "message": {}, "reply": null, "error": null, "run": null, "lagged": 0,
        }),
    };
    let (Value::Object(mut whole), Ok(Value::Object(given))) = (usual, message.to::<Value>()) else {
        return message.clone();
    };
    whole.extend(given);
    Json::of(&whole).unwrap_or_else(|_| message.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        let manifest = "id = \"a\"\nversion = \"1\"\nrole = \"handler\"\nserves = [\"ticket\"]";
        let manifest = Manifest::parse("x", manifest).unwrap();
        parse("c.toml", "c", text, &manifest).unwrap_err().to_string()
    }

    #[test]
    fn each_mistake_in_a_case_is_named_with_its_place() {
        let case = "[[case]]\nname = \"a\"\n";
        for (text, expected) in [
            (
                format!("{case}call = \"ticket:find\"\nreply = 'null'\nmessage = '{{'"),
                "c.toml, line 5: not valid JSON: EOF while parsing an object at line 1 column 1",
            ),
            (
                format!("{case}call = \"\""),
                "c.toml, line 3: `` is not a call: write <kind> or <kind>:<action>",
            ),
            (
                format!("{case}call = \"fsEvent\"\nreply = 'null'"),
                "c.toml, case `a`: the manifest does not serve fsEvent, only ticket",
            ),
            (
                format!("{case}call = \"ticket\""),
                "c.toml, case `a`: it comes to a `reply` or to an `error`; write one of them",
            ),
            (
                format!("{case}call = \"ticket\"\nreply = '1'\n[[case.fake]]\ncall = \"x\""),
                "c.toml, case `a`: the fake for x answers a `reply` or an `error`; write one of them",
            ),
            (
                format!("{case}call = \"ticket\"\nerror = {{ kind = \"bad\" }}"),
                "c.toml, line 4: unknown variant `bad`, expected one of `not-found`, `denied`, `invalid`, `limit`, `timeout`, \
                 `cancelled`, `trapped`, `unavailable`, `indeterminate`, `internal`, `other`",
            ),
        ] {
            assert_eq!(error(&text), expected);
        }
    }

    #[test]
    fn what_every_call_of_a_role_has_is_filled_in() {
        let given = Json::of(&json!({ "environment": "e", "settings": 1 })).unwrap();
        assert_eq!(
            filled(Role::Provider, &given).to::<Value>().unwrap(),
            json!({ "environment": "e", "settings": 1 })
        );
        let task: crate::plugin::execute::Task = filled(Role::Agent, &Text::default().0).to().unwrap();
        assert_eq!((task.prompt.as_str(), task.max_steps), ("Hello", 40));
        let notice: Result<crate::plugin::execute::Notice, _> = filled(Role::Observer, &Text::default().0).to();
        assert_eq!(notice.unwrap().kind, "test");
    }
}
