use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use redb::StorageBackend;
use redb::backends::InMemoryBackend;

use super::*;
use crate::book::{PinnedKey, ProbeRecord, Side, Source};
use crate::chain::Chain;
use crate::connect::ProbeError;
use crate::peer::{RealName, Version};
use crate::trends::TrendSample;

const NOW: Time = Time::from_secs(1_700_000_000);

fn entry(n: u32) -> Entry {
    let line = format!("h{n}.example v1.4.2 p100 s50002 t50001");
    let name = RealName::parse(&line, Chain::BITCOIN.default_ports).unwrap();
    let source = Source::Peer("5.9.0.1".parse().unwrap());
    let mut entry = Entry::new(name, source, Duration::from_secs(5), NOW);
    entry.key = Some(PinnedKey { sha256: [7; 32], since: NOW, rotation_count: 1 });
    entry.history.push_back(ProbeRecord { at: NOW, failure: Some(ProbeError::Timeout), duration_ms: 0 });
    entry.last_success = Some(NOW);
    entry
}

fn open(path: &Path) -> (Store, LoadedState) {
    Store::open(path, &Chain::BITCOIN, NOW).unwrap()
}

#[test]
fn written_changes_are_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("peers.redb");
    let (mut store, loaded) = open(&path);
    assert!(loaded.entries.is_empty());
    let changes = [Change::Save(Side::Both, Box::new(entry(1))), Change::Save(Side::Both, Box::new(entry(2)))];
    store.write(&changes).unwrap();
    store
        .write(&[
            Change::Remove(Side::Both, entry(1).host),
            Change::Reach(Side::Both, Route::Tor, Duration::from_millis(77)),
        ])
        .unwrap();
    drop(store);
    let (_, loaded) = open(&path);
    assert_eq!(loaded.entries, [entry(2)]);
    assert_eq!(loaded.working_time, PerRoute { direct: Duration::ZERO, tor: Duration::from_millis(77) });
}

#[test]
fn record_format_is_unchanged() {
    // Released versions wrote this format. A change of it requires a migration.
    let record = HEXLOWER.encode(&postcard::to_stdvec(&entry(1)).unwrap());
    insta::assert_snapshot!(record);
    let bytes = HEXLOWER_PERMISSIVE.decode(record.as_bytes()).unwrap();
    let read: Entry = postcard::from_bytes(&bytes).unwrap();
    assert_eq!(read.protocol, Some("1.4.2".parse::<Version>().unwrap()));
}

#[test]
fn damaged_store_is_quarantined() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("peers.redb");
    std::fs::write(&path, b"this is no database, and never was").unwrap();
    let (_, loaded) = open(&path);
    let Quarantine { path: quarantine, reason } = loaded.quarantined.unwrap();
    assert!(!reason.is_empty());
    assert_eq!(std::fs::read(quarantine).unwrap(), b"this is no database, and never was");
    assert!(loaded.entries.is_empty());
    assert!(open(&dir.path().join("other.redb")).1.quarantined.is_none());
}

#[test]
fn store_with_damaged_record_is_quarantined() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("peers.redb");
    let (mut store, _) = open(&path);
    let changes: Vec<Change> = (0..500).map(|n| Change::Save(Side::Both, Box::new(entry(n)))).collect();
    store.write(&changes).unwrap();
    store.empty_journal().unwrap();
    drop(store);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.windows(8).rposition(|window| window.starts_with(b"h250.exa")).unwrap();
    bytes[middle] ^= 0xff;
    std::fs::write(&path, &bytes).unwrap();
    let (_, loaded) = open(&path);
    assert!(loaded.quarantined.is_some());
}

#[test]
fn store_in_use_is_locked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("peers.redb");
    let _first = open(&path);
    assert!(matches!(Store::open(&path, &Chain::BITCOIN, NOW), Err(StoreError::Locked(_))));
}

