//! Checks of a node and of its surroundings, each with advice for the operator.
//!
//! They run in the process of the command, with or without a daemon, and change nothing except that peers are sent
//! announcements.

mod certificate;
mod finding;
mod isolation;
mod listings;
mod machine;
mod own_names;
mod tor_check;
mod upstream;

use tokio::sync::watch;

pub use self::finding::{Finding, Level, Subject};
use self::listings::Announcement;
use self::tor_check::TorInUse;
use crate::api::{PeerInfo, Status};
use crate::clock;
use crate::config::Config;
use crate::daemon;
use crate::dial::{Dialer, Direct, Isolation, LocalAddresses, Tls};
use crate::peer::Host;
use crate::route::RoutingPolicy;

/// What a running daemon reports.
#[derive(Debug)]
pub struct RunningDaemon {
    /// Its state.
    pub status: Status,
    /// Its peers.
    pub peers: Vec<PeerInfo>,
}

/// Runs all checks, and passes each finding to `report` as soon as it is known.
///
/// `daemon` is the running daemon, or the reason why none answers.
pub async fn examine(config: &Config, daemon: Result<RunningDaemon, String>, mut report: impl FnMut(Finding)) {
    let now = clock::now();
    let mut report_all = |findings: Vec<Finding>| findings.into_iter().for_each(&mut report);
    report_all(machine::check(config, now));
    report_all(machine::check_daemon(config, &daemon, now));
    report_all(certificate::check(config, now));
    let daemon = daemon.ok();
    let daemon = daemon.as_ref();
    let tls = match Tls::new() {
        Ok(tls) => tls,
        Err(error) => {
            let text = format!("the TLS client can't be created: {error}");
            return report_all(vec![Finding::failure(Subject::Configuration, text, "report this with the version")]);
        }
    };
    let (mut findings, tor) = TorInUse::find(config).await;
    let (_connector_sender, connector) = watch::channel(tor.as_ref().map(TorInUse::connector));
    let (local_addresses_sender, local_addresses) = watch::channel(config.announcement_sources());
    let dialer = Dialer {
        tls: tls.clone(),
        direct: (config.book.routing == RoutingPolicy::Split).then_some(Direct),
        tor: connector,
        isolation: Isolation::Peers,
        announce_from: LocalAddresses::new(local_addresses),
    };
    let mut rng = daemon::root_rng();
    let mut tor_works = false;
    if let Some(tor) = &tor {
        let (of_peers, works) = tor.check(config, daemon, &dialer, &mut rng).await;
        findings.extend(of_peers);
        tor_works = works;
    }
    report_all(findings);

    let onion = own_names::check_onion(config, daemon, &dialer).await;
    report_all(onion.findings);
    let mut names = Vec::new();
    if let Some((host, ports)) = &onion.name {
        names.push((host.clone(), *ports, onion.is_reached));
    }
    for (host, ports) in config.identity.clearnet_names() {
        let clearnet = own_names::check_clearnet(config, (host, *ports), &dialer, tor_works || onion.is_reached).await;
        report_all(name_host(config, host, clearnet.findings));
        let source = listings::source_addresses(config, &clearnet.lookup);
        local_addresses_sender.send_modify(|known| drop(known.insert(host.clone(), source.addresses)));
        report_all(name_host(config, host, source.findings));
        names.push((host.clone(), *ports, clearnet.is_reached));
    }
    for (host, ports, is_reached) in names {
        let announcement = Announcement { config, daemon, dialer: &dialer, own: &host, is_reached };
        report_all(announcement.check(ports, &mut rng).await);
    }
    report_all(upstream::check(config, daemon, &tls).await);
}

/// Puts the host before findings that do not name it, if there are several clearnet names.
fn name_host(config: &Config, host: &Host, findings: Vec<Finding>) -> Vec<Finding> {
    let has_several = !config.identity.other_names.is_empty();
    let named = findings.into_iter().map(|finding| match finding.text.contains(&host.to_string()) {
        false if has_several => Finding { text: format!("{host}: {}", finding.text), ..finding },
        _ => finding,
    });
    named.collect()
}
