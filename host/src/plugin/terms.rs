//! Grants one by one, as a person decides about them: `state`, `gateway=fsEvent:readFile`.
//!
//! Not here: what of it takes effect (`plugin/grants.rs`).

use std::fmt;

use super::grants::within;
use crate::call::CallName;
use crate::config::Grants;
use crate::error::{Error, ErrorKind, Result};

/// The grants, and whether each names calls.
const NAMES: [(&str, bool); 5] = [
    ("gateway", true),
    ("state", false),
    ("workspace", false),
    ("claim", true),
    ("subscribe", false),
];

/// One thing that is asked for, given or taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    name: &'static str,
    pattern: Option<String>,
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pattern {
            Some(pattern) => write!(f, "{}={pattern}", self.name),
            None => f.write_str(self.name),
        }
    }
}

impl Term {
    /// All of these grants, one by one.
    pub fn all(grants: &Grants) -> Vec<Self> {
        // Whole, so that a grant that is new is asked about too.
        let Grants {
            gateway,
            state,
            workspace,
            claim,
            subscribe,
        } = grants;
        let flag = |name: &'static str, on: &bool| on.then_some(Self { name, pattern: None });
        let patterns = |name: &'static str, patterns: &[String]| -> Vec<Self> {
            let term = |pattern: &String| Self {
                name,
                pattern: Some(pattern.clone()),
            };
            patterns.iter().map(term).collect()
        };
        let mut all = patterns("gateway", gateway);
        all.extend(flag("state", state));
        all.extend(flag("workspace", workspace));
        all.extend(patterns("claim", claim));
        all.extend(flag("subscribe", subscribe));
        all
    }

    /// The grant that it belongs to.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Reads what a person wrote: `state`, or `gateway=<pattern>,<pattern>`.
    pub fn parse(text: &str) -> Result<Vec<Self>> {
        let wrong = |why: String| Error::new(ErrorKind::Invalid, why);
        let (name, patterns) = match text.split_once('=') {
            Some((name, patterns)) => (name.trim(), Some(patterns)),
            None => (text.trim(), None),
        };
        let Some(&(name, of_calls)) = NAMES.iter().find(|(known, _)| *known == name) else {
            let known: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            return Err(wrong(format!(
                "`{}` is not a grant; there are {}",
                name.escape_debug(),
                known.join(", ")
            )));
        };
        match (of_calls, patterns) {
            (false, None) => Ok(vec![Self { name, pattern: None }]),
            (false, Some(_)) => Err(wrong(format!("`{name}` takes no value; write `{name}` alone"))),
            (true, None) => Err(wrong(format!(
                "`{name}` says for which calls, as in `{name}=fsEvent:readFile`"
            ))),
            (true, Some(patterns)) => patterns
                .split(',')
                .map(|pattern| {
                    let pattern = pattern.trim();
                    if pattern != "*" && pattern.parse::<CallName>().is_err() {
                        return Err(wrong(format!(
                            "`{}` is not a pattern of calls; write `*`, `kind`, `kind:*` or `kind:action`",
                            pattern.escape_debug()
                        )));
                    }
                    Ok(Self {
                        name,
                        pattern: Some(pattern.to_owned()),
                    })
                })
                .collect(),
        }
    }

    /// Whether it is all in these grants.
    pub fn is_in(&self, grants: &Grants) -> bool {
        match &self.pattern {
            Some(pattern) => within(pattern, self.patterns(grants)),
            None => self.flag(grants),
        }
    }

    /// Whether something of it is in these grants.
    pub fn touches(&self, grants: &Grants) -> bool {
        self.is_in(grants)
            || self.pattern.as_ref().is_some_and(|pattern| {
                let one = std::slice::from_ref(pattern);
                self.patterns(grants).iter().any(|other| within(other, one))
            })
    }

    /// Puts it into these grants.
    pub fn give(&self, grants: &mut Grants) {
        if self.is_in(grants) {
            return;
        }
        self.set(grants, true);
    }

    /// Takes it out of these grants; whether something was there.
    pub fn take(&self, grants: &mut Grants) -> bool {
        let before = grants.clone();
        self.set(grants, false);
        *grants != before
    }

    /// What it means, in plain words.
    pub fn words(&self) -> String {
        let pattern = self.pattern.as_deref().unwrap_or_default();
        let (kind, action) = match pattern.split_once(':') {
            Some((kind, action)) if action != "*" => (kind, Some(action)),
            Some((kind, _)) => (kind, None),
            None => (pattern, None),
        };
        match (self.name, kind) {
            ("gateway", "*") => "make every call there is: files, commands, models, other plugins".to_owned(),
            ("gateway", "fsEvent") => match action {
                Some(action) => format!("work on files of the workspace, with `{action}` alone"),
                None => "read and change the files of the workspace".to_owned(),
            },
            ("gateway", kind) if kind.starts_with("executeCommand") => "run commands".to_owned(),
            ("gateway", "inference") => "ask models, at your cost".to_owned(),
            ("gateway", _) => format!("make the call `{pattern}`"),
            ("state", _) => "keep data of its own between calls".to_owned(),
            ("workspace", _) => "make, compare and remove copies of the project".to_owned(),
            ("claim", "*") => "execute every call of the project in place of the hub".to_owned(),
            ("claim", _) => format!("execute every call `{pattern}` of the project in place of the hub"),
            ("subscribe", _) => "hear of every call of the project, with what is in it".to_owned(),
            (name, _) => name.to_owned(),
        }
    }

    fn patterns<'a>(&self, grants: &'a Grants) -> &'a [String] {
        match self.name {
            "gateway" => &grants.gateway,
            "claim" => &grants.claim,
            _ => &[],
        }
    }

    fn flag(&self, grants: &Grants) -> bool {
        match self.name {
            "state" => grants.state,
            "workspace" => grants.workspace,
            "subscribe" => grants.subscribe,
            _ => false,
        }
    }

    fn set(&self, grants: &mut Grants, given: bool) {
        let list = match self.name {
            "gateway" => &mut grants.gateway,
            "claim" => &mut grants.claim,
            "state" => return grants.state = given,
            "workspace" => return grants.workspace = given,
            "subscribe" => return grants.subscribe = given,
            _ => return,
        };
        let Some(pattern) = &self.pattern else { return };
        // What is narrower goes with it, and what is wider stays: a part of a pattern cannot be taken.
        list.retain(|other| !within(other, std::slice::from_ref(pattern)));
        if given {
            list.push(pattern.clone());
        }
    }
}

