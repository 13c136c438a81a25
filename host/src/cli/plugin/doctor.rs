//! `waypost plugin doctor`: why a component does not fit this hub, item by item, and what to do.
//!
//! What differs is found by comparing contracts ([`contract`]); where nothing does, the hub's own loader has the last word.
//! It needs no hub, so that it can say why one does not start.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use super::alone::Alone;
use super::facts::fact;
use super::source::{component, looks_like_a_path, only_component};
use crate::bundled;
use crate::cli::{Context, output};
use crate::config::{Config, Grants, Wall};
use crate::error::{Error, ErrorKind, Result};
use crate::plugin::contract::examine::{Asking, Examined, examine};
use crate::plugin::contract::{Finding, Problem, Side, VERSION};
use crate::plugin::{Manifest, Origin, Source, installed, section};
use crate::text::{visible, visible_lines};

/// Says why a component does not fit this hub: which item of the contract, which side is older, and what to do.
#[derive(Debug, Args)]
#[command(
    after_help = "It compares the component with the contract of this binary, and needs no hub that runs.\n\
Exits with 0 when it fits, with 1 when it does not."
)]
pub(in crate::cli) struct Doctor {
    /// A component file, the folder of a project or of one component, or the id of a plugin of this hub.
    #[arg(value_name = "FILE|FOLDER|ID")]
    what: String,
}

impl Doctor {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode> {
        let project = context.project.clone();
        // Compiling takes its time.
        let looked = tokio::task::spawn_blocking(move || look(&project, &self.what)).await;
        let report = looked.map_err(|error| Error::new(ErrorKind::Internal, "a look failed").because(error))??;
        if context.json {
            output::json(&report.json())?;
        } else {
            report.show()?;
        }
        Ok(ExitCode::from(u8::from(!report.fits())))
    }
}

/// A component that was found, and what is known of it without a look at its types.
struct Found {
    shown: String,
    bytes: Arc<[u8]>,
    manifest: Result<Manifest>,
    origin: Origin,
    /// Whether nobody has decided yet what it gets.
    open: bool,
}

struct Report {
    what: String,
    name: Option<String>,
    examined: Examined,
}

impl Report {
    fn fits(&self) -> bool {
        self.examined.findings.is_empty()
    }

    fn json(&self) -> Value {
        json!({
            "component": self.what,
            "plugin": self.name,
            "hub": { "version": env!("CARGO_PKG_VERSION"), "contract": VERSION },
            "fits": self.fits(),
            "findings": self.examined.findings,
            "left_out": self.examined.left_out,
        })
    }

    fn show(&self) -> Result<()> {
        let what = match &self.name {
            Some(name) => format!("{} ({})", visible(name), visible(&self.what)),
            None => visible(&self.what),
        };
        if self.fits() {
            return output::line(&format!("{what} fits this hub, whose contract is {VERSION}"));
        }
        output::line(&format!("{what} does not fit this hub, whose contract is {VERSION}"))?;
        for finding in &self.examined.findings {
            output::line("")?;
            show(finding)?;
        }
        if self.examined.left_out > 0 {
            output::line("")?;
            output::line(&format!("and {} more", self.examined.left_out))?;
        }
        Ok(())
    }
}

fn show(finding: &Finding) -> Result<()> {
    output::line(&format!(
        "{}: {}",
        finding.problem.as_str(),
        visible_lines(&finding.text)
    ))?;
    for (name, text) in [("  plugin", &finding.component), ("  hub", &finding.hub)] {
        if let Some(text) = text {
            fact(name, &visible(text))?;
        }
    }
    match finding.older {
        Some(Side::Component) => fact("  older", "the plugin")?,
        Some(Side::Hub) => fact("  older", "the hub")?,
        None => {}
    }
    fact("  remedy", &visible(&finding.remedy))
}

