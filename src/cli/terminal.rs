//! Terminal: size, colours, and tables that fit it.

use std::env;
use std::io::{self, IsTerminal};

use comfy_table::{Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Table, Width, presets};
use rustix::termios::tcgetwinsize;

/// Properties of standard output. The default is a pipe: no limits and no colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct TerminalStyle {
    /// Width in characters. `None`: unlimited.
    pub width: Option<u16>,
    /// Height in lines. `None`: unlimited.
    pub height: Option<u16>,
    /// Whether styles become colours.
    pub colours: bool,
    /// Whether control codes can redraw the screen.
    pub can_redraw: bool,
}

/// Meaning of a text, shown as colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// No colour.
    Plain,
    /// Green.
    Good,
    /// Yellow.
    Doubtful,
    /// Red.
    Wrong,
    /// Dim.
    Faint,
}

/// Text with a style.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Styled {
    /// Text without control codes.
    pub text: String,
    /// Meaning.
    pub style: Style,
}

/// Minimum width of a wrapped column, in characters.
const MIN_COLUMN_WIDTH: u16 = 12;

/// Spaces around a column: one on each side.
pub(super) const PADDING: u16 = 2;

impl TerminalStyle {
    /// Detects the properties of standard output.
    ///
    /// `NO_COLOR` and `TERM=dumb` disable colours.
    pub(super) fn detect() -> TerminalStyle {
        if !io::stdout().is_terminal() {
            return TerminalStyle::default();
        }
        let size = tcgetwinsize(io::stdout()).ok();
        let variable = |name| env::var_os(name).unwrap_or_default();
        let dumb = variable("TERM") == "dumb";
        TerminalStyle {
            // Terminals of unknown size report 0.
            width: size.map(|size| size.ws_col).filter(|columns| *columns > 0),
            height: size.map(|size| size.ws_row).filter(|rows| *rows > 0),
            colours: variable("NO_COLOR").is_empty() && !dumb,
            can_redraw: !dumb,
        }
    }

    /// Draws a table without borders. If it is too wide, the column `wrap_column` is wrapped.
    pub(super) fn draw(self, header: &[&str], rows: impl Iterator<Item = Vec<Styled>>, wrap_column: usize) -> String {
        let mut table = Table::new();
        // comfy-table must not query the terminal itself.
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
            let narrowed = width.saturating_add(column.padding_width()).saturating_sub(excess).max(MIN_COLUMN_WIDTH);
            column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(narrowed)));
        }
        table.trim_fmt()
    }
}

impl Styled {
    /// Creates a text without a style.
    pub(super) fn plain(text: impl Into<String>) -> Styled {
        Styled { text: text.into(), style: Style::Plain }
    }

    /// Creates a text with a style.
    pub(super) fn new(text: impl Into<String>, style: Style) -> Styled {
        Styled { text: text.into(), style }
    }
}

impl From<Styled> for Cell {
    fn from(styled: Styled) -> Cell {
        let cell = Cell::new(styled.text);
        // Dark colours are readable on white terminals as well.
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
    fn too_wide_table_wraps_the_wrap_column() {
        let row = || vec![Styled::plain("name"), Styled::plain("a text of a good many words")];
        let drawn = |width| TerminalStyle { width, ..TerminalStyle::default() }.draw(&[], [row()].into_iter(), 1);
        assert_eq!(drawn(None), " name  a text of a good many words");
        assert_eq!(drawn(Some(24)), " name  a text of a good\n       many words");
        assert_eq!(drawn(Some(1)).lines().map(str::len).max(), Some(18), "the column keeps its minimum width");
    }

    #[test]
    fn styles_are_colours_only_if_enabled() {
        let row = || vec![Styled::plain("plain"), Styled::new("good", Style::Good), Styled::new("faint", Style::Faint)];
        let drawn = |colours| TerminalStyle { colours, ..TerminalStyle::default() }.draw(&[], [row()].into_iter(), 0);
        assert_eq!(drawn(false), " plain  good  faint");
        let coloured = drawn(true);
        assert!(coloured.starts_with(" plain  \u{1b}["), "{coloured:?}");
        assert_eq!(coloured.matches("\u{1b}[2m").count(), 1, "{coloured:?}");
    }
}
