//! `sdk/reference.md`: the whole contract with its names in each SDK, written from `wit/` and compared with what is committed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::Value;
use wit_parser::{
    Docs, Function, FunctionKind, Handle, Interface, Resolve, Type, TypeDef, TypeDefKind, TypeOwner, WorldItem,
};

use crate::harness::guests;

mod names;

use names::NAMES;

crate::listed![
    the_reference_is_what_the_contract_says,
    every_name_in_the_reference_is_one_of_the_sdks,
];

/// The packages, each after those that it uses.
const PACKAGES: [&str; 10] = [
    "call",
    "gateway",
    "state",
    "log",
    "workspace",
    "http",
    "files",
    "process",
    "socket",
    "plugin",
];

/// Writes the file instead of comparing it.
const WRITE: &str = "WAYPOST_WRITE";

const HEAD: &str = "# Reference

The contract between the hub and a plugin, written from the WIT packages and the schemas in [wit/](../wit), and what each of
its items is called in the SDKs for Rust ([README](README.md)), JavaScript ([README](js/README.md)) and Python
([README](python/README.md)).

A field `time-left-ms` is `time_left_ms` in Rust and in Python and `timeLeftMs` in JavaScript. A case `not-found` of an error is
made with `CallError::not_found(…)` in Rust, `CallError.notFound(…)` in JavaScript and `CallError.not_found(…)` in Python. Where
an option is none it is `None` in Rust and in Python and `undefined` in JavaScript.
";

async fn the_reference_is_what_the_contract_says() {
    let file = guests::root().join("sdk/reference.md");
    let text = reference();
    if std::env::var_os(WRITE).is_some() {
        fs::write(&file, &text).unwrap();
    }
    let committed = fs::read_to_string(&file).unwrap_or_default();
    let differs = committed.lines().zip(text.lines()).position(|(old, new)| old != new);
    assert!(
        committed == text,
        "sdk/reference.md is not what wit/ says, from line {} on; write it again with\n  {WRITE}=1 cargo test --release --test \
         all -- reference::",
        differs.unwrap_or_else(|| committed.lines().count().min(text.lines().count())) + 1
    );
}

async fn every_name_in_the_reference_is_one_of_the_sdks() {
    let sources = [
        source("sdk/src", ".rs", &["//"]),
        source("sdk/js", ".d.ts", &["*", "/*"]),
        source("sdk/python/waypost_sdk", ".py", &["#", "\"\"\""]),
    ];
    for (item, names) in NAMES {
        for (names, source) in names.iter().zip(&sources) {
            for name in names.split('`').skip(1).step_by(2) {
                let last = name.trim_matches(['!', '"']).rsplit([':', '.']).next().unwrap();
                assert!(source.contains(last), "{item}: no SDK has `{last}` of `{name}`");
            }
        }
    }
}

/// The words of the sources of an SDK, without comments.
fn source(folder: &str, ending: &str, comments: &[&str]) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    for entry in fs::read_dir(guests::root().join(folder)).unwrap() {
        let path = entry.unwrap().path();
        if !path.to_string_lossy().ends_with(ending) {
            continue;
        }
        for line in fs::read_to_string(path).unwrap().lines() {
            if !comments.iter().any(|comment| line.trim_start().starts_with(comment)) {
                let part = |c: char| !c.is_alphanumeric() && c != '_';
                words.extend(line.split(part).map(str::to_owned));
            }
        }
    }
    words
}

fn reference() -> String {
    let mut resolve = Resolve::default();
    let mut text = HEAD.to_owned();
    let mut named = BTreeSet::new();
    for name in PACKAGES {
        let (id, _) = resolve.push_dir(guests::root().join("wit").join(name)).unwrap();
        let package = &resolve.packages[id];
        let mut of = Writer {
            resolve: &resolve,
            text: &mut text,
            named: &mut named,
        };
        of.head(2, &package.name.to_string(), &package.docs);
        for (name, id) in &package.interfaces {
            let path = format!("{}:{}/{name}", package.name.namespace, package.name.name);
            of.interface(&path, &resolve.interfaces[*id]);
        }
        for (name, id) in &package.worlds {
            let world = &resolve.worlds[*id];
            of.head(3, &format!("world {name}"), &world.docs);
            for (word, items) in [("imports", &world.imports), ("exports", &world.exports)] {
                for item in items.values() {
                    if let WorldItem::Interface { id, .. } = item {
                        let id = resolve.id_of(*id).unwrap();
                        writeln!(of.text, "- {word} `{id}`").unwrap();
                    }
                }
            }
        }
    }
    let unused: Vec<_> = NAMES.iter().filter(|(item, _)| !named.contains(*item)).collect();
    assert!(
        unused.is_empty(),
        "the contract has no {unused:?}; remove it from names.rs"
    );
    kinds(&guests::root().join("wit/kinds"), &mut text);
    text
}

