//! The commands with their arguments, from which help, completions and manual pages are made as well.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::output::Json;
use super::{export, onion_address, peers, probe};
use crate::ban_list::Pattern;
use crate::config;
use crate::network::Network;

/// A Tor-aware peer-discovery proxy for the Electrum server network.
#[derive(Debug, Parser)]
#[command(
    name = "waypost",
    version,
    max_term_width = 100,
    after_help = "Begin with `waypost run`; in another terminal `waypost status` and `waypost peers` show what it found."
)]
pub struct Cli {
    #[command(flatten)]
    pub settings: Settings,
    #[command(subcommand)]
    pub command: Command,
}

/// Settings that may come before or after the command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Settings")]
pub struct Settings {
    /// Read this TOML file. Default: /etc/waypost/waypost.toml if it exists; /dev/null means no file.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Keep the book and the control socket here; commands find a running daemon by it.
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// bitcoin, testnet3, testnet4, signet or regtest.
    #[arg(long, global = true)]
    pub network: Option<Network>,
    /// Use the Tor on this SOCKS port.
    #[arg(long, global = true, value_name = "IP:PORT", value_parser = address)]
    pub socks: Option<SocketAddr>,
    /// error, warn, info, debug, trace or off.
    #[arg(long, global = true, value_name = "LEVEL", value_parser = log_level)]
    pub log: Option<String>,
    /// How log lines are written.
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    pub log_format: Option<LogFormatArg>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LogFormatArg {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon, until Ctrl-C or SIGTERM.
    Run {
        /// Take callers in here; may be given more than once.
        #[arg(long, value_name = "IP:PORT", value_parser = address)]
        listen: Vec<SocketAddr>,
    },
    /// Check the configuration and the files that it names, and print the effective values as a configuration file.
    CheckConfig {
        /// Leave out the certificate, its key and the ban file, which may be on another machine.
        #[arg(long)]
        skip_files: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Show a running daemon's state.
    Status(Json),
    /// Show the peers that a running daemon knows.
    Peers(peers::PeersArgs),
    /// Write the peers that a running daemon knows in another program's format.
    Export {
        /// What to write.
        #[arg(long, value_enum, default_value_t)]
        format: export::Format,
    },
    /// Verify one server now, showing each step; needs no daemon.
    Probe(probe::ProbeArgs),
    /// Show our onion address, or bring one from another Tor; needs no daemon.
    OnionAddress(onion_address::OnionArgs),
    /// Have a running daemon take in a server, as `waypost add electrum.example.org s50002 t50001`.
    Add {
        /// The host and its ports, s for TLS and t for TCP.
        #[arg(required = true, value_name = "REALNAME")]
        name: Vec<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Have a running daemon drop a server. It comes back when somebody tells of it, unless it is banned.
    Forget {
        /// As `waypost peers` shows it.
        host: String,
        #[command(flatten)]
        json: Json,
    },
    /// Have nothing to do with a server or with all of a domain or network; needs no daemon.
    Ban {
        /// A host, a domain with all below it (*.example.org), an address, or a block of them (192.0.2.0/24).
        #[arg(value_parser = pattern)]
        pattern: Pattern,
        #[command(flatten)]
        json: Json,
    },
    /// Take a ban back; needs no daemon.
    Unban {
        /// As it was banned.
        #[arg(value_parser = pattern)]
        pattern: Pattern,
        #[command(flatten)]
        json: Json,
    },
    /// Print a script that has a shell complete our commands and options.
    Completions {
        /// The shell whose script it is.
        shell: Shell,
    },
    /// Print the manual page, or write all of them to a directory.
    Man {
        /// Write waypost.1 and a page for each command to this directory.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected an IP address with a port, for example 127.0.0.1:50001".to_owned())
}

fn log_level(text: &str) -> Result<String, String> {
    config::check_log_level(text).map(|()| text.to_owned())
}

fn pattern(text: &str) -> Result<Pattern, String> {
    text.parse().map_err(|error| format!("{error}; expected a host, *.domain, an address, or a block as 192.0.2.0/24"))
}
