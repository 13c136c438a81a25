//! The author's side: from `waypost plugin new` to a plugin that a hub executes, with the real binary and the real tools.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::json;

use crate::harness::process::{Ended, Running, Serving, normal, run_with, shown};
use crate::harness::{Project, guests, trial, within_time};

mod doctor;
mod findings;
mod newcomer;

/// How long a project may take that is built for the first time.
const PATIENCE: Duration = Duration::from_secs(600);

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test("author::what_does_not_build_is_one_error_with_the_remedy", || {
            within_time(PATIENCE, unfit())
        }),
        trial("author::what_a_project_lacks_is_one_error_with_the_remedy", lacking),
        trial("author::what_a_test_finds_is_one_line_each", findings::findings),
        trial("author::doctor_names_each_item_that_does_not_fit", doctor::items),
        trial("author::doctor_says_it_in_words", doctor::words),
        trial("author::doctor_finds_what_is_meant", doctor::meant),
        trial(
            "author::an_interrupt_ends_the_tool_and_all_that_it_started",
            interrupted,
        ),
        // It compiles three guests one after the other, beside trials that build.
        Trial::test("author::a_change_of_the_source_is_built_and_reloaded_at_once", || {
            within_time(PATIENCE, developed())
        }),
        trial("author::a_component_is_inspected_for_the_hub_of_the_project", inspected),
        trial(
            "author::a_component_that_asks_for_folders_is_inspected_without_them",
            with_folders,
        ),
    ];
    trials.extend(newcomer::trials());
    trials
}

/// A folder for projects that is the same in each run, so that what they leave in the shared target folder is too.
fn home(name: &str) -> PathBuf {
    let home = guests::root().join("target/author").join(name);
    drop(fs::remove_dir_all(&home));
    fs::create_dir_all(&home).unwrap();
    home
}

/// The variables of a person who has these tools and no network.
fn variables(tools: &[&Path]) -> Vec<(String, String)> {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    let kept = |name: &str, usual: &str| {
        let folder = std::env::var_os(name).map_or_else(|| home().join(usual), PathBuf::from);
        (name.to_owned(), folder.display().to_string())
    };
    let cargo = Path::new(env!("CARGO")).parent().unwrap();
    let path: Vec<String> = tools
        .iter()
        .copied()
        .chain([cargo])
        .map(|folder| folder.display().to_string())
        .chain(std::env::var("PATH"))
        .collect();
    let mut variables = vec![
        ("PATH".to_owned(), path.join(":")),
        kept("CARGO_HOME", ".cargo"),
        kept("RUSTUP_HOME", ".rustup"),
        ("CARGO_NET_OFFLINE".to_owned(), "true".to_owned()),
        (
            "CARGO_TARGET_DIR".to_owned(),
            guests::root().join("target/author/target").display().to_string(),
        ),
    ];
    variables.extend(option_env!("RUSTUP_TOOLCHAIN").map(|name| ("RUSTUP_TOOLCHAIN".to_owned(), name.to_owned())));
    variables
}

async fn verb(home: &Path, variables: &[(String, String)], arguments: &[&str]) -> Ended {
    let variables: Vec<(&str, &str)> = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    run_with(home, &variables, arguments).await
}

/// What the tools made and the manifest does not fit, and what they cannot make.
async fn unfit() {
    let (home, variables) = (home("unfit"), variables(&[]));
    verb(&home, &variables, &["plugin", "new", "unfit"]).await;
    let folder = home.join("unfit");
    let manifest = fs::read_to_string(folder.join("manifest.toml")).unwrap();
    let cargo = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    let build = async |changed: (&str, String), expected: &str| {
        fs::write(folder.join("manifest.toml"), &manifest).unwrap();
        fs::write(folder.join("Cargo.toml"), &cargo).unwrap();
        fs::write(folder.join(changed.0), changed.1).unwrap();
        let built = verb(&home, &variables, &["plugin", "build", "unfit"]).await;
        let last = built.err.lines().last().unwrap_or_default().to_owned();
        assert!(built.code != 0 && last.starts_with(expected), "{expected}: {built:?}");
        assert!(!folder.join("dist").exists(), "what does not fit is not written");
    };
    build(
        ("manifest.toml", manifest.replace("state = true", "")),
        "error: plugin `unfit` imports `waypost:state/store@0.1.0` without the grant `state`; if it may, add `state = true`",
    )
    .await;
    let observer = manifest
        .replace("handler", "observer")
        .replace("serves = [\"unfit:greet\"]", "");
    build(
        ("manifest.toml", observer),
        "error: plugin `unfit` has the role observer by its manifest, but does not export `waypost:plugin/observer@0.1.0`; it \
         exports `waypost:plugin/handler@0.1.0`",
    )
    .await;
    build(
        ("Cargo.toml", cargo.replace("cdylib", "rlib")),
        "error: cargo made no component of unfit; add `crate-type = [\"cdylib\"]` under [lib] of its Cargo.toml",
    )
    .await;
    build(
        ("Cargo.toml", cargo.replace("edition = \"2024\"", "edition = \"1066\"")),
        "error: cargo build ended with 101; what it says is above",
    )
    .await;
}

