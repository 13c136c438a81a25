//! What every trial stands on: a project folder, plugins from guests, and a hub that is open in this process.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use waypost::call::{Call, Dispatch, Json, Reply, Sink};
use waypost::capabilities::chat::{Answer, Question};
use waypost::config::{Config, Grants, Wall};
use waypost::error::Error;
use waypost::hub::Hub;
use waypost::imports::http::{Resolver, SystemResolver};
use waypost::log::{Cursor, Event};
use waypost::plugin::{Origin, Source, section};
use waypost::tokens::NewToken;
use waypost::transports;

pub mod binary;
pub mod carrier;
pub mod component;
pub mod endpoint;
pub mod guests;
pub mod models;
pub mod outside;
pub mod peer;
pub mod process;
pub mod server;
pub mod socket;

/// A trial that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lists the trials of a module: the name of each is the module and the function.
#[macro_export]
macro_rules! listed {
    ($($name:ident),+ $(,)?) => {
        pub fn trials() -> Vec<libtest_mimic::Trial> {
            vec![$($crate::harness::trial(concat!(module_path!(), "::", stringify!($name)), $name)),+]
        }
    };
}

/// A trial of an async function that panics when it fails, on a runtime of its own.
pub fn trial<F>(name: &str, function: impl FnOnce() -> F + Send + 'static) -> Trial
where
    F: Future<Output = ()>,
{
    let name = name.strip_prefix("all::").unwrap_or(name).to_owned();
    Trial::test(name, move || within(async { function().await }))
}

/// Runs a trial on a runtime of its own, as long as patience lasts.
pub fn within(test: impl Future<Output = ()>) -> Result<(), Failed> {
    within_time(PATIENCE, test)
}

/// The same with a patience of its own.
pub fn within_time(patience: Duration, test: impl Future<Output = ()>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async { tokio::time::timeout(patience, test).await });
    runtime.shutdown_background();
    ended.map_err(|_| Failed::from(format!("it did not end within {patience:?}")))
}

/// A plugin to be installed in a project: a component, its manifest, and what the operator says of it.
#[derive(Clone)]
pub struct Plugin {
    id: String,
    bytes: Vec<u8>,
    role: &'static str,
    serves: Vec<String>,
    /// What stands beside the role in its manifest.
    top: String,
    asked: String,
    granted: String,
    limits: String,
    wall: &'static str,
    routed: bool,
}

impl Plugin {
    /// The handler that is a guest: its id is the guest's name, with which its only kind is called.
    pub fn of(guest: &str) -> Self {
        Self::made_of(&guest.replace('_', "-"), guests::bytes(guest))
    }

    /// A handler made of these bytes.
    pub fn made_of(id: &str, bytes: Vec<u8>) -> Self {
        Self {
            id: id.to_owned(),
            bytes,
            role: "handler",
            serves: vec![id.to_owned()],
            top: String::new(),
            asked: String::new(),
            granted: String::new(),
            limits: String::new(),
            wall: "in-process",
            routed: true,
        }
    }

    /// Under another id, with which its only kind is then called.
    pub fn named(self, id: &str) -> Self {
        Self {
            id: id.to_owned(),
            ..self
        }
        .serves(&[id])
    }

    /// Executing these calls.
    pub fn serves(self, patterns: &[&str]) -> Self {
        Self {
            serves: patterns.iter().map(|&pattern| pattern.to_owned()).collect(),
            ..self
        }
    }

    /// Of another role.
    pub fn role(self, role: &'static str) -> Self {
        Self {
            role,
            routed: false,
            serves: Vec::new(),
            ..self
        }
    }

    /// Claiming these of them.
    pub fn claims(self, patterns: &[&str]) -> Self {
        Self {
            top: format!("claims = {patterns:?}\n"),
            ..self
        }
    }

    /// Wanting to hear of calls.
    pub fn subscribes(self) -> Self {
        Self {
            top: "subscribes = true\n".to_owned(),
            ..self
        }
    }

    /// Asking for these grants, and getting them: fields of an inline table, as in `state = true`.
    pub fn grants(self, fields: &str) -> Self {
        self.asks(fields).granted(fields)
    }

    /// Asking for these grants.
    pub fn asks(self, fields: &str) -> Self {
        Self {
            asked: fields.to_owned(),
            ..self
        }
    }

    /// Getting these grants.
    pub fn granted(self, fields: &str) -> Self {
        Self {
            granted: fields.to_owned(),
            ..self
        }
    }

    /// With these limits in its manifest: fields of an inline table.
    pub fn limits(self, fields: &str) -> Self {
        Self {
            limits: fields.to_owned(),
            ..self
        }
    }

    /// Behind this wall.
    pub fn wall(self, wall: &'static str) -> Self {
        Self { wall, ..self }
    }

    /// Without a route of its own.
    pub fn unrouted(self) -> Self {
        Self { routed: false, ..self }
    }

