//! `.codebolt/proxyExecution.json`: local or proxy for each capability, where `waypost.toml` is silent.
//!
//! Several shapes of the file are in use, none of them specified, and all of them are read, also mixed: a map of keys
//! (at the top or under `rules`), objects with a `mode`, actions nested below their kind, a list of entries, and the
//! switch `enabled`. The first key that is there decides: `kind:action`, `kind:*`, `kind`, `*`, `default`. Case makes no
//! difference. What cannot be understood is taken as `local`, with a warning; only a text that is no JSON is an error.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;

use super::Decision;
use super::fields::Fields;
use super::names::{Spelling, wire_kind};
use crate::call::{CallName, Target};
use crate::config::{Lines, Problem};

/// The name of the file, as rules and problems show it.
pub const FILE: &str = "proxyExecution.json";
/// The folder of the file, in the project folder.
pub const FOLDER: &str = ".codebolt";
/// How many warnings of one file are reported.
pub const WARNINGS: usize = 50;

/// The life of an agent's own process: nothing that another could execute.
const NEVER_PROXIED: [&str; 4] = [
    "processStarted",
    "processStoped",
    "processFinished",
    "remoteProviderEvent",
];
/// The names of the field that says `local` or `proxy`.
const MODE: [&str; 4] = ["mode", "proxyType", "target", "execution"];

/// The file, ready to decide. It costs the same however long it is.
#[derive(Clone, Debug, Default)]
pub struct ProxyExecution {
    /// `enabled: false`: everything is local.
    off: Option<Arc<Decision>>,
    kinds: HashMap<Spelling<'static>, Kind>,
    /// `*`
    any: Option<Arc<Decision>>,
    default: Option<Arc<Decision>>,
}

#[derive(Clone, Debug, Default)]
struct Kind {
    actions: HashMap<Spelling<'static>, Arc<Decision>>,
    /// `kind:*`
    every: Option<Arc<Decision>>,
    /// `kind`
    own: Option<Arc<Decision>>,
}

/// A key that could decide about a call, and what it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Considered {
    /// The key, in the wire's spelling.
    pub key: String,
    /// What it says; none when the file has no such key.
    pub to: Option<Target>,
}

impl ProxyExecution {
    /// Reads the file and warns of what it takes as `local`. The error names the line and the column.
    pub fn parse(text: &str) -> Result<(Self, Vec<Problem>), Problem> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let root: &RawValue = serde_json::from_str(text).map_err(|error| {
            let reason = error.to_string();
            let reason = reason.split(" at line ").next().unwrap_or_default();
            Problem {
                line: error.line().max(1),
                message: format!("column {}: {reason}", error.column()),
            }
        })?;
        let mut reader = Reader {
            text,
            lines: Lines::of(text),
            read: Self::default(),
            warnings: Vec::new(),
        };
        match root.get().as_bytes().first() {
            Some(b'{') => reader.top(root),
            Some(b'[') => reader.list(root),
            _ => {
                let message = "the file must hold an object, as in {\"rules\": {\"inference\": \"proxy\"}}".to_owned();
                return Err(Problem {
                    line: reader.line(root),
                    message,
                });
            }
        }
        reader.warnings.sort_by_key(|warning| warning.line);
        Ok((reader.read, reader.warnings))
    }

    /// What the file says about a call; none when it says nothing.
    pub(super) fn decide(&self, name: &CallName) -> Option<Arc<Decision>> {
        if NEVER_PROXIED.contains(&&*name.kind) {
            return None;
        }
        let of_kind = || {
            let kind = self.kinds.get(&Spelling::of(&name.kind))?;
            let action = name
                .action
                .as_deref()
                .and_then(|action| kind.actions.get(&Spelling::of(action)));
            action.or(kind.every.as_ref()).or(kind.own.as_ref()).cloned()
        };
        let otherwise = || self.any.as_ref().or(self.default.as_ref()).cloned();
        self.off.clone().or_else(of_kind).or_else(otherwise)
    }

    /// The keys that could decide about a call, in the order in which they are asked.
    pub(super) fn consider(&self, name: &CallName) -> Vec<Considered> {
        let said = |key: String, decision: Option<&Arc<Decision>>| Considered {
            key,
            to: decision.and_then(|decision| decision.attempts.first().cloned()),
        };
        if NEVER_PROXIED.contains(&&*name.kind) {
            return Vec::new();
        }
        if self.off.is_some() {
            return vec![said("enabled".to_owned(), self.off.as_ref())];
        }
        let kind = self.kinds.get(&Spelling::of(&name.kind));
        let mut considered = Vec::new();
        if let Some(action) = &name.action {
            considered.push(said(
                name.to_string(),
                kind.and_then(|kind| kind.actions.get(&Spelling::of(action))),
            ));
        }
        considered.push(said(
            format!("{}:*", name.kind),
            kind.and_then(|kind| kind.every.as_ref()),
        ));
        considered.push(said(name.kind.to_string(), kind.and_then(|kind| kind.own.as_ref())));
        considered.push(said("*".to_owned(), self.any.as_ref()));
        considered.push(said("default".to_owned(), self.default.as_ref()));
        considered
    }

    /// Puts a decision in its place and returns what was there.
    fn put(&mut self, kind: &str, action: Option<&str>, decision: Arc<Decision>) -> Option<Arc<Decision>> {
        if kind == "*" {
            return self.any.replace(decision);
        }
        let entry = self.kinds.entry(Spelling::owned(kind)).or_default();
        match action {
            None => entry.own.replace(decision),
            Some("*") => entry.every.replace(decision),
            Some(action) => entry.actions.insert(Spelling::owned(action), decision),
        }
    }
}

