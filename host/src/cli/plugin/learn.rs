//! `waypost plugin learn`: what of its grants a plugin used, the smallest ones that would have been enough, and taking the rest.
//!
//! A file or a project is tried here (`learn/tried.rs`), with all that its manifest asks for; a loaded plugin was watched by
//! its hub since it was loaded. Not here: what is proposed (`plugin/learned.rs`).

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use axum::http::Method;
use clap::Args;
use futures::StreamExt;
use serde_json::{Value, json};

use super::add::{Add, Place};
use super::source::{looks_like_a_path, only_component};
use super::{build, decide};
use crate::call::{CallName, Json};
use crate::cli::client::{Client, part};
use crate::cli::{Context, output};
use crate::config::{Config, FILE, Grants};
use crate::error::{Error, ErrorKind, Result};
use crate::plugin::learned::{Learned, Whose};
use crate::plugin::terms::Term;
use crate::text::{visible, visible_lines};

mod tried;

/// Shows which of its grants a plugin needed for what it did, and proposes to take the rest.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  waypost plugin learn tickets                                     what it used since the hub loaded it
  waypost plugin learn tickets --apply                             the same, and takes what it did not use
  waypost plugin learn ./tickets.wasm --call ticket:find --message '{\"id\":7}'
  waypost plugin learn ./tickets.wasm --call ticket:find --grant files=docs=./docs
  waypost plugin learn my-tickets                                  a project: builds it and plays its cases

An id stands for a loaded plugin; `--call` makes calls first, by the rules. A file is tried in a hub of its own, which works on
this project and is granted all that the manifest asks for; what it does there is done. The cases of a project have their fakes
and no hub. Only what was seen is known: make all the calls that it is for.
Exit code: 0 when it is known, 1 when a call failed or none was made, 2 when it is asked for wrongly.")]
pub(in crate::cli) struct Learn {
    /// A component file, the folder of one or of a project, or the id of a loaded plugin.
    #[arg(value_name = "FILE|FOLDER|ID")]
    what: String,
    /// A call to make, as <kind> or <kind>:<action>; may be repeated. Of other roles the operation, as provider:create.
    #[arg(long = "call", value_name = "CALL")]
    calls: Vec<String>,
    /// Its message, as JSON: one for each call in the same order, or none at all, which is {}.
    #[arg(long = "message", value_name = "JSON", requires = "calls")]
    messages: Vec<String>,
    /// Where a folder, a program or a socket is that a file asks for, as in `files=docs=./docs`; may be repeated.
    #[arg(long = "grant", value_name = "GRANT", requires = "calls")]
    places: Vec<String>,
    /// Where the code of a file runs; a worker process when nobody says.
    #[arg(long, value_enum)]
    wall: Option<Place>,
    /// Takes what was not needed from an installed plugin; installs a file with what it needed.
    #[arg(long)]
    apply: bool,
    /// Does not ask before that.
    #[arg(long, short, requires = "apply")]
    yes: bool,
}

/// A call that is made so that something is seen.
struct Made {
    name: CallName,
    message: Json,
}

/// What was seen.
struct Seen {
    learned: Learned,
    /// Calls that failed, and how.
    failed: Vec<String>,
}

impl Learn {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode> {
        let made = self.made()?;
        let path = PathBuf::from(&self.what);
        if !looks_like_a_path(&self.what) && !path.exists() {
            if let Some(place) = self.places.first() {
                let message =
                    format!("`--grant {place}` is for a file that is tried; a loaded plugin has what it was granted");
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            return Client::with(&context.project, async |client| {
                self.loaded(client, context, &made).await
            })
            .await;
        }
        let (seen, file) = self.unloaded(context, &path, made).await?;
        let lines = vec![self.installs(&file, &seen.learned)];
        show(&seen, &lines, context.json)?;
        if !self.sure("install it with these grants", &seen).await? {
            return Ok(exit(&seen));
        }
        let source = file.display().to_string();
        Add::deciding(source, some(seen.learned.proposed), self.wall)
            .run(context)
            .await
    }

    /// The calls that are to be made.
    fn made(&self) -> Result<Vec<Made>> {
        let wrong = |message: String| Error::new(ErrorKind::Invalid, message);
        let (calls, messages) = (self.calls.len(), self.messages.len());
        if messages != 0 && messages != calls {
            return Err(wrong(format!(
                "there are {calls} calls and {messages} messages: write one `--message` for each `--call`, or none"
            )));
        }
        let given = self.messages.iter().map(String::as_str);
        let given = given.chain(std::iter::repeat("{}"));
        let made = |(call, message): (&String, &str)| {
            Ok(Made {
                name: call.parse()?,
                message: Json::parse(message)
                    .map_err(|error| wrong(format!("the message of {call} is {}", error.message)))?,
            })
        };
        self.calls.iter().zip(given).map(made).collect()
    }

