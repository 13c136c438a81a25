use proptest::prelude::*;
use tokio_util::bytes::BytesMut;
use tokio_util::codec::Decoder;

use super::*;
use crate::error::ErrorKind;
use crate::imports::{gateway, state, workspace};

fn error() -> impl Strategy<Value = CallError> {
    let kinds = [
        ErrorKind::Limit,
        ErrorKind::Trapped,
        ErrorKind::Other,
        ErrorKind::Denied,
    ];
    (proptest::sample::select(kinds.to_vec()), ".{0,20}").prop_map(|(kind, text)| CallError::new(kind, text))
}

fn request() -> impl Strategy<Value = Request> {
    let asked = || {
        (
            ".{0,12}",
            proptest::option::of(".{0,12}"),
            ".{0,40}",
            any::<Option<u64>>(),
        )
            .prop_map(|(kind, action, message, timeout_ms)| gateway::Asked {
                kind,
                action,
                message,
                timeout_ms,
            })
    };
    prop_oneof![
        asked().prop_map(|asked| Request::Gateway(gateway::Request::Call(asked))),
        asked().prop_map(|asked| Request::Gateway(gateway::Request::Start(asked))),
        any::<u32>().prop_map(|number| Request::Gateway(gateway::Request::Next(number))),
        ".{0,40}".prop_map(|chunk| Request::Gateway(gateway::Request::Emit(chunk))),
        (".{0,12}", proptest::option::of(".{0,40}"))
            .prop_map(|(key, value)| Request::State(state::Request::Put(key, value))),
        ".{0,12}".prop_map(|folder| Request::Workspace(workspace::Request::Create(folder))),
    ]
}

fn word() -> impl Strategy<Value = Word> {
    prop_oneof![
        (any::<u64>(), request()).prop_map(|(call, request)| Word::Ask { call, request }),
        (any::<u64>(), ".{0,40}").prop_map(|(call, text)| Word::Say {
            call,
            level: Level::Warn,
            text
        }),
        (any::<u64>(), ".{0,40}").prop_map(|(call, reply)| Word::End {
            call,
            ended: Ended::Reply(reply)
        }),
        (any::<u64>(), error()).prop_map(|(call, error)| Word::End {
            call,
            ended: Ended::Fault(error)
        }),
        (any::<u64>(), error()).prop_map(|(plugin, error)| Word::Loaded {
            plugin,
            result: Err(error)
        }),
        ".{0,20}".prop_map(|why| Word::Up(Err(why))),
    ]
}

proptest! {
    /// Whatever pieces a socket hands them over in, words come out as they went in.
    #[test]
    fn words_cross_in_any_pieces(words in proptest::collection::vec(word(), 1..6), piece in 1usize..50) {
        let mut stream = Vec::new();
        for word in &words {
            stream.extend(encode(word, 1 << 20).unwrap());
        }
        let (mut frames, mut read, mut heard) = (frames(1 << 20), BytesMut::new(), Vec::new());
        for piece in stream.chunks(piece) {
            read.extend_from_slice(piece);
            while let Some(frame) = frames.decode(&mut read).unwrap() {
                heard.push(decode::<Word>(&frame).unwrap());
            }
        }
        prop_assert!(read.is_empty());
        prop_assert_eq!(heard, words);
    }

    /// Bytes of a stranger are a word or an error, and what is a word is written as those bytes or fewer.
    #[test]
    fn any_bytes_are_a_word_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(word) = decode::<Word>(&bytes) {
            prop_assert!(encode(&word, usize::MAX).unwrap().len() - HEAD <= bytes.len());
        }
        let _ = decode::<Order>(&bytes);
    }

    /// A word with a byte more, or cut anywhere, is none.
    #[test]
    fn a_frame_is_one_whole_word(word in word(), more in any::<u8>()) {
        let frame = encode(&word, 1 << 20).unwrap().split_off(HEAD);
        let mut longer = frame.clone();
        longer.push(more);
        prop_assert!(decode::<Word>(&longer).is_err());
        for cut in 0..frame.len() {
            prop_assert!(decode::<Word>(&frame[..cut]).is_err());
        }
    }
}

#[test]
fn a_frame_that_is_too_long_is_neither_written_nor_read() {
    let word = |length| Word::Up(Err("x".repeat(length)));
    assert!(encode(&word(90), 100).is_ok());
    assert_eq!(encode(&word(200), 100).unwrap_err(), Fault::TooLong(204));
    let mut read = BytesMut::from(&101_u32.to_le_bytes()[..]);
    assert!(frames(100).decode(&mut read).is_err(), "before a byte of it is there");
}
