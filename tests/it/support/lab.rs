//! Isolated namespaces, and the network of `tests/lab/` in them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{ChildGuard, TestDir, repository, run, wait_until};

/// Environment variable set in the namespace. For a test its value is a file that the test creates.
pub(crate) const IN_NAMESPACE: &str = "LAB_IN_NAMESPACE";

/// Runs a test, named by its function, again in a namespace of `lab/enter.sh`, which no traffic leaves.
///
/// Returns true when called inside the namespace.
pub(crate) fn in_namespace<F: Fn()>(test: F, enter: &[&str]) -> bool {
    if let Some(marker) = std::env::var_os(IN_NAMESPACE) {
        std::fs::write(marker, "").unwrap();
        return true;
    }
    let dir = tempfile::tempdir().unwrap();
    let marker = dir.path().join("marker");
    let status = Command::new(lab_script("enter.sh"))
        .args(enter)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test_path(&test), "--nocapture"])
        .env(IN_NAMESPACE, &marker)
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "the test in the namespace failed: {status}");
    // A runner that finds no test of that name succeeds as well.
    assert!(marker.exists(), "the test did not run in the namespace");
    false
}

/// Returns the name by which the test runner knows a test.
pub(crate) fn test_path<F: Fn()>(_: &F) -> &'static str {
    let path = std::any::type_name::<F>();
    path.split_once("::").map_or(path, |(_, path)| path)
}

/// Runs a benchmark again in a namespace and exits. Inside the namespace, returns its arguments.
pub(crate) fn benchmark_in_namespace() -> Vec<String> {
    // cargo adds this flag.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if std::env::var_os(IN_NAMESPACE).is_none() {
        let mut enter = Command::new(lab_script("enter.sh"));
        let status = enter.arg(std::env::current_exe().unwrap()).args(&args).env(IN_NAMESPACE, "1").status().unwrap();
        std::process::exit(status.code().unwrap_or(1));
    }
    args
}

/// Tor network with three ElectrumX servers and a legacy server, started by `lab/up.sh`.
pub(crate) struct Lab(PathBuf);

impl Lab {
    /// Starts the lab in a subdirectory.
    pub(crate) fn start(dir: &Path) -> Lab {
        let lab = Lab(dir.join("lab"));
        run(Command::new(lab_script("up.sh")).arg(&lab.0));
        lab
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    /// Returns the trimmed content of a file of the lab.
    pub(crate) fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.path(file)).unwrap().trim().to_owned()
    }

    /// Returns the `[tor]` section for the embedded Tor in this network.
    pub(crate) fn embedded_tor(&self) -> String {
        format!("[tor]\nmode = \"embedded\"\narti_config = {:?}\n", self.path("tor/arti.toml"))
    }

    /// Returns the `[tor]` section for the C tor client of this network.
    pub(crate) fn external_tor(&self) -> String {
        format!("[tor]\nmode = \"socks\"\nsocks = {:?}\n", self.read("tor/socks"))
    }

    /// Runs a command of `tor-network.sh`.
    pub(crate) fn tor(&self, command: &str) {
        run(Command::new(lab_script("tor-network.sh")).arg(command).arg(self.path("tor")));
    }

    /// Starts one more ElectrumX.
    pub(crate) fn electrumx(&self, args: &[&str]) {
        start_electrumx(&self.path("ex"), args);
    }
}

/// Starts an ElectrumX with the arguments of `electrumx.sh up`.
pub(crate) fn start_electrumx(dir: &Path, args: &[&str]) {
    let mut command = Command::new(lab_script("electrumx.sh"));
    run(command.env("LAB_VENV", lab_venv()).arg("up").arg(dir).args(args));
}

/// Sends one request to an onion service through a C tor. Returns `None` when it is unreachable.
pub(crate) fn call_onion(socks: &str, address: &str, method: &str) -> Option<Value> {
    call_through(socks, &[address, method])
}

/// Does the same over TLS.
pub(crate) fn call_onion_tls(socks: &str, address: &str, method: &str) -> Option<Value> {
    call_through(socks, &["--tls", address, method])
}

fn call_through(socks: &str, args: &[&str]) -> Option<Value> {
    let output = Command::new(lab_python())
        .arg(lab_script("call.py"))
        .args(["--socks", socks, "--seconds", "15"])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
}

/// Capture of the packets that leave the namespace.
pub(crate) struct LeakCapture {
    _process: ChildGuard,
    file: PathBuf,
}

impl LeakCapture {
    /// Starts the capture in a namespace of `enter.sh --watched`.
    pub(crate) fn start(dir: &TestDir) -> LeakCapture {
        let (file, log) = (dir.path("leaks"), dir.path("leaks.log"));
        let mut command = Command::new(lab_python());
        command.arg(lab_script("leak_capture.py")).arg(&file).stderr(std::fs::File::create(&log).unwrap());
        let capture = LeakCapture { _process: ChildGuard::spawn(&mut command), file };
        wait_until(10, "the capture runs", || std::fs::read_to_string(&log).unwrap().contains("listening"));
        capture
    }

    /// Returns a line for each packet so far.
    pub(crate) fn packets(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// Virtual environment in which ElectrumX is installed.
pub(crate) fn lab_venv() -> PathBuf {
    let venv = std::env::var_os("LAB_VENV").map(PathBuf::from);
    venv.unwrap_or_else(|| repository("target/lab-venv"))
}

/// Python of that environment.
pub(crate) fn lab_python() -> PathBuf {
    lab_venv().join("bin/python")
}

pub(crate) fn lab_script(name: &str) -> PathBuf {
    repository("tests/lab").join(name)
}
