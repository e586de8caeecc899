//! The status page in a real Chromium, the metrics and the health check. `peer_pages` tests the other pages.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{self, Daemon, Lab, OFFLINE, TestDir, fetch, fetch_as, wait_until};
use serde_json::json;

const PAGE: &str = "127.0.0.1:4280";
const PUBLIC: &str = "127.0.0.1:4281";
const LISTEN: &str = "127.0.0.1:50001";
const EX1: &str = "ex1.example.com";
const FIRST: &str = "first.example.com";
const UNUSED_ONION: &str = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion";

/// Background colours.
const LIGHT: [u8; 3] = [0xf6, 0xf7, 0xf9];
const DARK: [u8; 3] = [0x12, 0x16, 0x1c];

#[test]
fn status_page_renders_empty_filled_and_with_tor_down() {
    if !support::in_namespace(status_page_renders_empty_filled_and_with_tor_down, &[]) {
        return;
    }
    let dir = TestDir::new();
    let browser = Browser::new(dir.root());
    check_that_policy_violations_are_detected(dir.root(), &browser);
    check_empty(&dir, &browser);

    let lab = Lab::start(dir.root());
    let (onion, own) = (lab.read("tor/onion-1"), lab.read("tor/onion-2"));
    dir.configure(&format!(
        "{}[listen]\ntcp = [\"{LISTEN}\", \"5.9.0.9:50001\"]\nonion_tcp = [\"127.0.0.1:50011\"]\nonion_port = 50001\n\
         [identity]\nhost = \"wp.example.com\"\ntcp_port = 50001\nonion_host = \"{own}\"\n\
         [discovery]\nseeds = [\"{EX1} t51001\", \"{FIRST} t50001\"]\n\
         [status]\npeer_metrics = true\npublic = [\"{PUBLIC}\"]\n",
        lab.external_tor(),
    ));
    let daemon = dir.start();
    wait_until(120, "all peers are verified, and the own onion service was reached", || {
        let status = daemon.status();
        status["peers"]["verified"] == 4 && !status["onion"]["last_reached"].is_null()
    });
    daemon.waypost(&["add", UNUSED_ONION, "t50001"]);
    for method in ["server.peers.subscribe", "server.features", "blockchain.headers.subscribe"] {
        let _ = support::try_call(LISTEN, method, json!([]));
    }
    check_filled(&browser, &onion, &own);
    check_metrics(&onion);

    lab.tor("client-stop");
    wait_until(90, "Tor is down", || daemon.tor() == "down");
    // The page caches its values for some seconds.
    wait_until(10, "the page has the state of Tor", || fetch(PAGE, "/").1.contains("Tor is down"));
    browser.check_page("tor-down", 1280, false);
    let (code, health) = fetch(PAGE, "/healthz");
    assert!(code == 200 && health.contains("Tor is down"), "clients are still served: {health}");
    daemon.stop();
}

fn check_empty(dir: &TestDir, browser: &Browser) {
    let daemon = Daemon::start(&dir.configure_named("empty", &format!("{OFFLINE}[status]\n")));
    assert_eq!(daemon.status()["page"], format!("http://{PAGE}"));
    assert_eq!(fetch(PAGE, "/healthz"), (200, "ok\n".to_owned()));
    let (code, page) = fetch(PAGE, "/");
    assert!(code == 200 && page.contains("None yet") && page.contains("No requests yet"), "{page}");
    browser.check_page("empty", 1280, false);
    // A foreign name in the Host header, an allowed name, and an unknown path.
    assert_eq!(fetch_as(PAGE, "evil.example", "/").0, 421);
    assert_eq!(fetch_as(PAGE, "localhost:4280", "/").0, 200);
    assert_eq!(fetch(PAGE, "/nothing").0, 404);
    daemon.stop();
}

