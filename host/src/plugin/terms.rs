//! Grants one by one, as a person decides about them: `state`, `gateway=fsEvent:readFile`, `files=docs=/srv/docs:write`.
//!
//! Not here: how each is written (`terms/written.rs`), and what of it takes effect (`plugin/grants.rs`).

use std::fmt;

use super::grants::within;
use crate::call::CallName;
use crate::config::{Folder, Grants, Origin, Program, Server, Socket};
use crate::error::{Error, ErrorKind, Result};
use crate::imports::process::digest;

mod written;

use written::is_name;

/// What a grant says beside its name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Flag,
    Calls,
    Servers,
    Names,
    Folders,
    Programs,
    Sockets,
}

/// The grants, what each says, and how it is written.
const GRANTS: [(&str, Sort, &str); 11] = [
    ("gateway", Sort::Calls, "gateway=<call>"),
    ("state", Sort::Flag, "state"),
    ("workspace", Sort::Flag, "workspace"),
    ("claim", Sort::Calls, "claim=<call>"),
    ("subscribe", Sort::Flag, "subscribe"),
    ("http", Sort::Servers, "http=<https://host>"),
    ("secrets", Sort::Names, "secrets=<name>"),
    ("env", Sort::Names, "env=<variable>"),
    ("files", Sort::Folders, "files=<name>=<path>[:write]"),
    ("process", Sort::Programs, "process=<name>=<path>"),
    ("socket", Sort::Sockets, "socket=<name>=<path>"),
];

/// How a grant is written.
pub fn example(grant: &str) -> &str {
    GRANTS
        .iter()
        .find(|(name, ..)| *name == grant)
        .map_or(grant, |(_, _, example)| example)
}

/// One thing that is asked for, given or taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    name: &'static str,
    value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Flag,
    Calls(String),
    Servers(Origin),
    Name(String),
    Folder(Folder),
    Program(Program),
    Socket(Socket),
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name;
        match &self.value {
            Value::Flag => f.write_str(name),
            Value::Calls(text) | Value::Name(text) => write!(f, "{name}={text}"),
            Value::Servers(origin) => write!(f, "{name}={origin}"),
            Value::Folder(folder) => {
                write!(f, "{name}={}", folder.name)?;
                if let Some(path) = &folder.path {
                    write!(f, "={}", path.display())?;
                }
                f.write_str(if folder.write { WRITE } else { "" })
            }
            Value::Program(program) => {
                write!(f, "{name}={}", program.name)?;
                if let Some(path) = &program.path {
                    write!(f, "={}", path.display())?;
                }
                match &program.sha256 {
                    Some(sha256) => write!(f, "{DIGEST}{sha256}"),
                    None => Ok(()),
                }
            }
            Value::Socket(socket) => {
                write!(f, "{name}={}", socket.name)?;
                match &socket.path {
                    Some(path) => write!(f, "={}", path.display()),
                    None => Ok(()),
                }
            }
        }
    }
}

/// What stands behind a folder in which files are written.
const WRITE: &str = ":write";

/// What stands between a program and what is in it.
const DIGEST: &str = "@sha256:";

