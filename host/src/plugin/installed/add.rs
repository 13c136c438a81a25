//! Installing a component: what it is, what it asks for, what that would mean; and then, when it was decided, doing it.

use std::cmp::Ordering;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::manifest::Role;
use super::super::signature::Signer;
use super::super::store::digest_of;
use super::compared::{looks_like, order};
use super::{
    Config, Entry, Error, ErrorKind, Installed, Loaded, Lock, Manifest, Origin, Release, Result, Signed, Source, Term,
    Wall, intersect, listed, manifest_of, signature,
};
use crate::config::Grants;
use crate::plugin::lock::TEXT_BYTES;
use crate::text::shortened;

/// How many things a component may ask for: a person reads each of them.
pub const ASKS: usize = 64;

/// What somebody wants to install, beside its bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Where it came from: `file:<path>` or `oci:<reference>`.
    pub source: String,
    /// For one from a registry: the digest of the OCI manifest that the reference stood for.
    #[serde(default)]
    pub manifest: Option<String>,
    /// The text of its signature file.
    #[serde(default)]
    pub signature: Option<String>,
    /// The id under which it is installed; none for the one in its manifest.
    #[serde(default)]
    pub id: Option<String>,
    /// Where its code shall run. For an upgrade: where it ran. Otherwise a worker process.
    #[serde(default)]
    pub wall: Option<Wall>,
    /// What is granted.
    #[serde(default)]
    pub decision: Decision,
    /// Whether an older version may replace a newer one.
    #[serde(default)]
    pub downgrade: bool,
    /// Whether a version may replace one that somebody else signed.
    #[serde(default)]
    pub signer_changed: bool,
    /// Whether it is installed, or only looked at.
    #[serde(default)]
    pub commit: bool,
}

/// What the operator grants to a component that is installed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// Nothing was said: what a version before was granted, and an upgrade that asks for more is held.
    #[default]
    Open,
    /// All that it asks for, and these as they are written here: where its folders, programs and sockets are.
    All(Vec<String>),
    /// These, beside what a version before was granted.
    These(Vec<String>),
}

/// What a component is, what it asks for, and what became or would become of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Its id.
    pub id: String,
    /// The id in its manifest, where that is another one.
    pub component: Option<String>,
    /// Its version.
    pub version: String,
    /// Its role.
    pub role: Role,
    /// What it says of itself.
    pub description: String,
    /// The SHA-256 of the component.
    pub digest: String,
    /// Its size in bytes.
    pub size: usize,
    /// Where it came from.
    pub source: String,
    /// For one from a registry: the digest of the OCI manifest.
    pub manifest: Option<String>,
    /// Who signed it.
    pub signer: Option<Signer>,
    /// The same for people, with the id of the key.
    pub signed_by: Option<String>,
    /// What the signer said in the signature.
    pub comment: Option<String>,
    /// The calls that it executes.
    pub serves: Vec<String>,
    /// What it asks for.
    pub asks: Vec<Asked>,
    /// The version that is installed now.
    pub installed: Option<String>,
    /// Where its code runs.
    pub wall: Wall,
    /// What to know before it is decided.
    pub warnings: Vec<String>,
    /// The rule that makes it reachable; none when none is needed.
    pub route: Option<String>,
    /// What happened.
    pub outcome: Outcome,
}

/// One thing that a component asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// As it is granted: `state`, `gateway=inference`.
    pub grant: String,
    /// In plain words.
    pub words: String,
    /// Whether it is granted, all of it.
    pub granted: bool,
    /// Whether the version that is installed was not granted it.
    pub new: bool,
}

/// What happened to a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was looked at.
    Looked,
    /// It is installed and loaded.
    Installed,
    /// It is kept, and not loaded until the operator decides.
    Held,
}

