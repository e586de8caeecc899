//! The ports that a server answers on.

use std::fmt;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

pub type Port = NonZeroU16;

/// Ports of other services, at which nobody is to be knocked on by our hand. Most are those that browsers refuse (the "bad
/// ports" of the Fetch standard), and the others are databases and desktops; in both, what Electrum servers are known to have
/// is left out, 443 and 80 above all.
const OTHERS: [u16; 86] = [
    1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109, 110,
    111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 445, 465, 512, 513, 514, 515, 526, 530, 531,
    532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3306, 3389, 3659, 4045,
    4190, 5060, 5061, 5432, 5900, 6000, 6379, 6566, 6665, 6667, 6679, 6697, 10080, 11211,
];

/// Whether a port might be an Electrum server's, as far as anybody can tell.
pub fn may_be_electrums(port: Port) -> bool {
    OTHERS.binary_search(&port.get()).is_err()
}

/// How a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    Tcp,
    Tls,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Tcp => "TCP",
            Transport::Tls => "TLS",
        })
    }
}

/// The ports of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Ports {
    // At least one of the two is there.
    tcp: Option<Port>,
    tls: Option<Port>,
}

/// Ports as they are read, of the same shape as [`Ports`].
#[derive(Deserialize)]
struct Unchecked {
    tcp: Option<Port>,
    tls: Option<Port>,
}

impl TryFrom<Unchecked> for Ports {
    type Error = &'static str;

    fn try_from(read: Unchecked) -> Result<Ports, &'static str> {
        Ports::new(read.tcp, read.tls).ok_or("a server without ports")
    }
}

impl Ports {
    /// None where there is neither.
    pub fn new(tcp: Option<Port>, tls: Option<Port>) -> Option<Ports> {
        (tcp.is_some() || tls.is_some()).then_some(Ports { tcp, tls })
    }

    pub fn only(transport: Transport, port: Port) -> Ports {
        match transport {
            Transport::Tcp => Ports { tcp: Some(port), tls: None },
            Transport::Tls => Ports { tcp: None, tls: Some(port) },
        }
    }

    pub fn tcp(&self) -> Option<Port> {
        self.tcp
    }

    pub fn tls(&self) -> Option<Port> {
        self.tls
    }

    /// TLS before TCP.
    pub fn iter(&self) -> impl Iterator<Item = (Transport, Port)> {
        let tls = self.tls.map(|port| (Transport::Tls, port));
        let tcp = self.tcp.map(|port| (Transport::Tcp, port));
        tls.into_iter().chain(tcp)
    }
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::*;

    pub fn any_ports() -> impl Strategy<Value = Ports> {
        any::<(Option<Port>, Option<Port>)>().prop_filter_map("no port", |(tcp, tls)| Ports::new(tcp, tls))
    }

    #[test]
    fn other_services_are_left_alone() {
        let may_be = |port: u16| may_be_electrums(port.try_into().unwrap());
        assert!(OTHERS.is_sorted() && OTHERS.into_iter().all(|port| !may_be(port)));
        assert!([25, 22, 53, 6667].into_iter().all(|port| !may_be(port)));
        assert!([80, 443, 995 + 1, 50001, 50002, 51001, 60002, 65535].into_iter().all(may_be));
    }

    #[test]
    fn there_is_at_least_one() {
        assert_eq!(Ports::new(None, None), None);
        assert!(serde_json::from_str::<Ports>(r#"{"tcp":50001,"tls":null}"#).is_ok());
        assert!(serde_json::from_str::<Ports>(r#"{"tcp":null,"tls":null}"#).is_err());
    }
}
