//! What of its grants a plugin uses: each request tells what it needs, and here it is counted, since the plugin was loaded.
//!
//! Not here: what follows from it (`plugin/learned.rs`).

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use super::terms::Term;
use crate::config::Grants;

/// How many different things are kept apart, used and refused each. A person reads them.
const APART: usize = 64;

/// Where a request tells which grant it needs, and what of it; nothing, when that cannot be granted by its name.
pub type Tell<'a> = &'a mut dyn FnMut(&'static str, Option<Term>);

/// What one plugin used since it was loaded.
#[derive(Debug, Default)]
pub struct Uses(Mutex<Recorded>);

/// What was used so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// What was granted and used, and how often.
    pub used: Vec<(Term, u64)>,
    /// What was tried and not granted, and how often.
    pub refused: Vec<(Term, u64)>,
    /// Grants of which more was used than is kept apart.
    pub crowded: BTreeSet<&'static str>,
}

impl Uses {
    /// Counts one use of a grant by a plugin that has these.
    pub fn note(&self, grants: &Grants, grant: &'static str, term: Option<Term>) {
        let mut recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(term) = term else {
            recorded.crowded.insert(grant);
            return;
        };
        let granted = term.is_in(grants);
        let list = if granted {
            &mut recorded.used
        } else {
            &mut recorded.refused
        };
        if let Some((_, times)) = list.iter_mut().find(|(known, _)| *known == term) {
            *times = times.saturating_add(1);
        } else if list.len() < APART {
            list.push((term, 1));
        } else if granted {
            recorded.crowded.insert(grant);
        }
    }

    /// What was used until now.
    pub fn recorded(&self) -> Recorded {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_apart_is_bounded_and_a_flood_of_refusals_hides_nothing() {
        let (uses, grants) = (
            Uses::default(),
            Grants {
                gateway: vec!["a".to_owned()],
                ..Grants::default()
            },
        );
        for action in 0..1000 {
            uses.note(&grants, "gateway", Term::call("b", Some(&action.to_string())));
        }
        assert!(uses.recorded().crowded.is_empty());
        uses.note(&grants, "gateway", Term::call("a", None));
        uses.note(&grants, "gateway", Term::call("a", None));
        let recorded = uses.recorded();
        assert_eq!((recorded.refused.len(), recorded.used.len()), (APART, 1));
        assert_eq!(recorded.used[0].1, 2);
        for action in 0..1000 {
            uses.note(&grants, "gateway", Term::call("a", Some(&action.to_string())));
        }
        let recorded = uses.recorded();
        assert_eq!(recorded.used.len(), APART);
        assert_eq!(recorded.crowded, BTreeSet::from(["gateway"]));
    }

    #[test]
    fn a_call_whose_name_means_more_than_itself_is_not_written_down_as_a_grant() {
        for (kind, action) in [
            ("*", None),
            ("a", Some("*")),
            ("a,b", None),
            ("a:b", None),
            ("a", Some("")),
            (" a", None),
            ("a\n", None),
        ] {
            assert_eq!(Term::call(kind, action), None, "{kind:?} {action:?}");
        }
        assert_eq!(Term::call("a", Some("b:c")).unwrap().to_string(), "gateway=a:b:c");
    }
}
