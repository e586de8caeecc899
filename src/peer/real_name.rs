//! Server in one line, as in IRC real names and peer lists.
//!
//! Example: `electrum.example.org v1.4.2 p10000 s50002 t50001 wss50004`.

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
    /// The only ports are for the HTTP interface of the first servers, which no present server has.
    #[error("all ports are for HTTP (h, g), which Electrum servers no longer have")]
    OnlyHttp,
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
        // Some published lists have a space after the name.
        let host = host.trim_ascii().parse()?;
        let (mut version, mut pruning, mut tcp, mut tls) = (None, None, None, None);
        let (mut ws, mut wss, mut has_http) = (None, None, false);
        for token in tokens {
            // Of several tokens of one kind the last is used, as in ElectrumX.
            match Token::parse(token, defaults) {
                Some(Token::Version(v)) => version = Some(v),
                Some(Token::Pruning(limit)) => pruning = Some(limit),
                Some(Token::Port(Transport::Tcp, port)) => tcp = Some(port),
                Some(Token::Port(Transport::Tls, port)) => tls = Some(port),
                Some(Token::WebSocket(Transport::Tcp, port)) => ws = Some(port),
                Some(Token::WebSocket(Transport::Tls, port)) => wss = Some(port),
                Some(Token::Http) => has_http = true,
                None => {}
            }
        }
        let without_port = if has_http { RealNameError::OnlyHttp } else { RealNameError::NoPort };
        let ports = Ports::new(tcp, tls).ok_or(without_port)?.with_web_sockets(ws, wss);
        Ok(RealName { host, version, pruning, ports })
    }

    /// Returns the tokens after the host: `v1.4.2`, `p10000`, `s50002`, `t50001`, `wss50004`, `ws50003`.
    ///
    /// Port numbers are always included. Programs that don't know WebSockets ignore the last two.
    pub fn tokens(&self) -> impl Iterator<Item = String> {
        let version = self.version.map(|version| format!("v{version}"));
        let pruning = self.pruning.map(|limit| format!("p{limit}"));
        let tls = self.ports.tls().map(|port| format!("s{port}"));
        let tcp = self.ports.tcp().map(|port| format!("t{port}"));
        let wss = self.ports.wss().map(|port| format!("wss{port}"));
        let ws = self.ports.ws().map(|port| format!("ws{port}"));
        [version, pruning, tls, tcp, wss, ws].into_iter().flatten()
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
    WebSocket(Transport, Port),
    /// Port for HTTP (`h8081`) or HTTPS (`g8082`), which servers had until 2016.
    Http,
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
            'w' => {
                let (transport, number) = match token.strip_prefix("wss") {
                    Some(number) => (Transport::Tls, number),
                    None => (Transport::Tcp, token.strip_prefix("ws")?),
                };
                Some(Token::WebSocket(transport, parse_unsigned(number)?.parse().ok()?))
            }
            'h' | 'g' if parse_unsigned(rest).is_some() => Some(Token::Http),
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
    use crate::chain::Chain;

    pub(crate) fn any_real_name() -> impl Strategy<Value = RealName> {
        (any_host(), option::of(any_version()), option::of(1u32..), any_ports())
            .prop_map(|(host, version, pruning, ports)| RealName { host, version, pruning, ports })
    }

    fn parse(text: &str) -> Result<RealName, RealNameError> {
        RealName::parse(text, Chain::BITCOIN.default_ports)
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
        assert_eq!(parse("a.example s wss ws-1 wss0 w50003").unwrap().to_string(), "a.example s50002");
    }

    #[test]
    fn web_sockets_need_another_port() {
        let name = parse("a.example ws50003 v1.6 wss443 t").unwrap();
        assert_eq!(name.to_string(), "a.example v1.6 t50001 wss443 ws50003");
        assert_eq!(parse("a.example wss443"), Err(RealNameError::NoPort));
    }

    #[test]
    fn ports_for_http_are_ignored_or_the_reason() {
        assert_eq!(parse("a.example v1.0 h80 g443 s t").unwrap().to_string(), "a.example v1.0 s50002 t50001");
        for text in ["a.example h", "a.example v1.0 g443", "a.example h8081 g8082 p100"] {
            assert_eq!(parse(text), Err(RealNameError::OnlyHttp), "{text}");
        }
        assert_eq!(parse("a.example hello"), Err(RealNameError::NoPort));
    }
}
