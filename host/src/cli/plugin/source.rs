//! Where a component comes from: a file, a folder with one in it, or a registry.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::build::{DIST, MANIFEST};
use crate::config::{self, Config};
use crate::error::{Blame, Error, ErrorKind, Result};
use crate::plugin::oci::{CREDENTIALS, Registry};
use crate::plugin::signature::SIGNATURE_BYTES;

/// A component that was fetched: these bytes, once, and no others later.
pub(super) struct Fetched {
    pub(super) bytes: Vec<u8>,
    /// As the lock file names it.
    pub(super) source: String,
    /// For one from a registry: the digest of its OCI manifest.
    pub(super) manifest: Option<String>,
    /// The text of its signature file.
    pub(super) signature: Option<String>,
}

/// Which signature counts.
pub(super) enum Signature<'a> {
    /// The one that lies beside it, if one does.
    Beside,
    /// This file.
    File(&'a Path),
    /// None, whatever lies there.
    None,
}

/// Gets a component, and its signature.
pub(super) async fn fetch(project: &Path, named: &str, signature: Signature<'_>) -> Result<Fetched> {
    let config = Config::read(&project.join(config::FILE))?;
    let largest = config.limits.plugin.component;
    let reference = named.strip_prefix("oci:");
    let path = Path::new(named.strip_prefix("file:").unwrap_or(named));
    let mut fetched = match reference {
        None if path.exists() || looks_like_a_path(named) => from_file(project, path, largest, &signature)?,
        _ => {
            let reference = reference.unwrap_or(named);
            let pulled = registry(&config, reference)?.pull(largest).await?;
            Fetched {
                bytes: pulled.bytes,
                source: format!("oci:{reference}"),
                manifest: Some(pulled.manifest),
                signature: pulled.signature,
            }
        }
    };
    match signature {
        Signature::Beside => {}
        Signature::None => fetched.signature = None,
        Signature::File(path) => fetched.signature = Some(read_signature(path)?),
    }
    Ok(fetched)
}

/// The registry of a reference, with the name and the password of the environment.
pub(super) fn registry(config: &Config, reference: &str) -> Result<Registry> {
    let [user, password] = CREDENTIALS.map(|name| std::env::var(name).ok());
    Registry::of(reference, &config.installing.insecure_registries, user.zip(password))
}

/// A component file, and what lies beside it.
pub(super) fn from_file(project: &Path, named: &Path, largest: usize, signature: &Signature<'_>) -> Result<Fetched> {
    let path = if named.is_dir() {
        only_component(named)?
    } else {
        named.to_owned()
    };
    let bytes = component(&path, largest)?;
    let mut beside = path.clone().into_os_string();
    beside.push(".minisig");
    let beside = PathBuf::from(beside);
    let signature = match signature {
        Signature::Beside if beside.exists() => Some(read_signature(&beside)?),
        _ => None,
    };
    // A folder that is copied or checked out elsewhere finds its own files again.
    let real = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
    let root = fs::canonicalize(project).unwrap_or_else(|_| project.to_owned());
    let shown = real.strip_prefix(&root).unwrap_or(&real);
    Ok(Fetched {
        bytes,
        source: format!("file:{}", shown.display()),
        manifest: None,
        signature,
    })
}

/// Whether this names a file, and no reference and no id.
pub(super) fn looks_like_a_path(named: &str) -> bool {
    named.starts_with(['.', '/', '~']) || named.ends_with(".wasm") || named.starts_with("file:")
}

/// The one component in a folder: in the folder itself, or where `waypost plugin build` puts that of a project.
pub(super) fn only_component(folder: &Path) -> Result<PathBuf> {
    let mut found = components(folder)?;
    let dist = folder.join(DIST);
    if found.is_empty() && dist.is_dir() {
        found = components(&dist)?;
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] if folder.join(MANIFEST).is_file() => {
            let message = format!(
                "the folder {} is a project that is not built yet; `waypost plugin build {}` puts its component into {DIST}/",
                folder.display(),
                folder.display()
            );
            Err(Error::new(ErrorKind::NotFound, message))
        }
        many => {
            let message = format!(
                "the folder {} has {} files that end in `.wasm`; name the one that you mean",
                many.first().and_then(|file| file.parent()).unwrap_or(folder).display(),
                many.len()
            );
            Err(Error::new(ErrorKind::Invalid, message))
        }
    }
}

/// The component files of a folder, by name.
fn components(folder: &Path) -> Result<Vec<PathBuf>> {
    let cannot = |error: std::io::Error| {
        let message = format!("the folder {} cannot be read", folder.display());
        Error::new(ErrorKind::NotFound, message).because(error)
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if path.extension().is_some_and(|ending| ending == "wasm") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The bytes of a component file.
pub(super) fn component(path: &Path, largest: usize) -> Result<Vec<u8>> {
    read(path, largest)?.ok_or_else(|| {
        let message = format!(
            "{} has more than {largest} bytes, which is the limit: raise `component` in [limits.plugin]",
            path.display()
        );
        Error::new(ErrorKind::Limit, message)
    })
}

/// A whole file; none when it is larger.
fn read(path: &Path, most: usize) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(most as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            let message = format!("{} cannot be read", path.display());
            Error::new(ErrorKind::NotFound, message)
                .blame(Blame::Operator)
                .because(error)
        })?;
    Ok(Some(bytes).filter(|bytes| bytes.len() <= most))
}

fn read_signature(path: &Path) -> Result<String> {
    let odd = || {
        let message = format!("{} is no signature file of minisign", path.display());
        Error::new(ErrorKind::Denied, message)
    };
    let bytes = read(path, SIGNATURE_BYTES)?.ok_or_else(odd)?;
    String::from_utf8(bytes).map_err(|error| odd().because(error))
}
