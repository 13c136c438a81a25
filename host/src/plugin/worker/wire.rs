//! What crosses the socket between the hub and a worker process, and how: frames of bounded length, each one value in
//! postcard behind its length (four bytes, little endian). JSON crosses as the text that it is.
//!
//! The two directions are two types, since the two ends do not trust each other alike: a worker does what an [`Order`]
//! says, the hub believes nothing of a [`Word`]. A worker names calls by numbers that the hub gave out; there is no way to
//! name a principal, a plugin or a grant. Not here: which word may come when (`worker/heard.rs`).

use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio_util::codec::LengthDelimitedCodec;
use tokio_util::codec::length_delimited::Builder;

use super::confine::Confinement;
use crate::call::CallError;
use crate::config::{Limits, PluginLimits};
use crate::error::{Error, ErrorKind};
use crate::imports::{Facts, Level, Reply, Request, RunFacts};
use crate::plugin::execute::{Ended, Job};
use crate::plugin::manifest::Role;

/// The first frame names it, so that no worker talks to the hub of another version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// More than a frame needs beside the longest text in it, in bytes.
pub const BESIDE: usize = 64 << 10;

/// How much compiled code goes into one frame, in bytes.
pub const PIECE: usize = 1 << 20;

/// How much is read from the socket at once, in bytes.
pub const READ: usize = 64 << 10;

/// Bytes of the length before each frame.
pub const HEAD: usize = 4;

/// What the hub tells a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Order {
    /// The first: what the worker has room for.
    Start(Start),
    /// Compiled code follows, of a plugin that the hub calls by this number.
    Load(Load),
    /// The next piece of it.
    Code(Bytes),
    /// A call begins.
    Begin(Begin),
    /// A call shall end; the worker still says how it did.
    Stop(u64),
    /// What a call asked is answered.
    Answer {
        /// The number of the call.
        call: u64,
        /// The time of its run.
        now: u64,
        /// The answer.
        reply: Result<Reply, CallError>,
    },
}

/// What a worker has room for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// Must be [`VERSION`].
    pub version: String,
    /// Calls at the same time.
    pub places: u32,
    /// All linear memories of one call, in bytes.
    pub memory: u64,
    /// All table elements of one call.
    pub table_elements: u64,
    /// What the whole process may have of memory, in bytes.
    pub process_memory: u64,
    /// The longest frame that the hub takes, in bytes.
    pub longest: u32,
}

/// A plugin that a worker is to have ready.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// The hub's number for it.
    pub plugin: u64,
    /// Its id, for errors.
    pub id: String,
    /// Its role.
    pub role: Role,
    /// What it was granted, as JSON; where folders are is the hub's to know.
    pub grants: String,
    /// The variables that it reads.
    pub variables: Vec<(String, String)>,
    /// Its limits.
    pub limits: Bounds,
    /// Bytes of compiled code that follow.
    pub code: u64,
}

/// The limits of a plugin that hold where its code runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// All linear memories of one call, in bytes.
    pub memory: u64,
    /// All table elements of one call.
    pub table_elements: u64,
    /// Live handles of one call.
    pub handles: u64,
    /// Bytes that one import call may hand over.
    pub host_call: u64,
    /// Bytes of one reply.
    pub reply: u64,
    /// Bytes of one call's log.
    pub log: u64,
}

impl Start {
    /// For so many calls at the same time, within the limits of a hub.
    pub fn of(limits: &Limits, places: usize) -> Self {
        let plugin = &limits.plugin;
        let longest = plugin.reply.max(plugin.host_call).saturating_add(BESIDE);
        Self {
            version: VERSION.to_owned(),
            places: u32::try_from(places).unwrap_or(u32::MAX),
            memory: plugin.memory as u64,
            table_elements: plugin.table_elements as u64,
            process_memory: limits.worker_memory as u64,
            longest: u32::try_from(longest).unwrap_or(u32::MAX),
        }
    }

    /// As the limits of an engine.
    pub(in crate::plugin) fn limits(&self) -> Limits {
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        Limits {
            calls: size(self.places.into()),
            nested_calls: 0,
            agents: 0,
            observers: 0,
            plugin: PluginLimits {
                memory: size(self.memory),
                table_elements: size(self.table_elements),
                ..PluginLimits::default()
            },
            ..Limits::default()
        }
    }
}

