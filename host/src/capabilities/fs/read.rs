//! Reads text: one file, whole or a range of lines, or many at once. Binary content is an error, never a guess.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};

use serde::{Deserialize, Serialize};

use super::{Globs, Job, Patterns, binary, shown};
use crate::call::CallError;
use crate::error::ErrorKind;
use crate::workspace::files::CHUNK;
use crate::workspace::walk::{Next, Show, walk};
use crate::workspace::{Last, failed, invalid, not_found};

/// How many files `readManyFiles` reads when the message does not say.
const MANY_FILES: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadFile {
    path: String,
    /// Lines to leave out at the beginning.
    offset: Option<usize>,
    /// Lines to read at most.
    limit: Option<usize>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FileText {
    path: String,
    content: String,
    encoding: &'static str,
    size: u64,
    is_truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    lines_shown: Option<[usize; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    original_line_count: Option<usize>,
}

/// Reads a file whole, or a range of its lines when the message asks for one.
pub(super) fn read_file(job: &Job, message: ReadFile) -> Result<FileText, CallError> {
    let path = job.path(&message.path)?;
    if message.offset.is_none() && message.limit.is_none() {
        let content = job.read_text(&path)?;
        let size = content.len() as u64;
        let reply = FileText {
            path,
            content,
            encoding: "utf-8",
            size,
            is_truncated: false,
            lines_shown: None,
            original_line_count: None,
        };
        return Ok(reply);
    }
    let offset = message.offset.unwrap_or(0);
    lines(
        job,
        path,
        offset,
        offset.saturating_add(message.limit.unwrap_or(usize::MAX)),
    )
}

/// Reads the lines from `begin` up to but without `end`, counted from 0, without reading what follows them.
fn lines(job: &Job, path: String, begin: usize, end: usize) -> Result<FileText, CallError> {
    let (file, metadata) = job.workspace().open_file(&path)?;
    let mut reader = BufReader::with_capacity(CHUNK, file);
    let (mut content, mut line, mut midway) = (Vec::new(), 0, false);
    let too_large = || {
        let limit = job.limits.file;
        let message = format!(
            "the lines of `{path}` have more than the {limit} bytes of the limit `files.file`; read fewer lines"
        );
        CallError::new(ErrorKind::Limit, message)
    };
    let is_truncated = 'read: loop {
        job.stop()?;
        let buffer = reader.fill_buf().map_err(|error| failed(&path, &error))?;
        if buffer.is_empty() {
            break false;
        }
        for piece in buffer.split_inclusive(|byte| *byte == b'\n') {
            if line >= end {
                break 'read true;
            }
            if line >= begin {
                content.extend_from_slice(piece);
                if content.len() > job.limits.file {
                    return Err(too_large());
                }
            }
            midway = !piece.ends_with(b"\n");
            line += usize::from(!midway);
        }
        let used = buffer.len();
        reader.consume(used);
    };
    let content = String::from_utf8(content).map_err(|_| binary(&path, metadata.len()))?;
    let last = line + usize::from(midway);
    Ok(FileText {
        path,
        content,
        encoding: "utf-8",
        size: metadata.len(),
        is_truncated,
        lines_shown: (last > begin).then_some([begin.saturating_add(1), last]),
        original_line_count: (!is_truncated).then_some(last),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ReadManyFiles {
    paths: Vec<String>,
    include: Option<Patterns>,
    exclude: Option<Patterns>,
    max_files: Option<usize>,
    max_total_size: Option<usize>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ManyFiles {
    files: Vec<OneFile>,
    total_files: usize,
    successfully_read: usize,
    failed_to_read: usize,
    total_content_size: usize,
    is_truncated: bool,
}

#[derive(Default, Serialize)]
struct OneFile {
    path: String,
    success: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<usize>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

/// Reads the files that the paths name: a file, all files below a folder, or all that match a glob.
///
/// A file that cannot be read is told in its place and does not fail the call.
pub(super) fn read_many_files(job: &Job, message: ReadManyFiles) -> Result<ManyFiles, CallError> {
    if message.paths.is_empty() {
        return Err(invalid(
            "`paths` is empty; name at least one file, folder or glob".to_owned(),
        ));
    }
    let most = message.max_files.unwrap_or(MANY_FILES).min(job.limits.entries);
    let mut room = message.max_total_size.unwrap_or(job.limits.file).min(job.limits.file);
    let chosen = choose(job, &message.paths, message.include, message.exclude, most)?;
    let mut reply = ManyFiles {
        files: Vec::new(),
        total_files: chosen.files.len(),
        successfully_read: 0,
        failed_to_read: 0,
        total_content_size: 0,
        is_truncated: chosen.cut,
    };
    for file in chosen.files {
        job.stop()?;
        let file = match file.and_then(|path| {
            job.read_text(&path)
                .map(|text| (path.clone(), text))
                .map_err(|e| (path, e))
        }) {
            Ok((path, mut content)) => {
                let (size, truncated) = (content.len(), content.len() > room);
                content.truncate(content.floor_char_boundary(room));
                room -= content.len();
                reply.successfully_read += 1;
                reply.total_content_size += content.len();
                reply.is_truncated |= truncated;
                OneFile {
                    path,
                    success: true,
                    content: Some(content),
                    size: Some(size),
                    truncated,
                    error: None,
                }
            }
            Err((_, error)) if matches!(error.kind, ErrorKind::Cancelled | ErrorKind::Timeout) => return Err(error),
            Err((path, error)) => {
                reply.failed_to_read += 1;
                OneFile {
                    path,
                    error: Some(error.message),
                    ..OneFile::default()
                }
            }
        };
        reply.files.push(file);
    }
    Ok(reply)
}

/// The files that are to be read, each once, in order; a path that names nothing is its error.
struct Chosen {
    files: Vec<Result<String, (String, CallError)>>,
    seen: BTreeSet<String>,
    most: usize,
    cut: bool,
}

impl Chosen {
    /// Answers whether there is room for more.
    fn add(&mut self, path: &str) -> bool {
        if self.seen.contains(path) {
            return true;
        }
        if self.files.len() >= self.most {
            self.cut = true;
            return false;
        }
        self.seen.insert(path.to_owned());
        self.files.push(Ok(path.to_owned()));
        true
    }
}

fn choose(
    job: &Job,
    paths: &[String],
    include: Option<Patterns>,
    exclude: Option<Patterns>,
    most: usize,
) -> Result<Chosen, CallError> {
    let (include, exclude) = (Globs::new("include", include)?, Globs::new("exclude", exclude)?);
    let mut chosen = Chosen {
        files: Vec::new(),
        seen: BTreeSet::new(),
        most,
        cut: false,
    };
    for written in paths {
        job.stop()?;
        let found = job
            .path(written)
            .and_then(|path| Ok((job.workspace().locate(&path, Last::Followed)?, path)));
        let (start, glob) = match &found {
            Ok((place, path)) => match place.metadata() {
                Some(metadata) if metadata.is_dir() => (path.as_str(), Globs(None)),
                Some(_) => {
                    if let Err(error) = job.must_read(path, place.real()) {
                        chosen.files.push(Err((path.clone(), error)));
                    } else if !exclude.matches(path) && !chosen.add(path) {
                        break;
                    }
                    continue;
                }
                None if path.contains(['*', '?', '[', '{']) => {
                    ("", Globs::new("paths", Some(Patterns::One(format!("./{path}"))))?)
                }
                None => {
                    chosen.files.push(Err((path.clone(), not_found(shown(path)))));
                    continue;
                }
            },
            Err(error) => {
                chosen.files.push(Err((written.clone(), error.clone())));
                continue;
            }
        };
        walk(
            job.workspace(),
            start,
            Show {
                gitignore: true,
                hidden: true,
            },
            &|| job.stop(),
            &mut |entry| {
                let wanted = entry.metadata.is_file()
                    && entry.named
                    && glob.allows(entry.path)
                    && include.allows(entry.path)
                    && !exclude.matches(entry.path)
                    && job.may_read(entry.path);
                Ok(if wanted && !chosen.add(entry.path) {
                    Next::End
                } else {
                    Next::Into
                })
            },
        )?;
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::super::tests::House;
    use crate::config::Files;

    #[test]
    fn a_file_is_read_whole_or_by_lines() {
        let house = House::with(
            Files {
                file: 20,
                ..Files::default()
            },
            &[("a", "1\n2\n3\n4"), ("big", &"line\n".repeat(50))],
        );
        let whole =
            json!({ "path": "a", "content": "1\n2\n3\n4", "encoding": "utf-8", "size": 7, "isTruncated": false });
        assert_eq!(house.ask("readFile", json!({ "path": "./a" })), whole);
        let range = |path: &str, offset: usize, limit: usize| {
            let reply = house.ask("readFile", json!({ "path": path, "offset": offset, "limit": limit }));
            let field = |name: &str| reply.get(name).map_or("-".to_owned(), ToString::to_string);
            format!(
                "{} {} {} {}",
                field("content"),
                field("isTruncated"),
                field("linesShown"),
                field("originalLineCount")
            )
        };
        assert_eq!(range("a", 0, 2), r#""1\n2\n" true [1,2] -"#);
        assert_eq!(range("a", 2, 9), r#""3\n4" false [3,4] 4"#);
        assert_eq!(range("a", 9, 1), r#""" false - 4"#);
        assert_eq!(range("a", 0, 0), r#""" true - -"#);
        assert_eq!(range("big", 48, 4), r#""line\nline\n" false [49,50] 50"#);
        assert_eq!(
            house.refused("readFile", json!({ "path": "big" })),
            "limit: `big` has 250 bytes, more than the 20 of the limit `files.file`; read a range of lines"
        );
        assert_eq!(
            house.refused("readFile", json!({ "path": "big", "limit": 9 })),
            "limit: the lines of `big` have more than the 20 bytes of the limit `files.file`; read fewer lines"
        );
        assert_eq!(
            house.refused("writeToFile", json!({ "path": "c", "content": "x".repeat(21) })),
            "limit: the content for `c` has 21 bytes, more than the 20 of the limit `files.file`"
        );
        fs::write(house.root().join("bin"), b"ok\n\xff\0\n").unwrap();
        let binary = "invalid: `bin` is binary (6 bytes); only UTF-8 text can be read";
        assert_eq!(house.refused("readFile", json!({ "path": "bin" })), binary);
        assert_eq!(house.refused("readFile", json!({ "path": "bin", "offset": 1 })), binary);
        assert_eq!(
            house.ask("readFile", json!({ "path": "bin", "limit": 1 }))["content"],
            "ok\n"
        );
        assert_eq!(
            house.refused("readFile", json!({ "path": "none" })),
            "not-found: `none` does not exist"
        );
        assert_eq!(
            house.refused("readFile", json!({ "path": "." })),
            "invalid: the workspace itself cannot be meant here; name something inside it"
        );
    }

    #[test]
    fn many_files_are_read_by_name_folder_and_glob() {
        let files = [
            ("a.md", "# a"),
            ("src/b.rs", "b"),
            ("src/deep/c.rs", "c"),
            ("src/d.log", "d"),
            (".gitignore", "*.log"),
            ("docs/e.md", "é"),
        ];
        let house = House::new(&files);
        fs::write(house.root().join("bin"), b"\xff").unwrap();
        let read = |message: Value| {
            let reply = house.ask("readManyFiles", message);
            let files = reply["files"].as_array().unwrap().iter();
            let files: Vec<String> = files
                .map(|file| {
                    let path = file["path"].as_str().unwrap();
                    match file["error"].as_str() {
                        Some(error) => format!("{path}: {error}"),
                        None => format!("{path}={}", file["content"].as_str().unwrap()),
                    }
                })
                .collect();
            (files.join("; "), reply["isTruncated"].as_bool().unwrap())
        };
        let table = [
            (
                json!({ "paths": ["a.md", "src", "a.md"] }),
                "a.md=# a; src/b.rs=b; src/deep/c.rs=c",
                false,
            ),
            (
                json!({ "paths": ["**/*.rs"], "exclude": "deep/**" }),
                "src/b.rs=b; src/deep/c.rs=c",
                false,
            ),
            (json!({ "paths": ["src/*.rs"] }), "src/b.rs=b", false),
            (
                json!({ "paths": ["."], "include": "*.md" }),
                "a.md=# a; docs/e.md=é",
                false,
            ),
            (
                json!({ "paths": ["."], "include": ["*.rs"], "exclude": ["src/deep/*"] }),
                "src/b.rs=b",
                false,
            ),
            (json!({ "paths": ["src/d.log"] }), "src/d.log=d", false),
            (
                json!({ "paths": ["."], "maxFiles": 2 }),
                ".gitignore=*.log; a.md=# a",
                true,
            ),
            (
                json!({ "paths": ["docs", "a.md"], "maxTotalSize": 3 }),
                "docs/e.md=é; a.md=#",
                true,
            ),
            (json!({ "paths": ["docs"], "maxTotalSize": 1 }), "docs/e.md=", true),
            (
                json!({ "paths": ["none", "../x", "bin", "a.md"] }),
                "none: `none` does not exist; ../x: `../x` is outside the workspace; \
             bin: `bin` is binary (1 bytes); only UTF-8 text can be read; a.md=# a",
                false,
            ),
        ];
        for (message, files, truncated) in table {
            assert_eq!(read(message.clone()), (files.to_owned(), truncated), "{message}");
        }
        let counts = house.ask("readManyFiles", json!({ "paths": ["none", "a.md"] }));
        assert_eq!(counts["totalFiles"], 2);
        assert_eq!(
            (
                &counts["successfullyRead"],
                &counts["failedToRead"],
                &counts["totalContentSize"]
            ),
            (&json!(1), &json!(1), &json!(3))
        );
        assert_eq!(
            house.refused("readManyFiles", json!({ "paths": [] })),
            "invalid: `paths` is empty; name at least one file, folder or glob"
        );
        assert_eq!(
            house.refused("readManyFiles", json!({ "paths": ["a.md"], "include": "[" })),
            "invalid: `include` is not a glob: error parsing glob '**/[': unclosed character class; missing ']'"
        );
    }
}
