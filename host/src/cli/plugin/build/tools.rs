//! The tools that make a component of source, by language: which they are, how they are called, what installs them.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitStatus;
use std::time::Duration;

use futures::StreamExt;
use serde::Deserialize;
use tokio::process::Command;
use tokio::time::timeout;

use super::wit::Wit;
use crate::cli::told_to_stop;
use crate::error::{Blame, Error, ErrorKind, Result};
use crate::imports::NEEDED;
use crate::plugin::{Manifest, world};
use crate::process::{Group, Source};

/// What Rust compiles for.
const TARGET: &str = "wasm32-wasip2";
/// How a missing target shows in what cargo says.
const NO_TARGET: [&str; 2] = ["can't find crate for `core`", "target may not be installed"];
const CARGO: &str = "install Rust with https://rustup.rs";
/// Where a folder has its own tools of npm.
const MODULES: &str = "node_modules/.bin";
const JCO: &str = "npm install";
const ROLLDOWN: &str = "node_modules/.bin/rolldown";
const COMPONENTIZE_PY: &str = "python3 -m venv .venv && .venv/bin/pip install componentize-py==0.25.1";

/// How much of the end of what a tool says is looked at, in bytes.
const TAIL: usize = 64 << 10;
/// The longest message of cargo that is read, in bytes.
const MESSAGE: usize = 8 << 20;
/// How long a tool that is told to stop may take.
const GRACE: Duration = Duration::from_secs(2);
/// How long its output is read on once it has ended, when something that it started holds it open.
const AFTER_END: Duration = Duration::from_secs(1);

/// What a plugin is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    Rust,
    JavaScript,
    Python,
}

impl Language {
    /// The language of a folder, by the file that its tools begin with.
    pub(super) fn of(folder: &Path) -> Result<Self> {
        let known = [
            ("Cargo.toml", Self::Rust),
            ("package.json", Self::JavaScript),
            ("pyproject.toml", Self::Python),
        ];
        let found = known.into_iter().find(|(file, _)| folder.join(file).is_file());
        found.map(|(_, language)| language).ok_or_else(|| {
            let message = format!(
                "{} has no Cargo.toml (Rust), package.json (JavaScript, TypeScript) or pyproject.toml (Python), so nothing \
                 says how it is built",
                folder.display()
            );
            Error::new(ErrorKind::NotFound, message)
        })
    }

    /// Runs the tools, and reads the component that they made.
    pub(super) async fn component(self, folder: &Path, manifest: &Manifest) -> Result<Vec<u8>> {
        match self {
            Self::Rust => rust(folder).await,
            Self::JavaScript => javascript(folder, manifest).await,
            Self::Python => python(folder, manifest).await,
        }
    }
}