    /// Its manifest.
    pub fn manifest(&self) -> String {
        let Self {
            id,
            role,
            serves,
            top,
            asked,
            limits,
            ..
        } = self;
        let serves = if serves.is_empty() {
            String::new()
        } else {
            format!("serves = {serves:?}\n")
        };
        format!(
            "id = {id:?}\nversion = \"1\"\nrole = {role:?}\n{serves}{top}grants = {{ {asked} }}\nlimits = {{ {limits} }}\n"
        )
    }

    /// Its files, in a project folder.
    pub fn write(&self, root: &Path) -> PathBuf {
        let folder = root.join("plugins");
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join(format!("{}.wasm", self.id));
        std::fs::write(file.with_extension("toml"), self.manifest()).unwrap();
        std::fs::write(&file, &self.bytes).unwrap();
        file
    }

    /// It as one file, as a stranger gives it away: a component with its manifest inside.
    pub fn single(&self, version: &str) -> Vec<u8> {
        let manifest = self
            .manifest()
            .replace("version = \"1\"", &format!("version = {version:?}"));
        section::write(&self.id, &self.bytes, &manifest).unwrap()
    }

    /// What the operator writes into `waypost.toml`.
    fn entry(&self) -> String {
        let Self {
            id,
            wall,
            granted,
            serves,
            ..
        } = self;
        let mut entry = format!("[[plugin]]\npath = \"plugins/{id}.wasm\"\nwall = {wall:?}\ngrant = {{ {granted} }}\n");
        if self.routed {
            entry.push_str(&format!("[[route]]\nmatch = {serves:?}\nto = \"plugin:{id}\"\n"));
        }
        entry
    }
}

/// A project folder in the making.
pub struct Project {
    folder: TempDir,
    toml: String,
    variables: Vec<(String, String)>,
    own_cache: bool,
    resolver: Arc<dyn Resolver>,
}

impl Project {
    /// An empty folder.
    pub fn new() -> Self {
        let folder = TempDir::with_prefix("waypost-trial-").unwrap();
        Self {
            folder,
            toml: String::new(),
            variables: Vec::new(),
            own_cache: false,
            resolver: Arc::new(SystemResolver::default()),
        }
    }

    /// With this at the end of `waypost.toml`.
    pub fn toml(mut self, text: &str) -> Self {
        self.toml.push_str(text);
        self.toml.push('\n');
        self
    }

    /// With this plugin, and a route to it behind those that are there.
    pub fn plugin(self, plugin: &Plugin) -> Self {
        plugin.write(self.root());
        self.toml(&plugin.entry())
    }

    /// With this file.
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let file = self.root().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content).unwrap();
        self
    }

    /// With this variable in the hub's environment, which is empty otherwise.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Where names lead plugins where this one says.
    pub fn resolver(self, resolver: Arc<dyn Resolver>) -> Self {
        Self { resolver, ..self }
    }

    /// With a compile cache that is empty.
    pub fn own_cache(self) -> Self {
        Self {
            own_cache: true,
            ..self
        }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    /// Writes `waypost.toml`, as `open` does, for a hub in another process.
    pub fn write(&self) {
        std::fs::write(self.root().join("waypost.toml"), &self.toml).unwrap();
        let cache = self.root().join(".waypost/cache");
        if !self.own_cache && !cache.exists() {
            std::fs::create_dir_all(cache.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(guests::cache(), cache).unwrap();
        }
    }

    /// Opens its hub, or says why not.
    pub async fn try_open(&self) -> Result<Arc<Hub>, Error> {
        self.write();
        let mut config = Config::read(&self.root().join("waypost.toml"))?;
        // This process is not the binary that a worker is.
        config.worker.program.get_or_insert_with(binary::path);
        let variable = |wanted: &str| {
            let found = self.variables.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.clone())
        };
        Hub::open_among(self.root(), config, &variable, Arc::clone(&self.resolver)).await
    }

    /// Opens its hub.
    pub async fn open(self) -> Open {
        let hub = self
            .try_open()
            .await
            .unwrap_or_else(|error| panic!("{}", error.chain()));
        Open { hub, project: self }
    }
}

/// A project whose hub is open.
pub struct Open {
    /// The hub.
    pub hub: Arc<Hub>,
    project: Project,
}

impl Open {
    /// The project folder.
    pub fn root(&self) -> &Path {
        self.project.root()
    }

    /// Loads a plugin, or replaces it, as if it stood in `waypost.toml`: with all that it asks for, and no route.
    pub async fn load(&self, plugin: &Plugin) {
        let file = plugin.write(self.root());
        let source = Source::read(&file, Wall::InProcess, Grants::default(), usize::MAX).unwrap();
        let origin = Origin::Installed {
            path: file,
            wall: Wall::InProcess,
            grant: source.manifest.asks(),
        };
        self.hub.plugins.load(Source { origin, ..source }).unwrap();
        self.hub.carriers.settle().await;
    }

    /// A call of a person.
    pub async fn prepared(&self, name: &str, message: Value) -> Call {
        let message = Json::parse(message.to_string()).unwrap();
        self.hub
            .person_call("cli", name.parse().unwrap(), message, None)
            .await
            .unwrap()
    }

    /// Makes a call to its end.
    pub async fn call(&self, name: &str, message: Value) -> Reply {
        let call = self.prepared(name, message).await;
        self.hub.dispatcher.dispatch(call, Sink::discard()).await
    }

