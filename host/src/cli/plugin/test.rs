//! `waypost plugin test`: the author's cases, and a kit of faults that every plugin has to bear, without a hub.
//!
//! The component is loaded as the hub loads it, with the same linker and limits, and is granted what its manifest asks for.
//! Around it everything is faked or in memory. Not here: unit tests in the language of the plugin, which its own tools run.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use super::build;
use crate::call::{CallError, Json};
use crate::cli::{Context, output};
use crate::config::{Config, Limits};
use crate::error::{Error, ErrorKind, Result};
use crate::plugin::Loaded;
use crate::text::{shortened, visible};

pub(super) mod cases;
mod fake;
mod kit;
mod odd;
mod stage;

use cases::Case;
use fake::Manner;
use stage::{Came, Made, Scene, Stage};

/// The most characters of a text that stand in a line of the report.
const SHOWN: usize = 300;

/// Tests a plugin without a hub: its own cases, and a kit of faults that every plugin has to bear.
#[derive(Debug, Args)]
#[command(after_help = "The cases are the files cases/*.toml of the folder. Exits with 1 when a check failed.")]
pub(in crate::cli) struct Test {
    /// The folder of the source, which is built first, or a component file.
    #[arg(value_name = "FOLDER|FILE", default_value = ".")]
    what: PathBuf,
    /// Run only the checks whose name holds this.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// The folder of the cases. Default: cases in the folder of the source; none for a file.
    #[arg(long, value_name = "FOLDER")]
    cases: Option<PathBuf>,
}

/// What a check came to: what happened, or what is wrong.
type Checked = std::result::Result<String, String>;

impl Test {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode> {
        let (file, cases) = if self.what.is_dir() {
            let built = build::build(&self.what, None).await?;
            (built.file, self.cases.or_else(|| Some(self.what.join("cases"))))
        } else {
            (self.what, self.cases)
        };
        let limits = Config::read(&context.project.join("waypost.toml"))?.limits;
        let opened = tokio::task::spawn_blocking(move || Stage::open(&file, limits)).await;
        let stage = opened.map_err(|error| Error::new(ErrorKind::Internal, "loading failed").because(error))??;
        let cases = match &cases {
            Some(folder) => cases::read(folder, stage.manifest())?,
            None => Vec::new(),
        };
        let checks = async {
            let mut report = Report::new(context.json, self.only);
            for case in &cases {
                if report.wants(&case.name) {
                    let checked = check(&stage, case).await?;
                    report.line(&case.name, &checked)?;
                }
            }
            kit::run(&stage, &cases, &mut report).await?;
            report.end()
        };
        // Building may have taken the signals over.
        tokio::select! {
            done = checks => done,
            _ = crate::cli::told_to_stop() => Err(Error::new(ErrorKind::Cancelled, "the test was stopped")),
        }
    }
}

/// Plays the cases of a folder with a component, for who looks at it meanwhile: what was called, how many cases there are,
/// and which of them came to something else.
pub(super) async fn played(file: PathBuf, folder: &Path, limits: Limits) -> Result<(Arc<Loaded>, u64, Vec<String>)> {
    let opened = tokio::task::spawn_blocking(move || Stage::open(&file, limits)).await;
    let stage = opened.map_err(|error| Error::new(ErrorKind::Internal, "loading failed").because(error))??;
    let (mut played, mut wrong) = (0, Vec::new());
    for case in cases::read(folder, stage.manifest())? {
        played += 1;
        if let Err(text) = check(&stage, &case).await? {
            wrong.push(format!("{}: {text}", case.name));
        }
    }
    Ok((Arc::clone(stage.loaded()), played, wrong))
}

/// The lines of the report.
struct Report {
    json: bool,
    only: Option<String>,
    names: Vec<String>,
    checks: usize,
    failed: usize,
}

impl Report {
    fn new(json: bool, only: Option<String>) -> Self {
        Self {
            json,
            only,
            names: Vec::new(),
            checks: 0,
            failed: 0,
        }
    }

    /// Whether a check is to be run.
    fn wants(&mut self, name: &str) -> bool {
        self.names.push(name.to_owned());
        self.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }

