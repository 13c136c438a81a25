//! The contract as data: interfaces with their functions and types, of this hub and of a component, to be held side by side.
//!
//! The hub's side is read from `wit/` (`contract/wit.rs`), the other from the bytes of a component
//! (`contract/component.rs`); [`compare`] says in what they differ, [`examine`] what that and the rest mean for loading
//! it, and [`loading`] refuses by it. Nothing here compiles or runs a component.
//!
//! # What a later contract may change
//!
//! Versions of one package fit each other when they have the same major number, or below 1.0 the same minor number: an import
//! of `0.1.0` is linked to a hub's `0.1.2`, one of `0.1.2` to a hub's `0.1.0`, and the export of a role is found either way.
//! What then has to agree is the shape. So a later `0.1.z` may add packages, interfaces, and functions, types and resources of
//! interfaces that plugins *import*. It may not change a function, and may not add a field to a record or a case to a
//! variant: types are closed. It may not add a function to the interface of a role either: the hub would ask it of components
//! that do not have it. That takes an interface of its own, which the hub looks for and does without.
//!
//! `tests/contracts` keeps the text of each version and components that were built against it; they are loaded and called for
//! as long as their version is one that fits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use semver::Version;

pub mod compare;
mod component;
pub mod examine;
pub mod finding;
pub mod loading;
mod shown;
mod wit;

pub use finding::{Finding, Problem, Side};
pub use wit::PACKAGES;

/// The version of the contract; with the name of an interface, that name as components have it.
macro_rules! contract {
    () => {
        "0.1.0"
    };
    ($interface:literal) => {
        concat!($interface, "@", $crate::plugin::contract::contract!())
    };
}
pub(crate) use contract;

/// The version of the contract of this hub, which is that of each package in `wit/`.
pub const VERSION: &str = contract!();

/// What one side offers and asks for.
#[derive(Clone, Debug, Default)]
pub struct Contract {
    types: Vec<Type>,
    /// What a component imports; of a hub, what it offers.
    pub imports: Vec<Interface>,
    /// What a component exports; of a hub, what it asks a component for.
    pub exports: Vec<Interface>,
    /// The imports of a component that are no interfaces of a package.
    pub strangers: Vec<String>,
}

/// One interface of a package.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name with the version, as in `waypost:call/types@0.1.0`.
    pub name: String,
    /// Where it belongs.
    pub path: Path,
    functions: BTreeMap<String, Function>,
    resources: BTreeSet<String>,
}

/// The name of an interface, in parts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// The package, as in `waypost:call`.
    pub package: String,
    /// The interface in it.
    pub interface: String,
    /// The version of the package; none when it has none.
    pub version: Option<Version>,
}

impl Path {
    /// The parts of a name; none when it is not that of an interface in a package.
    pub fn of(name: &str) -> Option<Self> {
        let (path, version) = match name.split_once('@') {
            Some((path, version)) => (path, Some(Version::parse(version).ok()?)),
            None => (name, None),
        };
        let (package, interface) = path.split_once('/')?;
        let whole = package.contains(':') && !interface.is_empty() && !path.contains(['=', '<', '[']);
        whole.then(|| Self {
            package: package.to_owned(),
            interface: interface.to_owned(),
            version,
        })
    }

    /// Without the version.
    pub fn bare(&self) -> String {
        format!("{}/{}", self.package, self.interface)
    }

    /// Whether both are the same interface, in whichever version.
    fn is(&self, other: &Self) -> bool {
        self.package == other.package && self.interface == other.interface
    }

    /// Whether this is the other, or a version of it that fits.
    pub fn stands_for(&self, other: &Self) -> bool {
        self.is(other) && self.fits(other)
    }

    /// Whether one can stand for the other.
    fn fits(&self, other: &Self) -> bool {
        match (&self.version, &other.version) {
            (Some(one), Some(other)) => fits(one, other),
            (one, other) => one == other,
        }
    }
}

/// Whether versions of a package fit each other, as the engine has it.
pub fn fits(one: &Version, other: &Version) -> bool {
    if one.pre.is_empty() && other.pre.is_empty() {
        match (one.major, one.minor) {
            (0, 0) => one == other,
            (0, minor) => (other.major, other.minor) == (0, minor),
            (major, _) => other.major == major,
        }
    } else {
        one == other
    }
}

/// A type of a contract, by its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Id(usize);

/// A name that a type or a resource has in an interface.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Name {
    /// The interface, without the version.
    of: String,
    name: String,
}

#[derive(Clone, Debug)]
struct Type {
    /// None for what is written out where it is used.
    name: Option<Name>,
    shape: Shape,
}

#[derive(Clone, Debug)]
enum Shape {
    Plain(&'static str),
    Record(Vec<(String, Id)>),
    Variant(Vec<(String, Option<Id>)>),
    Enum(Vec<String>),
    Flags(Vec<String>),
    Tuple(Vec<Id>),
    List(Id),
    Array(Id, u32),
    Map(Id, Id),
    Option(Id),
    Result(Option<Id>, Option<Id>),
    Own(Option<Name>),
    Borrow(Option<Name>),
    Future(Option<Id>),
    Stream(Option<Id>),
}

#[derive(Clone, Debug)]
struct Function {
    is_async: bool,
    params: Vec<(String, Id)>,
    result: Option<Id>,
}

impl Contract {
    /// That of this hub.
    pub fn hub() -> &'static Self {
        static HUB: LazyLock<Contract> = LazyLock::new(|| {
            // The same text makes the bindings of this binary, or it would not be there.
            wit::read(&wit::PACKAGES).unwrap_or_else(|error| {
                tracing::error!("the contract of this binary cannot be read: {error:#}");
                Contract::default()
            })
        });
        &HUB
    }

    /// The version of a package that this side has.
    pub fn version(&self, package: &str) -> Option<&Version> {
        let mut all = self.imports.iter().chain(&self.exports);
        all.find(|interface| interface.path.package == package)
            .and_then(|interface| interface.path.version.as_ref())
    }

    fn put(&mut self, name: Option<Name>, shape: Shape) -> Id {
        self.types.push(Type { name, shape });
        Id(self.types.len() - 1)
    }

    fn get(&self, id: Id) -> &Type {
        const NONE: &Type = &Type {
            name: None,
            shape: Shape::Plain("?"),
        };
        self.types.get(id.0).unwrap_or(NONE)
    }
}

#[cfg(test)]
mod tests;
