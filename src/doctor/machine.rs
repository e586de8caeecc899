//! Configuration, files, clock, disk and descriptors of this machine, and the daemon.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::statvfs;
use rustix::process::{Resource, getrlimit};

use super::{Finding, RunningDaemon, Subject};
use crate::clock::Time;
use crate::config::Config;
use crate::daemon::{self, OWN_DESCRIPTORS};
use crate::store::HeldStore;

/// Free bytes below which the store soon can't be written: its largest measured size, 30 MB, with copies of pages.
const MIN_FREE_BYTES: u64 = 100_000_000;

/// Free bytes below which logs and updates soon fill the disk.
const LOW_FREE_BYTES: u64 = 1_000_000_000;

/// Difference between this machine's clock and that of the newest block beyond which one of them is wrong.
///
/// Nodes accept blocks with times up to two hours in the future.
const MAX_BLOCK_AHEAD: Duration = Duration::from_hours(2);

/// Checks everything that needs neither a connection nor a daemon.
pub(super) fn check(config: &Config, now: Time) -> Vec<Finding> {
    let mut findings = configuration(config);
    findings.extend(files(config));
    findings.push(match daemon::check_clock(now) {
        Ok(()) => Finding::ok(Subject::Clock, format!("the clock says {now}")),
        Err(error) => Finding::failure(Subject::Clock, error.to_string(), "set the clock of this machine"),
    });
    findings.extend(disk(&config.data_dir));
    findings.push(descriptors(config));
    findings
}

/// Checks the daemon itself, with the reason if none answers.
pub(super) fn check_daemon(config: &Config, daemon: &Result<RunningDaemon, String>, now: Time) -> Vec<Finding> {
    let status = match daemon {
        Ok(daemon) => &daemon.status,
        Err(reason) => {
            let advice = "start it with `waypost run`, so that the own names can be reached and peers are known";
            let absent = Finding::warning(Subject::Daemon, reason.clone(), advice);
            return store(&config.store_path()).into_iter().chain([absent]).collect();
        }
    };
    let uptime = humantime::format_duration(Duration::from_secs(status.uptime_secs));
    let mut findings = vec![Finding::ok(Subject::Daemon, format!("version {} runs for {uptime}", status.version))];
    if status.version != env!("CARGO_PKG_VERSION") {
        let text = format!("the daemon has version {}, this command {}", status.version, env!("CARGO_PKG_VERSION"));
        findings.push(Finding::warning(Subject::Daemon, text, "restart the daemon to run the installed version"));
    }
    if status.network_down {
        let text = "no peer answers directly, including peers that answered lately";
        findings.push(Finding::failure(Subject::Daemon, text, "check the Internet connection and the firewall"));
    }
    if let Some(reason) = &status.clearnet_blocked {
        findings.push(Finding::failure(Subject::Tor, "clearnet peers can't be reached", reason.clone()));
    }
    if status.store.failing {
        let text = format!("the last write to the store failed; {} records are pending", status.store.pending);
        findings.push(Finding::failure(Subject::Disk, text, "check the free disk space and the permissions"));
    }
    if let Some(tip_time) = status.chain.as_ref().and_then(|chain| chain.tip_time)
        && tip_time.since(now) > MAX_BLOCK_AHEAD
    {
        let text = format!("the newest block is of {tip_time}, more than two hours after this machine's clock");
        findings.push(Finding::failure(Subject::Clock, text, "set the clock of this machine"));
    }
    findings
}

fn configuration(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let files = config.check_files().and_then(|()| config.check_bind());
    findings.push(match files {
        Ok(()) => Finding::ok(Subject::Configuration, format!("valid, for {}", config.book.chain)),
        Err(error) => {
            let advice = "correct it; `waypost check-config` shows the effective values";
            Finding::failure(Subject::Configuration, error.to_string(), advice)
        }
    });
    let warnings = daemon::warnings(config).into_iter();
    findings
        .extend(warnings.map(|text| Finding::warning(Subject::Configuration, text, "correct the key or remove it")));
    findings
}

