//! Detection of addresses that lead to Waypost itself.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;

use super::{Config, InvalidValue, invalid};
use crate::netgroup::is_public;

use crate::peer::Host;

/// Returns whether a name resolves to loopback on every machine (RFC 6761).
pub(super) fn is_localhost(host: &Host) -> bool {
    matches!(host, Host::Dns(name) if name.as_str() == "localhost" || name.as_str().ends_with(".localhost"))
}

/// Returns whether a connection to this address reaches a listener.
pub fn reaches(ip: IpAddr, port: u16, listener: SocketAddr) -> bool {
    let (ip, own) = (ip.to_canonical(), listener.ip().to_canonical());
    if port != listener.port() || ip.is_ipv4() != own.is_ipv4() {
        return false;
    }
    // A connection to the unspecified address goes to this machine.
    ip == own || (own.is_unspecified() && is_of_this_machine(ip)) || (ip.is_unspecified() && own.is_loopback())
}

/// Returns the addresses of this machine among those of its name, in the same order.
///
/// Private ones are left out unless they may be peers: many hosts files map the name of a machine to loopback.
pub fn local_addresses(addresses: impl IntoIterator<Item = IpAddr>, allows_private: bool) -> Vec<IpAddr> {
    let mut local = Vec::new();
    for ip in addresses.into_iter().map(|ip| ip.to_canonical()) {
        if !local.contains(&ip) && (allows_private || is_public(ip)) && !ip.is_unspecified() && is_of_this_machine(ip) {
            local.push(ip);
        }
    }
    local
}

impl Config {
    /// Checks that this machine has the addresses of `identity.bind`.
    pub fn check_bind(&self) -> Result<(), InvalidValue> {
        for ip in &self.announce_from {
            TcpListener::bind((*ip, 0)).map_err(|error| {
                let reason = format!(
                    "{ip} can't be the source of connections: {error}; `ip address` lists the addresses of this machine; choose \
                     one of them, or remove the key"
                );
                invalid("identity.bind", reason)
            })?;
        }
        Ok(())
    }
}

/// Returns whether both paths name the same socket, after resolution of links.
pub(super) fn is_same_path(one: &Path, other: &Path) -> bool {
    let absolute = |path: &Path| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let real = std::fs::canonicalize(path)
            .or_else(|_| Ok(std::fs::canonicalize(folder)?.join(path.file_name().unwrap_or_default())));
        real.unwrap_or_else(|_: std::io::Error| path.to_owned())
    };
    one == other || absolute(one) == absolute(other)
}

/// Returns whether an address belongs to this machine: programs can bind only to such addresses.
fn is_of_this_machine(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || (!may_bind_any(ip) && TcpListener::bind((ip, 0)).is_ok())
}

/// Returns whether the kernel lets programs bind to foreign addresses (`ip_nonlocal_bind`).
fn may_bind_any(ip: IpAddr) -> bool {
    let family = if ip.is_ipv4() { "ipv4" } else { "ipv6" };
    let setting = std::fs::read_to_string(format!("/proc/sys/net/{family}/ip_nonlocal_bind"));
    setting.is_ok_and(|value| value.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_reaches_listener_on_same_or_unspecified_address() {
        let reaches = |ip: &str, listener: &str| reaches(ip.parse().unwrap(), 50001, listener.parse().unwrap());
        for (ip, listener) in [
            ("127.0.0.1", "127.0.0.1:50001"),
            ("::ffff:127.0.0.1", "127.0.0.1:50001"),
            ("127.8.9.10", "0.0.0.0:50001"),
            ("0.0.0.0", "127.0.0.1:50001"),
            ("0.0.0.0", "0.0.0.0:50001"),
            ("::1", "[::]:50001"),
            ("::", "[::1]:50001"),
            ("192.0.2.7", "192.0.2.7:50001"),
        ] {
            assert!(reaches(ip, listener), "{ip} {listener}");
        }
        for (ip, listener) in [
            ("127.0.0.1", "127.0.0.1:50002"),
            ("127.0.0.2", "127.0.0.1:50001"),
            ("192.0.2.7", "0.0.0.0:50001"),
            ("192.0.2.7", "127.0.0.1:50001"),
            ("::1", "0.0.0.0:50001"),
            ("127.0.0.1", "[::]:50001"),
        ] {
            assert!(!reaches(ip, listener), "{ip} {listener}");
        }
    }

    #[test]
    fn addresses_of_this_machine_are_found_among_those_of_its_name() {
        let local = |texts: &[&str], allows_private| {
            let addresses = texts.iter().map(|text| text.parse().unwrap());
            local_addresses(addresses, allows_private).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let name = ["192.0.2.7", "5.9.0.1", "127.0.1.1", "::ffff:127.0.1.1", "0.0.0.0"];
        assert_eq!(local(&name, true), ["127.0.1.1"]);
        assert_eq!(local(&name, false), [""; 0], "loopback is no address of a public name");
    }

    #[test]
    fn linked_directory_has_the_same_socket() {
        let dir = tempfile::tempdir().unwrap();
        let (data, link) = (dir.path().join("data"), dir.path().join("link"));
        std::fs::create_dir(&data).unwrap();
        std::os::unix::fs::symlink(&data, &link).unwrap();
        assert!(is_same_path(&link.join("control.sock"), &data.join("control.sock")));
        assert!(!is_same_path(&link.join("other.sock"), &data.join("control.sock")));
        assert!(is_same_path(Path::new("/nowhere/control.sock"), Path::new("/nowhere/control.sock")));
    }
}
