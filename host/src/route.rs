//! Routes: rules in, a decision out.
//!
//! `waypost.toml` decides first: the first rule, in the order of the file, that covers the call and whose conditions all
//! hold. Where it is silent, the project's [`proxy_execution`] file chooses local or proxy; where that is silent too,
//! the call is local. Both files are read from the hub's project folder, never from an environment, and are followed
//! while the hub runs ([`Routes`]).
//!
//! A decision is a list of attempts and says why; nothing here executes a call, knows who is connected, or asks
//! anybody. Decisions are made when rules are read, so that deciding about a call whose rule has no condition on the
//! message allocates nothing, and an index finds the rules that could apply, so that the cost does not grow with the
//! number of exact rules.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::call::{Call, CallName, Effect, Target};
use crate::config::{self, Route};

mod condition;
pub mod explain;
mod fields;
mod files;
mod names;
pub mod proxy_execution;
pub mod reload;
mod shadow;
mod shown;
#[cfg(test)]
mod testing;
pub mod watch;

pub use explain::Explanation;
pub use names::wire_kind;
pub use proxy_execution::ProxyExecution;
pub use reload::{Finding, Reloaded, Routes, check};
pub use shadow::Shadow;
pub use watch::Watching;

use condition::Facts;

/// What is to be done with a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Who is asked, in order.
    pub attempts: Vec<Target>,
    /// The time limit; none where the default holds.
    pub timeout: Option<Duration>,
    /// The effect class; none where the handler's holds.
    pub effect: Option<Effect>,
    /// Whether the call falls to `local` when every attempt is unavailable.
    pub open: bool,
    /// Who gets a copy when it is a read.
    pub shadow: Option<Shadow>,
    /// Why: `waypost.toml:12`, `proxyExecution.json: fsEvent:*` or `default`.
    pub rule: Arc<str>,
}

/// The rules that hold at one moment. Never changes: new rules are a new table.
#[derive(Debug)]
pub struct Table {
    rules: Vec<Rule>,
    kinds: HashMap<Box<str>, OfKind>,
    /// The rules for every call, by position.
    everywhere: Vec<usize>,
    proxy: Option<ProxyExecution>,
    default: Arc<Decision>,
    /// Whether a rule refuses or asks about files.
    guards_files: bool,
}

/// A rule with its decision.
#[derive(Debug)]
struct Rule {
    route: Route,
    decision: Arc<Decision>,
}

/// The rules of one kind, by position.
#[derive(Debug, Default)]
struct OfKind {
    actions: HashMap<Box<str>, Vec<usize>>,
    every: Vec<usize>,
}

impl Table {
    /// Takes rules in the order of their file; `proxy` decides where they are silent.
    pub fn new(routes: Vec<Route>, proxy: Option<ProxyExecution>) -> Self {
        let default = Decision {
            attempts: vec![Target::Local],
            timeout: None,
            effect: None,
            open: false,
            shadow: None,
            rule: "default".into(),
        };
        let mut table = Self {
            rules: Vec::with_capacity(routes.len()),
            kinds: HashMap::new(),
            everywhere: Vec::new(),
            proxy,
            default: Arc::new(default),
            guards_files: false,
        };
        for mut route in routes {
            for pattern in &mut route.calls {
                *pattern = in_wire_spelling(pattern);
                table.index(pattern, table.rules.len());
            }
            table.guards_files |= condition::guards(&route) && files::covered(&route.calls);
            table.rules.push(Rule {
                decision: Arc::new(decision(&route)),
                route,
            });
        }
        table
    }

    fn index(&mut self, pattern: &str, rule: usize) {
        let list = match whole(pattern).split_once(':') {
            None if pattern == "*" => &mut self.everywhere,
            None => &mut self.kinds.entry(whole(pattern).into()).or_default().every,
            Some((kind, action)) => self
                .kinds
                .entry(kind.into())
                .or_default()
                .actions
                .entry(action.into())
                .or_default(),
        };
        list.push(rule);
    }

