//! Compiled code on disk, trusted only with a keyed hash.
//!
//! Loading compiled code runs whatever it holds, so an entry counts only when its hash, under a key that never leaves this
//! state directory, covers the source, the engine and every byte. Anything else is compiled again.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::error::{Blame, Error, ErrorKind, Result};
use crate::plugin::contract::PACKAGES;

const KEY_BYTES: usize = 32;
const MAC_BYTES: usize = 32;

/// A component with its SHA-256, which takes a while for a large one and is needed more than once.
pub struct Hashed<'a> {
    bytes: &'a [u8],
    digest: [u8; 32],
}

impl<'a> Hashed<'a> {
    /// These bytes.
    pub fn of(bytes: &'a [u8]) -> Self {
        let digest = Sha256::digest(bytes).into();
        Self { bytes, digest }
    }

    /// The digest, in hexadecimal.
    pub fn hex(&self) -> String {
        hex(&self.digest)
    }
}

/// The folder of compiled code and the key that vouches for it.
pub struct Cache {
    folder: PathBuf,
    key: [u8; KEY_BYTES],
}

impl Cache {
    /// Opens the folder; makes it, and a fresh key, when there is none.
    pub fn open(folder: &Path) -> Result<Self> {
        let broken = |error: std::io::Error| {
            let message = format!(
                "the compile cache {} cannot be opened; remove it, it is rebuilt",
                folder.display()
            );
            Error::new(ErrorKind::Internal, message).because(error)
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(broken)?;
        let path = folder.join("key");
        let mut key = [0; KEY_BYTES];
        match fs::File::open(&path) {
            Ok(mut file) => file.read_exact(&mut key).map_err(broken)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                getrandom::fill(&mut key).map_err(|error| broken(error.into()))?;
                write_private(&path, &[&key]).map_err(broken)?;
            }
            Err(error) => return Err(broken(error)),
        }
        Ok(Self {
            folder: folder.to_owned(),
            key,
        })
    }

    /// The component of these bytes: from the cache when its entry can be trusted, else compiled here and kept.
    pub fn component(&self, engine: &Engine, name: &str, source: &Hashed<'_>) -> Result<Component> {
        let bytes = source.bytes;
        let entry = Entry::of(&self.folder, engine, source);
        if let Some(component) = self.load(&entry).and_then(|code| trusted(engine, name, &code)) {
            return Ok(component);
        }
        let component =
            Component::new(engine, bytes).map_err(|error| not_a_component(name, bytes, &format!("{error:#}")))?;
        match component.serialize() {
            Ok(code) => self.keep(&entry, &code),
            Err(error) => tracing::warn!(plugin = name, %error, "compiled code cannot be kept"),
        }
        Ok(component)
    }

    /// The component of these bytes as above, but compiled elsewhere: to run in this process nevertheless. Whoever lets it
    /// trusts its code.
    pub fn trusted(
        &self,
        engine: &Engine,
        name: &str,
        source: &Hashed<'_>,
        compile: impl Fn() -> Result<Vec<u8>>,
    ) -> Result<Component> {
        let entry = Entry::of(&self.folder, engine, source);
        if let Some(component) = self.load(&entry).and_then(|code| trusted(engine, name, &code)) {
            return Ok(component);
        }
        let code = compile()?;
        self.keep(&entry, &code);
        trusted(engine, name, &code).ok_or_else(|| {
            let message = format!("the compiled code of plugin `{name}` does not load; the hub's log says why");
            Error::new(ErrorKind::Internal, message)
        })
    }

    /// The compiled code of these bytes: from the cache when its entry can be trusted, else compiled elsewhere and kept. It
    /// is not loaded here.
    pub fn code(&self, engine: &Engine, source: &Hashed<'_>, compile: impl Fn() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
        let entry = Entry::of(&self.folder, engine, source);
        if let Some(code) = self.load(&entry) {
            return Ok(code);
        }
        let code = compile()?;
        self.keep(&entry, &code);
        Ok(code)
    }

    fn load(&self, entry: &Entry) -> Option<Vec<u8>> {
        let mut file = fs::File::open(&entry.path).ok()?;
        let mut stored = [0; MAC_BYTES];
        file.read_exact(&mut stored).ok()?;
        let mut code = Vec::new();
        file.read_to_end(&mut code).ok()?;
        self.hash(entry, &code)?.verify(&stored.into()).ok()?;
        Some(code)
    }

    /// Best effort: a cache that cannot be written only costs time.
    fn keep(&self, entry: &Entry, code: &[u8]) {
        let Some(mac) = self.hash(entry, code) else {
            return;
        };
        let path = &entry.path;
        let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
        let written = write_private(&temporary, &[&mac.finalize().into_bytes(), code])
            .and_then(|()| fs::rename(&temporary, path));
        if let Err(error) = written {
            tracing::warn!(%error, "compiled code cannot be kept");
            drop(fs::remove_file(&temporary));
        }
    }

