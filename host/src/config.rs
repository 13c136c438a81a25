//! `waypost.toml`: what the operator decides.
//!
//! Plain structs with defaults; every field is documented where it stands, since this is the reference. Unknown fields
//! are errors, and every problem is reported at once, with its line ([`load`]). What a value may look like is in
//! `config/values.rs`. Nothing here looks at the world: whether a plugin or a host exists is found out where it is used.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::call::{Effect, Target};

mod grants;
mod installing;
mod limits;
mod load;
mod narrative;
mod origins;
mod programs;
mod shadowing;
mod values;
mod worker;

pub use grants::{Folder, Grants, Secret};
pub(crate) use installing::checked_key;
pub use installing::{Installing, Publisher, Required};
pub use limits::{Limits, PluginLimits};
pub(crate) use load::Lines;
pub use load::{PROBLEMS, Problem, describe, load, parse};
pub use narrative::Narrative;
pub use origins::{Means, Named, Origin, Scheme, Server, URL_BYTES};
pub use programs::{ARGUMENT_BYTES, ARGUMENTS, Arguments, Program, Socket, is_sha256, no_place};
pub use shadowing::Share;
pub use values::{
    CommandLine, Globs, LARGEST, LONGEST, TEXT_BYTES, bytes, bytes_option, count_option, duration, duration_option,
};
pub use worker::{Part, Worker};

use values::{any_patterns, command_line, count, host_globs, name, path_globs, patterns, sha256, word_globs};

/// The name of the file, in the project folder.
pub const FILE: &str = "waypost.toml";

/// All of `waypost.toml`. An empty file is a working configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// `[hub]`
    pub hub: Hub,
    /// `[limits]`: of the hub and of every plugin that has none of its own.
    pub limits: Limits,
    /// `[agent]`: budgets of a run.
    pub agent: Agent,
    /// `[files]`: the built-in `fsEvent` handler.
    pub files: Files,
    /// `[terminal]`: the built-in `executeCommand` family.
    pub terminal: Terminal,
    /// `[inference]`: the built-in `inference` handler.
    pub inference: Inference,
    /// `[narrative]`: the built-in `narrative` handler.
    pub narrative: Narrative,
    /// `[worker]`: the processes that strangers' plugins run in.
    pub worker: Worker,
    /// `[[plugin]]`: components to load beside the bundled ones.
    #[serde(rename = "plugin")]
    pub plugins: Vec<Plugin>,
    /// `[[secret]]`: what plugins may have sent and never see.
    #[serde(rename = "secret")]
    pub secrets: Vec<Secret>,
    /// `[plugins]`: what may be installed beside them.
    #[serde(rename = "plugins")]
    pub installing: Installing,
    /// `[[publisher]]`: whose signatures of components count.
    #[serde(rename = "publisher")]
    pub publishers: Vec<Publisher>,
    /// `[sockets]`: who may come in without a token.
    pub sockets: Sockets,
    /// `[[connection]]`: processes that may connect on `/plugins`.
    #[serde(rename = "connection")]
    pub connections: Vec<Connection>,
    /// `[[joined]]`: other hubs, as targets of rules.
    pub joined: Vec<Joined>,
    /// `[[spawn]]`: processes that the hub starts itself, and that connect on `/plugin`.
    #[serde(rename = "spawn")]
    pub spawns: Vec<Spawn>,
    /// `[[route]]`: who executes which call; the first rule that fits decides.
    #[serde(rename = "route")]
    pub routes: Vec<Route>,
}

/// `[hub]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Hub {
    /// The state directory; relative to the project folder. Default `.waypost`.
    pub state: PathBuf,
    /// The address that `serve` listens on. Default `127.0.0.1:7420`.
    pub listen: String,
    /// The provider of a run's environment when the prompt names none. Default `sandbox`.
    pub provider: String,
    /// The agent of a run when the prompt names none. Default `loop`.
    pub agent: String,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            state: ".waypost".into(),
            listen: "127.0.0.1:7420".into(),
            provider: "sandbox".into(),
            agent: "loop".into(),
        }
    }
}

/// `[agent]`: budgets of a run; reaching one ends the run with an error that names it.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Agent {
    /// Inference calls. Default 40.
    #[serde(deserialize_with = "count")]
    pub steps: u32,
    /// Tokens, prompt and completion together, as the endpoint counts them. Default 1,000,000.
    #[serde(deserialize_with = "count")]
    pub tokens: u64,
    /// Time from the agent's start to its end. Default 30 min.
    #[serde(with = "duration")]
    pub time: Duration,
    /// How long an agent in a sandbox waits for one answer before its sandbox is put away; it is run again from the log
    /// when the answer is there. Default 60 s.
    #[serde(with = "duration")]
    pub park_after: Duration,
    /// More variables of an agent that is a program; nothing of the hub's own environment is passed on. Default none.
    pub env: BTreeMap<String, String>,
    /// Time in which an agent that is a program must connect on `/codebolt`. Default 30 s.
    #[serde(with = "duration")]
    pub connect: Duration,
    /// Time that an agent that is a program has to stop when it is told to, and again to end before it is killed.
    /// Default 5 s.
    #[serde(with = "duration")]
    pub grace: Duration,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            steps: 40,
            tokens: 1_000_000,
            time: Duration::from_secs(30 * 60),
            park_after: Duration::from_secs(60),
            env: BTreeMap::new(),
            connect: Duration::from_secs(30),
            grace: Duration::from_secs(5),
        }
    }
}