async fn lacking() {
    let project = Project::new().written();
    let root = project.root();
    let write = |name: &str, text: &str| {
        let file = root.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    };
    let manifest = "id = \"a\"\nversion = \"1\"\nrole = \"handler\"\nserves = [\"a\"]\n";
    write("bare/manifest.toml", manifest);
    write("broken/manifest.toml", "id = 1");
    write("rust/manifest.toml", manifest);
    write("rust/Cargo.toml", "");
    write("js/manifest.toml", manifest);
    write("js/package.json", "{ \"main\": \"a.js\" }");
    write("headless/manifest.toml", manifest);
    write("headless/package.json", "{}");
    write("python/manifest.toml", manifest);
    write("python/pyproject.toml", "");
    write("no-target/manifest.toml", manifest);
    write("no-target/Cargo.toml", "");
    write("full/a.txt", "");
    write("text.wasm", "hello");
    write("text.toml", manifest);
    write("alone.wasm", "hello");
    for (arguments, expected) in [
        (
            ["plugin", "build", "nowhere"].as_slice(),
            "[1]\n--\nerror: nowhere has no manifest.toml, which says what the plugin is; `waypost plugin new` makes a folder \
             with one\n",
        ),
        (
            &["plugin", "build", "bare"],
            "[1]\n--\nerror: bare has no Cargo.toml (Rust), package.json (JavaScript, TypeScript) or pyproject.toml (Python), \
             so nothing says how it is built\n",
        ),
        (
            &["plugin", "build", "broken"],
            "[2]\n--\nerror: broken/manifest.toml, line 1: invalid type: integer `1`, expected a string\n",
        ),
        (
            &["plugin", "build", "rust"],
            "[1]\n--\nerror: cargo is missing; in rust: install Rust with https://rustup.rs\n",
        ),
        (
            &["plugin", "build", "js"],
            "[1]\n--\nerror: jco (with rolldown, which it brings) is missing; in js: npm install\n",
        ),
        (
            &["plugin", "build", "headless"],
            "[2]\n--\nerror: headless/package.json does not say what is to be built; add `\"main\": \"plugin.js\"`, the file \
             that exports `handler`\n",
        ),
        (
            &["plugin", "build", "python"],
            "[1]\n--\nerror: componentize-py is missing; in python: python3 -m venv .venv && .venv/bin/pip install \
             componentize-py==0.25.1\n",
        ),
        (
            &["plugin", "new", "My Plugin"],
            "[2]\n--\nerror: the name: `My Plugin` is not an id; use lower-case letters, digits and `-`, at most 64\n",
        ),
        (
            &["plugin", "new", "full"],
            "[2]\n--\nerror: full is there and not an empty folder; take another name, or another folder with --in\n",
        ),
        (
            &["plugin", "inspect", "gone.wasm"],
            "[1]\n--\nerror: gone.wasm cannot be read: No such file or directory (os error 2)\n",
        ),
        (
            &["plugin", "inspect", "alone.wasm"],
            "[1]\n--\nerror: alone.wasm has no manifest, neither inside nor beside it as alone.toml; `waypost plugin build` \
             puts it inside\n",
        ),
        (
            &["plugin", "inspect", "moon"],
            "[1]\n--\nerror: `moon` is neither a file nor a loaded plugin; loaded are: loop, replay, sandbox\n",
        ),
        (
            &["plugin", "test", "text.wasm"],
            "[2]\n--\nerror: plugin `a` is not WebAssembly; give the `.wasm` file that the build made\n",
        ),
    ] {
        // The path of the harness has no tools in it, as that of a person who has just come.
        let ended = run_with(root, &[("PATH", "/nowhere")], arguments).await.shown(root);
        assert!(ended.starts_with(expected), "{arguments:?}:\n{ended}");
    }
    let tools = root.join("tools");
    script(
        &tools,
        "cargo",
        "echo 'error[E0463]: can'\"'\"'t find crate for `core`' >&2; exit 101",
    );
    let path = format!("{}:/usr/bin:/bin", tools.display());
    let ended = run_with(root, &[("PATH", &path)], &["plugin", "build", "no-target"]).await;
    assert_eq!(
        ended.err.lines().last(),
        Some("error: Rust has no target wasm32-wasip2 here; install it: rustup target add wasm32-wasip2")
    );
    let entries: Vec<_> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        !entries
            .iter()
            .any(|name| name.to_string_lossy().starts_with(".waypost-tmp-")),
        "{entries:?}"
    );
}

