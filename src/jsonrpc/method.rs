//! Methods that Waypost serves, with parameters by position or by name.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::params::{AddPeerParams, PingParams, VersionParam, VersionParams, expect_params, parse_params};
use super::{MIN_PROTOCOL, Request, RpcError};
use crate::peer::{Features, LenientScalar, Version};

/// Longest `data` in the response to `server.ping`, in bytes.
///
/// The padded response is within the burst that a source may receive, even with the lowest
/// `bytes_out_per_second`. ElectrumX allows its longest response, 8,100,000 bytes by default.
const MAX_PONG_BYTES: u32 = 1_000_000;

/// Oldest version that clients ask for. Electrum asked for 0.9 and 0.10 before 1.1, and never for 1.0.
const OLDEST_CLIENT: Version = Version::new(0, 9);

/// Request with parsed parameters.
#[derive(Debug, PartialEq, Eq)]
pub enum Call {
    /// `server.version`, with the versions of the client.
    Version(VersionRange),
    /// `server.features`.
    Features,
    /// `server.peers.subscribe`.
    Peers,
    /// `server.add_peer`, with the features of the peer.
    AddPeer(Box<Features>),
    /// `server.ping`, with the requested length of `data` in bytes.
    ///
    /// Protocol 1.7 defines the length. Before, any parameters are ignored, so an invalid length is an error only there.
    Ping(Result<u32, RpcError>),
    /// `server.banner`.
    Banner,
    /// `server.donation_address`.
    DonationAddress,
}

/// Method of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Method {
    /// `server.version`.
    #[serde(rename = "server.version")]
    Version,
    /// `server.features`.
    #[serde(rename = "server.features")]
    Features,
    /// `server.peers.subscribe`.
    #[serde(rename = "server.peers.subscribe")]
    Peers,
    /// `server.add_peer`.
    #[serde(rename = "server.add_peer")]
    AddPeer,
    /// `server.ping`.
    #[serde(rename = "server.ping")]
    Ping,
    /// `server.banner`.
    #[serde(rename = "server.banner")]
    Banner,
    /// `server.donation_address`.
    #[serde(rename = "server.donation_address")]
    DonationAddress,
    /// Any other method.
    #[serde(rename = "other")]
    Other,
}

/// Range of protocol versions that a client speaks.
#[derive(Debug, PartialEq, Eq)]
pub struct VersionRange {
    min: Version,
    max: Version,
    /// `max` as the client sent it, unless it is served like another version.
    as_requested: String,
}

impl Call {
    /// Parses the parameters of a request.
    ///
    /// Further parameters are ignored, by position and by name. Protocol 1.6 requires it, so that later versions can
    /// add parameters. Older versions leave it open.
    ///
    /// # Errors
    /// Returns `UnknownMethod` or `InvalidParams`.
    pub fn parse(request: &Request<'_>) -> Result<Call, RpcError> {
        let params = request.params;
        match Method::from_name(&request.method) {
            Method::Version => version(params).map(Call::Version),
            Method::Features => expect_params(params).map(|()| Call::Features),
            Method::Peers => expect_params(params).map(|()| Call::Peers),
            Method::AddPeer => add_peer(params).map(|features| Call::AddPeer(Box::new(features))),
            // As a notification it has other parameters, and no response.
            Method::Ping if request.is_notification() => Ok(Call::Ping(Ok(0))),
            Method::Ping => Ok(Call::Ping(pong_length(params))),
            Method::Banner => expect_params(params).map(|()| Call::Banner),
            Method::DonationAddress => expect_params(params).map(|()| Call::DonationAddress),
            Method::Other => Err(RpcError::UnknownMethod),
        }
    }
}

impl Method {
    /// All methods, in the order of their discriminants.
    pub const ALL: [Method; 8] = [
        Method::Version,
        Method::Features,
        Method::Peers,
        Method::AddPeer,
        Method::Ping,
        Method::Banner,
        Method::DonationAddress,
        Method::Other,
    ];

    /// Returns the method with this name, or `Other`.
    pub fn from_name(name: &str) -> Method {
        Method::ALL.into_iter().find(|method| method.name() == name).unwrap_or(Method::Other)
    }

    /// Returns the name in requests, or `other`.
    pub const fn name(self) -> &'static str {
        match self {
            Method::Version => "server.version",
            Method::Features => "server.features",
            Method::Peers => "server.peers.subscribe",
            Method::AddPeer => "server.add_peer",
            Method::Ping => "server.ping",
            Method::Banner => "server.banner",
            Method::DonationAddress => "server.donation_address",
            Method::Other => "other",
        }
    }
}

