//! One reason why a component does not fit a hub: the item, which side is older, and what to do.

use serde::Serialize;

use crate::text::shortened;

/// How much of a name that a stranger chose is shown, in characters.
const NAME: usize = 120;

/// What does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Problem {
    /// The bytes are no WebAssembly.
    NoWebassembly,
    /// A core module, and no component.
    Module,
    /// The bytes end early, or make no sense.
    Broken,
    /// The component needs what this engine does not have.
    Feature,
    /// The manifest is missing, or cannot be read.
    Manifest,
    /// An import that this hub does not offer.
    UnknownImport,
    /// A package that is here in another version, which does not fit.
    Version,
    /// A package is here, and has no such interface.
    Interface,
    /// A function that is on one side alone.
    FunctionMissing,
    /// A function that takes or answers something else.
    FunctionChanged,
    /// A resource that is on one side alone.
    ResourceMissing,
    /// A type with other fields, with other cases, or of another kind.
    TypeChanged,
    /// The interface of the role is not exported.
    Export,
    /// An import without its grant.
    Grant,
    /// It fits by all that is known of it, and the engine does not take it.
    Load,
}

impl Problem {
    /// The word on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoWebassembly => "no-webassembly",
            Self::Module => "module",
            Self::Broken => "broken",
            Self::Feature => "feature",
            Self::Manifest => "manifest",
            Self::UnknownImport => "unknown-import",
            Self::Version => "version",
            Self::Interface => "interface",
            Self::FunctionMissing => "function-missing",
            Self::FunctionChanged => "function-changed",
            Self::ResourceMissing => "resource-missing",
            Self::TypeChanged => "type-changed",
            Self::Export => "export",
            Self::Grant => "grant",
            Self::Load => "load",
        }
    }
}

/// One of the two that do not fit each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The component.
    Component,
    /// The hub.
    Hub,
}

/// One thing that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of thing.
    pub problem: Problem,
    /// The package, as in `waypost:call`.
    pub package: Option<String>,
    /// The interface in it.
    pub interface: Option<String>,
    /// The function or type in that.
    pub item: Option<String>,
    /// The field or the case of the type.
    pub part: Option<String>,
    /// What the component has.
    pub component: Option<String>,
    /// What the hub has.
    pub hub: Option<String>,
    /// Which of them is older; none where nothing says so.
    pub older: Option<Side>,
    /// One sentence about it.
    pub text: String,
    /// What to do.
    pub remedy: String,
}

impl Finding {
    /// One that says no more than this.
    pub fn new(problem: Problem, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            problem,
            package: None,
            interface: None,
            item: None,
            part: None,
            component: None,
            hub: None,
            older: None,
            text: text.into(),
            remedy: remedy.into(),
        }
    }
}

/// A name that a stranger chose, as it may be shown.
pub(super) fn name(text: &str) -> String {
    shortened(text, NAME)
}