async fn rust(folder: &Path) -> Result<Vec<u8>> {
    let mut command = Command::new("cargo");
    command
        .current_dir(folder)
        .args(["build", "--release", "--target", TARGET]);
    command.arg("--message-format=json-render-diagnostics");
    let own = std::fs::canonicalize(folder.join("Cargo.toml"))
        .map_err(|error| Error::new(ErrorKind::NotFound, "Cargo.toml cannot be read").because(error))?;
    let mut made = None;
    let ended = run(
        command,
        Some(&mut |line: &[u8]| made = artifact(line, &own).or(made.take())),
    )
    .await;
    let ended = ended.map_err(|error| missing("cargo", folder, CARGO, error))?;
    if !ended.status.success() {
        if NO_TARGET.iter().any(|sign| ended.tail.contains(sign)) {
            let message = format!("Rust has no target {TARGET} here; install it: rustup target add {TARGET}");
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        return Err(failed("cargo build", &ended));
    }
    let file = made.ok_or_else(|| {
        let message = format!(
            "cargo made no component of {}; add `crate-type = [\"cdylib\"]` under [lib] of its Cargo.toml",
            folder.display()
        );
        Error::new(ErrorKind::Invalid, message)
    })?;
    read(&file)
}

/// The component that a message of cargo names, when it is the one of this package.
fn artifact(line: &[u8], own: &Path) -> Option<PathBuf> {
    #[derive(Deserialize)]
    struct Artifact {
        reason: String,
        manifest_path: PathBuf,
        target: Target,
        filenames: Vec<PathBuf>,
    }
    #[derive(Deserialize)]
    struct Target {
        crate_types: Vec<String>,
    }
    let artifact: Artifact = serde_json::from_slice(line).ok()?;
    let is_own = artifact.reason == "compiler-artifact"
        && artifact.target.crate_types.iter().any(|made| made == "cdylib")
        && std::fs::canonicalize(&artifact.manifest_path).is_ok_and(|path| path == own);
    let mut files = artifact.filenames.into_iter().filter(|_| is_own);
    files.find(|file| file.extension().is_some_and(|ending| ending == "wasm"))
}

async fn javascript(folder: &Path, manifest: &Manifest) -> Result<Vec<u8>> {
    #[derive(Deserialize)]
    struct Package {
        main: Option<PathBuf>,
    }
    let file = folder.join("package.json");
    let package: Package = serde_json::from_slice(&read(&file)?)
        .map_err(|error| Error::new(ErrorKind::Invalid, format!("{} cannot be read", file.display())).because(error))?;
    let main = package.main.ok_or_else(|| {
        let message = format!(
            "{} does not say what is to be built; add `\"main\": \"plugin.js\"`, the file that exports `{}`",
            file.display(),
            manifest.role.as_str()
        );
        Error::new(ErrorKind::Invalid, message)
    })?;
    let made = tempfile::tempdir().map_err(no_room)?;
    let source = bundled(folder, &main, manifest, made.path()).await?;
    let wit = Wit::of(folder, manifest, made.path())?;
    let out = made.path().join("component.wasm");
    let mut command = Command::new(tool(folder, MODULES, "jco"));
    command
        .current_dir(folder)
        .arg("componentize")
        .arg(&source)
        .arg("--wit")
        .arg(&wit.folder)
        .args(["--world-name", &wit.world, "--backend", "qjs"])
        .args(["--backend-qjs-disable-async", "--out"])
        .arg(&out);
    let ended = run(command, None).await;
    let ended = ended.map_err(|error| missing("jco", folder, JCO, error))?;
    if !ended.status.success() {
        return Err(failed("jco componentize", &ended));
    }
    read(&out)
}

/// One file of JavaScript made of a module and all that it imports, which is what jco takes. The bundler is one that jco
/// itself depends on.
async fn bundled(folder: &Path, main: &Path, manifest: &Manifest, room: &Path) -> Result<PathBuf> {
    let (config, bundle) = (room.join("rolldown.config.mjs"), room.join("bundle.js"));
    let settings = format!(
        "export default {{ input: {}, external: /^(waypost|wasi):/, logLevel: 'warn', output: {{ file: {}, format: 'esm' }} }};\n",
        serde_json::json!(main),
        serde_json::json!(bundle)
    );
    std::fs::write(&config, settings).map_err(no_room)?;
    let mut command = Command::new(beside(&tool(folder, MODULES, "jco"), ROLLDOWN));
    command.current_dir(folder).arg("--config").arg(&config);
    let ended = run(command, None).await;
    let ended = ended.map_err(|error| missing("jco (with rolldown, which it brings)", folder, JCO, error))?;
    if !ended.status.success() {
        return Err(failed("rolldown", &ended));
    }
    // What it imports without asking for it is named here: its engine would only say that there is no such module.
    let text = String::from_utf8_lossy(&read(&bundle)?).into_owned();
    let imports = NEEDED
        .iter()
        .map(|needed| needed.interface)
        .filter(|name| text.contains(&format!("\"{name}\"")));
    world::check_imports(&manifest.id, &manifest.asks(), imports, &world::of_an_author)?;
    Ok(bundle)
}

async fn python(folder: &Path, manifest: &Manifest) -> Result<Vec<u8>> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Project {
        tool: Tools,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Tools {
        waypost: Own,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Own {
        module: Option<String>,
    }
    let file = folder.join("pyproject.toml");
    let text = String::from_utf8_lossy(&read(&file)?).into_owned();
    let project: Project = toml::from_str(&text)
        .map_err(|error| Error::new(ErrorKind::Invalid, format!("{} cannot be read", file.display())).because(error))?;
    let module = project.tool.waypost.module.unwrap_or_else(|| "plugin".to_owned());
    let made = tempfile::tempdir().map_err(no_room)?;
    let wit = Wit::of(folder, manifest, made.path())?;
    let out = made.path().join("component.wasm");
    let mut command = Command::new(tool(folder, ".venv/bin", "componentize-py"));
    command
        .current_dir(folder)
        .arg("--wit-path")
        .arg(&wit.folder)
        .args(["--world", &wit.world, "componentize", &module, "--output"])
        .arg(&out);
    let ended = run(command, None).await;
    let ended = ended.map_err(|error| missing("componentize-py", folder, COMPONENTIZE_PY, error))?;
    if !ended.status.success() {
        return Err(failed("componentize-py", &ended));
    }
    read(&out)
}

/// The tool that the folder has for itself, else the one of the path.
fn tool(folder: &Path, own: &str, name: &str) -> PathBuf {
    let own = folder.join(own).join(name);
    // Its folder becomes the working directory: a relative name would be looked for from there.
    match std::fs::canonicalize(own.parent().unwrap_or(folder)) {
        Ok(bin) if own.is_file() => bin.join(name),
        _ => PathBuf::from(name),
    }
}

/// A tool that another brought along: it stands in one of the folders above the file that the other really is.
fn beside(other: &Path, tool: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).map(|folder| folder.join(other));
    let there = std::iter::once(other.to_owned())
        .chain(places)
        .filter(|file| file.is_file());
    let real = there.filter_map(|file| std::fs::canonicalize(file).ok()).next();
    let above = real
        .iter()
        .flat_map(|file| file.ancestors().map(|folder| folder.join(tool)));
    above
        .into_iter()
        .find(|file| file.is_file())
        .unwrap_or_else(|| PathBuf::from("rolldown"))
}

/// How a tool ended.
struct Ended {
    status: ExitStatus,
    /// The end of what it said.
    tail: String,
}

/// Who reads the lines of a tool's standard output.
type Lines<'a> = &'a mut (dyn FnMut(&[u8]) + Send);

/// Runs a tool to its end. What it says goes to standard error, but for standard output when somebody reads its lines.
/// When the person interrupts, the tool and all that it started are ended too.
async fn run(command: Command, mut lines: Option<Lines<'_>>) -> Result<Ended, Failure> {
    let mut stop = pin!(told_to_stop());
    let (mut group, mut pipes) = Group::start(command).map_err(Failure::Start)?;
    let (mut tail, mut line) = (Vec::new(), Vec::new());
    let mut take = |source: Source, bytes: &[u8]| match &mut lines {
        Some(lines) if source == Source::Stdout => {
            for part in bytes.split_inclusive(|byte| *byte == b'\n') {
                if line.len() + part.len() <= MESSAGE {
                    line.extend_from_slice(part);
                }
                if part.ends_with(b"\n") {
                    lines(&line);
                    line.clear();
                }
            }
        }
        _ => {
            drop(std::io::Write::write_all(&mut std::io::stderr(), bytes));
            tail.extend_from_slice(bytes);
            let over = tail.len().saturating_sub(TAIL);
            tail.drain(..over);
        }
    };
    loop {
        tokio::select! {
            biased;
            _ = &mut stop => {
                group.stop(&mut pipes, GRACE).await;
                return Err(Failure::Stopped);
            }
            read = pipes.next() => match read {
                Some((source, bytes)) => take(source, &bytes),
                None => {
                    group.exited().await;
                    break;
                }
            },
            () = group.exited() => {
                let rest = async {
                    while let Some((source, bytes)) = pipes.next().await {
                        take(source, &bytes);
                    }
                };
                drop(timeout(AFTER_END, rest).await);
                break;
            }
        }
    }
    let status = group.reap().await.map_err(Failure::Start)?;
    let tail = String::from_utf8_lossy(&tail).into_owned();
    Ok(Ended { status, tail })
}

/// Why a tool has no end of its own.
enum Failure {
    Start(std::io::Error),
    Stopped,
}

fn missing(name: &str, folder: &Path, install: &str, failure: Failure) -> Error {
    match failure {
        Failure::Start(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let message = format!("{name} is missing; in {}: {install}", folder.display());
            Error::new(ErrorKind::NotFound, message)
        }
        Failure::Start(error) => Error::new(ErrorKind::Other, format!("{name} cannot be started")).because(error),
        Failure::Stopped => Error::new(ErrorKind::Cancelled, format!("{name} was stopped; nothing was built")),
    }
}

fn failed(what: &str, ended: &Ended) -> Error {
    let how = match ended.status.code() {
        Some(code) => format!("with {code}"),
        None => "by a signal".to_owned(),
    };
    let message = format!("{what} ended {how}; what it says is above");
    Error::new(ErrorKind::Other, message).blame(Blame::Caller)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file)
        .map_err(|error| Error::new(ErrorKind::NotFound, format!("{} cannot be read", file.display())).because(error))
}

fn no_room(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Other, "a temporary folder cannot be made").because(error)
}
