//! Configuration file and data directory in use, and configuration errors that stop a start.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use waypost::chain::Chain;
use waypost::clock;
use waypost::store::Store;

use crate::support::{self, ChildGuard, Daemon, TestDir, lab_python, lab_script, wait_until};

/// Exit code of a configuration error (EX_CONFIG of sysexits.h).
const CONFIGURATION_ERROR: Option<i32> = Some(78);

/// Home directory with a configuration that sets no data directory.
struct Home {
    dir: TestDir,
}

impl Home {
    fn new() -> Home {
        let home = Home { dir: TestDir::new() };
        home.configure("");
        home
    }

    fn configure(&self, more: &str) {
        let text = format!(
            "listen.tcp = [\"{}\"]\ntor.mode = \"off\"\ndiscovery.seeds = []\nstatus.listen = \"off\"\n{more}",
            self.dir.address
        );
        std::fs::write(self.config(), text).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.dir.config()
    }

    /// Default data directory of bitcoin.
    fn data(&self) -> PathBuf {
        self.dir.root().join(".local/share/waypost")
    }

    /// Returns a command in this home directory, without the environment of the tests.
    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
        command.env_clear().env("HOME", self.dir.root()).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command().args(args).arg("--config").arg(self.config()).output().unwrap()
    }

    fn start(&self) -> Daemon {
        self.start_with(self.command())
    }

    fn start_with(&self, command: Command) -> Daemon {
        Daemon::start_at_home(command, self.dir.root(), &self.config())
    }

    /// Expects a command to reject the configuration in one line. Returns the line.
    fn rejected(&self, command: &mut Command) -> String {
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), CONFIGURATION_ERROR, "{text}");
        assert_eq!((text.lines().count(), output.stdout.len()), (1, 0), "{text}");
        text
    }

    /// Expects a start and `check-config` to reject the configuration with the same line.
    fn rejected_by_both(&self) -> String {
        let of = |args: &[&str]| self.rejected(self.command().args(args).arg("--config").arg(self.config()));
        let text = of(&["run"]);
        assert_eq!(of(&["check-config"]), text);
        assert_eq!(of(&["check-config", "--json"]), text);
        text
    }

    /// Returns the last line of a start that fails after its first log lines.
    fn rejected_last(&self, command: &mut Command) -> String {
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), CONFIGURATION_ERROR, "{text}");
        text.lines().last().unwrap().to_owned()
    }
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn data_of_another_network_stops_start_before_listening() {
    let home = Home::new();
    let data = home.dir.root().join("data");
    home.configure(&format!("data_dir = {data:?}\nnetwork = \"signet\"\n"));
    home.start().stop();
    home.configure(&format!("data_dir = {data:?}\n"));
    // If a listener were opened before the store, the error would be the address in use.
    let listener = std::net::TcpListener::bind(home.dir.address).unwrap();
    let text = home.rejected(home.command().args(["run", "--config"]).arg(home.config()));
    drop(listener);
    assert!(text.contains("peers.redb holds peers of signet, but network is bitcoin"), "{text}");
    assert!(text.contains("set network = \"signet\", or choose another data_dir for bitcoin"), "{text}");
    home.configure(&format!("data_dir = {data:?}\nnetwork = \"signet\"\n"));
    home.start().stop();
}

#[test]
fn each_network_has_a_default_data_directory() {
    let home = Home::new();
    home.configure("network = \"regtest\"\n");
    let daemon = home.start();
    assert!(home.data().join("regtest/control.sock").exists() && !home.data().join("peers.redb").exists());
    assert!(stdout(&home.run(&["status"])).contains("on regtest"));
    // The flag alone selects the same data directory.
    let by_flag = home.command().args(["--network", "regtest", "--config", "/dev/null", "status"]).output().unwrap();
    assert!(stdout(&by_flag).contains("on regtest"));
    let other = home.command().args(["--network", "signet", "--config", "/dev/null", "status"]).output().unwrap();
    let text = String::from_utf8(other.stderr).unwrap();
    assert!(!other.status.success() && text.contains("waypost/signet/control.sock"), "{text}");
    assert_eq!((support::mode(&home.data()), support::mode(&home.data().join("regtest"))), (0o700, 0o700));
    daemon.stop();
}

