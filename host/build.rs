//! Builds the bundled plugins for the sandbox and hands their files to `src/bundled.rs`; lists for `src/cli/plugin/embedded.rs`
//! what a new plugin is made of.
//!
//! They are built by the same cargo in a target folder of their own, with this build's variables cleared: what is meant for
//! the host (its target, its flags, its wrappers) is not meant for them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const TARGET: &str = "wasm32-wasip2";

/// The plugins that the binary holds, by the name of their folder.
const BUNDLED: [&str; 3] = ["loop", "sandbox", "replay"];

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let root = Path::new(&variable("CARGO_MANIFEST_DIR")?)
        .parent()
        .ok_or("the package stands in no folder")?
        .to_owned();
    let out = PathBuf::from(variable("OUT_DIR")?);
    for watched in ["wit", "sdk", "plugins", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }
    // One folder for all that is built of the host here, also by clippy and for the fuzz targets: what is built for the sandbox is
    // the same.
    let target = out
        .ancestors()
        .nth(2)
        .ok_or("the package is built in no folder")?
        .join("waypost-plugins");
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .current_dir(&root)
        .args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"])
        .arg(&target);
    for plugin in BUNDLED {
        cargo.args(["--package", &format!("waypost-{plugin}")]);
    }
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let kept = ["CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"].contains(&name.as_str());
        if !kept && (name.starts_with("CARGO") || name.starts_with("RUST")) {
            cargo.env_remove(name);
        }
    }
    let built = cargo
        .output()
        .map_err(|error| format!("cargo cannot be started for the plugins: {error}"))?;
    if !built.status.success() {
        let text = String::from_utf8_lossy(&built.stderr);
        let remedy = if text.contains("can't find crate for `core`") || text.contains("target may not be installed") {
            format!("; install the target: rustup target add {TARGET}")
        } else {
            String::new()
        };
        let text = text.replace('\n', " | ");
        return Err(format!("the bundled plugins do not build{remedy} | {text}"));
    }
    for plugin in BUNDLED {
        let file = target
            .join(TARGET)
            .join("release")
            .join(format!("waypost_{plugin}.wasm"));
        fs::copy(&file, out.join(format!("{plugin}.wasm")))
            .map_err(|error| format!("{} cannot be copied: {error}", file.display()))?;
        let manifest = root.join("plugins").join(plugin).join("manifest.toml");
        fs::copy(&manifest, out.join(format!("{plugin}.toml")))
            .map_err(|error| format!("{} cannot be copied: {error}", manifest.display()))?;
    }
    embed(&root, &out)
}

/// Folders that tools leave behind, in which nothing is anybody's work.
const LEFT_BEHIND: [&str; 5] = ["node_modules", "__pycache__", "target", "dist", ".venv"];

/// Writes the lists of what the binary carries.
fn embed(root: &Path, out: &Path) -> Result<(), String> {
    let mut text = String::new();
    for (name, folder, docs) in [
        ("WIT", "wit", "The contract, by package."),
        ("TEMPLATES", "sdk/templates", "The templates, by language and kind."),
        ("RUST_SDK", "sdk/src", "The source of the SDK for Rust."),
        ("JS_SDK", "sdk/js", "The SDK for JavaScript."),
        ("PYTHON_SDK", "sdk/python", "The SDK for Python."),
    ] {
        let folder = root.join(folder);
        let mut files = Vec::new();
        if folder.is_dir() {
            walk(&folder, &mut files)?;
        }
        files.sort();
        text.push_str(&format!("/// {docs}\npub(super) static {name}: &[File] = &[\n"));
        for file in files {
            let below = file.strip_prefix(&folder).map_err(|error| error.to_string())?;
            // Schemas describe messages; no tool that builds a component reads them.
            if name == "WIT" && below.extension().is_none_or(|ending| ending != "wit") {
                continue;
            }
            text.push_str(&format!(
                "    ({:?}, include_bytes!({:?})),\n",
                below.display().to_string(),
                file
            ));
        }
        text.push_str("];\n");
    }
    for (name, file, docs) in [
        ("WORKSPACE", "Cargo.toml", "From which the SDK for Rust inherits."),
        ("RUST_SDK_PACKAGE", "sdk/Cargo.toml", "The package of the SDK for Rust."),
        (
            "RUST_SDK_README",
            "sdk/README.md",
            "What stands beside the SDK for Rust.",
        ),
    ] {
        text.push_str(&format!(
            "/// {docs}\npub(super) static {name}: &str = include_str!({:?});\n",
            root.join(file)
        ));
    }
    let lock = root.join("Cargo.lock");
    let lock = fs::read_to_string(&lock).map_err(|error| format!("{} cannot be read: {error}", lock.display()))?;
    text.push_str(&format!(
        "/// The versions with which the SDK for Rust is tested.\npub(super) static RUST_LOCK: &str = {:?};\n",
        part_of(&lock, "waypost-sdk")
    ));
    fs::write(out.join("embedded.rs"), text).map_err(|error| format!("embedded.rs cannot be written: {error}"))
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let cannot = |error: std::io::Error| format!("{} cannot be read: {error}", folder.display());
    for entry in fs::read_dir(folder).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        let is_left = LEFT_BEHIND.iter().any(|name| entry.file_name() == *name);
        if entry.file_type().map_err(cannot)?.is_file() {
            files.push(entry.path());
        } else if !is_left {
            walk(&entry.path(), files)?;
        }
    }
    Ok(())
}

/// The part of a lock file that a package needs: its own entry and those of all that it depends on.
fn part_of(lock: &str, package: &str) -> String {
    let (head, rest) = lock.split_once("\n[[package]]").unwrap_or((lock, ""));
    let entries: Vec<&str> = rest.split("[[package]]").map(str::trim).collect();
    let field = |entry: &str, name: &str| {
        let line = entry
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
        line.unwrap_or_default().trim_matches('"').to_owned()
    };
    let mut needed = vec![package.to_owned()];
    let mut kept = vec![false; entries.len()];
    while let Some(wanted) = needed.pop() {
        let (name, version) = wanted.split_once(' ').unwrap_or((&wanted, ""));
        for (entry, kept) in entries.iter().zip(&mut kept) {
            let is_it = field(entry, "name") == name && (version.is_empty() || field(entry, "version") == version);
            if is_it && !std::mem::replace(kept, true) {
                let on = entry.split_once("dependencies = [").map_or("", |(_, list)| list);
                let on = on
                    .lines()
                    .map(|line| line.trim().trim_matches(['"', ',']))
                    .filter(|line| !line.is_empty());
                needed.extend(on.take_while(|line| *line != "]").map(str::to_owned));
            }
        }
    }
    let kept = entries.iter().zip(kept).filter(|(_, kept)| *kept);
    kept.fold(format!("{head}\n"), |text, (entry, _)| {
        format!("{text}\n[[package]]\n{entry}\n")
    })
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("cargo did not set {name}: {error}"))
}