impl Load {
    /// Of a plugin that the hub calls by this number, and `code` bytes that follow.
    pub(in crate::plugin) fn of(plugin: u64, role: Role, facts: &Facts, code: usize) -> Result<Self, Error> {
        let grants = serde_json::to_string(&facts.grants.clone().without_places())
            .map_err(|error| Error::new(ErrorKind::Internal, "the grants cannot be written").because(error))?;
        Ok(Self {
            plugin,
            id: facts.id.to_string(),
            role,
            grants,
            variables: Vec::new(),
            limits: Bounds::of(&facts.limits),
            code: code as u64,
        })
    }

    /// What the imports of the plugin know of it.
    pub(in crate::plugin) fn facts(&self) -> Result<Facts, Error> {
        let grants = serde_json::from_str(&self.grants)
            .map_err(|error| Error::new(ErrorKind::Internal, "the grants cannot be read").because(error))?;
        Ok(Facts {
            id: self.id.as_str().into(),
            grants,
            may_call: Arc::new([]),
            limits: self.limits.limits(),
        })
    }
}

impl Bounds {
    /// Of these limits.
    pub fn of(limits: &PluginLimits) -> Self {
        Self {
            memory: limits.memory as u64,
            table_elements: limits.table_elements as u64,
            handles: limits.handles as u64,
            host_call: limits.host_call as u64,
            reply: limits.reply as u64,
            log: limits.log as u64,
        }
    }

    /// As the limits of a plugin.
    pub(super) fn limits(&self) -> PluginLimits {
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        PluginLimits {
            memory: size(self.memory),
            table_elements: size(self.table_elements),
            handles: size(self.handles),
            host_call: size(self.host_call),
            reply: size(self.reply),
            log: size(self.log),
            ..PluginLimits::default()
        }
    }
}

/// A call into a plugin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Begin {
    /// Its number, never used again.
    pub call: u64,
    /// The plugin's number.
    pub plugin: u64,
    /// What is left of its time, in microseconds.
    pub left: u64,
    /// For an agent: its run.
    pub run: Option<RunFacts>,
    /// What the plugin is told.
    pub job: Job,
}

/// What a worker says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Word {
    /// The first: it is ready, and this is how it is confined; or why it is not.
    Up(Result<Confinement, String>),
    /// A plugin is ready, or why it is not.
    Loaded {
        /// Its number.
        plugin: u64,
        /// Whether it can be called.
        result: Result<(), CallError>,
    },
    /// A call asks something of the hub; it asks nothing more before it is answered.
    Ask {
        /// The number of the call.
        call: u64,
        /// What it asks.
        request: Request,
    },
    /// A call wrote a line to its log.
    Say {
        /// The number of the call.
        call: u64,
        /// How loud.
        level: Level,
        /// The line.
        text: String,
    },
    /// A call has ended, and nothing is left of it.
    End {
        /// The number of the call.
        call: u64,
        /// How.
        ended: Ended,
    },
}

/// Bytes that are written as one piece.
#[derive(Clone, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;
        impl Visitor<'_> for Whole {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Whole)
    }
}

/// Why something could not be sent or read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It has so many bytes; more than the other end takes.
    TooLong(usize),
    /// It is not what may come here.
    Garbage(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(bytes) => write!(f, "a frame of {bytes} bytes"),
            Self::Garbage(why) => write!(f, "a frame that is none: {why}"),
        }
    }
}

/// The frame of a value, with its length before it.
pub fn encode<T: Serialize>(value: &T, longest: usize) -> Result<Vec<u8>, Fault> {
    let frame = postcard::to_extend(value, vec![0; HEAD]).map_err(|error| Fault::Garbage(error.to_string()))?;
    let length = frame.len() - HEAD;
    match (u32::try_from(length), length <= longest) {
        (Ok(head), true) => {
            let mut frame = frame;
            if let Some(place) = frame.first_chunk_mut::<HEAD>() {
                *place = head.to_le_bytes();
            }
            Ok(frame)
        }
        _ => Err(Fault::TooLong(length)),
    }
}

/// The value of a frame, without its length: all of it, and nothing more.
pub fn decode<T: DeserializeOwned>(frame: &[u8]) -> Result<T, Fault> {
    match postcard::take_from_bytes(frame) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(Fault::Garbage(format!("{} bytes too many", rest.len()))),
        Err(error) => Err(Fault::Garbage(error.to_string())),
    }
}

/// How frames are cut out of what is read from a socket; a longer one than this is an error before it is read.
pub fn frames(longest: usize) -> LengthDelimitedCodec {
    Builder::new()
        .little_endian()
        .length_field_length(HEAD)
        .max_frame_length(longest)
        .new_codec()
}

#[cfg(test)]
mod tests;