#[test]
fn only_migration_of_an_older_store_reports_a_new_onion_table() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("peers.redb");
    let (store, loaded) = open(&path);
    assert!(!loaded.has_new_onion_table, "a new store");
    schema::tests::set_version(store.database.as_ref().unwrap(), 4);
    drop(store);
    let (store, loaded) = open(&path);
    assert!(loaded.has_new_onion_table, "an older store");
    schema::tests::set_version(store.database.as_ref().unwrap(), 5);
    drop(store);
    let (store, loaded) = open(&path);
    assert!(!loaded.has_new_onion_table, "an older store that has it");
    drop(store);
    assert!(!open(&path).1.has_new_onion_table, "a current store");
}

#[test]
fn newer_store_is_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("peers.redb");
    let (store, _) = open(&path);
    schema::tests::set_version(store.database.as_ref().unwrap(), 99);
    drop(store);
    assert!(matches!(
        Store::open(&path, &Chain::BITCOIN, NOW),
        Err(StoreError::NewerSchema { found: 99, known: 11, .. })
    ));
    assert!(path.exists());
}

#[test]
fn store_of_the_first_version_is_migrated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("peers.redb");
    let (store, _) = open(&path);
    let database = store.database.as_ref().unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut peers = transaction.open_table(tables::PEERS).unwrap();
        for n in 0..3 {
            let record = record_without_web_sockets(&entry(n));
            let (before, since) = record.split_at(record.len() - 12);
            assert_eq!(since, [0; 12]);
            peers.insert(entry(n).host.to_string().as_str(), before).unwrap();
        }
    }
    transaction.commit().unwrap();
    schema::tests::set_version(database, 1);
    drop(store);
    let (_, mut loaded) = open(&path);
    loaded.entries.sort_by(|a, b| a.host.cmp(&b.host));
    assert_eq!(loaded.unreadable, 0);
    assert_eq!(loaded.entries, [entry(0), entry(1), entry(2)]);
}

/// Returns the record of a peer in the format of schema 8.
fn record_without_web_sockets(entry: &Entry) -> Vec<u8> {
    let record = postcard::to_stdvec(entry).unwrap();
    let beginning = postcard::to_stdvec(&(&entry.host, entry.ip, (entry.ports.tcp(), entry.ports.tls()))).unwrap();
    let (beginning, rest) = record.split_at(beginning.len());
    let rest = rest.strip_prefix(&[0; 2]).and_then(|rest| rest.strip_suffix(&[0; 5])).unwrap();
    [beginning, rest].concat()
}

#[test]
fn days_and_trends_are_added_to_a_store_of_schema_nine() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("peers.redb");
    let (store, _) = open(&path);
    let database = store.database.as_ref().unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.delete_table(tables::TRENDS).unwrap();
    for table in [tables::PEERS, tables::ONION_PEERS] {
        let record = postcard::to_stdvec(&entry(1)).unwrap();
        let before = record.strip_suffix(&[0]).unwrap();
        transaction.open_table(table).unwrap().insert(entry(1).host.to_string().as_str(), before).unwrap();
    }
    transaction.commit().unwrap();
    schema::tests::set_version(database, 9);
    drop(store);
    let (_, loaded) = open(&path);
    assert_eq!((loaded.entries, loaded.onion_entries, loaded.unreadable), (vec![entry(1)], vec![entry(1)], 0));
    assert_eq!(loaded.trends, Trends::default());
}

#[test]
fn days_and_trends_are_loaded_as_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("peers.redb");
    let (mut store, _) = open(&path);
    let mut visited = entry(1);
    visited.days.record(Some(Duration::from_millis(120)), NOW);
    visited.days.record(None, NOW + Duration::from_hours(30));
    let mut trends = Trends::default();
    for hour in 0..3 {
        let at = NOW + Duration::from_hours(hour);
        trends.record(TrendSample {
            at,
            verified_clearnet: 4,
            verified_onion: 1,
            clearnet_name: None,
            onion_name: None,
        });
        store.write(&[Change::SaveTrends(Box::new(trends.clone()))]).unwrap();
    }
    store.write(&[Change::Save(Side::Both, Box::new(visited.clone()))]).unwrap();
    drop(store);
    let (_, loaded) = open(&path);
    assert_eq!((loaded.entries, loaded.trends), (vec![visited], trends));
}

