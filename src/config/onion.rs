//! The keys `listen.onion_…`: ports and options of the onion service.

use super::{InvalidValue, ListenSection, PortList, in_range, invalid};
use crate::chain::Chain;
use crate::peer::Port;
use crate::tor::{self, ClientKey};

/// Checked keys of the onion service.
#[derive(Debug)]
pub(super) struct OnionKeys {
    /// Virtual ports for TCP. The first is advertised.
    pub ports: PortList,
    /// Virtual port for TLS. `None`: TCP only.
    pub tls_port: Option<Port>,
    /// Number of introduction points. `None`: Arti's default.
    pub introduction_points: Option<u8>,
    /// Keys of the clients that may reach the service. `None`: all clients.
    pub clients: Option<Vec<ClientKey>>,
    /// Why these keys can't be read. `None`: they were read, or there are none.
    pub unread: Option<InvalidValue>,
}

impl OnionKeys {
    /// Fills in defaults and checks the keys.
    pub(super) fn resolve(section: &mut ListenSection, chain: &Chain) -> Result<OnionKeys, InvalidValue> {
        let defaults = chain.default_ports;
        let ports = section.onion_port.get_or_insert_with(|| defaults.tcp().unwrap_or(Port::MIN).into()).clone();
        let has_tls_listener = !section.onion_tls.get_or_insert_default().is_empty();
        if has_tls_listener && section.onion_tls_port.is_none() {
            section.onion_tls_port = defaults.tls();
        }
        let tls_port = section.onion_tls_port;
        if tls_port.is_some_and(|tls_port| ports.iter().any(|port| port == tls_port)) {
            let reason = "is also in listen.onion_port, whose clients use no TLS; choose another port";
            return Err(invalid("listen.onion_tls_port", reason.to_owned()));
        }
        let introduction_points = match section.onion_introduction_points {
            None => None,
            Some(number) => {
                let key = &mut section.onion_introduction_points;
                Some(in_range("listen.onion_introduction_points", key, number, 3..=20)?)
            }
        };
        let (clients, unread) = match section.onion_clients.as_ref().map(|dir| tor::read_client_keys(dir)) {
            None => (None, None),
            Some(Ok(keys)) => (Some(keys), None),
            Some(Err(error)) => (Some(Vec::new()), Some(invalid("listen.onion_clients", error.to_string()))),
        };
        Ok(OnionKeys { ports, tls_port, introduction_points, clients, unread })
    }

    /// Refuses keys that need the service of the embedded Tor.
    pub(super) fn check_without_service(&self, section: &ListenSection) -> Result<(), InvalidValue> {
        let needs = |key, what: &str| Err(invalid(key, format!("needs {what}")));
        let embedded = "the onion service of the embedded Tor";
        if self.introduction_points.is_some() {
            return needs("listen.onion_introduction_points", embedded);
        }
        if self.clients.is_some() {
            return needs("listen.onion_clients", embedded);
        }
        if self.tls_port.is_some() && section.onion_tls.as_ref().is_none_or(Vec::is_empty) {
            let reason = "listen.onion_tls, with the address of the HiddenServicePort for TLS in torrc";
            return needs("listen.onion_tls_port", reason);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ConfigFile};
    use crate::tor::IS_EMBEDDED;

    const EXTERNAL: &str = "[identity]\nonion_host = \"explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion\"\n\
                            [listen]\nonion_tcp = [\"127.0.0.1:50011\"]\n";

    fn resolve(text: &str) -> Result<Config, InvalidValue> {
        let file: ConfigFile = toml::from_str(&format!("data_dir = \"/d\"\n{text}")).unwrap();
        Config::resolve(file)
    }

    #[cfg(feature = "embedded-tor")]
    #[test]
    fn embedded_service_has_ports_for_tcp_and_tls() {
        let service = |keys: &str| resolve(&format!("[listen]\n{keys}")).unwrap().tor.settings.service.unwrap();
        let ports = |keys: &str| {
            let service = service(keys);
            (service.ports.iter().map(|port| port.get()).collect::<Vec<_>>(), service.tls_port.map(Port::get))
        };
        assert_eq!(ports(""), (vec![50001], None));
        assert_eq!(ports("onion_port = [50001, 80]\nonion_tls_port = 50002"), (vec![50001, 80], Some(50002)));
        assert_eq!(service("onion_introduction_points = 20").introduction_points, Some(20));
    }

    #[test]
    fn external_service_has_the_tls_port_of_its_listener() {
        let ports = |keys: &str| resolve(&format!("{EXTERNAL}{keys}")).unwrap().tor.onion_host.unwrap().1;
        assert_eq!(ports("").tls(), None);
        assert_eq!(ports("onion_tls = [\"127.0.0.1:50012\"]").tls().map(Port::get), Some(50002));
        let named = ports("onion_tls = [\"127.0.0.1:50012\"]\nonion_tls_port = 443\nonion_port = [80, 50001]");
        assert_eq!((named.tcp().map(Port::get), named.tls().map(Port::get)), (Some(80), Some(443)));
    }

    #[test]
    fn clients_are_read_for_the_embedded_service() {
        let dir = tempfile::tempdir().unwrap();
        let keys = format!("onion_clients = {:?}\n", dir.path());
        let embedded = format!("[listen]\n{keys}");
        if IS_EMBEDDED {
            let error = resolve(&embedded).unwrap().check_files().unwrap_err();
            assert!(error.key == "listen.onion_clients" && error.reason.contains("*.auth"), "{error}");
        }
        std::fs::write(dir.path().join("a.auth"), format!("descriptor:x25519:{}", "A".repeat(52))).unwrap();
        if IS_EMBEDDED {
            let config = resolve(&embedded).unwrap();
            assert_eq!(config.check_files(), Ok(()));
            assert_eq!(config.tor.settings.service.as_ref().unwrap().clients.as_ref().map(Vec::len), Some(1));
            assert!(config.warnings().iter().any(|warning| warning.contains("not advertised")));
        }
        assert_eq!(resolve(&format!("{EXTERNAL}{keys}")).unwrap_err().key, "listen.onion_clients");
    }

    #[test]
    fn keys_without_effect_or_with_conflicts_are_refused() {
        let key = |text: &str| resolve(text).unwrap_err().key;
        assert_eq!(key(&format!("{EXTERNAL}onion_tls_port = 50002")), "listen.onion_tls_port");
        assert_eq!(key(&format!("{EXTERNAL}onion_introduction_points = 3")), "listen.onion_introduction_points");
        assert_eq!(key("[listen]\nonion_port = [1, 2]\nonion_tls_port = 2"), "listen.onion_tls_port");
        for number in [2, 21] {
            let text = format!("[listen]\nonion_introduction_points = {number}");
            assert_eq!(key(&text), "listen.onion_introduction_points");
        }
    }
}
