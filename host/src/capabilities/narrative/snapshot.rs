//! Makes a snapshot: walks the workspace and feeds what it reads to one `git fast-import`.
//!
//! Left out are the protected places, what is neither file nor folder nor link, links that lead out, and names that no
//! message could spell. What is left out is known afterwards: a checkout must not stumble over it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::process::ChildStdin;
use std::time::{SystemTime, UNIX_EPOCH};

use cap_std::fs::PermissionsExt;
use serde::{Deserialize, Serialize};

use super::repository::{HEAD, Making, SNAPSHOTS};
use super::tree::safe_link;
use super::{Job, SHOWN, Skipped};
use crate::call::CallError;
use crate::error::ErrorKind;
use crate::workspace::files::{CHUNK, open_regular};
use crate::workspace::walk::{Entry, Next, Show, walk};
use crate::workspace::{Workspace, failed, invalid};

/// The longest description, in bytes.
const DESCRIPTION: usize = 16 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Message {
    environment_id: Option<String>,
    workspace: Option<String>,
    description: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Reply {
    snapshot_id: String,
    tree_hash: String,
    agent_run_id: Option<String>,
    skipped: Vec<Skipped>,
}

/// What a snapshot's commit says about it, in the last line of its message.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct About {
    pub(super) environment_id: Option<String>,
    pub(super) agent_run_id: Option<String>,
}

/// `createSnapshot`. An unchanged workspace is a new snapshot too: each has its own description and run.
pub(super) fn create(job: &Job, message: Message) -> Result<Reply, CallError> {
    job.check(message.environment_id.as_deref(), message.workspace.as_deref())?;
    let description = message.description.unwrap_or_default();
    if description.len() > DESCRIPTION || description.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        return Err(invalid(format!(
            "`description` is longer than {DESCRIPTION} bytes or has control characters; use a shorter plain text"
        )));
    }
    let repository = &job.repository;
    repository.open(job)?;
    repository.room(job, 0)?;
    let about = About {
        environment_id: message.environment_id,
        agent_run_id: job.call.principal.run.as_deref().map(str::to_owned),
    };
    let line = serde_json::to_string(&about).map_err(|error| invalid(error.to_string()))?;
    let parent = repository.resolve(HEAD)?;
    let making = Making::new(repository);
    let text = format!("{}\n\n{line}\n", description.trim());
    let recorded = record(job, &making.name, parent.as_deref(), &text)?;
    let (commit, tree) = (recorded.commit, recorded.tree);
    repository.update(&format!(
        "update {SNAPSHOTS}{commit} {commit}\nupdate {HEAD} {commit}\n"
    ))?;
    let mut skipped = recorded.skipped;
    skipped.truncate(SHOWN);
    Ok(Reply {
        snapshot_id: commit,
        tree_hash: tree,
        agent_run_id: about.agent_run_id,
        skipped,
    })
}

/// A workspace as it was recorded.
pub(super) struct Recorded {
    pub(super) commit: String,
    pub(super) tree: String,
    /// What is not part of it although it is there.
    pub(super) skipped: Vec<Skipped>,
    /// The same and the protected places, by path.
    pub(super) left: BTreeSet<String>,
    /// The folders.
    pub(super) folders: BTreeSet<String>,
}

/// Records the workspace as a commit under a reference.
pub(super) fn record(job: &Job, name: &str, parent: Option<&str>, text: &str) -> Result<Recorded, CallError> {
    let git = &job.repository.git;
    let mut process = git.start(&["fast-import", "--quiet", "--done"])?;
    let lost = || git.failed("store the workspace");
    let input = process.stdin.take().ok_or_else(lost)?;
    let mut import = Import {
        job,
        input: BufWriter::with_capacity(CHUNK, input),
        files: 0,
        bytes: 0,
        recorded: Recorded {
            commit: String::new(),
            tree: String::new(),
            skipped: Vec::new(),
            left: BTreeSet::new(),
            folders: BTreeSet::new(),
        },
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let head = format!(
        "commit {name}\nmark :1\ncommitter Waypost <waypost@localhost> {now} +0000\ndata {}\n{text}\n",
        text.len()
    );
    import.write(head.as_bytes())?;
    if let Some(parent) = parent {
        import.write(format!("from {parent}\n").as_bytes())?;
    }
    import.write(b"deleteall\n")?;
    let show = Show {
        gitignore: !job.limits.ignored,
        hidden: true,
    };
    walk(job.workspace(), "", show, &|| job.stop(), &mut |entry| {
        import.entry(entry)
    })?;
    import.write(b"\nget-mark :1\ndone\n")?;
    import.input.flush().map_err(|_| lost())?;
    let mut recorded = import.recorded;
    drop(import.input);
    let output = process.stdout.take().ok_or_else(lost)?;
    BufReader::new(output.take(128))
        .read_line(&mut recorded.commit)
        .map_err(|_| lost())?;
    recorded.commit.truncate(recorded.commit.trim_end().len());
    if !process.end()? || recorded.commit.is_empty() {
        return Err(lost());
    }
    recorded.tree = job.repository.tree(&recorded.commit)?;
    Ok(recorded)
}

/// The stream into `git fast-import`.
struct Import<'a> {
    job: &'a Job,
    input: BufWriter<ChildStdin>,
    files: usize,
    bytes: u64,
    recorded: Recorded,
}

