//! The operator's secrets: where each is found, and to which servers it may be sent.
//!
//! A value leaves this file as a [`Text`], which cannot be printed, and goes into the head of one request. Not here: the
//! key of the built-in `inference` and the tokens of this hub.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tokio::io::AsyncReadExt;

use crate::call::CallError;
use crate::config::{self, Origin, Server};
use crate::error::{Blame, ErrorKind};

/// The longest secret, in bytes.
const LONGEST: usize = 8 << 10;

/// What stands in the place of one.
const REDACTED: &str = "[redacted]";

/// The secrets of a project.
pub struct Secrets(BTreeMap<String, Known>);

struct Known {
    place: Place,
    servers: Vec<Origin>,
}

enum Place {
    /// A variable's name, and what it held at the start.
    Variable(String, Option<String>),
    File(PathBuf),
}

/// The value of a secret. It has no `Debug` and no `Display`.
pub struct Text(String);

impl Text {
    /// The value itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Secrets {
    /// The secrets that `waypost.toml` names, with the variables as they are now.
    pub fn new(secrets: &[config::Secret], project: &Path, variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let known = secrets.iter().map(|secret| {
            let place = match (&secret.env, &secret.file) {
                (_, Some(file)) => Place::File(project.join(file)),
                (env, None) => {
                    let name = env.clone().unwrap_or_default();
                    let value = variable(&name);
                    Place::Variable(name, value)
                }
            };
            let servers = secret.servers.clone();
            (secret.name.clone(), Known { place, servers })
        });
        Self(known.collect())
    }

    /// The value of a secret that is to be sent to this server.
    pub async fn text(&self, name: &str, server: &Server) -> Result<Text, CallError> {
        let shown = name.escape_debug();
        let Some(known) = self.0.get(name) else {
            let message = format!("there is no [[secret]] named `{shown}` in waypost.toml; add one");
            return Err(CallError::new(ErrorKind::NotFound, message).blame(Blame::Operator));
        };
        if !known.servers.iter().any(|origin| origin.covers(server)) {
            let message = format!(
                "the secret `{shown}` is not for {server}: if it may be sent there, add it to `for` of its [[secret]] entry \
                 in waypost.toml"
            );
            return Err(CallError::new(ErrorKind::Denied, message));
        }
        let (found, place) = match &known.place {
            Place::Variable(variable, value) => (value.clone(), format!("the variable {variable}")),
            // Its path is not for plugins.
            Place::File(file) => (read(file).await, "its file".to_owned()),
        };
        let missing = |why: &str| {
            let message = format!("the secret `{shown}` cannot be had: {place} {why}");
            CallError::new(ErrorKind::Unavailable, message).blame(Blame::Operator)
        };
        let text = found.ok_or_else(|| missing("is not there, or is no text of at most 8 KiB; set it"))?;
        let text = text.trim();
        match text.len() {
            0 => Err(missing("is empty; set it")),
            1..=LONGEST if text.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Text(text.to_owned())),
            _ => Err(missing("holds more than 8 KiB, or characters other than visible ASCII")),
        }
    }

    /// A text with all secrets taken out of it, however short they are; also as they stand in JSON.
    pub async fn taken_out_of(&self, mut text: String) -> String {
        let mut values = Vec::new();
        for known in self.0.values() {
            values.extend(match &known.place {
                Place::Variable(_, value) => value.clone(),
                Place::File(file) => read(file).await,
            });
        }
        let mut secrets: Vec<&str> = values.iter().map(|value| value.trim()).collect();
        secrets.retain(|secret| !secret.is_empty());
        // One may be a part of another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        for secret in secrets {
            let escaped = secret.replace('\\', "\\\\").replace('"', "\\\"");
            text = text.replace(&escaped, REDACTED).replace(secret, REDACTED);
        }
        text
    }
}

