//! `waypost probe`: one verification, shown step by step.

use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Args;
use tokio::sync::watch;
use tokio::time::Instant;

use super::print;
use crate::book::{Attempt, Verified};
use crate::config::Config;
use crate::conversation::client::Expected;
use crate::dial::{Dialer, Socks, SocksKind, Tls, resolve, what_answers};
use crate::peer::{Host, Port, Ports};
use crate::probe::{Deadlines, Progress, probe};
use crate::route::Via;

#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// An onion name, a DNS name or an address.
    host: Host,
    /// Its TCP port. Without either port the network's usual ones are tried.
    #[arg(long, value_name = "PORT")]
    tcp: Option<Port>,
    /// Its TLS port.
    #[arg(long, value_name = "PORT")]
    tls: Option<Port>,
}

/// Fails where the verification does.
pub async fn run(args: ProbeArgs, config: &Config) -> anyhow::Result<()> {
    let began = Instant::now();
    let step = |text: &str| print(&format!("{:>7} ms  {text}", began.elapsed().as_millis()));
    let network = config.book.network;
    let ports = Ports::new(args.tcp, args.tls).unwrap_or(network.default_ports());
    let via = Via::of(&args.host);
    let (_found, socks) = watch::channel(match via {
        Via::Tor => Some(find_tor(config, &step).await?),
        Via::Direct => None,
    });
    let addresses = match &args.host {
        Host::Onion(_) => Vec::new(),
        Host::Ip(ip) => vec![*ip],
        Host::Dns(name) => {
            let addresses = resolve(name).await.map_err(|failure| anyhow!("{}: {failure}", args.host))?;
            let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            step(&format!("resolved to {}", texts.join(", ")));
            addresses
        }
    };
    let doors: Vec<_> = ports.iter().collect();
    let attempt = Attempt { host: args.host.clone(), via, addresses, believed: doors.len(), doors };
    let expected = Expected {
        host: args.host.clone(),
        genesis_hash: network.genesis_hash(),
        default_ports: network.default_ports(),
    };
    let dialer = Dialer { tls: Tls::new()?, socks };
    let outcome = probe(&dialer, &attempt, &expected, Deadlines::of(via), |progress| match progress {
        Progress::Dialling(transport, port) => step(&format!("dialling port {port} ({transport}) {via}")),
        Progress::Connected => step("connected"),
        Progress::Answered(question) => step(&format!("{} answered", question.method())),
        Progress::Failed(failure) => step(&format!("failed: {failure}")),
    });
    match outcome.await {
        Ok(verified) => {
            step("verified");
            print(&account(&args.host, &verified));
            Ok(())
        }
        Err(failure) => bail!("{} is not verified: {failure}", args.host),
    }
}

async fn find_tor(config: &Config, step: &impl Fn(&str)) -> anyhow::Result<Socks> {
    let mut found = Vec::new();
    for address in &config.tor.socks {
        match what_answers(*address).await {
            SocksKind::Tor => {
                step(&format!("Tor answers on {address}"));
                return Ok(Socks::new(*address, u128::from(std::process::id())));
            }
            SocksKind::Other => found.push(format!("what answers on {address} is not Tor")),
            SocksKind::Nothing(error) => found.push(format!("nothing on {address}: {error}")),
        }
    }
    bail!("an onion peer needs Tor: {}; start one, or set tor.socks to where it is", found.join("; "))
}

fn account(host: &Host, verified: &Verified) -> String {
    let Verified { report, .. } = verified;
    let mut lines = vec![format!("host      {host}")];
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            lines.push(format!("{name:<9} {value}"));
        }
    };
    line("address", verified.ip.map(|ip| ip.to_string()));
    line("software", report.software.clone());
    line("protocol", Some(report.agreed.to_string()));
    let said = report.features.as_ref().and_then(|features| features.ports_of(host)).flatten();
    let ports =
        said.map(|ports| ports.iter().map(|(transport, port)| format!("{transport} {port}")).collect::<Vec<_>>());
    line("ports", ports.map(|ports| ports.join(", ")));
    line("genesis", report.features.as_ref().and_then(|features| features.genesis_hash.clone()));
    line("tip", report.tip.map(|tip| tip.to_string()));
    line("peers", Some(report.listing.0.len().to_string()));
    line("TLS key", verified.key.map(hex::encode));
    line("took", Some(humantime::format_duration(Duration::from_millis(millis(verified.took))).to_string()));
    lines.join("\n")
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
