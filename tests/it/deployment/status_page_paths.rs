//! Status page behind web servers, under a name of its own and under a path of a site.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;

use super::{contrib, replaced};
use crate::behind_proxy::start;
use crate::support::{self, ChildGuard, OFFLINE, TestDir, http, repository, wait_until};

/// Name of the page's own site, and of a site that has the page at `PATH`.
const NAMES: [&str; 2] = ["waypost.example.org", "www.example.org"];

const PATH: &str = "/waypost/";

/// Credentials of the configurations: "operator" with the password "example".
const CREDENTIALS: &str = "Authorization: Basic b3BlcmF0b3I6ZXhhbXBsZQ==\r\n";

/// Requests a page of a site. Returns the status code and the body.
fn get(front: SocketAddr, name: &str, path: &str, headers: &str) -> (u16, String) {
    // HTTP/1.0, so that the body has no chunks.
    http(front, &format!("GET {path} HTTP/1.0\r\nHost: {name}\r\n{headers}\r\n"))
}

/// Returns the path to which a link of a page leads, without query and fragment.
fn resolved(page: &str, link: &str) -> String {
    let link = link.split(['?', '#']).next().unwrap();
    let base = if link.starts_with('/') { "/" } else { &page[..=page.rfind('/').unwrap()] };
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    let is_directory = link.is_empty() || link.ends_with('/') || link.ends_with("..");
    for part in link.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    let end = if is_directory && !parts.is_empty() { "/" } else { "" };
    format!("/{}{end}", parts.join("/"))
}

/// Follows all links of the page at `path`. Each must work and stay below `path`. Returns the visited paths.
fn follow_links(front: SocketAddr, name: &str, path: &str) -> BTreeSet<String> {
    let (mut visited, mut waiting) = (BTreeSet::new(), vec![path.to_owned()]);
    while let Some(page) = waiting.pop() {
        if !visited.insert(page.clone()) {
            continue;
        }
        let (code, body) = get(front, name, &page, CREDENTIALS);
        assert_eq!(code, 200, "{name}{page}: {body}");
        if !body.starts_with("<!") {
            continue;
        }
        for link in body.split(" href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            let target =
                if link.is_empty() || link.starts_with(['?', '#']) { page.clone() } else { resolved(&page, link) };
            assert!(target.starts_with(path), "{name}{page}: the link {link:?} leaves {path}");
            waiting.push(target);
        }
    }
    visited
}

/// Checks the page behind a web server which has both sites.
fn check_sites(front: SocketAddr) {
    wait_until(20, "the web server forwards requests", || {
        std::net::TcpStream::connect(front).is_ok() && get(front, NAMES[0], "/", CREDENTIALS).0 == 200
    });
    for (name, path) in [(NAMES[0], "/"), (NAMES[1], PATH)] {
        assert_eq!(get(front, name, path, "").0, 401, "{name}{path} without a password");
        let visited = follow_links(front, name, path);
        for file in ["style.css", "icon.svg", "metrics", "healthz"] {
            assert!(visited.contains(&format!("{path}{file}")), "{name}: {visited:?}");
        }
    }
    assert!([301, 302, 308].contains(&get(front, NAMES[1], "/waypost", "").0), "an address without a slash");
    let (_, other) = get(front, NAMES[1], "/metrics", CREDENTIALS);
    assert!(!other.contains("waypost_uptime_seconds"), "another path of the site leads to the page: {other}");
}

/// Starts a daemon with the page for both names, and checks it behind a web server that `serve` starts.
fn check(serve: impl FnOnce(&TestDir, SocketAddr, SocketAddr) -> ChildGuard) {
    let (dir, page, front) = (TestDir::new(), support::free_address(), support::free_address());
    let names = format!("allowed_hosts = [\"{}\", \"{}\"]", NAMES[0], NAMES[1]);
    dir.configure_tcp(&format!("{OFFLINE}allow_private = true\n[status]\nlisten = \"{page}\"\n{names}\n"));
    let daemon = dir.start();
    daemon.waypost(&["add", "127.0.0.5 t50001"]);
    let server = serve(&dir, front, page);
    check_sites(front);
    drop(server);
    daemon.stop();
}

