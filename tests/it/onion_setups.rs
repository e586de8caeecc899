//! Onion names with TLS, several ports and restricted discovery, reached by clients of C tor.

use crate::support::{self, Daemon, Lab, TestDir, call_onion, call_onion_tls, wait_until};
use serde_json::{Value, json};

const EX1: &str = "ex1.example.com";

/// Waits until `server.features` of the onion name has these ports.
fn wait_for_features(socks: &str, own: &str, port: u16, expected: &Value) {
    wait_until(120, "the onion name is advertised with its ports", || {
        let features = call_onion(socks, &format!("{own}:{port}"), "server.features");
        features.is_some_and(|features| features["hosts"] == json!({ own: expected }))
    });
}

#[test]
fn onion_name_of_external_tor_serves_tls_after_circuit_id() {
    if !support::in_namespace(onion_name_of_external_tor_serves_tls_after_circuit_id, &[]) {
        return;
    }
    let dir = TestDir::new();
    let lab = Lab::start(dir.root());
    let (own, socks) = (lab.read("tor/onion-2"), lab.read("tor/services-socks"));
    // The lines of the second service are the last ones.
    let torrc = lab.path("tor/services/torrc");
    let lines = "HiddenServicePort 50002 127.0.0.1:50012\nHiddenServiceExportCircuitID haproxy\n";
    let text = std::fs::read_to_string(&torrc).unwrap() + lines;
    std::fs::write(&torrc, text).unwrap();
    lab.tor("services-again");
    let config = dir.configure(&format!(
        "{}[listen]\ntcp = []\nonion_tcp = [\"127.0.0.1:50011\"]\nonion_tls = [\"127.0.0.1:50012\"]\n\
         onion_port = 50001\nonion_tls_port = 50002\n[identity]\nonion_host = \"{own}\"\n\
         [discovery]\nseeds = [\"{EX1} t51001\"]\n",
        lab.external_tor(),
    ));
    let daemon = Daemon::start(&config);
    wait_until(120, "the TLS port answers", || {
        call_onion_tls(&socks, &format!("{own}:50002"), "server.ping").is_some()
    });
    wait_for_features(&socks, &own, 50001, &json!({ "tcp_port": 50001, "ssl_port": 50002 }));
    let status = daemon.status();
    assert_eq!((&status["onion"]["tls_port"], &status["onion"]["tls_error"]), (&json!(50002), &Value::Null));
    assert_eq!(status["clients"]["unexpected_proxy_headers"], 0, "the header comes before the handshake");
    assert!(dir.data().join("onion-tls-cert.pem").exists() && !dir.data().join("tls-cert.pem").exists());
    daemon.stop();

    // Without a service at the port, TCP alone is advertised.
    let lines = lines.replace("127.0.0.1:50012", "127.0.0.1:1");
    let text = lab
        .read("tor/services/torrc")
        .replace("HiddenServicePort 50002 127.0.0.1:50012", lines.lines().next().unwrap());
    std::fs::write(&torrc, text + "\n").unwrap();
    lab.tor("services-again");
    let daemon = Daemon::start(&config);
    wait_for_features(&socks, &own, 50001, &json!({ "tcp_port": 50001, "ssl_port": null }));
    assert!(daemon.status()["onion"]["tls_error"].is_string());
    assert!(daemon.waypost(&["status"]).replace('\n', " ").contains("50002"), "{}", daemon.waypost(&["status"]));
    daemon.assert_no_panic();
    daemon.stop();
}

#[cfg(feature = "embedded-tor")]
mod embedded {
    use std::os::unix::fs::DirBuilderExt;
    use std::path::{Path, PathBuf};

    use data_encoding::BASE32_NOPAD;
    use tor_llcrypto::pk::curve25519::{PublicKey, StaticSecret};

    use super::*;
    use crate::support::waypost;
    use crate::tor_ports::lab_client;

    /// Waits for the onion name of a daemon and returns it.
    fn onion_name(daemon: &Daemon) -> String {
        let name = || daemon.status()["onion"]["host"].as_str().map(str::to_owned);
        wait_until(60, "the onion name is known", || name().is_some());
        name().unwrap()
    }

