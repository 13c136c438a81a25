//! Handlers in other languages than Rust: built from their source by their own tools, loaded, called.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};
use waypost::call::{Dispatch, Sink};

use crate::harness::outside::{COMPONENTIZE_PY, JCO};
use crate::harness::{Plugin, Project, guests};

/// How long the largest guest may take to be compiled.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn trials() -> Vec<Trial> {
    vec![
        JCO.trial(
            "languages::a_handler_in_javascript_answers_emits_and_fails_like_any_other",
            |jco| {
                let arguments = [
                    "--backend",
                    "qjs",
                    "--backend-qjs-stub-wasi",
                    "--backend-qjs-disable-async",
                ];
                shout("JavaScript", |folder, component| {
                    let mut command = Command::new(jco);
                    command
                        .args(["componentize", "shout.js", "--wit", "wit", "--world-name", "shout"])
                        .args(arguments);
                    command.current_dir(folder).arg("--out").arg(component);
                    command
                })
            },
        ),
        COMPONENTIZE_PY.trial(
            "languages::a_handler_in_python_answers_emits_and_fails_like_any_other",
            |componentize| {
                shout("Python", |folder, component| {
                    let mut command = Command::new(componentize);
                    command.args([
                        "--wit-path",
                        "wit",
                        "--world",
                        "shout",
                        "componentize",
                        "shout",
                        "--stub-wasi",
                    ]);
                    command.current_dir(folder).arg("--output").arg(component);
                    command
                })
            },
        ),
    ]
}

/// Builds a guest with the command for its language, and asks it as any caller would.
fn shout(language: &str, build: impl FnOnce(&Path, &Path) -> Command) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    sources(folder.path())?;
    let component = folder.path().join("shout.wasm");
    let built = build(folder.path(), &component).output()?;
    if !built.status.success() {
        let text = [built.stdout, built.stderr].concat();
        return Err(format!("{language} does not build: {}", String::from_utf8_lossy(&text)).into());
    }
    let bytes = std::fs::read(&component)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let asked = async { tokio::time::timeout(PATIENCE, ask(language, bytes)).await };
    runtime.block_on(asked).map_err(|_| Failed::from("it did not end"))
}

async fn ask(language: &str, bytes: Vec<u8>) {
    let open = Project::new().plugin(&Plugin::made_of("shout", bytes)).open().await;
    let (sink, mut chunks) = Sink::channel();
    let call = open.prepared("shout", json!({ "text": "hello" })).await;
    let reply = open.hub.dispatcher.dispatch(call, sink).await.result.unwrap();
    assert_eq!(reply.to::<Value>().unwrap(), json!({ "text": "HELLO", "by": language }));
    assert_eq!(
        chunks.recv().await.unwrap().to::<Value>().unwrap(),
        json!({ "letters": 5 })
    );
    assert!(chunks.recv().await.is_none());

    assert_eq!(
        open.error("shout", json!({})).await,
        "invalid: `text` is missing; it is a string"
    );
    // A guest that breaks ends its own call alone.
    let error = open.error("shout", json!(null)).await;
    assert!(error.starts_with("trapped: plugin `shout` trapped: "), "{error}");
    assert_eq!(open.reply("shout", json!({ "text": "again" })).await["text"], "AGAIN");
    let lines = serde_json::to_value(open.hub.plugin_log.lines("shout")).unwrap();
    let said = lines
        .as_array()
        .unwrap()
        .iter()
        .filter(|line| line["text"] == "default shouts");
    assert_eq!(said.count(), 2, "{lines}");
}

/// The guests' sources, their world and the contract, laid out as the tools want them.
fn sources(folder: &Path) -> std::io::Result<()> {
    let languages = guests::root().join("tests/guests/languages");
    for name in ["shout.js", "shout.py"] {
        std::fs::copy(languages.join(name), folder.join(name))?;
    }
    let wit = folder.join("wit");
    for package in [
        "call",
        "gateway",
        "state",
        "log",
        "workspace",
        "http",
        "files",
        "plugin",
    ] {
        let into: PathBuf = wit.join("deps").join(package);
        std::fs::create_dir_all(&into)?;
        let file = format!("{package}.wit");
        std::fs::copy(guests::root().join("wit").join(package).join(&file), into.join(&file))?;
    }
    std::fs::copy(languages.join("shout.wit"), wit.join("shout.wit")).map(drop)
}