fn check_filled(browser: &Browser, onion: &str, own: &str) {
    let (code, page) = fetch(PAGE, "/");
    assert_eq!(code, 200);
    for word in
        [EX1, onion, own, "ElectrumX", "QR code of the onion address", "server.peers.subscribe", "wp.example.com"]
    {
        assert!(page.contains(word), "{word}: {page}");
    }
    let hosts = |path: &str| {
        let (_, page) = fetch(PAGE, path);
        let body = page.split("class=\"peers\"").nth(1).unwrap_or_default().to_owned();
        let rows = body.split("<th scope=\"row\"><a class=\"name\" href=\"peer/").skip(1);
        let mut hosts: Vec<String> = rows.map(|row| row.split('"').next().unwrap().to_owned()).collect();
        // Both sides of the node may know a peer.
        hosts.dedup();
        hosts
    };
    let all = hosts("/?sort=host");
    assert!(all.is_sorted() && all.len() == 5, "{all:?}");
    let reversed: Vec<String> = hosts("/?sort=host&order=reversed").into_iter().rev().collect();
    assert_eq!(reversed, all);
    assert_eq!(hosts("/?kind=onion&state=verified"), [onion]);
    browser.check_page("filled", 1280, false);
    browser.check_page("filled-dark", 1280, true);
    browser.check_page("filled-narrow", 500, false);
    for host in [EX1, onion] {
        let (code, page) = fetch(PAGE, &format!("/peer/{host}"));
        assert!(code == 200 && page.contains("ElectrumX") && page.contains("verified in"), "{page}");
    }
    browser.check_variants(&format!("http://{PAGE}/peer/{EX1}"), "peer");
    // A browser may use any name for the public page.
    let (code, page) = fetch_as(PUBLIC, "servers.example.net", "/");
    assert!(code == 200 && page.contains(EX1) && !page.contains("wp.example.com"), "{page}");
    browser.check_variants(&format!("http://{PUBLIC}/"), "public");
}

