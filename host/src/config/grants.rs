//! What plugins may do beside their work, and the secrets that some of it needs.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::origins::destinations;
use super::values::{any_names, any_patterns, name};
use super::{Config, Origin, Problem, Program, Socket};

/// What a manifest asks for, and what an operator allows; the effective set is the intersection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Grants {
    /// Calls it may make: patterns `kind`, `kind:*`, `kind:action`, `*`. Default none.
    #[serde(deserialize_with = "any_patterns")]
    pub gateway: Vec<String>,
    /// Whether it may keep state. Default no.
    pub state: bool,
    /// Whether it may make, compare and remove workspaces. For providers. Default no.
    pub workspace: bool,
    /// Calls that it may claim: patterns as above. A manifest asks for them with `claims`, beside `serves`. Default none.
    #[serde(deserialize_with = "any_patterns")]
    pub claim: Vec<String>,
    /// Whether it hears of every call of the project that is handled here. A manifest asks for it with `subscribes`. For
    /// observers. Default no.
    pub subscribe: bool,
    /// Servers that it may ask over HTTP: `https://api.example.com`, `http://127.0.0.1:8080`, `https://*.example.com:8443` for
    /// every name below that one, `https://*` for every name. A port that is not written is that of the scheme. Not for
    /// agents. Default none.
    ///
    /// A name must lead to addresses of the public internet alone. An address that is written itself is meant as it is;
    /// `localhost` is this machine; and a name with the word `private` after it, as in `https://git.corp.example private`,
    /// may also lead to the operator's own network (10/8, 172.16/12, 192.168/16, 100.64/10, fc00::/7), but never to this
    /// machine or to what a cloud tells its machines (169.254/16). The word counts in the operator's grant alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub http: Vec<Origin>,
    /// Secrets that the hub puts into its requests, by name. It never has their text. Not for agents. Default none.
    #[serde(deserialize_with = "any_names", skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Variables of the hub that it reads as variables of its own, as they were at the start: one that is granted to
    /// an installed plugin while the hub runs is there from the next start. Not the one of a secret. Not for agents. Default none.
    #[serde(deserialize_with = "any_names", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Folders in which it reads files, or writes them too. A manifest names what it needs, as in
    /// `files = [{ name = "cache", write = true }]`; the operator says where that is, as in
    /// `files = [{ name = "cache", path = "/var/cache/it", write = true }]`. Both must name a folder, and both must let it
    /// write. How much it writes in all is bounded by the disk alone. Not for agents. Default none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<Folder>,
    /// Programs that it runs, without a shell. A manifest names what it needs and the arguments that it uses, as in
    /// `process = [{ name = "git", args = [["status"], ["log", "-n", "*"]] }]`; the operator says which file that is and what
    /// is in it, as in `process = [{ name = "git", path = "/usr/bin/git", sha256 = "…", args = [["..."]] }]`. Both must name
    /// the program, and both must allow the arguments. Not for agents. Default none.
    ///
    /// In a pattern of arguments `*` stands for any text, but for none that begins with `-` when it stands first; `...` at the
    /// end stands for any further arguments; everything else means itself. A program has the rights of the hub's user, so
    /// grant no shell, no interpreter, and no argument that makes it run something else.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub process: Vec<Program>,
    /// Unix sockets that it connects to. A manifest names what it needs, as in `socket = [{ name = "docker" }]`; the operator
    /// says where that is, as in `socket = [{ name = "docker", path = "/run/docker.sock" }]`. Not for agents. Default none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub socket: Vec<Socket>,
}

impl Grants {
    /// These, with a place for all that has none, for who only looks whether a plugin would load with them.
    pub fn placed(mut self, at: &Path) -> Self {
        let place = |path: &mut Option<PathBuf>| {
            path.get_or_insert_with(|| at.to_owned());
        };
        self.files.iter_mut().for_each(|folder| place(&mut folder.path));
        self.process.iter_mut().for_each(|program| place(&mut program.path));
        self.socket.iter_mut().for_each(|socket| place(&mut socket.path));
        self
    }

    /// These, without the places, which are the operator's matter alone.
    pub fn without_places(mut self) -> Self {
        self.files.iter_mut().for_each(|folder| folder.path = None);
        for program in &mut self.process {
            (program.path, program.sha256) = (None, None);
        }
        self.socket.iter_mut().for_each(|socket| socket.path = None);
        self
    }
}

/// A folder in the grant `files`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Folder {
    /// What it is for; the plugin knows it by this name.
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// Where it is, relative to the project folder; the operator's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Whether files are written and removed there. Default no.
    ///
    /// Not in a folder that holds the project or belongs to what steers agents and the hub (`.codebolt`, `.git`); and the
    /// hub's state is not read.
    #[serde(default)]
    pub write: bool,
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(path) = &self.path {
            write!(f, " = {}", path.display())?;
        }
        f.write_str(if self.write { " (write)" } else { "" })
    }
}

