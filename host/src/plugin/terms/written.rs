//! How one grant is written behind its name.

use std::path::{Path, PathBuf};

use super::{DIGEST, Sort, Value, WRITE};
use crate::call::CallName;
use crate::config::{Arguments, Folder, Program, Socket, is_sha256, no_place};

/// Reads one value.
pub(super) fn one(sort: Sort, text: &str) -> Result<Value, String> {
    match sort {
        Sort::Servers => text.parse().map(Value::Servers),
        Sort::Names if is_name(text) => Ok(Value::Name(text.to_owned())),
        Sort::Names => Err(format!("`{}` is not a name", text.escape_debug())),
        Sort::Folders => folder(text).map(Value::Folder),
        Sort::Programs => program(text).map(Value::Program),
        Sort::Sockets => socket(text).map(Value::Socket),
        Sort::Flag | Sort::Calls if text != "*" && text.parse::<CallName>().is_err() => Err(format!(
            "`{}` is not a pattern of calls; write `*`, `kind`, `kind:*` or `kind:action`",
            text.escape_debug()
        )),
        Sort::Flag | Sort::Calls => Ok(Value::Calls(text.to_owned())),
    }
}

/// Reads `<name>[=<path>][:write]`.
fn folder(text: &str) -> Result<Folder, String> {
    let (rest, write) = text.strip_suffix(WRITE).map_or((text, false), |rest| (rest, true));
    let Some((name, path)) = named(rest) else {
        let text = text.escape_debug();
        return Err(format!(
            "`{text}` is not a folder; write `<name>=<path>`, with `{WRITE}` when it may write"
        ));
    };
    Ok(Folder {
        name,
        path: path.map(Into::into),
        write,
    })
}

/// Reads `<name>[=<path>[@sha256:<digits>]]`. It may be run with whatever arguments the plugin asks for.
fn program(text: &str) -> Result<Program, String> {
    let wrong = || {
        format!(
            "`{}` is not a program; write `<name>=<path>`, and its SHA-256 as `{DIGEST}` and 64 digits where it shall be no other",
            text.escape_debug()
        )
    };
    let (rest, sha256) = match text.rsplit_once(DIGEST) {
        Some((rest, sha256)) if is_sha256(sha256) => (rest, Some(sha256.to_owned())),
        Some(_) => return Err(wrong()),
        None => (text, None),
    };
    let (name, path) = named(rest).ok_or_else(wrong)?;
    if path.is_none() && sha256.is_some() {
        return Err(wrong());
    }
    Ok(Program {
        name,
        path: path.map(place).transpose()?,
        sha256,
        args: vec![Arguments::any()],
    })
}

/// Reads `<name>[=<path>]`.
fn socket(text: &str) -> Result<Socket, String> {
    let wrong = || format!("`{}` is not a socket; write `<name>=<path>`", text.escape_debug());
    let (name, path) = named(text).ok_or_else(wrong)?;
    Ok(Socket {
        name,
        path: path.map(place).transpose()?,
    })
}

/// Reads `<name>[=<path>]`.
fn named(text: &str) -> Option<(String, Option<&str>)> {
    let (name, path) = match text.split_once('=') {
        Some((name, path)) => (name, Some(path)),
        None => (text, None),
    };
    (is_name(name) && path != Some("")).then(|| (name.to_owned(), path))
}

fn place(path: &str) -> Result<PathBuf, String> {
    match no_place(Path::new(path)) {
        Some(why) => Err(format!("the path `{}` {why}", path.escape_debug())),
        None => Ok(path.into()),
    }
}

pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}
