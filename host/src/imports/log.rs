//! `waypost:log`: a plugin's own lines, bounded, with control characters made visible.
//!
//! Standard output and standard error end here too. Lines go to the hub's tracing output and to a short memory that
//! `waypost plugin logs` reads; not to the event log, which holds facts of the hub.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use serde::{Deserialize, Serialize};
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};

use super::bindings::waypost::log::log;
use super::{CallState, Carrier};
use crate::text::visible;

/// Lines kept for each plugin.
const KEPT: usize = 500;

/// The longest line of standard output; a longer one is broken.
const LINE: usize = 4096;

/// More than the mark takes that stands where a call's log was cut.
pub(crate) const MARK: usize = 256;

/// How loud a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Level {
    /// For the author alone.
    Debug,
    /// What happens.
    Info,
    /// What somebody should look at.
    Warn,
    /// What went wrong.
    Error,
    /// A line of standard output or standard error.
    Output,
}

impl Level {
    /// The word in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Output => "output",
        }
    }
}

/// What plugins said lately, by plugin id.
#[derive(Debug, Default)]
pub struct PluginLog {
    lines: Mutex<BTreeMap<Arc<str>, VecDeque<Line>>>,
}

/// One line of a plugin.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// `debug`, `info`, `warn`, `error`, or `output` for standard output and error.
    pub level: &'static str,
    /// The text, control characters escaped.
    pub text: String,
}

impl PluginLog {
    /// The kept lines of a plugin, oldest first.
    pub fn lines(&self, plugin: &str) -> Vec<Line> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines
            .get(plugin)
            .map(|lines| lines.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// Keeps a line.
    pub(crate) fn add(&self, plugin: &Arc<str>, level: &'static str, text: &str) {
        let text = visible(text);
        tracing::info!(target: "waypost::plugin", plugin = &**plugin, level, "{text}");
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = lines.entry(Arc::clone(plugin)).or_default();
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back(Line { level, text });
    }
}

/// What one call may still write.
#[derive(Clone, Debug)]
pub(super) struct CallLog(Arc<Mutex<Budget>>);

#[derive(Debug)]
struct Budget {
    left: usize,
    most: usize,
    /// A line of standard output that has no end yet.
    partial: Vec<u8>,
}

impl CallLog {
    pub(super) fn new(most: usize) -> Self {
        Self(Arc::new(Mutex::new(Budget {
            left: most,
            most,
            partial: Vec::new(),
        })))
    }

    /// Takes what fits of a text; the first that does not fit leaves a mark.
    fn write(&self, to: &dyn Fn(Level, &str), level: Level, text: &str) {
        let mut budget = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        budget.line(to, level, text);
    }

    /// The call has ended: what was printed without an end of line is a line, and nothing comes after it. Its standard output
    /// is written by a task of its own, which may not have noticed yet.
    fn end(&self, to: &dyn Fn(Level, &str)) {
        let mut budget = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        budget.flush(to);
        budget.left = 0;
    }

    fn output(&self, to: &dyn Fn(Level, &str), bytes: &[u8]) {
        let mut budget = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for &byte in bytes {
            // Nothing more fits: whatever else comes costs nothing.
            if budget.left == 0 {
                return;
            }
            if byte == b'\n' || budget.partial.len() > budget.left.min(LINE) {
                budget.flush(to);
            }
            if byte != b'\n' {
                budget.partial.push(byte);
            }
        }
    }
}

impl Budget {
    fn line(&mut self, to: &dyn Fn(Level, &str), level: Level, text: &str) {
        if self.left == 0 {
            return;
        }
        if text.len() < self.left {
            self.left -= text.len().max(1);
            to(level, text);
            return;
        }
        let cut = (0..=self.left).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        to(level, text.get(..cut).unwrap_or_default());
        let mark = format!(
            "[the rest of this call's log is dropped: {} bytes is the limit `log` of [limits.plugin]]",
            self.most
        );
        to(Level::Warn, &mark);
        self.left = 0;
    }

    fn flush(&mut self, to: &dyn Fn(Level, &str)) {
        if !self.partial.is_empty() {
            let line = std::mem::take(&mut self.partial);
            self.line(to, Level::Output, &String::from_utf8_lossy(&line));
        }
    }
}

impl log::Host for CallState {
    async fn log(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        let level = match level {
            log::Level::Debug => Level::Debug,
            log::Level::Info => Level::Info,
            log::Level::Warn => Level::Warn,
            log::Level::Error => Level::Error,
        };
        let carrier = &self.carrier;
        self.log.write(&|level, text| carrier.say(level, text), level, &message);
        Ok(())
    }
}

/// Standard output or standard error of one call.
#[derive(Clone)]
pub(super) struct Output {
    log: CallLog,
    carrier: Carrier,
}

impl CallState {
    pub(super) fn output(&self) -> Output {
        Output {
            log: self.log.clone(),
            carrier: self.carrier.clone(),
        }
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.log.output(&|level, text| self.carrier.say(level, text), bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for CallState {
    fn drop(&mut self) {
        self.log.end(&|level, text| self.carrier.say(level, text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(log: &PluginLog) -> Vec<String> {
        log.lines("p").into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn a_flood_is_cut_once_with_a_mark() {
        let (log, plugin) = (PluginLog::default(), Arc::from("p"));
        let to = |level: Level, text: &str| log.add(&plugin, level.as_str(), text);
        let call = CallLog::new(10);
        call.write(&to, Level::Info, "12345");
        call.output(&to, b"6789\nabcdefgh\nnever\n");
        call.write(&to, Level::Info, "never");
        let mark = "[the rest of this call's log is dropped: 10 bytes is the limit `log` of [limits.plugin]]";
        assert_eq!(texts(&log), ["12345", "6789", "a", mark]);
    }

    #[test]
    fn nothing_is_said_after_the_end_of_the_call() {
        let (log, plugin) = (PluginLog::default(), Arc::from("p"));
        let to = |level: Level, text: &str| log.add(&plugin, level.as_str(), text);
        let call = CallLog::new(100);
        call.output(&to, b"line\nno end of line");
        call.end(&to);
        call.output(&to, b"late\nlater\n");
        call.write(&to, Level::Info, "late");
        assert_eq!(texts(&log), ["line", "no end of line"]);
    }

    proptest! {
        #[test]
        fn what_is_kept_is_bounded(most in 1usize..200, writes in proptest::collection::vec(".{0,40}", 0..30)) {
            let (log, plugin) = (PluginLog::default(), Arc::from("p"));
            let to = |level: Level, text: &str| log.add(&plugin, level.as_str(), text);
            let call = CallLog::new(most);
            for text in &writes {
                call.write(&to, Level::Info, text);
            }
            let kept: usize = log.lines("p").iter().filter(|line| !line.text.starts_with('[')).count();
            prop_assert!(kept <= most + 1);
        }
    }
}