/// Returns a peer that was verified on this chain.
fn verified_on(n: u32, chain: Chain) -> Entry {
    Entry {
        genesis_hash: Some(HEXLOWER_PERMISSIVE.decode(chain.genesis_hash.as_bytes()).unwrap().try_into().unwrap()),
        ..entry(n)
    }
}

/// Creates a store of version 3, which records no chain.
fn store_without_chain(path: &Path, entries: impl IntoIterator<Item = Entry>) {
    let (store, _) = open(path);
    let database = store.database.as_ref().unwrap();
    let transaction = database.begin_write().unwrap();
    for entry in entries {
        let mut peers = transaction.open_table(tables::PEERS).unwrap();
        peers.insert(entry.host.to_string().as_str(), record_without_web_sockets(&entry).as_slice()).unwrap();
    }
    transaction.commit().unwrap();
    schema::tests::set_version(database, 3);
}

fn held_chain(path: &Path) -> Option<String> {
    HeldStore::open(path).unwrap().chain.map(|chain| chain.to_string())
}

#[test]
fn store_of_another_chain_is_refused_and_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("peers.redb");
    drop(Store::open(&path, &Chain::TESTNET4, NOW).unwrap());
    let error = Store::open(&path, &Chain::BITCOIN, NOW).unwrap_err();
    assert!(matches!(&error, StoreError::OtherChain { .. }));
    let text = error.to_string();
    assert!(text.contains("holds peers of testnet4, but network is bitcoin"), "{text}");
    assert!(text.contains("set network = \"testnet4\", or choose another data_dir"), "{text}");
    assert_eq!(held_chain(&path).as_deref(), Some("testnet4"));
    assert!(Store::open(&path, &Chain::TESTNET4, NOW).is_ok());
}

#[test]
fn older_store_gets_the_chain_of_most_verified_peers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("peers.redb");
    let never_verified = (10..20).map(|n| Entry { last_success: None, ..verified_on(n, Chain::TESTNET4) });
    let entries = [verified_on(1, Chain::BITCOIN), verified_on(2, Chain::BITCOIN)]
        .into_iter()
        .chain([verified_on(3, Chain::TESTNET4)])
        .chain(never_verified);
    store_without_chain(&path, entries);
    assert_eq!(held_chain(&path).as_deref(), Some("bitcoin"));
    let error = Store::open(&path, &Chain::TESTNET4, NOW).unwrap_err();
    assert!(matches!(error, StoreError::OtherChain { .. }), "{error}");
    let database = Builder::new().open(&path).unwrap();
    assert!(matches!(chain::recorded(&database), Ok(None)), "a refused store stays as it was");
    drop(database);
    assert_eq!(open(&path).1.entries.len(), 13);
    let database = Builder::new().open(&path).unwrap();
    assert_eq!(chain::recorded(&database).unwrap(), Some((&Chain::BITCOIN).into()));
}

#[test]
fn older_store_without_verified_peers_gets_the_configured_chain() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("peers.redb");
    store_without_chain(&path, [Entry { last_success: None, ..entry(1) }, entry(2)]);
    assert_eq!(held_chain(&path), None);
    assert!(Store::open(&path, &Chain::SIGNET, NOW).is_ok());
    assert_eq!(held_chain(&path).as_deref(), Some("signet"));
}

