//! `waypost completions` and `waypost man`: what is made of the commands' definitions for shells and readers.

use std::fs;
use std::path::Path;

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::args::Cli;

/// Sections of a manual page other than the arguments: terms with their meaning.
const SECTIONS: [(&str, &[(&str, &str)]); 3] = [
    (
        "EXIT STATUS",
        &[
            ("0", "Done."),
            ("1", "Failed; the last line on standard error says why, and what to do."),
            ("2", "Wrong usage."),
            ("78", "Wrong configuration; the message names the file and line, the variable or the flag."),
        ],
    ),
    (
        "ENVIRONMENT",
        &[
            (
                "WAYPOST_TABLE__KEY",
                "Sets a key of the configuration: WAYPOST_TOR__MODE=socks is mode in the table tor. \
                 Flags beat the environment, which beats the file.",
            ),
            ("NO_COLOR", "If it is set, and not empty, nothing is coloured."),
            ("XDG_DATA_HOME", "Where the data directory lies, unless data_dir says otherwise."),
        ],
    ),
    (
        "FILES",
        &[
            (
                "/etc/waypost/waypost.toml",
                "The configuration of every command that is given no --config, if it exists. --config /dev/null means no file.",
            ),
            (
                "$XDG_DATA_HOME/waypost, or ~/.local/share/waypost",
                "The data directory on bitcoin: the book in peers.redb, the bans, and the state of the embedded Tor with the \
                 onion service's key. Other chains have theirs below it, by name. --data-dir chooses another.",
            ),
            ("control.sock in the data directory", "By this socket commands find the running daemon."),
        ],
    ),
];

pub fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "waypost", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// The main page.
pub fn page() -> anyhow::Result<String> {
    render(&command_tree())
}

/// Writes the main page and one for each command; how many there are is the answer.
pub fn write_pages(dir: &Path) -> anyhow::Result<usize> {
    let cannot = || format!("can't write the pages to {}; name a directory that you may write to", dir.display());
    fs::create_dir_all(dir).with_context(cannot)?;
    let main = command_tree();
    let pages = [&main].into_iter().chain(main.get_subcommands());
    let mut page_count = 0;
    for command in pages {
        let name = command.get_display_name().unwrap_or(command.get_name());
        fs::write(dir.join(format!("{name}.1")), render(command)?).with_context(cannot)?;
        page_count += 1;
    }
    Ok(page_count)
}

fn command_tree() -> Command {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    command
}

fn render(command: &Command) -> anyhow::Result<String> {
    let man = Man::new(command.clone()).manual("Waypost").source(concat!("waypost ", env!("CARGO_PKG_VERSION")));
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut more = Roff::new();
    for (heading, terms) in SECTIONS {
        more.control("SH", [heading]);
        for (term, meaning) in terms {
            more.control("TP", []).text([bold(*term)]).text([roman(*meaning)]);
        }
    }
    more.to_writer(&mut page)?;
    Ok(String::from_utf8(page)?)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_has_a_script() {
        for shell in Shell::value_variants() {
            let script = completions(*shell);
            assert!(["onion-address", "data-dir", "watch"].iter().all(|word| script.contains(word)), "{shell}");
        }
    }

    #[test]
    fn the_definitions_are_sound() {
        Cli::command().debug_assert();
    }
}
