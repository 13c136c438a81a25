//! What a worker may say, and when: a state machine over its words, without a process, a socket or a clock.
//!
//! Everything that a worker says is taken as hostile. It can say once that it is ready, of each plugin that it was asked
//! about once how that went, "call 7 asks this", once at a time, "call 7 logs this", within its limit, and "call 7 has ended",
//! once. Anything else is [`Wrong`], and nothing is heard after it. Not here: who asks, and what it may
//! ([`crate::imports::CallContext`]), and what follows from it all for the process (`worker/line.rs`).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;

use tokio_util::bytes::BytesMut;
use tokio_util::codec::{Decoder, LengthDelimitedCodec};

use super::confine::Confinement;
use super::wire::{self, Fault, Word};
use crate::call::CallError;
use crate::imports::{Level, Request};
use crate::plugin::execute::Ended;

/// Cuts words out of what is read from a worker. What is none comes out as well; nothing good comes after it.
#[derive(Debug)]
pub struct Words {
    frames: LengthDelimitedCodec,
    longest: usize,
}

impl Words {
    /// Out of frames of at most so many bytes.
    pub fn new(longest: usize) -> Self {
        Self {
            frames: wire::frames(longest),
            longest,
        }
    }
}

impl Decoder for Words {
    type Item = Result<Word, Wrong>;
    type Error = io::Error;

    fn decode(&mut self, read: &mut BytesMut) -> io::Result<Option<Self::Item>> {
        Ok(match self.frames.decode(read) {
            Ok(frame) => frame.map(|frame| wire::decode(&frame).map_err(Wrong::Frame)),
            // It knows no other error than this one.
            Err(_) => Some(Err(Wrong::TooLong(self.longest))),
        })
    }
}

/// What a worker may not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// A frame of more bytes than this.
    TooLong(usize),
    /// A frame that holds no word.
    Frame(Fault),
    /// That it is ready, a second time.
    UpAgain,
    /// How a plugin was loaded that it was not asked about, or has spoken of already.
    NotAskedAbout,
    /// Something of a call that it was never given, or that has ended.
    NoSuchCall(u64),
    /// A question of a call that waits for the answer to another.
    AskedAgain(u64),
    /// More lines of a call than it may log.
    LogsTooMuch(u64),
    /// Anything after one of these, or after its end.
    Over,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(longest) => write!(f, "sent a frame of more than {longest} bytes"),
            Self::Frame(fault) => write!(f, "sent {fault}"),
            Self::UpAgain => f.write_str("said twice that it is ready"),
            Self::NotAskedAbout => f.write_str("spoke of a plugin that it was not asked about"),
            Self::NoSuchCall(call) => write!(f, "spoke of call {call}, which it does not have"),
            Self::AskedAgain(call) => write!(f, "asked for call {call} again before it was answered"),
            Self::LogsTooMuch(call) => write!(f, "logs more for call {call} than its limit `log`"),
            Self::Over => f.write_str("spoke after its end"),
        }
    }
}

