//! Plugins: from a component and its manifest to something that executes calls.
//!
//! Three lifetimes, three types: [`Plugins`] lives with the hub, [`Loaded`] from load to unload, and the state of a call in
//! [`crate::imports::CallState`]. Loading is all or nothing, with one error that names the plugin, the item and the remedy.
//! What is installed by digest is [`Installed`].
//! Not here: who is asked (routes), and in what order things happen to a call (dispatch).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::Serialize;
use tokio::sync::{Semaphore, watch};

use crate::call::{Call, CallError, CallName, covers};
use crate::config::{Limits, PluginLimits, Wall};
use crate::engine::Engine;
use crate::engine::cache::Hashed;
use crate::error::{Blame, Error, ErrorKind, Result};
use crate::imports::{self, Facts};

use leaving::Leaving;
use rate::{Rate, Rates};
use uses::Uses;

pub mod carrier;
pub mod compile;
pub mod contract;
pub mod execute;
mod grants;
pub mod health;
pub mod installed;
pub mod learned;
mod leaving;
pub mod link;
pub mod lock;
pub mod manifest;
mod observe;
pub mod oci;
mod origin;
pub mod rate;
pub mod section;
pub mod signature;
mod source;
mod store;
pub mod terms;
pub mod uses;
pub mod worker;
pub mod world;

pub use carrier::Carriers;
pub use compile::Compiler;
pub use execute::{Executor, InProcess, Walls};
pub use installed::Installed;
pub use manifest::{Manifest, Role};
pub use origin::Origin;
pub use source::Source;
use source::manifest_of;
pub use worker::Workers;

/// A plugin that is ready to be called.
pub struct Loaded {
    /// What it says of itself.
    pub manifest: Manifest,
    /// What is fixed about it and known to its imports.
    pub facts: Arc<Facts>,
    /// The SHA-256 of the component.
    pub digest: String,
    /// Where it came from.
    pub origin: Origin,
    /// How it does.
    pub health: health::Health,
    /// How often it asks.
    rates: Arc<Rates>,
    /// What of its grants it uses.
    pub uses: Arc<Uses>,
    /// The grants without which it does not load, because it imports what they give.
    pub needs: Vec<&'static str>,
    /// When its files began to be read, among all that were: what was read later is not undone by what was read before. No
    /// two loads have the same, also of one component.
    turn: u64,
    /// Who is answerable for it.
    publisher: Arc<str>,
    code: Code,
    /// Calls into it at the same time.
    places: Semaphore,
    /// Calls that may wait for a place.
    queue: Semaphore,
    /// Nested calls into it at the same time.
    reserve: Semaphore,
    /// The same for calls that are made for a shadow, which no other call notices.
    beside: Beside,
}

/// What a plugin has for the calls that are made for a shadow.
struct Beside {
    places: Semaphore,
    health: health::Health,
    rates: Arc<Rates>,
}

/// The code of a plugin, on its side of the wall.
enum Code {
    /// Linked, to run in this process.
    Linked(link::Linked),
    /// Compiled, for a worker process.
    Compiled(Arc<Vec<u8>>),
}

/// What `waypost plugin ls` shows of one plugin.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// Its id.
    pub id: Arc<str>,
    /// Its version.
    pub version: String,
    /// Its role.
    pub role: Role,
    /// `bundled`, or the component file.
    pub origin: String,
    /// The SHA-256 of the component.
    pub digest: String,
    /// What it executes.
    pub serves: Vec<String>,
    /// The calls it may make.
    pub may_call: Vec<String>,
    /// Whether it may keep state.
    pub state: bool,
    /// Whether it may make workspaces.
    pub workspace: bool,
    /// The calls it may claim.
    pub claims: Vec<String>,
    /// Why its claim does not hold now; none when it does, and for one without.
    pub unclaimed: Option<String>,
    /// Whether it hears of calls.
    pub subscribes: bool,
    /// The servers that it may ask.
    pub http: Vec<String>,
    /// The secrets that it may have sent, by name.
    pub secrets: Vec<String>,
    /// The variables of the hub that it reads.
    pub env: Vec<String>,
    /// The folders that it uses: name, where it is, and whether it writes there.
    pub files: Vec<String>,
    /// The programs that it runs: name, which file it is, and with which arguments.
    pub process: Vec<String>,
    /// The sockets that it connects to: name, and where it is.
    pub socket: Vec<String>,
    /// Where its code runs; none for one of this binary.
    pub wall: Option<Wall>,
    /// For one that is installed: who signed it.
    pub signer: Option<signature::Signer>,
    /// One line about it.
    pub description: String,
}

