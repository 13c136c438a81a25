//! Lists what source files define, line by line and by keyword.
//!
//! It is an outline for finding one's way, not a parser: it knows Rust, JavaScript, TypeScript, Python, Go, Java, C and
//! C++, looks at one line at a time, and takes a definition inside a comment or a string of several lines for one.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{Job, shown};
use crate::call::CallError;
use crate::workspace::walk::{Next, Show, walk};
use crate::workspace::{Last, invalid};

/// The longest line that is looked at, in bytes: a longer one was not written by hand.
const LINE_BYTES: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListDefinitions {
    path: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Definitions {
    path: String,
    result: String,
    definitions: Vec<Definition>,
    is_truncated: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Definition {
    path: String,
    line_number: usize,
    kind: &'static str,
    name: String,
}

/// Lists the definitions of one source file, or of all that lie directly in a folder.
pub(super) fn list(job: &Job, message: ListDefinitions) -> Result<Definitions, CallError> {
    let path = job.path(&message.path)?;
    let mut files = Vec::new();
    let place = job.workspace().locate(&path, Last::Followed)?;
    if place.metadata().is_some_and(|metadata| !metadata.is_dir()) {
        if Language::of(&path).is_none() {
            return Err(invalid(format!(
                "`{path}` is in no language that is known; it takes {}",
                Language::ENDINGS
            )));
        }
        job.must_read(&path, place.real())?;
        files.push(path.clone());
    } else {
        walk(
            job.workspace(),
            &path,
            Show {
                gitignore: true,
                hidden: false,
            },
            &|| job.stop(),
            &mut |entry| {
                let source = entry.metadata.is_file() && entry.named && Language::of(entry.path).is_some();
                if source && job.may_read(entry.path) {
                    files.push(entry.path.to_owned());
                }
                Ok(Next::Past)
            },
        )?;
    }
    let most = job.limits.matches;
    let (mut definitions, mut is_truncated) = (Vec::new(), false);
    for file in &files {
        let Some(language) = Language::of(file) else { continue };
        let text = match job.read_text(file) {
            Ok(text) => text,
            Err(error) if *file == path => return Err(error),
            // One file among many that is binary, too large or gone: the others still tell.
            Err(_) => {
                job.stop()?;
                continue;
            }
        };
        for (number, line) in text.lines().enumerate() {
            let Some((kind, name)) = language.definition(line) else {
                continue;
            };
            if definitions.len() >= most {
                is_truncated = true;
                break;
            }
            let name = name.to_owned();
            definitions.push(Definition {
                path: file.clone(),
                line_number: number + 1,
                kind,
                name,
            });
        }
    }
    let result = text(&definitions, is_truncated);
    Ok(Definitions {
        path,
        result,
        definitions,
        is_truncated,
    })
}

fn text(definitions: &[Definition], is_truncated: bool) -> String {
    let (mut text, mut file) = (String::new(), None);
    for definition in definitions {
        if file != Some(&definition.path) {
            let _ = writeln!(text, "{}", shown(&definition.path));
            file = Some(&definition.path);
        }
        let _ = writeln!(
            text,
            "{}: {} {}",
            definition.line_number, definition.kind, definition.name
        );
    }
    let count = definitions.len();
    let _ = match (count, is_truncated) {
        (0, _) => write!(text, "no definitions found"),
        (_, false) => write!(text, "({count} definitions)"),
        (_, true) => {
            write!(
                text,
                "({count} definitions shown; there are more, and the limit `files.matches` cut them)"
            )
        }
    };
    text
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Language {
    Rust,
    Script,
    Python,
    Go,
    Java,
    C,
}

/// What each language writes before a name, and what the outline calls it.
const RUST: &[(&str, &str)] = &[
    ("fn", "function"),
    ("struct", "struct"),
    ("enum", "enum"),
    ("union", "union"),
    ("trait", "trait"),
    ("mod", "module"),
    ("type", "type"),
    ("macro_rules!", "macro"),
];
const SCRIPT: &[(&str, &str)] = &[
    ("function", "function"),
    ("function*", "function"),
    ("class", "class"),
    ("interface", "interface"),
    ("enum", "enum"),
    ("type", "type"),
    ("namespace", "namespace"),
];
const PYTHON: &[(&str, &str)] = &[("def", "function"), ("class", "class")];
const GO: &[(&str, &str)] = &[("func", "function"), ("type", "type")];
const JAVA: &[(&str, &str)] = &[
    ("class", "class"),
    ("interface", "interface"),
    ("enum", "enum"),
    ("record", "record"),
    ("@interface", "interface"),
];
const C: &[(&str, &str)] = &[
    ("struct", "struct"),
    ("class", "class"),
    ("enum", "enum"),
    ("union", "union"),
    ("namespace", "namespace"),
    ("#define", "macro"),
];
/// Words that may stand before any of those.
const BEFORE: &[&str] = &[
    "pub",
    "pub(crate)",
    "pub(super)",
    "pub(self)",
    "async",
    "const",
    "unsafe",
    "extern",
    "\"C\"",
    "default",
    "export",
    "declare",
    "abstract",
    "public",
    "private",
    "protected",
    "static",
    "final",
    "sealed",
    "non-sealed",
    "strictfp",
    "typedef",
    "inline",
];
/// Words that look like the name of a function with a body, and are not.
const NOT_NAMES: &[&str] = &[
    "if",
    "for",
    "while",
    "switch",
    "catch",
    "return",
    "else",
    "do",
    "new",
    "throw",
    "sizeof",
    "synchronized",
    "try",
    "assert",
    "function",
    "with",
    "await",
    "super",
    "this",
    "case",
];

impl Language {
    const ENDINGS: &'static str =
        ".rs, .js, .jsx, .mjs, .cjs, .ts, .tsx, .py, .go, .java, .c, .h, .cc, .cpp, .cxx, .hpp, .hh";

    fn of(path: &str) -> Option<Self> {
        Some(match path.rsplit_once('.')?.1 {
            "rs" => Self::Rust,
            "js" | "jsx" | "mjs" | "cjs" | "ts" | "tsx" => Self::Script,
            "py" => Self::Python,
            "go" => Self::Go,
            "java" => Self::Java,
            "c" | "h" | "cc" | "cpp" | "cxx" | "hpp" | "hh" => Self::C,
            _ => return None,
        })
    }

    /// What a line defines: what sort of thing, and its name.
    fn definition(self, line: &str) -> Option<(&'static str, &str)> {
        let code = line.trim();
        if line.len() > LINE_BYTES || code.is_empty() || code.starts_with("//") || code.starts_with(['*', '\'']) {
            return None;
        }
        let keywords = match self {
            Self::Rust => RUST,
            Self::Script => SCRIPT,
            Self::Python => PYTHON,
            Self::Go => GO,
            Self::Java => JAVA,
            Self::C => C,
        };
        if let Some(found) = by_keyword(code, keywords) {
            // `struct point p;` and `struct point *make(void) {` use the name; they do not define it.
            let uses = self == Self::C
                && !found.0.eq("macro")
                && (code.contains('(') || (code.ends_with(';') && !code.contains('{')));
            if !uses {
                return Some(found);
            }
        }
        match self {
            Self::Rust | Self::Python | Self::Go => None,
            Self::Script => assigned_function(code).or_else(|| function_with_body(code, 0)),
            Self::Java | Self::C => function_with_body(code, 1),
        }
    }
}

/// `[words before] keyword name`.
fn by_keyword<'a>(code: &'a str, keywords: &[(&str, &'static str)]) -> Option<(&'static str, &'a str)> {
    let mut rest = code;
    loop {
        let (word, after) = rest.split_once(char::is_whitespace)?;
        let after = after.trim_start();
        if let Some((_, kind)) = keywords.iter().find(|(keyword, _)| *keyword == word) {
            // A Go method names its receiver first.
            let after = match after.strip_prefix('(') {
                Some(receiver) if word == "func" => receiver.split_once(')')?.1.trim_start(),
                _ => after,
            };
            // `enum class Name`.
            let after = match after.split_once(char::is_whitespace) {
                Some(("class" | "struct", after)) if word == "enum" => after.trim_start(),
                _ => after,
            };
            return Some((kind, identifier(after)?));
        }
        if !BEFORE.contains(&word) {
            return None;
        }
        rest = after;
    }
}

/// `const name = (…) =>` and `const name = function`.
fn assigned_function(code: &str) -> Option<(&'static str, &str)> {
    let code = code.strip_prefix("export ").unwrap_or(code);
    let after = ["const ", "let ", "var "]
        .iter()
        .find_map(|word| code.strip_prefix(word))?;
    let name = identifier(after.trim_start())?;
    let value = after.split_once('=')?.1.trim_start();
    let value = value.strip_prefix("async ").unwrap_or(value).trim_start();
    (value.starts_with("function") || code.contains("=>")).then_some(("function", name))
}

/// `words name(…) {`, with at least so many words before the name.
fn function_with_body(code: &str, words: usize) -> Option<(&'static str, &str)> {
    let (head, after) = code.split_once('(')?;
    let has_body = code.ends_with('{') || (after.ends_with(')') && words > 0 && !head.contains('='));
    if !has_body || head.contains(['=', '"', '\'', ';', '.', '}']) || head.starts_with('#') {
        return None;
    }
    let start = head
        .rfind(|letter: char| !is_name(letter) && letter != '~')
        .map_or(0, |at| at + 1);
    let name = head
        .get(start..)
        .filter(|name| identifier(name).is_some() || name.starts_with('~'))?;
    let mut before = head.get(..start)?.split_whitespace();
    let unusual = NOT_NAMES.contains(&name) || before.clone().any(|word| NOT_NAMES.contains(&word));
    (!unusual && before.by_ref().count() >= words).then_some(("function", name))
}

fn identifier(text: &str) -> Option<&str> {
    let end = text.find(|letter: char| !is_name(letter)).unwrap_or(text.len());
    let name = text.get(..end)?;
    name.starts_with(|letter: char| !letter.is_ascii_digit())
        .then_some(name)
}

fn is_name(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_' || letter == '$'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::tests::House;
    use super::*;
    use crate::config::Files;

    #[test]
    fn definitions_are_found_by_language() {
        let table = [
            ("a.rs", "pub(crate) async fn run<T>() {", "function run"),
            ("a.rs", "    const unsafe extern \"C\" fn raw();", "function raw"),
            ("a.rs", "pub struct Point;", "struct Point"),
            ("a.rs", "macro_rules! check {", "macro check"),
            ("a.rs", "// fn comment()", "-"),
            ("a.rs", "let x = call(fn_name);", "-"),
            ("a.ts", "export default class Tree extends Node {", "class Tree"),
            ("a.ts", "export const load = async (path) => {", "function load"),
            ("a.ts", "  async render(view: View): void {", "function render"),
            ("a.ts", "  if (ready) {", "-"),
            ("a.ts", "  return call(value) {", "-"),
            ("a.js", "function* walk(tree) {", "function walk"),
            ("a.ts", "interface Shape {", "interface Shape"),
            ("a.py", "    async def read(self):", "function read"),
            ("a.py", "class Tree(Node):", "class Tree"),
            ("a.go", "func (t *Tree) Walk(f func()) {", "function Walk"),
            ("a.go", "type Tree struct {", "type Tree"),
            ("A.java", "public final class Tree<T> {", "class Tree"),
            ("A.java", "    private static int size(Tree tree) {", "function size"),
            ("A.java", "    } else if (x) {", "-"),
            ("A.java", "    return new Tree(x) {", "-"),
            ("a.c", "static int main(int argc, char **argv) {", "function main"),
            ("a.c", "struct point {", "struct point"),
            ("a.c", "struct point *make(void) {", "function make"),
            ("a.c", "struct point p;", "-"),
            ("a.c", "#define MAX(a, b) ((a) > (b))", "macro MAX"),
            ("a.c", "while (running) {", "-"),
            ("a.cpp", "enum class Color : int {", "enum Color"),
            ("a.cpp", "namespace trees {", "namespace trees"),
        ];
        for (file, line, expected) in table {
            let found = Language::of(file).unwrap().definition(line);
            let found = found.map_or("-".to_owned(), |(kind, name)| format!("{kind} {name}"));
            assert_eq!(found, expected, "{line}");
        }
    }

    #[test]
    fn a_file_and_a_folder_are_outlined() {
        let files = [
            ("src/a.rs", "struct A;\n\nfn b() {}\n"),
            ("src/c.py", "def c(): pass\n"),
            ("src/deep/d.rs", "fn d() {}"),
        ];
        let house = House::with(
            Files {
                matches: 2,
                ..Files::default()
            },
            &files,
        );
        std::fs::write(house.root().join("src/bin.c"), b"\xff").unwrap();
        let one = house.ask("listCodeDefinitionNames", json!({ "path": "src/a.rs" }));
        assert_eq!(
            one,
            json!({
                "path": "src/a.rs",
                "result": "src/a.rs\n1: struct A\n3: function b\n(2 definitions)",
                "definitions": [
                    { "path": "src/a.rs", "lineNumber": 1, "kind": "struct", "name": "A" },
                    { "path": "src/a.rs", "lineNumber": 3, "kind": "function", "name": "b" },
                ],
                "isTruncated": false,
            })
        );
        let folder = house.ask("listCodeDefinitionNames", json!({ "path": "src" }));
        assert_eq!(
            folder["result"],
            "src/a.rs\n1: struct A\n3: function b\n\
             (2 definitions shown; there are more, and the limit `files.matches` cut them)"
        );
        assert_eq!(
            house.ask("listCodeDefinitionNames", json!({ "path": "." }))["result"],
            "no definitions found"
        );
        std::fs::write(house.root().join("a.txt"), "").unwrap();
        let unknown = house.refused("listCodeDefinitionNames", json!({ "path": "a.txt" }));
        assert!(
            unknown.starts_with("invalid: `a.txt` is in no language that is known; it takes .rs, .js, "),
            "{unknown}"
        );
        let binary = house.refused("listCodeDefinitionNames", json!({ "path": "src/bin.c" }));
        assert_eq!(
            binary,
            "invalid: `src/bin.c` is binary (1 bytes); only UTF-8 text can be read"
        );
    }

    proptest! {
        #[test]
        fn any_line_is_taken(line in "\\PC{0,60}|((fn|class|enum|func|const|#define|[({=;)]|é|\\$| )){0,12}") {
            for file in ["a.rs", "a.ts", "a.py", "a.go", "a.java", "a.c"] {
                if let Some((_, name)) = Language::of(file).and_then(|language| language.definition(&line)) {
                    prop_assert!(line.contains(name) && !name.is_empty());
                }
            }
        }
    }
}
