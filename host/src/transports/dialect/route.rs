//! The hubs that a frame has passed on its way, as bridges write them.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::call::Json;

/// The runtimes that a frame says it has passed.
#[derive(Deserialize)]
struct Passed<'a> {
    #[serde(rename = "routePath", alias = "route_path", borrow, default)]
    route: Option<&'a RawValue>,
}

impl Passed<'_> {
    /// A list, or one text with `>` or `,` between the names: bridges write either.
    fn names(&self) -> Vec<Arc<str>> {
        let Some(route) = self.route else { return Vec::new() };
        if let Ok(list) = serde_json::from_str(route.get()) {
            return list;
        }
        let text: String = serde_json::from_str(route.get()).unwrap_or_default();
        let names = text.split(['>', ',']).map(str::trim).filter(|name| !name.is_empty());
        names.map(Into::into).collect()
    }
}

/// The runtimes that a frame has passed. What cannot be read has passed none.
pub fn passed(frame: &Json) -> Arc<[Arc<str>]> {
    let passed = serde_json::from_str::<Passed>(frame.as_str());
    passed.map(|passed| passed.names().into()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_of_a_frame_is_read_however_a_bridge_writes_it() {
        for (frame, names) in [
            (r#"{"routePath":["a","b"]}"#, vec!["a", "b"]),
            (r#"{"route_path":"a > b"}"#, vec!["a", "b"]),
            (r#"{"routePath":"a,b,"}"#, vec!["a", "b"]),
            (r#"{"routePath":3}"#, vec![]),
            (r#"{"path":"a"}"#, vec![]),
        ] {
            let passed = passed(&Json::parse(frame).unwrap());
            assert_eq!(passed.iter().map(|name| &**name).collect::<Vec<_>>(), names, "{frame}");
        }
    }
}
