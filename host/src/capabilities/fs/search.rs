//! Searches text in files with ripgrep's own matcher. Skips binary files and what `.gitignore` names.

use std::fmt::Write as _;
use std::io::{self, Read};

use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder, sinks};
use serde::{Deserialize, Serialize};

use super::{Globs, Job, Patterns, shown};
use crate::call::CallError;
use crate::workspace::files::open_regular;
use crate::workspace::walk::{Next, Show, walk};
use crate::workspace::{Last, failed, invalid};

/// How much of one line is shown, in bytes.
const LINE_BYTES: usize = 1_000;
/// How long a line may be at all; a file with a longer one is left out from there.
const HEAP_BYTES: usize = 16 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct SearchFiles {
    path: String,
    regex: String,
    file_pattern: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct GrepSearch {
    #[serde(default)]
    path: String,
    pattern: String,
    include: Option<Patterns>,
    exclude: Option<Patterns>,
    case_sensitive: Option<bool>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Found {
    path: String,
    result: String,
    results: Vec<FileMatches>,
    match_count: usize,
    is_truncated: bool,
}

#[derive(Serialize)]
struct FileMatches {
    path: String,
    matches: Vec<Match>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Match {
    line_number: u64,
    content: String,
}

/// Searches a file, or all files below a folder, by a regular expression.
pub(super) fn search_files(job: &Job, message: SearchFiles) -> Result<Found, CallError> {
    let include = Globs::new("filePattern", message.file_pattern.map(Patterns::One))?;
    search(
        job,
        &message.path,
        matcher("regex", &message.regex, true)?,
        &include,
        &Globs(None),
    )
}

/// The same with the letter case as a choice and files to leave out.
pub(super) fn grep_search(job: &Job, message: GrepSearch) -> Result<Found, CallError> {
    let (include, exclude) = (
        Globs::new("include", message.include)?,
        Globs::new("exclude", message.exclude)?,
    );
    let matcher = matcher("pattern", &message.pattern, message.case_sensitive.unwrap_or(true))?;
    search(job, &message.path, matcher, &include, &exclude)
}

fn matcher(field: &str, pattern: &str, case_sensitive: bool) -> Result<RegexMatcher, CallError> {
    if pattern.is_empty() {
        return Err(invalid(format!("`{field}` is empty; write what to search for")));
    }
    RegexMatcherBuilder::new()
        .case_insensitive(!case_sensitive)
        .line_terminator(Some(b'\n'))
        .build(pattern)
        .map_err(|error| invalid(format!("`{field}` is not a regular expression for one line: {error}")))
}

fn search(
    job: &Job,
    written: &str,
    matcher: RegexMatcher,
    include: &Globs,
    exclude: &Globs,
) -> Result<Found, CallError> {
    let path = job.path(written)?;
    let mut search = Search::new(job, matcher);
    let place = job.workspace().locate(&path, Last::Followed)?;
    if place.metadata().is_some_and(|metadata| !metadata.is_dir()) {
        job.must_read(&path, place.real())?;
        let (file, _) = job.workspace().open_file(&path)?;
        search.file(file, &path)?;
    } else {
        walk(
            job.workspace(),
            &path,
            Show {
                gitignore: true,
                hidden: true,
            },
            &|| job.stop(),
            &mut |entry| {
                let wanted = entry.metadata.is_file() && include.allows(entry.path) && !exclude.matches(entry.path);
                if wanted
                    && entry.named
                    && job.may_read(entry.path)
                    && let Ok((file, _)) = open_regular(entry.folder, entry.name, entry.path)
                {
                    search.file(file, entry.path)?;
                }
                Ok(if search.full { Next::End } else { Next::Into })
            },
        )?;
    }
    let (result, is_truncated) = (search.text(), search.full);
    Ok(Found {
        path,
        result,
        match_count: search.count,
        results: search.results,
        is_truncated,
    })
}

struct Search<'a> {
    job: &'a Job,
    matcher: RegexMatcher,
    searcher: Searcher,
    results: Vec<FileMatches>,
    count: usize,
    /// Whether there are more matches than may be shown.
    full: bool,
}

impl<'a> Search<'a> {
    fn new(job: &'a Job, matcher: RegexMatcher) -> Self {
        let searcher = SearcherBuilder::new()
            .binary_detection(BinaryDetection::quit(0))
            .heap_limit(Some(HEAP_BYTES))
            .build();
        Self {
            job,
            matcher,
            searcher,
            results: Vec::new(),
            count: 0,
            full: false,
        }
    }

    fn file(&mut self, file: impl Read, path: &str) -> Result<(), CallError> {
        let (job, limit) = (self.job, self.job.limits.matches);
        let (count, full) = (&mut self.count, &mut self.full);
        let mut matches = Vec::new();
        let sink = sinks::Bytes(|line_number, line| {
            if *count >= limit {
                *full = true;
                return Ok(false);
            }
            *count += 1;
            matches.push(Match {
                line_number,
                content: shorten(line),
            });
            Ok(true)
        });
        let result = self
            .searcher
            .search_reader(&self.matcher, Stoppable { job, file }, sink);
        job.stop()?;
        match result {
            // A line too long to hold: what was found before it still counts.
            Ok(()) | Err(_) if !matches.is_empty() => {
                self.results.push(FileMatches {
                    path: path.to_owned(),
                    matches,
                });
                Ok(())
            }
            Err(error) if error.raw_os_error().is_some() => Err(failed(path, &error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for file in &self.results {
            let _ = writeln!(text, "{}", shown(&file.path));
            for found in &file.matches {
                let _ = writeln!(text, "{}: {}", found.line_number, found.content);
            }
        }
        let _ = match (self.count, self.full) {
            (0, _) => write!(text, "nothing matches"),
            (count, false) => write!(text, "({count} matches in {} files)", self.results.len()),
            (count, true) => {
                write!(
                    text,
                    "({count} matches shown; there are more, and the limit `files.matches` cut them)"
                )
            }
        };
        text
    }
}

/// A matched line for people: without its end, and not endless.
fn shorten(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches(['\n', '\r']);
    match text.len() {
        0..=LINE_BYTES => text.to_owned(),
        _ => format!(
            "{}…",
            text.get(..text.floor_char_boundary(LINE_BYTES)).unwrap_or_default()
        ),
    }
}

/// A file whose reading ends when the call does.
struct Stoppable<'a, F> {
    job: &'a Job,
    file: F,
}

impl<F: Read> Read for Stoppable<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.job.stop().map_err(io::Error::other)?;
        self.file.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;
    use tokio_util::sync::CancellationToken;

    use super::super::tests::House;
    use super::*;
    use crate::config::Files;

    /// Lines without end; the call is cancelled on the way.
    struct Endless {
        cancel: CancellationToken,
        left: usize,
    }

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.left.checked_sub(1) {
                Some(left) => self.left = left,
                None => self.cancel.cancel(),
            }
            buffer.fill(b'\n');
            Ok(buffer.len())
        }
    }

    #[test]
    fn text_is_found_by_regular_expression() {
        let files = [
            ("src/a.rs", "fn one() {}\nFN two\n"),
            ("src/b.txt", "fn three\r\n"),
            ("target/c.rs", "fn four\n"),
            (".gitignore", "target\n"),
            (".git/d.rs", "fn five\n"),
            ("long", &format!("fn {}", "é".repeat(600))),
        ];
        let house = House::with(
            Files {
                matches: 3,
                ..Files::default()
            },
            &files,
        );
        fs::write(house.root().join("bin.rs"), b"fn bin\n\0\n").unwrap();
        let found = house.ask(
            "searchFiles",
            json!({ "path": "src", "regex": "^fn \\w+", "filePattern": "*.rs" }),
        );
        let expected = json!({
            "path": "src",
            "result": "src/a.rs\n1: fn one() {}\n(1 matches in 1 files)",
            "results": [{ "path": "src/a.rs", "matches": [{ "lineNumber": 1, "content": "fn one() {}" }] }],
            "matchCount": 1,
            "isTruncated": false,
        });
        assert_eq!(found, expected);
        assert_eq!(
            house.ask("searchFiles", json!({ "path": "src/b.txt", "regex": "fn" }))["results"][0]["matches"][0]["content"],
            "fn three"
        );
        assert_eq!(
            house.ask("searchFiles", json!({ "path": ".", "regex": "five|four|bin" }))["result"],
            "nothing matches"
        );
        let found = house.ask(
            "grepSearch",
            json!({ "pattern": "fn ", "caseSensitive": false, "exclude": ["long"] }),
        );
        assert_eq!(
            (&found["matchCount"], &found["isTruncated"]),
            (&json!(3), &json!(false))
        );
        let found = house.ask("grepSearch", json!({ "pattern": "fn ", "caseSensitive": false }));
        assert_eq!((&found["matchCount"], &found["isTruncated"]), (&json!(3), &json!(true)));
        assert!(
            found["result"]
                .as_str()
                .unwrap()
                .ends_with("(3 matches shown; there are more, and the limit `files.matches` cut them)")
        );
        let long = found["results"][0]["matches"][0]["content"].as_str().unwrap();
        assert!(long.ends_with("é…") && long.len() < 1_010, "{}", long.len());
        let found = house.ask(
            "grepSearch",
            json!({ "path": "src", "pattern": "FN", "include": "*.rs" }),
        );
        assert_eq!(
            found["results"][0]["matches"],
            json!([{ "lineNumber": 2, "content": "FN two" }])
        );
        assert!(
            house
                .refused("searchFiles", json!({ "path": ".", "regex": "(" }))
                .starts_with("invalid: `regex` is not a regular expression for one line: regex parse error")
        );
        assert!(
            house
                .refused("grepSearch", json!({ "pattern": "a\nb" }))
                .starts_with("invalid: `pattern` is not a regular expression for one line: ")
        );
        assert_eq!(
            house.refused("grepSearch", json!({ "pattern": "" })),
            "invalid: `pattern` is empty; write what to search for"
        );
        assert_eq!(
            house.refused("grepSearch", json!({ "path": "none", "pattern": "a" })),
            "not-found: `none` does not exist"
        );
        let many = vec!["*"; 257];
        assert_eq!(
            house.refused("grepSearch", json!({ "pattern": "a", "include": many })),
            "limit: `include` holds more than 256 patterns; use fewer"
        );
    }

    #[test]
    fn a_search_stops_in_the_middle_of_a_file() {
        let house = House::new(&[]);
        let call = house.call("grepSearch", &json!({ "pattern": "a" }));
        let cancel = call.cancel.clone();
        let job = Job {
            cancel: cancel.clone(),
            call,
            limits: Files::default(),
        };
        let mut search = Search::new(&job, matcher("pattern", "a", true).unwrap());
        let stopped = search.file(Endless { cancel, left: 100 }, "endless").unwrap_err();
        assert_eq!(
            stopped.to_string(),
            "cancelled: fsEvent:grepSearch was cancelled and stopped"
        );
    }

    #[test]
    fn a_line_too_long_to_hold_ends_its_file_and_no_other() {
        let endless_line = std::iter::repeat_n(b'x', HEAP_BYTES * 2).collect::<Vec<u8>>();
        let house = House::new(&[("b", "a\n")]);
        fs::write(house.root().join("a"), [b"a\n".as_slice(), &endless_line].concat()).unwrap();
        let found = house.ask("grepSearch", json!({ "pattern": "a" }));
        assert_eq!(found["result"], "a\n1: a\nb\n1: a\n(2 matches in 2 files)");
    }
}
