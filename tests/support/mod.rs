//! What the tests of the whole program share: a daemon to start and stop, a caller, and patience.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A running `waypost run`, which ends with this value.
pub struct Daemon {
    child: Child,
    config: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Starts it, and waits until it takes callers in.
    pub fn start(config: &Path) -> Daemon {
        let daemon = Daemon::spawn(config);
        let (config, log) = (daemon.config.clone(), daemon.log.clone());
        eventually(20, "the daemon answers", || {
            let (_, ok) = waypost(&config, &["status"]);
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
        let log = config.with_extension("log");
        let file = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_waypost"))
            .args(["run", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        Daemon { child, config: config.to_owned(), log }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What a client command prints; it must succeed.
    pub fn waypost(&self, args: &[&str]) -> String {
        let (output, ok) = waypost(&self.config, args);
        assert!(ok, "waypost {args:?}: {output}\n{}", self.log());
        output
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.waypost(&["status", "--json"])).unwrap()
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
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client command's output and whether it succeeded.
pub fn waypost(config: &Path, args: &[&str]) -> (String, bool) {
    let output = Command::new(env!("CARGO_BIN_EXE_waypost"))
        .args(args)
        .arg("--config")
        .arg(config)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8(text).unwrap(), output.status.success())
}

/// One call to an Electrum server, after the greeting that some insist on.
pub fn call(address: &str, method: &str, params: Value) -> Value {
    let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut ask = |id: u32, method: &str, params: Value| {
        let line = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string() + "\n";
        (&stream).write_all(line.as_bytes()).unwrap();
        let line = lines.next().expect("an answer").unwrap();
        let mut answer: Value = serde_json::from_str(&line).unwrap();
        assert!(answer.get("error").is_none_or(Value::is_null), "{method}: {answer}");
        answer["result"].take()
    };
    ask(0, "server.version", json!(["test", ["1.4", "1.6"]]));
    ask(1, method, params)
}

/// Looks again and again, for so many seconds at most.
pub fn eventually(secs: u64, what: &str, mut condition: impl FnMut() -> bool) {
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
