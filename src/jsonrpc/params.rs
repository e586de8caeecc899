//! Parameters by position or by name, of which only the known ones are read.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, DeserializeOwned, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::RpcError;
use crate::peer::{Features, LenientScalar};

/// Longest protocol version in bytes. Longer text could be kept for each session.
const MAX_VERSION_BYTES: usize = 32;

/// Parameters of `server.version`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct VersionParams {
    #[allow(dead_code, reason = "positional parameters need it, with any value")]
    client_name: LenientScalar,
    pub(super) protocol_version: VersionParam,
}

/// One version, or the bounds of a range.
pub(super) enum VersionParam {
    One(String),
    Range(String, String),
}

/// Parameters of `server.add_peer`.
#[derive(Deserialize)]
pub(super) struct AddPeerParams {
    pub(super) features: Features,
}

/// Parameters of `server.ping`, without its `data`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct PingParams {
    pub(super) pong_len: LenientScalar,
}

/// Deserializes parameters by position or by name. Further parameters are skipped without being stored.
///
/// A struct is read from an array by the order of its fields, and from an object by their names.
pub(super) fn parse_params<P: DeserializeOwned>(params: &RawValue, reason: &'static str) -> Result<P, RpcError> {
    match serde_json::from_str::<Known<P>>(params.get()) {
        Ok(Known(known)) => Ok(known),
        Err(_) => Err(RpcError::InvalidParams(reason)),
    }
}

/// Checks the parameters of a method that has none. They may be absent, or of any number.
pub(super) fn expect_params(params: Option<&RawValue>) -> Result<(), RpcError> {
    if params.is_none_or(|params| params.get().starts_with(['[', '{'])) {
        Ok(())
    } else {
        Err(RpcError::InvalidParams("expected an array or an object"))
    }
}

/// Known parameters, which further ones may follow.
struct Known<P>(P);

impl<'de, P: Deserialize<'de>> Deserialize<'de> for Known<P> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Known<P>, D::Error> {
        deserializer.deserialize_any(KnownVisitor(PhantomData))
    }
}

struct KnownVisitor<P>(PhantomData<P>);

impl<'de, P: Deserialize<'de>> Visitor<'de> for KnownVisitor<P> {
    type Value = Known<P>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array or an object of parameters")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Known<P>, A::Error> {
        let known = P::deserialize(SeqAccessDeserializer::new(&mut seq))?;
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Known(known))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Known<P>, A::Error> {
        P::deserialize(MapAccessDeserializer::new(map)).map(Known)
    }
}

impl Default for VersionParam {
    /// Returns the version that the protocol defines for clients that send none.
    fn default() -> VersionParam {
        VersionParam::One("1.4".to_owned())
    }
}

impl<'de> Deserialize<'de> for VersionParam {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<VersionParam, D::Error> {
        deserializer.deserialize_any(VersionVisitor)
    }
}

/// Reads a version without a buffer, which a derived implementation would fill with any value.
struct VersionVisitor;

impl<'de> Visitor<'de> for VersionVisitor {
    type Value = VersionParam;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a version or a pair of versions")
    }

    fn visit_unit<E>(self) -> Result<VersionParam, E> {
        Ok(VersionParam::default())
    }

    fn visit_str<E: de::Error>(self, version: &str) -> Result<VersionParam, E> {
        bounded(version.to_owned()).map(VersionParam::One)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<VersionParam, A::Error> {
        let (min, max) = (seq.next_element::<Option<String>>()?, seq.next_element::<Option<String>>()?);
        let (Some(min), Some(max), None) = (min, max, seq.next_element::<IgnoredAny>()?) else {
            return Err(de::Error::custom("expected two versions"));
        };
        match (min, max) {
            (Some(min), Some(max)) => Ok(VersionParam::Range(bounded(min)?, bounded(max)?)),
            (Some(one), None) | (None, Some(one)) => bounded(one).map(VersionParam::One),
            (None, None) => Ok(VersionParam::default()),
        }
    }
}

/// Returns a version of acceptable length.
fn bounded<E: de::Error>(version: String) -> Result<String, E> {
    if version.len() <= MAX_VERSION_BYTES { Ok(version) } else { Err(de::Error::custom("version is too long")) }
}
