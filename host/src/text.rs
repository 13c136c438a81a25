//! Text from outside, made safe to show.

/// The text with control, formatting and bidirectional characters escaped, so that it cannot act on a terminal or forge
/// a line.
pub fn visible(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        if acts(c) {
            shown.extend(c.escape_default())
        } else {
            shown.push(c)
        }
        shown
    })
}

/// The same for text of several lines: line ends and tabs stay.
pub fn visible_lines(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        if acts(c) && c != '\n' && c != '\t' {
            shown.extend(c.escape_default())
        } else {
            shown.push(c)
        }
        shown
    })
}

/// At most so many characters of the first line, with a mark when something was cut.
pub fn shortened(text: &str, most: usize) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    let cut: String = line.chars().take(most).collect();
    if cut.len() < text.trim().len() {
        format!("{}…", visible(&cut))
    } else {
        visible(&cut)
    }
}

fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn terminal_escapes_are_made_visible() {
        assert_eq!(
            visible("a\u{1b}]52;c;\u{7}b\u{202e}\n"),
            "a\\u{1b}]52;c;\\u{7}b\\u{202e}\\n"
        );
        assert_eq!(visible_lines("a\tb\nc\r"), "a\tb\nc\\r");
        assert_eq!(shortened("one\ntwo", 10), "one…");
    }

    proptest! {
        #[test]
        fn nothing_that_acts_is_left(text in any::<String>()) {
            prop_assert!(!visible(&text).chars().any(acts));
        }
    }
}
