//! Installed plugins: the lock file, the components that it names, and every change of either.
//!
//! A component counts by its digest. It is read once, checked against what the operator decided about it, and loaded from the
//! bytes that were checked; one that fails is not loaded, and says why, and the hub goes on without it. Changes are made one
//! at a time, from what the lock file says then, and nothing is written before it is known to load. All of it blocks. Not
//! here: how a component is fetched (`plugin/oci.rs` and the command line).

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::grants::intersect;
use super::lock::{Entry, Lock, Release};
use super::signature::{self, Signed};
use super::store::Store;
use super::terms::{Term, listed};
use super::{Loaded, Manifest, Origin, Plugins, Source, manifest_of};
use crate::config::{self, Config, Grants, Program, Wall};
use crate::error::{Error, ErrorKind, Result};
use crate::imports::process::digest;

mod add;
mod compared;

pub use add::{ASKS, Asked, Decision, Outcome, Plan, Wanted};

/// The installed plugins of a hub.
pub struct Installed {
    root: PathBuf,
    store: Store,
    largest: usize,
    plugins: Arc<Plugins>,
    /// One change at a time.
    turn: Mutex<()>,
}

/// An installed plugin, as `waypost plugin ls` and every change show it.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// What the lock file says of it.
    #[serde(flatten)]
    pub entry: Entry,
    /// Why it is not loaded; none for one that is.
    pub refused: Option<String>,
}

/// What was found out about one version of an installed plugin.
#[derive(Clone, Debug, Serialize)]
pub struct Verified {
    /// Its id.
    pub id: String,
    /// Which of its versions: `current`, `previous` or `held`.
    pub which: &'static str,
    /// Its version.
    pub version: String,
    /// Its digest.
    pub digest: String,
    /// Who signed it.
    pub signer: Option<signature::Signer>,
    /// What is wrong; none when nothing is.
    pub problem: Option<String>,
}

/// The component of an installed plugin, as it is locked, without a hub; none when nothing of this id is installed.
pub fn stored(root: &Path, config: &Config, id: &str) -> Result<Option<(Arc<[u8]>, Origin)>> {
    let lock = Lock::read(root)?;
    let Some(entry) = lock.get(id) else { return Ok(None) };
    let store = Store::of(&root.join(&config.hub.state), config.limits.plugin.component);
    let bytes = store.get(entry, &entry.current)?;
    Ok(Some((bytes, Origin::locked(entry, &entry.current))))
}

/// The ids of all that is installed in a project.
pub fn ids(root: &Path) -> Result<Vec<String>> {
    Ok(Lock::read(root)?.installed.into_iter().map(|entry| entry.id).collect())
}

impl Installed {
    /// The installed plugins of a project. A lock file that cannot be read is an error; a plugin in it that cannot be loaded
    /// is not.
    pub fn load(root: &Path, state: &Path, config: &Config, plugins: Arc<Plugins>) -> Result<Self> {
        let largest = config.limits.plugin.component;
        let installed = Self {
            root: root.to_owned(),
            store: Store::of(state, largest),
            largest,
            plugins,
            turn: Mutex::default(),
        };
        for entry in Lock::read(root)?.installed {
            let loaded = installed
                .prepare(&entry, &entry.current, config)
                .and_then(|loaded| installed.plugins.put(&loaded));
            if let Err(error) = loaded {
                tracing::warn!(
                    plugin = entry.id,
                    "an installed plugin is not loaded: {}",
                    error.chain()
                );
                installed.plugins.withdraw(&entry.id, Some(&error.chain()));
            }
        }
        Ok(installed)
    }

    /// All that is installed, in the order of the lock file.
    pub fn list(&self) -> Result<Vec<Shown>> {
        Ok(Lock::read(&self.root)?
            .installed
            .into_iter()
            .map(|entry| self.shown(entry))
            .collect())
    }

    /// Reads an installed plugin again, as it is locked.
    pub fn reload(&self, id: &str) -> Result<Arc<Loaded>> {
        let _turn = self.turn();
        let mut lock = Lock::read(&self.root)?;
        let entry = lock.known(id)?;
        let loaded = self.prepare(entry, &entry.current, &self.config()?)?;
        self.plugins.put(&loaded)
    }

