//! Loading a component as the hub does, without a hub.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Limits;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::plugin::{Compiler, Loaded, Plugins, Source};

/// An engine like the hub's. Compiled code is kept in the user's cache folder, so that the next look costs less.
pub(super) struct Alone {
    pub(super) engine: Arc<Engine>,
    compiler: Compiler,
    /// When there is no cache folder, where compiled code is kept until the end.
    _room: Option<tempfile::TempDir>,
}

impl Alone {
    pub(super) fn new(limits: &Limits) -> Result<Self> {
        if let Some(kept) = kept()
            && let Ok(engine) = Engine::new(limits, &kept)
        {
            return Ok(Self {
                engine: Arc::new(engine),
                compiler: Compiler::new(limits),
                _room: None,
            });
        }
        let room = tempfile::tempdir()
            .map_err(|error| Error::new(ErrorKind::Other, "a temporary folder cannot be made").because(error))?;
        Ok(Self {
            engine: Arc::new(Engine::new(limits, room.path())?),
            compiler: Compiler::new(limits),
            _room: Some(room),
        })
    }

    /// Loads a component under these limits, with the checks and the linker of the hub. Blocks while it compiles.
    pub(super) fn load(&self, limits: &Limits, source: Source) -> Result<Arc<Loaded>> {
        Plugins::new(Arc::clone(&self.engine), self.compiler.clone(), limits).load(source)
    }
}

/// The folder for what can be made again, by the XDG base directory specification.
fn kept() -> Option<PathBuf> {
    let folder = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    Some(cache.join("waypost"))
}
