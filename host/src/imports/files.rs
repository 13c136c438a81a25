//! `waypost:files`: a plugin reads and writes files in folders of the operator's.
//!
//! A folder is a [`Workspace`]: its paths have the same meaning, the same places in it are protected, and no link leads out
//! of it. Not here: the files of a call, which a plugin reaches through `fsEvent`.

use std::io::SeekFrom;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use cap_std::fs::Metadata;
use serde::{Deserialize, Serialize};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::sync::CancellationToken;
use wasmtime::component::Resource;

use super::bindings::waypost::files::files;
use super::{CallContext, CallState, Facts, Services, WitResult};
use crate::call::{Call, CallError};
use crate::error::{Blame, ErrorKind};
use crate::plugin::terms::Term;
use crate::plugin::uses::Tell;
use crate::workspace::files::Stop;
use crate::workspace::{Last, Workspace, failed, not_found};

/// The most bytes that a guest gets at once.
const PIECE: usize = 64 << 10;

/// What a plugin asks of this import.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// What is at a path.
    Stat(Named),
    /// The entries of a folder.
    List(Named),
    /// Open a file, to be read from this offset on.
    Open(Named, u64),
    /// The next piece of an open file.
    Next(u32),
    /// Nothing more of an open file.
    Close(u32),
    /// Write a whole file.
    Write(Named, Vec<u8>),
    /// Remove a file or a link.
    Remove(Named),
}

/// A path in a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The folder's name in the grant.
    pub folder: String,
    /// The path in it.
    pub path: String,
}

/// What it gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// What is there.
    Stat(Entry),
    /// The entries, by name.
    Entries(Vec<Entry>),
    /// The number of an open file.
    Open(u32),
    /// A piece of a file; none at the end.
    Piece(Option<Vec<u8>>),
    /// It is done.
    Done,
}

/// What is known of something in a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last changed, in milliseconds since 1970.
    pub changed_ms: Option<u64>,
}

/// What something in a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A pipe, a socket, a device.
    Other,
}

/// An open file.
pub struct Reader {
    file: File,
    path: String,
}

pub(super) fn uses(request: &Request, tell: Tell<'_>) {
    match request {
        Request::Stat(named) | Request::List(named) | Request::Open(named, _) => {
            tell("files", Term::folder(&named.folder, false));
        }
        Request::Write(named, _) | Request::Remove(named) => tell("files", Term::folder(&named.folder, true)),
        Request::Next(_) | Request::Close(_) => {}
    }
}

pub(super) async fn serve(context: &CallContext, request: Request) -> Result<Reply, CallError> {
    let (services, facts, call) = (&context.services, &context.plugin, &context.call);
    let limits = &facts.limits;
    let at = |named: &Named, write: bool| {
        if write {
            call.may_change("write files")?;
        }
        Place::of(services, facts, named, write)
    };
    match request {
        Request::Stat(named) => {
            at(&named, false)?
                .run(call, |place, _| place.stat().map(Reply::Stat))
                .await
        }
        Request::List(named) => {
            let most = limits.file_entries;
            let list = move |place: &Place, stop: Stop<'_>| place.entries(most, stop).map(Reply::Entries);
            at(&named, false)?.run(call, list).await
        }
        Request::Open(named, offset) => {
            let most = limits.file_open;
            if context.held().readers.len() >= most {
                let message = format!(
                    "plugin `{}` holds {most} files open, the limit `file-open` of [limits.plugin]; drop some first",
                    facts.id
                );
                return Err(CallError::new(ErrorKind::Limit, message));
            }
            let place = at(&named, false)?;
            let (file, path) = place.run(call, |place, _| place.open()).await?;
            let mut file = File::from_std(file);
            let moved = file.seek(SeekFrom::Start(offset)).await;
            moved.map_err(|error| failed(&path, &error))?;
            Ok(Reply::Open(context.held().readers.put(Reader { file, path })))
        }
        Request::Next(number) => {
            let mut reader = context.held().readers.take(number)?;
            let piece = reader.next().await;
            context.held().readers.give_back(number, reader);
            piece.map(Reply::Piece)
        }
        Request::Close(number) => {
            drop(context.held().readers.take(number));
            Ok(Reply::Done)
        }
        Request::Write(named, content) => {
            if content.len() > limits.file_write {
                let message = format!(
                    "the content has {} bytes, the limit is {}: `file-write` of [limits.plugin]",
                    content.len(),
                    limits.file_write
                );
                return Err(CallError::new(ErrorKind::Limit, message));
            }
            let write = move |place: &Place, stop: Stop<'_>| {
                place.folder.write(&place.path, &content, stop)?;
                Ok(Reply::Done)
            };
            at(&named, true)?.run(call, write).await
        }
        Request::Remove(named) => at(&named, true)?.run(call, |place, _| place.remove()).await,
    }
}

