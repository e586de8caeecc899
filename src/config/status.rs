//! The `[status]` section: the status page.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{InvalidValue, StatusSection, invalid};
use crate::status_page::StatusPageConfig;

/// Address of the status page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum PageAddress {
    /// The page is served at this address.
    At(SocketAddr),
    /// The page is disabled.
    Off,
}

impl Default for PageAddress {
    fn default() -> PageAddress {
        PageAddress::At(SocketAddr::from((Ipv4Addr::LOCALHOST, 4280)))
    }
}

impl PageAddress {
    /// Returns the address. `None` if the page is disabled.
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            PageAddress::At(address) => Some(address),
            PageAddress::Off => None,
        }
    }
}

impl fmt::Display for PageAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PageAddress::At(address) => address.fmt(f),
            PageAddress::Off => f.write_str("off"),
        }
    }
}

/// A text that is no address of a status page.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is neither an address with a port, such as 127.0.0.1:4280, nor off")]
pub struct InvalidPageAddress(String);

impl TryFrom<String> for PageAddress {
    type Error = InvalidPageAddress;

    fn try_from(text: String) -> Result<PageAddress, InvalidPageAddress> {
        match text.as_str() {
            "off" => Ok(PageAddress::Off),
            address => SocketAddr::from_str(address).map(PageAddress::At).map_err(|_| InvalidPageAddress(text)),
        }
    }
}

impl From<PageAddress> for String {
    fn from(address: PageAddress) -> String {
        address.to_string()
    }
}

/// Fills in defaults and checks the section.
pub(super) fn resolve(section: &mut StatusSection) -> Result<(PageAddress, StatusPageConfig), InvalidValue> {
    let address = *section.listen.get_or_insert_default();
    let hosts = section.allowed_hosts.get_or_insert_default();
    if let Some(invalid_host) = hosts.iter().find(|host| host.is_empty() || host.contains(['/', ':'])) {
        return Err(invalid(
            "status.allowed_hosts",
            format!("{invalid_host:?} is no host name; write it without scheme and port"),
        ));
    }
    hosts.iter_mut().for_each(|host| host.make_ascii_lowercase());
    let hosts = hosts.clone();
    let peer_metrics = *section.peer_metrics.get_or_insert(StatusPageConfig::default().peer_metrics);
    Ok((address, StatusPageConfig { hosts, peer_metrics }))
}
