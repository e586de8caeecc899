//! Reference of all configuration keys, generated from the declarations of the keys.

use std::fmt::Write as _;

use super::file::{
    BackendSection, DiscoverySection, IdentitySection, IrcSection, LimitsSection, ListenSection, LogSection,
    StatusSection, TorSection,
};
use super::key_types;

/// Keys of a section, each with its text.
type Keys = &'static [(&'static str, &'static str)];

/// Name, text and keys of each section, in the order of the reference.
const SECTIONS: &[(&str, &str, Keys)] = &[
    ("listen", ListenSection::DOC, ListenSection::KEYS),
    ("identity", IdentitySection::DOC, IdentitySection::KEYS),
    ("tor", TorSection::DOC, TorSection::KEYS),
    ("discovery", DiscoverySection::DOC, DiscoverySection::KEYS),
    ("backend", BackendSection::DOC, BackendSection::KEYS),
    ("irc", IrcSection::DOC, IrcSection::KEYS),
    ("limits", LimitsSection::DOC, LimitsSection::KEYS),
    ("status", StatusSection::DOC, StatusSection::KEYS),
    ("log", LogSection::DOC, LogSection::KEYS),
];

/// Keys outside of sections.
const TOP_LEVEL: &[(&str, &str)] = &[
    ("network", "Chain of the servers that Waypost looks for. Default: bitcoin."),
    (
        "data_dir",
        "Directory of the peer database, the keys and the control socket. Default: `$XDG_DATA_HOME/waypost` for \
         bitcoin, and a directory below it with the chain's name for other chains.",
    ),
];

const HEAD: &str = "\
# Configuration reference

This file is generated from the source code. To update it, run
`UPDATE_DOCS=1 cargo test --lib config::reference`.

Waypost reads `/etc/waypost/waypost.toml` if it exists, or the file that `--config` names.
An environment variable `WAYPOST_<SECTION>__<KEY>` overrides the file, and a flag overrides both.
Every key may be left out. An unknown key is an error. `waypost check-config` validates a file and
prints the effective values.

Durations are written as `30s`, `5m`, `24h` or `14d`. Relative paths start at the directory of the
configuration file. `~/` stands for the home directory.
";

/// Returns the reference as Markdown, which is docs/configuration.md.
///
/// # Errors
/// None in practice: writing to a `String` does not fail.
pub fn reference() -> Result<String, std::fmt::Error> {
    let mut text = HEAD.to_owned();
    let mut all = String::new();
    section(&mut text, "Top level", "", TOP_LEVEL, "")?;
    block(&mut all, "", TOP_LEVEL)?;
    for (name, doc, keys) in SECTIONS {
        section(&mut text, &format!("[{name}]"), doc, keys, &format!("{name}."))?;
        write!(all, "\n[{name}]\n")?;
        block(&mut all, &format!("{name}."), keys)?;
    }
    write!(
        text,
        "\n## All keys\n\nEvery key with an example of its value. Not all of them go together: keep those that you need.\n\n\
         ```toml\n{all}```\n"
    )?;
    Ok(text)
}

fn section(
    text: &mut String,
    title: &str,
    doc: &str,
    keys: &[(&str, &str)],
    prefix: &str,
) -> Result<(), std::fmt::Error> {
    write!(text, "\n## {title}\n\n")?;
    if !doc.is_empty() {
        write!(text, "{}\n\n", doc.trim())?;
    }
    writeln!(text, "| key | value | meaning |\n|---|---|---|")?;
    for (key, doc) in keys {
        let kind = key_types::form_of(&format!("{prefix}{key}")).map_or("", |(kind, _)| kind);
        writeln!(text, "| `{key}` | {kind} | {} |", doc.trim().replace('|', "\\|"))?;
    }
    Ok(())
}

fn block(text: &mut String, prefix: &str, keys: &[(&str, &str)]) -> Result<(), std::fmt::Error> {
    for (key, _) in keys {
        let example = key_types::form_of(&format!("{prefix}{key}")).map_or("", |(_, example)| example);
        writeln!(text, "{key} = {example}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::ConfigFile;

    #[test]
    fn committed_reference_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
        let generated = reference().unwrap();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &generated).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap();
        assert!(committed == generated, "run `UPDATE_DOCS=1 cargo test --lib config::reference`");
    }

    #[test]
    fn block_of_all_keys_is_accepted_as_a_whole() {
        let text = reference().unwrap();
        let block = text.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
        let file: ConfigFile = toml::from_str(block).unwrap();
        let written = toml::Table::try_from(&file).unwrap();
        let keys: usize = written.values().map(|value| value.as_table().map_or(1, toml::Table::len)).sum();
        let declared: usize = TOP_LEVEL.len() + SECTIONS.iter().map(|(.., keys)| keys.len()).sum::<usize>();
        assert_eq!(keys, declared);
    }
}
