//! Tables of figures in Markdown, as `contrib/figures.sh` copies them to `docs/figures.md`.

use comfy_table::{Table, presets};

/// Table of figures with a caption.
#[derive(Debug)]
pub(crate) struct FigureTable {
    caption: String,
    table: Table,
}

impl FigureTable {
    /// Creates an empty table. The caption is one line, without the colon that is printed after it.
    pub(crate) fn new<C: Into<String>>(caption: &str, header: impl IntoIterator<Item = C>) -> FigureTable {
        let mut table = Table::new();
        table
            .load_style(presets::ASCII_MARKDOWN)
            .set_header(header.into_iter().map(Into::into).collect::<Vec<String>>());
        FigureTable { caption: caption.to_owned(), table }
    }

    pub(crate) fn add_row<C: Into<String>>(&mut self, cells: impl IntoIterator<Item = C>) {
        self.table.add_row(cells.into_iter().map(Into::into).collect::<Vec<String>>());
    }

    /// Prints caption and table between blank lines, in one call, since tests print at the same time.
    pub(crate) fn print(&self) {
        println!("\n{}:\n\n{}\n", self.caption, self.table);
    }
}

/// Formats a measured number with three significant digits, or two decimals when it is below ten.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "no figure is negative or that large")]
pub(crate) fn figure(value: f64) -> String {
    match value {
        99.5.. => {
            let unit = 10_f64.powf((value.log10().floor() - 2.0).max(0.0));
            count(((value / unit).round() * unit) as u64)
        }
        9.95.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Formats an exact number with separators between thousands.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&[u8]> = digits.as_bytes().rchunks(3).rev().collect();
    String::from_utf8(groups.join(&b',')).unwrap()
}