/// What a word means: `C` is what the hub knows of a call, and `P` of a plugin.
#[derive(Debug, PartialEq)]
pub enum Said<'a, C, P> {
    /// It is ready, or why not.
    Up(Result<Confinement, String>),
    /// This plugin is ready, or why not.
    Loaded(&'a P, Result<(), CallError>),
    /// This call asks something.
    Asks(&'a C, Request),
    /// This call logs a line.
    Logs(&'a C, Level, String),
    /// This call has ended, and is nothing of the worker's any more.
    Ended(C, Ended),
}

/// What one worker was given, and what it has said of it.
#[derive(Debug)]
pub struct Heard<C, P> {
    up: bool,
    over: bool,
    /// The number of the last call that began.
    last: u64,
    calls: HashMap<u64, Call<C>>,
    plugins: BTreeMap<u64, Plugin<P>>,
}

/// A call that has begun and not ended.
#[derive(Debug)]
struct Call<C> {
    of: C,
    /// Whether it waits for an answer.
    asking: bool,
    /// Bytes that it may still log.
    log_left: usize,
}

/// A plugin that the worker was asked about.
#[derive(Debug)]
struct Plugin<P> {
    of: P,
    /// Whether it has said how that went.
    told: bool,
}

impl<C, P> Default for Heard<C, P> {
    fn default() -> Self {
        Self {
            up: false,
            over: false,
            last: 0,
            calls: HashMap::new(),
            plugins: BTreeMap::new(),
        }
    }
}

impl<C, P> Heard<C, P> {
    /// Gives it a call that may log so many bytes. Answers the call's number, which is never used again; none when the worker
    /// is over.
    pub fn begin(&mut self, of: C, log: usize) -> Option<u64> {
        if self.over {
            return None;
        }
        self.last += 1;
        let call = Call {
            of,
            asking: false,
            log_left: log,
        };
        self.calls.insert(self.last, call);
        Some(self.last)
    }

    /// Takes back a call of which it was not told.
    pub fn take_back(&mut self, call: u64) {
        self.calls.remove(&call);
    }

    /// Whether it has this call.
    pub fn has(&self, call: u64) -> bool {
        self.calls.contains_key(&call)
    }

    /// Answers what a call has asked: whether it still waits for that, and may ask again from now on.
    pub fn answer(&mut self, call: u64) -> bool {
        let call = self.calls.get_mut(&call);
        call.is_some_and(|call| std::mem::take(&mut call.asking))
    }

    /// Asks it about a plugin, by a number that is used for no other. False when the worker is over.
    pub fn load(&mut self, plugin: u64, of: P) -> bool {
        if !self.over {
            self.plugins.insert(plugin, Plugin { of, told: false });
        }
        !self.over
    }

    /// A plugin that it was asked about.
    pub fn plugin(&self, plugin: u64) -> Option<&P> {
        self.plugins.get(&plugin).map(|plugin| &plugin.of)
    }

    /// All plugins that it was asked about.
    pub fn plugins(&self) -> impl Iterator<Item = &P> {
        self.plugins.values().map(|plugin| &plugin.of)
    }

    /// Ends it: it is given nothing more, and nothing more is heard of it. Answers the calls that it had, and the plugins of
    /// which it has said nothing.
    pub fn end(&mut self) -> (Vec<C>, Vec<&P>) {
        self.over = true;
        let calls = self.calls.drain().map(|(_, call)| call.of).collect();
        let untold = self.plugins.values().filter(|plugin| !plugin.told);
        (calls, untold.map(|plugin| &plugin.of).collect())
    }

    /// Takes a word of it, and says what it means; or that it may not come, and then nothing is heard after it.
    pub fn hear(&mut self, word: Word) -> Result<Said<'_, C, P>, Wrong> {
        if self.over {
            return Err(Wrong::Over);
        }
        let said = mean(word, &mut self.up, &mut self.calls, &mut self.plugins);
        self.over = said.is_err();
        said
    }
}

fn mean<'a, C, P>(
    word: Word,
    known: &mut bool,
    calls: &'a mut HashMap<u64, Call<C>>,
    plugins: &'a mut BTreeMap<u64, Plugin<P>>,
) -> Result<Said<'a, C, P>, Wrong> {
    match word {
        Word::Up(up) => match std::mem::replace(known, true) {
            false => Ok(Said::Up(up)),
            true => Err(Wrong::UpAgain),
        },
        Word::Loaded { plugin, result } => {
            let asked = plugins.get_mut(&plugin).filter(|plugin| !plugin.told);
            let asked = asked.ok_or(Wrong::NotAskedAbout)?;
            asked.told = true;
            Ok(Said::Loaded(&asked.of, result))
        }
        Word::Ask { call: number, request } => {
            let call = calls.get_mut(&number).ok_or(Wrong::NoSuchCall(number))?;
            match std::mem::replace(&mut call.asking, true) {
                false => Ok(Said::Asks(&call.of, request)),
                true => Err(Wrong::AskedAgain(number)),
            }
        }
        Word::Say {
            call: number,
            level,
            text,
        } => {
            let call = calls.get_mut(&number).ok_or(Wrong::NoSuchCall(number))?;
            // One that keeps to the rules has cut it by the limit already.
            let left = call.log_left.checked_sub(text.len().max(1));
            call.log_left = left.ok_or(Wrong::LogsTooMuch(number))?;
            Ok(Said::Logs(&call.of, level, text))
        }
        Word::End { call: number, ended } => {
            let call = calls.remove(&number).ok_or(Wrong::NoSuchCall(number))?;
            Ok(Said::Ended(call.of, ended))
        }
    }
}

#[cfg(test)]
mod tests;
