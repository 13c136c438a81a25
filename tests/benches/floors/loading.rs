//! How soon a plugin answers: from its file, through the cache of compiled code, into a worker process that runs already, to
//! the end of its first call. Beside it the same in the hub's process.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use waypost::call::{CallName, Json, Sink};
use waypost::config::Wall;
use waypost::plugin::signature::Signer;
use waypost::plugin::{Loaded, Manifest, Origin, Source};

use crate::Outcome;
use crate::harness::{Open, Project, guests};
use crate::pairs::{Medians, median};
use crate::report::{Figure, Target};
use crate::template::{ASKS, CALLS, Language, Template};

/// How often a plugin is made ready behind each wall.
const TIMES: usize = 9;

/// A component in one of the languages, and what it is asked first.
struct Guest {
    bytes: Vec<u8>,
    call: (&'static str, Option<&'static str>),
    message: &'static str,
    grants: String,
}

pub(crate) async fn figures() -> Outcome<Vec<Figure>> {
    let noop = Guest {
        bytes: guests::bytes("noop"),
        call: ("noop", None),
        message: "{}",
        grants: String::new(),
    };
    let mut figures = vec![figure("Rust".to_owned(), 20.0, noop.ready().await?)];
    for (language, most) in [(Language::JavaScript, 60.0), (Language::Python, 150.0)] {
        let (name, tool) = (format!("{language:?}"), language.tool());
        figures.push(match tool.lacks() {
            Some(why) => Figure::missing(named(&name), why),
            None => {
                let tool = tool.installed().map_err(|failed| format!("{failed:?}"))?;
                figure(name, most, Guest::of(language, &tool).ready().await?)
            }
        });
    }
    Ok(figures)
}

fn named(language: &str) -> String {
    format!("cached plugin ready in a warm worker, {language}")
}

fn figure(language: String, milliseconds: f64, medians: Medians) -> Figure {
    Figure::time(named(&language), "in the hub's process", medians).at_most(Target::Micros(milliseconds * 1e3))
}

impl Guest {
    /// The handler that the trials use.
    fn of(language: Language, tool: &Path) -> Self {
        Self {
            bytes: Template::trial(language).component(tool),
            call: ("trial", Some("facts")),
            message: "null",
            grants: format!("state = true\n{CALLS}\n{ASKS}"),
        }
    }

    /// How long it takes to be ready, in nanoseconds.
    async fn ready(&self) -> Outcome<Medians> {
        // All of them have room in the one worker of their publisher.
        let project = Project::new().toml("[limits.plugin]\nconcurrency = 4");
        let open = project.file("plugin.wasm", &self.bytes).open().await;
        let file = open.root().join("plugin.wasm");
        for number in 0..TIMES {
            self.load(&open, &file, Wall::Worker, number).await?;
        }
        let warm = self.load(&open, &file, Wall::Worker, TIMES).await?;
        self.ask(&open, &warm).await?;
        let (mut raw, mut ours) = (Vec::new(), Vec::new());
        for number in 0..TIMES {
            for (wall, times) in [(Wall::InProcess, &mut raw), (Wall::Worker, &mut ours)] {
                let began = Instant::now();
                let loaded = self.load(&open, &file, wall, number).await?;
                self.ask(&open, &loaded).await?;
                times.push(began.elapsed().as_secs_f64() * 1e9);
            }
        }
        let workers = open.hub.workers.as_ref().ok_or("a hub has workers")?.processes().await;
        if workers.len() != 1 {
            return Err(format!("there were {} worker processes, so one was not warm", workers.len()).into());
        }
        drop(open.close().await);
        Ok(Medians {
            raw: median(raw),
            ours: median(ours),
        })
    }

    async fn load(&self, open: &Open, file: &Path, wall: Wall, number: usize) -> Outcome<Arc<Loaded>> {
        let (plugins, file) = (Arc::clone(&open.hub.plugins), PathBuf::from(file));
        let (id, kind, grants) = (
            format!("{wall:?}-{number}").to_lowercase(),
            self.call.0,
            self.grants.clone(),
        );
        let load = move || {
            let text =
                format!("id = {id:?}\nversion = \"1\"\nrole = \"handler\"\nserves = [{kind:?}]\n[grants]\n{grants}\n");
            let manifest = Manifest::parse("manifest.toml", &text)?;
            // Nothing of it is read.
            let grant = manifest.asks().placed(Path::new("/"));
            let signer = Signer {
                name: "bench".to_owned(),
                key: "of the bench".to_owned(),
            };
            let origin = Origin::Locked {
                source: "bench".to_owned(),
                signer: Some(signer),
                wall,
                grant,
            };
            let bytes = std::fs::read(file)?.into();
            Outcome::Ok(plugins.load(Source {
                manifest,
                bytes,
                origin,
            })?)
        };
        tokio::task::spawn_blocking(load).await?
    }

    async fn ask(&self, open: &Open, loaded: &Loaded) -> Outcome<()> {
        let (kind, action) = self.call;
        let message = Json::parse(self.message)?;
        let call = open
            .hub
            .person_call("bench", CallName::new(kind, action), message, None)
            .await?;
        let executor = open.hub.dispatcher.executor();
        executor.execute(loaded, &call, &Sink::discard(), None).await?;
        Ok(())
    }
}
