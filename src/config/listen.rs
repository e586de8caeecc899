//! The `[listen]` section: listeners for clients.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use super::{InvalidValue, ListenSection, invalid, networks};
use crate::server::{CertificateSource, TrustedProxies};

/// Protocol and ingress of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenKind {
    /// TCP without TLS, clearnet.
    Tcp,
    /// TLS, clearnet.
    Tls,
    /// WebSocket without TLS, clearnet.
    Ws,
    /// WebSocket with TLS, clearnet.
    Wss,
    /// TCP from an external Tor that runs `identity.onion_host`.
    Onion,
    /// TLS from such a Tor.
    OnionTls,
}

impl ListenKind {
    /// Every kind.
    pub const ALL: [ListenKind; 6] =
        [ListenKind::Tcp, ListenKind::Tls, ListenKind::Ws, ListenKind::Wss, ListenKind::Onion, ListenKind::OnionTls];

    /// Returns whether the clients come from an onion service.
    pub fn is_onion(self) -> bool {
        matches!(self, ListenKind::Onion | ListenKind::OnionTls)
    }

    /// Returns the key of the listener's addresses.
    pub fn key(self) -> &'static str {
        match self {
            ListenKind::Tcp => "listen.tcp",
            ListenKind::Tls => "listen.tls",
            ListenKind::Ws => "listen.ws",
            ListenKind::Wss => "listen.wss",
            ListenKind::Onion => "listen.onion_tcp",
            ListenKind::OnionTls => "listen.onion_tls",
        }
    }

    /// Returns the kind that a systemd socket unit names with `FileDescriptorName=`.
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
            ListenKind::OnionTls => "onion-tls",
        })
    }
}

/// Resolved `[listen]` section, without the onion service.
#[derive(Debug, Clone)]
pub struct ListenConfig {
    tcp: Vec<SocketAddr>,
    tls: Vec<SocketAddr>,
    ws: Vec<SocketAddr>,
    wss: Vec<SocketAddr>,
    onion: Vec<SocketAddr>,
    onion_tls: Vec<SocketAddr>,
    /// Certificate of the TLS listeners.
    pub certificate: CertificateSource,
    /// Certificate of the onion name, which must not be that of the clearnet name.
    pub onion_certificate: CertificateSource,
    /// Proxies that send a PROXY header to the clearnet listeners.
    pub trusted_proxies: TrustedProxies,
}

impl ListenConfig {
    /// Fills in defaults and checks the section.
    pub(super) fn resolve(section: &mut ListenSection, data_dir: &Path) -> Result<ListenConfig, InvalidValue> {
        let certificate = match (&section.cert, &section.key) {
            (Some(certificate), Some(key)) => {
                CertificateSource::Configured { certificate: certificate.clone(), key: key.clone() }
            }
            (None, None) => CertificateSource::SelfSigned(data_dir.to_owned()),
            (Some(_), None) => {
                return Err(invalid("listen.cert", "needs listen.key, the private key of the certificate".to_owned()));
            }
            (None, Some(_)) => {
                return Err(invalid("listen.key", "needs listen.cert, the certificate of the key".to_owned()));
            }
        };
        let default_tcp = || vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 50001))];
        Ok(ListenConfig {
            tcp: section.tcp.get_or_insert_with(default_tcp).clone(),
            tls: section.tls.get_or_insert_default().clone(),
            ws: section.ws.get_or_insert_default().clone(),
            wss: section.wss.get_or_insert_default().clone(),
            onion: section.onion_tcp.get_or_insert_default().clone(),
            onion_tls: section.onion_tls.get_or_insert_default().clone(),
            certificate,
            onion_certificate: CertificateSource::OnionSelfSigned(data_dir.to_owned()),
            trusted_proxies: networks::resolve_proxies(&mut section.trusted_proxies)?,
        })
    }

    /// Returns the configured addresses of a kind of listener.
    pub fn addresses(&self, kind: ListenKind) -> &[SocketAddr] {
        match kind {
            ListenKind::Tcp => &self.tcp,
            ListenKind::Tls => &self.tls,
            ListenKind::Ws => &self.ws,
            ListenKind::Wss => &self.wss,
            ListenKind::Onion => &self.onion,
            ListenKind::OnionTls => &self.onion_tls,
        }
    }
}
