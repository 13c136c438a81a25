//! The rules of a running hub: read from two files, read again when they change.
//!
//! A broken file never takes effect and never takes away what held before. A `waypost.toml` that disappears while the
//! hub runs counts as broken, since rules that refuse must not vanish by a slip; an empty one says that there are none.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use serde::Serialize;

use super::proxy_execution::{self, ProxyExecution};
use super::{Table, Watching, watch};
use crate::config::{self, Config, Problem, describe};
use crate::error::{Blame, Error, ErrorKind, Result};

/// The largest rule file that is read, in bytes.
pub const FILE_BYTES: u64 = 4 << 20;

/// Something to know about a rule file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `waypost.toml` or `proxyExecution.json`.
    pub file: &'static str,
    /// The line, from 1.
    pub line: usize,
    /// Names the thing and the remedy.
    pub message: String,
    /// Whether the file takes no effect because of it; otherwise it is a warning.
    pub broken: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

/// What became of looking at the files again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// New rules hold.
    Changed,
    /// The rules are what they were.
    Unchanged,
    /// A file is broken, and what it said before still holds; a change of the other file has been taken over.
    Broken(String),
}

/// The rules that hold now, and where they come from.
#[derive(Debug)]
pub struct Routes {
    root: PathBuf,
    table: ArcSwap<Table>,
    config: ArcSwap<Config>,
    findings: ArcSwap<Vec<Finding>>,
    /// What the files said when they were last good. Held while the files are read, so that one reload follows another.
    good: Mutex<Good>,
}

/// Two files as they were when they were last good.
#[derive(Debug, Default)]
struct Good {
    /// The text of `waypost.toml`; none when there was no file.
    rules: Option<String>,
    /// The text of `proxyExecution.json`; none when there was no file.
    proxy_text: Option<String>,
    proxy: Option<ProxyExecution>,
    warnings: Vec<Problem>,
}

impl Routes {
    /// Reads both files of a project folder. A broken `waypost.toml` is an error that names every problem; a broken
    /// `proxyExecution.json` is a finding, and everything that it could have said is local.
    pub fn load(project_root: &Path) -> Result<Self> {
        let root = project_root.canonicalize().map_err(|error| {
            let message = format!("the project folder {} cannot be opened", project_root.display());
            Error::new(ErrorKind::NotFound, message).because(error)
        })?;
        let rules = read(&root.join(config::FILE)).map_err(broken_rules)?;
        let config = config::load(rules.as_deref().unwrap_or_default()).map_err(broken_rules)?;
        let mut good = Good {
            rules,
            ..Good::default()
        };
        let mut findings = Vec::new();
        if let Err(problem) = good.read_proxy(&root) {
            findings.push(problem.breaks(proxy_execution::FILE));
        }
        findings.extend(good.warned());
        let table = Table::new(config.routes.clone(), good.proxy.clone());
        Ok(Self {
            root,
            table: ArcSwap::from_pointee(table),
            config: ArcSwap::from_pointee(config),
            findings: ArcSwap::from_pointee(findings),
            good: Mutex::new(good),
        })
    }

    /// The rules that hold now. Keep the guard for one decision, not for a run.
    pub fn current(&self) -> Guard<Arc<Table>> {
        self.table.load()
    }

    /// All of `waypost.toml` as it was last good. A change of it changes the rules by itself, and nothing else.
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// The problems and warnings of the last look at the files.
    pub fn findings(&self) -> Arc<Vec<Finding>> {
        self.findings.load_full()
    }

    /// Looks at both files again. Reads files: not for a thread that must not block.
    pub fn reload(&self) -> Reloaded {
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        let mut broken = Vec::new();
        let mut findings = Vec::new();
        let mut changed = false;
        match self.read_rules(&mut good) {
            Ok(None) => {}
            Ok(Some(config)) => {
                self.config.store(Arc::new(config));
                changed = true;
            }
            Err(problems) => {
                broken.push(describe(config::FILE, &problems));
                findings.extend(problems.into_iter().map(|problem| problem.breaks(config::FILE)));
            }
        }
        match good.read_proxy(&self.root) {
            Ok(new) => changed |= new,
            Err(problem) => {
                broken.push(describe(proxy_execution::FILE, std::slice::from_ref(&problem)));
                findings.push(problem.breaks(proxy_execution::FILE));
            }
        }
        findings.extend(good.warned());
        self.findings.store(Arc::new(findings));
        if changed {
            let table = Table::new(self.config.load().routes.clone(), good.proxy.clone());
            self.table.store(Arc::new(table));
        }
        match (broken.is_empty(), changed) {
            (false, _) => Reloaded::Broken(broken.join("\n")),
            (true, true) => Reloaded::Changed,
            (true, false) => Reloaded::Unchanged,
        }
    }

