//! `waypost plugin new`: a small project that builds, tests and runs as it stands.
//!
//! Its files are the templates of `sdk/templates`, with the name put in, and a copy of the SDK of its language. It is made
//! beside its place and renamed when it is whole. Not here: how it is built (`build`) and tested (`test`).

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::json;
use toml::{Table, Value};

use super::build::MANIFEST;
use super::embedded::{self, File};
use crate::cli::{Context, output};
use crate::error::{Error, ErrorKind, Result};
use crate::plugin::{Manifest, Role};

/// Makes a small plugin project that builds and runs as it stands.
#[derive(Debug, Args)]
pub(in crate::cli) struct New {
    /// Its id: lower-case letters, digits and `-`.
    name: String,
    /// What it is.
    #[arg(long, value_enum, default_value_t = Kind::Handler)]
    kind: Kind,
    /// What it is written in.
    #[arg(long, value_enum, default_value_t = Lang::Rust)]
    lang: Lang,
    /// The folder in which its own folder is made.
    #[arg(long = "in", value_name = "FOLDER", default_value = ".")]
    into: PathBuf,
}

/// The kinds of plugins: the roles, as a template is named.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::cli) enum Kind {
    /// Executes calls.
    Handler,
    /// Makes the places where agents run.
    Provider,
    /// Is an agent loop.
    Agent,
    /// Is told of calls.
    Observer,
}

impl Kind {
    fn role(self) -> Role {
        match self {
            Self::Handler => Role::Handler,
            Self::Provider => Role::Provider,
            Self::Agent => Role::Agent,
            Self::Observer => Role::Observer,
        }
    }
}

/// The languages, as templates are named.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::cli) enum Lang {
    /// Rust.
    Rust,
    /// JavaScript.
    Js,
    /// Python.
    Python,
}

impl Lang {
    fn folder(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Js => "js",
            Self::Python => "python",
        }
    }

    /// The files that a project has for the SDK of its language.
    fn sdk(self) -> Result<Vec<(String, Vec<u8>)>> {
        let wit = |folder: &'static str| copies(embedded::WIT, folder);
        Ok(match self {
            Self::Rust => {
                let mut files: Vec<_> = wit("wit").collect();
                files.extend(copies(embedded::RUST_SDK, "waypost-sdk/src"));
                files.push(("waypost-sdk/README.md".into(), embedded::RUST_SDK_README.into()));
                files.push(("waypost-sdk/Cargo.toml".into(), rust_package()?.into()));
                files.push(("Cargo.lock".into(), embedded::RUST_LOCK.into()));
                files
            }
            // What makes it a package of its own does not belong into a project.
            Self::Js => {
                let own = ["sdk/README.md", "sdk/package.json"];
                let sdk = copies(embedded::JS_SDK, "sdk").filter(|(path, _)| !own.contains(&path.as_str()));
                wit("wit/deps").chain(sdk).collect()
            }
            Self::Python => {
                let package = embedded::below(embedded::PYTHON_SDK, "waypost_sdk/");
                let package = package.map(|(path, bytes)| (format!("waypost_sdk/{path}"), bytes.to_vec()));
                wit("wit/deps").chain(package).collect()
            }
        })
    }
}

