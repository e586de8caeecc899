//! One pattern of a ban list, and the text format with a pattern on each line.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;

use crate::peer::{DnsName, Host, HostError};

/// One pattern of a ban list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// One host name.
    Host(Host),
    /// Domain with all names below it.
    Domain(DnsName),
    /// Range of addresses; a single address is a range of one.
    Net(IpNet),
}

/// Removes a pattern from the text of a ban list; `None` if the pattern is absent.
pub fn remove_pattern(text: &str, pattern: &Pattern) -> Option<String> {
    let matches = |line: &&str| strip_comment(line).parse().as_ref() == Ok(pattern);
    let kept: String = text.lines().filter(|line| !matches(line)).flat_map(|line| [line, "\n"]).collect();
    (kept.lines().count() < text.lines().count()).then_some(kept)
}

/// Returns a line of the text format without its comment.
pub(super) fn strip_comment(line: &str) -> &str {
    line.split('#').next().unwrap_or_default().trim()
}

impl FromStr for Pattern {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Pattern, HostError> {
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(Pattern::Net(net.trunc()));
        }
        if let Some(domain) = text.strip_prefix("*.") {
            return match domain.parse()? {
                Host::Dns(domain) => Ok(Pattern::Domain(domain)),
                Host::Onion(_) | Host::Ip(_) => Err(HostError::Malformed),
            };
        }
        Ok(text.parse::<Host>()?.into())
    }
}

/// Matches the host alone.
impl From<Host> for Pattern {
    fn from(host: Host) -> Pattern {
        match host {
            Host::Ip(ip) => Pattern::Net(ip.into()),
            host => Pattern::Host(host),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Host(host) => host.fmt(f),
            Pattern::Domain(domain) => write!(f, "*.{}", domain.as_str()),
            Pattern::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Pattern::Net(net) => net.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_pattern_is_removed_and_comments_stay() {
        let list = "# spies\nspy.example.com  # seen in June\n198.51.100.9/24\n*.evil.example\n";
        let rest = remove_pattern(list, &"198.51.100.0/24".parse().unwrap()).unwrap();
        assert_eq!(rest, "# spies\nspy.example.com  # seen in June\n*.evil.example\n");
        assert_eq!(remove_pattern(list, &"a.example".parse().unwrap()), None);
    }

    #[test]
    fn printed_pattern_has_the_form_of_the_file() {
        for text in ["spy.example.com", "*.evil.example", "192.0.2.7", "2001:db8::/32"] {
            assert_eq!(text.parse::<Pattern>().unwrap().to_string(), text);
        }
    }
}