    /// Whether this id is installed.
    pub fn has(&self, id: &str) -> Result<bool> {
        Ok(Lock::read(&self.root)?.get(id).is_some())
    }

    /// Removes a plugin, and its components.
    pub fn remove(&self, id: &str) -> Result<Shown> {
        let _turn = self.turn();
        let mut lock = Lock::read(&self.root)?;
        let entry = match lock.known(id) {
            Ok(entry) => entry.clone(),
            Err(error) => return Err(self.instead(id).unwrap_or(error)),
        };
        lock.installed.retain(|other| other.id != id);
        self.save(&lock)?;
        self.plugins.withdraw(id, None);
        Ok(Shown { entry, refused: None })
    }

    /// Gives more to a plugin. One that is held is loaded when it has all that it asks for.
    pub fn grant(&self, id: &str, terms: &[Term]) -> Result<Shown> {
        let _turn = self.turn();
        let (mut lock, config) = (Lock::read(&self.root)?, self.config()?);
        let mut entry = lock.known(id)?.clone();
        self.give(&mut entry, terms, &config)?;
        self.decide(&mut lock, entry, &config)
    }

    /// Takes something from a plugin. One that cannot be loaded without it is not loaded any more.
    pub fn revoke(&self, id: &str, terms: &[Term]) -> Result<Shown> {
        let _turn = self.turn();
        let (mut lock, config) = (Lock::read(&self.root)?, self.config()?);
        let mut entry = lock.known(id)?.clone();
        take(&mut entry, terms)?;
        self.decide(&mut lock, entry, &config)
    }