impl VersionRange {
    /// Returns the newest version of both ranges, and its text for the response.
    ///
    /// The text is the client's own where possible: Electrum 4.3 closes the connection if it
    /// requests 1.4 and gets 1.4.2.
    ///
    /// # Errors
    /// Returns `UnsupportedVersion` if the ranges have no version in common.
    pub fn negotiate(&self, (oldest, newest): (Version, Version)) -> Result<(Version, Cow<'_, str>), RpcError> {
        let supported = |version: &Version| version.cmp_semver(&oldest).is_ge() && version.cmp_semver(&newest).is_le();
        if supported(&self.max) && self.min.cmp_semver(&self.max).is_le() {
            Ok((self.max, Cow::Borrowed(&self.as_requested)))
        } else if supported(&newest) && self.min.cmp_semver(&newest).is_le() && self.max.cmp_semver(&newest).is_gt() {
            Ok((newest, Cow::Owned(newest.to_string())))
        } else {
            Err(RpcError::UnsupportedVersion { oldest, newest })
        }
    }
}

fn version(params: Option<&RawValue>) -> Result<VersionRange, RpcError> {
    const EXPECTED: &str = "expected a client name and a protocol version, or a pair of them";
    let params: VersionParams = match params {
        Some(params) => parse_params(params, EXPECTED)?,
        None => VersionParams::default(),
    };
    let (min, max) = match params.protocol_version {
        VersionParam::One(version) => (version.clone(), version),
        VersionParam::Range(min, max) => (min, max),
    };
    let parse = |text: &str| text.parse::<Version>().map_err(|_| RpcError::InvalidParams(EXPECTED));
    let (min, requested) = (served_version(parse(&min)?), parse(&max)?);
    let served = served_version(requested);
    let as_requested = if served == requested { max } else { served.to_string() };
    Ok(VersionRange { min, max: served, as_requested })
}

/// Returns the version that a request is served with. Clients before 1.0 get the responses of that version.
fn served_version(version: Version) -> Version {
    let is_before = version.cmp_semver(&OLDEST_CLIENT).is_ge() && version.cmp_semver(&MIN_PROTOCOL).is_lt();
    if is_before { MIN_PROTOCOL } else { version }
}

fn add_peer(params: Option<&RawValue>) -> Result<Features, RpcError> {
    const EXPECTED: &str = "expected an object of features";
    let params: AddPeerParams = parse_params(params.ok_or(RpcError::InvalidParams(EXPECTED))?, EXPECTED)?;
    Ok(params.features)
}

/// Parses the length of `data` that a ping requests. Its own `data` is only padding.
fn pong_length(params: Option<&RawValue>) -> Result<u32, RpcError> {
    const EXPECTED: &str = "expected a pong_len from 0 to 1000000";
    let Some(params) = params else { return Ok(0) };
    let PingParams { pong_len } = parse_params(params, EXPECTED)?;
    let length = if pong_len == LenientScalar::Null { Some(0) } else { pong_len.number() };
    length.filter(|length| *length <= MAX_PONG_BYTES).ok_or(RpcError::InvalidParams(EXPECTED))
}

#[cfg(test)]
mod tests {
    use super::super::{MAX_PROTOCOL, Message, parse_line};
    use super::*;

