//! Where words go: results to standard output, notes to standard error.

use std::io::{IsTerminal, Write};

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};

/// One line of a result. A reader who has gone away ends the program quietly, as it does in any pipe.
pub(super) fn line(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(|error| Error::new(ErrorKind::Cancelled, "standard output was closed").because(error))
}

/// One line for people.
pub(super) fn note(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// Whether the person at the terminal says yes.
pub(super) async fn confirmed(question: String) -> bool {
    let answer = tokio::task::spawn_blocking(move || {
        let mut answer = String::new();
        let mut shown = std::io::stderr().lock();
        drop(write!(shown, "{question}").and_then(|()| shown.flush()));
        let read = std::io::stdin().read_line(&mut answer);
        read.is_ok() && answer.trim().eq_ignore_ascii_case("y")
    });
    answer.await.unwrap_or(false)
}

/// A value as pretty JSON.
pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::new(ErrorKind::Internal, "cannot write JSON").because(error))?;
    line(&text)
}

/// Whether a person sits at standard output and wants colour.
pub(super) fn colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A table with aligned columns; the last column may be of any width.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> Result<()> {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells
            .chain(head.get(column).map(|cell| cell.chars().count()))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let row = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(
                ' ',
                (width + 2).saturating_sub(cell.chars().count()),
            ));
        }
        text.trim_end().to_owned()
    };
    line(&row(&mut head.iter().copied()))?;
    rows.iter()
        .try_for_each(|cells| line(&row(&mut cells.iter().map(String::as_str))))
}
