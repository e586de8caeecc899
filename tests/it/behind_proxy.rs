//! Clients behind HAProxy and nginx, which send PROXY headers, and connections that misuse the header.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{self, ChildGuard, Daemon, TestClient, TestDir, wait_until};
use serde_json::{Value, json};

/// Sections of an offline daemon with few sessions per source, and networks of clients without limits.
pub(crate) const SECTIONS: &str = "[tor]\nmode = \"off\"\n[discovery]\nseeds = []\nallow_private = true\n[limits]\n\
     sessions_per_source = 2\nsource_requests_per_second = 1000\nexempt = [\"127.40.0.0/16\"]\n";

/// Starts a program, which must be installed.
pub(crate) fn start(program: &str, args: &[&str]) -> ChildGuard {
    let installed = Command::new(program).arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(
        installed.is_ok_and(|status| status.success()),
        "{program} is missing: run contrib/test.sh, which installs it"
    );
    ChildGuard::spawn(Command::new(program).args(args))
}

/// Starts HAProxy in front of a server, with further words of its `server` line.
///
/// Health checks send a request and expect a response.
fn haproxy(dir: &Path, front: SocketAddr, server: SocketAddr, options: &str) -> ChildGuard {
    let config = dir.join("haproxy.cfg");
    let text = format!(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\nlisten electrum\n  bind {front}\n  \
         option tcp-check\n  tcp-check send {{\\\"id\\\":1,\\\"method\\\":\\\"server.ping\\\"}}\\n\n  tcp-check expect string result\n  \
         server waypost {server} {options}\n"
    );
    std::fs::write(&config, text).unwrap();
    start("haproxy", &["-q", "-db", "-f", config.to_str().unwrap()])
}

/// Starts nginx in front of a server.
fn nginx(dir: &Path, front: SocketAddr, server: SocketAddr) -> ChildGuard {
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    let load = if Path::new(module).exists() { format!("load_module {module};\n") } else { String::new() };
    let (config, dir) = (dir.join("nginx.conf"), dir.display());
    let text = format!(
        "{load}daemon off;\nmaster_process off;\npid {dir}/nginx.pid;\nerror_log {dir}/nginx.log;\nevents {{}}\nstream {{\n  server {{\n    listen \
         {front};\n    proxy_pass {server};\n    proxy_protocol on;\n  }}\n}}\n"
    );
    std::fs::write(&config, text).unwrap();
    start("nginx", &["-c", config.to_str().unwrap(), "-e", &format!("{dir}/nginx.log")])
}

/// Sends `server.add_peer` for a host from a source address, and returns the result.
fn add_peer(source: &str, server: SocketAddr, host: &str) -> Value {
    let request =
        json!({ "id": 1, "method": "server.add_peer", "params": [{ "hosts": { host: { "tcp_port": 50001 } } }] });
    TestClient::connect_from(source, server).request(&request.to_string())["result"].clone()
}

fn counter(daemon: &Daemon, name: &str) -> u64 {
    daemon.status()["clients"][name].as_u64().unwrap()
}

/// Checks that a daemon tells the clients of its balancer apart by their addresses.
pub(crate) fn check_sources(daemon: &Daemon, front: SocketAddr) {
    wait_until(20, "the balancer forwards connections", || {
        std::net::TcpStream::connect(front).is_ok() && TestClient::connect_from("127.6.0.1", front).is_served()
    });
    let mut held: Vec<TestClient> = (1..3).map(|n| TestClient::connect_from(&format!("127.7.0.{n}"), front)).collect();
    held.iter_mut().for_each(|client| assert!(client.is_served()));
    assert_eq!(TestClient::connect_from("127.7.0.3", front).error_code(), -102, "the third session of a /24");
    assert!(TestClient::connect_from("127.8.0.1", front).is_served());
    let mut exempt: Vec<TestClient> = (0..6).map(|_| TestClient::connect_from("127.40.0.1", front)).collect();
    exempt.iter_mut().for_each(|client| assert!(client.is_served()));

    assert_eq!(add_peer("127.11.0.1", front, "127.12.0.1"), false, "the source is not the announced host");
    assert_eq!(add_peer("127.11.0.1", front, "127.11.0.1"), true);

    daemon.waypost(&["ban", "127.9.0.0/16"]);
    daemon.send_hangup();
    wait_until(10, "the ban applies", || !TestClient::connect_from("127.9.0.1", front).is_served());
    assert_eq!(counter(daemon, "missing_proxy_headers"), 0);
    assert_eq!(counter(daemon, "unexpected_proxy_headers"), 0);
    assert_eq!(counter(daemon, "panicked_sessions"), 0);
}

#[test]
fn clients_behind_haproxy_are_told_apart_by_their_own_addresses() {
    for options in ["send-proxy check inter 500ms", "send-proxy-v2 check inter 500ms"] {
        let dir = TestDir::new();
        dir.configure_tcp(&format!("trusted_proxies = [\"127.0.0.1\"]\n{SECTIONS}"));
        let (daemon, front) = (dir.start(), support::free_address());
        let balancer = haproxy(dir.root(), front, dir.address, options);
        wait_until(20, "health checks are served", || counter(&daemon, "requests") >= 3);
        check_sources(&daemon, front);
        drop(balancer);
        daemon.stop();
    }
}

#[test]
fn clients_behind_nginx_are_told_apart_by_their_own_addresses() {
    let dir = TestDir::new();
    dir.configure_tcp(&format!("trusted_proxies = [\"127.0.0.0/24\"]\n{SECTIONS}"));
    let (daemon, front) = (dir.start(), support::free_address());
    let balancer = nginx(dir.root(), front, dir.address);
    check_sources(&daemon, front);
    drop(balancer);
    daemon.stop();
}

#[test]
fn header_precedes_tls_and_only_on_the_configured_listener() {
    let (dir, tls, front) = (TestDir::new(), support::free_address(), support::free_address());
    dir.configure_tcp(&format!("tls = [\"{tls}\"]\ntrusted_proxies = [\"tls=127.0.0.1\"]\n{SECTIONS}"));
    let daemon = dir.start();
    let _balancer = haproxy(dir.root(), front, tls, "send-proxy-v2");
    let greets = || {
        let args = ["s_client", "-connect", &front.to_string()];
        let output = Command::new("openssl").args(args).stdin(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains("BEGIN CERTIFICATE")
    };
    wait_until(20, "TLS through HAProxy", greets);
    assert!(TestClient::connect(dir.address).is_served(), "the TCP listener expects no header");
    let mut client = TestClient::connect_from("127.5.0.1", tls);
    client.send("PROXY TCP4 127.7.0.1 127.0.0.1 1 2\r\n\r\n");
    assert!(client.is_closed());
    assert_eq!(counter(&daemon, "unexpected_proxy_headers"), 1);
    assert_eq!(counter(&daemon, "missing_proxy_headers"), 0);
    assert!(daemon.log().contains("listen.tls: connection with an unexpected PROXY header"), "{}", daemon.log());
    daemon.stop();
}

#[test]
fn missing_invalid_and_foreign_headers_are_rejected_without_logging_addresses() {
    const REQUEST: &str = "{\"id\":1,\"method\":\"server.ping\"}\n";
    let dir = TestDir::new();
    dir.configure_tcp(SECTIONS);
    let (daemon, server) = (dir.start(), dir.address);
    let sends = |source: &str, header: &str| {
        let mut client = TestClient::connect_from(source, server);
        client.send(&format!("{header}{REQUEST}"));
        client.receive()
    };
    assert!(!sends("127.0.0.1", "").is_null());
    assert!(sends("127.0.0.1", "PROXY TCP4 127.7.0.1 127.0.0.1 1 2\r\n").is_null(), "no proxy is trusted");
    assert_eq!(counter(&daemon, "unexpected_proxy_headers"), 1);

    dir.configure_tcp(&format!("trusted_proxies = [\"127.0.0.1\"]\n{SECTIONS}"));
    daemon.send_hangup();
    wait_until(10, "the proxies are reloaded", || daemon.log().contains("reloaded: listen.trusted_proxies"));
    // A silent connection at the trusted address delays no other one.
    let mut silent = TestClient::connect_from("127.0.0.1", server);
    silent.send("PROXY TCP4 ");
    for header in
        ["PROXY TCP4 127.7.0.1 127.0.0.1 1 2\r\n", "PROXY UNKNOWN\r\n", "PROXY TCP6 ::ffff:127.7.0.1 ::1 1 2\r\n"]
    {
        assert!(!sends("127.0.0.1", header).is_null(), "{header}");
    }
    assert_eq!(counter(&daemon, "missing_proxy_headers"), 0);
    let circuit = "PROXY TCP6 fc00:dead:beef:4dad::7 ::1 65535 1\r\n";
    for header in ["", "PROXY TCP4 0.0.0.0 127.0.0.1 1 2\r\n", "PROXY TCP4 127.7.0.1\r\n", circuit] {
        assert!(sends("127.0.0.1", header).is_null(), "{header}");
    }
    assert_eq!(counter(&daemon, "missing_proxy_headers"), 4);
    let nested = "PROXY TCP4 127.7.0.1 127.0.0.1 1 2\r\nPROXY TCP4 127.8.0.1 127.0.0.1 1 2\r\n";
    assert!(sends("127.0.0.1", nested).is_null(), "a second header");
    assert!(sends("127.5.0.1", "PROXY TCP4 127.8.0.1 127.0.0.1 1 2\r\n").is_null(), "not from a trusted proxy");
    assert!(!sends("127.5.0.1", "").is_null(), "other clients need no header");
    assert_eq!(counter(&daemon, "unexpected_proxy_headers"), 3);
    assert!(silent.is_closed(), "an incomplete header times out");
    assert_eq!(counter(&daemon, "missing_proxy_headers"), 5);
    // A health check that only connects is no error.
    drop(TestClient::connect_from("127.0.0.1", server));
    assert_eq!(counter(&daemon, "missing_proxy_headers"), 5);
    let log = daemon.log();
    assert!(log.contains("add the proxy's address to listen.trusted_proxies"), "{log}");
    assert!(log.contains("without a valid PROXY header closed") && log.contains("listen.onion_tcp"), "{log}");
    for address in ["127.5.0.1", "127.7.0.1", "127.8.0.1", "dead:beef"] {
        assert!(!log.contains(address), "{log}");
    }
    daemon.stop();
}