/// `[files]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Files {
    /// The largest file that is read or written whole. Default 10 MiB.
    #[serde(with = "bytes")]
    pub file: usize,
    /// Entries of one listing; the rest is cut with a mark. Default 10,000.
    #[serde(deserialize_with = "count")]
    pub entries: usize,
    /// Matches of one search; the rest is cut with a mark. Default 1,000.
    #[serde(deserialize_with = "count")]
    pub matches: usize,
}

impl Default for Files {
    fn default() -> Self {
        Self {
            file: 10 << 20,
            entries: 10_000,
            matches: 1_000,
        }
    }
}

/// `[terminal]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Terminal {
    /// The shell that runs a command line with `-c`. Default `/bin/sh`.
    pub shell: PathBuf,
    /// The PATH of a command. Default `/usr/local/bin:/usr/bin:/bin`.
    pub path: String,
    /// More variables of a command; nothing of the hub's own environment is passed on. Default none.
    pub env: BTreeMap<String, String>,
    /// Bytes kept of standard output and of standard error each; the middle is dropped with a mark. Default 1 MiB.
    #[serde(with = "bytes")]
    pub output: usize,
    /// Time between the polite and the hard end of a cancelled command. Default 2 s.
    #[serde(with = "duration")]
    pub grace: Duration,
}

impl Default for Terminal {
    fn default() -> Self {
        Self {
            shell: "/bin/sh".into(),
            path: "/usr/local/bin:/usr/bin:/bin".into(),
            env: BTreeMap::new(),
            output: 1 << 20,
            grace: Duration::from_secs(2),
        }
    }
}

/// `[inference]`: an OpenAI-compatible endpoint.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Inference {
    /// The endpoint up to and without `/chat/completions`. Default: the variable `OPENAI_BASE_URL`.
    pub base_url: Option<String>,
    /// The name of the variable that holds the key. Default `OPENAI_API_KEY`.
    pub api_key_env: String,
    /// The model when the call names none. Default: the variable `OPENAI_MODEL`, else `gpt-4o-mini`.
    pub model: Option<String>,
    /// What happens with recordings. Default `off`.
    pub mode: InferenceMode,
    /// The folder of recordings, relative to the project folder. Default `recordings`.
    pub recordings: PathBuf,
    /// Time without a byte from the endpoint before it counts as hanging. Default 60 s.
    #[serde(with = "duration")]
    pub idle: Duration,
    /// Size of one answer. Default 8 MiB.
    #[serde(with = "bytes")]
    pub answer: usize,
}

impl Default for Inference {
    fn default() -> Self {
        Self {
            base_url: None,
            api_key_env: "OPENAI_API_KEY".into(),
            model: None,
            mode: InferenceMode::Off,
            recordings: "recordings".into(),
            idle: Duration::from_secs(60),
            answer: 8 << 20,
        }
    }
}

/// What the built-in `inference` does with recordings of real exchanges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InferenceMode {
    /// Asks the endpoint.
    Off,
    /// Asks the endpoint and keeps the exchange.
    Record,
    /// Answers from a recording with the same content; never asks the endpoint.
    Replay,
}

/// `[[plugin]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Plugin {
    /// The component; its manifest is the file beside it with the ending `.toml`. Relative to the project folder.
    pub path: PathBuf,
    /// Where its code runs.
    pub wall: Wall,
    /// What the operator allows of what the manifest asks for.
    #[serde(default)]
    pub grant: Grants,
}

/// Where a plugin's code runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wall {
    /// In the hub's process, inside its wasmtime sandbox.
    InProcess,
    /// In a worker process of its own.
    Worker,
}

/// `[sockets]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Sockets {
    /// Whether a process may connect on `/plugins` without a token, as published clients do that can send none. Then every
    /// program that reaches the port can answer for the project, under any name that has no `[[connection]]` and no token
    /// of its own. Default no.
    pub allow_unauthenticated_connections: bool,
    /// Whether a program may connect on `/codebolt` as an agent without a token and without having been started by this
    /// hub, as published agents do that can send none. It then acts in the project itself, and in no run. Default no.
    pub allow_unbound_agents: bool,
}

/// `[[connection]]`: who may connect on `/plugins`, and with what.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Connection {
    /// The `providerId` it names, and the name in `connection:<name>`.
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// The SHA-256 of its token, in hexadecimal.
    #[serde(deserialize_with = "sha256")]
    pub token_sha256: String,
    /// What it may claim: patterns of calls; with `inference` among them it may also serve models. Default everything of the
    /// project.
    #[serde(default = "everything", deserialize_with = "patterns")]
    pub claim: Vec<String>,
    /// What it may ask the hub for: patterns of calls. Default what published bridges ask for: files, snapshots, and runs
    /// (`messageResponse`).
    #[serde(default = "bridges", deserialize_with = "any_patterns")]
    pub calls: Vec<String>,
}

