//! A project made from a template, as `waypost plugin new` lays it down, and the component that its language's tool makes.
//!
//! Components are kept in the target folder under a digest of all that they are made of, so that each is built once.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use waypost::plugin::contract::{PACKAGES, VERSION};

use crate::harness::guests;
use crate::harness::outside::{COMPONENTIZE_PY, JCO, Tool};

/// The name that a project gets.
pub const NAME: &str = "my-thing";

/// The calls that the handler of the trials may make.
pub const CALLS: &str = "gateway = [\"fsEvent:readFile\", \"chunks\", \"sleeper\", \"confirmationRequest\"]";

/// What the handler of the trials asks for beside its calls.
pub const ASKS: &str = r#"http = ["http://127.0.0.1"]
secrets = ["github"]
files = [{ name = "docs" }, { name = "cache", write = true }]
process = [{ name = "sh", args = [["-c", "*"]] }]
socket = [{ name = "engine" }]"#;

/// A language that guests are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    JavaScript,
    Python,
}

impl Language {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::JavaScript, Self::Python];

    /// What makes components of it.
    pub fn tool(self) -> &'static Tool {
        match self {
            Self::JavaScript => &JCO,
            Self::Python => &COMPONENTIZE_PY,
        }
    }

    /// The word for it in the name of a trial.
    pub fn word(self) -> &'static str {
        match self {
            Self::JavaScript => "javascript",
            Self::Python => "python",
        }
    }

    /// Its folder below `sdk`, and below `sdk/templates`.
    pub fn folder(self) -> &'static str {
        match self {
            Self::JavaScript => "js",
            Self::Python => "python",
        }
    }

    /// The file that a project begins with.
    pub fn entry(self) -> &'static str {
        match self {
            Self::JavaScript => "plugin.js",
            Self::Python => "plugin.py",
        }
    }

    /// The files of its SDK, each with its path in a project.
    fn sdk(self) -> Vec<(String, PathBuf)> {
        let (from, into) = match self {
            Self::JavaScript => ("sdk/js", "sdk"),
            Self::Python => ("sdk/python/waypost_sdk", "waypost_sdk"),
        };
        let mut files = files(&guests::root().join(from));
        files.retain(|(path, _)| path != "README.md" && path != "package.json" && !path.contains("__pycache__"));
        let there = |(path, file)| (format!("{into}/{path}"), file);
        files.into_iter().map(there).collect()
    }

    /// The command that tests a project natively.
    fn tests(self) -> &'static [&'static str] {
        match self {
            Self::JavaScript => &["node", "--test"],
            Self::Python => &["python3", "-B", "-m", "unittest"],
        }
    }

    /// The command that makes a component, with this module as its entry.
    fn build(self, tool: &Path, entry: &str, component: &Path) -> Command {
        let mut command = Command::new(tool);
        match self {
            Self::JavaScript => command
                .args([
                    "componentize",
                    &format!("{entry}.js"),
                    "--wit",
                    "wit",
                    "--world-name",
                    "plugin",
                ])
                .args(["--backend", "qjs", "--backend-qjs-disable-async", "--out"]),
            Self::Python => command.args([
                "--wit-path",
                "wit",
                "--world",
                "plugin",
                "componentize",
                entry,
                "--output",
            ]),
        };
        command.arg(component);
        command
    }
}

/// A project in a folder of its own.
pub struct Template {
    language: Language,
    role: &'static str,
    folder: TempDir,
    manifest: String,
    entry: &'static str,
}

impl Template {
    /// The project that the template of a role becomes.
    pub fn of(language: Language, role: &'static str) -> Self {
        let folder = TempDir::with_prefix("waypost-template-").unwrap();
        let from = guests::root().join("sdk/templates").join(language.folder()).join(role);
        for (path, file) in files(&from) {
            let path = if path == "gitignore" {
                ".gitignore".to_owned()
            } else {
                replaced(&path)
            };
            put(folder.path(), &path, &replaced(&fs::read_to_string(file).unwrap()));
        }
        for (path, file) in language.sdk() {
            put(folder.path(), &path, &fs::read_to_string(file).unwrap());
        }
        let manifest = fs::read_to_string(folder.path().join("manifest.toml")).unwrap();
        Self {
            language,
            role,
            folder,
            manifest,
            entry: "plugin",
        }
    }

    /// The handler with what the trials ask of it beside what its template serves.
    pub fn trial(language: Language) -> Self {
        Self::of(language, "handler")
            .within("trial")
            .manifest_with("serves = [", "serves = [\"trial\", ")
            .manifest_with("[grants]\n", &format!("[grants]\n{CALLS}\n{ASKS}\n"))
    }

    /// With this guest as its entry, which has the template's own in it.
    pub fn within(mut self, guest: &'static str) -> Self {
        let ending = self.language.entry().trim_start_matches("plugin");
        let file = guests::root()
            .join("tests/guests/languages")
            .join(format!("{guest}{ending}"));
        put(
            self.folder.path(),
            &format!("{guest}{ending}"),
            &fs::read_to_string(file).unwrap(),
        );
        self.entry = guest;
        self
    }

