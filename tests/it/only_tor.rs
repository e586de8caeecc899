//! With `tor.only` nothing leaves but through Tor: the whole program in a namespace whose way out is watched, among peers
//! whose names only Tor's exits can look up. The Tor network itself is inside, so whatever takes that way is a leak.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{self, Daemon, call, hosts, lab_script, now, run, wait_until};
use serde_json::json;

const EX1: &str = "ex1.example.com";
const EX2: &str = "ex2.example.com";
const LISTEN: &str = "127.0.0.1:50001";

/// What leaves, from the moment that this stands.
struct Leaks {
    watcher: Child,
    file: PathBuf,
}

impl Leaks {
    fn watch(dir: &Path) -> Leaks {
        let (file, said) = (dir.join("leaks"), dir.join("leaks.log"));
        let watcher = Command::new(support::lab_python())
            .arg(lab_script("leak_capture.py"))
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(&said).unwrap())
            .spawn()
            .unwrap();
        let leaks = Leaks { watcher, file };
        wait_until(10, "the way out is watched", || std::fs::read_to_string(&said).unwrap().contains("listening"));
        leaks
    }

    fn seen(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Leaks {
    fn drop(&mut self) {
        let _ = self.watcher.kill();
        let _ = self.watcher.wait();
    }
}

#[test]
fn tor_only_node_sends_no_packet_outside_tor() {
    if !support::in_namespace(tor_only_node_sends_no_packet_outside_tor, &["--watched"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let leaks = Leaks::watch(dir.path());
    let lab = dir.path().join("lab");
    run(Command::new(lab_script("up.sh")).arg(&lab));
    run(Command::new(lab_script("irc.sh")).arg("up").arg(lab.join("irc")).arg("88.99.0.2"));
    let read = |file: &str| std::fs::read_to_string(lab.join(file)).unwrap().trim().to_owned();
    let (onion, socks) = (read("tor/onion-1"), read("tor/socks"));
    let embedded = format!("mode = \"embedded\"\narti_config = {:?}", lab.join("tor/arti.toml"));
    let external = format!("mode = \"socks\"\nsocks = {socks:?}");
    assert_eq!(leaks.seen(), [""; 0], "the lab itself leaks nothing");

    for (name, tor) in [("embedded", &embedded), ("external", &external)] {
        let config = config(dir.path(), name, &format!("{tor}\nonly = true"));
        let began = now();
        let daemon = Daemon::start_by("third_party.sh", &config);
        check_all_traffic(&daemon, &config, &onion);
        println!(
            "{name}: {:.1} s for a whole life, in which {} packets left",
            began.elapsed().as_secs_f64(),
            leaks.seen().len()
        );
        daemon.stop();
        assert_eq!(leaks.seen(), [""; 0], "{name}");
    }

    // The same without the one key: were the watch blind, this would not be seen.
    let config = config(dir.path(), "leaking", &embedded);
    let daemon = Daemon::start_by("third_party.sh", &config);
    wait_until(30, "a question for a name is caught", || leaks.seen().iter().any(|line| line.contains("udp")));
    println!("without tor.only: {}", leaks.seen()[0]);
    daemon.stop();
}

/// All that a daemon does: seeds, what peers tell of, what strangers introduce, what the operator adds, what is probed.
fn check_all_traffic(daemon: &Daemon, config: &Path, onion: &str) {
    let everybody = BTreeSet::from([EX1.to_owned(), EX2.to_owned(), onion.to_owned()]);
    wait_until(120, "all three are advertised", || hosts(LISTEN) == everybody);
    let ex1 = daemon.row(EX1);
    assert_eq!((&ex1["ip"], &ex1["key_changes"]), (&json!("5.9.0.1"), &json!(0)), "looked up by an exit, over TLS");
    assert!(ex1["key"].is_string());

    let stranger = |host: &str| json!([{ "hosts": { host: { "ssl_port": 50002 } } }]);
    for host in ["a.stranger.example.com", "wp.example.org", "51.15.0.4"] {
        call(LISTEN, "server.add_peer", stranger(host));
    }
    daemon.waypost(&["add", "nobody.example.com", "s50002"]);
    daemon.waypost(&["add", "88.99.0.2", "s51002"]);
    let (refused, ok) = support::waypost(config, &["add", "first.example.com", "t50001"]);
    assert!(!ok && refused.contains("TLS only"), "{refused}");
    wait_until(60, "an address is called through an exit", || !daemon.row("88.99.0.2")["last_try"].is_null());
    wait_until(60, "a name that nobody knows is looked up", || !daemon.row("nobody.example.com")["last_try"].is_null());
    let (output, ok) = probe_from_third_party(config, &[EX2, "--tls", "51002"]);
    assert!(ok && output.contains("through Tor") && output.contains("88.99.0.2"), "{output}");
    let (output, ok) = probe_from_third_party(config, &[EX2, "--tcp", "51001"]);
    assert!(!ok && output.contains("TLS only"), "{output}");
    wait_until(60, "IRC is visited through an exit", || !daemon.status()["irc"]["last"].is_null());
    assert_eq!(daemon.status()["irc"]["error"], serde_json::Value::Null);
    // Whatever is done by and by.
    std::thread::sleep(Duration::from_secs(10));
}

fn config(dir: &Path, name: &str, tor: &str) -> PathBuf {
    let path = dir.join(format!("{name}.toml"));
    let text = format!(
        "network = \"regtest\"\ndata_dir = {:?}\n[tor]\n{tor}\n[discovery]\nrecheck_interval = \"20s\"\ninitial_retry = \"10s\"\n\
         seeds = [\"{EX1} s51002 t51001\", \"first.example.com t50001\"]\n\
         [irc]\nenabled = true\nserver = \"{EX2}:6697\"\n",
        dir.join(name)
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn probe_from_third_party(config: &Path, args: &[&str]) -> (String, bool) {
    let mut command = Command::new(lab_script("third_party.sh"));
    command.args([env!("CARGO_BIN_EXE_waypost"), "probe"]).args(args).arg("--config").arg(config);
    let output = command.stdin(Stdio::null()).output().unwrap();
    (String::from_utf8([output.stdout, output.stderr].concat()).unwrap(), output.status.success())
}
