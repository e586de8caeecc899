//! Server addresses in the real names of IRC users.

use crate::peer::{Ports, RealName};

/// Usual maximum length of a real name in bytes (REALLEN), unless the server says NAMELEN.
pub const DEFAULT_REALNAME_LIMIT: usize = 50;

/// Usual limits of servers that do not report one: ngIRCd has 127, and InspIRCd 128.
const KNOWN_REALNAME_LIMITS: [usize; 3] = [DEFAULT_REALNAME_LIMIT, 127, 128];

/// Why a real name is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectReason {
    /// It may be truncated: it has the maximum length, or ends in a partial port.
    CutOff,
    /// It contains control characters.
    ControlCodes,
    /// It is not a server's address.
    Unreadable,
}

/// Parses a real name. `limit`: its maximum length in bytes, if the server reports one.
pub(crate) fn read(text: &str, limit: Option<usize>, default_ports: Ports) -> Result<RealName, RejectReason> {
    if text.chars().any(|char| char.is_control()) {
        return Err(RejectReason::ControlCodes);
    }
    let name = RealName::parse(text, default_ports).map_err(|_| RejectReason::Unreadable)?;
    let length = text.len();
    let may_be_truncated = limit.map_or(KNOWN_REALNAME_LIMITS.contains(&length), |limit| length >= limit);
    if may_be_truncated || ends_in_partial_port(text) { Err(RejectReason::CutOff) } else { Ok(name) }
}

/// Whether the last port has one or two digits, like `t50001` cut off. No server has such a port.
fn ends_in_partial_port(text: &str) -> bool {
    let last = text.split_ascii_whitespace().last().unwrap_or_default();
    let digits = last.strip_prefix(['s', 't']).unwrap_or_default();
    matches!(digits.len(), 1 | 2) && digits.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::Chain;

    fn read_default(text: &str) -> Result<String, RejectReason> {
        read(text, None, Chain::BITCOIN.default_ports).map(|name| name.to_string())
    }

    #[test]
    fn server_real_name_is_parsed() {
        assert_eq!(read_default("a.example v1.4 s t"), Ok("a.example v1.4 s50002 t50001".to_owned()));
        assert_eq!(read_default("5.9.0.1 v1.0 p100 t443"), Ok("5.9.0.1 v1.0 p100 t443".to_owned()));
    }

    #[test]
    fn other_real_name_is_rejected() {
        for (text, reason) in [
            ("", RejectReason::Unreadable),
            ("John Smith", RejectReason::Unreadable),
            ("Satoshi", RejectReason::Unreadable),
            ("a.example v1.4", RejectReason::Unreadable),
            ("a.example \u{3}4v1.4 t", RejectReason::ControlCodes),
            ("a.example\tt", RejectReason::ControlCodes),
            ("a.example t50001\u{1}", RejectReason::ControlCodes),
            ("a.example v1.4 s50002 t5", RejectReason::CutOff),
        ] {
            assert_eq!(read_default(text), Err(reason), "{text:?}");
        }
    }

    #[test]
    fn possibly_truncated_real_name_is_rejected() {
        let of = |length: usize| format!("{}.example t50001", "a".repeat(length - 15));
        assert_eq!(of(50).len(), 50);
        assert_eq!(read_default(&of(50)), Err(RejectReason::CutOff));
        assert!(read_default(&of(49)).is_ok());
        assert!(read_default(&of(60)).is_ok(), "no known limit");
        let read = |length, limit| read(&of(length), Some(limit), Chain::BITCOIN.default_ports);
        assert!(read(50, 127).is_ok());
        assert_eq!(read(30, 30), Err(RejectReason::CutOff));
    }
}
