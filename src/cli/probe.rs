//! `waypost probe`: one verification, shown step by step.

use data_encoding::HEXLOWER;
use std::cell::RefCell;
use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Args;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use super::format::ports;
use super::output::Json;
use super::output::{print, print_json};
use crate::book::is_dialable;
use crate::config::Config;
use crate::connect::{ProbeError, ProbeTarget, Verified};
use crate::dial::{Dialer, Direct, Isolation, Socks, SocksDetection, Tls, TorConnector, detect_tor};
use crate::electrum::prober::ProbeExpectations;
use crate::peer::{Fault, Host, Port, Ports};
use crate::probe::{Deadlines, Progress, probe};
use crate::route::{Route, RoutingPolicy};
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
    #[command(flatten)]
    json: Json,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct ProbeResult {
    host: String,
    steps: Vec<Step>,
    outcome: &'static str,
    /// Why it failed.
    reason: Option<String>,
    /// Of one that is verified.
    facts: Option<VerifiedInfo>,
}

#[derive(Debug, Serialize)]
struct Step {
    ms: u64,
    text: String,
}

/// What a server said of itself, and what was seen of it.
#[derive(Debug, Serialize)]
struct VerifiedInfo {
    ip: Option<String>,
    transport: String,
    port: u16,
    software: Option<String>,
    protocol: String,
    tcp_port: Option<u16>,
    ssl_port: Option<u16>,
    genesis_hash: Option<String>,
    tip: Option<u32>,
    peers: usize,
    key: Option<String>,
    took_ms: u64,
}

/// Fails where the verification does.
pub async fn run(args: ProbeArgs, config: &Config) -> anyhow::Result<()> {
    let began = Instant::now();
    let (host, json) = (args.host.clone(), args.json.json);
    let steps = RefCell::new(Vec::new());
    let step = |text: &str| {
        let ms = millis(began.elapsed());
        if json {
            steps.borrow_mut().push(Step { ms, text: text.to_owned() });
        } else {
            // The outcome is what counts.
            let _ = print(&format!("{ms:>7} ms  {text}"));
        }
    };
    let outcome = verify(args, config, &step).await;
    let facts = outcome.as_ref().ok().map(|verified| facts(&host, verified));
    if json {
        print_json(&ProbeResult {
            host: host.to_string(),
            steps: steps.take(),
            outcome: if facts.is_some() { "verified" } else { "failed" },
            reason: outcome.as_ref().err().map(|reason| format!("{reason:#}")),
            facts,
        })?;
    } else if let Some(facts) = &facts {
        print(&lines(&host, facts))?;
    }
    outcome.map(drop)
}

async fn verify(args: ProbeArgs, config: &Config, step: &impl Fn(&str)) -> anyhow::Result<Verified> {
    let network = config.book.network;
    let ports = Ports::new(args.tcp, args.tls).unwrap_or(network.default_ports());
    let routing = config.book.routing;
    let via = routing.via(&args.host);
    let found = match via {
        Route::Tor => Some(find_tor(config, step).await?),
        Route::Direct => None,
    };
    let (_found, tor) = watch::channel(found.as_ref().map(TorSource::tor));
    let direct = (routing == RoutingPolicy::Split).then_some(Direct);
    let dialer = Dialer { tls: Tls::new()?, direct, tor, isolation: Isolation::Peers };
    let addresses = match &args.host {
        Host::Onion(_) => Vec::new(),
        Host::Ip(ip) => vec![*ip],
        Host::Dns(name) => {
            let addresses = dialer.resolve(name, via).await.map_err(|failure| probe_error(&args.host, failure))?;
            let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            step(&format!("resolved to {}", texts.join(", ")));
            addresses
        }
    };
    let doors: Vec<_> = ports.iter().filter(|door| is_dialable(&args.host, via, *door)).collect();
    if doors.is_empty() {
        match via {
            Route::Tor => bail!("through Tor a clearnet host is called over TLS only: name its port with --tls"),
            Route::Direct => bail!("no Electrum server would have such a port; --tcp and --tls name others"),
        }
    }
    let attempt = ProbeTarget::without_extras(args.host.clone(), via, addresses, doors);
    let expected = ProbeExpectations {
        host: Some(args.host.clone()),
        genesis_hash: network.genesis_hash(),
        default_ports: network.default_ports(),
        announce: None,
        checkpoint_height: None,
    };
    let outcome = probe(&dialer, &attempt, &expected, Deadlines::for_route(via), |progress| match progress {
        Progress::Dialling(transport, port) => step(&format!("dialling port {port} ({transport}) {via}")),
        Progress::Connected => step("connected"),
        Progress::Answered(question) => step(&format!("{} answered", question.method())),
        Progress::Failed(failure) => step(&format!("failed: {failure}")),
    });
    match outcome.await {
        Ok(verified) => {
            step("verified");
            Ok(verified)
        }
        Err(failure) => Err(probe_error(&args.host, failure)),
    }
}

