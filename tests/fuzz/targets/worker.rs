//! Whatever a worker process says, in whatever pieces: a word means a call or a plugin that it was given, or it is the last
//! that is heard of it.
//!
//! One step at a time the hub gives out and answers, and the worker says words or bytes that may be none. What must come of
//! it stands here once more, and is compared with the codec and the state machine of the hub.

#![no_main]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a failure here ends the target, as any finding does"
)]

use std::collections::BTreeMap;

use libfuzzer_sys::arbitrary::{Result as Read, Unstructured};
use libfuzzer_sys::fuzz_target;
use tokio_util::bytes::{Buf, BytesMut};
use tokio_util::codec::Decoder;
use waypost::imports::{Level, Request, state};
use waypost::plugin::execute::Ended;
use waypost::plugin::worker::heard::{Heard, Said, Words, Wrong};
use waypost::plugin::worker::wire::{self, Word};

/// The longest frame, in bytes.
const LONGEST: usize = 256;

/// Bytes that a call may log.
const LOG: usize = 40;

/// Numbers of calls and plugins that are spoken of; there is no call 0.
const NUMBERS: u64 = 6;

/// A call that was given out.
#[derive(Default)]
struct Given {
    /// Whether it waits for an answer.
    asks: bool,
    logged: usize,
    ends: usize,
}

struct World {
    heard: Heard<u64, u64>,
    words: Words,
    read: BytesMut,
    /// What was said and not cut out yet.
    stream: Vec<u8>,
    /// By their numbers, from 1.
    calls: Vec<Given>,
    /// Whether it has said how each of them is.
    plugins: BTreeMap<u64, bool>,
    up: bool,
    over: bool,
}

fuzz_target!(|data: &[u8]| {
    let mut world = World {
        heard: Heard::default(),
        words: Words::new(LONGEST),
        read: BytesMut::new(),
        stream: Vec::new(),
        calls: Vec::new(),
        plugins: BTreeMap::new(),
        up: false,
        over: false,
    };
    let mut input = Unstructured::new(data);
    while !input.is_empty() && world.step(&mut input).is_ok() {}
    world.end();
    assert!(world.calls.iter().all(|call| call.ends == 1), "each call has one end");
});

impl World {
    fn step(&mut self, input: &mut Unstructured) -> Read<()> {
        match input.int_in_range(0..=10u8)? {
            0 => self.begin(),
            1 => self.load(input.int_in_range(0..=NUMBERS)?),
            2 => self.answer(input.int_in_range(0..=NUMBERS)?),
            3 => self.take_back(),
            4 => self.say(&Word::Up(Err("no".to_owned()))),
            5 => self.say(&Word::Loaded {
                plugin: input.int_in_range(0..=NUMBERS)?,
                result: Ok(()),
            }),
            6 => self.say(&Word::Ask {
                call: input.int_in_range(0..=NUMBERS)?,
                request: Request::State(state::Request::Keys(String::new())),
            }),
            7 => self.say(&Word::Say {
                call: input.int_in_range(0..=NUMBERS)?,
                level: Level::Info,
                text: "x".repeat(usize::from(input.int_in_range(0..=LOG as u8)?)),
            }),
            8 => self.say(&Word::End {
                call: input.int_in_range(0..=NUMBERS)?,
                ended: Ended::Reply("1".to_owned()),
            }),
            9 => {
                let length = input.int_in_range(0..=31usize)?.min(input.len());
                let bytes = input.bytes(length)?.to_vec();
                self.take(&bytes);
            }
            _ => self.end(),
        }
        Ok(())
    }

    fn call(&mut self, number: u64) -> Option<&mut Given> {
        let place = usize::try_from(number.checked_sub(1)?).ok()?;
        self.calls.get_mut(place).filter(|call| call.ends == 0)
    }

    fn begin(&mut self) {
        let next = self.calls.len() as u64 + 1;
        let number = self.heard.begin(next, LOG);
        assert_eq!(number, (!self.over).then_some(next), "no number is given twice");
        self.calls.extend(number.map(|_| Given::default()));
    }

    fn take_back(&mut self) {
        let last = self.calls.len() as u64;
        self.heard.take_back(last);
        if let Some(call) = self.call(last) {
            call.ends += 1;
        }
        assert!(!self.heard.has(last));
    }

    fn load(&mut self, plugin: u64) {
        if self.plugins.contains_key(&plugin) {
            assert_eq!(self.heard.plugin(plugin), Some(&plugin));
            return;
        }
        assert_eq!(self.heard.load(plugin, plugin), !self.over);
        if !self.over {
            self.plugins.insert(plugin, false);
        }
    }

    fn answer(&mut self, number: u64) {
        let waits = self.call(number).is_some_and(|call| std::mem::take(&mut call.asks));
        assert_eq!(self.heard.answer(number), waits, "what was asked is answered, once");
    }

