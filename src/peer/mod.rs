//! Types that describe a peer: host, ports, features, real name, peer list, faults.
//!
//! Parsing is the only constructor of most of these types, so a value needs no further check.

mod blocked_ports;
mod endpoint;
mod fault;
mod features;
mod foreign_text;
mod host;
mod lenient;
mod peer_list;
mod ports;
mod real_name;
mod version;

pub use blocked_ports::is_blocked_port;
pub use endpoint::{Endpoint, EndpointError};
pub use fault::Fault;
pub use features::{Features, SCRIPT_HASH_FUNCTION};
pub use foreign_text::foreign_text;
pub use host::{DnsName, Host, HostError, OnionAddress};
pub use lenient::LenientScalar;
pub use peer_list::{MAX_PEER_LIST_ENTRIES, PeerList, PeerListEntry};
pub use ports::{Port, Ports, Transport};
pub use real_name::{RealName, RealNameError};
pub use version::{Version, VersionError};