/// The plugins of this hub.
pub struct Plugins {
    engine: Arc<Engine>,
    compiler: Compiler,
    limits: PluginLimits,
    /// How often all of them together ask, and all that are asked for shadows.
    rate: Arc<Rate>,
    rate_beside: Arc<Rate>,
    loaded: ArcSwap<BTreeMap<Arc<str>, Arc<Loaded>>>,
    /// Why those that should be loaded are not.
    refused: ArcSwap<BTreeMap<Arc<str>, String>>,
    /// Those that were replaced or removed, while calls are under way in them.
    leaving: Leaving,
    /// The next turn.
    turns: AtomicU64,
    /// One load, reload or unload at a time.
    changing: Mutex<()>,
    /// Changes after each of them.
    changed: watch::Sender<()>,
}

impl Plugins {
    /// No plugins yet.
    pub fn new(engine: Arc<Engine>, compiler: Compiler, limits: &Limits) -> Self {
        Self {
            engine,
            compiler,
            limits: limits.plugin.clone(),
            rate: Arc::new(Rate::new(limits.import_rate)),
            rate_beside: Arc::new(Rate::new(limits.import_rate / 8)),
            loaded: ArcSwap::default(),
            refused: ArcSwap::default(),
            leaving: Leaving::default(),
            turns: AtomicU64::new(0),
            changing: Mutex::new(()),
            changed: watch::Sender::default(),
        }
    }

    /// A loaded plugin; the error lists what is loaded.
    pub fn get(&self, id: &str) -> Result<Arc<Loaded>, CallError> {
        let loaded = self.loaded.load();
        loaded.get(id).cloned().ok_or_else(|| {
            if let Some(why) = self.refused.load().get(id) {
                let message = format!("plugin `{id}` is not loaded: {why}");
                return CallError::new(ErrorKind::Unavailable, message).blame(Blame::Operator);
            }
            let known: Vec<&str> = loaded.keys().map(|id| &**id).collect();
            let message = format!(
                "plugin `{}` is not loaded; loaded are: {}",
                id.escape_debug(),
                known.join(", ")
            );
            CallError::new(ErrorKind::Unavailable, message).blame(Blame::Operator)
        })
    }

    /// All of them, by id.
    pub fn all(&self) -> Vec<Arc<Loaded>> {
        self.loaded.load().values().cloned().collect()
    }

    /// Loads a plugin, or replaces the loaded one with the same id: calls under way end on the old one, new calls go to
    /// the new one. On an error nothing changes. Blocks while it compiles.
    pub fn load(&self, source: Source) -> Result<Arc<Loaded>> {
        self.put(&self.prepare(source)?)
    }

    /// All that loading does, but that calls reach it: an error here is what loading would say. Blocks while it compiles.
    pub fn prepare(&self, source: Source) -> Result<Arc<Loaded>> {
        self.make(source, self.turn()).map(Arc::new)
    }

    /// Lets calls reach a plugin that was prepared, instead of the loaded one with its id; unless that one was read later.
    /// Answers which of them it is.
    pub fn put(&self, loaded: &Arc<Loaded>) -> Result<Arc<Loaded>> {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = BTreeMap::clone(&self.loaded.load());
        if let Some(old) = all.get(&loaded.facts.id) {
            old.origin.must_be(&loaded.origin, &loaded.facts.id)?;
            if old.turn > loaded.turn {
                return Ok(Arc::clone(old));
            }
        }
        self.leaving
            .add(all.insert(Arc::clone(&loaded.facts.id), Arc::clone(loaded)));
        self.loaded.store(Arc::new(all));
        self.note(&loaded.facts.id, None);
        self.changed.send_replace(());
        Ok(Arc::clone(loaded))
    }

    fn turn(&self) -> u64 {
        self.turns.fetch_add(1, Ordering::Relaxed)
    }

    /// How many older versions of a plugin there still are, because calls are under way in them.
    pub fn leaving(&self, id: &str) -> usize {
        self.leaving.of(id)
    }