    /// Begins a call, as a task of its own.
    pub async fn begin(&self, name: &str, message: Value) -> JoinHandle<Reply> {
        let call = self.prepared(name, message).await;
        self.carry(call, Sink::discard())
    }

    /// Carries a call to its end, in a task of its own.
    pub fn carry(&self, call: Call, sink: Sink) -> JoinHandle<Reply> {
        let dispatcher = Arc::clone(&self.hub.dispatcher);
        tokio::spawn(async move { dispatcher.dispatch(call, sink).await })
    }

    /// The reply of a call that succeeds.
    pub async fn reply(&self, name: &str, message: Value) -> Value {
        match self.call(name, message).await.result {
            Ok(reply) => reply.to().unwrap(),
            Err(error) => panic!("{name}: {error}"),
        }
    }

    /// Makes a call, and gives its chunks as they came and then its result.
    pub async fn streamed(&self, name: &str, message: Value) -> (Vec<Value>, Value) {
        let (sink, mut reader) = Sink::channel();
        let ended = self.carry(self.prepared(name, message).await, sink);
        let mut chunks = Vec::new();
        while let Some(chunk) = reader.recv().await {
            chunks.push(chunk.to().unwrap());
        }
        (chunks, ended.await.unwrap().result.unwrap().to().unwrap())
    }

    /// The error of a call that fails, as `<kind>: <text>`.
    pub async fn error(&self, name: &str, message: Value) -> String {
        match self.call(name, message).await.result {
            Ok(reply) => panic!("{name} succeeded: {reply:?}"),
            Err(error) => self.normal(&error.to_string()),
        }
    }

    /// A text with the project folder as `<project>`.
    pub fn normal(&self, text: &str) -> String {
        normal(self.root(), text)
    }

    /// All events so far.
    pub async fn events(&self) -> Vec<Event> {
        self.hub.log.feed(Cursor::default(), 10_000).await.unwrap()
    }

    /// Makes a token that holds for an hour.
    pub async fn token(&self, name: &str, scopes: &[&str]) -> String {
        let new = NewToken {
            name: name.to_owned(),
            scopes: scopes.iter().map(|scope| scope.parse().unwrap()).collect(),
            expires: Duration::from_secs(3600),
        };
        self.hub.tokens.create(new, "person:cli").await.unwrap().0
    }

    /// The first event that fits, waiting for it.
    pub async fn event(&self, fits: impl Fn(&Event) -> bool) -> Event {
        let mut tip = self.hub.log.tip();
        loop {
            tip.borrow_and_update();
            if let Some(event) = self.events().await.into_iter().find(|event| fits(event)) {
                return event;
            }
            tip.changed().await.unwrap();
        }
    }

    /// The open questions, as soon as there are so many.
    pub async fn questions(&self, count: usize) -> Vec<Question> {
        let mut changes = self.hub.desk.changes();
        loop {
            changes.borrow_and_update();
            let open = self.hub.desk.open();
            if open.len() == count {
                return open;
            }
            changes.changed().await.unwrap();
        }
    }

    /// The oldest open question, waiting for one.
    pub async fn some_question(&self) -> Question {
        let mut changes = self.hub.desk.changes();
        loop {
            changes.borrow_and_update();
            if let Some(question) = self.hub.desk.open().into_iter().next() {
                return question;
            }
            changes.changed().await.unwrap();
        }
    }

    /// Answers the one question that is open, as soon as it is.
    pub async fn answer(&self, word: &str) {
        let question = self.questions(1).await.remove(0);
        self.hub.desk.answer(question.id, Answer::plain(word)).unwrap();
    }

    /// Serves the hub on a port of its own, as `waypost serve` does.
    pub async fn serve(&self) -> Served {
        self.serve_at(([127, 0, 0, 1], 0).into()).await
    }

    /// The same at an address that the trial has chosen.
    pub async fn serve_at(&self, address: SocketAddr) -> Served {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = transports::router(&self.hub, &address.to_string(), "token of the API").unwrap();
        let serving =
            tokio::spawn(async move { drop(transports::serve(listener, router, std::future::pending()).await) });
        Served { address, serving }
    }

    /// Closes the hub in order and opens it again.
    pub async fn reopen(self) -> Self {
        let Self { hub, project } = self;
        hub.close().await;
        drop(hub);
        project.open().await
    }

    /// Closes the hub in order; the folder stays.
    pub async fn close(self) -> Project {
        self.hub.close().await;
        self.project
    }
}

/// A hub that is served, until this is dropped.
pub struct Served {
    /// Where.
    pub address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Makes a pipe with a name.
pub fn fifo(path: impl AsRef<Path>) {
    let made = std::process::Command::new("mkfifo").arg(path.as_ref()).status();
    assert!(made.unwrap().success());
}

/// A text with a project folder as `<project>`.
pub fn normal(root: &Path, text: &str) -> String {
    let real = root.canonicalize().unwrap();
    text.replace(&*real.to_string_lossy(), "<project>")
        .replace(&*root.to_string_lossy(), "<project>")
}
