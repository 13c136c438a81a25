//! `waypost.lock`: which components are installed, by digest, and what the operator gave them.
//!
//! Read at the start of a hub and before each change, whole or refused, each problem with its line. Written by a rename, and
//! the same text for the same content. Not here: the components themselves (`plugin/store.rs`), and what is decided about them
//! (`plugin/installed.rs`).

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use super::signature::Signer;
use crate::config::{self, Grants, Problem, Wall, checked_key, describe};
use crate::error::{Blame, Error, ErrorKind, Result};

/// The name of the file, in the project folder beside `waypost.toml`.
pub const FILE: &str = "waypost.lock";

/// The version of the format that is read and written.
pub const FORMAT: u64 = 1;

/// The largest lock file that is read, in bytes.
pub const FILE_BYTES: u64 = 4 << 20;

/// How many plugins one lock file holds.
pub const ENTRIES: usize = 1_000;

/// The longest version, source or name in it, in bytes.
pub const TEXT_BYTES: usize = 4 << 10;

const HEAD: &str =
    "# What is installed, and what it may do. `waypost plugin` writes this file; keep it with the project.\n";

/// All that is installed, in the order in which it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// One entry for each id.
    pub installed: Vec<Entry>,
}

/// One installed plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Entry {
    /// Its id.
    #[serde(deserialize_with = "id")]
    pub id: String,
    /// The id in its own manifest, where the operator installed it under another one.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "id_option")]
    pub component: Option<String>,
    /// Where its code runs.
    pub wall: Wall,
    /// What is loaded.
    pub current: Release,
    /// What `waypost plugin rollback` goes back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Release>,
    /// What asks for more than it was granted: it is not loaded until the operator decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Release>,
}

/// One version of an installed plugin, with what the operator gave to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Release {
    /// Its version.
    #[serde(deserialize_with = "text")]
    pub version: String,
    /// The SHA-256 of the component, as `sha256:<hexadecimal>`.
    #[serde(deserialize_with = "digest")]
    pub digest: String,
    /// Where it came from: `file:<path>`, or `oci:<reference>` as it was given.
    #[serde(deserialize_with = "text")]
    pub source: String,
    /// For one from a registry: the digest of the OCI manifest that the reference stood for.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "digest_option")]
    pub manifest: Option<String>,
    /// Who signed it; none for one that is not signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<Signer>,
    /// What the operator gave of what it asks for.
    #[serde(default)]
    pub grant: Grants,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u64,
    #[serde(default)]
    installed: Vec<Entry>,
}

/// What is read before everything else.
#[derive(Deserialize)]
struct Head {
    format: Option<toml::Value>,
}

impl Entry {
    /// The id that its components have in their manifests.
    pub fn written(&self) -> &str {
        self.component.as_deref().unwrap_or(&self.id)
    }

    /// What is written behind `waypost plugin add` to get this version again.
    pub fn again(&self, release: &Release) -> String {
        let source = release.source.as_str();
        let source = source
            .strip_prefix("file:")
            .or_else(|| source.strip_prefix("oci:"))
            .unwrap_or(source);
        match &self.component {
            Some(_) => format!("{source} --as {}", self.id),
            None => source.to_owned(),
        }
    }

    /// The versions that it keeps.
    pub fn releases(&self) -> impl Iterator<Item = &Release> {
        [Some(&self.current), self.previous.as_ref(), self.held.as_ref()]
            .into_iter()
            .flatten()
    }
}

