//! One port, or a list of ports.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::peer::Port;

/// Maximum number of ports in a list.
const MAX_PORTS: usize = 16;

/// Ports in the order of preference, none of them twice. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortList {
    first: Port,
    others: Vec<Port>,
}

impl PortList {
    /// Returns the first port.
    pub fn first(&self) -> Port {
        self.first
    }

    /// Returns all ports.
    pub fn iter(&self) -> impl Iterator<Item = Port> {
        std::iter::once(self.first).chain(self.others.iter().copied())
    }
}

impl From<Port> for PortList {
    fn from(port: Port) -> PortList {
        PortList { first: port, others: Vec::new() }
    }
}

impl<'de> Deserialize<'de> for PortList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PortList, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            One(Port),
            Several(Vec<Port>),
        }
        // The message of an untagged enum would name none of the forms.
        let form =
            Form::deserialize(deserializer).map_err(|_| de::Error::custom("expected a port or a list of ports"))?;
        let ports = match form {
            Form::One(port) => vec![port],
            Form::Several(ports) => ports,
        };
        let has_duplicate = (1..ports.len()).any(|end| {
            let (before, rest) = ports.split_at(end);
            rest.first().is_some_and(|port| before.contains(port))
        });
        match ports.split_first() {
            Some((first, others)) if ports.len() <= MAX_PORTS && !has_duplicate => {
                Ok(PortList { first: *first, others: others.to_vec() })
            }
            _ => Err(de::Error::custom(format!("expected from 1 to {MAX_PORTS} different ports"))),
        }
    }
}

impl Serialize for PortList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.others.is_empty() { self.first.serialize(serializer) } else { serializer.collect_seq(self.iter()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_port_is_a_number_and_several_are_a_list() {
        #[derive(Deserialize, Serialize)]
        struct Section {
            port: PortList,
        }
        for text in ["port = 50001\n", "port = [50001, 80]\n"] {
            let section: Section = toml::from_str(text).unwrap();
            assert_eq!(toml::to_string(&section).unwrap(), text);
            assert_eq!(section.port.first().get(), 50001);
        }
        let many: Vec<String> = (1..=MAX_PORTS + 1).map(|port| port.to_string()).collect();
        for value in ["0", "[]", "[0]", "65536", "\"50001\"", "[1, 2, 1]", &format!("[{}]", many.join(", "))] {
            assert!(toml::from_str::<Section>(&format!("port = {value}")).is_err(), "{value}");
        }
    }
}
