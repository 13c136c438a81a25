//! Functions and types as WIT writes them, cut where a stranger's would go on and on.

use super::{Contract, Function, Id, Name, Shape};

/// How long a shown function or type may be, in bytes.
const MOST: usize = 400;

impl Contract {
    /// A function with its name.
    pub(super) fn shown_function(&self, name: &str, function: &Function) -> String {
        let mut out = Out::default();
        out.put(name);
        out.put(if function.is_async { ": async func(" } else { ": func(" });
        for (number, (name, ty)) in function.params.iter().enumerate() {
            out.put(if number > 0 { ", " } else { "" });
            out.put(name);
            out.put(": ");
            self.write(&mut out, *ty);
        }
        out.put(")");
        if let Some(ty) = function.result {
            out.put(" -> ");
            self.write(&mut out, ty);
        }
        out.finish()
    }

    /// A type by its name, or written out when it has none.
    pub(super) fn shown(&self, id: Id) -> String {
        let mut out = Out::default();
        self.write(&mut out, id);
        out.finish()
    }

    /// A type, written out.
    pub(super) fn shown_whole(&self, id: Id) -> String {
        let mut out = Out::default();
        self.write_shape(&mut out, &self.get(id).shape);
        out.finish()
    }

    fn write(&self, out: &mut Out, id: Id) {
        let of = self.get(id);
        match &of.name {
            Some(name) => out.put(&name.name),
            None => self.write_shape(out, &of.shape),
        }
    }

    fn write_shape(&self, out: &mut Out, shape: &Shape) {
        if out.full() {
            return;
        }
        match shape {
            Shape::Plain(word) => out.put(word),
            Shape::Record(fields) => {
                let fields = fields.iter().map(|(name, ty)| (name.as_str(), Some(*ty)));
                self.block(out, "record", fields, [": ", ""]);
            }
            Shape::Variant(cases) => {
                let cases = cases.iter().map(|(name, ty)| (name.as_str(), *ty));
                self.block(out, "variant", cases, ["(", ")"]);
            }
            Shape::Enum(names) => self.block(out, "enum", names.iter().map(|name| (name.as_str(), None)), ["", ""]),
            Shape::Flags(names) => self.block(out, "flags", names.iter().map(|name| (name.as_str(), None)), ["", ""]),
            Shape::Tuple(of) => {
                out.put("tuple<");
                for (number, ty) in of.iter().enumerate() {
                    if out.full() {
                        return;
                    }
                    out.put(if number > 0 { ", " } else { "" });
                    self.write(out, *ty);
                }
                out.put(">");
            }
            Shape::List(of) => self.within(out, "list", &[Some(*of)]),
            Shape::Array(of, length) => {
                out.put("list<");
                self.write(out, *of);
                out.put(&format!(", {length}>"));
            }
            Shape::Map(key, value) => self.within(out, "map", &[Some(*key), Some(*value)]),
            Shape::Option(of) => self.within(out, "option", &[Some(*of)]),
            Shape::Result(None, None) => out.put("result"),
            Shape::Result(ok, None) => self.within(out, "result", &[*ok]),
            Shape::Result(ok, error) => self.within(out, "result", &[*ok, *error]),
            Shape::Own(name) => out.put(word(name)),
            Shape::Borrow(name) => {
                out.put("borrow<");
                out.put(word(name));
                out.put(">");
            }
            Shape::Future(None) => out.put("future"),
            Shape::Future(of) => self.within(out, "future", &[*of]),
            Shape::Stream(None) => out.put("stream"),
            Shape::Stream(of) => self.within(out, "stream", &[*of]),
        }
    }

    fn within(&self, out: &mut Out, word: &str, of: &[Option<Id>]) {
        out.put(word);
        out.put("<");
        for (number, ty) in of.iter().enumerate() {
            out.put(if number > 0 { ", " } else { "" });
            match ty {
                Some(ty) => self.write(out, *ty),
                None => out.put("_"),
            }
        }
        out.put(">");
    }

    fn block<'a>(
        &self,
        out: &mut Out,
        word: &str,
        items: impl Iterator<Item = (&'a str, Option<Id>)>,
        around: [&str; 2],
    ) {
        out.put(word);
        out.put(" { ");
        for (number, (name, ty)) in items.enumerate() {
            if out.full() {
                return;
            }
            out.put(if number > 0 { ", " } else { "" });
            out.put(name);
            if let Some(ty) = ty {
                let [before, behind] = around;
                out.put(before);
                self.write(out, ty);
                out.put(behind);
            }
        }
        out.put(" }");
    }
}

fn word(name: &Option<Name>) -> &str {
    name.as_ref().map_or("a resource", |name| name.name.as_str())
}

#[derive(Default)]
struct Out {
    text: String,
}

impl Out {
    fn full(&self) -> bool {
        self.text.len() > MOST
    }

    fn put(&mut self, text: &str) {
        if !self.full() {
            self.text.push_str(text);
        }
    }

    fn finish(self) -> String {
        if !self.full() {
            return self.text;
        }
        let cut: String = self.text.chars().take(MOST).collect();
        format!("{cut}…")
    }
}
