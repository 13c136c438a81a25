//! What follows from what a plugin used: the smallest grants with which it could have done the same, and how to get there.
//!
//! Nothing here decides: an operator reads it, and takes it or not. What is proposed lies inside what was granted.

use serde::{Deserialize, Serialize};

use super::grants::intersect;
use super::health::Stats;
use super::terms::Term;
use super::uses::Recorded;
use super::{Loaded, Origin};
use crate::config::Grants;

/// What a plugin is handed at its start, or what brings calls to it: no request of it shows whether it needs that.
const UNSEEN: [&str; 3] = ["env", "claim", "subscribe"];

/// What was learned about a plugin since it was loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learned {
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: String,
    /// Who decides about its grants.
    pub whose: Whose,
    /// How many calls into it ended.
    pub calls: u64,
    /// What it was granted, and what of that it used.
    pub granted: Vec<Granted>,
    /// What it tried and was not granted.
    pub refused: Vec<Refused>,
    /// All that it needed.
    pub proposed: Vec<String>,
    /// What is to be taken from it for that, first.
    pub revoke: Vec<String>,
    /// What it is then to be given, in place of something wider.
    pub grant: Vec<String>,
}

/// Where it stands what a plugin was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whose {
    /// Nowhere: it is a part of the binary, and has what it asks for.
    Bundled,
    /// In its entry in `waypost.toml`.
    Configured,
    /// In `waypost.lock`.
    Installed,
}

/// One thing that a plugin was granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// As it is granted.
    pub grant: String,
    /// How often it was used.
    pub times: u64,
    /// What of it is needed; the same where all of it is.
    pub needed: Vec<String>,
    /// Why more of it is needed than was used.
    pub kept: Option<Kept>,
}

/// Something that a plugin was not granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// As it would be granted.
    pub grant: String,
    /// How often it was tried.
    pub times: u64,
    /// Whether its manifest asks for it, so that it can be granted.
    pub asked: bool,
}

/// Why a grant is kept as it is, whatever was used of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kept {
    /// Its use cannot be seen.
    Unseen,
    /// Without it the component does not load.
    Imported,
    /// More was used of it than is kept apart, or something that has no grant of its own.
    Crowded,
}

impl Kept {
    /// The reason, for people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Unseen => "kept: no request shows whether it is needed",
            Self::Imported => "kept: it imports this and does not load without",
            Self::Crowded => "kept: too many different ones to grant one by one",
        }
    }
}

