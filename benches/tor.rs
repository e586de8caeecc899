//! The embedded Tor against C tor in the same network: readiness, recovery after an outage, load and memory.
//!
//! ```text
//! cargo bench --bench tor -- start        time until Tor is ready, until the first onion peer is verified, and until a C tor
//!                                         client reaches the onion service; medians of five rounds
//! cargo bench --bench tor -- crowd [N]    N (200) onion peers verified, once for each name of the node; for each verification,
//!                                         the bytes of requests and responses, and those on the connections to relays
//! cargo bench --bench tor -- outage [S]   relays stopped, then killed, for S (600) seconds each
//! cargo bench --bench tor -- idle [S]     resident memory over S (3600) seconds
//! ```
//!
//! It needs what the tests need (`contrib/test.sh` installs it), and runs in a namespace.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark prints, and reads the clock"
)]

#[path = "../tests/it/support/mod.rs"]
mod support;
mod table;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{ChildGuard, Daemon, call_onion, cpu_time, lab_script, memory_bytes, run, set_mode, wait_until};
use table::{FigureTable, count, figure};

const ROUNDS: usize = 5;

fn main() {
    let args = support::benchmark_in_namespace();
    let number = |default: u64| args.get(1).map_or(default, |text| text.parse().unwrap());
    match args.first().map_or("start", String::as_str) {
        "start" => start(),
        "crowd" => crowd(number(200)),
        "outage" => outage(number(600)),
        "idle" => idle(number(3600)),
        other => panic!("unknown benchmark {other}: start, crowd, outage or idle"),
    }
}

/// Tor that a daemon uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Embedded,
    /// C tor, started with an empty data directory like the embedded Tor.
    External,
}

impl Kind {
    const BOTH: [Kind; 2] = [Kind::Embedded, Kind::External];

    fn name(self) -> &'static str {
        match self {
            Kind::Embedded => "embedded",
            Kind::External => "C tor",
        }
    }
}

/// Tor network with onion peers.
struct Net {
    dir: tempfile::TempDir,
    seeds: Vec<String>,
}

/// Daemon and the Tor that it uses, both with empty directories.
struct Node {
    daemon: Daemon,
    external: Option<ChildGuard>,
    start: Instant,
    /// Address of the onion service.
    own: String,
}

impl Net {
    /// Starts the lab, which has one onion peer.
    fn lab() -> Net {
        let dir = tempfile::tempdir().unwrap();
        run(Command::new(lab_script("up.sh")).arg(dir.path()).stdout(Stdio::null()));
        let onion = std::fs::read_to_string(dir.path().join("tor/onion-1")).unwrap();
        Net { seeds: vec![format!("{} t50001", onion.trim())], dir }
    }

    /// Starts a network with so many onion peers.
    fn crowd(count: u64) -> Net {
        let dir = tempfile::tempdir().unwrap();
        run(Command::new(lab_script("peer_swarm.sh")).arg("up").arg(dir.path()).arg(count.to_string()));
        let seeds = std::fs::read_to_string(dir.path().join("seeds.txt")).unwrap();
        Net { seeds: seeds.lines().map(str::to_owned).collect(), dir }
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(file)).unwrap().trim().to_owned()
    }

    fn tor(&self, command: &str) {
        run(Command::new(lab_script("tor-network.sh")).arg(command).arg(self.dir.path().join("tor")));
    }

    /// SOCKS address of a C tor that no daemon under test uses.
    fn client_socks(&self) -> String {
        self.read("tor/services-socks")
    }

    /// Number of sessions that the peers of a crowd have logged, and the bytes of their requests and responses.
    fn sessions(&self) -> (u64, u64) {
        let log = self.read("swarm.log");
        let sessions = log.lines().filter_map(|line| line.split_once(" bytes "));
        let bytes = |counts: &str| counts.split(' ').map(|count| count.parse::<u64>().unwrap()).sum::<u64>();
        sessions.fold((0, 0), |(number, sum), (_, counts)| (number + 1, sum + bytes(counts)))
    }

    /// Starts a daemon and its Tor.
    fn node(&self, kind: Kind, name: &str, more: &str) -> Node {
        let dir = self.dir.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        let start = Instant::now();
        let mut external = None;
        let tor = match kind {
            Kind::Embedded => {
                format!("[tor]\nmode = \"embedded\"\narti_config = {:?}\n", self.dir.path().join("tor/arti.toml"))
            }
            Kind::External => {
                external = Some(self.c_tor(&dir));
                let hostname = dir.join("service/hostname");
                wait_until(30, "C tor has created a key", || hostname.exists());
                let host = std::fs::read_to_string(hostname).unwrap();
                format!(
                    "[tor]\nmode = \"socks\"\nsocks = \"127.0.0.1:5070\"\n\
                     [listen]\ntcp = [\"127.0.0.1:50002\"]\nonion_tcp = [\"127.0.0.1:50011\"]\n\
                     [identity]\nonion_host = \"{}\"\n",
                    host.trim()
                )
            }
        };
        let config = dir.join("waypost.toml");
        let text = format!(
            "network = \"regtest\"\ndata_dir = {:?}\n{tor}[discovery]\nseeds = {:?}\n{more}",
            dir.join("data"),
            self.seeds
        );
        std::fs::write(&config, text).unwrap();
        let daemon = Daemon::start(&config);
        let name = || daemon.status()["onion"]["host"].as_str().map(str::to_owned);
        wait_until(120, "the onion name is known", || name().is_some());
        let own = format!("{}:51001", name().unwrap());
        Node { daemon, external, start, own }
    }

    /// Starts a C tor like the lab's client, in another directory and with an onion service.
    fn c_tor(&self, dir: &Path) -> ChildGuard {
        let client = self.dir.path().join("tor/client");
        let torrc = self.read("tor/client/torrc").replace(&format!("{}", client.display()), &dir.display().to_string());
        let torrc = torrc.replace(":5050", ":5070").replace(":5051", ":5071").replace("RunAsDaemon 1", "RunAsDaemon 0");
        let service = dir.join("service");
        let text =
            format!("{torrc}\nHiddenServiceDir {}\nHiddenServicePort 51001 127.0.0.1:50011\n", service.display());
        std::fs::write(dir.join("torrc"), text).unwrap();
        set_mode(dir, 0o700);
        let mut tor = Command::new("tor");
        ChildGuard::spawn(tor.arg("-f").arg(dir.join("torrc")).stdout(Stdio::null()).stderr(Stdio::null()))
    }
}

