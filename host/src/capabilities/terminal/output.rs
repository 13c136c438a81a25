//! What a command writes, bounded: the head and the tail of each stream for the reply, and text chunks as they arrive.
//!
//! Bytes are kept as they came; they become text at the end, or piece by piece in [`Decoder`], where a character that is
//! cut by a pipe read is held back until its rest comes. Bytes that are no UTF-8 read `U+FFFD`.

use std::collections::VecDeque;

use serde::Serialize;

use crate::process::{CHUNK, Source};

/// One chunk on the sink: `wit/kinds/executeCommand.json`.
#[derive(Debug, Serialize)]
pub(super) struct Chunk<'a> {
    /// Where it was written.
    pub stream: Source,
    /// At most 16 KiB.
    pub text: &'a str,
}

/// One stream of a command: what is kept of it, and the decoder of its chunks.
#[derive(Debug)]
pub(super) struct Output {
    /// For the reply.
    pub kept: HeadTail,
    decoder: Decoder,
}

impl Output {
    /// Keeps at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            kept: HeadTail::new(limit),
            decoder: Decoder::default(),
        }
    }

    /// Takes what was read and gives back the text that is complete by now.
    pub(super) fn push(&mut self, bytes: &[u8]) -> String {
        self.kept.push(bytes);
        self.decoder.push(bytes)
    }

    /// The text of a character that was never completed.
    pub(super) fn finish(&mut self) -> String {
        self.decoder.finish()
    }
}

/// Turns pieces of a byte stream into text, with the same result wherever the pieces were cut.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// The beginning of a character; at most three bytes.
    pending: Vec<u8>,
}

impl Decoder {
    fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let rest = self.pending.split_off(self.pending.len() - unfinished(&self.pending));
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending = rest;
        text
    }

    fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

/// How many bytes at the end are the beginning of a character whose rest may still come.
fn unfinished(bytes: &[u8]) -> usize {
    let end = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    match std::str::from_utf8(end) {
        Err(error) if error.error_len().is_none() => end.len(),
        _ => 0,
    }
}

