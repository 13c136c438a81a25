//! What a component has of the contract, beside what the hub has: every item that differs, once.
//!
//! A type with a name is compared where it is defined, and elsewhere counts as the same: one changed record is one finding,
//! and not one for each function that takes it. Types without a name are compared with the function. The names of parameters
//! do not matter, as to the engine.

use std::collections::HashSet;

use super::finding::name;
use super::{Contract, Finding, Function, Id, Interface, Name, Path, Problem, Shape, Side};

/// The version of the SDKs that this binary carries.
pub(super) const SDK: &str = env!("CARGO_PKG_VERSION");

/// In what a component differs from what a hub offers to it and asks of it. `roles` are the interfaces that it has to export.
pub fn compare(hub: &Contract, component: &Contract, roles: &[&str]) -> Vec<Finding> {
    let mut comparison = Comparison {
        hub,
        component,
        todo: Vec::new(),
        seen: HashSet::new(),
        found: Vec::new(),
    };
    for theirs in &component.imports {
        if let Some(ours) = comparison.offered(theirs) {
            comparison.import(ours, theirs);
        }
    }
    for ours in hub.exports.iter().filter(|ours| roles.contains(&ours.name.as_str())) {
        if let Some(theirs) = comparison.exported(ours) {
            comparison.export(ours, theirs);
        }
    }
    comparison.types();
    comparison.found
}

/// Which side is older by the versions that both have of a package.
fn older(ours: &Path, theirs: &Path) -> Option<Side> {
    match ours.version.as_ref()?.cmp_precedence(theirs.version.as_ref()?) {
        std::cmp::Ordering::Less => Some(Side::Hub),
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Greater => Some(Side::Component),
    }
}

fn remedy(older: Option<Side>, package: &str, ours: &Path) -> String {
    let has = match &ours.version {
        Some(version) => format!("{package} {version}"),
        None => package.to_owned(),
    };
    let build = format!("build the component with the SDK {SDK} that this hub brings, which has {has}");
    match older {
        Some(Side::Hub) => format!("upgrade the hub, or {build}"),
        Some(Side::Component) | None => build,
    }
}

struct Comparison<'a> {
    hub: &'a Contract,
    component: &'a Contract,
    /// Pairs of types with one name, the hub's first.
    todo: Vec<(Id, Id)>,
    seen: HashSet<(Id, Id)>,
    found: Vec<Finding>,
}

