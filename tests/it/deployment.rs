//! Files in contrib for deployments, checked and run by the programs that they are for.

mod status_page_paths;
mod units;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::behind_proxy::{SECTIONS, check_sources, start};
use crate::support::{self, ChildGuard, Daemon, TestDir, mode, repository, set_mode, wait_until};

/// Reads a file in contrib.
fn contrib(file: &str) -> String {
    std::fs::read_to_string(repository("contrib").join(file)).unwrap()
}

/// Replaces texts that must occur, such as addresses.
fn replaced(text: &str, replacements: &[(&str, &str)]) -> String {
    replacements.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from:?} is missing: {text}");
        text.replace(from, to)
    })
}

/// A daemon behind a proxy, with the addresses of both.
struct BehindProxy {
    dir: TestDir,
    daemon: Daemon,
    tls: SocketAddr,
    page: SocketAddr,
    fronts: [SocketAddr; 2],
}

impl BehindProxy {
    fn start() -> BehindProxy {
        let [tls, page] = [(); 2].map(|()| support::free_address());
        let dir = TestDir::new();
        let listen = format!("tls = [\"{tls}\"]\ntrusted_proxies = [\"127.0.0.1\"]\n");
        dir.configure_tcp(&format!("{listen}{SECTIONS}[status]\nlisten = \"{page}\"\n"));
        let daemon = dir.start();
        BehindProxy { dir, daemon, tls, page, fronts: [(); 2].map(|()| support::free_address()) }
    }

    /// Writes a configuration of a proxy, with the addresses of this test and without IPv6.
    fn configure(&self, file: &str) -> PathBuf {
        let [front, front_tls] = self.fronts.map(|address| address.to_string());
        let text = replaced(
            &contrib(file),
            &[
                ("0.0.0.0:50001", &front),
                ("0.0.0.0:50002", &front_tls),
                ("127.0.0.1:50101", &self.dir.address.to_string()),
                ("127.0.0.1:50102", &self.tls.to_string()),
            ],
        );
        let ipv4: Vec<&str> = text.lines().filter(|line| !line.contains("[::]")).collect();
        let path = self.dir.path(Path::new(file).file_name().unwrap().to_str().unwrap());
        std::fs::write(&path, ipv4.join("\n").replace("port 4280", &format!("port {}", self.page.port())) + "\n")
            .unwrap();
        path
    }

    /// Checks that both ports of the proxy lead to the daemon with the clients' addresses.
    fn check(self, proxy: ChildGuard) {
        check_sources(&self.daemon, self.fronts[0]);
        wait_until(20, "TLS through the proxy", || certificate(self.fronts[1]).is_some());
        for name in ["missing_proxy_headers", "unexpected_proxy_headers"] {
            assert_eq!(self.daemon.status()["clients"][name], 0, "{name}");
        }
        drop(proxy);
        self.daemon.stop();
    }
}

/// Returns the certificate of a TLS server; `None` if there is no handshake.
fn certificate(address: SocketAddr) -> Option<String> {
    let args = ["s_client", "-connect", &address.to_string()];
    let output = Command::new("openssl").args(args).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, rest) = text.split_once("BEGIN CERTIFICATE")?;
    rest.split("END CERTIFICATE").next().map(str::to_owned)
}

#[test]
fn haproxy_configuration_passes_client_addresses() {
    let node = BehindProxy::start();
    support::run(Command::new("haproxy").args(["-c", "-q", "-f"]).arg(repository("contrib/proxies/haproxy.cfg")));
    let config = node.configure("proxies/haproxy.cfg");
    let proxy = start("haproxy", &["-q", "-db", "-f", config.to_str().unwrap()]);
    node.check(proxy);
}

#[test]
fn nginx_configuration_passes_client_addresses() {
    let node = BehindProxy::start();
    let config = node.configure("proxies/nginx.conf");
    let log = node.dir.path("nginx.log");
    let globals = format!("daemon off; master_process off; pid {};", node.dir.path("nginx.pid").display());
    let args = ["-c", config.to_str().unwrap(), "-e", log.to_str().unwrap(), "-g", globals.as_str()];
    support::run(Command::new("nginx").arg("-t").args(args));
    let proxy = start("nginx", &args);
    node.check(proxy);
}