impl Import<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), CallError> {
        let written = self.input.write_all(bytes);
        written.map_err(|_| self.job.repository.git.failed("store the workspace"))
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<Next, CallError> {
        let path = entry.path;
        if Workspace::protected(path) {
            self.recorded.left.insert(path.to_owned());
            return Ok(Next::Past);
        }
        let spelled = entry.named
            && self
                .job
                .workspace()
                .canonical(path)
                .is_ok_and(|canonical| canonical == path);
        if !spelled {
            return Ok(self.skip(path, "no message can spell its name"));
        }
        if entry.metadata.is_dir() {
            self.recorded.folders.insert(path.to_owned());
            return Ok(Next::Into);
        }
        if entry.metadata.is_symlink() {
            return self.link(entry);
        }
        if entry.metadata.is_file() {
            return self.file(entry);
        }
        Ok(self.skip(path, "it is not a regular file"))
    }

    fn skip(&mut self, path: &str, reason: &'static str) -> Next {
        self.recorded.left.insert(path.to_owned());
        self.recorded.skipped.push(Skipped {
            path: path.to_owned(),
            reason,
        });
        Next::Past
    }

    fn link(&mut self, entry: &Entry<'_>) -> Result<Next, CallError> {
        let target = entry.folder.read_link_contents(entry.name);
        let target = target.map_err(|error| failed(entry.path, &error))?;
        let Some(target) = target.to_str().filter(|target| safe_link(entry.path, target)) else {
            return Ok(self.skip(entry.path, "it is a link that leads out"));
        };
        self.begin("120000", entry.path, target.len() as u64)?;
        self.write(target.as_bytes())?;
        self.write(b"\n")?;
        Ok(Next::Into)
    }

    fn file(&mut self, entry: &Entry<'_>) -> Result<Next, CallError> {
        let path = entry.path;
        let (mut file, metadata) = match open_regular(entry.folder, entry.name, path) {
            Ok(opened) => opened,
            // Removed since the folder was read.
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(Next::Past),
            Err(error) if error.kind == ErrorKind::Denied => return Ok(self.skip(path, "the hub may not read it")),
            Err(error) => return Err(error),
        };
        let mode = match metadata.permissions().mode() & 0o111 {
            0 => "100644",
            _ => "100755",
        };
        let mut left = metadata.len();
        self.begin(mode, path, left)?;
        let mut buffer = vec![0; CHUNK];
        while left > 0 {
            self.job.stop()?;
            let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let got = file
                .read(buffer.get_mut(..most).unwrap_or_default())
                .map_err(|error| failed(path, &error))?;
            if got == 0 {
                let message = format!("`{path}` became shorter while it was read; try again when nothing writes to it");
                return Err(CallError::new(ErrorKind::Unavailable, message));
            }
            self.write(buffer.get(..got).unwrap_or_default())?;
            left = left.saturating_sub(got as u64);
        }
        self.write(b"\n")?;
        Ok(Next::Into)
    }

    /// Begins a file or link of so many bytes.
    fn begin(&mut self, mode: &str, path: &str, size: u64) -> Result<(), CallError> {
        self.files += 1;
        self.bytes = self.bytes.saturating_add(size);
        let limits = &self.job.limits;
        let passed = if self.files > limits.files {
            Some(format!("{} files, which is the limit `narrative.files`", limits.files))
        } else if self.bytes > limits.size as u64 {
            Some(format!("{} bytes, which is the limit `narrative.size`", limits.size))
        } else {
            None
        };
        if let Some(passed) = passed {
            let message =
                format!("the workspace has more than {passed}; raise it, or leave out what `.gitignore` names");
            return Err(CallError::new(ErrorKind::Limit, message));
        }
        // Git takes a quoted path apart as C does; a canonical path has neither a backslash nor a control character.
        let quoted = path.replace('"', "\\\"");
        self.write(format!("M {mode} inline \"{quoted}\"\ndata {size}\n").as_bytes())
    }
}
