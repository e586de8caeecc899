//! What a peer is: where it is, what it says of itself, and the ways of writing that down.
//!
//! Parsing is the only way to make most of these, so whoever holds one need not check it again.

mod blocked_ports;
mod endpoint;
mod features;
mod host;
mod listing;
mod loose;
mod ports;
mod real_name;
mod report;
mod version;

pub use blocked_ports::is_blocked_port;
pub use endpoint::{Endpoint, EndpointError};
pub use features::{Features, HASH_FUNCTION};
pub use host::{DnsName, Host, HostError, Onion};
pub use listing::{Listed, Listing, MAX_LISTED};
pub use loose::Scalar;
pub use ports::{Port, Ports, Transport};
pub use real_name::{RealName, RealNameError};
pub use report::{Fault, Report};
pub use version::{Version, VersionError};
