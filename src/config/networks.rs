//! Lists of addresses and networks: `listen.trusted_proxies` and `limits.exempt`.

use ipnet::IpNet;

use super::{InvalidValue, invalid};
use crate::networks::{Networks, format_network, parse_network};
use crate::server::{ListenerProtocol, TrustedProxies};

/// Checks `limits.exempt`.
pub(super) fn resolve_exempt(entries: &mut Option<Vec<String>>) -> Result<Networks, InvalidValue> {
    let entries = entries.get_or_insert_default();
    let nets = entries.iter().map(|entry| network("limits.exempt", entry)).collect::<Result<Vec<_>, _>>()?;
    *entries = nets.iter().map(|net| format_network(*net)).collect();
    Ok(nets.into_iter().collect())
}

/// Checks `listen.trusted_proxies`, whose entries may name a listener.
pub(super) fn resolve_proxies(entries: &mut Option<Vec<String>>) -> Result<TrustedProxies, InvalidValue> {
    const KEY: &str = "listen.trusted_proxies";
    let mut proxies = TrustedProxies::default();
    let mut all = Vec::new();
    for entry in entries.get_or_insert_default() {
        let Some((name, text)) = entry.split_once('=') else {
            let net = network(KEY, entry)?;
            *entry = format_network(net);
            all.push(net);
            continue;
        };
        let listener: ListenerProtocol = name.parse().map_err(|()| {
            let reason = match name {
                "onion" | "onion_tcp" => {
                    "Tor sends its own header to listen.onion_tcp, which needs no entry".to_owned()
                }
                _ => format!("{name:?} is no listener; write tcp, tls, ws or wss before the ="),
            };
            invalid(KEY, reason)
        })?;
        let net = network(KEY, text)?;
        *entry = format!("{listener}={}", format_network(net));
        proxies.by_listener.push((listener, Networks::from_iter([net])));
    }
    proxies.all = all.into_iter().collect();
    Ok(proxies)
}

fn network(key: &'static str, text: &str) -> Result<IpNet, InvalidValue> {
    parse_network(text).ok_or_else(|| {
        invalid(key, format!("{text:?} is no IP address or network; write for example 10.0.0.1 or 10.0.0.0/8"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> Option<Vec<String>> {
        Some(entries.iter().map(|entry| (*entry).to_owned()).collect())
    }

    #[test]
    fn entry_with_a_listener_applies_to_it_only() {
        let mut entries = list(&["10.1.2.3/8", "tls=::ffff:127.0.0.1"]);
        let proxies = resolve_proxies(&mut entries).unwrap();
        assert_eq!(entries, list(&["10.0.0.0/8", "tls=127.0.0.1"]));
        let local = "127.0.0.1".parse().unwrap();
        assert!(proxies.trusts(local, ListenerProtocol::Tls) && !proxies.trusts(local, ListenerProtocol::Tcp));
        assert!(proxies.trusts("10.9.9.9".parse().unwrap(), ListenerProtocol::Ws));
        assert_eq!(resolve_proxies(&mut None).unwrap(), TrustedProxies::default());
    }

    #[test]
    fn invalid_entry_is_named_with_advice() {
        let proxies = |entry| resolve_proxies(&mut list(&[entry])).unwrap_err().to_string();
        assert!(proxies("haproxy.example").contains("\"haproxy.example\" is no IP address"));
        assert!(proxies("tls=").contains("write for example 10.0.0.1"));
        assert!(proxies("http=10.0.0.1").contains("write tcp, tls, ws or wss"));
        assert!(proxies("onion=127.0.0.1").contains("listen.onion_tcp"));
        let exempt = resolve_exempt(&mut list(&["10.0.0.0/8", "10.0.0.0/33"])).unwrap_err().to_string();
        assert!(exempt.starts_with("limits.exempt: \"10.0.0.0/33\""), "{exempt}");
    }
}