fn probe_error(host: &Host, failure: ProbeError) -> anyhow::Error {
    let advice = match failure {
        ProbeError::Refused | ProbeError::Tls => "; --tcp and --tls say on which ports it listens",
        ProbeError::Unreachable => {
            "; see that it is up, that it takes calls from outside, and that --tcp and --tls are right"
        }
        ProbeError::NameNotFound | ProbeError::OnionDescriptorNotFound => {
            "; see that the name is spelt right, and that it is up"
        }
        ProbeError::Timeout | ProbeError::Closed => "; it may be busy or no Electrum server: try again later",
        ProbeError::ProtocolViolation(Fault::WrongGenesis) => "; --network says which chain is wanted",
        ProbeError::TorUnavailable => "; see that Tor runs where tor.socks says",
        ProbeError::TorPolicy => "; remove SafeSocks, OnionTrafficOnly or NoIPv4Traffic from torrc",
        ProbeError::LocalResourceExhausted => "; raise the limit of open files (ulimit -n)",
        _ => "",
    };
    anyhow!("{host} is not verified: {failure}{advice}")
}

/// A Tor to probe through, for as long as this is held.
enum TorSource {
    External(TorConnector),
    #[cfg(feature = "embedded-tor")]
    Own(Box<crate::tor::EphemeralClient>),
}

impl TorSource {
    fn tor(&self) -> TorConnector {
        match self {
            TorSource::External(tor) => tor.clone(),
            #[cfg(feature = "embedded-tor")]
            TorSource::Own(once) => once.tor.clone(),
        }
    }
}

async fn find_tor(config: &Config, step: &impl Fn(&str)) -> anyhow::Result<TorSource> {
    let settings = &config.tor.settings;
    let mut found = Vec::new();
    for address in &settings.socks {
        match detect_tor(*address).await {
            SocksDetection::Tor(access) => {
                step(&format!("Tor answers on {address}"));
                let socks = Socks::new(*address, u128::from(std::process::id()));
                socks.set_clearnet(access);
                return Ok(TorSource::External(TorConnector::Socks(socks)));
            }
            SocksDetection::NotTor => found.push(format!("what answers on {address} is not Tor")),
            SocksDetection::Unreachable(error) => found.push(format!("nothing on {address}: {error}")),
        }
    }
    match settings.mode {
        Mode::Off => bail!("this needs Tor, and tor.mode is off; --socks IP:PORT names one for this once"),
        Mode::Auto | Mode::Embedded if IS_EMBEDDED => embedded(config, step).await,
        _ => bail!("this needs Tor: {}; start one, or set tor.socks to where it is", found.join("; ")),
    }
}

#[cfg(feature = "embedded-tor")]
async fn embedded(config: &Config, step: &impl Fn(&str)) -> anyhow::Result<TorSource> {
    let settings = &config.tor.settings;
    let progress = |percent, waits_for: &str| step(&format!("our own Tor, {percent} %: {waits_for}"));
    let once = crate::tor::bootstrap_ephemeral(&settings.dir, &settings.arti, progress).await;
    Ok(TorSource::Own(Box::new(once.map_err(|reason| anyhow!("our own Tor doesn't start: {reason}"))?)))
}

#[cfg(not(feature = "embedded-tor"))]
async fn embedded(_: &Config, _: &impl Fn(&str)) -> anyhow::Result<TorSource> {
    bail!("this program was built without a Tor of its own")
}

fn facts(host: &Host, verified: &Verified) -> VerifiedInfo {
    let Verified { report, .. } = verified;
    let ports = report.features.as_ref().and_then(|features| features.ports_for(host)).flatten();
    VerifiedInfo {
        ip: verified.ip.map(|ip| ip.to_string()),
        transport: verified.transport.to_string(),
        port: verified.port.get(),
        software: report.software.clone(),
        protocol: report.negotiated_version.to_string(),
        tcp_port: ports.and_then(|ports| ports.tcp()).map(Port::get),
        ssl_port: ports.and_then(|ports| ports.tls()).map(Port::get),
        genesis_hash: report.features.as_ref().and_then(|features| features.genesis_hash.clone()),
        tip: report.tip_height,
        peers: report.peer_list.0.len(),
        key: verified.tls_key_hash.map(|bytes| HEXLOWER.encode(&bytes)),
        took_ms: millis(verified.duration),
    }
}

fn lines(host: &Host, facts: &VerifiedInfo) -> String {
    let mut lines = vec![format!("host      {host}")];
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            lines.push(format!("{name:<9} {value}"));
        }
    };
    line("address", facts.ip.clone());
    line("software", facts.software.clone());
    line("protocol", Some(facts.protocol.clone()));
    line("ports", Some(ports(facts.ssl_port, facts.tcp_port)).filter(|ports| !ports.is_empty()));
    line("genesis", facts.genesis_hash.clone());
    line("tip", facts.tip.map(|tip| tip.to_string()));
    line("peers", Some(facts.peers.to_string()));
    line("TLS key", facts.key.clone());
    line("took", Some(humantime::format_duration(Duration::from_millis(facts.took_ms)).to_string()));
    lines.join("\n")
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
