//! `waypost plugin add`: what a component is, what it asks for, and the decision about it.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::super::client::Client;
use super::super::{Context, output};
use super::source::{Fetched, Signature, fetch};
use crate::config::{self, Config, Wall};
use crate::error::{Blame, Error, ErrorKind, Result};
use crate::plugin::installed::{Decision, Outcome, Plan, Wanted};
use crate::text::{shortened, visible};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  waypost plugin add ./tickets.wasm --wall in-process
  waypost plugin add ghcr.io/acme/tickets:1.2 --grant state --grant gateway=fsEvent:readFile --route
  waypost plugin add ghcr.io/acme/tickets:1.3 --as tickets-next     # to be the `shadow` of `tickets`

It asks before it installs. Where nobody can be asked, `--yes` grants all that the component asks for and `--grant` a part;
a new version that asks for more than the one before is then kept and not loaded until `waypost plugin grant`.
Exit code: 0 when it is installed, 1 when it is not or not yet, 2 when it is asked for wrongly.")]
pub(in crate::cli) struct Add {
    /// A component file, a folder with one in it, or <registry>/<name>:<tag>.
    source: String,
    /// Grants all that it asks for.
    #[arg(long, short)]
    yes: bool,
    /// Grants this of what it asks for, as in `state`, `gateway=fsEvent:readFile`, `files=docs=/srv/docs:write`,
    /// `process=git=/usr/bin/git` or `socket=docker=/run/docker.sock`; may be repeated. `none` grants nothing of it. With
    /// `--yes` it says where things are.
    #[arg(long = "grant", value_name = "GRANT")]
    grants: Vec<String>,
    /// Installs it under this id, not under the one in its manifest: a candidate beside the version in use, say.
    #[arg(long = "as", value_name = "ID")]
    id: Option<String>,
    /// Where its code runs; when nobody says, where the version before ran, else in a worker process.
    #[arg(long, value_enum)]
    wall: Option<Place>,
    /// Adds the rule to `waypost.toml` that makes it reachable.
    #[arg(long)]
    route: bool,
    /// Its signature, when it does not lie beside it as <file>.minisig.
    #[arg(long, value_name = "FILE", conflicts_with = "unsigned")]
    signature: Option<PathBuf>,
    /// Takes it as one that is not signed, where that is allowed.
    #[arg(long)]
    unsigned: bool,
    /// Lets an older version replace a newer one.
    #[arg(long)]
    downgrade: bool,
    /// Lets it replace a version that somebody else signed.
    #[arg(long)]
    signer_changed: bool,
}

/// Where a plugin's code runs.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Place {
    /// In the hub's process, inside its sandbox.
    InProcess,
    /// In a worker process of its own.
    Worker,
}

/// What `--grant` says for nothing at all.
pub(super) const NONE: &str = "none";

impl From<Place> for Wall {
    fn from(place: Place) -> Self {
        match place {
            Place::InProcess => Self::InProcess,
            Place::Worker => Self::Worker,
        }
    }
}

impl Add {
    /// Installs this with these grants, in this place.
    pub(super) fn deciding(source: String, grants: Vec<String>, wall: Option<Place>) -> Self {
        Self {
            source,
            yes: false,
            grants,
            id: None,
            wall,
            route: false,
            signature: None,
            unsigned: false,
            downgrade: false,
            signer_changed: false,
        }
    }