    /// Takes something from a plugin and gives it parts of that, at once: it is never without what it keeps. One that would
    /// not load any more stays as it is.
    pub fn narrow(&self, id: &str, taken: &[Term], given: &[Term]) -> Result<Shown> {
        let _turn = self.turn();
        let (mut lock, config) = (Lock::read(&self.root)?, self.config()?);
        let mut entry = lock.known(id)?.clone();
        let before = entry.current.grant.clone();
        if let Some(more) = given.iter().find(|term| !term.is_in(&before)) {
            let message = format!(
                "plugin `{id}` was not granted `{more}`, so it is no part of what it has; granted are {}",
                listed(&Term::all(&before))
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        take(&mut entry, taken)?;
        self.give(&mut entry, given, &config)?;
        self.prepare(&entry, &entry.current, &config)?;
        self.decide(&mut lock, entry, &config)
    }

    fn give(&self, entry: &mut Entry, terms: &[Term], config: &Config) -> Result<()> {
        let current = self
            .open(entry, &entry.current, config)
            .map(|source| source.manifest.asks());
        let held = match &entry.held {
            Some(held) => Some(self.open(entry, held, config)?.manifest.asks()),
            None => None,
        };
        // With another version held, it is enough that this one can be read.
        let current = match (current, &held) {
            (Ok(asks), _) => Some(asks),
            (Err(_), Some(_)) => None,
            (Err(error), None) => return Err(error),
        };
        for term in terms {
            let term = &term.clone().settled()?;
            let mut asked = false;
            if let Some(asks) = current.as_ref().filter(|asks| term.touches(asks)) {
                term.give(&mut entry.current.grant);
                entry.current.grant = intersect(asks, &entry.current.grant);
                asked = true;
            }
            if let (Some(asks), Some(release)) = (held.as_ref().filter(|asks| term.touches(asks)), &mut entry.held) {
                term.give(&mut release.grant);
                release.grant = intersect(asks, &release.grant);
                asked = true;
            }
            if !asked {
                let asks = held.iter().chain(&current).flat_map(Term::all).fold(Vec::new(), once);
                let message = format!(
                    "plugin `{}` does not ask for `{term}`; it asks for {}",
                    entry.id,
                    listed(&asks)
                );
                return Err(Error::new(ErrorKind::Invalid, message));
            }
        }
        if let (Some(asks), Some(release)) = (&held, entry.held.clone())
            && Term::all(asks).iter().all(|term| term.is_in(&release.grant))
        {
            entry.previous = Some(std::mem::replace(&mut entry.current, release));
            entry.held = None;
        }
        Ok(())
    }

    /// Goes back to the version before, with what it was granted then and is not revoked since.
    pub fn roll_back(&self, id: &str) -> Result<Shown> {
        let _turn = self.turn();
        let (mut lock, config) = (Lock::read(&self.root)?, self.config()?);
        let mut entry = lock.known(id)?.clone();
        let Some(previous) = entry.previous.take() else {
            let message = format!("plugin `{id}` has no version before {}", entry.current.version);
            return Err(Error::new(ErrorKind::NotFound, message));
        };
        let loaded = self.prepare(&entry, &previous, &config)?;
        entry.previous = Some(std::mem::replace(&mut entry.current, previous));
        entry.held = None;
        lock.put(entry.clone());
        self.save(&lock)?;
        self.plugins.put(&loaded)?;
        Ok(self.shown(entry))
    }

    /// Reads every installed component again and checks all that is known about it; or those of one plugin.
    pub fn verify(&self, id: Option<&str>) -> Result<Vec<Verified>> {
        let _turn = self.turn();
        let (mut lock, config) = (Lock::read(&self.root)?, self.config()?);
        if let Some(id) = id {
            lock.known(id)?;
            lock.installed.retain(|entry| entry.id == id);
        }
        let mut found = Vec::new();
        for entry in &lock.installed {
            let releases = [
                ("current", Some(&entry.current)),
                ("previous", entry.previous.as_ref()),
                ("held", entry.held.as_ref()),
            ];
            for (which, release) in releases {
                let Some(release) = release else { continue };
                let opened = self.open(entry, release, &config);
                let problem = opened.and_then(|_| unchanged(&entry.id, &release.grant)).err();
                found.push(Verified {
                    id: entry.id.clone(),
                    which,
                    version: release.version.clone(),
                    digest: release.digest.clone(),
                    signer: release.signer.clone(),
                    problem: problem.map(|error| error.chain()),
                });
            }
        }
        Ok(found)
    }

    /// Writes what was decided about a plugin, and then loads it; when that cannot be, it is loaded no more.
    fn decide(&self, lock: &mut Lock, entry: Entry, config: &Config) -> Result<Shown> {
        let loaded = self.prepare(&entry, &entry.current, config);
        lock.put(entry.clone());
        self.save(lock)?;
        if let Err(error) = loaded.and_then(|loaded| self.plugins.put(&loaded)) {
            self.plugins.withdraw(&entry.id, Some(&error.chain()));
        }
        Ok(self.shown(entry))
    }

    /// A locked version, ready to be called, if all about it is as the operator decided.
    fn prepare(&self, entry: &Entry, release: &Release, config: &Config) -> Result<Arc<Loaded>> {
        self.plugins.prepare(self.open(entry, release, config)?)
    }

    /// The component of a locked version, if it is what was installed. Its bytes are read once.
    fn open(&self, entry: &Entry, release: &Release, config: &Config) -> Result<Source> {
        let bytes = self.store.get(entry, release)?;
        let mut manifest = manifest_of(&format!("plugin `{}`", entry.id), &bytes)?;
        if (manifest.id.as_str(), &manifest.version) != (entry.written(), &release.version) {
            let message = format!(
                "{} says that `{}` has the version {}, but the component with this digest is `{}` {}; `waypost plugin add {}` again",
                super::lock::FILE,
                entry.written(),
                release.version,
                manifest.id,
                manifest.version.escape_debug(),
                entry.again(release)
            );
            return Err(Error::new(ErrorKind::Denied, message));
        }
        manifest.id.clone_from(&entry.id);
        self.trusted(entry, release, &bytes, config)?;
        Ok(Source {
            manifest,
            bytes,
            origin: Origin::locked(entry, release),
        })
    }

    /// Refuses what was signed by somebody who is no publisher any more, and what now needs a signature and has none.
    fn trusted(&self, entry: &Entry, release: &Release, bytes: &[u8], config: &Config) -> Result<()> {
        let refused = |message: String| Err(Error::new(ErrorKind::Denied, message));
        let id = &entry.id;
        let Some(signer) = &release.signer else {
            if config.installing.needs_signature(&release.source) {
                return refused(format!(
                    "plugin `{id}` is not signed, and `[plugins] require-signature` of waypost.toml asks for it from {}; install a \
                     signed version",
                    release.source
                ));
            }
            return Ok(());
        };
        let Some(text) = self.store.signature(&release.digest) else {
            return refused(format!(
                "the signature of plugin `{id}` is missing from the state directory; `waypost plugin add {}` again",
                entry.again(release)
            ));
        };
        let publishers: Vec<_> = config
            .publishers
            .iter()
            .filter(|publisher| publisher.key == signer.key)
            .cloned()
            .collect();
        if publishers.is_empty() {
            return refused(format!(
                "plugin `{id}` is signed by {}, which is no [[publisher]] of waypost.toml any more; remove the plugin, or add the \
                 publisher again",
                signer.shown()
            ));
        }
        signature::check(&format!("plugin `{id}`"), bytes, &text, &publishers).map(drop)
    }

    /// The configuration as it is now: publishers and policy hold from the moment when they are written.
    fn config(&self) -> Result<Config> {
        Config::read(&self.root.join(config::FILE))
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the lock file, and removes the components that it names no more.
    fn save(&self, lock: &Lock) -> Result<()> {
        lock.save(&self.root)?;
        let named: HashSet<&str> = lock
            .installed
            .iter()
            .flat_map(Entry::releases)
            .map(|release| release.digest.as_str())
            .collect();
        self.store.keep(&named);
        Ok(())
    }

    fn shown(&self, entry: Entry) -> Shown {
        Shown {
            refused: self.plugins.refused(&entry.id),
            entry,
        }
    }

    /// Why a plugin that is not installed cannot be removed, when it is another kind of plugin.
    fn instead(&self, id: &str) -> Option<Error> {
        let message = match &self.plugins.get(id).ok()?.origin {
            Origin::Bundled => format!("plugin `{id}` is part of this binary and cannot be removed"),
            Origin::Installed { .. } => {
                format!("plugin `{id}` stands in waypost.toml; remove its [[plugin]] entry there")
            }
            Origin::Locked { .. } => return None,
        };
        Some(Error::new(ErrorKind::Invalid, message))
    }
}

/// Refuses programs that are not any more what was granted.
fn unchanged(id: &str, grant: &Grants) -> Result<()> {
    for Program { name, path, sha256, .. } in &grant.process {
        let (Some(path), Some(granted)) = (path, sha256) else {
            continue;
        };
        let there = digest(path)?;
        if there != *granted {
            let message = format!(
                "the program `{name}` has changed: granted was the SHA-256 {granted}, and {path} has {there}; if it may be run, \
                 `waypost plugin grant {id} process={name}={path}` says so",
                path = path.display()
            );
            return Err(Error::new(ErrorKind::Denied, message));
        }
    }
    Ok(())
}

fn once(mut all: Vec<Term>, term: Term) -> Vec<Term> {
    if !all.contains(&term) {
        all.push(term);
    }
    all
}

/// Takes something from all versions of a plugin.
fn take(entry: &mut Entry, terms: &[Term]) -> Result<()> {
    let id = entry.id.clone();
    for term in terms {
        let mut taken = false;
        let releases = [Some(&mut entry.current), entry.previous.as_mut(), entry.held.as_mut()];
        let wider = releases.iter().flatten().any(|release| term.is_in(&release.grant));
        for release in releases.into_iter().flatten() {
            taken |= term.take(&mut release.grant);
        }
        let granted = || listed(&Term::all(&entry.current.grant));
        if term.is_in(&entry.current.grant) {
            let message = format!(
                "`{term}` is a part of what plugin `{id}` was granted, and only the whole can be taken; granted are {}",
                granted()
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        if !taken && !wider {
            let message = format!("plugin `{id}` was not granted `{term}`; granted are {}", granted());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
    }
    Ok(())
}
