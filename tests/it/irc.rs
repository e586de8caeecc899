//! Discovery of servers in the channel of a real ngircd, among users and misleading nicks.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use crate::support::{self, ChildGuard, Daemon, OFFLINE, TestDir, hosts, lab_script, now, run, wait_until};
use serde_json::{Value, json};

const IRC: &str = "88.99.0.2";
const CHANNEL: &str = "#electrum";
const EX1: &str = "ex1.example.com";
const FIRST: &str = "first.example.com";
const LISTEN: &str = "127.0.0.1:50001";
const PUBLIC_LISTEN: &str = "5.9.0.9:50001";

/// Nicks and real names in the channel.
const USERS: [(&str, &str); 14] = [
    ("alice", "Alice"),
    ("bob", "Bob, who reads along"),
    ("carol", "Carol v1.4 of them all"),
    ("ET_ex1", "ex1.example.com v1.4 s51002 t51001"),
    ("ET_first", "first.example.com v1.0 p100 t50001"),
    // A server whose nick lacks the prefix.
    ("ex2srv", "ex2.example.com v1.4 s51002 t51001"),
    ("ET_dave", "Dave means no harm"),
    // Closed, private, blocked and own endpoints.
    ("ET_dead", "ex2.example.com v1.4 t50009"),
    ("ET_priv", "192.168.1.1 t50001"),
    ("ET_mail", "ex1.example.com t3306"),
    ("ET_self", "wp.example.com t50001"),
    // Truncated at fifty characters, truncated within a port, and with a control code.
    ("ET_fifty", "a-name-that-is-so-long.that-it-is.example v1.4 t50"),
    ("ET_half", "ex2.example.com v1.4 s5"),
    ("ET_red", "ex2.example.com \\x034v1.4 t51001"),
];

#[test]
fn servers_in_irc_channel_are_found_and_verified() {
    if !support::in_namespace(servers_in_irc_channel_are_found_and_verified, &[]) {
        return;
    }
    let dir = TestDir::new();
    let _first = start_servers(dir.root());
    run(Command::new(lab_script("irc.sh")).args(["up"]).arg(dir.path("irc")).arg(IRC));
    let mut users = IrcUsers::connect();
    for (nick, real_name) in USERS {
        users.order(&format!("join {nick} {real_name}"));
    }
    assert_eq!(users.order("who ET_fifty").as_str().unwrap().len(), 50);
    check_visit(&dir, &mut users);
    check_persistent_session(&dir, &mut users);
}

/// Tests a visit without TLS: both servers are found, and no other host is advertised.
fn check_visit(dir: &TestDir, users: &mut IrcUsers) {
    let before = users.order("stats");
    let config = configure(dir, "visit", LISTEN, &format!("server = \"{IRC}:6667\"\ntls = false"));
    let daemon = Daemon::start(&config);
    let start = now();
    let both = BTreeSet::from([EX1.to_owned(), FIRST.to_owned()]);
    wait_until(120, "the two servers are advertised", || hosts(LISTEN) == both);
    println!("{:.1} s from the start until both servers are advertised", start.elapsed().as_secs_f64());
    for host in &both {
        let row = daemon.row(host);
        assert_eq!((&row["source"], &row["state"]), (&json!("IRC"), &json!("verified")), "{row}");
    }
    // The server without server.features keeps the pruning limit of its real name.
    assert_eq!(daemon.row(FIRST)["pruning"], 100);
    for host in ["192.168.1.1", "wp.example.com"] {
        assert_eq!(daemon.row(host), Value::Null, "{host}");
    }
    wait_until(10, "the visit is over", || users.others().len() == 2);
    let seen = users.others();
    assert_eq!((&seen[0][0], &seen[1][0], &seen[0][1]), (&json!("JOIN"), &json!("QUIT"), &seen[1][1]), "{seen:?}");
    let duration = seen[1][2].as_f64().unwrap() - seen[0][2].as_f64().unwrap();
    println!("the visit took {duration:.1} s");
    assert!(duration < 60.0);
    let after = users.order("stats");
    let sent = |command: &str| after[command].as_u64().unwrap_or(0) - before[command].as_u64().unwrap_or(0);
    assert_eq!([sent("JOIN"), sent("WHO"), sent("QUIT"), sent("PRIVMSG")], [1, 1, 1, 0], "{after}");
    let visits = &daemon.status()["irc"];
    let counts = ["cut_off", "control_codes", "unreadable"].map(|key| visits[key].as_u64().unwrap());
    assert_eq!(counts, [2, 1, 1], "{visits}");
    assert_eq!(visits["error"], Value::Null);
    assert!(daemon.waypost(&["status"]).contains("servers found"));
    // A restart causes no visit.
    daemon.stop();
    let daemon = Daemon::start(&config);
    std::thread::sleep(std::time::Duration::from_secs(1));
    let next = daemon.status()["irc"]["next"].as_u64().unwrap();
    assert!(next > waypost::clock::now().as_millis() + 600_000, "the next visit is hours away");
    daemon.stop();
}