fn decision(key: &str, to: Target) -> Arc<Decision> {
    Arc::new(Decision {
        attempts: vec![to],
        timeout: None,
        effect: None,
        open: false,
        shadow: None,
        rule: format!("{FILE}: {key}").into(),
    })
}

/// Reads the shapes; each writes into the same place.
struct Reader<'a> {
    text: &'a str,
    lines: Lines,
    read: ProxyExecution,
    warnings: Vec<Problem>,
}

impl<'a> Reader<'a> {
    fn line(&self, value: &RawValue) -> usize {
        // The value is a part of the text, so its address tells where it stands.
        let offset = (value.get().as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        self.lines.at(offset)
    }

    fn warn(&mut self, value: &RawValue, message: String) {
        if self.warnings.len() < WARNINGS {
            let line = self.line(value);
            self.warnings.push(Problem { line, message });
        }
    }

    fn top(&mut self, root: &'a RawValue) {
        for (name, value) in Fields::of(root.get()).iter() {
            match name {
                "version" => {}
                name if name.starts_with('$') => {}
                "enabled" => self.enabled(value),
                "default" => {
                    let to = self.mode("default", value);
                    self.read.default = Some(decision("default", to));
                }
                "rules" if value.get().starts_with('[') => self.list(value),
                "rules" if value.get().starts_with('{') => {
                    for (key, value) in Fields::of(value.get()).iter() {
                        self.key(key, value);
                    }
                }
                "rules" => self.warn(
                    value,
                    "`rules` is neither an object nor a list; it is left out".to_owned(),
                ),
                key => self.key(key, value),
            }
        }
    }

    fn enabled(&mut self, value: &RawValue) {
        match value.get() {
            "true" => self.read.off = None,
            "false" => self.read.off = Some(decision("enabled", Target::Local)),
            _ => self.warn(value, "`enabled` is neither true nor false; it is left out".to_owned()),
        }
    }

    /// `kind`, `kind:action`, `kind:*` or `*` with what is said about it.
    fn key(&mut self, key: &str, value: &'a RawValue) {
        match key.split_once(':') {
            Some((kind, action)) => {
                let to = self.mode(key, value);
                self.put(kind, Some(action), to, value);
            }
            None if value.get().starts_with('{') => self.nested(key, value),
            None => {
                let to = self.mode(key, value);
                self.put(key, None, to, value);
            }
        }
    }

    /// A kind whose object holds its own mode, its actions, or both.
    fn nested(&mut self, kind: &str, object: &'a RawValue) {
        let fields = Fields::of(object.get());
        if fields.iter().next().is_none() {
            self.warn(object, format!("`{}` says nothing; it is left out", short(kind)));
        }
        for (name, value) in fields.iter() {
            if name.eq_ignore_ascii_case("default") || is_mode(name) {
                let to = self.mode(kind, value);
                self.put(kind, None, to, value);
            } else {
                let to = self.mode(&format!("{kind}:{name}"), value);
                self.put(kind, Some(name), to, value);
            }
        }
    }

    /// Entries with `type`, `action` and a mode.
    fn list(&mut self, list: &'a RawValue) {
        for entry in serde_json::from_str::<Vec<&RawValue>>(list.get()).unwrap_or_default() {
            let fields = Fields::of(entry.get());
            let text = |wanted: &str| {
                let (_, value) = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted))?;
                serde_json::from_str::<String>(value.get()).ok()
            };
            let Some(kind) = text("type") else {
                self.warn(entry, "this entry has no `type`; it is left out".to_owned());
                continue;
            };
            let action = text("action");
            let (kind, action) = match (kind.split_once(':'), &action) {
                (Some((kind, action)), None) => (kind, Some(action)),
                _ => (kind.as_str(), action.as_deref()),
            };
            let to = self.mode(kind, entry);
            self.put(kind, action, to, entry);
        }
    }

    /// What a value says: a text, or an object with the text in one of several fields.
    fn mode(&mut self, key: &str, value: &'a RawValue) -> Target {
        let fields = Fields::of(value.get());
        let value = fields
            .iter()
            .find(|(name, _)| is_mode(name))
            .map_or(value, |(_, mode)| mode);
        let text: Option<String> = serde_json::from_str(value.get()).ok();
        match text.as_deref().map(str::trim).map(str::to_ascii_lowercase).as_deref() {
            Some("local") => Target::Local,
            Some("proxy") => Target::Proxy,
            Some("proxy-only") => Target::ProxyOnly,
            _ => {
                let (key, written) = (short(key), short(value.get()));
                self.warn(
                    value,
                    format!("`{key}` is {written}, which is neither local nor proxy; it is taken as local"),
                );
                Target::Local
            }
        }
    }

    fn put(&mut self, kind: &str, action: Option<&str>, to: Target, value: &RawValue) {
        let (kind, action) = (wire_kind(kind.trim()), action.map(str::trim));
        if kind.is_empty() || action == Some("") || (kind == "*" && action.is_some_and(|action| action != "*")) {
            let message = "this key is not a call; write <kind>, <kind>:*, <kind>:<action> or *; it is left out";
            return self.warn(value, message.to_owned());
        }
        let key = match action {
            Some(action) if kind != "*" => format!("{kind}:{action}"),
            _ => kind.to_owned(),
        };
        let decided = decision(&key, to);
        let before = self.read.put(kind, action, Arc::clone(&decided));
        if before.is_some_and(|before| before.attempts != decided.attempts) {
            self.warn(
                value,
                format!("`{}` stands above with another value; this one counts", short(&key)),
            );
        }
    }
}

