//! The conditions of a rule, asked of one call.
//!
//! What a condition looks at is worked out when the first condition asks for it, and at most once for a decision.

use std::cell::OnceCell;

use reqwest::Url;
use serde_json::value::RawValue;

use super::fields::Fields;
use crate::call::{Call, Target};
use crate::config::{Globs, Route};
use crate::workspace::Last;

/// What of a message a rule can look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Argument {
    Path,
    Host,
    Model,
    Command,
}

impl Argument {
    fn as_str(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Host => "host",
            Self::Model => "model",
            Self::Command => "command",
        }
    }
}

/// The globs that a rule has for each argument.
fn asked(route: &Route) -> impl Iterator<Item = (Argument, &Globs)> {
    let all = [
        (Argument::Path, &route.path),
        (Argument::Host, &route.host),
        (Argument::Model, &route.model),
        (Argument::Command, &route.command),
    ];
    all.into_iter().filter(|(_, globs)| !globs.is_empty())
}

/// Whether a rule has no condition beside its calls.
pub(super) fn unconditional(route: &Route) -> bool {
    route.principal.is_empty()
        && route.environment.is_empty()
        && route.labels.is_empty()
        && asked(route).next().is_none()
}

/// Whether a rule refuses or asks: then one value that fits is enough, so that adding another never gets past it.
pub(super) fn guards(route: &Route) -> bool {
    matches!(route.to, Target::Deny | Target::Ask)
}

/// A value of a message in the form that globs are matched against, or why it has none.
type Value = Result<String, String>;

/// One call, as conditions see it.
pub(super) struct Facts<'a> {
    call: &'a Call,
    principal: OnceCell<String>,
    arguments: OnceCell<Vec<(Argument, Value)>>,
}

impl<'a> Facts<'a> {
    /// Looks at nothing yet.
    pub(super) fn of(call: &'a Call) -> Self {
        Self {
            call,
            principal: OnceCell::new(),
            arguments: OnceCell::new(),
        }
    }

    /// The same call, had it named this one canonical path and nothing else.
    pub(super) fn of_file(call: &'a Call, path: &str) -> Self {
        let facts = Self::of(call);
        facts
            .arguments
            .get_or_init(|| vec![(Argument::Path, Ok(path.to_owned()))]);
        facts
    }

    fn principal(&self) -> &str {
        self.principal.get_or_init(|| self.call.principal.to_string())
    }

    fn values(&self, wanted: Argument) -> impl Iterator<Item = &Value> {
        let all = self.arguments.get_or_init(|| self.read());
        all.iter()
            .filter(move |(argument, _)| *argument == wanted)
            .map(|(_, value)| value)
    }

    fn read(&self) -> Vec<(Argument, Value)> {
        let mut values = Vec::new();
        for (name, value) in Fields::of(self.call.message.as_str()).iter() {
            let argument = match name {
                "path" | "from" | "to" | "paths" => Argument::Path,
                "url" => Argument::Host,
                "model" => Argument::Model,
                "command" => Argument::Command,
                _ => continue,
            };
            let many: Option<Vec<&RawValue>> = if name == "paths" {
                serde_json::from_str(value.get()).ok()
            } else {
                None
            };
            for one in many.unwrap_or_else(|| vec![value]) {
                let Some(value) = self.comparable(argument, name, one) else {
                    continue;
                };
                // A link must not lead around a rule: where it leads is looked at as well.
                if let (Argument::Path, Ok(written)) = (argument, &value) {
                    values.extend(self.real(written).map(|real| (argument, Ok(real))));
                }
                values.push((argument, value));
            }
        }
        values
    }

    /// Where a path really is, when links lead elsewhere than it says.
    fn real(&self, written: &str) -> Option<String> {
        let place = self.call.scope.workspace.locate(written, Last::Followed).ok()?;
        (place.real() != written).then(|| place.real().to_owned())
    }

    /// A value as globs see it; none for `null`, which is no value.
    fn comparable(&self, argument: Argument, name: &str, value: &RawValue) -> Option<Value> {
        if value.get() == "null" {
            return None;
        }
        let Ok(text) = serde_json::from_str::<String>(value.get()) else {
            return Some(Err(format!("`{name}` of the message is not a text")));
        };
        Some(match argument {
            Argument::Path => self
                .call
                .scope
                .workspace
                .canonical(&text)
                .map_err(|error| error.message),
            Argument::Host => host(&text).ok_or_else(|| format!("`{}` names no host", text.escape_debug())),
            Argument::Model | Argument::Command => Ok(text),
        })
    }
}

/// The host of a URL as a client would read it; `host/path` and `user@host:path` are read as clients do, too.
fn host(text: &str) -> Option<String> {
    let of = |text: &str| {
        let host = Url::parse(text).ok()?.host_str()?.to_owned();
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(&host);
        Some(host.strip_suffix('.').unwrap_or(host).to_owned())
    };
    of(text)
        .or_else(|| of(&format!("https://{text}")))
        .or_else(|| of(&format!("ssh://{}", text.replacen(':', "/", 1))))
}