    #[test]
    fn onion_name_of_embedded_tor_serves_tls_and_several_ports() {
        if !support::in_namespace(onion_name_of_embedded_tor_serves_tls_and_several_ports, &[]) {
            return;
        }
        let dir = TestDir::new();
        let lab = Lab::start(dir.root());
        let socks = lab.read("tor/socks");
        let config = dir.configure(&format!(
            "{}[listen]\ntcp = []\nonion_port = [51001, 80]\nonion_tls_port = 51002\nonion_introduction_points = 5\n\
             [discovery]\nseeds = [\"{EX1} t51001\"]\n",
            lab.embedded_tor()
        ));
        let daemon = Daemon::start(&config);
        let own = onion_name(&daemon);
        for port in [51001, 80] {
            wait_until(120, "a TCP port answers", || {
                call_onion(&socks, &format!("{own}:{port}"), "server.ping").is_some()
            });
        }
        wait_until(60, "the TLS port answers", || {
            call_onion_tls(&socks, &format!("{own}:51002"), "server.ping").is_some()
        });
        wait_for_features(&socks, &own, 51001, &json!({ "tcp_port": 51001, "ssl_port": 51002 }));
        assert!(call_onion(&socks, &format!("{own}:81"), "server.ping").is_none(), "another port is closed");
        daemon.assert_no_panic();
        daemon.stop();
    }

    /// Creates a directory for keys, which C tor wants to be private.
    fn private_dir(dir: &TestDir, name: &str) -> PathBuf {
        let path = dir.path(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        path
    }

    fn write_private_key(dir: &Path, own: &str, secret: &StaticSecret) {
        let key = BASE32_NOPAD.encode(&secret.to_bytes());
        let text = format!("{}:descriptor:x25519:{key}\n", own.strip_suffix(".onion").unwrap());
        std::fs::write(dir.join("waypost.auth_private"), text).unwrap();
    }

    #[test]
    fn restricted_onion_service_is_reached_by_its_clients_only() {
        if !support::in_namespace(restricted_onion_service_is_reached_by_its_clients_only, &[]) {
            return;
        }
        let dir = TestDir::new();
        let lab = Lab::start(dir.root());
        let secret = StaticSecret::from([7; 32]);
        let public = BASE32_NOPAD.encode(PublicKey::from(&secret).as_bytes());
        let clients = private_dir(&dir, "clients");
        std::fs::write(clients.join("alice.auth"), format!("descriptor:x25519:{public}\n")).unwrap();
        let config = dir.configure(&format!(
            "{}[listen]\ntcp = [\"127.0.0.1:50021\"]\nonion_clients = {clients:?}\n[discovery]\nseeds = [\"{EX1} t51001\"]\n",
            lab.embedded_tor()
        ));
        let daemon = Daemon::start(&config);
        let own = onion_name(&daemon);
        let address = format!("{own}:51001");

        let keys = private_dir(&dir, "keys");
        write_private_key(&keys, &own, &secret);
        let torrc = format!("SocksPort 127.0.0.1:7301 ExtendedErrors\nClientOnionAuthDir {}", keys.display());
        let _client = lab_client(&lab, &dir.path("client"), 7300, &torrc);
        wait_until(120, "a client with a key reaches the service", || {
            call_onion("127.0.0.1:7301", &address, "server.ping").is_some()
        });
        assert!(call_onion(&lab.read("tor/socks"), &address, "server.ping").is_none(), "a client without a key");
        wait_until(120, "Waypost reaches its own service", || daemon.status()["onion"]["last_reached"].is_u64());
        assert_eq!(daemon.status()["onion"]["restricted"], true);
        let features = call_onion("127.0.0.1:7301", &address, "server.features").unwrap();
        assert_eq!(features["hosts"], json!({}), "the name is not advertised");
        let list = call_onion("127.0.0.1:7301", &address, "server.peers.subscribe").unwrap();
        assert!(!list.to_string().contains(&own), "{list}");

        // Another Waypost as a client, first without the key.
        let configure = |name: &str, keys: &str| {
            let tor = format!("{}{keys}", lab.embedded_tor());
            dir.configure_named(name, &format!("{tor}[discovery]\nseeds = []\n"))
        };
        let (output, ok) = waypost(&configure("without", ""), &["probe", &own, "--tcp", "51001"]);
        assert!(!ok && !output.contains("connected"), "{output}");
        let keys = format!("onion_auth_dir = {keys:?}\n");
        // It is reached, but is no peer, as its features do not name it.
        let (output, _) = waypost(&configure("with", &keys), &["probe", &own, "--tcp", "51001"]);
        assert!(output.contains("server.version answered") && output.contains("without a host name"), "{output}");
        daemon.assert_no_panic();
        daemon.stop();
    }
}
