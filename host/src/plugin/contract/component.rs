//! What a component imports and exports, from its bytes.
//!
//! A stranger's bytes are checked by the validator that the engine uses too, without the code in them, and its types are read
//! from there: what decodes WIT takes more for granted than a validated component has to keep. What is made of them is as long
//! as they are at most; types nest at most a hundred deep, which the validator sees to.

use std::collections::HashMap;

use wasmparser::component_types::{
    ComponentAnyTypeId, ComponentDefinedType, ComponentDefinedTypeId, ComponentEntityType, ComponentFuncTypeId,
    ComponentInstanceTypeId, ComponentItem, ComponentValType, ResourceId,
};
use wasmparser::types::Types;
use wasmparser::{Parser, Payload, PrimitiveValType, ValidPayload, Validator, WasmFeatures};

use super::{Contract, Function, Id, Interface, Name, Path, Shape};

/// How many features may be missing in one component until no more are looked for.
const FEATURES: usize = 16;

/// Why bytes are no component.
pub(super) struct Broken {
    /// In the words of the validator.
    pub(super) text: String,
    /// Where in the bytes.
    pub(super) offset: usize,
    /// Whether more bytes were to come.
    pub(super) cut: bool,
    feature: Option<WasmFeatures>,
}

impl From<wasmparser::Error> for Broken {
    fn from(error: wasmparser::Error) -> Self {
        Self {
            text: error.message().to_owned(),
            offset: error.offset(),
            cut: error.message().starts_with("unexpected end"),
            feature: error.missing_wasm_feature(),
        }
    }
}

/// What the engine takes: its settings are those of `engine::settings`.
fn engine() -> WasmFeatures {
    let without = WasmFeatures::GC_TYPES
        | WasmFeatures::EXCEPTIONS
        | WasmFeatures::THREADS
        | WasmFeatures::MEMORY64
        | WasmFeatures::RELAXED_SIMD;
    (WasmFeatures::WASM3 | WasmFeatures::COMPONENT_MODEL).difference(without)
}

/// The contract of a component.
pub(super) fn read(bytes: &[u8]) -> Result<Contract, Broken> {
    let (externs, types) = validated(bytes, WasmFeatures::all())?;
    let mut reader = Reader {
        types: &types,
        made: Contract::default(),
        known: HashMap::new(),
        plain: HashMap::new(),
        names: HashMap::new(),
        resources: HashMap::new(),
    };
    for (name, imported) in externs {
        let item = if imported {
            types.as_ref().component_item_for_import(&name)
        } else {
            types.as_ref().component_item_for_export(&name)
        };
        let Some(item) = item else { continue };
        match (Path::of(&name), &item.ty) {
            (Some(path), ComponentEntityType::Instance(id)) => {
                let interface = reader.interface(name, path, *id);
                if imported {
                    reader.made.imports.push(interface);
                } else {
                    reader.made.exports.push(interface);
                }
            }
            // What is only named so that it can be used takes nothing from the hub.
            (_, ComponentEntityType::Type { created, .. }) if !matches!(created, ComponentAnyTypeId::Resource(_)) => {}
            _ if imported => reader.made.strangers.push(name),
            _ => {}
        }
    }
    Ok(reader.made)
}

/// What this component needs of an engine and this engine has not, in the words of its validator.
pub(super) fn missing_features(bytes: &[u8]) -> Vec<String> {
    let (mut features, mut missing) = (engine(), Vec::new());
    while missing.len() < FEATURES {
        let Err(broken) = validated(bytes, features) else { break };
        let Some(feature) = broken.feature else { break };
        let names = feature
            .iter_names()
            .map(|(name, _)| name.to_lowercase().replace('_', "-"));
        let text = format!("{} ({})", names.collect::<Vec<_>>().join(", "), broken.text);
        if features.contains(feature) {
            break;
        }
        features |= feature;
        missing.push(text);
    }
    missing
}

/// The names on the outer side of a component, each an import or not, and its types.
fn validated(bytes: &[u8], features: WasmFeatures) -> Result<(Vec<(String, bool)>, Types), Broken> {
    let mut validator = Validator::new_with_features(features);
    let (mut externs, mut depth) = (Vec::new(), 0_usize);
    let mut types = None;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        match validator.payload(&payload)? {
            ValidPayload::End(of) => types = Some(of),
            ValidPayload::Ok | ValidPayload::Parser(_) | ValidPayload::Func(..) => {}
        }
        match payload {
            // The parser takes what there is.
            Payload::ModuleSection { unchecked_range, .. } | Payload::ComponentSection { unchecked_range, .. }
                if unchecked_range.end > bytes.len() =>
            {
                return Err(ends_early(bytes));
            }
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    externs.push((import?.name.name.to_owned(), true));
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    externs.push((export?.name.name.to_owned(), false));
                }
            }
            _ => {}
        }
    }
    match types {
        Some(types) if depth == 0 => Ok((externs, types)),
        _ => Err(ends_early(bytes)),
    }
}

fn ends_early(bytes: &[u8]) -> Broken {
    Broken {
        text: "unexpected end".to_owned(),
        offset: bytes.len(),
        cut: true,
        feature: None,
    }
}

struct Reader<'a> {
    types: &'a Types,
    made: Contract,
    known: HashMap<ComponentDefinedTypeId, Id>,
    plain: HashMap<&'static str, Id>,
    names: HashMap<ComponentAnyTypeId, Name>,
    resources: HashMap<ResourceId, Name>,
}