impl Node {
    fn verified_onions(&self) -> u64 {
        self.daemon.status()["peers"]["verified_onion"].as_u64().unwrap()
    }

    fn until(&self, what: &str, secs: u64, condition: impl FnMut() -> bool) -> f64 {
        wait_until(secs, what, condition);
        self.start.elapsed().as_secs_f64()
    }

    /// Earliest last success of the onion peers, as wall clock in milliseconds.
    fn oldest_success(&self) -> u64 {
        let rows: Vec<Value> = serde_json::from_str(&self.daemon.waypost(&["peers", "--json", "--onion"])).unwrap();
        rows.iter().map(|row| row["last_success"].as_u64().unwrap_or(0)).min().unwrap_or(0)
    }

    /// Processes of the daemon and of its C tor.
    fn processes(&self) -> Vec<u32> {
        std::iter::once(self.daemon.id()).chain(self.external.as_ref().map(|tor| tor.0.id())).collect()
    }

    fn cpu_seconds(&self) -> f64 {
        self.processes().into_iter().map(|pid| cpu_time(pid).as_secs_f64()).sum()
    }

    /// Bytes that the Tor in use has exchanged with relays, over connections that are still open.
    fn relay_bytes(&self) -> u64 {
        let tor = self.external.as_ref().map_or(self.daemon.id(), |tor| tor.0.id());
        let sockets = Command::new("ss").args(["-tinpHO", "dport >= :5000 and dport < :5050"]).output().unwrap();
        let owner = format!("pid={tor},");
        let sockets = String::from_utf8(sockets.stdout).unwrap();
        let fields = sockets.lines().filter(|line| line.contains(&owner)).flat_map(str::split_ascii_whitespace);
        let bytes = fields.filter_map(|field| {
            let count = field.strip_prefix("bytes_sent:").or_else(|| field.strip_prefix("bytes_received:"))?;
            count.parse::<u64>().ok()
        });
        bytes.sum()
    }

    /// Returns a field of the memory of each process, in megabytes.
    fn megabytes(&self, field: &str) -> Vec<f64> {
        self.processes().into_iter().map(|id| memory_bytes(id, field) as f64 / 1e6).collect()
    }
}

fn start() {
    let net = Net::lab();
    let mut medians = Vec::new();
    for kind in Kind::BOTH {
        let mut figures = [const { Vec::new() }; 3];
        for round in 0..ROUNDS {
            eprintln!("{}, round {round}", kind.name());
            let node = net.node(kind, &format!("{kind:?}-{round}"), "");
            let state = || node.daemon.status()["tor"]["state"] == "ready";
            figures[0].push(node.until("Tor is ready", 120, state));
            figures[1].push(node.until("an onion peer is verified", 120, || node.verified_onions() > 0));
            let is_reached = || call_onion(&net.client_socks(), &node.own, "server.ping").is_some();
            figures[2].push(node.until("the onion service is reached", 120, is_reached));
        }
        medians.push(figures.map(median));
    }
    let mut table = FigureTable::new(
        &format!("Time from the start, medians of {ROUNDS} rounds"),
        ["until", "embedded, s", "C tor, s", "embedded / C tor"],
    );
    let steps = ["Tor is ready", "an onion peer is verified", "another Tor reaches the onion service"];
    for (number, step) in steps.into_iter().enumerate() {
        let (embedded, external) = (medians[0][number], medians[1][number]);
        table.add_row([step.to_owned(), figure(embedded), figure(external), figure(embedded / external)]);
    }
    table.print();
}

