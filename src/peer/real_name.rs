//! Server in one line, as in IRC real names and peer lists.
//!
//! Example: `electrum.example.org v1.4.2 p10000 s50002 t50001`.

use std::fmt;

use super::{Host, HostError, Port, Ports, Transport, Version};

/// Description of a server in one line. An unverified report, unless the server itself sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RealName {
    /// Host of the server.
    pub host: Host,
    /// Newest supported protocol version.
    pub version: Option<Version>,
    /// Number of transactions kept for each address; `None` without a limit.
    pub pruning: Option<u32>,
    /// Ports of the server.
    pub ports: Ports,
}

/// Reason why a text is not a real name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RealNameError {
    /// The first word is not a host.
    #[error("the first word is {0}")]
    Host(#[from] HostError),
    /// No token names a port.
    #[error("no port is named: write s50002, t50001 or both after the host")]
    NoPort,
}

impl RealName {
    /// Parses a host and its tokens in any order.
    ///
    /// Unknown tokens are ignored. A bare `s` or `t` stands for the port in `defaults`.
    pub fn parse(text: &str, defaults: Ports) -> Result<RealName, RealNameError> {
        let mut parts = text.split_ascii_whitespace();
        let host = parts.next().unwrap_or_default();
        RealName::from_tokens(host, parts, defaults)
    }

    /// Parses a host and tokens that are already separated, as [`RealName::parse`] does.
    pub fn from_tokens<'a>(
        host: &str,
        tokens: impl Iterator<Item = &'a str>,
        defaults: Ports,
    ) -> Result<RealName, RealNameError> {
        let host = host.parse()?;
        let (mut version, mut pruning, mut tcp, mut tls) = (None, None, None, None);
        for token in tokens {
            // Of several tokens of one kind the last is used, as in ElectrumX.
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

    /// Returns the tokens after the host: `v1.4.2`, `p10000`, `s50002`, `t50001`.
    ///
    /// Port numbers are always included.
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

/// Returns the text if it has digits only; the integers' `FromStr` would accept a sign.
fn parse_unsigned(text: &str) -> Option<&str> {
    text.bytes().all(|b| b.is_ascii_digit()).then_some(text)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::option;
    use proptest::prelude::*;

    use super::super::host::tests::any_host;
    use super::super::ports::tests::any_ports;
    use super::super::version::tests::any_version;
    use super::*;
    use crate::network::Network;

    pub(crate) fn any_real_name() -> impl Strategy<Value = RealName> {
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
        fn arbitrary_text_never_panics(text in "\\PC*") {
            let _ = parse(&text);
        }
    }

    #[test]
    fn unknown_tokens_and_order_are_ignored() {
        let name = parse("erbium1.sytes.net  t x99 p100 v1.0 s51002 héllo -").unwrap();
        assert_eq!(name.to_string(), "erbium1.sytes.net v1.0 p100 s51002 t50001");
    }

    #[test]
    fn invalid_tokens_count_as_absent() {
        assert_eq!(parse("a.example t99999 s0 s-1 t+5 p- p0 vv"), Err(RealNameError::NoPort));
        assert_eq!(parse("a.example"), Err(RealNameError::NoPort));
        assert_eq!(parse(""), Err(RealNameError::Host(HostError::Empty)));
        assert_eq!(parse("s t"), parse("s t50001"));
    }
}