async fn read(file: &Path) -> Option<String> {
    let open = tokio::fs::File::open(file).await.ok()?;
    let mut text = String::new();
    open.take(LONGEST as u64 + 2).read_to_string(&mut text).await.ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_secret_is_had_for_its_servers_or_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let entry = |name: &str, env: Option<&str>, file: Option<&str>| config::Secret {
            name: name.to_owned(),
            env: env.map(str::to_owned),
            file: file.map(PathBuf::from),
            servers: vec!["https://api.example.com".parse().unwrap()],
        };
        let entries = [
            entry("a", Some("A"), None),
            entry("none", Some("NONE"), None),
            entry("blank", Some("BLANK"), None),
            entry("odd", Some("ODD"), None),
            entry("long", Some("LONG"), None),
            entry("f", None, Some("token")),
        ];
        let long = "x".repeat(LONGEST + 1);
        let variables = |name: &str| match name {
            "A" => Some(" canary-1\n".to_owned()),
            "BLANK" => Some(" ".to_owned()),
            "ODD" => Some("can\u{e4}ry two".to_owned()),
            "LONG" => Some(long.clone()),
            _ => None,
        };
        let secrets = Secrets::new(&entries, folder.path(), &variables);
        let ask = async |name: &str, url: &str| {
            let (_, server) = Server::of(url).unwrap();
            let text = secrets.text(name, &server).await;
            text.map_or_else(|error| error.to_string(), |text| text.expose().to_owned())
        };
        let here = "https://api.example.com/x";
        assert_eq!(ask("a", here).await, "canary-1");
        for (name, url, error) in [
            (
                "b",
                here,
                "not-found: there is no [[secret]] named `b` in waypost.toml; add one",
            ),
            (
                "a",
                "https://example.com",
                "denied: the secret `a` is not for https://example.com: if it may be sent there, add it to `for` of its \
                 [[secret]] entry in waypost.toml",
            ),
            (
                "none",
                here,
                "unavailable: the secret `none` cannot be had: the variable NONE is not there, or is no text of at most 8 KiB; \
                 set it",
            ),
            (
                "blank",
                here,
                "unavailable: the secret `blank` cannot be had: the variable BLANK is empty; set it",
            ),
            (
                "odd",
                here,
                "unavailable: the secret `odd` cannot be had: the variable ODD holds more than 8 KiB, or characters other \
                 than visible ASCII",
            ),
            (
                "long",
                here,
                "unavailable: the secret `long` cannot be had: the variable LONG holds more than 8 KiB, or characters other \
                 than visible ASCII",
            ),
            (
                "f",
                here,
                "unavailable: the secret `f` cannot be had: its file is not there, or is no text of at most 8 KiB; set it",
            ),
        ] {
            assert_eq!(ask(name, url).await, error);
        }
        std::fs::write(&file, "canary-2\n").unwrap();
        assert_eq!(ask("f", here).await, "canary-2");
        std::fs::write(&file, "canary-3").unwrap();
        assert_eq!(ask("f", here).await, "canary-3", "a file is read at each use");
    }

    #[tokio::test]
    async fn a_text_is_shown_without_any_of_them() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "sk-\"quoted\"\n").unwrap();
        let entry = |name: &str, env: Option<&str>, file: Option<&str>| config::Secret {
            name: name.to_owned(),
            env: env.map(str::to_owned),
            file: file.map(PathBuf::from),
            servers: Vec::new(),
        };
        let entries = [
            entry("short", Some("SHORT"), None),
            entry("long", Some("LONG"), None),
            entry("none", Some("NONE"), None),
            entry("blank", Some("BLANK"), None),
            entry("file", None, Some("token")),
        ];
        let variables = |name: &str| match name {
            "SHORT" => Some("abc".to_owned()),
            "LONG" => Some("abcdef".to_owned()),
            "BLANK" => Some(" ".to_owned()),
            _ => None,
        };
        let secrets = Secrets::new(&entries, folder.path(), &variables);
        let text = r#"abcdef abc xabcx {"k":"sk-\"quoted\""} sk-"quoted" fine"#.to_owned();
        assert_eq!(
            secrets.taken_out_of(text).await,
            r#"[redacted] [redacted] x[redacted]x {"k":"[redacted]"} [redacted] fine"#
        );
    }
}
