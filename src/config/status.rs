//! The `[status]` section: the status page.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{InvalidValue, StatusSection, invalid};
use crate::book::{Ingress, PerIngress};
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

/// Addresses of the pages.
#[derive(Debug, Clone)]
pub struct PageAddresses {
    /// Address of the operator's page.
    pub private: PageAddress,
    /// Addresses of public pages, by the ingress whose list they show.
    pub public: PerIngress<Vec<SocketAddr>>,
}

impl PageAddresses {
    /// Returns the key of public pages that show the list of an ingress.
    pub fn public_key(ingress: Ingress) -> &'static str {
        match ingress {
            Ingress::Clearnet => "status.public",
            Ingress::Onion => "status.public_onion",
        }
    }

    /// Returns the addresses of all pages, each with its key.
    pub fn by_key(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        let public = Ingress::ALL.into_iter().flat_map(|ingress| {
            self.public[ingress].iter().map(move |address| (PageAddresses::public_key(ingress), *address))
        });
        self.private.address().map(|address| ("status.listen", address)).into_iter().chain(public)
    }

    /// Returns the number of public pages.
    pub fn public_count(&self) -> usize {
        self.public.clearnet.len() + self.public.onion.len()
    }
}

/// Fills in defaults and checks the section.
pub(super) fn resolve(section: &mut StatusSection) -> Result<(PageAddresses, StatusPageConfig), InvalidValue> {
    let private = *section.listen.get_or_insert_default();
    let public = PerIngress {
        clearnet: section.public.get_or_insert_default().clone(),
        onion: section.public_onion.get_or_insert_default().clone(),
    };
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
    Ok((PageAddresses { private, public }, StatusPageConfig { hosts, peer_metrics }))
}
