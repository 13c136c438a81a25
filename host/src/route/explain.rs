//! Why a call goes where it goes: what `waypost route explain` prints.
//!
//! It asks the same table that decides, so it cannot say anything else; but it looks at every rule that covers the call,
//! and takes as long as that takes.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::condition::{self, Facts};
use super::proxy_execution::{self, Considered};
use super::{Rule, Shadow, Table, write_attempts};
use crate::call::{Call, Effect, Target, covers};

/// A decision with its reasons.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The call, as `kind:action`.
    pub call: String,
    /// The rule that wins, as in a decision.
    pub rule: Arc<str>,
    /// Why it wins.
    pub why: String,
    /// Who is asked, in order.
    pub attempts: Vec<Target>,
    /// The time limit of the rule, as it is written in rules.
    pub timeout: Option<String>,
    /// The effect class of the rule.
    pub effect: Option<Effect>,
    /// Whether the call falls to `local` when every attempt is unavailable.
    pub open: bool,
    /// Who gets a copy of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Copies>,
    /// The other rules that cover the call, in order.
    pub lost: Vec<Lost>,
    /// The keys of `proxyExecution.json` for the call, in the order in which they are asked.
    pub keys: Vec<Considered>,
}

/// Who gets a copy of the call, and why it does or does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Copies {
    /// The shadow of the rule.
    #[serde(flatten)]
    pub to: Shadow,
    /// The effect class of the call, where it is known.
    pub class: Option<Effect>,
}

impl Explanation {
    /// The same with the class that the call has where no rule says so.
    #[must_use]
    pub fn of_class(mut self, usual: Effect) -> Self {
        if let Some(copies) = &mut self.shadow {
            copies.class = copies.class.or(Some(usual));
        }
        self
    }
}

/// A rule that covers the call and does not win.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// The rule, as in a decision.
    pub rule: Arc<str>,
    /// Whom it would have asked.
    pub attempts: Vec<Target>,
    /// Why it lost.
    pub why: String,
}

impl Table {
    /// Explains the decision about a call.
    pub fn explain(&self, call: &Call) -> Explanation {
        let facts = Facts::of(call);
        let mut winner: Option<&Rule> = None;
        let mut lost = Vec::new();
        for rule in self.covering(&call.name) {
            let why = match (condition::unmet(&rule.route, &facts), winner) {
                (Some(unmet), _) => condition::reason(unmet, &rule.route, &facts),
                (None, Some(winner)) => format!("{} comes first", winner.decision.rule),
                (None, None) => {
                    winner = Some(rule);
                    continue;
                }
            };
            let attempts = rule.decision.attempts.clone();
            lost.push(Lost {
                rule: Arc::clone(&rule.decision.rule),
                attempts,
                why,
            });
        }
        let keys = self
            .proxy
            .as_ref()
            .map(|proxy| proxy.consider(&call.name))
            .unwrap_or_default();
        let (decision, why) = match winner {
            Some(rule) => (Arc::clone(&rule.decision), winning(rule, call, &facts)),
            None => {
                let said = keys.iter().any(|key| key.to.is_some());
                let why = if said {
                    "no rule fits, and this key is the first that is there"
                } else {
                    "no rule fits"
                };
                (self.silent(&call.name), why.to_owned())
            }
        };
        Explanation {
            call: call.name.to_string().escape_debug().to_string(),
            rule: Arc::clone(&decision.rule),
            why,
            attempts: decision.attempts.clone(),
            timeout: decision
                .timeout
                .map(|timeout| humantime::format_duration(timeout).to_string()),
            effect: decision.effect,
            open: decision.open,
            shadow: decision.shadow.clone().map(|to| Copies {
                to,
                class: decision.effect,
            }),
            lost,
            keys,
        }
    }
}