    /// Reads `waypost.toml`; none when it says what it said.
    fn read_rules(&self, good: &mut Good) -> Result<Option<Config>, Vec<Problem>> {
        let text = read(&self.root.join(config::FILE))?;
        if text == good.rules {
            return Ok(None);
        }
        let Some(written) = &text else {
            let message = "the file is gone, and its rules still hold; write an empty file to have none";
            return Err(vec![Problem {
                line: 1,
                message: message.to_owned(),
            }]);
        };
        let config = config::load(written)?;
        good.rules = text;
        Ok(Some(config))
    }

    /// Follows both files until the answer is dropped: after each change they are read again, and the callback is told
    /// what became of it, on a thread of its own.
    pub fn watch(routes: &Arc<Self>, callback: impl Fn(Reloaded) + Send + 'static) -> Result<Watching> {
        let told = Arc::clone(routes);
        watch::follow(&routes.root, move || callback(told.reload()))
    }
}

impl Good {
    /// Reads `proxyExecution.json`; whether it says something new. A file that is gone says nothing.
    fn read_proxy(&mut self, root: &Path) -> Result<bool, Problem> {
        let file = root.join(proxy_execution::FOLDER).join(proxy_execution::FILE);
        let text = read(&file).map_err(|mut problems| problems.swap_remove(0))?;
        if text == self.proxy_text {
            return Ok(false);
        }
        let (proxy, warnings) = match &text {
            Some(text) => ProxyExecution::parse(text).map(|(proxy, warnings)| (Some(proxy), warnings))?,
            None => (None, Vec::new()),
        };
        *self = Self {
            rules: self.rules.take(),
            proxy_text: text,
            proxy,
            warnings,
        };
        Ok(true)
    }

    fn warned(&self) -> impl Iterator<Item = Finding> {
        self.warnings
            .iter()
            .cloned()
            .map(|warning| warning.found_in(proxy_execution::FILE))
    }
}

impl Problem {
    fn breaks(self, file: &'static str) -> Finding {
        Finding {
            broken: true,
            ..self.found_in(file)
        }
    }

    fn found_in(self, file: &'static str) -> Finding {
        Finding {
            file,
            line: self.line,
            message: self.message,
            broken: false,
        }
    }
}

/// Everything there is to say about the rule files of a project folder; empty when all is well. `reads` says whether calls of
/// a pattern can be reads where no rule says so.
pub fn check(project_root: &Path, reads: fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let rules = read(&project_root.join(config::FILE));
    match rules.and_then(|text| config::load(text.as_deref().unwrap_or_default())) {
        Ok(config) => {
            let table = Table::new(config.routes, None);
            let never = table.never_winning().into_iter().chain(table.idle_shadows(reads));
            let never = never.map(|(line, message)| Problem { line, message });
            findings.extend(never.map(|problem| problem.found_in(config::FILE)));
        }
        Err(problems) => findings.extend(problems.into_iter().map(|problem| problem.breaks(config::FILE))),
    }
    let mut good = Good::default();
    if let Err(problem) = good.read_proxy(project_root) {
        findings.push(problem.breaks(proxy_execution::FILE));
    }
    findings.extend(good.warned());
    findings
}

fn broken_rules(problems: Vec<Problem>) -> Error {
    Error::new(ErrorKind::Invalid, describe(config::FILE, &problems)).blame(Blame::Operator)
}

