//! Our own Tor against C tor, in the same network and the same run: how soon each is ready, how it gets over an outage, and
//! what a crowd of onion peers costs. It prints figures.
//!
//! ```text
//! cargo bench --bench tor -- start        from the start to Tor's being ready, the first verified onion peer, and a call of
//!                                         a third Tor at our onion service; five rounds, medians
//! cargo bench --bench tor -- crowd [N]    N (200) onion peers verified
//! cargo bench --bench tor -- outage [S]   relays stopped, then killed, for S (600) seconds each
//! cargo bench --bench tor -- idle [S]     resident memory over S (3600) seconds
//! ```
//!
//! It needs what the tests need (`contrib/test.sh` installs it), and runs in a namespace of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints, and reads the clock"
)]

#[path = "../tests/it/support.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Daemon, call_onion, lab_script, run, wait_until};

const ROUNDS: usize = 5;

fn main() {
    let args = support::benchmark_in_namespace();
    let number = |default: u64| args.get(1).map_or(default, |text| text.parse().unwrap());
    match args.first().map_or("start", String::as_str) {
        "start" => start(),
        "crowd" => crowd(number(200)),
        "outage" => outage(number(600)),
        "idle" => idle(number(3600)),
        other => panic!("start, crowd, outage or idle, and not {other}"),
    }
}

/// Which Tor a daemon uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Embedded,
    /// C tor, started as freshly as the embedded one.
    External,
}

impl Kind {
    const BOTH: [Kind; 2] = [Kind::Embedded, Kind::External];

    fn name(self) -> &'static str {
        match self {
            Kind::Embedded => "embedded",
            Kind::External => "external, C tor",
        }
    }
}

/// A Tor network, and what lives on it.
struct Net {
    dir: tempfile::TempDir,
    seeds: Vec<String>,
}

/// A daemon and the Tor it uses, both as new.
struct Node {
    daemon: Daemon,
    external: Option<Child>,
    began: Instant,
    /// Our onion service, as others call it.
    own: String,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(tor) = &mut self.external {
            let _ = tor.kill();
            let _ = tor.wait();
        }
    }
}

impl Net {
    /// The usual lab, with one onion peer in it.
    fn lab() -> Net {
        let dir = tempfile::tempdir().unwrap();
        run(Command::new(lab_script("up.sh")).arg(dir.path()).stdout(Stdio::null()));
        let onion = std::fs::read_to_string(dir.path().join("tor/onion-1")).unwrap();
        Net { seeds: vec![format!("{} t50001", onion.trim())], dir }
    }

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

    /// A C tor that neither the lab's servers nor a daemon under test uses.
    fn caller(&self) -> String {
        self.read("tor/services-socks")
    }

    /// Starts a daemon that nobody has run before, and with it its Tor.
    fn node(&self, kind: Kind, name: &str, more: &str) -> Node {
        let place = self.dir.path().join(name);
        std::fs::create_dir(&place).unwrap();
        let began = Instant::now();
        let mut external = None;
        let tor = match kind {
            Kind::Embedded => {
                format!("[tor]\nmode = \"embedded\"\narti_config = {:?}\n", self.dir.path().join("tor/arti.toml"))
            }
            Kind::External => {
                external = Some(self.c_tor(&place));
                let hostname = place.join("service/hostname");
                wait_until(30, "C tor has made a key", || hostname.exists());
                let host = std::fs::read_to_string(hostname).unwrap();
                format!(
                    "[tor]\nmode = \"socks\"\nsocks = \"127.0.0.1:5070\"\n\
                     [listen]\ntcp = [\"127.0.0.1:50002\"]\nonion_tcp = [\"127.0.0.1:50011\"]\n\
                     [identity]\nonion_host = \"{}\"\n",
                    host.trim()
                )
            }
        };
        let config = place.join("waypost.toml");
        let text = format!(
            "network = \"regtest\"\ndata_dir = {:?}\n{tor}[discovery]\nseeds = {:?}\n{more}",
            place.join("data"),
            self.seeds
        );
        std::fs::write(&config, text).unwrap();
        let daemon = Daemon::start(&config);
        let name = || daemon.status()["onion"]["host"].as_str().map(str::to_owned);
        wait_until(120, "our onion name is known", || name().is_some());
        let own = format!("{}:51001", name().unwrap());
        Node { daemon, external, began, own }
    }

