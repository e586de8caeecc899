//! Process that listens on a port, as found in Linux's /proc.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::peer::foreign_text;

/// Maximum length of a process name, which Linux limits to 15 bytes.
const MAX_NAME_CHARS: usize = 15;

/// State of a listening socket in `/proc/net/tcp` (`TCP_LISTEN` of the kernel).
const LISTEN: &str = "0A";

/// Process that listens on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Command name, at most 15 bytes, without control characters.
    pub name: String,
    /// Process id.
    pub pid: u32,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

/// Finds the process that prevents a bind to this address.
///
/// `None` on systems other than Linux. `None` for processes of other users, unless this process
/// runs as root.
pub(crate) fn find(address: SocketAddr) -> Option<Holder> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let inode = tables.iter().flat_map(|table| table.lines()).find_map(|line| listener(line, address))?;
    let link = format!("socket:[{inode}]");
    let has_socket = |pid: u32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        descriptors.into_iter().any(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == &*link))
    };
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pid = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(|pid| has_socket(*pid))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(Holder { name: foreign_text(&name, MAX_NAME_CHARS), pid })
}

/// Returns the inode of a listening socket in a line of the table, if it conflicts with `address`.
fn listener(line: &str, address: SocketAddr) -> Option<&str> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (ip, port) = fields.next()?.split_once(':')?;
    if u16::from_str_radix(port, 16).ok()? != address.port() || fields.nth(1)? != LISTEN {
        return None;
    }
    let ip = ip_address(ip)?;
    let conflicts = ip.is_unspecified() || address.ip().is_unspecified() || ip.to_canonical() == address.ip();
    // Skips the queues, timer, retransmissions, user and timeout.
    if conflicts { fields.nth(5) } else { None }
}

/// Parses an address as the kernel prints it.
///
/// It consists of 32-bit words in hexadecimal, each in the machine's byte order.
fn ip_address(hex: &str) -> Option<IpAddr> {
    let word = |index: usize| u32::from_str_radix(hex.get(index * 8..index * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    if hex.len() == 8 {
        return Some(Ipv4Addr::from(word(0)?).into());
    }
    let mut bytes = [0; 16];
    for (index, chunk) in bytes.chunks_exact_mut(4).enumerate() {
        chunk.copy_from_slice(&word(index)?);
    }
    Some(Ipv6Addr::from(bytes).into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn listener_of_this_process_is_found() {
        for bound in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(bound) else { continue };
            let port = listener.local_addr().unwrap().port();
            let holder = find(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
            assert_eq!(holder.pid, std::process::id(), "{bound}");
            drop(listener);
            assert_eq!(find(SocketAddr::from(([127, 0, 0, 1], port))), None, "{bound}");
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn socket_without_conflict_is_ignored() {
        let line =
            "   0: 0100007F:C351 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 x";
        let inode = |line, address: &str| listener(line, address.parse().unwrap()).map(str::to_owned);
        assert_eq!(inode(line, "127.0.0.1:50001"), Some("4711".to_owned()));
        assert_eq!(inode(line, "0.0.0.0:50001"), Some("4711".to_owned()));
        assert_eq!(inode(line, "127.0.0.2:50001"), None);
        assert_eq!(inode(line, "127.0.0.1:50002"), None);
        let connected = line.replace(" 0A ", " 01 ");
        assert_eq!(inode(&connected, "127.0.0.1:50001"), None);
        assert_eq!(inode("  sl  local_address rem_address   st", "127.0.0.1:50001"), None);
    }
}
