//! What the real name of somebody on IRC says of a server, if it says anything.

use crate::peer::{Ports, RealName};

/// Where most servers of IRC cut a real name off (REALLEN), unless they say otherwise (NAMELEN).
pub const DEFAULT_REALNAME_LIMIT: usize = 50;

/// The same, of those that say nothing of it: ngIRCd has 127, and InspIRCd 128.
const KNOWN_REALNAME_LIMITS: [usize; 3] = [DEFAULT_REALNAME_LIMIT, 127, 128];

/// Why a real name tells of no server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectReason {
    /// It is as long as it may be, or ends in half a port: more may have stood there.
    CutOff,
    ControlCodes,
    /// It is none of a server's.
    Unreadable,
}

/// Reads a real name, which `limit` characters may have, if that is known.
pub(crate) fn read(text: &str, limit: Option<usize>, default_ports: Ports) -> Result<RealName, RejectReason> {
    if text.chars().any(|char| char.is_control()) {
        return Err(RejectReason::ControlCodes);
    }
    let name = RealName::parse(text, default_ports).map_err(|_| RejectReason::Unreadable)?;
    let length = text.len();
    let may_be_truncated = limit.map_or(KNOWN_REALNAME_LIMITS.contains(&length), |limit| length >= limit);
    if may_be_truncated || ends_in_partial_port(text) { Err(RejectReason::CutOff) } else { Ok(name) }
}

/// No Electrum server has a port of one or two digits, but `t50001` cut off has.
fn ends_in_partial_port(text: &str) -> bool {
    let last = text.split_ascii_whitespace().last().unwrap_or_default();
    let digits = last.strip_prefix(['s', 't']).unwrap_or_default();
    matches!(digits.len(), 1 | 2) && digits.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Network;

    fn read_default(text: &str) -> Result<String, RejectReason> {
        read(text, None, Network::Bitcoin.default_ports()).map(|name| name.to_string())
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
        assert!(read_default(&of(60)).is_ok(), "no server cuts there");
        let read = |length, limit| read(&of(length), Some(limit), Network::Bitcoin.default_ports());
        assert!(read(50, 127).is_ok());
        assert_eq!(read(30, 30), Err(RejectReason::CutOff));
    }
}