/// Variables for Waypost in a compose file or a TypeScript file, with values for the other variables in them.
#[cfg(feature = "embedded-tor")]
fn variables(file: &str, values: &[(&str, &str)]) -> Vec<(String, String)> {
    let text = contrib(file);
    let settings = text.lines().filter_map(|line| line[line.find("WAYPOST_")?..].split_once(": "));
    let read = |(name, rest): (&str, &str)| {
        let quote = rest.chars().next().filter(|c| "'\"`".contains(*c));
        let value = match quote {
            Some(quote) => rest[1..].split(quote).next(),
            None => rest.split(',').next(),
        };
        let value = values.iter().fold(value.unwrap().to_owned(), |value, (from, to)| value.replace(from, to));
        (name.to_owned(), value)
    };
    settings.filter(|(name, _)| !name.contains(' ')).map(read).collect()
}

/// Checks that variables are a valid configuration, and returns its effective values.
#[cfg(feature = "embedded-tor")]
fn check_variables(variables: Vec<(String, String)>) -> String {
    assert!(variables.len() > 5, "{variables:?}");
    let output = support::binary(&["check-config", "--skip-files", "--config", "/dev/null"])
        .envs(variables.clone())
        .output()
        .unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{variables:?}: {text}");
    text
}

#[test]
#[cfg(feature = "embedded-tor")]
fn variables_for_umbrel_and_startos_are_valid() {
    let umbrel = variables(
        "umbrel/docker-compose.yml",
        &[
            ("${APP_WAYPOST_PORT}", "50021"),
            ("${DEVICE_DOMAIN_NAME}", "umbrel.local"),
            ("${APP_ELECTRS_NODE_IP}", "10.21.21.10"),
            ("${APP_ELECTRS_NODE_PORT}", "50001"),
        ],
    );
    let startos = variables(
        "startos/startos/main.ts",
        &[
            ("${electrumPort}", "50001"),
            ("${pagePort}", "4280"),
            ("JSON.stringify(names)", "[\"server.local\"]"),
            ("${electrs}", "10.0.3.1:50001"),
        ],
    );
    for (variables, backend) in [(umbrel, "tcp://10.21.21.10:50001"), (startos, "tcp://10.0.3.1:50001")] {
        let text = check_variables(variables);
        for setting in [backend, "announce = false", "mode = \"embedded\"", "data_dir = \"/data/waypost\""] {
            assert!(text.contains(setting), "{setting}: {text}");
        }
        assert!(!text.contains("${"), "{text}");
    }
}

#[test]
fn kubernetes_manifest_agrees_with_image_and_has_valid_configuration() {
    let (manifest, image) = (contrib("kubernetes/waypost.yaml"), contrib("container/Containerfile"));
    let block = manifest.split("  waypost.toml: |\n").nth(1).unwrap().split("\n---").next().unwrap();
    let dir = TestDir::new();
    std::fs::write(dir.config(), block.lines().map(|line| format!("{}\n", line.trim())).collect::<String>()).unwrap();
    let (text, ok) = support::waypost(&dir.config(), &["check-config", "--skip-files"]);
    assert!(ok && text.contains("0.0.0.0:50002"), "{text}");
    assert!(image.contains("USER 999:999") && manifest.contains("runAsUser: 999"), "the user of the image");
    assert!(manifest.contains("-o, \"999\", -g, \"999\""), "the owner of the data directory");
    for port in ["50001", "50002"] {
        assert!(image.contains(port) && manifest.contains(&format!("containerPort: {port}")), "{port}");
        assert!(contrib("container/waypost.container").contains(&format!("PublishPort={port}:{port}")), "{port}");
    }
    for setting in ["externalTrafficPolicy: Local", "enableServiceLinks: false", "readOnlyRootFilesystem: true"] {
        assert!(manifest.contains(setting), "{setting}");
    }
    // Indentation is by spaces, and each document has a kind.
    assert!(!manifest.contains('\t'));
    assert!(manifest.split("\n---\n").all(|document| document.contains("\nkind: ")));
}