#[test]
fn data_in_the_old_default_directory_is_moved() {
    let home = Home::new();
    home.configure("network = \"regtest\"\n");
    std::fs::create_dir_all(home.data().join("tor/state")).unwrap();
    std::fs::write(home.data().join("bans"), "*.banned.example\n").unwrap();
    drop(Store::open(&home.data().join("peers.redb"), &Chain::REGTEST, clock::now()).unwrap());
    let daemon = home.start();
    let log = daemon.log();
    let is_moved = |line: &str| line.contains("INFO") && line.contains("moved the data of regtest");
    assert!(log.lines().any(is_moved), "{log}");
    let refused = home.run(&["add", "a.banned.example", "t50001"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("waypost unban"), "{refused:?}");
    daemon.stop();
    for name in ["bans", "tor/state", "peers.redb"] {
        assert!(home.data().join("regtest").join(name).exists() && !home.data().join(name).exists(), "{name}");
    }
    // The data of bitcoin starts empty in that directory.
    home.configure("");
    home.start().stop();
    assert!(home.data().join("peers.redb").exists() && !home.data().join("bans").exists());
}

#[test]
fn unknown_log_level_stops_start_but_not_running_daemon() {
    let home = Home::new();
    let daemon = home.start();
    home.configure("log.level = \"warning\"\n");
    let text = home.rejected_by_both();
    assert!(text.contains("log.level: \"warning\" is not a level") && text.contains("error, warn, info"), "{text}");
    daemon.send_hangup();
    wait_until(10, "the reload is refused", || daemon.log().contains("log.level: \"warning\" is not a level"));
    home.configure("");
    daemon.send_hangup();
    wait_until(10, "the valid configuration is read", || daemon.log().contains("reloaded: nothing has changed"));
    daemon.stop();
    let variable = home.rejected(
        home.command().env("WAYPOST_LOG__LEVEL", "info,waypost=loud").args(["run", "--config"]).arg(home.config()),
    );
    assert!(variable.contains("WAYPOST_LOG__LEVEL") && variable.contains("\"loud\""), "{variable}");
    let flag = home.run(&["run", "--log", "warning"]);
    let text = String::from_utf8(flag.stderr).unwrap();
    assert!(flag.status.code() == Some(2) && text.contains("--log") && text.contains("error, warn, info"), "{text}");
}

#[test]
fn flag_with_a_wrong_address_shows_an_example() {
    for args in [["run", "--listen", "localhost:50001"], ["status", "--socks", "localhost"]] {
        let output = Home::new().run(&args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(args[1]) && text.contains("for example 127.0.0.1:"), "{text}");
    }
}

#[test]
fn kubernetes_variables_do_not_stop_start() {
    let home = Home::new();
    let mut command = home.command();
    let service_variables = [
        ("WAYPOST_SERVICE_HOST", "10.0.0.7"),
        ("WAYPOST_SERVICE_PORT_TLS", "50002"),
        ("WAYPOST_PORT", "tcp://10.0.0.7:50001"),
        ("WAYPOST_PORT_50001_TCP_ADDR", "10.0.0.7"),
        ("WAYPOST_STATUS_SERVICE_HOST", "10.0.0.8"),
    ];
    command.envs(service_variables);
    let daemon = home.start_with(command);
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains("Kubernetes")).unwrap();
    assert!(line.contains("INFO") && service_variables.iter().all(|(name, _)| line.contains(name)), "{line}");
    daemon.stop();
    let text =
        home.rejected(home.command().env("WAYPOST_NETWROK", "signet").args(["run", "--config"]).arg(home.config()));
    assert!(text.contains("WAYPOST_NETWROK") && text.contains("`network`"), "{text}");
}

#[test]
fn home_directory_is_expanded_in_file_environment_and_flags() {
    let home = Home::new();
    let expected = format!("data_dir = \"{}/w\"", home.dir.root().display());
    home.configure("data_dir = \"~/w\"\n");
    assert!(stdout(&home.run(&["check-config"])).contains(&expected));
    home.configure("");
    let by_variable =
        home.command().env("WAYPOST_DATA_DIR", "~/w").args(["check-config", "--config"]).arg(home.config()).output();
    assert!(stdout(&by_variable.unwrap()).contains(&expected));
    assert!(stdout(&home.run(&["check-config", "--data-dir=~/w"])).contains(&expected));
    home.configure("data_dir = \"/d\"\nlisten.cert = \"~/c\"\nlisten.key = \"~/k\"\n");
    let text = home.rejected(home.command().env_remove("HOME").args(["check-config", "--config"]).arg(home.config()));
    assert!(text.contains("waypost.toml, line ") && text.contains("listen.cert: ~/c: HOME is not set"), "{text}");
}

