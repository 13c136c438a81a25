//! The rules as `waypost route ls` lists them.

use serde::Serialize;

use super::{Rule, Table};
use crate::config::Globs;

/// One rule in a list.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// Where it stands.
    pub rule: String,
    /// The calls it is for.
    pub calls: String,
    /// Its conditions.
    pub when: String,
    /// Who executes.
    pub to: String,
}

impl Table {
    /// All rules in the order in which they are asked; the last one is what holds when no other does.
    pub fn shown(&self) -> Vec<Shown> {
        let rules = self.rules.iter().map(|rule| Shown {
            rule: rule.decision.rule.to_string(),
            calls: rule.route.calls.join(", "),
            when: conditions(rule),
            to: rule
                .decision
                .attempts
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", "),
        });
        let proxy = self.proxy.iter().map(|_| Shown {
            rule: "proxyExecution.json".to_owned(),
            calls: "*".to_owned(),
            when: "where waypost.toml is silent".to_owned(),
            to: "local or proxy, by its keys".to_owned(),
        });
        let default = Shown {
            rule: "default".to_owned(),
            calls: "*".to_owned(),
            when: String::new(),
            to: "local".to_owned(),
        };
        rules.chain(proxy).chain([default]).collect()
    }
}

fn conditions(rule: &Rule) -> String {
    let route = &rule.route;
    let globs =
        |name: &str, globs: &Globs| (!globs.is_empty()).then(|| format!("{name} {}", globs.written().join(" | ")));
    let labels = route
        .labels
        .iter()
        .map(|(name, value)| Some(format!("label {name}={value}")));
    let all = [
        globs("principal", &route.principal),
        globs("environment", &route.environment),
        globs("path", &route.path),
        globs("host", &route.host),
        globs("model", &route.model),
        globs("command", &route.command),
        route.open.then(|| "open".to_owned()),
        rule.decision.shadow.as_ref().map(|shadow| format!("shadow {shadow}")),
    ];
    all.into_iter().chain(labels).flatten().collect::<Vec<_>>().join(", ")
}