    fn hash(&self, entry: &Entry, code: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).ok()?;
        mac.update(&entry.source);
        mac.update(&entry.compatible.to_le_bytes());
        mac.update(code);
        Some(mac)
    }
}

/// Where the code of a component is kept, and what for.
struct Entry {
    path: PathBuf,
    /// The hash of the component.
    source: [u8; 32],
    /// Of the engine and the contract.
    compatible: u64,
}

impl Entry {
    fn of(folder: &Path, engine: &Engine, source: &Hashed<'_>) -> Self {
        let source = source.digest;
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        // Before it was compiled it was found to fit this contract; for another one, or by another hub, that is found out again.
        (PACKAGES, env!("CARGO_PKG_VERSION")).hash(&mut hasher);
        let compatible = hasher.finish();
        Self {
            path: folder.join(format!("{}-{compatible:016x}.cwasm", hex(&source))),
            source,
            compatible,
        }
    }
}

/// The component of code that a cache vouches for, or that was compiled for it at this moment.
fn trusted(engine: &Engine, name: &str, code: &[u8]) -> Option<Component> {
    #[expect(
        unsafe_code,
        reason = "the keyed hash shows that this hub kept these bytes for this engine"
    )]
    // SAFETY: the code is an entry whose hash over the source, the engine and every byte was verified by `load`, or the answer
    // of a compiling process of this hub, for a plugin that its operator lets run in this process.
    let loaded = unsafe { Component::deserialize(engine, code) };
    loaded
        .inspect_err(|error| tracing::warn!(plugin = name, %error, "compiled code does not load"))
        .ok()
}

/// The component of compiled code that came over a worker's socket from its hub.
pub(super) fn from_hub(engine: &Engine, code: &[u8]) -> Result<Component> {
    #[expect(
        unsafe_code,
        reason = "the hub that started this process wrote these bytes, and is its authority in everything"
    )]
    // SAFETY: a worker has one peer, the hub that made its socket and started it, over a pair of sockets that has no name and
    // that nobody else holds. The hub sends code alone whose keyed hash it has verified, or that it has just had compiled. A
    // hub that meant harm would not need this: it chose the program that runs here.
    let loaded = unsafe { Component::deserialize(engine, code) };
    loaded.map_err(|error| Error::new(ErrorKind::Internal, "the compiled code does not fit this engine").because(error))
}

/// What is wrong with bytes that the compiler refused for this reason.
pub(crate) fn not_a_component(name: &str, bytes: &[u8], reason: &str) -> Error {
    let what = match bytes {
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => {
            "is a core WebAssembly module, not a component; build it with `--target wasm32-wasip2`".to_owned()
        }
        [0, b'a', b's', b'm', ..] => {
            // The engine says it in words alone, and without the name that the limit has here.
            let remedy = if reason.contains("minimum byte size") {
                "; it starts beyond its limit `memory`: raise it in [limits.plugin]"
            } else if reason.contains("minimum element size") {
                "; it starts beyond its limit `table-elements`: raise it in [limits.plugin]"
            } else {
                ""
            };
            format!("is not a component that this engine accepts: {reason}{remedy}")
        }
        _ => "is not WebAssembly; give the `.wasm` file that the build made".to_owned(),
    };
    Error::new(ErrorKind::Invalid, format!("plugin `{name}` {what}")).blame(Blame::Plugin)
}

fn write_private(path: &Path, parts: &[&[u8]]) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(folder: &Path) -> PathBuf {
        let mut entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries
            .find(|path| path.extension().is_some_and(|ending| ending == "cwasm"))
            .unwrap()
    }

    #[test]
    fn an_entry_counts_only_with_every_byte_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::default();
        let source = Hashed::of(b"\0asm\x0d\0\x01\0");
        let cache = Cache::open(folder.path()).unwrap();
        cache.component(&engine, "x", &source).unwrap();
        let path = entry(folder.path());
        let good = fs::read(&path).unwrap();
        let mut entry = Entry::of(folder.path(), &engine, &source);
        assert_eq!(entry.path, path);
        assert!(cache.load(&entry).is_some());
        entry.compatible ^= 1;
        assert!(cache.load(&entry).is_none(), "another engine");
        entry.compatible ^= 1;
        for at in [0, MAC_BYTES - 1, MAC_BYTES, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(cache.load(&entry).is_none(), "byte {at}");
        }
        fs::write(&path, &good[..MAC_BYTES / 2]).unwrap();
        assert!(cache.load(&entry).is_none(), "cut short");
        cache.component(&engine, "x", &source).unwrap();
        assert_eq!(
            fs::read(&path).unwrap().len(),
            good.len(),
            "compiled again and kept again"
        );
        let other = tempfile::tempdir().unwrap();
        let stranger = Cache::open(other.path()).unwrap();
        assert!(stranger.load(&entry).is_none(), "another key");
    }
}