/// Runs the deploy hook with variables of certbot or lego. Returns the calls of `systemctl`.
fn deploy(dir: &TestDir, variables: &[(&str, &str)]) -> String {
    let group = Command::new("id").arg("-gn").output().unwrap();
    let group = String::from_utf8(group.stdout).unwrap();
    let hook = dir.path("hook");
    let target = dir.path("tls");
    let replacements =
        [("=/etc/waypost/tls", format!("={}", target.display())), ("group=waypost-tls", format!("group={group}"))];
    let replacements = replacements.each_ref().map(|(from, to)| (*from, to.trim()));
    std::fs::write(&hook, replaced(&contrib("certificates/deploy-hook.sh"), &replacements)).unwrap();
    std::fs::create_dir_all(dir.path("bin")).unwrap();
    let calls = dir.path("calls");
    std::fs::write(dir.path("bin/systemctl"), format!("#!/bin/sh\necho \"$@\" >>{}\n", calls.display())).unwrap();
    set_mode(&dir.path("bin/systemctl"), 0o755);
    let path = format!("{}:{}", dir.path("bin").display(), std::env::var("PATH").unwrap());
    support::run(Command::new("sh").arg(&hook).env("PATH", path).envs(variables.iter().copied()));
    let text = std::fs::read_to_string(&calls).unwrap_or_default();
    let _ = std::fs::remove_file(&calls);
    text
}

#[test]
fn deploy_hook_restarts_service_or_copies_certificate() {
    let dir = TestDir::new();
    let lineage = dir.path("lineage");
    std::fs::create_dir(&lineage).unwrap();
    std::fs::copy(repository("tests/data/v3-ec.pem"), lineage.join("fullchain.pem")).unwrap();
    std::fs::copy(repository("tests/data/v3-ec.key"), lineage.join("privkey.pem")).unwrap();
    let certbot =
        [("RENEWED_LINEAGE", lineage.to_str().unwrap()), ("RENEWED_DOMAINS", "www.example.org electrum.example.org")];
    let other = [certbot[0], ("RENEWED_DOMAINS", "electrum.example.org.example.net")];
    assert_eq!(deploy(&dir, &certbot), "try-restart waypost.service\n");
    assert_eq!(deploy(&dir, &other), "", "another certificate");

    let (tls, copies) = (support::free_address(), dir.path("tls"));
    std::fs::create_dir(&copies).unwrap();
    assert_eq!(deploy(&dir, &certbot), "");
    let (copy, key) = (copies.join("fullchain.pem"), copies.join("privkey.pem"));
    assert_eq!((mode(&copy), mode(&key)), (0o640, 0o640));
    let files = format!("cert = {copy:?}\nkey = {key:?}\ntls = [\"{tls}\"]\n");
    dir.configure_tcp(&format!("{files}{}", support::OFFLINE));
    let daemon = dir.start();
    let first = certificate(tls);
    assert!(first.is_some());

    // lego passes two paths. The daemon reads the copies again.
    let (new_certificate, new_key) = (repository("tests/data/v1-rsa.pem"), repository("tests/data/v1-rsa.key"));
    for prefix in ["LEGO_HOOK_CERT", "LEGO_CERT"] {
        let [path, key_path] = [format!("{prefix}_PATH"), format!("{prefix}_KEY_PATH")];
        let paths =
            [(path.as_str(), new_certificate.to_str().unwrap()), (key_path.as_str(), new_key.to_str().unwrap())];
        assert_eq!(deploy(&dir, &paths), "");
        assert_eq!(std::fs::read(&copy).unwrap(), std::fs::read(&new_certificate).unwrap(), "{prefix}");
        assert_eq!(std::fs::read(&key).unwrap(), std::fs::read(&new_key).unwrap(), "{prefix}");
    }
    wait_until(20, "the daemon reads the copies", || certificate(tls).is_some_and(|now| first.as_ref() != Some(&now)));
    let left: Vec<_> = std::fs::read_dir(&copies).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    daemon.stop();
}

/// Commands without arguments that they need print their use, and do not start a build.
#[test]
fn static_build_without_target_prints_usage() {
    let output = Command::new(repository("contrib/static.sh")).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("contrib/static.sh TARGET") && text.contains("aarch64-unknown-linux-musl"), "{text}");
}
