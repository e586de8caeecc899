//! The keys about listeners, and what they come to.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use super::{InvalidValue, ListenSection, invalid};
use crate::server::CertificateSource;

/// Protocol of a listener, and the name under which its clients know the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenKind {
    Tcp,
    Tls,
    Ws,
    Wss,
    /// By an external Tor, which runs `identity.onion_host` for us.
    Onion,
}

impl ListenKind {
    pub const ALL: [ListenKind; 5] =
        [ListenKind::Tcp, ListenKind::Tls, ListenKind::Ws, ListenKind::Wss, ListenKind::Onion];

    /// The key that chooses its addresses.
    pub fn key(self) -> &'static str {
        match self {
            ListenKind::Tcp => "listen.tcp",
            ListenKind::Tls => "listen.tls",
            ListenKind::Ws => "listen.ws",
            ListenKind::Wss => "listen.wss",
            ListenKind::Onion => "listen.onion_tcp",
        }
    }

    /// By the name that a systemd socket unit gives with FileDescriptorName=.
    pub fn by_name(name: &str) -> Option<ListenKind> {
        ListenKind::ALL.into_iter().find(|kind| kind.to_string() == name)
    }
}

impl fmt::Display for ListenKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ListenKind::Tcp => "tcp",
            ListenKind::Tls => "tls",
            ListenKind::Ws => "ws",
            ListenKind::Wss => "wss",
            ListenKind::Onion => "onion",
        })
    }
}

/// Where we listen, and with which certificate.
#[derive(Debug, Clone)]
pub struct ListenConfig {
    tcp: Vec<SocketAddr>,
    tls: Vec<SocketAddr>,
    ws: Vec<SocketAddr>,
    wss: Vec<SocketAddr>,
    onion: Vec<SocketAddr>,
    pub certificate: CertificateSource,
}

impl ListenConfig {
    pub fn resolve(keys: &ListenSection, data_dir: &Path) -> Result<ListenConfig, InvalidValue> {
        let certificate = match (&keys.cert, &keys.key) {
            (Some(certificate), Some(key)) => {
                CertificateSource::Configured { certificate: certificate.clone(), key: key.clone() }
            }
            (None, None) => CertificateSource::SelfSigned(data_dir.to_owned()),
            (Some(_), None) => return Err(invalid("listen.cert", "set listen.key as well".to_owned())),
            (None, Some(_)) => return Err(invalid("listen.key", "set listen.cert as well".to_owned())),
        };
        let addresses = |key: &Option<Vec<SocketAddr>>| key.clone().unwrap_or_default();
        Ok(ListenConfig {
            tcp: keys.tcp.clone().unwrap_or_else(|| vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 50001))]),
            tls: addresses(&keys.tls),
            ws: addresses(&keys.ws),
            wss: addresses(&keys.wss),
            onion: addresses(&keys.onion_tcp),
            certificate,
        })
    }

    pub fn addresses(&self, kind: ListenKind) -> &[SocketAddr] {
        match kind {
            ListenKind::Tcp => &self.tcp,
            ListenKind::Tls => &self.tls,
            ListenKind::Ws => &self.ws,
            ListenKind::Wss => &self.wss,
            ListenKind::Onion => &self.onion,
        }
    }

    /// The same as keys.
    pub fn to_section(&self) -> ListenSection {
        let (cert, key) = match &self.certificate {
            CertificateSource::Configured { certificate, key } => (Some(certificate.clone()), Some(key.clone())),
            CertificateSource::SelfSigned(_) => (None, None),
        };
        ListenSection {
            tcp: Some(self.tcp.clone()),
            tls: Some(self.tls.clone()),
            ws: Some(self.ws.clone()),
            wss: Some(self.wss.clone()),
            onion_tcp: Some(self.onion.clone()),
            cert,
            key,
            ..ListenSection::default()
        }
    }
}
