//! Whatever a plugin writes as an address: it is one server or it is refused, and what a grant covers is that server alone.
//!
//! The first line is an address, each of the others a grant.

#![no_main]
#![allow(clippy::expect_used, reason = "a failure here ends the target, as any finding does")]

use libfuzzer_sys::fuzz_target;
use waypost::config::{Means, Named, Origin, Scheme, Server, URL_BYTES};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = str::from_utf8(data) else { return };
    let mut lines = text.split('\n');
    let address = lines.next().unwrap_or_default();
    let server = server(address);
    let grants: Vec<Origin> = lines.take(8).filter_map(origin).collect();
    if let Some(server) = &server {
        for grant in &grants {
            covered(grant, server);
        }
        let cover = |grants: &[Origin]| grants.iter().any(|grant| grant.covers(server));
        let (asked, allowed) = grants.split_at(grants.len() / 2);
        assert_eq!(
            cover(&Origin::shared(asked, allowed)),
            cover(asked) && cover(allowed),
            "what is granted is what both sides cover"
        );
    }
});

/// Reads an address, and checks what was read against the words of the address itself.
fn server(text: &str) -> Option<Server> {
    let (url, server) = Server::of(text).ok()?;
    assert!(text.len() <= URL_BYTES);
    assert!(
        url.username().is_empty() && url.password().is_none(),
        "nobody is named in it"
    );
    assert!(!url.cannot_be_a_base() && url.path().starts_with('/'));
    let scheme = match server.scheme {
        Scheme::Http => "http://",
        Scheme::Https => "https://",
    };
    let rest = url
        .as_str()
        .strip_prefix(scheme)
        .expect("its scheme is the one that it was read with");
    let end = rest.find(['/', '?', '#']).expect("a path follows the host");
    let authority = &rest[..end];
    assert!(
        !authority.contains(['@', '\\', ' ', '\t', '%']) && authority.is_ascii(),
        "{authority}"
    );
    // What is said to the server and what was judged are the same.
    let shown = server.to_string();
    let written = format!("{scheme}{authority}").replacen(&dotted(&server), &bare(&server), 1);
    if !matches!(&server.host, Named::Address(address) if address.is_ipv4() && authority.starts_with('[')) {
        assert_eq!(written, shown, "{text:?}");
    }
    let (_, again) = Server::of(&shown).expect("a server that is shown is an address");
    assert_eq!(again, server, "{shown}");
    let (_, again) = Server::of(url.as_str()).expect("an address that was read is an address");
    assert_eq!(again, server, "it means the same when it is read twice");
    if let Named::Name(name) = &server.host {
        assert!(
            !name.is_empty() && !name.starts_with('.') && !name.ends_with('.') && !name.contains(".."),
            "{name}"
        );
        let last = name.rsplit('.').next().unwrap_or_default();
        assert!(
            !last.bytes().all(|byte| byte.is_ascii_digit()),
            "{name} would be read as an address elsewhere"
        );
    }
    Some(server)
}

fn dotted(server: &Server) -> String {
    format!("{}.", server.host)
}

fn bare(server: &Server) -> String {
    server.host.to_string()
}

/// Reads a grant; it is read back as it is shown.
fn origin(text: &str) -> Option<Origin> {
    let origin: Origin = text.parse().ok()?;
    let again: Origin = origin.to_string().parse().expect("a grant that is shown is a grant");
    assert_eq!(again, origin);
    Some(origin)
}

/// What a grant covers, judged by the texts of both.
fn covered(grant: &Origin, server: &Server) {
    let (shown, wanted) = (grant.to_string(), server.to_string());
    let plain = shown.strip_suffix(" private").unwrap_or(&shown);
    let is_name = matches!(server.host, Named::Name(_));
    let expected = match plain.split_once("://*") {
        None => plain == wanted,
        Some((scheme, below)) => {
            let name = wanted.strip_prefix(&format!("{scheme}://"));
            is_name
                && name.is_some_and(|name| {
                    let (host, port) = name.split_once(':').unwrap_or((name, ""));
                    let (suffix, wanted_port) = below.split_once(':').unwrap_or((below, ""));
                    port == wanted_port && host.len() > suffix.len() && host.ends_with(suffix)
                })
        }
    };
    assert_eq!(grant.covers(server), expected, "{shown} over {wanted}");
    if expected {
        let means = match &server.host {
            Named::Address(_) => grant.means() == Means::Itself,
            Named::Name(_) => grant.means() != Means::Itself,
        };
        assert!(
            means,
            "an address is meant where it is written itself, and nowhere else: {shown} over {wanted}"
        );
    }
}