fn is_mode(name: &str) -> bool {
    MODE.iter().any(|mode| mode.eq_ignore_ascii_case(name))
}

/// A text of the file as a warning shows it.
fn short(text: &str) -> String {
    let mut shown: String = text.chars().take(40).flat_map(char::escape_debug).collect();
    if text.chars().nth(40).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::select;
    use serde_json::{Map, Value, json};
    use std::collections::BTreeMap;

    fn decided(file: &str, name: &str) -> String {
        let (file, _) = ProxyExecution::parse(file).unwrap();
        file.decide(&name.parse().unwrap())
            .map_or("silent".to_owned(), |decision| {
                format!(
                    "{} {}",
                    decision.attempts[0],
                    decision.rule.trim_start_matches("proxyExecution.json: ")
                )
            })
    }

    #[test]
    fn keys_are_asked_in_order() {
        let all = json!({
            "fsEvent:readFile": "local", "fsEvent:*": "proxy", "fsEvent": "local", "*": "proxy", "default": "local",
            "gitEvent": "local",
        });
        let without = |keys: &[&str]| {
            let mut file = all.clone();
            keys.iter()
                .for_each(|key| drop(file.as_object_mut().unwrap().remove(*key)));
            decided(&file.to_string(), "fsEvent:readFile")
        };
        assert_eq!(without(&[]), "local fsEvent:readFile");
        assert_eq!(without(&["fsEvent:readFile"]), "proxy fsEvent:*");
        assert_eq!(without(&["fsEvent:readFile", "fsEvent:*"]), "local fsEvent");
        assert_eq!(without(&["fsEvent:readFile", "fsEvent:*", "fsEvent"]), "proxy *");
        assert_eq!(
            without(&["fsEvent:readFile", "fsEvent:*", "fsEvent", "*"]),
            "local default"
        );
        assert_eq!(decided("{}", "fsEvent:readFile"), "silent");
        assert_eq!(decided(&all.to_string(), "gitEvent:Push"), "local gitEvent");
        assert_eq!(decided(&all.to_string(), "inference"), "proxy *");
    }

    #[test]
    fn spelling_makes_no_difference() {
        for (key, name) in [
            ("FSEvent:*", "fsEvent:readFile"),
            ("fsevent:READFILE", "fsEvent:readFile"),
            ("Inference", "inference"),
            ("CodeBoltTools", "codebolttools:getTools"),
            ("BrowserEvent:screenshot", "browserEvent:screenShot"),
            ("ExecuteCommand", "executeCommand"),
            ("acme.Tool", "Acme.tool:run"),
        ] {
            let file = json!({ key: " Proxy " }).to_string();
            assert!(decided(&file, name).starts_with("proxy "), "{key} {name}");
        }
        assert!(decided(r#"{"ProcessStopped": "proxy"}"#, "processStoped").starts_with("silent"));
        assert_eq!(
            decided(r#"{"inference": "proxy-only"}"#, "inference"),
            "proxy-only inference"
        );
    }

    #[test]
    fn the_life_of_an_agent_is_never_proxied() {
        for kind in NEVER_PROXIED {
            assert_eq!(decided(r#"{"*": "proxy", "default": "proxy"}"#, kind), "silent");
        }
    }

    #[test]
    fn shapes_mix_and_the_later_value_counts() {
        let file = "\u{feff}{
            \"$schema\": \"x\", \"version\": 1, \"default\": {\"mode\": \"proxy\"},
            \"rules\": [{\"type\": \"fsEvent\", \"action\": \"*\", \"proxyType\": \"proxy\"}, {\"type\": \"gitEvent:Push\", \"execution\": \"local\"}],
            \"inference\": {\"target\": \"local\"},
            \"browserEvent\": {\"mode\": \"local\", \"click\": {\"mode\": \"proxy\"}}
        }";
        assert_eq!(decided(file, "fsEvent:readFile"), "proxy fsEvent:*");
        assert_eq!(decided(file, "gitEvent:Push"), "local gitEvent:Push");
        assert_eq!(decided(file, "gitEvent:Pull"), "proxy default");
        assert_eq!(decided(file, "inference"), "local inference");
        assert_eq!(decided(file, "browserEvent:click"), "proxy browserEvent:click");
        assert_eq!(decided(file, "browserEvent:type"), "local browserEvent");
        let (_, warnings) = ProxyExecution::parse("{\"inference\": \"local\",\n\"Inference\": \"proxy\"}").unwrap();
        assert_eq!(
            warnings.iter().map(Problem::to_string).collect::<Vec<_>>(),
            ["line 2: `inference` stands above with another value; this one counts"]
        );
    }

    #[test]
    fn what_is_not_understood_is_local_with_a_warning() {
        let file = r#"{
"enabled": "no",
"inference": "remote\u001b",
"fsEvent:": "proxy",
"*:readFile": "proxy",
"gitEvent": {},
"chat": true,
"browserEvent": {"click": {"timeout": 3}},
"rules": [
  {"action": "x", "mode": "proxy"},
  {"type": "taskEvent"},
  7
]
}"#;
        let (read, warnings) = ProxyExecution::parse(file).unwrap();
        let warnings: Vec<String> = warnings.iter().map(Problem::to_string).collect();
        assert_eq!(
            warnings.join("\n"),
            r#"line 2: `enabled` is neither true nor false; it is left out
line 3: `inference` is \"remote\\u001b\", which is neither local nor proxy; it is taken as local
line 4: this key is not a call; write <kind>, <kind>:*, <kind>:<action> or *; it is left out
line 5: this key is not a call; write <kind>, <kind>:*, <kind>:<action> or *; it is left out
line 6: `gitEvent` says nothing; it is left out
line 7: `chat` is true, which is neither local nor proxy; it is taken as local
line 8: `browserEvent:click` is {\"timeout\": 3}, which is neither local nor proxy; it is taken as local
line 10: this entry has no `type`; it is left out
line 11: `taskEvent` is {\"type\": \"taskEvent\"}, which is neither local nor proxy; it is taken as local
line 12: this entry has no `type`; it is left out"#
        );
        assert_eq!(
            read.decide(&CallName::new("inference", None)).unwrap().attempts,
            [Target::Local]
        );
        assert_eq!(
            ProxyExecution::parse(&format!("[{}7]", "7,".repeat(99)))
                .unwrap()
                .1
                .len(),
            WARNINGS
        );
    }

    #[test]
    fn what_is_no_json_is_an_error_with_its_place() {
        let error = |text: &str| ProxyExecution::parse(text).map(drop).unwrap_err().to_string();
        assert_eq!(
            error("{\n  \"inference\": proxy\n}"),
            "line 2: column 16: expected value"
        );
        assert_eq!(error(""), "line 1: column 0: EOF while parsing a value");
        assert_eq!(
            error("\n3"),
            "line 2: the file must hold an object, as in {\"rules\": {\"inference\": \"proxy\"}}"
        );
    }

    /// Keys and values; kinds and actions that no shape gives another meaning.
    fn keys() -> impl Strategy<Value = BTreeMap<&'static str, &'static str>> {
        let keys = vec![
            "*",
            "a",
            "a:*",
            "a:x",
            "a:y",
            "fsEvent",
            "fsEvent:*",
            "fsEvent:readFile",
            "b:x",
            "default",
        ];
        proptest::collection::btree_map(select(keys), select(vec!["local", "proxy"]), 0..8)
    }

    fn file(entries: impl Iterator<Item = (String, Value)>) -> Map<String, Value> {
        entries.collect()
    }

    /// The same keys in every shape.
    fn shapes(keys: &BTreeMap<&'static str, &'static str>) -> Vec<Value> {
        let plain = file(keys.iter().map(|(key, to)| ((*key).to_owned(), json!(to))));
        let rules = || keys.iter().filter(|(key, _)| **key != "default");
        let with_default = |rules: Value| {
            let mut shape = json!({"version": 1, "enabled": true, "rules": rules});
            if let Some(default) = keys.get("default") {
                shape["default"] = json!(default);
            }
            shape
        };
        let map = file(rules().map(|(key, to)| ((*key).to_owned(), json!(to))));
        let objects = ["mode", "proxyType", "target", "execution"].iter().cycle();
        let objects = file(
            rules()
                .zip(objects)
                .map(|((key, to), mode)| ((*key).to_owned(), json!({*mode: to}))),
        );
        let mut nested = Map::new();
        for (key, to) in keys {
            match key.split_once(':') {
                Some((kind, action)) => nested.entry(kind).or_insert_with(|| json!({}))[action] = json!(to),
                None if ["*", "default"].contains(key) => drop(nested.insert((*key).to_owned(), json!(to))),
                None => nested.entry(*key).or_insert_with(|| json!({}))["default"] = json!(to),
            }
        }
        let list: Vec<Value> = rules()
            .map(|(key, to)| match key.split_once(':') {
                Some((kind, action)) => json!({"type": kind, "action": action, "mode": to}),
                None => json!({"type": key, "mode": to}),
            })
            .collect();
        vec![
            Value::Object(plain),
            with_default(Value::Object(map)),
            with_default(Value::Object(objects)),
            Value::Object(nested),
            with_default(Value::Array(list)),
        ]
    }

    proptest! {
        #[test]
        fn every_shape_says_the_same(keys in keys()) {
            let names = ["a", "a:x", "a:z", "A:Y", "fsEvent:readFile", "FSEvent:readfile", "fsEvent:other", "b:x", "b", "c:x"];
            let mut shapes = shapes(&keys).into_iter();
            let first = shapes.next().unwrap();
            for mut shape in shapes {
                prop_assert_eq!(ProxyExecution::parse(&shape.to_string()).unwrap().1, []);
                for name in names {
                    let here = decided(&shape.to_string(), name);
                    prop_assert_eq!(&here, &decided(&first.to_string(), name), "{} in {}", name, shape);
                    // What is explained is what decides.
                    let (read, _) = ProxyExecution::parse(&shape.to_string()).unwrap();
                    let considered = read.consider(&name.parse().unwrap()).into_iter().find_map(|key| key.to);
                    prop_assert_eq!(considered.map_or("silent".to_owned(), |to| to.to_string()), here.split(' ').next().unwrap());
                }
                shape["enabled"] = json!(false);
                prop_assert_eq!(decided(&shape.to_string(), "a:x"), "local enabled");
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in "([\\[\\]{}\",:a*]|\"(rules|type|mode|default|enabled|\\\\ud800)\"|true|null| |\n){0,30}") {
            let _ = ProxyExecution::parse(&text);
        }
    }
}
