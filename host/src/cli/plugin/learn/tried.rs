//! Trying a component so that its use of its grants is seen: in a hub of its own, or with the cases of its author.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use super::{Made, Place, Seen};
use crate::call::{Call, CallError, Deadline, Sink};
use crate::cli::plugin::test::{self, cases};
use crate::cli::{Context, told_to_stop};
use crate::config::{self, Config, Grants, Limits, Wall};
use crate::error::{Blame, Error, ErrorKind, Result};
use crate::hub::Hub;
use crate::plugin::learned::Learned;
use crate::plugin::terms::{Term, example, listed};
use crate::plugin::{Loaded, Manifest, Role, Source};

/// Plays the cases of a project, with their fakes.
pub(super) async fn played(file: &Path, folder: &Path, limits: Limits) -> Result<Seen> {
    let manifest = manifest(file, &limits)?;
    if !manifest.asks().files.is_empty() {
        let message = format!(
            "cases have no folders, and `{}` asks for some: make calls with `--call`, and say where they are with `--grant`",
            manifest.id
        );
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    let (loaded, played, failed) = test::played(file.to_owned(), folder, limits).await?;
    let learned = Learned {
        calls: played,
        ..Learned::of(&loaded)
    };
    Ok(Seen { learned, failed })
}

/// Makes these calls in a hub that is opened for them, works on the project, and keeps what it has to keep for itself: where
/// another one runs, it does not notice.
pub(super) async fn called(
    context: &Context,
    mut config: Config,
    file: &Path,
    wall: Place,
    places: &[String],
    made: Vec<Made>,
) -> Result<Seen> {
    let cannot = |error: std::io::Error| {
        Error::new(ErrorKind::Other, "a temporary state directory cannot be made").because(error)
    };
    let manifest = manifest(file, &config.limits)?;
    let made = made
        .into_iter()
        .map(|made| fitting(&manifest, made))
        .collect::<Result<Vec<_>>>()?;
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let project = &context.project;
    config
        .plugins
        .retain(|entry| fs::canonicalize(project.join(&entry.path)).ok().as_ref() != Some(&file));
    config.plugins.push(config::Plugin {
        path: file,
        wall: wall.into(),
        grant: placed(&manifest, places)?,
    });
    let room = tempfile::tempdir().map_err(cannot)?;
    // What was compiled and installed is there already.
    for name in ["cache", "plugins"] {
        if let Ok(there) = fs::canonicalize(project.join(&config.hub.state).join(name)) {
            symlink(there, room.path().join(name)).map_err(cannot)?;
        }
    }
    config.hub.state = room.path().to_owned();
    let hub = Hub::open_with(project, config, &|name| std::env::var(name).ok()).await?;
    let seen = watched(&hub, &manifest.id, made).await;
    hub.close().await;
    seen
}

async fn watched(hub: &Hub, id: &str, made: Vec<Made>) -> Result<Seen> {
    let loaded = hub.plugins.get(id)?;
    let mut failed = Vec::new();
    for Made { name, message } in made {
        let mut call = hub.person_call("learn", name, message, None).await?;
        call.deadline = Deadline::after(loaded.timeout(hub.config.limits.plugin_timeout));
        if let Err(error) = carried(hub, &loaded, &call).await? {
            failed.push(format!("{}: {}: {}", call.name, error.kind, error.message));
        }
    }
    let learned = Learned::of(&loaded);
    Ok(Seen { learned, failed })
}

/// Makes one call into the plugin itself, whatever the rules say of it. Its own calls go by them.
async fn carried(hub: &Hub, loaded: &Arc<Loaded>, call: &Call) -> Result<Result<(), CallError>> {
    let sink = Sink::discard();
    let mut work = hub.dispatcher.executor().execute(loaded, call, &sink, None);
    let stop = tokio::select! {
        end = &mut work => return Ok(end.map(drop)),
        () = tokio::time::sleep_until(call.deadline.instant().into()) => Ok(()),
        stop = told_to_stop() => stop.and(Err(Error::new(ErrorKind::Cancelled, "it was stopped"))),
    };
    call.cancel.cancel();
    let end = work.await;
    stop.map(|()| end.map(drop))
}

fn manifest(file: &Path, limits: &Limits) -> Result<Manifest> {
    // Where it would run does not matter: it is read.
    Source::read(file, Wall::Worker, Grants::default(), limits.plugin.component).map(|source| source.manifest)
}

/// A call that a plugin of this role can be made to execute.
fn fitting(manifest: &Manifest, made: Made) -> Result<Made> {
    let wrong = |message: String| Error::new(ErrorKind::Invalid, message);
    if manifest.role == Role::Agent {
        return Err(wrong(format!(
            "`{id}` is an agent, which works in runs: install it, `waypost run --agent {id}`, and `waypost plugin learn {id}` from \
             the hub that ran it; or play the cases of its project",
            id = manifest.id
        )));
    }
    cases::served(manifest, &made.name).map_err(wrong)?;
    let message = cases::filled(manifest.role, &made.message);
    Ok(Made { message, ..made })
}

/// All that a manifest asks for, with what has a place where it is said to be.
fn placed(manifest: &Manifest, places: &[String]) -> Result<Grants> {
    let wrong = |message: String| Error::new(ErrorKind::Invalid, message).blame(Blame::Caller);
    let (id, asks) = (&manifest.id, manifest.asks());
    let mut grants = asks.clone();
    for place in places {
        for term in Term::parse(place)? {
            if !term.touches(&asks) {
                let asks = listed(&Term::all(&asks));
                return Err(wrong(format!("`{id}` does not ask for `{term}`; it asks for {asks}")));
            }
            term.settled()?.give(&mut grants);
        }
    }
    if let Some(term) = Term::all(&grants).iter().find(|term| !term.has_place()) {
        return Err(wrong(format!(
            "`{id}` asks for `{term}`: say where it is, as in `--grant {}`",
            example(term.grant())
        )));
    }
    Ok(grants)
}
