//! Applies a unified diff to one file: every hunk or nothing.
//!
//! The lines of a hunk must stand in the file exactly as they are written; only where they stand may differ from what the
//! header says, and line ends (LF or CRLF) follow the file. There is no guessing: lines that are merely alike do not
//! match. A header's counts are not trusted, since models miscount.

use serde::{Deserialize, Serialize};

use super::write::{check_size, difference};
use super::{Job, invalid};
use crate::call::CallError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ApplyDiff {
    path: String,
    diff: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Applied {
    path: String,
    result: String,
    bytes_written: usize,
    hunks: usize,
    diff: String,
}

/// Changes a file by a unified diff.
pub(super) fn apply_diff(job: &Job, message: ApplyDiff) -> Result<Applied, CallError> {
    let path = job.path(&message.path)?;
    job.workspace().writable(&path)?;
    let before = job.read_text(&path)?;
    let refuse = |reason: String| {
        invalid(format!(
            "the diff does not apply to `{path}`: {reason}; nothing was changed"
        ))
    };
    let hunks = parse(&message.diff).map_err(refuse)?;
    let after = apply(&before, &hunks, &|| job.stop()).map_err(|error| match error {
        Misfit::Stopped(error) => error,
        Misfit::Hunk(reason) => refuse(reason),
    })?;
    check_size(job, &path, &after)?;
    job.workspace().write(&path, after.as_bytes(), &|| job.stop())?;
    Ok(Applied {
        result: format!("applied {} hunks to {path}", hunks.len()),
        bytes_written: after.len(),
        hunks: hunks.len(),
        diff: difference(&path, false, &before, &after),
        path,
    })
}

/// One hunk: what it expects, what it leaves, and where it says it starts.
#[derive(Debug, Default, PartialEq)]
struct Hunk<'a> {
    /// The line in the old file, from 1; none for a bare `@@`.
    line: Option<usize>,
    lines: Vec<Line<'a>>,
}

#[derive(Debug, PartialEq)]
struct Line<'a> {
    sign: Sign,
    text: &'a str,
    /// Whether `\ No newline at end of file` follows.
    open_end: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Sign {
    Keep,
    Remove,
    Add,
}

impl Hunk<'_> {
    fn old(&self) -> Vec<&str> {
        self.lines
            .iter()
            .filter(|line| line.sign != Sign::Add)
            .map(|line| line.text)
            .collect()
    }
}

/// The hunks of a diff of one file.
fn parse(diff: &str) -> Result<Vec<Hunk<'_>>, String> {
    let mut hunks: Vec<Hunk<'_>> = Vec::new();
    let (mut files, mut left) = (0, 0);
    let mut lines = diff.lines().peekable();
    while let Some(line) = lines.next() {
        let begins_file =
            left == 0 && line.starts_with("--- ") && lines.peek().is_some_and(|next| next.starts_with("+++ "));
        if begins_file {
            files += 1;
            if files > 1 || !hunks.is_empty() {
                return Err("it is about more than one file; send one diff for each".to_owned());
            }
            lines.next();
        } else if line.starts_with("@@") {
            let (at, count) = header(line).ok_or_else(|| format!("hunk {} has a broken header", hunks.len() + 1))?;
            left = count;
            hunks.push(Hunk {
                line: at,
                lines: Vec::new(),
            });
        } else if let Some(hunk) = hunks.last_mut() {
            if line.starts_with('\\') {
                if let Some(last) = hunk.lines.last_mut() {
                    last.open_end = true;
                }
                continue;
            }
            let line = body(line).ok_or_else(|| {
                let shown: String = line.chars().take(40).collect();
                format!(
                    "hunk {} has the line `{shown}`, which begins with none of ` `, `+`, `-`",
                    hunks.len()
                )
            });
            let line = line?;
            if line.sign != Sign::Add {
                left = left.saturating_sub(1);
            }
            if let Some(hunk) = hunks.last_mut() {
                hunk.lines.push(line);
            }
        }
    }
    if hunks.is_empty() {
        return Err("it has no hunk; a hunk begins with `@@`".to_owned());
    }
    if let Some(empty) = hunks
        .iter()
        .position(|hunk| hunk.lines.iter().all(|line| line.sign == Sign::Keep))
    {
        return Err(format!("hunk {} changes nothing", empty + 1));
    }
    Ok(hunks)
}

