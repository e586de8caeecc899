//! A daemon under test, and the client commands.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{lab_script, now, wait_until};

/// Running `waypost run`, killed when this value is dropped.
pub(crate) struct Daemon {
    child: Child,
    config: PathBuf,
    log: PathBuf,
    /// Home directory of the client commands. `None` means that of the tests.
    home: Option<PathBuf>,
}

impl Daemon {
    /// Starts a daemon and waits until it answers `status`.
    pub(crate) fn start(config: &Path) -> Daemon {
        Daemon::spawn(config).wait_until_ready()
    }

    /// Starts a daemon through a script of the lab, which executes it.
    pub(crate) fn start_by(script: &str, config: &Path) -> Daemon {
        let mut command = Command::new(lab_script(script));
        command.arg(env!("CARGO_BIN_EXE_waypost"));
        Daemon::start_with(command, config)
    }

    /// Starts a daemon through a command that takes the daemon's arguments and executes it.
    pub(crate) fn start_with(command: Command, config: &Path) -> Daemon {
        Daemon::spawn_with(command, config).wait_until_ready()
    }

    /// Starts a daemon through a command, in a home directory that its client commands use too.
    pub(crate) fn start_at_home(mut command: Command, home: &Path, config: &Path) -> Daemon {
        command.env("HOME", home).env_remove("XDG_DATA_HOME");
        let mut daemon = Daemon::spawn_with(command, config);
        daemon.home = Some(home.to_owned());
        daemon.wait_until_ready()
    }

    /// Starts a daemon without waiting.
    pub(crate) fn spawn(config: &Path) -> Daemon {
        Daemon::spawn_with(Command::new(env!("CARGO_BIN_EXE_waypost")), config)
    }

    fn spawn_with(mut command: Command, config: &Path) -> Daemon {
        let log = config.with_extension("log");
        let file = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        // Parallel daemons cannot share the default port of the status page.
        if !std::fs::read_to_string(config).unwrap_or_default().contains("[status]") {
            command.env("WAYPOST_STATUS__LISTEN", "off");
        }
        // Tests of other subjects send more requests per second than the default limit permits.
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

    fn wait_until_ready(self) -> Daemon {
        wait_until(20, "the daemon answers", || {
            let (_, ok) = waypost_at_home(self.home.as_deref(), &self.config, &["status"]);
            assert!(ok || !self.log().contains("waypost: "), "the daemon ended: {}", self.log());
            ok
        });
        self
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Runs a client command, which must succeed, and returns its output.
    pub(crate) fn waypost(&self, args: &[&str]) -> String {
        let (output, ok) = waypost_at_home(self.home.as_deref(), &self.config, args);
        assert!(ok, "waypost {args:?}: {output}\n{}", self.log());
        output
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.waypost(&["status", "--json"])).unwrap()
    }

    /// Returns the rows of `waypost peers`.
    pub(crate) fn rows(&self) -> Vec<Value> {
        serde_json::from_str(&self.waypost(&["peers", "--json"])).unwrap()
    }

    /// Returns the row of a peer in `waypost peers`, or null for an unknown host.
    pub(crate) fn row(&self, host: &str) -> Value {
        self.rows().into_iter().find(|row| row["host"] == host).unwrap_or_default()
    }

    /// Returns the state of Tor.
    pub(crate) fn tor(&self) -> String {
        self.status()["tor"]["state"].as_str().unwrap_or_default().to_owned()
    }

    /// Returns the log of all daemons that ran with this configuration.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn assert_no_panic(&self) {
        assert!(self.log().lines().all(|line| !line.contains("panicked")), "{}", self.log());
    }

    /// Sends the signal for a reload.
    pub(crate) fn send_hangup(&self) {
        kill_process(self.pid(), Signal::HUP).unwrap();
    }

    /// Stops the daemon as a service manager does, and expects success.
    pub(crate) fn stop(mut self) {
        kill_process(self.pid(), Signal::TERM).unwrap();
        let start = now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if start.elapsed() > Duration::from_secs(10) => {
                    panic!("the daemon does not stop: {}", self.log())
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        assert!(status.success(), "{status}: {}", self.log());
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let skipped = log.lines().count().saturating_sub(40);
            eprintln!("last lines of the daemon's log:");
            log.lines().skip(skipped).for_each(|line| eprintln!("{line}"));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the command for the built binary with these arguments and no status page.
pub(crate) fn binary(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    command.args(args).env("WAYPOST_STATUS__LISTEN", "off").stdin(Stdio::null());
    command
}

/// Runs a client command. Returns its output and whether it succeeded.
pub(crate) fn waypost(config: &Path, args: &[&str]) -> (String, bool) {
    waypost_at_home(None, config, args)
}

fn waypost_at_home(home: Option<&Path>, config: &Path, args: &[&str]) -> (String, bool) {
    let mut command = binary(args);
    if let Some(home) = home {
        command.env("HOME", home).env_remove("XDG_DATA_HOME");
    }
    let output = command.arg("--config").arg(config).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8(text).unwrap(), output.status.success())
}