/// `[[secret]]`: a text that plugins may have sent and never see, such as the token of an API.
///
/// Its value is not written here but found in a variable of the hub, as it was at the start, or in a file, which is read at
/// each use. White space around it does not count; the rest is visible ASCII characters, at most 8 KiB. One that is missing
/// is an error of the request that needs it, and of nothing else.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Secret {
    /// The name by which plugins ask for it.
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// The variable of the hub that holds it; this or `file`.
    #[serde(default)]
    pub env: Option<String>,
    /// The file that holds it, relative to the project folder; this or `env`. Not inside the project, if agents read there.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// The servers that it may be sent to, written as in the grant `http`; a plugin needs that grant for them too.
    ///
    /// A server that is sent a secret knows it, and its answer is its own word. Of an answer, headers and body, the hub
    /// takes out the secret where it stands exactly as it was sent, if it has 8 characters or more. What the server has
    /// encoded or packed otherwise (base64, gzip) goes through: name only servers that do not hand secrets back.
    #[serde(rename = "for", deserialize_with = "destinations")]
    pub servers: Vec<Origin>,
}

/// What does not fit together in these sections; `line` knows where the entries of a section stand.
pub(super) fn problems(config: &Config, line: &dyn Fn(&str, usize) -> usize) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |section: &str, position: usize, message: String| {
        let line = line(section, position);
        problems.push(Problem { line, message });
    };
    for (position, secret) in config.secrets.iter().enumerate() {
        let name = &secret.name;
        if config.secrets.iter().take(position).any(|above| above.name == *name) {
            let message = format!("a [[secret]] above is named `{name}` too; names are unique");
            add("secret", position, message);
        }
        if secret.env.is_some() == secret.file.is_some() {
            let message = format!("the secret `{name}` is in a variable or in a file: write one of `env` and `file`");
            add("secret", position, message);
        }
    }
    for (position, plugin) in config.plugins.iter().enumerate() {
        for name in &plugin.grant.secrets {
            if !config.secrets.iter().any(|secret| secret.name == *name) {
                let message = format!("`plugin.grant.secrets`: there is no [[secret]] named `{name}`; add one");
                add("plugin", position, message);
            }
        }
        for folder in plugin.grant.files.iter().filter(|folder| folder.path.is_none()) {
            let message = format!(
                "`plugin.grant.files`: the folder `{}` has no `path`; say where it is",
                folder.name
            );
            add("plugin", position, message);
        }
        for program in &plugin.grant.process {
            let name = &program.name;
            let message = match (&program.path, &program.sha256) {
                (None, _) => {
                    format!("`plugin.grant.process`: the program `{name}` has no `path`; say which file it is")
                }
                (Some(path), None) => format!(
                    "`plugin.grant.process`: the program `{name}` has no `sha256`; `sha256sum {}` says it",
                    path.display()
                ),
                _ => continue,
            };
            add("plugin", position, message);
        }
        for socket in plugin.grant.socket.iter().filter(|socket| socket.path.is_none()) {
            let message = format!(
                "`plugin.grant.socket`: the socket `{}` has no `path`; say where it is",
                socket.name
            );
            add("plugin", position, message);
        }
        for variable in &plugin.grant.env {
            if config
                .secrets
                .iter()
                .any(|secret| secret.env.as_ref() == Some(variable))
            {
                let message = format!(
                    "`plugin.grant.env`: `{variable}` holds a secret, which no plugin reads; grant the secret, or remove it here"
                );
                add("plugin", position, message);
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::super::load;

    #[test]
    fn what_does_not_fit_together_is_named_with_its_line() {
        let text = r#"[[secret]]
name = "a"
for = ["https://a"]

[[secret]]
name = "a"
env = "A"
file = "a"
for = ["https://a"]

[[plugin]]
path = "x.wasm"
wall = "in-process"
grant = { secrets = ["a", "b"], http = ["https://a"], env = ["LANG", "A"], files = [{ name = "docs" }], process = [{ name = "x" }, { name = "y", path = "/y" }], socket = [{ name = "z" }] }
"#;
        let told = |text: &str| -> Vec<String> { load(text).unwrap_err().iter().map(ToString::to_string).collect() };
        assert_eq!(
            told(text),
            [
                "line 1: the secret `a` is in a variable or in a file: write one of `env` and `file`",
                "line 5: a [[secret]] above is named `a` too; names are unique",
                "line 5: the secret `a` is in a variable or in a file: write one of `env` and `file`",
                "line 11: `plugin.grant.secrets`: there is no [[secret]] named `b`; add one",
                "line 11: `plugin.grant.files`: the folder `docs` has no `path`; say where it is",
                "line 11: `plugin.grant.process`: the program `x` has no `path`; say which file it is",
                "line 11: `plugin.grant.process`: the program `y` has no `sha256`; `sha256sum /y` says it",
                "line 11: `plugin.grant.socket`: the socket `z` has no `path`; say where it is",
                "line 11: `plugin.grant.env`: `A` holds a secret, which no plugin reads; grant the secret, or remove it here",
            ]
        );
        let text = r#"[[secret]]
name = "a"
value = "hunter2"
for = []

[[secret]]
name = "b"
for = ["https://b private"]

[[secret]]
env = "C"

[[plugin]]
path = "x.wasm"
wall = "in-process"
grant = { http = ["a.example.com"] }
"#;
        assert_eq!(
            told(text),
            [
                "line 3: unknown field `secret.value`; there are name, env, file, for",
                "line 4: `secret.for`: an empty list keeps the secret from everyone; name a server, or remove the secret",
                "line 8: `secret.for`: `https://b private`: `private` belongs to the grant `http` of a plugin; remove it here",
                "line 10: `secret` needs the field `name`",
                "line 10: `secret` needs the field `for`",
                "line 16: `plugin.grant.http`: `a.example.com` is not a server: it has no scheme; write it as \
                 https://api.example.com, https://*.example.com:8443 or http://127.0.0.1:8080",
            ]
        );
    }
}
