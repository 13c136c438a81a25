//! Bundles: snapshots on their way to another hub, and those that come from one.
//!
//! Nothing of an imported bundle is believed. Its archive is unpacked strictly, git checks every object, references are
//! named anew, and what a tree may do to a workspace is decided when it is checked out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::archive::{self, BUNDLE, NARRATIVE_BYTES};
use super::repository::{SNAPSHOTS, WORD, object_id};
use super::snapshot::About;
use super::{Job, broken, make_folder};
use crate::call::CallError;
use crate::error::{Blame, ErrorKind};
use crate::workspace::invalid;

/// How many commits one `narrative.json` tells about, and how many one import looks through; the newest.
const COMMITS: usize = 1000;
/// How many references one bundle may have.
const HEADS: usize = 1000;
/// References of what was imported, by object.
const IMPORTED: &str = "refs/narrative/imported/";
/// References of the `narrative.json` that came with it.
const TOLD: &str = "refs/narrative/told/";

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Export {
    environment_id: Option<String>,
    workspace: Option<String>,
    snapshot_id: String,
    incremental: Option<bool>,
    base_snapshot_id: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Exported {
    bundle_path: String,
    snapshot_id: String,
    base_snapshot_id: Option<String>,
    narrative_summary: Summary,
}

/// How much a narrative tells.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Summary {
    snapshots_count: usize,
    commits_count: usize,
    execution_traces_count: usize,
    trace_records_count: usize,
    agent_runs_count: usize,
}

/// `exportUnifiedBundle`. Without a base, or with one that has no history in common, it is a full bundle.
pub(super) fn export(job: &Job, message: Export) -> Result<Exported, CallError> {
    job.check(message.environment_id.as_deref(), message.workspace.as_deref())?;
    let repository = &job.repository;
    let git = &repository.git;
    let snapshot = repository.snapshot(job, "snapshotId", &message.snapshot_id)?;
    let base = match message.base_snapshot_id.filter(|_| message.incremental != Some(false)) {
        Some(base) => Some(repository.snapshot(job, "baseSnapshotId", &base)?),
        None => None,
    };
    let base = match base {
        Some(base) if git.output(&["merge-base", &base, &snapshot], &[], WORD)?.success => Some(base),
        _ => None,
    };
    let mut wanted = vec![snapshot.clone()];
    wanted.extend(base.iter().map(|base| format!("^{base}")));
    let (narrative, summary) = tell(job, &wanted)?;
    if summary.commits_count == 0 {
        return Err(invalid(
            "the base holds all of the snapshot, so there is nothing to export; name an older base".to_owned(),
        ));
    }
    let work = job.work_folder()?;
    let bundle = work.0.join(BUNDLE);
    let mut args = vec!["bundle".to_owned(), "create".into(), "--quiet".into()];
    args.push(text(&bundle)?.to_owned());
    args.push(format!("{SNAPSHOTS}{snapshot}"));
    args.extend(wanted.into_iter().skip(1));
    git.must(&args, &[], WORD, "write a bundle")?;
    let limit = job.limits.bundle as u64;
    let size = |path: &Path| {
        fs::metadata(path)
            .map(|metadata| metadata.len())
            .map_err(|error| broken(&error))
    };
    if size(&bundle)? > limit {
        return Err(archive::too_large(limit));
    }
    let packed = work.0.join("bundle.tar.gz");
    archive::pack(&packed, &bundle, &narrative, now(), &|| job.stop())?;
    if size(&packed)? > limit {
        return Err(archive::too_large(limit));
    }
    let kept = job.home.join("bundles");
    make_folder(&kept)?;
    let name = match &base {
        None => format!("{snapshot}.tar.gz"),
        Some(base) => format!("{snapshot}-since-{base}.tar.gz"),
    };
    let place = kept.join(name);
    fs::rename(&packed, &place).map_err(|error| broken(&error))?;
    forget(&kept, &place, job.limits.bundles).map_err(|error| broken(&error))?;
    Ok(Exported {
        bundle_path: text(&place)?.to_owned(),
        snapshot_id: snapshot,
        base_snapshot_id: base,
        narrative_summary: summary,
    })
}