#[test]
fn links_are_resolved_as_browsers_do() {
    for (page, link, target) in [
        ("/", "style.css", "/style.css"),
        ("/waypost/", "style.css", "/waypost/style.css"),
        ("/waypost/", "/style.css", "/style.css"),
        ("/waypost/peer/a", "../style.css", "/waypost/style.css"),
        ("/waypost/peer/a", "../#peers", "/waypost/"),
        ("/waypost/peer/a", "..", "/waypost/"),
        ("/waypost/", "..", "/"),
    ] {
        assert_eq!(resolved(page, link), target, "{page} {link}");
    }
}

#[test]
fn status_page_works_under_name_and_path_behind_nginx() {
    check(|dir, front, page| {
        let file = |name: &str| dir.path(name).display().to_string();
        std::fs::write(dir.path("htpasswd"), "operator:{PLAIN}example\n").unwrap();
        let site = replaced(
            &contrib("proxies/nginx-status-page.conf"),
            &[
                ("0.0.0.0:443", &front.to_string()),
                ("127.0.0.1:4280", &page.to_string()),
                ("/etc/nginx/waypost.htpasswd", &file("htpasswd")),
            ],
        );
        let write = |text: &str| {
            std::fs::write(dir.path("site.conf"), text).unwrap();
            let include = format!("events {{}}\nhttp {{\n  access_log off;\n  include {};\n}}\n", file("site.conf"));
            std::fs::write(dir.path("nginx.conf"), include).unwrap();
        };
        let globals = format!("daemon off; master_process off; pid {};", file("nginx.pid"));
        let (config, log) = (file("nginx.conf"), file("nginx.log"));
        let args = ["-c", config.as_str(), "-e", log.as_str(), "-g", globals.as_str()];
        // With TLS the file is checked only.
        let data = |name: &str| repository("tests/data").join(name).display().to_string();
        let with_keys = NAMES.iter().fold(site.clone(), |text, name| {
            let live = format!("/etc/letsencrypt/live/{name}");
            let [chain, key] = ["fullchain", "privkey"].map(|file| format!("{live}/{file}.pem"));
            replaced(&text, &[(&chain, &data("v3-ec.pem")), (&key, &data("v3-ec.key"))])
        });
        write(&with_keys);
        support::run(Command::new("nginx").arg("-t").args(args));
        let lines = site.lines().filter(|line| !line.contains("ssl_certificate"));
        write(&lines.map(|line| line.replace(" ssl;", ";") + "\n").collect::<String>());
        start("nginx", &args)
    });
}

#[test]
fn status_page_works_under_name_and_path_behind_caddy() {
    check(|dir, front, page| {
        let caddy = |args: &[&str]| {
            let mut command = Command::new("caddy");
            command.args(args).args(["--adapter", "caddyfile"]);
            command.env("XDG_DATA_HOME", dir.root()).env("XDG_CONFIG_HOME", dir.root()).env("HOME", dir.root());
            command
        };
        let file = repository("contrib/proxies/Caddyfile");
        support::run(&mut caddy(&["validate", "--config", file.to_str().unwrap()]));
        // Without TLS, since no authority is reachable.
        let site = |name: &str| format!("http://{name}:{} {{", front.port());
        let text = replaced(
            &contrib("proxies/Caddyfile"),
            &[
                ("waypost.example.org {", &site(NAMES[0])),
                ("www.example.org {", &site(NAMES[1])),
                ("127.0.0.1:4280", &page.to_string()),
            ],
        );
        let config = dir.path("Caddyfile");
        std::fs::write(&config, format!("{{\n\tadmin off\n\tdefault_bind 127.0.0.1\n}}\n{text}")).unwrap();
        ChildGuard::spawn(&mut caddy(&["run", "--config", config.to_str().unwrap()]))
    });
}