struct Writer<'a> {
    resolve: &'a Resolve,
    text: &'a mut String,
    /// The items whose names were written.
    named: &'a mut BTreeSet<String>,
}

impl Writer<'_> {
    fn head(&mut self, level: usize, title: &str, docs: &Docs) {
        let marks = "#".repeat(level);
        self.apart();
        write!(self.text, "{marks} {title}\n\n").unwrap();
        self.docs(docs);
    }

    /// An empty line, if there is none.
    fn apart(&mut self) {
        if !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }

    fn docs(&mut self, docs: &Docs) {
        if let Some(docs) = &docs.contents {
            write!(self.text, "{}\n\n", docs.trim()).unwrap();
        }
    }

    fn interface(&mut self, path: &str, interface: &Interface) {
        self.head(3, path, &interface.docs);
        for (name, id) in &interface.types {
            let def = &self.resolve.types[*id];
            // What is only used here stands where it is defined.
            let used = matches!(def.kind, TypeDefKind::Type(Type::Id(_)));
            if !used {
                self.definition(path, name, def);
            }
            if matches!(def.kind, TypeDefKind::Resource) {
                let own = |function: &&Function| function.kind.resource() == Some(*id);
                for function in interface.functions.values().filter(own) {
                    self.function(&format!("{path}/{name}."), function);
                }
            }
        }
        for function in interface
            .functions
            .values()
            .filter(|function| function.kind.resource().is_none())
        {
            self.function(&format!("{path}/"), function);
        }
    }

    fn definition(&mut self, path: &str, name: &str, def: &TypeDef) {
        let of = match &def.kind {
            TypeDefKind::Type(of) => format!(" = {}", self.shown(of)),
            TypeDefKind::List(of) => format!(" = list<{}>", self.shown(of)),
            _ => String::new(),
        };
        let kind = match &def.kind {
            TypeDefKind::Record(_) => "record",
            TypeDefKind::Variant(_) => "variant",
            TypeDefKind::Enum(_) => "enum",
            TypeDefKind::Resource => "resource",
            _ => "type",
        };
        self.head(4, &format!("{kind} `{name}{of}`"), &def.docs);
        let rows: Vec<(&str, String, &Docs)> = match &def.kind {
            TypeDefKind::Record(record) => {
                let fields = record.fields.iter();
                fields
                    .map(|field| (field.name.as_str(), self.shown(&field.ty), &field.docs))
                    .collect()
            }
            TypeDefKind::Variant(variant) => {
                let of = |ty: &Option<Type>| ty.as_ref().map(|ty| self.shown(ty)).unwrap_or_default();
                variant
                    .cases
                    .iter()
                    .map(|case| (case.name.as_str(), of(&case.ty), &case.docs))
                    .collect()
            }
            TypeDefKind::Enum(of) => of
                .cases
                .iter()
                .map(|case| (case.name.as_str(), String::new(), &case.docs))
                .collect(),
            _ => Vec::new(),
        };
        for (name, of, docs) in rows {
            let of = if of.is_empty() { of } else { format!(": {of}") };
            let docs = docs.contents.as_deref().unwrap_or_default().trim().replace('\n', " ");
            let docs = if docs.is_empty() { docs } else { format!(": {docs}") };
            writeln!(self.text, "- `{name}{of}`{docs}").unwrap();
        }
        self.names(&format!("{path}/{name}"));
    }

    fn function(&mut self, path: &str, function: &Function) {
        let name = function.item_name();
        let is_static = matches!(function.kind, FunctionKind::Static(_));
        let parameters: Vec<String> = function
            .params
            .iter()
            .filter(|parameter| parameter.name != "self")
            .map(|parameter| format!("{}: {}", parameter.name, self.shown(&parameter.ty)))
            .collect();
        let result = function
            .result
            .as_ref()
            .map(|result| format!(" -> {}", self.shown(result)));
        let word = if is_static { "static func" } else { "func" };
        let of = path.rsplit('/').next().unwrap_or_default();
        let signature = format!(
            "{of}{name}: {word}({}){}",
            parameters.join(", "),
            result.unwrap_or_default()
        );
        self.head(4, &format!("`{signature}`"), &function.docs);
        self.names(&format!("{path}{name}"));
    }

    fn names(&mut self, item: &str) {
        let found = NAMES.iter().find(|(of, _)| *of == item);
        let (_, [rust, javascript, python]) =
            found.unwrap_or_else(|| panic!("{item} is new: say in tests/reference/names.rs what the SDKs call it"));
        self.apart();
        write!(
            self.text,
            "| Rust | JavaScript | Python |\n|---|---|---|\n| {rust} | {javascript} | {python} |\n"
        )
        .unwrap();
        self.named.insert(item.to_owned());
    }

    /// A type as the contract writes it.
    fn shown(&self, ty: &Type) -> String {
        let Type::Id(id) = ty else {
            return match ty {
                Type::String => "string",
                Type::Bool => "bool",
                Type::U8 => "u8",
                Type::U16 => "u16",
                Type::U32 => "u32",
                Type::U64 => "u64",
                other => panic!("the contract has no {other:?} yet: write it here"),
            }
            .to_owned();
        };
        let def = &self.resolve.types[*id];
        if let (Some(name), false) = (&def.name, matches!(def.owner, TypeOwner::None)) {
            return name.clone();
        }
        let optional = |ty: &Option<Type>| ty.as_ref().map_or_else(|| "_".to_owned(), |ty| self.shown(ty));
        match &def.kind {
            TypeDefKind::List(of) => format!("list<{}>", self.shown(of)),
            TypeDefKind::Option(of) => format!("option<{}>", self.shown(of)),
            TypeDefKind::Result(of) => format!("result<{}, {}>", optional(&of.ok), optional(&of.err)),
            TypeDefKind::Tuple(of) => {
                let all: Vec<String> = of.types.iter().map(|ty| self.shown(ty)).collect();
                format!("tuple<{}>", all.join(", "))
            }
            TypeDefKind::Handle(Handle::Own(id)) => self.shown(&Type::Id(*id)),
            TypeDefKind::Handle(Handle::Borrow(id)) => format!("borrow<{}>", self.shown(&Type::Id(*id))),
            other => panic!("the contract has no {} yet: write it here", other.as_str()),
        }
    }
}