/// `[[joined]]`: a hub that `hub:<name>` reaches, over its HTTP API.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Joined {
    /// The name in `hub:<name>`.
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// Where it listens, as in `http://127.0.0.1:7420`.
    pub url: String,
    /// The name of the variable that holds a token of that hub with the scope `api`.
    pub token_env: String,
    /// Its project. Default `default`.
    #[serde(default = "default_project", deserialize_with = "name")]
    pub project: String,
}

fn default_project() -> String {
    "default".to_owned()
}

/// `[[spawn]]`: a process that the hub starts, and starts again when it ends; it connects on `/plugin` with a token of its
/// own, which it gets in `pluginToken`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Spawn {
    /// Its `pluginId`, and the name in `connection:<name>`.
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// Its command line, run in the project folder; no shell reads it.
    #[serde(deserialize_with = "command_line")]
    pub command: CommandLine,
    /// More variables for it; nothing of the hub's own environment is passed on. Default none.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// What it may claim: patterns of calls; with `inference` among them it may also serve models. Default everything of the
    /// project.
    #[serde(default = "everything", deserialize_with = "patterns")]
    pub claim: Vec<String>,
    /// What it may ask the hub for: patterns of calls. Default as for `[[connection]]`.
    #[serde(default = "bridges", deserialize_with = "any_patterns")]
    pub calls: Vec<String>,
    /// Time that it has to stop when it is told to, and again to end before it is killed. Default 5 s.
    #[serde(default = "five_seconds", with = "duration")]
    pub grace: Duration,
}

fn five_seconds() -> Duration {
    Duration::from_secs(5)
}

/// What published bridges ask the hub for.
pub(crate) fn bridges() -> Vec<String> {
    ["fsEvent", "narrative", "messageResponse"].map(str::to_owned).into()
}

fn everything() -> Vec<String> {
    vec!["*".to_owned()]
}

/// `[[route]]`: one rule. All conditions that are given must hold.
///
/// Conditions on the message (`path`, `host`, `model`, `command`) look at what the call names. A rule that refuses or asks
/// about a `path` also holds for files that the built-in `fsEvent` meets on its way: what may not be read is left out of a
/// search, what may not be listed out of a listing, and a folder with such a file in it is not removed. When a message names several paths, all of them
/// must fit, but one is enough for a rule that refuses or asks: adding a path never gets a call past such a rule.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Route {
    /// The line it stands on.
    #[serde(skip)]
    pub line: usize,
    /// The calls: `kind`, `kind:*`, `kind:action` or `*`; one or a list. As all conditions: one that fits is enough.
    #[serde(rename = "match", deserialize_with = "patterns")]
    pub calls: Vec<String>,
    /// Who asks: globs over `<kind>:<id>`, as in `agent:*`.
    #[serde(default, deserialize_with = "word_globs")]
    pub principal: Globs,
    /// The environment: globs over its id; `none` for calls outside one.
    #[serde(default, deserialize_with = "word_globs")]
    pub environment: Globs,
    /// Labels that the environment must carry.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The file: globs over the canonical workspace path. `src/*` is one level, `src/**` the folder and all below.
    #[serde(default, deserialize_with = "path_globs")]
    pub path: Globs,
    /// The host of a URL in the message: globs.
    #[serde(default, deserialize_with = "host_globs")]
    pub host: Globs,
    /// The model that an inference names: globs.
    #[serde(default, deserialize_with = "word_globs")]
    pub model: Globs,
    /// The whole command line of a terminal call: globs. No wall: `git *` also fits `git log; reboot`.
    #[serde(default, deserialize_with = "word_globs")]
    pub command: Globs,
    /// Who executes. `ask` is followed by who executes then, in `fallback`.
    pub to: Target,
    /// Who is asked next when a target is unavailable, in order.
    #[serde(default)]
    pub fallback: Vec<Target>,
    /// The time limit of calls under this rule.
    #[serde(default, with = "duration_option")]
    pub timeout: Option<Duration>,
    /// The effect class of calls under this rule; the operator's word.
    #[serde(default)]
    pub effect: Option<Effect>,
    /// Whether a call falls to `local` when every target is unavailable. Default no: it fails closed.
    #[serde(default)]
    pub open: bool,
    /// A plugin that gets a copy of each read under this rule, as `plugin:<id>`. Its answers are compared with those that the
    /// callers got (`waypost plugin shadow <id>`), and nobody else sees them. Calls of another effect class are not copied.
    #[serde(default, deserialize_with = "shadowing::plugin")]
    pub shadow: Option<Arc<str>>,
    /// The share of these reads that it gets: above 0 and at most 1. Default 1.
    #[serde(default)]
    pub sample: Option<Share>,
}