fn look(project: &Path, what: &str) -> Result<Report> {
    let config = Config::read(&project.join(crate::config::FILE))?;
    let found = find(project, &config, what)?;
    let none = Grants::default();
    let granted = found.manifest.as_ref().ok().map(|manifest| match found.open {
        true => manifest.asks(),
        false => found.origin.effective(manifest),
    });
    let mut examined = examine(
        &found.bytes,
        &Asking {
            manifest: found.manifest.as_ref().ok(),
            grants: granted.as_ref().unwrap_or(&none),
            remedy: &|needed| match &found.manifest {
                Ok(manifest) => found.origin.gives(manifest, needed),
                Err(_) => format!("add `{}` to [grants] of its manifest", needed.line),
            },
        },
    );
    let name = found
        .manifest
        .as_ref()
        .ok()
        .map(|manifest| format!("{} {}", manifest.id, manifest.version));
    match found.manifest {
        // Where there is no component, that it has no manifest is no news.
        Err(error) if section::is_component(&found.bytes) => {
            let remedy = "build it with `waypost plugin build`, which puts manifest.toml inside";
            let finding = Finding::new(Problem::Manifest, error.chain(), remedy);
            examined.findings.insert(0, finding);
        }
        Ok(manifest) if examined.findings.is_empty() => {
            let origin = loadable(project, &manifest, found.origin, found.open);
            let source = Source {
                manifest,
                bytes: found.bytes,
                origin,
            };
            let loaded = Alone::new(&config.limits)?.load(&config.limits, source);
            if let Err(error) = loaded {
                let remedy = "do what the loader says; where it is a mistake of the hub, report it with the component";
                examined
                    .findings
                    .push(Finding::new(Problem::Load, error.chain(), remedy));
            }
        }
        _ => {}
    }
    Ok(Report {
        what: found.shown,
        name,
        examined,
    })
}

/// The origin with which it is loaded on trial: in this process, and where nobody has decided yet with all that it asks for.
fn loadable(project: &Path, manifest: &Manifest, origin: Origin, open: bool) -> Origin {
    match origin {
        Origin::Installed { path, grant, .. } => Origin::Installed {
            path,
            wall: Wall::InProcess,
            grant: if open { manifest.asks().placed(project) } else { grant },
        },
        Origin::Locked {
            source, signer, grant, ..
        } => Origin::Locked {
            source,
            signer,
            wall: Wall::InProcess,
            grant,
        },
        Origin::Bundled => Origin::Bundled,
    }
}

/// What somebody means: a file or a folder that is there, or a plugin of this project's hub.
fn find(project: &Path, config: &Config, what: &str) -> Result<Found> {
    let path = Path::new(what.strip_prefix("file:").unwrap_or(what));
    if path.exists() || looks_like_a_path(what) || what.contains('/') {
        let file = if path.is_dir() {
            only_component(path)?
        } else {
            path.to_owned()
        };
        return of_file(project, config, file);
    }
    if let Some((bytes, origin)) = installed::stored(project, config, what)? {
        let shown = match &origin {
            Origin::Locked { source, .. } => source.clone(),
            _ => what.to_owned(),
        };
        let manifest = inside(&format!("plugin `{what}`"), &bytes);
        return Ok(Found {
            shown,
            bytes,
            manifest,
            origin,
            open: false,
        });
    }
    let mut known = Vec::new();
    for entry in &config.plugins {
        let file = project.join(&entry.path);
        let Ok(found) = of_file(project, config, file) else {
            continue;
        };
        match &found.manifest {
            Ok(manifest) if manifest.id == what => return Ok(found),
            Ok(manifest) => known.push(manifest.id.clone()),
            Err(_) => {}
        }
    }
    for source in bundled::sources() {
        let source = source?;
        if source.manifest.id == what {
            return Ok(Found {
                shown: "part of this binary".to_owned(),
                bytes: source.bytes,
                manifest: Ok(source.manifest),
                origin: source.origin,
                open: false,
            });
        }
        known.push(source.manifest.id);
    }
    known.extend(installed::ids(project)?);
    known.sort();
    let message = format!(
        "`{}` is neither a file nor a folder nor a plugin of this project; there are: {}",
        what.escape_debug(),
        known.join(", ")
    );
    Err(Error::new(ErrorKind::NotFound, message))
}

fn of_file(project: &Path, config: &Config, file: PathBuf) -> Result<Found> {
    let bytes: Arc<[u8]> = component(&file, config.limits.plugin.component)?.into();
    let real = std::fs::canonicalize(&file).ok();
    let entry = config
        .plugins
        .iter()
        .find(|entry| real.is_some() && std::fs::canonicalize(project.join(&entry.path)).ok() == real);
    let manifest = Source::manifest(&file, &bytes);
    Ok(Found {
        shown: file.display().to_string(),
        bytes,
        manifest,
        open: entry.is_none(),
        origin: Origin::Installed {
            path: file,
            wall: Wall::InProcess,
            grant: entry.map(|entry| entry.grant.clone()).unwrap_or_default(),
        },
    })
}

/// The manifest inside a component, beside which none counts.
fn inside(what: &str, bytes: &[u8]) -> Result<Manifest> {
    match section::read(what, bytes)? {
        Some(text) => Manifest::parse(&format!("the manifest inside {what}"), text),
        None => Err(Error::new(
            ErrorKind::NotFound,
            format!("{what} has no manifest inside"),
        )),
    }
}
