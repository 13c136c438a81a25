//! Files in folders of the operator's. Needs the grant `files`, a list of folders by name; not for agents.
//!
//! A manifest names the folders, as in `files = [{ name = "cache", write = true }]`; the operator says where they are. A path
//! is relative to its folder.

pub use crate::bindings::imports::waypost::files::files::{Entry, Info, Kind};

use crate::bindings::imports::waypost::files::files;
use crate::{CallError, Result};

/// What is at a path; none when nothing is. `""` is the folder itself.
pub fn stat(folder: &str, path: &str) -> Result<Option<Info>> {
    match files::stat(folder, path) {
        Ok(info) => Ok(Some(info)),
        Err(CallError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The entries of a folder, sorted by name.
pub fn list(folder: &str, path: &str) -> Result<Vec<Entry>> {
    files::list(folder, path)
}

/// A whole file.
pub fn read(folder: &str, path: &str) -> Result<Vec<u8>> {
    let mut whole = Vec::new();
    for piece in Reader::open(folder, path, 0)? {
        whole.extend(piece?);
    }
    Ok(whole)
}

/// A whole file, as text.
pub fn read_text(folder: &str, path: &str) -> Result<String> {
    String::from_utf8(read(folder, path)?).map_err(|_| CallError::invalid(format!("`{path}` is not UTF-8 text")))
}

/// Writes a whole file, making the folders above it. A reader sees the old content or the new.
pub fn write(folder: &str, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
    files::write(folder, path, content.as_ref())
}

/// Removes a file or a link; what a link leads to stays.
pub fn remove(folder: &str, path: &str) -> Result<()> {
    files::remove(folder, path)
}

/// A file that is open to be read, in pieces of at most 64 KiB.
#[derive(Debug)]
pub struct Reader(files::Reader);

impl Reader {
    /// Opens a file, to be read from an offset on.
    pub fn open(folder: &str, path: &str, offset: u64) -> Result<Self> {
        files::Reader::open(folder, path, offset).map(Self)
    }
}

impl Iterator for Reader {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().transpose()
    }
}
