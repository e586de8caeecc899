//! Servers that can be found on IRC alone: a real ngircd with people, servers and impostors in its channel.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::support::{self, Daemon, hosts, lab_script, now, run, wait_until};
use serde_json::{Value, json};

const IRC: &str = "88.99.0.2";
const CHANNEL: &str = "#electrum";
const EX1: &str = "ex1.example.com";
const FIRST: &str = "first.example.com";
const LISTEN: &str = "127.0.0.1:50001";
const OURS: &str = "5.9.0.9:50001";

/// Who is in the channel: the servers, and all sorts of others.
const CROWD: [(&str, &str); 14] = [
    ("alice", "Alice"),
    ("bob", "Bob, who reads along"),
    ("carol", "Carol v1.4 of them all"),
    ("ET_ex1", "ex1.example.com v1.4 s51002 t51001"),
    ("ET_first", "first.example.com v1.0 p100 t50001"),
    // Would be found, were it a server's nick.
    ("ex2srv", "ex2.example.com v1.4 s51002 t51001"),
    ("ET_dave", "Dave means no harm"),
    // Nobody is there, or nobody may be called there.
    ("ET_dead", "ex2.example.com v1.4 t50009"),
    ("ET_priv", "192.168.1.1 t50001"),
    ("ET_mail", "ex1.example.com t3306"),
    ("ET_self", "wp.example.com t50001"),
    // Cut off at fifty characters, or within a port; a control code.
    ("ET_fifty", "a-name-that-is-so-long.that-it-is.example v1.4 t50"),
    ("ET_half", "ex2.example.com v1.4 s5"),
    ("ET_red", "ex2.example.com \\x034v1.4 t51001"),
];

