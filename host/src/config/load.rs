//! Reading a TOML text so that every problem is reported at once, each with its line.
//!
//! The text is read into its types; what is refused is noted, cut out, and the rest is read again. So the types alone
//! say what is right, and there is no second description of the format that could fall behind them.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::{Config, Route};
use crate::call::Target;
use crate::error::{Blame, Error, ErrorKind, Result};

/// How many problems of one text are reported.
pub const PROBLEMS: usize = 50;

/// The fields of each section that have no default. A reader of types stops at the first that is missing; with these it
/// need not. A field that is not here is missed all the same, but alone.
const REQUIRED: &[(&str, &str)] = &[
    ("plugin", "path"),
    ("plugin", "wall"),
    ("secret", "name"),
    ("secret", "for"),
    ("connection", "name"),
    ("connection", "token-sha256"),
    ("publisher", "name"),
    ("publisher", "key"),
    ("joined", "name"),
    ("joined", "url"),
    ("joined", "token-env"),
    ("spawn", "name"),
    ("spawn", "command"),
    ("route", "match"),
    ("route", "to"),
];

/// One thing that is wrong in a text.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// Names the thing and the remedy.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

/// The problems of one file as one readable text.
pub fn describe(file: &str, problems: &[impl fmt::Display]) -> String {
    let plural = if problems.len() == 1 { "" } else { "s" };
    let mut text = format!("{file} has {} problem{plural}:", problems.len());
    for problem in problems {
        text.push_str(&format!("\n  {problem}"));
    }
    text
}

/// Reads any TOML text into its type, or reports every problem in the order of lines.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Vec<Problem>> {
    match Reading::of(text) {
        Reading {
            value: Some(value),
            problems,
            ..
        } if problems.is_empty() => Ok(value),
        reading => Err(reading.sorted()),
    }
}

/// Reads `waypost.toml`, or reports every problem in the order of lines.
pub fn load(text: &str) -> Result<Config, Vec<Problem>> {
    let mut reading: Reading<'_, Config> = Reading::of(text);
    let lines = Lines::of(text);
    if let Some(mut config) = reading.value.take() {
        let line = |section: &str, position: usize| {
            let entry = reading
                .root
                .get()
                .get(section)
                .and_then(|list| list.get_ref().get(position));
            lines.at(entry.map_or(0, |entry| entry.span().start))
        };
        let mut problems = Vec::new();
        if reading.problems.is_empty() {
            problems.extend(super::grants::problems(&config, &line));
            let worker = reading.root.get().get("worker");
            problems.extend(config.worker.problem(&config.limits).map(|message| Problem {
                line: lines.at(worker.map_or(0, |worker| worker.span().start)),
                message,
            }));
        }
        let mut names = HashSet::new();
        let connections = config.connections.iter().map(|connection| &connection.name).enumerate();
        let spawns = config.spawns.iter().map(|spawn| &spawn.name).enumerate();
        let connections = connections.map(|(position, name)| ("connection", position, name, "[[connection]]"));
        let spawns = spawns.map(|(position, name)| ("spawn", position, name, "[[connection]] or [[spawn]]"));
        let publishers = config.publishers.iter().map(|publisher| &publisher.name).enumerate();
        let publishers = publishers.map(|(position, name)| ("publisher", position, name, "[[publisher]]"));
        for (section, position, name, sections) in connections.chain(spawns).chain(publishers) {
            if !names.insert((section == "publisher", name.as_str())) {
                problems.push(Problem {
                    line: line(section, position),
                    message: format!("a {sections} above is named `{name}` too; names are unique"),
                });
            }
        }
        for (position, route) in config.routes.iter_mut().enumerate() {
            route.line = line("route", position);
            let next = reading.sections.iter().filter(|line| **line > route.line).min();
            let rule = |line| line >= route.line && next.is_none_or(|next| line < *next);
            // What was cut out of a rule is not missed here once more.
            if !reading.problems.iter().any(|problem| rule(problem.line)) {
                let found = order(route).into_iter().chain(super::shadowing::problem(route));
                problems.extend(found.map(|message| Problem {
                    line: route.line,
                    message,
                }));
            }
        }
        reading.problems.extend(problems);
        if reading.problems.is_empty() {
            return Ok(config);
        }
    }
    Err(reading.sorted())
}

