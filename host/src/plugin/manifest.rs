//! A plugin's manifest: what a component says of itself, and what it asks for.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::contract::contract;
use super::grants::within;
use crate::config::{Grants, PluginLimits, bytes_option, count_option, duration_option};
use crate::error::{Blame, Error, ErrorKind, Result};

/// The file beside a component, or built in with it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Manifest {
    /// Its name in routes and logs: lower-case letters, digits and `-`, at most 64.
    pub id: String,
    /// Its version, for people.
    pub version: String,
    /// Which world it implements.
    pub role: Role,
    /// One line about it.
    #[serde(default)]
    pub description: String,
    /// For handlers: the calls it executes, as patterns.
    #[serde(default)]
    pub serves: Vec<String>,
    /// For handlers: of what it serves, the calls that it wants to hold the claim on.
    #[serde(default)]
    pub claims: Vec<String>,
    /// For observers: whether it wants to hear of every call of the project that is handled here.
    #[serde(default)]
    pub subscribes: bool,
    /// What it asks for beside that.
    #[serde(default)]
    pub grants: Grants,
    /// Limits smaller than the operator's.
    #[serde(default)]
    pub limits: Asked,
}

/// The roles that a plugin can play, one for each world in `wit/plugin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Executes calls.
    Handler,
    /// Makes environments.
    Provider,
    /// Is an agent loop.
    Agent,
    /// Watches.
    Observer,
}

impl Role {
    /// The word in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Handler => "handler",
            Self::Provider => "provider",
            Self::Agent => "agent",
            Self::Observer => "observer",
        }
    }

    /// The interface that a component of this role exports.
    pub fn export(self) -> &'static str {
        match self {
            Self::Handler => contract!("waypost:plugin/handler"),
            Self::Provider => contract!("waypost:plugin/provider"),
            Self::Agent => contract!("waypost:plugin/agent"),
            Self::Observer => contract!("waypost:plugin/observer"),
        }
    }
}

/// `[limits]` of a manifest. What is not given is the operator's; what is larger than the operator's counts as that.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Asked {
    #[serde(with = "bytes_option")]
    memory: Option<usize>,
    #[serde(with = "bytes_option")]
    reply: Option<usize>,
    #[serde(with = "count_option")]
    concurrency: Option<usize>,
    /// The time for one call.
    #[serde(with = "duration_option")]
    pub timeout: Option<Duration>,
}

impl Asked {
    /// The operator's limits, made smaller where the manifest asks for less.
    pub fn within(&self, operator: &PluginLimits) -> PluginLimits {
        let least = |asked: Option<usize>, most: usize| asked.map_or(most, |asked| asked.min(most));
        PluginLimits {
            memory: least(self.memory, operator.memory),
            reply: least(self.reply, operator.reply),
            concurrency: least(self.concurrency, operator.concurrency),
            ..operator.clone()
        }
    }
}

/// Whether this is an id of a plugin.
pub(super) fn is_id(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.len() <= 64 && text.chars().all(fits)
}