impl New {
    pub(super) fn run(self, context: &Context) -> Result<ExitCode> {
        let (kind, lang) = (self.kind.role().as_str(), self.lang.folder());
        Manifest::check_id("the name", &self.name)?;
        let below = format!("{lang}/{kind}/");
        let template: Vec<File> = embedded::below(embedded::TEMPLATES, &below).collect();
        if !template.iter().any(|(path, _)| *path == MANIFEST) {
            let message = format!(
                "there is no template of the kind {kind} in the language {lang}; there are: {}",
                known()
            );
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        let folder = match self.into.as_path() {
            here if here == Path::new(".") => PathBuf::from(&self.name),
            into => into.join(&self.name),
        };
        free(&folder)?;
        let ident = self.name.replace('-', "_");
        let fill = |text: &str| text.replace("{{name}}", &self.name).replace("{{ident}}", &ident);
        let mut files: Vec<(String, Vec<u8>)> = template
            .into_iter()
            .map(|(path, bytes)| {
                let bytes = match std::str::from_utf8(bytes) {
                    Ok(text) => fill(text).into_bytes(),
                    Err(_) => bytes.to_vec(),
                };
                // Under its own name it would hold in the repository of the templates too.
                let path = if path == "gitignore" { ".gitignore" } else { path };
                (fill(path), bytes)
            })
            .collect();
        files.extend(self.lang.sdk()?);
        write(&self.into, &folder, &files).map_err(|error| {
            Error::new(ErrorKind::Other, format!("{} cannot be made", folder.display())).because(error)
        })?;
        if context.json {
            output::json(&json!({ "folder": folder, "id": self.name, "kind": kind, "lang": lang }))?;
        } else {
            let shown = folder.display();
            output::line(&format!("{shown} is a plugin of the role {kind}; what is next:"))?;
            output::line(&format!(
                "  waypost plugin test {shown}    # builds it, and runs its cases and a fault kit"
            ))?;
            output::line(&format!("  {shown}/README.md    # how to change, add and call it"))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn copies(list: &'static [File], folder: &str) -> impl Iterator<Item = (String, Vec<u8>)> {
    let folder = folder.to_owned();
    list.iter()
        .map(move |(path, bytes)| (format!("{folder}/{path}"), bytes.to_vec()))
}

/// The templates that this binary has.
fn known() -> String {
    let mut known: Vec<String> = embedded::TEMPLATES
        .iter()
        .filter_map(|(path, _)| Some(path.strip_suffix(MANIFEST)?.trim_end_matches('/').replace('/', " ")))
        .collect();
    known.sort();
    known.join(", ")
}

/// Refuses a place that has something in it.
fn free(folder: &Path) -> Result<()> {
    let is_free = match std::fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    if is_free {
        return Ok(());
    }
    let message = format!(
        "{} is there and not an empty folder; take another name, or another folder with --in",
        folder.display()
    );
    Err(Error::new(ErrorKind::Invalid, message))
}

/// Makes the folder beside its place and gives it its name when it is whole.
fn write(into: &Path, folder: &Path, files: &[(String, Vec<u8>)]) -> std::io::Result<()> {
    std::fs::create_dir_all(into)?;
    let partial = tempfile::Builder::new().prefix(".waypost-tmp-").tempdir_in(into)?;
    let whole = partial.path().join("new");
    for (path, bytes) in files {
        let file = whole.join(path);
        std::fs::create_dir_all(file.parent().unwrap_or(&whole))?;
        std::fs::write(&file, bytes)?;
    }
    std::fs::rename(&whole, folder)
}

/// The package of the SDK on its own: what it inherits from this workspace is spelled out.
fn rust_package() -> Result<String> {
    let broken =
        |error: toml::de::Error| Error::new(ErrorKind::Internal, "the embedded SDK cannot be read").because(error);
    let workspace: Table = toml::from_str(embedded::WORKSPACE).map_err(broken)?;
    let mut package: Table = toml::from_str(embedded::RUST_SDK_PACKAGE).map_err(broken)?;
    package.remove("lints");
    for (table, of) in [("package", "package"), ("dependencies", "dependencies")] {
        let inherited = workspace.get("workspace").and_then(|workspace| workspace.get(of));
        let Some(entries) = package.get_mut(table).and_then(Value::as_table_mut) else {
            continue;
        };
        for (name, value) in entries.iter_mut() {
            let inherits = value.get("workspace").and_then(Value::as_bool) == Some(true);
            if let (true, Some(of)) = (inherits, inherited.and_then(|inherited| inherited.get(name))) {
                *value = of.clone();
            }
        }
    }
    toml::to_string(&package)
        .map_err(|error| Error::new(ErrorKind::Internal, "the package of the SDK cannot be written").because(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sdk_stands_on_its_own() {
        let text = rust_package().unwrap();
        assert!(!text.contains("workspace") && text.contains("wit-bindgen"), "{text}");
        let names = |lock: &str| lock.lines().filter(|line| line.starts_with("name = ")).count();
        assert!(
            (10..60).contains(&names(embedded::RUST_LOCK)),
            "{}",
            embedded::RUST_LOCK
        );
    }

    #[test]
    fn every_template_is_whole() {
        for lang in [Lang::Rust, Lang::Js, Lang::Python] {
            for kind in ["handler", "provider", "agent", "observer"] {
                let below = format!("{}/{kind}/", lang.folder());
                let files: Vec<&str> = embedded::below(embedded::TEMPLATES, &below)
                    .map(|(path, _)| path)
                    .collect();
                if !files.contains(&MANIFEST) {
                    continue;
                }
                for wanted in [MANIFEST, "README.md", "gitignore"] {
                    assert!(files.contains(&wanted), "{below} has no {wanted}");
                }
                assert!(
                    files.iter().any(|file| file.starts_with("cases/")),
                    "{below} has no cases"
                );
            }
        }
        assert!(
            known().contains("rust agent, rust handler, rust observer, rust provider"),
            "{}",
            known()
        );
    }
}
