//! Lists folders, and finds files by a likeness of their name.

use std::cmp::Reverse;
use std::fmt::Write as _;

use cap_std::fs::Metadata;
use serde::{Deserialize, Serialize};

use super::{Globs, Job, Patterns, shown};
use crate::call::CallError;
use crate::workspace::invalid;
use crate::workspace::walk::{Entry, Next, Show, walk};

/// The longest query of `fuzzySearch`, in characters.
const QUERY: usize = 256;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileList {
    path: String,
    #[serde(default)]
    recursive: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Paths {
    path: String,
    result: String,
    files: Vec<String>,
    is_truncated: bool,
}

/// Lists a folder, or all below it without what `.gitignore` names. A folder ends with `/`.
pub(super) fn file_list(job: &Job, message: FileList) -> Result<Paths, CallError> {
    let path = job.path(&message.path)?;
    let show = Show {
        gitignore: message.recursive,
        hidden: true,
    };
    let (mut files, mut is_truncated) = (Vec::new(), false);
    walk(job.workspace(), &path, show, &|| job.stop(), &mut |entry| {
        if !job.may_meet(entry.path) {
            return Ok(Next::Past);
        }
        if files.len() >= job.limits.entries {
            is_truncated = true;
            return Ok(Next::End);
        }
        files.push(with_slash(entry.path, entry.metadata));
        Ok(if message.recursive { Next::Into } else { Next::Past })
    })?;
    let mut result = files.join("\n");
    if is_truncated {
        let _ = write!(result, "\n{}", cut(job));
    }
    Ok(Paths {
        path,
        result,
        files,
        is_truncated,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ListDirectory {
    path: String,
    ignore: Option<Patterns>,
    #[serde(default)]
    show_hidden: bool,
    limit: Option<usize>,
    #[serde(default)]
    detailed: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Directory {
    path: String,
    result: String,
    entries: Vec<Item>,
    total: usize,
    is_truncated: bool,
}

#[derive(Serialize)]
struct Item {
    name: String,
    path: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    modified: Option<String>,
}

/// Lists one folder with what each entry is, and on request its size and time.
pub(super) fn list_directory(job: &Job, message: ListDirectory) -> Result<Directory, CallError> {
    let path = job.path(&message.path)?;
    let ignore = Globs::new("ignore", message.ignore)?;
    let most = message.limit.unwrap_or(usize::MAX).min(job.limits.entries);
    let show = Show {
        gitignore: false,
        hidden: message.show_hidden,
    };
    let (mut entries, mut total) = (Vec::new(), 0);
    walk(job.workspace(), &path, show, &|| job.stop(), &mut |entry| {
        if !ignore.matches(entry.path) && job.may_meet(entry.path) {
            total += 1;
            if entries.len() < most {
                entries.push(item(entry, message.detailed));
            }
        }
        Ok(Next::Past)
    })?;
    let is_truncated = total > entries.len();
    let mut result = String::new();
    for item in &entries {
        let slash = if item.kind == "folder" { "/" } else { "" };
        let _ = match (item.size, &item.modified) {
            (Some(size), Some(modified)) => writeln!(result, "{}{slash}\t{size}\t{modified}", item.name),
            _ => writeln!(result, "{}{slash}", item.name),
        };
    }
    if is_truncated {
        let _ = writeln!(result, "({} of {total} entries shown)", entries.len());
    }
    Ok(Directory {
        path,
        result,
        entries,
        total,
        is_truncated,
    })
}

fn item(entry: &Entry<'_>, detailed: bool) -> Item {
    let metadata = entry.metadata;
    let kind = match metadata {
        metadata if metadata.is_dir() => "folder",
        metadata if metadata.is_symlink() => "link",
        metadata if metadata.is_file() => "file",
        _ => "other",
    };
    let modified = metadata
        .modified()
        .ok()
        .map(|time| humantime::format_rfc3339_seconds(time.into_std()).to_string());
    Item {
        name: entry.name.to_owned(),
        path: entry.path.to_owned(),
        kind,
        size: detailed.then(|| metadata.len()),
        modified: modified.filter(|_| detailed),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FuzzySearch {
    query: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Found {
    result: String,
    results: Vec<Hit>,
    is_truncated: bool,
}

#[derive(Serialize)]
struct Hit {
    path: String,
    score: i32,
}

/// Finds files whose path holds the letters of the query in order, the best likeness first.
pub(super) fn fuzzy_search(job: &Job, message: FuzzySearch) -> Result<Found, CallError> {
    let query: Vec<char> = message
        .query
        .to_lowercase()
        .chars()
        .filter(|letter| !letter.is_whitespace())
        .collect();
    if query.is_empty() || query.len() > QUERY {
        return Err(invalid(format!("`query` must have 1 to {QUERY} letters")));
    }
    let mut results = Vec::new();
    walk(
        job.workspace(),
        "",
        Show {
            gitignore: true,
            hidden: true,
        },
        &|| job.stop(),
        &mut |entry| {
            if entry.metadata.is_file()
                && let Some(score) = likeness(&query, entry.path)
                && job.may_meet(entry.path)
            {
                results.push(Hit {
                    path: entry.path.to_owned(),
                    score,
                });
            }
            Ok(Next::Into)
        },
    )?;
    results.sort_by(|one, other| (Reverse(one.score), &one.path).cmp(&(Reverse(other.score), &other.path)));
    let is_truncated = results.len() > job.limits.matches;
    results.truncate(job.limits.matches);
    let mut result = results
        .iter()
        .map(|hit| hit.path.as_str())
        .collect::<Vec<_>>()
        .join("\n");
    if is_truncated {
        let _ = write!(
            result,
            "\n({} files shown; more match, and the limit `files.matches` cut them)",
            results.len()
        );
    }
    Ok(Found {
        result,
        results,
        is_truncated,
    })
}

/// How well a path fits a query in lower case; none when its letters are not all there in order.
///
/// Looks in the name first and then in the whole path. Letters in a row and at the beginning of a word count more, long
/// paths less.
fn likeness(query: &[char], path: &str) -> Option<i32> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let length = i32::try_from(path.len()).unwrap_or(i32::MAX) / 8;
    match subsequence(query, name) {
        Some(score) => Some(score + 32 - length),
        None => subsequence(query, path).map(|score| score - length),
    }
}

fn subsequence(query: &[char], text: &str) -> Option<i32> {
    let (mut wanted, mut score, mut in_row, mut before) = (query.iter().peekable(), 0, 0, '/');
    for letter in text.chars() {
        let Some(next) = wanted.peek() else { break };
        if letter.to_lowercase().eq(std::iter::once(**next)) {
            let begins = !before.is_alphanumeric() || (before.is_lowercase() && letter.is_uppercase());
            score += 1 + in_row * 2 + if begins { 4 } else { 0 };
            in_row += 1;
            wanted.next();
        } else {
            in_row = 0;
        }
        before = letter;
    }
    wanted.peek().is_none().then_some(score)
}

fn with_slash(path: &str, metadata: &Metadata) -> String {
    if metadata.is_dir() {
        format!("{path}/")
    } else {
        shown(path).to_owned()
    }
}

fn cut(job: &Job) -> String {
    format!(
        "({} entries shown; there are more, and the limit `files.entries` cut them)",
        job.limits.entries
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use serde_json::json;

    use super::super::tests::House;
    use crate::config::Files;

    #[test]
    fn folders_are_listed_flat_and_deep() {
        let files = [
            ("b/c/d", ""),
            ("a", "12345"),
            (".hidden", ""),
            (".gitignore", "target\n"),
            ("target/x", ""),
            (".waypost/log", ""),
        ];
        let house = House::with(
            Files {
                entries: 5,
                ..Files::default()
            },
            &files,
        );
        fs::write(house.root().join(std::ffi::OsStr::from_bytes(b"z\xff")), "").unwrap();
        symlink("a", house.root().join("link")).unwrap();
        let flat = house.ask("fileList", json!({ "path": "." }));
        assert_eq!(flat["files"], json!([".gitignore", ".hidden", "a", "b/", "link"]));
        assert_eq!(flat["isTruncated"], true);
        assert_eq!(
            flat["result"],
            ".gitignore\n.hidden\na\nb/\nlink\n(5 entries shown; there are more, and the limit `files.entries` cut them)"
        );
        let deep = house.ask("fileList", json!({ "path": "b", "recursive": true }));
        assert_eq!(
            deep,
            json!({ "path": "b", "result": "b/c/\nb/c/d", "files": ["b/c/", "b/c/d"], "isTruncated": false })
        );
        assert_eq!(
            house.refused("fileList", json!({ "path": "a" })),
            "invalid: `a` is not a folder"
        );
        assert_eq!(
            house.refused("fileList", json!({ "path": "none" })),
            "not-found: `none` does not exist"
        );
        let listed = house.ask("listDirectory", json!({ "path": "", "ignore": "b" }));
        assert_eq!(listed["result"], "a\nlink\ntarget/\nz\u{fffd}\n");
        assert_eq!(
            listed["entries"][1],
            json!({ "name": "link", "path": "link", "kind": "link" })
        );
        let listed = house.ask(
            "listDirectory",
            json!({ "path": "", "showHidden": true, "limit": 2, "detailed": true }),
        );
        assert_eq!((&listed["total"], &listed["isTruncated"]), (&json!(7), &json!(true)));
        assert!(listed["result"].as_str().unwrap().ends_with("(2 of 7 entries shown)\n"));
        let entry = house.ask("listDirectory", json!({ "path": "", "detailed": true }))["entries"][0].clone();
        assert_eq!(entry["size"], 5);
        assert!(humantime::parse_rfc3339(entry["modified"].as_str().unwrap()).is_ok());
    }

    #[test]
    fn file_names_are_found_by_likeness() {
        let files = [
            ("src/capabilities/fs.rs", ""),
            ("src/offset.rs", ""),
            ("README.md", ""),
            ("docs/files.rst", ""),
        ];
        let house = House::with(
            Files {
                matches: 2,
                ..Files::default()
            },
            &files,
        );
        let found = |query: &str| {
            let reply = house.ask("fuzzySearch", json!({ "query": query }));
            (
                reply["result"].as_str().unwrap().to_owned(),
                reply["isTruncated"].as_bool().unwrap(),
            )
        };
        assert_eq!(found("readme"), ("README.md".to_owned(), false));
        assert_eq!(found("src cap"), ("src/capabilities/fs.rs".to_owned(), false));
        let more = "src/capabilities/fs.rs\ndocs/files.rst\n(2 files shown; more match, and the limit `files.matches` cut them)";
        assert_eq!(found("fsrs"), (more.to_owned(), true));
        assert_eq!(found("xyz"), (String::new(), false));
        assert_eq!(
            house.refused("fuzzySearch", json!({ "query": " " })),
            "invalid: `query` must have 1 to 256 letters"
        );
    }
}
