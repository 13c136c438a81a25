//! The contract of this hub, from the text of its WIT packages.

use std::collections::HashMap;

use wit_parser::{Handle, Resolve, TypeDefKind, TypeId, TypeOwner};

use super::{Contract, Function, Id, Interface, Name, Path, Shape};

/// The text of the packages of this binary, each behind those that it uses.
pub const PACKAGES: [(&str, &str); 10] = [
    ("call", include_str!("../../../../wit/call/call.wit")),
    ("gateway", include_str!("../../../../wit/gateway/gateway.wit")),
    ("state", include_str!("../../../../wit/state/state.wit")),
    ("log", include_str!("../../../../wit/log/log.wit")),
    ("workspace", include_str!("../../../../wit/workspace/workspace.wit")),
    ("http", include_str!("../../../../wit/http/http.wit")),
    ("files", include_str!("../../../../wit/files/files.wit")),
    ("process", include_str!("../../../../wit/process/process.wit")),
    ("socket", include_str!("../../../../wit/socket/socket.wit")),
    ("plugin", include_str!("../../../../wit/plugin/plugin.wit")),
];

/// The package whose interfaces are what components export.
const ROLES: &str = "waypost:plugin";

/// Reads packages that stand in this order.
pub(super) fn read<T: AsRef<str>>(packages: &[(&str, T)]) -> Result<Contract, String> {
    let mut resolve = Resolve::default();
    for (name, text) in packages {
        resolve
            .push_str(format!("{name}.wit"), text.as_ref())
            .map_err(|error| format!("{error:#}"))?;
    }
    let mut reader = Reader {
        resolve: &resolve,
        made: Contract::default(),
        known: HashMap::new(),
    };
    for (id, interface) in resolve.interfaces.iter() {
        let Some(name) = resolve.id_of(id) else { continue };
        let Some(path) = Path::of(&name) else { continue };
        let functions = interface.functions.iter();
        let functions = functions
            .map(|(name, function)| (name.clone(), reader.function(function)))
            .collect();
        let resources = interface
            .types
            .iter()
            .filter(|(_, id)| matches!(resolve.types.get(**id).map(|of| &of.kind), Some(TypeDefKind::Resource)))
            .map(|(name, _)| name.clone())
            .collect();
        let role = path.package == ROLES;
        let interface = Interface {
            name,
            path,
            functions,
            resources,
        };
        if role {
            reader.made.exports.push(interface);
        } else {
            reader.made.imports.push(interface);
        }
    }
    Ok(reader.made)
}

struct Reader<'a> {
    resolve: &'a Resolve,
    made: Contract,
    known: HashMap<wit_parser::Type, Id>,
}

impl Reader<'_> {
    fn function(&mut self, function: &wit_parser::Function) -> Function {
        let params = function.params.iter();
        Function {
            is_async: function.kind.is_async(),
            params: params.map(|param| (param.name.clone(), self.of(&param.ty))).collect(),
            result: function.result.as_ref().map(|ty| self.of(ty)),
        }
    }

    fn of(&mut self, ty: &wit_parser::Type) -> Id {
        if let Some(id) = self.known.get(ty) {
            return *id;
        }
        let id = self.made(ty);
        self.known.insert(*ty, id);
        id
    }

    fn made(&mut self, ty: &wit_parser::Type) -> Id {
        use wit_parser::Type;
        let plain = match ty {
            Type::Bool => "bool",
            Type::U8 => "u8",
            Type::U16 => "u16",
            Type::U32 => "u32",
            Type::U64 => "u64",
            Type::S8 => "s8",
            Type::S16 => "s16",
            Type::S32 => "s32",
            Type::S64 => "s64",
            Type::F32 => "f32",
            Type::F64 => "f64",
            Type::Char => "char",
            Type::String => "string",
            Type::ErrorContext => "error-context",
            Type::Id(id) => return self.defined(*id),
        };
        self.made.put(None, Shape::Plain(plain))
    }

    fn defined(&mut self, id: TypeId) -> Id {
        let resolve = self.resolve;
        let Some(def) = resolve.types.get(id) else {
            return self.made.put(None, Shape::Plain("?"));
        };
        let optional = |of: &mut Self, ty: &Option<wit_parser::Type>| ty.as_ref().map(|ty| of.of(ty));
        let shape = match &def.kind {
            // What is only used here, or has two names, is the one that was there first.
            TypeDefKind::Type(of @ wit_parser::Type::Id(_)) => return self.of(of),
            TypeDefKind::Type(of) => {
                let of = self.of(of);
                self.made.get(of).shape.clone()
            }
            TypeDefKind::Record(record) => {
                let fields = record.fields.iter();
                Shape::Record(fields.map(|field| (field.name.clone(), self.of(&field.ty))).collect())
            }
            TypeDefKind::Variant(variant) => {
                let cases = variant.cases.iter();
                Shape::Variant(
                    cases
                        .map(|case| (case.name.clone(), optional(self, &case.ty)))
                        .collect(),
                )
            }
            TypeDefKind::Enum(of) => Shape::Enum(of.cases.iter().map(|case| case.name.clone()).collect()),
            TypeDefKind::Flags(of) => Shape::Flags(of.flags.iter().map(|flag| flag.name.clone()).collect()),
            TypeDefKind::Tuple(of) => Shape::Tuple(of.types.iter().map(|ty| self.of(ty)).collect()),
            TypeDefKind::List(of) => Shape::List(self.of(of)),
            TypeDefKind::FixedLengthList(of, length) => Shape::Array(self.of(of), *length),
            TypeDefKind::Map(key, value) => Shape::Map(self.of(key), self.of(value)),
            TypeDefKind::Option(of) => Shape::Option(self.of(of)),
            TypeDefKind::Result(of) => Shape::Result(optional(self, &of.ok), optional(self, &of.err)),
            TypeDefKind::Handle(Handle::Own(id)) => Shape::Own(self.name(*id)),
            TypeDefKind::Handle(Handle::Borrow(id)) => Shape::Borrow(self.name(*id)),
            TypeDefKind::Resource => Shape::Own(self.name(id)),
            TypeDefKind::Future(of) => Shape::Future(optional(self, of)),
            TypeDefKind::Stream(of) => Shape::Stream(optional(self, of)),
            TypeDefKind::Unknown => Shape::Plain("?"),
        };
        let name = match shape {
            // A handle is named by its resource.
            Shape::Own(_) | Shape::Borrow(_) => None,
            _ => self.name(id),
        };
        self.made.put(name, shape)
    }

    /// The first name of a type, where it is defined.
    fn name(&self, id: TypeId) -> Option<Name> {
        let def = self.resolve.types.get(id)?;
        if let TypeDefKind::Type(wit_parser::Type::Id(of)) = &def.kind {
            return self.name(*of);
        }
        let TypeOwner::Interface(of) = def.owner else {
            return None;
        };
        let of = Path::of(&self.resolve.id_of(of)?)?.bare();
        let name = def.name.clone()?;
        Some(Name { of, name })
    }
}