    /// What was decided about what it asks for.
    fn decision(&self) -> Result<Decision> {
        if !self.grants.iter().any(|grant| grant == NONE) {
            return Ok(match (self.yes, self.grants.is_empty()) {
                (true, _) => Decision::All(self.grants.clone()),
                (false, true) => Decision::Open,
                (false, false) => Decision::These(self.grants.clone()),
            });
        }
        if self.yes || self.grants.len() > 1 {
            let message = "`--grant none` grants nothing, and stands alone: remove the others, or `--yes`";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(Decision::These(Vec::new()))
    }

    pub(super) async fn run(self, context: &Context) -> Result<ExitCode> {
        let signature = match &self.signature {
            Some(file) => Signature::File(file),
            None if self.unsigned => Signature::None,
            None => Signature::Beside,
        };
        let fetched = fetch(&context.project, &self.source, signature).await?;
        let ask = async |client: &Client| self.decide(client, context, fetched).await;
        Client::with(&context.project, ask).await
    }

    async fn decide(&self, client: &Client, context: &Context, fetched: Fetched) -> Result<ExitCode> {
        let mut wanted = Wanted {
            source: fetched.source,
            manifest: fetched.manifest,
            signature: fetched.signature,
            id: self.id.clone(),
            wall: self.wall.map(Wall::from),
            decision: self.decision()?,
            downgrade: self.downgrade,
            signer_changed: self.signer_changed,
            commit: false,
        };
        let looked: Plan = client.send_component(&wanted, &fetched.bytes).await?;
        if !context.json {
            show(&looked, wanted.decision == Decision::Open)?;
        }
        let somebody = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        if wanted.decision == Decision::Open && somebody && !context.json {
            if !asked(&looked).await {
                output::note("nothing was installed");
                return Ok(ExitCode::FAILURE);
            }
            wanted.decision = Decision::All(Vec::new());
        }
        wanted.commit = true;
        let done: Plan = client.send_component(&wanted, &fetched.bytes).await?;
        let held = done.outcome == Outcome::Held;
        let routed = if held {
            None
        } else {
            route(&context.project, &done, self.route)?
        };
        if context.json {
            output::json(&done)?;
        } else {
            told(&done, routed)?;
        }
        Ok(if held { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// What it is and what it asks for, a line each.
fn show(plan: &Plan, open: bool) -> Result<()> {
    let role = plan.role.as_str();
    let a = if role.starts_with(['a', 'o']) { "an" } else { "a" };
    let about = if plan.description.is_empty() {
        String::new()
    } else {
        format!(": {}", shortened(&plan.description, 200))
    };
    output::line(&format!("{} {}, {a} {role}{about}", plan.id, visible(&plan.version)))?;
    let mut facts = Vec::new();
    facts.extend(
        plan.component
            .iter()
            .map(|id| ("is", format!("{}, installed under another id", visible(id)))),
    );
    facts.extend([
        ("digest", plan.digest.clone()),
        ("size", bytesize::ByteSize(plan.size as u64).to_string()),
        ("from", visible(&plan.source)),
    ]);
    facts.extend(plan.manifest.iter().map(|digest| ("resolved", visible(digest))));
    facts.push((
        "signed",
        match (&plan.signed_by, &plan.comment) {
            (Some(by), Some(comment)) => format!("by {}, who says: {}", visible(by), shortened(comment, 500)),
            _ => "by nobody".to_owned(),
        },
    ));
    if !plan.serves.is_empty() {
        let serves: Vec<String> = plan.serves.iter().map(|pattern| visible(pattern)).collect();
        facts.push(("serves", shortened(&serves.join(", "), 500)));
    }
    if let Some(installed) = &plan.installed {
        facts.push(("instead", format!("of {}, which is installed", visible(installed))));
    }
    for (name, text) in facts {
        output::line(&format!("  {name:<9}{text}"))?;
    }
    for warning in &plan.warnings {
        output::line(&format!("  warning  {}", visible(warning)))?;
    }
    if plan.asks.is_empty() {
        return output::line("it asks for nothing");
    }
    output::line("it asks to")?;
    for asked in &plan.asks {
        let mark = match (asked.granted, asked.new, open) {
            (_, true, true) => "new",
            (false, _, false) => "no",
            _ => "",
        };
        output::line(&format!(
            "  {mark:<4} {:<58} {}",
            visible(&asked.words),
            visible(&asked.grant)
        ))?;
    }
    Ok(())
}

async fn asked(plan: &Plan) -> bool {
    let all = if plan.asks.is_empty() {
        ""
    } else {
        " and grant all of it"
    };
    output::confirmed(format!("install it{all}? [y/N] ")).await
}

/// What happened, and what is left to do.
fn told(plan: &Plan, routed: Option<Routed>) -> Result<()> {
    let (id, version) = (&plan.id, visible(&plan.version));
    if plan.outcome == Outcome::Held {
        let installed = visible(plan.installed.as_deref().unwrap_or_default());
        output::line(&format!(
            "{id} {version} is kept and not loaded; {id} {installed} goes on"
        ))?;
        let more: Vec<String> = plan
            .asks
            .iter()
            .filter(|asked| !asked.granted)
            .map(|asked| visible(&asked.grant))
            .collect();
        output::note(&format!(
            "it asks for more than was granted: `waypost plugin grant {id} {}` loads it",
            more.join(" ")
        ));
        return Ok(());
    }
    let denied: Vec<String> = plan
        .asks
        .iter()
        .filter(|asked| !asked.granted)
        .map(|asked| visible(&asked.grant))
        .collect();
    let without = if denied.is_empty() {
        String::new()
    } else {
        format!(", without {}", denied.join(", "))
    };
    output::line(&format!("{id} {version} is installed{without}"))?;
    match routed {
        Some(Routed::Added(rule)) => output::note(&format!("added to {}:\n{rule}", config::FILE)),
        Some(Routed::Missing(_)) if plan.component.is_some() => output::note(&format!(
            "no rule leads to it; `shadow = \"plugin:{id}\"` in a rule of {} gives it a copy of each read",
            config::FILE
        )),
        Some(Routed::Missing(rule)) => output::note(&format!(
            "no rule leads to it yet; add this to {}, or say `--route`:\n{rule}",
            config::FILE
        )),
        None => {}
    }
    Ok(())
}

/// What became of the rule that leads to a plugin.
enum Routed {
    Added(String),
    Missing(String),
}

/// Adds the rule that leads to a plugin, or says which one is missing; none when there is one.
fn route(project: &Path, plan: &Plan, add: bool) -> Result<Option<Routed>> {
    let Some(rule) = &plan.route else { return Ok(None) };
    let file = project.join(config::FILE);
    let target = format!("plugin:{}", plan.id);
    let leads = |route: &config::Route| {
        route.to.to_string() == target || route.fallback.iter().any(|other| other.to_string() == target)
    };
    if Config::read(&file)?.routes.iter().any(leads) {
        return Ok(None);
    }
    if !add {
        return Ok(Some(Routed::Missing(rule.clone())));
    }
    let cannot = |error: std::io::Error| {
        let message = format!(
            "it is installed, but {} cannot be written; add the rule yourself",
            file.display()
        );
        Error::new(ErrorKind::Internal, message)
            .blame(Blame::Operator)
            .because(error)
    };
    let there = match std::fs::read(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(cannot(error)),
    };
    let before = match there.last() {
        None => "",
        Some(b'\n') => "\n",
        Some(_) => "\n\n",
    };
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(&file)
        .and_then(|mut file| {
            file.write_all(format!("{before}{rule}").as_bytes())?;
            file.sync_all()
        })
        .map_err(cannot)?;
    Ok(Some(Routed::Added(rule.clone())))
}

impl Client {
    /// Sends a component behind what is wanted of it.
    async fn send_component(&self, wanted: &Wanted, bytes: &[u8]) -> Result<Plan> {
        let mut body = json!(wanted).to_string().into_bytes();
        body.push(b'\n');
        body.extend_from_slice(bytes);
        let plan: Value = self.post_bytes("/installed", body).await?;
        serde_json::from_value(plan)
            .map_err(|error| Error::new(ErrorKind::Internal, "the hub's answer cannot be read").because(error))
    }
}
