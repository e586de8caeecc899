//! The status page, its metrics and its word on health, looked at in a real browser and by machines.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{self, Daemon, fetch, fetch_as, lab_script, run, wait_until};
use serde_json::json;

const PAGE: &str = "127.0.0.1:4280";
const LISTEN: &str = "127.0.0.1:50001";
const EX1: &str = "ex1.example.com";
const FIRST: &str = "first.example.com";
const NOBODY: &str = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion";

/// What lies behind everything, light and dark.
const LIGHT: [u8; 3] = [0xf6, 0xf7, 0xf9];
const DARK: [u8; 3] = [0x12, 0x16, 0x1c];

#[test]
fn status_page_renders_empty_filled_and_with_tor_down() {
    if !support::in_namespace(status_page_renders_empty_filled_and_with_tor_down, &[]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let browser = Browser::new(dir.path());
    check_that_policy_violations_are_detected(dir.path(), &browser);
    empty(dir.path(), &browser);

    let lab = dir.path().join("lab");
    run(Command::new(lab_script("up.sh")).arg(&lab));
    let read = |file: &str| std::fs::read_to_string(lab.join(file)).unwrap().trim().to_owned();
    let (onion, own) = (read("tor/onion-1"), read("tor/onion-2"));
    let config = dir.path().join("waypost.toml");
    let text = format!(
        "network = \"regtest\"\ndata_dir = \"{}\"\n[tor]\nmode = \"socks\"\nsocks = \"{}\"\n\
         [listen]\ntcp = [\"{LISTEN}\", \"5.9.0.9:50001\"]\nonion_tcp = [\"127.0.0.1:50011\"]\nonion_port = 50001\n\
         [identity]\nhost = \"wp.example.com\"\ntcp_port = 50001\nonion_host = \"{own}\"\n\
         [discovery]\nseeds = [\"{EX1} t51001\", \"{FIRST} t50001\"]\n\
         [status]\npeer_metrics = true\n",
        dir.path().join("data").display(),
        read("tor/socks"),
    );
    std::fs::write(&config, text).unwrap();
    let daemon = Daemon::start(&config);
    wait_until(120, "all are verified, and our onion name reached", || {
        let status = daemon.status();
        status["peers"]["verified"] == 4 && !status["onion"]["last_reached"].is_null()
    });
    daemon.waypost(&["add", NOBODY, "t50001"]);
    for method in ["server.peers.subscribe", "server.features", "blockchain.headers.subscribe"] {
        let _ = support::try_call(LISTEN, method, json!([]));
    }
    filled(&browser, &onion, &own);
    numbers(&onion);

    run(Command::new(lab_script("tor-network.sh")).arg("client-stop").arg(lab.join("tor")));
    wait_until(90, "Tor is down", || daemon.tor() == "down");
    // What was read is shown for some seconds.
    wait_until(10, "the page says so", || fetch(PAGE, "/").1.contains("Tor is down"));
    browser.look("tor-down", 1280, false);
    let (code, health) = fetch(PAGE, "/healthz");
    assert!(code == 200 && health.contains("Tor is down"), "callers are still answered: {health}");
    daemon.stop();
}

fn empty(dir: &Path, browser: &Browser) {
    let config = dir.join("empty.toml");
    let text = format!(
        "network = \"regtest\"\ndata_dir = \"{}\"\n[tor]\nmode = \"off\"\n[discovery]\nseeds = []\n[status]\n",
        dir.join("empty").display()
    );
    std::fs::write(&config, text).unwrap();
    let daemon = Daemon::start(&config);
    assert_eq!(daemon.status()["page"], format!("http://{PAGE}"));
    assert_eq!(fetch(PAGE, "/healthz"), (200, "ok\n".to_owned()));
    let (code, page) = fetch(PAGE, "/");
    assert!(code == 200 && page.contains("None yet") && page.contains("Nobody has asked"), "{page}");
    browser.look("empty", 1280, false);
    // By a name that is somebody else's, by a method that could change something, and what there isn't.
    assert_eq!(fetch_as(PAGE, "evil.example", "/").0, 421);
    assert_eq!(fetch_as(PAGE, "localhost:4280", "/").0, 200);
    assert_eq!(fetch(PAGE, "/nothing").0, 404);
    daemon.stop();
}

fn filled(browser: &Browser, onion: &str, own: &str) {
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
        let rows = body.split("<th scope=\"row\"><span class=\"name\">").skip(1);
        rows.map(|row| row.split('<').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = hosts("/?sort=host");
    assert!(all.is_sorted() && all.len() == 5, "{all:?}");
    let reversed: Vec<String> = hosts("/?sort=host&order=reversed").into_iter().rev().collect();
    assert_eq!(reversed, all);
    assert_eq!(hosts("/?kind=onion&state=verified"), [onion]);
    browser.look("filled", 1280, false);
    browser.look("filled-dark", 1280, true);
    browser.look("filled-narrow", 500, false);
}

/// What Prometheus would read.
fn numbers(onion: &str) {
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
    for name in drawn_from() {
        let family = ["_total", "_bucket", "_info"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
        // That one is there where there is a backend.
        let there = name == "waypost_backend_up" || text.contains(&format!("# TYPE {family} "));
        assert!(there, "{name} is in contrib, and not in {text}");
    }
    // A family is described once.
    let types: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert_eq!(types.iter().collect::<BTreeSet<_>>().len(), types.len(), "{types:?}");
}

/// The metrics that the dashboard and the alert rules are made of.
fn drawn_from() -> BTreeSet<String> {
    let contrib = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib");
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
    let dir = tempfile::tempdir().unwrap();
    let (page, listen, gone) = (support::free_address(), support::free_address(), support::free_address());
    let config = dir.path().join("waypost.toml");
    let text = format!(
        "network = \"regtest\"\ndata_dir = \"{}\"\n[listen]\ntcp = [\"{listen}\"]\n[tor]\nmode = \"off\"\n\
         [discovery]\nseeds = []\n[backend]\nelectrum = \"tcp://{gone}\"\n[status]\nlisten = \"{page}\"\n",
        dir.path().join("data").display()
    );
    std::fs::write(&config, text).unwrap();
    let daemon = Daemon::start(&config);
    wait_until(20, "the page says why", || {
        let (code, reason) = fetch(&page.to_string(), "/healthz");
        code == 503 && reason.contains("the server behind us")
    });
    assert!(fetch(&page.to_string(), "/metrics").1.contains("waypost_backend_up 0"));
    daemon.stop();
}

/// So that an alert can tell it from a node that has no such service.
#[test]
fn unreached_onion_service_has_timestamp_zero() {
    let dir = tempfile::tempdir().unwrap();
    let (page, onion_tcp, gone) = (support::free_address(), support::free_address(), support::free_address());
    let config = dir.path().join("waypost.toml");
    let text = format!(
        "network = \"regtest\"\ndata_dir = \"{}\"\n[listen]\ntcp = []\nonion_tcp = [\"{onion_tcp}\"]\n\
         [tor]\nmode = \"socks\"\nsocks = \"{gone}\"\n[discovery]\nseeds = []\n[status]\nlisten = \"{page}\"\n\
         [identity]\nonion_host = \"explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion\"\n",
        dir.path().join("data").display()
    );
    std::fs::write(&config, text).unwrap();
    let daemon = Daemon::start(&config);
    let (_, text) = fetch(&page.to_string(), "/metrics");
    assert!(text.lines().any(|line| line == "waypost_onion_reached_timestamp_seconds 0.0"), "{text}");
    daemon.stop();
}

/// A real Chromium without a screen.
struct Browser {
    program: &'static str,
    profile: PathBuf,
    /// Where its pictures go.
    pictures: PathBuf,
}

impl Browser {
    fn new(dir: &Path) -> Browser {
        let found = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|program| {
            let version = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
            version.is_ok_and(|status| status.success())
        });
        let program = found.expect("Chromium is missing: apt-get install chromium");
        let pictures = std::env::var_os("SCREENSHOTS").map_or_else(|| dir.join("pictures"), PathBuf::from);
        std::fs::create_dir_all(&pictures).unwrap();
        Browser { program, profile: dir.join("chromium"), pictures }
    }

    /// Takes a picture of the page, and checks its colours, its width, and that it broke none of its own rules.
    fn look(&self, name: &str, width: u32, dark: bool) {
        let picture = self.pictures.join(format!("{name}.png"));
        let complaints = self.visit(&format!("http://{PAGE}/"), &picture, width, dark);
        assert_eq!(complaints, [""; 0], "{name}");
        let mut reader = png::Decoder::new(BufReader::new(File::open(&picture).unwrap())).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.bit_depth), (width, png::BitDepth::Eight));
        let row = pixels.len() / info.height as usize;
        let bytes = row / width as usize;
        let paper = if dark { DARK } else { LIGHT };
        for line in pixels.chunks(row) {
            assert_eq!(
                (&line[..3], &line[row - bytes..row - bytes + 3]),
                (&paper[..], &paper[..]),
                "{name}: the margins"
            );
        }
        println!("{}", picture.display());
    }

    /// Shows a page and returns the console messages that are about it. Chromium logs messages of its own pages as well.
    fn visit(&self, url: &str, picture: &Path, width: u32, dark: bool) -> Vec<String> {
        let output = Command::new(self.program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--hide-scrollbars", "--enable-logging=stderr"])
            .arg(format!("--blink-settings=preferredColorScheme={}", u8::from(!dark)))
            .arg(format!("--window-size={width},{}", if width < 800 { 2100 } else { 1200 }))
            .arg(format!("--user-data-dir={}", self.profile.display()))
            .arg(format!("--screenshot={}", picture.display()))
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

/// A page that breaks its own policy must be noticed, or the check of Waypost's page could never fail.
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
    let complaints = browser.visit(&url, &dir.join("broken.png"), 800, false);
    assert!(!complaints.is_empty(), "the browser's console is not read");
}
