//! What a command's answer has to fit: the terminal, if there is one, or whatever reads a pipe.

use std::env;
use std::io::{self, IsTerminal};

use comfy_table::{Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Table, Width, presets};
use rustix::termios::tcgetwinsize;

/// What may be shown, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TerminalStyle {
    /// None where lines may be as long as they like.
    pub width: Option<u16>,
    /// None where there may be as many as there are.
    pub height: Option<u16>,
    pub colours: bool,
    /// Whether what was shown can be shown over again in its place.
    pub can_redraw: bool,
}

/// What a text is to tell by its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Plain,
    Good,
    Doubtful,
    Wrong,
    Faint,
}

/// A text and its style.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Styled {
    pub text: String,
    pub style: Style,
}

/// No column is made narrower than this.
const NARROWEST: u16 = 12;

/// A space on either side of a column.
pub const PADDING: u16 = 2;

impl TerminalStyle {
    /// What standard output asks for. The one place that decides about colours.
    pub fn detect() -> TerminalStyle {
        if !io::stdout().is_terminal() {
            return TerminalStyle::default();
        }
        let size = tcgetwinsize(io::stdout()).ok();
        let set = |name| env::var_os(name).unwrap_or_default();
        let dumb = set("TERM") == "dumb";
        TerminalStyle {
            // A terminal that doesn't know its size says 0.
            width: size.map(|size| size.ws_col).filter(|columns| *columns > 0),
            height: size.map(|size| size.ws_row).filter(|rows| *rows > 0),
            colours: set("NO_COLOR").is_empty() && !dumb,
            can_redraw: !dumb,
        }
    }

    /// Columns without lines between them. Where all of it is too wide, the column `wrap_column` is wrapped.
    pub fn draw(self, header: &[&str], rows: impl Iterator<Item = Vec<Styled>>, wrap_column: usize) -> String {
        let mut table = Table::new();
        // What comfy-table would find out about the terminal is known already.
        table.force_no_tty().load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.style_text_only();
        if self.colours {
            table.enforce_styling();
        }
        if !header.is_empty() {
            table.set_header(header.iter().copied());
        }
        for row in rows {
            table.add_row(row.into_iter().map(Cell::from));
        }
        if let Some(last) = table.column_iter_mut().last() {
            last.set_padding((1, 0));
        }
        let widths = table.column_max_content_widths();
        let total =
            table.column_iter().zip(&widths).map(|(column, width)| width.saturating_add(column.padding_width()));
        let total = total.fold(0, u16::saturating_add);
        let excess = self.width.map_or(0, |width| total.saturating_sub(width));
        if let (Some(width), Some(column)) = (widths.get(wrap_column), table.column_mut(wrap_column))
            && excess > 0
        {
            let narrowed = width.saturating_add(column.padding_width()).saturating_sub(excess).max(NARROWEST);
            column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(narrowed)));
        }
        table.trim_fmt()
    }
}

impl Styled {
    pub fn plain(text: impl Into<String>) -> Styled {
        Styled { text: text.into(), style: Style::Plain }
    }

    pub fn new(text: impl Into<String>, style: Style) -> Styled {
        Styled { text: text.into(), style }
    }
}

impl From<Styled> for Cell {
    fn from(styled: Styled) -> Cell {
        let cell = Cell::new(styled.text);
        // The darker ones can be read on a white terminal as well.
        match styled.style {
            Style::Plain => cell,
            Style::Good => cell.fg(Color::DarkGreen),
            Style::Doubtful => cell.fg(Color::DarkYellow),
            Style::Wrong => cell.fg(Color::DarkRed),
            Style::Faint => cell.add_attribute(Attribute::Dim),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_wide_is_wrapped_in_the_column_that_gives_way() {
        let row = || vec![Styled::plain("name"), Styled::plain("a text of a good many words")];
        let drawn = |width| TerminalStyle { width, ..TerminalStyle::default() }.draw(&[], [row()].into_iter(), 1);
        assert_eq!(drawn(None), " name  a text of a good many words");
        assert_eq!(drawn(Some(24)), " name  a text of a good\n       many words");
        assert_eq!(drawn(Some(1)).lines().map(str::len).max(), Some(18), "narrower than that is of no use");
    }

    #[test]
    fn tones_are_colours_where_those_are_wanted() {
        let row = || vec![Styled::plain("plain"), Styled::new("good", Style::Good), Styled::new("faint", Style::Faint)];
        let drawn = |colours| TerminalStyle { colours, ..TerminalStyle::default() }.draw(&[], [row()].into_iter(), 0);
        assert_eq!(drawn(false), " plain  good  faint");
        let coloured = drawn(true);
        assert!(coloured.starts_with(" plain  \u{1b}["), "{coloured:?}");
        assert_eq!(coloured.matches("\u{1b}[2m").count(), 1, "{coloured:?}");
    }
}
