//! Taking the secrets of a request out of its answer, also where one is split between two pieces.

/// Secrets shorter than this may be words of an answer, and stay.
const SHORTEST: usize = 8;
/// What stands in the place of one.
const MARK: &[u8] = b"[redacted]";

/// Takes secrets out of bytes that come in pieces.
///
/// What is held back until the next piece depends on the length of the secrets and never on their text: the end of a piece
/// as far as any secret could begin there. Else the borders between pieces would tell how much of a guess is right. Since
/// secrets are visible ASCII, a piece that ends with a line is not held back at all.
#[derive(Default)]
pub(super) struct Redactor {
    secrets: Vec<Vec<u8>>,
    /// The length of the longest, less one.
    hold: usize,
    held: Vec<u8>,
}

impl Redactor {
    /// Takes these out from now on.
    pub(super) fn add(&mut self, secret: &str) {
        if secret.len() >= SHORTEST {
            self.hold = self.hold.max(secret.len() - 1);
            self.secrets.push(secret.as_bytes().to_vec());
        }
    }

    /// A whole text without the secrets.
    pub(super) fn text(&self, text: &[u8]) -> Vec<u8> {
        let mut clean = Vec::with_capacity(text.len());
        let rest = self.replace(text, &mut clean);
        clean.extend_from_slice(rest);
        clean
    }

    /// What can be handed out after one more piece.
    pub(super) fn push(&mut self, piece: &[u8]) -> Vec<u8> {
        if self.secrets.is_empty() {
            return piece.to_vec();
        }
        let mut all = std::mem::take(&mut self.held);
        all.extend_from_slice(piece);
        let mut clean = Vec::with_capacity(all.len());
        let rest = self.replace(&all, &mut clean);
        let open = rest
            .iter()
            .rev()
            .take(self.hold)
            .take_while(|byte| byte.is_ascii_graphic())
            .count();
        let (out, held) = rest.split_at(rest.len() - open);
        clean.extend_from_slice(out);
        self.held = held.to_vec();
        clean
    }

    /// What was held back, when no more comes.
    pub(super) fn end(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// Writes everything up to the end of the last secret, and answers what follows it.
    fn replace<'a>(&self, mut bytes: &'a [u8], clean: &mut Vec<u8>) -> &'a [u8] {
        let mut from = 0;
        while let Some(at) = bytes.get(from..) {
            let longest = self
                .secrets
                .iter()
                .filter(|secret| at.starts_with(secret))
                .map(Vec::len)
                .max();
            match longest {
                Some(length) => {
                    let (before, secret) = bytes.split_at(from);
                    clean.extend_from_slice(before);
                    clean.extend_from_slice(MARK);
                    bytes = secret.get(length..).unwrap_or_default();
                    from = 0;
                }
                None if at.is_empty() => break,
                None => from += 1,
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn redactor(secrets: &[&str]) -> Redactor {
        let mut redactor = Redactor::default();
        secrets.iter().for_each(|secret| redactor.add(secret));
        redactor
    }

    #[test]
    fn a_line_is_not_held_back_and_a_word_is() {
        let mut redactor = redactor(&["sk-canary-1"]);
        assert_eq!(redactor.push(b"data: x\n\n"), b"data: x\n\n");
        assert_eq!(redactor.push(b"data: sk-can"), b"data: ");
        assert_eq!(redactor.push(b"ary-1 and more\n"), b"[redacted] and more\n");
        // Whether the guess is right or wrong, as much is held back.
        for guess in [b"see sk-ca", b"see xx-xx"] {
            assert_eq!(redactor.push(guess), b"see ");
            assert_eq!(redactor.push(b"\n").len(), 6);
        }
        assert_eq!(
            redactor.push(b"a long word without any end"),
            b"a long word without any "
        );
        assert_eq!(redactor.end(), b"end");
        let mut short = self::redactor(&["sk"]);
        assert_eq!(short.push(b"sk"), b"sk");
    }

    proptest! {
        /// However an answer is cut into pieces, what comes out is what comes out of it as a whole, and holds no secret.
        #[test]
        fn no_cut_lets_a_secret_through(
            parts in proptest::collection::vec("abcdabcd|abcdabc|ab|cdab|abcdabcdabcd|x| |\n", 0..12),
            cuts in proptest::collection::vec(1usize..9, 0..40),
        ) {
            let answer: String = parts.concat();
            let mut pieces = redactor(&["abcdabcd", "abcdabcdabcd"]);
            let whole = pieces.text(answer.as_bytes());
            let (mut rest, mut out) = (answer.as_bytes(), Vec::new());
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                out.extend(pieces.push(piece));
                rest = after;
            }
            out.extend(pieces.push(rest));
            out.extend(pieces.end());
            let found = |bytes: &[u8]| bytes.windows(8).any(|window| window == b"abcdabcd");
            prop_assert!(!found(&out) && !found(&whole));
            prop_assert_eq!(out.is_empty(), whole.is_empty());
        }
    }
}