impl Config {
    /// Reads the file; a missing one is the default configuration. The error names every problem and its line.
    pub fn read(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => {
                let message = format!("{} cannot be read: make it a readable UTF-8 file", path.display());
                return Err(Error::new(ErrorKind::Invalid, message)
                    .blame(Blame::Operator)
                    .because(error));
            }
        };
        let file = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        load(&text)
            .map_err(|problems| Error::new(ErrorKind::Invalid, describe(&file, &problems)).blame(Blame::Operator))
    }
}

/// What is wrong with the order of a rule's targets.
fn order(route: &Route) -> Option<String> {
    let after_deny = route.to == Target::Deny && (!route.fallback.is_empty() || route.open);
    if after_deny
        || route
            .fallback
            .iter()
            .rev()
            .skip(1)
            .any(|target| *target == Target::Deny)
    {
        return Some("nothing comes after `deny`; remove what follows it in `fallback`, and `open`".to_owned());
    }
    if *route.fallback.last().unwrap_or(&route.to) == Target::Ask {
        return Some(
            "`ask` needs the target that executes once a person approves; write it next, as in fallback = [\"local\"]"
                .to_owned(),
        );
    }
    None
}

/// A text that is being read: what is still in it, and what was refused so far.
struct Reading<'t, T> {
    root: Root<'t>,
    /// The line at which each section begins, also of those that are cut out.
    sections: Vec<usize>,
    value: Option<T>,
    problems: Vec<Problem>,
}

/// The tree of a text. A newtype, since an unreadable text has none.
struct Root<'t>(Spanned<DeValue<'t>>);

impl<'t> Root<'t> {
    fn get(&self) -> &DeValue<'t> {
        self.0.get_ref()
    }
}

impl<'t, T: Deserialize<'t>> Reading<'t, T> {
    fn of(text: &'t str) -> Self {
        let none = || Root(Spanned::new(0..0, DeValue::Table(DeTable::new())));
        let lines = Lines::of(text);
        let table = match DeTable::parse(text) {
            Ok(table) => table,
            Err(error) => {
                let line = lines.at(error.span().unwrap_or_default().start);
                let problem = Problem {
                    line,
                    message: error.message().to_owned(),
                };
                return Self {
                    root: none(),
                    sections: vec![],
                    value: None,
                    problems: vec![problem],
                };
            }
        };
        let span = table.span();
        let sections = table.get_ref().values().flat_map(|value| match value.get_ref() {
            DeValue::Array(list) => list.iter().map(|entry| entry.span().start).collect(),
            _ => vec![value.span().start],
        });
        let sections = sections.map(|start| lines.at(start)).collect();
        let mut reading = Self {
            sections,
            root: Root(Spanned::new(span, DeValue::Table(table.into_inner()))),
            value: None,
            problems: vec![],
        };
        reading.read(&lines);
        reading
    }

    fn read(&mut self, lines: &Lines) {
        // What was cut out of which table or list, so that its absence is not reported as a second problem.
        let mut torn = HashSet::new();
        while self.problems.len() < PROBLEMS {
            let error = match T::deserialize(ValueDeserializer::from(self.root.0.clone())) {
                Ok(value) => {
                    self.value = Some(value);
                    return;
                }
                Err(error) => error,
            };
            let span = error.span().unwrap_or_default();
            let line = lines.at(span.start);
            let Some(cut) = cut_out(&mut self.root.0, &span) else {
                self.problems.push(Problem {
                    line,
                    message: error.message().to_owned(),
                });
                return;
            };
            let untold = |field: &str| !torn.contains(&(span.start, field.to_owned()));
            if let Some(field) = missing(error.message()) {
                let more = REQUIRED
                    .iter()
                    .filter(|(section, _)| *section == cut.path())
                    .map(|(_, field)| *field);
                let more = more.filter(|other| *other != field && !cut.present.iter().any(|present| present == other));
                for field in std::iter::once(field).chain(more).filter(|field| untold(field)) {
                    let message = format!("`{}` needs the field `{field}`", cut.path());
                    self.problems.push(Problem { line, message });
                }
            } else if untold("") {
                self.problems.push(Problem {
                    line,
                    message: refusal(&cut, error.message()),
                });
            }
            torn.insert((cut.container, cut.field));
        }
        let line = self.problems.last().map_or(1, |problem| problem.line);
        self.problems.push(Problem {
            line,
            message: "there are more problems; correct these first".to_owned(),
        });
    }
}

