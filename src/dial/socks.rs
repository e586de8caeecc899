//! Connections through the SOCKS5 port of an external Tor.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tor_socksproto::{SocksAddr, SocksCmd, SocksStatus};

use super::socks_handshake::{Error, Reply, handshake};
use super::socks_port::clearnet_access;
use super::{IsolationGroup, SocksPort, Stream};
use crate::connect::ProbeError;
use crate::peer::{DnsName, Host, Port};
use crate::secret::Secret;
use crate::tor_state::ClearnetAccess;

/// Timeout of a request. A Tor that is not ready would delay it for two minutes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// Connector through a SOCKS port, with the credentials that isolate its streams.
#[derive(Debug, Clone)]
pub struct Socks {
    port: SocksPort,
    /// Created for each process, so that other programs share no circuit with Waypost.
    secret: Secret,
    /// Shared by all clones: the dialer detects it, the SOCKS monitor reports it.
    clearnet: Arc<watch::Sender<ClearnetAccess>>,
}

impl Socks {
    /// Creates a connector. Processes with different secrets share no circuits.
    pub fn new(port: SocksPort, secret: u128) -> Socks {
        Socks { port, secret: Secret::new(format!("{secret:032x}")), clearnet: Arc::default() }
    }

    /// Returns the SOCKS port.
    pub fn port(&self) -> &SocksPort {
        &self.port
    }

    /// Which clearnet connections the port accepts, as far as is known.
    pub fn clearnet(&self) -> watch::Receiver<ClearnetAccess> {
        self.clearnet.subscribe()
    }

    /// Records which clearnet connections the port accepts.
    pub fn set_clearnet(&self, access: ClearnetAccess) {
        self.clearnet.send_if_modified(|known| std::mem::replace(known, access) != access);
    }

    /// Connects through the circuits of this isolation group.
    ///
    /// Tor isolates streams whose SOCKS user name and password differ.
    pub(super) async fn connect(
        &self,
        host: &Host,
        port: Port,
        group: &IsolationGroup,
    ) -> Result<Box<dyn Stream>, ProbeError> {
        let target = match host {
            Host::Ip(ip) => SocksAddr::Ip(*ip),
            Host::Dns(name) => hostname(name.as_str())?,
            Host::Onion(onion) => hostname(&onion.to_string())?,
        };
        if !host.is_onion() {
            self.check_clearnet()?;
        }
        match self.request(SocksCmd::CONNECT, target, port.get(), group).await {
            Ok((stream, _)) => Ok(stream),
            // An exit's policy has the same code, and peers choose addresses: the port is checked.
            Err(Error::Refused(SocksStatus::NOT_ALLOWED)) if !host.is_onion() => {
                if let Some(access) = clearnet_access(&self.port).await {
                    self.set_clearnet(access);
                }
                self.check_clearnet()?;
                Err(ProbeError::Unreachable)
            }
            Err(error) => match error.failure() {
                ProbeError::OnionDescriptorNotFound if !host.is_onion() => Err(ProbeError::Unreachable),
                failure => Err(failure),
            },
        }
    }

    /// Resolves a name through an exit. Tor returns one address.
    pub(super) async fn resolve(&self, name: &DnsName, group: &IsolationGroup) -> Result<Vec<IpAddr>, ProbeError> {
        self.check_clearnet()?;
        let reply = self.request(SocksCmd::RESOLVE, hostname(name.as_str())?, 0, group).await;
        match reply.map_err(|error| error.failure()) {
            Ok((_, SocksAddr::Ip(ip))) => Ok(vec![ip.to_canonical()]),
            Ok((_, SocksAddr::Hostname(_))) | Err(ProbeError::OnionDescriptorNotFound) => Err(ProbeError::NameNotFound),
            Err(failure) => Err(failure),
        }
    }

    /// Fails at once if the port is known to refuse clearnet: each refusal warns in Tor's log.
    fn check_clearnet(&self) -> Result<(), ProbeError> {
        match *self.clearnet.borrow() {
            ClearnetAccess::Allowed => Ok(()),
            ClearnetAccess::OnionOnly | ClearnetAccess::NamesOnly => Err(ProbeError::TorPolicy),
        }
    }

    async fn request(
        &self,
        command: SocksCmd,
        target: SocksAddr,
        port: u16,
        group: &IsolationGroup,
    ) -> Result<Reply, Error> {
        let auth = self.port.auth(group, &self.secret);
        timeout(CONNECT_TIMEOUT, handshake(&self.port.address, command, target, port, auth))
            .await
            .unwrap_or(Err(Error::TimedOut))
    }
}