impl Reader<'_> {
    fn interface(&mut self, name: String, path: Path, id: ComponentInstanceTypeId) -> Interface {
        let types = self.types;
        let of = path.bare();
        let mut interface = Interface {
            name,
            path,
            functions: Default::default(),
            resources: Default::default(),
        };
        // A function may stand before the name of a type that it uses.
        for (name, ComponentItem { ty, .. }) in &types[id].exports {
            let ComponentEntityType::Type { created, .. } = ty else {
                continue;
            };
            let named = || Name {
                of: of.clone(),
                name: name.clone(),
            };
            match created {
                ComponentAnyTypeId::Resource(resource) if !self.resources.contains_key(&resource.resource()) => {
                    self.resources.insert(resource.resource(), named());
                    interface.resources.insert(name.clone());
                }
                ComponentAnyTypeId::Defined(_) if self.name(*created).is_none() => {
                    self.names.insert(*created, named());
                }
                _ => {}
            }
        }
        for (name, item) in &types[id].exports {
            if let ComponentEntityType::Func(id) = item.ty {
                interface.functions.insert(name.clone(), self.function(id));
            }
        }
        interface
    }

    /// The name that a type has, or what it is an alias of.
    fn name(&self, mut id: ComponentAnyTypeId) -> Option<&Name> {
        loop {
            if let Some(name) = self.names.get(&id) {
                return Some(name);
            }
            id = self.types.peel_alias(id)?;
        }
    }

    fn function(&mut self, id: ComponentFuncTypeId) -> Function {
        let types = self.types;
        let function = &types[id];
        let params = function.params.iter();
        Function {
            is_async: function.async_,
            params: params.map(|(name, ty)| (name.to_string(), self.of(ty))).collect(),
            result: function.result.as_ref().map(|ty| self.of(ty)),
        }
    }

    fn of(&mut self, ty: &ComponentValType) -> Id {
        match ty {
            ComponentValType::Primitive(ty) => self.plain(*ty),
            ComponentValType::Type(id) => {
                if let Some(id) = self.known.get(id) {
                    return *id;
                }
                let made = self.defined(*id);
                self.known.insert(*id, made);
                made
            }
        }
    }

    fn plain(&mut self, ty: PrimitiveValType) -> Id {
        let word = word(ty);
        if let Some(id) = self.plain.get(word) {
            return *id;
        }
        let id = self.made.put(None, Shape::Plain(word));
        self.plain.insert(word, id);
        id
    }

    fn defined(&mut self, id: ComponentDefinedTypeId) -> Id {
        let types = self.types;
        let optional = |of: &mut Self, ty: &Option<ComponentValType>| ty.as_ref().map(|ty| of.of(ty));
        let shape = match &types[id] {
            ComponentDefinedType::Primitive(ty) => Shape::Plain(word(*ty)),
            ComponentDefinedType::Record(record) => {
                let fields = record.fields.iter();
                Shape::Record(fields.map(|(name, ty)| (name.to_string(), self.of(ty))).collect())
            }
            ComponentDefinedType::Variant(variant) => {
                let cases = variant.cases.iter();
                Shape::Variant(
                    cases
                        .map(|(name, case)| (name.to_string(), optional(self, &case.ty)))
                        .collect(),
                )
            }
            ComponentDefinedType::Enum(names) => Shape::Enum(names.iter().map(ToString::to_string).collect()),
            ComponentDefinedType::Flags(names) => Shape::Flags(names.iter().map(ToString::to_string).collect()),
            ComponentDefinedType::Tuple(of) => Shape::Tuple(of.types.iter().map(|ty| self.of(ty)).collect()),
            ComponentDefinedType::List { element, .. } => Shape::List(self.of(element)),
            ComponentDefinedType::FixedLengthList { element, length, .. } => Shape::Array(self.of(element), *length),
            ComponentDefinedType::Map { key, value, .. } => Shape::Map(self.of(key), self.of(value)),
            ComponentDefinedType::Option { ty, .. } => Shape::Option(self.of(ty)),
            ComponentDefinedType::Result { ok, err, .. } => Shape::Result(optional(self, ok), optional(self, err)),
            ComponentDefinedType::Own(id) => Shape::Own(self.resources.get(&id.resource()).cloned()),
            ComponentDefinedType::Borrow(id) => Shape::Borrow(self.resources.get(&id.resource()).cloned()),
            ComponentDefinedType::Future { ty, .. } => Shape::Future(optional(self, ty)),
            ComponentDefinedType::Stream { ty, .. } => Shape::Stream(optional(self, ty)),
        };
        let name = match shape {
            // A handle is named by its resource.
            Shape::Own(_) | Shape::Borrow(_) => None,
            _ => self.name(ComponentAnyTypeId::Defined(id)).cloned(),
        };
        self.made.put(name, shape)
    }
}

fn word(ty: PrimitiveValType) -> &'static str {
    match ty {
        PrimitiveValType::Bool => "bool",
        PrimitiveValType::S8 => "s8",
        PrimitiveValType::U8 => "u8",
        PrimitiveValType::S16 => "s16",
        PrimitiveValType::U16 => "u16",
        PrimitiveValType::S32 => "s32",
        PrimitiveValType::U32 => "u32",
        PrimitiveValType::S64 => "s64",
        PrimitiveValType::U64 => "u64",
        PrimitiveValType::F32 => "f32",
        PrimitiveValType::F64 => "f64",
        PrimitiveValType::Char => "char",
        PrimitiveValType::String => "string",
        PrimitiveValType::ErrorContext => "error-context",
    }
}