/// Cuts a text into pieces of at most [`CHUNK`] bytes, between characters.
pub(super) fn pieces(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let (piece, rest) = text.split_at(text.floor_char_boundary(CHUNK));
        text = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The first and the last bytes of a stream of any length, in bounded memory.
#[derive(Debug)]
pub(super) struct HeadTail {
    head: Vec<u8>,
    head_limit: usize,
    tail: VecDeque<u8>,
    tail_limit: usize,
    dropped: u64,
}

impl HeadTail {
    /// Keeps at most `limit` bytes, half of them from the beginning.
    pub(super) fn new(limit: usize) -> Self {
        let tail_limit = limit / 2;
        Self {
            head: Vec::new(),
            head_limit: limit - tail_limit,
            tail: VecDeque::new(),
            tail_limit,
            dropped: 0,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        let room = self.head_limit - self.head.len();
        let (head, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(head);
        self.tail.extend(rest);
        let over = self.tail.len().saturating_sub(self.tail_limit);
        self.tail.drain(..over);
        self.dropped += over as u64;
    }

    /// Whether bytes of the middle were dropped.
    pub(super) fn truncated(&self) -> bool {
        self.dropped > 0
    }

    /// What was kept, as text; where bytes were dropped stands a mark with their number. Characters that the cut went
    /// through are dropped whole and counted.
    pub(super) fn into_text(self) -> String {
        let (mut head, mut tail) = (self.head, Vec::from(self.tail));
        if self.dropped == 0 {
            head.append(&mut tail);
            return String::from_utf8_lossy(&head).into_owned();
        }
        let before = unfinished(&head);
        head.truncate(head.len() - before);
        // At most three bytes continue a character, so what is no UTF-8 anyway is not eaten whole.
        let after = tail
            .iter()
            .take(3)
            .take_while(|byte| **byte & 0b1100_0000 == 0b1000_0000)
            .count();
        tail.drain(..after);
        format!(
            "{}\n[... {} bytes dropped ...]\n{}",
            String::from_utf8_lossy(&head),
            self.dropped + (before + after) as u64,
            String::from_utf8_lossy(&tail)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn cut(bytes: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
        let (mut rest, mut pieces) = (bytes, Vec::new());
        for size in sizes {
            let (piece, after) = rest.split_at((*size).min(rest.len()));
            pieces.push(piece.to_vec());
            rest = after;
        }
        pieces.push(rest.to_vec());
        pieces
    }

    #[test]
    fn a_short_stream_is_kept_whole_even_where_head_and_tail_meet_in_a_character() {
        let mut kept = HeadTail::new(4);
        kept.push("xäx".as_bytes());
        assert!(!kept.truncated());
        assert_eq!(kept.into_text(), "xäx");
    }

    #[test]
    fn the_mark_counts_what_was_dropped() {
        let mut kept = HeadTail::new(10);
        kept.push(b"0123456789abcdefghij");
        assert!(kept.truncated());
        assert_eq!(kept.into_text(), "01234\n[... 10 bytes dropped ...]\nfghij");
    }

    #[test]
    fn a_limit_of_nothing_keeps_nothing() {
        let mut kept = HeadTail::new(0);
        kept.push(b"abc");
        assert_eq!(kept.into_text(), "\n[... 3 bytes dropped ...]\n");
    }

    proptest! {
        #[test]
        fn head_and_tail_are_exact_and_bounded(bytes in vec(any::<u8>(), 0..300), sizes in vec(0usize..60, 0..8),
                                               limit in 0usize..120) {
            let mut kept = HeadTail::new(limit);
            for piece in cut(&bytes, &sizes) {
                kept.push(&piece);
                prop_assert!(kept.head.len() + kept.tail.len() <= limit);
            }
            let tail = Vec::from(kept.tail);
            prop_assert!(bytes.starts_with(&kept.head));
            prop_assert!(bytes.ends_with(&tail));
            prop_assert_eq!(kept.head.len() + tail.len() + kept.dropped as usize, bytes.len());
            prop_assert_eq!(kept.head.len() + tail.len(), bytes.len().min(limit));
        }

        #[test]
        fn the_text_of_valid_output_stays_valid_and_its_mark_exact(text in "[a-zä€😀]{0,80}", limit in 0usize..120) {
            let mut kept = HeadTail::new(limit);
            kept.push(text.as_bytes());
            let truncated = kept.truncated();
            let shown = kept.into_text();
            prop_assert_eq!(truncated, text.len() > limit);
            match shown.split_once("\n[... ") {
                None => prop_assert_eq!(shown, text),
                Some((head, rest)) => {
                    let (count, tail) = rest.split_once(" bytes dropped ...]\n").unwrap();
                    prop_assert!(text.starts_with(head) && text.ends_with(tail));
                    prop_assert_eq!(head.len() + count.parse::<usize>().unwrap() + tail.len(), text.len());
                }
            }
        }

        #[test]
        fn the_decoder_does_not_care_where_it_is_cut(
            bytes in vec(prop_oneof![any::<u8>(), proptest::sample::select("aä€😀".as_bytes().to_vec())], 0..80),
            sizes in vec(0usize..6, 0..40),
        ) {
            let mut decoder = Decoder::default();
            let mut text = String::new();
            for piece in cut(&bytes, &sizes) {
                text.push_str(&decoder.push(&piece));
                prop_assert!(decoder.pending.len() <= 3);
            }
            text.push_str(&decoder.finish());
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes).into_owned());
        }

        #[test]
        fn pieces_are_small_and_make_the_whole(repeat in 0usize..8000, unit in "[aä€😀]{1,4}") {
            let text = unit.repeat(repeat);
            let pieces: Vec<&str> = pieces(&text).collect();
            prop_assert!(pieces.iter().all(|piece| !piece.is_empty() && piece.len() <= CHUNK));
            prop_assert_eq!(pieces.concat(), text);
        }
    }
}
