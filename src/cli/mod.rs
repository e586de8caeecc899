//! The command line.

mod args;
mod ban;
mod bans;
mod docs;
mod doctor;
mod export;
mod format;
mod logging;
mod onion_address;
mod output;
mod peers;
mod probe;
mod status;
mod terminal;
#[cfg(test)]
mod test_fixtures;
mod watch;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use serde_json::json;

use self::args::{Cli, Command, LogFormatArg, Settings};
use self::output::{Json, print, print_json};
use self::terminal::TerminalStyle;
use crate::config::{self, Config, ConfigError, ConfigFile, LogFormat};
use crate::control::ControlClient;
use crate::daemon::{self, DaemonError, ReloadHooks};
use crate::tor::Mode;

/// Exit code of a failed command. clap exits with 2 after a usage error.
const FAILED: u8 = 1;

/// Exit code after a configuration error (`EX_CONFIG` of sysexits.h).
const CONFIGURATION_ERROR: u8 = 78;

/// Runs the command of the arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "errors of commands go to standard error, with or without a log")]
            {
                eprintln!("waypost: {error:#}");
            }
            let is_configuration = error.is::<ConfigError>()
                || error.downcast_ref::<DaemonError>().is_some_and(DaemonError::is_configuration);
            ExitCode::from(if is_configuration { CONFIGURATION_ERROR } else { FAILED })
        }
    }
}

/// Runs a command.
fn run(cli: Cli) -> anyhow::Result<()> {
    // These commands need no configuration, so they run even if it is invalid.
    let command = match cli.command {
        Command::Completions { shell } => return print(&docs::completions(shell)),
        Command::Man { out: None } => return print(&docs::page()?),
        Command::Man { out: Some(dir) } => {
            let pages = docs::write_pages(&dir)?;
            return print(&format!("wrote {pages} pages to {}; `man -l` displays one", dir.display()));
        }
        command => command,
    };
    let file = cli.settings.config.clone();
    let mut flags = flags(cli.settings);
    if let Command::Run { listen } = &command
        && !listen.is_empty()
    {
        flags.listen.tcp = Some(listen.clone());
    }
    let load = move || {
        let file = file.clone().or_else(config::default_file);
        config::load(file.as_deref(), std::env::vars_os(), flags.clone())
    };
    if let Command::Doctor(Json { json }) = command {
        return block_on(doctor::run(load(), json))?;
    }
    let config = load()?;
    let control = ControlClient::new(config.control_path());
    match command {
        Command::Run { .. } => {
            config.check_files().map_err(ConfigError::NamedFile)?;
            let log = logging::start_log(&config);
            let log_level = Box::new(move |level: &str| log.change(level));
            Ok(block_on(daemon::run(config, ReloadHooks { load: Box::new(load), log_level }))??)
        }
        Command::CheckConfig { skip_files, json: Json { json } } => {
            if !skip_files {
                config.check_files().map_err(ConfigError::NamedFile)?;
                config.check_bind().map_err(ConfigError::NamedFile)?;
            }
            print_warnings(&config);
            if json { print_json(config.effective()) } else { print(&toml::to_string(config.effective())?) }
        }
        Command::Probe(args) => block_on(probe::run(args, &config))?,
        Command::OnionAddress(args) => {
            // Only the daemon may be able to read its files, as with `DynamicUser` of systemd.
            let status = if args.is_query() { block_on(control.status())?.ok() } else { None };
            let onion_host = status.as_ref().and_then(|status| Some(status.onion.as_ref()?.host.as_str()));
            if onion_host.is_none() {
                daemon::move_shared_data(&config)?;
            }
            onion_address::run(&args, onion_host, &config.tor_state_path())
        }
        Command::Status(Json { json }) => {
            let status = block_on(control.status())??;
            if json {
                // As at the socket, the keys are sorted.
                return print_json(&serde_json::to_value(&status)?);
            }
            print(&status::status(&status, TerminalStyle::detect()))
        }
        Command::Peers(args) => {
            if let Some(every) = args.watch {
                return block_on(watch::run(&control, &args, every))?;
            }
            let rows = peers::filter(block_on(control.peers())??, &args);
            if args.json {
                return print_json(&rows);
            }
            print(&peers::table(&rows, TerminalStyle::detect()))
        }
        Command::Export { format } => print(&export::export(block_on(control.peers())??, format)?),
        Command::Add { name, json } => {
            let name = name.join(" ");
            block_on(control.add(&name))??;
            let text = format!("added {name}; `waypost peers` shows its state");
            json.emit(&json!({ "added": name }), &text)
        }
        Command::Forget { host, json } => {
            block_on(control.forget(&host))??;
            json.emit(&json!({ "forgotten": host }), &format!("forgot {host}"))
        }
        Command::Ban { pattern, json } => {
            daemon::move_shared_data(&config)?;
            ban::ban(&config, &pattern, json)
        }
        Command::Unban { pattern, json } => {
            daemon::move_shared_data(&config)?;
            ban::unban(&config, &pattern, json)
        }
        Command::Bans { host, json } => {
            daemon::move_shared_data(&config)?;
            bans::run(&config, host.as_ref(), json)
        }
        Command::Completions { .. } | Command::Man { .. } | Command::Doctor(_) => Ok(()),
    }
}

/// Prints warnings, such as for each seed that can't be added.
///
/// Standard error is used since the standard output of `check-config` is a configuration.
fn print_warnings(config: &Config) {
    let warnings = daemon::warnings(config);
    #[expect(clippy::print_stderr, reason = "standard output is a configuration")]
    for warning in warnings {
        eprintln!("waypost: warning: {warning}");
    }
}

/// Converts the flags to keys, which override all other sources.
fn flags(settings: Settings) -> ConfigFile {
    let mut raw = ConfigFile { network: settings.network, data_dir: settings.data_dir, ..ConfigFile::default() };
    raw.tor.mode = settings.socks.as_ref().map(|_| Mode::Socks);
    raw.tor.socks = settings.socks;
    raw.log.level = settings.log;
    raw.log.format = settings.log_format.map(|format| match format {
        LogFormatArg::Text => LogFormat::Text,
        LogFormatArg::Json => LogFormat::Json,
    });
    raw
}

/// Runs a task to completion. Threads that it left behind, such as a slow look-up, are not awaited.
fn block_on<T>(task: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("can't start the runtime")?;
    let outcome = runtime.block_on(task);
    runtime.shutdown_background();
    Ok(outcome)
}