    /// The worker says a word, and says it right.
    fn say(&mut self, word: &Word) {
        let frame = wire::encode(word, LONGEST).expect("it is short");
        self.take(&frame);
    }

    /// Takes bytes as they come from a socket, and what can be cut out of them.
    fn take(&mut self, bytes: &[u8]) {
        if self.over {
            return;
        }
        self.read.extend_from_slice(bytes);
        self.stream.extend_from_slice(bytes);
        while !self.over {
            let expected = self.cut();
            let came = self
                .words
                .decode(&mut self.read)
                .expect("bytes are no failure of a socket");
            assert_eq!(came, expected);
            match came {
                None => break,
                Some(Ok(word)) => self.hear(word),
                // The hub ends it here.
                Some(Err(_)) => self.end(),
            }
        }
        assert!(
            self.over || self.read.remaining() < wire::HEAD + LONGEST,
            "no more than one frame waits for its end"
        );
    }

    /// The next word of the stream, and whether it is one.
    fn cut(&mut self) -> Option<Result<Word, Wrong>> {
        let head = self.stream.first_chunk().copied().map(u32::from_le_bytes)?;
        let length = usize::try_from(head).expect("it fits");
        if length > LONGEST {
            return Some(Err(Wrong::TooLong(LONGEST)));
        }
        let frame = self.stream.get(wire::HEAD..wire::HEAD + length)?.to_vec();
        self.stream.drain(..wire::HEAD + length);
        let word = wire::decode::<Word>(&frame);
        if let Ok(word) = &word {
            let again = wire::encode(word, length).expect("what was read weighs no more than it did");
            assert_eq!(wire::decode::<Word>(&again[wire::HEAD..]).as_ref(), Ok(word));
        }
        Some(word.map_err(Wrong::Frame))
    }

    /// A word is judged, and does to the hub what it says or nothing.
    fn hear(&mut self, word: Word) {
        let wrong = self.judge(&word);
        match (self.heard.hear(word.clone()), word) {
            (Err(came), _) => {
                assert_eq!(Some(came), wrong);
                self.over = true;
            }
            (Ok(said), word) => {
                assert_eq!(wrong, None, "{said:?}");
                let right = match (said, &word) {
                    (Said::Up(_), Word::Up(_)) => true,
                    (Said::Loaded(of, _), Word::Loaded { plugin, .. }) => of == plugin,
                    (Said::Asks(of, _), Word::Ask { call, .. }) | (Said::Logs(of, ..), Word::Say { call, .. }) => {
                        of == call
                    }
                    (Said::Ended(of, _), Word::End { call, .. }) => of == *call,
                    _ => false,
                };
                assert!(right, "it means what it says");
                self.note(word);
            }
        }
        if self.over {
            let up = Word::Up(Err(String::new()));
            assert_eq!(self.heard.hear(up), Err(Wrong::Over), "nothing is heard after it");
        }
    }

    fn judge(&mut self, word: &Word) -> Option<Wrong> {
        match word {
            Word::Up(_) => self.up.then_some(Wrong::UpAgain),
            Word::Loaded { plugin, .. } => (self.plugins.get(plugin) != Some(&false)).then_some(Wrong::NotAskedAbout),
            Word::Ask { call, .. } => match self.call(*call) {
                None => Some(Wrong::NoSuchCall(*call)),
                Some(given) => given.asks.then_some(Wrong::AskedAgain(*call)),
            },
            Word::Say { call, text, .. } => match self.call(*call) {
                None => Some(Wrong::NoSuchCall(*call)),
                Some(given) => (given.logged + text.len().max(1) > LOG).then_some(Wrong::LogsTooMuch(*call)),
            },
            Word::End { call, .. } => self.call(*call).is_none().then_some(Wrong::NoSuchCall(*call)),
        }
    }

    fn note(&mut self, word: Word) {
        match word {
            Word::Up(_) => self.up = true,
            Word::Loaded { plugin, .. } => {
                self.plugins.insert(plugin, true);
            }
            Word::Ask { call, .. } => self.call(call).expect("it was judged").asks = true,
            Word::Say { call, text, .. } => self.call(call).expect("it was judged").logged += text.len().max(1),
            Word::End { call, .. } => self.call(call).expect("it was judged").ends += 1,
        }
    }

    /// The process is gone: what it had has its end here.
    fn end(&mut self) {
        self.over = true;
        let (mut calls, untold) = self.heard.end();
        calls.sort_unstable();
        let open = (1..).zip(&self.calls).filter(|(_, call)| call.ends == 0);
        assert_eq!(calls, open.map(|(number, _)| number).collect::<Vec<u64>>());
        let waiting = self.plugins.iter().filter(|(_, told)| !**told);
        assert_eq!(untold, waiting.map(|(plugin, _)| plugin).collect::<Vec<_>>());
        for number in calls {
            self.call(number).expect("it was open").ends += 1;
        }
    }
}