    fn line(&mut self, name: &str, checked: &Checked) -> Result<()> {
        self.checks += 1;
        let (ok, text) = match checked {
            Ok(text) => (true, text),
            Err(text) => (false, text),
        };
        self.failed += usize::from(!ok);
        if self.json {
            return output::line(&json!({ "check": name, "ok": ok, "text": text }).to_string());
        }
        let word = if ok { "ok  " } else { "FAIL" };
        let text = if text.is_empty() {
            String::new()
        } else {
            format!(" - {}", visible(text))
        };
        output::line(&format!("{word}  {}{text}", visible(name)))
    }

    fn end(self) -> Result<ExitCode> {
        if let (0, Some(only)) = (self.checks, &self.only) {
            let message = format!(
                "no check has a name that holds `{}`; there are: {}",
                only.escape_debug(),
                self.names.join(", ")
            );
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        let (checks, failed) = (self.checks, self.failed);
        if self.json {
            output::line(&json!({ "checks": checks, "failed": failed }).to_string())?;
        } else {
            output::line(&format!("{checks} checks, {failed} failed"))?;
        }
        Ok(ExitCode::from(u8::from(failed > 0)))
    }
}

/// Runs one case.
async fn check(stage: &Stage, case: &Case) -> Result<Checked> {
    let scene = stage.scene(Manner::Exactly(case.fake.clone()))?;
    scene.keep(&case.state).await?;
    let made = Made {
        name: case.call.0.clone(),
        message: case.message.0.clone(),
        limit: case.timeout.unwrap_or_else(|| stage.timeout()),
    };
    let came = scene.call(stage.loaded(), &made).await;
    let mut wrong = scene.fake.mistakes();
    wrong.extend(unexpected(case, &came, &scene));
    if let Some(expected) = &case.state_after {
        let kept = scene.kept().await?;
        let is_same = kept.len() == expected.len()
            && kept
                .iter()
                .zip(expected)
                .all(|((key, value), (wanted, text))| key == wanted && same_text(value, text));
        if !is_same {
            wrong.push(format!("it keeps {kept:?} and not {expected:?}"));
        }
    }
    Ok(match wrong.as_slice() {
        [] => Ok(String::new()),
        wrong => Err(wrong.join("; ")),
    })
}

/// What a call came to that its case does not say.
fn unexpected(case: &Case, came: &Came, scene: &Scene) -> Vec<String> {
    let mut wrong = Vec::new();
    match (&case.reply, &case.error, &came.result) {
        (Some(expected), _, Ok(reply)) if !same(&expected.0, reply) => wrong.push(format!(
            "it replied {} and not {}",
            short(reply.as_str()),
            short(expected.0.as_str())
        )),
        (Some(_), _, Err(error)) => wrong.push(ended(error, scene)),
        (None, Some(_), Ok(reply)) => wrong.push(format!("it replied {} and no error", short(reply.as_str()))),
        (None, Some(expected), Err(error))
            if error.kind != expected.kind || !error.message.contains(&expected.says) =>
        {
            wrong.push(format!(
                "{}; expected was {} that says `{}`",
                ended(error, scene),
                expected.kind,
                expected.says
            ));
        }
        _ => {}
    }
    if let Some(expected) = &case.chunks {
        let is_same = expected.len() == came.chunks.len()
            && expected
                .iter()
                .zip(&came.chunks)
                .all(|(expected, chunk)| same(&expected.0, chunk));
        if !is_same {
            let chunks: Vec<&str> = came.chunks.iter().map(Json::as_str).collect();
            wrong.push(format!(
                "its chunks were {}",
                short(&format!("[{}]", chunks.join(", ")))
            ));
        }
    }
    wrong
}

/// How a call failed, with what the plugin said last when it broke.
fn ended(error: &CallError, scene: &Scene) -> String {
    let said = match scene.last_words() {
        Some(line) if error.kind == ErrorKind::Trapped => format!("; the last it said: {}", short(&line)),
        _ => String::new(),
    };
    // A hub that remembers what it said is not there.
    let message = error.message.split("; `waypost plugin logs").next().unwrap_or_default();
    format!("it ended with {}: {}{said}", error.kind, short(message))
}

/// Whether two texts are the same JSON.
fn same(one: &Json, other: &Json) -> bool {
    match (one.to::<Value>(), other.to::<Value>()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

/// Whether two values of a store are the same: as JSON where they are that, else as they stand.
fn same_text(one: &str, other: &str) -> bool {
    match (Json::parse(one), Json::parse(other)) {
        (Ok(one), Ok(other)) => same(&one, &other),
        _ => one == other,
    }
}

/// A text, short enough for a line of the report.
fn short(text: &str) -> String {
    shortened(text, SHOWN)
}