/// The smallest grants for what was used.
struct Proposal {
    grants: Grants,
    kept: Vec<(&'static str, Kept)>,
}

impl Learned {
    /// What is known now about a loaded plugin.
    pub fn of(plugin: &Loaded) -> Self {
        let whose = match plugin.origin {
            Origin::Bundled => Whose::Bundled,
            Origin::Installed { .. } => Whose::Configured,
            Origin::Locked { .. } => Whose::Installed,
        };
        let (granted, recorded) = (&plugin.facts.grants, plugin.uses.recorded());
        let proposal = propose(granted, &recorded, &plugin.needs);
        let (revoke, grant) = changes(granted, &proposal.grants);
        let asks = plugin.manifest.asks();
        let refused = recorded.refused.iter().map(|(term, times)| Refused {
            grant: term.to_string(),
            times: *times,
            asked: term.touches(&asks),
        });
        Self {
            id: plugin.facts.id.to_string(),
            version: plugin.manifest.version.clone(),
            whose,
            calls: Stats::counted(plugin).calls,
            granted: Term::all(granted)
                .iter()
                .map(|term| proposal.of(term, &recorded))
                .collect(),
            refused: refused.collect(),
            proposed: texts(&Term::all(&proposal.grants)),
            revoke: texts(&revoke),
            grant: texts(&grant),
        }
    }
}

impl Proposal {
    /// What became of one thing that was granted.
    fn of(&self, term: &Term, recorded: &Recorded) -> Granted {
        let whole = only(term);
        let of_it = |other: &Term| other.grant() == term.grant() && other.is_in(&whole);
        let used = recorded.used.iter().filter(|(used, _)| of_it(used));
        let needed = Term::all(&self.grants).into_iter().filter(of_it);
        Granted {
            grant: term.to_string(),
            times: used.fold(0_u64, |all, (_, times)| all.saturating_add(*times)),
            needed: needed.map(|term| term.to_string()).collect(),
            kept: self
                .kept
                .iter()
                .find(|(grant, _)| *grant == term.grant())
                .map(|(_, why)| *why),
        }
    }
}

/// The smallest grants inside these with which all that was used is allowed, and the plugin loads.
fn propose(granted: &Grants, recorded: &Recorded, needs: &[&'static str]) -> Proposal {
    let mut used = Grants::default();
    for (term, _) in &recorded.used {
        term.give(&mut used);
    }
    // What is used of folders and servers has the place and the reach that the operator gave.
    let mut grants = intersect(&used, granted);
    grants.gateway = used.gateway;
    // A program has the arguments with which it was granted.
    grants.process = granted.process.clone();
    grants
        .process
        .retain(|program| used.process.iter().any(|used| used.name == program.name));
    let mut kept: Vec<(&'static str, Kept)> = Vec::new();
    let seen = Term::all(&grants);
    for term in Term::all(granted) {
        let grant = term.grant();
        let why = if UNSEEN.contains(&grant) {
            Kept::Unseen
        } else if recorded.crowded.contains(grant) {
            Kept::Crowded
        } else if needs.contains(&grant) && seen.iter().all(|seen| seen.grant() != grant) {
            Kept::Imported
        } else {
            continue;
        };
        term.give(&mut grants);
        if !kept.contains(&(grant, why)) {
            kept.push((grant, why));
        }
    }
    Proposal { grants, kept }
}

/// What is to be taken, and then to be given, so that of these grants those are left.
fn changes(granted: &Grants, wanted: &Grants) -> (Vec<Term>, Vec<Term>) {
    let mut surplus = Term::all(granted);
    surplus.retain(|term| !term.is_in(wanted));
    // What goes with something wider is not taken by itself.
    let goes_with = |at: usize, term: &Term| {
        surplus.iter().enumerate().any(|(before, other)| {
            let wider = other.grant() == term.grant() && term.is_in(&only(other));
            before != at && wider && (before < at || !other.is_in(&only(term)))
        })
    };
    let taken: Vec<Term> = surplus
        .iter()
        .enumerate()
        .filter(|(at, term)| !goes_with(*at, term))
        .map(|(_, term)| term.clone())
        .collect();
    let mut left = granted.clone();
    for term in &taken {
        term.take(&mut left);
    }
    let mut given = Term::all(wanted);
    given.retain(|term| !term.is_in(&left));
    (taken, given)
}

fn only(term: &Term) -> Grants {
    let mut only = Grants::default();
    term.give(&mut only);
    only
}

fn texts(terms: &[Term]) -> Vec<String> {
    terms.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::uses::Uses;
    use proptest::prelude::*;

    fn grants(texts: &[&str]) -> Grants {
        let mut grants = Grants::default();
        for text in texts {
            for term in Term::parse(text).unwrap() {
                term.give(&mut grants);
            }
        }
        grants
    }

    fn proposed(granted: &[&str], used: &[&str], needs: &[&'static str]) -> (Vec<String>, Vec<String>, Vec<String>) {
        let (granted, uses) = (grants(granted), Uses::default());
        for text in used {
            let term = Term::parse(text).unwrap().remove(0);
            uses.note(&granted, term.grant(), Some(term));
        }
        let proposal = propose(&granted, &uses.recorded(), needs);
        let (revoke, grant) = changes(&granted, &proposal.grants);
        (texts(&Term::all(&proposal.grants)), texts(&revoke), texts(&grant))
    }

    #[test]
    fn each_grant_is_as_small_as_its_use() {
        for (granted, used, needs, expected) in [
            (
                vec!["gateway=*", "state"],
                vec!["gateway=fsEvent:readFile"],
                vec!["gateway"],
                "gateway=fsEvent:readFile | gateway=*, state | gateway=fsEvent:readFile",
            ),
            (vec!["state"], vec![], vec!["state"], "state |  | "),
            (
                vec!["gateway=a:x,b"],
                vec!["gateway=b:y", "gateway=b:y", "gateway=c"],
                vec![],
                "gateway=b:y | gateway=a:x, gateway=b | gateway=b:y",
            ),
            (
                vec!["http=https://*.example.com private"],
                vec!["http=https://a.example.com"],
                vec![],
                "http=https://a.example.com private | http=https://*.example.com private | http=https://a.example.com private",
            ),
            (
                vec!["http=https://*", "secrets=a,b"],
                vec!["http=https://a.b", "secrets=b"],
                vec!["http"],
                "http=https://a.b, secrets=b | http=https://*, secrets=a | http=https://a.b",
            ),
            (
                vec!["files=docs=/srv/docs:write", "files=logs=/l"],
                vec!["files=docs"],
                vec!["files"],
                "files=docs=/srv/docs | files=docs=/srv/docs:write, files=logs=/l | files=docs=/srv/docs",
            ),
            (
                vec!["files=docs=/d:write"],
                vec!["files=docs:write", "files=docs"],
                vec![],
                "files=docs=/d:write |  | ",
            ),
            (
                vec![
                    "process=git=/usr/bin/git",
                    "process=sh=/bin/sh",
                    "socket=engine=/run/e.sock",
                ],
                vec!["process=git"],
                vec!["process"],
                "process=git=/usr/bin/git | process=sh=/bin/sh, socket=engine=/run/e.sock | ",
            ),
            (
                vec!["env=LANG", "claim=a", "subscribe", "workspace"],
                vec![],
                vec![],
                "claim=a, subscribe, env=LANG | workspace | ",
            ),
        ] {
            let (left, revoke, grant) = proposed(&granted, &used, &needs);
            assert_eq!(
                format!("{} | {} | {}", left.join(", "), revoke.join(", "), grant.join(", ")),
                expected
            );
        }
    }

    #[test]
    fn what_cannot_be_told_apart_is_kept() {
        let (granted, uses) = (grants(&["gateway=*", "state"]), Uses::default());
        uses.note(&granted, "gateway", Term::call("*", None));
        let proposal = propose(&granted, &uses.recorded(), &[]);
        assert_eq!(texts(&Term::all(&proposal.grants)), ["gateway=*"]);
        assert_eq!(proposal.kept, [("gateway", Kept::Crowded)]);
    }

    const TERM: &str = "process=[ab]=/[cd]|socket=[ab]=/[cd]|state|workspace|subscribe|(gateway|claim)=([ab](:[xy*])?|\\*)|http=https://(\\*|(\\*\\.)?[ab](\\.c)?)( private)?|(secrets|env)=[ab]|files=[ab]=/[cd](:write)?";
    const USE: &str = "process=[ab]|socket=[ab]|state|workspace|gateway=[ab](:[xy])?|http=https://[ab](\\.c)?|secrets=[ab]|files=[ab](:write)?";

    proptest! {
        /// The proposal is inside what was granted, allows each use that was allowed, and is what is left after the changes.
        #[test]
        fn the_proposal_is_inside_the_grants_and_allows_each_use(
            granted in proptest::collection::vec(TERM, 0..6), tried in proptest::collection::vec(USE, 0..6),
            needs in proptest::sample::subsequence(vec!["gateway", "state", "workspace", "http", "files", "process"], 0..6),
        ) {
            // Both ways in which grants come about: one by one, and as a list that may name the same twice.
            let mut granted = grants(&granted.iter().map(String::as_str).collect::<Vec<_>>());
            granted.gateway.extend(granted.gateway.first().map(|first| format!("{}:x", first.split(':').next().unwrap_or_default())).filter(|more| !more.starts_with('*')));
            let uses = Uses::default();
            for text in &tried {
                let term = Term::parse(text).unwrap().remove(0);
                uses.note(&granted, term.grant(), Some(term));
            }
            let recorded = uses.recorded();
            let proposal = propose(&granted, &recorded, &needs);
            for term in Term::all(&proposal.grants) {
                prop_assert!(term.is_in(&granted), "{term} was not granted");
            }
            for (term, _) in &recorded.used {
                prop_assert!(term.is_in(&proposal.grants), "{term} was used");
            }
            for (term, _) in &recorded.refused {
                prop_assert!(!term.is_in(&granted) && !term.is_in(&proposal.grants));
            }
            for grant in needs {
                let of_it = |grants: &Grants| Term::all(grants).iter().any(|term| term.grant() == grant);
                prop_assert_eq!(of_it(&granted), of_it(&proposal.grants), "it loads");
            }
            let (revoke, give) = changes(&granted, &proposal.grants);
            let mut left = granted.clone();
            for term in &revoke {
                prop_assert!(term.take(&mut left) && !term.is_in(&proposal.grants), "{term}");
            }
            for term in &revoke {
                prop_assert!(!term.is_in(&left));
            }
            for term in &give {
                prop_assert!(!term.is_in(&left));
                term.give(&mut left);
            }
            for (one, other) in [(&left, &proposal.grants), (&proposal.grants, &left)] {
                prop_assert!(Term::all(one).iter().all(|term| term.is_in(other)));
            }
        }
    }
}
