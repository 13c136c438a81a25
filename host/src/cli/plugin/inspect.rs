//! `waypost plugin inspect`: what a plugin is and asks for, and what the hub of this project says to it.
//!
//! The answer of the hub is that of the code which loads plugins, run here. All that the component says of itself is a
//! stranger's text.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::alone::Alone;
use super::facts::{Facts, fact, facts};
use crate::cli::client::Client;
use crate::cli::{Context, output};
use crate::config::{Config, Grants, Wall};
use crate::error::{Error, ErrorKind, Result};
use crate::plugin::Source;
use crate::plugin::terms::Term;
use crate::text::{visible, visible_lines};

/// Shows what a plugin is, imports, exports and asks for, and whether the hub of this project would load it.
#[derive(Debug, Args)]
#[command(after_help = "Exits with 1 when the hub would not load it.")]
pub(in crate::cli) struct Inspect {
    /// A component file, or the id of a loaded plugin.
    #[arg(value_name = "FILE|ID")]
    what: String,
}

impl Inspect {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode> {
        let path = Path::new(&self.what);
        let named = self.what.contains('/') || self.what.ends_with(".wasm");
        if named || path.is_file() {
            return file(context, path.to_owned()).await;
        }
        loaded(context, &self.what).await
    }
}

/// What the hub of a project says to a file.
struct Verdict {
    fits: bool,
    text: String,
    /// The entry of `waypost.toml` that lets it in, when there is none.
    entry: Option<String>,
}

impl Verdict {
    fn json(&self) -> Value {
        json!({ "fits": self.fits, "text": self.text, "entry": self.entry })
    }

    fn show(&self) -> Result<()> {
        fact("hub", &visible_lines(&self.text))?;
        if let Some(entry) = &self.entry {
            output::line("")?;
            output::line(entry)?;
        }
        Ok(())
    }
}

async fn file(context: &Context, path: PathBuf) -> Result<ExitCode> {
    let project = context.project.clone();
    // Compiling takes its time.
    let looked = tokio::task::spawn_blocking(move || look(&project, &path)).await;
    let (facts, verdict) =
        looked.map_err(|error| Error::new(ErrorKind::Internal, "a look failed").because(error))??;
    if context.json {
        let mut shown = facts.json();
        if let Some(shown) = shown.as_object_mut() {
            shown.insert("hub".to_owned(), verdict.json());
        }
        output::json(&shown)?;
    } else {
        facts.show()?;
        world(&facts)?;
        verdict.show()?;
    }
    Ok(ExitCode::from(u8::from(!verdict.fits)))
}

fn look(project: &Path, path: &Path) -> Result<(Facts, Verdict)> {
    let config = Config::read(&project.join("waypost.toml"))?;
    let largest = config.limits.plugin.component;
    let real = std::fs::canonicalize(path).ok();
    let entry = config
        .plugins
        .iter()
        .find(|entry| real.is_some() && std::fs::canonicalize(project.join(&entry.path)).ok() == real);
    let (wall, grant) = match entry {
        Some(entry) => (entry.wall, entry.grant.clone()),
        None => (Wall::InProcess, Grants::default()),
    };
    let mut source = Source::read(path, wall, grant, largest)?;
    let facts = Facts::of(path, &source.bytes, source.manifest.clone())?;
    if entry.is_none() {
        source = Source::read(path, wall, source.manifest.asks().placed(project), largest)?;
    }
    let alone = Alone::new(&config.limits)?;
    let loads = alone.load(&config.limits, source);
    let verdict = match (loads, entry) {
        (Err(error), _) => Verdict {
            fits: false,
            text: format!(
                "{}\n`waypost plugin doctor {}` says why, item by item",
                error.chain(),
                path.display()
            ),
            entry: None,
        },
        (Ok(_), Some(_)) => Verdict {
            fits: true,
            text: "fits: its [[plugin]] entry in waypost.toml grants what it cannot do without".to_owned(),
            entry: None,
        },
        (Ok(_), None) => Verdict {
            fits: true,
            text: "fits, when it is granted what it asks for; waypost.toml has no entry for it yet:".to_owned(),
            entry: Some(wanted(path, &facts)?),
        },
    };
    Ok((facts, verdict))
}