fn check_metrics(onion: &str) {
    let (code, text) = fetch(PAGE, "/metrics");
    assert!(code == 200 && text.ends_with("# EOF\n"), "{text}");
    for line in [
        "waypost_peers{state=\"verified\",kind=\"clearnet\"} 3",
        "waypost_peers{state=\"verified\",kind=\"onion\"} 1",
        "waypost_tor_state{state=\"ready\"} 1",
        "waypost_requests_total{ingress=\"clearnet\",method=\"server.peers.subscribe\",result=\"ok\"} ",
        "waypost_requests_total{ingress=\"clearnet\",method=\"other\",result=\"error\"} ",
        "waypost_probes_total{via=\"tor\",outcome=\"verified\"}",
        "waypost_probe_seconds_count{via=\"direct\"}",
        &format!("waypost_peer_uptime_ratio{{host=\"{onion}\",window=\"1w\"}} 1"),
    ] {
        assert!(text.lines().any(|found| found.starts_with(line)), "{line}: {text}");
    }
    for name in used_metrics() {
        let family = ["_total", "_bucket", "_info"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
        // These metrics exist only with a backend.
        let needs_backend = ["waypost_backend_up", "waypost_backend_blocks_behind"].contains(&name.as_str());
        let is_printed = needs_backend || text.contains(&format!("# TYPE {family} "));
        assert!(is_printed, "{name} is used in contrib, but missing in {text}");
    }
    // Each family has one TYPE line.
    let types: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert_eq!(types.iter().collect::<BTreeSet<_>>().len(), types.len(), "{types:?}");
}

/// Returns the metrics in the dashboard and in the alert rules.
fn used_metrics() -> BTreeSet<String> {
    let contrib = support::repository("contrib");
    let read = |file: &str| std::fs::read_to_string(contrib.join(file)).unwrap();
    let text = read("grafana/dashboard.json") + &read("prometheus/alerts.yml");
    let _: serde_json::Value = serde_json::from_str(&read("grafana/dashboard.json")).unwrap();
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let names: BTreeSet<String> = words.filter(|word| word.starts_with("waypost_")).map(str::to_owned).collect();
    assert!(names.len() > 20, "{names:?}");
    names
}

#[test]
fn unreachable_backend_is_reported() {
    let (dir, page, backend) = (TestDir::new(), support::free_address(), support::free_address());
    dir.configure_tcp(&format!("{OFFLINE}[backend]\nelectrum = \"tcp://{backend}\"\n[status]\nlisten = \"{page}\"\n"));
    let daemon = dir.start();
    wait_until(20, "the health check has the reason", || {
        let (code, reason) = fetch(&page.to_string(), "/healthz");
        code == 503 && reason.contains("the backend server")
    });
    assert!(fetch(&page.to_string(), "/metrics").1.contains("waypost_backend_up 0"));
    daemon.stop();
}

/// An alert distinguishes such a service from a node without an onion service.
#[test]
fn unreached_onion_service_has_timestamp_zero() {
    let (dir, page, socks) = (TestDir::new(), support::free_address(), support::free_address());
    dir.configure(&format!(
        "[listen]\ntcp = []\nonion_tcp = [\"{}\"]\n[tor]\nmode = \"socks\"\nsocks = \"{socks}\"\n\
         [discovery]\nseeds = []\n[status]\nlisten = \"{page}\"\n[identity]\nonion_host = \"{UNUSED_ONION}\"\n",
        dir.address
    ));
    let daemon = dir.start();
    let (_, text) = fetch(&page.to_string(), "/metrics");
    assert!(text.lines().any(|line| line == "waypost_onion_reached_timestamp_seconds 0.0"), "{text}");
    daemon.stop();
}

/// Headless Chromium.
pub(crate) struct Browser {
    program: &'static str,
    profile: PathBuf,
    screenshots: PathBuf,
}

impl Browser {
    pub(crate) fn new(dir: &Path) -> Browser {
        let found = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|program| {
            let version = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
            version.is_ok_and(|status| status.success())
        });
        let program = found.expect("Chromium is missing: apt-get install chromium");
        let screenshots = std::env::var_os("SCREENSHOTS").map_or_else(|| dir.join("screenshots"), PathBuf::from);
        std::fs::create_dir_all(&screenshots).unwrap();
        Browser { program, profile: dir.join("chromium"), screenshots }
    }

    /// Checks the background and width of a screenshot, and that the page violates no rule of its policy.
    pub(crate) fn check_page(&self, name: &str, width: u32, dark: bool) {
        self.check_url(&format!("http://{PAGE}/"), name, width, dark);
    }

    /// Checks a page in a wide window, in a wide one with dark colours, and in a narrow one.
    pub(crate) fn check_variants(&self, url: &str, name: &str) {
        self.check_url(url, name, 1280, false);
        self.check_url(url, &format!("{name}-dark"), 1280, true);
        self.check_url(url, &format!("{name}-narrow"), 500, false);
    }

    fn check_url(&self, url: &str, name: &str, width: u32, dark: bool) {
        let screenshot = self.screenshots.join(format!("{name}.png"));
        let messages = self.visit(url, &screenshot, width, dark);
        assert_eq!(messages, [""; 0], "{name}");
        let mut reader = png::Decoder::new(BufReader::new(File::open(&screenshot).unwrap())).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.bit_depth), (width, png::BitDepth::Eight));
        let row = pixels.len() / info.height as usize;
        let bytes = row / width as usize;
        let background = if dark { DARK } else { LIGHT };
        for line in pixels.chunks(row) {
            assert_eq!(
                (&line[..3], &line[row - bytes..row - bytes + 3]),
                (&background[..], &background[..]),
                "{name}: the margins"
            );
        }
        println!("{}", screenshot.display());
    }

    /// Opens a page and returns its console messages, without those of Chromium's internal pages.
    fn visit(&self, url: &str, screenshot: &Path, width: u32, dark: bool) -> Vec<String> {
        let output = Command::new(self.program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--hide-scrollbars", "--enable-logging=stderr"])
            .arg(format!("--blink-settings=preferredColorScheme={}", u8::from(!dark)))
            .arg(format!("--window-size={width},{}", if width < 800 { 2100 } else { 1200 }))
            .arg(format!("--user-data-dir={}", self.profile.display()))
            .arg(format!("--screenshot={}", screenshot.display()))
            .arg(url)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{url}: {output:?}");
        let source = format!("source: {url}");
        let log = String::from_utf8_lossy(&output.stderr);
        log.lines().filter(|line| line.contains(&source)).map(str::to_owned).collect()
    }
}

/// Checks that a page that violates its policy is detected; otherwise the check of Waypost's page could not fail.
fn check_that_policy_violations_are_detected(dir: &Path, browser: &Browser) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().take(20) {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Security-Policy: default-src 'none'";
            let page = "<!DOCTYPE html><style>p { color: red }</style><p>broken";
            let _ = write!(stream, "{head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{page}", page.len());
        }
    });
    let messages = browser.visit(&url, &dir.join("broken.png"), 800, false);
    assert!(!messages.is_empty(), "no console message was read");
}