/// Where the folder of this name is, if the plugin may write there: for a program that is run in it.
pub(super) fn root(services: &Services, facts: &Facts, folder: String) -> Result<PathBuf, CallError> {
    let path = String::new();
    let place = Place::of(services, facts, &Named { folder, path }, true)?;
    Ok(place.folder.root().to_owned())
}

/// A path in an open folder.
struct Place {
    folder: Workspace,
    path: String,
}

impl Place {
    /// Opens the folder that a grant names, and reads the path.
    fn of(services: &Services, facts: &Facts, named: &Named, write: bool) -> Result<Self, CallError> {
        let shown = named.folder.escape_debug();
        let granted = facts.grants.files.iter().find(|folder| folder.name == named.folder);
        let entry = granted.filter(|folder| folder.write || !write);
        let Some((folder, path)) = entry.and_then(|folder| Some((folder, folder.path.as_ref()?))) else {
            let may = if granted.is_some() {
                "may not write to"
            } else {
                "may not use"
            };
            let wanted = if write { ", write = true" } else { "" };
            let message = format!(
                "plugin `{}` {may} the folder `{shown}`: if it may, add {{ name = \"{shown}\"{wanted} }} to `files` in [grants] of \
                 its manifest, and the same with its `path` to `files` in `grant` of its [[plugin]] entry in waypost.toml",
                facts.id
            );
            return Err(CallError::new(ErrorKind::Denied, message));
        };
        let opened = Workspace::open(&services.project.join(path)).map_err(|error| {
            tracing::warn!(plugin = %facts.id, folder = %folder.name, error = %error.chain(), "a granted folder cannot be opened");
            let message = format!("the folder `{shown}` is not there; make it, or correct its `path` in waypost.toml");
            CallError::new(ErrorKind::Unavailable, message).blame(Blame::Operator)
        })?;
        if let Some(why) = forbidden(&opened, services, write) {
            let message = format!("the folder `{shown}` {why}; grant another one in waypost.toml");
            return Err(CallError::new(ErrorKind::Denied, message));
        }
        let path = opened.canonical(&named.path)?;
        Ok(Self { folder: opened, path })
    }

    /// Does something with it on a thread that may block. When the call ends, that ends soon after.
    async fn run<T: Send + 'static>(
        self,
        call: &Call,
        work: impl FnOnce(&Self, Stop<'_>) -> Result<T, CallError> + Send + 'static,
    ) -> Result<T, CallError> {
        let cancel = CancellationToken::new();
        let _dropped = cancel.clone().drop_guard();
        let ended = CallError::stopped(call);
        let stop = move || {
            if cancel.is_cancelled() {
                Err(ended.clone())
            } else {
                Ok(())
            }
        };
        let done = tokio::task::spawn_blocking(move || work(&self, &stop)).await;
        done.map_err(|_| {
            CallError::new(
                ErrorKind::Internal,
                "a file operation met a defect; the hub's log says more",
            )
        })?
    }

    fn stat(&self) -> Result<Entry, CallError> {
        let place = self.folder.locate(&self.path, Last::Followed)?;
        let metadata = place.metadata().ok_or_else(|| not_found(&self.path))?;
        Ok(entry(String::new(), metadata))
    }

    fn entries(&self, most: usize, stop: Stop<'_>) -> Result<Vec<Entry>, CallError> {
        let failed = |error: std::io::Error| failed(&self.path, &error);
        let (folder, _) = self.folder.open_folder(&self.path)?;
        let mut entries = Vec::new();
        for found in folder.entries().map_err(failed)? {
            stop()?;
            let found = found.map_err(failed)?;
            let Ok(name) = found.file_name().into_string() else {
                continue;
            };
            if Workspace::concealed(&name) {
                continue;
            }
            if entries.len() >= most {
                let message = format!(
                    "the folder `{}` has more than {most} entries, the limit `file-entries` of [limits.plugin]",
                    self.path
                );
                return Err(CallError::new(ErrorKind::Limit, message));
            }
            match folder.symlink_metadata(&name) {
                Ok(metadata) => entries.push(entry(name, &metadata)),
                // Removed since the folder was read.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
        }
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(entries)
    }

    fn open(&self) -> Result<(std::fs::File, String), CallError> {
        let (file, _) = self.folder.open_file(&self.path)?;
        Ok((file.into_std(), self.path.clone()))
    }

    fn remove(&self) -> Result<Reply, CallError> {
        let place = self.folder.locate_to_write(&self.path, Last::Itself)?;
        if place.metadata().is_some_and(Metadata::is_dir) {
            let message = format!("`{}` is a folder; only files and links are removed", self.path);
            return Err(CallError::new(ErrorKind::Invalid, message));
        }
        self.folder.remove_file(&self.path)?;
        Ok(Reply::Done)
    }
}

/// Why a folder is granted to nobody. What is protected inside it is protected by the folder itself.
fn forbidden(folder: &Workspace, services: &Services, write: bool) -> Option<&'static str> {
    let root = folder.root();
    let inside = |path: &std::path::Path| {
        path.strip_prefix(root)
            .ok()
            .map(|rest| rest.to_string_lossy().into_owned())
    };
    // What lies in `.waypost` is not shown anyhow.
    if root.starts_with(&services.state_folder)
        || inside(&services.state_folder).is_some_and(|rest| !Workspace::concealed(&rest))
    {
        return Some("holds the hub's state");
    }
    if !write {
        return None;
    }
    // The rules of a project lie at its root, and only there are they known by their names.
    if inside(&services.project).is_some_and(|rest| !rest.is_empty()) {
        return Some("holds the project, whose rules a plugin does not change");
    }
    let steers =
        |part: std::path::Component<'_>| Workspace::protected(&format!("x/{}", part.as_os_str().to_string_lossy()));
    root.components()
        .any(steers)
        .then_some("belongs to what steers agents and the hub")
}