    /// With this in its manifest instead of that.
    pub fn manifest_with(mut self, old: &str, new: &str) -> Self {
        assert!(self.manifest.contains(old), "{}", self.manifest);
        self.manifest = self.manifest.replace(old, new);
        self
    }

    /// Its manifest.
    pub fn manifest(&self) -> &str {
        &self.manifest
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs its own tests, natively.
    pub fn test(&self) {
        let [program, arguments @ ..] = self.language.tests() else {
            return;
        };
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.folder());
        let said = done(command).unwrap_or_else(|said| panic!("the tests of the template fail: {said}"));
        assert!(!said.contains("Ran 0 tests") && !said.contains("# tests 0"), "{said}");
    }

    /// The component, made by this tool unless it was made before.
    pub fn component(&self, tool: &Path) -> Vec<u8> {
        self.try_component(tool)
            .unwrap_or_else(|said| panic!("{:?} does not build: {said}", self.language))
    }

    /// The same, or what the tool says.
    pub fn try_component(&self, tool: &Path) -> Result<Vec<u8>, String> {
        let world = world(&self.manifest);
        put(self.folder(), "wit/world.wit", &world);
        for (package, text) in PACKAGES {
            put(self.folder(), &format!("wit/deps/{package}/{package}.wit"), text);
        }
        let kept = guests::target().join("languages");
        fs::create_dir_all(&kept).unwrap();
        let of = format!("{}-{}-{}-", self.language.folder(), self.role, self.entry);
        let name = format!("{of}{}.wasm", self.digest());
        if let Ok(bytes) = fs::read(kept.join(&name)) {
            return Ok(bytes);
        }
        let made = self.folder().join("made.wasm");
        let mut command = self.language.build(tool, self.entry, &made);
        command.current_dir(self.folder());
        done(command)?;
        let bytes = fs::read(&made).unwrap();
        for old in fs::read_dir(&kept).unwrap().flatten() {
            if old.file_name().to_string_lossy().starts_with(&of) {
                drop(fs::remove_file(old.path()));
            }
        }
        // Whole or not at all: another run of the trials may look.
        let whole = kept.join(format!("{name}.{}", std::process::id()));
        fs::write(&whole, &bytes).unwrap();
        fs::rename(&whole, kept.join(&name)).unwrap();
        Ok(bytes)
    }

    /// Of all sources, the contract's too, and of the tool's version.
    fn digest(&self) -> String {
        let mut digest = Sha256::new_with_prefix(self.language.tool().name);
        for (path, file) in files(self.folder()) {
            digest.update(path);
            digest.update([0]);
            digest.update(fs::read(file).unwrap());
            digest.update([0]);
        }
        let digest = digest.finalize();
        digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The world that follows from a manifest: its imports are what the grants say, because these tools make every import of the
/// world one of the component.
pub fn world(manifest: &str) -> String {
    let manifest: toml::Table = manifest.parse().unwrap();
    let grants = manifest.get("grants").and_then(toml::Value::as_table);
    let granted = |grant: &str| match grants.and_then(|grants| grants.get(grant)) {
        Some(toml::Value::Boolean(granted)) => *granted,
        Some(toml::Value::Array(patterns)) => !patterns.is_empty(),
        _ => false,
    };
    let imports = [
        ("waypost:log/log", true),
        ("waypost:gateway/answer", true),
        ("waypost:gateway/calls", granted("gateway")),
        ("waypost:state/store", granted("state")),
        ("waypost:workspace/folders", granted("workspace")),
        ("waypost:http/client", granted("http")),
        ("waypost:files/files", granted("files")),
        ("waypost:process/programs", granted("process")),
        ("waypost:socket/sockets", granted("socket")),
    ];
    let imports: String = imports
        .iter()
        .filter(|(_, wanted)| *wanted)
        .map(|(interface, _)| format!("    import {interface}@{VERSION};\n"))
        .collect();
    let role = manifest["role"].as_str().unwrap();
    format!("package local:project;\n\nworld plugin {{\n{imports}    export waypost:plugin/{role}@{VERSION};\n}}\n")
}

/// Runs a command, and gives what it said; as an error when it failed.
pub fn done(mut command: Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(said) } else { Err(said) }
}

fn replaced(text: &str) -> String {
    text.replace("{{name}}", NAME)
        .replace("{{ident}}", &NAME.replace('-', "_"))
}

fn put(folder: &Path, path: &str, text: &str) {
    let file = folder.join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

/// Every file below a folder, with its path there, sorted.
pub fn files(folder: &Path) -> Vec<(String, PathBuf)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        let entries = fs::read_dir(&next).unwrap_or_else(|error| panic!("{}: {error}", next.display()));
        for entry in entries.map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                let path = entry.path();
                let below = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
                found.insert(below, path);
            }
        }
    }
    found.into_iter().collect()
}
