//! The command line.

mod ban;
mod export;
mod log;
mod onion;
mod probe;
mod table;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::bans::Pattern;
use crate::config::{self, Config, ConfigError, LogFormat, Raw};
use crate::control;
use crate::daemon::{self, Again};
use crate::network::Network;
use crate::tor::Mode;

/// Wrong usage is 2, which clap sees to.
const FAILED: u8 = 1;
const WRONG_CONFIGURATION: u8 = 78;

/// A Tor-aware peer-discovery proxy for the Electrum server network.
#[derive(Debug, Parser)]
#[command(name = "waypost", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Command,
}

/// Settings that may come before or after the command.
#[derive(Debug, Args)]
struct Settings {
    /// Read this TOML file.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Keep the book and the control socket here.
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// bitcoin, testnet3, testnet4, signet or regtest.
    #[arg(long, global = true)]
    network: Option<Network>,
    /// Use the Tor on this SOCKS port.
    #[arg(long, global = true, value_name = "IP:PORT")]
    socks: Option<SocketAddr>,
    /// error, warn, info, debug or trace.
    #[arg(long, global = true, value_name = "LEVEL")]
    log: Option<String>,
    /// How log lines are written.
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormatArg>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormatArg {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon.
    Run {
        /// Take callers in here; may be given more than once.
        #[arg(long, value_name = "IP:PORT")]
        listen: Vec<SocketAddr>,
    },
    /// Check the configuration and print what it comes to.
    CheckConfig,
    /// Show a running daemon's state.
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show the peers that a running daemon knows.
    Peers(table::PeersArgs),
    /// Write the peers that a running daemon knows in another program's format.
    Export {
        #[arg(long, value_enum, default_value_t)]
        format: export::Format,
    },
    /// Verify one server now, showing each step; needs no daemon.
    Probe(probe::ProbeArgs),
    /// Show our onion address, or bring one from another Tor; needs no daemon.
    OnionAddress(onion::OnionArgs),
    /// Have a running daemon take in a server, as "host s50002 t50001".
    Add {
        /// The host and its ports; quotes may be left out.
        #[arg(required = true, value_name = "REALNAME")]
        name: Vec<String>,
    },
    /// Have a running daemon drop a server.
    Forget { host: String },
    /// Have nothing to do with a host, a domain and all below it (*.domain), an address or a block of them; needs no daemon.
    Ban { pattern: Pattern },
    /// Take a ban back.
    Unban { pattern: Pattern },
}

/// Does what the arguments say.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "a command's last word, with or without a log")]
            {
                eprintln!("waypost: {error:#}");
            }
            let wrong_configuration = error.is::<ConfigError>();
            ExitCode::from(if wrong_configuration { WRONG_CONFIGURATION } else { FAILED })
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let file = cli.settings.config.clone();
    let mut flags = flags(cli.settings);
    if let Command::Run { listen } = &cli.command
        && !listen.is_empty()
    {
        flags.listen.tcp = Some(listen.clone());
    }
    let load = move || config::load(file.as_deref(), std::env::vars_os(), flags.clone());
    let config = load()?;
    match cli.command {
        Command::Run { .. } => {
            let shown = log::start_log(&config);
            let log_level = Box::new(move |level: &str| shown.change(level));
            Ok(block_on(daemon::run(config, Again { load: Box::new(load), log_level }))??)
        }
        Command::CheckConfig => {
            print(&toml::to_string(&config.effective())?);
            Ok(())
        }
        Command::Probe(args) => block_on(probe::run(args, &config))?,
        Command::OnionAddress(args) => onion::run(&args, &config.tor_state_path()),
        Command::Status { json } => {
            let status = call(&config, "status", &[])?;
            if json {
                print(&serde_json::to_string_pretty(&status)?);
            } else {
                print(&table::status(&serde_json::from_value(status)?));
            }
            Ok(())
        }
        Command::Peers(args) => {
            let rows = call(&config, "peers", &[])?;
            print(&table::peers(serde_json::from_value(rows)?, &args)?);
            Ok(())
        }
        Command::Export { format } => {
            let rows = call(&config, "peers", &[])?;
            print(&export::export(serde_json::from_value(rows)?, format)?);
            Ok(())
        }
        Command::Add { name } => {
            let name = name.join(" ");
            call(&config, "add", &[&name])?;
            print(&format!("added; `waypost peers` shows what becomes of it: {name}"));
            Ok(())
        }
        Command::Ban { pattern } => ban::ban(&config.ban_path(), &pattern),
        Command::Unban { pattern } => ban::unban(&config.ban_path(), &pattern),
        Command::Forget { host } => {
            call(&config, "forget", &[&host])?;
            print(&format!("forgot {host}"));
            Ok(())
        }
    }
}

/// The flags as keys, to be laid over everything else.
fn flags(settings: Settings) -> Raw {
    let mut raw = Raw { network: settings.network, data_dir: settings.data_dir, ..Raw::default() };
    raw.tor.socks = settings.socks;
    raw.tor.mode = settings.socks.map(|_| Mode::Socks);
    raw.log.level = settings.log;
    raw.log.format = settings.log_format.map(|format| match format {
        LogFormatArg::Text => LogFormat::Text,
        LogFormatArg::Json => LogFormat::Json,
    });
    raw
}

fn call(config: &Config, method: &str, params: &[&str]) -> anyhow::Result<serde_json::Value> {
    Ok(block_on(control::call(&config.control_path(), method, params))??)
}

/// Runs a task to its end. What it left behind, a look-up that hangs say, is not waited for.
fn block_on<T>(task: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("can't start the runtime")?;
    let outcome = runtime.block_on(task);
    runtime.shutdown_background();
    Ok(outcome)
}

/// A command's answer. A reader that went away, as `head` does, is no failure.
fn print(text: &str) {
    use std::io::Write;
    let text = text.trim_end_matches('\n');
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}