impl<T> Reading<'_, T> {
    fn sorted(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|problem| problem.line);
        self.problems
    }
}

/// A value that was cut out of the tree.
struct Cut {
    /// The keys that lead to it, outermost first.
    keys: Vec<String>,
    /// Where the table or list begins that held it.
    container: usize,
    /// Its key there; empty in a list.
    field: String,
    /// Its own keys, when it is a table.
    present: Vec<String>,
}

impl Cut {
    fn path(&self) -> String {
        self.keys.join(".").escape_debug().to_string()
    }
}

/// Cuts out the innermost value that stands at a span, or whose key does.
fn cut_out(value: &mut Spanned<DeValue<'_>>, span: &Range<usize>) -> Option<Cut> {
    let container = value.span().start;
    match value.get_mut() {
        DeValue::Table(table) => {
            for (key, child) in table.iter_mut() {
                if let Some(mut cut) = cut_out(child, span) {
                    cut.keys.insert(0, key.get_ref().to_string());
                    return Some(cut);
                }
            }
            let (key, _) = table
                .iter()
                .find(|(key, child)| key.span() == *span || child.span() == *span)?;
            let field = key.get_ref().to_string();
            let present = table
                .remove(field.as_str())
                .map_or_else(Vec::new, |value| keys_of(value.get_ref()));
            Some(Cut {
                keys: vec![field.clone()],
                container,
                field,
                present,
            })
        }
        DeValue::Array(array) => {
            for child in array.iter_mut() {
                if let Some(cut) = cut_out(child, span) {
                    return Some(cut);
                }
            }
            let present = keys_of(array.iter().find(|child| child.span() == *span)?.get_ref());
            *array = array.iter().filter(|child| child.span() != *span).cloned().collect();
            Some(Cut {
                keys: Vec::new(),
                container,
                field: String::new(),
                present,
            })
        }
        _ => None,
    }
}

fn keys_of(value: &DeValue<'_>) -> Vec<String> {
    value
        .as_table()
        .map(|table| table.keys().map(|key| key.get_ref().to_string()).collect())
        .unwrap_or_default()
}

/// The field that a message of serde says is missing.
fn missing(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.strip_suffix('`')
}

/// What to tell about a value that was refused.
fn refusal(cut: &Cut, message: &str) -> String {
    let Some((_, expected)) = message
        .strip_prefix("unknown field ")
        .and_then(|rest| rest.rsplit_once("`, expected"))
    else {
        return format!("`{}`: {message}", cut.path());
    };
    let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    match similar::get_close_matches(cut.field.as_str(), &known, 1, 0.6).first() {
        Some(near) => format!("unknown field `{}`; did you mean `{near}`?", cut.path()),
        None => format!("unknown field `{}`; there are {}", cut.path(), known.join(", ")),
    }
}

/// Where the lines of a text begin.
pub(crate) struct Lines(Vec<usize>);

impl Lines {
    /// Looks through a text once.
    pub(crate) fn of(text: &str) -> Self {
        Self(
            text.bytes()
                .enumerate()
                .filter(|(_, byte)| *byte == b'\n')
                .map(|(offset, _)| offset)
                .collect(),
        )
    }

    /// The line of an offset, from 1.
    pub(crate) fn at(&self, offset: usize) -> usize {
        self.0.partition_point(|line_end| *line_end < offset) + 1
    }
}

#[cfg(test)]
mod tests;
