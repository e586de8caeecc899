//! Commands and arguments. Help, completions and manual pages derive from them.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::output::Json;
use super::{export, onion_address, peers, probe};
use crate::ban_list::Pattern;
use crate::chain::ChainName;
use crate::config;
use crate::peer::Host;
use crate::socks_address::SocksAddress;

/// A Tor-aware peer-discovery proxy for the Electrum server network.
#[derive(Debug, Parser)]
#[command(
    name = "waypost",
    version,
    max_term_width = 100,
    after_help = "Start the daemon with `waypost run`. In another terminal, `waypost status` and `waypost peers` show its state."
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub settings: Settings,
    #[command(subcommand)]
    pub command: Command,
}

/// Options before or after any command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Settings")]
pub(super) struct Settings {
    /// TOML file with the configuration. Default: /etc/waypost/waypost.toml if it exists; /dev/null: no file.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of the peer database and the control socket, through which commands find the daemon.
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Chain: bitcoin, another built-in one, or the name of the one in the [chain] section.
    #[arg(long, global = true)]
    pub network: Option<ChainName>,
    /// SOCKS port of an external Tor: IP:PORT, HOST:PORT or unix:PATH.
    #[arg(long, global = true, value_name = "ADDRESS", value_parser = socks_address)]
    pub socks: Option<SocksAddress>,
    /// Log level: error, warn, info, debug, trace or off.
    #[arg(long, global = true, value_name = "LEVEL", value_parser = log_level)]
    pub log: Option<String>,
    /// Format of log lines.
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    pub log_format: Option<LogFormatArg>,
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum LogFormatArg {
    Text,
    Json,
}

/// A command with its arguments.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the daemon until Ctrl-C or SIGTERM.
    Run {
        /// TCP address for clients; may be given more than once.
        #[arg(long, value_name = "IP:PORT", value_parser = address)]
        listen: Vec<SocketAddr>,
    },
    /// Check the configuration and the files that it names, and print the effective values.
    CheckConfig {
        /// Skip the certificate, its key and the ban lists, which may be on another machine.
        #[arg(long)]
        skip_files: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Show the state of the running daemon.
    Status(Json),
    /// Check this node from here and through Tor, and say what to do; works with and without a running daemon.
    ///
    /// Some peers that do not list this node are asked to list it.
    Doctor(Json),
    /// Show the known peers of the running daemon.
    Peers(peers::PeersArgs),
    /// Print the known peers of the running daemon in the format of another program.
    Export {
        /// Format.
        #[arg(long, value_enum, default_value_t)]
        format: export::Format,
    },
    /// Verify one server now and show each step; needs no daemon.
    Probe(probe::ProbeArgs),
    /// Show the onion address, or import the key of another Tor; needs no daemon.
    OnionAddress(onion_address::OnionArgs),
    /// Add a peer to the running daemon, for example `waypost add electrum.example.org s50002 t50001`.
    Add {
        /// Host and ports, with s for TLS and t for TCP.
        #[arg(required = true, value_name = "REALNAME")]
        name: Vec<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Remove a peer from the running daemon. Other sources may add it again, unless it is banned.
    Forget {
        /// Host as shown by `waypost peers`.
        host: String,
        #[command(flatten)]
        json: Json,
    },
    /// Ban a host, a domain, an address or a subnet; needs no daemon.
    Ban {
        /// Host, domain with its subdomains (*.example.org), address, or subnet (192.0.2.0/24).
        #[arg(value_parser = pattern)]
        pattern: Pattern,
        #[command(flatten)]
        json: Json,
    },
    /// Remove a ban; needs no daemon.
    Unban {
        /// Pattern of the ban.
        #[arg(value_parser = pattern)]
        pattern: Pattern,
        #[command(flatten)]
        json: Json,
    },
    /// Show the ban lists, or which of them ban a host; needs no daemon.
    Bans {
        /// Onion address, name or IP address. Names are not looked up.
        #[arg(value_parser = host)]
        host: Option<Host>,
        #[command(flatten)]
        json: Json,
    },
    /// Print a script for shell completion of commands and options.
    Completions {
        /// Shell.
        shell: Shell,
    },
    /// Print the manual page, or write all manual pages to a directory.
    Man {
        /// Directory for waypost.1 and a page for each command.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected an IP address with a port, for example 127.0.0.1:50001".to_owned())
}

fn socks_address(text: &str) -> Result<SocksAddress, String> {
    text.parse().map_err(|error| format!("{error}, for example 127.0.0.1:9050"))
}

fn log_level(text: &str) -> Result<String, String> {
    config::check_log_level(text).map(|()| text.to_owned())
}

fn host(text: &str) -> Result<Host, String> {
    text.parse().map_err(|error| format!("{error}; expected an onion address, a name or an IP address"))
}

fn pattern(text: &str) -> Result<Pattern, String> {
    text.parse()
        .map_err(|error| format!("{error}; expected a host, *.domain, an address, or a subnet such as 192.0.2.0/24"))
}
