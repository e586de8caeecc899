//! `waypost completions` and `waypost man`, generated from the definitions of the commands.

use std::fs;
use std::path::Path;

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::args::Cli;

/// Sections of a manual page after the arguments: terms with their meaning.
const SECTIONS: [(&str, &[(&str, &str)]); 3] = [
    (
        "EXIT STATUS",
        &[
            ("0", "Done."),
            ("1", "Failed; the last line on standard error gives the cause and advice."),
            ("2", "Usage error."),
            ("78", "Configuration error; the message names the file and line, the variable or the flag."),
        ],
    ),
    (
        "ENVIRONMENT",
        &[
            (
                "WAYPOST_SECTION__KEY",
                "Sets a key of the configuration: WAYPOST_TOR__MODE=socks sets mode in the section tor. \
                 Flags override the environment, which overrides the file.",
            ),
            ("NO_COLOR", "Disables colours if it is set and not empty."),
            ("XDG_DATA_HOME", "Parent of the default data directory."),
        ],
    ),
    (
        "FILES",
        &[
            (
                "/etc/waypost/waypost.toml",
                "Configuration of every command without --config, if it exists. --config /dev/null means no file.",
            ),
            (
                "$XDG_DATA_HOME/waypost, or ~/.local/share/waypost",
                "Data directory on bitcoin: the peer database peers.redb, the own ban list, and the state of the embedded Tor with the \
                 key of the onion service. Other chains use a directory below it with the chain's name. --data-dir sets another.",
            ),
            ("control.sock in the data directory", "Socket through which commands reach the running daemon."),
        ],
    ),
];

/// Returns the completion script for a shell.
pub(super) fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "waypost", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Returns the main manual page.
pub(super) fn page() -> anyhow::Result<String> {
    render(&command_tree())
}

/// Writes the main page and a page for each command. Returns the number of pages.
pub(super) fn write_pages(dir: &Path) -> anyhow::Result<usize> {
    let context = || format!("can't write the pages to {}; choose a writable directory", dir.display());
    fs::create_dir_all(dir).with_context(context)?;
    let main = command_tree();
    let pages = [&main].into_iter().chain(main.get_subcommands());
    let mut page_count = 0;
    for command in pages {
        let name = command.get_display_name().unwrap_or(command.get_name());
        fs::write(dir.join(format!("{name}.1")), render(command)?).with_context(context)?;
        page_count += 1;
    }
    Ok(page_count)
}

/// Returns the complete definition of the commands.
fn command_tree() -> Command {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    command
}

/// Renders the manual page of a command.
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
    fn completion_script_names_commands_and_options() {
        for shell in Shell::value_variants() {
            let script = completions(*shell);
            assert!(["onion-address", "data-dir", "watch"].iter().all(|word| script.contains(word)), "{shell}");
        }
    }

    #[test]
    fn command_definitions_are_consistent() {
        Cli::command().debug_assert();
    }
}