#[test]
fn older_store_that_verified_nothing_gets_the_chain_of_its_seeds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("peers.redb");
    let seeds = Chain::BITCOIN.default_seeds();
    store_without_chain(&path, seeds.into_iter().map(|seed| Entry::new(seed, Source::Seed, Duration::ZERO, NOW)));
    assert_eq!(held_chain(&path).as_deref(), Some("bitcoin"));
    assert!(matches!(Store::open(&path, &Chain::TESTNET4, NOW), Err(StoreError::OtherChain { .. })));
}

#[test]
fn held_store_cannot_be_opened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("peers.redb");
    assert!(HeldStore::open(&path).is_none() && !path.exists());
    drop(open(&path));
    let held = HeldStore::open(&path).unwrap();
    assert!(matches!(Store::open(&path, &Chain::BITCOIN, NOW), Err(StoreError::Locked(_))));
    drop(held);
    let _open = open(&path);
    assert!(HeldStore::open(&path).is_none());
}

#[test]
fn unwritable_path_is_an_error() {
    let error = Store::open(Path::new("/proc/peers.redb"), &Chain::BITCOIN, NOW).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
}

/// Storage that reports a full disk while `full` is set.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    inner: Arc<InMemoryBackend>,
    full: Arc<AtomicBool>,
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, std::io::Error> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.check()?;
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> Result<(), std::io::Error> {
        self.check()?;
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.check()?;
        self.inner.write(offset, data)
    }
}

impl Disk {
    fn check(&self) -> Result<(), std::io::Error> {
        let full = self.full.load(Ordering::Relaxed);
        if full { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

/// Returns a function that opens the store on such a disk.
fn on_disk(full: &Arc<AtomicBool>) -> impl Fn() -> (Store, LoadedState) + use<> {
    let [database, journal] = [(); 2].map(|()| Disk { full: Arc::clone(full), ..Disk::default() });
    move || {
        let database = database.clone();
        let open = move || Ok(Builder::new().create_with_backend(database.clone())?);
        Store::with_backends(open, journal.clone()).unwrap()
    }
}

#[test]
fn changes_during_a_full_disk_are_written_later() {
    let full = Arc::new(AtomicBool::new(false));
    let open = on_disk(&full);
    let (writer, changes) = Writer::spawn(open().0).unwrap();
    let status = writer.status();
    full.store(true, Ordering::Relaxed);
    changes.write(Change::Save(Side::Both, Box::new(entry(1))));
    wait_for(|| status.is_failing());
    changes.write(Change::Save(Side::Both, Box::new(entry(2))));
    full.store(false, Ordering::Relaxed);
    wait_for(|| !status.is_failing() && status.waiting() == 0);
    drop(changes);
    writer.join();
    let mut hosts: Vec<String> = open().1.entries.iter().map(|e| e.host.to_string()).collect();
    hosts.sort();
    assert_eq!(hosts, ["h1.example", "h2.example"]);
}

fn wait_for(condition: impl Fn() -> bool) {
    for _ in 0..200 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("waited without success");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// The store holds exactly the changes of the successful writes.
    #[test]
    fn store_equals_a_map_of_successful_writes(steps in proptest::collection::vec((0..6u32, any::<bool>(), 0..4u8), 1..30)) {
        let full = Arc::new(AtomicBool::new(false));
        let open = on_disk(&full);
        let mut store = open().0;
        let mut model = std::collections::BTreeMap::new();
        for (n, save, problem) in steps {
            full.store(problem == 0, Ordering::Relaxed);
            if problem == 3 {
                store.empty_journal().unwrap();
            }
            let change = if save { Change::Save(Side::Both, Box::new(entry(n))) } else { Change::Remove(Side::Both, entry(n).host) };
            let written = store.write([&change]);
            prop_assert_eq!(written.is_ok(), problem != 0);
            if written.is_ok() {
                if save { model.insert(n, entry(n)); } else { model.remove(&n); }
            }
        }
        drop(store);
        full.store(false, Ordering::Relaxed);
        prop_assert_eq!(open().1.entries, model.into_values().collect::<Vec<_>>());
    }
}