    /// Removes an installed plugin that must not be called any more, or forgets why one was refused.
    pub(crate) fn withdraw(&self, id: &str, why: Option<&str>) {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = BTreeMap::clone(&self.loaded.load());
        if all
            .get(id)
            .is_some_and(|old| matches!(old.origin, Origin::Locked { .. }))
        {
            self.leaving.add(all.remove(id));
            self.loaded.store(Arc::new(all));
        }
        self.note(id, why);
        self.changed.send_replace(());
    }

    /// Why a plugin that should be loaded is not; none for one that is, and for one that nobody knows.
    pub fn refused(&self, id: &str) -> Option<String> {
        self.refused.load().get(id).cloned()
    }

    fn note(&self, id: &str, why: Option<&str>) {
        let mut refused = BTreeMap::clone(&self.refused.load());
        match why {
            Some(why) => refused.insert(id.into(), why.to_owned()),
            None => refused.remove(id),
        };
        self.refused.store(Arc::new(refused));
    }

    /// Removes an installed plugin until the next start. Calls under way end as they would; its claim does not.
    pub fn unload(&self, id: &str) -> Result<()> {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.known(id)?;
        if matches!(old.origin, Origin::Bundled) {
            let message = format!("plugin `{id}` is part of this binary and cannot be unloaded");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let mut all = BTreeMap::clone(&self.loaded.load());
        self.leaving.add(all.remove(id));
        self.loaded.store(Arc::new(all));
        self.changed.send_replace(());
        Ok(())
    }

    /// Changes whenever a plugin was loaded, replaced or removed.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn known(&self, id: &str) -> Result<Arc<Loaded>> {
        self.get(id)
            .map_err(|error| Error::new(ErrorKind::NotFound, error.message))
    }

    /// Reads an installed plugin's files again and replaces it.
    pub fn reload(&self, id: &str) -> Result<Arc<Loaded>> {
        let turn = self.turn();
        let old = self.known(id)?;
        match &old.origin {
            Origin::Bundled => Err(Error::new(
                ErrorKind::Invalid,
                format!("plugin `{id}` is part of this binary; a new one comes with a new binary"),
            )),
            Origin::Locked { .. } => Err(Error::new(
                ErrorKind::Invalid,
                format!("plugin `{id}` is installed by digest; a new one comes with `waypost plugin add`"),
            )),
            Origin::Installed { path, wall, grant } => {
                let source = Source::read(path, *wall, grant.clone(), self.limits.component)?;
                if source.manifest.id != id {
                    let message = format!(
                        "{} is now plugin `{}`, not `{id}`; restart the hub to load it under its new id",
                        path.display(),
                        source.manifest.id
                    );
                    return Err(Error::new(ErrorKind::Invalid, message).blame(Blame::Plugin));
                }
                self.put(&Arc::new(self.make(source, turn)?))
            }
        }
    }

    fn make(&self, source: Source, turn: u64) -> Result<Loaded> {
        let Source {
            manifest,
            bytes,
            origin,
        } = source;
        let asked = manifest.asks();
        let grants = match &origin {
            Origin::Bundled => asked.clone(),
            Origin::Installed { grant, .. } | Origin::Locked { grant, .. } => grants::intersect(&asked, grant),
        };
        grants::check(&manifest.id, &asked, &grants, &origin)?;
        let limits = manifest.limits.within(&self.limits);
        let facts = Arc::new(Facts {
            id: manifest.id.as_str().into(),
            may_call: grants.gateway.clone().into(),
            grants,
            limits,
        });
        let world = world::World::read(&manifest.id, &bytes);
        if let Ok(world) = &world {
            link::check(&manifest, &facts, &origin, world)?;
        }
        let role = manifest.role;
        // What a stranger wrote is not compiled in this process.
        let compile = || self.compiler.compile(role, &facts, &bytes);
        let link = |component| link::link(self.engine.wasmtime(), role, &facts, &component).map(Code::Linked);
        let source = Hashed::of(&bytes);
        let code = match (&origin, origin.wall()) {
            (Origin::Bundled, _) => link(self.engine.component(&facts.id, &source)?)?,
            (_, Wall::InProcess) => link(self.engine.trusted(&facts.id, &source, compile)?)?,
            (_, Wall::Worker) => Code::Compiled(Arc::new(self.engine.code(&source, compile)?)),
        };
        // The compiler has words of its own for bytes that have no world; where it takes them, nothing was checked.
        let world = world?;
        let needs = world
            .imports
            .iter()
            .filter_map(|name| Some(imports::needed(name)?.grant));
        let rates = |all: &Arc<Rate>| Arc::new(Rates::new(facts.limits.import_rate, Arc::clone(all)));
        Ok(Loaded {
            needs: needs.collect(),
            uses: Arc::default(),
            rates: rates(&self.rate),
            digest: source.hex(),
            places: Semaphore::new(facts.limits.concurrency),
            queue: Semaphore::new(facts.limits.queue),
            reserve: Semaphore::new(facts.limits.concurrency),
            health: health::Health::new(&facts.limits),
            publisher: origin.publisher(&facts.id),
            beside: Beside {
                places: Semaphore::new(facts.limits.concurrency),
                health: health::Health::new(&facts.limits),
                rates: rates(&self.rate_beside),
            },
            turn,
            manifest,
            facts,
            origin,
            code,
        })
    }
}

