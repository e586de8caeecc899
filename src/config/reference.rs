//! Reference of all configuration keys, generated from their declarations.

use std::fmt::Write as _;

use super::file::{ConfigFile, Keys};
use super::key_types;

/// Text above the tables.
const HEAD: &str = "\
# Configuration reference

This file is generated from the source code. To update it, run
`UPDATE_DOCS=1 cargo test --lib config::reference`.

Waypost reads `/etc/waypost/waypost.toml` if it exists, or the file that `--config` names.
An environment variable `WAYPOST_<SECTION>__<KEY>` overrides the file, and a flag overrides both.
Every key may be left out. An unknown key is an error. `waypost check-config` validates a file and
prints the effective values.

Durations are written as `30s`, `5m`, `24h` or `14d`. Relative paths start at the directory of the
configuration file, except `data_dir` and `unix:`, which start at the working directory. `~/` stands
for the home directory.
";

/// Returns the reference as Markdown: the content of docs/configuration.md.
///
/// # Errors
/// None in practice: writing to a `String` does not fail.
pub fn reference() -> Result<String, std::fmt::Error> {
    let mut text = HEAD.to_owned();
    let mut all = String::new();
    section(&mut text, "Top level", "", ConfigFile::KEYS, "")?;
    block(&mut all, "", ConfigFile::KEYS)?;
    for (name, doc, keys) in ConfigFile::SECTIONS {
        section(&mut text, &format!("[{name}]"), doc, keys, &format!("{name}."))?;
        write!(all, "\n[{name}]\n")?;
        block(&mut all, &format!("{name}."), keys)?;
    }
    write!(
        text,
        "\n## All keys\n\nEvery key with an example of its value. Some of them exclude each other; keep those that you need.\n\n\
         ```toml\n{all}```\n"
    )?;
    Ok(text)
}

/// Writes the heading, text and table of a section.
fn section(text: &mut String, title: &str, doc: &str, keys: Keys, prefix: &str) -> Result<(), std::fmt::Error> {
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

/// Writes an example of each key.
fn block(text: &mut String, prefix: &str, keys: Keys) -> Result<(), std::fmt::Error> {
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

    /// Defaults that are plain values. Others are derived from other keys, and described in words.
    #[test]
    fn documented_defaults_are_the_effective_ones() {
        let file: ConfigFile = toml::from_str("data_dir = \"/d\"\nirc.enabled = true\n").unwrap();
        let config = crate::config::Config::resolve(file).unwrap();
        let effective = toml::Table::try_from(config.effective()).unwrap();
        let mut checked = 0;
        for (section, _, keys) in ConfigFile::SECTIONS {
            for (key, doc) in *keys {
                let documented = doc.rsplit_once("Default: ").unwrap().1.trim().trim_end_matches('.').trim_matches('`');
                let actual = match effective[*section].as_table().unwrap().get(*key) {
                    Some(toml::Value::String(text)) => match humantime::parse_duration(text) {
                        Ok(duration) if humantime::parse_duration(documented).ok() == Some(duration) => {
                            documented.to_owned()
                        }
                        _ => text.clone(),
                    },
                    Some(toml::Value::Array(list)) => match list.as_slice() {
                        [] => "none".to_owned(),
                        [toml::Value::String(text)] => text.clone(),
                        _ => continue,
                    },
                    Some(value) => value.to_string(),
                    None => continue,
                };
                let is_derived = documented.contains(' ') || (*section == "irc" && *key == "enabled");
                assert!(is_derived || documented == actual, "{section}.{key}: {documented}, but {actual}");
                checked += usize::from(!is_derived);
            }
        }
        assert!(checked > 30, "{checked}");
    }

    #[test]
    fn block_of_all_keys_is_accepted_as_a_whole() {
        let text = reference().unwrap();
        let block = text.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
        let file: ConfigFile = toml::from_str(block).unwrap();
        let written = toml::Table::try_from(&file).unwrap();
        let keys: usize = written.values().map(|value| value.as_table().map_or(1, toml::Table::len)).sum();
        let declared: usize =
            ConfigFile::KEYS.len() + ConfigFile::SECTIONS.iter().map(|(.., keys)| keys.len()).sum::<usize>();
        assert_eq!(keys, declared);
    }
}