/// These terms, as a list for people.
pub fn listed(terms: &[Term]) -> String {
    let terms: Vec<String> = terms.iter().map(|term| format!("`{term}`")).collect();
    if terms.is_empty() {
        "nothing".to_owned()
    } else {
        terms.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_mistake_is_named_with_its_remedy() {
        for (text, error) in [
            (
                "network",
                "`network` is not a grant; there are gateway, state, workspace, claim, subscribe",
            ),
            ("state=1", "`state` takes no value; write `state` alone"),
            (
                "gateway",
                "`gateway` says for which calls, as in `gateway=fsEvent:readFile`",
            ),
            (
                "claim=a,b:",
                "`b:` is not a pattern of calls; write `*`, `kind`, `kind:*` or `kind:action`",
            ),
        ] {
            assert_eq!(Term::parse(text).unwrap_err().to_string(), error);
        }
        assert_eq!(
            listed(&Term::parse("gateway=a, b:x").unwrap()),
            "`gateway=a`, `gateway=b:x`"
        );
        assert_eq!(listed(&[]), "nothing");
    }

    #[test]
    fn each_grant_is_said_in_plain_words() {
        for (text, words) in [
            (
                "gateway=*",
                "make every call there is: files, commands, models, other plugins",
            ),
            ("gateway=fsEvent", "read and change the files of the workspace"),
            ("gateway=fsEvent:*", "read and change the files of the workspace"),
            (
                "gateway=fsEvent:readFile",
                "work on files of the workspace, with `readFile` alone",
            ),
            ("gateway=executeCommand", "run commands"),
            ("gateway=inference", "ask models, at your cost"),
            ("gateway=ticket:find", "make the call `ticket:find`"),
            ("state", "keep data of its own between calls"),
            ("workspace", "make, compare and remove copies of the project"),
            ("claim=*", "execute every call of the project in place of the hub"),
            (
                "claim=chat",
                "execute every call `chat` of the project in place of the hub",
            ),
            ("subscribe", "hear of every call of the project, with what is in it"),
        ] {
            assert_eq!(Term::parse(text).unwrap()[0].words(), words);
        }
    }

    proptest! {
        /// What was given is there, what was taken is not, and taking leaves nothing of it.
        #[test]
        fn what_is_given_is_there_and_what_is_taken_is_not(
            gateway in proptest::collection::vec("[ab](:[xy*])?|\\*", 0..4), state in any::<bool>(),
            term in "state|subscribe|(gateway|claim)=([ab](:[xy*])?|\\*)",
        ) {
            let before = Grants { gateway, state, ..Grants::default() };
            let term = Term::parse(&term).unwrap().remove(0);
            let mut after = before.clone();
            term.give(&mut after);
            prop_assert!(term.is_in(&after) && Term::all(&after).contains(&term) || term.is_in(&before));
            prop_assert!(Term::all(&before).iter().all(|old| old.is_in(&after)), "giving takes nothing");
            term.take(&mut after);
            let wider = Term::all(&before).iter().any(|old| *old != term && term.is_in(&{
                let mut only = Grants::default();
                old.give(&mut only);
                only
            }) && !old.is_in(&{
                let mut only = Grants::default();
                term.give(&mut only);
                only
            }));
            prop_assert_eq!(term.is_in(&after), wider, "it stays only where something wider was given");
        }
    }
}