/// Reads a rule file; none when there is no such file. There is exactly one problem in an error.
fn read(file: &Path) -> Result<Option<String>, Vec<Problem>> {
    let whole = || -> io::Result<Option<String>> {
        // Asked first: opening a pipe would wait for its other end.
        let kind = match std::fs::metadata(file) {
            Ok(metadata) => metadata.file_type(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if !kind.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let mut text = String::new();
        std::fs::File::open(file)?
            .take(FILE_BYTES + 1)
            .read_to_string(&mut text)?;
        if text.len() as u64 > FILE_BYTES {
            return Err(io::Error::other(format!("it is larger than {} MiB", FILE_BYTES >> 20)));
        }
        Ok(Some(text))
    };
    whole().map_err(|error| {
        vec![Problem {
            line: 1,
            message: format!("the file cannot be read: {error}"),
        }]
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::Calls;
    use super::*;
    use std::fs;
    use std::sync::mpsc::{Receiver, sync_channel};
    use std::time::Duration;

    fn deny(kind: &str) -> String {
        format!("[[route]]\nmatch = \"{kind}\"\nto = \"deny\"\n")
    }

    fn decided(routes: &Routes, calls: &Calls, name: &str) -> String {
        let decision = routes.current().decide(&calls.call(name, serde_json::json!({})));
        format!("{} {}", decision.attempts[0], decision.rule)
    }

    /// Routes that are being followed, and what the callback was told.
    fn followed(calls: &Calls) -> (Arc<Routes>, Watching, Receiver<Reloaded>) {
        let routes = Arc::new(Routes::load(calls.folder()).unwrap());
        let (sender, told) = sync_channel(16);
        let watching = Routes::watch(&routes, move |outcome| drop(sender.send(outcome))).unwrap();
        (routes, watching, told)
    }

    fn next(told: &Receiver<Reloaded>) -> Reloaded {
        told.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    #[test]
    fn a_broken_file_at_the_start() {
        let calls = Calls::new();
        fs::write(
            calls.folder().join("waypost.toml"),
            "[[route]]\nmatch = \"fs*\"\nto = \"lcal\"\n",
        )
        .unwrap();
        let error = Routes::load(calls.folder()).unwrap_err();
        assert_eq!((error.kind, error.blame), (ErrorKind::Invalid, Blame::Operator));
        assert_eq!(
            error.to_string(),
            "waypost.toml has 2 problems:
  line 2: `route.match`: `fs*` is not a pattern of calls; write `*`, `<kind>`, `<kind>:*` or `<kind>:<action>`
  line 3: `route.to`: `lcal` is not a target; use local, proxy, proxy-only, plugin:<id>, connection:<name>, \
             hub:<name>, deny or ask"
        );
        fs::write(calls.folder().join("waypost.toml"), deny("chat")).unwrap();
        fs::create_dir(calls.folder().join(".codebolt")).unwrap();
        fs::write(
            calls.folder().join(".codebolt/proxyExecution.json"),
            "{\n\"inference\": proxy}",
        )
        .unwrap();
        let routes = Routes::load(calls.folder()).unwrap();
        assert_eq!(decided(&routes, &calls, "inference"), "local default");
        assert_eq!(decided(&routes, &calls, "chat"), "deny waypost.toml:1");
        let findings: Vec<String> = routes.findings().iter().map(Finding::to_string).collect();
        assert_eq!(findings, ["proxyExecution.json:2: column 14: expected value"]);
    }

    #[test]
    fn a_broken_file_keeps_the_last_good_rules() {
        let calls = Calls::new();
        let (rules, folder) = (calls.folder().join("waypost.toml"), calls.folder().join(".codebolt"));
        let proxy = folder.join("proxyExecution.json");
        fs::write(&rules, deny("fsEvent")).unwrap();
        fs::create_dir(&folder).unwrap();
        fs::write(&proxy, "{\"inference\": \"proxy\"}").unwrap();
        let routes = Routes::load(calls.folder()).unwrap();
        assert_eq!(routes.reload(), Reloaded::Unchanged);

        fs::write(&rules, "\n[[route]]\nmatch = 3\n").unwrap();
        fs::write(&proxy, "{\"inference\": \"local\", \"x\": 1}").unwrap();
        let broken = Reloaded::Broken(
            "waypost.toml has 2 problems:
  line 2: `route` needs the field `to`
  line 3: `route.match`: invalid type: integer `3`, expected a pattern of calls or a list of them"
                .to_owned(),
        );
        assert_eq!(routes.reload(), broken);
        assert_eq!(
            routes.reload(),
            broken,
            "a broken file stays broken until it is corrected"
        );
        assert_eq!(decided(&routes, &calls, "fsEvent:readFile"), "deny waypost.toml:1");
        assert_eq!(
            decided(&routes, &calls, "inference"),
            "local proxyExecution.json: inference"
        );
        assert_eq!(routes.findings().len(), 3);

        fs::remove_file(&rules).unwrap();
        fs::write(&proxy, "{").unwrap();
        let expected = "waypost.toml has 1 problem:
  line 1: the file is gone, and its rules still hold; write an empty file to have none
proxyExecution.json has 1 problem:
  line 1: column 1: EOF while parsing an object";
        assert_eq!(routes.reload(), Reloaded::Broken(expected.to_owned()));
        assert_eq!(decided(&routes, &calls, "fsEvent:readFile"), "deny waypost.toml:1");
        assert_eq!(
            decided(&routes, &calls, "inference"),
            "local proxyExecution.json: inference"
        );

        fs::write(&rules, "[limits]\ncalls = 3\n").unwrap();
        fs::remove_file(&proxy).unwrap();
        assert_eq!(routes.reload(), Reloaded::Changed);
        assert_eq!(decided(&routes, &calls, "fsEvent:readFile"), "local default");
        assert_eq!((routes.config().limits.calls, routes.findings().len()), (3, 0));
    }

    #[test]
    fn files_that_are_none_or_too_large_are_refused() {
        let calls = Calls::new();
        let file = calls.folder().join("waypost.toml");
        fs::create_dir(&file).unwrap();
        let refusal = || Routes::load(calls.folder()).unwrap_err().to_string();
        let expected = "waypost.toml has 1 problem:\n  line 1: the file cannot be read: ";
        assert_eq!(refusal(), format!("{expected}it is not a regular file"));
        fs::remove_dir(&file).unwrap();
        fs::write(&file, "#".repeat(FILE_BYTES as usize + 1)).unwrap();
        assert_eq!(refusal(), format!("{expected}it is larger than 4 MiB"));
    }

    #[test]
    fn changes_are_noticed_however_they_are_written() {
        let calls = Calls::new();
        let rules = calls.folder().join("waypost.toml");
        fs::write(&rules, deny("fsEvent")).unwrap();
        let (routes, _watching, told) = followed(&calls);
        let becomes = |name: &str, expected: &str| {
            while decided(&routes, &calls, name) != expected {
                next(&told);
            }
        };

        fs::write(&rules, deny("gitEvent")).unwrap();
        becomes("gitEvent", "deny waypost.toml:1");

        let new = calls.folder().join("waypost.toml.new");
        fs::write(&new, deny("chat")).unwrap();
        fs::rename(&new, &rules).unwrap();
        becomes("chat", "deny waypost.toml:1");

        fs::rename(&rules, calls.folder().join("waypost.toml~")).unwrap();
        fs::write(&rules, deny("inference")).unwrap();
        becomes("inference", "deny waypost.toml:1");

        fs::write(&new, "to = 3").unwrap();
        fs::rename(&new, &rules).unwrap();
        let broken = "waypost.toml has 1 problem:\n  line 1: unknown field `to`; there are hub, limits, agent, files, \
                      terminal, inference, narrative, worker, plugin, secret, plugins, publisher, sockets, connection, joined, spawn, route";
        while next(&told) != Reloaded::Broken(broken.to_owned()) {}
        assert_eq!(decided(&routes, &calls, "inference"), "deny waypost.toml:1");
    }

    #[test]
    fn a_folder_that_comes_later_or_again_is_followed() {
        let calls = Calls::new();
        let folder = calls.folder().join(".codebolt");
        let (routes, _watching, told) = followed(&calls);
        let becomes = |expected: &str| {
            while decided(&routes, &calls, "inference") != expected {
                next(&told);
            }
        };
        for _ in 0..2 {
            let elsewhere = calls.folder().join("elsewhere");
            fs::create_dir(&elsewhere).unwrap();
            fs::write(elsewhere.join("proxyExecution.json"), "{\"inference\": \"proxy\"}").unwrap();
            fs::rename(&elsewhere, &folder).unwrap();
            becomes("proxy proxyExecution.json: inference");
            fs::write(folder.join("proxyExecution.json"), "{\"inference\": \"proxy-only\"}").unwrap();
            becomes("proxy-only proxyExecution.json: inference");
            fs::remove_dir_all(&folder).unwrap();
            becomes("local default");
        }
    }

    #[test]
    fn following_ends_with_its_handle() {
        let calls = Calls::new();
        let (_routes, watching, told) = followed(&calls);
        drop(watching);
        assert!(
            told.recv_timeout(Duration::from_secs(20))
                .is_err_and(|error| error.to_string().contains("closed"))
        );
    }

    #[test]
    fn check_tells_everything_at_once() {
        let calls = Calls::new();
        assert_eq!(check(calls.folder(), |_| false), []);
        let shadowed =
            "[[route]]\nmatch = \"inference\"\nprincipal = \"none:*\"\nto = \"local\"\nshadow = \"plugin:p\"\n";
        fs::write(
            calls.folder().join("waypost.toml"),
            shadowed.to_owned() + &deny("*") + &deny("chat"),
        )
        .unwrap();
        fs::create_dir(calls.folder().join(".codebolt")).unwrap();
        fs::write(
            calls.folder().join(".codebolt/proxyExecution.json"),
            "{\"chat\": \"remote\"}",
        )
        .unwrap();
        let told: Vec<String> = check(calls.folder(), |_| false)
            .iter()
            .map(Finding::to_string)
            .collect();
        assert_eq!(
            told,
            [
                "waypost.toml:9: this rule can never win: all of its calls are covered above, without any condition, by \
                 the rule of line 6; move it up or remove it",
                "waypost.toml:1: the shadow plugin:p never gets anything: no call under this rule counts as a read; if they \
                 are, add effect = \"read\" to the rule",
                "proxyExecution.json:1: `chat` is \\\"remote\\\", which is neither local nor proxy; it is taken as local",
            ]
        );
    }
}
