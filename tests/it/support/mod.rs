//! Harness of the tests of the whole program: daemons, clients, directories and the lab.

#![allow(dead_code, unused_imports, clippy::print_stderr, reason = "each test uses a part of it, and prints failures")]

mod client;
mod daemon;
mod fake_tor;
mod lab;
mod test_dir;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub(crate) use client::{TestClient, call, connect_from, fetch, fetch_as, hosts, http, own_entry, try_call};
pub(crate) use daemon::{Daemon, binary, waypost};
pub(crate) use fake_tor::start_fake_tor;
pub(crate) use lab::{
    IN_NAMESPACE, Lab, LeakCapture, benchmark_in_namespace, call_onion, call_onion_tls, in_namespace, lab_python,
    lab_script, lab_venv, start_electrumx, test_path,
};
pub(crate) use test_dir::{OFFLINE, TestDir};

/// Process that is killed when this value is dropped.
pub(crate) struct ChildGuard(pub Child);

impl ChildGuard {
    /// Starts a command without standard input.
    pub(crate) fn spawn(command: &mut Command) -> ChildGuard {
        ChildGuard(command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }
}

impl Drop for ChildGuard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a command and expects it to succeed.
pub(crate) fn run(command: &mut Command) {
    let start = now();
    let status = command.stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "{command:?}: {status} after {:?}", start.elapsed());
}

/// Polls a condition every 100 ms, and fails when it does not hold within so many seconds.
pub(crate) fn wait_until(secs: u64, what: &str, mut condition: impl FnMut() -> bool) {
    let start = now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(secs), "not within {secs} s: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[expect(clippy::disallowed_methods, reason = "a test of the whole program waits in real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Returns a loopback address on which nothing listens.
///
/// Its port is below the ephemeral range, so that no parallel test gets it as a source port.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(61).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + u16::try_from(number % 22_000).unwrap();
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return SocketAddr::from(([127, 0, 0, 1], port));
        }
    }
}

/// Path of a file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Permission bits of a file.
pub(crate) fn mode(path: &Path) -> u32 {
    std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions()) & 0o777
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}

/// Path of libfaketime.
pub(crate) fn faketime() -> PathBuf {
    let libraries = std::fs::read_dir("/usr/lib").unwrap();
    let paths = libraries.map(|dir| dir.unwrap().path().join("faketime/libfaketime.so.1"));
    paths.into_iter().find(|path| path.exists()).expect("libfaketime is missing: contrib/test.sh installs it")
}

/// Bytes of a process in memory.
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    memory_bytes(pid, "VmRSS:")
}

/// A field of `/proc/PID/status`, such as `VmRSS:`, in bytes.
pub(crate) fn memory_bytes(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Processor time that a process has used.
pub(crate) fn cpu_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_ascii_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}
