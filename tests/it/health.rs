//! `/healthz` as load balancers check it: HAProxy itself, and requests without a name.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{self, Daemon, call, wait_until};
use serde_json::{Value, json};

/// A daemon that knows no peers, with its listener and its page.
fn start(dir: &Path, tables: &str) -> (Daemon, SocketAddr, SocketAddr) {
    let (listen, page) = (support::free_address(), support::free_address());
    let config = dir.join("waypost.toml");
    let text = format!(
        "network = \"regtest\"\ndata_dir = \"{}\"\n[listen]\ntcp = [\"{listen}\"]\n[tor]\nmode = \"off\"\n\
         [discovery]\nseeds = []\n[status]\nlisten = \"{page}\"\n{tables}",
        dir.join("data").display()
    );
    std::fs::write(&config, text).unwrap();
    (Daemon::start(&config), listen, page)
}

/// The status code and the body of the answer to a request as it is written here.
fn ask(page: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(page).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn health_check_without_host_is_answered_but_page_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (daemon, _, page) = start(dir.path(), "");
    assert_eq!(ask(page, "GET /healthz HTTP/1.0\r\n\r\n"), (200, "ok\n".to_owned()));
    assert_eq!(ask(page, "OPTIONS /healthz HTTP/1.0\r\n\r\n"), (200, "ok\n".to_owned()));
    assert_eq!(ask(page, "HEAD /healthz HTTP/1.0\r\n\r\n"), (200, String::new()));
    assert_eq!(ask(page, "GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n").0, 200);
    for path in ["/", "/metrics", "/style.css", "/healthz/", "//healthz"] {
        assert_eq!(ask(page, &format!("GET {path} HTTP/1.0\r\n\r\n")).0, 421, "{path}");
    }
    // What a browser sends for a page elsewhere: its name, by which nothing is shown.
    for method in ["GET", "OPTIONS"] {
        let request = format!("{method} /healthz HTTP/1.0\r\nHost: evil.example\r\n\r\n");
        assert_eq!(ask(page, &request).0, 421, "{method}");
    }
    assert_eq!(ask(page, "OPTIONS / HTTP/1.0\r\n\r\n").0, 405);
    assert_eq!(ask(page, "POST /healthz HTTP/1.0\r\n\r\n").0, 405);
    daemon.stop();
}

#[test]
fn haproxy_marks_healthy_node_up_and_node_without_backend_down() {
    let dir = tempfile::tempdir().unwrap();
    let gone = support::free_address();
    let [healthy, broken] = ["healthy", "broken"].map(|name| dir.path().join(name));
    [&healthy, &broken].into_iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
    let (well, listen, page) = start(&healthy, "");
    let (ill, ill_listen, ill_page) = start(&broken, &format!("[backend]\nelectrum = \"tcp://{gone}\"\n"));
    let front = support::free_address();
    let servers = format!(
        "  server healthy {listen} check port {} inter 200ms\n  server broken {ill_listen} check port {} inter 200ms\n",
        page.port(),
        ill_page.port()
    );
    let balancer = Haproxy::start(dir.path(), front, &servers);
    for check in ["get", "head", "options", "named"] {
        wait_until(20, "HAProxy finds one up and the other down", || {
            let (healthy, broken) = (balancer.check(check, "healthy"), balancer.check(check, "broken"));
            println!("{check}: {healthy:?} {broken:?}");
            healthy == ["UP", "L7OK", "200"] && broken == ["DOWN", "L7STS", "503"]
        });
    }
    assert_eq!(call(&front.to_string(), "server.ping", json!([])), Value::Null, "through HAProxy");
    drop(balancer);
    well.stop();
    ill.stop();
}

/// A real HAProxy with one backend for each form of the check, until it is dropped.
struct Haproxy {
    child: Child,
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
        let child = Command::new("haproxy").args(["-q", "-db"]).arg("-f").arg(&config).stdin(Stdio::null()).spawn();
        Haproxy { child: child.expect("haproxy is missing: apt-get install haproxy"), socket }
    }

    /// What HAProxy says of a server: its status, the check's status, and the code of the check's answer.
    fn check(&self, backend: &str, server: &str) -> [String; 3] {
        let mut text = String::new();
        let answer = UnixStream::connect(&self.socket).and_then(|mut stream| {
            stream.write_all(b"show stat\n")?;
            stream.read_to_string(&mut text)
        });
        if answer.is_err() {
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

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