fn entry(name: String, metadata: &Metadata) -> Entry {
    let kind = match metadata.file_type() {
        kind if kind.is_file() => Kind::File,
        kind if kind.is_dir() => Kind::Folder,
        kind if kind.is_symlink() => Kind::Link,
        _ => Kind::Other,
    };
    let changed = metadata
        .modified()
        .ok()
        .map(|time| time.into_std().duration_since(UNIX_EPOCH));
    Entry {
        name,
        kind,
        size: metadata.len(),
        changed_ms: changed.and_then(|since| u64::try_from(since.ok()?.as_millis()).ok()),
    }
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, CallError> {
        let mut piece = vec![0; PIECE];
        let read = self
            .file
            .read(&mut piece)
            .await
            .map_err(|error| failed(&self.path, &error))?;
        piece.truncate(read);
        Ok((read > 0).then_some(piece))
    }
}

/// An open file, as a guest holds it.
pub struct Handle(u32);

fn kind(kind: Kind) -> files::Kind {
    match kind {
        Kind::File => files::Kind::File,
        Kind::Folder => files::Kind::Folder,
        Kind::Link => files::Kind::Link,
        Kind::Other => files::Kind::Other,
    }
}

fn done(reply: Reply) -> Option<()> {
    matches!(reply, Reply::Done).then_some(())
}

impl files::Host for CallState {
    async fn stat(&mut self, folder: String, path: String) -> WitResult<files::Info> {
        self.ask(Request::Stat(Named { folder, path }), |reply| match reply {
            Reply::Stat(entry) => Some(files::Info {
                kind: kind(entry.kind),
                size: entry.size,
                changed_ms: entry.changed_ms,
            }),
            _ => None,
        })
        .await
    }

    async fn list(&mut self, folder: String, path: String) -> WitResult<Vec<files::Entry>> {
        let entry = |entry: Entry| files::Entry {
            name: entry.name,
            kind: kind(entry.kind),
            size: entry.size,
        };
        self.ask(Request::List(Named { folder, path }), |reply| match reply {
            Reply::Entries(entries) => Some(entries.into_iter().map(entry).collect()),
            _ => None,
        })
        .await
    }

    async fn write(&mut self, folder: String, path: String, content: Vec<u8>) -> WitResult<()> {
        self.ask(Request::Write(Named { folder, path }, content), done).await
    }

    async fn remove(&mut self, folder: String, path: String) -> WitResult<()> {
        self.ask(Request::Remove(Named { folder, path }), done).await
    }
}

impl files::HostReader for CallState {
    async fn open(&mut self, folder: String, path: String, offset: u64) -> WitResult<Resource<Handle>> {
        let number = self.ask(Request::Open(Named { folder, path }, offset), |reply| match reply {
            Reply::Open(number) => Some(number),
            _ => None,
        });
        match number.await? {
            Ok(number) => Ok(Ok(self.table.push(Handle(number))?)),
            Err(error) => Ok(Err(error)),
        }
    }

    async fn next(&mut self, reader: Resource<Handle>) -> WitResult<Option<Vec<u8>>> {
        let Handle(number) = *self.table.get(&reader)?;
        self.ask(Request::Next(number), |reply| match reply {
            Reply::Piece(piece) => Some(piece),
            _ => None,
        })
        .await
    }

    async fn drop(&mut self, reader: Resource<Handle>) -> wasmtime::Result<()> {
        let Handle(number) = self.table.delete(reader)?;
        self.ask(Request::Close(number), done).await?.ok();
        Ok(())
    }
}