impl Installed {
    /// Looks at a component, or installs it. Nothing is written unless it loads with what it is granted.
    pub fn add(&self, wanted: Wanted, bytes: Arc<[u8]>) -> Result<Plan> {
        let _turn = self.turn();
        let (mut lock, config) = (Lock::read(&self.root)?, self.config()?);
        checked("source", &wanted.source)?;
        let what = wanted.source.as_str();
        if bytes.len() > self.largest {
            let message = format!(
                "{what} has {} bytes, the limit is {}: raise `component` in [limits.plugin]",
                bytes.len(),
                self.largest
            );
            return Err(Error::new(ErrorKind::Limit, message));
        }
        let mut manifest = manifest_of(what, &bytes)?;
        checked("version", &manifest.version)?;
        let component = match wanted.id.as_ref().filter(|id| **id != manifest.id) {
            Some(id) => {
                Manifest::check_id("`--as`", id)?;
                Some(std::mem::replace(&mut manifest.id, id.clone()))
            }
            None => None,
        };
        let signed = signed(&wanted, &bytes, &config)?;
        let old = lock.get(&manifest.id).cloned();
        self.free(&manifest.id)?;
        let mut warnings = Vec::new();
        if let Some(old) = &old {
            check_component(&manifest.id, component.as_deref(), old)?;
            check_order(&wanted, &manifest, &bytes, &old.current, &mut warnings)?;
            check_signer(&wanted, &manifest.id, signed.as_ref(), &old.current)?;
        }
        let plugins = self.plugins.all();
        let known = plugins.iter().map(|plugin| &*plugin.facts.id);
        let known = known.chain(lock.installed.iter().map(|entry| entry.id.as_str()));
        // A name that the operator gave misleads nobody.
        if let (None, None, Some(like)) = (&old, &component, looks_like(&manifest.id, known)) {
            warnings.push(format!(
                "its id `{}` looks like `{like}`, which is another plugin",
                manifest.id
            ));
        }

        let asks = manifest.asks();
        let count = Term::all(&asks).len();
        if count > ASKS {
            let message = format!("{what} asks for {count} things, which nobody reads; the limit is {ASKS}");
            return Err(Error::new(ErrorKind::Limit, message));
        }
        let before = old.as_ref().map(|old| old.current.grant.clone());
        let given = given(&wanted.decision, &manifest, before.as_ref(), wanted.commit)?;
        let entry = self.entry(
            &wanted,
            (&manifest, component),
            &bytes,
            signed.as_ref(),
            &given,
            old.as_ref(),
        );
        let lacks = Term::all(&asks).iter().any(|term| !term.is_in(&given));
        if wanted.commit && old.is_none() && wanted.decision == Decision::Open && lacks {
            let message = format!(
                "`{}` asks for {}; decide with `--yes` for all of it, or with `--grant` for a part",
                manifest.id,
                listed(&Term::all(&asks))
            );
            return Err(Error::new(ErrorKind::Denied, message));
        }
        let held = old.is_some() && wanted.decision == Decision::Open && lacks;
        // What is held would load with all that it asks for, or it would never; and before it is decided where things are,
        // they may be anywhere.
        let undecided = !wanted.commit && old.is_none() && wanted.decision == Decision::Open;
        let tried = if held || undecided {
            asks.placed(&self.root)
        } else {
            given
        };
        let loaded = self.tried(&entry, manifest.clone(), &bytes, &tried).map_err(|error| {
            if lacks && !held && error.kind == ErrorKind::Denied {
                let message = format!("without all that it asks for it does not load: {}", error.message);
                return Error::new(error.kind, message).blame(error.blame);
            }
            error
        })?;
        let mut plan = plan(
            &entry,
            &manifest,
            bytes.len(),
            signed.as_ref(),
            before.as_ref(),
            old.as_ref(),
        );
        plan.warnings = warnings;
        if !wanted.commit {
            return Ok(plan);
        }
        self.store.put(&bytes, wanted.signature.as_deref())?;
        if let (true, Some(old)) = (held, old) {
            lock.put(Entry {
                held: Some(entry.current),
                ..old
            });
            self.save(&lock)?;
            plan.outcome = Outcome::Held;
            return Ok(plan);
        }
        lock.put(entry);
        self.save(&lock)?;
        self.plugins.put(&loaded)?;
        plan.outcome = Outcome::Installed;
        Ok(plan)
    }

    /// Refuses the id of a plugin that comes from elsewhere.
    fn free(&self, id: &str) -> Result<()> {
        let whose = match self.plugins.get(id).ok().map(|loaded| loaded.origin.clone()) {
            Some(Origin::Bundled) => "a plugin of this binary".to_owned(),
            Some(Origin::Installed { path, .. }) => {
                format!("{}, by its [[plugin]] entry in waypost.toml", path.display())
            }
            Some(Origin::Locked { .. }) | None => return Ok(()),
        };
        let message = format!("the id `{id}` belongs to {whose}; this one needs another id: install it `--as <id>`");
        Err(Error::new(ErrorKind::Denied, message))
    }