/// Removes the oldest bundles beyond a number; never the newest.
fn forget(folder: &Path, newest: &Path, most: usize) -> io::Result<()> {
    let mut others = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path != newest
            && let Ok(metadata) = fs::symlink_metadata(&path)
        {
            others.insert((metadata.mtime(), metadata.mtime_nsec(), path.clone()), path);
        }
    }
    let surplus = (others.len() + 1).saturating_sub(most);
    for path in others.values().take(surplus) {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// What is known of the commits of a bundle, as the content of `narrative.json`.
fn tell(job: &Job, wanted: &[String]) -> Result<(Vec<u8>, Summary), CallError> {
    let repository = &job.repository;
    let most = format!("--max-count={COMMITS}");
    let mut args = vec![
        "log",
        "-z",
        most.as_str(),
        "--no-show-signature",
        "--format=%H %T %ct%n%B",
    ];
    args.push("--end-of-options");
    args.extend(wanted.iter().map(String::as_str));
    args.push("--");
    let ended = repository
        .git
        .must(&args, &[], NARRATIVE_BYTES, "read the history of a snapshot")?;
    let known = repository.snapshots()?;
    let (mut snapshots, mut commits, mut runs) = (Vec::new(), Vec::new(), BTreeSet::new());
    let history = String::from_utf8_lossy(&ended.stdout);
    for record in history.split('\0').filter(|record| !record.is_empty()) {
        let (facts, body) = record.split_once('\n').unwrap_or((record, ""));
        let mut facts = facts.split(' ');
        let (Some(id), Some(tree), Some(time)) = (facts.next(), facts.next(), facts.next()) else {
            continue;
        };
        commits.push(id.to_owned());
        if !known.contains(id) {
            continue;
        }
        let body = body.trim_end();
        let (said, line) = body.rsplit_once('\n').unwrap_or(("", body));
        let (description, about) = match serde_json::from_str::<About>(line) {
            Ok(about) => (said, about),
            // A commit that another program made.
            Err(_) => (body, About::default()),
        };
        runs.extend(about.agent_run_id.clone());
        snapshots.push(json!({
            "snapshot_id": id,
            "tree_hash": tree,
            "description": description.trim(),
            "created_at": time.parse::<u64>().unwrap_or_default(),
            "environment_id": about.environment_id,
            "agent_run_id": about.agent_run_id,
        }));
    }
    let summary = Summary {
        snapshots_count: snapshots.len(),
        commits_count: commits.len(),
        agent_runs_count: runs.len(),
        ..Summary::default()
    };
    let narrative = json!({
        "version": 1,
        "snapshots": snapshots,
        "commits": commits,
        "execution_traces": [],
        "trace_records": [],
        "agent_runs": runs,
    });
    Ok((narrative.to_string().into_bytes(), summary))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Import {
    environment_id: Option<String>,
    workspace: Option<String>,
    bundle_path: String,
}

#[derive(Serialize)]
pub(super) struct Imported {
    snapshot_ids: Vec<String>,
    imported_refs: Vec<(String, String)>,
    narrative_imported: bool,
    narrative_summary: Summary,
}

/// What is read of a `narrative.json`, wherever it comes from.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    snapshots: Vec<ToldSnapshot>,
    commits: Vec<IgnoredAny>,
    execution_traces: Vec<IgnoredAny>,
    trace_records: Vec<IgnoredAny>,
    agent_runs: Vec<IgnoredAny>,
}

#[derive(Deserialize)]
struct ToldSnapshot {
    #[serde(default)]
    snapshot_id: Value,
}

/// `importUnifiedBundle`. The snapshots are the commits that the bundle names, and those of their history that its
/// `narrative.json` names.
pub(super) fn import(job: &Job, message: Import) -> Result<Imported, CallError> {
    job.check(message.environment_id.as_deref(), message.workspace.as_deref())?;
    let limit = job.limits.bundle as u64;
    let file = open_bundle(&message.bundle_path, limit)?;
    let work = job.work_folder()?;
    let bundle = work.0.join(BUNDLE);
    let narrative = archive::unpack(file, &bundle, limit, &|| job.stop())?;
    let told = match serde_json::from_slice::<Told>(&narrative) {
        Ok(told) => Some(told),
        // JSON of another shape is another program's story; the snapshots are still good.
        Err(error) if error.classify() == serde_json::error::Category::Data => None,
        Err(_) => return Err(invalid("`narrative.json` of the bundle is not JSON".to_owned())),
    };
    let repository = &job.repository;
    repository.open(job)?;
    let size = fs::metadata(&bundle).map_err(|error| broken(&error))?.len();
    repository.room(job, size)?;
    let heads = fetch(job, text(&bundle)?)?;
    let mut snapshots = commits_of(job, heads.values())?;
    let history = history(job, &snapshots)?;
    let listed = told.iter().flat_map(|told| &told.snapshots);
    for id in listed.filter_map(|snapshot| snapshot.snapshot_id.as_str()) {
        if history.contains(id) && !snapshots.iter().any(|known| known == id) {
            snapshots.push(id.to_owned());
        }
    }
    let mut commands: String = snapshots
        .iter()
        .map(|id| format!("update {SNAPSHOTS}{id} {id}\n"))
        .collect();
    if told.is_some() {
        let args = ["hash-object", "-w", "--stdin"];
        let id = repository.git.must(&args, &narrative, WORD, "keep a narrative")?.word();
        commands.push_str(&format!("update {TOLD}{id} {id}\n"));
    }
    repository.update(&commands)?;
    let count = told.as_ref();
    Ok(Imported {
        snapshot_ids: snapshots,
        imported_refs: heads.into_iter().collect(),
        narrative_imported: count.is_some(),
        narrative_summary: count.map_or_else(Summary::default, |told| Summary {
            snapshots_count: told.snapshots.len(),
            commits_count: told.commits.len(),
            execution_traces_count: told.execution_traces.len(),
            trace_records_count: told.trace_records.len(),
            agent_runs_count: told.agent_runs.len(),
        }),
    })
}

/// Opens a bundle once, wherever on this machine it was put. One answer for all that cannot be opened: a call must not
/// find out what there is outside its workspace.
fn open_bundle(path: &str, limit: u64) -> Result<File, CallError> {
    let refused = || {
        let message = "`bundlePath` names no file that may be imported; name a regular file of the hub's user by its \
                       absolute path, not a link";
        CallError::new(ErrorKind::NotFound, message).blame(Blame::Caller)
    };
    if !path.starts_with('/') || path.contains('\0') {
        return Err(refused());
    }
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC)
        .bits()
        .cast_signed();
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|_| refused())?;
    let metadata = file.metadata().map_err(|_| refused())?;
    let ours = metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o400 != 0;
    if !metadata.is_file() || !ours {
        return Err(refused());
    }
    if metadata.len() > limit {
        return Err(archive::too_large(limit));
    }
    Ok(file)
}