impl Loaded {
    /// Who is answerable for it: plugins of one publisher share a worker process.
    pub fn publisher(&self) -> &Arc<str> {
        &self.publisher
    }

    /// Calls into it at the same time: nested ones and those of shadows included.
    fn places(&self) -> usize {
        self.facts.limits.concurrency.saturating_mul(3)
    }

    /// How often it asks while it works on a call.
    pub(crate) fn rates(&self, call: &Call) -> &Arc<Rates> {
        if call.principal.rights.only_reads() {
            &self.beside.rates
        } else {
            &self.rates
        }
    }

    fn linked(&self) -> Result<&link::Linked, CallError> {
        match &self.code {
            Code::Linked(linked) => Ok(linked),
            Code::Compiled(_) => Err(self.other_side()),
        }
    }

    fn compiled(&self) -> Result<&Arc<Vec<u8>>, CallError> {
        match &self.code {
            Code::Compiled(code) => Ok(code),
            Code::Linked(_) => Err(self.other_side()),
        }
    }

    fn other_side(&self) -> CallError {
        let message = format!("plugin `{}` runs on the other side of the wall", self.facts.id);
        CallError::new(ErrorKind::Internal, message)
    }

    /// Whether its manifest says that it executes this call.
    pub fn serves(&self, name: &CallName) -> bool {
        self.manifest.serves.iter().any(|pattern| covers(pattern, name))
    }

    /// Whether it may hold the claim on this call.
    pub fn claims(&self, name: &CallName) -> bool {
        self.facts.grants.claim.iter().any(|pattern| covers(pattern, name))
    }

    /// The time that one call into it may take, unless its manifest says less.
    pub fn timeout(&self, usual: Duration) -> Duration {
        self.manifest.limits.timeout.unwrap_or(usual)
    }

    /// What `waypost plugin ls` shows.
    pub fn shown(&self) -> Shown {
        Shown {
            id: Arc::clone(&self.facts.id),
            version: self.manifest.version.clone(),
            role: self.manifest.role,
            origin: match &self.origin {
                Origin::Bundled => "bundled".to_owned(),
                Origin::Installed { path, .. } => path.display().to_string(),
                Origin::Locked { source, .. } => source.clone(),
            },
            wall: match &self.origin {
                Origin::Bundled => None,
                Origin::Installed { wall, .. } | Origin::Locked { wall, .. } => Some(*wall),
            },
            signer: match &self.origin {
                Origin::Locked { signer, .. } => signer.clone(),
                _ => None,
            },
            digest: self.digest.clone(),
            serves: self.manifest.serves.clone(),
            may_call: self.facts.may_call.to_vec(),
            state: self.facts.grants.state,
            workspace: self.facts.grants.workspace,
            claims: self.facts.grants.claim.clone(),
            unclaimed: None,
            subscribes: self.facts.grants.subscribe,
            http: self.facts.grants.http.iter().map(ToString::to_string).collect(),
            secrets: self.facts.grants.secrets.clone(),
            env: self.facts.grants.env.clone(),
            files: self.facts.grants.files.iter().map(ToString::to_string).collect(),
            process: self.facts.grants.process.iter().map(ToString::to_string).collect(),
            socket: self.facts.grants.socket.iter().map(ToString::to_string).collect(),
            description: self.manifest.description.clone(),
        }
    }
}
