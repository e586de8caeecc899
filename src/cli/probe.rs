//! `waypost probe`: one verification, shown step by step.

use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Args;
use tokio::sync::watch;
use tokio::time::Instant;

use super::print;
use crate::book::{Attempt, Verified, may_knock};
use crate::config::Config;
use crate::conversation::client::Expected;
use crate::dial::{Circle, Dialer, Direct, Socks, SocksKind, Tls, Tor, what_answers};
use crate::peer::{Host, Port, Ports};
use crate::probe::{Deadlines, Progress, probe};
use crate::route::{Routing, Via};
use crate::tor::{IS_EMBEDDED, Mode};

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
    let routing = config.book.routing;
    let via = routing.via(&args.host);
    let found = match via {
        Via::Tor => Some(find_tor(config, &step).await?),
        Via::Direct => None,
    };
    let (_found, tor) = watch::channel(found.as_ref().map(Found::tor));
    let direct = (routing == Routing::Mixed).then_some(Direct);
    let dialer = Dialer { tls: Tls::new()?, direct, tor, circle: Circle::Peers };
    let addresses = match &args.host {
        Host::Onion(_) => Vec::new(),
        Host::Ip(ip) => vec![*ip],
        Host::Dns(name) => {
            let addresses = dialer.resolve(name, via).await.map_err(|failure| anyhow!("{}: {failure}", args.host))?;
            let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            step(&format!("resolved to {}", texts.join(", ")));
            addresses
        }
    };
    let doors: Vec<_> = ports.iter().filter(|door| may_knock(&args.host, via, *door)).collect();
    if doors.is_empty() {
        bail!("through Tor a clearnet host is called over TLS only: name its port with --tls");
    }
    let attempt = Attempt::plain(args.host.clone(), via, addresses, doors);
    let expected = Expected {
        host: Some(args.host.clone()),
        genesis_hash: network.genesis_hash(),
        default_ports: network.default_ports(),
        announce: None,
        compare: None,
    };
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

/// A Tor to probe through, for as long as this is held.
enum Found {
    Beside(Tor),
    #[cfg(feature = "embedded-tor")]
    Own(Box<crate::tor::Once>),
}

impl Found {
    fn tor(&self) -> Tor {
        match self {
            Found::Beside(tor) => tor.clone(),
            #[cfg(feature = "embedded-tor")]
            Found::Own(once) => once.tor.clone(),
        }
    }
}

async fn find_tor(config: &Config, step: &impl Fn(&str)) -> anyhow::Result<Found> {
    let settings = &config.tor.settings;
    let mut found = Vec::new();
    for address in &settings.socks {
        match what_answers(*address).await {
            SocksKind::Tor => {
                step(&format!("Tor answers on {address}"));
                return Ok(Found::Beside(Tor::Socks(Socks::new(*address, u128::from(std::process::id())))));
            }
            SocksKind::Other => found.push(format!("what answers on {address} is not Tor")),
            SocksKind::Nothing(error) => found.push(format!("nothing on {address}: {error}")),
        }
    }
    match settings.mode {
        Mode::Off => bail!("this needs Tor, and tor.mode is off"),
        Mode::Auto | Mode::Embedded if IS_EMBEDDED => embedded(config, step).await,
        _ => bail!("this needs Tor: {}; start one, or set tor.socks to where it is", found.join("; ")),
    }
}

#[cfg(feature = "embedded-tor")]
async fn embedded(config: &Config, step: &impl Fn(&str)) -> anyhow::Result<Found> {
    let settings = &config.tor.settings;
    let progress = |percent, waits_for: &str| step(&format!("our own Tor, {percent} %: {waits_for}"));
    let once = crate::tor::once(&settings.dir, &settings.arti, progress).await;
    Ok(Found::Own(Box::new(once.map_err(|why| anyhow!("our own Tor doesn't start: {why}"))?)))
}

#[cfg(not(feature = "embedded-tor"))]
async fn embedded(_: &Config, _: &impl Fn(&str)) -> anyhow::Result<Found> {
    bail!("this program was built without a Tor of its own")
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
