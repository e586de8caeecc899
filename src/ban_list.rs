//! Ban list: one host, `*.domain`, address or range of addresses on each line.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::netgroup;
use crate::peer::{DnsName, Host, HostError};

/// One line of a ban list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// One host name.
    Host(Host),
    /// Domain with all names below it.
    Domain(DnsName),
    /// Range of addresses; a single address is a range of one.
    Net(IpNet),
}

/// Invalid line of a ban list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {text:?} is no host, *.domain, address or range of addresses like 192.0.2.0/24: {error}")]
pub struct BanError {
    /// Line number, starting at 1.
    pub line: usize,
    /// Content of the line without its comment.
    pub text: String,
    /// Reason why the line is not a host.
    pub error: HostError,
}

/// Patterns of a ban list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bans {
    hosts: HashSet<Host>,
    domains: HashSet<DnsName>,
    nets: Vec<IpNet>,
}

impl Bans {
    /// Parses a ban list. `#` starts a comment.
    pub fn parse(text: &str) -> Result<Bans, BanError> {
        let mut bans = Bans::default();
        for (line_index, line) in text.lines().enumerate() {
            let line = strip_comment(line);
            if line.is_empty() {
                continue;
            }
            match line.parse() {
                Ok(pattern) => bans.add(pattern),
                Err(error) => return Err(BanError { line: line_index + 1, text: line.to_owned(), error }),
            }
        }
        Ok(bans)
    }

    /// Returns the number of patterns.
    pub fn len(&self) -> usize {
        self.hosts.len() + self.domains.len() + self.nets.len()
    }

    /// Returns whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether a host is banned, by name or as an address.
    pub fn bans_host(&self, host: &Host) -> bool {
        let is_in_banned_domain =
            |name: &DnsName| !self.domains.is_empty() && name.ancestors().any(|d| self.domains.contains(&d));
        match host {
            Host::Ip(ip) => self.bans_ip(*ip),
            Host::Dns(name) => self.hosts.contains(host) || is_in_banned_domain(name),
            Host::Onion(_) => self.hosts.contains(host),
        }
    }

    /// Returns whether an address is banned.
    pub fn bans_ip(&self, ip: IpAddr) -> bool {
        // The list may name a NAT64 range or the IPv4 range that it wraps.
        let forms = [ip.to_canonical(), netgroup::canonical(ip)];
        self.nets.iter().any(|net| forms.iter().any(|ip| net.contains(ip)))
    }

    fn add(&mut self, pattern: Pattern) {
        match pattern {
            Pattern::Host(host) => drop(self.hosts.insert(host)),
            Pattern::Domain(domain) => drop(self.domains.insert(domain)),
            Pattern::Net(net) => self.nets.push(net),
        }
    }
}

/// Removes a pattern from the text of a ban list; `None` if the pattern is absent.
pub fn remove_pattern(text: &str, pattern: &Pattern) -> Option<String> {
    let matches = |line: &&str| strip_comment(line).parse().as_ref() == Ok(pattern);
    let kept: String = text.lines().filter(|line| !matches(line)).flat_map(|line| [line, "\n"]).collect();
    (kept.lines().count() < text.lines().count()).then_some(kept)
}

fn strip_comment(line: &str) -> &str {
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
        Ok(match text.parse()? {
            Host::Ip(ip) => Pattern::Net(ip.into()),
            host => Pattern::Host(host),
        })
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

    const FILE: &str = "# spies\nspy.example.com  # seen in June\n*.evil.example\n192.0.2.7\n198.51.100.9/24\n\n\
         2001:db8::/32\nexplorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion\n";

    #[test]
    fn every_kind_of_pattern_bans() {
        let bans = Bans::parse(FILE).unwrap();
        assert_eq!(bans.len(), 6);
        let banned = |host: &str| bans.bans_host(&host.parse().unwrap());
        for host in [
            "SPY.example.com.",
            "evil.example",
            "a.b.evil.example",
            "192.0.2.7",
            "::ffff:192.0.2.7",
            "198.51.100.200",
            "2001:db8:1::1",
            "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion",
        ] {
            assert!(banned(host), "{host}");
        }
        for host in ["example.com", "a.spy.example.com", "notevil.example", "192.0.2.8", "2001:db9::1"] {
            assert!(!banned(host), "{host}");
        }
    }

    #[test]
    fn invalid_line_is_reported_with_its_number() {
        let error = Bans::parse("a.example\n*.onion!\n").unwrap_err();
        assert_eq!((error.line, error.text.as_str()), (2, "*.onion!"));
        for line in ["192.0.2.0/33", "*.192.0.2.1", "a b", "*", "1.2.3"] {
            assert!(Bans::parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn equal_pattern_is_removed_and_comments_stay() {
        let rest = remove_pattern(FILE, &"198.51.100.0/24".parse().unwrap()).unwrap();
        assert_eq!(Bans::parse(&rest).unwrap().len(), 5);
        assert!(rest.contains("# seen in June"));
        assert_eq!(remove_pattern(FILE, &"a.example".parse().unwrap()), None);
        for text in ["spy.example.com", "*.evil.example", "192.0.2.7", "2001:db8::/32"] {
            assert_eq!(text.parse::<Pattern>().unwrap().to_string(), text);
        }
    }
}
