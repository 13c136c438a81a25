//! The archive of a bundle: a `.tar.gz` of `git.bundle` and `narrative.json`, packed and strictly unpacked.
//!
//! Unpacking takes the two regular files by their exact names and nothing else: no links, no folders, no second one of
//! a name. Headers are read as they stand, without the extensions that let two readers see two different archives.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use tar::{Archive, Builder, EntryType, Header, PaxExtensions};

use super::broken;
use crate::call::CallError;
use crate::error::ErrorKind;
use crate::workspace::files::Stop;
use crate::workspace::invalid;

/// The member that git reads.
pub(super) const BUNDLE: &str = "git.bundle";
/// The member that tells about the snapshots.
pub(super) const NARRATIVE: &str = "narrative.json";
/// The largest `narrative.json`.
pub(super) const NARRATIVE_BYTES: usize = 16 << 20;
/// How many times its size an archive may unpack to, beyond [`SLACK`].
const RATIO: u64 = 100;
/// What any archive may unpack to.
const SLACK: u64 = 1 << 20;
/// What the format itself may add to the members.
const FORMAT: u64 = 1 << 20;
/// Extended headers in one archive, and the size of one.
const EXTENDED: usize = 8;
const EXTENDED_BYTES: u64 = 64 << 10;

/// Packs both members into a new file.
pub(super) fn pack(to: &Path, bundle: &Path, narrative: &[u8], time: u64, stop: Stop<'_>) -> Result<(), CallError> {
    let why = RefCell::new(None);
    let pack = || -> io::Result<()> {
        let file = new_file(to)?;
        // Git has compressed its objects already.
        let mut builder = Builder::new(GzEncoder::new(file, Compression::fast()));
        let mut source = File::open(bundle)?;
        let size = source.metadata()?.len();
        let watched = Watched {
            inner: &mut source,
            stop,
            why: &why,
        };
        builder.append_data(&mut header(size, time), BUNDLE, watched)?;
        builder.append_data(&mut header(narrative.len() as u64, time), NARRATIVE, narrative)?;
        let mut file = builder.into_inner()?.finish()?;
        file.flush()?;
        file.sync_all()
    };
    pack().map_err(|error| why.take().unwrap_or_else(|| broken(&error)))
}

fn header(size: u64, time: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o600);
    header.set_mtime(time);
    header
}

/// Makes a file of the hub's own, which must not be there.
fn new_file(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Unpacks `git.bundle` into a new file and answers the content of `narrative.json`.
pub(super) fn unpack(archive: File, bundle: &Path, limit: u64, stop: Stop<'_>) -> Result<Vec<u8>, CallError> {
    let why = RefCell::new(None);
    let counted = Counted {
        inner: archive,
        read: 0,
    };
    let capped = Capped {
        inner: GzDecoder::new(counted),
        written: 0,
        limit: limit.saturating_add(NARRATIVE_BYTES as u64).saturating_add(FORMAT),
        stop,
        why: &why,
    };
    let unpacked = members(capped, bundle, limit);
    // What stopped the reading is the cause, whatever the reader made of it.
    match why.take() {
        Some(error) => Err(error),
        None => unpacked,
    }
}

fn members(capped: Capped<'_>, bundle: &Path, limit: u64) -> Result<Vec<u8>, CallError> {
    let torn = |_: io::Error| refused("is torn or of another format");
    let mut archive = Archive::new(capped);
    let (mut has_bundle, mut narrative, mut extended) = (false, None, 0);
    for entry in archive.entries().map_err(torn)?.raw(true) {
        let mut entry = entry.map_err(torn)?;
        let size = entry.header().entry_size().map_err(torn)?;
        match entry.header().entry_type() {
            EntryType::Regular => {}
            EntryType::XHeader | EntryType::XGlobalHeader => {
                extended += 1;
                if extended > EXTENDED || size > EXTENDED_BYTES {
                    return Err(refused("has too many extended headers"));
                }
                let mut content = Vec::new();
                entry.read_to_end(&mut content).map_err(torn)?;
                harmless(&content)?;
                continue;
            }
            _ => return Err(refused("holds something that is not a regular file")),
        }
        match &*entry.path_bytes() {
            b"git.bundle" if !has_bundle => {
                if size > limit {
                    return Err(too_large(limit));
                }
                let mut file = new_file(bundle).map_err(|error| broken(&error))?;
                let copied = io::copy(&mut entry, &mut file).map_err(torn)?;
                if copied != size {
                    return Err(refused("ends too early"));
                }
                has_bundle = true;
            }
            b"narrative.json" if narrative.is_none() => {
                if size > NARRATIVE_BYTES as u64 {
                    let message = format!("`{NARRATIVE}` of the bundle has more than {NARRATIVE_BYTES} bytes");
                    return Err(CallError::new(ErrorKind::Limit, message));
                }
                let mut content = Vec::new();
                entry.read_to_end(&mut content).map_err(torn)?;
                if content.len() as u64 != size {
                    return Err(refused("ends too early"));
                }
                narrative = Some(content);
            }
            _ => return Err(refused("holds another member, or one of them twice")),
        }
    }
    // The checksum of the compression is at the very end.
    let mut capped = archive.into_inner();
    io::copy(&mut capped, &mut io::sink()).map_err(torn)?;
    match narrative {
        Some(narrative) if has_bundle => Ok(narrative),
        _ => Err(refused("lacks a member")),
    }
}

/// Refuses an extended header that would change where a member goes or where it ends.
fn harmless(content: &[u8]) -> Result<(), CallError> {
    for extension in PaxExtensions::new(content) {
        let key = extension.as_ref().ok().and_then(|extension| extension.key().ok());
        let steers = |key: &str| ["path", "linkpath", "size"].contains(&key) || key.starts_with("GNU.sparse");
        if key.is_none_or(steers) {
            return Err(refused("has an extended header that changes a member"));
        }
    }
    Ok(())
}

fn refused(what: &str) -> CallError {
    invalid(format!(
        "the archive of the bundle {what}; it must be a .tar.gz of the two regular files `{BUNDLE}` and `{NARRATIVE}`"
    ))
}

/// The refusal of a bundle, packed or unpacked.
pub(super) fn too_large(limit: u64) -> CallError {
    let message = format!("the bundle has more than {limit} bytes, which is the limit `narrative.bundle`; raise it");
    CallError::new(ErrorKind::Limit, message)
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    read: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.read += got as u64;
        Ok(got)
    }
}

/// Unpacks as long as the sizes and the call allow it.
struct Capped<'a> {
    inner: GzDecoder<Counted<File>>,
    written: u64,
    limit: u64,
    stop: Stop<'a>,
    why: &'a RefCell<Option<CallError>>,
}

impl Read for Capped<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let end = |error: CallError| {
            self.why.replace(Some(error));
            io::Error::other("stopped")
        };
        (self.stop)().map_err(end)?;
        let got = self.inner.read(buffer)?;
        self.written += got as u64;
        let most = self.inner.get_ref().read.saturating_mul(RATIO).saturating_add(SLACK);
        if self.written > most {
            return Err(end(refused(&format!("unpacks to more than {RATIO} times its size"))));
        }
        if self.written > self.limit {
            return Err(end(refused("holds more than its members")));
        }
        Ok(got)
    }
}

/// Reads as long as the call allows it.
struct Watched<'a, R> {
    inner: R,
    stop: Stop<'a>,
    why: &'a RefCell<Option<CallError>>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Err(error) = (self.stop)() {
            self.why.replace(Some(error));
            return Err(io::Error::other("stopped"));
        }
        self.inner.read(buffer)
    }
}