#[test]
fn servers_in_irc_channel_are_found_and_verified() {
    if !support::in_namespace(servers_in_irc_channel_are_found_and_verified, &[]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let _first = servers(dir.path());
    run(Command::new(lab_script("irc.sh")).args(["up"]).arg(dir.path().join("irc")).arg(IRC));
    let mut crowd = Crowd::come();
    for (nick, real_name) in CROWD {
        crowd.order(&format!("join {nick} {real_name}"));
    }
    assert_eq!(crowd.order("who ET_fifty").as_str().unwrap().len(), 50);
    visits(dir.path(), &mut crowd);
    stays(dir.path(), &mut crowd);
}

/// One visit, in the clear: the two servers are met, and nobody else is advertised.
fn visits(dir: &Path, crowd: &mut Crowd) {
    let before = crowd.order("stats");
    let config = dir.join("visit.toml");
    let text = config_text(dir, "visit", &format!("server = \"{IRC}:6667\"\ntls = false"));
    std::fs::write(&config, format!("{text}[identity]\nhost = \"wp.example.com\"\ntcp_port = 50001\n")).unwrap();
    let daemon = Daemon::start(&config);
    let began = now();
    let both = BTreeSet::from([EX1.to_owned(), FIRST.to_owned()]);
    wait_until(120, "the two servers are advertised", || hosts(LISTEN) == both);
    println!("{:.1} s from the start until both stragglers are advertised", began.elapsed().as_secs_f64());
    for host in &both {
        let row = daemon.row(host);
        assert_eq!((&row["source"], &row["state"]), (&json!("IRC"), &json!("verified")), "{row}");
    }
    // The one that knows no server.features goes by what its real name says.
    assert_eq!(daemon.row(FIRST)["pruning"], 100);
    for nobody in ["192.168.1.1", "wp.example.com"] {
        assert_eq!(daemon.row(nobody), Value::Null, "{nobody}");
    }
    wait_until(10, "the visit is over", || crowd.others().len() == 2);
    let seen = crowd.others();
    assert_eq!((&seen[0][0], &seen[1][0], &seen[0][1]), (&json!("JOIN"), &json!("QUIT"), &seen[1][1]), "{seen:?}");
    let stayed = seen[1][2].as_f64().unwrap() - seen[0][2].as_f64().unwrap();
    println!("a visit of {stayed:.1} s, of which the server saw JOIN, WHO and QUIT once each");
    assert!(stayed < 60.0);
    let after = crowd.order("stats");
    let given = |command: &str| after[command].as_u64().unwrap_or(0) - before[command].as_u64().unwrap_or(0);
    assert_eq!([given("JOIN"), given("WHO"), given("QUIT"), given("PRIVMSG")], [1, 1, 1, 0], "{after}");
    let visits = &daemon.status()["irc"];
    let counts = ["cut_off", "control_codes", "unreadable"].map(|key| visits[key].as_u64().unwrap());
    assert_eq!(counts, [2, 1, 1], "{visits}");
    assert_eq!(visits["error"], Value::Null);
    assert!(daemon.waypost(&["status"]).contains("servers met"));
    // To be started again is no reason to come again.
    daemon.stop();
    let daemon = Daemon::start(&config);
    std::thread::sleep(std::time::Duration::from_secs(1));
    let next = daemon.status()["irc"]["next"].as_u64().unwrap();
    assert!(next > waypost::clock::now().as_millis() + 600_000, "the next visit is hours away");
    daemon.stop();
}

/// By TLS, to stay: our name can be read there, and who comes later is met as well.
fn stays(dir: &Path, crowd: &mut Crowd) {
    let config = dir.join("stay.toml");
    let text = config_text(dir, "stay", &format!("server = \"{IRC}:6697\"\npersistent = true\nadvertise = true"));
    let text = text.replace(LISTEN, OURS) + "[identity]\nhost = \"wp.example.com\"\ntcp_port = 50001\n";
    std::fs::write(&config, text).unwrap();
    let daemon = Daemon::start(&config);
    wait_until(60, "we join to stay", || crowd.others().len() == 3);
    let nick = crowd.others()[2][1].as_str().unwrap().to_owned();
    assert!(nick.starts_with("ET_"), "{nick}");
    assert_eq!(crowd.order(&format!("who {nick}")), "wp.example.com v1.6 t50001");
    assert_eq!(daemon.row("ex2.example.com")["state"], "candidate", "nobody is at the port that was named");
    crowd.order("join ET_late late.example.org t50001");
    wait_until(60, "who comes later is met", || !daemon.row("late.example.org").is_null());
    assert_eq!(daemon.row("late.example.org")["source"], "IRC");
    assert_eq!(crowd.others().len(), 3, "we are still there");
    daemon.stop();
    wait_until(10, "we leave with the daemon", || crowd.others().len() == 4);
}

fn config_text(dir: &Path, name: &str, irc: &str) -> String {
    format!(
        "network = \"regtest\"\ndata_dir = \"{}\"\n[tor]\nmode = \"off\"\n[listen]\ntcp = [\"{LISTEN}\"]\n\
         [discovery]\nseeds = []\n[irc]\nenabled = true\n{irc}\n",
        dir.join(name).display()
    )
}

/// An ElectrumX that looks for nobody, and a server of the first protocol.
fn servers(dir: &Path) -> Killed {
    let reports = format!("tcp://{EX1}:51001,ssl://{EX1}:51002");
    let mut electrumx = Command::new(lab_script("electrumx.sh"));
    let args = ["ex1", "5.9.0.1", &reports, "PEER_DISCOVERY=self", "PEER_ANNOUNCE="];
    run(electrumx.env("LAB_VENV", support::lab_venv()).arg("up").arg(dir.join("ex")).args(args));
    let first = Command::new(support::lab_python())
        .arg(lab_script("first_protocol.py"))
        .args(["51.15.0.4", "50001"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Killed(first)
}

/// Those in the channel, led by a script.
struct Crowd {
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    _script: Killed,
}

impl Crowd {
    fn come() -> Crowd {
        let mut script = Command::new(support::lab_python())
            .arg(lab_script("irc_swarm.py"))
            .args([IRC, "6667", CHANNEL])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (orders, answers) = (script.stdin.take().unwrap(), BufReader::new(script.stdout.take().unwrap()));
        Crowd { orders, answers, _script: Killed(script) }
    }

    fn order(&mut self, order: &str) -> Value {
        writeln!(self.orders, "{order}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{order}: {answer}"))
    }

    /// What those did who are none of them.
    fn others(&mut self) -> Vec<Value> {
        let seen = self.order("seen").as_array().unwrap().clone();
        let is_ours = |nick: &str| nick == "ET_late" || CROWD.iter().any(|(ours, _)| *ours == nick);
        seen.into_iter().filter(|deed| !is_ours(deed[1].as_str().unwrap())).collect()
    }
}

/// A process that ends with this value.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
