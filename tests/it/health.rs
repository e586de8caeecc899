//! Health checks by HAProxy, and by clients that send no `Host` header.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{self, ChildGuard, Daemon, OFFLINE, TestDir, call, http, wait_until};
use serde_json::{Value, json};

/// Starts an offline daemon with a status page. Returns the addresses of its listener and of the page.
fn start(dir: &TestDir, sections: &str) -> (Daemon, SocketAddr, SocketAddr) {
    let page = support::free_address();
    dir.configure_tcp(&format!("{OFFLINE}[status]\nlisten = \"{page}\"\n{sections}"));
    (dir.start(), dir.address, page)
}

#[test]
fn health_check_without_host_is_answered_but_page_is_not() {
    let dir = TestDir::new();
    let (daemon, _, page) = start(&dir, "");
    assert_eq!(http(page, "GET /healthz HTTP/1.0\r\n\r\n"), (200, "ok\n".to_owned()));
    assert_eq!(http(page, "OPTIONS /healthz HTTP/1.0\r\n\r\n"), (200, "ok\n".to_owned()));
    assert_eq!(http(page, "HEAD /healthz HTTP/1.0\r\n\r\n"), (200, String::new()));
    assert_eq!(http(page, "GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n").0, 200);
    for path in ["/", "/metrics", "/style.css", "/healthz/", "//healthz"] {
        assert_eq!(http(page, &format!("GET {path} HTTP/1.0\r\n\r\n")).0, 421, "{path}");
    }
    // A browser sends the name of the page's host. A foreign name is rejected (DNS rebinding).
    for method in ["GET", "OPTIONS"] {
        let request = format!("{method} /healthz HTTP/1.0\r\nHost: evil.example\r\n\r\n");
        assert_eq!(http(page, &request).0, 421, "{method}");
    }
    assert_eq!(http(page, "OPTIONS / HTTP/1.0\r\n\r\n").0, 405);
    assert_eq!(http(page, "POST /healthz HTTP/1.0\r\n\r\n").0, 405);
    daemon.stop();
}

#[test]
fn haproxy_marks_healthy_node_up_and_node_without_backend_down() {
    let (dir, healthy_dir, broken_dir) = (TestDir::new(), TestDir::new(), TestDir::new());
    let backend = support::free_address();
    let (healthy, listen, page) = start(&healthy_dir, "");
    let (broken, broken_listen, broken_page) =
        start(&broken_dir, &format!("[backend]\nelectrum = \"tcp://{backend}\"\n"));
    let front = support::free_address();
    let servers = format!(
        "  server healthy {listen} check port {} inter 200ms\n  server broken {broken_listen} check port {} inter 200ms\n",
        page.port(),
        broken_page.port()
    );
    let balancer = Haproxy::start(dir.root(), front, &servers);
    for check in ["get", "head", "options", "named"] {
        wait_until(20, "HAProxy has one server up and one down", || {
            let (healthy, broken) = (balancer.check(check, "healthy"), balancer.check(check, "broken"));
            println!("{check}: {healthy:?} {broken:?}");
            healthy == ["UP", "L7OK", "200"] && broken == ["DOWN", "L7STS", "503"]
        });
    }
    assert_eq!(call(&front.to_string(), "server.ping", json!([])), Value::Null, "through HAProxy");
    drop(balancer);
    healthy.stop();
    broken.stop();
}

/// HAProxy with one backend for each form of the check.
struct Haproxy {
    _process: ChildGuard,
    socket: PathBuf,
}

impl Haproxy {
    fn start(dir: &Path, front: SocketAddr, servers: &str) -> Haproxy {
        let (config, socket) = (dir.join("haproxy.cfg"), dir.join("haproxy.sock"));
        let checks = [
            ("get", "option httpchk GET /healthz"),
            ("head", "option httpchk HEAD /healthz"),
            ("options", "option httpchk /healthz"),
            ("named", "option httpchk\n  http-check send meth GET uri /healthz ver HTTP/1.1 hdr Host localhost"),
        ];
        let backends = checks.map(|(name, check)| format!("backend {name}\n  {check}\n{servers}")).concat();
        let text = format!(
            "global\n  stats socket {} mode 600\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  \
             timeout server 1m\nfrontend electrum\n  bind {front}\n  default_backend get\n{backends}",
            socket.display()
        );
        std::fs::write(&config, text).unwrap();
        let process = ChildGuard::spawn(Command::new("haproxy").args(["-q", "-db"]).arg("-f").arg(&config));
        Haproxy { _process: process, socket }
    }

    /// Returns the status of a server in HAProxy, the status of its check, and the check's HTTP code.
    fn check(&self, backend: &str, server: &str) -> [String; 3] {
        let mut text = String::new();
        let result = UnixStream::connect(&self.socket).and_then(|mut stream| {
            stream.write_all(b"show stat\n")?;
            stream.read_to_string(&mut text)
        });
        if result.is_err() {
            return Default::default();
        }
        let rows: Vec<Vec<&str>> =
            text.lines().map(|line| line.trim_start_matches("# ").split(',').collect()).collect();
        let column = |name| rows[0].iter().position(|column| *column == name).unwrap();
        let [status, check, code] = ["status", "check_status", "check_code"].map(column);
        let row = rows.iter().find(|row| row.len() > code && row[0] == backend && row[1] == server);
        row.map(|row| [status, check, code].map(|column| row[column].trim_start_matches("* ").to_owned()))
            .unwrap_or_default()
    }
}

#[test]
fn silent_local_connections_do_not_block_the_health_check() {
    let dir = TestDir::new();
    let (daemon, _, page) = start(&dir, "");
    let silent: Vec<_> = (0..200).map(|_| std::net::TcpStream::connect(page).unwrap()).collect();
    assert_eq!(http(page, "GET /healthz HTTP/1.0\r\n\r\n"), (200, "ok\n".to_owned()));
    drop(silent);
    daemon.stop();
}