    /// What the lock file would say.
    fn entry(
        &self,
        wanted: &Wanted,
        (manifest, component): (&Manifest, Option<String>),
        bytes: &[u8],
        signed: Option<&Signed>,
        given: &Grants,
        old: Option<&Entry>,
    ) -> Entry {
        let current = Release {
            version: manifest.version.clone(),
            digest: digest_of(bytes),
            source: wanted.source.clone(),
            manifest: wanted.manifest.clone(),
            signer: signed.map(|signed| signed.signer.clone()),
            grant: given.clone(),
        };
        let previous = old.and_then(|old| {
            if old.current.digest == current.digest {
                old.previous.clone()
            } else {
                Some(old.current.clone())
            }
        });
        Entry {
            id: manifest.id.clone(),
            component,
            wall: wanted.wall.or(old.map(|old| old.wall)).unwrap_or(Wall::Worker),
            current,
            previous,
            held: None,
        }
    }

    /// Loads it from these bytes, up to the moment when calls would reach it.
    fn tried(&self, entry: &Entry, manifest: Manifest, bytes: &Arc<[u8]>, grant: &Grants) -> Result<Arc<Loaded>> {
        self.plugins.prepare(Source {
            manifest,
            bytes: Arc::clone(bytes),
            origin: Origin::Locked {
                source: entry.current.source.clone(),
                signer: entry.current.signer.clone(),
                wall: entry.wall,
                grant: grant.clone(),
            },
        })
    }
}

/// Refuses what would not stand on one line of the lock file and of a terminal.
fn checked(name: &str, text: &str) -> Result<()> {
    if !text.is_empty() && text.len() <= TEXT_BYTES && !text.chars().any(char::is_control) {
        return Ok(());
    }
    let message = format!(
        "the {name} `{}` of this component is not one; it has 1 to {TEXT_BYTES} bytes, and stands on one line",
        shortened(text, 80)
    );
    Err(Error::new(ErrorKind::Invalid, message))
}

/// Who signed it, if anybody; refused is a signature that does not hold, and none where one is needed.
fn signed(wanted: &Wanted, bytes: &[u8], config: &Config) -> Result<Option<Signed>> {
    match &wanted.signature {
        Some(text) => signature::check(&wanted.source, bytes, text, &config.publishers).map(Some),
        None if config.installing.needs_signature(&wanted.source) => {
            let message = format!(
                "{} is not signed, and `[plugins] require-signature` of waypost.toml asks for it; put `<file>.minisig` beside it, or \
                 name it with `--signature`",
                wanted.source
            );
            Err(Error::new(ErrorKind::Denied, message))
        }
        None => Ok(None),
    }
}

/// Refuses a version of another plugin under an id that the operator gave to one.
fn check_component(id: &str, component: Option<&str>, old: &Entry) -> Result<()> {
    let component = component.unwrap_or(id);
    if component == old.written() {
        return Ok(());
    }
    let message = format!(
        "`{id}` is installed already, from the plugin `{}`, and this one is `{component}`; install it under another id with \
         `--as`, or remove the other one first",
        old.written()
    );
    Err(Error::new(ErrorKind::Denied, message))
}

fn check_order(
    wanted: &Wanted,
    manifest: &Manifest,
    bytes: &[u8],
    old: &Release,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let (id, new) = (&manifest.id, manifest.version.escape_debug());
    let why = match order(&manifest.version, &old.version) {
        Some(Ordering::Greater) => return Ok(()),
        Some(Ordering::Equal) => {
            if digest_of(bytes) != old.digest {
                warnings.push(format!(
                    "version {new} of `{id}` is installed already, with other content"
                ));
            }
            return Ok(());
        }
        Some(Ordering::Less) => format!(
            "version {new} of `{id}` is older than {}, which is installed",
            old.version
        ),
        None => format!(
            "nobody can tell whether version {new} of `{id}` is newer than {}",
            old.version
        ),
    };
    if wanted.downgrade {
        warnings.push(why);
        return Ok(());
    }
    let message = format!("{why}; `--downgrade` installs it all the same");
    Err(Error::new(ErrorKind::Denied, message))
}

