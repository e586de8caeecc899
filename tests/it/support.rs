//! What the tests of the whole program share: a daemon to start and stop, a caller, and patience.

#![allow(dead_code, clippy::print_stderr, reason = "each test uses a part of it, and says how it failed")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A running `waypost run`, which ends with this value.
pub struct Daemon {
    child: Child,
    config: PathBuf,
    log: PathBuf,
    /// The home directory of the client commands; `None` for that of the tests.
    home: Option<PathBuf>,
}

impl Daemon {
    /// Starts it, and waits until it takes callers in.
    pub fn start(config: &Path) -> Daemon {
        Daemon::spawn(config).wait_until_ready()
    }

    /// The same by way of a script of the lab's, which becomes the daemon.
    pub fn start_by(script: &str, config: &Path) -> Daemon {
        let mut command = Command::new(lab_script(script));
        command.arg(env!("CARGO_BIN_EXE_waypost"));
        Daemon::start_with(command, config)
    }

    /// The same by any command that becomes the daemon when it is given the daemon's arguments.
    pub fn start_with(command: Command, config: &Path) -> Daemon {
        Daemon::spawn_by(command, config).wait_until_ready()
    }

    /// Starts it by a command that runs in this home directory, as the client commands then do.
    pub fn start_at_home(mut command: Command, home: &Path, config: &Path) -> Daemon {
        command.env("HOME", home).env_remove("XDG_DATA_HOME");
        let mut daemon = Daemon::spawn_by(command, config);
        daemon.home = Some(home.to_owned());
        daemon.wait_until_ready()
    }

    fn wait_until_ready(self) -> Daemon {
        let daemon = self;
        let (config, log) = (daemon.config.clone(), daemon.log.clone());
        wait_until(20, "the daemon answers", || {
            let (_, ok) = waypost_at_home(daemon.home.as_deref(), &config, &["status"]);
            assert!(
                ok || !std::fs::read_to_string(&log).unwrap().contains("waypost: "),
                "it ended: {}",
                std::fs::read_to_string(&log).unwrap()
            );
            ok
        });
        daemon
    }

    pub fn spawn(config: &Path) -> Daemon {
        Daemon::spawn_by(Command::new(env!("CARGO_BIN_EXE_waypost")), config)
    }

    fn spawn_by(mut command: Command, config: &Path) -> Daemon {
        let log = config.with_extension("log");
        let file = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        // Parallel daemons cannot share the default port of the status page.
        if !std::fs::read_to_string(config).unwrap_or_default().contains("[status]") {
            command.env("WAYPOST_STATUS__LISTEN", "off");
        }
        // Tests that aren't about the limits look more often than anybody else would.
        if !std::fs::read_to_string(config).unwrap_or_default().contains("[limits]") {
            command.env("WAYPOST_LIMITS__SOURCE_REQUESTS_PER_SECOND", "1000");
        }
        let child = command
            .args(["run", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        Daemon { child, config: config.to_owned(), log, home: None }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What a client command prints; it must succeed.
    pub fn waypost(&self, args: &[&str]) -> String {
        let (output, ok) = waypost_at_home(self.home.as_deref(), &self.config, args);
        assert!(ok, "waypost {args:?}: {output}\n{}", self.log());
        output
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.waypost(&["status", "--json"])).unwrap()
    }

    /// What it knows of a peer; null if it knows none by that name.
    pub fn row(&self, host: &str) -> Value {
        let rows: Vec<Value> = serde_json::from_str(&self.waypost(&["peers", "--json"])).unwrap();
        rows.into_iter().find(|row| row["host"] == host).unwrap_or_default()
    }

    /// How Tor is.
    pub fn tor(&self) -> String {
        self.status()["tor"]["state"].as_str().unwrap_or_default().to_owned()
    }

    /// The log of all daemons that ran with this configuration.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Asks it to stop, as a service manager does.
    pub fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let began = now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if began.elapsed() > Duration::from_secs(10) => panic!("it doesn't stop: {}", self.log()),
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        assert!(status.success(), "{status}: {}", self.log());
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let skipped = log.lines().count().saturating_sub(40);
            eprintln!("the end of what the daemon said:");
            log.lines().skip(skipped).for_each(|line| eprintln!("{line}"));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Set inside the namespace, for a test to a file that it creates when it begins.
pub const IN_NAMESPACE: &str = "LAB_IN_NAMESPACE";

/// Runs one test, named by its function, again inside the namespace that `lab/enter.sh` makes, so that no traffic can leave.
/// True if this is inside already.
pub fn in_namespace<F: Fn()>(test: F, enter: &[&str]) -> bool {
    if let Some(began) = std::env::var_os(IN_NAMESPACE) {
        std::fs::write(began, "").unwrap();
        return true;
    }
    let dir = tempfile::tempdir().unwrap();
    let began = dir.path().join("began");
    let status = Command::new(lab_script("enter.sh"))
        .args(enter)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test_path(&test), "--nocapture"])
        .env(IN_NAMESPACE, &began)
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "the test in the namespace failed: {status}");
    // A runner that finds no test of that name succeeds as well.
    assert!(began.exists(), "the test did not run in the namespace");
    false
}