/// The calls that the hub itself answers, from their schemas.
fn kinds(folder: &Path, text: &mut String) {
    text.push_str(
        "\n## Built-in calls\n\nWhat `gateway` may ask for without a plugin that serves it. The set of kinds is open; the schemas of these \
         are in [wit/kinds](../wit/kinds). Fields with a question mark may be left out.\n\n\
         | call | its message | its effect | what it does |\n|---|---|---|---|\n",
    );
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    for file in files {
        let name = file.file_stem().unwrap().to_string_lossy().replacen('.', ":", 1);
        let schema: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        let of = &schema["message"];
        let required = of["required"].as_array().map(Vec::as_slice).unwrap_or_default();
        let fields = of["properties"]
            .as_object()
            .map(|fields| fields.keys())
            .into_iter()
            .flatten();
        let fields: Vec<String> = fields
            .map(|field| {
                let mark = if required.iter().any(|name| name == field) {
                    ""
                } else {
                    "?"
                };
                format!("`{field}`{mark}")
            })
            .collect();
        let effect = schema["effect"].as_str().unwrap();
        let does = schema["description"].as_str().unwrap().replace('|', "\\|");
        writeln!(text, "| `{name}` | {} | {effect} | {does} |", fields.join(", ")).unwrap();
    }
}