impl<'a> Comparison<'a> {
    /// The interface that an import stands for; none when it is not here, which is a finding then.
    fn offered(&mut self, theirs: &Interface) -> Option<&'a Interface> {
        let path = &theirs.path;
        let all = || self.hub.imports.iter().chain(&self.hub.exports);
        let shown = name(&theirs.name);
        let package: Vec<&'a Interface> = all().filter(|ours| ours.path.package == path.package).collect();
        let Some(any) = package.first() else {
            // Whether this is a package at all that the hub has is not for the contract to say.
            return None;
        };
        let fitting = package.iter().find(|ours| ours.path.is(path));
        if !any.path.fits(path) {
            self.found.push(version(&any.path, path, "imports", &shown));
            return None;
        }
        if let Some(ours) = fitting {
            return Some(*ours);
        }
        let has: Vec<&str> = package.iter().map(|ours| ours.path.interface.as_str()).collect();
        let older = older(&any.path, path).or(Some(Side::Hub));
        self.found.push(Finding {
            package: Some(path.package.clone()),
            interface: Some(path.interface.clone()),
            component: Some(shown.clone()),
            hub: Some(has.join(", ")),
            older,
            ..Finding::new(
                Problem::Interface,
                format!(
                    "it imports `{shown}`, and {} of this hub has no such interface",
                    path.package
                ),
                remedy(older, &path.package, &any.path),
            )
        });
        None
    }

    /// The export that the hub would call; none when there is none, which is a finding then.
    fn exported(&mut self, ours: &Interface) -> Option<&'a Interface> {
        let mut all = self
            .component
            .exports
            .iter()
            .filter(|theirs| theirs.path.is(&ours.path));
        // As the engine has it: this version, or else the newest of those that fit.
        let exact = all.clone().find(|theirs| theirs.path == ours.path);
        let fitting = || all.clone().filter(|theirs| theirs.path.fits(&ours.path));
        if let Some(theirs) = exact.or_else(|| fitting().max_by(|one, other| one.path.version.cmp(&other.path.version)))
        {
            return Some(theirs);
        }
        if let Some(theirs) = all.next() {
            let shown = name(&theirs.name);
            self.found.push(version(&ours.path, &theirs.path, "exports", &shown));
            return None;
        }
        let names: Vec<String> = self
            .component
            .exports
            .iter()
            .take(8)
            .map(|other| name(&other.name))
            .collect();
        let exports = if names.is_empty() {
            "no interface".to_owned()
        } else {
            names.join(", ")
        };
        self.found.push(Finding {
            package: Some(ours.path.package.clone()),
            interface: Some(ours.path.interface.clone()),
            component: Some(exports),
            hub: Some(ours.name.clone()),
            ..Finding::new(
                Problem::Export,
                format!(
                    "it does not export `{}`, which its role by its manifest takes",
                    ours.name
                ),
                "set `role` of the manifest to what it is, or build it with that world".to_owned(),
            )
        });
        None
    }

    fn import(&mut self, ours: &Interface, theirs: &Interface) {
        let mut gone = Vec::new();
        for resource in theirs.resources.difference(&ours.resources) {
            gone.push(format!("]{resource}."));
            gone.push(format!("[constructor]{resource}"));
            let older = older(&ours.path, &theirs.path).or(Some(Side::Hub));
            let text = format!(
                "it uses the resource `{}` of {}, which this hub does not have",
                name(resource),
                ours.path.bare()
            );
            self.put(Problem::ResourceMissing, ours, resource, older, text, |finding| {
                finding.component = Some(format!("resource {}", name(resource)));
            });
        }
        for (of, function) in &theirs.functions {
            if gone.iter().any(|gone| of.contains(gone.as_str())) {
                continue;
            }
            match ours.functions.get(of) {
                Some(own) => self.function(of, (ours, own), (theirs, function)),
                None => {
                    let older = older(&ours.path, &theirs.path).or(Some(Side::Hub));
                    let text = format!(
                        "it calls the function `{}` of {}, which this hub does not have",
                        name(of),
                        ours.path.bare()
                    );
                    let shown = self.component.shown_function(of, function);
                    self.put(Problem::FunctionMissing, ours, of, older, text, |finding| {
                        finding.component = Some(shown);
                    });
                }
            }
        }
    }

    fn export(&mut self, ours: &Interface, theirs: &Interface) {
        for (of, function) in &ours.functions {
            match theirs.functions.get(of) {
                Some(other) => self.function(of, (ours, function), (theirs, other)),
                None => {
                    let older = older(&ours.path, &theirs.path).or(Some(Side::Component));
                    let text = format!(
                        "its {} has no function `{of}`, which this hub would call",
                        ours.path.bare()
                    );
                    let shown = self.hub.shown_function(of, function);
                    self.put(Problem::FunctionMissing, ours, of, older, text, |finding| {
                        finding.hub = Some(shown);
                    });
                }
            }
        }
    }

    fn function(&mut self, of: &str, (ours, own): (&Interface, &Function), (theirs, other): (&Interface, &Function)) {
        let mut same = own.is_async == other.is_async && own.params.len() == other.params.len();
        // All of them, so that what is named in them is looked at even where something else differs.
        for ((_, own), (_, other)) in own.params.iter().zip(&other.params) {
            same &= self.same(*own, *other);
        }
        same &= self.same_option(own.result, other.result);
        if same {
            return;
        }
        let (hub, component) = (
            self.hub.shown_function(of, own),
            self.component.shown_function(of, other),
        );
        let text = format!(
            "the function `{of}` of {} takes or answers something else than this hub has there",
            ours.path.bare()
        );
        self.put(
            Problem::FunctionChanged,
            ours,
            of,
            older(&ours.path, &theirs.path),
            text,
            |finding| {
                finding.component = Some(component);
                finding.hub = Some(hub);
            },
        );
    }

    fn put(
        &mut self,
        problem: Problem,
        of: &Interface,
        item: &str,
        older: Option<Side>,
        text: String,
        rest: impl FnOnce(&mut Finding),
    ) {
        let mut finding = Finding {
            package: Some(of.path.package.clone()),
            interface: Some(of.path.interface.clone()),
            item: Some(name(item)),
            older,
            ..Finding::new(problem, text, remedy(older, &of.path.package, &of.path))
        };
        rest(&mut finding);
        self.found.push(finding);
    }

    fn same_option(&mut self, ours: Option<Id>, theirs: Option<Id>) -> bool {
        match (ours, theirs) {
            (Some(ours), Some(theirs)) => self.same(ours, theirs),
            (ours, theirs) => ours.is_none() && theirs.is_none(),
        }
    }

    /// Whether both are the same type where they are used. Those that have one name are, and are looked at by themselves.
    fn same(&mut self, ours: Id, theirs: Id) -> bool {
        let (own, other) = (&self.hub.get(ours).name, &self.component.get(theirs).name);
        if own.is_some() && own == other {
            if self.seen.insert((ours, theirs)) {
                self.todo.push((ours, theirs));
            }
            return true;
        }
        self.same_shape(ours, theirs)
    }

    /// What nests is what the hub has: a stranger's type is followed no deeper than that.
    fn same_shape(&mut self, ours: Id, theirs: Id) -> bool {
        let (hub, component) = (self.hub, self.component);
        match (&hub.get(ours).shape, &component.get(theirs).shape) {
            (Shape::Plain(own), Shape::Plain(other)) => own == other,
            (Shape::Record(own), Shape::Record(other)) => {
                own.len() == other.len()
                    && own
                        .iter()
                        .zip(other)
                        .all(|((name, own), (other_name, other))| name == other_name && self.same(*own, *other))
            }
            (Shape::Variant(own), Shape::Variant(other)) => {
                own.len() == other.len()
                    && own
                        .iter()
                        .zip(other)
                        .all(|((name, own), (other_name, other))| name == other_name && self.same_option(*own, *other))
            }
            (Shape::Enum(own), Shape::Enum(other)) | (Shape::Flags(own), Shape::Flags(other)) => own == other,
            (Shape::Tuple(own), Shape::Tuple(other)) => {
                own.len() == other.len() && own.iter().zip(other).all(|(own, other)| self.same(*own, *other))
            }
            (Shape::List(own), Shape::List(other)) | (Shape::Option(own), Shape::Option(other)) => {
                self.same(*own, *other)
            }
            (Shape::Array(own, length), Shape::Array(other, other_length)) => {
                length == other_length && self.same(*own, *other)
            }
            (Shape::Map(key, value), Shape::Map(other_key, other_value)) => {
                self.same(*key, *other_key) && self.same(*value, *other_value)
            }
            (Shape::Result(ok, error), Shape::Result(other_ok, other_error)) => {
                self.same_option(*ok, *other_ok) && self.same_option(*error, *other_error)
            }
            (Shape::Own(own), Shape::Own(other)) | (Shape::Borrow(own), Shape::Borrow(other)) => own == other,
            (Shape::Future(own), Shape::Future(other)) | (Shape::Stream(own), Shape::Stream(other)) => {
                self.same_option(*own, *other)
            }
            _ => false,
        }
    }

    /// Looks at the types by themselves, and at those that are named in them.
    fn types(&mut self) {
        while let Some((ours, theirs)) = self.todo.pop() {
            let (hub, component) = (self.hub, self.component);
            let Some(named) = &hub.get(ours).name else { continue };
            let of = Pair::new(hub, component, named);
            match (&hub.get(ours).shape, &component.get(theirs).shape) {
                (Shape::Record(own), Shape::Record(other)) => {
                    let some = |parts: &[(String, Id)]| -> Vec<(String, Option<Id>)> {
                        parts.iter().map(|(name, ty)| (name.clone(), Some(*ty))).collect()
                    };
                    self.parts(&of, "record", "field", &some(own), &some(other));
                }
                (Shape::Variant(own), Shape::Variant(other)) => self.parts(&of, "variant", "case", own, other),
                (Shape::Enum(own), Shape::Enum(other)) => self.parts(&of, "enum", "case", &bare(own), &bare(other)),
                (Shape::Flags(own), Shape::Flags(other)) => self.parts(&of, "flags", "flag", &bare(own), &bare(other)),
                _ if self.same_shape(ours, theirs) => {}
                _ => {
                    let text = format!("the type `{}` of {} is another one", named.name, named.of);
                    let mut finding = of.finding(None, of.older, text);
                    finding.component = Some(component.shown_whole(theirs));
                    finding.hub = Some(hub.shown_whole(ours));
                    self.found.push(finding);
                }
            }
        }
    }

    /// The fields or cases of a type with a name.
    fn parts(
        &mut self,
        of: &Pair,
        kind: &str,
        word: &str,
        own: &[(String, Option<Id>)],
        other: &[(String, Option<Id>)],
    ) {
        let named = of.named;
        let thing = format!("the {kind} `{}` of {}", named.name, named.of);
        let mut same = true;
        let within = |parts: &[(String, Option<Id>)]| -> HashSet<String> {
            parts.iter().map(|(name, _)| name.clone()).collect()
        };
        let (ours, theirs) = (within(own), within(other));
        let shown = |contract: &Contract, part: &str, ty: Option<Id>| match ty {
            Some(ty) if kind == "variant" => format!("{part}({})", contract.shown(ty)),
            Some(ty) => format!("{part}: {}", contract.shown(ty)),
            None => part.to_owned(),
        };
        for (part, ty) in other.iter().filter(|(part, _)| !ours.contains(part)) {
            same = false;
            let text = format!("{thing} has the {word} `{}` in the component alone", name(part));
            let mut finding = of.finding(Some(part), of.older.or(Some(Side::Hub)), text);
            finding.component = Some(shown(self.component, part, *ty));
            self.found.push(finding);
        }
        for (part, ty) in own {
            let Some((_, others)) = other.iter().find(|(name, _)| name == part) else {
                same = false;
                let text = format!("{thing} has the {word} `{part}` in the hub alone");
                let mut finding = of.finding(Some(part), of.older.or(Some(Side::Component)), text);
                finding.hub = Some(shown(self.hub, part, *ty));
                self.found.push(finding);
                continue;
            };
            if self.same_option(*ty, *others) {
                continue;
            }
            same = false;
            let text = format!("the {word} `{part}` of {thing} holds something else");
            let mut finding = of.finding(Some(part), of.older, text);
            finding.component = Some(shown(self.component, part, *others));
            finding.hub = Some(shown(self.hub, part, *ty));
            self.found.push(finding);
        }
        let order = |parts: &[(String, Option<Id>)]| -> Vec<String> {
            let names = parts.iter().map(|(name, _)| name.clone());
            names
                .filter(|name| ours.contains(name) && theirs.contains(name))
                .collect()
        };
        if same && order(own) != order(other) {
            let text = format!("{thing} has its {word}s in another order, and their order counts");
            let mut finding = of.finding(None, of.older, text);
            finding.component = Some(name(&order(other).join(", ")));
            finding.hub = Some(name(&order(own).join(", ")));
            self.found.push(finding);
        }
    }
}