/// The name by which the test runner knows a test.
pub fn test_path<F: Fn()>(_: &F) -> &'static str {
    let path = std::any::type_name::<F>();
    path.split_once("::").map_or(path, |(_, path)| path)
}

/// A benchmark's arguments, once it runs inside that namespace; until then it is run again there, and ends as it ended.
pub fn benchmark_in_namespace() -> Vec<String> {
    // cargo adds a flag of its own.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if std::env::var_os(IN_NAMESPACE).is_none() {
        let mut enter = Command::new(lab_script("enter.sh"));
        let status = enter.arg(std::env::current_exe().unwrap()).args(&args).env(IN_NAMESPACE, "1").status().unwrap();
        std::process::exit(status.code().unwrap_or(1));
    }
    args
}

/// Bytes of a process that are in memory.
pub fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// The time that a process has had processors to itself.
pub fn processor(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_ascii_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command) {
    let began = now();
    let status = command.stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "{command:?}: {status} after {:?}", began.elapsed());
}

/// A client command's output and whether it succeeded.
pub fn waypost(config: &Path, args: &[&str]) -> (String, bool) {
    waypost_at_home(None, config, args)
}

fn waypost_at_home(home: Option<&Path>, config: &Path, args: &[&str]) -> (String, bool) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    if let Some(home) = home {
        command.env("HOME", home).env_remove("XDG_DATA_HOME");
    }
    let output = command
        .args(args)
        .arg("--config")
        .arg(config)
        .env("WAYPOST_STATUS__LISTEN", "off")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8(text).unwrap(), output.status.success())
}

/// One call to an Electrum server, after the greeting that some insist on; it must succeed.
pub fn call(address: &str, method: &str, params: Value) -> Value {
    try_call(address, method, params).unwrap_or_else(|error| panic!("{method}: {error}"))
}

/// The same, with the error if there is one.
pub fn try_call(address: &str, method: &str, params: Value) -> Result<Value, Value> {
    let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut ask = |id: u32, method: &str, params: Value| {
        let line = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string() + "\n";
        (&stream).write_all(line.as_bytes()).unwrap();
        let line = lines.next().expect("an answer").unwrap();
        let mut answer: Value = serde_json::from_str(&line).unwrap();
        if answer["error"].is_null() { Ok(answer["result"].take()) } else { Err(answer["error"].take()) }
    };
    ask(0, "server.version", json!(["test", ["1.4", "1.6"]]))?;
    ask(1, method, params)
}

/// The code and the body with which a page answers.
pub fn fetch(address: &str, path: &str) -> (u16, String) {
    fetch_as(address, address, path)
}

/// The same, asked for by some other name.
pub fn fetch_as(address: &str, host: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Returns the hosts that a server lists.
pub fn hosts(address: &str) -> BTreeSet<String> {
    let list = call(address, "server.peers.subscribe", json!([]));
    list.as_array().unwrap().iter().map(|entry| entry[1].as_str().unwrap().to_owned()).collect()
}

/// One call to an onion service, through the C tor on this SOCKS port; None while it can't be reached.
pub fn call_onion(socks: &str, address: &str, method: &str) -> Option<Value> {
    let output = Command::new(lab_python())
        .arg(lab_script("call.py"))
        .args(["--socks", socks, "--seconds", "15", address, method])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
}

/// An address of this machine's that nobody listens on. Its port is below those that the system gives to callers, or a parallel test
/// us might be given it by the time that it is used.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(61).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + u16::try_from(number % 22_000).unwrap();
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return SocketAddr::from(([127, 0, 0, 1], port));
        }
    }
}

/// Where ElectrumX is installed.
pub fn lab_venv() -> PathBuf {
    let venv = std::env::var_os("LAB_VENV").map(PathBuf::from);
    venv.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/lab-venv"))
}

/// The Python that ElectrumX is installed for.
pub fn lab_python() -> PathBuf {
    lab_venv().join("bin/python")
}

/// Looks again and again, for so many seconds at most.
pub fn wait_until(secs: u64, what: &str, mut condition: impl FnMut() -> bool) {
    let began = now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(secs), "not within {secs} s: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[expect(clippy::disallowed_methods, reason = "a test of the whole program waits in real time")]
pub fn now() -> Instant {
    Instant::now()
}

pub fn lab_script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab").join(name)
}
