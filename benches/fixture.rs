//! A data directory with peers that were verified for two weeks, none of them due for hours.
//!
//! One in fifty is long-standing.

use data_encoding::HEXLOWER_PERMISSIVE;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use waypost::book::{Entry, MAX_DAYS, PinnedKey, ProbeRecord, Promotion, Side, Source};
use waypost::chain::Chain;
use waypost::clock::{self, Time};
use waypost::peer::{Host, OnionAddress, RealName};
use waypost::store::{Change, Store};

/// Creates a data directory with so many peers, of which every `onion_every`-th is an onion service.
pub(crate) fn fill(data: &Path, peers: u32, onion_every: u32) {
    std::fs::DirBuilder::new().mode(0o700).create(data).unwrap();
    let (mut store, _) = Store::open(&data.join("peers.redb"), &Chain::BITCOIN, clock::now()).unwrap();
    let now = clock::now();
    // In batches, as the daemon writes them.
    let changes: Vec<Change> = (0..peers)
        .map(|n| Change::Save(Side::Both, Box::new(entry(n, n % onion_every == onion_every - 1, now))))
        .collect();
    for batch in changes.chunks(100) {
        store.write(batch).unwrap();
    }
    store.empty_journal().unwrap();
}

/// Returns the peer of this number.
pub(crate) fn entry(n: u32, onion: bool, now: Time) -> Entry {
    // The first few hundred peers have distinct diversity groups, since lists contain at most two peers of each.
    let ip = Ipv4Addr::from(0x1400_0000 + (n % 0x1a00) * 0x1_0000 + 0x0701 + n / 0x1a00);
    let mut seed = [0; 32];
    seed.iter_mut().zip(n.to_le_bytes()).for_each(|(byte, part)| *byte = part);
    let host = match onion {
        true => Host::Onion(OnionAddress::from_public_key(seed)).to_string(),
        false => format!("electrum{n}.example-host{}.org", n % 977),
    };
    let line = format!("{host} v1.4.2 s50002 t50001");
    let name = RealName::parse(&line, Chain::BITCOIN.default_ports).unwrap();
    let source = Source::Peer("electrum.blockstream.info".parse().unwrap());
    let mut entry = Entry::new(name, source, Duration::from_hours(300), now - Duration::from_hours(24 * 14));
    entry.ip = (!onion).then_some(IpAddr::V4(ip));
    entry.software = Some("ElectrumX 1.16.0".to_owned());
    entry.genesis_hash = HEXLOWER_PERMISSIVE.decode(Chain::BITCOIN.genesis_hash.as_bytes()).unwrap().try_into().ok();
    entry.key = Some(PinnedKey { sha256: seed, since: entry.first_seen, rotation_count: 0 });
    entry.tip = Some(900_000);
    entry.self_reported = true;
    entry.last_try = Some(now);
    entry.last_success = Some(now);
    entry.next_probe_at = now + Duration::from_hours(16);
    for day in 0..14 {
        let at = entry.first_seen + Duration::from_hours(24 * day);
        entry.uptime.record_result(true, at);
        entry.history.push_back(ProbeRecord { at, failure: None, duration_ms: 120 + n % 900 });
    }
    if n.is_multiple_of(50) {
        entry.promotion = Some(Promotion { at: entry.first_seen + Duration::from_hours(24 * 7), ip: entry.ip });
    }
    for day in 0..MAX_DAYS as u64 {
        let at = now - Duration::from_hours(24 * (MAX_DAYS as u64 - 1 - day));
        entry.days.record(Some(Duration::from_millis((120 + n % 900).into())), at);
    }
    entry
}