/// The entry that grants all that it asks for.
fn wanted(path: &Path, facts: &Facts) -> Result<String> {
    #[derive(serde::Serialize)]
    struct Entry<'a> {
        path: &'a Path,
        wall: &'static str,
    }
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let head = Entry {
        path: &path,
        wall: "in-process",
    };
    let head = toml::to_string(&head)
        .map_err(|error| Error::new(ErrorKind::Internal, "an entry cannot be written").because(error))?;
    let asks = facts.manifest.asks().placed(Path::new("<where it is>"));
    let grant = if Term::all(&asks).is_empty() {
        String::new()
    } else {
        format!("grant = {}\n", inline(&asks)?)
    };
    Ok(format!("[[plugin]]\n{head}{grant}").trim_end().to_owned())
}

/// These grants as an inline table of `waypost.toml`, with what they say alone.
pub(super) fn inline(grants: &Grants) -> Result<String> {
    let grants = toml::Table::try_from(grants)
        .map_err(|error| Error::new(ErrorKind::Internal, "a grant cannot be written").because(error))?;
    let says_something = |value: &toml::Value| match value {
        toml::Value::Boolean(given) => *given,
        value => value.as_array().is_none_or(|list| !list.is_empty()),
    };
    let grants: toml::Table = grants.into_iter().filter(|(_, value)| says_something(value)).collect();
    Ok(toml::Value::Table(grants).to_string())
}

fn world(about: &Facts) -> Result<()> {
    let names = |names: &[String]| match names {
        [] => vec!["nothing".to_owned()],
        names => names.iter().map(|name| visible(name)).collect(),
    };
    facts("exports", &names(&about.world.exports))?;
    facts("imports", &names(&about.world.imports))
}

/// A plugin that the hub has loaded, and whether its file is still the one that was loaded.
async fn loaded(context: &Context, id: &str) -> Result<ExitCode> {
    let list: Vec<Value> = Client::with(&context.project, async |client| client.get("/plugins").await).await?;
    let text = |one: &Value, name: &str| one.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let Some(one) = list.iter().find(|one| text(one, "id") == id) else {
        let known: Vec<String> = list.iter().map(|one| text(one, "id")).collect();
        let message = format!(
            "`{}` is neither a file nor a loaded plugin; loaded are: {}",
            id.escape_debug(),
            known.join(", ")
        );
        return Err(Error::new(ErrorKind::NotFound, message));
    };
    let (origin, digest) = (text(one, "origin"), text(one, "digest"));
    let source = Source::read(Path::new(&origin), Wall::InProcess, Default::default(), usize::MAX).ok();
    let about = source.and_then(|source| Facts::of(Path::new(&origin), &source.bytes, source.manifest).ok());
    let state = match &about {
        _ if origin == "bundled" => "loaded; it is part of this binary",
        Some(about) if about.digest == digest => "loaded, as the file is now",
        Some(_) => "loaded, and the file has changed since: `waypost plugin reload` takes the new one",
        None => "loaded, and its file cannot be read any more",
    };
    if context.json {
        let file = about.as_ref().map(Facts::json);
        output::json(&json!({ "loaded": one, "state": state, "file": file }))?;
        return Ok(ExitCode::SUCCESS);
    }
    match &about {
        Some(about) => {
            about.show()?;
            world(about)?;
        }
        None => {
            fact(
                "plugin",
                &format!(
                    "{} {}: {}",
                    visible(id),
                    visible(&text(one, "version")),
                    visible(&text(one, "description"))
                ),
            )?;
            fact("role", &visible(&text(one, "role")))?;
            fact("digest", &format!("sha256:{}", visible(&digest)))?;
        }
    }
    fact("hub", state)?;
    Ok(ExitCode::SUCCESS)
}
