//! Dictionary of `server.features` responses and `server.add_peer` requests.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::{Host, LenientScalar, Port, Ports, RealName, Version};

/// Hash function of script hashes; the protocol has no other.
pub const SCRIPT_HASH_FUNCTION: &str = "sha256";

/// Description of a server, written by the server.
///
/// The format varies: ports are numbers, strings, null or missing, and servers of protocol 1.0 send
/// `protocol_version` instead of a range. An unusable value counts as absent. Only a value that is
/// not a dictionary is an error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    /// Hosts with their ports, at most [`Features::MAX_HOSTS`]; `None` if the key is missing.
    ///
    /// Invalid names are left out. A host's ports are `None` if it lists no valid port.
    pub hosts: Option<Vec<(Host, Option<Ports>)>>,
    /// Genesis hash of the chain, in lower case.
    pub genesis_hash: Option<String>,
    /// Hash function of script hashes, see [`SCRIPT_HASH_FUNCTION`].
    pub hash_function: Option<String>,
    /// Name and version of the software.
    pub server_version: Option<String>,
    /// Oldest supported protocol version.
    pub protocol_min: Option<Version>,
    /// Newest supported protocol version.
    pub protocol_max: Option<Version>,
    /// Number of transactions kept for each address; `None` without a limit.
    pub pruning: Option<u32>,
}

impl Features {
    /// Maximum number of hosts. Servers have a few; Fulcrum rejects peers with more than four.
    pub const MAX_HOSTS: usize = 32;

    /// Returns the ports of a host; `None` if `hosts` is present without this host.
    pub fn ports_for(&self, host: &Host) -> Option<Option<Ports>> {
        match &self.hosts {
            None => Some(None),
            Some(hosts) => hosts.iter().find(|(named, _)| named == host).map(|(_, ports)| *ports),
        }
    }

    /// Returns a real name for each host that has a port.
    pub fn real_names(&self) -> impl Iterator<Item = RealName> {
        self.hosts.iter().flatten().filter_map(|(host, ports)| {
            Some(RealName { host: host.clone(), version: self.protocol_max, pruning: self.pruning, ports: (*ports)? })
        })
    }
}

impl<'de> Deserialize<'de> for Features {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Features, D::Error> {
        deserializer.deserialize_map(FeaturesVisitor)
    }
}

/// Accepts a dictionary only. A derived implementation would accept a list of values as well.
struct FeaturesVisitor;

impl<'de> Visitor<'de> for FeaturesVisitor {
    type Value = Features;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a dictionary of features")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Features, A::Error> {
        let raw = RawFeatures::deserialize(MapAccessDeserializer::new(map))?;
        let version = |scalar: LenientScalar| scalar.text().and_then(|text| text.parse::<Version>().ok());
        let legacy_version = version(raw.protocol_version);
        Ok(Features {
            hosts: raw.hosts.0,
            genesis_hash: raw.genesis_hash.text().map(|hash| hash.to_ascii_lowercase()),
            hash_function: raw.hash_function.text(),
            server_version: raw.server_version.text(),
            protocol_min: version(raw.protocol_min).or(legacy_version),
            protocol_max: version(raw.protocol_max).or(legacy_version),
            pruning: raw.pruning.number().filter(|limit| *limit > 0),
        })
    }
}

impl Serialize for Features {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let mut text = |key: &str, value: Option<String>| match value {
            Some(value) => map.serialize_entry(key, &value),
            None => Ok(()),
        };
        text("genesis_hash", self.genesis_hash.clone())?;
        text("hash_function", self.hash_function.clone())?;
        text("server_version", self.server_version.clone())?;
        text("protocol_min", self.protocol_min.map(|version| version.to_string()))?;
        text("protocol_max", self.protocol_max.map(|version| version.to_string()))?;
        if let Some(hosts) = &self.hosts {
            map.serialize_entry("hosts", &HostsWire(hosts))?;
        }
        map.serialize_entry("pruning", &self.pruning)?;
        map.end()
    }
}

/// Known keys, each with a value of any type.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct RawFeatures {
    hosts: Hosts,
    genesis_hash: LenientScalar,
    hash_function: LenientScalar,
    server_version: LenientScalar,
    protocol_min: LenientScalar,
    protocol_max: LenientScalar,
    protocol_version: LenientScalar,
    pruning: LenientScalar,
}