/// A named type, and what is known of the package that it belongs to on both sides.
struct Pair<'a> {
    named: &'a Name,
    path: Option<Path>,
    older: Option<Side>,
}

impl<'a> Pair<'a> {
    fn new(hub: &Contract, component: &Contract, named: &'a Name) -> Self {
        let path = |contract: &Contract| {
            let mut all = contract.imports.iter().chain(&contract.exports);
            all.find(|interface| interface.path.bare() == named.of)
                .map(|interface| interface.path.clone())
        };
        let (ours, theirs) = (path(hub), path(component));
        let older = ours
            .as_ref()
            .zip(theirs.as_ref())
            .and_then(|(ours, theirs)| older(ours, theirs));
        Self {
            named,
            path: ours,
            older,
        }
    }

    fn finding(&self, part: Option<&str>, older: Option<Side>, text: String) -> Finding {
        let package = self.path.as_ref().map(|path| path.package.clone());
        let remedy = match &self.path {
            Some(path) => remedy(older, &path.package, path),
            None => String::new(),
        };
        Finding {
            package,
            interface: self.path.as_ref().map(|path| path.interface.clone()),
            item: Some(self.named.name.clone()),
            part: part.map(name),
            older,
            ..Finding::new(Problem::TypeChanged, text, remedy)
        }
    }
}

fn bare(names: &[String]) -> Vec<(String, Option<Id>)> {
    names.iter().map(|name| (name.clone(), None)).collect()
}

/// Another version of a package that does not fit.
fn version(ours: &Path, theirs: &Path, does: &str, shown: &str) -> Finding {
    let of = |path: &Path| match &path.version {
        Some(version) => format!("{} {version}", path.package),
        None => format!("{} without a version", path.package),
    };
    let older = older(ours, theirs);
    Finding {
        package: Some(theirs.package.clone()),
        interface: Some(theirs.interface.clone()),
        component: Some(of(theirs)),
        hub: Some(of(ours)),
        older,
        ..Finding::new(
            Problem::Version,
            format!(
                "it {does} `{shown}`, and this hub has {}, which is another contract",
                of(ours)
            ),
            remedy(older, &theirs.package, ours),
        )
    }
}