/// A program of these lines.
pub fn script(folder: &Path, name: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(folder).unwrap();
    let file = folder.join(name);
    fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
}

async fn interrupted() {
    let project = Project::new().written();
    let root = project.root();
    fs::write(root.join("Cargo.toml"), "").unwrap();
    let manifest = "id = \"a\"\nversion = \"1\"\nrole = \"agent\"\n";
    fs::write(root.join("manifest.toml"), manifest).unwrap();
    let tools = root.join("tools");
    // Its child would outlive it, and says when it is there.
    script(
        &tools,
        "cargo",
        "sh -c 'echo $$ > child.tmp; mv child.tmp child; exec sleep 600' & wait",
    );
    let path = format!("{}:/usr/bin:/bin", tools.display());
    let building = Running::start(root, &[("PATH", &path)], &["plugin", "build"]);
    let child = loop {
        if let Ok(child) = fs::read_to_string(root.join("child")) {
            break child.trim().to_owned();
        }
        tokio::task::yield_now().await;
    };
    building.signal("INT").await;
    let ended = building.end().await;
    assert_eq!(
        (ended.code, ended.err.as_str()),
        (130, "error: cargo was stopped; nothing was built\n")
    );
    // Nobody may have asked yet how it ended.
    let lives = fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    assert!(!lives, "the child of the tool is gone");
    assert!(!root.join("dist").exists());
}

async fn developed() {
    let entry = "[[plugin]]\npath = \"source/dist/a.wasm\"\nwall = \"in-process\"\n[[route]]\nmatch = \"a\"\nto = \"plugin:a\"\n";
    let project = Project::new().toml(entry).written();
    let root = project.root();
    let source = root.join("source");
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("Cargo.toml"), "").unwrap();
    let manifest = "id = \"a\"\nversion = \"1\"\nrole = \"handler\"\nserves = [\"a\"]\n";
    fs::write(source.join("manifest.toml"), manifest).unwrap();
    // The tool makes what the source says: the name of a guest.
    let made = root.join("made.wasm");
    let artifact = json!({
        "reason": "compiler-artifact", "manifest_path": source.join("Cargo.toml"),
        "target": { "crate_types": ["cdylib"] }, "filenames": [made],
    });
    let (tools, examples) = (
        root.join("tools"),
        guests::target().join("wasm32-wasip2/release/examples"),
    );
    script(
        &tools,
        "cargo",
        &format!(
            "cp {}/$(cat source.txt).wasm {} && echo '{artifact}' || exit 7",
            examples.display(),
            made.display()
        ),
    );
    let path = format!("{}:/usr/bin:/bin", tools.display());
    let variables = [("PATH", path.as_str())];
    fs::write(source.join("source.txt"), "talker").unwrap();
    let built = run_with(root, &variables, &["plugin", "build", "source"]).await;
    assert_eq!(built.code, 0, "{built:?}");

    let serving = Serving::start(root, &[]).await;
    let mut dev = Running::start(root, &variables, &["plugin", "dev", "source"]);
    let first = dev.line_with("a 1 is reloaded (sha256:").await;
    let (status, text) = serving
        .ask("POST", "/calls", &json!({ "call": "a", "message": "lines" }))
        .await;
    assert_eq!(status, 200, "{text}");
    assert_eq!(dev.line().await, "debug   a");
    assert_eq!(dev.line().await, "info    b\\u{1b}[2Jc");
    fs::write(source.join("source.txt"), "no-such-guest").unwrap();
    fs::write(source.join("source.txt"), "answers").unwrap();
    let second = dev.line_with("a 1 is reloaded (sha256:").await;
    assert_ne!(first, second, "it is the new one");
    dev.signal("INT").await;
    assert_eq!(dev.end().await.code, 0);
    serving.stop().await;

    // Nobody to reload it is no reason to stop.
    let mut dev = Running::start(root, &variables, &["plugin", "dev", "source"]);
    let said = dev.error_with("no hub runs").await;
    assert_eq!(
        normal(root, &said).split(':').next(),
        Some("built; no hub runs in .; `waypost serve` starts one")
    );
    dev.signal("INT").await;
    assert_eq!(dev.end().await.code, 0);
}