#[derive(Default)]
struct Hosts(Option<Vec<(Host, Option<Ports>)>>);

impl<'de> Deserialize<'de> for Hosts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Hosts, D::Error> {
        deserializer.deserialize_any(HostsVisitor)
    }
}

struct HostsVisitor;

impl<'de> Visitor<'de> for HostsVisitor {
    type Value = Hosts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a dictionary of hosts")
    }

    fn visit_unit<E>(self) -> Result<Hosts, E> {
        Ok(Hosts(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Hosts, A::Error> {
        let mut hosts: Vec<(Host, Option<Ports>)> = Vec::new();
        while let Some(name) = map.next_key::<LenientScalar>()? {
            let ports = map.next_value::<&RawValue>()?;
            let ports = serde_json::from_str(ports.get()).map_or(None, |RawHostPorts(ports)| ports);
            let Some(Ok(host)) = name.text().map(|name| name.parse::<Host>()) else { continue };
            if hosts.len() < Features::MAX_HOSTS && !hosts.iter().any(|(known, _)| *known == host) {
                hosts.push((host, ports));
            }
        }
        Ok(Hosts(Some(hosts)))
    }
}

/// `{"tcp_port": 50001, "ssl_port": null}`; any other value has no ports.
struct RawHostPorts(Option<Ports>);

impl<'de> Deserialize<'de> for RawHostPorts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawHostPorts, D::Error> {
        deserializer.deserialize_any(HostPortsVisitor)
    }
}

struct HostPortsVisitor;

impl<'de> Visitor<'de> for HostPortsVisitor {
    type Value = RawHostPorts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a dictionary of ports")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHostPorts, A::Error> {
        let (mut tcp, mut tls, mut ws, mut wss) = (None, None, None, None);
        while let Some(key) = map.next_key::<LenientScalar>()? {
            let value: LenientScalar = map.next_value()?;
            let port = || value.number::<u16>().and_then(Port::new);
            match key.text().as_deref() {
                Some("tcp_port") => tcp = port(),
                Some("ssl_port") => tls = port(),
                Some("ws_port") => ws = port(),
                Some("wss_port") => wss = port(),
                _ => {}
            }
        }
        Ok(RawHostPorts(Ports::new(tcp, tls).map(|ports| ports.with_web_sockets(ws, wss))))
    }

    fn visit_unit<E>(self) -> Result<RawHostPorts, E> {
        Ok(RawHostPorts(None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<RawHostPorts, E> {
        Ok(RawHostPorts(None))
    }

    fn visit_u64<E>(self, _: u64) -> Result<RawHostPorts, E> {
        Ok(RawHostPorts(None))
    }

    fn visit_i64<E>(self, _: i64) -> Result<RawHostPorts, E> {
        Ok(RawHostPorts(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<RawHostPorts, E> {
        Ok(RawHostPorts(None))
    }

    fn visit_str<E>(self, _: &str) -> Result<RawHostPorts, E> {
        Ok(RawHostPorts(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawHostPorts, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(RawHostPorts(None))
    }
}

struct HostsWire<'a>(&'a [(Host, Option<Ports>)]);

impl Serialize for HostsWire<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct PortsWire {
            tcp_port: Option<Port>,
            ssl_port: Option<Port>,
            #[serde(skip_serializing_if = "Option::is_none")]
            ws_port: Option<Port>,
            #[serde(skip_serializing_if = "Option::is_none")]
            wss_port: Option<Port>,
        }
        serializer.collect_map(self.0.iter().map(|(host, ports)| {
            let ports = PortsWire {
                tcp_port: ports.and_then(|ports| ports.tcp()),
                ssl_port: ports.and_then(|ports| ports.tls()),
                ws_port: ports.and_then(|ports| ports.ws()),
                wss_port: ports.and_then(|ports| ports.wss()),
            };
            (host, ports)
        }))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::super::host::tests::any_host;
    use super::super::ports::tests::any_ports;
    use super::super::version::tests::any_version;
    use super::*;

    pub(crate) fn any_features() -> impl Strategy<Value = Features> {
        let hosts = vec((any_host(), option::of(any_ports())), 0..4).prop_map(|mut hosts| {
            hosts.sort();
            hosts.dedup_by(|a, b| a.0 == b.0);
            hosts
        });
        let texts =
            (option::of("[0-9a-f]{64}"), option::of(Just(SCRIPT_HASH_FUNCTION.to_owned())), option::of("\\PC{0,20}"));
        let versions = option::of((any_version(), any_version()));
        (option::of(hosts), texts, versions, option::of(1u32..)).prop_map(|(hosts, texts, versions, pruning)| {
            Features {
                hosts,
                genesis_hash: texts.0,
                hash_function: texts.1,
                server_version: texts.2,
                protocol_min: versions.map(|v| v.0),
                protocol_max: versions.map(|v| v.1),
                pruning,
            }
        })
    }

    fn parse(json: &str) -> Features {
        serde_json::from_str(json).unwrap()
    }

    proptest! {
        #[test]
        fn parse_undoes_print(features in any_features()) {
            prop_assert_eq!(parse(&serde_json::to_string(&features).unwrap()), features);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
            let _ = serde_json::from_slice::<Features>(&bytes);
        }

        #[test]
        fn unusable_values_are_ignored(
            key in "hosts|pruning|genesis_hash|protocol_max|server_version",
            value in "null|true|-1|1e9|\"x\"|\\[\\[1\\],2\\]|\\{\"tcp_port\":\\{\\}\\}|\\{\"a[.]example\":[0-9]\\}",
        ) {
            let json = format!("{{\"{key}\":{value}}}");
            // Only `hosts` must be a dictionary.
            prop_assert!(serde_json::from_str::<Features>(&json).is_ok() || key == "hosts");
        }
    }

    #[test]
    fn current_dictionary_is_read() {
        let features = parse(
            r#"{"genesis_hash": "000000000019D6689C085AE165831E934FF763AE46A2A6C172B3F1B60A8CE26F",
                "hosts": {"Ecdsa.net": {"tcp_port": "50001", "ssl_port": 110}, "b.example": {"tcp_port": null}, "?": {}},
                "protocol_max": "1.4.2", "protocol_min": "1.2", "pruning": null, "server_version": "ElectrumX 1.16.0",
                "hash_function": "sha256", "services": ["tcp://x:1"]}"#,
        );
        let names: Vec<String> = features.real_names().map(|name| name.to_string()).collect();
        assert_eq!(names, ["ecdsa.net v1.4.2 s110 t50001"]);
        assert_eq!(features.ports_for(&"b.example".parse().unwrap()), Some(None));
        assert_eq!(features.ports_for(&"c.example".parse().unwrap()), None);
        assert!(features.genesis_hash.unwrap().starts_with("000000000019d6"));
        assert_eq!(features.pruning, None);
    }

    #[test]
    fn value_without_meaning_invalidates_its_host_only() {
        for invalid in ["1e999", r#""\ud800""#, r#"{"tcp_port":1e999}"#, r#"{"\ud800":1}"#] {
            let hosts = format!(r#"{{"a.example": {invalid}, "b.example": {{"tcp_port": 1}}, "\ud800": {{}}}}"#);
            let features = parse(&format!(r#"{{"hosts": {hosts}, "pruning": 1e999}}"#));
            let names: Vec<String> = features.real_names().map(|name| name.to_string()).collect();
            assert_eq!(names, ["b.example t1"], "{invalid}");
        }
    }

    #[test]
    fn ports_for_web_sockets_are_read() {
        let hosts =
            r#"{"a.example": {"ssl_port": 50002, "ws_port": null, "wss_port": 443}, "b.example": {"ws_port": 1}}"#;
        let features = parse(&format!(r#"{{"hosts": {hosts}}}"#));
        let names: Vec<String> = features.real_names().map(|name| name.to_string()).collect();
        assert_eq!(names, ["a.example s50002 wss443"]);
        assert_eq!(features.ports_for(&"b.example".parse().unwrap()), Some(None));
    }

    #[test]
    fn legacy_dictionary_is_read() {
        let features = parse(r#"{"protocol_version": "1.0", "server_version": "ElectrumX 0.10", "pruning": "10000"}"#);
        assert_eq!(features.protocol_min, Some(Version::new(1, 0)));
        assert_eq!(features.protocol_max, Some(Version::new(1, 0)));
        assert_eq!(features.pruning, Some(10000));
        assert_eq!(features.ports_for(&"a.example".parse().unwrap()), Some(None));
    }
}