/// Tests a persistent session over TLS: the own name is readable, and a server that joins later is found.
fn check_persistent_session(dir: &TestDir, users: &mut IrcUsers) {
    let irc = format!("server = \"{IRC}:6697\"\npersistent = true\nadvertise = true");
    let config = configure(dir, "persistent", PUBLIC_LISTEN, &irc);
    let daemon = Daemon::start(&config);
    wait_until(60, "Waypost joins", || users.others().len() == 3);
    let nick = users.others()[2][1].as_str().unwrap().to_owned();
    assert!(nick.starts_with("ET_"), "{nick}");
    assert_eq!(users.order(&format!("who {nick}")), "wp.example.com v1.7 t50001");
    assert_eq!(daemon.row("ex2.example.com")["state"], "candidate", "the advertised port is closed");
    users.order("join ET_late late.example.org t50001");
    wait_until(60, "the server that joins later is found", || !daemon.row("late.example.org").is_null());
    assert_eq!(daemon.row("late.example.org")["source"], "IRC");
    assert_eq!(users.others().len(), 3, "Waypost is still in the channel");
    daemon.stop();
    wait_until(10, "Waypost leaves when the daemon stops", || users.others().len() == 4);
}

/// Writes a configuration without Tor and seeds, with these keys of `[irc]`.
fn configure(dir: &TestDir, name: &str, listen: &str, irc: &str) -> PathBuf {
    dir.configure_named(
        name,
        &format!(
            "[listen]\ntcp = [\"{listen}\"]\n{OFFLINE}[irc]\nenabled = true\n{irc}\n\
             [identity]\nhost = \"wp.example.com\"\ntcp_port = 50001\n"
        ),
    )
}

/// Starts an ElectrumX without peer discovery and a legacy server. Returns the latter.
fn start_servers(dir: &Path) -> ChildGuard {
    let reports = format!("tcp://{EX1}:51001,ssl://{EX1}:51002");
    let args = ["ex1", "5.9.0.1", &reports, "PEER_DISCOVERY=self", "PEER_ANNOUNCE="];
    support::start_electrumx(&dir.join("ex"), &args);
    let mut legacy = Command::new(support::lab_python());
    ChildGuard::spawn(legacy.arg(lab_script("first_protocol.py")).args(["51.15.0.4", "50001"]).stderr(Stdio::null()))
}

/// Users in the channel, controlled through a script.
struct IrcUsers {
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    _script: ChildGuard,
}

impl IrcUsers {
    fn connect() -> IrcUsers {
        let mut script = Command::new(support::lab_python())
            .arg(lab_script("irc_swarm.py"))
            .args([IRC, "6667", CHANNEL])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (orders, answers) = (script.stdin.take().unwrap(), BufReader::new(script.stdout.take().unwrap()));
        IrcUsers { orders, answers, _script: ChildGuard(script) }
    }

    fn order(&mut self, order: &str) -> Value {
        writeln!(self.orders, "{order}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{order}: {answer}"))
    }

    /// Returns the events of users that the script does not control.
    fn others(&mut self) -> Vec<Value> {
        let seen = self.order("seen").as_array().unwrap().clone();
        let is_scripted = |nick: &str| nick == "ET_late" || USERS.iter().any(|(scripted, _)| *scripted == nick);
        seen.into_iter().filter(|event| !is_scripted(event[1].as_str().unwrap())).collect()
    }
}