    /// Decides about a call.
    pub fn decide(&self, call: &Call) -> Arc<Decision> {
        let facts = Facts::of(call);
        let rule = self
            .covering(&call.name)
            .find(|rule| condition::unmet(&rule.route, &facts).is_none());
        rule.map_or_else(|| self.silent(&call.name), |rule| Arc::clone(&rule.decision))
    }

    /// The decision where `waypost.toml` is silent.
    fn silent(&self, name: &CallName) -> Arc<Decision> {
        let said = self.proxy.as_ref().and_then(|proxy| proxy.decide(name));
        said.unwrap_or_else(|| Arc::clone(&self.default))
    }

    /// The rules whose patterns cover a call, in order.
    fn covering(&self, name: &CallName) -> impl Iterator<Item = &Rule> {
        let kind = self.kinds.get(&*name.kind);
        let exact = kind.and_then(|kind| kind.actions.get(name.action()));
        let lists = [
            exact.map_or(&[][..], Vec::as_slice),
            kind.map_or(&[][..], |kind| kind.every.as_slice()),
            self.everywhere.as_slice(),
        ];
        InOrder(lists).filter_map(|position| self.rules.get(position))
    }

    /// The rules, in order.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.rules.iter().map(|rule| &rule.route)
    }

    /// The rules that can never win, since rules above them cover all of their calls without any condition: the line and
    /// the reason.
    pub fn never_winning(&self) -> Vec<(usize, String)> {
        let mut unconditional: HashMap<&str, usize> = HashMap::new();
        let mut found = Vec::new();
        for Rule { route, .. } in &self.rules {
            let above = |pattern: &String| {
                let pattern = whole(pattern);
                let kind = pattern.split(':').next().unwrap_or(pattern);
                ["*", kind, pattern]
                    .into_iter()
                    .filter_map(|wider| unconditional.get(wider).copied())
                    .min()
            };
            let covered: Option<Vec<usize>> = route.calls.iter().map(above).collect();
            if let Some(mut lines) = covered {
                lines.sort_unstable();
                lines.dedup();
                let lines: Vec<String> = lines.iter().map(|line| format!("line {line}")).collect();
                let lines = lines.join(" and ");
                let message = format!(
                    "this rule can never win: all of its calls are covered above, without any condition, by the rule of \
                     {lines}; move it up or remove it"
                );
                found.push((route.line, message));
            } else if condition::unconditional(route) {
                for pattern in &route.calls {
                    unconditional.entry(whole(pattern)).or_insert(route.line);
                }
            }
        }
        found
    }
}

/// A pattern, with `kind:*` written as the `kind` that it means.
fn whole(pattern: &str) -> &str {
    pattern.strip_suffix(":*").unwrap_or(pattern)
}

/// A pattern with its kind in the wire's spelling.
fn in_wire_spelling(pattern: &str) -> String {
    match pattern.split_once(':') {
        None => wire_kind(pattern).to_owned(),
        Some((kind, action)) => format!("{}:{action}", wire_kind(kind)),
    }
}

fn decision(route: &Route) -> Decision {
    let mut attempts = vec![route.to.clone()];
    attempts.extend_from_slice(&route.fallback);
    Decision {
        attempts,
        timeout: route.timeout,
        effect: route.effect,
        open: route.open,
        shadow: Shadow::of(route),
        rule: format!("{}:{}", config::FILE, route.line).into(),
    }
}

/// Positions from three ascending lists, merged; one that stands in several comes once.
struct InOrder<'a>([&'a [usize]; 3]);

impl Iterator for InOrder<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let least = *self.0.iter().filter_map(|list| list.first()).min()?;
        for list in &mut self.0 {
            while let Some((first, rest)) = list.split_first()
                && *first == least
            {
                *list = rest;
            }
        }
        Some(least)
    }
}

