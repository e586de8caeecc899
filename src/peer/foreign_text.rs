//! Text of others, for logs, terminals, metrics and exports.

/// Keeps the printable ASCII characters of a text, at most `max_chars` of them, without spaces at the ends.
///
/// Everything else is removed. Control characters, bidirectional marks, invisible characters and line separators could
/// change how the surrounding text is read.
pub fn foreign_text(text: &str, max_chars: usize) -> String {
    let allowed = text.chars().filter(|char| char.is_ascii_graphic() || *char == ' ');
    allowed.take(max_chars).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn invisible_characters_are_removed() {
        let text = " Elec\u{202e}trumX\u{200b} 1.16\u{2028}\u{feff}\r\n\u{1b}[31m\u{3164} ";
        assert_eq!(foreign_text(text, 60), "ElectrumX 1.16[31m");
        assert_eq!(foreign_text("abc", 2), "ab");
    }

    proptest! {
        #[test]
        fn only_printable_ascii_remains(text in any::<String>()) {
            prop_assert!(foreign_text(&text, 60).bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        }
    }
}
