//! A server in one line, as IRC's real names and the entries of a peers list have it:
//! `electrum.example.org v1.4.2 p10000 s50002 t50001`.

use std::fmt;

use super::{Host, HostError, Port, Ports, Transport, Version};

/// What one line says of a server. An unverified report, unless the server itself said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RealName {
    pub host: Host,
    pub version: Option<Version>,
    /// How many transactions of an address the server tells of; None where it tells of all.
    pub pruning: Option<u32>,
    pub ports: Ports,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RealNameError {
    #[error("it begins with {0}")]
    Host(#[from] HostError),
    #[error("it names no port: write s50002, t50001 or both after the host")]
    NoPort,
}

impl RealName {
    /// A host and its tokens, in any order, unknown ones passed over. A bare `s` or `t` means the network's usual port,
    /// found in `defaults`.
    pub fn parse(text: &str, defaults: Ports) -> Result<RealName, RealNameError> {
        let mut parts = text.split_ascii_whitespace();
        let host = parts.next().unwrap_or_default();
        RealName::from_tokens(host, parts, defaults)
    }

    /// The same, of a text that is in pieces already.
    pub fn from_tokens<'a>(
        host: &str,
        tokens: impl Iterator<Item = &'a str>,
        defaults: Ports,
    ) -> Result<RealName, RealNameError> {
        let host = host.parse()?;
        let (mut version, mut pruning, mut tcp, mut tls) = (None, None, None, None);
        for token in tokens {
            // The last of several wins, as it does with ElectrumX.
            match Token::parse(token, defaults) {
                Some(Token::Version(v)) => version = Some(v),
                Some(Token::Pruning(limit)) => pruning = Some(limit),
                Some(Token::Port(Transport::Tcp, port)) => tcp = Some(port),
                Some(Token::Port(Transport::Tls, port)) => tls = Some(port),
                None => {}
            }
        }
        let ports = Ports::new(tcp, tls).ok_or(RealNameError::NoPort)?;
        Ok(RealName { host, version, pruning, ports })
    }

    /// What follows the host: `v1.4.2`, `p10000`, `s50002`, `t50001`. Numbers are always written.
    pub fn tokens(&self) -> impl Iterator<Item = String> {
        let version = self.version.map(|version| format!("v{version}"));
        let pruning = self.pruning.map(|limit| format!("p{limit}"));
        let tls = self.ports.tls().map(|port| format!("s{port}"));
        let tcp = self.ports.tcp().map(|port| format!("t{port}"));
        [version, pruning, tls, tcp].into_iter().flatten()
    }
}

impl fmt::Display for RealName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.host.fmt(f)?;
        self.tokens().try_for_each(|token| write!(f, " {token}"))
    }
}

enum Token {
    Version(Version),
    Pruning(u32),
    Port(Transport, Port),
}

impl Token {
    fn parse(token: &str, defaults: Ports) -> Option<Token> {
        let mut chars = token.chars();
        let letter = chars.next()?;
        let rest = chars.as_str();
        let port = |default: Option<Port>| if rest.is_empty() { default } else { parse_unsigned(rest)?.parse().ok() };
        match letter {
            'v' => rest.parse().ok().map(Token::Version),
            'p' => parse_unsigned(rest)?.parse().ok().filter(|limit| *limit > 0).map(Token::Pruning),
            's' => port(defaults.tls()).map(|port| Token::Port(Transport::Tls, port)),
            't' => port(defaults.tcp()).map(|port| Token::Port(Transport::Tcp, port)),
            _ => None,
        }
    }
}

/// Rust's own parsers would take a sign as well.
fn parse_unsigned(text: &str) -> Option<&str> {
    text.bytes().all(|b| b.is_ascii_digit()).then_some(text)
}

#[cfg(test)]
pub mod tests {
    use proptest::option;
    use proptest::prelude::*;

    use super::super::host::tests::any_host;
    use super::super::ports::tests::any_ports;
    use super::super::version::tests::any_version;
    use super::*;
    use crate::network::Network;

    pub fn any_real_name() -> impl Strategy<Value = RealName> {
        (any_host(), option::of(any_version()), option::of(1u32..), any_ports())
            .prop_map(|(host, version, pruning, ports)| RealName { host, version, pruning, ports })
    }

    fn parse(text: &str) -> Result<RealName, RealNameError> {
        RealName::parse(text, Network::Bitcoin.default_ports())
    }

    proptest! {
        #[test]
        fn parse_undoes_print(name in any_real_name()) {
            prop_assert_eq!(parse(&name.to_string()), Ok(name));
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC*") {
            let _ = parse(&text);
        }
    }

    #[test]
    fn order_and_unknown_words_do_not_matter() {
        let name = parse("erbium1.sytes.net  t x99 p100 v1.0 s51002 héllo -").unwrap();
        assert_eq!(name.to_string(), "erbium1.sytes.net v1.0 p100 s51002 t50001");
    }

    #[test]
    fn broken_tokens_count_as_absent() {
        assert_eq!(parse("a.example t99999 s0 s-1 t+5 p- p0 vv"), Err(RealNameError::NoPort));
        assert_eq!(parse("a.example"), Err(RealNameError::NoPort));
        assert_eq!(parse(""), Err(RealNameError::Host(HostError::Empty)));
        assert_eq!(parse("s t"), parse("s t50001"));
    }
}
