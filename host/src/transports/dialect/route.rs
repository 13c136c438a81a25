//! The hubs that a frame has passed on its way, as bridges write them.

use std::sync::Arc;

use super::fields::Fields;

/// The names under `routePath`: a list, or one text with `>` or `,` between them. What cannot be read has passed none.
pub(super) fn passed(fields: &Fields) -> Arc<[Arc<str>]> {
    let Some(route) = fields.raw("routePath").or_else(|| fields.raw("route_path")) else {
        return Arc::default();
    };
    if let Ok(list) = serde_json::from_str::<Vec<Arc<str>>>(route.get()) {
        return list.into();
    }
    let text: String = serde_json::from_str(route.get()).unwrap_or_default();
    let names = text.split(['>', ',']).map(str::trim).filter(|name| !name.is_empty());
    names.map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::super::decode;

    #[test]
    fn the_route_of_a_frame_is_read_however_a_bridge_writes_it() {
        for (route, names) in [
            (r#""routePath":["a","b"]"#, vec!["a", "b"]),
            (r#""route_path":"a > b""#, vec!["a", "b"]),
            (r#""routePath":"a,b,""#, vec!["a", "b"]),
            (r#""routePath":3"#, vec![]),
            (r#""path":"a""#, vec![]),
        ] {
            let asked = decode(&format!(r#"{{"type":"x",{route}}}"#)).unwrap();
            assert_eq!(
                asked.route.iter().map(|name| &**name).collect::<Vec<_>>(),
                names,
                "{route}"
            );
        }
    }
}