    fn call(method: &str, params: &str) -> Result<Call, RpcError> {
        let line = format!(r#"{{"id":1,"method":"{method}","params":{params}}}"#);
        match parse_line(&line) {
            Ok(Message::Single(Ok(request))) => Call::parse(&request),
            other => panic!("{other:?}"),
        }
    }

    fn negotiated(params: &str) -> Result<String, RpcError> {
        match call("server.version", params)? {
            Call::Version(range) => {
                range.negotiate((MIN_PROTOCOL, MAX_PROTOCOL)).map(|(_, as_requested)| as_requested.into_owned())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn negotiated_version_keeps_requested_spelling() {
        assert_eq!(negotiated(r#"["electrum/4.3.4","1.4"]"#).unwrap(), "1.4");
        assert_eq!(negotiated(r#"["x",["1.2","1.4.2"]]"#).unwrap(), "1.4.2");
        assert_eq!(negotiated(r#"["x",["1.4","1.7.0"]]"#).unwrap(), "1.7.0");
        assert_eq!(negotiated(r#"["x",["1.4","1.8"]]"#).unwrap(), "1.7");
        assert_eq!(negotiated(r#"["x",["1.4","1.6.0"]]"#).unwrap(), "1.6.0");
        assert_eq!(negotiated(r#"{"protocol_version":"1.0","client_name":"x"}"#).unwrap(), "1.0");
        assert_eq!(negotiated("[]").unwrap(), "1.4");
        assert_eq!(negotiated("{}").unwrap(), "1.4");
        assert_eq!(negotiated(r#"[null]"#).unwrap(), "1.4");
        assert_eq!(negotiated(r#"[null,null]"#).unwrap(), "1.4");
        assert_eq!(negotiated(r#"["x",[null,null]]"#).unwrap(), "1.4");
        assert_eq!(negotiated(r#"["x",[null,"1.5"]]"#).unwrap(), "1.5");
        assert_eq!(negotiated(r#"["x",["1.6",null]]"#).unwrap(), "1.6");
    }

    #[test]
    fn versions_before_1_0_are_served_like_1_0() {
        for (version, as_requested) in [("0.9", "1.0"), ("0.10", "1.0"), ("1.0", "1.0"), ("1", "1")] {
            let Ok(Call::Version(range)) = call("server.version", &format!(r#"["2.6.4","{version}"]"#)) else {
                panic!("{version}");
            };
            let (served, text) = range.negotiate((MIN_PROTOCOL, MAX_PROTOCOL)).unwrap();
            assert_eq!((served.cmp_semver(&MIN_PROTOCOL), text.as_ref()), (std::cmp::Ordering::Equal, as_requested));
            assert!(range.negotiate((Version::new(1, 4), MAX_PROTOCOL)).is_err(), "in front of a newer server");
        }
        assert_eq!(negotiated(r#"["x",["0.10","1.4"]]"#).unwrap(), "1.4");
    }

    #[test]
    fn disjoint_ranges_are_refused() {
        for params in [r#"["x","0.8"]"#, r#"["x","1.8"]"#, r#"["x",["1.8","2.0"]]"#, r#"["x",["1.6","1.4"]]"#] {
            assert!(matches!(negotiated(params), Err(RpcError::UnsupportedVersion { .. })), "{params}");
        }
        for params in
            [r#"["x",[]]"#, r#"["x",["1.4"]]"#, r#"["x",1.4]"#, r#"["x","one"]"#, "7", r#"["x",["1","2","3"]]"#]
        {
            assert!(matches!(negotiated(params), Err(RpcError::InvalidParams(_))), "{params}");
        }
    }

    #[test]
    fn parameters_parse_by_position_and_name() {
        let features = r#"{"hosts":{"a.example":{"tcp_port":1}}}"#;
        let by_name = call("server.add_peer", &format!(r#"{{"features":{features}}}"#));
        assert_eq!(by_name, call("server.add_peer", &format!("[{features}]")));
        assert!(matches!(by_name, Ok(Call::AddPeer(_))));
        for params in ["[]", "{}", "[1]", r#"["x"]"#, r#"[{"hosts":[]}]"#, "null"] {
            assert!(matches!(call("server.add_peer", params), Err(RpcError::InvalidParams(_))), "{params}");
        }
    }

    #[test]
    fn further_parameters_are_ignored() {
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        for extra in ["1", "null", r#"{"a":[{}]}"#, &deep, &format!("\"{}\"", "x".repeat(8000))] {
            for method in ["server.features", "server.peers.subscribe", "server.banner", "server.donation_address"] {
                let expected = call(method, "[]").unwrap();
                assert_eq!(call(method, &format!("[{extra}]")).as_ref(), Ok(&expected));
                assert_eq!(call(method, &format!(r#"{{"new":{extra}}}"#)), Ok(expected));
            }
            assert_eq!(negotiated(&format!(r#"["x",["1.4","1.6"],{extra},{extra}]"#)).unwrap(), "1.6");
            assert_eq!(negotiated(&format!(r#"{{"new":{extra},"protocol_version":"1.6"}}"#)).unwrap(), "1.6");
            assert_eq!(call("server.add_peer", &format!("[{{}},{extra}]")), call("server.add_peer", "[{}]"));
            assert_eq!(call("server.ping", &format!(r#"[3,"00",{extra}]"#)), Ok(Call::Ping(Ok(3))));
        }
        for method in ["server.banner", "server.version"] {
            assert!(matches!(call(method, "12"), Err(RpcError::InvalidParams(_))));
            assert!(matches!(call(method, r#""[]""#), Err(RpcError::InvalidParams(_))));
        }
        assert_eq!(call("server.banner", "[ ]"), Ok(Call::Banner));
        assert_eq!(call("blockchain.headers.subscribe", "[]"), Err(RpcError::UnknownMethod));
    }

    #[test]
    fn ping_requests_a_bounded_length() {
        for (params, length) in [
            ("[]", 0),
            ("{}", 0),
            ("[null]", 0),
            ("[7]", 7),
            (r#"["7","ab"]"#, 7),
            (r#"{"data":"ab","pong_len":1000000}"#, 1_000_000),
        ] {
            assert_eq!(call("server.ping", params), Ok(Call::Ping(Ok(length))), "{params}");
        }
        for params in ["[1000001]", "[-1]", "[1.5]", "[[1]]", r#"["x"]"#, "[1e3]", "7", "[18446744073709551615]"] {
            let ping = call("server.ping", params);
            assert!(matches!(ping, Ok(Call::Ping(Err(RpcError::InvalidParams(_))))), "{params}: {ping:?}");
        }
    }
}
