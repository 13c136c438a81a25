use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::call::{CallName, Principal, PrincipalKind, Rights, Scope};

const KINDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../wit/kinds");

/// A workspace and the handler on it.
pub(super) struct House {
    folder: tempfile::TempDir,
    handler: Fs,
    scope: Arc<Scope>,
    runtime: tokio::runtime::Runtime,
}

impl House {
    pub(super) fn new(files: &[(&str, &str)]) -> Self {
        Self::with(Files::default(), files)
    }

    pub(super) fn with(limits: Files, files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let workspace = Arc::new(Workspace::open(folder.path()).unwrap());
        let scope = Arc::new(Scope {
            environment: None,
            labels: BTreeMap::new(),
            workspace,
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        Self {
            folder,
            handler: Fs::new(limits),
            scope,
            runtime,
        }
    }

    pub(super) fn root(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn call(&self, action: &str, message: &Value) -> Call {
        let principal = Principal {
            project: "p".into(),
            run: None,
            kind: PrincipalKind::Agent,
            id: "a".into(),
            rights: Rights::all(),
        };
        let name = CallName::new(KIND, Some(action));
        Call::new(
            name,
            message.clone().into(),
            Arc::new(principal),
            Arc::clone(&self.scope),
            Duration::from_secs(60),
        )
    }

    /// The reply, checked against the reply's schema.
    pub(super) fn ask(&self, action: &str, message: Value) -> Value {
        let reply = self
            .runtime
            .block_on(self.handler.handle(&self.call(action, &message), &Sink::discard()));
        let reply: Value = reply.unwrap().to().unwrap();
        check(&reply, &schema(action)["reply"], action);
        reply
    }

    /// The error's text.
    pub(super) fn refused(&self, action: &str, message: Value) -> String {
        let call = self.call(action, &message);
        self.runtime
            .block_on(self.handler.handle(&call, &Sink::discard()))
            .unwrap_err()
            .to_string()
    }

    pub(super) fn text(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap()
    }
}

fn schema(action: &str) -> Value {
    let text = fs::read_to_string(format!("{KINDS}/{KIND}.{action}.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Checks the fields of objects, which is what a schema here is about.
fn check(value: &Value, schema: &Value, place: &str) {
    match value {
        Value::Object(fields) => {
            let known = schema["properties"]
                .as_object()
                .unwrap_or_else(|| panic!("{place}: {schema}"));
            for (name, value) in fields {
                let field = known
                    .get(name)
                    .unwrap_or_else(|| panic!("{place}: {name} is not in the schema"));
                check(value, field, &format!("{place}.{name}"));
            }
            for name in schema["required"].as_array().unwrap() {
                assert!(
                    fields.contains_key(name.as_str().unwrap()),
                    "{place}: {name} is missing"
                );
            }
        }
        Value::Array(values) => values.iter().for_each(|value| check(value, &schema["items"], place)),
        _ => {
            let kind = match value {
                Value::String(_) => "string",
                Value::Bool(_) => "boolean",
                Value::Null => "null",
                _ => "integer",
            };
            let stated = schema
                .get("type")
                .is_none_or(|stated| stated.to_string().contains(kind));
            assert!(stated, "{place}: {value} is no {schema}");
        }
    }
}

#[test]
fn schemas_know_the_fields_and_effects_of_every_action() {
    let house = House::new(&[]);
    for (action, effect) in ACTIONS {
        let schema = schema(action);
        assert_eq!(schema["title"], format!("{KIND}:{action}"));
        assert_eq!(schema["effect"], serde_json::to_value(effect).unwrap());
        assert_eq!(schema["message"]["additionalProperties"], false);
        // The error of an unknown field names the known ones.
        let error = house.refused(action, json!({ "surprise": 1 }));
        let names: BTreeSet<&str> = error
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|name| *name != "surprise")
            .collect();
        let known: BTreeSet<&str> = schema["message"]["properties"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(names, known, "{action}");
        assert!(
            error.starts_with("invalid: the message does not fit: unknown field `surprise`, expected "),
            "{error}"
        );
        // And what is required is missed.
        for required in schema["message"]["required"].as_array().unwrap() {
            let mut message = json!({ "path": "a", "content": "", "regex": "a", "pattern": "a", "query": "a", "diff": "", "paths": ["a"], "from": "a", "to": "b" });
            message
                .as_object_mut()
                .unwrap()
                .retain(|name, _| known.contains(name.as_str()) && required != name.as_str());
            let error = house.refused(action, message);
            assert!(
                error.starts_with(&format!(
                    "invalid: the message does not fit: missing field `{}`",
                    required.as_str().unwrap()
                )),
                "{error}"
            );
        }
    }
}

#[test]
fn an_unknown_action_names_the_known_ones() {
    let house = House::new(&[]);
    assert_eq!(
        house.refused("chmod", json!({})),
        "not-found: fsEvent:chmod is not known; the actions of fsEvent are createFile, createFolder, readFile, updateFile, \
         deleteFile, deleteFolder, renameItem, fileList, listCodeDefinitionNames, searchFiles, writeToFile, grepSearch, fuzzySearch, \
         applyDiff, readManyFiles, listDirectory"
    );
}

#[test]
fn files_are_created_replaced_and_removed() {
    let house = House::new(&[]);
    let root = house.root().canonicalize().unwrap();
    let absolute = root.join("src/./a.txt");
    let created = house.ask("createFile", json!({ "path": absolute, "content": "one\n" }));
    assert_eq!(
        created,
        json!({ "path": "src/a.txt", "result": "created src/a.txt (4 bytes)", "bytesWritten": 4 })
    );
    // The same again is as good; another content is not.
    house.ask("createFile", json!({ "path": "src/a.txt", "content": "one\n" }));
    assert_eq!(
        house.refused("createFile", json!({ "path": "src//a.txt", "content": "two\n" })),
        "invalid: `src/a.txt` exists; use updateFile or writeToFile to replace it"
    );
    let updated = house.ask("updateFile", json!({ "path": "src/a.txt", "content": "two\n" }));
    assert_eq!(updated["result"], "updated src/a.txt (4 bytes)");
    assert_eq!(
        house.refused("updateFile", json!({ "path": "b", "content": "" })),
        "not-found: `b` does not exist; use createFile or writeToFile to make it"
    );
    let written = house.ask("writeToFile", json!({ "path": "src/a.txt", "content": "three\n" }));
    let diff = "--- a/src/a.txt\n+++ b/src/a.txt\n@@ -1 +1 @@\n-two\n+three\n";
    assert_eq!((&written["isNewFile"], &written["diff"]), (&json!(false), &json!(diff)));
    let written = house.ask("writeToFile", json!({ "path": "new/b", "content": "b" }));
    let diff = "--- /dev/null\n+++ b/new/b\n@@ -0,0 +1 @@\n+b\n\\ No newline at end of file\n";
    assert_eq!((&written["isNewFile"], &written["diff"]), (&json!(true), &json!(diff)));
    fs::write(root.join("bin"), b"\xff\0").unwrap();
    assert_eq!(
        house.ask("writeToFile", json!({ "path": "bin", "content": "text" }))["diff"],
        Value::Null
    );
    assert_eq!(
        house.ask("deleteFile", json!({ "path": "bin" })),
        json!({ "path": "bin", "result": "deleted bin" })
    );
    assert_eq!(
        house.refused("deleteFile", json!({ "path": "bin" })),
        "not-found: `bin` does not exist"
    );
    assert_eq!(
        house.refused("deleteFile", json!({ "path": "src" })),
        "invalid: `src` is a folder; use deleteFolder to remove it"
    );
    house.ask("deleteFolder", json!({ "path": "src/" }));
    assert!(!root.join("src").exists());
    assert_eq!(
        house.refused("deleteFolder", json!({ "path": "new/b" })),
        "invalid: `new/b` is not a folder"
    );
    assert_eq!(
        house.ask("createFolder", json!({ "path": "x/y" }))["result"],
        "created the folder x/y"
    );
    assert_eq!(
        house.ask("createFolder", json!({ "path": "x/y" }))["result"],
        "the folder x/y was there"
    );
    assert_eq!(
        house.refused("createFolder", json!({ "path": "new/b" })),
        "invalid: `new/b` exists and is not a folder"
    );
}

#[test]
fn every_action_refuses_what_is_outside_or_protected() {
    let house = House::new(&[(".codebolt/rules.json", "{}"), (".waypost/log", "log")]);
    symlink("/etc", house.root().join("out")).unwrap();
    for (action, effect) in ACTIONS
        .iter()
        .filter(|(action, _)| !["fuzzySearch", "readManyFiles"].contains(action))
    {
        let known = schema(action)["message"]["properties"].clone();
        let message = |path: &str| {
            let mut message = json!({ "path": path, "from": path, "to": "free", "content": "x", "regex": "x", "pattern": "x", "diff": "@@\n-a\n+b" });
            message
                .as_object_mut()
                .unwrap()
                .retain(|name, _| known.get(name).is_some());
            message
        };
        for path in ["../x", "/etc/passwd", "out/passwd", "out/nothing"] {
            let error = house.refused(action, message(path));
            assert_eq!(error, format!("denied: `{path}` is outside the workspace"), "{action}");
        }
        assert!(
            house
                .refused(action, message(".waypost/log"))
                .starts_with("denied: `.waypost/log` "),
            "{action}"
        );
        if *effect != Effect::Read {
            let error = house.refused(action, message(".codebolt/rules.json"));
            assert!(
                error.starts_with("denied: `.codebolt/rules.json` is protected: "),
                "{action}: {error}"
            );
        }
    }
    assert_eq!(house.text(".codebolt/rules.json"), "{}");
    assert_eq!(
        house.ask("readFile", json!({ "path": ".codebolt/rules.json" }))["content"],
        "{}"
    );
}

#[test]
fn what_is_moved_goes_to_a_free_name_and_takes_nothing_protected_along() {
    let house = House::new(&[("a", "1"), ("b", "2"), ("d/.git/config", ""), ("e/f", "3")]);
    let moved = house.ask("renameItem", json!({ "from": "a", "to": "e/g" }));
    assert_eq!(moved, json!({ "path": "e/g", "result": "moved a to e/g" }));
    house.ask("renameItem", json!({ "from": "e", "to": "h" }));
    assert_eq!((house.text("h/f"), house.text("h/g")), ("3".to_owned(), "1".to_owned()));
    for (from, to, error) in [
        (
            "b",
            "h/f",
            "invalid: `h/f` is there already; remove it first, or choose another name",
        ),
        ("b", "none/b", "not-found: `none` does not exist"),
        ("gone", "x", "not-found: `gone` does not exist"),
    ] {
        assert_eq!(house.refused("renameItem", json!({ "from": from, "to": to })), error);
    }
    for (from, to) in [("d", "x"), ("b", ".codebolt"), ("b", "waypost.toml")] {
        let error = house.refused("renameItem", json!({ "from": from, "to": to }));
        assert!(
            error.starts_with("denied: ") && error.contains("is protected"),
            "{error}"
        );
    }
    assert_eq!(house.text("b"), "2");
}

#[test]
fn a_cancelled_call_leaves_nothing_and_says_so() {
    let house = House::new(&[("a", "1")]);
    for (action, message) in [
        ("writeToFile", json!({ "path": "new/file", "content": "x" })),
        ("readFile", json!({ "path": "a" })),
        ("grepSearch", json!({ "pattern": "1" })),
        ("deleteFolder", json!({ "path": "." })),
    ] {
        let call = house.call(action, &message);
        call.cancel.cancel();
        let error = house
            .runtime
            .block_on(house.handler.handle(&call, &Sink::discard()))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cancelled: fsEvent:{action} was cancelled and stopped")
        );
    }
    assert_eq!(fs::read_dir(house.root()).unwrap().count(), 1);
}
