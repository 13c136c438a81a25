//! What is known of a component file without running it, as `build` and `inspect` show it.

use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cli::output;
use crate::config::PluginLimits;
use crate::engine::cache::hex;
use crate::error::Result;
use crate::plugin::Manifest;
use crate::plugin::terms::Term;
use crate::plugin::world::World;
use crate::text::visible;

/// A component file with its manifest.
pub(super) struct Facts {
    pub(super) file: PathBuf,
    pub(super) size: u64,
    pub(super) digest: String,
    pub(super) manifest: Manifest,
    pub(super) world: World,
}

impl Facts {
    pub(super) fn of(file: &Path, bytes: &[u8], manifest: Manifest) -> Result<Self> {
        Ok(Self {
            file: file.to_owned(),
            size: bytes.len() as u64,
            digest: hex(&Sha256::digest(bytes)),
            world: World::read(&file.display().to_string(), bytes)?,
            manifest,
        })
    }

    pub(super) fn json(&self) -> Value {
        let manifest = &self.manifest;
        json!({
            "file": self.file,
            "size": self.size,
            "digest": self.digest,
            "id": manifest.id,
            "version": manifest.version,
            "role": manifest.role,
            "description": manifest.description,
            "serves": manifest.serves,
            "asks": manifest.asks(),
            "limits": limits(manifest).into_iter().collect::<serde_json::Map<_, _>>(),
            "imports": self.world.imports,
            "exports": self.world.exports,
        })
    }

    /// One fact a line; the world is left to who looks closer.
    pub(super) fn show(&self) -> Result<()> {
        let manifest = &self.manifest;
        fact("file", &visible(&self.file.display().to_string()))?;
        fact("size", &ByteSize(self.size).display().iec().to_string())?;
        fact("digest", &format!("sha256:{}", self.digest))?;
        let mut name = format!("{} {}", manifest.id, visible(&manifest.version));
        if !manifest.description.is_empty() {
            name = format!("{name}: {}", visible(&manifest.description));
        }
        fact("plugin", &name)?;
        fact("role", manifest.role.as_str())?;
        if !manifest.serves.is_empty() {
            fact("serves", &visible(&manifest.serves.join(", ")))?;
        }
        facts("asks to", &asks(manifest))?;
        let limits = limits(manifest);
        if !limits.is_empty() {
            let limits: Vec<String> = limits
                .iter()
                .map(|(name, value)| format!("{name} {}", value.as_str().unwrap_or_default()))
                .collect();
            fact("limits", &limits.join(", "))?;
        }
        Ok(())
    }
}

/// A fact of one line.
pub(super) fn fact(name: &str, text: &str) -> Result<()> {
    output::line(&format!("{name:<9} {text}"))
}

/// A fact of several lines.
pub(super) fn facts(name: &str, texts: &[String]) -> Result<()> {
    let mut name = name;
    for text in texts {
        fact(name, text)?;
        name = "";
    }
    Ok(())
}

/// What a manifest asks for, in plain words.
fn asks(manifest: &Manifest) -> Vec<String> {
    let words: Vec<String> = Term::all(&manifest.asks())
        .iter()
        .map(|term| visible(&format!("{} ({term})", term.words())))
        .collect();
    if words.is_empty() {
        vec!["nothing".to_owned()]
    } else {
        words
    }
}

/// The limits that it sets itself, where they are less than what every plugin has.
fn limits(manifest: &Manifest) -> Vec<(String, Value)> {
    let usual = PluginLimits::default();
    let own = manifest.limits.within(&usual);
    let bytes = |size: usize| ByteSize(size as u64).display().iec().to_string();
    let mut limits = Vec::new();
    if own.memory < usual.memory {
        limits.push(("memory".to_owned(), bytes(own.memory).into()));
    }
    if own.reply < usual.reply {
        limits.push(("reply".to_owned(), bytes(own.reply).into()));
    }
    if own.concurrency < usual.concurrency {
        limits.push(("concurrency".to_owned(), own.concurrency.to_string().into()));
    }
    if let Some(timeout) = manifest.limits.timeout {
        limits.push((
            "timeout".to_owned(),
            humantime::format_duration(timeout).to_string().into(),
        ));
    }
    limits
}
