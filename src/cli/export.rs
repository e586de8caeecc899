//! `waypost export`: known peers in the formats of other programs.

use std::collections::BTreeMap;

use crate::api::PeerInfo;
use crate::book::PeerState;
use clap::ValueEnum;

/// Output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Format {
    /// Verified peers as servers.json of the Electrum wallet.
    #[default]
    Electrum,
    /// Verified peers, one real name per line.
    Realname,
    /// All peers with all fields.
    Json,
}

/// Returns the peers in a format.
pub(super) fn export(mut rows: Vec<PeerInfo>, format: Format) -> anyhow::Result<String> {
    rows.sort_by(|a, b| a.host.cmp(&b.host));
    if format == Format::Json {
        return Ok(serde_json::to_string_pretty(&rows)?);
    }
    rows.retain(|row| row.state == PeerState::Verified);
    // Both sides of a node may have verified a peer.
    rows.dedup_by(|a, b| a.host == b.host);
    match format {
        Format::Electrum => {
            let servers: BTreeMap<&str, _> = rows.iter().map(|row| (row.host.as_str(), electrum(row))).collect();
            Ok(serde_json::to_string_pretty(&servers)?)
        }
        _ => Ok(rows.iter().map(real_name).collect::<Vec<_>>().join("\n")),
    }
}

/// Converts a peer to the format of servers.json: numbers are strings, and "-" means no pruning.
fn electrum(row: &PeerInfo) -> BTreeMap<&'static str, String> {
    let pruning = row.pruning.map_or("-".to_owned(), |limit| limit.to_string());
    let version = row.protocol.clone().unwrap_or_else(|| "1.4".to_owned());
    let port = |letter, port: Option<u16>| port.map(|port| (letter, port.to_string()));
    let ports = [port("s", row.ports.ssl_port), port("t", row.ports.tcp_port)];
    [("pruning", pruning), ("version", version)].into_iter().chain(ports.into_iter().flatten()).collect()
}

/// Writes a peer as a real name: host, version, pruning limit and ports.
fn real_name(row: &PeerInfo) -> String {
    let version = row.protocol.as_ref().map(|version| format!("v{version}"));
    let pruning = row.pruning.map(|limit| format!("p{limit}"));
    let parts = [Some(row.host.clone()), version, pruning, Some(row.ports.to_string())];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::test_fixtures::row;
    use super::*;
    use crate::clock::Time;

    #[test]
    fn export_has_verified_peers_and_json_has_all() {
        let now = Some(Time::from_secs(1_700_000_000));
        let mut onion = row("b.onion", PeerState::Verified, now);
        (onion.ports.ssl_port, onion.ports.ws_port, onion.pruning) = (None, Some(50003), Some(100));
        let rows = || {
            vec![
                row("c.example", PeerState::Candidate, None),
                onion.clone(),
                row("a.example", PeerState::Verified, now),
                row("d.example", PeerState::Bad, now),
            ]
        };
        insta::assert_snapshot!("electrum", export(rows(), Format::Electrum).unwrap());
        insta::assert_snapshot!("realname", export(rows(), Format::Realname).unwrap());
        let all: Vec<PeerInfo> = serde_json::from_str(&export(rows(), Format::Json).unwrap()).unwrap();
        assert_eq!(all.len(), 4);
        assert_eq!(export(Vec::new(), Format::Electrum).unwrap(), "{}");
    }
}