    /// The lab's own client, begun again in another place and with a service.
    fn c_tor(&self, place: &Path) -> Child {
        let client = self.dir.path().join("tor/client");
        let torrc =
            self.read("tor/client/torrc").replace(&format!("{}", client.display()), &place.display().to_string());
        let torrc = torrc.replace(":5050", ":5070").replace(":5051", ":5071").replace("RunAsDaemon 1", "RunAsDaemon 0");
        let service = place.join("service");
        let text =
            format!("{torrc}\nHiddenServiceDir {}\nHiddenServicePort 51001 127.0.0.1:50011\n", service.display());
        std::fs::write(place.join("torrc"), text).unwrap();
        std::fs::set_permissions(place, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        Command::new("tor")
            .arg("-f")
            .arg(place.join("torrc"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }
}

impl Node {
    fn verified_onions(&self) -> u64 {
        self.daemon.status()["peers"]["verified_onion"].as_u64().unwrap()
    }

    fn until(&self, what: &str, secs: u64, condition: impl FnMut() -> bool) -> f64 {
        wait_until(secs, what, condition);
        self.began.elapsed().as_secs_f64()
    }

    /// When the onion peers were verified last: the time of day in milliseconds, of the one that waits longest.
    fn oldest_success(&self) -> u64 {
        let rows: Vec<Value> = serde_json::from_str(&self.daemon.waypost(&["peers", "--json", "--onion"])).unwrap();
        rows.iter().map(|row| row["last_success"].as_u64().unwrap_or(0)).min().unwrap_or(0)
    }

    /// Of the daemon, and of the C tor it uses.
    fn processes(&self) -> Vec<u32> {
        std::iter::once(self.daemon.id()).chain(self.external.as_ref().map(Child::id)).collect()
    }

    fn cpu(&self) -> f64 {
        self.processes().into_iter().map(cpu).sum()
    }

    fn megabytes(&self, field: &str) -> String {
        let each: Vec<String> = self.processes().into_iter().map(|id| format!("{:.1}", memory(id, field))).collect();
        each.join(" + ")
    }
}

fn start() {
    let net = Net::lab();
    println!(
        "{:<14} {:>10} {:>10} {:>10}   seconds from the start, medians of {ROUNDS}",
        "", "ready", "verified", "called"
    );
    for kind in Kind::BOTH {
        let mut figures = [const { Vec::new() }; 3];
        for round in 0..ROUNDS {
            let node = net.node(kind, &format!("{kind:?}-{round}"), "");
            let state = || node.daemon.status()["tor"]["state"] == "ready";
            figures[0].push(node.until("Tor is ready", 120, state));
            figures[1].push(node.until("an onion peer is verified", 120, || node.verified_onions() > 0));
            let called = || call_onion(&net.caller(), &node.own, "server.ping").is_some();
            figures[2].push(node.until("our onion service is called", 120, called));
        }
        let [ready, verified, called] = figures.map(median);
        println!("{:<14} {ready:>10.2} {verified:>10.2} {called:>10.2}", kind.name());
    }
}

fn crowd(count: u64) {
    let net = Net::crowd(count);
    println!("{:<14} {:>7} {:>9} {:>9}   resident now / at most, MB", "", "at once", "seconds", "CPU s");
    for kind in Kind::BOTH {
        for at_once in [8, 32] {
            let more = format!("probes = {at_once}\nonion_probes = {at_once}\nretry = \"5s\"\n");
            let node = net.node(kind, &format!("{kind:?}-{at_once}"), &more);
            let seconds = node.until("all are verified", 900, || node.verified_onions() >= count);
            println!(
                "{:<14} {at_once:>7} {seconds:>9.1} {:>9.1}   {} / {}",
                kind.name(),
                node.cpu(),
                node.megabytes("VmRSS:"),
                node.megabytes("VmHWM:")
            );
        }
    }
}

fn outage(secs: u64) {
    let net = Net::lab();
    let node = net.node(Kind::Embedded, "node", "recheck = \"20s\"\nretry = \"10s\"\n");
    let called = || call_onion(&net.caller(), &node.own, "server.ping").is_some();
    for manner in ["relays-stop", "relays-kill"] {
        node.until("an onion peer is verified", 120, || node.verified_onions() > 0);
        node.until("our onion service is called", 120, called);
        net.tor(manner);
        std::thread::sleep(Duration::from_secs(secs));
        net.tor("relays-start");
        let (back, since) = (Instant::now(), waypost::clock::now().as_millis());
        node.until("an onion peer is verified again", 600, || node.oldest_success() > since);
        let verified = back.elapsed().as_secs_f64();
        node.until("our onion service is called again", 600, called);
        let rows: Vec<Value> = serde_json::from_str(&node.daemon.waypost(&["peers", "--json", "--onion"])).unwrap();
        println!(
            "{manner} for {secs} s: verified again after {verified:.1} s, our service called after {:.1} s; failures counted: {}",
            back.elapsed().as_secs_f64(),
            rows.iter().map(|row| row["failures"].as_u64().unwrap()).sum::<u64>()
        );
    }
}

fn idle(secs: u64) {
    let net = Net::lab();
    let embedded = net.node(Kind::Embedded, "embedded", "");
    embedded.until("an onion peer is verified", 120, || embedded.verified_onions() > 0);
    let external = net.node(Kind::External, "external", "");
    external.until("an onion peer is verified", 120, || external.verified_onions() > 0);
    for part in 0..=6 {
        println!(
            "{:>6} s   embedded {} MB   external {} MB (daemon + C tor)",
            secs * part / 6,
            embedded.megabytes("VmRSS:"),
            external.megabytes("VmRSS:")
        );
        std::thread::sleep(Duration::from_secs(if part < 6 { secs / 6 } else { 0 }));
    }
}

/// Processor time of a process, in seconds.
fn cpu(id: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    // The kernel counts in hundredths here, whatever its own tick.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn memory(id: u32, field: &str) -> f64 {
    let status = std::fs::read_to_string(PathBuf::from(format!("/proc/{id}/status"))).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0 / 1e6
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