impl Lock {
    /// Reads the text of a lock file, or says everything that is wrong with it, each with its line.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |message: String| Error::new(ErrorKind::Invalid, message).blame(Blame::Operator);
        if let Ok(Head { format: Some(format) }) = toml::from_str(text)
            && format.as_integer() != Some(FORMAT as i64)
        {
            return Err(wrong(format!(
                "{FILE} has the format {format}, and this version of Waypost reads the format {FORMAT}; use the version that wrote \
                 it, or remove the file and install again with `waypost plugin add`"
            )));
        }
        let File { installed, .. } =
            config::parse(text).map_err(|problems: Vec<Problem>| wrong(describe(FILE, &problems)))?;
        if installed.len() > ENTRIES {
            return Err(wrong(format!(
                "{FILE} has {} plugins, the limit is {ENTRIES}; remove those that nobody needs",
                installed.len()
            )));
        }
        let mut ids: Vec<&str> = installed.iter().map(|entry| entry.id.as_str()).collect();
        ids.sort_unstable();
        if let Some([id, _]) = ids.array_windows().find(|[one, other]| one == other) {
            return Err(wrong(format!("{FILE} has two entries for `{id}`; remove one of them")));
        }
        Ok(Self { installed })
    }

    /// The text of the lock file: the same for the same content. What could not be read back is an error.
    pub fn write(&self) -> Result<String> {
        let file = File {
            format: FORMAT,
            installed: self.installed.clone(),
        };
        let text = toml::to_string(&file)
            .map_err(|error| Error::new(ErrorKind::Internal, format!("{FILE} cannot be written")).because(error))?;
        let text = format!("{HEAD}{text}");
        if Self::parse(&text)? != *self {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("{FILE} would not say what it should"),
            ));
        }
        Ok(text)
    }

    /// Reads the lock file of a project; a missing one is an empty one.
    pub fn read(root: &Path) -> Result<Self> {
        let path = root.join(FILE);
        let cannot = |error: std::io::Error| {
            let message = format!("{} cannot be read: make it a readable UTF-8 file", path.display());
            Error::new(ErrorKind::Invalid, message)
                .blame(Blame::Operator)
                .because(error)
        };
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(cannot(error)),
        };
        let mut text = String::new();
        file.take(FILE_BYTES + 1).read_to_string(&mut text).map_err(cannot)?;
        if text.len() as u64 > FILE_BYTES {
            let message = format!("{} is larger than {FILE_BYTES} bytes", path.display());
            return Err(Error::new(ErrorKind::Limit, message));
        }
        Self::parse(&text)
    }

    /// Writes the lock file of a project: the new one whole, or the old one stays.
    pub fn save(&self, root: &Path) -> Result<()> {
        let text = self.write()?;
        replace(&root.join(FILE), text.as_bytes(), 0o644)
    }

    /// The entry of this id.
    pub fn get(&self, id: &str) -> Option<&Entry> {
        self.installed.iter().find(|entry| entry.id == id)
    }

    /// The entry of this id, to be changed; the error lists what is installed.
    pub fn known(&mut self, id: &str) -> Result<&mut Entry> {
        let known: Vec<String> = self.installed.iter().map(|entry| format!("`{}`", entry.id)).collect();
        let missing = || {
            let known = if known.is_empty() {
                "nothing is".to_owned()
            } else {
                format!("installed are {}", known.join(", "))
            };
            let message = format!("plugin `{}` is not installed; {known}", id.escape_debug());
            Error::new(ErrorKind::NotFound, message)
        };
        self.installed
            .iter_mut()
            .find(|entry| entry.id == id)
            .ok_or_else(missing)
    }

    /// Puts an entry in the place of the one with its id, or behind all others.
    pub fn put(&mut self, entry: Entry) {
        match self.installed.iter_mut().find(|old| old.id == entry.id) {
            Some(old) => *old = entry,
            None => self.installed.push(entry),
        }
    }
}

/// Writes a file beside its name, to the disk, and renames it: whoever reads sees the old one or the new one, whole.
pub(super) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let cannot = |error: std::io::Error| {
        let message = format!("{} cannot be written", path.display());
        Error::new(ErrorKind::Internal, message)
            .blame(Blame::Operator)
            .because(error)
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", uuid::Uuid::now_v7()));
    let beside: PathBuf = path.with_file_name(name);
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&beside, path))
        .and_then(|()| {
            path.parent()
                .map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
        });
    written.map_err(|error| {
        drop(fs::remove_file(&beside));
        cannot(error)
    })
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.len() {
        1..=TEXT_BYTES => Ok(text),
        length => Err(serde::de::Error::custom(format!(
            "a text of 1 to {TEXT_BYTES} bytes is expected, this one has {length}"
        ))),
    }
}

fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let id = String::deserialize(deserializer)?;
    if super::manifest::is_id(&id) {
        return Ok(id);
    }
    Err(serde::de::Error::custom(format!(
        "`{}` is not an id; use lower-case letters, digits and `-`, at most 64",
        id.escape_debug()
    )))
}

fn id_option<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    id(deserializer).map(Some)
}

fn digest<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let digest = String::deserialize(deserializer)?;
    if is_digest(&digest) {
        return Ok(digest);
    }
    Err(serde::de::Error::custom(format!(
        "`{}` is not a digest; write `sha256:` and 64 digits, in lower case",
        digest.escape_debug()
    )))
}

fn digest_option<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    digest(deserializer).map(Some)
}

/// Reads a public key of minisign.
pub(super) fn key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    checked_key(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

/// Whether this is `sha256:` and 64 digits in lower case.
pub fn is_digest(text: &str) -> bool {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.strip_prefix("sha256:")
        .is_some_and(|digits| digits.len() == 64 && digits.bytes().all(digit))
}

#[cfg(test)]
mod tests;
