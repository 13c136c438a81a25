//! `waypost plugin doctor`: why a component does not fit, item by item, with the side that is older and what to do.

use std::fs;

use serde_json::{Value, json};
use waypost::plugin::contract::VERSION;

use crate::harness::component::Text;
use crate::harness::process::{run, shown};
use crate::harness::{Plugin, Project, guests};

/// A component in `a.wasm` with its manifest beside it.
fn put(project: &Project, bytes: &[u8], manifest: &str) {
    fs::write(project.root().join("a.wasm"), bytes).unwrap();
    fs::write(project.root().join("a.toml"), manifest).unwrap();
}

const HANDLER: &str = "id = \"a\"\nversion = \"1\"\nrole = \"handler\"\nserves = [\"a\"]\n";

/// What one finding is: problem, interface, item, older side.
type Item = (&'static str, &'static str, &'static str, &'static str);

fn cases() -> Vec<(&'static str, Vec<u8>, Vec<Item>)> {
    let echo = guests::bytes("echo");
    let imports = |text: &'static str| Text::handler().imports(text).bytes();
    vec![
        ("a guest", echo.clone(), vec![]),
        ("nothing", Vec::new(), vec![("no-webassembly", "", "", "")]),
        ("a text", b"hello".to_vec(), vec![("no-webassembly", "", "", "")]),
        (
            "a core module",
            b"\0asm\x01\0\0\0".to_vec(),
            vec![("module", "", "", "")],
        ),
        (
            "cut short",
            echo[..echo.len() - 1].to_vec(),
            vec![("broken", "", "", "")],
        ),
        (
            "an engine with more in it",
            Text::handler().items("(memory i64 1)").bytes(),
            vec![("feature", "", "", "")],
        ),
        (
            "another role",
            guests::bytes("watcher"),
            vec![("export", "waypost:plugin/handler", "", "")],
        ),
        (
            "a role of a contract that is newer",
            Text::handler().export("waypost:plugin/handler@0.2.0").bytes(),
            vec![("version", "waypost:plugin/handler", "", "hub")],
        ),
        (
            "a role of a contract that is older",
            Text::handler().export("waypost:plugin/handler@0.0.9").bytes(),
            vec![("version", "waypost:plugin/handler", "", "component")],
        ),
        (
            "a role without its function",
            Text::handler().with("(export \"handle\" (func $handle))", "").bytes(),
            vec![("function-missing", "waypost:plugin/handler", "handle", "component")],
        ),
        (
            "a role with another function",
            Text::handler().with("(field \"kind\" string) ", "").bytes(),
            vec![("function-changed", "waypost:plugin/handler", "handle", "")],
        ),
        (
            "the same from an older contract",
            Text::handler().export("waypost:plugin/handler@0.1.0-rc.1").bytes(),
            vec![("version", "waypost:plugin/handler", "", "component")],
        ),
        (
            "an import of nobody's",
            imports("(import \"acme:files/read@1.0.0\" (instance))"),
            vec![("unknown-import", "acme:files/read", "", "")],
        ),
        (
            "an import of a package that comes later",
            imports("(import \"waypost:clock/clock@0.1.0\" (instance))"),
            vec![("unknown-import", "waypost:clock/clock", "", "hub")],
        ),
        (
            "an interface that comes later",
            imports("(import \"waypost:log/traces@0.1.1\" (instance))"),
            vec![("interface", "waypost:log/traces", "", "hub")],
        ),
        (
            "a function that comes later",
            imports("(import \"waypost:log/log@0.1.1\" (instance (export \"flush\" (func))))"),
            vec![("function-missing", "waypost:log/log", "flush", "hub")],
        ),
        (
            "a resource that comes later",
            imports("(import \"waypost:log/log@0.1.1\" (instance (export \"span\" (type (sub resource)))))"),
            vec![("resource-missing", "waypost:log/log", "span", "hub")],
        ),
        (
            "a function that takes something else",
            imports("(import \"waypost:log/log@0.1.0\" (instance (export \"log\" (func (param \"level\" u8)))))"),
            vec![("function-changed", "waypost:log/log", "log", "")],
        ),
        (
            "the same with a newer number",
            imports("(import \"waypost:log/log@0.1.1\" (instance (export \"log\" (func (param \"level\" u8)))))"),
            vec![("function-changed", "waypost:log/log", "log", "hub")],
        ),
        (
            "an import that nobody asked for",
            imports("(import \"waypost:state/store@0.1.0\" (instance))"),
            vec![("grant", "waypost:state/store", "", "")],
        ),
        (
            "WASI of another time",
            imports("(import \"wasi:cli/environment@0.3.0\" (instance))"),
            vec![("version", "wasi:cli/environment", "", "hub")],
        ),
        (
            "two things at once",
            imports(
                "(import \"acme:files/read@1.0.0\" (instance))
                 (import \"waypost:log/log@0.1.1\" (instance (export \"flush\" (func))))",
            ),
            vec![
                ("unknown-import", "acme:files/read", "", ""),
                ("function-missing", "waypost:log/log", "flush", "hub"),
            ],
        ),
    ]
}

pub(super) async fn items() {
    let project = Project::new().written();
    let mut wrong = Vec::new();
    for (name, bytes, expected) in cases() {
        put(&project, &bytes, HANDLER);
        let ended = run(project.root(), &["plugin", "doctor", "a.wasm", "--json"]).await;
        let report = ended.json();
        let text = |finding: &Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
        let findings = report["findings"].as_array().unwrap();
        let found: Vec<_> = findings
            .iter()
            .map(|finding| {
                let (package, interface) = (text(finding, "package"), text(finding, "interface"));
                let interface = if interface.is_empty() {
                    package
                } else {
                    format!("{package}/{interface}")
                };
                let all = (
                    text(finding, "problem"),
                    interface,
                    text(finding, "item"),
                    text(finding, "older"),
                );
                assert!(
                    !text(finding, "text").is_empty() && !text(finding, "remedy").is_empty(),
                    "{name}: {finding}"
                );
                all
            })
            .collect();
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(problem, interface, item, older)| {
                (
                    problem.to_owned(),
                    interface.to_owned(),
                    item.to_owned(),
                    older.to_owned(),
                )
            })
            .collect();
        let fits = expected.is_empty();
        let said = (
            ended.code,
            &report["fits"],
            &report["hub"]["contract"],
            ended.err.as_str(),
        );
        if found != expected || said != (i32::from(!fits), &json!(fits), &json!(VERSION), "") {
            wrong.push(format!(
                "{name}\n  expected {expected:?}\n  came     {found:?} {said:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

pub(super) async fn words() {
    let project = Project::new().written();
    let doctor = async || shown(project.root(), &["plugin", "doctor", "a.wasm"]).await;
    put(&project, &guests::bytes("echo"), HANDLER);
    assert_eq!(
        doctor().await,
        "[0]\na 1 (a.wasm) fits this hub, whose contract is 0.1.0\n"
    );
    let imports = "(import \"waypost:log/log@0.1.1\" (instance (export \"flush\" (func (param \"all\" bool)))))
                   (import \"waypost:state/store@0.1.0\" (instance (export \"get\" (func))))";
    put(&project, &Text::handler().imports(imports).bytes(), HANDLER);
    assert_eq!(
        doctor().await,
        "[1]
a 1 (a.wasm) does not fit this hub, whose contract is 0.1.0

function-missing: it calls the function `flush` of waypost:log/log, which this hub does not have
  plugin  flush: func(all: bool)
  older   the hub
  remedy  upgrade the hub, or build the component with the SDK 0.1.0 that this hub brings, which has waypost:log 0.1.0

function-changed: the function `get` of waypost:state/store takes or answers something else than this hub has there
  plugin  get: func()
  hub     get: func(key: string) -> result<option<string>, call-error>
  remedy  build the component with the SDK 0.1.0 that this hub brings, which has waypost:state 0.1.0

grant: it imports `waypost:state/store@0.1.0` without the grant `state`
  remedy  if it may, add `state = true` to [grants] of its manifest and to `grant` of its [[plugin]] entry in waypost.toml
"
    );
    // Where there is no component, that its manifest cannot be read is no news.
    put(&project, b"hello", "id = ");
    let text = doctor().await;
    assert!(text.contains("\nno-webassembly: it is not WebAssembly\n"), "{text}");
}

/// A file, a folder, a plugin by its id; one that the hub would not load, and one that is not there.
pub(super) async fn meant() {
    let later = Text::handler().imports("(import \"waypost:log/log@0.1.1\" (instance (export \"flush\" (func))))");
    let project = Project::new()
        .plugin(&Plugin::of("keeper").grants("state = true"))
        .plugin(&Plugin::of("keeper").named("lacking").asks("state = true"))
        .plugin(&Plugin::made_of("later", later.bytes()))
        .written();
    let root = project.root();
    fs::create_dir_all(root.join("one")).unwrap();
    fs::copy(root.join("plugins/keeper.wasm"), root.join("one/keeper.wasm")).unwrap();
    fs::copy(root.join("plugins/keeper.toml"), root.join("one/keeper.toml")).unwrap();
    for (what, code, says) in [
        ("keeper", 0, "keeper 1 (./plugins/keeper.wasm) fits this hub"),
        ("plugins/keeper.wasm", 0, "keeper 1 (plugins/keeper.wasm) fits this hub"),
        ("one", 0, "keeper 1 (one/keeper.wasm) fits this hub"),
        ("loop", 0, "(part of this binary) fits this hub"),
        (
            "lacking",
            1,
            "\ngrant: it imports `waypost:state/store@0.1.0` without the grant `state`\n",
        ),
        ("later", 1, "\n  older   the hub\n"),
        ("plugins", 2, "error: "),
        ("nowhere.wasm", 1, "error: "),
        (
            "nobody",
            1,
            "error: `nobody` is neither a file nor a folder nor a plugin of this project; there are: ",
        ),
    ] {
        let text = shown(root, &["plugin", "doctor", what]).await;
        assert!(
            text.starts_with(&format!("[{code}]\n")) && text.contains(says),
            "{what}: {text}"
        );
    }
    // Whoever inspects it is told the same in one sentence.
    let inspected = shown(root, &["plugin", "inspect", "plugins/later.wasm"]).await;
    let why = "plugin `later` does not fit the contract of this hub (0.1.0): it calls the function `flush` of waypost:log/log, which \
               this hub does not have, and the hub is older; upgrade the hub";
    assert!(inspected.starts_with("[1]\n") && inspected.contains(why), "{inspected}");
}