/// One line of a hunk. An empty one is an empty line that is kept: editors strip the space.
fn body(line: &str) -> Option<Line<'_>> {
    let sign = match line.as_bytes().first() {
        None | Some(b' ') => Sign::Keep,
        Some(b'-') => Sign::Remove,
        Some(b'+') => Sign::Add,
        Some(_) => return None,
    };
    Some(Line {
        sign,
        text: line.get(1..).unwrap_or_default(),
        open_end: false,
    })
}

/// Where a hunk starts in the old file, and how many old lines it says it has.
fn header(line: &str) -> Option<(Option<usize>, usize)> {
    let inner = line.strip_prefix("@@")?.trim_start();
    let Some(old) = inner.strip_prefix('-') else {
        return (inner.is_empty() || inner.starts_with("@@") || inner.starts_with("...")).then_some((None, 0));
    };
    let old = old.split_whitespace().next()?;
    let (at, count) = old.split_once(',').unwrap_or((old, "1"));
    let (at, count) = (at.parse::<usize>().ok()?, count.parse::<usize>().ok()?);
    // A hunk without old lines names the line that it follows.
    Some((Some(if count == 0 { at.saturating_add(1) } else { at }), count))
}

/// Why hunks do not apply.
#[derive(Debug, PartialEq)]
enum Misfit {
    Hunk(String),
    Stopped(CallError),
}

