//! Servers, as grants and secrets name them: scheme, host and port, as in `https://api.example.com` or
//! `https://*.example.com:8443`.
//!
//! An address is read once, by the rules that browsers have, and only what came out of that is looked at: `http://127.1`
//! and `http://0x7f000001` are the same server. Nothing here looks a name up; which addresses a name may lead to is
//! decided where the connection is made.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::de::{Deserializer, Error};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::values::{Many, Written};

/// The longest address that is accepted, in bytes.
pub const URL_BYTES: usize = 8 << 10;
/// The word after an origin that may lead into the operator's own network.
const PRIVATE: &str = " private";

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

/// One server: what an address says before its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// Its name or address.
    pub host: Named,
    /// Its port.
    pub port: u16,
}

/// How a server is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// By a name in lower case, without a dot at its end.
    Name(String),
    /// By its address; IPv4 inside IPv6 is IPv4.
    Address(IpAddr),
}

/// Servers that may be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    scheme: Scheme,
    hosts: Hosts,
    port: u16,
    private: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    /// Every name; no address.
    Any,
    /// Every name below this one.
    Below(String),
    /// This one.
    One(Named),
}

/// Which addresses the grant of a server means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Means {
    /// Those of the public internet.
    Public,
    /// Those, and those of the operator's own network.
    Private,
    /// This machine: the grant names `localhost`.
    Loopback,
    /// The one that the grant names itself.
    Itself,
}

impl Scheme {
    /// The word before `://`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl Server {
    /// Reads an address, and the server that it names.
    pub fn of(text: &str) -> Result<(Url, Self), String> {
        if text.len() > URL_BYTES {
            return Err(format!("an address is at most {URL_BYTES} bytes long"));
        }
        let url = Url::parse(text).map_err(|error| format!("`{}` is no address: {error}", text.escape_debug()))?;
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(format!("`{}` is neither http nor https", text.escape_debug())),
        };
        if !url.username().is_empty() || url.password().is_some() {
            // Not repeated in the error: it holds a password.
            return Err("an address does not carry a user or a password; use a header with a secret".to_owned());
        }
        let host = match url.host() {
            Some(Host::Domain(name)) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                if name.split('.').any(str::is_empty) {
                    return Err(format!("`{}` has a host with an empty part", text.escape_debug()));
                }
                Named::Name(name.to_owned())
            }
            Some(Host::Ipv4(address)) => Named::Address(address.into()),
            Some(Host::Ipv6(address)) => Named::Address(IpAddr::from(address).to_canonical()),
            None => return Err(format!("`{}` names no host", text.escape_debug())),
        };
        let port = url.port().unwrap_or(scheme.port());
        Ok((url, Self { scheme, host, port }))
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.host)?;
        if self.port != self.scheme.port() {
            write!(f, ":{}", self.port)?;
        }
        Ok(())
    }
}

impl Origin {
    /// Whether it covers a server.
    pub fn covers(&self, server: &Server) -> bool {
        self.scheme == server.scheme && self.port == server.port && self.hosts.cover(&server.host)
    }

    /// Which addresses it means for a server that it covers.
    pub fn means(&self) -> Means {
        match &self.hosts {
            Hosts::One(Named::Address(_)) => Means::Itself,
            Hosts::One(Named::Name(name)) if name == "localhost" => Means::Loopback,
            _ if self.private => Means::Private,
            _ => Means::Public,
        }
    }

    /// What is both asked for and allowed. That a name may lead into the operator's network is the operator's word alone.
    pub fn shared(asked: &[Self], allowed: &[Self]) -> Vec<Self> {
        let mut both: Vec<Self> = Vec::new();
        for allowed in allowed {
            for asked in asked.iter().filter(|asked| asked.meets(allowed)) {
                let hosts = if allowed.hosts.contain(&asked.hosts) {
                    &asked.hosts
                } else if asked.hosts.contain(&allowed.hosts) {
                    &allowed.hosts
                } else {
                    continue;
                };
                let one = Self {
                    hosts: hosts.clone(),
                    ..allowed.clone()
                };
                if !both.contains(&one) {
                    both.push(one);
                }
            }
        }
        both
    }

