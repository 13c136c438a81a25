//! `waypost plugin build`: from a folder of source to one file that is a plugin, with its manifest inside.
//!
//! The component is made by the tools of its language ([`tools`]); what this adds is the check that manifest and component
//! fit each other, and the manifest. Not here: whether it works (`test`), and whether a hub would load it (`inspect`).

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::facts::Facts;
use crate::cli::{Context, output};
use crate::error::{Blame, Error, ErrorKind, Result};
use crate::plugin::contract::loading;
use crate::plugin::{Manifest, section};

mod tools;
mod wit;

use tools::Language;

/// The file in which a project says what it is.
pub(super) const MANIFEST: &str = "manifest.toml";

/// The folder of a project in which its component goes.
pub(super) const DIST: &str = "dist";

/// Builds a plugin from its source: one file with the manifest inside.
#[derive(Debug, Args)]
#[command(
    after_help = "The language follows from what is there: Cargo.toml is Rust, package.json JavaScript or TypeScript, \
pyproject.toml Python. What its tools say goes to standard error."
)]
pub(in crate::cli) struct Build {
    /// The folder of the source, with manifest.toml in it.
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Where the plugin goes. Default: dist/<id>.wasm in the folder.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Build {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode> {
        let built = build(&self.folder, self.out.as_deref()).await?;
        if context.json {
            output::json(&built.json())?;
        } else {
            built.show()?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Builds the plugin of a folder.
pub(super) async fn build(folder: &Path, out: Option<&Path>) -> Result<Facts> {
    let (text, manifest) = manifest(folder)?;
    let language = Language::of(folder)?;
    let bytes = language.component(folder, &manifest).await?;
    let out = match out {
        Some(out) => out.to_owned(),
        None => folder.join(DIST).join(format!("{}.wasm", manifest.id)),
    };
    let named = out.display().to_string();
    let bytes = section::write(&named, &bytes, &text)?;
    let facts = Facts::of(&out, &bytes, manifest)?;
    facts.world.fits(&facts.manifest)?;
    loading::check(&facts.manifest.id, &bytes)?;
    put(&out, &bytes).map_err(|error| {
        let message = format!("{named} cannot be written");
        Error::new(ErrorKind::Other, message)
            .blame(Blame::Caller)
            .because(error)
    })?;
    Ok(facts)
}

/// The manifest of a folder, as it stands there and read.
pub(super) fn manifest(folder: &Path) -> Result<(String, Manifest)> {
    let file = folder.join(MANIFEST);
    let text = std::fs::read_to_string(&file).map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            let message = format!(
                "{} has no {MANIFEST}, which says what the plugin is; `waypost plugin new` makes a folder with one",
                folder.display()
            );
            return Error::new(ErrorKind::NotFound, message);
        }
        Error::new(ErrorKind::Other, format!("{} cannot be read", file.display())).because(error)
    })?;
    let manifest = Manifest::parse(&file.display().to_string(), &text)?;
    Ok((text, manifest))
}

/// Writes a file so that there is never half of it under its name.
fn put(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder)?;
    let mut partial = tempfile::Builder::new()
        .prefix(".waypost-tmp-")
        .permissions(std::fs::Permissions::from_mode(0o666))
        .tempfile_in(folder)?;
    partial.write_all(bytes)?;
    partial.persist(file)?;
    Ok(())
}