/// Brings a bundle's objects in, checked; answers the references that it names.
fn fetch(job: &Job, bundle: &str) -> Result<BTreeMap<String, String>, CallError> {
    let git = &job.repository.git;
    let listed = git.output(&["bundle", "list-heads", bundle], &[], HEADS * 1024)?;
    let not_one = || invalid(format!("`{BUNDLE}` is not a bundle of git that this hub can read"));
    if !listed.success {
        return Err(not_one());
    }
    let mut heads = BTreeMap::new();
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        let (id, name) = line.split_once(' ').ok_or_else(not_one)?;
        if !is_reference(name) {
            return Err(invalid(format!(
                "`{BUNDLE}` names a reference `{}` that no hub writes",
                name.escape_debug()
            )));
        }
        heads.insert(name.to_owned(), object_id("git.bundle", id)?);
    }
    if heads.is_empty() || heads.len() > HEADS {
        return Err(invalid(format!("`{BUNDLE}` must name 1 to {HEADS} references")));
    }
    if !git.output(&["bundle", "verify", "--quiet", bundle], &[], WORD)?.success {
        return Err(invalid(format!(
            "`{BUNDLE}` builds on snapshots that are not here; import the bundle of its base first, or a full one"
        )));
    }
    let by_object: BTreeMap<&String, &String> = heads.iter().map(|(name, id)| (id, name)).collect();
    let wanted: String = by_object
        .iter()
        .map(|(id, name)| format!("+{name}:{IMPORTED}{id}\n"))
        .collect();
    let args = [
        "fetch",
        "--quiet",
        "--no-tags",
        "--no-write-fetch-head",
        "--no-recurse-submodules",
        "--no-auto-maintenance",
        "--stdin",
        bundle,
    ];
    if !git.output(&args, wanted.as_bytes(), WORD)?.success {
        return Err(invalid(format!(
            "git refused the objects of `{BUNDLE}`; they are broken or hostile, and nothing was imported"
        )));
    }
    Ok(heads)
}

/// Whether a name is one that may stand in a reference specification.
fn is_reference(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let known = name == "HEAD" || name.starts_with("refs/");
    known && name.len() <= 512 && name.chars().all(plain) && !name.contains("..")
}

/// Those of the objects that are commits, or that stand for one.
fn commits_of<'a>(job: &Job, ids: impl Iterator<Item = &'a String>) -> Result<Vec<String>, CallError> {
    let ids: BTreeSet<&String> = ids.collect();
    let asked: String = ids.iter().map(|id| format!("{id}^{{commit}}\n")).collect();
    let git = &job.repository.git;
    let args = ["cat-file", "--batch-check", "--buffer"];
    let ended = git.must(&args, asked.as_bytes(), HEADS * WORD, "look at what was imported")?;
    let answers = String::from_utf8_lossy(&ended.stdout);
    let commits = answers
        .lines()
        .filter_map(|line| match line.split(' ').collect::<Vec<_>>().as_slice() {
            [id, "commit", _] => Some((*id).to_owned()),
            _ => None,
        });
    let mut seen = BTreeSet::new();
    Ok(commits.filter(|id| seen.insert(id.clone())).collect())
}

/// The newest commits that are reachable from some.
fn history(job: &Job, from: &[String]) -> Result<BTreeSet<String>, CallError> {
    let git = &job.repository.git;
    let most = format!("--max-count={COMMITS}");
    let input: String = from.iter().map(|id| format!("{id}\n")).collect();
    let args = ["rev-list", most.as_str(), "--stdin"];
    let ended = git.must(&args, input.as_bytes(), COMMITS * WORD, "read the imported history")?;
    Ok(String::from_utf8_lossy(&ended.stdout)
        .lines()
        .map(str::to_owned)
        .collect())
}

fn text(path: &Path) -> Result<&str, CallError> {
    path.to_str().ok_or_else(|| {
        let message =
            "the path of the state directory is not UTF-8, so no bundle in it can be named; set `[hub] state`";
        CallError::new(ErrorKind::Other, message).blame(Blame::Operator)
    })
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
