//! The keys about the status page, and what they come to.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{InvalidValue, StatusSection, invalid};
use crate::status_page::Settings;

/// Where the page is, if it is anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum PageAddress {
    At(SocketAddr),
    Off,
}

impl Default for PageAddress {
    fn default() -> PageAddress {
        PageAddress::At(SocketAddr::from((Ipv4Addr::LOCALHOST, 4280)))
    }
}

impl PageAddress {
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

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is neither an address with a port, as 127.0.0.1:4280, nor off")]
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

pub fn resolve(keys: StatusSection) -> Result<(PageAddress, Settings), InvalidValue> {
    let default = Settings::default();
    let hosts = keys.allowed_hosts.unwrap_or_default();
    if let Some(odd) = hosts.iter().find(|host| host.is_empty() || host.contains(['/', ':'])) {
        return Err(invalid(
            "status.allowed_hosts",
            format!("{odd:?} is no host name; write it without scheme and port"),
        ));
    }
    let hosts = hosts.into_iter().map(|host| host.to_ascii_lowercase()).collect();
    let peer_metrics = keys.peer_metrics.unwrap_or(default.peer_metrics);
    Ok((keys.listen.unwrap_or_default(), Settings { hosts, peer_metrics }))
}

/// The same as keys.
pub fn to_section(address: PageAddress, settings: &Settings) -> StatusSection {
    StatusSection {
        listen: Some(address),
        allowed_hosts: Some(settings.hosts.clone()),
        peer_metrics: Some(settings.peer_metrics),
    }
}