fn hostname(name: &str) -> Result<SocksAddr, ProbeError> {
    name.to_owned().try_into().map(SocksAddr::Hostname).map_err(|_| ProbeError::Internal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dial::socks_port::tests::{NOT_ALLOWED, RESOLVED, is_by_name, port};

    /// A SOCKS5 port that answers every request with these bytes.
    async fn proxy(reply: &'static [u8]) -> SocksPort {
        port(move |_| reply).await
    }

    #[tokio::test]
    async fn reply_codes_map_to_probe_errors() {
        let host: Host = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion".parse().unwrap();
        let cases: [(&'static [u8], ProbeError); 7] = [
            (&[5, 0xf0, 0, 1, 0, 0, 0, 0, 0, 0], ProbeError::OnionDescriptorNotFound),
            (&[5, 4, 0, 1, 0, 0, 0, 0, 0, 0], ProbeError::OnionDescriptorNotFound),
            (&[5, 5, 0, 1, 0, 0, 0, 0, 0, 0], ProbeError::Refused),
            (&[5, 6, 0, 1, 0, 0, 0, 0, 0, 0], ProbeError::Unreachable),
            (&[5, 1, 0, 1, 0, 0, 0, 0, 0, 0], ProbeError::Unreachable),
            (&[4, 0, 0, 1, 0, 0, 0, 0, 0, 0], ProbeError::TorUnavailable),
            (&[5, 0, 0, 0, 0, 0, 0, 0, 0, 0], ProbeError::TorUnavailable),
        ];
        for (reply, expected) in cases {
            let socks = Socks::new(proxy(reply).await, 7);
            assert_eq!(
                socks.connect(&host, Port::MIN, &IsolationGroup::Irc).await.err().unwrap(),
                expected,
                "{reply:?}"
            );
        }
    }

    #[tokio::test]
    async fn name_is_resolved_by_exit() {
        let Ok(Host::Dns(name)) = "a.example.com".parse() else { panic!("a name") };
        let socks = Socks::new(proxy(&[5, 0, 0, 1, 88, 99, 0, 2, 0, 0]).await, 7);
        assert_eq!(socks.resolve(&name, &IsolationGroup::Irc).await, Ok(vec!["88.99.0.2".parse().unwrap()]));
        // As RFC 1928 has it, and as C tor does.
        for reply in [&[5, 4, 0, 1, 0, 0, 0, 0, 0, 0], &[5, 4, 0, 0, 0, 0, 0, 0, 0, 0]] {
            let socks = Socks::new(proxy(reply).await, 7);
            assert_eq!(socks.resolve(&name, &IsolationGroup::Irc).await, Err(ProbeError::NameNotFound));
        }
        let host: Host = "88.99.0.2".parse().unwrap();
        let socks = Socks::new(proxy(&[5, 4, 0, 1, 0, 0, 0, 0, 0, 0]).await, 7);
        assert_eq!(socks.connect(&host, Port::MIN, &IsolationGroup::Irc).await.err().unwrap(), ProbeError::Unreachable);
    }

    #[tokio::test]
    async fn refused_address_on_port_without_clearnet_is_tor_policy() {
        let host: Host = "88.99.0.2".parse().unwrap();
        // The proxy refuses requests by address and resolves names, as SafeSocks does.
        let safe_socks = Socks::new(port(|request| if is_by_name(request) { RESOLVED } else { NOT_ALLOWED }).await, 7);
        assert_eq!(
            safe_socks.connect(&host, Port::MIN, &IsolationGroup::Irc).await.err().unwrap(),
            ProbeError::TorPolicy
        );
        assert_eq!(*safe_socks.clearnet().borrow(), ClearnetAccess::NamesOnly);
        // An exit refused, and the port itself answers RESOLVE of an address.
        let unrestricted =
            Socks::new(port(|request| if request.get(1) == Some(&1) { NOT_ALLOWED } else { RESOLVED }).await, 7);
        assert_eq!(
            unrestricted.connect(&host, Port::MIN, &IsolationGroup::Irc).await.err().unwrap(),
            ProbeError::Unreachable
        );
        assert_eq!(*unrestricted.clearnet().borrow(), ClearnetAccess::Allowed);
    }

    #[tokio::test]
    async fn known_policy_refuses_clearnet_without_a_request() {
        let Ok(Host::Dns(name)) = "a.example.com".parse() else { panic!("a name") };
        let socks = Socks::new(port(|_| panic!("no request")).await, 7);
        socks.set_clearnet(ClearnetAccess::OnionOnly);
        assert_eq!(socks.resolve(&name, &IsolationGroup::Irc).await, Err(ProbeError::TorPolicy));
        let host = Host::Ip("88.99.0.2".parse().unwrap());
        assert_eq!(socks.connect(&host, Port::MIN, &IsolationGroup::Irc).await.err().unwrap(), ProbeError::TorPolicy);
    }
}