/// The first condition of a rule that does not hold.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unmet<'r> {
    Principal(&'r Globs),
    Environment(&'r Globs),
    Label(&'r str, &'r str),
    Argument(Argument, &'r Globs),
}

/// Finds the first condition that does not hold; none when all do.
pub(super) fn unmet<'r>(route: &'r Route, facts: &Facts<'_>) -> Option<Unmet<'r>> {
    if !route.principal.is_empty() && !route.principal.matches(facts.principal()) {
        return Some(Unmet::Principal(&route.principal));
    }
    let scope = &facts.call.scope;
    let inside = match &scope.environment {
        Some(id) => route.environment.matches(id),
        None => route.environment.written().iter().any(|glob| glob == "none"),
    };
    if !route.environment.is_empty() && !inside {
        return Some(Unmet::Environment(&route.environment));
    }
    if let Some((label, value)) = route
        .labels
        .iter()
        .find(|(label, value)| scope.labels.get(*label) != Some(*value))
    {
        return Some(Unmet::Label(label, value));
    }
    let holds = |argument: Argument, globs: &Globs| {
        let mut fits = facts
            .values(argument)
            .map(|value| value.as_ref().is_ok_and(|value| globs.matches(value)));
        // Nothing to look at never fits: `all` alone would say otherwise.
        if guards(route) {
            fits.any(|fits| fits)
        } else {
            fits.next().is_some_and(|first| first && fits.all(|fits| fits))
        }
    };
    asked(route)
        .find(|(argument, globs)| !holds(*argument, globs))
        .map(|(argument, globs)| Unmet::Argument(argument, globs))
}

/// Why a condition does not hold, for people.
pub(super) fn reason(unmet: Unmet<'_>, route: &Route, facts: &Facts<'_>) -> String {
    match unmet {
        Unmet::Principal(globs) => {
            format!(
                "principal `{}` does not match {globs}",
                facts.principal().escape_debug()
            )
        }
        Unmet::Environment(globs) => match &facts.call.scope.environment {
            Some(id) => format!("environment `{}` does not match {globs}", id.escape_debug()),
            None => format!("the call is outside any environment, and the rule wants {globs}"),
        },
        Unmet::Label(label, wanted) => match facts.call.scope.labels.get(label) {
            Some(value) => format!(
                "label `{}` is `{}`, not `{}`",
                label.escape_debug(),
                value.escape_debug(),
                wanted.escape_debug()
            ),
            None => format!("the environment has no label `{}`", label.escape_debug()),
        },
        Unmet::Argument(argument, globs) => {
            let fits = |value: &&Value| !value.as_ref().is_ok_and(|value| globs.matches(value));
            match facts.values(argument).find(fits) {
                None => format!("the message has no {}", argument.as_str()),
                Some(Err(why)) => why.clone(),
                Some(Ok(value)) => {
                    let none = if guards(route) && facts.values(argument).nth(1).is_some() {
                        " (nor does another)"
                    } else {
                        ""
                    };
                    format!(
                        "{} `{}` does not match {globs}{none}",
                        argument.as_str(),
                        value.escape_debug()
                    )
                }
            }
        }
    }
}

/// The conditions of a rule that hold, for people; empty when it has none.
pub(super) fn met(route: &Route, facts: &Facts<'_>) -> Vec<String> {
    let mut held = Vec::new();
    if !route.principal.is_empty() {
        held.push(format!(
            "principal `{}` matches {}",
            facts.principal().escape_debug(),
            route.principal
        ));
    }
    if !route.environment.is_empty() {
        let environment = facts.call.scope.environment.as_deref().unwrap_or("none");
        held.push(format!(
            "environment `{}` matches {}",
            environment.escape_debug(),
            route.environment
        ));
    }
    for (label, value) in &route.labels {
        held.push(format!(
            "label `{}` is `{}`",
            label.escape_debug(),
            value.escape_debug()
        ));
    }
    for (argument, globs) in asked(route) {
        for value in facts.values(argument).flatten().filter(|value| globs.matches(value)) {
            held.push(format!(
                "{} `{}` matches {globs}",
                argument.as_str(),
                value.escape_debug()
            ));
        }
    }
    held
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Calls, table};
    use super::*;
    use crate::call::Json;
    use serde_json::json;

    #[test]
    fn hosts_are_read_as_clients_read_them() {
        for (text, expected) in [
            ("https://Api.Example.COM:8443/x", Some("api.example.com")),
            ("example.com.", Some("example.com")),
            ("http://0x7f.1/", Some("127.0.0.1")),
            ("http://[::1]:80/", Some("::1")),
            ("http:\\\\evil.com\\x", Some("evil.com")),
            ("https://good.com@evil.com/", Some("evil.com")),
            ("git@evil.com:team/code", Some("evil.com")),
            ("", None),
        ] {
            assert_eq!(host(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_repeated_field_hides_nothing() {
        let table = table("[[route]]\nmatch = '*'\npath = 'secret/**'\nto = 'deny'\n", "");
        let mut call = Calls::new().call("fsEvent:readFile", json!({}));
        for (message, refused) in [
            (r#"{"path":"secret/a","path":"open"}"#, true),
            (r#"{"path":"open","p\u0061th":"secret/a"}"#, true),
            (r#"{"path":["secret/a"]}"#, false),
            (r#"{"paths":["open", 3, "x/../secret"]}"#, true),
            (r#"{"other":"secret/a"}"#, false),
            (r#"["secret/a"]"#, false),
        ] {
            call.message = Json::parse(message).unwrap();
            assert_eq!(table.decide(&call).attempts == [Target::Deny], refused, "{message}");
        }
    }

    #[test]
    fn a_rule_that_permits_needs_every_path_and_at_least_one() {
        let table = table("[[route]]\nmatch = '*'\npath = 'src/**'\nto = 'plugin:p'\n", "");
        let calls = Calls::new();
        for (message, fits) in [
            (json!({"from": "src/a", "to": "src/b"}), true),
            (json!({"from": "src/a", "to": "docs/b"}), false),
            (json!({"from": "src/a", "to": "../b"}), false),
            (json!({"from": "src/a", "to": null}), true),
            (json!({"paths": []}), false),
            (json!({}), false),
        ] {
            let decision = table.decide(&calls.call("fsEvent:move", message.clone()));
            assert_eq!(&*decision.rule == "waypost.toml:1", fits, "{message}");
        }
    }
}
