//! The fields of one JSON object, each still as its text.
//!
//! Large contents pass through unread, and numbers keep their digits. Not here: what any field means.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::call::Json;

/// The fields of an object.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(transparent)]
pub(super) struct Fields(BTreeMap<String, Box<RawValue>>);

impl Fields {
    /// None when the text is not an object.
    pub(super) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// A field; null is the same as none.
    pub(super) fn raw(&self, name: &str) -> Option<&RawValue> {
        self.0.get(name).map(|raw| &**raw).filter(|raw| raw.get() != "null")
    }

    /// A field of this type; none when it is of another.
    pub(super) fn get<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        self.raw(name).and_then(|raw| serde_json::from_str(raw.get()).ok())
    }

    /// A field that is a string.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.get(name)
    }

    /// A field that is an object.
    pub(super) fn object(&self, name: &str) -> Option<Self> {
        self.raw(name).and_then(|raw| Self::read(raw.get()))
    }

    /// Whether there is such a field that is not null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.raw(name).is_some()
    }

    /// Whether a field is an array.
    pub(super) fn is_array(&self, name: &str) -> bool {
        self.raw(name).is_some_and(|raw| raw.get().starts_with('['))
    }

    /// Sets a field.
    pub(super) fn set<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) {
        if let Ok(raw) = to_raw_value(value) {
            self.0.insert(name.to_owned(), raw);
        }
    }

    /// Sets a field that is not there.
    pub(super) fn fill<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) {
        if !self.has(name) {
            self.set(name, value);
        }
    }

    /// Sets a field that is not there to the first of these that is.
    pub(super) fn fill_from(&mut self, name: &str, others: &[&str]) {
        if self.has(name) {
            return;
        }
        if let Some(raw) = others.iter().find_map(|other| self.raw(other)).map(ToOwned::to_owned) {
            self.0.insert(name.to_owned(), raw);
        }
    }

    /// Sets a field that is not there to the first of these that is a string.
    pub(super) fn fill_text(&mut self, name: &str, others: &[&str]) {
        let text = others.iter().find_map(|other| self.text(other));
        if let Some(text) = text {
            self.fill(name, &text);
        }
    }

    /// Takes fields away.
    pub(super) fn remove(&mut self, names: &[&str]) {
        for name in names {
            self.0.remove(*name);
        }
    }

    /// The only field, if there is just one.
    pub(super) fn only(&self) -> Option<(&str, &RawValue)> {
        let mut fields = self.0.iter();
        match (fields.next(), fields.next()) {
            (Some((name, raw)), None) => Some((name, raw)),
            _ => None,
        }
    }

    /// The fields whose value is an array.
    pub(super) fn arrays(&self) -> impl Iterator<Item = &RawValue> {
        self.0
            .values()
            .map(|raw| &**raw)
            .filter(|raw| raw.get().starts_with('['))
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The object.
    pub(super) fn json(&self) -> Json {
        Json::of(self).unwrap_or_else(|_| serde_json::json!({}).into())
    }
}

/// A value as words: a string as it is, anything else as its JSON.
pub(super) fn words(raw: &RawValue) -> String {
    serde_json::from_str(raw.get()).unwrap_or_else(|_| raw.get().to_owned())
}
