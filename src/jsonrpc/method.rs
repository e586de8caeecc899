//! Methods that Waypost serves, with parameters by position or by name.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Request, RpcError};
use crate::peer::{Features, LenientScalar, Version};

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
    /// `server.ping`.
    Ping,
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
    /// `max` exactly as the client sent it.
    as_requested: String,
}

impl Call {
    /// Parses the parameters of a request.
    ///
    /// # Errors
    /// Returns `UnknownMethod` or `InvalidParams`.
    pub fn parse(request: &Request<'_>) -> Result<Call, RpcError> {
        let params = request.params;
        match Method::from_name(&request.method) {
            Method::Version => version(params).map(Call::Version),
            Method::Features => expect_no_params(params, Call::Features),
            Method::Peers => expect_no_params(params, Call::Peers),
            Method::AddPeer => add_peer(params).map(|features| Call::AddPeer(Box::new(features))),
            // Later protocol versions define parameters for padding. The response is null in any
            // case.
            Method::Ping => Ok(Call::Ping),
            Method::Banner => expect_no_params(params, Call::Banner),
            Method::DonationAddress => expect_no_params(params, Call::DonationAddress),
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

#[derive(Default, Deserialize)]
#[serde(default)]
struct VersionParams {
    #[allow(dead_code, reason = "positional parameters need it, with any value")]
    client_name: LenientScalar,
    protocol_version: VersionParam,
}

/// One version, or the bounds of a range.
#[derive(Deserialize)]
#[serde(untagged)]
enum VersionParam {
    One(String),
    Range(String, String),
}

impl Default for VersionParam {
    /// Returns the version that the protocol defines for clients that send none.
    fn default() -> VersionParam {
        VersionParam::One("1.4".to_owned())
    }
}

#[derive(Deserialize)]
struct AddPeerParams {
    features: Features,
}

fn version(params: Option<&RawValue>) -> Result<VersionRange, RpcError> {
    const EXPECTED: &str = "expected a client name and a protocol version, or a pair of them";
    // More than any name and two versions need. Serde buffers the value of an untagged enum in
    // memory.
    if params.is_some_and(|params| params.get().len() > 1024) {
        return Err(RpcError::InvalidParams(EXPECTED));
    }
    let params: VersionParams = match params {
        Some(params) => parse_params(params, EXPECTED)?,
        None => VersionParams::default(),
    };
    let (min, max) = match params.protocol_version {
        VersionParam::One(version) => (version.clone(), version),
        VersionParam::Range(min, max) => (min, max),
    };
    let parse = |text: &str| text.parse::<Version>().map_err(|_| RpcError::InvalidParams(EXPECTED));
    Ok(VersionRange { min: parse(&min)?, max: parse(&max)?, as_requested: max })
}

fn add_peer(params: Option<&RawValue>) -> Result<Features, RpcError> {
    const EXPECTED: &str = "expected an object of features";
    let params: AddPeerParams = parse_params(params.ok_or(RpcError::InvalidParams(EXPECTED))?, EXPECTED)?;
    Ok(params.features)
}

/// Returns the call if the parameters are absent or empty.
fn expect_no_params(params: Option<&RawValue>, call: Call) -> Result<Call, RpcError> {
    let params = params.map_or("[]", RawValue::get);
    let within = |open, close| params.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
    match within('[', ']').or_else(|| within('{', '}')) {
        Some(content) if content.trim_ascii().is_empty() => Ok(call),
        _ => Err(RpcError::InvalidParams("expected none")),
    }
}

/// Deserializes parameters by position or by name.
///
/// Serde reads a struct from an array by the order of its fields, and from an object by their
/// names.
fn parse_params<P: DeserializeOwned>(params: &RawValue, reason: &'static str) -> Result<P, RpcError> {
    serde_json::from_str(params.get()).map_err(|_| RpcError::InvalidParams(reason))
}

#[cfg(test)]
mod tests {
    use super::super::{MAX_PROTOCOL, MIN_PROTOCOL, Message, parse_line};
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
        assert_eq!(negotiated(r#"["x",["1.4","1.7.0"]]"#).unwrap(), "1.6");
        assert_eq!(negotiated(r#"["x",["1.4","1.6.0"]]"#).unwrap(), "1.6.0");
        assert_eq!(negotiated(r#"{"protocol_version":"1.0","client_name":"x"}"#).unwrap(), "1.0");
        assert_eq!(negotiated("[]").unwrap(), "1.4");
        assert_eq!(negotiated("{}").unwrap(), "1.4");
        assert_eq!(negotiated(r#"[null]"#).unwrap(), "1.4");
    }

    #[test]
    fn disjoint_ranges_are_refused() {
        for params in [r#"["x","0.9"]"#, r#"["x","1.7"]"#, r#"["x",["1.7","2.0"]]"#, r#"["x",["1.6","1.4"]]"#] {
            assert!(matches!(negotiated(params), Err(RpcError::UnsupportedVersion { .. })), "{params}");
        }
        for params in [r#"["x",[]]"#, r#"["x",["1.4"]]"#, r#"["x",1.4]"#, r#"["x","one"]"#, "7", r#"["x","1.4","z"]"#] {
            assert!(matches!(negotiated(params), Err(RpcError::InvalidParams(_))), "{params}");
        }
    }

    #[test]
    fn parameters_parse_by_position_and_name() {
        let features = r#"{"hosts":{"a.example":{"tcp_port":1}}}"#;
        let by_name = call("server.add_peer", &format!(r#"{{"features":{features}}}"#));
        assert_eq!(by_name, call("server.add_peer", &format!("[{features}]")));
        assert!(matches!(by_name, Ok(Call::AddPeer(_))));
        for params in ["[]", "{}", "[1]", r#"["x"]"#, r#"[{"hosts":[]}]"#, r#"[{},{}]"#, "null"] {
            assert!(matches!(call("server.add_peer", params), Err(RpcError::InvalidParams(_))), "{params}");
        }
    }

    #[test]
    fn parameterless_methods_refuse_parameters() {
        assert_eq!(call("server.banner", "[ ]"), Ok(Call::Banner));
        assert!(matches!(call("server.banner", "[1]"), Err(RpcError::InvalidParams(_))));
        assert!(matches!(call("server.banner", "12"), Err(RpcError::InvalidParams(_))));
        assert_eq!(call("blockchain.headers.subscribe", "[]"), Err(RpcError::UnknownMethod));
    }
}