fn apply(before: &str, hunks: &[Hunk<'_>], stop: &dyn Fn() -> Result<(), CallError>) -> Result<String, Misfit> {
    let lines: Vec<&str> = before.split_inclusive('\n').collect();
    let end = if lines.first().is_some_and(|line| line.ends_with("\r\n")) {
        "\r\n"
    } else {
        "\n"
    };
    let mut after = String::with_capacity(before.len());
    let (mut done, mut shift) = (0usize, 0isize);
    for (number, hunk) in hunks.iter().enumerate() {
        stop().map_err(Misfit::Stopped)?;
        let old = hunk.old();
        let expected = hunk
            .line
            .map(|line| line.saturating_sub(1).saturating_add_signed(shift));
        let at = place(&lines, &old, done, expected)
            .map_err(|reason| Misfit::Hunk(format!("hunk {} {reason}", number + 1)))?;
        if let Some(line) = hunk.line {
            shift = isize::try_from(at)
                .unwrap_or(isize::MAX)
                .saturating_sub_unsigned(line.saturating_sub(1));
        }
        for line in lines.get(done..at).unwrap_or_default() {
            push(&mut after, line, end);
        }
        let mut original = lines.get(at..).unwrap_or_default().iter();
        for line in &hunk.lines {
            match line.sign {
                Sign::Remove => drop(original.next()),
                // The file's own line, with its own end.
                Sign::Keep => push(&mut after, original.next().copied().unwrap_or_default(), end),
                Sign::Add => {
                    push(&mut after, line.text, end);
                    if !line.open_end {
                        after.push_str(end);
                    }
                }
            }
        }
        done = at + old.len();
    }
    for line in lines.get(done..).unwrap_or_default() {
        push(&mut after, line, end);
    }
    Ok(after)
}

/// Adds a line; one before it that has no end gets one.
fn push(text: &mut String, line: &str, end: &str) {
    if !line.is_empty() && !text.is_empty() && !text.ends_with('\n') {
        text.push_str(end);
    }
    text.push_str(line);
}

/// The line from which the old lines stand in the file: the nearest to where they are expected.
fn place(lines: &[&str], old: &[&str], from: usize, expected: Option<usize>) -> Result<usize, String> {
    let last = lines.len().checked_sub(old.len()).filter(|last| *last >= from);
    let Some(last) = last else {
        return Err("does not match: its lines are not in the file".to_owned());
    };
    let fits = |at: &usize| {
        lines
            .iter()
            .skip(*at)
            .zip(old)
            .all(|(line, old)| bare(line) == bare(old))
    };
    let Some(expected) = expected else {
        let mut all = (from..=last).filter(fits);
        return match (all.next(), all.next()) {
            (None, _) => Err("does not match: its lines are not in the file".to_owned()),
            (Some(at), None) => Ok(at),
            (Some(_), Some(_)) => Err("matches in several places; give it line numbers or more context".to_owned()),
        };
    };
    if old.is_empty() {
        // Nothing to find: it goes where it says, or to the end.
        return Ok(expected.clamp(from, last));
    }
    let expected = expected.clamp(from, last);
    let nearest = (0..=last - from).find_map(|distance| {
        let before = expected.checked_sub(distance).filter(|at| *at >= from);
        let after = expected.checked_add(distance).filter(|at| *at <= last);
        before.filter(fits).or_else(|| after.filter(fits))
    });
    nearest.ok_or_else(|| "does not match: its lines are not in the file".to_owned())
}

/// A line without its end.
fn bare(line: &str) -> &str {
    let line = line.strip_suffix('\n').unwrap_or(line);
    line.strip_suffix('\r').unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::tests::House;
    use super::*;

    fn patched(before: &str, diff: &str) -> Result<String, String> {
        match apply(before, &parse(diff)?, &|| Ok(())) {
            Ok(after) => Ok(after),
            Err(Misfit::Hunk(reason)) => Err(reason),
            Err(Misfit::Stopped(error)) => Err(error.to_string()),
        }
    }

    #[test]
    fn hunks_apply_where_their_lines_stand() {
        let file = "a\nb\nc\nd\ne\n";
        let table = [
            // With its header, without one, moved, and without numbers.
            ("--- a/x\n+++ b/x\n@@ -2,2 +2,2 @@\n b\n-c\n+C\n", "a\nb\nC\nd\ne\n"),
            ("@@ -1,2 +1,2 @@ fn\n b\n-c\n+C", "a\nb\nC\nd\ne\n"),
            ("@@ -40 +40 @@\n-d\n", "a\nb\nc\ne\n"),
            ("@@\n-a\n@@\n-e\n", "b\nc\nd\n"),
            ("@@ ... @@\n-e\n+E\n", "a\nb\nc\nd\nE\n"),
            // Insertions: after a line, at the beginning, at the end.
            ("@@ -2,0 +3 @@\n+x\n", "a\nb\nx\nc\nd\ne\n"),
            ("@@ -0,0 +1 @@\n+x\n", "x\na\nb\nc\nd\ne\n"),
            ("@@ -5,0 +6 @@\n+x\n", "a\nb\nc\nd\ne\nx\n"),
            // Counts that a model got wrong, several hunks whose places shift.
            (
                "@@ -1,9 +1,1 @@\n-a\n+1\n+2\n@@ -5 +6 @@\n-e\n+E\n",
                "1\n2\nb\nc\nd\nE\n",
            ),
            // The end of the file without a line end.
            ("@@ -5 +5 @@\n-e\n+E\n\\ No newline at end of file\n", "a\nb\nc\nd\nE"),
        ];
        for (diff, after) in table {
            assert_eq!(patched(file, diff).as_deref(), Ok(after), "{diff}");
        }
        assert_eq!(
            patched("a\r\nb\r\n", "@@ -1,2 +1,2 @@\n a\n-b\n+c\n").unwrap(),
            "a\r\nc\r\n"
        );
        assert_eq!(patched("a", "@@ -1 +1,2 @@\n a\n+b\n").unwrap(), "a\nb\n");
        assert_eq!(patched("a\n\nb\n", "@@ -1,3 +1,2 @@\n a\n\n-b\n").unwrap(), "a\n\n");
        assert_eq!(patched("", "@@ -0,0 +1 @@\n+x\n").unwrap(), "x\n");
        assert_eq!(patched("-- x\n", "@@ -1 +1 @@\n--- x\n+++ y\n").unwrap(), "++ y\n");
        // The nearest place counts.
        assert_eq!(
            patched("x\na\nx\nb\nx\n", "@@ -4 +4 @@\n-x\n+y\n").unwrap(),
            "x\na\ny\nb\nx\n"
        );
    }

    #[test]
    fn what_does_not_apply_names_the_hunk() {
        let file = "a\nb\na\n";
        let table = [
            ("", "it has no hunk; a hunk begins with `@@`"),
            ("words", "it has no hunk; a hunk begins with `@@`"),
            ("@@ -1 +1 @@\n a\n", "hunk 1 changes nothing"),
            ("@@ -x +1 @@\n-a\n", "hunk 1 has a broken header"),
            (
                "@@ -1 +1 @@\n-a\n*b\n",
                "hunk 1 has the line `*b`, which begins with none of ` `, `+`, `-`",
            ),
            (
                "@@ -1 +1 @@\n-a\n@@ -2 +2 @@\n-c\n",
                "hunk 2 does not match: its lines are not in the file",
            ),
            (
                "@@ -1,4 +1 @@\n-a\n-b\n-a\n-b\n",
                "hunk 1 does not match: its lines are not in the file",
            ),
            (
                "@@\n-a\n",
                "hunk 1 matches in several places; give it line numbers or more context",
            ),
            (
                "--- a\n+++ a\n@@ -1 +1 @@\n-a\n--- b\n+++ b\n@@ -1 +1 @@\n-a\n",
                "it is about more than one file; send one diff for each",
            ),
        ];
        for (diff, reason) in table {
            assert_eq!(patched(file, diff), Err(reason.to_owned()), "{diff}");
        }
    }

    #[test]
    fn a_diff_that_does_not_fit_changes_nothing() {
        let house = House::new(&[("a", "1\n2\n")]);
        let reply = house.ask("applyDiff", json!({ "path": "a", "diff": "@@ -2 +2 @@\n-2\n+two\n" }));
        assert_eq!(
            reply,
            json!({
                "path": "a",
                "result": "applied 1 hunks to a",
                "bytesWritten": 6,
                "hunks": 1,
                "diff": "--- a/a\n+++ b/a\n@@ -1,2 +1,2 @@\n 1\n-2\n+two\n",
            })
        );
        let refused = house.refused(
            "applyDiff",
            json!({ "path": "a", "diff": "@@ -1 +1 @@\n-1\n@@ -2 +2 @@\n-2\n" }),
        );
        assert_eq!(
            refused,
            "invalid: the diff does not apply to `a`: hunk 2 does not match: its lines are not in the file; nothing was changed"
        );
        assert_eq!(house.text("a"), "1\ntwo\n");
        assert_eq!(
            house.refused("applyDiff", json!({ "path": "b", "diff": "" })),
            "not-found: `b` does not exist"
        );
    }

    fn lines() -> impl Strategy<Value = String> {
        (proptest::collection::vec("[ab@+\\- \\\\]{0,3}", 0..12), any::<bool>()).prop_map(|(lines, ended)| {
            let text = lines.join("\n");
            if ended && !text.is_empty() { text + "\n" } else { text }
        })
    }

    proptest! {
        #[test]
        fn every_real_diff_applies(before in lines(), after in lines()) {
            prop_assume!(before != after);
            let diff = difference("x", false, &before, &after);
            prop_assert_eq!(patched(&before, &diff), Ok(after), "{}", diff);
        }

        #[test]
        fn any_text_is_a_reply_and_never_a_defect(before in lines(), diff in "(@@ -[0-9]{1,20}(,[0-9]{1,20})? \\+1 @@|@@|[-+ ]a|[-+ ]|--- a|\\+\\+\\+ b|\\\\|\n){0,20}") {
            let _ = patched(&before, &diff);
        }
    }
}