    /// Whether another one covers all that this one does.
    pub fn within(&self, wider: &Self) -> bool {
        self.within_but_private(wider) && (wider.private || !self.private)
    }

    /// The same, whichever of them may lead into the operator's own network.
    pub fn within_but_private(&self, wider: &Self) -> bool {
        self.meets(wider) && wider.hosts.contain(&self.hosts)
    }

    fn meets(&self, other: &Self) -> bool {
        self.scheme == other.scheme && self.port == other.port
    }
}

impl Hosts {
    fn cover(&self, host: &Named) -> bool {
        self.contain(&Self::One(host.clone()))
    }

    fn contain(&self, other: &Self) -> bool {
        let below = |name: &str, above: &str| {
            name.strip_suffix(above)
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        };
        match (self, other) {
            (Self::Any, Self::One(Named::Address(_))) => false,
            (Self::Any, _) => true,
            (Self::Below(above), Self::Below(name)) => name == above || below(name, above),
            (Self::Below(above), Self::One(Named::Name(name))) => below(name, above),
            (Self::One(one), Self::One(other)) => one == other,
            _ => false,
        }
    }
}

impl From<Server> for Origin {
    /// This server and no other, at addresses that are meant by its name alone.
    fn from(server: Server) -> Self {
        Self {
            scheme: server.scheme,
            hosts: Hosts::One(server.host),
            port: server.port,
            private: false,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme.as_str())?;
        match &self.hosts {
            Hosts::Any => f.write_str("*")?,
            Hosts::Below(name) => write!(f, "*.{name}")?,
            Hosts::One(host) => host.fmt(f)?,
        }
        if self.port != self.scheme.port() {
            write!(f, ":{}", self.port)?;
        }
        f.write_str(if self.private { PRIVATE } else { "" })
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "`{}` is not a server: {why}; write it as https://api.example.com, https://*.example.com:8443 or \
                 http://127.0.0.1:8080",
                text.escape_debug()
            )
        };
        let (plain, private) = text.strip_suffix(PRIVATE).map_or((text, false), |plain| (plain, true));
        let (scheme, rest) = plain.split_once("://").ok_or_else(|| wrong("it has no scheme"))?;
        // A name that a star can stand before, so that what follows is read by the same rules as any address.
        let (many, rest) = match rest.strip_prefix('*') {
            Some(rest) => (true, format!("star{rest}")),
            None => (false, rest.to_owned()),
        };
        let (url, server) = Server::of(&format!("{scheme}://{rest}")).map_err(|why| wrong(&why))?;
        if url.path() != "/"
            || url.query().is_some()
            || url.fragment().is_some()
            || plain.contains(['*', '\\']) && !many
        {
            return Err(wrong("it says more than scheme, host and port"));
        }
        let hosts = match (many, server.host) {
            (false, host) => Hosts::One(host),
            (true, Named::Name(name)) if name == "star" => Hosts::Any,
            (true, Named::Name(name)) => match name.strip_prefix("star.") {
                Some(below) => Hosts::Below(below.to_owned()),
                None => return Err(wrong("a star stands for whole parts of a name")),
            },
            (true, Named::Address(_)) => return Err(wrong("a star stands for parts of a name")),
        };
        if private && matches!(hosts, Hosts::One(Named::Address(_))) {
            return Err(wrong("an address that is named itself needs no `private`"));
        }
        Ok(Self {
            scheme: server.scheme,
            hosts,
            port: server.port,
            private,
        })
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(written())
    }
}

fn written() -> Written<Origin> {
    Written {
        expected: "a server such as https://api.example.com",
        read: Origin::from_str,
    }
}