fn winning(rule: &Rule, call: &Call, facts: &Facts<'_>) -> String {
    let pattern = rule.route.calls.iter().find(|pattern| covers(pattern, &call.name));
    let mut reasons = vec![format!(
        "`{}` covers the call",
        pattern.map_or("*", String::as_str).escape_debug()
    )];
    reasons.extend(condition::met(&rule.route, facts));
    reasons.join("; ")
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} goes to ", self.call)?;
        write_attempts(f, &self.attempts)?;
        if self.open {
            f.write_str(", and to local when none is available")?;
        }
        write!(f, "\n  {}: {}", self.rule, self.why)?;
        if let Some(timeout) = &self.timeout {
            write!(f, "\n  time limit {timeout}")?;
        }
        if let Some(effect) = self.effect {
            write!(f, "\n  effect class {}", effect.as_str())?;
        }
        match &self.shadow {
            Some(Copies { to, class: Some(class) }) if *class != Effect::Read => {
                write!(
                    f,
                    "\n  shadow {to}: it gets no copy, since the call is not a read but {}",
                    class.as_str()
                )?;
            }
            Some(Copies { to, .. }) => write!(f, "\n  shadow {to}: it gets a copy, and nobody sees its answer")?,
            None => {}
        }
        if !self.lost.is_empty() {
            f.write_str("\nrules that lost")?;
        }
        for lost in &self.lost {
            write!(f, "\n  {} (", lost.rule)?;
            write_attempts(f, &lost.attempts)?;
            write!(f, "): {}", lost.why)?;
        }
        if !self.keys.is_empty() {
            write!(f, "\nkeys of {}, in order", proxy_execution::FILE)?;
        }
        for key in &self.keys {
            match &key.to {
                Some(to) => write!(f, "\n  {}: {to}", key.key.escape_debug())?,
                None => write!(f, "\n  {}: not there", key.key.escape_debug())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Calls, table};
    use crate::call::Effect;
    use serde_json::json;

    const RULES: &str = r#"
[[route]]
match = "fsEvent"
path = ["docs/**", "*.md"]
to = "deny"

[[route]]
match = "*"
principal = "person:*"
to = "local"

[[route]]
match = "*"
environment = "none"
labels = { color = "red" }
to = "local"

[[route]]
match = "fsEvent:*"
environment = "e*"
labels = { color = "red" }
to = "local"

[[route]]
match = "FSEvent:readFile"
environment = "e1"
path = "src/**"
to = "plugin:cache"
fallback = ["proxy", "local"]
timeout = "90s"
effect = "non-idempotent"
open = true

[[route]]
match = "*"
command = "git *"
to = "local"

[[route]]
match = "*"
to = "ask"
fallback = ["local"]
"#;

    #[test]
    fn the_winner_and_all_losers_are_told() {
        let table = table(RULES, r#"{"fsEvent:*": "proxy", "default": "local"}"#);
        let calls = Calls::new();
        let message = json!({"path": "src/a.rs", "command": "rm \u{1b}"});
        let call = calls.in_environment("fsEvent:readFile", message, "a1", Some("e1"), &[("color", "blue")]);
        assert_eq!(
            table.explain(&call).to_string(),
            r"fsEvent:readFile goes to plugin:cache, then proxy, then local, and to local when none is available
  waypost.toml:24: `fsEvent:readFile` covers the call; environment `e1` matches `e1`; path `src/a.rs` matches `src/**`
  time limit 1m 30s
  effect class non-idempotent
rules that lost
  waypost.toml:2 (deny): path `src/a.rs` does not match `docs/**` or `*.md`
  waypost.toml:7 (local): principal `agent:a1` does not match `person:*`
  waypost.toml:12 (local): environment `e1` does not match `none`
  waypost.toml:18 (local): label `color` is `blue`, not `red`
  waypost.toml:34 (local): command `rm \u{1b}` does not match `git *`
  waypost.toml:39 (ask, then local): waypost.toml:24 comes first
keys of proxyExecution.json, in order
  fsEvent:readFile: not there
  fsEvent:*: proxy
  fsEvent: not there
  *: not there
  default: local"
        );
    }

    #[test]
    fn silence_is_explained_too() {
        let rules = "[[route]]\nmatch = 'fsEvent'\npath = 'src/**'\nto = 'deny'\n";
        let calls = Calls::new();
        let call = calls.call("fsEvent:move", json!({"from": "../x", "to": "docs"}));
        assert_eq!(
            table(rules, r#"{"fsEvent": {"move": "proxy"}}"#)
                .explain(&call)
                .to_string(),
            "fsEvent:move goes to proxy
  proxyExecution.json: fsEvent:move: no rule fits, and this key is the first that is there
rules that lost
  waypost.toml:1 (deny): `../x` is outside the workspace
keys of proxyExecution.json, in order
  fsEvent:move: proxy
  fsEvent:*: not there
  fsEvent: not there
  *: not there
  default: not there"
        );
        let call = calls.call("inference", json!({}));
        assert_eq!(
            table("", "").explain(&call).to_string(),
            "inference goes to local\n  default: no rule fits"
        );
        let call = calls.call("inference", json!({}));
        let off = table("", r#"{"enabled": false, "inference": "proxy"}"#);
        let expected = json!({
            "call": "inference", "rule": "proxyExecution.json: enabled",
            "why": "no rule fits, and this key is the first that is there",
            "attempts": ["local"], "timeout": null, "effect": null, "open": false, "lost": [],
            "keys": [{"key": "enabled", "to": "local"}],
        });
        assert_eq!(serde_json::to_value(off.explain(&call)).unwrap(), expected);
    }

    #[test]
    fn a_shadow_is_told_with_what_it_gets() {
        let rules = "[[route]]\nmatch = 'fsEvent'\nto = 'local'\nshadow = 'plugin:next'\nsample = 0.1\n";
        let table = table(rules, "");
        let calls = Calls::new();
        let told = |name: &str, usual: Effect| {
            let explanation = table.explain(&calls.call(name, json!({}))).of_class(usual);
            (
                explanation.to_string(),
                serde_json::to_value(explanation).unwrap()["shadow"].clone(),
            )
        };
        let head = "goes to local\n  waypost.toml:1: `fsEvent` covers the call\n  shadow plugin:next, for a share of 0.1: it gets";
        assert_eq!(
            told("fsEvent:readFile", Effect::Read),
            (
                format!("fsEvent:readFile {head} a copy, and nobody sees its answer"),
                json!({ "plugin": "next", "share": 0.1, "class": "read" })
            )
        );
        assert_eq!(
            told("fsEvent:move", Effect::Idempotent),
            (
                format!("fsEvent:move {head} no copy, since the call is not a read but idempotent"),
                json!({ "plugin": "next", "share": 0.1, "class": "idempotent" })
            )
        );
    }
}