/// A guest with its manifest beside it, and what else the project needs.
fn guest(project: &Project, guest: &str, manifest: &str) {
    fs::write(project.root().join("a.wasm"), guests::bytes(guest)).unwrap();
    let head = "id = \"a\"\nversion = \"1\"\n";
    fs::write(project.root().join("a.toml"), format!("{head}{manifest}")).unwrap();
}

async fn inspected() {
    let project = Project::new().written();
    let root = project.root();
    guest(
        &project,
        "keeper",
        "role = \"handler\"\nserves = [\"a\"]\ndescription = \"says \\u001b[31m\"\n[grants]\nstate = true\ngateway = [\"x:*\"]\n\
         [limits]\nmemory = \"16MiB\"\ntimeout = \"5s\"\n",
    );
    let text = shown(root, &["plugin", "inspect", "a.wasm"]).await;
    for line in [
        "[0]\nfile      a.wasm\n",
        "digest    sha256:<digest>\nplugin    a 1: says \\u{1b}[31m\nrole      handler\nserves    a\n",
        "asks to   make the call `x:*` (gateway=x:*)\n          keep data of its own between calls (state)\n",
        "limits    memory 16.0 MiB, timeout 5s\nexports   waypost:plugin/handler@0.1.0\nimports   ",
        "waypost:state/store@0.1.0\n",
        "hub       fits, when it is granted what it asks for; waypost.toml has no entry for it yet:\n\n[[plugin]]\n\
         path = \"<project>/a.wasm\"\nwall = \"in-process\"\ngrant = { gateway = [\"x:*\"], state = true }\n",
    ] {
        assert!(text.contains(line), "`{line}` is not in:\n{text}");
    }
    let with = async |grant: &str| {
        let entry = format!("[[plugin]]\npath = \"a.wasm\"\nwall = \"in-process\"\n{grant}");
        fs::write(root.join("waypost.toml"), entry).unwrap();
        normal(root, &shown(root, &["plugin", "inspect", "a.wasm"]).await)
    };
    let lacking = with("").await;
    assert!(
        lacking.starts_with("[1]\n")
            && lacking.contains("hub       plugin `a` imports `waypost:state/store@0.1.0` without the grant `state`; "),
        "{lacking}"
    );
    let fits = with("grant = { state = true }").await;
    assert!(
        fits.ends_with("hub       fits: its [[plugin]] entry in waypost.toml grants what it cannot do without\n"),
        "{fits}"
    );
    let loaded = shown(root, &["plugin", "inspect", "a"]).await;
    assert!(loaded.ends_with("hub       loaded, as the file is now\n"), "{loaded}");
}

/// Folders have no place yet where nobody has decided about them: that keeps nothing from being loaded.
async fn with_folders() {
    let project = Project::new().written();
    let root = project.root();
    guest(
        &project,
        "filer",
        "role = \"handler\"\nserves = [\"a\"]\n[grants]\nfiles = [{ name = \"docs\" }, { name = \"cache\", write = true }]\n",
    );
    for verb in ["inspect", "doctor"] {
        let text = shown(root, &["plugin", verb, "a.wasm"]).await;
        assert!(text.starts_with("[0]\n"), "{verb}: {text}");
    }
    let text = shown(root, &["plugin", "inspect", "a.wasm"]).await;
    let entry = "hub       fits, when it is granted what it asks for; waypost.toml has no entry for it yet:\n\n[[plugin]]\n\
         path = \"<project>/a.wasm\"\nwall = \"in-process\"\ngrant = { files = [{ name = \"docs\", path = \"<where it is>\", write = false }, \
         { name = \"cache\", path = \"<where it is>\", write = true }] }\n";
    assert!(text.ends_with(entry), "{text}");
}
