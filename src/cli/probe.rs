//! `waypost probe`: a single verification, shown step by step.

use data_encoding::HEXLOWER;
use std::cell::RefCell;
use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Args;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use super::output::Json;
use super::output::{print, print_json};
use crate::api::PortNumbers;
use crate::book::is_dialable;
use crate::config::Config;
use crate::connect::{ProbeError, ProbeTarget, Verified};
use crate::dial::{Dialer, Direct, Isolation, LocalAddresses, Tls};
use crate::electrum::prober::{ChainProof, FeaturesStep, ProbeExpectations, RequestOrder};
use crate::peer::{Fault, Host, Port, Ports, Transport};
use crate::probe::{Deadlines, Progress, Retry, probe};
use crate::route::{Route, RoutingPolicy};
use crate::tor::{TemporaryTor, TemporaryTorError};

/// Arguments of `waypost probe`.
#[derive(Debug, Args)]
pub(super) struct ProbeArgs {
    /// Onion name, DNS name or address.
    host: Host,
    /// TCP port. Without --tcp and --tls, the default ports of the chain are used.
    #[arg(long, value_name = "PORT")]
    tcp: Option<Port>,
    /// TLS port.
    #[arg(long, value_name = "PORT")]
    tls: Option<Port>,
    /// Port for WebSockets, which is verified after TCP or TLS.
    #[arg(long, value_name = "PORT")]
    ws: Option<Port>,
    /// Port for WebSockets over TLS, which is verified after TCP or TLS.
    #[arg(long, value_name = "PORT")]
    wss: Option<Port>,
    #[command(flatten)]
    json: Json,
}

/// Output of `--json`.
#[derive(Debug, Serialize)]
struct ProbeResult {
    host: String,
    steps: Vec<Step>,
    outcome: &'static str,
    /// Cause of a failure. `None`: verified.
    reason: Option<String>,
    /// Data of the server. `None`: not verified.
    facts: Option<VerifiedInfo>,
}

/// Step of the verification.
#[derive(Debug, Serialize)]
struct Step {
    /// Milliseconds since the start.
    ms: u64,
    text: String,
}

/// Reported and observed data of a verified server.
#[derive(Debug, Serialize)]
struct VerifiedInfo {
    ip: Option<String>,
    transport: String,
    port: u16,
    software: Option<String>,
    protocol: String,
    /// Ports that it reports.
    #[serde(flatten)]
    ports: PortNumbers,
    /// WebSockets at which it was verified, of those in --ws and --wss.
    web_sockets: Vec<String>,
    genesis_hash: Option<String>,
    tip: Option<u32>,
    peers: usize,
    key: Option<String>,
    took_ms: u64,
}