    /// Tries what is not loaded: with these calls, or with the cases of a project.
    async fn unloaded(&self, context: &Context, path: &Path, made: Vec<Made>) -> Result<(Seen, PathBuf)> {
        let is_project = path.join(build::MANIFEST).is_file();
        let file = if is_project {
            build::build(path, None).await?.file
        } else if path.is_dir() {
            only_component(path)?
        } else {
            path.to_owned()
        };
        let config = Config::read(&context.project.join(FILE))?;
        let seen = match (made.is_empty(), is_project) {
            (false, _) => tried::called(context, config, &file, self.wall(), &self.places, made).await?,
            (true, true) => tried::played(&file, &path.join("cases"), config.limits).await?,
            (true, false) => {
                let message = format!(
                    "{} does nothing by itself: say which calls to make, as in `--call kind:action --message '{{}}'`",
                    path.display()
                );
                return Err(Error::new(ErrorKind::Invalid, message));
            }
        };
        Ok((seen, file))
    }

    /// What a loaded plugin was seen to use.
    async fn loaded(&self, client: &Client, context: &Context, made: &[Made]) -> Result<ExitCode> {
        let path = format!("/plugins/{}/learned", part(&self.what));
        let mut learned: Learned = client.get(&path).await?;
        let mut failed = Vec::new();
        if !made.is_empty() {
            client.begin();
            for call in made {
                failed.extend(ask(client, call).await?);
            }
            learned = client.get(&path).await?;
        }
        let seen = Seen { learned, failed };
        show(&seen, &lines(&seen.learned)?, context.json)?;
        let learned = &seen.learned;
        if self.apply && !is_small(learned) && learned.whose != Whose::Installed {
            let message = match learned.whose {
                Whose::Bundled => format!(
                    "plugin `{}` is part of this binary, and has what it asks for",
                    learned.id
                ),
                _ => format!(
                    "plugin `{}` stands in {FILE}: write the `grant` that is shown into its [[plugin]] entry",
                    learned.id
                ),
            };
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        if is_small(learned) || !self.sure("take what it did not need", &seen).await? {
            return Ok(exit(&seen));
        }
        let narrower = json!({ "revoke": learned.revoke, "grant": learned.grant });
        let changed: Value = client
            .post(&format!("/installed/{}/narrow", part(&learned.id)), &narrower)
            .await?;
        if context.json {
            output::json(&changed)?;
        } else {
            decide::told(&changed)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Whether the rest is to be taken, and somebody said so. What was seen must be whole for that.
    async fn sure(&self, what: &str, seen: &Seen) -> Result<bool> {
        if !self.apply {
            return Ok(false);
        }
        if !seen.failed.is_empty() {
            let message = "a call failed, so more may be needed than was seen; nothing was changed";
            return Err(Error::new(ErrorKind::Denied, message));
        }
        if self.yes {
            return Ok(true);
        }
        if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
            let message = "nobody can be asked here; `--yes` says it beforehand";
            return Err(Error::new(ErrorKind::Denied, message));
        }
        let said = output::confirmed(format!("{what}? [y/N] ")).await;
        if !said {
            output::note("nothing was changed");
        }
        Ok(said)
    }

    fn wall(&self) -> Place {
        self.wall.unwrap_or(Place::Worker)
    }

    /// The line that installs a file with what it needed.
    fn installs(&self, file: &Path, learned: &Learned) -> String {
        let mut words = vec![
            "waypost".to_owned(),
            "plugin".to_owned(),
            "add".to_owned(),
            file.display().to_string(),
        ];
        for grant in some(learned.proposed.clone()) {
            words.extend(["--grant".to_owned(), grant]);
        }
        if matches!(self.wall, Some(Place::InProcess)) {
            words.extend(["--wall".to_owned(), "in-process".to_owned()]);
        }
        typed(words.iter().map(String::as_str))
    }
}

/// Grants as `plugin add` takes them, where an empty list is a word.
fn some(grants: Vec<String>) -> Vec<String> {
    if grants.is_empty() {
        vec![super::add::NONE.to_owned()]
    } else {
        grants
    }
}

fn exit(seen: &Seen) -> ExitCode {
    ExitCode::from(u8::from(!seen.failed.is_empty()))
}

/// Makes one call by the rules; how it failed, if it did.
async fn ask(client: &Client, made: &Made) -> Result<Option<String>> {
    let body = json!({ "call": made.name.to_string(), "message": made.message, "environment": null });
    let mut lines = client.lines(Method::POST, "/calls", Some(&body)).await?;
    while let Some(line) = lines.next().await {
        let line = line?;
        let text = |pointer: &str| {
            line.pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        if line.get("error").is_some() {
            return Ok(Some(format!(
                "{}: {}: {}",
                made.name,
                text("/error/kind"),
                text("/error/message")
            )));
        }
        if line.get("question").is_some() {
            output::note(&format!(
                "waiting for a person: {}",
                visible_lines(&text("/question/text"))
            ));
        }
    }
    Ok(None)
}

/// Words as a person types them: quoted where a shell would read them otherwise.
fn typed<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let plain = |word: &str| {
        word.chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./=:,@+".contains(c))
    };
    let typed = words.into_iter().map(|word| match plain(word) {
        true => word.into(),
        false => shell_words::quote(word),
    });
    typed.collect::<Vec<_>>().join(" ")
}

/// Whether nothing can be taken from it.
fn is_small(learned: &Learned) -> bool {
    learned.revoke.is_empty() && learned.grant.is_empty()
}

/// The lines with which a loaded plugin has what it needed and no more.
fn lines(learned: &Learned) -> Result<Vec<String>> {
    if is_small(learned) {
        return Ok(Vec::new());
    }
    match learned.whose {
        Whose::Bundled => return Ok(Vec::new()),
        Whose::Configured => return Ok(vec![format!("grant = {}", entry(&learned.proposed)?)]),
        Whose::Installed => {}
    }
    let line = |verb: &str, grants: &[String]| {
        let words = ["waypost", "plugin", verb, &learned.id].into_iter();
        (!grants.is_empty()).then(|| typed(words.chain(grants.iter().map(String::as_str))))
    };
    let lines = [line("revoke", &learned.revoke), line("grant", &learned.grant)];
    Ok(lines.into_iter().flatten().collect())
}

/// These grants, as an entry of `waypost.toml` has them.
fn entry(proposed: &[String]) -> Result<String> {
    let mut grants = Grants::default();
    for text in proposed {
        for term in Term::parse(text)? {
            term.give(&mut grants);
        }
    }
    super::inspect::inline(&grants)
}

/// Shows what was seen; an error when that is nothing.
fn show(seen: &Seen, lines: &[String], json: bool) -> Result<()> {
    let learned = &seen.learned;
    if learned.calls == 0 {
        let message = format!(
            "plugin `{}` worked on no call since it was loaded, so nothing is known about what it needs: make the calls that it is \
             for, or name them with `--call`",
            learned.id
        );
        return Err(Error::new(ErrorKind::NotFound, message));
    }
    if json {
        let mut shown = json!(learned);
        if let Some(fields) = shown.as_object_mut() {
            fields.insert("failed".to_owned(), json!(seen.failed));
            fields.insert("lines".to_owned(), json!(lines));
        }
        return output::json(&shown);
    }
    for failed in &seen.failed {
        output::note(&format!("a call failed: {}", visible_lines(failed)));
    }
    let times = |times: u64| {
        if times == 1 {
            "once".to_owned()
        } else {
            format!("{times} times")
        }
    };
    let calls = if learned.calls == 1 {
        "1 call".to_owned()
    } else {
        format!("{} calls", learned.calls)
    };
    output::line(&format!("{} {}, {calls}", learned.id, visible(&learned.version)))?;
    if learned.granted.is_empty() {
        output::line("it was granted nothing")?;
    } else {
        let rows: Vec<Vec<String>> = learned
            .granted
            .iter()
            .map(|one| {
                let needed = match (one.needed.is_empty(), one.kept) {
                    (true, _) => "-".to_owned(),
                    (false, Some(kept)) => kept.words().to_owned(),
                    (false, None) => visible(&one.needed.join(" ")),
                };
                vec![visible(&one.grant), one.times.to_string(), needed]
            })
            .collect();
        output::table(&["GRANTED", "USED", "NEEDED"], &rows)?;
    }
    for refused in &learned.refused {
        let gives = match (refused.asked, learned.whose) {
            (false, _) => "its manifest does not ask for it",
            (true, Whose::Installed) => "`waypost plugin grant` gives it",
            (true, _) => "its manifest asks for it",
        };
        let grant = visible(&refused.grant);
        output::line(&format!(
            "it tried {grant} {} and was refused; {gives}",
            times(refused.times)
        ))?;
    }
    if is_small(learned) && lines.is_empty() {
        return output::line("it has nothing that it did not need");
    }
    let proposed = if learned.proposed.is_empty() {
        "nothing".to_owned()
    } else {
        visible(&learned.proposed.join(" "))
    };
    if lines.is_empty() {
        let rest = "it is part of this binary, and has what its manifest asks for";
        return output::line(&format!("it needed {proposed}; {rest}"));
    }
    output::line(&format!("it needed {proposed}:"))?;
    lines
        .iter()
        .try_for_each(|line| output::line(&format!("  {}", visible(line))))
}
