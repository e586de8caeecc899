//! Repeated kills of a process that writes the store. Entries older than a second survive.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support;

use waypost::book::{Entry, Side, Source};
use waypost::chain::Chain;
use waypost::clock;
use waypost::peer::RealName;
use waypost::store::{Change, Store, Writer};

const KILLS: u32 = 20;
const HOSTS: u32 = 300;

/// Age below which an entry may be lost.
const MAX_LOSS: Duration = Duration::from_secs(1);

#[test]
fn kill_during_writes_loses_at_most_one_second() {
    const WRITER: &str = "KILL_TEST_STORE";
    const FROM: &str = "KILL_TEST_FROM";
    if let Some(path) = std::env::var_os(WRITER) {
        let from = std::env::var(FROM).unwrap().parse().unwrap();
        return write_entries(Path::new(&path), from);
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("peers.redb");
    let mut next = 0;
    let mut checked = 0;
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", support::test_path(&kill_during_writes_loses_at_most_one_second), "--nocapture"])
            .env(WRITER, &path)
            .env(FROM, next.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The time varies by a prime number, so that it does not align with the writer's batches.
        let run_time = Duration::from_millis(1200 + u64::from(kill * 97 % 800));
        let start = support::now();
        let mut written = Vec::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while start.elapsed() < run_time {
            let line = lines.next().expect("the writer still runs").unwrap();
            if let Some(number) = line.strip_prefix("wrote ") {
                written.push((support::now(), number.parse::<u32>().unwrap()));
            }
        }
        child.kill().unwrap();
        let killed = support::now();
        child.wait().unwrap();
        // The writer may have written more than it reported.
        next = written.last().map_or(next, |(_, number)| number + 100_000);

        let (_store, kept) = Store::open(&path, &Chain::BITCOIN, clock::now()).unwrap();
        assert!(kept.quarantined.is_none(), "damaged by kill {kill}: {:?}", kept.quarantined);
        assert_eq!(kept.unreadable, 0);
        let found: HashMap<String, u32> =
            kept.entries.into_iter().map(|entry| (entry.host.to_string(), entry.failures)).collect();
        for (at, number) in written {
            if killed.duration_since(at) > MAX_LOSS {
                let kept = found.get(&format!("h{}.example", number % HOSTS)).copied();
                assert!(kept >= Some(number), "kill {kill} lost {number}; kept {kept:?}");
                checked += 1;
            }
        }
    }
    assert!(checked > KILLS * 20, "only {checked} writes were old enough to be checked");
    println!("{KILLS} kills, {checked} writes checked");
}

/// Saves numbered entries and prints each number.
fn write_entries(path: &Path, from: u32) {
    let (store, _) = Store::open(path, &Chain::BITCOIN, clock::now()).unwrap();
    let (_writer, changes) = Writer::spawn(store).unwrap();
    let mut out = std::io::stdout();
    // Bounded, in case the test fails before the kill.
    for number in from..from + 50_000 {
        changes.write(Change::Save(Side::Both, Box::new(entry(number))));
        writeln!(out, "wrote {number}").unwrap();
        out.flush().unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn entry(number: u32) -> Entry {
    let line = format!("h{}.example s50002 t50001", number % HOSTS);
    let name = RealName::parse(&line, Chain::BITCOIN.default_ports).unwrap();
    let mut entry = Entry::new(name, Source::Seed, Duration::ZERO, clock::now());
    entry.failures = number;
    entry
}