impl Term {
    /// All of these grants, one by one.
    pub fn all(grants: &Grants) -> Vec<Self> {
        // Whole, so that a grant that is new is asked about too.
        let Grants {
            gateway,
            state,
            workspace,
            claim,
            subscribe,
            http,
            secrets,
            env,
            files,
            process,
            socket,
        } = grants;
        let flag = |name: &'static str, on: &bool| {
            on.then_some(Self {
                name,
                value: Value::Flag,
            })
        };
        let mut all = each("gateway", gateway, Value::Calls);
        all.extend(flag("state", state));
        all.extend(flag("workspace", workspace));
        all.extend(each("claim", claim, Value::Calls));
        all.extend(flag("subscribe", subscribe));
        all.extend(each("http", http, Value::Servers));
        all.extend(each("secrets", secrets, Value::Name));
        all.extend(each("env", env, Value::Name));
        all.extend(each("files", files, Value::Folder));
        all.extend(each("process", process, Value::Program));
        all.extend(each("socket", socket, Value::Socket));
        all
    }

    /// Reads what a person wrote: `state`, or `gateway=<pattern>,<pattern>`.
    pub fn parse(text: &str) -> Result<Vec<Self>> {
        let wrong = |why: String| Error::new(ErrorKind::Invalid, why);
        let (name, values) = match text.split_once('=') {
            Some((name, values)) => (name.trim(), Some(values)),
            None => (text.trim(), None),
        };
        let Some(&(name, sort, example)) = GRANTS.iter().find(|(known, ..)| *known == name) else {
            let known: Vec<&str> = GRANTS.iter().map(|(name, ..)| *name).collect();
            return Err(wrong(format!(
                "`{}` is not a grant; there are {}",
                name.escape_debug(),
                known.join(", ")
            )));
        };
        let term = |value: Value| Self { name, value };
        match (sort, values) {
            (Sort::Flag, None) => Ok(vec![term(Value::Flag)]),
            (Sort::Flag, Some(_)) => Err(wrong(format!("`{name}` takes no value; write `{name}` alone"))),
            (_, None) => Err(wrong(format!("`{name}` says which, as in `{example}`"))),
            // A path may hold a comma.
            (Sort::Folders | Sort::Programs | Sort::Sockets, Some(value)) => {
                Ok(vec![term(written::one(sort, value.trim()).map_err(wrong)?)])
            }
            (sort, Some(values)) => values
                .split(',')
                .map(|value| written::one(sort, value.trim()).map(term).map_err(wrong))
                .collect(),
        }
    }

    /// The same, with what is in the program now when nobody said what shall be; or why it is no program. Blocks.
    pub fn settled(mut self) -> Result<Self> {
        if let Value::Program(program) = &mut self.value
            && let (Some(path), None) = (&program.path, &program.sha256)
        {
            program.sha256 = Some(digest(path)?);
        }
        Ok(self)
    }

    /// Whether it is about the same thing as another: what has a place has a name beside it.
    pub fn is_about(&self, other: &Self) -> bool {
        match (&self.value, &other.value) {
            (Value::Folder(one), Value::Folder(other)) => one.name == other.name,
            (Value::Program(one), Value::Program(other)) => one.name == other.name,
            (Value::Socket(one), Value::Socket(other)) => one.name == other.name,
            _ => self == other,
        }
    }

    /// A grant that says no more than its name.
    pub(crate) fn bare(name: &'static str) -> Self {
        Self {
            name,
            value: Value::Flag,
        }
    }

    /// The grant to make just this call; none when its name cannot be written as one that covers nothing else.
    pub(crate) fn call(kind: &str, action: Option<&str>) -> Option<Self> {
        let name = CallName::new(kind, action);
        let text = name.to_string();
        let plain = !text.contains(['*', ',']) && text.trim() == text;
        (plain && text.parse::<CallName>() == Ok(name)).then_some(Self {
            name: "gateway",
            value: Value::Calls(text),
        })
    }

    /// The grant to ask just this server.
    pub(crate) fn server(server: Server) -> Self {
        Self {
            name: "http",
            value: Value::Servers(server.into()),
        }
    }

    /// The grant of one secret; none when nothing can have this name.
    pub(crate) fn secret(name: &str) -> Option<Self> {
        is_name(name).then(|| Self {
            name: "secrets",
            value: Value::Name(name.to_owned()),
        })
    }

    /// The grant of one folder; none when nothing can have this name.
    pub(crate) fn folder(name: &str, write: bool) -> Option<Self> {
        let folder = Folder {
            name: name.to_owned(),
            path: None,
            write,
        };
        is_name(name).then_some(Self {
            name: "files",
            value: Value::Folder(folder),
        })
    }

    /// The grant of one program, whatever its arguments; none when nothing can have this name.
    pub(crate) fn program(name: &str) -> Option<Self> {
        let program = Program {
            name: name.to_owned(),
            path: None,
            sha256: None,
            args: Vec::new(),
        };
        is_name(name).then_some(Self {
            name: "process",
            value: Value::Program(program),
        })
    }

    /// The grant of one socket; none when nothing can have this name.
    pub(crate) fn socket(name: &str) -> Option<Self> {
        let socket = Socket {
            name: name.to_owned(),
            path: None,
        };
        is_name(name).then_some(Self {
            name: "socket",
            value: Value::Socket(socket),
        })
    }

    /// Whether it is said where it is, or it is nowhere.
    pub(crate) fn has_place(&self) -> bool {
        match &self.value {
            Value::Folder(Folder { path, .. })
            | Value::Program(Program { path, .. })
            | Value::Socket(Socket { path, .. }) => path.is_some(),
            Value::Flag | Value::Calls(_) | Value::Servers(_) | Value::Name(_) => true,
        }
    }

    /// The name of the grant that it is of.
    pub fn grant(&self) -> &'static str {
        self.name
    }

    /// Whether it is all in these grants.
    pub fn is_in(&self, grants: &Grants) -> bool {
        match &self.value {
            Value::Flag => self.flag(grants),
            Value::Calls(pattern) => within(pattern, self.calls(grants)),
            Value::Servers(origin) => grants.http.iter().any(|wider| origin.within(wider)),
            Value::Name(name) => self.names(grants).contains(name),
            Value::Folder(folder) => grants.files.iter().any(|given| {
                let there = folder.path.is_none() || folder.path == given.path;
                given.name == folder.name && there && (given.write || !folder.write)
            }),
            Value::Program(program) => grants.process.iter().any(|given| {
                let there = program.path.is_none() || program.path == given.path;
                let same = program.sha256.is_none() || program.sha256 == given.sha256;
                given.name == program.name && there && same && given.covers(&program.args)
            }),
            Value::Socket(socket) => grants.socket.iter().any(|given| {
                let there = socket.path.is_none() || socket.path == given.path;
                given.name == socket.name && there
            }),
        }
    }

    /// Whether something of it is in these grants.
    pub fn touches(&self, grants: &Grants) -> bool {
        self.is_in(grants)
            || match &self.value {
                Value::Calls(pattern) => {
                    let one = std::slice::from_ref(pattern);
                    self.calls(grants).iter().any(|other| within(other, one))
                }
                Value::Servers(origin) => grants
                    .http
                    .iter()
                    .any(|other| other.within(origin) || origin.within_but_private(other)),
                Value::Folder(folder) => grants.files.iter().any(|given| given.name == folder.name),
                Value::Program(program) => grants.process.iter().any(|given| given.name == program.name),
                Value::Socket(socket) => grants.socket.iter().any(|given| given.name == socket.name),
                Value::Flag | Value::Name(_) => false,
            }
    }

    /// Puts it into these grants.
    pub fn give(&self, grants: &mut Grants) {
        if self.is_in(grants) {
            return;
        }
        self.set(grants, true);
    }

    /// Takes it out of these grants; whether something was there.
    pub fn take(&self, grants: &mut Grants) -> bool {
        let before = grants.clone();
        self.set(grants, false);
        *grants != before
    }

    /// What it means, in plain words.
    pub fn words(&self) -> String {
        match &self.value {
            Value::Flag => match self.name {
                "state" => "keep data of its own between calls".to_owned(),
                "workspace" => "make, compare and remove copies of the project".to_owned(),
                _ => "hear of every call of the project, with what is in it".to_owned(),
            },
            Value::Calls(pattern) => self.words_of_calls(pattern),
            Value::Servers(origin) => format!("send requests to {origin}, and read what it answers"),
            Value::Name(secret) if self.name == "secrets" => {
                format!("have the secret `{secret}` put into its requests, without seeing it")
            }
            Value::Name(variable) => format!("read the hub's variable `{variable}`"),
            Value::Folder(folder) => {
                let does = if folder.write { "read and write" } else { "read" };
                match &folder.path {
                    Some(path) => format!(
                        "{does} the files in {}, as its folder `{}`",
                        path.display(),
                        folder.name
                    ),
                    None => format!("{does} files in a folder that you choose, as its `{}`", folder.name),
                }
            }
            Value::Program(program) => {
                let (name, arguments) = (&program.name, program.arguments());
                match (&program.path, &program.sha256) {
                    (Some(path), Some(sha256)) => format!(
                        "run {} (SHA-256 {sha256}) as its `{name}`, with your rights, with {arguments}",
                        path.display()
                    ),
                    (Some(path), None) => {
                        format!(
                            "run {} as its `{name}`, with your rights, with {arguments}",
                            path.display()
                        )
                    }
                    (None, _) => {
                        format!("run a program that you choose, as its `{name}`, with your rights, with {arguments}")
                    }
                }
            }
            Value::Socket(socket) => match &socket.path {
                Some(path) => format!(
                    "talk to whoever listens on {}, as its socket `{}`",
                    path.display(),
                    socket.name
                ),
                None => format!(
                    "talk to whoever listens on a socket that you choose, as its `{}`",
                    socket.name
                ),
            },
        }
    }

    fn words_of_calls(&self, pattern: &str) -> String {
        let (kind, action) = match pattern.split_once(':') {
            Some((kind, action)) if action != "*" => (kind, Some(action)),
            Some((kind, _)) => (kind, None),
            None => (pattern, None),
        };
        match (self.name, kind) {
            ("gateway", "*") => "make every call there is: files, commands, models, other plugins".to_owned(),
            ("gateway", "fsEvent") => match action {
                Some(action) => format!("work on files of the workspace, with `{action}` alone"),
                None => "read and change the files of the workspace".to_owned(),
            },
            ("gateway", kind) if kind.starts_with("executeCommand") => "run commands".to_owned(),
            ("gateway", "inference") => "ask models, at your cost".to_owned(),
            ("gateway", _) => format!("make the call `{pattern}`"),
            (_, "*") => "execute every call of the project in place of the hub".to_owned(),
            _ => format!("execute every call `{pattern}` of the project in place of the hub"),
        }
    }

    fn calls<'a>(&self, grants: &'a Grants) -> &'a [String] {
        if self.name == "gateway" {
            &grants.gateway
        } else {
            &grants.claim
        }
    }

    fn names<'a>(&self, grants: &'a Grants) -> &'a [String] {
        if self.name == "secrets" {
            &grants.secrets
        } else {
            &grants.env
        }
    }

    fn flag(&self, grants: &Grants) -> bool {
        match self.name {
            "state" => grants.state,
            "workspace" => grants.workspace,
            _ => grants.subscribe,
        }
    }

    fn set(&self, grants: &mut Grants, given: bool) {
        // What is narrower goes with it, and what is wider stays: a part of a pattern cannot be taken.
        match &self.value {
            Value::Flag => match self.name {
                "state" => grants.state = given,
                "workspace" => grants.workspace = given,
                _ => grants.subscribe = given,
            },
            Value::Calls(pattern) => {
                let list = if self.name == "gateway" {
                    &mut grants.gateway
                } else {
                    &mut grants.claim
                };
                list.retain(|other| !within(other, std::slice::from_ref(pattern)));
                list.extend(given.then(|| pattern.clone()));
            }
            Value::Servers(origin) => {
                grants.http.retain(|other| !other.within_but_private(origin));
                grants.http.extend(given.then(|| origin.clone()));
            }
            Value::Name(name) => {
                let list = if self.name == "secrets" {
                    &mut grants.secrets
                } else {
                    &mut grants.env
                };
                list.retain(|other| other != name);
                list.extend(given.then(|| name.clone()));
            }
            Value::Folder(folder) => {
                let old = grants.files.iter().position(|old| old.name == folder.name);
                let old = old.map(|at| grants.files.remove(at));
                if given {
                    let path = folder.path.clone().or_else(|| old.and_then(|old| old.path));
                    grants.files.push(Folder { path, ..folder.clone() });
                }
            }
            Value::Program(program) => {
                let old = grants.process.iter().position(|old| old.name == program.name);
                let old = old.map(|at| grants.process.remove(at));
                if given {
                    let which = |program: &Program| (program.path.clone(), program.sha256.clone());
                    let (path, sha256) = match (which(program), old) {
                        ((None, None), Some(old)) => which(&old),
                        (new, _) => new,
                    };
                    grants.process.push(Program {
                        path,
                        sha256,
                        ..program.clone()
                    });
                }
            }
            Value::Socket(socket) => {
                let old = grants.socket.iter().position(|old| old.name == socket.name);
                let old = old.map(|at| grants.socket.remove(at));
                if given {
                    let path = socket.path.clone().or_else(|| old.and_then(|old| old.path));
                    grants.socket.push(Socket { path, ..socket.clone() });
                }
            }
        }
    }
}

fn each<T: Clone>(name: &'static str, values: &[T], value: fn(T) -> Value) -> Vec<Term> {
    let term = |one: &T| Term {
        name,
        value: value(one.clone()),
    };
    values.iter().map(term).collect()
}

/// These terms, as a list for people.
pub fn listed(terms: &[Term]) -> String {
    let terms: Vec<String> = terms.iter().map(|term| format!("`{term}`")).collect();
    if terms.is_empty() {
        "nothing".to_owned()
    } else {
        terms.join(", ")
    }
}

#[cfg(test)]
mod tests;