fn check_signer(wanted: &Wanted, id: &str, signed: Option<&Signed>, old: &Release) -> Result<()> {
    let Some(before) = &old.signer else { return Ok(()) };
    let now = match signed {
        Some(signed) if signed.signer.key == before.key => return Ok(()),
        Some(signed) => format!("this one by {}", signed.signer.shown()),
        None => "this one is not signed".to_owned(),
    };
    if wanted.signer_changed {
        return Ok(());
    }
    let message = format!(
        "the installed `{id}` is signed by {}, and {now}; when you know why, say `--signer-changed`",
        before.shown()
    );
    Err(Error::new(ErrorKind::Denied, message))
}

/// What it is granted of what it asks for. Before it is decided, all of it is looked at.
fn given(decision: &Decision, manifest: &Manifest, before: Option<&Grants>, commit: bool) -> Result<Grants> {
    let asks = manifest.asks();
    let mut given = before.cloned().unwrap_or_default();
    match decision {
        Decision::Open if before.is_none() && !commit => given = asks.clone(),
        Decision::Open => {}
        Decision::All(texts) | Decision::These(texts) => {
            if matches!(decision, Decision::All(_)) {
                let places = std::mem::replace(&mut given, asks.clone());
                for folder in places.files {
                    given.files.retain(|asked| asked.name != folder.name);
                    given.files.push(folder);
                }
                for program in &mut given.process {
                    let before = places.process.iter().find(|before| before.name == program.name);
                    program.path = before.and_then(|before| before.path.clone());
                    program.sha256 = before.and_then(|before| before.sha256.clone());
                }
                for socket in &mut given.socket {
                    let before = places.socket.iter().find(|before| before.name == socket.name);
                    socket.path = before.and_then(|before| before.path.clone());
                }
            }
            for text in texts {
                for term in Term::parse(text)? {
                    if !term.touches(&asks) {
                        let message = format!(
                            "`{}` does not ask for `{term}`; it asks for {}",
                            manifest.id,
                            listed(&Term::all(&asks))
                        );
                        return Err(Error::new(ErrorKind::Invalid, message));
                    }
                    term.settled()?.give(&mut given);
                }
            }
        }
    }
    Ok(intersect(&asks, &given))
}

fn plan(
    entry: &Entry,
    manifest: &Manifest,
    size: usize,
    signed: Option<&Signed>,
    before: Option<&Grants>,
    old: Option<&Entry>,
) -> Plan {
    let Release {
        version,
        digest,
        source,
        manifest: oci,
        signer,
        grant,
    } = entry.current.clone();
    let all = Term::all(&grant);
    let asked = |term: &Term| {
        let granted = term.is_in(&grant);
        // What is granted says where it is, and what.
        let given = all.iter().find(|given| granted && given.is_about(term));
        Asked {
            grant: term.to_string(),
            words: given.unwrap_or(term).words(),
            granted,
            new: before.is_some_and(|before| !term.is_in(before)),
        }
    };
    Plan {
        id: entry.id.clone(),
        component: entry.component.clone(),
        version,
        role: manifest.role,
        description: manifest.description.clone(),
        digest,
        size,
        source,
        manifest: oci,
        signed_by: signer.as_ref().map(Signer::shown),
        signer,
        comment: signed.map(|signed| signed.comment.clone()),
        serves: manifest.serves.clone(),
        asks: Term::all(&manifest.asks()).iter().map(asked).collect(),
        installed: old.map(|old| old.current.version.clone()),
        wall: entry.wall,
        warnings: Vec::new(),
        route: route(manifest),
        outcome: Outcome::Looked,
    }
}

/// What a person adds to `waypost.toml` so that calls reach it.
fn route(manifest: &Manifest) -> Option<String> {
    let id = &manifest.id;
    let calls: Vec<String> = manifest
        .serves
        .iter()
        .map(|pattern| toml::Value::from(pattern.as_str()).to_string())
        .collect();
    match (manifest.role, calls.as_slice()) {
        (Role::Handler, [one]) => Some(format!("[[route]]\nmatch = {one}\nto = \"plugin:{id}\"\n")),
        (Role::Handler, many) => Some(format!(
            "[[route]]\nmatch = [{}]\nto = \"plugin:{id}\"\n",
            many.join(", ")
        )),
        _ => None,
    }
}