impl Manifest {
    /// Reads a manifest; the error names the file, the line and the remedy.
    pub fn parse(file: &str, text: &str) -> Result<Self> {
        let wrong = |message: String| Error::new(ErrorKind::Invalid, message).blame(Blame::Plugin);
        let manifest: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| {
                text.get(..span.start).unwrap_or(text).matches('\n').count() + 1
            });
            wrong(format!("{file}, line {line}: {}", error.message()))
        })?;
        Self::check_id(file, &manifest.id)?;
        if manifest.role == Role::Handler && manifest.serves.is_empty() {
            return Err(wrong(format!(
                "{file}: a handler says what it executes, as in `serves = [\"inference\"]`"
            )));
        }
        if manifest.role != Role::Handler && !manifest.serves.is_empty() {
            let role = manifest.role.as_str();
            return Err(wrong(format!(
                "{file}: `serves` is for handlers, this is a plugin of the role {role}; remove it"
            )));
        }
        manifest.check_role(file).map_err(wrong)?;
        let patterns = manifest.serves.iter().chain(&manifest.claims);
        for pattern in patterns.chain(&manifest.grants.gateway) {
            if pattern != "*" && pattern.parse::<crate::call::CallName>().is_err() {
                let pattern = pattern.escape_debug();
                return Err(wrong(format!(
                    "{file}: `{pattern}` is not a pattern of calls; write `*`, `kind`, `kind:*` or `kind:action`"
                )));
            }
        }
        Ok(manifest)
    }

    /// Whether this can be an id; the error begins with where it stands.
    pub fn check_id(place: &str, id: &str) -> Result<()> {
        if is_id(id) {
            return Ok(());
        }
        let id = id.escape_debug();
        let message = format!("{place}: `{id}` is not an id; use lower-case letters, digits and `-`, at most 64");
        Err(Error::new(ErrorKind::Invalid, message).blame(Blame::Plugin))
    }

    /// All that it asks for.
    pub fn asks(&self) -> Grants {
        Grants {
            claim: self.claims.clone(),
            subscribe: self.subscribes,
            ..self.grants.clone()
        }
    }

    /// What it says of claims, subscriptions and grants fits its role and what it serves.
    fn check_role(&self, file: &str) -> Result<(), String> {
        let role = self.role.as_str();
        if self.role != Role::Handler && !self.claims.is_empty() {
            return Err(format!(
                "{file}: `claims` is for handlers, this is a plugin of the role {role}; remove it"
            ));
        }
        if self.role != Role::Observer && self.subscribes {
            return Err(format!(
                "{file}: `subscribes` is for observers, this is a plugin of the role {role}; remove it"
            ));
        }
        if !self.grants.claim.is_empty() || self.grants.subscribe {
            return Err(format!(
                "{file}: a manifest asks with `claims` and `subscribes` beside its `role`; remove `claim` and `subscribe` from [grants]"
            ));
        }
        let Grants {
            http,
            secrets,
            env,
            files,
            process,
            socket,
            ..
        } = &self.grants;
        if let Some(folder) = files.iter().find(|folder| folder.path.is_some()) {
            return Err(format!(
                "{file}: the folder `{}` has a `path`: a manifest names folders, and the operator says where they are; remove it",
                folder.name
            ));
        }
        if let Some(program) = process
            .iter()
            .find(|program| program.path.is_some() || program.sha256.is_some())
        {
            return Err(format!(
                "{file}: the program `{}` has a `path` or a `sha256`: a manifest names programs, and the operator says which files \
                 they are; remove it",
                program.name
            ));
        }
        if let Some(socket) = socket.iter().find(|socket| socket.path.is_some()) {
            return Err(format!(
                "{file}: the socket `{}` has a `path`: a manifest names sockets, and the operator says where they are; remove it",
                socket.name
            ));
        }
        let outside = [
            ("http", !http.is_empty()),
            ("secrets", !secrets.is_empty()),
            ("env", !env.is_empty()),
            ("files", !files.is_empty()),
            ("process", !process.is_empty()),
            ("socket", !socket.is_empty()),
        ];
        if let Some((grant, _)) = outside.iter().find(|(_, asked)| self.role == Role::Agent && *asked) {
            return Err(format!(
                "{file}: the grant `{grant}` is not for agents: an agent is run again from the log, which holds its calls alone; \
                 remove it, and let the agent call a handler that has the grant"
            ));
        }
        match self.claims.iter().find(|claim| !within(claim, &self.serves)) {
            Some(claim) => Err(format!(
                "{file}: it claims `{}`, which `serves` does not cover; claim what it serves",
                claim.escape_debug()
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(text: &str) -> String {
        Manifest::parse("x.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn each_mistake_is_named_with_its_remedy() {
        let head = "version = \"1\"\nrole = \"handler\"\n";
        assert_eq!(
            error(&format!("id = \"A b\"\n{head}serves = [\"x\"]")),
            "x.toml: `A b` is not an id; use lower-case letters, digits and `-`, at most 64"
        );
        assert_eq!(
            error(&format!("id = \"a\"\n{head}")),
            "x.toml: a handler says what it executes, as in `serves = [\"inference\"]`"
        );
        assert_eq!(
            error("id = \"a\"\nversion = \"1\"\nrole = \"agent\"\nserves = [\"x\"]"),
            "x.toml: `serves` is for handlers, this is a plugin of the role agent; remove it"
        );
        assert_eq!(
            error(&format!("id = \"a\"\n{head}serves = [\"x:\"]")),
            "x.toml: `x:` is not a pattern of calls; write `*`, `kind`, `kind:*` or `kind:action`"
        );
        for (text, end) in [
            (
                "role = \"agent\"\nclaims = [\"x\"]",
                "`claims` is for handlers, this is a plugin of the role agent; remove it",
            ),
            (
                "role = \"handler\"\nserves = [\"x\"]\nsubscribes = true",
                "`subscribes` is for observers, this is a plugin of the role handler; remove it",
            ),
            (
                "role = \"handler\"\nserves = [\"x:a\", \"y\"]\nclaims = [\"y:b\", \"x:*\"]",
                "it claims `x:*`, which `serves` does not cover; claim what it serves",
            ),
            (
                "role = \"observer\"\ngrants = { subscribe = true }",
                "a manifest asks with `claims` and `subscribes` beside its `role`; remove `claim` and `subscribe` from [grants]",
            ),
        ] {
            assert_eq!(
                error(&format!("id = \"a\"\nversion = \"1\"\n{text}")),
                format!("x.toml: {end}")
            );
        }
        assert!(
            error(&format!("id = \"a\"\n{head}serves = [\"x\"]\nnetwork = true"))
                .starts_with("x.toml, line 5: unknown field `network`")
        );
        assert!(
            error("id = \"a\"\nversion = \"1\"\nrole = \"root\"").starts_with("x.toml, line 3: unknown variant `root`")
        );
    }

    #[test]
    fn a_manifest_can_only_ask_for_less() {
        let text = "id = \"a\"\nversion = \"1\"\nrole = \"handler\"\nserves = [\"x\"]\n[limits]\nmemory = \"1GiB\"\nreply = \"1KiB\"";
        let limits = Manifest::parse("x.toml", text)
            .unwrap()
            .limits
            .within(&PluginLimits::default());
        assert_eq!((limits.memory, limits.reply), (64 << 20, 1 << 10));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}") {
            drop(Manifest::parse("x.toml", &text));
        }
    }
}