/// Verifies a server and prints the result.
///
/// # Errors
/// If the verification fails.
pub(super) async fn run(args: ProbeArgs, config: &Config) -> anyhow::Result<()> {
    let start = Instant::now();
    let (host, json) = (args.host.clone(), args.json.json);
    let steps = RefCell::new(Vec::new());
    let step = |text: &str| {
        let ms = millis(start.elapsed());
        if json {
            steps.borrow_mut().push(Step { ms, text: text.to_owned() });
        } else {
            // A closed pipe must not stop the verification, whose result is the exit code.
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

/// Verifies a server and reports each step.
async fn verify(args: ProbeArgs, config: &Config, step: &impl Fn(&str)) -> anyhow::Result<Verified> {
    let chain = config.book.chain.clone();
    let ports = Ports::new(args.tcp, args.tls).unwrap_or(chain.default_ports);
    let routing = config.book.routing;
    let route = routing.via(&args.host);
    let source = match route {
        Route::Tor => Some(find_tor(config, step).await?),
        Route::Direct => None,
    };
    let (_tor_sender, tor) = watch::channel(source.as_ref().map(TemporaryTor::connector));
    let direct = (routing == RoutingPolicy::Split).then_some(Direct);
    let announce_from = LocalAddresses::default();
    let dialer = Dialer { tls: Tls::new()?, direct, tor, isolation: Isolation::Peers, announce_from };
    let addresses = match &args.host {
        Host::Onion(_) => Vec::new(),
        Host::Ip(ip) => vec![*ip],
        Host::Dns(name) => {
            let addresses = dialer.resolve(name, route).await.map_err(|failure| probe_error(&args.host, failure))?;
            let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            step(&format!("resolved to {}", texts.join(", ")));
            addresses
        }
    };
    let endpoints: Vec<_> = ports.iter().filter(|endpoint| is_dialable(&args.host, route, *endpoint)).collect();
    if endpoints.is_empty() {
        match route {
            Route::Tor => bail!("clearnet hosts are probed through Tor over TLS only; set the port with --tls"),
            Route::Direct => bail!("the port belongs to another service; set others with --tcp and --tls"),
        }
    }
    let mut target = ProbeTarget::without_extras(args.host.clone(), route, addresses, endpoints);
    let web_sockets = ports.with_web_sockets(args.ws, args.wss);
    target.web_sockets =
        web_sockets.web_sockets().filter(|endpoint| is_dialable(&args.host, route, *endpoint)).collect();
    let expected = ProbeExpectations {
        host: Some(args.host.clone()),
        chain,
        proof: ChainProof::Required,
        features: FeaturesStep::Included,
        order: RequestOrder::Together,
        announce: None,
        checkpoint_height: None,
        reference: None,
    };
    let outcome = probe(&dialer, &target, &expected, Deadlines::for_route(route), |progress| match progress {
        Progress::Dialling(transport, port) => step(&format!("dialling port {port} ({transport}) {route}")),
        Progress::Retrying(Retry::WithoutFeatures) => {
            step("no response to server.features; connecting again without it");
        }
        Progress::Retrying(Retry::OneByOne) => {
            step("no response to several requests at once; connecting again to send them one by one");
        }
        Progress::DiallingWebSocket(transport, port) => {
            step(&format!("dialling port {port} (WebSocket over {transport}) {route}"));
        }
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

/// Adds advice to the error of a probe.
fn probe_error(host: &Host, failure: ProbeError) -> anyhow::Error {
    let advice = match failure {
        ProbeError::Refused => "; set its ports with --tcp and --tls",
        ProbeError::Tls => {
            "; set its ports with --tcp and --tls; servers need TLS 1.2 or 1.3 with ECDHE and an AEAD cipher, and no Ed448 key"
        }
        ProbeError::Unreachable => {
            "; check that the server runs and accepts remote connections, and the ports of --tcp and --tls"
        }
        ProbeError::NameNotFound | ProbeError::OnionDescriptorNotFound => {
            "; check the spelling of the name, and that the server runs"
        }
        ProbeError::Timeout | ProbeError::Closed => "; the server may be busy, or no Electrum server: try again later",
        ProbeError::Unproven => "; the server may still be syncing, or follow a chain that split from this one",
        ProbeError::ProtocolViolation(Fault::WrongGenesis) => "; set the chain with --network",
        ProbeError::TorUnavailable => "; check that Tor runs at the address of tor.socks",
        ProbeError::TorPolicy => "; remove SafeSocks, OnionTrafficOnly or NoIPv4Traffic from torrc",
        ProbeError::LocalResourceExhausted => "; raise the limit of open files (ulimit -n)",
        _ => "",
    };
    anyhow!("{host} is not verified: {failure}{advice}")
}

/// Finds a Tor for the probe.
async fn find_tor(config: &Config, step: &impl Fn(&str)) -> anyhow::Result<TemporaryTor> {
    if let Some(error) = config.tor.unread.first() {
        bail!("this host needs Tor: {error}");
    }
    TemporaryTor::find(&config.tor.settings, step).await.map_err(|error| match error {
        TemporaryTorError::Off => {
            anyhow!("this host needs Tor, but {error}; --socks HOST:PORT sets one for this probe")
        }
        error => anyhow!("this host needs Tor: {error}"),
    })
}

/// Collects the data of a verified server.
fn facts(host: &Host, verified: &Verified) -> VerifiedInfo {
    let Verified { report, .. } = verified;
    let ports = report.features.as_ref().and_then(|features| features.ports_for(host)).flatten();
    VerifiedInfo {
        ip: verified.ip.map(|ip| ip.to_string()),
        transport: verified.transport.to_string(),
        port: verified.port.get(),
        software: report.software.clone(),
        protocol: report.negotiated_version.to_string(),
        ports: ports.map(PortNumbers::from).unwrap_or_default(),
        web_sockets: verified
            .web_sockets
            .iter()
            .filter(|check| check.failure.is_none())
            .map(|check| web_socket_token(check.endpoint))
            .collect(),
        genesis_hash: report.features.as_ref().and_then(|features| features.genesis_hash.clone()),
        tip: report.tip_height,
        peers: report.peer_list.0.len(),
        key: verified.certificate.map(|certificate| HEXLOWER.encode(&certificate.key)),
        took_ms: millis(verified.duration),
    }
}

/// Returns the token of a WebSocket in real names.
fn web_socket_token((transport, port): (Transport, Port)) -> String {
    match transport {
        Transport::Tcp => format!("ws{port}"),
        Transport::Tls => format!("wss{port}"),
    }
}

/// Writes the data as text.
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
    line("ports", Some(facts.ports.to_string()).filter(|ports| !ports.is_empty()));
    line("WebSocket", Some(facts.web_sockets.join(" ")).filter(|verified| !verified.is_empty()));
    line("genesis", facts.genesis_hash.clone());
    line("tip", facts.tip.map(|tip| tip.to_string()));
    line("peers", Some(facts.peers.to_string()));
    line("TLS key", facts.key.clone());
    line("took", Some(humantime::format_duration(Duration::from_millis(facts.took_ms)).to_string()));
    lines.join("\n")
}

/// Converts a duration to milliseconds.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
