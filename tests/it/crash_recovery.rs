//! A process that is killed while it writes the store loses nothing that was a second old.

use crate::support;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use waypost::book::{Entry, Source};
use waypost::clock;
use waypost::network::Network;
use waypost::peer::RealName;
use waypost::store::{Change, Store, Writer};

const KILLS: u32 = 20;
const HOSTS: u32 = 300;

/// What may be lost.
const YOUNG: Duration = Duration::from_secs(1);

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
        // At another moment each time, a prime number of milliseconds apart so that no rhythm hides anything.
        let life = Duration::from_millis(1200 + u64::from(kill * 97 % 800));
        let began = support::now();
        let mut told = Vec::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while began.elapsed() < life {
            let line = lines.next().expect("the writer goes on").unwrap();
            if let Some(number) = line.strip_prefix("wrote ") {
                told.push((support::now(), number.parse::<u32>().unwrap()));
            }
        }
        child.kill().unwrap();
        let killed = support::now();
        child.wait().unwrap();
        // It may have written more than we heard of.
        next = told.last().map_or(next, |(_, number)| number + 100_000);

        let (_store, kept) = Store::open(&path, Network::Bitcoin, clock::now()).unwrap();
        assert!(kept.quarantined.is_none(), "damaged by kill {kill}: {:?}", kept.quarantined);
        assert_eq!(kept.unreadable, 0);
        let found: HashMap<String, u32> =
            kept.entries.into_iter().map(|entry| (entry.host.to_string(), entry.failures)).collect();
        for (at, number) in told {
            if killed.duration_since(at) > YOUNG {
                let kept = found.get(&format!("h{}.example", number % HOSTS)).copied();
                assert!(kept >= Some(number), "kill {kill} lost {number}; kept {kept:?}");
                checked += 1;
            }
        }
    }
    assert!(checked > KILLS * 20, "only {checked} writes were old enough to be looked for");
    println!("{KILLS} kills, {checked} writes found again");
}

/// Saves entry after entry, each with a number of its own, and says so.
fn write_entries(path: &Path, from: u32) {
    let (store, _) = Store::open(path, Network::Bitcoin, clock::now()).unwrap();
    let (_writer, changes) = Writer::spawn(store).unwrap();
    let mut out = std::io::stdout();
    // Bounded, should nobody come to kill it.
    for number in from..from + 50_000 {
        changes.write(Change::Save(Box::new(entry(number))));
        writeln!(out, "wrote {number}").unwrap();
        out.flush().unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn entry(number: u32) -> Entry {
    let line = format!("h{}.example s50002 t50001", number % HOSTS);
    let name = RealName::parse(&line, Network::Bitcoin.default_ports()).unwrap();
    let mut entry = Entry::new(name, Source::Seed, Duration::ZERO, clock::now());
    entry.failures = number;
    entry
}