/// Reads the servers that a secret may be sent to.
pub(super) fn destinations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Origin>, D::Error> {
    let origins = deserializer.deserialize_any(Many(written()))?;
    if origins.is_empty() {
        return Err(D::Error::custom(
            "an empty list keeps the secret from everyone; name a server, or remove the secret",
        ));
    }
    if let Some(origin) = origins.iter().find(|origin| origin.private) {
        return Err(D::Error::custom(format!(
            "`{origin}`: `private` belongs to the grant `http` of a plugin; remove it here"
        )));
    }
    Ok(origins)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn origin(text: &str) -> Origin {
        text.parse().unwrap()
    }

    fn covers(origin: &str, url: &str) -> bool {
        Server::of(url).is_ok_and(|(_, server)| self::origin(origin).covers(&server))
    }

    #[test]
    fn a_server_is_covered_by_scheme_host_and_port() {
        for (granted, url, expected) in [
            ("https://api.example.com", "https://api.example.com/v1?x#y", true),
            ("https://api.example.com", "HTTPS://API.EXAMPLE.COM:443", true),
            ("https://api.example.com", "https://api.example.com./", true),
            ("https://api.example.com", "http://api.example.com", false),
            ("https://api.example.com", "https://api.example.com:8443", false),
            ("https://api.example.com", "https://api.example.com.evil.org", false),
            ("https://api.example.com", "https://evil.org/api.example.com", false),
            ("https://api.example.com", "https://evil.org\\@api.example.com", false),
            ("https://api.example.com", "https://api.example.com@evil.org", false),
            ("https://api.example.com", "https://evil.org#@api.example.com", false),
            ("https://api.example.com", "https://xapi.example.com", false),
            ("https://api.example.com", "https://api%2eexample.com", true),
            ("https://api.example.com", "https://api.exa\tmple.com", true),
            ("https://api.example.com", "https://api。example.com", true),
            ("https://api.example.com", "https://\u{430}pi.example.com", false),
            ("https://*.example.com:8443", "https://a.example.com:8443", true),
            ("https://*.example.com:8443", "https://a.b.example.com:8443", true),
            ("https://*.example.com", "https://example.com", false),
            ("https://*.example.com", "https://.example.com", false),
            ("https://*.example.com", "https://evilexample.com", false),
            ("https://*", "https://anything.org", true),
            ("http://*", "http://127.0.0.1", false),
            ("http://*.1", "http://127.0.0.1", false),
            ("http://127.0.0.1", "http://2130706433", true),
            ("http://127.0.0.1", "http://0x7f.1", true),
            ("http://127.0.0.1", "http://0177.0.0.1", true),
            ("http://127.0.0.1", "http://127.1", true),
            ("http://127.0.0.1", "http://[::ffff:7f00:1]", true),
            ("http://127.0.0.1", "http://１２７.0.0.1", true),
            ("http://127.0.0.1", "http://127.0.0.2", false),
            ("http://localhost", "http://localhost.", true),
            ("http://localhost", "http://LOCALHOST", true),
            ("http://localhost", "http://127.0.0.1", false),
            ("http://xn--bcher-kva.example", "http://bücher.example", true),
        ] {
            if granted == "http://*.1" {
                assert!(granted.parse::<Origin>().is_err());
                continue;
            }
            assert_eq!(covers(granted, url), expected, "{granted} over {url}");
        }
    }

    #[test]
    fn what_is_no_server_is_refused_with_the_reason() {
        let hint = "write it as https://api.example.com, https://*.example.com:8443 or http://127.0.0.1:8080";
        for (text, why) in [
            ("api.example.com", "it has no scheme"),
            ("ftp://a", "`ftp://a` is neither http nor https"),
            ("https://", "`https://` is no address: empty host"),
            ("https://a/b", "it says more than scheme, host and port"),
            ("https://a?b", "it says more than scheme, host and port"),
            ("https://a#b", "it says more than scheme, host and port"),
            ("https://a.*.b", "it says more than scheme, host and port"),
            ("https://a\\", "it says more than scheme, host and port"),
            ("https://*a.b", "a star stands for whole parts of a name"),
            ("https://*.a..b", "`https://star.a..b` has a host with an empty part"),
            (
                "http://10.0.0.1 private",
                "an address that is named itself needs no `private`",
            ),
        ] {
            let expected = format!("`{}` is not a server: {why}; {hint}", text.escape_debug());
            assert_eq!(text.parse::<Origin>().unwrap_err(), expected);
        }
        let secret = "https://user:hunter2@a".parse::<Origin>().unwrap_err();
        assert!(secret.contains("does not carry a user or a password"), "{secret}");
        assert!(Server::of("https://user:hunter2@a").is_err_and(|why| !why.contains("hunter2")));
        let long = format!("https://a/{}", "x".repeat(URL_BYTES));
        assert_eq!(Server::of(&long).unwrap_err(), "an address is at most 8192 bytes long");
    }

    #[test]
    fn private_is_the_operators_word() {
        let shared = |asked: &[&str], allowed: &[&str]| {
            let read = |list: &[&str]| list.iter().map(|text| origin(text)).collect::<Vec<_>>();
            let both = Origin::shared(&read(asked), &read(allowed));
            both.iter().map(Origin::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            shared(&["https://git.corp"], &["https://git.corp private"]),
            ["https://git.corp private"]
        );
        assert_eq!(
            shared(&["https://git.corp private"], &["https://git.corp"]),
            ["https://git.corp"]
        );
        assert_eq!(
            shared(&["https://*"], &["https://a.b", "https://*.c", "http://d"]),
            ["https://a.b", "https://*.c"]
        );
        assert_eq!(
            shared(&["https://a.b.c"], &["https://*.c private"]),
            ["https://a.b.c private"]
        );
        assert_eq!(shared(&["https://*"], &["https://10.0.0.1"]), [""; 0]);
        assert_eq!(origin("http://localhost:80").means(), Means::Loopback);
        assert_eq!(origin("http://10.0.0.1").means(), Means::Itself);
        assert_eq!(origin("http://a private").means(), Means::Private);
        assert_eq!(origin("http://a").means(), Means::Public);
    }

    proptest! {
        #[test]
        fn an_origin_is_read_back_as_it_is_shown(
            text in "https?://(\\*\\.)?(a|b\\.a|x-1\\.b\\.a|\\*)(:[1-9][0-9]{0,3})?( private)?"
        ) {
            if let Ok(origin) = text.parse::<Origin>() {
                prop_assert_eq!(origin.to_string().parse::<Origin>().unwrap(), origin);
            }
        }

        #[test]
        fn the_shared_servers_are_those_that_both_cover(
            asked in proptest::collection::vec("https?://(\\*|\\*\\.a|\\*\\.b\\.a|b\\.a|c\\.b\\.a|127\\.0\\.0\\.1)(:[12])?", 0..4),
            allowed in proptest::collection::vec("https?://(\\*|\\*\\.a|\\*\\.b\\.a|b\\.a|c\\.b\\.a|127\\.0\\.0\\.1)(:[12])?", 0..4),
            url in "https?://(a|b\\.a|c\\.b\\.a|127\\.0\\.0\\.1|d)(:[12])?",
        ) {
            let read = |list: &[String]| list.iter().map(|text| origin(text)).collect::<Vec<_>>();
            let (asked, allowed) = (read(&asked), read(&allowed));
            let (_, server) = Server::of(&url).unwrap();
            let cover = |list: &[Origin]| list.iter().any(|origin| origin.covers(&server));
            prop_assert_eq!(cover(&Origin::shared(&asked, &allowed)), cover(&asked) && cover(&allowed));
        }

        #[test]
        fn no_text_makes_it_panic(text in "(https?|ftp)?:?/?/?.{0,60}") {
            if let Ok(origin) = text.parse::<Origin>() {
                prop_assert_eq!(origin.to_string().parse::<Origin>().unwrap(), origin);
            }
            drop(Server::of(&text));
        }
    }
}