/// The attempts as people read them: `plugin:cache, then local`.
fn write_attempts(f: &mut fmt::Formatter<'_>, attempts: &[Target]) -> fmt::Result {
    for (position, target) in attempts.iter().enumerate() {
        let then = if position == 0 { "" } else { ", then " };
        write!(f, "{then}{target}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::testing::{Calls, table};
    use super::*;
    use crate::call::covers;
    use globset::GlobBuilder;
    use proptest::prelude::*;
    use proptest::sample::{select, subsequence};
    use serde_json::{Value, json};

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rules = r#"
[[route]]
match = "fsEvent:readFile"
path = "secret/**"
to = "deny"

[[route]]
match = ["FSEvent:*", "inference"]
to = "plugin:cache"
fallback = ["local"]
timeout = "5s"
effect = "read"
open = true

[[route]]
match = "*"
to = "proxy-only"
"#;
        let table = table(rules, r#"{"default": "proxy"}"#);
        let calls = Calls::new();
        let rule = |name: &str, message: Value| table.decide(&calls.call(name, message)).rule.to_string();
        assert_eq!(
            rule("fsEvent:readFile", json!({"path": "secret/key"})),
            "waypost.toml:2"
        );
        assert_eq!(rule("fsEvent:readFile", json!({"path": "open"})), "waypost.toml:7");
        assert_eq!(rule("fsEvent", json!({})), "waypost.toml:7");
        assert_eq!(rule("gitEvent:Status", json!({})), "waypost.toml:15");
        let expected = Decision {
            attempts: vec![Target::Plugin("cache".into()), Target::Local],
            timeout: Some(Duration::from_secs(5)),
            effect: Some(Effect::Read),
            open: true,
            shadow: None,
            rule: "waypost.toml:7".into(),
        };
        assert_eq!(*table.decide(&calls.call("inference", json!({}))), expected);
    }

    #[test]
    fn where_all_is_silent_a_call_is_local() {
        let decision = table("", "").decide(&Calls::new().call("fsEvent:readFile", json!({})));
        assert_eq!(
            (decision.attempts.as_slice(), &*decision.rule),
            (&[Target::Local][..], "default")
        );
    }

    #[test]
    fn a_decision_is_shared_and_not_made_anew() {
        let (table, calls) = (
            table("[[route]]\nmatch = 'fsEvent:readFile'\nto = 'local'\n", ""),
            Calls::new(),
        );
        let call = calls.call("fsEvent:readFile", json!({}));
        assert!(Arc::ptr_eq(&table.decide(&call), &table.decide(&call)));
    }

    #[test]
    fn exact_rules_for_other_calls_are_not_looked_at() {
        let rules: String = (0..10_000)
            .map(|n| format!("[[route]]\nmatch = 'fsEvent:action{n}'\nto = 'local'\n"))
            .collect();
        let table = table(&rules, "");
        assert_eq!(table.covering(&CallName::new("fsEvent", Some("action9999"))).count(), 1);
        assert_eq!(table.covering(&CallName::new("fsEvent", Some("other"))).count(), 0);
    }

    #[test]
    fn rules_that_can_never_win_are_found() {
        let rules = r#"[[route]]
match = ["fsEvent", "inference"]
to = "local"
[[route]]
match = ["fsEvent:readFile", "inference"]
to = "proxy"
[[route]]
match = ["fsEvent:*", "gitEvent"]
to = "proxy"
[[route]]
match = "*"
principal = "agent:*"
to = "deny"
[[route]]
match = "*"
to = "deny"
[[route]]
match = ["gitEvent:Push", "fsEvent"]
to = "local"
"#;
        assert_eq!(
            table(rules, "")
                .never_winning()
                .iter()
                .map(|(line, why)| format!("{line} {why}"))
                .collect::<Vec<_>>(),
            [
                "4 this rule can never win: all of its calls are covered above, without any condition, by the rule of \
                 line 1; move it up or remove it",
                "17 this rule can never win: all of its calls are covered above, without any condition, by the rule of \
                 line 1 and line 7; move it up or remove it",
            ]
        );
    }

    /// A rule as its text, and the same told independently of the code under test.
    #[derive(Clone, Debug)]
    struct Told {
        patterns: Vec<&'static str>,
        conditions: Vec<(&'static str, &'static str)>,
        to: &'static str,
    }

    const CONDITIONS: &[(&str, &str)] = &[
        ("principal", "agent:a*"),
        ("environment", "e*"),
        ("environment", "none"),
        ("label", "red"),
        ("path", "src/**"),
        ("path", "src/*.rs"),
        ("host", "*.example.com"),
        ("model", "gpt-*"),
        ("command", "git *"),
    ];

    fn rule() -> impl Strategy<Value = Told> {
        let patterns = vec![
            "*",
            "fsEvent",
            "FSEvent:*",
            "fsEvent:a",
            "fsEvent:b",
            "inference",
            "inference:*",
            "x:a",
        ];
        (
            subsequence(patterns, 1..3),
            prop_oneof![2 => Just(vec![]), 3 => subsequence(CONDITIONS.to_vec(), 0..3)],
            select(vec!["local", "proxy", "deny", "plugin:p"]),
        )
            .prop_filter("one environment", |(_, conditions, _)| {
                conditions.iter().filter(|(name, _)| *name == "environment").count() < 2
                    && conditions.iter().filter(|(name, _)| *name == "path").count() < 2
            })
            .prop_map(|(patterns, conditions, to)| Told {
                patterns,
                conditions,
                to,
            })
    }

    fn text(rules: &[Told]) -> String {
        let mut text = String::new();
        for rule in rules {
            text.push_str(&format!("[[route]]\nmatch = {:?}\nto = {:?}\n", rule.patterns, rule.to));
            for (name, glob) in &rule.conditions {
                match *name {
                    "label" => text.push_str(&format!("labels = {{ color = {glob:?} }}\n")),
                    name => text.push_str(&format!("{name} = {glob:?}\n")),
                }
            }
        }
        text
    }

    fn message() -> impl Strategy<Value = Value> {
        let path = || {
            select(vec![
                "src/a.rs",
                "./src/x/../a.rs",
                "src/x/b.rs",
                "src",
                "docs/a",
                "../out",
            ])
        };
        let url = select(vec![
            "https://api.example.com/x",
            "http://EXAMPLE.com",
            "nonsense",
            "api.example.com:80/x",
        ]);
        let option = proptest::option::of;
        (
            option(path()),
            option(path()),
            proptest::collection::vec(path(), 0..3),
            option(url),
            option(select(vec!["gpt-4", "claude", "gpt-"])),
            option(select(vec!["git log", "rm -rf /", "git a\nb"])),
        )
            .prop_map(|(path, from, paths, url, model, command)| {
                let fields = [
                    ("path", path),
                    ("from", from),
                    ("url", url),
                    ("model", model),
                    ("command", command),
                ];
                let mut message: serde_json::Map<String, Value> = fields
                    .into_iter()
                    .filter_map(|(name, value)| Some((name.to_owned(), json!(value?))))
                    .collect();
                if !paths.is_empty() {
                    message.insert("paths".to_owned(), json!(paths));
                }
                Value::Object(message)
            })
    }

    fn glob(pattern: &str, text: &str, path: bool) -> bool {
        GlobBuilder::new(pattern)
            .literal_separator(path)
            .build()
            .unwrap()
            .compile_matcher()
            .is_match(text)
    }

    /// Whether a rule fits, read off its documentation as plainly as possible.
    fn fits(rule: &Told, call: &Call) -> bool {
        let covered = rule
            .patterns
            .iter()
            .any(|pattern| covers(&pattern.replace("FSEvent", "fsEvent"), &call.name));
        let message: Value = call.message.to().unwrap();
        let text = |name: &str| message.get(name).and_then(Value::as_str).map(str::to_owned);
        let many = |values: Vec<Option<bool>>| {
            let held = |value: &Option<bool>| *value == Some(true);
            if rule.to == "deny" {
                values.iter().any(held)
            } else {
                !values.is_empty() && values.iter().all(held)
            }
        };
        covered
            && rule.conditions.iter().all(|(name, pattern)| match *name {
                "principal" => glob(pattern, &call.principal.to_string(), false),
                "environment" => match &call.scope.environment {
                    Some(id) => glob(pattern, id, false),
                    None => *pattern == "none",
                },
                "label" => call.scope.labels.get("color").map(String::as_str) == Some(pattern),
                "path" => {
                    let list = message
                        .get("paths")
                        .and_then(Value::as_array)
                        .cloned()
                        .unwrap_or_default();
                    let list = list.iter().filter_map(Value::as_str).map(str::to_owned);
                    let written = [text("path"), text("from"), text("to")]
                        .into_iter()
                        .flatten()
                        .chain(list);
                    let matched = written.map(|path| {
                        let path = call.scope.workspace.canonical(&path).ok()?;
                        Some(glob(pattern, &path, true) || pattern.strip_suffix("/**") == Some(&*path))
                    });
                    many(matched.collect())
                }
                "host" => many(
                    text("url")
                        .into_iter()
                        .map(|url| Some(url.contains("api.example.com")))
                        .collect(),
                ),
                name => many(
                    text(name)
                        .into_iter()
                        .map(|value| Some(glob(pattern, &value, false)))
                        .collect(),
                ),
            })
    }

    proptest! {
        #[test]
        fn the_index_decides_as_a_plain_scan_does(
            rules in proptest::collection::vec(rule(), 0..12),
            name in select(vec!["fsEvent:a", "fsEvent:b", "fsEvent", "inference", "x:a", "x:b", "y"]),
            message in message(),
            agent in select(vec!["a1", "b1"]),
            environment in proptest::option::of(select(vec!["e1", "f1"])),
            color in proptest::option::of(select(vec!["red", "blue"])),
        ) {
            let calls = Calls::new();
            let labels: Vec<(&str, &str)> = color.map(|color| ("color", color)).into_iter().collect();
            let call = calls.in_environment(name, message, agent, environment, &labels);
            let table = table(&text(&rules), "");
            let plain = rules.iter().position(|rule| fits(rule, &call));
            let lines: Vec<usize> = table.routes().map(|route| route.line).collect();
            let expected = plain.map_or("default".to_owned(), |rule| format!("waypost.toml:{}", lines[rule]));
            let explanation = table.explain(&call);
            prop_assert_eq!(&*table.decide(&call).rule, expected.as_str());
            prop_assert_eq!(&*explanation.rule, expected.as_str());
            // Whoever covers the call either wins or is told why not.
            let covering = table.covering(&call.name).count();
            prop_assert_eq!(explanation.lost.len() + usize::from(plain.is_some()), covering);
            // A rule that is said never to win never wins.
            let never = table.never_winning();
            prop_assert!(plain.is_none_or(|rule| never.iter().all(|(line, _)| *line != lines[rule])));
        }

        #[test]
        fn an_added_path_never_gets_past_a_refusal(
            paths in proptest::collection::vec(select(vec!["secret/key", "open", "../out", "src/a"]), 1..5),
        ) {
            let table = table("[[route]]\nmatch = '*'\npath = 'secret/**'\nto = 'deny'\n", "");
            let calls = Calls::new();
            let decision = table.decide(&calls.call("fsEvent:readManyFiles", json!({ "paths": paths })));
            let refused = decision.attempts == [Target::Deny];
            prop_assert_eq!(refused, paths.contains(&"secret/key"));
        }
    }
}