/// Checks owner and permissions of the data directory.
fn files(config: &Config) -> Vec<Finding> {
    let dir = &config.data_dir;
    let shown = dir.display();
    let metadata = match std::fs::metadata(dir) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let text = format!("the data directory {shown} does not exist yet");
            return vec![Finding::warning(Subject::Files, text, "`waypost run` creates it; check data_dir otherwise")];
        }
        Err(error) => {
            let text = format!("the data directory {shown} can't be read: {error}");
            return vec![Finding::failure(Subject::Files, text, "run this as the daemon's user, or correct data_dir")];
        }
    };
    let mode = metadata.permissions().mode();
    let user = rustix::process::geteuid();
    if metadata.uid() != user.as_raw() && user.is_root() {
        // As with `DynamicUser` of systemd, and root can read everything.
        let text = format!("the data directory {shown} belongs to user {}", metadata.uid());
        return vec![Finding::ok(Subject::Files, text)];
    }
    if metadata.uid() != user.as_raw() {
        let text = format!("the data directory {shown} belongs to user {}, not to this one", metadata.uid());
        return vec![Finding::warning(Subject::Files, text, "run this as the daemon's user to have the files checked")];
    }
    let mut findings = Vec::new();
    if mode & 0o077 != 0 {
        let text = format!("other users may access the data directory {shown}");
        findings.push(Finding::warning(Subject::Files, text, format!("run `chmod 700 {shown}`")));
    }
    if let Err(error) = tempfile::tempfile_in(dir) {
        let text = format!("no file can be created in the data directory {shown}: {error}");
        findings.push(Finding::failure(Subject::Files, text, "check the permissions and the free disk space"));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(Subject::Files, format!("the data directory {shown} is private and writable")));
    }
    findings
}

/// Checks that the store can be opened, while no daemon holds it.
fn store(path: &Path) -> Option<Finding> {
    let metadata = std::fs::metadata(path).ok()?;
    let shown = path.display();
    Some(match HeldStore::open(path) {
        Some(_) => {
            let size = megabytes(metadata.len());
            Finding::ok(Subject::Files, format!("the peer database {shown} can be opened, {size:.1} MB"))
        }
        None => {
            let text = format!("the peer database {shown} can't be opened");
            let advice = "stop the process that uses it; if there is none, `waypost run` moves a damaged file aside";
            Finding::failure(Subject::Files, text, advice)
        }
    })
}

fn disk(dir: &Path) -> Option<Finding> {
    let existing = dir.ancestors().find(|dir| dir.exists())?;
    let stat = statvfs(existing).ok()?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let text = format!("{:.1} GB are free in {}", megabytes(free) / 1000.0, existing.display());
    Some(if free < MIN_FREE_BYTES {
        Finding::failure(Subject::Disk, text, "free some space: the peer database can't be written on a full disk")
    } else if free < LOW_FREE_BYTES {
        Finding::warning(Subject::Disk, text, "free some space: the peer database can't be written on a full disk")
    } else {
        Finding::ok(Subject::Disk, text)
    })
}

/// Compares the limit of open files with the configured number of sessions.
///
/// The daemon has a limit of its own if a service manager starts it, and reports that one in its log.
fn descriptors(config: &Config) -> Finding {
    let sessions = config.limits.sessions;
    let needed = sessions.saturating_add(OWN_DESCRIPTORS);
    let limit = getrlimit(Resource::Nofile).maximum.and_then(|limit| usize::try_from(limit).ok());
    match limit {
        Some(limit) if limit < needed => Finding::warning(
            Subject::Descriptors,
            format!("{limit} files may be open here, which is too few for {sessions} sessions"),
            "raise `ulimit -n`, or LimitNOFILE= of the unit, or lower limits.max_sessions",
        ),
        _ => Finding::ok(Subject::Descriptors, format!("enough for {sessions} sessions")),
    }
}

#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
