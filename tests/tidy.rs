//! What holds for the repository as a whole: small files, no guest without a trial, a schema for each built-in call,
//! documents that name what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use waypost::call::Effect;
use waypost::capabilities::{chat, fs as files, inference, narrative, terminal};
use waypost::plugin::contract::VERSION;

use crate::harness::guests::root;
use crate::listed;

listed![
    no_file_is_longer_than_600_lines,
    every_guest_is_built_and_used,
    every_package_of_the_contract_has_its_import,
    every_built_in_call_has_a_schema_and_every_schema_a_call,
    documents_name_files_that_exist,
];

/// The files of these folders with these endings.
fn sources(folders: &[&str], endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !["target", "node_modules"].contains(&&*name) && !name.starts_with('.') {
                    open.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no {endings:?} in {folders:?}");
    found
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(root().join(&path)).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}

async fn no_file_is_longer_than_600_lines() {
    let endings = [".rs", ".wit", ".js", ".mjs", ".ts", ".py", ".md"];
    let long: Vec<String> = sources(&["host", "sdk", "plugins", "tests", "wit"], &endings)
        .into_iter()
        // Written from the contract, and read by looking things up.
        .filter(|path| !path.ends_with("sdk/reference.md"))
        .map(|path| (read(&path).lines().count(), path))
        .filter(|(lines, _)| *lines > 600)
        .map(|(lines, path)| format!("{} has {lines} lines; split it by noun", path.display()))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

async fn every_guest_is_built_and_used() {
    let manifest: toml::Table = read("tests/guests/Cargo.toml").parse().unwrap();
    let built: BTreeSet<String> = manifest["example"]
        .as_array()
        .unwrap()
        .iter()
        .map(|example| example["name"].as_str().unwrap().to_owned())
        .collect();
    let written: BTreeSet<String> = sources(&["tests/guests/examples"], &[".rs"])
        .iter()
        .map(|path| stem(path))
        .collect();
    assert_eq!(built, written, "each guest is a file and an [[example]]");
    let trials = sources(&["tests"], &[".rs"])
        .into_iter()
        .filter(|path| !path.starts_with(root().join("tests/guests")));
    let trials: String = trials.map(read).collect();
    let unused: Vec<&String> = built
        .iter()
        .filter(|guest| !trials.contains(&format!("\"{guest}\"")))
        .collect();
    assert!(unused.is_empty(), "no trial names {unused:?}");
}

async fn every_package_of_the_contract_has_its_import() {
    let packages: BTreeSet<String> = sources(&["wit"], &[".wit"]).iter().map(|path| stem(path)).collect();
    // What stands in a folder of its own belongs to the file of that name.
    let imports: BTreeSet<String> = sources(&["host/src/imports"], &[".rs"])
        .iter()
        .filter(|path| path.parent() == Some(&*root().join("host/src/imports")))
        .map(|path| stem(path))
        .collect();
    // `call` is words alone, and `plugin` is what a plugin exports.
    let imported: BTreeSet<String> = packages
        .iter()
        .filter(|package| !["call", "plugin"].contains(&&***package))
        .cloned()
        .collect();
    let ours: BTreeSet<String> = imports
        .into_iter()
        .filter(|import| !["errors", "wasi"].contains(&&**import))
        .collect();
    assert_eq!(ours, imported);
    for package in packages {
        let text = read(format!("wit/{package}/{package}.wit"));
        assert!(
            text.contains(&format!("\npackage waypost:{package}@{VERSION};")),
            "wit/{package} has another package line"
        );
    }
}

async fn every_built_in_call_has_a_schema_and_every_schema_a_call() {
    let mut calls: BTreeMap<String, Effect> = BTreeMap::new();
    for (kind, actions) in [(files::KIND, files::ACTIONS), (narrative::KIND, narrative::ACTIONS)] {
        for (action, effect) in actions {
            calls.insert(format!("{kind}.{action}"), *effect);
        }
    }
    for (kind, actions) in terminal::KINDS.iter().chain(chat::KINDS).chain(inference::KINDS) {
        calls.insert((*kind).to_owned(), actions[0].1);
    }
    let schemas: BTreeMap<String, Value> = sources(&["wit/kinds"], &[".json"])
        .iter()
        .map(|path| (stem(path), serde_json::from_str(&read(path)).unwrap()))
        .collect();
    let names = |names: Vec<&String>| names.into_iter().cloned().collect::<Vec<String>>();
    assert_eq!(names(schemas.keys().collect()), names(calls.keys().collect()));
    for (name, schema) in &schemas {
        let effect = serde_json::to_value(calls[name]).unwrap();
        assert_eq!(schema["effect"], effect, "the effect class of {name}");
        for part in ["message", "reply", "chunk"] {
            match schema.get(part) {
                Some(part_schema) => {
                    if let Err(error) = jsonschema::draft202012::new(part_schema) {
                        panic!("{part} of {name}: {error}");
                    }
                }
                None => assert_eq!(part, "chunk", "{name} has no {part}"),
            }
        }
        assert!(
            ["title", "description"].iter().all(|field| schema[field].is_string()),
            "{name} is not described"
        );
    }
}

async fn documents_name_files_that_exist() {
    let mut documents = vec![root().join("README.md"), root().join("ARCHITECTURE.md")];
    documents.extend(sources(&["plugins"], &["README.md"]));
    let mut missing = Vec::new();
    for document in documents {
        let text = read(&document);
        for name in text.split('`').skip(1).step_by(2).filter(|name| names_a_file(name)) {
            let below = ["", "host/src", "plugins", "sdk"].map(|folder| root().join(folder).join(name));
            let beside = document.parent().unwrap().join(name);
            if !below.iter().chain([&beside]).any(|path| path.exists()) {
                missing.push(format!("{} names `{name}`", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// Whether a word in a document is meant as a path of this repository.
fn names_a_file(word: &str) -> bool {
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "._/-".contains(c));
    let path = word.contains('/')
        || [".rs", ".toml", ".md", ".json", ".wit"]
            .iter()
            .any(|ending| word.ends_with(ending));
    // What stands in an operator's project, on the wire, or comes into being later.
    let elsewhere = word.starts_with('.') || word.starts_with('/') || word.starts_with("target/");
    let operators = ["waypost.toml", "manifest.toml"].contains(&word);
    plain && path && !elsewhere && !operators
}
