//! A program's file: read once, known by its SHA-256, and run from a copy that nobody can change any more.
//!
//! What is at its path a moment later does not matter, nor where links lead: what was digested is what is executed. A script
//! is no program: what it does depends on an interpreter that nobody has digested.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create, open};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::engine::cache::hex;
use crate::error::{Blame, Error, ErrorKind, Result};

/// The largest program, in bytes.
const LARGEST: usize = 256 << 20;
/// How much is read at once, in bytes.
const CHUNK: usize = 256 << 10;
/// How a program of this machine begins.
const ELF: &[u8] = b"\x7fELF";

/// A copy of a program, in memory.
pub(super) struct Image {
    file: OwnedFd,
    /// The SHA-256 of what is in it.
    pub(super) sha256: String,
}

impl Image {
    /// Reads a program. Blocks.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let cannot = |error: io::Error| {
            Error::new(ErrorKind::Unavailable, "a program cannot be copied into memory").because(error)
        };
        let mut file = executable().map_err(|error| cannot(error.into()))?;
        let sha256 = read(path, |bytes| file.write_all(bytes).map_err(cannot))?;
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        fcntl_add_seals(&file, seals).map_err(|error| cannot(error.into()))?;
        Ok(Self {
            file: file.into(),
            sha256,
        })
    }

    /// Where it is executed from, while this lives.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}

/// The SHA-256 of a program, or why it is none. Blocks.
pub fn digest(path: &Path) -> Result<String> {
    read(path, |_| Ok(()))
}

/// What a program reads from its standard input.
pub(super) fn input(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("input", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

fn executable() -> rustix::io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = match memfd_create("program", flags | MemfdFlags::EXEC) {
        // Kernels before 6.3 know no others.
        Err(Errno::INVAL) => memfd_create("program", flags),
        made => made,
    };
    file.map(File::from)
}

/// Reads a program once, giving away its bytes, and says their SHA-256.
fn read(path: &Path, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<String> {
    let shown = path.display().to_string();
    let shown = shown.escape_debug();
    let cannot = |error: io::Error| {
        let message = format!("the program {shown} cannot be read; correct its path, or let the hub read it");
        Error::new(ErrorKind::Unavailable, message)
            .blame(Blame::Operator)
            .because(error)
    };
    let refused = |why: String| {
        let message = format!("{shown} {why}; grant another file");
        Error::new(ErrorKind::Denied, message).blame(Blame::Operator)
    };
    // A pipe that nobody writes to is not waited for.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut file = File::from(open(path, flags, Mode::empty()).map_err(|error| cannot(error.into()))?);
    if !file.metadata().map_err(cannot)?.is_file() {
        return Err(refused("is not a file".to_owned()));
    }
    let (mut hasher, mut size, mut chunk) = (Sha256::new(), 0, vec![0; CHUNK]);
    loop {
        let length = file.read(&mut chunk).map_err(cannot)?;
        let bytes = chunk.get(..length).unwrap_or_default();
        if size == 0 && !bytes.starts_with(ELF) {
            return Err(refused(no_program(bytes)));
        }
        size += length;
        if size > LARGEST {
            return Err(refused(format!(
                "has more than {LARGEST} bytes, too many for a program"
            )));
        }
        if length == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(bytes);
        take(bytes)?;
    }
}

fn no_program(bytes: &[u8]) -> String {
    match bytes.strip_prefix(b"#!") {
        Some(rest) => {
            let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let line = String::from_utf8_lossy(line.get(..80).unwrap_or(line)).into_owned();
            format!(
                "is a script for `{}`: what it does depends on a program that this grant does not name",
                line.trim().escape_debug()
            )
        }
        None => "is no program of this machine (ELF)".to_owned(),
    }
}
