//! The rules, asked about files that a call meets but does not name.
//!
//! A rule for `secrets/**` refuses a read of a file there. Here it also keeps the file out of a search from the root, a
//! listing of the folder, or the removal of a folder above.

use std::fmt;
use std::sync::Arc;

use super::condition::{self, Facts};
use super::{Decision, Table};
use crate::call::{Call, CallName, FileRules};

/// The kind of calls on files.
const KIND: &str = "fsEvent";

/// Whether any of these patterns is about files.
pub(super) fn covered(patterns: &[String]) -> bool {
    let kind = |pattern: &String| pattern.split(':').next() == Some(KIND) || pattern == "*";
    patterns.iter().any(kind)
}

/// The rules of one moment, for one call.
struct Files {
    table: Arc<Table>,
    call: Call,
    /// The rule that let the call itself through. It has decided, and perhaps asked, about the call as a whole.
    own: Arc<str>,
}

impl Table {
    /// What these rules say of files that a call meets; none when no rule refuses or asks about files.
    pub fn files(self: &Arc<Self>, call: &Call, decision: &Decision) -> Option<Arc<dyn FileRules>> {
        if !self.guards_files || *call.name.kind != *KIND {
            return None;
        }
        Some(Arc::new(Files {
            table: Arc::clone(self),
            call: call.clone(),
            own: Arc::clone(&decision.rule),
        }))
    }
}

impl FileRules for Files {
    fn permit(&self, name: &CallName, path: &str) -> bool {
        let facts = Facts::of_file(&self.call, path);
        let mut rules = self.table.covering(name);
        let rule = rules.find(|rule| condition::unmet(&rule.route, &facts).is_none());
        rule.is_none_or(|rule| !condition::guards(&rule.route) || rule.decision.rule == self.own)
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files").field("own", &self.own).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Calls, table};
    use super::*;
    use serde_json::json;

    /// Whether a search from the root may meet a file, under these rules.
    fn met(rules: &str, action: &str, path: &str) -> Option<bool> {
        let (table, calls) = (Arc::new(table(rules, "")), Calls::new());
        let call = calls.call("fsEvent:searchFiles", json!({ "path": "." }));
        let files = table.files(&call, &table.decide(&call))?;
        Some(files.permit(&CallName::new(KIND, Some(action)), path))
    }

    #[test]
    fn a_rule_about_a_path_holds_for_files_that_are_met() {
        let rules = "[[route]]\nmatch = 'fsEvent:readFile'\npath = 'secrets/**'\nto = 'deny'\n";
        assert_eq!(met(rules, "readFile", "secrets/key"), Some(false));
        assert_eq!(met(rules, "searchFiles", "secrets/key"), Some(true));
        assert_eq!(met(rules, "readFile", "src/a.rs"), Some(true));
    }

    #[test]
    fn the_first_rule_that_fits_the_file_decides() {
        let rules = "[[route]]\nmatch = 'fsEvent:*'\npath = 'docs/**'\nto = 'local'\n\
                     [[route]]\nmatch = 'fsEvent:readFile'\nto = 'deny'\n";
        assert_eq!(met(rules, "readFile", "docs/a"), Some(true));
        assert_eq!(met(rules, "readFile", "a"), Some(false));
    }

    #[test]
    fn what_a_person_is_asked_about_is_not_shown_unasked() {
        let asks = "[[route]]\nmatch = 'fsEvent:*'\npath = 'secrets/**'\nto = 'ask'\nfallback = ['local']\n";
        assert_eq!(met(asks, "searchFiles", "secrets/key"), Some(false));
        // The rule that asked about the search itself has had its answer.
        let all = "[[route]]\nmatch = 'fsEvent:*'\nto = 'ask'\nfallback = ['local']\n";
        assert_eq!(met(all, "searchFiles", "secrets/key"), Some(true));
    }

    #[test]
    fn rules_without_a_word_about_files_cost_nothing() {
        assert_eq!(
            met("[[route]]\nmatch = 'inference'\nto = 'deny'\n", "readFile", "a"),
            None
        );
        assert_eq!(
            met(
                "[[route]]\nmatch = 'fsEvent'\npath = 'a/**'\nto = 'local'\n",
                "readFile",
                "a"
            ),
            None
        );
    }
}