#[test]
fn unusable_files_stop_check_and_start() {
    let home = Home::new();
    let path = |name: &str| home.dir.root().join(name);
    home.configure("listen.cert = \"cert.pem\"\nlisten.key = \"key.pem\"\n");
    let text = home.rejected_by_both();
    assert!(text.contains("listen.cert: ") && text.contains(path("cert.pem").to_str().unwrap()), "{text}");
    let skipping = home.run(&["check-config", "--skip-files"]);
    assert!(stdout(&skipping).contains("cert.pem"));
    home.configure("discovery.ban_file = \"my-bans\"\n");
    let text = home.rejected_by_both();
    assert!(text.contains("discovery.ban_file: ") && text.contains(path("my-bans").to_str().unwrap()), "{text}");
    std::fs::write(path("my-bans"), "# spies\nspy..example\n").unwrap();
    let text = home.rejected_by_both();
    assert!(
        text.contains("discovery.ban_file: ") && text.contains("line 2") && text.contains("spy..example"),
        "{text}"
    );
    std::fs::write(path("my-bans"), "spy.example\n").unwrap();
    assert!(stdout(&home.run(&["check-config"])).contains("my-bans"));
    assert!(!home.data().exists(), "a check creates nothing");
}

#[test]
fn backend_that_is_waypost_itself_stops_check_and_start() {
    let home = Home::new();
    home.configure(&format!("backend.electrum = \"tcp://localhost:{}\"\n", home.dir.address.port()));
    let text = home.rejected_by_both();
    assert!(text.contains("backend.electrum: ") && text.contains("listen.tcp"), "{text}");
}

#[test]
fn backend_name_resolving_to_listener_stops_start() {
    if !support::in_namespace(backend_name_resolving_to_listener_stops_start, &[]) {
        return;
    }
    // Only the resolver and systemd know these addresses, so `check-config` cannot reject them.
    let home = Home::new();
    std::fs::write(
        home.config(),
        "tor.mode = \"off\"\ndiscovery.seeds = []\nstatus.listen = \"off\"\nlisten.tcp = [\"0.0.0.0:50001\"]\n\
         backend.electrum = \"tcp://wp.example.com:50001\"\n",
    )
    .unwrap();
    assert!(home.run(&["check-config"]).status.success());
    let text = home.rejected_last(home.command().args(["run", "--config"]).arg(home.config()));
    assert!(text.contains("tcp://wp.example.com:50001 is Waypost itself"), "{text}");
    let mut activated = Command::new(lab_python());
    activated.arg(lab_script("activate.py")).args(["tls=5.9.0.9:50007", "--", env!("CARGO_BIN_EXE_waypost")]);
    home.configure("backend.electrum = \"tls://5.9.0.9:50007\"\n");
    let text = home.rejected_last(activated.args(["run", "--config"]).arg(home.config()).env("HOME", home.dir.root()));
    assert!(text.contains("tls://5.9.0.9:50007 is Waypost itself, which listens on 5.9.0.9:50007"), "{text}");
}

#[test]
fn default_file_is_read_by_every_command() {
    if !support::in_namespace(default_file_is_read_by_every_command, &[]) {
        return;
    }
    // An empty /etc, seen in this namespace only.
    support::run(Command::new("mount").args(["-t", "tmpfs", "none", "/etc"]));
    let home = Home::new();
    let without = || home.command().arg("check-config").output().unwrap();
    assert!(stdout(&without()).contains(".local/share/waypost\""), "the file is optional");
    std::fs::create_dir("/etc/waypost").unwrap();
    let file = Path::new("/etc/waypost/waypost.toml");
    home.configure("network = \"regtest\"\n");
    std::fs::copy(home.config(), file).unwrap();
    let daemon = ChildGuard::spawn(home.command().arg("run").stderr(Stdio::null()));
    wait_until(20, "the daemon listens", || TcpStream::connect(home.dir.address).is_ok());
    assert!(stdout(&home.command().arg("status").output().unwrap()).contains("on regtest"));
    let no_file = home.command().args(["--config", "/dev/null", "check-config"]).output().unwrap();
    assert!(stdout(&no_file).contains("network = \"bitcoin\""));
    drop(daemon);
    std::fs::write(file, "nonsense = 1\n").unwrap();
    let text = home.rejected(home.command().arg("status"));
    assert!(text.contains("/etc/waypost/waypost.toml, line 1: "), "{text}");
    // Root without the capability to read every file.
    support::set_mode(file, 0o000);
    let mut unprivileged = Command::new("setpriv");
    unprivileged.args(["--bounding-set=-all", "--inh-caps=-all", env!("CARGO_BIN_EXE_waypost"), "status"]);
    let text = home.rejected(unprivileged.env("HOME", home.dir.root()));
    assert!(text.contains("can't read the configuration /etc/waypost/waypost.toml: Permission denied"), "{text}");
    assert!(text.contains("use sudo") && text.contains("--config"), "{text}");
}
