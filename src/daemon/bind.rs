//! Errors of listeners and of the control socket, with advice.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use rustix::io::Errno;

use super::port_holder::{self, Holder};

/// First port that needs no privilege: default of the sysctl `net.ipv4.ip_unprivileged_port_start`.
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;

/// Configured address that could not be bound.
#[derive(Debug)]
pub struct BindError {
    /// Configuration key of the address, such as `listen.tcp`.
    key: &'static str,
    address: SocketAddr,
    cause: Cause,
}

/// Cause of a failed bind; each has its own advice.
#[derive(Debug)]
enum Cause {
    /// The port is in use; the process is `None` if this user may not see it.
    InUse(Option<Holder>),
    NoPrivilege,
    NotOnThisMachine,
    NoSuchFamily,
    Other(io::Error),
}

impl BindError {
    /// Classifies an I/O error. Looks for the process that holds the port if the port is in use.
    pub(crate) fn new(key: &'static str, address: SocketAddr, error: io::Error) -> BindError {
        let cause = match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::ADDRINUSE) => Cause::InUse(port_holder::find(address)),
            Some(Errno::ACCESS | Errno::PERM) => Cause::NoPrivilege,
            Some(Errno::ADDRNOTAVAIL) => Cause::NotOnThisMachine,
            Some(Errno::AFNOSUPPORT) => Cause::NoSuchFamily,
            _ => Cause::Other(error),
        };
        BindError { key, address, cause }
    }
}

impl std::error::Error for BindError {}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BindError { key, address, cause } = self;
        write!(f, "no listener on {address}: ")?;
        match cause {
            Cause::InUse(Some(holder)) => {
                write!(f, "the port is in use by {holder}; stop that program, or choose another port with {key}")
            }
            Cause::InUse(None) => write!(
                f,
                "the port is in use by another program; `ss -ltnp` as root shows it; stop it, or choose another port with {key}"
            ),
            Cause::NoPrivilege if address.port() < FIRST_UNPRIVILEGED_PORT => write!(
                f,
                "ports below {FIRST_UNPRIVILEGED_PORT} need a privilege that this process lacks; choose a higher port with \
                 {key}, have systemd hand over the socket, or grant CAP_NET_BIND_SERVICE (in a drop-in of the unit: \
                 AmbientCapabilities= and CapabilityBoundingSet=CAP_NET_BIND_SERVICE, PrivateUsers=no; without systemd: \
                 `setcap cap_net_bind_service=+ep` on the program)"
            ),
            Cause::NoPrivilege => {
                write!(f, "permission denied; see the log of SELinux or AppArmor, or choose another port with {key}")
            }
            Cause::NotOnThisMachine => write!(
                f,
                "no network interface of this machine has that address; `ip address` lists its addresses; choose one of \
                 them, or {any}, with {key}; for an address that is added later, set the sysctl net.{family}.ip_nonlocal_bind=1",
                any = if address.is_ipv6() { "[::]" } else { "0.0.0.0" },
                family = if address.is_ipv6() { "ipv6" } else { "ipv4" },
            ),
            Cause::NoSuchFamily => write!(
                f,
                "this machine or its service manager does not support {}; choose another address with {key}",
                if address.is_ipv6() { "IPv6" } else { "IPv4" }
            ),
            Cause::Other(error) => write!(f, "{error}; choose another address with {key}"),
        }
    }
}

/// Advice for a control socket that could not be created.
pub(crate) fn control_advice(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ACCESS | Errno::PERM) => "let this user write to data_dir, or choose another",
        Some(Errno::ROFS) => "the file system is read-only; choose another data_dir",
        Some(Errno::ISDIR | Errno::ADDRINUSE) => "another file has that name; remove it, or choose another data_dir",
        Some(Errno::NAMETOOLONG) => PATH_TOO_LONG,
        // The standard library checks the length before the kernel does.
        None if error.kind() == io::ErrorKind::InvalidInput => PATH_TOO_LONG,
        Some(Errno::NOSPC | Errno::DQUOT) => "free space on the disk, or choose another data_dir",
        _ => "choose a data_dir whose file system can hold Unix sockets",
    }
}

/// Advice for a path that exceeds `sun_path`, which has 108 bytes on Linux.
const PATH_TOO_LONG: &str = "Unix sockets need a path of less than 108 bytes; choose a data_dir with a shorter path";

#[cfg(test)]
mod tests {
    use super::*;

    fn message(address: &str, errno: Errno) -> String {
        BindError::new("listen.tcp", address.parse().unwrap(), errno.into()).to_string()
    }

    #[test]
    fn bind_error_has_advice_for_its_cause() {
        let privileged = message("0.0.0.0:443", Errno::ACCESS);
        assert!(privileged.contains("CAP_NET_BIND_SERVICE") && privileged.contains("higher port"), "{privileged}");
        let forbidden = message("0.0.0.0:50001", Errno::ACCESS);
        assert!(forbidden.contains("SELinux") && !forbidden.contains("CAP_NET_BIND_SERVICE"), "{forbidden}");
        let absent = message("5.9.0.77:50001", Errno::ADDRNOTAVAIL);
        assert!(absent.contains("no network interface") && absent.contains("net.ipv4.ip_nonlocal_bind"));
        assert!(message("[2a01:4f8::1]:1", Errno::ADDRNOTAVAIL).contains("net.ipv6.ip_nonlocal_bind"));
        assert!(message("[::1]:50001", Errno::AFNOSUPPORT).contains("not support IPv6"));
        assert!(message("0.0.0.0:1", Errno::IO).contains("listen.tcp"));
    }

    #[test]
    fn control_socket_error_has_advice_for_its_cause() {
        let long = std::os::unix::net::UnixListener::bind(format!("/tmp/{}", "x".repeat(200))).unwrap_err();
        assert_eq!(control_advice(&long), PATH_TOO_LONG);
        assert!(control_advice(&Errno::ACCESS.into()).contains("let this user write"));
        assert!(control_advice(&Errno::ISDIR.into()).contains("another file"));
    }
}
