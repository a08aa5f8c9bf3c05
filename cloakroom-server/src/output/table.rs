//! Tables that fit their terminal.

use std::{
    env,
    io::{self, IsTerminal},
    time::Duration,
};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::{Paint, Unwritten, painted_line};
use crate::escape;

/// A column: its heading, and how narrow it may get where all of them do not fit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    heading: &'static str,
    narrowest: Option<usize>,
}

impl Column {
    /// Always as wide as what is in it.
    pub(crate) const fn whole(heading: &'static str) -> Self {
        Self { heading, narrowest: None }
    }

    /// Cut where there is no room.
    pub(crate) const fn cut(heading: &'static str, narrowest: usize) -> Self {
        Self { heading, narrowest: Some(narrowest) }
    }
}

/// A table of which each row is a line.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<(String, Paint)>>,
}

impl Table {
    pub(crate) fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        Self { columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row. Empty cells are shown as a dash.
    pub(crate) fn row<'a>(&mut self, cells: impl IntoIterator<Item = (&'a str, Paint)>) {
        let shown = |text: &str| if text.is_empty() { "-".to_owned() } else { escape::shown(text).into_owned() };
        self.rows.push(cells.into_iter().map(|(text, paint)| (shown(text), paint)).collect());
    }

    /// Prints it, in full if it is `wide`, otherwise no wider than the terminal, or than 80 columns in a pipe.
    pub(crate) fn print(&self, wide: bool) -> Result<(), Unwritten> {
        let on_terminal = io::stdout().is_terminal();
        let widths = self.widths((!wide).then(|| width(on_terminal)));
        let headings = self.columns.iter().map(|column| (column.heading, Paint::Heading));
        if self.columns.iter().any(|column| !column.heading.is_empty()) {
            print_row(headings, &widths, on_terminal)?;
        }
        for row in &self.rows {
            print_row(row.iter().map(|(text, paint)| (text.as_str(), *paint)), &widths, on_terminal)?;
        }
        Ok(())
    }

    fn widths(&self, room: Option<usize>) -> Vec<usize> {
        let mut widths: Vec<_> = self.columns.iter().map(|column| column.heading.width()).collect();
        for row in &self.rows {
            for (width, (text, _)) in widths.iter_mut().zip(row) {
                *width = (*width).max(text.width());
            }
        }
        let gaps = GAP.len() * widths.len().saturating_sub(1);
        let Some(room) = room.map(|room| room.saturating_sub(gaps)) else { return widths };
        while widths.iter().sum::<usize>() > room {
            // The widest of those that may gives way.
            let columns = widths.iter_mut().zip(&self.columns);
            let cuttable = columns.filter(|(width, column)| column.narrowest.is_some_and(|least| **width > least));
            match cuttable.max_by_key(|(width, _)| **width) {
                Some((width, _)) => *width -= 1,
                None => break,
            }
        }
        widths
    }
}

const GAP: &str = "  ";

fn print_row<'a>(
    cells: impl Iterator<Item = (&'a str, Paint)>,
    widths: &[usize],
    on_terminal: bool,
) -> Result<(), Unwritten> {
    let mut line = String::new();
    let mut padding = 0;
    for ((text, paint), width) in cells.zip(widths) {
        let text = cut(text, *width);
        line.extend(std::iter::repeat_n(' ', padding));
        line += &paint.on(&text, on_terminal);
        padding = width - text.width() + GAP.len();
    }
    painted_line(&line)
}

/// At most so wide.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut cut = String::new();
    let mut taken = 1;
    for c in text.chars() {
        taken += c.width().unwrap_or(0);
        if taken > width {
            break;
        }
        cut.push(c);
    }
    cut + "…"
}

fn width(on_terminal: bool) -> usize {
    const USUAL: usize = 80;
    let asked = env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    asked.or_else(|| on_terminal.then(width_of_terminal).flatten()).filter(|width| *width > 0).unwrap_or(USUAL)
}

#[cfg(unix)]
fn width_of_terminal() -> Option<usize> {
    rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| size.ws_col.into())
}

#[cfg(not(unix))]
fn width_of_terminal() -> Option<usize> {
    None
}

/// A time span in a few characters: `59s`, `12m`, `3h`, `10d`.
pub(crate) fn age(span: Duration) -> String {
    match span.as_secs() {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[[&str; 3]]) -> Table {
        let mut table = Table::new([Column::whole("ID"), Column::cut("USER", 6), Column::cut("IP", 4)]);
        for row in rows {
            table.row(row.map(|text| (text, Paint::Plain)));
        }
        table
    }

    #[test]
    fn the_widest_columns_give_way_and_ids_never() {
        let table = table(&[["0123456789", "a very long name of a user", "192.0.2.123"], ["0123456789", "王小明", ""]]);
        assert_eq!(table.widths(None), [10, 26, 11]);
        assert_eq!(table.widths(Some(40)), [10, 15, 11]);
        assert_eq!(table.widths(Some(30)), [10, 8, 8]);
        assert_eq!(table.widths(Some(10)), [10, 6, 4]);
    }

    #[test]
    fn what_is_cut_says_so_and_wide_characters_count_twice() {
        assert_eq!(cut("anna", 4), "anna");
        assert_eq!(cut("annabel", 4), "ann…");
        assert_eq!(cut("王小明", 6), "王小明");
        assert_eq!(cut("王小明", 5), "王小…");
        assert_eq!(cut("王小明", 4), "王…");
    }

    #[test]
    fn spans_are_short() {
        for (seconds, text) in [(0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172_800, "2d"), (864_000, "10d")]
        {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }
}