fn crowd(number: u64) {
    let net = Net::crowd(number);
    let mut table = FigureTable::new(
        &format!("{} onion peers verified, and the bytes of each verification", count(number)),
        [
            "at once",
            "Tor",
            "time, s",
            "processor, s",
            "requests and responses, bytes",
            "exchanged with relays, bytes",
            "resident, MB",
            "maximum, MB",
        ],
    );
    for at_once in [8, 32] {
        let [embedded, external] = Kind::BOTH.map(|kind| {
            eprintln!("{}, {at_once} at once", kind.name());
            let more = format!("max_probes = {at_once}\nmax_tor_probes = {at_once}\ninitial_retry = \"5s\"\n");
            let before = net.sessions();
            let node = net.node(kind, &format!("{kind:?}-{at_once}"), &more);
            let seconds = node.until("all are verified", 900, || node.verified_onions() >= number);
            let after = net.sessions();
            let sessions = after.0 - before.0;
            // Memory has a part for each process; the others have one part.
            let figures = [
                vec![seconds],
                vec![node.cpu_seconds()],
                vec![((after.1 - before.1) / sessions) as f64],
                vec![(node.relay_bytes() / sessions) as f64],
                node.megabytes("VmRSS:"),
                node.megabytes("VmHWM:"),
            ];
            let cells = figures.iter().map(|parts| join_parts(parts));
            table.add_row([at_once.to_string(), kind.name().to_owned()].into_iter().chain(cells));
            figures.map(|parts| parts.iter().sum::<f64>())
        });
        let ratios = embedded.into_iter().zip(external).map(|(embedded, external)| figure(embedded / external));
        table.add_row([at_once.to_string(), "embedded / C tor".to_owned()].into_iter().chain(ratios));
    }
    table.print();
}

fn outage(secs: u64) {
    let net = Net::lab();
    let node = net.node(Kind::Embedded, "node", "recheck_interval = \"20s\"\ninitial_retry = \"10s\"\n");
    let is_reached = || call_onion(&net.client_socks(), &node.own, "server.ping").is_some();
    let mut table = FigureTable::new(
        &format!("Recovery of the embedded Tor after {secs} seconds without relays"),
        ["relays", "onion peer verified, s", "onion service reached, s", "failures counted for the peer"],
    );
    for (manner, relays) in [("relays-stop", "stopped"), ("relays-kill", "killed")] {
        eprintln!("relays {relays} for {secs} s");
        node.until("an onion peer is verified", 120, || node.verified_onions() > 0);
        node.until("the onion service is reached", 120, is_reached);
        net.tor(manner);
        std::thread::sleep(Duration::from_secs(secs));
        net.tor("relays-start");
        let (recovery, since) = (Instant::now(), waypost::clock::now().as_millis());
        node.until("an onion peer is verified again", 600, || node.oldest_success() > since);
        let verified = recovery.elapsed().as_secs_f64();
        node.until("the onion service is reached again", 600, is_reached);
        let reached = recovery.elapsed().as_secs_f64();
        let rows: Vec<Value> = serde_json::from_str(&node.daemon.waypost(&["peers", "--json", "--onion"])).unwrap();
        let failures = rows.iter().map(|row| row["failures"].as_u64().unwrap()).sum::<u64>();
        table.add_row([relays.to_owned(), figure(verified), figure(reached), count(failures)]);
    }
    table.print();
}

fn idle(secs: u64) {
    let net = Net::lab();
    let embedded = net.node(Kind::Embedded, "embedded", "");
    embedded.until("an onion peer is verified", 120, || embedded.verified_onions() > 0);
    let external = net.node(Kind::External, "external", "");
    external.until("an onion peer is verified", 120, || external.verified_onions() > 0);
    let mut table = FigureTable::new(
        "Resident memory of an idle node",
        ["after, s", "embedded, MB", "Waypost + C tor, MB", "embedded / both"],
    );
    for part in 0..=6 {
        let (own, both) = (embedded.megabytes("VmRSS:"), external.megabytes("VmRSS:"));
        eprintln!("after {} s: {own:?} and {both:?} MB", secs * part / 6);
        let ratio = own.iter().sum::<f64>() / both.iter().sum::<f64>();
        table.add_row([count(secs * part / 6), join_parts(&own), join_parts(&both), figure(ratio)]);
        std::thread::sleep(Duration::from_secs(if part < 6 { secs / 6 } else { 0 }));
    }
    table.print();
}

/// Formats the parts of a sum, such as the memory of a daemon and of its C tor.
fn join_parts(parts: &[f64]) -> String {
    parts.iter().map(|part| figure(*part)).collect::<Vec<_>>().join(" + ")
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
